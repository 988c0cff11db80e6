//! Each left row with the nearest right row of its key: ASOF joins.
//!
//! Both sides are held in order. A right row that comes or goes concerns the left rows from its place
//! up to the next right row's, and no others.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, new_null_array};
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use timely::dataflow::channels::pact::Exchange;
use timely::dataflow::operators::Capability;
use timely::dataflow::operators::generic::Operator;
use timely::progress::frontier::MutableAntichain;
use timely::scheduling::Activator;

use super::pending::{PendingTicks, in_order};
use super::{Deltas, Renderer, expect_planned};
use crate::dataflow::arrange::owner;
use crate::dataflow::delta::{Delta, batch};
use crate::dataflow::guard::{Account, Slice};
use crate::dataflow::ordered::{Ordered, RowUpdate, by_key};
use crate::dataflow::partition::{HeldRow, Partition, RowPlace};
use crate::dataflow::reached::{ReachedSpan, merged};
use crate::dataflow::reclaim::free_elsewhere;
use crate::model::Tick;
use crate::model::row::Row;
use crate::plan::ir::{JoinKeys, NodeId, OrderColumn};

/// The search's parameters; see [`crate::plan::ir::Op::Nearest`].
pub struct NearestParameters<'a> {
    pub on: &'a JoinKeys,
    pub at: usize,
    pub order: &'a [OrderColumn],
    pub strict: bool,
    pub outer: bool,
}

/// Changes of both sides, each with its key.
#[derive(Default)]
struct SideChanges {
    left: Vec<(Row, HeldRow)>,
    right: Vec<(Row, HeldRow)>,
}

impl<'scope> Renderer<'scope, '_> {
    pub(super) fn nearest(
        &self,
        id: NodeId,
        left: NodeId,
        right: NodeId,
        nearest: &NearestParameters<'_>,
    ) -> Result<Deltas<'scope>, ArrowError> {
        let (left_schema, right_schema) = (self.schema(left), self.schema(right));
        let place = OrderColumn { column: nearest.at, ..nearest.order[0] };
        // Without a match a left row is kept beside NULLs, also when it has none to be matched by.
        let lefts = || Ordered::new(&left_schema, &nearest.on.left, &[place], 1, !nearest.outer);
        let rights = || Ordered::new(&right_schema, &nearest.on.right, nearest.order, 1, true);
        let mut search = NearestSearch {
            left: lefts()?,
            right: rights()?,
            schema: self.schema(id),
            strict: nearest.strict,
            outer: nearest.outer,
            keys: HashMap::new(),
            account: self.guard.account(false),
        };
        let guard = self.guard.clone();
        let left = in_order(self.kept_input(left)?, lefts()?, &guard);
        let right = in_order(self.kept_input(right)?, rights()?, &guard);
        let activations = self.scope.activations();
        let workers = self.scope.peers();
        let exchange = || Exchange::new(move |(key, _, _): &RowUpdate| owner(key.hash(), workers));
        let pairs = left.binary_frontier(
            right,
            exchange(),
            exchange(),
            "Nearest",
            move |capability, info| {
                let activator = Activator::new(info.address, activations);
                let mut pending: PendingTicks<SideChanges> = PendingTicks::new(capability);
                // The tick that is being computed, and the keys that are left of it.
                let mut current: Option<(Capability<Tick>, ChangedSides)> = None;
                move |(left, left_frontier), (right, right_frontier), output| {
                    let stops = guard.enter();
                    left.for_each(|_, updates: &mut Vec<RowUpdate>| {
                        for (key, row, tick) in updates.drain(..).filter(|_| !stops) {
                            pending.at(tick).left.push((key.row, row));
                        }
                    });
                    right.for_each(|_, updates: &mut Vec<RowUpdate>| {
                        for (key, row, tick) in updates.drain(..).filter(|_| !stops) {
                            pending.at(tick).right.push((key.row, row));
                        }
                    });
                    if stops {
                        current = None;
                        free_elsewhere(std::mem::take(&mut search.keys));
                        search.account.set(0);
                        return pending.stop();
                    }
                    let frontier = earliest(left_frontier, right_frontier);
                    let slice = guard.slice();
                    while !slice.is_over() {
                        if current.is_none() {
                            let next = pending.take(|t| frontier.is_none_or(|f| t < f));
                            current = next.map(|(at, changes)| (at, changes.by_key()));
                        }
                        let Some((at, keys)) = &mut current else { break };
                        let found = search.step(*at.time(), keys, &slice);
                        output.session(&*at).give_iterator(found.into_iter());
                        if keys.len() == 0 {
                            current = None;
                        }
                    }
                    if current.is_some() || slice.is_over() {
                        activator.activate();
                    }
                    pending.downgrade(frontier);
                }
            },
        );
        Ok(self.behind_kept(pairs))
    }
}

/// Keys whose rows change at a tick, with the changes of the left and the right side.
type ChangedSides = std::collections::hash_map::IntoIter<Row, (Vec<HeldRow>, Vec<HeldRow>)>;

impl SideChanges {
    fn by_key(self) -> ChangedSides {
        let mut keys: HashMap<Row, (Vec<HeldRow>, Vec<HeldRow>)> = HashMap::new();
        for (key, rows) in by_key(self.left) {
            keys.entry(key).or_default().0 = rows;
        }
        for (key, rows) in by_key(self.right) {
            keys.entry(key).or_default().1 = rows;
        }
        keys.into_iter()
    }
}

/// The first tick that one of two inputs may still have changes of.
fn earliest(left: &MutableAntichain<Tick>, right: &MutableAntichain<Tick>) -> Option<Tick> {
    left.frontier().iter().chain(right.frontier().iter()).min().copied()
}

/// The rows of one key.
#[derive(Default)]
struct KeySides {
    left: Partition<()>,
    right: Partition<()>,
}

/// A pair of rows: key, left row, right row.
type NearestPair = (Row, Row, Option<Row>);

struct NearestSearch {
    left: Ordered,
    right: Ordered,
    schema: SchemaRef,
    strict: bool,
    outer: bool,
    keys: HashMap<Row, KeySides>,
    account: Account,
}

impl NearestSearch {
    /// Applies a tick's changes of some keys and gives those of the pairs.
    fn step(&mut self, tick: Tick, keys: &mut ChangedSides, slice: &Slice) -> Option<Delta> {
        let mut pairs: Vec<(NearestPair, i64)> = Vec::new();
        while !slice.is_over()
            && let Some((key, (left, right))) = keys.next()
        {
            self.change(&key, &left, &right, &mut pairs);
        }
        differential_dataflow::consolidation::consolidate(&mut pairs);
        (!pairs.is_empty()).then(|| expect_planned(self.delta(tick, &pairs)))
    }

    fn change(
        &mut self,
        key: &Row,
        left: &[HeldRow],
        right: &[HeldRow],
        out: &mut Vec<(NearestPair, i64)>,
    ) {
        let sides = self.keys.entry(key.clone()).or_default();
        let search = Places { strict: self.strict, outer: self.outer };
        let mut spans = search.concerned(&sides.right, right);
        let mut bytes: isize = right.iter().map(|row| sides.right.add(row)).sum();
        spans.extend(search.concerned(&sides.right, right));
        let spans = merged(spans);
        bytes += right.iter().map(|row| sides.right.add(&row.negated())).sum::<isize>();
        search.pairs(key, sides, &spans, left, -1, out);
        bytes += right.iter().map(|row| sides.right.add(row)).sum::<isize>();
        bytes += left.iter().map(|row| sides.left.add(row)).sum::<isize>();
        self.account.add(bytes);
        search.pairs(key, sides, &spans, left, 1, out);
        if sides.left.is_empty() && sides.right.is_empty() {
            self.keys.remove(key);
        }
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
struct Places {
    strict: bool,
    outer: bool,
}

impl Places {
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
        sides: &KeySides,
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
            left.rows(first, end).for_each(|(_, held)| give(held));
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
