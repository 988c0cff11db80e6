//! At which ticks a view's changes may be flushed.

use std::collections::VecDeque;

use crate::model::view::CompleteTicks;
use crate::model::{Head, Tick};

/// Lets complete ticks through, up to where the next flush may end.
///
/// A flush ends where complete ticks do, so that it has all changes up to that tick and nothing later.
/// After a crash between a flush's data and its progress, the first flush must end exactly where that
/// one did: wider, a key created before and deleted after would net out to nothing while its row is
/// already in the table. Until then, what is complete beyond waits.
pub(super) struct Boundaries {
    waiting: VecDeque<CompleteTicks>,
    /// The end of what was let through; `None` before anything: the tick 0 has content, too.
    closed: Option<Head>,
    hold: Option<Tick>,
}

impl Boundaries {
    /// When everything up to `written` is in ClickHouse, and a flush without progress has ended at
    /// `hold`.
    pub(super) fn new(written: Option<Head>, hold: Option<Tick>) -> Self {
        let hold = hold.filter(|tick| written.is_none_or(|written| *tick > written.tick));
        Boundaries { waiting: VecDeque::new(), closed: written, hold }
    }

    /// Takes in what is complete, each after the one before.
    pub(super) fn push(&mut self, complete: CompleteTicks) {
        self.waiting.push_back(complete);
    }

    /// The end of what was let through, and so of the next flush.
    pub(super) fn closed(&self) -> Head {
        self.closed.unwrap_or_default()
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

    /// The next changes that may be flushed.
    pub(super) fn next(&mut self) -> Option<CompleteTicks> {
        if self.is_held() {
            return None;
        }
        let mut next = self.waiting.pop_front()?;
        if let Some(hold) = self.hold.filter(|hold| next.head.tick > *hold) {
            // Were no tick to end there, it is complete all the same: split at it.
            let (before, after) = next.ticks.into_iter().partition(|(tick, _)| *tick <= hold);
            self.waiting.push_front(CompleteTicks { head: next.head, ticks: after });
            let head = Head { tick: hold, ..self.closed() };
            next = CompleteTicks { head, ticks: before };
        }
        // What the feeder reads again after a restart was written before.
        self.closed = self.closed.max(Some(next.head));
        Some(next)
    }

    /// True when everything at or below `tick` has been let through.
    pub(super) fn has_passed(&self, tick: Tick) -> bool {
        self.hold.is_none() && self.closed.is_some_and(|closed| closed.tick >= tick)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(tick: Tick) -> Head {
        Head { position: tick * 10, tick }
    }

    fn push(boundaries: &mut Boundaries, ends: &[Tick]) {
        for end in ends {
            let ticks = vec![(end - 1, Vec::new()), (*end, Vec::new())];
            boundaries.push(CompleteTicks { head: head(*end), ticks });
        }
    }

    /// The ticks that are let through now.
    fn passed(boundaries: &mut Boundaries) -> Vec<Tick> {
        let mut passed = Vec::new();
        while let Some(complete) = boundaries.next() {
            passed.extend(complete.ticks.iter().map(|(tick, _)| *tick));
        }
        passed
    }

    #[test]
    fn complete_ticks_pass_at_once_without_an_unfinished_flush() {
        let mut boundaries = Boundaries::new(None, None);
        push(&mut boundaries, &[5, 9]);
        assert_eq!(passed(&mut boundaries), [4, 5, 8, 9]);
        assert_eq!(boundaries.closed(), head(9));
        assert!(boundaries.has_passed(9) && !boundaries.has_passed(10));
    }

    #[test]
    fn first_flush_after_crash_ends_at_the_unfinished_flush() {
        let mut boundaries = Boundaries::new(Some(head(3)), Some(7));
        push(&mut boundaries, &[2, 3, 5, 7, 9]);
        assert_eq!(passed(&mut boundaries), [1, 2, 2, 3, 4, 5, 6, 7]);
        assert_eq!(boundaries.closed(), head(7));
        assert!(boundaries.is_held() && !boundaries.has_passed(7));
        boundaries.release();
        assert_eq!(passed(&mut boundaries), [8, 9]);
        assert_eq!(boundaries.closed(), head(9));
    }

    #[test]
    fn unfinished_flush_ends_at_its_tick_even_where_no_complete_ticks_end() {
        let mut boundaries = Boundaries::new(Some(head(3)), Some(8));
        push(&mut boundaries, &[5, 9]);
        assert_eq!(passed(&mut boundaries), [4, 5, 8]);
        assert_eq!(boundaries.closed(), Head { position: 50, tick: 8 });
        boundaries.release();
        assert_eq!(passed(&mut boundaries), [9]);
    }

    #[test]
    fn content_before_any_event_passes_like_the_rest() {
        let nothing = || CompleteTicks { head: Head::default(), ticks: Vec::new() };
        let mut boundaries = Boundaries::new(None, None);
        assert!(!boundaries.has_passed(0));
        boundaries.push(nothing());
        assert!(boundaries.next().is_some() && boundaries.has_passed(0));
        let mut recovered = Boundaries::new(Some(head(4)), None);
        recovered.push(nothing());
        assert!(recovered.next().is_some());
        assert_eq!(recovered.closed(), head(4));
    }
}
