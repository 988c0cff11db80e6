//! `count(x)`: the number of values that are not NULL.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array};
use arrow::error::ArrowError;
use serde::{Deserialize, Serialize};

use super::{AggregateFunction, FoldedAggregate, Overflows, State, States};
use crate::model::packed::{put_signed, take_signed};

pub static COUNT: AggregateFunction = AggregateFunction {
    counts_rows: true,
    ..AggregateFunction::accumulable("count", |_, _| Ok(Box::new(CountAggregate)))
};

/// The number of values.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Count(i64);

impl State for Count {
    #[inline]
    fn merge(&mut self, other: &Self) {
        // The rows of the group, which are checked, are not fewer.
        self.0 = self.0.wrapping_add(other.0);
    }

    #[inline]
    fn is_zero(&self) -> bool {
        self.0 == 0
    }

    #[inline]
    fn pack(&self, out: &mut Vec<u8>) {
        put_signed(out, self.0);
    }

    #[inline]
    fn unpack(from: &mut &[u8]) -> Self {
        Count(take_signed(from))
    }
}

struct CountAggregate;

impl FoldedAggregate for CountAggregate {
    type State = Count;

    fn add(&self, column: &ArrayRef, states: States<'_, Count>) -> Result<(), ArrowError> {
        states.each(column.as_ref(), |count, _, diff| {
            count.0 = count.0.wrapping_add(diff);
        });
        Ok(())
    }

    fn finish(&self, states: &[&Count], _: &mut Overflows) -> Result<ArrayRef, ArrowError> {
        Ok(Arc::new(Int64Array::from_iter_values(states.iter().map(|count| count.0))))
    }
}
