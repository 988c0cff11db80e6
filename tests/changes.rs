//! `GET /v1/views/{view}/changes`: whoever follows a view has its rows at each tick, wherever the
//! connection breaks.

mod common;

use std::collections::BTreeMap;

use common::Server;
use common::rng::Rng;
use futures::StreamExt;
use serde_json::{Value, json};

const QUERIES: &str = "
CREATE TABLE items (k BIGINT, v BIGINT NOT NULL, gone BOOLEAN, PRIMARY KEY (k))
  WITH (event_type = 'Item', mode = 'upsert', delete_when = 'gone');
CREATE MATERIALIZED VIEW totals AS SELECT v % 7 AS m, count(*) AS n, CAST(sum(v) AS BIGINT) AS total FROM items GROUP BY v % 7;
CREATE MATERIALIZED VIEW rests AS SELECT v % 5 AS m FROM items;
";

/// An event of a feed.
#[derive(Clone, Debug, Default)]
struct Event {
    name: String,
    id: Option<String>,
    data: Value,
}

/// A feed that is being read.
struct Feed {
    response: std::pin::Pin<Box<dyn futures::Stream<Item = reqwest::Result<bytes::Bytes>> + Send>>,
    text: String,
}

impl Feed {
    /// Connects; the status and code of a refusal.
    async fn open(
        server: &Server,
        view: &str,
        last_id: Option<&str>,
    ) -> Result<Feed, (u16, String)> {
        let mut request = heliostat::internals::http::client()
            .get(server.url(&format!("/v1/views/{view}/changes")));
        if let Some(id) = last_id {
            request = request.header("last-event-id", id);
        }
        let response = request.send().await.unwrap();
        let status = response.status().as_u16();
        if status != 200 {
            let problem: Value = response.json().await.unwrap();
            return Err((status, problem["errors"][0]["code"].as_str().unwrap().to_string()));
        }
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Ok(Feed { response: Box::pin(response.bytes_stream()), text: String::new() })
    }

    /// The next event; `None` at the end.
    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some((block, rest)) = self.text.split_once("\n\n") {
                let mut event = Event::default();
                for line in block.lines() {
                    match line.split_once(": ") {
                        Some(("event", name)) => event.name = name.to_string(),
                        Some(("id", id)) => event.id = Some(id.to_string()),
                        Some(("data", data)) => event.data = serde_json::from_str(data).unwrap(),
                        _ => {}
                    }
                }
                self.text = rest.to_string();
                if event.name.is_empty() {
                    continue;
                }
                return Some(event);
            }
            let bytes = self.response.next().await?.ok()?;
            self.text.push_str(std::str::from_utf8(&bytes).unwrap());
        }
    }
}

/// A follower's copy of a view: rows and how often each occurs.
type Rows = BTreeMap<String, i64>;

#[derive(Default)]
struct Follower {
    rows: Rows,
    /// Rows by key, of a view with one.
    keyed: BTreeMap<String, String>,
    last_id: Option<String>,
    /// The copy at each tick.
    ticks: BTreeMap<u64, Rows>,
    open: bool,
}

impl Follower {
    /// Takes an event in; `key` is the column of the view's key.
    fn take(&mut self, event: &Event, key: Option<&str>) {
        let row = event.data["row"].to_string();
        let known = |rows: &mut Rows, row: &str, diff: i64| {
            let count = rows.entry(row.to_string()).or_default();
            *count += diff;
            assert!(*count >= 0, "{row} went without having come");
            rows.retain(|_, count| *count != 0);
        };
        let keyed = key.map(|key| event.data["row"][key].to_string());
        match event.name.as_str() {
            "upsert" => {
                if let Some(key) = keyed
                    && let Some(before) = self.keyed.insert(key, row.clone())
                {
                    known(&mut self.rows, &before, -1);
                }
                known(&mut self.rows, &row, 1);
            }
            "delete" => {
                if let Some(key) = keyed {
                    assert_eq!(self.keyed.remove(&key).as_deref(), Some(row.as_str()));
                }
                known(&mut self.rows, &row, -1);
            }
            "tick" => {
                let tick = event.data["tick"].as_u64().unwrap();
                self.last_id = event.id.clone();
                assert!(self.ticks.keys().all(|t| *t < tick), "each tick once, in order");
                self.ticks.insert(tick, self.rows.clone());
            }
            other => panic!("{other}: {}", event.data),
        }
        self.open = event.name != "tick";
    }
}

/// The view's rows at a tick, from the log's events.
fn expected(events: &[Value], tick: u64, view: &str) -> Rows {
    let mut items: BTreeMap<u64, u64> = BTreeMap::new();
    for event in events.iter().filter(|event| event["tick"].as_u64().unwrap() <= tick) {
        match event["data"]["v"].as_u64() {
            Some(v) => drop(items.insert(event["data"]["k"].as_u64().unwrap(), v)),
            None => drop(items.remove(&event["data"]["k"].as_u64().unwrap())),
        }
    }
    let mut rows = Rows::new();
    if view == "rests" {
        for v in items.values() {
            *rows.entry(json!({"m": v % 5}).to_string()).or_default() += 1;
        }
        return rows;
    }
    let mut totals: BTreeMap<u64, (u64, u64)> = BTreeMap::new();
    for v in items.values() {
        let total = totals.entry(v % 7).or_default();
        *total = (total.0 + 1, total.1 + v);
    }
    for (m, (n, total)) in totals {
        rows.insert(json!({"m": m, "n": n, "total": total}).to_string(), 1);
    }
    rows
}

async fn post(server: &Server, rng: &mut Rng, keys: u64) {
    let events: Vec<Value> = (0..1 + rng.below(4))
        .map(|_| match (rng.below(keys), rng.below(5)) {
            (k, 0) => json!({"type": "Item", "data": {"k": k, "gone": true}}),
            (k, _) => json!({"type": "Item", "data": {"k": k, "v": rng.below(30)}}),
        })
        .collect();
    server.append(&json!(events)).await;
}

async fn live(server: &Server) {
    let live = || async {
        let views = server.get("/v1/views").await;
        views["views"].as_array().unwrap().iter().all(|view| view["status"] == "live")
    };
    server.until(true, live).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn change_feed_gives_the_view_at_each_tick_over_reconnects() {
    let server = Server::start(&[("items.sql", QUERIES)]);
    live(&server).await;
    let mut rng = Rng::new(11);
    // More rows than a page of the snapshot has, so that it is read while they change.
    let many: Vec<Value> =
        (100..3_600).map(|k| json!({"type": "Item", "data": {"k": k, "v": k}})).collect();
    server.append(&json!(many)).await;
    let views = [("totals", Some("m")), ("rests", None)];
    let stop = std::sync::atomic::AtomicBool::new(false);
    let follow = |view: &'static str, key: Option<&'static str>, seed: u64| {
        let (server, stop) = (&server, &stop);
        async move {
            let mut rng = Rng::new(seed);
            let mut follower = Follower::default();
            let mut connections = 0;
            loop {
                let mut feed = Feed::open(server, view, follower.last_id.as_deref()).await.unwrap();
                connections += 1;
                // Broken off anywhere, within a tick too: what was not closed is told again.
                let mut left = 1 + rng.below(40);
                let (rows, keyed) = (follower.rows.clone(), follower.keyed.clone());
                let mut closed = (rows, keyed);
                loop {
                    let stopped = stop.load(std::sync::atomic::Ordering::Relaxed);
                    let patience =
                        std::time::Duration::from_millis(if stopped { 1_000 } else { 10_000 });
                    match tokio::time::timeout(patience, feed.next()).await {
                        Ok(Some(event)) => follower.take(&event, key),
                        Ok(None) => panic!("the server ended the feed"),
                        Err(_) => return (follower, connections),
                    }
                    if !follower.open {
                        closed = (follower.rows.clone(), follower.keyed.clone());
                    }
                    left -= 1;
                    if left == 0 && follower.last_id.is_some() && !stopped {
                        (follower.rows, follower.keyed) = closed;
                        break;
                    }
                    left = left.max(1);
                }
            }
        }
    };
    let posting = async {
        for _ in 0..250 {
            post(&server, &mut rng, 60).await;
        }
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    };
    let followers = futures::future::join_all(
        (1..=3).flat_map(|seed| views.map(|(view, key)| follow(view, key, seed))),
    );
    let ((), followers) = tokio::join!(posting, followers);
    let text = heliostat::internals::http::client()
        .get(server.url("/v1/events"))
        .send()
        .await
        .unwrap()
        .text()
        .await
        .unwrap();
    let events: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let last = events.last().unwrap()["tick"].as_u64().unwrap();
    for (index, (follower, connections)) in followers.iter().enumerate() {
        let view = views[index % 2].0;
        assert!(*connections > 3 && follower.ticks.len() > 20, "{connections}");
        for (tick, rows) in &follower.ticks {
            assert_eq!(*rows, expected(&events, *tick, view), "{view} at {tick}");
        }
        assert_eq!(follower.rows, expected(&events, last, view), "{view}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_feed_goes_on_where_it_can_and_says_where_it_cannot() {
    let server = Server::start(&[("items.sql", QUERIES)]);
    live(&server).await;
    let refused = |view: &'static str, id: Option<&'static str>| {
        let server = &server;
        async move { Feed::open(server, view, id).await.err().unwrap() }
    };
    assert_eq!(refused("nothing", None).await, (404, "view_not_found".to_string()));
    assert_eq!(refused("totals", Some("what")).await, (410, "changes_gone".to_string()));
    assert_eq!(refused("totals", Some("0123-5")).await, (410, "changes_gone".to_string()));
    let answer = server.append(&json!({"type": "Item", "data": {"k": 1, "v": 1}})).await;
    let mut feed = Feed::open(&server, "totals", None).await.unwrap();
    let mut events = Vec::new();
    // The event may come with the snapshot or behind it.
    while events.last().is_none_or(|e: &Event| e.data["position"] != answer["last_position"]) {
        events.push(feed.next().await.unwrap());
    }
    let id = events.last().unwrap().id.clone().unwrap();
    // After a restart it goes on as long as nothing was missed.
    server.restart();
    live(&server).await;
    let mut feed = Feed::open(&server, "totals", Some(&id))
        .await
        .unwrap_or_else(|refused| panic!("{refused:?}"));
    server.append(&json!({"type": "Item", "data": {"k": 2, "v": 1}})).await;
    let event = feed.next().await.unwrap();
    assert_eq!(
        (event.name.as_str(), &event.data["row"]),
        ("upsert", &json!({"m": 1, "n": 2, "total": 2}))
    );
    let end = feed.next().await.unwrap();
    assert_eq!((end.name.as_str(), &end.data["position"]), ("tick", &json!(2)));
    server.restart();
    live(&server).await;
    server.append(&json!({"type": "Item", "data": {"k": 3, "v": 1}})).await;
    let later = || async { Feed::open(&server, "totals", Some(&id)).await.is_err() };
    assert!(later().await, "what has changed since is not kept");
    // A view that is built anew ends its feeds, and so does one that goes.
    let mut feed = Feed::open(&server, "totals", None).await.unwrap();
    server.write("items.sql", &QUERIES.replace("CAST(sum(v) AS BIGINT)", "min(v)"));
    let end = loop {
        let event = feed.next().await.expect("the reason of the end");
        if event.name == "end" {
            break event;
        }
    };
    assert!(end.data["reason"].as_str().unwrap().contains("built anew"), "{}", end.data);
    assert!(feed.next().await.is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_takes_nothing_is_cut_off_and_holds_nobody_up() {
    let limits = "[limits]\nchange_feeds_max = 1\nwrite_stall_ms_max = 500\n";
    let queries = format!("{QUERIES} CREATE MATERIALIZED VIEW current AS SELECT k, v FROM items;");
    let server = Server::configured(&[("items.sql", &queries)], limits);
    live(&server).await;
    let many = |v: u64| -> Value {
        (0..40_000).map(|k| json!({"type": "Item", "data": {"k": k, "v": v + k}})).collect()
    };
    server.append(&many(0)).await;
    let stalled = heliostat::internals::http::client().get(server.url("/v1/views/current/changes"));
    let stalled = stalled.send().await.unwrap();
    assert_eq!(stalled.status(), 200);
    assert_eq!(Feed::open(&server, "current", None).await.err().unwrap().0, 429);
    // The server cuts the stalled client off, although it never went away, once more waits for it than the
    // buffers between hold. Then its place is free again.
    let begun = std::time::Instant::now();
    let mut round = 0;
    while Feed::open(&server, "current", None).await.is_err() {
        assert!(begun.elapsed().as_secs() < 60, "after {round} rounds it is still there");
        round += 1;
        let (status, answer) = server.post("/v1/events?wait=views&timeout=20s", &many(round)).await;
        assert_eq!(status, 200, "{answer}");
    }
    drop(stalled);
}

/// A server with a view that counts events by `k`, and three events.
async fn counts() -> Server {
    let queries = "CREATE TABLE paid (k TEXT NOT NULL, amount BIGINT) WITH (event_type = 'Paid');
      CREATE MATERIALIZED VIEW counts AS SELECT k, count(*) AS n FROM paid GROUP BY k;";
    let server = Server::start(&[("paid.sql", queries)]);
    live(&server).await;
    let paid = |k: &str| json!({"type": "Paid", "data": {"k": k, "amount": 1}});
    server.append(&json!([paid("a"), paid("b"), paid("a")])).await;
    server
}

/// Has a page follow the view by a script of `tests/clients`.
async fn followed(server: &Server, script: &str, more: &[&str], tokens: &[(&str, &str)]) {
    let mut node = std::process::Command::new("node");
    node.arg(format!("{}/tests/clients/{script}", env!("CARGO_MANIFEST_DIR")))
        .args([&server.url(""), "counts"])
        .args(more)
        .envs(tokens.iter().copied())
        .env("HELIOSTAT_NODE_MODULES", common::clients().join("node"));
    let output = tokio::task::spawn_blocking(move || node.output());
    let output = output.await.unwrap().expect("node: `make clients` installs it");
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(String::from_utf8_lossy(&output.stdout), "ok\n", "{told}");
}

/// The example of `docs/query-views.md` in the place of `EventSource`, in a page.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_browser_follows_by_fetch_where_the_server_asks_for_tokens() {
    let server = counts().await;
    let token = |arguments: &[&str]| {
        let data = server.data();
        let data = ["--data-dir", data.to_str().unwrap()];
        let output = server.command(&[&["token", "create"], arguments, &data].concat());
        assert!(output.status.success(), "{}", common::text(&output));
        String::from_utf8(output.stdout).unwrap().trim().to_string()
    };
    let reader = token(&["--role", "read", "--views", "counts"]);
    let writer = token(&["--role", "write"]);
    server.until(401, || async { server.try_get("/v1/views").await.0 }).await;
    let document = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/query-views.md");
    let tokens = [("HELIOSTAT_READ_TOKEN", &*reader), ("HELIOSTAT_WRITE_TOKEN", &*writer)];
    followed(&server, "follow.mjs", &[document], &tokens).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_browser_follows_with_event_source() {
    followed(&counts().await, "browser.mjs", &[], &[]).await;
}
