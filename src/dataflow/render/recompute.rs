//! Groups whose output is computed anew from all of their rows, in order, whenever one changes:
//! general aggregates and window functions.
//!
//! The rows of a group before and after each change are evaluated once, all groups of an activation
//! in one batch of columns; what stays the same is not sent on.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch, UInt32Array};
use arrow::compute::{concat_batches, filter_record_batch, take};
use arrow::datatypes::{DataType, SchemaRef};
use arrow::error::ArrowError;
use datafusion_common::ScalarValue;
use datafusion_expr::window_state::WindowFrameContext;
use datafusion_physical_expr::window::WindowExpr;
use differential_dataflow::trace::Cursor;
use differential_dataflow::trace::cursor::cursor_list;

use super::changes::on_changes;
use super::join::keyed;
use super::{Deltas, Renderer, sound};
use crate::dataflow::arrange::arrange_rows;
use crate::dataflow::delta::{Delta, batch};
use crate::dataflow::eval::guarded;
use crate::dataflow::failure::Failures;
use crate::dataflow::layout::RowLayout;
use crate::model::Tick;
use crate::model::row::{Row, RowCodec};
use crate::plan::ir::{GeneralAggregate, NodeId, OrderColumn, WindowEvaluation, WindowFunction};

/// What a group's rows, in order, come to; or the expression that failed, and why.
type Outcome = Result<RecordBatch, (Arc<str>, String)>;

impl<'scope> Renderer<'scope, '_> {
    pub(super) fn recompute(
        &self,
        id: NodeId,
        input: NodeId,
        key: &[usize],
        order: &[OrderColumn],
        aggregates: &[GeneralAggregate],
    ) -> Result<Deltas<'scope>, ArrowError> {
        let (key_columns, aggregates) = (key.to_vec(), aggregates.to_vec());
        let schema = self.schema(id);
        self.by_group(id, input, key, order, move |rows| {
            aggregated(&schema, &key_columns, &aggregates, rows)
        })
    }

    pub(super) fn window(
        &self,
        id: NodeId,
        input: NodeId,
        key: &[usize],
        order: &[OrderColumn],
        functions: &[WindowFunction],
    ) -> Result<Deltas<'scope>, ArrowError> {
        let (functions, schema) = (functions.to_vec(), self.schema(id));
        self.by_group(id, input, key, order, move |rows| windowed(&schema, &functions, rows))
    }

    fn by_group(
        &self,
        id: NodeId,
        input: NodeId,
        key: &[usize],
        order: &[OrderColumn],
        evaluate: impl Fn(&RecordBatch) -> Outcome + 'static,
    ) -> Result<Deltas<'scope>, ArrowError> {
        let schema = self.schema(input);
        let encoder = RowLayout::ordered(&schema, key, order)?;
        let rows = arrange_rows(keyed(self.input(input), encoder, false), "Groups");
        let output = self.schema(id);
        let types: Vec<DataType> = output.fields().iter().map(|f| f.data_type().clone()).collect();
        let groups = Groups {
            layout: RowLayout::ordered(&schema, key, order)?,
            output,
            codec: RowCodec::new(&types)?,
            evaluate,
            failures: self.failures.clone(),
        };
        Ok(on_changes(rows, "Recompute", move |batches, history| {
            let (mut new, new_storage) = cursor_list(batches);
            let (mut old, old_storage) = cursor_list(history);
            let mut versions = Versions::default();
            while let Some(key) = new.get_key(&new_storage) {
                let mut before: HashMap<Row, i64> = HashMap::new();
                old.seek_key(&old_storage, key);
                if old.get_key(&old_storage) == Some(key) {
                    while let Some(row) = old.get_val(&old_storage) {
                        let mut count = 0;
                        old.map_times(&old_storage, |_, diff| count += diff);
                        before.insert(row.clone(), count);
                        old.step_val(&old_storage);
                    }
                }
                let mut changes: Vec<(Tick, Row, i64)> = Vec::new();
                while let Some(row) = new.get_val(&new_storage) {
                    new.map_times(&new_storage, |tick, diff| {
                        changes.push((*tick, row.clone(), *diff));
                    });
                    new.step_val(&new_storage);
                }
                versions.group(&key.row, before, changes);
                new.step_key(&new_storage);
            }
            groups.deltas(&versions)
        }))
    }
}

/// The contents of groups before and after their changes, rows side by side.
#[derive(Default)]
struct Versions {
    rows: Vec<(Row, Row)>,
    /// Of each version: its rows; and the tick at which it came to be, unless it was there before.
    versions: Vec<(Range<usize>, Option<Tick>)>,
}

impl Versions {
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

struct Groups<F> {
    layout: RowLayout,
    output: SchemaRef,
    codec: RowCodec,
    evaluate: F,
    failures: Failures,
}

impl<F: Fn(&RecordBatch) -> Outcome> Groups<F> {
    fn deltas(&self, versions: &Versions) -> Vec<Delta> {
        let bytes = versions.rows.iter().map(|(key, value)| (&key[..], &value[..]));
        let columns = sound(self.layout.columns(bytes));
        let schema = Arc::clone(self.layout.schema());
        let rows = sound(batch(schema, columns, versions.rows.len()));
        let empty = RecordBatch::new_empty(Arc::clone(&self.output));
        let mut results = Vec::new();
        let mut failed = Vec::new();
        for (range, _) in &versions.versions {
            let part = rows.slice(range.start, range.len());
            let outcome =
                if part.num_rows() == 0 { Ok(empty.clone()) } else { (self.evaluate)(&part) };
            failed.push(outcome.as_ref().err().map(|error| (error.clone(), range.len() as i64)));
            results.push(outcome.unwrap_or_else(|_| empty.clone()));
        }
        self.record(versions, &failed);
        self.differences(versions, &results)
    }

    fn record(&self, versions: &Versions, failed: &[Option<((Arc<str>, String), i64)>]) {
        let tell = |failure: &Option<((Arc<str>, String), i64)>, sign: i64| {
            if let Some(((text, reason), rows)) = failure {
                self.failures.record(text, reason, None, sign * rows);
            }
        };
        for (index, (_, tick)) in versions.versions.iter().enumerate() {
            if tick.is_some() {
                tell(&failed[index - 1], -1);
                tell(&failed[index], 1);
            }
        }
    }

    /// What each version has more, or less, than the one before it.
    fn differences(&self, versions: &Versions, results: &[RecordBatch]) -> Vec<Delta> {
        let all = sound(concat_batches(&self.output, results));
        let encoded = sound(self.codec.encode(all.columns(), all.num_rows()));
        let mut starts = Vec::with_capacity(results.len() + 1);
        let mut at = 0;
        for result in results {
            starts.push(at);
            at += result.num_rows();
        }
        starts.push(at);
        let mut changes: Vec<(Tick, u32, i64)> = Vec::new();
        for (index, (_, tick)) in versions.versions.iter().enumerate() {
            let Some(tick) = tick else { continue };
            let mut net: HashMap<&[u8], (u32, i64)> = HashMap::new();
            for (range, sign) in
                [(starts[index - 1]..starts[index], -1), (starts[index]..starts[index + 1], 1)]
            {
                for row in range {
                    net.entry(encoded.bytes(row)).or_insert((row as u32, 0)).1 += sign;
                }
            }
            let changed = net.into_values().filter(|(_, diff)| *diff != 0);
            changes.extend(changed.map(|(row, diff)| (*tick, row, diff)));
        }
        changes.sort_unstable();
        let by_tick = changes.chunk_by(|a, b| a.0 == b.0);
        by_tick.map(|group| self.delta(&all, group)).collect()
    }

    fn delta(&self, all: &RecordBatch, group: &[(Tick, u32, i64)]) -> Delta {
        let indexes = UInt32Array::from_iter_values(group.iter().map(|(_, row, _)| *row));
        let columns = all.columns().iter().map(|c| sound(take(c.as_ref(), &indexes, None)));
        let columns: Vec<ArrayRef> = columns.collect();
        Delta {
            rows: sound(batch(Arc::clone(&self.output), columns, group.len())),
            diffs: group.iter().map(|(_, _, diff)| *diff).collect(),
            positions: None,
            tick: group[0].0,
        }
    }
}

/// One row: the key's columns and the aggregates.
fn aggregated(
    schema: &SchemaRef,
    key: &[usize],
    aggregates: &[GeneralAggregate],
    rows: &RecordBatch,
) -> Outcome {
    let mut columns: Vec<ArrayRef> = key.iter().map(|c| rows.column(*c).slice(0, 1)).collect();
    for (index, aggregate) in aggregates.iter().enumerate() {
        let data_type = schema.field(key.len() + index).data_type();
        let value = guarded(|| {
            let value = accumulated(aggregate, rows)?;
            Ok(arrow::compute::cast(&value.to_array()?, data_type)?)
        });
        columns.push(value.map_err(|reason| (Arc::clone(&aggregate.text), reason))?);
    }
    Ok(sound(batch(Arc::clone(schema), columns, 1)))
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

/// The rows with the functions' columns behind their own.
fn windowed(schema: &SchemaRef, functions: &[WindowFunction], rows: &RecordBatch) -> Outcome {
    let mut columns = rows.columns().to_vec();
    for function in functions {
        let data_type = schema.field(columns.len()).data_type();
        let column = guarded(|| {
            let column = match &function.evaluation {
                WindowEvaluation::Whole(expr) => expr.evaluate(rows)?,
                WindowEvaluation::EachFrame { aggregate, frame, filter } => {
                    each_frame(aggregate, frame.as_ref(), filter.as_ref(), rows)?
                }
            };
            Ok(arrow::compute::cast(&column, data_type)?)
        });
        columns.push(column.map_err(|reason| (Arc::clone(&function.text), reason))?);
    }
    Ok(sound(batch(Arc::clone(schema), columns, rows.num_rows())))
}

fn each_frame(
    aggregate: &datafusion_physical_expr::aggregate::AggregateFunctionExpr,
    frame: &dyn WindowExpr,
    filter: Option<&crate::plan::ir::Scalar>,
    rows: &RecordBatch,
) -> datafusion_common::Result<ArrayRef> {
    let len = rows.num_rows();
    let exprs = aggregate.expressions();
    let values: Vec<ArrayRef> = exprs
        .iter()
        .map(|e| e.evaluate(rows)?.into_array(len))
        .collect::<datafusion_common::Result<_>>()?;
    let kept = match filter {
        Some(filter) => Some(filter.expr.evaluate(rows)?.into_array(len)?),
        None => None,
    };
    let sort = frame.order_by_columns(rows)?;
    let order: Vec<ArrayRef> = sort.iter().map(|s| Arc::clone(&s.values)).collect();
    let options = frame.order_by().iter().map(|o| o.options).collect();
    let mut context = WindowFrameContext::new(Arc::clone(frame.get_window_frame()), options);
    let mut last = Range { start: 0, end: 0 };
    let mut results: Vec<ScalarValue> = Vec::with_capacity(len);
    for row in 0..len {
        let range = context.calculate_range(&order, &last, len, row)?;
        if row > 0 && range == last {
            results.push(results[row - 1].clone());
            continue;
        }
        let mut accumulator = aggregate.create_accumulator()?;
        if !range.is_empty() {
            let part = |array: &ArrayRef| -> Result<ArrayRef, ArrowError> {
                let slice = array.slice(range.start, range.len());
                match &kept {
                    Some(kept) => {
                        let kept = kept.slice(range.start, range.len());
                        arrow::compute::filter(&slice, kept.as_boolean())
                    }
                    None => Ok(slice),
                }
            };
            let parts = values.iter().map(part).collect::<Result<Vec<_>, _>>()?;
            accumulator.update_batch(&parts)?;
        }
        results.push(accumulator.evaluate()?);
        last = range;
    }
    ScalarValue::iter_to_array(results)
}
