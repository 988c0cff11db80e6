//! The accumulated state of a group's rows, and the folding of a batch into the accumulators of its groups.

use std::marker::PhantomData;

use arrow::array::Array;
use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

use super::slot::{Slot, State};
use crate::model::multiplicity::Multiplicity;
use crate::model::packed::{put_counted, put_signed, take_bytes, take_signed};

/// The sum of a group's rows.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Accumulator {
    /// Number of rows in the group; without rows there is no group.
    pub rows: Multiplicity,
    /// In the order of the operator's layout. None: nothing was added yet.
    pub slots: SmallVec<[Slot; 2]>,
}

impl Accumulator {
    /// Adds what other rows of the group add up to.
    #[inline]
    pub fn merge(&mut self, other: &Self) {
        self.rows = self.rows.plus(other.rows);
        if self.slots.is_empty() {
            self.slots = other.slots.clone();
        } else {
            for (slot, other) in self.slots.iter_mut().zip(&other.slots) {
                slot.merge(other);
            }
        }
    }

    /// Whether the group has rows.
    pub fn is_there(&self) -> bool {
        self.rows.known().is_none_or(|rows| rows > 0)
    }

    /// Whether it is that of no rows.
    pub fn is_zero(&self) -> bool {
        self.rows.is_zero() && self.slots.iter().all(Slot::is_zero)
    }

    /// Bytes on the heap, beyond the size of the accumulator itself; about.
    pub fn heap_bytes(&self) -> usize {
        let slots = if self.slots.spilled() { self.slots.len() * size_of::<Slot>() } else { 0 };
        slots + self.slots.iter().map(Slot::heap_bytes).sum::<usize>()
    }

    /// Appends it in the form in which it is kept: number of bytes, rows, slots.
    pub fn pack(&self, out: &mut Vec<u8>) {
        put_counted(out, |out| {
            put_signed(out, self.rows.bits());
            for slot in &self.slots {
                slot.pack(out);
            }
        });
    }

    /// Takes one in that form off the front of each and appends the sum, unless it is that of no rows;
    /// false if it is.
    pub fn pack_sum(one: &mut &[u8], two: &mut &[u8], out: &mut Vec<u8>) -> bool {
        let (start, before) = (out.len(), (*one, *two));
        let (mut first, mut second) = (take_bytes(one), take_bytes(two));
        let rows = Multiplicity::new(take_signed(&mut first));
        let rows = rows.plus(Multiplicity::new(take_signed(&mut second)));
        let mut is_zero = rows.is_zero();
        if first.is_empty() || second.is_empty() {
            // To one of them nothing was added.
            let mut sum = Accumulator::unpack(&mut { before.0 });
            sum.merge(&Accumulator::unpack(&mut { before.1 }));
            is_zero = sum.is_zero();
            sum.pack(out);
        } else {
            put_counted(out, |out| {
                put_signed(out, rows.bits());
                while !first.is_empty() && !second.is_empty() {
                    is_zero &= Slot::pack_sum(&mut first, &mut second, out);
                }
            });
        }
        if is_zero {
            out.truncate(start);
        }
        !is_zero
    }

    /// Takes one in that form off the front.
    pub fn unpack(from: &mut &[u8]) -> Self {
        let mut bytes = take_bytes(from);
        let rows = Multiplicity::new(take_signed(&mut bytes));
        let mut slots = SmallVec::new();
        while !bytes.is_empty()
            && let Some(slot) = Slot::unpack(&mut bytes)
        {
            slots.push(slot);
        }
        Accumulator { rows, slots }
    }

    /// The state in a slot, if there is one of this kind.
    pub fn state<S: State>(&self, slot: usize) -> Option<&S> {
        S::of(self.slots.get(slot)?)
    }
}

/// The groups of a batch's rows.
pub struct BatchGroups<'a> {
    pub accumulators: &'a mut [Accumulator],
    /// For each row the index of its group's accumulator.
    pub members: &'a [usize],
    /// For each row the number of times it is added.
    pub diffs: &'a [i64],
}

/// One slot of the groups of a batch's rows.
pub struct States<'a, S> {
    groups: BatchGroups<'a>,
    slot: usize,
    state: PhantomData<S>,
}

impl<'a, S: State> States<'a, S> {
    pub(super) fn new(groups: BatchGroups<'a>, slot: usize) -> Self {
        States { groups, slot, state: PhantomData }
    }

    /// Runs `add` for each row whose value in `column` is not NULL, with the row's state, its index,
    /// and how often it is added.
    #[inline]
    pub fn each(self, column: &dyn Array, mut add: impl FnMut(&mut S, usize, i64)) {
        let BatchGroups { accumulators, members, diffs } = self.groups;
        let nulls = column.logical_nulls();
        for (row, (member, diff)) in members.iter().zip(diffs).enumerate() {
            if nulls.as_ref().is_none_or(|n| n.is_valid(row))
                && let Some(state) = S::of_mut(&mut accumulators[*member].slots[self.slot])
            {
                add(state, row, *diff);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aggregate::total::IntegerTotal;

    #[test]
    fn an_accumulator_of_two_slots_takes_at_most_88_bytes() {
        assert!(std::mem::size_of::<Accumulator>() <= 88);
    }

    #[test]
    fn accumulator_is_zero_only_if_rows_and_values_are() {
        let sum = |rows, value| Accumulator {
            rows: Multiplicity::new(rows),
            slots: SmallVec::from_iter([IntegerTotal::of_values(rows, value).into()]),
        };
        let mut changed = sum(1, 7);
        changed.merge(&sum(-1, -5));
        assert!(!changed.is_zero());
        changed.merge(&sum(0, -2));
        assert!(changed.is_zero());
    }

    #[test]
    fn packed_accumulators_add_up_as_others_do() {
        use crate::aggregate::{FirstRow, KeptRows};
        use crate::model::row::Row;
        let sum = |rows, value| Accumulator {
            rows: Multiplicity::new(rows),
            slots: SmallVec::from_iter([IntegerTotal::of_values(rows, value).into()]),
        };
        let first = |row: &[u8]| {
            let state: Slot = FirstRow::of_rows([Row::from_slice(row)].iter(), 1).into();
            Accumulator { rows: Multiplicity::new(1), slots: SmallVec::from_iter([state]) }
        };
        let nothing = Accumulator::default();
        let long = first(&[1; 500]);
        for (one, two) in [
            (sum(1, 7), sum(2, -9)),
            (sum(1, 7), sum(-1, -7)),
            (sum(1, 7), sum(-1, -6)),
            (sum(3, 1 << 70), nothing.clone()),
            (nothing.clone(), sum(1, 1)),
            (nothing.clone(), nothing),
            (first(b"b"), first(b"a")),
            (first(b"b"), long.clone()),
            (long, first(b"")),
        ] {
            let packed = |accumulator: &Accumulator| {
                let mut out = Vec::new();
                accumulator.pack(&mut out);
                out
            };
            let (first, second, mut out) = (packed(&one), packed(&two), b"before".to_vec());
            let (mut first, mut second) = (&first[..], &second[..]);
            let is_there = Accumulator::pack_sum(&mut first, &mut second, &mut out);
            assert!(first.is_empty() && second.is_empty());
            let mut expected = one.clone();
            expected.merge(&two);
            assert_eq!(is_there, !expected.is_zero());
            let mut found = &out[6..];
            let found = is_there.then(|| Accumulator::unpack(&mut found));
            assert_eq!(found, is_there.then_some(expected));
            assert!(is_there || out == b"before");
        }
    }
}
