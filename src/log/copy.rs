//! A log as it is copied: which files, and up to where, while a process may write it.
//!
//! Sealed segments do not change. The segment that is written to is copied as far as it has whole frames at
//! that moment. The last of them may not be synced yet; it is synced here, so that it is in the log after any
//! crash, and the copy never has an event that the log loses.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::control::{Control, QueriesInUse};
use super::files::{DiskFiles, Files};
use super::format::LogFormat;
use super::frame::Frame;
use super::list::{KnownEvents, LIST_NAME, Listed, ReadList, SegmentList};
use super::recovery::{first_id, read_header};
use super::segment::{self, NextFrame, SEGMENT_HEADER_BYTES, SegmentFile, SegmentReader};
use super::{LogError, inspect, known};
use crate::model::{Head, Position, Tick};

/// A log as of a moment.
#[derive(Debug)]
pub struct LogCopy {
    files: DiskFiles,
    directory: PathBuf,
    list: SegmentList,
    pub head: Head,
}

/// A file of a log that is copied.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopiedSegment {
    pub name: String,
    /// The number of its bytes that are copied.
    pub bytes: u64,
    /// Nothing more is written to it.
    pub sealed: bool,
    /// Its last position and tick, which tell it from another one of this name and length.
    pub last: Position,
    pub tick: Tick,
}

impl LogCopy {
    /// Takes the log of a directory as it is now.
    pub fn take(directory: &Path) -> Result<LogCopy, LogError> {
        let files = DiskFiles::read_only(directory)?;
        // The list first: a segment that begins meanwhile is taken in behind it.
        let read = SegmentList::read(&files)?;
        let mut present = segment::list(&files)?;
        let mut list = match read {
            ReadList::Found { list, .. } => list,
            ReadList::Absent => SegmentList::new(first_id(&files, &present)?.ok_or_else(|| {
                let path = directory.display().to_string();
                LogError::NotALog { path, what: "it holds no segment".to_string() }
            })?),
            ReadList::Damaged(error) => return Err(LogError::damaged(LIST_NAME, 0, error)),
        };
        inspect::drop_stub(&files, &mut present, &list)?;
        list.adopt(&files, &present)?;
        let mut copy =
            LogCopy { files, directory: directory.to_path_buf(), list, head: Head::default() };
        copy.take_last()?;
        Ok(copy)
    }

    /// Reads the last segment up to the last whole frame, and syncs it.
    fn take_last(&mut self) -> Result<(), LogError> {
        let tick = self.list.last_tick();
        let Some(last) = self.list.segments.last().copied() else { return Ok(()) };
        let mut reader = self.list.reader(last.first);
        let mut head = Head { position: last.first - 1, tick };
        loop {
            match reader.next(&self.files)? {
                NextFrame::Frame(frame) => {
                    head = Head { position: frame.last_position(), tick: frame.tick() };
                }
                NextFrame::Broken { what, .. } if reader.offset() < last.bytes => {
                    return Err(LogError::damaged(reader.name(), reader.offset(), what));
                }
                NextFrame::End if reader.offset() < last.bytes => {
                    let what = format!("it ends, and {} bytes were synced", last.bytes);
                    return Err(LogError::damaged(reader.name(), reader.offset(), what));
                }
                NextFrame::End | NextFrame::Broken { .. } => break,
            }
        }
        let path = self.directory.join(reader.name());
        let synced = std::fs::File::open(path).and_then(|file| file.sync_data());
        synced.map_err(|source| LogError::of_file(reader.name(), source))?;
        head.position = head.position.max(reader.next_position() - 1);
        self.head = head;
        self.list.note(head, reader.offset());
        self.list.reserve(head.position + 1);
        Ok(())
    }

    /// The log's identity.
    pub fn id(&self) -> Uuid {
        self.list.log
    }

    /// See [`super::Log::history`].
    pub fn history(&self) -> String {
        self.list.history()
    }

    /// The segments, in order.
    pub fn segments(&self) -> Result<Vec<CopiedSegment>, LogError> {
        let copied = |listed: &Listed| {
            Ok(CopiedSegment {
                name: listed.file().name(),
                bytes: self.file_bytes(listed)?,
                sealed: listed.sealed,
                last: listed.last,
                tick: listed.tick,
            })
        };
        let known = |file: &KnownEvents| {
            let (name, bytes, last) = (known::name(*file), file.bytes, file.last);
            Ok(CopiedSegment { name, bytes, sealed: true, last, tick: 0 })
        };
        let trimmed = self.list.trimmed.iter().flat_map(|trimmed| &trimmed.known);
        trimmed.map(known).chain(self.list.segments.iter().map(copied)).collect()
    }

    /// The length of a segment's file, which is another one than what is read of an archived one.
    fn file_bytes(&self, listed: &Listed) -> Result<u64, LogError> {
        match (listed.format, listed.remote) {
            (_, Some(bytes)) => Ok(bytes),
            (LogFormat::Three, None) => {
                let file = self.open(&listed.file().name())?;
                let found = file.metadata();
                found.map(|found| found.len()).map_err(|e| LogError::of_file(LIST_NAME, e))
            }
            _ => Ok(listed.bytes),
        }
    }

    /// Opens a file of the log; an archived segment is fetched if need be.
    pub fn open(&self, name: &str) -> Result<std::fs::File, LogError> {
        self.files.open_file(name).map_err(|source| LogError::of_file(name, source))
    }

    /// The content of the list of segments in the copy, and its name.
    pub fn list(&self) -> std::io::Result<(&'static str, Vec<u8>)> {
        // In the copy every segment is where the list is.
        let mut list = self.list.clone();
        list.segments.iter_mut().for_each(|listed| listed.remote = None);
        Ok((LIST_NAME, list.to_bytes()?))
    }

    /// Reads a segment through: whether its frames are whole and follow each other.
    pub fn check(&self, segment: &CopiedSegment) -> Result<(), LogError> {
        let listed = self.list.segments.iter().find(|l| l.file().name() == segment.name);
        let Some(listed) = listed else { return Ok(()) };
        let mut reader = self.list.reader(listed.first);
        let bytes = listed.bytes;
        while reader.offset() < bytes {
            match reader.next(&self.files)? {
                NextFrame::Frame(_) => {}
                NextFrame::End => break,
                NextFrame::Broken { offset, what } => {
                    return Err(LogError::damaged(reader.name(), offset, what));
                }
            }
        }
        let (offset, next) = (reader.offset(), reader.next_position());
        if offset != bytes || next != segment.last + 1 {
            let what = format!(
                "it ends at {offset} bytes behind position {}, expected {} and {}",
                next - 1,
                bytes,
                segment.last
            );
            return Err(LogError::damaged(reader.name(), offset, what));
        }
        Ok(())
    }
}

/// The names of the segments that are needed for everything up to a time, of a log with this list. `None` if
/// the list cannot be read.
pub fn segments_until(list: &[u8], until: Tick) -> Option<Vec<String>> {
    let ReadList::Found { list, .. } = SegmentList::parse(list) else { return None };
    // A segment whose last tick is unknown has 0.
    let reaches = |listed: &Listed| listed.tick > until;
    let first = list.segments.iter().position(reaches).unwrap_or(list.segments.len());
    let is_needed = |(index, listed): &(usize, &Listed)| {
        // Segments without events are kept, too: if nothing else follows, nothing is dropped.
        *index <= first || listed.last < listed.first
    };
    let needed = list.segments.iter().enumerate().filter(is_needed);
    let trimmed = list.trimmed.iter().flat_map(|trimmed| &trimmed.known);
    let known = trimmed.map(|file| known::name(*file));
    Some(known.chain(needed.map(|(_, listed)| listed.file().name())).collect())
}

/// The result of cutting a log.
#[derive(Debug)]
pub struct CutLog {
    pub head: Head,
    /// The number of dropped events; with 0 the log is unchanged.
    pub dropped: u64,
    /// The new id, if events were dropped.
    pub new_id: Option<Uuid>,
    /// The control frames up to the cut, in order.
    pub controls: Vec<Control>,
}

impl CutLog {
    /// The query files that were in use last, up to the cut.
    pub fn queries(&self) -> Option<&QueriesInUse> {
        self.controls.iter().rev().find_map(|control| match control {
            Control::Queries(in_use) => Some(in_use),
            Control::Dismissal(_) => None,
        })
    }
}

/// Drops the events that were appended to a log after a time. No process may have it open, and the segments
/// after the first one that reaches beyond the time may be missing.
///
/// A log that loses events gets another id: results that were computed of it do not hold any more. The part
/// of the id that hashes of names are seeded with stays, since frames hold such hashes.
pub fn cut(directory: &Path, until: Tick) -> Result<CutLog, LogError> {
    let files = DiskFiles::open(directory)?;
    let ReadList::Found { mut list, .. } = SegmentList::read(&files)? else {
        return Err(LogError::damaged(LIST_NAME, 0, "it cannot be read"));
    };
    let named = |source| LogError::Io { path: directory.display().to_string(), source };
    let end = list.segments.last().map_or(0, |last| last.last);
    let mut cut = CutLog { head: Head::default(), dropped: 0, new_id: None, controls: Vec::new() };
    // The segment and the offset that the log ends at.
    let mut place = None;
    'segments: for (index, listed) in list.segments.iter().enumerate() {
        let mut reader = list.reader(listed.first);
        place = Some((index, SEGMENT_HEADER_BYTES as u64));
        loop {
            match reader.next(&files)? {
                NextFrame::Frame(frame) if frame.tick() > until => break 'segments,
                NextFrame::Frame(frame) => {
                    cut.head = Head { position: frame.last_position(), tick: frame.tick() };
                    cut.controls.extend(control(&frame));
                    place = Some((index, reader.offset()));
                }
                NextFrame::End => break,
                NextFrame::Broken { offset, what } => {
                    return Err(LogError::damaged(reader.name(), offset, what));
                }
            }
        }
        cut.head.position = cut.head.position.max(reader.next_position() - 1);
    }
    cut.dropped = end.saturating_sub(cut.head.position);
    let Some((last, bytes)) = place else { return Ok(cut) };
    if cut.dropped == 0 {
        return Ok(cut);
    }
    let id = Uuid::from_u64_pair(Uuid::now_v7().as_u64_pair().0, list.log.as_u64_pair().1);
    for listed in list.segments.split_off(last + 1) {
        match files.remove(&listed.file().name()) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(named(error)),
            _ => {}
        }
    }
    // Nothing is cut off an archived segment: its beginning becomes one that is written to.
    let mut bytes = bytes;
    if list.segments[last].format == LogFormat::Three {
        bytes = unpack(&files, &mut list, last, until)?;
    }
    for (index, listed) in list.segments.iter().enumerate() {
        let file = listed.file();
        if index == last {
            files.truncate(&file.name(), bytes).map_err(named)?;
        }
        let epoch = match read_header(&files, file)? {
            Ok(header) => header.epoch,
            Err(error) => return Err(LogError::damaged(file.name(), 0, error)),
        };
        let header = segment::header_of(file, id, epoch);
        files.rewrite(&file.name(), 0, &header).map_err(named)?;
    }
    list.log = id;
    let first = list.segments.last().map_or(1, |last| last.first);
    let position = cut.head.position.max(first - 1);
    cut.head.position = position;
    if let Some(last) = list.segments.last_mut() {
        *last = Listed { sealed: false, last: position, tick: cut.head.tick, bytes, ..*last };
    }
    list.gaps.retain(|gap| gap.first <= position);
    // Positions behind the cut belong to nobody in a log of another id.
    list.reserved = 0;
    list.reserve(position + 1);
    list.queries = cut.queries().map(|in_use| in_use.set.clone()).or(list.queries);
    list.write(&files).map_err(named)?;
    cut.new_id = Some(id);
    Ok(cut)
}

/// Makes a segment of the current format of what an archived one has up to a time; its length.
fn unpack(
    files: &DiskFiles,
    list: &mut SegmentList,
    index: usize,
    until: Tick,
) -> Result<u64, LogError> {
    let listed = list.segments[index];
    let (file, mut bytes) = (SegmentFile::new(listed.first), SEGMENT_HEADER_BYTES as u64);
    let name = file.name();
    let failed = |source| LogError::Io { path: name.clone(), source };
    let mut out = files.append(&name).map_err(failed)?;
    out.write(&segment::header_of(file, list.log, listed.epoch)).map_err(failed)?;
    let mut reader = list.reader(listed.first);
    while let NextFrame::Frame(frame) = reader.next(files)? {
        if frame.tick() > until {
            break;
        }
        out.write(frame.as_bytes()).map_err(failed)?;
        bytes += frame.disk_bytes();
    }
    out.sync().map_err(failed)?;
    files.remove(&listed.file().name()).map_err(failed)?;
    list.segments[index].format = LogFormat::CURRENT;
    Ok(bytes)
}

/// The control in a frame; `None` if there is none, or if a later version wrote one that is unknown here.
fn control(frame: &Frame) -> Option<Control> {
    frame.control().ok().flatten()
}

/// The time at which the first event was appended that a log still has.
pub fn first_tick(directory: &Path) -> Result<Option<Tick>, LogError> {
    let files = DiskFiles::read_only(directory)?;
    let ReadList::Found { list, .. } = SegmentList::read(&files)? else { return Ok(None) };
    let Some(first) = list.segments.first() else { return Ok(None) };
    let mut reader: SegmentReader = list.reader(first.first);
    loop {
        match reader.next(&files)? {
            NextFrame::Frame(frame) if frame.count() > 0 => return Ok(Some(frame.tick())),
            NextFrame::Frame(_) => {}
            NextFrame::End | NextFrame::Broken { .. } => return Ok(None),
        }
    }
}
