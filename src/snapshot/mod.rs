//! Snapshots: what views hold, in files, so that a start goes on from there and reads the log only from
//! there on.
//!
//! ```text
//! snapshots/
//!   runs-17        runs, failures, unwritten changes, one behind the other, each at a multiple of 4 KiB
//!   manifest-23    which of them make up which view, as of which tick; two manifests are kept
//! ```
//!
//! A snapshot writes one file with the runs that are in none yet, and then a manifest, which is replaced as a
//! whole. Files that no manifest names are removed: a crash in between leaves the manifest before. Each view
//! has a tick of its own; a view that was not asked this time keeps what it had. Everything that is read has
//! a checksum. Up to `snapshot_checked_bytes_max` it is compared before views go on from it, the rest
//! while they do (`engine/snapshot_check.rs`).
//!
//! A view's table may be behind the snapshot, for as long as ClickHouse is away. What it lacks is in the file,
//! too, in at most two parts: the changes of the flush under way, which has to be repeated as it was, and
//! those behind it.
//!
//! A view is found by its generation, which tells its SQL, all that it reads and the log, and by the
//! fingerprint of its plan, which tells the order of its arrangements. The latest row of each key, which a
//! view keeps of a table, is found by the table's definition: a view that reads nothing but such tables is
//! filled with the rows that other views have kept.

mod copy;
mod manifest;
mod store;
mod unwritten;
#[cfg(test)]
mod tests;

pub use copy::SnapshotCopy;
pub use manifest::ViewIdentity;
pub use store::{DamagedSnapshot, FoundTables, FoundView, SnapshotStore, ViewSnapshot};
