//! PostgreSQL, which says what SQL means: the tables and views of a script in a schema of their own,
//! filled as the events come. A cluster for each test process.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use arrow::array::RecordBatch;
use heliostat::internals::decode::TableDecoder;
use heliostat::internals::log::Frame;
use heliostat::internals::model::{
    EventTable, NewEvent, SourceColumn, SourceTable, SqlField, SqlType, TableMode, Tick,
};
use heliostat::internals::plan::QuerySet;

use super::common_postgres::{Answer, Connection, Postgres};
use super::typed;

/// The schema that all others see: types that have another name in PostgreSQL.
const COMMON: &str = "CREATE SCHEMA common; CREATE DOMAIN common.double AS double precision;";
/// After so many schemas the catalogue is cleaned; no daemon does it.
const SCHEMAS_PER_VACUUM: usize = 200;

struct Cluster {
    /// Stopped where the process ends.
    server: Mutex<Option<Postgres>>,
    connection: Mutex<Connected>,
}

struct Connected {
    connection: Connection,
    /// Counts the schemas that were made.
    schemas: usize,
}

fn cluster() -> &'static Cluster {
    static CLUSTER: OnceLock<Cluster> = OnceLock::new();
    CLUSTER.get_or_init(|| {
        let server = Postgres::start();
        let mut connection = server.connect();
        connection.execute(COMMON);
        // Programs are small, and none may hang.
        connection.execute("SET jit = off; SET statement_timeout = '60s'");
        // SAFETY: the function is of this program, and only drops what nobody uses any more.
        unsafe { libc::atexit(stop) };
        let connection = Mutex::new(Connected { connection, schemas: 0 });
        Cluster { server: Mutex::new(Some(server)), connection }
    })
}

/// Ends the server with the process, so that nothing is left behind.
extern "C" fn stop() {
    drop(cluster().server.lock().unwrap_or_else(PoisonError::into_inner).take());
}

fn with_connection<T>(work: impl FnOnce(&mut Connected) -> T) -> T {
    let connected = &cluster().connection;
    work(&mut connected.lock().unwrap_or_else(PoisonError::into_inner))
}

/// Views over the tables of one script. Events that were loaded stay.
pub struct Session {
    schema: String,
    tables: Vec<Loaded>,
    /// The events that were loaded.
    events: usize,
    /// Whether upsert tables are computed once after each load, and not at each reading.
    kept: bool,
}

/// A table of events, as decoded.
struct Loaded {
    table: Arc<EventTable>,
    /// The columns that the script reads: the declared ones, and system columns that it names.
    columns: Vec<(SourceColumn, SqlField)>,
}

/// A table's events are in a table of this name, from which an upsert table is a view.
fn stored(table: &EventTable) -> String {
    format!("\"{} events\"", table.name)
}

impl Session {
    /// Makes the tables of a script and its views; `plain` are other views that the script has.
    pub fn new(set: &QuerySet, plain: &[String], views: &[(String, String)]) -> Session {
        Session::make(set, plain, views, false)
    }

    /// Makes the tables of files, which hold many rows.
    #[allow(dead_code, reason = "the suites ask for it")]
    pub fn with_kept_tables(set: &QuerySet) -> Session {
        Session::make(set, &[], &[], true)
    }

    fn make(set: &QuerySet, plain: &[String], views: &[(String, String)], kept: bool) -> Session {
        let words: String = plain.iter().chain(views.iter().map(|(_, sql)| sql)).cloned().collect();
        let tables = set
            .tables
            .iter()
            .map(|table| Loaded { table: Arc::clone(table), columns: columns(table, &words) });
        let tables: Vec<Loaded> = tables.collect();
        with_connection(|connected| {
            connected.schemas += 1;
            if connected.schemas.is_multiple_of(SCHEMAS_PER_VACUUM) {
                connected.connection.execute("VACUUM");
            }
            let schema = format!("s{}", connected.schemas);
            let connection = &mut connected.connection;
            connection
                .execute(&format!("CREATE SCHEMA {schema}; SET search_path TO {schema}, common"));
            connection.execute("SET heliostat.tick = '2000-01-01'");
            for loaded in &tables {
                loaded.statements(kept).iter().for_each(|sql| drop(connection.execute(sql)));
            }
            let views = views.iter().map(|(name, sql)| format!("CREATE VIEW \"{name}\" AS {sql}"));
            for sql in plain.iter().cloned().chain(views) {
                // A view that PostgreSQL refuses is an error only for queries that read it.
                let _ = connection.query(&at_tick(&sql));
            }
            Session { schema, tables, events: 0, kept }
        })
    }

    /// Runs statements beside the tables.
    #[allow(dead_code, reason = "the suites ask for it")]
    pub fn execute(&self, sql: &str) {
        with_connection(|connected| {
            connected
                .connection
                .execute(&format!("SET search_path TO {}, common; {sql}", self.schema));
        });
    }

    /// The answers to the questions at this tick over these events: those of the last call and further ones.
    pub fn ask(
        &mut self,
        events: &[NewEvent],
        tick: Tick,
        questions: &[String],
    ) -> Vec<Result<Answer, String>> {
        with_connection(|connected| {
            let connection = &mut connected.connection;
            let now = chrono::DateTime::from_timestamp_millis(tick as i64).unwrap();
            connection.execute(&format!(
                "SET search_path TO {}, common; SET heliostat.tick = '{}'",
                self.schema,
                now.format("%Y-%m-%d %H:%M:%S%.3f")
            ));
            if events.len() > self.events {
                let first = self.events as u64 + 1;
                let frame = Frame::new(1, first, events[self.events..].iter()).unwrap();
                for loaded in &self.tables {
                    loaded.add(&frame, connection);
                    if self.kept {
                        let name = &loaded.table.name;
                        connection.execute(&format!(
                            "REFRESH MATERIALIZED VIEW \"{name}\"; ANALYZE \"{name}\""
                        ));
                    }
                }
            }
            self.events = events.len();
            questions.iter().map(|sql| connection.query(&at_tick(sql))).collect()
        })
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let dropped = format!("DROP SCHEMA {} CASCADE", self.schema);
        with_connection(|connected| connected.connection.execute(&dropped));
    }
}

/// `now()` as the tick's. Its literal is a setting, so that views need not be made anew.
fn at_tick(sql: &str) -> String {
    let tick = "CAST(current_setting('heliostat.tick') AS TIMESTAMPTZ)";
    let day = "CAST(current_setting('heliostat.tick') AS DATE)";
    let sql = sql.replace("now()", tick).replace("current_timestamp", tick);
    sql.replace("current_date", day)
}

fn columns(table: &Arc<EventTable>, words: &str) -> Vec<(SourceColumn, SqlField)> {
    let source = SourceTable::Declared(Arc::clone(table));
    let is_upsert = table.mode != TableMode::Append;
    let is_read = |column: &SourceColumn| match column {
        SourceColumn::Declared(_) => true,
        SourceColumn::System(_) => {
            let name = source.field(*column).name;
            words.contains(&name) || (is_upsert && name == "_position")
        }
    };
    let read = source.columns().into_iter().filter(is_read);
    read.map(|column| (column, source.field(column))).collect()
}

impl Loaded {
    /// The statements that make the table, with types for its structs.
    fn statements(&self, kept: bool) -> Vec<String> {
        let mut types = Vec::new();
        let name = stored(&self.table);
        let columns: Vec<String> = self
            .columns
            .iter()
            .map(|(_, field)| {
                let hint = format!("{}.{}", self.table.name, field.name);
                format!("\"{}\" {}", field.name, type_of(&field.sql_type, &hint, &mut types))
            })
            .collect();
        let names: Vec<String> =
            self.table.columns.iter().map(|c| format!("\"{}\"", c.field.name)).collect();
        let system = self.columns.iter().filter_map(|(column, field)| match column {
            SourceColumn::System(_) => Some(format!("\"{}\"", field.name)),
            SourceColumn::Declared(_) => None,
        });
        let all = names.iter().cloned().chain(system).collect::<Vec<_>>().join(", ");
        let view = match &self.table.mode {
            TableMode::Append => format!("SELECT {all} FROM {name}"),
            TableMode::Upsert { key, delete_when } => {
                let key: Vec<&str> = key.iter().map(|at| names[*at].as_str()).collect();
                let key = key.join(", ");
                format!(
                    "SELECT {all} FROM (SELECT DISTINCT ON ({key}) * FROM {name} \
                     ORDER BY {key}, _position DESC) AS latest WHERE ({}) IS NOT TRUE",
                    delete_when.as_deref().unwrap_or("false"),
                )
            }
        };
        types.push(format!("CREATE TABLE {name} ({})", columns.join(", ")));
        let kind = if kept { "MATERIALIZED VIEW" } else { "VIEW" };
        types.push(format!("CREATE {kind} \"{}\" AS {view}", self.table.name));
        types
    }

    /// Adds a frame's events.
    fn add(&self, frame: &Frame, connection: &mut Connection) {
        let source = SourceTable::Declared(Arc::clone(&self.table));
        let columns = self.columns.iter().map(|(column, _)| *column).collect();
        let mut decoder = TableDecoder::new(source, columns);
        let events = frame.decompress().unwrap();
        for event in events.iter() {
            if decoder.reads(&event) {
                decoder.push(&event);
            }
        }
        let decoded = decoder.finish();
        // Columns that fit are there even if another one of the event does not, for views that read only
        // those.
        if decoded.rows.num_rows() > 0 {
            let lines = self.lines(&decoded.rows);
            connection
                .copy(&stored(&self.table), &lines)
                .unwrap_or_else(|e| panic!("{e}: {lines}"));
        }
    }

    /// Rows in COPY's text format.
    fn lines(&self, rows: &RecordBatch) -> String {
        let texts: Vec<Vec<Option<String>>> = rows
            .columns()
            .iter()
            .zip(&self.columns)
            .map(|(array, (_, field))| typed::texts(array, &field.sql_type))
            .collect();
        let mut lines = String::new();
        for row in 0..rows.num_rows() {
            let cells: Vec<String> = texts.iter().map(|t| copied(t[row].as_deref())).collect();
            lines.push_str(&cells.join("\t"));
            lines.push('\n');
        }
        lines
    }
}

/// A field of COPY's text format.
fn copied(text: Option<&str>) -> String {
    let Some(text) = text else { return "\\N".to_string() };
    let text = text.replace('\\', "\\\\").replace('\n', "\\n");
    text.replace('\t', "\\t").replace('\r', "\\r")
}

/// The type that PostgreSQL has for this one; types for structs are made beside it.
fn type_of(sql_type: &SqlType, hint: &str, types: &mut Vec<String>) -> String {
    match sql_type {
        SqlType::SmallIntUnsigned => "INT".to_string(),
        SqlType::IntUnsigned => "BIGINT".to_string(),
        SqlType::BigIntUnsigned => "NUMERIC(20)".to_string(),
        SqlType::Double => "DOUBLE PRECISION".to_string(),
        SqlType::Timestamp { precision, with_time_zone } => {
            let zone = if *with_time_zone { " WITH TIME ZONE" } else { "" };
            format!("TIMESTAMP({}){zone}", precision.min(&6))
        }
        SqlType::Array(item) => format!("{}[]", type_of(&item.sql_type, hint, types)),
        SqlType::Struct(fields) => {
            let members: Vec<String> = fields
                .iter()
                .map(|field| {
                    let hint = format!("{hint}.{}", field.name);
                    format!("\"{}\" {}", field.name, type_of(&field.sql_type, &hint, types))
                })
                .collect();
            types.push(format!("CREATE TYPE \"{hint}\" AS ({})", members.join(", ")));
            format!("\"{hint}\"")
        }
        other => other.to_string(),
    }
}
