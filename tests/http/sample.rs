//! The sample orders, sent to a real server.

use std::collections::BTreeMap;
use std::future::pending;
use std::path::Path;
use std::time::Duration;

use heliostat::internals::decode::Validator;
use heliostat::internals::plan;
use heliostat::internals::sample::Orders;
use heliostat::internals::sample::{ClientArgs, SampleArgs, SampleError, send};
use serde_json::Value;

use crate::support::Server;

fn args(url: String, rate: f64, count: u64) -> SampleArgs {
    SampleArgs { rate, count: Some(count), url, seed: Some(7), client: ClientArgs::default() }
}

/// Two hours of a shop at 5 events a second.
fn events() -> Vec<Value> {
    let mut orders = Orders::new(42, "r");
    (0..36_000)
        .map(|n| serde_json::to_value(orders.next_event(1_795_000_000_000 + n * 200)).unwrap())
        .collect()
}

#[test]
fn the_same_seed_gives_the_same_events() {
    assert_eq!(events(), events());
}

#[test]
fn orders_are_placed_by_known_customers_then_paid_then_shipped() {
    let cents = |amount: &Value| (amount.as_f64().unwrap() * 100.0).round() as u64;
    let mut customers: BTreeMap<String, Value> = BTreeMap::new();
    let mut placed: BTreeMap<String, u64> = BTreeMap::new();
    let (mut paid, mut shipped) = (BTreeMap::new(), BTreeMap::new());
    for event in events() {
        let data = &event["data"];
        let text = |member: &str| data[member].as_str().unwrap().to_string();
        match event["type"].as_str().unwrap() {
            "CustomerRegistered" => {
                assert_eq!(event["stream"], format!("customer-{}", text("customerId")));
                assert!(customers.insert(text("customerId"), data.clone()).is_none());
            }
            "OrderPlaced" => {
                assert_eq!(event["stream"], format!("order-{}", text("orderId")));
                assert!(customers.contains_key(&text("customerId")));
                let items = data["items"].as_array().unwrap();
                assert!(!items.is_empty());
                let sum =
                    items.iter().map(|i| i["quantity"].as_u64().unwrap() * cents(&i["price"]));
                assert!(placed.insert(text("orderId"), sum.sum()).is_none());
            }
            "OrderPaid" => {
                assert_eq!(placed[&text("orderId")], cents(&data["amount"]));
                assert!(paid.insert(text("orderId"), text("paidAt")).is_none());
            }
            "OrderShipped" => {
                assert!(paid[&text("orderId")] < text("shippedAt"));
                assert!(shipped.insert(text("orderId"), ()).is_none());
            }
            other => panic!("{other}"),
        }
    }
    // Most orders are paid and shipped in the end, some never.
    let (placed, paid, shipped) = (placed.len(), paid.len(), shipped.len());
    assert!(placed > 10_000 && customers.len() > 1000, "{placed} {}", customers.len());
    assert!(paid * 100 > placed * 88 && paid < placed, "{paid} of {placed}");
    assert!(shipped * 100 > paid * 90 && shipped < paid, "{shipped} of {paid}");
}

#[test]
fn prices_have_two_decimals() {
    let mut orders = Orders::new(42, "r");
    let text = |event| serde_json::to_string(&event).unwrap();
    let texts: Vec<_> = (0..200).map(|n| text(orders.next_event(n * 1000))).collect();
    assert!(texts.iter().any(|text| text.contains("\"price\":18.90")));
    assert!(texts.iter().any(|text| text.contains("\"amount\":")));
}

#[test]
fn memory_is_bounded_when_time_stands_still() {
    let mut orders = Orders::new(1, "r");
    let paid = (0..500_000).filter(|_| orders.next_event(0).stream.starts_with("order-")).count();
    let ids = (0..1000).map(|_| orders.next_event(0).stream);
    // Once enough is pending, as many steps are done as are added.
    assert!(paid > 400_000);
    assert!(ids.filter(|id| id.starts_with("customer-")).count() < 120);
}

#[tokio::test]
async fn a_server_takes_sample_events_and_they_fit_the_sample_views() {
    let server = Server::start().await;
    // `OrderPlaced` has another schema on this server: its events are looked at one by one below.
    let set = plan::plan_files(
        &plan::read_files(Path::new("queries")).unwrap(),
        "test",
        heliostat::internals::sink::KINDS,
    );
    assert!(set.diagnostics.is_empty());
    for table in &set.tables {
        let mut validator = Validator::new(table);
        let of_table = |event: &&Value| event["type"] == table.event_type.as_str();
        let events = events();
        assert!(events.iter().filter(of_table).count() > 500, "{}", table.name);
        for event in events.iter().filter(of_table).take(500) {
            let violations = validator.check(event["data"].to_string().as_bytes());
            assert!(violations.is_empty(), "{violations:?}: {event}");
        }
    }
    // The first event registers a customer, which nothing on this server declares.
    let sent = send(&args(server.url(""), 5000.0, 1), pending()).await.unwrap();
    assert_eq!(sent, 1);
    let stored = server.get("/v1/events").await.lines();
    assert_eq!(stored[0]["type"], "CustomerRegistered");
    assert_eq!(stored[0]["source"], "sample");
}

#[tokio::test]
async fn sample_waits_for_a_server_that_starts_later() {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let url = format!("http://{}", socket.local_addr().unwrap());
    // Told to stop before there is a server, it has sent nothing.
    let stop = tokio::time::sleep(Duration::from_millis(150));
    assert_eq!(send(&args(url.clone(), 100.0, 1), stop).await.unwrap(), 0);

    let late = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        Server::at(socket).await
    };
    let args = args(url, 100.0, 1);
    let (sent, server) = tokio::join!(send(&args, pending()), late);
    assert_eq!(sent.unwrap(), 1);
    assert_eq!(server.log.head().position, 1);
}

#[tokio::test]
async fn refused_sample_ends_with_the_reason() {
    let server = Server::start().await;
    // The server's own `OrderPlaced` wants a total.
    let error = send(&args(server.url(""), 1000.0, 1000), pending()).await.unwrap_err();
    assert!(
        error.to_string().contains("422") && error.to_string().contains("/data/total"),
        "{error}"
    );
    for rate in [0.0, -1.0, f64::NAN, 1e9] {
        let error = send(&args(server.url(""), rate, 1), pending()).await.unwrap_err();
        assert!(matches!(error, SampleError::Rate { .. }), "{error}");
    }
    let error = send(&args("not an address".to_string(), 1.0, 1), pending()).await.unwrap_err();
    assert!(matches!(error, SampleError::Url { .. }), "{error}");
}
