//! Frames of the log: whatever the bytes, reading them is an error or gives what was written.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use heliostat::internals::log::{FaultyFiles, Files, Frame, Log, LogOptions, NumberedEvent};
use heliostat::internals::model::NewEvent;

use crate::rng::Rng;
use crate::{Kept, allocations, corpus, long_run, mutate};

const HEADER_BYTES: usize = 40;
/// An LZ4 block grows to at most 255 times its length.
const GROWTH_MAX: usize = 256;
/// What a reader may ask for whatever it reads: error texts, its own structures.
const SMALL_BYTES: usize = 4 << 10;
/// What opening and reading a log may ask for at once, whatever the segments announce.
const LOG_BYTES: usize = 16 << 20;
/// Every so many cases the frames are read as a segment, too.
const SEGMENT_EVERY: u64 = 16;

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

/// The bytes with the length and the checksum that they must have.
fn sealed(mut bytes: Vec<u8>, with_length: bool) -> Vec<u8> {
    if bytes.len() >= HEADER_BYTES {
        if with_length {
            let length = (bytes.len() - HEADER_BYTES) as u32;
            bytes[0..4].copy_from_slice(&length.to_le_bytes());
        }
        let crc = crc32fast::hash(&bytes[8..]);
        bytes[4..8].copy_from_slice(&crc.to_le_bytes());
    }
    bytes
}

/// A number of the header at its limit.
fn change_header(bytes: &mut [u8], rng: &mut Rng) {
    let (at, len) = rng.pick_of(&[(0, 4), (8, 8), (16, 8), (24, 4), (28, 4), (32, 8)]);
    if bytes.len() < HEADER_BYTES {
        return;
    }
    let payload = (bytes.len() - HEADER_BYTES) as u64;
    let limits = [
        0,
        1,
        2,
        payload.wrapping_sub(1),
        payload + 1,
        1 << 30,
        (1 << 30) + 1,
        u64::from(u32::MAX),
        1 << 63,
        u64::MAX - 1,
        u64::MAX,
    ];
    let value = rng.pick_of(&limits).to_le_bytes();
    bytes[at..at + len].copy_from_slice(&value[..len]);
}

/// The frame with other bytes inside its compression.
fn change_events(bytes: &[u8], other: &[u8], rng: &mut Rng) -> Option<Vec<u8>> {
    let payload = bytes.get(HEADER_BYTES..)?;
    let raw_bytes = u32_at(bytes, 28).min(1 << 20) as usize;
    let mut raw = lz4_flex::block::decompress(payload, raw_bytes).ok()?;
    for _ in 0..=rng.below(2) {
        if rng.one_in(4) {
            // A length or a number at its limit.
            let at = rng.below(raw.len() as u64 + 1) as usize;
            let limits: [&[u8]; 6] = [
                &[0xff; 9],
                &[0xff; 10],
                &[0xff, 0xff, 0xff, 0xff, 0x0f],
                &[0x80, 0],
                &[0x7f],
                &[0],
            ];
            let limit = rng.pick_of(&limits);
            raw.splice(at..(at + 1).min(raw.len()), [limit, &[1]].concat());
        } else {
            mutate::bytes(&mut raw, other, rng);
        }
    }
    let mut changed = bytes[..HEADER_BYTES].to_vec();
    changed[28..32].copy_from_slice(&(raw.len() as u32).to_le_bytes());
    changed.extend(lz4_flex::block::compress(&raw));
    Some(sealed(changed, true))
}

fn mutated(entry: &[u8], other: &[u8], rng: &mut Rng) -> Vec<u8> {
    let mut bytes = entry.to_vec();
    match rng.below(4) {
        0 => {}
        1 => change_header(&mut bytes, rng),
        _ => {
            if let Some(changed) = change_events(&bytes, other, rng) {
                bytes = changed;
            }
        }
    }
    for _ in 0..rng.below(3) {
        mutate::bytes(&mut bytes, other, rng);
    }
    // Without this the checksum would keep nearly everything out.
    match rng.below(4) {
        0 => bytes,
        1 => sealed(bytes, false),
        _ => sealed(bytes, true),
    }
}

/// An event with its version, as it is written.
fn read_events(frame: &Frame) -> Option<Vec<(NewEvent, u64)>> {
    let events = frame.decompress().ok()?;
    let owned = |event: heliostat::internals::model::EventRef<'_>| {
        let new = NewEvent {
            id: event.id.to_string(),
            source: event.source.to_string(),
            event_type: event.event_type.to_string(),
            version: event.version,
            stream: event.stream.map(str::to_string),
            time_us: event.time_us,
            data: event.data.to_vec(),
            metadata: event.metadata.to_vec(),
        };
        (new, event.stream_version)
    };
    let owned: Vec<(NewEvent, u64)> = events.iter().map(owned).collect();
    assert_eq!(owned.len(), frame.count() as usize, "decompressed frames hold all their events");
    Some(owned)
}

fn check(input: &[u8]) {
    let bytes = Bytes::copy_from_slice(input);
    let (read, asked) = allocations::largest(|| Frame::read(&bytes));
    assert!(asked <= SMALL_BYTES, "{asked} bytes for a header");
    let Ok(frame) = read else { return };
    assert!(frame.last_position() >= frame.first_position() - 1);
    let mut written = Vec::new();
    frame.write(&mut written);
    assert!(written == input, "a frame reads as other bytes than it is written as");
    let (events, asked) = allocations::largest(|| frame.decompress());
    let limit = GROWTH_MAX * input.len() + SMALL_BYTES;
    assert!(asked <= limit, "{asked} bytes to decompress {}", input.len());
    let Ok(events) = events else { return };
    let (requests, asked) = allocations::largest(|| events.requests());
    // A position of a request is one byte at least, and 8 in memory, in vectors that double.
    assert!(asked <= 16 * frame.raw_bytes() + SMALL_BYTES, "{asked} bytes for requests");
    drop(requests);
    let events = read_events(&frame).expect("it was decompressed before");
    let numbered = events
        .iter()
        .map(|(event, stream_version)| NumberedEvent { event, stream_version: *stream_version });
    let mut again = Vec::new();
    let rewritten = Frame::new(frame.tick(), frame.first_position(), numbered).unwrap();
    rewritten.write(&mut again);
    let again = Frame::read(&again.into()).unwrap();
    assert!(read_events(&again) == Some(events), "events change when they are written again");
}

/// Opens a log whose only segment holds these bytes behind its header, and reads all of it.
fn check_segment(input: &[u8]) {
    let mut segment = b"HELIOLOG\x01\0\0\0\0\0\0\0".to_vec();
    segment.extend_from_slice(&[7; 16]);
    segment.extend_from_slice(&1_u64.to_le_bytes());
    segment.resize(64, 0);
    let crc = crc32fast::hash(&segment[16..]);
    segment[12..16].copy_from_slice(&crc.to_le_bytes());
    segment.extend_from_slice(input);
    let files = FaultyFiles::new();
    files.append("00000000000000000001.log").unwrap().write(&segment).unwrap();
    let ((), asked) = allocations::largest(|| {
        let Ok(log) = Log::open_with(Arc::new(files), LogOptions::default()) else { return };
        let mut reader = log.read(0).expect("a log that was opened can be read");
        while let Some(frame) = reader.next_frame().expect("a log that was opened is whole") {
            read_events(&frame);
        }
        log.close();
    });
    assert!(asked <= LOG_BYTES, "{asked} bytes for a segment of {}", input.len());
}

fn run(seeds: impl Iterator<Item = u64>, end: Option<Instant>) {
    let corpus = corpus("frame");
    for (name, entry) in &corpus {
        let _kept = Kept::new(&format!("frame/{name}"), entry);
        check(entry);
        check_segment(entry);
    }
    let mut cases = 0_u64;
    for seed in seeds {
        if end.is_some_and(|end| Instant::now() >= end) {
            break;
        }
        let mut rng = Rng::new(seed);
        let entry = &corpus[rng.below(corpus.len() as u64) as usize].1;
        let other = &corpus[rng.below(corpus.len() as u64) as usize].1;
        let input = mutated(entry, other, &mut rng);
        let _kept = Kept::new(&format!("frame/{seed}"), &input);
        check(&input);
        if seed % SEGMENT_EVERY == 0 {
            check_segment(&[input.as_slice(), other].concat());
        }
        cases += 1;
    }
    println!("{cases} mutated frames");
}

#[test]
fn mutated_frames_are_errors_or_read_back_as_written() {
    run(1..=60_000, None);
}

#[test]
#[ignore = "runs for an hour: make fuzz-input"]
fn fuzz() {
    let (seeds, end) = long_run();
    run(seeds, Some(end));
}
