//! The cost of `FINAL`: queries on a view of many rows while they change, with it and without.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use heliostat::internals::sink::{Login, Logins, read_login};

use super::common::rng::Rng;
use super::numbers::{ms, percentile};
use super::server::{Protection, Server, Workplace, ask, get, post};

const ROWS: u64 = 2_000_000;
/// Changes a second, in requests of `BATCH`.
const LOAD: u64 = 5_000;
const BATCH: u64 = 100;
/// Rows of one request of the load before.
const LOADED_AT_ONCE: u64 = 10_000;
/// Number of times each query is asked, with `FINAL` and without.
const ROUNDS: usize = 15;
/// Longest time that a query of the view may take.
const QUERY_S_MAX: f64 = 0.3;

const QUERIES: &str = "
CREATE TABLE t (k BIGINT NOT NULL, v BIGINT NOT NULL) WITH (event_type = 'T');
CREATE MATERIALIZED VIEW items WITH (key = 'k') AS
  SELECT k, count(*) AS n, sum(v) AS total, max(v) AS greatest FROM t GROUP BY k;
";

/// Queries as analysts ask them; `$T` is the table.
const ASKED: [(&str, &str); 6] = [
    ("count", "SELECT count() FROM $T"),
    ("sum of a column", "SELECT sum(total) FROM $T"),
    ("group by", "SELECT k % 100 AS g, sum(total), max(greatest) FROM $T GROUP BY g FORMAT Null"),
    ("first ten of an order", "SELECT k, total FROM $T ORDER BY total DESC LIMIT 10 FORMAT Null"),
    ("a range of the key", "SELECT sum(total) FROM $T WHERE k BETWEEN 1000000 AND 1010000"),
    ("one key", "SELECT total FROM $T WHERE k = 1234567"),
];

fn events(keys: impl Iterator<Item = u64>, rng: &mut Rng) -> Vec<u8> {
    let event = |k: u64| {
        let v = rng.below(1_000_000);
        format!("{{\"type\":\"T\",\"data\":{{\"k\":{k},\"v\":{v}}}}}\n")
    };
    keys.map(event).collect::<String>().into_bytes()
}

/// The time that a query takes, in seconds.
async fn time(client: &reqwest::Client, url: &str, login: &Login, sql: String) -> f64 {
    let started = Instant::now();
    let request = client.post(url).basic_auth(&login.user, Some(&login.password));
    let answer = request.body(sql.clone()).send().await.unwrap().text().await.unwrap();
    assert!(!answer.starts_with("Code: "), "{sql}: {answer}");
    started.elapsed().as_secs_f64()
}

pub async fn final_reads() {
    let place = Workplace::new();
    std::fs::write(place.path("queries/bids.sql"), QUERIES).unwrap();
    let (arguments, client) = Protection::Nothing.set_up(&place);
    let server = Server::start_with(&place, true, &arguments);
    let is_live = || async {
        let answer = client.get(format!("{}/readyz?views=all", server.http)).send().await;
        answer.is_ok_and(|answer| answer.status().is_success())
    };
    let started = Instant::now();
    while !is_live().await {
        assert!(started.elapsed() < Duration::from_secs(120), "the view does not become live");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let url = format!("{}/v1/events", server.http);
    let mut rng = Rng::new(9);
    for first in (0..ROWS).step_by(LOADED_AT_ONCE as usize) {
        let body = events(first..first + LOADED_AT_ONCE, &mut rng);
        assert!(post(&client, &url, body.into()).await.unwrap());
    }
    let count = "SELECT count() FROM heliostat.items";
    while ask(&client, &server.clickhouse, &server.data, count).await < ROWS {
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    let generation = get(&client, format!("{}/v1/views/items", server.http)).await;
    let generation = generation["generation"].as_str().unwrap().to_string();
    let table = format!("heliostat_internal.items__{generation}");
    println!("{ROWS} rows after {:.1} s", started.elapsed().as_secs_f64());

    let is_over = Arc::new(AtomicBool::new(false));
    let writer = {
        let (client, url, is_over) = (client.clone(), url.clone(), Arc::clone(&is_over));
        tokio::spawn(async move {
            let mut pace = tokio::time::interval(Duration::from_micros(1_000_000 * BATCH / LOAD));
            let (began, mut sent) = (Instant::now(), 0_u64);
            while !is_over.load(Ordering::Relaxed) {
                pace.tick().await;
                let keys: Vec<u64> = (0..BATCH).map(|_| rng.below(ROWS)).collect();
                let body = events(keys.into_iter(), &mut rng);
                assert!(post(&client, &url, body.into()).await.unwrap());
                sent += BATCH;
            }
            sent as f64 / began.elapsed().as_secs_f64()
        })
    };
    // Parts of the load are merged by then, and those of the changes are there.
    tokio::time::sleep(Duration::from_secs(5)).await;
    let login = read_login(&Logins::own_file(&server.data)).unwrap();
    let mut slowest: f64 = 0.0;
    for (name, sql) in ASKED {
        let (mut with, mut without) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            let of = |table: &str| sql.replace("$T", table);
            with.push(time(&client, &server.clickhouse, &login, of("heliostat.items")).await);
            without.push(time(&client, &server.clickhouse, &login, of(&table)).await);
        }
        with.sort_by(f64::total_cmp);
        without.sort_by(f64::total_cmp);
        let (view, bare) = (percentile(&with, 0.5), percentile(&without, 0.5));
        let most = percentile(&with, 1.0);
        slowest = slowest.max(most);
        println!(
            "{name}: the view {} (at most {}), its table without FINAL {}: ×{:.1}",
            ms(view),
            ms(most),
            ms(bare),
            view / bare
        );
    }
    is_over.store(true, Ordering::Relaxed);
    let rate = writer.await.unwrap();
    let verdict = if slowest <= QUERY_S_MAX { "within" } else { "BEYOND" };
    println!(
        "at {rate:.0} changes/s the slowest took {}: {verdict} the limit of {}",
        ms(slowest),
        ms(QUERY_S_MAX)
    );
    server.stop();
}
