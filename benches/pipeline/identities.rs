//! The log alone.

use std::time::Instant;

use heliostat::internals::log::{Log, LogOptions};
use heliostat::internals::model::NewEvent;

use super::common::rng::Rng;
use super::server::Workplace;

/// The cost of knowing every id and stream: the log alone, without HTTP and views, for small events with ids
/// of their own, ten to a stream.
pub async fn identities(events: u64) {
    const GROUP: u64 = 5000;
    let place = Workplace::new();
    let directory = heliostat::internals::log::directory(&place.path("data"));
    let log = Log::open(&directory, LogOptions::default()).unwrap();
    let event = |n: u64| NewEvent {
        // Spread, as ids are that clients make.
        id: format!("{:016x}", n.wrapping_mul(0x9E37_79B9_7F4A_7C15)),
        source: "bench".to_string(),
        event_type: "Small".to_string(),
        version: 1,
        stream: Some(format!("stream-{}", (n / 10) ^ (n % 7))),
        time_us: 0,
        data: b"{}".to_vec(),
        metadata: Vec::new(),
    };
    let (mut n, mut note) = (0, events / 16);
    let (mut since, mut from) = (Instant::now(), 0);
    while n < events {
        let group: Vec<NewEvent> = (n..n + GROUP).map(event).collect();
        n += GROUP;
        assert_eq!(log.append(group).await.unwrap().stored as u64, GROUP);
        if n >= note {
            let micros = since.elapsed().as_secs_f64() * 1e6 / (n - from) as f64;
            println!(
                "log with {} M ids: {micros:.2} µs an event, {:.1} bytes of index an event, {} MB resident",
                n / 1_000_000,
                log.index_bytes() as f64 / n as f64,
                own_resident_bytes() >> 20
            );
            (since, from, note) = (Instant::now(), n, note * 2);
        }
    }
    let mut rng = Rng::new(9);
    let started = Instant::now();
    let known: u64 = 200_000;
    for _ in 0..known / 1000 {
        // An id once in a request: multiples keep them apart.
        let first = rng.below(events / 1000);
        let group: Vec<NewEvent> = (0..1000).map(|i| event(first + i * (events / 1000))).collect();
        assert_eq!(log.append(group).await.unwrap().stored, 0);
    }
    let micros = started.elapsed().as_secs_f64() * 1e6 / known as f64;
    println!("an event that is known already, at random: {micros:.2} µs");
    log.close();
    drop(log);
    let started = Instant::now();
    let log = Log::open(&directory, LogOptions::default()).unwrap();
    println!("opening the log with its indexes: {:.2} s", started.elapsed().as_secs_f64());
    log.close();
    drop(log);
    std::fs::remove_dir_all(directory.join("index")).unwrap();
    let started = Instant::now();
    let log = Log::open(&directory, LogOptions::default()).unwrap();
    let seconds = started.elapsed().as_secs_f64();
    println!("without them: {seconds:.1} s, {:.2} M events/s", events as f64 / seconds / 1e6);
    log.close();
}

fn own_resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}
