//! The list of a log's segments: which there are, where each ends, and which positions are lost.
//!
//! It is the file `segments` beside them, replaced as a whole, and synced, when a segment begins, when
//! one was rewritten, and when a writer takes the log over. The list tells of a segment that is missing in the
//! directory, and of a file there that is not of this log.
//!
//! ```text
//! two equal lines: if one is damaged, the other one counts
//!   CRC-32 of the JSON in 8 hex digits, a blank, and the JSON on one line
//! {
//!   "format": 2,          1 in logs whose segments are all of format 1, 3 in those that were trimmed or
//!                         have archived segments
//!   "log": "0193…",       the log's id
//!   "epoch": 3,           the highest one that was taken; 0 if it is left out
//!   "queries": "fc52…",   the last set of query files that control frames before the last segment
//!                         tell of; may be left out
//!   "reserved": 262145,   every position that was ever given to an event is below this
//!   "segments": [         in order; all but the last one are sealed
//!     {"first": 1, "format": 2, "epoch": 1, "sealed": true, "last": 500, "tick": 1795401808874,
//!      "bytes": 67108900}
//!   ],                    first and format name the file; format is 1, and epoch 0, if left out;
//!                         of a segment that is not sealed last, tick and bytes are a lower bound
//!   "gaps": [             positions whose loss was accepted
//!     {"first": 501, "last": 620, "skip": {"segment": 501, "from": 64, "to": 9000}}
//!                         skip: the bytes to pass over, none in a segment that was rewritten
//!   ],                    (from = to); null where a whole segment is lost
//!   "trimmed": {          left out of a log that has all its events
//!     "position": 1000, "tick": 1795401808000,     up to there events are gone
//!     "known": [{"last": 1000, "bytes": 48000}]    files with what the indexes need of them
//!   }
//! }
//! ```
//!
//! Readers pass over members that they do not know, and refuse another format.

use std::sync::{Arc, Mutex, PoisonError, RwLock};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::LogError;
use super::files::Files;
use super::format::{Epoch, LogFormat};
use super::segment::{
    NextFrame, SEGMENT_HEADER_BYTES, SegmentFile, SegmentHeader, SegmentReader, Skip,
};
use crate::model::{Head, Position, Tick, sealed};

/// The name of the list's file.
pub const LIST_NAME: &str = "segments";
const FORMAT: u32 = 2;
/// The list of a log whose segments are all of format 1.
const FORMAT_ONE: u32 = 1;
/// The list of a log that was trimmed or has archived segments. A program that does not know of these would
/// take events for lost.
const FORMAT_LATER: u32 = 3;
/// The number of positions that are reserved at a time. If the last segment is lost, the next event gets
/// the first position that is not reserved: any before it may belong to a lost event.
const RESERVED_POSITIONS: u64 = 1 << 18;

/// The content of the list.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SegmentList {
    format: u32,
    pub log: Uuid,
    /// The highest epoch that was taken.
    #[serde(default)]
    pub epoch: Epoch,
    /// The last set of query files that was in use before the last segment was begun.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queries: Option<String>,
    pub reserved: Position,
    pub segments: Vec<Listed>,
    pub gaps: Vec<Gap>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trimmed: Option<Trimmed>,
}

/// The beginning of a log, which was removed on purpose.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trimmed {
    /// Up to here events are gone.
    pub position: Position,
    /// When the last of them was appended.
    pub tick: Tick,
    /// Files with what the indexes need of them, in order.
    pub known: Vec<KnownEvents>,
}

/// A file with what the indexes need of events that are gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnownEvents {
    /// The last position in it.
    pub last: Position,
    pub bytes: u64,
}

/// A segment in the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listed {
    /// The first position, which is the segment's name.
    pub first: Position,
    /// The format of its file.
    #[serde(default = "format_one")]
    pub format: LogFormat,
    /// The epoch in which it was begun.
    #[serde(default)]
    pub epoch: Epoch,
    /// Nothing more is written to it.
    pub sealed: bool,
    /// Its last position; `first - 1` while it holds no event.
    pub last: Position,
    /// Its last tick; 0 where nobody knows.
    pub tick: Tick,
    /// Its length; of an archived one before compression.
    pub bytes: u64,
    /// The length of its file, if that is in an object store.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remote: Option<u64>,
}

fn format_one() -> LogFormat {
    LogFormat::One
}

impl Listed {
    /// The segment's file.
    pub fn file(&self) -> SegmentFile {
        SegmentFile { first: self.first, format: self.format }
    }
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
    /// The number of lost positions.
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
    #[error("format {format}: a later version of Heliostat has written it")]
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
        SegmentList {
            format: FORMAT,
            log,
            epoch: 0,
            queries: None,
            reserved: 0,
            segments: Vec::new(),
            gaps: Vec::new(),
            trimmed: None,
        }
    }

    /// Up to here events were removed on purpose; 0 in a log that has all of them.
    pub fn trimmed_through(&self) -> Position {
        self.trimmed.as_ref().map_or(0, |trimmed| trimmed.position)
    }

    /// Fails if some positions behind `after` were trimmed.
    pub fn expect_untrimmed(&self, after: Position) -> Result<(), LogError> {
        match self.trimmed_through() {
            through if after < through => Err(LogError::Trimmed { through, stream_from: None }),
            _ => Ok(()),
        }
    }

    /// See [`super::Log::history`].
    pub fn history(&self) -> String {
        match self.gaps.len() {
            0 => self.log.to_string(),
            losses => format!("{} without {losses}", self.log),
        }
    }

    /// Reads the file.
    pub fn read(files: &dyn Files) -> Result<ReadList, LogError> {
        let bytes = match files.read_all(LIST_NAME) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Ok(ReadList::Absent);
            }
            Err(source) => return Err(LogError::Io { path: LIST_NAME.to_string(), source }),
        };
        match SegmentList::parse(&bytes) {
            // A list of a later version is whole: it is not damage.
            ReadList::Damaged(error @ ListError::Version { .. }) => {
                Err(LogError::newer(LIST_NAME, 0, error))
            }
            read => Ok(read),
        }
    }

    /// Reads the content of the file.
    pub fn parse(bytes: &[u8]) -> ReadList {
        let (first, second) = bytes.split_at(bytes.len() / 2);
        let first_line = bytes.split_inclusive(|byte| *byte == b'\n').next().unwrap_or_default();
        let whole = first == second;
        // Where the file is cut short, its first line may still be whole.
        let copies = [first, second, first_line].map(SegmentList::copy);
        let mut reason = ListError::TooShort;
        for copy in copies {
            match copy {
                Ok(list) => return ReadList::Found { list, whole },
                Err(_) if matches!(reason, ListError::Version { .. }) => {}
                Err(error) => reason = error,
            }
        }
        ReadList::Damaged(reason)
    }

    /// Reads one of the two copies.
    fn copy(line: &[u8]) -> Result<SegmentList, ListError> {
        let (crc, rest) = line.split_at_checked(9).ok_or(ListError::TooShort)?;
        let json = rest.strip_suffix(b"\n").ok_or(ListError::TooShort)?;
        if crc != format!("{:08x} ", crc32fast::hash(json)).as_bytes() {
            return Err(ListError::Checksum);
        }
        let format = sealed::format(json)?;
        if ![FORMAT, FORMAT_ONE, FORMAT_LATER].contains(&format) {
            return Err(ListError::Version { format });
        }
        let list: SegmentList = serde_json::from_slice(json)?;
        Ok(SegmentList { format: FORMAT, ..list })
    }

    /// The content of the file.
    pub fn to_bytes(&self) -> std::io::Result<Vec<u8>> {
        let is_archived = |listed: &Listed| listed.format == LogFormat::Three;
        let is_later = self.trimmed.is_some() || self.segments.iter().any(is_archived);
        let format = if is_later { FORMAT_LATER } else { FORMAT };
        let json = serde_json::to_string(&SegmentList { format, ..self.clone() })?;
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
    pub fn add(&mut self, file: SegmentFile, epoch: Epoch) {
        let SegmentFile { first, format } = file;
        assert!(self.segments.last().is_none_or(|last| last.first < first), "in order");
        let bytes = SEGMENT_HEADER_BYTES as u64;
        let (last, tick) = (first - 1, 0);
        let (sealed, remote) = (false, None);
        self.segments.push(Listed { first, format, epoch, sealed, last, tick, bytes, remote });
    }

    /// The segment that begins with a position.
    pub fn segment(&self, first: Position) -> Option<&Listed> {
        let at = self.segments.binary_search_by_key(&first, |listed| listed.first).ok()?;
        self.segments.get(at)
    }

    /// The file of the segment that begins with a position; where none is listed, the one that a
    /// segment would have that began there now.
    pub fn file(&self, first: Position) -> SegmentFile {
        self.segment(first).map_or(SegmentFile::new(first), Listed::file)
    }

    /// The bytes of a segment that are passed over, in order.
    pub fn skips(&self, first: Position) -> Vec<GapBytes> {
        let mut skips: Vec<GapBytes> = self
            .gaps
            .iter()
            .filter_map(|gap| gap.skip.filter(|skip| skip.segment == first))
            .collect();
        skips.sort_unstable_by_key(|skip| (skip.from, skip.to));
        skips
    }

    /// Reads a listed segment from its beginning.
    pub fn reader(&self, first: Position) -> SegmentReader {
        let skip = |gap: &Gap| {
            let GapBytes { segment, from, to } = gap.skip?;
            (segment == first).then_some(Skip { from, to, next: gap.last + 1 })
        };
        let mut skips: Vec<Skip> = self.gaps.iter().filter_map(skip).collect();
        skips.sort_unstable_by_key(|skip| (skip.from, skip.next));
        SegmentReader::new(self.log, self.file(first), skips)
    }

    /// The position behind the lost segment that would hold this one.
    pub fn behind_gap(&self, position: Position) -> Option<Position> {
        let holds = |gap: &&Gap| gap.skip.is_none() && (gap.first..=gap.last).contains(&position);
        self.gaps.iter().find(holds).map(|gap| gap.last + 1)
    }

    /// The highest tick that is known.
    pub fn last_tick(&self) -> Tick {
        let trimmed = self.trimmed.as_ref().map(|trimmed| trimmed.tick);
        self.segments.iter().map(|listed| listed.tick).chain(trimmed).max().unwrap_or(0)
    }

    /// Takes the segments before a position from the list, and returns them. `known` names the file with what
    /// the indexes need of them.
    pub fn trim(&mut self, position: Position, tick: Tick, known: KnownEvents) -> Vec<Listed> {
        let kept = self.segments.partition_point(|listed| listed.first <= position);
        let gone: Vec<Listed> = self.segments.drain(..kept).collect();
        let mut all = self.trimmed.take().map(|trimmed| trimmed.known).unwrap_or_default();
        all.push(known);
        self.trimmed = Some(Trimmed { position, tick, known: all });
        gone
    }

    /// Takes in the segments of a directory that are not listed and begin behind all that are.
    /// Returns whether there were any.
    ///
    /// The segments of a log from before there were lists are taken in here, and those that a copy
    /// of a running log has got after the list.
    pub fn adopt(&mut self, files: &dyn Files, found: &[SegmentFile]) -> Result<bool, LogError> {
        let listed = self.segments.last().map_or(0, |last| last.first);
        let mut new: Vec<SegmentFile> =
            found.iter().copied().filter(|file| file.first > listed).collect();
        // Where a segment has two files, the one of the later format is its finished rewrite.
        new.sort_unstable_by_key(|file| (file.first, std::cmp::Reverse(file.format)));
        new.dedup_by_key(|file| file.first);
        for file in &new {
            self.seal_last(files, file.first)?;
            let header = super::recovery::read_header(files, *file)?;
            let epoch = header.map_or(0, |SegmentHeader { epoch, .. }| epoch);
            self.epoch = self.epoch.max(epoch);
            self.add(*file, epoch);
        }
        Ok(!new.is_empty())
    }

    /// Seals the last segment, whose end is read from it, since another one begins at `next`.
    /// Positions that lie between become a segment that is missing.
    fn seal_last(&mut self, files: &dyn Files, next: Position) -> Result<(), LogError> {
        let begin = self.trimmed_through() + 1;
        let mut end = self.behind_gap(begin).unwrap_or(begin);
        if let Some(last) = self.segments.last().copied() {
            end = next;
            let sealed = self.read_end(files, last, &mut end)?;
            if let Some(place) = self.segments.last_mut() {
                *place = sealed;
            }
        }
        if end < next {
            let SegmentFile { first, format } = SegmentFile::new(end);
            let (sealed, last, bytes) = (true, next - 1, SEGMENT_HEADER_BYTES as u64);
            let epoch = self.epoch;
            let (tick, remote) = (0, None);
            self.segments.push(Listed { first, format, epoch, sealed, last, tick, bytes, remote });
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
        Ok(Listed { sealed: true, last: *end - 1, tick, bytes, ..last })
    }
}

/// The list of a log that is open, shared by its writer and its readers.
pub struct Segments {
    list: RwLock<SegmentList>,
    /// Held while the list is changed.
    changing: Mutex<()>,
    /// The files to read the list from again; `None` where this process writes it.
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
        Segments { list: RwLock::new(list), changing: Mutex::default(), source: None }
    }

    /// A list that another process writes in these files.
    pub fn following(list: SegmentList, files: Arc<dyn Files>) -> Self {
        let (list, changing) = (RwLock::new(list), Mutex::default());
        Segments { list, changing, source: Some(files) }
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

    /// Fails once another process has written the list: the log is its own from then on. The lock
    /// prevents that where the file system has locks, and nobody removes the file.
    pub fn expect_own(&self, files: &dyn Files) -> std::io::Result<()> {
        if files.is_own(LIST_NAME)? {
            return Ok(());
        }
        let epoch = self.ask(|list| list.epoch);
        Err(std::io::Error::other(format!(
            "another process has taken the log over, which was written in epoch {epoch} here"
        )))
    }

    /// Changes the list: first on disk, then for readers. The writer calls this, and who rewrites
    /// segments.
    pub fn change(
        &self,
        files: &dyn Files,
        change: impl FnOnce(&mut SegmentList),
    ) -> std::io::Result<()> {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.ask(SegmentList::clone);
        let mut list = before.clone();
        change(&mut list);
        if list == before {
            return Ok(());
        }
        self.expect_own(files)?;
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
        list.add(SegmentFile { first: 1, format: LogFormat::One }, 0);
        list.note(Head { position: 500, tick: 7 }, 9000);
        list.epoch = 3;
        list.queries = Some("fc52".to_string());
        list.add(SegmentFile::new(501), 3);
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

    fn line(json: &str) -> Vec<u8> {
        format!("{:08x} {json}\n", crc32fast::hash(json.as_bytes())).repeat(2).into_bytes()
    }

    #[test]
    fn a_list_of_format_1_is_read_and_one_of_a_later_format_is_not_damage() {
        let id = "01a223c7-9ce1-76d3-957c-0ab3ae2bd8a4";
        let segments = r#"[{"first":1,"sealed":true,"last":9,"tick":7,"bytes":900},
            {"first":10,"sealed":false,"last":9,"tick":0,"bytes":64}]"#
            .replace('\n', " ");
        let one =
            format!(r#"{{"format":1,"log":"{id}","reserved":99,"segments":{segments},"gaps":[]}}"#);
        let ReadList::Found { list, whole: true } = SegmentList::parse(&line(&one)) else {
            panic!("a list of format 1 is read")
        };
        assert_eq!((list.epoch, list.reserved, list.segments.len()), (0, 99, 2));
        for listed in &list.segments {
            assert_eq!((listed.format, listed.epoch), (LogFormat::One, 0));
        }
        let read = SegmentList::parse(&list.to_bytes().unwrap());
        assert!(matches!(read, ReadList::Found { list: read, .. } if read == list));

        let files = crate::log::FaultyFiles::new();
        for later in [r#"{"format":4}"#, r#"{"format":9,"segments":{}}"#] {
            files.replace(LIST_NAME, &line(later)).unwrap();
            let error = SegmentList::read(&files).unwrap_err();
            assert!(matches!(error, LogError::Newer { .. }), "{error}");
        }
    }
}
