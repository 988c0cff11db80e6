//! Joins of several inputs that keep no intermediate result: a change of one input looks up the rows
//! that match in the others, one after the other.
//!
//! Each pair of changes at one tick must be found once: an input's changes meet those of the inputs before it
//! as of the same tick, and those of the inputs behind it as of before the tick. (The scheme is that of
//! McSherry's delta queries; Materialize and dogsdogsdogs describe it, too.)

use std::rc::Rc;
use std::sync::Arc;

use arrow::array::ArrayRef;
use arrow::datatypes::{Schema, SchemaRef};
use arrow::error::ArrowError;
use differential_dataflow::operators::arrange::Arranged;
use differential_dataflow::trace::TraceReader;
use timely::container::NoopBuilder;
use timely::dataflow::Stream;
use timely::dataflow::channels::pact::{Exchange, Pipeline};
use timely::dataflow::operators::Capability;
use timely::dataflow::operators::core::Concatenate;
use timely::dataflow::operators::generic::Operator;
use timely::progress::Antichain;
use timely::scheduling::Activator;

use super::join::{decoded, keyed};
use super::pairs::JoinedPairs;
use super::pending::PendingTicks;
use super::{Deltas, Renderer, expect_planned, map};
use crate::dataflow::arrange::{Key, KeyedUpdate, Placement, RowTrace, owner};
use crate::dataflow::delta::batch;
use crate::dataflow::guard::{Guard, Slice};
use crate::dataflow::layout::RowLayout;
use crate::dataflow::run::{KeyRef, Run, RunsCursor};
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
        let updates = keyed(rows, RowLayout::new(columns, &lookup.on.left)?, true, &self.guard);
        let others = self.schema(input);
        let fields = columns.fields().iter().chain(others.fields()).cloned();
        let schema: SchemaRef = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
        let pairs = half_join(updates, arranged, before, &self.guard);
        let output = Arc::clone(&schema);
        let rows = decoded(pairs, &self.guard, self.failures.clone(), move |group| {
            let mut columns: Vec<ArrayRef> = own.columns(group.lefts())?;
            columns.extend(layout.columns(group.rights())?);
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
    guard: &Guard,
) -> Stream<'scope, Tick, JoinedPairs<Tick>> {
    let mut trace = arranged.trace.clone();
    let guard = guard.clone();
    let workers = updates.scope().peers();
    let exchange = Exchange::new(move |update: &KeyedUpdate| owner(update.0.0.hash(), workers));
    let activations = arranged.stream.scope().activations();
    updates.binary_frontier::<_, NoopBuilder<JoinedPairs<Tick>>, _, _, _, _>(
        arranged.stream,
        exchange,
        Pipeline,
        "HalfJoin",
        move |capability, info| {
            let activator = Activator::new(info.address, activations);
            let mut pending: PendingTicks<Vec<(Key, Row, Multiplicity)>> =
                PendingTicks::new(capability);
            // The changes that are being matched, and the capability to send their matches.
            let mut current: Option<(Capability<Tick>, HalfMatches)> = None;
            // Up to where the arrangement is known.
            let mut upper = Antichain::from_elem(guard.first_tick());
            move |(updates, frontier), (batches, _), output| {
                let stops = guard.enter();
                updates.for_each(|_, updates: &mut Vec<KeyedUpdate>| {
                    for ((key, row), tick, diff) in updates.drain(..).filter(|_| !stops) {
                        pending.at(tick).push((key, row, diff));
                    }
                });
                batches.for_each(|_, spans| {
                    for span in spans.drain(..) {
                        upper.clone_from(span.upper());
                    }
                });
                if stops {
                    current = None;
                    return pending.stop();
                }
                trace.advance_upper(&mut upper);
                let frontier = frontier.frontier().first().copied();
                let is_complete =
                    |tick| frontier.is_none_or(|f| tick < f) && !upper.less_equal(&tick);
                let slice = guard.slice();
                while !slice.is_over() {
                    if current.is_none()
                        && let Some((at, changes)) = pending.take(is_complete)
                    {
                        let Some(history) = trace.batches_through(upper.borrow()) else {
                            unreachable!("nothing is compacted past what was read")
                        };
                        let matches = HalfMatches::new(changes, history, *at.time(), before);
                        current = Some((at, matches));
                    }
                    let Some((at, matches)) = &mut current else { break };
                    let (mut pairs, done) = matches.run(&guard, &slice);
                    slice.made(pairs.len());
                    output.session_with_builder(&*at).give_container(&mut pairs);
                    if done {
                        current = None;
                    }
                }
                if current.is_some() || slice.is_over() {
                    activator.activate();
                }
                // Rows as of just before a tick must stay distinct from those of the tick itself.
                let since = pending.downgrade(frontier);
                let since = since.map(|tick| if before { tick.saturating_sub(1) } else { tick });
                let since = since.map_or(Antichain::new(), Antichain::from_elem);
                trace.set_logical_compaction(since.borrow());
                trace.set_physical_compaction(upper.borrow());
            }
        },
    )
}

/// Number of pairs after which the time is looked at.
const PAIRS_PER_LOOK: usize = 256;

/// The match of changes and the rows as of a tick, or just before it, as far as it has come.
struct HalfMatches {
    changes: Vec<(Key, Row, Multiplicity)>,
    rows: RunsCursor<Multiplicity>,
    tick: Tick,
    before: bool,
    /// The first change of the key that is being matched.
    at: usize,
    /// While a key is matched: the end of its changes, the next of them to be put beside the row that the
    /// cursor is at, and the number of rows that there were.
    key: Option<(usize, usize, usize)>,
}

impl HalfMatches {
    fn new(
        mut changes: Vec<(Key, Row, Multiplicity)>,
        history: Vec<Rc<Run<Multiplicity>>>,
        tick: Tick,
        before: bool,
    ) -> Self {
        changes.sort_unstable();
        HalfMatches { changes, rows: RunsCursor::new(history), tick, before, at: 0, key: None }
    }

    /// Goes on until there are enough pairs or the slice is over; the flag says that it is done.
    fn run(&mut self, guard: &Guard, slice: &Slice) -> (JoinedPairs<Tick>, bool) {
        let HalfMatches { changes, rows, tick, before, at, key } = self;
        let mut pairs = JoinedPairs::default();
        let mut look = 0;
        while *at < changes.len() {
            let first = &changes[*at].0;
            let (end, mut next, mut met) = match *key {
                Some(key) => key,
                None => {
                    rows.seek_key(KeyRef::from(first));
                    let same = changes[*at..].iter().take_while(|(key, _, _)| key == first);
                    let end = *at + same.count();
                    if rows.key() != Some(KeyRef::from(first)) {
                        *at = end;
                        continue;
                    }
                    (end, *at, 0)
                }
            };
            let of = pairs.row(&first.row);
            while let Some(other) = rows.value() {
                let is_there = |t: &Tick| t < tick || !*before && t == tick;
                let diffs = rows.updates().filter(|(t, _)| is_there(t)).map(|(_, diff)| diff);
                let count: Multiplicity = diffs.sum();
                if !count.is_zero() {
                    let other = pairs.row(other);
                    for (_, row, diff) in &changes[next..end] {
                        let row = pairs.row(row);
                        pairs.pair(of, (row, other), *tick, diff.times(count));
                        next += 1;
                        look += 1;
                        if pairs.is_full() || look % PAIRS_PER_LOOK == 0 && slice.is_over() {
                            *key = Some((end, next, met));
                            return (pairs, false);
                        }
                    }
                }
                rows.next_value();
                (next, met) = (*at, met + 1);
                guard.check_rows(met, "a join");
                look += 1;
                if look % PAIRS_PER_LOOK == 0 && slice.is_over() {
                    *key = Some((end, next, met));
                    return (pairs, false);
                }
            }
            (*at, *key) = (end, None);
        }
        (pairs, true)
    }
}
