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

use bytes::{Bytes, BytesMut};
use uuid::Uuid;

use super::LogError;
use super::files::Files;
use super::frame::{Frame, HEADER_BYTES, Header};
use crate::model::Position;

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

/// The log's id in a segment's header, or what is wrong with the header.
pub fn read_header(bytes: &[u8], first_position: Position) -> Result<Uuid, String> {
    if bytes.len() < SEGMENT_HEADER_BYTES {
        return Err("the segment's header is cut short".to_string());
    }
    if &bytes[0..8] != MAGIC {
        return Err("it does not begin as a segment does".to_string());
    }
    let mut id = [0; 16];
    id.copy_from_slice(&bytes[16..32]);
    let id = Uuid::from_bytes(id);
    if bytes[..SEGMENT_HEADER_BYTES] == header(id, first_position) {
        Ok(id)
    } else {
        Err("the segment's header is damaged, or of another version".to_string())
    }
}

/// What comes next in a segment.
#[derive(Debug)]
pub enum Next {
    /// A whole frame.
    Frame(Frame),
    /// The segment ends here, cleanly.
    End,
    /// Not a whole frame: the segment was cut off here, or damaged.
    Broken(String),
}

/// Reads a segment's frames in order, from large reads.
pub struct SegmentReader {
    name: String,
    /// The offset of the next frame.
    offset: u64,
    /// Bytes read ahead, from `offset` on.
    ahead: Bytes,
}

impl SegmentReader {
    /// A reader of a segment from its first frame on.
    pub fn new(name: String) -> Self {
        SegmentReader { name, offset: SEGMENT_HEADER_BYTES as u64, ahead: Bytes::new() }
    }

    /// The segment's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where the next frame begins.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// The next frame.
    pub fn next(&mut self, files: &dyn Files) -> Result<Next, LogError> {
        if !self.fill(files, HEADER_BYTES)? {
            return Ok(match self.ahead.len() {
                0 => Next::End,
                n => Next::Broken(format!("{n} bytes of a frame's header")),
            });
        }
        let header = match Header::read(&self.ahead) {
            Ok(header) => header,
            Err(what) => return Ok(Next::Broken(what)),
        };
        let len = HEADER_BYTES + header.payload_bytes as usize;
        if !self.fill(files, len)? {
            let what = format!("{} of {len} bytes of a frame", self.ahead.len());
            return Ok(Next::Broken(what));
        }
        Ok(match Frame::read(&self.ahead.slice(..len)) {
            Ok(frame) => {
                self.ahead = self.ahead.slice(len..);
                self.offset += len as u64;
                Next::Frame(frame)
            }
            Err(what) => Next::Broken(what),
        })
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
        let mut buffer = BytesMut::with_capacity(len.max(READ_BYTES));
        buffer.extend_from_slice(&self.ahead);
        let mut filled = buffer.len();
        let wanted = len.max(READ_BYTES);
        buffer.resize(wanted, 0);
        while filled < wanted {
            let at = self.offset + filled as u64;
            let read = files
                .read_at(&self.name, at, &mut buffer[filled..])
                .map_err(|source| LogError::Io { path: self.name.clone(), source })?;
            if read == 0 {
                break;
            }
            filled += read;
        }
        buffer.truncate(filled);
        self.ahead = buffer.freeze();
        Ok(filled >= len)
    }
}
