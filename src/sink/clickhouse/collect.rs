//! Gathers a view's changes until a flush may take them.

use std::sync::{Arc, PoisonError};

use arrow::error::ArrowError;

use crate::model::view::{CompleteTicks, Update};
use crate::model::{Head, Tick};
use crate::sink::Recovered;

use super::boundary::Boundaries;
use super::error::ClickHouseError;
use super::history::{History, Interval};
use super::pending::NetChanges;
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
    /// Changes after `taken`, up to the closed boundary.
    pending: NetChanges,
    history: Option<Intervals>,
    /// The end of the last flush that was taken.
    taken: Head,
    /// The number of the view's rows at the closed boundary.
    rows: i64,
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
    pub(super) changes: NetChanges,
    pub(super) intervals: Vec<Interval>,
    /// The end of the flush before.
    pub(super) from: Tick,
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
            pending: NetChanges::default(),
            history,
            taken: written.unwrap_or_default(),
            rows: 0,
        }
    }

    /// The view goes on at `at`, with so many rows that are not told.
    pub(super) fn resume(&mut self, at: Head, rows: u64) {
        self.rows = i64::try_from(rows).unwrap_or(i64::MAX);
        if let Some(recovered) = &mut self.recovered {
            *recovered = at.tick.max(*recovered);
            self.boundaries.resume(at);
        }
    }

    /// Takes changes in, in the order of their ticks.
    pub(super) fn complete(&mut self, complete: CompleteTicks) -> Result<(), ClickHouseError> {
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
            let writer = Arc::clone(&self.writer);
            let view = || writer.table.schema.name.clone();
            let next = self.boundaries.next();
            let next = next.map_err(|source| ClickHouseError::Boundary { view: view(), source })?;
            let Some(complete) = next else { return Ok(()) };
            for (tick, updates) in complete.ticks {
                let taken = self.changes(tick, updates);
                taken.map_err(|source| ClickHouseError::Rows { view: view(), source })?;
            }
            self.seen = Some(complete.head.tick);
        }
    }

    /// Takes the changes of a tick. Rows that ClickHouse cannot hold are left out here, before
    /// anything else, so that coming and going they count the same.
    fn changes(&mut self, tick: Tick, mut updates: Vec<Update>) -> Result<(), ArrowError> {
        if let Some(limits) = &self.limits {
            limits.filter(&mut updates)?;
        }
        self.rows += updates.iter().map(|update| update.diff).sum::<i64>();
        let is_news = self.recovered.is_none_or(|recovered| tick > recovered);
        if let Some(history) = &mut self.history {
            history.changes(tick, &updates, is_news);
        }
        if is_news {
            updates.into_iter().for_each(|update| self.pending.add(update));
        } else if self.writer.table.is_keyless() {
            let counts = self.writer.counts.lock();
            let mut counts = counts.unwrap_or_else(PoisonError::into_inner);
            for update in updates {
                counts.change(&update.key, update.diff);
            }
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
        let (from, to) = (self.taken.tick, self.boundaries.closed());
        let changes = std::mem::take(&mut self.pending);
        let intervals = self.history.as_mut().map(Intervals::take).unwrap_or_default();
        let rows = self.rows;
        self.taken = to;
        self.boundaries.release();
        self.absorb()?;
        Ok(Taken { changes, intervals, from, to, rows })
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
