//! Frames of the log: whatever the bytes, reading them is an error or gives what was written.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use heliostat::internals::log::{FaultyFiles, Files, Frame, Log, LogOptions, NumberedEvent};
use heliostat::internals::model::NewEvent;

use crate::rng::Rng;
use crate::{Kept, allocations, corpus, long_run, mutate};

/// The lengths of headers of format 1 and of format 2.
const HEADER_BYTES: usize = 40;
const HEADER_TWO_BYTES: usize = 64;
const SECTION_ENTRY_BYTES: usize = 16;
/// An LZ4 block grows to at most 255 times its length.
const GROWTH_MAX: usize = 256;
/// Bytes that a reader may ask for whatever its input is: error texts, its own structures.
const SMALL_BYTES: usize = 4 << 10;
/// Most bytes that opening and reading a log may ask for at once, whatever the segments announce.
const LOG_BYTES: usize = 16 << 20;
/// Every so many cases the frames are read as a segment, too.
const SEGMENT_EVERY: u64 = 16;

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn u16_at(bytes: &[u8], at: usize) -> usize {
    usize::from(u16::from_le_bytes(bytes[at..at + 2].try_into().unwrap()))
}

fn put_u32(bytes: &mut [u8], at: usize, value: u32) {
    bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

/// Whether the bytes begin as a frame of format 2.
fn is_two(bytes: &[u8]) -> bool {
    bytes.starts_with(b"HFRM") && bytes.len() >= HEADER_TWO_BYTES
}

/// The bytes with the length and the checksums that they must have.
fn sealed(mut bytes: Vec<u8>, with_length: bool) -> Vec<u8> {
    if is_two(&bytes) {
        return sealed_two(bytes, with_length);
    }
    if bytes.len() >= HEADER_BYTES {
        if with_length {
            let length = (bytes.len() - HEADER_BYTES) as u32;
            put_u32(&mut bytes, 0, length);
        }
        let crc = crc32fast::hash(&bytes[8..]);
        put_u32(&mut bytes, 4, crc);
    }
    bytes
}

fn sealed_two(mut bytes: Vec<u8>, with_length: bool) -> Vec<u8> {
    if with_length {
        let length = (bytes.len() - HEADER_TWO_BYTES) as u32;
        put_u32(&mut bytes, 8, length);
    }
    let table_end = HEADER_TWO_BYTES + SECTION_ENTRY_BYTES * u16_at(&bytes, 12);
    if table_end <= bytes.len() {
        let mut from = table_end;
        for entry in (HEADER_TWO_BYTES..table_end).step_by(SECTION_ENTRY_BYTES) {
            let to = from.saturating_add(u32_at(&bytes, entry + 4) as usize);
            let Some(section) = bytes.get(from..to) else { break };
            let crc = crc32fast::hash(section);
            put_u32(&mut bytes, entry + 12, crc);
            from = to;
        }
        let crc = crc32fast::hash(&bytes[HEADER_TWO_BYTES..table_end]);
        put_u32(&mut bytes, 56, crc);
    }
    let crc = crc32fast::hash(&bytes[8..HEADER_TWO_BYTES]);
    put_u32(&mut bytes, 4, crc);
    bytes
}

/// A number of the header, or of a section in the table, at its limit.
fn change_header(bytes: &mut [u8], rng: &mut Rng) {
    if bytes.len() < HEADER_BYTES {
        return;
    }
    let payload = (bytes.len() - HEADER_BYTES) as u64;
    let limits = [
        0,
        1,
        2,
        3,
        4096,
        payload.wrapping_sub(1),
        payload + 1,
        1 << 30,
        (1 << 30) + 1,
        u64::from(u32::MAX),
        1 << 63,
        u64::MAX - 1,
        u64::MAX,
    ];
    let (mut at, len) = if !is_two(bytes) {
        rng.pick_of(&[(0, 4), (8, 8), (16, 8), (24, 4), (28, 4), (32, 8)])
    } else if rng.one_in(2) {
        let fields = [(8, 4), (12, 2), (14, 1), (15, 1), (16, 4), (20, 4), (24, 4), (28, 4)];
        let numbers = [(32, 8), (40, 8), (48, 8), (60, 4)];
        rng.pick_of(&[&fields[..], &numbers[..]].concat())
    } else {
        rng.pick_of(&[(0, 2), (2, 1), (3, 1), (4, 4), (8, 4)])
    };
    if is_two(bytes) && len < 8 && at < 9 && rng.one_in(2) {
        at += HEADER_TWO_BYTES + SECTION_ENTRY_BYTES * rng.below(3) as usize;
    }
    let value = rng.pick_of(&limits).to_le_bytes();
    if let Some(place) = bytes.get_mut(at..at + len) {
        place.copy_from_slice(&value[..len]);
    }
}

/// Events or requests as bytes, changed.
fn change_rows(raw: &mut Vec<u8>, other: &[u8], rng: &mut Rng) {
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
            mutate::bytes(raw, other, rng);
        }
    }
}

/// The frame with other bytes inside its compression.
fn change_events(bytes: &[u8], other: &[u8], rng: &mut Rng) -> Option<Vec<u8>> {
    if is_two(bytes) {
        return change_section(bytes, other, rng);
    }
    let payload = bytes.get(HEADER_BYTES..)?;
    let raw_bytes = u32_at(bytes, 28).min(1 << 20) as usize;
    let mut raw = lz4_flex::block::decompress(payload, raw_bytes).ok()?;
    change_rows(&mut raw, other, rng);
    let mut changed = bytes[..HEADER_BYTES].to_vec();
    changed[28..32].copy_from_slice(&(raw.len() as u32).to_le_bytes());
    changed.extend(lz4_flex::block::compress(&raw));
    Some(sealed(changed, true))
}

/// The frame of format 2 with other bytes in one of its sections.
fn change_section(bytes: &[u8], other: &[u8], rng: &mut Rng) -> Option<Vec<u8>> {
    let sections = u16_at(bytes, 12);
    if sections == 0 {
        return None;
    }
    let wanted = rng.below(sections as u64) as usize;
    let entry = HEADER_TWO_BYTES + SECTION_ENTRY_BYTES * wanted;
    let before = (0..wanted).map(|n| HEADER_TWO_BYTES + SECTION_ENTRY_BYTES * n);
    let table_end = HEADER_TWO_BYTES + SECTION_ENTRY_BYTES * sections;
    bytes.get(..table_end)?;
    let from = before.fold(table_end, |from, entry| from + u32_at(bytes, entry + 4) as usize);
    let to = from + u32_at(bytes, entry + 4) as usize;
    let section = bytes.get(from..to)?;
    let mut raw = match bytes[entry + 2] {
        1 => {
            let raw_bytes = u32_at(bytes, entry + 8).min(1 << 20) as usize;
            lz4_flex::block::decompress(section, raw_bytes).ok()?
        }
        _ => section.to_vec(),
    };
    change_rows(&mut raw, other, rng);
    let mut changed = bytes.to_vec();
    let raw_bytes = raw.len() as u32;
    let compress = rng.one_in(2);
    let stored = if compress { lz4_flex::block::compress(&raw) } else { raw };
    changed[entry + 2] = u8::from(compress);
    put_u32(&mut changed, entry + 4, stored.len() as u32);
    put_u32(&mut changed, entry + 8, raw_bytes);
    changed.splice(from..to, stored);
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
    let (_, asked) = allocations::largest(|| frame.control());
    // A byte of JSON is at most a value of 32 bytes, in vectors that double.
    let limit = 64 * GROWTH_MAX * input.len() + SMALL_BYTES;
    assert!(asked <= limit, "{asked} bytes for control");
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
    let format = if is_two(input) { 2 } else { 1 };
    let mut segment = b"HELIOLOG\0\0\0\0\0\0\0\0".to_vec();
    segment[8] = format;
    segment.extend_from_slice(&[7; 16]);
    segment.extend_from_slice(&1_u64.to_le_bytes());
    segment.resize(64, 0);
    let crc = match format {
        1 => crc32fast::hash(&segment[16..]),
        _ => crc32fast::hash(&[&segment[..12], &segment[16..]].concat()),
    };
    put_u32(&mut segment, 12, crc);
    segment.extend_from_slice(input);
    let files = FaultyFiles::new();
    let name = if format == 1 { "00000000000000000001.log" } else { "00000000000000000001.log2" };
    files.append(name).unwrap().write(&segment).unwrap();
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
