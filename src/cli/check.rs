//! `heliostat check`: everything that is wrong with the query files.

use std::path::PathBuf;

use super::{DONE, ENVIRONMENT, WRONG_INPUT};
use crate::plan;

/// Arguments of `heliostat check`.
#[derive(clap::Args)]
pub struct CheckArgs {
    /// The directory of the query files.
    #[arg(env = "HELIOSTAT_QUERIES", default_value = "queries")]
    directory: PathBuf,
}

/// Checks; prints diagnostics to standard error and a summary to standard output.
pub fn run(args: &CheckArgs) -> u8 {
    let set = match plan::load(&args.directory, "") {
        Ok(set) => set,
        Err(error) => {
            eprintln!("error: {error}");
            return ENVIRONMENT;
        }
    };
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
    DONE
}
