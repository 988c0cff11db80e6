//! `heliostat read-side`, not for people: the process that keeps the views.

use std::sync::Arc;

use super::super::{DONE, ENVIRONMENT, report};
use super::code_of;
use super::side::{Parent, SideStart};
use crate::decode::CatalogReceiver;
use crate::engine::{self, EngineError, ReadSide, Tasks, blocking};
use crate::link::ReadSideServer;
use crate::log::{self, LogFollower};
use crate::model::alarm::Alarms;

/// The hidden command.
pub const COMMAND: &str = "read-side";

/// The kernel kills this process first when memory runs out.
const OOM_SCORE_ADJ: &str = "1000";

/// Keeps the views until the parent tells to stop; the code to end with.
pub async fn serve(start: SideStart, parent: Parent) -> u8 {
    // Not every system has it, and without it the kernel chooses.
    let _ = std::fs::write("/proc/self/oom_score_adj", OOM_SCORE_ADJ);
    let tasks = Tasks::new(Alarms::default());
    let prepared = tokio::select! {
        prepared = prepare(start, &tasks) => prepared,
        // No view has begun yet.
        () = parent.stopped() => return DONE,
    };
    let PreparedReadSide { link, history, read } = match prepared {
        Ok(prepared) => prepared,
        Err(code) => return code,
    };
    link.answer_by(read.backend());
    let running = read.start();
    let serve = async {
        link.adopted().await;
        parent.is_served();
        link.log_replaced(&history).await;
        tracing::warn!("the log is another one: the views are built anew from it");
    };
    tokio::select! {
        () = serve => {}
        () = parent.stopped() => {}
        () = tasks.stopping().cancelled() => {}
    }
    running.end_in_order();
    let served = engine::end(&tasks, move || running.close()).await;
    if let Err(error) = &served {
        parent.has_failed(error).await;
    }
    code_of(served)
}

/// A read side that may begin.
struct PreparedReadSide {
    link: ReadSideServer,
    /// The log's name.
    history: String,
    read: ReadSide,
}

/// Waits for the write side, and plans the query files; else the code to end with.
async fn prepare(start: SideStart, tasks: &Tasks) -> Result<PreparedReadSide, u8> {
    let SideStart { settings, clickhouse, socket, memory_end, .. } = start;
    let link = ReadSideServer::listen(&socket, tasks.alarms().clone()).map_err(|error| {
        eprintln!("error: {}: {error}", socket.display());
        ENVIRONMENT
    })?;
    let history = link.history().await;
    let directory = log::directory(&settings.data_dir);
    let alarms = tasks.alarms().clone();
    let log = LogFollower::open(&directory, &history, link.head(), alarms, Arc::new(link.clone()));
    let config = settings.read_side(clickhouse, memory_end);
    let catalog = Arc::new(link.clone());
    let tasks = tasks.clone();
    let opening =
        blocking(move || ReadSide::open(config, log.map_err(EngineError::from)?, catalog, tasks));
    let read = opening.await.map_err(|error| {
        report(&error);
        ENVIRONMENT
    })?;
    Ok(PreparedReadSide { link, history, read })
}
