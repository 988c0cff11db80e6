//! Reading the log, and memory at rest.

use std::time::{Duration, Instant};

use heliostat::internals::log::{Log, LogOptions};
use heliostat::internals::model::NewEvent;

use super::bids::event;
use super::common::rng::Rng;
use super::server::{Server, Workplace, get, live};

/// From a stored log to the view, in a server that has just started.
pub async fn replay(events: u64) {
    let place = Workplace::new();
    let log = Log::open(
        &heliostat::internals::log::directory(&place.path("data")),
        LogOptions::default(),
    )
    .unwrap();
    let mut rng = Rng::new(2);
    let mut n = 0;
    while n < events {
        let group: Vec<NewEvent> =
            (0..20_000.min(events - n)).map(|i| event(n + i, &mut rng)).collect();
        n += group.len() as u64;
        log.append(group).await.unwrap();
    }
    let disk = log.stats().disk_bytes;
    log.close();
    drop(log);
    let client = heliostat::internals::http::client();
    let empty = Workplace::new();
    let started = Instant::now();
    let server = Server::start(&empty, false);
    live(&client, &server, 0).await;
    let start_up = started.elapsed().as_secs_f64();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let base = server.resident_bytes();
    server.stop();
    let started = Instant::now();
    let server = Server::start(&place, false);
    live(&client, &server, events).await;
    let seconds = started.elapsed().as_secs_f64();
    let view = get(&client, format!("{}/v1/views/by_auction", server.http)).await;
    let groups = view["rows"].as_u64().unwrap();
    println!(
        "stored log → view: {events} events ({} MB on disk) into {groups} groups in {seconds:.2} s: {:.2} M events/s, {:.2} M without the start-up of {start_up:.2} s",
        disk >> 20,
        events as f64 / seconds / 1e6,
        events as f64 / (seconds - start_up) / 1e6
    );
    tokio::time::sleep(Duration::from_secs(2)).await;
    let full = server.resident_bytes();
    server.stop();
    println!(
        "resident memory at rest: {} MB, of an empty server {} MB: {} bytes per group",
        full >> 20,
        base >> 20,
        full.saturating_sub(base) / groups.max(1)
    );
}
