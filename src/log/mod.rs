//! The durable log: what is acknowledged is on disk, once, in one order.
//!
//! One thread writes. It gathers the requests that wait, writes them as one frame with one tick,
//! calls `fdatasync` once and then answers all of them. Readers stream frames from any position and
//! follow the tail.

mod committer;
mod files;
mod frame;
mod inspect;
mod reader;
mod recovery;
mod segment;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::{oneshot, watch};
use uuid::Uuid;

use crate::model::event::{Appended, NewEvent};
use crate::model::{Head, Position};
pub use committer::LogStats;
use committer::{Committer, Request};
pub use files::{DiskFiles, Fault, FaultyFiles, FileHandle, Files};
pub use frame::{Frame, FrameEvents};
pub use inspect::{LogInfo, SegmentInfo, info, verify};
pub use reader::LogReader;

/// How a log is kept.
#[derive(Clone, Debug)]
pub struct LogOptions {
    /// A segment that has grown past this many bytes is followed by a new one. Reading from a
    /// position reads its segment from the beginning, so this bounds that, too.
    pub segment_bytes_max: u64,
    /// How many bytes of events may wait to be written before appends are refused.
    pub queue_bytes_max: usize,
    /// How many bytes of events one commit gathers; a single larger request is a commit of its own.
    pub group_bytes_max: usize,
}

impl Default for LogOptions {
    fn default() -> Self {
        LogOptions {
            segment_bytes_max: 64 << 20,
            queue_bytes_max: 64 << 20,
            group_bytes_max: 8 << 20,
        }
    }
}

/// Why a log cannot be opened or read.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The file system refused.
    #[error("{path}: {source}")]
    Io { path: String, source: std::io::Error },
    /// Another process has the log open.
    #[error("{path} is in use by another process: stop it, or name another --data-dir")]
    Locked { path: String },
    /// Bytes that were written whole are not what was written.
    #[error("segment {segment} is damaged at offset {offset}: {what}")]
    Damaged { segment: String, offset: u64, what: String },
    /// The directory holds something else.
    #[error("{path} is not a log: {what}")]
    NotALog { path: String, what: String },
}

/// Why events were not appended. None of the request's events is in the log, or, after `Stopped`,
/// it may be that all are.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// Too much is waiting for the disk already.
    #[error("{queued_bytes} bytes wait for the disk, the limit is {queue_bytes_max}")]
    Busy { queued_bytes: usize, queue_bytes_max: usize },
    /// The log has failed or is closing.
    #[error("the log accepts no events: {reason}")]
    Stopped { reason: String },
}

/// A handle on an open log; clones share it. The log closes with [`Log::close`] or the last handle.
#[derive(Clone)]
pub struct Log {
    id: Uuid,
    files: Arc<dyn Files>,
    committer: Arc<Committer>,
}

impl Log {
    /// Opens the log in a directory, which is created if it is missing.
    pub fn open(directory: &Path, options: LogOptions) -> Result<Log, LogError> {
        let files = DiskFiles::open(directory)?;
        Log::open_with(Arc::new(files), options)
    }

    /// Opens the log kept in these files: recovers it and starts its thread.
    pub fn open_with(files: Arc<dyn Files>, options: LogOptions) -> Result<Log, LogError> {
        let recovered = recovery::recover(files.as_ref())?;
        let id = recovered.id;
        let committer = Committer::start(Arc::clone(&files), recovered, options)?;
        Ok(Log { id, files, committer: Arc::new(committer) })
    }

    /// The log's identity, made when it was created.
    pub fn id(&self) -> Uuid {
        self.id
    }

    /// What is on disk.
    pub fn head(&self) -> Head {
        *self.committer.head().borrow()
    }

    /// Follows what is on disk.
    pub fn subscribe(&self) -> watch::Receiver<Head> {
        self.committer.head()
    }

    /// Appends events, all or none, and returns once they are on disk.
    ///
    /// Dropping the future does not take the events back.
    pub async fn append(&self, events: Vec<NewEvent>) -> Result<Appended, AppendError> {
        let (answer, answered) = oneshot::channel();
        self.committer.submit(Request::new(events, answer))?;
        match answered.await {
            Ok(result) => result,
            Err(_) => Err(AppendError::Stopped { reason: "its thread has ended".to_string() }),
        }
    }

    /// Reads from behind a position: 0 reads everything.
    pub fn read(&self, after: Position) -> Result<LogReader, LogError> {
        LogReader::open(Arc::clone(&self.files), self.subscribe(), after)
    }

    /// Resolves with the reason once the log has failed. Never resolves for a log that is closed.
    pub async fn failed(&self) -> String {
        let mut failure = self.committer.failure();
        match failure.wait_for(Option::is_some).await {
            Ok(reason) => reason.clone().unwrap_or_default(),
            Err(_) => std::future::pending().await,
        }
    }

    /// Writes what waits and stops.
    pub fn close(&self) {
        self.committer.close();
    }

    /// What has been done so far.
    pub fn stats(&self) -> LogStats {
        self.committer.stats()
    }
}

/// The directory of the log inside a data directory.
pub fn directory(data_dir: &Path) -> PathBuf {
    data_dir.join("log")
}
