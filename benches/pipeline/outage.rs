//! ClickHouse goes away under load.

use std::time::{Duration, Instant};

use super::bids::{BATCH, body};
use super::common::rng::Rng;
use super::server::{Server, Workplace, count_in_clickhouse, live, post};

/// ClickHouse stands still under load, and comes back.
pub async fn outage(seconds: u64) {
    let place = Workplace::new();
    let server = Server::start(&place, true);
    let client = heliostat::internals::http::client();
    live(&client, &server, 0).await;
    let url = format!("{}/v1/events", server.http);
    let mut rng = Rng::new(6);
    let bodies: Vec<bytes::Bytes> =
        (0..1000).map(|i| body(i * BATCH as u64, &mut rng, BATCH).into()).collect();
    let (mut sent, mut failed, mut resident) = (0_u64, 0, 0);
    let pids = server.children();
    let signal = |signal| {
        for pid in &pids {
            // SAFETY: processes that our child has started.
            unsafe { libc::kill(*pid, signal) };
        }
    };
    let mut pace = tokio::time::interval(Duration::from_millis(10));
    let started = Instant::now();
    let mut stopped = false;
    while started.elapsed() < Duration::from_secs(seconds + 5) {
        if !stopped && started.elapsed() > Duration::from_secs(5) {
            stopped = true;
            signal(libc::SIGSTOP);
        }
        pace.tick().await;
        let body = bodies[(sent / BATCH as u64) as usize % bodies.len()].clone();
        if post(&client, &url, body).await.unwrap_or(false) {
            sent += BATCH as u64;
        } else {
            failed += 1;
        }
        resident = resident.max(server.resident_bytes());
    }
    signal(libc::SIGCONT);
    let back = Instant::now();
    while count_in_clickhouse(&client, &server).await < sent {
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert!(back.elapsed() < Duration::from_secs(120), "ClickHouse does not catch up");
    }
    println!(
        "ClickHouse away for {seconds} s at {:.0} k events/s: {failed} requests failed, at most {} MB resident, right {:.1} s after its return",
        sent as f64 / (seconds + 5) as f64 / 1e3,
        resident >> 20,
        back.elapsed().as_secs_f64()
    );
    server.stop();
}
