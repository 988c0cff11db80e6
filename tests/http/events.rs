//! Reading the log back, and following it.

use std::time::Duration;

use futures::StreamExt;
use heliostat::internals::model::Limits;
use serde_json::Value;
use tokio::time::timeout;

use crate::support::{JSON, NDJSON, Server};

/// Lines of an answer that goes on.
pub struct Lines {
    response: reqwest::Response,
    buffer: Vec<u8>,
}

impl Lines {
    pub async fn open(server: &Server, path: &str) -> Lines {
        let response = server.client.get(server.url(path)).send().await.unwrap();
        assert_eq!(response.status(), 200);
        Lines { response, buffer: Vec::new() }
    }

    /// The next line; `None` at the end.
    pub async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                return Some(serde_json::from_slice(&line).unwrap());
            }
            let chunk = timeout(Duration::from_secs(10), self.response.chunk()).await;
            self.buffer.extend(chunk.expect("a line in time").unwrap()?);
        }
    }
}

fn numbered(numbers: std::ops::Range<u32>) -> String {
    let line = |n| {
        let event_type = if n % 10 == 0 { "Ten" } else { "Other" };
        format!("{{\"type\":\"{event_type}\",\"data\":{{\"n\":{n}}}}}\n")
    };
    numbers.map(line).collect()
}

#[tokio::test]
async fn a_part_of_the_log_is_read_by_position_limit_and_type() {
    let server = Server::start().await;
    for start in [0, 100, 200] {
        assert_eq!(server.post(NDJSON, numbered(start..start + 100)).await.status, 200);
    }
    let positions = |lines: Vec<Value>| -> Vec<u64> {
        lines.iter().map(|line| line["position"].as_u64().unwrap()).collect()
    };
    let get = |query: &'static str| async {
        let answer = server.get(query).await;
        assert_eq!(answer.header("heliostat-position"), "300");
        positions(answer.lines())
    };
    assert_eq!(get("/v1/events").await, (1..=300).collect::<Vec<_>>());
    assert_eq!(get("/v1/events?after=150&limit=3").await, [151, 152, 153]);
    assert_eq!(get("/v1/events?after=298").await, [299, 300]);
    assert_eq!(get("/v1/events?after=300").await, [0_u64; 0]);
    assert_eq!(get("/v1/events?after=1000").await, [0_u64; 0]);
    assert_eq!(get("/v1/events?after=95&limit=2&type=Ten").await, [101, 111]);
    assert_eq!(get("/v1/events?type=Ten&type=Other&after=290").await.len(), 10);
    assert_eq!(get("/v1/events?type=None").await, [0_u64; 0]);
    for query in ["after=x", "after=-1", "limit=0", "limit=x", "follow=maybe"] {
        let answer = server.get(&format!("/v1/events?{query}")).await;
        assert_eq!(answer.problem_code(400), "bad_parameter", "{query}");
    }
    assert_eq!(server.get("/v1/events?from=1").await.problem_code(400), "unknown_parameter");
}

#[tokio::test]
async fn following_gives_each_event_once_as_it_is_stored() {
    let server = Server::start().await;
    server.post(NDJSON, numbered(0..5)).await;
    let mut lines = Lines::open(&server, "/v1/events?after=3&follow=true").await;
    let mut expected = 4;
    while expected <= 60 {
        let line = lines.next().await.unwrap();
        assert_eq!(line["position"], expected);
        if expected >= 5 {
            server.post(JSON, numbered(expected..expected + 1)).await;
        }
        expected += 1;
    }
    // Events of other types are left out, and a limit ends the answer.
    let mut tens = Lines::open(&server, "/v1/events?after=61&follow=true&type=Ten&limit=2").await;
    server.post(NDJSON, numbered(1000..1030)).await;
    assert_eq!(tens.next().await.unwrap()["data"]["n"], 1000);
    assert_eq!(tens.next().await.unwrap()["data"]["n"], 1010);
    assert_eq!(tens.next().await, None);
}

#[tokio::test]
async fn a_long_log_is_read_whole_and_a_client_that_stops_reading_is_no_burden() {
    let server = Server::start().await;
    let filler = "x".repeat(1000);
    for request in 0..10 {
        let line = |n| format!("{{\"type\":\"T\",\"data\":{{\"n\":{n},\"f\":\"{filler}\"}}}}\n");
        let body: String = (0..4000).map(|n| line(request * 4000 + n)).collect();
        assert_eq!(server.post(NDJSON, body).await.status, 200);
    }
    let stuck = server.client.get(server.url("/v1/events")).send().await.unwrap();
    let before = resident_bytes();
    let more = (0..20).map(|_| server.client.get(server.url("/v1/events")).send());
    let more: Vec<_> = futures::future::join_all(more).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    // The log has 40 MB; 20 readers that hold it would show.
    let grown = resident_bytes().saturating_sub(before);
    assert!(grown < 400 << 20, "{grown} bytes for {} readers", more.len());
    drop(more);
    let mut stream = stuck.bytes_stream();
    let (mut count, mut bytes) = (0, 0);
    while let Some(chunk) = stream.next().await {
        let chunk = chunk.unwrap();
        bytes += chunk.len();
        count += chunk.iter().filter(|byte| **byte == b'\n').count();
    }
    assert_eq!(count, 40_000);
    assert!(bytes > 40_000_000);
    server.still_serves().await;
}

fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

#[tokio::test]
async fn a_follower_hears_that_nothing_happens() {
    let limits = Limits { follow_heartbeat_ms: 50, ..Limits::default() };
    let server = Server::with_limits(limits).await;
    let mut answer =
        server.client.get(server.url("/v1/events?follow=true&type=T")).send().await.unwrap();
    assert_eq!(&answer.chunk().await.unwrap().unwrap()[..], b"\n");
    server.post(JSON, r#"[{"type":"Other","data":{}},{"type":"T","data":{}}]"#).await;
    let line = loop {
        let chunk = answer.chunk().await.unwrap().unwrap();
        if &chunk[..] != b"\n" {
            break chunk;
        }
    };
    let event: serde_json::Value = serde_json::from_slice(&line).unwrap();
    assert_eq!((&event["type"], &event["position"]), (&"T".into(), &2.into()));
}
