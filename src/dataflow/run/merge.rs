//! Merges two runs, for some updates at a time.

use std::cmp::Ordering;

use differential_dataflow::consolidation::consolidate;
use differential_dataflow::trace::implementations::spine_fueled::{Merger, SpineBatch};
use timely::progress::frontier::AntichainRef;

use super::cursor::RunCursor;
use super::writer::{RunWriter, put_tick, put_update};
use super::{PackedDifference, Run};
use crate::model::Tick;

impl<D: PackedDifference> SpineBatch for Run<D> {
    type Time = Tick;
    type Merger = RunMerger<D>;

    fn len(&self) -> usize {
        self.updates
    }
}

/// Two runs that are being merged.
pub struct RunMerger<D> {
    one: RunCursor<D>,
    two: RunCursor<D>,
    out: RunWriter<D>,
    /// Which of the runs have the key whose values are being merged.
    key: Option<Ordering>,
    values: ValueMerge<D>,
}

/// Room for the updates of a value.
struct ValueMerge<D> {
    /// Ticks before this one can no longer be told apart.
    since: Tick,
    updates: Vec<(Tick, D)>,
    packed: Vec<u8>,
}

impl<D: PackedDifference> ValueMerge<D> {
    /// Copies a cursor's value and passes it; returns how many updates it had.
    fn copy(&mut self, cursor: &mut RunCursor<D>, run: &Run<D>, out: &mut RunWriter<D>) -> usize {
        let Some(value) = cursor.value(run) else { return 0 };
        let mut updates = cursor.updates(run);
        let count = updates.len();
        if count == 1
            && let Some((tick, difference)) = updates.next_packed()
        {
            // The difference is taken over as it is written.
            self.packed.clear();
            put_tick(&mut self.packed, out.base(), tick.max(self.since));
            self.packed.extend_from_slice(difference);
            out.value(value, 1, &self.packed);
        } else {
            for (tick, difference) in &mut updates {
                self.updates.push((tick.max(self.since), difference));
            }
            self.write(value, out);
        }
        cursor.pass_value(run, &updates);
        count
    }

    /// Writes what is left of the updates.
    fn write(&mut self, value: &[u8], out: &mut RunWriter<D>) {
        consolidate(&mut self.updates);
        if !self.updates.is_empty() {
            self.packed.clear();
            for (tick, difference) in &self.updates {
                put_update(&mut self.packed, out.base(), *tick, difference);
            }
            out.value(value, self.updates.len(), &self.packed);
            self.updates.clear();
        }
    }
}

impl<D: PackedDifference> Merger<Run<D>> for RunMerger<D> {
    fn new(one: &Run<D>, two: &Run<D>, since: AntichainRef<'_, Tick>) -> Self {
        let first = since.first().copied().unwrap_or(Tick::MIN);
        RunMerger {
            one: RunCursor::new(one),
            two: RunCursor::new(two),
            out: RunWriter::new(
                first.max(one.base).max(two.base),
                one.bytes.len() + two.bytes.len(),
            ),
            key: None,
            values: ValueMerge { since: first, updates: Vec::new(), packed: Vec::new() },
        }
    }

    fn work(&mut self, a: &Run<D>, b: &Run<D>, fuel: &mut isize) {
        let RunMerger { one, two, out, key, values, .. } = self;
        while *fuel > 0 {
            let order = match *key {
                Some(order) => order,
                None => {
                    let (order, at) = match (one.key(a), two.key(b)) {
                        (None, None) => return,
                        (Some(first), None) => (Ordering::Less, first),
                        (None, Some(second)) => (Ordering::Greater, second),
                        (Some(first), Some(second)) => {
                            (first.cmp(&second), if first <= second { first } else { second })
                        }
                    };
                    out.key(at);
                    *key = Some(order);
                    order
                }
            };
            let first = if order.is_le() { one.value(a) } else { None };
            let second = if order.is_ge() { two.value(b) } else { None };
            let taken = match (first, second) {
                (None, None) => {
                    if order.is_le() {
                        one.next_key(a);
                    }
                    if order.is_ge() {
                        two.next_key(b);
                    }
                    *key = None;
                    // The spine gives fuel for the updates of both runs, and no more: it expects the
                    // merge to be done with that.
                    0
                }
                (Some(_), None) => values.copy(one, a, out),
                (None, Some(_)) => values.copy(two, b, out),
                (Some(first), Some(second)) => match first.cmp(second) {
                    Ordering::Less => values.copy(one, a, out),
                    Ordering::Greater => values.copy(two, b, out),
                    Ordering::Equal => {
                        let (mut ones, mut twos) = (one.updates(a), two.updates(b));
                        let count = ones.len() + twos.len();
                        for (tick, difference) in (&mut ones).chain(&mut twos) {
                            values.updates.push((tick.max(values.since), difference));
                        }
                        values.write(first, out);
                        one.pass_value(a, &ones);
                        two.pass_value(b, &twos);
                        count
                    }
                },
            };
            *fuel -= taken as isize;
        }
    }

    fn done(self) -> Option<Run<D>> {
        self.out.done()
    }
}

/// Runs as one, whose updates are as of `since` and later; `None` if nothing is left of them.
pub fn consolidated<D: PackedDifference>(mut runs: Vec<Run<D>>, since: Tick) -> Option<Run<D>> {
    while let Some(one) = runs.pop() {
        let Some(two) = runs.pop() else { return Some(one) };
        let mut merger = RunMerger::new(&one, &two, AntichainRef::new(&[since]));
        let mut fuel = isize::MAX;
        merger.work(&one, &two, &mut fuel);
        match merger.done() {
            Some(merged) => runs.insert(0, merged),
            None if runs.is_empty() => return None,
            None => {}
        }
    }
    None
}
