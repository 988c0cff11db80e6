//! The committer: the only thread that writes to the log.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::{oneshot, watch};

use super::admit::Hashed;
use super::control::Control;
use super::files::Files;
use super::index::Index;
use super::recovery::RecoveredLog;
use super::writer::{Commit, LogWriter, Reply, WriteError};
use super::{AppendError, LogError, LogOptions};
use crate::model::alarm::Part;
use crate::model::event::{Appended, NewEvent};
use crate::model::{Head, Position};

/// How often the committer tries whether a full disk has room again, while nobody appends.
const PROBE_INTERVAL: Duration = Duration::from_secs(1);
/// The subject of the alarm while the disk is full.
const DISK_ALARM: &str = "disk";

/// Counters of a log since it was opened.
#[derive(Clone, Debug, Default)]
pub struct LogStats {
    pub events: u64,
    /// Events that had been stored before and were not stored again.
    pub duplicates: u64,
    /// Requests that were refused because of a version or an id.
    pub conflicts: u64,
    /// Bytes of the events as clients sent them.
    pub event_bytes: u64,
    /// Bytes written to disk.
    pub disk_bytes: u64,
    pub commits: u64,
    /// Waiting to be written now.
    pub queued_bytes: usize,
    /// Spent on commits, in seconds.
    pub commit_s: f64,
}

/// The committer's answer to a request.
pub enum Answer {
    Done(Result<Appended, AppendError>),
    /// See [`super::admit::Verdict::Unsure`]; the request is given back.
    Unsure(Box<Hashed>, Vec<(usize, Position)>),
}

/// Events that wait to be written, and who is to be told.
pub struct AppendRequest {
    hashed: Hashed,
    bytes: usize,
    answer: oneshot::Sender<Answer>,
}

impl AppendRequest {
    /// A request of these events, of which there is at least one.
    pub fn new(hashed: Hashed, answer: oneshot::Sender<Answer>) -> Self {
        assert!(!hashed.append.events.is_empty(), "a request has events");
        let bytes = hashed.append.events.iter().map(event_bytes).sum();
        AppendRequest { hashed, bytes, answer }
    }
}

fn event_bytes(event: &NewEvent) -> usize {
    /// Bytes that an event takes beyond its texts.
    const OVERHEAD_BYTES: usize = 64;
    event.data.len()
        + event.metadata.len()
        + event.id.len()
        + event.event_type.len()
        + OVERHEAD_BYTES
}

/// A control frame that waits to be written, and who is to be told.
struct ControlRequest {
    control: Control,
    answer: oneshot::Sender<Result<Head, AppendError>>,
}

#[derive(Default)]
struct AppendQueue {
    requests: VecDeque<AppendRequest>,
    /// Written before the requests.
    controls: VecDeque<ControlRequest>,
    bytes: usize,
    closing: bool,
    stopped: Option<String>,
}

struct CommitterShared {
    /// Time without a commit after which an empty frame says that time has passed; `None`: no such frames.
    clock: Mutex<Option<Duration>>,
    queue: Mutex<AppendQueue>,
    arrived: Condvar,
    stats: Mutex<LogStats>,
    /// Why nothing can be written now, though it will be possible again.
    refuses: Mutex<Option<AppendRefusal>>,
}

/// Why appends do not work for a while.
#[derive(Clone)]
struct AppendRefusal {
    reason: String,
    /// Bytes of room that are needed before appends go on.
    bytes: usize,
}

impl CommitterShared {
    /// Notes a full disk.
    fn refuse(&self, options: &LogOptions, reason: &str, bytes: usize) {
        let message = format!("{reason}: appends are refused until there is room, and then go on");
        options.alarms.raise(Part::Log, DISK_ALARM, message);
        *lock(&self.refuses) = Some(AppendRefusal { reason: reason.to_string(), bytes });
    }

    /// Notes that there is room.
    fn accept(&self, options: &LogOptions) {
        if lock(&self.refuses).take().is_some() {
            options.alarms.clear(Part::Log, DISK_ALARM);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Hands requests to the writing thread.
pub struct Committer {
    shared: Arc<CommitterShared>,
    head: watch::Receiver<Head>,
    failure: watch::Receiver<Option<String>>,
    queue_bytes_max: usize,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Committer {
    /// Starts the thread behind a recovered log.
    pub fn start(
        files: Arc<dyn Files>,
        recovered: RecoveredLog,
        index: Arc<Index>,
        options: LogOptions,
    ) -> Result<Self, LogError> {
        let (head_sender, head) = watch::channel(recovered.head);
        let (failure_sender, failure) = watch::channel(None);
        let shared = Arc::new(CommitterShared {
            clock: Mutex::default(),
            queue: Mutex::default(),
            arrived: Condvar::new(),
            stats: Mutex::default(),
            refuses: Mutex::default(),
        });
        let writer = LogWriter::open(files, recovered, index, options.clone())?;
        let (for_thread, queue_bytes_max) = (Arc::clone(&shared), options.queue_bytes_max);
        let thread = std::thread::Builder::new()
            .name("log-committer".to_string())
            .spawn(move || run(&for_thread, writer, &options, &head_sender, &failure_sender))
            .map_err(|source| LogError::Io { path: "thread".to_string(), source })?;
        Ok(Committer { shared, head, failure, queue_bytes_max, thread: Mutex::new(Some(thread)) })
    }

    pub fn head(&self) -> watch::Receiver<Head> {
        self.head.clone()
    }

    pub fn failure(&self) -> watch::Receiver<Option<String>> {
        self.failure.clone()
    }

    pub fn stats(&self) -> LogStats {
        let queued_bytes = lock(&self.shared.queue).bytes;
        LogStats { queued_bytes, ..lock(&self.shared.stats).clone() }
    }

    /// See [`super::Log::refuses`].
    pub fn refuses(&self) -> Option<String> {
        lock(&self.shared.refuses).as_ref().map(|refusal| refusal.reason.clone())
    }

    /// Queues a request, unless too much waits already.
    pub fn submit(&self, request: AppendRequest) -> Result<(), AppendError> {
        let mut queue = lock(&self.shared.queue);
        if let Some(reason) = &queue.stopped {
            return Err(AppendError::Stopped { reason: reason.clone() });
        }
        if queue.closing {
            return Err(AppendError::Stopped { reason: "it is closing".to_string() });
        }
        if queue.bytes > 0 && queue.bytes + request.bytes > self.queue_bytes_max {
            let (queued_bytes, queue_bytes_max) = (queue.bytes, self.queue_bytes_max);
            return Err(AppendError::Busy { queued_bytes, queue_bytes_max });
        }
        queue.bytes += request.bytes;
        queue.requests.push_back(request);
        drop(queue);
        self.shared.arrived.notify_one();
        Ok(())
    }

    /// Queues a control frame; see [`super::Log::control`].
    pub fn submit_control(
        &self,
        control: Control,
    ) -> Result<oneshot::Receiver<Result<Head, AppendError>>, AppendError> {
        let (answer, answered) = oneshot::channel();
        let mut queue = lock(&self.shared.queue);
        if let Some(reason) = &queue.stopped {
            return Err(AppendError::Stopped { reason: reason.clone() });
        }
        if queue.closing {
            return Err(AppendError::Stopped { reason: "it is closing".to_string() });
        }
        queue.controls.push_back(ControlRequest { control, answer });
        drop(queue);
        self.shared.arrived.notify_one();
        Ok(answered)
    }

    /// See [`super::Log::keep_time`].
    pub fn keep_time(&self, interval: Option<Duration>) {
        *lock(&self.shared.clock) = interval;
        self.shared.arrived.notify_one();
    }

    /// Lets the thread write what waits, and waits for it.
    pub fn close(&self) {
        lock(&self.shared.queue).closing = true;
        self.shared.arrived.notify_one();
        if let Some(thread) = lock(&self.thread).take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Committer {
    fn drop(&mut self) {
        self.close();
    }
}

fn run(
    shared: &CommitterShared,
    mut writer: LogWriter,
    options: &LogOptions,
    head: &watch::Sender<Head>,
    failure: &watch::Sender<Option<String>>,
) {
    while let Some(work) = gather(shared, options.group_bytes_max) {
        let group = match work {
            CommitterWork::Commit(group) => group,
            CommitterWork::Probe { bytes } => {
                match writer.probe(bytes) {
                    Ok(()) => shared.accept(options),
                    Err(WriteError::Full(_) | WriteError::Index(_)) => {}
                    Err(WriteError::Fatal(error)) => {
                        return fail(shared, Vec::new(), &error, failure);
                    }
                }
                continue;
            }
            CommitterWork::Control(ControlRequest { control, answer }) => {
                let result = match writer.control(&control) {
                    Ok(written) => {
                        head.send_if_modified(|head| std::mem::replace(head, written) != written);
                        shared.accept(options);
                        Ok(written)
                    }
                    Err(WriteError::Full(error)) => {
                        let reason = error.to_string();
                        shared.refuse(options, &reason, writer.frame_bytes());
                        Err(AppendError::Full { reason })
                    }
                    Err(WriteError::Index(error)) => {
                        Err(AppendError::Unindexed { reason: error.to_string() })
                    }
                    Err(WriteError::Fatal(error)) => {
                        return fail(shared, Vec::new(), &error, failure);
                    }
                };
                if let Err(error) = &result {
                    tracing::warn!(%error, "a control frame is not written");
                }
                let _ = answer.send(result);
                continue;
            }
        };
        let started = Instant::now();
        let requests: Vec<&Hashed> = group.iter().map(|request| &request.hashed).collect();
        match writer.commit(&requests) {
            Ok(commit) => {
                // Readers may see the events before their writers hear of them, never after.
                let written = writer.head();
                head.send_if_modified(|head| std::mem::replace(head, written) != written);
                if commit.disk_bytes > 0 {
                    shared.accept(options);
                }
                record(shared, &group, &commit, started.elapsed());
                for (request, reply) in group.into_iter().zip(commit.replies) {
                    let _ = request.answer.send(match reply {
                        Reply::Done(result) => Answer::Done(result),
                        Reply::Unsure(places) => Answer::Unsure(Box::new(request.hashed), places),
                    });
                }
            }
            Err(WriteError::Full(error)) => {
                let reason = error.to_string();
                shared.refuse(options, &reason, writer.frame_bytes());
                refuse(group, &AppendError::Full { reason });
            }
            Err(WriteError::Index(error)) => {
                refuse(group, &AppendError::Unindexed { reason: error.to_string() });
            }
            Err(WriteError::Fatal(error)) => return fail(shared, group, &error, failure),
        }
    }
    writer.close();
}

/// Ends the log: what is on disk after a failure is not known.
fn fail(
    shared: &CommitterShared,
    group: Vec<AppendRequest>,
    error: &std::io::Error,
    failure: &watch::Sender<Option<String>>,
) {
    let reason = format!("writing failed: {error}");
    tracing::error!(reason, "the log has failed and accepts nothing more");
    stop(shared, group, &reason);
    failure.send_replace(Some(reason));
}

fn refuse(group: Vec<AppendRequest>, error: &AppendError) {
    for request in group {
        let _ = request.answer.send(Answer::Done(Err(error.clone())));
    }
}

/// The committer's next step.
enum CommitterWork {
    /// Writes these requests; time alone where there are none.
    Commit(Vec<AppendRequest>),
    /// Writes a control frame.
    Control(ControlRequest),
    /// Looks whether there is room for so many bytes again.
    Probe { bytes: usize },
}

/// Waits for requests, or until time is to be written or a full disk looked at; `None` once the log
/// is closing and nothing waits.
fn gather(shared: &CommitterShared, group_bytes_max: usize) -> Option<CommitterWork> {
    let mut queue = lock(&shared.queue);
    while queue.requests.is_empty() {
        if let Some(control) = queue.controls.pop_front() {
            return Some(CommitterWork::Control(control));
        }
        if queue.closing {
            return None;
        }
        let probe = lock(&shared.refuses).as_ref().map(|refusal| refusal.bytes);
        let clock = *lock(&shared.clock);
        let Some(interval) = probe.map(|_| PROBE_INTERVAL).or(clock) else {
            queue = shared.arrived.wait(queue).unwrap_or_else(PoisonError::into_inner);
            continue;
        };
        let waited = shared.arrived.wait_timeout(queue, interval);
        let (guard, waited) = waited.unwrap_or_else(PoisonError::into_inner);
        queue = guard;
        let is_idle = queue.requests.is_empty() && queue.controls.is_empty() && !queue.closing;
        if waited.timed_out() && is_idle {
            return Some(match probe {
                Some(bytes) => CommitterWork::Probe { bytes },
                None => CommitterWork::Commit(Vec::new()),
            });
        }
    }
    if let Some(control) = queue.controls.pop_front() {
        return Some(CommitterWork::Control(control));
    }
    let mut group = Vec::new();
    let mut bytes = 0;
    while let Some(request) = queue.requests.front() {
        if !group.is_empty() && bytes + request.bytes > group_bytes_max {
            break;
        }
        bytes += request.bytes;
        group.extend(queue.requests.pop_front());
    }
    queue.bytes -= bytes;
    Some(CommitterWork::Commit(group))
}

fn record(shared: &CommitterShared, group: &[AppendRequest], commit: &Commit, took: Duration) {
    let mut stats = lock(&shared.stats);
    for (request, reply) in group.iter().zip(&commit.replies) {
        match reply {
            Reply::Done(Ok(appended)) => {
                stats.duplicates += (request.hashed.append.events.len() - appended.stored) as u64;
                if appended.stored > 0 {
                    stats.event_bytes += request.bytes as u64;
                }
            }
            Reply::Done(Err(_)) => stats.conflicts += 1,
            Reply::Unsure(_) => {}
        }
    }
    if commit.stored == 0 {
        return;
    }
    stats.commits += 1;
    stats.events += commit.stored;
    stats.disk_bytes += commit.disk_bytes as u64;
    stats.commit_s += took.as_secs_f64();
}

fn stop(shared: &CommitterShared, group: Vec<AppendRequest>, reason: &str) {
    let mut queue = lock(&shared.queue);
    queue.stopped = Some(reason.to_string());
    queue.bytes = 0;
    for request in queue.controls.drain(..) {
        let _ = request.answer.send(Err(AppendError::Stopped { reason: reason.to_string() }));
    }
    for request in group.into_iter().chain(queue.requests.drain(..)) {
        let stopped = AppendError::Stopped { reason: reason.to_string() };
        let _ = request.answer.send(Answer::Done(Err(stopped)));
    }
}
