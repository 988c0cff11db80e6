//! Reads a log's files when it is opened.
//!
//! A torn tail is cut. Damage in a segment that is sealed is an alarm: appends go on, since the list
//! knows which position comes next. Damage in the segment that is written to is an error, and so is
//! its loss: positions could be given away twice.

use std::sync::Arc;

use uuid::Uuid;

use super::LogError;
use super::files::{Files, is_full};
use super::list::{LIST_NAME, Listed, ReadList, SegmentList, Segments};
use super::segment::{
    self, NextFrame, SEGMENT_HEADER_BYTES, SegmentHeaderError, SegmentReader, find_frame,
};
use crate::model::alarm::Alarms;
use crate::model::{Head, Position};

/// A log that was recovered.
#[derive(Debug)]
pub struct RecoveredLog {
    pub id: Uuid,
    pub head: Head,
    pub segments: Arc<Segments>,
    /// The first position of the segment that is written to, and its length; `None` for a log
    /// without segments.
    pub last_segment: Option<(Position, u64)>,
}

/// Recovers a log. Only the last segment is read through: of the others the list says how they end.
pub fn recover(files: &dyn Files, alarms: &Alarms) -> Result<RecoveredLog, LogError> {
    let mut names = segment::list(files)?;
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
    remove_stub(files, &mut names, list.as_ref())?;
    if list.is_none() {
        let Some(id) = first_id(files, &names)? else {
            let id = Uuid::now_v7();
            let segments = Arc::new(Segments::new(SegmentList::new(id)));
            return Ok(RecoveredLog { id, head: Head::default(), segments, last_segment: None });
        };
        tracing::info!(segments = names.len(), "making the list of segments from what is there");
        list = Some(SegmentList::new(id));
    }
    let Some(mut list) = list else { unreachable!("a list was found or made") };
    stale |= list.adopt(files, &names)?;
    for error in sealed_damage(files, &list, &names)? {
        error.raise(alarms);
    }
    let id = list.log;
    let Some(last) = list.segments.last().copied() else {
        let segments = Arc::new(Segments::new(list));
        return Ok(RecoveredLog { id, head: Head::default(), segments, last_segment: None });
    };
    let (mut head, len) = recover_last(files, &list, last)?;
    head.tick = head.tick.max(list.last_tick());
    if stale {
        let mut next = list.clone();
        next.reserve(head.position + 1);
        match next.write(files) {
            Ok(()) => list = next,
            // It is written with the next segment.
            Err(error) if is_full(&error) => tracing::warn!(%error, "the list is not written"),
            Err(source) => return Err(LogError::Io { path: LIST_NAME.to_string(), source }),
        }
    }
    let segments = Arc::new(Segments::new(list));
    Ok(RecoveredLog { id, head, segments, last_segment: Some((last.first, len)) })
}

/// A crash between making a segment and listing it leaves one without frames.
fn remove_stub(
    files: &dyn Files,
    names: &mut Vec<String>,
    list: Option<&SegmentList>,
) -> Result<(), LogError> {
    while let Some(last) = names.last() {
        let named = |source| LogError::Io { path: last.clone(), source };
        let first = segment::first_position(last).unwrap_or_default();
        let listed = list.is_some_and(|list| list.segment(first).is_some());
        let len = files.len(last).map_err(named)?;
        // A log of an earlier version keeps its last segment, however short.
        let short = len < SEGMENT_HEADER_BYTES as u64
            || (len == SEGMENT_HEADER_BYTES as u64
                && (list.is_some() || read_header(files, last)?.is_err()));
        if listed || !short {
            break;
        }
        tracing::warn!(segment = last, "removing a segment that was never begun");
        files.remove(last).map_err(named)?;
        names.pop();
    }
    Ok(())
}

/// The log's id, from the first segment whose header is sound; `None` if there are no segments.
pub fn first_id(files: &dyn Files, names: &[String]) -> Result<Option<Uuid>, LogError> {
    let mut damage = None;
    for name in names {
        match read_header(files, name)? {
            Ok(id) => return Ok(Some(id)),
            Err(error) => {
                damage.get_or_insert((name, error));
            }
        }
    }
    match damage {
        None => Ok(None),
        Some((name, error)) => Err(LogError::damaged(name, 0, error)),
    }
}

/// The id in a segment's header, or what is wrong with the header.
pub fn read_header(
    files: &dyn Files,
    name: &str,
) -> Result<Result<Uuid, SegmentHeaderError>, LogError> {
    let mut bytes = [0; SEGMENT_HEADER_BYTES];
    let read = segment::read_at(files, name, 0, &mut bytes)?;
    let first = segment::first_position(name).unwrap_or_default();
    Ok(segment::read_header(&bytes[..read], first))
}

/// Checks of sealed segments that need not read them through.
fn sealed_damage(
    files: &dyn Files,
    list: &SegmentList,
    names: &[String],
) -> Result<Vec<LogError>, LogError> {
    let mut damage = Vec::new();
    for listed in list.segments.iter().filter(|listed| listed.sealed) {
        let name = segment::name(listed.first);
        if names.binary_search(&name).is_err() {
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
    for name in unlisted(list, names) {
        let (segment, what) = (name.clone(), "it is not in the list of segments".to_string());
        damage.push(LogError::Damaged { segment, offset: 0, what });
    }
    Ok(damage)
}

/// The segments of the directory that do not belong to the log.
pub fn unlisted<'a>(
    list: &'a SegmentList,
    names: &'a [String],
) -> impl Iterator<Item = &'a String> {
    let listed = |name: &&String| {
        segment::first_position(name).is_some_and(|first| list.segment(first).is_some())
    };
    names.iter().filter(move |name| !listed(name))
}

/// Reads the segment that is written to, and cuts off a write that was not completed. The log's
/// head, and the segment's length.
fn recover_last(
    files: &dyn Files,
    list: &SegmentList,
    last: Listed,
) -> Result<(Head, u64), LogError> {
    let mut reader = list.reader(last.first);
    let mut head = Head { position: last.first - 1, tick: 0 };
    let mut last_frame = None;
    loop {
        match reader.next(files)? {
            NextFrame::Frame(frame) => {
                head = Head { position: frame.last_position(), tick: frame.tick() };
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
        // It may have been written and not synced: what is shown from now on has to stay.
        let mut bytes = Vec::new();
        frame.write(&mut bytes);
        files
            .rewrite(reader.name(), offset, &bytes)
            .map_err(|source| LogError::of_file(reader.name(), source))?;
    }
    // Positions that were lost at its end are not given away again.
    head.position = head.position.max(reader.next_position() - 1);
    Ok((head, reader.offset()))
}

fn damaged(reader: &SegmentReader, what: String) -> LogError {
    LogError::Damaged { segment: reader.name().to_string(), offset: reader.offset(), what }
}

/// A write that a crash cut off was never acknowledged. But whole frames behind a broken one mean
/// that something else is wrong, and then nothing is cut.
fn cut_tail(files: &dyn Files, reader: &SegmentReader, what: &str) -> Result<(), LogError> {
    let (name, offset) = (reader.name(), reader.offset());
    if find_frame(files, name, offset + 1, reader.next_position())?.is_some() {
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
