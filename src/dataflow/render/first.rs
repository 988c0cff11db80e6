//! The first rows of each group of an input that only grows: they alone are kept, as the group's
//! accumulator.

use std::cmp::Ordering;

use arrow::error::ArrowError;
use smallvec::SmallVec;
use timely::dataflow::Stream;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::generic::Operator;

use super::reduce::{GroupChange, Seen, changes};
use super::{Deltas, Renderer, expect_planned};
use crate::aggregate::{Accumulator, FirstRow, FirstRows, KeptRows};
use crate::dataflow::arrange::{GroupUpdate, KeyedUpdate, arrange_groups};
use crate::dataflow::guard::Guard;
use crate::dataflow::layout::RowLayout;
use crate::model::Tick;
use crate::model::multiplicity::Multiplicity;
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
        match limit {
            1 => self.first_rows::<FirstRow>(input, key, order, 1),
            _ => self.first_rows::<FirstRows>(input, key, order, limit as u32),
        }
    }

    fn first_rows<S: KeptRows>(
        &self,
        input: NodeId,
        key: &[usize],
        order: &[OrderColumn],
        limit: u32,
    ) -> Result<Deltas<'scope>, ArrowError> {
        let schema = self.schema(input);
        let encoder = RowLayout::ordered(&schema, key, order)?;
        let layout = RowLayout::ordered(&schema, key, order)?;
        let first = candidates::<S>(self.input(input), encoder, limit, &self.guard);
        let groups = arrange_groups(first, "First", &self.guard);
        Ok(changes(groups, Seen::Sums, &self.guard, move |updates| {
            expect_planned(layout.decode(&mut rows::<S>(updates)))
        }))
    }
}

/// Each batch's least rows of a group, as those of the group so far.
fn candidates<'scope, S: KeptRows>(
    stream: Deltas<'scope>,
    layout: RowLayout,
    limit: u32,
    guard: &Guard,
) -> Stream<'scope, Tick, Vec<GroupUpdate>> {
    let guard = guard.clone();
    stream.unary(Pipeline, "Candidates", move |_, _| {
        move |input, output| {
            let stops = guard.enter();
            input.for_each(|time, deltas| {
                if stops {
                    return deltas.clear();
                }
                let mut rows = Vec::new();
                for delta in deltas.drain(..) {
                    expect_planned(layout.encode(&delta, false, &mut rows));
                }
                // Rows of one activation are put together before they are exchanged.
                rows.sort_unstable_by(|a, b| (a.1, &a.0).cmp(&(b.1, &b.0)));
                let groups = rows.chunk_by(|a, b| a.1 == b.1 && a.0.0 == b.0.0);
                let mut updates: Vec<GroupUpdate> =
                    groups.map(|group| candidate::<S>(group, limit)).collect();
                output.session(&time).give_container(&mut updates);
            });
        }
    })
}

/// The contribution of one group's rows, in order.
fn candidate<S: KeptRows>(group: &[KeyedUpdate], limit: u32) -> GroupUpdate {
    let ((key, _), tick, _) = &group[0];
    let copies = |diff: &Multiplicity| {
        let count = diff.known().unwrap_or(i64::MAX);
        usize::try_from(count).unwrap_or(0).min(limit as usize)
    };
    let rows = group.iter().flat_map(|((_, row), _, diff)| std::iter::repeat_n(row, copies(diff)));
    let slots = SmallVec::from_iter([S::of_rows(rows, limit).into()]);
    let rows = group.iter().map(|(_, _, diff)| *diff).sum();
    ((key.clone(), ()), *tick, Accumulator { rows, slots })
}

/// The changes of the groups' first rows.
fn rows<S: KeptRows>(updates: Vec<GroupChange>) -> Vec<(Row, Row, Tick, i64)> {
    let mut changes = Vec::new();
    // The old state of a group and its new one stand beside each other.
    for change in updates.chunk_by(|a, b| a.2 == b.2 && a.0 == b.0) {
        let (key, tick) = (&change[0].0, change[0].2);
        let rows = |diff: i64| {
            let group = change.iter().filter(move |group| group.3 == diff);
            group.filter_map(|(_, sum, ..)| sum.state::<S>(0)).flat_map(S::rows)
        };
        let (mut before, mut after) = (rows(-1).peekable(), rows(1).peekable());
        loop {
            let order = match (before.peek(), after.peek()) {
                (None, None) => break,
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some(before), Some(after)) => before.cmp(after),
            };
            let gone = if order.is_le() { before.next() } else { None };
            let come = if order.is_ge() { after.next() } else { None };
            let (row, diff) = match (gone, come) {
                (Some(row), None) => (row, -1),
                (None, Some(row)) => (row, 1),
                _ => continue,
            };
            changes.push((key.clone(), Row::from_slice(row), tick, diff));
        }
    }
    changes
}
