//! The rows of a frame: its events, and the requests that can be repeated, as bytes.
//!
//! ```text
//! an event; events stand one after the other
//!   varint version, zigzag varint time (µs since the Unix epoch), varint version in its stream
//!   (0: none), varint 1 + length of the stream's name (0: none), and its bytes; then type, source,
//!   id, metadata, data, each a varint length and its bytes
//! requests
//!   varint how many; each u128 hash of the key, u128 fingerprint, u8 1 where ids were made,
//!   varint how many events; and the position of each, as a zigzag varint of the difference to one
//!   past the position before it (the first: to 0)
//! ```
//!
//! A varint has 7 bits a byte, the lowest first, in at most 10 bytes; all but its last byte have the
//! highest bit set. Zigzag: 0, -1, 1, -2, … as 0, 1, 2, 3, … Texts are UTF-8.

use super::frame::FrameError;
use crate::model::event::{EventRef, NewEvent};
use crate::model::{Position, Tick};

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

    /// Checks that decompressed bytes are as the frame announces: checksums prove that bytes are unchanged,
    /// and not that Heliostat wrote them. `requests` follow the events, which end at `events_bytes` if that
    /// is known.
    pub(super) fn new(
        (tick, first_position, count): (Tick, Position, u32),
        raw: Vec<u8>,
        events_bytes: Option<usize>,
        requests: bool,
    ) -> Result<FrameEvents, FrameError> {
        let mut at = FrameCursor { bytes: &raw };
        for read in 0..count {
            at.skip_event().ok_or(FrameError::Events { read, count })?;
        }
        let end = raw.len() - at.bytes.len();
        if events_bytes.is_some_and(|bytes| bytes != end) {
            return Err(FrameError::Requests);
        }
        if requests {
            for _ in 0..at.varint().ok_or(FrameError::Requests)? {
                KeyedRequest::read(&mut at).ok_or(FrameError::Requests)?;
            }
        }
        if !at.bytes.is_empty() {
            return Err(FrameError::Requests);
        }
        let requests_at = requests.then_some(end);
        Ok(FrameEvents { tick, first_position, count, requests_at, raw })
    }

    /// The events without requests, as they were before compression.
    pub(super) fn events_bytes(&self) -> &[u8] {
        &self.raw[..self.requests_at.unwrap_or(self.raw.len())]
    }

    /// The events and requests as they were before compression.
    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.raw
    }

    /// The requests as they were before compression; empty if there are none.
    pub(super) fn requests_bytes(&self) -> &[u8] {
        &self.raw[self.requests_at.unwrap_or(self.raw.len())..]
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

/// Appends the requests of a frame.
pub(super) fn write_requests(requests: &[KeyedRequest], out: &mut Vec<u8>) {
    write_varint(requests.len() as u64, out);
    requests.iter().for_each(|request| request.write(out));
}

/// Appends an event.
pub(super) fn write_event(numbered: NumberedEvent<'_>, out: &mut Vec<u8>) {
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
