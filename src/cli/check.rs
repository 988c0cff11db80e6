//! `heliostat check`: everything that is wrong with the query files, and with a log read by them.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::audit::{self, AuditError};
use super::{DONE, ENVIRONMENT, WRONG_INPUT, report};
use crate::log::LogError;
use crate::plan::diagnostic::SourceFile;
use crate::plan::{self, QuerySet};

/// Arguments of `heliostat check`.
#[derive(clap::Args)]
pub struct CheckArgs {
    /// The directory of the query files.
    #[arg(env = "HELIOSTAT_QUERIES", default_value = "queries")]
    directory: PathBuf,
    /// Also read every event in this data directory with the declared tables and upcasts, and tell
    /// which would be dead letters. A server may have it open.
    #[arg(long, value_name = "DATA_DIR")]
    against: Option<PathBuf>,
}

/// Checks; prints diagnostics to standard error and a summary to standard output.
pub fn run(args: &CheckArgs) -> u8 {
    let files = match plan::read_files(&args.directory) {
        Ok(files) => files,
        Err(error) => {
            eprintln!("error: {error}");
            return ENVIRONMENT;
        }
    };
    let set = plan::plan_files(&files, "");
    for diagnostic in &set.diagnostics {
        eprintln!("{diagnostic}");
    }
    if !set.diagnostics.is_empty() {
        let errors = set.diagnostics.len();
        eprintln!("{errors} error{}", if errors == 1 { "" } else { "s" });
        return WRONG_INPUT;
    }
    let (tables, views) = (set.tables.len(), set.views.len());
    println!("ok: {tables} event tables, {views} materialized views");
    match &args.against {
        None => DONE,
        Some(data_dir) => against(&files, &set, data_dir),
    }
}

fn against(files: &[Arc<SourceFile>], set: &QuerySet, data_dir: &Path) -> u8 {
    match audit::audit(files, &set.tables, data_dir) {
        Ok(found) if found.misfits.is_empty() => {
            println!("ok: {} events fit", found.events);
            DONE
        }
        Ok(found) => {
            found.misfits.iter().for_each(|misfit| eprintln!("error: {misfit}"));
            let failing: i64 = found.misfits.iter().map(|misfit| misfit.count).sum();
            eprintln!("{failing} of {} events would be dead letters", found.events);
            WRONG_INPUT
        }
        Err(error) => {
            report(&error);
            match error {
                AuditError::Log(LogError::Io { .. }) | AuditError::Run(_) => ENVIRONMENT,
                AuditError::Log(_) => WRONG_INPUT,
            }
        }
    }
}
