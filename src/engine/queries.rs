//! Which query files are in use: those in the directory, or, while they have errors, the last ones
//! that had none; and the files that the answering views were made of.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use crate::plan::diagnostic::{Diagnostic, SourceFile};
use crate::plan::{self, QuerySet, ViewPlan};

/// The file in the data directory that keeps sets of query files.
const KEPT_FILE: &str = "queries-kept.json";

#[derive(Clone, Serialize, Deserialize)]
struct KeptFile {
    path: PathBuf,
    text: String,
}

/// What is kept over restarts.
#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
struct Kept {
    /// Sets of files without an error, by the hash of their content.
    sets: BTreeMap<String, Vec<KeptFile>>,
    /// The last set that was in use.
    last_good: Option<String>,
    /// The generation of each view that answers, and the set that it was planned from.
    serving: BTreeMap<String, Serving>,
    /// How often each view was rebuilt.
    rebuilds: BTreeMap<String, u64>,
}

#[derive(Clone, PartialEq, Serialize, Deserialize)]
struct Serving {
    generation: String,
    set: String,
    rebuilds: u64,
}

/// The queries directory, and what is remembered of it.
pub struct Queries {
    directory: PathBuf,
    kept_path: PathBuf,
    log_id: String,
    kept: Kept,
    /// The files as they were when they were last looked at, and when they were last planned.
    seen: Vec<Arc<SourceFile>>,
    planned: Option<Vec<Arc<SourceFile>>>,
}

/// A set of files that was planned.
pub struct InUse {
    /// `None` when the files have errors and the set before them stays.
    pub set: Option<QuerySet>,
    pub diagnostics: Vec<Diagnostic>,
}

impl Queries {
    /// Reads what was kept in the data directory.
    pub fn open(directory: &Path, data_dir: &Path, log_id: String) -> io::Result<Self> {
        let kept_path = data_dir.join(KEPT_FILE);
        let kept = match std::fs::read(&kept_path) {
            Ok(bytes) => serde_json::from_slice(&bytes)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Kept::default(),
            Err(error) => return Err(error),
        };
        let directory = directory.to_path_buf();
        Ok(Queries { directory, kept_path, log_id, kept, seen: Vec::new(), planned: None })
    }

    /// Plans the directory, falling back to the last good set.
    ///
    /// Without a last good set the views that have no error are used. A directory that is missing
    /// is an empty one.
    pub fn load(&mut self) -> io::Result<InUse> {
        self.seen = self.read()?;
        let mut in_use = self.plan()?;
        if in_use.set.is_none() {
            let last = self.kept.last_good.as_ref().and_then(|set| self.kept.sets.get(set));
            let files = last.map_or_else(|| self.seen.clone(), |files| source_files(files));
            in_use.set = Some(self.numbered(plan::plan_files(&files, &self.log_id)));
        }
        Ok(in_use)
    }

    /// Plans the directory again if its files have changed and rest: a file is often seen half
    /// written, so they have to be the same at two looks.
    pub fn reload(&mut self) -> io::Result<Option<InUse>> {
        let files = self.read()?;
        let rest = files == self.seen;
        self.seen = files;
        if !rest || self.planned.as_ref() == Some(&self.seen) {
            return Ok(None);
        }
        self.plan().map(Some)
    }

    fn read(&self) -> io::Result<Vec<Arc<SourceFile>>> {
        match self.directory.is_dir() {
            true => plan::read_files(&self.directory),
            false => Ok(Vec::new()),
        }
    }

    fn plan(&mut self) -> io::Result<InUse> {
        self.planned = Some(self.seen.clone());
        let mut set = plan::plan_files(&self.seen, &self.log_id);
        let diagnostics = std::mem::take(&mut set.diagnostics);
        if !diagnostics.is_empty() {
            return Ok(InUse { set: None, diagnostics });
        }
        let files: Vec<KeptFile> = self
            .seen
            .iter()
            .map(|file| KeptFile { path: file.path.clone(), text: file.text.clone() })
            .collect();
        let name = format!("{:016x}", xxh3_64(&serde_json::to_vec(&files)?));
        self.kept.sets.insert(name.clone(), files);
        self.kept.last_good = Some(name);
        self.keep()?;
        Ok(InUse { set: Some(self.numbered(set)), diagnostics })
    }

    /// Gives rebuilt views generations of their own.
    fn numbered(&self, mut set: QuerySet) -> QuerySet {
        for view in &mut set.views {
            let rebuilds = self.kept.rebuilds.get(&view.schema.name).copied().unwrap_or(0);
            *view = rebuilt(view, rebuilds);
        }
        set
    }

    /// The plan of the generation of this view that answered when the server last ran.
    pub fn served_before(&self, view: &str) -> Option<ViewPlan> {
        let serving = self.kept.serving.get(view)?;
        let files = source_files(self.kept.sets.get(&serving.set)?);
        let set = plan::plan_files(&files, &self.log_id);
        let plan = set.views.iter().find(|plan| plan.schema.name == view)?;
        let plan = rebuilt(plan, serving.rebuilds);
        (plan.schema.generation == serving.generation).then_some(plan)
    }

    /// Remembers that a view of the files in use answers now.
    pub fn serves(&mut self, plan: &ViewPlan) -> io::Result<()> {
        let Some(set) = self.kept.last_good.clone() else { return Ok(()) };
        let name = &plan.schema.name;
        let rebuilds = self.kept.rebuilds.get(name).copied().unwrap_or(0);
        let generation = plan.schema.generation.clone();
        let serving = Serving { generation, set, rebuilds };
        // The same view out of other files needs no other memory.
        let known = self.kept.serving.get(name);
        if known.is_some_and(|known| known.generation == serving.generation) {
            return Ok(());
        }
        self.kept.serving.insert(name.clone(), serving);
        self.keep()
    }

    /// Forgets what answered for views that are gone.
    pub fn forget_all_but(&mut self, wanted: impl Fn(&str) -> bool) -> io::Result<()> {
        let before = self.kept.serving.len();
        self.kept.serving.retain(|view, _| wanted(view));
        if self.kept.serving.len() < before { self.keep() } else { Ok(()) }
    }

    /// The next generation of the same SQL.
    pub fn rebuild(&mut self, plan: &ViewPlan) -> io::Result<ViewPlan> {
        let view = plan.schema.name.clone();
        let rebuilds = self.kept.rebuilds.entry(view).or_insert(0);
        *rebuilds += 1;
        let next = rebuilt(plan, *rebuilds);
        self.keep()?;
        Ok(next)
    }

    fn keep(&mut self) -> io::Result<()> {
        let used: BTreeSet<&String> = self
            .kept
            .serving
            .values()
            .map(|serving| &serving.set)
            .chain(&self.kept.last_good)
            .collect();
        let unused: Vec<String> =
            self.kept.sets.keys().filter(|set| !used.contains(set)).cloned().collect();
        unused.iter().for_each(|set| drop(self.kept.sets.remove(set)));
        let next = self.kept_path.with_extension("next");
        let file = std::fs::File::create(&next)?;
        serde_json::to_writer(&file, &self.kept)?;
        file.sync_all()?;
        std::fs::rename(next, &self.kept_path)
    }
}

fn source_files(files: &[KeptFile]) -> Vec<Arc<SourceFile>> {
    let file = |file: &KeptFile| SourceFile { path: file.path.clone(), text: file.text.clone() };
    files.iter().map(|kept| Arc::new(file(kept))).collect()
}

/// The same view with the generation that it has after so many rebuilds.
///
/// The number of the rebuild is hashed with what the generation stands for, so the plan must have
/// that generation, or one of an earlier rebuild, only through this function.
fn rebuilt(plan: &ViewPlan, rebuilds: u64) -> ViewPlan {
    if rebuilds == 0 {
        return plan.clone();
    }
    let mut schema = (*plan.schema).clone();
    let of = format!("{} rebuilt {rebuilds}", plan.schema.generation);
    schema.generation = format!("{:016x}", xxh3_64(of.as_bytes()));
    ViewPlan { schema: Arc::new(schema), ..plan.clone() }
}
