//! Heliostat keeps SQL views over event streams, exactly and live, as tables in ClickHouse.
//!
//! The modules stand in the order of an event's path, and dependencies point one way only, from
//! a later module to an earlier one (`tests/architecture.rs` checks it):
//!
//! ```text
//! model ◄─ log ◄─ decode ◄─ aggregate ◄─ plan ◄─ dataflow ◄─ sink ◄─ status ◄─ http ◄─ engine ◄─ cli
//!
//! POST /v1/events ─► http ─► log ─► decode ─► dataflow ─► sink ─► ClickHouse
//!                           (fsync)  (Arrow)     ▲
//!                                   queries/*.sql ─► plan
//! ```

#![warn(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod model;
pub mod log;
pub mod decode;
pub mod aggregate;
pub mod plan;
pub mod dataflow;
pub mod sink;
pub mod status;
pub mod http;
pub mod engine;
pub mod cli;
