//! Frames of format 1, which are read only.
//!
//! ```text
//! header, 40 bytes, little endian
//!   0  u32  length of the payload, to 2^30
//!   4  u32  CRC-32 of the header from byte 8 on and of the payload
//!   8  u64  tick
//!  16  u64  position of the first event
//!  24  u32  number of events; none where only time has passed
//!  28  u32  length of the payload before compression, to 2^30
//!  32  u64  flags: 1 when requests follow the events
//! payload: LZ4 block of the events, and behind them of the requests, as in `rows.rs`
//! ```

use bytes::Bytes;

use super::format::LogFormat;
use super::frame::{
    Body, Codec, Frame, FrameError, FrameKind, Header, LZ4_GROWTH_MAX, PAYLOAD_BYTES_MAX, Section,
    u32_at, u64_at,
};

const HEADER_BYTES: usize = 40;
/// The flag of a frame with requests behind its events.
pub const REQUESTS_FLAG: u64 = 1;

/// Reads a header, of which there are enough bytes.
pub fn read_header(bytes: &[u8]) -> Result<Header, FrameError> {
    let (payload_bytes, raw_bytes) = (u32_at(bytes, 0), u32_at(bytes, 28));
    if payload_bytes > PAYLOAD_BYTES_MAX || raw_bytes > PAYLOAD_BYTES_MAX {
        return Err(FrameError::TooLong { payload_bytes });
    }
    if raw_bytes > payload_bytes.saturating_mul(LZ4_GROWTH_MAX) {
        return Err(FrameError::Growth { payload_bytes, raw_bytes });
    }
    let count = u32_at(bytes, 24);
    let kind = if count == 0 { FrameKind::Clock } else { FrameKind::Events };
    Ok(Header {
        format: LogFormat::One,
        kind,
        epoch: 0,
        tick: u64_at(bytes, 8),
        first_position: u64_at(bytes, 16),
        count,
        body_bytes: payload_bytes,
        body: Body::Block { crc: u32_at(bytes, 4), raw_bytes, flags: u64_at(bytes, 32) },
    })
}

/// The frame that these bytes are, whose header was read and whose length is right.
pub fn read(header: Header, bytes: &Bytes) -> Result<Frame, FrameError> {
    let Body::Block { crc, raw_bytes, flags } = header.body else {
        return Err(FrameError::Sections);
    };
    if crc32fast::hash(&bytes[8..]) != crc {
        return Err(FrameError::Checksum);
    }
    header.check_position()?;
    if flags & !REQUESTS_FLAG != 0 {
        return Err(FrameError::Flags { flags });
    }
    let (from, to) = (HEADER_BYTES, bytes.len());
    let block = Section { codec: Codec::Lz4, from, to, raw_bytes };
    Ok(Frame::of_block(header, block, bytes.clone()))
}

impl Frame {
    /// The same frame in the format that is written.
    pub(super) fn rewritten(&self) -> Result<Frame, FrameError> {
        if self.format() == LogFormat::CURRENT {
            return Ok(self.clone());
        }
        let events = self.decompress()?;
        if self.count() == 0
            && !(events.events_bytes().is_empty() && events.requests_bytes().is_empty())
        {
            return Err(FrameError::Requests);
        }
        let rows = (events.events_bytes(), events.requests_bytes());
        Frame::of_rows((0, self.tick()), self.first_position(), self.count(), rows)
    }
}
