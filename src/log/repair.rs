//! Accepting that events are lost, so that the log goes on without them.
//!
//! The remaining events keep their positions. Lost ones become a gap in the list of segments, which
//! readers pass over; its positions are never given to other events. Files are cut only behind
//! their last whole frame, and files that do not belong to the log only get another name.

use std::path::{Path, PathBuf};

use super::files::{DiskFiles, Files};
use super::format::LogFormat;
use super::frame::{Frame, FrameError};
use super::inspect::{Examination, Finding, Remedy, examine};
use super::list::{Gap, LIST_NAME, SegmentList};
use super::segment::{self, NextFrame, SegmentFile};
use super::{INDEX_DIRECTORY, LogError, rewrite};
use crate::model::clock::now_ms;
use crate::model::{Head, Position};

/// Suffix of the name of a file that is set aside.
const ASIDE: &str = "aside";

/// A log that is locked for repair, and its damage.
pub struct Repair {
    directory: PathBuf,
    files: DiskFiles,
    examination: Examination,
}

impl Repair {
    /// Locks a log and reads it through.
    pub fn plan(
        directory: &Path,
        visit: impl FnMut(&Frame) -> Result<(), FrameError>,
    ) -> Result<Repair, LogError> {
        // Only a log that is there is locked: locking makes the directory.
        DiskFiles::read_only(directory)?;
        let files = DiskFiles::open(directory)?;
        let examination = examine(directory, visit)?;
        Ok(Repair { directory: directory.into(), files, examination })
    }

    /// The damage that was found, and what a repair would lose.
    pub fn findings(&self) -> &[Finding] {
        &self.examination.findings
    }

    /// Makes a log that can be opened, without the parts that cannot be read. If it fails half way it can be
    /// done again.
    pub fn accept_loss(&self) -> Result<(), LogError> {
        let mut list = self.examination.list.clone();
        for finding in self.findings() {
            self.mend(finding, &mut list)?;
        }
        let is_loss = |finding: &Finding| {
            !matches!(
                finding.remedy,
                Remedy::WriteList | Remedy::WriteHeader(_) | Remedy::Rename | Remedy::None
            )
        };
        if self.findings().iter().any(is_loss) {
            // Events that are lost are known no more, so that they can be sent again.
            let index = self.directory.join(INDEX_DIRECTORY);
            if index.exists() {
                std::fs::remove_dir_all(&index)
                    .map_err(|source| LogError::Io { path: index.display().to_string(), source })?;
            }
            self.resume(&mut list)?;
        }
        for listed in list.segments.iter_mut().filter(|listed| listed.sealed) {
            let name = listed.file().name();
            listed.bytes = self.files.len(&name).map_err(|e| LogError::of_file(&name, e))?;
        }
        let resumed = list.segments.last().map_or(0, |last| last.last);
        list.reserve(resumed.max(self.examination.info.head.position) + 1);
        list.write(&self.files).map_err(|source| LogError::of_file(LIST_NAME, source))
    }

    fn mend(&self, finding: &Finding, list: &mut SegmentList) -> Result<(), LogError> {
        let name = &finding.segment;
        let failed = |source| LogError::of_file(name, source);
        let (first, last) = finding.lost;
        let mut lose = |skip| list.gaps.push(Gap { first, last, skip });
        match finding.remedy {
            Remedy::WriteList | Remedy::None => {}
            Remedy::WriteHeader(first) => {
                let header = match list.segment(first) {
                    Some(listed) if listed.format == LogFormat::One => {
                        segment::header_v1(list.log, first)
                    }
                    listed => {
                        let epoch = listed.map_or(0, |listed| listed.epoch);
                        segment::header(list.log, first, epoch)
                    }
                };
                self.files.rewrite(name, 0, &header).map_err(failed)?;
            }
            Remedy::Skip(bytes) => lose(Some(bytes)),
            Remedy::Rename => self.set_aside(name)?,
            Remedy::GiveUp(segment) => {
                lose(None);
                list.segments.retain(|listed| listed.first != segment);
            }
            Remedy::SetAside(segment) => {
                lose(None);
                list.segments.retain(|listed| listed.first != segment);
                self.set_aside(name)?;
            }
            Remedy::EndHere { segment, .. } if first == segment => {
                lose(None);
                list.segments.retain(|listed| listed.first != segment);
                self.set_aside(name)?;
            }
            Remedy::EndHere { offset, .. } => {
                lose(None);
                self.files.truncate(name, offset).map_err(failed)?;
                if let Some(end) = list.segments.last_mut() {
                    end.sealed = true;
                    end.last = first - 1;
                    end.tick = self.examination.info.head.tick;
                }
            }
        }
        Ok(())
    }

    fn set_aside(&self, name: &str) -> Result<(), LogError> {
        let to = format!("{name}.{ASIDE}");
        self.files.rename(name, &to).map_err(|source| LogError::of_file(name, source))
    }

    /// Begins a new segment if the last one is lost. Then an empty frame says that the log goes on behind the
    /// lost positions, for readers that wait for the last one.
    fn resume(&self, list: &mut SegmentList) -> Result<(), LogError> {
        if list.segments.last().is_none_or(|last| last.sealed) {
            let lost = list.gaps.iter().map(|gap| gap.last).max().unwrap_or(0);
            let ends = list.segments.last().map_or(0, |last| last.last);
            let first: Position = lost.max(ends) + 1;
            let file = SegmentFile::new(first);
            self.append(&file.name(), &segment::header(list.log, first, list.epoch))?;
            list.add(file, list.epoch);
        }
        let Some(mut last) = list.segments.last().copied() else { return Ok(()) };
        if last.format != LogFormat::CURRENT {
            // Only the current format is written.
            let format = LogFormat::CURRENT;
            let rewritten = rewrite::copy(&self.files, list, last, format, &mut |_| true)?;
            rewritten.note(list);
            last = rewritten.listed;
        }
        let mut reader = list.reader(last.first);
        let mut tick = list.last_tick().max(self.examination.info.head.tick);
        while let NextFrame::Frame(frame) = reader.next(&self.files)? {
            tick = tick.max(frame.tick());
        }
        let (name, offset) = (reader.name(), reader.offset());
        self.files.truncate(name, offset).map_err(|source| LogError::of_file(name, source))?;
        let position = reader.next_position();
        let tick = now_ms().max(tick + 1);
        let frame = Frame::of_clock(list.epoch, tick, position)
            .map_err(|error| LogError::damaged(name, offset, error))?;
        self.append(name, frame.as_bytes())?;
        list.note(Head { position: position - 1, tick }, offset + frame.disk_bytes());
        Ok(())
    }

    fn append(&self, name: &str, bytes: &[u8]) -> Result<(), LogError> {
        let append = || {
            let mut file = self.files.append(name)?;
            file.write(bytes)?;
            file.sync()
        };
        append().map_err(|source| LogError::of_file(name, source))
    }
}
