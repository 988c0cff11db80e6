//! `/v1/dead-letters`: what failed, and why; tried again, or accepted as lost.

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, Uri};
use serde::Serialize;

use super::backend::{DeadLetter, DeadLetterFilter, Selection};
use super::params::{Params, bad};
use super::problem::Problem;
use super::{AppState, blocking, body};
use crate::model::Position;

/// How many are listed when the client does not say.
const LIMIT_DEFAULT: usize = 1000;

/// The answer of the list.
#[derive(Serialize)]
pub struct List {
    dead_letters: Vec<Letter>,
    /// Null when there are no more.
    cursor: Option<String>,
}

/// One dead letter on the wire.
#[derive(Serialize)]
struct Letter {
    /// Null for events of a type that no view reads.
    view: Option<String>,
    r#type: Option<String>,
    position: Option<Position>,
    positions: Vec<Position>,
    expression: String,
    reason: String,
    count: u64,
    sample: Option<String>,
}

/// The answer of a retry.
#[derive(Serialize)]
pub struct Retried {
    retried: u64,
    failed: u64,
}

/// The answer of a dismissal.
#[derive(Serialize)]
pub struct Dismissed {
    dismissed: u64,
}

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

pub async fn retry(
    State(state): State<AppState>,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Retried>, Problem> {
    Params::of(&uri)?.finish()?;
    let selection = selection(&state, &headers, body).await?;
    let crate::http::Retried { retried, failed } = state.backend.retry(selection).await;
    Ok(Json(Retried { retried, failed }))
}

pub async fn dismiss(
    State(state): State<AppState>,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Dismissed>, Problem> {
    Params::of(&uri)?.finish()?;
    let selection = selection(&state, &headers, body).await?;
    let backend = state.backend;
    match blocking(move || backend.dismiss(&selection)).await {
        Ok(dismissed) => Ok(Json(Dismissed { dismissed })),
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
