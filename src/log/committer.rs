//! The one thread that writes.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::{oneshot, watch};
use uuid::Uuid;

use super::admit::{Accepted, Admission, Hashed, Verdict};
use super::files::{FileHandle, Files};
use super::frame::{Frame, NumberedEvent};
use super::index::{FrameEntry, Index};
use super::recovery::Recovered;
use super::{AppendError, LogError, LogOptions, segment};
use crate::model::clock::now_ms;
use crate::model::event::{Appended, NewEvent};
use crate::model::{Head, Position, Tick};

/// The upper bounds of the commit latency histogram, in seconds.
pub const LATENCY_BOUNDS_S: [f64; 12] =
    [0.000_5, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0];

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
    /// Commits by duration: as many as took up to each of [`LATENCY_BOUNDS_S`], the rest last.
    pub latencies: [u64; LATENCY_BOUNDS_S.len() + 1],
    pub latency_sum_s: f64,
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
        });
        let mut writer = Writer {
            id: recovered.id,
            files,
            index,
            segment: None,
            head: recovered.head,
            options: options.clone(),
            buffer: Vec::new(),
        };
        if let Some((name, len)) = recovered.last_segment {
            let first_position = segment::first_position(&name).unwrap_or_default();
            let file = writer
                .files
                .append(&name)
                .map_err(|source| LogError::Io { path: name.clone(), source })?;
            writer.segment = Some(OpenSegment { file, first_position, len });
        } else {
            // The log's id is on disk before anything else relies on it.
            writer.roll().map_err(|source| LogError::Io { path: "log".to_string(), source })?;
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
    while let Some(group) = gather(shared, writer.options.group_bytes_max) {
        let started = Instant::now();
        match writer.commit(&group) {
            Ok(commit) => {
                // Readers may see the events before their writers hear of them, never after.
                head.send_if_modified(|head| std::mem::replace(head, writer.head) != writer.head);
                record(shared, &group, &commit, started.elapsed());
                for (request, reply) in group.into_iter().zip(commit.replies) {
                    let _ = request.answer.send(reply.into_answer(request.hashed));
                }
            }
            Err(error) => {
                let reason = format!("writing failed: {error}");
                tracing::error!(reason, "the log has failed and accepts nothing more");
                stop(shared, group, &reason);
                failure.send_replace(Some(reason));
                return;
            }
        }
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

/// The requests of the next commit, none if only time is to be written; `None` once the log is closing and nothing waits.
fn gather(shared: &Shared, group_bytes_max: usize) -> Option<Vec<Request>> {
    let mut queue = lock(&shared.queue);
    while queue.requests.is_empty() {
        if queue.closing {
            return None;
        }
        let clock = *lock(&shared.clock);
        let Some(interval) = clock else {
            queue = shared.arrived.wait(queue).unwrap_or_else(PoisonError::into_inner);
            continue;
        };
        let waited = shared.arrived.wait_timeout(queue, interval);
        let (guard, waited) = waited.unwrap_or_else(PoisonError::into_inner);
        queue = guard;
        if waited.timed_out() && queue.requests.is_empty() && !queue.closing {
            return Some(Vec::new());
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
    Some(group)
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
    let seconds = took.as_secs_f64();
    let bucket = LATENCY_BOUNDS_S.iter().position(|b| seconds <= *b);
    stats.latencies[bucket.unwrap_or(LATENCY_BOUNDS_S.len())] += 1;
    stats.latency_sum_s += seconds;
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
    first_position: Position,
    /// In bytes.
    len: u64,
}

/// Writes frames to segments.
struct Writer {
    id: Uuid,
    files: Arc<dyn Files>,
    index: Arc<Index>,
    segment: Option<OpenSegment>,
    head: Head,
    options: LogOptions,
    buffer: Vec<u8>,
}

impl Writer {
    /// Decides on the requests of a group, writes what is new as one frame, syncs it, and lets the
    /// indexes know.
    fn commit(&mut self, group: &[Request]) -> std::io::Result<Commit> {
        if group.is_empty() {
            let nothing = std::iter::empty::<NumberedEvent<'_>>();
            let frame =
                Frame::with_requests(self.next_tick(), self.head.position + 1, nothing, &[]);
            self.write_frame(&frame.map_err(std::io::Error::other)?)?;
            return Ok(Commit { replies: Vec::new(), stored: 0, disk_bytes: self.buffer.len() });
        }
        let index = Arc::clone(&self.index);
        let first_position = self.head.position + 1;
        let mut admission = Admission::new(&index, first_position, now_ms());
        let mut verdicts = Vec::with_capacity(group.len());
        for request in group {
            verdicts.push(admission.decide(&request.hashed).map_err(std::io::Error::other)?);
        }
        let stored = admission.next_position - first_position;
        let mut disk_bytes = 0;
        if stored > 0 {
            disk_bytes = self.write(group, &verdicts, admission)?;
        }
        let mut replies = Vec::with_capacity(group.len());
        for verdict in verdicts {
            replies.push(match verdict {
                Verdict::Accepted(accepted) => Reply::Done(Ok(self.appended(accepted)?)),
                Verdict::Refused(error) => Reply::Done(Err(error)),
                Verdict::Unsure(places) => Reply::Unsure(places),
            });
        }
        Ok(Commit { replies, stored, disk_bytes })
    }

    /// Writes the events that are new; returns how many bytes they take on disk.
    fn write(
        &mut self,
        group: &[Request],
        verdicts: &[Verdict],
        admission: Admission<'_>,
    ) -> std::io::Result<usize> {
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
            .map_err(std::io::Error::other)?;
        let (segment_first, offset) = self.write_frame(&frame)?;
        let entry = FrameEntry { first_position, segment: segment_first, offset, tick };
        let mut next = first_position;
        let indexed = accepted().flat_map(|(request, accepted)| {
            let first = next;
            next += accepted.stored() as u64;
            Admission::indexed(request, accepted, first)
        });
        self.index
            .apply(indexed, entry, self.head, admission.keyed)
            .map_err(std::io::Error::other)?;
        Ok(self.buffer.len())
    }

    /// Puts a frame on disk; returns the first position of its segment and the offset there.
    fn write_frame(&mut self, frame: &Frame) -> std::io::Result<(Position, u64)> {
        // A segment without events goes on: the next one would have its name.
        let full = |segment: &OpenSegment| {
            segment.len >= self.options.segment_bytes_max
                && segment.first_position <= self.head.position
        };
        if self.segment.as_ref().is_none_or(full) {
            self.roll()?;
        }
        self.buffer.clear();
        frame.write(&mut self.buffer);
        let Some(segment) = &mut self.segment else { unreachable!("a segment was opened above") };
        segment.file.write(&self.buffer)?;
        segment.file.sync()?;
        let place = (segment.first_position, segment.len);
        segment.len += self.buffer.len() as u64;
        self.head = Head { position: frame.last_position(), tick: frame.tick() };
        Ok(place)
    }

    /// What is answered to a request that is in the log now.
    fn appended(&self, accepted: Accepted) -> std::io::Result<Appended> {
        let last_position = accepted.last_position;
        // The head may be later than its last event, when time alone has passed.
        let frame = self.index.frame_of(last_position).map_err(std::io::Error::other)?;
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

    /// Begins a new segment.
    fn roll(&mut self) -> std::io::Result<()> {
        let first_position = self.head.position + 1;
        let mut file = self.files.append(&segment::name(first_position))?;
        let header = segment::header(self.id, first_position);
        file.write(&header)?;
        file.sync()?;
        self.segment = Some(OpenSegment { file, first_position, len: header.len() as u64 });
        Ok(())
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
