//! Sums of floating-point numbers that are exact, so that taking a number back leaves no residue.
//!
//! A finite sum is `mantissa · 2^exponent` with an integer mantissa: in 128 bits while that is
//! enough, in a big integer beyond. NaN and the infinities are counted apart.

use num_bigint::{BigInt, Sign};
use serde::{Deserialize, Serialize};

use crate::model::packed::{
    put, put_bytes, put_signed, put_wide, take, take_bytes, take_signed, take_wide,
};

/// The widest mantissa that is kept in 128 bits, so that two of them can be added.
const SMALL_BITS_MAX: u32 = 124;

/// An exact sum of floats.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct FloatSum {
    finite: Finite,
    nan: i64,
    positive_infinity: i64,
    negative_infinity: i64,
}

/// `mantissa · 2^exponent`; zero has exponent 0.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
enum Finite {
    Small { mantissa: i128, exponent: i16 },
    Big { mantissa: BigInt, exponent: i16 },
}

impl Default for Finite {
    fn default() -> Self {
        Finite::Small { mantissa: 0, exponent: 0 }
    }
}

/// The integer mantissa and the exponent of a finite float.
fn parts(value: f64) -> (i128, i16) {
    let bits = value.to_bits();
    let fraction = (bits & ((1 << 52) - 1)) as i128;
    let biased = ((bits >> 52) & 0x7ff) as i16;
    let (mantissa, exponent) =
        if biased == 0 { (fraction, -1074) } else { (fraction | (1 << 52), biased - 1075) };
    (if value.is_sign_negative() { -mantissa } else { mantissa }, exponent)
}

impl Finite {
    fn is_zero(&self) -> bool {
        match self {
            Finite::Small { mantissa, .. } => *mantissa == 0,
            Finite::Big { mantissa, .. } => mantissa.sign() == Sign::NoSign,
        }
    }

    fn add(&mut self, mut other_mantissa: i128, mut other_exponent: i16) {
        if other_mantissa == 0 {
            return;
        }
        if let Finite::Small { mantissa, exponent } = self {
            if *mantissa == 0 {
                (*mantissa, *exponent) = (other_mantissa, other_exponent);
                return;
            }
            if let Some(sum) = add_small((*mantissa, *exponent), (other_mantissa, other_exponent)) {
                (*mantissa, *exponent) = sum;
                return;
            }
            // Zeros at the end may be all that is in the way.
            reduce(mantissa, exponent);
            reduce(&mut other_mantissa, &mut other_exponent);
            if let Some(sum) = add_small((*mantissa, *exponent), (other_mantissa, other_exponent)) {
                (*mantissa, *exponent) = sum;
                return;
            }
        }
        self.add_big(BigInt::from(other_mantissa), other_exponent);
    }

    fn add_big(&mut self, other: BigInt, other_exponent: i16) {
        let (mantissa, exponent) = self.big();
        let exponent_min = exponent.min(other_exponent);
        let sum = (mantissa << (exponent - exponent_min) as usize)
            + (other << (other_exponent - exponent_min) as usize);
        *self = Finite::from_big(sum, exponent_min);
    }

    fn from_big(mantissa: BigInt, exponent: i16) -> Self {
        let zeros = mantissa.trailing_zeros().unwrap_or(0);
        if mantissa.bits().saturating_sub(zeros) <= u64::from(SMALL_BITS_MAX) {
            let reduced = mantissa >> zeros as usize;
            if let Ok(mantissa) = i128::try_from(reduced) {
                let exponent = if mantissa == 0 { 0 } else { exponent + zeros as i16 };
                return Finite::Small { mantissa, exponent };
            }
            unreachable!("{SMALL_BITS_MAX} bits fit into 128");
        }
        Finite::Big { mantissa, exponent }
    }

    fn big(&self) -> (BigInt, i16) {
        match self {
            Finite::Small { mantissa, exponent } => (BigInt::from(*mantissa), *exponent),
            Finite::Big { mantissa, exponent } => (mantissa.clone(), *exponent),
        }
    }
}

fn add_small(a: (i128, i16), b: (i128, i16)) -> Option<(i128, i16)> {
    let (high, low) = if a.1 >= b.1 { (a, b) } else { (b, a) };
    let shift = (high.1 - low.1) as u32;
    let width = 128 - high.0.unsigned_abs().leading_zeros();
    let low_width = 128 - low.0.unsigned_abs().leading_zeros();
    if width + shift > SMALL_BITS_MAX || low_width > SMALL_BITS_MAX {
        return None;
    }
    let sum = (high.0 << shift) + low.0;
    Some(if sum == 0 { (0, 0) } else { (sum, low.1) })
}

fn reduce(mantissa: &mut i128, exponent: &mut i16) {
    let zeros = mantissa.trailing_zeros();
    *mantissa >>= zeros;
    *exponent += zeros as i16;
}

/// The float nearest to `mantissa · 2^exponent`.
fn nearest(mantissa: &BigInt, exponent: i64) -> f64 {
    // Beyond 120 bits only whether anything is left matters to rounding.
    let surplus = mantissa.bits().saturating_sub(120);
    let mut head = mantissa.magnitude() >> surplus as usize;
    if surplus > 0 && mantissa.trailing_zeros().is_some_and(|zeros| zeros < surplus) {
        head |= num_bigint::BigUint::from(1_u8);
    }
    let head = u128::try_from(head).unwrap_or(u128::MAX) as f64;
    let value = scale(head, exponent + surplus as i64);
    if mantissa.sign() == Sign::Minus { -value } else { value }
}

/// `value · 2^exponent`, in steps that overflow only where the result does.
fn scale(mut value: f64, mut exponent: i64) -> f64 {
    while exponent != 0 && value != 0.0 && value.is_finite() {
        let step = exponent.clamp(-1000, 1000);
        value *= 2_f64.powi(step as i32);
        exponent -= step;
    }
    value
}

impl FloatSum {
    /// Adds `times` times `value`; a negative `times` takes it back.
    #[inline]
    pub fn add(&mut self, value: f64, times: i64) {
        if value.is_finite() {
            let (mantissa, exponent) = parts(value);
            self.finite.add_scaled(mantissa, exponent, times);
        } else if value.is_nan() {
            self.nan += times;
        } else if value > 0.0 {
            self.positive_infinity += times;
        } else {
            self.negative_infinity += times;
        }
    }

    /// Adds the exact square of `value`.
    pub fn add_square(&mut self, value: f64, times: i64) {
        self.add_product(value, value, times);
    }

    /// Appends it in the form in which it is kept.
    pub fn pack(&self, out: &mut Vec<u8>) {
        match &self.finite {
            Finite::Small { mantissa, exponent } => {
                put(out, 0);
                put_wide(out, *mantissa);
                put_signed(out, i64::from(*exponent));
            }
            Finite::Big { mantissa, exponent } => {
                put(out, 1);
                put_bytes(out, &mantissa.to_signed_bytes_le());
                put_signed(out, i64::from(*exponent));
            }
        }
        for count in [self.nan, self.positive_infinity, self.negative_infinity] {
            put_signed(out, count);
        }
    }

    /// Takes one in that form off the front.
    pub fn unpack(from: &mut &[u8]) -> Self {
        let finite = match take(from) {
            0 => Finite::Small { mantissa: take_wide(from), exponent: take_signed(from) as i16 },
            _ => Finite::Big {
                mantissa: BigInt::from_signed_bytes_le(take_bytes(from)),
                exponent: take_signed(from) as i16,
            },
        };
        FloatSum {
            finite,
            nan: take_signed(from),
            positive_infinity: take_signed(from),
            negative_infinity: take_signed(from),
        }
    }

    /// Adds another sum.
    pub fn merge(&mut self, other: &FloatSum) {
        self.nan += other.nan;
        self.positive_infinity += other.positive_infinity;
        self.negative_infinity += other.negative_infinity;
        match &other.finite {
            Finite::Small { mantissa, exponent } => self.finite.add(*mantissa, *exponent),
            Finite::Big { mantissa, exponent } => self.finite.add_big(mantissa.clone(), *exponent),
        }
    }

    /// True for the sum of nothing.
    pub fn is_zero(&self) -> bool {
        self.nan == 0
            && self.positive_infinity == 0
            && self.negative_infinity == 0
            && self.finite.is_zero()
    }

    /// The sum that is no finite number, if so.
    fn special(&self) -> Option<f64> {
        match (self.nan != 0, self.positive_infinity != 0, self.negative_infinity != 0) {
            (true, _, _) | (_, true, true) => Some(f64::NAN),
            (_, true, false) => Some(f64::INFINITY),
            (_, false, true) => Some(f64::NEG_INFINITY),
            _ => None,
        }
    }

    /// Whether the sum is finite though no float has it.
    pub fn overflows(&self) -> bool {
        self.special().is_none() && self.value().is_infinite()
    }

    /// Adds the exact product of two numbers; of one that is not finite what the product is.
    pub fn add_product(&mut self, a: f64, b: f64, times: i64) {
        if !a.is_finite() || !b.is_finite() {
            return self.add(a * b, times);
        }
        let (a_mantissa, a_exponent) = parts(a);
        let (b_mantissa, b_exponent) = parts(b);
        let mut mantissa = a_mantissa * b_mantissa;
        let mut exponent = a_exponent + b_exponent;
        if mantissa != 0 {
            reduce(&mut mantissa, &mut exponent);
        }
        match mantissa.checked_mul(i128::from(times)) {
            Some(mantissa) => self.finite.add(mantissa, exponent),
            None => self.finite.add_big(BigInt::from(mantissa) * times, exponent),
        }
    }

    /// The float nearest to the sum.
    pub fn value(&self) -> f64 {
        if let Some(special) = self.special() {
            return special;
        }
        match &self.finite {
            Finite::Small { mantissa, exponent } => scale(*mantissa as f64, i64::from(*exponent)),
            Finite::Big { mantissa, exponent } => nearest(mantissa, i64::from(*exponent)),
        }
    }
}

impl Finite {
    #[inline]
    fn add_scaled(&mut self, mantissa: i128, exponent: i16, times: i64) {
        match times {
            1 => self.add(mantissa, exponent),
            -1 => self.add(-mantissa, exponent),
            // 53 bits times 63 bits fit.
            _ => self.add(mantissa * i128::from(times), exponent),
        }
    }
}

/// `count · Σxy − Σx · Σy`, from exact sums, rounded once; NaN where one of them is no finite number.
pub fn co_moment(count: i64, x: &FloatSum, y: &FloatSum, xy: &FloatSum) -> f64 {
    if [x, y, xy].iter().any(|sum| sum.special().is_some()) {
        return f64::NAN;
    }
    let (x, x_exponent) = x.finite.big();
    let (y, y_exponent) = y.finite.big();
    let (xy, xy_exponent) = xy.finite.big();
    let product_exponent = i64::from(x_exponent) + i64::from(y_exponent);
    let exponent = product_exponent.min(i64::from(xy_exponent));
    let of_products = (xy * count) << (i64::from(xy_exponent) - exponent) as usize;
    let of_sums = (x * y) << (product_exponent - exponent) as usize;
    nearest(&(of_products - of_sums), exponent)
}

/// The variance of `count` numbers from their exact sum and sum of squares, `None` where there is
/// none.
pub fn variance(count: i64, sum: &FloatSum, squares: &FloatSum, sample: bool) -> Option<f64> {
    if count <= i64::from(sample) {
        return None;
    }
    let divisor = if sample { count - 1 } else { count };
    Some(co_moment(count, sum, sum, squares) / count as f64 / divisor as f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn retracted_floats_leave_the_sum_as_if_never_added(
            kept in prop::collection::vec(any::<f64>(), 0..20),
            gone in prop::collection::vec(any::<f64>(), 0..20),
        ) {
            let mut plain = FloatSum::default();
            kept.iter().for_each(|v| plain.add(*v, 1));
            let mut churned = FloatSum::default();
            gone.iter().for_each(|v| churned.add(*v, 1));
            kept.iter().for_each(|v| churned.add(*v, 1));
            gone.iter().for_each(|v| churned.add(*v, -1));
            prop_assert_eq!(plain.value().to_bits(), churned.value().to_bits());
            kept.iter().for_each(|v| churned.add(*v, -1));
            prop_assert!(churned.is_zero(), "{:?}", churned);
        }

        #[test]
        fn sums_of_integers_are_the_integers_sum(values in prop::collection::vec(-1_000_000_i64..1_000_000, 2..50)) {
            let (mut sum, mut squares) = (FloatSum::default(), FloatSum::default());
            for v in &values {
                sum.add(*v as f64 / 8.0, 1);
                squares.add_square(*v as f64, 1);
            }
            prop_assert_eq!(sum.value(), values.iter().sum::<i64>() as f64 / 8.0);
            prop_assert_eq!(squares.value(), values.iter().map(|v| v * v).sum::<i64>() as f64);
        }
    }

    #[test]
    fn small_differences_of_large_numbers_survive() {
        let mut sum = FloatSum::default();
        for value in [1e308, 1.0, -1e308, 5e-324] {
            sum.add(value, 1);
        }
        assert_eq!(sum.value(), 1.0);
        sum.add(1.0, -1);
        assert_eq!(sum.value(), 5e-324);
        let (mut s, mut q) = (FloatSum::default(), FloatSum::default());
        for value in [1e9 + 1.0, 1e9 + 2.0, 1e9 + 3.0] {
            s.add(value, 1);
            q.add_square(value, 1);
        }
        assert_eq!(variance(3, &s, &q, true), Some(1.0));
        assert_eq!(variance(1, &s, &q, true), None);
    }
}
