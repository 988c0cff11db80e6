//! The types of the events that a worker has decoded last.
//!
//! A row fails a moment after its event was decoded, on the same worker. So the type of a failing
//! event is found here, and nobody has to read the event for it.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::sync::Arc;

use crate::model::Position;

/// How many chunks are kept: two of each feed group are on their way. A type that is not found any
/// more counts as unknown.
const CHUNKS_MAX: usize = 64;
/// How many runs are kept, but for the last two chunks.
const RUNS_MAX: usize = 1 << 18;

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
    /// Each chunk's runs, in order.
    chunks: VecDeque<Vec<Run>>,
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

    /// Keeps them for the rows that fail on this thread.
    pub fn keep(self) {
        if self.0.is_empty() {
            return;
        }
        RECENT.with_borrow_mut(|recent| {
            recent.runs += self.0.len();
            recent.chunks.push_back(self.0);
            while recent.chunks.len() > 2
                && (recent.runs > RUNS_MAX || recent.chunks.len() > CHUNKS_MAX)
            {
                recent.runs -= recent.chunks.pop_front().map_or(0, |chunk| chunk.len());
            }
        });
    }
}

/// The type of an event that this thread has decoded lately.
pub fn type_of(position: Position) -> Option<Arc<str>> {
    RECENT.with_borrow(|recent| {
        recent.chunks.iter().rev().find_map(|runs| {
            let run =
                runs.get(runs.partition_point(|run| run.first <= position).checked_sub(1)?)?;
            (position <= run.last).then(|| Arc::clone(&run.event_type))
        })
    })
}
