//! Operators without state: filter, project, unnest.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Int64Array, ListArray, UInt32Array, new_null_array,
};
use arrow::compute::take;
use arrow::datatypes::SchemaRef;

use super::sliced::{Rest, sliced};
use super::{Deltas, Renderer, expect_planned};
use crate::dataflow::delta::Delta;
use crate::dataflow::eval::{self, EvaluationAttempt};
use crate::dataflow::failure::FailureStream;
use crate::dataflow::guard::Guard;
use crate::plan::ir::{NodeId, Scalar};

impl<'scope> Renderer<'scope, '_> {
    pub(super) fn filter(&self, input: NodeId, conditions: &[Scalar]) -> Deltas<'scope> {
        let (conditions, failures) = (conditions.to_vec(), self.failures.clone());
        let begin = |delta| (0, delta);
        // Each piece of work is some rows, and the number of the next condition.
        sliced(self.input(input), "Filter", &self.guard, begin, move |(next, delta)| {
            let Some(condition) = conditions.get(next) else { return (Some(delta), Rest::Done) };
            match eval::try_filter(condition, delta, &failures) {
                EvaluationAttempt::Done(None) => (None, Rest::Done),
                EvaluationAttempt::Done(Some(delta)) if next + 1 == conditions.len() => {
                    (Some(delta), Rest::Done)
                }
                EvaluationAttempt::Done(Some(delta)) => (None, Rest::More((next + 1, delta))),
                EvaluationAttempt::Halved([first, second]) => {
                    (None, Rest::Both((next, first), (next, second)))
                }
            }
        })
    }

    pub(super) fn project(&self, id: NodeId, input: NodeId, columns: &[Scalar]) -> Deltas<'scope> {
        let (columns, failures) = (columns.to_vec(), self.failures.clone());
        let schema = self.schema(id);
        sliced(
            self.input(input),
            "Project",
            &self.guard,
            |delta| delta,
            move |delta| match eval::try_project(&columns, &schema, delta, &failures) {
                EvaluationAttempt::Done(delta) => (delta, Rest::Done),
                EvaluationAttempt::Halved([first, second]) => (None, Rest::Both(first, second)),
            },
        )
    }

    pub(super) fn unnest(
        &self,
        id: NodeId,
        input: NodeId,
        array: &Scalar,
        outer: bool,
        ordinality: bool,
        unread: &[usize],
    ) -> Deltas<'scope> {
        let unnest = Unnest {
            input_schema: self.schema(input),
            schema: self.schema(id),
            array: array.clone(),
            outer,
            ordinality,
            unread: unread.to_vec(),
            failures: self.failures.clone(),
            guard: self.guard.clone(),
        };
        let unnest = unnest.prepared();
        sliced(self.input(input), "Unnest", &self.guard, UnnestWork::Rows, move |work| {
            unnest.step(work)
        })
    }
}

/// Each row once per element of its array.
pub struct Unnest {
    pub input_schema: SchemaRef,
    pub schema: SchemaRef,
    pub array: Scalar,
    pub outer: bool,
    pub ordinality: bool,
    /// Columns of the row that are NULL beside its elements.
    pub unread: Vec<usize>,
    pub failures: FailureStream,
    pub guard: Guard,
}

/// Number of elements that are put beside their rows at a time.
const ELEMENTS_AT_ONCE: usize = 1 << 14;

/// A piece of work.
pub enum UnnestWork {
    /// Rows whose arrays are to be evaluated.
    Rows(Delta),
    /// Rows with their arrays in the last column; the row and the element that are next.
    Arrays(Delta, (usize, usize)),
}

/// The unnesting of rows whose columns are known.
pub struct PreparedUnnest {
    unnest: Unnest,
    /// The row's columns, and the array behind them.
    scalars: Vec<Scalar>,
    schema: SchemaRef,
}

impl Unnest {
    /// Ready to run.
    pub fn prepared(self) -> PreparedUnnest {
        // The array is evaluated behind the row's own columns, so that rows which fail are left out
        // of both.
        let mut scalars: Vec<Scalar> = (0..self.input_schema.fields().len())
            .map(|i| crate::plan::column(&self.input_schema, i))
            .collect();
        scalars.push(self.array.clone());
        let Ok(array_type) = self.array.expr.data_type(&self.input_schema) else {
            unreachable!("the planner has typed this array")
        };
        let mut fields: Vec<_> = self.input_schema.fields().iter().cloned().collect();
        fields.push(Arc::new(arrow::datatypes::Field::new("array", array_type, true)));
        let schema = Arc::new(arrow::datatypes::Schema::new(fields));
        PreparedUnnest { unnest: self, scalars, schema }
    }

    /// Leaves out rows that would become more than an event may make.
    fn within_limits(&self, delta: Delta) -> Delta {
        let max = self.guard.event_rows_max();
        let lists: &ListArray = delta.rows.column(self.input_schema.fields().len()).as_list();
        let offsets = lists.value_offsets();
        let fits =
            |row: usize| lists.is_null(row) || (offsets[row + 1] - offsets[row]) as usize <= max;
        if (0..lists.len()).all(fits) {
            return delta;
        }
        let keep: BooleanArray = (0..lists.len()).map(|row| Some(fits(row))).collect();
        for row in (0..lists.len()).filter(|row| !fits(*row)) {
            let reason = format!("one event makes {max} rows at most (event_rows_max)");
            let change = (delta.tick, delta.diffs[row]);
            self.failures.record(&self.array.text, reason, delta.position(row), change);
        }
        expect_planned(delta.filter(&keep))
    }

    /// The rows of the next elements, and the row and the element behind them.
    fn spread(&self, delta: &Delta, next: (usize, usize)) -> (Delta, Option<(usize, usize)>) {
        let width = self.input_schema.fields().len();
        let lists: &ListArray = delta.rows.column(width).as_list();
        let offsets = lists.value_offsets();
        let mut rows: Vec<u32> = Vec::new();
        let mut elements: Vec<Option<u32>> = Vec::new();
        let mut numbers: Vec<Option<i64>> = Vec::new();
        let (mut row, mut from) = next;
        while row < lists.len() && rows.len() < ELEMENTS_AT_ONCE {
            let range = if lists.is_valid(row) { offsets[row]..offsets[row + 1] } else { 0..0 };
            if range.is_empty() && self.outer {
                rows.push(row as u32);
                elements.push(None);
                numbers.push(None);
            }
            let first = range.start;
            let room = ELEMENTS_AT_ONCE - rows.len();
            for element in range.clone().skip(from).take(room) {
                rows.push(row as u32);
                elements.push(Some(element as u32));
                numbers.push(Some(i64::from(element - first) + 1));
            }
            from += room;
            if from < range.len() {
                break;
            }
            (row, from) = (row + 1, 0);
        }
        let rest = (row < lists.len()).then_some((row, from));
        // Each element has a copy of its row, which must not have the array in it.
        let beside = delta.rows.columns()[..width].iter().enumerate();
        let beside = beside.map(|(at, column)| match self.unread.contains(&at) {
            true => new_null_array(column.data_type(), column.len()),
            false => Arc::clone(column),
        });
        let beside = delta.with_columns(Arc::clone(&self.input_schema), beside.collect());
        let spread = expect_planned(expect_planned(beside).take(&rows));
        let mut columns: Vec<ArrayRef> = spread.rows.columns().to_vec();
        let values = expect_planned(take(lists.values(), &UInt32Array::from(elements), None));
        match values.as_struct_opt() {
            // A NULL element has NULL members, whatever lies beneath it.
            Some(structs) => {
                for member in structs.columns() {
                    columns.push(masked(member, structs));
                }
            }
            None => columns.push(values),
        }
        if self.ordinality {
            columns.push(Arc::new(Int64Array::from(numbers)));
        }
        (expect_planned(spread.with_columns(Arc::clone(&self.schema), columns)), rest)
    }
}

impl PreparedUnnest {
    /// The rows that a delta becomes, all at once.
    pub fn run(&self, delta: &Delta) -> Vec<Delta> {
        let (mut left, mut done) = (vec![UnnestWork::Rows(delta.clone())], Vec::new());
        while let Some(work) = left.pop() {
            let (delta, rest) = self.step(work);
            done.extend(delta);
            match rest {
                Rest::Done => {}
                Rest::More(work) => left.push(work),
                Rest::Both(first, second) => left.extend([second, first]),
            }
        }
        done
    }

    /// One step of the work.
    fn step(&self, work: UnnestWork) -> (Option<Delta>, Rest<UnnestWork>) {
        let failures = &self.unnest.failures;
        let (delta, next) = match work {
            UnnestWork::Arrays(delta, next) => (delta, next),
            UnnestWork::Rows(delta) => {
                match eval::try_project(&self.scalars, &self.schema, delta, failures) {
                    EvaluationAttempt::Done(None) => return (None, Rest::Done),
                    EvaluationAttempt::Done(Some(delta)) => {
                        (self.unnest.within_limits(delta), (0, 0))
                    }
                    EvaluationAttempt::Halved([first, second]) => {
                        let (first, second) = (UnnestWork::Rows(first), UnnestWork::Rows(second));
                        return (None, Rest::Both(first, second));
                    }
                }
            }
        };
        let (rows, next) = self.unnest.spread(&delta, next);
        let rest = next.map_or(Rest::Done, |next| Rest::More(UnnestWork::Arrays(delta, next)));
        (Some(rows), rest)
    }
}

fn masked(member: &ArrayRef, parent: &dyn Array) -> ArrayRef {
    match parent.nulls() {
        None => Arc::clone(member),
        Some(nulls) => {
            let is_null = BooleanArray::new(!nulls.inner(), None);
            expect_planned(arrow::compute::nullif(member.as_ref(), &is_null))
        }
    }
}
