//! Begins views: from a snapshot, from the rows that other views keep, or from the log.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::FutureExt;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::RunningViews;
use crate::dataflow::{Beginning, Failures, InstallRequest};
use crate::engine::snapshots;
use crate::engine::tasks::blocking;
use crate::engine::tracker::ViewTracker;
use crate::model::alarm::Part;
use crate::model::view::{SinkMessage, Unwritten, UnwrittenSpan};
use crate::model::{Head, Tick};
use crate::plan::ViewPlan;
use crate::sink::{ErrorKind, Recovered, SinkError, ViewSink, ViewSinkStatus};
use crate::snapshot::{DamagedSnapshot, FoundTables, FoundView, ViewIdentity};
use crate::status::ViewStart;

/// When a view that ClickHouse has refused to make a table for is tried again.
const BEGIN_RETRY_INTERVAL: Duration = Duration::from_secs(5);

/// A view that is to begin, and whether it answers from the first moment.
struct PlannedInstallation {
    plan: ViewPlan,
    answers: bool,
}

/// An installation that is about to begin.
struct PreparedInstallation {
    tracker: Arc<ViewTracker>,
    beginning: Beginning,
    /// The place in the log at which it begins.
    from: Head,
}

impl RunningViews {
    /// Begins the generations that are wanted and do not run. `first`: nothing runs yet, so the generations
    /// that answered before the server was stopped answer again.
    pub(super) async fn begin_missing(&mut self, first: bool) {
        let views = self.supervisor.registry.views();
        let mut beginning = Vec::new();
        for (name, view) in &views.views {
            let wanted = &view.wanted;
            let is_wanted = |tracker: &Arc<ViewTracker>| {
                tracker.plan.schema.generation == wanted.schema.generation
            };
            let waits = view.failed.is_some()
                && view.retry_at.is_none_or(|retry_at| Instant::now() < retry_at);
            if waits || view.running().any(is_wanted) {
                continue;
            }
            let before = if first { self.supervisor.queries.served_before(name) } else { None };
            let set_aside = &self.supervisor.set_aside;
            if let Some(plan) = before
                && plan.schema.generation != wanted.schema.generation
                && set_aside.reason(name, &plan.schema.generation).is_none()
            {
                beginning.push(PlannedInstallation { plan, answers: true });
            }
            if let Some(reason) = set_aside.reason(name, &wanted.schema.generation) {
                self.stays_aside(name, reason);
                continue;
            }
            beginning.push(PlannedInstallation { plan: wanted.clone(), answers: false });
        }
        if !beginning.is_empty() {
            self.begin(beginning).await;
        }
    }

    /// Begins these views. Views that begin at the same place of the log are fed together.
    async fn begin(&mut self, beginning: Vec<PlannedInstallation>) {
        // Views with a history are fed by themselves, tick by tick.
        let (exact, others): (Vec<_>, Vec<_>) =
            beginning.into_iter().partition(|beginning| beginning.plan.schema.history);
        self.begin_feed_group(others, false).await;
        self.begin_feed_group(exact, true).await;
    }

    async fn begin_feed_group(&mut self, beginning: Vec<PlannedInstallation>, exact: bool) {
        let mut groups: BTreeMap<Tick, (BTreeSet<Tick>, Vec<PreparedInstallation>)> =
            BTreeMap::new();
        for PlannedInstallation { plan, answers } in beginning {
            let name = plan.schema.name.clone();
            let mut boundaries = BTreeSet::new();
            let prepared = match self.prepare(plan, &mut boundaries).await {
                Ok(prepared) => prepared,
                Err(error) => {
                    self.cannot_begin(&name, &error);
                    continue;
                }
            };
            self.supervisor.registry.change(|views| {
                if let Some(view) = views.views.get_mut(&name) {
                    let place = if answers { &mut view.serving } else { &mut view.building };
                    *place = Some(Arc::clone(&prepared.tracker));
                    (view.failed, view.retry_at) = (None, None);
                }
            });
            let group = groups.entry(prepared.from.tick).or_default();
            group.0.extend(boundaries);
            group.1.push(prepared);
        }
        for (boundaries, views) in groups.into_values() {
            let feed_group = self.next_feed_group;
            self.next_feed_group += 1;
            let from = views.first().map(|view| view.from).unwrap_or_default();
            let installations: Vec<InstallRequest> = views.iter().map(installation).collect();
            self.supervisor.runtime.install(feed_group, &installations, from);
            let trackers = views.into_iter().map(|view| view.tracker).collect();
            self.feeder.add(feed_group, from, exact, trackers, boundaries);
        }
        self.keep_time();
    }

    /// A view is not begun, since workers got stuck or died in it.
    fn stays_aside(&self, name: &str, reason: String) {
        tracing::error!(view = name, reason, "the view has failed");
        self.supervisor.registry.change(|views| {
            if let Some(view) = views.views.get_mut(name) {
                (view.failed, view.retry_at) = (Some(reason), None);
            }
        });
    }

    /// A view cannot begin for now, or ever with this SQL.
    fn cannot_begin(&self, name: &str, error: &SinkError) {
        let reason = error.to_string();
        self.supervisor.registry.change(|views| {
            let Some(view) = views.views.get_mut(name) else { return };
            if view.failed.as_ref() != Some(&reason) {
                tracing::error!(view = name, "the view cannot begin: {reason}");
            }
            view.failed = Some(reason);
            view.retry_at =
                (error.kind != ErrorKind::Final).then(|| Instant::now() + BEGIN_RETRY_INTERVAL);
        });
    }

    async fn prepare(
        &mut self,
        mut plan: ViewPlan,
        boundaries: &mut BTreeSet<Tick>,
    ) -> Result<PreparedInstallation, SinkError> {
        let workers = self.supervisor.runtime.workers();
        let mut opened = match self.sink.clone() {
            Some(sink) if plan.is_written_to(sink.name()) => {
                let mut view = sink.open_view(Arc::clone(&plan.schema)).await?;
                // Later generations may be of then, too.
                while self.is_ahead(view.recovered())
                    && let Some(next) = self.beside_what_is_ahead(&plan)
                {
                    view = sink.open_view(Arc::clone(&next.schema)).await?;
                    plan = next;
                }
                Some(view)
            }
            _ => None,
        };
        let recovered = opened.as_ref().map(|view| view.recovered().clone());
        let found = self.snapshot(&plan, recovered.as_ref()).await;
        let filled = match found {
            Some(_) => None,
            None => self.filled(&plan, recovered.as_ref()).await,
        };
        let channel = opened.as_ref().map(|view| {
            let Recovered { progress, unfinished, .. } = view.recovered();
            boundaries.extend(progress.map(|head| head.tick));
            boundaries.extend(unfinished);
            let (sender, receiver) = mpsc::unbounded_channel();
            (Arc::new(ViewSinkStatus::default()), sender, receiver)
        });
        let (to_sink, receiver) = match channel {
            Some((status, sender, receiver)) => (Some((status, sender)), Some(receiver)),
            None => (None, None),
        };
        let dismissals = self.supervisor.dismissed.of(&plan.schema.name);
        let memory = &self.supervisor.failure_memory;
        let failures = Failures::new(&plan.event_types, &dismissals, memory);
        let id = self.next_id;
        self.next_id += 1;
        let wake = Arc::clone(&self.feeder.wake);
        let (start, from) = match (&found, &filled) {
            (Some(FoundView { head, .. }), _) => {
                (ViewStart::Resumed { position: head.position }, *head)
            }
            (None, Some(FoundTables { head, .. })) => {
                (ViewStart::Filled { position: head.position }, *head)
            }
            (None, None) => (ViewStart::Replayed, Head::default()),
        };
        let tracker = ViewTracker::new(id, plan, failures, workers, to_sink, wake, start);
        let tracker = Arc::new(tracker);
        let beginning = match (found, filled) {
            (Some(found), _) => {
                found.failures.iter().for_each(|change| tracker.failures.record(change));
                let tells_rows = opened.as_mut().is_some_and(|view| {
                    let unwritten = missing(&tracker.plan, view.recovered(), &found);
                    view.resume(found.head, found.rows, unwritten)
                });
                if !tells_rows {
                    tracker.begin_with(found.rows);
                }
                tracker.snapshot_taken(found.head);
                Beginning::Kept { view: found.kept, tells_rows }
            }
            (None, Some(found)) => {
                // A filled view tells all its rows anyway, so the sink's answer does not matter.
                let _ = opened.as_mut().map(|view| view.resume(found.head, 0, Vec::new()));
                Beginning::Filled(found.tables)
            }
            (None, None) => Beginning::Empty,
        };
        if let (Some(view), Some(receiver)) = (opened, receiver) {
            let writing = write(Arc::downgrade(&tracker), view, receiver, self.fed_all.clone());
            self.supervisor.tasks.spawn("sink", writing.map(Ok));
        }
        Ok(PreparedInstallation { tracker, beginning, from })
    }

    /// Whether a table has more than the log: that of before a backup was restored.
    fn is_ahead(&self, table: &Recovered) -> bool {
        let end = self.supervisor.log.head();
        table.progress.is_some_and(|at| at.position > end.position || at.tick > end.tick)
            || table.unfinished.last().is_some_and(|tick| *tick > end.tick)
    }

    /// The next generation of a view whose table is ahead of the log; `None` if it cannot be written
    /// down, or the table is of a generation that is not wanted any more.
    fn beside_what_is_ahead(&mut self, plan: &ViewPlan) -> Option<ViewPlan> {
        let name = &plan.schema.name;
        let views = self.supervisor.registry.views();
        let wanted = &views.views.get(name)?.wanted;
        if wanted.schema.generation != plan.schema.generation {
            return None;
        }
        let next = match self.supervisor.queries.rebuild(wanted) {
            Ok(next) => next,
            Err(error) => {
                tracing::error!(view = name, %error, "the view cannot be written anew");
                return None;
            }
        };
        let message = "ClickHouse has more than the log, as after a backup was restored: the view is written anew from the log";
        self.supervisor.tasks.alarms().raise(Part::View, name, message.to_string());
        self.supervisor.registry.change(|views| {
            if let Some(view) = views.views.get_mut(name) {
                view.wanted = next.clone();
            }
        });
        Some(next)
    }

    /// The state of a view that it can go on from, so that its table goes on, too.
    async fn snapshot(&self, plan: &ViewPlan, recovered: Option<&Recovered>) -> Option<FoundView> {
        let store = Arc::clone(self.supervisor.snapshots.as_ref()?);
        if !snapshots::can_hold(plan) {
            return None;
        }
        let (identity, is_usable) = (ViewIdentity::from(plan), self.is_usable(plan, recovered));
        let found = blocking(move || store.find(&identity, is_usable)).await;
        found.unwrap_or_else(|damaged| self.is_damaged(plan, &damaged))
    }

    /// The rows that other views have kept of the tables of this view, if it has no state of its own.
    async fn filled(&self, plan: &ViewPlan, recovered: Option<&Recovered>) -> Option<FoundTables> {
        let store = Arc::clone(self.supervisor.snapshots.as_ref()?);
        if self.rebuilding.contains(&plan.schema.generation) || !snapshots::can_hold(plan) {
            return None;
        }
        let scans = plan.plan.scans_only()?;
        let (identity, is_usable) = (ViewIdentity::from(plan), self.is_usable(plan, recovered));
        let usable = move |at: Head| is_usable(at, &[]);
        let found = blocking(move || store.find_tables(&identity, &scans, usable)).await;
        found.unwrap_or_else(|damaged| self.is_damaged(plan, &damaged))
    }

    /// Tells whether a view can go on from a place in the log.
    fn is_usable(
        &self,
        plan: &ViewPlan,
        recovered: Option<&Recovered>,
    ) -> impl Fn(Head, &[UnwrittenSpan]) -> bool + Send + 'static {
        let (of, end, recovered) = (plan.clone(), self.supervisor.log.head(), recovered.cloned());
        move |at: Head, unwritten: &[UnwrittenSpan]| {
            let is_in_log = at.position <= end.position && at.tick <= end.tick;
            let goes_on = |table| snapshots::written_spans(&of, table, at, unwritten).is_some();
            is_in_log && recovered.as_ref().is_none_or(goes_on)
        }
    }

    /// Tells that the view is replayed, since what it could have gone on from is damaged.
    fn is_damaged<T>(&self, plan: &ViewPlan, damaged: &DamagedSnapshot) -> Option<T> {
        let message = format!("its snapshot: {damaged}");
        self.supervisor.tasks.alarms().raise(Part::View, &plan.schema.name, message);
        None
    }
}

/// The changes of a snapshot that a view's table does not show yet.
fn missing(plan: &ViewPlan, table: &Recovered, found: &FoundView) -> Vec<Unwritten> {
    let spans: Vec<UnwrittenSpan> = found.unwritten.iter().map(|part| part.span).collect();
    let written = snapshots::written_spans(plan, table, found.head, &spans);
    found.unwritten[written.unwrap_or(spans.len())..].to_vec()
}

async fn write(
    tracker: std::sync::Weak<ViewTracker>,
    sink: Box<dyn ViewSink>,
    messages: mpsc::UnboundedReceiver<SinkMessage>,
    stopping: CancellationToken,
) {
    let Some(status) = tracker.upgrade().and_then(|tracker| tracker.sink.clone()) else { return };
    if let Err(error) = sink.run(messages, status, stopping).await
        && let Some(tracker) = tracker.upgrade()
    {
        tracing::error!(view = tracker.name(), %error, "the view is not written to ClickHouse any more");
        tracker.fail(format!("it is not written to ClickHouse any more: {error}"));
    }
}

fn installation(prepared: &PreparedInstallation) -> InstallRequest {
    let PreparedInstallation { tracker, beginning, .. } = prepared;
    let listener = Arc::clone(tracker);
    InstallRequest {
        view: tracker.id,
        beginning: beginning.clone(),
        plan: tracker.plan.clone(),
        listener: Arc::new(move |message| listener.take(message)),
    }
}
