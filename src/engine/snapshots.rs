//! When snapshots are taken, and what becomes of them.
//!
//! The feeder stops feeding a group for the moment that its views need to get through, and asks the
//! workers for their runs, and the sinks for what is not written, which costs next to nothing; then it
//! goes on. A thread writes what is in no file yet and publishes it. What ClickHouse lacked is beside the
//! runs, so that a start can go on whether it has been written since or not.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::registry::{Registry, View};
use super::tracker::ViewTracker;
use crate::dataflow::{KeptAnswers, Runtime};
use crate::log::DiskFiles;
use crate::model::alarm::{Alarms, Part};
use crate::model::failure::FailureChange;
use crate::model::view::{Unwritten, UnwrittenSpan};
use crate::model::{Head, Position, Tick};
use crate::plan::ViewPlan;
use crate::sink::Recovered;
use crate::snapshot::{SnapshotStore, ViewIdentity, ViewSnapshot};

/// A view of which more fails has no snapshots.
const FAILURES_MAX: usize = 200_000;
/// The expression under which rows are listed that ClickHouse cannot hold. Whoever goes on from a
/// snapshot finds them anew.
pub const REJECTED: &str = "ClickHouse";
/// How long workers may take to hand over their runs, and a sink to hand over what is not written.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(10);
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
    views: Vec<AskedView>,
    answers: KeptAnswers,
}

/// A view of which a snapshot is taken, with what is known of it beside its runs.
struct AskedView {
    tracker: Arc<ViewTracker>,
    rows: u64,
    failures: Vec<FailureChange>,
    /// `None` if it is not written anywhere.
    unwritten: Option<Receiver<Vec<Unwritten>>>,
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
                let unwritten = view.ask_unwritten(head);
                let (tracker, rows) = (Arc::clone(view), view.rows());
                Some(AskedView { tracker, rows, failures, unwritten })
            })
            .collect();
        let ids: Vec<usize> = views.iter().map(|view| view.tracker.id).collect();
        GroupSnapshot { head, views, answers: runtime.keep(&ids) }
    }

    /// The views whose state has come from all workers, and from the sink.
    fn collect(self) -> Vec<(Arc<ViewTracker>, ViewSnapshot)> {
        let GroupSnapshot { head, views, answers } = self;
        // A worker that is gone ends the process.
        let states = answers.wait(ANSWER_TIME_MAX).unwrap_or_default();
        let views = views.into_iter().zip(states);
        let views = views.filter_map(|(view, shares)| {
            let AskedView { tracker, rows, failures, unwritten } = view;
            let (identity, shares) = (ViewIdentity::from(&tracker.plan), shares?);
            let unwritten = match unwritten {
                Some(answer) => answer.recv_timeout(ANSWER_TIME_MAX).ok()?,
                None => Vec::new(),
            };
            let tables = shares.tables(&tracker.plan.plan, &failures);
            let workers = shares.workers;
            let snapshot =
                ViewSnapshot { identity, head, rows, failures, unwritten, workers, tables };
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
    ) -> (Self, SnapshotQueue) {
        let (sender, groups) = channel();
        let busy = Arc::new(AtomicBool::new(false));
        let queue = SnapshotQueue { pace, groups: sender, busy: Arc::clone(&busy) };
        (SnapshotWriter { store, groups, busy, registry, alarms, wake }, queue)
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
        let registry = self.registry.views();
        let is_wanted = |identity: &ViewIdentity| {
            registry.views.get(&identity.name).is_some_and(|view| uses(view, identity))
        };
        self.store.publish(written, is_wanted)?;
        let took = started.elapsed();
        for view in &trackers {
            view.snapshot_taken(head);
        }
        tracing::debug!(
            views = trackers.len(),
            position = head.position,
            bytes,
            ms = took.as_millis() as u64,
            "took a snapshot"
        );
        Ok(())
    }
}

/// Whether a table at `at` shows the view as of `head` or later. Between two heads with the same position,
/// only time can change a view.
fn is_recorded(plan: &ViewPlan, at: Head, head: Head) -> bool {
    at.tick >= head.tick || at.position >= head.position && !plan.plan.is_temporal()
}

/// Whether a view can go on from `head`, and if so, how many of the first of these spans its table shows
/// already; the rest has to be written to it.
///
/// A table can show the view as of there or later, or nothing that a first flush up to there or later would
/// not write again. Or it shows the beginning of a span, and flushes that were begun since have ended where
/// spans do.
pub fn written_spans(
    plan: &ViewPlan,
    table: &Recovered,
    head: Head,
    spans: &[UnwrittenSpan],
) -> Option<usize> {
    let is_there = match table.progress {
        Some(progress) => is_recorded(plan, progress, head),
        None => table.unfinished.first().is_none_or(|end| head.tick <= *end),
    };
    if is_there {
        return Some(spans.len());
    }
    let shown = table.progress.map(|progress| progress.tick);
    let written = spans.iter().position(|span| span.from == shown)?;
    let is_end = |end: &Tick| spans[written..].iter().any(|span| span.to.tick == *end);
    table.unfinished.iter().all(|end| *end > head.tick || is_end(end)).then_some(written)
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

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::plan::diagnostic::SourceFile;
    use crate::plan::plan_files;

    fn plan(condition: &str) -> ViewPlan {
        let text = format!(
            "CREATE TABLE n (x BIGINT) WITH (event_type = 'n');
             CREATE MATERIALIZED VIEW v AS SELECT x FROM n WHERE {condition};"
        );
        let file = SourceFile { path: PathBuf::from("v.sql"), text };
        plan_files(&[Arc::new(file)], "log", crate::sink::KINDS).views.remove(0)
    }

    fn head(tick: Tick) -> Head {
        Head { position: tick / 10, tick }
    }

    fn table(progress: Option<Tick>, unfinished: &[Tick]) -> Recovered {
        let progress = progress.map(head);
        Recovered { progress, unfinished: unfinished.to_vec(), published: true }
    }

    #[test]
    fn views_go_on_where_their_table_is_at_an_end_of_what_it_lacked() {
        let plan = plan("x > 0");
        let span = |from, to| UnwrittenSpan { from, to: head(to) };
        let spans = [span(Some(50), 70), span(Some(70), 90)];
        let written = |progress, unfinished: &[Tick]| {
            written_spans(&plan, &table(progress, unfinished), head(90), &spans)
        };
        for (progress, unfinished, expected) in [
            (Some(50), &[][..], Some(0)),
            (Some(50), &[70], Some(0)),
            (Some(50), &[70, 90], Some(0)),
            (Some(50), &[110], Some(0)),
            (Some(70), &[], Some(1)),
            (Some(70), &[90], Some(1)),
            (Some(90), &[], Some(2)),
            (Some(110), &[130], Some(2)),
            // A flush has ended where the changes are not parted.
            (Some(50), &[60], None),
            (Some(70), &[80, 90], None),
            // ClickHouse has lost, or somebody has changed, what it had.
            (Some(40), &[], None),
            (Some(60), &[70], None),
            (None, &[70], None),
            (None, &[], Some(2)),
            (None, &[90], Some(2)),
        ] {
            assert_eq!(written(progress, unfinished), expected, "{progress:?} {unfinished:?}");
        }
        let first = [span(None, 70), span(Some(70), 90)];
        let of_first =
            |unfinished| written_spans(&plan, &table(None, unfinished), head(90), &first);
        assert_eq!((of_first(&[70]), of_first(&[60])), (Some(0), None));
    }

    #[test]
    fn ticks_without_events_change_only_views_that_depend_on_time() {
        let later = |plan: &ViewPlan| written_spans(plan, &table(Some(91), &[]), head(95), &[]);
        assert_eq!(later(&plan("x > 0")), Some(0));
        assert_eq!(later(&plan("_recorded_at > now() - INTERVAL '1 day'")), None);
    }
}
