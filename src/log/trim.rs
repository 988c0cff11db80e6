//! Removing the oldest segments of a log on purpose.
//!
//! Positions go on as before. The indexes' knowledge of the events stays, in a file of its own (`known.rs`):
//! an event that is sent again is known, and streams keep their versions. The list of segments tells how far
//! the log was trimmed, so that a first segment that is lost is still missed.

use std::path::Path;

use super::LogError;
use super::files::{DiskFiles, Files};
use super::index::Digester;
use super::known::{self, KnownWriter};
use super::list::{KnownEvents, LIST_NAME, Listed, ReadList, SegmentList, Trimmed};
use super::segment::{NextFrame, SegmentFile};
use crate::model::{Position, Tick};

/// The end of a trim: segments go that have only events before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TrimBefore {
    /// Events before this position.
    Position(Position),
    /// Events that were appended before this time.
    Time(Tick),
}

/// A log that nobody else has open, and the segments that are to be removed from it.
#[derive(Debug)]
pub struct Trim {
    files: DiskFiles,
    list: SegmentList,
    /// The segments that go, in order.
    gone: Vec<Listed>,
}

/// The beginning of a log that was removed, if any was.
pub fn trimmed(directory: &Path) -> Result<Option<Trimmed>, LogError> {
    let files = DiskFiles::read_only(directory)?;
    match SegmentList::read(&files)? {
        ReadList::Found { list, .. } => Ok(list.trimmed),
        ReadList::Absent => Ok(None),
        ReadList::Damaged(error) => Err(LogError::damaged(LIST_NAME, 0, error)),
    }
}

impl Trim {
    /// Locks a log, and finds the segments that hold nothing but what is to go.
    pub fn plan(directory: &Path, before: TrimBefore) -> Result<Trim, LogError> {
        // Only a log that is there is locked: locking makes the directory.
        DiskFiles::read_only(directory)?;
        let files = DiskFiles::open(directory)?;
        let list = match SegmentList::read(&files)? {
            ReadList::Found { list, .. } => list,
            ReadList::Absent => {
                let path = directory.display().to_string();
                let what = "it has no list of segments: a server writes it".to_string();
                return Err(LogError::NotALog { path, what });
            }
            ReadList::Damaged(error) => return Err(LogError::damaged(LIST_NAME, 0, error)),
        };
        let goes = |listed: &&Listed| {
            let is_before = match before {
                TrimBefore::Position(position) => listed.last < position,
                // A segment whose last tick is unknown has 0, and stays.
                TrimBefore::Time(time) => listed.tick > 0 && listed.tick < time,
            };
            listed.sealed && is_before
        };
        let gone = list.segments.iter().take_while(goes).copied().collect();
        Ok(Trim { files, list, gone })
    }

    /// This trim without segments that have events behind a position.
    pub fn at_most(mut self, position: Position) -> Trim {
        self.gone.retain(|listed| listed.last <= position);
        self
    }

    /// The history of the log, see [`super::Log::history`].
    pub fn history(&self) -> String {
        self.list.history()
    }

    /// The number of segments that go, and their bytes.
    pub fn size(&self) -> (usize, u64) {
        (self.gone.len(), self.gone.iter().map(|listed| listed.bytes).sum())
    }

    /// The first and the last position that go; `None` if nothing does.
    pub fn positions(&self) -> Option<(Position, Position)> {
        Some((self.gone.first()?.first, self.gone.last()?.last))
    }

    /// Removes the segments. A crash leaves the log with them, or without and some files too many,
    /// which the next start removes.
    pub fn run(mut self) -> Result<(), LogError> {
        let Some((_, last)) = self.positions() else { return Ok(()) };
        let mut writer = KnownWriter::new(&self.files, last, Digester::new(self.list.log))?;
        let mut tick = self.list.trimmed.as_ref().map_or(0, |trimmed| trimmed.tick);
        for listed in &self.gone {
            let mut reader = self.list.reader(listed.first);
            loop {
                match reader.next(&self.files)? {
                    NextFrame::Frame(frame) => {
                        tick = tick.max(frame.tick());
                        writer.frame(&frame)?;
                    }
                    NextFrame::End => break,
                    NextFrame::Broken { offset, what } => {
                        return Err(LogError::damaged(reader.name(), offset, what));
                    }
                }
            }
            if reader.next_position() != listed.last + 1 {
                let what = format!("it ends before position {}", listed.last);
                return Err(LogError::damaged(reader.name(), reader.offset(), what));
            }
        }
        let known = KnownEvents { last, bytes: writer.end()? };
        known::read(&self.files, known, |_| Ok(()))?;
        let gone = self.list.trim(last, tick, known);
        let written = self.list.write(&self.files);
        written.map_err(|source| LogError::Io { path: LIST_NAME.to_string(), source })?;
        for listed in gone {
            let name = listed.file().name();
            let removed = match listed.remote {
                Some(_) => self.files.remove_archived(&name),
                None => self.files.remove(&name),
            };
            removed.map_err(|source| LogError::of_file(&name, source))?;
        }
        Ok(())
    }
}

/// Removes what a crash has left of segments that were trimmed.
pub fn remove_trimmed(
    files: &dyn Files,
    list: &SegmentList,
    found: &mut Vec<SegmentFile>,
) -> Result<(), LogError> {
    let through = list.trimmed_through();
    for file in
        found.extract_if(.., |file| file.first <= through && list.segment(file.first).is_none())
    {
        let name = file.name();
        tracing::info!(segment = name, "removing a segment that was trimmed");
        files.remove(&name).map_err(|source| LogError::of_file(&name, source))?;
    }
    Ok(())
}
