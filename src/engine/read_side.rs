//! The read side: plans the query files, keeps the views, writes them to sinks. It follows a log that
//! this process writes, or another one.

use std::path::PathBuf;
use std::sync::{Arc, RwLock};

use tokio::sync::mpsc;

use super::EngineError;
use super::backend::EngineBackend;
use super::dead_letters::Letters;
use super::dismissed::Dismissals;
use super::follow::QueryWatch;
use super::planner::Planner;
use super::queries::{Queries, QueriesError};
use super::registry::Registry;
use super::supervisor::{self, Supervisor};
use super::tasks::Tasks;
use super::unread::Unread;
use crate::dataflow::{FailureMemory, Runtime};
use crate::decode::CatalogReceiver;
use crate::log::LogFollower;
use crate::model::limits::Limits;
use crate::sink::SinkConfig;
use crate::status::{Backend, ClickHouseStatus};

/// Options of a read side.
pub struct ReadSideConfig {
    pub data_dir: PathBuf,
    pub queries: PathBuf,
    pub workers: usize,
    pub limits: Limits,
    /// `None`: views are kept and readable over HTTP, but written nowhere.
    pub sink: Option<Arc<dyn SinkConfig>>,
}

/// A read side with its queries planned and its workers running.
pub struct ReadSide {
    runtime: Arc<Runtime>,
    backend: Arc<EngineBackend>,
    supervisor: Supervisor,
    tasks: Tasks,
}

impl ReadSide {
    /// Plans the queries, offers their catalog, starts the workers. Nothing is fed yet. Blocking.
    pub fn open(
        config: ReadSideConfig,
        log: LogFollower,
        catalog: Arc<dyn CatalogReceiver>,
        tasks: Tasks,
    ) -> Result<ReadSide, EngineError> {
        let history = log.history().to_string();
        let mut planner = Planner::new(&config.queries, history, config.limits.clone());
        let mut queries =
            Queries::open(&config.data_dir, &mut planner).map_err(QueriesError::from)?;
        let dismissed = Dismissals::open(&config.data_dir).map_err(EngineError::Dismissals)?;
        let registry = Arc::new(Registry::default());
        let (in_use, files) = queries.load(&mut planner)?;
        supervisor::adopt(&registry, catalog.as_ref(), in_use, |_| {});
        let watch = QueryWatch::start(planner, files, tasks.alarms().clone())
            .map_err(QueriesError::from)?;
        let runtime = Arc::new(Runtime::start(config.workers)?);
        let clickhouse_status = Arc::new(RwLock::new(match &config.sink {
            None => ClickHouseStatus::NotUsed,
            Some(_) => ClickHouseStatus::Away { reason: "not connected yet".to_string() },
        }));
        let (requests_sender, requests) = mpsc::unbounded_channel();
        let dismissed = Arc::new(dismissed);
        let failure_memory = Arc::new(FailureMemory::new(config.limits.dead_letters_bytes_max));
        let letters = Letters {
            log: log.clone(),
            registry: Arc::clone(&registry),
            dismissed: Arc::clone(&dismissed),
            unread: Arc::new(Unread::new(Arc::clone(&failure_memory))),
        };
        let backend = Arc::new(EngineBackend {
            log: log.clone(),
            runtime: Arc::clone(&runtime),
            registry: Arc::clone(&registry),
            clickhouse: Arc::clone(&clickhouse_status),
            requests: requests_sender.clone(),
            letters,
        });
        let supervisor = Supervisor {
            sink: config.sink,
            clickhouse_status,
            log,
            catalog,
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
        Ok(ReadSide { runtime, backend, supervisor, tasks })
    }

    /// What answers requests about the views.
    pub fn backend(&self) -> Arc<dyn Backend> {
        Arc::clone(&self.backend) as Arc<dyn Backend>
    }

    /// Begins to feed the views, once the catalog is adopted. The workers are left to be stopped when
    /// the tasks have ended.
    pub fn start(self) -> Arc<Runtime> {
        self.tasks.spawn("views", self.supervisor.run());
        self.runtime
    }
}
