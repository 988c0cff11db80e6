//! GROUP BY and DISTINCT: accumulators in the difference, one update of state per group.

use std::rc::Rc;
use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray};
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use differential_dataflow::difference::Semigroup;
use differential_dataflow::operators::arrange::Arranged;
use timely::dataflow::Stream;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::generic::Operator;

use super::changes::{ChangeWork, on_changes};
use super::{Deltas, Renderer, expect_planned};
use crate::aggregate::Accumulator;
use crate::dataflow::accumulator::AccumulatorLayout;
use crate::dataflow::arrange::{GroupTrace, GroupUpdate, arrange_groups};
use crate::dataflow::delta::{Delta, batch};
use crate::dataflow::failure::FailureStream;
use crate::dataflow::group_rows::{GroupChange, GroupFinish};
use crate::dataflow::groups::Grouper;
use crate::dataflow::guard::{Guard, Slice};
use crate::dataflow::run::RunsCursor;
use crate::model::Tick;
use crate::model::row::{Row, RowCodec};
use crate::plan::ir::{Aggregate, NodeId};

impl<'scope> Renderer<'scope, '_> {
    pub(super) fn reduce(
        &self,
        id: NodeId,
        input: NodeId,
        key: &[usize],
        aggregates: &[Aggregate],
    ) -> Result<Deltas<'scope>, ArrowError> {
        let layout = Rc::new(AccumulatorLayout::new(aggregates)?);
        let input_schema = self.schema(input);
        let grouper = Grouper::new(&input_schema, key, Rc::clone(&layout))?;
        let groups = grouped(self.input(input), grouper, &self.guard);
        let groups = arrange_groups(groups, "Reduce", &self.guard);
        let types: Vec<_> =
            key.iter().map(|c| input_schema.field(*c).data_type().clone()).collect();
        let finish = Finish {
            key: RowCodec::new(&types)?,
            layout,
            texts: aggregates.iter().map(|a| Arc::clone(&a.text)).collect(),
            schema: self.schema(id),
        };
        let seen = if aggregates.is_empty() { Seen::Presence } else { Seen::Sums };
        Ok(self.group_changes(id, groups, seen, move |updates, failures| {
            finish.deltas(updates, failures)
        }))
    }

    /// The changes of the rows that `finish` makes of a node's groups, which the view's rows may be read from.
    pub(super) fn group_changes(
        &self,
        id: NodeId,
        groups: Arranged<'scope, GroupTrace>,
        seen: Seen,
        finish: impl Fn(Vec<GroupChange>, &FailureStream) -> Vec<Delta> + 'static,
    ) -> Deltas<'scope> {
        let finish: GroupFinish = Rc::new(finish);
        self.keep_groups(id, &groups, &finish);
        let failures = self.failures.clone();
        changes(groups, seen, &self.guard, move |updates| finish(updates, &failures))
    }

    /// The distinct values of some columns of a node, as a stream of their own.
    pub(super) fn distinct_keys(
        &self,
        input: NodeId,
        key: &[usize],
    ) -> Result<Deltas<'scope>, ArrowError> {
        let layout = Rc::new(AccumulatorLayout::new(&[])?);
        let grouper = Grouper::new(&self.schema(input), key, Rc::clone(&layout))?;
        let groups = grouped(self.input(input), grouper, &self.guard);
        let groups = arrange_groups(groups, "Distinct keys", &self.guard);
        let schema = self.key_schema(input, key);
        let types: Vec<_> = schema.fields().iter().map(|f| f.data_type().clone()).collect();
        let finish = Finish { key: RowCodec::new(&types)?, layout, texts: Vec::new(), schema };
        let failures = self.failures.clone();
        Ok(changes(groups, Seen::Presence, &self.guard, move |updates| {
            finish.deltas(updates, &failures)
        }))
    }

    /// The schema of some columns of a node.
    pub(super) fn key_schema(&self, input: NodeId, key: &[usize]) -> SchemaRef {
        let schema = self.schema(input);
        let fields: Vec<_> = key.iter().map(|c| Arc::clone(&schema.fields()[*c])).collect();
        Arc::new(arrow::datatypes::Schema::new(fields))
    }
}

/// Folds each activation's rows into groups before they are exchanged.
pub(super) fn grouped<'scope>(
    stream: Deltas<'scope>,
    mut grouper: Grouper,
    guard: &Guard,
) -> Stream<'scope, Tick, Vec<GroupUpdate>> {
    let guard = guard.clone();
    stream.unary(Pipeline, "Group", move |_, _| {
        move |input, output| {
            let stops = guard.enter();
            input.for_each_stamp(|time, containers| {
                if stops {
                    return containers.for_each(Vec::clear);
                }
                let mut updates = Vec::new();
                for delta in containers.flat_map(|c| c.drain(..)) {
                    expect_planned(grouper.push(&delta, &mut updates));
                }
                grouper.flush(&mut updates);
                output.session(&time).give_container(&mut updates);
            });
        }
    })
}

/// Which change of a group produces output: its presence, or its sums.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Seen {
    /// Whether it is there.
    Presence,
    /// The sum of its rows' accumulators.
    Sums,
}

/// For each group that changes: what it was, taken away, and what it is, added.
pub(super) fn changes<'scope>(
    groups: Arranged<'scope, GroupTrace>,
    seen: Seen,
    guard: &Guard,
    finish: impl Fn(Vec<GroupChange>) -> Vec<Delta> + 'static,
) -> Deltas<'scope> {
    let finish = Rc::new(finish);
    on_changes(groups, "Changes of groups", guard, move |batches, history| ChangedGroups {
        new: RunsCursor::new(batches),
        old: RunsCursor::new(history),
        seen,
        finish: Rc::clone(&finish),
    })
}

/// Groups that change, from the one on that is next.
struct ChangedGroups<F> {
    new: RunsCursor<Accumulator>,
    old: RunsCursor<Accumulator>,
    seen: Seen,
    finish: Rc<F>,
}

impl<F: Fn(Vec<GroupChange>) -> Vec<Delta>> ChangeWork for ChangedGroups<F> {
    fn run(&mut self, slice: &Slice) -> (Vec<Delta>, bool) {
        let (new, old) = (&mut self.new, &mut self.old);
        let mut updates = Vec::new();
        let mut groups = 0;
        while let Some(key) = new.key() {
            let mut sum = Accumulator::default();
            old.seek_key(key);
            if old.key() == Some(key) {
                old.updates().for_each(|(_, diff)| sum.plus_equals(&diff));
            }
            let mut steps: Vec<(Tick, Accumulator)> = new.updates().collect();
            steps.sort_by_key(|(tick, _)| *tick);
            for step in steps.chunk_by(|a, b| a.0 == b.0) {
                let before = sum.clone();
                step.iter().for_each(|(_, diff)| sum.plus_equals(diff));
                let stays = self.seen == Seen::Presence && before.is_there() == sum.is_there();
                if !stays {
                    changed(key.bytes, before, &sum, step[0].0, &mut updates);
                }
            }
            new.next_key();
            groups += 1;
            if groups == GROUPS_AT_ONCE || groups % GROUPS_PER_LOOK == 0 && slice.is_over() {
                break;
            }
        }
        ((self.finish)(updates), new.key().is_none())
    }
}

/// Number of groups that become rows at a time.
const GROUPS_AT_ONCE: usize = 1 << 12;
/// Number of groups after which the time is looked at.
const GROUPS_PER_LOOK: usize = 256;

fn changed(
    key: &[u8],
    before: Accumulator,
    after: &Accumulator,
    tick: Tick,
    updates: &mut Vec<GroupChange>,
) {
    if before == *after {
        return;
    }
    debug_assert!(
        !after.rows.is_zero() || after.slots.iter().all(|s| s.is_zero() || !s.takes_back())
    );
    if before.is_there() {
        updates.push((Row::from_slice(key), before, tick, -1));
    }
    if after.is_there() {
        updates.push((Row::from_slice(key), after.clone(), tick, 1));
    }
}

/// Turns groups into rows: the key's columns and the aggregates'.
struct Finish {
    key: RowCodec,
    layout: Rc<AccumulatorLayout>,
    texts: Vec<Arc<str>>,
    schema: SchemaRef,
}

impl Finish {
    fn deltas(&self, mut updates: Vec<GroupChange>, failures: &FailureStream) -> Vec<Delta> {
        updates.sort_by_key(|(_, _, tick, _)| *tick);
        let groups = updates.chunk_by(|a, b| a.2 == b.2);
        groups.map(|group| self.delta(group, failures)).filter(|delta| !delta.is_empty()).collect()
    }

    fn delta(&self, group: &[GroupChange], failures: &FailureStream) -> Delta {
        let mut columns: Vec<ArrayRef> =
            expect_planned(self.key.decode(group.iter().map(|g| &g.0[..])));
        let accumulators: Vec<&Accumulator> = group.iter().map(|g| &g.1).collect();
        for group in &accumulators {
            failures.known(group.rows);
        }
        let (aggregates, overflows) = expect_planned(self.layout.columns(&accumulators));
        columns.extend(aggregates);
        let delta = Delta {
            rows: expect_planned(batch(Arc::clone(&self.schema), columns, group.len())),
            diffs: group.iter().map(|g| g.3).collect(),
            positions: None,
            tick: group[0].2,
        };
        if overflows.is_empty() {
            return delta;
        }
        let mut keep = vec![true; group.len()];
        for overflow in overflows {
            // A row fails once, by its first aggregate that does.
            if std::mem::replace(&mut keep[overflow.row], false) {
                let text = &self.texts[overflow.aggregate];
                let (_, _, tick, diff) = group[overflow.row];
                failures.record(text, overflow.reason, None, (tick, diff));
            }
        }
        expect_planned(delta.filter(&BooleanArray::from(keep)))
    }
}
