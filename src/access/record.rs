//! The record of administrative acts: who did what, and when. A file that only grows.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use chrono::{SecondsFormat, Utc};
use serde::Serialize;

/// The file in the data directory, a line of JSON an act.
pub const FILE: &str = "admin.ndjson";

/// An administrative act.
#[derive(Debug, Serialize)]
pub struct AdminAct<'a> {
    /// The name of the token, or `command line`.
    pub by: &'a str,
    /// `token create`, `token revoke`, `rebuild`, `retry` or `dismiss`.
    pub act: &'a str,
    /// The view, token or selection that it was about.
    pub about: &'a str,
    /// The outcome.
    pub result: &'a str,
}

#[derive(Serialize)]
struct Line<'a> {
    time: String,
    #[serde(flatten)]
    act: &'a AdminAct<'a>,
}

/// Writes acts down.
#[derive(Clone, Debug)]
pub struct AdminRecord {
    path: PathBuf,
}

impl AdminRecord {
    /// The record in a data directory.
    pub fn new(data_dir: &Path) -> Self {
        AdminRecord { path: data_dir.join(FILE) }
    }

    /// Appends an act, on disk when this returns. Blocking.
    pub fn write(&self, act: &AdminAct<'_>) -> io::Result<()> {
        let time = Utc::now().to_rfc3339_opts(SecondsFormat::Millis, true);
        let mut line = serde_json::to_vec(&Line { time, act }).map_err(io::Error::other)?;
        line.push(b'\n');
        let options = fs::OpenOptions::new().create(true).append(true).mode(0o600).to_owned();
        let mut file = options.open(&self.path)?;
        file.write_all(&line)?;
        file.sync_data()
    }

    /// The same; where it cannot be written, that is logged with the act.
    pub fn note(&self, act: &AdminAct<'_>) {
        tracing::info!(by = act.by, act = act.act, about = act.about, result = act.result, "admin");
        if let Err(error) = self.write(act) {
            tracing::error!(%error, path = %self.path.display(), "an act could not be written down");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn acts_are_lines_of_json() {
        let directory = tempfile::tempdir().unwrap();
        let record = AdminRecord::new(directory.path());
        let act = AdminAct { by: "ops", act: "rebuild", about: "a\nb", result: "done" };
        record.write(&act).unwrap();
        record.write(&act).unwrap();
        let text = fs::read_to_string(directory.path().join(FILE)).unwrap();
        let lines: Vec<serde_json::Value> =
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[1]["about"], "a\nb");
        assert!(lines[1]["time"].as_str().unwrap().ends_with('Z'));
    }
}
