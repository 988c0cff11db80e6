//! `GET /v1/events`: the log, read back as lines of JSON.
//!
//! The answer is made as the client takes it: a chunk is read when the one before it is gone, so a
//! slow client holds one compressed frame and nothing more. The first chunk is read before the
//! answer begins, so that a log that cannot be read there is a problem. Later the connection is
//! broken off: the last chunk of the encoding never comes, which no client takes for the end.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderName, HeaderValue, Uri};
use axum::response::{IntoResponse, Response};
use futures::stream;
use serde::Serialize;
use tokio::sync::{OwnedSemaphorePermit, watch};

use super::connections::{Connection, Follower};
use super::gate::Client;
use super::openapi::{BadRequest, TooBusy, TrimmedAway, Unreadable, YesOrNo};
use super::params::{Params, bad};
use super::problem::Problem;
use super::render::time_text;
use super::{AppState, blocking};
use crate::access::Grant;
use crate::log::{Frame, LogError, LogReader};
use crate::model::event::EventRef;
use crate::model::{Head, Position};

/// The answer is complete up to this position, unless `limit` cut it.
static POSITION_HEADER: HeaderName = HeaderName::from_static("heliostat-position");

/// A chunk is sent once it has grown past this.
const CHUNK_BYTES: usize = 256 << 10;

/// Bytes that are looked through at a time for events of the requested types.
const SCAN_BYTES: usize = 32 << 20;

/// Read the log
#[utoipa::path(
    get,
    path = "/v1/events",
    operation_id = "getEvents",
    params(
        (
            "after" = Option<u64>,
            Query,
            minimum = 0, maximum = 18446744073709551615_u64,
            description = "Only events behind this position."
        ),
        (
            "limit" = Option<u64>,
            Query,
            minimum = 1,
            maximum = 18446744073709551615_u64,
            description = "At most so many events."
        ),
        (
            "type" = Option<Vec<String>>,
            Query,
            style = Form,
            explode,
            description = "Only events of these types."
        ),
        (
            "follow" = inline(Option<YesOrNo>),
            Query,
            description = "Go on with new events as they come, until the client or the server ends it. While there are none, an empty line comes every 15 seconds."
        ),
    ),
    responses(
        (
            status = 200,
            description = "One event per line: each is a StoredEvent. Where the log turns out to be damaged after the answer has begun, it is broken off without the last chunk of its encoding, which clients report as an error.",
            body = String,
            content_type = "application/x-ndjson",
            headers((
                "Heliostat-Position" = u64,
                description = "The answer is complete up to here, unless `limit` cut it."
            ))
        ),
        (status = 400, response = BadRequest),
        (status = 410, response = TrimmedAway),
        (status = 429, response = TooBusy),
        (status = 500, response = Unreadable),
    )
)]
pub async fn get_events(
    State(state): State<AppState>,
    Client(grant): Client,
    connection: Connection,
    uri: Uri,
) -> Result<Response, Problem> {
    let mut params = Params::of(&uri)?;
    let after: Position = params.number("after", 0)?;
    let limit = params.number_if_given::<u64>("limit")?;
    let types = params.texts("type");
    let follow = params.choice("follow", &[("true", true), ("false", false)])?.unwrap_or(false);
    params.finish()?;
    if limit == Some(0) {
        return Err(bad("limit", "expected at least 1, got 0"));
    }
    let (places, whose) = match follow {
        true => (&state.event_followers, "followers of the log"),
        false => (&state.event_streams, "readers of events"),
    };
    let permit = Arc::clone(places)
        .try_acquire_owned()
        .map_err(|_| Problem::too_busy(format!("too many {whose}: the limit is reached")))?;
    let follower = follow.then(|| connection.follow());
    let (log, heads, head) = (state.log.clone(), state.log.subscribe(), state.log.head());
    let opened = blocking(move || log.read(after)).await;
    let reader = opened.map_err(|error| unreadable(&error))?;
    let source = EventSource {
        reader,
        frame: None,
        position: after,
        end: if follow { Position::MAX } else { head.position },
        remaining: limit.unwrap_or(u64::MAX),
        types,
        grant,
        failed: None,
    };
    let (source, first) = source.read().await;
    let first = first.map_err(|error| unreadable(&error))?;
    let feed = EventAnswer {
        source,
        first: Some(first),
        heads,
        stopping: state.stopping.subscribe(),
        follow,
        heartbeat: Duration::from_millis(state.limits.follow_heartbeat_ms),
        _permit: permit,
        _follower: follower,
    };
    let body = Body::from_stream(stream::try_unfold(Some(feed), EventAnswer::next));
    let headers = [
        (CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson")),
        (POSITION_HEADER.clone(), HeaderValue::from(head.position)),
    ];
    Ok((headers, body).into_response())
}

/// The problem of a log that cannot be read.
pub fn unreadable(error: &LogError) -> Problem {
    if let LogError::Trimmed { .. } = error {
        return Problem::new(axum::http::StatusCode::GONE, "trimmed", error.to_string());
    }
    tracing::error!(%error, "the log cannot be read");
    unreadable_because(error.is_damage(), &error.to_string())
}

/// The same, where all that is left of the error is what it said.
pub fn unreadable_because(damaged: bool, reason: &str) -> Problem {
    let status = axum::http::StatusCode::INTERNAL_SERVER_ERROR;
    let code = if damaged { "log_damaged" } else { "log_unreadable" };
    Problem::new(status, code, format!("the log cannot be read: {reason}"))
}

/// An answer in the making.
struct EventAnswer {
    source: EventSource,
    /// The events that were read before the answer began.
    first: Option<(Bytes, SourceState)>,
    heads: watch::Receiver<Head>,
    stopping: watch::Receiver<bool>,
    follow: bool,
    heartbeat: Duration,
    _permit: OwnedSemaphorePermit,
    _follower: Option<Follower>,
}

impl EventAnswer {
    /// The next chunk; `None` at the end. An error breaks the answer off, so that the client
    /// cannot take it for whole.
    async fn next(
        feed: Option<EventAnswer>,
    ) -> Result<Option<(Bytes, Option<EventAnswer>)>, LogError> {
        let Some(mut feed) = feed else { return Ok(None) };
        loop {
            let (chunk, state) = match feed.first.take() {
                Some(first) => first,
                None => {
                    // Seen before reading: what arrives while reading is read in the next round.
                    feed.heads.mark_unchanged();
                    let (source, chunk) = feed.source.read().await;
                    feed.source = source;
                    if let Err(error) = &chunk {
                        tracing::error!(%error, "an answer is broken off: the log cannot be read");
                        // An error drops what hyper holds back to send it with more. Once the body
                        // has nothing ready, that is sent.
                        tokio::task::yield_now().await;
                    }
                    chunk?
                }
            };
            let ends = state == SourceState::Done
                || (state == SourceState::AtTail && !feed.follow)
                || (feed.follow && *feed.stopping.borrow());
            if ends {
                return Ok((!chunk.is_empty()).then_some((chunk, None)));
            }
            if !chunk.is_empty() {
                return Ok(Some((chunk, Some(feed))));
            }
            if state == SourceState::AtTail {
                match feed.wait().await {
                    Waited::Arrived => {}
                    Waited::Nothing => return Ok(Some((Bytes::from_static(b"\n"), Some(feed)))),
                    Waited::Ended => return Ok(None),
                }
            }
        }
    }

    /// Waits for more events, for as long as a client and what lies between may think that the
    /// connection is dead.
    async fn wait(&mut self) -> Waited {
        tokio::select! {
            changed = self.heads.changed() => match changed {
                Ok(()) => Waited::Arrived,
                Err(_) => Waited::Ended,
            },
            _ = self.stopping.wait_for(|stopping| *stopping) => Waited::Ended,
            () = tokio::time::sleep(self.heartbeat) => Waited::Nothing,
        }
    }
}

/// The result of waiting for events.
enum Waited {
    Arrived,
    Nothing,
    /// There will be none.
    Ended,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SourceState {
    /// There is more to read now.
    More,
    /// There may be more later.
    AtTail,
    /// There is nothing more that was asked for.
    Done,
}

/// Reads the events that were asked for. Blocking.
struct EventSource {
    reader: LogReader,
    /// The frame that is being read, compressed, because a client may leave it lying for long.
    frame: Option<Frame>,
    /// The last event that was written or passed over.
    position: Position,
    /// The last event that is asked for.
    end: Position,
    /// The number of events that may still be written.
    remaining: u64,
    types: Vec<String>,
    /// Events that the client may not see are passed over.
    grant: Arc<Grant>,
    /// Why reading has ended, once what was read before it is written.
    failed: Option<LogError>,
}

impl EventSource {
    /// The next chunk, read where other requests need not wait for it.
    async fn read(mut self) -> (EventSource, Result<(Bytes, SourceState), LogError>) {
        blocking(move || {
            let chunk = self.chunk();
            (self, chunk)
        })
        .await
    }

    /// Some lines, up to about [`CHUNK_BYTES`]. Lines before damage are written, and the next chunk is the
    /// error.
    fn chunk(&mut self) -> Result<(Bytes, SourceState), LogError> {
        if let Some(error) = self.failed.take() {
            return Err(error);
        }
        let mut out = Vec::new();
        match self.fill(&mut out) {
            Ok(state) => Ok((Bytes::from(out), state)),
            Err(error) if out.is_empty() => Err(error),
            Err(error) => {
                self.failed = Some(error);
                Ok((Bytes::from(out), SourceState::More))
            }
        }
    }

    fn fill(&mut self, out: &mut Vec<u8>) -> Result<SourceState, LogError> {
        let mut scanned_bytes = 0;
        loop {
            if self.position >= self.end || self.remaining == 0 {
                return Ok(SourceState::Done);
            }
            if out.len() >= CHUNK_BYTES || scanned_bytes >= SCAN_BYTES {
                return Ok(SourceState::More);
            }
            let frame = match self.frame.take() {
                Some(frame) => frame,
                None => match self.reader.next_frame()? {
                    Some(frame) => frame,
                    None => return Ok(SourceState::AtTail),
                },
            };
            scanned_bytes += frame.raw_bytes();
            if self.write_frame(&frame, out)? {
                self.frame = Some(frame);
            }
        }
    }

    /// Writes what is asked for of a frame; true when `out` was full before the frame's end.
    fn write_frame(&mut self, frame: &Frame, out: &mut Vec<u8>) -> Result<bool, LogError> {
        let events = frame
            .decompress()
            .map_err(|error| LogError::of_position(frame.first_position(), error))?;
        let start = self.position;
        for event in events.iter().skip_while(|event| event.position <= start) {
            if event.position > self.end || self.remaining == 0 {
                return Ok(false);
            }
            self.position = event.position;
            let is_asked_for =
                self.types.is_empty() || self.types.iter().any(|t| t == event.event_type);
            if is_asked_for && self.grant.sees_event(event.event_type, event.source, event.stream) {
                write_line(&event, out);
                self.remaining -= 1;
            }
            if out.len() >= CHUNK_BYTES && event.position < frame.last_position() {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// An event's line; see [`write_event`].
pub fn write_line(event: &EventRef<'_>, out: &mut Vec<u8>) {
    write_event(event, out);
    out.push(b'\n');
}

/// An event as JSON, as `POST /v1/events` would take it, with what the log has added.
pub fn write_event(event: &EventRef<'_>, out: &mut Vec<u8>) {
    field(out, "{\"position\":", &event.position);
    field(out, ",\"tick\":", &event.tick);
    field(out, ",\"id\":", &event.id);
    if !event.source.is_empty() {
        field(out, ",\"source\":", &event.source);
    }
    field(out, ",\"type\":", &event.event_type);
    field(out, ",\"version\":", &event.version);
    if let Some(stream) = event.stream {
        field(out, ",\"stream\":", &stream);
    }
    if event.stream_version > 0 {
        field(out, ",\"stream_version\":", &event.stream_version);
    }
    field(out, ",\"time\":", &time_text(event.time_us));
    raw_field(out, ",\"data\":", event.data);
    if !event.metadata.is_empty() {
        raw_field(out, ",\"metadata\":", event.metadata);
    }
    out.push(b'}');
}

/// Writing numbers and text to memory cannot fail.
fn field(out: &mut Vec<u8>, name: &str, value: &impl Serialize) {
    out.extend_from_slice(name.as_bytes());
    let _ = serde_json::to_writer(&mut *out, value);
}

/// Appends JSON as the client wrote it, but on one line: within valid JSON a line break can only
/// stand between tokens, where a blank does as well.
fn raw_field(out: &mut Vec<u8>, name: &str, json: &[u8]) {
    out.extend_from_slice(name.as_bytes());
    let start = out.len();
    out.extend_from_slice(json);
    for byte in out.iter_mut().skip(start).filter(|byte| matches!(byte, b'\n' | b'\r')) {
        *byte = b' ';
    }
}
