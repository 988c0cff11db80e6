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
mod memory;
mod planner;
mod queries;
mod read_side;
mod registry;
mod set_aside;
mod snapshot_check;
mod snapshots;
mod supervisor;
mod tasks;
mod tracker;
pub mod trial;
mod trim;
mod unread;
mod write_side;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;

use crate::dataflow::RuntimeError;
use crate::log::LogError;
use crate::sink::SinkError;
pub use dismissed::write_told as write_dismissals;
use queries::QueriesError;
pub use queries::files_in_use;
pub use read_side::{ReadSide, ReadSideConfig};
pub use tasks::{Tasks, blocking};
pub use trim::{ViewFloor, view_floors};
pub use write_side::{ArchiveConfig, WriteSide, WriteSideConfig};

/// The files of a data directory that the views' state is kept in beside the log and snapshots.
pub const STATE_FILES: [&str; 4] =
    [queries::KEPT_FILE, dismissed::FILE, set_aside::FILE, write_side::CATALOG_FILE];

/// Why a server does not run.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    #[error(transparent)]
    Log(#[from] LogError),
    #[error(transparent)]
    Queries(#[from] QueriesError),
    #[error("dismissed.json in the data directory: {0}")]
    Dismissals(std::io::Error),
    #[error("the query files have errors, and nobody can tell what their views need:\n{0}")]
    QueryFile(String),
    #[error("the snapshots: {0}")]
    Snapshots(std::io::Error),
    #[error("what is set aside, in the data directory: {0}")]
    SetAside(std::io::Error),
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

/// How long the feeder, the sinks and the supervisor may take to end, the last flushes and snapshots
/// included.
const END_TIME_MAX: Duration = Duration::from_secs(6);
/// How long the workers and the log may take to end after them.
const CLOSE_TIME_MAX: Duration = Duration::from_secs(1);

/// Both sides in one process, until `shutdown` resolves or a part fails; then everything ends in
/// order: requests, feeding, the last flushes, the log, the workers. Takes a few seconds at most:
/// what does not end in time is left to the end of the process, which costs no event.
pub async fn serve_both(
    write: WriteSideConfig,
    read: ReadSideConfig,
    tasks: Tasks,
    listener: TcpListener,
    started: impl FnOnce(),
    shutdown: impl Future<Output = ()>,
) -> Result<(), EngineError> {
    let write = WriteSide::open(write, tasks.clone())?;
    let (log, catalog) = (write.log().clone(), Arc::new(write.catalog().clone()));
    let read = ReadSide::open(read, log.follower(), catalog, tasks.clone())?;
    started();
    let backend = read.backend();
    let read = read.start();
    let in_order = read.clone();
    let shutdown = async move {
        shutdown.await;
        in_order.end_in_order();
    };
    write.serve(listener, backend, shutdown).await;
    end(&tasks, move || {
        log.close();
        read.close();
    })
    .await
}

/// Ends the parts, and then what is under them; the error of the part that failed first.
pub async fn end(tasks: &Tasks, close: impl FnOnce() + Send + 'static) -> Result<(), EngineError> {
    if !tasks.end(END_TIME_MAX).await {
        tracing::warn!("what is not in ClickHouse yet is written after the next start");
    }
    let closed = tokio::task::spawn_blocking(close);
    if tokio::time::timeout(CLOSE_TIME_MAX, closed).await.is_err() {
        tracing::warn!("a worker is still computing: it ends with the process");
    }
    tasks.failure().map_or(Ok(()), Err)
}
