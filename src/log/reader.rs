//! Reading frames in order, from any position, and following the tail.

use std::sync::Arc;

use tokio::sync::watch;

use super::LogError;
use super::files::Files;
use super::frame::Frame;
use super::segment::{self, Next, SegmentReader};
use crate::model::{Head, Position, Tick};

/// Streams a log's frames. Blocking: use it on a thread that may wait for the disk.
pub struct LogReader {
    files: Arc<dyn Files>,
    head: watch::Receiver<Head>,
    segment: Option<SegmentReader>,
    /// The position of the last event that was read or skipped.
    position: Position,
    /// The tick of the last frame that was read or skipped.
    tick: Tick,
}

impl LogReader {
    pub(super) fn open(
        files: Arc<dyn Files>,
        head: watch::Receiver<Head>,
        after: Position,
    ) -> Result<Self, LogError> {
        let names = segment::list(files.as_ref())?;
        let start = names
            .into_iter()
            .rev()
            .find(|name| segment::first_position(name).is_some_and(|first| first <= after + 1));
        Ok(LogReader {
            files,
            head,
            segment: start.map(SegmentReader::new),
            position: after,
            tick: 0,
        })
    }

    /// The next frame with an event behind the position that the reader began at, or one behind that
    /// without events, which only tells its tick; `None` at the tail, where it can be called again once the head has moved.
    ///
    /// The first frame may begin before that position: a frame is the unit.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, LogError> {
        // What lies behind the head is being written, and is nobody's business yet.
        let head = *self.head.borrow();
        while self.tick < head.tick {
            let Some(reader) = &mut self.segment else {
                self.segment = self.successor()?;
                if self.segment.is_none() {
                    return Ok(None);
                }
                continue;
            };
            match reader.next(self.files.as_ref())? {
                Next::Frame(frame) => {
                    if self.is_next(&frame) {
                        return Ok(Some(frame));
                    }
                }
                Next::End => {
                    reader.reread();
                    match self.successor()? {
                        Some(next) => self.segment = Some(next),
                        None => return Ok(None),
                    }
                }
                Next::Broken(what) => {
                    // What was read ahead while it was being written is read again, once.
                    let offset = reader.offset();
                    reader.reread();
                    let segment = reader.name().to_string();
                    return match reader.next(self.files.as_ref())? {
                        Next::Frame(frame) if self.is_next(&frame) => Ok(Some(frame)),
                        Next::Frame(_) => continue,
                        _ => Err(LogError::Damaged { segment, offset, what }),
                    };
                }
            }
        }
        // A reader that waits at the tail holds no buffer.
        if let Some(reader) = &mut self.segment {
            reader.reread();
        }
        Ok(None)
    }

    /// Whether a frame is to be handed out; it counts as read or skipped from now on.
    fn is_next(&mut self, frame: &Frame) -> bool {
        let last = frame.last_position();
        let next = last > self.position || (frame.count() == 0 && last == self.position);
        self.position = self.position.max(last);
        self.tick = frame.tick();
        next
    }

    /// The segment behind the current one, if there is one yet.
    fn successor(&self) -> Result<Option<SegmentReader>, LogError> {
        let current = self.segment.as_ref().map(|reader| reader.name());
        let names = segment::list(self.files.as_ref())?;
        Ok(names
            .into_iter()
            .find(|n| current.is_none_or(|c| n.as_str() > c))
            .map(SegmentReader::new))
    }
}
