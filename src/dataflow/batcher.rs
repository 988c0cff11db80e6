//! Collects updates until their tick is complete, and makes batches of them.
//!
//! Updates are kept as sorted runs and merged once, when they are asked for. What waits is counted as
//! the view's state, so that a view which makes too many rows fails before the batch is built.

use std::cell::Cell;
use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;
use std::marker::PhantomData;
use std::rc::Rc;

use differential_dataflow::batcher::{Batcher, Extract};
use differential_dataflow::consolidation::consolidate_updates;
use differential_dataflow::difference::Semigroup;
use differential_dataflow::trace::Builder;
use timely::progress::Timestamp;
use timely::progress::frontier::{Antichain, AntichainRef};

use super::arrange::Key;
use super::guard::Account;
use super::reclaim::free_elsewhere;
use crate::aggregate::Accumulator;
use crate::model::multiplicity::Multiplicity;
use crate::model::row::Row;

/// The most updates of a run when it is sorted.
const RUN_UPDATES: usize = 1 << 16;
/// How many updates are handed to the builder of a batch at a time.
const CHUNK_UPDATES: usize = 1 << 12;

/// Bytes on the heap, beyond the size of the value itself.
pub trait HeapBytes {
    /// How many; about.
    fn heap_bytes(&self) -> usize;
}

impl HeapBytes for () {
    fn heap_bytes(&self) -> usize {
        0
    }
}

impl HeapBytes for Row {
    #[inline]
    fn heap_bytes(&self) -> usize {
        Row::heap_bytes(self)
    }
}

impl HeapBytes for Key {
    #[inline]
    fn heap_bytes(&self) -> usize {
        self.row.heap_bytes()
    }
}

impl HeapBytes for Multiplicity {
    #[inline]
    fn heap_bytes(&self) -> usize {
        0
    }
}

impl HeapBytes for Accumulator {
    #[inline]
    fn heap_bytes(&self) -> usize {
        Accumulator::heap_bytes(self)
    }
}

/// The heap bytes of all updates that an arrangement was given, from which those that it holds are
/// reckoned.
#[derive(Default)]
pub struct HeapAverages {
    updates: Cell<usize>,
    keys: Cell<usize>,
    values: Cell<usize>,
    diffs: Cell<usize>,
}

impl HeapAverages {
    fn add(&self, key: usize, value: usize, diff: usize) {
        let add = |cell: &Cell<usize>, bytes| cell.set(cell.get() + bytes);
        add(&self.updates, 1);
        add(&self.keys, key);
        add(&self.values, value);
        add(&self.diffs, diff);
    }

    /// The heap bytes of so many keys, values and differences.
    pub fn of(&self, keys: usize, values: usize, diffs: usize) -> usize {
        let updates = self.updates.get().max(1) as u128;
        let part = |bytes: usize, count: usize| (bytes as u128 * count as u128 / updates) as usize;
        part(self.keys.get(), keys)
            + part(self.values.get(), values)
            + part(self.diffs.get(), diffs)
    }
}

/// Updates that wait for their tick.
pub struct RunBatcher<D, T, R, B> {
    account: Account,
    averages: Rc<HeapAverages>,
    /// Updates in no order.
    buffer: Vec<(D, T, R)>,
    /// Updates in order, those of one run consolidated.
    runs: Vec<Vec<(D, T, R)>>,
    /// The first times of what is left.
    frontier: Antichain<T>,
    builder: PhantomData<B>,
}

impl<D, T: Timestamp, R, B> RunBatcher<D, T, R, B> {
    /// A batcher without updates, whose bytes count to `account`.
    pub fn new(account: Account, averages: Rc<HeapAverages>) -> Self {
        RunBatcher {
            account,
            averages,
            buffer: Vec::new(),
            runs: Vec::new(),
            frontier: Antichain::new(),
            builder: PhantomData,
        }
    }
}

impl<K, V, T, R, B> Batcher<Vec<((K, V), T, R)>> for RunBatcher<(K, V), T, R, B>
where
    K: Ord + HeapBytes + Send + 'static,
    V: Ord + HeapBytes + Send + 'static,
    T: Timestamp + Send,
    R: Semigroup + HeapBytes + Send + 'static,
    B: Builder<Input = Vec<((K, V), T, R)>, Time = T>,
{
    fn insert(&mut self, updates: &mut Vec<((K, V), T, R)>) {
        if self.account.guard().enter() {
            return updates.clear();
        }
        let mut bytes = size_of::<((K, V), T, R)>() * updates.len();
        for ((key, value), _, diff) in updates.iter() {
            let (key, value, diff) = (key.heap_bytes(), value.heap_bytes(), diff.heap_bytes());
            self.averages.add(key, value, diff);
            bytes += key + value + diff;
        }
        self.account.add(bytes as isize);
        self.buffer.append(updates);
        if self.buffer.len() >= RUN_UPDATES {
            self.sort();
            // What has become few updates by that may become fewer still.
            if self.buffer.len() > RUN_UPDATES / 2 {
                self.runs.push(std::mem::take(&mut self.buffer));
            }
        }
    }
}

impl<K, V, T, R, B> RunBatcher<(K, V), T, R, B>
where
    K: Ord + HeapBytes,
    V: Ord + HeapBytes,
    T: Timestamp,
    R: Semigroup + HeapBytes,
{
    fn sort(&mut self) {
        let before = self.buffer.len();
        consolidate_updates(&mut self.buffer);
        let gone = before - self.buffer.len();
        let bytes = size_of::<((K, V), T, R)>() * gone + self.averages.of(gone, gone, gone);
        self.account.add(-(bytes as isize));
    }
}

/// The first update of a run, the rest of which follows it.
struct Head<D, T, R> {
    update: (D, T, R),
    rest: std::vec::IntoIter<(D, T, R)>,
}

impl<D: Ord, T: Ord, R> Ord for Head<D, T, R> {
    fn cmp(&self, other: &Self) -> Ordering {
        let (a, b) = (&self.update, &other.update);
        (&a.0, &a.1).cmp(&(&b.0, &b.1))
    }
}

impl<D: Ord, T: Ord, R> PartialOrd for Head<D, T, R> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<D: Ord, T: Ord, R> PartialEq for Head<D, T, R> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl<D: Ord, T: Ord, R> Eq for Head<D, T, R> {}

/// Hands on the updates of sorted runs in order, those of equal data and time as one.
fn merge<D: Ord, T: Ord, R: Semigroup>(
    mut runs: Vec<Vec<(D, T, R)>>,
    mut give: impl FnMut((D, T, R)),
) {
    if runs.len() <= 1 {
        return runs.pop().into_iter().flatten().for_each(give);
    }
    let mut heads: BinaryHeap<Reverse<Head<D, T, R>>> = BinaryHeap::new();
    for run in runs {
        let mut rest = run.into_iter();
        heads.extend(rest.next().map(|update| Reverse(Head { update, rest })));
    }
    let mut last: Option<(D, T, R)> = None;
    while let Some(mut first) = heads.peek_mut() {
        let head = &mut first.0;
        let update = match head.rest.next() {
            Some(next) => std::mem::replace(&mut head.update, next),
            None => std::collections::binary_heap::PeekMut::pop(first).0.update,
        };
        match &mut last {
            Some(last) if last.0 == update.0 && last.1 == update.1 => {
                last.2.plus_equals(&update.2);
            }
            _ => {
                let before = last.replace(update);
                before.filter(|(_, _, diff)| !diff.is_zero()).into_iter().for_each(&mut give);
            }
        }
    }
    last.filter(|(_, _, diff)| !diff.is_zero()).into_iter().for_each(give);
}

impl<K, V, T, R, B> Extract for RunBatcher<(K, V), T, R, B>
where
    K: Ord + HeapBytes + Send + 'static,
    V: Ord + HeapBytes + Send + 'static,
    T: Timestamp + Send,
    R: Semigroup + HeapBytes + Send + 'static,
    B: Builder<Input = Vec<((K, V), T, R)>, Time = T>,
{
    type Time = T;
    type Output = B::Output;

    fn extract<'a>(
        &'a mut self,
        upper: AntichainRef<'_, T>,
    ) -> (Option<B::Output>, AntichainRef<'a, T>) {
        self.frontier.clear();
        if self.account.guard().enter() {
            free_elsewhere((std::mem::take(&mut self.buffer), std::mem::take(&mut self.runs)));
            self.account.set(0);
            return (None, self.frontier.borrow());
        }
        self.sort();
        let mut runs = std::mem::take(&mut self.runs);
        if !self.buffer.is_empty() {
            runs.push(std::mem::take(&mut self.buffer));
        }
        let mut builder = B::default();
        let (mut chunk, mut kept) = (Vec::new(), Vec::new());
        let frontier = &mut self.frontier;
        merge(runs, |update| {
            if upper.less_equal(&update.1) {
                frontier.insert_ref(&update.1);
                kept.push(update);
                return;
            }
            chunk.push(update);
            if chunk.len() == CHUNK_UPDATES {
                builder.push(&mut chunk);
                chunk.clear();
            }
        });
        if !chunk.is_empty() {
            builder.push(&mut chunk);
        }
        let bytes = size_of::<((K, V), T, R)>() * kept.len();
        self.account.set(bytes + self.averages.of(kept.len(), kept.len(), kept.len()));
        if !kept.is_empty() {
            self.runs.push(kept);
        }
        (builder.done(), self.frontier.borrow())
    }
}
