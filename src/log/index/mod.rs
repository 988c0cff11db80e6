//! Indexes over the log: which events are known, which streams there are, where frames begin, and
//! which requests can be repeated.
//!
//! They are derived from the log and can be deleted at any time. The newest commits are in memory
//! only; when there are enough of them, or a segment is full, a thread of its own writes them to the
//! store, in sorted runs and behind the back of those who append. After a crash they are read from
//! the log again: mostly from the last segment, so that damage in an older one is in nobody's way.
//!
//! A store that cannot be written is tried again. What it lacks is in memory meanwhile.

mod digest;
mod frames;
mod ids;
mod rebuild;
mod recent;
mod store;
mod streams;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use uuid::Uuid;

pub use digest::{Digest, Digester};
pub use frames::FrameEntry;
pub use ids::IdEntry;
pub use recent::HashKeyed;
use recent::RecentCommits;
use store::Store;

use super::files::{Files, is_full};
use super::frame::KeyedRequest;
use super::recovery::RecoveredLog;
use super::{LogError, LogOptions};
use crate::model::alarm::{Alarms, Part};
use crate::model::{Head, Position, Tick};

/// Events in memory that are written to the store together.
const SPILL_EVENTS: usize = 1 << 18;
/// Appends wait when this many events are in memory and a run is still being written.
const RECENT_EVENTS_MAX: usize = 1 << 20;
/// Repeatable requests that are too old are removed this often within their time.
const SWEEPS_PER_LIFE: u64 = 8;

/// How long to wait before the store is written again after it could not be.
const RETRY_PAUSE: Duration = Duration::from_secs(1);
/// The subject of the alarm while it cannot be written.
const ALARM: &str = "index";

/// The indexes cannot be read or written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the indexes of the log in {path}: {what}: if the disk is sound, remove that directory: it is made from the log again"
)]
pub struct IndexError {
    path: PathBuf,
    what: String,
    /// There was no room to write.
    full: bool,
}

impl IndexError {
    fn new(directory: &Path, error: &fjall::Error) -> Self {
        let mut cause: Option<&dyn std::error::Error> = Some(error);
        let mut full = false;
        while let Some(error) = cause {
            full |= error.downcast_ref().is_some_and(is_full);
            cause = error.source();
        }
        IndexError { path: directory.into(), what: error.to_string(), full }
    }

    fn closed(directory: &Path, what: &str) -> Self {
        IndexError { path: directory.into(), what: what.to_string(), full: false }
    }
}

#[derive(Default)]
struct Memory {
    /// The run that grows; nothing of it is being written to the store.
    active: RecentCommits,
    /// The frozen run that is being written to the store.
    frozen: Option<Arc<RecentCommits>>,
    /// `active` is to be written as soon as `frozen` is.
    wanted: bool,
    /// Why `frozen` is not written, though it was tried.
    failure: Option<IndexError>,
    closing: bool,
}

struct IndexShared {
    memory: Mutex<Memory>,
    /// Notified when `memory` has changed.
    changed: Condvar,
    /// `None` for a log that is in memory itself.
    store: Option<RwLock<IndexStoreState>>,
    directory: PathBuf,
    log_id: Uuid,
    request_life_ms: u64,
    alarms: Alarms,
}

/// The store, or why it could not be opened again after a failure.
type IndexStoreState = Result<Store, IndexError>;

/// The indexes of an open log. One thread applies commits, any may look up.
pub struct Index {
    shared: Arc<IndexShared>,
    writer: Mutex<Option<IndexWriter>>,
}

/// The next thing that the store takes in.
enum IndexWork {
    Run(Arc<RecentCommits>),
    /// Frames whose place has changed. The sender is told when the store has them, or could not be written.
    Moved(Vec<FrameEntry>, mpsc::Sender<Result<(), IndexError>>),
}

struct IndexWriter {
    runs: mpsc::Sender<IndexWork>,
    thread: JoinHandle<()>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Index {
    /// Opens the indexes of a recovered log and brings them up to its end.
    pub fn open(
        files: &Arc<dyn Files>,
        directory: Option<&Path>,
        recovered: &RecoveredLog,
        options: &LogOptions,
    ) -> Result<Index, LogError> {
        let log_id = recovered.id;
        let (store, through) = match directory {
            None => (None, Head::default()),
            Some(directory) => {
                let (store, through) = rebuild::open(files.as_ref(), directory, recovered)?;
                (Some(RwLock::new(Ok(store))), through)
            }
        };
        let shared = Arc::new(IndexShared {
            memory: Mutex::default(),
            changed: Condvar::new(),
            store,
            directory: directory.map(Path::to_path_buf).unwrap_or_default(),
            log_id,
            request_life_ms: options.request_life_ms,
            alarms: options.alarms.clone(),
        });
        let writer = match shared.store {
            None => None,
            Some(_) => Some(IndexWriter::start(Arc::clone(&shared))?),
        };
        let index = Index { shared, writer: Mutex::new(writer) };
        rebuild::apply_tail(&index, files, recovered, through)?;
        if recovered.last_segment.is_some_and(|(file, _)| through.position + 1 < file.first) {
            index.spill();
        }
        Ok(index)
    }

    /// Takes in a commit that is on disk: its events with positions and stream versions.
    pub fn apply(
        &self,
        events: impl Iterator<Item = (Digest, Position, u64)>,
        frame: FrameEntry,
        through: Head,
        requests: Vec<KeyedRequest>,
    ) {
        let mut memory = lock(&self.shared.memory);
        for (digest, position, stream_version) in events {
            memory.active.event(&digest, position, stream_version);
        }
        memory.active.commit(frame, through, requests);
        if memory.wanted || memory.active.ids.len() >= SPILL_EVENTS {
            self.freeze(&mut memory);
        }
    }

    /// Has everything written to the store that is in memory now.
    pub fn spill(&self) {
        let mut memory = lock(&self.shared.memory);
        memory.wanted = true;
        self.freeze(&mut memory);
    }

    /// Sends what is in memory to the store, unless the run before it is not written yet.
    fn freeze(&self, memory: &mut Memory) {
        if self.shared.store.is_none() || memory.active.frames.is_empty() {
            memory.wanted = false;
            return;
        }
        if memory.frozen.is_some() {
            return;
        }
        let run = Arc::new(std::mem::take(&mut memory.active));
        (memory.frozen, memory.wanted) = (Some(Arc::clone(&run)), false);
        if let Some(writer) = &*lock(&self.writer) {
            let _ = writer.runs.send(IndexWork::Run(run));
        }
    }

    /// Notes where the frames of a segment are that is about to be replaced by a file of another
    /// format. Until this was called, and if it fails, they are found by reading the segment.
    pub fn moved(&self, frames: Vec<FrameEntry>) -> Result<(), IndexError> {
        if frames.is_empty() {
            return Ok(());
        }
        let mut memory = lock(&self.shared.memory);
        // Waits until the frozen run is in the store. Written later, it would overwrite these entries.
        while memory.frozen.is_some() {
            if let Some(failure) = &memory.failure {
                return Err(failure.clone());
            }
            memory = self.shared.changed.wait(memory).unwrap_or_else(PoisonError::into_inner);
        }
        for moved in &frames {
            let known = &mut memory.active.frames;
            if let Ok(at) = known.binary_search_by_key(&moved.first_position, |f| f.first_position)
            {
                known[at] = *moved;
            }
        }
        let stored_before = memory.active.frames.first().map(|frame| frame.first_position);
        let stored =
            |frame: &FrameEntry| stored_before.is_none_or(|first| frame.first_position < first);
        let frames: Vec<FrameEntry> = frames.into_iter().filter(stored).collect();
        let (answer, answered) = mpsc::channel();
        match &*lock(&self.writer) {
            Some(writer) if !frames.is_empty() => {
                let _ = writer.runs.send(IndexWork::Moved(frames, answer));
            }
            _ => return Ok(()),
        }
        drop(memory);
        // No answer: the indexes are closing.
        answered.recv().unwrap_or(Ok(()))
    }

    /// Waits until there is room for more events in memory. The error says why there is none, and
    /// that there will be none for a while.
    pub fn wait_for_room(&self) -> Result<(), IndexError> {
        let mut memory = lock(&self.shared.memory);
        while memory.frozen.is_some() && memory.active.ids.len() >= RECENT_EVENTS_MAX {
            if let Some(failure) = &memory.failure {
                return Err(failure.clone());
            }
            memory = self.shared.changed.wait(memory).unwrap_or_else(PoisonError::into_inner);
        }
        Ok(())
    }

    /// The event of this identity.
    pub fn find_id(&self, identity: u128) -> Result<Option<IdEntry>, IndexError> {
        let recent = self.shared.recent(|recent| recent.ids.get(&identity).copied());
        match recent {
            Some(entry) => Ok(Some(entry)),
            None => self.shared.stored(None, |store| store.find_id(identity)),
        }
    }

    /// The version of a stream; 0 for one that does not exist.
    pub fn stream_version(&self, stream: u128) -> Result<u64, IndexError> {
        let recent = self.shared.recent(|recent| recent.streams.get(&stream).map(|t| t.version));
        match recent {
            Some(version) => Ok(version),
            None => self.shared.stored(0, |store| store.stream_version(stream)),
        }
    }

    /// The positions of a stream's events from a version on, at most `limit` of them.
    pub fn stream_positions(
        &self,
        stream: u128,
        from: u64,
        limit: usize,
    ) -> Result<Vec<Position>, IndexError> {
        let from = from.max(1);
        // Memory first: what leaves it in between is in the store by then.
        let mut found = self.shared.recent_positions(stream, from, limit);
        let end = found.first().map_or(u64::MAX, |(version, _)| *version);
        let stored = |store: &Store| store.stream_positions(stream, from..end, limit);
        found.splice(0..0, self.shared.stored(Vec::new(), stored)?);
        Ok(found.into_iter().take(limit).map(|(_, position)| position).collect())
    }

    /// Where the frame is that holds a position, which is one of the log.
    pub fn frame_of(&self, position: Position) -> Result<Option<FrameEntry>, IndexError> {
        let stored_first = |memory: &Memory| {
            let first =
                |recent: &RecentCommits| recent.frames.first().map(|frame| frame.first_position);
            memory.frozen.as_deref().and_then(first).or(first(&memory.active))
        };
        let memory = lock(&self.shared.memory);
        if stored_first(&memory).is_some_and(|first| position >= first) {
            let frozen = memory.frozen.as_ref().and_then(|run| run.frame_of(position));
            return Ok(frozen.or_else(|| memory.active.frame_of(position)));
        }
        drop(memory);
        self.shared.stored(None, |store| store.frame_of(position))
    }

    /// The request that was made under a key and is not too old at `now`.
    pub fn find_request(&self, key: u128, now: Tick) -> Result<Option<KeyedRequest>, IndexError> {
        let recent = self.shared.recent(|recent| recent.requests.get(&key).cloned());
        let found = match recent {
            Some(found) => Some(found),
            None => self.shared.stored(None, |store| store.find_request(key))?,
        };
        let life = self.shared.request_life_ms;
        Ok(found.filter(|(tick, _)| tick.saturating_add(life) > now).map(|(_, request)| request))
    }

    /// The bytes that the store takes on disk.
    pub fn disk_bytes(&self) -> u64 {
        self.shared.stored(0, |store| Ok(store.disk_bytes())).unwrap_or(0)
    }

    /// Waits for a run that is being written, and ends the thread. A run that cannot be written is read from
    /// the log at the next start.
    pub fn close(&self) {
        let mut memory = lock(&self.shared.memory);
        while memory.wanted && memory.frozen.is_some() && memory.failure.is_none() {
            memory = self.shared.changed.wait(memory).unwrap_or_else(PoisonError::into_inner);
        }
        if memory.wanted {
            self.freeze(&mut memory);
        }
        memory.closing = true;
        drop(memory);
        self.shared.changed.notify_all();
        if let Some(IndexWriter { runs, thread }) = lock(&self.writer).take() {
            drop(runs);
            let _ = thread.join();
        }
    }
}

impl Drop for Index {
    fn drop(&mut self) {
        self.close();
    }
}

impl IndexShared {
    /// Asks the commits in memory, the newest first.
    fn recent<T>(&self, ask: impl Fn(&RecentCommits) -> Option<T>) -> Option<T> {
        let memory = lock(&self.memory);
        ask(&memory.active).or_else(|| memory.frozen.as_deref().and_then(ask))
    }

    /// The first versions of a stream from one on that are in memory, at most `limit`.
    fn recent_positions(&self, stream: u128, from: u64, limit: usize) -> Vec<(u64, Position)> {
        let memory = lock(&self.memory);
        let mut found = Vec::new();
        for recent in memory.frozen.as_deref().into_iter().chain([&memory.active]) {
            let Some(tail) = recent.streams.get(&stream) else { continue };
            let first = tail.version + 1 - tail.positions.len() as u64;
            let numbered = (first..).zip(tail.positions.iter().copied());
            let apart = recent.apart.iter().filter(|(name, _, _)| *name == stream);
            let apart = apart.map(|(_, version, position)| (*version, *position));
            let wanted = apart.chain(numbered).filter(|(version, _)| *version >= from);
            found.extend(wanted.take(limit - found.len()));
        }
        found
    }

    fn stored<T>(
        &self,
        without: T,
        ask: impl FnOnce(&Store) -> fjall::Result<T>,
    ) -> Result<T, IndexError> {
        let Some(store) = &self.store else { return Ok(without) };
        let store = store.read().unwrap_or_else(PoisonError::into_inner);
        let store = store.as_ref().map_err(IndexError::clone)?;
        ask(store).map_err(|error| IndexError::new(&self.directory, &error))
    }

    /// Closes the store and opens it again: after a failed write it takes no others.
    fn reopen(&self) {
        let Some(store) = &self.store else { return };
        let mut store = store.write().unwrap_or_else(PoisonError::into_inner);
        // It must be closed first, since it is locked.
        *store = Err(IndexError::closed(&self.directory, "they are being opened again"));
        *store = match Store::open_as_is(&self.directory, self.log_id) {
            Ok((opened, Some(_))) => Ok(opened),
            Ok((_, None)) => Err(IndexError::closed(&self.directory, "they are of no log")),
            Err(error) => Err(error),
        };
    }

    /// Waits before another attempt; false if there is no time for one.
    fn pause(&self) -> bool {
        let memory = lock(&self.memory);
        let closing = |memory: &mut Memory| !memory.closing;
        let waited = self.changed.wait_timeout_while(memory, RETRY_PAUSE, closing);
        !waited.unwrap_or_else(PoisonError::into_inner).0.closing
    }
}

impl IndexWriter {
    fn start(shared: Arc<IndexShared>) -> Result<IndexWriter, LogError> {
        let (runs, received) = mpsc::channel::<IndexWork>();
        let thread = std::thread::Builder::new()
            .name("log-index".to_string())
            .spawn(move || {
                let mut swept: Tick = 0;
                for work in received {
                    let run = match work {
                        IndexWork::Run(run) => run,
                        IndexWork::Moved(frames, answer) => {
                            let moved = shared.stored((), |store| store.write_frames(&frames));
                            let failed = moved.is_err();
                            let _ = answer.send(moved);
                            if failed {
                                shared.reopen();
                            }
                            continue;
                        }
                    };
                    while !write_run(&shared, &run, &mut swept) && shared.pause() {
                        shared.reopen();
                    }
                }
            })
            .map_err(|source| LogError::Io { path: "thread".to_string(), source })?;
        Ok(IndexWriter { runs, thread })
    }
}

/// Writes a run to the store; false if that failed.
fn write_run(shared: &IndexShared, run: &RecentCommits, swept: &mut Tick) -> bool {
    let now = run.through.tick;
    let sweep = now.saturating_sub(*swept) > shared.request_life_ms / SWEEPS_PER_LIFE;
    let result = shared.stored((), |store| {
        store.write(run)?;
        if sweep {
            store.forget_requests(now.saturating_sub(shared.request_life_ms))?;
        }
        Ok(())
    });
    if sweep {
        *swept = now;
    }
    let mut memory = lock(&shared.memory);
    memory.failure = result.err();
    match &memory.failure {
        None => {
            memory.frozen = None;
            shared.alarms.clear(Part::Log, ALARM);
        }
        // A run that could not be written stays in memory, where look-ups find it.
        Some(error) => {
            let IndexError { path, what, .. } = error;
            let path = path.display();
            let message = format!(
                "the indexes of the log in {path} cannot be written: {what}; it is tried again, and appends go on meanwhile"
            );
            shared.alarms.raise(Part::Log, ALARM, message);
        }
    }
    let written = memory.failure.is_none();
    drop(memory);
    shared.changed.notify_all();
    written
}
