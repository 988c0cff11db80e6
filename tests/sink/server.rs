//! The own ClickHouse: comes, comes back, and goes.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use heliostat::internals::sink::{LIBCHDB_VERSION, ServerError};

use crate::support::{eventually, query, start_own};

/// The folder for [`host_of_a_clickhouse`]; it writes the child's number there.
const HOST_DIR: &str = "HELIOSTAT_TEST_HOST_DIR";

#[tokio::test(flavor = "multi_thread")]
async fn own_clickhouse_keeps_its_data_over_kills_and_stops_on_request() {
    let dir = tempfile::tempdir().unwrap();
    let own = start_own(dir.path(), 0).await.unwrap();
    let url = own.url();
    assert!(query(&url, "SELECT version()").await.unwrap().starts_with("26."));
    query(&url, "CREATE DATABASE d").await.unwrap();
    query(&url, "CREATE TABLE d.t (n Int32) ENGINE = MergeTree ORDER BY n").await.unwrap();
    query(&url, "INSERT INTO d.t SETTINGS async_insert = 0 VALUES (1), (2)").await.unwrap();
    let first = own.pid().unwrap();
    // SAFETY: a signal to the child that the test has just started.
    unsafe { libc::kill(first as libc::pid_t, libc::SIGKILL) };
    eventually(&url, "SELECT sum(n) FROM d.t", "3").await;
    let second = own.pid().unwrap();
    assert_ne!(first, second);
    own.stop().await;
    assert!(!Path::new(&format!("/proc/{second}")).exists());

    // The port is free again, and the data still there.
    let port = url.rsplit(':').next().unwrap().parse().unwrap();
    let own = start_own(dir.path(), port).await.unwrap();
    assert_eq!(own.url(), url);
    assert_eq!(query(&url, "SELECT sum(n) FROM d.t").await.unwrap(), "3");
    assert!(LIBCHDB_VERSION.starts_with("26."));
    own.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_taken_port_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let error = start_own(dir.path(), port).await.err().unwrap();
    assert!(matches!(error, ServerError::Port { port: told, .. } if told == port));
    assert!(error.to_string().contains("--clickhouse-http-port"), "{error}");
}

#[test]
fn own_clickhouse_ends_with_its_killed_parent() {
    let dir = tempfile::tempdir().unwrap();
    let mut host = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "server::host_of_a_clickhouse", "--ignored"])
        .env(HOST_DIR, dir.path())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    let told = dir.path().join("pid");
    let child = loop {
        match std::fs::read_to_string(&told) {
            Ok(pid) if pid.ends_with('\n') => break pid.trim().to_string(),
            _ => assert!(Instant::now() < deadline, "no child"),
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    let process = format!("/proc/{child}");
    assert!(Path::new(&process).exists());
    host.kill().unwrap();
    host.wait().unwrap();
    while is_running(&process) {
        assert!(Instant::now() < deadline, "{child} outlives its parent");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A zombie that nobody has collected yet is not running.
fn is_running(process: &str) -> bool {
    let status = std::fs::read_to_string(format!("{process}/status"));
    status.is_ok_and(|s| !s.contains("State:\tZ") && !s.contains("State:\tX"))
}

/// Not a test: the process that [`own_clickhouse_ends_with_its_killed_parent`] kills.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "run by another test"]
async fn host_of_a_clickhouse() {
    let Some(dir) = std::env::var_os(HOST_DIR) else { return };
    let dir = Path::new(&dir);
    let own = start_own(dir, 0).await.unwrap();
    std::fs::write(dir.join("pid"), format!("{}\n", own.pid().unwrap())).unwrap();
    std::future::pending::<()>().await;
}
