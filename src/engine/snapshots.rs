//! When snapshots are taken, and what becomes of them.
//!
//! The feeder stops feeding a group for the moment that its views need to get through, and asks the
//! workers for their runs, which costs next to nothing; then it goes on. A thread writes what is in no
//! file yet, waits until ClickHouse has recorded all of it, so that a start finds the table at the
//! snapshot's tick or later, and publishes it.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::registry::{Registry, View};
use super::tracker::ViewTracker;
use crate::dataflow::{KeptAnswers, Runtime};
use crate::log::DiskFiles;
use crate::model::alarm::{Alarms, Part};
use crate::model::failure::FailureChange;
use crate::model::{Head, Position};
use crate::plan::ViewPlan;
use crate::sink::Recovered;
use crate::snapshot::{SnapshotStore, ViewIdentity, ViewSnapshot};

/// A view of which more fails has no snapshots.
const FAILURES_MAX: usize = 200_000;
/// The expression under which rows are listed that ClickHouse cannot hold. Whoever goes on from a
/// snapshot finds them anew.
pub const REJECTED: &str = "ClickHouse";
/// How long workers may take to hand over their runs.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(10);
/// How long ClickHouse may take to record what a snapshot has, before it goes without that view.
const RECORD_TIME_MAX: Duration = Duration::from_secs(10);
/// The same limit while the server ends.
const LAST_RECORD_TIME_MAX: Duration = Duration::from_millis(2_500);
const RECORD_POLL: Duration = Duration::from_millis(10);
/// The directory of snapshots in the data directory, and the subject of alarms about it.
pub const SNAPSHOTS: &str = "snapshots";

/// When a feed group's snapshot is due: `snapshot_events_min` and `snapshot_interval_ms_min`.
#[derive(Clone, Copy, Debug)]
pub struct SnapshotPace {
    pub events_min: u64,
    pub interval_min: Duration,
}

/// The views of a feed group as of a tick, on their way into a snapshot.
pub struct GroupSnapshot {
    head: Head,
    views: Vec<(Arc<ViewTracker>, u64, Vec<FailureChange>)>,
    answers: KeptAnswers,
}

/// Where the feeder hands over what is to be written.
pub struct SnapshotQueue {
    pub pace: SnapshotPace,
    groups: Sender<GroupSnapshot>,
    busy: Arc<AtomicBool>,
}

/// Writes and publishes.
pub struct SnapshotWriter {
    store: Arc<SnapshotStore>,
    groups: Receiver<GroupSnapshot>,
    busy: Arc<AtomicBool>,
    registry: Arc<Registry>,
    alarms: Alarms,
    wake: Arc<Notify>,
    stopping: CancellationToken,
}

/// The snapshots in the data directory. Without them views are replayed from the log: slower, and right
/// all the same.
///
/// `checked_bytes_max`: how many bytes are compared with their checksums before views go on from them.
pub fn open(
    data_dir: &Path,
    log: &str,
    checked_bytes_max: u64,
    alarms: &Alarms,
) -> Option<Arc<SnapshotStore>> {
    let directory = data_dir.join(SNAPSHOTS);
    let files = DiskFiles::open(&directory).map_err(|error| error.to_string());
    let opened = files.and_then(|files| {
        SnapshotStore::open(Arc::new(files), log, checked_bytes_max)
            .map_err(|error| error.to_string())
    });
    match opened {
        Ok((store, unusable)) => {
            for what in unusable {
                tracing::error!(directory = %directory.display(), "a snapshot {what}");
            }
            Some(Arc::new(store))
        }
        Err(error) => {
            let consequence = "views read the whole log at each start";
            let message = format!("{}: {error}: {consequence}", directory.display());
            alarms.raise(Part::ReadSide, SNAPSHOTS, message);
            None
        }
    }
}

/// Whether a view's state can be in a snapshot.
pub fn can_hold(plan: &ViewPlan) -> bool {
    // A history is computed from the whole log: its open rows began anywhere in it.
    !plan.schema.history
}

impl GroupSnapshot {
    /// Asks for what these views hold. They are complete up to `head`, and are fed nothing before this
    /// returns.
    pub fn take(runtime: &Runtime, head: Head, views: &[Arc<ViewTracker>]) -> Self {
        let kept = views.iter().filter(|view| can_hold(&view.plan) && view.failed().is_none());
        let views: Vec<_> = kept
            .filter_map(|view| {
                let failures = view.failures.changes(REJECTED, FAILURES_MAX)?;
                Some((Arc::clone(view), view.rows(), failures))
            })
            .collect();
        let ids: Vec<usize> = views.iter().map(|(view, ..)| view.id).collect();
        GroupSnapshot { head, views, answers: runtime.keep(&ids) }
    }

    /// The views whose state has come from all workers.
    fn collect(self) -> Vec<(Arc<ViewTracker>, ViewSnapshot)> {
        let GroupSnapshot { head, views, answers } = self;
        // A worker that is gone ends the process.
        let states = answers.wait(ANSWER_TIME_MAX).unwrap_or_default();
        let views = views.into_iter().zip(states);
        let views = views.filter_map(|((tracker, rows, failures), shares)| {
            let (identity, shares) = (ViewIdentity::from(&tracker.plan), shares?);
            let tables = shares.tables(&tracker.plan.plan, &failures);
            let workers = shares.workers;
            let snapshot = ViewSnapshot { identity, head, rows, failures, workers, tables };
            Some((tracker, snapshot))
        });
        views.collect()
    }
}

impl SnapshotQueue {
    /// Whether another snapshot can be taken now: one at a time.
    pub fn is_free(&self) -> bool {
        !self.busy.load(Ordering::Acquire)
    }

    /// Hands a snapshot over.
    pub fn push(&self, group: GroupSnapshot) {
        self.busy.store(true, Ordering::Release);
        // A writer that is gone has ended the server, or ends with it.
        let _ = self.groups.send(group);
    }
}

impl SnapshotWriter {
    /// A writer, and where the feeder hands over what it writes; `wake` is told when it is free again.
    pub fn new(
        store: Arc<SnapshotStore>,
        pace: SnapshotPace,
        registry: Arc<Registry>,
        alarms: Alarms,
        wake: Arc<Notify>,
        stopping: CancellationToken,
    ) -> (Self, SnapshotQueue) {
        let (sender, groups) = channel();
        let busy = Arc::new(AtomicBool::new(false));
        let queue = SnapshotQueue { pace, groups: sender, busy: Arc::clone(&busy) };
        (SnapshotWriter { store, groups, busy, registry, alarms, wake, stopping }, queue)
    }

    /// Writes until the feeder is gone. Blocking: runs on a thread of its own.
    pub fn run(self) {
        while let Ok(group) = self.groups.recv() {
            match self.write(group) {
                Ok(()) => self.alarms.clear(Part::ReadSide, SNAPSHOTS),
                Err(error) => self.alarms.raise(
                    Part::ReadSide,
                    SNAPSHOTS,
                    format!(
                        "no snapshot could be written: {error}; views go on, and after a restart \
                         they read the log from the snapshot before"
                    ),
                ),
            }
            self.busy.store(false, Ordering::Release);
            self.wake.notify_one();
        }
    }

    fn write(&self, group: GroupSnapshot) -> std::io::Result<()> {
        let (head, started) = (group.head, Instant::now());
        let (trackers, snapshots): (Vec<_>, Vec<_>) = group.collect().into_iter().unzip();
        if snapshots.is_empty() {
            return Ok(());
        }
        let written = self.store.write(snapshots)?;
        let bytes = written.bytes;
        let recorded = self.recorded(&trackers, head);
        let registry = self.registry.views();
        let is_wanted = |identity: &ViewIdentity| {
            registry.views.get(&identity.name).is_some_and(|view| uses(view, identity))
        };
        let is_recorded = |identity: &ViewIdentity| {
            recorded.iter().any(|view| view.plan.schema.generation == identity.generation)
        };
        self.store.publish(written, is_recorded, is_wanted)?;
        let took = started.elapsed();
        for view in &recorded {
            view.snapshot_taken(head);
        }
        tracing::debug!(
            views = recorded.len(),
            position = head.position,
            bytes,
            ms = took.as_millis() as u64,
            "took a snapshot"
        );
        Ok(())
    }

    /// The views of which ClickHouse has recorded everything up to `head`, as far as they are written
    /// there. Waits for those that have not, for a while.
    fn recorded(&self, views: &[Arc<ViewTracker>], head: Head) -> Vec<Arc<ViewTracker>> {
        let started = Instant::now();
        let follow = |view: &Arc<ViewTracker>| {
            let sink = view.sink.as_ref();
            (
                Arc::clone(view),
                sink.map(|sink| (Arc::clone(sink), sink.watch_recorded(head.position))),
            )
        };
        let mut waiting: Vec<_> = views.iter().map(follow).collect();
        let mut recorded = Vec::new();
        loop {
            waiting.retain(|(view, sink)| {
                let is_there = sink.as_ref().is_none_or(|(sink, recorded)| {
                    // A table without a record gets everything up to this tick in its first flush.
                    is_recorded(&view.plan, *recorded.borrow(), head)
                        || sink.begins_after(head.tick)
                });
                if is_there {
                    recorded.push(Arc::clone(view));
                }
                !is_there
            });
            let is_last = self.stopping.is_cancelled();
            let time_max = if is_last { LAST_RECORD_TIME_MAX } else { RECORD_TIME_MAX };
            if waiting.is_empty() || started.elapsed() >= time_max {
                return recorded;
            }
            std::thread::sleep(RECORD_POLL);
        }
    }
}

/// Whether a table at `at` shows the view as of `head` or later. Between two heads with the same position,
/// only time can change a view.
fn is_recorded(plan: &ViewPlan, at: Head, head: Head) -> bool {
    at.tick >= head.tick || at.position >= head.position && !plan.plan.is_temporal()
}

/// Whether a view can go on from `head`: its table shows it as of there or later, or nothing that a first
/// flush up to there or later would not write again.
pub fn can_resume(plan: &ViewPlan, recovered: &Recovered, head: Head) -> bool {
    match recovered.progress {
        Some(progress) => is_recorded(plan, progress, head),
        None => recovered.unfinished.first().is_none_or(|end| head.tick <= *end),
    }
}

/// Whether a view has this generation, or is to have it.
fn uses(view: &View, identity: &ViewIdentity) -> bool {
    let running = view.running().map(|tracker| &tracker.plan);
    let mut plans = running.chain([&view.wanted]);
    plans.any(|plan| plan.schema.generation == identity.generation)
}

/// The position of a feed group's last snapshot, and whether the group pauses for the next one.
pub struct GroupPace {
    /// The events up to here are in one.
    saved: Position,
    saved_at: Instant,
    /// Since when the group is fed nothing, so that its views get through.
    pausing_since: Option<Instant>,
}

impl GroupPace {
    /// A group whose views have been in a snapshot at `saved`.
    pub fn new(saved: Position) -> Self {
        GroupPace { saved, saved_at: Instant::now(), pausing_since: None }
    }

    /// Since when the group is fed nothing.
    pub fn pausing_since(&self) -> Option<Instant> {
        self.pausing_since
    }

    /// Whether a snapshot would save enough work, up to `at`.
    pub fn is_due(&self, at: Position, pace: SnapshotPace) -> bool {
        at >= self.saved.saturating_add(pace.events_min)
            && self.saved_at.elapsed() >= pace.interval_min
    }

    /// From now on nothing is fed.
    pub fn pause(&mut self) {
        self.pausing_since = Some(Instant::now());
    }

    /// The snapshot up to `at` is taken, or not to be had.
    pub fn go_on(&mut self, at: Position) {
        *self = GroupPace::new(at);
    }

    /// The pace of a group of some of its views.
    pub fn split(&self) -> Self {
        GroupPace { pausing_since: None, ..*self }
    }

    /// The pace of a group that another one joins.
    pub fn join(&mut self, other: &GroupPace) {
        self.saved = self.saved.min(other.saved);
    }
}
