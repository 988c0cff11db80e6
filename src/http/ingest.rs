//! `POST /v1/events`: from a request to events on disk.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use hashbrown::{HashMap, HashSet};
use serde::Serialize;
use utoipa::ToSchema;

use super::batch::{self, Batch, Layout};
use super::body::{self, Coding, HeldMemory, ReceivedBody};
use super::events::{unreadable, unreadable_because};
use super::gate::{Client, check_view};
use super::idempotency::{self, REPLAYED_HEADER};
use super::openapi::{
    BodyProblems, CloudEvent, Full, NewEvents, Unavailable, Unreadable, WaitFor, YesOrNo,
};
use super::params::{Params, bad};
use super::problem::{Document, ERRORS_MAX, ErrorItem, Errors, Problem};
use super::views::Status;
use super::{AppState, blocking};
use crate::access::Grant;
use crate::decode::{CatalogInUse, Misfit};
use crate::log::{AppendError, Conflict};
use crate::model::clock::now_us;
use crate::model::event::{Append, Appended, RequestKey};
use crate::model::limits::Limits;
use crate::model::{Position, Tick};
use crate::status::{Away, ViewState, WaitRequest, WaitTarget, Waiting};

/// The answer once a request's events are on disk.
#[derive(Serialize, ToSchema)]
#[schema(as = Accepted)]
#[serde(deny_unknown_fields)]
struct AppendAnswer {
    /// The number of events that were stored now.
    accepted: usize,
    /// The number of events that had been stored before.
    duplicates: usize,
    #[schema(value_type = u64, minimum = 1)]
    first_position: Position,
    #[schema(value_type = u64, minimum = 1)]
    last_position: Position,
    #[schema(value_type = u64, minimum = 1)]
    tick: Tick,
    /// The position of each event, in request order. Given where there are duplicates.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Vec<u64>)]
    positions: Option<Vec<Position>>,
    /// The id of each event, in request order. Given where the server made some of them, by default with up to
    /// 100 events; see `ids`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Vec<String>)]
    ids: Option<Vec<String>>,
    /// The streams' versions afterwards.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    streams: BTreeMap<String, u64>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    waiting_for: Vec<WaitingView>,
}

/// A view that does not show the events yet.
#[derive(Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct WaitingView {
    view: String,
    status: Status,
}

/// The events of a request whose answer has the ids that the server made, unless `?ids=` says so: up to these many.
const IDS_TOLD_MAX: usize = 100;

/// What the query string asks for.
struct AppendOptions {
    wait: Option<Wait>,
    /// `?ids=`.
    ids: Option<bool>,
}

/// The value of `?wait=`.
struct Wait {
    target: WaitTarget,
    views: Option<Vec<String>>,
    timeout: Duration,
}

/// Append events
///
/// All of the request is stored, or nothing. Bodies may be compressed (`Content-Encoding: gzip` or
/// `zstd`). With a `ce-specversion` header, the body is the data of one CloudEvent in binary mode,
/// whatever its content type, and its attributes are in `ce-` headers, percent-encoded.
#[utoipa::path(
    post,
    path = "/v1/events",
    operation_id = "postEvents",
    params(
        (
            "wait" = inline(Option<WaitFor>),
            Query,
            description = "Answer once the views show the events: in their state, or in ClickHouse."
        ),
        (
            "view" = Option<String>,
            Query,
            description = "With `wait`: only these views, separated by commas. An unknown one is refused, and so is one that the token does not reach."
        ),
        (
            "timeout" = Option<String>,
            Query,
            pattern = "^([1-5]?[0-9]s|60s|[1-5]?[0-9]{1,4}ms)$",
            description = "With `wait`: how long at most; 5s by default."
        ),
        (
            "ids" = inline(Option<YesOrNo>),
            Query,
            description = "Whether the answer has the ids that the server made: by default with up to 100 events."
        ),
        (
            "Idempotency-Key" = Option<String>,
            Header,
            nullable = false,
            pattern = "^[A-Za-z0-9._:-]{1,255}$",
            description = "Makes the request repeatable as a whole; may be in quotes."
        ),
    ),
    request_body(content(
        (
            inline(NewEvents) = "application/json",
            examples(("one" = (value = json!(
                {"type": "SeatTaken", "stream": "show-7", "data": {"show": 7, "seat": "A1"}}
            ))))
        ),
        (
            String = "application/x-ndjson",
            examples(("two" = (value = json!(
                "{\"type\":\"SeatTaken\",\"data\":{\"seat\":\"A1\"}}\n{\"type\":\"SeatTaken\",\"data\":{\"seat\":\"A2\"}}\n"
            ))))
        ),
        (CloudEvent = "application/cloudevents+json"),
        (Vec<CloudEvent> = "application/cloudevents-batch+json"),
    )),
    responses(
        (
            status = 200,
            description = "The events are on disk, and the views that were asked for show them.",
            body = AppendAnswer,
            headers((
                "Idempotency-Replayed" = String,
                description = "`true` when the request had been made before, under the same key."
            ))
        ),
        (
            status = 202,
            description = "The events are on disk; the views listed in `waiting_for` do not show them yet. A narrowed token is told of no views.",
            body = AppendAnswer
        ),
        BodyProblems,
        (
            status = 409,
            description = "`version_conflict`: a stream has another version than expected. `id_conflict`: an event of this identity has other content. Nothing was stored.",
            body = Document,
            content_type = "application/problem+json"
        ),
        (
            status = 422,
            description = "`schema_violation`: data does not fit the declared tables. `idempotency_key_reused`: another request was made under the key. Nothing was stored.",
            body = Document,
            content_type = "application/problem+json"
        ),
        (status = 500, response = Unreadable),
        (status = 503, response = Unavailable),
        (status = 507, response = Full),
    )
)]
pub async fn post_events(
    State(state): State<AppState>,
    Client(grant): Client,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let AppendOptions { wait, ids } = AppendOptions::of(&uri, &state, &grant).await?;
    let key = idempotency::key(&headers, &grant)?;
    let layout = Layout::of(&headers)?;
    let coding = Coding::of(&headers)?;
    let received = body::receive(&state, &headers, body).await?;
    let (batch, fingerprint, held) = read_batch(&state, &grant, received, layout, coding).await?;
    let Checked { batch, mut misfits } = batch;
    if !misfits.is_empty() && (misfits.len() >= ERRORS_MAX || batch.made_ids && key.is_none()) {
        // Nothing that was stored before can be meant, or there is too much to tell.
        return Err(not_fitting(&misfits, |index| batch.request_index(index)));
    }

    let asked = Asked::of(&batch, ids);
    let wait = wait.map(|wait| (wait, event_types(&batch)));
    let append = Append {
        events: batch.events,
        expected_versions: batch.expected_versions,
        key: key.map(|key| RequestKey { key, fingerprint }),
        made_ids: batch.made_ids,
        misfits: misfits.iter().map(|misfit| misfit.index).collect(),
    };
    let appended = state.metrics.time_append(state.log.append(append)).await;
    let appended = appended.map_err(|error| match error {
        AppendError::Misfits(new) => {
            misfits.retain(|misfit| new.contains(&misfit.index));
            not_fitting(&misfits, |index| asked.request_index(index))
        }
        error => refused(error, &asked),
    })?;
    drop(held);
    let (first_position, last_position) = (appended.first_position, appended.last_position);
    let positions = asked.positions(&appended);
    let ids = match asked.ids {
        Some(_) if appended.repeated => Some(original_ids(&state, &positions).await?),
        ids => ids,
    };
    let (is_shown, waiting_for) = match wait {
        Some((wait, event_types)) => wait.run(&state, last_position, event_types).await,
        None => (true, Vec::new()),
    };
    let status = if is_shown { StatusCode::OK } else { StatusCode::ACCEPTED };
    let answer = AppendAnswer {
        accepted: appended.stored,
        duplicates: asked.len - appended.stored,
        first_position,
        last_position,
        tick: appended.tick,
        positions: (appended.stored < asked.len).then_some(positions),
        ids,
        streams: appended.streams.into_iter().collect(),
        waiting_for: waiting_for
            .into_iter()
            .filter(|waiting| grant.sees_view(&waiting.view))
            .map(WaitingView::from)
            .collect(),
    };
    let mut response = (status, Json(answer)).into_response();
    if appended.repeated {
        response.headers_mut().insert(&REPLAYED_HEADER, idempotency::replayed());
    }
    Ok(response)
}

/// The state of a request once its events are on their way to the log.
struct Asked {
    /// The number of its events.
    len: usize,
    /// See [`Batch::places`].
    places: Option<Vec<usize>>,
    /// The ids in request order, if some were made and the answer is to have them.
    ids: Option<Vec<String>>,
}

impl Asked {
    fn of(batch: &Batch, ids: Option<bool>) -> Self {
        let told = ids.unwrap_or(batch.len() <= IDS_TOLD_MAX);
        let ids = (batch.made_ids && told).then(|| batch.ids());
        Asked { len: batch.len(), places: batch.places.clone(), ids }
    }

    /// The position of each event, in request order.
    fn positions(&self, appended: &Appended) -> Vec<Position> {
        let position = |place: usize| match &appended.positions {
            Some(positions) => positions[place],
            None => appended.first_position + place as Position,
        };
        match &self.places {
            Some(places) => places.iter().map(|place| position(*place)).collect(),
            None => (0..self.len).map(position).collect(),
        }
    }

    /// Which event of the request the log has as number `index`.
    fn request_index(&self, index: usize) -> usize {
        let places = self.places.as_ref();
        places.and_then(|places| places.iter().position(|p| *p == index)).unwrap_or(index)
    }
}

/// The ids that events got when their request was made for the first time.
async fn original_ids(state: &AppState, positions: &[Position]) -> Result<Vec<String>, Problem> {
    let mut ascending = positions.to_vec();
    ascending.sort_unstable();
    ascending.dedup();
    let log = state.log.clone();
    let read = blocking(move || {
        let mut ids = HashMap::new();
        log.visit_events(&ascending, |event| {
            ids.insert(event.position, event.id.to_string());
            true
        })?;
        Ok(ids)
    });
    let ids: HashMap<Position, String> = read.await.map_err(|error| unreadable(&error))?;
    Ok(positions.iter().map(|p| ids.get(p).cloned().unwrap_or_default()).collect())
}

/// Decompresses, parses and validates; a large body does so on a thread of its own, because it
/// takes longer than other requests should wait.
async fn read_batch(
    state: &AppState,
    grant: &Arc<Grant>,
    received: ReceivedBody,
    layout: Layout,
    coding: Coding,
) -> Result<(Checked, u128, HeldMemory), Problem> {
    const INLINE_BYTES_MAX: usize = 16 << 10;
    let inline = received.len() <= INLINE_BYTES_MAX && coding == Coding::Identity;
    let (limits, catalog) = (Arc::clone(&state.limits), state.catalog.clone());
    let grant = Arc::clone(grant);
    let read = move || {
        let (plain, held) = received.decompress(coding, limits.body_bytes_max)?;
        let batch = checked_batch(&plain, &layout, &limits, &catalog, &grant)?;
        Ok((batch, idempotency::fingerprint([&*plain, layout.attributes().as_bytes()]), held))
    };
    if inline { read() } else { blocking(read).await }
}

/// A request's events, and which of them do not fit what is declared.
struct Checked {
    batch: Batch,
    misfits: Vec<Misfit>,
}

fn checked_batch(
    plain: &[u8],
    layout: &Layout,
    limits: &Limits,
    catalog: &CatalogInUse,
    grant: &Grant,
) -> Result<Checked, Problem> {
    let source = grant.default_source().unwrap_or_default();
    let batch = batch::parse(plain, layout, limits, now_us(), source)?;
    check_grant(&batch, grant)?;
    let Some(misfits) = catalog.validate(&batch.events, ERRORS_MAX) else {
        let message = "the query files are being planned for the first time: nobody knows yet which \
                       events fit them";
        return Err(Problem::unavailable("no_catalog", message).retry_after(1));
    };
    Ok(Checked { batch, misfits })
}

/// Refuses a request with an event that its client may not append.
fn check_grant(batch: &Batch, grant: &Grant) -> Result<(), Problem> {
    let mut errors = Errors::default();
    for (index, event) in batch.events.iter().enumerate() {
        let stream = event.stream.as_deref();
        if let Err((pointer, message)) = grant.may_append(&event.event_type, &event.source, stream)
        {
            errors.push(ErrorItem {
                index: Some(batch.request_index(index)),
                code: "forbidden",
                pointer: pointer.to_string(),
                message,
                current_version: None,
            });
        }
    }
    if errors.is_empty() { Ok(()) } else { Err(errors.into_problem(StatusCode::FORBIDDEN)) }
}

fn not_fitting(misfits: &[Misfit], request_index: impl Fn(usize) -> usize) -> Problem {
    let mut errors = Errors::default();
    for misfit in misfits {
        errors.push(ErrorItem {
            index: Some(request_index(misfit.index)),
            code: "schema_violation",
            pointer: format!("/data{}", misfit.violation.pointer),
            message: misfit.violation.message.clone(),
            current_version: None,
        });
    }
    errors.into_problem(StatusCode::UNPROCESSABLE_ENTITY)
}

fn refused(error: AppendError, asked: &Asked) -> Problem {
    match error {
        AppendError::Conflicts(conflicts) => {
            let mut errors = Errors::default();
            for conflict in conflicts {
                errors.push(conflict_item(conflict, asked));
            }
            errors.into_problem(StatusCode::CONFLICT)
        }
        AppendError::Misfits(_) => unreachable!("a request that has misfits has said so"),
        AppendError::KeyReused => idempotency::reused(),
        AppendError::Busy { .. } => Problem::too_busy(error.to_string()),
        AppendError::Full { .. } => {
            let message = format!("{error}; nothing was stored");
            Problem::new(StatusCode::INSUFFICIENT_STORAGE, "insufficient_storage", message)
                .retry_after(5)
        }
        AppendError::Unreadable { reason, damaged } => unreadable_because(damaged, &reason),
        AppendError::Unindexed { reason } => Problem::unavailable("index_unavailable", reason),
        AppendError::Stopped { .. } => {
            let message = format!(
                "{error}; it may be that the events were stored: send them again with their ids"
            );
            Problem::unavailable("stopped", message).retry_after(5)
        }
    }
}

fn conflict_item(conflict: Conflict, asked: &Asked) -> ErrorItem {
    match conflict {
        Conflict::Id { index, position } => ErrorItem {
            index: Some(asked.request_index(index)),
            code: "id_conflict",
            pointer: "/id".to_string(),
            message: format!("the event at position {position} has this id and other content"),
            current_version: None,
        },
        Conflict::Version { index, expected, current, earlier } => {
            let counted = match earlier {
                0 => String::new(),
                n => format!(", and {n} earlier events of the request count"),
            };
            ErrorItem {
                index: Some(asked.request_index(index)),
                code: "version_conflict",
                pointer: "/expected_version".to_string(),
                message: format!(
                    "expected version {expected}, the stream is at {current}{counted}"
                ),
                current_version: Some(current),
            }
        }
    }
}

fn event_types(batch: &Batch) -> Vec<String> {
    let types: HashSet<&str> = batch.events.iter().map(|event| &*event.event_type).collect();
    types.into_iter().map(str::to_string).collect()
}

impl AppendOptions {
    async fn of(uri: &Uri, state: &AppState, grant: &Grant) -> Result<Self, Problem> {
        let mut params = Params::of(uri)?;
        let ids = params.choice("ids", &[("true", true), ("false", false)])?;
        Ok(AppendOptions { wait: Wait::of(params, state, grant).await?, ids })
    }
}

impl Wait {
    /// Takes the parameters that are left.
    async fn of(
        mut params: Params,
        state: &AppState,
        grant: &Grant,
    ) -> Result<Option<Wait>, Problem> {
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
        // Before it is known which views there are: the answer must not tell.
        names.iter().try_for_each(|name| check_view(grant, name))?;
        // Asked before anything is stored: afterwards it could not be refused any more.
        if let Some(away) = state.backend.away() {
            let reason = format!("{away}; nothing was stored: without `wait` it is");
            return Err(Problem::from(Away { reason }));
        }
        if !names.is_empty() {
            let places = state.backend.places(names.clone()).await?;
            if let Some((name, _)) = names.iter().zip(places).find(|(_, place)| place.is_none()) {
                let message = format!("view: there is no view {name:?}");
                return Err(Problem::bad_request("unknown_view", message));
            }
        }
        let views = (!names.is_empty()).then_some(names);
        Ok(Some(Wait { target, views, timeout }))
    }

    /// Whether the views show the position in time, and those that do not, as far as they are known.
    async fn run(
        self,
        state: &AppState,
        position: Position,
        event_types: Vec<String>,
    ) -> (bool, Vec<Waiting>) {
        let Wait { target, views, timeout } = self;
        let request = WaitRequest { position, event_types, target, views, timeout };
        let named = request.views.clone().unwrap_or_default();
        match state.backend.wait(request).await {
            Ok(waiting) => (waiting.is_empty(), waiting),
            // The events are stored, and the views will show them.
            Err(Away { .. }) => {
                let later = |view| Waiting { view, state: ViewState::CatchingUp };
                (false, named.into_iter().map(later).collect())
            }
        }
    }
}

impl From<Waiting> for WaitingView {
    fn from(waiting: Waiting) -> Self {
        WaitingView { view: waiting.view, status: Status::from(&waiting.state) }
    }
}
