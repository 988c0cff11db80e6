//! Recover, wire, run, drain. The only module that names all the others; it decides nothing.

mod backend;
mod changes;
mod dead_letters;
mod dismissed;
mod feeder;
pub mod local;
mod queries;
mod registry;
mod supervisor;
mod tracker;
mod unread;

use std::future::Future;
use std::path::PathBuf;
use std::sync::{Arc, RwLock};

use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};

use crate::dataflow::{FailureMemory, Runtime, RuntimeError};
use crate::http::{self, AppState, ClickHouseStatus};
use crate::log::{self, Log, LogError, LogOptions};
use crate::model::alarm::Alarms;
use crate::model::limits::Limits;
use crate::sink::{ClickHouseConfig, SinkError};
use backend::EngineBackend;
use dead_letters::Letters;
use dismissed::Dismissed;
use queries::Queries;
use registry::Registry;
use supervisor::Supervisor;
use unread::Unread;

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
    #[error("dismissed.json in the data directory: {0}")]
    Dismissed(std::io::Error),
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
    limits: Limits,
    log: Log,
    runtime: Arc<Runtime>,
    backend: Arc<EngineBackend>,
    supervisor: Supervisor,
    alarms: Alarms,
    stop: watch::Sender<bool>,
}

impl Engine {
    /// Opens the log, plans the queries, starts the workers. Nothing is fed yet.
    pub fn open(config: EngineConfig) -> Result<Engine, EngineError> {
        let options = LogOptions {
            queue_bytes_max: config.limits.append_queue_bytes_max,
            request_life_ms: config.limits.idempotency_key_ms,
            ..LogOptions::default()
        };
        let alarms = Alarms::default();
        let log = Log::open(&log::directory(&config.data_dir), options)?;
        let log_id = log.id().to_string();
        let mut queries = Queries::open(&config.queries, &config.data_dir, log_id)
            .map_err(EngineError::Queries)?;
        let dismissed = Dismissed::open(&config.data_dir).map_err(EngineError::Dismissed)?;
        let registry = Arc::new(Registry::default());
        let in_use = queries.load().map_err(EngineError::Queries)?;
        supervisor::adopt(&registry, in_use, |_| {});
        let runtime = Arc::new(Runtime::start(config.workers)?);
        let clickhouse_status = Arc::new(RwLock::new(match &config.clickhouse {
            None => ClickHouseStatus::NotUsed,
            Some(_) => ClickHouseStatus::Away { reason: "not connected yet".to_string() },
        }));
        let (requests_sender, requests) = mpsc::unbounded_channel();
        let (stop, stopping) = watch::channel(false);
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
            requests: requests_sender,
            letters,
        };
        let supervisor = Supervisor {
            clickhouse: config.clickhouse,
            clickhouse_status,
            log: log.clone(),
            runtime: Arc::clone(&runtime),
            registry,
            queries,
            dismissed,
            failure_memory,
            requests,
            stopping,
        };
        let (limits, backend) = (config.limits, Arc::new(backend));
        Ok(Engine { limits, log, runtime, backend, supervisor, alarms, stop })
    }

    /// Serves on `listener` until `shutdown` resolves or the log fails, then ends everything in
    /// order: requests, feeding, the last flushes, the log.
    pub async fn serve(
        self,
        listener: TcpListener,
        shutdown: impl Future<Output = ()>,
    ) -> Result<(), EngineError> {
        let views = tokio::spawn(self.supervisor.run());
        let backend = self.backend as Arc<dyn http::Backend>;
        let state = AppState::new(self.log.clone(), backend, self.limits, self.alarms);
        let (failed_sender, mut failed) = watch::channel(None);
        let ends = async {
            tokio::select! {
                () = shutdown => {}
                reason = self.log.failed() => { failed_sender.send_replace(Some(reason)); }
            }
        };
        let served = http::serve(listener, state, ends).await.map_err(EngineError::Serve);
        let _ = self.stop.send(true);
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
