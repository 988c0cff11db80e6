//! Aggregates that are computed anew from all of their group's rows, in order, whenever one changes.
//!
//! The rows of a group before and after each change are evaluated once, a chunk of rows at a time: small
//! groups together, a large one bit by bit. Output rows that stay the same are not sent on.

use std::collections::{BTreeMap, HashSet};
use std::ops::Bound::{Included, Unbounded};
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch};
use arrow::compute::{concat_batches, filter_record_batch};
use arrow::datatypes::DataType;
use arrow::error::ArrowError;
use datafusion_expr::Accumulator;

use super::changes::{ChangeWork, on_changes};
use super::join::keyed;
use super::{Deltas, Renderer, expect_planned};
use crate::dataflow::arrange::{HeldAs, arrange_rows};
use crate::dataflow::delta::{Delta, batch};
use crate::dataflow::difference::{Difference, Replacement};
use crate::dataflow::eval::{EvaluationError, FailedExpression, guarded};
use crate::dataflow::failure::FailureStream;
use crate::dataflow::guard::{Account, Slice};
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
        let guard = self.guard.clone();
        Ok(on_changes(rows, "Recompute", &self.guard, move |batches, history| RecomputedChanges {
            new: RunsCursor::new(batches),
            old: RunsCursor::new(history),
            open: None,
            versions: Versions::new(Rc::clone(&groups)),
            account: guard.account(false),
        }))
    }
}

/// Number of rows that are computed together.
const CHUNK_ROWS: usize = 1 << 14;

/// Groups that change: the one that is being computed, and those from the one on that is next.
struct RecomputedChanges {
    new: RunsCursor<Multiplicity>,
    old: RunsCursor<Multiplicity>,
    open: Option<OpenGroup>,
    versions: Versions,
    account: Account,
}

impl ChangeWork for RecomputedChanges {
    fn run(&mut self, slice: &Slice) -> (Vec<Delta>, bool) {
        let mut deltas = Vec::new();
        loop {
            let mut chunk = Chunk::default();
            while !chunk.is_full()
                && let Some(mut group) = self.open.take().or_else(|| self.next_group())
            {
                if !self.gather(&mut group, &mut chunk) || !group.push(&mut chunk) {
                    self.open = Some(group);
                } else {
                    self.account.set(0);
                }
            }
            deltas.extend(self.versions.computed(&chunk));
            let done = self.open.is_none() && self.new.key().is_none();
            if done || slice.is_over() {
                return (deltas, done);
            }
        }
    }
}

impl RecomputedChanges {
    fn next_group(&mut self) -> Option<OpenGroup> {
        let key = self.new.key()?;
        self.old.seek_key(key);
        let there = self.old.key() == Some(key);
        Some(OpenGroup {
            key: Row::from_slice(key.bytes),
            gathered: if there { Gathered::Nothing } else { Gathered::Before },
            rows: BTreeMap::new(),
            changes: Vec::new(),
            applied: 0,
            tick: None,
            at: None,
        })
    }

    /// Reads the rows that the group had, and its changes, as far as the chunk's work goes; true once
    /// all are read.
    fn gather(&mut self, group: &mut OpenGroup, chunk: &mut Chunk) -> bool {
        let failures = &self.versions.groups.failures;
        let mut bytes = 0;
        while group.gathered == Gathered::Nothing && !chunk.is_full() {
            let Some(row) = self.old.value() else {
                group.gathered = Gathered::Before;
                break;
            };
            let row = Row::from_slice(row);
            let count = failures.known(self.old.updates().map(|(_, diff)| diff).sum());
            bytes += size_of::<(Row, i64)>() + row.heap_bytes();
            group.rows.insert(row, count);
            self.old.next_value();
            chunk.gathered += 1;
        }
        while group.gathered == Gathered::Before && !chunk.is_full() {
            let Some(row) = self.new.value() else {
                group.changes.sort_by_key(|(tick, _, _)| *tick);
                group.gathered = Gathered::All;
                self.new.next_key();
                break;
            };
            let row = Row::from_slice(row);
            for (tick, diff) in self.new.updates() {
                bytes += size_of::<(Tick, Row, i64)>() + row.heap_bytes();
                group.changes.push((tick, row.clone(), failures.known(diff)));
            }
            self.new.next_value();
            chunk.gathered += 1;
        }
        self.account.add(bytes as isize);
        group.gathered == Gathered::All
    }
}

/// The rows of a group that were read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Gathered {
    Nothing,
    /// The rows that it had.
    Before,
    All,
}

/// A group that is being computed: its rows before its changes, then after those of each tick.
struct OpenGroup {
    key: Row,
    gathered: Gathered,
    rows: BTreeMap<Row, i64>,
    /// By tick.
    changes: Vec<(Tick, Row, i64)>,
    /// Number of the changes that are in the rows.
    applied: usize,
    /// Tick of the last change that is in the rows; `None`: the rows are those that were there before.
    tick: Option<Tick>,
    /// Where handing on the rows goes on: at this row, which was handed on so often.
    at: Option<(Row, i64)>,
}

impl OpenGroup {
    /// Hands on the rows of the group's versions while there is room; true when those of the last one are.
    fn push(&mut self, chunk: &mut Chunk) -> bool {
        loop {
            if !self.push_version(chunk) {
                return false;
            }
            let Some((tick, _, _)) = self.changes.get(self.applied) else { return true };
            let tick = *tick;
            for (_, row, diff) in self.changes[self.applied..].iter().take_while(|c| c.0 == tick) {
                let count = self.rows.entry(row.clone()).or_default();
                *count += diff;
                if *count == 0 {
                    self.rows.remove(row);
                }
                self.applied += 1;
            }
            self.tick = Some(tick);
        }
    }

    /// Hands on the rows as they are now; true when all are.
    fn push_version(&mut self, chunk: &mut Chunk) -> bool {
        let from = chunk.rows.len();
        let (start, mut handed) = match self.at.take() {
            Some((row, handed)) => (Included(row), handed),
            None => (Unbounded, 0),
        };
        for (row, count) in self.rows.range((start, Unbounded)).filter(|(_, count)| **count > 0) {
            handed += chunk.push(&self.key, row, *count - handed);
            if handed < *count {
                self.at = Some((row.clone(), handed));
                chunk.end_part(from, None);
                return false;
            }
            handed = 0;
        }
        chunk.end_part(from, Some(VersionEnd { tick: self.tick }));
        true
    }
}

/// Rows of versions of groups, side by side.
#[derive(Default)]
struct Chunk {
    rows: Vec<(Row, Row)>,
    /// Number of rows that were read for it.
    gathered: usize,
    parts: Vec<VersionPart>,
}

/// A part of the rows of a version.
struct VersionPart {
    rows: Range<usize>,
    /// If it is the last one.
    end: Option<VersionEnd>,
}

/// The end of the rows of a version.
struct VersionEnd {
    /// When it came to be, unless it was there before.
    tick: Option<Tick>,
}

impl Chunk {
    fn is_full(&self) -> bool {
        self.rows.len().max(self.gathered) >= CHUNK_ROWS
    }

    /// Adds a row so many times, if there is room; returns how many times.
    fn push(&mut self, key: &Row, row: &Row, copies: i64) -> i64 {
        let copies = copies.min(CHUNK_ROWS.saturating_sub(self.rows.len()) as i64);
        self.rows.extend(std::iter::repeat_n((key.clone(), row.clone()), copies as usize));
        copies
    }

    fn end_part(&mut self, from: usize, end: Option<VersionEnd>) {
        self.parts.push(VersionPart { rows: from..self.rows.len(), end });
    }
}

struct RecomputedGroups {
    layout: RowLayout,
    key: Vec<usize>,
    aggregates: Vec<GeneralAggregate>,
    difference: Difference,
    failures: FailureStream,
}

/// The versions of groups, one after the other.
struct Versions {
    groups: Rc<RecomputedGroups>,
    /// The version whose rows are coming.
    current: GroupEvaluation,
    /// Result of the version before.
    before: VersionResult,
}

/// Result of a version: its row, if it has one; or its failure, and the number of rows that fail.
struct VersionResult {
    row: RecordBatch,
    failed: Option<(FailedExpression, i64)>,
}

impl Versions {
    fn new(groups: Rc<RecomputedGroups>) -> Self {
        let row = RecordBatch::new_empty(Arc::clone(groups.difference.schema()));
        let before = VersionResult { row, failed: None };
        Versions { groups, current: GroupEvaluation::default(), before }
    }

    /// The differences of the versions that end in a chunk from those before them.
    fn computed(&mut self, chunk: &Chunk) -> Vec<Delta> {
        let groups = Rc::clone(&self.groups);
        let bytes = chunk.rows.iter().map(|(key, value)| (&key[..], &value[..]));
        let columns = expect_planned(groups.layout.columns(bytes));
        let schema = Arc::clone(groups.layout.schema());
        let rows = expect_planned(batch(schema, columns, chunk.rows.len()));
        let mut results = vec![self.before.row.clone()];
        let mut before = 0..self.before.row.num_rows();
        let mut replacements = Vec::new();
        for part in &chunk.parts {
            self.current.update(&groups, &rows.slice(part.rows.start, part.rows.len()));
            let Some(end) = &part.end else { continue };
            let result = std::mem::take(&mut self.current).finish(&groups);
            let after = before.end..before.end + result.row.num_rows();
            results.push(result.row.clone());
            if let Some(tick) = end.tick {
                groups.record(&self.before, tick, -1);
                groups.record(&result, tick, 1);
                let (before, after) = (vec![before], vec![after.clone()]);
                replacements.push(Replacement { tick, before, after });
            }
            before = after;
            self.before = result;
        }
        let all = expect_planned(concat_batches(groups.difference.schema(), &results));
        expect_planned(groups.difference.deltas(&all, &replacements))
    }
}

impl RecomputedGroups {
    fn record(&self, result: &VersionResult, tick: Tick, sign: i64) {
        if let Some(((text, reason), rows)) = &result.failed {
            self.failures.record(text, reason.clone(), None, (tick, sign * rows));
        }
    }
}

/// The aggregates of a group, of which some rows were seen.
#[derive(Default)]
struct GroupEvaluation {
    /// The key's columns of the first row.
    key: Vec<ArrayRef>,
    rows: i64,
    aggregates: Vec<AggregateEvaluation>,
}

impl GroupEvaluation {
    fn update(&mut self, groups: &RecomputedGroups, rows: &RecordBatch) {
        if rows.num_rows() == 0 {
            return;
        }
        if self.rows == 0 {
            self.key = groups.key.iter().map(|c| rows.column(*c).slice(0, 1)).collect();
            self.aggregates.resize_with(groups.aggregates.len(), AggregateEvaluation::default);
        }
        self.rows += rows.num_rows() as i64;
        for (state, aggregate) in self.aggregates.iter_mut().zip(&groups.aggregates) {
            if state.failed.is_none() {
                state.failed = guarded(|| state.update(aggregate, rows)).err();
            }
        }
    }

    fn finish(mut self, groups: &RecomputedGroups) -> VersionResult {
        let schema = groups.difference.schema();
        let row = if self.rows == 0 {
            Ok(RecordBatch::new_empty(Arc::clone(schema)))
        } else {
            self.row(groups)
        };
        match row {
            Ok(row) => VersionResult { row, failed: None },
            Err(error) => VersionResult {
                row: RecordBatch::new_empty(Arc::clone(schema)),
                failed: Some((error, self.rows)),
            },
        }
    }

    /// One row: the key's columns and the aggregates.
    fn row(&mut self, groups: &RecomputedGroups) -> GroupResult {
        let schema = groups.difference.schema();
        let mut columns = self.key.clone();
        for (state, aggregate) in self.aggregates.iter_mut().zip(&groups.aggregates) {
            let data_type = schema.field(columns.len()).data_type();
            let value = match state.failed.take() {
                Some(reason) => Err(reason),
                None => guarded(|| state.value(data_type)),
            };
            columns.push(value.map_err(|reason| (Arc::clone(&aggregate.text), reason))?);
        }
        Ok(expect_planned(batch(Arc::clone(schema), columns, 1)))
    }
}

/// One aggregate of a group, of which some rows were seen.
#[derive(Default)]
struct AggregateEvaluation {
    accumulator: Option<Box<dyn Accumulator>>,
    /// The arguments that were seen, if each counts once.
    seen: Option<SeenArguments>,
    failed: Option<EvaluationError>,
}

impl AggregateEvaluation {
    fn update(
        &mut self,
        aggregate: &GeneralAggregate,
        rows: &RecordBatch,
    ) -> datafusion_common::Result<()> {
        let accumulator = match &mut self.accumulator {
            Some(accumulator) => accumulator,
            none => none.insert(aggregate.function.create_accumulator()?),
        };
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
            let seen = match &mut self.seen {
                Some(seen) => seen,
                none => none.insert(SeenArguments::new(&values)?),
            };
            rows = filter_record_batch(&rows, &seen.first_of_each(&values, rows.num_rows())?)?;
            values = args(&rows)?;
        }
        match rows.num_rows() {
            0 => Ok(()),
            _ => accumulator.update_batch(&values),
        }
    }

    fn value(&mut self, data_type: &DataType) -> datafusion_common::Result<ArrayRef> {
        let Some(accumulator) = &mut self.accumulator else {
            unreachable!("an aggregate is evaluated of groups with rows")
        };
        Ok(arrow::compute::cast(&accumulator.evaluate()?.to_array()?, data_type)?)
    }
}

/// Arguments that were seen.
struct SeenArguments {
    codec: RowCodec,
    rows: HashSet<Row>,
}

impl SeenArguments {
    fn new(columns: &[ArrayRef]) -> Result<Self, ArrowError> {
        let types: Vec<DataType> = columns.iter().map(|c| c.data_type().clone()).collect();
        Ok(SeenArguments { codec: RowCodec::new(&types)?, rows: HashSet::new() })
    }

    /// True for the first of each set of equal arguments, and only if they were not seen before.
    fn first_of_each(
        &mut self,
        columns: &[ArrayRef],
        len: usize,
    ) -> Result<BooleanArray, ArrowError> {
        let encoded = self.codec.encode(columns, len)?;
        let is_first = |row| Some(self.rows.insert(Row::from_slice(encoded.bytes(row))));
        Ok((0..len).map(is_first).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_versions_are_handed_on_whole_however_many_chunks_they_take() {
        let row = |n: u32| Row::from_slice(&n.to_be_bytes());
        let counts = [(1, 3), (2, CHUNK_ROWS as i64 * 2 + 5), (3, -1), (4, 1)];
        let mut group = OpenGroup {
            key: Row::from_slice(b"key"),
            gathered: Gathered::All,
            rows: counts.iter().map(|(n, count)| (row(*n), *count)).collect(),
            changes: vec![(7, row(2), -(CHUNK_ROWS as i64)), (7, row(5), 2), (9, row(1), -3)],
            applied: 0,
            tick: None,
            at: None,
        };
        // For each version when it came to be, and the number of times that it has each row.
        let mut versions: Vec<(Option<Tick>, BTreeMap<Row, i64>)> = Vec::new();
        let (mut version, mut chunks, mut done) = (BTreeMap::new(), 0, false);
        while !done {
            let mut chunk = Chunk::default();
            done = group.push(&mut chunk);
            assert!(chunk.rows.len() <= CHUNK_ROWS);
            chunks += 1;
            for part in &chunk.parts {
                for (_, row) in &chunk.rows[part.rows.clone()] {
                    *version.entry(row.clone()).or_default() += 1;
                }
                if let Some(end) = &part.end {
                    versions.push((end.tick, std::mem::take(&mut version)));
                }
            }
        }
        let many = CHUNK_ROWS as i64 + 5;
        let expected = [
            (None, vec![(1, 3), (2, many + CHUNK_ROWS as i64), (4, 1)]),
            (Some(7), vec![(1, 3), (2, many), (4, 1), (5, 2)]),
            (Some(9), vec![(2, many), (4, 1), (5, 2)]),
        ];
        let expected = expected.map(|(tick, rows)| {
            (tick, rows.into_iter().map(|(n, count)| (row(n), count)).collect())
        });
        assert_eq!(versions, expected);
        assert!(chunks >= 4, "{chunks}");
    }
}
