//! `GET /v1/views/{view}/changes`: a view's changes as server-sent events (WHATWG HTML, 9.2).
//!
//! ```text
//! event: upsert | delete      data: {"tick": T, "row": {…}}
//! event: tick                 data: {"tick": T, "position": P}      id: <generation>-<T>
//! event: end                  data: {"reason": "…"}
//! ```
//!
//! The rows before the first `tick` are the view as of that tick. The answer is made as the client
//! takes it: a slow one holds a part of it and nothing more.

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use futures::stream;
use tokio::sync::{OwnedSemaphorePermit, watch};

use super::AppState;
use super::connections::{Connection, Follower};
use super::gate::Client;
use super::metrics::Metrics;
use super::openapi::{BadRequest, Int64, NoView, ServerSentEvent, TooBusy, Unavailable};
use super::params::{Name, Params};
use super::problem::{Document, Problem};
use super::render::{RenderOptions, write_rows};
use super::rows::not_live;
use crate::status::{ChangeFeed, ChangePart, ChangesError, ChangesRequest, FeedEnd};

static LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
/// Asks proxies not to hold parts of the answer back.
static ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// How soon a browser connects again.
const RETRY: &[u8] = b"retry: 1000\n\n";

/// A view's changes as server-sent events
///
/// First the view's rows (`upsert`), then the changes tick by tick (`delete`, `upsert`); each tick's end
/// is a `tick` event, which alone has an `id`. `end` says why the server ends the feed. A replaced row of
/// a view with a key is one `upsert`; of a view without a key each copy of a row is told by itself. A
/// comment is sent while nothing happens.
#[utoipa::path(
    get,
    path = "/v1/views/{view}/changes",
    operation_id = "getChanges",
    params(
        ("view" = String, Path, min_length = 1, description = "The name of a materialized view."),
        (
            "int64" = inline(Option<Int64>),
            Query,
            description = "Whether BIGINT is text or a number."
        ),
        ("Last-Event-ID" = Option<String>, Header, nullable = false, description = "Goes on after this tick."),
        (
            "last_event_id" = Option<String>,
            Query,
            description = "The same, for clients that cannot set the header."
        ),
    ),
    responses(
        (
            status = 200,
            description = "The feed.",
            body = inline(ServerSentEvent),
            content_type = "text/event-stream"
        ),
        (status = 400, response = BadRequest),
        (status = 404, response = NoView),
        (
            status = 410,
            description = "`changes_gone`: the server cannot go on after this id. Connect without it for a new snapshot.",
            body = Document,
            content_type = "application/problem+json"
        ),
        (status = 429, response = TooBusy),
        (status = 503, response = Unavailable),
    )
)]
pub async fn changes(
    State(state): State<AppState>,
    client: Client,
    connection: Connection,
    Name(view): Name,
    headers: HeaderMap,
    uri: Uri,
) -> Result<Response, Problem> {
    client.check_view(&view)?;
    let mut params = Params::of(&uri)?;
    let given = params.text("last_event_id")?;
    let int64_as_text =
        params.choice("int64", &[("string", true), ("number", false)])?.unwrap_or(false);
    params.finish()?;
    let header = headers.get(&LAST_EVENT_ID).map(|value| value.to_str().unwrap_or("?").to_string());
    // The header comes first: a browser that reconnects sends in it the last id that it has seen, and its
    // address still has the first one.
    let last_id = header.filter(|id| !id.is_empty()).or(given.filter(|id| !id.is_empty()));
    let permit = Arc::clone(&state.change_feeds)
        .try_acquire_owned()
        .map_err(|_| Problem::too_busy("too many change feeds: the limit is reached"))?;
    let bytes_max = state.limits.change_bytes_max;
    let request = ChangesRequest { view: view.clone(), last_id, bytes_max };
    let feed = state.backend.changes(request).await.map_err(refused)?;
    let feed = ChangeAnswer {
        feed,
        view,
        options: RenderOptions { int64_as_text },
        heartbeat: Duration::from_millis(state.limits.follow_heartbeat_ms),
        stopping: state.stopping.subscribe(),
        metrics: Arc::clone(&state.metrics),
        _permit: permit,
        _follower: connection.follow(),
    };
    let body = Body::from_stream(stream::unfold(NextPart::Begin(feed), NextPart::step));
    let headers = [
        (CONTENT_TYPE, HeaderValue::from_static("text/event-stream")),
        (CACHE_CONTROL, HeaderValue::from_static("no-store")),
        (ACCEL_BUFFERING.clone(), HeaderValue::from_static("no")),
    ];
    Ok((headers, body).into_response())
}

fn refused(error: ChangesError) -> Problem {
    let message = error.to_string();
    match error {
        ChangesError::Away(away) => away.into(),
        ChangesError::NotFound { .. } => Problem::not_found("view_not_found", message),
        ChangesError::NotLive { view, state } => not_live(&view, &state),
        ChangesError::Gone { .. } => Problem::new(StatusCode::GONE, "changes_gone", message),
    }
}

/// An answer in the making.
struct ChangeAnswer {
    feed: Box<dyn ChangeFeed>,
    view: String,
    options: RenderOptions,
    heartbeat: Duration,
    stopping: watch::Receiver<bool>,
    metrics: Arc<Metrics>,
    _permit: OwnedSemaphorePermit,
    _follower: Follower,
}

enum NextPart {
    Begin(ChangeAnswer),
    Part(ChangeAnswer),
    Done,
}

impl NextPart {
    async fn step(self) -> Option<(Result<Bytes, std::convert::Infallible>, NextPart)> {
        let (bytes, next) = match self {
            NextPart::Begin(feed) => (Bytes::from_static(RETRY), NextPart::Part(feed)),
            NextPart::Part(feed) => feed.part().await?,
            NextPart::Done => return None,
        };
        Some((Ok(bytes), next))
    }
}

impl ChangeAnswer {
    /// The next part of the answer; `None` at its end.
    async fn part(mut self) -> Option<(Bytes, NextPart)> {
        let stopping = async { _ = self.stopping.wait_for(|stopping| *stopping).await };
        let part = tokio::select! {
            part = self.feed.next() => Some(part),
            () = stopping => return None,
            () = tokio::time::sleep(self.heartbeat) => None,
        };
        let Some(part) = part else {
            return Some((Bytes::from_static(b":\n\n"), NextPart::Part(self)));
        };
        match part {
            Ok(part) => Some((render(&part, self.options), NextPart::Part(self))),
            Err(end) => {
                let why = match &end {
                    FeedEnd::TooSlow => "slow",
                    FeedEnd::Ended { .. } => "ended",
                };
                self.metrics.count_feed_end(why);
                tracing::info!(view = self.view, reason = %end, "a change feed ends");
                let mut out = Vec::new();
                event("end", &mut out, |out| {
                    out.extend_from_slice(b"{\"reason\":");
                    let _ = serde_json::to_writer(&mut *out, &end.to_string());
                    out.push(b'}');
                });
                Some((Bytes::from(out), NextPart::Done))
            }
        }
    }
}

fn render(part: &ChangePart, options: RenderOptions) -> Bytes {
    let mut out = Vec::new();
    for (name, rows) in [("delete", &part.deleted), ("upsert", &part.upserted)] {
        for row in 0..rows.num_rows() {
            event(name, &mut out, |out| {
                let _ = write!(out, "{{\"tick\":{},\"row\":", part.tick);
                write_rows(&rows.slice(row, 1), options, &mut true, out);
                out.push(b'}');
            });
        }
    }
    if let Some(end) = &part.end {
        let _ = writeln!(out, "id: {}", end.id);
        event("tick", &mut out, |out| {
            let _ = write!(out, "{{\"tick\":{},\"position\":{}}}", end.tick, end.position);
        });
    }
    Bytes::from(out)
}

/// Appends an event; `data` is one line. Writing to memory cannot fail.
fn event(name: &str, out: &mut Vec<u8>, data: impl FnOnce(&mut Vec<u8>)) {
    let _ = write!(out, "event: {name}\ndata: ");
    data(out);
    out.extend_from_slice(b"\n\n");
}
