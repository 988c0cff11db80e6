//! `heliostat check`: everything that is wrong with the query files, and with a log read by them.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::audit::{self, AuditError};
use super::{DONE, ENVIRONMENT, WRONG_INPUT, config, report};
use crate::engine::trial::{self, Trial};
use crate::log::LogError;
use crate::plan;
use crate::plan::diagnostic::SourceFile;

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
    /// The configuration file, for its `[limits]` [default: heliostat.toml, if there is one]
    #[arg(long, env = "HELIOSTAT_CONFIG")]
    config: Option<PathBuf>,
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
    let limits = match config::limits(args.config.as_deref()) {
        Ok(limits) => limits,
        Err(error) => {
            report(&error);
            return WRONG_INPUT;
        }
    };
    let trial = match trial::try_files(&files, &limits) {
        Ok(trial) => trial,
        Err(error) => {
            report(&error);
            return ENVIRONMENT;
        }
    };
    for diagnostic in &trial.diagnostics {
        eprintln!("{diagnostic}");
    }
    if !trial.diagnostics.is_empty() {
        let errors = trial.diagnostics.len();
        eprintln!("{errors} error{}", if errors == 1 { "" } else { "s" });
        return WRONG_INPUT;
    }
    let Trial { tables, views, .. } = trial;
    println!("ok: {tables} event tables, {views} materialized views");
    match &args.against {
        None => DONE,
        Some(data_dir) => against(&files, data_dir),
    }
}

fn against(files: &[Arc<SourceFile>], data_dir: &Path) -> u8 {
    match audit::audit(files, data_dir) {
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
