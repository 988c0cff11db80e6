//! At which ticks a view's changes may be flushed.

use std::collections::VecDeque;

use crate::model::{Head, Tick};

/// Follows the workers' frontiers and the feeder's marks.
///
/// A flush ends at a mark that every worker's frontier has passed, so that it has all changes up to
/// that tick and nothing later. After a crash between a flush's data and its progress, the first
/// flush must end exactly where that one did: wider, a key created before and deleted after would
/// net out to nothing while its row is already in the table. Until then, marks beyond wait.
pub(super) struct Boundaries {
    frontiers: Vec<Tick>,
    marks: VecDeque<Head>,
    /// `None` before anything: the tick 0 has content, too.
    closed: Option<Head>,
    hold: Option<Tick>,
}

impl Boundaries {
    /// For this many workers, when everything up to `written` is in ClickHouse, and a flush without
    /// progress has ended at `hold`.
    pub(super) fn new(workers: usize, written: Option<Head>, hold: Option<Tick>) -> Self {
        let hold = hold.filter(|tick| written.is_none_or(|written| *tick > written.tick));
        Boundaries {
            frontiers: vec![0; workers.max(1)],
            marks: VecDeque::new(),
            closed: written,
            hold,
        }
    }

    /// A worker will send nothing more below `frontier`.
    pub(super) fn frontier(&mut self, worker: usize, frontier: Tick) {
        if let Some(known) = self.frontiers.get_mut(worker) {
            *known = frontier.max(*known);
        }
    }

    /// The feeder has passed a point where a flush may end.
    pub(super) fn mark(&mut self, head: Head) {
        if self.is_after_closed(head.tick) {
            self.marks.push_back(head);
        }
    }

    /// The last point up to which all changes may be flushed together.
    pub(super) fn closed(&self) -> Head {
        self.closed.unwrap_or_default()
    }

    fn is_after_closed(&self, tick: Tick) -> bool {
        self.closed.is_none_or(|closed| tick > closed.tick)
    }

    /// True when the next flush must end at `closed()`, and does so now.
    pub(super) fn is_held(&self) -> bool {
        self.hold.is_some() && self.hold == self.closed.map(|closed| closed.tick)
    }

    /// The flush that had to end at `closed()` has been taken.
    pub(super) fn release(&mut self) {
        if self.is_held() {
            self.hold = None;
        }
    }

    /// Moves `closed()` as far as it may go; true when it moved.
    pub(super) fn advance(&mut self) -> bool {
        let passed = self.frontiers.iter().copied().min().unwrap_or(0);
        let limit = self.hold.unwrap_or(Tick::MAX);
        let before = self.closed;
        while let Some(mark) = self.marks.front()
            && mark.tick < passed
            && mark.tick <= limit
        {
            self.closed = Some(*mark);
            self.marks.pop_front();
        }
        // Were the feeder not to mark the very tick, the frontiers still say that it is complete.
        if let Some(hold) = self.hold
            && hold < passed
            && self.is_after_closed(hold)
        {
            self.closed = Some(Head { tick: hold, ..self.closed() });
        }
        self.closed != before
    }

    /// True when everything at or below `tick` that can be flushed has been closed.
    pub(super) fn has_passed(&self, tick: Tick) -> bool {
        let passed = self.frontiers.iter().copied().min().unwrap_or(0);
        let waits = self.marks.front().is_some_and(|mark| mark.tick <= tick);
        self.hold.is_none() && (!self.is_after_closed(tick) || (passed > tick && !waits))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(tick: Tick) -> Head {
        Head { position: tick * 10, tick }
    }

    #[test]
    fn a_mark_closes_when_every_frontier_is_past_it() {
        let mut boundaries = Boundaries::new(2, None, None);
        boundaries.mark(head(5));
        boundaries.mark(head(9));
        boundaries.frontier(0, 10);
        assert!(!boundaries.advance());
        boundaries.frontier(1, 9);
        assert!(boundaries.advance());
        assert_eq!(boundaries.closed(), head(5));
        boundaries.frontier(1, 10);
        assert!(boundaries.advance());
        assert_eq!(boundaries.closed(), head(9));
    }

    #[test]
    fn nothing_closes_beyond_an_unfinished_flush_before_it_is_repeated() {
        let mut boundaries = Boundaries::new(1, Some(head(3)), Some(7));
        for tick in [2, 3, 5, 7, 9] {
            boundaries.mark(head(tick));
        }
        boundaries.frontier(0, 100);
        assert!(boundaries.advance());
        assert_eq!(boundaries.closed(), head(7));
        assert!(boundaries.is_held() && !boundaries.has_passed(7));
        assert!(!boundaries.advance());
        boundaries.release();
        assert!(boundaries.advance());
        assert_eq!(boundaries.closed(), head(9));
    }

    #[test]
    fn an_unfinished_flush_ends_at_its_tick_even_without_a_mark() {
        let mut boundaries = Boundaries::new(1, Some(head(3)), Some(7));
        boundaries.mark(head(5));
        boundaries.mark(head(9));
        boundaries.frontier(0, 10);
        assert!(boundaries.advance());
        assert_eq!(boundaries.closed(), Head { position: 50, tick: 7 });
    }

    #[test]
    fn what_is_there_before_any_event_closes_like_the_rest() {
        let mut boundaries = Boundaries::new(1, None, None);
        boundaries.mark(Head::default());
        assert!(!boundaries.advance() && !boundaries.has_passed(0));
        boundaries.frontier(0, 1);
        assert!(boundaries.advance() && boundaries.has_passed(0));
        assert_eq!(boundaries.closed(), Head::default());
        let mut recovered = Boundaries::new(1, Some(Head::default()), None);
        recovered.mark(Head::default());
        recovered.frontier(0, 1);
        assert!(!recovered.advance() && recovered.has_passed(0));
    }
}
