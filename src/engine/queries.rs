//! Which query files are in use: those in the directory, or, while they have errors, the last ones
//! that had none; and the files that the answering views were made of.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use super::files;
use super::planner::{FileSet, PlannedFiles, Planner, set_name};
use super::trial::TrialError;
use crate::log::{Control, QueriesInUse, QueryFile};
use crate::plan::diagnostic::{Diagnostic, SourceFile};
use crate::plan::{QuerySet, ViewPlan};

/// The file in the data directory that keeps sets of query files.
pub const KEPT_FILE: &str = "queries-kept.json";

#[derive(Clone, Serialize, Deserialize)]
struct KeptFile {
    path: PathBuf,
    text: String,
}

impl KeptFile {
    /// As the log tells of it.
    fn told(&self) -> QueryFile {
        QueryFile { path: self.path.to_string_lossy().into_owned(), text: self.text.clone() }
    }
}

/// The part that is kept over restarts.
#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
struct KeptQueries {
    /// Sets of files without an error, by the hash of their content.
    sets: BTreeMap<String, Vec<KeptFile>>,
    /// The sets that have passed their trial, each with the judge of that trial; see [`Planner::judge`].
    passed: BTreeMap<String, String>,
    /// The last set that was in use.
    last_good: Option<String>,
    /// The generation of each view that answers, and the set that it was planned from.
    serving: BTreeMap<String, ServingGeneration>,
    /// How often each view was rebuilt.
    rebuilds: BTreeMap<String, u64>,
}

#[derive(Clone, PartialEq, Serialize, Deserialize)]
struct ServingGeneration {
    generation: String,
    set: String,
    rebuilds: u64,
}

/// The sets of files that were in use, and what is remembered of them.
pub struct Queries {
    kept_path: PathBuf,
    kept: KeptQueries,
    /// The program and limits that verdicts depend on beside the files; see [`Planner::judge`].
    judge: String,
    /// The plans that answered when the server last ran, of views that have changed since.
    before: BTreeMap<String, ViewPlan>,
}

/// A set of files that was planned.
pub struct InUse {
    /// `None` when the files have errors and the set before them stays.
    pub set: Option<QuerySet>,
    pub diagnostics: Vec<Diagnostic>,
}

/// Why the server cannot say which views it has.
#[derive(Debug, thiserror::Error)]
pub enum QueriesError {
    #[error("the query files: {0}")]
    Io(#[from] io::Error),
    #[error(transparent)]
    Trial(#[from] TrialError),
}

impl Queries {
    /// Reads what was kept in the data directory; `planner` need not try again what has passed.
    pub fn open(data_dir: &Path, planner: &mut Planner) -> io::Result<Self> {
        let kept_path = data_dir.join(KEPT_FILE);
        let kept: KeptQueries = match std::fs::read(&kept_path) {
            Ok(bytes) => serde_json::from_slice(&bytes)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => KeptQueries::default(),
            Err(error) => return Err(error),
        };
        let judge = planner.judge();
        for (name, files) in &kept.sets {
            let same = name_of(files);
            if kept.passed.get(name) == Some(&judge) && *name == same {
                planner.trust(same);
            }
        }
        Ok(Queries { kept_path, kept, judge, before: BTreeMap::new() })
    }

    /// Plans the directory, falling back to the last good set, and what answered before: each set of
    /// files once. Also gives the files of the directory, which are in use or have errors.
    ///
    /// Without a last good set the views that have no error are used.
    pub fn load(&mut self, planner: &mut Planner) -> Result<(InUse, FileSet), QueriesError> {
        let mut planned = planner.plan(planner.read()?)?;
        let (files, diagnostics) =
            (planned.files.clone(), std::mem::take(&mut planned.diagnostics));
        let last = self.kept.last_good.as_ref().and_then(|set| self.kept.sets.get(set));
        if planned.set.is_some() {
            self.remember(&planned)?;
        } else if let Some(last) = last {
            planned = planner.plan(source_files(last))?;
        }
        let set = match planned.set.take() {
            Some(set) => set,
            None => planner.plan_rest(&planned)?,
        };
        self.plan_before(planner, &planned.name, &set)?;
        Ok((InUse { set: Some(self.numbered(set)), diagnostics }, files))
    }

    /// Takes over a set of files that has changed.
    pub fn accept(&mut self, planned: PlannedFiles) -> io::Result<InUse> {
        if planned.set.is_some() {
            self.remember(&planned)?;
        }
        let PlannedFiles { set, diagnostics, .. } = planned;
        Ok(InUse { set: set.map(|set| self.numbered(set)), diagnostics })
    }

    /// The control frame that records the files in use; `None` while there were none without errors.
    pub fn control(&self) -> Option<Control> {
        let set = self.kept.last_good.clone()?;
        let files = self.kept.sets.get(&set)?.iter().map(KeptFile::told).collect();
        Some(Control::Queries(QueriesInUse { set, files }))
    }

    /// Keeps a set without errors as the last good one.
    fn remember(&mut self, planned: &PlannedFiles) -> io::Result<()> {
        let name = planned.name.clone();
        let passed = self.kept.passed.get(&name) == Some(&self.judge);
        if passed && self.kept.last_good.as_ref() == Some(&name) {
            return Ok(());
        }
        let kept =
            |file: &Arc<SourceFile>| KeptFile { path: file.path.clone(), text: file.text.clone() };
        self.kept.sets.insert(name.clone(), planned.files.iter().map(kept).collect());
        self.kept.passed.insert(name.clone(), self.judge.clone());
        self.kept.last_good = Some(name);
        self.keep()
    }

    /// Plans the sets that views answered from which have changed since. `name` and `set` are those
    /// in use.
    fn plan_before(
        &mut self,
        planner: &mut Planner,
        name: &str,
        set: &QuerySet,
    ) -> Result<(), QueriesError> {
        let mut changed: BTreeMap<&String, Vec<(&String, &ServingGeneration)>> = BTreeMap::new();
        for (view, serving) in &self.kept.serving {
            let wanted = set.views.iter().find(|plan| plan.schema.name == *view);
            let rebuilds = self.kept.rebuilds.get(view).copied().unwrap_or(0);
            let same =
                |plan: &ViewPlan| rebuilt(plan, rebuilds).schema.generation == serving.generation;
            // A view that is gone does not answer any more.
            if wanted.is_some_and(|plan| !same(plan)) {
                changed.entry(&serving.set).or_default().push((view, serving));
            }
        }
        let mut before = BTreeMap::new();
        for (set_name, views) in changed {
            let planned;
            let set = if set_name == name {
                set
            } else {
                let Some(files) = self.kept.sets.get(set_name) else { continue };
                planned = planner.plan(source_files(files))?.set;
                let Some(set) = &planned else { continue };
                set
            };
            for (view, serving) in views {
                let plan = set.views.iter().find(|plan| plan.schema.name == *view);
                let plan = plan.map(|plan| rebuilt(plan, serving.rebuilds));
                let plan = plan.filter(|plan| plan.schema.generation == serving.generation);
                before.extend(plan.map(|plan| (view.clone(), plan)));
            }
        }
        self.before = before;
        Ok(())
    }

    /// Gives rebuilt views generations of their own.
    fn numbered(&self, mut set: QuerySet) -> QuerySet {
        for view in &mut set.views {
            let rebuilds = self.kept.rebuilds.get(&view.schema.name).copied().unwrap_or(0);
            *view = rebuilt(view, rebuilds);
        }
        set
    }

    /// The plan of the generation of this view that answered when the server last ran, if that is
    /// another one than the files say now.
    pub fn served_before(&mut self, view: &str) -> Option<ViewPlan> {
        self.before.remove(view)
    }

    /// Remembers that these views of the files in use answer now.
    pub fn serves<'a>(&mut self, plans: impl Iterator<Item = &'a ViewPlan>) -> io::Result<()> {
        let Some(set) = self.kept.last_good.clone() else { return Ok(()) };
        let mut is_news = false;
        for plan in plans {
            let name = &plan.schema.name;
            let rebuilds = self.kept.rebuilds.get(name).copied().unwrap_or(0);
            let generation = plan.schema.generation.clone();
            // A view keeps its entry as long as its generation is the same, even if other files have changed.
            let known = self.kept.serving.get(name);
            if known.is_none_or(|known| known.generation != generation) {
                let serving = ServingGeneration { generation, set: set.clone(), rebuilds };
                self.kept.serving.insert(name.clone(), serving);
                is_news = true;
            }
        }
        if is_news { self.keep() } else { Ok(()) }
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
        let sets = &self.kept.sets;
        self.kept.passed.retain(|set, _| sets.contains_key(set));
        files::replace(&self.kept_path, &self.kept)
    }
}

/// The query files that the server of a data directory used last, if any of them had no errors.
pub fn files_in_use(data_dir: &Path) -> io::Result<Option<Vec<QueryFile>>> {
    let bytes = match std::fs::read(data_dir.join(KEPT_FILE)) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let kept: KeptQueries = serde_json::from_slice(&bytes)?;
    let Some(files) = kept.last_good.as_ref().and_then(|set| kept.sets.get(set)) else {
        return Ok(None);
    };
    Ok(Some(files.iter().map(KeptFile::told).collect()))
}

fn name_of(files: &[KeptFile]) -> String {
    set_name(files.iter().map(|file| (file.path.as_path(), file.text.as_str())))
}

fn source_files(files: &[KeptFile]) -> FileSet {
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
