//! Query files → plans, for a server: tried in a process of its own, then planned here on a thread
//! that has the stack for it.

use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use xxhash_rust::xxh3::Xxh3;

use super::trial::{self, Trial, TrialError};
use crate::model::limits::Limits;
use crate::plan::diagnostic::{Diagnostic, SourceFile};
use crate::plan::{self, QuerySet};

/// The files of one set, in the order of their paths.
pub type FileSet = Vec<Arc<SourceFile>>;

/// Reads, tries and plans the files of one directory.
pub struct Planner {
    directory: PathBuf,
    log_id: String,
    limits: Limits,
    /// The names of sets that need no further trial.
    passed: HashSet<String>,
}

/// A set of files that was tried, and planned if it has no errors.
pub struct PlannedFiles {
    pub files: FileSet,
    /// See [`set_name`].
    pub name: String,
    pub diagnostics: Vec<Diagnostic>,
    /// `None` where there are errors.
    pub set: Option<QuerySet>,
    trial: Trial,
}

/// The name of a set: the hash of its files' paths and texts.
pub fn set_name<'a>(files: impl Iterator<Item = (&'a Path, &'a str)>) -> String {
    let mut hash = Xxh3::new();
    for (path, text) in files {
        for part in [path.as_os_str().as_encoded_bytes(), text.as_bytes()] {
            hash.update(&(part.len() as u64).to_le_bytes());
            hash.update(part);
        }
    }
    format!("{:032x}", hash.digest128())
}

impl Planner {
    pub fn new(directory: &Path, log_id: String, limits: Limits) -> Self {
        let directory = directory.to_path_buf();
        Planner { directory, log_id, limits, passed: HashSet::new() }
    }

    /// The directory of the query files.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The program and limits that a verdict depends on beside the files.
    pub fn judge(&self) -> String {
        trial::judge(&self.limits)
    }

    /// Remembers that a set has passed its trial before.
    pub fn trust(&mut self, name: String) {
        self.passed.insert(name);
    }

    /// The files as they are now. A directory that is missing is an empty one.
    pub fn read(&self) -> io::Result<FileSet> {
        match self.directory.is_dir() {
            true => plan::read_files(&self.directory),
            false => Ok(Vec::new()),
        }
    }

    /// Tries the files, and plans them if they pass.
    pub fn plan(&mut self, files: FileSet) -> Result<PlannedFiles, TrialError> {
        let name = set_name(files.iter().map(|file| (file.path.as_path(), file.text.as_str())));
        if !self.passed.contains(&name) {
            let started = Instant::now();
            let trial = trial::try_files(&files, &self.limits)?;
            let ms = started.elapsed().as_millis();
            tracing::info!(set = name, ms, errors = trial.diagnostics.len(), "tried query files");
            if !trial.diagnostics.is_empty() {
                let diagnostics = trial.diagnostics.clone();
                return Ok(PlannedFiles { files, name, diagnostics, set: None, trial });
            }
            self.passed.insert(name.clone());
        }
        let trial = Trial::passed();
        let mut set = self.planned_here(&files, &name, &trial)?;
        let diagnostics = std::mem::take(&mut set.diagnostics);
        let set = diagnostics.is_empty().then_some(set);
        Ok(PlannedFiles { files, name, diagnostics, set, trial })
    }

    /// The usable part of a set with errors.
    pub fn plan_rest(&self, planned: &PlannedFiles) -> Result<QuerySet, TrialError> {
        self.planned_here(&planned.files, &planned.name, &planned.trial)
    }

    fn planned_here(
        &self,
        files: &FileSet,
        name: &str,
        trial: &Trial,
    ) -> Result<QuerySet, TrialError> {
        let started = Instant::now();
        let set = trial::plan_tried(files, trial, &self.log_id)?;
        let (ms, views) = (started.elapsed().as_millis(), set.views.len());
        tracing::info!(set = name, ms, views, "planned query files");
        Ok(set)
    }
}
