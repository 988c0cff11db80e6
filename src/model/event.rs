//! Events, as they are accepted and as they are read back.

use super::{Position, Tick};

/// An event that was checked and is ready to be appended to the log.
#[derive(Clone, Debug, PartialEq)]
pub struct NewEvent {
    /// Together with `source` the event's identity; at most 255 bytes, never empty.
    pub id: String,
    /// Where the event comes from; empty when the client did not say.
    pub source: String,
    /// The event's type, `OrderPlaced` say. Never empty.
    pub event_type: String,
    /// The version of the payload's schema, from 1.
    pub version: u32,
    /// The aggregate that the event belongs to, if any.
    pub stream: Option<String>,
    /// When it happened, in microseconds since the Unix epoch.
    pub time_us: i64,
    /// The payload: the text of one JSON object, as the client wrote it.
    pub data: Vec<u8>,
    /// The text of a JSON object, or empty.
    pub metadata: Vec<u8>,
}

/// An event in the log, borrowed from the frame that holds it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct EventRef<'a> {
    /// The event's place in the log.
    pub position: Position,
    /// The tick of the commit that wrote it.
    pub tick: Tick,
    /// See [`NewEvent::id`].
    pub id: &'a str,
    /// See [`NewEvent::source`].
    pub source: &'a str,
    /// See [`NewEvent::event_type`].
    pub event_type: &'a str,
    /// See [`NewEvent::version`].
    pub version: u32,
    /// See [`NewEvent::stream`].
    pub stream: Option<&'a str>,
    /// The event's number in its stream, from 1; 0 where none was assigned.
    pub stream_version: u64,
    /// See [`NewEvent::time_us`].
    pub time_us: i64,
    /// See [`NewEvent::data`].
    pub data: &'a [u8],
    /// See [`NewEvent::metadata`].
    pub metadata: &'a [u8],
}

/// Events that are to be appended together, all or none.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Append {
    /// The events, at least one; each identity once.
    pub events: Vec<NewEvent>,
    /// The version that an event's stream must have before it, by the event's index, in order. It
    /// counts earlier events of the same request; 0 means that the stream must not exist.
    pub expected_versions: Vec<(usize, u64)>,
    /// Makes the request as a whole repeatable.
    pub key: Option<RequestKey>,
    /// Whether ids were made for events that came without one.
    pub made_ids: bool,
    /// Indexes of events that are refused unless they are in the log already: what was accepted once
    /// is known for ever, whatever is declared today.
    pub misfits: Vec<usize>,
}

impl From<Vec<NewEvent>> for Append {
    fn from(events: Vec<NewEvent>) -> Self {
        Append { events, ..Append::default() }
    }
}

/// The key by which a repeated request is recognised.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestKey {
    /// As the client gave it.
    pub key: String,
    /// A hash of the request's content: the same key with another one is an error.
    pub fingerprint: u128,
}

/// The log's answer once a request's events are on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Appended {
    /// The lowest position of the request's events.
    pub first_position: Position,
    /// The highest position of the request's events.
    pub last_position: Position,
    /// The tick of the commit that wrote the event at `last_position`.
    pub tick: Tick,
    /// The number of events that were stored now; the others had been stored before.
    pub stored: usize,
    /// The position of each event, in request order; `None` when all were stored now, one after
    /// the other.
    pub positions: Option<Vec<Position>>,
    /// The streams of the request's events with their versions afterwards, in request order.
    pub streams: Vec<(String, u64)>,
    /// True when the whole request had been made before, under the same key.
    pub repeated: bool,
}
