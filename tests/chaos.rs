//! Chaos: a server under load whose processes are killed and stopped, whose disk fills up, whose query
//! files break, whose events are poison. Every acknowledged event is kept once, appends are back within
//! two seconds of each fault's end and never away for one of the read side, what has changed is told,
//! and in the end every view is right, over HTTP and in ClickHouse.
//!
//! Five minutes of it are in `make test`, an hour is `make chaos`. The faults come in an order of the
//! seed `HELIOSTAT_CHAOS_SEED`.

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
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

/// What the posters have been told.
#[derive(Default)]
struct Told {
    stop: AtomicBool,
    /// Of each poster, how many events were acknowledged: all of the first ones.
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
                // Repeated until it is acknowledged: whether it was stored is not known.
                _ => {
                    self.refused.fetch_add(1, Ordering::SeqCst);
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
        }
    }
}

struct Chaos {
    server: Server,
    told: Arc<Told>,
    started: Instant,
    /// What is added to the server's clock.
    clock: tempfile::NamedTempFile,
}

impl Chaos {
    fn signal(&self, process: &str, signal: i32) {
        // One that is just being started again will be there.
        let end = Instant::now() + TOLD_TIME;
        let pid = loop {
            if let Some(pid) = self.server.pid_of(process) {
                break pid;
            }
            assert!(Instant::now() < end, "there is no {process}");
            std::thread::sleep(Duration::from_millis(20));
        };
        // SAFETY: a signal to a child of the server that this test has started.
        unsafe { libc::kill(pid, signal) };
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

    /// `/readyz` tells of it.
    async fn is_told(&self, fault: &str, word: &str) {
        let end = Instant::now() + TOLD_TIME;
        loop {
            let (_, ready) = self.server.try_get("/readyz").await;
            if ready.to_string().contains(word) {
                return;
            }
            assert!(Instant::now() < end, "{fault}: {word} is not told: {ready}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Everything is well again.
    async fn recovers(&self, fault: &str) {
        let end = Instant::now() + Duration::from_secs(120);
        loop {
            let (status, ready) = self.server.try_get("/readyz?views=all").await;
            if status == 200 {
                return;
            }
            assert!(Instant::now() < end, "{fault}: not over: {ready}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn fault(&self, number: u64) {
        let at = self.started.elapsed();
        let name = FAULTS[number as usize];
        eprintln!("{:>6.1} s, {:>8} events: {name}", at.as_secs_f64(), self.told.total());
        match name {
            "the read side is killed" => {
                self.signal("read-side", libc::SIGKILL);
                self.beside_ingest(name, 2).await;
            }
            "the read side is killed again and again" => {
                for _ in 0..4 {
                    self.signal("read-side", libc::SIGKILL);
                    tokio::time::sleep(Duration::from_millis(30)).await;
                }
                self.is_told(name, "read_side").await;
                self.beside_ingest(name, 2).await;
            }
            "the read side stands still for a while" => {
                self.signal("read-side", libc::SIGSTOP);
                self.beside_ingest(name, 3).await;
                self.signal("read-side", libc::SIGCONT);
            }
            "the read side stands still for good" => {
                self.signal("read-side", libc::SIGSTOP);
                self.beside_ingest(name, 12).await;
            }
            "the write side is killed" => {
                self.signal("write-side", libc::SIGKILL);
                self.is_back(name).await;
            }
            "the write side stands still" => {
                self.signal("write-side", libc::SIGSTOP);
                tokio::time::sleep(Duration::from_secs(3)).await;
                self.signal("write-side", libc::SIGCONT);
                self.is_back(name).await;
            }
            "ClickHouse is killed" => {
                self.signal("clickhouse-child", libc::SIGKILL);
                self.is_told(name, "clickhouse").await;
                self.beside_ingest(name, 1).await;
            }
            "ClickHouse stands still" => {
                self.signal("clickhouse-child", libc::SIGSTOP);
                self.beside_ingest(name, 5).await;
                self.signal("clickhouse-child", libc::SIGCONT);
            }
            "the disk is full" => {
                self.limit_files(Some(0));
                self.is_told(name, "disk").await;
                tokio::time::sleep(Duration::from_secs(1)).await;
                assert_eq!(self.server.try_get("/v1/views/sums/rows?limit=1").await.0, 200);
                self.limit_files(None);
                self.is_back(name).await;
            }
            "a query file is bad" => {
                self.server.write(
                    "bad.sql",
                    "CREATE MATERIALIZED VIEW bad AS SELECT nothing FROM nowhere;",
                );
                self.is_told(name, "nowhere").await;
                self.beside_ingest(name, 1).await;
                self.server.remove("bad.sql");
            }
            "a view comes and goes" => {
                self.server.write("more.sql", "CREATE MATERIALIZED VIEW more AS SELECT n % 10 AS d, count(*) AS c FROM paid GROUP BY n % 10;");
                self.beside_ingest(name, 3).await;
                self.server.remove("more.sql");
            }
            "a view is rebuilt" => {
                let (status, answer) =
                    self.server.post("/v1/views/priced/rebuild", &Value::Null).await;
                assert!(status == 202 || status == 503, "{answer}");
                self.beside_ingest(name, 1).await;
            }
            "a view takes too much" => {
                let sql = "CREATE MATERIALIZED VIEW much WITH (clickhouse = false) AS SELECT a._position AS x, b._position AS y FROM paid a JOIN paid b ON a.k % 5 = b.k % 5;";
                self.server.write("much.sql", sql);
                self.is_told(name, "view_output_bytes_max").await;
                self.beside_ingest(name, 1).await;
                self.server.remove("much.sql");
            }
            "the clock jumps ahead and comes back" => {
                std::fs::write(self.clock.path(), "+9").unwrap();
                self.beside_ingest(name, 3).await;
                std::fs::write(self.clock.path(), "+0").unwrap();
                self.is_told(name, "clock").await;
                self.is_back(name).await;
            }
            other => panic!("nobody knows how: {other}"),
        }
        self.recovers(name).await;
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

const FAULTS: [&str; 14] = [
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
    "the clock jumps ahead and comes back",
];

/// What the views are of these events, in the order of the log.
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
    ];
    assert!(std::path::Path::new(FAKE_CLOCK).exists(), "run `make system` first");
    let (queries, own) = ([("views.sql", QUERIES)], ["--clickhouse-http-port", "0"]);
    let server = Server::with(&queries, LIMITS, &own, &environment);
    let (told, started) = (Arc::new(Told::default()), Instant::now());
    let url = server.url("/v1/events");
    let posters: Vec<_> = (0..POSTERS)
        .map(|poster| tokio::spawn(Arc::clone(&told).post(url.clone(), poster, started)))
        .collect();
    let chaos = Chaos { server, told, started, clock };
    chaos.is_back("the start").await;
    let mut order: Vec<u64> = Vec::new();
    while started.elapsed() < Duration::from_secs(seconds) {
        if order.is_empty() {
            order = (0..FAULTS.len() as u64).collect();
        }
        let next = order.swap_remove(rng.below(order.len() as u64) as usize);
        chaos.fault(next).await;
        tokio::time::sleep(Duration::from_millis(rng.below(1500))).await;
    }
    let Chaos { server, told, .. } = chaos;
    told.stop.store(true, Ordering::SeqCst);
    for poster in posters {
        poster.await.unwrap();
    }
    let acknowledged = told.total();
    eprintln!("{acknowledged} events acknowledged in {:.0} s", started.elapsed().as_secs_f64());

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
async fn chaos_for_five_minutes() {
    chaos(300).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "an hour: `make chaos`"]
async fn chaos_for_long() {
    let seconds = std::env::var("HELIOSTAT_CHAOS_SECONDS").ok().and_then(|s| s.parse().ok());
    chaos(seconds.unwrap_or(3600)).await;
}
