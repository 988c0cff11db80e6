//! Backups of servers that run, and servers made from them: over directories and over S3's protocol, with
//! and without ClickHouse, of all that was there or up to a time.

mod common;
#[path = "common/s3.rs"]
mod s3;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use common::{Server, clients, heliostat, text};
use s3::S3Server;
use serde_json::{Value, json};

/// A snapshot whenever there is something new.
const EAGER: &str = "[limits]\nsnapshot_events_min = 1\nsnapshot_interval_ms_min = 1\n";

const SQL: &str = "
CREATE TABLE items (k BIGINT, v BIGINT NOT NULL, PRIMARY KEY (k)) WITH (event_type = 'Item', mode = 'upsert');
CREATE TABLE changes (k BIGINT NOT NULL, v BIGINT NOT NULL) WITH (event_type = 'Item');
CREATE MATERIALIZED VIEW totals AS SELECT k, count(*) AS n, sum(v) AS total FROM changes GROUP BY k;
CREATE MATERIALIZED VIEW current AS SELECT k, v FROM items;
CREATE MATERIALIZED VIEW failing AS SELECT k, 100 / v AS part FROM changes;
";
const VIEWS: [&str; 3] = ["totals", "current", "failing"];

fn events(from: u64, to: u64) -> Value {
    let event = |n: u64| {
        let data = json!({"k": n * n % 97, "v": n % 11});
        json!({"type": "Item", "id": format!("e{n}"), "stream": format!("s{}", n % 5), "data": data})
    };
    (from..to).map(event).collect()
}

/// Where backups are kept, and how to get there.
struct Place {
    name: String,
    environment: Vec<(String, String)>,
}

/// The numbers of what a backup said.
#[derive(Debug, PartialEq)]
struct Sent {
    objects: u64,
    of_objects: u64,
    bytes: u64,
    of_bytes: u64,
}

impl Place {
    fn directory(path: &Path) -> Place {
        Place { name: path.display().to_string(), environment: Vec::new() }
    }

    fn back_up(&self, data: &Path, more: &[&str]) -> Output {
        let arguments = ["backup", "--to", &self.name, "--data-dir", data.to_str().unwrap()];
        heliostat(&[&arguments, more].concat(), &self.environment)
    }

    /// Backs up, and tells what was sent.
    #[track_caller]
    fn backed_up(&self, data: &Path, more: &[&str]) -> Sent {
        let output = self.back_up(data, more);
        let text = text(&output);
        assert!(output.status.success(), "{text}");
        let line = text.lines().find(|line| line.starts_with("sent ")).unwrap();
        let numbers = line.split(|c: char| !c.is_ascii_digit()).filter_map(|n| n.parse().ok());
        let [objects, of_objects, bytes, of_bytes] = numbers.collect::<Vec<u64>>()[..] else {
            panic!("{text}")
        };
        Sent { objects, of_objects, bytes, of_bytes }
    }

    fn restore(&self, server: &Server, more: &[&str]) -> Output {
        let (data, queries) = (server.data(), server.queries());
        let arguments = [
            "restore",
            "--from",
            &self.name,
            "--data-dir",
            data.to_str().unwrap(),
            "--queries",
            queries.to_str().unwrap(),
        ];
        heliostat(&[&arguments, more].concat(), &self.environment)
    }

    #[track_caller]
    fn restored(&self, server: &Server, more: &[&str]) -> String {
        let output = self.restore(server, more);
        let text = text(&output);
        assert!(output.status.success(), "{text}");
        text
    }
}

async fn head(server: &Server) -> u64 {
    let events = server.get_text("/v1/events?after=0&limit=100000").await;
    events.lines().filter(|line| line.contains("\"position\"")).count() as u64
}

/// The ids of all events, by position.
async fn ids(server: &Server) -> Vec<String> {
    let events = server.get_text("/v1/events?after=0&limit=100000").await;
    let of = |line: &str| {
        let event: Value = serde_json::from_str(line).ok()?;
        event["id"].as_str().map(str::to_string)
    };
    events.lines().filter_map(of).collect()
}

/// The rows and dead letters of all views, over HTTP and, where there is one, in ClickHouse.
async fn contents(server: &Server, position: u64, with_clickhouse: bool) -> Vec<String> {
    let mut all = Vec::new();
    for view in VIEWS {
        all.push(format!("{view}: {}", server.row_lines(view, position).await));
        let letters = server.get(&format!("/v1/dead-letters?view={view}&limit=1000")).await;
        let letters = letters["dead_letters"].as_array().unwrap_or_else(|| panic!("{letters}"));
        let mut letters: Vec<String> = letters
            .iter()
            .map(|letter| format!("{} {}", letter["expression"], letter["count"]))
            .collect();
        letters.sort();
        all.push(format!("{view} fails: {}", letters.join("\n")));
        if with_clickhouse {
            let written = || async {
                let at = &server.get(&format!("/v1/views/{view}")).await["sinks"]["clickhouse"];
                at["position"].as_u64().unwrap_or(0) >= position
            };
            server.until_within(Duration::from_secs(30), true, written).await;
            let sql = format!("SELECT * FROM {view} ORDER BY ALL");
            let is_there = || async { !server.clickhouse(&sql).await.contains("DB::Exception") };
            server.until_within(Duration::from_secs(30), true, is_there).await;
            all.push(format!("{view} in ClickHouse: {}", server.clickhouse(&sql).await));
        }
    }
    all
}

#[track_caller]
fn assert_same(found: &[String], expected: &[String]) {
    let short = |text: &String| text.chars().take(400).collect::<String>();
    let pairs = found.iter().zip(expected).filter(|(found, expected)| found != expected);
    let differences: Vec<_> =
        pairs.map(|(a, b)| format!("{}\nexpected {}", short(a), short(b))).collect();
    assert!(
        differences.is_empty() && found.len() == expected.len(),
        "{}",
        differences.join("\n\n")
    );
}

/// Waits until a server shows this. Until the new tables are published, their names in ClickHouse are
/// those of the tables before.
async fn become_same(server: &Server, position: u64, expected: &[String]) {
    let end = std::time::Instant::now() + Duration::from_secs(30);
    loop {
        let found = contents(server, position, true).await;
        if found == expected || std::time::Instant::now() > end {
            return assert_same(&found, expected);
        }
    }
}

/// The content of a server that has these events and nothing else.
async fn expected(end: u64, with_clickhouse: bool) -> Vec<String> {
    let server = match with_clickhouse {
        true => Server::with_clickhouse(&[("q.sql", SQL)]),
        false => Server::start(&[("q.sql", SQL)]),
    };
    server.append(&events(0, end)).await;
    server.live(&VIEWS).await;
    contents(&server, end, with_clickhouse).await
}

/// A server that is backed up while events are posted, and one made from that.
async fn backup_under_appends(place: &Place, with_clickhouse: bool) {
    let files = [("q.sql", SQL)];
    let server = match with_clickhouse {
        true => Server::configured_with_clickhouse(&files, EAGER),
        false => Server::configured(&files, EAGER),
    };
    server.append(&events(0, 300)).await;
    server.live(&VIEWS).await;
    server.saved(&VIEWS, 300).await;
    let stop = AtomicBool::new(false);
    let data = server.data();
    let (posted, ()) = tokio::join!(
        async {
            let mut next = 300;
            while !stop.load(Ordering::Relaxed) {
                server.append(&events(next, next + 7)).await;
                next += 7;
            }
            next
        },
        async {
            tokio::task::block_in_place(|| {
                for _ in 0..3 {
                    place.backed_up(&data, &["--verify"]);
                }
            });
            stop.store(true, Ordering::Relaxed);
        }
    );
    let restored = match with_clickhouse {
        true => Server::laid_out_with_clickhouse(&[], EAGER),
        false => Server::laid_out(&[], EAGER),
    };
    place.restored(&restored, &[]);
    server.end();
    restored.run();
    restored.live(&VIEWS).await;
    assert_eq!(restored.starts(&VIEWS).await, vec![json!("resumed"); VIEWS.len()]);
    let end = head(&restored).await;
    assert!((300..=posted).contains(&end), "{end} of {posted}");
    assert_eq!((end - 300) % 7, 0, "requests are in it as a whole");
    let expected_ids: Vec<String> = (0..end).map(|n| format!("e{n}")).collect();
    assert_eq!(ids(&restored).await, expected_ids);
    assert_same(
        &contents(&restored, end, with_clickhouse).await,
        &expected(end, with_clickhouse).await,
    );
    // Events of the backup are known, and later ones are new.
    let answer = restored.append(&events(0, end + 20)).await;
    assert_eq!(answer["accepted"], 20, "{answer}");
    assert_same(
        &contents(&restored, end + 20, with_clickhouse).await,
        &expected(end + 20, with_clickhouse).await,
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn restored_server_has_all_events_once_and_views_go_on_from_the_snapshot() {
    let directory = tempfile::tempdir().unwrap();
    backup_under_appends(&Place::directory(directory.path()), false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn restored_server_writes_its_own_clickhouse_from_the_snapshot() {
    let directory = tempfile::tempdir().unwrap();
    backup_under_appends(&Place::directory(&directory.path().join("not/there/yet")), true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn restored_server_over_s3_has_all_events_once() {
    clients();
    let s3 = S3Server::start().await;
    let name = "s3://bucket/some/prefix".to_string();
    backup_under_appends(&Place { name, environment: s3.environment() }, false).await;
}

/// All objects, with their bytes.
fn objects(directory: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    fn visit(directory: &Path, all: &mut BTreeMap<PathBuf, Vec<u8>>) {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                visit(&path, all);
            } else {
                all.insert(path.clone(), std::fs::read(&path).unwrap());
            }
        }
    }
    let mut all = BTreeMap::new();
    visit(directory, &mut all);
    all
}

#[tokio::test]
async fn second_backup_sends_only_what_is_new() {
    let server = Server::start(&[("q.sql", SQL)]);
    server.append(&events(0, 2000)).await;
    server.live(&VIEWS).await;
    // The first start has added its notes to the log; the second one adds none.
    server.end_and_run();
    server.live(&VIEWS).await;
    let directory = tempfile::tempdir().unwrap();
    let place = Place::directory(directory.path());
    let first = place.backed_up(&server.data(), &[]);
    assert_eq!((first.objects, first.bytes), (first.of_objects, first.of_bytes));
    // A note of the start may have come behind it.
    place.backed_up(&server.data(), &[]);
    let before = objects(directory.path());
    let again = place.backed_up(&server.data(), &[]);
    assert_eq!((again.objects, again.bytes), (0, 0), "{again:?}");
    server.append(&events(2000, 2010)).await;
    let third = place.backed_up(&server.data(), &[]);
    let after = objects(directory.path());
    // The end of the segment, and the list of segments, which says where it ends.
    assert_eq!(third.objects, 2, "{third:?}");
    assert!(third.bytes < first.bytes / 10, "{third:?} behind {first:?}");
    let new: Vec<_> = after.iter().filter(|(path, _)| !before.contains_key(*path)).collect();
    let is_data = |path: &Path| path.starts_with(directory.path().join("data"));
    let new_bytes: usize =
        new.iter().filter(|(path, _)| is_data(path)).map(|(_, bytes)| bytes.len()).sum();
    assert_eq!((new.len(), new_bytes as u64), (2 + 2, third.bytes), "with two manifests");
    for (path, bytes) in before {
        assert_eq!(after[&path], bytes, "{} is as it was", path.display());
    }
    // Parts one behind the other are the segment.
    let restored = Server::laid_out(&[], "");
    place.restored(&restored, &[]);
    restored.run();
    assert_eq!(ids(&restored).await.len(), 2010);
    // Beginning anew costs no more than the first time, once a segment has many parts.
    for n in 2010..2080 {
        server.append(&events(n, n + 1)).await;
        place.backed_up(&server.data(), &[]);
    }
    let again = place.backed_up(&server.data(), &["--verify"]);
    assert!(again.of_objects < 70, "{again:?}");
}

#[tokio::test]
async fn damaged_or_missing_object_is_named_and_sent_again() {
    let server = Server::configured(&[("q.sql", SQL)], EAGER);
    server.append(&events(0, 500)).await;
    server.live(&VIEWS).await;
    server.saved(&VIEWS, 500).await;
    server.end();
    let directory = tempfile::tempdir().unwrap();
    let place = Place::directory(directory.path());
    place.backed_up(&server.data(), &[]);
    let all = objects(directory.path());
    assert!(all.len() > 5, "{:?}", all.keys());
    for (path, bytes) in &all {
        let relative = path.strip_prefix(directory.path()).unwrap().display().to_string();
        let is_manifest = relative.starts_with("backups");
        let mut flipped = bytes.clone();
        let at = flipped.len() / 2;
        flipped[at] ^= 1;
        for damage in [Some(&flipped[..]), Some(&bytes[..bytes.len() / 2]), None] {
            match damage {
                Some(damage) => std::fs::write(path, damage).unwrap(),
                None => std::fs::remove_file(path).unwrap(),
            }
            let restored = Server::laid_out(&[], "");
            let output = place.restore(&restored, &[]);
            let told = text(&output);
            assert!(!output.status.success(), "{relative}: {told}");
            match (is_manifest, damage) {
                (true, None) => assert!(told.contains("holds no backup"), "{told}"),
                _ => assert!(told.contains(&relative), "{relative} is named: {told}"),
            }
            // Nothing is left that a server could take for its data.
            assert_eq!(std::fs::read_dir(restored.data()).map_or(0, Iterator::count), 0);
            std::fs::write(path, bytes).unwrap();
        }
    }
    // Damaged objects are found by --verify; missing ones are sent again.
    let segment = all.keys().find(|path| path.to_string_lossy().contains(".log2/")).unwrap();
    let bytes = &all[segment];
    std::fs::write(segment, vec![7; bytes.len()]).unwrap();
    let output = place.back_up(&server.data(), &["--verify"]);
    assert!(!output.status.success() && text(&output).contains("is damaged"), "{}", text(&output));
    std::fs::remove_file(segment).unwrap();
    let sent = place.backed_up(&server.data(), &["--verify"]);
    assert_eq!((sent.objects, sent.bytes), (1, bytes.len() as u64));
    let restored = Server::laid_out(&[], "");
    place.restored(&restored, &[]);
    restored.run();
    assert_eq!(ids(&restored).await.len(), 500);
}

/// The time now, as the command line takes it; nothing is appended within a while around it.
async fn moment() -> String {
    tokio::time::sleep(Duration::from_millis(50)).await;
    let now = chrono::Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Millis, true);
    tokio::time::sleep(Duration::from_millis(50)).await;
    now
}

/// The log's id, as `log info` tells it.
fn log_id(data: &Path) -> String {
    let output = heliostat(&["log", "info", data.to_str().unwrap()], &[]);
    let text = text(&output);
    let line =
        text.lines().find(|line| line.starts_with("log ")).unwrap_or_else(|| panic!("{text}"));
    line.split_whitespace().nth(1).unwrap().to_string()
}

#[tokio::test]
async fn restore_until_a_time_drops_what_came_later_and_is_another_log() {
    let server = Server::configured_with_clickhouse(&[("q.sql", SQL)], EAGER);
    let before = moment().await;
    server.append(&events(0, 200)).await;
    server.live(&VIEWS).await;
    // Dead letters that were dismissed by then, and others later.
    let (status, answer) =
        server.post("/v1/dead-letters/dismiss", &json!({"view": "failing"})).await;
    assert_eq!(status, 200, "{answer}");
    let until = moment().await;
    let shown = contents(&server, 200, true).await;
    server.append(&events(200, 350)).await;
    let (status, _) = server.post("/v1/dead-letters/dismiss", &json!({"view": "failing"})).await;
    assert_eq!(status, 200);
    server.saved(&VIEWS, 350).await;
    let later = moment().await;
    let directory = tempfile::tempdir().unwrap();
    let place = Place::directory(directory.path());
    place.backed_up(&server.data(), &[]);
    server.end();

    let restored = Server::laid_out_with_clickhouse(&[], EAGER);
    let told = place.restored(&restored, &["--until", &until]);
    assert!(told.contains("dropped 150 events"), "{told}");
    assert_ne!(log_id(&restored.data()), log_id(&server.data()));
    let verified = heliostat(&["log", "verify", restored.data().to_str().unwrap()], &[]);
    assert!(verified.status.success(), "{}", text(&verified));
    // Even a ClickHouse that has what is dropped is written anew.
    std::fs::rename(server.data().join("clickhouse"), restored.data().join("clickhouse")).unwrap();
    restored.run();
    restored.live(&VIEWS).await;
    assert_eq!(restored.starts(&VIEWS).await, vec![json!("replayed"); VIEWS.len()]);
    assert_eq!(head(&restored).await, 200);
    become_same(&restored, 200, &shown).await;
    // New failures at the same positions are listed: the dismissal was in the other log alone.
    restored.append(&events(200, 350)).await;
    let all = contents(&restored, 350, true).await;
    assert!(
        all.iter().any(|text| text.starts_with("failing fails") && text.contains("100")),
        "{all:?}"
    );
    let all: Vec<String> =
        all.into_iter().filter(|text| !text.starts_with("failing fails")).collect();
    let expected = expected(350, true).await;
    let expected: Vec<String> =
        expected.into_iter().filter(|text| !text.starts_with("failing fails")).collect();
    assert_same(&all, &expected);
    // A backup of the restored server is one of another log.
    let output = place.back_up(&restored.data(), &[]);
    assert!(
        !output.status.success() && text(&output).contains("another place"),
        "{}",
        text(&output)
    );

    // Where nothing is dropped it is the same log.
    let whole = Server::laid_out(&[], "");
    let told = place.restored(&whole, &["--until", &later]);
    assert!(!told.contains("dropped"), "{told}");
    assert_eq!(log_id(&whole.data()), log_id(&server.data()));
    // And before the first event there was nothing.
    let none = Server::laid_out(&[], "");
    let output = place.restore(&none, &["--until", &before]);
    assert!(
        !output.status.success() && text(&output).contains("the first event"),
        "{}",
        text(&output)
    );
    let output = place.restore(&none, &["--until", "yesterday"]);
    assert!(!output.status.success() && text(&output).contains("2026-11-23T"), "{}", text(&output));
}

#[tokio::test]
async fn clickhouse_that_is_ahead_of_a_restored_log_is_written_anew() {
    let server = Server::configured_with_clickhouse(&[("q.sql", SQL)], EAGER);
    server.append(&events(0, 200)).await;
    server.live(&VIEWS).await;
    server.saved(&VIEWS, 200).await;
    let directory = tempfile::tempdir().unwrap();
    let place = Place::directory(directory.path());
    place.backed_up(&server.data(), &[]);
    server.append(&events(200, 300)).await;
    contents(&server, 300, true).await;
    server.end();
    let restored = Server::laid_out_with_clickhouse(&[], EAGER);
    place.restored(&restored, &[]);
    std::fs::rename(server.data().join("clickhouse"), restored.data().join("clickhouse")).unwrap();
    restored.run();
    restored.live(&VIEWS).await;
    become_same(&restored, 200, &expected(200, true).await).await;
    restored.append(&events(500, 550)).await;
    let other = Server::with_clickhouse(&[("q.sql", SQL)]);
    other.append(&events(0, 200)).await;
    other.append(&events(500, 550)).await;
    other.live(&VIEWS).await;
    assert_same(&contents(&restored, 250, true).await, &contents(&other, 250, true).await);
}

#[tokio::test]
async fn restore_needs_an_empty_directory_and_is_finished_before_a_server_begins() {
    let server = Server::start(&[("q.sql", SQL)]);
    server.append(&events(0, 50)).await;
    let directory = tempfile::tempdir().unwrap();
    let place = Place::directory(directory.path());
    place.backed_up(&server.data(), &[]);
    let output = place.restore(&server, &[]);
    assert!(!output.status.success() && text(&output).contains("not empty"), "{}", text(&output));
    let restored = Server::laid_out(&[], "");
    std::fs::create_dir_all(restored.data().join("restoring/log")).unwrap();
    std::fs::create_dir_all(restored.data().join("snapshots")).unwrap();
    assert_eq!(restored.ends().code(), Some(1), "it was cut off");
    place.restored(&restored, &[]);
    assert!(!restored.data().join("restoring").exists());
    restored.run();
    assert_eq!(ids(&restored).await.len(), 50);
    // The query files were missing, and are restored as they were in use.
    assert_eq!(std::fs::read_to_string(restored.queries().join("q.sql")).unwrap(), SQL);
}

#[tokio::test]
async fn tokens_are_restored_with_the_server_and_no_secret_is_in_a_backup() {
    let server = Server::with_clickhouse(&[("q.sql", SQL)]);
    server.append(&events(0, 50)).await;
    server.end();
    let data = server.data();
    let made = heliostat(
        &[
            "token",
            "create",
            "--name",
            "ops",
            "--role",
            "admin",
            "--data-dir",
            data.to_str().unwrap(),
        ],
        &[],
    );
    assert!(made.status.success(), "{}", text(&made));
    let token = String::from_utf8(made.stdout).unwrap().trim().to_string();
    let directory = tempfile::tempdir().unwrap();
    let place = Place::directory(directory.path());
    place.backed_up(&data, &[]);
    let passwords: Vec<String> =
        [data.join("clickhouse/heliostat.netrc"), data.join("reader.netrc")]
            .iter()
            .filter_map(|path| std::fs::read_to_string(path).ok())
            .filter_map(|text| text.split_whitespace().last().map(str::to_string))
            .collect();
    assert_eq!(passwords.len(), 2);
    for (path, bytes) in objects(directory.path()) {
        for secret in passwords.iter().chain([&token]) {
            let is_in = bytes.windows(secret.len()).any(|window| window == secret.as_bytes());
            assert!(!is_in, "{}", path.display());
        }
    }
    let restored = Server::laid_out(&[], "");
    place.restored(&restored, &[]);
    restored.run();
    let client = heliostat::internals::http::client();
    let url = restored.url("/v1/events?after=0");
    let refused = client.get(&url).send().await.unwrap();
    assert_eq!(refused.status().as_u16(), 401);
    let answered = client.get(&url).bearer_auth(&token).send().await.unwrap();
    assert_eq!(answered.status().as_u16(), 200);
}

#[tokio::test]
async fn errors_of_a_store_say_what_is_wrong() {
    clients();
    let server = Server::start(&[("q.sql", SQL)]);
    server.append(&events(0, 50)).await;
    let s3 = S3Server::start().await;
    let right = s3.environment();
    let with = |name: &str, value: &str| {
        let mut environment = right.clone();
        environment.retain(|(known, _)| known != name);
        environment.push((name.to_string(), value.to_string()));
        environment
    };
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let cases = [
        ("s3://bucket/x", with("AWS_SECRET_ACCESS_KEY", "wrong"), "refuses access", 3),
        ("s3://bucket/x", with("AWS_ACCESS_KEY_ID", "AKIAWRONG"), "refuses access", 3),
        ("s3://nobucket/x", right.clone(), "no such bucket", 3),
        ("s3://bucket/x", with("AWS_ENDPOINT", &format!("http://{free}")), "s3://bucket/x: ", 3),
        ("ftp://bucket/x", Vec::new(), "expected a directory, s3://", 1),
        ("/proc/nowhere", Vec::new(), "/proc/nowhere", 3),
    ];
    for (name, environment, expected, code) in cases {
        let place = Place { name: name.to_string(), environment };
        let started = std::time::Instant::now();
        let output = place.back_up(&server.data(), &[]);
        let told = text(&output);
        assert!(told.contains(expected), "{name}: {told}");
        assert_eq!(output.status.code(), Some(code), "{name}: {told}");
        assert!(started.elapsed() < Duration::from_secs(40), "{name}: {:?}", started.elapsed());
        let output = place.restore(&Server::laid_out(&[], ""), &[]);
        assert!(text(&output).contains(expected), "{name}: {}", text(&output));
    }
    let empty = tempfile::tempdir().unwrap();
    let place = Place::directory(empty.path());
    let output = place.restore(&Server::laid_out(&[], ""), &[]);
    assert!(text(&output).contains("holds no backup"), "{}", text(&output));
    let output = place.back_up(empty.path(), &[]);
    assert!(text(&output).contains("is not a log"), "{}", text(&output));
}

/// The manifests of the backups in a directory, the oldest first.
fn manifests(place: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(place.join("backups")).into_iter().flatten();
    let mut manifests: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    manifests.sort();
    manifests
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn server_backs_itself_up() {
    let directory = tempfile::tempdir().unwrap();
    let place = directory.path();
    // Where manifests go there is something else.
    std::fs::write(place.join("backups"), "in the way").unwrap();
    let toml = format!("{EAGER}\n[backup]\nto = \"{}\"\nevery_ms = 100\n", place.display());
    let server = Server::configured(&[("q.sql", SQL)], &toml);
    let is_told =
        || async { server.get_text("/readyz").await.contains("there is no new backup in") };
    server.until(true, is_told).await;
    std::fs::remove_file(place.join("backups")).unwrap();
    server.until(false, is_told).await;

    server.append(&events(0, 50)).await;
    server.live(&VIEWS).await;
    server.saved(&VIEWS, 50).await;
    let content = contents(&server, 50, false).await;
    let has_all = || async {
        let last = manifests(place).pop().map(|path| std::fs::read_to_string(path).unwrap());
        last.is_some_and(|text| text.contains("\"position\":50") && text.contains("snapshots/"))
    };
    server.until(true, has_all).await;
    // Nothing new comes, so no further backup does.
    let stays = || async {
        let before = manifests(place);
        tokio::time::sleep(Duration::from_secs(1)).await;
        before == manifests(place)
    };
    server.until(true, stays).await;
    server.kill();

    let another = Server::laid_out(&[], "");
    Place::directory(place).restored(&another, &[]);
    another.run();
    another.live(&VIEWS).await;
    assert_same(&contents(&another, 50, false).await, &content);
    for start in another.starts(&VIEWS).await {
        assert_eq!(start, "resumed");
    }
}

#[test]
fn wrong_settings_of_backups_are_refused() {
    for (toml, expected) in [
        ("[backup]\nto = \"ftp://x/y\"\n", "expected a directory, s3://"),
        ("[backup]\nto = \"backups\"\nevery_ms = 0\n", "expected at least 1"),
        ("[backup]\nevery = \"5m\"\n", "every"),
    ] {
        Server::assert_refused(&[("q.sql", SQL)], toml, expected);
    }
}
