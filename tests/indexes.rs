//! The indexes beside the log: after restarts, crashes and the loss of the indexes themselves, every
//! event, stream and repeatable request is found again.

use std::collections::BTreeMap;
use std::path::Path;

use heliostat::internals::log::{AppendError, Conflict, Log, LogOptions};
use heliostat::internals::model::Position;
use heliostat::internals::model::{Append, NewEvent, RequestKey};

/// More than the indexes keep in memory before they write to disk.
const EVENTS: u64 = 600_000;
const STREAMS: u64 = 5_000;

fn event(n: u64) -> NewEvent {
    NewEvent {
        id: format!("id-{n}"),
        source: "test".to_string(),
        event_type: "Thing".to_string(),
        version: 1,
        stream: Some(format!("stream-{}", n % STREAMS)),
        time_us: 0,
        data: format!(r#"{{"n":{n}}}"#).into_bytes(),
        metadata: Vec::new(),
    }
}

fn open(directory: &Path) -> Log {
    Log::open(directory, LogOptions::default()).unwrap()
}

async fn fill(log: &Log, ns: std::ops::Range<u64>) {
    for first in ns.clone().step_by(5000) {
        let events: Vec<NewEvent> = (first..(first + 5000).min(ns.end)).map(event).collect();
        log.append(events).await.unwrap();
    }
}

/// Checks samples of everything that the indexes know of `count` events.
async fn check(log: &Log, count: u64) {
    for n in (0..count).step_by(9973).chain([0, count - 1]) {
        let again = log.append(vec![event(n)]).await.unwrap();
        assert_eq!((again.first_position, again.stored), (n + 1, 0), "event {n}");
        assert_eq!(again.streams[0].1, stream_len(n % STREAMS, count));
        let mut other = event(n);
        other.data = b"{}".to_vec();
        let conflict = Conflict::Id { index: 0, position: n + 1 };
        assert_eq!(log.append(vec![other]).await, Err(AppendError::Conflicts(vec![conflict])));
    }
    for stream in [0, 1, STREAMS / 2, STREAMS - 1] {
        let mut read: Vec<(u64, Position)> = Vec::new();
        let version = log.read_stream(&format!("stream-{stream}"), 1, usize::MAX, |event| {
            read.push((event.stream_version, event.position));
            true
        });
        let len = stream_len(stream, count);
        assert_eq!(version.unwrap(), len);
        let expected = (0..len).map(|version| (version + 1, stream + version * STREAMS + 1));
        assert_eq!(read, expected.collect::<Vec<_>>(), "stream {stream}");
        let mut page = Vec::new();
        let from = len / 2;
        log.read_stream(&format!("stream-{stream}"), from, 3, |event| {
            page.push(event.stream_version);
            true
        })
        .unwrap();
        assert_eq!(page, [from, from + 1, from + 2]);
    }
    assert_eq!(log.head().position, count);
}

fn stream_len(stream: u64, count: u64) -> u64 {
    count / STREAMS + u64::from(stream < count % STREAMS)
}

#[tokio::test]
async fn identities_survive_restarts_and_the_loss_of_the_indexes() {
    let directory = tempfile::tempdir().unwrap();
    let index = directory.path().join("index");
    let log = open(directory.path());
    fill(&log, 0..EVENTS).await;
    check(&log, EVENTS).await;
    assert!(log.index_bytes() > 0, "some of the indexes are on disk");
    log.close();
    drop(log);

    let log = open(directory.path());
    check(&log, EVENTS).await;
    fill(&log, EVENTS..EVENTS + 7).await;
    log.close();
    drop(log);

    std::fs::remove_dir_all(&index).unwrap();
    let log = open(directory.path());
    check(&log, EVENTS + 7).await;
    log.close();
    drop(log);

    // The indexes are made anew after any damage, whatever fjall says about it.
    for entry in std::fs::read_dir(&index).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            std::fs::write(path, b"oops").unwrap();
        }
    }
    let log = open(directory.path());
    check(&log, EVENTS + 7).await;
    log.close();
}

#[tokio::test]
async fn indexes_of_another_history_are_made_anew() {
    let directory = tempfile::tempdir().unwrap();
    let backup = tempfile::tempdir().unwrap();
    let log = open(directory.path());
    fill(&log, 0..100).await;
    log.close();
    drop(log);
    let saved = ["00000000000000000001.log2", "segments"];
    let copy = |from: &Path, to: &Path| {
        for file in saved {
            std::fs::copy(from.join(file), to.join(file)).unwrap();
        }
    };
    copy(directory.path(), backup.path());
    let log = open(directory.path());
    fill(&log, 100..400_000).await;
    log.close();
    drop(log);
    // The log is restored from a backup, and another history follows.
    for entry in std::fs::read_dir(directory.path()).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|e| e == "log") {
            std::fs::remove_file(path).unwrap();
        }
    }
    copy(backup.path(), directory.path());
    let log = open(directory.path());
    assert_eq!(log.head().position, 100);
    let mut new = event(200_000);
    new.stream = None;
    assert_eq!(log.append(vec![new]).await.unwrap().first_position, 101);
    assert_eq!(log.append(vec![event(7)]).await.unwrap().first_position, 8);
    log.close();
}

fn keyed(key: &str, fingerprint: u128, n: u64) -> Append {
    let key = Some(RequestKey { key: key.to_string(), fingerprint });
    Append { events: vec![event(n), event(n + 1)], key, made_ids: true, ..Append::default() }
}

#[tokio::test]
async fn repeatable_requests_survive_restarts_until_their_time_is_over() {
    let directory = tempfile::tempdir().unwrap();
    let log = open(directory.path());
    let first = log.append(keyed("k", 1, 0)).await.unwrap();
    // Enough to move it from memory to disk.
    fill(&log, 1000..EVENTS).await;
    // The events have other ids, as made ids are.
    let again = log.append(keyed("k", 1, 500)).await.unwrap();
    assert_eq!((again.repeated, again.positions), (true, Some(vec![1, 2])));
    assert_eq!(again.tick, first.tick);
    assert_eq!(log.append(keyed("k", 2, 0)).await, Err(AppendError::KeyReused));
    log.close();
    drop(log);
    for _ in 0..2 {
        let log = open(directory.path());
        let again = log.append(keyed("k", 1, 500)).await.unwrap();
        assert_eq!((again.repeated, again.positions), (true, Some(vec![1, 2])));
        log.close();
        drop(log);
        let _ = std::fs::remove_dir_all(directory.path().join("index"));
    }
    let options = LogOptions { request_life_ms: 1, ..LogOptions::default() };
    let log = Log::open(directory.path(), options).unwrap();
    let anew = log.append(keyed("k", 2, 500)).await.unwrap();
    assert_eq!((anew.repeated, anew.stored), (false, 2));
    log.close();
}

#[tokio::test]
async fn requests_in_one_commit_see_each_other() {
    let directory = tempfile::tempdir().unwrap();
    let log = open(directory.path());
    let before = log.stats().commits;
    let mut requests = Vec::new();
    for n in 0..64_u64 {
        let mut append = Append::from(vec![event(0)]);
        append.events[0].id = format!("{}", n / 2);
        append.expected_versions = vec![(0, n / 4)];
        requests.push(log.append(append));
    }
    // Of each four requests, two have one id, and only one of the two ids can have the version.
    let mut outcomes: BTreeMap<&str, u64> = BTreeMap::new();
    for answer in futures::future::join_all(requests).await {
        let outcome = match answer {
            Ok(appended) if appended.stored == 1 => "stored",
            Ok(_) => "duplicate",
            Err(AppendError::Conflicts(_)) => "conflict",
            Err(error) => panic!("{error}"),
        };
        *outcomes.entry(outcome).or_default() += 1;
    }
    let expected = BTreeMap::from([("stored", 16), ("duplicate", 16), ("conflict", 32)]);
    assert_eq!(outcomes, expected);
    assert!(log.stats().commits - before < 16, "they shared commits");
    assert_eq!(log.head().position, 16);
}
