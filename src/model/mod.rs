//! The vocabulary that every other module shares: positions and ticks, events, schemas, rows and
//! limits. Nothing here knows another module, or does I/O
//! but to ask the system for time and memory, and to tell it a thread's priority.

pub mod alarm;
pub mod clock;
pub mod event;
pub mod failure;
pub mod interval;
pub mod json;
pub mod limits;
pub mod memory;
pub mod multiplicity;
pub mod packed;
pub mod reorder;
pub mod row;
pub mod schema;
pub mod sealed;
pub mod sink;
pub mod source;
pub mod thread;
pub mod view;

use serde::{Deserialize, Serialize};

/// The place of an event in the log: dense, gap-free, from 1. Zero means "before the first event".
pub type Position = u64;

/// The instant at which a group of events was committed, in milliseconds since the Unix epoch.
///
/// Ticks strictly increase from one commit to the next and are the timestamps of the dataflow: a
/// view's content at tick `t` is its SQL over all events with tick ≤ `t`.
pub type Tick = u64;

/// The end of what is known: the last position and the tick that it was committed at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Head {
    /// The last position that is on disk; 0 while the log is empty.
    pub position: Position,
    /// The tick of the last commit; 0 while there is none.
    pub tick: Tick,
}
