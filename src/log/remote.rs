//! Archived segments in an object store: where that is, and what was fetched from there.
//!
//! `archive.json` beside the segments says where they are. Whoever reads the log, in whatever process,
//! fetches the segments that it needs to the directory `fetched`, where the newest ones stay.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::objects::{Objects, ObjectsError};

/// The file that says where archived segments are, and the directory of those that were fetched.
const PLACE: &str = "archive.json";
const FETCHED: &str = "fetched";
/// Bytes of fetched segments that are kept at most.
const FETCHED_BYTES_MAX: u64 = 1 << 30;

/// Where archived segments are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArchivePlace {
    /// A directory or the URL of a store.
    pub to: String,
    /// The prefix of the objects' names: the log's id.
    pub prefix: String,
}

impl ArchivePlace {
    /// Writes the place into a file, from which readers of the log learn it. `in_use`: the place that the
    /// file names now has segments. Then it cannot change.
    pub fn tell(&self, files: &dyn super::Files, in_use: bool) -> io::Result<()> {
        match files.read_all(PLACE) {
            Ok(bytes) => {
                let told: ArchivePlace = serde_json::from_slice(&bytes)?;
                if told == *self {
                    return Ok(());
                }
                if in_use {
                    return Err(io::Error::other(format!(
                        "archived segments are in {}, and archive.to says {}: set it back",
                        told.to, self.to
                    )));
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        files.replace(PLACE, &serde_json::to_vec(self)?)
    }

    /// The name of a segment's object.
    pub fn object(&self, name: &str) -> String {
        format!("archive/{}/{name}", self.prefix)
    }
}

/// The store of a log's directory.
#[derive(Debug)]
pub struct RemoteSegments {
    directory: PathBuf,
    open: Mutex<Option<Arc<OpenStore>>>,
}

/// A store that was opened.
#[derive(Debug)]
struct OpenStore {
    objects: Objects,
    place: ArchivePlace,
}

fn failed(error: ObjectsError) -> io::Error {
    match error {
        ObjectsError::Missing { .. } => io::Error::new(io::ErrorKind::NotFound, error),
        error => io::Error::other(error),
    }
}

impl RemoteSegments {
    /// The store of the log in this directory. It is opened at its first use, if the directory names one.
    pub fn new(directory: &Path) -> Self {
        RemoteSegments { directory: directory.to_path_buf(), open: Mutex::default() }
    }

    /// Opens the store that the directory tells of now; `None` if it tells of none.
    fn store(&self) -> io::Result<Option<Arc<OpenStore>>> {
        let bytes = match std::fs::read(self.directory.join(PLACE)) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let place: ArchivePlace = serde_json::from_slice(&bytes)?;
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.as_ref().is_none_or(|open| open.place != place) {
            let objects = Objects::open(&place.to).map_err(failed)?;
            *open = Some(Arc::new(OpenStore { objects, place }));
        }
        Ok(open.clone())
    }

    /// Sends a file, and reads it back.
    pub fn send(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let Some(store) = self.store()? else {
            return Err(io::Error::other("no store for archived segments is told of"));
        };
        let object = store.place.object(name);
        store.objects.put(&object, bytes.to_vec().into()).map_err(failed)?;
        if store.objects.get(&object).map_err(failed)? != bytes {
            let what = format!("{}: {object} is not what was sent", store.place.to);
            return Err(io::Error::other(what));
        }
        Ok(())
    }

    /// Removes a file from the store.
    pub fn remove(&self, name: &str) -> io::Result<()> {
        let _ = std::fs::remove_file(self.directory.join(FETCHED).join(name));
        let Some(store) = self.store()? else { return Ok(()) };
        store.objects.remove(&store.place.object(name)).map_err(failed)
    }

    /// The path of a file here, which is fetched if it is not there yet.
    pub fn fetch(&self, name: &str) -> io::Result<PathBuf> {
        let directory = self.directory.join(FETCHED);
        let path = directory.join(name);
        if path.exists() {
            return Ok(path);
        }
        let Some(store) = self.store()? else { return Err(io::ErrorKind::NotFound.into()) };
        let bytes = store.objects.get(&store.place.object(name)).map_err(failed)?;
        std::fs::create_dir_all(&directory)?;
        make_room(&directory, bytes.len() as u64)?;
        let mut file = tempfile::NamedTempFile::new_in(&directory)?;
        file.write_all(&bytes)?;
        file.persist(&path)?;
        Ok(path)
    }
}

/// Removes the files that were fetched first, so that there is room for so many bytes.
fn make_room(directory: &Path, bytes: u64) -> io::Result<()> {
    let mut files: Vec<(SystemTime, u64, PathBuf)> = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        // Another process may remove it meanwhile.
        let Ok(found) = entry.metadata() else { continue };
        files.push((found.modified()?, found.len(), entry.path()));
    }
    files.sort_unstable();
    let mut all = bytes + files.iter().map(|(_, len, _)| len).sum::<u64>();
    for (_, len, path) in files {
        if all <= FETCHED_BYTES_MAX {
            break;
        }
        let _ = std::fs::remove_file(path);
        all -= len;
    }
    Ok(())
}

/// Opens a file in a directory, or the one that was fetched in its place.
pub fn open(directory: &Path, remote: &RemoteSegments, name: &str) -> io::Result<File> {
    match File::open(directory.join(name)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            // It may be removed between both.
            File::open(remote.fetch(name)?).or_else(|_| File::open(remote.fetch(name)?))
        }
        opened => opened,
    }
}
