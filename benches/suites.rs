//! The known suites from a log to their views: `cargo bench --bench suites [-- nexmark tpch groups expiries]`.
//!
//! For each query: events per second on 1 and 2 workers, from compressed frames as the log has them to
//! the view's changes, the process of decoding included; resident bytes per event; for TPC-H, the
//! time in which 1,000 changed orders are reflected; and that for a single row after the load.
//! `HELIOSTAT_BENCH_EVENTS` sets the number of Nexmark's events, `HELIOSTAT_BENCH_SCALE` TPC-H's scale
//! factor, `HELIOSTAT_BENCH_QUERIES` which queries (`q4,q16`), and `HELIOSTAT_BENCH_ALONE=0` leaves the
//! runs on one worker out.

#[path = "../tests/suites/nexmark_events.rs"]
mod nexmark_events;
#[path = "../tests/suites/tpch_events.rs"]
mod tpch_events;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use heliostat::internals::dataflow::{Beginning, InstallRequest, Runtime};
use heliostat::internals::log::Frame;
use heliostat::internals::model::Head;
use heliostat::internals::model::NewEvent;
use heliostat::internals::model::ViewMessage;
use heliostat::internals::plan::SourceFile;
use heliostat::internals::plan::{ViewPlan, plan_files};

/// As the server allocates.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Number of events in a frame.
const FRAME_EVENTS: usize = 5_000;
/// Number of frames that enter at a tick, as when a view catches up.
const TICK_FRAMES: usize = 8;
/// Number of ticks that are on their way.
const TICKS_AHEAD: usize = 2;

/// The number of a variable, or what stands for it.
fn setting(name: &str, default: f64) -> f64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn views(suite: &str) -> Vec<ViewPlan> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/suites").join(suite);
    let mut paths: Vec<PathBuf> =
        std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|e| e == "sql"));
    paths.sort();
    let file = |path: &PathBuf| {
        Arc::new(SourceFile { path: path.clone(), text: std::fs::read_to_string(path).unwrap() })
    };
    let set = plan_files(
        &paths.iter().map(file).collect::<Vec<_>>(),
        "bench",
        heliostat::internals::sink::KINDS,
    );
    assert!(set.diagnostics.is_empty());
    let chosen = std::env::var("HELIOSTAT_BENCH_QUERIES").ok();
    let mut views = set.views;
    views.retain(|view| {
        chosen.as_ref().is_none_or(|list| list.split(',').any(|name| name == view.schema.name))
    });
    views.sort_by_key(|view| view.schema.name[1..].parse::<u32>().unwrap_or(0));
    views
}

/// A log in memory, as it is on disk.
#[derive(Default)]
struct Stored {
    frames: Vec<Frame>,
    events: u64,
}

impl Stored {
    fn add(&mut self, events: &[NewEvent]) {
        for events in events.chunks(FRAME_EVENTS) {
            let tick = self.frames.len() as u64 + 1;
            self.frames.push(Frame::new(tick, self.events + 1, events.iter()).unwrap());
            self.events += events.len() as u64;
        }
    }
}

/// One view that runs, and how far it is.
struct Run {
    runtime: Runtime,
    frontiers: Arc<(Mutex<Vec<u64>>, Condvar)>,
    changes: Arc<AtomicU64>,
    failures: Arc<AtomicU64>,
}

impl Run {
    fn start(view: &ViewPlan, workers: usize) -> Run {
        let runtime = Runtime::start(workers).unwrap();
        let frontiers = Arc::new((Mutex::new(vec![0; workers]), Condvar::new()));
        let changes = Arc::new(AtomicU64::new(0));
        let failures = Arc::new(AtomicU64::new(0));
        let (told, counted) = (Arc::clone(&frontiers), Arc::clone(&changes));
        let failed = Arc::clone(&failures);
        let follower = move |message| match message {
            ViewMessage::Changes { updates, .. } => {
                counted.fetch_add(updates.len() as u64, Ordering::Relaxed);
            }
            ViewMessage::Frontier { worker, frontier } => {
                told.0.lock().unwrap()[worker] = frontier;
                told.1.notify_all();
            }
            ViewMessage::Failures { failures, .. } => {
                failed.fetch_add(failures.len() as u64, Ordering::Relaxed);
            }
            _ => {}
        };
        let installation = InstallRequest {
            view: 0,
            beginning: Beginning::Empty,
            plan: view.clone(),
            listener: Arc::new(follower),
        };
        runtime.install(0, &[installation], Head::default());
        Run { runtime, frontiers, changes, failures }
    }

    /// Waits until the view is through with a tick.
    fn wait(&self, tick: u64) {
        let guard = self.frontiers.0.lock().unwrap();
        let behind = |frontiers: &mut Vec<u64>| frontiers.iter().any(|f| *f <= tick);
        drop(self.frontiers.1.wait_while(guard, behind).unwrap());
    }

    /// Feeds all of a log; how long that took.
    fn load(&self, stored: &Stored) -> Duration {
        let started = Instant::now();
        let mut ahead = std::collections::VecDeque::new();
        let chunks = stored.frames.chunks(TICK_FRAMES);
        let last = chunks.len();
        for (index, frames) in chunks.enumerate() {
            let tick = frames[frames.len() - 1].tick();
            if ahead.len() == TICKS_AHEAD
                && let Some(before) = ahead.pop_front()
            {
                self.wait(before);
            }
            self.runtime.feed(0, frames.to_vec(), tick, index + 1 < last);
            ahead.push_back(tick);
        }
        ahead.into_iter().for_each(|tick| self.wait(tick));
        started.elapsed()
    }
}

/// Bytes of this process that are in RAM, without those that were freed.
fn resident() -> f64 {
    // SAFETY: the call takes no pointer.
    unsafe { libmimalloc_sys::mi_collect(true) };
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = statm.split(' ').nth(1).and_then(|pages| pages.parse::<f64>().ok());
    pages.unwrap_or(0.0) * 4096.0
}

/// Loads a suite into each of its views and prints a line. Afterwards `changes` are fed, and `singles`
/// one by one: those that the view reads, or of its own events some once more.
fn suite(name: &str, events: Vec<NewEvent>, changes: &[Vec<NewEvent>], singles: &[NewEvent]) {
    // A view of Nexmark looks through the whole stream, as a source would hand it out.
    let read = |view: &ViewPlan| -> Stored {
        let reads = |e: &&NewEvent| name == "nexmark" || view.event_types.contains(&e.event_type);
        let mut stored = Stored::default();
        stored.add(&events.iter().filter(reads).cloned().collect::<Vec<_>>());
        stored
    };
    println!("{name}: {} events", events.len());
    println!(
        "query                events   1 worker/s   2 workers/s   load s   bytes/event   change ms   ms/row"
    );
    for view in views(name) {
        let stored = read(&view);
        let alone = (setting("HELIOSTAT_BENCH_ALONE", 1.0) != 0.0).then(|| {
            let one = Run::start(&view, 1);
            let alone = one.load(&stored);
            one.runtime.shutdown();
            alone
        });
        let before = resident();
        let run = Run::start(&view, 2);
        let load = run.load(&stored);
        // Workers give memory back once they have rested for a second.
        std::thread::sleep(Duration::from_millis(1_500));
        let bytes = (resident() - before) / stored.events.max(1) as f64;
        let mut tick = stored.frames.len() as u64;
        let mut position = stored.events;
        let mut reflect = |events: &[NewEvent]| {
            tick += 1;
            let frame = Frame::new(tick, position + 1, events.iter()).unwrap();
            position += events.len() as u64;
            let started = Instant::now();
            run.runtime.feed(0, vec![frame], tick, false);
            run.wait(tick);
            started.elapsed()
        };
        let worst = changes.iter().map(|change| reflect(change)).max().unwrap_or_default();
        let reads = |e: &&NewEvent| view.event_types.contains(&e.event_type);
        let mut rows: Vec<&NewEvent> = singles.iter().filter(reads).collect();
        if rows.is_empty() {
            let own: Vec<&NewEvent> = events.iter().filter(reads).collect();
            rows.extend(own.iter().step_by((own.len() / 100).max(1)).take(100));
        }
        let alone_ms: f64 =
            rows.iter().map(|row| reflect(std::slice::from_ref(*row)).as_secs_f64() * 1e3).sum();
        let each = alone_ms / rows.len().max(1) as f64;
        let rate = |time: Duration| stored.events as f64 / time.as_secs_f64();
        println!(
            "{:5} {:>20} {:>12} {:>13.0} {:>8.2} {bytes:>13.0} {:>11.1} {each:>8.3}",
            view.schema.name,
            stored.events,
            alone.map_or("-".to_string(), |alone| format!("{:.0}", rate(alone))),
            rate(load),
            load.as_secs_f64(),
            worst.as_secs_f64() * 1e3,
        );
        assert_eq!(run.failures.load(Ordering::Relaxed), 0, "no row fails");
        assert!(run.changes.load(Ordering::Relaxed) > 0 || stored.events == 0, "there are rows");
        run.runtime.shutdown();
    }
}

/// An event of type T with this payload.
fn event_of(data: String) -> NewEvent {
    NewEvent {
        id: String::new(),
        source: String::new(),
        event_type: "T".to_string(),
        version: 1,
        stream: None,
        time_us: 0,
        data: data.into_bytes(),
        metadata: Vec::new(),
    }
}

/// Single changes in one group of a million rows.
fn groups() {
    const ROWS: u64 = 1_000_000;
    const CHANGES: u64 = 200;
    let table = "CREATE TABLE t (k BIGINT, g BIGINT NOT NULL, v BIGINT NOT NULL, gone BOOLEAN, PRIMARY KEY (k))
      WITH (event_type = 'T', mode = 'upsert', delete_when = 'gone');";
    let event = |k: u64, v: u64, gone: bool| {
        event_of(format!(r#"{{"k":{k},"g":1,"v":{v},"gone":{gone}}}"#))
    };
    let mut stored = Stored::default();
    let scattered = |k: u64| (k * 7_919) % ROWS;
    stored.add(&(0..ROWS).map(|k| event(k, scattered(k), false)).collect::<Vec<_>>());
    println!("single changes in a group of {ROWS} rows");
    println!("view            at   load s   ms/change: mean   worst");
    for (name, ends, sql) in [
        ("min_max", "both ends", "SELECT g, min(v) AS lo, max(v) AS hi FROM t GROUP BY g"),
        (
            "top_10",
            "both ends",
            "SELECT k, v FROM (SELECT k, v, row_number() OVER (PARTITION BY g ORDER BY v DESC, k) AS r FROM t) x WHERE r <= 10",
        ),
        ("limit_10", "both ends", "SELECT k, v FROM t ORDER BY v, k LIMIT 10"),
        ("lag", "both ends", "SELECT k, v, lag(v) OVER (PARTITION BY g ORDER BY v, k) AS b FROM t"),
        (
            "sum_of_10",
            "both ends",
            "SELECT k, sum(v) OVER (PARTITION BY g ORDER BY v, k ROWS 9 PRECEDING) AS s FROM t",
        ),
        (
            "running_sum",
            "the end",
            "SELECT k, sum(v) OVER (PARTITION BY g ORDER BY v, k) AS s FROM t",
        ),
    ] {
        let run = Run::start(&view(&format!("{table} CREATE MATERIALIZED VIEW v AS {sql};")), 2);
        let load = run.load(&stored);
        // Traces merge while there is nothing else to do.
        std::thread::sleep(Duration::from_secs(5));
        let mut tick = stored.frames.len() as u64;
        let mut times = Vec::new();
        for change in 0..CHANGES {
            tick += 1;
            // The greatest and the least go, one after the other, and others come back.
            let k = (0..ROWS).find(|k| {
                let at_end = change % 2 == 0 || ends == "the end";
                scattered(*k) == if at_end { ROWS - 1 - change } else { change }
            });
            let gone = change % 4 < 2;
            let frame = [event(k.unwrap_or(0), scattered(k.unwrap_or(0)), gone)];
            let frame = Frame::new(tick, ROWS + change + 1, frame.iter()).unwrap();
            let started = Instant::now();
            run.runtime.feed(0, vec![frame], tick, false);
            run.wait(tick);
            times.push(started.elapsed().as_secs_f64() * 1e3);
        }
        let mean = times.iter().sum::<f64>() / times.len() as f64;
        let worst = times.iter().copied().fold(0.0, f64::max);
        println!("{name:11} {ends:>9} {:>7.2} {mean:>17.3} {worst:>7.3}", load.as_secs_f64());
        run.runtime.shutdown();
    }
}

/// The only view of these declarations.
fn view(text: &str) -> ViewPlan {
    let file = Arc::new(SourceFile { path: "v.sql".into(), text: text.to_string() });
    let mut set = plan_files(&[file], "bench", heliostat::internals::sink::KINDS);
    assert!(set.diagnostics.is_empty());
    set.views.remove(0)
}

/// Ticks in which nothing happens, or one row expires, while others are still to expire.
fn expiries() {
    const ROWS: u64 = 1_000_000;
    const TICKS: u64 = 2_000;
    let view = view(
        "CREATE TABLE t (k BIGINT NOT NULL, at TIMESTAMP(3) NOT NULL) WITH (event_type = 'T');
         CREATE MATERIALIZED VIEW v AS SELECT k, at FROM t WHERE at > now() - INTERVAL '1 hour';",
    );
    // Rows come before their time is up, in an order that is not that of their times.
    let event = |k: u64, at: u64| {
        let at = chrono::DateTime::from_timestamp_millis(at as i64).unwrap().to_rfc3339();
        event_of(format!(r#"{{"k":{k},"at":"{at}"}}"#))
    };
    const HOUR: u64 = 3_600_000;
    println!("ticks of a view with a condition on now()");
    println!("pending     expire   ms/tick: mean   worst");
    for (rows, first) in [(1, 10 * TICKS), (ROWS, 10 * TICKS), (ROWS, 1)] {
        let mut stored = Stored::default();
        stored.add(&(0..rows).map(|k| event(k, (k * 7_919) % ROWS + first)).collect::<Vec<_>>());
        let run = Run::start(&view, 2);
        let start = stored.frames.len() as u64;
        run.load(&stored);
        std::thread::sleep(Duration::from_secs(5));
        let before = run.changes.load(Ordering::Relaxed);
        let mut times = Vec::new();
        for tick in 1..=TICKS {
            let tick = HOUR + start + tick;
            let started = Instant::now();
            run.runtime.feed(0, Vec::new(), tick, false);
            run.wait(tick);
            times.push(started.elapsed().as_secs_f64() * 1e3);
        }
        let mean = times.iter().sum::<f64>() / times.len() as f64;
        let worst = times.iter().copied().fold(0.0, f64::max);
        let gone = run.changes.load(Ordering::Relaxed) - before;
        println!("{rows:>7} {gone:>10} {mean:>15.4} {worst:>7.3}");
        run.runtime.shutdown();
    }
}

fn main() {
    let arguments: Vec<String> =
        std::env::args().skip(1).filter(|a| !a.starts_with("--")).collect();
    let wanted = |section: &str| arguments.is_empty() || arguments.iter().any(|a| a == section);
    if wanted("nexmark") {
        let events = setting("HELIOSTAT_BENCH_EVENTS", 1_000_000.0) as usize;
        let mut all = nexmark_events::generate(events + 1_000);
        let singles = all.split_off(events);
        suite("nexmark", all, &[], &singles);
    }
    if wanted("tpch") {
        let events = tpch_events::generate(setting("HELIOSTAT_BENCH_SCALE", 0.1));
        let orders: Vec<NewEvent> =
            events.iter().filter(|e| e.event_type == "orders").take(3_000).cloned().collect();
        let changed: Vec<Vec<NewEvent>> =
            orders.chunks(1_000).map(tpch_events::other_prices).collect();
        let singles = tpch_events::other_prices(&orders[..100]);
        suite("tpch", events, &changed, &singles);
    }
    if wanted("groups") {
        groups();
    }
    if wanted("expiries") {
        expiries();
    }
}
