//! A frame: the events of one commit, compressed and checksummed. Both directions stand here.
//!
//! ```text
//! header, 40 bytes, little endian
//!   0  u32  length of the payload
//!   4  u32  CRC-32 of the header from byte 8 on and of the payload
//!   8  u64  tick
//!  16  u64  position of the first event
//!  24  u32  number of events; none where only time has passed
//!  28  u32  length of the payload before compression
//!  32  u64  flags: 1 when requests follow the events
//! payload: LZ4 block of the events, one after the other
//!   varint version, zigzag varint time (µs), varint stream version (0: none), varint 1 + length of
//!   the stream (0: none), and its bytes; then type, source, id, metadata, data, each a varint
//!   length and its bytes
//! and then, where the flags say so, of the requests that can be repeated by a key
//!   varint how many; each u128 hash of the key, u128 fingerprint, u8 1 where ids were made,
//!   varint how many events; and the position of each, as a zigzag varint of the difference to one
//!   past the position before it (the first: to 0)
//! ```

use bytes::Bytes;

use crate::model::event::{EventRef, NewEvent};
use crate::model::{Position, Tick};

/// The length of a frame's header in bytes.
pub const HEADER_BYTES: usize = 40;
/// The largest payload that is believed, before and after compression.
pub const PAYLOAD_BYTES_MAX: u32 = 1 << 30;

/// An LZ4 block grows to less than this many times its length: a byte of it says at most that 255
/// bytes are repeated. So what a header announces costs no more memory than its payload may become.
const LZ4_GROWTH_MAX: u32 = 255;

/// The flag of a frame with requests behind its events.
const REQUESTS_FLAG: u64 = 1;

/// Why bytes are not a frame, or events do not fit into one. The log's readers add where it is.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The events of one commit exceed [`PAYLOAD_BYTES_MAX`].
    #[error("{bytes} bytes of events")]
    TooLarge { bytes: usize },
    /// Fewer bytes than a header has.
    #[error("{bytes} bytes of a frame's header")]
    TooShort { bytes: usize },
    /// A header announces more than [`PAYLOAD_BYTES_MAX`].
    #[error("a frame of {payload_bytes} bytes")]
    TooLong { payload_bytes: u32 },
    /// A header announces another length than the bytes have.
    #[error("{bytes} of {expected} bytes of a frame")]
    Length { bytes: usize, expected: usize },
    /// No LZ4 block of this length decompresses to so much.
    #[error("a frame whose {payload_bytes} bytes were {raw_bytes} before compression")]
    Growth { payload_bytes: u32, raw_bytes: u32 },
    /// The bytes are not those that were written.
    #[error("the checksum is wrong")]
    Checksum,
    /// The first position is 0, which no event has, or the last one is past the highest.
    #[error("a frame without a position")]
    Position,
    /// Flags that this version does not know.
    #[error("a frame with flags {flags:x}: it is of a later version")]
    Version { flags: u64 },
    /// The payload is not an LZ4 block of the announced length.
    #[error("the events cannot be decompressed: {0}")]
    Compression(lz4_flex::block::DecompressError),
    /// The decompressed bytes hold fewer events than the header announces.
    #[error("{read} of {count} events can be read")]
    Events { read: u32, count: u32 },
    /// Behind the events are other bytes than the requests that the flags announce.
    #[error("what follows the events cannot be read")]
    Requests,
}

/// An event with its number in its stream.
#[derive(Clone, Copy, Debug)]
pub struct NumberedEvent<'a> {
    /// The event.
    pub event: &'a NewEvent,
    /// From 1; 0 for an event without a stream.
    pub stream_version: u64,
}

impl<'a> From<&'a NewEvent> for NumberedEvent<'a> {
    fn from(event: &'a NewEvent) -> Self {
        NumberedEvent { event, stream_version: 0 }
    }
}

/// A request that can be repeated by its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyedRequest {
    /// The hash of the key.
    pub key: u128,
    /// The hash of the request's content.
    pub fingerprint: u128,
    /// Whether ids were made for events that came without one.
    pub made_ids: bool,
    /// The position of each event, in request order.
    pub positions: Vec<Position>,
}

/// One commit's events, as they are on disk.
#[derive(Clone, Debug)]
pub struct Frame {
    tick: Tick,
    first_position: Position,
    count: u32,
    raw_bytes: u32,
    flags: u64,
    payload: Bytes,
}

/// The fields of a frame's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    pub payload_bytes: u32,
    crc: u32,
    pub tick: Tick,
    pub first_position: Position,
    pub count: u32,
    raw_bytes: u32,
    flags: u64,
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut word = [0; 4];
    word.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(word)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(word)
}

impl Header {
    /// Reads the header that bytes begin with.
    pub fn read(bytes: &[u8]) -> Result<Header, FrameError> {
        if bytes.len() < HEADER_BYTES {
            return Err(FrameError::TooShort { bytes: bytes.len() });
        }
        let header = Header {
            payload_bytes: u32_at(bytes, 0),
            crc: u32_at(bytes, 4),
            tick: u64_at(bytes, 8),
            first_position: u64_at(bytes, 16),
            count: u32_at(bytes, 24),
            raw_bytes: u32_at(bytes, 28),
            flags: u64_at(bytes, 32),
        };
        if header.payload_bytes > PAYLOAD_BYTES_MAX || header.raw_bytes > PAYLOAD_BYTES_MAX {
            return Err(FrameError::TooLong { payload_bytes: header.payload_bytes });
        }
        let (payload_bytes, raw_bytes) = (header.payload_bytes, header.raw_bytes);
        if raw_bytes > payload_bytes.saturating_mul(LZ4_GROWTH_MAX) {
            return Err(FrameError::Growth { payload_bytes, raw_bytes });
        }
        Ok(header)
    }
}

fn checksum(header: &[u8], payload: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&header[8..HEADER_BYTES]);
    crc.update(payload);
    crc.finalize()
}

impl Frame {
    /// The frame of these events. Fails only for more than [`PAYLOAD_BYTES_MAX`] bytes of them.
    pub fn new<'a, E: Into<NumberedEvent<'a>>>(
        tick: Tick,
        first_position: Position,
        events: impl Iterator<Item = E>,
    ) -> Result<Frame, FrameError> {
        Frame::with_requests(tick, first_position, events, &[])
    }

    /// The frame of these events and of the requests that can be repeated. Fails as [`Frame::new`].
    pub fn with_requests<'a, E: Into<NumberedEvent<'a>>>(
        tick: Tick,
        first_position: Position,
        events: impl Iterator<Item = E>,
        requests: &[KeyedRequest],
    ) -> Result<Frame, FrameError> {
        let mut raw = Vec::new();
        let mut count = 0_u32;
        for event in events {
            write_event(event.into(), &mut raw);
            count += 1;
        }
        if !requests.is_empty() {
            write_varint(requests.len() as u64, &mut raw);
            requests.iter().for_each(|request| request.write(&mut raw));
        }
        let flags = if requests.is_empty() { 0 } else { REQUESTS_FLAG };
        let raw_bytes = u32::try_from(raw.len()).ok().filter(|n| *n <= PAYLOAD_BYTES_MAX);
        let raw_bytes = raw_bytes.ok_or(FrameError::TooLarge { bytes: raw.len() })?;
        let payload = Bytes::from(lz4_flex::block::compress(&raw));
        Ok(Frame { tick, first_position, count, raw_bytes, flags, payload })
    }

    /// When the events were committed.
    pub fn tick(&self) -> Tick {
        self.tick
    }

    /// The position of the first event.
    pub fn first_position(&self) -> Position {
        self.first_position
    }

    /// The position of the last event; of the one before, if there is none.
    pub fn last_position(&self) -> Position {
        self.first_position + u64::from(self.count) - 1
    }

    /// How many events there are.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// The size of the events before compression.
    pub fn raw_bytes(&self) -> usize {
        self.raw_bytes as usize
    }

    /// The size of the frame on disk.
    pub fn disk_bytes(&self) -> u64 {
        (HEADER_BYTES + self.payload.len()) as u64
    }

    /// Appends the frame as it stands on disk.
    pub fn write(&self, out: &mut Vec<u8>) {
        let mut header = [0; HEADER_BYTES];
        header[0..4].copy_from_slice(&(self.payload.len() as u32).to_le_bytes());
        header[8..16].copy_from_slice(&self.tick.to_le_bytes());
        header[16..24].copy_from_slice(&self.first_position.to_le_bytes());
        header[24..28].copy_from_slice(&self.count.to_le_bytes());
        header[28..32].copy_from_slice(&self.raw_bytes.to_le_bytes());
        header[32..40].copy_from_slice(&self.flags.to_le_bytes());
        let crc = checksum(&header, &self.payload);
        header[4..8].copy_from_slice(&crc.to_le_bytes());
        out.extend_from_slice(&header);
        out.extend_from_slice(&self.payload);
    }

    /// The frame that these bytes are: a header and a payload of the length that it says.
    pub fn read(bytes: &Bytes) -> Result<Frame, FrameError> {
        let header = Header::read(bytes)?;
        let expected = HEADER_BYTES + header.payload_bytes as usize;
        if bytes.len() != expected {
            return Err(FrameError::Length { bytes: bytes.len(), expected });
        }
        let payload = bytes.slice(HEADER_BYTES..);
        if checksum(bytes, &payload) != header.crc {
            return Err(FrameError::Checksum);
        }
        let behind = header.first_position.checked_add(u64::from(header.count));
        if header.first_position == 0 || behind.is_none() {
            return Err(FrameError::Position);
        }
        if header.flags & !REQUESTS_FLAG != 0 {
            return Err(FrameError::Version { flags: header.flags });
        }
        Ok(Frame {
            tick: header.tick,
            first_position: header.first_position,
            count: header.count,
            raw_bytes: header.raw_bytes,
            flags: header.flags,
            payload,
        })
    }

    /// The events, all of which can be read.
    pub fn decompress(&self) -> Result<FrameEvents, FrameError> {
        let raw = lz4_flex::block::decompress(&self.payload, self.raw_bytes())
            .map_err(FrameError::Compression)?;
        let requests_at = self.check(&raw)?;
        let events = FrameEvents {
            tick: self.tick,
            first_position: self.first_position,
            count: self.count,
            requests_at,
            raw,
        };
        Ok(events)
    }

    /// Checks that decompressed bytes are what the header announces: the checksum vouches for what
    /// was written, not for who wrote it. Returns where the requests begin, if there are any.
    fn check(&self, raw: &[u8]) -> Result<Option<usize>, FrameError> {
        let mut at = FrameCursor { bytes: raw };
        for read in 0..self.count {
            if at.skip_event().is_none() {
                return Err(FrameError::Events { read, count: self.count });
            }
        }
        let requests_at = raw.len() - at.bytes.len();
        let has_requests = self.flags & REQUESTS_FLAG != 0;
        if has_requests {
            for _ in 0..at.varint().ok_or(FrameError::Requests)? {
                KeyedRequest::read(&mut at).ok_or(FrameError::Requests)?;
            }
        }
        if raw.len() != self.raw_bytes() || !at.bytes.is_empty() {
            return Err(FrameError::Requests);
        }
        Ok(has_requests.then_some(requests_at))
    }
}

/// The events of a frame, in one buffer.
#[derive(Debug)]
pub struct FrameEvents {
    tick: Tick,
    first_position: Position,
    count: u32,
    /// Where in `raw` the requests begin that can be repeated by a key.
    requests_at: Option<usize>,
    raw: Vec<u8>,
}

impl FrameEvents {
    /// The events, in order.
    pub fn iter(&self) -> impl Iterator<Item = EventRef<'_>> {
        let mut at = FrameCursor { bytes: &self.raw };
        (0..u64::from(self.count)).map_while(move |index| {
            let event = at.event(self.first_position + index, self.tick);
            debug_assert!(event.is_some(), "events were checked when they were decompressed");
            event
        })
    }

    /// The requests among them that can be repeated by a key.
    pub fn requests(&self) -> Vec<KeyedRequest> {
        let Some(requests) = self.requests_at.and_then(|at| self.raw.get(at..)) else {
            return Vec::new();
        };
        let mut at = FrameCursor { bytes: requests };
        let count = at.varint().unwrap_or(0);
        (0..count).map_while(|_| KeyedRequest::read(&mut at)).collect()
    }
}

impl KeyedRequest {
    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.key.to_le_bytes());
        out.extend_from_slice(&self.fingerprint.to_le_bytes());
        out.push(u8::from(self.made_ids));
        write_varint(self.positions.len() as u64, out);
        let mut next = 0_i64;
        for position in &self.positions {
            write_varint(zigzag((*position as i64).wrapping_sub(next)), out);
            next = (*position as i64).wrapping_add(1);
        }
    }

    fn read(at: &mut FrameCursor<'_>) -> Option<KeyedRequest> {
        let key = at.u128()?;
        let fingerprint = at.u128()?;
        let made_ids = at.take(1)? == [1];
        let count = at.varint()?;
        let mut next = 0_i64;
        let mut positions = Vec::new();
        for _ in 0..count {
            let position = next.wrapping_add(unzigzag(at.varint()?));
            positions.push(position as Position);
            next = position.wrapping_add(1);
        }
        Some(KeyedRequest { key, fingerprint, made_ids, positions })
    }

    /// The request as bytes, for an index.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.write(&mut bytes);
        bytes
    }

    /// Reads the bytes of [`KeyedRequest::to_bytes`].
    pub fn from_bytes(bytes: &[u8]) -> Option<KeyedRequest> {
        KeyedRequest::read(&mut FrameCursor { bytes })
    }
}

fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)) as u64
}

fn unzigzag(value: u64) -> i64 {
    (value >> 1) as i64 ^ -((value & 1) as i64)
}

fn write_varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn write_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    write_varint(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}

fn write_event(numbered: NumberedEvent<'_>, out: &mut Vec<u8>) {
    let NumberedEvent { event, stream_version } = numbered;
    write_varint(u64::from(event.version), out);
    write_varint(zigzag(event.time_us), out);
    write_varint(stream_version, out);
    match &event.stream {
        None => write_varint(0, out),
        Some(stream) => {
            write_varint(stream.len() as u64 + 1, out);
            out.extend_from_slice(stream.as_bytes());
        }
    }
    write_bytes(event.event_type.as_bytes(), out);
    write_bytes(event.source.as_bytes(), out);
    write_bytes(event.id.as_bytes(), out);
    write_bytes(&event.metadata, out);
    write_bytes(&event.data, out);
}

struct FrameCursor<'a> {
    bytes: &'a [u8],
}

impl<'a> FrameCursor<'a> {
    #[inline]
    fn varint(&mut self) -> Option<u64> {
        let mut value = 0_u64;
        let mut shift = 0;
        loop {
            let (byte, rest) = self.bytes.split_first()?;
            self.bytes = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
            shift += 7;
            if shift > 63 {
                return None;
            }
        }
    }

    #[inline]
    fn take(&mut self, len: u64) -> Option<&'a [u8]> {
        let (taken, rest) = self.bytes.split_at_checked(usize::try_from(len).ok()?)?;
        self.bytes = rest;
        Some(taken)
    }

    fn u128(&mut self) -> Option<u128> {
        Some(u128::from_le_bytes(self.take(16)?.try_into().ok()?))
    }

    fn prefixed(&mut self) -> Option<&'a [u8]> {
        let len = self.varint()?;
        self.take(len)
    }

    fn text(&mut self) -> Option<&'a str> {
        std::str::from_utf8(self.prefixed()?).ok()
    }

    /// Goes on behind an event; `None` where [`FrameCursor::event`] reads none.
    fn skip_event(&mut self) -> Option<()> {
        let mut whole = FrameCursor { bytes: self.bytes };
        u32::try_from(self.varint()?).ok()?;
        self.varint()?;
        self.varint()?;
        let before = self.bytes;
        let stream = self.varint()?.saturating_sub(1);
        self.take(stream)?;
        for _ in 0..3 {
            self.prefixed()?;
        }
        // Lengths and names in one look: nearly always they are ASCII, and so UTF-8.
        if !before[..before.len() - self.bytes.len()].is_ascii() {
            whole.event(0, 0)?;
        }
        self.prefixed()?;
        self.prefixed()?;
        Some(())
    }

    fn event(&mut self, position: Position, tick: Tick) -> Option<EventRef<'a>> {
        let version = u32::try_from(self.varint()?).ok()?;
        let time = self.varint()?;
        let stream_version = self.varint()?;
        let stream = match self.varint()? {
            0 => None,
            len => Some(std::str::from_utf8(self.take(len - 1)?).ok()?),
        };
        Some(EventRef {
            position,
            tick,
            version,
            time_us: unzigzag(time),
            stream_version,
            stream,
            event_type: self.text()?,
            source: self.text()?,
            id: self.text()?,
            metadata: self.prefixed()?,
            data: self.prefixed()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_event() -> impl Strategy<Value = NewEvent> {
        let names = ("\\PC{1,20}", "\\PC{0,9}", "\\PC{1,20}", proptest::option::of("\\PC{0,9}"));
        let rest = (1_u32.., any::<i64>(), ".{0,300}", ".{0,30}");
        (names, rest).prop_map(
            |((id, source, event_type, stream), (version, time_us, data, metadata))| {
                let (data, metadata) = (data.into_bytes(), metadata.into_bytes());
                NewEvent { id, source, event_type, version, stream, time_us, data, metadata }
            },
        )
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(events in prop::collection::vec(any_event(), 1..20), tick: u64, first in 1_u64..1 << 60) {
            let mut bytes = Vec::new();
            Frame::new(tick, first, events.iter()).unwrap().write(&mut bytes);
            let frame = Frame::read(&Bytes::from(bytes)).unwrap();
            prop_assert_eq!((frame.tick(), frame.first_position(), frame.count() as usize), (tick, first, events.len()));
            let read = frame.decompress().unwrap();
            let back: Vec<_> = read.iter().collect();
            prop_assert_eq!(back.len(), events.len());
            for (index, (event, written)) in back.iter().zip(&events).enumerate() {
                prop_assert_eq!(event.position, first + index as u64);
                prop_assert_eq!((event.id, event.source, event.event_type), (&*written.id, &*written.source, &*written.event_type));
                prop_assert_eq!((event.version, event.stream, event.time_us), (written.version, written.stream.as_deref(), written.time_us));
                prop_assert_eq!((event.data, event.metadata), (&*written.data, &*written.metadata));
            }
        }

        #[test]
        fn versions_and_requests_are_read_back(event in any_event(), stream_version: u32, key: u128, fingerprint: u128,
            made_ids: bool, positions in prop::collection::vec(1_u64..1 << 60, 1..9)) {
            let numbered = NumberedEvent { event: &event, stream_version: u64::from(stream_version) };
            let requests = vec![KeyedRequest { key, fingerprint, made_ids, positions }; 2];
            let mut bytes = Vec::new();
            Frame::with_requests(7, 1, [numbered].into_iter(), &requests).unwrap().write(&mut bytes);
            let read = Frame::read(&Bytes::from(bytes)).unwrap().decompress().unwrap();
            prop_assert_eq!(read.iter().next().unwrap().stream_version, u64::from(stream_version));
            prop_assert_eq!(KeyedRequest::from_bytes(&requests[0].to_bytes()), Some(requests[0].clone()));
            prop_assert_eq!(read.requests(), requests);
        }

        #[test]
        fn a_flipped_bit_is_seen(event in any_event(), at: prop::sample::Index, bit in 0..8) {
            let mut bytes = Vec::new();
            Frame::new(7, 1, [event].iter()).unwrap().write(&mut bytes);
            let at = at.index(bytes.len());
            bytes[at] ^= 1_u8 << bit;
            prop_assert!(Frame::read(&Bytes::from(bytes)).is_err());
        }
    }
}
