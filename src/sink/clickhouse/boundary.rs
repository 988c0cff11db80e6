//! At which ticks a view's changes may be flushed.

use std::collections::VecDeque;

use crate::model::view::CompleteTicks;
use crate::model::{Head, Tick};

/// Lets complete ticks through, up to where the next flush may end.
///
/// A flush ends where complete ticks do, so that it has all changes up to that tick and nothing later.
/// After a crash the flushes whose progress is missing are repeated, each up to exactly the same tick:
/// wider, a key created before that tick and deleted after it would net out to nothing while its row is
/// already in the table. Until then, what is complete beyond waits.
pub(super) struct Boundaries {
    waiting: VecDeque<CompleteTicks>,
    /// The end of the ticks that were let through; `None` before anything: the tick 0 has content, too.
    closed: Option<Head>,
    /// Ends of flushes that are to be repeated, in order.
    unfinished: VecDeque<Tick>,
    /// Up to here everything was in ClickHouse at the start.
    written: Option<Tick>,
    /// The end of the last complete ticks that were let through.
    passed: Option<Tick>,
}

/// Complete ticks that do not end where they must: some changes of theirs are in the table, and others
/// are not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "ticks after {after:?} are complete up to {end}, and not up to {boundary}, where an earlier flush ended"
)]
pub struct MissedBoundary {
    /// The end of an earlier flush, where these ticks must end, too.
    boundary: Tick,
    /// The end of the complete ticks before.
    after: Option<Tick>,
    /// The end of these ticks.
    end: Tick,
}

impl Boundaries {
    /// When everything up to `written` is in ClickHouse, and flushes without progress have ended at
    /// `unfinished`.
    pub(super) fn new(written: Option<Head>, unfinished: &[Tick]) -> Self {
        let is_new = |tick: &Tick| written.is_none_or(|written| *tick > written.tick);
        Boundaries {
            waiting: VecDeque::new(),
            closed: written,
            unfinished: unfinished.iter().copied().filter(is_new).collect(),
            written: written.map(|written| written.tick),
            passed: None,
        }
    }

    /// The view goes on at `at`: what the table shows is as of there, or later. A flush that ended before
    /// has changed nothing.
    pub(super) fn resume(&mut self, at: Head) {
        self.written = self.written.max(Some(at.tick));
        let kept = self.unfinished.partition_point(|end| *end <= at.tick);
        self.unfinished.drain(..kept);
    }

    /// What comes next is behind what is written, and does not repeat it.
    pub(super) fn begin_behind_written(&mut self) {
        self.passed = self.written;
    }

    /// Takes in complete ticks. Each call follows the one before.
    pub(super) fn push(&mut self, complete: CompleteTicks) {
        self.waiting.push_back(complete);
    }

    /// The end of the ticks that were let through, and so of the next flush.
    pub(super) fn closed(&self) -> Head {
        self.closed.unwrap_or_default()
    }

    /// True when the next flush must end at `closed()`, and does so now.
    pub(super) fn is_held(&self) -> bool {
        let closed = self.closed.map(|closed| closed.tick);
        closed.is_some() && self.unfinished.front().copied() == closed
    }

    /// True while no flush may end at `closed()`: it must end later.
    pub(super) fn must_wait(&self) -> bool {
        !self.unfinished.is_empty() && !self.is_held()
    }

    /// The flush that had to end at `closed()` has been taken.
    pub(super) fn release(&mut self) {
        if self.is_held() {
            self.unfinished.pop_front();
        }
    }

    /// The log ended at `tick` when the view started: flushes that ended later were of another log.
    /// Returns their ends.
    pub(super) fn forget_after(&mut self, tick: Tick) -> Vec<Tick> {
        let kept = self.unfinished.partition_point(|end| *end <= tick);
        self.unfinished.drain(kept..).collect()
    }

    /// The next changes that may be flushed.
    pub(super) fn next(&mut self) -> Result<Option<CompleteTicks>, MissedBoundary> {
        if self.is_held() {
            return Ok(None);
        }
        let Some(next) = self.waiting.pop_front() else { return Ok(None) };
        let (after, end) = (self.passed, next.head.tick);
        let is_missed = |tick: &Tick| *tick < end && after.is_none_or(|after| after < *tick);
        let mut boundaries = self.written.iter().chain(self.unfinished.front());
        if let Some(boundary) = boundaries.find(|tick| is_missed(tick)) {
            return Err(MissedBoundary { boundary: *boundary, after, end });
        }
        self.passed = Some(end);
        // After a restart the feeder begins with ticks that were already written, so `closed` never goes
        // back.
        self.closed = self.closed.max(Some(next.head));
        Ok(Some(next))
    }

    /// True when everything at or below `tick` has been let through.
    pub(super) fn has_passed(&self, tick: Tick) -> bool {
        self.unfinished.is_empty() && self.closed.is_some_and(|closed| closed.tick >= tick)
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
        while let Some(complete) = boundaries.next().unwrap() {
            passed.extend(complete.ticks.iter().map(|(tick, _)| *tick));
        }
        passed
    }

    #[test]
    fn complete_ticks_pass_at_once_without_an_unfinished_flush() {
        let mut boundaries = Boundaries::new(None, &[]);
        push(&mut boundaries, &[5, 9]);
        assert_eq!(passed(&mut boundaries), [4, 5, 8, 9]);
        assert_eq!(boundaries.closed(), head(9));
        assert!(boundaries.has_passed(9) && !boundaries.has_passed(10));
    }

    #[test]
    fn first_flushes_after_crash_end_where_the_unfinished_ones_did() {
        let mut boundaries = Boundaries::new(Some(head(3)), &[2, 7, 9]);
        push(&mut boundaries, &[2, 3, 5]);
        assert_eq!(passed(&mut boundaries), [1, 2, 2, 3, 4, 5]);
        assert!(boundaries.must_wait() && !boundaries.is_held(), "no flush ends at 5");
        push(&mut boundaries, &[7, 9, 12]);
        assert_eq!(passed(&mut boundaries), [6, 7]);
        assert_eq!(boundaries.closed(), head(7));
        assert!(boundaries.is_held() && !boundaries.must_wait() && !boundaries.has_passed(7));
        boundaries.release();
        assert_eq!(passed(&mut boundaries), [8, 9]);
        assert!(boundaries.is_held() && !boundaries.has_passed(9));
        boundaries.release();
        assert_eq!(passed(&mut boundaries), [11, 12]);
        assert!(boundaries.closed() == head(12) && !boundaries.must_wait());
    }

    #[test]
    fn complete_ticks_that_pass_over_a_boundary_are_an_error() {
        let missed = |written: Option<Head>, unfinished: &[Tick], ends: &[Tick]| {
            let mut boundaries = Boundaries::new(written, unfinished);
            push(&mut boundaries, ends);
            loop {
                match boundaries.next() {
                    Ok(Some(_)) => {}
                    Ok(None) => break None,
                    Err(error) => break Some(error.boundary),
                }
            }
        };
        assert_eq!(missed(Some(head(3)), &[], &[2, 4]), Some(3));
        assert_eq!(missed(Some(head(3)), &[], &[4]), Some(3));
        assert_eq!(missed(Some(head(3)), &[8], &[3, 5, 9]), Some(8));
        assert_eq!(missed(None, &[8], &[9]), Some(8));
        assert_eq!(missed(Some(head(3)), &[8], &[3, 5, 8, 9]), None);
    }

    #[test]
    fn view_that_goes_on_behind_the_progress_of_its_table_passes_there() {
        let mut boundaries = Boundaries::new(Some(head(3)), &[4, 8]);
        boundaries.resume(head(5));
        push(&mut boundaries, &[5, 8]);
        assert_eq!(passed(&mut boundaries), [4, 5, 7, 8]);
        assert!(boundaries.is_held(), "the flush that ended at 8 is repeated");
        let mut earlier = Boundaries::new(Some(head(7)), &[9]);
        earlier.resume(head(5));
        push(&mut earlier, &[5, 7, 9]);
        assert_eq!(passed(&mut earlier), [4, 5, 6, 7, 8, 9]);
    }

    #[test]
    fn view_that_goes_on_with_what_is_unwritten_ends_where_the_unfinished_flush_did() {
        let mut boundaries = Boundaries::new(Some(head(3)), &[5, 12]);
        boundaries.begin_behind_written();
        push(&mut boundaries, &[5, 9, 9, 12]);
        assert_eq!(passed(&mut boundaries), [4, 5]);
        assert!(boundaries.is_held());
        boundaries.release();
        assert_eq!(passed(&mut boundaries), [8, 9, 8, 9, 11, 12]);
        assert!(boundaries.is_held());
    }

    #[test]
    fn flushes_of_a_log_that_went_on_are_forgotten() {
        let mut boundaries = Boundaries::new(Some(head(3)), &[7, 9]);
        assert_eq!(boundaries.forget_after(7), [9]);
        push(&mut boundaries, &[3, 7, 12]);
        assert_eq!(passed(&mut boundaries), [2, 3, 6, 7]);
        boundaries.release();
        assert_eq!(passed(&mut boundaries), [11, 12]);
    }

    #[test]
    fn content_before_any_event_passes_like_the_rest() {
        let nothing = || CompleteTicks { head: Head::default(), ticks: Vec::new() };
        let mut boundaries = Boundaries::new(None, &[]);
        assert!(!boundaries.has_passed(0));
        boundaries.push(nothing());
        assert!(boundaries.next().unwrap().is_some() && boundaries.has_passed(0));
        let mut recovered = Boundaries::new(Some(head(4)), &[]);
        recovered.push(nothing());
        assert!(recovered.next().unwrap().is_some());
        assert_eq!(recovered.closed(), head(4));
    }
}
