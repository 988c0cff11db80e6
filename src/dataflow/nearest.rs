//! Each left row with the nearest right row of its key: ASOF joins.
//!
//! Both sides are held in order. A right row that comes or goes concerns the left rows from its place
//! up to the next right row's, and no others.

use std::sync::Arc;

use arrow::array::{ArrayRef, new_null_array};
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;

use super::delta::{Delta, batch};
use super::ordered::Ordered;
use super::partition::{HeldRow, Partition, RowPlace};
use super::partitioned::{ChangedPartition, PartitionChanges, PartitionLogic};
use super::reached::{ReachedSpan, merged};
use super::render::expect_planned;
use crate::model::Tick;
use crate::model::row::Row;

/// Left rows, each with its nearest right row.
pub struct NearestRows {
    pub left: Ordered,
    pub right: Ordered,
    pub schema: SchemaRef,
    /// The right row has to be before the left one; otherwise it may be at its place.
    pub strict: bool,
    /// Left rows without a right one are there, too.
    pub outer: bool,
}

/// The rows of one key.
#[derive(Default)]
pub struct NearestPartition {
    left: Partition<()>,
    right: Partition<()>,
}

/// A pair of rows: key, left row, right row.
type NearestPair = (Row, Row, Option<Row>);

impl PartitionLogic<2> for NearestRows {
    type Partition = NearestPartition;

    fn orders(&self) -> [&Ordered; 2] {
        [&self.left, &self.right]
    }

    fn read(&self, [left, right]: [Vec<HeldRow>; 2]) -> NearestPartition {
        NearestPartition { left: Partition::in_order(left), right: Partition::in_order(right) }
    }

    fn bytes(&self, partition: &NearestPartition) -> usize {
        partition.left.bytes() + partition.right.bytes()
    }

    fn work(&self, of: &NearestPartition, [left, right]: &[Vec<HeldRow>; 2]) -> usize {
        let lefts = right.iter().map(|change| {
            let next = of.right.get(of.right.behind_peers(change.order()));
            let to = next.map_or(of.left.end(), |next| of.left.behind_peers(next.order()));
            of.left.size_between(of.left.first_peer(change.order()), to)
        });
        // Together they concern each left row once.
        lefts.sum::<usize>().min(of.left.size()) + left.len() + right.len()
    }

    fn change(
        &self,
        tick: Tick,
        partitions: Vec<ChangedPartition<NearestPartition, 2>>,
        stop: &dyn Fn() -> bool,
    ) -> PartitionChanges<NearestPartition> {
        let mut made = PartitionChanges::default();
        let mut pairs: Vec<(NearestPair, i64)> = Vec::new();
        for mut changed in partitions {
            if !stop() {
                self.changed(&mut changed, stop, &mut pairs);
            }
            made.partitions.push((changed.key, changed.partition));
        }
        differential_dataflow::consolidation::consolidate(&mut pairs);
        if !pairs.is_empty() {
            made.deltas.push(expect_planned(self.delta(tick, &pairs)));
        }
        made
    }
}

impl NearestRows {
    fn changed(
        &self,
        changed: &mut ChangedPartition<NearestPartition, 2>,
        stop: &dyn Fn() -> bool,
        out: &mut Vec<(NearestPair, i64)>,
    ) {
        let ChangedPartition { key, partition: of, changes: [left, right] } = changed;
        let search = Places { strict: self.strict, outer: self.outer, stop };
        let mut spans = search.concerned(&of.right, right);
        right.iter().for_each(|row| of.right.add(row));
        spans.extend(search.concerned(&of.right, right));
        let spans = merged(spans);
        right.iter().for_each(|row| of.right.add(&row.negated()));
        search.pairs(key, of, &spans, left, -1, out);
        right.iter().for_each(|row| of.right.add(row));
        left.iter().for_each(|row| of.left.add(row));
        search.pairs(key, of, &spans, left, 1, out);
    }

    fn delta(&self, tick: Tick, pairs: &[(NearestPair, i64)]) -> Result<Delta, ArrowError> {
        let left = pairs.iter().map(|((key, left, _), _)| (&key[..], &left[..]));
        let mut columns: Vec<ArrayRef> = self.left.layout().columns(left)?;
        let found = pairs.iter().filter_map(|((key, _, right), _)| Some((key, right.as_ref()?)));
        let right =
            self.right.layout().columns(found.map(|(key, right)| (&key[..], &right[..])))?;
        let mut next = 0..;
        let places: arrow::array::UInt32Array = pairs
            .iter()
            .map(|((_, _, right), _)| right.as_ref().and_then(|_| next.next()))
            .collect();
        for column in right {
            columns.push(if column.is_empty() {
                new_null_array(column.data_type(), pairs.len())
            } else {
                arrow::compute::take(column.as_ref(), &places, None)?
            });
        }
        Ok(Delta {
            rows: batch(Arc::clone(&self.schema), columns, pairs.len())?,
            diffs: pairs.iter().map(|(_, diff)| *diff).collect(),
            positions: None,
            tick,
        })
    }
}

/// Where left and right rows meet.
struct Places<'a> {
    strict: bool,
    outer: bool,
    stop: &'a dyn Fn() -> bool,
}

impl Places<'_> {
    /// The orders of left rows that changed right rows are nearest to, or would be. With `strict` the
    /// last one counts, too, and the first one does not: both are taken in.
    fn concerned(&self, right: &Partition<()>, changes: &[HeldRow]) -> Vec<ReachedSpan> {
        let span = |change: &HeldRow| {
            let next = right.get(right.behind_peers(change.order()));
            let to = next.map(|held| Row::from_slice(held.order()));
            ReachedSpan { from: Some(Row::from_slice(change.order())), to }
        };
        changes.iter().map(span).collect()
    }

    /// The pairs of left rows in these spans, and of those that change themselves.
    fn pairs(
        &self,
        key: &Row,
        sides: &NearestPartition,
        spans: &[ReachedSpan],
        changes: &[HeldRow],
        sign: i64,
        out: &mut Vec<(NearestPair, i64)>,
    ) {
        let mut give = |held: &HeldRow| {
            let right = self.nearest(&sides.right, held);
            if held.copies > 0 && (right.is_some() || self.outer) {
                out.push(((key.clone(), held.row.clone(), right.cloned()), sign * held.copies));
            }
        };
        let within = |held: &HeldRow| {
            let from_before =
                |span: &ReachedSpan| span.from.as_deref().is_none_or(|f| f <= held.order());
            let span = spans.partition_point(from_before).checked_sub(1).map(|at| &spans[at]);
            span.is_some_and(|span| span.to.as_deref().is_none_or(|to| held.order() <= to))
        };
        for span in spans {
            let left = &sides.left;
            let first = span.from.as_deref().map_or(left.start(), |from| left.first_peer(from));
            let end = span.to.as_deref().map_or(left.end(), |to| left.behind_peers(to));
            let rows = left.rows(first, end).take_while(|_| !(self.stop)());
            rows.for_each(|(_, held)| give(held));
        }
        for change in changes.iter().filter(|change| !within(change)) {
            let place = sides.left.seek(&change.row);
            if let Some(held) = sides.left.get(place).filter(|held| held.row == change.row) {
                give(held);
            }
        }
    }

    /// The right row that is nearest to a left one.
    fn nearest<'a>(&self, right: &'a Partition<()>, left: &HeldRow) -> Option<&'a Row> {
        let order = left.order();
        let behind: RowPlace =
            if self.strict { right.first_peer(order) } else { right.behind_peers(order) };
        let last = right.get(right.previous(behind)?)?;
        right.get(right.first_peer(last.order())).map(|held| &held.row)
    }
}
