//! How often a row is there.

use serde::{Deserialize, Serialize};

/// How often a row is there, or how many more (fewer) of it there are: 64 bits. Sums and products that
/// need more are [`Multiplicity::OVERFLOW`], and so is all that comes of them; the view fails where it
/// is seen.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Multiplicity(i64);

impl Multiplicity {
    /// More than 64 bits.
    pub const OVERFLOW: Multiplicity = Multiplicity(i64::MIN);

    /// A multiplicity that fits into 64 bits.
    #[inline]
    pub fn new(count: i64) -> Multiplicity {
        Multiplicity(count)
    }

    /// The number; `None` if it has more than 64 bits.
    #[inline]
    pub fn known(self) -> Option<i64> {
        (self != Multiplicity::OVERFLOW).then_some(self.0)
    }

    /// The number as it is kept, of which [`Multiplicity::new`] makes the same again.
    #[inline]
    pub fn bits(self) -> i64 {
        self.0
    }

    /// The sum.
    #[inline]
    pub fn plus(self, other: Multiplicity) -> Multiplicity {
        if self == Multiplicity::OVERFLOW || other == Multiplicity::OVERFLOW {
            return Multiplicity::OVERFLOW;
        }
        self.0.checked_add(other.0).map_or(Multiplicity::OVERFLOW, Multiplicity)
    }

    /// The product: of pairs of rows.
    #[inline]
    pub fn times(self, other: Multiplicity) -> Multiplicity {
        if self == Multiplicity::OVERFLOW || other == Multiplicity::OVERFLOW {
            return Multiplicity::OVERFLOW;
        }
        self.0.checked_mul(other.0).map_or(Multiplicity::OVERFLOW, Multiplicity)
    }

    /// The rows taken back.
    #[inline]
    pub fn negated(self) -> Multiplicity {
        // The least number is its own negative, and stays what it means.
        Multiplicity(self.0.wrapping_neg())
    }

    /// Whether there is no such row, and no change.
    #[inline]
    pub fn is_zero(self) -> bool {
        self.0 == 0
    }
}

impl std::iter::Sum for Multiplicity {
    fn sum<I: Iterator<Item = Multiplicity>>(counts: I) -> Multiplicity {
        counts.fold(Multiplicity::default(), Multiplicity::plus)
    }
}

impl From<i8> for Multiplicity {
    fn from(count: i8) -> Multiplicity {
        Multiplicity(count.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_beyond_64_bits_stay_an_overflow() {
        let (most, one) = (Multiplicity::new(i64::MAX), Multiplicity::new(1));
        assert_eq!(most.plus(one.negated()).known(), Some(i64::MAX - 1));
        let overflow = most.plus(one);
        assert_eq!(overflow.known(), None);
        assert_eq!(overflow.plus(most.negated()).known(), None);
        assert_eq!(overflow.negated().known(), None);
        assert_eq!(overflow.times(one).known(), None);
        assert_eq!(most.times(Multiplicity::new(2)), Multiplicity::OVERFLOW);
        assert_eq!(most.negated().plus(one.negated()), Multiplicity::OVERFLOW);
        assert_eq!(most.negated().times(one).known(), Some(-i64::MAX));
    }
}
