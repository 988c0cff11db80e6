//! Whether small workloads take more instructions than they did: valgrind counts those of a process that does
//! one, once with the work and once with twice as much. Time would tell as much about the machine.
//!
//! `tests/instructions.txt` has the numbers, of which compiler and processor they are; with others nothing is
//! compared. `HELIOSTAT_BLESS=1` writes it.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Condvar, Mutex};

use heliostat::internals::dataflow::{Beginning, InstallRequest, Runtime};
use heliostat::internals::log::{FaultyFiles, Frame, Log, LogOptions};
use heliostat::internals::model::{Head, NewEvent, ViewMessage};
use heliostat::internals::plan::{SourceFile, plan_files};

/// A workload may take so much more, or less, than is written down.
const TOLERANCE: f64 = 0.1;
/// The variables that tell the counted process what to do.
const WORKLOAD: &str = "HELIOSTAT_WORKLOAD";
const EVENTS: &str = "HELIOSTAT_WORKLOAD_EVENTS";
/// Number of events of the work.
const WORK: u64 = 20_000;
/// Number of events that are appended, or fed at a tick.
const BATCH: u64 = 2_000;

const TABLES: &str = "
    CREATE TABLE t (k BIGINT NOT NULL, v BIGINT NOT NULL, name TEXT) WITH (event_type = 't');
    CREATE TABLE u (k BIGINT NOT NULL, v BIGINT NOT NULL, name TEXT, PRIMARY KEY (k))
      WITH (event_type = 't', mode = 'upsert');
";

/// The views; `append` is the log instead.
const VIEWS: [(&str, &str); 3] = [
    ("group", "SELECT k, count(*) AS n, sum(v) AS s, max(v) AS m, avg(v) AS a FROM t GROUP BY k"),
    ("join", "SELECT t.k, t.v, u.name FROM t JOIN u ON u.k = t.k WHERE t.v % 4 = 0"),
    (
        "top",
        "SELECT k, v FROM (SELECT k, v, row_number() OVER (PARTITION BY k ORDER BY v DESC) AS n FROM t) x WHERE n <= 3",
    ),
];
const APPEND: &str = "append";

fn event(n: u64) -> NewEvent {
    let k = n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 51;
    NewEvent {
        id: n.to_string(),
        source: String::new(),
        event_type: "t".to_string(),
        version: 1,
        stream: None,
        time_us: 0,
        data: format!(r#"{{"k":{k},"v":{n},"name":"name of {k}"}}"#).into_bytes(),
        metadata: Vec::new(),
    }
}

/// Feeds events to a view on one worker, a batch at a time.
fn compute(sql: &str, events: u64) {
    let text = format!("{TABLES} CREATE MATERIALIZED VIEW v AS {sql};");
    let file = Arc::new(SourceFile { path: "v.sql".into(), text });
    let mut set = plan_files(&[file], "instructions", heliostat::internals::sink::KINDS);
    assert!(set.diagnostics.is_empty(), "{:?}", set.diagnostics);
    let complete = Arc::new((Mutex::new(0), Condvar::new()));
    let told = Arc::clone(&complete);
    let listener = move |message| match message {
        ViewMessage::Frontier { frontier, .. } => {
            *told.0.lock().unwrap() = frontier;
            told.1.notify_all();
        }
        ViewMessage::Failed { reason } => panic!("{reason}"),
        _ => {}
    };
    let runtime = Runtime::start(1).unwrap();
    let plan = set.views.remove(0);
    let request =
        InstallRequest { view: 0, beginning: Beginning::Empty, plan, listener: Arc::new(listener) };
    runtime.install(0, &[request], Head::default());
    for (tick, from) in (1..).zip((0..events).step_by(BATCH as usize)) {
        let batch: Vec<NewEvent> = (from..from + BATCH).map(event).collect();
        let frame = Frame::new(tick, from + 1, batch.iter()).unwrap();
        runtime.feed(0, vec![frame], tick, true);
        let guard = complete.0.lock().unwrap();
        drop(complete.1.wait_while(guard, |frontier| *frontier <= tick).unwrap());
    }
    runtime.shutdown();
}

/// Appends events to a log in memory.
fn append(events: u64) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let log = Log::open_with(Arc::new(FaultyFiles::new()), LogOptions::default()).unwrap();
    for from in (0..events).step_by(BATCH as usize) {
        let batch: Vec<NewEvent> = (from..from + BATCH).map(event).collect();
        runtime.block_on(log.append(batch)).unwrap();
    }
    log.close();
}

#[test]
#[ignore = "is run by the test below, in a process of its own"]
fn work() {
    let (name, events) = (std::env::var(WORKLOAD).unwrap(), std::env::var(EVENTS).unwrap());
    let events = events.parse().unwrap();
    match VIEWS.iter().find(|(view, _)| *view == name) {
        Some((_, sql)) => compute(sql, events),
        None => append(events),
    }
}

/// The instructions that a process takes to do a workload with so many events.
fn instructions(workload: &str, events: u64) -> u64 {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "work", "--ignored", "--nocapture"])
        .envs([(WORKLOAD, workload), (EVENTS, &events.to_string())])
        .output()
        .expect("valgrind");
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{told}\n{}", String::from_utf8_lossy(&output.stdout));
    let collected = told.lines().find_map(|line| line.split_once("Collected : "));
    collected.and_then(|(_, count)| count.trim().parse().ok()).unwrap_or_else(|| panic!("{told}"))
}

/// What the numbers depend on beside our own code.
fn machine() -> String {
    let output = Command::new("rustc").arg("--version").output().expect("rustc");
    format!("{} {}", String::from_utf8_lossy(&output.stdout).trim(), std::env::consts::ARCH)
}

#[test]
fn workloads_take_no_more_instructions() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/instructions.txt");
    let (machine, bless) = (machine(), std::env::var_os("HELIOSTAT_BLESS").is_some());
    let text = std::fs::read_to_string(&path).unwrap_or_default();
    let mut lines = text.lines();
    let is_same = lines.next() == Some(&machine);
    let known: BTreeMap<&str, u64> = lines
        .map(|line| line.split_once(' ').unwrap())
        .map(|(n, c)| (n, c.parse().unwrap()))
        .collect();
    let mut told = format!("{machine}\n");
    let mut wrong = Vec::new();
    for workload in VIEWS.iter().map(|(name, _)| *name).chain([APPEND]) {
        let count = instructions(workload, 2 * WORK) - instructions(workload, WORK);
        writeln!(told, "{workload} {}", count / WORK).unwrap();
        let known = known.get(workload).copied().unwrap_or(0);
        let change = (count / WORK) as f64 / known as f64 - 1.0;
        println!(
            "{workload}: {} instructions an event, {known} before: {:+.1} %",
            count / WORK,
            100.0 * change
        );
        if change.abs() > TOLERANCE {
            wrong.push(format!("{workload} {:+.1} %", 100.0 * change));
        }
    }
    if bless {
        std::fs::write(&path, told).unwrap();
    } else if is_same {
        assert!(wrong.is_empty(), "{wrong:?}: mend it, or bless it and say why");
    }
}
