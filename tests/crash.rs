//! The server, or one side of it, is killed again and again under load. Afterwards the log holds every acknowledged
//! event exactly once, and every view in ClickHouse is what a batch engine answers over the log.
//!
//! `HELIOSTAT_CRASH_ROUNDS` sets the number of rounds; the default suits every run of the tests.

mod common;
#[path = "common/postgres.rs"]
mod postgres;

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use common::rng::Rng;
use heliostat::internals::sink::{Login, Logins, read_login};
use postgres::Postgres;

const ROUNDS_DEFAULT: u64 = 8;

const QUERIES: &str = "
CREATE TABLE items (k BIGINT, v BIGINT NOT NULL, gone BOOLEAN, PRIMARY KEY (k))
  WITH (event_type = 'Item', mode = 'upsert', delete_when = 'gone');
CREATE TABLE changes (k BIGINT NOT NULL, v BIGINT NOT NULL, gone BOOLEAN) WITH (event_type = 'Item');
CREATE MATERIALIZED VIEW totals AS SELECT k, count(*) AS n, sum(v) AS total FROM changes GROUP BY k;
CREATE MATERIALIZED VIEW current WITH (order_by = 'v') AS SELECT k, v FROM items;
CREATE MATERIALIZED VIEW plain AS SELECT v FROM changes WHERE v % 3 = 0;
CREATE MATERIALIZED VIEW by_value AS SELECT v, count(*) AS n FROM items GROUP BY v;
CREATE MATERIALIZED VIEW parts AS SELECT k % 7 AS part, v, count(*) OVER (PARTITION BY k % 7) AS n FROM items;
";

/// Snapshots are taken all the time.
const LIMITS: &str = "[limits]\nsnapshot_events_min = 50\nsnapshot_interval_ms_min = 50\n";

/// The oracle's query for each view.
const ORACLE: &[(&str, &str)] = &[
    ("totals", "SELECT k, count(*) AS n, sum(v) AS total FROM changes GROUP BY k"),
    ("current", "SELECT k, v FROM latest"),
    ("plain", "SELECT v FROM changes WHERE v % 3 = 0"),
    ("by_value", "SELECT v, count(*) AS n FROM latest GROUP BY v"),
    ("parts", "SELECT k % 7 AS part, v, count(*) OVER (PARTITION BY k % 7) AS n FROM latest"),
];
const LATEST: &str = "CREATE VIEW latest AS SELECT k, v FROM (SELECT *, row_number() OVER \
  (PARTITION BY k ORDER BY position DESC) AS rn FROM changes) AS numbered WHERE rn = 1 AND NOT gone";

struct Server {
    child: Child,
    http: String,
    clickhouse: String,
    login: Login,
}

impl Server {
    fn start(directory: &Path, crash_point: Option<&str>, single_process: bool) -> Server {
        let mut command = Command::new(env!("CARGO_BIN_EXE_heliostat"));
        command
            .args(["serve", "--listen", "127.0.0.1:0", "--clickhouse-http-port", "0"])
            .args(["--data-dir", &directory.join("data").to_string_lossy()])
            .args(["--queries", &directory.join("queries").to_string_lossy()])
            .args(["--config", &directory.join("heliostat.toml").to_string_lossy()])
            .env("HELIOSTAT_LOG", "error")
            .env("HELIOSTAT_SINGLE_PROCESS", single_process.to_string())
            .stdin(Stdio::null())
            .stderr(Stdio::null());
        if let Some(point) = crash_point {
            command.env("FAILPOINTS", point);
        }
        let mut child = command.spawn().unwrap();
        let told = common::addresses(&mut child, &directory.join("data"));
        let login = read_login(&Logins::own_file(&directory.join("data"))).unwrap();
        Server { child, http: told.http, clickhouse: told.clickhouse.unwrap(), login }
    }

    /// The process ids of the server's children: our own ClickHouse, and the sides.
    fn children(&self) -> Vec<i32> {
        let path = format!("/proc/{0}/task/{0}/children", self.child.id());
        let mut all = std::fs::read_to_string(path).unwrap_or_default();
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.child.id()));
        for task in tasks.into_iter().flatten().flatten() {
            all.push(' ');
            all += &std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
        }
        all.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
    }

    fn kill_clickhouse(&self) {
        let is_clickhouse = |pid: &i32| {
            let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&command).contains("clickhouse")
        };
        for pid in self.children().into_iter().filter(is_clickhouse) {
            // SAFETY: a process that our child has started.
            unsafe { libc::kill(pid, libc::SIGKILL) };
        }
    }

    /// Kills the process that writes the log, which its parent starts again.
    fn kill_write_side(&self) {
        if let Some(pid) = common::child_of(self.child.id(), "write-side") {
            // SAFETY: a process that our child has started.
            unsafe { libc::kill(pid, libc::SIGKILL) };
        }
    }

    fn kill(&mut self, with_clickhouse: bool) {
        if with_clickhouse {
            for pid in self.children() {
                // SAFETY: a process that our child has started.
                unsafe { libc::kill(pid, libc::SIGKILL) };
            }
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill(true);
    }
}

async fn ready(client: &reqwest::Client, server: &Server, path: &str, patience: Duration) -> bool {
    let end = Instant::now() + patience;
    while Instant::now() < end {
        if let Ok(answer) = client.get(format!("{}{path}", server.http)).send().await
            && answer.status().is_success()
        {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    false
}

/// Posts until told to stop; remembers what was acknowledged, by event id.
async fn load(
    client: reqwest::Client,
    url: String,
    stop: Arc<AtomicBool>,
    next_id: Arc<AtomicU64>,
    mut rng: Rng,
) -> Vec<(u64, u64)> {
    let mut acknowledged = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let count = 1 + rng.below(30);
        let first = next_id.fetch_add(count, Ordering::Relaxed);
        let events: Vec<serde_json::Value> = (first..first + count)
            .map(|id| {
                // Few keys, so that they come and go often; many values, so that a row of `current` that
                // should be gone is not mended by another one that takes its place.
                let (k, v, gone) = (rng.below(40), rng.below(1000), rng.below(3) == 0);
                serde_json::json!({"type": "Item", "id": id.to_string(), "data": {"k": k, "v": v, "gone": gone}})
            })
            .collect();
        let Ok(answer) = client.post(&url).json(&events).send().await else { continue };
        if answer.status().is_success()
            && let Ok(answer) = answer.json::<serde_json::Value>().await
        {
            let position = answer["first_position"].as_u64().unwrap();
            acknowledged.extend((0..count).map(|i| (first + i, position + i)));
        }
        tokio::time::sleep(Duration::from_millis(rng.below(15))).await;
    }
    acknowledged
}

/// The log: id, k, v, gone of every event, by position.
async fn read_log(
    client: &reqwest::Client,
    server: &Server,
) -> BTreeMap<u64, (u64, i64, i64, bool)> {
    let mut events = BTreeMap::new();
    loop {
        let after = events.keys().next_back().copied().unwrap_or(0);
        let url = format!("{}/v1/events?after={after}&limit=5000", server.http);
        let text = client.get(url).send().await.unwrap().text().await.unwrap();
        if text.trim().is_empty() {
            return events;
        }
        for line in text.lines() {
            let event: serde_json::Value = serde_json::from_str(line).unwrap();
            let data = &event["data"];
            let row = (
                event["id"].as_str().unwrap().parse().unwrap(),
                data["k"].as_i64().unwrap(),
                data["v"].as_i64().unwrap(),
                data["gone"].as_bool().unwrap(),
            );
            let position = event["position"].as_u64().unwrap();
            assert_eq!(position, events.len() as u64 + 1, "positions are dense");
            events.insert(position, row);
        }
    }
}

/// PostgreSQL with the events in it.
fn oracle(events: &BTreeMap<u64, (u64, i64, i64, bool)>) -> Postgres {
    let postgres = Postgres::start();
    postgres.run("CREATE TABLE changes (position BIGINT, k BIGINT, v BIGINT, gone BOOLEAN)");
    let line = |(position, (_, k, v, gone)): (&u64, &(u64, i64, i64, bool))| {
        format!("{position}\t{k}\t{v}\t{gone}\n")
    };
    postgres.connect().copy("changes", &events.iter().map(line).collect::<String>()).unwrap();
    postgres.run(LATEST);
    postgres
}

fn oracle_rows(postgres: &Postgres, sql: &str) -> Vec<String> {
    let line = |row: Vec<Option<String>>| {
        row.into_iter().map(|cell| cell.expect("no cell is NULL")).collect::<Vec<_>>().join("\t")
    };
    let mut rows: Vec<String> = postgres.rows(sql).into_iter().map(line).collect();
    rows.sort();
    rows
}

async fn clickhouse_rows(client: &reqwest::Client, server: &Server, view: &str) -> Vec<String> {
    let sql = format!("SELECT * FROM heliostat.{view} FORMAT TSV");
    let Login { user, password } = &server.login;
    let request = client.post(&server.clickhouse).basic_auth(user, Some(password));
    let text = request.body(sql).send().await.unwrap().text().await.unwrap();
    let mut rows: Vec<String> = text.lines().map(str::to_string).collect();
    rows.sort();
    rows
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_at_any_moment_nothing_is_lost_and_views_are_right() {
    let rounds = std::env::var("HELIOSTAT_CRASH_ROUNDS").ok().and_then(|r| r.parse().ok());
    let rounds: u64 = rounds.unwrap_or(ROUNDS_DEFAULT);
    let seed =
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos()
            as u64;
    println!("seed {seed}, {rounds} rounds");
    let mut rng = Rng::new(seed);
    let directory = tempfile::tempdir().unwrap();
    std::fs::create_dir(directory.path().join("queries")).unwrap();
    std::fs::write(directory.path().join("queries/items.sql"), QUERIES).unwrap();
    std::fs::write(directory.path().join("heliostat.toml"), LIMITS).unwrap();
    let client = heliostat::internals::http::client();
    let next_id = Arc::new(AtomicU64::new(1));
    let mut acknowledged: HashMap<u64, u64> = HashMap::new();
    for round in 0..rounds {
        // Every third round dies exactly before a flush's data, or between that and its progress.
        let point = ["before_data", "after_data"][rng.below(2) as usize];
        let point = format!("{point}={}*off->return", 1 + rng.below(12));
        let crash_point = (round % 3 == 2).then_some(point.as_str());
        // One round in three kills the write side alone, too, which needs a process for each side.
        let kills_write_side = round % 3 == 1;
        let single_process = !kills_write_side && rng.below(2) == 0;
        let mut server = Server::start(directory.path(), crash_point, single_process);
        assert!(ready(&client, &server, "/readyz", Duration::from_secs(60)).await, "round {round}");
        let stop = Arc::new(AtomicBool::new(false));
        let url = format!("{}/v1/events", server.http);
        let loads: Vec<_> = (0..3)
            .map(|_| {
                let rng = Rng::new(rng.below(u64::MAX));
                tokio::spawn(load(client.clone(), url.clone(), stop.clone(), next_id.clone(), rng))
            })
            .collect();
        if crash_point.is_some() {
            let end = Instant::now() + Duration::from_secs(20);
            let sides = server.children();
            let lives = |server: &mut Server| match single_process {
                true => server.child.try_wait().unwrap().is_none(),
                false => server.children() == sides,
            };
            while lives(&mut server) && Instant::now() < end {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        } else {
            tokio::time::sleep(Duration::from_millis(200 + rng.below(2500))).await;
            if kills_write_side {
                // Alone, several times: the read side goes on, and follows the next one's log.
                for _ in 0..3 {
                    server.kill_write_side();
                    let back = ready(&client, &server, "/readyz", Duration::from_secs(30)).await;
                    assert!(back, "round {round}: no write side is back");
                    tokio::time::sleep(Duration::from_millis(rng.below(700))).await;
                }
            }
            if rng.below(2) == 0 {
                // ClickHouse alone, whose inserts are repeated.
                server.kill_clickhouse();
                tokio::time::sleep(Duration::from_millis(rng.below(2500))).await;
            }
        }
        server.kill(round % 2 == 0);
        stop.store(true, Ordering::Relaxed);
        for load in loads {
            for (id, position) in load.await.unwrap() {
                assert_eq!(acknowledged.insert(id, position), None, "ids are posted once");
            }
        }
    }
    let server = Server::start(directory.path(), None, false);
    let patience = Duration::from_secs(60);
    assert!(ready(&client, &server, "/readyz?views=all", patience).await, "all views are live");
    let status = client.get(format!("{}/v1/views", server.http)).send().await.unwrap();
    let status: serde_json::Value = status.json().await.unwrap();
    for view in status["views"].as_array().unwrap() {
        assert_eq!(view["start"]["how"], "resumed", "{view}");
    }
    let events = read_log(&client, &server).await;
    println!("{} events acknowledged, {} in the log", acknowledged.len(), events.len());
    let mut places: HashMap<u64, u64> = HashMap::new();
    for (position, (id, ..)) in &events {
        assert_eq!(places.insert(*id, *position), None, "event {id} is in the log once");
    }
    for (id, position) in &acknowledged {
        assert_eq!(places.get(id), Some(position), "event {id} is where it was said to be");
    }
    let postgres = oracle(&events);
    for (view, sql) in ORACLE {
        let expected = oracle_rows(&postgres, sql);
        let end = Instant::now() + Duration::from_secs(30);
        loop {
            let rows = clickhouse_rows(&client, &server, view).await;
            if rows == expected {
                break;
            }
            assert!(Instant::now() < end, "{view}: {rows:?}\nexpected {expected:?}");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
}
