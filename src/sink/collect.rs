//! Gathers a view's changes until a flush may take them.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};

use arrow::error::ArrowError;

use crate::model::view::Update;
use crate::model::{Head, Tick};

use super::boundary::Boundaries;
use super::catalog::Recovered;
use super::history::{History, Interval};
use super::pending::Pending;
use super::reject::Limits;
use super::writer::Writer;

/// The changes of one view that are not in ClickHouse.
pub(super) struct Collector {
    writer: Arc<Writer>,
    limits: Option<Limits>,
    boundaries: Boundaries,
    /// What is at or below this tick is in ClickHouse already.
    recovered: Option<Tick>,
    /// Changes at ticks that may not be flushed yet.
    open: BTreeMap<Tick, Vec<Update>>,
    open_bytes: usize,
    /// Changes after `taken`, up to the closed boundary.
    pending: Pending,
    history: Option<Intervals>,
    /// The end of the last flush that was taken.
    taken: Head,
}

/// The history of a view that keeps one.
#[derive(Default)]
struct Intervals {
    history: History,
    /// Like [`Collector::open`] and [`Collector::pending`].
    open: BTreeMap<Tick, Vec<Interval>>,
    pending: Vec<Interval>,
    bytes: usize,
}

/// What a flush is to write.
pub(super) struct Taken {
    pub(super) changes: Pending,
    pub(super) intervals: Vec<Interval>,
    /// The end of the flush before.
    pub(super) from: Tick,
    /// Where this one ends.
    pub(super) to: Head,
}

impl Collector {
    pub(super) fn new(
        writer: Arc<Writer>,
        limits: Option<Limits>,
        recovered: &Recovered,
        workers: usize,
    ) -> Self {
        let written = recovered.progress;
        let history = writer.table.schema.history.then(Intervals::default);
        Collector {
            writer,
            limits,
            boundaries: Boundaries::new(workers, written, recovered.boundary),
            recovered: written.map(|head| head.tick),
            open: BTreeMap::new(),
            open_bytes: 0,
            pending: Pending::default(),
            history,
            taken: written.unwrap_or_default(),
        }
    }

    /// Takes changes in. Rows that ClickHouse cannot hold are left out here, before anything else,
    /// so that coming and going they count the same.
    pub(super) fn changes(
        &mut self,
        tick: Tick,
        mut updates: Vec<Update>,
    ) -> Result<(), ArrowError> {
        if let Some(limits) = &self.limits {
            limits.filter(&mut updates)?;
        }
        let is_news = self.recovered.is_none_or(|recovered| tick > recovered);
        if let Some(history) = &mut self.history {
            history.changes(tick, &updates, is_news);
        }
        if is_news {
            self.open_bytes += updates.iter().map(update_bytes).sum::<usize>();
            self.open.entry(tick).or_default().append(&mut updates);
        } else if self.writer.table.is_keyless() {
            let counts = self.writer.counts.lock();
            let mut counts = counts.unwrap_or_else(PoisonError::into_inner);
            for update in updates {
                counts.change(&update.key, update.diff);
            }
        }
        Ok(())
    }

    pub(super) fn frontier(&mut self, worker: usize, frontier: Tick) {
        self.boundaries.frontier(worker, frontier);
        self.absorb();
    }

    pub(super) fn mark(&mut self, head: Head) {
        self.boundaries.mark(head);
        self.absorb();
    }

    fn absorb(&mut self) {
        if !self.boundaries.advance() {
            return;
        }
        let later = match self.boundaries.closed().tick.checked_add(1) {
            Some(next) => self.open.split_off(&next),
            None => BTreeMap::new(),
        };
        if let Some(history) = &mut self.history {
            history.absorb(self.boundaries.closed().tick);
        }
        for update in std::mem::replace(&mut self.open, later).into_values().flatten() {
            self.open_bytes -= update_bytes(&update);
            self.pending.add(update);
        }
    }

    /// Up to where all changes are known.
    pub(super) fn closed(&self) -> Head {
        self.boundaries.closed()
    }

    /// True when the flush that repeats an unfinished one is due.
    pub(super) fn is_held(&self) -> bool {
        self.boundaries.is_held()
    }

    /// True when everything at or below `tick` is pending or taken.
    pub(super) fn has_passed(&self, tick: Tick) -> bool {
        self.boundaries.has_passed(tick)
    }

    /// True when nothing has changed between the last flush and the closed boundary.
    pub(super) fn is_clean(&self) -> bool {
        self.pending.is_empty() && self.history.as_ref().is_none_or(|h| h.pending.is_empty())
    }

    /// Bytes of the changes that a flush could take now.
    pub(super) fn pending_bytes(&self) -> usize {
        self.pending.bytes() + self.history.as_ref().map_or(0, |history| history.bytes)
    }

    /// About how much memory all changes take.
    pub(super) fn bytes(&self) -> usize {
        self.pending_bytes() + self.open_bytes
    }

    /// All changes up to the closed boundary.
    pub(super) fn take(&mut self) -> Taken {
        let (from, to) = (self.taken.tick, self.boundaries.closed());
        let changes = std::mem::take(&mut self.pending);
        let intervals = self.history.as_mut().map(Intervals::take).unwrap_or_default();
        self.taken = to;
        self.boundaries.release();
        self.absorb();
        Taken { changes, intervals, from, to }
    }
}

impl Intervals {
    /// Takes changes in; what is no news is in ClickHouse already.
    fn changes(&mut self, tick: Tick, updates: &[Update], is_news: bool) {
        let mut told = Vec::new();
        for update in updates {
            self.history.change(tick, update, |interval| told.push(interval));
        }
        if is_news && !told.is_empty() {
            self.bytes += told.iter().map(Interval::bytes).sum::<usize>();
            self.open.entry(tick).or_default().append(&mut told);
        }
    }

    fn absorb(&mut self, closed: Tick) {
        let later = match closed.checked_add(1) {
            Some(next) => self.open.split_off(&next),
            None => BTreeMap::new(),
        };
        self.pending.extend(std::mem::replace(&mut self.open, later).into_values().flatten());
    }

    fn take(&mut self) -> Vec<Interval> {
        let taken = std::mem::take(&mut self.pending);
        self.bytes -= taken.iter().map(Interval::bytes).sum::<usize>();
        taken
    }
}

fn update_bytes(update: &Update) -> usize {
    size_of::<Update>() + update.key.heap_bytes() + update.value.heap_bytes()
}
