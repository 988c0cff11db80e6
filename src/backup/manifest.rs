//! The manifest of a backup: JSON behind its checksum (`model/sealed.rs`).

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_128;

use super::BackupError;
use crate::log::CopiedSegment;
use crate::model::{Position, Tick, sealed};
use crate::objects::{Objects, ObjectsError};

/// The version of the manifest. Readers refuse another one.
const FORMAT: u32 = 1;
/// The objects of manifests, and of files.
const BACKUPS: &str = "backups";
pub const DATA: &str = "data";

/// A manifest's content.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BackupManifest {
    format: u32,
    /// The version of Heliostat that wrote it.
    pub version: String,
    /// When it was begun, in RFC 3339.
    pub taken: String,
    /// The log's history: its id, and how many losses were accepted.
    pub log: String,
    /// Up to where the log is in it.
    pub position: Position,
    pub tick: Tick,
    pub files: Vec<BackupFile>,
}

/// A file of a data directory.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BackupFile {
    /// Its path there.
    pub path: String,
    pub bytes: u64,
    /// One behind the other, from 0 on.
    pub parts: Vec<BackupPart>,
    /// The identity of a segment of the log, by which it differs from another one of the same name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub segment: Option<CopiedSegment>,
}

/// A part of a file, which is an object.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BackupPart {
    pub at: u64,
    pub bytes: u64,
    /// XXH3 of the bytes, in 32 hex digits.
    pub checksum: String,
}

impl BackupPart {
    /// The part of a file that has these bytes.
    pub fn of(at: u64, bytes: &[u8]) -> BackupPart {
        let checksum = format!("{:032x}", xxh3_128(bytes));
        BackupPart { at, bytes: bytes.len() as u64, checksum }
    }

    /// The name of its object.
    pub fn object(&self, path: &str) -> String {
        format!("{DATA}/{path}/{}-{}", self.at, self.checksum)
    }

    /// Reads the object, and compares it with the manifest's checksum.
    pub fn read(&self, objects: &Objects, path: &str, number: u64) -> Result<Bytes, BackupError> {
        let (place, object) = (objects.place().to_string(), self.object(path));
        let bytes = match objects.get(&object) {
            Err(ObjectsError::Missing { place, object }) => {
                return Err(BackupError::Missing { place, object, number });
            }
            bytes => bytes?,
        };
        if bytes.len() as u64 != self.bytes {
            let what = format!("it has {} bytes, expected {}", bytes.len(), self.bytes);
            return Err(BackupError::Damaged { place, object, what });
        }
        if BackupPart::of(self.at, &bytes).checksum != self.checksum {
            let what = "its checksum is wrong".to_string();
            return Err(BackupError::Damaged { place, object, what });
        }
        Ok(bytes)
    }
}

/// Why a manifest is not used.
#[derive(Debug, thiserror::Error)]
pub enum BackupManifestError {
    #[error("it is damaged: its checksum is wrong")]
    Checksum,
    #[error("it cannot be read: {0}")]
    Json(#[from] serde_json::Error),
    #[error("it has format {0}: a later version of Heliostat has written it")]
    Format(u32),
}

impl BackupManifest {
    /// A manifest of a log, without files.
    pub fn new(taken: String, log: String) -> Self {
        let version = env!("CARGO_PKG_VERSION").to_string();
        BackupManifest {
            format: FORMAT,
            version,
            taken,
            log,
            position: 0,
            tick: 0,
            files: Vec::new(),
        }
    }

    pub fn parse(bytes: &[u8]) -> Result<BackupManifest, BackupManifestError> {
        let json = sealed::open(bytes).ok_or(BackupManifestError::Checksum)?;
        let format = sealed::format(json)?;
        if format != FORMAT {
            return Err(BackupManifestError::Format(format));
        }
        Ok(serde_json::from_slice(json)?)
    }

    pub fn to_bytes(&self) -> serde_json::Result<Vec<u8>> {
        sealed::seal(self)
    }

    /// The file of a path.
    pub fn file(&self, path: &str) -> Option<&BackupFile> {
        self.files.iter().find(|file| file.path == path)
    }

    /// The name of a backup's manifest.
    pub fn object(number: u64) -> String {
        format!("{BACKUPS}/{number:08}.json")
    }

    /// The numbers of the backups in a place, ascending.
    pub fn numbers(objects: &Objects) -> Result<Vec<u64>, ObjectsError> {
        let number = |name: &String| {
            let name = name.strip_prefix(BACKUPS)?.strip_prefix('/')?;
            name.strip_suffix(".json")?.parse::<u64>().ok()
        };
        let mut numbers: Vec<u64> = objects.list(BACKUPS)?.keys().filter_map(number).collect();
        numbers.sort_unstable();
        Ok(numbers)
    }

    /// Reads the manifest of a backup.
    pub fn read(objects: &Objects, number: u64) -> Result<BackupManifest, BackupError> {
        let object = BackupManifest::object(number);
        let bytes = objects.get(&object)?;
        BackupManifest::parse(&bytes).map_err(|source| {
            let place = objects.place().to_string();
            BackupError::Manifest { place, object, source }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flipped_bit_or_missing_end_of_a_manifest_is_found() {
        let mut manifest = BackupManifest::new("2026-01-01T00:00:00Z".into(), "0193".into());
        let part = BackupPart::of(0, b"bytes");
        let (path, bytes) = ("dismissed.json".to_string(), part.bytes);
        manifest.files.push(BackupFile { path, bytes, parts: vec![part], segment: None });
        let bytes = manifest.to_bytes().unwrap();
        assert_eq!(BackupManifest::parse(&bytes).unwrap(), manifest);
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 4;
            assert!(BackupManifest::parse(&damaged).is_err(), "byte {at}");
            assert!(BackupManifest::parse(&bytes[..at]).is_err(), "{at} bytes");
        }
    }
}
