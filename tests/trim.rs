//! `heliostat log trim`: what goes, what stays, and what a server over such a log answers and refuses.

mod common;

use std::path::{Path, PathBuf};
use std::process::Output;

use common::{Server, heliostat, text};
use heliostat::internals::log::{Log, LogOptions};
use heliostat::internals::model::NewEvent;
use serde_json::{Value, json};

/// A snapshot whenever there is something new.
const EAGER: &str = "[limits]\nsnapshot_events_min = 1\nsnapshot_interval_ms_min = 1\n";

const SQL: &str = "
CREATE TABLE changes (k BIGINT NOT NULL, v BIGINT NOT NULL) WITH (event_type = 'Item');
CREATE MATERIALIZED VIEW totals AS SELECT k, count(*) AS n, sum(v) AS total FROM changes GROUP BY k;
CREATE MATERIALIZED VIEW large AS SELECT k, v FROM changes WHERE v > 8;
";
const VIEWS: [&str; 2] = ["totals", "large"];
/// The events of the log before it is trimmed, in commits of so many.
const EVENTS: u64 = 600;
const PER_COMMIT: u64 = 5;

fn data(n: u64) -> String {
    // The bytes are those that a client of HTTP writes below: others would have to be compared as values.
    format!(r#"{{"k":{},"v":{}}}"#, n % 17, n % 11)
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

/// The same over HTTP.
fn posted(n: u64) -> Value {
    let data: Value = serde_json::from_str(&data(n)).unwrap();
    json!({"id": format!("id-{n}"), "type": "Item", "stream": format!("s{}", n % 7), "data": data})
}

fn posted_from(from: u64, to: u64) -> Value {
    (from..=to).map(posted).collect()
}

fn log_directory(server: &Server) -> PathBuf {
    server.data().join("log")
}

/// The segments' files, in order.
fn segments(server: &Server) -> Vec<String> {
    let files = std::fs::read_dir(log_directory(server)).unwrap();
    let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.filter(|name| name.ends_with(".log2")).collect();
    names.sort();
    names
}

fn first(segment: &str) -> u64 {
    segment.split('.').next().unwrap().parse().unwrap()
}

async fn rows(server: &Server, position: u64) -> Vec<String> {
    let mut all = Vec::new();
    for view in VIEWS {
        all.push(format!("{view}: {}", server.row_lines(view, position).await));
    }
    all
}

fn log_command(data: &Path, arguments: &[&str]) -> Output {
    let place = ["--data-dir", data.to_str().unwrap()];
    heliostat(&[&["log"], arguments, &place].concat(), &[])
}

fn trim(server: &Server, before: &str, more: &[&str]) -> Output {
    let queries = server.queries();
    let arguments = ["trim", "--before", before, "--queries", queries.to_str().unwrap()];
    log_command(&server.data(), &[&arguments, more].concat())
}

#[track_caller]
fn verified(server: &Server) -> String {
    let output = log_command(&server.data(), &["verify"]);
    assert!(output.status.success(), "{}", text(&output));
    text(&output)
}

/// A server that has ended over a log of many segments; all its views are in a snapshot.
async fn ended_server(sql: &str, views: &[&str]) -> (Server, Vec<String>) {
    let server = Server::laid_out(&[("q.sql", sql)], EAGER);
    let options = LogOptions { segment_bytes_max: 3000, ..LogOptions::default() };
    let log = Log::open(&log_directory(&server), options).unwrap();
    for first in (1..=EVENTS).step_by(PER_COMMIT as usize) {
        log.append((first..first + PER_COMMIT).map(event).collect::<Vec<_>>()).await.unwrap();
    }
    log.close();
    drop(log);
    server.run();
    server.live(views).await;
    let shown = if views == VIEWS { rows(&server, EVENTS).await } else { Vec::new() };
    server.end();
    assert!(segments(&server).len() >= 8, "{:?}", segments(&server));
    (server, shown)
}

#[tokio::test]
async fn trimmed_log_goes_on_and_refuses_what_it_has_not() {
    let (server, shown) = ended_server(SQL, &VIEWS).await;
    let before = segments(&server);
    let kept = before.iter().find(|name| first(name) > 400).unwrap().clone();
    let dry = trim(&server, "430", &["--dry-run"]);
    assert!(dry.status.success(), "{}", text(&dry));
    assert_eq!(segments(&server), before, "nothing was changed");
    let trimmed = trim(&server, "430", &[]);
    assert!(trimmed.status.success(), "{}", text(&trimmed));
    let after = segments(&server);
    let begin = first(&after[0]);
    assert!(after.len() < before.len() && begin > 1 && begin <= 430, "{after:?}");
    assert!(begin >= first(&kept) || first(&kept) > 430, "all whole segments went: {after:?}");
    let through = begin - 1;
    for told in [text(&dry), text(&trimmed)] {
        for consequence in [
            &format!("positions 1 to {through}"),
            "new, changes or is rebuilt",
            &format!("answer 410 for positions up to {through}"),
        ] {
            assert!(told.contains(consequence), "{consequence}: {told}");
        }
    }
    assert!(verified(&server).contains(&format!("trimmed  up to position {through}")));
    let (data, queries) = (server.data(), server.queries());
    let [data, queries] = [&data, &queries].map(|path| path.to_str().unwrap());
    let replay =
        ["replay", "--view", "totals", "--data-dir", data, "--until", "1", "--queries", queries];
    let replay = heliostat(&replay, &[]);
    assert!(text(&replay).contains("trimmed"), "{}", text(&replay));

    // The second round makes the indexes anew.
    for without_index in [false, true] {
        if without_index {
            std::fs::remove_dir_all(log_directory(&server).join("index")).unwrap();
        }
        server.run();
        server.live(&VIEWS).await;
        for view in VIEWS {
            let start = server.get(&format!("/v1/views/{view}")).await["start"]["how"].clone();
            assert_eq!(start, "resumed", "{view}");
        }
        assert_eq!(rows(&server, EVENTS).await, shown);
        for after in [0, through - 1] {
            let (status, problem) = server.try_get(&format!("/v1/events?after={after}")).await;
            assert_eq!(status, 410, "{problem}");
            assert_eq!(problem["errors"][0]["code"], "trimmed", "{problem}");
            let told = problem.to_string();
            assert!(
                told.contains(&format!("events up to position {through} were trimmed")),
                "{told}"
            );
        }
        let events = server.get_text(&format!("/v1/events?after={through}")).await;
        assert_eq!(events.lines().count() as u64, EVENTS - through);
        // A stream tells from where on it can be read.
        let (status, problem) = server.try_get("/v1/streams/s3").await;
        assert_eq!(status, 410, "{problem}");
        let told = problem.to_string();
        let (_, rest) = told.split_once("from version ").unwrap_or_else(|| panic!("{told}"));
        let version: u64 = rest.split(' ').next().unwrap().parse().unwrap();
        let stream = server.get(&format!("/v1/streams/s3?from_version={version}")).await;
        let positions: Vec<u64> = stream["events"]
            .as_array()
            .unwrap()
            .iter()
            .map(|event| event["position"].as_u64().unwrap())
            .collect();
        assert_eq!(positions, (begin..=EVENTS).filter(|n| n % 7 == 3).collect::<Vec<_>>());
        let (status, _) =
            server.try_get(&format!("/v1/streams/s3?from_version={}", version - 1)).await;
        assert_eq!(status, 410);
        // Trimmed events are still known: a repeated one is not stored again, and one that differs is
        // refused.
        let answer = server.append(&posted_from(1, EVENTS)).await;
        assert_eq!(answer["accepted"], 0, "{answer}");
        let mut other = posted(10);
        other["data"]["v"] = json!(1000);
        let (status, problem) = server.post("/v1/events", &json!([other])).await;
        assert_eq!(status, 409, "{problem}");
        server.end();
    }

    server.run();
    let answer = server.append(&posted_from(EVENTS + 1, EVENTS + 70)).await;
    assert_eq!(answer["last_position"], EVENTS + 70, "{answer}");
    let stream = server.get("/v1/streams/s3?from_version=90").await;
    assert_eq!(stream["stream_version"], (1..=EVENTS + 70).filter(|n| n % 7 == 3).count());
    let all = Server::start(&[("q.sql", SQL)]);
    all.append(&posted_from(1, EVENTS + 70)).await;
    assert_eq!(rows(&server, EVENTS + 70).await, rows(&all, EVENTS + 70).await);

    // A view that would need all events fails, loudly, and the others go on.
    server.write("new.sql", "CREATE MATERIALIZED VIEW late AS SELECT max(v) AS m FROM changes;");
    let failed = || async { server.get("/v1/views/late").await["status"].clone() };
    server.until(json!("failed"), failed).await;
    let late = server.get("/v1/views/late").await.to_string();
    assert!(late.contains(&format!("events up to position {through} were trimmed")), "{late}");
    let answer = server.append(&posted_from(EVENTS + 71, EVENTS + 80)).await;
    assert_eq!(answer["accepted"], 10);
    all.append(&posted_from(EVENTS + 71, EVENTS + 80)).await;
    assert_eq!(rows(&server, EVENTS + 80).await, rows(&all, EVENTS + 80).await);
    server.remove("new.sql");
    server.live(&VIEWS).await;
    let gone = || async { server.try_get("/v1/views/late").await.0 };
    server.until(404, gone).await;
    server.end();

    // The log can be trimmed again. Indexes that are made anew then need both files of trimmed events.
    let again = trim(&server, &EVENTS.to_string(), &[]);
    assert!(again.status.success(), "{}", text(&again));
    let last = first(&segments(&server)[0]) - 1;
    assert!(last > through, "{}", text(&again));
    std::fs::remove_dir_all(log_directory(&server).join("index")).unwrap();
    verified(&server);
    server.run();
    let answer = server.append(&posted_from(1, EVENTS + 80)).await;
    assert_eq!(answer["accepted"], 0, "{answer}");

    // A backup has it as it is, and a server made from it answers the same.
    let place = tempfile::tempdir().unwrap();
    let place = place.path().to_str().unwrap();
    let backup =
        server.command(&["backup", "--to", place, "--data-dir", server.data().to_str().unwrap()]);
    assert!(backup.status.success(), "{}", text(&backup));
    let shown = rows(&server, EVENTS + 80).await;
    let restored = Server::laid_out(&[], EAGER);
    let output = server.command(&[
        "restore",
        "--from",
        place,
        "--data-dir",
        restored.data().to_str().unwrap(),
        "--queries",
        restored.queries().to_str().unwrap(),
    ]);
    assert!(output.status.success(), "{}", text(&output));
    restored.run();
    restored.live(&VIEWS).await;
    assert_eq!(rows(&restored, EVENTS + 80).await, shown);
    let answer = restored.append(&posted_from(1, EVENTS + 81)).await;
    assert_eq!(answer["accepted"], 1, "{answer}");
    let (status, _) = restored.try_get(&format!("/v1/events?after={}", last - 1)).await;
    assert_eq!(status, 410);
}

#[tokio::test]
async fn later_view_over_upsert_tables_is_filled_without_what_was_trimmed() {
    let table = "CREATE TABLE items (k BIGINT, v BIGINT NOT NULL, PRIMARY KEY (k)) WITH (event_type = 'Item', mode = 'upsert');";
    let latest = format!("{table} CREATE MATERIALIZED VIEW latest AS SELECT k, v FROM items;");
    let later =
        "CREATE MATERIALIZED VIEW by_value AS SELECT v, count(*) AS n FROM items GROUP BY v;";
    let (all, _) = ended_server(&format!("{latest}{later}"), &["latest", "by_value"]).await;
    all.run();
    let (server, _) = ended_server(&latest, &["latest"]).await;
    let trimmed = trim(&server, "430", &[]);
    assert!(trimmed.status.success(), "{}", text(&trimmed));
    assert!(first(&segments(&server)[0]) > 1, "{}", text(&trimmed));
    server.write("later.sql", later);
    server.run();
    server.live(&["latest", "by_value"]).await;
    assert_eq!(server.starts(&["latest", "by_value"]).await, [json!("resumed"), json!("filled")]);
    let shown = server.row_lines("by_value", EVENTS).await;
    assert_eq!(shown, all.row_lines("by_value", EVENTS).await);
}

#[tokio::test]
async fn lost_first_segment_of_a_trimmed_log_is_damage() {
    let (server, shown) = ended_server(SQL, &VIEWS).await;
    let before = segments(&server);
    let leftover = std::fs::read(log_directory(&server).join(&before[1])).unwrap();
    assert!(trim(&server, "300", &[]).status.success());
    let after = segments(&server);
    // A trimmed segment that a crash has left behind is removed.
    std::fs::write(log_directory(&server).join(&before[1]), leftover).unwrap();
    verified(&server);
    server.run();
    server.live(&VIEWS).await;
    assert_eq!(segments(&server), after);
    assert_eq!(rows(&server, EVENTS).await, shown);
    server.end();
    // A segment that is there is missed.
    let path = log_directory(&server).join(&after[0]);
    let bytes = std::fs::read(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    let output = log_command(&server.data(), &["verify"]);
    assert!(
        !output.status.success() && text(&output).contains("it is missing"),
        "{}",
        text(&output)
    );
    assert!(text(&output).contains(&after[0]), "{}", text(&output));
    std::fs::write(&path, bytes).unwrap();
    // And so is what is known of trimmed events.
    let known = std::fs::read_dir(log_directory(&server))
        .unwrap()
        .map(|file| file.unwrap().path())
        .find(|path| path.file_name().unwrap().to_string_lossy().starts_with("trimmed-"))
        .unwrap();
    let mut bytes = std::fs::read(&known).unwrap();
    bytes[100] ^= 1;
    std::fs::write(&known, bytes).unwrap();
    let output = log_command(&server.data(), &["verify"]);
    assert!(!output.status.success() && text(&output).contains("checksum"), "{}", text(&output));
}

#[tokio::test]
async fn trim_is_refused_where_a_view_needs_the_whole_log() {
    let history = "CREATE MATERIALIZED VIEW past WITH (history = true) AS SELECT k, sum(v) AS s FROM changes GROUP BY k;";
    let (server, _) = ended_server(&format!("{SQL}{history}"), &["totals", "large"]).await;
    let before = segments(&server);
    let output = trim(&server, "300", &[]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    assert!(
        text(&output).contains("past needs the whole log: it keeps its history"),
        "{}",
        text(&output)
    );
    // A view that has changed since has no snapshot.
    server.write("q.sql", &SQL.replace("v > 8", "v > 9"));
    let output = trim(&server, "300", &[]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    assert!(
        text(&output).contains("large needs the whole log: it has no snapshot"),
        "{}",
        text(&output)
    );
    // A view whose file has errors may need any part of the log.
    server.write("q.sql", &SQL.replace("v > 8", "nothing > 8"));
    let output = trim(&server, "300", &[]);
    assert!(!output.status.success() && text(&output).contains("have errors"), "{}", text(&output));
    assert_eq!(segments(&server), before);
    // Only whole segments go, and never the one that is written to.
    server.write("q.sql", SQL);
    let output = trim(&server, "5", &[]);
    assert!(
        output.status.success() && text(&output).contains("nothing is to be trimmed"),
        "{}",
        text(&output)
    );
    let output = trim(&server, "soon", &[]);
    assert!(
        !output.status.success() && text(&output).contains("expected a position or a time"),
        "{}",
        text(&output)
    );
    server.run();
    let output = trim(&server, "300", &[]);
    assert!(!output.status.success() && text(&output).contains("in use"), "{}", text(&output));
    server.end();
    let output = trim(&server, "2100-01-01T00:00:00Z", &[]);
    assert!(output.status.success(), "{}", text(&output));
    assert_eq!(segments(&server).len(), 1, "{}", text(&output));
    verified(&server);
}
