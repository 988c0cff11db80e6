//! Removes tombstones from tables that are never at rest.
//!
//! ClickHouse removes them when it merges a partition into one part, which it does by itself only
//! where nothing was written for a while. A table that is always written to would keep the
//! tombstone of every key that it ever had.

use clickhouse::Row;
use serde::Deserialize;

use super::client::ClickHouse;
use super::error::ClickHouseError;
use super::table::DELETED_COLUMN;

/// Fewer tombstones than this are not worth a merge of the whole table.
pub(super) const TOMBSTONES_MIN: u64 = 100_000;
/// Nor are fewer than one in this many rows.
const TOMBSTONES_SHARE: u64 = 4;

#[derive(Row, Deserialize)]
struct RowCounts {
    rows: u64,
    tombstones: u64,
}

/// Merges the table, given as quoted path, without its tombstones, if it has at least
/// `tombstones_min` of them and they are a good part of it; true if so.
pub(super) async fn sweep(
    clickhouse: &ClickHouse,
    table: &str,
    tombstones_min: u64,
) -> Result<bool, ClickHouseError> {
    let count =
        format!("SELECT count() AS rows, countIf({DELETED_COLUMN} = 1) AS tombstones FROM {table}");
    let counts = clickhouse.fetch::<RowCounts>(&count).await?;
    let is_due = counts.iter().any(|counts| {
        counts.tombstones >= tombstones_min.max(1)
            && counts.tombstones.saturating_mul(TOMBSTONES_SHARE) >= counts.rows
    });
    if is_due {
        clickhouse.execute(&format!("OPTIMIZE TABLE {table} FINAL CLEANUP")).await?;
    }
    Ok(is_due)
}
