//! The first row of each group of an input that only grows: the winner alone is kept, as the
//! group's accumulator.

use std::sync::Arc;

use arrow::error::ArrowError;
use smallvec::SmallVec;
use timely::dataflow::Stream;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::generic::Operator;

use super::reduce::{GroupChange, changes};
use super::{Deltas, Renderer, sound};
use crate::dataflow::accumulator::{Accumulator, Slot};
use crate::dataflow::arrange::{GroupUpdate, arrange_groups};
use crate::dataflow::delta::{Delta, batch};
use crate::dataflow::layout::RowLayout;
use crate::model::Tick;
use crate::plan::ir::{NodeId, OrderColumn};

impl<'scope> Renderer<'scope, '_> {
    pub(super) fn first(
        &self,
        input: NodeId,
        key: &[usize],
        order: &[OrderColumn],
    ) -> Result<Deltas<'scope>, ArrowError> {
        let schema = self.schema(input);
        let encoder = RowLayout::ordered(&schema, key, order)?;
        let layout = RowLayout::ordered(&schema, key, order)?;
        let groups = arrange_groups(candidates(self.input(input), encoder), "First");
        Ok(changes(groups, move |updates| winners(&layout, updates)))
    }
}

/// Each row as the least of its group so far.
fn candidates<'scope>(
    stream: Deltas<'scope>,
    layout: RowLayout,
) -> Stream<'scope, Tick, Vec<GroupUpdate>> {
    stream.unary(Pipeline, "Candidates", move |_, _| {
        move |input, output| {
            input.for_each(|time, deltas| {
                let mut rows = Vec::new();
                for delta in deltas.drain(..) {
                    sound(layout.encode(&delta, false, &mut rows));
                }
                let mut updates: Vec<GroupUpdate> = rows
                    .drain(..)
                    .map(|((key, value), tick, diff)| {
                        let least = Slot::LeastBytes(Some(value[..].into()));
                        let slots = SmallVec::from_iter([least]);
                        ((key, ()), tick, Accumulator { rows: diff, slots })
                    })
                    .collect();
                output.session(&time).give_container(&mut updates);
            });
        }
    })
}

fn winners(layout: &RowLayout, mut updates: Vec<GroupChange>) -> Vec<Delta> {
    // A group whose winner stays the same has only grown.
    updates.sort_by_key(|(_, _, tick, _)| *tick);
    let mut deltas = Vec::new();
    for group in updates.chunk_by(|a, b| a.2 == b.2) {
        let rows = group.iter().map(|(key, accumulator, _, _)| (&key[..], winner(accumulator)));
        let columns = sound(layout.columns(rows));
        deltas.push(Delta {
            rows: sound(batch(Arc::clone(layout.schema()), columns, group.len())),
            diffs: group.iter().map(|(_, _, _, diff)| *diff).collect(),
            positions: None,
            tick: group[0].2,
        });
    }
    deltas
}

fn winner(accumulator: &Accumulator) -> &[u8] {
    match accumulator.slots.first() {
        Some(Slot::LeastBytes(Some(bytes))) => bytes,
        other => unreachable!("a group with rows has a first one, not {other:?}"),
    }
}
