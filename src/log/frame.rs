//! A frame: the events of one commit, compressed and checksummed. Both directions stand here.
//!
//! ```text
//! header, 40 bytes, little endian
//!   0  u32  length of the payload
//!   4  u32  CRC-32 of the header from byte 8 on and of the payload
//!   8  u64  tick
//!  16  u64  position of the first event
//!  24  u32  number of events
//!  28  u32  length of the payload before compression
//!  32  u64  zero, kept for flags
//! payload: LZ4 block of the events, one after the other
//!   varint version, zigzag varint time (µs), varint stream version (0: none), varint 1 + length of
//!   the stream (0: none), and its bytes; then type, source, id, metadata, data, each a varint
//!   length and its bytes
//! ```

use bytes::Bytes;

use crate::model::event::{EventRef, NewEvent};
use crate::model::{Position, Tick};

/// The length of a frame's header in bytes.
pub const HEADER_BYTES: usize = 40;
/// The largest payload that is believed, before and after compression.
pub const PAYLOAD_BYTES_MAX: u32 = 1 << 30;

/// One commit's events, as they are on disk.
#[derive(Clone, Debug)]
pub struct Frame {
    tick: Tick,
    first_position: Position,
    count: u32,
    raw_bytes: u32,
    payload: Bytes,
}

/// What a frame's header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    pub payload_bytes: u32,
    crc: u32,
    pub tick: Tick,
    pub first_position: Position,
    pub count: u32,
    raw_bytes: u32,
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
    /// Reads a header; `bytes` holds at least [`HEADER_BYTES`].
    pub fn read(bytes: &[u8]) -> Result<Header, String> {
        let header = Header {
            payload_bytes: u32_at(bytes, 0),
            crc: u32_at(bytes, 4),
            tick: u64_at(bytes, 8),
            first_position: u64_at(bytes, 16),
            count: u32_at(bytes, 24),
            raw_bytes: u32_at(bytes, 28),
        };
        if header.payload_bytes > PAYLOAD_BYTES_MAX || header.raw_bytes > PAYLOAD_BYTES_MAX {
            return Err(format!("a frame of {} bytes", header.payload_bytes));
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
    pub fn new<'a>(
        tick: Tick,
        first_position: Position,
        events: impl Iterator<Item = &'a NewEvent>,
    ) -> Result<Frame, String> {
        let mut raw = Vec::new();
        let mut count = 0_u32;
        for event in events {
            write_event(event, &mut raw);
            count += 1;
        }
        let raw_bytes = u32::try_from(raw.len()).ok().filter(|n| *n <= PAYLOAD_BYTES_MAX);
        let raw_bytes = raw_bytes.ok_or_else(|| format!("{} bytes of events", raw.len()))?;
        let payload = Bytes::from(lz4_flex::block::compress(&raw));
        Ok(Frame { tick, first_position, count, raw_bytes, payload })
    }

    /// When the events were committed.
    pub fn tick(&self) -> Tick {
        self.tick
    }

    /// The position of the first event.
    pub fn first_position(&self) -> Position {
        self.first_position
    }

    /// The position of the last event.
    pub fn last_position(&self) -> Position {
        self.first_position + u64::from(self.count) - 1
    }

    /// How many events there are, at least one.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// The size of the events before compression.
    pub fn raw_bytes(&self) -> usize {
        self.raw_bytes as usize
    }

    /// Appends the frame as it stands on disk.
    pub fn write(&self, out: &mut Vec<u8>) {
        let mut header = [0; HEADER_BYTES];
        header[0..4].copy_from_slice(&(self.payload.len() as u32).to_le_bytes());
        header[8..16].copy_from_slice(&self.tick.to_le_bytes());
        header[16..24].copy_from_slice(&self.first_position.to_le_bytes());
        header[24..28].copy_from_slice(&self.count.to_le_bytes());
        header[28..32].copy_from_slice(&self.raw_bytes.to_le_bytes());
        let crc = checksum(&header, &self.payload);
        header[4..8].copy_from_slice(&crc.to_le_bytes());
        out.extend_from_slice(&header);
        out.extend_from_slice(&self.payload);
    }

    /// The frame that these bytes are: a header and a payload of the length that it says.
    pub fn read(bytes: &Bytes) -> Result<Frame, String> {
        let header = Header::read(bytes)?;
        let payload = bytes.slice(HEADER_BYTES..);
        if checksum(bytes, &payload) != header.crc {
            return Err("the checksum is wrong".to_string());
        }
        if header.count == 0 || header.first_position == 0 {
            return Err("a frame without events".to_string());
        }
        Ok(Frame {
            tick: header.tick,
            first_position: header.first_position,
            count: header.count,
            raw_bytes: header.raw_bytes,
            payload,
        })
    }

    /// The events.
    pub fn decompress(&self) -> Result<FrameEvents, String> {
        let raw = lz4_flex::block::decompress(&self.payload, self.raw_bytes())
            .map_err(|error| format!("the events cannot be decompressed: {error}"))?;
        let events = FrameEvents {
            tick: self.tick,
            first_position: self.first_position,
            count: self.count,
            raw,
        };
        Ok(events)
    }
}

/// The events of a frame, in one buffer.
#[derive(Debug)]
pub struct FrameEvents {
    tick: Tick,
    first_position: Position,
    count: u32,
    raw: Vec<u8>,
}

impl FrameEvents {
    /// The events, in order. The frame's checksum has vouched for the bytes.
    pub fn iter(&self) -> impl Iterator<Item = EventRef<'_>> {
        let mut at = Cursor { bytes: &self.raw };
        (0..u64::from(self.count)).map_while(move |index| {
            let event = at.event(self.first_position + index, self.tick);
            debug_assert!(event.is_some(), "a frame holds whole events");
            event
        })
    }
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

fn write_event(event: &NewEvent, out: &mut Vec<u8>) {
    write_varint(u64::from(event.version), out);
    write_varint(((event.time_us << 1) ^ (event.time_us >> 63)) as u64, out);
    write_varint(0, out);
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

struct Cursor<'a> {
    bytes: &'a [u8],
}

impl<'a> Cursor<'a> {
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

    fn prefixed(&mut self) -> Option<&'a [u8]> {
        let len = self.varint()?;
        self.take(len)
    }

    fn text(&mut self) -> Option<&'a str> {
        std::str::from_utf8(self.prefixed()?).ok()
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
            time_us: (time >> 1) as i64 ^ -((time & 1) as i64),
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
        fn a_flipped_bit_is_seen(event in any_event(), at: prop::sample::Index, bit in 0..8) {
            let mut bytes = Vec::new();
            Frame::new(7, 1, [event].iter()).unwrap().write(&mut bytes);
            let at = at.index(bytes.len());
            bytes[at] ^= 1_u8 << bit;
            // The length is checked by the segment: a frame is cut out by it.
            if at >= 4 {
                prop_assert!(Frame::read(&Bytes::from(bytes)).is_err());
            }
        }
    }
}
