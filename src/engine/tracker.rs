//! Progress of an installation, put together from the messages of its workers, the feeder and its sink.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Instant;

use tokio::sync::{Notify, mpsc, watch};
use tokio_util::sync::{CancellationToken, WaitForCancellationFuture};

use super::changes::RecentChanges;
use crate::dataflow::Failures;
use crate::model::clock::now_ms;
use crate::model::reorder::ReorderBuffer;
use crate::model::view::{CompleteTicks, SinkMessage, Unwritten, ViewMessage};
use crate::model::{Head, Tick};
use crate::plan::ViewPlan;
use crate::sink::ViewSinkStatus;
use crate::status::{SnapshotStatus, ViewStart};

/// State of an installation, shared by the feeder, change feeds, sinks and status.
pub struct ViewTracker {
    /// The view's number in the dataflow: another one for each generation that is run.
    pub id: usize,
    pub plan: ViewPlan,
    pub failures: Failures,
    /// `None` for a view that is not written to ClickHouse.
    pub sink: Option<Arc<ViewSinkStatus>>,
    to_sink: Option<mpsc::UnboundedSender<SinkMessage>>,
    reorder: Mutex<ReorderBuffer>,
    rows: AtomicI64,
    /// The number of failing rows that the sink was last told of.
    failing_told: AtomicI64,
    /// The last tick that was in the log when the view started, once all of that was fed.
    live_at: AtomicU64,
    failed: OnceLock<String>,
    /// Its dataflow has failed: nothing more comes from it, and it is fed no more.
    over: AtomicBool,
    /// Woken when the watermark has moved.
    wake: Arc<Notify>,
    complete: watch::Sender<Head>,
    /// Cancelled once the installation is fed no more, since another one answers or the view is gone.
    ended: CancellationToken,
    start: ViewStart,
    began_at: Instant,
    /// How long it took to become live, once it has; in milliseconds.
    live_after: OnceLock<u64>,
    snapshot: Mutex<Option<SnapshotStatus>>,
    /// Recent changes, kept for change-feed subscribers.
    pub changes: RecentChanges,
}

/// The view is still catching up: not all events that were in the log when it was installed have
/// been fed.
const NOT_LIVE: Tick = Tick::MAX;

impl ViewTracker {
    /// The tracker of a view that has seen nothing yet. `wake` is told of every step ahead.
    pub fn new(
        id: usize,
        plan: ViewPlan,
        failures: Failures,
        workers: usize,
        sink: Option<(Arc<ViewSinkStatus>, mpsc::UnboundedSender<SinkMessage>)>,
        wake: Arc<Notify>,
        start: ViewStart,
    ) -> Self {
        let (sink, to_sink) = sink.unzip();
        ViewTracker {
            id,
            plan,
            failures,
            sink,
            to_sink,
            reorder: Mutex::new(ReorderBuffer::new(workers)),
            rows: AtomicI64::new(0),
            failing_told: AtomicI64::new(0),
            live_at: AtomicU64::new(NOT_LIVE),
            failed: OnceLock::new(),
            over: AtomicBool::new(false),
            wake,
            complete: watch::Sender::new(Head::default()),
            ended: CancellationToken::new(),
            start,
            began_at: Instant::now(),
            live_after: OnceLock::new(),
            snapshot: Mutex::default(),
            changes: RecentChanges::default(),
        }
    }

    /// The view goes on with so many rows, which are not told.
    pub fn begin_with(&self, rows: u64) {
        self.rows.store(i64::try_from(rows).unwrap_or(i64::MAX), Ordering::Relaxed);
    }

    /// How it began.
    pub fn start(&self) -> ViewStart {
        self.start
    }

    /// How long it took until it was live, in milliseconds.
    pub fn live_after_ms(&self) -> Option<u64> {
        self.live_after.get().copied()
    }

    /// The view is in a snapshot as of this place.
    pub fn snapshot_taken(&self, Head { position, tick }: Head) {
        let snapshot = SnapshotStatus { position, tick, taken_at_ms: now_ms() };
        *self.snapshot.lock().unwrap_or_else(PoisonError::into_inner) = Some(snapshot);
    }

    /// The last snapshot that it is in.
    pub fn last_snapshot(&self) -> Option<SnapshotStatus> {
        *self.snapshot.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a message of a worker or the feeder.
    pub fn take(&self, message: ViewMessage) {
        match message {
            ViewMessage::Live { tick } => {
                self.live_at.store(tick, Ordering::Release);
                self.note_live();
                return self.tell_sink(SinkMessage::Live { tick });
            }
            ViewMessage::Failed { reason } => {
                tracing::error!(view = self.name(), reason, "the view has failed");
                self.over.store(true, Ordering::Release);
                self.fail(reason);
                return self.wake.notify_one();
            }
            ViewMessage::Changes { .. }
            | ViewMessage::Failures { .. }
            | ViewMessage::Frontier { .. }
            | ViewMessage::Mark { .. } => {}
        }
        // Under the lock to the end: consumers see complete ticks in their order.
        let mut reorder = self.reorder.lock().unwrap_or_else(PoisonError::into_inner);
        if self.is_over() {
            return;
        }
        if let Some(late) = reorder.late(&message) {
            drop(reorder);
            let reason = format!("a fault of Heliostat, which should be reported: {late}");
            return self.take(ViewMessage::Failed { reason });
        }
        reorder.take(message);
        while let Some((complete, failures)) = reorder.complete() {
            failures.iter().for_each(|change| self.failures.record(change));
            self.advance(complete);
        }
    }

    fn advance(&self, complete: CompleteTicks) {
        let head = complete.head;
        self.tell_failing();
        let updates = complete.ticks.iter().flat_map(|(_, updates)| updates);
        let more = updates.fold(0_i64, |sum, update| sum.saturating_add(update.diff));
        let _ = self.rows.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |rows| {
            Some(rows.saturating_add(more))
        });
        self.changes.complete(&complete, self.plan.schema.key.is_some());
        // The sink is told first: ClickHouse is never behind what is said to be complete by more
        // than the sink's own work.
        self.tell_sink(SinkMessage::Complete(complete));
        self.complete.send_replace(head);
        self.note_live();
        self.wake.notify_one();
    }

    /// Notes how long it took, the first time that it is live.
    fn note_live(&self) {
        if self.live_after.get().is_none() && self.is_live() {
            let _ = self.live_after.set(self.began_at.elapsed().as_millis() as u64);
        }
    }

    /// Tells the sink how many rows fail, if that is news.
    pub fn tell_failing(&self) {
        let failing = self.failures.count();
        if self.failing_told.swap(failing, Ordering::Relaxed) != failing {
            self.tell_sink(SinkMessage::Errors { count: u64::try_from(failing).unwrap_or(0) });
        }
    }

    /// Asks the sink, if there is one, what its system lacks of the view as of `at`, up to where it is complete.
    pub fn ask_unwritten(&self, at: Head) -> Option<Receiver<Vec<Unwritten>>> {
        let (answer, answered) = channel();
        self.to_sink.is_some().then(|| {
            self.tell_sink(SinkMessage::Snapshot { at, answer });
            answered
        })
    }

    fn tell_sink(&self, message: SinkMessage) {
        if let Some(sender) = &self.to_sink {
            // A sink that is gone has said why.
            let _ = sender.send(message);
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

    /// The installation is fed no more. The registry has another one in its place already, or none.
    pub fn end(&self, reason: &str) {
        self.changes.end(reason);
        self.ended.cancel();
    }

    /// Resolves once the installation is fed no more: whoever waits for it goes on with the one that
    /// answers then.
    pub fn ended(&self) -> WaitForCancellationFuture<'_> {
        self.ended.cancelled()
    }

    /// True once the installation is fed no more.
    pub fn has_ended(&self) -> bool {
        self.ended.is_cancelled()
    }

    /// Why the view has stopped, if it has.
    pub fn failed(&self) -> Option<&str> {
        self.failed.get().map(String::as_str)
    }

    /// Whether its dataflow has failed, so that there is nothing to feed it for.
    pub fn is_over(&self) -> bool {
        self.over.load(Ordering::Acquire)
    }

    /// The approximate number of rows of the view.
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
    fn concurrent_frontier_updates_are_not_lost() {
        let file = SourceFile { path: PathBuf::from("v.sql"), text: SQL.to_string() };
        let plan = plan_files(&[Arc::new(file)], "log", crate::sink::KINDS).views.remove(0);
        let tracker = ViewTracker::new(
            0,
            plan,
            Failures::default(),
            2,
            None,
            Arc::default(),
            ViewStart::Replayed,
        );
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
