//! The stored form of states: an enum of a fixed size, which is ordered and can be sent.

use serde::{Deserialize, Serialize};

use super::booleans::Booleans;
use super::count::Count;
use super::first_rows::{FirstRow, FirstRows};
use super::interval::IntervalTotal;
use super::min_max::{Greatest, Least};
use super::regression::CoMoments;
use super::total::{FloatTotal, IntegerTotal, WideTotal};
use super::variance::{ExactMoments, Moments};
use crate::model::packed::{put, take};

/// The state kept of some rows of a group.
pub trait State: Stored + Clone {
    /// Whether rows can be taken back, by merging the state of their negative number.
    const TAKES_BACK: bool = true;

    /// Adds what is kept of other rows.
    fn merge(&mut self, other: &Self);

    /// Whether it is that of no rows.
    fn is_zero(&self) -> bool;

    /// Bytes on the heap, beyond the size of the slot; about.
    fn heap_bytes(&self) -> usize {
        0
    }

    /// Appends it in the form in which it is kept.
    fn pack(&self, out: &mut Vec<u8>);

    /// Takes one in that form off the front.
    fn unpack(from: &mut &[u8]) -> Self;

    /// Takes one in that form off the front of each and appends them merged; whether that is the state
    /// of no rows.
    #[inline]
    fn pack_sum(one: &mut &[u8], two: &mut &[u8], out: &mut Vec<u8>) -> bool {
        let mut sum = Self::unpack(one);
        sum.merge(&Self::unpack(two));
        sum.pack(out);
        sum.is_zero()
    }
}

/// A state that slots can hold.
pub trait Stored: Into<Slot> {
    /// The state in a slot, if the slot is of this kind.
    fn of(slot: &Slot) -> Option<&Self>;

    /// The state in a slot, if the slot is of this kind.
    fn of_mut(slot: &mut Slot) -> Option<&mut Self>;
}

/// Declares the slots, each with the state that it holds and the number of its kind. Kinds that are kept
/// somewhere keep their number.
macro_rules! slots {
    ($($number:literal: $name:ident($state:ty),)*) => {
        /// A state of any kind. Slots at the same place of two accumulators of one operator are of
        /// the same kind.
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
        pub enum Slot {
            $($name($state),)*
        }

        impl Slot {
            /// Adds a slot of the same kind; one of another kind is left out.
            pub fn merge(&mut self, other: &Slot) {
                match (self, other) {
                    $((Slot::$name(state), Slot::$name(other)) => state.merge(other),)*
                    (slot, other) => debug_assert!(false, "{slot:?} and {other:?} are not alike"),
                }
            }

            /// Whether it is the slot of no rows.
            pub fn is_zero(&self) -> bool {
                match self {
                    $(Slot::$name(state) => state.is_zero(),)*
                }
            }

            /// Bytes on the heap, beyond the size of the slot; about.
            pub fn heap_bytes(&self) -> usize {
                match self {
                    $(Slot::$name(state) => state.heap_bytes(),)*
                }
            }

            /// Appends it in the form in which it is kept: the number of its kind, and its state.
            pub fn pack(&self, out: &mut Vec<u8>) {
                match self {
                    $(Slot::$name(state) => {
                        put(out, $number);
                        state.pack(out);
                    })*
                }
            }

            /// Takes one in that form off the front; `None` if there is no such kind.
            pub fn unpack(from: &mut &[u8]) -> Option<Slot> {
                match take(from) {
                    $($number => Some(Slot::$name(State::unpack(from))),)*
                    _ => None,
                }
            }

            /// Takes slots of one kind in that form off the front of each and appends them merged;
            /// whether that is the slot of no rows.
            pub fn pack_sum(one: &mut &[u8], two: &mut &[u8], out: &mut Vec<u8>) -> bool {
                let (kind, other) = (take(one), take(two));
                debug_assert_eq!(kind, other, "slots are alike");
                put(out, kind);
                match kind {
                    $($number => <$state as State>::pack_sum(one, two, out),)*
                    _ => true,
                }
            }

            /// Whether rows can be taken back.
            pub fn takes_back(&self) -> bool {
                match self {
                    $(Slot::$name(_) => <$state as State>::TAKES_BACK,)*
                }
            }
        }

        $(
            impl From<$state> for Slot {
                fn from(state: $state) -> Slot {
                    Slot::$name(state)
                }
            }

            impl Stored for $state {
                #[inline]
                fn of(slot: &Slot) -> Option<&Self> {
                    match slot {
                        Slot::$name(state) => Some(state),
                        _ => None,
                    }
                }

                #[inline]
                fn of_mut(slot: &mut Slot) -> Option<&mut Self> {
                    match slot {
                        Slot::$name(state) => Some(state),
                        _ => None,
                    }
                }
            }
        )*
    };
}

slots! {
    1: Count(Count),
    2: IntegerTotal(IntegerTotal),
    3: WideTotal(Box<WideTotal>),
    4: FloatTotal(Box<FloatTotal>),
    5: Moments(Box<Moments>),
    6: ExactMoments(Box<ExactMoments>),
    7: IntervalTotal(Box<IntervalTotal>),
    8: CoMoments(Box<CoMoments>),
    9: Booleans(Booleans),
    10: Least(Least<u64>),
    11: Greatest(Greatest<u64>),
    12: LeastBytes(Least<Box<[u8]>>),
    13: GreatestBytes(Greatest<Box<[u8]>>),
    14: FirstRow(FirstRow),
    15: FirstRows(FirstRows),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_takes_at_most_32_bytes() {
        assert!(std::mem::size_of::<Slot>() <= 32, "{}", std::mem::size_of::<Slot>());
    }
}
