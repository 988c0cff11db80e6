//! The types of the events that a worker has decoded last.
//!
//! A row fails a moment after its event was decoded, on the same worker. So the type of a failing
//! event is found here, and nobody has to read the event for it.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::sync::Arc;

use crate::model::{Position, Tick};

/// The number of runs, and of chunks, that are kept beside those that some view has yet to process.
const RUNS_MAX: usize = 1 << 18;
const CHUNKS_MAX: usize = 64;
/// The number of runs, and of chunks, that are kept at all. The type of an older event is unknown.
const ALL_RUNS_MAX: usize = 1 << 21;
const ALL_CHUNKS_MAX: usize = 4096;

thread_local! {
    static RECENT: RefCell<RecentPosition> = RefCell::default();
}

/// Successive events of one type.
#[derive(Debug)]
struct TypeRun {
    first: Position,
    last: Position,
    event_type: Arc<str>,
}

#[derive(Debug, Default)]
struct RecentPosition {
    /// Each chunk's tick and runs, in the order in which they were decoded.
    chunks: VecDeque<(Tick, Vec<TypeRun>)>,
    runs: usize,
}

/// The types of the events of a chunk.
#[derive(Debug, Default)]
pub struct ChunkTypes(Vec<TypeRun>);

impl ChunkTypes {
    /// Adds the event behind those added before.
    pub fn push(&mut self, position: Position, event_type: &Arc<str>) {
        match self.0.last_mut() {
            Some(run) if run.last + 1 == position && run.event_type == *event_type => {
                run.last = position;
            }
            _ => {
                let event_type = Arc::clone(event_type);
                self.0.push(TypeRun { first: position, last: position, event_type });
            }
        }
    }

    /// Keeps the types of a chunk, whose events enter at `tick`, for the rows that fail on this thread. All
    /// views have processed the ticks before `through`.
    pub fn keep(self, tick: Tick, through: impl FnOnce() -> Tick) {
        if self.0.is_empty() {
            return;
        }
        RECENT.with_borrow_mut(|recent| {
            recent.runs += self.0.len();
            recent.chunks.push_back((tick, self.0));
            if !recent.has_many() {
                return;
            }
            let through = through();
            while let Some(at) = recent.first_left(through) {
                recent.runs -= recent.chunks.remove(at).map_or(0, |(_, runs)| runs.len());
            }
        });
    }
}

impl RecentPosition {
    /// The oldest chunk that is not to be kept, if there are too many.
    fn first_left(&self, through: Tick) -> Option<usize> {
        if self.runs > ALL_RUNS_MAX || self.chunks.len() > ALL_CHUNKS_MAX {
            return Some(0);
        }
        self.has_many().then(|| self.chunks.iter().position(|(tick, _)| *tick < through))?
    }

    /// True if there are more than are kept beside those that some view has yet to process.
    fn has_many(&self) -> bool {
        self.runs > RUNS_MAX || self.chunks.len() > CHUNKS_MAX
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
