//! The log under faults of its disk: whatever was acknowledged is there afterwards, once and in
//! order, and whatever cannot be promised is refused.

use std::sync::Arc;
use std::time::Duration;

use heliostat::internals::log::{
    AppendError, DiskFiles, Fault, FaultyFiles, Files, Log, LogError, LogOptions,
};
use heliostat::internals::model::Alarms;
use heliostat::internals::model::NewEvent;

fn event(n: u64) -> NewEvent {
    NewEvent {
        id: n.to_string(),
        source: String::new(),
        event_type: "Thing".to_string(),
        version: 1,
        stream: None,
        time_us: 0,
        data: format!(r#"{{"n":{n},"text":"{}"}}"#, "x".repeat((n % 50) as usize)).into_bytes(),
        metadata: Vec::new(),
    }
}

fn open(files: &FaultyFiles) -> Result<Log, LogError> {
    Log::open_with(Arc::new(files.clone()), LogOptions::default())
}

/// The ids of all events, whose positions must be dense from 1.
fn ids(log: &Log) -> Vec<u64> {
    let mut reader = log.read(0).unwrap();
    let mut ids = Vec::new();
    while let Some(frame) = reader.next_frame().unwrap() {
        for event in frame.decompress().unwrap().iter() {
            assert_eq!(event.position, ids.len() as u64 + 1);
            ids.push(event.id.parse().unwrap());
        }
    }
    ids
}

async fn append(log: &Log, ns: std::ops::Range<u64>) -> Result<(), AppendError> {
    log.append(ns.map(event).collect::<Vec<_>>()).await.map(|_| ())
}

/// A log with events 0 to 9 in two commits.
async fn small_log() -> (FaultyFiles, u64) {
    let files = FaultyFiles::new();
    let log = open(&files).unwrap();
    append(&log, 0..4).await.unwrap();
    append(&log, 4..10).await.unwrap();
    let bytes = log.stats().disk_bytes;
    log.close();
    (files, bytes)
}

#[tokio::test]
async fn a_write_torn_at_any_byte_leaves_what_was_acknowledged() {
    let (_, bytes) = small_log().await;
    // A frame of four events is shorter than all that has been written.
    for at in 0..bytes {
        let (files, _) = small_log().await;
        let log = open(&files).unwrap();
        files.inject(Fault::TornWrite { at });
        let acknowledged = append(&log, 10..14).await;
        log.close();
        drop(log);
        files.crash(usize::MAX);
        let log = open(&files).unwrap();
        let mut expected: Vec<u64> = (0..10).collect();
        if acknowledged.is_ok() {
            expected.extend(10..14);
        }
        assert_eq!(ids(&log), expected, "torn at byte {at}");
        append(&log, 20..21).await.unwrap();
        expected.push(20);
        assert_eq!(ids(&log), expected, "after recovery from byte {at}");
        log.close();
        if acknowledged.is_ok() {
            return;
        }
    }
    panic!("no write was whole");
}

#[tokio::test]
async fn request_that_was_not_synced_is_kept_whole_or_lost_whole() {
    for kept in 0..200 {
        let (files, _) = small_log().await;
        let log = open(&files).unwrap();
        files.inject(Fault::SyncFails { n: 0 });
        let answer = append(&log, 10..14).await;
        assert!(matches!(answer, Err(AppendError::Stopped { .. })), "{answer:?}");
        log.close();
        drop(log);
        files.crash(kept);
        let log = open(&files).unwrap();
        let found = ids(&log);
        // All of the request, or none of it.
        assert!(found.len() == 10 || found.len() == 14, "{} of 14 events", found.len());
        log.close();
    }
}

#[tokio::test]
async fn after_a_failed_sync_nothing_is_acknowledged_any_more() {
    let (files, _) = small_log().await;
    let log = open(&files).unwrap();
    files.inject(Fault::SyncFails { n: 1 });
    append(&log, 10..11).await.unwrap();
    let answers = futures::future::join_all((11..40).map(|n| append(&log, n..n + 1))).await;
    assert!(answers.iter().all(|a| matches!(a, Err(AppendError::Stopped { .. }))), "{answers:?}");
    let reason = tokio::time::timeout(std::time::Duration::from_secs(5), log.failed()).await;
    assert!(reason.unwrap().contains("writing failed"));
    assert!(append(&log, 50..51).await.is_err(), "it never tries again");
}

/// The log goes on with as much room as there may be.
const ROOM: Fault = Fault::NoSpace { at: u64::MAX };

#[tokio::test]
async fn appends_on_a_full_disk_are_refused_until_there_is_room() {
    for at in [0, 1, 39, 40, 41, 60, 100] {
        let (files, _) = small_log().await;
        let alarms = Alarms::default();
        let options = LogOptions { alarms: alarms.clone(), ..LogOptions::default() };
        let log = Log::open_with(Arc::new(files.clone()), options).unwrap();
        files.inject(Fault::NoSpace { at });
        // The requests come in one commit or several: all are refused.
        let answers = futures::future::join_all((1..4).map(|n| append(&log, n * 10..n * 10 + 10)));
        for answer in answers.await {
            assert!(matches!(answer, Err(AppendError::Full { .. })), "{answer:?}");
        }
        assert!(log.refuses().unwrap().contains("space"));
        assert_eq!(alarms.list().len(), 1);
        assert_eq!(ids(&log), (0..10).collect::<Vec<_>>());
        append(&log, 0..4).await.expect("what is known needs no room");
        files.inject(ROOM);
        append(&log, 10..14).await.unwrap();
        assert_eq!((log.refuses(), alarms.list().len()), (None, 0));
        assert_eq!(ids(&log), (0..14).collect::<Vec<_>>());
        log.close();
        drop(log);
        files.crash(0);
        assert_eq!(ids(&open(&files).unwrap()), (0..14).collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn a_crash_on_a_full_disk_loses_nothing() {
    for kept in [0, usize::MAX] {
        let (files, _) = small_log().await;
        let log = open(&files).unwrap();
        files.inject(Fault::NoSpace { at: 60 });
        assert!(append(&log, 10..30).await.is_err());
        files.crash(kept);
        drop(log);
        assert_eq!(ids(&open(&files).unwrap()), (0..10).collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn room_is_noticed_without_an_append_and_time_does_not_end_a_full_log() {
    let (files, _) = small_log().await;
    let log = open(&files).unwrap();
    files.inject(Fault::NoSpace { at: 3 });
    log.keep_time(Some(Duration::from_millis(2)));
    let refuses = |expected: bool| {
        let log = log.clone();
        async move {
            while log.refuses().is_some() != expected {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(10), refuses(true)).await.unwrap();
    let full = log.head();
    assert!(append(&log, 10..14).await.is_err());
    files.inject(ROOM);
    tokio::time::timeout(Duration::from_secs(10), refuses(false)).await.unwrap();
    let mut head = log.subscribe();
    head.wait_for(|head| head.tick > full.tick).await.unwrap();
    append(&log, 10..14).await.unwrap();
    assert_eq!(ids(&log).len(), 14);
}

#[tokio::test]
async fn when_a_write_cannot_be_cut_off_nothing_is_acknowledged_any_more() {
    let (files, _) = small_log().await;
    let log = open(&files).unwrap();
    files.inject(Fault::NoSpaceNoCut { at: 50 });
    let answer = append(&log, 10..30).await;
    assert!(matches!(answer, Err(AppendError::Stopped { .. })), "{answer:?}");
    files.inject(ROOM);
    assert!(append(&log, 40..41).await.is_err(), "it never tries again");
    log.close();
    drop(log);
    files.crash(usize::MAX);
    assert_eq!(ids(&open(&files).unwrap()), (0..10).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_segment_that_finds_no_room_begins_later() {
    let files = FaultyFiles::new();
    let options = LogOptions { segment_bytes_max: 300, ..LogOptions::default() };
    let log = Log::open_with(Arc::new(files.clone()), options.clone()).unwrap();
    let mut expected = 0;
    for n in 0..40 {
        files.inject(Fault::NoSpace { at: n * 40 % 700 });
        let first = expected;
        match append(&log, first..first + 5).await {
            Ok(()) => expected += 5,
            Err(error) => assert!(matches!(error, AppendError::Full { .. }), "{error}"),
        }
        files.inject(ROOM);
        append(&log, expected..expected + 5).await.unwrap();
        expected += 5;
        assert_eq!(ids(&log), (0..expected).collect::<Vec<_>>());
    }
    log.close();
    drop(log);
    files.crash(0);
    assert!(files.list().unwrap().len() > 10, "{:?}", files.list());
    let log = Log::open_with(Arc::new(files.clone()), options).unwrap();
    assert_eq!(ids(&log), (0..expected).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_crash_while_a_segment_begins_leaves_a_log_that_opens() {
    let options = LogOptions { segment_bytes_max: 300, ..LogOptions::default() };
    // Wherever the writes of a commit and of a new segment with its list stop.
    for at in 0..1500 {
        let files = FaultyFiles::new();
        let log = Log::open_with(Arc::new(files.clone()), options.clone()).unwrap();
        append(&log, 0..5).await.unwrap();
        append(&log, 5..10).await.unwrap();
        files.inject(Fault::TornWrite { at });
        let acknowledged = append(&log, 10..15).await.is_ok();
        drop(log);
        files.crash(usize::MAX);
        let log = Log::open_with(Arc::new(files.clone()), options.clone()).unwrap();
        let expected = if acknowledged { 15 } else { 10 };
        assert_eq!(ids(&log), (0..expected).collect::<Vec<_>>(), "torn at byte {at}");
        append(&log, expected..expected + 1).await.unwrap();
        log.close();
        if acknowledged {
            assert!(at > 300, "the list was written, too: {at}");
            return;
        }
    }
    panic!("no write was whole");
}

#[tokio::test]
async fn damage_before_the_tail_is_an_error_that_names_the_place() {
    let (files, _) = small_log().await;
    files.edit("00000000000000000001.log2", |bytes| bytes[64 + 85] ^= 1);
    let Err(LogError::Damaged { segment, offset, .. }) = open(&files) else {
        panic!("a damaged log was opened")
    };
    assert_eq!((segment.as_str(), offset), ("00000000000000000001.log2", 64));
}

#[tokio::test]
async fn unsynced_events_shown_after_a_restart_survive_a_power_loss() {
    let (files, _) = small_log().await;
    let log = open(&files).unwrap();
    files.inject(Fault::SyncFails { n: 0 });
    assert!(append(&log, 10..14).await.is_err());
    log.close();
    drop(log);
    // The process ends, the machine does not: what was written is in memory still.
    files.inject(Fault::SyncFails { n: u64::MAX });
    let log = open(&files).unwrap();
    let shown = ids(&log);
    log.close();
    drop(log);
    files.crash(0);
    let log = open(&files).unwrap();
    assert_eq!(ids(&log), shown);
}

#[tokio::test]
async fn damage_in_the_last_segment_is_not_taken_for_its_end() {
    let directory = tempfile::tempdir().unwrap();
    let log = Log::open(directory.path(), LogOptions::default()).unwrap();
    append(&log, 0..4).await.unwrap();
    append(&log, 4..10).await.unwrap();
    log.close();
    drop(log);
    assert!(heliostat::internals::log::info(directory.path()).is_ok());
    let path = directory.path().join("00000000000000000001.log2");
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[64 + 45] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let found = heliostat::internals::log::info(directory.path());
    assert!(matches!(found, Err(LogError::Damaged { offset: 64, .. })), "{found:?}");
}

#[tokio::test]
async fn segments_roll_while_they_are_read_and_a_restart_goes_on() {
    let directory = tempfile::tempdir().unwrap();
    let options = LogOptions { segment_bytes_max: 4096, ..LogOptions::default() };
    let log = Log::open(directory.path(), options.clone()).unwrap();
    let id = log.id();
    let mut reader = log.read(0).unwrap();
    let mut read = 0;
    for n in 0..200 {
        let first = n * 10;
        log.append((first..first + 10).map(event).collect::<Vec<_>>()).await.unwrap();
        while let Some(frame) = reader.next_frame().unwrap() {
            assert_eq!(frame.first_position(), read + 1);
            read = frame.last_position();
        }
        assert_eq!(read, first + 10);
    }
    assert!(matches!(Log::open(directory.path(), options.clone()), Err(LogError::Locked { .. })));
    let last = log.head();
    log.close();
    // A reader holds the directory too.
    drop((log, reader));
    let segments = heliostat::internals::log::info(directory.path()).unwrap().segments;
    assert!(segments.len() > 5, "{} segments", segments.len());
    let log = Log::open(directory.path(), options).unwrap();
    assert_eq!((log.id(), log.head()), (id, last));
    let appended = log.append(vec![event(2000)]).await.unwrap();
    assert_eq!(appended.first_position, 2001);
    assert!(appended.tick > last.tick);
    let again = log.append(vec![event(1)]).await.unwrap();
    assert_eq!((again.first_position, again.stored), (2, 0));
    let mut reader = log.read(1500).unwrap();
    let frame = reader.next_frame().unwrap().unwrap();
    assert!(frame.first_position() <= 1501 && frame.last_position() >= 1501);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_of_one_commit_stay_whole_and_ticks_increase() {
    let directory = tempfile::tempdir().unwrap();
    let log = Log::open(directory.path(), LogOptions::default()).unwrap();
    let tasks: Vec<_> = (0..16)
        .map(|task| {
            let log = log.clone();
            tokio::spawn(async move {
                let mut answers = Vec::new();
                for n in 0..50 {
                    let count = 1 + (task + n) % 5;
                    let first = task * 1000 + n * 10;
                    let answer =
                        log.append((first..first + count).map(event).collect::<Vec<_>>()).await;
                    answers.push((first, count, answer.unwrap()));
                }
                answers
            })
        })
        .collect();
    let mut answers = Vec::new();
    for task in tasks {
        answers.extend(task.await.unwrap());
    }
    let ids = ids(&log);
    for (first, count, answer) in answers {
        let from = answer.first_position as usize - 1;
        assert_eq!(answer.last_position - answer.first_position + 1, count);
        assert_eq!(ids[from..from + count as usize], (first..first + count).collect::<Vec<_>>());
    }
    let mut reader = log.read(0).unwrap();
    let mut tick = 0;
    while let Some(frame) = reader.next_frame().unwrap() {
        assert!(frame.tick() > tick);
        tick = frame.tick();
    }
    assert!(log.stats().commits < 800, "commits are shared: {}", log.stats().commits);
}

#[tokio::test]
async fn appends_beyond_the_limit_of_the_queue_are_refused_at_once() {
    let files = FaultyFiles::new();
    let options = LogOptions { queue_bytes_max: 10_000, ..LogOptions::default() };
    let log = Log::open_with(Arc::new(files), options).unwrap();
    let requests = (0..2000).map(|n| append(&log, n * 10..n * 10 + 10));
    let answers = futures::future::join_all(requests).await;
    let busy = answers.iter().filter(|a| matches!(a, Err(AppendError::Busy { .. }))).count();
    assert!(busy > 0 && busy < 2000, "{busy} of 2000 refused");
    assert_eq!(ids(&log).len(), (2000 - busy) * 10);
}

#[tokio::test]
async fn time_that_passes_without_events_is_there_after_a_restart() {
    let files = FaultyFiles::new();
    let log = open(&files).unwrap();
    append(&log, 0..3).await.unwrap();
    let began = log.head();
    log.keep_time(Some(Duration::from_millis(2)));
    let mut head = log.subscribe();
    head.wait_for(|head| head.tick > began.tick + 10).await.unwrap();
    append(&log, 3..5).await.unwrap();
    let appended = log.head();
    head.wait_for(|head| head.tick > appended.tick).await.unwrap();
    log.keep_time(None);
    log.close();
    let last = log.head();
    assert_eq!((last.position, appended.position), (5, 5));
    let log = open(&files).unwrap();
    assert_eq!((log.head(), ids(&log)), (last, vec![0, 1, 2, 3, 4]));
    let mut behind = log.read(3).unwrap();
    let mut ticks = Vec::new();
    while let Some(frame) = behind.next_frame().unwrap() {
        assert!(frame.last_position() >= 3);
        ticks.push(frame.tick());
    }
    assert!(ticks.len() > 2 && ticks.is_sorted(), "{ticks:?}");
    assert_eq!(ticks.last(), Some(&last.tick));
}

#[tokio::test]
async fn time_that_fills_a_segment_does_not_begin_another_of_its_name() {
    let directory = tempfile::tempdir().unwrap();
    let options = LogOptions { segment_bytes_max: 200, ..LogOptions::default() };
    let log = Log::open(directory.path(), options.clone()).unwrap();
    log.keep_time(Some(Duration::from_millis(1)));
    for n in 0..3 {
        let first = log.append(vec![event(n)]).await.unwrap();
        let began = log.head();
        log.subscribe().wait_for(|head| head.tick > began.tick + 30).await.unwrap();
        // Its tick is that of its commit, however much time has passed.
        let again = log.append(vec![event(n)]).await.unwrap();
        assert_eq!((again.tick, again.stored), (first.tick, 0));
    }
    log.keep_time(None);
    log.close();
    drop(log);
    heliostat::internals::log::info(directory.path()).unwrap();
    let log = Log::open(directory.path(), options).unwrap();
    assert_eq!(ids(&log), [0, 1, 2]);
    log.close();
}

/// Opens the log in a directory even if another process has it, as where the file system knows no locks.
fn take_over(directory: &std::path::Path) -> Log {
    let _ = std::fs::remove_file(directory.join("lock"));
    Log::open_with(Arc::new(DiskFiles::open(directory).unwrap()), LogOptions::default()).unwrap()
}

fn assert_taken_over(result: Result<(), AppendError>) {
    let Err(AppendError::Stopped { reason }) = result else { panic!("{result:?}") };
    assert!(reason.contains("another process has taken the log over"), "{reason}");
}

#[tokio::test]
async fn writer_whose_log_was_taken_over_writes_no_frame() {
    let directory = tempfile::tempdir().unwrap();
    let first = take_over(directory.path());
    append(&first, 1..4).await.unwrap();
    let second = take_over(directory.path());
    assert_eq!(second.epoch(), first.epoch() + 1);
    // Neither before nor after the other one has written.
    assert_taken_over(append(&first, 4..6).await);
    append(&second, 4..8).await.unwrap();
    assert_taken_over(append(&first, 8..9).await);
    first.close();
    append(&second, 8..10).await.unwrap();
    assert_eq!(ids(&second), (1..10).collect::<Vec<_>>());
    second.close();
    assert_eq!(ids(&take_over(directory.path())), (1..10).collect::<Vec<_>>());
}

/// It is stopped between its last look and its write.
#[cfg_attr(not(feature = "failpoints"), ignore = "needs the feature failpoints")]
#[tokio::test(flavor = "multi_thread")]
async fn frame_that_is_written_while_the_log_is_taken_over_is_not_acknowledged() {
    let _failpoints = fail::FailScenario::setup();
    let directory = tempfile::tempdir().unwrap();
    let first = take_over(directory.path());
    append(&first, 1..4).await.unwrap();
    fail::cfg("before_frame", "1*pause").unwrap();
    let late = tokio::spawn({
        let first = first.clone();
        async move { append(&first, 100..110).await }
    });
    tokio::time::sleep(Duration::from_millis(200)).await;
    let second = take_over(directory.path());
    append(&second, 4..8).await.unwrap();
    fail::remove("before_frame");
    assert_taken_over(late.await.unwrap());
    // The second one sees that its file has changed, and is opened anew: the late frame is cut off.
    let Err(AppendError::Stopped { reason }) = append(&second, 8..9).await else { panic!() };
    assert!(reason.contains("something else has changed it"), "{reason}");
    second.close();
    let third = take_over(directory.path());
    append(&third, 8..10).await.unwrap();
    assert_eq!(ids(&third), (1..10).collect::<Vec<_>>());
}
