//! IR → timely and differential operators: the views' computations and their state.

mod accumulator;
mod arrange;
mod batcher;
mod feed_group;
mod delta;
mod difference;
mod elsewhere;
mod eval;
mod failure;
mod fault;
mod frames;
mod group_rows;
mod groups;
mod guard;
mod kept;
mod layout;
mod marker;
mod memory;
mod nearest;
mod ordered;
mod output;
mod partition;
mod partition_cache;
mod partitioned;
mod reached;
mod reclaim;
mod render;
mod run;
mod runtime;
mod windows;
mod worker;

pub use eval::is_evaluating;
pub use failure::{
    Dismissal, Failure, FailureFilter, FailureMemory, Failures, Ranges, misfit, reason_hash,
    undeclared,
};
pub use fault::watch as watch_faults;
pub use feed_group::FeedGroupId;
pub use guard::ViewLimits;
pub use kept::{
    Beginning, FilledTable, FilledTables, KeptTableRows, KeptView, STATE_FORMAT, WorkerArrangements,
};
pub use marker::{HeldView, LastEnd, MarkedView, Marker};
pub use output::{EncodedRow, read_order};
pub use run::{PackedRun, RunShape, Spill};
pub use runtime::{KeptAnswers, Runtime, RuntimeError, RuntimeOptions, ViewRead};
pub use worker::{InstallRequest, build_on_trial};
