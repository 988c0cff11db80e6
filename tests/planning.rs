//! Query files that are too much for a planner: they are planned, or refused with file and line, and
//! the server never notices.

mod common;

use std::fmt::Write as _;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use common::Server;
use serde_json::{Value, json};

const TABLE: &str = "CREATE TABLE t (k BIGINT NOT NULL, v BIGINT) WITH (event_type = 'T');\n";
/// How long 99 of 100 answers of `/healthz` may take at most while query files are planned.
const HEALTH_P99_MAX: Duration = Duration::from_millis(20);
/// Fewest answers for which the p99 means something.
const HEALTH_ANSWERS_MIN: usize = 1_000;
/// How long a hundred changed views may take from the write of their file until they are planned.
const RELOAD_TIME_MAX: Duration = Duration::from_secs(1);
const GOOD: &str = "CREATE MATERIALIZED VIEW good AS SELECT k, count(*) AS n FROM t GROUP BY k;\n";

fn view(sql: &str) -> String {
    format!("CREATE MATERIALIZED VIEW heavy AS\n{sql};\n")
}

fn joined(count: usize, separator: &str, part: impl Fn(usize) -> String) -> String {
    (0..count).map(part).collect::<Vec<_>>().join(separator)
}

/// Fifteen views, each of the one before joined with itself.
fn doubling_views() -> String {
    let mut text = "CREATE VIEW v0 AS SELECT k, v FROM t;\n".to_string();
    for number in 1..=15 {
        let before = number - 1;
        let select = format!("SELECT a.k, b.v FROM v{before} a JOIN v{before} b ON a.k = b.k");
        writeln!(text, "CREATE VIEW v{number} AS {select};").unwrap();
    }
    text + "CREATE MATERIALIZED VIEW heavy AS SELECT k, v FROM v15;\n"
}

/// Views that read one another in a circle.
fn circle(length: usize) -> String {
    let select = |from: &str| format!("SELECT k, v FROM {from}");
    let mut text = format!("CREATE VIEW c0 AS {};\n", select("heavy"));
    for number in 1..length - 1 {
        let before = format!("c{}", number - 1);
        writeln!(text, "CREATE VIEW c{number} AS {};", select(&before)).unwrap();
    }
    text + &view(&select(&format!("c{}", length - 2)))
}

/// A view over and over what `part` makes, 1 MiB in all.
fn mebibyte(begin: &str, separator: &str, part: impl Fn(usize) -> String, end: &str) -> String {
    let mut sql = format!("{begin}{}", part(0));
    for number in 1.. {
        if sql.len() + end.len() >= 1 << 20 {
            break;
        }
        sql += separator;
        sql += &part(number);
    }
    view(&(sql + end))
}

/// The constructs that are tried, and whether each must be refused.
fn constructs() -> Vec<(&'static str, String, Option<bool>)> {
    let columns = joined(20, ", ", |i| format!("k + {i}"));
    let nested = format!("SELECT {}k{} AS x FROM t", "(".repeat(10_000), ")".repeat(10_000));
    let queries = format!("{}SELECT k FROM t{}", "(".repeat(10_000), ")".repeat(10_000));
    let from = format!("SELECT * FROM {}t{}", "(".repeat(10_000), ")".repeat(10_000));
    let or = joined(10_000, " OR ", |i| format!("(k > {i} AND v < {i})"));
    let or_equal = joined(10_000, " OR ", |i| format!("k = {i}"));
    let and = joined(10_000, " AND ", |i| format!("k <> {i}"));
    let plus = joined(10_000, " + ", |_| "k".to_string());
    let concat = joined(10_000, " || ", |_| "CAST(k AS TEXT)".to_string());
    let union = |count| joined(count, " UNION ALL ", |i| format!("SELECT k + {i} AS k FROM t"));
    let wide = joined(2_000, ", ", |i| format!("k + {i} AS c{i}"));
    vec![
        ("doubling views", doubling_views(), None),
        (
            "cube",
            view(&format!("SELECT count(*) AS n FROM t GROUP BY CUBE ({columns})")),
            Some(true),
        ),
        ("union", view(&union(2_000)), None),
        ("or", view(&format!("SELECT k, v FROM t WHERE {or}")), None),
        ("or of one column", view(&format!("SELECT k FROM t WHERE {or_equal}")), None),
        ("and", view(&format!("SELECT k FROM t WHERE {and}")), None),
        ("plus", view(&format!("SELECT {plus} AS x FROM t")), None),
        ("concat", view(&format!("SELECT {concat} AS x FROM t")), None),
        ("parentheses", view(&nested), None),
        ("parentheses around a query", view(&queries), None),
        ("parentheses around a table", view(&from), None),
        ("columns", view(&format!("SELECT {wide} FROM t")), None),
        (
            "1 MiB of a list",
            mebibyte("SELECT k FROM t WHERE k IN (", ", ", |i| i.to_string(), ")"),
            None,
        ),
        (
            "1 MiB of columns",
            mebibyte("SELECT ", ", ", |i| format!("k + {i} AS c{i}"), " FROM t"),
            None,
        ),
        (
            "1 MiB of additions",
            mebibyte("SELECT k", "", |_| " + v".to_string(), " AS x FROM t"),
            None,
        ),
        (
            "1 MiB of NOT",
            mebibyte("SELECT k FROM t WHERE", "", |_| " NOT".to_string(), " k > 1"),
            None,
        ),
        (
            "1 MiB of opening parentheses",
            mebibyte("SELECT ", "", |_| "(".to_string(), "k AS x FROM t"),
            Some(true),
        ),
        (
            "1 MiB of a text",
            mebibyte("SELECT k, '", "", |_| "long".to_string(), "' AS x FROM t"),
            None,
        ),
        (
            "1 MiB of comment",
            mebibyte("SELECT k, ", "", |_| "/* */".to_string(), " v FROM t"),
            Some(false),
        ),
        ("itself", view("SELECT k FROM heavy"), Some(true)),
        (
            "itself in a sub-query",
            view("SELECT k FROM t WHERE EXISTS (SELECT 1 FROM heavy h WHERE h.k = t.k)"),
            Some(true),
        ),
        ("circle of two", circle(2), Some(true)),
        ("circle of three", circle(3), Some(true)),
        ("circle of a thousand", circle(1_000), Some(true)),
        // More elements than an array may have: each row fails.
        ("array", view("SELECT k, array_repeat(1, 1000000000) AS a FROM t"), Some(false)),
        ("smaller array", view("SELECT k, array_repeat(1, 10000000) AS a FROM t"), Some(false)),
        // More than a text may have: each row fails, as it would with a length that is not constant.
        ("text", view("SELECT k, lpad('x', 2147483647, 'a') AS a FROM t"), Some(false)),
        ("smaller text", view("SELECT k, lpad('x', 10000000, 'a') AS a FROM t"), Some(true)),
        ("overflow", view("SELECT k, array_repeat(1, 9223372036854775807) AS a FROM t"), None),
        (
            "resize",
            view("SELECT k, array_resize(ARRAY[1], 9223372036854775807, 1) AS a FROM t"),
            None,
        ),
    ]
}

fn check(directory: &Path) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_heliostat"));
    command.arg("check").arg(directory).output().unwrap()
}

/// A place in `heavy.sql`, with line and column.
fn has_place(text: &str) -> bool {
    let place = text.split("heavy.sql:").nth(1).unwrap_or_default();
    place.starts_with(|c: char| c.is_ascii_digit()) && place.contains(':')
}

async fn failed_files(server: &Server) -> Vec<String> {
    let answer = server.get("/v1/views").await;
    let files = answer["failed_files"].as_array().cloned().unwrap_or_default();
    files.iter().map(|file| file["message"].as_str().unwrap_or_default().to_string()).collect()
}

async fn counts(server: &Server) -> Value {
    server.get("/v1/views/good/rows?timeout=20s").await["rows"].clone()
}

/// Asks `/healthz` all the time, until told to stop: how long each answer took, sorted.
fn watch_health(server: &Server) -> (Arc<AtomicBool>, tokio::task::JoinHandle<Vec<Duration>>) {
    let stop = Arc::new(AtomicBool::new(false));
    let (stopped, url) = (Arc::clone(&stop), server.url("/healthz"));
    let asking = tokio::spawn(async move {
        let client = heliostat::internals::http::client();
        let mut times = Vec::new();
        while !stopped.load(Ordering::SeqCst) {
            let begun = Instant::now();
            let answer = client.get(&url).send().await.unwrap();
            assert!(answer.status().is_success());
            times.push(begun.elapsed());
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        times.sort_unstable();
        times
    });
    (stop, asking)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn oversized_query_files_are_planned_or_refused_with_their_place_while_the_server_answers() {
    // Over all constructs: a single one may be refused before `/healthz` was asked often enough.
    let mut health_times = Vec::new();
    let server = Server::start(&[("t.sql", TABLE), ("good.sql", GOOD)]);
    server.append(&json!([{"type": "T", "data": {"k": 1, "v": 2}}])).await;
    let mut sent = 1;
    for (name, text, refused) in constructs() {
        let begun = Instant::now();
        let (stop, asking) = watch_health(&server);
        server.write("heavy.sql", &text);
        let end = Instant::now() + Duration::from_secs(120);
        let failed = loop {
            let failed = failed_files(&server).await;
            let (status, _) = server_view(&server, "heavy").await;
            if !failed.is_empty() || status == 200 {
                break failed;
            }
            assert!(Instant::now() < end, "{name} is neither planned nor refused");
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        stop.store(true, Ordering::SeqCst);
        let times = asking.await.unwrap();
        let p99 = times[times.len() * 99 / 100];
        let told =
            failed.first().map_or("planned", |message| message.lines().next().unwrap_or_default());
        println!("{name}: {:?}, p99 {p99:?} of {}: {told}", begun.elapsed(), times.len());
        health_times.extend(times);
        assert!(refused.is_none_or(|refused| refused != failed.is_empty()), "{name}");
        assert!(failed.iter().all(|message| has_place(message)), "{name}: {failed:?}");
        // Both check and the server say the same.
        let checked = check(&server.queries());
        assert_eq!(checked.status.success(), failed.is_empty(), "{name}");
        let said = String::from_utf8_lossy(&checked.stderr).into_owned();
        assert!(failed.iter().all(|message| said.contains(message.trim_end())), "{name}: {said}");
        // Planned files run, too.
        server.append(&json!([{"type": "T", "data": {"k": 1, "v": 2}}])).await;
        sent += 1;
        server.until(json!([{"k": 1, "n": sent}]), || counts(&server)).await;
        if failed.is_empty() {
            let live = || async { server.get("/v1/views/heavy").await["status"].clone() };
            server.until(json!("live"), live).await;
            let rows = server.get("/v1/views/heavy/rows?limit=1&timeout=50s").await;
            assert!(rows["rows"].is_array(), "{name}: {rows}");
        }
        server.remove("heavy.sql");
        server.until(true, || async { failed_files(&server).await.is_empty() }).await;
        server.until(404, || async { server_view(&server, "heavy").await.0 }).await;
    }
    health_times.sort_unstable();
    let p99 = health_times[health_times.len() * 99 / 100];
    println!("p99 of {} answers of /healthz: {p99:?}", health_times.len());
    assert!(health_times.len() >= HEALTH_ANSWERS_MIN, "{} answers", health_times.len());
    assert!(p99 < HEALTH_P99_MAX, "the p99 of /healthz is {p99:?} while query files are planned");
}

async fn server_view(server: &Server, name: &str) -> (u16, Value) {
    let answer = heliostat::internals::http::client()
        .get(server.url(&format!("/v1/views/{name}")))
        .send()
        .await
        .unwrap();
    (answer.status().as_u16(), answer.json().await.unwrap())
}

/// Has a failpoint panic for the view `heavy`: the server and `check` tell it with its place, nothing
/// of the set is used, and no process ends.
async fn panic_is_a_diagnostic(failpoint: &str, message: &str) {
    let failpoint = ("FAILPOINTS", failpoint);
    let files = [("t.sql", TABLE), ("good.sql", GOOD)];
    let server = Server::with_arguments(&files, &["--no-clickhouse"], &[failpoint]);
    server.append(&json!([{"type": "T", "data": {"k": 1, "v": 2}}])).await;
    let processes = ["write-side", "read-side"].map(|side| server.pid_of(side));

    // The changed view of the same set is as good as it was, since a set is taken as a whole.
    server.write("good.sql", &GOOD.replace("count(*)", "count(*) + 10"));
    server.write("heavy.sql", &view("SELECT k + 1 AS k FROM t WHERE v > 2"));
    server.until(1, || async { failed_files(&server).await.len() }).await;
    let failed = failed_files(&server).await;
    assert!(failed[0].contains("heavy.sql:1:26"), "{failed:?}");
    assert!(failed[0].contains(message), "{failed:?}");
    let checked = common::heliostat(
        &["check", server.queries().to_str().unwrap()],
        &[(failpoint.0.to_string(), failpoint.1.to_string())],
    );
    assert_eq!(checked.status.code(), Some(1), "{checked:?}");
    let said = common::text(&checked);
    assert!(said.contains(failed[0].trim_end()), "{said}");

    server.append(&json!([{"type": "T", "data": {"k": 1, "v": 2}}])).await;
    server.until(json!([{"k": 1, "n": 2}]), || counts(&server)).await;
    assert_eq!(server_view(&server, "heavy").await.0, 404);
    assert_eq!(["write-side", "read-side"].map(|side| server.pid_of(side)), processes);
    server.remove("heavy.sql");
    server.until(json!([{"k": 1, "n": 12}]), || counts(&server)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[cfg_attr(not(feature = "failpoints"), ignore = "needs the feature failpoints")]
async fn panic_of_the_optimizer_is_an_error_at_its_place_and_the_last_good_set_answers() {
    panic_is_a_diagnostic("optimizing view heavy=panic", "the planner panicked on this").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[cfg_attr(not(feature = "failpoints"), ignore = "needs the feature failpoints")]
async fn panic_while_a_dataflow_is_built_is_an_error_at_its_place_and_the_last_good_set_answers() {
    let message = "building the dataflow of this panicked";
    panic_is_a_diagnostic("rendering view heavy=panic", message).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[cfg_attr(not(feature = "failpoints"), ignore = "needs the feature failpoints")]
async fn first_start_with_a_view_that_cannot_be_built_serves_the_others() {
    let heavy = view("SELECT k + 1 AS k FROM t WHERE v > 2");
    let files = [("t.sql", TABLE), ("good.sql", GOOD), ("heavy.sql", &heavy)];
    let failpoint = ("FAILPOINTS", "rendering view heavy=panic");
    let server = Server::with_arguments(&files, &["--no-clickhouse"], &[failpoint]);
    server.append(&json!([{"type": "T", "data": {"k": 1, "v": 2}}])).await;
    server.until(json!([{"k": 1, "n": 1}]), || counts(&server)).await;
    let failed = failed_files(&server).await;
    assert_eq!(failed.len(), 1, "{failed:?}");
    assert!(failed[0].contains("heavy.sql:1:26"), "{failed:?}");
    assert_eq!(server_view(&server, "heavy").await.0, 404);
}

#[test]
fn views_that_read_themselves_are_refused_with_the_way_round() {
    let refused = |text: &str| {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("t.sql"), TABLE).unwrap();
        std::fs::write(directory.path().join("heavy.sql"), text).unwrap();
        let checked = check(directory.path());
        assert_eq!(checked.status.code(), Some(1), "{checked:?}");
        String::from_utf8_lossy(&checked.stderr).into_owned()
    };
    let said = refused(&view("SELECT k FROM heavy"));
    assert!(said.contains("view heavy reads itself: heavy → heavy"), "{said}");
    assert!(said.contains("heavy.sql:1:26"), "{said}");
    let said = refused(&circle(3));
    assert!(said.contains("view c1 reads itself: c0 → heavy → c1 → c0"), "{said}");
    // At the view whose name closes the circle.
    assert!(said.contains("heavy.sql:2:13"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_view_that_takes_too_long_is_refused_by_its_limit() {
    let slow = joined(900, " UNION ALL ", |i| format!("SELECT k + {i} AS k FROM t"));
    let toml = "[limits]\nplan_time_ms_max = 500\n";
    let server = Server::configured(&[("t.sql", TABLE), ("good.sql", GOOD)], toml);
    // The errors of other files are reported, too.
    server.write("other.sql", "CREATE VIEW other AS SELECT nothing FROM t;");
    server.write("heavy.sql", &view(&slow));
    server.until(2, || async { failed_files(&server).await.len() }).await;
    let messages = failed_files(&server).await;
    assert!(messages[0].contains("longer than 0.5 s"), "{messages:?}");
    assert!(messages[0].contains("heavy.sql:1:26"), "{messages:?}");
    assert!(messages[1].contains("other.sql:1:"), "{messages:?}");
    server.remove("heavy.sql");
    server.remove("other.sql");
    server.until(0, || async { failed_files(&server).await.len() }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_chain_of_sums_as_deep_as_is_accepted_is_computed() {
    let server = Server::start(&[("t.sql", TABLE)]);
    let sum = joined(390, " + ", |_| "k".to_string());
    let or = joined(10_000, " OR ", |i| format!("(k = {i} AND v = {i})"));
    let sql = format!("SELECT {sum} AS x FROM t WHERE {or}");
    server.write("heavy.sql", &view(&sql));
    server.until(200, || async { server_view(&server, "heavy").await.0 }).await;
    let events: Vec<Value> =
        (0..20).map(|i| json!({"type": "T", "data": {"k": i, "v": i % 10}})).collect();
    server.append(&json!(events)).await;
    let expected: Vec<Value> = (0..10).map(|i| json!({"x": 390 * i})).collect();
    let rows = || async {
        let answer = server.get("/v1/views/heavy/rows?min_position=20&timeout=50s").await;
        let mut rows = answer["rows"].as_array().cloned().unwrap_or_default();
        rows.sort_by_key(|row| row["x"].as_i64());
        rows
    };
    server.until(expected, rows).await;
}

/// A server over a directory, whose log messages are kept.
struct Logged {
    directory: tempfile::TempDir,
    child: Option<Child>,
}

impl Drop for Logged {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Logged {
    fn new(files: &[(&str, &str)]) -> Logged {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("queries")).unwrap();
        let logged = Logged { directory, child: None };
        files.iter().for_each(|(name, text)| logged.write(name, text));
        logged
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.directory.path().join("queries").join(name), text).unwrap();
    }

    fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Starts the server and returns what it logs until a line has this text.
    fn run_until(&mut self, text: &str) -> String {
        self.stop();
        let path = self.directory.path().join("log");
        let child = Command::new(env!("CARGO_BIN_EXE_heliostat"))
            .args(["serve", "--listen", "127.0.0.1:0", "--no-clickhouse", "--workers", "1"])
            .arg("--data-dir")
            .arg(self.directory.path().join("data"))
            .arg("--queries")
            .arg(self.directory.path().join("queries"))
            .env("HELIOSTAT_LOG", "info")
            .stdin(Stdio::null())
            .stderr(std::fs::File::create(&path).unwrap())
            .spawn()
            .unwrap();
        self.child = Some(child);
        self.until(text)
    }

    fn until(&self, text: &str) -> String {
        let end = Instant::now() + Duration::from_secs(60);
        loop {
            let log = std::fs::read_to_string(self.directory.path().join("log")).unwrap();
            if log.contains(text) {
                return log;
            }
            assert!(Instant::now() < end, "{text} is not in\n{log}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

#[test]
fn a_start_plans_each_set_once_and_tries_again_only_what_has_changed() {
    let others: Vec<(String, String)> = (0..5)
        .map(|i| {
            let sql = format!("CREATE MATERIALIZED VIEW w{i} AS SELECT k, v + {i} AS x FROM t;");
            (format!("w{i}.sql"), sql)
        })
        .collect();
    let mut server = Logged::new(&[("t.sql", TABLE), ("good.sql", GOOD)]);
    others.iter().for_each(|(name, text)| server.write(name, text));
    let first = server.run_until("\"serving\"");
    let kept = server.directory.path().join("data/queries-kept.json");
    let end = Instant::now() + Duration::from_secs(60);
    while std::fs::read_to_string(&kept).unwrap().matches("\"generation\":").count() < 6 {
        assert!(Instant::now() < end, "not all views answer");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(first.matches("tried query files").count(), 1, "{first}");
    assert_eq!(first.matches("planned query files").count(), 1, "{first}");
    let again = server.run_until("\"serving\"");
    assert_eq!(again.matches("tried query files").count(), 0, "{again}");
    assert_eq!(again.matches("planned query files").count(), 1, "{again}");
    // Six views have changed: the set that answers, and the new one.
    server.stop();
    server.write("t.sql", &TABLE.replace("v BIGINT", "v BIGINT, w TEXT"));
    let changed = server.run_until("\"serving\"");
    assert_eq!(changed.matches("tried query files").count(), 1, "{changed}");
    assert_eq!(changed.matches("planned query files").count(), 2, "{changed}");
}

/// The number of mutated files that run through a server: `HELIOSTAT_MUTATIONS`.
const MUTATIONS: usize = 100;

/// A small generator of numbers that are the same in each run.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, max: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % max.max(1) as u64) as usize
    }
}

/// The text with a few bytes or tokens changed, doubled, dropped or moved.
fn mutated(text: &[u8], numbers: &mut Numbers) -> Vec<u8> {
    let mut bytes = text.to_vec();
    for _ in 0..=numbers.below(4) {
        let at = numbers.below(bytes.len());
        let end = (at + 1 + numbers.below(30)).min(bytes.len());
        match numbers.below(7) {
            0 => bytes[at] = numbers.below(256) as u8,
            1 => drop(bytes.drain(at..end)),
            2 => {
                let part = bytes[at..end].to_vec();
                let count = 1 + numbers.below(2_000);
                bytes.splice(at..at, part.repeat(count));
            }
            3 => bytes.truncate(at),
            4 => {
                let to = numbers.below(bytes.len());
                let part: Vec<u8> = bytes.drain(at..end).collect();
                let to = to.min(bytes.len());
                bytes.splice(to..to, part);
            }
            5 => {
                let digits = b"99999999999999999999999";
                bytes.splice(at..end, digits[..1 + numbers.below(22)].to_vec());
            }
            _ => {
                let words =
                    ["(", ")", "CASE", "NOT ", "SELECT ", " UNION ALL ", "'", "ARRAY[", "-"];
                let word = words[numbers.below(words.len())];
                bytes.splice(at..at, word.repeat(1 + numbers.below(300)).into_bytes());
            }
        }
        if bytes.is_empty() {
            bytes.push(b';');
        }
    }
    bytes
}

/// The query files of a directory of the repository, with their names, in order.
fn samples(directory: &str) -> Vec<(String, String)> {
    let paths = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let mut paths: Vec<_> =
        paths.filter(|path| path.extension().is_some_and(|end| end == "sql")).collect();
    paths.sort();
    let name = |path: &Path| path.file_name().unwrap().to_str().unwrap().to_string();
    paths.iter().map(|path| (name(path), std::fs::read_to_string(path).unwrap())).collect()
}

/// Writes a query file and has the server look at it: errors have a place, and the last good set
/// answers. Whether there are errors.
async fn try_file(server: &Server, name: &str, text: &[u8]) -> bool {
    std::fs::write(server.queries().join(name), text).unwrap();
    let retried = server.post("/v1/dead-letters/retry", &json!({})).await;
    assert_eq!(retried.0, 200);
    let failed = failed_files(server).await;
    assert!(
        failed.iter().all(|message| message.contains(".sql:")),
        "{failed:?}\n{}",
        String::from_utf8_lossy(text)
    );
    assert_eq!(counts(server).await, json!([{"k": 1, "n": 1}]));
    !failed.is_empty()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mutated_files_are_refused_or_planned_and_the_last_good_set_answers() {
    let count = std::env::var("HELIOSTAT_MUTATIONS").map_or(MUTATIONS, |n| n.parse().unwrap());
    let (orders, found) = (samples("queries/orders"), samples("tests/fuzz/corpus/queries"));
    let server = Server::start(&[("t.sql", TABLE), ("good.sql", GOOD)]);
    orders.iter().for_each(|(name, text)| server.write(name, text));
    server.append(&json!([{"type": "T", "data": {"k": 1, "v": 2}}])).await;
    // Files that were once trouble come first, unchanged.
    for (name, text) in &found {
        try_file(&server, name, text.as_bytes()).await;
        server.remove(name);
    }
    let mut numbers = Numbers(0x5eed);
    let mut refused = 0;
    for _ in 0..count {
        let at = numbers.below(orders.len() + found.len());
        let (name, sample) = orders.iter().chain(&found).nth(at).unwrap();
        let text = mutated(sample.as_bytes(), &mut numbers);
        refused += usize::from(try_file(&server, name, &text).await);
        // The others are there only while they are tried: not all of them can be planned.
        match at < orders.len() {
            true => server.write(name, sample),
            false => server.remove(name),
        }
    }
    println!("{refused} of {count} mutated files were refused");
    server.restart();
    server.until(json!([{"k": 1, "n": 1}]), || counts(&server)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_changed_views_are_planned_within_a_second() {
    let server = Server::start(&[("t.sql", TABLE)]);
    let views = |add: usize| -> String {
        (0..100)
            .map(|i| {
                let n = i + add;
                format!(
                    "CREATE MATERIALIZED VIEW r{i} AS SELECT a.k, sum(a.v + {n}) AS s, count(*) AS n \
                     FROM t a JOIN t b ON a.k = b.k WHERE a.v > {n} GROUP BY a.k;\n"
                )
            })
            .collect()
    };
    // The best of three, since other work of the machine only ever adds time. Each reload counts from
    // the write of the file until the server shows the last view of the new set.
    let mut best = Duration::MAX;
    for add in [0, 1, 2] {
        let generation = || async { server_view(&server, "r99").await.1["generation"].clone() };
        let next = || async {
            let view = server_view(&server, "r99").await.1;
            view["next"]["generation"].as_str().map(str::to_string)
        };
        let before = generation().await;
        let begun = Instant::now();
        server.write("views.sql", &views(add));
        let changed = || async { generation().await != before || next().await.is_some() };
        server.until(true, changed).await;
        let elapsed = begun.elapsed();
        println!("100 views planned {elapsed:?} after the write");
        best = best.min(elapsed);
    }
    assert!(best < RELOAD_TIME_MAX, "100 views are planned {best:?} after the write, at best");
}
