//! The own ClickHouse: what its readers and strangers may do.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use heliostat::internals::http::client;
use heliostat::internals::sink::{Login, Logins, read_login};
use serde_json::{Value, json};

use crate::QUERIES;
use crate::common::{Server, addresses, clients, text};

/// Statements that only Heliostat may run in its ClickHouse. `$P` is the address of its HTTP interface.
const ATTEMPTS: [&str; 40] = [
    "SELECT * FROM file('/etc/passwd', 'LineAsString')",
    "SELECT * FROM file('*', 'LineAsString')",
    "INSERT INTO FUNCTION file('planted.csv', 'CSV', 'a String') VALUES ('x')",
    "SELECT * FROM url('$P/ping', 'LineAsString')",
    "INSERT INTO FUNCTION url('$P/', 'CSV', 'a String') VALUES ('x')",
    "SELECT * FROM remote('127.0.0.1', 'system', 'one')",
    "SELECT * FROM cluster('default', 'system', 'one')",
    "SELECT * FROM s3('http://127.0.0.1:1/b/k', 'CSV', 'a String')",
    "SELECT * FROM hdfs('hdfs://127.0.0.1:1/k', 'CSV', 'a String')",
    "SELECT * FROM azureBlobStorage('http://127.0.0.1:1', 'c', 'b', 'CSV', 'auto', 'a String')",
    "SELECT * FROM executable('x.sh', 'CSV', 'a String')",
    "SELECT * FROM mysql('127.0.0.1:1', 'd', 't', 'u', 'p')",
    "SELECT * FROM postgresql('127.0.0.1:1', 'd', 't', 'u', 'p')",
    "SELECT * FROM sqlite('/tmp/x.db', 't')",
    "SELECT * FROM mongodb('127.0.0.1:1', 'd', 'c', 'u', 'p', 'a String')",
    "SELECT * FROM merge('heliostat_internal', '.*')",
    "SELECT * FROM heliostat_internal._heliostat_generations",
    "SELECT * FROM heliostat_internal._heliostat_progress_log",
    "SELECT 1 INTO OUTFILE '/tmp/heliostat-outfile'",
    "CREATE TABLE heliostat.mine (a Int8) ENGINE = Memory",
    "CREATE TABLE mine (a Int8) ENGINE = File(CSV)",
    "CREATE TEMPORARY TABLE mine (a Int8)",
    "CREATE DATABASE mine",
    "CREATE DICTIONARY heliostat.d (k UInt64, v String) PRIMARY KEY k SOURCE(FILE(path '/etc/passwd' format 'TSV')) LAYOUT(FLAT()) LIFETIME(0)",
    "CREATE FUNCTION mine AS (x) -> x",
    "CREATE USER mine",
    "CREATE VIEW heliostat.mine AS SELECT 1",
    "CREATE NAMED COLLECTION mine AS a = 1",
    "DROP VIEW heliostat.orders",
    "DROP DATABASE heliostat",
    "TRUNCATE TABLE heliostat.orders",
    "INSERT INTO heliostat.orders VALUES ('x', 1)",
    "ALTER TABLE heliostat.orders DELETE WHERE 1",
    "KILL QUERY WHERE 1",
    "SYSTEM STOP LISTEN HTTP",
    "SYSTEM STOP MERGES heliostat_internal._heliostat_generations",
    "SYSTEM SHUTDOWN",
    "SYSTEM RELOAD CONFIG",
    "BACKUP DATABASE heliostat TO File('/tmp/heliostat-backup')",
    "GRANT ALL ON *.* TO reader",
];

/// Settings that a reader must not change.
const FIXED: [&str; 7] = [
    "max_memory_usage=0",
    "max_memory_usage_for_user=0",
    "max_execution_time=0",
    "max_threads=64",
    "max_concurrent_queries_for_user=0",
    "os_thread_priority=0",
    "add_http_cors_header=1",
];

#[tokio::test(flavor = "multi_thread")]
async fn the_own_clickhouse_lets_readers_read_views_and_strangers_nothing() {
    let server = Server::with_clickhouse(&[("views.sql", QUERIES)]);
    server.append(&json!([{"type": "OrderPaid", "data": {"id": "a", "amount": 7}}])).await;
    let reader = read_login(&Logins::reader_file(&server.data())).unwrap();
    let rows = "SELECT id, total FROM orders";
    let csv = format!("{rows} FORMAT CSV");
    server.until("\"a\",14\n".to_string(), || server.clickhouse_as(&reader, &csv)).await;
    let names = server.clickhouse_as(&reader, "SHOW TABLES").await;
    assert_eq!(names, "_heliostat_progress\norders\nsalaries\n");
    assert_eq!(server.clickhouse_as(&reader, "SHOW DATABASES").await, "heliostat\n");

    let boot = Login { user: "default".to_string(), password: String::new() };
    let wrong = Login { password: "wrong".to_string(), ..reader.clone() };
    let address = server.clickhouse_url();
    for login in [&reader, &boot, &wrong] {
        for attempt in ATTEMPTS {
            let answer = server.clickhouse_as(login, &attempt.replace("$P", &address)).await;
            assert!(answer.starts_with("Code: "), "{}: {attempt}: {answer}", login.user);
        }
    }
    for login in [&boot, &wrong] {
        let answer = server.clickhouse_as(login, "SELECT count() FROM system.numbers").await;
        assert!(answer.starts_with("Code: "), "{}: {answer}", login.user);
    }
    for setting in FIXED {
        let sql = format!("SELECT 1 SETTINGS {setting}");
        assert!(server.clickhouse_as(&reader, &sql).await.starts_with("Code: "), "{setting}");
        let request = client().post(format!("{address}/?{setting}")).body("SELECT 1");
        let request = request.basic_auth(&reader.user, Some(&reader.password));
        assert!(!request.send().await.unwrap().status().is_success(), "{setting}");
    }
    // Hogs of memory and of time end by themselves; the views go on meanwhile.
    let hog = "SELECT groupArray(number) FROM numbers(1000000000)";
    assert!(server.clickhouse_as(&reader, hog).await.contains("MEMORY_LIMIT_EXCEEDED"));
    let busy = client().post(&address).basic_auth(&reader.user, Some(&reader.password));
    let busy = busy.body("SELECT count() FROM numbers(1e12) WHERE sipHash64(number) = 1");
    let busy = tokio::spawn(async move { busy.send().await.map(|answer| answer.status()) });
    server.append(&json!([{"type": "OrderPaid", "data": {"id": "b", "amount": 5}}])).await;
    server
        .until("\"b\",20\n".to_string(), || {
            server.clickhouse_as(&reader, "SELECT id, total FROM orders WHERE id = 'b' FORMAT CSV")
        })
        .await;
    busy.abort();

    // Sorting and grouping outside of memory does not fill the disk.
    let data = "SELECT randomString(1000) AS x FROM numbers(3000000)";
    for (rest, setting) in [("ORDER BY x", "sort"), ("GROUP BY x", "group_by")] {
        let sql = format!(
            "{data} {rest} FORMAT Null SETTINGS max_bytes_before_external_{setting} = 10000000"
        );
        let answer = server.clickhouse_as(&reader, &sql).await;
        assert!(answer.contains("Limit for temporary files size exceeded"), "{setting}: {answer}");
    }

    // The command needs no password.
    let data = server.data();
    let directory = data.to_str().unwrap();
    let output = server.command(&["sql", rows, "--data-dir", directory]);
    let shown = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success() && shown.contains("id\ttotal\n") && shown.contains("a\t14\n"),
        "{shown}"
    );
    let output = server.command(&["sql", "--print", "--data-dir", directory]);
    let printed: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(printed["native"].as_str().unwrap().starts_with("127.0.0.1:"), "{printed}");
    let native = &printed["native"];
    let expected = json!({"url": address, "native": native, "user": "reader", "password": reader.password, "database": "heliostat"});
    assert_eq!(printed, expected);
    let output = server.command(&["sql", "DROP DATABASE heliostat", "--data-dir", directory]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("ACCESS_DENIED"));

    // A prompt sends each query that ends with a semicolon at a line's end, and the last one without.
    let output = prompt(&data, "SELECT 1 AS one;\n\nSELECT ';' AS two,\n  2 AS three\n;\nSELECT 4");
    assert!(output.status.success(), "{}", text(&output));
    assert_eq!(String::from_utf8_lossy(&output.stdout), "one\n1\ntwo\tthree\n;\t2\n4\n4\n");
    // Where nobody sees a prompt, an error ends it.
    let output = prompt(&data, "SELECT 1;\nSELECT nothing;\nSELECT 3;\n");
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(String::from_utf8_lossy(&output.stdout), "1\n1\n");
    assert!(String::from_utf8_lossy(&output.stderr).contains("UNKNOWN_IDENTIFIER"));
    // At a terminal it goes on.
    let shown = prompt_at_terminal(&data, "SELECT nothing;\nSELECT\n 40 + 2;\n");
    assert!(shown.contains("heliostat> ") && shown.contains("        -> "), "{shown}");
    assert!(shown.contains("UNKNOWN_IDENTIFIER") && shown.contains("42"), "{shown}");
}

/// The output of `heliostat sql` for this input.
fn prompt(data: &Path, input: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_heliostat"))
        .args(["sql", "--data-dir"])
        .arg(data)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

/// The same at a terminal, which `script` makes.
fn prompt_at_terminal(data: &Path, input: &str) -> String {
    let command = format!("{} sql --data-dir {}", env!("CARGO_BIN_EXE_heliostat"), data.display());
    let mut child = Command::new("script")
        .args(["-qec", &command, "/dev/null"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("script, of util-linux");
    let mut stdin = child.stdin.take().unwrap();
    // Control-D at a line's beginning ends the input of a terminal.
    stdin.write_all(format!("{input}\u{4}").as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    drop(stdin);
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_hogs_take_their_users_memory_and_heliostat_goes_on() {
    let server = Server::with_clickhouse(&[("views.sql", QUERIES)]);
    server.until(200, || async { server.try_get("/readyz?views=all").await.0 }).await;
    let began = Instant::now();
    let reader = read_login(&Logins::reader_file(&server.data())).unwrap();
    let boot = Login { user: "default".to_string(), password: String::new() };
    let of_reader = "SELECT getSetting('max_memory_usage_for_user')";
    let of_reader: u64 = server.clickhouse_as(&reader, of_reader).await.trim().parse().unwrap();
    let of_boot = "SELECT ignore(range(7000000)), sleepEachRow(1), arrayJoin(range(2))".to_string();
    // One takes a third of what all may take.
    let numbers = of_reader / 4 / 8;
    let sql_of_reader = format!("SELECT length(groupArray(number)) FROM numbers({numbers})");
    for (login, hogs, sql, bytes_max) in
        [(&boot, 60, of_boot, 128 << 20), (&reader, 16, sql_of_reader, of_reader)]
    {
        let user = &login.user;
        let hog = || async { server.clickhouse_as(login, &sql).await };
        let hogs = futures::future::join_all((0..hogs).map(|_| hog()));
        let mut peak = 0;
        let mut asked = 0_u32;
        let watch = async {
            loop {
                let sql = format!(
                    "SELECT max(peak_memory_usage) FROM system.user_processes WHERE user = '{user}'"
                );
                let told = server.clickhouse(&sql).await;
                let bytes: i64 = told.trim().parse().unwrap_or_else(|_| panic!("{told}"));
                peak = peak.max(bytes);
                asked += 1;
                // Heliostat writes and reads, too.
                let event = json!({"type": "OrderPaid", "data": {"id": "a", "amount": 1}});
                let (status, answer) =
                    server.post("/v1/events?wait=clickhouse&timeout=30s", &event).await;
                assert_eq!(status, 200, "{answer}");
            }
        };
        let answers = tokio::select! {
            answers = hogs => answers,
            () = watch => unreachable!("it has no end"),
        };
        let refused = answers.iter().filter(|answer| answer.contains("MEMORY_LIMIT_EXCEEDED"));
        assert!(refused.count() > 0, "{user}: {answers:?}");
        assert!(asked > 0);
        // Memory that threads have not reported yet is no more than some megabytes.
        let slack = 64 << 20;
        assert!(peak > 0 && peak <= i64::try_from(bytes_max).unwrap() + slack, "{user}: {peak}");
    }
    let uptime = server.clickhouse("SELECT uptime() * 1000 FORMAT TSV").await;
    let uptime: u128 = uptime.trim().parse().unwrap();
    assert!(uptime + 1_000 >= began.elapsed().as_millis(), "ClickHouse was started anew");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_has_sixteen_queries_at_once_and_each_a_minute() {
    let server = Server::with_clickhouse(&[("views.sql", QUERIES)]);
    server.until(200, || async { server.try_get("/readyz?views=all").await.0 }).await;
    let reader = read_login(&Logins::reader_file(&server.data())).unwrap();
    let sleeping =
        "SELECT sleepEachRow(1) FROM numbers(90) SETTINGS max_block_size = 1 FORMAT Null";
    let began = Instant::now();
    let first = async { (server.clickhouse_as(&reader, sleeping).await, began.elapsed()) };
    let others = futures::future::join_all((1..16).map(|_| async {
        let sql = sleeping.replace("90", "89");
        server.clickhouse_as(&reader, &sql).await
    }));
    let more = async {
        let running = "SELECT count() FROM system.processes WHERE user = 'reader'";
        server.until("16\n".to_string(), || server.clickhouse(running)).await;
        let answer = server.clickhouse_as(&reader, "SELECT 1").await;
        assert!(answer.contains("TOO_MANY_SIMULTANEOUS_QUERIES"), "{answer}");
        assert_eq!(server.clickhouse("SELECT 1").await, "1\n");
        let kill = "KILL QUERY WHERE user = 'reader' AND query LIKE '%numbers(89)%' ASYNC";
        assert!(!server.clickhouse(kill).await.starts_with("Code: "));
        server.until("1\n".to_string(), || server.clickhouse(running)).await;
        assert_eq!(server.clickhouse_as(&reader, "SELECT 1").await, "1\n");

        // Four threads compute, however many cores there are, beside those that talk to the client.
        let threads = "SELECT getSetting('max_threads')";
        assert_eq!(server.clickhouse_as(&reader, threads).await, "4\n");
        let busy = "SELECT sum(sipHash64(number)) FROM numbers_mt(100000000000)";
        let of_busy = "FROM system.processes WHERE user = 'reader' AND query LIKE '%numbers_mt%'";
        let watched = async {
            let computes = format!("SELECT max(read_rows) > 10000000 {of_busy}");
            server.until("1\n".to_string(), || server.clickhouse(&computes)).await;
            let threads = format!("SELECT max(peak_threads_usage) {of_busy}");
            let threads: u64 = server.clickhouse(&threads).await.trim().parse().unwrap();
            assert!((1..=4 + 2).contains(&threads), "{threads} threads");
            let kill = "KILL QUERY WHERE user = 'reader' AND query LIKE '%numbers_mt%' ASYNC";
            assert!(!server.clickhouse(kill).await.starts_with("Code: "));
        };
        let (ended, ()) = tokio::join!(server.clickhouse_as(&reader, busy), watched);
        assert!(ended.contains("QUERY_WAS_CANCELLED"), "{ended}");
    };
    let ((ended, took), _, ()) = tokio::join!(first, others, more);
    assert!(ended.contains("TIMEOUT_EXCEEDED"), "{ended}");
    assert!((Duration::from_secs(58)..Duration::from_secs(80)).contains(&took), "{took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_of_the_configuration_log_in_and_reader_has_the_configured_password() {
    let server = Server::laid_out_with_clickhouse(&[("views.sql", QUERIES)], "");
    server.run();
    let ready = || server.until(200, || async { server.try_get("/readyz?views=all").await.0 });
    ready().await;
    let file = Logins::reader_file(&server.data());
    let random = read_login(&file).unwrap();
    assert_eq!(server.clickhouse_as(&random, "SELECT 1").await, "1\n");

    let secret = |name: &str, password: &str| {
        let path = server.directory.path().join(name);
        std::fs::write(&path, format!("{password}\n")).unwrap();
        format!("[[clickhouse_readers]]\nname = '{name}'\npassword_file = '{}'\n", path.display())
    };
    server.configure(&(secret("grafana", "of grafana") + &secret("reader", "of-reader")));
    server.end_and_run();
    ready().await;
    let login = |user: &str, password: &str| Login { user: user.into(), password: password.into() };
    for login in [login("grafana", "of grafana"), login("reader", "of-reader")] {
        assert_eq!(
            server.clickhouse_as(&login, "SELECT count() FROM orders").await,
            "0\n",
            "{}",
            login.user
        );
        for refused in
            ["DROP VIEW orders", "SELECT * FROM heliostat_internal._heliostat_generations"]
        {
            let answer = server.clickhouse_as(&login, refused).await;
            assert!(answer.contains("ACCESS_DENIED"), "{}: {answer}", login.user);
        }
    }
    let answer = server.clickhouse_as(&random, "SELECT 1").await;
    assert!(answer.contains("AUTHENTICATION_FAILED"), "{answer}");

    // The file, the command and curl have the configured one.
    use std::os::unix::fs::PermissionsExt;
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let data = server.data();
    let directory = data.to_str().unwrap();
    let output = server.command(&["sql", "SELECT 1 AS one", "--data-dir", directory]);
    assert!(output.status.success(), "{}", text(&output));
    let output = server.command(&["sql", "--print", "--data-dir", directory]);
    let printed: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&printed["user"], &printed["password"]), (&json!("reader"), &json!("of-reader")));
    assert_eq!(curl(&file, &server.clickhouse_url()), "1\n");

    // Without the entry it stays; a new one takes its place, whatever characters are in it.
    server.configure("");
    server.end_and_run();
    assert_eq!(curl(&file, &server.clickhouse_url()), "1\n");
    let strange = r#"sp ace "quotes" \ #"#;
    server.configure(&secret("reader", strange));
    server.end_and_run();
    assert_eq!(server.clickhouse_as(&login("reader", strange), "SELECT 1").await, "1\n");
    let output = server.command(&["sql", "SELECT 1 AS one", "--data-dir", directory]);
    assert!(output.status.success(), "{}", text(&output));
    assert_eq!(curl(&file, &server.clickhouse_url()), "1\n");
}

/// ClickHouse's answer to curl, which takes the password from this file.
fn curl(netrc: &Path, url: &str) -> String {
    let mut command = Command::new("curl");
    command.arg("-s").arg("--netrc-file").arg(netrc).args([url, "-d", "SELECT 1"]);
    String::from_utf8(command.output().unwrap().stdout).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_file_of_reader_is_not_used_for_a_clickhouse_of_somebody_else() {
    let others = Server::with_clickhouse(&[]);
    let own = read_login(&Logins::own_file(&others.data())).unwrap();
    let server = Server::laid_out_with_clickhouse(&[("views.sql", QUERIES)], "");
    server.run();
    server.end();
    assert!(Logins::reader_file(&server.data()).exists());

    let mut child = Command::new(env!("CARGO_BIN_EXE_heliostat"))
        .args(["serve", "--listen", "127.0.0.1:0", "--clickhouse-url", &others.clickhouse_url()])
        .args([Path::new("--data-dir"), &server.data(), Path::new("--queries"), &server.queries()])
        .args(["--clickhouse-user", &own.user])
        .env("HELIOSTAT_CLICKHOUSE_PASSWORD", &own.password)
        .env("HELIOSTAT_LOG", "error")
        .spawn()
        .unwrap();
    addresses(&mut child, &server.data());
    let ask = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_heliostat"))
            .arg("sql")
            .args(arguments)
            .arg("--data-dir")
            .arg(server.data())
            .args(["--clickhouse-user", &own.user])
            .env("HELIOSTAT_CLICKHOUSE_PASSWORD", &own.password)
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", text(&output));
        String::from_utf8(output.stdout).unwrap()
    };
    let printed: Value = serde_json::from_str(&ask(&["--print"])).unwrap();
    let expected = json!({"url": others.clickhouse_url(), "user": own.user, "password": own.password, "database": "heliostat"});
    assert_eq!(printed, expected);
    assert_eq!(ask(&["SELECT currentUser() AS user"]), "user\nheliostat\n");
    child.kill().unwrap();
    child.wait().unwrap();
}

const DETAILS: &str = "
CREATE TABLE detail (id TEXT NOT NULL, at TIMESTAMP(3) WITH TIME ZONE, note JSON,
    place STRUCT<city TEXT, floors ARRAY<INT>>)
  WITH (event_type = 'Detail');

-- Where things are.
-- One row a thing.
CREATE MATERIALIZED VIEW details WITH (key = 'id') AS
  SELECT id, at, note, place FROM detail;
";

#[tokio::test(flavor = "multi_thread")]
async fn clients_of_analysts_see_the_views_and_get_nothing_else_over_either_protocol() {
    let server = Server::with_clickhouse(&[("views.sql", QUERIES), ("details.sql", DETAILS)]);
    server.until(200, || async { server.try_get("/readyz?views=all").await.0 }).await;
    let place = json!({"city": "Graz", "floors": [1, 2]});
    let events = json!([
        {"type": "OrderPaid", "data": {"id": "a", "amount": 7}},
        {"type": "Detail", "data": {"id": "a", "at": "2026-01-01T00:00:00Z", "note": {"k": "x"}, "place": place}},
        {"type": "Detail", "data": {"id": "b"}},
    ]);
    let (status, answer) = server.post("/v1/events?wait=clickhouse&timeout=60s", &events).await;
    assert_eq!(status, 200, "{answer}");
    let data = server.data();
    let output = server.command(&["sql", "--print", "--data-dir", data.to_str().unwrap()]);
    let mut given: Value = serde_json::from_slice(&output.stdout).unwrap();
    let address = server.clickhouse_url();
    let attempts = ATTEMPTS.map(|sql| sql.replace("$P", &address));
    // The native client would write what comes to a file of its own, which is no matter of the server's.
    let attempts: Vec<_> = attempts.iter().filter(|sql| !sql.contains("OUTFILE")).collect();
    given["attempts"] = json!(attempts);
    given["fixed"] = json!(FIXED);
    let tried = Instant::now();
    let told = tokio::task::spawn_blocking(move || analysts(&given)).await.unwrap();

    let tables = json!(["_heliostat_progress", "details", "orders", "salaries"]);
    for client in ["connect", "driver"] {
        assert_eq!(told[client]["tables"], tables, "{client}");
        assert_eq!(told[client]["frame"], 1, "{client}");
        let rows = told[client]["rows"].to_string();
        assert!(rows.contains("'Graz'") && rows.contains("[1, 2]"), "{client}: {rows}");
        assert!(rows.contains("None") && rows.contains("[]"), "{client}: {rows}");
    }
    assert_eq!(told["driver"]["after"], 42);
    assert_eq!(told["connect"]["comment"], "Where things are.\nOne row a thing.");
    let comments = &told["connect"]["comments"];
    assert_eq!(comments["id"], "TEXT NOT NULL");
    assert_eq!(comments["at"], "TIMESTAMP(3) WITH TIME ZONE: an instant, shown in UTC");
    for (login, through) in told["through"].as_object().unwrap() {
        assert_eq!(*through, json!([]), "{login} got through");
    }
    assert_eq!(told["fixed"], json!([]), "settings that a reader has changed");
    // 241 is MEMORY_LIMIT_EXCEEDED, 202 TOO_MANY_SIMULTANEOUS_QUERIES.
    assert_eq!(told["hogs"], json!({"reader": 241, "boot": 241}));
    assert_eq!(told["seventeenth"], 202);
    assert_eq!(told["noise"], 43);
    assert_eq!(server.clickhouse("SELECT count() FROM heliostat.orders").await, "1\n");
    // No statement has ended ClickHouse.
    let uptime = server.clickhouse("SELECT uptime() * 1000 FORMAT TSV").await;
    let uptime: u128 = uptime.trim().parse().unwrap();
    assert!(uptime + 1_000 >= tried.elapsed().as_millis(), "ClickHouse was started anew");

    // Another comment is there without the view being built anew.
    let generation = server.get("/v1/views/details").await["generation"].clone();
    server.write("details.sql", &DETAILS.replace("Where things are.", "Places."));
    let comment =
        "SELECT comment FROM system.tables WHERE database = 'heliostat' AND name = 'details'";
    let expected = "Places.\\nOne row a thing.\n".to_string();
    server.until(expected, || server.clickhouse(comment)).await;
    assert_eq!(server.get("/v1/views/details").await["generation"], generation);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes 800 MB and a minute: make superset"]
async fn superset_lists_the_views_and_reads_them() {
    let server = Server::with_clickhouse(&[("views.sql", QUERIES), ("details.sql", DETAILS)]);
    server.until(200, || async { server.try_get("/readyz?views=all").await.0 }).await;
    let events = json!([
        {"type": "OrderPaid", "data": {"id": "a", "amount": 7}},
        {"type": "Detail", "data": {"id": "a", "at": "2026-01-01T00:00:00Z", "note": {"k": "x"}}},
    ]);
    let (status, answer) = server.post("/v1/events?wait=clickhouse&timeout=60s", &events).await;
    assert_eq!(status, 200, "{answer}");
    let data = server.data();
    let output = server.command(&["sql", "--print", "--data-dir", data.to_str().unwrap()]);
    let mut given: Value = serde_json::from_slice(&output.stdout).unwrap();
    given["sql"] = json!("SELECT id, toUnixTimestamp(at) AS at, note FROM details");
    let home = std::env::var_os("HOME").map(PathBuf::from).unwrap_or_default();
    let python = home.join(".cache/heliostat/superset/python/bin/python");
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients/analysts_superset.py");
    let told = tokio::task::spawn_blocking(move || ask_python(&python, script, &given));
    let told = told.await.unwrap();

    println!("Superset {}", told["version"]);
    assert_eq!(told["schemas"], json!(["heliostat"]));
    assert_eq!(told["tables"], json!(["_heliostat_progress", "details", "orders", "salaries"]));
    let columns = &told["columns"]["details"];
    assert_eq!(columns["id"], "STRING");
    assert_eq!(columns["at"], "NULLABLE(DATETIME64(3, 'UTC'))");
    // JSON is kept as it was posted.
    let row = json!({"id": "a", "at": 1_767_225_600, "note": "{\"k\":\"x\"}"});
    assert_eq!(told["rows"], json!([row]));
}

/// Runs the clients.
fn analysts(given: &Value) -> Value {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients/analysts.py");
    ask_python(&clients().join("python/bin/python"), script, given)
}

/// The output of a script for this input.
fn ask_python(python: &Path, script: &str, given: &Value) -> Value {
    let mut child = Command::new(python)
        .arg(script)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("python: `make clients` or `make superset` installs it");
    child.stdin.take().unwrap().write_all(given.to_string().as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{told}"))
}
