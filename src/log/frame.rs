//! A frame: what one commit has put into the log. Format 2 is written and read here; the format of
//! the first logs is read in `frame_v1.rs`. `docs/log-format.md` states both for other readers.
//!
//! ```text
//! header, 64 bytes, little endian
//!   0  [u8; 4]  "HFRM"
//!   4  u32      CRC-32 of bytes 8 to 64 of the header
//!   8  u32      length of what follows the header, to 2^30: the table and the sections
//!  12  u16      number of sections, to 4096
//!  14  u8       kind: 1 events, 2 clock, 3 control
//!  15  u8       zero
//!  16  u32      features that a reader must know, bits: none yet
//!  20  u32      features that a reader may pass over, bits: none yet
//!  24  u32      the release that reads the frame: major << 24 | minor << 16 | patch
//!  28  u32      number of events
//!  32  u64      epoch
//!  40  u64      tick: ms since the Unix epoch, greater than that of the frame before
//!  48  u64      position of the first event, from 1; of the next one where there are no events
//!  56  u32      CRC-32 of the table of sections
//!  60  u32      zero
//! table of sections, 16 bytes each, in the order in which the sections stand
//!   0  u16      kind: 1 events, 2 requests, 3 control; from 256 on: columns
//!   2  u8       codec: 0 none, 1 LZ4 block
//!   3  u8       1: a reader that does not know kind or codec refuses the frame; 0: passes over it
//!   4  u32      length
//!   8  u32      length before compression
//!  12  u32      CRC-32 of the section as it stands here
//! sections, one after the other
//! ```
//!
//! A frame of events has one section of events, and one of requests where some can be repeated by a
//! key (`rows.rs`). A clock frame has no known section, a control frame one of control
//! (`control.rs`); both have no events. No other known sections are allowed. A later version may put
//! columns beside the events: the events stay complete.

use bytes::Bytes;

use super::control::Control;
use super::format::{Epoch, LogFormat, Release};
use super::frame_v1;
pub use super::rows::{FrameEvents, KeyedRequest, NumberedEvent};
use super::rows::{write_event, write_requests};
use crate::model::{Position, Tick};

/// The largest body that is believed, and the most that its known sections have before compression.
pub const PAYLOAD_BYTES_MAX: u32 = 1 << 30;
/// The most sections of a frame.
const SECTIONS_MAX: u16 = 4096;
const SECTION_ENTRY_BYTES: usize = 16;
const MAGIC: [u8; 4] = *b"HFRM";

/// An LZ4 block grows to less than this many times its length: a byte of it says at most that 255
/// bytes are repeated. So what a header announces costs no more memory than its payload may become.
pub const LZ4_GROWTH_MAX: u32 = 255;

/// Why bytes are not a frame, or events do not fit into one. The log's readers add where it is.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The events of one commit exceed [`PAYLOAD_BYTES_MAX`].
    #[error("{bytes} bytes of events")]
    TooLarge { bytes: usize },
    /// Fewer bytes than a header has.
    #[error("{bytes} bytes of a frame's header")]
    TooShort { bytes: usize },
    /// No frame begins here.
    #[error("no frame begins here")]
    Magic,
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
    /// Flags that format 1 does not have.
    #[error("a frame with flags {flags:x}")]
    Flags { flags: u64 },
    /// The frame is whole, and of a later version.
    #[error("{what}: Heliostat {release} or later reads it")]
    Newer { what: String, release: Release },
    /// The sections are not those of a frame of this kind, or not as long as the frame.
    #[error("the sections of the frame do not fit it")]
    Sections,
    /// A section is not an LZ4 block of the announced length.
    #[error("the events cannot be decompressed: {0}")]
    Compression(lz4_flex::block::DecompressError),
    /// The decompressed bytes hold fewer events than the header announces.
    #[error("{read} of {count} events can be read")]
    Events { read: u32, count: u32 },
    /// Behind the events are other bytes than the requests that are announced.
    #[error("what follows the events cannot be read")]
    Requests,
    /// The content of a control frame is not of its kind.
    #[error("the content of a control frame cannot be read")]
    Control,
}

/// The kind of a frame: events, the time alone, or control.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameKind {
    /// Events.
    Events,
    /// Only that time has passed.
    Clock,
    /// See [`Control`].
    Control,
}

impl FrameKind {
    fn number(self) -> u8 {
        match self {
            FrameKind::Events => 1,
            FrameKind::Clock => 2,
            FrameKind::Control => 3,
        }
    }

    fn of(number: u8) -> Option<FrameKind> {
        let kinds = [FrameKind::Events, FrameKind::Clock, FrameKind::Control];
        kinds.into_iter().find(|kind| kind.number() == number)
    }
}

/// The fields of a frame's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    pub format: LogFormat,
    pub kind: FrameKind,
    pub epoch: Epoch,
    pub tick: Tick,
    pub first_position: Position,
    pub count: u32,
    /// The length of what follows the header.
    pub body_bytes: u32,
    pub(super) body: Body,
}

/// The layout of the body, as the header states it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Body {
    /// Format 1: one LZ4 block.
    Block { crc: u32, raw_bytes: u32, flags: u64 },
    /// Format 2: a table, and the sections.
    Sections { count: u16, table_crc: u32 },
}

pub(super) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut word = [0; 4];
    word.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(word)
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(word)
}

impl Header {
    /// Reads the header that bytes begin with. What it says is checked as far as it can be without
    /// the body: of format 1 that is little.
    pub fn read(format: LogFormat, bytes: &[u8]) -> Result<Header, FrameError> {
        if bytes.len() < format.frame_header_bytes() {
            return Err(FrameError::TooShort { bytes: bytes.len() });
        }
        let header = match format {
            LogFormat::One => frame_v1::read_header(bytes)?,
            LogFormat::Two | LogFormat::Three => Header::read_two(bytes)?,
        };
        Ok(header)
    }

    fn read_two(bytes: &[u8]) -> Result<Header, FrameError> {
        let len = LogFormat::Two.frame_header_bytes();
        if bytes[..4] != MAGIC {
            return Err(FrameError::Magic);
        }
        if crc32fast::hash(&bytes[8..len]) != u32_at(bytes, 4) {
            return Err(FrameError::Checksum);
        }
        let (kind, release) = (bytes[14], Release(u32_at(bytes, 24)));
        let newer = |what: String| FrameError::Newer { what, release };
        let required = u32_at(bytes, 16);
        if required != 0 {
            return Err(newer(format!("a frame with features {required:x}")));
        }
        let kind = FrameKind::of(kind).ok_or_else(|| newer(format!("a frame of kind {kind}")))?;
        let header = Header {
            format: LogFormat::Two,
            kind,
            epoch: u64_at(bytes, 32),
            tick: u64_at(bytes, 40),
            first_position: u64_at(bytes, 48),
            count: u32_at(bytes, 28),
            body_bytes: u32_at(bytes, 8),
            body: Body::Sections { count: u16_at(bytes, 12), table_crc: u32_at(bytes, 56) },
        };
        if header.body_bytes > PAYLOAD_BYTES_MAX {
            return Err(FrameError::TooLong { payload_bytes: header.body_bytes });
        }
        header.check_position()?;
        Ok(header)
    }

    /// Events have positions from 1 on, and there is one behind the last.
    pub(super) fn check_position(&self) -> Result<(), FrameError> {
        let behind = self.first_position.checked_add(u64::from(self.count));
        if self.first_position == 0 || behind.is_none() {
            return Err(FrameError::Position);
        }
        Ok(())
    }

    /// The length of the frame.
    pub fn frame_bytes(&self) -> usize {
        self.format.frame_header_bytes() + self.body_bytes as usize
    }

    /// The header of format 2, with a checksum.
    fn to_bytes(self, sections: u16, table_crc: u32) -> [u8; 64] {
        let mut bytes = [0; 64];
        bytes[..4].copy_from_slice(&MAGIC);
        bytes[8..12].copy_from_slice(&self.body_bytes.to_le_bytes());
        bytes[12..14].copy_from_slice(&sections.to_le_bytes());
        bytes[14] = self.kind.number();
        bytes[24..28].copy_from_slice(&Release::OF_FORMAT_TWO.0.to_le_bytes());
        bytes[28..32].copy_from_slice(&self.count.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.epoch.to_le_bytes());
        bytes[40..48].copy_from_slice(&self.tick.to_le_bytes());
        bytes[48..56].copy_from_slice(&self.first_position.to_le_bytes());
        bytes[56..60].copy_from_slice(&table_crc.to_le_bytes());
        let crc = crc32fast::hash(&bytes[8..]);
        bytes[4..8].copy_from_slice(&crc.to_le_bytes());
        bytes
    }
}

/// The kinds of sections that this version knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SectionKind {
    Events = 1,
    Requests = 2,
    Control = 3,
}

impl SectionKind {
    fn of(number: u16) -> Option<SectionKind> {
        let kinds = [SectionKind::Events, SectionKind::Requests, SectionKind::Control];
        kinds.into_iter().find(|kind| *kind as u16 == number)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Codec {
    None = 0,
    Lz4 = 1,
}

impl Codec {
    fn of(number: u8) -> Option<Codec> {
        [Codec::None, Codec::Lz4].into_iter().find(|codec| *codec as u8 == number)
    }
}

/// The place of a section in its frame.
#[derive(Clone, Copy, Debug)]
pub(super) struct Section {
    pub codec: Codec,
    /// The first byte, and the one behind the last.
    pub from: usize,
    pub to: usize,
    pub raw_bytes: u32,
}

impl Section {
    fn decompress(&self, frame: &[u8], raw: &mut [u8]) -> Result<(), FrameError> {
        let bytes = frame.get(self.from..self.to).ok_or(FrameError::Sections)?;
        match self.codec {
            Codec::None if bytes.len() == raw.len() => raw.copy_from_slice(bytes),
            Codec::None => return Err(FrameError::Sections),
            Codec::Lz4 => {
                let read = lz4_flex::block::decompress_into(bytes, raw);
                if read.map_err(FrameError::Compression)? != raw.len() {
                    return Err(FrameError::Sections);
                }
            }
        }
        Ok(())
    }
}

/// One commit, as it is on disk.
#[derive(Clone, Debug)]
pub struct Frame {
    pub(super) header: Header,
    pub(super) events: Option<Section>,
    pub(super) requests: Option<Section>,
    control: Option<Section>,
    /// Header and body.
    pub(super) bytes: Bytes,
}

/// A section that is to be written.
struct NewSection<'a> {
    kind: SectionKind,
    codec: Codec,
    bytes: std::borrow::Cow<'a, [u8]>,
    raw_bytes: u32,
}

impl<'a> NewSection<'a> {
    /// The section of these bytes, compressed if that makes them fewer.
    fn new(kind: SectionKind, raw: &'a [u8]) -> Result<Self, FrameError> {
        let raw_bytes = u32::try_from(raw.len()).ok().filter(|n| *n <= PAYLOAD_BYTES_MAX);
        let raw_bytes = raw_bytes.ok_or(FrameError::TooLarge { bytes: raw.len() })?;
        let compressed = lz4_flex::block::compress(raw);
        Ok(if compressed.len() < raw.len() {
            NewSection { kind, codec: Codec::Lz4, bytes: compressed.into(), raw_bytes }
        } else {
            NewSection { kind, codec: Codec::None, bytes: raw.into(), raw_bytes }
        })
    }
}

impl Frame {
    /// The frame of these events, of epoch 0; a clock frame if there are none. Fails only for more
    /// than [`PAYLOAD_BYTES_MAX`] bytes of them.
    pub fn new<'a, E: Into<NumberedEvent<'a>>>(
        tick: Tick,
        first_position: Position,
        events: impl Iterator<Item = E>,
    ) -> Result<Frame, FrameError> {
        Frame::of_events((0, tick), first_position, events, &[])
    }

    /// The frame of these events and of the requests that can be repeated; a clock frame if there
    /// are no events. Fails as [`Frame::new`].
    pub fn of_events<'a, E: Into<NumberedEvent<'a>>>(
        (epoch, tick): (Epoch, Tick),
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
        let mut keyed = Vec::new();
        if !requests.is_empty() {
            write_requests(requests, &mut keyed);
        }
        Frame::of_rows((epoch, tick), first_position, count, (&raw, &keyed))
    }

    /// The frame of events and requests that are bytes already.
    pub(super) fn of_rows(
        (epoch, tick): (Epoch, Tick),
        first_position: Position,
        count: u32,
        (events, requests): (&[u8], &[u8]),
    ) -> Result<Frame, FrameError> {
        if count == 0 {
            return Frame::assemble(FrameKind::Clock, (epoch, tick), (first_position, 0), &[]);
        }
        if events.len() + requests.len() > PAYLOAD_BYTES_MAX as usize {
            return Err(FrameError::TooLarge { bytes: events.len() + requests.len() });
        }
        let mut sections = vec![NewSection::new(SectionKind::Events, events)?];
        if !requests.is_empty() {
            sections.push(NewSection::new(SectionKind::Requests, requests)?);
        }
        Frame::assemble(FrameKind::Events, (epoch, tick), (first_position, count), &sections)
    }

    /// A frame that only says that time has passed; `next` is the position of the next event.
    pub fn of_clock(epoch: Epoch, tick: Tick, next: Position) -> Result<Frame, FrameError> {
        Frame::assemble(FrameKind::Clock, (epoch, tick), (next, 0), &[])
    }

    /// A control frame; `next` is the position of the next event.
    pub fn of_control(
        epoch: Epoch,
        tick: Tick,
        next: Position,
        control: &Control,
    ) -> Result<Frame, FrameError> {
        let raw = control.to_bytes().map_err(|_| FrameError::Control)?;
        let section = NewSection::new(SectionKind::Control, &raw)?;
        Frame::assemble(FrameKind::Control, (epoch, tick), (next, 0), &[section])
    }

    fn assemble(
        kind: FrameKind,
        (epoch, tick): (Epoch, Tick),
        (first_position, count): (Position, u32),
        sections: &[NewSection<'_>],
    ) -> Result<Frame, FrameError> {
        let table_bytes = sections.len() * SECTION_ENTRY_BYTES;
        let body = table_bytes + sections.iter().map(|section| section.bytes.len()).sum::<usize>();
        let body_bytes = u32::try_from(body).ok().filter(|n| *n <= PAYLOAD_BYTES_MAX);
        let body_bytes = body_bytes.ok_or(FrameError::TooLarge { bytes: body })?;
        let section_count = sections.len() as u16;
        let mut table = Vec::with_capacity(table_bytes);
        for NewSection { kind, codec, bytes, raw_bytes } in sections {
            table.extend_from_slice(&(*kind as u16).to_le_bytes());
            // The 1 means that a reader must know the section. This version writes no other ones.
            table.extend_from_slice(&[*codec as u8, 1]);
            table.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
            table.extend_from_slice(&raw_bytes.to_le_bytes());
            table.extend_from_slice(&crc32fast::hash(bytes).to_le_bytes());
        }
        let table_crc = crc32fast::hash(&table);
        let header = Header {
            format: LogFormat::Two,
            kind,
            epoch,
            tick,
            first_position,
            count,
            body_bytes,
            body: Body::Sections { count: section_count, table_crc },
        };
        let mut bytes = Vec::with_capacity(header.frame_bytes());
        bytes.extend_from_slice(&header.to_bytes(section_count, table_crc));
        bytes.extend_from_slice(&table);
        let mut frame =
            Frame { header, events: None, requests: None, control: None, bytes: Bytes::new() };
        for section in sections {
            let (from, raw_bytes) = (bytes.len(), section.raw_bytes);
            bytes.extend_from_slice(&section.bytes);
            let place = Section { codec: section.codec, from, to: bytes.len(), raw_bytes };
            *frame.place(section.kind) = Some(place);
        }
        frame.bytes = bytes.into();
        Ok(frame)
    }

    /// The same frame with its sections not compressed, for an archive, which compresses many frames
    /// together. A frame with sections that this version does not know stays as it is.
    pub(super) fn plain(&self) -> Result<Frame, FrameError> {
        let Body::Sections { count, .. } = self.header.body else {
            return self.rewritten()?.plain();
        };
        let known = [
            (SectionKind::Events, self.events),
            (SectionKind::Requests, self.requests),
            (SectionKind::Control, self.control),
        ];
        let mut sections = Vec::new();
        for (kind, section) in known {
            let Some(section) = section else { continue };
            let mut raw = vec![0; section.raw_bytes as usize];
            section.decompress(&self.bytes, &mut raw)?;
            let (codec, raw_bytes) = (Codec::None, section.raw_bytes);
            sections.push(NewSection { kind, codec, bytes: raw.into(), raw_bytes });
        }
        if sections.len() != usize::from(count) {
            return Ok(self.clone());
        }
        let place = (self.first_position(), self.count());
        Frame::assemble(self.kind(), (self.epoch(), self.tick()), place, &sections)
    }

    fn place(&mut self, kind: SectionKind) -> &mut Option<Section> {
        match kind {
            SectionKind::Events => &mut self.events,
            SectionKind::Requests => &mut self.requests,
            SectionKind::Control => &mut self.control,
        }
    }

    /// The kind of this frame.
    pub fn kind(&self) -> FrameKind {
        self.header.kind
    }

    /// The epoch of the writer; 0 in format 1.
    pub fn epoch(&self) -> Epoch {
        self.header.epoch
    }

    /// The format that the frame stands in.
    pub fn format(&self) -> LogFormat {
        self.header.format
    }

    /// When the events were committed.
    pub fn tick(&self) -> Tick {
        self.header.tick
    }

    /// The position of the first event.
    pub fn first_position(&self) -> Position {
        self.header.first_position
    }

    /// The position of the last event; of the one before, if there is none.
    pub fn last_position(&self) -> Position {
        self.header.first_position + u64::from(self.header.count) - 1
    }

    /// The number of events.
    pub fn count(&self) -> u32 {
        self.header.count
    }

    /// The size of the events before compression.
    pub fn raw_bytes(&self) -> usize {
        let raw = |section: &Option<Section>| section.map_or(0, |s| s.raw_bytes as usize);
        raw(&self.events) + raw(&self.requests)
    }

    /// The size of the frame on disk.
    pub fn disk_bytes(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// The frame as it stands on disk.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Appends the frame as it stands on disk.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.bytes);
    }

    /// The frame that these bytes are, of either format: a header and a body of the length that it
    /// says. No frame of format 1 is so long that its length reads as the first bytes of format 2.
    pub fn read(bytes: &Bytes) -> Result<Frame, FrameError> {
        let format = if bytes.starts_with(&MAGIC) { LogFormat::Two } else { LogFormat::One };
        Frame::read_as(format, bytes)
    }

    /// The frame that these bytes are, of a format.
    pub(super) fn read_as(format: LogFormat, bytes: &Bytes) -> Result<Frame, FrameError> {
        let header = Header::read(format, bytes)?;
        let expected = header.frame_bytes();
        if bytes.len() != expected {
            return Err(FrameError::Length { bytes: bytes.len(), expected });
        }
        match header.body {
            Body::Block { .. } => frame_v1::read(header, bytes),
            Body::Sections { count, table_crc } => {
                Frame::read_sections(header, (count, table_crc), bytes)
            }
        }
    }

    /// A frame whose one section, of format 1, holds events and requests.
    pub(super) fn of_block(header: Header, events: Section, bytes: Bytes) -> Frame {
        Frame { header, events: Some(events), requests: None, control: None, bytes }
    }

    fn read_sections(
        header: Header,
        (count, table_crc): (u16, u32),
        bytes: &Bytes,
    ) -> Result<Frame, FrameError> {
        let from = header.format.frame_header_bytes();
        let table_bytes = usize::from(count) * SECTION_ENTRY_BYTES;
        let table = bytes.get(from..from + table_bytes).ok_or(FrameError::Sections)?;
        if count > SECTIONS_MAX {
            return Err(FrameError::Sections);
        }
        if crc32fast::hash(table) != table_crc {
            return Err(FrameError::Checksum);
        }
        let newer = |what: String| FrameError::Newer { what, release: Release(u32_at(bytes, 24)) };
        let bytes = bytes.clone();
        let mut frame =
            Frame { header, events: None, requests: None, control: None, bytes: Bytes::new() };
        let (mut from, mut raw_sum) = (from + table_bytes, 0_u64);
        for entry in table.chunks_exact(SECTION_ENTRY_BYTES) {
            let (payload_bytes, raw_bytes) = (u32_at(entry, 4), u32_at(entry, 8));
            let to = from + payload_bytes as usize;
            let section = bytes.get(from..to).ok_or(FrameError::Sections)?;
            if crc32fast::hash(section) != u32_at(entry, 12) {
                return Err(FrameError::Checksum);
            }
            let (kind, codec) = (u16_at(entry, 0), entry[2]);
            match (SectionKind::of(kind), Codec::of(codec)) {
                (Some(kind), Some(codec)) => {
                    let fits = match codec {
                        Codec::None => raw_bytes == payload_bytes,
                        Codec::Lz4 => raw_bytes <= payload_bytes.saturating_mul(LZ4_GROWTH_MAX),
                    };
                    if !fits {
                        return Err(FrameError::Growth { payload_bytes, raw_bytes });
                    }
                    raw_sum += u64::from(raw_bytes);
                    let place = Section { codec, from, to, raw_bytes };
                    if frame.place(kind).replace(place).is_some() {
                        return Err(FrameError::Sections);
                    }
                }
                _ if entry[3] == 0 => {}
                _ => return Err(newer(format!("a section of kind {kind}, codec {codec}"))),
            }
            from = to;
        }
        let has = (frame.events.is_some(), frame.requests.is_some(), frame.control.is_some());
        let fits = match (header.kind, has) {
            (FrameKind::Events, (true, _, false)) => header.count > 0,
            (FrameKind::Clock, (false, false, false))
            | (FrameKind::Control, (false, false, true)) => header.count == 0,
            _ => false,
        };
        if !fits || from != bytes.len() || raw_sum > u64::from(PAYLOAD_BYTES_MAX) {
            return Err(FrameError::Sections);
        }
        frame.bytes = bytes;
        Ok(frame)
    }

    /// The events, all of which can be read.
    pub fn decompress(&self) -> Result<FrameEvents, FrameError> {
        let mut raw = vec![0; self.raw_bytes()];
        let events_bytes = self.events.map_or(0, |section| section.raw_bytes as usize);
        let (events, requests) = raw.split_at_mut(events_bytes);
        for (section, raw) in [(self.events, events), (self.requests, requests)] {
            if let Some(section) = section {
                section.decompress(&self.bytes, raw)?;
            }
        }
        let Header { tick, first_position, count, .. } = self.header;
        let (events_bytes, requests) = match self.header.body {
            Body::Block { flags, .. } => (None, flags & frame_v1::REQUESTS_FLAG != 0),
            Body::Sections { .. } => (Some(events_bytes), self.requests.is_some()),
        };
        FrameEvents::new((tick, first_position, count), raw, events_bytes, requests)
    }

    /// The content of a control frame; `None` for other frames, and for kinds of control that this
    /// version does not know.
    pub fn control(&self) -> Result<Option<Control>, FrameError> {
        let Some(section) = self.control else { return Ok(None) };
        let mut raw = vec![0; section.raw_bytes as usize];
        section.decompress(&self.bytes, &mut raw)?;
        Control::read(&raw)
    }
}

#[cfg(test)]
mod tests {
    use super::super::control::{DismissedLetters, QueriesInUse, QueryFile};
    use super::*;
    use crate::model::event::NewEvent;
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

    fn bytes_of(frame: &Frame) -> Vec<u8> {
        let mut bytes = Vec::new();
        frame.write(&mut bytes);
        bytes
    }

    fn read(bytes: &[u8]) -> Result<Frame, FrameError> {
        Frame::read(&Bytes::copy_from_slice(bytes))
    }

    proptest! {
        #[test]
        fn frames_are_read_back_as_written(events in prop::collection::vec(any_event(), 1..20), tick: u64, epoch: u64, first in 1_u64..1 << 60) {
            let written = Frame::of_events((epoch, tick), first, events.iter(), &[]).unwrap();
            let frame = read(&bytes_of(&written)).unwrap();
            prop_assert_eq!((frame.tick(), frame.first_position(), frame.count() as usize), (tick, first, events.len()));
            prop_assert_eq!((frame.epoch(), frame.kind(), frame.format()), (epoch, FrameKind::Events, LogFormat::Two));
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
            let written = Frame::of_events((3, 7), 1, [numbered].into_iter(), &requests).unwrap();
            let read = read(&bytes_of(&written)).unwrap().decompress().unwrap();
            prop_assert_eq!(read.iter().next().unwrap().stream_version, u64::from(stream_version));
            prop_assert_eq!(KeyedRequest::from_bytes(&requests[0].to_bytes()), Some(requests[0].clone()));
            prop_assert_eq!(read.requests(), requests);
        }

        #[test]
        fn a_flipped_bit_is_seen(event in any_event(), at: prop::sample::Index, bit in 0..8) {
            let mut bytes = bytes_of(&Frame::new(7, 1, [event].iter()).unwrap());
            let at = at.index(bytes.len());
            bytes[at] ^= 1_u8 << bit;
            prop_assert!(read(&bytes).is_err());
        }
    }

    fn event(data: &str) -> NewEvent {
        NewEvent {
            id: "id".to_string(),
            source: String::new(),
            event_type: "T".to_string(),
            version: 1,
            stream: None,
            time_us: 0,
            data: data.as_bytes().to_vec(),
            metadata: Vec::new(),
        }
    }

    /// The header and the table with the checksums that they must have.
    fn sealed(mut bytes: Vec<u8>) -> Vec<u8> {
        let sections = usize::from(u16_at(&bytes, 12));
        let body_bytes = (bytes.len() - 64) as u32;
        let table_crc = crc32fast::hash(&bytes[64..64 + 16 * sections]);
        bytes[8..12].copy_from_slice(&body_bytes.to_le_bytes());
        bytes[56..60].copy_from_slice(&table_crc.to_le_bytes());
        let crc = crc32fast::hash(&bytes[8..64]);
        bytes[4..8].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// The frame with one more section behind the others.
    fn with_section(frame: &Frame, kind: u16, codec: u8, required: u8) -> Vec<u8> {
        let mut bytes = bytes_of(frame);
        let sections = u16_at(&bytes, 12);
        let mut entry = kind.to_le_bytes().to_vec();
        entry.extend([codec, required]);
        entry.extend(3_u32.to_le_bytes());
        entry.extend(1_000_000_u32.to_le_bytes());
        entry.extend(crc32fast::hash(b"abc").to_le_bytes());
        let table_end = 64 + 16 * usize::from(sections);
        bytes.splice(table_end..table_end, entry);
        bytes.extend(b"abc");
        bytes[12..14].copy_from_slice(&(sections + 1).to_le_bytes());
        sealed(bytes)
    }

    #[test]
    fn sections_that_are_not_known_are_passed_over_or_refused_as_they_say() {
        let frame = Frame::new(7, 1, [event(&"x".repeat(100))].iter()).unwrap();
        // Columns, and a known kind in a codec of later.
        for (kind, codec) in [(256, 0), (1, 9), (4, 1)] {
            let bytes = with_section(&frame, kind, codec, 0);
            let optional = read(&bytes).unwrap();
            assert_eq!(optional.decompress().unwrap().iter().count(), 1);
            assert_eq!(bytes_of(&optional), bytes, "what is not known is kept");
            let Err(FrameError::Newer { what, .. }) = read(&with_section(&frame, kind, codec, 1))
            else {
                panic!("kind {kind} is required")
            };
            assert!(what.contains(&format!("kind {kind}, codec {codec}")), "{what}");
        }
        assert!(matches!(read(&with_section(&frame, 1, 0, 1)), Err(FrameError::Growth { .. })));
        let mut damaged = with_section(&frame, 256, 0, 0);
        *damaged.last_mut().unwrap() ^= 1;
        assert!(matches!(read(&damaged), Err(FrameError::Checksum)), "of what is passed over, too");
    }

    #[test]
    fn a_frame_of_a_later_version_names_the_release_that_reads_it() {
        let frame = Frame::new(7, 1, [event("{}")].iter()).unwrap();
        let mut kind = bytes_of(&frame);
        kind[14] = 9;
        kind[24..28].copy_from_slice(&Release::new(3, 4, 500).0.to_le_bytes());
        assert!(
            matches!(read(&kind), Err(FrameError::Checksum)),
            "its checksum is looked at first"
        );
        let error = read(&sealed(kind)).unwrap_err().to_string();
        assert_eq!(error, "a frame of kind 9: Heliostat 3.4.500 or later reads it");
        let mut required = bytes_of(&frame);
        required[18] = 1;
        let error = read(&sealed(required)).unwrap_err().to_string();
        assert!(error.starts_with("a frame with features 10000: Heliostat 0.1.0"), "{error}");
        let mut optional = bytes_of(&frame);
        optional[20..24].copy_from_slice(&[0xff; 4]);
        assert_eq!(read(&sealed(optional)).unwrap().count(), 1);
    }

    #[test]
    fn sections_and_events_must_fit_the_kind_of_the_frame() {
        let events = Frame::new(7, 1, [event("{}")].iter()).unwrap();
        let clock = Frame::of_clock(1, 7, 5).unwrap();
        let letters = DismissedLetters { view: "v".to_string(), dismissals: 1.into() };
        let control = Frame::of_control(1, 7, 5, &Control::Dismissal(letters)).unwrap();
        for (frame, own) in [(events, 1), (clock, 2), (control, 3)] {
            for kind in 1..=3 {
                let mut bytes = bytes_of(&frame);
                bytes[14] = kind;
                assert_eq!(read(&sealed(bytes.clone())).is_ok(), kind == own, "{own} as {kind}");
                bytes[14] = own;
                bytes[28..32].copy_from_slice(&u32::from(own != 1).to_le_bytes());
                assert!(read(&sealed(bytes)).is_err(), "another number of events");
            }
            for len in 0..frame.as_bytes().len() {
                assert!(read(&frame.as_bytes()[..len]).is_err());
            }
        }
    }

    #[test]
    fn control_is_read_back_and_unknown_kinds_are_passed_over() {
        let file = QueryFile { path: "a/b.sql".to_string(), text: "SELECT 1;".repeat(100) };
        let queries = QueriesInUse { set: "fc52".to_string(), files: vec![file] };
        let letters = DismissedLetters { view: "v".to_string(), dismissals: [1, 2].into() };
        for control in [Control::Queries(queries), Control::Dismissal(letters)] {
            let frame = Frame::of_control(2, 9, 4, &control).unwrap();
            let frame = read(frame.as_bytes()).unwrap();
            assert_eq!(
                (frame.kind(), frame.count(), frame.last_position()),
                (FrameKind::Control, 0, 3)
            );
            assert_eq!(frame.control().unwrap(), Some(control));
            assert_eq!(frame.decompress().unwrap().iter().count(), 0);
        }
        assert_eq!(Control::read(&[9, 0, 0, 0, 1, 2, 3]).unwrap(), None);
        assert!(Control::read(&[1, 0, 0]).is_err());
        assert!(Control::read(b"\x01\0\0\0{").is_err());
    }
}
