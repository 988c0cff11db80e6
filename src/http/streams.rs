//! `GET /v1/streams/{stream}`: an aggregate's events.

use axum::body::Body;
use axum::extract::State;
use axum::http::header::{CONTENT_TYPE, ETAG, IF_NONE_MATCH};
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri};
use axum::response::{IntoResponse, Response};

use super::events::{unreadable, write_event};
use super::gate::{Client, forbidden};
use super::openapi::{BadRequest, Stream, TrimmedAway, Unreadable};
use super::params::{Name, Params};
use super::problem::{Document, Problem};
use super::{AppState, blocking};
use crate::access::Grant;
use crate::log::{Log, LogError};

/// An answer ends with the event that makes it longer than this.
const ANSWER_BYTES: usize = 8 << 20;
/// Events that are read when the client names no limit.
const LIMIT_DEFAULT: usize = 1000;

/// Read a stream
#[utoipa::path(
    get,
    path = "/v1/streams/{stream}",
    operation_id = "getStream",
    params(
        ("stream" = String, Path, min_length = 1, description = "The stream's name, percent-encoded."),
        (
            "from_version" = Option<u64>,
            Query,
            minimum = 0, maximum = 18446744073709551615_u64,
            description = "The version to begin with; 1 by default."
        ),
        (
            "limit" = Option<u64>,
            Query,
            minimum = 1,
            maximum = 10000,
            description = "At most so many events; 1,000 by default. An answer also ends when it has grown past 8 MiB: read on behind the last event's `stream_version` until it is the stream's."
        ),
        (
            "If-None-Match" = Option<String>,
            Header,
            nullable = false,
            pattern = "^\"[0-9]{1,9}\"$",
            description = "The version that the client knows, as in `ETag`."
        ),
    ),
    responses(
        (
            status = 200,
            description = "Events of the stream, in order.",
            body = Stream,
            headers(("ETag" = String, description = "The stream's version, in quotes."))
        ),
        (status = 304, description = "The stream has the version that the client knows."),
        (status = 400, response = BadRequest),
        (
            status = 404,
            description = "`stream_not_found`: no event names this stream.",
            body = Document,
            content_type = "application/problem+json"
        ),
        (status = 410, response = TrimmedAway),
        (status = 500, response = Unreadable),
    )
)]
pub async fn get_stream(
    State(state): State<AppState>,
    Client(grant): Client,
    Name(stream): Name,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let mut params = Params::of(&uri)?;
    let from_version: u64 = params.number("from_version", 1)?;
    let limit = params.limit(LIMIT_DEFAULT, state.limits.read_rows_max)?;
    params.finish()?;
    if !grant.sees_stream(&stream) {
        let message = format!("token {} does not reach stream {stream:?}", grant.name);
        return Err(forbidden(message));
    }
    let log = state.log.clone();
    let page = blocking(move || Page::read(&log, &grant, stream, from_version, limit)).await;
    let page = page.map_err(|error| unreadable(&error))?;
    if page.version == 0 {
        let message = format!("there is no stream {:?}", page.stream);
        return Err(Problem::not_found("stream_not_found", message));
    }
    let tag = format!("\"{}\"", page.version);
    let known = headers.get_all(IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    let mut known = known.flat_map(|tags| tags.split(',')).map(|tag| tag.trim());
    let unchanged = known.any(|known| known == "*" || known.trim_start_matches("W/") == tag);
    let tag = [(ETAG, HeaderValue::try_from(tag).unwrap_or(HeaderValue::from_static("\"\"")))];
    if unchanged {
        return Ok((StatusCode::NOT_MODIFIED, tag).into_response());
    }
    let json = [(CONTENT_TYPE, HeaderValue::from_static("application/json"))];
    Ok((tag, json, Body::from(page.into_json())).into_response())
}

/// A part of a stream.
struct Page {
    stream: String,
    version: u64,
    /// The events as JSON, with commas between them.
    events: Vec<u8>,
}

impl Page {
    /// Blocking.
    fn read(
        log: &Log,
        grant: &Grant,
        stream: String,
        from_version: u64,
        limit: usize,
    ) -> Result<Page, LogError> {
        let mut events = Vec::new();
        let version = log.read_stream(&stream, from_version, limit, |event| {
            if !grant.sees_event(event.event_type, event.source, event.stream) {
                return true;
            }
            if !events.is_empty() {
                events.push(b',');
            }
            write_event(event, &mut events);
            events.len() < ANSWER_BYTES
        })?;
        Ok(Page { stream, version, events })
    }

    fn into_json(self) -> Vec<u8> {
        let name = serde_json::to_string(&self.stream).unwrap_or_default();
        let head = format!("{{\"stream\":{name},\"stream_version\":{},\"events\":[", self.version);
        let mut json = head.into_bytes();
        json.extend(self.events);
        json.extend_from_slice(b"]}");
        json
    }
}
