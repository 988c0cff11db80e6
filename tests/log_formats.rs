//! Logs of format 1: they are read, rewritten while they are in use, and whole whatever stops that.
//! And what a later version has written, which is refused and left alone.

mod common;
#[path = "common/version_1.rs"]
mod version_1;

use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use common::Server;
use heliostat::internals::log::{
    Control, DismissedLetters, Fault, FaultyFiles, Files, Frame, FrameKind, Log, LogError,
    LogOptions, QueriesInUse, QueryFile, Repair, examine, info,
};
use heliostat::internals::model::{Alarms, NewEvent};
use serde_json::json;

const EVENTS: u64 = 200;
const PER_COMMIT: usize = 5;
const COMMITS_PER_SEGMENT: usize = 4;
const PATIENCE: Duration = Duration::from_secs(60);
const QUERIES: &[(&str, &str)] = &[(
    "q.sql",
    "CREATE TABLE n (x BIGINT NOT NULL) WITH (event_type = 'N');
     CREATE MATERIALIZED VIEW total AS SELECT count(*) AS n, sum(100 / x) AS s FROM n;",
)];

fn event(n: u64) -> NewEvent {
    NewEvent {
        id: format!("id-{n}"),
        source: String::new(),
        event_type: "N".to_string(),
        version: 1,
        stream: Some(format!("s{}", n % 7)),
        time_us: -(n as i64),
        data: format!(r#"{{"x":{n}}}"#).into_bytes(),
        metadata: b"{\"a\":1}".to_vec(),
    }
}

fn events(count: u64) -> Vec<NewEvent> {
    (1..=count).map(event).collect()
}

fn write_log(directory: &Path) {
    version_1::write(directory, &events(EVENTS), PER_COMMIT, COMMITS_PER_SEGMENT);
}

/// Options under which all is rewritten at once.
fn fast() -> LogOptions {
    LogOptions { rewrite_bytes_per_s: u64::MAX, ..LogOptions::default() }
}

/// Options under which nothing is rewritten while the test runs.
fn slow() -> LogOptions {
    LogOptions { rewrite_bytes_per_s: 1, ..LogOptions::default() }
}

/// Looks whether all of a frame can be read.
macro_rules! readable {
    () => {
        |frame: &Frame| {
            frame.control()?;
            frame.decompress().map(drop)
        }
    };
}

/// The names of the segments' files.
fn segments(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.filter(|name| name.contains(".log")).collect();
    names.sort();
    names
}

fn old_segments(directory: &Path) -> usize {
    segments(directory).iter().filter(|name| name.ends_with(".log")).count()
}

/// Reads all of a log: its events, which must be those that were written, at dense positions, in
/// frames whose ticks increase. Returns how many events there are, and how many frames.
fn read_all(log: &Log) -> (u64, u64) {
    let mut reader = log.read(0).unwrap();
    let (mut position, mut tick, mut frames) = (0, 0, 0);
    while let Some(frame) = reader.next_frame().unwrap() {
        assert!(frame.tick() > tick, "tick {} behind {tick}", frame.tick());
        tick = frame.tick();
        frames += 1;
        for stored in frame.decompress().unwrap().iter() {
            position += 1;
            let expected = event(position);
            assert_eq!((stored.position, stored.id), (position, expected.id.as_str()));
            assert_eq!((stored.data, stored.metadata), (&*expected.data, &*expected.metadata));
            assert_eq!(
                (stored.time_us, stored.stream),
                (expected.time_us, expected.stream.as_deref())
            );
            assert_eq!(stored.stream_version, position.div_ceil(7));
        }
    }
    (position, frames)
}

async fn append(log: &Log, n: u64) {
    let appended = log.append(vec![event(n)]).await.unwrap();
    assert_eq!((appended.first_position, appended.stored), (n, 1));
}

/// Waits until the condition holds.
fn until(what: &str, condition: impl Fn() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < end, "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A log that an earlier version has really written: `tests/fixtures/log-version-1`.
fn copy_fixture(directory: &Path) {
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/log-version-1");
    for name in ["00000000000000000001.log", "segments"] {
        std::fs::copy(fixture.join(name), directory.join(name)).unwrap();
    }
}

/// The events of a log by their frames, and the requests that can be repeated.
fn contents(log: &Log) -> Vec<String> {
    let mut reader = log.read(0).unwrap();
    let mut contents = Vec::new();
    while let Some(frame) = reader.next_frame().unwrap() {
        let read = frame.decompress().unwrap();
        contents.push(format!("{} {} {:?}", frame.tick(), frame.last_position(), read.requests()));
        contents.extend(read.iter().map(|event| format!("{event:?}")));
    }
    contents
}

#[tokio::test]
async fn a_log_of_version_1_reads_the_same_before_and_after_it_is_rewritten() {
    let directory = tempfile::tempdir().unwrap();
    copy_fixture(directory.path());
    assert!(examine(directory.path(), readable!()).unwrap().findings.is_empty());
    let log = Log::open(directory.path(), slow()).unwrap();
    let before = contents(&log);
    assert_eq!(log.head().position, 80);
    let requests = before.iter().filter(|line| line.contains("KeyedRequest")).count();
    assert_eq!((requests, before.len()), (8, 80 + 52));
    log.close();
    drop(log);
    // Opening it writes no frame.
    assert_eq!(segments(directory.path()), ["00000000000000000001.log"]);

    let log = Log::open(directory.path(), fast()).unwrap();
    let known = "{\"x\":1}".as_bytes().to_vec();
    let new = NewEvent { data: known, stream: Some("s1".to_string()), ..event(1) };
    let appended = log.append(vec![new, event(1000)]).await.unwrap();
    assert_eq!(appended.positions, Some(vec![1, 81]), "the identity of an old event is known");
    until("the old segment is rewritten", || old_segments(directory.path()) == 0);
    let after = contents(&log);
    assert_eq!(after[..before.len()], before);
    log.close();
    drop(log);
    let found = examine(directory.path(), readable!()).unwrap();
    assert!(found.findings.is_empty(), "{:?}", found.findings);
    let formats: Vec<_> =
        found.info.segments.iter().map(|s| (s.first_position, s.format)).collect();
    assert_eq!((formats, found.info.epoch), (vec![(1, 2), (81, 2)], 2));
    // Without the list, and without the indexes, which say where frames were.
    std::fs::remove_file(directory.path().join("segments")).unwrap();
    std::fs::remove_dir_all(directory.path().join("index")).unwrap();
    let log = Log::open(directory.path(), fast()).unwrap();
    assert_eq!(contents(&log), after);
    assert_eq!(log.epoch(), 3);
}

#[tokio::test]
async fn segments_are_rewritten_under_readers_and_appends() {
    let directory = tempfile::tempdir().unwrap();
    write_log(directory.path());
    let log = Log::open(directory.path(), slow()).unwrap();
    assert_eq!(read_all(&log), (EVENTS, 2 * EVENTS / PER_COMMIT as u64));
    log.close();
    drop(log);
    let options = LogOptions { rewrite_bytes_per_s: 20_000, ..LogOptions::default() };
    let log = Log::open(directory.path(), options).unwrap();
    append(&log, EVENTS + 1).await;
    let ended = AtomicBool::new(false);
    let reads = std::thread::scope(|scope| {
        let readers: Vec<_> = (0..3)
            .map(|reader| {
                let (log, ended, directory) = (&log, &ended, directory.path());
                scope.spawn(move || {
                    let mut reads = 0_u64;
                    while !ended.load(Ordering::Relaxed) || reads == 0 {
                        match reader {
                            0 => assert!(read_all(log).0 > EVENTS),
                            1 => {
                                let wanted: Vec<u64> =
                                    (1 + reads % 9..=EVENTS).step_by(9).collect();
                                let mut found = Vec::new();
                                log.visit_events(&wanted, |event| {
                                    found.push(event.position);
                                    true
                                })
                                .unwrap();
                                assert_eq!(found, wanted);
                            }
                            // Another process reads it in this way.
                            _ => {
                                let mut positions = Vec::new();
                                let found = examine(directory, |frame| {
                                    let events = frame.decompress()?;
                                    positions.extend(events.iter().map(|event| event.position));
                                    Ok(())
                                });
                                assert_eq!(found.unwrap().findings, []);
                                let expected = 1..=positions.len() as u64;
                                assert_eq!(positions, expected.collect::<Vec<_>>());
                            }
                        }
                        reads += 1;
                    }
                    reads
                })
            })
            .collect();
        // A reader that holds a place in the first segment, which is gone when it goes on.
        let mut held = log.read(0).unwrap();
        let first = held.next_frame().unwrap().unwrap();
        until("all segments are rewritten", || old_segments(directory.path()) == 0);
        let mut last = first.tick();
        while let Some(frame) = held.next_frame().unwrap() {
            assert!(frame.tick() > last);
            last = frame.tick();
        }
        assert_eq!(last, log.head().tick);
        ended.store(true, Ordering::Relaxed);
        readers.into_iter().map(|reader| reader.join().unwrap()).collect::<Vec<_>>()
    });
    assert!(reads.iter().all(|reads| *reads > 0), "{reads:?}");
    append(&log, EVENTS + 2).await;
    assert_eq!(log.append(events(EVENTS)).await.unwrap().stored, 0);
    log.close();
    drop(log);
    for _ in 0..2 {
        let log = Log::open(directory.path(), fast()).unwrap();
        assert_eq!(read_all(&log).0, EVENTS + 2);
        assert_eq!(log.append(events(EVENTS)).await.unwrap().stored, 0);
        let mut found = Vec::new();
        let version = log.read_stream("s3", 1, usize::MAX, |event| {
            found.push(event.position);
            true
        });
        let expected: Vec<u64> = (1..=EVENTS + 2).filter(|n| n % 7 == 3).collect();
        assert_eq!((version.unwrap(), found), (expected.len() as u64, expected));
        log.close();
    }
    assert_eq!(examine(directory.path(), readable!()).unwrap().findings, []);
}

/// A log of format 1 in memory.
fn faulty_log() -> FaultyFiles {
    let files = FaultyFiles::new();
    for (name, content) in version_1::files(&events(40), 4, 3) {
        files.append(&name).unwrap().write(&content).unwrap();
    }
    files.crash(usize::MAX);
    files
}

fn open_faulty(files: &FaultyFiles, options: LogOptions) -> Result<Log, LogError> {
    Log::open_with(Arc::new(files.clone()), options)
}

fn old_files(files: &FaultyFiles) -> usize {
    files.list().unwrap().iter().filter(|name| name.ends_with(".log")).count()
}

#[tokio::test]
async fn log_is_whole_after_a_crash_at_any_operation_of_a_rewrite() {
    for kept in [0, 100, usize::MAX] {
        for n in 0.. {
            let files = faulty_log();
            files.inject(Fault::StopsAt { n });
            let acknowledged = match open_faulty(&files, fast()) {
                // The crash came while it was opened.
                Err(_) => 40,
                Ok(log) => {
                    let appended = log.append(vec![event(41)]).await;
                    until("it is rewritten or stops", || files.is_dead() || old_files(&files) == 0);
                    log.close();
                    40 + u64::from(appended.is_ok())
                }
            };
            let whole = !files.is_dead();
            files.crash(kept);
            let log = open_faulty(&files, slow()).unwrap();
            let (found, _) = read_all(&log);
            assert!(found == acknowledged || found == 41, "stopped at {n}: {found} events");
            assert_eq!(log.append(events(40)).await.unwrap().stored, 0);
            log.close();
            drop(log);
            let log = open_faulty(&files, fast()).unwrap();
            if found == 40 {
                append(&log, 41).await;
            }
            until("it is rewritten", || old_files(&files) == 0);
            assert_eq!(read_all(&log).0, 41, "stopped at {n}");
            log.close();
            let names = files.list().unwrap();
            assert!(
                names.iter().all(|name| name == "segments" || name.ends_with(".log2")),
                "{names:?}"
            );
            if whole {
                assert!(n > 30, "{n} operations");
                break;
            }
        }
    }
}

#[tokio::test]
async fn a_disk_that_is_full_stops_the_rewriting_and_not_the_log() {
    let files = faulty_log();
    let log = open_faulty(&files, fast()).unwrap();
    append(&log, 41).await;
    until("it is rewritten", || old_files(&files) == 0);
    log.close();
    drop(log);
    for at in [0, 70, 300, 900] {
        let files = faulty_log();
        files.inject(Fault::NoSpace { at });
        let log = open_faulty(&files, fast()).unwrap();
        let _ = log.append(vec![event(41)]).await;
        assert!(old_files(&files) > 0);
        files.inject(Fault::NoSpace { at: u64::MAX });
        let appended = log.append(vec![event(41)]).await.unwrap();
        assert_eq!(appended.first_position, 41);
        assert_eq!(read_all(&log).0, 41);
        log.close();
        drop(log);
        files.crash(0);
        let log = open_faulty(&files, fast()).unwrap();
        until("it is rewritten", || old_files(&files) == 0);
        assert_eq!(read_all(&log).0, 41);
    }
}

#[tokio::test]
async fn a_last_segment_of_format_1_without_events_is_replaced_under_its_readers() {
    let directory = tempfile::tempdir().unwrap();
    version_1::write(directory.path(), &events(10), 5, 2);
    // The server of before has begun a segment, and only the time has passed.
    let log = Log::open(directory.path(), slow()).unwrap();
    let tick = log.head().tick;
    log.close();
    drop(log);
    let path = directory.path();
    let mut stub = std::fs::read(path.join("00000000000000000001.log")).unwrap();
    stub.truncate(64);
    stub[32..40].copy_from_slice(&11_u64.to_le_bytes());
    let crc = crc32fast::hash(&stub[16..]);
    stub[12..16].copy_from_slice(&crc.to_le_bytes());
    stub.extend(version_1::frame(tick + 1, 11, &[]));
    stub.extend(version_1::frame(tick + 2, 11, &[]));
    std::fs::write(path.join("00000000000000000011.log"), stub).unwrap();
    std::fs::remove_file(path.join("segments")).unwrap();

    let log = Log::open(path, slow()).unwrap();
    assert_eq!((log.head().position, log.head().tick), (10, tick + 2));
    let mut reader = log.read(0).unwrap();
    let mut ticks = Vec::new();
    while let Some(frame) = reader.next_frame().unwrap() {
        ticks.push(frame.tick());
    }
    append(&log, 11).await;
    assert!(
        segments(path).contains(&"00000000000000000011.log2".to_string()),
        "{:?}",
        segments(path)
    );
    let frame = reader.next_frame().unwrap().unwrap();
    assert_eq!((frame.first_position(), frame.count()), (11, 1));
    ticks.push(frame.tick());
    assert!(reader.next_frame().unwrap().is_none());
    assert!(ticks.is_sorted_by(|a, b| a < b), "{ticks:?}");
    assert_eq!(read_all(&log).0, 11);
    log.close();
    drop(log);
    assert_eq!(examine(path, readable!()).unwrap().findings, []);
}

#[tokio::test]
async fn positions_given_up_by_a_repair_stay_lost_in_a_rewritten_segment() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    write_log(path);
    // The first frame of the second segment, the last one of the third, and all of the fourth.
    let per_segment = (PER_COMMIT * COMMITS_PER_SEGMENT) as u64;
    let name = |n: u64| path.join(format!("{:020}.log", 1 + n * per_segment));
    for (n, from_end) in [(1, false), (2, true)] {
        let mut bytes = std::fs::read(name(n)).unwrap();
        let at = if from_end { bytes.len() - 50 } else { 64 + 60 };
        bytes[at] ^= 1;
        std::fs::write(name(n), bytes).unwrap();
    }
    std::fs::remove_file(name(3)).unwrap();

    let error = Log::open(path, fast()).err().unwrap();
    assert!(error.is_damage(), "the indexes cannot be made: {error}");
    let repair = Repair::plan(path, readable!()).unwrap();
    assert_eq!(repair.findings().len(), 3, "{:?}", repair.findings());
    repair.accept_loss().unwrap();
    drop(repair);
    let before = examine(path, readable!()).unwrap();
    assert_eq!(before.findings, []);
    let positions = |log: &Log| {
        let (mut reader, mut positions) = (log.read(0).unwrap(), Vec::new());
        while let Some(frame) = reader.next_frame().unwrap() {
            let events = frame.decompress().unwrap();
            positions.extend(events.iter().map(|event| event.position));
        }
        positions
    };
    let log = Log::open(path, slow()).unwrap();
    let left = positions(&log);
    let history = log.history();
    log.close();
    drop(log);
    assert!((EVENTS as usize - left.len()) >= 30, "{} are left", left.len());
    let log = Log::open(path, fast()).unwrap();
    until("it is rewritten", || old_segments(path) == 0);
    assert_eq!((positions(&log), log.history()), (left.clone(), history));
    for after in [19, 24, 25, 45, 60, 79, 80] {
        let mut reader = log.read(after).unwrap();
        let frame = reader.next_frame().unwrap().unwrap();
        let next = left.iter().copied().find(|position| *position > after).unwrap();
        assert!(
            frame.last_position() >= next && frame.first_position() <= next || frame.count() == 0
        );
    }
    log.close();
    drop(log);
    let after = examine(path, readable!()).unwrap();
    assert_eq!(after.findings, []);
    assert_eq!(after.info.gaps.len(), before.info.gaps.len());
}

#[tokio::test]
async fn a_segment_that_cannot_be_read_is_an_alarm_and_stays_as_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    write_log(path);
    let log = Log::open(path, slow()).unwrap();
    log.close();
    drop(log);
    let damaged = segments(path)[3].clone();
    let mut bytes = std::fs::read(path.join(&damaged)).unwrap();
    bytes[64 + 60] ^= 1;
    std::fs::write(path.join(&damaged), &bytes).unwrap();
    let alarms = Alarms::default();
    let log = Log::open(path, LogOptions { alarms: alarms.clone(), ..fast() }).unwrap();
    append(&log, EVENTS + 1).await;
    until("all others are rewritten", || old_segments(path) == 1);
    until("it is an alarm", || !alarms.list().is_empty());
    assert!(format!("{:?}", alarms.list()).contains(&damaged));
    assert!(std::fs::read(path.join(&damaged)).unwrap() == bytes);
    append(&log, EVENTS + 2).await;
}

#[tokio::test]
async fn control_frames_are_kept_in_order_and_take_no_position() {
    let directory = tempfile::tempdir().unwrap();
    let queries = |set: &str| {
        let file = QueryFile { path: "a.sql".to_string(), text: "SELECT 1".repeat(50) };
        Control::Queries(QueriesInUse { set: set.to_string(), files: vec![file] })
    };
    let letters =
        Control::Dismissal(DismissedLetters { view: "v".to_string(), dismissals: json!([1]) });
    // A segment holds a few frames: the set in use is known beyond it.
    let options = || LogOptions { segment_bytes_max: 300, ..LogOptions::default() };
    let log = Log::open(directory.path(), options()).unwrap();
    append(&log, 1).await;
    let first = log.control(queries("one")).await.unwrap();
    assert_eq!(first.position, 1);
    let again = log.control(queries("one")).await.unwrap();
    assert_eq!(again, first, "it is in use already");
    for n in 2..=10 {
        append(&log, n).await;
    }
    assert_eq!(log.control(letters.clone()).await.unwrap().position, 10);
    log.close();
    drop(log);
    for _ in 0..2 {
        let log = Log::open(directory.path(), options()).unwrap();
        let head = log.head();
        assert_eq!(log.control(queries("one")).await.unwrap(), head, "known after a restart");
        log.close();
    }
    let log = Log::open(directory.path(), options()).unwrap();
    assert!(log.control(queries("two")).await.unwrap().tick > first.tick);
    append(&log, 11).await;
    assert_eq!(log.epoch(), 4);
    let (mut reader, mut told) = (log.read(0).unwrap(), Vec::new());
    let mut epoch = 0;
    while let Some(frame) = reader.next_frame().unwrap() {
        assert!(frame.epoch() >= epoch);
        epoch = frame.epoch();
        if frame.kind() == FrameKind::Control {
            told.push((frame.last_position(), frame.control().unwrap().unwrap()));
        }
    }
    assert_eq!(told, [(1, queries("one")), (10, letters), (10, queries("two"))]);
    assert_eq!((read_all(&log).0, epoch), (11, 4));
    log.close();
    drop((log, reader));
    assert!(info(directory.path()).unwrap().segments.len() > 3);
    assert_eq!(log_after_close(directory.path()).await, "the log accepts no events: it is closing");
}

async fn log_after_close(directory: &Path) -> String {
    let log = Log::open(directory, LogOptions::default()).unwrap();
    log.close();
    let letters = DismissedLetters { view: String::new(), dismissals: json!([]) };
    log.control(Control::Dismissal(letters)).await.unwrap_err().to_string()
}

/// Bytes of a header of format 2 with its checksum.
fn seal_frame(bytes: &mut [u8]) {
    let crc = crc32fast::hash(&bytes[8..64]);
    bytes[4..8].copy_from_slice(&crc.to_le_bytes());
}

#[tokio::test]
async fn log_of_a_later_version_is_refused_and_left_unchanged() {
    let sound = tempfile::tempdir().unwrap();
    let log = Log::open(sound.path(), LogOptions::default()).unwrap();
    append(&log, 1).await;
    append(&log, 2).await;
    log.close();
    drop(log);
    let name = "00000000000000000001.log2";
    let bytes = std::fs::read(sound.path().join(name)).unwrap();
    let frame = 64 + u32::from_le_bytes(bytes[64 + 8..64 + 12].try_into().unwrap()) as usize;
    let second = 64 + frame;
    let mut kind = bytes.clone();
    kind[second + 14] = 9;
    kind[second + 24..second + 28].copy_from_slice(&(1_u32 << 24 | 2 << 16 | 3).to_le_bytes());
    seal_frame(&mut kind[second..]);
    let mut feature = bytes;
    feature[48] = 4;
    let crc = crc32fast::hash(&[&feature[..12], &feature[16..64]].concat());
    feature[12..16].copy_from_slice(&crc.to_le_bytes());
    let json = r#"{"format":4,"segments":"otherwise"}"#;
    let list = format!("{:08x} {json}\n", crc32fast::hash(json.as_bytes())).repeat(2);
    let cases: [(&str, &str, Vec<u8>, &str); 4] = [
        ("a frame", name, kind, "a frame of kind 9: Heliostat 1.2.3 or later reads it"),
        ("a segment", name, feature, "a segment with features 4: Heliostat 0.1.0 or later"),
        ("a file", "00000000000000000003.log4", b"HELIOLOG".to_vec(), "format 4"),
        ("a list", "segments", list.into_bytes(), "format 4"),
    ];
    for (what, file, content, expected) in cases {
        let directory = tempfile::tempdir().unwrap();
        for name in [name, "segments"] {
            std::fs::copy(sound.path().join(name), directory.path().join(name)).unwrap();
        }
        std::fs::write(directory.path().join(file), &content).unwrap();
        let error = Log::open(directory.path(), LogOptions::default()).err().unwrap();
        assert!(matches!(error, LogError::Newer { .. }), "{what}: {error}");
        assert!(error.to_string().contains(expected), "{what}: {error}");
        assert!(
            matches!(examine(directory.path(), readable!()), Err(LogError::Newer { .. })),
            "{what}"
        );
        let repair = Repair::plan(directory.path(), readable!()).err().unwrap();
        assert!(matches!(repair, LogError::Newer { .. }), "{what}: {repair}");
        assert!(std::fs::read(directory.path().join(file)).unwrap() == content, "{what}");
    }
}

#[tokio::test]
async fn frames_of_an_earlier_epoch_are_not_of_the_log() {
    let directory = tempfile::tempdir().unwrap();
    let name = "00000000000000000001.log2";
    let mut lengths = Vec::new();
    for n in 1..=2 {
        let log = Log::open(directory.path(), LogOptions::default()).unwrap();
        append(&log, n).await;
        assert_eq!(log.epoch(), n);
        // No close: the list does not say how far the segment is synced.
        std::mem::drop(log);
        lengths.push(std::fs::metadata(directory.path().join(name)).unwrap().len() as usize);
    }
    let bytes = std::fs::read(directory.path().join(name)).unwrap();
    // The writer of before goes on, although the log was taken over.
    let mut stale = bytes[lengths[0]..].to_vec();
    stale[32..40].copy_from_slice(&1_u64.to_le_bytes());
    stale[40] = stale[40].wrapping_add(1);
    stale[48..56].copy_from_slice(&3_u64.to_le_bytes());
    seal_frame(&mut stale);
    std::fs::write(directory.path().join(name), [bytes, stale].concat()).unwrap();
    let log = Log::open(directory.path(), LogOptions::default()).unwrap();
    assert_eq!((log.epoch(), read_all(&log).0), (3, 2));
    append(&log, 3).await;
}

fn log_command(server: &Server, arguments: &[&str]) -> (i32, String) {
    let data = server.data();
    let data = data.to_str().unwrap();
    let Output { status, stdout, stderr } =
        server.command(&[&["log"], arguments, &["--data-dir", data]].concat());
    (status.code().unwrap(), String::from_utf8([stdout, stderr].concat()).unwrap())
}

async fn total(server: &Server) -> u64 {
    let rows = server.get("/v1/views/total/rows").await;
    rows["rows"][0]["n"].to_string().trim_matches('"').parse().unwrap_or(0)
}

/// The number of control frames, as `log info` prints it.
fn control_frames(server: &Server) -> u64 {
    let (code, told) = log_command(server, &["info"]);
    assert_eq!(code, 0, "{told}");
    let lines = told.lines().filter(|line| line.contains(".log2"));
    lines.map(|line| line.split_whitespace().nth(5).unwrap().parse::<u64>().unwrap()).sum()
}

#[tokio::test]
async fn a_server_goes_on_with_a_log_of_version_1_whatever_kills_it() {
    let server = Server::configured(QUERIES, "single_process = true");
    server.kill();
    let log = server.data().join("log");
    std::fs::remove_dir_all(server.data()).unwrap();
    write_log(&log);
    for command in ["info", "verify"] {
        let (code, told) = log_command(&server, &[command]);
        assert!(code == 0 && told.contains(&EVENTS.to_string()), "{told}");
    }
    let (code, before) = log_command(&server, &["dump"]);
    assert_eq!((code, before.lines().count() as u64), (0, EVENTS));

    let mut kills = 0;
    for point in ["log_rewrite_copied", "log_rewrite_indexed", "log_rewrite_listed"] {
        for nth in [0, 2] {
            // The server dies at this point after it has passed it `nth` times.
            let environment = format!("{point}={nth}*off->return");
            server.without_environment();
            server.set_environment("FAILPOINTS", &environment);
            assert_eq!(server.ends().code(), None, "it is killed by a signal");
            kills += 1;
            let (code, told) = log_command(&server, &["verify"]);
            assert_eq!(code, 0, "{environment}: {told}");
            assert_eq!(log_command(&server, &["dump"]).1, before, "{environment}");
        }
    }
    assert_eq!(kills, 6);
    server.without_environment();
    server.run();
    server.until(EVENTS, || total(&server)).await;
    let appended = server.append(&json!({"type": "N", "id": "new", "data": {"x": 7}})).await;
    assert_eq!(appended["first_position"], EVENTS + 1);
    until("all segments are rewritten", || old_segments(&log) == 0);
    server.until(EVENTS + 1, || total(&server)).await;
    let again =
        server.append(&json!({"type": "N", "id": "id-3", "stream": "s3", "data": {"x": 3}})).await;
    assert_eq!(again["duplicates"], 1);
    let stream = server.get("/v1/streams/s3").await;
    assert_eq!(stream["stream_version"], (1..=EVENTS).filter(|n| n % 7 == 3).count());
    let (code, after) = log_command(&server, &["dump", "--limit", &EVENTS.to_string()]);
    assert_eq!((code, after), (0, before));
    assert_eq!(log_command(&server, &["verify"]).0, 0);
}

#[tokio::test]
async fn the_log_tells_of_query_files_in_use_and_of_dismissals() {
    let server = Server::start(QUERIES);
    server.append(&json!([{"type": "N", "data": {"x": 1}}, {"type": "N", "data": {"x": 0}}])).await;
    assert_eq!(control_frames(&server), 1);
    server.restart();
    server.until(1, || total(&server)).await;
    assert_eq!(control_frames(&server), 1, "the same files are in use");
    server.write("r.sql", "CREATE MATERIALIZED VIEW one AS SELECT 1 AS x FROM n;");
    let is_live = || async { server.get("/v1/views/one").await["status"] == "live" };
    server.until(true, is_live).await;
    assert_eq!(control_frames(&server), 2);
    server.write("s.sql", "CREATE MATERIALIZED VIEW two AS SELECT nothing FROM n;");
    server.post("/v1/dead-letters/retry", &json!({})).await;
    assert_eq!(control_frames(&server), 2, "files with an error are not in use");
    let (status, dismissed) =
        server.post("/v1/dead-letters/dismiss", &json!({"view": "total"})).await;
    assert_eq!((status, &dismissed["dismissed"]), (200, &json!(1)));
    let data = server.data().join("log");
    until("the dismissal is in the log", || control_frames(&server) == 3);
    server.kill();
    let mut told = Vec::new();
    examine(&data, |frame| {
        told.extend(frame.control()?);
        Ok(())
    })
    .unwrap();
    let [Control::Queries(first), Control::Queries(second), Control::Dismissal(letters)] =
        &told[..]
    else {
        panic!("{told:?}")
    };
    assert_eq!(first.files.len(), 1);
    let texts: Vec<&str> = second.files.iter().map(|file| file.text.as_str()).collect();
    assert!(texts.contains(&QUERIES[0].1) && texts.len() == 2, "{texts:?}");
    assert_ne!(first.set, second.set);
    assert_eq!(letters.view, "total");
    assert!(letters.dismissals[0]["expression"].is_string(), "{:?}", letters.dismissals);
}

#[tokio::test]
async fn a_log_of_more_segments_than_the_process_may_open_files_is_read_and_served() {
    const SEGMENTS: u64 = 1150;
    let server = Server::start(QUERIES);
    server.kill();
    std::fs::remove_dir_all(server.data()).unwrap();
    let log = server.data().join("log");
    version_1::write(&log, &events(SEGMENTS), 1, 1);
    let (data, limit) = (server.data(), "ulimit -n 256; exec \"$@\"");
    let limited = |arguments: &[&str]| {
        let mut command = Command::new("sh");
        command.args(["-c", limit, "sh", env!("CARGO_BIN_EXE_heliostat")]).args(arguments);
        command
    };
    let data = data.to_str().unwrap();
    let verified = limited(&["log", "verify", data]).output().unwrap();
    let told = String::from_utf8([verified.stdout, verified.stderr].concat()).unwrap();
    assert!(told.contains(&format!("ok: {SEGMENTS} events in {SEGMENTS} segments")), "{told}");

    server.set_program("sh", &["-c", limit, "sh", env!("CARGO_BIN_EXE_heliostat")]);
    for rewritten in [200, 300] {
        server.run();
        let descriptors = || {
            std::fs::read_dir(format!("/proc/{}/fd", server.pid_of("write-side").unwrap()))
                .unwrap()
                .count()
        };
        server.until_within(Duration::from_secs(120), SEGMENTS, || total(&server)).await;
        for after in (0..SEGMENTS).step_by(100) {
            let events = server.get_text(&format!("/v1/events?after={after}")).await;
            assert_eq!(events.lines().count() as u64, SEGMENTS - after);
        }
        let end = Instant::now() + Duration::from_secs(120);
        while old_segments(&log) as u64 > SEGMENTS - rewritten {
            assert!(Instant::now() < end, "{} are not rewritten", old_segments(&log));
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let stream = server.get("/v1/streams/s3?limit=1000").await;
        let expected = (1..=SEGMENTS).filter(|n| n % 7 == 3).count();
        assert_eq!(stream["events"].as_array().unwrap().len(), expected);
        assert!(descriptors() < 200, "{} descriptors", descriptors());
        server.kill();
    }
    let again = limited(&["log", "verify", data]).output().unwrap();
    assert!(again.status.success());
}
