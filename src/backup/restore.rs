//! Makes a data directory from a backup.
//!
//! Everything is written to a directory of its own in the data directory, checked, and then moved to
//! its place; a server refuses to begin before that is done, and a restore that was cut off is begun
//! again from nothing.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Component, Path, PathBuf};

use chrono::{DateTime, SecondsFormat};

use super::manifest::{BackupFile, BackupManifest};
use super::{BackupError, SNAPSHOTS, UNFINISHED, named};
use crate::log::QueryFile;
use crate::log::{self, Control, CutLog, DiskFiles, DismissedLetters, Files};
use crate::model::{Head, Tick};
use crate::objects::Objects;
use crate::{access, engine};

/// So much room is left on the disk, whatever is restored.
const ROOM_LEFT: u64 = 64 << 20;

/// The place to restore to, and the tick to restore up to.
#[derive(Debug)]
pub struct RestoreOptions {
    pub data_dir: PathBuf,
    /// Where the query files go, if nothing is there.
    pub queries: PathBuf,
    /// Events after this tick are dropped; `None`: none are.
    pub until: Option<Tick>,
}

/// The result of a restore.
#[derive(Debug)]
pub struct RestoreReport {
    pub number: u64,
    pub manifest: BackupManifest,
    /// The log's history now, and its end.
    pub log: String,
    pub head: Head,
    /// The number of the backup's events that were dropped.
    pub dropped: u64,
    /// The number of query files written; `None` where there were some already, or none to write.
    pub query_files: Option<usize>,
}

/// Makes a data directory from the newest backup.
pub fn restore(objects: &Objects, options: &RestoreOptions) -> Result<RestoreReport, BackupError> {
    let data_dir = &options.data_dir;
    let numbers = BackupManifest::numbers(objects)?;
    let Some(number) = numbers.last().copied() else {
        return Err(BackupError::Empty { place: objects.place().to_string() });
    };
    let manifest = BackupManifest::read(objects, number)?;
    let staging = begin(data_dir)?;
    let restorer = Restorer { objects, number, manifest: &manifest, staging: &staging };
    let restored = restorer.run(options.until).and_then(|restored| {
        let files = restorer.query_files(&restored.1)?;
        let query_files = write_query_files(&options.queries, files)?;
        finish(data_dir, &staging)?;
        Ok((restored, query_files))
    });
    match restored {
        Ok(((log, cut), query_files)) => {
            let (head, dropped) = (cut.head, cut.dropped);
            Ok(RestoreReport { number, manifest, log, head, dropped, query_files })
        }
        Err(error) => {
            // It takes room, and the next attempt removes it, too.
            let _ = std::fs::remove_dir_all(&staging);
            Err(error)
        }
    }
}

/// Makes the directory to work in, in a data directory that is empty or was left by such an attempt.
fn begin(data_dir: &Path) -> Result<PathBuf, BackupError> {
    let failed = named(data_dir);
    DirBuilder::new().recursive(true).mode(0o700).create(data_dir).map_err(&failed)?;
    let staging = data_dir.join(UNFINISHED);
    let entries: Vec<_> =
        std::fs::read_dir(data_dir).and_then(Iterator::collect).map_err(&failed)?;
    if staging.exists() {
        // All that is there is of the attempt: before it there was nothing.
        for entry in entries.iter().map(std::fs::DirEntry::path).filter(|path| *path != staging) {
            remove(&entry).map_err(&failed)?;
        }
        remove(&staging).map_err(&failed)?;
    } else if !entries.is_empty() {
        return Err(BackupError::NotEmpty { data_dir: data_dir.to_path_buf() });
    }
    DirBuilder::new().mode(0o700).create(&staging).map_err(&failed)?;
    sync(data_dir).map_err(&failed)?;
    Ok(staging)
}

fn remove(path: &Path) -> io::Result<()> {
    if path.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) }
}

fn sync(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

/// Moves everything to its place. As long as the directory is there that it was in, no server begins.
fn finish(data_dir: &Path, staging: &Path) -> Result<(), BackupError> {
    let failed = named(data_dir);
    for entry in std::fs::read_dir(staging).map_err(&failed)? {
        let entry = entry.map_err(&failed)?;
        std::fs::rename(entry.path(), data_dir.join(entry.file_name())).map_err(&failed)?;
    }
    sync(data_dir).map_err(&failed)?;
    std::fs::remove_dir(staging).map_err(&failed)?;
    sync(data_dir).map_err(&failed)
}

struct Restorer<'a> {
    objects: &'a Objects,
    number: u64,
    manifest: &'a BackupManifest,
    staging: &'a Path,
}

impl Restorer<'_> {
    /// Restores all that is as of `until`; returns the log's history, and the number of dropped events.
    fn run(&self, until: Option<Tick>) -> Result<(String, CutLog), BackupError> {
        let directory = log::directory(self.staging);
        self.restore_log(until)?;
        let head = Head { position: self.manifest.position, tick: self.manifest.tick };
        let mut cut = CutLog { head, dropped: 0, new_id: None, controls: Vec::new() };
        if let Some(until) = until {
            match log::first_tick(&directory)? {
                Some(first) if first > until => {
                    let (until, first) = (rfc3339(until), rfc3339(first));
                    return Err(BackupError::BeforeFirst { until, first });
                }
                _ => cut = log::cut(&directory, until)?,
            }
        }
        // This also finds a backup that was not made of a log.
        log::verify(&directory, log::readable)?;
        let is_whole = cut.dropped == 0;
        for file in &self.manifest.files {
            let path = file.path.as_str();
            let is_log = path.starts_with("log/");
            let is_state =
                engine::STATE_FILES.contains(&path) || path.split('/').next() == Some(SNAPSHOTS);
            // The state of views is left out where events are dropped: it contains them.
            if is_log || is_state && !is_whole {
                continue;
            }
            if is_state || access::FILES.contains(&path) {
                self.restore_file(file)?;
            }
        }
        if !is_whole {
            let dismissed = |control: &Control| match control {
                Control::Dismissal(letters) => Some(letters.clone()),
                Control::Queries(_) => None,
            };
            let letters: Vec<DismissedLetters> =
                cut.controls.iter().filter_map(dismissed).collect();
            engine::write_dismissals(self.staging, &letters).map_err(named(self.staging))?;
        }
        let log = match cut.new_id {
            Some(id) => id.to_string(),
            None => self.manifest.log.clone(),
        };
        Ok((log, cut))
    }

    /// Restores the segments that are needed for everything up to a time.
    fn restore_log(&self, until: Option<Tick>) -> Result<(), BackupError> {
        let is_of_log = |file: &&BackupFile| file.path.starts_with("log/");
        let files: Vec<&BackupFile> = self.manifest.files.iter().filter(is_of_log).collect();
        let list = files.iter().find(|file| file.segment.is_none());
        let mut needed = None;
        if let Some(list) = list {
            let path = self.restore_file(list)?;
            if let Some(until) = until {
                let bytes = std::fs::read(&path).map_err(named(&path))?;
                needed = log::segments_until(&bytes, until);
            }
        }
        let is_needed = |file: &&&BackupFile| match (&file.segment, &needed) {
            (Some(segment), Some(needed)) => needed.contains(&segment.name),
            (segment, _) => segment.is_some(),
        };
        let segments: Vec<&&BackupFile> = files.iter().filter(is_needed).collect();
        let others = self.manifest.files.iter().filter(|file| !is_of_log(file));
        let bytes: u64 = segments.iter().map(|file| file.bytes).sum::<u64>()
            + others.map(|file| file.bytes).sum::<u64>();
        self.expect_room(bytes.saturating_add(ROOM_LEFT))?;
        for segment in segments {
            self.restore_file(segment)?;
        }
        Ok(())
    }

    fn expect_room(&self, needed: u64) -> Result<(), BackupError> {
        let free = DiskFiles::read_only(self.staging)?.room();
        if free < needed {
            let data_dir = self.staging.parent().unwrap_or(self.staging).to_path_buf();
            return Err(BackupError::NoRoom { data_dir, needed, free });
        }
        Ok(())
    }

    /// Writes a file, on disk when this returns; where it is.
    fn restore_file(&self, file: &BackupFile) -> Result<PathBuf, BackupError> {
        let relative = Path::new(&file.path);
        let path = self.staging.join(relative);
        if !stays_within(relative) {
            let source =
                io::Error::new(io::ErrorKind::InvalidInput, "it leads out of the directory");
            return Err(BackupError::Io { path: relative.to_path_buf(), source });
        }
        let failed = named(&path);
        let parent = path.parent().unwrap_or(self.staging);
        DirBuilder::new().recursive(true).mode(0o700).create(parent).map_err(&failed)?;
        let mut options = OpenOptions::new();
        let mut out =
            options.create_new(true).write(true).mode(0o600).open(&path).map_err(&failed)?;
        for part in &file.parts {
            let bytes = part.read(self.objects, &file.path, self.number)?;
            out.write_all(&bytes).map_err(&failed)?;
        }
        out.sync_all().map_err(&failed)?;
        sync(parent).map_err(&failed)?;
        Ok(path)
    }

    /// The query files that were in use.
    fn query_files(&self, cut: &CutLog) -> Result<Vec<QueryFile>, BackupError> {
        let kept = engine::files_in_use(self.staging).map_err(named(self.staging))?;
        if let Some(files) = kept {
            return Ok(files);
        }
        Ok(cut.queries().map(|in_use| in_use.files.clone()).unwrap_or_default())
    }
}

/// A tick as people write it.
pub fn rfc3339(tick: Tick) -> String {
    let time = i64::try_from(tick).ok().and_then(DateTime::from_timestamp_millis);
    time.map_or(tick.to_string(), |time| time.to_rfc3339_opts(SecondsFormat::Millis, true))
}

/// Whether a path leads to something in the directory that it is relative to.
fn stays_within(relative: &Path) -> bool {
    relative.components().all(|component| matches!(component, Component::Normal(_)))
}

/// The directory that all of these files are in.
fn common_parent(files: &[QueryFile]) -> PathBuf {
    let mut parents = files.iter().filter_map(|file| Path::new(&file.path).parent());
    let mut common = parents.next().map(Path::to_path_buf).unwrap_or_default();
    for parent in parents {
        while !parent.starts_with(&common) && common.pop() {}
    }
    common
}

/// Writes query files to a directory that is empty or not there; how many.
fn write_query_files(
    directory: &Path,
    files: Vec<QueryFile>,
) -> Result<Option<usize>, BackupError> {
    let failed = named(directory);
    let is_empty = match std::fs::read_dir(directory) {
        Ok(mut entries) => entries.next().is_none(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => true,
        Err(error) => return Err(failed(error)),
    };
    if !is_empty || files.is_empty() {
        return Ok(None);
    }
    let parent = common_parent(&files);
    for file in &files {
        let relative = Path::new(&file.path).strip_prefix(&parent).unwrap_or(Path::new(&file.path));
        if !stays_within(relative) {
            continue;
        }
        let path = directory.join(relative);
        let failed = named(&path);
        std::fs::create_dir_all(path.parent().unwrap_or(directory)).map_err(&failed)?;
        std::fs::write(&path, &file.text).map_err(&failed)?;
    }
    Ok(Some(files.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn common_parent_is_the_directory_of_all_files() {
        let file = |path: &str| QueryFile { path: path.to_string(), text: String::new() };
        let parent = |paths: &[&str]| {
            let files: Vec<QueryFile> = paths.iter().map(|path| file(path)).collect();
            common_parent(&files).display().to_string()
        };
        assert_eq!(parent(&["queries/a.sql", "queries/b/c.sql"]), "queries");
        assert_eq!(parent(&["/x/q/a/1.sql", "/x/q/b/2.sql", "/x/q/b/3.sql"]), "/x/q");
        assert_eq!(parent(&["a.sql"]), "");
        assert_eq!(parent(&["q/a.sql", "r/b.sql"]), "");
    }
}
