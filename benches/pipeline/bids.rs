//! The events: bids as in Nexmark, of about 250 bytes, half of them on a few hot auctions, the rest spread, about
//! one auction in fifteen bids.

use heliostat::internals::model::NewEvent;

use super::common::rng::Rng;

/// The table and the view of most sections.
pub const QUERIES: &str = "
CREATE TABLE bids (auction BIGINT NOT NULL, bidder BIGINT NOT NULL, price BIGINT NOT NULL, channel TEXT, url TEXT,
  date_time TIMESTAMP(3), extra TEXT) WITH (event_type = 'Bid', fields = 'camelCase');
CREATE MATERIALIZED VIEW by_auction AS
  SELECT auction, count(*) AS bids, sum(price) AS total, max(price) AS top, avg(price) AS mean FROM bids GROUP BY auction;
";

/// Events in a request.
pub const BATCH: usize = 500;

/// The payload of bid number `n`.
pub fn bid(n: u64, rng: &mut Rng) -> String {
    let newest = n / 15 + 1;
    let auction = match rng.below(2) {
        0 => newest / 100 * 100,
        _ => newest.saturating_sub(rng.below(100)),
    };
    let (bidder, price) = (rng.below(100_000), 100 + rng.below(1_000_000));
    let channel = ["Google", "Facebook", "Baidu", "Apple"][rng.below(4) as usize];
    let at = 1_700_000_000_000 + n;
    let (seconds, millis) = (at / 1000 % 86_400, at % 1000);
    let (h, m, s) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    format!(
        r#"{{"auction":{auction},"bidder":{bidder},"price":{price},"channel":"{channel}","url":"https://www.nexmark.com/{:x}/item.htm?query=1&channel_id={:x}","dateTime":"2023-11-14T{h:02}:{m:02}:{s:02}.{millis:03}Z","extra":"{:016x}{:016x}{:08x}"}}"#,
        rng.below(u64::MAX),
        rng.below(1 << 32),
        rng.below(u64::MAX),
        rng.below(u64::MAX),
        rng.below(1 << 32),
    )
}

/// The same as an event.
pub fn event(n: u64, rng: &mut Rng) -> NewEvent {
    NewEvent {
        id: format!("{n:016x}"),
        source: String::new(),
        event_type: "Bid".to_string(),
        version: 1,
        stream: None,
        time_us: 1_700_000_000_000_000 + n as i64,
        data: bid(n, rng).into_bytes(),
        metadata: Vec::new(),
    }
}

/// The body of a request.
pub fn body(first: u64, rng: &mut Rng, count: usize) -> Vec<u8> {
    let mut body = Vec::with_capacity(count * 320);
    for n in 0..count as u64 {
        body.extend_from_slice(br#"{"type":"Bid","data":"#);
        body.extend_from_slice(bid(first + n, rng).as_bytes());
        body.extend_from_slice(b"}\n");
    }
    body
}

/// A body whose events have ids and streams of their own. Ids must not repeat, so they are written
/// when it is sent.
pub struct NamedBody {
    pub text: Vec<u8>,
    /// Where the ids stand, which are 16 digits each.
    pub ids: Vec<usize>,
}

impl NamedBody {
    pub fn new(first: u64, rng: &mut Rng, count: usize) -> Self {
        let mut named = NamedBody { text: Vec::with_capacity(count * 380), ids: Vec::new() };
        for n in 0..count as u64 {
            let head = format!(
                r#"{{"type":"Bid","source":"bench","stream":"auction-{}","id":""#,
                (first + n) / 15 + rng.below(100)
            );
            named.text.extend_from_slice(head.as_bytes());
            named.ids.push(named.text.len());
            let rest = format!("0000000000000000\",\"data\":{}}}\n", bid(first + n, rng));
            named.text.extend_from_slice(rest.as_bytes());
        }
        named
    }

    pub fn with_ids_from(&self, first: u64) -> bytes::Bytes {
        let mut text = self.text.clone();
        for (n, at) in self.ids.iter().enumerate() {
            let id = format!("{:016x}", first + n as u64);
            text[*at..at + 16].copy_from_slice(id.as_bytes());
        }
        text.into()
    }
}
