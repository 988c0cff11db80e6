//! `examples/orders.rs` against the real server, with the views of `queries/`.

mod common;

use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};

use serde_json::{Value, json};

struct Shop {
    child: Child,
    url: String,
    _directory: tempfile::TempDir,
}

impl Drop for Shop {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Shop {
    fn open() -> Shop {
        let directory = tempfile::tempdir().unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_heliostat"))
            .args(["serve", "--no-clickhouse", "--listen", "127.0.0.1:0"])
            .arg("--data-dir")
            .arg(directory.path().join("data"))
            .args(["--queries", concat!(env!("CARGO_MANIFEST_DIR"), "/queries")])
            .env("HELIOSTAT_LOG", "error")
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let url = common::addresses(&mut child, &directory.path().join("data")).http;
        Shop { child, url, _directory: directory }
    }

    fn command(&self, arguments: &[&str]) -> Child {
        // Examples are built beside the tests.
        let mut program = PathBuf::from(env!("CARGO_BIN_EXE_heliostat"));
        program.set_file_name("examples");
        Command::new(program.join("orders"))
            .args(["--url", &self.url])
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).wait_with_output().unwrap()
    }

    #[track_caller]
    fn done(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    #[track_caller]
    fn refused(&self, arguments: &[&str], rule: &str) {
        let output = self.run(arguments);
        let message = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && message.contains(rule), "{message}");
    }

    fn order(&self, order: &str) -> Value {
        serde_json::from_str(&self.done(&["show", order])).unwrap()
    }

    async fn get(&self, path: &str) -> Value {
        heliostat::internals::http::client()
            .get(format!("{}{path}", self.url))
            .send()
            .await
            .unwrap()
            .json()
            .await
            .unwrap()
    }
}

#[tokio::test]
async fn orders_keep_their_rules_and_the_view_shows_them() {
    let shop = Shop::open();
    shop.refused(&["pay", "o-1", "100"], "there is no such order");
    shop.done(&["place", "o-1", "c-1", "4000"]);
    shop.refused(&["place", "o-1", "c-1", "4000"], "placed already");
    shop.refused(&["ship", "o-1", "DHL"], "4000 cents are open");
    shop.refused(&["pay", "o-1", "4001"], "4000 cents are open");
    shop.done(&["pay", "o-1", "1500"]);
    shop.done(&["pay", "o-1", "2500"]);
    shop.refused(&["pay", "o-1", "1"], "paid already");
    shop.done(&["ship", "o-1", "DHL"]);
    shop.refused(&["ship", "o-1", "DHL"], "shipped already");
    let order = json!({"placed": true, "total_cents": 4000, "paid_cents": 4000, "shipped": true});
    assert_eq!(shop.order("o-1"), json!({"order": order, "version": 4}));
    // The last command has waited for the views.
    let rows = shop.get("/v1/views/order_summaries/rows?order_id=o-1").await;
    assert_eq!(rows["rows"][0]["status"], "shipped", "{rows}");
    assert_eq!(rows["rows"][0]["total_amount"], "40.00");
}

#[tokio::test]
async fn commands_that_race_never_pay_too_much() {
    let shop = Shop::open();
    shop.done(&["place", "o-1", "c-1", "700"]);
    let payments: Vec<Child> = (0..12).map(|_| shop.command(&["pay", "o-1", "100"])).collect();
    let outputs = payments.into_iter().map(|payment| payment.wait_with_output().unwrap());
    let paid = outputs.filter(|output| output.status.success()).count();
    assert_eq!(paid, 7, "seven parts make the price, and five come too late");
    assert_eq!(shop.order("o-1")["order"]["paid_cents"], 700);
}

#[tokio::test]
async fn a_long_stream_is_loaded_from_a_snapshot() {
    let shop = Shop::open();
    shop.done(&["place", "o-1", "c-1", "1000"]);
    let client = heliostat::internals::http::client();
    let parts: Vec<Value> = (0..900)
        .map(|n| {
            json!({"id": format!("part-{n}"), "type": "OrderPaid", "stream": "order-o-1",
                "data": {"orderId": "o-1", "paymentMethod": "card", "amount": "0.01", "paidAt": "2026-11-23T10:00:00Z"}})
        })
        .collect();
    let url = format!("{}/v1/events", shop.url);
    assert_eq!(client.post(url).json(&parts).send().await.unwrap().status(), 200);
    let loaded = shop.order("o-1");
    assert_eq!((&loaded["order"]["paid_cents"], &loaded["version"]), (&json!(900), &json!(901)));
    let snapshot = shop.get("/v1/streams/order-snapshot-o-1").await;
    assert_eq!(snapshot["events"][0]["data"], loaded);
    shop.done(&["pay", "o-1", "100"]);
    shop.refused(&["pay", "o-1", "1"], "paid already");
    assert_eq!(shop.get("/v1/streams/order-snapshot-o-1").await["stream_version"], 1);
}
