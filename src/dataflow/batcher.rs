//! Collects updates until their tick is complete, and makes batches of them.
//!
//! Updates are kept as sorted runs and merged once, when they are asked for. Waiting updates are counted as
//! the view's state, so that a view which makes too many rows fails before the batch is built.

use std::cell::Cell;
use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;
use std::collections::binary_heap::PeekMut;
use std::rc::Rc;

use differential_dataflow::consolidation::consolidate_updates;
use differential_dataflow::difference::Semigroup;
use differential_dataflow::trace::Builder;
use timely::progress::Timestamp;
use timely::progress::frontier::Antichain;

use super::arrange::Key;
use super::guard::{Account, Slice};
use super::reclaim::free_elsewhere;
use crate::aggregate::Accumulator;
use crate::model::multiplicity::Multiplicity;
use crate::model::row::Row;

/// The most updates of a run when it is sorted.
const RUN_UPDATES: usize = 1 << 14;
/// Number of updates that are handed to the builder of a batch at a time.
const CHUNK_UPDATES: usize = 1 << 12;

/// Bytes on the heap, beyond the size of the value itself.
pub trait HeapBytes {
    /// Number of bytes; about.
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
pub struct PendingUpdates<D, T, R> {
    account: Account,
    averages: Rc<HeapAverages>,
    /// Updates in no order.
    buffer: Vec<(D, T, R)>,
    /// Updates in order, those of one run consolidated.
    runs: Vec<Vec<(D, T, R)>>,
}

impl<D, T, R> PendingUpdates<D, T, R> {
    /// Nothing waits yet; bytes will count to `account`.
    pub fn new(account: Account, averages: Rc<HeapAverages>) -> Self {
        PendingUpdates { account, averages, buffer: Vec::new(), runs: Vec::new() }
    }
}

impl<K, V, T, R> PendingUpdates<(K, V), T, R>
where
    K: Ord + HeapBytes + Send + 'static,
    V: Ord + HeapBytes + Send + 'static,
    T: Timestamp + Send,
    R: Semigroup + HeapBytes + Send + 'static,
{
    /// Takes updates.
    pub fn insert(&mut self, updates: &mut Vec<((K, V), T, R)>) {
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
            // Few updates stay in the buffer: with later ones more of them may cancel out.
            if self.buffer.len() > RUN_UPDATES / 2 {
                self.runs.push(std::mem::take(&mut self.buffer));
            }
        }
    }

    fn sort(&mut self) {
        let before = self.buffer.len();
        consolidate_updates(&mut self.buffer);
        self.give_back(before - self.buffer.len());
    }

    /// So many updates wait no longer.
    fn give_back(&mut self, updates: usize) {
        let heap = self.averages.of(updates, updates, updates);
        let bytes = size_of::<((K, V), T, R)>() * updates + heap;
        self.account.add(-(bytes as isize));
    }

    /// Begins to make a batch of the updates that are not at `upper` or later.
    pub fn seal<B>(&mut self, upper: Antichain<T>) -> Sealing<(K, V), T, R, B>
    where
        B: Builder<Input = Vec<((K, V), T, R)>, Time = T>,
    {
        self.sort();
        let mut runs = std::mem::take(&mut self.runs);
        if !self.buffer.is_empty() {
            runs.push(std::mem::take(&mut self.buffer));
        }
        Sealing {
            upper,
            merge: Merge::new(runs),
            builder: B::default(),
            chunk: Vec::new(),
            kept: Vec::new(),
            frontier: Antichain::new(),
            taken: 0,
        }
    }

    /// Takes what is left of a batch that was made; the batch, and the first times of what is left.
    pub fn sealed<B>(
        &mut self,
        mut sealing: Sealing<(K, V), T, R, B>,
    ) -> (Option<B::Output>, Antichain<T>)
    where
        B: Builder<Input = Vec<((K, V), T, R)>, Time = T>,
    {
        if !sealing.chunk.is_empty() {
            sealing.builder.push(&mut sealing.chunk);
        }
        self.give_back(sealing.taken - sealing.kept.len());
        if !sealing.kept.is_empty() {
            self.runs.push(sealing.kept);
        }
        (sealing.builder.done(), sealing.frontier)
    }

    /// Lets go of everything, also of what a batch was being made of.
    pub fn stop<B>(&mut self, sealing: Option<Sealing<(K, V), T, R, B>>) {
        let merged = sealing.map(|sealing| (sealing.merge, sealing.kept));
        free_elsewhere((std::mem::take(&mut self.buffer), std::mem::take(&mut self.runs), merged));
        self.account.set(0);
    }
}

/// A batch that is being made.
pub struct Sealing<D, T, R, B> {
    /// The batch ends here: updates at this time or later stay behind.
    pub upper: Antichain<T>,
    merge: Merge<D, T, R>,
    builder: B,
    chunk: Vec<(D, T, R)>,
    kept: Vec<(D, T, R)>,
    frontier: Antichain<T>,
    /// Number of the runs' updates that are through.
    taken: usize,
}

impl<D, T, R, B> Sealing<D, T, R, B>
where
    D: Ord,
    T: Timestamp,
    R: Semigroup,
    B: Builder<Input = Vec<(D, T, R)>, Time = T>,
{
    /// Goes on until the slice is over; true when it is done.
    pub fn run(&mut self, slice: &Slice) -> bool {
        let left = self.merge.len();
        loop {
            let Some(update) = self.merge.next() else {
                self.taken += left;
                return true;
            };
            if self.upper.less_equal(&update.1) {
                self.frontier.insert_ref(&update.1);
                self.kept.push(update);
            } else {
                self.chunk.push(update);
            }
            if self.chunk.len() == CHUNK_UPDATES {
                self.builder.push(&mut self.chunk);
                self.chunk.clear();
                if slice.is_over() {
                    self.taken += left - self.merge.len();
                    return false;
                }
            }
        }
    }
}

/// The first update of a run, the rest of which follows it.
struct RunHead<D, T, R> {
    update: (D, T, R),
    rest: std::vec::IntoIter<(D, T, R)>,
}

impl<D: Ord, T: Ord, R> Ord for RunHead<D, T, R> {
    fn cmp(&self, other: &Self) -> Ordering {
        let (a, b) = (&self.update, &other.update);
        (&a.0, &a.1).cmp(&(&b.0, &b.1))
    }
}

impl<D: Ord, T: Ord, R> PartialOrd for RunHead<D, T, R> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<D: Ord, T: Ord, R> PartialEq for RunHead<D, T, R> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl<D: Ord, T: Ord, R> Eq for RunHead<D, T, R> {}

/// The updates of sorted runs in order, those of equal data and time as one.
struct Merge<D, T, R> {
    /// The only run, of which nothing has to be merged.
    only: Option<std::vec::IntoIter<(D, T, R)>>,
    heads: BinaryHeap<Reverse<RunHead<D, T, R>>>,
    last: Option<(D, T, R)>,
}

impl<D: Ord, T: Ord, R: Semigroup> Merge<D, T, R> {
    fn new(mut runs: Vec<Vec<(D, T, R)>>) -> Self {
        let only = if runs.len() == 1 { runs.pop().map(Vec::into_iter) } else { None };
        let mut heads = BinaryHeap::new();
        for run in runs {
            let mut rest = run.into_iter();
            heads.extend(rest.next().map(|update| Reverse(RunHead { update, rest })));
        }
        Merge { only, heads, last: None }
    }

    /// Number of updates that are left in the runs.
    fn len(&self) -> usize {
        let heads = self.heads.iter().map(|head| head.0.rest.len() + 1);
        let only = self.only.as_ref().map_or(0, |run| run.len());
        heads.sum::<usize>() + only + usize::from(self.last.is_some())
    }

    /// The first update of all runs.
    fn first(&mut self) -> Option<(D, T, R)> {
        let mut first = self.heads.peek_mut()?;
        let head = &mut first.0;
        Some(match head.rest.next() {
            Some(next) => std::mem::replace(&mut head.update, next),
            None => PeekMut::pop(first).0.update,
        })
    }
}

impl<D: Ord, T: Ord, R: Semigroup> Iterator for Merge<D, T, R> {
    type Item = (D, T, R);

    fn next(&mut self) -> Option<(D, T, R)> {
        if let Some(only) = &mut self.only {
            return only.next();
        }
        loop {
            let Some(update) = self.first() else {
                return self.last.take().filter(|(_, _, diff)| !diff.is_zero());
            };
            match &mut self.last {
                Some(last) if last.0 == update.0 && last.1 == update.1 => {
                    last.2.plus_equals(&update.2);
                }
                last => {
                    let before = last.replace(update).filter(|(_, _, diff)| !diff.is_zero());
                    if before.is_some() {
                        return before;
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn merged_runs_are_in_order_without_what_cancels_out() {
        let run = |updates: &[(u32, u64, i64)]| -> Vec<(u32, u64, Multiplicity)> {
            updates.iter().map(|(data, at, diff)| (*data, *at, Multiplicity::new(*diff))).collect()
        };
        let runs = vec![
            run(&[(1, 5, 1), (3, 5, 1), (7, 1, 1)]),
            run(&[(1, 5, 1), (2, 4, -1), (3, 5, -1)]),
            run(&[(0, 9, 2), (2, 4, 3)]),
        ];
        let merge = Merge::new(runs);
        assert_eq!(merge.len(), 8);
        let all: Vec<_> = merge.collect();
        let only: Vec<_> = Merge::new(vec![all.clone()]).collect();
        assert_eq!(only, all);
        assert_eq!(all, run(&[(0, 9, 2), (1, 5, 2), (2, 4, 2), (7, 1, 1)]));
    }
}
