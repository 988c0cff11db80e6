//! How far a view is: put together from what its workers, the feeder and its sink tell.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use tokio::sync::{Notify, mpsc, watch};

use super::changes::RecentChanges;
use crate::dataflow::Failures;
use crate::model::view::ViewMessage;
use crate::model::{Head, Tick};
use crate::plan::ViewPlan;
use crate::sink::ViewSinkStatus;

/// The state of a running view, shared by all who feed, follow or show it.
pub struct ViewTracker {
    /// The view's number in the dataflow: another one for each generation that is run.
    pub id: usize,
    pub plan: ViewPlan,
    pub failures: Failures,
    /// `None` for a view that is not written to ClickHouse.
    pub sink: Option<Arc<ViewSinkStatus>>,
    to_sink: Option<mpsc::UnboundedSender<ViewMessage>>,
    frontiers: Vec<AtomicU64>,
    rows: AtomicI64,
    /// The end of what was in the log when the view started, once all of that was fed.
    live_at: AtomicU64,
    failed: OnceLock<String>,
    /// Woken when the view has got further.
    wake: Arc<Notify>,
    /// Chunks that were fed and that not all workers are through with.
    marks: Mutex<VecDeque<Head>>,
    complete: watch::Sender<Head>,
    /// For those who follow the view.
    pub changes: RecentChanges,
}

/// The view has not been fed everything yet that was in the log when it started.
const NOT_LIVE: Tick = Tick::MAX;

impl ViewTracker {
    /// The tracker of a view that has seen nothing yet. `wake` is told of every step ahead.
    pub fn new(
        id: usize,
        plan: ViewPlan,
        failures: Failures,
        workers: usize,
        sink: Option<(Arc<ViewSinkStatus>, mpsc::UnboundedSender<ViewMessage>)>,
        wake: Arc<Notify>,
    ) -> Self {
        let (sink, to_sink) = sink.unzip();
        ViewTracker {
            id,
            plan,
            failures,
            sink,
            to_sink,
            frontiers: (0..workers).map(|_| AtomicU64::new(0)).collect(),
            rows: AtomicI64::new(0),
            live_at: AtomicU64::new(NOT_LIVE),
            failed: OnceLock::new(),
            wake,
            marks: Mutex::default(),
            complete: watch::Sender::new(Head::default()),
            changes: RecentChanges::default(),
        }
    }

    /// Takes a message of the dataflow or the feeder, and passes it to the sink.
    pub fn take(&self, message: ViewMessage) {
        match &message {
            ViewMessage::Changes { updates, tick, .. } => {
                self.changes.take(*tick, updates);
                let change: i64 = updates.iter().map(|update| update.diff).sum();
                self.rows.fetch_add(change, Ordering::Relaxed);
            }
            ViewMessage::Mark { tick, position } => {
                let mark = Head { position: *position, tick: *tick };
                self.marks.lock().unwrap_or_else(PoisonError::into_inner).push_back(mark);
            }
            ViewMessage::Live { tick } => self.live_at.store(*tick, Ordering::Release),
            ViewMessage::Frontier { .. } | ViewMessage::Errors { .. } => {}
        }
        let frontier = match &message {
            ViewMessage::Frontier { worker, frontier } => Some((*worker, *frontier)),
            _ => None,
        };
        // A view that reads no events is through with all ticks at once: nothing but marks follows.
        let is_step = frontier.is_some() || matches!(message, ViewMessage::Mark { .. });
        // The sink is told first: what it shows is never behind what we say is complete by more
        // than its own work.
        if let Some(sender) = &self.to_sink {
            // A sink that is gone has said why.
            let _ = sender.send(message);
        }
        if let Some((worker, frontier)) = frontier {
            self.frontiers[worker].store(frontier, Ordering::Release);
        }
        if is_step {
            self.advance();
        }
    }

    fn advance(&self) {
        // Under the lock, so that of two workers that get on at the same moment the later one sees
        // what both have stored.
        let mut marks = self.marks.lock().unwrap_or_else(PoisonError::into_inner);
        let frontiers = self.frontiers.iter().map(|f| f.load(Ordering::Acquire));
        let frontier: Tick = frontiers.min().unwrap_or(0);
        let mut reached = None;
        while marks.front().is_some_and(|mark| mark.tick < frontier) {
            reached = marks.pop_front();
            if let Some(reached) = reached {
                self.changes.complete(reached, self.plan.schema.key.is_some());
            }
        }
        if let Some(reached) = reached {
            self.complete.send_replace(reached);
            self.wake.notify_one();
        }
    }

    /// The view's state is complete up to here.
    pub fn complete(&self) -> Head {
        *self.complete.borrow()
    }

    /// Follows [`ViewTracker::complete`].
    pub fn watch_complete(&self) -> watch::Receiver<Head> {
        self.complete.subscribe()
    }

    /// Whether it shows everything that was in the log when it started.
    pub fn is_live(&self) -> bool {
        let live_at = self.live_at.load(Ordering::Acquire);
        live_at != NOT_LIVE && self.complete().tick >= live_at
    }

    /// Whether it can take another generation's place: it is live, and so is its table.
    pub fn is_ready(&self) -> bool {
        self.is_live() && self.sink.as_ref().is_none_or(|sink| sink.is_published())
    }

    /// Says why the view has stopped.
    pub fn fail(&self, reason: String) {
        // The first reason is the one that counts.
        self.changes.end(&reason);
        let _ = self.failed.set(reason);
    }

    /// Why the view has stopped, if it has.
    pub fn failed(&self) -> Option<&str> {
        self.failed.get().map(String::as_str)
    }

    /// How many rows the view has, about now.
    pub fn rows(&self) -> u64 {
        u64::try_from(self.rows.load(Ordering::Relaxed)).unwrap_or(0)
    }

    /// The view's name.
    pub fn name(&self) -> &str {
        &self.plan.schema.name
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::sync::Barrier;

    use super::*;
    use crate::plan::diagnostic::SourceFile;
    use crate::plan::plan_files;

    const SQL: &str = "
        CREATE TABLE n (x BIGINT) WITH (event_type = 'n');
        CREATE MATERIALIZED VIEW v AS SELECT x FROM n;
    ";

    #[test]
    fn two_workers_that_get_on_at_the_same_moment_are_both_seen() {
        let file = SourceFile { path: PathBuf::from("v.sql"), text: SQL.to_string() };
        let plan = plan_files(&[Arc::new(file)], "log").views.remove(0);
        let tracker = ViewTracker::new(0, plan, Failures::default(), 2, None, Arc::default());
        let (start, end) = (Barrier::new(2), Barrier::new(2));
        let steps = 1..=100_000;
        let step = |worker: usize, tick: Tick| {
            start.wait();
            tracker.take(ViewMessage::Frontier { worker, frontier: tick + 1 });
            end.wait();
        };
        let mut missed = 0;
        std::thread::scope(|scope| {
            scope.spawn(|| steps.clone().for_each(|tick| step(1, tick)));
            for tick in steps.clone() {
                tracker.take(ViewMessage::Mark { tick, position: tick });
                step(0, tick);
                missed += u32::from(tracker.complete().tick != tick);
            }
        });
        assert_eq!(missed, 0);
    }
}
