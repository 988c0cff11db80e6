//! Views into ClickHouse: changes in, tables that always say the same as the SQL out.
//!
//! Every view's generation has a table, `<view>__<generation>`; the view's public name is a VIEW
//! over one of them. A flush writes a view's net changes up to a tick as one Arrow block, then the
//! progress that says so. Whatever stops in between is found at the next start ([`Recovered`]) and
//! repeated up to exactly the same tick, so that the tables are right after any crash.
//!
//! ```text
//! SinkMessage ─► collect ─► pending ─► rows ─► encode ─► client ─► <view>__<generation>
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
mod inspect;
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
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::model::view::{SinkMessage, ViewRef};

pub use catalog::{Recovered, Retention};
pub use client::ClickHouseConfig;
pub use error::SinkError;
pub use inspect::{Inspection, Inspector, Tampering};
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

/// How long ClickHouse may take to answer the first question, which costs it nothing.
const GREET_TIME_MAX: Duration = Duration::from_secs(15);
/// The same at a start that can still be refused.
const PROBE_TIME_MAX: Duration = Duration::from_millis(2_500);

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
        clickhouse.greet(GREET_TIME_MAX).await?;
        let progress = ProgressStore::new(Arc::clone(&clickhouse));
        let catalog = Catalog::new(Arc::clone(&clickhouse), progress.clone(), retention);
        let sink = Sink { clickhouse, progress, catalog: Arc::new(catalog), rejects };
        sink.prepare().await?;
        Ok(sink)
    }

    /// Asks once whether there is a ClickHouse that lets us in; takes at most 2.5 s.
    pub async fn probe(config: &ClickHouseConfig) -> Result<(), SinkError> {
        match ClickHouse::new(config)?.greet(PROBE_TIME_MAX).await {
            Err(SinkError::Timeout { .. }) => {
                let silence = "it takes the connection and does not answer";
                Err(SinkError::not_clickhouse(&config.url, silence))
            }
            answer => answer,
        }
    }

    /// Creates what is missing of the database and of what the sink itself needs there.
    pub async fn prepare(&self) -> Result<(), SinkError> {
        let database = self.clickhouse.database();
        let create = format!("CREATE DATABASE IF NOT EXISTS {}", quote_name(database));
        self.clickhouse.execute(&create).await?;
        self.progress.prepare().await?;
        self.catalog.prepare().await?;
        self.clickhouse.execute(&progress_view_sql(database, GENERATIONS_TABLE)).await
    }

    /// Puts a generation's tables behind the view's public names again.
    pub async fn republish(&self, schema: &ViewRef) -> Result<(), SinkError> {
        let table = Table::new(Arc::clone(schema), self.clickhouse.database())?;
        self.catalog.republish(&table).await
    }

    /// Prepares the table of a view's generation and reads how far it has got.
    pub async fn open_view(&self, schema: ViewRef) -> Result<ViewSink, SinkError> {
        let rows = |source: ArrowError| SinkError::Rows { view: schema.name.clone(), source };
        let table = Table::new(Arc::clone(&schema), self.clickhouse.database())?;
        let encoder = Encoder::new(&table).map_err(rows)?;
        let maker = RowMaker::new(&table).map_err(rows)?;
        let limits = Limits::new(&schema, Arc::clone(&self.rejects)).map_err(rows)?;
        let recovered = self.catalog.open_generation(&table).await?;
        let sink = self.clone();
        Ok(ViewSink { sink, table, encoder, maker, limits, recovered })
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
    pub async fn run_janitor(self, shutdown: CancellationToken) {
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
pub struct ViewSink {
    sink: Sink,
    table: Table,
    encoder: Encoder,
    maker: RowMaker,
    limits: Option<Limits>,
    recovered: Recovered,
}

impl ViewSink {
    /// What the feeder must keep to: marks exactly at `progress` and at `boundary`.
    pub fn recovered(&self) -> &Recovered {
        &self.recovered
    }

    /// Writes what the dataflow sends, until `shutdown` is cancelled or the dataflow hangs up. While ClickHouse is away it keeps trying, and consolidates what comes.
    /// Fails only if rows do not fit the view's columns.
    pub async fn run(
        self,
        messages: mpsc::UnboundedReceiver<SinkMessage>,
        status: Arc<ViewSinkStatus>,
        shutdown: CancellationToken,
    ) -> Result<(), SinkError> {
        let ViewSink { sink, table, encoder, maker, limits, recovered } = self;
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
        let collector = Collector::new(Arc::clone(&writer), limits, &recovered);
        Runner::new(writer, collector, &recovered).run(messages, shutdown).await
    }
}
