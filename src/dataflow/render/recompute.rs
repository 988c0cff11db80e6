//! Aggregates that are computed anew from all of their group's rows, in order, whenever one changes.
//!
//! The rows of a group before and after each change are evaluated once, all groups of an activation
//! in one batch of columns; what stays the same is not sent on.

use std::collections::HashMap;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch};
use arrow::compute::{concat_batches, filter_record_batch};
use arrow::datatypes::{DataType, SchemaRef};
use arrow::error::ArrowError;
use datafusion_common::ScalarValue;

use super::changes::{ChangeWork, on_changes};
use super::join::keyed;
use super::{Deltas, Renderer, expect_planned};
use crate::dataflow::arrange::{HeldAs, arrange_rows};
use crate::dataflow::delta::{Delta, batch};
use crate::dataflow::difference::{Difference, Replacement};
use crate::dataflow::eval::{FailedExpression, guarded};
use crate::dataflow::failure::FailureStream;
use crate::dataflow::guard::Slice;
use crate::dataflow::layout::RowLayout;
use crate::dataflow::run::RunsCursor;
use crate::model::Tick;
use crate::model::multiplicity::Multiplicity;
use crate::model::row::{Row, RowCodec};
use crate::plan::ir::{GeneralAggregate, NodeId, OrderColumn};

/// The result of a group's rows, in order; or the expression that failed, and why.
type GroupResult = Result<RecordBatch, FailedExpression>;

impl<'scope> Renderer<'scope, '_> {
    pub(super) fn recompute(
        &self,
        id: NodeId,
        input: NodeId,
        key: &[usize],
        order: &[OrderColumn],
        aggregates: &[GeneralAggregate],
    ) -> Result<Deltas<'scope>, ArrowError> {
        let schema = self.schema(input);
        let encoder = RowLayout::ordered(&schema, key, order)?;
        let rows = keyed(self.input(input), encoder, false, &self.guard);
        let rows = arrange_rows(rows, "RecomputedGroups", &self.guard, HeldAs::State);
        let groups = Rc::new(RecomputedGroups {
            layout: RowLayout::ordered(&schema, key, order)?,
            key: key.to_vec(),
            aggregates: aggregates.to_vec(),
            difference: Difference::new(self.schema(id))?,
            failures: self.failures.clone(),
        });
        Ok(on_changes(rows, "Recompute", &self.guard, move |batches, history| RecomputedChanges {
            new: RunsCursor::new(batches),
            old: RunsCursor::new(history),
            groups: Rc::clone(&groups),
        }))
    }
}

/// How many rows of groups are computed together, but for what one group has.
const ROWS_TOGETHER: usize = 1 << 14;

/// Groups that change, from the one on that is next.
struct RecomputedChanges {
    new: RunsCursor<Multiplicity>,
    old: RunsCursor<Multiplicity>,
    groups: Rc<RecomputedGroups>,
}

impl ChangeWork for RecomputedChanges {
    fn run(&mut self, slice: &Slice) -> (Vec<Delta>, bool) {
        let (new, old) = (&mut self.new, &mut self.old);
        let groups = &self.groups;
        let mut versions = GroupVersions::default();
        while let Some(key) = new.key() {
            let mut before: HashMap<Row, i64> = HashMap::new();
            old.seek_key(key);
            if old.key() == Some(key) {
                while let Some(row) = old.value() {
                    let count = old.updates().map(|(_, diff)| diff).sum();
                    before.insert(Row::from_slice(row), groups.failures.known(count));
                    old.next_value();
                }
            }
            let key = Row::from_slice(key.bytes);
            let mut changes: Vec<(Tick, Row, i64)> = Vec::new();
            while let Some(row) = new.value() {
                let row = Row::from_slice(row);
                let times = new.updates().map(|(tick, diff)| (tick, groups.failures.known(diff)));
                changes.extend(times.map(|(tick, diff)| (tick, row.clone(), diff)));
                new.next_value();
            }
            versions.group(&key, before, changes);
            new.next_key();
            if versions.rows.len() >= ROWS_TOGETHER || slice.is_over() {
                break;
            }
        }
        (groups.deltas(&versions), new.key().is_none())
    }
}

/// The contents of groups before and after their changes, rows side by side.
#[derive(Default)]
struct GroupVersions {
    rows: Vec<(Row, Row)>,
    /// Of each version: its rows; and the tick at which it came to be, unless it was there before.
    versions: Vec<(Range<usize>, Option<Tick>)>,
}

impl GroupVersions {
    fn group(
        &mut self,
        key: &Row,
        mut rows: HashMap<Row, i64>,
        mut changes: Vec<(Tick, Row, i64)>,
    ) {
        changes.sort_by_key(|(tick, _, _)| *tick);
        self.version(key, &rows, None);
        for step in changes.chunk_by(|a, b| a.0 == b.0) {
            for (_, row, diff) in step {
                *rows.entry(row.clone()).or_default() += diff;
            }
            self.version(key, &rows, Some(step[0].0));
        }
    }

    fn version(&mut self, key: &Row, rows: &HashMap<Row, i64>, tick: Option<Tick>) {
        let from = self.rows.len();
        let mut present: Vec<(&Row, i64)> =
            rows.iter().filter(|(_, n)| **n > 0).map(|(row, n)| (row, *n)).collect();
        present.sort_unstable();
        for (row, count) in present {
            let copies = std::iter::repeat_n((key.clone(), row.clone()), count as usize);
            self.rows.extend(copies);
        }
        self.versions.push((from..self.rows.len(), tick));
    }
}

struct RecomputedGroups {
    layout: RowLayout,
    key: Vec<usize>,
    aggregates: Vec<GeneralAggregate>,
    difference: Difference,
    failures: FailureStream,
}

impl RecomputedGroups {
    fn deltas(&self, versions: &GroupVersions) -> Vec<Delta> {
        let bytes = versions.rows.iter().map(|(key, value)| (&key[..], &value[..]));
        let columns = expect_planned(self.layout.columns(bytes));
        let schema = Arc::clone(self.layout.schema());
        let rows = expect_planned(batch(schema, columns, versions.rows.len()));
        let output = self.difference.schema();
        let mut results = Vec::new();
        let mut failed = Vec::new();
        for (range, _) in &versions.versions {
            let part = rows.slice(range.start, range.len());
            let outcome = if part.num_rows() == 0 {
                Ok(RecordBatch::new_empty(Arc::clone(output)))
            } else {
                aggregated(output, &self.key, &self.aggregates, &part)
            };
            failed.push(outcome.as_ref().err().map(|error| (error.clone(), range.len() as i64)));
            results.push(outcome.unwrap_or_else(|_| RecordBatch::new_empty(Arc::clone(output))));
        }
        self.record(versions, &failed);
        self.differences(versions, &results)
    }

    fn record(&self, versions: &GroupVersions, failed: &[Option<(FailedExpression, i64)>]) {
        let tell = |failure: &Option<(FailedExpression, i64)>, tick: Tick, sign: i64| {
            if let Some(((text, reason), rows)) = failure {
                self.failures.record(text, reason.clone(), None, (tick, sign * rows));
            }
        };
        for (index, (_, tick)) in versions.versions.iter().enumerate() {
            if let Some(tick) = *tick {
                tell(&failed[index - 1], tick, -1);
                tell(&failed[index], tick, 1);
            }
        }
    }

    /// The difference of each version from the one before it.
    fn differences(&self, versions: &GroupVersions, results: &[RecordBatch]) -> Vec<Delta> {
        let all = expect_planned(concat_batches(self.difference.schema(), results));
        let mut replacements = Vec::new();
        let (mut at, mut before) = (0, 0..0);
        for (result, (_, tick)) in results.iter().zip(&versions.versions) {
            let range = at..at + result.num_rows();
            at = range.end;
            if let Some(tick) = *tick {
                let (before, after) = (vec![before], vec![range.clone()]);
                replacements.push(Replacement { tick, before, after });
            }
            before = range;
        }
        expect_planned(self.difference.deltas(&all, &replacements))
    }
}

/// One row: the key's columns and the aggregates.
fn aggregated(
    schema: &SchemaRef,
    key: &[usize],
    aggregates: &[GeneralAggregate],
    rows: &RecordBatch,
) -> GroupResult {
    let mut columns: Vec<ArrayRef> = key.iter().map(|c| rows.column(*c).slice(0, 1)).collect();
    for (index, aggregate) in aggregates.iter().enumerate() {
        let data_type = schema.field(key.len() + index).data_type();
        let value = guarded(|| {
            let value = accumulated(aggregate, rows)?;
            Ok(arrow::compute::cast(&value.to_array()?, data_type)?)
        });
        columns.push(value.map_err(|reason| (Arc::clone(&aggregate.text), reason))?);
    }
    Ok(expect_planned(batch(Arc::clone(schema), columns, 1)))
}

fn accumulated(
    aggregate: &GeneralAggregate,
    rows: &RecordBatch,
) -> datafusion_common::Result<ScalarValue> {
    let mut rows = rows.clone();
    if let Some(filter) = aggregate.filter {
        rows = filter_record_batch(&rows, rows.column(filter).as_boolean())?;
    }
    let args = |rows: &RecordBatch| -> datafusion_common::Result<Vec<ArrayRef>> {
        let exprs = aggregate.function.expressions();
        exprs.iter().map(|e| e.evaluate(rows)?.into_array(rows.num_rows())).collect()
    };
    let mut values = args(&rows)?;
    if aggregate.distinct {
        rows = filter_record_batch(&rows, &first_of_each(&values)?)?;
        values = args(&rows)?;
    }
    let mut accumulator = aggregate.function.create_accumulator()?;
    if rows.num_rows() > 0 {
        accumulator.update_batch(&values)?;
    }
    accumulator.evaluate()
}

/// True for the first of each set of equal rows.
fn first_of_each(columns: &[ArrayRef]) -> Result<BooleanArray, ArrowError> {
    let types: Vec<DataType> = columns.iter().map(|c| c.data_type().clone()).collect();
    let len = columns.first().map_or(0, |c| c.len());
    let codec = RowCodec::new(&types)?;
    let rows = codec.encode(columns, len)?;
    let mut seen = std::collections::HashSet::new();
    Ok((0..len).map(|row| Some(seen.insert(rows.bytes(row).to_vec()))).collect())
}
