//! Nexmark's people, auctions and bids as events.

use heliostat::internals::model::NewEvent;
use nexmark::EventGenerator;
use nexmark::config::NexmarkConfig;
use nexmark::event::Event;
use serde_json::json;

/// The first `count` events.
pub fn generate(count: usize) -> Vec<NewEvent> {
    let generator = EventGenerator::new(NexmarkConfig::default());
    generator.take(count).enumerate().map(|(index, event)| to_event(index, event)).collect()
}

fn to_event(index: usize, event: Event) -> NewEvent {
    let time = |ms: u64| {
        let time = chrono::DateTime::from_timestamp_millis(ms as i64).unwrap();
        time.to_rfc3339_opts(chrono::SecondsFormat::Millis, true)
    };
    let (event_type, data) = match event {
        Event::Person(p) => (
            "person",
            json!({"id": p.id, "name": p.name, "email_address": p.email_address, "credit_card": p.credit_card,
                "city": p.city, "state": p.state, "date_time": time(p.date_time), "extra": p.extra}),
        ),
        Event::Auction(a) => (
            "auction",
            json!({"id": a.id, "item_name": a.item_name, "description": a.description,
                "initial_bid": a.initial_bid, "reserve": a.reserve, "date_time": time(a.date_time),
                "expires": time(a.expires), "seller": a.seller, "category": a.category, "extra": a.extra}),
        ),
        Event::Bid(b) => (
            "bid",
            json!({"auction": b.auction, "bidder": b.bidder, "price": b.price, "channel": b.channel,
                "url": b.url, "date_time": time(b.date_time), "extra": b.extra}),
        ),
    };
    NewEvent {
        id: format!("{index}"),
        source: String::new(),
        event_type: event_type.to_string(),
        version: 1,
        stream: None,
        time_us: 0,
        data: data.to_string().into_bytes(),
        metadata: Vec::new(),
    }
}
