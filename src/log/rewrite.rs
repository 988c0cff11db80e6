//! Rewriting segments in another format, one at a time, while the log is in use: those of an earlier
//! format in the current one, and those that are old as archived ones, which may move to an object store.
//!
//! A segment that is sealed is copied, frame by frame, to a temporary file, which is synced, read
//! back and compared, and then gets the name of the segment in the current format. Then the list is
//! changed, which is the moment from which the new file counts, and the old file is removed. A crash
//! in between leaves the temporary file or one file too many, which the next start removes.
//!
//! Positions, ticks and events stay as they are; frames are elsewhere in the file. The indexes are
//! told where. A reader that is in the middle of the old file finds it gone, and goes on in the new
//! one behind the tick that it has read (`reader.rs`).

use std::io;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::archive::ArchiveWriter;
use super::files::{FileHandle, Files, is_full};
use super::format::LogFormat;
use super::index::{FrameEntry, Index};
use super::list::{GapBytes, Listed, SegmentList, Segments};
use super::remote::ArchivePlace;
use super::segment::{self, NextFrame, SEGMENT_HEADER_BYTES, SegmentFile, SegmentReader};
use super::{LogError, LogOptions};
use crate::model::Position;
use crate::model::alarm::{Alarms, Part};
use crate::model::clock::now_ms;
use crate::model::thread::be_nice;

/// The suffix of a file that is not complete yet.
pub const UNFINISHED: &str = ".rewriting";
/// The bytes that are written to a file at once.
const WRITE_BYTES: usize = 1 << 20;
/// How long to wait after a segment could not be rewritten: the disk may be full.
const RETRY_PAUSE: Duration = Duration::from_secs(30);
/// The bytes that must stay free beside a copy, so that it does not make appends meet a full disk.
const ROOM_BYTES_MIN: u64 = 256 << 20;
/// The shortest and the longest pause between two looks for segments that are old enough to be archived.
const ARCHIVE_PAUSE_MIN: Duration = Duration::from_millis(50);
const ARCHIVE_PAUSE_MAX: Duration = Duration::from_secs(60);
/// How long to wait for the end of a segment that is written to.
const SEAL_PAUSE: Duration = Duration::from_secs(1);

/// A copied segment, and its future entry in the list.
pub struct Rewritten {
    /// Its entry in the list.
    pub listed: Listed,
    /// The bytes that readers pass over, before and now.
    skips: Vec<(GapBytes, GapBytes)>,
    /// The places of its frames with events.
    frames: Vec<FrameEntry>,
}

impl Rewritten {
    /// Puts the new file in place of the old one.
    pub fn note(&self, list: &mut SegmentList) {
        if let Some(listed) = list.segments.iter_mut().find(|s| s.first == self.listed.first) {
            *listed = self.listed;
        }
        for (before, now) in &self.skips {
            for gap in list.gaps.iter_mut().filter(|gap| gap.skip == Some(*before)) {
                gap.skip = Some(*now);
            }
        }
    }
}

/// Removes what a crash has left of a copy.
pub fn remove_unfinished(files: &dyn Files) -> Result<(), LogError> {
    let named = |source| LogError::Io { path: "log".to_string(), source };
    for name in files.list().map_err(named)? {
        if name.ends_with(UNFINISHED) {
            files.remove(&name).map_err(|source| LogError::of_file(&name, source))?;
        }
    }
    Ok(())
}

/// Copies a segment to a file of another format, which is durable under its name afterwards, and
/// not listed yet. `pace` is told of bytes that were read or written, and stops the copy with false.
pub fn copy(
    files: &dyn Files,
    list: &SegmentList,
    listed: Listed,
    format: LogFormat,
    pace: &mut dyn FnMut(usize) -> bool,
) -> Result<Rewritten, LogError> {
    let to = SegmentFile { first: listed.first, format };
    let unfinished = format!("{}{UNFINISHED}", to.name());
    let copied = copy_to(files, list, listed, (to, &unfinished), pace).and_then(|rewritten| {
        compare(files, list, &rewritten, &unfinished, pace)?;
        let renamed = files.rename(&unfinished, &to.name());
        renamed.map_err(|source| LogError::of_file(&unfinished, source))?;
        Ok(rewritten)
    });
    if copied.is_err() {
        // The unfinished file takes room. If it cannot be removed now, the next start removes it.
        let _ = files.remove(&unfinished);
    }
    copied
}

fn stopped() -> LogError {
    LogError::Io { path: "log".to_string(), source: io::ErrorKind::Interrupted.into() }
}

fn copy_to(
    files: &dyn Files,
    list: &SegmentList,
    listed: Listed,
    (to, name): (SegmentFile, &str),
    pace: &mut dyn FnMut(usize) -> bool,
) -> Result<Rewritten, LogError> {
    let failed = |source| LogError::of_file(name, source);
    if files.list().map_err(failed)?.iter().any(|there| there == name) {
        files.remove(name).map_err(failed)?;
    }
    let out = files.append(name).map_err(failed)?;
    // The frames of format 1 have no epochs.
    let epoch = if listed.format == LogFormat::One { 0 } else { listed.epoch };
    let header = segment::header_of(to, list.log, epoch);
    let mut out = CopyWriter::new(out, to.format, &header).map_err(failed)?;
    let mut buffer = Vec::new();
    let mut bytes = header.len() as u64;
    let mut reader = list.reader(listed.first);
    let mut skips = list.skips(listed.first).into_iter().peekable();
    let (mut moved, mut frames) = (Vec::new(), Vec::new());
    loop {
        let place = reader.offset();
        let frame = match reader.next(files)? {
            NextFrame::Frame(frame) => frame,
            NextFrame::End => break,
            NextFrame::Broken { offset, what } => {
                return Err(LogError::damaged(reader.name(), offset, what));
            }
        };
        let old_bytes = frame.disk_bytes();
        // Bytes that were passed over before this frame are not in the copy.
        while let Some(skip) = skips.next_if(|skip| skip.from >= place && skip.to < reader.offset())
        {
            moved.push((skip, GapBytes { from: bytes, to: bytes, ..skip }));
        }
        let rewritten = match to.format {
            LogFormat::Three => frame.plain(),
            _ => frame.rewritten(),
        };
        let frame = rewritten.map_err(|error| {
            LogError::damaged(reader.name(), reader.offset() - old_bytes, error)
        })?;
        if frame.count() > 0 {
            frames.push(FrameEntry {
                first_position: frame.first_position(),
                segment: listed.first,
                format: to.format,
                offset: bytes,
                tick: frame.tick(),
            });
        }
        frame.write(&mut buffer);
        bytes += frame.disk_bytes();
        if buffer.len() >= WRITE_BYTES {
            out.write(&buffer).map_err(failed)?;
            if !pace(buffer.len()) {
                return Err(stopped());
            }
            buffer.clear();
        }
    }
    moved.extend(skips.map(|skip| (skip, GapBytes { from: bytes, to: bytes, ..skip })));
    out.write(&buffer).map_err(failed)?;
    out.end().map_err(failed)?;
    let listed = Listed { format: to.format, epoch, bytes, ..listed };
    Ok(Rewritten { listed, skips: moved, frames })
}

/// Writes the copy of a segment.
enum CopyWriter {
    Plain(Box<dyn FileHandle>),
    Archived(ArchiveWriter),
}

impl CopyWriter {
    fn new(
        mut out: Box<dyn FileHandle>,
        format: LogFormat,
        header: &[u8],
    ) -> io::Result<CopyWriter> {
        if format == LogFormat::Three {
            return Ok(CopyWriter::Archived(ArchiveWriter::new(out, header)?));
        }
        out.write(header)?;
        Ok(CopyWriter::Plain(out))
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            CopyWriter::Plain(out) => out.write(bytes),
            CopyWriter::Archived(out) => out.write(bytes),
        }
    }

    /// Everything is on disk when this returns.
    fn end(self) -> io::Result<()> {
        match self {
            CopyWriter::Plain(mut out) => out.sync(),
            CopyWriter::Archived(out) => out.end().map(drop),
        }
    }
}

/// Reads the copy of a segment beside the segment: both must hold the same.
fn compare(
    files: &dyn Files,
    list: &SegmentList,
    rewritten: &Rewritten,
    name: &str,
    pace: &mut dyn FnMut(usize) -> bool,
) -> Result<(), LogError> {
    let first = rewritten.listed.first;
    let mut with_copy = list.clone();
    rewritten.note(&mut with_copy);
    let mut before = list.reader(first);
    let mut now = with_copy.reader(first).under(name);
    let differs = |now: &SegmentReader, what: &str| {
        LogError::damaged(name, now.offset(), format!("a copy is not what was copied: {what}"))
    };
    let mut unpaced = SEGMENT_HEADER_BYTES;
    loop {
        match (before.next(files)?, now.next(files)?) {
            (NextFrame::Frame(before), NextFrame::Frame(now_frame)) => {
                let rows = |frame: &super::Frame| {
                    let error = |error| LogError::damaged(name, 0, error);
                    frame.decompress().map_err(error).map(super::rows::FrameEvents::into_bytes)
                };
                let same = (before.tick(), before.first_position(), before.count())
                    == (now_frame.tick(), now_frame.first_position(), now_frame.count())
                    && rows(&before)? == rows(&now_frame)?;
                if !same {
                    return Err(differs(&now, "a frame"));
                }
                unpaced += now_frame.disk_bytes() as usize;
            }
            (NextFrame::End, NextFrame::End) => {
                let whole = before.next_position() == now.next_position()
                    && now.offset() == rewritten.listed.bytes;
                return if whole { Ok(()) } else { Err(differs(&now, "its end")) };
            }
            _ => return Err(differs(&now, "the number of frames")),
        }
        if unpaced >= WRITE_BYTES && !pace(std::mem::take(&mut unpaced)) {
            return Err(stopped());
        }
    }
}

/// Puts a segment in another format in place of what is listed.
pub fn replace(
    files: &dyn Files,
    segments: &Segments,
    index: &Index,
    (listed, format): (Listed, LogFormat),
    pace: &mut dyn FnMut(usize) -> bool,
) -> Result<(), LogError> {
    let list = segments.ask(SegmentList::clone);
    let mut rewritten = copy(files, &list, listed, format, pace)?;
    fail::fail_point!("log_rewrite_copied", |_| std::process::abort());
    let new = rewritten.listed.file().name();
    let frames = std::mem::take(&mut rewritten.frames);
    if let Err(error) = index.moved(frames) {
        // Frames are found without the indexes, too, only later.
        tracing::warn!(%error, segment = new, "the indexes do not know where its frames are");
    }
    fail::fail_point!("log_rewrite_indexed", |_| std::process::abort());
    let changed = segments.change(files, |list| rewritten.note(list));
    if let Err(source) = changed {
        let _ = files.remove(&new);
        return Err(LogError::Io { path: new, source });
    }
    fail::fail_point!("log_rewrite_listed", |_| std::process::abort());
    let old = listed.file().name();
    if let Err(error) = files.remove(&old) {
        // Nobody reads the old file any more, and the next start removes it.
        tracing::warn!(%error, segment = old, "the file of before is still there");
    }
    Ok(())
}

/// Rewrites the sealed segments of an earlier format on a thread of its own.
pub struct Rewriter {
    stop: Arc<Stop>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Default)]
struct Stop {
    stopped: Mutex<bool>,
    changed: Condvar,
}

impl Stop {
    /// Waits; false if it is time to stop.
    fn wait(&self, time: Duration) -> bool {
        let stopped = self.stopped.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.changed.wait_timeout_while(stopped, time, |stopped| !*stopped);
        !*waited.unwrap_or_else(PoisonError::into_inner).0
    }
}

impl Rewriter {
    /// Starts the thread, if there is a segment of an earlier format.
    pub fn start(
        files: Arc<dyn Files>,
        segments: Arc<Segments>,
        index: Arc<Index>,
        options: &LogOptions,
    ) -> Result<Rewriter, LogError> {
        let stop = Arc::new(Stop::default());
        let mut thread = None;
        let archive = options.archive_after_ms.map(|after_ms| {
            let (to, told) = (options.archive_to.clone(), false);
            Archiving { after_ms, to, told }
        });
        if archive.is_some() || segments.ask(|list| next(list, 0)) != Next::None {
            let work = RewriteWork { files, segments, index, stop: Arc::clone(&stop), archive };
            let (alarms, rate) = (options.alarms.clone(), options.rewrite_bytes_per_s.max(1));
            let run = move || work.run(&alarms, rate);
            let named = std::thread::Builder::new().name("log-rewrite".to_string());
            let spawned = named.spawn(run);
            thread = Some(
                spawned.map_err(|source| LogError::Io { path: "thread".to_string(), source })?,
            );
        }
        Ok(Rewriter { stop, thread: Mutex::new(thread) })
    }

    /// Ends the thread; a copy that is not finished is dropped.
    pub fn close(&self) {
        *self.stop.stopped.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.stop.changed.notify_all();
        if let Some(thread) = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Rewriter {
    fn drop(&mut self) {
        self.close();
    }
}

/// The rewriter's next step.
#[derive(Debug, PartialEq)]
enum Next {
    /// Nothing: all segments have the current format, or cannot be read.
    None,
    /// Wait: only the segment that is written to has an earlier format.
    Later,
    Segment(Listed),
}

/// The next segment behind those that begin before a position.
fn next(list: &SegmentList, from: Position) -> Next {
    let old = |listed: &&Listed| listed.format < LogFormat::CURRENT && listed.first >= from;
    match list.segments.iter().find(old) {
        None => Next::None,
        Some(listed) if listed.sealed => Next::Segment(*listed),
        Some(_) => Next::Later,
    }
}

struct RewriteWork {
    files: Arc<dyn Files>,
    segments: Arc<Segments>,
    index: Arc<Index>,
    stop: Arc<Stop>,
    archive: Option<Archiving>,
}

/// The age from which on segments are archived, and the place they are moved to.
struct Archiving {
    after_ms: u64,
    to: Option<String>,
    /// Readers know where archived segments are.
    told: bool,
}

/// The subject of the alarm while segments cannot be archived.
const ARCHIVE: &str = "archive";

impl RewriteWork {
    /// Archives segments as they get old, until it is time to stop.
    fn archive(&mut self, alarms: &Alarms, rate: u64) {
        let Some(mut archiving) = self.archive.take() else { return };
        let pause = Duration::from_millis(archiving.after_ms / 4);
        let pause = pause.clamp(ARCHIVE_PAUSE_MIN, ARCHIVE_PAUSE_MAX);
        let mut from = 0;
        loop {
            match self.archive_next(&mut archiving, from, rate) {
                Ok(true) => continue,
                Ok(false) => alarms.clear(Part::Log, ARCHIVE),
                Err((first, error)) if error.is_damage() => {
                    // The damaged segment stays as it is; readers report it as well.
                    error.raise(alarms);
                    from = first + 1;
                    continue;
                }
                Err((_, error)) => {
                    let consequence = "segments stay as they are; it is tried again";
                    alarms.raise(Part::Log, ARCHIVE, format!("{error}: {consequence}"));
                    if !self.stop.wait(RETRY_PAUSE) {
                        return;
                    }
                }
            }
            if !self.stop.wait(pause) {
                return;
            }
        }
    }

    /// Archives or moves the next segment that is old enough; false if there is none.
    fn archive_next(
        &self,
        archiving: &mut Archiving,
        from: Position,
        rate: u64,
    ) -> Result<bool, (Position, LogError)> {
        let files = self.files.as_ref();
        let before = now_ms().saturating_sub(archiving.after_ms);
        let moves = archiving.to.is_some();
        let next = self.segments.ask(|list| {
            let waits = |listed: &&Listed| {
                let is_old = listed.sealed && listed.tick > 0 && listed.tick < before;
                let is_packed = listed.format == LogFormat::Three;
                is_old
                    && listed.first >= from
                    && !(is_packed && (!moves || listed.remote.is_some()))
            };
            list.segments.iter().find(waits).copied()
        });
        let Some(listed) = next else { return Ok(false) };
        let first = listed.first;
        let name = listed.file().name();
        let of_file = |source| (first, LogError::Io { path: name.clone(), source });
        if listed.format == LogFormat::Three {
            if !archiving.told
                && let Some(to) = &archiving.to
            {
                let is_remote = |listed: &Listed| listed.remote.is_some();
                let (prefix, in_use) = self
                    .segments
                    .ask(|list| (list.log.to_string(), list.segments.iter().any(is_remote)));
                let place = ArchivePlace { to: to.clone(), prefix };
                files.tell_archive(&place, in_use).map_err(of_file)?;
                archiving.told = true;
            }
            let bytes = files.move_to_archive(&name).map_err(of_file)?;
            let changed = self.segments.change(files, |list| {
                if let Some(moved) = list.segments.iter_mut().find(|moved| moved.first == first) {
                    moved.remote = Some(bytes);
                }
            });
            changed.map_err(of_file)?;
            fail::fail_point!("log_archive_moved", |_| std::process::abort());
            files.remove(&name).map_err(of_file)?;
            tracing::info!(segment = name, bytes, "moved an archived segment to the store");
            return Ok(true);
        }
        if !self.has_room_for(listed) {
            let source = io::Error::new(io::ErrorKind::StorageFull, "no room for a copy");
            return Err(of_file(source));
        }
        self.replace((listed, LogFormat::Three), rate).map_err(|error| (first, error))?;
        tracing::info!(segment = name, "archived a segment");
        Ok(true)
    }

    /// Whether a copy of a segment leaves enough room to others.
    fn has_room_for(&self, listed: Listed) -> bool {
        self.files.room() >= listed.bytes.saturating_mul(2) + ROOM_BYTES_MIN
    }

    /// Puts a segment in another format in place of what is listed, at so many bytes a second.
    fn replace(&self, wanted: (Listed, LogFormat), rate: u64) -> Result<(), LogError> {
        let mut pace =
            |bytes: usize| self.stop.wait(Duration::from_secs_f64(bytes as f64 / rate as f64));
        replace(self.files.as_ref(), &self.segments, &self.index, wanted, &mut pace)
    }

    fn run(mut self, alarms: &Alarms, rate: u64) {
        be_nice();
        let (started, mut from, mut count) = (Instant::now(), 0, 0_u64);
        loop {
            let listed = match self.segments.ask(|list| next(list, from)) {
                Next::None => break,
                Next::Later if self.stop.wait(SEAL_PAUSE) => continue,
                Next::Later => return,
                Next::Segment(listed) => listed,
            };
            if !self.has_room_for(listed) {
                if self.stop.wait(RETRY_PAUSE) {
                    continue;
                }
                return;
            }
            match self.replace((listed, LogFormat::CURRENT), rate) {
                Ok(()) => count += 1,
                Err(error) if error.is_damage() => {
                    // The damaged segment stays as it is; readers report it as well.
                    error.raise(alarms);
                    from = listed.first + 1;
                }
                Err(error @ LogError::Newer { .. }) => {
                    tracing::error!(%error, "a segment cannot be rewritten");
                    from = listed.first + 1;
                }
                Err(error) => {
                    if !matches!(&error, LogError::Io { source, .. } if is_full(source)) {
                        tracing::warn!(%error, "a segment is not rewritten now");
                    }
                    if !self.stop.wait(RETRY_PAUSE) {
                        return;
                    }
                }
            }
            if !self.stop.wait(Duration::ZERO) {
                return;
            }
        }
        if count > 0 {
            let seconds = started.elapsed().as_secs();
            tracing::info!(segments = count, seconds, "rewrote the segments of an earlier format");
        }
        self.archive(alarms, rate);
    }
}
