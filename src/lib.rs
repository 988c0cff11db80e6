//! Heliostat keeps SQL views over event streams, exactly and live, as tables in ClickHouse.
//!
//! The modules stand in the order of an event's path, and dependencies point one way only, from
//! a later module to an earlier one (`tests/architecture.rs` checks it):
//!
//! ```text
//! model ◄─ access ◄─ objects ◄─ log ◄─ decode ◄─ aggregate ◄─ plan ◄─ dataflow ◄─ snapshot ◄─ sink ◄─ status ◄─ link ◄─ http ◄─ engine ◄─ backup ◄─ cli
//!
//! POST /v1/events ─► http ─► log ─► decode ─► dataflow ─► sink ─► ClickHouse
//!                           (fsync)  (Arrow)     ▲
//!                                   queries/*.sql ─► plan
//! ```

#![warn(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod model;
mod access;
mod objects;
mod log;
mod decode;
mod aggregate;
mod plan;
mod dataflow;
mod snapshot;
mod sink;
mod status;
mod link;
mod http;
mod engine;
mod backup;
mod cli;

pub use cli::run;

pub mod internals;
