//! `GET /v1/views/{view}/rows`: a view's rows from the dataflow's state.

use std::io::Write;

use axum::body::Body;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderValue, Uri};
use axum::response::{IntoResponse, Response};

use super::gate::Client;
use super::openapi::{BadRequest, Int64, NoView, Rows, Unavailable};
use super::params::{Name, Params};
use super::problem::Problem;
use super::render::{RenderOptions, write_rows};
use super::{AppState, blocking};
use crate::status::{RowsAnswer, RowsError, RowsRequest, ViewState};

/// Rows of an answer when the client names no limit.
const LIMIT_DEFAULT: usize = 1000;

/// Prefix of a column's name where that is also the name of a parameter.
const COLUMN_PREFIX: &str = "column.";

/// Rows straight from a view's state
///
/// Any further parameter is a column and the value that it must have; `column.NAME` where a column is
/// named like a parameter.
#[utoipa::path(
    get,
    path = "/v1/views/{view}/rows",
    operation_id = "getRows",
    params(
        ("view" = String, Path, min_length = 1, description = "The name of a materialized view."),
        (
            "min_position" = Option<u64>,
            Query,
            minimum = 0, maximum = 18446744073709551615_u64,
            description = "The answer shows this event at least."
        ),
        (
            "timeout" = Option<String>,
            Query,
            pattern = "^([1-5]?[0-9]s|60s|[1-5]?[0-9]{1,4}ms)$",
            description = "How long to wait for that; 5s by default."
        ),
        (
            "limit" = Option<u64>,
            Query,
            minimum = 1,
            maximum = 10000,
            description = "At most so many rows; 1,000 by default."
        ),
        ("cursor" = Option<String>, Query, description = "Where the previous answer ended."),
        (
            "int64" = inline(Option<Int64>),
            Query,
            description = "Whether BIGINT is text or a number."
        ),
    ),
    responses(
        (status = 200, description = "The rows.", body = Rows),
        (status = 400, response = BadRequest),
        (status = 404, response = NoView),
        (status = 503, response = Unavailable),
    )
)]
pub async fn rows(
    State(state): State<AppState>,
    client: Client,
    Name(view): Name,
    uri: Uri,
) -> Result<Response, Problem> {
    client.check_view(&view)?;
    let mut params = Params::of(&uri)?;
    let rows_max = state.limits.read_rows_max;
    let min_position = params.number("min_position", 0)?;
    let timeout = params.timeout(state.limits.wait_ms_max)?;
    let limit = params.limit(LIMIT_DEFAULT.min(rows_max), rows_max)?;
    let cursor = params.text("cursor")?;
    let int64_as_text =
        params.choice("int64", &[("string", true), ("number", false)])?.unwrap_or(false);
    let filters = params.rest().into_iter().map(column_filter).collect();

    let request = RowsRequest { view, filters, min_position, timeout, limit, cursor };
    let answer = state.backend.rows(request).await.map_err(refused)?;
    let render = move || render(&answer, RenderOptions { int64_as_text });
    // Many rows take longer than other requests should wait.
    let body = blocking(render).await;
    let headers = [(CONTENT_TYPE, HeaderValue::from_static("application/json"))];
    Ok((headers, Body::from(body)).into_response())
}

fn column_filter((name, value): (String, String)) -> (String, String) {
    match name.strip_prefix(COLUMN_PREFIX) {
        Some(column) => (column.to_string(), value),
        None => (name, value),
    }
}

fn render(answer: &RowsAnswer, options: RenderOptions) -> Vec<u8> {
    let mut out = Vec::new();
    // Writing to memory cannot fail.
    let _ = write!(out, "{{\"tick\":{},\"position\":{},\"rows\":[", answer.tick, answer.position);
    let mut first = true;
    for batch in &answer.batches {
        write_rows(batch, options, &mut first, &mut out);
    }
    out.extend_from_slice(b"],\"cursor\":");
    let _ = serde_json::to_writer(&mut out, &answer.cursor);
    out.push(b'}');
    out
}

fn refused(error: RowsError) -> Problem {
    let message = error.to_string();
    match error {
        RowsError::Away(away) => away.into(),
        RowsError::NotFound { .. } => Problem::not_found("view_not_found", message),
        RowsError::UnknownColumn { .. } => Problem::bad_request("unknown_column", message),
        RowsError::BadValue { .. } => Problem::bad_request("bad_value", message),
        RowsError::BadCursor { .. } => Problem::bad_request("bad_cursor", message),
        RowsError::NotLive { view, state } => not_live(&view, &state),
        RowsError::Timeout { .. } => Problem::unavailable("timeout", message),
    }
}

/// The problem of a view that is not live.
pub fn not_live(view: &str, state: &ViewState) -> Problem {
    let message = format!("{view} is {}, not live", state.as_str());
    let message = match state {
        ViewState::Failed { reason } => format!("{message}: {reason}"),
        ViewState::CatchingUp | ViewState::Live => message,
    };
    Problem::unavailable("not_live", message)
}
