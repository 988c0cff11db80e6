//! Reading events by their positions.

use super::LogError;
use super::files::Files;
use super::frame::{Frame, FrameError, Header};
use super::index::{FrameEntry, Index};
use super::list::Segments;
use super::segment::{self, NextFrame, SegmentFile};
use crate::model::Position;
use crate::model::event::EventRef;

/// Look-ups of one frame, of which all but the first are for a segment that was rewritten meanwhile.
const ATTEMPTS: usize = 3;

/// Hands the events at these positions, which ascend, to `visit`, until it returns false.
///
/// Each frame that holds some of them is read and decompressed once.
pub fn visit_events(
    files: &dyn Files,
    (segments, index): (&Segments, &Index),
    positions: &[Position],
    mut visit: impl FnMut(&EventRef<'_>) -> bool,
) -> Result<(), LogError> {
    let mut rest = positions;
    while let Some(first) = rest.first() {
        let frame = frame_with(files, (segments, index), *first)?;
        let (here, behind) = rest.split_at(rest.partition_point(|p| *p <= frame.last_position()));
        rest = behind;
        let events = frame.decompress().map_err(|error| LogError::of_position(*first, error))?;
        let mut wanted = here.iter().copied().peekable();
        for event in events.iter() {
            if wanted.next_if_eq(&event.position).is_some() && !visit(&event) {
                return Ok(());
            }
        }
    }
    Ok(())
}

/// The frame that holds a position of the log.
fn frame_with(
    files: &dyn Files,
    (segments, index): (&Segments, &Index),
    position: Position,
) -> Result<Frame, LogError> {
    const UNKNOWN: &str =
        "the indexes do not know its frame: remove the directory index beside the segments";
    let missing = || LogError::of_position(position, UNKNOWN);
    let mut attempts = 0;
    loop {
        let entry = index.frame_of(position)?.ok_or_else(missing)?;
        let read = read_entry(files, segments, &entry, position);
        attempts += 1;
        match read {
            Err(LogError::Missing { .. }) if attempts < ATTEMPTS => {}
            Err(error) => return Err(error),
            Ok(Some(frame)) => {
                let last = frame.last_position();
                let holds = frame.first_position() <= position && position <= last;
                return if holds { Ok(frame) } else { Err(missing()) };
            }
            Ok(None) => return Err(missing()),
        }
    }
}

/// The frame that an entry of the indexes means. If that is of the segment before it was rewritten,
/// the segment is read until the frame comes; `None` if it holds no such frame.
pub fn read_entry(
    files: &dyn Files,
    segments: &Segments,
    entry: &FrameEntry,
    position: Position,
) -> Result<Option<Frame>, LogError> {
    // A segment that is not listed is lost, and its file is missed by its name.
    let format = segments.ask(|list| list.segment(entry.segment).map(|listed| listed.format));
    let file = SegmentFile { first: entry.segment, format: format.unwrap_or(entry.format) };
    if entry.format == file.format {
        return Frame::read_at(files, file, entry.offset).map(Some);
    }
    let mut reader = segments.ask(|list| list.reader(file.first));
    loop {
        match reader.next(files)? {
            NextFrame::Frame(frame) if frame.last_position() < position => {}
            NextFrame::Frame(frame) => return Ok(Some(frame)),
            NextFrame::End => return Ok(None),
            NextFrame::Broken { offset, what } => {
                return Err(LogError::damaged(reader.name(), offset, what));
            }
        }
    }
}

impl Frame {
    /// The frame that begins at an offset of a segment.
    pub(super) fn read_at(
        files: &dyn Files,
        file: SegmentFile,
        offset: u64,
    ) -> Result<Frame, LogError> {
        let (name, format) = (file.name(), file.format);
        let segment = name.as_str();
        let damaged = |error: FrameError| match error {
            FrameError::Newer { .. } => LogError::newer(segment, offset, error),
            error => LogError::damaged(segment, offset, error),
        };
        let mut bytes = vec![0; format.frame_header_bytes()];
        read_exactly(files, segment, offset, &mut bytes)?;
        let expected = Header::read(format, &bytes).map_err(damaged)?.frame_bytes();
        let end = files.len(segment).map_err(|source| LogError::of_file(segment, source))?;
        let left = end.saturating_sub(offset);
        if left < expected as u64 {
            let bytes = usize::try_from(left).unwrap_or(usize::MAX);
            return Err(damaged(FrameError::Length { bytes, expected }));
        }
        let header_bytes = bytes.len();
        bytes.resize(expected, 0);
        let body_offset = offset + header_bytes as u64;
        read_exactly(files, segment, body_offset, &mut bytes[header_bytes..])?;
        Frame::read_as(format, &bytes.into()).map_err(damaged)
    }
}

fn read_exactly(
    files: &dyn Files,
    segment: &str,
    offset: u64,
    buffer: &mut [u8],
) -> Result<(), LogError> {
    let read = segment::read_at(files, segment, offset, buffer)?;
    if read == buffer.len() {
        return Ok(());
    }
    let what = format!("{read} of {} bytes of a frame", buffer.len());
    Err(LogError::damaged(segment, offset, what))
}
