//! The own ClickHouse: what its readers and strangers may do.

use heliostat::internals::http::client;
use heliostat::internals::sink::{Login, Logins, read_login};
use serde_json::{Value, json};

use crate::QUERIES;
use crate::common::Server;

/// What nobody but Heliostat may do in its ClickHouse. `$P` is the address of its HTTP interface.
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
    let expected = json!({"url": address, "user": "reader", "password": reader.password, "database": "heliostat"});
    assert_eq!(printed, expected);
    let output = server.command(&["sql", "DROP DATABASE heliostat", "--data-dir", directory]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("ACCESS_DENIED"));
}
