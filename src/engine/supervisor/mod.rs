//! Begins views, replaces them when their SQL changes, and ends those that are gone.
//!
//! A changed view is built as another generation beside the one that answers, which is fed until the
//! new one has caught up and ClickHouse reads from it.

mod begin;
mod repair;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};
use futures::FutureExt;
use tokio::runtime::Handle;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::EngineError;
use super::backend::ConnectedSink;
use super::dismissed::Dismissals;
use super::feeder::{Feeder, FeederHandle};
use super::follow::{Look, QueryWatch};
use super::inspection;
use super::memory::MemoryPressure;
use super::queries::{InUse, Queries};
use super::registry::{Registry, View};
use super::set_aside::SetAside;
use super::snapshot_check;
use super::snapshots::{self, SnapshotPace, SnapshotWriter};
use super::tasks::Tasks;
use super::tracker::ViewTracker;
use crate::dataflow::{FailureMemory, FeedGroupId, Runtime};
use crate::decode::{CatalogReceiver, EventCatalog};
use crate::log::LogFollower;
use crate::model::alarm::Part;
use crate::model::failure::FailureChange;
use crate::plan::diagnostic::Diagnostic;
use crate::sink::{RejectHandler, Sink, SinkConfig, SinkReject, Tampering};
use crate::snapshot::{SnapshotStore, ViewIdentity};
use crate::status::{ClickHouseStatus, FileError, RebuildError};

/// How often a frame of time is written while nothing else is, if some view depends on time.
const CLOCK_INTERVAL: Duration = Duration::from_millis(200);
/// The pauses between two attempts to reach ClickHouse at the start: the first and the longest.
const CONNECT_PAUSE_MIN: Duration = Duration::from_millis(100);
const CONNECT_PAUSE_MAX: Duration = Duration::from_secs(5);
/// How often it is looked whether a view can begin that could not.
const BEGIN_INTERVAL: Duration = Duration::from_millis(500);
/// Subject of alarms about the connection.
const CONNECTION: &str = "connection";
/// How often it is looked whether a generation can take over.
const TURN_INTERVAL: Duration = Duration::from_millis(50);

/// A request to the supervisor.
pub enum SupervisorRequest {
    /// Build a view anew. The answer is the generation that is being built, or why there is none.
    Rebuild { view: String, answer: oneshot::Sender<Result<String, RebuildError>> },
    /// Look at the query files now.
    Reload { answer: oneshot::Sender<()> },
    /// Mend what somebody else has done to the tables.
    Repair { found: Vec<Tampering>, answer: oneshot::Sender<()> },
    /// Build a view from the log that has gone on from a snapshot that is damaged.
    Damaged { view: ViewIdentity, what: String },
}

/// Starts, replaces and stops the views' installations.
pub struct Supervisor {
    pub sink: Option<Arc<dyn SinkConfig>>,
    /// Where the sink goes for others, once it is connected.
    pub connected: ConnectedSink,
    pub data_dir: PathBuf,
    pub clickhouse_status: Arc<RwLock<ClickHouseStatus>>,
    pub log: LogFollower,
    /// Where the catalog goes before the views of the same files begin.
    pub catalog: Arc<dyn CatalogReceiver>,
    pub runtime: Arc<Runtime>,
    pub registry: Arc<Registry>,
    pub queries: Queries,
    pub watch: QueryWatch,
    pub dismissed: Arc<Dismissals>,
    pub failure_memory: Arc<FailureMemory>,
    pub set_aside: Arc<SetAside>,
    /// `None` where nothing is kept over restarts but the log.
    pub snapshots: Option<Arc<SnapshotStore>>,
    pub snapshot_pace: SnapshotPace,
    pub pressure: MemoryPressure,
    pub requests: mpsc::UnboundedReceiver<SupervisorRequest>,
    /// The sender, for parts that make requests themselves.
    pub requests_sender: mpsc::UnboundedSender<SupervisorRequest>,
    pub tasks: Tasks,
}

impl Supervisor {
    /// Connects to ClickHouse, and runs the views until told to stop.
    pub async fn run(mut self) -> Result<(), EngineError> {
        let stopping = self.tasks.stopping().clone();
        let sink = match self.sink.clone() {
            None => None,
            Some(config) => match self.connect(&*config).await {
                Some(sink) => Some(sink),
                None => return Ok(()),
            },
        };
        if let Some(sink) = sink.clone() {
            let _ = self.connected.set(Arc::clone(&sink));
            let (janitor, until) = (Arc::clone(&sink), stopping.clone());
            self.tasks.spawn("janitor", async move {
                janitor.maintain(until).await;
                Ok(())
            });
            let (registry, requests) = (Arc::clone(&self.registry), self.requests_sender.clone());
            let inspection = inspection::run(sink, registry, requests, stopping.clone());
            self.tasks.spawn("inspection", inspection.map(Ok));
        }
        let wake = Arc::new(Notify::new());
        let queue = match self.snapshots.clone() {
            None => None,
            Some(store) => {
                let checked = Arc::clone(&store);
                let (writer, queue) = SnapshotWriter::new(
                    store,
                    self.snapshot_pace,
                    Arc::clone(&self.registry),
                    self.tasks.alarms().clone(),
                    Arc::clone(&wake),
                );
                self.tasks.spawn_thread("snapshots", move || {
                    writer.run();
                    Ok(())
                })?;
                let (requests, until) = (self.requests_sender.clone(), stopping.clone());
                self.tasks.spawn_thread("snapshot check", move || {
                    snapshot_check::run(&checked, &requests, &until);
                    Ok(())
                })?;
                Some(queue)
            }
        };
        let (feeder, handle) = Feeder::new(
            self.log.clone(),
            Arc::clone(&self.runtime),
            self.pressure.clone(),
            queue,
            wake,
            stopping.clone(),
            Handle::current(),
        );
        let fed_all = CancellationToken::new();
        let at_end = fed_all.clone().drop_guard();
        self.tasks.spawn_thread("feeder", move || {
            let _at_end = at_end;
            feeder.run();
            Ok(())
        })?;
        tokio::select! {
            () = self.catalog.adopted() => {}
            () = stopping.cancelled() => return Ok(()),
        }
        let mut running = RunningViews {
            sink,
            feeder: handle,
            fed_all,
            next_id: 0,
            next_feed_group: 0,
            rebuilding: BTreeSet::new(),
            supervisor: self,
        };
        tokio::select! {
            biased;
            () = stopping.cancelled() => {}
            () = running.serve() => {}
        }
        Ok(())
    }

    /// Tries until ClickHouse answers and lets us in; `None` if the server stops before.
    async fn connect(&mut self, config: &dyn SinkConfig) -> Option<Arc<dyn Sink>> {
        let pauses = ExponentialBuilder::new()
            .with_min_delay(CONNECT_PAUSE_MIN)
            .with_max_delay(CONNECT_PAUSE_MAX);
        let mut pauses = pauses.without_max_times().build();
        let registry = Arc::clone(&self.registry);
        let rejects: RejectHandler = Arc::new(move |reject: SinkReject| {
            let views = registry.views();
            let running = views.views.get(&reject.view.name).into_iter().flat_map(View::running);
            for view in running.filter(|view| view.plan.schema.generation == reject.view.generation)
            {
                view.failures.record(&FailureChange {
                    expression: snapshots::REJECTED.into(),
                    reason: format!("{}: {}", reject.reason, reject.row),
                    position: None,
                    event_type: None,
                    diff: reject.diff,
                });
                view.tell_failing();
            }
        });
        let (stopping, alarms) = (self.tasks.stopping().clone(), self.tasks.alarms().clone());
        loop {
            let attempt = config.connect(&self.data_dir, Arc::clone(&rejects));
            let connected = tokio::select! {
                connected = attempt => connected,
                () = stopping.cancelled() => return None,
            };
            match connected {
                Ok(sink) => {
                    self.set_clickhouse(ClickHouseStatus::Reachable);
                    alarms.clear(Part::ClickHouse, CONNECTION);
                    return Some(sink);
                }
                Err(error) => {
                    let consequence = "views begin once it is mended; events are accepted";
                    alarms.raise(Part::ClickHouse, CONNECTION, format!("{error}: {consequence}"));
                    self.set_clickhouse(ClickHouseStatus::Away { reason: error.to_string() });
                }
            }
            let pause = pauses.next().unwrap_or(CONNECT_PAUSE_MAX);
            tokio::select! {
                () = self.refuse_requests(pause) => {}
                () = stopping.cancelled() => return None,
            }
        }
    }

    /// Answers requests for this long that cannot be met before there is a ClickHouse.
    async fn refuse_requests(&mut self, time: Duration) {
        let end = tokio::time::Instant::now() + time;
        while let Ok(Some(request)) = tokio::time::timeout_at(end, self.requests.recv()).await {
            match request {
                SupervisorRequest::Rebuild { answer, .. } => {
                    let _ = answer.send(Err(RebuildError::NotConnected));
                }
                // Whoever asked goes on without; no view has gone on from anything yet.
                SupervisorRequest::Reload { .. }
                | SupervisorRequest::Repair { .. }
                | SupervisorRequest::Damaged { .. } => {}
            }
        }
    }

    fn set_clickhouse(&self, status: ClickHouseStatus) {
        *self.clickhouse_status.write().unwrap_or_else(PoisonError::into_inner) = status;
    }
}

/// The supervisor once views can begin.
struct RunningViews {
    supervisor: Supervisor,
    sink: Option<Arc<dyn Sink>>,
    feeder: FeederHandle,
    /// Cancelled once the feeder has ended: sinks write what it has fed, and end then.
    fed_all: CancellationToken,
    next_id: usize,
    next_feed_group: FeedGroupId,
    /// Generations that were asked to be built from the log, even if a snapshot or tables could be used.
    rebuilding: BTreeSet<String>,
}

impl RunningViews {
    async fn serve(&mut self) {
        self.retire().await;
        self.begin_missing(true).await;
        let mut begin = tokio::time::interval(BEGIN_INTERVAL);
        let mut turn = tokio::time::interval(TURN_INTERVAL);
        begin.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        turn.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                request = self.supervisor.requests.recv() => match request {
                    Some(request) => self.obey(request).await,
                    None => return,
                },
                Some(look) = self.supervisor.watch.looks.recv() => self.reload(look).await,
                _ = begin.tick() => self.begin_missing(false).await,
                _ = turn.tick() => self.take_turns(),
            }
        }
    }

    async fn obey(&mut self, request: SupervisorRequest) {
        match request {
            SupervisorRequest::Rebuild { view, answer } => {
                let result = self.rebuild(&view).await;
                let _ = answer.send(result);
            }
            SupervisorRequest::Repair { found, answer } => {
                self.repair(found).await;
                let _ = answer.send(());
            }
            SupervisorRequest::Reload { answer } => self.supervisor.watch.look(answer),
            SupervisorRequest::Damaged { view, what } => self.replay(&view, &what).await,
        }
    }

    /// Uses the query files that were looked at, if they have changed and have no error.
    async fn reload(&mut self, look: Look) {
        if let Some(planned) = look.planned {
            match self.supervisor.queries.accept(planned) {
                Ok(in_use) => {
                    self.supervisor.log.note(self.supervisor.queries.control());
                    self.replace(in_use).await;
                }
                Err(error) => {
                    tracing::error!(%error, "changed query files could not be written down; what was in use stays");
                }
            }
        }
        if let Some(answer) = look.answer {
            let _ = answer.send(());
        }
    }

    async fn replace(&mut self, in_use: InUse) {
        self.take_turns();
        let catalog = Arc::clone(&self.supervisor.catalog);
        if adopt(&self.supervisor.registry, catalog.as_ref(), in_use, |view| self.end(view)) {
            catalog.adopted().await;
            tracing::info!("the query files have changed");
            let views = self.supervisor.registry.views();
            let alarms = self.supervisor.tasks.alarms();
            alarms.retain(Part::View, |view| views.views.contains_key(view));
            let forgotten =
                self.supervisor.queries.forget_all_but(|view| views.views.contains_key(view));
            if let Err(error) = forgotten {
                tracing::error!(%error, "which SQL answers could not be written down");
            }
            let forgotten = self.supervisor.set_aside.retain(|view| views.views.contains_key(view));
            if let Err(error) = forgotten {
                tracing::error!(%error, "which views are set aside could not be written down");
            }
            self.retire().await;
            self.begin_missing(false).await;
        }
    }

    /// Takes views that are not wanted any more out of ClickHouse.
    async fn retire(&self) {
        let Some(sink) = &self.sink else { return };
        let views = self.supervisor.registry.views();
        let wanted = views.views.values().filter(|view| view.wanted.is_written_to(sink.name()));
        let names: Vec<&str> = wanted.map(|view| view.wanted.schema.name.as_str()).collect();
        match sink.retire_all_but(&names).await {
            Ok(gone) => {
                for view in gone {
                    tracing::info!(view, "the view is gone from the queries, and from ClickHouse");
                }
            }
            Err(error) => tracing::warn!(%error, "views that are gone stay in ClickHouse for now"),
        }
    }

    /// Lets generations that are ready answer in place of those before them.
    fn take_turns(&mut self) {
        let views = self.supervisor.registry.views();
        let is_ready = |view: &View| view.building.clone().filter(|view| view.is_ready());
        let ready: Vec<_> =
            views.views.iter().filter_map(|(n, v)| Some((n, is_ready(v)?))).collect();
        if ready.is_empty() {
            return;
        }
        let replaced = self.supervisor.registry.change(|views| {
            let mut replaced = Vec::new();
            for (name, _) in &ready {
                let Some(view) = views.views.get_mut(*name) else { continue };
                let building = view.building.take();
                replaced.extend(std::mem::replace(&mut view.serving, building));
            }
            replaced
        });
        // All at once: writing down waits for the disk.
        let plans = ready.iter().map(|(_, building)| &building.plan);
        if let Err(error) = self.supervisor.queries.serves(plans) {
            tracing::error!(%error, "which SQL answers could not be written down");
        }
        for before in replaced {
            tracing::info!(view = before.name(), "the new generation answers");
            self.end(&before);
        }
        for (name, _) in ready {
            self.supervisor.tasks.alarms().clear(Part::View, name);
        }
    }

    /// Stops a generation.
    fn end(&self, view: &Arc<ViewTracker>) {
        view.end("the view is gone, or was built anew");
        self.feeder.remove(view.id);
        self.keep_time();
    }

    /// Has time written down as long as a view depends on it.
    fn keep_time(&self) {
        let views = self.supervisor.registry.views();
        let mut running = views.views.values().flat_map(View::running);
        let temporal = running.any(|tracker| tracker.plan.plan.is_temporal());
        self.supervisor.log.keep_time(temporal.then_some(CLOCK_INTERVAL));
    }

    async fn rebuild(&mut self, name: &str) -> Result<String, RebuildError> {
        let generation = self.next_generation(name)?;
        self.rebuilding.insert(generation.clone());
        self.begin_missing(false).await;
        Ok(generation)
    }

    /// Wants a view in a generation of its own, to be built from the log.
    fn next_generation(&mut self, name: &str) -> Result<String, RebuildError> {
        // A generation that could answer is not given up for one that has yet to be built.
        self.take_turns();
        let views = self.supervisor.registry.views();
        let not_found = || RebuildError::NotFound { view: name.to_string() };
        let view = views.views.get(name).ok_or_else(not_found)?;
        let queries = &mut self.supervisor.queries;
        let plan = queries
            .rebuild(&view.wanted)
            .map_err(|error| RebuildError::NotWritten { reason: error.to_string() })?;
        let generation = plan.schema.generation.clone();
        let abandoned = self.supervisor.registry.change(|views| {
            let view = views.views.get_mut(name)?;
            view.wanted = plan;
            (view.failed, view.retry_at) = (None, None);
            view.building.take()
        });
        if let Some(abandoned) = abandoned {
            self.end(&abandoned);
        }
        Ok(generation)
    }
}

/// Takes over a set of files, or its errors if it has some. Offers its catalog to ingest. Calls `end` for
/// generations that are not wanted any more. Returns true when the set has changed.
pub fn adopt(
    registry: &Registry,
    catalog: &dyn CatalogReceiver,
    in_use: InUse,
    end: impl FnMut(&Arc<ViewTracker>),
) -> bool {
    for diagnostic in &in_use.diagnostics {
        tracing::error!("a query file is not in use:\n{diagnostic}");
    }
    let failed_files: Vec<FileError> = in_use.diagnostics.iter().map(file_error).collect();
    let Some(set) = in_use.set else {
        registry.change(|views| views.failed_files = failed_files);
        return false;
    };
    catalog.offer(EventCatalog { tables: set.tables.clone() });
    let ended = registry.change(|views| {
        views.failed_files = failed_files;
        views.tables = set.tables;
        let mut before = std::mem::take(&mut views.views);
        let mut ended = Vec::new();
        for plan in set.views {
            let name = plan.schema.name.clone();
            let view = match before.remove(&name) {
                None => View::new(plan),
                Some(mut view) => {
                    let generation = &plan.schema.generation;
                    let other = |t: &Arc<ViewTracker>| t.plan.schema.generation != *generation;
                    // A generation that is being built and no longer wanted is given up.
                    ended.extend(view.building.take_if(|tracker| other(tracker)));
                    (view.failed, view.retry_at) = (None, None);
                    view.wanted = plan;
                    view
                }
            };
            views.views.insert(name, view);
        }
        ended.extend(
            before.into_values().flat_map(|view| view.serving.into_iter().chain(view.building)),
        );
        ended
    });
    ended.iter().for_each(end);
    true
}

fn file_error(diagnostic: &Diagnostic) -> FileError {
    FileError { file: diagnostic.file.path.display().to_string(), message: diagnostic.to_string() }
}
