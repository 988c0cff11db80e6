//! Every `.slt` file below this directory, in every mode: however events arrive, whatever the number
//! of workers, through retractions and restarts, a view is what its file says and what a batch
//! engine answers over the same events. `HELIOSTAT_BLESS=1` (`make bless`) writes the rows that the
//! views have into the files; the batch engine has to agree with them all the same.

mod cells;
#[path = "../common/mod.rs"]
mod common;
#[path = "../common/postgres.rs"]
mod common_postgres;
mod duckdb;
mod generate;
mod long;
mod modes;
mod oracle;
mod postgres;
#[path = "../postgres/cells.rs"]
#[allow(dead_code, reason = "the functions' own tests use all of it")]
mod postgres_cells;
mod reasons;
mod script;
mod server;
mod typed;
mod unnest_large;
#[path = "../common/ulps.rs"]
mod ulps;

use std::path::{Path, PathBuf};

use common::rng;
use modes::Mode;
use script::Script;

/// All files, in the order of their paths; `HELIOSTAT_SLT` selects by a part of the path.
fn scripts() -> Vec<Script> {
    let wanted = std::env::var("HELIOSTAT_SLT").unwrap_or_default();
    let mut paths = Vec::new();
    collect(&script::root(), &mut paths);
    paths.sort();
    paths.retain(|path| path.to_string_lossy().contains(&wanted));
    assert!(!paths.is_empty(), "no file of tests/sql has {wanted:?} in its path");
    paths.iter().map(|path| Script::read(path)).collect()
}

fn collect(directory: &Path, paths: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, paths);
        } else if path.extension().is_some_and(|extension| extension == "slt") {
            paths.push(path);
        }
    }
}

/// Runs every file in this mode, and tells of all that differ.
fn check(mode: &Mode) {
    let mut wrong = Vec::new();
    for script in scripts() {
        for problem in modes::run(&script, mode) {
            wrong.push(format!("{}: {mode}: {problem}", script.name()));
        }
    }
    assert!(wrong.is_empty(), "{} differences\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn events_first() {
    if std::env::var_os("HELIOSTAT_BLESS").is_some() {
        scripts().iter().for_each(modes::bless);
    }
    check(&Mode::events_first(1));
    check(&Mode::events_first(2));
    check(&Mode::events_first(3));
}

#[test]
fn views_first() {
    check(&Mode::views_first(2));
}

#[test]
fn any_order() {
    (1..=3).for_each(|seed| check(&Mode::any_order(seed)));
}

#[test]
fn churn() {
    (1..=3).for_each(|seed| check(&Mode::churn(seed)));
}

#[test]
fn kept() {
    (1..=4).for_each(|seed| check(&Mode::kept(seed)));
}

#[test]
fn filled() {
    (1..=3).for_each(|seed| check(&Mode::filled(seed)));
    let filled = modes::FILLED.load(std::sync::atomic::Ordering::Relaxed);
    let selected = std::env::var_os("HELIOSTAT_SLT").is_some();
    assert!(selected || filled > 1_000, "only {filled} views have been filled");
}

#[test]
fn mixed() {
    (1..=6).for_each(|seed| check(&Mode::mixed(seed)));
}

#[test]
fn restart() {
    check(&Mode::restart(2));
}

#[test]
fn killed_server() {
    let wrong = server::check(&scripts());
    assert!(wrong.is_empty(), "{} differences\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn refusals() {
    let mut wrong = Vec::new();
    for script in scripts() {
        wrong.extend(script.wrong_refusals().iter().map(|w| format!("{}: {w}", script.name())));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The other direction, that the list has every reason, is checked when a file is read.
#[test]
fn reasons_are_all_given() {
    let scripts = scripts();
    let given: Vec<&str> =
        scripts.iter().flat_map(|s| &s.views).filter_map(|view| view.oracle.reason).collect();
    let unused = reasons::unused(&given);
    let selected = std::env::var_os("HELIOSTAT_SLT").is_some();
    assert!(selected || unused.is_empty(), "no file gives these reasons: {unused:?}");
}
