//! Events that were trimmed, as far as the indexes still need them: their identities, and the versions of
//! their streams.
//!
//! ```text
//! name: "trimmed-" and the last position in 20 decimal digits
//! header, 16 bytes, little endian
//!   0  [u8; 8]   "HELIOTRM"
//!   8  u32       format, 1
//!  12  u32       zero
//! for each frame of events
//!   0  u32       CRC-32 of what follows
//!   4  u32       number of events
//!   8  u64       position of the first one
//!  16  u64       tick
//!  then 48 bytes for each event
//!   0  u128      hash of source and id
//!  16  u64       hash of the content
//!  24  u128      hash of the stream's name; 0 for an event without a stream
//!  40  u64       version in the stream
//! ```

use super::LogError;
use super::files::{FileHandle, Files};
use super::frame::{Frame, FrameError, u32_at, u64_at};
use super::index::{Digest, Digester};
use super::list::KnownEvents;
use super::segment::read_at;
use crate::model::{Position, Tick};

const MAGIC: &[u8; 8] = b"HELIOTRM";
const FORMAT: u32 = 1;
const HEADER_BYTES: usize = 16;
const FRAME_HEADER_BYTES: usize = 24;
const EVENT_BYTES: usize = 48;
/// Bytes written to a file at once.
const WRITE_BYTES: usize = 1 << 20;

/// The file's name.
pub fn name(file: KnownEvents) -> String {
    name_of(file.last)
}

/// The name of a file that ends with a position.
pub fn name_of(last: Position) -> String {
    format!("trimmed-{last:020}")
}

/// The events of a frame, with their versions in their streams.
pub struct KnownFrame {
    pub first_position: Position,
    pub tick: Tick,
    pub events: Vec<(Digest, u64)>,
}

impl KnownFrame {
    pub fn last_position(&self) -> Position {
        self.first_position + self.events.len() as u64 - 1
    }
}

/// Writes a file.
pub struct KnownWriter {
    out: Box<dyn FileHandle>,
    name: String,
    digester: Digester,
    buffer: Vec<u8>,
    scratch: Vec<u8>,
    bytes: u64,
}

impl KnownWriter {
    /// Makes the file that ends with a position, in place of one that a crash has left.
    pub fn new(
        files: &dyn Files,
        last: Position,
        digester: Digester,
    ) -> Result<KnownWriter, LogError> {
        let name = name_of(last);
        let failed = |source| LogError::Io { path: name.clone(), source };
        if files.len(&name).is_ok() {
            files.remove(&name).map_err(failed)?;
        }
        let out = files.append(&name).map_err(failed)?;
        let mut buffer = MAGIC.to_vec();
        buffer.extend_from_slice(&FORMAT.to_le_bytes());
        buffer.extend_from_slice(&[0; 4]);
        Ok(KnownWriter { out, name, digester, buffer, scratch: Vec::new(), bytes: 0 })
    }

    /// Takes in a frame.
    pub fn frame(&mut self, frame: &Frame) -> Result<(), LogError> {
        if frame.count() == 0 {
            return Ok(());
        }
        let damaged = |error: FrameError| LogError::of_position(frame.first_position(), error);
        let begin = self.buffer.len();
        self.buffer.extend_from_slice(&[0; 4]);
        self.buffer.extend_from_slice(&frame.count().to_le_bytes());
        self.buffer.extend_from_slice(&frame.first_position().to_le_bytes());
        self.buffer.extend_from_slice(&frame.tick().to_le_bytes());
        for event in frame.decompress().map_err(damaged)?.iter() {
            let Digest { identity, content, stream } =
                self.digester.stored(&event, &mut self.scratch);
            self.buffer.extend_from_slice(&identity.to_le_bytes());
            self.buffer.extend_from_slice(&content.to_le_bytes());
            self.buffer.extend_from_slice(&stream.unwrap_or(0).to_le_bytes());
            self.buffer.extend_from_slice(&event.stream_version.to_le_bytes());
        }
        let crc = crc32fast::hash(&self.buffer[begin + 4..]);
        self.buffer[begin..begin + 4].copy_from_slice(&crc.to_le_bytes());
        if self.buffer.len() >= WRITE_BYTES { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), LogError> {
        let written = self.out.write(&self.buffer);
        written.map_err(|source| LogError::Io { path: self.name.clone(), source })?;
        self.bytes += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    /// The file's length, once it is on disk.
    pub fn end(mut self) -> Result<u64, LogError> {
        self.flush()?;
        self.out.sync().map_err(|source| LogError::Io { path: self.name, source })?;
        Ok(self.bytes)
    }
}

/// Reads a file: hands each frame to `visit`.
pub fn read(
    files: &dyn Files,
    file: KnownEvents,
    mut visit: impl FnMut(KnownFrame) -> Result<(), LogError>,
) -> Result<(), LogError> {
    let name = name(file);
    let len = files.len(&name).map_err(|source| LogError::of_file(&name, source))?;
    if len != file.bytes {
        let what = format!("it has {len} bytes, expected {}", file.bytes);
        return Err(LogError::damaged(name, len.min(file.bytes), what));
    }
    let mut offset = 0;
    let mut take = |bytes: usize| -> Result<Vec<u8>, LogError> {
        let mut buffer = vec![0; bytes];
        let read = read_at(files, &name, offset, &mut buffer)?;
        if read < bytes {
            return Err(LogError::damaged(&name, offset, "it is cut short"));
        }
        offset += bytes as u64;
        Ok(buffer)
    };
    let header = take(HEADER_BYTES)?;
    if header[..8] != *MAGIC || header[8..12] != FORMAT.to_le_bytes() {
        return Err(LogError::damaged(&name, 0, "it does not begin as such a file does"));
    }
    let mut at = HEADER_BYTES as u64;
    while at < file.bytes {
        let header = take(FRAME_HEADER_BYTES)?;
        let count = u32_at(&header, 4) as usize;
        let body_bytes = count.saturating_mul(EVENT_BYTES);
        if count == 0 || body_bytes as u64 > file.bytes - at {
            return Err(LogError::damaged(&name, at, "a number of events is wrong"));
        }
        let body = take(body_bytes)?;
        let mut crc = crc32fast::Hasher::new();
        crc.update(&header[4..]);
        crc.update(&body);
        if crc.finalize() != u32_at(&header, 0) {
            return Err(LogError::damaged(&name, at, "a checksum is wrong"));
        }
        let (first_position, tick) = (u64_at(&header, 8), u64_at(&header, 16));
        let events = body.chunks_exact(EVENT_BYTES).map(event).collect();
        visit(KnownFrame { first_position, tick, events })?;
        at += (FRAME_HEADER_BYTES + body_bytes) as u64;
    }
    Ok(())
}

fn event(bytes: &[u8]) -> (Digest, u64) {
    let stream = Some(u128_at(bytes, 24)).filter(|stream| *stream != 0);
    let digest = Digest { identity: u128_at(bytes, 0), content: u64_at(bytes, 16), stream };
    (digest, u64_at(bytes, 40))
}

fn u128_at(bytes: &[u8], at: usize) -> u128 {
    u128::from(u64_at(bytes, at)) | u128::from(u64_at(bytes, at + 8)) << 64
}
