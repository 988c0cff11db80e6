//! DuckDB, in a Python process that answers over a pipe. `make clients` installs it; where it is
//! missing, tests fail.

use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Mutex, PoisonError};

use serde_json::{Value, json};

use super::cells::{Cell, Rows};

struct Process {
    _child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

static PROCESS: Mutex<Option<Process>> = Mutex::new(None);

fn start() -> Process {
    let home = std::env::var_os("HOME").map(PathBuf::from).unwrap_or_default();
    let python = home.join(".cache/heliostat/clients/python/bin/python");
    assert!(python.exists(), "no DuckDB to ask: run `make clients` first");
    let mut child = Command::new(python)
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/sql/answer.py"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let (input, output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    Process { _child: child, input, output: BufReader::new(output) }
}

/// Runs queries, whose columns are all text, in a database that `setup` and `views` fill. A view
/// that cannot be created is an error only for who reads it.
pub fn ask(setup: &[String], views: &[String], queries: &[String]) -> Vec<Result<Rows, String>> {
    let mut process = PROCESS.lock().unwrap_or_else(PoisonError::into_inner);
    let process = process.get_or_insert_with(start);
    let request = json!({"setup": setup, "views": views, "queries": queries});
    writeln!(process.input, "{request}").unwrap();
    process.input.flush().unwrap();
    let mut line = String::new();
    process.output.read_line(&mut line).unwrap();
    let answer: Value = serde_json::from_str(&line).expect("DuckDB's process has answered");
    let answers = answer["answers"].as_array().unwrap();
    let answers: Vec<Result<Rows, String>> = answers.iter().map(read).collect();
    assert!(answers.len() == queries.len(), "DuckDB: {answers:?}");
    answers
}

fn read(answer: &Value) -> Result<Rows, String> {
    if let Some(error) = answer["error"].as_str() {
        return Err(error.to_string());
    }
    let rows = answer["rows"].as_array().unwrap();
    let cell = |cell: &Value| match cell {
        Value::Null => Cell::Null,
        Value::String(text) => Cell::Text(text.clone()),
        other => Cell::Text(other.to_string()),
    };
    Ok(rows.iter().map(|row| row.as_array().unwrap().iter().map(cell).collect()).collect())
}
