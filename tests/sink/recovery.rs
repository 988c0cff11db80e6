//! Crashes and absences: whatever stops in between, the table says what the view is.

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use arrow::array::{ArrayRef, Int32Array, Int64Array, StringArray};
use heliostat::internals::model::{Head, SinkMessage, SqlType, ViewSchema};
use heliostat::internals::sink::{ClickHouseConfig, ClickHouseError, ClickHouseSink, Retention};
use heliostat::internals::sink::{ErrorKind, Sink};

use crate::support::{Feed, Server, connect, eventually, field, query, schema, start_own};

/// The ClickHouse of [`sink_that_crashes`].
const CRASH_URL: &str = "HELIOSTAT_TEST_CRASH_URL";
/// Its data directory.
const CRASH_DIR: &str = "HELIOSTAT_TEST_CRASH_DIR";

fn view(name: &str, key: Option<Vec<usize>>) -> ViewSchema {
    let columns = vec![field("k", SqlType::Int, false), field("v", SqlType::Text, true)];
    schema(name, "0a", columns, key)
}

fn row(k: i32, v: &str) -> Vec<ArrayRef> {
    vec![Arc::new(Int32Array::from(vec![k])), Arc::new(StringArray::from(vec![v]))]
}

/// Feeds either life of the view: keys 1 and 2 come with tick 5, keys 3 and 4 with tick 7. The first life
/// becomes live in between.
async fn feed_until_7(feed: &Feed, is_first: bool) {
    feed_until_5(feed, is_first).await;
    feed_from_5_to_7(feed).await;
}

async fn feed_until_5(feed: &Feed, is_first: bool) {
    feed.rows(5, &row(1, "a"), &[1]).await;
    feed.rows(5, &row(2, "b"), &[1]).await;
    feed.close(5, 2).await;
    if is_first {
        feed.live(5).await;
        feed.shown(5).await;
    }
}

async fn feed_from_5_to_7(feed: &Feed) {
    feed.rows(7, &row(1, "a"), &[-1]).await;
    feed.rows(7, &row(1, "A"), &[1]).await;
    feed.rows(7, &row(3, "c"), &[1]).await;
    feed.rows(7, &row(4, "d"), &[1]).await;
    feed.rows(7, &row(2, "b"), &[-1]).await;
    feed.close(7, 5).await;
}

/// Key 3 goes, and key 4 changes.
async fn feed_from_7_to_9(feed: &Feed) {
    feed.rows(9, &row(3, "c"), &[-1]).await;
    feed.rows(9, &row(4, "d"), &[-1]).await;
    feed.rows(9, &row(4, "D"), &[1]).await;
    feed.close(9, 8).await;
}

/// Runs a sink that dies at a point of its flush to tick 7: before its data, or between that and its
/// progress.
fn crash(url: &str, directory: &Path, name: &str, point: &str) {
    let exit = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "recovery::sink_that_crashes", "--ignored"])
        .env(CRASH_URL, url)
        .env(CRASH_DIR, directory)
        .env("FAILPOINTS", format!("{point}=1*off->return"))
        .env("HELIOSTAT_TEST_CRASH_VIEW", name)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .unwrap();
    assert!(!exit.success());
}

async fn crash_and_recover(name: &str, key: Option<Vec<usize>>) {
    let server = Server::start().await;
    crash(&server.own.url(), server.dir.path(), name, "after_data");
    let select = format!("SELECT * FROM heliostat.{name} ORDER BY k");
    assert_eq!(server.query(&select).await, "1\tA\n3\tc\n4\td", "data came before the crash");

    let sink = server.sink().await;
    let view = Arc::new(view(name, key));
    let opened = sink.open_view(Arc::clone(&view)).await.unwrap();
    let recovered = opened.recovered().clone();
    assert_eq!(recovered.progress, Some(Head { position: 2, tick: 5 }));
    assert_eq!(recovered.unfinished, [7]);
    assert!(recovered.published);

    // All is known up to tick 20 before anything can be flushed. Key 3 came before the crash and
    // goes after it: a flush from 5 to 20 would not know of it.
    let feed = Feed::run(opened, view);
    feed_until_7(&feed, false).await;
    feed.rows(9, &row(3, "c"), &[-1]).await;
    feed.rows(9, &row(4, "d"), &[-1]).await;
    feed.rows(9, &row(4, "D"), &[1]).await;
    feed.close(20, 8).await;
    feed.live(20).await;
    feed.shown(20).await;
    assert_eq!(server.query(&select).await, "1\tA\n4\tD");
    let versions =
        format!("SELECT DISTINCT _version FROM heliostat_internal.{name}__0a ORDER BY _version");
    let versions = server.query(&versions).await;
    assert!(versions.split('\n').all(|v| ["5", "7", "20"].contains(&v)), "{versions}");
    feed.end().await;
}

#[cfg_attr(not(feature = "failpoints"), ignore = "needs the feature failpoints")]
#[tokio::test(flavor = "multi_thread")]
async fn a_crash_between_data_and_progress_leaves_no_trace() {
    crash_and_recover("crashed", Some(vec![0])).await;
}

#[cfg_attr(not(feature = "failpoints"), ignore = "needs the feature failpoints")]
#[tokio::test(flavor = "multi_thread")]
async fn a_crash_between_data_and_progress_leaves_no_trace_in_a_view_without_a_key() {
    crash_and_recover("crashed_bag", None).await;
}

/// ClickHouse notes the identity of an insert before it puts the insert's part in its place. Killed in
/// between it knows an insert that it has lost.
#[cfg_attr(not(feature = "failpoints"), ignore = "needs the feature failpoints")]
#[tokio::test(flavor = "multi_thread")]
async fn flush_that_clickhouse_lost_after_noting_it_is_written_again() {
    let dir = tempfile::tempdir().unwrap();
    let own = start_own(dir.path(), 0).await.unwrap();
    let select = "SELECT * FROM heliostat.crashed ORDER BY k";
    crash(&own.url(), dir.path(), "crashed", "after_data");
    assert_eq!(query(&own.url(), select).await.unwrap(), "1\tA\n3\tc\n4\td");
    let part = "SELECT path FROM system.parts WHERE active AND table = 'crashed__0a' AND rows > 0 \
                ORDER BY max_block_number DESC LIMIT 1";
    let part = query(&own.url(), part).await.unwrap();
    own.stop().await;
    // A kill in that moment leaves everything but the part.
    std::fs::remove_dir_all(&part).unwrap();

    let own = start_own(dir.path(), 0).await.unwrap();
    assert_eq!(query(&own.url(), select).await.unwrap(), "1\ta\n2\tb", "the part is lost");
    let sink = connect(&own.url(), dir.path(), Retention::default()).await.unwrap();
    let view = Arc::new(view("crashed", Some(vec![0])));
    let opened = sink.open_view(Arc::clone(&view)).await.unwrap();
    let feed = Feed::run(opened, view);
    feed_until_7(&feed, false).await;
    feed.live(7).await;
    feed.shown(7).await;
    assert_eq!(query(&own.url(), select).await.unwrap(), "1\tA\n3\tc\n4\td");
    feed.end().await;
    own.stop().await;
}

/// A process dies when its insert is on its way. The next one has read what the table holds when the
/// insert arrives.
#[cfg_attr(not(feature = "failpoints"), ignore = "needs the feature failpoints")]
#[tokio::test(flavor = "multi_thread")]
async fn insert_of_a_dead_process_that_arrives_late_leaves_no_trace() {
    let server = Server::start().await;
    let url = server.own.url();
    crash(&url, server.dir.path(), "crashed", "before_data");
    let sink = server.sink().await;
    let view = Arc::new(view("crashed", Some(vec![0])));
    let opened = sink.open_view(Arc::clone(&view)).await.unwrap();
    let recovered = opened.recovered().clone();
    assert_eq!(recovered.progress, Some(Head { position: 2, tick: 5 }));
    assert_eq!(recovered.unfinished, [7], "the end was kept before the data was sent");

    let late = "INSERT INTO heliostat_internal.crashed__0a (k, v, _version, _deleted) VALUES \
                (1, 'A', 7, 0), (2, 'b', 7, 1), (3, 'c', 7, 0), (4, 'd', 7, 0)";
    let feed = Feed::run(opened, view);
    feed_until_7(&feed, false).await;
    feed.rows(9, &row(3, "c"), &[-1]).await;
    feed.close(20, 8).await;
    feed.live(20).await;
    feed.shown(20).await;
    server.query(late).await;
    let select = "SELECT * FROM heliostat.crashed ORDER BY k";
    assert_eq!(server.query(select).await, "1\tA\n4\td");
    feed.end().await;
}

/// Progress that is lost, in a power cut, is the end of more than one flush.
#[tokio::test(flavor = "multi_thread")]
async fn flushes_whose_progress_is_lost_are_repeated_one_by_one() {
    let server = Server::start().await;
    let view = Arc::new(view("crashed", Some(vec![0])));
    let sink = server.sink().await;
    let feed = Feed::run(sink.open_view(Arc::clone(&view)).await.unwrap(), Arc::clone(&view));
    feed_until_7(&feed, true).await;
    feed.shown(7).await;
    let lost =
        "SELECT count() FROM heliostat_internal._heliostat_progress_log FINAL WHERE tick = 7";
    eventually(&server.own.url(), lost, "1").await;
    feed.end().await;
    // Key 3 came with one flush and has gone with the next, of which only a part was written.
    server
        .query(
            "INSERT INTO heliostat_internal.crashed__0a (k, v, _version, _deleted) \
             VALUES (4, 'D', 9, 0)",
        )
        .await;
    let forget = "ALTER TABLE heliostat_internal._heliostat_progress_log \
                  DELETE WHERE tick > 5 SETTINGS mutations_sync = 1";
    server.query(forget).await;
    let sink = server.sink().await;
    let opened = sink.open_view(Arc::clone(&view)).await.unwrap();
    assert_eq!(opened.recovered().unfinished, [7, 9]);
    let feed = Feed::run(opened, view);
    feed_until_7(&feed, false).await;
    feed_from_7_to_9(&feed).await;
    feed.live(9).await;
    feed.shown(9).await;
    let select = "SELECT * FROM heliostat.crashed ORDER BY k";
    assert_eq!(server.query(select).await, "1\tA\n4\tD");
    feed.end().await;
}

/// A snapshot is taken while ClickHouse answers nothing, one flush is under way and more has come since. A view
/// goes on from it when some of that flush has arrived, late and without progress.
async fn go_on_from_what_is_unwritten(key: Option<Vec<usize>>) {
    let server = Server::start().await;
    let is_keyless = key.is_none();
    let view = Arc::new(view("behind", key));
    let sink = server.sink().await;
    let feed = Feed::run(sink.open_view(Arc::clone(&view)).await.unwrap(), Arc::clone(&view));
    feed_until_5(&feed, true).await;
    let progress = "SELECT tick FROM heliostat._heliostat_progress";
    eventually(&server.own.url(), progress, "5").await;
    let pid = server.own.pid().unwrap() as libc::pid_t;
    // SAFETY: a signal to the child that the test has started.
    let signal = |signal| assert_eq!(unsafe { libc::kill(pid, signal) }, 0);
    signal(libc::SIGSTOP);
    feed_from_5_to_7(&feed).await;
    let deadline = Instant::now() + Duration::from_secs(30);
    while !feed.status.is_inserting.load(Ordering::SeqCst) {
        assert!(Instant::now() < deadline, "no flush");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    feed_from_7_to_9(&feed).await;
    let (answer, answered) = std::sync::mpsc::channel();
    let at = Head { tick: 9, position: 8 };
    feed.tell(SinkMessage::Snapshot { at, answer });
    let wait = move || answered.recv_timeout(Duration::from_secs(30));
    let unwritten = tokio::task::spawn_blocking(wait).await.unwrap().unwrap();
    let spans: Vec<_> = unwritten.iter().map(|part| (part.span.from, part.span.to.tick)).collect();
    assert_eq!(spans, [(Some(5), 7), (Some(7), 9)]);
    let sizes: Vec<usize> = unwritten.iter().map(|part| part.changes.len()).collect();
    assert_eq!(sizes, [5, 3]);
    feed.end().await;
    signal(libc::SIGCONT);

    let mut opened = server.sink().await.open_view(Arc::clone(&view)).await.unwrap();
    assert_eq!(opened.recovered().progress, Some(Head { position: 2, tick: 5 }));
    assert_eq!(opened.recovered().unfinished, [7]);
    assert_eq!(opened.resume(at, 2, unwritten), is_keyless, "rows may repeat without a key");
    let feed = Feed::run(opened, view);
    if is_keyless {
        feed.rows(9, &row(1, "A"), &[1]).await;
        feed.rows(9, &row(4, "D"), &[1]).await;
    }
    feed.close(9, 8).await;
    feed.rows(12, &row(1, "A"), &[-1]).await;
    feed.close(12, 9).await;
    feed.live(12).await;
    feed.shown(12).await;
    // Key 3 came with one of these flushes and went with another one.
    assert_eq!(server.query("SELECT * FROM heliostat.behind ORDER BY k").await, "4\tD");
    assert_eq!(feed.status.rows.load(Ordering::SeqCst), 1);
    let versions = "SELECT DISTINCT _version FROM heliostat_internal.behind__0a ORDER BY _version";
    let versions = server.query(versions).await;
    assert!(versions.split('\n').all(|v| ["5", "7", "9", "12"].contains(&v)), "{versions}");
    feed.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn view_goes_on_from_a_snapshot_of_what_clickhouse_lacks() {
    go_on_from_what_is_unwritten(Some(vec![0])).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn view_without_a_key_goes_on_from_a_snapshot_of_what_clickhouse_lacks() {
    go_on_from_what_is_unwritten(None).await;
}

/// A view is not told of everything up to where an earlier flush ended.
#[tokio::test(flavor = "multi_thread")]
async fn changes_that_pass_over_the_end_of_an_earlier_flush_fail_the_view() {
    let server = Server::start().await;
    let view = Arc::new(view("crashed", Some(vec![0])));
    let sink = server.sink().await;
    let feed = Feed::run(sink.open_view(Arc::clone(&view)).await.unwrap(), Arc::clone(&view));
    feed_until_7(&feed, true).await;
    feed.shown(7).await;
    feed.end().await;
    let feed = Feed::run(sink.open_view(Arc::clone(&view)).await.unwrap(), view);
    feed.rows(5, &row(1, "a"), &[1]).await;
    feed.close(8, 6).await;
    let error = feed.failed().await;
    assert!(error.contains("crashed") && error.contains("up to 8, and not up to 7"), "{error}");
}

/// Not a test: the process that crashes in the middle of its second flush.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "run by another test"]
async fn sink_that_crashes() {
    let _failpoints = fail::FailScenario::setup();
    let Ok(url) = std::env::var(CRASH_URL) else { return };
    let name = std::env::var("HELIOSTAT_TEST_CRASH_VIEW").unwrap();
    let key = (name == "crashed").then(|| vec![0]);
    let directory = std::env::var(CRASH_DIR).unwrap();
    let sink = connect(&url, Path::new(&directory), Retention::default()).await.unwrap();
    let feed = Feed::open(&sink, &view(&name, key)).await;
    feed_until_7(&feed, true).await;
    feed.shown(7).await;
    std::process::exit(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn clickhouse_is_killed_again_and_again_under_load() {
    let server = Server::start().await;
    let url = server.own.url();
    let sink = server.sink().await;
    let columns = vec![field("k", SqlType::Int, false), field("n", SqlType::BigInt, false)];
    let feed = Feed::open(&sink, &schema("loaded", "0a", columns, Some(vec![0]))).await;
    feed.close(1, 0).await;
    feed.live(1).await;
    feed.shown(1).await;
    // Each tick counts 100 of 1000 keys up; key k is there while its count is not a multiple of 5.
    let mut counts = vec![0_i64; 1000];
    for tick in 2..400_u64 {
        let (mut keys, mut values, mut diffs) = (vec![], vec![], vec![]);
        for i in 0..100 {
            let k = (tick as usize * 37 + i * 7) % 1000;
            for (diff, step) in [(-1, 0), (1, 1)] {
                counts[k] += step;
                if counts[k] % 5 != 0 {
                    keys.push(k as i32);
                    values.push(counts[k]);
                    diffs.push(diff);
                }
            }
        }
        let columns: Vec<ArrayRef> =
            vec![Arc::new(Int32Array::from(keys)), Arc::new(Int64Array::from(values))];
        feed.rows(tick, &columns, &diffs).await;
        feed.close(tick, tick * 100).await;
        if tick.is_multiple_of(80)
            && let Some(pid) = server.own.pid()
        {
            // SAFETY: a signal to the child that the test has started.
            unsafe { libc::kill(pid as libc::pid_t, libc::SIGKILL) };
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    feed.shown(399).await;
    assert!(feed.status.retries.load(Ordering::Relaxed) > 0);
    assert_eq!(feed.status.state().error(), None, "writes succeed again");
    let expected: Vec<String> = counts
        .iter()
        .enumerate()
        .filter(|(_, n)| *n % 5 != 0)
        .map(|(k, n)| format!("{k}\t{n}"))
        .collect();
    let select = "SELECT * FROM heliostat.loaded ORDER BY k";
    assert_eq!(query(&url, select).await.unwrap(), expected.join("\n"));
    // Ending writes the last progress.
    feed.end().await;
    eventually(&url, "SELECT tick FROM heliostat._heliostat_progress", "399").await;
}

#[tokio::test]
async fn an_absent_clickhouse_is_told_from_a_wrong_address() {
    let config = |url: &str| ClickHouseConfig {
        url: url.into(),
        user: "u".into(),
        password: "secret".into(),
        database: "heliostat".into(),
    };
    let ask = async |url: &str| {
        let config = config(url);
        assert!(!format!("{config:?}").contains("secret"));
        let rejects = Arc::new(|_| {});
        ClickHouseSink::connect(&config, Path::new("/absent"), Retention::default(), rejects)
            .await
            .err()
            .unwrap()
    };
    let absent = ask("http://127.0.0.1:1").await;
    assert!(
        absent.kind() == ErrorKind::Transient
            && matches!(absent, ClickHouseError::Unreachable { .. }),
        "{absent}"
    );
    for url in ["127.0.0.1:8123", "ftp://host", "http://", "no address"] {
        let wrong = ask(url).await;
        assert!(
            wrong.kind() == ErrorKind::Refused && matches!(wrong, ClickHouseError::Url { .. }),
            "{wrong}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn user_and_password_are_sent() {
    let server = Server::start().await;
    let config = ClickHouseConfig {
        url: server.own.url(),
        user: "nobody".into(),
        password: "p".into(),
        database: "heliostat".into(),
    };
    let refused =
        ClickHouseSink::connect(&config, server.dir.path(), Retention::default(), Arc::new(|_| {}))
            .await;
    let refused = refused.err().unwrap();
    assert!(
        refused.kind() == ErrorKind::Refused && refused.to_string().contains("nobody"),
        "{refused}"
    );
}

/// Lays the tables of a view out as Heliostat did before they had a database of their own.
async fn lay_out_as_before(server: &Server, tables: &[&str]) {
    for table in tables {
        let sql = format!("RENAME TABLE heliostat_internal.`{table}` TO heliostat.`{table}`");
        server.query(&sql).await;
    }
    for (view, table) in [("moved", "moved__0a"), ("moved_history", "moved__0a_history")] {
        let columns = if view == "moved" { "k, v" } else { "k, v, valid_from, valid_to" };
        if !tables.contains(&table) {
            continue;
        }
        let sql = format!(
            "CREATE OR REPLACE VIEW heliostat.{view} AS SELECT {columns} FROM heliostat.{table} FINAL"
        );
        server.query(&sql).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_from_before_they_had_a_database_of_their_own_are_taken_over_with_their_progress() {
    const TABLES: [&str; 4] =
        ["moved__0a", "moved__0a_history", "_heliostat_progress_log", "_heliostat_generations"];
    let server = Server::start().await;
    let view = ViewSchema { history: true, ..view("moved", Some(vec![0])) };
    let sink = server.sink().await;
    let feed = Feed::open(&sink, &view).await;
    feed_until_7(&feed, true).await;
    feed.shown(7).await;
    feed.end().await;
    drop(sink);
    let select = "SELECT * FROM heliostat.moved ORDER BY k";
    let history = "SELECT k, v, valid_to IS NULL FROM heliostat.moved_history ORDER BY ALL";
    let before = (server.query(select).await, server.query(history).await);
    assert_eq!(before.0, "1\tA\n3\tc\n4\td");

    // All of it at once, and a move that was cut off after the first table.
    for left in [&TABLES[..], &TABLES[1..]] {
        lay_out_as_before(&server, left).await;
        if left.len() == TABLES.len() {
            server.query("DROP DATABASE heliostat_internal SYNC").await;
        }
        let sink = server.sink().await;
        let opened = sink.open_view(Arc::new(view.clone())).await.unwrap();
        let recovered = opened.recovered().clone();
        assert_eq!(recovered.progress, Some(Head { position: 5, tick: 7 }));
        assert!(recovered.published && recovered.unfinished.is_empty());
        sink.republish(&Arc::new(view.clone())).await.unwrap();
        assert_eq!((server.query(select).await, server.query(history).await), before);
        let tables = "SELECT name FROM system.tables WHERE database = 'heliostat' ORDER BY name";
        let names = server.query(tables).await;
        assert_eq!(names, "_heliostat_progress\nmoved\nmoved_history");
        let progress = "SELECT position, tick FROM heliostat._heliostat_progress";
        assert_eq!(server.query(progress).await, "5\t7");
    }

    // The view goes on from there.
    let sink = server.sink().await;
    let feed = Feed::open(&sink, &view).await;
    feed_until_7(&feed, false).await;
    feed.rows(9, &row(4, "d"), &[-1]).await;
    feed.close(9, 6).await;
    feed.live(9).await;
    feed.shown(9).await;
    assert_eq!(server.query(select).await, "1\tA\n3\tc");
    feed.end().await;
}
