//! Faults around the views are told at once, and mend themselves where they can: ClickHouse's address and
//! login, tables that somebody else has changed, the clock, the end on request.

mod common;

use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use common::{Server, child_of};
use heliostat::internals::model::Alarms;
use heliostat::internals::sink::{ClickHouseProgram, Logins, OwnClickHouse, ServerConfig, locate};
use serde_json::{Value, json};

const PAID: &str = "
    CREATE TABLE paid (k TEXT NOT NULL, amount BIGINT NOT NULL) WITH (event_type = 'Paid');
    CREATE MATERIALIZED VIEW sums AS SELECT k, sum(amount) AS n FROM paid GROUP BY k;
    CREATE MATERIALIZED VIEW counts WITH (history = true) AS SELECT k, count(*) AS n FROM paid GROUP BY k;
";
const SUMS: &str = "SELECT k, n FROM sums ORDER BY k FORMAT CSV";
const COUNTS: &str = "SELECT k, n FROM counts ORDER BY k FORMAT CSV";

fn paid(k: &str, amount: i64) -> Value {
    json!({"type": "Paid", "data": {"k": k, "amount": amount}})
}

/// The problems that `/readyz` lists, in one text.
async fn wrong(server: &Server) -> String {
    server.get("/readyz").await["wrong"].to_string()
}

async fn wait_for(server: &Server, part: &str) {
    server.until(true, || async { wrong(server).await.contains(part) }).await;
}

/// How long a start may take that is refused.
const REFUSAL_TIME_MAX: Duration = Duration::from_secs(3);

/// Runs `serve` on a data directory that has not served yet. It must end by itself, in under 3 s.
fn refused(arguments: &[&str]) -> Output {
    let directory = tempfile::tempdir().unwrap();
    let begun = Instant::now();
    let child = Command::new(env!("CARGO_BIN_EXE_heliostat"))
        .args(["serve", "--listen", "127.0.0.1:0", "--data-dir"])
        .arg(directory.path().join("data"))
        .args(arguments)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let output = ended(child, Duration::from_secs(30));
    let elapsed = begun.elapsed();
    assert!(elapsed < REFUSAL_TIME_MAX, "{arguments:?}: refused after {elapsed:?}");
    output
}

/// The output of a process that must end in time.
fn ended(mut child: Child, patience: Duration) -> Output {
    let end = Instant::now() + patience;
    while child.try_wait().unwrap().is_none() {
        if Instant::now() > end {
            child.kill().unwrap();
            panic!("the process does not end");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    child.wait_with_output().unwrap()
}

fn assert_refused(output: &Output, code: i32, hint: &str) {
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{text}");
    assert!(text.contains(hint), "{text}");
}

/// Something that takes connections and says the same to each, or nothing.
fn other_server(answer: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        let mut open = Vec::new();
        for stream in listener.incoming().flatten() {
            let mut stream = stream;
            if answer.is_empty() {
                open.push(stream);
                continue;
            }
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(answer.as_bytes());
        }
    });
    url
}

#[test]
fn addresses_that_are_no_clickhouse_are_refused_at_the_first_start() {
    let output = refused(&["--clickhouse-url", "localhost:8123"]);
    assert_refused(&output, 1, "it looks like http://host:8123");
    let page = "HTTP/1.1 200 OK\r\ncontent-length: 13\r\nconnection: close\r\n\r\n<html></html>";
    for (answer, hint) in [
        (page, "is not the HTTP interface of a ClickHouse"),
        (
            "HTTP/1.1 404 Not Found\r\ncontent-length: 7\r\nconnection: close\r\n\r\nNo page",
            "No page",
        ),
        ("SSH-2.0-OpenSSH_9.2p1\r\n", "is not the HTTP interface of a ClickHouse"),
        ("", "does not answer"),
    ] {
        let output = refused(&["--clickhouse-url", &other_server(answer)]);
        assert_refused(&output, 3, hint);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_login_is_refused_at_the_first_start() {
    let directory = tempfile::tempdir().unwrap();
    let program = locate(Path::new(env!("CARGO_BIN_EXE_heliostat"))).unwrap();
    let own = OwnClickHouse::start(config(directory.path(), &program)).await.unwrap();
    let login = ["--clickhouse-url", &own.url(), "--clickhouse-user", "nobody"];
    let output = refused(&login);
    assert_refused(&output, 3, "does not let user `nobody` in");
    assert_refused(&output, 3, "--clickhouse-password");
    own.stop().await;
}

/// An own ClickHouse in this directory.
fn config(directory: &Path, program: &ClickHouseProgram) -> ServerConfig {
    ServerConfig {
        program: program.clone(),
        dir: directory.join("clickhouse"),
        http_port: 0,
        logins: Logins::open(directory, Vec::new()).unwrap(),
        database: "heliostat".to_string(),
        alarms: Alarms::default(),
    }
}

/// A ClickHouse with a password, which can be started again with another one.
struct Guarded {
    directory: PathBuf,
    program: ClickHouseProgram,
    http_port: u16,
    child: Option<Child>,
}

impl Drop for Guarded {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Guarded {
    /// Takes over the folder and the configuration of an own ClickHouse that has ended.
    async fn new(directory: &Path) -> Guarded {
        let program = locate(Path::new(env!("CARGO_BIN_EXE_heliostat"))).unwrap();
        let config = config(directory, &program);
        let dir = config.dir.clone();
        let own = OwnClickHouse::start(config).await.unwrap();
        let http_port = own.url().rsplit(':').next().unwrap().parse().unwrap();
        own.stop().await;
        Guarded { directory: dir, program, http_port, child: None }
    }

    fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.http_port)
    }

    async fn start(&mut self, password: &str) {
        self.stop();
        let file = self.directory.join("config.xml");
        let users = self.directory.join("users.xml");
        let text = std::fs::read_to_string(&users).unwrap();
        let (before, rest) = text.split_once("<users>").unwrap();
        let after = rest.split_once("</guest>").map_or(rest, |(_, after)| after);
        // The server of the test logs in as a user of its own.
        let guest = format!(
            "<users><guest><password>{password}</password><networks><ip>127.0.0.1</ip></networks>\
             <profile>own</profile><quota>unlimited</quota></guest>"
        );
        std::fs::write(&users, format!("{before}{guest}{after}")).unwrap();
        let mut command = match &self.program {
            ClickHouseProgram::Binary(binary) => {
                let mut command = Command::new(binary);
                command.args(["server", "--config-file"]).arg(&file);
                command
            }
            ClickHouseProgram::Library { library, heliostat } => {
                let mut command = Command::new(heliostat);
                command.arg("clickhouse-child").args([library, &file]);
                command
            }
        };
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        self.child = Some(command.spawn().unwrap());
        let end = Instant::now() + Duration::from_secs(60);
        while heliostat::internals::http::client()
            .get(format!("{}/ping", self.url()))
            .send()
            .await
            .is_err()
        {
            assert!(Instant::now() < end, "ClickHouse does not answer");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn ask(&self, password: &str, sql: &str) -> String {
        let client = heliostat::internals::http::client();
        let request = client.post(format!("{}/?database=heliostat", self.url()));
        let request = request.basic_auth("guest", Some(password)).body(sql.to_string());
        match request.send().await {
            Ok(answer) => answer.text().await.unwrap_or_default(),
            Err(error) => error.to_string(),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rotated_password_fails_the_sinks_and_not_ingest_until_it_is_right_again() {
    let directory = tempfile::tempdir().unwrap();
    let mut clickhouse = Guarded::new(directory.path()).await;
    clickhouse.start("first").await;
    let url = clickhouse.url();
    let login = ["--clickhouse-url", &url, "--clickhouse-user", "guest"];
    let server = Server::with_arguments(
        &[("paid.sql", PAID)],
        &login,
        &[("HELIOSTAT_CLICKHOUSE_PASSWORD", "first")],
    );
    server.append(&paid("a", 1)).await;
    server.until("\"a\",1\n".to_string(), || clickhouse.ask("first", SUMS)).await;

    clickhouse.start("second").await;
    server.append(&paid("a", 2)).await;
    let sink = || async { server.get("/v1/views/sums").await["sinks"]["clickhouse"].clone() };
    server.until(json!("failed"), || async { sink().await["status"].clone() }).await;
    let error = sink().await["error"].to_string();
    assert!(error.contains("--clickhouse-password"), "{error}");
    wait_for(&server, "does not let user `guest` in").await;
    let all = heliostat::internals::http::client()
        .get(server.url("/readyz?views=all"))
        .send()
        .await
        .unwrap();
    assert_eq!(all.status(), 503);
    // The views themselves go on.
    let answer = server.post("/v1/events?wait=views", &paid("a", 3)).await;
    assert_eq!(answer.0, 200, "{}", answer.1);
    server.restart();
    wait_for(&server, "does not let user `guest` in").await;
    server.append(&paid("a", 4)).await;
    let (status, problem) = server.post("/v1/views/sums/rebuild", &json!({})).await;
    assert_eq!(status, 503, "{problem}");

    clickhouse.start("first").await;
    server.until("\"a\",10\n".to_string(), || clickhouse.ask("first", SUMS)).await;
    server.until("[]".to_string(), || wrong(&server)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn foreign_changes_in_clickhouse_are_noticed_and_repaired() {
    let server = Server::with_clickhouse(&[("paid.sql", PAID)]);
    server.append(&json!([paid("a", 1), paid("b", 2), paid("c", 3)])).await;
    let sums = "\"a\",1\n\"b\",2\n\"c\",3\n".to_string();
    let counts = "\"a\",1\n\"b\",1\n\"c\",1\n".to_string();
    let right = || async {
        server.until(sums.clone(), || server.clickhouse(SUMS)).await;
        server.until(counts.clone(), || server.clickhouse(COUNTS)).await;
    };
    right().await;
    let table = || async {
        let generation = server.get("/v1/views/sums").await["generation"].clone();
        format!("heliostat_internal.sums__{}", generation.as_str().unwrap())
    };
    let changes: [fn(&str) -> String; 9] = [
        |table| format!("TRUNCATE TABLE {table}"),
        |table| format!("DELETE FROM {table} WHERE k = 'b'"),
        |table| {
            format!("ALTER TABLE {table} UPDATE n = 7 WHERE k = 'b' SETTINGS mutations_sync = 2")
        },
        |table| {
            format!(
                "INSERT INTO {table} (k, n, _version, _deleted) VALUES ('x', 1, 9999999999999, 0)"
            )
        },
        |table| format!("DROP TABLE {table}"),
        |_| "DROP VIEW heliostat.sums".to_string(),
        |_| "CREATE OR REPLACE VIEW heliostat.sums AS SELECT 'z' AS k, 1 AS n".to_string(),
        |_| "DROP DATABASE heliostat".to_string(),
        |_| "DROP DATABASE heliostat_internal".to_string(),
    ];
    for change in changes {
        // The tables are looked at every few seconds: once before, so that a change can be told.
        tokio::time::sleep(Duration::from_secs(7)).await;
        let statement = change(&table().await);
        let answer = server.clickhouse(&statement).await;
        assert_eq!(answer, "", "{statement}");
        assert_ne!(server.clickhouse(SUMS).await, sums, "{statement}");
        right().await;
        server.until("[]".to_string(), || wrong(&server)).await;
    }
    // Whoever waits for ClickHouse finds the view there, whenever its name, or that of its history, was
    // dropped, and whatever else there is to be written.
    let mut expected = 1;
    let history = "SELECT count() FROM counts_history";
    let read = || async { [server.clickhouse(SUMS).await, server.clickhouse(history).await] };
    for round in 0..12 {
        let statement = match round % 4 {
            0 | 2 => "DROP VIEW heliostat.sums",
            1 => "CREATE OR REPLACE VIEW heliostat.sums AS SELECT 'z' AS k, 1 AS n",
            _ => "DROP VIEW heliostat.counts_history",
        };
        assert_eq!(server.clickhouse(statement).await, "");
        // With changed rows and without.
        let amount = round % 3;
        expected += amount;
        let path = "/v1/events?wait=clickhouse&view=sums,counts&timeout=30s";
        let (status, answer) = server.post(path, &paid("a", amount)).await;
        assert_eq!(status, 200, "{statement}: {answer}");
        let [sums, history] = read().await;
        assert!(sums.starts_with(&format!("\"a\",{expected}\n")), "{statement}: {sums}");
        assert!(!history.starts_with("Code: "), "{statement}: {history}");

        // A server that says that it is ready has its views there.
        assert_eq!(server.clickhouse(statement).await, "");
        server.until(200, || async { server.try_get("/readyz?views=all").await.0 }).await;
        let [sums, history] = read().await;
        assert!(sums.starts_with(&format!("\"a\",{expected}\n")), "{statement}: {sums}");
        assert!(!history.starts_with("Code: "), "{statement}: {history}");
    }
    let amount = 10 - expected;
    server.append(&paid("a", amount)).await;
    server
        .until("10\n".to_string(), || server.clickhouse("SELECT n FROM sums WHERE k = 'a'"))
        .await;
    let history = "SELECT count() FROM counts_history WHERE k = 'a'";
    server.until("14\n".to_string(), || server.clickhouse(history)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clock_that_jumped_and_came_back_is_told() {
    let files = [("paid.sql", PAID)];
    let server = Server::with_arguments(
        &files,
        &["--no-clickhouse"],
        &[("HELIOSTAT_CLOCK_OFFSET_MS", "60000")],
    );
    server.append(&paid("a", 1)).await;
    assert_eq!(wrong(&server).await, "[]");
    server.kill();
    server.without_environment();
    server.run();
    wait_for(&server, "behind the last commit").await;
    let metrics = heliostat::internals::http::client()
        .get(server.url("/metrics"))
        .send()
        .await
        .unwrap()
        .text()
        .await
        .unwrap();
    let line = metrics.lines().find(|l| l.starts_with("heliostat_clock_behind_seconds ")).unwrap();
    let behind: f64 = line.rsplit(' ').next().unwrap().parse().unwrap();
    assert!((1.0..=60.0).contains(&behind), "{line}");
    server.append(&paid("a", 2)).await;
}

/// Sends SIGTERM to a server, which must end in order and in time.
fn assert_ends_within_ten_seconds(server: &Server) {
    let told = Instant::now();
    let output = ended(server.terminate(), Duration::from_secs(30));
    assert_eq!(output.status.code(), Some(0));
    assert!(told.elapsed() < Duration::from_secs(10), "{:?}", told.elapsed());
}

/// Whether there is a process with this number, and it is no zombie.
fn is_alive(pid: libc::pid_t) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit(')').next().unwrap_or_default().trim_start().chars().next();
    state.is_some_and(|state| state != 'Z')
}

const NUMBERS: &str = "CREATE TABLE n (x BIGINT) WITH (event_type = 'N');";
/// A view with as many pairs as keep a worker busy for minutes, where there are many numbers.
const PAIRS: &str =
    "CREATE MATERIALIZED VIEW pairs AS SELECT count(*) AS n FROM n a JOIN n b ON a.x <> b.x;";

/// So many events, each with another number.
fn numbers(count: u64) -> Value {
    (0..count).map(|x| json!({"type": "N", "data": {"x": x}})).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_ends_a_server_whose_workers_are_busy_within_ten_seconds() {
    let files = [("paid.sql", PAID), ("n.sql", NUMBERS), ("pairs.sql", PAIRS)];
    let server = Server::with_clickhouse(&files);
    server.append(&numbers(40_000)).await;
    assert_ends_within_ten_seconds(&server);
    server.run();
    assert_eq!(server.get("/v1/events?after=39999&limit=2").await["position"], 40_000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_ends_a_server_with_a_view_that_is_catching_up_within_ten_seconds() {
    let server = Server::start(&[("n.sql", NUMBERS)]);
    server.append(&numbers(40_000)).await;
    server.write("pairs.sql", PAIRS);
    let status = || async { server.try_get("/v1/views/pairs").await.1["status"].clone() };
    server.until(json!("catching_up"), status).await;
    assert_ends_within_ten_seconds(&server);
    server.run();
    server.until(json!("catching_up"), status).await;
    assert_eq!(server.get("/v1/events?after=39999&limit=2").await["position"], 40_000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_ends_a_server_whose_clickhouse_does_not_move_within_ten_seconds() {
    let server = Server::with_clickhouse(&[("paid.sql", PAID)]);
    server.append(&paid("a", 1)).await;
    server.until("\"a\",1\n".to_string(), || server.clickhouse(SUMS)).await;
    let pid = server.stop_clickhouse();
    // The views are ahead of ClickHouse: their sinks wait for it.
    let (status, answer) = server.post("/v1/events?wait=views", &paid("a", 2)).await;
    assert_eq!(status, 200, "{answer}");
    assert_ends_within_ten_seconds(&server);
    assert!(!is_alive(pid), "ClickHouse is still there");
    server.run();
    server.until("\"a\",3\n".to_string(), || server.clickhouse(SUMS)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[cfg_attr(not(feature = "failpoints"), ignore = "needs the feature failpoints")]
async fn sigterm_ends_a_server_that_tries_query_files_within_ten_seconds() {
    let slow = [("FAILPOINTS", "optimizing view slow=sleep(600000)")];
    let server = Server::with_arguments(&[("paid.sql", PAID)], &["--no-clickhouse"], &slow);
    server.append(&paid("a", 1)).await;
    server.write("slow.sql", "CREATE MATERIALIZED VIEW slow AS SELECT k FROM paid;");
    let read_side = server.pid_of("read-side").unwrap() as u32;
    let trial = || async { child_of(read_side, "plan-child") };
    server.until(true, || async { trial().await.is_some() }).await;
    let trial = trial().await.unwrap();
    assert_ends_within_ten_seconds(&server);
    server.until(false, || async { is_alive(trial) }).await;
    server.without_environment();
    server.run();
    server.live(&["sums", "slow"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn progress_in_clickhouse_is_that_of_an_answer_to_a_request_that_waits() {
    let server = Server::with_clickhouse(&[(
        "days.sql",
        "CREATE TABLE day (id TEXT NOT NULL, on_day DATE, note JSON) WITH (event_type = 'Day');
         CREATE TABLE other (id TEXT NOT NULL) WITH (event_type = 'Other');
         CREATE MATERIALIZED VIEW days AS SELECT id, on_day, note FROM day;
         CREATE MATERIALIZED VIEW others AS SELECT count(*) AS n FROM other;",
    )]);
    server.until(200, || async { server.try_get("/readyz?views=all").await.0 }).await;
    let progress = "SELECT position, errors FROM heliostat._heliostat_progress WHERE view = 'days'";
    let mut errors = 0;
    for round in 1..=6_u64 {
        // Every other day is one that ClickHouse cannot hold.
        let fails = round % 2 == 0;
        errors += u64::from(fails);
        let day = if fails { "1850-01-01" } else { "2026-01-01" };
        let event = json!({"type": "Day", "data": {"id": format!("d{round}"), "on_day": day}});
        let (status, answer) = server.post("/v1/events?wait=clickhouse&timeout=30s", &event).await;
        assert_eq!(status, 200, "{answer}");
        let position = answer["last_position"].as_u64().unwrap();
        assert_eq!(server.clickhouse(progress).await, format!("{position}\t{errors}\n"));
    }
    // JSON is stored as text without escapes.
    let noted =
        r#"{"type": "Day", "data": {"id": "n", "note": {"k\u00e9y": "\u00e4 \ud83d\ude00\n"}}}"#;
    let request = heliostat::internals::http::client()
        .post(server.url("/v1/events?wait=clickhouse&timeout=30s"))
        .header("content-type", "application/json")
        .body(noted);
    assert_eq!(request.send().await.unwrap().status(), 200);
    let note =
        server.clickhouse("SELECT note FROM heliostat.days WHERE id = 'n' FORMAT TSVRaw").await;
    assert_eq!(note, "{\"kéy\": \"ä 😀\\n\"}\n");
}
