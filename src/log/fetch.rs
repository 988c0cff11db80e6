//! Reading events by their positions.

use super::files::Files;
use super::frame::{Frame, FrameError, HEADER_BYTES, Header};
use super::index::Index;
use super::{LogError, segment};
use crate::model::Position;
use crate::model::event::EventRef;

/// Hands the events at these positions, which ascend, to `visit`, until it returns false.
///
/// Each frame that holds some of them is read and decompressed once.
pub fn visit_events(
    files: &dyn Files,
    index: &Index,
    positions: &[Position],
    mut visit: impl FnMut(&EventRef<'_>) -> bool,
) -> Result<(), LogError> {
    let mut rest = positions;
    while let Some(first) = rest.first() {
        let frame = frame_with(files, index, *first)?;
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
fn frame_with(files: &dyn Files, index: &Index, position: Position) -> Result<Frame, LogError> {
    const UNKNOWN: &str =
        "the indexes do not know its frame: remove the directory index beside the segments";
    let missing = || LogError::of_position(position, UNKNOWN);
    let entry = index.frame_of(position)?.ok_or_else(missing)?;
    let frame = Frame::read_at(files, &segment::name(entry.segment), entry.offset)?;
    let holds = frame.first_position() <= position && position <= frame.last_position();
    if holds { Ok(frame) } else { Err(missing()) }
}

impl Frame {
    /// The frame that begins at an offset of a segment.
    pub(super) fn read_at(
        files: &dyn Files,
        segment: &str,
        offset: u64,
    ) -> Result<Frame, LogError> {
        let damaged = |error: FrameError| LogError::damaged(segment, offset, error);
        let mut bytes = vec![0; HEADER_BYTES];
        read_exactly(files, segment, offset, &mut bytes)?;
        let payload_bytes = Header::read(&bytes).map_err(damaged)?.payload_bytes as usize;
        let len = HEADER_BYTES + payload_bytes;
        let end = files.len(segment).map_err(|source| LogError::of_file(segment, source))?;
        let left = end.saturating_sub(offset);
        if left < len as u64 {
            let bytes = usize::try_from(left).unwrap_or(usize::MAX);
            return Err(damaged(FrameError::Length { bytes, expected: len }));
        }
        bytes.resize(len, 0);
        let payload_offset = offset + HEADER_BYTES as u64;
        read_exactly(files, segment, payload_offset, &mut bytes[HEADER_BYTES..])?;
        Frame::read(&bytes.into()).map_err(damaged)
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
