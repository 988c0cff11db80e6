//! Random programs, compared with PostgreSQL at every tick. A program that differs is made smaller as
//! long as it still does, and written as a file; moved to `tests/sql/found`, it stays tested.
//!
//! Where PostgreSQL refuses a view ("operator does not exist"), Heliostat has to refuse it, too, and
//! the other way round.
//!
//! `make test` runs seeds 1 to 1,000. `make fuzz-sql` (`HELIOSTAT_FUZZ_SECONDS`) goes on from a
//! seed of the day, or from `HELIOSTAT_SEED`; `HELIOSTAT_PROGRAMS` says how many.

mod constructs;
mod more;
mod program;
mod query;
mod relation;
mod sources;
mod windows;
mod words;

use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::modes::{self, Mode};
use super::postgres::Session;
use super::reasons;
use super::script::{CLOCK_START, Script, View};
use program::program;

/// After so many different programs a run ends.
const FOUND_MAX: usize = 5;

fn mode_of(seed: u64) -> Mode {
    match seed % 3 {
        0 => Mode::churn(seed),
        _ => Mode::any_order(seed),
    }
}

/// The differences; there are no rows of a file to compare with.
fn problems(script: &Script, mode: &Mode) -> Vec<String> {
    catch_unwind(AssertUnwindSafe(|| modes::run(script, mode)))
        .unwrap_or_else(|_| vec!["the engine panics".to_string()])
}

/// A refusal that PostgreSQL has not: a sub-query that refers to an interval of the row around asks once for each
/// value of it.
const OF_INTERVALS: &str = "DISTINCT of intervals is not supported";

/// A program's views, taken apart by who refuses them.
struct Sides {
    /// The program with the views that are planned here; PostgreSQL has to answer them.
    planned: Script,
    /// Views that only Heliostat refuses.
    one_sided: Vec<String>,
    /// The number of views that PostgreSQL refuses, too, since an operator or function is missing.
    refused: usize,
}

fn sides(script: Script) -> Sides {
    let (mut one_sided, mut refused) = (Vec::new(), 0);
    if script.plan(&script.tables).is_ok() {
        return Sides { planned: script, one_sided, refused };
    }
    let mut planned = Script { views: Vec::new(), ..script.clone() };
    for view in &script.views {
        let mut with = planned.clone();
        with.views.push(view.clone());
        match with.plan(&with.tables) {
            Ok(_) => planned = with,
            Err(error) if error.to_string().contains(OF_INTERVALS) => refused += 1,
            Err(_) if postgres_refuses(&planned, view) => refused += 1,
            Err(error) => one_sided.push(format!("{} is refused: {error}", view.name)),
        }
    }
    Sides { planned, one_sided, refused }
}

/// Whether PostgreSQL does not plan a view beside those of a program.
fn postgres_refuses(beside: &Script, view: &View) -> bool {
    let set = beside.plan(&beside.tables).unwrap();
    let words = |view: &View| view.oracle.words.as_ref().unwrap_or(&view.sql).clone();
    let kept: Vec<(String, String)> =
        beside.views.iter().map(|view| (view.name.clone(), words(view))).collect();
    let answers = Session::new(&set, &[], &kept).ask(&[], CLOCK_START, &[words(view)]);
    answers.iter().all(Result::is_err)
}

/// The smallest program that still differs: fewer views, then fewer events.
fn shrink(script: &Script, mode: &Mode) -> Script {
    let mut best = script.clone();
    for at in (0..script.views.len()).rev() {
        let mut fewer = best.clone();
        fewer.views.remove(at);
        if !fewer.views.is_empty() && differs(&fewer, mode) {
            best = fewer;
        }
    }
    let mut size = best.events.len().div_ceil(2);
    while size > 0 {
        let mut at = 0;
        while at < best.events.len() {
            let mut fewer = best.clone();
            fewer.events.drain(at..(at + size).min(fewer.events.len()));
            if differs(&fewer, mode) {
                best = fewer;
            } else {
                at += size;
            }
        }
        size /= 2;
    }
    best
}

/// Whether the program can be planned and differs.
fn differs(script: &Script, mode: &Mode) -> bool {
    script.plan(&script.tables).is_ok() && !problems(script, mode).is_empty()
}

/// A found case as a file.
fn text(script: &Script, why: &str) -> String {
    let mut text = format!("# {why}\n\ntables\n{}\nevents\n", script.tables);
    for event in &script.events {
        text.push_str(&format!("{} {}\n", event.event_type, event.data));
    }
    for view in &script.views {
        let words = view.oracle.words.as_ref();
        let asked = words.map(|words| format!("oracle postgres {}\n{words}\n", reasons::RANDOM));
        let asked = asked.unwrap_or_default();
        text.push_str(&format!("\nview {}\n{}\n{asked}----\n", view.name, view.sql));
    }
    text
}

/// Makes a program that differs small, and writes it.
fn found(script: &Script, mode: &Mode, seed: u64) -> String {
    let small = shrink(script, mode);
    let why = problems(&small, mode).into_iter().take(2).collect::<Vec<_>>().join("\n");
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("found");
    std::fs::create_dir_all(&directory).unwrap();
    let path = directory.join(format!("{seed}.slt"));
    let text = text(&small, &format!("seed {seed}, {mode}"));
    std::fs::write(&path, &text).unwrap();
    format!("{text}\nwritten to {}\n{why}", path.display())
}

fn check(seeds: Range<u64>, until: Option<Instant>) {
    println!("seeds from {}", seeds.start);
    let (mut wrong, mut ran, mut views, mut refused) = (Vec::new(), 0, 0, 0);
    for seed in seeds {
        if until.is_some_and(|until| Instant::now() > until) || wrong.len() >= FOUND_MAX {
            break;
        }
        ran += 1;
        let (script, mode) = (program(seed), mode_of(seed));
        views += script.views.len();
        let sides = sides(script.clone());
        refused += sides.refused;
        if !sides.one_sided.is_empty() {
            wrong.push(format!(
                "{}\n{}",
                text(&script, &format!("seed {seed}")),
                sides.one_sided.join("\n")
            ));
        } else if !problems(&sides.planned, &mode).is_empty() {
            wrong.push(found(&sides.planned, &mode, seed));
        }
    }
    println!("{ran} programs ran, with {views} views, of which both sides refuse {refused}");
    assert!(refused * 4 < views || views < 100, "{refused} of {views} views compare nothing");
    assert!(wrong.is_empty(), "{} of {ran} programs differ\n{}", wrong.len(), wrong.join("\n\n"));
}

#[test]
fn programs_1_to_250() {
    check(1..251, None);
}

#[test]
fn programs_251_to_500() {
    check(251..501, None);
}

#[test]
fn programs_501_to_750() {
    check(501..751, None);
}

#[test]
fn programs_751_to_1000() {
    check(751..1001, None);
}

#[test]
#[ignore = "runs for an hour: make fuzz-sql"]
fn fuzz() {
    let setting = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let seconds = setting("HELIOSTAT_FUZZ_SECONDS").unwrap_or(3600);
    let today = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() / 86_400;
    let first = setting("HELIOSTAT_SEED").unwrap_or(today * 1_000_000);
    let count = setting("HELIOSTAT_PROGRAMS").unwrap_or(u64::from(u32::MAX));
    check(first..first + count, Some(Instant::now() + Duration::from_secs(seconds)));
}
