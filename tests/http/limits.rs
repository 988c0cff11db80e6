//! Limits: size, depth, time and memory end in an answer, not in growth.

use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use heliostat::internals::log::{Fault, FaultyFiles, FileHandle, Files, LogOptions};
use heliostat::internals::model::Limits;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::{JSON, NDJSON, Server};

fn small() -> Limits {
    Limits {
        body_bytes_max: 100_000,
        event_bytes_max: 1000,
        request_events_max: 50,
        request_read_ms_max: 300,
        ..Limits::default()
    }
}

fn event_of(bytes: usize) -> String {
    let frame = r#"{"type":"T","data":{"x":""}}"#.len();
    format!(r#"{{"type":"T","data":{{"x":"{}"}}}}"#, "x".repeat(bytes - frame))
}

#[tokio::test]
async fn sizes_at_the_limit_pass_and_larger_ones_are_refused() {
    let server = Server::with_limits(small()).await;
    assert_eq!(server.post(JSON, event_of(1000)).await.status, 200);
    assert_eq!(server.post(JSON, event_of(1001)).await.problem_code(413), "too_large");
    let lines = |n: usize| format!("{}\n", event_of(100)).repeat(n);
    assert_eq!(server.post(NDJSON, lines(50)).await.status, 200);
    assert_eq!(server.post(NDJSON, lines(51)).await.problem_code(413), "too_large");
    let long = |n: usize| {
        let id = "i".repeat(n);
        format!(r#"{{"id":"{id}","type":"T","data":{{}}}}"#)
    };
    assert_eq!(server.post(JSON, long(255)).await.status, 200);
    assert_eq!(
        server.post(JSON, long(256)).await.problem(400),
        [("too_long".into(), "/id".into())]
    );
    server.still_serves().await;
}

#[tokio::test]
async fn a_body_past_the_limit_is_413_whether_its_length_is_announced_or_not() {
    let server = Server::with_limits(small()).await;
    let body = " ".repeat(5_000_000);
    assert_eq!(server.post(JSON, body.clone()).await.problem_code(413), "too_large");
    let chunks = (0..50).map(|_| Ok::<_, io::Error>(vec![b' '; 100_000]));
    let stream = reqwest::Body::wrap_stream(futures::stream::iter(chunks));
    assert_eq!(server.post(JSON, stream).await.problem_code(413), "too_large");
    server.still_serves().await;
}

#[tokio::test]
async fn a_compressed_body_counts_as_what_it_becomes() {
    let server = Server::with_limits(small()).await;
    let zeros = vec![b' '; 50_000_000];
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(&zeros).unwrap();
    let gzip = encoder.finish().unwrap();
    let zstd = zstd::encode_all(&zeros[..], 3).unwrap();
    assert!(gzip.len() < 100_000 && zstd.len() < 100_000, "{} {}", gzip.len(), zstd.len());
    for (coding, bomb) in [("gzip", gzip), ("zstd", zstd)] {
        let headers = [("content-type", NDJSON), ("content-encoding", coding)];
        let answer = server.post_to("/v1/events", &headers, bomb).await;
        assert_eq!(answer.problem_code(413), "too_large", "{coding}");
        let answer = server.post_to("/v1/events", &headers, "not compressed at all").await;
        assert_eq!(answer.problem_code(400), "bad_encoding", "{coding}");
    }
    server.still_serves().await;
}

#[tokio::test]
async fn a_compressed_body_that_is_cut_is_refused() {
    let server = Server::start().await;
    let events = "{\"type\":\"T\",\"data\":{}}\n".repeat(100);
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(events.as_bytes()).unwrap();
    let gzip = encoder.finish().unwrap();
    let zstd = zstd::encode_all(events.as_bytes(), 3).unwrap();
    for (coding, whole) in [("gzip", gzip), ("zstd", zstd)] {
        let headers = [("content-type", NDJSON), ("content-encoding", coding)];
        let cut = whole[..whole.len() - 5].to_vec();
        let answer = server.post_to("/v1/events", &headers, cut).await;
        assert_eq!(answer.problem_code(400), "bad_encoding", "{coding}");
        assert_eq!(server.post_to("/v1/events", &headers, whole).await.status, 200);
    }
}

#[tokio::test]
async fn json_may_nest_64_levels_deep() {
    let server = Server::start().await;
    // The envelope and `data` are the first two levels; brackets in text do not count.
    let event = |depth: usize| {
        let (open, close) = ("[".repeat(depth - 2), "]".repeat(depth - 2));
        format!(r#"{{"type":"T","data":{{"s":"[[\"{{","x":{open}{close}}}}}"#)
    };
    assert_eq!(server.post(JSON, event(64)).await.status, 200);
    assert_eq!(
        server.post(JSON, event(65)).await.problem(400),
        [("too_deep".into(), "/data".into())]
    );
    let (open, close) = ("[".repeat(400_000), "]".repeat(400_000));
    for body in [
        format!(r#"{{"type":"T","data":{{"x":{open}{close}}}}}"#),
        format!(r#"{{"type":"T","data":{{}},"extra":{open}{close}}}"#),
        format!(r#"{{"type":{open}{close},"data":{{}}}}"#),
        open.clone(),
        format!("{open}{close}"),
    ] {
        server.post(JSON, body).await.problem(400);
    }
    server.still_serves().await;
}

#[tokio::test]
async fn a_slow_body_is_408_and_a_slow_header_ends_the_connection() {
    let server = Server::with_limits(small()).await;
    let request = "POST /v1/events HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n";
    let answer = server.raw(format!("{request}content-length: 50\r\n\r\n{{").as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    assert!(answer.contains("application/problem+json") && answer.contains("too_slow"), "{answer}");
    assert_eq!(server.raw(request.as_bytes()).await, "");
    server.still_serves().await;
}

/// A connection with a request in progress, whose body is awaited.
async fn busy_connection(server: &Server) -> TcpStream {
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let head = "POST /v1/events HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n\
        content-length: 50\r\n\r\n{";
    stream.write_all(head.as_bytes()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    stream
}

/// Everything that a connection receives until it is closed.
async fn until_closed(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    let reading = stream.read_to_end(&mut answer);
    _ = tokio::time::timeout(Duration::from_secs(10), reading).await.expect("it is closed");
    String::from_utf8(answer).unwrap()
}

#[tokio::test]
async fn connections_past_the_limit_wait_while_requests_are_in_progress() {
    let limits = Limits { request_read_ms_max: 20_000, ..small() };
    let server = Server::with_limits(Limits { connections_max: 1, ..limits }).await;
    let held = busy_connection(&server).await;
    let waiting = server.get("/healthz");
    tokio::pin!(waiting);
    let early = tokio::time::timeout(Duration::from_millis(300), &mut waiting).await;
    assert!(early.is_err(), "the only connection is taken");
    drop(held);
    assert_eq!(waiting.await.status, 200);
}

#[tokio::test]
async fn idle_and_dripping_connections_make_way_for_new_ones() {
    let limits = Limits { request_read_ms_max: 20_000, ..Limits::default() };
    let server = Server::with_limits(Limits { connections_max: 2, ..limits.clone() }).await;
    let mut idle = TcpStream::connect(server.address).await.unwrap();
    let mut head = TcpStream::connect(server.address).await.unwrap();
    head.write_all(b"GET /healthz HTTP/1.1\r\nho").await.unwrap();
    let started = std::time::Instant::now();
    // Each of these takes a connection of its own, and keeps it.
    let mut others = Vec::new();
    for slow in [&mut idle, &mut head] {
        let client = heliostat::internals::http::client();
        let answer = client.get(server.url("/healthz")).send().await.unwrap();
        assert_eq!(answer.status(), 200);
        answer.text().await.unwrap();
        others.push(client);
        assert_eq!(until_closed(slow).await, "");
    }
    let server = Server::with_limits(Limits { connections_max: 1, ..limits }).await;
    let mut body = busy_connection(&server).await;
    server.still_serves().await;
    assert_eq!(until_closed(&mut body).await, "");
    assert!(started.elapsed() < Duration::from_secs(10), "nobody waits for their time limit");
}

#[tokio::test]
async fn address_with_too_many_connections_is_refused_with_the_reason() {
    let limits = Limits { request_read_ms_max: 20_000, address_connections_max: 2, ..small() };
    let server = Server::with_limits(limits).await;
    let _held = [busy_connection(&server).await, busy_connection(&server).await];
    let answer = server.raw(b"").await;
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.contains("content-type: application/problem+json"), "{head}");
    let problem: serde_json::Value = serde_json::from_str(body).unwrap();
    assert_eq!(problem["errors"][0]["code"], "too_many_connections");
    // Another address is served all the same.
    let client = reqwest::Client::builder().local_address(Some([127, 0, 0, 9].into()));
    let answer = client.build().unwrap().get(server.url("/metrics")).send().await.unwrap();
    let metrics = answer.text().await.unwrap();
    assert!(metrics.contains("heliostat_connections 3\n"), "{metrics}");
    assert!(metrics.contains("heliostat_connections_refused_total 1\n"), "{metrics}");
}

#[tokio::test]
async fn followers_take_no_places_of_readers() {
    let limits =
        Limits { connections_max: 1, event_followers_max: 2, event_streams_max: 1, ..small() };
    let server = Server::with_limits(limits).await;
    server.still_serves().await;
    let follow = async || {
        let client = heliostat::internals::http::client();
        let answer = client.get(server.url("/v1/events?follow=true")).send().await.unwrap();
        (answer.status().as_u16(), answer)
    };
    let [first, second] = [follow().await, follow().await];
    assert_eq!((first.0, second.0), (200, 200));
    let third = follow().await;
    assert_eq!(third.0, 429);
    assert_eq!(server.get("/v1/events").await.status, 200);
    server.still_serves().await;
    let metrics = server.get("/metrics").await.text;
    assert!(metrics.contains("heliostat_connections_following 2\n"), "{metrics}");
}

#[tokio::test]
async fn bodies_that_do_not_fit_into_memory_together_are_429() {
    let server = Server::with_limits(Limits { bodies_bytes_max: 1000, ..small() }).await;
    let answer = server.post(NDJSON, format!("{}\n", event_of(500)).repeat(3)).await;
    assert_eq!(answer.problem_code(429), "too_busy");
    assert_eq!(answer.header("retry-after"), "1");
    // A request gives back the bytes that it held, whether it succeeded or not.
    for _ in 0..5 {
        assert_eq!(server.post(JSON, event_of(900)).await.status, 200);
    }
}

/// Files whose `sync` waits until it is let through.
struct Gated {
    files: FaultyFiles,
    gate: Arc<Gate>,
}

struct GatedHandle {
    handle: Box<dyn FileHandle>,
    gate: Arc<Gate>,
}

/// Lets writers through to the disk or not, and knows whether one waits.
#[derive(Default)]
struct Gate {
    closed: Mutex<bool>,
    opened: Condvar,
    waits: AtomicBool,
}

impl Gate {
    fn close(&self) {
        *self.closed.lock().unwrap() = true;
    }

    fn open(&self) {
        *self.closed.lock().unwrap() = false;
        self.opened.notify_all();
    }

    fn pass(&self) {
        let closed = self.closed.lock().unwrap();
        self.waits.store(*closed, Ordering::SeqCst);
        drop(self.opened.wait_while(closed, |closed| *closed).unwrap());
    }
}

impl Files for Gated {
    fn list(&self) -> io::Result<Vec<String>> {
        self.files.list()
    }
    fn append(&self, name: &str) -> io::Result<Box<dyn FileHandle>> {
        let (handle, gate) = (self.files.append(name)?, Arc::clone(&self.gate));
        Ok(Box::new(GatedHandle { handle, gate }))
    }
    fn read_at(&self, name: &str, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        self.files.read_at(name, offset, buffer)
    }
    fn read_all(&self, name: &str) -> io::Result<Vec<u8>> {
        self.files.read_all(name)
    }
    fn len(&self, name: &str) -> io::Result<u64> {
        self.files.len(name)
    }
    fn rewrite(&self, name: &str, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.files.rewrite(name, offset, bytes)
    }

    fn truncate(&self, name: &str, len: u64) -> io::Result<()> {
        self.files.truncate(name, len)
    }
    fn remove(&self, name: &str) -> io::Result<()> {
        self.files.remove(name)
    }
    fn replace(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        self.files.replace(name, bytes)
    }
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.files.rename(from, to)
    }
}

impl FileHandle for GatedHandle {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.handle.write(bytes)
    }
    fn sync(&mut self) -> io::Result<()> {
        self.gate.pass();
        self.handle.sync()
    }
}

#[tokio::test]
async fn when_the_disk_is_behind_clients_get_429_and_nothing_accepted_is_lost() {
    let gate = Arc::new(Gate::default());
    let files = Gated { files: FaultyFiles::new(), gate: Arc::clone(&gate) };
    let options = LogOptions { queue_bytes_max: 2000, ..LogOptions::default() };
    let server = Server::with_files(Arc::new(files), options).await;
    server.still_serves().await;
    gate.close();
    let at_the_disk = server.post(JSON, event_of(900));
    let behind_it = async {
        while !gate.waits.load(Ordering::SeqCst) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        server.post(JSON, event_of(900)).await
    };
    let accepted = futures::future::join(at_the_disk, behind_it);
    let refused = async {
        // Once one is at the disk and the other waits, the queue is nearly full.
        while server.log.stats().queued_bytes == 0 || !gate.waits.load(Ordering::SeqCst) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let answer = server.post(NDJSON, format!("{}\n", event_of(900)).repeat(2)).await;
        gate.open();
        answer
    };
    let (accepted, refused) = tokio::join!(accepted, refused);
    assert_eq!(refused.problem_code(429), "too_busy");
    assert_eq!(refused.header("retry-after"), "1");
    assert_eq!((accepted.0.status, accepted.1.status), (200, 200));
    assert_eq!(server.log.head().position, 3);
    server.still_serves().await;
}

#[tokio::test]
async fn when_the_log_has_failed_clients_get_503_and_reading_goes_on() {
    let files = FaultyFiles::new();
    let server = Server::with_files(Arc::new(files.clone()), LogOptions::default()).await;
    server.still_serves().await;
    files.inject(Fault::SyncFails { n: 0 });
    for _ in 0..2 {
        let answer = server.post(JSON, event_of(100)).await;
        assert_eq!(answer.problem_code(503), "stopped");
        assert_eq!(answer.header("retry-after"), "5");
    }
    assert_eq!(server.get("/readyz").await.problem_code(503), "not_ready");
    assert_eq!(server.get("/healthz").await.status, 200);
    assert_eq!(server.get("/v1/events").await.lines().len(), 1);
}

#[tokio::test]
async fn when_the_disk_is_full_clients_get_507_until_there_is_room() {
    let files = FaultyFiles::new();
    let server = Server::with_files(Arc::new(files.clone()), LogOptions::default()).await;
    server.still_serves().await;
    files.inject(Fault::NoSpace { at: 10 });
    let answers = futures::future::join_all((0..5).map(|_| server.post(JSON, event_of(100)))).await;
    for answer in answers {
        assert_eq!(answer.problem_code(507), "insufficient_storage");
        assert_eq!(answer.header("retry-after"), "5");
    }
    assert_eq!(server.get("/readyz").await.problem_code(503), "not_ready");
    assert_eq!(server.get("/v1/events").await.lines().len(), 1);
    files.inject(Fault::NoSpace { at: u64::MAX });
    server.still_serves().await;
    assert_eq!(server.get("/readyz").await.status, 200);
    assert_eq!(server.get("/v1/events").await.lines().len(), 2);
}
