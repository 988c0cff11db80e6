//! HTTP: events in, events and views out, and what an operator asks. The only module that knows
//! axum and the JSON of the wire.
//!
//! Views are reached through [`Backend`](crate::status::Backend), so nothing here knows timely or ClickHouse.

mod batch;
mod body;
mod changes;
mod cloudevents;
mod connections;
mod dead_letters;
mod envelope;
mod events;
mod gate;
mod health;
mod idempotency;
mod ingest;
mod metrics;
mod openapi;
mod params;
mod problem;
mod render;
mod rows;
mod server;
mod streams;
mod tls;
mod views;

use std::sync::Arc;

use axum::Router;
use axum::http::Uri;
use tokio::sync::{Semaphore, watch};
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

pub use events::write_line as write_event_line;
pub use gate::Gate;
pub use render::{RenderOptions, write_rows};
pub use server::serve;
pub use tls::{TlsFiles, acceptor};

use crate::access::{AdminAct, Grant};
use crate::decode::CatalogInUse;
use crate::log::Log;
use crate::model::alarm::Alarms;
use crate::model::limits::Limits;
use crate::status::{Away, Backend};
use connections::Connections;
use dead_letters::HeldCursors;
use metrics::Metrics;
use problem::Problem;

/// The handlers' shared state; clones are cheap.
#[derive(Clone)]
pub struct AppState {
    log: Log,
    backend: Arc<dyn Backend>,
    catalog: CatalogInUse,
    limits: Arc<Limits>,
    alarms: Alarms,
    gate: Arc<Gate>,
    metrics: Arc<Metrics>,
    /// One permit per byte of request body that is held in memory.
    body_bytes: Arc<Semaphore>,
    /// The open connections.
    connections: Arc<Connections>,
    /// One permit per answer that is being read from the log and ends at its head.
    event_streams: Arc<Semaphore>,
    /// One permit per answer that follows the log.
    event_followers: Arc<Semaphore>,
    /// One permit per change feed.
    change_feeds: Arc<Semaphore>,
    /// Where lists of dead letters go on, for narrowed tokens.
    held_cursors: Arc<HeldCursors>,
    /// True once the server is stopping.
    stopping: watch::Sender<bool>,
}

impl AppState {
    /// The state of a server over this log, this catalog and these views.
    pub fn new(
        log: Log,
        backend: Arc<dyn Backend>,
        catalog: CatalogInUse,
        limits: Limits,
        alarms: Alarms,
        gate: Gate,
    ) -> Self {
        let metrics = Metrics::new();
        AppState {
            log,
            backend,
            catalog,
            alarms,
            gate: Arc::new(gate),
            metrics: Arc::new(metrics),
            body_bytes: Arc::new(Semaphore::new(limits.bodies_bytes_max)),
            connections: Arc::new(Connections::new(&limits)),
            event_streams: Arc::new(Semaphore::new(limits.event_streams_max)),
            event_followers: Arc::new(Semaphore::new(limits.event_followers_max)),
            change_feeds: Arc::new(Semaphore::new(limits.change_feeds_max)),
            held_cursors: Arc::default(),
            limits: Arc::new(limits),
            stopping: watch::Sender::new(false),
        }
    }

    fn is_stopping(&self) -> bool {
        *self.stopping.borrow()
    }

    /// Writes an administrative act down.
    async fn record(&self, grant: &Grant, act: &'static str, about: String, result: String) {
        let (gate, by) = (Arc::clone(&self.gate), grant.name.clone());
        blocking(move || {
            if let Some(record) = gate.record() {
                record.note(&AdminAct { by: &by, act, about: &about, result: &result });
            }
        })
        .await;
    }
}

fn router(state: AppState) -> Router {
    let (router, _) = routes().split_for_parts();
    router
        .fallback(unknown_path)
        .method_not_allowed_fallback(wrong_method)
        .layer(axum::middleware::from_fn_with_state(state.clone(), gate::guard))
        .layer(axum::middleware::from_fn_with_state(state.clone(), gate::answer_pages))
        .layer(axum::middleware::from_fn_with_state(state.clone(), metrics::count_requests))
        .with_state(state)
}

/// Every handler, with the path, the method and the description that stand beside it.
fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::with_openapi(openapi::ApiFrame::openapi())
        .routes(routes!(health::landing))
        .routes(routes!(health::alive))
        .routes(routes!(health::ready))
        .routes(routes!(metrics::metrics))
        .routes(routes!(openapi::openapi))
        .routes(routes!(ingest::post_events, events::get_events))
        .routes(routes!(streams::get_stream))
        .routes(routes!(views::list))
        .routes(routes!(views::one))
        .routes(routes!(rows::rows))
        .routes(routes!(changes::changes))
        .routes(routes!(views::rebuild))
        .routes(routes!(dead_letters::list))
        .routes(routes!(dead_letters::retry))
        .routes(routes!(dead_letters::dismiss))
}

async fn unknown_path(uri: Uri) -> Problem {
    Problem::not_found("unknown_path", format!("there is nothing at {}", uri.path()))
}

async fn wrong_method(method: axum::http::Method, uri: Uri) -> Problem {
    let message = format!("{} does not answer {method}: see the Allow header", uri.path());
    Problem::new(axum::http::StatusCode::METHOD_NOT_ALLOWED, "wrong_method", message)
}

impl From<Away> for Problem {
    fn from(away: Away) -> Self {
        Problem::unavailable("read_side_away", away.reason).retry_after(1)
    }
}

/// Runs what computes or reads for a while where other requests need not wait for it.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(value) => value,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}
