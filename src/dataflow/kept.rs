//! Kept state, which outlives an installation: the arrangements of a view as of a tick, and how another
//! installation takes them up.
//!
//! All state of a view is in arrangements, or made of them again: operators that hold rows in a form of
//! their own have their inputs arranged beside (`render/kept.rs`).
//!
//! A view's arrangements are numbered in the order in which they are built, which is the same for the same
//! plan. The kept state of a worker is its share of them; when the number of workers changes, each worker
//! takes from all shares the rows that are its own.

use std::cell::{Cell, RefCell};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::failure::is_unread;
use super::run::PackedRun;
use crate::model::Tick;
use crate::model::failure::FailureChange;
use crate::plan::ir::{NodeId, Plan};
use crate::plan::scan::Scan;

/// The version of what the bytes of runs and accumulators mean, and of which arrangements an operator
/// has. It is raised by hand.
pub const STATE_FORMAT: u32 = 4;

/// For each arrangement of a worker its runs.
pub type WorkerArrangements = Vec<Vec<PackedRun>>;

/// The kept state of a view.
#[derive(Clone)]
pub struct KeptView {
    /// Everything up to this tick is in it, and nothing later.
    pub tick: Tick,
    /// The arrangements of each worker that there was.
    pub workers: Vec<WorkerArrangements>,
}

/// The state of a view that one worker hands over.
pub struct KeptShare {
    pub arrangements: WorkerArrangements,
    /// The first arrangement of each node that has some. The same on every worker.
    pub first_of: Vec<(NodeId, usize)>,
}

/// The state of a view that all workers hand over.
#[derive(Default)]
pub struct KeptShares {
    pub workers: Vec<WorkerArrangements>,
    /// The first arrangement of each node that has some.
    pub first_of: Vec<(NodeId, usize)>,
}

impl KeptShares {
    /// The arrangements that have rows of tables, from which other views can be filled. None if the view
    /// could not read an event: that event is no row here, but may be one for another view, which reads other
    /// columns.
    pub fn tables(&self, plan: &Plan, failures: &[FailureChange]) -> Vec<KeptTableRows> {
        if failures.iter().any(is_unread) {
            return Vec::new();
        }
        let of = |scan: Scan| {
            let (_, arrangement) = self.first_of.iter().find(|(node, _)| *node == scan.id)?;
            let (fingerprint, columns) = (scan.kept.fingerprint(), scan.columns);
            Some(KeptTableRows { fingerprint, columns, arrangement: *arrangement })
        };
        plan.scans().filter_map(of).collect()
    }
}

/// An arrangement that has the latest rows of a table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptTableRows {
    /// Which rows of which table: see [`KeptTable::fingerprint`](crate::plan::scan::KeptTable::fingerprint).
    pub fingerprint: String,
    /// The columns that are kept, as the table numbers them.
    pub columns: Vec<usize>,
    /// The number of the arrangement.
    pub arrangement: usize,
}

impl KeptTableRows {
    /// Whether they have all that a scan reads.
    pub fn have(&self, scan: &Scan) -> bool {
        self.fingerprint == scan.kept.fingerprint()
            && scan.columns.iter().all(|column| self.columns.contains(column))
    }
}

/// The rows of a view's tables that other views have kept.
pub struct FilledTables {
    /// Everything up to this tick is in it, and nothing later.
    pub tick: Tick,
    pub tables: Vec<FilledTable>,
}

/// The kept rows of one table.
pub struct FilledTable {
    /// The node of the table's events.
    pub source: NodeId,
    /// The columns that are kept, as the table numbers them: all that the node reads, and others.
    pub columns: Vec<usize>,
    /// The runs of each worker that there was.
    pub workers: Vec<Vec<PackedRun>>,
}

/// The state that an installation begins with.
#[derive(Clone)]
pub enum Beginning {
    /// With nothing, before the first event.
    Empty,
    /// With the view's own kept state.
    Kept {
        /// The kept state.
        view: Arc<KeptView>,
        /// Its rows are told as changes at its tick.
        tells_rows: bool,
    },
    /// With the rows of its tables. All that follows from them is told as changes.
    Filled(Arc<FilledTables>),
}

/// The state that an installation takes up on one worker.
pub struct Takeover {
    /// Until everything is taken up.
    view: RefCell<Option<Arc<KeptView>>>,
    from: Option<Tick>,
    tells_rows: bool,
    filled: Option<Arc<FilledTables>>,
    /// Number of arrangements that are built so far.
    built: Cell<usize>,
    worker: usize,
}

/// The rows of a table that a worker begins with.
pub struct FilledShare {
    /// The columns that are kept, as the table numbers them.
    pub columns: Vec<usize>,
    pub runs: Vec<PackedRun>,
    /// The tick as of which the rows are.
    pub tick: Tick,
}

/// The runs of one arrangement.
pub enum TakenUp {
    /// All of them are this worker's.
    Own(Vec<PackedRun>),
    /// The runs of all workers that there were; only some of the rows are this worker's.
    Others(Vec<Vec<PackedRun>>),
}

impl Takeover {
    pub fn new(beginning: Beginning, worker: usize) -> Self {
        let (view, tells_rows, filled) = match beginning {
            Beginning::Empty => (None, true, None),
            Beginning::Kept { view, tells_rows } => (Some(view), tells_rows, None),
            Beginning::Filled(tables) => (None, true, Some(tables)),
        };
        let from = view.as_ref().map(|view| view.tick);
        Takeover { view: RefCell::new(view), from, tells_rows, filled, built: Cell::new(0), worker }
    }

    /// The runs of a table whose rows are there already, as far as this worker begins with them, the
    /// columns in them, and the tick.
    pub fn filled(&self, source: NodeId, workers: usize) -> Option<FilledShare> {
        let filled = self.filled.as_ref()?;
        let table = filled.tables.iter().find(|table| table.source == source)?;
        // Rows go to where they belong: it does not matter who begins with which.
        let runs = table.workers.iter().skip(self.worker).step_by(workers).flatten();
        let (columns, runs) = (table.columns.clone(), runs.cloned().collect());
        Some(FilledShare { columns, runs, tick: filled.tick })
    }

    /// Whether the rows that it takes up are told as changes.
    pub fn tells_rows(&self) -> bool {
        self.tells_rows
    }

    /// The tick that everything begins after, if anything was kept.
    pub fn from(&self) -> Option<Tick> {
        self.from
    }

    /// Number of arrangements that are built so far.
    pub fn built(&self) -> usize {
        self.built.get()
    }

    /// The runs of the arrangement that is built next, on so many workers.
    pub fn next(&self, workers: usize) -> Option<TakenUp> {
        let index = self.built.replace(self.built.get() + 1);
        let view = self.view.borrow();
        let view = view.as_ref()?;
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
        view.is_none_or(|view| view.workers.iter().all(|kept| kept.len() == self.built.get()))
    }
}
