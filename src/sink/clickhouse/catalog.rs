//! Which generations of which views have tables, which one each view's name reads from, and when
//! the others go. Kept in ClickHouse, so that it is known after a restart and goes with the tables.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clickhouse::Row;
use serde::Deserialize;
use tokio::sync::Mutex;

use crate::model::clock::now_ms;
use crate::model::{Head, Tick};
use crate::sink::Recovered;

use super::client::ClickHouse;
use super::error::ClickHouseError;
use super::intent::FlushIntent;
use super::progress::{PROGRESS_TABLE, ProgressStore};
use super::table::{
    Table, VERSION_COLUMN, history_table_name, history_view_name, table_name, table_path,
};
use super::types::{quote_name, quote_text};

/// The table that holds the states.
pub(super) const GENERATIONS_TABLE: &str = "_heliostat_generations";

/// Most flushes that are repeated up to their own ends. There is more than one only where progress was lost,
/// and then all but the last are complete.
const VERSIONS_MAX: usize = 100;

/// How long tables stay when nothing reads from them any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// A generation that another one has replaced. Queries that started before need it.
    pub replaced: Duration,
    /// A view that is gone from the queries. It may come back.
    pub gone: Duration,
}

impl Default for Retention {
    fn default() -> Self {
        let minute = Duration::from_secs(60);
        Retention { replaced: 10 * minute, gone: 24 * 60 * minute }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum GenerationState {
    Building,
    Public,
    Retired,
}

impl GenerationState {
    fn name(self) -> &'static str {
        match self {
            GenerationState::Building => "building",
            GenerationState::Public => "public",
            GenerationState::Retired => "retired",
        }
    }
}

#[derive(Row, Deserialize)]
struct Generation {
    view: String,
    generation: String,
    state: String,
}

#[derive(Row, Deserialize)]
struct NumberRow {
    number: u64,
}

/// Changes of the catalogue, one at a time.
pub(super) struct TableCatalog {
    clickhouse: Arc<ClickHouse>,
    progress: ProgressStore,
    retention: Retention,
    /// Where the ends of flushes are kept.
    intents: PathBuf,
    /// The last version given to a row; rows' versions must grow even if the clock does not.
    last_change: Mutex<u64>,
}

impl TableCatalog {
    /// A catalogue whose table may be missing yet.
    pub(super) fn new(
        clickhouse: Arc<ClickHouse>,
        progress: ProgressStore,
        retention: Retention,
        intents: PathBuf,
    ) -> Self {
        TableCatalog { clickhouse, progress, retention, intents, last_change: Mutex::new(0) }
    }

    /// Creates its table if it is missing.
    pub(super) async fn prepare(&self) -> Result<(), ClickHouseError> {
        let create = format!(
            "CREATE TABLE IF NOT EXISTS {} (view String, generation String, state String, \
             drop_at_ms UInt64, changed UInt64, _deleted UInt8) \
             ENGINE = ReplacingMergeTree(changed, _deleted) ORDER BY (view, generation) \
             SETTINGS fsync_after_insert = 1, fsync_part_directory = 1",
            self.path()
        );
        self.clickhouse.execute(&create).await?;
        let query = format!("SELECT max(changed) AS number FROM {}", self.path());
        let mut last_change = self.last_change.lock().await;
        *last_change = self.number(&query).await?.max(*last_change);
        Ok(())
    }

    /// Moves the tables of an older Heliostat, which had them beside the views, to their own database.
    /// The list of them goes last, so that a move that was cut off goes on.
    pub(super) async fn adopt_older(&self) -> Result<(), ClickHouseError> {
        let (old, new) = (self.clickhouse.database(), self.clickhouse.internal());
        if !self.has_table_in(old, GENERATIONS_TABLE).await? {
            return Ok(());
        }
        let query = format!(
            "SELECT view, generation, state FROM {}.{GENERATIONS_TABLE} FINAL",
            quote_name(old)
        );
        let mut tables = Vec::new();
        for Generation { view, generation, .. } in self.clickhouse.fetch(&query).await? {
            tables.push(table_name(&view, &generation));
            tables.push(history_table_name(&view, &generation));
        }
        tables.extend([PROGRESS_TABLE, GENERATIONS_TABLE].map(str::to_string));
        for table in tables {
            if self.has_table_in(old, &table).await? {
                let name = quote_name(&table);
                let (from, to) = (quote_name(old), quote_name(new));
                self.clickhouse
                    .execute(&format!("RENAME TABLE {from}.{name} TO {to}.{name}"))
                    .await?;
            }
        }
        tracing::info!(from = old, to = new, "the tables behind the views have moved");
        Ok(())
    }

    /// Makes a published view's public names anew.
    pub(super) async fn republish(&self, table: &Table) -> Result<(), ClickHouseError> {
        let _one_at_a_time = self.last_change.lock().await;
        self.create_views(table).await
    }

    /// Makes the generation's table, if it is not there, and reads how far it has got. Other
    /// generations of the view that never answered are given up.
    pub(super) async fn open_generation(
        &self,
        table: &Table,
    ) -> Result<(Recovered, FlushIntent), ClickHouseError> {
        let mut last_change = self.last_change.lock().await;
        let (view, generation) = (&table.schema.name, &table.schema.generation);
        let known = self.generations(&format!("view = {}", quote_text(view))).await?;
        let mut published = false;
        let mut found = false;
        for other in &known {
            if other.generation == *generation {
                found = other.state != GenerationState::Retired.name();
                published = other.state == GenerationState::Public.name();
            } else if other.state == GenerationState::Building.name() {
                let drop_at = now_ms() + millis(self.retention.replaced);
                let retired = (view.as_str(), other.generation.as_str(), GenerationState::Retired);
                self.record(&mut last_change, retired, drop_at).await?;
            }
        }
        if !self.has_table(&table.name()).await? {
            self.progress.forget(view, generation).await?;
            self.clickhouse.execute(&table.create_sql()).await?;
        }
        if table.schema.history {
            self.clickhouse.execute(&table.create_history_sql()).await?;
        }
        if !found {
            self.record(&mut last_change, (view, generation, GenerationState::Building), 0).await?;
        }
        if published {
            self.create_views(table).await?;
        }
        let progress = self.progress.read(view, generation).await?;
        let (intent, intended) = self.intent(table)?;
        let is_new = |end: &Tick| progress.is_none_or(|progress| *end > progress.tick);
        let mut unfinished = self.versions(table, progress).await?;
        unfinished.extend(intended.filter(is_new));
        unfinished.sort_unstable();
        unfinished.dedup();
        Ok((Recovered { progress, unfinished, published }, intent))
    }

    /// Lets the view's name read from this table, and retires what it read from before.
    pub(super) async fn publish(&self, table: &Table) -> Result<(), ClickHouseError> {
        let mut last_change = self.last_change.lock().await;
        let (view, generation) = (&table.schema.name, &table.schema.generation);
        self.create_views(table).await?;
        self.record(&mut last_change, (view, generation, GenerationState::Public), 0).await?;
        let others = format!(
            "view = {} AND generation != {} AND state = 'public'",
            quote_text(view),
            quote_text(generation)
        );
        let drop_at = now_ms() + millis(self.retention.replaced);
        for other in self.generations(&others).await? {
            if !table.schema.history {
                self.drop_history_view(&other).await?;
            }
            let retired = (view.as_str(), other.generation.as_str(), GenerationState::Retired);
            self.record(&mut last_change, retired, drop_at).await?;
        }
        Ok(())
    }

    /// Drops the names of all views but these, and retires their tables.
    pub(super) async fn retire_all_but(
        &self,
        views: &[&str],
    ) -> Result<Vec<String>, ClickHouseError> {
        let mut last_change = self.last_change.lock().await;
        let mut gone = Vec::new();
        let drop_at = now_ms() + millis(self.retention.gone);
        for generation in self.generations("state != 'retired'").await? {
            if views.contains(&generation.view.as_str()) {
                continue;
            }
            let name = quote_name(&generation.view);
            let database = quote_name(self.clickhouse.database());
            self.clickhouse.execute(&format!("DROP VIEW IF EXISTS {database}.{name}")).await?;
            self.drop_history_view(&generation).await?;
            let retired = (
                generation.view.as_str(),
                generation.generation.as_str(),
                GenerationState::Retired,
            );
            self.record(&mut last_change, retired, drop_at).await?;
            gone.push(generation.view);
        }
        gone.dedup();
        Ok(gone)
    }

    /// Drops the tables whose time has come; returns their names.
    pub(super) async fn drop_due(&self) -> Result<Vec<String>, ClickHouseError> {
        let mut last_change = self.last_change.lock().await;
        let mut dropped = Vec::new();
        let due = format!("state = 'retired' AND drop_at_ms <= {}", now_ms());
        for due in self.generations(&due).await? {
            self.progress.forget(&due.view, &due.generation).await?;
            let table = table_name(&due.view, &due.generation);
            for name in [&table, &history_table_name(&due.view, &due.generation)] {
                let drop = format!(
                    "DROP TABLE IF EXISTS {}.{} SETTINGS max_table_size_to_drop = 0",
                    quote_name(self.clickhouse.internal()),
                    quote_name(name)
                );
                self.clickhouse.execute(&drop).await?;
            }
            let path = table_path(self.clickhouse.internal(), &due.view, &due.generation);
            if let Err(error) = FlushIntent::remove(&self.intents, &path) {
                tracing::warn!(table, %error, "the file with the end of its last flush stays");
            }
            let row = (due.view.as_str(), due.generation.as_str(), GenerationState::Retired);
            self.insert(&mut last_change, row, 0, true).await?;
            dropped.push(table);
        }
        Ok(dropped)
    }

    /// The tables, as quoted paths, that are being fed or may be.
    pub(super) async fn tables_in_use(&self) -> Result<Vec<String>, ClickHouseError> {
        let database = quote_name(self.clickhouse.internal());
        let generations = self.generations("state != 'retired'").await?;
        let path = |g: &Generation| {
            format!("{database}.{}", quote_name(&table_name(&g.view, &g.generation)))
        };
        Ok(generations.iter().map(path).collect())
    }

    /// Puts the tables behind the view's public names.
    async fn create_views(&self, table: &Table) -> Result<(), ClickHouseError> {
        self.clickhouse.execute(&table.publish_sql()).await?;
        if table.schema.history {
            self.clickhouse.execute(&table.publish_history_sql()).await?;
        }
        Ok(())
    }

    /// Drops the public name of a generation's history, if it has one.
    async fn drop_history_view(&self, generation: &Generation) -> Result<(), ClickHouseError> {
        // Without history, another view may have the name.
        let table = history_table_name(&generation.view, &generation.generation);
        if !self.has_table(&table).await? {
            return Ok(());
        }
        let name = quote_name(&history_view_name(&generation.view));
        let database = quote_name(self.clickhouse.database());
        self.clickhouse.execute(&format!("DROP VIEW IF EXISTS {database}.{name}")).await
    }

    async fn record(
        &self,
        last_change: &mut u64,
        row: (&str, &str, GenerationState),
        drop_at_ms: u64,
    ) -> Result<(), ClickHouseError> {
        self.insert(last_change, row, drop_at_ms, false).await
    }

    async fn insert(
        &self,
        last_change: &mut u64,
        (view, generation, state): (&str, &str, GenerationState),
        drop_at_ms: u64,
        deleted: bool,
    ) -> Result<(), ClickHouseError> {
        *last_change = now_ms().max(*last_change + 1);
        let sql = format!(
            "INSERT INTO {} (view, generation, state, drop_at_ms, changed, _deleted) \
             VALUES ({}, {}, '{}', {drop_at_ms}, {last_change}, {})",
            self.path(),
            quote_text(view),
            quote_text(generation),
            state.name(),
            u8::from(deleted)
        );
        self.clickhouse.execute(&sql).await
    }

    async fn generations(&self, condition: &str) -> Result<Vec<Generation>, ClickHouseError> {
        let query = format!(
            "SELECT view, generation, state FROM {} FINAL WHERE {condition} ORDER BY view, changed",
            self.path()
        );
        self.clickhouse.fetch(&query).await
    }

    /// Opens the file that keeps the end of the table's next flush.
    fn intent(&self, table: &Table) -> Result<(FlushIntent, Option<Tick>), ClickHouseError> {
        let path = || self.intents.display().to_string();
        let opened = FlushIntent::open(&self.intents, &table.path());
        opened.map_err(|source| ClickHouseError::Intent { path: path(), source })
    }

    /// The ends of flushes that wrote to the table since the progress, the last [`VERSIONS_MAX`].
    async fn versions(
        &self,
        table: &Table,
        progress: Option<Head>,
    ) -> Result<Vec<Tick>, ClickHouseError> {
        let since = progress.map(|progress| format!("WHERE {VERSION_COLUMN} > {}", progress.tick));
        let query = format!(
            "SELECT DISTINCT {VERSION_COLUMN} AS number FROM {} {} ORDER BY number DESC \
             LIMIT {VERSIONS_MAX}",
            table.path(),
            since.unwrap_or_default()
        );
        let rows = self.clickhouse.fetch::<NumberRow>(&query).await?;
        Ok(rows.iter().map(|row| row.number).collect())
    }

    async fn has_table(&self, name: &str) -> Result<bool, ClickHouseError> {
        self.has_table_in(self.clickhouse.internal(), name).await
    }

    async fn has_table_in(&self, database: &str, name: &str) -> Result<bool, ClickHouseError> {
        let query = format!(
            "SELECT count() AS number FROM system.tables WHERE database = {} AND name = {}",
            quote_text(database),
            quote_text(name)
        );
        Ok(self.number(&query).await? > 0)
    }

    async fn number(&self, query: &str) -> Result<u64, ClickHouseError> {
        let rows = self.clickhouse.fetch::<NumberRow>(query).await?;
        Ok(rows.first().map_or(0, |row| row.number))
    }

    fn path(&self) -> String {
        format!("{}.{GENERATIONS_TABLE}", quote_name(self.clickhouse.internal()))
    }

    /// The number of active parts in the fullest partition of a table.
    pub(super) async fn parts(&self, table: &str) -> Result<u64, ClickHouseError> {
        let query = format!(
            "SELECT max(parts) AS number FROM (SELECT count() AS parts FROM system.parts \
             WHERE active AND database = {} AND table = {} GROUP BY partition_id)",
            quote_text(self.clickhouse.internal()),
            quote_text(table)
        );
        self.number(&query).await
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
