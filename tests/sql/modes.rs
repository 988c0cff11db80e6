//! How events reach the views.

use std::collections::HashSet;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};

use arrow::array::RecordBatch;
use heliostat::internals::dataflow::LocalRun;
use heliostat::internals::log::{Log, LogOptions};
use heliostat::internals::model::NewEvent;
use heliostat::internals::model::TableMode;
use heliostat::internals::model::Tick;
use heliostat::internals::plan::{QuerySet, explain};
use serde_json::{Map, Value};

use super::cells;
use super::oracle::{Oracle, Question};
use super::rng::Rng;
use super::script::{CLOCK_START, Script, TimedEvent, View};

/// The number of views that began with rows of their tables.
pub static FILLED: AtomicUsize = AtomicUsize::new(0);

/// A way to bring events to views. All of them end with the same rows.
#[derive(Clone, Debug)]
pub struct Mode {
    way: Way,
    workers: usize,
    seed: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// All events at once, as when a view is added to a log.
    EventsFirst,
    /// Every event at a tick of its own, compared at some of them.
    ViewsFirst,
    /// Random order, batches and ticks, compared at every tick.
    AnyOrder,
    /// Append tables become upsert tables, and rows come that are changed or deleted later; compared
    /// at every tick.
    Churn,
    /// The values of a type's events change places among them, so that only the oracle knows the
    /// rows; compared at every tick.
    Mixed,
    /// The events of each tick together, compared at every tick.
    InSteps,
    /// As with churn; and every now and then all workers end, and others, more or fewer of them, go on
    /// from the arrangements that were kept. Only views whose state can be kept.
    Kept,
    /// The same, but what reads nothing but upsert tables begins with the rows that some view has kept of
    /// them.
    Filled,
    /// A durable log, a crash after half of the events, and the log read anew.
    Restart,
}

impl Mode {
    pub fn events_first(workers: usize) -> Mode {
        Mode { way: Way::EventsFirst, workers, seed: 1 }
    }

    pub fn views_first(workers: usize) -> Mode {
        Mode { way: Way::ViewsFirst, workers, seed: 1 }
    }

    pub fn any_order(seed: u64) -> Mode {
        Mode { way: Way::AnyOrder, workers: 1 + seed as usize % 3, seed }
    }

    pub fn churn(seed: u64) -> Mode {
        Mode { way: Way::Churn, workers: 1 + seed as usize % 3, seed }
    }

    pub fn kept(seed: u64) -> Mode {
        Mode { way: Way::Kept, workers: 1 + seed as usize % 3, seed }
    }

    pub fn filled(seed: u64) -> Mode {
        Mode { way: Way::Filled, workers: 1 + seed as usize % 3, seed }
    }

    pub fn mixed(seed: u64) -> Mode {
        Mode { way: Way::Mixed, workers: 1 + seed as usize % 3, seed }
    }

    pub fn in_steps(workers: usize) -> Mode {
        Mode { way: Way::InSteps, workers, seed: 1 }
    }

    pub fn restart(workers: usize) -> Mode {
        Mode { way: Way::Restart, workers, seed: 1 }
    }

    fn is_left_out_by(&self, script: &Script) -> bool {
        let without = |mode: &str| script.without.iter().any(|m| m == mode);
        match self.way {
            Way::AnyOrder => without("order"),
            Way::Churn | Way::Kept | Way::Filled => without("churn"),
            Way::Mixed => without("mixed"),
            _ => false,
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}, {} workers, seed {}", self.way, self.workers, self.seed)
    }
}

/// Steps that are appended to the log in one commit before the crash.
const STEPS_PER_COMMIT: usize = 10;

/// Events that enter at one tick.
struct Step {
    tick: Tick,
    groups: Vec<Vec<NewEvent>>,
}

/// Runs a script in this mode; returns the differences.
pub fn run(script: &Script, mode: &Mode) -> Vec<String> {
    if script.views.is_empty() || mode.is_left_out_by(script) {
        return Vec::new();
    }
    let plain = match script.plan(&script.tables) {
        Ok(set) => set,
        Err(error) => return vec![error],
    };
    let mut rng = Rng::new(mode.seed);
    let (tables, set, steps) = match mode.way {
        Way::Churn | Way::Kept | Way::Filled => {
            let tables = churned_tables(script, &plain);
            let set = match script.plan(&tables) {
                Ok(set) => set,
                Err(error) => return vec![error],
            };
            let events = churned_events(script, &plain, &mut rng);
            let steps = scatter(events, script.end, &mut rng);
            (tables, set, steps)
        }
        way => {
            let steps = match way {
                Way::EventsFirst => {
                    vec![Step { tick: script.end, groups: vec![numbered(&script.events)] }]
                }
                Way::Mixed => {
                    scatter(numbered(&mixed(&script.events, &mut rng)), script.end, &mut rng)
                }
                Way::InSteps => by_tick(script),
                Way::AnyOrder => scatter(shuffled(script, &plain, &mut rng), script.end, &mut rng),
                _ => one_by_one(script),
            };
            (script.tables.clone(), plain, steps)
        }
    };
    let (events, oracle, wrong) = (Vec::new(), Oracle::default(), Vec::new());
    let mut check = Check { script, tables: &tables, set: &set, events, oracle, wrong };
    match mode.way {
        Way::Restart => restarted(&mut check, steps, mode.workers),
        _ => straight(&mut check, steps, mode, &mut rng),
    }
    check.wrong
}

struct Check<'a> {
    script: &'a Script,
    tables: &'a str,
    set: &'a QuerySet,
    /// The events that have been fed.
    events: Vec<NewEvent>,
    oracle: Oracle,
    wrong: Vec<String>,
}

impl Check<'_> {
    fn feed(&mut self, run: &mut LocalRun, step: Step) {
        run.feed(step.tick, &step.groups).unwrap();
        self.events.extend(step.groups.into_iter().flatten());
    }

    /// Compares the views with the engines that know them. `at_end`: they have the file's rows.
    fn with_oracle(&mut self, run: &LocalRun, tick: Tick, at_end: bool) {
        let views = self.in_order();
        let ours: Vec<RecordBatch> = (0..views.len()).map(|at| run.rows(at).unwrap()).collect();
        for (at, view) in views.iter().enumerate() {
            let page = if at_end { 7 } else { usize::MAX };
            let read = run.check_reads(at, page);
            self.wrong.extend(read.err().map(|problem| format!("{}: {problem}", view.name)));
        }
        let (tables, set, events) = (self.tables, self.set, &self.events);
        let question = Question { tables, set, events, tick, at_end };
        let problems = self.oracle.problems(&question, &views, &ours);
        let after = tick.saturating_sub(CLOCK_START);
        self.wrong.extend(problems.into_iter().map(|(at, problem)| {
            let name = &self.set.views[at].schema.name;
            format!("{name} against its oracle, {after} ms after the start: {problem}")
        }));
    }

    fn with_file(&mut self, run: &LocalRun) {
        for (at, view) in self.in_order().iter().enumerate() {
            let ours = cells::rows(&run.rows(at).unwrap());
            let of_failures = |line: &&str| line.starts_with("! ");
            let lines: Vec<&str> = view.expected.iter().flatten().map(String::as_str).collect();
            let (failures, rows): (Vec<&str>, Vec<&str>) =
                lines.iter().partition(|line| of_failures(line));
            let theirs = cells::read(&rows, &ours);
            let compared =
                view.expected.as_ref().map_or(Ok(()), |_| cells::compare(&ours, &theirs));
            if let Err(problem) = compared {
                let plan = explain::explain(&self.set.views[at]);
                self.wrong.push(format!("{} against the file: {problem}\n{plan}", view.name));
            }
            let said = failure_lines(run, at);
            if said != failures {
                self.wrong.push(format!(
                    "{} fails with {said:?}, and should with {failures:?}",
                    view.name
                ));
            }
        }
    }

    /// The script's views in the order that the plan has them.
    fn in_order(&self) -> Vec<View> {
        let of = |name: &str| {
            let named = |v: &&View| v.short_name() == name;
            self.script.views.iter().find(named).unwrap().clone()
        };
        self.set.views.iter().map(|view| of(&view.schema.name)).collect()
    }
}

/// The failures of a view, as files have them.
pub fn failure_lines(run: &LocalRun, view: usize) -> Vec<String> {
    let failures = run.failures(view).into_iter().filter(|f| f.count != 0);
    let mut lines: Vec<String> =
        failures.map(|f| failure_line(&f.expression, &f.reason, f.count)).collect();
    lines.sort();
    lines
}

pub fn failure_line(expression: &str, reason: &str, count: i64) -> String {
    format!("! {expression}: {reason} × {count}")
}

fn straight(check: &mut Check<'_>, steps: Vec<Step>, mode: &Mode, rng: &mut Rng) {
    let mut run = LocalRun::start(&check.set.views, mode.workers).unwrap();
    let every = !matches!(mode.way, Way::EventsFirst | Way::ViewsFirst);
    if every {
        check.feed(&mut run, Step { tick: CLOCK_START, groups: Vec::new() });
        check.with_oracle(&run, CLOCK_START, false);
    }
    let mut tick = CLOCK_START;
    let last = steps.len() - 1;
    for (n, step) in steps.into_iter().enumerate() {
        tick = step.tick;
        if matches!(mode.way, Way::Kept | Way::Filled) && rng.below(2) == 0 {
            let kept = run.keep().unwrap();
            let workers = 1 + rng.below(3) as usize;
            let begin = if mode.way == Way::Kept { LocalRun::resume } else { LocalRun::fill };
            run = begin(&check.set.views, workers, kept).unwrap();
            FILLED.fetch_add(run.filled(), Ordering::Relaxed);
        }
        check.feed(&mut run, step);
        if n != last && (every || rng.below(8) == 0) {
            check.with_oracle(&run, tick, false);
        }
    }
    check.with_oracle(&run, tick, mode.way != Way::Mixed);
    if mode.way != Way::Mixed {
        check.with_file(&run);
    }
}

/// The events go through a log on disk. After half of them the log's files are taken as they are,
/// as a crash leaves them, and other workers read them from the beginning.
fn restarted(check: &mut Check<'_>, steps: Vec<Step>, workers: usize) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (before, after) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let log = Log::open(before.path(), LogOptions::default()).unwrap();
    let half = steps.len() / 2;
    let mut run = LocalRun::start(&check.set.views, workers).unwrap();
    let mut steps = steps.into_iter();
    let mut acknowledged = CLOCK_START;
    let before_crash: Vec<Step> = steps.by_ref().take(half).collect();
    for steps in before_crash.chunks(STEPS_PER_COMMIT) {
        let events = steps.iter().flat_map(|step| step.groups.iter().flatten().cloned());
        runtime.block_on(log.append(events.collect::<Vec<_>>())).unwrap();
        acknowledged = steps.last().unwrap().tick;
    }
    for step in before_crash {
        check.feed(&mut run, step);
    }
    copy(before.path(), after.path());
    drop((run, log));
    let log = Log::open(after.path(), LogOptions::default()).unwrap();
    let mut stored = Vec::new();
    let mut reader = log.read(0).unwrap();
    while let Some(frame) = reader.next_frame().unwrap() {
        stored.extend(frame.decompress().unwrap().iter().map(|event| NewEvent {
            id: event.id.to_string(),
            source: event.source.to_string(),
            event_type: event.event_type.to_string(),
            version: event.version,
            stream: event.stream.map(str::to_string),
            time_us: event.time_us,
            data: event.data.to_vec(),
            metadata: event.metadata.to_vec(),
        }));
    }
    assert_eq!(stored.len(), check.events.len(), "what was acknowledged is in the log");
    let mut run = LocalRun::start(&check.set.views, workers).unwrap();
    check.events.clear();
    let mut tick = acknowledged;
    check.feed(&mut run, Step { tick, groups: vec![stored] });
    check.with_oracle(&run, tick, false);
    for step in steps {
        tick = step.tick;
        check.feed(&mut run, step);
    }
    check.with_oracle(&run, tick, true);
    check.with_file(&run);
}

fn copy(from: &std::path::Path, to: &std::path::Path) {
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_file() {
            std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    }
}

pub fn numbered(events: &[TimedEvent]) -> Vec<NewEvent> {
    events.iter().enumerate().map(|(n, event)| event.to_event(n)).collect()
}

/// Each event with members of random events of its type.
fn mixed(events: &[TimedEvent], rng: &mut Rng) -> Vec<TimedEvent> {
    let members = |event: &TimedEvent| -> Map<String, Value> {
        serde_json::from_str(&event.data).unwrap_or_else(|e| panic!("{}: {e}", event.data))
    };
    let parsed: Vec<(&str, Map<String, Value>)> =
        events.iter().map(|event| (event.event_type.as_str(), members(event))).collect();
    let mix = |event: &TimedEvent| {
        let same: Vec<&Map<String, Value>> =
            parsed.iter().filter(|(t, _)| *t == event.event_type).map(|(_, m)| m).collect();
        let mut data = Map::new();
        for name in members(event).keys() {
            let other = same[rng.below(same.len() as u64) as usize];
            data.extend(other.get(name).map(|value| (name.clone(), value.clone())));
        }
        TimedEvent { data: Value::Object(data).to_string(), ..event.clone() }
    };
    events.iter().map(mix).collect()
}

fn by_tick(script: &Script) -> Vec<Step> {
    let events: Vec<(Tick, NewEvent)> =
        script.events.iter().enumerate().map(|(n, e)| (e.tick, e.to_event(n))).collect();
    let ticks = events.chunk_by(|a, b| a.0 == b.0);
    ticks
        .map(|events| {
            let group = events.iter().map(|(_, event)| event.clone()).collect();
            Step { tick: events[0].0, groups: vec![group] }
        })
        .collect()
}

fn one_by_one(script: &Script) -> Vec<Step> {
    let events = script.events.iter().enumerate();
    let mut steps: Vec<Step> =
        events.map(|(n, e)| Step { tick: e.tick, groups: vec![vec![e.to_event(n)]] }).collect();
    if steps.last().is_none_or(|step| step.tick < script.end) {
        steps.push(Step { tick: script.end.max(CLOCK_START + 1), groups: Vec::new() });
    }
    steps
}

/// The events in a random order; those that upsert tables read keep theirs.
fn shuffled(script: &Script, set: &QuerySet, rng: &mut Rng) -> Vec<NewEvent> {
    let upserts: HashSet<&str> = set
        .tables
        .iter()
        .filter(|table| table.mode != TableMode::Append)
        .map(|table| table.event_type.as_str())
        .collect();
    let events = numbered(&script.events);
    let (kept, mut free): (Vec<_>, Vec<_>) =
        events.into_iter().partition(|event| upserts.contains(event.event_type.as_str()));
    for at in (1..free.len()).rev() {
        free.swap(at, rng.below(at as u64 + 1) as usize);
    }
    let (mut kept, mut free) = (kept.into_iter().peekable(), free.into_iter().peekable());
    let mut merged = Vec::new();
    while kept.peek().is_some() || free.peek().is_some() {
        let next = if rng.below(2) == 0 { kept.next() } else { free.next() };
        merged.extend(next);
    }
    merged
}

/// Events in this order, in random groups at random ticks, the last of them at `end`.
fn scatter(events: Vec<NewEvent>, end: Tick, rng: &mut Rng) -> Vec<Step> {
    let span = end - CLOCK_START;
    let count = (1 + rng.below(12)).min(span.max(1));
    let mut ticks: Vec<Tick> =
        (1..count).map(|_| CLOCK_START + 1 + rng.below(span.max(1))).collect();
    ticks.push(end.max(CLOCK_START + 1));
    ticks.sort_unstable();
    ticks.dedup();
    let mut cuts: Vec<usize> =
        ticks[1..].iter().map(|_| rng.below(events.len() as u64 + 1) as usize).collect();
    cuts.sort_unstable();
    cuts.push(events.len());
    let mut events = events.into_iter();
    let mut from = 0;
    let steps = ticks.into_iter().zip(cuts).map(|(tick, to)| {
        let all: Vec<NewEvent> = events.by_ref().take(to - from).collect();
        from = to;
        let groups = all.chunks(1 + rng.below(20) as usize).map(<[NewEvent]>::to_vec).collect();
        Step { tick, groups }
    });
    steps.collect()
}

/// The same tables with a key for every row, so that any row can be changed and taken back.
fn churned_tables(script: &Script, set: &QuerySet) -> String {
    let mut text = String::new();
    for statement in script.tables.split(';').map(str::trim).filter(|s| !s.is_empty()) {
        let table = set.tables.iter().find(|table| {
            table.mode == TableMode::Append
                && statement.starts_with(&format!("CREATE TABLE {} ", table.name))
        });
        let Some(table) = table else {
            text.push_str(&format!("{statement};\n"));
            continue;
        };
        let name = &table.name;
        let options = statement.rfind("WITH (").unwrap();
        let columns = statement[..options].trim_end().strip_suffix(')').unwrap();
        let columns = columns.replacen(name, &format!("{name}_churned"), 1);
        let names: Vec<String> =
            table.columns.iter().map(|c| format!("\"{}\"", c.field.name)).collect();
        text.push_str(&format!(
            "{columns}, churn_id BIGINT, churn_gone BOOLEAN, PRIMARY KEY (churn_id)) \
             WITH (mode = 'upsert', delete_when = 'churn_gone', {};\nCREATE VIEW {name} AS SELECT {} FROM {name}_churned;\n",
            &statement[options + "WITH (".len()..],
            names.join(", "),
        ));
    }
    text
}

/// The events, and others that leave nothing behind: rows that were different at first, rows that
/// are deleted again, and earlier states of keys.
fn churned_events(script: &Script, set: &QuerySet, rng: &mut Rng) -> Vec<NewEvent> {
    let is_append = |event: &TimedEvent| {
        set.tables.iter().any(|t| t.event_type == event.event_type && t.mode == TableMode::Append)
    };
    // Where each event stands in time, from 0 to 1e9.
    let mut placed: Vec<(u64, TimedEvent)> = Vec::new();
    let mut id = 0;
    let count = script.events.len().max(1) as u64;
    for (n, event) in script.events.iter().enumerate() {
        let same: Vec<&TimedEvent> =
            script.events.iter().filter(|e| e.event_type == event.event_type).collect();
        let mut other = || same[rng.below(same.len() as u64) as usize].data.clone();
        if !is_append(event) {
            // An upsert table's events keep their places; an earlier copy of one changes nothing.
            let at = (n as u64 + 1) * 1_000_000_000 / (count + 1);
            placed.push((at, event.clone()));
            placed.push((rng.below(at), TimedEvent { data: event.data.clone(), ..event.clone() }));
            continue;
        }
        let variants = [other(), other(), other()];
        let (first, second) = (rng.below(1_000_000_000), rng.below(1_000_000_000));
        let (early, late) = (first.min(second), first.max(second));
        let with = |data: &str, id: u64, gone: bool| churned(event, data, id, gone);
        if rng.below(2) == 0 {
            placed.push((early, with(&variants[0], id, false)));
            placed.push((early, with(&variants[1], id, rng.below(2) == 0)));
        }
        placed.push((late, with(&event.data, id, false)));
        if rng.below(2) == 0 {
            let (from, to) = (rng.below(500_000_000), 500_000_000 + rng.below(500_000_000));
            placed.push((from, with(&variants[2], id + 1, false)));
            placed.push((to, with("{}", id + 1, true)));
        }
        id += 2;
    }
    placed.sort_by_key(|(at, _)| *at);
    placed.iter().enumerate().map(|(n, (_, event))| event.to_event(n)).collect()
}

fn churned(event: &TimedEvent, data: &str, id: u64, gone: bool) -> TimedEvent {
    let open = data.trim_end().strip_suffix('}').unwrap();
    let comma = if open.trim_end().ends_with('{') { "" } else { "," };
    let data = format!(
        "{open}{comma}\"churn_id\":{id},\"churn_gone\":{gone},\"churnId\":{id},\"churnGone\":{gone}}}"
    );
    TimedEvent { data, ..event.clone() }
}

/// Writes the rows that the views have into the file.
pub fn bless(script: &Script) {
    let set =
        script.plan(&script.tables).unwrap_or_else(|error| panic!("{}: {error}", script.name()));
    if set.views.is_empty() {
        return;
    }
    let mut run = LocalRun::start(&set.views, 1).unwrap();
    run.feed(script.end.max(CLOCK_START + 1), &[numbered(&script.events)]).unwrap();
    let text = std::fs::read_to_string(&script.path).unwrap();
    let mut blessed = String::new();
    for block in text.split("\n\n") {
        let head = block.lines().find(|line| !line.starts_with('#')).unwrap_or_default();
        let Some(name) = head.strip_prefix("view ") else {
            blessed.push_str(&format!("{}\n\n", block.trim_end()));
            continue;
        };
        let name = name.split(' ').next().unwrap_or_default();
        let at = set.views.iter().position(|view| view.schema.name == name).unwrap();
        let mut rows = cells::rows(&run.rows(at).unwrap());
        cells::sort(&mut rows);
        let above: Vec<&str> = block.lines().take_while(|line| *line != "----").collect();
        blessed.push_str(&format!("{}\n----\n", above.join("\n").trim_end()));
        rows.iter().for_each(|row| blessed.push_str(&format!("{}\n", cells::line(row))));
        failure_lines(&run, at).iter().for_each(|line| blessed.push_str(&format!("{line}\n")));
        blessed.push('\n');
    }
    std::fs::write(&script.path, format!("{}\n", blessed.trim_end())).unwrap();
}
