//! The durable log: what is acknowledged is on disk, once, in one order.
//!
//! One thread writes. It gathers the requests that wait, writes them as one frame with one tick,
//! calls `fdatasync` once and then answers all of them. Before it writes, it decides which events are
//! new, what versions they get in their streams, and which requests conflict. Readers stream frames
//! from any position and follow the tail, or read a stream.
//!
//! A commit may also be a clock frame, which says that time has passed, or a control frame, which
//! tells what else happened to the log. Segments of an earlier format are read, and rewritten one by
//! one in the background. `docs/log-format.md` states the formats.
//!
//! Damage is found when the log is opened or when it is read, and is an alarm from then on. A full disk
//! refuses appends until there is room; a failed sync ends the log.

mod admit;
mod archive;
mod committer;
mod control;
mod copy;
mod fetch;
mod files;
mod follower;
mod format;
mod frame;
mod frame_v1;
mod index;
mod inspect;
mod known;
mod list;
mod reader;
mod recovery;
mod remote;
mod repair;
mod rewrite;
mod rows;
mod segment;
mod trim;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{oneshot, watch};
use uuid::Uuid;

use crate::model::alarm::{Alarms, Part};
use crate::model::event::{Append, Appended, EventRef, NewEvent};
use crate::model::{Head, Position, json};
use admit::Hashed;
pub use committer::LogStats;
use committer::{Answer, AppendRequest, Committer};
pub use control::{Control, DismissedLetters, QueriesInUse, QueryFile};
pub use copy::{CopiedSegment, CutLog, LogCopy, cut, first_tick, segments_until};
pub use files::{DiskFiles, Fault, FaultyFiles, FileHandle, Files};
pub use follower::{LogFollower, LogWriterRequests};
pub use frame::{Frame, FrameError, FrameKind, NumberedEvent};
use index::{Digester, Index, IndexError};
pub use inspect::{Examination, Finding, LogInfo, examine, info, readable, verify};
pub use list::Gap;
use list::{SegmentList, Segments};
pub use reader::LogReader;
pub use repair::Repair;
use rewrite::Rewriter;
pub use trim::{Trim, TrimBefore, trimmed};

/// How a log is kept.
#[derive(Clone, Debug)]
pub struct LogOptions {
    /// A segment that has grown past this many bytes is followed by a new one. Reading from a
    /// position reads its segment from the beginning, so this bounds that, too.
    pub segment_bytes_max: u64,
    /// Bytes of events that may wait to be written; beyond it appends are refused.
    pub queue_bytes_max: usize,
    /// Most bytes of events that one commit gathers. A larger request is a commit of its own.
    pub group_bytes_max: usize,
    /// How long a request can be repeated by its key, in milliseconds.
    pub request_life_ms: u64,
    /// Bytes a second that are read and written to rewrite segments of an earlier format.
    pub rewrite_bytes_per_s: u64,
    /// Segments whose events are older than this, in milliseconds, are archived.
    pub archive_after_ms: Option<u64>,
    /// The object store that archived segments are moved to; `None`: they stay.
    pub archive_to: Option<String>,
    /// Where damage and a full disk are reported.
    pub alarms: Alarms,
}

impl Default for LogOptions {
    fn default() -> Self {
        LogOptions {
            segment_bytes_max: 64 << 20,
            queue_bytes_max: 64 << 20,
            group_bytes_max: 8 << 20,
            request_life_ms: 24 * 60 * 60 * 1000,
            rewrite_bytes_per_s: 16 << 20,
            archive_after_ms: None,
            archive_to: None,
            alarms: Alarms::default(),
        }
    }
}

/// Why a log cannot be opened or read.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The file system refused.
    #[error("{path}: {source}")]
    Io {
        /// The file or directory.
        path: String,
        /// The operating system's error.
        source: std::io::Error,
    },
    /// Another process has the log open.
    #[error("{path} is in use by another process: stop it, or name another --data-dir")]
    Locked {
        /// The file or directory.
        path: String,
    },
    /// A file has other bytes than were written to it.
    #[error("{segment} is damaged at offset {offset}: {what}; {REMEDY}")]
    Damaged {
        /// The name of the file.
        segment: String,
        /// Where in the file, in bytes.
        offset: u64,
        /// The damage.
        what: String,
    },
    /// A file is whole, and a later version of Heliostat has written it.
    #[error("{segment}, offset {offset}: {what}: nothing is damaged, and nothing was changed")]
    Newer {
        /// The name of the file.
        segment: String,
        /// Where in the file, in bytes.
        offset: u64,
        /// The unknown part, and the version that knows it.
        what: String,
    },
    /// A segment that was there is gone.
    #[error("segment {segment} is missing: put it back, or {REMEDY}")]
    Missing {
        /// The name of the file.
        segment: String,
    },
    /// Events that are asked for were removed on purpose.
    #[error("events up to position {through} were trimmed from the log{}", trimmed_hint(*.stream_from))]
    Trimmed {
        /// The last position that is gone.
        through: Position,
        /// The first version of the stream in question that is there.
        stream_from: Option<u64>,
    },
    /// The directory holds something else.
    #[error("{path} is not a log: {what}")]
    NotALog {
        /// The file or directory.
        path: String,
        /// The problem.
        what: String,
    },
    /// The indexes beside the log failed.
    #[error(transparent)]
    Index(#[from] IndexError),
}

/// Advice to the operator about damage.
const REMEDY: &str = "run `heliostat log verify`, which lists all damage, and, once the server is stopped, `heliostat log repair`, which says what would be lost";

/// Advice to whoever asks for events that were trimmed.
fn trimmed_hint(stream_from: Option<u64>) -> String {
    match stream_from {
        Some(version) => format!(": this stream can be read from version {version} on"),
        None => ": a backup of before has them".to_string(),
    }
}

impl LogError {
    /// Damage at an offset of a segment.
    fn damaged(segment: impl Into<String>, offset: u64, what: impl std::fmt::Display) -> LogError {
        LogError::Damaged { segment: segment.into(), offset, what: what.to_string() }
    }

    /// The error for bytes at an offset of a file that a later version has written.
    fn newer(segment: impl Into<String>, offset: u64, what: impl std::fmt::Display) -> LogError {
        LogError::Newer { segment: segment.into(), offset, what: what.to_string() }
    }

    /// Damage of the frame that holds a position, where nobody knows the segment.
    pub fn of_position(position: Position, what: impl std::fmt::Display) -> LogError {
        LogError::damaged(format!("that holds position {position}"), 0, what)
    }

    /// The error of reading a file of the log.
    fn of_file(name: &str, source: std::io::Error) -> LogError {
        match source.kind() {
            std::io::ErrorKind::NotFound => LogError::Missing { segment: name.to_string() },
            std::io::ErrorKind::InvalidData => LogError::damaged(name, 0, source),
            _ => LogError::Io { path: name.to_string(), source },
        }
    }

    /// Whether something that was written is lost or has changed.
    pub fn is_damage(&self) -> bool {
        matches!(self, LogError::Damaged { .. } | LogError::Missing { .. })
    }

    /// Makes it an alarm, if it tells of something that stays wrong.
    fn raise(&self, alarms: &Alarms) {
        let subject = match self {
            LogError::Damaged { segment, .. }
            | LogError::Missing { segment }
            | LogError::Newer { segment, .. } => segment,
            LogError::Io { path, .. } => path,
            LogError::Index(_) => "index",
            LogError::Locked { .. } | LogError::NotALog { .. } | LogError::Trimmed { .. } => return,
        };
        alarms.raise(Part::Log, subject, self.to_string());
    }
}

/// Why events were not appended. None of the request's events is in the log, or, after `Stopped`,
/// it may be that all are.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// Too much is waiting for the disk already.
    #[error("{queued_bytes} bytes wait for the disk, the limit is {queue_bytes_max}")]
    Busy {
        /// Bytes of events that wait.
        queued_bytes: usize,
        /// Most bytes that may wait.
        queue_bytes_max: usize,
    },
    /// The log has failed or is closing.
    #[error("the log accepts no events: {reason}")]
    Stopped {
        /// Why.
        reason: String,
    },
    /// There is no room for the events. Once there is, appends work again.
    #[error("the disk of the log is full: {reason}")]
    Full {
        /// Why.
        reason: String,
    },
    /// An event of the same identity is in the log, and cannot be read for a comparison.
    #[error("{reason}")]
    Unreadable {
        /// Why.
        reason: String,
        /// Whether a file is damaged, or could only not be read now.
        damaged: bool,
    },
    /// Nobody can say now which events are in the log already.
    #[error("{reason}")]
    Unindexed {
        /// Why.
        reason: String,
    },
    /// Events exclude each other or do not follow what is in the log.
    #[error("{} conflicts with what is in the log", .0.len())]
    Conflicts(Vec<Conflict>),
    /// These events are new, and among those that the request says are to be refused.
    #[error("{} events do not fit", .0.len())]
    Misfits(Vec<usize>),
    /// Another request was made under the same key.
    #[error("another request was made under this key")]
    KeyReused,
}

/// Why an event cannot be appended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Conflict {
    /// An event of the same identity and other content is at this position.
    Id {
        /// Which event of the request, from 0.
        index: usize,
        /// The position in the log.
        position: Position,
    },
    /// The stream is not at the version that is expected.
    Version {
        /// Which event of the request, from 0.
        index: usize,
        /// The version that the request expects.
        expected: u64,
        /// The version that the stream has.
        current: u64,
        /// The number of earlier events in the request that would raise that version.
        earlier: u64,
    },
}

/// A handle on an open log; clones share it. The log closes with [`Log::close`] or the last handle.
#[derive(Clone)]
pub struct Log {
    id: Uuid,
    files: Arc<dyn Files>,
    segments: Arc<Segments>,
    index: Arc<Index>,
    alarms: Alarms,
    digester: Digester,
    committer: Arc<Committer>,
    rewriter: Arc<Rewriter>,
}

/// The indexes' directory beside the segments.
const INDEX_DIRECTORY: &str = "index";

impl Log {
    /// Opens the log in a directory, which is created if it is missing.
    pub fn open(directory: &Path, options: LogOptions) -> Result<Log, LogError> {
        let files = DiskFiles::open(directory)?;
        Log::open_in(Arc::new(files), Some(&directory.join(INDEX_DIRECTORY)), options)
    }

    /// Opens the log kept in these files, with indexes in memory only.
    pub fn open_with(files: Arc<dyn Files>, options: LogOptions) -> Result<Log, LogError> {
        Log::open_in(files, None, options)
    }

    /// Recovers the log and its indexes, and starts its thread.
    fn open_in(
        files: Arc<dyn Files>,
        index_directory: Option<&Path>,
        options: LogOptions,
    ) -> Result<Log, LogError> {
        let recovered = recovery::recover(files.as_ref(), &options.alarms)?;
        let (id, segments) = (recovered.id, Arc::clone(&recovered.segments));
        let index = Arc::new(Index::open(&files, index_directory, &recovered, &options)?);
        let alarms = options.alarms.clone();
        let committer =
            Committer::start(Arc::clone(&files), recovered, Arc::clone(&index), options.clone())?;
        let (shared, for_index) = (Arc::clone(&segments), Arc::clone(&index));
        let rewriter = Rewriter::start(Arc::clone(&files), shared, for_index, &options)?;
        let (digester, committer) = (Digester::new(id), Arc::new(committer));
        let rewriter = Arc::new(rewriter);
        Ok(Log { id, files, segments, index, alarms, digester, committer, rewriter })
    }

    /// The log's identity, made when it was created.
    pub fn id(&self) -> Uuid {
        self.id
    }

    /// The log's identity, which changes each time that a loss of events is accepted: results that were
    /// computed of another history do not hold for this one.
    pub fn history(&self) -> String {
        self.segments.ask(SegmentList::history)
    }

    /// The part of the log that is on disk.
    pub fn head(&self) -> Head {
        *self.committer.head().borrow()
    }

    /// Follows what is on disk.
    pub fn subscribe(&self) -> watch::Receiver<Head> {
        self.committer.head()
    }

    /// Appends events, all or none, and returns once they are on disk. Events that are in the log
    /// already are not stored again.
    ///
    /// Dropping the future does not take the events back.
    pub async fn append(&self, append: impl Into<Append>) -> Result<Appended, AppendError> {
        let ended = || AppendError::Stopped { reason: "its thread has ended".to_string() };
        let mut hashed = Hashed::new(append.into(), &self.digester);
        loop {
            let (answer, answered) = oneshot::channel();
            self.committer.submit(AppendRequest::new(hashed, answer))?;
            match answered.await.map_err(|_| ended())? {
                Answer::Done(result) => return result,
                Answer::Unsure(request, places) => {
                    let log = self.clone();
                    let compared =
                        tokio::task::spawn_blocking(move || log.compare(*request, places));
                    hashed = compared.await.map_err(|_| ended())??;
                }
            }
        }
    }

    /// Looks whether events have the content of those that are at these positions. Identities are
    /// for ever, so that what is found stays true.
    fn compare(
        &self,
        mut request: Hashed,
        mut places: Vec<(usize, Position)>,
    ) -> Result<Hashed, AppendError> {
        places.sort_unstable_by_key(|(_, position)| *position);
        // Their bytes differ, and nobody can tell any more whether their meaning does.
        let trimmed = self.segments.ask(SegmentList::trimmed_through);
        let conflict = |(index, position)| Conflict::Id { index, position };
        if let Some((_, first)) = places.first()
            && *first <= trimmed
        {
            let gone = places.into_iter().filter(|(_, position)| *position <= trimmed);
            return Err(AppendError::Conflicts(gone.map(conflict).collect()));
        }
        let positions: Vec<Position> = places.iter().map(|(_, position)| *position).collect();
        let mut next = places.iter();
        self.visit_events(&positions, |stored| {
            let place = next.find(|(_, position)| *position == stored.position);
            if let Some((index, position)) = place
                && same_event(&request.append.events[*index], stored)
            {
                request.same.insert(*index, *position);
            }
            true
        })
        .map_err(|error| AppendError::Unreadable {
            damaged: error.is_damage(),
            reason: format!("an event of the same id cannot be compared: {error}"),
        })?;
        let other = places.into_iter().filter(|(index, _)| !request.same.contains_key(index));
        let mut conflicts: Vec<_> = other.collect();
        if conflicts.is_empty() {
            return Ok(request);
        }
        conflicts.sort_unstable();
        Err(AppendError::Conflicts(conflicts.into_iter().map(conflict).collect()))
    }

    /// Hands the events at these positions, which ascend, to `visit`, until it returns false.
    /// Blocking.
    pub fn visit_events(
        &self,
        positions: &[Position],
        visit: impl FnMut(&EventRef<'_>) -> bool,
    ) -> Result<(), LogError> {
        if let Some(first) = positions.first() {
            self.segments.ask(|list| list.expect_untrimmed(first.saturating_sub(1)))?;
        }
        let log = (&*self.segments, &*self.index);
        let visited = fetch::visit_events(self.files.as_ref(), log, positions, visit);
        visited.inspect_err(|error| error.raise(&self.alarms))
    }

    /// Reads a stream from a version on: hands at most `limit` events to `visit`, until it returns
    /// false. Returns the stream's version, 0 for one that does not exist. Blocking.
    pub fn read_stream(
        &self,
        stream: &str,
        from_version: u64,
        limit: usize,
        visit: impl FnMut(&EventRef<'_>) -> bool,
    ) -> Result<u64, LogError> {
        let hash = self.digester.name(stream);
        let version = self.index.stream_version(hash)?;
        if from_version <= version {
            let positions = self.index.stream_positions(hash, from_version, limit)?;
            let through = self.segments.ask(SegmentList::trimmed_through);
            if positions.first().is_some_and(|first| *first <= through) {
                let stream_from =
                    Some(self.first_untrimmed(hash, (from_version, version), through)?);
                return Err(LogError::Trimmed { through, stream_from });
            }
            self.visit_events(&positions, visit)?;
        }
        Ok(version)
    }

    /// The first version of a stream whose event is behind a position; one of `from` is not, and that
    /// behind `to` is none.
    fn first_untrimmed(
        &self,
        stream: u128,
        (mut from, mut to): (u64, u64),
        through: Position,
    ) -> Result<u64, LogError> {
        to += 1;
        while from + 1 < to {
            let middle = from + (to - from) / 2;
            let at = self.index.stream_positions(stream, middle, 1)?.first().copied();
            if at.is_some_and(|at| at <= through) { from = middle } else { to = middle }
        }
        Ok(to)
    }

    /// Reads from behind a position: 0 reads everything. Fails with [`LogError::Trimmed`] if not all of
    /// it is there any more.
    pub fn read(&self, after: Position) -> Result<LogReader, LogError> {
        let (files, segments) = (Arc::clone(&self.files), Arc::clone(&self.segments));
        let reader = LogReader::open(files, segments, self.subscribe(), after);
        let reader = reader.inspect_err(|error| error.raise(&self.alarms))?;
        Ok(reader.with(Some(Arc::clone(&self.index)), self.alarms.clone()))
    }

    /// While nothing is appended, writes an empty frame each time that `interval` has passed. So views that
    /// depend on time are the same after a restart. `None` stops that.
    pub fn keep_time(&self, interval: Option<Duration>) {
        self.committer.keep_time(interval);
    }

    /// Appends a control frame, which is on disk when the answer comes: the head as of then. Nothing
    /// is written for a set of query files that is in use already. The frame is queued when this
    /// returns, whether or not anybody waits for the answer; a frame that cannot be written is
    /// logged.
    pub fn control(
        &self,
        control: Control,
    ) -> impl Future<Output = Result<Head, AppendError>> + use<> {
        let submitted = self.committer.submit_control(control);
        async move {
            let ended = || AppendError::Stopped { reason: "its thread has ended".to_string() };
            submitted?.await.map_err(|_| ended())?
        }
    }

    /// Queues a control frame, if there is one to write, and does not wait for it.
    pub fn note(&self, control: Option<Control>) {
        if let Some(control) = control {
            drop(self.control(control));
        }
    }

    /// The epoch that this log is written in: one more than when it was opened before.
    pub fn epoch(&self) -> u64 {
        self.segments.ask(|list| list.epoch)
    }

    /// Resolves with the reason once the log has failed. Never resolves for a log that is closed.
    pub async fn failed(&self) -> String {
        let mut failure = self.committer.failure();
        let failed = failure.wait_for(Option::is_some).await.map(|reason| reason.clone());
        match failed {
            Ok(reason) => reason.unwrap_or_default(),
            Err(_) => std::future::pending().await,
        }
    }

    /// Why appends do not work now, though they will again.
    pub fn refuses(&self) -> Option<String> {
        self.committer.refuses()
    }

    /// Writes what waits and stops.
    pub fn close(&self) {
        self.rewriter.close();
        self.committer.close();
        self.index.close();
    }

    /// The bytes that the indexes take on disk.
    pub fn index_bytes(&self) -> u64 {
        self.index.disk_bytes()
    }

    /// Counters since the log was opened.
    pub fn stats(&self) -> LogStats {
        self.committer.stats()
    }
}

/// Whether an event would be the same as one in the log: identity, type, version, stream, and data as
/// a JSON value.
fn same_event(event: &NewEvent, stored: &EventRef<'_>) -> bool {
    (event.source.as_str(), event.id.as_str()) == (stored.source, stored.id)
        && (event.event_type.as_str(), event.version) == (stored.event_type, stored.version)
        && event.stream.as_deref() == stored.stream
        && json::equal(&event.data, stored.data)
}

/// The directory of the log inside a data directory.
pub fn directory(data_dir: &Path) -> PathBuf {
    data_dir.join("log")
}
