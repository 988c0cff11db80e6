use std::sync::Arc;

use bytes::Bytes;

use super::manifest::Manifest;
use super::store::DamagedSnapshot;
use super::*;
use crate::dataflow::{PackedRun, RunShape};
use crate::log::{Fault, FaultyFiles, Files};
use crate::model::Head;
use crate::model::failure::FailureChange;
use crate::model::row::Row;
use crate::model::view::{Unwritten, UnwrittenSpan, Update};

const LOG: &str = "a log";

fn identity(name: &str) -> ViewIdentity {
    ViewIdentity { name: name.to_string(), generation: format!("{name}-1"), plan: "p".to_string() }
}

fn run(byte: u8, len: usize) -> PackedRun {
    PackedRun::in_file(Bytes::from(vec![byte; len]), RunShape { blocks: 1, updates: len, base: 7 })
}

fn head(tick: u64) -> Head {
    Head { tick, position: tick * 10 }
}

/// A view on two workers, of which the first one has these runs.
fn view(name: &str, tick: u64, runs: &[PackedRun]) -> ViewSnapshot {
    let failure = FailureChange {
        expression: "a / b".into(),
        reason: "division by zero".to_string(),
        position: Some(tick),
        event_type: None,
        diff: 1,
    };
    ViewSnapshot {
        identity: identity(name),
        head: head(tick),
        rows: tick,
        failures: vec![failure],
        unwritten: unwritten(tick),
        workers: vec![vec![runs.to_vec(), Vec::new()], vec![Vec::new(), Vec::new()]],
        tables: Vec::new(),
    }
}

/// Changes that a view's table lacks at a tick.
fn unwritten(tick: u64) -> Vec<Unwritten> {
    let span = |from, to| UnwrittenSpan { from, to: head(to) };
    let change =
        Update { key: Row::from_slice(&tick.to_le_bytes()), value: Row::default(), diff: 1 };
    vec![
        Unwritten { span: span(None, tick - 1), changes: vec![change; 2] },
        Unwritten { span: span(Some(tick - 1), tick), changes: Vec::new() },
    ]
}

fn open(files: &FaultyFiles) -> SnapshotStore {
    let (store, unusable) = SnapshotStore::open(Arc::new(files.clone()), LOG, u64::MAX).unwrap();
    assert_eq!(unusable, Vec::<String>::new());
    store
}

/// Writes and publishes; how many bytes were written.
fn publish(store: &SnapshotStore, views: Vec<ViewSnapshot>) -> std::io::Result<u64> {
    let written = store.write(views)?;
    let bytes = written.bytes;
    store.publish(written, |_| true)?;
    Ok(bytes)
}

/// The tick of a view as it is found, after looking that its content is that of this tick.
fn found(store: &SnapshotStore, name: &str) -> Result<Option<u64>, DamagedSnapshot> {
    let Some(found) = store.find(&identity(name), |_, _| true)? else { return Ok(None) };
    let tick = found.head.tick;
    assert_eq!((found.head, found.rows, found.kept.tick), (head(tick), tick, tick));
    assert_eq!(found.failures[0].position, Some(tick));
    assert_eq!(found.unwritten, unwritten(tick));
    assert_eq!(found.kept.workers.len(), 2);
    let runs = &found.kept.workers[0][0];
    assert!(runs.iter().any(|run| run.bytes().iter().all(|byte| u64::from(*byte) == tick)));
    Ok(Some(tick))
}

#[test]
fn views_are_found_as_they_were_published() {
    let files = FaultyFiles::new();
    let store = open(&files);
    assert_eq!(found(&store, "a").unwrap(), None);
    publish(&store, vec![view("a", 3, &[run(3, 10_000)]), view("b", 3, &[run(3, 1)])]).unwrap();
    let store = open(&files);
    assert_eq!((found(&store, "a").unwrap(), found(&store, "b").unwrap()), (Some(3), Some(3)));
    let other = ViewIdentity { plan: "another one".to_string(), ..identity("a") };
    assert!(store.find(&other, |_, _| true).unwrap().is_none());
}

#[test]
fn views_outside_of_a_snapshot_stay_until_they_are_not_wanted() {
    let files = FaultyFiles::new();
    let store = open(&files);
    publish(&store, vec![view("a", 3, &[run(3, 10)]), view("b", 3, &[run(3, 10)])]).unwrap();
    publish(&store, vec![view("a", 5, &[run(5, 10)])]).unwrap();
    assert_eq!((found(&store, "a").unwrap(), found(&store, "b").unwrap()), (Some(5), Some(3)));
    // Both manifests are looked at: where the newer state cannot be used, the one before may.
    let before = store.find(&identity("a"), |head, _| head.tick < 5).unwrap().unwrap();
    assert_eq!(before.head, head(3));
    for tick in [6, 7] {
        let written = store.write(vec![view("a", tick, &[run(tick as u8, 10)])]).unwrap();
        store.publish(written, |view| view.name == "a").unwrap();
    }
    assert_eq!((found(&store, "a").unwrap(), found(&store, "b").unwrap()), (Some(7), None));
}

#[test]
fn runs_are_written_once_until_too_little_of_their_file_is_in_use() {
    let files = FaultyFiles::new();
    let store = open(&files);
    let (large, small) = (run(1, 100_000), run(2, 20_000));
    let both = [large, small];
    assert!(publish(&store, vec![view("a", 1, &both)]).unwrap() > 120_000);
    let third = run(2, 12_000);
    let bytes = publish(&store, vec![view("a", 2, &[&both[..], &[third]].concat())]).unwrap();
    assert!((12_000..20_000).contains(&bytes), "{bytes}");
    // Restored runs are known, too.
    let store = open(&files);
    let restored = store.find(&identity("a"), |_, _| true).unwrap().unwrap();
    let mut runs = restored.kept.workers[0][0].clone();
    runs.push(run(3, 10));
    assert!(publish(&store, vec![view("a", 3, &runs)]).unwrap() < 10_000);
    // A sixth of the first file is left in use.
    runs.remove(0);
    let bytes = publish(&store, vec![view("a", 3, &runs)]).unwrap();
    assert!((20_000..35_000).contains(&bytes), "{bytes}");
    publish(&store, vec![view("a", 4, &[run(4, 10)])]).unwrap();
    publish(&store, vec![view("a", 5, &[run(5, 10)])]).unwrap();
    let names = files.list().unwrap();
    assert_eq!(names.len(), 4, "two manifests with a file each are left: {names:?}");
}

#[test]
fn failed_publication_leaves_the_old_snapshot_or_the_new_one() {
    let faults = (0..12)
        .flat_map(|n| [Fault::StopsAt { n }, Fault::SyncFails { n }])
        .chain((0..40).map(|n| Fault::TornWrite { at: n * 700 }))
        .chain((0..40).map(|n| Fault::NoSpace { at: n * 700 }));
    let (mut failed, mut went_on) = (0, 0);
    for fault in faults {
        for kept in [0, 100, 5_000] {
            let files = FaultyFiles::new();
            let store = open(&files);
            publish(&store, vec![view("a", 3, &[run(3, 9_000)])]).unwrap();
            files.inject(fault);
            let result = publish(&store, vec![view("a", 5, &[run(5, 12_000)])]);
            failed += u32::from(result.is_err());
            let full = matches!(fault, Fault::NoSpace { .. });
            if full && result.is_err() {
                // The same process goes on once there is room.
                files.crash(usize::MAX);
                publish(&store, vec![view("a", 6, &[run(6, 10)])]).unwrap();
                assert_eq!(found(&store, "a").unwrap(), Some(6));
                went_on += 1;
            }
            files.crash(kept);
            let (store, _) = SnapshotStore::open(Arc::new(files.clone()), LOG, u64::MAX).unwrap();
            let tick = found(&store, "a").unwrap();
            match result {
                Ok(_) => assert_eq!(tick, Some(5), "{fault:?}"),
                Err(_) => assert!(matches!(tick, Some(3 | 5 | 6)), "{fault:?}: {tick:?}"),
            }
            publish(&store, vec![view("a", 7, &[run(7, 10)])]).unwrap();
            assert_eq!(found(&open(&files), "a").unwrap(), Some(7));
        }
    }
    assert!(failed > 100 && went_on > 20, "{failed} {went_on}");
}

#[test]
fn flipped_and_missing_bytes_are_found_and_named() {
    let files = FaultyFiles::new();
    let store = open(&files);
    publish(&store, vec![view("a", 3, &[run(3, 9_000)]), view("b", 3, &[run(3, 10)])]).unwrap();
    let file = |files: &FaultyFiles| {
        let names = files.list().unwrap();
        names.into_iter().filter(|name| name.starts_with("runs-")).max().unwrap()
    };
    let first = file(&files);
    files.edit(&first, |bytes| bytes[4_000] ^= 1);
    let error = found(&open(&files), "a").unwrap_err().to_string();
    assert!(error.contains(&first) && error.contains("checksum"), "{error}");
    assert_eq!(found(&open(&files), "b").unwrap(), Some(3), "its bytes are whole");
    files.edit(&first, |bytes| bytes[4_000] ^= 1);
    publish(&store, vec![view("a", 5, &[run(5, 9_000)])]).unwrap();
    let second = file(&files);
    files.edit(&second, |bytes| bytes.truncate(5_000));
    assert_eq!(found(&open(&files), "a").unwrap(), Some(3), "the one before is whole");
    files.remove(&first).unwrap();
    let error = found(&open(&files), "a").unwrap_err().to_string();
    assert!(error.contains(&second) && error.contains("cut short"), "{error}");
}

#[test]
fn parts_beyond_a_limit_are_compared_after_they_are_found() {
    let files = FaultyFiles::new();
    publish(&open(&files), vec![view("a", 3, &[run(3, 9_000), run(3, 500)])]).unwrap();
    let names = files.list().unwrap();
    let file = names.iter().find(|name| name.starts_with("runs-")).unwrap();
    files.edit(file, |bytes| bytes[4_000] ^= 1);
    let (store, _) = SnapshotStore::open(Arc::new(files), LOG, 1_000).unwrap();
    assert_eq!(found(&store, "a").unwrap(), Some(3), "the large run is compared later");
    let part = store.take_unchecked().unwrap();
    assert_eq!(part.view, identity("a"));
    assert!(part.check(|| false).is_ok(), "it was told to stop");
    let error = part.check(|| true).unwrap_err().to_string();
    assert!(error.contains(file) && error.contains("checksum"), "{error}");
    assert!(store.take_unchecked().is_none(), "the small run was compared at once");
}

#[test]
fn manifests_that_are_damaged_or_of_others_are_refused_with_the_reason() {
    let files = FaultyFiles::new();
    let store = open(&files);
    publish(&store, vec![view("a", 3, &[run(3, 10)])]).unwrap();
    publish(&store, vec![view("a", 5, &[run(5, 10)])]).unwrap();
    let reason = |log: &str| {
        let (store, unusable) =
            SnapshotStore::open(Arc::new(files.clone()), log, u64::MAX).unwrap();
        (found(&store, "a").unwrap(), unusable.join("; "))
    };
    let names = files.list().unwrap();
    let newest = names.iter().filter_map(|name| Manifest::number(name)).max().unwrap();
    let name = Manifest::name(newest);
    let whole = files.read_all(&name).unwrap();
    let change = |from: &str, to: &str| {
        let text = String::from_utf8(whole.clone()).unwrap();
        assert!(text.contains(from), "{text}");
        let json = text[17..].trim_end().replacen(from, to, 1);
        let sum = xxhash_rust::xxh3::xxh3_64(json.as_bytes());
        let bytes = format!("{sum:016x} {json}\n").into_bytes();
        files.replace(&name, &bytes).unwrap();
    };
    change("\"format\":1", "\"format\":2");
    let (tick, why) = reason(LOG);
    assert!(tick == Some(3) && why.contains(&name) && why.contains("format 2"), "{why}");
    files.replace(&name, &whole).unwrap();
    assert_eq!(reason(LOG), (Some(5), String::new()), "the version that wrote it reads it again");
    change(super::manifest::formats(), "0-0");
    let (tick, why) = reason(LOG);
    assert!(tick == Some(3) && why.contains("packs rows differently"), "{why}");
    let (tick, why) = reason("another log");
    assert!(tick.is_none() && why.contains("of another log"), "{why}");
    files.edit(&name, |bytes| bytes[30] ^= 1);
    let (tick, why) = reason(LOG);
    assert!(tick == Some(3) && why.contains("checksum is wrong"), "{why}");
    // Refused manifests do not stop the next publication.
    let (store, _) = SnapshotStore::open(Arc::new(files.clone()), LOG, u64::MAX).unwrap();
    publish(&store, vec![view("a", 6, &[run(6, 10)])]).unwrap();
    assert_eq!(reason(LOG), (Some(6), String::new()));
}
