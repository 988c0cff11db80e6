//! Damage of the log, seen from outside: flipped bytes, segments that are gone, and their repair.

mod common;

use std::path::{Path, PathBuf};
use std::process::Output;

use common::Server;
use heliostat::internals::log::{Log, LogOptions, Repair, examine};
use heliostat::internals::model::NewEvent;
use serde_json::{Value, json};

const QUERIES: &[(&str, &str)] = &[(
    "q.sql",
    "CREATE TABLE n (x BIGINT NOT NULL) WITH (event_type = 'N');
     CREATE MATERIALIZED VIEW total AS SELECT count(*) AS n, sum(x) AS s FROM n;",
)];
/// The events of a small log: those of each commit are of one frame, and a segment has a few.
const EVENTS: u64 = 200;
const PER_COMMIT: u64 = 5;

fn event(n: u64) -> NewEvent {
    NewEvent {
        id: format!("id-{n}"),
        source: String::new(),
        event_type: "N".to_string(),
        version: 1,
        stream: Some(format!("s{}", n % 7)),
        time_us: 0,
        data: format!(r#"{{"x":{n}}}"#).into_bytes(),
        metadata: Vec::new(),
    }
}

fn posted(n: u64) -> Value {
    json!({"id": format!("id-{n}"), "type": "N", "stream": format!("s{}", n % 7), "data": {"x": n}})
}

/// Makes a log of several small segments.
async fn make_log(directory: &Path) {
    let options = LogOptions { segment_bytes_max: 800, ..LogOptions::default() };
    let log = Log::open(directory, options).unwrap();
    for first in (1..=EVENTS).step_by(PER_COMMIT as usize) {
        log.append((first..first + PER_COMMIT).map(event).collect::<Vec<_>>()).await.unwrap();
    }
    log.close();
}

/// A server that does not run yet, over a log of several small segments.
async fn stopped_server() -> Server {
    let server = Server::start(QUERIES);
    server.kill();
    std::fs::remove_dir_all(server.data()).unwrap();
    make_log(&log_directory(&server)).await;
    assert!(segments(&server).len() >= 5, "{:?}", segments(&server));
    server
}

fn log_directory(server: &Server) -> PathBuf {
    server.data().join("log")
}

/// The segments' files with their first positions.
fn segments(server: &Server) -> Vec<(PathBuf, u64)> {
    let entries = std::fs::read_dir(log_directory(server)).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    let mut segments: Vec<(PathBuf, u64)> = paths
        .filter(|path| path.extension().is_some_and(|e| e == "log2"))
        .map(|path| (path.clone(), path.file_stem().unwrap().to_str().unwrap().parse().unwrap()))
        .collect();
    segments.sort();
    segments
}

fn name(path: &Path) -> String {
    path.file_name().unwrap().to_str().unwrap().to_string()
}

fn flip(path: &Path, offset: usize) {
    let mut bytes = std::fs::read(path).unwrap();
    bytes[offset] ^= 0x10;
    std::fs::write(path, bytes).unwrap();
}

fn log_command(server: &Server, arguments: &[&str]) -> (i32, String) {
    let data = server.data();
    let data = data.to_str().unwrap();
    let Output { status, stdout, stderr } =
        server.command(&[&["log"], arguments, &["--data-dir", data]].concat());
    let text = [stdout, stderr].concat();
    (status.code().unwrap(), String::from_utf8(text).unwrap())
}

/// The exit code and the output of a server that refuses to start.
fn refusal(server: &Server) -> (i32, String) {
    let (data, queries) = (server.data(), server.queries());
    let Output { status, stderr, .. } = server.command(&[
        "serve",
        "--listen",
        "127.0.0.1:0",
        "--no-clickhouse",
        "--data-dir",
        data.to_str().unwrap(),
        "--queries",
        queries.to_str().unwrap(),
    ]);
    (status.code().unwrap(), String::from_utf8(stderr).unwrap())
}

async fn status_of_view(server: &Server) -> String {
    server.get("/v1/views/total").await["status"].as_str().unwrap().to_string()
}

/// The row of the view once it is live.
async fn total(server: &Server) -> (u64, u64) {
    server.until("live".to_string(), || status_of_view(server)).await;
    let rows = server.get("/v1/views/total/rows").await;
    let row = &rows["rows"][0];
    let number = |value: &Value| value.to_string().trim_matches('"').parse().unwrap();
    (number(&row["n"]), number(&row["s"]))
}

/// The problems of the log that `/readyz` lists, as `subject: message`.
async fn wrong(server: &Server) -> Vec<String> {
    let ready = server.get("/readyz").await;
    let wrong = ready["wrong"].as_array().unwrap_or_else(|| panic!("{ready}"));
    let log = wrong.iter().filter(|wrong| wrong["part"] == "log");
    let text = |value: &Value| value.as_str().unwrap().to_string();
    log.map(|w| format!("{}: {}", text(&w["subject"]), text(&w["message"]))).collect()
}

/// The positions of the events that are answered, and whether the answer is whole.
async fn read(server: &Server, path: &str) -> (u16, Vec<u64>, bool) {
    let mut response =
        heliostat::internals::http::client().get(server.url(path)).send().await.unwrap();
    let status = response.status().as_u16();
    let (mut bytes, mut whole) = (Vec::new(), false);
    loop {
        match response.chunk().await {
            Ok(Some(chunk)) => bytes.extend(chunk),
            Ok(None) => {
                whole = true;
                break;
            }
            Err(_) => break,
        }
    }
    let text = String::from_utf8(bytes).unwrap();
    if status != 200 {
        let problem: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(problem["errors"][0]["code"], "log_damaged", "{problem}");
        return (status, Vec::new(), whole);
    }
    let position = |line: &str| -> Option<u64> {
        serde_json::from_str::<Value>(line).ok()?["position"].as_u64()
    };
    (status, text.lines().filter_map(position).collect(), whole)
}

/// The sum of `x` over these events.
fn sum(events: impl Iterator<Item = u64>) -> u64 {
    events.sum()
}

#[tokio::test]
async fn a_flipped_byte_in_an_old_segment_fails_views_and_appends_go_on() {
    let server = stopped_server().await;
    let (path, first) = segments(&server)[1].clone();
    let next_segment = segments(&server)[2].1;
    // The second frame of the segment.
    let second_frame = 64 + frame_bytes(&path, 64);
    flip(&path, second_frame + 50);
    server.run();
    server.until("failed".to_string(), || status_of_view(&server)).await;
    let alarms = wrong(&server).await;
    assert_eq!(alarms.len(), 1, "{alarms:?}");
    for expected in [&name(&path), &format!("offset {second_frame}"), "heliostat log repair"] {
        assert!(alarms[0].contains(expected), "{expected}: {alarms:?}");
    }
    assert_eq!(
        heliostat::internals::http::client()
            .get(server.url("/readyz"))
            .send()
            .await
            .unwrap()
            .status()
            .as_u16(),
        200
    );

    let appended = server.append(&posted(1000)).await;
    assert_eq!(appended["first_position"], EVENTS + 1);
    let again = server.append(&posted(first + PER_COMMIT)).await;
    assert_eq!((&again["duplicates"], &again["first_position"]), (&json!(1), &json!(first + 5)));

    let (status, positions, whole) = read(&server, "/v1/events").await;
    assert_eq!((status, whole), (200, false), "it ends with an error");
    assert_eq!(positions, (1..first + PER_COMMIT).collect::<Vec<_>>());
    let before = first + PER_COMMIT - 1;
    let at_once = read(&server, &format!("/v1/events?after={before}")).await;
    assert_eq!(at_once.0, 500);
    let following = read(&server, &format!("/v1/events?after={before}&follow=true")).await;
    assert_eq!(following.0, 500);
    // Behind the frame, also where that lies in the same segment.
    for after in [first + 2 * PER_COMMIT - 1, next_segment - 1] {
        let (status, positions, whole) = read(&server, &format!("/v1/events?after={after}")).await;
        assert_eq!((status, whole), (200, true));
        assert_eq!(positions, (after + 1..=EVENTS + 1).collect::<Vec<_>>());
    }

    let (code, told) = log_command(&server, &["verify"]);
    assert_eq!(code, 1, "{told}");
    let place = format!("{}, offset {second_frame}", name(&path));
    assert!(told.contains(&place) && told.contains("1 problem"), "{told}");
    let (code, told) = log_command(&server, &["repair"]);
    assert_eq!(code, 3, "a server has the log open: {told}");

    server.kill();
    let before = contents(&server);
    let (code, told) = log_command(&server, &["repair"]);
    let (from, to) = (first + PER_COMMIT, first + 2 * PER_COMMIT - 1);
    assert_eq!(code, 1, "{told}");
    assert!(told.contains(&format!("positions {from} to {to}, 5 events")), "{told}");
    assert!(contents(&server) == before, "nothing was changed");
    assert_eq!(log_command(&server, &["repair", "--accept-loss"]).0, 0);
    let (code, told) = log_command(&server, &["repair", "--accept-loss"]);
    assert!(code == 0 && told.contains("nothing is to be repaired"), "{told}");
    let (code, told) = log_command(&server, &["verify"]);
    assert!(code == 0 && told.contains(&format!("positions {from} to {to}")), "{told}");

    server.run();
    let left = || (1..=EVENTS).filter(|n| !(from..=to).contains(n)).chain([1000]);
    assert_eq!(total(&server).await, (EVENTS - 4, sum(left())));
    assert_eq!(wrong(&server).await, Vec::<String>::new());
    let (_, positions, whole) = read(&server, "/v1/events").await;
    assert!(whole);
    let expected = (1..=EVENTS + 1).filter(|n| !(from..=to).contains(n));
    assert_eq!(positions, expected.collect::<Vec<_>>());
    // Lost events can be sent again, and are new.
    let again = server.append(&posted(from)).await;
    assert_eq!((&again["accepted"], &again["first_position"]), (&json!(1), &json!(EVENTS + 2)));
    let known = server.append(&posted(to + 1)).await;
    assert_eq!((&known["duplicates"], &known["first_position"]), (&json!(1), &json!(to + 1)));
}

/// The length of the frame at an offset.
fn frame_bytes(path: &Path, offset: usize) -> usize {
    let bytes = std::fs::read(path).unwrap();
    64 + u32::from_le_bytes(bytes[offset + 8..offset + 12].try_into().unwrap()) as usize
}

/// All files of the log beside the indexes.
fn contents(server: &Server) -> Vec<(PathBuf, Vec<u8>)> {
    let entries = std::fs::read_dir(log_directory(server)).unwrap();
    let files = entries.map(|entry| entry.unwrap().path()).filter(|path| path.is_file());
    let mut files: Vec<_> =
        files.map(|path| (path.clone(), std::fs::read(path).unwrap())).collect();
    files.sort();
    files
}

#[tokio::test]
async fn a_missing_old_segment_is_named_and_positions_go_on_behind_the_last_one() {
    for which in [0, 2] {
        let server = stopped_server().await;
        let (path, first) = segments(&server)[which].clone();
        let end = segments(&server)[which + 1].1;
        let saved = std::fs::read(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        server.run();
        server.until("failed".to_string(), || status_of_view(&server)).await;
        let alarms = wrong(&server).await;
        assert!(alarms[0].contains(&name(&path)) && alarms.len() == 1, "{alarms:?}");
        assert_eq!(server.append(&posted(1000)).await["first_position"], EVENTS + 1);
        let (status, positions, whole) = read(&server, "/v1/events").await;
        match which {
            0 => assert_eq!(status, 500),
            _ => assert_eq!((status, positions, whole), (200, (1..first).collect(), false)),
        }
        let behind = read(&server, &format!("/v1/events?after={}", end - 1)).await;
        assert_eq!(behind, (200, (end..=EVENTS + 1).collect(), true));
        server.kill();

        let (code, told) = log_command(&server, &["verify"]);
        assert!(code == 1 && told.contains(&name(&path)), "{told}");
        // Once it is back all is well.
        std::fs::write(&path, saved).unwrap();
        assert_eq!(log_command(&server, &["verify"]).0, 0);
        std::fs::remove_file(&path).unwrap();

        let (code, told) = log_command(&server, &["repair"]);
        let lost = format!("positions {first} to {}", end - 1);
        assert!(code == 1 && told.contains(&lost), "{told}");
        assert_eq!(log_command(&server, &["repair", "--accept-loss"]).0, 0);
        let (code, told) = log_command(&server, &["verify"]);
        assert!(code == 0 && told.contains(&lost), "{told}");
        server.run();
        let left = || (1..=EVENTS).filter(|n| !(first..end).contains(n)).chain([1000]);
        assert_eq!(total(&server).await, (left().count() as u64, sum(left())));
        let (_, positions, whole) = read(&server, "/v1/events").await;
        let expected = (1..=EVENTS + 1).filter(|n| !(first..end).contains(n));
        assert_eq!((positions, whole), (expected.collect(), true));
        assert_eq!(server.append(&posted(first)).await["first_position"], EVENTS + 2);
    }
}

#[tokio::test]
async fn without_its_last_segment_a_log_is_not_served_and_no_position_is_used_twice() {
    let server = stopped_server().await;
    let (path, first) = segments(&server).pop().unwrap();
    std::fs::remove_file(&path).unwrap();
    let (code, told) = refusal(&server);
    assert_eq!(code, 3, "{told}");
    assert!(told.contains(&name(&path)) && told.contains("heliostat log repair"), "{told}");
    let (code, told) = log_command(&server, &["verify"]);
    assert!(code == 1 && told.contains(&name(&path)) && told.contains("at most"), "{told}");
    assert_eq!(log_command(&server, &["repair", "--accept-loss"]).0, 0);
    assert_eq!(log_command(&server, &["verify"]).0, 0);
    for _ in 0..2 {
        server.run();
        assert_eq!(total(&server).await, (first - 1, sum(1..first)));
        server.kill();
    }
    server.run();
    let appended = server.append(&json!([posted(1000), posted(EVENTS)])).await;
    let position = appended["first_position"].as_u64().unwrap();
    assert!(position > EVENTS && appended["accepted"] == 2, "{appended}");
    let expected = (first + 1, sum((1..first).chain([1000, EVENTS])));
    server.until(expected, || total(&server)).await;
    let (_, positions, whole) = read(&server, "/v1/events").await;
    let expected = (1..first).chain([position, position + 1]);
    assert_eq!((positions, whole), (expected.collect(), true));
}

#[tokio::test]
async fn damage_in_the_last_segment_is_refused_and_repaired_with_the_frames_behind_it() {
    let server = stopped_server().await;
    let (path, first) = segments(&server).pop().unwrap();
    let first_frame = frame_bytes(&path, 64);
    for offset in [20, 64 + 45] {
        let sound = std::fs::read(&path).unwrap();
        flip(&path, offset);
        let (code, told) = refusal(&server);
        assert!(code == 3 && told.contains(&name(&path)), "{told}");
        assert!(told.contains("heliostat log repair"), "{told}");
        assert_eq!(log_command(&server, &["verify"]).0, 1);
        let (code, told) = log_command(&server, &["repair", "--accept-loss"]);
        assert_eq!(code, 0, "{told}");
        if offset == 20 {
            assert!(told.contains("no events"), "{told}");
            assert!(std::fs::read(&path).unwrap() == sound, "the header is as it was");
        }
    }
    assert!(std::fs::metadata(&path).unwrap().len() as usize > 64 + first_frame);
    server.run();
    let left = || (1..=EVENTS).filter(|n| !(first..first + PER_COMMIT).contains(n));
    assert_eq!(total(&server).await, (EVENTS - PER_COMMIT, sum(left())));
    assert_eq!(server.append(&posted(1000)).await["first_position"], EVENTS + 1);
}

#[tokio::test]
async fn bytes_that_were_synced_are_not_taken_for_a_torn_tail() {
    let server = stopped_server().await;
    let (path, _) = segments(&server).pop().unwrap();
    // The log was closed: the last frame is known to be whole.
    let len = std::fs::metadata(&path).unwrap().len() as usize;
    flip(&path, len - 1);
    let (code, told) = refusal(&server);
    assert!(code == 3 && told.contains("synced"), "{told}");
    assert_eq!(std::fs::metadata(&path).unwrap().len() as usize, len, "nothing was cut");
    let (code, told) = log_command(&server, &["repair", "--accept-loss"]);
    assert_eq!(code, 0, "{told}");
    server.run();
    assert_eq!(total(&server).await.0, EVENTS - PER_COMMIT);
    let position = server.append(&posted(EVENTS)).await["first_position"].as_u64().unwrap();
    assert!(position > EVENTS, "{position}");
}

#[tokio::test]
async fn a_list_of_segments_that_is_damaged_or_missing_is_made_again() {
    let server = stopped_server().await;
    let list = log_directory(&server).join("segments");
    let sound = std::fs::read(&list).unwrap();
    flip(&list, 30);
    let (code, told) = log_command(&server, &["verify"]);
    assert!(code == 1 && told.contains("segments"), "{told}");
    server.run();
    assert_eq!(total(&server).await.0, EVENTS);
    assert_eq!(log_command(&server, &["verify"]).0, 0);
    server.kill();

    // An earlier version has left no list.
    std::fs::remove_file(&list).unwrap();
    assert_eq!(log_command(&server, &["verify"]).0, 0);
    server.run();
    assert_eq!(total(&server).await.0, EVENTS);
    server.kill();
    assert!(list.exists());
    let (path, first) = segments(&server)[1].clone();
    let end = segments(&server)[2].1;
    std::fs::remove_file(&list).unwrap();
    std::fs::rename(&path, server.data().join("kept")).unwrap();
    let (code, told) = log_command(&server, &["verify"]);
    assert!(code == 1 && told.contains(&format!("positions {first} to {}", end - 1)), "{told}");
    server.run();
    server.until("failed".to_string(), || status_of_view(&server)).await;
    assert!(wrong(&server).await[0].contains(&name(&path)));
    server.kill();
    std::fs::rename(server.data().join("kept"), &path).unwrap();

    let half = sound.len() / 2;
    std::fs::write(&list, &sound).unwrap();
    flip(&list, 30);
    flip(&list, half + 30);
    let (code, told) = refusal(&server);
    assert!(code == 3 && told.contains("list of segments"), "{told}");
    assert_eq!(log_command(&server, &["repair"]).0, 1);
    assert_eq!(log_command(&server, &["repair", "--accept-loss"]).0, 0);
    server.run();
    assert_eq!(total(&server).await, (EVENTS, sum(1..=EVENTS)));
}

#[tokio::test]
async fn every_kind_of_damage_to_an_old_segment_is_found_and_repaired() {
    type Damage = fn(&Path);
    let kinds: [(&str, Damage); 6] = [
        ("header", |path| flip(path, 9)),
        ("cut short", |path| {
            let bytes = std::fs::read(path).unwrap();
            std::fs::write(path, &bytes[..bytes.len() - 7]).unwrap();
        }),
        ("cut at a frame", |path| {
            let bytes = std::fs::read(path).unwrap();
            std::fs::write(path, &bytes[..64 + frame_bytes(path, 64)]).unwrap();
        }),
        ("empty", |path| std::fs::write(path, b"").unwrap()),
        ("last byte", |path| flip(path, std::fs::metadata(path).unwrap().len() as usize - 1)),
        ("something behind its end", |path| {
            let bytes = std::fs::read(path).unwrap();
            std::fs::write(path, [&bytes[..], b"more"].concat()).unwrap();
        }),
    ];
    for (kind, damage) in kinds {
        let server = stopped_server().await;
        let (path, _) = segments(&server)[1].clone();
        damage(&path);
        server.run();
        server.until("failed".to_string(), || status_of_view(&server)).await;
        let alarms = wrong(&server).await;
        assert!(alarms[0].contains(&name(&path)), "{kind}: {alarms:?}");
        assert_eq!(server.append(&posted(1000)).await["first_position"], EVENTS + 1, "{kind}");
        server.kill();
        let (code, told) = log_command(&server, &["verify"]);
        assert!(code == 1 && told.contains(&name(&path)), "{kind}: {told}");
        let (code, told) = log_command(&server, &["repair", "--accept-loss"]);
        assert_eq!(code, 0, "{kind}: {told}");
        assert_eq!(log_command(&server, &["verify"]).0, 0, "{kind}");
        server.run();
        let (_, positions, whole) = read(&server, "/v1/events").await;
        assert!(whole, "{kind}");
        let count = positions.len() as u64;
        let at_least = if matches!(kind, "header" | "something behind its end") { 0 } else { 1 };
        assert!(EVENTS + 1 - count >= at_least && count > EVENTS / 2, "{kind}: {count} are left");
        assert_eq!(total(&server).await.0, count, "{kind}");
        assert_eq!(wrong(&server).await, Vec::<String>::new(), "{kind}");
    }
}

#[tokio::test]
async fn a_live_view_goes_on_while_a_rebuild_meets_damage() {
    let server = stopped_server().await;
    server.run();
    assert_eq!(total(&server).await.0, EVENTS);
    let (path, first) = segments(&server)[1].clone();
    flip(&path, 64 + 45);
    let (status, _) = server.post("/v1/views/total/rebuild", &json!({})).await;
    assert!(status < 300, "{status}");
    let failed = || async {
        let view = server.get("/v1/views/total").await;
        view["next_generation"]["failed"].as_str().unwrap_or_default().contains(&name(&path))
    };
    server.until(true, failed).await;
    assert!(wrong(&server).await[0].contains(&name(&path)));
    server.append(&posted(1000)).await;
    server.until(EVENTS + 1, || async { total(&server).await.0 }).await;

    // A request that must be compared with an unreadable event is refused, and nothing else is.
    let mut other = posted(first);
    other["data"] = json!({"x": first, "y": 1});
    let (status, problem) = server.post("/v1/events", &other).await;
    assert_eq!((status, &problem["errors"][0]["code"]), (500, &json!("log_damaged")), "{problem}");
    assert!(problem["detail"].as_str().unwrap().contains(&name(&path)), "{problem}");
    let stream = server.get(&format!("/v1/streams/s{}", first % 7)).await;
    assert_eq!(
        (&stream["status"], &stream["errors"][0]["code"]),
        (&json!(500), &json!("log_damaged"))
    );
    assert_eq!(server.append(&posted(1001)).await["first_position"], EVENTS + 2);
    server.until(EVENTS + 2, || async { total(&server).await.0 }).await;
}

#[tokio::test]
async fn events_left_after_a_loss_keep_their_stream_versions() {
    let server = stopped_server().await;
    let (path, first) = segments(&server)[1].clone();
    let end = segments(&server)[2].1;
    std::fs::remove_file(&path).unwrap();
    assert_eq!(log_command(&server, &["repair", "--accept-loss"]).0, 0);
    server.run();
    let stream = server.get("/v1/streams/s3").await;
    let events = stream["events"].as_array().unwrap();
    let found: Vec<(u64, u64)> = events
        .iter()
        .map(|e| (e["stream_version"].as_u64().unwrap(), e["position"].as_u64().unwrap()))
        .collect();
    let all =
        (1..=EVENTS).filter(|n| n % 7 == 3).zip(1..).map(|(position, version)| (version, position));
    let left = all.filter(|(_, position)| !(first..end).contains(position));
    assert_eq!(found, left.collect::<Vec<_>>());
    let page = server.get(&format!("/v1/streams/s3?from_version={}&limit=2", found[3].0)).await;
    let positions: Vec<_> =
        page["events"].as_array().unwrap().iter().map(|e| &e["position"]).collect();
    assert_eq!(positions, [found[3].1, found[4].1]);
}

#[tokio::test]
async fn without_indexes_a_damaged_log_is_not_served_since_ids_are_unknown() {
    let server = stopped_server().await;
    let (path, first) = segments(&server)[1].clone();
    flip(&path, 64 + 45);
    std::fs::remove_dir_all(log_directory(&server).join("index")).unwrap();
    let (code, told) = refusal(&server);
    assert!(code == 3 && told.contains(&name(&path)), "{told}");
    assert!(told.contains("heliostat log repair"), "{told}");
    assert_eq!(log_command(&server, &["repair", "--accept-loss"]).0, 0);
    server.run();
    assert_eq!(total(&server).await.0, EVENTS - PER_COMMIT);
    let again = server.append(&json!([posted(first), posted(first + PER_COMMIT)])).await;
    assert_eq!((&again["accepted"], &again["duplicates"]), (&json!(1), &json!(1)));
}

#[tokio::test]
async fn a_segment_that_is_deleted_under_a_running_server_is_missed_when_it_is_read() {
    let server = stopped_server().await;
    server.run();
    assert_eq!(total(&server).await.0, EVENTS);
    let (old, _) = segments(&server)[1].clone();
    std::fs::remove_file(&old).unwrap();
    let (status, _, whole) = read(&server, "/v1/events").await;
    assert_eq!((status, whole), (200, false));
    assert!(wrong(&server).await[0].contains(&name(&old)));
    assert_eq!(server.append(&posted(1000)).await["first_position"], EVENTS + 1);
    server.until(EVENTS + 1, || async { total(&server).await.0 }).await;
    // No event is acknowledged that would be written to a file without a name.
    let (last, _) = segments(&server).pop().unwrap();
    std::fs::remove_file(&last).unwrap();
    let post =
        heliostat::internals::http::client().post(server.url("/v1/events")).json(&posted(1001));
    if let Ok(answer) = post.send().await {
        assert_eq!(answer.status().as_u16(), 503);
    }
    server.kill();
    let (code, told) = refusal(&server);
    assert!(code == 3 && told.contains(&name(&last)), "{told}");
}

/// Opens a log; the positions of its events, each of which must hold what was written there.
async fn positions_of(directory: &Path) -> Vec<u64> {
    let log = Log::open(directory, LogOptions::default()).unwrap();
    let mut reader = log.read(0).unwrap();
    let mut positions = Vec::new();
    while let Some(frame) = reader.next_frame().unwrap() {
        for event in frame.decompress().unwrap().iter() {
            assert_eq!(event.id, format!("id-{}", event.position));
            positions.push(event.position);
        }
    }
    assert!(positions.is_sorted() && log.head().position >= EVENTS);
    let new = log.append(vec![event(1000)]).await.unwrap();
    assert!(new.first_position > EVENTS && new.stored == 1, "{new:?}");
    log.close();
    positions
}

#[tokio::test]
async fn any_flipped_byte_is_found_and_repaired() {
    let sound = tempfile::tempdir().unwrap();
    make_log(sound.path()).await;
    let entries = std::fs::read_dir(sound.path()).unwrap().map(|entry| entry.unwrap().path());
    let files: Vec<(String, Vec<u8>)> = entries
        .filter(|path| path.is_file())
        .map(|path| (name(&path), std::fs::read(&path).unwrap()))
        .collect();
    let places = files.iter().flat_map(|(file, bytes)| (0..bytes.len()).map(move |at| (file, at)));
    let mut tried = 0;
    for (file, at) in places.step_by(97) {
        let directory = tempfile::tempdir().unwrap();
        for (name, bytes) in &files {
            std::fs::write(directory.path().join(name), bytes).unwrap();
        }
        flip(&directory.path().join(file), at);
        let readable = |frame: &heliostat::internals::log::Frame| frame.decompress().map(|_| ());
        let found = examine(directory.path(), readable).unwrap().findings;
        assert!(found.len() == 1 && found[0].segment == *file, "{file}, byte {at}: {found:?}");
        let repair = Repair::plan(directory.path(), readable).unwrap();
        assert_eq!(repair.findings(), found);
        repair.accept_loss().unwrap();
        drop(repair);
        let left = examine(directory.path(), readable).unwrap().findings;
        assert_eq!(left, [], "{file}, byte {at}");
        let lost = EVENTS - positions_of(directory.path()).await.len() as u64;
        assert!(
            lost <= PER_COMMIT && lost <= found[0].lost_positions(),
            "{file}, byte {at}: {lost}"
        );
        tried += 1;
    }
    assert!(tried > 50, "{tried}");
}
