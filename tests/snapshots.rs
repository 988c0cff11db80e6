//! Views go on from snapshots: after a clean end, a kill, with other numbers of workers, beside damage, and
//! show what the log says all the same, over HTTP and in ClickHouse.

mod common;

use std::time::Duration;

use common::Server;
use serde_json::{Value, json};

/// A snapshot whenever there is something new.
const EAGER: &str = "[limits]\nsnapshot_events_min = 1\nsnapshot_interval_ms_min = 1\n";
/// None but at the end.
const LAST_ONLY: &str = "[limits]\nsnapshot_interval_ms_min = 3_600_000\n";

const SQL: &str = "
CREATE TABLE items (k BIGINT, v BIGINT NOT NULL, gone BOOLEAN, PRIMARY KEY (k))
  WITH (event_type = 'Item', mode = 'upsert', delete_when = 'gone');
CREATE TABLE changes (k BIGINT NOT NULL, v BIGINT NOT NULL, at TIMESTAMP) WITH (event_type = 'Item');
CREATE MATERIALIZED VIEW totals AS SELECT k, count(*) AS n, sum(v) AS total FROM changes GROUP BY k;
CREATE MATERIALIZED VIEW current AS SELECT k, v FROM items;
CREATE MATERIALIZED VIEW plain AS SELECT v, at FROM changes WHERE v % 3 = 0;
CREATE MATERIALIZED VIEW pairs AS SELECT a.k, a.v AS v, b.v AS w FROM items a JOIN items b ON b.k = a.k + 1;
CREATE MATERIALIZED VIEW failing AS SELECT k, 100 / v AS part FROM items;
CREATE MATERIALIZED VIEW unread WITH (clickhouse = false) AS SELECT v, count(*) AS n FROM changes GROUP BY v;
";
const VIEWS: [&str; 6] = ["totals", "current", "plain", "pairs", "failing", "unread"];

/// Events whose keys and values repeat; every seventh takes its key away.
fn events(from: u64, to: u64) -> Value {
    let event = |n: u64| {
        let (k, v) = (n * n % 97, n % 11);
        // ClickHouse cannot hold the time of the last ones.
        let at = if n % 50 == 49 { "9999-01-01T00:00:00" } else { "2026-01-01T00:00:00" };
        json!({"type": "Item", "data": {"k": k, "v": v, "gone": n.is_multiple_of(7), "at": at}})
    };
    (from..to).map(event).collect()
}

async fn live(server: &Server) {
    for view in VIEWS {
        let status = || async { server.get(&format!("/v1/views/{view}")).await["status"].clone() };
        server.until_within(Duration::from_secs(60), json!("live"), status).await;
    }
}

/// How a view began.
async fn start(server: &Server, view: &str) -> Value {
    server.get(&format!("/v1/views/{view}")).await["start"]["how"].clone()
}

async fn starts(server: &Server) -> Vec<Value> {
    let mut starts = Vec::new();
    for view in VIEWS {
        starts.push(start(server, view).await);
    }
    starts
}

/// Waits until all views are in a snapshot as of this position or later.
async fn saved(server: &Server, position: u64) {
    for view in VIEWS {
        let is_saved = || async {
            let snapshot = &server.get(&format!("/v1/views/{view}")).await["snapshot"];
            json!(snapshot["position"].as_u64().unwrap_or(0) >= position)
        };
        server.until_within(Duration::from_secs(60), json!(true), is_saved).await;
    }
}

/// The rows and dead letters of all views, over HTTP, and their rows in ClickHouse, in order.
async fn contents(server: &Server, position: u64) -> Vec<String> {
    let mut all = Vec::new();
    for view in VIEWS {
        let path = format!("/v1/views/{view}/rows?limit=10000&min_position={position}&timeout=30s");
        let mut rows: Vec<String> = server.get(&path).await["rows"]
            .as_array()
            .unwrap_or_else(|| panic!("{view} has rows"))
            .iter()
            .map(Value::to_string)
            .collect();
        rows.sort();
        all.push(format!("{view} over HTTP: {}", rows.join("\n")));
        let letters = server.get(&format!("/v1/dead-letters?view={view}&limit=1000")).await;
        let mut letters: Vec<String> = letters["dead_letters"]
            .as_array()
            .unwrap_or_else(|| panic!("{letters}"))
            .iter()
            .map(|letter| {
                format!("{} {} {}", letter["expression"], letter["reason"], letter["count"])
            })
            .collect();
        letters.sort();
        all.push(format!("{view} fails: {}", letters.join("\n")));
        if view != "unread" {
            let written = || async {
                let at = &server.get(&format!("/v1/views/{view}")).await["sinks"]["clickhouse"];
                json!(at["position"].as_u64().unwrap_or(0) >= position)
            };
            server.until_within(Duration::from_secs(30), json!(true), written).await;
            let sql = format!("SELECT * FROM {view} ORDER BY ALL");
            let ask = || server.clickhouse(&sql);
            let is_there = || async { !ask().await.contains("DB::Exception") };
            server.until_within(Duration::from_secs(30), true, is_there).await;
            let rows = ask().await;
            all.push(format!("{view} in ClickHouse: {rows}"));
            let counted = server.get(&format!("/v1/views/{view}")).await["rows"].clone();
            all.push(format!("{view} counts: {counted}"));
        }
    }
    all
}

/// What a server shows that has never been ended.
async fn expected(end: u64) -> Vec<String> {
    let server = Server::with_clickhouse(&[("q.sql", SQL)]);
    server.append(&events(0, end)).await;
    live(&server).await;
    contents(&server, end).await
}

fn differences(found: &[String], expected: &[String]) -> String {
    let pairs = found.iter().zip(expected).filter(|(found, expected)| found != expected);
    let shown = pairs.map(|(found, expected)| {
        let short = |text: &str| text.chars().take(300).collect::<String>();
        format!("{}\nexpected {}", short(found), short(expected))
    });
    shown.collect::<Vec<_>>().join("\n\n")
}

#[tokio::test]
async fn views_go_on_from_the_snapshot_of_a_clean_end_on_any_number_of_workers() {
    let toml = |workers: u32| format!("workers = {workers}\n{LAST_ONLY}");
    let server = Server::configured_with_clickhouse(&[("q.sql", SQL)], &toml(2));
    server.append(&events(0, 500)).await;
    live(&server).await;
    assert_eq!(starts(&server).await, vec![json!("replayed"); VIEWS.len()]);
    let mut end = 500;
    for workers in [2, 1, 3] {
        server.configure(&toml(workers));
        server.end_and_run();
        live(&server).await;
        assert_eq!(starts(&server).await, vec![json!("resumed"); VIEWS.len()]);
        let shown = contents(&server, end).await;
        assert_eq!(differences(&shown, &expected(end).await), "", "on {workers} workers");
        // And they go on.
        server.append(&events(end, end + 200)).await;
        end += 200;
        let shown = contents(&server, end).await;
        assert_eq!(differences(&shown, &expected(end).await), "", "after it, on {workers} workers");
    }
}

#[tokio::test]
async fn killed_server_goes_on_from_its_last_snapshot() {
    let server = Server::configured_with_clickhouse(&[("q.sql", SQL)], EAGER);
    server.append(&events(0, 500)).await;
    saved(&server, 500).await;
    let mut end = 500;
    for _ in 0..3 {
        server.append(&events(end, end + 150)).await;
        end += 150;
        server.restart();
        live(&server).await;
        assert_eq!(starts(&server).await, vec![json!("resumed"); VIEWS.len()]);
    }
    let shown = contents(&server, end).await;
    assert_eq!(differences(&shown, &expected(end).await), "");
}

#[tokio::test]
async fn changed_view_is_replayed_and_the_others_go_on() {
    let server = Server::configured_with_clickhouse(&[("q.sql", SQL)], LAST_ONLY);
    server.append(&events(0, 300)).await;
    live(&server).await;
    server.end();
    let changed = SQL.replace("v % 3 = 0", "v % 3 = 1");
    server.write("q.sql", &changed);
    server.run();
    live(&server).await;
    let next = || async { server.get("/v1/views/plain").await["start"]["how"].clone() };
    server.until_within(Duration::from_secs(30), json!("replayed"), next).await;
    for view in VIEWS.into_iter().filter(|view| *view != "plain") {
        assert_eq!(start(&server, view).await, "resumed", "{view}");
    }
    let other = Server::with_clickhouse(&[("q.sql", &changed)]);
    other.append(&events(0, 300)).await;
    live(&other).await;
    let (shown, expected) = (contents(&server, 300).await, contents(&other, 300).await);
    assert_eq!(differences(&shown, &expected), "");
}

#[tokio::test]
async fn damaged_snapshot_is_told_and_its_views_are_replayed() {
    let server = Server::configured_with_clickhouse(&[("q.sql", SQL)], LAST_ONLY);
    server.append(&events(0, 300)).await;
    live(&server).await;
    server.end();
    for file in std::fs::read_dir(server.data().join("snapshots")).unwrap() {
        let path = file.unwrap().path();
        if path.file_name().unwrap().to_string_lossy().starts_with("runs-") {
            let mut bytes = std::fs::read(&path).unwrap();
            bytes.chunks_mut(512).for_each(|chunk| chunk[0] ^= 1);
            std::fs::write(&path, bytes).unwrap();
        }
    }
    server.run();
    live(&server).await;
    assert_eq!(starts(&server).await, vec![json!("replayed"); VIEWS.len()]);
    let shown = contents(&server, 300).await;
    assert_eq!(differences(&shown, &expected(300).await), "");
    // The next one is whole.
    server.end_and_run();
    live(&server).await;
    assert_eq!(starts(&server).await, vec![json!("resumed"); VIEWS.len()]);
}

#[tokio::test]
async fn tables_that_are_gone_are_written_from_the_snapshot() {
    let server = Server::configured_with_clickhouse(&[("q.sql", SQL)], LAST_ONLY);
    server.append(&events(0, 300)).await;
    live(&server).await;
    server.end();
    std::fs::remove_dir_all(server.data().join("clickhouse")).unwrap();
    server.run();
    live(&server).await;
    assert_eq!(starts(&server).await, vec![json!("resumed"); VIEWS.len()]);
    let shown = contents(&server, 300).await;
    assert_eq!(differences(&shown, &expected(300).await), "");
}

#[tokio::test]
async fn data_directory_without_room_for_snapshots_serves_all_the_same() {
    let server = Server::configured_with_clickhouse(&[("q.sql", SQL)], EAGER);
    server.kill();
    // A file is where the directory would be.
    std::fs::remove_dir_all(server.data().join("snapshots")).unwrap();
    std::fs::write(server.data().join("snapshots"), "").unwrap();
    server.run();
    server.append(&events(0, 300)).await;
    live(&server).await;
    let wrong = server.get("/readyz").await["wrong"].to_string();
    assert!(wrong.contains("snapshots") && wrong.contains("whole log"), "{wrong}");
    let shown = contents(&server, 300).await;
    assert_eq!(differences(&shown, &expected(300).await), "");
}
