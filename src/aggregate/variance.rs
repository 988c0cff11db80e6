//! `var(x)`, `stddev(x)` and those of whole populations: exact up to the last rounding, as floats of floats, as
//! decimals of integers and decimals.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Float64Array};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type};
use arrow::error::ArrowError;
use num_bigint::{BigInt, Sign};
use serde::{Deserialize, Serialize};

use super::exact::{FloatSum, variance};
use super::quotient::{FirstGroup, quotient_scale, ten};
use super::total::{ExactInteger, ExactType, each_integer, rounded_quotient};
use super::{AggregateFunction, AnyAggregate, FoldedAggregate, Overflows, State, States};
use crate::model::packed::{put_signed, take_signed};

pub static VAR: AggregateFunction = AggregateFunction::accumulable("var", typed::<true, false>);
pub static VAR_POP: AggregateFunction =
    AggregateFunction::accumulable("var_pop", typed::<false, false>);
pub static STDDEV: AggregateFunction =
    AggregateFunction::accumulable("stddev", typed::<true, true>);
pub static STDDEV_POP: AggregateFunction =
    AggregateFunction::accumulable("stddev_pop", typed::<false, true>);

fn typed<const SAMPLE: bool, const ROOT: bool>(
    input: &DataType,
    output: &DataType,
) -> Result<Box<dyn AnyAggregate>, ArrowError> {
    if *output == DataType::Float64 {
        return Ok(Box::new(Variance { sample: SAMPLE, root: ROOT }));
    }
    let scale = |data_type: &DataType| match data_type {
        DataType::Decimal128(_, scale) | DataType::Decimal256(_, scale) => {
            u32::from(scale.unsigned_abs())
        }
        _ => 0,
    };
    Ok(Box::new(ExactVariance {
        sample: SAMPLE,
        root: ROOT,
        output: ExactType::of(output)?,
        input_scale: scale(input),
        output_scale: scale(output),
    }))
}

/// Number of floats, their sum, and the sum of their squares.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Moments {
    count: i64,
    sum: FloatSum,
    squares: FloatSum,
}

impl State for Box<Moments> {
    fn merge(&mut self, other: &Self) {
        self.count = self.count.wrapping_add(other.count);
        self.sum.merge(&other.sum);
        self.squares.merge(&other.squares);
    }

    fn is_zero(&self) -> bool {
        self.count == 0 && self.sum.is_zero() && self.squares.is_zero()
    }

    fn heap_bytes(&self) -> usize {
        size_of::<Moments>()
    }

    fn pack(&self, out: &mut Vec<u8>) {
        put_signed(out, self.count);
        self.sum.pack(out);
        self.squares.pack(out);
    }

    fn unpack(from: &mut &[u8]) -> Self {
        Box::new(Moments {
            count: take_signed(from),
            sum: FloatSum::unpack(from),
            squares: FloatSum::unpack(from),
        })
    }
}

/// The variance or its root, of a sample or of a whole population.
struct Variance {
    sample: bool,
    root: bool,
}

impl FoldedAggregate for Variance {
    type State = Box<Moments>;

    fn add(&self, column: &ArrayRef, states: States<'_, Box<Moments>>) -> Result<(), ArrowError> {
        let column = cast(column, &DataType::Float64)?;
        let values = column.as_primitive::<Float64Type>();
        states.each(values, |moments, row, diff| {
            moments.count = moments.count.wrapping_add(diff);
            moments.sum.add(values.value(row), diff);
            moments.squares.add_square(values.value(row), diff);
        });
        Ok(())
    }

    fn finish(
        &self,
        states: &[&Box<Moments>],
        overflows: &mut Overflows,
    ) -> Result<ArrayRef, ArrowError> {
        let variances = states.iter().enumerate().map(|(row, moments)| {
            let variance = variance(moments.count, &moments.sum, &moments.squares, self.sample)?;
            if variance.is_infinite() {
                overflows.push((row, "value out of range: overflow".to_string()));
                return None;
            }
            Some(if self.root { variance.sqrt() } else { variance })
        });
        Ok(Arc::new(variances.collect::<Float64Array>()))
    }
}

/// Number of integers, or of decimals without their scale; their sum, and the sum of their squares.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ExactMoments {
    count: i64,
    sum: ExactInteger,
    squares: ExactInteger,
}

impl State for Box<ExactMoments> {
    fn merge(&mut self, other: &Self) {
        self.count += other.count;
        self.sum.add(&other.sum);
        self.squares.add(&other.squares);
    }

    fn is_zero(&self) -> bool {
        self.count == 0 && self.sum.is_zero() && self.squares.is_zero()
    }

    fn heap_bytes(&self) -> usize {
        size_of::<ExactMoments>()
    }

    fn pack(&self, out: &mut Vec<u8>) {
        put_signed(out, self.count);
        self.sum.pack(out);
        self.squares.pack(out);
    }

    fn unpack(from: &mut &[u8]) -> Self {
        Box::new(ExactMoments {
            count: take_signed(from),
            sum: ExactInteger::unpack(from),
            squares: ExactInteger::unpack(from),
        })
    }
}

/// The variance of integers or decimals, or its root.
struct ExactVariance {
    sample: bool,
    root: bool,
    output: ExactType,
    input_scale: u32,
    output_scale: u32,
}

impl FoldedAggregate for ExactVariance {
    type State = Box<ExactMoments>;

    fn add(
        &self,
        column: &ArrayRef,
        states: States<'_, Box<ExactMoments>>,
    ) -> Result<(), ArrowError> {
        each_integer(column, states, |moments, value, diff| {
            let times = ExactInteger::Small(diff.into());
            moments.count += diff;
            moments.sum.add_product(&value, &times);
            let mut square = ExactInteger::default();
            square.add_product(&value, &value);
            moments.squares.add_product(&square, &times);
        })
    }

    fn finish(
        &self,
        states: &[&Box<ExactMoments>],
        overflows: &mut Overflows,
    ) -> Result<ArrayRef, ArrowError> {
        self.output.column(states.iter().map(|moments| self.value(moments)), overflows)
    }
}

impl ExactVariance {
    /// The unscaled result: `(n · Σx² − (Σx)²) / (n · (n − 1))`, or its root.
    fn value(&self, moments: &ExactMoments) -> Option<BigInt> {
        let count = moments.count;
        let divisor = if self.sample { count - 1 } else { count };
        if divisor <= 0 {
            return None;
        }
        let sum = moments.sum.get();
        let numerator = moments.squares.get() * count - &sum * &sum;
        let denominator = BigInt::from(count) * divisor;
        let input_scale = 2 * self.input_scale;
        let dividend = FirstGroup::of_big(&numerator, input_scale as i32);
        let divisor = FirstGroup::of_big(&denominator, 0);
        let digits = quotient_scale(dividend, divisor, input_scale as i32).unsigned_abs();
        if !self.root {
            let kept = digits.min(self.output_scale);
            let up = numerator * &*ten(kept.saturating_sub(input_scale));
            let down = ten(input_scale.saturating_sub(kept));
            let rounded = rounded_quotient(&up, &(denominator * &*down));
            return Some(rounded * &*ten(self.output_scale - kept));
        }
        if numerator.sign() == Sign::Minus {
            return None;
        }
        // PostgreSQL rounds the variance before it takes the root, where it has no more digits than are kept here.
        let (numerator, input_scale, denominator) = match digits < self.output_scale {
            true => {
                let up = numerator * &*ten(digits.saturating_sub(input_scale));
                let down = ten(input_scale.saturating_sub(digits));
                (rounded_quotient(&up, &(denominator * &*down)), digits, BigInt::from(1))
            }
            false => (numerator, input_scale, denominator),
        };
        let scale = digits.min(self.output_scale);
        // Twice the root, cut off; half of it, rounded.
        let up = numerator * &*ten((2 * scale).saturating_sub(input_scale)) * 4;
        let down = denominator * &*ten(input_scale.saturating_sub(2 * scale));
        let twice: BigInt = up / down;
        let root = (twice.sqrt() + 1) / 2;
        Some(root * &*ten(self.output_scale - scale))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variances_of_decimals_are_rounded_where_postgresql_rounds() {
        let of = |root: bool, values: &[i64]| {
            let mut moments = ExactMoments::default();
            for value in values {
                let value = ExactInteger::Small((*value).into());
                moments.count += 1;
                moments.sum.add(&value);
                moments.squares.add_product(&value, &value);
            }
            let output = ExactType::Decimal128(38, 18);
            ExactVariance { sample: true, root, output, input_scale: 2, output_scale: 18 }
                .value(&moments)
        };
        // 1.00, 2.00, 4.00
        assert_eq!(of(false, &[100, 200, 400]), Some(BigInt::from(2_333_333_333_333_333_300_i64)));
        assert_eq!(of(true, &[100, 200, 400]), Some(BigInt::from(1_527_525_231_651_946_700_i64)));
        assert_eq!(of(false, &[100]), None);
    }
}
