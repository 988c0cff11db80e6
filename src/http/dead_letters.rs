//! `/v1/dead-letters`: what failed, and why; tried again, or accepted as lost.

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, Uri};
use serde::Serialize;
use utoipa::ToSchema;

use super::openapi::{BadRequest, BodyProblems, Unavailable};
use super::params::{Params, bad};
use super::problem::Problem;
use super::{AppState, blocking, body};
use crate::model::Position;
use crate::status::{DeadLetter, DeadLetterFilter, Selection};

/// How many are listed when the client does not say.
const LIMIT_DEFAULT: usize = 1000;

/// The answer of the list.
#[derive(Serialize, ToSchema)]
#[schema(as = DeadLetters)]
pub struct List {
    dead_letters: Vec<Letter>,
    /// Where to go on; null when there are no more.
    #[schema(required)]
    cursor: Option<String>,
}

/// One dead letter on the wire.
#[derive(Serialize, ToSchema)]
#[schema(as = DeadLetter)]
struct Letter {
    /// The view that lacks them; null for events of a type that no view reads.
    #[schema(required)]
    view: Option<String>,
    /// Of the first event, or of all events that the view reads.
    #[schema(required)]
    r#type: Option<String>,
    #[schema(required, value_type = Option<u64>)]
    position: Option<Position>,
    /// The first hundred.
    #[schema(value_type = Vec<u64>)]
    positions: Vec<Position>,
    expression: String,
    /// Longer ones than 1,024 bytes end in `…`.
    reason: String,
    /// How many rows fail.
    count: u64,
    /// The first event's data. Null where the row belongs to no event, and where a page of many letters
    /// would take too long; the letter alone, by its position, has it.
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
pub async fn list(State(state): State<AppState>, uri: Uri) -> Result<Json<List>, Problem> {
    let mut params = Params::of(&uri)?;
    let filter = DeadLetterFilter {
        selection: Selection {
            view: params.text("view")?,
            event_type: params.text("type")?,
            from: params.number_if_given("from")?,
            to: params.number_if_given("to")?,
        },
        reason: params.text("reason")?,
        limit: params.limit(LIMIT_DEFAULT, state.limits.read_rows_max)?,
        cursor: params.text("cursor")?,
    };
    params.finish()?;
    let backend = state.backend;
    let found = blocking(move || backend.dead_letters(&filter)).await;
    let Some(found) = found else { return Err(bad("cursor", "it is not one of this list")) };
    let dead_letters = found.letters.into_iter().map(Letter::from).collect();
    Ok(Json(List { dead_letters, cursor: found.cursor }))
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
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<RetryAnswer>, Problem> {
    Params::of(&uri)?.finish()?;
    let selection = selection(&state, &headers, body).await?;
    let crate::status::Retried { retried, failed } = state.backend.retry(selection).await;
    Ok(Json(RetryAnswer { retried, failed }))
}

/// Accept failures as lost
///
/// They are not listed or counted any more, over restarts, too. The events stay in the log. What fails
/// later is told again.
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
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<DismissAnswer>, Problem> {
    Params::of(&uri)?.finish()?;
    let selection = selection(&state, &headers, body).await?;
    let backend = state.backend;
    match blocking(move || backend.dismiss(&selection)).await {
        Ok(dismissed) => Ok(Json(DismissAnswer { dismissed })),
        Err(error) => Err(Problem::unavailable("not_dismissed", error.to_string())),
    }
}

/// Which letters a request is about: a JSON object of `view`, `type`, `from` and `to`, all optional.
async fn selection(
    state: &AppState,
    headers: &HeaderMap,
    body: Body,
) -> Result<Selection, Problem> {
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

impl From<DeadLetter> for Letter {
    fn from(letter: DeadLetter) -> Self {
        let DeadLetter { view, event_type, position, positions, expression, reason, count, sample } =
            letter;
        Letter { view, r#type: event_type, position, positions, expression, reason, count, sample }
    }
}
