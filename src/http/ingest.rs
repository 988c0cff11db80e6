//! `POST /v1/events`: from a request to events on disk.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use hashbrown::HashSet;
use serde::Serialize;

use super::backend::{Backend, WaitRequest, WaitTarget, Waiting};
use super::batch::{self, Batch, Layout};
use super::body::{self, Coding, Held, ReceivedBody};
use super::params::{Params, bad};
use super::problem::{ERRORS_MAX, ErrorItem, Errors, Problem};
use super::{AppState, blocking};
use crate::log::AppendError;
use crate::model::event::Appended;
use crate::model::limits::Limits;
use crate::model::{Position, Tick};

/// The answer once a request's events are on disk.
#[derive(Serialize)]
struct Accepted {
    accepted: usize,
    duplicates: usize,
    first_position: Position,
    last_position: Position,
    tick: Tick,
    #[serde(skip_serializing_if = "Option::is_none")]
    positions: Option<Vec<Position>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ids: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    waiting_for: Vec<WaitingView>,
}

#[derive(Serialize)]
struct WaitingView {
    view: String,
    status: &'static str,
}

/// What `?wait=` asks for.
struct Wait {
    target: WaitTarget,
    views: Option<Vec<String>>,
    timeout: Duration,
}

pub async fn post_events(
    State(state): State<AppState>,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let wait = Wait::of(&uri, &state)?;
    if headers.contains_key("idempotency-key") {
        let message = "Idempotency-Key is not supported yet: leave it out";
        return Err(Problem::bad_request("not_supported", message));
    }
    let layout = Layout::of(&headers)?;
    let coding = Coding::of(&headers)?;
    let received = body::receive(&state, &headers, body).await?;
    let (batch, held) = read_batch(&state, received, layout, coding).await?;

    let duplicates = batch.len() - batch.events.len();
    let ids = batch.made_ids.then(|| batch.ids());
    let wait = wait.map(|wait| (wait, event_types(&batch)));
    let accepted = batch.events.len();
    let appended = state.metrics.time_append(state.log.append(batch.events)).await;
    let Appended { first_position, last_position, tick } = appended.map_err(refused)?;
    drop(held);

    let place = |place: usize| first_position + place as Position;
    let positions = batch.places.map(|places| places.into_iter().map(place).collect());
    let waiting_for = match wait {
        Some((wait, event_types)) => wait.run(&state, last_position, event_types).await,
        None => Vec::new(),
    };
    let status = if waiting_for.is_empty() { StatusCode::OK } else { StatusCode::ACCEPTED };
    let answer = Accepted {
        accepted,
        duplicates,
        first_position,
        last_position,
        tick,
        positions,
        ids,
        waiting_for: waiting_for.into_iter().map(WaitingView::from).collect(),
    };
    Ok((status, Json(answer)).into_response())
}

/// Decompresses, parses and validates; a large body does so on a thread of its own, because it
/// takes longer than other requests should wait.
async fn read_batch(
    state: &AppState,
    received: ReceivedBody,
    layout: Layout,
    coding: Coding,
) -> Result<(Batch, Held), Problem> {
    const INLINE_BYTES_MAX: usize = 16 << 10;
    let inline = received.len() <= INLINE_BYTES_MAX && coding == Coding::Identity;
    let (limits, backend) = (Arc::clone(&state.limits), Arc::clone(&state.backend));
    let read = move || {
        let (plain, held) = received.decompress(coding, limits.body_bytes_max)?;
        let batch = checked_batch(&plain, layout, &limits, backend.as_ref())?;
        Ok((batch, held))
    };
    if inline { read() } else { blocking(read).await }
}

fn checked_batch(
    plain: &[u8],
    layout: Layout,
    limits: &Limits,
    backend: &dyn Backend,
) -> Result<Batch, Problem> {
    let batch = batch::parse(plain, layout, limits, now_us())?;
    let misfits = backend.validate(&batch.events, ERRORS_MAX);
    if misfits.is_empty() {
        return Ok(batch);
    }
    let mut errors = Errors::default();
    for misfit in misfits {
        errors.push(ErrorItem {
            index: Some(batch.request_index(misfit.index)),
            code: "schema_violation",
            pointer: format!("/data{}", misfit.violation.pointer),
            message: misfit.violation.message,
        });
    }
    Err(errors.into_problem(StatusCode::UNPROCESSABLE_ENTITY))
}

fn refused(error: AppendError) -> Problem {
    match error {
        AppendError::Busy { .. } => Problem::too_busy(error.to_string()),
        AppendError::Stopped { .. } => {
            let message = format!(
                "{error}; it may be that the events were stored: send them again with their ids"
            );
            Problem::unavailable("stopped", message).retry_after(5)
        }
    }
}

fn event_types(batch: &Batch) -> Vec<String> {
    let types: HashSet<&str> = batch.events.iter().map(|event| &*event.event_type).collect();
    types.into_iter().map(str::to_string).collect()
}

fn now_us() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}

impl Wait {
    fn of(uri: &Uri, state: &AppState) -> Result<Option<Wait>, Problem> {
        let mut params = Params::of(uri)?;
        let targets = [("views", WaitTarget::Views), ("clickhouse", WaitTarget::ClickHouse)];
        let target = params.choice("wait", &targets)?;
        let timeout = params.timeout(state.limits.wait_ms_max)?;
        let named = params.texts("view");
        params.finish()?;
        let names: Vec<String> =
            named.iter().flat_map(|names| names.split(',')).map(str::to_string).collect();
        let Some(target) = target else {
            return if names.is_empty() {
                Ok(None)
            } else {
                Err(bad("view", "needs wait=views or wait=clickhouse beside it"))
            };
        };
        // Asked before anything is stored: afterwards it could not be refused any more.
        for name in &names {
            if state.backend.view(name).is_none() {
                let message = format!("view: there is no view {name:?}");
                return Err(Problem::bad_request("unknown_view", message));
            }
        }
        let views = (!names.is_empty()).then_some(names);
        Ok(Some(Wait { target, views, timeout }))
    }

    async fn run(
        self,
        state: &AppState,
        position: Position,
        event_types: Vec<String>,
    ) -> Vec<Waiting> {
        let Wait { target, views, timeout } = self;
        let request = WaitRequest { position, event_types, target, views, timeout };
        state.backend.wait(request).await
    }
}

impl From<Waiting> for WaitingView {
    fn from(waiting: Waiting) -> Self {
        WaitingView { view: waiting.view, status: waiting.state.as_str() }
    }
}
