//! Views go on from snapshots: after a clean end, a kill, with other numbers of workers, beside damage, and
//! show what the log says all the same, over HTTP and in ClickHouse.

mod common;

use std::time::Duration;

use common::Server;
use serde_json::{Value, json};

/// A snapshot whenever there is something new.
const EAGER: &str = "[limits]\nsnapshot_events_min = 1\nsnapshot_interval_ms_min = 1\n";
/// A snapshot only when the server ends.
const LAST_ONLY: &str = "[limits]\nsnapshot_interval_ms_min = 3_600_000\n";

const SQL: &str = "
CREATE TABLE items (k BIGINT, v BIGINT NOT NULL, gone BOOLEAN, PRIMARY KEY (k))
  WITH (event_type = 'Item', mode = 'upsert', delete_when = 'gone');
CREATE TABLE changes (k BIGINT NOT NULL, v BIGINT NOT NULL, at TIMESTAMP) WITH (event_type = 'Item');
CREATE MATERIALIZED VIEW totals AS SELECT k, count(*) AS n, sum(v) AS total FROM changes GROUP BY k;
CREATE MATERIALIZED VIEW current AS SELECT k, v FROM items;
CREATE MATERIALIZED VIEW plain AS SELECT v, at FROM changes WHERE v % 3 = 0;
CREATE MATERIALIZED VIEW pairs AS SELECT a.k, a.v AS v, b.v AS w FROM items a JOIN items b ON b.k = a.k + 1;
CREATE MATERIALIZED VIEW failing AS SELECT k, 100 / v AS part FROM items;
CREATE MATERIALIZED VIEW unread WITH (clickhouse = false) AS SELECT v, count(*) AS n FROM changes GROUP BY v;
";
const VIEWS: [&str; 6] = ["totals", "current", "plain", "pairs", "failing", "unread"];

/// Events whose keys and values repeat; every seventh takes its key away.
fn events(from: u64, to: u64) -> Value {
    let event = |n: u64| {
        let (k, v) = (n * n % 97, n % 11);
        // ClickHouse cannot hold the time of the last ones.
        let at = if n % 50 == 49 { "9999-01-01T00:00:00" } else { "2026-01-01T00:00:00" };
        json!({"type": "Item", "data": {"k": k, "v": v, "gone": n.is_multiple_of(7), "at": at}})
    };
    (from..to).map(event).collect()
}

/// How a view began.
async fn start(server: &Server, view: &str) -> Value {
    server.get(&format!("/v1/views/{view}")).await["start"]["how"].clone()
}

/// The rows and dead letters of all views, over HTTP, and their rows in ClickHouse, in order.
async fn contents(server: &Server, position: u64) -> Vec<String> {
    contents_of(server, &VIEWS, position).await
}

async fn contents_of(server: &Server, views: &[&str], position: u64) -> Vec<String> {
    let mut all = Vec::new();
    for view in views {
        all.push(format!("{view} over HTTP: {}", server.row_lines(view, position).await));
        let letters = server.get(&format!("/v1/dead-letters?view={view}&limit=1000")).await;
        let mut letters: Vec<String> = letters["dead_letters"]
            .as_array()
            .unwrap_or_else(|| panic!("{letters}"))
            .iter()
            .map(|letter| {
                format!("{} {} {}", letter["expression"], letter["reason"], letter["count"])
            })
            .collect();
        letters.sort();
        all.push(format!("{view} fails: {}", letters.join("\n")));
        if !["unread", "keys"].contains(view) {
            let written = || async {
                let at = &server.get(&format!("/v1/views/{view}")).await["sinks"]["clickhouse"];
                json!(at["position"].as_u64().unwrap_or(0) >= position)
            };
            server.until_within(Duration::from_secs(30), json!(true), written).await;
            let sql = format!("SELECT * FROM {view} ORDER BY ALL");
            let ask = || server.clickhouse(&sql);
            let is_there = || async { !ask().await.contains("DB::Exception") };
            server.until_within(Duration::from_secs(30), true, is_there).await;
            let rows = ask().await;
            all.push(format!("{view} in ClickHouse: {rows}"));
            let counted = server.get(&format!("/v1/views/{view}")).await["rows"].clone();
            all.push(format!("{view} counts: {counted}"));
        }
    }
    all
}

/// The content of a server that has never been ended.
async fn expected(end: u64) -> Vec<String> {
    let server = Server::with_clickhouse(&[("q.sql", SQL)]);
    server.append(&events(0, end)).await;
    server.live(&VIEWS).await;
    contents(&server, end).await
}

fn differences(found: &[String], expected: &[String]) -> String {
    let pairs = found.iter().zip(expected).filter(|(found, expected)| found != expected);
    let shown = pairs.map(|(found, expected)| {
        let short = |text: &str| text.chars().take(300).collect::<String>();
        format!("{}\nexpected {}", short(found), short(expected))
    });
    shown.collect::<Vec<_>>().join("\n\n")
}

#[tokio::test]
async fn views_go_on_from_the_snapshot_of_a_clean_end_on_any_number_of_workers() {
    let toml = |workers: u32| format!("workers = {workers}\n{LAST_ONLY}");
    let server = Server::configured_with_clickhouse(&[("q.sql", SQL)], &toml(2));
    server.append(&events(0, 500)).await;
    server.live(&VIEWS).await;
    assert_eq!(server.starts(&VIEWS).await, vec![json!("replayed"); VIEWS.len()]);
    let mut end = 500;
    for workers in [2, 1, 3] {
        server.configure(&toml(workers));
        server.end_and_run();
        server.live(&VIEWS).await;
        assert_eq!(server.starts(&VIEWS).await, vec![json!("resumed"); VIEWS.len()]);
        let shown = contents(&server, end).await;
        assert_eq!(differences(&shown, &expected(end).await), "", "on {workers} workers");
        // And they go on.
        server.append(&events(end, end + 200)).await;
        end += 200;
        let shown = contents(&server, end).await;
        assert_eq!(differences(&shown, &expected(end).await), "", "after it, on {workers} workers");
    }
}

#[tokio::test]
async fn killed_server_goes_on_from_its_last_snapshot() {
    let server = Server::configured_with_clickhouse(&[("q.sql", SQL)], EAGER);
    server.append(&events(0, 500)).await;
    server.saved(&VIEWS, 500).await;
    let mut end = 500;
    for _ in 0..3 {
        server.append(&events(end, end + 150)).await;
        end += 150;
        server.restart();
        server.live(&VIEWS).await;
        assert_eq!(server.starts(&VIEWS).await, vec![json!("resumed"); VIEWS.len()]);
    }
    let shown = contents(&server, end).await;
    assert_eq!(differences(&shown, &expected(end).await), "");
}

#[tokio::test]
async fn changed_view_is_replayed_and_the_others_go_on() {
    let server = Server::configured_with_clickhouse(&[("q.sql", SQL)], LAST_ONLY);
    server.append(&events(0, 300)).await;
    server.live(&VIEWS).await;
    server.end();
    let changed = SQL.replace("v % 3 = 0", "v % 3 = 1");
    server.write("q.sql", &changed);
    server.run();
    server.live(&VIEWS).await;
    let next = || async { server.get("/v1/views/plain").await["start"]["how"].clone() };
    server.until_within(Duration::from_secs(30), json!("replayed"), next).await;
    for view in VIEWS.into_iter().filter(|view| *view != "plain") {
        assert_eq!(start(&server, view).await, "resumed", "{view}");
    }
    let other = Server::with_clickhouse(&[("q.sql", &changed)]);
    other.append(&events(0, 300)).await;
    other.live(&VIEWS).await;
    let (shown, expected) = (contents(&server, 300).await, contents(&other, 300).await);
    assert_eq!(differences(&shown, &expected), "");
}

/// Views that come later; `joined` reads an append table, too.
const LATER: &str = "
CREATE MATERIALIZED VIEW by_value AS SELECT v, count(*) AS n, sum(k) AS keys FROM items GROUP BY v;
CREATE MATERIALIZED VIEW parts AS SELECT k, 60 / v AS part FROM items WHERE k > 10;
CREATE MATERIALIZED VIEW keys WITH (clickhouse = false) AS SELECT k FROM items;
CREATE MATERIALIZED VIEW joined AS SELECT i.k, i.v AS latest, c.v FROM items i JOIN changes c ON c.k = i.k;
";
const FILLED: [&str; 3] = ["by_value", "parts", "keys"];
const LATER_VIEWS: [&str; 4] = ["by_value", "parts", "keys", "joined"];

/// The later views of a server that has had them from the beginning.
async fn expected_later(end: u64) -> Vec<String> {
    let server = Server::with_clickhouse(&[("q.sql", SQL), ("later.sql", LATER)]);
    server.append(&events(0, end)).await;
    server.live(&LATER_VIEWS).await;
    contents_of(&server, &LATER_VIEWS, end).await
}

#[tokio::test]
async fn later_views_begin_with_what_others_keep_of_their_tables() {
    let server = Server::configured_with_clickhouse(&[("q.sql", SQL)], EAGER);
    server.append(&events(0, 400)).await;
    server.saved(&VIEWS, 400).await;
    server.append(&events(400, 500)).await;
    server.write("later.sql", LATER);
    let is_there = || async { server.get("/v1/views/joined").await["status"].clone() };
    server.until_within(Duration::from_secs(60), json!("live"), is_there).await;
    server.live(&LATER_VIEWS).await;
    for view in FILLED {
        assert_eq!(start(&server, view).await, "filled", "{view}");
    }
    assert_eq!(start(&server, "joined").await, "replayed");
    let from = &server.get("/v1/views/parts").await["start"]["position"];
    assert!(from.as_u64() >= Some(400), "{from}");
    let shown = contents_of(&server, &LATER_VIEWS, 500).await;
    assert_eq!(differences(&shown, &expected_later(500).await), "");
    // They go on, and so they do after an end without warning.
    let mut end = 500;
    for _ in 0..3 {
        server.append(&events(end, end + 100)).await;
        end += 100;
        server.restart();
        server.live(&LATER_VIEWS).await;
    }
    let shown = contents_of(&server, &LATER_VIEWS, end).await;
    assert_eq!(differences(&shown, &expected_later(end).await), "");
    // A rebuild that is asked for reads all events.
    let (rebuilt, _) = server.post("/v1/views/by_value/rebuild", &json!({})).await;
    assert_eq!(rebuilt, 202);
    let next = || async { server.get("/v1/views/by_value").await["start"]["how"].clone() };
    server.until_within(Duration::from_secs(30), json!("replayed"), next).await;
    let shown = contents_of(&server, &LATER_VIEWS, end).await;
    assert_eq!(differences(&shown, &expected_later(end).await), "");
}

#[tokio::test]
async fn changed_views_are_filled_at_a_start_on_any_number_of_workers() {
    let toml = |workers: u32| format!("workers = {workers}\n{LAST_ONLY}");
    let server = Server::configured_with_clickhouse(&[("q.sql", SQL)], &toml(2));
    server.append(&events(0, 500)).await;
    server.live(&VIEWS).await;
    server.end();
    server.configure(&toml(3));
    server.write("later.sql", LATER);
    server.run();
    server.live(&LATER_VIEWS).await;
    for view in FILLED {
        assert_eq!(start(&server, view).await, "filled", "{view}");
    }
    let shown = contents_of(&server, &LATER_VIEWS, 500).await;
    assert_eq!(differences(&shown, &expected_later(500).await), "");
}

/// An event that does not fit what one view reads may fit what another one reads.
#[tokio::test]
async fn views_are_not_filled_from_others_for_which_events_are_no_rows() {
    let table = "CREATE TABLE notes (k BIGINT, v BIGINT, w BIGINT, PRIMARY KEY (k))
        WITH (event_type = 'Note', mode = 'upsert', on_invalid = 'quarantine');\n";
    let sql = format!("{table}CREATE MATERIALIZED VIEW all_of_it AS SELECT k, v, w FROM notes;");
    let server = Server::configured_with_clickhouse(&[("q.sql", &sql)], LAST_ONLY);
    let note = |k: u64, w: Value| json!({"type": "Note", "data": {"k": k, "v": k, "w": w}});
    let notes: Value =
        (0..20).map(|k| note(k, if k == 7 { json!("x") } else { json!(k) })).collect();
    server.append(&notes).await;
    server.live(&["all_of_it"]).await;
    server.end();
    server.write("later.sql", "CREATE MATERIALIZED VIEW part AS SELECT k, v FROM notes;");
    server.run();
    server.live(&["all_of_it", "part"]).await;
    assert_eq!(start(&server, "part").await, "replayed");
    let counts = ["all_of_it", "part"].map(|view| format!("/v1/views/{view}"));
    assert_eq!(server.get(&counts[0]).await["rows"], 19);
    assert_eq!(server.get(&counts[1]).await["rows"], 20);
}

#[tokio::test]
async fn damaged_snapshot_is_told_and_its_views_are_replayed() {
    let server = Server::configured_with_clickhouse(&[("q.sql", SQL)], LAST_ONLY);
    server.append(&events(0, 300)).await;
    server.live(&VIEWS).await;
    server.end();
    for file in std::fs::read_dir(server.data().join("snapshots")).unwrap() {
        let path = file.unwrap().path();
        if path.file_name().unwrap().to_string_lossy().starts_with("runs-") {
            let mut bytes = std::fs::read(&path).unwrap();
            bytes.chunks_mut(512).for_each(|chunk| chunk[0] ^= 1);
            std::fs::write(&path, bytes).unwrap();
        }
    }
    server.run();
    server.live(&VIEWS).await;
    assert_eq!(server.starts(&VIEWS).await, vec![json!("replayed"); VIEWS.len()]);
    let shown = contents(&server, 300).await;
    assert_eq!(differences(&shown, &expected(300).await), "");
    // The next one is whole.
    server.end_and_run();
    server.live(&VIEWS).await;
    assert_eq!(server.starts(&VIEWS).await, vec![json!("resumed"); VIEWS.len()]);
}

const NOTES: &str = "
CREATE TABLE notes (k BIGINT NOT NULL, t TEXT NOT NULL) WITH (event_type = 'Note');
CREATE MATERIALIZED VIEW latest AS SELECT k, max(t) AS t FROM notes GROUP BY k;
CREATE MATERIALIZED VIEW counted AS SELECT count(*) AS n FROM notes;
";

/// Changes a letter of the notes that snapshots have.
fn damage_notes(server: &Server) {
    let mut changed = 0;
    for file in std::fs::read_dir(server.data().join("snapshots")).unwrap() {
        let path = file.unwrap().path();
        let mut bytes = std::fs::read(&path).unwrap();
        let places: Vec<usize> =
            (0..bytes.len()).filter(|at| bytes[*at..].starts_with(b"needle")).collect();
        changed += places.len();
        places.into_iter().for_each(|at| bytes[at] = b'x');
        std::fs::write(&path, bytes).unwrap();
    }
    assert!(changed > 0, "snapshots have the notes");
}

#[tokio::test]
async fn damage_that_is_found_after_the_start_is_told_and_mended() {
    let toml = format!("{LAST_ONLY}snapshot_checked_bytes_max = 0\n");
    let server = Server::laid_out_with_clickhouse(&[("q.sql", NOTES)], &toml);
    server.keep_log();
    server.run();
    let note = |k: u64| json!({"type": "Note", "data": {"k": k, "t": format!("needle-{k}")}});
    server.live(&["latest", "counted"]).await;
    // What ClickHouse lacks is in the snapshot, too, and compared at once.
    let notes: Value = (0..20).map(note).collect();
    let (status, answer) = server.post("/v1/events?wait=clickhouse&timeout=30s", &notes).await;
    assert_eq!(status, 200, "{answer}");
    server.end();
    damage_notes(&server);
    server.run();
    server.live(&["latest", "counted"]).await;
    let mended = || async {
        let started = server.starts(&["latest", "counted"]).await;
        let rows = server.row_lines("latest", 20).await;
        (started, rows.contains("xeedle"))
    };
    let expected = (vec![json!("replayed"), json!("resumed")], false);
    server.until(expected, mended).await;
    let log = server.log();
    let told = log.lines().find(|line| line.contains("which it has gone on from"));
    assert!(told.is_some_and(|line| line.contains("latest") && line.contains("runs-")), "{log}");
    let in_clickhouse = || server.clickhouse("SELECT countIf(t LIKE 'needle%') FROM latest");
    server.until("20\n".to_string(), in_clickhouse).await;
    // After an end that was not in order nothing is gone on from before it is compared.
    server.end_and_run();
    server.live(&["latest", "counted"]).await;
    assert_eq!(server.starts(&["latest"]).await, [json!("resumed")]);
    server.kill();
    damage_notes(&server);
    server.run();
    server.live(&["latest", "counted"]).await;
    assert_eq!(server.starts(&["latest"]).await, [json!("replayed")]);
}

#[tokio::test]
async fn tables_that_are_gone_are_written_from_the_snapshot() {
    let server = Server::configured_with_clickhouse(&[("q.sql", SQL)], LAST_ONLY);
    server.append(&events(0, 300)).await;
    server.live(&VIEWS).await;
    server.end();
    std::fs::remove_dir_all(server.data().join("clickhouse")).unwrap();
    server.run();
    server.live(&VIEWS).await;
    assert_eq!(server.starts(&VIEWS).await, vec![json!("resumed"); VIEWS.len()]);
    let shown = contents(&server, 300).await;
    assert_eq!(differences(&shown, &expected(300).await), "");
}

/// ClickHouse answers nothing while snapshots are taken, of which the last has everything.
#[tokio::test]
async fn snapshots_go_on_while_clickhouse_is_away() {
    let toml = |workers: u32| format!("workers = {workers}\n{EAGER}");
    let server = Server::configured_with_clickhouse(&[("q.sql", SQL)], &toml(2));
    server.append(&events(0, 300)).await;
    server.saved(&VIEWS, 300).await;
    let mut end = 300;
    for workers in [1, 3] {
        server.stop_clickhouse();
        for _ in 0..3 {
            server.append(&events(end, end + 100)).await;
            end += 100;
            server.saved(&VIEWS, end).await;
        }
        let written = &server.get("/v1/views/totals").await["sinks"]["clickhouse"]["position"];
        assert!(written.as_u64().unwrap() < end - 200, "ClickHouse has {written}");
        server.configure(&toml(workers));
        // Its ClickHouse goes with it.
        server.restart();
        server.live(&VIEWS).await;
        let how = |view: &Value| (view["start"]["how"].clone(), view["start"]["position"].clone());
        for view in VIEWS {
            let status = server.get(&format!("/v1/views/{view}")).await;
            assert_eq!(how(&status), (json!("resumed"), json!(end)), "{view}");
        }
        let shown = contents(&server, end).await;
        assert_eq!(differences(&shown, &expected(end).await), "", "on {workers} workers");
        server.append(&events(end, end + 100)).await;
        end += 100;
        let shown = contents(&server, end).await;
        assert_eq!(differences(&shown, &expected(end).await), "", "after it, on {workers} workers");
    }
}

#[tokio::test]
async fn data_directory_without_room_for_snapshots_serves_all_the_same() {
    let server = Server::configured_with_clickhouse(&[("q.sql", SQL)], EAGER);
    server.kill();
    // A file is where the directory would be.
    std::fs::remove_dir_all(server.data().join("snapshots")).unwrap();
    std::fs::write(server.data().join("snapshots"), "").unwrap();
    server.run();
    server.append(&events(0, 300)).await;
    server.live(&VIEWS).await;
    let wrong = server.get("/readyz").await["wrong"].to_string();
    assert!(wrong.contains("snapshots") && wrong.contains("whole log"), "{wrong}");
    let shown = contents(&server, 300).await;
    assert_eq!(differences(&shown, &expected(300).await), "");
}
