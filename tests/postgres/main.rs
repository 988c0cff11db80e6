//! Every function, operator, cast and aggregate that PostgreSQL has over the types of views, over a grid of
//! values, there and here: each cell is equal, or an error in both, or the entry is refused by `check`.
//!
//! `entries.txt` is what PostgreSQL has, `refused.txt` what is refused here, `partly_refused.txt` which forms of
//! other entries are, `different.txt`, while it is not
//! empty, what still differs, and `errors.txt` why rows fail here, with the class of PostgreSQL's SQLSTATE for
//! the same. `HELIOSTAT_BLESS=1` writes them. `HELIOSTAT_ENTRIES` selects entries by a
//! part of their line, and `postgres.txt` in the target's `tmp` tells each differing cell.

mod cells;
mod corpora;
mod entries;
mod exact;
mod forms;
mod grid;
mod values;
#[path = "../common/postgres.rs"]
mod common_postgres;
#[path = "../common/rng.rs"]
mod rng;
#[path = "../common/ulps.rs"]
mod ulps;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::Arc;

use arrow::array::AsArray;
use arrow::datatypes::Int64Type;
use cells::Cell;
use common_postgres::Postgres;
use entries::{Entry, Kind};
use heliostat::internals::dataflow::{Failure, LocalRun};
use heliostat::internals::model::NewEvent;
use heliostat::internals::plan::SourceFile;
use heliostat::internals::plan::{QuerySet, plan_files};
use serde_json::{Map, Value};

/// Rows of the grid that an expression over several columns is tried with, and one over a single column.
const ROWS: usize = grid::VALUES * grid::VALUES;
/// Bags that aggregates are tried with.
const BAGS: usize = 24;
/// Views that run side by side.
const VIEWS_PER_RUN: usize = 300;
/// Most differing cells of an expression that are printed.
const TOLD_MAX: usize = 6;

/// An expression, for PostgreSQL and for Heliostat.
struct Question {
    entry: usize,
    /// The expression as a reader sees it.
    shown: String,
    theirs: String,
    ours: String,
    /// The first and last row, or bag, that it is about.
    range: (usize, usize),
}

/// The columns of the grid that questions need: grid, array, position.
type Needed = BTreeSet<(&'static str, bool, usize)>;

fn column(name: &str, array: bool, position: usize) -> String {
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

/// The `n`-th event of a type, as events of the tables are.
fn event_of(event_type: &str, n: usize, data: &Value) -> NewEvent {
    NewEvent {
        id: format!("{event_type}-{n}"),
        source: "grid".to_string(),
        event_type: event_type.to_string(),
        version: 1,
        stream: None,
        time_us: 0,
        data: grid::raw(data).into_bytes(),
        metadata: b"{}".to_vec(),
    }
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

/// Cells by the row of the grid and the place in the set that it gives.
type Cells = BTreeMap<(i64, i64), Cell>;

/// Evaluates a query over ranges of rows; where one fails, row by row.
const EVALUATE: &str = r"
CREATE UNLOGGED TABLE cells (question integer, i bigint, o bigint, v text, error text);
CREATE FUNCTION evaluate(question integer, query text, first integer, last integer) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
  part text := format('INSERT INTO cells SELECT %s, i, o, v::text FROM (%s) AS q WHERE i BETWEEN $1 AND $2', question, query);
BEGIN
  BEGIN
    EXECUTE part USING first, last;
    RETURN;
  EXCEPTION WHEN OTHERS THEN
    IF SQLSTATE IN ('42883', '42703', '42725', '42704', '42P13', '42803', '42P01', '42846') OR SQLERRM LIKE 'syntax error at%' THEN
      INSERT INTO cells VALUES (question, -1, 0, NULL, SQLSTATE || ' ' || SQLERRM);
      RETURN;
    END IF;
  END;
  FOR at IN first..last LOOP
    BEGIN
      EXECUTE part USING at, at;
    EXCEPTION WHEN OTHERS THEN
      INSERT INTO cells VALUES (question, at, 0, NULL, SQLSTATE);
    END;
  END LOOP;
END $$;
";

/// An answer of PostgreSQL: its cells, and the class of the SQLSTATE of each row that fails.
#[derive(Default)]
struct Theirs {
    cells: Cells,
    classes: BTreeMap<i64, String>,
}

/// PostgreSQL's answers, by question; an error for an expression that it refuses.
fn theirs(
    postgres: &Postgres,
    tables: &str,
    questions: &[Question],
) -> Vec<Result<Theirs, String>> {
    let mut script = format!("{EVALUATE}BEGIN;\n{tables}COMMIT; ANALYZE;\n");
    for (at, question) in questions.iter().enumerate() {
        let (first, last) = question.range;
        let _ =
            writeln!(script, "SELECT evaluate({at}, $q${}$q$, {first}, {last});", question.theirs);
    }
    postgres.run(&script);
    let mut answers: Vec<Result<Theirs, String>> =
        questions.iter().map(|_| Ok(Theirs::default())).collect();
    for row in postgres.rows("SELECT * FROM cells") {
        let [question, i, o, v, error]: [Option<String>; 5] = row.try_into().expect("five columns");
        let number = |text: Option<String>| text.and_then(|t| t.parse::<i64>().ok()).unwrap_or(0);
        let answer = &mut answers[number(question) as usize];
        let i = number(i);
        if let (Some(error), true) = (&error, i < 0) {
            *answer = Err(error.clone());
            continue;
        }
        let Ok(Theirs { cells, classes }) = answer else { continue };
        let cell = match (v, error) {
            (_, Some(sqlstate)) => {
                classes.insert(i, sqlstate[..2].to_string());
                Cell::Error
            }
            (Some(text), None) => Cell::Text(text),
            (None, None) => Cell::Null,
        };
        cells.insert((i, number(o)), cell);
    }
    answers
}

/// An answer of a view.
struct Ours {
    cells: Cells,
    /// The type of its column.
    sql_type: String,
    failures: Vec<Failure>,
}

/// The views' answers, by question, or why a view is refused.
fn ours(
    declarations: String,
    events: Vec<NewEvent>,
    questions: &[&Question],
) -> Vec<Result<Ours, String>> {
    let file = |path: String, text: String| Arc::new(SourceFile { path: path.into(), text });
    let mut files = vec![file("tables.sql".to_string(), declarations)];
    for (at, question) in questions.iter().enumerate() {
        let text = format!("CREATE MATERIALIZED VIEW q{at} AS {};", question.ours);
        files.push(file(format!("q{at}.sql"), text));
    }
    let set = plan_files(&files, "matrix", heliostat::internals::sink::KINDS);
    let mut answers: Vec<Result<Ours, String>> =
        questions.iter().map(|_| Err("no view".to_string())).collect();
    for diagnostic in &set.diagnostics {
        let path = diagnostic.file.path.to_string_lossy();
        let number = path.trim_start_matches('q').trim_end_matches(".sql");
        let at: usize = number.parse().unwrap_or_else(|_| panic!("{diagnostic}"));
        answers[at] = Err(diagnostic.message.clone());
    }
    let QuerySet { views, .. } = set;
    for views in views.chunks(VIEWS_PER_RUN) {
        let mut run = LocalRun::start(views, 1).expect("the views start");
        run.feed(1, std::slice::from_ref(&events)).expect("the events are fed");
        for (n, view) in views.iter().enumerate() {
            let at: usize = view.schema.name[1..].parse().expect("it is numbered");
            let rows = run.rows(n).expect("the view has rows");
            let sql_type = &view.schema.columns[2].sql_type;
            let column = |n: usize| {
                arrow::compute::cast(rows.column(n), &arrow::datatypes::DataType::Int64).unwrap()
            };
            let (i, o) = (column(0), column(1));
            let (i, o) = (i.as_primitive::<Int64Type>(), o.as_primitive::<Int64Type>());
            let values = cells::texts(rows.column(2), sql_type);
            let keys = i.values().iter().zip(o.values()).map(|(i, o)| (*i, *o));
            let failures = run.failures(n).into_iter().filter(|failure| failure.count != 0);
            answers[at] = Ok(Ours {
                cells: keys.zip(values).collect(),
                sql_type: sql_type.to_string(),
                failures: failures.collect(),
            });
        }
    }
    answers
}

/// The outcome for an entry: its questions that are refused, and those that differ.
#[derive(Default)]
struct Verdict {
    questions: usize,
    refused: Vec<String>,
    different: Vec<String>,
}

/// The differing cells of a question.
fn differences(
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
fn untold(question: &Question, entry: &Entry, theirs: &Cells, ours: &Ours) -> Option<String> {
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
type Reasons = BTreeMap<String, BTreeSet<String>>;

fn note_reasons(theirs: &Theirs, ours: &Ours, reasons: &mut Reasons) {
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
fn is_of_type(ours: &str, theirs: &str) -> bool {
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
fn compare_list(name: &str, lines: &[String], wrong: &mut Vec<String>) {
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

/// The table of the corpora's texts, there.
fn inputs_of_theirs(inputs: &[corpora::Input]) -> String {
    let mut script =
        String::from("CREATE UNLOGGED TABLE inputs (i integer, corpus text, t text);\n");
    for (i, input) in inputs.iter().enumerate() {
        let text = input.text.replace('\'', "''");
        let _ = writeln!(script, "INSERT INTO inputs VALUES ({i}, '{}', '{text}');", input.corpus);
    }
    script
}

/// The same as events.
fn inputs_as_events(inputs: &[corpora::Input]) -> Vec<NewEvent> {
    let event = |(i, input): (usize, &corpora::Input)| {
        let data = serde_json::json!({"i": i, "corpus": input.corpus, "t": input.text});
        event_of("inputs", i, &data)
    };
    inputs.iter().enumerate().map(event).collect()
}

/// The texts and patterns of `corpora.rs` mean the same as in PostgreSQL; or they are refused by `check`, where the
/// pattern is a constant (`refused_patterns.txt`); or some rows fail here for which PostgreSQL has a value
/// (`failing_patterns.txt`). `different_patterns.txt` is what still has another value.
#[test]
fn every_language_of_its_own_is_as_in_postgres() {
    let wanted = std::env::var("HELIOSTAT_ENTRIES").unwrap_or_default();
    let postgres = Postgres::start();
    let inputs = corpora::inputs();
    let mut corpora = corpora::all();
    corpora.retain(|corpus| corpus.expressions[0].contains(&wanted));
    let mut questions = Vec::new();
    let mut entries = Vec::new();
    for (entry, corpus) in corpora.iter().enumerate() {
        let of = |input: &corpora::Input| input.corpus == corpus.inputs;
        let (first, last) =
            (inputs.iter().position(of).unwrap(), inputs.iter().rposition(of).unwrap());
        entries.push(Entry {
            kind: Kind::Construct,
            title: corpus.expressions[0].clone(),
            name: String::new(),
            arguments: Vec::new(),
            result: corpus.result.to_string(),
            returns_set: false,
        });
        questions.extend(corpus.expressions.iter().map(|expression| {
            let query = format!(
                "SELECT i, 0 AS o, {expression} AS v FROM inputs WHERE corpus = '{}'",
                corpus.inputs
            );
            let (theirs, ours) = (query.clone(), query);
            Question { entry, shown: expression.clone(), theirs, ours, range: (first, last) }
        }));
    }
    let theirs = theirs(&postgres, &inputs_of_theirs(&inputs), &questions);
    // What PostgreSQL takes for no SQL asks nothing.
    let asked = questions
        .iter()
        .zip(&theirs)
        .filter_map(|(question, theirs)| theirs.as_ref().ok().map(|theirs| (question, theirs)));
    let asked: Vec<(&Question, &Theirs)> = asked.collect();
    let declarations = "CREATE TABLE inputs (i INT NOT NULL, corpus TEXT NOT NULL, t TEXT NOT NULL) \
                        WITH (event_type = 'inputs');";
    let only: Vec<&Question> = asked.iter().map(|(question, _)| *question).collect();
    let ours = ours(declarations.to_string(), inputs_as_events(&inputs), &only);
    let (mut wrong, mut refused) = (Vec::new(), Vec::new());
    let (mut fails, mut different) = (Vec::new(), Vec::new());
    let (mut compared, mut reasons) = (0, Reasons::new());
    for ((question, theirs), ours) in asked.iter().zip(&ours) {
        let entry = &entries[question.entry];
        match ours {
            Err(message) => refused.push(format!(
                "{}: {}",
                question.shown,
                message.lines().next().unwrap_or_default()
            )),
            Ok(ours) => {
                compared += theirs.cells.len();
                if !is_of_type(&ours.sql_type, &entry.result) {
                    wrong.push(format!("    {} is {}", question.shown, ours.sql_type));
                }
                let told = differences(question, entry, theirs, &ours.cells);
                if let Some(told) = told {
                    // A value in the place of another one is wrong; an error in the place of one is listed.
                    let silent = theirs.cells.iter().any(|(key, cell)| {
                        let ours = ours.cells.get(key);
                        ours.is_some_and(|ours| !cells::equal(ours, cell, &entry.result, false))
                    });
                    match silent {
                        true => {
                            different.push(question.shown.clone());
                            println!("{}", with_inputs(&told, &inputs));
                        }
                        false => fails.push(question.shown.clone()),
                    }
                }
                wrong.extend(untold(question, entry, &theirs.cells, ours));
                note_reasons(theirs, ours, &mut reasons);
            }
        }
    }
    println!(
        "{} expressions, {} asked, {} refused, {compared} cells",
        questions.len(),
        asked.len(),
        refused.len()
    );
    if wanted.is_empty() {
        compare_list("refused_patterns.txt", &refused, &mut wrong);
        compare_list("failing_patterns.txt", &fails, &mut wrong);
        compare_list("different_patterns.txt", &different, &mut wrong);
    }
    for (reason, classes) in &reasons {
        if classes.len() > 1 && !reason.contains("is not supported") {
            wrong.push(format!("{reason}: {classes:?}"));
        }
    }
    assert!(wrong.is_empty(), "{} problems\n{}", wrong.len(), wrong.join("\n"));
}

/// Differences with the texts of their rows.
fn with_inputs(told: &str, inputs: &[corpora::Input]) -> String {
    let line =
        |line: &str| match line.trim().strip_prefix("row ").and_then(|rest| rest.split_once(':')) {
            Some((row, rest)) => {
                format!("      {:?}:{rest}", inputs[row.parse::<usize>().unwrap()].text)
            }
            None => line.to_string(),
        };
    told.lines().map(line).collect::<Vec<_>>().join("\n")
}
