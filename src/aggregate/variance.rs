//! `var(x)`, `stddev(x)` and those of whole populations.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Float64Array};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type};
use arrow::error::ArrowError;
use serde::{Deserialize, Serialize};

use super::exact::{FloatSum, variance};
use super::{Aggregate, AggregateFunction, Overflows, State, States};

pub static VAR: AggregateFunction = AggregateFunction::accumulable("var", |_, _| {
    Ok(Box::new(Variance { sample: true, root: false }))
});
pub static VAR_POP: AggregateFunction = AggregateFunction::accumulable("var_pop", |_, _| {
    Ok(Box::new(Variance { sample: false, root: false }))
});
pub static STDDEV: AggregateFunction = AggregateFunction::accumulable("stddev", |_, _| {
    Ok(Box::new(Variance { sample: true, root: true }))
});
pub static STDDEV_POP: AggregateFunction = AggregateFunction::accumulable("stddev_pop", |_, _| {
    Ok(Box::new(Variance { sample: false, root: true }))
});

/// How many numbers there are, their sum, and that of their squares.
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
}

/// The variance or its root, of a sample or of a whole population.
struct Variance {
    sample: bool,
    root: bool,
}

impl Aggregate for Variance {
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

    fn finish(&self, states: &[&Box<Moments>], _: &mut Overflows) -> Result<ArrayRef, ArrowError> {
        let variances = states.iter().map(|moments| {
            let variance = variance(moments.count, &moments.sum, &moments.squares, self.sample);
            variance.map(|v| if self.root { v.sqrt() } else { v })
        });
        Ok(Arc::new(variances.collect::<Float64Array>()))
    }
}
