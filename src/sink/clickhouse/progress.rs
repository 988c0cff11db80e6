//! Progress of each generation, kept in ClickHouse beside the data.

use std::sync::Arc;
use std::time::Duration;

use clickhouse::Row;
use serde::Deserialize;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::model::Head;
use crate::model::clock::now_ms;

use super::client::ClickHouse;
use super::error::ClickHouseError;
use super::retry::Pauses;
use super::types::{quote_name, quote_text};

/// The table behind the VIEW `_heliostat_progress`.
pub(super) const PROGRESS_TABLE: &str = "_heliostat_progress_log";
/// The public VIEW over it.
pub(super) const PROGRESS_VIEW: &str = "_heliostat_progress";
/// The least time between two inserts; what comes in between goes together, whatever the view.
const INSERT_INTERVAL: Duration = Duration::from_millis(100);

/// Progress of a generation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct GenerationProgress {
    pub(super) view: String,
    pub(super) generation: String,
    /// The end of the last flush.
    pub(super) head: Head,
    /// The number of rows that were failing then.
    pub(super) errors: u64,
}

/// The progress of all generations in one database.
#[derive(Clone)]
pub(super) struct ProgressStore {
    clickhouse: Arc<ClickHouse>,
    queue: mpsc::UnboundedSender<(GenerationProgress, oneshot::Sender<()>)>,
}

#[derive(Row, Deserialize)]
struct StoredHead {
    tick: u64,
    position: u64,
}

impl ProgressStore {
    /// Starts the task that writes to the table. It ends with the last clone of the store.
    pub(super) fn new(clickhouse: Arc<ClickHouse>) -> Self {
        let (queue, requests) = mpsc::unbounded_channel();
        tokio::spawn(write_requests(Arc::clone(&clickhouse), requests));
        ProgressStore { clickhouse, queue }
    }

    /// Creates the table if it is missing.
    pub(super) async fn prepare(&self) -> Result<(), ClickHouseError> {
        let create = format!(
            "CREATE TABLE IF NOT EXISTS {} (view String, generation String, tick UInt64, \
             position UInt64, errors UInt64, written_at DateTime64(3, 'UTC'), _deleted UInt8) \
             ENGINE = ReplacingMergeTree(tick, _deleted) ORDER BY (view, generation)",
            path(&self.clickhouse)
        );
        self.clickhouse.execute(&create).await
    }

    /// The end of the generation's last flush that was recorded.
    pub(super) async fn read(
        &self,
        view: &str,
        generation: &str,
    ) -> Result<Option<Head>, ClickHouseError> {
        let query = format!(
            "SELECT tick, position FROM {} FINAL WHERE view = {} AND generation = {}",
            path(&self.clickhouse),
            quote_text(view),
            quote_text(generation)
        );
        let rows = self.clickhouse.fetch::<StoredHead>(&query).await?;
        Ok(rows.first().map(|row| Head { position: row.position, tick: row.tick }))
    }

    /// Returns when the progress is in ClickHouse, however long ClickHouse is away.
    pub(super) async fn write(&self, progress: GenerationProgress) {
        let (done, written) = oneshot::channel();
        // The writer ends only after the last clone of the queue, so neither side can be gone.
        if self.queue.send((progress, done)).is_ok() {
            let _ = written.await;
        }
    }

    /// Forgets a generation. Must come before its table is dropped: progress without the rows that
    /// it stands for would leave them out for ever.
    pub(super) async fn forget(&self, view: &str, generation: &str) -> Result<(), ClickHouseError> {
        let Some(head) = self.read(view, generation).await? else { return Ok(()) };
        let (view, generation) = (view.to_string(), generation.to_string());
        let progress = GenerationProgress { view, generation, head, errors: 0 };
        self.clickhouse.execute(&insert_sql(&self.clickhouse, &[&progress], true)).await
    }
}

fn path(clickhouse: &ClickHouse) -> String {
    format!("{}.{PROGRESS_TABLE}", quote_name(clickhouse.internal()))
}

/// The statement that inserts these rows. If two rows have one tick, the one inserted later counts.
fn insert_sql(clickhouse: &ClickHouse, rows: &[&GenerationProgress], deleted: bool) -> String {
    let values = rows.iter().map(|row| {
        format!(
            "({}, {}, {}, {}, {}, fromUnixTimestamp64Milli({}), {})",
            quote_text(&row.view),
            quote_text(&row.generation),
            row.head.tick,
            row.head.position,
            row.errors,
            now_ms(),
            u8::from(deleted)
        )
    });
    format!(
        "INSERT INTO {} (view, generation, tick, position, errors, written_at, _deleted) VALUES {}",
        path(clickhouse),
        values.collect::<Vec<_>>().join(", ")
    )
}

async fn write_requests(
    clickhouse: Arc<ClickHouse>,
    mut requests: mpsc::UnboundedReceiver<(GenerationProgress, oneshot::Sender<()>)>,
) {
    let mut next_insert = Instant::now();
    while let Some(first) = requests.recv().await {
        tokio::time::sleep_until(next_insert).await;
        let mut batch = vec![first];
        while let Ok(more) = requests.try_recv() {
            batch.push(more);
        }
        let rows: Vec<&GenerationProgress> = batch.iter().map(|(progress, _)| progress).collect();
        let sql = insert_sql(&clickhouse, &rows, false);
        let mut pauses = Pauses::new();
        let mut is_told = false;
        while let Err(error) = clickhouse.execute(&sql).await {
            if batch.iter().all(|(_, done)| done.is_closed()) {
                break;
            }
            if !std::mem::replace(&mut is_told, true) {
                tracing::warn!(%error, "progress could not be written; it is repeated");
            }
            pauses.wait().await;
        }
        next_insert = Instant::now() + INSERT_INTERVAL;
        for (_, done) in batch {
            // A view that was stopped meanwhile waits no longer.
            let _ = done.send(());
        }
    }
}

/// The statement that creates `_heliostat_progress`: one row per view, of the generation that
/// answers, or of the one being built where none does yet.
pub(super) fn progress_view_sql(clickhouse: &ClickHouse, generations_table: &str) -> String {
    let database = quote_name(clickhouse.database());
    let internal = quote_name(clickhouse.internal());
    format!(
        "CREATE OR REPLACE VIEW {database}.{PROGRESS_VIEW} \
         DEFINER = CURRENT_USER SQL SECURITY DEFINER AS \
         SELECT g.view AS view, g.generation AS generation, p.tick AS tick, \
         fromUnixTimestamp64Milli(toInt64(p.tick), 'UTC') AS time, p.position AS position, \
         p.errors AS errors, p.written_at AS written_at \
         FROM (SELECT view, generation FROM {internal}.{generations_table} FINAL \
               WHERE state != 'retired' ORDER BY view, state = 'public' DESC, changed DESC \
               LIMIT 1 BY view) AS g \
         LEFT JOIN (SELECT * FROM {internal}.{PROGRESS_TABLE} FINAL) AS p \
         ON p.view = g.view AND p.generation = g.generation"
    )
}
