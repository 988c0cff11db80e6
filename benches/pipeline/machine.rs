//! The disk, memory, and JSON.

use std::io::Write as _;
use std::time::Instant;

use heliostat::internals::decode::TableDecoder;
use heliostat::internals::log::Frame;
use heliostat::internals::model::{NewEvent, SourceColumn, SourceTable};

use super::bids::{QUERIES, event};
use super::common::rng::Rng;
use super::numbers::{ms, percentile};
use super::server::Workplace;

/// The speed of the machine itself: all other results are read beside these.
pub fn machine() {
    let place = Workplace::new();
    let mut file = std::fs::File::create(place.path("sync")).unwrap();
    let mut times: Vec<f64> = (0..300)
        .map(|_| {
            file.write_all(&[7; 4096]).unwrap();
            let started = Instant::now();
            file.sync_data().unwrap();
            started.elapsed().as_secs_f64()
        })
        .collect();
    times.sort_by(f64::total_cmp);
    println!(
        "fdatasync of 4 KiB: p50 {}, p99 {}",
        ms(percentile(&times, 0.5)),
        ms(percentile(&times, 0.99))
    );
    let from = vec![1_u64; 32 << 20];
    let mut to = vec![0_u64; 32 << 20];
    let started = Instant::now();
    for _ in 0..4 {
        to.copy_from_slice(std::hint::black_box(&from));
        std::hint::black_box(&to);
    }
    let bytes = 4.0 * 2.0 * (from.len() * 8) as f64;
    println!("memory copy, one core: {:.1} GB/s", bytes / started.elapsed().as_secs_f64() / 1e9);
    let mut rng = Rng::new(1);
    let events: Vec<NewEvent> = (0..200_000).map(|n| event(n, &mut rng)).collect();
    let raw: usize = events.iter().map(|e| e.data.len()).sum();
    println!("a bid's payload: {} bytes", raw / events.len());
    let frame = Frame::new(1, 1, events.iter()).unwrap();
    let file =
        heliostat::internals::plan::SourceFile { path: "bids.sql".into(), text: QUERIES.into() };
    let set = heliostat::internals::plan::plan_files(
        &[file.into()],
        "bench",
        heliostat::internals::sink::KINDS,
    );
    let table = SourceTable::Declared(set.tables[0].clone());
    for (what, columns) in [("2 of 7 columns", 2), ("7 of 7 columns", 7)] {
        let columns = [0, 2, 1, 3, 4, 5, 6][..columns].iter().map(|c| SourceColumn::Declared(*c));
        let mut columns: Vec<SourceColumn> = columns.collect();
        columns.sort();
        let mut decoder = TableDecoder::new(table.clone(), columns);
        let started = Instant::now();
        let read = frame.decompress().unwrap();
        for event in read.iter() {
            decoder.push(&event);
        }
        let rows = decoder.finish().rows.num_rows();
        let rate = rows as f64 / started.elapsed().as_secs_f64() / 1e6;
        println!("decompress and decode JSON, {what}, one core: {rate:.2} M events/s");
    }
}
