//! `/v1/dead-letters`: lists failures with their reasons, tries them again, or accepts them as lost.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, Uri};
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use super::gate::{Client, check_json};
use super::openapi::{BadRequest, BodyProblems, Unavailable};
use super::params::{Params, bad};
use super::problem::Problem;
use super::{AppState, blocking, body};
use crate::access::Grant;
use crate::log::Log;
use crate::model::Position;
use crate::status::{DeadLetter, DeadLetterFilter, DeadLetters, DismissError, Retried, Selection};

/// Letters that are listed when the client names no limit.
const LIMIT_DEFAULT: usize = 1000;
/// How long a page may read events for its samples; letters without one are asked for by position.
const SAMPLES_TIME: Duration = Duration::from_millis(50);
/// Bytes of samples on a page.
const SAMPLES_BYTES: usize = 4 << 20;

/// The reason that a narrowed token is told where it may not read the event: reasons quote values.
const REASON_WITHHELD: &str = "not shown: the token does not reach the event";
/// Most cursors of narrowed tokens that are remembered.
const CURSORS_MAX: usize = 1000;

/// The answer of the list.
#[derive(Serialize, ToSchema)]
#[schema(as = DeadLetters)]
pub struct List {
    dead_letters: Vec<Letter>,
    /// Where to go on; null when there are no more.
    #[schema(required)]
    cursor: Option<String>,
    /// Events of declared types that no view reads were looked at up to this position; the reading goes
    /// on. Null on further pages, and where no such type is asked for.
    #[schema(required, value_type = Option<u64>)]
    unread_through: Option<Position>,
}

/// One dead letter on the wire.
#[derive(Serialize, ToSchema)]
#[schema(as = DeadLetter)]
struct Letter {
    /// The view that lacks them; null for events of a type that no view reads.
    #[schema(required)]
    view: Option<String>,
    /// The type of the first event, or of all events that the view reads.
    #[schema(required)]
    r#type: Option<String>,
    #[schema(required, value_type = Option<u64>)]
    position: Option<Position>,
    /// The first hundred.
    #[schema(value_type = Vec<u64>)]
    positions: Vec<Position>,
    expression: String,
    /// Longer ones than 1,024 bytes end in `…`. A narrowed token is told it where it reaches the event.
    reason: String,
    /// The number of rows that fail.
    count: u64,
    /// The first event's data. Null where the row belongs to no event, and where a page of many letters
    /// would take too long; the letter alone, by its position, has it. Null, too, where a narrowed token
    /// does not reach the event.
    #[schema(required)]
    sample: Option<String>,
}

/// The answer of a retry.
#[derive(Serialize, ToSchema)]
#[schema(as = Retried)]
pub struct RetryAnswer {
    retried: u64,
    failed: u64,
}

/// The answer of a dismissal.
#[derive(Serialize, ToSchema)]
#[schema(as = Dismissed)]
pub struct DismissAnswer {
    dismissed: u64,
}

/// Current failures and their reasons
#[utoipa::path(
    get,
    path = "/v1/dead-letters",
    operation_id = "listDeadLetters",
    params(
        ("view" = Option<String>, Query, description = "Only those of this view."),
        ("type" = Option<String>, Query, description = "Only events of this type."),
        (
            "reason" = Option<String>,
            Query,
            description = "Only those whose expression or reason contains this text."
        ),
        (
            "from" = Option<u64>,
            Query,
            minimum = 0, maximum = 18446744073709551615_u64,
            description = "Only events from this position on. `count` is then that of the events known by position."
        ),
        (
            "to" = Option<u64>,
            Query,
            minimum = 0, maximum = 18446744073709551615_u64,
            description = "Only events up to this position."
        ),
        (
            "limit" = Option<u64>,
            Query,
            minimum = 1,
            maximum = 10000,
            description = "At most so many; 1,000 by default."
        ),
        (
            "cursor" = Option<String>,
            Query,
            description = "The `cursor` of the answer before: goes on behind it."
        ),
    ),
    responses(
        (status = 200, description = "What fails.", body = List),
        (status = 400, response = BadRequest),
    )
)]
pub async fn list(
    State(state): State<AppState>,
    Client(grant): Client,
    uri: Uri,
) -> Result<Json<List>, Problem> {
    let mut params = Params::of(&uri)?;
    let mut filter = DeadLetterFilter {
        selection: Selection {
            view: params.text("view")?,
            event_type: params.text("type")?,
            from: params.number_if_given("from")?,
            to: params.number_if_given("to")?,
        },
        reason: params.text("reason")?,
        limit: params.limit(LIMIT_DEFAULT, state.limits.read_rows_max)?,
        cursor: params.text("cursor")?,
        reader: Arc::clone(&grant),
    };
    params.finish()?;
    let is_narrowed = grant.is_narrowed();
    let no_cursor = || bad("cursor", "it is not one of this list");
    // A search in reasons that are not shown would tell what is in them.
    let shown_text = if is_narrowed { filter.reason.take() } else { None };
    if let Some(held) = filter.cursor.as_mut().filter(|_| is_narrowed) {
        *held = state.held_cursors.find(held).ok_or_else(no_cursor)?;
    }
    let DeadLetters { letters, mut cursor, unread_through } =
        state.backend.dead_letters(filter).await?.ok_or_else(no_cursor)?;
    if is_narrowed {
        cursor = cursor.map(|cursor| state.held_cursors.hold(cursor));
    }
    let log = state.log;
    let mut letters = blocking(move || with_events(&log, letters, &grant)).await;
    if let Some(text) = shown_text {
        letters.retain(|l| l.expression.contains(&text) || l.reason.contains(&text));
    }
    let dead_letters = letters.into_iter().map(Letter::from).collect();
    Ok(Json(List { dead_letters, cursor, unread_through }))
}

/// Cursors of narrowed tokens. A cursor has the reason in it that a page ends with, so that such a client
/// gets a name for it.
#[derive(Default)]
pub struct HeldCursors(Mutex<VecDeque<(String, String)>>);

impl HeldCursors {
    /// The name of a cursor. The oldest one is forgotten where there are too many.
    fn hold(&self, cursor: String) -> String {
        let name = Uuid::now_v7().simple().to_string();
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if held.len() >= CURSORS_MAX {
            held.pop_front();
        }
        held.push_back((name.clone(), cursor));
        name
    }

    /// The cursor of this name.
    fn find(&self, name: &str) -> Option<String> {
        let held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        held.iter().find(|(of, _)| of == name).map(|(_, cursor)| cursor.clone())
    }
}

/// Try again what failed
///
/// Looks at the query files now, gives views that changed up to ten seconds to be built, and tells how
/// many of the letters still fail. Views over changed SQL are also built by themselves.
#[utoipa::path(
    post,
    path = "/v1/dead-letters/retry",
    operation_id = "retryDeadLetters",
    request_body = Selection,
    responses((status = 200, description = "Done.", body = inline(RetryAnswer)), BodyProblems)
)]
pub async fn retry(
    State(state): State<AppState>,
    Client(grant): Client,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<RetryAnswer>, Problem> {
    Params::of(&uri)?.finish()?;
    let selection = selection(&state, &headers, body).await?;
    let about = selection.to_string();
    let Retried { retried, failed } = state.backend.retry(selection).await?;
    let result = format!("{retried} tried again, {failed} still fail");
    state.record(&grant, "retry", about, result).await;
    Ok(Json(RetryAnswer { retried, failed }))
}

/// Accept failures as lost
///
/// They are not listed or counted any more, over restarts, too. The events stay in the log. Later failures
/// are listed again.
#[utoipa::path(
    post,
    path = "/v1/dead-letters/dismiss",
    operation_id = "dismissDeadLetters",
    request_body = Selection,
    responses(
        (status = 200, description = "Done.", body = inline(DismissAnswer)),
        BodyProblems,
        (status = 503, response = Unavailable),
    )
)]
pub async fn dismiss(
    State(state): State<AppState>,
    Client(grant): Client,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<DismissAnswer>, Problem> {
    Params::of(&uri)?.finish()?;
    let selection = selection(&state, &headers, body).await?;
    let about = selection.to_string();
    let dismissed = state.backend.dismiss(selection).await;
    let result = match &dismissed {
        Ok(dismissed) => format!("{dismissed} dismissed"),
        Err(error) => error.to_string(),
    };
    state.record(&grant, "dismiss", about, result).await;
    match dismissed {
        Ok(dismissed) => Ok(Json(DismissAnswer { dismissed })),
        Err(DismissError::Away(away)) => Err(away.into()),
        Err(error @ DismissError::NotWritten { .. }) => {
            Err(Problem::unavailable("not_dismissed", error.to_string()))
        }
    }
}

/// Which letters a request is about: a JSON object of `view`, `type`, `from` and `to`, all optional.
async fn selection(
    state: &AppState,
    headers: &HeaderMap,
    body: Body,
) -> Result<Selection, Problem> {
    check_json(headers)?;
    let received = body::receive(state, headers, body).await?;
    let bytes_max = state.limits.body_bytes_max;
    let (bytes, held) = received.decompress(body::Coding::of(headers)?, bytes_max)?;
    let selection = serde_json::from_slice(&bytes).map_err(|error| {
        let expected = "expected an object of view, type, from and to, all optional";
        Problem::bad_request("bad_selection", format!("{expected}: {error}"))
    })?;
    drop(held);
    Ok(selection)
}

/// A letter's first event, as it is read.
struct FirstEvent {
    event_type: String,
    data: String,
    /// Whether the client may read it.
    is_seen: bool,
}

/// Adds the payload of each letter's first event, as far as there is time. Where the client may not read
/// the event, the reason is withheld instead. May read the disk.
fn with_events(log: &Log, mut letters: Vec<DeadLetter>, reader: &Grant) -> Vec<DeadLetter> {
    let started = Instant::now();
    let positions: BTreeSet<Position> =
        letters.iter().filter_map(|letter| letter.position).collect();
    let positions: Vec<Position> = positions.into_iter().collect();
    let mut events = HashMap::new();
    let mut bytes = 0;
    let visited = log.visit_events(&positions, |event| {
        let data = String::from_utf8_lossy(event.data).into_owned();
        bytes += data.len();
        let is_seen = reader.sees_event(event.event_type, event.source, event.stream);
        let first = FirstEvent { event_type: event.event_type.to_string(), data, is_seen };
        events.insert(event.position, first);
        bytes < SAMPLES_BYTES && started.elapsed() < SAMPLES_TIME
    });
    if let Err(error) = visited {
        tracing::error!(%error, "the log cannot be read for samples of dead letters");
    }
    for letter in &mut letters {
        // An event can be the first of several letters.
        let event = letter.position.and_then(|position| events.get(&position));
        let read_type = event.map(|event| event.event_type.clone());
        letter.event_type = letter.event_type.take().or(read_type);
        let is_seen = match (event, &letter.event_type) {
            (Some(event), _) => event.is_seen,
            // The row belongs to no event, or there was no time to read it.
            (None, Some(event_type)) => reader.sees_all_of_type(event_type),
            (None, None) => !reader.is_narrowed(),
        };
        letter.sample = event.filter(|_| is_seen).map(|event| event.data.clone());
        if !is_seen {
            letter.reason = REASON_WITHHELD.to_string();
        }
    }
    letters
}

impl From<DeadLetter> for Letter {
    fn from(letter: DeadLetter) -> Self {
        let DeadLetter { view, event_type, position, positions, expression, reason, count, sample } =
            letter;
        Letter { view, r#type: event_type, position, positions, expression, reason, count, sample }
    }
}
