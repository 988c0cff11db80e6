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

/// What is kept of some rows of a group.
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
}

/// A state that slots can hold.
pub trait Stored: Into<Slot> {
    /// The state in a slot, if the slot is of this kind.
    fn of(slot: &Slot) -> Option<&Self>;

    /// The state in a slot, if the slot is of this kind.
    fn of_mut(slot: &mut Slot) -> Option<&mut Self>;
}

/// Declares the slots, each with the state that it holds.
macro_rules! slots {
    ($($name:ident($state:ty),)*) => {
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
    Count(Count),
    IntegerTotal(IntegerTotal),
    WideTotal(Box<WideTotal>),
    FloatTotal(Box<FloatTotal>),
    Moments(Box<Moments>),
    ExactMoments(Box<ExactMoments>),
    IntervalTotal(Box<IntervalTotal>),
    CoMoments(Box<CoMoments>),
    Booleans(Booleans),
    Least(Least<u64>),
    Greatest(Greatest<u64>),
    LeastBytes(Least<Box<[u8]>>),
    GreatestBytes(Greatest<Box<[u8]>>),
    FirstRow(FirstRow),
    FirstRows(FirstRows),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_takes_at_most_32_bytes() {
        assert!(std::mem::size_of::<Slot>() <= 32, "{}", std::mem::size_of::<Slot>());
    }
}
