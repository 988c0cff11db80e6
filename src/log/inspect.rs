//! Looking into a log without opening it for writing: a server may have it open.

use std::path::Path;

use uuid::Uuid;

use super::files::{DiskFiles, Files};
use super::format::Epoch;
use super::frame::FrameKind;
use super::frame::{Frame, FrameError};
use super::list::{Gap, GapBytes, LIST_NAME, Listed, ReadList, SegmentList, Trimmed};
use super::recovery::{first_id, read_header, unlisted};
use super::segment::{
    self, NextFrame, SEGMENT_HEADER_BYTES, SegmentFile, SegmentHeader, SegmentHeaderError,
    SegmentReader, find_frame,
};
use super::{LogError, known};
use crate::model::{Head, Position, Tick};

/// A log in numbers.
#[derive(Clone, Debug)]
pub struct LogInfo {
    pub id: Uuid,
    pub head: Head,
    /// The highest epoch of a writer; 0 in a log of before there were epochs.
    pub epoch: Epoch,
    pub segments: Vec<SegmentInfo>,
    /// Losses that were accepted.
    pub gaps: Vec<Gap>,
    /// The beginning that was removed on purpose.
    pub trimmed: Option<Trimmed>,
}

/// A segment in numbers.
#[derive(Clone, Debug)]
pub struct SegmentInfo {
    pub name: String,
    pub first_position: u64,
    /// The number of its format.
    pub format: u32,
    /// The epoch in which it was begun.
    pub epoch: Epoch,
    pub events: u64,
    pub frames: u64,
    /// The frames that are control frames.
    pub control_frames: u64,
    pub bytes: u64,
    pub first_tick: u64,
    pub last_tick: u64,
    /// Bytes behind the last whole frame: a write that goes on, or one that a crash cut off.
    pub torn_bytes: u64,
}

/// Damage at one place of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The file.
    pub segment: String,
    /// The place in it, in bytes.
    pub offset: u64,
    pub what: String,
    /// The first and the last position that are lost; none where `last` is `first - 1`.
    pub lost: (Position, Position),
    /// True where some of the positions may never have been given to events.
    pub at_most: bool,
    pub(super) remedy: Remedy,
}

impl Finding {
    /// The number of lost positions.
    pub fn lost_positions(&self) -> u64 {
        (self.lost.1 + 1).saturating_sub(self.lost.0)
    }

    fn error(&self) -> LogError {
        match self.remedy {
            Remedy::GiveUp { .. } => LogError::Missing { segment: self.segment.clone() },
            _ => LogError::Damaged {
                segment: self.segment.clone(),
                offset: self.offset,
                what: self.what.clone(),
            },
        }
    }
}

/// The action that repair takes for a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Remedy {
    /// Write the list anew.
    WriteList,
    /// Write the header of the segment that begins with this position.
    WriteHeader(Position),
    /// Pass over bytes.
    Skip(GapBytes),
    /// Take the segment that begins with this position from the list.
    GiveUp(Position),
    /// The same, and give its file another name.
    SetAside(Position),
    /// Give a file that does not belong to the log another name.
    Rename,
    /// Nothing can be done but to put the file back.
    None,
    /// End the last segment here and go on behind the positions that are reserved.
    EndHere { segment: Position, offset: u64 },
}

/// The result of an examination of a log.
#[derive(Clone, Debug)]
pub struct Examination {
    pub info: LogInfo,
    pub findings: Vec<Finding>,
    pub(super) list: SegmentList,
}

/// Reads a log through and tells what is in it.
pub fn info(directory: &Path) -> Result<LogInfo, LogError> {
    verify(directory, |_| Ok(()))
}

/// Reads a log through, checks every checksum and the sequence of positions and ticks, and hands
/// each frame to `visit`. The first thing that is wrong is the error.
pub fn verify(
    directory: &Path,
    mut visit: impl FnMut(&Frame) -> Result<(), FrameError>,
) -> Result<LogInfo, LogError> {
    let mut examiner = Examiner::new(directory, &mut visit)?;
    examiner.first_only = true;
    let Examination { info, findings, .. } = examiner.run()?;
    findings.first().map_or(Ok(info), |finding| Err(finding.error()))
}

/// Reads a log through as [`verify`] does, and goes on behind what is wrong.
pub fn examine(
    directory: &Path,
    mut visit: impl FnMut(&Frame) -> Result<(), FrameError>,
) -> Result<Examination, LogError> {
    Examiner::new(directory, &mut visit)?.run()
}

/// Whether all that is in a frame can be read, for those who examine a log.
pub fn readable(frame: &Frame) -> Result<(), FrameError> {
    frame.control()?;
    frame.decompress().map(drop)
}

/// A segment that is just being made is none yet.
pub fn drop_stub(
    files: &dyn Files,
    found: &mut Vec<SegmentFile>,
    list: &SegmentList,
) -> Result<(), LogError> {
    let Some(last) = found.last() else { return Ok(()) };
    let (name, listed) = (last.name(), list.segment(last.first).is_some());
    if listed {
        return Ok(());
    }
    let len = files.len(&name).map_err(|source| LogError::of_file(&name, source))?;
    let begun = len > SEGMENT_HEADER_BYTES as u64 || (found.len() == 1 && list.segments.is_empty());
    if !begun {
        found.pop();
    }
    Ok(())
}

type Visit<'a> = &'a mut dyn FnMut(&Frame) -> Result<(), FrameError>;

struct Examiner<'a> {
    files: DiskFiles,
    present: Vec<SegmentFile>,
    list: SegmentList,
    info: LogInfo,
    findings: Vec<Finding>,
    /// Stop at the first finding.
    first_only: bool,
    /// Frames up to this tick were visited before their segment was rewritten.
    again_until: Tick,
    visit: Visit<'a>,
}

impl<'a> Examiner<'a> {
    fn new(directory: &Path, visit: Visit<'a>) -> Result<Self, LogError> {
        let files = DiskFiles::read_only(directory)?;
        // The list first: a segment that begins meanwhile is taken in behind it.
        let read = SegmentList::read(&files)?;
        let mut present = segment::list(&files)?;
        let mut findings = Vec::new();
        let mut of_list = |what: String| {
            let (segment, remedy) = (LIST_NAME.to_string(), Remedy::WriteList);
            findings.push(Finding {
                segment,
                offset: 0,
                what,
                lost: (1, 0),
                at_most: false,
                remedy,
            });
        };
        let list = match read {
            ReadList::Found { list, whole } => {
                if !whole {
                    of_list("one of its two copies is damaged".to_string());
                }
                Some(list)
            }
            ReadList::Absent => None,
            ReadList::Damaged(error) => {
                of_list(format!(
                    "{error}, in both copies: nobody can tell whether segments are missing at the end"
                ));
                None
            }
        };
        let mut list = match list {
            Some(list) => list,
            None => SegmentList::new(first_id(&files, &present)?.ok_or_else(|| {
                let path = directory.display().to_string();
                LogError::NotALog { path, what: "it holds no segment".to_string() }
            })?),
        };
        drop_stub(&files, &mut present, &list)?;
        list.adopt(&files, &present)?;
        let (id, gaps) = (list.log, list.gaps.clone());
        let (head, epoch) = (Head::default(), list.epoch);
        let trimmed = list.trimmed.clone();
        let info = LogInfo { id, head, epoch, segments: Vec::new(), gaps, trimmed };
        let (first_only, again_until) = (false, 0);
        Ok(Examiner { files, present, list, info, findings, first_only, again_until, visit })
    }

    fn run(mut self) -> Result<Examination, LogError> {
        let listed = self.list.segments.clone();
        for (index, listed) in listed.iter().enumerate() {
            let last = index + 1 == self.list.segments.len();
            if self.first_only && !self.findings.is_empty() {
                break;
            }
            self.segment(*listed, last)?;
        }
        self.known()?;
        let unlisted: Vec<SegmentFile> = unlisted(&self.list, &self.present).collect();
        for file in unlisted {
            let what = "it is not in the list of segments".to_string();
            self.found(&file.name(), 0, what, Remedy::Rename);
        }
        // A list that was made anew does not know it.
        self.list.epoch = self.list.epoch.max(self.info.epoch);
        Ok(Examination { info: self.info, findings: self.findings, list: self.list })
    }

    /// The files with what the indexes need of events that were trimmed.
    fn known(&mut self) -> Result<(), LogError> {
        let Some(trimmed) = self.list.trimmed.clone() else { return Ok(()) };
        for file in &trimmed.known {
            match known::read(&self.files, *file, |_| Ok(())) {
                Ok(()) => {}
                Err(LogError::Missing { segment }) => {
                    self.found(&segment, 0, "it is missing".to_string(), Remedy::None);
                }
                Err(LogError::Damaged { segment, offset, what }) => {
                    self.found(&segment, offset, what, Remedy::None);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// The end of a segment, as far as it is known.
    fn end(&self, listed: &Listed, last: bool) -> (Position, bool) {
        match last {
            true => (self.list.reserved.max(listed.first) - 1, true),
            false => (listed.last, false),
        }
    }

    /// Something is wrong, and nothing is lost.
    fn found(&mut self, name: &str, offset: u64, what: String, remedy: Remedy) {
        self.found_to(name, (offset, what), (1, 0), false, remedy);
    }

    fn found_to(
        &mut self,
        name: &str,
        (offset, what): (u64, String),
        lost: (Position, Position),
        at_most: bool,
        remedy: Remedy,
    ) {
        let segment = name.to_string();
        self.findings.push(Finding { segment, offset, what, lost, at_most, remedy });
    }

    /// Takes in that a server has rewritten a segment meanwhile; false if it has not.
    fn refresh(&mut self, listed: &mut Listed) -> Result<bool, LogError> {
        let ReadList::Found { list, .. } = SegmentList::read(&self.files)? else {
            return Ok(false);
        };
        let now = list.segment(listed.first).filter(|now| now.format != listed.format);
        let Some(now) = now.copied() else { return Ok(false) };
        if let Some(known) = self.list.segments.iter_mut().find(|s| s.first == now.first) {
            *known = now;
        }
        (self.list.gaps, *listed) = (list.gaps, now);
        Ok(true)
    }

    fn segment(&mut self, mut listed: Listed, last: bool) -> Result<(), LogError> {
        let (end, at_most) = self.end(&listed, last);
        let is_missing = |name: &str| match self.files.len(name) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(true),
            Err(source) => Err(LogError::of_file(name, source)),
            Ok(_) => Ok(false),
        };
        if is_missing(&listed.file().name())? && !self.refresh(&mut listed)? {
            let remedy = Remedy::GiveUp(listed.first);
            let (name, lost) = (listed.file().name(), (listed.first, end));
            self.found_to(&name, (0, "it is missing".to_string()), lost, at_most, remedy);
            self.info.head.position = end;
            return Ok(());
        }
        let (file, name) = (listed.file(), listed.file().name());
        match read_header(&self.files, file)? {
            Ok(SegmentHeader { log, .. }) if log == self.list.log => {}
            Ok(SegmentHeader { log: found, .. }) => {
                let other = SegmentHeaderError::OtherLog { found, expected: self.list.log };
                let what = other.to_string();
                let remedy = Remedy::SetAside(listed.first);
                self.found_to(&name, (0, what), (listed.first, end), at_most, remedy);
                self.info.head.position = end;
                return Ok(());
            }
            Err(error) => {
                let remedy = Remedy::WriteHeader(listed.first);
                self.found(&name, 0, error.to_string(), remedy);
                if self.first_only {
                    return Ok(());
                }
            }
        }
        self.frames(listed, last)
    }

    /// Reads a segment from its first frame on, whatever its header says.
    fn reader(&self, listed: &Listed) -> Result<SegmentReader, LogError> {
        let mut reader = self.list.reader(listed.first);
        if reader.open(&self.files)?.is_some() {
            reader.jump(SEGMENT_HEADER_BYTES as u64, listed.first);
        }
        Ok(reader)
    }

    fn frames(&mut self, mut listed: Listed, last: bool) -> Result<(), LogError> {
        let mut reader = self.reader(&listed)?;
        let name = reader.name().to_string();
        let bytes = self.files.len(&name).map_err(|source| LogError::of_file(&name, source))?;
        let mut segment = SegmentInfo {
            name,
            first_position: listed.first,
            format: listed.format.number(),
            epoch: listed.epoch,
            events: 0,
            frames: 0,
            control_frames: 0,
            bytes,
            first_tick: 0,
            last_tick: 0,
            torn_bytes: 0,
        };
        let mut next_offset = reader.offset();
        while !self.first_only || self.findings.is_empty() {
            let next = match reader.next(&self.files) {
                Err(LogError::Missing { .. }) if self.refresh(&mut listed)? => {
                    self.again_until = self.info.head.tick;
                    reader = self.reader(&listed)?;
                    next_offset = reader.offset();
                    segment.name = reader.name().to_string();
                    segment.bytes = listed.bytes;
                    segment.format = listed.format.number();
                    continue;
                }
                next => next?,
            };
            match next {
                NextFrame::Frame(frame) if frame.tick() <= self.again_until => {
                    next_offset = reader.offset();
                }
                NextFrame::Frame(frame) => {
                    self.frame(&mut segment, &frame, (&reader, next_offset));
                    next_offset = reader.offset();
                }
                NextFrame::End => {
                    self.at_end(&reader, &listed, last, segment.bytes);
                    break;
                }
                NextFrame::Broken { offset, what } => {
                    if !self.broken(&mut reader, (&listed, last), (offset, what), &mut segment)? {
                        break;
                    }
                    next_offset = reader.offset();
                }
            }
        }
        self.info.head.position = self.info.head.position.max(reader.next_position() - 1);
        self.info.segments.push(segment);
        Ok(())
    }

    fn frame(
        &mut self,
        segment: &mut SegmentInfo,
        frame: &Frame,
        (reader, from): (&SegmentReader, u64),
    ) {
        let mut wrong = (self.visit)(frame).err().map(|error| error.to_string());
        if frame.tick() <= self.info.head.tick {
            let (tick, before) = (frame.tick(), self.info.head.tick);
            wrong = Some(format!("its tick {tick} does not follow {before}"));
        }
        if let Some(what) = wrong {
            let skip = GapBytes { segment: segment.first_position, from, to: reader.offset() };
            let lost = (frame.first_position(), frame.last_position());
            self.found_to(reader.name(), (from, what), lost, false, Remedy::Skip(skip));
            return;
        }
        self.info.head = Head { position: frame.last_position(), tick: frame.tick() };
        self.info.epoch = self.info.epoch.max(frame.epoch());
        segment.frames += 1;
        segment.control_frames += u64::from(frame.kind() == FrameKind::Control);
        segment.events += u64::from(frame.count());
        segment.last_tick = frame.tick();
        if segment.first_tick == 0 {
            segment.first_tick = frame.tick();
        }
    }

    /// Compares the end of a segment with what the list says.
    fn at_end(&mut self, reader: &SegmentReader, listed: &Listed, last: bool, bytes: u64) {
        let (name, offset, next) = (reader.name(), reader.offset(), reader.next_position());
        if last {
            if offset < listed.bytes {
                let what = format!("it ends, and {} bytes were synced", listed.bytes);
                let lost = (next, self.end(listed, last).0);
                let remedy = Remedy::EndHere { segment: listed.first, offset };
                self.found_to(name, (offset, what), lost, true, remedy);
            }
        } else if next <= listed.last {
            let what = format!("it ends, expected events to position {}", listed.last);
            let skip = GapBytes { segment: listed.first, from: offset, to: offset.max(bytes) };
            let lost = (next, listed.last);
            self.found_to(name, (offset, what), lost, false, Remedy::Skip(skip));
        } else if bytes != listed.bytes {
            let what = format!("it has {bytes} bytes, expected {}", listed.bytes);
            self.found(name, offset, what, Remedy::WriteList);
        }
    }

    /// Notes what is broken at an offset, and jumps behind it. False if nothing of the segment is left to
    /// read.
    fn broken(
        &mut self,
        reader: &mut SegmentReader,
        (listed, last): (&Listed, bool),
        (offset, what): (u64, String),
        segment: &mut SegmentInfo,
    ) -> Result<bool, LogError> {
        let (name, next) = (reader.name().to_string(), reader.next_position());
        if let Some((to, frame)) = find_frame(&self.files, reader.file(), offset + 1, next)? {
            let skip = GapBytes { segment: listed.first, from: offset, to };
            let lost = (next, frame.first_position() - 1);
            self.found_to(&name, (offset, what), lost, false, Remedy::Skip(skip));
            reader.jump(to, frame.first_position());
            return Ok(true);
        }
        let end = self.end(listed, last).0;
        if !last {
            let skip = GapBytes { segment: listed.first, from: offset, to: segment.bytes };
            self.found_to(&name, (offset, what), (next, end), false, Remedy::Skip(skip));
            reader.jump(segment.bytes, end + 1);
        } else if offset < listed.bytes {
            let remedy = Remedy::EndHere { segment: listed.first, offset };
            self.found_to(&name, (offset, what), (next, end), true, remedy);
        } else {
            // A tail that is being written, or was cut off, has no whole frame behind it.
            segment.torn_bytes = segment.bytes.saturating_sub(offset);
        }
        Ok(false)
    }
}
