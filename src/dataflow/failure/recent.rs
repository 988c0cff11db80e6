//! The types of the events that a worker has decoded last.
//!
//! A row fails a moment after its event was decoded, on the same worker. So the type of a failing
//! event is found here, and nobody has to read the event for it.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::sync::Arc;

use super::super::feed_group::FeedGroupId;
use crate::model::Position;

/// How many chunks are kept. A type that is not found any more counts as unknown.
const CHUNKS_MAX: usize = 64;
/// How many runs are kept, but for the last chunks of each feed group.
const RUNS_MAX: usize = 1 << 18;
/// How many chunks of a feed group are on their way: two, and a third one that a view which lags has yet
/// to take in when it leaves the group.
const GROUP_CHUNKS_MIN: usize = 3;

thread_local! {
    static RECENT: RefCell<RecentPosition> = RefCell::default();
}

/// Successive events of one type.
#[derive(Debug)]
struct Run {
    first: Position,
    last: Position,
    event_type: Arc<str>,
}

#[derive(Debug, Default)]
struct RecentPosition {
    /// Each chunk's feed group and runs, in order.
    chunks: VecDeque<(FeedGroupId, Vec<Run>)>,
    runs: usize,
}

/// The types of the events of a chunk.
#[derive(Debug, Default)]
pub struct ChunkTypes(Vec<Run>);

impl ChunkTypes {
    /// Adds the event behind those added before.
    pub fn push(&mut self, position: Position, event_type: &Arc<str>) {
        match self.0.last_mut() {
            Some(run) if run.last + 1 == position && run.event_type == *event_type => {
                run.last = position;
            }
            _ => {
                let event_type = Arc::clone(event_type);
                self.0.push(Run { first: position, last: position, event_type });
            }
        }
    }

    /// Keeps them, which are of a chunk of this feed group, for the rows that fail on this thread.
    pub fn keep(self, feed_group: FeedGroupId) {
        if self.0.is_empty() {
            return;
        }
        RECENT.with_borrow_mut(|recent| {
            recent.runs += self.0.len();
            recent.chunks.push_back((feed_group, self.0));
            while recent.runs > RUNS_MAX || recent.chunks.len() > CHUNKS_MAX {
                let Some(chunk) = recent.first_left().and_then(|at| recent.chunks.remove(at))
                else {
                    break;
                };
                recent.runs -= chunk.1.len();
            }
        });
    }
}

impl RecentPosition {
    /// The oldest chunk that no row on its way comes from; any, where there are too many.
    fn first_left(&self) -> Option<usize> {
        if self.chunks.len() > CHUNKS_MAX {
            return Some(0);
        }
        let behind = |at: usize| {
            let of_group = |(group, _): &&(FeedGroupId, _)| *group == self.chunks[at].0;
            self.chunks.iter().skip(at + 1).filter(of_group).count()
        };
        (0..self.chunks.len()).find(|at| behind(*at) >= GROUP_CHUNKS_MIN)
    }
}

/// The type of an event that this thread has decoded lately.
pub fn type_of(position: Position) -> Option<Arc<str>> {
    RECENT.with_borrow(|recent| {
        recent.chunks.iter().rev().find_map(|(_, runs)| {
            let run =
                runs.get(runs.partition_point(|run| run.first <= position).checked_sub(1)?)?;
            (position <= run.last).then(|| Arc::clone(&run.event_type))
        })
    })
}
