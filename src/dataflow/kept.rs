//! What outlives an installation: the arrangements of a view as of a tick, and how another one takes
//! them up.
//!
//! All state of a view is in arrangements, or made of them again: operators that hold rows in a form of
//! their own have their inputs arranged beside (`render/kept.rs`).
//!
//! A view's arrangements are numbered in the order in which they are built, which is the same for the
//! same plan. What is kept of a worker is theirs; another number of workers takes the parts of it that
//! are its own.

use std::cell::{Cell, RefCell};
use std::sync::Arc;

use super::run::PackedRun;
use crate::model::Tick;

/// The version of what the bytes of runs and accumulators mean, and of which arrangements an operator
/// has. It is raised by hand.
pub const STATE_FORMAT: u32 = 2;

/// Of each of a worker's arrangements the runs.
pub type WorkerArrangements = Vec<Vec<PackedRun>>;

/// What is kept of a view.
#[derive(Clone)]
pub struct KeptView {
    /// Everything up to this tick is in it, and nothing later.
    pub tick: Tick,
    /// The arrangements of each worker that there was.
    pub workers: Vec<WorkerArrangements>,
}

/// What an installation takes up on one worker.
pub struct Takeover {
    /// Until everything is taken up.
    view: RefCell<Option<Arc<KeptView>>>,
    from: Option<Tick>,
    tells_rows: bool,
    next: Cell<usize>,
    worker: usize,
}

/// The runs of one arrangement.
pub enum TakenUp {
    /// All of them are this worker's.
    Own(Vec<PackedRun>),
    /// Those of each worker that there was, of which some are this one's.
    Others(Vec<Vec<PackedRun>>),
}

impl Takeover {
    /// What this worker takes up of a view that was kept, if it was; `tells_rows`: its rows are told as
    /// changes.
    pub fn new(view: Option<Arc<KeptView>>, tells_rows: bool, worker: usize) -> Self {
        let from = view.as_ref().map(|view| view.tick);
        Takeover { view: RefCell::new(view), from, tells_rows, next: Cell::new(0), worker }
    }

    /// Whether the rows that it takes up are told as changes.
    pub fn tells_rows(&self) -> bool {
        self.tells_rows
    }

    /// The tick that everything begins after, if anything was kept.
    pub fn from(&self) -> Option<Tick> {
        self.from
    }

    /// The runs of the arrangement that is built next, on so many workers.
    pub fn next(&self, workers: usize) -> Option<TakenUp> {
        let view = self.view.borrow();
        let view = view.as_ref()?;
        let index = self.next.replace(self.next.get() + 1);
        let of = |worker: &WorkerArrangements| worker.get(index).cloned().unwrap_or_default();
        if view.workers.len() == workers {
            return Some(TakenUp::Own(view.workers.get(self.worker).map(of).unwrap_or_default()));
        }
        Some(TakenUp::Others(view.workers.iter().map(of).collect()))
    }

    /// All arrangements are built: lets go of what nobody has taken up. False if they are not as many as
    /// were kept, so that they are others.
    pub fn end(&self) -> bool {
        let view = self.view.take();
        view.is_none_or(|view| view.workers.iter().all(|kept| kept.len() == self.next.get()))
    }
}
