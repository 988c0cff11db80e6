//! What a group's rows add up to, and the folding of a batch into the accumulators of its groups.

use std::marker::PhantomData;

use arrow::array::Array;
use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

use super::slot::{Slot, State};
use crate::model::multiplicity::Multiplicity;
use crate::model::packed::{put, put_signed, take_bytes, take_signed};

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
        // Most take less than 128 bytes, and so one for their number.
        let start = out.len();
        out.push(0);
        put_signed(out, self.rows.bits());
        for slot in &self.slots {
            slot.pack(out);
        }
        let len = out.len() - start - 1;
        if len < 0x80 {
            out[start] = len as u8;
        } else {
            let mut number = Vec::new();
            put(&mut number, len as u64);
            out.splice(start..=start, number);
        }
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
    /// Of each row its group's index among the accumulators.
    pub members: &'a [usize],
    /// Of each row how often it is added.
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
}
