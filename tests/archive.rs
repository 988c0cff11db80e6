//! Archived segments: larger blocks here, or in an object store; what is read of them is what it was, by
//! servers, by commands, after restarts, in backups.

mod common;
#[path = "common/s3.rs"]
mod s3;

use std::path::{Path, PathBuf};
use std::time::Duration;

use common::{Server, clients, heliostat, text};
use heliostat::internals::log::{Log, LogOptions};
use heliostat::internals::model::NewEvent;
use s3::S3Server;
use serde_json::{Value, json};

const SQL: &str = "
CREATE TABLE changes (k BIGINT NOT NULL, v BIGINT NOT NULL, note TEXT) WITH (event_type = 'Item');
CREATE MATERIALIZED VIEW totals AS SELECT k, count(*) AS n, sum(v) AS total FROM changes GROUP BY k;
";
const EVENTS: u64 = 3000;
const PER_COMMIT: u64 = 10;

fn data(n: u64) -> String {
    format!(r#"{{"k":{},"note":"what everybody writes, number {n}","v":{}}}"#, n % 17, n % 11)
}

fn event(n: u64) -> NewEvent {
    NewEvent {
        id: format!("id-{n}"),
        source: String::new(),
        event_type: "Item".to_string(),
        version: 1,
        stream: Some(format!("s{}", n % 7)),
        time_us: 0,
        data: data(n).into_bytes(),
        metadata: Vec::new(),
    }
}

fn log_directory(server: &Server) -> PathBuf {
    server.data().join("log")
}

/// The names of files that end so, and their bytes in all.
fn files(directory: &Path, end: &str) -> (Vec<String>, u64) {
    let mut found = Vec::new();
    let mut bytes = 0;
    for file in std::fs::read_dir(directory).into_iter().flatten() {
        let file = file.unwrap();
        let name = file.file_name().into_string().unwrap();
        if name.ends_with(end) {
            bytes += file.metadata().unwrap().len();
            found.push(name);
        }
    }
    found.sort();
    (found, bytes)
}

/// A server over a log of many segments, which has not begun yet.
async fn prepared(toml: &str) -> Server {
    let server = Server::laid_out(&[("q.sql", SQL)], toml);
    let options = LogOptions { segment_bytes_max: 8000, ..LogOptions::default() };
    let log = Log::open(&log_directory(&server), options).unwrap();
    for first in (1..=EVENTS).step_by(PER_COMMIT as usize) {
        log.append((first..first + PER_COMMIT).map(event).collect::<Vec<_>>()).await.unwrap();
    }
    log.close();
    drop(log);
    server
}

/// A server's answers about its log and its view.
async fn answers(server: &Server, events: u64) -> Vec<String> {
    let path = format!("/v1/views/totals/rows?limit=100&min_position={events}&timeout=30s");
    let answered = || async { server.get(&path).await["rows"].is_array() };
    server.until_within(Duration::from_secs(60), true, answered).await;
    let rows = server.get(&path).await["rows"].clone();
    let mut rows: Vec<String> = rows.as_array().unwrap().iter().map(Value::to_string).collect();
    rows.sort();
    let mut all = vec![rows.join("\n")];
    for after in [0, 1, 777, events - 3] {
        all.push(server.get_text(&format!("/v1/events?after={after}")).await);
    }
    for (stream, version) in [("s3", 1), ("s0", 200), ("s6", 400)] {
        let path = format!("/v1/streams/{stream}?from_version={version}&limit=50");
        all.push(server.get(&path).await["events"].to_string());
    }
    all
}

async fn archived(server: &Server, end: &'static str, count: usize) {
    let directory = log_directory(server);
    let here = || async { files(&directory, end).0.len() };
    server.until_within(Duration::from_secs(60), count, here).await;
}

#[track_caller]
fn verified(server: &Server, environment: &[(String, String)]) {
    let output = heliostat(&["log", "verify", server.data().to_str().unwrap()], environment);
    assert!(output.status.success(), "{}", text(&output));
    assert!(text(&output).contains(&format!("ok: {EVENTS} events")), "{}", text(&output));
}

#[tokio::test]
async fn archived_segments_are_smaller_and_read_as_before() {
    let server = prepared("").await;
    server.run();
    let expected = answers(&server, EVENTS).await;
    server.end();
    let (segments, bytes) = files(&log_directory(&server), ".log2");
    assert!(segments.len() >= 10, "{segments:?}");
    server.configure("[archive]\nafter_ms = 1\n");
    server.run();
    // All but the one that is written to.
    archived(&server, ".log2", 1).await;
    let (packed, packed_bytes) = files(&log_directory(&server), ".log3");
    assert_eq!(packed.len(), segments.len() - 1);
    assert!(packed_bytes < bytes * 3 / 4, "{packed_bytes} of {bytes} bytes");
    assert_eq!(answers(&server, EVENTS).await, expected);
    server.end();
    verified(&server, &[]);
    for without_index in [false, true] {
        if without_index {
            std::fs::remove_dir_all(log_directory(&server).join("index")).unwrap();
        }
        server.run();
        assert_eq!(answers(&server, EVENTS).await, expected);
        let (status, problem) = server
            .post(
                "/v1/events",
                &json!([{"id": "id-5", "type": "Item", "stream": "s5", "data": {"k": 9, "v": 9}}]),
            )
            .await;
        assert_eq!(status, 409, "{problem}");
        server.end();
    }
    // Damage in a block is found, and told where it is.
    let path = log_directory(&server).join(&packed[2]);
    let sound = std::fs::read(&path).unwrap();
    for at in [10, 200, sound.len() - 40, sound.len() - 5] {
        let mut bytes = sound.clone();
        bytes[at] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        let output = heliostat(&["log", "verify", server.data().to_str().unwrap()], &[]);
        // The last bytes of the end are zero, and not looked at.
        let is_found = !output.status.success() && text(&output).contains(&packed[2]);
        assert!(is_found || at == sound.len() - 5, "byte {at}: {}", text(&output));
    }
    std::fs::write(&path, &sound[..sound.len() / 2]).unwrap();
    let output = heliostat(&["log", "verify", server.data().to_str().unwrap()], &[]);
    assert!(!output.status.success() && text(&output).contains(&packed[2]), "{}", text(&output));
    std::fs::write(&path, sound).unwrap();
    verified(&server, &[]);
}

/// Segments that are moved to a store, and read from there.
async fn moved_to(to: &str, environment: &[(String, String)]) -> Server {
    let server = prepared("").await;
    environment.iter().for_each(|(name, value)| server.set_environment(name, value));
    server.run();
    let expected = answers(&server, EVENTS).await;
    server.end();
    let (segments, _) = files(&log_directory(&server), ".log2");
    server.configure(&format!("[archive]\nafter_ms = 1\nto = \"{to}\"\n"));
    server.run();
    archived(&server, ".log2", 1).await;
    archived(&server, ".log3", 0).await;
    assert_eq!(answers(&server, EVENTS).await, expected);
    let fetched = log_directory(&server).join("fetched");
    assert_eq!(files(&fetched, ".log3").0.len(), segments.len() - 1);
    server.end();
    // Fetched segments may go at any time; snapshots and indexes, too.
    std::fs::remove_dir_all(&fetched).unwrap();
    verified(&server, environment);
    std::fs::remove_dir_all(&fetched).unwrap();
    std::fs::remove_dir_all(server.data().join("snapshots")).unwrap();
    std::fs::remove_dir_all(log_directory(&server).join("index")).unwrap();
    server.run();
    assert_eq!(answers(&server, EVENTS).await, expected);

    // A backup has the segments, and a server made from it needs no store of segments.
    let place = tempfile::tempdir().unwrap();
    let place = place.path().to_str().unwrap();
    let data = server.data();
    let backup =
        heliostat(&["backup", "--to", place, "--data-dir", data.to_str().unwrap()], environment);
    assert!(backup.status.success(), "{}", text(&backup));
    let middle: Value = serde_json::from_str(
        server.get_text("/v1/events?after=1499&limit=1").await.lines().next().unwrap(),
    )
    .unwrap();
    for until in [None, middle["tick"].as_u64()] {
        let restored = Server::laid_out(&[], "");
        let (data, queries) = (restored.data(), restored.queries());
        let mut arguments = vec!["restore", "--from", place, "--data-dir", data.to_str().unwrap()];
        arguments.extend(["--queries", queries.to_str().unwrap()]);
        let until_text = until.unwrap_or_default().to_string();
        if until.is_some() {
            arguments.extend(["--until", &until_text]);
        }
        let output = heliostat(&arguments, &[]);
        assert!(output.status.success(), "{}", text(&output));
        restored.run();
        match until {
            None => assert_eq!(answers(&restored, EVENTS).await, expected),
            Some(_) => {
                let events = restored.get_text("/v1/events?after=0").await;
                let end = events.lines().count() as u64;
                assert!((1500..1500 + PER_COMMIT).contains(&end), "{end}");
                let appended =
                    restored.append(&json!([{"type": "Item", "data": {"k": 1, "v": 1}}])).await;
                assert_eq!(appended["last_position"], end + 1, "{appended}");
            }
        }
    }
    server
}

#[tokio::test]
async fn segments_in_a_directory_are_read_from_there() {
    let to = tempfile::tempdir().unwrap();
    let server = moved_to(to.path().to_str().unwrap(), &[]).await;
    let objects = to.path().join("archive");
    let objects = std::fs::read_dir(objects).unwrap().next().unwrap().unwrap().path();
    let (names, _) = files(&objects, ".log3");
    assert!(names.len() >= 10, "{names:?}");
    server.end();
    // A new place in the configuration is not taken: it would have none of the segments archived so far.
    let other = tempfile::tempdir().unwrap();
    server.configure(&format!("[archive]\nafter_ms = 1\nto = \"{}\"\n", other.path().display()));
    server.run();
    server.append(&json!([{"type": "Item", "data": {"k": 1, "v": 1}}])).await;
    server.end();
    // A lost segment is named, and only requests that need it miss it.
    std::fs::remove_dir_all(log_directory(&server).join("fetched")).unwrap();
    std::fs::remove_file(objects.join(&names[1])).unwrap();
    let output = heliostat(&["log", "verify", server.data().to_str().unwrap()], &[]);
    assert!(!output.status.success() && text(&output).contains(&names[1]), "{}", text(&output));
    server.run();
    let (status, problem) = server.try_get("/v1/events?after=0").await;
    assert!(status == 500 || status == 200, "{status}: {problem}");
    let events = server.get_text(&format!("/v1/events?after={}", EVENTS - 500)).await;
    assert_eq!(events.lines().count(), 501);
    server.end();
    // Trimmed segments are removed from the object store, too.
    let queries = server.queries();
    let trim = heliostat(
        &[
            "log",
            "trim",
            "--before",
            names[1].split('.').next().unwrap(),
            "--data-dir",
            server.data().to_str().unwrap(),
            "--queries",
            queries.to_str().unwrap(),
        ],
        &[],
    );
    assert!(trim.status.success(), "{}", text(&trim));
    let (left, _) = files(&objects, ".log3");
    assert!(!left.contains(&names[0]), "{left:?}: {}", text(&trim));
}

#[tokio::test]
async fn segments_in_s3_are_read_from_there_and_a_store_that_is_away_is_named() {
    clients();
    let s3 = S3Server::start().await;
    let server = moved_to("s3://bucket/logs", &s3.environment()).await;
    std::fs::remove_dir_all(log_directory(&server).join("fetched")).unwrap();
    server.end();
    drop(s3);
    // Without the store the server begins, goes on from its snapshot and takes events.
    server.run();
    let answer = server.append(&json!([{"type": "Item", "data": {"k": 1, "v": 1}}])).await;
    assert_eq!(answer["last_position"], EVENTS + 1);
    let path = format!("/v1/views/totals/rows?limit=100&min_position={}&timeout=30s", EVENTS + 1);
    let answered = || async { server.get(&path).await["rows"].is_array() };
    server.until_within(Duration::from_secs(60), true, answered).await;
    let (status, problem) = server.try_get("/v1/events?after=0&limit=1").await;
    assert_eq!(status, 500, "{problem}");
    let told = problem.to_string();
    assert!(told.contains("log_unreadable") && told.contains("s3://bucket/logs"), "{told}");
}

#[cfg(feature = "failpoints")]
#[tokio::test]
async fn crash_at_any_point_of_archiving_loses_nothing() {
    let to = tempfile::tempdir().unwrap();
    let to = to.path().display();
    let server = prepared("").await;
    server.run();
    let expected = answers(&server, EVENTS).await;
    server.end();
    let toml = format!("single_process = true\n[archive]\nafter_ms = 1\nto = \"{to}\"\n");
    server.configure(&toml);
    let points =
        ["log_rewrite_copied", "log_rewrite_indexed", "log_rewrite_listed", "log_archive_moved"];
    for point in points {
        for nth in [0, 1] {
            server.without_environment();
            server.set_environment("FAILPOINTS", &format!("{point}={nth}*off->return"));
            assert_eq!(server.ends().code(), None, "{point}: it is killed by a signal");
            verified(&server, &[]);
        }
    }
    server.without_environment();
    server.run();
    archived(&server, ".log2", 1).await;
    archived(&server, ".log3", 0).await;
    assert_eq!(answers(&server, EVENTS).await, expected);
}

#[tokio::test]
async fn wrong_settings_of_the_archive_are_refused() {
    for (toml, expected) in [
        ("[archive]\nto = \"s3://bucket/x\"\n", "after_ms"),
        ("[archive]\nafter_ms = 1\nto = \"ftp://x/y\"\n", "expected a directory, s3://"),
        ("[archive]\nafter_days = 1\n", "after_days"),
    ] {
        Server::assert_refused(&[("q.sql", SQL)], toml, expected);
    }
}
