//! Reads a log's files when it is opened.
//!
//! A torn tail is cut. Damage in a sealed segment raises an alarm: appends go on, since the list knows
//! the next position. Damage or loss of the segment that is written to is an error: positions could be
//! given away twice. Unfinished rewrites that a crash has left are removed.

use std::sync::Arc;

use uuid::Uuid;

use super::LogError;
use super::control::Control;
use super::files::{Files, is_full};
use super::format::Epoch;
use super::list::{LIST_NAME, Listed, ReadList, SegmentList, Segments};
use super::segment::{
    self, NextFrame, SEGMENT_HEADER_BYTES, SegmentFile, SegmentHeader, SegmentHeaderError,
    SegmentReader, find_frame,
};
use super::{rewrite, trim};
use crate::model::Head;
use crate::model::alarm::Alarms;

/// A log that was recovered.
#[derive(Debug)]
pub struct RecoveredLog {
    pub id: Uuid,
    pub head: Head,
    pub segments: Arc<Segments>,
    /// The segment that is written to, and its length; `None` for a log without segments.
    pub last_segment: Option<(SegmentFile, u64)>,
    /// The highest epoch of a writer so far.
    pub epoch: Epoch,
    /// The last set of query files that a control frame tells of.
    pub queries: Option<String>,
}

impl RecoveredLog {
    /// A log without segments.
    fn empty(list: SegmentList) -> RecoveredLog {
        let (id, epoch, queries) = (list.log, list.epoch, list.queries.clone());
        let (head, segments) = (Head::default(), Arc::new(Segments::new(list)));
        RecoveredLog { id, head, segments, last_segment: None, epoch, queries }
    }
}

/// Recovers a log. Only the last segment is read through: of the others the list says how they end.
pub fn recover(files: &dyn Files, alarms: &Alarms) -> Result<RecoveredLog, LogError> {
    rewrite::remove_unfinished(files)?;
    let mut found = segment::list(files)?;
    let (mut list, mut stale) = match SegmentList::read(files)? {
        ReadList::Found { list, whole } => {
            if !whole {
                tracing::warn!("a copy of the list of segments is damaged: it is written anew");
            }
            (Some(list), !whole)
        }
        ReadList::Absent => (None, true),
        ReadList::Damaged(error) => {
            let segment = format!("the list of segments, {LIST_NAME},");
            return Err(LogError::damaged(segment, 0, error));
        }
    };
    remove_stub(files, &mut found, list.as_ref())?;
    if let Some(list) = &list {
        trim::remove_trimmed(files, list, &mut found)?;
    }
    if list.is_none() {
        let Some(id) = first_id(files, &found)? else {
            return Ok(RecoveredLog::empty(SegmentList::new(Uuid::now_v7())));
        };
        tracing::info!(segments = found.len(), "making the list of segments from what is there");
        list = Some(SegmentList::new(id));
    }
    let Some(mut list) = list else { unreachable!("a list was found or made") };
    stale |= list.adopt(files, &found)?;
    for error in sealed_damage(files, &list, &found)? {
        error.raise(alarms);
    }
    let Some(last) = list.segments.last().copied() else {
        return Ok(RecoveredLog::empty(list));
    };
    let RecoveredSegment { mut head, bytes, epoch, queries } = recover_last(files, &list, last)?;
    head.tick = head.tick.max(list.last_tick());
    if stale {
        let mut next = list.clone();
        next.reserve(head.position + 1);
        match next.write(files) {
            Ok(()) => list = next,
            // The next segment writes the list again.
            Err(error) if is_full(&error) => tracing::warn!(%error, "the list is not written"),
            Err(source) => return Err(LogError::Io { path: LIST_NAME.to_string(), source }),
        }
    }
    remove_superseded(files, &list, &found)?;
    remove_moved(files, &list, &found)?;
    let (id, epoch) = (list.log, epoch.max(list.epoch));
    let queries = queries.or_else(|| list.queries.clone());
    let segments = Arc::new(Segments::new(list));
    let last_segment = Some((last.file(), bytes));
    Ok(RecoveredLog { id, head, segments, last_segment, epoch, queries })
}

/// Removes the files of segments that are listed in another format, and are there in that: they
/// were rewritten, and a crash came before the list was changed or before the old file was removed.
fn remove_superseded(
    files: &dyn Files,
    list: &SegmentList,
    found: &[SegmentFile],
) -> Result<(), LogError> {
    for file in superseded(list, found) {
        let name = file.name();
        let is_remote = list.segment(file.first).is_some_and(|listed| listed.remote.is_some());
        if is_remote || found.binary_search(&list.file(file.first)).is_ok() {
            tracing::info!(segment = name, "removing the other file of a rewritten segment");
            files.remove(&name).map_err(|source| LogError::of_file(&name, source))?;
        }
    }
    Ok(())
}

/// Removes the files of segments that were moved to an object store, and are still here after a crash.
fn remove_moved(
    files: &dyn Files,
    list: &SegmentList,
    found: &[SegmentFile],
) -> Result<(), LogError> {
    let is_moved = |file: &&SegmentFile| {
        let listed = list.segment(file.first).filter(|listed| listed.remote.is_some());
        listed.is_some_and(|listed| listed.file() == **file)
    };
    for name in found.iter().filter(is_moved).map(|file| file.name()) {
        tracing::info!(segment = name, "removing the file of a segment that was moved");
        files.remove(&name).map_err(|source| LogError::of_file(&name, source))?;
    }
    Ok(())
}

/// The files of listed segments that are listed in another format.
pub fn superseded(list: &SegmentList, found: &[SegmentFile]) -> impl Iterator<Item = SegmentFile> {
    let other =
        |file: &SegmentFile| list.segment(file.first).is_some_and(|listed| listed.file() != *file);
    found.iter().copied().filter(other)
}

/// A crash between making a segment and listing it leaves one without frames.
fn remove_stub(
    files: &dyn Files,
    found: &mut Vec<SegmentFile>,
    list: Option<&SegmentList>,
) -> Result<(), LogError> {
    while let Some(last) = found.last() {
        let name = last.name();
        let named = |source| LogError::Io { path: name.clone(), source };
        let listed = list.is_some_and(|list| list.segment(last.first).is_some());
        let len = files.len(&name).map_err(named)?;
        // A log of an earlier version keeps its last segment, however short.
        let short = len < SEGMENT_HEADER_BYTES as u64
            || (len == SEGMENT_HEADER_BYTES as u64
                && (list.is_some() || read_header(files, *last)?.is_err()));
        if listed || !short {
            break;
        }
        tracing::warn!(segment = name, "removing a segment that was never begun");
        files.remove(&name).map_err(named)?;
        found.pop();
    }
    Ok(())
}

/// The log's id, from the first segment whose header is sound; `None` if there are no segments.
pub fn first_id(files: &dyn Files, found: &[SegmentFile]) -> Result<Option<Uuid>, LogError> {
    let mut damage = None;
    for file in found {
        match read_header(files, *file)? {
            Ok(header) => return Ok(Some(header.log)),
            Err(error) => {
                damage.get_or_insert((file.name(), error));
            }
        }
    }
    match damage {
        None => Ok(None),
        Some((name, error)) => Err(LogError::damaged(name, 0, error)),
    }
}

/// A segment's header, or what is wrong with it. An error for one of a later version.
pub fn read_header(
    files: &dyn Files,
    file: SegmentFile,
) -> Result<Result<SegmentHeader, SegmentHeaderError>, LogError> {
    let mut bytes = [0; SEGMENT_HEADER_BYTES];
    let name = file.name();
    let read = segment::read_at(files, &name, 0, &mut bytes)?;
    match SegmentHeader::read(&bytes[..read], file) {
        Err(error @ SegmentHeaderError::Newer { .. }) => Err(LogError::newer(name, 0, error)),
        header => Ok(header),
    }
}

/// Checks of sealed segments that need not read them through.
fn sealed_damage(
    files: &dyn Files,
    list: &SegmentList,
    found: &[SegmentFile],
) -> Result<Vec<LogError>, LogError> {
    let mut damage = Vec::new();
    // Segments in an object store are checked when they are read.
    let is_here = |listed: &&Listed| listed.sealed && listed.remote.is_none();
    for listed in list.segments.iter().filter(is_here) {
        let name = listed.file().name();
        if found.binary_search(&listed.file()).is_err() {
            damage.push(LogError::Missing { segment: name });
            continue;
        }
        if let Some(error) = list.reader(listed.first).open(files)? {
            damage.push(LogError::damaged(name, 0, error));
            continue;
        }
        let len = files.len(&name).map_err(|source| LogError::of_file(&name, source))?;
        if len != listed.bytes {
            let what = format!("it has {len} bytes, expected {}", listed.bytes);
            let offset = len.min(listed.bytes);
            damage.push(LogError::Damaged { segment: name, offset, what });
        }
    }
    for file in unlisted(list, found) {
        let (segment, what) = (file.name(), "it is not in the list of segments".to_string());
        damage.push(LogError::Damaged { segment, offset: 0, what });
    }
    Ok(damage)
}

/// The segments of the directory that do not belong to the log.
pub fn unlisted(list: &SegmentList, found: &[SegmentFile]) -> impl Iterator<Item = SegmentFile> {
    // A crash may have left files of trimmed segments: they are not unlisted.
    let trimmed = list.trimmed_through();
    let is_other =
        move |file: &SegmentFile| list.segment(file.first).is_none() && file.first > trimmed;
    found.iter().copied().filter(is_other)
}

/// The segment that is written to, as it was recovered.
struct RecoveredSegment {
    head: Head,
    bytes: u64,
    /// The highest epoch in it.
    epoch: Epoch,
    /// The last set of query files that it tells of.
    queries: Option<String>,
}

/// Reads the segment that is written to, and cuts off a write that was not completed.
fn recover_last(
    files: &dyn Files,
    list: &SegmentList,
    last: Listed,
) -> Result<RecoveredSegment, LogError> {
    let mut reader = list.reader(last.first);
    let (mut epoch, mut queries) = (last.epoch, None);
    let mut head = Head { position: last.first - 1, tick: 0 };
    let mut last_frame = None;
    loop {
        match reader.next(files)? {
            NextFrame::Frame(frame) => {
                head = Head { position: frame.last_position(), tick: frame.tick() };
                epoch = epoch.max(frame.epoch());
                // A control that is unknown here does not matter to the log itself.
                if let Ok(Some(Control::Queries(in_use))) = frame.control() {
                    queries = Some(in_use.set);
                }
                last_frame = Some((reader.offset() - frame.disk_bytes(), frame));
            }
            NextFrame::End if reader.offset() < last.bytes => {
                return Err(damaged(
                    &reader,
                    format!("it ends, and {} bytes were synced", last.bytes),
                ));
            }
            NextFrame::End => break,
            NextFrame::Broken { offset: 0, what } => {
                return Err(LogError::Damaged {
                    segment: reader.name().to_string(),
                    offset: 0,
                    what,
                });
            }
            NextFrame::Broken { what, .. } if reader.offset() < last.bytes => {
                return Err(damaged(&reader, format!("{what}, and it was synced")));
            }
            NextFrame::Broken { what, .. } => {
                cut_tail(files, &reader, &what)?;
                break;
            }
        }
    }
    if let Some((offset, frame)) = last_frame {
        // The frame may be in the page cache only. Readers see it from now on, so it is synced again.
        files
            .rewrite(reader.name(), offset, frame.as_bytes())
            .map_err(|source| LogError::of_file(reader.name(), source))?;
    }
    // Positions that were lost at its end are not given away again.
    head.position = head.position.max(reader.next_position() - 1);
    Ok(RecoveredSegment { head, bytes: reader.offset(), epoch, queries })
}

fn damaged(reader: &SegmentReader, what: String) -> LogError {
    LogError::Damaged { segment: reader.name().to_string(), offset: reader.offset(), what }
}

/// A write that a crash cut off was never acknowledged. But whole frames behind a broken one mean
/// that something else is wrong, and then nothing is cut.
fn cut_tail(files: &dyn Files, reader: &SegmentReader, what: &str) -> Result<(), LogError> {
    let (name, offset) = (reader.name(), reader.offset());
    if find_frame(files, reader.file(), offset + 1, reader.next_position())?.is_some() {
        return Err(damaged(reader, format!("{what}, and whole frames follow")));
    }
    let len = files.len(name).map_err(|source| LogError::of_file(name, source))?;
    let bytes = len - offset;
    tracing::warn!(
        segment = name,
        offset,
        bytes,
        what,
        "cutting off a write that was not completed"
    );
    files.truncate(name, offset).map_err(|source| LogError::of_file(name, source))
}
