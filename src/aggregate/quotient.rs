//! To how many digits PostgreSQL rounds a quotient of decimals: at least 16 that say something
//! (`select_div_scale` in its `numeric.c`), a number that depends on the two values.

use std::borrow::Cow;
use std::sync::LazyLock;

use num_bigint::BigInt;

/// The digits that a quotient has at least, from the first one that is not zero.
const SIGNIFICANT_DIGITS_MIN: i32 = 16;
/// PostgreSQL calculates with groups of so many digits.
const GROUP: i32 = 4;
/// So many digits of a number tell where it begins.
const LEADING_DIGITS: usize = 30;

/// Powers of ten that quotients are scaled by; there are few greater ones.
static TENS: LazyLock<Vec<BigInt>> =
    LazyLock::new(|| (0..TENS_KEPT).map(|power| BigInt::from(10).pow(power)).collect());
const TENS_KEPT: u32 = 128;

/// A power of ten, to multiply by.
pub fn ten(power: u32) -> Cow<'static, BigInt> {
    match TENS.get(power as usize) {
        Some(ten) => Cow::Borrowed(ten),
        None => Cow::Owned(BigInt::from(10).pow(power)),
    }
}

/// The first group of digits of a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FirstGroup {
    /// Number of groups between this one and the point; negative for a group behind the point.
    weight: i32,
    /// From 1 to 9999; 0 of zero.
    value: u32,
}

impl FirstGroup {
    /// The first group of `unscaled · 10^-scale`.
    #[inline]
    pub fn of(unscaled: u128, scale: i32) -> Self {
        let Some(digits) = unscaled.checked_ilog10() else {
            return FirstGroup { weight: 0, value: 0 };
        };
        let weight = (digits as i32 - scale).div_euclid(GROUP);
        let down = weight * GROUP + scale;
        let value = match u32::try_from(down) {
            Ok(down) => unscaled / 10_u128.pow(down),
            // Fewer digits than a group has stand there.
            Err(_) => unscaled * 10_u128.pow(down.unsigned_abs()),
        };
        FirstGroup { weight, value: value as u32 }
    }

    /// The same of a number of any size.
    pub fn of_big(unscaled: &BigInt, scale: i32) -> Self {
        let magnitude = unscaled.magnitude();
        if let Ok(narrow) = u128::try_from(magnitude) {
            return FirstGroup::of(narrow, scale);
        }
        let digits = magnitude.to_string();
        let leading = digits[..LEADING_DIGITS].parse().unwrap_or(0);
        FirstGroup::of(leading, scale - (digits.len() - LEADING_DIGITS) as i32)
    }
}

/// Number of digits behind the point of PostgreSQL's quotient; `scale` is the greater one of the operands.
#[inline]
pub fn quotient_scale(dividend: FirstGroup, divisor: FirstGroup, scale: i32) -> i32 {
    let below = i32::from(dividend.value <= divisor.value);
    let weight = dividend.weight - divisor.weight - below;
    (SIGNIFICANT_DIGITS_MIN - weight * GROUP).max(scale)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The scale of `a / b`, given as digits and their scale.
    fn scale(a: (u128, i32), b: (u128, i32)) -> i32 {
        quotient_scale(FirstGroup::of(a.0, a.1), FirstGroup::of(b.0, b.1), a.1.max(b.1))
    }

    #[test]
    fn quotients_have_the_digits_of_postgresql() {
        // SELECT scale(1 / 3.0), scale(10 / 3.0), scale(1 / 7000000.0), …
        assert_eq!(scale((1, 0), (30, 1)), 20);
        assert_eq!(scale((10, 0), (30, 1)), 16);
        assert_eq!(scale((1, 0), (70_000_000, 1)), 24);
        assert_eq!(scale((10_u128.pow(20), 0), (3, 0)), 0);
        assert_eq!(scale((0, 0), (30, 1)), 20);
        assert_eq!(scale((5, 1), (3, 0)), 20);
        assert_eq!(scale((123_456_789, 2), (1, 18)), 18);
    }

    #[test]
    fn numbers_of_more_bits_begin_where_their_digits_do() {
        let big = BigInt::from(10).pow(50) * 7_u8;
        assert_eq!(FirstGroup::of_big(&big, 20), FirstGroup::of(7 * 10_u128.pow(30), 0));
        assert_eq!(FirstGroup::of_big(&BigInt::from(-25), 1), FirstGroup { weight: 0, value: 2 });
    }
}
