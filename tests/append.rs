//! Many writers against a server that is killed again and again: no event is lost, none is stored
//! twice, versions are dense, and every answer that was given holds.
//!
//! `HELIOSTAT_APPEND_KILLS` sets how often the server is killed, `HELIOSTAT_APPEND_EVENTS` how many
//! events are posted three times each; the defaults suit every run of the tests.

mod common;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use common::rng::Rng;
use serde_json::{Value, json};

const CLIENTS: u64 = 16;
const STREAMS: u64 = 100;

fn from_env(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn seed() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let seed = from_env("HELIOSTAT_SEED", since.unwrap().as_nanos() as u64);
    println!("HELIOSTAT_SEED={seed}");
    seed
}

/// A server process, killed with the value that stands for it.
struct Server {
    child: Child,
    url: String,
}

impl Server {
    fn start(directory: &Path) -> Server {
        std::fs::create_dir_all(directory.join("queries")).unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_heliostat"))
            .args(["serve", "--no-clickhouse", "--listen", "127.0.0.1:0"])
            .args(["--data-dir", &directory.join("data").to_string_lossy()])
            .args(["--queries", &directory.join("queries").to_string_lossy()])
            .env("HELIOSTAT_LOG", "error")
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let url = common::addresses(&mut child, &directory.join("data")).http;
        Server { child, url }
    }

    async fn ready(&self, client: &reqwest::Client) {
        let end = Instant::now() + Duration::from_secs(60);
        while Instant::now() < end {
            let answer = client.get(format!("{}/readyz", self.url)).send().await;
            if answer.is_ok_and(|answer| answer.status().is_success()) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("the server does not get ready");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Where the server listens now: each start has another port.
type Url = Arc<Mutex<String>>;

/// Posts until there is a definite answer: after a lost connection the same request is sent again.
async fn post(client: &reqwest::Client, url: &Url, events: &[Value]) -> (u16, Value) {
    loop {
        let url = url.lock().unwrap().clone();
        let sent = client.post(format!("{url}/v1/events")).json(&events).send().await;
        if let Ok(answer) = sent {
            let status = answer.status().as_u16();
            if !matches!(status, 429 | 503)
                && let Ok(body) = answer.json::<Value>().await
            {
                return (status, body);
            }
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// The answers that a writer got.
#[derive(Default)]
struct History {
    /// Event id, position and stream version.
    stored: Vec<(String, u64, u64)>,
    /// Events of requests that were refused.
    refused: Vec<String>,
}

/// Appends to random streams with what it believes to be their versions, which often is wrong.
async fn write(url: Url, writer: u64, mut rng: Rng, stop: Arc<AtomicBool>) -> History {
    let client = heliostat::internals::http::client();
    let mut history = History::default();
    let mut believed: HashMap<u64, u64> = HashMap::new();
    let mut sequence = 0;
    while !stop.load(Ordering::Relaxed) {
        let streams: HashSet<u64> = (0..1 + rng.below(3)).map(|_| rng.below(STREAMS)).collect();
        let mut events = Vec::new();
        let mut expected_versions = Vec::new();
        for stream in streams {
            let mut version = believed.get(&stream).copied().unwrap_or(0);
            for n in 0..1 + rng.below(3) {
                sequence += 1;
                let mut event = json!({
                    "type": "Added", "id": format!("{writer}-{sequence}"),
                    "stream": format!("s{stream}"), "data": {"writer": writer, "n": sequence},
                });
                // Events after the first one of their stream may leave the version out.
                let expects = n == 0 || rng.below(2) == 0;
                if expects {
                    event["expected_version"] = json!(version);
                }
                version += 1;
                expected_versions.push(version);
                events.push(event);
            }
        }
        let (status, body) = post(&client, &url, &events).await;
        let ids = events.iter().map(|event| event["id"].as_str().unwrap().to_string());
        match status {
            200 => {
                let first = body["first_position"].as_u64().unwrap();
                for (index, (id, version)) in ids.zip(expected_versions).enumerate() {
                    let position = match body["positions"].get(index) {
                        Some(position) => position.as_u64().unwrap(),
                        None => first + index as u64,
                    };
                    history.stored.push((id, position, version));
                }
                for (stream, version) in body["streams"].as_object().unwrap() {
                    believed.insert(stream[1..].parse().unwrap(), version.as_u64().unwrap());
                }
            }
            409 => {
                history.refused.extend(ids);
                for error in body["errors"].as_array().unwrap() {
                    assert_eq!(error["code"], "version_conflict", "{body}");
                    let event = &events[error["index"].as_u64().unwrap() as usize];
                    let stream = event["stream"].as_str().unwrap()[1..].parse().unwrap();
                    believed.insert(stream, error["current_version"].as_u64().unwrap());
                }
            }
            status => panic!("{status}: {body}"),
        }
    }
    history
}

/// All events of the log, whose positions must be dense, and the versions of each stream, too.
async fn read_log(client: &reqwest::Client, url: &str) -> HashMap<String, (u64, u64)> {
    let mut found = HashMap::new();
    let mut versions: BTreeMap<String, Vec<(u64, String)>> = BTreeMap::new();
    let mut position = 0;
    loop {
        let page = format!("{url}/v1/events?after={position}&limit=20000");
        let text = client.get(page).send().await.unwrap().text().await.unwrap();
        if text.is_empty() {
            break;
        }
        for line in text.lines() {
            let event: Value = serde_json::from_str(line).unwrap();
            position += 1;
            assert_eq!(event["position"], position, "positions are dense");
            let id = event["id"].as_str().unwrap().to_string();
            let version = event["stream_version"].as_u64().unwrap();
            let stream = versions.entry(event["stream"].as_str().unwrap().to_string()).or_default();
            stream.push((version, id.clone()));
            assert_eq!(version, stream.len() as u64, "versions of {} are dense", event["stream"]);
            assert_eq!(found.insert(id, (position, version)), None, "twice in the log: {event}");
        }
    }
    for (stream, events) in versions {
        let read = format!("{url}/v1/streams/{stream}?limit=10000");
        let body: Value = client.get(read).send().await.unwrap().json().await.unwrap();
        let read: Vec<(u64, String)> = body["events"]
            .as_array()
            .unwrap()
            .iter()
            .map(|e| (e["stream_version"].as_u64().unwrap(), e["id"].as_str().unwrap().to_string()))
            .collect();
        assert_eq!(body["stream_version"], events.len());
        assert_eq!(read, events[..read.len()], "the stream {stream} is what the log says");
    }
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writers_agree_on_versions_while_the_server_is_killed() {
    let kills = from_env("HELIOSTAT_APPEND_KILLS", 5);
    let mut rng = Rng::new(seed());
    let directory = tempfile::tempdir().unwrap();
    let client = heliostat::internals::http::client();
    let mut server = Server::start(directory.path());
    server.ready(&client).await;
    let url = Arc::new(Mutex::new(server.url.clone()));
    let stop = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = (0..CLIENTS)
        .map(|writer| {
            let rng = Rng::new(rng.below(u64::MAX));
            tokio::spawn(write(Arc::clone(&url), writer, rng, Arc::clone(&stop)))
        })
        .collect();
    for _ in 0..kills {
        tokio::time::sleep(Duration::from_millis(300 + rng.below(1500))).await;
        drop(server);
        server = Server::start(directory.path());
        server.ready(&client).await;
        url.lock().unwrap().clone_from(&server.url);
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    stop.store(true, Ordering::Relaxed);
    let mut histories = Vec::new();
    for writer in writers {
        histories.push(writer.await.unwrap());
    }
    let log = read_log(&client, &server.url).await;
    let (mut stored, mut refused) = (0, 0);
    for history in &histories {
        for (id, position, version) in &history.stored {
            let found = log.get(id).unwrap_or_else(|| panic!("{id} at {position} was lost"));
            assert_eq!(found.0, *position, "{id} is where it was said to be");
            assert_eq!(found.1, *version, "{id} has the version that was expected");
        }
        for id in &history.refused {
            assert_eq!(log.get(id), None, "{id} was refused");
        }
        stored += history.stored.len();
        refused += history.refused.len();
    }
    println!("{kills} kills, {stored} events stored, {refused} refused");
    assert_eq!(log.len(), stored, "nothing is in the log that was not acknowledged in the end");
    assert!(stored > 100 && refused > 100, "{stored} stored, {refused} refused");
}

/// Ranges of events, each event in three of them, in an order that lets them overlap.
fn overlapping(count: u64, rng: &mut Rng) -> Vec<std::ops::Range<u64>> {
    let mut ranges = Vec::new();
    for _ in 0..3 {
        let mut at = 0;
        while at < count {
            let end = (at + 1 + rng.below(900)).min(count);
            ranges.push((at.saturating_add(rng.below(20_000)), at..end));
            at = end;
        }
    }
    ranges.sort_unstable_by_key(|(place, _)| *place);
    ranges.into_iter().map(|(_, range)| range).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_that_are_posted_three_times_are_stored_once() {
    let count = from_env("HELIOSTAT_APPEND_EVENTS", 40_000);
    let mut rng = Rng::new(seed());
    let directory = tempfile::tempdir().unwrap();
    let client = heliostat::internals::http::client();
    let server = Server::start(directory.path());
    server.ready(&client).await;
    let ranges = Arc::new(overlapping(count, &mut rng));
    let next = Arc::new(AtomicUsize::new(0));
    let accepted = Arc::new(AtomicU64::new(0));
    let places: Arc<Mutex<Vec<u64>>> = Arc::new(Mutex::new(vec![0; count as usize]));
    let started = Instant::now();
    let posters: Vec<_> = (0..8)
        .map(|_| {
            let (ranges, next) = (Arc::clone(&ranges), Arc::clone(&next));
            let (accepted, places) = (Arc::clone(&accepted), Arc::clone(&places));
            let (client, url) = (client.clone(), Arc::new(Mutex::new(server.url.clone())));
            tokio::spawn(async move {
                while let Some(range) = ranges.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let events: Vec<Value> = range
                        .clone()
                        .map(|n| json!({"type": "N", "id": n.to_string(), "source": "s", "data": {"n": n}}))
                        .collect();
                    let (status, body) = post(&client, &url, &events).await;
                    assert_eq!(status, 200, "{body}");
                    let sum = |name: &str| body[name].as_u64().unwrap();
                    assert_eq!(sum("accepted") + sum("duplicates"), events.len() as u64);
                    accepted.fetch_add(sum("accepted"), Ordering::Relaxed);
                    let mut places = places.lock().unwrap();
                    for (index, n) in range.clone().enumerate() {
                        let position = match body["positions"].get(index) {
                            Some(position) => position.as_u64().unwrap(),
                            None => sum("first_position") + index as u64,
                        };
                        let place = &mut places[n as usize];
                        assert!(*place == 0 || *place == position, "event {n}: {place}, {position}");
                        *place = position;
                    }
                }
            })
        })
        .collect();
    for poster in posters {
        poster.await.unwrap();
    }
    let seconds = started.elapsed().as_secs_f64();
    let rate = 3.0 * count as f64 / seconds / 1e3;
    println!("{count} events three times in {seconds:.1} s, {rate:.0} k events/s");
    assert_eq!(accepted.load(Ordering::Relaxed), count);
    let mut positions = places.lock().unwrap().clone();
    positions.sort_unstable();
    assert!(positions.into_iter().eq(1..=count), "all positions are taken, each once");
    let head = client.get(format!("{}/v1/events?limit=1", server.url)).send().await.unwrap();
    assert_eq!(head.headers()["heliostat-position"], count.to_string());
}
