//! Views into ClickHouse.
//!
//! Every view's generation has a table, `<view>__<generation>`; the view's public name is a VIEW
//! over one of them. A flush notes in a file where it ends, writes a view's net changes up to that tick as
//! Arrow blocks, then the progress that says so. Whatever stops in between is found at the next start
//! ([`Recovered`]) and repeated up to exactly the same tick, so that the tables are right after any crash.
//!
//! ```text
//! SinkMessage ─► collect ─► pending ─► rows ─► encode ─► client ─► <view>__<generation>
//!                   │                                      │
//!                boundary (which ticks may be flushed)     └─► progress, catalog (public VIEWs)
//!                   │
//!                intent (where the next flush ends)
//!
//!                 └─► history (since when) ─► encode ─► client ─► <view>__<generation>_history
//! ```

mod boundary;
mod catalog;
mod client;
mod collect;
mod encode;
mod error;
mod history;
mod inspect;
mod intent;
mod names;
mod options;
mod pace;
mod pending;
mod progress;
mod range;
mod reject;
mod retry;
mod rows;
pub mod server;
mod sweep;
mod table;
mod types;
mod view;
mod writer;

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arrow::error::ArrowError;
use async_trait::async_trait;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::model::Head;
use crate::model::view::{SinkMessage, Unwritten, ViewRef};
use crate::sink::{
    Inspection, Recovered, RejectHandler, Sink, SinkConfig, SinkError, Tampering, ViewSink,
    ViewSinkStatus,
};

pub use catalog::Retention;
pub use client::ClickHouseConfig;
pub use error::ClickHouseError;
pub use options::{KIND, NAME};

use catalog::{GENERATIONS_TABLE, TableCatalog};
use client::ClickHouse;
use collect::{ChangeCollector, Resumption};
use encode::RowEncoder;
use inspect::Inspector;
use intent::FlushIntent;
use names::PublicNames;
use pace::FlushSlots;
use pending::Multiplicities;
use progress::{ProgressStore, progress_view_sql};
use reject::ValueLimits;
use rows::RowMaker;
use sweep::TOMBSTONES_MIN;
use table::Table;
use types::quote_name;
use view::Runner;
use writer::ViewWriter;

/// How often tables are looked for whose time has come.
const DROP_INTERVAL: Duration = Duration::from_secs(30);
/// How often tombstones are looked for; it reads one byte per row of every table.
const SWEEP_INTERVAL: Duration = Duration::from_secs(600);

/// How long ClickHouse may take to answer the first question, which costs it nothing.
const GREET_TIME_MAX: Duration = Duration::from_secs(15);
/// The same limit at a start that can still be refused.
const PROBE_TIME_MAX: Duration = Duration::from_millis(2_500);

/// Asks once whether there is a ClickHouse that lets us in; takes at most 2.5 s.
pub async fn probe(config: &ClickHouseConfig) -> Result<(), ClickHouseError> {
    match ClickHouse::new(config)?.greet(PROBE_TIME_MAX).await {
        Err(ClickHouseError::Timeout { .. }) => {
            let silence = "it takes the connection and does not answer";
            Err(ClickHouseError::not_clickhouse(&config.url, silence))
        }
        answer => answer,
    }
}

#[async_trait]
impl SinkConfig for ClickHouseConfig {
    async fn connect(
        &self,
        data_dir: &Path,
        rejects: RejectHandler,
    ) -> Result<Arc<dyn Sink>, SinkError> {
        let sink = ClickHouseSink::connect(self, data_dir, Retention::default(), rejects).await?;
        Ok(Arc::new(sink))
    }
}

/// A ClickHouse database that holds views.
pub struct ClickHouseSink {
    clickhouse: Arc<ClickHouse>,
    progress: ProgressStore,
    catalog: Arc<TableCatalog>,
    rejects: RejectHandler,
    inspector: tokio::sync::Mutex<Inspector>,
    names: PublicNames,
    slots: Arc<FlushSlots>,
}

impl ClickHouseSink {
    /// Connects, and creates the database and the sink's own tables there. Its files are below `data_dir`.
    /// Asks once: whether it is worth another try says [`ClickHouseError::kind`]. Must be called on a tokio
    /// runtime with timers and I/O.
    pub async fn connect(
        config: &ClickHouseConfig,
        data_dir: &Path,
        retention: Retention,
        rejects: RejectHandler,
    ) -> Result<Self, ClickHouseError> {
        let clickhouse = Arc::new(ClickHouse::new(config)?);
        clickhouse.greet(GREET_TIME_MAX).await?;
        let progress = ProgressStore::new(Arc::clone(&clickhouse));
        let intents = data_dir.join(intent::DIRECTORY);
        let catalog =
            TableCatalog::new(Arc::clone(&clickhouse), progress.clone(), retention, intents);
        let sink = ClickHouseSink {
            clickhouse,
            progress,
            catalog: Arc::new(catalog),
            rejects,
            inspector: tokio::sync::Mutex::default(),
            names: PublicNames::default(),
            slots: Arc::new(FlushSlots::new()),
        };
        sink.create_own().await?;
        Ok(sink)
    }

    /// Creates what is missing of the database and of what the sink itself needs there.
    async fn create_own(&self) -> Result<(), ClickHouseError> {
        for database in [self.clickhouse.database(), self.clickhouse.internal()] {
            let create = format!("CREATE DATABASE IF NOT EXISTS {}", quote_name(database));
            self.clickhouse.execute(&create).await?;
        }
        self.catalog.adopt_older().await?;
        self.progress.prepare().await?;
        self.catalog.prepare().await?;
        self.clickhouse.execute(&progress_view_sql(&self.clickhouse, GENERATIONS_TABLE)).await
    }

    async fn open(&self, schema: ViewRef) -> Result<ViewTable, ClickHouseError> {
        let rows = |source: ArrowError| ClickHouseError::Rows { view: schema.name.clone(), source };
        let table = Table::new(Arc::clone(&schema), &self.clickhouse)?;
        let encoder = RowEncoder::new(&table).map_err(rows)?;
        let maker = RowMaker::new(&table).map_err(rows)?;
        let limits = ValueLimits::new(&schema, Arc::clone(&self.rejects)).map_err(rows)?;
        let (recovered, intent) = self.catalog.open_generation(&table).await?;
        let clickhouse = Arc::clone(&self.clickhouse);
        let (progress, catalog) = (self.progress.clone(), Arc::clone(&self.catalog));
        Ok(ViewTable {
            clickhouse,
            progress,
            catalog,
            table,
            encoder,
            maker,
            limits,
            intent,
            recovered,
            resumed: None,
            slots: Arc::clone(&self.slots),
        })
    }

    /// Drops the tables that were replaced or retired long enough ago; returns their names.
    pub async fn drop_due(&self) -> Result<Vec<String>, ClickHouseError> {
        self.catalog.drop_due().await
    }

    /// Merges tables without their tombstones where these are many, at least `tombstones_min`;
    /// returns the tables' names. Needed by tables that are never at rest.
    pub async fn sweep(&self, tombstones_min: u64) -> Result<Vec<String>, ClickHouseError> {
        let mut swept = Vec::new();
        for table in self.catalog.tables_in_use().await? {
            if sweep::sweep(&self.clickhouse, &table, tombstones_min).await? {
                swept.push(table);
            }
        }
        Ok(swept)
    }
}

#[async_trait]
impl Sink for ClickHouseSink {
    fn name(&self) -> &'static str {
        NAME
    }

    async fn prepare(&self) -> Result<(), SinkError> {
        Ok(self.create_own().await?)
    }

    async fn open_view(&self, view: ViewRef) -> Result<Box<dyn ViewSink>, SinkError> {
        Ok(Box::new(self.open(view).await?))
    }

    async fn republish(&self, view: &ViewRef) -> Result<(), SinkError> {
        let table = Table::new(Arc::clone(view), &self.clickhouse)?;
        Ok(self.catalog.republish(&table).await?)
    }

    async fn retire_all_but(&self, views: &[&str]) -> Result<Vec<String>, SinkError> {
        Ok(self.catalog.retire_all_but(views).await?)
    }

    async fn missing_names(&self, views: &[ViewRef]) -> Result<Vec<ViewRef>, SinkError> {
        Ok(self.names.missing(&self.clickhouse, views).await?)
    }

    async fn inspect(&self, generations: &[Inspection]) -> Result<Vec<Tampering>, SinkError> {
        let mut inspector = self.inspector.lock().await;
        Ok(inspector.inspect(&self.clickhouse, generations).await?)
    }

    async fn maintain(&self, shutdown: CancellationToken) {
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
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(DROP_INTERVAL) => {}
            }
        }
    }
}

/// A view's generation, ready to be fed.
struct ViewTable {
    clickhouse: Arc<ClickHouse>,
    progress: ProgressStore,
    catalog: Arc<TableCatalog>,
    table: Table,
    encoder: RowEncoder,
    maker: RowMaker,
    limits: Option<ValueLimits>,
    intent: FlushIntent,
    recovered: Recovered,
    resumed: Option<Resumption>,
    slots: Arc<FlushSlots>,
}

#[async_trait]
impl ViewSink for ViewTable {
    fn recovered(&self) -> &Recovered {
        &self.recovered
    }

    fn resume(&mut self, at: Head, rows: u64, unwritten: Vec<Unwritten>) -> bool {
        // All rows are told again where the table does not say enough: it has no progress yet, its rows may
        // occur more than once, or rows that ClickHouse cannot hold may be missing.
        let is_empty = self.recovered.progress.is_none() && unwritten.is_empty();
        let is_told = is_empty || self.table.is_keyless() || self.limits.is_some();
        self.resumed = Some(Resumption { at, rows, is_told, unwritten });
        is_told
    }

    async fn run(
        self: Box<Self>,
        messages: mpsc::UnboundedReceiver<SinkMessage>,
        status: Arc<ViewSinkStatus>,
        shutdown: CancellationToken,
    ) -> Result<(), SinkError> {
        let ViewTable { clickhouse, progress, catalog, table, encoder, maker, .. } = *self;
        let (limits, intent, recovered) = (self.limits, self.intent, self.recovered);
        let (resumed, slots) = (self.resumed, self.slots);
        let counts = Mutex::new(Multiplicities::default());
        let writer = ViewWriter {
            clickhouse,
            catalog,
            progress,
            table,
            encoder,
            maker,
            counts,
            intent,
            status,
            slots,
        };
        let writer = Arc::new(writer);
        let mut collector = ChangeCollector::new(Arc::clone(&writer), limits, &recovered);
        if let Some(resumption) = resumed {
            collector.resume(resumption)?;
        }
        Ok(Runner::new(writer, collector, &recovered).run(messages, shutdown).await?)
    }
}
