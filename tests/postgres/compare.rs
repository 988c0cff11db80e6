//! Compares answers, and lists with their files.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use super::answers::{Cells, Ours, Question, Theirs};
use super::cells::{self, Cell};
use super::entries::{Entry, Kind};

/// Most differing cells of an expression that are printed.
const TOLD_MAX: usize = 6;
/// The differing cells of a question.
pub fn differences(
    question: &Question,
    entry: &Entry,
    theirs: &Theirs,
    ours: &Cells,
) -> Option<String> {
    let Theirs { cells: theirs, classes } = theirs;
    let keys: BTreeSet<&(i64, i64)> = theirs.keys().chain(ours.keys()).collect();
    let mut told = Vec::new();
    let mut count = 0;
    for key in keys {
        // In a bag of which a row fails there, all of it fails; here, the rows that do.
        if entry.kind == Kind::Window && classes.contains_key(&key.0) {
            continue;
        }
        let missing = match entry.returns_set {
            // Here a failing row has no rows at all, and so no cell that could be the error.
            true if theirs.get(&(key.0, 0)) == Some(&Cell::Error)
                && !ours.keys().any(|k| k.0 == key.0) =>
            {
                continue;
            }
            _ => Cell::Error,
        };
        let a = ours.get(key).unwrap_or(&missing);
        let b = theirs.get(key).unwrap_or(&missing);
        if cells::equal(a, b, &entry.result, entry.kind.is_aggregate()) {
            continue;
        }
        count += 1;
        if told.len() < TOLD_MAX {
            told.push(format!("      row {}: {}, PostgreSQL {}", key.0, a.show(), b.show()));
        }
    }
    (count > 0).then(|| format!("    {} ({count} cells)\n{}", question.shown, told.join("\n")))
}

/// Whether the rows that a view lacks are told as failures: each row of the grid by itself, a bag and a set by
/// one failure or more.
pub fn untold(question: &Question, entry: &Entry, theirs: &Cells, ours: &Ours) -> Option<String> {
    let lacking = theirs.keys().filter(|key| !ours.cells.contains_key(key)).count();
    let told: i64 = ours.failures.iter().map(|failure| failure.count).sum();
    let is_one_by_one =
        !entry.kind.is_aggregate() && !entry.returns_set && entry.kind != Kind::Window;
    let is_told = match is_one_by_one {
        true => told == lacking as i64,
        false => told > 0 || theirs.values().all(|cell| *cell != Cell::Error),
    };
    (!is_told).then(|| {
        format!("    {}: {lacking} rows are missing, {told} failures are told", question.shown)
    })
}

/// A reason without what is particular to a value.
fn pattern(reason: &str) -> String {
    // The value in the middle is as long as it is.
    if reason.starts_with("cannot cast jsonb ") {
        let target = reason.rsplit(' ').next().unwrap_or_default();
        return format!("cannot cast jsonb … to type {target}");
    }
    let mut pattern = String::new();
    for (at, part) in reason.split('"').enumerate() {
        match at % 2 {
            0 => pattern.push_str(part),
            _ => pattern.push_str("\"…\""),
        }
    }
    let digits = |c: char| c.is_ascii_digit();
    let words = pattern.split(' ').map(|word| if word.contains(digits) { "…" } else { word });
    words.collect::<Vec<_>>().join(" ")
}

/// The reasons that rows fail for, each with the classes of SQLSTATE that PostgreSQL has there.
pub type Reasons = BTreeMap<String, BTreeSet<String>>;

pub fn note_reasons(theirs: &Theirs, ours: &Ours, reasons: &mut Reasons) {
    let all: BTreeSet<&String> = theirs.classes.values().collect();
    for failure in &ours.failures {
        // The grid's events come first. A bag fails without a position: for one of the question's errors.
        let rows = failure.positions.iter().map(|position| *position as i64 - 1);
        let mut classes: BTreeSet<&String> =
            rows.filter_map(|row| theirs.classes.get(&row)).collect();
        if failure.positions.is_empty() && all.len() == 1 {
            classes = all.clone();
        }
        let noted = reasons.entry(pattern(&failure.reason)).or_default();
        noted.extend(classes.into_iter().cloned());
    }
}

/// Whether a column of this type holds what PostgreSQL's type is.
pub fn is_of_type(ours: &str, theirs: &str) -> bool {
    let theirs = match theirs {
        "integer" => "INT",
        "double precision" => "DOUBLE",
        "numeric" => return ours.starts_with("DECIMAL"),
        "timestamp without time zone" => {
            return ours.starts_with("TIMESTAMP") && !ours.ends_with("ZONE");
        }
        "timestamp with time zone" => {
            return ours.starts_with("TIMESTAMP") && ours.ends_with("ZONE");
        }
        "time without time zone" => "TIME",
        "record" | "character varying" | "character" => "TEXT",
        "jsonb" => "JSON",
        other => match other.strip_suffix("[]") {
            Some(item) => {
                let inner = ours.strip_prefix("ARRAY<").and_then(|t| t.strip_suffix('>'));
                return inner.is_some_and(|inner| is_of_type(inner, item));
            }
            None => return ours.eq_ignore_ascii_case(other),
        },
    };
    ours == theirs
}

fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/postgres").join(name)
}

/// Compares a list with its file, or writes it.
pub fn compare_list(name: &str, lines: &[String], wrong: &mut Vec<String>) {
    if std::env::var_os("HELIOSTAT_BLESS").is_some() {
        let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
        std::fs::write(path(name), text).unwrap();
    }
    let known = std::fs::read_to_string(path(name)).unwrap_or_default();
    let known: BTreeSet<&str> = known.lines().collect();
    let found: BTreeSet<&str> = lines.iter().map(String::as_str).collect();
    wrong.extend(found.difference(&known).map(|line| format!("not in {name}: {line}")));
    wrong.extend(
        known.difference(&found).map(|line| format!("in {name}, and no longer so: {line}")),
    );
}
