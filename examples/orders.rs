//! The command side of a shop, with Heliostat as its only store: orders are placed, paid in one or
//! more parts, and shipped.
//!
//! A command loads the order from its stream, decides, and appends with the version that it has
//! decided on. If another command was faster the answer is 409, and the command decides again on
//! what is true now. Nothing here locks, and nothing is kept between two commands.
//!
//! ```sh
//! cargo run --release --example orders -- place o-1 c-1 4000
//! cargo run --release --example orders -- pay o-1 4000
//! cargo run --release --example orders -- ship o-1 DHL
//! cargo run --release --example orders -- show o-1
//! ```

use std::time::Duration;

use anyhow::{Context, bail};
use chrono::{SecondsFormat, Utc};
use clap::{Parser, Subcommand};
use reqwest::{Client, StatusCode, Url};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use uuid::Uuid;

/// A snapshot is stored when so many events lie behind the last one.
const SNAPSHOT_EVENTS: u64 = 100;
/// How many events are loaded at a time.
const PAGE_EVENTS: u64 = 500;
/// How often a command decides anew before it gives up.
const DECISIONS_MAX: usize = 50;
/// How often a request is sent again that got no answer.
const SENDS_MAX: u32 = 8;

#[derive(Parser)]
#[command(about = "The command side of a shop")]
struct Args {
    /// The address of Heliostat.
    #[arg(long, env = "HELIOSTAT_URL", default_value = "http://127.0.0.1:8080")]
    url: Url,
    #[command(subcommand)]
    command: Command,
}

#[derive(Clone, Subcommand)]
enum Command {
    /// Place an order of one item.
    Place { order: String, customer: String, price_cents: i64 },
    /// Pay for it, or for a part of it.
    Pay { order: String, cents: i64 },
    /// Send it, once it is paid.
    Ship { order: String, carrier: String },
    /// What the order is, from its events.
    Show { order: String },
}

// The domain: no HTTP, no store, no clock but the one that is handed in.

/// An order, as far as decisions depend on it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Order {
    placed: bool,
    total_cents: i64,
    paid_cents: i64,
    shipped: bool,
}

impl Order {
    /// Takes in what has happened. Types that this service does not know change nothing.
    fn apply(&mut self, event_type: &str, data: &Value) {
        match event_type {
            "OrderPlaced" => {
                let items = data["items"].as_array().map(Vec::as_slice).unwrap_or_default();
                let price = |item: &Value| {
                    cents(&item["price"]) * item["quantity"].as_i64().unwrap_or_default()
                };
                self.placed = true;
                self.total_cents = items.iter().map(price).sum();
            }
            "OrderPaid" => self.paid_cents += cents(&data["amount"]),
            "OrderShipped" => self.shipped = true,
            _ => {}
        }
    }

    /// What happens when a command is carried out; the error says which rule forbids it.
    fn decide(&self, command: &Command, now: &str) -> Result<(&'static str, Value), String> {
        let open_cents = self.total_cents - self.paid_cents;
        match command {
            Command::Place { .. } if self.placed => Err("the order is placed already".to_string()),
            Command::Place { price_cents, .. } if *price_cents <= 0 => {
                Err(format!("a price is more than 0, got {price_cents} cents"))
            }
            Command::Place { order, customer, price_cents } => {
                let item = json!({"productId": "p-1", "name": "Espresso beans 1 kg", "quantity": 1,
                    "price": decimal(*price_cents)});
                Ok((
                    "OrderPlaced",
                    json!({"orderId": order, "customerId": customer, "currency": "EUR",
                    "items": [item], "placedAt": now}),
                ))
            }
            _ if !self.placed => Err("there is no such order".to_string()),
            Command::Pay { .. } if open_cents == 0 => Err("the order is paid already".to_string()),
            Command::Pay { cents, .. } if !(1..=open_cents).contains(cents) => {
                Err(format!("{open_cents} cents are open, got {cents}"))
            }
            Command::Pay { order, cents } => Ok((
                "OrderPaid",
                json!({"orderId": order,
                "paymentMethod": "card", "amount": decimal(*cents), "paidAt": now}),
            )),
            Command::Ship { .. } if self.shipped => Err("the order is shipped already".to_string()),
            Command::Ship { .. } if open_cents > 0 => {
                Err(format!("the order is not paid: {open_cents} cents are open"))
            }
            Command::Ship { order, carrier } => Ok((
                "OrderShipped",
                json!({"orderId": order,
                "carrier": carrier, "shippedAt": now}),
            )),
            Command::Show { .. } => Err("showing an order changes nothing".to_string()),
        }
    }
}

fn decimal(cents: i64) -> String {
    format!("{}.{:02}", cents / 100, cents % 100)
}

fn cents(amount: &Value) -> i64 {
    let text = amount.as_str().map_or_else(|| amount.to_string(), str::to_string);
    let (whole, fraction) = text.split_once('.').unwrap_or((&text, ""));
    format!("{whole}{fraction:0<2.2}").parse().unwrap_or_default()
}

// The store: Heliostat over HTTP.

struct Store {
    client: Client,
    url: Url,
}

/// An aggregate and the version of its stream that it was loaded from.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Loaded {
    order: Order,
    version: u64,
}

/// What becomes of an append.
enum Appended {
    /// With the position of the event.
    Stored(u64),
    /// The stream has another version by now.
    Conflict,
}

impl Store {
    fn stream_url(&self, stream: &str) -> anyhow::Result<Url> {
        let mut url = self.url.join("v1/streams/")?;
        // Pushed as one segment, the name is percent-encoded.
        url.path_segments_mut().ok().context("the address has no path")?.pop().push(stream);
        Ok(url)
    }

    /// A page of a stream; `None` where there is no such stream.
    async fn page(&self, stream: &str, from: u64, limit: u64) -> anyhow::Result<Option<Value>> {
        let mut url = self.stream_url(stream)?;
        let (from, limit) = (from.to_string(), limit.to_string());
        url.query_pairs_mut().append_pair("from_version", &from).append_pair("limit", &limit);
        let answer = self.send(|| self.client.get(url.clone())).await?;
        match answer.status() {
            StatusCode::OK => Ok(Some(answer.json().await?)),
            StatusCode::NOT_FOUND => Ok(None),
            status => bail!("{status}: {}", answer.text().await?),
        }
    }

    /// The order as of its last event: from the last snapshot, if there is one, and the events
    /// behind it.
    async fn load(&self, order: &str) -> anyhow::Result<Loaded> {
        let mut loaded = self.snapshot(order).await?.unwrap_or_default();
        let start = loaded.version;
        while let Some(page) = self.page(&stream(order), loaded.version + 1, PAGE_EVENTS).await? {
            let events = page["events"].as_array().context("a page has events")?;
            for event in events {
                loaded.order.apply(event["type"].as_str().unwrap_or_default(), &event["data"]);
                loaded.version = event["stream_version"].as_u64().context("a version")?;
            }
            if page["stream_version"].as_u64().is_none_or(|end| loaded.version >= end) {
                break;
            }
        }
        if loaded.version >= start + SNAPSHOT_EVENTS {
            self.store_snapshot(order, &loaded).await?;
        }
        Ok(loaded)
    }

    /// Snapshots are events of a stream beside the order's. Nothing depends on them but speed: they
    /// may be missing or old, and one is written where loading has turned out to be long.
    async fn snapshot(&self, order: &str) -> anyhow::Result<Option<Loaded>> {
        let stream = snapshot_stream(order);
        let Some(first) = self.page(&stream, 1, 1).await? else { return Ok(None) };
        let version = first["stream_version"].as_u64().unwrap_or(1);
        let last = self.page(&stream, version, 1).await?.unwrap_or(first);
        Ok(serde_json::from_value(last["events"][0]["data"].clone()).ok())
    }

    async fn store_snapshot(&self, order: &str, loaded: &Loaded) -> anyhow::Result<()> {
        // Of two who store the same snapshot the second one changes nothing: the id is the same.
        let event = json!({"id": format!("{order}@{}", loaded.version), "source": "orders/snapshots",
            "type": "OrderSnapshot", "stream": snapshot_stream(order), "data": loaded});
        self.append(&event).await?;
        Ok(())
    }

    async fn append(&self, event: &Value) -> anyhow::Result<Appended> {
        // Answered once the views show it, so that whoever reads them next finds what was done.
        let mut url = self.url.join("v1/events")?;
        url.query_pairs_mut().append_pair("wait", "views").append_pair("timeout", "2s");
        let answer = self.send(|| self.client.post(url.clone()).json(event)).await?;
        match answer.status() {
            // 202: it is stored, and a view is late.
            StatusCode::OK | StatusCode::ACCEPTED => {
                let body: Value = answer.json().await?;
                Ok(Appended::Stored(body["last_position"].as_u64().context("a position")?))
            }
            StatusCode::CONFLICT => Ok(Appended::Conflict),
            status => bail!("{status}: {}", answer.text().await?),
        }
    }

    /// Sends a request until there is an answer. An append may be sent again because its event has
    /// an id: it is stored once.
    async fn send(
        &self,
        request: impl Fn() -> reqwest::RequestBuilder,
    ) -> anyhow::Result<reqwest::Response> {
        let mut pause = Duration::from_millis(50);
        for _ in 1..SENDS_MAX {
            match request().send().await {
                Ok(answer) if !matches!(answer.status().as_u16(), 429 | 503) => return Ok(answer),
                Ok(_) | Err(_) => tokio::time::sleep(pause).await,
            }
            pause *= 2;
        }
        Ok(request().send().await?)
    }
}

fn stream(order: &str) -> String {
    format!("order-{order}")
}

fn snapshot_stream(order: &str) -> String {
    format!("order-snapshot-{order}")
}

// The application service: load, decide, append; and again if someone else was faster.

async fn handle(store: &Store, command: &Command) -> anyhow::Result<()> {
    let order = match command {
        Command::Place { order, .. }
        | Command::Pay { order, .. }
        | Command::Ship { order, .. }
        | Command::Show { order } => order,
    };
    if let Command::Show { .. } = command {
        println!("{}", serde_json::to_string(&store.load(order).await?)?);
        return Ok(());
    }
    let id = Uuid::now_v7();
    for _ in 0..DECISIONS_MAX {
        let loaded = store.load(order).await?;
        let now = Utc::now().to_rfc3339_opts(SecondsFormat::Millis, true);
        let (event_type, data) = match loaded.order.decide(command, &now) {
            Ok(event) => event,
            Err(rule) => bail!(rule),
        };
        let event = json!({"id": id, "source": "orders", "type": event_type, "stream": stream(order),
            "expected_version": loaded.version, "data": data});
        if let Appended::Stored(position) = store.append(&event).await? {
            println!("{event_type} at position {position}");
            return Ok(());
        }
    }
    bail!("other commands were faster {DECISIONS_MAX} times")
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    // Who encrypts, where the server speaks HTTPS.
    let _ = tokio_rustls::rustls::crypto::ring::default_provider().install_default();
    let Args { url, command } = Args::parse();
    handle(&Store { client: Client::new(), url }, &command).await
}
