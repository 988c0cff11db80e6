//! A request's events: split from the body, checked one by one, and each identity kept once.

use std::fmt;
use std::str::from_utf8;

use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, StatusCode};
use hashbrown::HashMap;
use serde::de::{Deserializer, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::cloudevents::{self, NOT_JSON_DATA};
use super::envelope::{EnvelopeReader, ReadEvent, TOO_LARGE};
use super::problem::{ErrorItem, Errors, Problem};
use crate::model::event::NewEvent;
use crate::model::json;
use crate::model::limits::Limits;

/// How events are laid out in a body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Layout {
    /// One event, or an array of them.
    Json,
    /// One event per line.
    Ndjson,
    /// One CloudEvent in its JSON format.
    CloudEvent,
    /// An array of them.
    CloudEvents,
    /// The data of one CloudEvent, whose attributes are in the headers.
    BinaryCloudEvent {
        /// See [`cloudevents::header_attributes`].
        attributes: String,
    },
}

impl Layout {
    /// The values of the headers.
    pub fn of(headers: &HeaderMap) -> Result<Layout, Problem> {
        let value = headers.get(CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
        let media_type = value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        match media_type.as_str() {
            "application/cloudevents+json" => return Ok(Layout::CloudEvent),
            "application/cloudevents-batch+json" => return Ok(Layout::CloudEvents),
            other if other.starts_with("application/cloudevents") => {}
            _ if headers.contains_key("ce-specversion") => {
                let attributes = cloudevents::header_attributes(headers)?;
                return Ok(Layout::BinaryCloudEvent { attributes });
            }
            "application/json" => return Ok(Layout::Json),
            "application/x-ndjson" => return Ok(Layout::Ndjson),
            _ => {}
        }
        let why = match media_type.as_str() {
            "" => "there is no Content-Type".to_string(),
            other => format!("got {other}"),
        };
        let message = format!(
            "expected application/json, application/x-ndjson, or CloudEvents as JSON: {why}"
        );
        Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "bad_media_type", message))
    }

    /// The headers that belong to the content.
    pub fn attributes(&self) -> &str {
        match self {
            Layout::BinaryCloudEvent { attributes } => attributes,
            _ => "",
        }
    }
}

/// The events of a request that is in order.
#[derive(Debug)]
pub struct Batch {
    /// Each identity once, in request order.
    pub events: Vec<NewEvent>,
    /// For each event of the request its index in `events`; `None` when that is its own.
    pub places: Option<Vec<usize>>,
    /// The versions that streams must have before events, by the index in `events`.
    pub expected_versions: Vec<(usize, u64)>,
    /// Whether an event came without an id.
    pub made_ids: bool,
}

impl Batch {
    /// The number of events in the request.
    pub fn len(&self) -> usize {
        self.places.as_ref().map_or(self.events.len(), Vec::len)
    }

    /// Which event of the request `events[index]` is.
    pub fn request_index(&self, index: usize) -> usize {
        let position = |places: &Vec<usize>| places.iter().position(|place| *place == index);
        self.places.as_ref().and_then(position).unwrap_or(index)
    }

    /// The ids in request order.
    pub fn ids(&self) -> Vec<String> {
        let id = |index: usize| self.events[index].id.clone();
        match &self.places {
            Some(places) => places.iter().map(|place| id(*place)).collect(),
            None => (0..self.events.len()).map(id).collect(),
        }
    }
}

/// Reads a body. `now_us` is what an event's `time` is by default, `source` what its source is.
pub fn parse(
    body: &[u8],
    layout: &Layout,
    limits: &Limits,
    now_us: i64,
    source: &str,
) -> Result<Batch, Problem> {
    let text = from_utf8(body).map_err(|error| {
        Problem::bad_request("not_json", format!("the body is not UTF-8: {error}"))
    })?;
    let is_array = text.trim_ascii_start().starts_with('[');
    let mut collector = EventCollector::new(limits, now_us, source);
    collector.cloudevents = !matches!(layout, Layout::Json | Layout::Ndjson);
    match layout {
        Layout::Ndjson => {
            for line in text.lines().filter(|line| !line.trim_ascii().is_empty()) {
                collector.add(line);
            }
        }
        Layout::Json if is_array => {
            collector.add_array(serde_json::Deserializer::from_str(text));
        }
        Layout::CloudEvents => collector.add_array(serde_json::Deserializer::from_str(text)),
        Layout::Json | Layout::CloudEvent => collector.add(text),
        Layout::BinaryCloudEvent { attributes } => {
            collector.add(&cloudevents::from_binary(attributes, text)?);
        }
    }
    collector.finish()
}

struct EventCollector<'l> {
    limits: &'l Limits,
    reader: EnvelopeReader<'l>,
    events: Vec<ReadEvent>,
    errors: Errors,
    /// The number of events in the body.
    count: usize,
    /// Whether they are CloudEvents.
    cloudevents: bool,
}

impl<'l> EventCollector<'l> {
    fn new(limits: &'l Limits, now_us: i64, source: &'l str) -> Self {
        let reader = EnvelopeReader::new(limits, now_us, source);
        EventCollector {
            limits,
            reader,
            events: Vec::new(),
            errors: Errors::default(),
            count: 0,
            cloudevents: false,
        }
    }

    fn add(&mut self, text: &str) {
        let index = self.count;
        self.count += 1;
        // Events past the limit are counted, for the message, and not read.
        if self.count <= self.limits.request_events_max {
            let event = if self.cloudevents {
                self.read_cloudevent(index, text)
            } else {
                self.reader.read(index, text, &mut self.errors)
            };
            self.events.extend(event);
        }
    }

    fn read_cloudevent(&mut self, index: usize, text: &str) -> Option<ReadEvent> {
        let envelope = match cloudevents::envelope(text) {
            Ok(envelope) => envelope,
            Err(faults) => {
                for (code, pointer, message) in faults {
                    let (index, current_version) = (Some(index), None);
                    self.errors.push(ErrorItem { index, code, pointer, message, current_version });
                }
                return None;
            }
        };
        let mut errors = Errors::default();
        let event = self.reader.read(index, &envelope, &mut errors);
        self.errors.append(errors, cloudevents::pointer);
        event
    }

    fn add_array<'de>(
        &mut self,
        mut array: serde_json::Deserializer<serde_json::de::StrRead<'de>>,
    ) {
        let read = array.deserialize_seq(Items(self)).and_then(|()| array.end());
        if let Err(error) = read {
            let (index, code) = (Some(self.count), "not_json");
            let (pointer, message) = (String::new(), error.to_string());
            self.errors.push(ErrorItem { index, code, pointer, message, current_version: None });
        }
    }

    fn finish(self) -> Result<Batch, Problem> {
        let EventCollector { limits, reader, events, errors, count, .. } = self;
        let max = limits.request_events_max;
        if count > max {
            let message = format!("the request has {count} events, the limit is {max}");
            return Err(Problem::too_large(message));
        }
        if !errors.is_empty() {
            let status = if errors.all_are(TOO_LARGE) {
                StatusCode::PAYLOAD_TOO_LARGE
            } else if errors.all_are(NOT_JSON_DATA) {
                StatusCode::UNSUPPORTED_MEDIA_TYPE
            } else {
                StatusCode::BAD_REQUEST
            };
            return Err(errors.into_problem(status));
        }
        if events.is_empty() {
            return Err(Problem::bad_request("no_events", "the request has no events"));
        }
        let (events, places) = keep_once(events)?;
        let expected = events.iter().enumerate();
        let expected_versions = expected
            .filter_map(|(index, read)| read.expected_version.map(|version| (index, version)))
            .collect();
        let events = events.into_iter().map(|read| read.event).collect();
        Ok(Batch { events, places, expected_versions, made_ids: reader.made_ids })
    }
}

/// Feeds the items of an array to a collector.
struct Items<'c, 'l>(&'c mut EventCollector<'l>);

impl<'de> Visitor<'de> for Items<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of events")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        while let Some(item) = items.next_element::<&'de RawValue>()? {
            self.0.add(item.get());
        }
        Ok(())
    }
}

/// The events and, where one repeats another, the place of each event of the request.
type KeptEvents = (Vec<ReadEvent>, Option<Vec<usize>>);

/// Drops events that repeat an earlier one of the request. The same identity with other content is
/// an error.
fn keep_once(events: Vec<ReadEvent>) -> Result<KeptEvents, Problem> {
    let originals = originals(&events)?;
    let repeats = |(index, original): (usize, &usize)| index != *original;
    if !originals.iter().enumerate().any(repeats) {
        return Ok((events, None));
    }
    let mut kept = Vec::with_capacity(events.len());
    let mut places: Vec<usize> = Vec::with_capacity(events.len());
    for (index, event) in events.into_iter().enumerate() {
        let original = originals[index];
        if original == index {
            places.push(kept.len());
            kept.push(event);
        } else {
            places.push(places[original]);
        }
    }
    Ok((kept, Some(places)))
}

/// For each event the index of the first one with its identity, which may be itself.
fn originals(events: &[ReadEvent]) -> Result<Vec<usize>, Problem> {
    let mut firsts: HashMap<(&str, &str), usize> = HashMap::with_capacity(events.len());
    let mut originals = Vec::with_capacity(events.len());
    let mut errors = Errors::default();
    for (index, ReadEvent { event, .. }) in events.iter().enumerate() {
        let first = *firsts.entry((&event.source, &event.id)).or_insert(index);
        if first != index && !same_content(&events[first].event, event) {
            errors.push(conflict(index, first, event));
        }
        originals.push(first);
    }
    if errors.is_empty() { Ok(originals) } else { Err(errors.into_problem(StatusCode::CONFLICT)) }
}

fn same_content(a: &NewEvent, b: &NewEvent) -> bool {
    (&a.event_type, a.version, &a.stream) == (&b.event_type, b.version, &b.stream)
        && json::equal(&a.data, &b.data)
}

fn conflict(index: usize, first: usize, event: &NewEvent) -> ErrorItem {
    let (index, code, pointer) = (Some(index), "id_conflict", "/id".to_string());
    let id = &event.id;
    let message = format!("event {first} of the request has the id {id:?} and other content");
    ErrorItem { index, code, pointer, message, current_version: None }
}
