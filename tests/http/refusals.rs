//! Requests that are refused: nothing of them is stored, and each says why.

use serde_json::json;

use crate::support::{JSON, NDJSON, Server};

/// One event's text, and the codes and pointers of everything that is wrong with it.
const BAD_EVENTS: &[(&str, &[(&str, &str)])] = &[
    ("", &[("not_json", "")]),
    ("{", &[("not_json", "")]),
    ("{}{}", &[("not_json", "")]),
    ("{'type':1}", &[("not_json", "")]),
    ("7", &[("not_an_event", "")]),
    ("\"text\"", &[("not_an_event", "")]),
    ("null", &[("not_an_event", "")]),
    ("{}", &[("missing_field", "/type"), ("missing_field", "/data")]),
    (r#"{"type":"","data":[]}"#, &[("out_of_range", "/type"), ("wrong_type", "/data")]),
    (r#"{"type":1,"data":"x"}"#, &[("wrong_type", "/type"), ("wrong_type", "/data")]),
    (r#"{"type":"\ud800","data":{}}"#, &[("wrong_type", "/type")]),
    (r#"{"type":"T","data":null}"#, &[("missing_field", "/data")]),
    (r#"{"type":"T","data":{},"metadata":[1]}"#, &[("wrong_type", "/metadata")]),
    (r#"{"type":"T","data":{},"extra/~":1}"#, &[("unknown_field", "/extra~1~0")]),
    (r#"{"type":"T","data":{},"data":{}}"#, &[("duplicate_field", "/data")]),
    (r#"{"type":"T","data":{},"id":""}"#, &[("out_of_range", "/id")]),
    (r#"{"type":"T","data":{},"id":5}"#, &[("wrong_type", "/id")]),
    (r#"{"type":"T","data":{},"stream":""}"#, &[("out_of_range", "/stream")]),
    (r#"{"type":"T","data":{},"version":0}"#, &[("out_of_range", "/version")]),
    (r#"{"type":"T","data":{},"version":"1"}"#, &[("out_of_range", "/version")]),
    (r#"{"type":"T","data":{},"version":1.5}"#, &[("out_of_range", "/version")]),
    (r#"{"type":"T","data":{},"version":4294967296}"#, &[("out_of_range", "/version")]),
    (r#"{"type":"T","data":{},"time":"2026-11-23"}"#, &[("bad_time", "/time")]),
    (r#"{"type":"T","data":{},"time":"2026-11-23T10:00:00"}"#, &[("bad_time", "/time")]),
    (r#"{"type":"T","data":{},"time":"2026-11-23 10:00:00Z"}"#, &[("bad_time", "/time")]),
    (r#"{"type":"T","data":{},"time":"2026-02-30T10:00:00Z"}"#, &[("bad_time", "/time")]),
    (r#"{"type":"T","data":{},"time":"0000-01-01T00:00:00+01:00"}"#, &[("bad_time", "/time")]),
    (r#"{"type":"T","data":{},"time":1795401808874}"#, &[("bad_time", "/time")]),
    (r#"{"type":"T","data":{},"expected_version":0}"#, &[("missing_field", "/stream")]),
];

#[tokio::test]
async fn invalid_events_are_refused_with_their_pointers() {
    let server = Server::start().await;
    for (text, expected) in BAD_EVENTS {
        let found = server.post(JSON, *text).await.problem(400);
        let found: Vec<_> = found.iter().map(|(c, p)| (c.as_str(), p.as_str())).collect();
        assert_eq!(&found, expected, "{text}");
    }
    assert_eq!(server.log.head().position, 0);
    server.still_serves().await;
}

#[tokio::test]
async fn an_array_is_stored_whole_or_not_at_all() {
    let server = Server::start().await;
    let body = r#"[{"type":"T","data":{}}, 5, {"type":"T"}, {"data":{}}]"#;
    let answer = server.post(JSON, body).await;
    answer.problem(400);
    let indexes: Vec<_> =
        answer.json()["errors"].as_array().unwrap().iter().map(|e| e["index"].clone()).collect();
    assert_eq!(indexes, [json!(1), json!(2), json!(3)]);
    let cut = server.post(JSON, r#"[{"type":"T","data":{}},{"type":"#).await;
    assert_eq!(cut.problem_code(400), "not_json");
    assert_eq!(cut.json()["errors"][0]["index"], 1);
    assert_eq!(server.post(JSON, "[] x").await.problem_code(400), "not_json");
    for (content_type, body) in [(JSON, "[]"), (NDJSON, ""), (NDJSON, "\n \n")] {
        assert_eq!(server.post(content_type, body).await.problem_code(400), "no_events");
    }
    let latin1 = b"{\"type\":\"\xe4\",\"data\":{}}".to_vec();
    assert_eq!(server.post(JSON, latin1).await.problem_code(400), "not_json");
    assert_eq!(server.log.head().position, 0);
    server.still_serves().await;
}

#[tokio::test]
async fn every_line_is_judged_and_a_hundred_errors_are_listed() {
    let server = Server::start().await;
    let lines: String = (0..150).map(|_| "{\"type\":\"T\",\"data\":{}}\nnonsense\n").collect();
    let answer = server.post(NDJSON, lines).await;
    assert_eq!(answer.problem(400).len(), 100);
    assert_eq!(answer.json()["errors"][1]["index"], 3);
    assert!(answer.json()["detail"].as_str().unwrap().contains("150"), "{}", answer.text);
    server.still_serves().await;
}

#[tokio::test]
async fn data_that_does_not_fit_its_schema_is_422() {
    let server = Server::start().await;
    let body = r#"{"id":"1","type":"OrderPlaced","data":{"orderId":"1","total":"1.00"}}
{"id":"1","type":"OrderPlaced","data":{"orderId":"1","total":1}}
{"id":"2","type":"OrderPlaced","data":{"orderId":2}}
{"id":"3","type":"OrderPlaced","version":2,"data":{}}"#;
    // The first two differ: a text is not a number.
    assert_eq!(server.post(NDJSON, body).await.problem_code(409), "id_conflict");
    let body = body.replace(r#""total":"1.00""#, r#""total":1.00"#);
    let answer = server.post(NDJSON, body).await;
    let expected = [("schema_violation", "/data/orderId"), ("schema_violation", "/data/total")];
    let expected = expected.map(|(code, pointer)| (code.to_string(), pointer.to_string()));
    assert_eq!(answer.problem(422), expected);
    // The index counts the request's events, the repeated one included.
    assert_eq!(answer.json()["errors"][0]["index"], 2);
    assert_eq!(server.log.head().position, 0);
    server.still_serves().await;
}

#[tokio::test]
async fn an_id_with_other_content_is_a_conflict() {
    let server = Server::start().await;
    let first = r#"{"id":"a","type":"T","data":{"x":1}}"#;
    for other in [
        r#"{"id":"a","type":"T","data":{"x":2}}"#,
        r#"{"id":"a","type":"U","data":{"x":1}}"#,
        r#"{"id":"a","type":"T","version":2,"data":{"x":1}}"#,
        r#"{"id":"a","type":"T","stream":"s","data":{"x":1}}"#,
    ] {
        let answer = server.post(JSON, format!("[{first},{other}]")).await;
        assert_eq!(answer.problem_code(409), "id_conflict", "{other}");
        assert_eq!(answer.json()["errors"][0]["index"], 1);
    }
    assert_eq!(server.log.head().position, 0);
    server.still_serves().await;
}

#[tokio::test]
async fn media_types_and_encodings_that_are_not_known_are_415() {
    let server = Server::start().await;
    let event = r#"{"type":"T","data":{}}"#;
    let cases: &[&[(&str, &str)]] = &[
        &[],
        &[("content-type", "text/plain")],
        &[("content-type", "application/x-www-form-urlencoded")],
        &[("content-type", "application/cloudevents+xml"), ("ce-specversion", "1.0")],
    ];
    for headers in cases {
        let answer = server.post_to("/v1/events", headers, event).await;
        assert_eq!(answer.problem_code(415), "bad_media_type", "{headers:?}");
    }
    let headers = [("content-type", JSON), ("content-encoding", "br")];
    let answer = server.post_to("/v1/events", &headers, event).await;
    assert_eq!(answer.problem_code(415), "bad_encoding");
    assert_eq!(answer.header("accept-encoding"), "gzip, zstd, identity");
    server.still_serves().await;
}

#[tokio::test]
async fn other_paths_methods_and_parameters_are_refused() {
    let server = Server::start().await;
    for path in ["/nothing", "/v1", "/v1/events/1", "/v1/views/orders/rows/1"] {
        assert_eq!(server.get(path).await.problem_code(404), "unknown_path", "{path}");
    }
    let delete = server.client.delete(server.url("/v1/events")).send().await.unwrap();
    let delete = crate::support::Answer::of(delete).await;
    assert_eq!(delete.problem_code(405), "wrong_method");
    let mut allowed: Vec<_> = delete.header("allow").split(',').collect();
    allowed.sort_unstable();
    assert_eq!(allowed, ["GET", "HEAD", "POST"]);
    let posted = server.post_to("/v1/views", &[], "").await;
    assert_eq!(posted.problem_code(405), "wrong_method");

    let event = r#"{"type":"T","data":{}}"#;
    for (query, code) in [
        ("wait=never", "bad_parameter"),
        ("wait=views&timeout=61s", "bad_parameter"),
        ("wait=views&timeout=5", "bad_parameter"),
        ("wait=views&timeout=-5s", "bad_parameter"),
        ("wait=views&wait=views", "bad_parameter"),
        ("wait=views&view=nothing", "unknown_view"),
        ("view=orders", "bad_parameter"),
        ("wate=views", "unknown_parameter"),
    ] {
        let path = format!("/v1/events?{query}");
        let answer = server.post_to(&path, &[("content-type", JSON)], event).await;
        assert_eq!(answer.problem_code(400), code, "{query}");
    }
    assert_eq!(server.log.head().position, 0);
    server.still_serves().await;
}
