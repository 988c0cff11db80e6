//! A shop that nobody shops at: customers who register, order, pay and wait for the parcel.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use chrono::{DateTime, SecondsFormat};
use serde::ser::Error;
use serde::{Serialize, Serializer};
use serde_json::value::RawValue;

/// When more steps than this are pending, the next one is done before it is due, so that memory
/// stays bounded at any rate.
const PENDING_MAX: usize = 100_000;

/// Customers who still order; those who registered before them have gone elsewhere.
const CUSTOMERS_MAX: usize = 10_000;

const FIRST_NAMES: [&str; 16] = [
    "Ada", "Björn", "Chloé", "Dmitri", "Elif", "Farid", "Grace", "Hanna", "Ines", "Jonas", "Keiko",
    "Luca", "Mara", "Noor", "Olga", "Pedro",
];
const LAST_NAMES: [&str; 16] = [
    "Almeida",
    "Berg",
    "Costa",
    "Dubois",
    "Eriksen",
    "Fischer",
    "García",
    "Hughes",
    "Ivanova",
    "Jansen",
    "Kowalski",
    "Lindqvist",
    "Moreau",
    "Novák",
    "O'Brien",
    "Rossi",
];
/// Countries and what is paid with there.
const COUNTRIES: [(&str, &str); 8] = [
    ("DE", "EUR"),
    ("FR", "EUR"),
    ("ES", "EUR"),
    ("NL", "EUR"),
    ("GB", "GBP"),
    ("SE", "SEK"),
    ("CH", "CHF"),
    ("US", "USD"),
];
/// Products and their prices in cents.
const PRODUCTS: [(&str, u64); 20] = [
    ("Espresso beans 1 kg", 1890),
    ("Pour-over kettle", 6490),
    ("Paper filters (100)", 595),
    ("Hand grinder", 8900),
    ("Ceramic cup", 1450),
    ("Milk jug 350 ml", 2275),
    ("Tamper 58 mm", 3499),
    ("Kitchen scale", 4990),
    ("French press", 3995),
    ("Cold brew bottle", 2650),
    ("Descaler", 899),
    ("Travel mug", 2999),
    ("Moka pot", 3250),
    ("Decaf beans 500 g", 1190),
    ("Knock box", 2790),
    ("Cleaning brush", 749),
    ("Vacuum canister", 3299),
    ("Tasting set", 2450),
    ("Barista towel", 995),
    ("Espresso machine", 64900),
];
const PAYMENT_METHODS: [&str; 4] = ["card", "paypal", "invoice", "apple_pay"];
const CARRIERS: [&str; 4] = ["DHL", "UPS", "DPD", "PostNord"];

/// An event as `POST /v1/events` takes it.
#[derive(Debug, Serialize)]
pub struct SampleEvent {
    pub id: String,
    source: &'static str,
    r#type: &'static str,
    pub stream: String,
    time: String,
    pub data: SampleData,
}

/// The payloads, as a web service would write them.
#[derive(Debug, Serialize)]
#[serde(untagged, rename_all_fields = "camelCase")]
pub enum SampleData {
    CustomerRegistered {
        customer_id: String,
        name: String,
        email: String,
        country: &'static str,
    },
    OrderPlaced {
        order_id: String,
        customer_id: String,
        currency: &'static str,
        items: Vec<Item>,
        placed_at: String,
    },
    OrderPaid {
        order_id: String,
        payment_method: &'static str,
        amount: Cents,
        paid_at: String,
    },
    OrderShipped {
        order_id: String,
        carrier: &'static str,
        tracking_number: String,
        shipped_at: String,
    },
}

impl SampleData {
    fn event_type(&self) -> &'static str {
        match self {
            SampleData::CustomerRegistered { .. } => "CustomerRegistered",
            SampleData::OrderPlaced { .. } => "OrderPlaced",
            SampleData::OrderPaid { .. } => "OrderPaid",
            SampleData::OrderShipped { .. } => "OrderShipped",
        }
    }
}

/// A line of an order.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Item {
    product_id: String,
    name: &'static str,
    quantity: u64,
    price: Cents,
}

/// Money, written as a JSON number with two decimals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cents(u64);

impl Serialize for Cents {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let text = format!("{}.{:02}", self.0 / 100, self.0 % 100);
        RawValue::from_string(text).map_err(S::Error::custom)?.serialize(serializer)
    }
}

/// A later step of an order. Ordered by its due time.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct OrderStep {
    due_ms: i64,
    order: u64,
    /// The amount to be paid; `None` when the parcel is to be sent.
    amount_cents: Option<u64>,
}

#[derive(Debug)]
struct Customer {
    id: String,
    currency: &'static str,
}

/// The stream of the shop's events.
#[derive(Debug)]
pub struct Orders {
    random: Random,
    /// Part of every id, so that two runs have no id in common.
    run: String,
    customers: Vec<Customer>,
    customers_count: u64,
    orders_count: u64,
    events_count: u64,
    pending: BinaryHeap<Reverse<OrderStep>>,
}

impl Orders {
    /// The same seed, run and instants give the same events.
    pub fn new(seed: u64, run: impl Into<String>) -> Self {
        Orders {
            random: Random(seed),
            run: run.into(),
            customers: Vec::new(),
            customers_count: 0,
            orders_count: 0,
            events_count: 0,
            pending: BinaryHeap::new(),
        }
    }

    /// The event that happens next, at `now_ms`, in milliseconds since the Unix epoch.
    pub fn next_event(&mut self, now_ms: i64) -> SampleEvent {
        let now = DateTime::from_timestamp_millis(now_ms).unwrap_or_default();
        let now_text = now.to_rfc3339_opts(SecondsFormat::Millis, true);
        let due = self
            .pending
            .peek()
            .is_some_and(|Reverse(step)| step.due_ms <= now_ms || self.pending.len() > PENDING_MAX);
        let step = if due { self.pending.pop() } else { None };
        let (stream, data) = match step {
            Some(Reverse(step)) => self.progress(&step, now_ms, &now_text),
            None if self.customers.is_empty() || self.random.chance(12) => self.register(),
            None => self.order(now_ms, &now_text),
        };
        self.events_count += 1;
        SampleEvent {
            id: format!("{}-{}", self.run, self.events_count),
            source: "sample",
            r#type: data.event_type(),
            stream,
            time: now_text,
            data,
        }
    }

    fn register(&mut self) -> (String, SampleData) {
        self.customers_count += 1;
        let id = format!("{}-c{}", self.run, self.customers_count);
        let (first, last) = (self.random.pick(&FIRST_NAMES), self.random.pick(&LAST_NAMES));
        let (country, currency) = self.random.pick(&COUNTRIES);
        let data = SampleData::CustomerRegistered {
            customer_id: id.clone(),
            name: format!("{first} {last}"),
            email: format!("customer{}@example.com", self.customers_count),
            country,
        };
        let stream = format!("customer-{id}");
        let customer = Customer { id, currency };
        if self.customers.len() < CUSTOMERS_MAX {
            self.customers.push(customer);
        } else {
            let place = self.random.below(CUSTOMERS_MAX as u64) as usize;
            self.customers[place] = customer;
        }
        (stream, data)
    }

    fn order(&mut self, now_ms: i64, now_text: &str) -> (String, SampleData) {
        self.orders_count += 1;
        let items = self.items();
        let amount_cents = items.iter().map(|item| item.quantity * item.price.0).sum();
        // Some are never paid.
        if !self.random.chance(7) {
            let due_ms = now_ms + self.random.between(1_000, 30_000);
            let amount_cents = Some(amount_cents);
            self.pending.push(Reverse(OrderStep {
                due_ms,
                order: self.orders_count,
                amount_cents,
            }));
        }
        // Some customers order much more often than others.
        let most = self.random.below(self.customers.len() as u64) + 1;
        let customer = &self.customers[self.random.below(most) as usize];
        let order_id = self.order_id(self.orders_count);
        let data = SampleData::OrderPlaced {
            order_id: order_id.clone(),
            customer_id: customer.id.clone(),
            currency: customer.currency,
            items,
            placed_at: now_text.to_string(),
        };
        (format!("order-{order_id}"), data)
    }

    /// One to four lines, each product once.
    fn items(&mut self) -> Vec<Item> {
        let lines = 1 + self.random.below(4);
        let first = self.random.below(PRODUCTS.len() as u64);
        let mut items = Vec::new();
        for line in 0..lines {
            let number = (first + line * 7) % PRODUCTS.len() as u64;
            let (name, cents) = PRODUCTS[number as usize];
            items.push(Item {
                product_id: format!("p-{:03}", number + 1),
                name,
                quantity: 1 + self.random.below(3),
                price: Cents(cents),
            });
        }
        items
    }

    fn progress(&mut self, step: &OrderStep, now_ms: i64, now_text: &str) -> (String, SampleData) {
        let order_id = self.order_id(step.order);
        let stream = format!("order-{order_id}");
        let Some(amount_cents) = step.amount_cents else {
            let data = SampleData::OrderShipped {
                order_id,
                carrier: self.random.pick(&CARRIERS),
                tracking_number: format!("{:012}", self.random.below(1_000_000_000_000)),
                shipped_at: now_text.to_string(),
            };
            return (stream, data);
        };
        // A few parcels are lost before they are sent.
        if !self.random.chance(3) {
            let due_ms = now_ms + self.random.between(5_000, 90_000);
            self.pending.push(Reverse(OrderStep { due_ms, order: step.order, amount_cents: None }));
        }
        let data = SampleData::OrderPaid {
            order_id,
            payment_method: self.random.pick(&PAYMENT_METHODS),
            amount: Cents(amount_cents),
            paid_at: now_text.to_string(),
        };
        (stream, data)
    }

    fn order_id(&self, number: u64) -> String {
        format!("{}-o{number}", self.run)
    }
}

/// SplitMix64 (Steele, Lea and Flood, 2014): small, and good enough for make-believe.
#[derive(Debug)]
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// 0 to `end`, exclusive; `end` is small beside 2⁶⁴, so the bias does not show.
    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    fn between(&mut self, from: i64, to: i64) -> i64 {
        from + self.below(from.abs_diff(to)) as i64
    }

    fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }
}
