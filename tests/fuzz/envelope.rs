//! Bodies of `POST /v1/events` in every form that is taken: each is refused with a problem that says
//! where, or reads back from `GET /v1/events` as it was sent.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use chrono::DateTime;
use heliostat::internals::log::{FaultyFiles, LogOptions};
use heliostat::internals::model::json;
use reqwest::header::HeaderValue;
use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::rng::Rng;
use crate::support::{Answer, NDJSON, Server};
use crate::{Kept, corpus, long_run, mutate};

/// A server keeps its events in memory, so another one takes its place after so many cases.
const CASES_OF_A_SERVER: u64 = 1000;
/// The statuses that a request may be refused with.
const REFUSALS: [u16; 5] = [400, 409, 413, 415, 422];
/// Stands in the corpus for what is another text in each case, so that events are new.
const CASE: &str = "CASE";

/// A request as the corpus has it: headers, an empty line, and the body.
#[derive(Clone)]
struct Request {
    headers: Vec<(String, Vec<u8>)>,
    body: Vec<u8>,
}

impl Request {
    fn parse(file: &[u8], case: &str) -> Request {
        let end = file.windows(2).position(|two| two == b"\n\n").expect("an empty line");
        let case_of = |bytes: &[u8]| match std::str::from_utf8(bytes) {
            Ok(text) => text.replace(CASE, case).into_bytes(),
            Err(_) => bytes.to_vec(),
        };
        let headers = file[..end].split(|byte| *byte == b'\n').map(|line| {
            let colon = line.windows(2).position(|two| two == b": ").expect("a header");
            let name = String::from_utf8(line[..colon].to_vec()).unwrap();
            (name, case_of(&line[colon + 2..]))
        });
        Request { headers: headers.collect(), body: case_of(&file[end + 2..]) }
    }

    fn to_file(&self) -> Vec<u8> {
        let mut file = Vec::new();
        for (name, value) in &self.headers {
            file.extend([name.as_bytes(), b": ", value, b"\n"].concat());
        }
        file.push(b'\n');
        file.extend_from_slice(&self.body);
        file
    }

    fn mutate(&mut self, other: &Request, rng: &mut Rng) {
        for _ in 0..=rng.below(2) {
            if rng.one_in(4) {
                mutate::bytes(&mut self.body, &other.body, rng);
            } else {
                mutate::json(&mut self.body, rng);
            }
        }
        if rng.one_in(4) {
            let index = rng.below(self.headers.len() as u64) as usize;
            let mut value = self.headers[index].1.clone();
            mutate::bytes(&mut value, b"%00%ff%F0%9F\"\\0", rng);
            if HeaderValue::from_bytes(&value).is_ok() {
                self.headers[index].1 = value;
            }
        }
        if rng.one_in(16) {
            self.headers[0] = other.headers[0].clone();
        }
    }

    fn header(&self, name: &str) -> Option<&[u8]> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| &value[..])
    }

    /// The header's text, where no quotes or percent signs stand for something else.
    fn plain_header(&self, name: &str) -> Option<String> {
        let text = std::str::from_utf8(self.header(name)?).ok()?;
        (!text.contains(['%', '"', '\\'])).then(|| text.trim().to_string())
    }

    /// The events that a body in order has.
    fn events(&self) -> Vec<Event> {
        let body = std::str::from_utf8(&self.body).expect("only UTF-8 is accepted");
        let content_type = std::str::from_utf8(self.header("content-type").unwrap()).unwrap();
        let media_type = content_type.split(';').next().unwrap().trim().to_ascii_lowercase();
        match media_type.as_str() {
            "application/cloudevents+json" => vec![Event::of_cloudevent(body)],
            "application/cloudevents-batch+json" => items(body).map(Event::of_cloudevent).collect(),
            _ if self.header("ce-specversion").is_some() => vec![self.binary_event(body)],
            "application/x-ndjson" => {
                let lines = body.lines().filter(|line| !line.trim_ascii().is_empty());
                lines.map(Event::of_envelope).collect()
            }
            _ if body.trim_ascii_start().starts_with('[') => {
                items(body).map(Event::of_envelope).collect()
            }
            _ => vec![Event::of_envelope(body)],
        }
    }

    fn binary_event(&self, body: &str) -> Event {
        let data = if body.trim_ascii().is_empty() { "{}" } else { body };
        Event {
            id: self.plain_header("ce-id"),
            source: self.plain_header("ce-source"),
            event_type: self.plain_header("ce-type"),
            stream: self.plain_header("ce-subject"),
            data: compact(data),
            ..Event::default()
        }
    }
}

/// The members of a JSON object as they stand there, those that come twice included.
struct Members<'a>(Vec<(String, &'a str)>);

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some((name, value)) = map.next_entry::<String, &'de RawValue>()? {
                    members.push((name, value.get()));
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Object)
    }
}

/// The members of an object that was accepted, none of which may come twice; null is absent.
fn members(text: &str) -> BTreeMap<String, &str> {
    let Members(all) = serde_json::from_str(text).expect("only objects are accepted");
    let count = all.len();
    let mut members: BTreeMap<String, &str> = all.into_iter().collect();
    assert_eq!(members.len(), count, "a member that comes twice is accepted: {text}");
    members.retain(|_, value| *value != "null");
    members
}

fn items(body: &str) -> impl Iterator<Item = &str> {
    let items: Vec<&RawValue> = serde_json::from_str(body).expect("only JSON is accepted");
    items.into_iter().map(RawValue::get)
}

/// JSON without the blanks between its tokens.
fn compact(json: &str) -> String {
    let mut compact = String::new();
    let mut chars = json.chars();
    let mut quoted = false;
    while let Some(c) = chars.next() {
        match c {
            '\\' if quoted => {
                compact.push(c);
                compact.extend(chars.next());
                continue;
            }
            '"' => quoted = !quoted,
            ' ' | '\n' | '\r' | '\t' if !quoted => continue,
            _ => {}
        }
        compact.push(c);
    }
    compact
}

/// The compared parts of an event, as it was sent or as it is read back; `None` is not compared.
#[derive(Debug, Default)]
struct Event {
    id: Option<String>,
    source: Option<String>,
    event_type: Option<String>,
    stream: Option<String>,
    version: Option<String>,
    time_us: Option<i64>,
    data: String,
    metadata: Option<String>,
}

impl Event {
    fn of_envelope(text: &str) -> Event {
        let members = members(text);
        let known = |name: &str| members.get(name).copied();
        Event {
            id: known("id").map(text_of),
            source: Some(known("source").map(text_of).unwrap_or_default()),
            event_type: known("type").map(text_of),
            stream: known("stream").map(text_of),
            version: known("version").map(str::to_string),
            time_us: known("time").map(time_of),
            data: compact(known("data").expect("only events with data are accepted")),
            metadata: known("metadata").map(compact),
        }
    }

    fn of_cloudevent(text: &str) -> Event {
        let mut members = members(text);
        members.remove("expectedversion");
        assert_eq!(members.remove("specversion"), Some("\"1.0\""));
        let mut take = |name: &str| members.remove(name);
        let mut event = Event {
            id: take("id").map(text_of),
            source: take("source").map(text_of),
            event_type: take("type").map(text_of),
            stream: take("subject").map(text_of),
            version: take("dataversion").map(|version| version.trim_matches('"').to_string()),
            time_us: take("time").map(time_of),
            data: compact(take("data").unwrap_or("{}")),
            metadata: None,
        };
        let rest: Vec<String> =
            members.iter().map(|(name, value)| format!("\"{name}\":{value}")).collect();
        event.metadata = (!rest.is_empty()).then(|| format!("{{{}}}", rest.join(",")));
        event
    }

    /// Compares it with what `GET /v1/events` has for it; only the content where it was there before.
    fn check(&self, line: &str, is_new: bool) {
        let read = Event::of_envelope(line);
        let same = |sent: &Option<String>, read: &Option<String>| sent.is_none() || sent == read;
        assert!(same(&self.id, &read.id), "{self:?}\n{read:?}");
        assert!(same(&self.source, &read.source), "{self:?}\n{read:?}");
        assert!(same(&self.event_type, &read.event_type), "{self:?}\n{read:?}");
        assert!(same(&self.stream, &read.stream), "{self:?}\n{read:?}");
        assert!(same(&self.version, &read.version), "{self:?}\n{read:?}");
        if is_new {
            assert_eq!(self.data, read.data, "{line}");
            assert!(self.time_us.is_none() || self.time_us == read.time_us, "{self:?}\n{read:?}");
            assert!(same(&self.metadata, &read.metadata), "{self:?}\n{read:?}");
        } else {
            assert!(json::equal(self.data.as_bytes(), read.data.as_bytes()), "{self:?}\n{read:?}");
        }
    }
}

fn text_of(raw: &str) -> String {
    serde_json::from_str(raw).expect("only text is accepted")
}

fn time_of(raw: &str) -> i64 {
    DateTime::parse_from_rfc3339(&text_of(raw))
        .expect("only instants are accepted")
        .timestamp_micros()
}

/// A JSON pointer of RFC 6901: empty, or names after slashes, in which `~` is escaped.
fn is_pointer(text: &str) -> bool {
    let escaped = |tail: &str| tail.starts_with(['0', '1']);
    (text.is_empty() || text.starts_with('/')) && text.split('~').skip(1).all(escaped)
}

async fn events_behind(server: &Server, position: u64, count: usize) -> Vec<String> {
    let answer = server.get(&format!("/v1/events?after={position}&limit={count}")).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    answer.text.lines().map(str::to_string).collect()
}

/// Sends a request and checks the answer; true when its events are stored.
async fn check(server: &Server, request: &Request) -> bool {
    let mut post = server.client.post(server.url("/v1/events")).body(request.body.clone());
    for (name, value) in &request.headers {
        post = post.header(name, HeaderValue::from_bytes(value).unwrap());
    }
    let answer = Answer::of(post.send().await.expect("every request is answered")).await;
    if answer.status != 200 {
        assert!(REFUSALS.contains(&answer.status), "{}: {}", answer.status, answer.text);
        for (code, pointer) in answer.problem(answer.status) {
            assert!(is_pointer(&pointer), "{code}: {pointer} is no JSON pointer");
        }
        return false;
    }
    let accepted: Value = answer.json();
    let number = |name: &str| accepted[name].as_u64().unwrap();
    let events = request.events();
    assert_eq!(number("accepted") + number("duplicates"), events.len() as u64, "{accepted}");
    let is_new = number("duplicates") == 0;
    let mut lines = Vec::new();
    if is_new {
        assert_eq!(number("last_position") - number("first_position") + 1, events.len() as u64);
        lines = events_behind(server, number("first_position") - 1, events.len()).await;
    } else {
        for position in accepted["positions"].as_array().unwrap() {
            lines.extend(events_behind(server, position.as_u64().unwrap() - 1, 1).await);
        }
    }
    assert_eq!(lines.len(), events.len());
    events.iter().zip(&lines).for_each(|(event, line)| event.check(line, is_new));
    // Events that were read can be sent again, and are known as the same ones.
    let again = server.post(NDJSON, lines.join("\n")).await;
    assert_eq!((again.status, &again.json()["accepted"]), (200, &0.into()), "{}", again.text);
    true
}

async fn server() -> Server {
    Server::with_files(Arc::new(FaultyFiles::new()), LogOptions::default()).await
}

async fn run(seeds: impl Iterator<Item = u64>, end: Option<Instant>) {
    let corpus = corpus("envelope");
    let mut running = server().await;
    for (name, file) in &corpus {
        let _kept = Kept::new(&format!("envelope/{name}"), file);
        let stored = check(&running, &Request::parse(file, name)).await;
        assert!(stored || name.starts_with("found-"), "{name} is refused");
    }
    let (mut cases, mut stored) = (0, 0);
    for seed in seeds {
        if end.is_some_and(|end| Instant::now() >= end) {
            break;
        }
        let mut rng = Rng::new(seed);
        let mut pick = || {
            let index = rng.below(corpus.len() as u64) as usize;
            Request::parse(&corpus[index].1, &seed.to_string())
        };
        let (mut request, other) = (pick(), pick());
        request.mutate(&other, &mut rng);
        let _kept = Kept::new(&format!("envelope/{seed}"), &request.to_file());
        stored += u64::from(check(&running, &request).await);
        cases += 1;
        if cases % CASES_OF_A_SERVER == 0 {
            running.still_serves().await;
            running = server().await;
        }
    }
    println!("{cases} mutated requests, {stored} of them stored");
}

#[tokio::test]
async fn mutated_requests_are_problems_or_read_back_as_sent() {
    run(1..=8_000, None).await;
}

#[tokio::test]
#[ignore = "runs for an hour: make fuzz-input"]
async fn fuzz() {
    let (seeds, end) = long_run();
    run(seeds, Some(end)).await;
}
