//! A changed view replaces the old one in one step; what nobody reads goes, later.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use arrow::array::{ArrayRef, Int32Array, Int64Array};
use heliostat::internals::model::{SqlField, SqlType};
use heliostat::internals::sink::Sink;
use heliostat::internals::sink::{ClickHouseSink, Retention};

use crate::support::{Feed, Server, connect, field, query, schema};

fn fields() -> Vec<SqlField> {
    vec![field("k", SqlType::Int, false), field("v", SqlType::BigInt, false)]
}

fn rows(keys: std::ops::Range<i32>, v: i64) -> (Vec<ArrayRef>, Vec<i64>) {
    let count = keys.len();
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int32Array::from_iter_values(keys)),
        Arc::new(Int64Array::from(vec![v; count])),
    ];
    (columns, vec![1; count])
}

/// A generation whose rows all have the value `v`, complete and live at tick 5.
async fn generation(sink: &ClickHouseSink, view: &str, name: &str, v: i64) -> Feed {
    let feed = Feed::open(sink, &schema(view, name, fields(), Some(vec![0]))).await;
    let (columns, diffs) = rows(0..1000, v);
    feed.rows(5, &columns, &diffs).await;
    feed.close(5, 1000).await;
    feed.live(5).await;
    feed
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_see_one_generation_or_the_other() {
    let server = Server::start().await;
    let url = server.own.url();
    let sink = connect(&url, server.dir.path(), Retention::default()).await.unwrap();
    let mut last = generation(&sink, "swapped", "g0", 0).await;
    last.shown(5).await;

    let stop = Arc::new(AtomicBool::new(false));
    let reads = Arc::new(AtomicU64::new(0));
    let reader = {
        let (stop, reads, url) = (Arc::clone(&stop), Arc::clone(&reads), url.clone());
        tokio::spawn(async move {
            let select = "SELECT count(), uniqExact(v) FROM heliostat.swapped";
            while !stop.load(Ordering::Relaxed) {
                assert_eq!(query(&url, select).await.as_deref(), Ok("1000\t1"));
                reads.fetch_add(1, Ordering::Relaxed);
            }
        })
    };
    for number in 1..15 {
        let next = generation(&sink, "swapped", &format!("g{number}"), number).await;
        next.shown(5).await;
        let v = query(&url, "SELECT max(v) FROM heliostat.swapped").await.unwrap();
        assert_eq!(v, number.to_string());
        last.end().await;
        last = next;
    }
    stop.store(true, Ordering::Relaxed);
    reader.await.unwrap();
    assert!(reads.load(Ordering::Relaxed) > 10);
    let progress = "SELECT generation, tick FROM heliostat._heliostat_progress";
    assert_eq!(query(&url, progress).await.unwrap(), "g14\t5");
    assert!(sink.drop_due().await.unwrap().is_empty(), "old tables stay for a while");
    last.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn replaced_and_removed_generations_are_dropped_after_retention() {
    let server = Server::start().await;
    let url = server.own.url();
    let hour = Duration::from_secs(3600);
    let retention = Retention { replaced: Duration::ZERO, gone: hour };
    let sink = connect(&url, server.dir.path(), retention).await.unwrap();
    for name in ["g1", "g2"] {
        let feed = generation(&sink, "kept", name, 1).await;
        feed.shown(5).await;
        feed.end().await;
    }
    let feed = generation(&sink, "gone", "g1", 1).await;
    feed.shown(5).await;
    feed.end().await;
    assert_eq!(sink.retire_all_but(&["kept"]).await.unwrap(), ["gone"]);
    assert!(sink.retire_all_but(&["kept"]).await.unwrap().is_empty());
    assert_eq!(sink.drop_due().await.unwrap(), ["kept__g1"]);
    let tables = "SELECT name FROM system.tables WHERE database LIKE 'heliostat%' \
                  AND name NOT LIKE '\\\\_%' ORDER BY name";
    assert_eq!(query(&url, tables).await.unwrap(), "gone__g1\nkept\nkept__g2");
    let progress = "SELECT view, generation FROM heliostat._heliostat_progress";
    assert_eq!(query(&url, progress).await.unwrap(), "kept\tg2");

    // A view that comes back before its time goes on where it was.
    let sink = connect(&url, server.dir.path(), Retention { gone: Duration::ZERO, ..retention })
        .await
        .unwrap();
    let feed = generation(&sink, "gone", "g1", 1).await;
    feed.shown(5).await;
    feed.end().await;
    assert!(sink.drop_due().await.unwrap().is_empty());
    assert_eq!(query(&url, "SELECT count() FROM heliostat.gone").await.unwrap(), "1000");

    // A view that comes back after it was dropped is built anew, whatever its progress was.
    sink.retire_all_but(&["kept"]).await.unwrap();
    assert_eq!(sink.drop_due().await.unwrap(), ["gone__g1"]);
    let view = Arc::new(schema("gone", "g1", fields(), Some(vec![0])));
    let opened = sink.open_view(Arc::clone(&view)).await.unwrap();
    assert_eq!(*opened.recovered(), Default::default());
    drop(opened);
    let feed = generation(&sink, "gone", "g1", 1).await;
    feed.shown(5).await;
    feed.end().await;
    assert_eq!(query(&url, "SELECT count() FROM heliostat.gone").await.unwrap(), "1000");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_view_has_no_name_before_it_is_live() {
    let server = Server::start().await;
    let sink = server.sink().await;
    let feed = Feed::open(&sink, &schema("late", "g1", fields(), Some(vec![0]))).await;
    let (columns, diffs) = rows(0..10, 1);
    feed.rows(5, &columns, &diffs).await;
    feed.close(5, 10).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(query(&server.own.url(), "SELECT * FROM heliostat.late").await.is_err());
    assert!(!feed.status.is_published());
    feed.live(7).await;
    feed.close(7, 11).await;
    feed.shown(7).await;
    assert_eq!(server.query("SELECT count() FROM heliostat.late").await, "10");
    feed.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_of_an_older_data_directory_move_and_views_go_on() {
    let server = Server::start().await;
    let url = server.own.url();
    let feed = generation(&server.sink().await, "kept", "g1", 1).await;
    feed.shown(5).await;
    feed.end().await;
    // The layout of older versions: everything in one database.
    let tables =
        "SELECT name FROM system.tables WHERE database = 'heliostat_internal' ORDER BY name";
    let names = query(&url, tables).await.unwrap();
    assert!(names.contains("kept__g1") && names.lines().count() == 3, "{names}");
    for name in names.lines() {
        server.query(&format!("RENAME TABLE heliostat_internal.{name} TO heliostat.{name}")).await;
    }
    server.query("DROP DATABASE heliostat_internal").await;

    let feed = generation(&server.sink().await, "kept", "g1", 1).await;
    assert_eq!(query(&url, tables).await.unwrap(), names);
    feed.shown(5).await;
    feed.end().await;
    assert_eq!(server.query("SELECT count() FROM heliostat.kept").await, "1000");
    let public = "SELECT name FROM system.tables WHERE database = 'heliostat' ORDER BY name";
    assert_eq!(server.query(public).await, "_heliostat_progress\nkept");
}
