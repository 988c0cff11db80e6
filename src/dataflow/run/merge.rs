//! Merges two runs, for some updates at a time.

use std::cmp::Ordering;

use differential_dataflow::consolidation::consolidate;
use differential_dataflow::trace::implementations::spine_fueled::{Merger, SpineBatch};
use timely::progress::frontier::AntichainRef;

use super::block::UNIT;
use super::cursor::{RunCursor, Updates};
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
    one: MergeInput<D>,
    two: MergeInput<D>,
    out: RunWriter<D>,
    /// Whether the first run, the second or both have the key whose values are being merged.
    key: Option<Ordering>,
    values: ValueMerge<D>,
}

/// One of the two runs that are merged.
struct MergeInput<D> {
    cursor: RunCursor<D>,
    /// The run has the result's base: its updates can be copied as they are written.
    keeps_base: bool,
}

impl<D: PackedDifference> MergeInput<D> {
    /// Copies all of the key that the cursor is at and passes it; returns how many updates it had.
    /// `None` where it has to be copied value by value.
    #[inline]
    fn copy_group(&mut self, run: &Run<D>, hash: u64, out: &mut RunWriter<D>) -> Option<usize> {
        if !self.keeps_base {
            return None;
        }
        let (group, values) = self.cursor.whole_group(run)?;
        if !out.takes_group(group.len()) {
            return None;
        }
        let mut count = 0;
        for updates in values {
            count += updates?;
        }
        out.group(hash, group, count);
        self.cursor.next_key(run);
        Some(count)
    }

    /// Copies a value and passes it; returns how many updates it had.
    #[inline]
    fn copy_value(
        &mut self,
        run: &Run<D>,
        values: &mut ValueMerge<D>,
        out: &mut RunWriter<D>,
    ) -> usize {
        let cursor = &mut self.cursor;
        if self.keeps_base
            && let Some((value, count)) = cursor.value_at_base(run)
        {
            out.written_value(value, count);
            cursor.pass_bytes(run, value.len());
            return count;
        }
        let Some(value) = cursor.value(run) else { return 0 };
        let mut updates = cursor.updates(run);
        let count = updates.len();
        if count == 1
            && let Some(tick) = updates.next_tick()
        {
            // The difference is taken over as it is written.
            values.packed.clear();
            put_tick(&mut values.packed, out.base(), tick.max(values.since));
            values.packed.extend_from_slice(updates.difference());
            out.value(value, 1, &values.packed);
        } else {
            for (tick, difference) in &mut updates {
                values.updates.push((tick.max(values.since), difference));
            }
            values.write(value, out);
        }
        cursor.pass_value(run, &updates);
        count
    }
}

/// Room for the updates of a value.
struct ValueMerge<D> {
    /// Ticks before this one can no longer be told apart.
    since: Tick,
    updates: Vec<(Tick, D)>,
    packed: Vec<u8>,
}

impl<D: PackedDifference> ValueMerge<D> {
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

    /// Writes the sum of a value's updates in both runs; returns how many these were.
    fn add(
        &mut self,
        value: &[u8],
        mut ones: Updates<'_, D>,
        mut twos: Updates<'_, D>,
        out: &mut RunWriter<D>,
    ) -> usize {
        let count = ones.len() + twos.len();
        if (ones.len(), twos.len()) == (1, 1)
            && let (Some(one), Some(two)) = (ones.next_tick(), twos.next_tick())
        {
            let (one, two) = (one.max(self.since), two.max(self.since));
            let (mut first, mut second) = (ones.difference(), twos.difference());
            self.packed.clear();
            put_tick(&mut self.packed, out.base(), one.min(two));
            if one != two {
                let (early, late) = if one < two { (first, second) } else { (second, first) };
                self.packed.extend_from_slice(early);
                put_tick(&mut self.packed, out.base(), one.max(two));
                self.packed.extend_from_slice(late);
                out.value(value, 2, &self.packed);
            } else if D::pack_sum(&mut first, &mut second, &mut self.packed) {
                out.value(value, 1, &self.packed);
            }
            return count;
        }
        for (tick, difference) in ones.chain(twos) {
            self.updates.push((tick.max(self.since), difference));
        }
        self.write(value, out);
        count
    }
}

impl<D: PackedDifference> Merger<Run<D>> for RunMerger<D> {
    fn new(one: &Run<D>, two: &Run<D>, since: AntichainRef<'_, Tick>) -> Self {
        let since = since.first().copied().unwrap_or(Tick::MIN);
        // A few bytes more are left free where blocks end elsewhere.
        let bytes = one.bytes.len() + two.bytes.len();
        // Most updates of a run are at its base: those of the larger one can be copied.
        let larger = if one.updates < two.updates { two } else { one };
        let base = larger.base.max(since);
        let source = |run: &Run<D>| MergeInput {
            cursor: RunCursor::new(run),
            keeps_base: run.base.max(since) == base,
        };
        RunMerger {
            one: source(one),
            two: source(two),
            out: RunWriter::new(base, bytes + bytes / 32 + UNIT),
            key: None,
            values: ValueMerge { since, updates: Vec::new(), packed: Vec::new() },
        }
    }

    fn work(&mut self, a: &Run<D>, b: &Run<D>, fuel: &mut isize) {
        let RunMerger { one, two, out, key, values, .. } = self;
        while *fuel > 0 {
            let order = match *key {
                Some(order) => order,
                None => {
                    let (order, at) = match (one.cursor.key(a), two.cursor.key(b)) {
                        (None, None) => return,
                        (Some(first), None) => (Ordering::Less, first),
                        (None, Some(second)) => (Ordering::Greater, second),
                        (Some(first), Some(second)) => match first.cmp(&second) {
                            Ordering::Greater => (Ordering::Greater, second),
                            order => (order, first),
                        },
                    };
                    let copied = match order {
                        Ordering::Less => one.copy_group(a, at.hash, out),
                        Ordering::Greater => two.copy_group(b, at.hash, out),
                        Ordering::Equal => None,
                    };
                    if let Some(count) = copied {
                        *fuel -= count as isize;
                        continue;
                    }
                    out.key(at);
                    *key = Some(order);
                    order
                }
            };
            let first = if order.is_le() { one.cursor.value(a) } else { None };
            let second = if order.is_ge() { two.cursor.value(b) } else { None };
            let taken = match (first, second) {
                (None, None) => {
                    if order.is_le() {
                        one.cursor.next_key(a);
                    }
                    if order.is_ge() {
                        two.cursor.next_key(b);
                    }
                    *key = None;
                    // The spine gives fuel for the updates of both runs, and no more: it expects the
                    // merge to be done with that.
                    0
                }
                (Some(_), None) => one.copy_value(a, values, out),
                (None, Some(_)) => two.copy_value(b, values, out),
                (Some(first), Some(second)) => match first.cmp(second) {
                    Ordering::Less => one.copy_value(a, values, out),
                    Ordering::Greater => two.copy_value(b, values, out),
                    Ordering::Equal => {
                        let (ones, twos) = (one.cursor.updates(a), two.cursor.updates(b));
                        let count = values.add(first, ones, twos, out);
                        one.cursor.next_value(a);
                        two.cursor.next_value(b);
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
