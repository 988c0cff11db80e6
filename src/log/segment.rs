//! A segment: a file of frames, named by the position that it begins with, and by its format.
//!
//! ```text
//! name: the position in 20 decimal digits, and ".log" for format 1, ".log2" for format 2; ".log3" is an
//!   archived one (`archive.rs`)
//! header, 64 bytes, little endian
//!   0  [u8; 8]   "HELIOLOG"
//!   8  u32       format, 2
//!  12  u32       CRC-32 of bytes 0 to 12 and 16 to 64 of the header
//!  16  [u8; 16]  the log's id
//!  32  u64       position of the first event
//!  40  u64       epoch in which the segment was begun; 0 in one that was rewritten from format 1
//!  48  u32       features that a reader must know, bits: none yet
//!  52  u32       features that a reader may pass over, bits: none yet
//!  56  u32       the release that reads the segment, as in a frame
//!  60  u32       zero
//! frames of the same format, one after the other; their epochs never fall
//! ```
//!
//! In format 1 the checksum is of bytes 16 to 64, and from byte 40 on all is zero.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};
use uuid::Uuid;

use super::LogError;
use super::files::Files;
use super::format::{Epoch, LogFormat, Release};
use super::frame::{Frame, FrameError, Header, u32_at, u64_at};
use crate::model::{Position, Tick};

/// The length of a segment's header in bytes, of either format.
pub const SEGMENT_HEADER_BYTES: usize = 64;
const MAGIC: &[u8; 8] = b"HELIOLOG";
/// Bytes read from a file at once.
const READ_BYTES: usize = 4 << 20;
/// The end of a segment's file name. From format 2 on, the number of the format follows.
const EXTENSION: &str = ".log";

/// A segment's file: its name says these two things.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SegmentFile {
    /// The position that the segment begins with.
    pub first: Position,
    pub format: LogFormat,
}

impl SegmentFile {
    /// A file of the format that is written.
    pub fn new(first: Position) -> SegmentFile {
        SegmentFile { first, format: LogFormat::CURRENT }
    }

    /// The file's name.
    pub fn name(self) -> String {
        match self.format {
            LogFormat::One => format!("{:020}{EXTENSION}", self.first),
            format => format!("{:020}{EXTENSION}{}", self.first, format.number()),
        }
    }

    /// The segment of this name; `None` for other files. An error for a format of later.
    pub fn of(name: &str) -> Option<Result<SegmentFile, super::format::UnknownFormat>> {
        let (digits, format) = name.split_once(EXTENSION)?;
        let is_number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        if digits.len() != 20 || !is_number(digits) || !is_number(format) {
            return None;
        }
        let first = digits.parse().ok()?;
        let number = if format.is_empty() { 1 } else { format.parse().ok()? };
        let file = LogFormat::try_from(number).map(|format| SegmentFile { first, format });
        // Each segment has one name.
        file.map_or_else(|error| Some(Err(error)), |file| (file.name() == name).then_some(Ok(file)))
    }
}

/// The files of a log's segments, in order. A segment that is being rewritten may have two.
pub fn list(files: &dyn Files) -> Result<Vec<SegmentFile>, LogError> {
    let names = files.list().map_err(|source| LogError::Io { path: "log".to_string(), source })?;
    let mut segments = Vec::new();
    for name in names {
        match SegmentFile::of(&name) {
            None => {}
            Some(Ok(file)) => segments.push(file),
            Some(Err(error)) => return Err(LogError::newer(name, 0, error)),
        }
    }
    segments.sort_unstable();
    Ok(segments)
}

/// The header of a segment of the format that is written.
pub fn header(id: Uuid, first_position: Position, epoch: Epoch) -> [u8; SEGMENT_HEADER_BYTES] {
    header_as(LogFormat::CURRENT, id, first_position, epoch)
}

/// The header of a segment of format 2 or later.
fn header_as(
    format: LogFormat,
    id: Uuid,
    first_position: Position,
    epoch: Epoch,
) -> [u8; SEGMENT_HEADER_BYTES] {
    let mut header = [0; SEGMENT_HEADER_BYTES];
    header[0..8].copy_from_slice(MAGIC);
    header[8..12].copy_from_slice(&format.number().to_le_bytes());
    header[16..32].copy_from_slice(id.as_bytes());
    header[32..40].copy_from_slice(&first_position.to_le_bytes());
    header[40..48].copy_from_slice(&epoch.to_le_bytes());
    header[56..60].copy_from_slice(&Release::OF_FORMAT_TWO.0.to_le_bytes());
    let crc = checksum(&header);
    header[12..16].copy_from_slice(&crc.to_le_bytes());
    header
}

/// The header of a segment of any format, of this log.
pub fn header_of(file: SegmentFile, id: Uuid, epoch: Epoch) -> [u8; SEGMENT_HEADER_BYTES] {
    match file.format {
        LogFormat::One => header_v1(id, file.first),
        format => header_as(format, id, file.first, epoch),
    }
}

/// The header of a segment of format 1, for the repair of one.
pub fn header_v1(id: Uuid, first_position: Position) -> [u8; SEGMENT_HEADER_BYTES] {
    let mut header = [0; SEGMENT_HEADER_BYTES];
    header[0..8].copy_from_slice(MAGIC);
    header[8..12].copy_from_slice(&LogFormat::One.number().to_le_bytes());
    header[16..32].copy_from_slice(id.as_bytes());
    header[32..40].copy_from_slice(&first_position.to_le_bytes());
    let crc = crc32fast::hash(&header[16..]);
    header[12..16].copy_from_slice(&crc.to_le_bytes());
    header
}

fn checksum(header: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&header[..12]);
    crc.update(&header[16..SEGMENT_HEADER_BYTES]);
    crc.finalize()
}

/// Why a file's first bytes are not the header of the segment that its name says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SegmentHeaderError {
    #[error("the segment's header is cut short")]
    TooShort,
    #[error("it does not begin as a segment does")]
    Magic,
    /// The checksum, the format or the position is another one.
    #[error("the segment's header is damaged")]
    Content,
    /// The header is whole, and of a later version.
    #[error("a segment with features {required:x}: Heliostat {release} or later reads it")]
    Newer { required: u32, release: Release },
    /// The header is whole, and of a segment of another log.
    #[error("it belongs to log {found}, not {expected}")]
    OtherLog { found: Uuid, expected: Uuid },
}

/// The content of a segment's header: the log and the epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentHeader {
    pub log: Uuid,
    pub epoch: Epoch,
}

impl SegmentHeader {
    /// Reads the header of a segment that has this name.
    pub fn read(bytes: &[u8], file: SegmentFile) -> Result<SegmentHeader, SegmentHeaderError> {
        let header = bytes.get(..SEGMENT_HEADER_BYTES).ok_or(SegmentHeaderError::TooShort)?;
        if header[0..8] != *MAGIC {
            return Err(SegmentHeaderError::Magic);
        }
        let mut id = [0; 16];
        id.copy_from_slice(&header[16..32]);
        let log = Uuid::from_bytes(id);
        if file.format == LogFormat::One {
            let whole = *header == header_v1(log, file.first);
            return if whole {
                Ok(SegmentHeader { log, epoch: 0 })
            } else {
                Err(SegmentHeaderError::Content)
            };
        }
        let own = u32_at(header, 8) == file.format.number() && u64_at(header, 32) == file.first;
        if !own || u32_at(header, 12) != checksum(header) {
            return Err(SegmentHeaderError::Content);
        }
        match u32_at(header, 48) {
            0 => Ok(SegmentHeader { log, epoch: u64_at(header, 40) }),
            required => {
                let release = Release(u32_at(header, 56));
                Err(SegmentHeaderError::Newer { required, release })
            }
        }
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
    file: SegmentFile,
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
    /// The epoch of the frame before it.
    epoch: Epoch,
}

impl SegmentReader {
    /// A reader of a segment, from its first frame on.
    pub fn new(log: Uuid, file: SegmentFile, skips: Vec<Skip>) -> Self {
        SegmentReader {
            log,
            file,
            name: file.name(),
            opened: false,
            offset: SEGMENT_HEADER_BYTES as u64,
            ahead: Bytes::new(),
            skips: skips.into(),
            next: file.first,
            tick: 0,
            epoch: 0,
        }
    }

    /// Reads the segment from a file of another name.
    pub fn under(self, name: &str) -> Self {
        SegmentReader { name: name.to_string(), ..self }
    }

    /// The segment's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The position that the segment begins with.
    pub fn first(&self) -> Position {
        self.file.first
    }

    /// The segment's file.
    pub fn file(&self) -> SegmentFile {
        self.file
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

    /// Reads the header, if it has not been read yet. Returns what is wrong with it, if anything.
    pub fn open(&mut self, files: &dyn Files) -> Result<Option<SegmentHeaderError>, LogError> {
        if self.opened {
            return Ok(None);
        }
        let mut bytes = [0; SEGMENT_HEADER_BYTES];
        let read = read_at(files, &self.name, 0, &mut bytes)?;
        match SegmentHeader::read(&bytes[..read], self.file) {
            Ok(SegmentHeader { log, epoch }) if log == self.log => {
                self.opened = true;
                self.epoch = epoch;
                Ok(None)
            }
            Ok(SegmentHeader { log: found, .. }) => {
                Ok(Some(SegmentHeaderError::OtherLog { found, expected: self.log }))
            }
            // It is whole: nobody may take it for damage.
            Err(error @ SegmentHeaderError::Newer { .. }) => {
                Err(LogError::newer(&self.name, 0, error))
            }
            Err(error) => Ok(Some(error)),
        }
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
        let format = self.file.format;
        if !self.fill(files, format.frame_header_bytes())? {
            return Ok(match self.ahead.len() {
                0 => NextFrame::End,
                bytes => return self.unreadable(FrameError::TooShort { bytes }),
            });
        }
        let header = match Header::read(format, &self.ahead) {
            Ok(header) => header,
            Err(error) => return self.unreadable(error),
        };
        let len = header.frame_bytes();
        if !self.fill(files, len)? {
            let bytes = self.ahead.len();
            return self.unreadable(FrameError::Length { bytes, expected: len });
        }
        let frame = match Frame::read_as(format, &self.ahead.slice(..len)) {
            Ok(frame) => frame,
            Err(error) => return self.unreadable(error),
        };
        if frame.epoch() < self.epoch {
            let (epoch, last) = (frame.epoch(), self.epoch);
            return Ok(broken(format!(
                "a frame of epoch {epoch} behind one of epoch {last}: a writer has gone on whose log was taken over"
            )));
        }
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
        self.epoch = frame.epoch();
        Ok(NextFrame::Frame(frame))
    }

    /// How a frame that cannot be read is reported: as damage, unless it is whole and a later version has
    /// written it.
    fn unreadable(&self, error: FrameError) -> Result<NextFrame, LogError> {
        match error {
            FrameError::Newer { .. } => Err(LogError::newer(&self.name, self.offset, error)),
            error => Ok(NextFrame::Broken { offset: self.offset, what: error.to_string() }),
        }
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
/// where it begins. An error for one of a later version.
pub fn find_frame(
    files: &dyn Files,
    file: SegmentFile,
    offset: u64,
    next: Position,
) -> Result<Option<(u64, Frame)>, LogError> {
    /// Bytes that are no header are hardly ever one of so near a position.
    const POSITIONS_AHEAD_MAX: u64 = 1 << 40;
    let (name, format) = (file.name(), file.format);
    let len = files.len(&name).map_err(|source| LogError::of_file(&name, source))?;
    let mut tail = vec![0; usize::try_from(len.saturating_sub(offset)).unwrap_or(0)];
    let read = read_at(files, &name, offset, &mut tail)?;
    tail.truncate(read);
    let tail = Bytes::from(tail);
    for at in 0..tail.len().saturating_sub(format.frame_header_bytes() - 1) {
        let found = Header::read(format, &tail[at..]).and_then(|header| {
            let near = header.first_position.wrapping_sub(next) < POSITIONS_AHEAD_MAX;
            let frame = tail.get(at..at + header.frame_bytes()).filter(|_| near);
            frame.map(|frame| Frame::read_as(format, &tail.slice_ref(frame))).transpose()
        });
        match found {
            Ok(Some(frame)) => return Ok(Some((offset + at as u64, frame))),
            Err(error @ FrameError::Newer { .. }) => {
                return Err(LogError::newer(&name, offset + at as u64, error));
            }
            Ok(None) | Err(_) => {}
        }
    }
    Ok(None)
}
