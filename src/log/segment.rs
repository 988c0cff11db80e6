//! A segment: a file of frames, named by the position that it begins with.
//!
//! ```text
//! header, 64 bytes, little endian
//!   0  [u8; 8]   "HELIOLOG"
//!   8  u32       format version, 1
//!  12  u32       CRC-32 of the header from byte 16 on
//!  16  [u8; 16]  the log's id
//!  32  u64       position of the first event
//!  40  [u8; 24]  zero
//! frames, one after the other
//! ```

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};
use uuid::Uuid;

use super::LogError;
use super::files::Files;
use super::frame::{Frame, FrameError, HEADER_BYTES, Header};
use crate::model::{Position, Tick};

/// The length of a segment's header in bytes.
pub const SEGMENT_HEADER_BYTES: usize = 64;
const MAGIC: &[u8; 8] = b"HELIOLOG";
const FORMAT_VERSION: u32 = 1;
/// How much is read from a file at once.
const READ_BYTES: usize = 4 << 20;

/// The name of the segment that begins with a position.
pub fn name(first_position: Position) -> String {
    format!("{first_position:020}.log")
}

/// The position that a segment of this name begins with; `None` for other files.
pub fn first_position(name: &str) -> Option<Position> {
    name.strip_suffix(".log").filter(|digits| digits.len() == 20)?.parse().ok()
}

/// The segments of a log, in order.
pub fn list(files: &dyn Files) -> Result<Vec<String>, LogError> {
    let names = files.list().map_err(|source| LogError::Io { path: "log".to_string(), source })?;
    Ok(names.into_iter().filter(|name| first_position(name).is_some()).collect())
}

/// The header of a segment.
pub fn header(id: Uuid, first_position: Position) -> [u8; SEGMENT_HEADER_BYTES] {
    let mut header = [0; SEGMENT_HEADER_BYTES];
    header[0..8].copy_from_slice(MAGIC);
    header[8..12].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
    header[16..32].copy_from_slice(id.as_bytes());
    header[32..40].copy_from_slice(&first_position.to_le_bytes());
    let crc = crc32fast::hash(&header[16..]);
    header[12..16].copy_from_slice(&crc.to_le_bytes());
    header
}

/// Why a file's first bytes are not the header of the segment that its name says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SegmentHeaderError {
    #[error("the segment's header is cut short")]
    TooShort,
    #[error("it does not begin as a segment does")]
    Magic,
    /// The checksum, the version or the position is another one.
    #[error("the segment's header is damaged, or of another version")]
    Content,
    /// The header is whole, and of a segment of another log.
    #[error("it belongs to log {found}, not {expected}")]
    OtherLog { found: Uuid, expected: Uuid },
}

/// The log's id in a segment's header.
pub fn read_header(bytes: &[u8], first_position: Position) -> Result<Uuid, SegmentHeaderError> {
    if bytes.len() < SEGMENT_HEADER_BYTES {
        return Err(SegmentHeaderError::TooShort);
    }
    if &bytes[0..8] != MAGIC {
        return Err(SegmentHeaderError::Magic);
    }
    let mut id = [0; 16];
    id.copy_from_slice(&bytes[16..32]);
    let id = Uuid::from_bytes(id);
    if bytes[..SEGMENT_HEADER_BYTES] == header(id, first_position) {
        Ok(id)
    } else {
        Err(SegmentHeaderError::Content)
    }
}

/// The next thing in a segment: a frame, its end, or damage.
#[derive(Debug)]
pub enum NextFrame {
    /// A whole frame that follows the one before it.
    Frame(Frame),
    /// The segment ends here, cleanly.
    End,
    /// From `offset` on there is not what should be: it was cut off, or damaged.
    Broken { offset: u64, what: String },
}

/// Bytes to pass over, since their loss was accepted.
#[derive(Clone, Copy, Debug)]
pub struct Skip {
    pub from: u64,
    pub to: u64,
    /// The position of the first event behind them.
    pub next: Position,
}

/// Reads a segment's frames in order, from large reads, and checks that they follow each other.
pub struct SegmentReader {
    log: Uuid,
    first: Position,
    name: String,
    /// The segment's header has been read.
    opened: bool,
    /// The offset of the next frame.
    offset: u64,
    /// Bytes read ahead, from `offset` on.
    ahead: Bytes,
    /// Segments that lie ahead, in order.
    skips: VecDeque<Skip>,
    /// The position that the next frame begins with.
    next: Position,
    /// The tick of the frame before it.
    tick: Tick,
}

impl SegmentReader {
    /// A reader of the segment that begins with a position, from its first frame on.
    pub fn new(log: Uuid, first: Position, skips: Vec<Skip>) -> Self {
        SegmentReader {
            log,
            first,
            name: name(first),
            opened: false,
            offset: SEGMENT_HEADER_BYTES as u64,
            ahead: Bytes::new(),
            skips: skips.into(),
            next: first,
            tick: 0,
        }
    }

    /// The segment's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The position that the segment begins with.
    pub fn first(&self) -> Position {
        self.first
    }

    /// Where the next frame begins.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// The position behind the last frame.
    pub fn next_position(&self) -> Position {
        self.next
    }

    /// Goes on at the frame at an offset, which begins with a position. The header and what lies
    /// before are not looked at any more.
    pub fn jump(&mut self, offset: u64, position: Position) {
        self.opened = true;
        self.offset = offset;
        self.next = position;
        self.ahead = Bytes::new();
        self.skips.retain(|skip| skip.from >= offset);
    }

    /// Reads the header, if it has not been read yet; what is wrong with it.
    pub fn open(&mut self, files: &dyn Files) -> Result<Option<SegmentHeaderError>, LogError> {
        if self.opened {
            return Ok(None);
        }
        let mut bytes = [0; SEGMENT_HEADER_BYTES];
        let read = read_at(files, &self.name, 0, &mut bytes)?;
        Ok(match read_header(&bytes[..read], self.first) {
            Ok(log) if log == self.log => {
                self.opened = true;
                None
            }
            Ok(found) => Some(SegmentHeaderError::OtherLog { found, expected: self.log }),
            Err(error) => Some(error),
        })
    }

    /// The next frame.
    pub fn next(&mut self, files: &dyn Files) -> Result<NextFrame, LogError> {
        if let Some(error) = self.open(files)? {
            return Ok(NextFrame::Broken { offset: 0, what: error.to_string() });
        }
        while let Some(skip) = self.skips.pop_front_if(|skip| skip.from == self.offset) {
            self.jump(skip.to, skip.next);
        }
        let offset = self.offset;
        let broken = move |what| NextFrame::Broken { offset, what };
        let damaged = |error: FrameError| Ok(broken(error.to_string()));
        if !self.fill(files, HEADER_BYTES)? {
            return Ok(match self.ahead.len() {
                0 => NextFrame::End,
                bytes => return damaged(FrameError::TooShort { bytes }),
            });
        }
        let header = match Header::read(&self.ahead) {
            Ok(header) => header,
            Err(error) => return damaged(error),
        };
        let len = HEADER_BYTES + header.payload_bytes as usize;
        if !self.fill(files, len)? {
            let bytes = self.ahead.len();
            return damaged(FrameError::Length { bytes, expected: len });
        }
        let frame = match Frame::read(&self.ahead.slice(..len)) {
            Ok(frame) => frame,
            Err(error) => return damaged(error),
        };
        let (first, tick) = (frame.first_position(), frame.tick());
        if first != self.next || tick <= self.tick {
            let (next, last) = (self.next, self.tick);
            return Ok(broken(format!(
                "a frame of position {first} and tick {tick}, expected position {next} and a tick past {last}"
            )));
        }
        self.ahead = self.ahead.slice(len..);
        self.offset += len as u64;
        self.next = frame.last_position() + 1;
        self.tick = tick;
        Ok(NextFrame::Frame(frame))
    }

    /// Forgets what was read ahead: a tail that was being written is read again.
    pub fn reread(&mut self) {
        self.ahead = Bytes::new();
    }

    /// Makes sure of `len` bytes ahead; false where the file has fewer.
    fn fill(&mut self, files: &dyn Files, len: usize) -> Result<bool, LogError> {
        if self.ahead.len() >= len {
            return Ok(true);
        }
        let mut wanted = len.max(READ_BYTES);
        if len > READ_BYTES {
            // A damaged header may announce anything: no memory is taken for what is not there.
            let end = files.len(&self.name).map_err(|e| LogError::of_file(&self.name, e))?;
            let left = usize::try_from(end.saturating_sub(self.offset)).unwrap_or(usize::MAX);
            wanted = wanted.min(left.max(self.ahead.len()));
        }
        let mut buffer = BytesMut::with_capacity(wanted);
        buffer.extend_from_slice(&self.ahead);
        let filled = buffer.len();
        buffer.resize(wanted, 0);
        let at = self.offset + filled as u64;
        let read = read_at(files, &self.name, at, &mut buffer[filled..])?;
        buffer.truncate(filled + read);
        self.ahead = buffer.freeze();
        Ok(self.ahead.len() >= len)
    }
}

/// Reads from an offset until the buffer is full or the file ends; returns how many bytes.
pub fn read_at(
    files: &dyn Files,
    name: &str,
    offset: u64,
    buffer: &mut [u8],
) -> Result<usize, LogError> {
    let mut filled = 0;
    while filled < buffer.len() {
        let read = files.read_at(name, offset + filled as u64, &mut buffer[filled..]);
        match read.map_err(|source| LogError::of_file(name, source))? {
            0 => break,
            read => filled += read,
        }
    }
    Ok(filled)
}

/// The first whole frame that begins at `offset` or behind it, with a position from `next` on, and
/// where it begins.
pub fn find_frame(
    files: &dyn Files,
    name: &str,
    offset: u64,
    next: Position,
) -> Result<Option<(u64, Frame)>, LogError> {
    /// Bytes that are no header are hardly ever one of so near a position.
    const POSITIONS_AHEAD_MAX: u64 = 1 << 40;
    let len = files.len(name).map_err(|source| LogError::of_file(name, source))?;
    let mut tail = vec![0; usize::try_from(len.saturating_sub(offset)).unwrap_or(0)];
    let read = read_at(files, name, offset, &mut tail)?;
    tail.truncate(read);
    let tail = Bytes::from(tail);
    for at in 0..tail.len().saturating_sub(HEADER_BYTES - 1) {
        let Ok(header) = Header::read(&tail[at..]) else { continue };
        let end = at + HEADER_BYTES + header.payload_bytes as usize;
        let near = header.first_position.wrapping_sub(next) < POSITIONS_AHEAD_MAX;
        if near
            && end <= tail.len()
            && let Ok(frame) = Frame::read(&tail.slice(at..end))
        {
            return Ok(Some((offset + at as u64, frame)));
        }
    }
    Ok(None)
}
