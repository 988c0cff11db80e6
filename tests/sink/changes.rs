//! Updates, deletes, moves within the sorting key, rows without a key.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use arrow::array::{ArrayRef, Int32Array, Int64Array, StringArray, TimestampMicrosecondArray};
use heliostat::internals::model::{SinkMessage, ViewMessage};
use heliostat::internals::model::{SqlField, SqlType};

use crate::support::{Feed, Server, eventually, field, options, schema};

fn fields() -> Vec<SqlField> {
    vec![
        field("k", SqlType::Int, false),
        field("region", SqlType::Text, true),
        field("total", SqlType::BigInt, false),
    ]
}

fn row(k: i32, region: &str, total: i64) -> Vec<ArrayRef> {
    vec![
        Arc::new(Int32Array::from(vec![k])),
        Arc::new(StringArray::from(vec![region])),
        Arc::new(Int64Array::from(vec![total])),
    ]
}

async fn row_change(feed: &Feed, tick: u64, row: Vec<ArrayRef>, diff: i64) {
    feed.rows(tick, &row, &[diff]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_has_its_latest_row_or_none() {
    let server = Server::start().await;
    let sink = server.sink().await;
    let feed = Feed::open(&sink, &schema("totals", "0a", fields(), Some(vec![0]))).await;
    row_change(&feed, 5, row(1, "eu", 10), 1).await;
    row_change(&feed, 5, row(2, "us", 20), 1).await;
    feed.close(5, 2).await;
    feed.live(5).await;
    feed.shown(5).await;
    let select = "SELECT * FROM heliostat.totals ORDER BY k";
    assert_eq!(server.query(select).await, "1\teu\t10\n2\tus\t20");

    // Several ticks in one flush, out of order between workers' messages, and one that nets out.
    row_change(&feed, 8, row(1, "eu", 12), -1).await;
    row_change(&feed, 7, row(1, "eu", 10), -1).await;
    row_change(&feed, 8, row(1, "eu", 15), 1).await;
    row_change(&feed, 7, row(1, "eu", 12), 1).await;
    row_change(&feed, 7, row(3, "eu", 1), 1).await;
    row_change(&feed, 8, row(3, "eu", 1), -1).await;
    row_change(&feed, 8, row(2, "us", 20), -1).await;
    // A change at a later tick is not shown yet.
    row_change(&feed, 9, row(4, "eu", 4), 1).await;
    feed.close(8, 5).await;
    feed.shown(8).await;
    assert_eq!(server.query(select).await, "1\teu\t15");
    assert_eq!(feed.status.written().position, 5);

    feed.tell(SinkMessage::Errors { count: 3 });
    feed.close(9, 6).await;
    feed.shown(9).await;
    assert_eq!(server.query(select).await, "1\teu\t15\n4\teu\t4");
    let url = server.own.url();
    let progress = "SELECT view, generation, tick, toString(time), position, errors, \
                    written_at > now() - 60 FROM heliostat._heliostat_progress";
    eventually(&url, progress, "totals\t0a\t9\t1970-01-01 00:00:00.009\t6\t3\t1").await;
    // Nothing but time passes; progress follows, rows are not written again.
    let rows = feed.status.rows_written.load(Ordering::Relaxed);
    feed.close(2000, 6).await;
    eventually(&url, "SELECT tick FROM heliostat._heliostat_progress", "2000").await;
    assert_eq!(feed.status.rows_written.load(Ordering::Relaxed), rows);
    feed.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_moves_within_the_sorting_key_and_its_partition() {
    let server = Server::start().await;
    let sink = server.sink().await;
    let mut view = schema("moving", "0a", fields(), Some(vec![0]));
    view.sinks = options(&[("order_by", "region"), ("partition_by", "region")]);
    view.columns[1].nullable = false;
    let feed = Feed::open(&sink, &view).await;
    row_change(&feed, 5, row(1, "eu", 10), 1).await;
    row_change(&feed, 5, row(2, "eu", 20), 1).await;
    feed.close(5, 2).await;
    feed.live(5).await;
    feed.shown(5).await;
    row_change(&feed, 7, row(1, "eu", 10), -1).await;
    row_change(&feed, 7, row(1, "us", 11), 1).await;
    row_change(&feed, 7, row(2, "eu", 20), -1).await;
    row_change(&feed, 7, row(2, "eu", 21), 1).await;
    feed.close(7, 3).await;
    feed.shown(7).await;
    let select = "SELECT * FROM heliostat.moving ORDER BY k";
    assert_eq!(server.query(select).await, "1\tus\t11\n2\teu\t21");
    let key = "SELECT sorting_key, partition_key FROM system.tables WHERE name = 'moving__0a'";
    assert_eq!(server.query(key).await, "region, k\tregion");
    // Back again, past its own tombstone, and gone.
    row_change(&feed, 9, row(1, "us", 11), -1).await;
    row_change(&feed, 9, row(1, "eu", 12), 1).await;
    feed.close(9, 4).await;
    feed.shown(9).await;
    assert_eq!(server.query(select).await, "1\teu\t12\n2\teu\t21");
    row_change(&feed, 11, row(1, "eu", 12), -1).await;
    feed.close(11, 5).await;
    feed.shown(11).await;
    assert_eq!(server.query(select).await, "2\teu\t21");
    // Merged with clean-up, tombstones leave and nothing comes back.
    assert!(sink.sweep(100).await.unwrap().is_empty(), "too few to care");
    assert_eq!(sink.sweep(1).await.unwrap(), ["`heliostat_internal`.`moving__0a`"]);
    assert_eq!(server.query(select).await, "2\teu\t21");
    assert_eq!(server.query("SELECT count() FROM heliostat_internal.moving__0a").await, "1");
    feed.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_without_a_key_repeat() {
    let server = Server::start().await;
    let sink = server.sink().await;
    let feed = Feed::open(&sink, &schema("bag", "0a", fields(), None)).await;
    row_change(&feed, 5, row(1, "eu", 10), 2).await;
    row_change(&feed, 5, row(2, "us", 20), 1).await;
    feed.close(5, 2).await;
    feed.live(5).await;
    feed.shown(5).await;
    let select = "SELECT * FROM heliostat.bag ORDER BY k";
    assert_eq!(server.query(select).await, "1\teu\t10\n1\teu\t10\n2\tus\t20");
    row_change(&feed, 7, row(1, "eu", 10), 1).await;
    row_change(&feed, 7, row(2, "us", 20), -1).await;
    feed.close(7, 3).await;
    feed.shown(7).await;
    assert_eq!(server.query(select).await, "1\teu\t10\n1\teu\t10\n1\teu\t10");
    feed.end().await;

    // After a restart everything comes again from the log's start, and counts on from there.
    let feed = Feed::open(&sink, &schema("bag", "0a", fields(), None)).await;
    row_change(&feed, 7, row(1, "eu", 10), 3).await;
    feed.close(7, 3).await;
    row_change(&feed, 9, row(1, "eu", 10), -1).await;
    feed.close(9, 4).await;
    feed.live(9).await;
    feed.shown(9).await;
    assert_eq!(server.query(select).await, "1\teu\t10\n1\teu\t10");
    assert_eq!(server.query("SELECT * FROM heliostat.bag WHERE k = 7").await, "");
    feed.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_view_with_an_empty_key_has_one_row() {
    let server = Server::start().await;
    let sink = server.sink().await;
    let count = vec![field("n", SqlType::BigInt, false)];
    let feed = Feed::open(&sink, &schema("one", "0a", count, Some(vec![]))).await;
    let row = |n: i64| -> Vec<ArrayRef> { vec![Arc::new(Int64Array::from(vec![n]))] };
    // The view's row over no events is at tick 0.
    row_change(&feed, 0, row(0), 1).await;
    feed.send(ViewMessage::Mark { tick: 0, position: 0 }).await;
    feed.live(0).await;
    feed.close(0, 0).await;
    feed.shown(0).await;
    assert_eq!(server.query("SELECT * FROM heliostat.one").await, "0");
    row_change(&feed, 5, row(0), -1).await;
    row_change(&feed, 5, row(1), 1).await;
    feed.close(5, 1).await;
    feed.shown(5).await;
    row_change(&feed, 6, row(1), -1).await;
    row_change(&feed, 6, row(2), 1).await;
    feed.close(6, 2).await;
    feed.shown(6).await;
    assert_eq!(server.query("SELECT * FROM heliostat.one").await, "2");
    feed.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_rows_come_in_blocks_and_names_need_not_be_plain() {
    let server = Server::start().await;
    let sink = server.sink().await;
    let columns =
        vec![field("Größe `x` \\", SqlType::Int, false), field("it's ?", SqlType::BigInt, false)];
    let feed = Feed::open(&sink, &schema("many", "0a", columns, Some(vec![0]))).await;
    let count = 600_000;
    let rows: Vec<ArrayRef> = vec![
        Arc::new(Int32Array::from_iter_values(0..count)),
        Arc::new(Int64Array::from_iter_values((0..count).map(i64::from))),
    ];
    feed.rows(5, &rows, &vec![1; count as usize]).await;
    feed.close(5, count as u64).await;
    feed.live(5).await;
    feed.shown(5).await;
    let select = "SELECT count(), sum(`it\\'s ?`), max(`Größe \\`x\\` \\\\`) FROM heliostat.many";
    let total = i64::from(count) * (i64::from(count) - 1) / 2;
    assert_eq!(server.query(select).await, format!("{count}\t{total}\t{}", count - 1));
    feed.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn partitions_and_ttl_follow_the_sorting_key() {
    let server = Server::start().await;
    let sink = server.sink().await;
    let at = SqlType::Timestamp { precision: 6, with_time_zone: false };
    let columns = vec![field("k", SqlType::Int, false), field("at", at, false)];
    let mut view = schema("expiring", "0a", columns, Some(vec![0]));
    view.sinks = options(&[
        ("order_by", "at"),
        ("partition_by", "toYYYYMM(at)"),
        ("ttl", "at + INTERVAL 30 DAY"),
    ]);
    let feed = Feed::open(&sink, &view).await;
    let now: i64 = server.query("SELECT toUnixTimestamp(now())").await.parse().unwrap();
    // Eleven years, each month in a partition of its own: more than an insert may have by default.
    let days = 0..4000;
    let times = days.clone().map(|day| (now - i64::from(day) * 86_400) * 1_000_000);
    let rows: Vec<ArrayRef> = vec![
        Arc::new(Int32Array::from_iter_values(days)),
        Arc::new(TimestampMicrosecondArray::from_iter_values(times)),
    ];
    feed.rows(5, &rows, &[1; 4000]).await;
    feed.close(5, 4000).await;
    feed.live(5).await;
    feed.shown(5).await;
    assert_eq!(server.query("SELECT count() FROM heliostat.expiring WHERE k < 30").await, "30");
    server.query("OPTIMIZE TABLE heliostat_internal.expiring__0a FINAL").await;
    let left: i32 = server.query("SELECT count() FROM heliostat.expiring").await.parse().unwrap();
    assert!((30..=31).contains(&left), "{left} days are left");
    feed.end().await;
}
