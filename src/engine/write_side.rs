//! The write side: the log, and HTTP before it. Views are asked for at a backend, which may be in
//! another process.

use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::tasks::Tasks;
use super::{EngineError, clock, files};
use crate::decode::{CatalogInUse, CatalogReceiver, EventCatalog};
use crate::http::{self, AppState, Gate};
use crate::log::{self, Log, LogOptions};
use crate::model::limits::Limits;
use crate::status::Backend;

/// Options of a write side.
pub struct WriteSideConfig {
    pub data_dir: PathBuf,
    pub limits: Limits,
    /// The check of who may send requests.
    pub gate: Gate,
    /// `None`: plain HTTP.
    pub tls: Option<TlsAcceptor>,
    pub archive: ArchiveConfig,
}

/// When old segments of the log are archived, and where they are moved to.
#[derive(Clone, Debug, Default, serde::Serialize, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ArchiveConfig {
    /// Segments that are older, in milliseconds, are archived; `None`: none.
    pub after_ms: Option<u64>,
    /// The directory or the URL of the store that they are moved to; `None`: they stay.
    pub to: Option<String>,
}

/// A write side with its log recovered.
pub struct WriteSide {
    limits: Limits,
    gate: Gate,
    tls: Option<TlsAcceptor>,
    log: Log,
    catalog: CatalogInUse,
    data_dir: PathBuf,
    tasks: Tasks,
}

/// The file in the data directory that keeps the catalog.
pub const CATALOG_FILE: &str = "catalog.json";

/// The catalog of the write side, kept over its restarts.
pub struct KeptCatalog {
    path: PathBuf,
    in_use: CatalogInUse,
}

impl CatalogReceiver for KeptCatalog {
    /// Blocking: writes to the disk.
    fn offer(&self, catalog: EventCatalog) {
        if let Err(error) = files::replace(&self.path, &catalog) {
            tracing::warn!(%error, "the catalog cannot be kept: a restart waits for the next one");
        }
        self.in_use.adopt(catalog);
    }

    fn adopted(&self) -> BoxFuture<'_, ()> {
        self.in_use.adopted()
    }
}

impl WriteSide {
    /// Opens the log. Nothing is served yet. Blocking.
    pub fn open(config: WriteSideConfig, tasks: Tasks) -> Result<WriteSide, EngineError> {
        let WriteSideConfig { data_dir, limits, gate, tls, archive } = config;
        let options = LogOptions {
            queue_bytes_max: limits.append_queue_bytes_max,
            request_life_ms: limits.idempotency_key_ms,
            archive_after_ms: archive.after_ms,
            archive_to: archive.to,
            alarms: tasks.alarms().clone(),
            ..LogOptions::default()
        };
        let log = Log::open(&log::directory(&data_dir), options)?;
        Ok(WriteSide { limits, gate, tls, log, catalog: CatalogInUse::default(), data_dir, tasks })
    }

    /// The log.
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// The catalog by which events are checked.
    pub fn catalog(&self) -> &CatalogInUse {
        &self.catalog
    }

    /// The same, kept in the data directory from now on, where the one of before is in use until
    /// another one is adopted. Blocking.
    pub fn kept_catalog(&self) -> KeptCatalog {
        let path = self.data_dir.join(CATALOG_FILE);
        // A file of another version is as good as none.
        let kept = std::fs::read(&path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
        if let Some(catalog) = kept {
            self.catalog.adopt(catalog);
        }
        KeptCatalog { path, in_use: self.catalog.clone() }
    }

    /// Serves on `listener` until `shutdown` resolves or a part fails, and every request has ended.
    pub async fn serve(
        self,
        listener: TcpListener,
        backend: Arc<dyn Backend>,
        shutdown: impl Future<Output = ()>,
    ) {
        let WriteSide { limits, gate, tls, log, catalog, tasks, .. } = self;
        let clock = clock::watch(log.clone(), tasks.alarms().clone(), tasks.stopping().clone());
        tasks.spawn("clock", clock.map(Ok));
        tasks.spawn("log", {
            let (log, stopping) = (log.clone(), tasks.stopping().clone());
            async move {
                tokio::select! {
                    () = stopping.cancelled() => Ok(()),
                    reason = log.failed() => Err(EngineError::LogFailed(reason)),
                }
            }
        });
        for issuer in gate.issuers() {
            let keys = issuer.follow_keys();
            let stopping = tasks.stopping().clone();
            tasks.spawn("issuer keys", async move {
                tokio::select! {
                    () = stopping.cancelled() => {}
                    () = keys => {}
                }
                Ok(())
            });
        }
        let state = AppState::new(log, backend, catalog, limits, tasks.alarms().clone(), gate);
        let stopping = tasks.stopping().clone();
        let ends = async move {
            tokio::select! {
                () = shutdown => {}
                () = stopping.cancelled() => {}
            }
        };
        if let Err(error) = http::serve(listener, tls, state, ends).await {
            tasks.fail("http", EngineError::Serve(error));
        }
    }
}
