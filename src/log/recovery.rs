//! What a log's files hold when it is opened: a torn tail is cut, anything else that is broken is an
//! error.

use uuid::Uuid;

use super::LogError;
use super::files::Files;
use super::segment::{self, Next, SEGMENT_HEADER_BYTES, SegmentReader};
use crate::model::{Head, Position, Tick};

/// A log that was recovered.
#[derive(Debug)]
pub struct Recovered {
    pub id: Uuid,
    pub head: Head,
    /// The last segment and its length; `None` for a log without events.
    pub last_segment: Option<(String, u64)>,
}

/// Recovers a log. Only the last segment is read through: the others were complete when it was made.
pub fn recover(files: &dyn Files) -> Result<Recovered, LogError> {
    let mut segments = segment::list(files)?;
    // A crash between making a segment and writing its header leaves a stub.
    while let Some(last) = segments.last() {
        let len = files.len(last).map_err(|source| LogError::Io { path: last.clone(), source })?;
        if len > SEGMENT_HEADER_BYTES as u64 || (len > 0 && read_header(files, last).is_ok()) {
            break;
        }
        tracing::warn!(segment = last, "removing a segment whose header was never written");
        files.remove(last).map_err(|source| LogError::Io { path: last.clone(), source })?;
        segments.pop();
    }
    let Some(last) = segments.last() else {
        return Ok(Recovered { id: Uuid::now_v7(), head: Head::default(), last_segment: None });
    };
    let (id, first) = read_header(files, last)?;
    let mut reader = SegmentReader::new(last.clone());
    let mut head = Head { position: first - 1, tick: 0 };
    let mut last_frame = None;
    loop {
        let offset = reader.offset();
        match reader.next(files)? {
            Next::Frame(frame) => {
                check_sequence(&reader, head, frame.first_position(), frame.tick())?;
                last_frame = Some((offset, frame.clone()));
                head = Head { position: frame.last_position(), tick: frame.tick() };
            }
            Next::End => break,
            Next::Broken(what) => {
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
            .rewrite(last, offset, &bytes)
            .map_err(|source| LogError::Io { path: last.clone(), source })?;
    }
    if head.tick == 0 && segments.len() > 1 {
        head.tick = last_tick(files, &segments[segments.len() - 2])?;
    }
    Ok(Recovered { id, head, last_segment: Some((last.clone(), reader.offset())) })
}

/// The id and first position that a segment's header gives.
pub fn read_header(files: &dyn Files, name: &str) -> Result<(Uuid, Position), LogError> {
    let first = segment::first_position(name).unwrap_or_default();
    let mut bytes = [0; SEGMENT_HEADER_BYTES];
    let read = files
        .read_at(name, 0, &mut bytes)
        .map_err(|source| LogError::Io { path: name.to_string(), source })?;
    match segment::read_header(&bytes[..read], first) {
        Ok(id) => Ok((id, first)),
        Err(what) => Err(LogError::Damaged { segment: name.to_string(), offset: 0, what }),
    }
}

/// Positions are dense and ticks increase.
pub fn check_sequence(
    reader: &SegmentReader,
    head: Head,
    first_position: Position,
    tick: Tick,
) -> Result<(), LogError> {
    if first_position == head.position + 1 && tick > head.tick {
        return Ok(());
    }
    Err(LogError::Damaged {
        segment: reader.name().to_string(),
        offset: reader.offset(),
        what: format!(
            "a frame of position {first_position} and tick {tick} follows position {} and tick {}",
            head.position, head.tick
        ),
    })
}

/// A write that a crash cut off was never acknowledged. But whole frames behind a broken one mean
/// that something else is wrong, and then nothing is cut.
fn cut_tail(files: &dyn Files, reader: &SegmentReader, what: &str) -> Result<(), LogError> {
    let name = reader.name();
    let named = |source| LogError::Io { path: name.to_string(), source };
    let len = files.len(name).map_err(named)?;
    if frame_follows(files, name, reader.offset() + 1, len)? {
        return Err(LogError::Damaged {
            segment: name.to_string(),
            offset: reader.offset(),
            what: format!("{what}, and whole frames follow"),
        });
    }
    tracing::warn!(
        segment = name,
        offset = reader.offset(),
        bytes = len - reader.offset(),
        what,
        "cutting off a write that was not completed"
    );
    files.truncate(name, reader.offset()).map_err(named)
}

/// Whether a whole frame begins anywhere from `offset` on.
pub fn frame_follows(
    files: &dyn Files,
    name: &str,
    offset: u64,
    len: u64,
) -> Result<bool, LogError> {
    use super::frame::{Frame, HEADER_BYTES, Header};
    let mut tail = vec![0; usize::try_from(len.saturating_sub(offset)).unwrap_or(0)];
    let mut filled = 0;
    while filled < tail.len() {
        let read = files
            .read_at(name, offset + filled as u64, &mut tail[filled..])
            .map_err(|source| LogError::Io { path: name.to_string(), source })?;
        if read == 0 {
            break;
        }
        filled += read;
    }
    let tail = bytes::Bytes::from(tail);
    for at in 0..tail.len().saturating_sub(HEADER_BYTES) {
        let Ok(header) = Header::read(&tail[at..]) else { continue };
        let end = at + HEADER_BYTES + header.payload_bytes as usize;
        // A frame without events has next to no payload.
        let has_events = header.count > 0 || header.payload_bytes < HEADER_BYTES as u32;
        let plausible = has_events && header.first_position > 0 && end <= tail.len();
        if plausible && Frame::read(&tail.slice(at..end)).is_ok() {
            return Ok(true);
        }
    }
    Ok(false)
}

fn last_tick(files: &dyn Files, name: &str) -> Result<Tick, LogError> {
    let mut reader = SegmentReader::new(name.to_string());
    let mut tick = 0;
    while let Next::Frame(frame) = reader.next(files)? {
        tick = frame.tick();
    }
    Ok(tick)
}
