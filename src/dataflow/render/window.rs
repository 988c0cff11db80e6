//! Window functions. Each partition's rows are held in order, and only the rows whose values a change
//! can reach are computed anew: those near it, or those behind it, going on from what the functions had
//! come to before. Where a function depends on all of its partition, all of it is.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use arrow::datatypes::DataType;
use arrow::error::ArrowError;
use timely::dataflow::channels::pact::Exchange;
use timely::dataflow::operators::Capability;
use timely::dataflow::operators::generic::Operator;
use timely::scheduling::Activator;

use super::pending::{PendingTicks, in_order};
use super::{Deltas, Renderer, expect_planned};
use crate::dataflow::arrange::owner;
use crate::dataflow::delta::{Delta, batch};
use crate::dataflow::difference::{Difference, Replacement};
use crate::dataflow::eval::{FailedExpression, guarded};
use crate::dataflow::failure::FailureStream;
use crate::dataflow::frames::{PartitionPart, Prior};
use crate::dataflow::guard::Account;
use crate::dataflow::ordered::{Ordered, RowUpdate, by_key};
use crate::dataflow::partition::{HeldRow, Partition};
use crate::dataflow::reached::{
    ReachedParts, ReachedSpan, Reaching, Rows, Segment, WindowScope, merged,
};
use crate::dataflow::reclaim::free_elsewhere;
use crate::model::Tick;
use crate::model::row::Row;
use crate::plan::ir::{NodeId, OrderColumn, WindowFunction};

impl<'scope> Renderer<'scope, '_> {
    pub(super) fn window(
        &self,
        id: NodeId,
        input: NodeId,
        key: &[usize],
        order: &[OrderColumn],
        functions: &[WindowFunction],
    ) -> Result<Deltas<'scope>, ArrowError> {
        let schema = self.schema(input);
        let ordered = || Ordered::new(&schema, key, order, order.len(), false);
        let mut windows = WindowSearch {
            ordered: ordered()?,
            difference: Difference::new(self.schema(id))?,
            scope: WindowScope::of(functions),
            functions: functions.to_vec(),
            partitions: HashMap::new(),
            failures: self.failures.clone(),
            account: self.guard.account(false),
        };
        let updates = in_order(self.kept_input(input)?, ordered()?, &self.guard);
        let guard = self.guard.clone();
        let activations = self.scope.activations();
        let workers = self.scope.peers();
        let exchange = Exchange::new(move |(key, _, _): &RowUpdate| owner(key.hash(), workers));
        let values = updates.unary_frontier(exchange, "Window", move |capability, info| {
            let activator = Activator::new(info.address, activations);
            let mut pending: PendingTicks<Vec<(Row, HeldRow)>> = PendingTicks::new(capability);
            // The tick that is being computed, and the partitions that are left of it.
            let mut current: Option<(Capability<Tick>, ChangedPartitions)> = None;
            move |(input, frontier), output| {
                let stops = guard.enter();
                input.for_each(|_, updates: &mut Vec<RowUpdate>| {
                    for (key, row, tick) in updates.drain(..).filter(|_| !stops) {
                        pending.at(tick).push((key.row, row));
                    }
                });
                if stops {
                    current = None;
                    free_elsewhere(std::mem::take(&mut windows.partitions));
                    windows.account.set(0);
                    return pending.stop();
                }
                let frontier = frontier.frontier().first().copied();
                let slice = guard.slice();
                while !slice.is_over() {
                    if current.is_none() {
                        let next = pending.take(|t| frontier.is_none_or(|f| t < f));
                        current = next.map(|(at, updates)| (at, by_key(updates).into_iter()));
                    }
                    let Some((at, keys)) = &mut current else { break };
                    let part = windows.part(keys);
                    let deltas = windows.step(*at.time(), part);
                    output.session(&*at).give_iterator(deltas.into_iter());
                    if keys.len() == 0 {
                        current = None;
                    }
                }
                if current.is_some() || slice.is_over() {
                    activator.activate();
                }
                pending.downgrade(frontier);
            }
        });
        Ok(self.behind_kept(values))
    }
}

/// How many rows of partitions are computed together, but for what one partition has.
const ROWS_TOGETHER: usize = 1 << 14;

/// Partitions that change at a tick, with their changes.
type ChangedPartitions = std::vec::IntoIter<(Row, Vec<HeldRow>)>;

/// A partition's rows; and whether some function has no value for some of them, so that none of them
/// is in the output.
#[derive(Default)]
struct Content {
    rows: Partition<Prior>,
    failing: bool,
}

/// A partition that changes at a tick.
struct PartitionChange {
    key: Row,
    rows: Vec<HeldRow>,
    /// All of the partition is computed.
    whole: bool,
    before: Vec<Segment>,
    after: Vec<Segment>,
}

/// A segment's rows that were asked for, with their values; and what is before its boundaries.
type SegmentValues = Result<(RecordBatch, Vec<Prior>), FailedExpression>;

struct WindowSearch {
    ordered: Ordered,
    functions: Vec<WindowFunction>,
    scope: WindowScope,
    difference: Difference,
    partitions: HashMap<Row, Content>,
    failures: FailureStream,
    account: Account,
}

impl WindowSearch {
    /// The next partitions that are computed together.
    fn part(&self, keys: &mut ChangedPartitions) -> Vec<(Row, Vec<HeldRow>)> {
        let mut part = Vec::new();
        let mut rows = 0;
        while rows < ROWS_TOGETHER
            && let Some((key, changes)) = keys.next()
        {
            rows += changes.len();
            if !self.scope.local {
                rows += self.partitions.get(&key).map_or(0, |content| content.rows.size());
            }
            part.push((key, changes));
        }
        part
    }

    /// Applies a tick's changes of some partitions and gives those of the output.
    fn step(&mut self, tick: Tick, keys: Vec<(Row, Vec<HeldRow>)>) -> Vec<Delta> {
        let (mut deltas, failing) = self.round(tick, keys);
        // What fails in a part is computed as a whole: a function that fails takes out all rows.
        deltas.extend(self.round(tick, failing).0);
        deltas
    }

    /// Applies changes and computes what they reach; those of partitions in parts of which a function
    /// failed are taken back and returned.
    fn round(
        &mut self,
        tick: Tick,
        keys: Vec<(Row, Vec<HeldRow>)>,
    ) -> (Vec<Delta>, Vec<(Row, Vec<HeldRow>)>) {
        if keys.is_empty() {
            return (Vec::new(), Vec::new());
        }
        let mut rows = Rows::default();
        let changes: Vec<PartitionChange> =
            keys.into_iter().map(|(key, changes)| self.change(key, changes, &mut rows)).collect();
        let columns = expect_planned(self.ordered.layout().columns(rows.iter()));
        let schema = Arc::clone(self.ordered.layout().schema());
        let input = expect_planned(batch(schema, columns, rows.len()));
        drop(rows);
        let mut results = Results { batches: Vec::new(), len: 0 };
        let mut replacements = Vec::new();
        let mut again = Vec::new();
        for change in changes {
            let before = self.evaluate(&change.before, &input);
            let after = self.evaluate(&change.after, &input);
            if !change.whole && (before.is_err() || after.is_err()) {
                again.push(self.taken_back(change));
                continue;
            }
            self.record(tick, &change, &before, &after);
            self.settle(&change, &after);
            let before = results.add(before);
            let after = results.add(after);
            replacements.push(Replacement { tick, before, after });
        }
        if results.batches.is_empty() {
            return (Vec::new(), again);
        }
        let all = expect_planned(concat_batches(self.difference.schema(), &results.batches));
        (expect_planned(self.difference.deltas(&all, &replacements)), again)
    }

    /// Applies the changes of a partition, and notes the rows to compute before and after them.
    fn change(&mut self, key: Row, changes: Vec<HeldRow>, rows: &mut Rows) -> PartitionChange {
        let content = self.partitions.entry(key.clone()).or_default();
        let whole = !self.scope.local || content.failing || content.rows.is_small();
        let all = [ReachedSpan { from: None, to: None }];
        let part = ReachedParts {
            order: Reaching(self.ordered.order()),
            scope: &self.scope,
            functions: &self.functions,
        };
        if whole {
            let before = part.segments(&key, &content.rows, &all, true, rows);
            self.account.add(changes.iter().map(|change| content.rows.add(change)).sum());
            let after = part.segments(&key, &content.rows, &all, true, rows);
            return PartitionChange { key, rows: changes, whole, before, after };
        }
        let mut spans: Vec<ReachedSpan> =
            changes.iter().map(|c| part.span(&content.rows, c)).collect();
        self.account.add(changes.iter().map(|change| content.rows.add(change)).sum());
        spans.extend(changes.iter().map(|c| part.span(&content.rows, c)));
        let spans = merged(spans);
        // What the rows were is read as they were.
        let taken: isize = changes.iter().map(|change| content.rows.add(&change.negated())).sum();
        let before = part.segments(&key, &content.rows, &spans, false, rows);
        let given: isize = changes.iter().map(|change| content.rows.add(change)).sum();
        self.account.add(taken + given);
        let after = part.segments(&key, &content.rows, &spans, false, rows);
        PartitionChange { key, rows: changes, whole, before, after }
    }

    /// Takes back what a change did, so that it is made again with all of the partition.
    fn taken_back(&mut self, change: PartitionChange) -> (Row, Vec<HeldRow>) {
        let content = self.partitions.entry(change.key.clone()).or_default();
        self.account.add(change.rows.iter().map(|row| content.rows.add(&row.negated())).sum());
        content.failing = true;
        (change.key, change.rows)
    }

    fn evaluate(
        &self,
        segments: &[Segment],
        input: &RecordBatch,
    ) -> Result<Vec<(RecordBatch, Vec<Prior>)>, FailedExpression> {
        segments.iter().map(|segment| self.segment(segment, input)).collect()
    }

    fn segment(&self, segment: &Segment, input: &RecordBatch) -> SegmentValues {
        let rows = input.slice(segment.rows.start, segment.rows.len());
        let part = PartitionPart {
            rows: &rows,
            wanted: segment.wanted.clone(),
            known: segment.known,
            prior: segment.prior.as_deref(),
            peers: self.scope.by_peers.then_some(&segment.peers),
            boundaries: &segment.boundaries,
        };
        let failed = std::cell::Cell::new(0);
        let values = guarded(|| {
            part.evaluate(&self.functions).map_err(|(index, error)| {
                failed.set(index);
                error
            })
        });
        let text = |index: usize| Arc::clone(&self.functions[index].text);
        let (values, priors) = values.map_err(|reason| (text(failed.get()), reason))?;
        let wanted = rows.slice(segment.wanted.start, segment.wanted.len());
        let mut columns = wanted.columns().to_vec();
        for (index, column) in values.into_iter().enumerate() {
            let schema = self.difference.schema();
            let data_type: &DataType = schema.field(columns.len()).data_type();
            let column = guarded(|| Ok(arrow::compute::cast(&column, data_type)?));
            columns.push(column.map_err(|reason| (text(index), reason))?);
        }
        let schema = Arc::clone(self.difference.schema());
        Ok((expect_planned(batch(schema, columns, wanted.num_rows())), priors))
    }

    /// Tells what fails of a partition that was computed as a whole.
    fn record<T>(
        &mut self,
        tick: Tick,
        change: &PartitionChange,
        before: &Result<T, FailedExpression>,
        after: &Result<T, FailedExpression>,
    ) {
        for (outcome, segments, sign) in [(before, &change.before, -1), (after, &change.after, 1)] {
            if let Err((text, reason)) = outcome {
                let rows: usize = segments.iter().map(|s| s.wanted.len()).sum();
                self.failures.record(text, reason.clone(), None, (tick, sign * rows as i64));
            }
        }
        if let Some(content) = self.partitions.get_mut(&change.key) {
            content.failing = after.is_err();
        }
    }

    /// Remembers what there is before boundaries, and forgets what is no more.
    fn settle(
        &mut self,
        change: &PartitionChange,
        after: &Result<Vec<(RecordBatch, Vec<Prior>)>, FailedExpression>,
    ) {
        let Some(content) = self.partitions.get_mut(&change.key) else { return };
        if content.rows.is_empty() {
            self.partitions.remove(&change.key);
            return;
        }
        content.rows.forget();
        let Ok(after) = after else { return };
        for (segment, (_, priors)) in change.after.iter().zip(after) {
            for (place, prior) in segment.places.iter().zip(priors) {
                content.rows.remember(*place, prior.clone());
            }
        }
    }
}

/// Rows with their values, side by side.
struct Results {
    batches: Vec<RecordBatch>,
    len: usize,
}

impl Results {
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
