//! Changes of window functions' values. Only the rows whose values a change can reach are computed anew:
//! those near it, or those behind it, which go on from the functions' state before them. Where a function
//! depends on all of its partition, all of it is computed.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use arrow::datatypes::DataType;

use super::delta::batch;
use super::difference::{Difference, Replacement};
use super::eval::{EvaluationError, FailedExpression, guarded};
use super::frames::{PartitionPart, Prior};
use super::ordered::Ordered;
use super::partition::{HeldRow, Partition};
use super::partitioned::{ChangedPartition, PartitionChanges, PartitionLogic};
use super::reached::{ReachedParts, ReachedSpan, Reaching, Rows, Segment, WindowScope, merged};
use super::render::expect_planned;
use crate::model::Tick;
use crate::plan::ir::WindowFunction;

/// Window functions over partitions in one order.
pub struct Windows {
    pub ordered: Ordered,
    pub functions: Vec<WindowFunction>,
    pub scope: WindowScope,
    pub difference: Difference,
}

/// A partition's rows, as they are held between changes.
#[derive(Default)]
pub struct WindowPartition {
    rows: Partition<Prior>,
    /// All of the partition is computed at its next change: a function has no value for some of its rows, so
    /// that none of them is in the output; or nobody knows whether that is so.
    whole: bool,
}

type ChangedWindow = ChangedPartition<WindowPartition, 1>;

/// A partition whose changes are in its rows.
struct PartitionChange {
    of: ChangedWindow,
    /// All of the partition is computed.
    whole: bool,
    before: Vec<Segment>,
    after: Vec<Segment>,
}

/// A segment's rows that were asked for, with their values; and what is before its boundaries.
type SegmentValues = Result<(RecordBatch, Vec<Prior>), FailedExpression>;

/// Most changes of one partition that are looked at one by one to know how far they reach.
const LOOKED_AT: usize = 64;
/// So many rows of a frame that is computed by itself take about as long as one row elsewhere.
const FRAME_ROWS_AS_ONE: usize = 64;

impl PartitionLogic<1> for Windows {
    type Partition = WindowPartition;

    fn orders(&self) -> [&Ordered; 1] {
        [&self.ordered]
    }

    fn read(&self, [rows]: [Vec<HeldRow>; 1]) -> WindowPartition {
        WindowPartition { whole: !rows.is_empty(), rows: Partition::in_order(rows) }
    }

    fn bytes(&self, partition: &WindowPartition) -> usize {
        partition.rows.bytes()
    }

    fn work(&self, partition: &WindowPartition, [changes]: &[Vec<HeldRow>; 1]) -> usize {
        let rows = &partition.rows;
        let size = rows.size() + changes.len();
        let whole = !self.scope.local || partition.whole || rows.is_small();
        let reached = if whole || changes.len() > LOOKED_AT {
            size
        } else {
            let part = self.reached();
            let reached = changes.iter().map(|change| {
                let (from, to) = part.places(rows, change);
                rows.size_between(from, to)
            });
            size.min(reached.sum::<usize>() + changes.len())
        };
        let frame = self.scope.frame_rows.min(size as u64) as usize;
        reached.saturating_mul(1 + frame / FRAME_ROWS_AS_ONE)
    }

    fn change(
        &self,
        tick: Tick,
        partitions: Vec<ChangedWindow>,
        stop: &dyn Fn() -> bool,
    ) -> PartitionChanges<WindowPartition> {
        let mut made = PartitionChanges::default();
        let failing = self.round(tick, partitions, stop, &mut made);
        // A partition of which a part fails is computed as a whole: a function that fails takes out all rows.
        self.round(tick, failing, stop, &mut made);
        made
    }
}

impl Windows {
    /// Makes changes and computes what they reach; those of partitions in parts of which a function
    /// failed are taken back and returned.
    fn round(
        &self,
        tick: Tick,
        partitions: Vec<ChangedWindow>,
        stop: &dyn Fn() -> bool,
        made: &mut PartitionChanges<WindowPartition>,
    ) -> Vec<ChangedWindow> {
        if partitions.is_empty() {
            return Vec::new();
        }
        let mut rows = Rows::default();
        let changes: Vec<PartitionChange> =
            partitions.into_iter().map(|of| self.changed(of, &mut rows)).collect();
        let columns = expect_planned(self.ordered.layout().columns(rows.iter()));
        let schema = Arc::clone(self.ordered.layout().schema());
        let input = expect_planned(batch(schema, columns, rows.len()));
        drop(rows);
        let mut results = WindowResults { batches: Vec::new(), len: 0 };
        let mut replacements = Vec::new();
        let mut again = Vec::new();
        for mut change in changes {
            let before = self.evaluate(&change.before, &input, stop);
            let after = self.evaluate(&change.after, &input, stop);
            if !change.whole && (before.is_err() || after.is_err()) {
                again.push(change.taken_back());
                continue;
            }
            for (outcome, segments, sign) in
                [(&before, &change.before, -1), (&after, &change.after, 1)]
            {
                if let Err(failed) = outcome {
                    let rows: usize = segments.iter().map(|s| s.wanted.len()).sum();
                    made.failures.push((failed.clone(), sign * rows as i64));
                }
            }
            change.settle(&after);
            made.partitions.push((change.of.key, change.of.partition));
            let before = results.add(before);
            let after = results.add(after);
            replacements.push(Replacement { tick, before, after });
        }
        if !results.batches.is_empty() {
            let all = expect_planned(concat_batches(self.difference.schema(), &results.batches));
            made.deltas.extend(expect_planned(self.difference.deltas(&all, &replacements)));
        }
        again
    }

    fn reached(&self) -> ReachedParts<'_> {
        ReachedParts {
            order: Reaching(self.ordered.order()),
            scope: &self.scope,
            functions: &self.functions,
        }
    }

    /// Makes the changes of a partition, and notes the rows to compute before and after them.
    fn changed(&self, mut of: ChangedWindow, noted: &mut Rows) -> PartitionChange {
        let ChangedPartition { key, partition, changes: [changes] } = &mut of;
        let rows = &mut partition.rows;
        let whole = !self.scope.local || partition.whole || rows.is_small();
        let part = self.reached();
        if whole {
            let all = [ReachedSpan { from: None, to: None }];
            let before = part.segments(key, rows, &all, true, noted);
            changes.iter().for_each(|change| rows.add(change));
            let after = part.segments(key, rows, &all, true, noted);
            return PartitionChange { of, whole, before, after };
        }
        let mut spans: Vec<ReachedSpan> = changes.iter().map(|c| part.span(rows, c)).collect();
        changes.iter().for_each(|change| rows.add(change));
        spans.extend(changes.iter().map(|c| part.span(rows, c)));
        let spans = merged(spans);
        // The values before the changes are read from the rows as they were.
        changes.iter().for_each(|change| rows.add(&change.negated()));
        let before = part.segments(key, rows, &spans, false, noted);
        changes.iter().for_each(|change| rows.add(change));
        let after = part.segments(key, rows, &spans, false, noted);
        PartitionChange { of, whole, before, after }
    }

    fn evaluate(
        &self,
        segments: &[Segment],
        input: &RecordBatch,
        stop: &dyn Fn() -> bool,
    ) -> Result<Vec<(RecordBatch, Vec<Prior>)>, FailedExpression> {
        segments.iter().map(|segment| self.segment(segment, input, stop)).collect()
    }

    fn segment(
        &self,
        segment: &Segment,
        input: &RecordBatch,
        stop: &dyn Fn() -> bool,
    ) -> SegmentValues {
        let rows = input.slice(segment.rows.start, segment.rows.len());
        let part = PartitionPart {
            rows: &rows,
            wanted: segment.wanted.clone(),
            known: segment.known,
            prior: segment.prior.as_deref(),
            peers: self.scope.by_peers.then_some(&segment.peers),
            boundaries: &segment.boundaries,
            stop,
        };
        let failed = std::cell::Cell::new(0);
        let values = guarded(|| {
            part.evaluate(&self.functions).map_err(|(index, error)| {
                failed.set(index);
                error
            })
        });
        let text = |index: usize| Arc::clone(&self.functions[index].text);
        let failure = |reason: EvaluationError, index| (text(index), reason);
        let (values, priors) = values.map_err(|reason| failure(reason, failed.get()))?;
        let wanted = rows.slice(segment.wanted.start, segment.wanted.len());
        let mut columns = wanted.columns().to_vec();
        for (index, column) in values.into_iter().enumerate() {
            let schema = self.difference.schema();
            let data_type: &DataType = schema.field(columns.len()).data_type();
            let column = guarded(|| Ok(arrow::compute::cast(&column, data_type)?));
            columns.push(column.map_err(|reason| failure(reason, index))?);
        }
        let schema = Arc::clone(self.difference.schema());
        Ok((expect_planned(batch(schema, columns, wanted.num_rows())), priors))
    }
}

impl PartitionChange {
    /// Takes back what a change did, so that it is made again with all of the partition.
    fn taken_back(self) -> ChangedWindow {
        let mut of = self.of;
        let [changes] = &of.changes;
        changes.iter().for_each(|change| of.partition.rows.add(&change.negated()));
        of.partition.whole = true;
        of
    }

    /// Remembers what there is before boundaries, and forgets what is no more.
    fn settle(&mut self, after: &Result<Vec<(RecordBatch, Vec<Prior>)>, FailedExpression>) {
        let WindowPartition { rows, whole } = &mut self.of.partition;
        *whole = after.is_err();
        rows.forget();
        let Ok(after) = after else { return };
        for (segment, (_, priors)) in self.after.iter().zip(after) {
            for (place, prior) in segment.places.iter().zip(priors) {
                rows.remember(*place, prior.clone());
            }
        }
    }
}

/// Rows with their values, side by side.
struct WindowResults {
    batches: Vec<RecordBatch>,
    len: usize,
}

impl WindowResults {
    /// Where the rows of an outcome are; nowhere, if it is a failure.
    fn add<E>(&mut self, outcome: Result<Vec<(RecordBatch, Vec<Prior>)>, E>) -> Vec<Range<usize>> {
        let mut ranges = Vec::new();
        for (batch, _) in outcome.into_iter().flatten() {
            ranges.push(self.len..self.len + batch.num_rows());
            self.len += batch.num_rows();
            self.batches.push(batch);
        }
        ranges
    }
}
