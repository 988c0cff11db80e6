//! Views into ClickHouse: changes in, tables that always say the same as the SQL out.
//!
//! Every view's generation has a table, `<view>__<generation>`; the view's public name is a VIEW
//! over one of them. A flush writes a view's net changes up to a tick as one Arrow block, then the
//! progress that says so. Whatever stops in between is found at the next start ([`Recovered`]) and
//! repeated up to exactly the same tick, so that the tables are right after any crash.
//!
//! ```text
//! ViewMessage ─► collect ─► pending ─► rows ─► encode ─► client ─► <view>__<generation>
//!                   │                                      │
//!                boundary (which ticks may be flushed)     └─► progress, catalog (public VIEWs)
//!
//!                 └─► history (since when) ─► encode ─► client ─► <view>__<generation>_history
//! ```

mod boundary;
mod catalog;
mod client;
mod collect;
mod encode;
mod error;
mod fault;
mod history;
mod pace;
mod pending;
mod progress;
mod range;
mod reject;
mod retry;
mod rows;
pub mod server;
mod status;
mod sweep;
mod table;
mod types;
mod view;
mod writer;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use arrow::error::ArrowError;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use crate::model::view::{ViewMessage, ViewRef};

pub use catalog::{Recovered, Retention};
pub use client::ClickHouseConfig;
pub use error::SinkError;
pub use pace::FLUSH_INTERVAL;
pub use reject::{RejectHandler, SinkReject};
pub use status::ViewSinkStatus;

use catalog::{Catalog, GENERATIONS_TABLE};
use client::ClickHouse;
use collect::Collector;
use encode::Encoder;
use pending::Multiplicities;
use progress::{ProgressStore, progress_view_sql};
use reject::Limits;
use rows::RowMaker;
use sweep::TOMBSTONES_MIN;
use table::Table;
use types::quote_name;
use view::Runner;
use writer::Writer;

/// How often tables are looked for whose time has come.
const DROP_INTERVAL: Duration = Duration::from_secs(30);
/// How often tombstones are looked for; it reads one byte per row of every table.
const SWEEP_INTERVAL: Duration = Duration::from_secs(600);

/// A ClickHouse database that holds views.
#[derive(Clone)]
pub struct Sink {
    clickhouse: Arc<ClickHouse>,
    progress: ProgressStore,
    catalog: Arc<Catalog>,
    rejects: RejectHandler,
}

impl Sink {
    /// Connects, and creates the database and what the sink itself needs there. Asks once: whether
    /// it is worth another try says [`SinkError::is_transient`]. Must be called on a tokio runtime
    /// with timers and I/O.
    pub async fn connect(
        config: &ClickHouseConfig,
        retention: Retention,
        rejects: RejectHandler,
    ) -> Result<Self, SinkError> {
        let clickhouse = Arc::new(ClickHouse::new(config)?);
        let database = clickhouse.database();
        let create = format!("CREATE DATABASE IF NOT EXISTS {}", quote_name(database));
        clickhouse.execute(&create).await?;
        let progress = ProgressStore::open(Arc::clone(&clickhouse)).await?;
        let catalog = Catalog::open(Arc::clone(&clickhouse), progress.clone(), retention).await?;
        clickhouse.execute(&progress_view_sql(database, GENERATIONS_TABLE)).await?;
        Ok(Sink { clickhouse, progress, catalog: Arc::new(catalog), rejects })
    }

    /// True when ClickHouse answers.
    pub async fn ping(&self) -> bool {
        self.clickhouse.execute("SELECT 1 FORMAT Null").await.is_ok()
    }

    /// Prepares the table of a view's generation and reads how far it has got. `workers` is the
    /// number of dataflow workers that will send changes.
    pub async fn open_view(&self, schema: ViewRef, workers: usize) -> Result<ViewSink, SinkError> {
        let rows = |source: ArrowError| SinkError::Rows { view: schema.name.clone(), source };
        let table = Table::new(Arc::clone(&schema), self.clickhouse.database())?;
        let encoder = Encoder::new(&table).map_err(rows)?;
        let maker = RowMaker::new(&table).map_err(rows)?;
        let limits = Limits::new(&schema, Arc::clone(&self.rejects)).map_err(rows)?;
        let recovered = self.catalog.open_generation(&table).await?;
        let sink = self.clone();
        Ok(ViewSink { sink, table, encoder, maker, limits, recovered, workers })
    }

    /// Takes all views but these out of ClickHouse: their names at once, their tables later.
    /// Returns the names of those that went.
    pub async fn retire_all_but(&self, views: &[&str]) -> Result<Vec<String>, SinkError> {
        self.catalog.retire_all_but(views).await
    }

    /// Drops the tables that were replaced or retired long enough ago; returns their names.
    pub async fn drop_due(&self) -> Result<Vec<String>, SinkError> {
        self.catalog.drop_due().await
    }

    /// Merges tables without their tombstones where these are many, at least `tombstones_min`;
    /// returns the tables' names. Needed by tables that are never at rest.
    pub async fn sweep(&self, tombstones_min: u64) -> Result<Vec<String>, SinkError> {
        let mut swept = Vec::new();
        for table in self.catalog.tables_in_use().await? {
            if sweep::sweep(&self.clickhouse, &table, tombstones_min).await? {
                swept.push(table);
            }
        }
        Ok(swept)
    }

    /// Keeps dropping what is due and removing tombstones, until told to end.
    pub async fn run_janitor(self, mut shutdown: watch::Receiver<bool>) {
        let mut swept_at = Instant::now();
        loop {
            match self.drop_due().await {
                Ok(tables) if tables.is_empty() => {}
                Ok(tables) => tracing::info!(?tables, "dropped tables that nothing reads any more"),
                Err(error) => tracing::warn!(%error, "old tables could not be dropped; later"),
            }
            if swept_at.elapsed() >= SWEEP_INTERVAL {
                swept_at = Instant::now();
                if let Err(error) = self.sweep(TOMBSTONES_MIN).await {
                    tracing::warn!(%error, "tombstones could not be removed; later");
                }
            }
            tokio::select! {
                _ = shutdown.wait_for(|end| *end) => return,
                () = tokio::time::sleep(DROP_INTERVAL) => {}
            }
        }
    }
}

/// A view's generation, ready to be fed.
pub struct ViewSink {
    sink: Sink,
    table: Table,
    encoder: Encoder,
    maker: RowMaker,
    limits: Option<Limits>,
    recovered: Recovered,
    workers: usize,
}

impl ViewSink {
    /// What the feeder must keep to: marks exactly at `progress` and at `boundary`.
    pub fn recovered(&self) -> &Recovered {
        &self.recovered
    }

    /// Writes what the dataflow sends, until `shutdown` says `true`, its sender is gone, or the
    /// dataflow hangs up. While ClickHouse is away it keeps trying, and consolidates what comes.
    /// Fails only if rows do not fit the view's columns.
    pub async fn run(
        self,
        messages: mpsc::UnboundedReceiver<ViewMessage>,
        status: Arc<ViewSinkStatus>,
        shutdown: watch::Receiver<bool>,
    ) -> Result<(), SinkError> {
        let ViewSink { sink, table, encoder, maker, limits, recovered, workers } = self;
        let writer = Arc::new(Writer {
            clickhouse: sink.clickhouse,
            catalog: sink.catalog,
            progress: sink.progress,
            table,
            encoder,
            maker,
            counts: Mutex::new(Multiplicities::default()),
            status,
        });
        let collector = Collector::new(Arc::clone(&writer), limits, &recovered, workers);
        Runner::new(writer, collector, &recovered).run(messages, shutdown).await
    }
}
