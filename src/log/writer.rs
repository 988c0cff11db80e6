//! The log's files as the committer writes them: frames, segments and their list.

use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

use super::admit::{Accepted, Admission, Hashed, Verdict};
use super::control::Control;
use super::files::{FileHandle, Files, is_full};
use super::format::{Epoch, LogFormat};
use super::frame::{Frame, FrameError, NumberedEvent};
use super::index::{FrameEntry, Index, IndexError};
use super::list::{LIST_NAME, Segments};
use super::recovery::RecoveredLog;
use super::segment::SegmentFile;
use super::{AppendError, LogError, LogOptions, rewrite, segment};
use crate::model::clock::now_ms;
use crate::model::event::Appended;
use crate::model::{Head, Position, Tick};

/// At least so much room must there be after the disk was full.
const PROBE_BYTES_MIN: usize = 4 << 10;

/// Why a commit is not on disk.
#[derive(Debug)]
pub enum WriteError {
    /// There is no room. Nothing is left of the commit, and the next one may be tried.
    Full(std::io::Error),
    /// The indexes cannot tell what is in the log already. Nothing was written.
    Index(IndexError),
    /// It is not known what is on disk.
    Fatal(std::io::Error),
}

impl WriteError {
    /// The error of a write whose leftovers are not taken back yet.
    fn of_write(error: std::io::Error) -> Self {
        if is_full(&error) { WriteError::Full(error) } else { WriteError::Fatal(error) }
    }

    /// Takes back the write's leftovers. If that fails, too, the error is fatal.
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
pub struct Commit {
    /// The replies, one for each request.
    pub replies: Vec<Reply>,
    pub stored: u64,
    /// 0 if nothing was written.
    pub disk_bytes: usize,
}

/// The answer to a request, and who waits for it.
pub enum Reply {
    Done(Result<Appended, AppendError>),
    /// See [`Verdict::Unsure`].
    Unsure(Vec<(usize, Position)>),
}

/// The segment that is being written.
struct OpenSegment {
    file: Box<dyn FileHandle>,
    name: String,
    first_position: Position,
    format: LogFormat,
    /// In bytes.
    len: u64,
}

impl OpenSegment {
    /// Checks that nobody else has changed the file or removed it. Bytes written to a removed file would be
    /// gone with the process.
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

/// Cuts a segment to a length, while nobody else writes to it.
fn cut_segment(
    files: &dyn Files,
    segments: &Segments,
    name: &str,
    len: u64,
) -> std::io::Result<()> {
    segments.expect_own(files)?;
    files.truncate(name, len)
}

/// Writes frames to segments.
pub struct LogWriter {
    id: Uuid,
    files: Arc<dyn Files>,
    segments: Arc<Segments>,
    index: Arc<Index>,
    segment: Option<OpenSegment>,
    head: Head,
    epoch: Epoch,
    options: LogOptions,
    /// The last set of query files that the log tells of.
    queries: Option<String>,
    /// The size of the last frame, whether or not it is on disk.
    frame_bytes: usize,
}

impl LogWriter {
    /// Goes on behind a recovered log, in the next epoch; a new one gets its first segment.
    pub fn open(
        files: Arc<dyn Files>,
        recovered: RecoveredLog,
        index: Arc<Index>,
        options: LogOptions,
    ) -> Result<LogWriter, LogError> {
        let mut writer = LogWriter {
            id: recovered.id,
            files,
            segments: recovered.segments,
            index,
            segment: None,
            head: recovered.head,
            epoch: recovered.epoch + 1,
            options,
            queries: recovered.queries,
            frame_bytes: 0,
        };
        if let Some((file, len)) = recovered.last_segment {
            writer.segment = Some(writer.open_segment(file, len)?);
            let epoch = writer.epoch;
            let taken = writer.segments.change(writer.files.as_ref(), |list| list.epoch = epoch);
            match taken {
                Ok(()) => {}
                // A full disk does not stop the start: the epoch is written before anything else is.
                Err(error) if is_full(&error) => {
                    tracing::warn!(%error, "the list of segments does not tell of the epoch");
                }
                Err(source) => {
                    return Err(LogError::Io { path: LIST_NAME.to_string(), source });
                }
            }
        } else {
            // The log's id is on disk before anything else relies on it.
            writer.roll().map_err(|error| match error {
                WriteError::Full(source) | WriteError::Fatal(source) => {
                    LogError::Io { path: "log".to_string(), source }
                }
                WriteError::Index(error) => LogError::Index(error),
            })?;
        }
        Ok(writer)
    }

    fn open_segment(&self, file: SegmentFile, len: u64) -> Result<OpenSegment, LogError> {
        let (name, SegmentFile { first: first_position, format }) = (file.name(), file);
        let file = self.files.append(&name);
        let file = file.map_err(|source| LogError::of_file(&name, source))?;
        Ok(OpenSegment { file, name, first_position, format, len })
    }

    /// The end of what is on disk.
    pub fn head(&self) -> Head {
        self.head
    }

    /// The size of the last frame, whether or not it is on disk.
    pub fn frame_bytes(&self) -> usize {
        self.frame_bytes
    }

    /// Decides on the requests of a group, writes what is new as one frame, syncs it, and lets the
    /// indexes know.
    pub fn commit(&mut self, group: &[&Hashed]) -> Result<Commit, WriteError> {
        if group.is_empty() {
            let frame = Frame::of_clock(self.epoch, self.next_tick(), self.head.position + 1);
            self.write_frame(&frame.map_err(too_large)?)?;
            return Ok(Commit { replies: Vec::new(), stored: 0, disk_bytes: self.frame_bytes });
        }
        let index = Arc::clone(&self.index);
        index.wait_for_room()?;
        let first_position = self.head.position + 1;
        let mut admission = Admission::new(&index, first_position, now_ms());
        let mut verdicts = Vec::with_capacity(group.len());
        for request in group {
            verdicts.push(admission.decide(request)?);
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

    /// Writes a control frame and syncs it. A set of query files that is in use already is not
    /// written again; then the head is where it was.
    pub fn control(&mut self, control: &Control) -> Result<Head, WriteError> {
        if let Control::Queries(in_use) = control
            && self.queries.as_ref() == Some(&in_use.set)
        {
            return Ok(self.head);
        }
        let (tick, next) = (self.next_tick(), self.head.position + 1);
        let frame = Frame::of_control(self.epoch, tick, next, control).map_err(too_large)?;
        self.write_frame(&frame)?;
        if let Control::Queries(in_use) = control {
            self.queries = Some(in_use.set.clone());
        }
        Ok(self.head)
    }

    /// Writes the events that are new; returns how many bytes they take on disk.
    fn write(
        &mut self,
        group: &[&Hashed],
        verdicts: &[Verdict],
        admission: Admission<'_>,
    ) -> Result<usize, WriteError> {
        let tick = self.next_tick();
        let first_position = self.head.position + 1;
        let accepted = || {
            group.iter().zip(verdicts).filter_map(|(request, verdict)| match verdict {
                Verdict::Accepted(accepted) => Some((*request, accepted)),
                _ => None,
            })
        };
        let events = accepted().flat_map(|(request, accepted)| {
            let numbered = request.append.events.iter().zip(&accepted.numbers);
            numbered.filter_map(|(event, number)| {
                number.map(|stream_version| NumberedEvent { event, stream_version })
            })
        });
        let time = (self.epoch, tick);
        let frame =
            Frame::of_events(time, first_position, events, &admission.keyed).map_err(too_large)?;
        let (segment, offset) = self.write_frame(&frame)?;
        let format = LogFormat::CURRENT;
        let entry = FrameEntry { first_position, segment, format, offset, tick };
        let mut next = first_position;
        let indexed = accepted().flat_map(|(request, accepted)| {
            let first = next;
            next += accepted.stored() as u64;
            Admission::indexed(request, accepted, first)
        });
        self.index.apply(indexed, entry, self.head, admission.keyed);
        Ok(self.frame_bytes)
    }

    /// Puts a frame on disk; returns the first position of its segment and the offset there.
    fn write_frame(&mut self, frame: &Frame) -> Result<(Position, u64), WriteError> {
        self.frame_bytes = frame.as_bytes().len();
        // A segment without events goes on: the next one would have its name.
        let position = self.head.position;
        let has_events = |segment: &OpenSegment| segment.first_position <= position;
        let is_old = |segment: &OpenSegment| segment.format != LogFormat::CURRENT;
        if self.segment.as_ref().is_some_and(|s| is_old(s) && !has_events(s)) {
            self.rewrite_empty()?;
        }
        let full = |segment: &OpenSegment| {
            (segment.len >= self.options.segment_bytes_max || is_old(segment))
                && has_events(segment)
        };
        if self.segment.as_ref().is_none_or(full) {
            self.roll()?;
        }
        let Some(segment) = &mut self.segment else { unreachable!("a segment was opened above") };
        let (head, len, epoch) = (self.head, segment.len, self.epoch);
        let is_ready =
            self.segments.ask(|list| list.reserved > frame.last_position() && list.epoch == epoch);
        if !is_ready {
            let reserved = self.segments.change(self.files.as_ref(), |list| {
                list.note(head, len);
                list.epoch = epoch;
                list.reserve(frame.last_position());
            });
            reserved.map_err(WriteError::of_write)?;
        }
        self.segments.expect_own(self.files.as_ref()).map_err(WriteError::Fatal)?;
        segment.check(self.files.as_ref()).map_err(WriteError::Fatal)?;
        fail::fail_point!("before_frame");
        let cut = || cut_segment(self.files.as_ref(), &self.segments, &segment.name, segment.len);
        let written = segment.file.write(frame.as_bytes()).map_err(WriteError::of_write);
        written.map_err(|error| error.after(cut))?;
        fail::fail_point!("frame_sync", |_| Err(WriteError::Fatal(std::io::Error::other(
            "syncing failed: a failpoint"
        ))));
        segment.file.sync().map_err(WriteError::Fatal)?;
        // Whoever has taken the log over since may not know of the frame: nobody is told that it is there.
        self.segments.expect_own(self.files.as_ref()).map_err(WriteError::Fatal)?;
        let place = (segment.first_position, segment.len);
        segment.len += self.frame_bytes as u64;
        self.head = Head { position: frame.last_position(), tick: frame.tick() };
        Ok(place)
    }

    /// Replaces the segment that is written to, which is of an earlier format and without events.
    fn rewrite_empty(&mut self) -> Result<(), WriteError> {
        let Some(segment) = &self.segment else { return Ok(()) };
        let first = segment.first_position;
        let Some(listed) = self.segments.ask(|list| list.segment(first).copied()) else {
            return Ok(());
        };
        let failed = |error: LogError| match error {
            LogError::Io { source, .. } => WriteError::of_write(source),
            error => WriteError::Fatal(std::io::Error::other(error)),
        };
        let files = self.files.as_ref();
        let wanted = (listed, LogFormat::CURRENT);
        rewrite::replace(files, &self.segments, &self.index, wanted, &mut |_| true)
            .map_err(failed)?;
        let file = self.segments.ask(|list| list.file(first));
        let len = files.len(&file.name()).map_err(WriteError::Fatal)?;
        self.segment = Some(self.open_segment(file, len).map_err(failed)?);
        Ok(())
    }

    /// Looks whether there is room for so many bytes, and leaves the segment as it is.
    pub fn probe(&mut self, bytes: usize) -> Result<(), WriteError> {
        let Some(segment) = &mut self.segment else { return Ok(()) };
        self.segments.expect_own(self.files.as_ref()).map_err(WriteError::Fatal)?;
        segment.check(self.files.as_ref()).map_err(WriteError::Fatal)?;
        let cut = || cut_segment(self.files.as_ref(), &self.segments, &segment.name, segment.len);
        let zeros = vec![0; bytes.max(PROBE_BYTES_MIN)];
        let written = segment.file.write(&zeros).map_err(WriteError::of_write);
        written.map_err(|error| error.after(cut))?;
        cut().map_err(WriteError::Fatal)
    }

    /// The answer to a request that is in the log now.
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
        let file = SegmentFile::new(first_position);
        let name = file.name();
        let (files, head) = (Arc::clone(&self.files), self.head);
        let remove = || files.remove(&name);
        let mut handle = files.append(&name).map_err(WriteError::of_write)?;
        let header = segment::header(self.id, first_position, self.epoch);
        let written = handle.write(&header).map_err(WriteError::of_write);
        written.map_err(|error| error.after(remove))?;
        handle.sync().map_err(WriteError::Fatal)?;
        // Only then is it listed: one that is listed and not there has been lost.
        let (epoch, queries) = (self.epoch, &self.queries);
        let sealed_bytes = self.segment.as_ref().map(|segment| segment.len);
        let listed = self.segments.change(files.as_ref(), |list| {
            if let Some(bytes) = sealed_bytes {
                list.note(head, bytes);
                list.seal();
            }
            list.epoch = epoch;
            list.queries.clone_from(queries);
            list.add(file, epoch);
            list.reserve(first_position);
        });
        listed.map_err(|error| WriteError::of_write(error).after(remove))?;
        let len = header.len() as u64;
        let SegmentFile { format, .. } = file;
        self.segment = Some(OpenSegment { file: handle, name, first_position, format, len });
        self.index.spill();
        Ok(())
    }

    /// Notes how far the log is, so that what was synced is known after a restart.
    pub fn close(&self) {
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
fn too_large(error: FrameError) -> WriteError {
    WriteError::Fatal(std::io::Error::other(error))
}
