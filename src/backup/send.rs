//! Sends what a data directory has and a store has not, and then a manifest.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use bytes::Bytes;
use chrono::{SecondsFormat, Utc};
use xxhash_rust::xxh3::Xxh3;

use super::manifest::{BackupFile, BackupManifest, BackupPart, DATA};
use super::{BackupError, SNAPSHOTS, named};
use crate::log::{self, CopiedSegment, LogCopy, LogError};
use crate::objects::{Objects, ObjectsError};
use crate::snapshot::SnapshotCopy;
use crate::{access, engine};

/// A part of a file has at most so many bytes. So much is in memory at a time.
const PART_BYTES: u64 = 32 << 20;
/// A file that has grown over so many backups is sent as a whole once more.
const PARTS_MAX: usize = 64;
/// How often files may be replaced while they are read before that is an error.
const ATTEMPTS: usize = 5;

/// The result of a backup.
#[derive(Debug)]
pub struct BackupReport {
    pub number: u64,
    pub manifest: BackupManifest,
    /// Objects and their bytes: of the backup, and those of them that were sent.
    pub objects: usize,
    pub bytes: u64,
    pub sent_objects: usize,
    pub sent_bytes: u64,
    /// Why snapshots are not in it, if there are some.
    pub without_snapshot: Option<String>,
}

/// What a backup of a data directory would have, but for the log's frames without events: 128 bits of a hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackupContent(u128);

/// What a backup would have now.
pub fn content(data_dir: &Path) -> Result<BackupContent, BackupError> {
    let mut hash = Xxh3::new();
    for name in access::FILES.iter().chain(&engine::STATE_FILES) {
        // A file that cannot be read is an error of the backup.
        let bytes = std::fs::read(data_dir.join(name)).unwrap_or_default();
        hash.update(&bytes.len().to_le_bytes());
        hash.update(&bytes);
    }
    let copy = LogCopy::take(&log::directory(data_dir))?;
    hash.update(copy.history().as_bytes());
    hash.update(&copy.head.position.to_le_bytes());
    let path = data_dir.join(SNAPSHOTS);
    let snapshot = SnapshotCopy::open(&path, &copy.history()).map_err(named(&path))?;
    snapshot.files.iter().for_each(|(name, _)| hash.update(name.as_bytes()));
    Ok(BackupContent(hash.digest128()))
}

/// Backs up a data directory, of a server that runs or of none. With `verify` everything that the
/// backup needs is read back.
pub fn back_up(
    data_dir: &Path,
    objects: &Objects,
    verify: bool,
) -> Result<BackupReport, BackupError> {
    let numbers = BackupManifest::numbers(objects)?;
    let previous = previous(objects, &numbers)?;
    let mut sender = BackupSender {
        objects,
        data_dir,
        there: objects.list(DATA)?,
        previous,
        sent_objects: 0,
        sent_bytes: 0,
    };
    let mut attempts = 0;
    let (manifest, without_snapshot) = loop {
        attempts += 1;
        match sender.files() {
            // A segment was rewritten meanwhile. What was sent is there, and not sent again.
            Err(BackupError::Log(LogError::Missing { .. })) if attempts < ATTEMPTS => {}
            Err(BackupError::Log(LogError::Missing { .. })) => {
                // It is missing in truth, or the log is rewritten all the time.
                log::info(&log::directory(data_dir))?;
                return Err(BackupError::Unsteady { data_dir: data_dir.to_path_buf() });
            }
            sent => break sent?,
        }
    };
    let number = numbers.last().map_or(1, |last| last + 1);
    let bytes = manifest.to_bytes().map_err(io::Error::from).map_err(named(data_dir))?;
    objects.create(&BackupManifest::object(number), bytes.into()).map_err(|error| match error {
        ObjectsError::Exists { place, .. } => ObjectsError::Failed {
            place,
            what: format!("another backup has just become number {number}: try again"),
        },
        error => error,
    })?;
    let parts = || manifest.files.iter().flat_map(|file| file.parts.iter().map(move |p| (file, p)));
    if verify {
        for (file, part) in parts() {
            part.read(objects, &file.path, number)?;
        }
    }
    let (objects, bytes) = (parts().count(), parts().map(|(_, part)| part.bytes).sum());
    let BackupSender { sent_objects, sent_bytes, .. } = sender;
    Ok(BackupReport {
        number,
        manifest,
        objects,
        bytes,
        sent_objects,
        sent_bytes,
        without_snapshot,
    })
}

/// The newest backup whose manifest can be read.
fn previous(objects: &Objects, numbers: &[u64]) -> Result<Option<BackupManifest>, BackupError> {
    for number in numbers.iter().rev() {
        match BackupManifest::read(objects, *number) {
            Ok(manifest) => return Ok(Some(manifest)),
            // More is sent than need be.
            Err(BackupError::Manifest { object, source, .. }) => {
                tracing::warn!(object, %source, "a manifest is passed over");
            }
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

struct BackupSender<'a> {
    objects: &'a Objects,
    data_dir: &'a Path,
    /// The objects that are there, with their lengths.
    there: BTreeMap<String, u64>,
    previous: Option<BackupManifest>,
    sent_objects: usize,
    sent_bytes: u64,
}

impl BackupSender<'_> {
    /// Sends all files; the manifest, and why there is no snapshot in it.
    ///
    /// First small files and snapshots, then the log, so that it has all that those speak of.
    fn files(&mut self) -> Result<(BackupManifest, Option<String>), BackupError> {
        let directory = log::directory(self.data_dir);
        let history = LogCopy::take(&directory)?.history();
        let taken = Utc::now().to_rfc3339_opts(SecondsFormat::Millis, true);
        let mut files = Vec::new();
        for name in access::FILES.iter().chain(&engine::STATE_FILES) {
            let path = self.data_dir.join(name);
            match std::fs::read(&path) {
                Ok(bytes) => files.push(self.send_bytes(name, &bytes)?),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(named(&path)(error)),
            }
        }
        let path = self.data_dir.join(SNAPSHOTS);
        let snapshot = SnapshotCopy::open(&path, &history).map_err(named(&path))?;
        let copy = LogCopy::take(&directory)?;
        self.expect_same_log(&copy)?;
        for (name, file) in &snapshot.files {
            let bytes = file.metadata().map_err(named(&path))?.len();
            let file = self.send_file(&format!("{SNAPSHOTS}/{name}"), file, bytes);
            files.push(file.map_err(|error| error.of(&path))?);
        }
        for segment in copy.segments()? {
            files.push(self.send_segment(&directory, &copy, segment)?);
        }
        let (name, list) = copy.list().map_err(named(&directory))?;
        files.push(self.send_bytes(&format!("log/{name}"), &list)?);
        let mut manifest = BackupManifest::new(taken, copy.history());
        (manifest.position, manifest.tick) = (copy.head.position, copy.head.tick);
        manifest.files = files;
        Ok((manifest, snapshot.unusable))
    }

    /// Whether the place has backups of this log, and the log is no copy older than these.
    fn expect_same_log(&self, copy: &LogCopy) -> Result<(), BackupError> {
        let Some(previous) = &self.previous else { return Ok(()) };
        let id = copy.id().to_string();
        let (place, data_dir) = (self.objects.place().to_string(), self.data_dir.to_path_buf());
        // A loss that was accepted leaves the log the same one.
        if !previous.log.starts_with(&id) {
            let (found, log) = (previous.log.clone(), copy.history());
            return Err(BackupError::OtherLog { place, found, data_dir, log });
        }
        if previous.log == copy.history() && previous.position > copy.head.position {
            let (backed_up, position) = (previous.position, copy.head.position);
            return Err(BackupError::Behind { place, backed_up, data_dir, position });
        }
        Ok(())
    }

    fn send_segment(
        &mut self,
        directory: &Path,
        copy: &LogCopy,
        segment: CopiedSegment,
    ) -> Result<BackupFile, BackupError> {
        let path = format!("log/{}", segment.name);
        let before = self.previous.as_ref().and_then(|previous| previous.file(&path));
        if let Some(before) = before
            && segment.sealed
            && before.segment.as_ref() == Some(&segment)
            && before.parts.iter().all(|part| self.has(&path, part))
        {
            return Ok(before.clone());
        }
        if segment.sealed {
            copy.check(&segment)?;
        }
        let source = directory.join(&segment.name);
        let file = copy.open(&segment.name)?;
        let sent = self.send_file(&path, &file, segment.bytes);
        let sent = sent.map_err(|error| error.of(&source))?;
        Ok(BackupFile { segment: Some(segment), ..sent })
    }

    /// Whether a part is in the store, with its length.
    fn has(&self, path: &str, part: &BackupPart) -> bool {
        self.there.get(&part.object(path)) == Some(&part.bytes)
    }

    /// Sends what the store lacks of the first bytes of a file.
    fn send_file(&mut self, path: &str, file: &File, bytes: u64) -> Result<BackupFile, SendError> {
        let known = self.previous.as_ref().and_then(|previous| previous.file(path));
        let known = known.map(|file| file.parts.clone()).unwrap_or_default();
        let mut parts: Vec<BackupPart> = Vec::new();
        let mut at = 0;
        let read = |at: u64, len: u64| -> io::Result<Vec<u8>> {
            let mut buffer = vec![0; usize::try_from(len).unwrap_or(usize::MAX)];
            file.read_exact_at(&mut buffer, at)?;
            Ok(buffer)
        };
        if known.len() < PARTS_MAX {
            for part in known.iter().take_while(|part| part.at + part.bytes <= bytes) {
                let same = BackupPart::of(part.at, &read(part.at, part.bytes)?) == *part;
                if !same || !self.has(path, part) {
                    break;
                }
                parts.push(part.clone());
                at = part.at + part.bytes;
            }
        }
        while at < bytes {
            let len = PART_BYTES.min(bytes - at);
            parts.push(self.send_part(path, at, read(at, len)?)?);
            at += len;
        }
        Ok(BackupFile { path: path.to_string(), bytes, parts, segment: None })
    }

    fn send_bytes(&mut self, path: &str, bytes: &[u8]) -> Result<BackupFile, ObjectsError> {
        let mut parts = Vec::new();
        for (index, chunk) in bytes.chunks(PART_BYTES as usize).enumerate() {
            parts.push(self.send_part(path, index as u64 * PART_BYTES, chunk.to_vec())?);
        }
        let bytes = bytes.len() as u64;
        Ok(BackupFile { path: path.to_string(), bytes, parts, segment: None })
    }

    fn send_part(
        &mut self,
        path: &str,
        at: u64,
        bytes: Vec<u8>,
    ) -> Result<BackupPart, ObjectsError> {
        let part = BackupPart::of(at, &bytes);
        if !self.has(path, &part) {
            let object = part.object(path);
            self.objects.put(&object, Bytes::from(bytes))?;
            self.sent_objects += 1;
            self.sent_bytes += part.bytes;
            self.there.insert(object, part.bytes);
        }
        Ok(part)
    }
}

/// Why a file was not sent.
enum SendError {
    Read(io::Error),
    Objects(ObjectsError),
}

impl From<io::Error> for SendError {
    fn from(error: io::Error) -> Self {
        SendError::Read(error)
    }
}

impl From<ObjectsError> for SendError {
    fn from(error: ObjectsError) -> Self {
        SendError::Objects(error)
    }
}

impl SendError {
    /// The error of sending a file of this path.
    fn of(self, path: &Path) -> BackupError {
        match self {
            SendError::Read(error) => named(path)(error),
            SendError::Objects(error) => error.into(),
        }
    }
}
