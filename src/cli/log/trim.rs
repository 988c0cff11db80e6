//! `heliostat log trim`.

use std::path::Path;

use super::super::replay::tick;
use super::super::{DONE, ENVIRONMENT, WRONG_INPUT, config, report};
use super::{code_of, count};
use crate::engine::{self, ViewFloor};
use crate::log::{self, Trim, TrimBefore};
use crate::model::Position;

/// Trims, or says what that would do; the exit code.
pub fn run(
    data_dir: &Path,
    before: &str,
    dry_run: bool,
    queries: &Path,
    config: Option<&Path>,
) -> u8 {
    let before = match before.parse::<Position>() {
        Ok(position) => TrimBefore::Position(position),
        Err(_) => match tick(before) {
            Ok(time) => TrimBefore::Time(time),
            Err(_) => {
                eprintln!(
                    "error: --before: expected a position or a time as 2026-11-23T10:00:00Z, got {before:?}"
                );
                return WRONG_INPUT;
            }
        },
    };
    let limits = match config::limits(config) {
        Ok(limits) => limits,
        Err(error) => {
            report(&error);
            return WRONG_INPUT;
        }
    };
    let directory = log::directory(data_dir);
    // Locked for as long as it is looked at.
    let wanted = match Trim::plan(&directory, before) {
        Ok(wanted) => wanted,
        Err(error) => {
            report(&error);
            return code_of(&error);
        }
    };
    let floors = match engine::view_floors(data_dir, queries, limits, &wanted.history()) {
        Ok(floors) => floors,
        Err(error) => {
            report(&error);
            return ENVIRONMENT;
        }
    };
    let needs_all: Vec<String> = floors
        .iter()
        .filter_map(|ViewFloor { view, floor }| {
            floor
                .as_ref()
                .err()
                .map(|reason| format!("error: {view} needs the whole log: {reason}"))
        })
        .collect();
    if !needs_all.is_empty() {
        needs_all.iter().for_each(|line| eprintln!("{line}"));
        eprintln!("error: nothing was trimmed");
        return WRONG_INPUT;
    }
    let floor = floors.iter().filter_map(|view| view.floor.as_ref().ok()).min();
    let most = floor.copied().unwrap_or(Position::MAX);
    let asked = wanted.positions();
    let trim = wanted.at_most(most);
    let Some((first, last)) = trim.positions() else {
        println!(
            "nothing is to be trimmed: only whole segments go that are not written to any more"
        );
        say_floor(&floors, asked, most);
        return DONE;
    };
    let (segments, bytes) = trim.size();
    println!("positions {first} to {last}: {}, {bytes} bytes", count(segments, "segment"));
    say_floor(&floors, asked, most);
    println!("without them:");
    println!(
        "- a view that is new, changes or is rebuilt cannot be computed from the beginning: it fails, \
         unless others keep the latest rows of all of its tables, and it is not rebuilt"
    );
    println!(
        "- so does a view whose snapshot is lost, or that another version of Heliostat computes otherwise"
    );
    println!("- GET /v1/events and streams answer 410 for positions up to {last}");
    println!("- `heliostat replay` and restoring to a time before need a backup of before");
    if dry_run {
        println!("nothing was changed: --dry-run");
        return DONE;
    }
    match trim.run() {
        Ok(()) => {
            println!("trimmed");
            DONE
        }
        Err(error) => {
            report(&error);
            code_of(&error)
        }
    }
}

/// Says which view holds events that were to go.
fn say_floor(floors: &[ViewFloor], asked: Option<(Position, Position)>, most: Position) {
    if asked.is_some_and(|(_, last)| last > most)
        && let Some(view) = floors.iter().find(|view| view.floor == Ok(most))
    {
        println!(
            "events behind position {most} stay: that is where the snapshot of {} is",
            view.view
        );
    }
}
