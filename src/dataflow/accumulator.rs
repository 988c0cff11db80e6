//! What a group's rows add up to: the difference type of `Reduce`.
//!
//! An [`Accumulator`] is the number of rows and one [`Slot`] per thing that is summed. It is a
//! semigroup, so differential dataflow adds it up in its traces: one update of state per group,
//! however many events there were.

use differential_dataflow::difference::{IsZero, Semigroup};
use num_bigint::{BigInt, Sign};
use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

use super::exact::FloatSum;
use crate::model::row::Row;

/// The sum of a group's rows.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Accumulator {
    /// How many rows the group has; a group of none is not there.
    pub rows: i64,
    /// In the order of the reduce's layout.
    pub slots: SmallVec<[Slot; 2]>,
}

/// Something summed over the values of a column that are not NULL.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Slot {
    /// How many there are.
    Count(i64),
    /// Integers, or decimals of up to 28 digits, which no number of events makes overflow.
    Sum {
        count: i64,
        sum: Int128,
    },
    /// Wider decimals.
    WideSum(Box<WideSum>),
    Floats(Box<Floats>),
    Moments(Box<Moments>),
    Booleans {
        yes: i64,
        no: i64,
    },
    /// The least of values that were mapped to unsigned integers of the same order.
    Least(Option<u64>),
    /// The least of values that were encoded as bytes of the same order.
    LeastBytes(Option<Box<[u8]>>),
    /// The least `limit` of values that were encoded as bytes, in order.
    LeastRows {
        limit: u32,
        rows: Vec<Row>,
    },
}

/// An `i128` with the alignment of a `u64`, which keeps slots small.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Int128 {
    high: i64,
    low: u64,
}

impl Int128 {
    pub fn get(self) -> i128 {
        (i128::from(self.high) << 64) | i128::from(self.low)
    }

    #[inline]
    pub fn add(&mut self, value: i128) {
        let sum = self.get() + value;
        *self = Int128 { high: (sum >> 64) as i64, low: sum as u64 };
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct WideSum {
    pub count: i64,
    pub sum: BigInt,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Floats {
    pub count: i64,
    pub sum: FloatSum,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Moments {
    pub count: i64,
    pub sum: FloatSum,
    pub squares: FloatSum,
}

impl Slot {
    fn add(&mut self, other: &Slot) {
        match (self, other) {
            (Slot::Count(a), Slot::Count(b)) => *a += b,
            (Slot::Sum { count, sum }, Slot::Sum { count: c, sum: s }) => {
                *count += c;
                sum.add(s.get());
            }
            (Slot::WideSum(a), Slot::WideSum(b)) => {
                a.count += b.count;
                a.sum += &b.sum;
            }
            (Slot::Floats(a), Slot::Floats(b)) => {
                a.count += b.count;
                a.sum.merge(&b.sum);
            }
            (Slot::Moments(a), Slot::Moments(b)) => {
                a.count += b.count;
                a.sum.merge(&b.sum);
                a.squares.merge(&b.squares);
            }
            (Slot::Booleans { yes, no }, Slot::Booleans { yes: y, no: n }) => {
                *yes += y;
                *no += n;
            }
            (Slot::Least(a), Slot::Least(b)) => {
                if let Some(b) = b {
                    *a = Some(a.map_or(*b, |a| a.min(*b)));
                }
            }
            (Slot::LeastBytes(a), Slot::LeastBytes(Some(b))) => {
                if a.as_ref().is_none_or(|a| b < a) {
                    *a = Some(b.clone());
                }
            }
            (Slot::LeastBytes(_), Slot::LeastBytes(None)) => {}
            (Slot::LeastRows { limit, rows }, Slot::LeastRows { rows: others, .. }) => {
                let full = rows.len() == *limit as usize;
                let last = rows.last();
                if full && others.first().is_none_or(|first| last.is_some_and(|l| l <= first)) {
                    return;
                }
                rows.extend(others.iter().cloned());
                rows.sort_unstable();
                rows.truncate(*limit as usize);
            }
            (a, b) => unreachable!("slots of one layout are alike: {a:?} and {b:?}"),
        }
    }

    fn is_zero(&self) -> bool {
        match self {
            Slot::Count(count) => *count == 0,
            Slot::Sum { count, sum } => *count == 0 && sum.get() == 0,
            Slot::WideSum(wide) => wide.count == 0 && wide.sum.sign() == Sign::NoSign,
            Slot::Floats(floats) => floats.count == 0 && floats.sum.is_zero(),
            Slot::Moments(m) => m.count == 0 && m.sum.is_zero() && m.squares.is_zero(),
            Slot::Booleans { yes, no } => *yes == 0 && *no == 0,
            Slot::Least(least) => least.is_none(),
            Slot::LeastBytes(least) => least.is_none(),
            Slot::LeastRows { rows, .. } => rows.is_empty(),
        }
    }
}

impl IsZero for Accumulator {
    fn is_zero(&self) -> bool {
        self.rows == 0 && self.slots.iter().all(Slot::is_zero)
    }
}

impl Semigroup for Accumulator {
    #[inline]
    fn plus_equals(&mut self, other: &Self) {
        self.rows += other.rows;
        if self.slots.is_empty() {
            self.slots = other.slots.clone();
        } else {
            for (slot, other) in self.slots.iter_mut().zip(&other.slots) {
                slot.add(other);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_stays_small_since_every_group_has_some() {
        assert!(std::mem::size_of::<Slot>() <= 32, "{}", std::mem::size_of::<Slot>());
        assert!(std::mem::size_of::<Accumulator>() <= 88);
    }

    #[test]
    fn rows_that_come_and_go_in_sum_are_zero_only_if_their_values_are() {
        let sum = |rows, value| Accumulator {
            rows,
            slots: SmallVec::from_iter([Slot::Sum {
                count: rows,
                sum: {
                    let mut s = Int128::default();
                    s.add(value);
                    s
                },
            }]),
        };
        let mut changed = sum(1, 7);
        changed.plus_equals(&sum(-1, -5));
        assert!(!changed.is_zero());
        changed.plus_equals(&sum(0, -2));
        assert!(changed.is_zero());
    }
}
