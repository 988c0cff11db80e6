//! The first rows of each group of an input that only grows: they alone are kept, as the group's
//! accumulator.

use std::cmp::Ordering;
use std::sync::Arc;

use arrow::array::Int64Array;
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use smallvec::SmallVec;
use timely::dataflow::Stream;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::generic::Operator;

use super::reduce::Seen;
use super::{Deltas, Renderer, expect_planned};
use crate::aggregate::{Accumulator, FirstRow, FirstRows, KeptRows};
use crate::dataflow::arrange::{GroupUpdate, KeyedUpdate, arrange_groups};
use crate::dataflow::delta::Delta;
use crate::dataflow::group_rows::GroupChange;
use crate::dataflow::guard::Guard;
use crate::dataflow::layout::RowLayout;
use crate::model::Tick;
use crate::model::multiplicity::Multiplicity;
use crate::model::row::Row;
use crate::plan::ir::{NodeId, OrderColumn};

impl<'scope> Renderer<'scope, '_> {
    pub(super) fn first(
        &self,
        id: NodeId,
        input: NodeId,
        key: &[usize],
        order: &[OrderColumn],
        limit: u64,
        numbered: bool,
    ) -> Result<Deltas<'scope>, ArrowError> {
        match limit {
            1 => self.first_rows::<FirstRow>(id, input, key, order, 1, numbered),
            _ => self.first_rows::<FirstRows>(id, input, key, order, limit as u32, numbered),
        }
    }

    fn first_rows<S: KeptRows>(
        &self,
        id: NodeId,
        input: NodeId,
        key: &[usize],
        order: &[OrderColumn],
        limit: u32,
        numbered: bool,
    ) -> Result<Deltas<'scope>, ArrowError> {
        let schema = self.schema(input);
        let encoder = RowLayout::ordered(&schema, key, order)?;
        let layout = RowLayout::ordered(&schema, key, order)?;
        let first = candidates::<S>(self.input(input), encoder, limit, &self.guard);
        let groups = arrange_groups(first, "First", &self.guard);
        let with_numbers = self.schema(id);
        Ok(self.group_changes(id, groups, Seen::Sums, move |updates, _| match numbered {
            true => expect_planned(numbered_rows::<S>(updates, &layout, &with_numbers)),
            false => expect_planned(layout.decode(&mut rows::<S>(updates))),
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

/// The changes of the groups' first rows, each with its number in its group.
fn numbered_rows<S: KeptRows>(
    mut updates: Vec<GroupChange>,
    layout: &RowLayout,
    schema: &SchemaRef,
) -> Result<Vec<Delta>, ArrowError> {
    // The rows are decoded tick by tick: numbers are to be in the same order.
    updates.sort_by_key(|(_, _, tick, _)| *tick);
    let (mut changes, mut numbers) = (Vec::new(), Vec::new());
    for change in updates.chunk_by(|a, b| a.2 == b.2 && a.0 == b.0) {
        let (key, tick) = (&change[0].0, change[0].2);
        let (mut before, mut after) = (first_rows::<S>(change, -1), first_rows::<S>(change, 1));
        for number in 1.. {
            let (gone, come) = (before.next(), after.next());
            if gone.is_none() && come.is_none() {
                break;
            }
            if gone == come {
                continue;
            }
            for (row, diff) in gone.map(|row| (row, -1)).into_iter().chain(come.map(|row| (row, 1)))
            {
                changes.push((key.clone(), Row::from_slice(row), tick, diff));
                numbers.push(number);
            }
        }
    }
    let mut numbers = numbers.into_iter();
    let numbered = |delta: Delta| {
        let mut columns = delta.rows.columns().to_vec();
        let number = Int64Array::from_iter_values(numbers.by_ref().take(delta.len()));
        columns.push(Arc::new(number));
        delta.with_columns(Arc::clone(schema), columns)
    };
    layout.decode(&mut changes)?.into_iter().map(numbered).collect()
}

/// The first rows of a group before (-1) or after (1) a change.
fn first_rows<'a, S: KeptRows + 'a>(
    change: &'a [GroupChange],
    diff: i64,
) -> impl Iterator<Item = &'a [u8]> {
    let group = change.iter().filter(move |group| group.3 == diff);
    group.filter_map(|(_, sum, ..)| sum.state::<S>(0)).flat_map(S::rows)
}

/// The changes of the groups' first rows.
fn rows<S: KeptRows>(updates: Vec<GroupChange>) -> Vec<(Row, Row, Tick, i64)> {
    let mut changes = Vec::new();
    // The old state of a group and its new one stand beside each other.
    for change in updates.chunk_by(|a, b| a.2 == b.2 && a.0 == b.0) {
        let (key, tick) = (&change[0].0, change[0].2);
        let mut before = first_rows::<S>(change, -1).peekable();
        let mut after = first_rows::<S>(change, 1).peekable();
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
