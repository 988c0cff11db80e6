//! Backups of a data directory in a store of objects, and servers made from them.
//!
//! ```text
//! backups/00000007.json                       a backup: what it holds, a manifest that is written last
//! data/log/…0001.log2/0-5f1c…                 a part of a file: its path, where the part begins, and the
//! data/log/…0001.log2/33554432-90aa…          XXH3 of its bytes, 128 bits in hex digits
//! data/snapshots/runs-17/0-…
//! data/dismissed.json/0-…
//! ```
//!
//! Objects never change. A part that is there is not sent again: of a segment that is written to, a
//! backup sends what came since the one before. Objects without a manifest that names them are left
//! by a backup that did not get to its end; nobody reads them, and the next one uses them.
//!
//! A backup holds the log up to a synced frame, the newest snapshot before that, the query files in use,
//! dismissed dead letters, the hashes of tokens and the record of administrative acts. Indexes are made
//! from the log again. ClickHouse's tables are written again from the snapshot. Passwords and private keys
//! are not in it.

mod manifest;
mod restore;
mod send;

use std::path::{Path, PathBuf};

use crate::log::LogError;
use crate::objects::ObjectsError;
use manifest::BackupManifestError;
pub use restore::{RestoreOptions, restore, rfc3339};
pub use send::{back_up, content};

/// The directory in a data directory that a restore works in, until it is done.
const UNFINISHED: &str = "restoring";
/// The directory of snapshots.
const SNAPSHOTS: &str = "snapshots";

/// Why there is no backup, or nothing was restored.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    #[error(transparent)]
    Objects(#[from] ObjectsError),
    #[error(transparent)]
    Log(#[from] LogError),
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: std::io::Error },
    /// The place holds backups of another log.
    #[error(
        "{place} holds backups of log {found}, and {data_dir} is log {log}: name another place"
    )]
    OtherLog { place: String, found: String, data_dir: PathBuf, log: String },
    /// The log has less than what was backed up of it.
    #[error(
        "the last backup in {place} has events up to position {backed_up}, and the log in {data_dir} ends at {position}: it is an earlier copy of it; name another place"
    )]
    Behind { place: String, backed_up: u64, data_dir: PathBuf, position: u64 },
    /// Files were replaced again and again while they were read.
    #[error("{data_dir}: files are replaced faster than they can be read: try again")]
    Unsteady { data_dir: PathBuf },
    #[error("{place} holds no backup")]
    Empty { place: String },
    #[error(
        "{place}: {object}: {source}; the backups before it are as they were: without this object, the newest of them is restored"
    )]
    Manifest { place: String, object: String, source: BackupManifestError },
    /// An object is not what was sent.
    #[error("{place}: {object} is damaged: {what}; {REMEDY}")]
    Damaged { place: String, object: String, what: String },
    /// An object of a backup is gone.
    #[error("{place}: {object} is missing, which backup {number} needs; {REMEDY}")]
    Missing { place: String, object: String, number: u64 },
    #[error("{data_dir} is not empty: name a directory that is, or does not exist")]
    NotEmpty { data_dir: PathBuf },
    #[error("{data_dir}: {needed} bytes are needed, and {free} are free")]
    NoRoom { data_dir: PathBuf, needed: u64, free: u64 },
    #[error("nothing was appended by {until}: the first event of the backup is of {first}")]
    BeforeFirst { until: String, first: String },
}

/// Advice to the operator about an object that is not as it was sent.
const REMEDY: &str = "as long as the server or its data directory is there, remove the object, if it is there, and back up again: what is missing is sent";

/// Whether a restore into a data directory was not finished: what is there is no server's.
pub fn is_unfinished(data_dir: &Path) -> bool {
    data_dir.join(UNFINISHED).exists()
}

fn named(path: &Path) -> impl Fn(std::io::Error) -> BackupError + use<> {
    let path = path.to_path_buf();
    move |source| BackupError::Io { path: path.clone(), source }
}
