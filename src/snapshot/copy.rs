//! The newest snapshot as it is copied, while a process may write others.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::Path;

use super::manifest::{Manifest, ManifestError};
use super::store::file_name;

/// How often it is tried to open a snapshot whose files are removed meanwhile.
const ATTEMPTS: usize = 5;

/// The files of a snapshot, open, so that they stay even if their names go.
#[derive(Debug, Default)]
pub struct SnapshotCopy {
    /// By name, the manifest last in order.
    pub files: Vec<(String, File)>,
    /// Why there is none, where there could be one.
    pub unusable: Option<String>,
}

impl SnapshotCopy {
    /// Opens the newest snapshot of a directory that this version can read, of this log.
    pub fn open(directory: &Path, log: &str) -> io::Result<SnapshotCopy> {
        let mut attempts = 0;
        loop {
            attempts += 1;
            match SnapshotCopy::try_open(directory, log) {
                // A newer one was published meanwhile.
                Err(error) if error.kind() == io::ErrorKind::NotFound && attempts < ATTEMPTS => {}
                opened => return opened,
            }
        }
    }

    fn try_open(directory: &Path, log: &str) -> io::Result<SnapshotCopy> {
        let mut manifests = BTreeMap::new();
        let entries = match std::fs::read_dir(directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            entries => entries?,
        };
        for entry in entries {
            let name = entry?.file_name().to_string_lossy().into_owned();
            if let Some(number) = Manifest::number(&name) {
                manifests.insert(number, name);
            }
        }
        let mut unusable = None;
        for name in manifests.into_values().rev() {
            let path = directory.join(&name);
            let manifest = match Manifest::parse(&std::fs::read(&path)?, log) {
                Ok(manifest) => manifest,
                // State that was computed from another log is of no use to a copy of this one.
                Err(ManifestError::OtherLog) => continue,
                Err(error) => {
                    unusable = unusable.or(Some(format!("{name}: {error}")));
                    continue;
                }
            };
            let mut copy = SnapshotCopy::default();
            for number in manifest.files.keys() {
                let name = file_name(*number);
                let file = File::open(directory.join(&name))?;
                copy.files.push((name, file));
            }
            copy.files.push((name, File::open(path)?));
            return Ok(copy);
        }
        Ok(SnapshotCopy { unusable, ..SnapshotCopy::default() })
    }
}
