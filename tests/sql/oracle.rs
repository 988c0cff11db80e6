//! The answers of other engines over the events so far: PostgreSQL's, and DuckDB's where PostgreSQL cannot run
//! a view.

use std::sync::Arc;

use arrow::array::{Array, RecordBatch};
use arrow::datatypes::{DataType, TimeUnit};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use heliostat::internals::decode::TableDecoder;
use heliostat::internals::log::Frame;
use heliostat::internals::model::NewEvent;
use heliostat::internals::model::SourceTable;
use heliostat::internals::model::Tick;
use heliostat::internals::model::{EventTable, TableMode};
use heliostat::internals::plan::QuerySet;

use super::cells::{self, Cell, Rows};
use super::script::{Engine, View};
use super::{duckdb, postgres, typed};

/// A question to the engines: views over the tables of `tables` with `events` in them.
pub struct Question<'a> {
    pub tables: &'a str,
    pub set: &'a QuerySet,
    pub events: &'a [NewEvent],
    /// The value of now().
    pub tick: Tick,
    /// Whether the views have the rows of their file.
    pub at_end: bool,
}

/// The engines, and what they know of a script already.
#[derive(Default)]
pub struct Oracle {
    postgres: Option<postgres::Session>,
}

struct Source {
    name: String,
    rows: RecordBatch,
    /// For an upsert table, the query that makes it of its events.
    latest: Option<String>,
}

impl Oracle {
    /// The views whose rows are not those of the engine that knows them. Questions over one script
    /// come in the order of its events.
    pub fn problems(
        &mut self,
        question: &Question<'_>,
        views: &[View],
        ours: &[RecordBatch],
    ) -> Vec<(usize, String)> {
        let of = |wanted: &[Engine]| -> Vec<usize> {
            (0..views.len()).filter(|at| wanted.contains(&views[*at].oracle.engine)).collect()
        };
        let mut problems = Vec::new();
        let told = match question.at_end {
            true => of(&[Engine::Postgres, Engine::Differs]),
            false => of(&[Engine::Postgres]),
        };
        for (at, compared) in self.ask_postgres(question, views, &told, ours) {
            match (views[at].oracle.engine, compared) {
                (Engine::Differs, Ok(())) => {
                    let told = "is PostgreSQL's answer now: `oracle differs` has to go";
                    problems.push((at, told.to_string()));
                }
                (Engine::Differs, Err(_)) | (_, Ok(())) => {}
                (_, Err(problem)) => problems.push((at, problem)),
            }
        }
        for (at, answer) in question.ask_duckdb(views, &of(&[Engine::DuckDb])) {
            if let Err(problem) =
                answer.and_then(|theirs| cells::compare(&cells::rows(&ours[at]), &theirs))
            {
                problems.push((at, problem));
            }
        }
        problems
    }

    fn ask_postgres(
        &mut self,
        question: &Question<'_>,
        views: &[View],
        wanted: &[usize],
        ours: &[RecordBatch],
    ) -> Vec<(usize, Result<(), String>)> {
        if wanted.is_empty() {
            return Vec::new();
        }
        let words = |view: &View| view.oracle.words.as_ref().unwrap_or(&view.sql).clone();
        let session = self.postgres.get_or_insert_with(|| {
            let kept: Vec<(String, String)> =
                views.iter().map(|view| (view.short_name().to_string(), words(view))).collect();
            postgres::Session::new(question.set, &question.plain_views(), &kept)
        });
        let questions: Vec<String> = wanted.iter().map(|at| words(&views[*at])).collect();
        let answers = session.ask(question.events, question.tick, &questions);
        let compared = wanted.iter().zip(answers).map(|(at, answer)| {
            let columns = &question.set.views[*at].schema.columns;
            (*at, answer.and_then(|theirs| typed::compare(&ours[*at], columns, &theirs)))
        });
        compared.collect()
    }
}

impl Question<'_> {
    /// The script's views that are not kept.
    fn plain_views(&self) -> Vec<String> {
        let statements = self.tables.split(';').map(str::trim);
        statements.filter(|s| s.starts_with("CREATE VIEW")).map(str::to_string).collect()
    }

    /// Texts of float columns as floats, so that rows sort alike.
    fn like_ours(&self, view: usize, rows: &mut Rows) {
        let columns = self.set.views[view].schema.columns.iter().map(|c| c.sql_type.to_arrow());
        for (column, data_type) in columns.enumerate() {
            for row in &mut *rows {
                let number = match &row[column] {
                    Cell::Text(text) => text.parse::<f64>().ok(),
                    Cell::Float(value) => Some(*value),
                    _ => None,
                };
                match (&data_type, number) {
                    (DataType::Float64, Some(value)) => row[column] = Cell::Float(value),
                    (DataType::Float32, Some(value)) => row[column] = Cell::Real(value as f32),
                    _ => {}
                }
            }
        }
    }

    fn source(&self, table: &Arc<EventTable>) -> Source {
        let source = SourceTable::Declared(Arc::clone(table));
        let columns = source.columns();
        let mut decoder = TableDecoder::new(source, columns);
        if !self.events.is_empty() {
            let frame = Frame::new(1, 1, self.events.iter()).unwrap();
            let events = frame.decompress().unwrap();
            for event in events.iter() {
                if decoder.reads(&event) {
                    decoder.push(&event);
                }
            }
        }
        let decoded = decoder.finish();
        assert!(decoded.rejects.is_empty(), "{}: {:?}", table.name, decoded.rejects);
        match &table.mode {
            TableMode::Append => {
                Source { name: table.name.clone(), rows: decoded.rows, latest: None }
            }
            TableMode::Upsert { key, delete_when } => {
                let names: Vec<String> =
                    table.columns.iter().map(|c| format!("\"{}\"", c.field.name)).collect();
                let key: Vec<&str> = key.iter().map(|at| names[*at].as_str()).collect();
                let name = format!("{}_events", table.name);
                let latest = format!(
                    "SELECT {} FROM (SELECT *, row_number() OVER (PARTITION BY {} ORDER BY _position DESC) AS rn \
                     FROM {name}) AS latest WHERE rn = 1 AND NOT coalesce(({}), false)",
                    names.join(", "),
                    key.join(", "),
                    delete_when.as_deref().unwrap_or("false"),
                );
                Source { name, rows: decoded.rows, latest: Some(latest) }
            }
        }
    }

    /// A view's question as the engine understands it: the tick stands for now().
    fn words(&self, view: &View) -> String {
        let now = chrono::DateTime::from_timestamp_millis(self.tick as i64).unwrap();
        let words = view.oracle.words.as_ref().unwrap_or(&view.sql);
        let words =
            words.replace("now()", &now.format("TIMESTAMP '%Y-%m-%d %H:%M:%S%.3f'").to_string());
        words.replace("current_date", &now.format("DATE '%Y-%m-%d'").to_string())
    }

    /// The views that queries read: upsert tables, plain views, materialized views.
    fn views(&self, sources: &[Source], views: &[View]) -> Vec<String> {
        let latest = sources.iter().filter_map(|source| {
            let name = source.name.strip_suffix("_events").unwrap_or(&source.name);
            source.latest.as_ref().map(|sql| format!("CREATE VIEW {name} AS {sql}"))
        });
        let kept = views
            .iter()
            .map(|view| format!("CREATE VIEW {} AS {}", view.short_name(), self.words(view)));
        latest.chain(self.plain_views()).chain(kept).collect()
    }

    /// The answers of DuckDB to these views.
    fn ask_duckdb(&self, views: &[View], wanted: &[usize]) -> Vec<(usize, Result<Rows, String>)> {
        if wanted.is_empty() {
            return Vec::new();
        }
        let sources: Vec<Source> = self.set.tables.iter().map(|table| self.source(table)).collect();
        let setup: Vec<String> =
            sources.iter().flat_map(|source| create(&source.name, &source.rows)).collect();
        let queries: Vec<String> = wanted
            .iter()
            .map(|at| {
                let columns = &self.set.views[*at].schema.columns;
                let texts: Vec<String> = columns
                    .iter()
                    .enumerate()
                    .map(|(n, column)| as_text(&format!("c{n}"), &column.sql_type.to_arrow()))
                    .collect();
                let names: Vec<String> = (0..columns.len()).map(|n| format!("c{n}")).collect();
                let words = self.words(&views[*at]);
                format!("SELECT {} FROM ({words}) AS q({})", texts.join(", "), names.join(", "))
            })
            .collect();
        let answers = duckdb::ask(&setup, &self.views(&sources, views), &queries);
        let mut answers: Vec<_> = wanted.iter().copied().zip(answers).collect();
        for (at, answer) in &mut answers {
            if let Ok(rows) = answer {
                self.like_ours(*at, rows);
            }
        }
        answers
    }
}

/// A table with these rows.
fn create(name: &str, rows: &RecordBatch) -> Vec<String> {
    let schema = rows.schema();
    let columns: Vec<String> = schema
        .fields()
        .iter()
        .map(|field| format!("\"{}\" {}", field.name(), duckdb_type(field.data_type())))
        .collect();
    let mut statements = vec![format!("CREATE TABLE {name} ({})", columns.join(", "))];
    let options = FormatOptions::default().with_null("NULL");
    let texts: Vec<_> =
        rows.columns().iter().map(|c| ArrayFormatter::try_new(c, &options).unwrap()).collect();
    let value = |column: usize, row: usize| {
        let array = rows.column(column);
        if array.is_null(row) {
            return "NULL".to_string();
        }
        let text = texts[column].value(row).to_string().replace('\'', "''");
        match array.data_type() {
            DataType::Binary | DataType::LargeBinary => format!("from_hex('{text}')"),
            _ => format!("'{text}'"),
        }
    };
    let lines: Vec<String> = (0..rows.num_rows())
        .map(|row| {
            let values: Vec<String> = (0..rows.num_columns()).map(|c| value(c, row)).collect();
            format!("({})", values.join(", "))
        })
        .collect();
    let inserts = lines.chunks(500).map(|l| format!("INSERT INTO {name} VALUES {}", l.join(", ")));
    statements.extend(inserts);
    statements
}

fn duckdb_type(data_type: &DataType) -> String {
    match data_type {
        DataType::Boolean => "BOOLEAN".to_string(),
        DataType::Int8 => "TINYINT".to_string(),
        DataType::Int16 => "SMALLINT".to_string(),
        DataType::Int32 => "INTEGER".to_string(),
        DataType::Int64 => "BIGINT".to_string(),
        DataType::UInt16 => "USMALLINT".to_string(),
        DataType::UInt32 => "UINTEGER".to_string(),
        DataType::UInt64 => "UBIGINT".to_string(),
        DataType::Float32 => "REAL".to_string(),
        DataType::Float64 => "DOUBLE".to_string(),
        DataType::Decimal128(precision, scale) => format!("DECIMAL({precision}, {scale})"),
        DataType::Date32 => "DATE".to_string(),
        DataType::Timestamp(_, Some(_)) => "TIMESTAMPTZ".to_string(),
        DataType::Timestamp(TimeUnit::Nanosecond, None) => "TIMESTAMP_NS".to_string(),
        DataType::Timestamp(..) => "TIMESTAMP".to_string(),
        DataType::Binary => "BLOB".to_string(),
        DataType::List(item) => format!("{}[]", duckdb_type(item.data_type())),
        DataType::Struct(fields) => {
            let members: Vec<String> = fields
                .iter()
                .map(|f| format!("\"{}\" {}", f.name(), duckdb_type(f.data_type())))
                .collect();
            format!("STRUCT({})", members.join(", "))
        }
        _ => "VARCHAR".to_string(),
    }
}

/// A column as text, with the type that our view gives it.
fn as_text(column: &str, data_type: &DataType) -> String {
    match data_type {
        DataType::List(_) | DataType::Struct(_) => format!("{column}::VARCHAR"),
        DataType::Binary => format!("lower(hex({column}))"),
        other => format!("CAST({column} AS {})::VARCHAR", duckdb_type(other)),
    }
}
