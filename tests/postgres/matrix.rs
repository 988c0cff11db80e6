//! Every entry of PostgreSQL's catalogue over the grid of values.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::PathBuf;

use heliostat::internals::model::NewEvent;
use serde_json::{Map, Value};

use super::answers::{Question, event_of, ours, theirs};
use super::common_postgres::Postgres;
use super::compare::{Reasons, compare_list, differences, is_of_type, note_reasons, untold};
use super::entries::{self, Entry, Kind};
use super::{exact, forms, grid};

/// Rows of the grid that an expression over several columns is tried with, and one over a single column.
const ROWS: usize = grid::VALUES * grid::VALUES;
/// Bags that aggregates are tried with.
const BAGS: usize = 24;
/// The columns of the grid that questions need: grid, array, position.
type Needed = BTreeSet<(&'static str, bool, usize)>;

/// The name of a column of the grid.
pub fn column(name: &str, array: bool, position: usize) -> String {
    let name: String = name.chars().map(|c| if c.is_alphanumeric() { c } else { '_' }).collect();
    let array = if array { "_array" } else { "" };
    format!("c_{name}{array}_{position}")
}

/// A template with columns in place of what is in braces; the highest position.
fn filled(template: &str, needed: &mut Needed) -> (String, usize) {
    let (mut out, mut highest) = (String::new(), 1);
    let mut rest = template;
    while let Some(at) = rest.find('{') {
        let (before, after) = rest.split_at(at);
        out.push_str(before);
        let inside = after[1..].split_once('}').map_or("", |(inside, _)| inside);
        let (name, position) = match inside.rsplit_once(':') {
            Some((name, position)) => (name, position.parse().unwrap_or(0)),
            None => (inside, 1),
        };
        match grid::find(name) {
            Some((grid, array)) if position > 0 => {
                needed.insert((grid.name, array, position));
                highest = highest.max(position);
                out.push_str(&grid.read.replace('#', &column(grid.name, array, position)));
                rest = &after[inside.len() + 2..];
            }
            // An array's or a path's own brace.
            _ => {
                out.push('{');
                rest = &after[1..];
            }
        }
    }
    out.push_str(rest);
    (out, highest)
}

fn questions(entries: &[Entry], needed: &mut Needed) -> Vec<Question> {
    let mut questions = Vec::new();
    for (at, entry) in entries.iter().enumerate() {
        for template in forms::expressions(entry) {
            let (expression, highest) = filled(&template, needed);
            let rows = if highest > 1 { ROWS } else { grid::VALUES };
            let value = expression.clone();
            let is_over_bags = entry.kind.is_aggregate() || entry.kind == Kind::Window;
            let (from, v) = match (entry.kind.is_aggregate(), entry.returns_set) {
                _ if entry.kind == Kind::Window => ("FROM bags".to_string(), "bag AS i, n AS o"),
                (true, _) => ("FROM bags GROUP BY bag".to_string(), "bag AS i, 0 AS o"),
                (_, true) if entry.result == "record" => (
                    format!(
                        "FROM grid, {expression} WITH ORDINALITY AS s(k, v, o) WHERE i < {rows}"
                    ),
                    "i, s.o AS o",
                ),
                (_, true) => (
                    format!("FROM grid, {expression} WITH ORDINALITY AS s(v, o) WHERE i < {rows}"),
                    "i, s.o AS o",
                ),
                _ => (format!("FROM grid WHERE i < {rows}"), "i, 0 AS o"),
            };
            let value = match (entry.returns_set, entry.result.as_str()) {
                (true, "record") => "s.k || '=' || CAST(s.v AS TEXT)".to_string(),
                (true, _) => "s.v".to_string(),
                _ => value,
            };
            let asked = match exact::of(entry, &template) {
                Some(exact) => exact,
                None => value.clone(),
            };
            let last = if is_over_bags { BAGS } else { rows } - 1;
            questions.push(Question {
                entry: at,
                range: (0, last),
                shown: template.clone(),
                theirs: format!("SELECT {v}, {asked} AS v {from}"),
                ours: format!("SELECT {v}, {value} AS v {from}"),
            });
        }
    }
    questions
}

/// The bag that each row of the bags is in, and the values that it has: (bag, index of the value).
fn bags() -> Vec<(usize, usize)> {
    let mut rows = Vec::new();
    for bag in 0..BAGS {
        let range = if bag < 16 { grid::ORDINARY } else { grid::VALUES };
        let values: Vec<usize> = match bag {
            0 => vec![0, 0],
            1 => vec![1],
            2 => vec![2, 2, 2],
            3 => (0..grid::ORDINARY).collect(),
            4 => vec![0, 2, 0],
            5 => vec![1, 2],
            6 => vec![3, 3, 2],
            16 => vec![17, 2],
            17 => vec![18, 4],
            18 => vec![18, 19],
            19 => (0..grid::VALUES).collect(),
            20 => vec![14, 15, 16],
            _ => (0..bag % 7 + 2).map(|n| (bag * 31 + n * n * 7 + n * 3) % range).collect(),
        };
        rows.extend(values.into_iter().map(|at| (bag, at)));
    }
    rows
}

/// A table with the needed columns, in both.
struct Table {
    name: &'static str,
    keys: &'static [&'static str],
    /// The keys' values, and for each position the index into the grids.
    rows: Vec<(Vec<usize>, Box<dyn Fn(usize) -> usize>)>,
}

fn tables() -> [Table; 2] {
    let grid = (0..ROWS).map(|row| {
        let at: Box<dyn Fn(usize) -> usize> = Box::new(move |position| grid::index(row, position));
        (vec![row], at)
    });
    let bags = bags().into_iter().enumerate().map(|(n, (bag, at))| {
        let at: Box<dyn Fn(usize) -> usize> =
            Box::new(
                move |position| if position == 1 { at } else { (at * 3 + n) % grid::ORDINARY },
            );
        (vec![bag, n], at)
    });
    [
        Table { name: "grid", keys: &["i"], rows: grid.collect() },
        Table { name: "bags", keys: &["bag", "n"], rows: bags.collect() },
    ]
}

impl Table {
    fn theirs(&self, needed: &Needed) -> String {
        let keys = self.keys.iter().map(|key| format!("{key} integer"));
        let columns = needed.iter().map(|(name, array, position)| {
            let (grid, _) = grid::find(name).expect("it was found before");
            let as_text = grid.column == "TEXT" && !grid.values.is_empty();
            let base = if as_text { "text" } else { grid.postgres };
            let name = column(name, *array, *position);
            let declared = format!("{name} {base}{}", if *array { "[]" } else { "" });
            match exact::is_float(grid.name) && !*array {
                true => format!("{declared}, {name}_exact numeric"),
                false => declared,
            }
        });
        let columns: Vec<String> = keys.chain(columns).collect();
        let mut script = format!("CREATE UNLOGGED TABLE {} ({});\n", self.name, columns.join(", "));
        for (keys, at) in &self.rows {
            let keys = keys.iter().map(usize::to_string);
            let values = needed.iter().map(|(name, array, position)| {
                let (grid, _) = grid::find(name).expect("it was found before");
                let value = grid.sql(at(*position), *array);
                match exact::is_float(grid.name) && !*array {
                    true => format!("{value}, {}", exact::literal(grid, at(*position))),
                    false => value,
                }
            });
            let values: Vec<String> = keys.chain(values).collect();
            let _ = writeln!(script, "INSERT INTO {} VALUES ({});", self.name, values.join(", "));
        }
        script
    }

    fn ours(&self, needed: &Needed) -> String {
        let keys = self.keys.iter().map(|key| format!("{key} INT NOT NULL"));
        let columns = needed.iter().map(|(name, array, position)| {
            let (grid, _) = grid::find(name).expect("it was found before");
            format!(
                "{} {}{}",
                column(name, *array, *position),
                grid.column,
                if *array { "[]" } else { "" }
            )
        });
        let columns: Vec<String> = keys.chain(columns).collect();
        format!(
            "CREATE TABLE {0} ({1}) WITH (event_type = '{0}');\n",
            self.name,
            columns.join(", ")
        )
    }

    fn events(&self, needed: &Needed) -> Vec<NewEvent> {
        let event = |(n, (keys, at)): (usize, &(Vec<usize>, Box<dyn Fn(usize) -> usize>))| {
            let mut data = Map::new();
            for (key, value) in self.keys.iter().zip(keys) {
                data.insert(key.to_string(), Value::from(*value));
            }
            for (name, array, position) in needed {
                let (grid, _) = grid::find(name).expect("it was found before");
                let value = grid.json(at(*position), *array);
                data.insert(column(name, *array, *position), value);
            }
            event_of(self.name, n, &Value::Object(data))
        };
        self.rows.iter().enumerate().map(event).collect()
    }
}

/// The outcome for an entry: its questions that are refused, and those that differ.
#[derive(Default)]
struct Verdict {
    questions: usize,
    refused: Vec<String>,
    different: Vec<String>,
}

#[test]
fn every_cell_is_as_in_postgres() {
    let wanted = std::env::var("HELIOSTAT_ENTRIES").unwrap_or_default();
    let postgres = Postgres::start();
    let mut entries = entries::all(&postgres);
    let all: Vec<String> = entries.iter().map(|entry| entry.title.clone()).collect();
    entries.retain(|entry| entry.title.contains(&wanted));
    let mut needed = Needed::new();
    let questions = questions(&entries, &mut needed);
    let begin = std::time::Instant::now();
    let tables = tables();
    let script: String = tables.iter().map(|table| table.theirs(&needed)).collect();
    let declarations: String = tables.iter().map(|table| table.ours(&needed)).collect();
    let events: Vec<NewEvent> = tables.iter().flat_map(|table| table.events(&needed)).collect();
    let (theirs, ours) = std::thread::scope(|scope| {
        let theirs = scope.spawn(|| {
            let answers = theirs(&postgres, &script, &questions);
            eprintln!("PostgreSQL answered after {:?}", begin.elapsed());
            answers
        });
        let ours = ours(declarations, events, &questions.iter().collect::<Vec<_>>());
        eprintln!("the views answered after {:?}", begin.elapsed());
        (theirs.join().expect("PostgreSQL answers"), ours)
    });
    let mut wrong = Vec::new();
    let mut verdicts: Vec<Verdict> = entries.iter().map(|_| Verdict::default()).collect();
    let (mut compared, mut reasons) = (0, Reasons::new());
    for ((question, theirs), ours) in questions.iter().zip(&theirs).zip(&ours) {
        let (entry, verdict) = (&entries[question.entry], &mut verdicts[question.entry]);
        verdict.questions += 1;
        let theirs = match theirs {
            Ok(theirs) => theirs,
            Err(error) => {
                wrong.push(format!("PostgreSQL does not take {}: {error}", question.theirs));
                continue;
            }
        };
        match ours {
            Err(message) => {
                let message = message.lines().next().unwrap_or_default();
                verdict.refused.push(format!("    {}: {message}", question.shown));
            }
            Ok(ours) => {
                compared += theirs.cells.len();
                if !is_of_type(&ours.sql_type, &entry.result) {
                    verdict.different.push(format!("    {} is {}", question.shown, ours.sql_type));
                }
                verdict.different.extend(differences(question, entry, theirs, &ours.cells));
                verdict.different.extend(untold(question, entry, &theirs.cells, ours));
                note_reasons(theirs, ours, &mut reasons);
            }
        }
    }
    let of = |wanted: &dyn Fn(&Verdict) -> bool| -> Vec<String> {
        let chosen = entries.iter().zip(&verdicts).filter(|(_, v)| wanted(v));
        chosen.map(|(entry, _)| entry.title.clone()).collect()
    };
    let refused = of(&|v| v.refused.len() == v.questions);
    let different = of(&|v| !v.different.is_empty());
    let mut report = String::new();
    for (entry, verdict) in entries.iter().zip(&verdicts) {
        if !verdict.different.is_empty() || (!verdict.refused.is_empty()) {
            let _ = writeln!(report, "{}", entry.title);
            verdict.different.iter().for_each(|d| report.push_str(&format!("{d}\n")));
            verdict.refused.iter().for_each(|r| report.push_str(&format!("    refused{r}\n")));
        }
    }
    let report_path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("postgres.txt");
    std::fs::write(&report_path, report).unwrap();
    println!(
        "{} entries, {} refused, {} different, {} equal; {} expressions, {compared} cells; {}",
        entries.len(),
        refused.len(),
        different.len(),
        entries.len() - refused.len() - different.len(),
        questions.len(),
        report_path.display()
    );
    if wanted.is_empty() {
        compare_list("entries.txt", &all, &mut wrong);
        compare_list("refused.txt", &refused, &mut wrong);
        let partly = verdicts.iter().filter(|v| v.refused.len() < v.questions);
        let partly = partly.flat_map(|v| v.refused.iter().map(|line| line.trim().to_string()));
        compare_list("partly_refused.txt", &partly.collect::<Vec<_>>(), &mut wrong);
        compare_list("different.txt", &different, &mut wrong);
        let lines = reasons.iter().map(|(reason, classes)| {
            let classes: Vec<&str> = classes.iter().map(String::as_str).collect();
            format!("{} {reason}", classes.join(" or "))
        });
        compare_list("errors.txt", &lines.collect::<Vec<_>>(), &mut wrong);
    }
    assert!(wrong.is_empty(), "{} problems\n{}", wrong.len(), wrong.join("\n"));
}
