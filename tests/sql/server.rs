//! The files against the real server, which is killed at half of the events: what its views answer
//! afterwards are the rows that the same events make in process, and so is what fails in them.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use arrow::datatypes::DataType;
use heliostat::internals::dataflow::LocalRun;
use heliostat::internals::model::SqlType;
use heliostat::internals::model::Tick;
use heliostat::internals::model::ViewSchema;
use heliostat::internals::plan::QuerySet;
use serde_json::{Value, json};

use super::cells::{self, Cell, Rows};
use super::common::Server;
use super::modes::{failure_line, failure_lines, numbered};
use super::script::{Script, TimedEvent};

/// The number of servers that run at a time.
const SERVERS: usize = 2;
/// How long a view may take to show what was posted.
const PATIENCE: Duration = Duration::from_secs(30);
/// Events in a request.
const EVENTS_PER_REQUEST: usize = 20;

/// Runs every file, each with a server of its own; what differs.
pub fn check(scripts: &[Script]) -> Vec<String> {
    let next = AtomicUsize::new(0);
    let work = || {
        let mut wrong = Vec::new();
        while let Some(script) = scripts.get(next.fetch_add(1, Ordering::Relaxed)) {
            let problems = run(script);
            wrong.extend(problems.into_iter().map(|p| format!("{}: {p}", script.name())));
        }
        wrong
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..SERVERS).map(|_| scope.spawn(work)).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    })
}

fn run(script: &Script) -> Vec<String> {
    if script.views.is_empty() || script.without.iter().any(|mode| mode == "server") {
        return Vec::new();
    }
    let set = match script.plan(&script.tables) {
        Ok(set) => set,
        Err(error) => return vec![error],
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let answers = runtime.block_on(killed(script, &set));
    let mut run = LocalRun::start(&set.views, 1).unwrap();
    run.feed(now(), &[numbered(&script.events)]).unwrap();
    let mut wrong = Vec::new();
    for (at, (view, (theirs, failing))) in set.views.iter().zip(answers).enumerate() {
        let mut ours = cells::rows(&run.rows(at).unwrap());
        ours.iter_mut().for_each(|row| as_values(row, &view.schema));
        if let Err(problem) = cells::compare(&theirs, &ours) {
            wrong.push(format!("{} of a server that was killed: {problem}", view.schema.name));
        }
        let fails = failure_lines(&run, at);
        if failing != fails {
            let name = &view.schema.name;
            wrong.push(format!(
                "{name} of a server that was killed fails with {failing:?}, and should with {fails:?}"
            ));
        }
    }
    wrong
}

/// The rows of each view and what fails in it, after a kill that comes while events are on their way
/// into the views.
async fn killed(script: &Script, set: &QuerySet) -> Vec<(Rows, Vec<String>)> {
    let server = Server::start(&[("script.sql", &script.sql(&script.tables))]);
    let (before, after) = script.events.split_at(script.events.len() / 2);
    let (shown, underway) = before.split_at(before.len() / 2);
    let position = post(&server, shown, 0).await;
    for view in &set.views {
        rows(&server, &view.schema, position).await;
    }
    post(&server, underway, shown.len()).await;
    server.restart();
    post(&server, after, before.len()).await;
    let all = script.events.len();
    let mut answers = Vec::new();
    for view in &set.views {
        let rows = rows(&server, &view.schema, all).await;
        answers.push((rows, failures(&server, &view.schema.name).await));
    }
    answers
}

/// The failures of a view, as files have them.
async fn failures(server: &Server, view: &str) -> Vec<String> {
    let answer = server.get(&format!("/v1/dead-letters?view={view}&limit=10000")).await;
    let letters = answer["dead_letters"].as_array().unwrap();
    let mut lines: Vec<String> = letters
        .iter()
        .map(|letter| {
            let text = |name: &str| letter[name].as_str().unwrap();
            failure_line(text("expression"), text("reason"), letter["count"].as_i64().unwrap())
        })
        .collect();
    lines.sort();
    lines
}

/// Posts events, the first of which is number `from`; the position of the last.
async fn post(server: &Server, events: &[TimedEvent], from: usize) -> usize {
    let body: Vec<Value> = events.iter().enumerate().map(|(n, e)| envelope(e, from + n)).collect();
    for request in body.chunks(EVENTS_PER_REQUEST) {
        server.append(&json!(request)).await;
    }
    from + events.len()
}

fn envelope(event: &TimedEvent, n: usize) -> Value {
    let time = chrono::DateTime::from_timestamp_millis(event.tick as i64).unwrap();
    let data: Value = serde_json::from_str(&event.data).unwrap();
    json!({"id": format!("e{n}"), "type": event.event_type, "time": time.to_rfc3339(), "data": data})
}

/// A view's rows as of this position.
async fn rows(server: &Server, schema: &ViewSchema, position: usize) -> Rows {
    let name = &schema.name;
    let path = format!("/v1/views/{name}/rows?min_position={position}&timeout=10s&limit=10000");
    let end = Instant::now() + PATIENCE;
    let mut answer = server.get(&path).await;
    // A view that is still being read from the log says so at once.
    while !answer["rows"].is_array() && Instant::now() < end {
        tokio::time::sleep(Duration::from_millis(20)).await;
        answer = server.get(&path).await;
    }
    assert!(answer["rows"].is_array(), "{name}: {answer}");
    assert_eq!(answer["cursor"], Value::Null, "{name} has all its rows on one page");
    let row = |row: &Value| -> Vec<Cell> {
        schema.columns.iter().map(|c| cell(&row[&c.name], &c.sql_type)).collect()
    };
    answer["rows"].as_array().unwrap().iter().map(row).collect()
}

fn cell(value: &Value, sql_type: &SqlType) -> Cell {
    match (value, sql_type.to_arrow()) {
        (Value::Null, _) => Cell::Null,
        (value, _) if *sql_type == SqlType::Json => Cell::Text(value.to_string()),
        (Value::Number(number), DataType::Float64) => Cell::Float(number.as_f64().unwrap()),
        (Value::Number(number), DataType::Float32) => Cell::Real(number.as_f64().unwrap() as f32),
        (value, _) => Cell::Text(text(value)),
    }
}

/// JSON as the value that it is, however it is written.
fn as_values(row: &mut [Cell], schema: &ViewSchema) {
    for (cell, column) in row.iter_mut().zip(&schema.columns) {
        if let (Cell::Text(text), SqlType::Json) = (&*cell, &column.sql_type) {
            let value: Value = serde_json::from_str(text).unwrap();
            *cell = Cell::Text(value.to_string());
        }
    }
}

/// As Arrow shows lists and structs.
fn text(value: &Value) -> String {
    match value {
        Value::Null => "NULL".to_string(),
        Value::String(text) => text.clone(),
        Value::Array(items) => {
            format!("[{}]", items.iter().map(text).collect::<Vec<_>>().join(", "))
        }
        Value::Object(members) => {
            let members = members.iter().map(|(name, value)| format!("{name}: {}", text(value)));
            format!("{{{}}}", members.collect::<Vec<_>>().join(", "))
        }
        other => other.to_string(),
    }
}

fn now() -> Tick {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as Tick
}
