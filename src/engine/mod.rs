//! Recover, wire, run, drain. The only module that names all the others; it decides nothing.

mod backend;
mod changes;
mod clock;
mod dead_letters;
mod dismissed;
mod feeder;
pub mod files;
mod follow;
mod inspection;
pub mod local;
mod planner;
mod queries;
mod registry;
mod supervisor;
mod tasks;
mod tracker;
pub mod trial;
mod unread;

use std::future::Future;
use std::path::PathBuf;
use std::sync::{Arc, RwLock};
use std::time::Duration;

use futures::FutureExt;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;

use crate::dataflow::{FailureMemory, Runtime, RuntimeError};
use crate::http::{self, AppState, Gate};
use crate::log::{self, Log, LogError, LogOptions};
use crate::model::alarm::Alarms;
use crate::model::limits::Limits;
use crate::sink::{SinkConfig, SinkError};
use crate::status::ClickHouseStatus;
use backend::EngineBackend;
use dead_letters::Letters;
use dismissed::Dismissals;
use follow::QueryWatch;
use planner::Planner;
use queries::{Queries, QueriesError};
use registry::Registry;
use supervisor::Supervisor;
use tasks::Tasks;
use unread::Unread;

/// Options of a server.
pub struct EngineConfig {
    pub data_dir: PathBuf,
    pub queries: PathBuf,
    pub workers: usize,
    pub limits: Limits,
    /// Where the parts tell what is wrong.
    pub alarms: Alarms,
    /// Who is let in.
    pub gate: Gate,
    /// `None`: plain HTTP.
    pub tls: Option<TlsAcceptor>,
    /// `None`: views are kept and readable over HTTP, but written nowhere.
    pub sink: Option<Arc<dyn SinkConfig>>,
}

/// Why a server does not run.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    #[error(transparent)]
    Log(#[from] LogError),
    #[error(transparent)]
    Queries(#[from] QueriesError),
    #[error("dismissed.json in the data directory: {0}")]
    Dismissals(std::io::Error),
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    #[error(transparent)]
    Sink(#[from] SinkError),
    #[error("serving HTTP: {0}")]
    Serve(std::io::Error),
    #[error("the log failed: {0}")]
    LogFailed(String),
    #[error("the thread `{name}` cannot be started: {source}")]
    Thread { name: &'static str, source: std::io::Error },
}

/// How long the feeder, the sinks and the supervisor may take to end, last flushes included.
const END_TIME_MAX: Duration = Duration::from_secs(3);
/// How long the workers and the log may take to end after them.
const CLOSE_TIME_MAX: Duration = Duration::from_secs(1);

/// A server that was recovered and is ready to serve.
pub struct Engine {
    limits: Limits,
    gate: Gate,
    tls: Option<TlsAcceptor>,
    log: Log,
    runtime: Arc<Runtime>,
    backend: Arc<EngineBackend>,
    supervisor: Supervisor,
    tasks: Tasks,
}

impl Engine {
    /// Opens the log, plans the queries, starts the workers. Nothing is fed yet.
    pub fn open(config: EngineConfig) -> Result<Engine, EngineError> {
        let options = LogOptions {
            queue_bytes_max: config.limits.append_queue_bytes_max,
            request_life_ms: config.limits.idempotency_key_ms,
            alarms: config.alarms.clone(),
            ..LogOptions::default()
        };
        let log = Log::open(&log::directory(&config.data_dir), options)?;
        let log_id = log.history();
        let mut planner = Planner::new(&config.queries, log_id, config.limits.clone());
        let mut queries =
            Queries::open(&config.data_dir, &mut planner).map_err(QueriesError::from)?;
        let dismissed = Dismissals::open(&config.data_dir).map_err(EngineError::Dismissals)?;
        let registry = Arc::new(Registry::default());
        let (in_use, files) = queries.load(&mut planner)?;
        log.note(queries.control());
        supervisor::adopt(&registry, in_use, |_| {});
        let watch =
            QueryWatch::start(planner, files, config.alarms.clone()).map_err(QueriesError::from)?;
        let runtime = Arc::new(Runtime::start(config.workers)?);
        let clickhouse_status = Arc::new(RwLock::new(match &config.sink {
            None => ClickHouseStatus::NotUsed,
            Some(_) => ClickHouseStatus::Away { reason: "not connected yet".to_string() },
        }));
        let (requests_sender, requests) = mpsc::unbounded_channel();
        let tasks = Tasks::new(config.alarms);
        let dismissed = Arc::new(dismissed);
        let failure_memory = Arc::new(FailureMemory::new(config.limits.dead_letters_bytes_max));
        let letters = Letters {
            log: log.clone(),
            registry: Arc::clone(&registry),
            dismissed: Arc::clone(&dismissed),
            unread: Arc::new(Unread::new(Arc::clone(&failure_memory))),
        };
        let backend = EngineBackend {
            log: log.clone(),
            runtime: Arc::clone(&runtime),
            registry: Arc::clone(&registry),
            clickhouse: Arc::clone(&clickhouse_status),
            requests: requests_sender.clone(),
            letters,
        };
        let supervisor = Supervisor {
            sink: config.sink,
            clickhouse_status,
            log: log.clone(),
            runtime: Arc::clone(&runtime),
            registry,
            queries,
            watch,
            dismissed,
            failure_memory,
            requests,
            requests_sender,
            tasks: tasks.clone(),
        };
        let (limits, gate, tls) = (config.limits, config.gate, config.tls);
        let backend = Arc::new(backend);
        Ok(Engine { limits, gate, tls, log, runtime, backend, supervisor, tasks })
    }

    /// Serves on `listener` until `shutdown` resolves or a part fails, then ends everything in
    /// order: requests, feeding, the last flushes, the log, the workers. Takes a few seconds at
    /// most: what does not end in time is left to the end of the process, which costs no event.
    pub async fn serve(
        self,
        listener: TcpListener,
        shutdown: impl Future<Output = ()>,
    ) -> Result<(), EngineError> {
        let Engine { limits, gate, tls, log, runtime, backend, supervisor, tasks } = self;
        tasks.spawn("views", supervisor.run());
        let clock = clock::watch(log.clone(), tasks.alarms().clone(), tasks.stopping().clone());
        tasks.spawn("clock", clock.map(Ok));
        tasks.spawn("log", {
            let (log, stopping) = (log.clone(), tasks.stopping().clone());
            async move {
                tokio::select! {
                    () = stopping.cancelled() => Ok(()),
                    reason = log.failed() => Err(EngineError::LogFailed(reason)),
                }
            }
        });
        let backend = backend as Arc<dyn crate::status::Backend>;
        let state = AppState::new(log.clone(), backend, limits, tasks.alarms().clone(), gate);
        let stopping = tasks.stopping().clone();
        let ends = async move {
            tokio::select! {
                () = shutdown => {}
                () = stopping.cancelled() => {}
            }
        };
        if let Err(error) = http::serve(listener, tls, state, ends).await {
            tasks.fail("http", EngineError::Serve(error));
        }
        if !tasks.end(END_TIME_MAX).await {
            tracing::warn!("what is not in ClickHouse yet is written after the next start");
        }
        let closed = tokio::task::spawn_blocking(move || {
            log.close();
            runtime.shutdown();
        });
        if tokio::time::timeout(CLOSE_TIME_MAX, closed).await.is_err() {
            tracing::warn!("a worker is still computing: it ends with the process");
        }
        tasks.failure().map_or(Ok(()), Err)
    }
}
