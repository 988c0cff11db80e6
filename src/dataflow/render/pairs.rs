//! Joins of two arrangements that suspend anywhere, also among the rows of one key.
//!
//! Differential dataflow's join operator takes new batches and holds capabilities; how two lists of
//! batches are matched is a [`JoinTactic`] of ours. Of the rows of a key, updates are taken in the order
//! of their times, each beside those of the other side that came before it, whose times are moved up to
//! the first one that is still to come, so that what has cancelled out by then is not matched. (This is
//! how differential dataflow matches a key, too.)

use std::rc::Rc;

use differential_dataflow::consolidation::consolidate;
use differential_dataflow::lattice::Lattice;
use differential_dataflow::operators::arrange::{Arranged, TraceAgent};
use differential_dataflow::operators::join::{Fresh, JoinTactic, join_with_tactic};
use differential_dataflow::trace::cursor::{CursorList, cursor_list};
use differential_dataflow::trace::implementations::Vector;
use differential_dataflow::trace::implementations::ord_neu::{OrdValBatch, OrdValSpine};
use differential_dataflow::trace::{Cursor, Navigable};
use timely::Accountable;
use timely::dataflow::Stream;
use timely::progress::Timestamp;

use crate::dataflow::arrange::Key;
use crate::dataflow::guard::{Guard, Slice, StepSlices};
use crate::model::multiplicity::Multiplicity;
use crate::model::row::Row;

/// Rows by key at times of any kind.
pub type RowSpine<T> = OrdValSpine<Key, Row, T, Multiplicity>;
type TimedBatch<T> = Rc<OrdValBatch<Vector<((Key, Row), T, Multiplicity)>>>;
type TimedCursor<T> = CursorList<<TimedBatch<T> as Navigable>::Cursor>;

/// A pair of rows with one key, key, left row and right row; when; and how often.
pub type TimedPair<T> = ((Row, Row, Row), T, Multiplicity);

/// How many pairs are handed on at a time.
const PAIRS: usize = 1 << 12;
/// How many pairs of rows of one key are matched at once, where one side has few rows.
const PAIRS_AT_ONCE: usize = 1 << 14;
/// A side with fewer updates of a key than this is few.
const FEW_UPDATES: usize = 10;
/// After how many pairs the time is looked at.
const PAIRS_PER_LOOK: usize = 256;
/// More records than the operator takes of an input before it ends for now.
const END_FOR_NOW: i64 = 1 << 20;

/// JoinedPairs on their way. What the join operator counts is work: the last pairs of a slice count as more
/// records than it takes at a time.
pub struct JoinedPairs<T> {
    /// The pairs.
    pub pairs: Vec<TimedPair<T>>,
    work: i64,
}

impl<T> Default for JoinedPairs<T> {
    fn default() -> Self {
        JoinedPairs { pairs: Vec::new(), work: 0 }
    }
}

impl<T> From<Vec<TimedPair<T>>> for JoinedPairs<T> {
    fn from(pairs: Vec<TimedPair<T>>) -> Self {
        JoinedPairs { work: pairs.len() as i64, pairs }
    }
}

impl<T> Accountable for JoinedPairs<T> {
    fn record_count(&self) -> i64 {
        self.work
    }
}

/// The pairs of rows with equal keys.
pub fn join<'scope, T: Timestamp + Lattice>(
    left: Arranged<'scope, TraceAgent<RowSpine<T>>>,
    right: Arranged<'scope, TraceAgent<RowSpine<T>>>,
    name: &str,
    guard: &Guard,
) -> Stream<'scope, T, JoinedPairs<T>> {
    let slices = Rc::new(StepSlices::new(guard.clone()));
    join_with_tactic(left, right, name, SlicedTactic { guard: guard.clone(), slices })
}

struct SlicedTactic {
    guard: Guard,
    slices: Rc<StepSlices>,
}

impl<T: Timestamp + Lattice> JoinTactic<T, TimedBatch<T>, TimedBatch<T>, JoinedPairs<T>>
    for SlicedTactic
{
    fn prep(
        &mut self,
        left: Vec<TimedBatch<T>>,
        right: Vec<TimedBatch<T>>,
        fresh: Fresh,
        meet: T,
    ) -> Box<dyn Iterator<Item = JoinedPairs<T>>> {
        let of = |(cursor, batches), is_fresh| JoinSide { cursor, batches, is_fresh };
        let is_left = matches!(fresh, Fresh::Input0);
        Box::new(Matching {
            guard: self.guard.clone(),
            slices: Rc::clone(&self.slices),
            left: of(cursor_list(left), is_left),
            right: of(cursor_list(right), !is_left),
            meet,
            key: None,
            out: Vec::new(),
            done: false,
        })
    }
}

/// One side of a match of batches.
struct JoinSide<T: Timestamp + Lattice> {
    cursor: TimedCursor<T>,
    batches: Vec<TimedBatch<T>>,
    /// Its updates are new; the other side's were there.
    is_fresh: bool,
}

impl<T: Timestamp + Lattice> JoinSide<T> {
    /// The updates of the key that the cursor is at. Those that were there before are as of `meet`,
    /// before which nobody can tell them apart.
    fn load<'a>(
        cursor: &mut TimedCursor<T>,
        batches: &'a Vec<TimedBatch<T>>,
        meet: Option<&T>,
    ) -> Vec<(&'a Row, T, Multiplicity)> {
        let mut updates = Vec::new();
        let mut times: Vec<(T, Multiplicity)> = Vec::new();
        while let Some(row) = cursor.get_val(batches) {
            cursor.map_times(batches, |time, diff| {
                times.push((meet.map_or_else(|| time.clone(), |meet| time.join(meet)), *diff));
            });
            consolidate(&mut times);
            updates.extend(times.drain(..).map(|(time, diff)| (row, time, diff)));
            cursor.step_val(batches);
        }
        updates
    }
}

/// The match of two lists of batches, as far as it has come.
struct Matching<T: Timestamp + Lattice> {
    guard: Guard,
    slices: Rc<StepSlices>,
    left: JoinSide<T>,
    right: JoinSide<T>,
    meet: T,
    /// The key whose rows are being matched, if they are many.
    key: Option<KeyMatching<T>>,
    out: Vec<TimedPair<T>>,
    done: bool,
}

impl<T: Timestamp + Lattice> Iterator for Matching<T> {
    type Item = JoinedPairs<T>;

    fn next(&mut self) -> Option<JoinedPairs<T>> {
        if self.done || self.guard.enter() {
            return None;
        }
        let slice = self.slices.now();
        self.run(&slice);
        slice.made(self.out.len());
        let mut pairs = JoinedPairs::from(std::mem::take(&mut self.out));
        if slice.is_over() {
            pairs.work += END_FOR_NOW;
        }
        Some(pairs)
    }
}

impl<T: Timestamp + Lattice> Matching<T> {
    /// Goes on until there are some pairs, the time is over, or it is done.
    fn run(&mut self, slice: &Slice) {
        let Matching { guard, left, right, meet, key, out, done, .. } = self;
        let mut keys = 0;
        while out.len() < PAIRS {
            keys += 1;
            if keys % PAIRS_PER_LOOK == 0 && slice.is_over() {
                return;
            }
            if let Some(matching) = key {
                if !matching.run(out, slice) {
                    return;
                }
                *key = None;
                continue;
            }
            let at = (left.cursor.get_key(&left.batches), right.cursor.get_key(&right.batches));
            let (Some(left_key), Some(right_key)) = at else {
                *done = true;
                return;
            };
            match left_key.cmp(right_key) {
                std::cmp::Ordering::Less => left.cursor.seek_key(&left.batches, right_key),
                std::cmp::Ordering::Greater => right.cursor.seek_key(&right.batches, left_key),
                std::cmp::Ordering::Equal => {
                    let (left_meet, right_meet) = match left.is_fresh {
                        true => (None, Some(&*meet)),
                        false => (Some(&*meet), None),
                    };
                    let lefts = JoinSide::load(&mut left.cursor, &left.batches, left_meet);
                    let rights = JoinSide::load(&mut right.cursor, &right.batches, right_meet);
                    let (new, old) = match left.is_fresh {
                        true => (lefts.len(), rights.len()),
                        false => (rights.len(), lefts.len()),
                    };
                    if new > 0 {
                        guard.check_rows(old, "a join");
                    }
                    let few = lefts.len() < FEW_UPDATES || rights.len() < FEW_UPDATES;
                    if few && lefts.len().saturating_mul(rights.len()) <= PAIRS_AT_ONCE {
                        for (left, left_time, left_diff) in &lefts {
                            for (right, right_time, right_diff) in &rights {
                                let rows =
                                    (left_key.row.clone(), Row::clone(left), Row::clone(right));
                                let diff = left_diff.times(*right_diff);
                                out.push((rows, left_time.join(right_time), diff));
                            }
                        }
                    } else {
                        *key = Some(KeyMatching::new(&left_key.row, &lefts, &rights));
                    }
                    left.cursor.step_key(&left.batches);
                    right.cursor.step_key(&right.batches);
                }
            }
        }
    }
}

/// The updates of one key on one side, in the order of their times.
struct KeySide<T> {
    rows: Vec<Row>,
    /// Time, index of the row, difference.
    updates: Vec<(T, u32, Multiplicity)>,
    /// Of each update the meet of its time and all behind it.
    meets: Vec<T>,
    /// Updates before this one are in `past`.
    next: usize,
    past: Vec<((u32, T), Multiplicity)>,
    /// Up to where the times in `past` were moved.
    moved: Option<T>,
}

impl<T: Timestamp + Lattice> KeySide<T> {
    fn new(loaded: &[(&Row, T, Multiplicity)]) -> Self {
        let mut rows: Vec<Row> = Vec::new();
        let mut updates = Vec::with_capacity(loaded.len());
        let mut last: Option<&Row> = None;
        for (row, time, diff) in loaded {
            if last.is_none_or(|last| !std::ptr::eq(last, *row)) {
                rows.push(Row::clone(row));
            }
            last = Some(row);
            updates.push((time.clone(), rows.len() as u32 - 1, *diff));
        }
        updates.sort_unstable();
        let mut meets: Vec<T> = updates.iter().map(|(time, _, _)| time.clone()).collect();
        for at in (1..meets.len()).rev() {
            let meet = meets[at - 1].meet(&meets[at]);
            meets[at - 1] = meet;
        }
        KeySide { rows, updates, meets, next: 0, past: Vec::new(), moved: None }
    }

    /// Moves the times of what has been up to `meet`, where it can no longer be told apart.
    fn move_to(&mut self, meet: &T) {
        if self.past.len() > 1 && self.moved.as_ref() != Some(meet) {
            self.past.iter_mut().for_each(|((_, time), _)| *time = time.join(meet));
            consolidate(&mut self.past);
            self.moved = Some(meet.clone());
        }
    }
}

/// The match of the rows of one key, as far as it has come.
struct KeyMatching<T> {
    key: Row,
    left: KeySide<T>,
    right: KeySide<T>,
    /// The side (true: left) whose next update is being matched, and how many of the other side's
    /// past updates it has met.
    current: Option<(bool, usize)>,
}

impl<T: Timestamp + Lattice> KeyMatching<T> {
    fn new(key: &Row, left: &[(&Row, T, Multiplicity)], right: &[(&Row, T, Multiplicity)]) -> Self {
        let (left, right) = (KeySide::new(left), KeySide::new(right));
        KeyMatching { key: key.clone(), left, right, current: None }
    }

    /// Goes on until there are enough pairs or the time is over; true when it is done.
    fn run(&mut self, out: &mut Vec<TimedPair<T>>, slice: &Slice) -> bool {
        let mut look = 0;
        loop {
            let (is_left, mut met) = match self.current {
                Some(current) => current,
                None => {
                    let next = |side: &KeySide<T>| side.updates.get(side.next).map(|u| u.0.clone());
                    let is_left = match (next(&self.left), next(&self.right)) {
                        (None, None) => return true,
                        (left, None) => left.is_some(),
                        (None, Some(_)) => false,
                        (Some(left), Some(right)) => left < right,
                    };
                    let (side, other) = match is_left {
                        true => (&self.left, &mut self.right),
                        false => (&self.right, &mut self.left),
                    };
                    other.move_to(&side.meets[side.next]);
                    (is_left, 0)
                }
            };
            let (side, other) = match is_left {
                true => (&mut self.left, &mut self.right),
                false => (&mut self.right, &mut self.left),
            };
            let (time, row, diff) = &side.updates[side.next];
            while let Some(((other_row, other_time), other_diff)) = other.past.get(met) {
                let (own, others) = (&side.rows[*row as usize], &other.rows[*other_row as usize]);
                let (left, right) = if is_left { (own, others) } else { (others, own) };
                let rows = (self.key.clone(), left.clone(), right.clone());
                out.push((rows, time.join(other_time), diff.times(*other_diff)));
                met += 1;
                look += 1;
                if out.len() >= PAIRS || look % PAIRS_PER_LOOK == 0 && slice.is_over() {
                    self.current = Some((is_left, met));
                    return false;
                }
            }
            side.past.push(((*row, time.clone()), *diff));
            side.next += 1;
            self.current = None;
            look += 1;
            if look % PAIRS_PER_LOOK == 0 && slice.is_over() {
                return false;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::dataflow::guard::{ViewControl, ViewLimits};

    fn guard() -> Guard {
        let limits = ViewLimits {
            state_bytes_max: usize::MAX,
            output_bytes_max: usize::MAX,
            event_rows_max: usize::MAX,
            time_max: Duration::MAX,
        };
        let control = ViewControl::new(0, ("v", "0"), limits, 1, Arc::new(|_| {}));
        Guard::new(Arc::new(control), 0)
    }

    /// Updates of some rows that come and go at some ticks.
    fn updates(rows: &[Row], seed: u64) -> Vec<(&Row, u64, Multiplicity)> {
        let mut state = seed;
        let mut all = Vec::new();
        for row in rows {
            for _ in 0..3 {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let diff = if state >> 63 == 1 { 1 } else { -1 };
                all.push((row, state >> 40 & 7, Multiplicity::new(diff)));
            }
        }
        all
    }

    #[test]
    fn rows_of_a_key_are_matched_as_every_pair_however_often_the_match_is_suspended() {
        let rows = |count: u32, tag: u8| -> Vec<Row> {
            (0..count).map(|n| Row::from_slice(&[&[tag][..], &n.to_be_bytes()].concat())).collect()
        };
        let (lefts, rights) = (rows(120, 1), rows(90, 2));
        let (left, right) = (updates(&lefts, 7), updates(&rights, 11));
        let mut matching = KeyMatching::new(&Row::default(), &left, &right);
        let (guard, mut found, mut ends) = (guard(), Vec::new(), 0);
        loop {
            let mut out = Vec::new();
            let done = matching.run(&mut out, &guard.slice());
            found.extend(out);
            ends += 1;
            if done {
                break;
            }
        }
        assert!(ends > 2, "{ends}");
        // At each tick, what there is of each pair.
        let mut expected = Vec::new();
        for (left, left_tick, left_diff) in &left {
            for (right, right_tick, right_diff) in &right {
                let rows = (Row::default(), Row::clone(left), Row::clone(right));
                let tick = (*left_tick).max(*right_tick);
                expected.push(((rows, tick), left_diff.times(*right_diff)));
            }
        }
        let mut found: Vec<_> =
            found.into_iter().map(|(rows, t, diff)| ((rows, t), diff)).collect();
        consolidate(&mut expected);
        consolidate(&mut found);
        assert_eq!(found.len(), expected.len());
        assert!(found == expected);
    }
}
