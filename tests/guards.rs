//! Views that take too much are stopped at their limits, get stuck or kill the process, while a cheap
//! view beside them answers and stays fresh all along.

mod common;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use common::Server;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

/// The view beside the others, over events of its own.
const CHEAP: (&str, &str) = (
    "cheap.sql",
    "CREATE TABLE tick (k BIGINT NOT NULL) WITH (event_type = 'Tick');
     CREATE MATERIALIZED VIEW cheap WITH (clickhouse = false) AS
       SELECT k, count(*) AS n FROM tick GROUP BY k;",
);

const TABLES: &str = "
    CREATE TABLE a (x BIGINT NOT NULL) WITH (event_type = 'A');
    CREATE TABLE b (x BIGINT NOT NULL) WITH (event_type = 'B');
";

/// The most that a read, or a new event's way into the view, may take beside a view that does harm.
const READ_P99_MAX: Duration = Duration::from_millis(500);
const FRESHNESS_MAX: Duration = Duration::from_secs(2);

/// The times that readers of the cheap view measure while something else is going on.
struct Beside {
    stop: Arc<AtomicBool>,
    reads: JoinHandle<Vec<Duration>>,
    freshness: JoinHandle<Vec<Duration>>,
}

impl Beside {
    /// Reads the view and posts events to it until the end.
    async fn begin(server: &Server) -> Beside {
        post(server, "Tick", &[1]).await;
        server.until(json!("live"), || status(server, "cheap")).await;
        let stop = Arc::new(AtomicBool::new(false));
        let (rows, events) = (server.url("/v1/views/cheap/rows"), server.url("/v1/events"));
        let (stops, of) = (Arc::clone(&stop), rows.clone());
        let reads = tokio::spawn(async move {
            let (client, mut times) = (heliostat::internals::http::client(), Vec::new());
            while !stops.load(Ordering::Relaxed) {
                let started = Instant::now();
                let answer = client.get(format!("{of}?k=1")).send().await.unwrap();
                assert_eq!(answer.status(), 200, "{}", answer.text().await.unwrap());
                times.push(started.elapsed());
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            times
        });
        let stops = Arc::clone(&stop);
        let freshness = tokio::spawn(async move {
            let (client, mut times) = (heliostat::internals::http::client(), Vec::new());
            while !stops.load(Ordering::Relaxed) {
                let event = json!({"type": "Tick", "data": {"k": 1}});
                let answer = client.post(&events).json(&event).send().await.unwrap();
                let answer: Value = answer.json().await.unwrap();
                let started = Instant::now();
                let position = &answer["last_position"];
                let read = format!("{rows}?k=1&min_position={position}&timeout=30s");
                let answer = client.get(read).send().await.unwrap();
                assert_eq!(answer.status(), 200, "{}", answer.text().await.unwrap());
                times.push(started.elapsed());
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            times
        });
        Beside { stop, reads, freshness }
    }

    /// Ends, and checks what was seen.
    async fn end(self, what: &str) {
        self.stop.store(true, Ordering::Relaxed);
        let (mut reads, mut freshness) = (self.reads.await.unwrap(), self.freshness.await.unwrap());
        reads.sort_unstable();
        freshness.sort_unstable();
        let p99 = reads[reads.len() * 99 / 100];
        let (read, fresh) = (reads[reads.len() - 1], freshness[freshness.len() - 1]);
        println!(
            "{what}: {} reads, p99 {p99:?}, worst {read:?}; {} events, worst freshness {fresh:?}",
            reads.len(),
            freshness.len()
        );
        assert!(p99 <= READ_P99_MAX, "{what}: reads take {p99:?}");
        assert!(fresh <= FRESHNESS_MAX, "{what}: an event takes {fresh:?}");
    }
}

async fn post(server: &Server, event_type: &str, values: &[i64]) {
    let name = if event_type == "Tick" { "k" } else { "x" };
    for part in values.chunks(20_000) {
        let event = |value: &i64| json!({"type": event_type, "data": {name: value}});
        let events: Vec<Value> = part.iter().map(event).collect();
        server.append(&json!(events)).await;
    }
}

async fn status(server: &Server, view: &str) -> Value {
    server.get(&format!("/v1/views/{view}")).await["status"].clone()
}

async fn wait_for(server: &Server, view: &str, expected: &str) {
    server.until_within(Duration::from_secs(120), json!(expected), || status(server, view)).await;
}

/// Waits until a view has failed; why.
async fn failure(server: &Server, view: &str) -> String {
    wait_for(server, view, "failed").await;
    let reason = server.get(&format!("/v1/views/{view}")).await["reason"].to_string();
    let wrong = server.get("/readyz").await["wrong"].to_string();
    assert!(wrong.contains(view), "{wrong}");
    reason
}

/// Within this time of its limit a view has failed.
const FAILURE_TIME_MAX: Duration = Duration::from_secs(5);

/// Waits until a view has failed; how long ago it was last seen within its limit of state.
async fn failure_after_limit(server: &Server, view: &str, state_bytes_max: u64) -> Duration {
    let end = Instant::now() + Duration::from_secs(120);
    let mut within = Instant::now();
    loop {
        let asked = Instant::now();
        assert!(asked < end, "{view} has not failed");
        let told = server.get(&format!("/v1/views/{view}")).await;
        if told["status"] == "failed" {
            return within.elapsed();
        }
        if told["state_bytes"].as_u64().is_some_and(|bytes| bytes <= state_bytes_max) {
            within = asked;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// The resident memory of the process that keeps the views, in bytes.
fn resident(server: &Server) -> u64 {
    let pid = server.pid_of("read-side").expect("there is a read side").to_string();
    let statm = std::fs::read_to_string(Path::new("/proc").join(pid).join("statm"));
    let pages: u64 = statm.unwrap().split_whitespace().nth(1).unwrap().parse().unwrap();
    pages * 4096
}

/// Waits until the server's memory is not far above what it was.
async fn memory_is_back(server: &Server, before: u64) {
    let end = Instant::now() + Duration::from_secs(30);
    loop {
        let now = resident(server);
        if now < before + (64 << 20) {
            return println!("memory: {} MiB before, {} MiB now", before >> 20, now >> 20);
        }
        assert!(Instant::now() < end, "{} MiB before, {} MiB now", before >> 20, now >> 20);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

fn view(name: &str, sql: &str) -> String {
    format!("CREATE MATERIALIZED VIEW {name} WITH (clickhouse = false) AS {sql};\n")
}

/// A server with the cheap view, and one that does harm.
fn server(harm: &str, limits: &str) -> Server {
    let toml = format!("[limits]\n{limits}");
    Server::configured(&[CHEAP, ("harm.sql", &format!("{TABLES}{harm}"))], &toml)
}

const EACH: i64 = 200_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cross_join_fails_at_the_limit_of_its_state_and_its_memory_comes_back() {
    let harm = view("harm", "SELECT a.x, b.x AS y FROM a CROSS JOIN b");
    let server = server(&harm, "view_state_bytes_max = 400_000_000");
    let values: Vec<i64> = (0..EACH).collect();
    let beside = Beside::begin(&server).await;
    post(&server, "A", &values).await;
    server
        .until(json!(0), || async { server.get("/v1/views/harm").await["lag_events"].clone() })
        .await;
    let before = resident(&server);
    // The view may fail before all of the events are there.
    let failed = failure_after_limit(&server, "harm", 400_000_000);
    let ((), took) = tokio::join!(post(&server, "B", &values), failed);
    println!("failed {took:?} after its state was last seen within the limit");
    assert!(took <= FAILURE_TIME_MAX, "{took:?}");
    let reason = failure(&server, "harm").await;
    assert!(reason.contains("view_state_bytes_max = 400000000"), "{reason}");
    memory_is_back(&server, before).await;
    beside.end("cross join, state").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn aggregated_cross_join_fails_when_its_time_is_up() {
    let harm = view("harm", "SELECT count(*) AS n, sum(a.x + b.x) AS s FROM a CROSS JOIN b");
    let server = server(&harm, "view_time_ms_max = 3000");
    let values: Vec<i64> = (0..EACH).collect();
    let beside = Beside::begin(&server).await;
    post(&server, "A", &values).await;
    server
        .until(json!(0), || async { server.get("/v1/views/harm").await["lag_events"].clone() })
        .await;
    // So many pairs take far longer than the view may. Work begins before the answer is here, and a
    // worker that has its turn all the time is at the limit after three seconds.
    post(&server, "B", &values[..20_000]).await;
    let started = Instant::now();
    let reason = failure(&server, "harm").await;
    let took = started.elapsed();
    println!("failed {took:?} after its work began");
    assert!(reason.contains("view_time_ms_max = 3000"), "{reason}");
    assert!(took <= Duration::from_secs(3) + FAILURE_TIME_MAX, "{took:?}");
    beside.end("cross join, time").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn event_that_a_join_makes_too_many_rows_of_fails_the_view() {
    let harm = view("harm", "SELECT a.x + b.x AS s FROM a CROSS JOIN b");
    let server = server(&harm, "event_rows_max = 10_000");
    post(&server, "A", &(0..30_000).collect::<Vec<_>>()).await;
    post(&server, "B", &[1]).await;
    let reason = failure(&server, "harm").await;
    assert!(reason.contains("event_rows_max = 10000"), "{reason}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_of_a_view_are_limited_by_themselves() {
    let harm = view("harm", "SELECT x, lpad(x::TEXT, 1000) AS t FROM a");
    let server = server(&harm, "view_output_bytes_max = 10_000_000");
    post(&server, "A", &(0..5_000).collect::<Vec<_>>()).await;
    let rows = || async { server.get("/v1/views/harm").await["rows"].clone() };
    server.until(json!(5_000), rows).await;
    let held = || async { server.get("/v1/views/harm").await["state_bytes"].as_u64().unwrap() };
    // 5,000 rows of a little more than 1,000 bytes.
    server.until(true, || async { (5_000_000..10_000_000).contains(&held().await) }).await;
    let metrics = heliostat::internals::http::client().get(server.url("/metrics")).send().await;
    let metrics = metrics.unwrap().text().await.unwrap();
    assert!(metrics.contains("heliostat_view_state_bytes{view=\"harm\"}"), "{metrics}");
    post(&server, "A", &(5_000..11_000).collect::<Vec<_>>()).await;
    let reason = failure(&server, "harm").await;
    assert!(reason.contains("view_output_bytes_max = 10000000"), "{reason}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exploding_recursion_fails_and_others_go_on() {
    let harm = view(
        "harm",
        "WITH RECURSIVE r AS (
           SELECT x::TEXT AS t FROM a
           UNION ALL
           SELECT r.t || s.d AS t FROM r CROSS JOIN (VALUES ('0'), ('1'), ('2'), ('3')) AS s(d)
         ) SELECT t FROM r",
    );
    let server = server(&harm, "event_rows_max = 1_000_000");
    let beside = Beside::begin(&server).await;
    let before = resident(&server);
    post(&server, "A", &[7]).await;
    // From its first row on, and so from the row that is one too many.
    let started = Instant::now();
    let reason = failure(&server, "harm").await;
    let took = started.elapsed();
    println!("failed {took:?} after its event came");
    assert!(reason.contains("event_rows_max = 1000000"), "{reason}");
    assert!(took <= FAILURE_TIME_MAX, "{took:?}");
    memory_is_back(&server, before).await;
    beside.end("recursion").await;
}

/// A row for which one expression makes too much fails; the view and the others go on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn expressions_that_explode_fail_their_rows() {
    let cases = [
        (
            "series",
            "SELECT a.x, n FROM a CROSS JOIN LATERAL generate_series(1, CASE WHEN a.x < 0 THEN 1 ELSE 1000000000 END) AS s(n)",
        ),
        (
            "padded",
            "SELECT x, lpad(x::TEXT, CASE WHEN x < 0 THEN 5 ELSE 1000000000000000 END) AS t FROM a",
        ),
        (
            "repeated",
            "SELECT x, repeat(x::TEXT, CASE WHEN x < 0 THEN 1 ELSE 2000000000 END) AS t FROM a",
        ),
        (
            "unnested",
            "SELECT a.x, n FROM a CROSS JOIN LATERAL generate_series(1, CASE WHEN a.x < 0 THEN 1 ELSE 100000 END) AS s(n)",
        ),
    ];
    let harm: String = cases.iter().map(|(name, sql)| view(name, sql)).collect();
    let server = server(&harm, "event_rows_max = 50_000");
    let beside = Beside::begin(&server).await;
    let before = resident(&server);
    post(&server, "A", &(-3..2_000).collect::<Vec<_>>()).await;
    for (name, _) in cases {
        wait_for(&server, name, "live").await;
        let counts = || async {
            let view = server.get(&format!("/v1/views/{name}")).await;
            (view["rows"].clone(), view["errors"].clone())
        };
        server.until((json!(3), json!(2_000)), counts).await;
    }
    memory_is_back(&server, before + (128 << 20)).await;
    beside.end("expressions").await;
}

/// An event's own list: a hundred thousand elements are rows, more than the limit are a dead letter.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn elements_of_a_large_array_are_rows_up_to_the_limit_and_a_dead_letter_beyond_it() {
    const ELEMENTS: usize = 100_000;
    const EVENTS: usize = 5;
    let harm = "CREATE TABLE lists (k BIGINT NOT NULL, xs ARRAY<BIGINT> NOT NULL) WITH (event_type = 'List');"
        .to_string()
        + &view("elements", "SELECT l.k, u.x FROM lists l CROSS JOIN UNNEST(l.xs) AS u(x)")
        + &view(
            "totals",
            "SELECT l.k, count(*) AS n, CAST(sum(u.x) AS BIGINT) AS s
               FROM lists l CROSS JOIN UNNEST(l.xs) AS u(x) GROUP BY l.k",
        );
    let server = server(&harm, "event_rows_max = 150_000");
    let beside = Beside::begin(&server).await;
    let before = resident(&server);
    let list = |k: usize, elements: usize| {
        let xs = Vec::from_iter((0..elements).map(|n| n % 10));
        json!({"type": "List", "data": {"k": k, "xs": xs}})
    };
    for k in 0..EVENTS {
        server.append(&list(k, ELEMENTS)).await;
    }
    // Twice as many are more than one event may make.
    server.append(&list(EVENTS, 2 * ELEMENTS)).await;
    for (name, rows) in [("elements", EVENTS * ELEMENTS), ("totals", EVENTS)] {
        let counts = || async {
            let view = server.get(&format!("/v1/views/{name}")).await;
            (view["status"].clone(), view["rows"].clone(), view["errors"].clone())
        };
        let expected = (json!("live"), json!(rows), json!(1));
        server.until_within(Duration::from_secs(120), expected, counts).await;
        let letters = server.get(&format!("/v1/dead-letters?view={name}")).await;
        let reason = letters["dead_letters"][0]["reason"].to_string();
        assert!(reason.contains("150000"), "{letters}");
    }
    let mut rows = server.get("/v1/views/totals/rows").await["rows"].as_array().unwrap().clone();
    rows.sort_by_key(|row| row["k"].as_u64());
    let row = |k| json!({"k": k, "n": ELEMENTS, "s": ELEMENTS / 10 * 45});
    assert_eq!(rows, Vec::from_iter((0..EVENTS).map(row)));
    println!("unnested: {} MiB before, {} MiB now", before >> 20, resident(&server) >> 20);
    beside.end("large arrays").await;
}

/// Values that are within the limit each, and would fill the memory if a batch had them all at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_values_are_made_for_a_few_rows_at_a_time() {
    let harm = view("harm", "SELECT x, length(repeat(x::TEXT, 5000000)) AS n FROM a");
    let harm = harm
        + &view(
            "listed",
            "SELECT a.x, count(*) AS n FROM a CROSS JOIN LATERAL generate_series(1, 200000) AS s(n) GROUP BY a.x",
        );
    let server = server(&harm, "");
    let beside = Beside::begin(&server).await;
    let before = resident(&server);
    post(&server, "A", &(10..90).collect::<Vec<_>>()).await;
    let mut highest = 0;
    for name in ["harm", "listed"] {
        let rows = || async { server.get(&format!("/v1/views/{name}")).await["rows"].clone() };
        let end = Instant::now() + Duration::from_secs(120);
        while rows().await != json!(80) {
            highest = highest.max(resident(&server));
            assert!(Instant::now() < end, "{name}: {}", rows().await);
        }
        assert_eq!(status(&server, name).await, json!("live"));
    }
    // All values together are 800 MB, and all elements 256 MB.
    println!("large values: {} MiB before, {} MiB at most", before >> 20, highest >> 20);
    assert!(highest < before + (400 << 20), "{} MiB", highest >> 20);
    beside.end("large values").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn view_that_is_dropped_in_the_middle_of_its_work_is_gone_at_once() {
    let harm = view("harm", "SELECT a.x, b.x AS y FROM a CROSS JOIN b");
    let server = server(&harm, "");
    let values: Vec<i64> = (0..EACH).collect();
    let beside = Beside::begin(&server).await;
    let before = resident(&server);
    post(&server, "A", &values).await;
    post(&server, "B", &values).await;
    let grown = || async {
        server.get("/v1/views/harm").await["state_bytes"].as_u64().unwrap_or(0) > 300_000_000
    };
    server.until(true, grown).await;
    server.remove("harm.sql");
    let gone = || async { server.get("/v1/views/harm").await["errors"][0]["code"].clone() };
    server.until(json!("view_not_found"), gone).await;
    memory_is_back(&server, before).await;
    beside.end("drop").await;
}

/// One partition, and one group, of all rows: each change computes all of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_partitions_and_groups_leave_others_their_turn() {
    const ROWS: i64 = 100_000;
    let harm = view("quarters", "SELECT x, ntile(4) OVER (ORDER BY x) AS quarter FROM a")
        + &view("middle", "SELECT percentile_disc(0.5) WITHIN GROUP (ORDER BY x) AS x FROM a");
    let server = server(&harm, "");
    let beside = Beside::begin(&server).await;
    post(&server, "A", &(0..ROWS).collect::<Vec<_>>()).await;
    for value in ROWS..ROWS + 5 {
        post(&server, "A", &[value]).await;
    }
    let shown = || async {
        for name in ["quarters", "middle"] {
            wait_for(&server, name, "live").await;
        }
        let of = |path: &'static str| async { server.get(path).await["rows"].clone() };
        [of("/v1/views/quarters").await, of("/v1/views/middle/rows").await]
    };
    let expected = [json!(ROWS + 5), json!([{"x": (ROWS + 5) / 2}])];
    server.until_within(Duration::from_secs(120), expected, shown).await;
    beside.end("large partitions").await;
}

/// A frame of a hundred thousand rows before each row: with EXCLUDE each of them is computed by itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn window_with_large_frames_fails_when_its_time_is_up_and_holds_nobody_up() {
    let harm = view(
        "harm",
        "SELECT x, sum(x) OVER (ORDER BY x ROWS 100000 PRECEDING EXCLUDE CURRENT ROW) AS s FROM a",
    );
    let server = server(&harm, "view_time_ms_max = 3000");
    let beside = Beside::begin(&server).await;
    let before = resident(&server);
    post(&server, "A", &(0..EACH).collect::<Vec<_>>()).await;
    let started = Instant::now();
    let reason = failure(&server, "harm").await;
    assert!(reason.contains("view_time_ms_max = 3000"), "{reason}");
    assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
    memory_is_back(&server, before).await;
    beside.end("large frames").await;
}

/// A view that takes long for each of its events does not hold back the one that is fed with it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn view_that_lags_is_left_behind_by_those_that_were_fed_with_it() {
    let harm = view("harm", "SELECT sum(a.x + b.x) AS s FROM a CROSS JOIN b");
    let server = server(&harm, "");
    let beside = Beside::begin(&server).await;
    post(&server, "B", &(0..20_000).collect::<Vec<_>>()).await;
    wait_for(&server, "harm", "live").await;
    // Each of them is 20,000 pairs.
    for part in 0..50 {
        let values: Vec<i64> = (part * 40..(part + 1) * 40).collect();
        post(&server, "A", &values).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let lag = || async { server.get("/v1/views/harm").await["lag_events"].as_u64().unwrap() };
    println!("the other view lags by {} events", lag().await);
    beside.end("lagging").await;
    // In the end the view has caught up, and is right.
    server.until_within(Duration::from_secs(120), 0, lag).await;
    let rows = server.get("/v1/views/harm/rows").await["rows"].clone();
    let pairs = (0..2_000_i64).sum::<i64>() * 20_000 + (0..20_000_i64).sum::<i64>() * 2_000;
    assert_eq!(rows, json!([{"s": pairs.to_string()}]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn view_that_a_worker_is_stuck_in_is_set_aside_until_it_is_rebuilt() {
    let files = [CHEAP, ("harm.sql", &format!("{TABLES}{}", view("harm", "SELECT x FROM a"))[..])];
    let server =
        Server::laid_out(&files, "single_process = true\n[limits]\nworker_stuck_ms_max = 2000");
    server.run();
    post(&server, "A", &[1, 2, 3]).await;
    post(&server, "Tick", &[1]).await;
    wait_for(&server, "harm", "live").await;
    server.kill();
    server.set_environment("FAILPOINTS", "in view harm=sleep(600000)");
    let started = Instant::now();
    assert_eq!(server.ends().code(), Some(3));
    assert!(started.elapsed() > Duration::from_secs(2), "{:?}", started.elapsed());
    // The failpoint is still there: the view must not be begun.
    server.run();
    let reason = failure(&server, "harm").await;
    assert!(reason.contains("set aside: a worker did not get out of it"), "{reason}");
    post(&server, "Tick", &[1]).await;
    let rows = "/v1/views/cheap/rows?min_position=5&timeout=30s";
    assert_eq!(server.get(rows).await["rows"], json!([{"k": 1, "n": 2}]));
    // The view stays set aside over restarts, until a rebuild begins it.
    server.without_environment();
    server.restart();
    failure(&server, "harm").await;
    assert_eq!(server.post("/v1/views/harm/rebuild", &json!({})).await.0, 202);
    wait_for(&server, "harm", "live").await;
    assert_eq!(server.get("/v1/views/harm").await["rows"], json!(3));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn view_in_which_the_process_dies_three_times_is_set_aside_until_its_sql_changes() {
    let harm = |sql: &str| format!("{TABLES}{}", view("harm", sql));
    let server =
        Server::laid_out(&[CHEAP, ("harm.sql", &harm("SELECT x FROM a"))], "single_process = true");
    server.run();
    post(&server, "A", &[1, 2, 3]).await;
    wait_for(&server, "harm", "live").await;
    // In order: a kill in the middle of the view's work would be the first death.
    assert_eq!(server.terminate().wait().unwrap().code(), Some(0));
    server.set_environment("FAILPOINTS", "in view harm=return");
    for _ in 0..3 {
        assert_eq!(server.ends().code(), None, "it is killed by a signal");
    }
    server.run();
    let reason = failure(&server, "harm").await;
    assert!(reason.contains("set aside: the process died in it 3 times in a row"), "{reason}");
    post(&server, "Tick", &[1]).await;
    let rows = "/v1/views/cheap/rows?min_position=4&timeout=30s";
    assert_eq!(server.get(rows).await["rows"], json!([{"k": 1, "n": 1}]));
    server.without_environment();
    server.restart();
    failure(&server, "harm").await;
    server.write("harm.sql", &harm("SELECT x + 1 AS y FROM a"));
    wait_for(&server, "harm", "live").await;
    assert_eq!(server.get("/v1/views/harm").await["rows"], json!(3));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn view_that_another_worker_is_in_is_not_blamed_for_a_fault() {
    let views =
        format!("{TABLES}{}{}", view("beside", "SELECT x FROM a"), view("harm", "SELECT x FROM a"));
    let server = Server::laid_out(&[("views.sql", &views)], "single_process = true\nworkers = 2");
    server.run();
    post(&server, "A", &[1, 2, 3]).await;
    for view in ["beside", "harm"] {
        wait_for(&server, view, "live").await;
    }
    assert_eq!(server.terminate().wait().unwrap().code(), Some(0));
    // One worker sleeps in the first view when the other one dies in the second.
    server.set_environment("FAILPOINTS", "in view beside=1*sleep(5000);in view harm=return");
    for _ in 0..3 {
        assert_eq!(server.ends().code(), None, "it is killed by a signal");
    }
    server.without_environment();
    server.run();
    let reason = failure(&server, "harm").await;
    assert!(reason.contains("set aside: the process died in it 3 times in a row"), "{reason}");
    wait_for(&server, "beside", "live").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn largest_view_is_set_aside_when_memory_is_over_the_budget() {
    // Rows of recursions are in memory, whatever goes to files.
    let harm = view(
        "harm",
        "WITH RECURSIVE r AS (
           SELECT x, repeat((100000 + x)::TEXT, 700) AS t FROM a
           UNION SELECT x, t FROM r WHERE x < 0
         ) SELECT max(t) AS t FROM r",
    );
    let harm = format!("{TABLES}{harm}{}", view("other", "SELECT count(*) AS n FROM a"));
    let arguments = ["--no-clickhouse", "--memory", "400M"];
    let server = Server::with_arguments(&[CHEAP, ("harm.sql", &harm)], &arguments, &[]);
    let beside = Beside::begin(&server).await;
    let mut next = 0;
    while status(&server, "harm").await != json!("failed") {
        assert!(next < 1_000_000, "{} MiB", resident(&server) >> 20);
        if server.get("/v1/views/harm").await["lag_events"].as_u64().unwrap() < 1_000 {
            post(&server, "A", &(next..next + 400).collect::<Vec<_>>()).await;
            next += 400;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let reason = failure(&server, "harm").await;
    assert!(reason.contains("more than --memory = 419430400 allows"), "{reason}");
    let end = Instant::now() + Duration::from_secs(30);
    while resident(&server) > 400 << 20 {
        assert!(Instant::now() < end, "{} MiB", resident(&server) >> 20);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    for view in ["cheap", "other"] {
        assert_eq!(status(&server, view).await, json!("live"), "{view}");
    }
    beside.end("memory").await;
}
