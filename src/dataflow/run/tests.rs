use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use differential_dataflow::trace::Builder;
use differential_dataflow::trace::implementations::spine_fueled::{Merger, SpineBatch};
use timely::progress::frontier::AntichainRef;

use super::*;
use crate::dataflow::arrange::Key;
use crate::model::row::Row;

/// The updates of a run, in its order.
type Content = BTreeMap<(Key, Vec<u8>, Tick), i64>;

struct TestRandom(u64);

impl TestRandom {
    fn below(&mut self, end: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }
}

/// Updates of which some have long values, and some keys many.
fn content(random: &mut TestRandom, updates: u64, keys: u64, long: bool) -> Content {
    let mut content = Content::new();
    for _ in 0..updates {
        let key = random.below(keys);
        let key = if random.below(3) == 0 { 0 } else { key };
        let value = random.below(1 + updates / 2);
        let len = match random.below(50) {
            0 if long => 5_000 + random.below(9_000),
            1 => 900,
            _ => random.below(30),
        };
        let mut bytes = value.to_be_bytes().to_vec();
        bytes.resize(8 + len as usize, value as u8);
        let diff = if random.below(4) == 0 { -1 } else { 1 };
        let tick = 1_000_000 + random.below(4);
        *content.entry((Key::new(&key.to_be_bytes()), bytes, tick)).or_default() += diff;
    }
    content.retain(|_, diff| *diff != 0);
    content
}

fn run(content: &Content) -> Option<Rc<Run<Multiplicity>>> {
    let mut builder = RunBuilder::<Row, Multiplicity>::default();
    let updates: Vec<_> = content
        .iter()
        .map(|((key, value, tick), diff)| {
            ((key.clone(), Row::from_slice(value)), *tick, Multiplicity::new(*diff))
        })
        .collect();
    for chunk in updates.chunks(7) {
        builder.push(&mut chunk.iter().map(|(d, t, r)| (d.clone(), *t, *r)).collect());
    }
    builder.done().map(Rc::new)
}

fn read(runs: Vec<Rc<Run<Multiplicity>>>) -> Content {
    let mut cursor = RunsCursor::new(runs);
    let mut content = Content::new();
    let mut last: Option<Key> = None;
    while let Some(key) = cursor.key() {
        let key = Key::with_hash(key.hash, key.bytes);
        assert!(last.is_none_or(|last| last < key), "keys come in order, and once");
        while let Some(value) = cursor.value() {
            for (tick, diff) in cursor.updates() {
                let at = (key.clone(), value.to_vec(), tick);
                *content.entry(at).or_default() += diff.known().unwrap();
            }
            cursor.next_value();
        }
        last = Some(key);
        cursor.next_key();
    }
    content
}

fn merged(
    one: &Rc<Run<Multiplicity>>,
    two: &Rc<Run<Multiplicity>>,
    since: Tick,
    fuel: isize,
) -> Option<Rc<Run<Multiplicity>>> {
    let mut merger = merge::RunMerger::new(one, two, AntichainRef::new(&[since]));
    loop {
        let mut left = fuel;
        merger.work(one, two, &mut left);
        if left > 0 {
            return merger.done().map(Rc::new);
        }
    }
}

#[test]
fn runs_in_files_are_what_they_would_be_in_memory() {
    let directory = tempfile::tempdir().unwrap();
    let mut random = TestRandom(11);
    for (updates, keys) in [(3, 1), (20_000, 50), (60_000, 40_000)] {
        let contents = [true, false].map(|long| content(&mut random, updates, keys, long));
        let in_memory = contents.each_ref().map(|content| run(content).unwrap());
        let since = 1_000_002;
        let merge = |runs: &[Rc<Run<Multiplicity>>; 2]| merged(&runs[0], &runs[1], since, 1 << 20);
        let expected = merge(&in_memory).unwrap();
        spill_to(Some(Arc::new(Spill::of_all(directory.path()))));
        let in_files = contents.each_ref().map(|content| run(content).unwrap());
        let both = merge(&in_files).unwrap();
        spill_to(None);
        assert!(in_memory.iter().all(|run| run.file_bytes() == 0));
        assert!(both.file_bytes() > 0 && in_files.iter().all(|run| run.file_bytes() > 0));
        assert!(both.bytes == expected.bytes, "{updates} updates");
        assert!(read(vec![both]) == read(vec![expected]));
    }
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0, "files have no name");
    // Without a directory the runs are in memory.
    spill_to(Some(Arc::new(Spill::of_all(&directory.path().join("missing")))));
    assert_eq!(run(&content(&mut random, 100, 5, false)).unwrap().file_bytes(), 0);
    spill_to(None);
}

#[test]
fn a_run_has_what_it_was_made_of() {
    let mut random = TestRandom(7);
    for (updates, keys) in [(1, 1), (3, 1), (200, 5), (5_000, 3), (5_000, 4_000), (20_000, 50)] {
        for long in [false, true] {
            let content = content(&mut random, updates, keys, long);
            let Some(run) = run(&content) else { panic!("{updates} updates are no run") };
            assert_eq!(run.len(), content.len());
            assert!(read(vec![run]) == content);
        }
    }
    assert!(run(&Content::new()).is_none());
}

#[test]
fn runs_side_by_side_are_read_as_one() {
    let mut random = TestRandom(11);
    let parts: Vec<Content> =
        (0..5).map(|n| content(&mut random, 1 + n * 900, 300, true)).collect();
    let mut all = Content::new();
    for ((key, value, tick), diff) in parts.iter().flatten() {
        *all.entry((key.clone(), value.clone(), *tick)).or_default() += diff;
    }
    let mut found = read(parts.iter().filter_map(run).collect());
    found.retain(|_, diff| *diff != 0);
    all.retain(|_, diff| *diff != 0);
    assert!(found == all);
}

#[test]
fn merged_runs_have_the_sums_of_both_however_the_merge_is_suspended() {
    let mut random = TestRandom(13);
    for (updates, keys) in [(1, 1), (50, 5), (4_000, 2), (4_000, 3_000)] {
        for fuel in [1, 100, isize::MAX] {
            let one = content(&mut random, updates, keys, true);
            let mut two = content(&mut random, updates, keys, true);
            // Some of it takes back what the first one has.
            two.extend(one.iter().take(20).map(|(at, diff)| (at.clone(), -diff)));
            let since = 1_000_000 + random.below(5);
            let mut expected = Content::new();
            for ((key, value, tick), diff) in one.iter().chain(&two) {
                let at = (key.clone(), value.clone(), (*tick).max(since));
                *expected.entry(at).or_default() += diff;
            }
            expected.retain(|_, diff| *diff != 0);
            let (one, two) = (run(&one).unwrap(), run(&two).unwrap());
            let found = merged(&one, &two, since, fuel);
            assert_eq!(found.as_ref().map_or(0, |run| run.len()), expected.len());
            assert!(read(found.into_iter().collect()) == expected);
        }
    }
}

/// Updates that one merge has copied are copied again by the next one.
#[test]
fn runs_that_are_merged_one_after_the_other_have_the_sums_of_all() {
    let mut random = TestRandom(29);
    for (updates, keys) in [(10, 3), (900, 2), (900, 100_000), (3_000, 400)] {
        let (mut all, mut run_of_all) = (Content::new(), None::<Rc<Run<Multiplicity>>>);
        for since in [0, 1_000_000, 1_000_002, 1_000_003, 1_000_003, 1_000_009] {
            let next = content(&mut random, updates, keys, true);
            for ((key, value, tick), diff) in std::mem::take(&mut all).iter().chain(&next) {
                let at = (key.clone(), value.clone(), (*tick).max(since));
                *all.entry(at).or_default() += diff;
            }
            all.retain(|_, diff| *diff != 0);
            let next = run(&next).unwrap();
            run_of_all = match &run_of_all {
                Some(before) => merged(before, &next, since, 500),
                None => Some(next),
            };
            let found = run_of_all.iter().cloned().collect();
            assert!(read(found) == all, "{updates} {keys} {since}");
        }
    }
}

/// A spine gives a merge fuel for what its runs have. One that takes more is not done when the next run
/// comes, which is a panic.
#[test]
fn a_merge_takes_fuel_for_its_updates_and_no_more() {
    let mut random = TestRandom(23);
    for keys in [1, 40, 100_000] {
        let (one, two) =
            (content(&mut random, 3_000, keys, true), content(&mut random, 900, keys, true));
        let (one, two) = (run(&one).unwrap(), run(&two).unwrap());
        let mut merger = merge::RunMerger::new(&one, &two, AntichainRef::new(&[1_000_002]));
        let mut fuel = (one.len() + two.len() + 1) as isize;
        merger.work(&one, &two, &mut fuel);
        assert_eq!(fuel, 1);
    }
}

#[test]
fn merging_what_cancels_out_leaves_nothing() {
    let one = content(&mut TestRandom(17), 500, 20, true);
    let two = one.iter().map(|(at, diff)| (at.clone(), -diff)).collect();
    assert!(merged(&run(&one).unwrap(), &run(&two).unwrap(), 2_000_000, 10).is_none());
}

#[test]
fn a_cursor_finds_every_key_and_what_follows_missing_ones() {
    let mut random = TestRandom(19);
    for (updates, keys) in [(1, 1), (900, 3), (6_000, 5_000)] {
        let parts: Vec<Content> =
            (0..3).map(|_| content(&mut random, updates, keys, true)).collect();
        let runs = || parts.iter().filter_map(run).collect::<Vec<_>>();
        let mut there: Vec<Key> =
            parts.iter().flatten().map(|((key, _, _), _)| key.clone()).collect();
        there.sort();
        there.dedup();
        let mut wanted: Vec<Key> = (0..keys + 50).map(|key| Key::new(&key.to_be_bytes())).collect();
        wanted.sort();
        for step in [1, 2, 17, 400] {
            let mut cursor = RunsCursor::new(runs());
            for (index, key) in wanted.iter().enumerate().step_by(step) {
                if index % 3 == 0 {
                    // A key whose values were passed in part.
                    cursor.next_value();
                }
                cursor.seek_key(KeyRef::from(key));
                let first = there.iter().find(|there| *there >= key);
                assert_eq!(cursor.key(), first.map(KeyRef::from));
            }
        }
    }
}

#[test]
fn accumulators_come_back_as_they_were() {
    use crate::aggregate::Slot;
    let mut out = Vec::new();
    let accumulator = Accumulator { rows: Multiplicity::OVERFLOW, slots: Default::default() };
    accumulator.pack(&mut out);
    let mut from = &out[..];
    assert_eq!(Accumulator::unpack(&mut from), accumulator);
    assert!(from.is_empty());
    assert_eq!(Slot::unpack(&mut &[0x7f][..]), None);
}
