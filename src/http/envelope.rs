//! One event's envelope: JSON text → a checked [`NewEvent`], or everything that is wrong with it.
//!
//! Members are kept as slices of the text until they are known to be wanted; `data` is never
//! parsed into a tree.

use std::borrow::Cow;
use std::fmt;

use chrono::{DateTime, Datelike};
use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;
use uuid::Uuid;

use super::problem::{ErrorItem, Errors};
use crate::model::event::NewEvent;
use crate::model::json::{self, string};
use crate::model::limits::Limits;

/// The code of errors that are answered with 413.
pub const TOO_LARGE: &str = "too_large";

/// The members of an envelope.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum EnvelopeMember {
    Type,
    Data,
    Id,
    Source,
    Stream,
    Time,
    Version,
    Metadata,
    ExpectedVersion,
    /// Added by `GET /v1/events`, and ignored, as are those that follow.
    Position,
    Tick,
    StreamVersion,
}

impl EnvelopeMember {
    const ALL: [EnvelopeMember; 12] = [
        EnvelopeMember::Type,
        EnvelopeMember::Data,
        EnvelopeMember::Id,
        EnvelopeMember::Source,
        EnvelopeMember::Stream,
        EnvelopeMember::Time,
        EnvelopeMember::Version,
        EnvelopeMember::Metadata,
        EnvelopeMember::ExpectedVersion,
        EnvelopeMember::Position,
        EnvelopeMember::Tick,
        EnvelopeMember::StreamVersion,
    ];

    fn name(self) -> &'static str {
        &self.pointer()[1..]
    }

    fn pointer(self) -> &'static str {
        match self {
            EnvelopeMember::Type => "/type",
            EnvelopeMember::Data => "/data",
            EnvelopeMember::Id => "/id",
            EnvelopeMember::Source => "/source",
            EnvelopeMember::Stream => "/stream",
            EnvelopeMember::Time => "/time",
            EnvelopeMember::Version => "/version",
            EnvelopeMember::Metadata => "/metadata",
            EnvelopeMember::ExpectedVersion => "/expected_version",
            EnvelopeMember::Position => "/position",
            EnvelopeMember::Tick => "/tick",
            EnvelopeMember::StreamVersion => "/stream_version",
        }
    }
}

/// A member's name: one that is known, or another.
enum MemberName {
    Known(EnvelopeMember),
    Other(String),
}

impl<'de> Deserialize<'de> for MemberName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct MemberNameVisitor;
        impl Visitor<'_> for MemberNameVisitor {
            type Value = MemberName;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a member's name")
            }

            fn visit_str<E>(self, name: &str) -> Result<MemberName, E> {
                let known = EnvelopeMember::ALL.into_iter().find(|member| member.name() == name);
                Ok(known.map_or_else(|| MemberName::Other(name.to_string()), MemberName::Known))
            }
        }
        deserializer.deserialize_str(MemberNameVisitor)
    }
}

/// An envelope whose members have been told apart and nothing more.
#[derive(Default)]
struct RawEnvelope<'a> {
    members: [Option<&'a RawValue>; EnvelopeMember::ALL.len()],
    unknown: Vec<String>,
    twice: Vec<EnvelopeMember>,
}

impl<'de> Deserialize<'de> for RawEnvelope<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct EnvelopeVisitor;
        impl<'de> Visitor<'de> for EnvelopeVisitor {
            type Value = RawEnvelope<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an event, which is an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut envelope = RawEnvelope::default();
                while let Some(name) = map.next_key::<MemberName>()? {
                    let value: &'de RawValue = map.next_value()?;
                    envelope.add(name, value);
                }
                Ok(envelope)
            }
        }
        deserializer.deserialize_map(EnvelopeVisitor)
    }
}

impl<'a> RawEnvelope<'a> {
    fn add(&mut self, name: MemberName, value: &'a RawValue) {
        match name {
            MemberName::Known(member) => {
                if self.members[member as usize].replace(value).is_some() {
                    self.twice.push(member);
                }
            }
            MemberName::Other(name) => self.unknown.push(name),
        }
    }

    /// The text of a member; null is as good as absent.
    fn get(&self, member: EnvelopeMember) -> Option<&'a str> {
        self.members[member as usize].map(RawValue::get).filter(|text| *text != "null")
    }
}

/// Reads the envelopes of one request.
pub struct EnvelopeReader<'l> {
    limits: &'l Limits,
    now_us: i64,
    /// The source of events that come without one.
    default_source: &'l str,
    ids: IdSource,
    /// True once an event came without an id and was given one.
    pub made_ids: bool,
}

impl<'l> EnvelopeReader<'l> {
    /// A reader for a request that came at `now_us`, in microseconds since the Unix epoch.
    pub fn new(limits: &'l Limits, now_us: i64, default_source: &'l str) -> Self {
        EnvelopeReader { limits, now_us, default_source, ids: IdSource::new(), made_ids: false }
    }

    /// The event in `text`, which is valid JSON or not; `None` when there is an error in it.
    pub fn read(&mut self, index: usize, text: &str, errors: &mut Errors) -> Option<ReadEvent> {
        let limits = self.limits;
        let mut report = Report { index, errors, clean: true };
        if text.len() > limits.event_bytes_max {
            let (got, max) = (text.len(), limits.event_bytes_max);
            report.add(TOO_LARGE, "", format!("the event has {got} bytes, the limit is {max}"));
            return None;
        }
        let envelope: RawEnvelope<'_> = match serde_json::from_str(text) {
            Ok(envelope) => envelope,
            Err(error) if error.is_data() => {
                report.add("not_an_event", "", error.to_string());
                return None;
            }
            Err(error) => {
                report.add("not_json", "", error.to_string());
                return None;
            }
        };
        report.names(&envelope);
        let event_type = report.text(&envelope, EnvelopeMember::Type, limits.name_bytes_max);
        if event_type.is_none() && envelope.get(EnvelopeMember::Type).is_none() {
            report.add("missing_field", "/type", "type is required".to_string());
        }
        let id = report.text(&envelope, EnvelopeMember::Id, limits.id_bytes_max);
        let source = report.text(&envelope, EnvelopeMember::Source, limits.name_bytes_max);
        let stream = report.text(&envelope, EnvelopeMember::Stream, limits.name_bytes_max);
        let version = report.version(&envelope);
        let time_us = report.time(&envelope);
        let expected_version = report.expected_version(&envelope);
        if envelope.get(EnvelopeMember::Data).is_none() {
            report.add("missing_field", "/data", "data is required".to_string());
        }
        let data = report.object(&envelope, EnvelopeMember::Data, limits.json_depth_max);
        let metadata = report.object(&envelope, EnvelopeMember::Metadata, limits.json_depth_max);
        if !report.clean {
            return None;
        }
        let event = NewEvent {
            id: id.map(Cow::into_owned).unwrap_or_else(|| {
                self.made_ids = true;
                self.ids.next()
            }),
            source: source.map_or_else(|| self.default_source.to_string(), Cow::into_owned),
            event_type: event_type?.into_owned(),
            version,
            stream: stream.map(Cow::into_owned),
            time_us: time_us.unwrap_or(self.now_us),
            data: data?.as_bytes().to_vec(),
            metadata: metadata.map(|text| text.as_bytes().to_vec()).unwrap_or_default(),
        };
        Some(ReadEvent { event, expected_version })
    }
}

/// An event, and the version that its stream must have before it.
pub struct ReadEvent {
    pub event: NewEvent,
    pub expected_version: Option<u64>,
}

/// Where the errors of one event go.
struct Report<'e> {
    index: usize,
    errors: &'e mut Errors,
    clean: bool,
}

impl Report<'_> {
    fn add(&mut self, code: &'static str, pointer: &str, message: String) {
        self.clean = false;
        let (index, pointer) = (Some(self.index), pointer.to_string());
        self.errors.push(ErrorItem { index, code, pointer, message, current_version: None });
    }

    /// Members that must not be there.
    fn names(&mut self, envelope: &RawEnvelope<'_>) {
        for name in &envelope.unknown {
            let pointer = format!("/{}", json::pointer_token(name));
            let message = format!("an event has no member {name:?}: payloads belong into data");
            self.add("unknown_field", &pointer, message);
        }
        for member in &envelope.twice {
            let message = format!("{} is given twice", member.name());
            self.add("duplicate_field", member.pointer(), message);
        }
    }

    /// The version that the event's stream must have.
    fn expected_version(&mut self, envelope: &RawEnvelope<'_>) -> Option<u64> {
        let raw = envelope.get(EnvelopeMember::ExpectedVersion)?;
        let pointer = EnvelopeMember::ExpectedVersion.pointer();
        if envelope.get(EnvelopeMember::Stream).is_none() {
            let message = "expected_version is that of a stream: stream is required beside it";
            self.add("missing_field", "/stream", message.to_string());
        }
        let version = raw.parse::<u64>();
        if version.is_err() {
            let message = format!("expected_version: expected 0 or more, got {}", brief(raw));
            self.add("out_of_range", pointer, message);
        }
        version.ok()
    }

    /// A member that is text. Only `source` may be empty.
    fn text<'a>(
        &mut self,
        envelope: &RawEnvelope<'a>,
        member: EnvelopeMember,
        bytes_max: usize,
    ) -> Option<Cow<'a, str>> {
        let raw = envelope.get(member)?;
        let (pointer, name) = (member.pointer(), member.name());
        let Some(text) = string(raw) else {
            self.add("wrong_type", pointer, format!("{name}: expected text, got {}", brief(raw)));
            return None;
        };
        if text.is_empty() && member != EnvelopeMember::Source {
            self.add("out_of_range", pointer, format!("{name} is empty"));
            return None;
        }
        if text.len() > bytes_max {
            let got = text.len();
            self.add("too_long", pointer, format!("{name} has {got} bytes, at most {bytes_max}"));
            return None;
        }
        Some(text)
    }

    fn version(&mut self, envelope: &RawEnvelope<'_>) -> u32 {
        let Some(raw) = envelope.get(EnvelopeMember::Version) else { return 1 };
        match raw.parse::<u32>() {
            Ok(version) if version > 0 => version,
            _ => {
                let (code, max) = ("out_of_range", u32::MAX);
                let got = brief(raw);
                self.add(code, "/version", format!("version: expected 1 to {max}, got {got}"));
                1
            }
        }
    }

    fn time(&mut self, envelope: &RawEnvelope<'_>) -> Option<i64> {
        let raw = envelope.get(EnvelopeMember::Time)?;
        let time_us = string(raw).and_then(|text| parse_time_us(&text));
        if time_us.is_none() {
            let got = brief(raw);
            let message = format!("time: expected RFC 3339 like 2026-11-23T10:00:00Z, got {got}");
            self.add("bad_time", "/time", message);
        }
        time_us
    }

    /// A member that is an object.
    fn object<'a>(
        &mut self,
        envelope: &RawEnvelope<'a>,
        member: EnvelopeMember,
        depth_max: usize,
    ) -> Option<&'a str> {
        let raw = envelope.get(member)?;
        let (pointer, name) = (member.pointer(), member.name());
        if !raw.starts_with('{') {
            let message = format!("{name}: expected an object, got {}", brief(raw));
            self.add("wrong_type", pointer, message);
            return None;
        }
        // The envelope is the first level.
        if depth(raw) + 1 > depth_max {
            let message = format!("the event nests deeper than {depth_max} levels");
            self.add("too_deep", pointer, message);
            return None;
        }
        Some(raw)
    }
}

/// The beginning of a value, for messages.
fn brief(raw: &str) -> String {
    const CHARS_MAX: usize = 40;
    match raw.char_indices().nth(CHARS_MAX) {
        None => raw.to_string(),
        Some((end, _)) => format!("{}…", &raw[..end]),
    }
}

/// How deep valid JSON nests: 0 for a scalar.
fn depth(raw: &str) -> usize {
    let (mut depth, mut deepest) = (0_usize, 0);
    let mut bytes = raw.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => skip_string(&mut bytes),
            b'{' | b'[' => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b'}' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

/// Goes on behind the closing quote.
fn skip_string(bytes: &mut std::str::Bytes<'_>) {
    while let Some(byte) = bytes.next() {
        match byte {
            b'\\' => _ = bytes.next(),
            b'"' => return,
            _ => {}
        }
    }
}

/// RFC 3339 with a `T`, as microseconds since the Unix epoch; finer digits are cut.
fn parse_time_us(text: &str) -> Option<i64> {
    // chrono also takes a blank between date and time.
    let separator = text.as_bytes().get(10)?;
    if !separator.eq_ignore_ascii_case(&b'T') {
        return None;
    }
    let time = DateTime::parse_from_rfc3339(text).ok()?.to_utc();
    // With its offset taken off, an instant may leave the years that RFC 3339 can write.
    (0..=9999).contains(&time.year()).then(|| time.timestamp_micros())
}

/// Makes UUIDv7s for one request: the first is random, those that follow count up from it, so that
/// they sort in request order and need no more randomness.
struct IdSource {
    next: Option<u128>,
}

impl IdSource {
    fn new() -> Self {
        IdSource { next: None }
    }

    fn next(&mut self) -> String {
        let id = self.next.unwrap_or_else(|| Uuid::now_v7().as_u128());
        // The last 62 bits are the random tail; above them lies the variant, which stays.
        let tail = (id as u64).wrapping_add(1) & (u64::MAX >> 2);
        self.next = Some(id & !u128::from(u64::MAX >> 2) | u128::from(tail));
        Uuid::from_u128(id).to_string()
    }
}
