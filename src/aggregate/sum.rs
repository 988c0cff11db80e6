//! `sum(x)`: exact over integers, decimals and floats alike.

use std::marker::PhantomData;
use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array};
use arrow::compute::cast;
use arrow::datatypes::DataType;
use arrow::error::ArrowError;

use super::interval::OfIntervals;
use super::total::{ExactType, FloatTotal, IntegerSum, IntegerTotal, Kept, Total, WideTotal};
use super::{AggregateFunction, AnyAggregate, FoldedAggregate, Overflows, States};

pub static SUM: AggregateFunction = AggregateFunction::accumulable("sum", typed);

fn typed(input: &DataType, output: &DataType) -> Result<Box<dyn AnyAggregate>, ArrowError> {
    if let DataType::Interval(_) = input {
        return Ok(Box::new(OfIntervals { average: false }));
    }
    Ok(match Kept::of(input) {
        Kept::Integers => Box::new(ExactSum::<IntegerTotal>::new(output)?),
        Kept::WideDecimals => Box::new(ExactSum::<Box<WideTotal>>::new(output)?),
        Kept::Floats => Box::new(SumOfFloats { output: output.clone() }),
    })
}

/// The sum of integers or decimals.
struct ExactSum<T> {
    output: ExactType,
    kept: PhantomData<T>,
}

impl<T> ExactSum<T> {
    fn new(output: &DataType) -> Result<Self, ArrowError> {
        Ok(ExactSum { output: ExactType::of(output)?, kept: PhantomData })
    }
}

impl<T: IntegerSum> FoldedAggregate for ExactSum<T> {
    type State = T;

    fn add(&self, column: &ArrayRef, totals: States<'_, T>) -> Result<(), ArrowError> {
        T::add_column(column, totals)
    }

    fn finish(&self, totals: &[&T], overflows: &mut Overflows) -> Result<ArrayRef, ArrowError> {
        let sums = totals.iter().map(|total| (total.count() != 0).then(|| total.sum()));
        self.output.column(sums, overflows)
    }
}

struct SumOfFloats {
    output: DataType,
}

impl FoldedAggregate for SumOfFloats {
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
        let narrow = self.output == DataType::Float32;
        let sum = |(row, total): (usize, &&Self::State)| {
            if total.count() == 0 {
                return None;
            }
            let sum = total.sum();
            let lost = narrow && sum.is_finite() && (sum as f32).is_infinite();
            if lost || total.overflows() {
                overflows.push((row, "value out of range: overflow".to_string()));
                return None;
            }
            Some(sum)
        };
        let sums: ArrayRef = Arc::new(totals.iter().enumerate().map(sum).collect::<Float64Array>());
        cast(&sums, &self.output)
    }
}
