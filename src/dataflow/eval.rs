//! Expressions over whole batches. A batch that fails is halved until the rows that fail are alone;
//! those are recorded as failures and taken out.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch};
use arrow::datatypes::{DataType, SchemaRef};

use super::delta::Delta;
use super::failure::FailureStream;
use crate::plan::functions::limits;
use crate::plan::ir::Scalar;

thread_local! {
    static EVALUATING: Cell<bool> = const { Cell::new(false) };
}

/// Whether this thread is evaluating an expression, so that a panic in it is caught.
pub fn is_evaluating() -> bool {
    EVALUATING.get()
}

/// Why an expression has no value: the reason of a dead letter, for whoever posted the event or
/// wrote the SQL. Nothing but people tells one reason from another.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct EvaluationError(String);

impl From<EvaluationError> for String {
    fn from(error: EvaluationError) -> String {
        error.0
    }
}

/// An expression's text, and why it has no value for one row at least.
pub type FailedExpression = (Arc<str>, EvaluationError);

/// The values of an expression for every row.
pub fn evaluate(scalar: &Scalar, rows: &RecordBatch) -> Result<ArrayRef, EvaluationError> {
    guarded(|| {
        limits::begin_batch(rows.num_rows());
        scalar.expr.evaluate(rows).and_then(|value| value.into_array(rows.num_rows()))
    })
}

/// The result of an evaluation. A panic in it is a failure like any other.
pub fn guarded<T>(
    run: impl FnOnce() -> datafusion_common::Result<T>,
) -> Result<T, EvaluationError> {
    EVALUATING.set(true);
    let result = catch_unwind(AssertUnwindSafe(run));
    EVALUATING.set(false);
    limits::end_batch();
    match result {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(EvaluationError(reason(&error))),
        Err(_) => Err(EvaluationError("the expression panicked".to_string())),
    }
}

/// An evaluation error in few words, without the names of the libraries that it came through.
fn reason(error: &datafusion_common::DataFusionError) -> String {
    let root = error.find_root();
    let mut text = root.strip_backtrace();
    for prefix in [
        "Arrow error: ",
        "Execution error: ",
        "Compute error: ",
        "Cast error: ",
        "Divide by zero error",
        "Arithmetic overflow: ",
        "Invalid argument error: ",
    ] {
        if let Some(rest) = text.strip_prefix(prefix) {
            text = if rest.is_empty() { "division by zero".to_string() } else { rest.to_string() };
        }
    }
    text
}

/// Result of one attempt to evaluate expressions for some rows.
pub enum EvaluationAttempt {
    /// The rows that are left, if any.
    Done(Option<Delta>),
    /// Some of the rows have no value; each half is to be tried by itself.
    Halved([Delta; 2]),
}

/// The columns that `scalars` give, for the rows for which all of them have a value.
pub fn project(
    scalars: &[Scalar],
    schema: &SchemaRef,
    delta: &Delta,
    failures: &FailureStream,
) -> Vec<Delta> {
    attempts(delta.clone(), |delta| try_project(scalars, schema, delta, failures))
}

/// Attempts until no rows are left to be tried.
fn attempts(delta: Delta, mut attempt: impl FnMut(Delta) -> EvaluationAttempt) -> Vec<Delta> {
    let (mut left, mut done) = (vec![delta], Vec::new());
    while let Some(delta) = left.pop() {
        match attempt(delta) {
            EvaluationAttempt::Done(delta) => done.extend(delta),
            EvaluationAttempt::Halved([first, second]) => left.extend([second, first]),
        }
    }
    done
}

/// One attempt at [`project`].
pub fn try_project(
    scalars: &[Scalar],
    schema: &SchemaRef,
    delta: Delta,
    failures: &FailureStream,
) -> EvaluationAttempt {
    if delta.is_empty() {
        return EvaluationAttempt::Done(None);
    }
    let columns: Result<Vec<ArrayRef>, (usize, EvaluationError)> = scalars
        .iter()
        .enumerate()
        .map(|(index, scalar)| evaluate(scalar, &delta.rows).map_err(|reason| (index, reason)))
        .collect();
    match columns {
        Ok(columns) => match delta.with_columns(Arc::clone(schema), conform(columns, schema)) {
            Ok(projected) => EvaluationAttempt::Done(Some(projected)),
            Err(error) => unreachable!("a plan's types are those of its expressions: {error}"),
        },
        Err((index, reason)) if delta.len() == 1 => {
            let change = (delta.tick, delta.diffs[0]);
            failures.record(&scalars[index].text, reason, delta.position(0), change);
            EvaluationAttempt::Done(None)
        }
        Err(_) => EvaluationAttempt::Halved(halves(&delta)),
    }
}

/// Gives columns the field names inside structs that the schema has, where only those differ.
fn conform(columns: Vec<ArrayRef>, schema: &SchemaRef) -> Vec<ArrayRef> {
    let fit = |(column, field): (ArrayRef, &arrow::datatypes::FieldRef)| {
        if column.data_type() == field.data_type() {
            return column;
        }
        arrow::compute::cast(&column, field.data_type()).unwrap_or(column)
    };
    columns.into_iter().zip(schema.fields()).map(fit).collect()
}

/// The rows for which all conditions are true, each tested on what the ones before it left.
pub fn filter(conditions: &[Scalar], delta: Delta, failures: &FailureStream) -> Vec<Delta> {
    let mut left = vec![delta];
    for condition in conditions {
        let kept = left.drain(..);
        left = kept
            .flat_map(|delta| attempts(delta, |delta| try_filter(condition, delta, failures)))
            .collect();
    }
    left
}

/// One attempt at [`filter`] with one condition.
pub fn try_filter(condition: &Scalar, delta: Delta, failures: &FailureStream) -> EvaluationAttempt {
    if delta.is_empty() {
        return EvaluationAttempt::Done(None);
    }
    match evaluate(condition, &delta.rows) {
        Ok(array) => {
            let keep = as_boolean(&array);
            if keep.true_count() == delta.len() {
                return EvaluationAttempt::Done(Some(delta));
            }
            if keep.true_count() == 0 {
                return EvaluationAttempt::Done(None);
            }
            match delta.filter(&keep) {
                Ok(delta) => EvaluationAttempt::Done(Some(delta)),
                Err(error) => unreachable!("a filter is as long as its rows: {error}"),
            }
        }
        Err(reason) if delta.len() == 1 => {
            let change = (delta.tick, delta.diffs[0]);
            failures.record(&condition.text, reason, delta.position(0), change);
            EvaluationAttempt::Done(None)
        }
        Err(_) => EvaluationAttempt::Halved(halves(&delta)),
    }
}

fn as_boolean(array: &ArrayRef) -> BooleanArray {
    match array.data_type() {
        DataType::Boolean => array.as_boolean().clone(),
        _ => BooleanArray::new_null(array.len()),
    }
}

/// The two halves of a delta, which has two rows at least.
pub fn halves(delta: &Delta) -> [Delta; 2] {
    let middle = delta.len() / 2;
    [slice(delta, 0, middle), slice(delta, middle, delta.len() - middle)]
}

fn slice(delta: &Delta, from: usize, len: usize) -> Delta {
    Delta {
        rows: delta.rows.slice(from, len),
        diffs: delta.diffs[from..from + len].into(),
        positions: delta.positions.as_ref().map(|p| p[from..from + len].into()),
        tick: delta.tick,
    }
}
