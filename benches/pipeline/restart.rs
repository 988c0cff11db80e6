//! The time that a restart takes until all views are live: after an orderly end, and after a kill under load.
//!
//! Four views over `HELIOSTAT_BENCH_KEYS` keys (1 M): an aggregate by key, a join of two tables, the first
//! two rows of each key, and an upsert table as it is.

use std::time::{Duration, Instant};

use super::bids::BATCH;
use super::common::rng::Rng;
use super::server::{Server, Workplace, get, post};

const QUERIES: &str = "
CREATE TABLE l (k BIGINT, v BIGINT NOT NULL, PRIMARY KEY (k)) WITH (event_type = 'L', mode = 'upsert');
CREATE TABLE r (k BIGINT, w BIGINT NOT NULL, PRIMARY KEY (k)) WITH (event_type = 'R', mode = 'upsert');
CREATE TABLE changes (k BIGINT NOT NULL, v BIGINT NOT NULL) WITH (event_type = 'L');
CREATE MATERIALIZED VIEW sums AS SELECT k, count(*) AS n, sum(v) AS total FROM changes GROUP BY k;
CREATE MATERIALIZED VIEW pairs AS SELECT l.k, l.v, r.w FROM l JOIN r ON l.k = r.k;
CREATE MATERIALIZED VIEW firsts AS
  SELECT k, v FROM (SELECT k, v, row_number() OVER (PARTITION BY k ORDER BY v) AS place FROM l) WHERE place <= 2;
CREATE MATERIALIZED VIEW latest AS SELECT k, v FROM l;
";
const VIEWS: [&str; 4] = ["sums", "pairs", "firsts", "latest"];
/// Events a second while the server is killed.
const LOAD: u64 = 10_000;

fn body(first: u64, keys: u64, rng: &mut Rng) -> Vec<u8> {
    let mut lines = String::new();
    for n in first..first + BATCH as u64 {
        let (event_type, column) = if n.is_multiple_of(2) { ("L", "v") } else { ("R", "w") };
        // Every key once, in no order, and then again.
        let key = (n / 2).wrapping_mul(0x9e37_79b9_7f4a_7c15) % keys;
        let key = if n / 2 < keys { n / 2 } else { key };
        let value = rng.below(1_000_000);
        lines += &format!(
            "{{\"type\":\"{event_type}\",\"data\":{{\"k\":{key},\"{column}\":{value}}}}}\n"
        );
    }
    lines.into_bytes()
}

/// Waits until all views are live; how long that took, and what they say of it.
async fn live(server: &Server, since: Instant) -> String {
    let client = heliostat::internals::http::client();
    loop {
        let answer = client.get(format!("{}/readyz?views=all", server.http)).send().await;
        if answer.is_ok_and(|answer| answer.status().is_success()) {
            break;
        }
        assert!(since.elapsed() < Duration::from_secs(1800), "the views do not become live");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let took = since.elapsed().as_secs_f64();
    let mut views = Vec::new();
    for name in VIEWS {
        let view = get(&client, format!("{}/v1/views/{name}", server.http)).await;
        let how = view["start"]["how"].as_str().unwrap_or("?").to_string();
        let bytes = view["state_bytes"].as_u64().unwrap_or(0) >> 20;
        views.push(format!("{name} {how} {} ms, {bytes} MB", view["start"]["live_after_ms"]));
    }
    format!("{took:.2} s ({})", views.join("; "))
}

/// Waits until the views show all events, in ClickHouse, too.
async fn caught_up(server: &Server, position: u64) {
    let client = heliostat::internals::http::client();
    for name in VIEWS {
        loop {
            let view = get(&client, format!("{}/v1/views/{name}", server.http)).await;
            if view["sinks"]["clickhouse"]["position"].as_u64() >= Some(position) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// Whether all views are in a snapshot as of this position or later.
async fn is_saved(server: &Server, position: u64) -> bool {
    let client = heliostat::internals::http::client();
    for name in VIEWS {
        let view = get(&client, format!("{}/v1/views/{name}", server.http)).await;
        if view["snapshot"]["position"].as_u64() < Some(position) {
            return false;
        }
    }
    true
}

pub async fn restart(keys: u64) {
    let place = Workplace::new();
    std::fs::write(place.path("queries/bids.sql"), QUERIES).unwrap();
    let mut server = Server::start(&place, true);
    let client = heliostat::internals::http::client();
    live(&server, Instant::now()).await;
    let url = format!("{}/v1/events", server.http);
    let mut rng = Rng::new(9);
    let mut sent = 0;
    while sent < 2 * keys {
        assert!(post(&client, &url, body(sent, keys, &mut rng).into()).await.unwrap());
        sent += BATCH as u64;
    }
    caught_up(&server, sent).await;
    let stopping = Instant::now();
    server.stop();
    let stopped = stopping.elapsed().as_secs_f64();
    let started = Instant::now();
    server = Server::start(&place, true);
    let resumed = live(&server, started).await;
    println!("{keys} keys: an orderly end takes {stopped:.2} s, live again after {resumed}");

    let mut pace = tokio::time::interval(Duration::from_millis(1000 * BATCH as u64 / LOAD));
    let url = format!("{}/v1/events", server.http);
    // Until a snapshot has been taken under load, and a while longer.
    let (first, mut until) = (sent + 1, None);
    while until.is_none_or(|until| Instant::now() < until) {
        pace.tick().await;
        assert!(post(&client, &url, body(sent, keys, &mut rng).into()).await.unwrap());
        sent += BATCH as u64;
        if until.is_none() && sent.is_multiple_of(LOAD / 2) && is_saved(&server, first).await {
            until = Some(Instant::now() + Duration::from_secs(20));
        }
    }
    for pid in server.children() {
        // SAFETY: processes that our child has started.
        unsafe { libc::kill(pid, libc::SIGKILL) };
    }
    server.child.kill().unwrap();
    server.child.wait().unwrap();
    let started = Instant::now();
    server = Server::start(&place, true);
    let resumed = live(&server, started).await;
    println!(
        "after a kill under {LOAD} events/s, 20 s after a snapshot: live again after {resumed}"
    );
    caught_up(&server, sent).await;
    server.stop();
    std::fs::remove_dir_all(place.path("data/snapshots")).unwrap();
    let started = Instant::now();
    server = Server::start(&place, true);
    let replayed = live(&server, started).await;
    println!("without a snapshot, {sent} events: live again after {replayed}");
    server.stop();
}
