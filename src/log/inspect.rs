//! Looking into a log without opening it for writing: a server may have it open.

use std::path::Path;

use uuid::Uuid;

use super::LogError;
use super::files::{DiskFiles, Files};
use super::frame::Frame;
use super::recovery::{check_sequence, frame_follows, read_header};
use super::segment::{self, Next, SegmentReader};
use crate::model::Head;

/// A log in numbers.
#[derive(Clone, Debug)]
pub struct LogInfo {
    pub id: Uuid,
    pub head: Head,
    pub segments: Vec<SegmentInfo>,
}

/// A segment in numbers.
#[derive(Clone, Debug)]
pub struct SegmentInfo {
    pub name: String,
    pub first_position: u64,
    pub events: u64,
    pub frames: u64,
    pub bytes: u64,
    pub first_tick: u64,
    pub last_tick: u64,
    /// Bytes behind the last whole frame: a write that goes on, or one that a crash cut off.
    pub torn_bytes: u64,
}

/// Reads a log through and tells what is in it.
pub fn info(directory: &Path) -> Result<LogInfo, LogError> {
    verify(directory, |_| Ok(()))
}

/// Reads a log through, checks every checksum and the sequence of positions and ticks, and hands
/// each frame to `visit`. The first thing that is wrong is the error.
pub fn verify(
    directory: &Path,
    mut visit: impl FnMut(&Frame) -> Result<(), String>,
) -> Result<LogInfo, LogError> {
    let files = DiskFiles::read_only(directory)?;
    let names = segment::list(&files)?;
    let Some(first) = names.first() else {
        let path = directory.display().to_string();
        return Err(LogError::NotALog { path, what: "it holds no segment".to_string() });
    };
    let (id, _) = read_header(&files, first)?;
    let mut log = LogInfo { id, head: Head::default(), segments: Vec::new() };
    for (index, name) in names.iter().enumerate() {
        let last = index + 1 == names.len();
        segment_info(&files, name, last, &mut log, &mut visit)?;
    }
    Ok(log)
}

fn segment_info(
    files: &DiskFiles,
    name: &str,
    last: bool,
    log: &mut LogInfo,
    visit: &mut impl FnMut(&Frame) -> Result<(), String>,
) -> Result<(), LogError> {
    let damaged = |offset, what| LogError::Damaged { segment: name.to_string(), offset, what };
    let (id, first_position) = read_header(files, name)?;
    if id != log.id {
        return Err(damaged(0, format!("it belongs to log {id}, not {}", log.id)));
    }
    let bytes =
        files.len(name).map_err(|source| LogError::Io { path: name.to_string(), source })?;
    let mut segment = SegmentInfo {
        name: name.to_string(),
        first_position,
        events: 0,
        frames: 0,
        bytes,
        first_tick: 0,
        last_tick: 0,
        torn_bytes: 0,
    };
    let mut reader = SegmentReader::new(name.to_string());
    loop {
        let offset = reader.offset();
        match reader.next(files)? {
            Next::Frame(frame) => {
                check_sequence(&reader, log.head, frame.first_position(), frame.tick())?;
                visit(&frame).map_err(|what| damaged(offset, what))?;
                log.head = Head { position: frame.last_position(), tick: frame.tick() };
                segment.frames += 1;
                segment.events += u64::from(frame.count());
                segment.last_tick = frame.tick();
                if segment.first_tick == 0 {
                    segment.first_tick = frame.tick();
                }
            }
            Next::End => break,
            // A tail that is being written, or was cut off, has no whole frame behind it.
            Next::Broken(_) if last && !frame_follows(files, name, offset + 1, bytes)? => {
                segment.torn_bytes = bytes.saturating_sub(offset);
                break;
            }
            Next::Broken(what) => return Err(damaged(offset, what)),
        }
    }
    log.segments.push(segment);
    Ok(())
}
