//! The aggregates that fold a group's values into a state of fixed size, one file each.
//!
//! A file says of its aggregate what it is called, what is kept of a group, how a batch's column is
//! added, how two states are merged, and what column comes of them. The planner reads the
//! [`AggregateFunction`]; the dataflow folds with the [`AnyAggregate`] that it is for columns of
//! known types.

mod accumulator;
mod avg;
mod booleans;
mod count;
mod exact;
mod first_rows;
mod interval;
mod min_max;
mod quotient;
mod regression;
mod slot;
mod sum;
mod total;
mod variance;

use std::fmt;

use arrow::array::ArrayRef;
use arrow::datatypes::DataType;
use arrow::error::ArrowError;

pub use accumulator::{Accumulator, BatchGroups, States};
pub use first_rows::{FirstRow, FirstRows, KeptRows};
pub use interval::scaled as scaled_interval;
pub use quotient::{FirstGroup, quotient_scale};
pub use slot::{Slot, State, Stored};
pub use total::{rounded_quotient, wide};

/// The aggregates that are folded.
static FUNCTIONS: [&AggregateFunction; 23] = [
    &count::COUNT,
    &sum::SUM,
    &avg::AVG,
    &min_max::MIN,
    &min_max::MAX,
    &booleans::BOOL_AND,
    &booleans::BOOL_OR,
    &variance::STDDEV,
    &variance::STDDEV_POP,
    &variance::VAR,
    &variance::VAR_POP,
    &regression::CORR,
    &regression::COVAR_POP,
    &regression::COVAR_SAMP,
    &regression::REGR_AVGX,
    &regression::REGR_AVGY,
    &regression::REGR_COUNT,
    &regression::REGR_INTERCEPT,
    &regression::REGR_R2,
    &regression::REGR_SLOPE,
    &regression::REGR_SXX,
    &regression::REGR_SXY,
    &regression::REGR_SYY,
];

/// Aggregates whose state is small though they are not folded here: DataFusion computes them.
const SMALL_STATE: [&str; 3] = ["bit_and", "bit_or", "bit_xor"];

/// How an aggregate of a group is computed.
pub enum Computation {
    /// Folded into a slot of the group's accumulator.
    Folded(&'static AggregateFunction),
    /// Read from the first row of the group.
    FirstRow,
    /// Read from the last row of the group.
    LastRow,
    /// By DataFusion, from all rows of the group, anew at each change.
    AllRows,
}

impl Computation {
    /// The computation of the aggregate that DataFusion knows by this name.
    pub fn of(name: &str) -> Self {
        match name {
            "first_value" => Computation::FirstRow,
            "last_value" => Computation::LastRow,
            _ => match FUNCTIONS.iter().find(|function| function.name == name) {
                Some(function) => Computation::Folded(function),
                None => Computation::AllRows,
            },
        }
    }
}

/// Whether the state of an aggregate is small, and the same whether its rows come at once or one
/// after the other, so that a window function can go on from it.
pub fn has_small_state(name: &str) -> bool {
    matches!(Computation::of(name), Computation::Folded(_)) || SMALL_STATE.contains(&name)
}

/// Makes the aggregate of columns of the first type, with results of the second. Fails on types for
/// which there is none.
type Typed = fn(&DataType, &DataType) -> Result<Box<dyn AnyAggregate>, ArrowError>;

/// The properties of an aggregate that the planner knows.
pub struct AggregateFunction {
    /// DataFusion's name.
    pub name: &'static str,
    /// Description of its state in `explain`.
    pub explain: &'static str,
    /// `Some`: the state cannot take values back, but the value is that of an extreme row.
    pub extreme: Option<Extreme>,
    /// True if the aggregate of an argument that is never NULL is the number of the group's rows.
    pub counts_rows: bool,
    /// Its column has pairs: structs of its two arguments.
    pub pairs: bool,
    pub typed: Typed,
}

/// The value of a group that an aggregate picks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extreme {
    Least,
    Greatest,
}

impl AggregateFunction {
    /// A function whose state can take values back.
    const fn accumulable(name: &'static str, typed: Typed) -> Self {
        AggregateFunction {
            name,
            explain: "accumulable",
            extreme: None,
            counts_rows: false,
            pairs: false,
            typed,
        }
    }
}

impl PartialEq for AggregateFunction {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl fmt::Debug for AggregateFunction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

/// An aggregate of columns of one type. NULLs are never added.
///
/// Aggregates with the same state add a column to it in the same way, so they can share it.
pub trait FoldedAggregate {
    /// The state kept of a group; its default is that of no values.
    type State: State + Default;

    /// Adds a batch's column to the states of the rows' groups.
    fn add(&self, column: &ArrayRef, states: States<'_, Self::State>) -> Result<(), ArrowError>;

    /// The result of each state. One that the type cannot hold is NULL and told in `overflows`.
    fn finish(
        &self,
        states: &[&Self::State],
        overflows: &mut Overflows,
    ) -> Result<ArrayRef, ArrowError>;
}

/// The rows whose result their type cannot hold, each with the reason.
pub type Overflows = Vec<(usize, String)>;

/// An [`FoldedAggregate`], whatever its state is.
pub trait AnyAggregate {
    /// The slot of a group without values.
    fn empty_slot(&self) -> Slot;

    /// Adds a batch's column to one slot of the rows' groups.
    fn fold(
        &self,
        column: &ArrayRef,
        groups: BatchGroups<'_>,
        slot: usize,
    ) -> Result<(), ArrowError>;

    /// The result of each accumulator's slot. One that the type cannot hold is NULL and told in
    /// `overflows`.
    fn results(
        &self,
        accumulators: &[&Accumulator],
        slot: usize,
        overflows: &mut Overflows,
    ) -> Result<ArrayRef, ArrowError>;
}

impl<A: FoldedAggregate> AnyAggregate for A {
    fn empty_slot(&self) -> Slot {
        A::State::default().into()
    }

    fn fold(
        &self,
        column: &ArrayRef,
        groups: BatchGroups<'_>,
        slot: usize,
    ) -> Result<(), ArrowError> {
        self.add(column, States::new(groups, slot))
    }

    fn results(
        &self,
        accumulators: &[&Accumulator],
        slot: usize,
        overflows: &mut Overflows,
    ) -> Result<ArrayRef, ArrowError> {
        let empty = A::State::default();
        let states: Vec<&A::State> =
            accumulators.iter().map(|a| a.state(slot).unwrap_or(&empty)).collect();
        self.finish(&states, overflows)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aggregates_are_listed_once_and_under_names_of_datafusion() {
        let known = datafusion_functions_aggregate::all_default_aggregate_functions();
        let folded = FUNCTIONS.iter().map(|function| function.name);
        let mut listed: Vec<&str> = folded.chain(SMALL_STATE).collect();
        for name in &listed {
            assert!(known.iter().any(|function| function.name() == *name), "{name}");
        }
        listed.sort_unstable();
        assert!(listed.is_sorted_by(|a, b| a < b), "{listed:?}");
    }
}
