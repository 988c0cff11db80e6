//! Views as they were: `<view>_history` in ClickHouse and `heliostat replay` at any tick, after kills
//! and changes of the SQL, against what the log says.

mod common;

use std::collections::BTreeMap;

use common::Server;
use common::rng::Rng;
use serde_json::{Value, json};

const TABLES: &str = "
CREATE TABLE items (k BIGINT, v BIGINT NOT NULL, gone BOOLEAN, PRIMARY KEY (k))
  WITH (event_type = 'Item', mode = 'upsert', delete_when = 'gone');
CREATE MATERIALIZED VIEW totals WITH (history = true, order_by = 'n') AS
  SELECT v % 3 AS m, count(*) AS n, sum(v) AS total FROM items GROUP BY v % 3;
CREATE MATERIALIZED VIEW rests WITH (history = true) AS SELECT v % 5 AS m FROM items;
";

/// The views' rows, as CSV, at a tick, from the log's events.
fn expected(events: &[Value], tick: u64) -> (String, String) {
    let mut items: BTreeMap<u64, u64> = BTreeMap::new();
    for event in events.iter().filter(|event| event["tick"].as_u64().unwrap() <= tick) {
        let (k, v) = (event["data"]["k"].as_u64().unwrap(), event["data"]["v"].as_u64());
        match v {
            Some(v) => drop(items.insert(k, v)),
            None => drop(items.remove(&k)),
        }
    }
    let mut totals: BTreeMap<u64, (u64, u64)> = BTreeMap::new();
    let mut rests: Vec<u64> = Vec::new();
    for v in items.values() {
        let total = totals.entry(v % 3).or_default();
        *total = (total.0 + 1, total.1 + v);
        rests.push(v % 5);
    }
    rests.sort_unstable();
    let totals = totals.iter().map(|(m, (n, total))| format!("{m},{n},{total}\n")).collect();
    (totals, rests.iter().map(|m| format!("{m}\n")).collect())
}

async fn log_of(server: &Server) -> Vec<Value> {
    let text = heliostat::internals::http::client()
        .get(server.url("/v1/events?limit=100000"))
        .send()
        .await
        .unwrap()
        .text()
        .await
        .unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn at(tick: u64) -> String {
    format!(
        "valid_from <= fromUnixTimestamp64Milli({tick}, 'UTC') \
         AND (valid_to > fromUnixTimestamp64Milli({tick}, 'UTC') OR valid_to IS NULL)"
    )
}

fn replayed(server: &Server, view: &str, tick: u64) -> String {
    let (queries, data, tick) = (server.queries(), server.data(), tick.to_string());
    let output = server.command(&[
        "replay",
        "--view",
        view,
        "--until",
        &tick,
        "--queries",
        queries.to_str().unwrap(),
        "--data-dir",
        data.to_str().unwrap(),
    ]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let mut rows: Vec<&str> = text.lines().skip(1).collect();
    rows.sort_unstable();
    rows.iter().map(|row| format!("{row}\n")).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_view_is_told_as_it_was_at_any_tick() {
    let server = Server::with_clickhouse(&[("items.sql", TABLES)]);
    let mut rng = Rng::new(7);
    for round in 0..6 {
        for _ in 0..60 {
            let events: Vec<Value> = (0..1 + rng.below(4))
                .map(|_| match (rng.below(12), rng.below(5)) {
                    (k, 0) => json!({"type": "Item", "data": {"k": k, "gone": true}}),
                    (k, _) => json!({"type": "Item", "data": {"k": k, "v": rng.below(30)}}),
                })
                .collect();
            server.append(&json!(events)).await;
        }
        if round % 2 == 1 {
            server.restart();
        }
    }
    // Another generation has the whole history, too.
    server.write("items.sql", &TABLES.replace("order_by = 'n'", "order_by = 'm'"));
    let generation = || async { server.get("/v1/views/totals").await["next_generation"].clone() };
    tokio::time::sleep(std::time::Duration::from_millis(1500)).await;
    server.until(Value::Null, generation).await;
    let events = log_of(&server).await;
    let last = events.last().unwrap();
    server.append(&json!({"type": "Item", "data": {"k": 100, "v": 1}})).await;
    let rows = || {
        server.clickhouse("SELECT count() > 0 FROM rests_history WHERE m = 1 AND valid_to IS NULL")
    };
    server.until("1\n".to_string(), rows).await;
    let written = || async {
        let progress = "SELECT min(position) FROM _heliostat_progress";
        server.clickhouse(progress).await.trim().parse::<u64>().unwrap_or(0)
            > last["position"].as_u64().unwrap()
    };
    server.until(true, written).await;
    let ticks: Vec<u64> = events.iter().map(|event| event["tick"].as_u64().unwrap()).collect();
    for (index, tick) in ticks.iter().enumerate() {
        if index % 7 != 0 && *tick != ticks[ticks.len() - 1] {
            continue;
        }
        for tick in [tick - 1, *tick] {
            let (totals, rests) = expected(&events, tick);
            let at = at(tick);
            let select =
                format!("SELECT m, n, total FROM totals_history WHERE {at} ORDER BY m FORMAT CSV");
            assert_eq!(server.clickhouse(&select).await, totals, "{tick}");
            let select = format!("SELECT m FROM rests_history WHERE {at} ORDER BY m FORMAT CSV");
            assert_eq!(server.clickhouse(&select).await, rests, "{tick}");
            if index % 70 == 0 {
                assert_eq!(replayed(&server, "totals", tick), totals, "{tick}");
                assert_eq!(replayed(&server, "rests", tick), rests, "{tick}");
            }
        }
    }

    // Without the option, and without the view, the name goes.
    server.write("items.sql", &TABLES.replace("history = true, ", ""));
    let gone = || async {
        server.clickhouse("SELECT * FROM totals_history").await.contains("UNKNOWN_TABLE")
    };
    server.until(true, gone).await;
    server.remove("items.sql");
    let gone = || async {
        server.clickhouse("SELECT * FROM rests_history").await.contains("UNKNOWN_TABLE")
    };
    server.until(true, gone).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replay_says_what_it_cannot_do() {
    let server = Server::start(&[("items.sql", TABLES)]);
    server.append(&json!({"type": "Item", "data": {"k": 100, "v": 1}})).await;
    let (queries, data) = (server.queries(), server.data());
    let replay = |view: &str, until: &str| {
        let output = server.command(&[
            "replay",
            "--view",
            view,
            "--until",
            until,
            "--queries",
            queries.to_str().unwrap(),
            "--data-dir",
            data.to_str().unwrap(),
            "--format",
            "json",
        ]);
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    assert_eq!(replay("totals", "2026-11-23T10:00:00+01:00"), (Some(0), String::new()));
    assert_eq!(replay("nothing", "0").0, Some(1));
    let (code, told) = replay("totals", "yesterday");
    assert!(code == Some(2) && told.contains("expected 2026-11-23T10:00:00Z"), "{told}");
}
