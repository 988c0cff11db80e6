//! The list of a log's segments: which there are, where each ends, and which positions are lost.
//!
//! It is the file `segments` beside them, replaced as a whole when a segment begins. A segment that
//! is gone from the directory is missed because of it.
//!
//! ```text
//! two equal lines: if one is damaged, the other one counts
//!   CRC-32 of the JSON in 8 hex digits, a blank, and the JSON on one line
//! {
//!   "format": 1,
//!   "log": "0193…",       the log's id
//!   "reserved": 262145,   every position that was ever given to an event is below this
//!   "segments": [         in order; all but the last one are sealed
//!     {"first": 1, "sealed": true, "last": 500, "tick": 1795401808874, "bytes": 67108900}
//!   ],                    of a segment that is not sealed last, tick and bytes are a lower bound
//!   "gaps": [             positions whose loss was accepted
//!     {"first": 501, "last": 620, "skip": {"segment": 501, "from": 64, "to": 9000}}
//!   ]                     skip: the bytes to pass over; null where a whole segment is lost
//! }
//! ```

use std::sync::{Arc, PoisonError, RwLock};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::LogError;
use super::files::Files;
use super::segment::{self, NextFrame, SEGMENT_HEADER_BYTES, SegmentReader, Skip};
use crate::model::{Head, Position, Tick};

/// The name of the list's file.
pub const LIST_NAME: &str = "segments";
const FORMAT: u32 = 1;
/// So many positions are reserved at a time. If the last segment is lost, the next event gets the
/// first position that is not reserved, since any before it may have been given to an event.
const RESERVED_POSITIONS: u64 = 1 << 18;

/// The content of the list.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SegmentList {
    format: u32,
    pub log: Uuid,
    pub reserved: Position,
    pub segments: Vec<Listed>,
    pub gaps: Vec<Gap>,
}

/// A segment in the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listed {
    /// The first position, which is the segment's name.
    pub first: Position,
    /// Nothing more is written to it.
    pub sealed: bool,
    /// Its last position; `first - 1` while it holds no event.
    pub last: Position,
    /// Its last tick; 0 where nobody knows.
    pub tick: Tick,
    /// Its length.
    pub bytes: u64,
}

/// Positions that are lost, which was accepted. Where only time is lost, `last` is `first - 1`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gap {
    pub first: Position,
    pub last: Position,
    /// The bytes that are passed over.
    pub skip: Option<GapBytes>,
}

/// A range of bytes in a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GapBytes {
    /// The segment's first position.
    pub segment: Position,
    pub from: u64,
    pub to: u64,
}

impl Gap {
    /// How many positions are lost.
    pub fn positions(&self) -> u64 {
        (self.last + 1).saturating_sub(self.first)
    }
}

/// Why a copy of the list cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ListError {
    #[error("a line is cut short")]
    TooShort,
    #[error("the checksum is wrong")]
    Checksum,
    #[error(transparent)]
    Json(#[from] serde_json::Error),
    #[error("format {format}: it is of a later version")]
    Version { format: u32 },
}

/// The list as it was read.
#[derive(Debug)]
pub enum ReadList {
    /// There is none: the log was written by an earlier version, or is new.
    Absent,
    /// `whole` is false where one of the two copies is damaged.
    Found { list: SegmentList, whole: bool },
    /// Both copies are damaged.
    Damaged(ListError),
}

impl SegmentList {
    /// The list of a log without segments.
    pub fn new(log: Uuid) -> Self {
        SegmentList { format: FORMAT, log, reserved: 0, segments: Vec::new(), gaps: Vec::new() }
    }

    /// Reads the file.
    pub fn read(files: &dyn Files) -> Result<ReadList, LogError> {
        let named = |source| LogError::Io { path: LIST_NAME.to_string(), source };
        if !files.list().map_err(named)?.iter().any(|name| name == LIST_NAME) {
            return Ok(ReadList::Absent);
        }
        let len = files.len(LIST_NAME).map_err(named)?;
        let mut bytes = vec![0; usize::try_from(len).unwrap_or(0)];
        let mut filled = 0;
        while filled < bytes.len() {
            let read =
                files.read_at(LIST_NAME, filled as u64, &mut bytes[filled..]).map_err(named)?;
            if read == 0 {
                break;
            }
            filled += read;
        }
        bytes.truncate(filled);
        Ok(SegmentList::parse(&bytes))
    }

    fn parse(bytes: &[u8]) -> ReadList {
        let (first, second) = bytes.split_at(bytes.len() / 2);
        let first_line = bytes.split_inclusive(|byte| *byte == b'\n').next().unwrap_or_default();
        let whole = first == second;
        // Of a file that is cut short the first line may be whole.
        let copies = [first, second, first_line].map(SegmentList::copy);
        let mut reason = ListError::TooShort;
        for copy in copies {
            match copy {
                Ok(list) => return ReadList::Found { list, whole },
                Err(error) => reason = error,
            }
        }
        ReadList::Damaged(reason)
    }

    /// One of the two lines.
    fn copy(line: &[u8]) -> Result<SegmentList, ListError> {
        let (crc, rest) = line.split_at_checked(9).ok_or(ListError::TooShort)?;
        let json = rest.strip_suffix(b"\n").ok_or(ListError::TooShort)?;
        if crc != format!("{:08x} ", crc32fast::hash(json)).as_bytes() {
            return Err(ListError::Checksum);
        }
        let list: SegmentList = serde_json::from_slice(json)?;
        if list.format != FORMAT {
            return Err(ListError::Version { format: list.format });
        }
        Ok(list)
    }

    fn to_bytes(&self) -> std::io::Result<Vec<u8>> {
        let json = serde_json::to_string(self)?;
        let crc = crc32fast::hash(json.as_bytes());
        Ok(format!("{crc:08x} {json}\n").repeat(2).into_bytes())
    }

    /// Writes the file, durably.
    pub fn write(&self, files: &dyn Files) -> std::io::Result<()> {
        files.replace(LIST_NAME, &self.to_bytes()?)
    }

    /// Makes sure that a position may be given to an event.
    pub fn reserve(&mut self, position: Position) {
        self.reserved = self.reserved.max(position + RESERVED_POSITIONS);
    }

    /// Notes how far the segment that is written to is at least.
    pub fn note(&mut self, head: Head, bytes: u64) {
        if let Some(last) = self.segments.last_mut() {
            (last.last, last.tick, last.bytes) = (head.position, head.tick, bytes);
        }
    }

    /// Nothing more is written to the last segment.
    pub fn seal(&mut self) {
        if let Some(last) = self.segments.last_mut() {
            last.sealed = true;
        }
    }

    /// Adds a segment, which must begin behind the last one.
    pub fn add(&mut self, first: Position) {
        assert!(self.segments.last().is_none_or(|last| last.first < first), "in order");
        let bytes = SEGMENT_HEADER_BYTES as u64;
        self.segments.push(Listed { first, sealed: false, last: first - 1, tick: 0, bytes });
    }

    /// The segment that begins with a position.
    pub fn segment(&self, first: Position) -> Option<&Listed> {
        let at = self.segments.binary_search_by_key(&first, |listed| listed.first).ok()?;
        self.segments.get(at)
    }

    /// Reads a listed segment from its beginning.
    pub fn reader(&self, first: Position) -> SegmentReader {
        let skip = |gap: &Gap| {
            let GapBytes { segment, from, to } = gap.skip?;
            (segment == first).then_some(Skip { from, to, next: gap.last + 1 })
        };
        let mut skips: Vec<Skip> = self.gaps.iter().filter_map(skip).collect();
        skips.sort_unstable_by_key(|skip| skip.from);
        SegmentReader::new(self.log, first, skips)
    }

    /// The position behind the lost segment that would hold this one.
    pub fn behind_gap(&self, position: Position) -> Option<Position> {
        let holds = |gap: &&Gap| gap.skip.is_none() && (gap.first..=gap.last).contains(&position);
        self.gaps.iter().find(holds).map(|gap| gap.last + 1)
    }

    /// The highest tick that is known.
    pub fn last_tick(&self) -> Tick {
        self.segments.iter().map(|listed| listed.tick).max().unwrap_or(0)
    }

    /// Takes in the segments of a directory that are not listed and begin behind all that are.
    /// Returns whether there were any.
    ///
    /// The segments of a log of an earlier version are taken in here, and those that a copy of a
    /// running log has got after the list.
    pub fn adopt(&mut self, files: &dyn Files, names: &[String]) -> Result<bool, LogError> {
        let listed = self.segments.last().map_or(0, |last| last.first);
        let new = names.iter().filter_map(|name| segment::first_position(name));
        let new: Vec<Position> = new.filter(|first| *first > listed).collect();
        for first in &new {
            self.seal_last(files, *first)?;
            self.add(*first);
        }
        Ok(!new.is_empty())
    }

    /// Seals the last segment, whose end is read from it, since another one begins at `next`.
    /// Positions that lie between become a segment that is missing.
    fn seal_last(&mut self, files: &dyn Files, next: Position) -> Result<(), LogError> {
        let mut end = self.behind_gap(1).unwrap_or(1);
        if let Some(last) = self.segments.last().copied() {
            end = next;
            let sealed = self.read_end(files, last, &mut end)?;
            if let Some(place) = self.segments.last_mut() {
                *place = sealed;
            }
        }
        if end < next {
            let bytes = SEGMENT_HEADER_BYTES as u64;
            self.segments.push(Listed { first: end, sealed: true, last: next - 1, tick: 0, bytes });
        }
        Ok(())
    }

    /// The end of a segment that is sealed now. Where it cannot be read to its end it is taken to
    /// reach to `end`, else that becomes the position behind it.
    fn read_end(
        &self,
        files: &dyn Files,
        last: Listed,
        end: &mut Position,
    ) -> Result<Listed, LogError> {
        let mut reader = self.reader(last.first);
        let mut tick = 0;
        let unreadable = loop {
            match reader.next(files) {
                Ok(NextFrame::Frame(frame)) => tick = frame.tick(),
                Ok(NextFrame::End) if reader.next_position() <= *end => {
                    *end = reader.next_position();
                    break false;
                }
                Ok(NextFrame::End | NextFrame::Broken { .. }) | Err(LogError::Missing { .. }) => {
                    break true;
                }
                Err(error) => return Err(error),
            }
        };
        let bytes = match files.len(reader.name()) {
            Ok(len) if unreadable => len,
            _ => reader.offset(),
        };
        Ok(Listed { first: last.first, sealed: true, last: *end - 1, tick, bytes })
    }
}

/// The list of a log that is open, shared by its writer and its readers.
pub struct Segments {
    list: RwLock<SegmentList>,
    /// Where the list is read again, if another process writes it.
    source: Option<Arc<dyn Files>>,
}

impl std::fmt::Debug for Segments {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Segments").field(&self.list).finish()
    }
}

impl Segments {
    /// Shares a list.
    pub fn new(list: SegmentList) -> Self {
        Segments { list: RwLock::new(list), source: None }
    }

    /// A list that another process writes in these files.
    pub fn following(list: SegmentList, files: Arc<dyn Files>) -> Self {
        Segments { list: RwLock::new(list), source: Some(files) }
    }

    /// Looks at the file again, if another process writes it; whether it has changed.
    pub fn refresh(&self) -> Result<bool, LogError> {
        let Some(files) = &self.source else { return Ok(false) };
        let ReadList::Found { list, .. } = SegmentList::read(files.as_ref())? else {
            return Err(LogError::damaged(LIST_NAME, 0, "it cannot be read"));
        };
        let mut known = self.list.write().unwrap_or_else(PoisonError::into_inner);
        let is_new = *known != list;
        *known = list;
        Ok(is_new)
    }

    /// Asks the list as it is now.
    pub fn ask<T>(&self, ask: impl FnOnce(&SegmentList) -> T) -> T {
        ask(&self.list.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Changes the list: first on disk, then for readers. Only the writer calls this.
    pub fn change(
        &self,
        files: &dyn Files,
        change: impl FnOnce(&mut SegmentList),
    ) -> std::io::Result<()> {
        let before = self.ask(SegmentList::clone);
        let mut list = before.clone();
        change(&mut list);
        if list == before {
            return Ok(());
        }
        list.write(files)?;
        *self.list.write().unwrap_or_else(PoisonError::into_inner) = list;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list() -> SegmentList {
        let mut list = SegmentList::new(Uuid::now_v7());
        list.add(1);
        list.note(Head { position: 500, tick: 7 }, 9000);
        list.add(501);
        list.reserve(501);
        let skip = Some(GapBytes { segment: 1, from: 64, to: 100 });
        list.gaps.push(Gap { first: 3, last: 4, skip });
        list
    }

    #[test]
    fn a_flipped_bit_anywhere_leaves_one_copy() {
        let list = list();
        let bytes = list.to_bytes().unwrap();
        let ReadList::Found { list: read, whole: true } = SegmentList::parse(&bytes) else {
            panic!("what was written is not read")
        };
        assert_eq!(read, list);
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut damaged = bytes.clone();
                damaged[at] ^= 1 << bit;
                match SegmentList::parse(&damaged) {
                    ReadList::Found { list: read, whole: false } => assert_eq!(read, list),
                    other => panic!("bit {bit} of byte {at}: {other:?}"),
                }
            }
        }
    }

    #[test]
    fn a_list_that_is_cut_short_is_damaged_or_has_one_copy() {
        let bytes = list().to_bytes().unwrap();
        for len in 0..bytes.len() {
            let read = SegmentList::parse(&bytes[..len]);
            let has_copy = matches!(read, ReadList::Found { whole: false, .. });
            assert_eq!(has_copy, len >= bytes.len() / 2, "{len} bytes: {read:?}");
        }
    }
}
