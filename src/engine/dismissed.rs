//! Dead letters that were accepted as lost, kept over restarts.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use serde::Deserialize;

use super::files;
use crate::dataflow::{Dismissal, Ranges, reason_hash};
use crate::log::DismissedLetters;
use crate::model::Position;

/// The file in the data directory.
pub const FILE: &str = "dismissed.json";

/// Dismissed dead letters, by view. Each expression and event type has one dismissal, which holds
/// all of them.
pub struct Dismissals {
    path: PathBuf,
    views: Mutex<BTreeMap<String, Vec<Dismissal>>>,
}

/// A dismissal as it was written when each reason had one of its own.
#[derive(Deserialize)]
struct OfReason {
    expression: String,
    reason: String,
    from: Position,
    to: Position,
    rows: i64,
}

impl Dismissals {
    /// Reads the dismissals of the data directory.
    pub fn open(data_dir: &Path) -> io::Result<Self> {
        let path = data_dir.join(FILE);
        let views = match std::fs::read(&path) {
            Ok(bytes) => read(&bytes)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => BTreeMap::new(),
            Err(error) => return Err(error),
        };
        Ok(Dismissals { path, views: Mutex::new(views) })
    }

    /// The dismissals of a view.
    pub fn of(&self, view: &str) -> Vec<Dismissal> {
        let views = self.views.lock().unwrap_or_else(PoisonError::into_inner);
        views.get(view).cloned().unwrap_or_default()
    }

    /// Keeps further dismissals of a view. They are on disk when it returns.
    pub fn add(&self, view: &str, dismissals: &[Dismissal]) -> io::Result<()> {
        let mut views = self.views.lock().unwrap_or_else(PoisonError::into_inner);
        let mut next = views.clone();
        let of_view = next.entry(view.to_string()).or_default();
        dismissals.iter().for_each(|dismissal| merge(of_view, dismissal));
        files::replace(&self.path, &next)?;
        *views = next;
        Ok(())
    }
}

/// Writes the dismissals that control frames of a log tell of into a data directory without any.
pub fn write_told(data_dir: &Path, letters: &[DismissedLetters]) -> io::Result<()> {
    let dismissals = Dismissals::open(data_dir)?;
    for DismissedLetters { view, dismissals: told } in letters {
        // Dismissals in the words of another version are left out: a letter told again does less harm than
        // one that is hidden.
        if let Ok(told) = serde_json::from_value::<Vec<Dismissal>>(told.clone()) {
            dismissals.add(view, &told)?;
        }
    }
    Ok(())
}

fn merge(all: &mut Vec<Dismissal>, dismissal: &Dismissal) {
    match all.iter_mut().find(|known| known.is_like(dismissal)) {
        Some(known) => known.merge(dismissal),
        None => all.push(dismissal.clone()),
    }
}

fn read(bytes: &[u8]) -> io::Result<BTreeMap<String, Vec<Dismissal>>> {
    let error = match serde_json::from_slice(bytes) {
        Ok(views) => return Ok(views),
        Err(error) => error,
    };
    let Ok(views) = serde_json::from_slice::<BTreeMap<String, Vec<OfReason>>>(bytes) else {
        return Err(error.into());
    };
    let all = |of_reasons: Vec<OfReason>| {
        let mut all = Vec::new();
        of_reasons.iter().for_each(|of_reason| merge(&mut all, &of_reason.dismissal()));
        all
    };
    Ok(views.into_iter().map(|(view, of_reasons)| (view, all(of_reasons))).collect())
}

impl OfReason {
    fn dismissal(&self) -> Dismissal {
        let mut events = Ranges::default();
        events.add(self.from, self.to);
        let rows = (self.rows > 0).then(|| (reason_hash(&self.reason), self.rows));
        let expression = self.expression.clone();
        Dismissal { expression, event_type: None, events, rows: rows.into_iter().collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dismissals_are_kept_and_files_with_one_for_each_reason_are_read() {
        let directory = tempfile::tempdir().unwrap();
        let before = r#"{"v": [
            {"expression": "a / b", "reason": "division by zero", "from": 0, "to": 9, "rows": 2},
            {"expression": "a / b", "reason": "overflow", "from": 20, "to": 21, "rows": 0}
        ]}"#;
        std::fs::write(directory.path().join(FILE), before).unwrap();
        let dismissed = Dismissals::open(directory.path()).unwrap();
        let [only] = &dismissed.of("v")[..] else { panic!("one for the expression") };
        assert_eq!(only.events.iter().collect::<Vec<_>>(), [(0, 9), (20, 21)]);
        assert_eq!(only.rows, BTreeMap::from([(reason_hash("division by zero"), 2)]));
        dismissed.add("v", std::slice::from_ref(only)).unwrap();
        let again = Dismissals::open(directory.path()).unwrap();
        assert_eq!(again.of("v"), dismissed.of("v"));
        assert_eq!(again.of("v")[0].rows, BTreeMap::from([(reason_hash("division by zero"), 4)]));
        std::fs::write(directory.path().join(FILE), "{\"v\": 1}").unwrap();
        assert!(Dismissals::open(directory.path()).is_err());
    }
}
