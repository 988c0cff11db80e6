//! Views into other systems: complete ticks in, tables that always say the same as the SQL out.
//!
//! A sink is a directory here that implements [`Sink`]; [`KINDS`] lists them. The engine knows sinks
//! by these traits only. What a sink promises:
//!
//! - It shows a view's rows as of one tick at any time, also after a crash.
//! - It never makes the dataflow wait: messages queue up, and consolidate, while its system is away.
//! - Where it says [`Recovered`], it needs marks at exactly these ticks.
//!
//! ```text
//! engine ─► SinkConfig::connect ─► Sink::open_view ─► ViewSink::run ◄─ SinkMessage ─ dataflow
//!                                      │
//!                                  Recovered (the ticks that the feeder must end a chunk at)
//! ```

pub mod clickhouse;
mod error;
mod status;

use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::model::sink::SinkKinds;
use crate::model::view::{SinkMessage, Unwritten, ViewRef};
use crate::model::{Head, Tick};

pub use error::{ErrorKind, SinkError};
pub use status::ViewSinkStatus;

/// The kinds of sinks that query files have options for.
pub const KINDS: SinkKinds = &[&clickhouse::KIND];

/// Where a sink's system is, and how to log in.
#[async_trait]
pub trait SinkConfig: Send + Sync {
    /// Connects, and creates what the sink itself needs. Tries once. `rejects` is told each row that
    /// the system cannot hold. The sink may keep files in a directory of its own in `data_dir`.
    async fn connect(
        &self,
        data_dir: &Path,
        rejects: RejectHandler,
    ) -> Result<Arc<dyn Sink>, SinkError>;
}

/// A system that holds views.
#[async_trait]
pub trait Sink: Send + Sync {
    /// The name of its kind.
    fn name(&self) -> &'static str;

    /// Creates what is missing of what the sink itself needs.
    async fn prepare(&self) -> Result<(), SinkError>;

    /// Prepares the table of a view's generation and reads how far it has got.
    async fn open_view(&self, view: ViewRef) -> Result<Box<dyn ViewSink>, SinkError>;

    /// Makes the view's public names anew, over this generation.
    async fn republish(&self, view: &ViewRef) -> Result<(), SinkError>;

    /// Takes all views but these out of the system: their names at once, their tables later.
    /// Returns the names of those that went.
    async fn retire_all_but(&self, views: &[&str]) -> Result<Vec<String>, SinkError>;

    /// The published views among these whose public names are gone, or read from another generation, as of a
    /// moment after the call.
    async fn missing_names(&self, views: &[ViewRef]) -> Result<Vec<ViewRef>, SinkError>;

    /// Compares what the system holds with what was written, and tells what somebody else has
    /// changed since the last inspection.
    async fn inspect(&self, generations: &[Inspection]) -> Result<Vec<Tampering>, SinkError>;

    /// Cleans up what nothing reads any more, until told to end.
    async fn maintain(&self, shutdown: CancellationToken);
}

/// One generation of a view in a sink, ready to be fed.
#[async_trait]
pub trait ViewSink: Send {
    /// Ticks at which the feeder must end a chunk.
    fn recovered(&self) -> &Recovered;

    /// The view goes on at `at`, where it has so many rows, and what is told first is as of there. The
    /// table shows that already, or does so once the changes are written that it lacks, or it has no progress
    /// yet. Returns whether the sink has to be told all rows as of there all the same.
    fn resume(&mut self, at: Head, rows: u64, unwritten: Vec<Unwritten>) -> bool;

    /// Writes what it is told, until `shutdown` is cancelled or the dataflow hangs up. While the
    /// system is away it keeps trying. Fails only if rows do not fit the view's columns.
    async fn run(
        self: Box<Self>,
        messages: mpsc::UnboundedReceiver<SinkMessage>,
        status: Arc<ViewSinkStatus>,
        shutdown: CancellationToken,
    ) -> Result<(), SinkError>;
}

/// The progress of a generation's table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// The end of the last flush whose data and progress are both in the system. The dataflow may
    /// feed everything from the log's start; the sink leaves out what is at or below this tick.
    pub progress: Option<Head>,
    /// The ends of flushes whose progress is missing, in order: the feeder must end a chunk exactly
    /// there, and mark it, as it must at `progress`.
    pub unfinished: Vec<Tick>,
    /// The view's name reads from this generation.
    pub published: bool,
}

/// A row that the sink's system cannot hold, left out of a view's table.
#[derive(Clone, Debug)]
pub struct SinkReject {
    /// The view.
    pub view: ViewRef,
    /// The row as a JSON object of texts and nulls.
    pub row: String,
    /// Which column's value it is and why.
    pub reason: String,
    /// How often the row came, or, negative, went again. While the dataflow catches up, all rows
    /// since the log's start are told, whether they were told before a restart or not.
    pub diff: i64,
}

/// Is told each row that is left out; called from the view's task, so it must not block.
pub type RejectHandler = Arc<dyn Fn(SinkReject) + Send + Sync>;

/// A generation whose table is to be inspected.
pub struct Inspection {
    /// The generation's shape.
    pub schema: ViewRef,
    /// The status that its sink reports.
    pub status: Arc<ViewSinkStatus>,
    /// The view's public names are to read from it, and no other generation is about to take them
    /// over.
    pub has_names: bool,
}

/// A change in the sink's system that Heliostat did not make.
#[derive(Clone, Debug, PartialEq)]
pub enum Tampering {
    /// The place of the sink's own state is gone.
    State {
        /// The object that is gone.
        what: String,
        /// Whether it can be made anew without the tables of the views.
        is_derived: bool,
    },
    /// A generation's rows are not what the sink has written.
    Rows {
        /// The view.
        view: String,
        /// Its generation.
        generation: String,
        /// The difference that was found.
        what: String,
    },
    /// A public name has another comment than its query file, which was changed.
    Comment {
        /// The view.
        view: ViewRef,
    },
    /// A public name is gone or was altered.
    Name {
        /// The view.
        view: ViewRef,
        /// The difference that was found.
        what: String,
    },
}

impl Tampering {
    /// The public names of this view are gone, or do not read from its generation.
    pub fn missing(view: ViewRef) -> Self {
        let what = format!("VIEW {} is gone or was altered", view.name);
        Tampering::Name { view, what }
    }
}
