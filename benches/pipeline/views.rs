//! Many small views over one table: what they cost while events come, and how fresh they are.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::common::rng::Rng;
use super::numbers::{ms, percentile};
use super::server::{Protection, Server, Workplace, ask, post};

const VIEWS: u64 = 100;
const KEYS: u64 = 100;
/// Events a second, in requests of `BATCH`.
const LOAD: u64 = 10_000;
const BATCH: u64 = 200;
/// Interval at which one view is looked at.
const LOOK: Duration = Duration::from_millis(50);

fn queries() -> String {
    let mut text =
        "CREATE TABLE t (k BIGINT NOT NULL, v BIGINT NOT NULL) WITH (event_type = 'T');\n"
            .to_string();
    for n in 0..VIEWS {
        text += &format!(
            "CREATE MATERIALIZED VIEW small_{n} AS SELECT k, count(*) AS n, sum(v + {n}) AS total FROM t GROUP BY k;\n"
        );
    }
    text
}

fn body(rng: &mut Rng) -> Vec<u8> {
    let event = |_| {
        let (key, value) = (rng.below(KEYS), rng.below(1_000_000));
        format!("{{\"type\":\"T\",\"data\":{{\"k\":{key},\"v\":{value}}}}}\n")
    };
    (0..BATCH).map(event).collect::<String>().into_bytes()
}

/// The position up to which a view is in ClickHouse, as the table of progress there says.
async fn shown(client: &reqwest::Client, url: &str, data: &Path, view: u64) -> u64 {
    let sql =
        format!("SELECT position FROM heliostat._heliostat_progress WHERE view = 'small_{view}'");
    ask(client, url, data, &sql).await
}

pub async fn views(seconds: u64) {
    let place = Workplace::new();
    std::fs::write(place.path("queries/bids.sql"), queries()).unwrap();
    let (arguments, client) = Protection::Nothing.set_up(&place);
    let started = Instant::now();
    let server = Server::start_with(&place, true, &arguments);
    let is_live = || async {
        let answer = client.get(format!("{}/readyz?views=all", server.http)).send().await;
        answer.is_ok_and(|answer| answer.status().is_success())
    };
    while !is_live().await {
        assert!(started.elapsed() < Duration::from_secs(300), "the views do not become live");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    println!(
        "{VIEWS} views over one table, {KEYS} rows each: live after {:.1} s",
        started.elapsed().as_secs_f64()
    );
    let url = format!("{}/v1/events", server.http);
    let mut rng = Rng::new(7);
    // Number of events that are acknowledged.
    let sent = Arc::new(AtomicU64::new(0));
    let (is_over, watched) = (Arc::new(AtomicBool::new(false)), Arc::clone(&sent));
    let watcher = {
        let (client, url, data) = (client.clone(), server.clickhouse.clone(), server.data.clone());
        let is_over = Arc::clone(&is_over);
        tokio::spawn(async move {
            let (mut rng, mut delays) = (Rng::new(8), Vec::new());
            while !is_over.load(Ordering::Relaxed) {
                let (view, at) = (rng.below(VIEWS), Instant::now());
                let position = watched.load(Ordering::Relaxed);
                while shown(&client, &url, &data, view).await < position {
                    tokio::time::sleep(LOOK).await;
                }
                delays.push(at.elapsed().as_secs_f64());
                tokio::time::sleep(LOOK).await;
            }
            delays
        })
    };
    let mut pace = tokio::time::interval(Duration::from_micros(1_000_000 * BATCH / LOAD));
    let mut before = None;
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_secs(seconds + 5) {
        pace.tick().await;
        // The first seconds are a start's.
        if before.is_none() && begin.elapsed() >= Duration::from_secs(5) {
            before = Some((Instant::now(), server.cpu()));
        }
        assert!(post(&client, &url, body(&mut rng).into()).await.unwrap());
        sent.fetch_add(BATCH, Ordering::Relaxed);
    }
    let rate = sent.load(Ordering::Relaxed) as f64 / begin.elapsed().as_secs_f64();
    let (since, before) = before.unwrap();
    let (after, wall) = (server.cpu(), since.elapsed().as_secs_f64());
    is_over.store(true, Ordering::Relaxed);
    let mut delays = watcher.await.unwrap();
    delays.sort_by(f64::total_cmp);
    println!(
        "{rate:.0} events/s: {:.2} cores and ClickHouse {:.2}; POST → ClickHouse p50 {}, p99 {} ({} looks, one each {})",
        (after.0 - before.0) / wall,
        (after.1 - before.1) / wall,
        ms(percentile(&delays, 0.5)),
        ms(percentile(&delays, 0.99)),
        delays.len(),
        ms(LOOK.as_secs_f64()),
    );
    server.stop();
}
