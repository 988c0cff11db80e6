//! Reading frames in order, from any position, and following the tail.

use std::sync::Arc;

use tokio::sync::watch;

use super::LogError;
use super::files::Files;
use super::frame::Frame;
use super::index::Index;
use super::list::Segments;
use super::segment::{NextFrame, SegmentFile, SegmentReader};
use crate::model::alarm::Alarms;
use crate::model::{Head, Position, Tick};

/// Streams a log's frames. Blocking: use it on a thread that may wait for the disk.
pub struct LogReader {
    files: Arc<dyn Files>,
    segments: Arc<Segments>,
    head: watch::Receiver<Head>,
    segment: Option<SegmentReader>,
    /// The position that the next frame in the log begins with.
    next: Position,
    /// The position of the last event that was read or skipped.
    position: Position,
    /// The tick of the last frame that was read or skipped.
    tick: Tick,
    /// The segment and the offset of the last frame that was handed out.
    place: Option<(SegmentFile, u64)>,
    /// Frames up to this tick were read before their segment was rewritten.
    again_until: Tick,
    /// Finds the first frame behind damage that lies before it; `None` once it has been used.
    index: Option<Arc<Index>>,
    alarms: Option<Alarms>,
}

impl LogReader {
    /// A reader from behind a position. Fails if the segment that it begins in cannot be opened.
    pub(super) fn open(
        files: Arc<dyn Files>,
        segments: Arc<Segments>,
        head: watch::Receiver<Head>,
        after: Position,
    ) -> Result<Self, LogError> {
        // Behind the last possible position there is nothing to come.
        let after = after.min(Position::MAX - 1);
        segments.ask(|list| list.expect_untrimmed(after))?;
        let (next, segment) = segments.ask(|list| {
            let begun = list.segments.partition_point(|listed| listed.first <= after + 1);
            let last = begun.checked_sub(1).map(|at| list.segments[at]);
            match last.filter(|listed| !listed.sealed || listed.last > after) {
                Some(listed) => (listed.first, Some(list.reader(listed.first))),
                None => (after + 1, None),
            }
        });
        let mut reader = LogReader {
            files,
            segments,
            head,
            segment,
            next,
            position: after,
            tick: 0,
            place: None,
            again_until: 0,
            index: None,
            alarms: None,
        };
        if reader.head.borrow().position > after && reader.segment.is_none() {
            reader.advance()?;
        }
        while let Some(segment) = &mut reader.segment {
            match segment.open(reader.files.as_ref()) {
                Ok(None) => break,
                Ok(Some(error)) => return Err(LogError::damaged(segment.name(), 0, error)),
                Err(error) if !reader.reopen() => return Err(error),
                Err(_) => {}
            }
        }
        Ok(reader)
    }

    /// Lets the reader pass damage that lies before the position that it begins at, and tell of it.
    /// Without an index damage is not passed.
    pub(super) fn with(self, index: Option<Arc<Index>>, alarms: Alarms) -> Self {
        LogReader { index, alarms: Some(alarms), ..self }
    }

    /// The segment and the offset of the last frame that was handed out; `None` before the first.
    pub(super) fn place(&self) -> Option<(SegmentFile, u64)> {
        self.place
    }

    /// The next frame with an event behind the position that the reader began at, or one behind that
    /// without events, which only tells its tick; `None` at the tail, where it can be called again once the head has moved.
    ///
    /// The first frame may begin before that position: a frame is the unit. An error stays: the
    /// next call ends with it, too; but for a segment that is missing, once the list says that it
    /// was rewritten.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, LogError> {
        let read = self.read_next();
        let Err(error) = &read else { return read };
        if self.reopen() {
            return self.next_frame();
        }
        if let Some(alarms) = &self.alarms {
            error.raise(alarms);
        }
        if error.is_damage() && self.pass_damage() { self.next_frame() } else { read }
    }

    fn read_next(&mut self) -> Result<Option<Frame>, LogError> {
        // Frames behind the head may still be being written, so reading ends at the head.
        let head = *self.head.borrow();
        while self.tick < head.tick {
            let Some(reader) = &mut self.segment else {
                if !self.advance()? {
                    return Ok(None);
                }
                continue;
            };
            match step(reader, self.files.as_ref(), &self.segments)? {
                NextFrame::Frame(frame) => {
                    self.next = reader.next_position();
                    let place = (reader.file(), reader.offset() - frame.disk_bytes());
                    if self.is_next(&frame) {
                        self.place = Some(place);
                        return Ok(Some(frame));
                    }
                }
                NextFrame::End => {
                    self.next = reader.next_position();
                    let first = reader.first();
                    let sealed = |listed: &super::list::Listed| listed.sealed;
                    if self.segments.ask(|list| list.segment(first).is_some_and(sealed)) {
                        self.segment = None;
                    } else if !self.segments.refresh()? {
                        return self.expect_tail(head);
                    }
                }
                NextFrame::Broken { offset, what } => {
                    let segment = reader.name().to_string();
                    return Err(LogError::Damaged { segment, offset, what });
                }
            }
        }
        // A reader that waits at the tail holds no buffer.
        if let Some(reader) = &mut self.segment {
            reader.reread();
        }
        Ok(None)
    }

    /// Goes to the segment that holds the next position; false where the log ends.
    fn advance(&mut self) -> Result<bool, LogError> {
        loop {
            let next = self.next;
            let (gap, segment) = self.segments.ask(|list| {
                (list.behind_gap(next), list.segment(next).map(|listed| list.reader(listed.first)))
            });
            match (gap, segment) {
                (Some(behind), _) => self.next = behind,
                (None, Some(segment)) => {
                    self.segment = Some(segment);
                    return Ok(true);
                }
                (None, None) if self.segments.refresh()? => {}
                (None, None) if next > self.head.borrow().position => return Ok(false),
                (None, None) => {
                    let segment = self.segments.ask(|list| list.file(next)).name();
                    return Err(LogError::Missing { segment });
                }
            }
        }
    }

    /// At the end of the segment that is written to: all positions up to the head have been read.
    fn expect_tail(&self, head: Head) -> Result<Option<Frame>, LogError> {
        match &self.segment {
            Some(reader) if self.next <= head.position => {
                let (segment, offset) = (reader.name().to_string(), reader.offset());
                let what = format!("it ends before position {}", head.position);
                Err(LogError::Damaged { segment, offset, what })
            }
            _ => Ok(None),
        }
    }

    /// Reads the segment in its other file, if it was rewritten and the one that was read is gone;
    /// false if that is not so.
    fn reopen(&mut self) -> bool {
        let Some(reader) = &self.segment else { return false };
        let file = reader.file();
        // A list that cannot be read knows of no other file.
        let _ = self.segments.refresh();
        let rewritten = self.segments.ask(|list| {
            let listed = list.segment(file.first)?;
            (listed.format != file.format).then(|| list.reader(file.first))
        });
        let Some(rewritten) = rewritten else { return false };
        self.again_until = self.tick;
        self.next = file.first;
        self.segment = Some(rewritten);
        true
    }

    /// Goes past damage in the first segment, if the first frame that is asked for lies behind it;
    /// false if there is no way round.
    fn pass_damage(&mut self) -> bool {
        let wanted = self.position + 1;
        let (Some(index), Some(reader)) = (self.index.take(), &mut self.segment) else {
            return false;
        };
        if self.place.is_some() || wanted > self.head.borrow().position {
            return false;
        }
        match index.frame_of(wanted) {
            Ok(Some(at))
                if (SegmentFile { first: at.segment, format: at.format }) == reader.file()
                    && at.offset > reader.offset() =>
            {
                reader.jump(at.offset, at.first_position);
                true
            }
            _ => false,
        }
    }

    /// Whether a frame is to be handed out; it counts as read or skipped from now on.
    fn is_next(&mut self, frame: &Frame) -> bool {
        if frame.tick() <= self.again_until {
            return false;
        }
        let last = frame.last_position();
        let next = last > self.position || (frame.count() == 0 && last == self.position);
        self.position = self.position.max(last);
        self.tick = frame.tick();
        next
    }
}

/// Reads the next frame. Where there is none, or a broken one, the bytes read ahead are dropped and read once
/// more: the frame may have been in the middle of being written.
fn step(
    reader: &mut SegmentReader,
    files: &dyn Files,
    segments: &Segments,
) -> Result<NextFrame, LogError> {
    if let frame @ NextFrame::Frame(_) = reader.next(files)? {
        return Ok(frame);
    }
    // Known before reading again: what was written before the seal is there then.
    let listed = segments.ask(|list| list.segment(reader.first()).copied());
    reader.reread();
    let next = reader.next(files)?;
    Ok(match (next, listed) {
        (NextFrame::End, Some(listed))
            if listed.sealed && reader.next_position() <= listed.last =>
        {
            let what = format!(
                "it ends behind position {}, expected position {}",
                reader.next_position() - 1,
                listed.last
            );
            NextFrame::Broken { offset: reader.offset(), what }
        }
        (next, _) => next,
    })
}
