//! `bool_and(x)` and `bool_or(x)`.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, BooleanArray};
use arrow::error::ArrowError;
use serde::{Deserialize, Serialize};

use super::{AggregateFunction, FoldedAggregate, Overflows, State, States};
use crate::model::packed::{put_signed, take_signed};

pub static BOOL_AND: AggregateFunction =
    AggregateFunction::accumulable("bool_and", |_, _| Ok(Box::new(Connective::And)));
pub static BOOL_OR: AggregateFunction =
    AggregateFunction::accumulable("bool_or", |_, _| Ok(Box::new(Connective::Or)));

/// Number of values that are true, and of values that are false.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Booleans {
    yes: i64,
    no: i64,
}

impl State for Booleans {
    #[inline]
    fn merge(&mut self, other: &Self) {
        self.yes = self.yes.wrapping_add(other.yes);
        self.no = self.no.wrapping_add(other.no);
    }

    #[inline]
    fn is_zero(&self) -> bool {
        self.yes == 0 && self.no == 0
    }

    fn pack(&self, out: &mut Vec<u8>) {
        put_signed(out, self.yes);
        put_signed(out, self.no);
    }

    fn unpack(from: &mut &[u8]) -> Self {
        Booleans { yes: take_signed(from), no: take_signed(from) }
    }
}

enum Connective {
    And,
    Or,
}

impl FoldedAggregate for Connective {
    type State = Booleans;

    fn add(&self, column: &ArrayRef, states: States<'_, Booleans>) -> Result<(), ArrowError> {
        let values = column.as_boolean();
        states.each(values, |booleans, row, diff| {
            let count = if values.value(row) { &mut booleans.yes } else { &mut booleans.no };
            *count = count.wrapping_add(diff);
        });
        Ok(())
    }

    fn finish(&self, states: &[&Booleans], _: &mut Overflows) -> Result<ArrayRef, ArrowError> {
        let value = |booleans: &&Booleans| {
            let value = match self {
                Connective::And => booleans.no == 0,
                Connective::Or => booleans.yes > 0,
            };
            (!booleans.is_zero()).then_some(value)
        };
        Ok(Arc::new(states.iter().map(value).collect::<BooleanArray>()))
    }
}
