//! Inner, semi and anti joins over arranged rows.

use std::sync::Arc;

use arrow::array::ArrayRef;
use arrow::error::ArrowError;
use differential_dataflow::operators::arrange::Arranged;
use timely::dataflow::Stream;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::core::Concat;
use timely::dataflow::operators::generic::Operator;

use super::pairs::{self, JoinedPairs, PairsAt};
use super::{Deltas, Renderer, encoded, expect_planned, map};
use crate::dataflow::arrange::{Placement, RowTrace, arrange_placed};
use crate::dataflow::delta::{Delta, batch};
use crate::dataflow::failure::FailureStream;
use crate::dataflow::guard::Guard;
use crate::dataflow::layout::RowLayout;
use crate::dataflow::run::RunsCursor;
use crate::model::Tick;
use crate::plan::ir::{JoinKeys, NodeId};

impl<'scope> Renderer<'scope, '_> {
    /// A node's rows, arranged by some of their columns, for all who ask for that.
    pub(super) fn arranged(
        &self,
        input: NodeId,
        key: &[usize],
        skip_null_keys: bool,
        placement: Placement,
    ) -> Result<(Arranged<'scope, RowTrace>, RowLayout), ArrowError> {
        let schema = self.schema(input);
        let layout = RowLayout::new(&schema, key)?;
        let id = (input, key.to_vec(), skip_null_keys, placement);
        if let Some(known) = self.arranged.borrow().get(&id) {
            return Ok((known.clone(), layout));
        }
        let encoder = RowLayout::new(&schema, key)?;
        let rows = keyed(self.input(input), encoder, skip_null_keys, &self.guard);
        let arranged = arrange_placed(rows, "Arrange", placement, &self.guard);
        self.arranged.borrow_mut().insert(id, arranged.clone());
        Ok((arranged, layout))
    }

    /// Where the sides of a join meet. Without a key all rows of one side meet all of the other: the
    /// one that has at most one row goes to the rows of the other, wherever those are.
    fn placements(&self, left: NodeId, on: &JoinKeys) -> (Placement, Placement) {
        if !on.left.is_empty() {
            return (Placement::ByKey, Placement::ByKey);
        }
        if self.plan.nodes[left].keys.iter().any(Vec::is_empty) {
            return (Placement::Everywhere, Placement::Spread);
        }
        (Placement::Spread, Placement::Everywhere)
    }

    pub(super) fn join(
        &self,
        id: NodeId,
        left: NodeId,
        right: NodeId,
        on: &JoinKeys,
    ) -> Result<Deltas<'scope>, ArrowError> {
        let schema = self.schema(id);
        let (left_place, right_place) = self.placements(left, on);
        let (left, left_layout) = self.arranged(left, &on.left, !on.nulls_equal, left_place)?;
        let (right, right_layout) =
            self.arranged(right, &on.right, !on.nulls_equal, right_place)?;
        let pairs = pairs::join::<_, RunsCursor<_>>(left, right, "Join", &self.guard);
        Ok(decoded(pairs, &self.guard, self.failures.clone(), move |group| {
            let mut columns: Vec<ArrayRef> = left_layout.columns(group.lefts())?;
            columns.extend(right_layout.columns(group.rights())?);
            batch(Arc::clone(&schema), columns, group.len())
        }))
    }

    pub(super) fn semi_join(
        &self,
        left: NodeId,
        right: NodeId,
        on: &JoinKeys,
        anti: bool,
    ) -> Result<Deltas<'scope>, ArrowError> {
        let schema = self.schema(left);
        let skip_null_keys = !on.nulls_equal;
        let (left_place, right_place) = self.placements(left, on);
        let (arranged, layout) = self.arranged(left, &on.left, skip_null_keys, left_place)?;
        let keys = self.distinct_keys(right, &on.right)?;
        let key_schema = self.key_schema(right, &on.right);
        let all: Vec<usize> = (0..on.right.len()).collect();
        let encoder = RowLayout::new(&key_schema, &all)?;
        let keys = keyed(keys, encoder, skip_null_keys, &self.guard);
        let keys = arrange_placed(keys, "Arrange keys", right_place, &self.guard);
        let pairs = pairs::join::<_, RunsCursor<_>>(arranged, keys, "SemiJoin", &self.guard);
        let matched = decoded(pairs, &self.guard, self.failures.clone(), move |group| {
            batch(Arc::clone(&schema), layout.columns(group.lefts())?, group.len())
        });
        if !anti {
            return Ok(matched);
        }
        let taken = map(matched, "Negate", |delta| vec![delta.negated()]);
        Ok(self.input(left).concat(taken))
    }
}

/// Encodes rows for an arrangement.
pub fn keyed<'scope>(
    stream: Deltas<'scope>,
    layout: RowLayout,
    skip_null_keys: bool,
    guard: &Guard,
) -> Stream<'scope, Tick, Vec<crate::dataflow::arrange::KeyedUpdate>> {
    encoded(stream, guard, move |delta, updates| layout.encode(delta, skip_null_keys, updates))
}

/// Turns pairs back into columns, one delta per tick.
pub fn decoded<'scope>(
    pairs: Stream<'scope, Tick, JoinedPairs<Tick>>,
    guard: &Guard,
    failures: FailureStream,
    decode: impl Fn(&PairsAt<'_, Tick>) -> Result<arrow::array::RecordBatch, ArrowError> + 'static,
) -> Deltas<'scope> {
    let guard = guard.clone();
    pairs.unary(Pipeline, "Decode", move |_, _| {
        move |input, output| {
            let stops = guard.enter();
            input.for_each(|time, pairs| {
                if stops {
                    return pairs.clear();
                }
                let mut session = output.session(&time);
                for group in pairs.by_time() {
                    session.give(Delta {
                        rows: expect_planned(decode(&group)),
                        diffs: group.times().map(|(_, diff)| failures.known(diff)).collect(),
                        positions: None,
                        tick: group.times().next().map_or(0, |(tick, _)| *tick),
                    });
                }
                pairs.clear();
            });
        }
    })
}
