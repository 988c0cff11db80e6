//! Turns what workers and feeder tell of a view into a stream of complete ticks.
//!
//! Each worker sends its changes and failures, then a frontier: it sends nothing more below that. The
//! watermark is the least of the frontiers. The feeder marks the ticks at which the log's position is known; when
//! the watermark is past a mark, everything up to it is complete and leaves the buffer:
//!
//! ```text
//! worker 0 ─ changes, frontier ─┐
//! worker 1 ─ changes, frontier ─┼─► ReorderBuffer ─► CompleteTicks ─► sink, change feed, reads
//! feeder ─── mark ──────────────┘
//! ```

use std::collections::{BTreeMap, VecDeque};

use super::failure::FailureChange;
use super::view::{CompleteTicks, Update, ViewMessage};
use super::{Head, Tick};

/// Holds changes until the watermark passes their tick.
#[derive(Debug)]
pub struct ReorderBuffer {
    frontiers: Vec<Tick>,
    marks: VecDeque<Head>,
    open: BTreeMap<Tick, Open>,
}

/// The changes so far of a tick that is not complete.
#[derive(Debug, Default)]
struct Open {
    updates: Vec<Update>,
    failures: Vec<FailureChange>,
}

/// A worker's changes below its frontier: they belong to ticks that may have left the buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "worker {worker} changes tick {tick}, although it was done with all ticks before {frontier}"
)]
pub struct LateChange {
    worker: usize,
    tick: Tick,
    frontier: Tick,
}

impl ReorderBuffer {
    /// For a view on so many workers, at least one.
    pub fn new(workers: usize) -> Self {
        let frontiers = vec![0; workers.max(1)];
        ReorderBuffer { frontiers, marks: VecDeque::new(), open: BTreeMap::new() }
    }

    /// Whether a message tells of changes below the frontier of its worker, which must not be.
    pub fn late(&self, message: &ViewMessage) -> Option<LateChange> {
        let ViewMessage::Changes { worker, tick, .. } = message else { return None };
        let frontier = self.frontiers.get(*worker).copied().unwrap_or(0);
        (*tick < frontier).then_some(LateChange { worker: *worker, tick: *tick, frontier })
    }

    /// Takes a message in. Messages that are not about ticks change nothing.
    pub fn take(&mut self, message: ViewMessage) {
        match message {
            ViewMessage::Changes { tick, mut updates, .. } => {
                self.open.entry(tick).or_default().updates.append(&mut updates);
            }
            ViewMessage::Failures { failures, .. } => {
                for (tick, failure) in failures {
                    self.open.entry(tick).or_default().failures.push(failure);
                }
            }
            ViewMessage::Frontier { worker, frontier } => {
                if let Some(known) = self.frontiers.get_mut(worker) {
                    *known = frontier.max(*known);
                }
            }
            ViewMessage::Mark { tick, position } => {
                self.marks.push_back(Head { position, tick });
            }
            ViewMessage::Live { .. } | ViewMessage::Failed { .. } => {}
        }
    }

    /// The changes and failures that have become complete: all up to the next mark that the watermark has
    /// passed. Failures are in the order of their ticks. `None` while there is no such mark.
    pub fn complete(&mut self) -> Option<(CompleteTicks, Vec<FailureChange>)> {
        let watermark = self.frontiers.iter().copied().min().unwrap_or(0);
        let head = self.marks.pop_front_if(|mark| mark.tick < watermark)?;
        let later = match head.tick.checked_add(1) {
            Some(next) => self.open.split_off(&next),
            None => BTreeMap::new(),
        };
        let (mut ticks, mut failures) = (Vec::new(), Vec::new());
        for (tick, mut open) in std::mem::replace(&mut self.open, later) {
            failures.append(&mut open.failures);
            if !open.updates.is_empty() {
                ticks.push((tick, open.updates));
            }
        }
        Some((CompleteTicks { head, ticks }, failures))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::row::Row;

    fn changes(worker: usize, tick: Tick) -> ViewMessage {
        let row = Row::from_slice(&tick.to_be_bytes());
        let updates = vec![Update { key: row.clone(), value: row, diff: 1 }];
        ViewMessage::Changes { worker, tick, updates }
    }

    fn complete(buffer: &mut ReorderBuffer) -> Option<(Tick, Vec<(Tick, usize)>)> {
        let (CompleteTicks { head, ticks }, _) = buffer.complete()?;
        assert_eq!(head.position, head.tick * 10);
        Some((head.tick, ticks.iter().map(|(tick, updates)| (*tick, updates.len())).collect()))
    }

    #[test]
    fn marks_are_complete_once_every_worker_is_past_them() {
        let mut buffer = ReorderBuffer::new(2);
        for tick in [5, 9] {
            buffer.take(ViewMessage::Mark { tick, position: tick * 10 });
        }
        for message in [changes(0, 5), changes(1, 4), changes(0, 7), changes(1, 5)] {
            buffer.take(message);
        }
        buffer.take(ViewMessage::Frontier { worker: 0, frontier: 10 });
        assert_eq!(complete(&mut buffer), None);
        buffer.take(ViewMessage::Frontier { worker: 1, frontier: 9 });
        assert_eq!(complete(&mut buffer), Some((5, vec![(4, 1), (5, 2)])));
        assert_eq!(complete(&mut buffer), None, "worker 1 may still send changes at 9");
        buffer.take(ViewMessage::Frontier { worker: 1, frontier: Tick::MAX });
        buffer.take(ViewMessage::Frontier { worker: 1, frontier: 3 });
        assert_eq!(complete(&mut buffer), Some((9, vec![(7, 1)])), "frontiers never go back");
    }

    #[test]
    fn changes_below_the_frontier_of_their_worker_are_late() {
        let mut buffer = ReorderBuffer::new(2);
        buffer.take(ViewMessage::Frontier { worker: 1, frontier: 9 });
        let late = LateChange { worker: 1, tick: 8, frontier: 9 };
        assert_eq!(buffer.late(&changes(1, 8)), Some(late));
        assert_eq!((buffer.late(&changes(1, 9)), buffer.late(&changes(0, 8))), (None, None));
    }

    #[test]
    fn failures_are_complete_with_their_tick() {
        let mut buffer = ReorderBuffer::new(1);
        for tick in [5, 9] {
            buffer.take(ViewMessage::Mark { tick, position: tick });
        }
        let failure = |diff| FailureChange {
            expression: "a / b".into(),
            reason: "division by zero".to_string(),
            position: None,
            event_type: None,
            diff,
        };
        let failures = vec![(7, failure(2)), (4, failure(1))];
        buffer.take(ViewMessage::Failures { worker: 0, failures });
        buffer.take(ViewMessage::Frontier { worker: 0, frontier: 10 });
        let mut next = || buffer.complete().map(|(complete, failures)| (failures, complete.ticks));
        assert_eq!(next(), Some((vec![failure(1)], vec![])));
        assert_eq!(next(), Some((vec![failure(2)], vec![])));
        assert_eq!(next(), None);
    }

    #[test]
    fn content_before_any_event_is_complete_like_the_rest() {
        let mut buffer = ReorderBuffer::new(1);
        buffer.take(ViewMessage::Mark { tick: 0, position: 0 });
        buffer.take(changes(0, 0));
        assert_eq!(complete(&mut buffer), None);
        buffer.take(ViewMessage::Frontier { worker: 0, frontier: 1 });
        assert_eq!(complete(&mut buffer), Some((0, vec![(0, 1)])));
    }
}
