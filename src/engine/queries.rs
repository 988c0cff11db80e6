//! Which set of query files is in use: the one in the directory, or, while that has errors, the
//! last one that had none.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::plan::diagnostic::{Diagnostic, SourceFile};
use crate::plan::{self, QuerySet};

/// The file in the data directory that keeps the last good set.
const LAST_GOOD_FILE: &str = "queries-last-good.json";

#[derive(Serialize, Deserialize)]
struct KeptFile {
    path: PathBuf,
    text: String,
}

/// The set of files in use.
pub struct InUse {
    pub set: QuerySet,
    /// What is wrong with the files in the directory, when they are not in use.
    pub diagnostics: Vec<Diagnostic>,
}

/// Reads and plans the queries directory, falling back to the last good set.
///
/// Without a last good set the views that have no error are used. A directory that is missing is an
/// empty one.
pub fn load(directory: &Path, data_dir: &Path, log_id: &str) -> io::Result<InUse> {
    let files = if directory.is_dir() { plan::read_files(directory)? } else { Vec::new() };
    let set = plan::plan_files(&files, log_id);
    let kept = data_dir.join(LAST_GOOD_FILE);
    if set.diagnostics.is_empty() {
        keep(&kept, &files)?;
        return Ok(InUse { set, diagnostics: Vec::new() });
    }
    let diagnostics = set.diagnostics.clone();
    let set = match recall(&kept)? {
        Some(files) => plan::plan_files(&files, log_id),
        None => set,
    };
    Ok(InUse { set, diagnostics })
}

fn keep(path: &Path, files: &[Arc<SourceFile>]) -> io::Result<()> {
    let files: Vec<KeptFile> = files
        .iter()
        .map(|file| KeptFile { path: file.path.clone(), text: file.text.clone() })
        .collect();
    let next = path.with_extension("next");
    std::fs::write(&next, serde_json::to_vec(&files)?)?;
    std::fs::rename(next, path)
}

fn recall(path: &Path) -> io::Result<Option<Vec<Arc<SourceFile>>>> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let files: Vec<KeptFile> = serde_json::from_slice(&bytes)?;
    let file = |KeptFile { path, text }| Arc::new(SourceFile { path, text });
    Ok(Some(files.into_iter().map(file).collect()))
}
