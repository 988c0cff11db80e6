//! Joins of two arrangements that suspend anywhere, also among the rows of one key.
//!
//! Differential dataflow's join operator takes new batches and holds capabilities; how two lists of batches
//! are matched is a [`JoinTactic`] of ours. The updates of a key are taken in the order of their times. Each
//! is put beside the earlier updates of the other side, whose times are moved up to the first one that is
//! still to come: updates that have cancelled out by then are not matched. (This is how differential dataflow
//! matches a key, too.)

use std::cell::Cell;
use std::rc::Rc;

use differential_dataflow::consolidation::consolidate;
use differential_dataflow::lattice::Lattice;
use differential_dataflow::operators::arrange::{Arranged, TraceAgent};
use differential_dataflow::operators::join::{Fresh, JoinTactic, join_with_tactic};
use differential_dataflow::trace::implementations::spine_fueled::{Spine, SpineBatch};
use timely::Accountable;
use timely::dataflow::Stream;
use timely::progress::Timestamp;

use crate::dataflow::guard::{Guard, Slice, StepSlices};
use crate::dataflow::run::{KeyRef, Run, RunsCursor};
use crate::model::Tick;
use crate::model::multiplicity::Multiplicity;

/// Number of pairs, and of bytes of their rows, from which on the pairs are handed on. Only the last pairs go
/// beyond it.
const PAIRS: usize = 1 << 12;
const PAIR_BYTES: usize = 1 << 23;
/// Most pairs of rows of one key, and most bytes of these rows, that are matched at once where one side has
/// few rows.
const PAIRS_AT_ONCE: usize = 1 << 14;
const PAIR_BYTES_AT_ONCE: usize = 1 << 28;
/// A side with fewer updates of a key than this is few.
const FEW_UPDATES: usize = 10;
/// Number of pairs after which the time is looked at.
const PAIRS_PER_LOOK: usize = 256;
/// Number of loaded rows after which the time is looked at.
pub const ROWS_PER_LOOK: usize = 4096;
/// More records than the operator takes of an input before it ends for now.
const END_FOR_NOW: i64 = 1 << 20;

/// Where the bytes of a row are.
pub type RowRange = (u32, u32);

/// A pair of rows with one key; when; and how often.
struct JoinedPair<T> {
    key: RowRange,
    left: RowRange,
    right: RowRange,
    time: T,
    diff: Multiplicity,
}

/// Pairs of rows on their way, side by side. The join operator counts their work, not their number: the last
/// pairs of a slice count as more records than it takes at a time.
pub struct JoinedPairs<T> {
    bytes: Vec<u8>,
    pairs: Vec<JoinedPair<T>>,
    work: i64,
}

impl<T> Default for JoinedPairs<T> {
    fn default() -> Self {
        JoinedPairs { bytes: Vec::new(), pairs: Vec::new(), work: 0 }
    }
}

impl<T> JoinedPairs<T> {
    /// Number of pairs.
    pub fn len(&self) -> usize {
        self.pairs.len()
    }

    /// Whether these are as many as are handed on at a time.
    pub fn is_full(&self) -> bool {
        self.pairs.len() >= PAIRS || self.bytes.len() >= PAIR_BYTES
    }

    /// Forgets all of them.
    pub fn clear(&mut self) {
        *self = JoinedPairs::default();
    }

    /// Adds a row for pairs to come.
    #[inline]
    pub fn row(&mut self, bytes: &[u8]) -> RowRange {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(bytes);
        // One row is far below 2 GiB, and so is what is handed on at a time.
        (start as u32, self.bytes.len() as u32)
    }

    /// Adds a pair.
    #[inline]
    pub fn pair(
        &mut self,
        key: RowRange,
        (left, right): (RowRange, RowRange),
        time: T,
        diff: Multiplicity,
    ) {
        self.pairs.push(JoinedPair { key, left, right, time, diff });
        self.work += 1;
    }

    /// The pairs time by time.
    pub fn by_time(&mut self) -> impl Iterator<Item = PairsAt<'_, T>>
    where
        T: Ord,
    {
        self.pairs.sort_by(|a, b| a.time.cmp(&b.time));
        let groups = self.pairs.chunk_by(|a, b| a.time == b.time);
        groups.map(|pairs| PairsAt { bytes: &self.bytes, pairs })
    }

    /// All pairs, whatever their time.
    pub fn all(&self) -> PairsAt<'_, T> {
        PairsAt { bytes: &self.bytes, pairs: &self.pairs }
    }
}

impl<T> Accountable for JoinedPairs<T> {
    fn record_count(&self) -> i64 {
        self.work
    }
}

/// Some of the pairs that are on their way.
pub struct PairsAt<'a, T> {
    bytes: &'a [u8],
    pairs: &'a [JoinedPair<T>],
}

impl<'a, T> PairsAt<'a, T> {
    /// Number of pairs.
    pub fn len(&self) -> usize {
        self.pairs.len()
    }

    /// Keys and left rows.
    pub fn lefts(&self) -> impl Iterator<Item = (&'a [u8], &'a [u8])> + Clone + use<'a, T> {
        let PairsAt { bytes, pairs } = *self;
        pairs.iter().map(|pair| (row(bytes, pair.key), row(bytes, pair.left)))
    }

    /// Keys and right rows.
    pub fn rights(&self) -> impl Iterator<Item = (&'a [u8], &'a [u8])> + Clone + use<'a, T> {
        let PairsAt { bytes, pairs } = *self;
        pairs.iter().map(|pair| (row(bytes, pair.key), row(bytes, pair.right)))
    }

    /// When, and how often.
    pub fn times(&self) -> impl Iterator<Item = (&'a T, Multiplicity)> + use<'a, T> {
        let pairs = self.pairs;
        pairs.iter().map(|pair| (&pair.time, pair.diff))
    }
}

#[inline]
fn row(bytes: &[u8], (from, to): RowRange) -> &[u8] {
    &bytes[from as usize..to as usize]
}

/// The rows of a key, loaded from one side of a join.
pub struct KeyRows<T> {
    bytes: Vec<u8>,
    rows: Vec<RowRange>,
    /// Time, index of the row, difference.
    updates: Vec<(T, u32, Multiplicity)>,
    times: Vec<(T, Multiplicity)>,
}

impl<T> Default for KeyRows<T> {
    fn default() -> Self {
        KeyRows { bytes: Vec::new(), rows: Vec::new(), updates: Vec::new(), times: Vec::new() }
    }
}

impl<T: Ord> KeyRows<T> {
    fn clear(&mut self) {
        self.bytes.clear();
        self.rows.clear();
        self.updates.clear();
    }

    /// Adds a row and its updates.
    pub fn push(&mut self, row: &[u8], updates: impl Iterator<Item = (T, Multiplicity)>) {
        self.times.extend(updates);
        if self.times.len() > 1 {
            consolidate(&mut self.times);
        }
        if self.times.is_empty() {
            return;
        }
        let start = self.bytes.len() as u32;
        self.bytes.extend_from_slice(row);
        let index = self.rows.len() as u32;
        self.rows.push((start, self.bytes.len() as u32));
        self.updates.extend(self.times.drain(..).map(|(time, diff)| (time, index, diff)));
    }

    fn row(&self, index: u32) -> &[u8] {
        row(&self.bytes, self.rows[index as usize])
    }
}

/// Rows by key, in order, as a join walks through them.
pub trait KeyedRows<T>: Sized + 'static {
    /// The batches that the rows are kept in.
    type Batch: SpineBatch<Time = T> + Clone + 'static;

    /// At the first key.
    fn new(batches: Vec<Self::Batch>) -> Self;

    /// The key that it is at.
    fn key(&self) -> Option<KeyRef<'_>>;

    /// To the next key.
    fn next_key(&mut self);

    /// To the first key that is not less.
    fn seek_key(&mut self, key: KeyRef<'_>);

    /// Adds rows of the key, and passes them, until it is time to look at the time; true when all are added.
    /// Updates that were there before `meet` are as of then.
    fn load(&mut self, meet: Option<&T>, to: &mut KeyRows<T>) -> bool;
}

impl KeyedRows<Tick> for RunsCursor<Multiplicity> {
    type Batch = Rc<Run<Multiplicity>>;

    fn new(batches: Vec<Self::Batch>) -> Self {
        RunsCursor::new(batches)
    }

    fn key(&self) -> Option<KeyRef<'_>> {
        RunsCursor::key(self)
    }

    fn next_key(&mut self) {
        RunsCursor::next_key(self);
    }

    fn seek_key(&mut self, key: KeyRef<'_>) {
        RunsCursor::seek_key(self, key);
    }

    fn load(&mut self, meet: Option<&Tick>, to: &mut KeyRows<Tick>) -> bool {
        let meet = meet.copied().unwrap_or(Tick::MIN);
        for _ in 0..ROWS_PER_LOOK {
            let Some(value) = self.value() else { return true };
            to.push(value, self.updates().map(|(tick, diff)| (tick.max(meet), diff)));
            self.next_value();
        }
        false
    }
}

/// The pairs of rows with equal keys.
pub fn join<'scope, T, R>(
    left: Arranged<'scope, TraceAgent<Spine<R::Batch>>>,
    right: Arranged<'scope, TraceAgent<Spine<R::Batch>>>,
    name: &str,
    guard: &Guard,
) -> Stream<'scope, T, JoinedPairs<T>>
where
    T: Timestamp + Lattice,
    R: KeyedRows<T>,
{
    let slices = Rc::new(StepSlices::new(guard.clone()));
    // While it is being built the operator asks for the pairs of what is there already. If that was
    // taken up, so were they.
    let is_told = Rc::new(Cell::new(guard.from().is_some()));
    let tactic = SlicedTactic {
        guard: guard.clone(),
        is_told: Rc::clone(&is_told),
        slices,
        rows: std::marker::PhantomData::<R>,
    };
    let pairs = join_with_tactic(left, right, name, tactic);
    is_told.set(false);
    pairs
}

struct SlicedTactic<R> {
    guard: Guard,
    /// The pairs that are asked for were told before.
    is_told: Rc<Cell<bool>>,
    slices: Rc<StepSlices>,
    rows: std::marker::PhantomData<R>,
}

impl<T, R> JoinTactic<T, R::Batch, R::Batch, JoinedPairs<T>> for SlicedTactic<R>
where
    T: Timestamp + Lattice,
    R: KeyedRows<T>,
{
    fn prep(
        &mut self,
        left: Vec<R::Batch>,
        right: Vec<R::Batch>,
        fresh: Fresh,
        meet: T,
    ) -> Box<dyn Iterator<Item = JoinedPairs<T>>> {
        if self.is_told.get() {
            return Box::new(std::iter::empty());
        }
        let of = |batches, is_fresh| JoinSide { cursor: R::new(batches), is_fresh };
        let is_left = matches!(fresh, Fresh::Input0);
        Box::new(Matching {
            guard: self.guard.clone(),
            slices: Rc::clone(&self.slices),
            left: of(left, is_left),
            right: of(right, !is_left),
            meet,
            loaded: Default::default(),
            loading: false,
            key: None,
            out: JoinedPairs::default(),
            done: false,
        })
    }
}

/// One side of a match of batches.
struct JoinSide<R> {
    cursor: R,
    /// Its updates are new; the other side's were there.
    is_fresh: bool,
}

/// The match of two lists of batches, as far as it has come.
struct Matching<T: Timestamp + Lattice, R> {
    guard: Guard,
    slices: Rc<StepSlices>,
    left: JoinSide<R>,
    right: JoinSide<R>,
    meet: T,
    /// The rows of a key, or room for them.
    loaded: (KeyRows<T>, KeyRows<T>),
    /// Some of the rows of the key that both sides are at are loaded.
    loading: bool,
    /// The key whose rows are being matched, if they are many.
    key: Option<KeyMatching<T>>,
    out: JoinedPairs<T>,
    done: bool,
}

impl<T: Timestamp + Lattice, R: KeyedRows<T>> Iterator for Matching<T, R> {
    type Item = JoinedPairs<T>;

    fn next(&mut self) -> Option<JoinedPairs<T>> {
        if self.done || self.guard.enter() {
            return None;
        }
        let slice = self.slices.now();
        self.run(&slice);
        slice.made(self.out.len());
        let mut pairs = std::mem::take(&mut self.out);
        if slice.is_over() {
            pairs.work += END_FOR_NOW;
        }
        Some(pairs)
    }
}

impl<T: Timestamp + Lattice, R: KeyedRows<T>> Matching<T, R> {
    /// Goes on until there are some pairs, the time is over, or it is done.
    fn run(&mut self, slice: &Slice) {
        let Matching { guard, left, right, meet, loaded, loading, key, out, done, .. } = self;
        let mut keys = 0;
        while !out.is_full() {
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
            let (Some(left_key), Some(right_key)) = (left.cursor.key(), right.cursor.key()) else {
                *done = true;
                return;
            };
            match left_key.cmp(&right_key) {
                std::cmp::Ordering::Less => left.cursor.seek_key(right_key),
                std::cmp::Ordering::Greater => right.cursor.seek_key(left_key),
                std::cmp::Ordering::Equal => {
                    // Rows that were there before are read as of `meet`: nobody can tell apart the times
                    // before it.
                    let (left_meet, right_meet) = match left.is_fresh {
                        true => (None, Some(&*meet)),
                        false => (Some(&*meet), None),
                    };
                    let (lefts, rights) = loaded;
                    if !std::mem::replace(loading, true) {
                        lefts.clear();
                        rights.clear();
                    }
                    while !left.cursor.load(left_meet, lefts)
                        || !right.cursor.load(right_meet, rights)
                    {
                        if slice.is_over() {
                            return;
                        }
                    }
                    *loading = false;
                    let Some(matched) = left.cursor.key() else { unreachable!("it is at a key") };
                    let matched = out.row(matched.bytes);
                    let counts = (lefts.updates.len(), rights.updates.len());
                    let (new, old) = if left.is_fresh { counts } else { (counts.1, counts.0) };
                    if new > 0 {
                        guard.check_rows(old, "a join");
                    }
                    let few = counts.0 < FEW_UPDATES || counts.1 < FEW_UPDATES;
                    let small = lefts.bytes.len() + rights.bytes.len() < PAIR_BYTES_AT_ONCE;
                    if few && small && counts.0.saturating_mul(counts.1) <= PAIRS_AT_ONCE {
                        all_pairs(matched, lefts, rights, out);
                    } else {
                        let key_bytes = row(&out.bytes, matched);
                        let (lefts, rights) = std::mem::take(loaded);
                        *key = Some(KeyMatching::new(key_bytes, lefts, rights));
                    }
                    left.cursor.next_key();
                    right.cursor.next_key();
                }
            }
        }
    }
}

/// All pairs of the rows of a key.
fn all_pairs<T: Timestamp + Lattice>(
    key: RowRange,
    lefts: &KeyRows<T>,
    rights: &KeyRows<T>,
    out: &mut JoinedPairs<T>,
) {
    if lefts.updates.is_empty() || rights.updates.is_empty() {
        return;
    }
    // The rows of each side lie beside each other as they do where they were loaded.
    let (left_at, _) = out.row(&lefts.bytes);
    let (right_at, _) = out.row(&rights.bytes);
    let moved = |(from, to): RowRange, by: u32| (from + by, to + by);
    for (left_time, left, left_diff) in &lefts.updates {
        let left = moved(lefts.rows[*left as usize], left_at);
        for (right_time, right, right_diff) in &rights.updates {
            let right = moved(rights.rows[*right as usize], right_at);
            out.pair(key, (left, right), left_time.join(right_time), left_diff.times(*right_diff));
        }
    }
}

/// The updates of one key on one side, in the order of their times.
struct KeySide<T> {
    loaded: KeyRows<T>,
    /// For each update the meet of its time and those of all updates behind it.
    meets: Vec<T>,
    /// Updates before this one are in `past`.
    next: usize,
    past: Vec<((u32, T), Multiplicity)>,
    /// Up to where the times in `past` were moved.
    moved: Option<T>,
}

impl<T: Timestamp + Lattice> KeySide<T> {
    fn new(mut loaded: KeyRows<T>) -> Self {
        loaded.updates.sort_unstable();
        let mut meets: Vec<T> = loaded.updates.iter().map(|(time, _, _)| time.clone()).collect();
        for at in (1..meets.len()).rev() {
            let meet = meets[at - 1].meet(&meets[at]);
            meets[at - 1] = meet;
        }
        KeySide { loaded, meets, next: 0, past: Vec::new(), moved: None }
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
    key: Vec<u8>,
    left: KeySide<T>,
    right: KeySide<T>,
    /// The side (true: left) whose next update is being matched, and how many of the other side's
    /// past updates it has met.
    current: Option<(bool, usize)>,
}

impl<T: Timestamp + Lattice> KeyMatching<T> {
    fn new(key: &[u8], left: KeyRows<T>, right: KeyRows<T>) -> Self {
        let (left, right) = (KeySide::new(left), KeySide::new(right));
        KeyMatching { key: key.to_vec(), left, right, current: None }
    }

    /// Goes on until there are enough pairs or the time is over; true when it is done.
    fn run(&mut self, out: &mut JoinedPairs<T>, slice: &Slice) -> bool {
        let key = out.row(&self.key);
        let mut look = 0;
        loop {
            let (is_left, mut met) = match self.current {
                Some(current) => current,
                None => {
                    let next =
                        |side: &KeySide<T>| side.loaded.updates.get(side.next).map(|u| u.0.clone());
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
            let (time, index, diff) = &side.loaded.updates[side.next];
            if met < other.past.len() {
                let own = out.row(side.loaded.row(*index));
                while let Some(((other_index, other_time), other_diff)) = other.past.get(met) {
                    let others = out.row(other.loaded.row(*other_index));
                    let pair = if is_left { (own, others) } else { (others, own) };
                    out.pair(key, pair, time.join(other_time), diff.times(*other_diff));
                    met += 1;
                    look += 1;
                    if out.is_full() || look % PAIRS_PER_LOOK == 0 && slice.is_over() {
                        self.current = Some((is_left, met));
                        return false;
                    }
                }
            }
            side.past.push(((*index, time.clone()), *diff));
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
    use crate::dataflow::kept::{Beginning, Takeover};

    fn guard() -> Guard {
        let limits = ViewLimits {
            state_bytes_max: usize::MAX,
            output_bytes_max: usize::MAX,
            event_rows_max: usize::MAX,
            time_max: Duration::MAX,
        };
        let control = ViewControl::new(0, ("v", "0"), limits, 1, Arc::new(|_| {}));
        Guard::new(Arc::new(control), 0, Takeover::new(Beginning::Empty, 0))
    }

    /// Some rows that come and go at some ticks.
    fn rows(count: u32, tag: u8, seed: u64) -> KeyRows<Tick> {
        let mut state = seed;
        let mut rows = KeyRows::default();
        for n in 0..count {
            let row = [&[tag][..], &n.to_be_bytes()].concat();
            let mut update = || {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let diff = if state >> 63 == 1 { 1 } else { -1 };
                (state >> 40 & 7, Multiplicity::new(diff))
            };
            let updates = [update(), update(), update()];
            rows.push(&row, updates.into_iter());
        }
        rows
    }

    #[test]
    fn rows_of_a_key_are_matched_as_every_pair_however_often_the_match_is_suspended() {
        let (left, right) = (|| rows(120, 1, 7), || rows(90, 2, 11));
        let mut matching = KeyMatching::new(b"key", left(), right());
        let (guard, mut found, mut ends) = (guard(), Vec::new(), 0);
        loop {
            let mut out = JoinedPairs::default();
            let done = matching.run(&mut out, &guard.slice());
            let pairs = out.all();
            for (((key, left), (_, right)), (tick, diff)) in
                pairs.lefts().zip(pairs.rights()).zip(pairs.times())
            {
                assert_eq!(key, b"key");
                found.push(((left.to_vec(), right.to_vec(), *tick), diff));
            }
            ends += 1;
            if done {
                break;
            }
        }
        assert!(ends > 2, "{ends}");
        // At each tick, what there is of each pair.
        let (left, right) = (left(), right());
        let mut expected = Vec::new();
        for (left_tick, left_row, left_diff) in &left.updates {
            for (right_tick, right_row, right_diff) in &right.updates {
                let rows = (left.row(*left_row).to_vec(), right.row(*right_row).to_vec());
                let tick = (*left_tick).max(*right_tick);
                expected.push(((rows.0, rows.1, tick), left_diff.times(*right_diff)));
            }
        }
        consolidate(&mut expected);
        consolidate(&mut found);
        assert_eq!(found.len(), expected.len());
        assert!(found == expected);
    }
}
