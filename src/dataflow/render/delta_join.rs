//! Joins of several inputs that keep no intermediate result: a change of one input looks up the rows
//! that match in the others, one after the other.
//!
//! Of changes at one tick each pair must be found once: an input's changes meet those of the inputs
//! before it as of the same tick, and of those behind it as of before the tick. (The scheme is that of
//! McSherry's delta queries; Materialize and dogsdogsdogs describe it, too.)

use std::sync::Arc;

use arrow::array::ArrayRef;
use arrow::datatypes::{Schema, SchemaRef};
use arrow::error::ArrowError;
use differential_dataflow::operators::arrange::Arranged;
use differential_dataflow::trace::cursor::cursor_list;
use differential_dataflow::trace::{Cursor, TraceReader};
use timely::dataflow::Stream;
use timely::dataflow::channels::pact::{Exchange, Pipeline};
use timely::dataflow::operators::core::Concatenate;
use timely::dataflow::operators::generic::Operator;
use timely::progress::Antichain;

use super::join::{Pair, decoded, keyed};
use super::pending::PendingTicks;
use super::{Deltas, Renderer, expect_planned, map};
use crate::dataflow::arrange::{Key, KeyedUpdate, Placement, RowTrace};
use crate::dataflow::delta::batch;
use crate::dataflow::layout::RowLayout;
use crate::model::Tick;
use crate::model::multiplicity::Multiplicity;
use crate::model::row::Row;
use crate::plan::ir::{DeltaPath, Lookup, NodeId};

impl<'scope> Renderer<'scope, '_> {
    pub(super) fn delta_join(
        &self,
        id: NodeId,
        inputs: &[NodeId],
        paths: &[DeltaPath],
    ) -> Result<Deltas<'scope>, ArrowError> {
        let schema = self.schema(id);
        let mut outputs = Vec::new();
        for (first, path) in paths.iter().enumerate() {
            let mut rows = self.input(inputs[first]);
            let mut columns = self.schema(inputs[first]);
            for lookup in &path.lookups {
                let before = lookup.input > first;
                (rows, columns) = self.lookup(rows, &columns, inputs, lookup, before)?;
            }
            let (schema, order) = (Arc::clone(&schema), path.output.clone());
            outputs.push(map(rows, "Reorder", move |delta| {
                let columns = order.iter().map(|c| Arc::clone(delta.rows.column(*c))).collect();
                vec![expect_planned(delta.with_columns(Arc::clone(&schema), columns))]
            }));
        }
        Ok(self.scope.concatenate(outputs))
    }

    /// The rows beside those of an input that match them, and what columns those pairs have.
    fn lookup(
        &self,
        rows: Deltas<'scope>,
        columns: &SchemaRef,
        inputs: &[NodeId],
        lookup: &Lookup,
        before: bool,
    ) -> Result<(Deltas<'scope>, SchemaRef), ArrowError> {
        let input = inputs[lookup.input];
        let (arranged, layout) = self.arranged(input, &lookup.on.right, true, Placement::ByKey)?;
        let own = RowLayout::new(columns, &lookup.on.left)?;
        let updates = keyed(rows, RowLayout::new(columns, &lookup.on.left)?, true);
        let others = self.schema(input);
        let fields = columns.fields().iter().chain(others.fields()).cloned();
        let schema: SchemaRef = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
        let pairs = half_join(updates, arranged, before);
        let output = Arc::clone(&schema);
        let rows = decoded(pairs, self.failures.clone(), move |group| {
            let left = group.iter().map(|((k, l, _), _, _)| (&k[..], &l[..]));
            let right = group.iter().map(|((k, _, r), _, _)| (&k[..], &r[..]));
            let mut columns: Vec<ArrayRef> = own.columns(left)?;
            columns.extend(layout.columns(right)?);
            batch(Arc::clone(&output), columns, group.len())
        });
        Ok((rows, schema))
    }
}

/// Each change beside the rows that match it, as of the change's tick; or, with `before`, as of just
/// before it.
fn half_join<'scope>(
    updates: Stream<'scope, Tick, Vec<KeyedUpdate>>,
    arranged: Arranged<'scope, RowTrace>,
    before: bool,
) -> Stream<'scope, Tick, Vec<Pair>> {
    let mut trace = arranged.trace.clone();
    let exchange = Exchange::new(|update: &KeyedUpdate| update.0.0.hash());
    updates.binary_frontier(
        arranged.stream,
        exchange,
        Pipeline,
        "HalfJoin",
        move |capability, _| {
            let mut pending: PendingTicks<Vec<(Key, Row, Multiplicity)>> =
                PendingTicks::new(capability);
            // Up to where the arrangement is known.
            let mut upper = Antichain::from_elem(Tick::MIN);
            move |(updates, frontier), (batches, _), output| {
                updates.for_each(|_, updates: &mut Vec<KeyedUpdate>| {
                    for ((key, row), tick, diff) in updates.drain(..) {
                        pending.at(tick).push((key, row, diff));
                    }
                });
                batches.for_each(|_, spans| {
                    for span in spans.drain(..) {
                        upper.clone_from(span.upper());
                    }
                });
                trace.advance_upper(&mut upper);
                let frontier = frontier.frontier().first().copied();
                let is_complete =
                    |tick| frontier.is_none_or(|f| tick < f) && !upper.less_equal(&tick);
                while let Some((at, changes)) = pending.take(is_complete) {
                    let Some(history) = trace.batches_through(upper.borrow()) else {
                        unreachable!("nothing is compacted past what was read")
                    };
                    let mut pairs = matches(changes, history, *at.time(), before);
                    output.session(&at).give_container(&mut pairs);
                }
                // What was just before a tick must be told from the tick itself.
                let since = pending.downgrade(frontier);
                let since = since.map(|tick| if before { tick.saturating_sub(1) } else { tick });
                let since = since.map_or(Antichain::new(), Antichain::from_elem);
                trace.set_logical_compaction(since.borrow());
                trace.set_physical_compaction(upper.borrow());
            }
        },
    )
}

/// The pairs of changes and the rows that match them as of a tick, or just before it.
fn matches(
    mut changes: Vec<(Key, Row, Multiplicity)>,
    history: Vec<<RowTrace as TraceReader>::Batch>,
    tick: Tick,
    before: bool,
) -> Vec<Pair> {
    changes.sort_unstable();
    let (mut cursor, storage) = cursor_list(history);
    let mut pairs = Vec::new();
    for group in changes.chunk_by(|a, b| a.0 == b.0) {
        let key = &group[0].0;
        cursor.seek_key(&storage, key);
        if cursor.get_key(&storage) != Some(key) {
            continue;
        }
        while let Some(other) = cursor.get_val(&storage) {
            let mut count = Multiplicity::default();
            cursor.map_times(&storage, |time, diff| {
                if *time < tick || (!before && *time == tick) {
                    count = count.plus(*diff);
                }
            });
            if !count.is_zero() {
                pairs.extend(group.iter().map(|(key, row, diff)| {
                    ((key.row.clone(), row.clone(), other.clone()), tick, diff.times(count))
                }));
            }
            cursor.step_val(&storage);
        }
    }
    pairs
}
