//! IR → timely and differential operators: the views' computations and their state.

mod accumulator;
mod arrange;
mod cohort;
mod delta;
mod difference;
mod eval;
mod failure;
mod frames;
mod groups;
mod layout;
mod memory;
mod ordered;
mod output;
mod partition;
mod reached;
mod render;
mod runtime;
mod worker;

pub use cohort::CohortId;
pub use eval::is_evaluating;
pub use failure::{
    Dismissal, FURTHER_REASONS, Failure, FailureFilter, FailureMemory, Failures, Ranges, misfit,
    reason_hash, undeclared,
};
pub use output::{EncodedRow, read_order};
pub use runtime::{Read, Runtime, RuntimeError};
pub use worker::Installation;
