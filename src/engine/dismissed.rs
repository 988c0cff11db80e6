//! Dead letters that were accepted as lost, kept over restarts.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use crate::dataflow::Dismissal;

/// The file in the data directory.
const FILE: &str = "dismissed.json";

/// What was dismissed, by view.
pub struct Dismissed {
    path: PathBuf,
    views: Mutex<BTreeMap<String, Vec<Dismissal>>>,
}

impl Dismissed {
    /// Reads what was kept in the data directory.
    pub fn open(data_dir: &Path) -> io::Result<Self> {
        let path = data_dir.join(FILE);
        let views = match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => BTreeMap::new(),
            Err(error) => return Err(error),
        };
        Ok(Dismissed { path, views: Mutex::new(views) })
    }

    /// What was dismissed of a view.
    pub fn of(&self, view: &str) -> Vec<Dismissal> {
        let views = self.views.lock().unwrap_or_else(PoisonError::into_inner);
        views.get(view).cloned().unwrap_or_default()
    }

    /// Keeps further dismissals of a view. They are on disk when it returns.
    pub fn add(&self, view: &str, dismissals: &[Dismissal]) -> io::Result<()> {
        let mut views = self.views.lock().unwrap_or_else(PoisonError::into_inner);
        let mut next = views.clone();
        next.entry(view.to_string()).or_default().extend_from_slice(dismissals);
        let path = self.path.with_extension("next");
        let file = std::fs::File::create(&path)?;
        serde_json::to_writer(&file, &next)?;
        file.sync_all()?;
        std::fs::rename(path, &self.path)?;
        *views = next;
        Ok(())
    }
}
