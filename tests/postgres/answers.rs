//! The answers of PostgreSQL and of views to the same questions.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use arrow::array::AsArray;
use arrow::datatypes::Int64Type;
use heliostat::internals::dataflow::{Failure, LocalRun};
use heliostat::internals::model::NewEvent;
use heliostat::internals::plan::{QuerySet, SourceFile, plan_files};
use serde_json::Value;

use super::cells::{self, Cell};
use super::common_postgres::Postgres;
use super::grid;

/// Views that run side by side.
const VIEWS_PER_RUN: usize = 300;
/// An expression, for PostgreSQL and for Heliostat.
pub struct Question {
    pub entry: usize,
    /// The expression as a reader sees it.
    pub shown: String,
    pub theirs: String,
    pub ours: String,
    /// The first and last row, or bag, that it is about.
    pub range: (usize, usize),
}

/// Cells by the row of the grid and the place in the set that it gives.
pub type Cells = BTreeMap<(i64, i64), Cell>;

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
pub struct Theirs {
    pub cells: Cells,
    pub classes: BTreeMap<i64, String>,
}

/// PostgreSQL's answers, by question; an error for an expression that it refuses.
pub fn theirs(
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
pub struct Ours {
    pub cells: Cells,
    /// The type of its column.
    pub sql_type: String,
    pub failures: Vec<Failure>,
}

/// The views' answers, by question, or why a view is refused.
pub fn ours(
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

/// The `n`-th event of a type, as events of the tables are.
pub fn event_of(event_type: &str, n: usize, data: &Value) -> NewEvent {
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
