//! Chaos: a server under load whose processes are killed and stopped, whose disk fills up, whose query
//! files break, whose events are poison. Every acknowledged event is kept once, appends are back within
//! two seconds of each fault's end and never away for one of the read side. Each fault is told in the
//! server's log, by `/readyz` and by `GET /v1/views` while it lasts, and no more when it is over. In the
//! end every view is right, over HTTP and in ClickHouse.
//!
//! Five minutes of it are in `make test`, an hour is `make chaos`. The faults come in an order of the
//! seed `HELIOSTAT_CHAOS_SEED`.

mod common;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use common::Server;
use common::rng::Rng;
use serde_json::{Value, json};

const QUERIES: &str = "
CREATE TABLE paid (k BIGINT NOT NULL, n BIGINT NOT NULL, divisor BIGINT NOT NULL) WITH (event_type = 'Paid');
CREATE TABLE prices (k BIGINT NOT NULL, price BIGINT NOT NULL, PRIMARY KEY (k)) WITH (event_type = 'Price', mode = 'upsert');
CREATE MATERIALIZED VIEW sums AS SELECT k, count(*) AS events, CAST(sum(n) AS BIGINT) AS total FROM paid GROUP BY k;
CREATE MATERIALIZED VIEW priced WITH (key = 'k') AS
  SELECT p.k AS k, CAST(sum(p.n * q.price) AS BIGINT) AS worth FROM paid p JOIN prices q ON p.k = q.k GROUP BY p.k;
CREATE MATERIALIZED VIEW quotients AS SELECT k, CAST(sum(n / divisor) AS BIGINT) AS q FROM paid GROUP BY k;
CREATE MATERIALIZED VIEW recent AS SELECT count(*) AS n FROM paid WHERE _recorded_at > now() - INTERVAL '1 day';
";
/// The library by which the server's clock jumps.
#[cfg(target_arch = "x86_64")]
const FAKE_CLOCK: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1";
#[cfg(target_arch = "aarch64")]
const FAKE_CLOCK: &str = "/usr/lib/aarch64-linux-gnu/faketime/libfaketimeMT.so.1";
const LIMITS: &str = "[limits]\nview_output_bytes_max = 20_000_000\nsnapshot_events_min = 5_000\nsnapshot_interval_ms_min = 1_000";
const KEYS: u64 = 500;
/// Events a second, of all posters together.
const RATE: u64 = 5_000;
const POSTERS: u64 = 4;
const BATCH: u64 = 125;
/// The least that must be reached of the rate, over the time in which appends were possible.
const RATE_MIN: f64 = 0.9;
/// Most memory of the read side: far more than the views need, except during the fault that is about it.
const MEMORY: &str = "1G";
/// How long after a fault's end appends may be away.
const BACK_TIME: Duration = Duration::from_secs(2);
/// How long it may take until a change of state is told.
const TOLD_TIME: Duration = Duration::from_secs(60);

/// Event number `n` of a poster. One in a thousand cannot be divided by.
fn event(poster: u64, n: u64) -> Value {
    let k = (poster * 31 + n * 7) % KEYS;
    if n % 50 == 49 {
        return json!({"id": format!("{poster}-{n}"), "type": "Price", "data": {"k": k, "price": n % 13 + 1}});
    }
    let data = json!({"k": k, "n": n % 97, "divisor": if n % 1000 == 7 { 0 } else { 3 }});
    json!({"id": format!("{poster}-{n}"), "type": "Paid", "data": data})
}

/// The answers that the posters have got.
#[derive(Default)]
struct Told {
    stop: AtomicBool,
    /// The number of events acknowledged to each poster: always the first ones.
    acknowledged: [AtomicU64; POSTERS as usize],
    refused: AtomicU64,
    /// When the last acknowledgement came, in milliseconds since the start.
    last_ms: AtomicU64,
    /// The longest time between two since it was last asked for.
    gap_ms: AtomicU64,
}

impl Told {
    fn total(&self) -> u64 {
        self.acknowledged.iter().map(|n| n.load(Ordering::SeqCst)).sum()
    }

    fn note(&self, started: Instant) {
        let now = started.elapsed().as_millis() as u64;
        let last = self.last_ms.fetch_max(now, Ordering::SeqCst);
        self.gap_ms.fetch_max(now.saturating_sub(last), Ordering::SeqCst);
    }

    async fn post(self: Arc<Self>, url: String, poster: u64, started: Instant) {
        let client = heliostat::internals::http::client();
        let pause = Duration::from_secs_f64((POSTERS * BATCH) as f64 / RATE as f64);
        let mut next = 0;
        let mut due = Instant::now();
        while !self.stop.load(Ordering::SeqCst) {
            let batch: Vec<Value> = (next..next + BATCH).map(|n| event(poster, n)).collect();
            let sent = client.post(&url).json(&batch).timeout(Duration::from_secs(10)).send();
            match sent.await {
                Ok(answer) if answer.status() == 200 => {
                    self.note(started);
                    next += BATCH;
                    self.acknowledged[poster as usize].store(next, Ordering::SeqCst);
                    due = (due + pause).max(Instant::now() - Duration::from_secs(1));
                    tokio::time::sleep(due.saturating_duration_since(Instant::now())).await;
                }
                // Posted again until it is acknowledged: nobody knows whether it was stored. Events that fell
                // due meanwhile are not made up for.
                _ => {
                    self.refused.fetch_add(1, Ordering::SeqCst);
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    due = Instant::now();
                }
            }
        }
    }
}

/// Where a fault is told while it lasts: words in the server's log, in the answers of `/readyz` and of
/// `GET /v1/views`. An empty one is not asked for.
#[derive(Clone, Copy, Default)]
struct Signs {
    log: &'static str,
    ready: &'static str,
    views: &'static str,
}

/// From this lag of ClickHouse on, in seconds, something is wrong with it.
const LAG_TOLD: f64 = 2.0;

/// The lag of ClickHouse behind a view, in seconds.
fn clickhouse_lag(view: &Value) -> f64 {
    view["lag_seconds"]["clickhouse"].as_f64().unwrap_or(0.0)
}

/// Nothing is wrong with a view, nor with what ClickHouse has of it.
fn is_well(view: &Value) -> bool {
    let sink = &view["sinks"]["clickhouse"];
    view["status"] == "live"
        && view["reason"].is_null()
        && sink["status"] == "writing"
        && sink["position"].as_u64() > Some(0)
        && clickhouse_lag(view) < LAG_TOLD
}

/// The signs of a read side that was killed.
const READ_SIDE_KILLED: Signs = Signs {
    log: "the read side has ended (signal 9)",
    ready: "the read side has ended (signal 9)",
    views: "read_side_away",
};
/// The answer of a server whose write side does not move.
const NOBODY_ANSWERS: &str = "nobody answers";
/// The text in the server's log at the end of each alarm.
const OVER: &str = "the alarm is over";

/// Sends a signal to a child of the server that this test has started.
fn send(pid: libc::pid_t, signal: i32) {
    // SAFETY: the call takes numbers only.
    unsafe { libc::kill(pid, signal) };
}

struct Chaos {
    server: Server,
    told: Arc<Told>,
    started: Instant,
    /// The file with the time that is added to the server's clock.
    clock: tempfile::NamedTempFile,
    /// How long appends were not possible, and how many were acknowledged in that time.
    impossible: Mutex<(Duration, u64)>,
}

impl Chaos {
    fn signal(&self, process: &str, signal: i32) {
        // A process that is just being started again will be there.
        let end = Instant::now() + TOLD_TIME;
        let pid = loop {
            if let Some(pid) = self.server.pid_of(process) {
                break pid;
            }
            assert!(Instant::now() < end, "there is no {process}");
            std::thread::sleep(Duration::from_millis(20));
        };
        send(pid, signal);
    }

    /// Appends are acknowledged again, in time.
    async fn is_back(&self, fault: &str) {
        let (begun, before) = (Instant::now(), self.told.total());
        while self.told.total() == before {
            let waited = begun.elapsed();
            assert!(waited < BACK_TIME, "{fault}: no append is acknowledged for {waited:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// A fault that ingest must not feel.
    async fn beside_ingest(&self, fault: &str, seconds: u64) {
        let refused = self.told.refused.load(Ordering::SeqCst);
        self.told.gap_ms.store(0, Ordering::SeqCst);
        tokio::time::sleep(Duration::from_secs(seconds)).await;
        self.is_back(fault).await;
        let gap = self.told.gap_ms.load(Ordering::SeqCst);
        assert!(gap < 2_000, "{fault}: no append was acknowledged for {gap} ms");
        assert_eq!(self.told.refused.load(Ordering::SeqCst), refused, "{fault}: appends refused");
    }

    /// A fault of the write side: until appends are back they are not possible.
    async fn instead_of_ingest(&self, fault: &str, lasts: impl Future<Output = ()>) {
        let (begun, before) = (Instant::now(), self.told.total());
        lasts.await;
        self.is_back(fault).await;
        let mut impossible = self.impossible.lock().unwrap();
        impossible.0 += begun.elapsed();
        impossible.1 += self.told.total() - before;
    }

    /// The answer to a request, as text.
    async fn ask(&self, path: &str) -> String {
        let request = heliostat::internals::http::client().get(self.server.url(path));
        let Ok(answer) = request.timeout(Duration::from_secs(4)).send().await else {
            return NOBODY_ANSWERS.to_string();
        };
        answer.text().await.unwrap_or_else(|_| NOBODY_ANSWERS.to_string())
    }

    /// The fault that began when the log was so long is told everywhere.
    async fn is_told(&self, fault: &str, log_from: usize, signs: Signs) {
        let end = Instant::now() + TOLD_TIME;
        let mut missing = vec![("/readyz", signs.ready), ("/v1/views", signs.views)];
        missing.retain(|(_, word)| !word.is_empty());
        // Some last for a moment only.
        while !missing.is_empty() {
            let mut answers = Vec::new();
            for (path, word) in std::mem::take(&mut missing) {
                let answer = self.ask(path).await;
                if !answer.contains(word) {
                    answers.push(answer);
                    missing.push((path, word));
                }
            }
            assert!(Instant::now() < end, "{fault}: not told: {missing:?} in {answers:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        self.is_logged(fault, log_from, signs.log).await;
    }

    /// The log tells it, since it was so long.
    async fn is_logged(&self, fault: &str, log_from: usize, words: &str) {
        let end = Instant::now() + TOLD_TIME;
        loop {
            let log = self.server.log();
            let since = &log[log_from..];
            if since.contains(words) {
                return;
            }
            assert!(Instant::now() < end, "{fault}: {words:?} is not in the log:\n{since}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Everything is well again, and nothing is told any more.
    async fn recovers(&self, fault: &str) {
        let end = Instant::now() + Duration::from_secs(120);
        loop {
            let (status, ready) = self.server.try_get("/readyz?views=all").await;
            let (_, views) = self.server.try_get("/v1/views").await;
            let all = views["views"].as_array();
            if status == 200
                && ready["wrong"] == json!([])
                && all.is_some_and(|v| v.iter().all(is_well))
            {
                return;
            }
            assert!(Instant::now() < end, "{fault}: not over: {ready}\n{views}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn fault(&self, number: u64) {
        let (begun, before) = (Instant::now(), self.told.total());
        let name = FAULTS[number as usize];
        let log_from = self.server.log().len();
        // Whether it is an alarm, whose end is told, too.
        let mut is_alarm = true;
        let told = |signs| self.is_told(name, log_from, signs);
        match name {
            "the read side is killed" => {
                self.signal("read-side", libc::SIGKILL);
                told(READ_SIDE_KILLED).await;
                self.beside_ingest(name, 2).await;
            }
            "the read side is killed again and again" => {
                for _ in 0..4 {
                    self.signal("read-side", libc::SIGKILL);
                    tokio::time::sleep(Duration::from_millis(30)).await;
                }
                told(READ_SIDE_KILLED).await;
                self.beside_ingest(name, 2).await;
            }
            "the read side stands still for a while" => {
                self.signal("read-side", libc::SIGSTOP);
                let silent = "nothing is heard of the read side";
                let signs = Signs { log: silent, ready: silent, views: "does not answer" };
                let ((), ()) = tokio::join!(told(signs), self.beside_ingest(name, 5));
                self.signal("read-side", libc::SIGCONT);
            }
            "the read side stands still for good" => {
                self.signal("read-side", libc::SIGSTOP);
                let silent = "it was killed: nothing was heard of it";
                let signs = Signs { log: silent, ready: silent, views: "read_side_away" };
                let ((), ()) = tokio::join!(told(signs), self.beside_ingest(name, 12));
            }
            "the write side is killed" => {
                // The write side itself answers requests, so there are no answers until the next one runs.
                let lasts = async {
                    self.signal("write-side", libc::SIGKILL);
                    self.is_logged(name, log_from, "the write side has ended (signal 9)").await;
                };
                self.instead_of_ingest(name, lasts).await;
            }
            "the write side stands still" => {
                let lasts = async {
                    self.signal("write-side", libc::SIGSTOP);
                    let signs = Signs {
                        log: "nothing is heard of the write side",
                        ready: NOBODY_ANSWERS,
                        views: "",
                    };
                    told(signs).await;
                    self.signal("write-side", libc::SIGCONT);
                };
                self.instead_of_ingest(name, lasts).await;
            }
            "ClickHouse is killed" => {
                // Again and again until a write has failed: it is back within a second, and views may have
                // nothing to write meanwhile.
                let kills = async {
                    loop {
                        if let Some(pid) = self.server.pid_of("clickhouse-child") {
                            send(pid, libc::SIGKILL);
                        }
                        tokio::time::sleep(Duration::from_millis(200)).await;
                    }
                };
                let died = "the own ClickHouse died";
                tokio::select! {
                    () = told(Signs { log: died, ready: died, views: "retrying" }) => {}
                    () = kills => {}
                }
                self.beside_ingest(name, 1).await;
            }
            "ClickHouse stands still" => {
                self.signal("clickhouse-child", libc::SIGSTOP);
                let silent = "the own ClickHouse runs and does not answer";
                // The views only show how far ClickHouse lags.
                let signs = Signs { log: silent, ready: silent, views: "" };
                let ((), ()) = tokio::join!(told(signs), self.beside_ingest(name, 5));
                let lags = || async {
                    let (_, views) = self.server.try_get("/v1/views").await;
                    let views = views["views"].as_array().cloned().unwrap_or_default();
                    !views.is_empty() && views.iter().all(|view| clickhouse_lag(view) > LAG_TOLD)
                };
                self.server.until(true, lags).await;
                self.signal("clickhouse-child", libc::SIGCONT);
            }
            "the disk is full" => {
                let lasts = async {
                    self.limit_files(Some(0));
                    told(Signs { log: "disk", ready: "the disk of the log is full", views: "" })
                        .await;
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    assert_eq!(self.server.try_get("/v1/views/sums/rows?limit=1").await.0, 200);
                    self.limit_files(None);
                };
                self.instead_of_ingest(name, lasts).await;
            }
            "a query file is bad" => {
                is_alarm = false;
                self.server.write(
                    "bad.sql",
                    "CREATE MATERIALIZED VIEW bad AS SELECT nothing FROM nowhere;",
                );
                let wrong = "nowhere";
                told(Signs { log: wrong, ready: wrong, views: wrong }).await;
                self.beside_ingest(name, 1).await;
                self.server.remove("bad.sql");
            }
            "a view comes and goes" => {
                is_alarm = false;
                self.server.write("more.sql", "CREATE MATERIALIZED VIEW more AS SELECT n % 10 AS d, count(*) AS c FROM paid GROUP BY n % 10;");
                let changed = "the query files have changed";
                told(Signs { log: changed, ready: "", views: "\"name\":\"more\"" }).await;
                self.beside_ingest(name, 3).await;
                self.server.live(&["more"]).await;
                let log_from = self.server.log().len();
                self.server.remove("more.sql");
                let is_there = || async { self.ask("/v1/views").await.contains("more") };
                self.server.until(false, is_there).await;
                self.is_logged(name, log_from, changed).await;
            }
            "a view is rebuilt" => {
                is_alarm = false;
                let (status, answer) =
                    self.server.post("/v1/views/priced/rebuild", &Value::Null).await;
                assert_eq!(status, 202, "{answer}");
                self.beside_ingest(name, 1).await;
                // The new generation takes the place of the one before.
                let shown = || async {
                    self.server.try_get("/v1/views/priced").await.1["generation"].clone()
                };
                self.server.until(answer["generation"].clone(), shown).await;
            }
            "a view takes too much" => {
                is_alarm = false;
                let sql = "CREATE MATERIALIZED VIEW much WITH (clickhouse = false) AS SELECT a._position AS x, b._position AS y FROM paid a JOIN paid b ON a.k % 5 = b.k % 5;";
                self.server.write("much.sql", sql);
                let limit = "view_output_bytes_max";
                told(Signs { log: limit, ready: limit, views: limit }).await;
                self.beside_ingest(name, 1).await;
                self.server.remove("much.sql");
            }
            "a view needs more memory than there is for all" => {
                is_alarm = false;
                // Recursions hold their rows in memory, and this one 20 kB for each event.
                let sql = "CREATE MATERIALIZED VIEW large WITH (clickhouse = false) AS
                    WITH RECURSIVE r AS (
                      SELECT _position AS p, lpad(_position::TEXT, 20000, 'x') AS t FROM paid
                      UNION SELECT p, t FROM r WHERE p < 0
                    ) SELECT max(t) AS t FROM r;";
                self.server.write("large.sql", sql);
                let reason = "set aside: the process takes";
                told(Signs { log: reason, ready: reason, views: reason }).await;
                self.is_logged(name, log_from, "over the budget of memory").await;
                self.beside_ingest(name, 1).await;
                self.server.remove("large.sql");
                self.is_logged(name, log_from, "within the budget of memory again").await;
            }
            "a view kills its process" => {
                let sql = "CREATE MATERIALIZED VIEW deadly AS SELECT k, max(n) AS n FROM paid GROUP BY k;";
                self.server.write("deadly.sql", sql);
                let reason = "set aside: the process died in it 3 times in a row";
                told(Signs { log: reason, ready: reason, views: reason }).await;
                self.is_logged(name, log_from, "the read side has ended (signal 6)").await;
                self.beside_ingest(name, 1).await;
                self.server.remove("deadly.sql");
            }
            "the clock jumps ahead and comes back" => {
                std::fs::write(self.clock.path(), "+9").unwrap();
                self.beside_ingest(name, 3).await;
                std::fs::write(self.clock.path(), "+0").unwrap();
                let behind = "the system's clock is";
                told(Signs { log: behind, ready: behind, views: "" }).await;
                self.is_back(name).await;
            }
            other => panic!("nobody knows how: {other}"),
        }
        self.recovers(name).await;
        if is_alarm {
            self.is_logged(name, log_from, OVER).await;
        }
        let (took, events) = (begun.elapsed().as_secs_f64(), self.told.total() - before);
        let rate = events as f64 / took;
        let at = self.started.elapsed().as_secs_f64();
        eprintln!("{at:>6.1} s: {name}: {took:.1} s, {rate:.0} events/s");
    }

    /// Limits how long files of the write side may become, as a full disk does.
    fn limit_files(&self, bytes_max: Option<u64>) {
        let pid = self.server.pid_of("write-side").expect("there is a write side");
        let limit = libc::rlimit {
            rlim_cur: bytes_max.unwrap_or(libc::RLIM_INFINITY),
            rlim_max: libc::RLIM_INFINITY,
        };
        // SAFETY: the limit lives for the call.
        let set = unsafe { libc::prlimit(pid, libc::RLIMIT_FSIZE, &limit, std::ptr::null_mut()) };
        assert_eq!(set, 0, "{}", std::io::Error::last_os_error());
    }
}

const FAULTS: [&str; 16] = [
    "the read side is killed",
    "the read side is killed again and again",
    "the read side stands still for a while",
    "the read side stands still for good",
    "the write side is killed",
    "the write side stands still",
    "ClickHouse is killed",
    "ClickHouse stands still",
    "the disk is full",
    "a query file is bad",
    "a view comes and goes",
    "a view is rebuilt",
    "a view takes too much",
    "a view needs more memory than there is for all",
    "a view kills its process",
    "the clock jumps ahead and comes back",
];

/// The views over these events, in the order of the log.
#[derive(Default)]
struct Expected {
    events: BTreeMap<u64, (u64, u64)>,
    quotients: BTreeMap<u64, u64>,
    prices: BTreeMap<u64, u64>,
    failed: u64,
    paid: u64,
}

impl Expected {
    fn take(&mut self, event: &Value) {
        let data = &event["data"];
        let number = |name: &str| data[name].as_u64().unwrap();
        let k = number("k");
        if event["type"] == "Price" {
            self.prices.insert(k, number("price"));
            return;
        }
        self.paid += 1;
        let sums = self.events.entry(k).or_default();
        (sums.0, sums.1) = (sums.0 + 1, sums.1 + number("n"));
        match number("divisor") {
            0 => self.failed += 1,
            divisor => *self.quotients.entry(k).or_default() += number("n") / divisor,
        }
    }

    fn rows(&self, view: &str) -> Vec<Value> {
        match view {
            "sums" => {
                let row = |(k, (events, total)): (&u64, &(u64, u64))| json!({"k": k, "events": events, "total": total});
                self.events.iter().map(row).collect()
            }
            "priced" => {
                let worth = |(k, price): (&u64, &u64)| {
                    self.events.get(k).map(|(_, total)| json!({"k": k, "worth": total * price}))
                };
                self.prices.iter().filter_map(worth).collect()
            }
            "quotients" => self.quotients.iter().map(|(k, q)| json!({"k": k, "q": q})).collect(),
            "recent" => vec![json!({"n": self.paid})],
            other => panic!("no view {other}"),
        }
    }
}

async fn chaos(seconds: u64) {
    let seed = std::env::var("HELIOSTAT_CHAOS_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| {
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs()
    });
    eprintln!("HELIOSTAT_CHAOS_SEED={seed}");
    let mut rng = Rng::new(seed);
    let clock = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(clock.path(), "+0").unwrap();
    let environment = [
        ("LD_PRELOAD", FAKE_CLOCK),
        ("FAKETIME_TIMESTAMP_FILE", clock.path().to_str().unwrap()),
        ("FAKETIME_CACHE_DURATION", "1"),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
        ("FAILPOINTS", "in view deadly=return"),
    ];
    assert!(std::path::Path::new(FAKE_CLOCK).exists(), "run `make system` first");
    let queries = [("views.sql", QUERIES)];
    let arguments = ["--clickhouse-http-port", "0", "--memory", MEMORY];
    let server = Server::laid_out_with(&queries, LIMITS, &arguments, &environment);
    server.keep_log();
    server.run();
    let (told, started) = (Arc::new(Told::default()), Instant::now());
    let url = server.url("/v1/events");
    let posters: Vec<_> = (0..POSTERS)
        .map(|poster| tokio::spawn(Arc::clone(&told).post(url.clone(), poster, started)))
        .collect();
    let impossible = Mutex::default();
    let chaos = Chaos { server, told, started, clock, impossible };
    chaos.is_back("the start").await;
    chaos.recovers("the start").await;
    let mut order: Vec<u64> = Vec::new();
    let mut faults = 0;
    // Each fault comes once in any case.
    while started.elapsed() < Duration::from_secs(seconds) || faults < FAULTS.len() {
        faults += 1;
        if order.is_empty() {
            order = (0..FAULTS.len() as u64).collect();
        }
        let next = order.swap_remove(rng.below(order.len() as u64) as usize);
        chaos.fault(next).await;
        tokio::time::sleep(Duration::from_millis(rng.below(1500))).await;
    }
    let Chaos { server, told, impossible, .. } = chaos;
    let (took, acknowledged) = (started.elapsed(), told.total());
    told.stop.store(true, Ordering::SeqCst);
    for poster in posters {
        poster.await.unwrap();
    }
    let (impossible, meanwhile) = impossible.into_inner().unwrap();
    let possible = (took - impossible).as_secs_f64();
    let rate = (acknowledged - meanwhile) as f64 / possible;
    eprintln!(
        "{acknowledged} events acknowledged in {:.0} s; {rate:.0} a second over the {possible:.0} s in \
         which appends were possible",
        took.as_secs_f64()
    );
    assert!(rate >= RATE_MIN * RATE as f64, "only {rate:.0} events a second");

    // The log has each acknowledged event once, with the content that was sent.
    let mut expected = Expected::default();
    let mut of_poster = [0; POSTERS as usize];
    let mut after = 0;
    loop {
        let page = server.get_text(&format!("/v1/events?after={after}&limit=50000")).await;
        let mut read = 0;
        for line in page.lines().filter(|line| !line.is_empty()) {
            let stored: Value = serde_json::from_str(line).unwrap();
            let (poster, n) = stored["id"].as_str().unwrap().split_once('-').unwrap();
            let (poster, n): (u64, u64) = (poster.parse().unwrap(), n.parse().unwrap());
            assert_eq!(of_poster[poster as usize], n, "in the order of the requests, each once");
            of_poster[poster as usize] += 1;
            assert_eq!(stored["data"], event(poster, n)["data"]);
            expected.take(&stored);
            after = stored["position"].as_u64().unwrap();
            read += 1;
        }
        if read == 0 {
            break;
        }
    }
    // The last request of each poster may have been stored and not acknowledged.
    for (poster, stored) in of_poster.iter().enumerate() {
        let told = told.acknowledged[poster].load(Ordering::SeqCst);
        assert!(*stored == told || *stored == told + BATCH, "{stored} stored, {told} acknowledged");
    }

    // Every view is right, over HTTP and in ClickHouse.
    for view in ["sums", "priced", "quotients", "recent"] {
        let path = format!("/v1/views/{view}/rows?min_position={after}&timeout=60s&limit=10000");
        let answer = server.get(&path).await;
        let mut rows = answer["rows"].as_array().unwrap_or_else(|| panic!("{answer}")).clone();
        rows.sort_by_key(|row| row["k"].as_u64());
        let wanted = expected.rows(view);
        let wrong = rows.iter().zip(&wanted).find(|(row, wanted)| row != wanted);
        assert!(wrong.is_none() && rows.len() == wanted.len(), "{view}: {wrong:?}");
        let sql = format!(
            "SELECT * FROM {view} ORDER BY 1 FORMAT JSONEachRow SETTINGS output_format_json_quote_64bit_integers = 0"
        );
        let is_shown = || async {
            let text = server.clickhouse(&sql).await;
            let rows =
                text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap_or_default());
            rows.eq(wanted.iter().cloned())
        };
        server.until(true, is_shown).await;
    }
    let status = server.get("/v1/views/quotients").await;
    assert_eq!(status["errors"], json!(expected.failed), "{status}");
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "failpoints"), ignore = "needs the feature failpoints")]
async fn chaos_for_five_minutes() {
    chaos(300).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "an hour: `make chaos`"]
async fn chaos_for_long() {
    let seconds = std::env::var("HELIOSTAT_CHAOS_SECONDS").ok().and_then(|s| s.parse().ok());
    chaos(seconds.unwrap_or(3600)).await;
}
