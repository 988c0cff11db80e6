//! CloudEvents 1.0 in its three modes.

use serde_json::{Value, json};

use crate::support::{JSON, Server};

const ONE: &str = "application/cloudevents+json; charset=utf-8";
const MANY: &str = "application/cloudevents-batch+json";

fn event(id: &str) -> Value {
    json!({"specversion": "1.0", "id": id, "source": "/shop", "type": "com.example.paid", "data": {"n": 1}})
}

#[tokio::test]
async fn attributes_become_members_and_the_rest_metadata() {
    let server = Server::start().await;
    let full = json!({
        "specversion": "1.0", "id": "a", "source": "/shop", "type": "com.example.paid",
        "subject": "order/1", "time": "2026-11-23T10:00:00+01:00", "dataversion": 2, "expectedversion": "0",
        "datacontenttype": "application/vnd.x+json", "dataschema": "urn:x", "traceparent": "00-1", "sampled": true,
        "data": {"method": "card"},
    });
    let answer = server.post(ONE, full.to_string()).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    assert_eq!(answer.json()["streams"], json!({"order/1": 1}));
    assert_eq!(server.post(MANY, json!([event("b"), event("c")]).to_string()).await.status, 200);
    let headers = [
        ("ce-specversion", "1.0"),
        ("ce-id", "d"),
        ("ce-source", "/shop"),
        ("ce-type", "com.example.paid"),
        ("ce-subject", "order/%F0%9F%98%80%20%31"),
        ("ce-expectedversion", "0"),
        ("ce-dataversion", "3"),
        ("ce-traceparent", "00-2"),
        ("content-type", JSON),
    ];
    let answer = server.post_to("/v1/events", &headers, r#"{"method":"cash"}"#).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    let mut no_data = event("e");
    no_data.as_object_mut().unwrap().remove("data");
    assert_eq!(server.post(ONE, no_data.to_string()).await.status, 200);

    let events = server.get("/v1/events").await.lines();
    let first = &events[0];
    for (member, value) in [
        ("id", json!("a")),
        ("source", json!("/shop")),
        ("type", json!("com.example.paid")),
        ("stream", json!("order/1")),
        ("stream_version", json!(1)),
        ("version", json!(2)),
        ("time", json!("2026-11-23T09:00:00Z")),
        ("data", json!({"method": "card"})),
    ] {
        assert_eq!(first[member], value, "{member}");
    }
    let metadata = json!({"datacontenttype": "application/vnd.x+json", "dataschema": "urn:x",
        "traceparent": "00-1", "sampled": true});
    assert_eq!(first["metadata"], metadata);
    assert_eq!((&events[1]["id"], &events[2]["id"]), (&json!("b"), &json!("c")));
    assert_eq!((&events[3]["stream"], &events[3]["version"]), (&json!("order/😀 1"), &json!(3)));
    assert_eq!(events[3]["metadata"]["traceparent"], "00-2");
    assert_eq!(events[3]["data"], json!({"method": "cash"}));
    assert_eq!(events[4]["data"], json!({}));
    // An event that is sent in another mode is known as the same one.
    let headers = [
        ("ce-specversion", "1.0"),
        ("ce-id", "b"),
        ("ce-source", "/shop"),
        ("ce-type", "com.example.paid"),
    ];
    let again = server.post_to("/v1/events", &headers, r#"{ "n": 1.0 }"#).await;
    assert_eq!(again.json()["positions"], json!([2]), "{}", again.text);
}

#[tokio::test]
async fn invalid_cloudevents_are_refused_with_their_attribute() {
    let server = Server::start().await;
    let with = |name: &str, value: Value| {
        let mut event = event("x");
        event[name] = value;
        event
    };
    for (event, status, code, pointer) in [
        (with("specversion", json!("0.3")), 400, "out_of_range", "/specversion"),
        (with("id", Value::Null), 400, "missing_field", "/id"),
        (with("source", json!("")), 400, "out_of_range", "/source"),
        (with("type", json!(1)), 400, "wrong_type", "/type"),
        (with("subject", json!("")), 400, "out_of_range", "/subject"),
        (with("dataversion", json!("new")), 400, "out_of_range", "/dataversion"),
        (with("expectedversion", json!(1)), 400, "missing_field", "/subject"),
        (with("time", json!("yesterday")), 400, "bad_time", "/time"),
        (with("data", json!([1])), 400, "wrong_type", "/data"),
        (with("traceParent", json!("x")), 400, "unknown_field", "/traceParent"),
        (with("trace", json!({"x": 1})), 400, "wrong_type", "/trace"),
        (with("datacontenttype", json!("text/plain")), 415, "data_not_json", "/datacontenttype"),
        (with("data_base64", json!("AA==")), 415, "data_not_json", "/data_base64"),
    ] {
        let answer = server.post(ONE, event.to_string()).await;
        assert_eq!(answer.problem(status), [(code.into(), pointer.into())], "{event}");
    }
    let binary = |content_type: &'static str, body: &'static str| {
        let headers = [
            ("ce-specversion", "1.0"),
            ("ce-id", "d"),
            ("ce-source", "/shop"),
            ("ce-type", "t"),
            ("content-type", content_type),
        ];
        let server = &server;
        async move { server.post_to("/v1/events", &headers, body).await }
    };
    assert_eq!(binary("text/plain", "hello").await.problem_code(415), "data_not_json");
    assert_eq!(binary(JSON, r#"{},"id":"other""#).await.problem_code(400), "not_json");
    assert_eq!(binary(JSON, "[]").await.problem_code(400), "wrong_type");
    assert_eq!(server.log.head().position, 0);
    server.still_serves().await;
}
