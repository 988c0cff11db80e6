//! Recover, wire, run, drain. The only module that names all the others; it decides nothing.

mod backend;
mod feeder;
pub mod local;
mod queries;
mod tracker;

use std::collections::BTreeSet;
use std::future::Future;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use crate::dataflow::{Installation, Runtime, RuntimeError};
use crate::http::{self, AppState, ClickHouseStatus, FileError};
use crate::log::{self, Log, LogError, LogOptions};
use crate::model::limits::Limits;
use crate::plan::ViewPlan;
use crate::sink::{
    ClickHouseConfig, Recovered, RejectHandler, Retention, Sink, SinkError, ViewSink,
    ViewSinkStatus,
};
use backend::EngineBackend;
use feeder::Feeder;
use tracker::ViewTracker;

/// How often time is written down while nothing else is, if some view depends on it.
const CLOCK_INTERVAL: Duration = Duration::from_millis(200);
/// The longest pause between two attempts to reach ClickHouse at the start.
const CONNECT_PAUSE_MAX: Duration = Duration::from_secs(5);

/// What a server is run with.
pub struct EngineConfig {
    pub data_dir: PathBuf,
    pub queries: PathBuf,
    pub workers: usize,
    pub limits: Limits,
    /// `None`: views are kept and readable over HTTP, but written nowhere.
    pub clickhouse: Option<ClickHouseConfig>,
}

/// Why a server does not run.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    #[error(transparent)]
    Log(#[from] LogError),
    #[error("query files: {0}")]
    Queries(std::io::Error),
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    #[error(transparent)]
    Sink(#[from] SinkError),
    #[error("serving HTTP: {0}")]
    Serve(std::io::Error),
    #[error("the log failed: {0}")]
    LogFailed(String),
    #[error("the thread that feeds the views cannot be started: {0}")]
    Feeder(std::io::Error),
}

/// A server that was recovered and is ready to serve.
pub struct Engine {
    config: EngineConfig,
    log: Log,
    runtime: Arc<Runtime>,
    backend: Arc<EngineBackend>,
    views: Vec<ViewPlan>,
}

impl Engine {
    /// Opens the log, plans the queries, starts the workers. Nothing is fed yet.
    pub fn open(config: EngineConfig) -> Result<Engine, EngineError> {
        let options = LogOptions {
            queue_bytes_max: config.limits.append_queue_bytes_max,
            request_life_ms: config.limits.idempotency_key_ms,
            ..LogOptions::default()
        };
        let log = Log::open(&log::directory(&config.data_dir), options)?;
        let in_use = queries::load(&config.queries, &config.data_dir, &log.id().to_string())
            .map_err(EngineError::Queries)?;
        for diagnostic in &in_use.diagnostics {
            tracing::error!("a query file is not in use:\n{diagnostic}");
        }
        let failed_files = in_use.diagnostics.iter().map(|diagnostic| FileError {
            file: diagnostic.file.path.display().to_string(),
            message: diagnostic.to_string(),
        });
        let runtime = Arc::new(Runtime::start(config.workers)?);
        let clickhouse = match &config.clickhouse {
            None => ClickHouseStatus::NotUsed,
            Some(_) => ClickHouseStatus::Away { reason: "not connected yet".to_string() },
        };
        let backend = EngineBackend {
            log: log.clone(),
            runtime: Arc::clone(&runtime),
            tables: in_use.set.tables,
            failed_files: failed_files.collect(),
            plans: in_use.set.views.clone(),
            views: OnceLock::new(),
            clickhouse: RwLock::new(clickhouse),
            validators: Mutex::default(),
        };
        let backend = Arc::new(backend);
        Ok(Engine { config, log, runtime, backend, views: in_use.set.views })
    }

    /// Serves on `listener` until `shutdown` resolves or the log fails, then ends everything in
    /// order: requests, feeding, the last flushes, the log.
    pub async fn serve(
        self,
        listener: TcpListener,
        shutdown: impl Future<Output = ()>,
    ) -> Result<(), EngineError> {
        let (stop, stopping) = watch::channel(false);
        let views = tokio::spawn(run_views(ViewsTask {
            clickhouse: self.config.clickhouse.clone(),
            log: self.log.clone(),
            runtime: Arc::clone(&self.runtime),
            backend: Arc::clone(&self.backend),
            plans: self.views,
            stopping,
        }));
        let backend = Arc::clone(&self.backend) as Arc<dyn http::Backend>;
        let state = AppState::new(self.log.clone(), backend, self.config.limits.clone());
        let (failed_sender, mut failed) = watch::channel(None);
        let ends = async {
            tokio::select! {
                () = shutdown => {}
                reason = self.log.failed() => { failed_sender.send_replace(Some(reason)); }
            }
        };
        let served = http::serve(listener, state, ends).await.map_err(EngineError::Serve);
        let _ = stop.send(true);
        let running = match views.await {
            Ok(result) => result,
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        };
        let (runtime, log) = (self.runtime, self.log);
        let _ = tokio::task::spawn_blocking(move || {
            runtime.shutdown();
            log.close();
        })
        .await;
        if let Some(reason) = failed.borrow_and_update().clone() {
            return Err(EngineError::LogFailed(reason));
        }
        served.and(running)
    }
}

/// What it takes to run the views.
struct ViewsTask {
    clickhouse: Option<ClickHouseConfig>,
    log: Log,
    runtime: Arc<Runtime>,
    backend: Arc<EngineBackend>,
    plans: Vec<ViewPlan>,
    stopping: watch::Receiver<bool>,
}

/// Connects to ClickHouse, begins the views and feeds them until told to stop.
async fn run_views(task: ViewsTask) -> Result<(), EngineError> {
    let ViewsTask { clickhouse, log, runtime, backend, plans, mut stopping } = task;
    let mut janitor = None;
    let sink = match &clickhouse {
        None => None,
        Some(config) => {
            let Some(sink) = connect(config, &backend, stopping.clone()).await? else {
                return Ok(());
            };
            let names: Vec<&str> = plans
                .iter()
                .filter(|plan| plan.schema.clickhouse)
                .map(|plan| plan.schema.name.as_str())
                .collect();
            for gone in sink.retire_all_but(&names).await? {
                tracing::info!(
                    view = gone,
                    "the view is gone from the queries, and from ClickHouse"
                );
            }
            janitor = Some(tokio::spawn(sink.clone().run_janitor(stopping.clone())));
            Some(sink)
        }
    };
    let mut boundaries = BTreeSet::new();
    let mut trackers = Vec::new();
    let mut sinks: Vec<JoinHandle<()>> = Vec::new();
    for plan in plans {
        let opened = match &sink {
            Some(sink) if plan.schema.clickhouse => {
                Some(sink.open_view(Arc::clone(&plan.schema), runtime.workers()).await?)
            }
            _ => None,
        };
        let sink = opened.map(|view| {
            let Recovered { progress, boundary, .. } = view.recovered();
            boundaries.extend(progress.map(|head| head.tick));
            boundaries.extend(*boundary);
            let (sender, receiver) = mpsc::unbounded_channel();
            let status = Arc::new(ViewSinkStatus::default());
            let name = plan.schema.name.clone();
            sinks.push(tokio::spawn(write(
                name,
                view,
                receiver,
                Arc::clone(&status),
                stopping.clone(),
            )));
            (status, sender)
        });
        trackers.push(Arc::new(ViewTracker::new(plan, runtime.workers(), sink)));
    }
    let installations: Vec<Installation> =
        trackers.iter().enumerate().map(|(view, tracker)| installation(view, tracker)).collect();
    runtime.install(&installations);
    let temporal = trackers.iter().any(|tracker| tracker.plan.plan.is_temporal());
    log.keep_time(temporal.then_some(CLOCK_INTERVAL));
    let _ = backend.views.set(trackers.clone());
    let feeder = Feeder::new(
        log,
        runtime,
        trackers.clone(),
        boundaries,
        stopping.clone(),
        Handle::current(),
    );
    let feeding = std::thread::Builder::new()
        .name("feeder".to_string())
        .spawn(move || feeder.run())
        .map_err(EngineError::Feeder)?;
    let _ = stopping.wait_for(|stop| *stop).await;
    let fed = tokio::task::spawn_blocking(move || feeding.join()).await;
    for sink in sinks {
        let _ = sink.await;
    }
    if let Some(janitor) = janitor {
        let _ = janitor.await;
    }
    match fed {
        Ok(Ok(result)) => Ok(result?),
        Ok(Err(panic)) => std::panic::resume_unwind(panic),
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

async fn write(
    view: String,
    sink: ViewSink,
    messages: mpsc::UnboundedReceiver<crate::model::view::ViewMessage>,
    status: Arc<ViewSinkStatus>,
    stopping: watch::Receiver<bool>,
) {
    if let Err(error) = sink.run(messages, status, stopping).await {
        tracing::error!(view, %error, "the view is not written to ClickHouse any more");
    }
}

fn installation(view: usize, tracker: &Arc<ViewTracker>) -> Installation {
    let follower = Arc::clone(tracker);
    Installation {
        view,
        plan: tracker.plan.clone(),
        follower: Arc::new(move |message| follower.take(message)),
        failures: tracker.failures.clone(),
    }
}

/// Tries until ClickHouse answers; `None` if the server stops before.
async fn connect(
    config: &ClickHouseConfig,
    backend: &Arc<EngineBackend>,
    mut stopping: watch::Receiver<bool>,
) -> Result<Option<Sink>, EngineError> {
    let mut pause = Duration::from_millis(100);
    let set = |status| {
        *backend.clickhouse.write().unwrap_or_else(PoisonError::into_inner) = status;
    };
    let for_rejects = Arc::clone(backend);
    let rejects: RejectHandler = Arc::new(move |reject: crate::sink::SinkReject| {
        let trackers = for_rejects.views.get().map_or(&[][..], Vec::as_slice);
        if let Some(view) = trackers.iter().find(|view| view.name() == reject.view.name) {
            let expression: Arc<str> = "ClickHouse".into();
            let reason = format!("{}: {}", reject.reason, reject.row);
            view.failures.record(&expression, &reason, None, reject.diff);
        }
    });
    loop {
        match Sink::connect(config, Retention::default(), Arc::clone(&rejects)).await {
            Ok(sink) => {
                set(ClickHouseStatus::Reachable);
                return Ok(Some(sink));
            }
            Err(error) if error.is_transient() => {
                tracing::warn!(%error, "views begin once ClickHouse is there; events are accepted");
                set(ClickHouseStatus::Away { reason: error.to_string() });
            }
            Err(error) => return Err(error.into()),
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            _ = stopping.wait_for(|stop| *stop) => return Ok(None),
        }
        pause = (pause * 2).min(CONNECT_PAUSE_MAX);
    }
}
