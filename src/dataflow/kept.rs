//! What outlives an installation: the arrangements of a view as of a tick, and how another one takes
//! them up.
//!
//! A view's arrangements are numbered in the order in which they are built, which is the same for the
//! same plan. What is kept of a worker is theirs; another number of workers takes the parts of it that
//! are its own.

use std::cell::Cell;
use std::sync::Arc;

use super::run::PackedRun;
use crate::model::Tick;
use crate::plan::ir::{Op, Plan};

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

impl KeptView {
    /// Whether all state of a plan is in arrangements, so that it can be kept.
    pub fn can_hold(plan: &Plan) -> bool {
        plan.nodes.iter().all(|node| match node.op {
            Op::Temporal { .. } | Op::Nearest { .. } | Op::Window { .. } => false,
            Op::Recursion { .. } | Op::Given { .. } => false,
            Op::Source { .. }
            | Op::Constant { .. }
            | Op::Filter { .. }
            | Op::Project { .. }
            | Op::Unnest { .. }
            | Op::Join { .. }
            | Op::DeltaJoin { .. }
            | Op::SemiJoin { .. }
            | Op::Reduce { .. }
            | Op::TopK { .. }
            | Op::First { .. }
            | Op::Recompute { .. }
            | Op::AssertKey { .. }
            | Op::Union { .. } => true,
        })
    }
}

/// What an installation takes up on one worker.
pub struct Takeover {
    view: Option<Arc<KeptView>>,
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
    /// What this worker takes up of a view that was kept, if it was.
    pub fn new(view: Option<Arc<KeptView>>, worker: usize) -> Self {
        Takeover { view, next: Cell::new(0), worker }
    }

    /// The tick that everything begins after, if anything was kept.
    pub fn from(&self) -> Option<Tick> {
        self.view.as_ref().map(|view| view.tick)
    }

    /// The runs of the arrangement that is built next, on so many workers.
    pub fn next(&self, workers: usize) -> Option<TakenUp> {
        let view = self.view.as_ref()?;
        let index = self.next.replace(self.next.get() + 1);
        let of = |worker: &WorkerArrangements| worker.get(index).cloned().unwrap_or_default();
        if view.workers.len() == workers {
            return Some(TakenUp::Own(view.workers.get(self.worker).map(of).unwrap_or_default()));
        }
        Some(TakenUp::Others(view.workers.iter().map(of).collect()))
    }
}
