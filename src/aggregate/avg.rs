//! `avg(x)`: the exact sum over the count, rounded once.

use std::marker::PhantomData;
use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array};
use arrow::datatypes::DataType;
use arrow::error::ArrowError;
use num_bigint::BigInt;

use super::interval::OfIntervals;
use super::quotient::{FirstGroup, quotient_scale, ten};
use super::total::{
    ExactType, FloatTotal, IntegerSum, IntegerTotal, Kept, Total, WideTotal, rounded_quotient,
};
use super::{AggregateFunction, AnyAggregate, FoldedAggregate, Overflows, States};

pub static AVG: AggregateFunction = AggregateFunction::accumulable("avg", typed);

fn typed(input: &DataType, output: &DataType) -> Result<Box<dyn AnyAggregate>, ArrowError> {
    if let DataType::Interval(_) = input {
        return Ok(Box::new(OfIntervals { average: true }));
    }
    let float = *output == DataType::Float64;
    Ok(match (Kept::of(input), scale(output)) {
        (Kept::Integers, Some(_)) => Box::new(DecimalAverage::<IntegerTotal>::new(input, output)?),
        (Kept::WideDecimals, Some(_)) => {
            Box::new(DecimalAverage::<Box<WideTotal>>::new(input, output)?)
        }
        (Kept::Floats, None) if float => Box::new(FloatAverage),
        _ => {
            let message = format!("an average of {input} as {output}");
            return Err(ArrowError::NotYetImplemented(message));
        }
    })
}

fn scale(data_type: &DataType) -> Option<i8> {
    match data_type {
        DataType::Decimal128(_, scale) | DataType::Decimal256(_, scale) => Some(*scale),
        _ => None,
    }
}

/// A decimal, with more digits behind the point than its values, rounded half away from zero where PostgreSQL
/// rounds it.
struct DecimalAverage<T> {
    output: ExactType,
    input_scale: i32,
    output_scale: i32,
    kept: PhantomData<T>,
}

impl<T> DecimalAverage<T> {
    fn new(input: &DataType, output: &DataType) -> Result<Self, ArrowError> {
        Ok(DecimalAverage {
            output: ExactType::of(output)?,
            input_scale: scale(input).unwrap_or(0).into(),
            output_scale: scale(output).unwrap_or(0).into(),
            kept: PhantomData,
        })
    }

    /// The unscaled average of values with this unscaled sum.
    fn value(&self, sum: &BigInt, count: i64) -> BigInt {
        let first = FirstGroup::of_big(sum, self.input_scale);
        let second = FirstGroup::of(count.unsigned_abs().into(), 0);
        let kept = quotient_scale(first, second, self.input_scale).min(self.output_scale);
        let ten = |by: i32| ten(by.max(0) as u32);
        let by = kept - self.input_scale;
        let rounded = rounded_quotient(&(sum * &*ten(by)), &(&*ten(-by) * count));
        rounded * &*ten(self.output_scale - kept)
    }
}

impl<T: IntegerSum> FoldedAggregate for DecimalAverage<T> {
    type State = T;

    fn add(&self, column: &ArrayRef, totals: States<'_, T>) -> Result<(), ArrowError> {
        T::add_column(column, totals)
    }

    fn finish(&self, totals: &[&T], overflows: &mut Overflows) -> Result<ArrayRef, ArrowError> {
        let average = |total: &&T| {
            let count = total.count();
            (count != 0).then(|| self.value(&total.sum(), count))
        };
        self.output.column(totals.iter().map(average), overflows)
    }
}

/// A float.
struct FloatAverage;

impl FoldedAggregate for FloatAverage {
    type State = Box<FloatTotal>;

    fn add(
        &self,
        column: &ArrayRef,
        totals: States<'_, Box<FloatTotal>>,
    ) -> Result<(), ArrowError> {
        Total::add_column(column, totals)
    }

    fn finish(
        &self,
        totals: &[&Box<FloatTotal>],
        overflows: &mut Overflows,
    ) -> Result<ArrayRef, ArrowError> {
        let average = |(row, total): (usize, &&Self::State)| {
            if total.overflows() {
                overflows.push((row, "value out of range: overflow".to_string()));
                return None;
            }
            let count = total.count();
            (count != 0).then(|| total.sum() / count as f64)
        };
        Ok(Arc::new(totals.iter().enumerate().map(average).collect::<Float64Array>()))
    }
}
