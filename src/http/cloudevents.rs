//! CloudEvents 1.0: from its JSON format and its HTTP headers to our envelope.
//!
//! `subject` is the stream, the extensions `dataversion` and `expectedversion` are what their names
//! say, and attributes that the envelope has no member for go to the metadata.

use std::borrow::Cow;
use std::fmt;

use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, StatusCode};
use percent_encoding::percent_decode;
use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::problem::Problem;
use crate::model::json::{self, string};

/// The code of data that is not JSON, which is answered with 415.
pub const NOT_JSON_DATA: &str = "data_not_json";

/// Attributes that have a member in the envelope, and that member.
const MEMBERS: [(&str, &str); 7] = [
    ("id", "id"),
    ("source", "source"),
    ("type", "type"),
    ("time", "time"),
    ("subject", "stream"),
    ("dataversion", "version"),
    ("expectedversion", "expected_version"),
];

/// An error in an event: code, pointer, message.
pub type AttributeFault = (&'static str, String, String);

/// The pointer to the attribute that a member of the envelope was made from.
pub fn pointer(envelope_pointer: &str) -> String {
    let member = envelope_pointer.trim_start_matches('/');
    match MEMBERS.iter().find(|(_, known)| *known == member) {
        Some((attribute, _)) => format!("/{attribute}"),
        None => envelope_pointer.to_string(),
    }
}

/// The envelope of an event in the JSON format, as JSON.
pub fn envelope(text: &str) -> Result<String, Vec<AttributeFault>> {
    let attributes = match serde_json::from_str(text) {
        Ok(Attributes(attributes)) => attributes,
        Err(error) => {
            let code = if error.is_data() { "not_an_event" } else { "not_json" };
            return Err(vec![(code, String::new(), error.to_string())]);
        }
    };
    let mut reading = EnvelopeReading::default();
    for twice in attributes.windows(2).filter(|pair| pair[0].0 == pair[1].0) {
        let name = &twice[0].0;
        let pointer = json::pointer_token(name);
        reading.fault("duplicate_field", &pointer, format!("{name} is given twice"));
    }
    for (name, value) in attributes.iter().filter(|(_, value)| value.get() != "null") {
        reading.attribute(name, value.get());
    }
    let given = |name: &str| attributes.iter().any(|(n, value)| n == name && value.get() != "null");
    for required in ["specversion", "id", "source", "type"] {
        if !given(required) {
            reading.fault("missing_field", required, format!("{required} is required"));
        }
    }
    if !given("data") && !given("data_base64") {
        // An event without data is one in CloudEvents; here its data has no members.
        reading.member("data", "{}");
    }
    reading.finish()
}

/// The attributes of an event and their values, in the order of the names. Two of the same name are
/// both there.
struct Attributes<'a>(Vec<(String, &'a RawValue)>);

impl<'de> Deserialize<'de> for Attributes<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct AttributesVisitor;
        impl<'de> Visitor<'de> for AttributesVisitor {
            type Value = Attributes<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an event, which is an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut attributes = Vec::new();
                while let Some(attribute) = map.next_entry()? {
                    attributes.push(attribute);
                }
                attributes.sort_by(|(a, _), (b, _): &(String, &RawValue)| a.cmp(b));
                Ok(Attributes(attributes))
            }
        }
        deserializer.deserialize_map(AttributesVisitor)
    }
}

/// The envelope in the making.
#[derive(Default)]
struct EnvelopeReading<'a> {
    members: Vec<(&'a str, &'a str)>,
    metadata: Vec<(&'a str, &'a str)>,
    faults: Vec<AttributeFault>,
}

impl<'a> EnvelopeReading<'a> {
    fn fault(&mut self, code: &'static str, name: &str, message: String) {
        self.faults.push((code, format!("/{name}"), message));
    }

    fn member(&mut self, name: &'a str, value: &'a str) {
        self.members.push((name, value));
    }

    /// An attribute and its value, as JSON.
    fn attribute(&mut self, name: &'a str, value: &'a str) {
        if let Some((_, member)) = MEMBERS.iter().find(|(attribute, _)| *attribute == name) {
            let numeric = matches!(name, "dataversion" | "expectedversion");
            // In headers, and in some SDKs, every extension is text.
            let value = if numeric { digits(value).unwrap_or(value) } else { value };
            if name == "source" && value == "\"\"" {
                self.fault("out_of_range", name, "source is empty".to_string());
            }
            return self.member(member, value);
        }
        match name {
            "specversion" => {
                if value != "\"1.0\"" {
                    let message = format!("specversion: expected \"1.0\", got {value}");
                    self.fault("out_of_range", name, message);
                }
            }
            "data" => self.member("data", value),
            "data_base64" => {
                let message = "data_base64: data is stored as JSON: send it as data".to_string();
                self.fault(NOT_JSON_DATA, name, message);
            }
            "datacontenttype" => {
                if !string(value).is_some_and(|text| is_json(&text)) {
                    let message = format!("datacontenttype: expected a JSON type, got {value}");
                    self.fault(NOT_JSON_DATA, name, message);
                }
                self.metadata.push((name, value));
            }
            _ => self.extension(name, value),
        }
    }

    fn extension(&mut self, name: &'a str, value: &'a str) {
        let lower = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        if name.is_empty() || !name.bytes().all(lower) {
            let message = format!("{name:?} is not an attribute's name: those are of a-z and 0-9");
            self.fault("unknown_field", &json::pointer_token(name), message);
        } else if value.starts_with(['{', '[']) {
            let message = format!("{name}: expected text, a number or a boolean");
            self.fault("wrong_type", name, message);
        } else {
            self.metadata.push((name, value));
        }
    }

    fn finish(self) -> Result<String, Vec<AttributeFault>> {
        if !self.faults.is_empty() {
            return Err(self.faults);
        }
        let object = |members: &[(&str, &str)]| {
            let members: Vec<String> =
                members.iter().map(|(name, value)| format!("\"{name}\":{value}")).collect();
            format!("{{{}}}", members.join(","))
        };
        let metadata = object(&self.metadata);
        let mut members = self.members;
        if !self.metadata.is_empty() {
            members.push(("metadata", &metadata));
        }
        Ok(object(&members))
    }
}

/// The number in a text of digits.
fn digits(value: &str) -> Option<&str> {
    let inner = value.strip_prefix('"')?.strip_suffix('"')?;
    let digits = !inner.is_empty() && inner.bytes().all(|byte| byte.is_ascii_digit());
    // JSON has no leading zeros.
    (digits && (inner == "0" || !inner.starts_with('0'))).then_some(inner)
}

/// Whether a media type is one of JSON.
fn is_json(media_type: &str) -> bool {
    let essence = media_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    matches!(essence.as_str(), "application/json" | "text/json") || essence.ends_with("+json")
}

/// The attributes in the headers of an event in binary mode, as the members of a JSON object
/// without its braces.
pub fn header_attributes(headers: &HeaderMap) -> Result<String, Problem> {
    let mut members = Vec::new();
    for (name, value) in headers {
        let Some(name) = name.as_str().strip_prefix("ce-") else { continue };
        let Some(text) = header_text(value.as_bytes()) else {
            let message = format!("ce-{name}: the value is not UTF-8 once it is percent-decoded");
            return Err(Problem::bad_request("bad_header", message));
        };
        if matches!(name, "data" | "data_base64" | "datacontenttype") {
            let message = format!("ce-{name}: not a header of CloudEvents");
            return Err(Problem::bad_request("bad_header", message));
        }
        members.push(format!("{}:{}", quoted(name), quoted(&text)));
    }
    if let Some(content_type) = headers.get(CONTENT_TYPE) {
        let content_type = String::from_utf8_lossy(content_type.as_bytes());
        if !is_json(&content_type) {
            let message = format!("the data of an event is JSON, got {content_type}");
            let status = StatusCode::UNSUPPORTED_MEDIA_TYPE;
            return Err(Problem::new(status, NOT_JSON_DATA, message));
        }
        members.push(format!("\"datacontenttype\":{}", quoted(&content_type)));
    }
    Ok(members.join(","))
}

/// The JSON format of an event in binary mode.
pub fn from_binary(attributes: &str, body: &str) -> Result<String, Problem> {
    if body.trim_ascii().is_empty() {
        return Ok(format!("{{{attributes}}}"));
    }
    // A body that is not one JSON value is refused: pasted below, it could add members to the event.
    serde_json::from_str::<&RawValue>(body)
        .map_err(|error| Problem::bad_request("not_json", error.to_string()))?;
    Ok(format!("{{{attributes},\"data\":{body}}}"))
}

fn quoted(text: &str) -> String {
    serde_json::to_string(text).unwrap_or_default()
}

/// A header's value: the quotes of a quoted string are taken off with its escapes, then it is
/// percent-decoded once. `None` if that is not UTF-8.
fn header_text(value: &[u8]) -> Option<String> {
    let inner = value.strip_prefix(b"\"").and_then(|v| v.strip_suffix(b"\""));
    let unquoted = inner.map_or(Cow::Borrowed(value), |inner| Cow::Owned(unescaped(inner)));
    percent_decode(&unquoted).decode_utf8().ok().map(Cow::into_owned)
}

/// The inside of a quoted string, where a backslash stands before what is meant as it is.
fn unescaped(inner: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(inner.len());
    let mut rest = inner.iter();
    while let Some(byte) = rest.next() {
        let escaped = if *byte == b'\\' { rest.next() } else { None };
        bytes.push(*escaped.unwrap_or(byte));
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_values_are_decoded() {
        for (value, text) in [
            ("plain", "plain"),
            ("Euro%20%E2%82%AC%20%F0%9F%98%80", "Euro € 😀"),
            ("100%", "100%"),
            ("%2x", "%2x"),
            ("\"a \\\"b\\\" %41\"", "a \"b\" A"),
            ("\"a\\\\b\\%41\"", "a\\bA"),
            ("%2541", "%41"),
        ] {
            assert_eq!(header_text(value.as_bytes()).as_deref(), Some(text), "{value}");
        }
        assert_eq!(header_text(b"%FF"), None);
    }
}
