//! The read side: plans the query files, keeps the views, writes them to sinks. It follows a log that
//! this process writes, or another one.

use std::path::PathBuf;
use std::sync::{Arc, RwLock};
use std::time::Duration;

use futures::FutureExt;
use tokio::sync::mpsc;

use super::EngineError;
use super::backend::{ConnectedSink, EngineBackend};
use super::dead_letters::Letters;
use super::dismissed::Dismissals;
use super::follow::QueryWatch;
use super::memory::{MemoryPressure, MemoryWatch};
use super::planner::Planner;
use super::queries::{Queries, QueriesError};
use super::registry::Registry;
use super::set_aside::SetAside;
use super::snapshots::{self, SnapshotPace};
use super::supervisor::{self, Supervisor};
use super::tasks::Tasks;
use super::unread::Unread;
use crate::dataflow::{FailureMemory, Runtime, RuntimeOptions, Spill, ViewLimits};
use crate::decode::CatalogReceiver;
use crate::log::LogFollower;
use crate::model::limits::Limits;
use crate::model::memory::MemoryEnd;
use crate::sink::SinkConfig;
use crate::status::{Backend, ClickHouseStatus};

/// One part in this many of the memory budget is for partitions that operators hold in order.
const PARTITION_SHARE: u64 = 8;

/// Options of a read side.
pub struct ReadSideConfig {
    pub data_dir: PathBuf,
    pub queries: PathBuf,
    pub workers: usize,
    /// Bytes of memory that the process may take. Beyond it views wait, and are set aside.
    pub memory_bytes_max: u64,
    pub limits: Limits,
    /// How the read side before this one ended, if it was killed for its memory.
    pub memory_end: Option<MemoryEnd>,
    /// `None`: views are kept and readable over HTTP, but written nowhere.
    pub sink: Option<Arc<dyn SinkConfig>>,
}

/// A read side with its queries planned and its workers running.
pub struct ReadSide {
    runtime: Arc<Runtime>,
    backend: Arc<EngineBackend>,
    supervisor: Supervisor,
    memory: MemoryWatch,
    set_aside: Arc<SetAside>,
    tasks: Tasks,
}

/// A read side that feeds its views. Clones share it.
#[derive(Clone)]
pub struct RunningReadSide {
    runtime: Arc<Runtime>,
    set_aside: Arc<SetAside>,
}

impl RunningReadSide {
    /// The end is meant: from now on nothing is any view's fault.
    pub fn end_in_order(&self) {
        self.set_aside.marker().end_in_order();
    }

    /// Stops the workers, once the tasks have ended. Blocking.
    pub fn close(&self) {
        self.runtime.shutdown();
    }
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
        log.note(queries.control());
        supervisor::adopt(&registry, catalog.as_ref(), in_use, |_| {});
        let watch = QueryWatch::start(planner, files, tasks.alarms().clone())
            .map_err(QueriesError::from)?;
        let set_aside = SetAside::open(&config.data_dir, config.workers, config.memory_end);
        let set_aside = Arc::new(set_aside.map_err(EngineError::SetAside)?);
        let stuck_max = Duration::from_millis(config.limits.worker_stuck_ms_max);
        set_aside.watch(stuck_max).map_err(EngineError::SetAside)?;
        let spill = Arc::new(Spill::new(&config.data_dir));
        let runtime = Arc::new(Runtime::with(RuntimeOptions {
            workers: config.workers,
            limits: ViewLimits::from(&config.limits),
            marker: Some(set_aside.marker()),
            spill: Some(Arc::clone(&spill)),
            partition_bytes_max: (config.memory_bytes_max / PARTITION_SHARE) as usize,
        })?);
        let memory = MemoryWatch {
            bytes_max: config.memory_bytes_max,
            pressure: MemoryPressure::default(),
            runtime: Arc::clone(&runtime),
            spill,
            registry: Arc::clone(&registry),
        };
        let clickhouse_status = Arc::new(RwLock::new(match &config.sink {
            None => ClickHouseStatus::NotUsed,
            Some(_) => ClickHouseStatus::Away { reason: "not connected yet".to_string() },
        }));
        let (requests_sender, requests) = mpsc::unbounded_channel();
        let snapshots = {
            // What was being written when the process died, or the power failed, is looked at first.
            let checked_bytes_max = match set_aside.ended_in_order() {
                true => config.limits.snapshot_checked_bytes_max,
                false => u64::MAX,
            };
            snapshots::open(&config.data_dir, log.history(), checked_bytes_max, tasks.alarms())
        };
        let dismissed = Arc::new(dismissed);
        let failure_memory = Arc::new(FailureMemory::new(config.limits.dead_letters_bytes_max));
        let letters = Letters {
            log: log.clone(),
            registry: Arc::clone(&registry),
            dismissed: Arc::clone(&dismissed),
            unread: Unread::new(Arc::clone(&failure_memory)),
        };
        let connected = ConnectedSink::default();
        let backend = Arc::new(EngineBackend {
            log: log.clone(),
            runtime: Arc::clone(&runtime),
            registry: Arc::clone(&registry),
            clickhouse: Arc::clone(&clickhouse_status),
            requests: requests_sender.clone(),
            letters,
            sink: Arc::clone(&connected),
            mending: tokio::sync::Mutex::default(),
        });
        let supervisor = Supervisor {
            sink: config.sink,
            connected,
            data_dir: config.data_dir,
            clickhouse_status,
            log,
            catalog,
            runtime: Arc::clone(&runtime),
            registry,
            queries,
            watch,
            dismissed,
            failure_memory,
            set_aside: Arc::clone(&set_aside),
            snapshots,
            snapshot_pace: SnapshotPace {
                events_min: config.limits.snapshot_events_min,
                interval_min: Duration::from_millis(config.limits.snapshot_interval_ms_min),
            },
            pressure: memory.pressure.clone(),
            requests,
            requests_sender,
            tasks: tasks.clone(),
        };
        Ok(ReadSide { runtime, backend, supervisor, memory, set_aside, tasks })
    }

    /// The backend: answers requests about the views.
    pub fn backend(&self) -> Arc<dyn Backend> {
        Arc::clone(&self.backend) as Arc<dyn Backend>
    }

    /// Begins to feed the views, once the catalog is adopted.
    pub fn start(self) -> RunningReadSide {
        let ReadSide { runtime, supervisor, memory, set_aside, tasks, .. } = self;
        tasks.spawn("memory", memory.run(tasks.stopping().clone()).map(Ok));
        tasks.spawn("views", supervisor.run());
        RunningReadSide { runtime, set_aside }
    }
}
