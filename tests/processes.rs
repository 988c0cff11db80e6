//! Ingest outlives the views, and each side its own end: the write side, the read side and their
//! parent are killed and stopped in turn, under load, and every acknowledged event counts once.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use common::Server;
use futures::StreamExt;
use serde_json::{Value, json};

const PAID: &str = "
    CREATE TABLE paid (k TEXT NOT NULL, amount BIGINT NOT NULL) WITH (event_type = 'Paid');
    CREATE MATERIALIZED VIEW sums AS SELECT k, sum(amount) AS s, count(*) AS n FROM paid GROUP BY k;
    CREATE MATERIALIZED VIEW quotients AS SELECT 100 / amount AS q FROM paid;
";

fn paid(k: &str, amount: i64) -> Value {
    json!({"type": "Paid", "data": {"k": k, "amount": amount}})
}

fn signal(server: &Server, side: &str, signal: i32) -> libc::pid_t {
    let pid = server.pid_of(side).unwrap_or_else(|| panic!("there is no {side}"));
    // SAFETY: a signal to a child of the server that this test has started.
    unsafe { libc::kill(pid, signal) };
    pid
}

fn is_alive(pid: libc::pid_t) -> bool {
    // SAFETY: no signal is sent.
    unsafe { libc::kill(pid, 0) == 0 }
}

async fn is_live(server: &Server) -> bool {
    let client = heliostat::internals::http::client();
    let answer = client.get(server.url("/readyz?views=all")).send().await;
    answer.is_ok_and(|answer| answer.status() == 200)
}

/// The server's alarms as text; empty while it does not answer.
async fn wrong(server: &Server) -> String {
    let answer = heliostat::internals::http::client().get(server.url("/readyz")).send().await;
    let Ok(answer) = answer else { return String::new() };
    answer.text().await.unwrap_or_default()
}

/// Everything that `/readyz` says is wrong until the end, each message once.
struct WrongSeen {
    stop: Arc<AtomicBool>,
    task: tokio::task::JoinHandle<BTreeSet<String>>,
}

impl WrongSeen {
    fn begin(server: &Server) -> WrongSeen {
        let (stop, url) = (Arc::new(AtomicBool::new(false)), server.url("/readyz"));
        let stops = Arc::clone(&stop);
        let task = tokio::spawn(async move {
            let (client, mut seen) = (heliostat::internals::http::client(), BTreeSet::new());
            while !stops.load(Ordering::SeqCst) {
                if let Ok(answer) = client.get(&url).send().await {
                    seen.insert(answer.text().await.unwrap_or_default());
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            seen
        });
        WrongSeen { stop, task }
    }

    async fn end(self) -> String {
        self.stop.store(true, Ordering::SeqCst);
        Vec::from_iter(self.task.await.unwrap()).join("\n")
    }
}

/// Posts without end, one event a request, each with an id of its own, and again until it is
/// acknowledged.
struct Load {
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicU64>,
    /// The longest time without an acknowledgement, in milliseconds.
    gap_ms: Arc<AtomicU64>,
    refused: Arc<AtomicU64>,
    task: tokio::task::JoinHandle<()>,
}

impl Load {
    fn start(server: &Server) -> Load {
        let stop = Arc::new(AtomicBool::new(false));
        let [acknowledged, gap_ms, refused] = [(); 3].map(|()| Arc::new(AtomicU64::new(0)));
        let url = server.url("/v1/events");
        let task = tokio::spawn({
            let (stop, acknowledged) = (Arc::clone(&stop), Arc::clone(&acknowledged));
            let (gap_ms, refused) = (Arc::clone(&gap_ms), Arc::clone(&refused));
            async move {
                let client = heliostat::internals::http::client();
                let mut last = Instant::now();
                let mut next = 0;
                while !stop.load(Ordering::SeqCst) {
                    let mut event = paid(&format!("k{}", next % 10), 1);
                    event["id"] = json!(format!("e{next}"));
                    let sent = client.post(&url).json(&event).timeout(Duration::from_secs(5));
                    match sent.send().await {
                        Ok(answer) if answer.status() == 200 => {
                            gap_ms.fetch_max(last.elapsed().as_millis() as u64, Ordering::SeqCst);
                            last = Instant::now();
                            acknowledged.fetch_add(1, Ordering::SeqCst);
                            next += 1;
                        }
                        _ => {
                            refused.fetch_add(1, Ordering::SeqCst);
                            tokio::time::sleep(Duration::from_millis(5)).await;
                        }
                    }
                }
            }
        });
        Load { stop, acknowledged, gap_ms, refused, task }
    }

    fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::SeqCst)
    }

    /// Waits for so many further acknowledgements.
    async fn go_on(&self, events: u64) {
        let (end, wanted) =
            (Instant::now() + Duration::from_secs(30), self.acknowledged() + events);
        while self.acknowledged() < wanted {
            assert!(Instant::now() < end, "events are not acknowledged any more");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn end(self) -> (u64, u64, u64) {
        self.stop.store(true, Ordering::SeqCst);
        self.task.await.unwrap();
        let read = |counter: &AtomicU64| counter.load(Ordering::SeqCst);
        (read(&self.acknowledged), read(&self.gap_ms), read(&self.refused))
    }
}

/// The rows of `sums` count each acknowledged event once.
async fn assert_counted(server: &Server, acknowledged: u64) {
    server.until(true, || is_live(server)).await;
    let expected: BTreeMap<String, u64> = (0..10)
        .map(|k| (format!("k{k}"), acknowledged / 10 + u64::from(k < acknowledged % 10)))
        .collect();
    let path = format!("/v1/views/sums/rows?min_position={acknowledged}&timeout=20s");
    let answer = server.get(&path).await;
    let count = |row: &Value| (row["k"].as_str().unwrap().to_string(), row["n"].as_u64().unwrap());
    let counted: BTreeMap<String, u64> =
        answer["rows"].as_array().unwrap_or_else(|| panic!("{answer}")).iter().map(count).collect();
    assert_eq!(counted, expected);
    let log = server.get_text("/v1/events?limit=1000000").await;
    assert_eq!(log.lines().filter(|line| !line.is_empty()).count() as u64, acknowledged);
}

#[tokio::test]
async fn appends_go_on_while_the_read_side_is_killed_again_and_again() {
    let server = Server::start(&[("paid.sql", PAID)]);
    let load = Load::start(&server);
    for _ in 0..5 {
        load.go_on(50).await;
        let killed = signal(&server, "read-side", libc::SIGKILL);
        // Appends do not wait for the next one.
        load.go_on(20).await;
        server
            .until(true, || async { server.pid_of("read-side").is_some_and(|p| p != killed) })
            .await;
    }
    let (acknowledged, gap_ms, refused) = load.end().await;
    assert_eq!(refused, 0, "appends were refused");
    assert!(gap_ms < 2_000, "no event was acknowledged for {gap_ms} ms");
    assert_counted(&server, acknowledged).await;
}

#[tokio::test]
async fn without_the_read_side_requests_about_views_say_so_and_events_are_still_checked() {
    let server = Server::start(&[("paid.sql", PAID)]);
    server.append(&paid("a", 3)).await;
    // Each death soon after the one before doubles the pause before the next start.
    let mut killed = 0;
    for _ in 0..7 {
        let next = || async { server.pid_of("read-side").is_some_and(|pid| pid != killed) };
        server.until(true, next).await;
        killed = signal(&server, "read-side", libc::SIGKILL);
    }
    server.until(None, || async { server.pid_of("read-side") }).await;
    let away = json!("read_side_away");
    for path in [
        "/v1/views",
        "/v1/views/sums",
        "/v1/views/sums/rows",
        "/v1/views/sums/changes",
        "/v1/dead-letters",
    ] {
        let (status, answer) = server.try_get(path).await;
        assert_eq!((status, &answer["errors"][0]["code"]), (503, &away), "{path}: {answer}");
    }
    for path in ["/v1/events?wait=views", "/v1/views/sums/rebuild", "/v1/dead-letters/dismiss"] {
        let (status, answer) = server.post(path, &json!({})).await;
        let is_away = (status, &answer["errors"][0]["code"]) == (503, &away);
        assert!(is_away, "{path}: {status} {answer}");
    }
    let (status, answer) = server.post("/v1/events", &paid("a", 4)).await;
    assert_eq!(status, 200, "{answer}");
    let misfit = json!({"type": "Paid", "data": {"k": 7, "amount": 1}});
    let (status, answer) = server.post("/v1/events", &misfit).await;
    assert_eq!(status, 422, "{answer}");
    let ready = server.get("/readyz").await;
    assert_eq!(ready["status"], "ready", "{ready}");
    assert_eq!(ready["wrong"][0]["part"], "read_side", "{ready}");
    assert_eq!(server.try_get("/readyz?views=all").await.0, 503);
    assert!(server.get_text("/metrics").await.contains("\nheliostat_read_side_up 0"));

    server.until(true, || is_live(&server)).await;
    let rows = server.get("/v1/views/sums/rows").await;
    assert_eq!(rows["rows"], json!([{"k": "a", "s": "7", "n": 2}]), "{rows}");
    assert!(server.get_text("/metrics").await.contains("\nheliostat_read_side_up 1"));
    assert_eq!(server.get("/readyz").await["wrong"], json!([]));
}

#[tokio::test]
async fn appends_wait_for_views_of_the_other_process_by_name() {
    let server = Server::start(&[("paid.sql", PAID)]);
    let client = heliostat::internals::http::client();
    let post = |query: &str| {
        let url = server.url(&format!("/v1/events?{query}"));
        client.post(url).json(&paid("a", 1)).send()
    };
    let answer = post("wait=views&view=sums,quotients&timeout=30s").await.unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(
        server.get("/v1/views/sums/rows").await["rows"],
        json!([{"k": "a", "s": "1", "n": 1}])
    );
    let answer = post("wait=views&view=sums,nothing").await.unwrap();
    let problem: Value = answer.json().await.unwrap();
    assert_eq!(problem["errors"][0]["code"], "unknown_view", "{problem}");
    assert_eq!(server.get("/v1/views/sums").await["rows"], 1);
    assert_eq!(server.get_text("/v1/events").await.lines().count(), 1, "nothing more is stored");
}

#[tokio::test]
async fn a_killed_write_side_is_back_within_two_seconds_and_loses_nothing() {
    let server = Server::start(&[("paid.sql", PAID)]);
    let load = Load::start(&server);
    for _ in 0..5 {
        load.go_on(50).await;
        let killed = signal(&server, "write-side", libc::SIGKILL);
        let next = || async { server.pid_of("write-side").is_some_and(|pid| pid != killed) };
        server.until(true, next).await;
        load.go_on(1).await;
    }
    let read_side = server.pid_of("read-side").unwrap();
    load.go_on(10).await;
    let (acknowledged, gap_ms, _) = load.end().await;
    assert!(gap_ms < 2_000, "no event was acknowledged for {gap_ms} ms");
    assert_counted(&server, acknowledged).await;
    assert_eq!(server.pid_of("read-side"), Some(read_side), "the views' process went with it");
}

#[tokio::test]
async fn after_a_failed_sync_nothing_is_acknowledged_before_a_restart() {
    let server = Server::start(&[("paid.sql", PAID)]);
    let event = |id: &str| {
        let mut event = paid("a", 1);
        event["id"] = json!(id);
        event
    };
    server.append(&json!([event("first"), event("second")])).await;
    server.until(true, || is_live(&server)).await;
    server.end();
    // From now on no write side gets a frame to the disk.
    server.set_environment("FAILPOINTS", "frame_sync=return");
    server.run();
    server.until(true, || is_live(&server)).await;
    let [writer, reader] = ["write-side", "read-side"].map(|side| server.pid_of(side).unwrap());

    let client = heliostat::internals::http::client();
    let append = async |id: &str| {
        let request = client.post(server.url("/v1/events")).json(&event(id));
        let answer = request.send().await.ok()?;
        Some((answer.status().as_u16(), answer.json::<Value>().await.unwrap_or_default()))
    };
    // The first append fails, those that come with it are refused or get no answer.
    let ids: Vec<String> = (0..20).map(|n| format!("lost{n}")).collect();
    let answers = futures::future::join_all(ids.iter().map(|id| append(id))).await;
    let refused = |(status, answer): &(u16, Value)| {
        (*status, &answer["errors"][0]["code"]) == (503, &json!("stopped"))
    };
    let answered: Vec<_> = answers.into_iter().flatten().collect();
    assert!(!answered.is_empty(), "nobody was answered");
    assert!(answered.iter().all(refused), "{answered:?}");
    // The next write side can no more than the one before, and never says that it could.
    let is_another = || async { server.pid_of("write-side").is_some_and(|pid| pid != writer) };
    server.until(true, is_another).await;
    // A connection to a write side that ends may be cut off.
    let told = || async {
        let Ok(answer) = client.get(server.url("/readyz")).send().await else { return false };
        let ready: Value = answer.json().await.unwrap_or_default();
        ready["wrong"].to_string().contains("writing failed: syncing failed")
    };
    server.until(true, told).await;
    for id in ["later0", "later1"] {
        if let Some(answer) = append(id).await {
            assert!(refused(&answer), "{answer:?}");
        }
        server.until(true, told).await;
    }
    // Reads go on.
    let log = server.get_text("/v1/events?limit=2").await;
    assert!(log.contains("first") && log.contains("second"), "{log}");
    // The last write side may just have begun, and not have heard of the read side yet.
    let shown = || async {
        let Ok(answer) = client.get(server.url("/v1/views/sums/rows")).send().await else {
            return false;
        };
        let rows: Value = answer.json().await.unwrap_or_default();
        rows["rows"][0]["n"].as_u64() >= Some(2)
    };
    server.until(true, shown).await;
    assert_eq!(server.pid_of("read-side"), Some(reader));

    server.end();
    server.without_environment();
    server.run();
    // Each event is there once, whether it was acknowledged before or is sent again now.
    let known = ["first", "second", "later0", "later1", "new"].map(str::to_string);
    let all: Vec<String> = known.into_iter().chain(ids).collect();
    for id in &all {
        server.append(&event(id)).await;
    }
    let log = server.get_text("/v1/events").await;
    let event_of = |line: &str| serde_json::from_str::<Value>(line).unwrap();
    let stored: Vec<Value> = log.lines().map(event_of).collect();
    let mut stored_ids: Vec<&str> = stored.iter().filter_map(|e| e["id"].as_str()).collect();
    assert_eq!(stored_ids[..2], ["first", "second"]);
    stored_ids.sort_unstable();
    let mut expected: Vec<&str> = all.iter().map(String::as_str).collect();
    expected.sort_unstable();
    assert_eq!(stored_ids, expected);
    assert_eq!(server.get("/readyz").await["wrong"], json!([]));
}

#[tokio::test]
async fn a_read_side_that_does_not_move_is_replaced() {
    let server = Server::start(&[("paid.sql", PAID)]);
    let load = Load::start(&server);
    load.go_on(20).await;
    let stopped = signal(&server, "read-side", libc::SIGSTOP);
    let replaced = || async { server.pid_of("read-side").is_some_and(|pid| pid != stopped) };
    server.until(true, replaced).await;
    let (acknowledged, gap_ms, refused) = load.end().await;
    assert_eq!((refused, gap_ms < 2_000), (0, true), "{gap_ms} ms");
    assert_counted(&server, acknowledged).await;
}

#[tokio::test]
async fn a_write_side_that_does_not_move_is_replaced_and_never_writes_again() {
    let server = Server::start(&[("paid.sql", PAID)]);
    let load = Load::start(&server);
    load.go_on(20).await;
    let stopped = signal(&server, "write-side", libc::SIGSTOP);
    let replaced = || async { server.pid_of("write-side").is_some_and(|pid| pid != stopped) };
    server.until(true, replaced).await;
    // The stopped process was ended before the other one began, so it cannot be continued.
    assert!(!is_alive(stopped));
    load.go_on(20).await;
    let (acknowledged, _, _) = load.end().await;
    assert_counted(&server, acknowledged).await;
}

#[tokio::test]
async fn both_sides_go_with_a_killed_parent_and_the_next_server_begins_at_once() {
    let server = Server::start(&[("paid.sql", PAID)]);
    let load = Load::start(&server);
    load.go_on(50).await;
    let sides = ["write-side", "read-side"].map(|side| server.pid_of(side).unwrap());
    let before = load.end().await.0;
    server.restart();
    for pid in sides {
        server.until(false, || async { is_alive(pid) }).await;
    }
    assert_counted(&server, before).await;
}

#[tokio::test]
async fn a_feed_ends_with_the_read_side_and_says_so() {
    let server = Server::start(&[("paid.sql", PAID)]);
    server.append(&paid("a", 3)).await;
    server.until(true, || is_live(&server)).await;
    let client = heliostat::internals::http::client();
    let response = client.get(server.url("/v1/views/sums/changes")).send().await.unwrap();
    let mut stream = response.bytes_stream();
    let mut text = String::new();
    let mut killed = false;
    while let Some(Ok(bytes)) = stream.next().await {
        text.push_str(&String::from_utf8_lossy(&bytes));
        if text.contains("event: tick") && !killed {
            signal(&server, "read-side", libc::SIGKILL);
            killed = true;
        }
    }
    assert!(text.contains("\"k\":\"a\""), "{text}");
    let end = text.split("event: end").nth(1).unwrap_or_else(|| panic!("no end: {text}"));
    assert!(end.contains("has ended"), "{end}");
}

#[tokio::test]
async fn the_server_ends_in_order_with_all_its_processes() {
    let server = Server::start(&[("paid.sql", PAID)]);
    server.append(&paid("a", 3)).await;
    let sides = ["write-side", "read-side"].map(|side| server.pid_of(side).unwrap());
    let score = std::fs::read_to_string(format!("/proc/{}/oom_score_adj", sides[1])).unwrap();
    assert_eq!(score.trim(), "1000", "the kernel would not choose the read side first");
    let begun = Instant::now();
    let status = server.terminate().wait().unwrap();
    assert_eq!(status.code(), Some(0));
    assert!(begun.elapsed() < Duration::from_secs(10));
    assert!(sides.iter().all(|pid| !is_alive(*pid)));
}

#[tokio::test]
async fn one_process_is_enough_where_it_is_asked_for() {
    let server = Server::configured(&[("paid.sql", PAID)], "single_process = true");
    server.append(&paid("a", 3)).await;
    assert_eq!(server.pid_of("read-side"), None);
    assert_eq!(server.pid_of("write-side"), None);
    let (status, answer) = server.post("/v1/events?wait=views", &paid("a", 4)).await;
    assert_eq!(status, 200, "{answer}");
}

#[tokio::test]
async fn view_that_kills_its_process_is_set_aside_while_appends_go_on() {
    let poison = &[("FAILPOINTS", "in view sums=return")];
    let server = Server::with_arguments(&[("paid.sql", PAID)], &["--no-clickhouse"], poison);
    let load = Load::start(&server);
    let set_aside =
        || async { server.get("/readyz").await["wrong"].to_string().contains("set aside") };
    server.until(true, set_aside).await;
    // The other view stays live.
    let quotients = || async { server.get("/v1/views/quotients").await["status"] == "live" };
    server.until(true, quotients).await;
    let (acknowledged, gap_ms, refused) = load.end().await;
    assert_eq!((refused, gap_ms < 2_000), (0, true), "{gap_ms} ms");
    let log = server.get_text("/v1/events?limit=1000000").await;
    assert_eq!(log.lines().filter(|line| !line.is_empty()).count() as u64, acknowledged);
}

/// The views over `paid`, and one that harms.
fn beside_harm(harm: &str) -> [(&'static str, String); 2] {
    let tables = "CREATE TABLE a (x BIGINT NOT NULL) WITH (event_type = 'A');
         CREATE TABLE b (x BIGINT NOT NULL) WITH (event_type = 'B');
         CREATE MATERIALIZED VIEW all_a AS SELECT count(*) AS n FROM a;";
    let harm = format!("{tables}\nCREATE MATERIALIZED VIEW harm AS {harm};");
    [("paid.sql", PAID.to_string()), ("harm.sql", harm)]
}

fn files<'a>(files: &'a [(&'static str, String); 2]) -> [(&'static str, &'a str); 2] {
    [(files[0].0, &files[0].1), (files[1].0, &files[1].1)]
}

/// The reason why a view has failed; waits until it has.
async fn failure(server: &Server, view: &str) -> String {
    let path = format!("/v1/views/{view}");
    let failed = || async { server.try_get(&path).await.1["status"] == "failed" };
    server.until(true, failed).await;
    let reason = server.get(&path).await["reason"].to_string();
    assert!(wrong(server).await.contains("set aside"), "{reason}");
    reason
}

/// Every event that was acknowledged is in `sums` once, though another view has failed.
async fn assert_summed(server: &Server, acknowledged: u64) {
    server.live(&["sums", "quotients", "all_a"]).await;
    let summed = || async {
        let rows = server.get("/v1/views/sums/rows").await;
        let rows = rows["rows"].as_array().cloned().unwrap_or_default();
        rows.iter().map(|row| row["n"].as_u64().unwrap()).sum::<u64>()
    };
    server.until(acknowledged, summed).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[cfg_attr(not(feature = "failpoints"), ignore = "needs the feature failpoints")]
async fn read_side_over_its_limit_is_killed_and_begins_without_the_view_that_held_most() {
    let sql = beside_harm("SELECT a.x, b.x AS y FROM a CROSS JOIN b");
    let server = Server::laid_out_with(
        &files(&sql),
        "workers = 2",
        &["--no-clickhouse", "--memory", "300M"],
        // Half way from the budget to this is too little for the two seconds that views have.
        &[("FAILPOINTS", "memory there is=return(350000000)")],
    );
    server.keep_log();
    server.run();
    server.until(true, || is_live(&server)).await;
    let first = server.pid_of("read-side").unwrap();
    let (load, seen) = (Load::start(&server), WrongSeen::begin(&server));
    load.go_on(10).await;
    for event_type in ["A", "B"] {
        let event = |x| json!({"type": event_type, "data": {"x": x}});
        server.append(&json!(Vec::from_iter((0..50_000).map(event)))).await;
    }
    let replaced = || async { server.pid_of("read-side").is_some_and(|pid| pid != first) };
    server.until(true, replaced).await;
    let reason = failure(&server, "harm").await;
    assert!(reason.contains("set aside: the process was killed when it took"), "{reason}");
    assert!(reason.contains("of all views this one had the largest state"), "{reason}");
    println!("{reason}");
    load.go_on(50).await;
    let (acknowledged, gap_ms, refused) = load.end().await;
    assert_eq!((refused, gap_ms < 2_000), (0, true), "{gap_ms} ms");
    assert_summed(&server, acknowledged).await;
    // The kill was told in both places, and the alarm is over.
    let killed = "it was killed: it took";
    let (seen, log) = (seen.end().await, server.log());
    assert!(seen.contains(killed) && seen.contains("--memory"), "{seen}");
    assert!(log.contains(killed) && log.contains("the alarm is over"), "{log}");
    let now = wrong(&server).await;
    assert!(!now.contains("read_side") && now.contains("harm"), "{now}");
    server.remove("harm.sql");
    server.until(true, || is_live(&server)).await;
    assert_eq!(server.get("/readyz").await["wrong"], json!([]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[cfg_attr(not(feature = "failpoints"), ignore = "needs the feature failpoints")]
async fn read_side_with_a_stuck_worker_begins_again_without_that_view_while_appends_go_on() {
    let sql = beside_harm("SELECT x FROM a");
    let server = Server::laid_out_with(
        &files(&sql),
        "workers = 2\n[limits]\nworker_stuck_ms_max = 2000",
        &["--no-clickhouse"],
        &[("FAILPOINTS", "in view harm=sleep(600000)")],
    );
    server.keep_log();
    server.run();
    let first = server.pid_of("read-side");
    let load = Load::start(&server);
    let reason = failure(&server, "harm").await;
    assert!(reason.contains("set aside: a worker did not get out of it"), "{reason}");
    assert_ne!(server.pid_of("read-side"), first);
    // The views that were held up by it go on, too.
    load.go_on(50).await;
    let (acknowledged, gap_ms, refused) = load.end().await;
    assert_eq!((refused, gap_ms < 2_000), (0, true), "{gap_ms} ms");
    assert_summed(&server, acknowledged).await;
    let log = server.log();
    for told in ["a worker does not get out of this view", "the read side has ended (code 3)"] {
        assert!(log.contains(told), "{told}: {log}");
    }
    assert!(!wrong(&server).await.contains("read_side"));
}

/// How an append of one event is answered: its status and the code of an error; `None` where nobody takes it.
async fn try_append(server: &Server) -> Option<(u16, Value)> {
    let client = heliostat::internals::http::client();
    let request = client.post(server.url("/v1/events")).json(&paid("a", 1));
    let answer = request.timeout(Duration::from_secs(10)).send().await.ok()?;
    let status = answer.status().as_u16();
    let answer: Value = answer.json().await.unwrap_or_default();
    Some((status, answer["errors"][0].clone()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[cfg_attr(not(feature = "failpoints"), ignore = "needs the feature failpoints")]
async fn events_are_refused_until_the_first_catalog_is_there_and_never_again() {
    let slow = "CREATE MATERIALIZED VIEW slow AS SELECT k FROM paid;";
    let server = Server::laid_out(&[("paid.sql", PAID), ("slow.sql", slow)], "");
    // Planning takes seconds: so much after each of the optimizer's rules.
    server.set_environment("FAILPOINTS", "optimizing view slow=sleep(100)");
    server.begin();
    let (end, mut refused) = (Instant::now() + Duration::from_secs(60), 0);
    loop {
        assert!(Instant::now() < end, "nothing is accepted");
        match try_append(&server).await {
            None => {}
            Some((200, _)) => break,
            Some((status, error)) => {
                assert_eq!((status, &error["code"]), (503, &json!("no_catalog")), "{error}");
                let message = error["message"].as_str().unwrap();
                assert!(message.contains("planned for the first time"), "{message}");
                let (status, ready) = server.try_get("/readyz").await;
                let still = ready.to_string().contains("planned for the first time");
                // The catalog may have come in between.
                assert!(status == 200 || status == 503 && still, "{ready}");
                refused += 1;
            }
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(refused > 0, "events were accepted before anybody knew what fits");
    println!("{refused} appends were refused");
    server.until(true, || is_live(&server)).await;

    // From now on the catalog is kept, however long the next read side plans, and whatever ends.
    for (side, ends) in [("read-side", 3), ("write-side", 2), ("read-side", 1)] {
        for _ in 0..ends {
            let killed = signal(&server, side, libc::SIGKILL);
            let end = Instant::now() + Duration::from_secs(60);
            loop {
                match try_append(&server).await {
                    Some((status, error)) => assert_eq!(status, 200, "{side}: {error}"),
                    None => assert_eq!(side, "write-side", "nobody takes events"),
                }
                if server.pid_of(side).is_some_and(|pid| pid != killed) && is_live(&server).await {
                    break;
                }
                assert!(Instant::now() < end, "{side}: the views are not back");
            }
        }
    }
    // Over a restart of the whole server, too, and while changed files are planned.
    server.end();
    server.begin();
    server.write("slow.sql", "CREATE MATERIALIZED VIEW slow AS SELECT k, amount FROM paid;");
    let end = Instant::now() + Duration::from_secs(60);
    while !is_live(&server).await {
        if let Some((status, error)) = try_append(&server).await {
            assert_eq!(status, 200, "{error}");
        }
        assert!(Instant::now() < end, "the views are not back");
    }
}
