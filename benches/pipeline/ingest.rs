//! From HTTP to ClickHouse, as fast as it goes, with and without protection.

use std::time::{Duration, Instant};

use super::bids::{BATCH, NamedBody, body};
use super::common::rng::Rng;
use super::server::{Protection, Server, Workplace, count_in_clickhouse, live, post};

/// HTTP → disk → view → ClickHouse, for as long as it is told; with `named`, events come with ids
/// and streams. Returns the events per second.
pub async fn ingest(seconds: u64, named: bool, protection: Protection) -> f64 {
    let place = Workplace::new();
    let (arguments, client) = protection.set_up(&place);
    let server = Server::start_with(&place, true, &arguments);
    live(&client, &server, 0).await;
    // Bodies are made beforehand: their making is not what is measured.
    let mut rng = Rng::new(3);
    let bodies: Vec<NamedBody> = (0..2000)
        .map(|i| match named {
            true => NamedBody::new(i * BATCH as u64, &mut rng, BATCH),
            false => NamedBody { text: body(i * BATCH as u64, &mut rng, BATCH), ids: Vec::new() },
        })
        .collect();
    let bodies = std::sync::Arc::new(bodies);
    let next_id = std::sync::Arc::new(std::sync::atomic::AtomicU64::new(0));
    let url = format!("{}/v1/events", server.http);
    let started = Instant::now();
    let clients: Vec<_> = (0..4)
        .map(|c| {
            let (client, url, bodies) = (client.clone(), url.clone(), bodies.clone());
            let next_id = next_id.clone();
            tokio::spawn(async move {
                let mut sent = 0_u64;
                let mut at = c * 500;
                while started.elapsed() < Duration::from_secs(seconds) {
                    let first =
                        next_id.fetch_add(BATCH as u64, std::sync::atomic::Ordering::Relaxed);
                    let body = bodies[at % bodies.len()].with_ids_from(first);
                    if post(&client, &url, body).await.unwrap() {
                        sent += BATCH as u64;
                        at += 1;
                    } else {
                        tokio::time::sleep(Duration::from_millis(20)).await;
                    }
                }
                sent
            })
        })
        .collect();
    let mut sent = 0;
    for client in clients {
        sent += client.await.unwrap();
    }
    let posted = started.elapsed().as_secs_f64();
    let clickhouse = heliostat::internals::http::client();
    while count_in_clickhouse(&clickhouse, &server).await < sent {
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert!(started.elapsed() < Duration::from_secs(seconds + 120), "ClickHouse falls behind");
    }
    let shown = started.elapsed().as_secs_f64();
    let what = match (named, protection) {
        (true, _) => ", with ids and streams",
        (false, Protection::Nothing) => "",
        (false, Protection::Tokens) => ", with a token",
        (false, Protection::TokensAndTls) => ", with a token over TLS",
    };
    println!(
        "HTTP → disk → view → ClickHouse{what}: {sent} events in {posted:.1} s, all shown after {shown:.1} s: {:.0} k events/s; {} MB resident",
        sent as f64 / shown / 1e3,
        server.resident_bytes() >> 20
    );
    server.stop();
    sent as f64 / shown
}

/// Largest share of the rate of ingest that tokens and TLS may cost.
const SECURED_COST_MAX: f64 = 0.15;

/// The cost of tokens and TLS: ingest with and without them in turn, and whether that is within the limit.
pub async fn secured(rounds: usize, seconds: u64) {
    let all = [Protection::Nothing, Protection::Tokens, Protection::TokensAndTls];
    let mut rates = [const { Vec::new() }; 3];
    for _ in 0..rounds {
        for (rates, protection) in rates.iter_mut().zip(all) {
            rates.push(ingest(seconds, false, protection).await);
        }
    }
    let [plain, tokens, tls] = rates.map(|mut rates| {
        rates.sort_by(f64::total_cmp);
        rates[rates.len() / 2]
    });
    println!("medians of {rounds} rounds:");
    for (name, rate) in [("tokens", tokens), ("tokens and TLS", tls)] {
        let cost = 1.0 - rate / plain;
        let verdict = if cost <= SECURED_COST_MAX { "within" } else { "BEYOND" };
        println!(
            "{name}: {rate:.0} of {plain:.0} events/s, a cost of {:.1} %: {verdict} the limit of {:.0} %",
            100.0 * cost,
            100.0 * SECURED_COST_MAX
        );
    }
}
