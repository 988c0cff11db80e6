//! The one thread that writes.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::{oneshot, watch};
use uuid::Uuid;

use super::admit::{Accepted, Admission, Hashed, Verdict};
use super::files::{FileHandle, Files, is_full};
use super::frame::{Frame, NumberedEvent};
use super::index::{FrameEntry, Index, IndexError};
use super::list::Segments;
use super::recovery::Recovered;
use super::{AppendError, LogError, LogOptions, segment};
use crate::model::alarm::Part;
use crate::model::clock::now_ms;
use crate::model::event::{Appended, NewEvent};
use crate::model::{Head, Position, Tick};

/// How often it is tried whether a full disk has room again, where nobody appends.
const PROBE_INTERVAL: Duration = Duration::from_secs(1);
/// At least so much room must there be then.
const PROBE_BYTES_MIN: usize = 4 << 10;
/// The subject of the alarm while the disk is full.
const DISK_ALARM: &str = "disk";

/// What a log has done since it was opened.
#[derive(Clone, Debug, Default)]
pub struct LogStats {
    pub events: u64,
    /// Events that had been stored before and were not stored again.
    pub duplicates: u64,
    /// Requests that were refused because of a version or an id.
    pub conflicts: u64,
    /// Of the events as they were given.
    pub event_bytes: u64,
    /// Written to disk.
    pub disk_bytes: u64,
    pub commits: u64,
    /// Waiting to be written now.
    pub queued_bytes: usize,
    /// Spent on commits, in seconds.
    pub commit_s: f64,
}

/// What the thread says to a request.
pub enum Answer {
    Done(Result<Appended, AppendError>),
    /// See [`Verdict::Unsure`]; the request is given back.
    Unsure(Box<Hashed>, Vec<(usize, Position)>),
}

/// Events that wait to be written, and who is to be told.
pub struct Request {
    hashed: Hashed,
    bytes: usize,
    answer: oneshot::Sender<Answer>,
}

impl Request {
    /// A request of these events, of which there is at least one.
    pub fn new(hashed: Hashed, answer: oneshot::Sender<Answer>) -> Self {
        assert!(!hashed.append.events.is_empty(), "a request has events");
        let bytes = hashed.append.events.iter().map(event_bytes).sum();
        Request { hashed, bytes, answer }
    }
}

fn event_bytes(event: &NewEvent) -> usize {
    /// What an event costs beyond its texts.
    const OVERHEAD_BYTES: usize = 64;
    event.data.len()
        + event.metadata.len()
        + event.id.len()
        + event.event_type.len()
        + OVERHEAD_BYTES
}

#[derive(Default)]
struct Queue {
    requests: VecDeque<Request>,
    bytes: usize,
    closing: bool,
    stopped: Option<String>,
}

struct Shared {
    /// How long nothing may be written before an empty frame says that time has passed.
    clock: Mutex<Option<Duration>>,
    queue: Mutex<Queue>,
    arrived: Condvar,
    stats: Mutex<LogStats>,
    /// Why nothing can be written now, though it will be possible again.
    refuses: Mutex<Option<Refusal>>,
}

/// Why appends do not work for a while.
#[derive(Clone)]
struct Refusal {
    reason: String,
    /// As much room is needed.
    bytes: usize,
}

impl Shared {
    /// Notes a full disk.
    fn refuse(&self, options: &LogOptions, reason: &str, bytes: usize) {
        let message = format!("{reason}: appends are refused until there is room, and then go on");
        options.alarms.raise(Part::Log, DISK_ALARM, message);
        *lock(&self.refuses) = Some(Refusal { reason: reason.to_string(), bytes });
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
    shared: Arc<Shared>,
    head: watch::Receiver<Head>,
    failure: watch::Receiver<Option<String>>,
    queue_bytes_max: usize,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Committer {
    /// Starts the thread behind a recovered log.
    pub fn start(
        files: Arc<dyn Files>,
        recovered: Recovered,
        index: Arc<Index>,
        options: LogOptions,
    ) -> Result<Self, LogError> {
        let (head_sender, head) = watch::channel(recovered.head);
        let (failure_sender, failure) = watch::channel(None);
        let shared = Arc::new(Shared {
            clock: Mutex::default(),
            queue: Mutex::default(),
            arrived: Condvar::new(),
            stats: Mutex::default(),
            refuses: Mutex::default(),
        });
        let mut writer = Writer {
            id: recovered.id,
            files,
            segments: recovered.segments,
            index,
            segment: None,
            head: recovered.head,
            options: options.clone(),
            buffer: Vec::new(),
        };
        if let Some((first_position, len)) = recovered.last_segment {
            let name = segment::name(first_position);
            let file = writer
                .files
                .append(&name)
                .map_err(|source| LogError::Io { path: name.clone(), source })?;
            writer.segment = Some(OpenSegment { file, name, first_position, len });
        } else {
            // The log's id is on disk before anything else relies on it.
            let io = |error: WriteError| match error {
                WriteError::Full(source) | WriteError::Fatal(source) => source,
                WriteError::Index(error) => std::io::Error::other(error),
            };
            let rolled = writer.roll().map_err(io);
            rolled.map_err(|source| LogError::Io { path: "log".to_string(), source })?;
        }
        let for_thread = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("log-committer".to_string())
            .spawn(move || run(&for_thread, writer, &head_sender, &failure_sender))
            .map_err(|source| LogError::Io { path: "thread".to_string(), source })?;
        Ok(Committer {
            shared,
            head,
            failure,
            queue_bytes_max: options.queue_bytes_max,
            thread: Mutex::new(Some(thread)),
        })
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
    pub fn submit(&self, request: Request) -> Result<(), AppendError> {
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
    shared: &Shared,
    mut writer: Writer,
    head: &watch::Sender<Head>,
    failure: &watch::Sender<Option<String>>,
) {
    while let Some(work) = gather(shared, writer.options.group_bytes_max) {
        let group = match work {
            Work::Commit(group) => group,
            Work::Probe { bytes } => {
                match writer.probe(bytes) {
                    Ok(()) => shared.accept(&writer.options),
                    Err(WriteError::Full(_) | WriteError::Index(_)) => {}
                    Err(WriteError::Fatal(error)) => {
                        return fail(shared, Vec::new(), &error, failure);
                    }
                }
                continue;
            }
        };
        let started = Instant::now();
        match writer.commit(&group) {
            Ok(commit) => {
                // Readers may see the events before their writers hear of them, never after.
                head.send_if_modified(|head| std::mem::replace(head, writer.head) != writer.head);
                if commit.disk_bytes > 0 {
                    shared.accept(&writer.options);
                }
                record(shared, &group, &commit, started.elapsed());
                for (request, reply) in group.into_iter().zip(commit.replies) {
                    let _ = request.answer.send(reply.into_answer(request.hashed));
                }
            }
            Err(WriteError::Full(error)) => {
                let reason = error.to_string();
                shared.refuse(&writer.options, &reason, writer.buffer.len());
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
    shared: &Shared,
    group: Vec<Request>,
    error: &std::io::Error,
    failure: &watch::Sender<Option<String>>,
) {
    let reason = format!("writing failed: {error}");
    tracing::error!(reason, "the log has failed and accepts nothing more");
    stop(shared, group, &reason);
    failure.send_replace(Some(reason));
}

fn refuse(group: Vec<Request>, error: &AppendError) {
    for request in group {
        let _ = request.answer.send(Answer::Done(Err(error.clone())));
    }
}

/// Why a commit is not on disk.
#[derive(Debug)]
enum WriteError {
    /// There is no room. Nothing is left of the commit, and the next one may be tried.
    Full(std::io::Error),
    /// The indexes cannot tell what is in the log already. Nothing was written.
    Index(IndexError),
    /// It is not known what is on disk.
    Fatal(std::io::Error),
}

impl WriteError {
    /// The error of a write, before what it has left is taken back.
    fn of_write(error: std::io::Error) -> Self {
        if is_full(&error) { WriteError::Full(error) } else { WriteError::Fatal(error) }
    }

    /// Takes back what the write has left; an error of that is worse than the write's.
    fn after(self, undo: impl FnOnce() -> std::io::Result<()>) -> Self {
        match self {
            WriteError::Full(error) => match undo() {
                Ok(()) => WriteError::Full(error),
                Err(undo) => WriteError::Fatal(std::io::Error::other(format!(
                    "{error}, and what was written could not be cut off: {undo}"
                ))),
            },
            error => error,
        }
    }
}

impl From<IndexError> for WriteError {
    fn from(error: IndexError) -> Self {
        WriteError::Index(error)
    }
}

/// A commit that is on disk.
struct Commit {
    /// One for each request.
    replies: Vec<Reply>,
    stored: u64,
    disk_bytes: usize,
}

/// [`Answer`] without the request.
enum Reply {
    Done(Result<Appended, AppendError>),
    Unsure(Vec<(usize, Position)>),
}

impl Reply {
    fn into_answer(self, request: Hashed) -> Answer {
        match self {
            Reply::Done(result) => Answer::Done(result),
            Reply::Unsure(places) => Answer::Unsure(Box::new(request), places),
        }
    }
}

/// What the thread does next.
enum Work {
    /// Writes these requests; time alone where there are none.
    Commit(Vec<Request>),
    /// Looks whether there is room for so many bytes again.
    Probe { bytes: usize },
}

/// Waits for requests, or until time is to be written or a full disk looked at; `None` once the log
/// is closing and nothing waits.
fn gather(shared: &Shared, group_bytes_max: usize) -> Option<Work> {
    let mut queue = lock(&shared.queue);
    while queue.requests.is_empty() {
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
        if waited.timed_out() && queue.requests.is_empty() && !queue.closing {
            return Some(match probe {
                Some(bytes) => Work::Probe { bytes },
                None => Work::Commit(Vec::new()),
            });
        }
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
    Some(Work::Commit(group))
}

fn record(shared: &Shared, group: &[Request], commit: &Commit, took: Duration) {
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

fn stop(shared: &Shared, group: Vec<Request>, reason: &str) {
    let mut queue = lock(&shared.queue);
    queue.stopped = Some(reason.to_string());
    queue.bytes = 0;
    for request in group.into_iter().chain(queue.requests.drain(..)) {
        let stopped = AppendError::Stopped { reason: reason.to_string() };
        let _ = request.answer.send(Answer::Done(Err(stopped)));
    }
}

/// The segment that is being written.
struct OpenSegment {
    file: Box<dyn FileHandle>,
    name: String,
    first_position: Position,
    /// In bytes.
    len: u64,
}

impl OpenSegment {
    /// Nobody else may have changed the file, or removed it: what is written to one that has no
    /// name any more is gone with the process.
    fn check(&self, files: &dyn Files) -> std::io::Result<()> {
        let (name, expected) = (&self.name, self.len);
        match files.len(name) {
            Ok(len) if len == expected => Ok(()),
            Ok(len) => Err(std::io::Error::other(format!(
                "segment {name} has {len} bytes, expected {expected}: something else has changed it"
            ))),
            Err(error) => Err(std::io::Error::other(format!("segment {name}: {error}"))),
        }
    }
}

/// Writes frames to segments.
struct Writer {
    id: Uuid,
    files: Arc<dyn Files>,
    segments: Arc<Segments>,
    index: Arc<Index>,
    segment: Option<OpenSegment>,
    head: Head,
    options: LogOptions,
    buffer: Vec<u8>,
}

impl Writer {
    /// Decides on the requests of a group, writes what is new as one frame, syncs it, and lets the
    /// indexes know.
    fn commit(&mut self, group: &[Request]) -> Result<Commit, WriteError> {
        if group.is_empty() {
            let nothing = std::iter::empty::<NumberedEvent<'_>>();
            let frame =
                Frame::with_requests(self.next_tick(), self.head.position + 1, nothing, &[]);
            self.write_frame(&frame.map_err(too_large)?)?;
            return Ok(Commit { replies: Vec::new(), stored: 0, disk_bytes: self.buffer.len() });
        }
        let index = Arc::clone(&self.index);
        index.wait_for_room()?;
        let first_position = self.head.position + 1;
        let mut admission = Admission::new(&index, first_position, now_ms());
        let mut verdicts = Vec::with_capacity(group.len());
        for request in group {
            verdicts.push(admission.decide(&request.hashed)?);
        }
        let stored = admission.next_position - first_position;
        let mut disk_bytes = 0;
        if stored > 0 {
            disk_bytes = self.write(group, &verdicts, admission)?;
        }
        let replies = verdicts.into_iter().map(|verdict| match verdict {
            Verdict::Accepted(accepted) => Reply::Done(self.appended(accepted)),
            Verdict::Refused(error) => Reply::Done(Err(error)),
            Verdict::Unsure(places) => Reply::Unsure(places),
        });
        Ok(Commit { replies: replies.collect(), stored, disk_bytes })
    }

    /// Writes the events that are new; returns how many bytes they take on disk.
    fn write(
        &mut self,
        group: &[Request],
        verdicts: &[Verdict],
        admission: Admission<'_>,
    ) -> Result<usize, WriteError> {
        let tick = self.next_tick();
        let first_position = self.head.position + 1;
        let accepted = || {
            group.iter().zip(verdicts).filter_map(|(request, verdict)| match verdict {
                Verdict::Accepted(accepted) => Some((&request.hashed, accepted)),
                _ => None,
            })
        };
        let events = accepted().flat_map(|(request, accepted)| {
            let numbered = request.append.events.iter().zip(&accepted.numbers);
            numbered.filter_map(|(event, number)| {
                number.map(|stream_version| NumberedEvent { event, stream_version })
            })
        });
        let frame = Frame::with_requests(tick, first_position, events, &admission.keyed)
            .map_err(too_large)?;
        let (segment_first, offset) = self.write_frame(&frame)?;
        let entry = FrameEntry { first_position, segment: segment_first, offset, tick };
        let mut next = first_position;
        let indexed = accepted().flat_map(|(request, accepted)| {
            let first = next;
            next += accepted.stored() as u64;
            Admission::indexed(request, accepted, first)
        });
        self.index.apply(indexed, entry, self.head, admission.keyed);
        Ok(self.buffer.len())
    }

    /// Puts a frame on disk; returns the first position of its segment and the offset there.
    fn write_frame(&mut self, frame: &Frame) -> Result<(Position, u64), WriteError> {
        self.buffer.clear();
        frame.write(&mut self.buffer);
        // A segment without events goes on: the next one would have its name.
        let full = |segment: &OpenSegment| {
            segment.len >= self.options.segment_bytes_max
                && segment.first_position <= self.head.position
        };
        if self.segment.as_ref().is_none_or(full) {
            self.roll()?;
        }
        let Some(segment) = &mut self.segment else { unreachable!("a segment was opened above") };
        if self.segments.ask(|list| list.reserved) <= frame.last_position() {
            let (head, len) = (self.head, segment.len);
            let reserved = self.segments.change(self.files.as_ref(), |list| {
                list.note(head, len);
                list.reserve(frame.last_position());
            });
            reserved.map_err(WriteError::of_write)?;
        }
        segment.check(self.files.as_ref()).map_err(WriteError::Fatal)?;
        let cut = || self.files.truncate(&segment.name, segment.len);
        let written = segment.file.write(&self.buffer).map_err(WriteError::of_write);
        written.map_err(|error| error.after(cut))?;
        segment.file.sync().map_err(WriteError::Fatal)?;
        let place = (segment.first_position, segment.len);
        segment.len += self.buffer.len() as u64;
        self.head = Head { position: frame.last_position(), tick: frame.tick() };
        Ok(place)
    }

    /// Looks whether there is room for so many bytes, and leaves the segment as it is.
    fn probe(&mut self, bytes: usize) -> Result<(), WriteError> {
        let Some(segment) = &mut self.segment else { return Ok(()) };
        let cut = || self.files.truncate(&segment.name, segment.len);
        let zeros = vec![0; bytes.max(PROBE_BYTES_MIN)];
        let written = segment.file.write(&zeros).map_err(WriteError::of_write);
        written.map_err(|error| error.after(cut))?;
        cut().map_err(WriteError::Fatal)
    }

    /// What is answered to a request that is in the log now.
    fn appended(&self, accepted: Accepted) -> Result<Appended, AppendError> {
        let last_position = accepted.last_position;
        // The head may be later than its last event, when time alone has passed. Only the frame of
        // an event that was there before can be unknown.
        let frame = self.index.frame_of(last_position);
        let frame = frame.map_err(|error| AppendError::Unindexed { reason: error.to_string() })?;
        let tick = frame.map_or(self.head.tick, |frame| frame.tick);
        Ok(Appended {
            first_position: accepted.first_position,
            last_position,
            tick,
            stored: accepted.stored(),
            positions: accepted.positions,
            streams: accepted.streams,
            repeated: accepted.repeated,
        })
    }

    /// Begins a new segment, and has the indexes of those before it written.
    fn roll(&mut self) -> Result<(), WriteError> {
        let first_position = self.head.position + 1;
        let name = segment::name(first_position);
        let (files, head) = (Arc::clone(&self.files), self.head);
        let remove = || files.remove(&name);
        let mut file = files.append(&name).map_err(WriteError::of_write)?;
        let header = segment::header(self.id, first_position);
        let written = file.write(&header).map_err(WriteError::of_write);
        written.map_err(|error| error.after(remove))?;
        file.sync().map_err(WriteError::Fatal)?;
        // Only then is it listed: one that is listed and not there has been lost.
        let sealed_bytes = self.segment.as_ref().map(|segment| segment.len);
        let listed = self.segments.change(files.as_ref(), |list| {
            if let Some(bytes) = sealed_bytes {
                list.note(head, bytes);
                list.seal();
            }
            list.add(first_position);
            list.reserve(first_position);
        });
        listed.map_err(|error| WriteError::of_write(error).after(remove))?;
        let len = header.len() as u64;
        self.segment = Some(OpenSegment { file, name, first_position, len });
        self.index.spill();
        Ok(())
    }

    /// Notes how far the log is, so that what was synced is known after a restart.
    fn close(&self) {
        let Some(segment) = &self.segment else { return };
        let noted = self.segments.change(self.files.as_ref(), |list| {
            list.note(self.head, segment.len);
        });
        if let Err(error) = noted {
            tracing::warn!(%error, "the list of segments does not say where the log ends");
        }
    }

    /// The tick of the next commit: now, but always past the last one. Waits where commits would be
    /// faster than one per millisecond.
    fn next_tick(&self) -> Tick {
        let last = self.head.tick;
        let mut now = now_ms();
        while now == last {
            std::thread::sleep(Duration::from_micros(100));
            now = now_ms();
        }
        now.max(last + 1)
    }
}

/// More in one request than any limit lets through.
fn too_large(what: String) -> WriteError {
    WriteError::Fatal(std::io::Error::other(what))
}
