//! Golden tests of views: a folder of events and of the rows that views must then have.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use arrow::array::{Array, RecordBatch};
use arrow::datatypes::DataType;
use arrow::error::ArrowError;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use chrono::DateTime;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::engine::local::{LocalRun, LocalRunError};
use crate::model::Tick;
use crate::model::event::NewEvent;
use crate::model::schema::OnInvalid;
use crate::plan::QuerySet;

/// The instant at which a test's clock starts: 2000-01-01T00:00:00Z.
const CLOCK_START_MS: u64 = 946_684_800_000;

/// A value of a CSV file: `None` is NULL, written as nothing at all.
type CsvValue = Option<String>;
type CsvRow = Vec<CsvValue>;

/// A folder with an `events.ndjson`.
#[derive(Debug)]
pub struct GoldenTest {
    pub name: String,
    directory: PathBuf,
    expected: BTreeMap<String, PathBuf>,
}

/// Something that is not as the test says.
pub type Mismatch = String;

/// Why a golden test cannot be run: the test itself is wrong, or the machine is.
#[derive(Debug, thiserror::Error)]
pub enum GoldenError {
    #[error("{path}: {source}")]
    File { path: String, source: std::io::Error },
    #[error("{path}: line {line}: {error}")]
    EventLine { path: String, line: usize, error: LineError },
    #[error("{directory}: there is no <view>.csv to compare")]
    NothingExpected { directory: String },
    #[error("{path}: there is no materialized view {view}")]
    NoView { path: String, view: String },
    #[error(transparent)]
    Run(#[from] LocalRunError),
    /// The view's rows cannot be shown.
    #[error(transparent)]
    Rows(#[from] ArrowError),
}

impl GoldenError {
    fn of_file(path: &Path, source: std::io::Error) -> GoldenError {
        GoldenError::File { path: path.display().to_string(), source }
    }
}

/// An error in a line of `events.ndjson`.
#[derive(Debug, thiserror::Error)]
pub enum LineError {
    #[error(transparent)]
    Json(#[from] serde_json::Error),
    #[error("{0:?} is no instant: write 2026-11-23T10:00:00Z")]
    Tick(String),
    #[error("the clock goes forward only")]
    Clock,
    #[error("an event has type and data")]
    Incomplete,
    #[error("time {0:?} is not RFC 3339")]
    Time(String),
}

/// All golden tests below a queries directory.
pub fn find(queries: &Path) -> std::io::Result<Vec<GoldenTest>> {
    let mut tests = Vec::new();
    find_in(queries, queries, &mut tests)?;
    tests.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(tests)
}

fn find_in(root: &Path, directory: &Path, tests: &mut Vec<GoldenTest>) -> std::io::Result<()> {
    let is_test = directory.parent().and_then(Path::file_name).is_some_and(|n| n == "tests");
    if is_test && directory.join("events.ndjson").is_file() {
        let mut expected = BTreeMap::new();
        for entry in std::fs::read_dir(directory)? {
            let path = entry?.path();
            if path.extension().is_some_and(|e| e == "csv")
                && let Some(view) = path.file_stem().and_then(|s| s.to_str())
            {
                expected.insert(view.to_string(), path.clone());
            }
        }
        let name = directory.strip_prefix(root).unwrap_or(directory).display().to_string();
        tests.push(GoldenTest { name, directory: directory.to_path_buf(), expected });
        return Ok(());
    }
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() {
            find_in(root, &path, tests)?;
        }
    }
    Ok(())
}

/// A line of `events.ndjson`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EventLine<'a> {
    tick: Option<String>,
    #[serde(rename = "type")]
    event_type: Option<String>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
    id: Option<String>,
    source: Option<String>,
    version: Option<u32>,
    stream: Option<String>,
    time: Option<String>,
    #[serde(borrow)]
    metadata: Option<&'a RawValue>,
}

/// Events that arrive at one tick.
struct TickEvents {
    tick: Tick,
    events: Vec<NewEvent>,
}

fn instant_ms(text: &str) -> Result<i64, LineError> {
    DateTime::parse_from_rfc3339(text)
        .map(|time| time.timestamp_millis())
        .map_err(|_| LineError::Tick(text.to_string()))
}

/// The events by tick; an error comes with the number of its line.
fn steps(text: &str) -> Result<Vec<TickEvents>, (usize, LineError)> {
    let mut steps = vec![TickEvents { tick: CLOCK_START_MS, events: Vec::new() }];
    for (index, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let number = index + 1;
        read_line(line, number, &mut steps).map_err(|error| (number, error))?;
    }
    Ok(steps)
}

fn read_line(line: &str, number: usize, steps: &mut Vec<TickEvents>) -> Result<(), LineError> {
    let line: EventLine<'_> = serde_json::from_str(line)?;
    let clock = steps.last().map_or(CLOCK_START_MS, |step| step.tick);
    if let Some(tick) = &line.tick {
        let tick = u64::try_from(instant_ms(tick)?).unwrap_or(0);
        if tick <= clock {
            return Err(LineError::Clock);
        }
        steps.push(TickEvents { tick, events: Vec::new() });
        return Ok(());
    }
    let event = event(line, number, clock)?;
    if let Some(step) = steps.last_mut() {
        step.events.push(event);
    }
    Ok(())
}

fn event(line: EventLine<'_>, number: usize, clock: Tick) -> Result<NewEvent, LineError> {
    let (Some(event_type), Some(data)) = (line.event_type, line.data) else {
        return Err(LineError::Incomplete);
    };
    let time_us = match &line.time {
        None => clock as i64 * 1000,
        Some(text) => DateTime::parse_from_rfc3339(text)
            .map(|time| time.timestamp_micros())
            .map_err(|_| LineError::Time(text.clone()))?,
    };
    Ok(NewEvent {
        id: line.id.unwrap_or_else(|| format!("line-{number}")),
        source: line.source.unwrap_or_default(),
        event_type,
        version: line.version.unwrap_or(1),
        stream: line.stream,
        time_us,
        data: data.get().as_bytes().to_vec(),
        metadata: line.metadata.map(|m| m.get().as_bytes().to_vec()).unwrap_or_default(),
    })
}

impl GoldenTest {
    /// Runs the test; with `bless` the expected files are written as the views are.
    pub fn run(&self, set: &QuerySet, bless: bool) -> Result<Vec<Mismatch>, GoldenError> {
        let path = self.directory.join("events.ndjson");
        let text =
            std::fs::read_to_string(&path).map_err(|source| GoldenError::of_file(&path, source))?;
        if self.expected.is_empty() {
            let directory = self.directory.display().to_string();
            return Err(GoldenError::NothingExpected { directory });
        }
        let steps = steps(&text).map_err(|(line, error)| {
            let path = path.display().to_string();
            GoldenError::EventLine { path, line, error }
        })?;
        let mut mismatches = self.misfits(set, &steps);
        let mut run = LocalRun::start(&set.views, 1)?;
        for step in steps {
            run.feed(step.tick, &[step.events])?;
        }
        for (view, path) in &self.expected {
            let Some(index) = set.views.iter().position(|v| v.schema.name == *view) else {
                let (path, view) = (path.display().to_string(), view.clone());
                return Err(GoldenError::NoView { path, view });
            };
            let rows = run.rows(index)?;
            if bless {
                std::fs::write(path, to_csv(&rows)?)
                    .map_err(|source| GoldenError::of_file(path, source))?;
            } else {
                mismatches.extend(compare(path, &rows)?);
            }
        }
        Ok(mismatches)
    }

    /// Events that the server would not have accepted.
    fn misfits(&self, set: &QuerySet, steps: &[TickEvents]) -> Vec<Mismatch> {
        let mut misfits = Vec::new();
        for table in set.tables.iter().filter(|table| table.on_invalid == OnInvalid::Reject) {
            let mut validator = crate::decode::Validator::new(table);
            for event in steps.iter().flat_map(|step| &step.events) {
                if event.event_type == table.event_type && event.version == table.version {
                    for violation in validator.check(&event.data) {
                        let (id, name) = (&event.id, &table.name);
                        let crate::decode::Violation { pointer, message } = violation;
                        misfits.push(format!("event {id}: {pointer}: {message} (table {name})"));
                    }
                }
            }
        }
        misfits
    }
}

fn compare(path: &Path, rows: &RecordBatch) -> Result<Vec<Mismatch>, GoldenError> {
    let text =
        std::fs::read_to_string(path).map_err(|source| GoldenError::of_file(path, source))?;
    let mut records = records(&text).into_iter();
    let names: Vec<CsvValue> =
        rows.schema().fields().iter().map(|f| Some(f.name().clone())).collect();
    let header = records.next().unwrap_or_default();
    if header != names {
        let expected = line(&header);
        return Ok(vec![format!(
            "{}: columns are {}, expected {expected}",
            path.display(),
            line(&names)
        )]);
    }
    let mut actual: Vec<CsvRow> = table(rows)?;
    let mut mismatches = Vec::new();
    for expected in records {
        match actual.iter().position(|row| same_row(row, &expected)) {
            Some(index) => {
                actual.remove(index);
            }
            None => mismatches.push(format!("{}: missing {}", path.display(), line(&expected))),
        }
    }
    mismatches
        .extend(actual.iter().map(|row| format!("{}: surplus {}", path.display(), line(row))));
    Ok(mismatches)
}

fn same_row(a: &CsvRow, b: &CsvRow) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a == b || plain(a) == plain(b))
}

/// A number without zeros at its end, an instant without its zone: what people write differently.
fn plain(value: &CsvValue) -> CsvValue {
    let text = value.as_ref()?;
    let numeric = !text.is_empty()
        && text.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'.' | b'-'))
        && text.contains('.');
    if numeric {
        return Some(text.trim_end_matches('0').trim_end_matches('.').to_string());
    }
    let bytes = text.as_bytes();
    if bytes.len() >= 19 && bytes[4] == b'-' && bytes[13] == b':' {
        let text = text.replacen(' ', "T", 1);
        let text = text.strip_suffix('Z').unwrap_or(&text);
        let text = if text.contains('.') {
            text.trim_end_matches('0').trim_end_matches('.')
        } else {
            text
        };
        return Some(text.to_string());
    }
    Some(text.clone())
}

fn table(rows: &RecordBatch) -> Result<Vec<CsvRow>, ArrowError> {
    let options = FormatOptions::default();
    let formatters = rows
        .columns()
        .iter()
        .map(|column| ArrayFormatter::try_new(column.as_ref(), &options))
        .collect::<Result<Vec<_>, _>>()?;
    let value = |row: usize, column: usize| {
        let array = rows.column(column);
        let null = array.is_null(row) || array.data_type() == &DataType::Null;
        (!null).then(|| formatters[column].value(row).to_string())
    };
    let columns = rows.num_columns();
    Ok((0..rows.num_rows()).map(|row| (0..columns).map(|c| value(row, c)).collect()).collect())
}

/// The rows as CSV with a header, where an empty field is NULL and `""` is empty text.
pub fn to_csv(rows: &RecordBatch) -> Result<String, ArrowError> {
    let names: CsvRow = rows.schema().fields().iter().map(|f| Some(f.name().clone())).collect();
    let mut text = line(&names);
    for row in table(rows)? {
        text.push('\n');
        text.push_str(&line(&row));
    }
    text.push('\n');
    Ok(text)
}

fn line(row: &CsvRow) -> String {
    let quoted = |value: &CsvValue| match value {
        None => String::new(),
        Some(text) if text.is_empty() || text.contains([',', '"', '\n', '\r']) => {
            format!("\"{}\"", text.replace('"', "\"\""))
        }
        Some(text) => text.clone(),
    };
    row.iter().map(quoted).collect::<Vec<_>>().join(",")
}

/// The records of a CSV text (RFC 4180), where an empty field is NULL and `""` is empty text.
fn records(text: &str) -> Vec<CsvRow> {
    let mut records = Vec::new();
    let mut row: CsvRow = Vec::new();
    let (mut field, mut quoted, mut inside) = (String::new(), false, false);
    let mut chars = text.chars().peekable();
    let end_field = |field: &mut String, quoted: &mut bool, row: &mut CsvRow| {
        let text = std::mem::take(field);
        row.push((*quoted || !text.is_empty()).then_some(text));
        *quoted = false;
    };
    while let Some(c) = chars.next() {
        match c {
            '"' if inside && chars.peek() == Some(&'"') => {
                chars.next();
                field.push('"');
            }
            '"' => {
                inside = !inside;
                quoted = true;
            }
            ',' if !inside => end_field(&mut field, &mut quoted, &mut row),
            '\r' if !inside => {}
            '\n' if !inside => {
                end_field(&mut field, &mut quoted, &mut row);
                records.push(std::mem::take(&mut row));
            }
            other => field.push(other),
        }
    }
    if !field.is_empty() || quoted || !row.is_empty() {
        end_field(&mut field, &mut quoted, &mut row);
        records.push(row);
    }
    records
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_csv_field_is_null_and_quoted_one_is_empty_text() {
        let rows = records("a,b,c\n1,,\"\"\n\"x,\"\"y\"\"\",2,3\n");
        let some = |text: &str| Some(text.to_string());
        assert_eq!(rows[1], [some("1"), None, some("")]);
        assert_eq!(rows[2][0], some("x,\"y\""));
        assert_eq!(line(&rows[1]), "1,,\"\"");
        assert!(same_row(&vec![some("12.50")], &vec![some("12.5")]));
        assert!(!same_row(&vec![some("150")], &vec![some("15")]));
    }
}
