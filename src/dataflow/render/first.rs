//! The first rows of each group of an input that only grows: they alone are kept, as the group's
//! accumulator.

use arrow::error::ArrowError;
use smallvec::SmallVec;
use timely::dataflow::Stream;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::generic::Operator;

use super::reduce::{GroupChange, Seen, changes};
use super::{Deltas, Renderer, expect_planned};
use crate::dataflow::accumulator::{Accumulator, Slot};
use crate::dataflow::arrange::{GroupUpdate, KeyedUpdate, arrange_groups};
use crate::dataflow::layout::RowLayout;
use crate::model::Tick;
use crate::model::row::Row;
use crate::plan::ir::{NodeId, OrderColumn};

impl<'scope> Renderer<'scope, '_> {
    pub(super) fn first(
        &self,
        input: NodeId,
        key: &[usize],
        order: &[OrderColumn],
        limit: u64,
    ) -> Result<Deltas<'scope>, ArrowError> {
        let schema = self.schema(input);
        let encoder = RowLayout::ordered(&schema, key, order)?;
        let layout = RowLayout::ordered(&schema, key, order)?;
        let groups = arrange_groups(candidates(self.input(input), encoder, limit as u32), "First");
        Ok(changes(groups, Seen::Sums, move |updates| {
            expect_planned(layout.decode(&mut rows(updates)))
        }))
    }
}

/// Each batch's least rows of a group, as those of the group so far.
fn candidates<'scope>(
    stream: Deltas<'scope>,
    layout: RowLayout,
    limit: u32,
) -> Stream<'scope, Tick, Vec<GroupUpdate>> {
    stream.unary(Pipeline, "Candidates", move |_, _| {
        move |input, output| {
            input.for_each(|time, deltas| {
                let mut rows = Vec::new();
                for delta in deltas.drain(..) {
                    expect_planned(layout.encode(&delta, false, &mut rows));
                }
                // Those of one activation are put together before they are exchanged.
                rows.sort_unstable_by(|a, b| (a.1, &a.0).cmp(&(b.1, &b.0)));
                let groups = rows.chunk_by(|a, b| a.1 == b.1 && a.0.0 == b.0.0);
                let mut updates: Vec<GroupUpdate> =
                    groups.map(|group| candidate(group, limit)).collect();
                output.session(&time).give_container(&mut updates);
            });
        }
    })
}

/// What rows of one group, in order, add to it.
fn candidate(group: &[KeyedUpdate], limit: u32) -> GroupUpdate {
    let ((key, first), tick, _) = &group[0];
    let slot = if limit == 1 {
        Slot::LeastBytes(Some(first[..].into()))
    } else {
        let copies = |diff: &i64| usize::try_from(*diff).unwrap_or(0).min(limit as usize);
        let rows = group
            .iter()
            .flat_map(|((_, row), _, diff)| std::iter::repeat_n(row.clone(), copies(diff)));
        Slot::LeastRows { limit, rows: rows.take(limit as usize).collect() }
    };
    let rows = group.iter().map(|(_, _, diff)| diff).sum();
    ((key.clone(), ()), *tick, Accumulator { rows, slots: SmallVec::from_iter([slot]) })
}

/// What changes of the groups' first rows.
fn rows(updates: Vec<GroupChange>) -> Vec<(Row, Row, Tick, i64)> {
    let mut changes: Vec<((Tick, Row, Row), i64)> = Vec::new();
    for (key, accumulator, tick, diff) in updates {
        match accumulator.slots.into_iter().next() {
            Some(Slot::LeastBytes(Some(bytes))) => {
                changes.push(((tick, key, Row::from_slice(&bytes)), diff));
            }
            Some(Slot::LeastRows { rows, .. }) => {
                changes.extend(rows.into_iter().map(|row| ((tick, key.clone(), row), diff)));
            }
            other => unreachable!("a group with rows has a first one, not {other:?}"),
        }
    }
    // A group whose first rows stay the same has only grown.
    differential_dataflow::consolidation::consolidate(&mut changes);
    changes.into_iter().map(|((tick, key, row), diff)| (key, row, tick, diff)).collect()
}
