//! Gathers a view's changes until a flush may take them.

use std::sync::{Arc, PoisonError};

use crate::model::view::{CompleteTicks, Unwritten, UnwrittenSpan, Update};
use crate::model::{Head, Tick};
use crate::sink::Recovered;

use super::boundary::Boundaries;
use super::error::ClickHouseError;
use super::history::{History, Interval};
use super::pending::{FlushChanges, NetChanges};
use super::reject::ValueLimits;
use super::writer::ViewWriter;

/// The changes of one view that are not in ClickHouse.
pub(super) struct ChangeCollector {
    writer: Arc<ViewWriter>,
    limits: Option<ValueLimits>,
    boundaries: Boundaries,
    /// Changes at or below this tick are in ClickHouse already.
    recovered: Option<Tick>,
    /// The last tick that was taken in.
    seen: Option<Tick>,
    /// The changes that a snapshot had beside the table. All rows as of behind them are told first.
    behind_rows: Option<Vec<Unwritten>>,
    /// Changes after `taken`, up to the closed boundary.
    pending: Arc<NetChanges>,
    history: Option<Intervals>,
    /// The end of the last flush that was taken.
    taken: Option<Head>,
    /// The flush that was taken and has not ended.
    in_flight: Option<FlushInFlight>,
    /// The number of the view's rows at the closed boundary.
    rows: i64,
}

/// The changes of a flush under way.
#[derive(Clone)]
struct FlushInFlight {
    span: UnwrittenSpan,
    changes: Arc<FlushChanges>,
}

/// What is not written of a view, as a snapshot asks for it.
pub(super) struct UnwrittenChanges {
    in_flight: Option<FlushInFlight>,
    /// What comes behind the flush that was taken last.
    pending: Option<(UnwrittenSpan, Arc<NetChanges>)>,
}

/// Where a view goes on from.
pub(super) struct Resumption {
    /// Up to there the view's state has all events.
    pub(super) at: Head,
    /// The number of its rows there.
    pub(super) rows: u64,
    /// Whether all of them are told as of there.
    pub(super) is_told: bool,
    /// The changes up to there that the table lacks.
    pub(super) unwritten: Vec<Unwritten>,
}

/// The history of a view that keeps one.
#[derive(Default)]
struct Intervals {
    history: History,
    /// Like [`ChangeCollector::pending`].
    pending: Vec<Interval>,
    bytes: usize,
}

/// The content of a flush.
pub(super) struct Taken {
    pub(super) changes: Arc<FlushChanges>,
    pub(super) intervals: Vec<Interval>,
    /// The end of the flush before.
    pub(super) from: Option<Tick>,
    /// The end of this flush.
    pub(super) to: Head,
    /// The number of rows that the view has there.
    pub(super) rows: i64,
}

impl ChangeCollector {
    pub(super) fn new(
        writer: Arc<ViewWriter>,
        limits: Option<ValueLimits>,
        recovered: &Recovered,
    ) -> Self {
        let written = recovered.progress;
        let history = writer.table.schema.history.then(Intervals::default);
        ChangeCollector {
            writer,
            limits,
            boundaries: Boundaries::new(written, &recovered.unfinished),
            recovered: written.map(|head| head.tick),
            seen: None,
            behind_rows: None,
            pending: Arc::default(),
            history,
            taken: written,
            in_flight: None,
            rows: 0,
        }
    }

    /// The view goes on from a snapshot.
    pub(super) fn resume(&mut self, from: Resumption) -> Result<(), ClickHouseError> {
        let Resumption { at, rows, is_told, unwritten } = from;
        if !is_told {
            self.rows = i64::try_from(rows).unwrap_or(i64::MAX);
        }
        match (unwritten.is_empty(), is_told) {
            (true, _) => {
                if let Some(recovered) = &mut self.recovered {
                    *recovered = at.tick.max(*recovered);
                    self.boundaries.resume(at);
                }
                Ok(())
            }
            (false, true) => {
                self.behind_rows = Some(unwritten);
                Ok(())
            }
            (false, false) => self.take_unwritten(unwritten),
        }
    }

    /// Takes in changes that the table lacks, as if they were told. What is known of the rows is as of behind
    /// them, and goes back to before.
    fn take_unwritten(&mut self, unwritten: Vec<Unwritten>) -> Result<(), ClickHouseError> {
        self.boundaries.begin_behind_written();
        for Unwritten { span: UnwrittenSpan { to, .. }, changes } in unwritten {
            self.rows -= changes.iter().map(|update| update.diff).sum::<i64>();
            if self.writer.table.is_keyless() {
                self.count(changes.iter().map(|update| (update, -update.diff)));
            }
            let ticks = if changes.is_empty() { Vec::new() } else { vec![(to.tick, changes)] };
            self.boundaries.push(CompleteTicks { head: to, ticks });
        }
        self.absorb()
    }

    /// Changes the numbers of rows as they are in the table.
    fn count<'a>(&self, changes: impl Iterator<Item = (&'a Update, i64)>) {
        let mut counts = self.writer.counts.lock().unwrap_or_else(PoisonError::into_inner);
        for (update, diff) in changes {
            counts.change(&update.key, diff);
        }
    }

    /// Takes changes in, in the order of their ticks.
    pub(super) fn complete(&mut self, complete: CompleteTicks) -> Result<(), ClickHouseError> {
        if let Some(unwritten) = self.behind_rows.take() {
            for (tick, updates) in complete.ticks {
                self.changes(tick, updates, false)?;
            }
            return self.take_unwritten(unwritten);
        }
        self.boundaries.push(complete);
        self.absorb()
    }

    /// All that was in the log when the view started ends at `tick`.
    pub(super) fn live(&mut self, tick: Tick) -> Result<(), ClickHouseError> {
        let ends = self.boundaries.forget_after(tick);
        if !ends.is_empty() {
            let view = &self.writer.table.schema.name;
            tracing::error!(
                view,
                ?ends,
                tick,
                "flushes were begun that ended behind the end of the log: has a part of the log been lost?"
            );
        }
        self.absorb()
    }

    /// Makes the changes pending that may be flushed.
    fn absorb(&mut self) -> Result<(), ClickHouseError> {
        loop {
            let next = self.boundaries.next().map_err(|source| {
                let view = self.writer.table.schema.name.clone();
                ClickHouseError::Boundary { view, source }
            })?;
            let Some(complete) = next else { return Ok(()) };
            for (tick, updates) in complete.ticks {
                let is_news = self.recovered.is_none_or(|recovered| tick > recovered);
                self.changes(tick, updates, is_news)?;
            }
            self.seen = Some(complete.head.tick);
        }
    }

    /// Takes the changes of a tick; those that are no news are in the table. Rows that ClickHouse cannot hold are
    /// left out here, before anything else, so that coming and going they count the same.
    fn changes(
        &mut self,
        tick: Tick,
        mut updates: Vec<Update>,
        is_news: bool,
    ) -> Result<(), ClickHouseError> {
        if let Some(limits) = &self.limits {
            let view = &self.writer.table.schema.name;
            let rows = |source| ClickHouseError::Rows { view: view.clone(), source };
            limits.filter(&mut updates).map_err(rows)?;
        }
        self.rows += updates.iter().map(|update| update.diff).sum::<i64>();
        if let Some(history) = &mut self.history {
            history.changes(tick, &updates, is_news);
        }
        if is_news {
            let pending = Arc::make_mut(&mut self.pending);
            updates.into_iter().for_each(|update| pending.add(update));
        } else if self.writer.table.is_keyless() {
            self.count(updates.iter().map(|update| (update, update.diff)));
        }
        Ok(())
    }

    /// Up to where all changes are known.
    pub(super) fn closed(&self) -> Head {
        self.boundaries.closed()
    }

    /// True when the flush that repeats an unfinished one is due.
    pub(super) fn is_held(&self) -> bool {
        self.boundaries.is_held()
    }

    /// True while the next flush must end later.
    pub(super) fn must_wait(&self) -> bool {
        self.boundaries.must_wait()
    }

    /// True when everything at or below `tick` is pending or taken.
    pub(super) fn has_passed(&self, tick: Tick) -> bool {
        self.boundaries.has_passed(tick)
    }

    /// True when nothing has changed between the last flush and the closed boundary.
    pub(super) fn is_clean(&self) -> bool {
        self.pending.is_empty() && self.history.as_ref().is_none_or(|h| h.pending.is_empty())
    }

    /// About how much memory the changes take that a flush could take now.
    pub(super) fn pending_bytes(&self) -> usize {
        self.pending.bytes() + self.history.as_ref().map_or(0, |history| history.bytes)
    }

    /// The number of rows that the view has at the closed boundary; `None` while what was written
    /// before the start has not all been taken in again.
    pub(super) fn rows(&self) -> Option<i64> {
        (self.seen >= self.recovered).then_some(self.rows)
    }

    /// All changes up to the closed boundary.
    pub(super) fn take(&mut self) -> Result<Taken, ClickHouseError> {
        let (from, to) = (self.taken.map(|head| head.tick), self.boundaries.closed());
        let pending = Arc::unwrap_or_clone(std::mem::take(&mut self.pending));
        let changes = Arc::new(FlushChanges::from(pending));
        let intervals = self.history.as_mut().map(Intervals::take).unwrap_or_default();
        let rows = self.rows;
        self.taken = Some(to);
        let span = UnwrittenSpan { from, to };
        self.in_flight = Some(FlushInFlight { span, changes: Arc::clone(&changes) });
        self.boundaries.release();
        self.absorb()?;
        Ok(Taken { changes, intervals, from, to, rows })
    }

    /// The flush that was taken last has ended.
    pub(super) fn flush_ended(&mut self) {
        self.in_flight = None;
    }

    /// What the table may lack of the view as of `at`, the end of what was told; `None` while some of it may
    /// not be flushed yet.
    pub(super) fn unwritten(&self, at: Head) -> Option<UnwrittenChanges> {
        let nothing = UnwrittenChanges { in_flight: None, pending: None };
        let taken = self.taken.map(|head| head.tick);
        let shown = self.in_flight.as_ref().map_or(taken, |flush| flush.span.from);
        if shown >= Some(at.tick) {
            return Some(nothing);
        }
        if self.boundaries.closed().tick < at.tick || taken > Some(at.tick) {
            return None;
        }
        // Without a flush yet, the first one ends here or later.
        let Some(from) = taken else { return Some(nothing) };
        let span = UnwrittenSpan { from: Some(from), to: at };
        let pending = (from < at.tick).then(|| (span, Arc::clone(&self.pending)));
        Some(UnwrittenChanges { in_flight: self.in_flight.clone(), pending })
    }
}

impl UnwrittenChanges {
    /// In the form for a snapshot. Takes its time.
    pub(super) fn collect(self) -> Vec<Unwritten> {
        let UnwrittenChanges { in_flight, pending } = self;
        let in_flight =
            in_flight.map(|flush| Unwritten { span: flush.span, changes: flush.changes.updates() });
        let pending = pending.map(|(span, changes)| Unwritten { span, changes: changes.updates() });
        in_flight.into_iter().chain(pending).collect()
    }
}

impl Intervals {
    /// Takes changes in. Changes that are no news are in ClickHouse already.
    fn changes(&mut self, tick: Tick, updates: &[Update], is_news: bool) {
        let before = self.pending.len();
        let Intervals { history, pending, bytes } = self;
        for update in updates {
            history.change(tick, update, |interval| {
                if is_news {
                    pending.push(interval);
                }
            });
        }
        *bytes += pending[before..].iter().map(Interval::bytes).sum::<usize>();
    }

    fn take(&mut self) -> Vec<Interval> {
        let taken = std::mem::take(&mut self.pending);
        self.bytes -= taken.iter().map(Interval::bytes).sum::<usize>();
        taken
    }
}
