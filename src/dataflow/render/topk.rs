//! The first rows of each group in order, of an input that may take rows back.
//!
//! A group's rows are arranged in order, so the first ones are read from the front of the
//! arrangement: a change costs what the rows in front of it cost, not the group.

use std::rc::Rc;
use std::sync::Arc;

use arrow::error::ArrowError;
use differential_dataflow::operators::arrange::Arranged;

use super::changes::{ChangeWork, on_changes};
use super::join::keyed;
use super::{Deltas, Renderer, expect_planned};
use crate::dataflow::arrange::{HeldAs, RowTrace, arrange_rows};
use crate::dataflow::delta::Delta;
use crate::dataflow::failure::FailureStream;
use crate::dataflow::guard::{Guard, Slice};
use crate::dataflow::layout::RowLayout;
use crate::dataflow::run::RunsCursor;
use crate::model::Tick;
use crate::model::multiplicity::Multiplicity;
use crate::model::row::Row;
use crate::plan::ir::{NodeId, OrderColumn};

/// Which of a group's rows, in order and with their multiplicities, are the output.
trait Pick {
    /// Number of rows from the front that decide the output; `None`: all of them.
    fn depth(&self) -> Option<u64>;
    /// The output, of the rows up to `depth`.
    fn pick(&self, rows: &[(Row, i64)]) -> Vec<(Row, i64)>;
    /// Told when a group's rows change at a tick from `before` to `after`.
    fn observe(&self, _tick: Tick, _before: &[(Row, i64)], _after: &[(Row, i64)]) {}
}

impl<'scope> Renderer<'scope, '_> {
    pub(super) fn top_k(
        &self,
        input: NodeId,
        key: &[usize],
        order: &[OrderColumn],
        offset: u64,
        limit: Option<u64>,
    ) -> Result<Deltas<'scope>, ArrowError> {
        self.ranked(input, key, order, Window { offset, limit })
    }

    pub(super) fn assert_key(
        &self,
        input: NodeId,
        key: &[usize],
    ) -> Result<Deltas<'scope>, ArrowError> {
        let schema = self.schema(input);
        let names: Vec<&str> = key.iter().map(|c| schema.field(*c).name().as_str()).collect();
        let text = format!("key ({})", names.join(", ")).into();
        self.ranked(input, key, &[], Unique { text, failures: self.failures.clone() })
    }

    fn ranked(
        &self,
        input: NodeId,
        key: &[usize],
        order: &[OrderColumn],
        pick: impl Pick + 'static,
    ) -> Result<Deltas<'scope>, ArrowError> {
        let schema = self.schema(input);
        let encoder = RowLayout::ordered(&schema, key, order)?;
        let layout = RowLayout::ordered(&schema, key, order)?;
        let rows = keyed(self.input(input), encoder, false, &self.guard);
        let rows = arrange_rows(rows, "TopK", &self.guard, HeldAs::State);
        Ok(ranked(rows, layout, pick, self.failures.clone(), &self.guard))
    }
}

/// The rows `offset .. offset + limit`.
struct Window {
    offset: u64,
    limit: Option<u64>,
}

impl Pick for Window {
    fn depth(&self) -> Option<u64> {
        self.limit.map(|limit| self.offset.saturating_add(limit))
    }

    fn pick(&self, rows: &[(Row, i64)]) -> Vec<(Row, i64)> {
        let mut picked = Vec::new();
        let (from, to) = (self.offset as i128, self.depth().map_or(i128::MAX, i128::from));
        let mut at = 0_i128;
        for (row, count) in rows {
            let next = at + i128::from(*count);
            let inside = next.min(to) - at.max(from);
            if inside > 0 {
                picked.push((row.clone(), inside as i64));
            }
            at = next;
        }
        picked
    }
}

/// The only row of its group; two or more are failures, all of them.
struct Unique {
    text: Arc<str>,
    failures: FailureStream,
}

impl Unique {
    fn failing(rows: &[(Row, i64)]) -> i64 {
        let count = rows.iter().fold(0_i64, |sum, (_, count)| sum.saturating_add(*count));
        if count > 1 { count } else { 0 }
    }
}

impl Pick for Unique {
    fn depth(&self) -> Option<u64> {
        None
    }

    fn pick(&self, rows: &[(Row, i64)]) -> Vec<(Row, i64)> {
        if Unique::failing(rows) == 0 { rows.to_vec() } else { Vec::new() }
    }

    fn observe(&self, tick: Tick, before: &[(Row, i64)], after: &[(Row, i64)]) {
        let change = Unique::failing(after) - Unique::failing(before);
        if change != 0 {
            let reason = "more than one row has this key";
            self.failures.record(&self.text, reason, None, (tick, change));
        }
    }
}

/// A row of a group with its changes.
type RowChanges = (Row, Vec<(Tick, i64)>);

fn ranked<'scope>(
    rows: Arranged<'scope, RowTrace>,
    layout: RowLayout,
    pick: impl Pick + 'static,
    failures: FailureStream,
    guard: &Guard,
) -> Deltas<'scope> {
    let ranking = Rc::new(Ranking { layout, pick, failures });
    on_changes(rows, "TopK", guard, move |batches, history| RankedGroups {
        new: RunsCursor::new(batches),
        old: RunsCursor::new(history),
        open: None,
        ranking: Rc::clone(&ranking),
    })
}

/// How groups are ranked.
struct Ranking<P> {
    layout: RowLayout,
    pick: P,
    failures: FailureStream,
}

/// Groups that change: the one that is being ranked, and those from the one on that is next.
struct RankedGroups<P> {
    new: RunsCursor<Multiplicity>,
    old: RunsCursor<Multiplicity>,
    open: Option<Group>,
    ranking: Rc<Ranking<P>>,
}

impl<P: Pick> ChangeWork for RankedGroups<P> {
    fn run(&mut self, slice: &Slice) -> (Vec<Delta>, bool) {
        let ranking = Rc::clone(&self.ranking);
        let mut updates = Vec::new();
        while !slice.is_over() {
            let Some(mut group) = self.open.take().or_else(|| self.next_group()) else {
                return (expect_planned(ranking.layout.decode(&mut updates)), true);
            };
            let failures = &ranking.failures;
            let old = &mut self.old;
            let mut next = || {
                let row = Row::from_slice(old.value()?);
                let count = old.updates().map(|(_, diff)| diff).sum();
                old.next_value();
                Some((row, failures.known(count)))
            };
            if !group.run(&ranking.pick, &mut next, &mut updates, slice) {
                self.open = Some(group);
            }
        }
        (expect_planned(ranking.layout.decode(&mut updates)), false)
    }
}

impl<P> RankedGroups<P> {
    fn next_group(&mut self) -> Option<Group> {
        let (new, old, failures) = (&mut self.new, &mut self.old, &self.ranking.failures);
        let key = new.key()?;
        old.seek_key(key);
        let done = old.key() != Some(key);
        let key = Row::from_slice(key.bytes);
        let mut changes: Vec<RowChanges> = Vec::new();
        while let Some(row) = new.value() {
            let row = Row::from_slice(row);
            let times = new.updates().map(|(tick, diff)| (tick, failures.known(diff)));
            changes.push((row, times.collect()));
            new.next_value();
        }
        new.next_key();
        let times = changes.iter().flat_map(|(_, times)| times);
        let mut ticks: Vec<Tick> = times.map(|(tick, _)| *tick).collect();
        ticks.sort_unstable();
        ticks.dedup();
        let history = GroupHistory { ahead: Vec::new(), done };
        Some(Group { key, changes, ticks: ticks.into_iter(), before: None, history })
    }
}

/// The rows that a group had before, read from the front as far as they are needed.
struct GroupHistory {
    ahead: Vec<(Row, i64)>,
    done: bool,
}

/// A group that changes.
struct Group {
    key: Row,
    changes: Vec<RowChanges>,
    /// When it changes, from the tick on that is next.
    ticks: std::vec::IntoIter<Tick>,
    /// The rows in front before that tick, once they are known.
    before: Option<Vec<(Row, i64)>>,
    history: GroupHistory,
}

impl Group {
    /// Goes on from tick to tick until the slice is over; true when it is through.
    fn run(
        &mut self,
        pick: &impl Pick,
        next: &mut impl FnMut() -> Option<(Row, i64)>,
        updates: &mut Vec<(Row, Row, Tick, i64)>,
        slice: &Slice,
    ) -> bool {
        let mut before = match self.before.take() {
            Some(before) => before,
            None => self.front(None, pick.depth(), next),
        };
        while let Some(tick) = self.ticks.next() {
            let after = self.front(Some(tick), pick.depth(), next);
            pick.observe(tick, &before, &after);
            let gone = pick.pick(&before).into_iter().map(|(row, count)| (row, -count));
            let mut change: Vec<(Row, i64)> = gone.chain(pick.pick(&after)).collect();
            differential_dataflow::consolidation::consolidate(&mut change);
            let key = &self.key;
            updates.extend(change.into_iter().map(|(row, diff)| (key.clone(), row, tick, diff)));
            before = after;
            if slice.is_over() && self.ticks.len() > 0 {
                self.before = Some(before);
                return false;
            }
        }
        true
    }

    /// The rows in front as of `tick` (`None`: before all changes), enough to count `depth` of them.
    fn front(
        &mut self,
        tick: Option<Tick>,
        depth: Option<u64>,
        next: &mut impl FnMut() -> Option<(Row, i64)>,
    ) -> Vec<(Row, i64)> {
        let mut front: Vec<(Row, i64)> = Vec::new();
        let mut count = 0_i128;
        let (mut old, mut new) = (0, 0);
        while depth.is_none_or(|depth| count < i128::from(depth)) {
            if old == self.history.ahead.len() && !self.history.done {
                match next() {
                    Some(row) => self.history.ahead.push(row),
                    None => self.history.done = true,
                }
            }
            let (was, change) = (self.history.ahead.get(old), self.changes.get(new));
            let (from_old, from_new) = match (was, change) {
                (None, None) => break,
                (Some(_), None) => (true, false),
                (None, Some(_)) => (false, true),
                (Some((a, _)), Some((b, _))) => (a <= b, b <= a),
            };
            let mut entry = (Row::default(), 0);
            if let (true, Some((row, diff))) = (from_old, was) {
                entry = (row.clone(), *diff);
                old += 1;
            }
            if let (true, Some((row, times))) = (from_new, change) {
                let until = times.iter().filter(|(t, _)| tick.is_some_and(|tick| *t <= tick));
                let sum = until.fold(entry.1, |sum: i64, (_, diff)| sum.saturating_add(*diff));
                entry = (row.clone(), sum);
                new += 1;
            }
            if entry.1 > 0 {
                count += i128::from(entry.1);
                front.push(entry);
            }
        }
        front
    }
}
