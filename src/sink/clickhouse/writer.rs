//! One flush: rows, then progress, then, where it is due, the public name.

use std::ops::Range;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arrow::error::ArrowError;
use bytes::Bytes;
use tokio::time::Instant;

use crate::model::row::Row;
use crate::model::{Head, Tick};
use crate::sink::{SinkError, ViewSinkStatus};

use super::catalog::TableCatalog;
use super::client::ClickHouse;
use super::collect::Taken;
use super::encode::{OutRow, RowEncoder};
use super::error::ClickHouseError;
use super::history::Interval;
use super::intent::FlushIntent;
use super::options::NAME;
use super::pace::FlushSlots;
use super::pending::{FlushChanges, Multiplicities, Net};
use super::progress::{GenerationProgress, ProgressStore};
use super::retry::Pauses;
use super::rows::RowMaker;
use super::table::Table;

/// The most rows in one insert.
const BLOCK_ROWS_MAX: usize = 250_000;
/// About the most bytes in one insert, counted in encoded rows.
const BLOCK_BYTES_MAX: usize = 64 << 20;
/// The parts of a table are counted at every so many flushes.
const FLUSHES_PER_COUNT: u64 = 10;

/// The work of one flush.
pub(super) struct Flush {
    pub(super) taken: Taken,
    /// The number of rows that fail in the dataflow.
    pub(super) errors: u64,
    /// Let the view's name read from this table afterwards.
    pub(super) publish: bool,
}

/// The result of a flush.
pub(super) struct Flushed {
    pub(super) to: Head,
    pub(super) errors: u64,
    pub(super) published: bool,
    pub(super) rows: u64,
    pub(super) took: Duration,
    /// Active parts in the table's fullest partition, where they were counted.
    pub(super) parts: Option<u64>,
}

/// Writes the flushes of one view, one after the other.
pub(super) struct ViewWriter {
    pub(super) clickhouse: Arc<ClickHouse>,
    pub(super) catalog: Arc<TableCatalog>,
    pub(super) progress: ProgressStore,
    pub(super) table: Table,
    pub(super) encoder: RowEncoder,
    pub(super) maker: RowMaker,
    pub(super) counts: Mutex<Multiplicities>,
    pub(super) intent: FlushIntent,
    pub(super) status: Arc<ViewSinkStatus>,
    /// Shared with the writers of all other views.
    pub(super) slots: Arc<FlushSlots>,
}

impl ViewWriter {
    /// Writes a flush, repeating each step until it succeeds. Fails only where repeating is of no
    /// use: rows that do not fit the view's columns.
    pub(super) async fn flush(self: Arc<Self>, flush: Flush) -> Result<Flushed, ClickHouseError> {
        let Flush { taken: Taken { changes, intervals, from, to, rows }, errors, publish } = flush;
        let start = Instant::now();
        let from = from.unwrap_or_default();
        let mut written = 0;
        let mut parts = None;
        if !changes.is_empty() || !intervals.is_empty() {
            self.until_done(|| std::future::ready(self.intend(to.tick))).await;
            fail::fail_point!("before_data", |_| std::process::abort());
        }
        if !changes.is_empty() {
            written = self.write_rows(&changes, from, to.tick).await?;
            fail::fail_point!("after_data", |_| std::process::abort());
            let flushes = self.status.flushes.fetch_add(1, Ordering::Relaxed);
            if flushes.is_multiple_of(FLUSHES_PER_COUNT) {
                // Only the pace depends on it, so an error is no reason to stop.
                parts = self.catalog.parts(&self.table.name()).await.ok();
            }
        }
        if !intervals.is_empty() {
            written += intervals.len() as u64;
            self.write_intervals(Arc::new(intervals), from, to.tick).await?;
        }
        self.status.rows_written.fetch_add(written, Ordering::Relaxed);
        self.status.rows.store(rows, Ordering::SeqCst);
        self.status.set_written(to);
        let (view, generation) =
            (self.table.schema.name.clone(), self.table.schema.generation.clone());
        // GenerationProgress of several views goes together, so waiting for it is no sign of load.
        let took = start.elapsed();
        self.progress.write(GenerationProgress { view, generation, head: to, errors }).await;
        self.status.set_recorded(to);
        if publish {
            self.until_done(|| self.catalog.publish(&self.table)).await;
            self.status.set_published();
        }
        Ok(Flushed { to, errors, published: publish, rows: written, took, parts })
    }

    fn intend(&self, end: Tick) -> Result<(), ClickHouseError> {
        let path = || self.intent.path();
        let noted = self.intent.note(end);
        noted.map_err(|source| ClickHouseError::Intent { path: path(), source })
    }

    /// Writes the rows that changed; returns their number.
    async fn write_rows(
        self: &Arc<Self>,
        changes: &Arc<FlushChanges>,
        from: Tick,
        to: Tick,
    ) -> Result<u64, ClickHouseError> {
        let sql = self.table.insert_sql();
        let sorting = Arc::clone(changes);
        let sort = move |_: &Self| Ok(blocks(sorting.sorted(), change_bytes));
        let mut written = 0;
        for (index, block) in Arc::clone(self).blocking(sort).await?.into_iter().enumerate() {
            let changes = Arc::clone(changes);
            let encode = move |w: &Self| {
                let rows = w.rows_of(&changes.sorted()[block])?;
                Ok((rows.len() as u64, w.encoder.encode(&rows, to)?))
            };
            let (rows, stream) = Arc::clone(self).blocking(encode).await?;
            let name = format!("{}:{from}-{to}:{index}", self.table.path());
            self.insert(&sql, &name, stream).await;
            written += rows;
        }
        Ok(written)
    }

    async fn write_intervals(
        self: &Arc<Self>,
        intervals: Arc<Vec<Interval>>,
        from: Tick,
        to: Tick,
    ) -> Result<(), ClickHouseError> {
        let sql = self.table.insert_history_sql();
        for (index, block) in blocks(&intervals, |i| row_bytes(&i.row)).into_iter().enumerate() {
            let intervals = Arc::clone(&intervals);
            let encode = move |w: &Self| w.encoder.encode_history(&intervals[block]);
            let stream = Arc::clone(self).blocking(encode).await?;
            let name = format!("{}:{from}-{to}:{index}", self.table.history_path());
            self.insert(&sql, &name, stream).await;
        }
        Ok(())
    }

    /// Inserts until it is done. A repeated insert does no harm: equal rows of one version are one row.
    async fn insert(&self, sql: &str, name: &str, stream: Bytes) {
        self.status.is_inserting.store(true, Ordering::SeqCst);
        self.until_done(|| {
            self.status.inserts.fetch_add(1, Ordering::SeqCst);
            self.clickhouse.insert_arrow(sql, name, stream.clone())
        })
        .await;
        self.status.is_inserting.store(false, Ordering::SeqCst);
    }

    fn rows_of(&self, changes: &[(Row, Net)]) -> Result<Vec<OutRow>, ArrowError> {
        if !self.table.is_keyless() {
            return self.maker.keyed(changes);
        }
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(self.maker.keyless(changes, &mut counts))
    }

    /// Runs what takes the processor for long where it is in nobody's way.
    async fn blocking<T: Send + 'static>(
        self: Arc<Self>,
        work: impl FnOnce(&Self) -> Result<T, ArrowError> + Send + 'static,
    ) -> Result<T, ClickHouseError> {
        let view = self.table.schema.name.clone();
        let done = tokio::task::spawn_blocking(move || work(&self)).await;
        let done = done.unwrap_or_else(|e| Err(ArrowError::ComputeError(e.to_string())));
        done.map_err(|source| ClickHouseError::Rows { view, source })
    }

    async fn until_done<F: Future<Output = Result<(), ClickHouseError>>>(
        &self,
        mut attempt: impl FnMut() -> F,
    ) {
        let mut pauses = Pauses::new();
        while let Err(error) = attempt().await {
            self.status.failed(NAME, &self.table.schema.name, &SinkError::from(error));
            pauses.wait().await;
        }
        self.status.succeeded(NAME, &self.table.schema.name);
    }
}

fn row_bytes(row: &OutRow) -> usize {
    row.key.len() + row.value.len()
}

fn change_bytes((key, net): &(Row, Net)) -> usize {
    key.len() + net.iter().map(|(value, _)| value.len()).sum::<usize>()
}

/// Cuts rows into blocks, the same rows always at the same places.
fn blocks<T>(rows: &[T], size: impl Fn(&T) -> usize) -> Vec<Range<usize>> {
    let mut blocks = Vec::new();
    let (mut start, mut bytes) = (0, 0);
    for (index, size) in rows.iter().map(size).enumerate() {
        bytes += size;
        if index + 1 - start >= BLOCK_ROWS_MAX || bytes >= BLOCK_BYTES_MAX {
            blocks.push(start..index + 1);
            (start, bytes) = (index + 1, 0);
        }
    }
    if start < rows.len() {
        blocks.push(start..rows.len());
    }
    blocks
}
