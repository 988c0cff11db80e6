//! Streams, expected versions, identities and repeated requests.

use serde_json::{Value, json};

use crate::support::{Answer, JSON, Server};

async fn post(server: &Server, body: Value) -> Answer {
    server.post(JSON, body.to_string()).await
}

fn event(id: &str, stream: &str, expected: Option<u64>) -> Value {
    let mut event = json!({"id": id, "type": "T", "stream": stream, "data": {"id": id}});
    if let Some(expected) = expected {
        event["expected_version"] = json!(expected);
    }
    event
}

#[tokio::test]
async fn streams_have_dense_versions_that_writers_can_expect() {
    let server = Server::start().await;
    let two = post(&server, json!([event("a", "s/1 ä", Some(0)), event("b", "s/1 ä", None)])).await;
    assert_eq!(two.status, 200, "{}", two.text);
    assert_eq!(two.json()["streams"], json!({"s/1 ä": 2}));
    let more = json!([
        event("c", "s/1 ä", Some(2)),
        event("d", "t", Some(0)),
        event("e", "s/1 ä", Some(3)),
        event("f", "t", None),
    ]);
    let answer = post(&server, more).await;
    assert_eq!(answer.json()["streams"], json!({"s/1 ä": 4, "t": 2}), "{}", answer.text);

    let stream = server.get("/v1/streams/s%2F1%20%C3%A4").await;
    assert_eq!((stream.status, stream.header("etag")), (200, "\"4\""));
    let read = stream.json();
    assert_eq!((&read["stream"], &read["stream_version"]), (&json!("s/1 ä"), &json!(4)));
    let versions: Vec<_> = read["events"].as_array().unwrap().iter().collect();
    let ids: Vec<_> = versions.iter().map(|e| (&e["id"], e["stream_version"].as_u64())).collect();
    let wanted = ["a", "b", "c", "e"].map(|id| json!(id));
    assert_eq!(ids, wanted.iter().zip((1..).map(Some)).collect::<Vec<_>>());
    assert_eq!(versions[2]["position"], 3);

    let page = server.get("/v1/streams/s%2F1%20%C3%A4?from_version=2&limit=2").await.json();
    let ids: Vec<_> = page["events"].as_array().unwrap().iter().map(|e| &e["id"]).collect();
    assert_eq!((ids, &page["stream_version"]), (vec![&json!("b"), &json!("c")], &json!(4)));
    let behind = server.get("/v1/streams/t?from_version=3").await;
    assert_eq!((behind.status, &behind.json()["events"]), (200, &json!([])));
    assert_eq!(server.get("/v1/streams/nobody").await.problem_code(404), "stream_not_found");
    assert_eq!(server.get("/v1/streams/%FF").await.problem_code(400), "bad_path");
    assert_eq!(server.get("/v1/streams/t?limit=0").await.problem_code(400), "bad_parameter");
    let unchanged = server.client.get(server.url("/v1/streams/t")).header("if-none-match", "\"2\"");
    assert_eq!(unchanged.send().await.unwrap().status(), 304);
    let lines = server.get("/v1/events").await.lines();
    let versions: Vec<_> = lines.iter().map(|e| e["stream_version"].as_u64().unwrap()).collect();
    assert_eq!(versions, [1, 2, 3, 1, 4, 2]);
}

#[tokio::test]
async fn another_version_is_a_conflict_that_stores_nothing() {
    let server = Server::start().await;
    post(&server, json!([event("a", "s", None), event("b", "s", None)])).await;
    let check = async |events: Value, conflicts: &[(u64, u64)]| {
        let answer = post(&server, events).await;
        let codes = answer.problem(409);
        let codes: Vec<_> = codes.iter().map(|(c, p)| (c.as_str(), p.as_str())).collect();
        assert_eq!(codes, vec![("version_conflict", "/expected_version"); conflicts.len()]);
        let document = answer.json();
        let errors = document["errors"].as_array().unwrap();
        let found: Vec<_> = errors
            .iter()
            .map(|e| (e["index"].as_u64().unwrap(), e["current_version"].as_u64().unwrap()))
            .collect();
        assert_eq!(found, conflicts);
        assert_eq!(document["current_version"], conflicts[0].1);
        assert_eq!(server.log.head().position, 2);
    };
    check(json!(event("c", "s", Some(1))), &[(0, 2)]).await;
    check(json!(event("c", "s", Some(0))), &[(0, 2)]).await;
    check(json!(event("c", "new", Some(1))), &[(0, 0)]).await;
    // Earlier events of the request count; the other stream's events are not stored either.
    let request = json!([
        event("c", "t", Some(0)),
        event("d", "s", Some(2)),
        event("e", "s", Some(2)),
        event("f", "s", Some(9)),
        event("g", "t", Some(0)),
    ]);
    check(request, &[(2, 2), (4, 0)]).await;
    assert_eq!(server.get("/v1/streams/t").await.status, 404);

    let no_stream = json!({"type": "T", "data": {}, "expected_version": 0});
    assert_eq!(post(&server, no_stream).await.problem_code(400), "missing_field");
    for wrong in [json!(-1), json!("0"), json!(1.5)] {
        let mut event = event("c", "s", None);
        event["expected_version"] = wrong;
        assert_eq!(post(&server, event).await.problem_code(400), "out_of_range");
    }
}

#[tokio::test]
async fn an_event_that_is_sent_again_is_where_it_was() {
    let server = Server::start().await;
    post(&server, json!([event("a", "s", Some(0)), event("b", "s", Some(1))])).await;
    // Duplicates are recognised before their expected version is looked at.
    let mixed = json!([
        event("b", "s", Some(1)),
        event("c", "s", Some(2)),
        event("a", "s", Some(0)),
        event("c", "s", None),
    ]);
    let answer = post(&server, mixed.clone()).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    let body = answer.json();
    assert_eq!((&body["accepted"], &body["duplicates"]), (&json!(1), &json!(3)));
    assert_eq!(body["positions"], json!([2, 3, 1, 3]));
    assert_eq!((&body["first_position"], &body["last_position"]), (&json!(1), &json!(3)));
    assert_eq!(body["streams"], json!({"s": 3}));
    let again = post(&server, mixed).await.json();
    assert_eq!((&again["accepted"], &again["duplicates"]), (&json!(0), &json!(4)));
    assert_eq!((&again["positions"], &again["tick"]), (&body["positions"], &body["tick"]));
    // Equal as JSON values, spelled in another way, in other company.
    let spelled = r#"[{"data":{"\u0069d":"\u0061"},"stream":"s","type":"T","id":"a","time":"2020-01-01T00:00:00Z"},
        {"id":"d","type":"T","stream":"s","data":{"x":1.0}}]"#;
    assert_eq!(server.post(JSON, spelled).await.json()["positions"], json!([1, 4]));
    let other_source =
        json!({"id": "a", "source": "x", "type": "T", "stream": "s", "data": {"id": "a"}});
    assert_eq!(post(&server, other_source).await.json()["first_position"], 5);
}

#[tokio::test]
async fn an_id_with_other_content_is_a_conflict() {
    let server = Server::start().await;
    post(&server, event("a", "s", None)).await;
    let original = event("a", "s", None);
    for (member, value) in [
        ("type", json!("U")),
        ("version", json!(2)),
        ("stream", json!("t")),
        ("data", json!({"id": "b"})),
    ] {
        let mut other = original.clone();
        other[member] = value;
        let answer = post(&server, json!([event("z", "s", None), other])).await;
        assert_eq!(answer.problem(409), [("id_conflict".into(), "/id".into())], "{member}");
        assert_eq!(answer.json()["errors"][0]["index"], 1);
    }
    assert_eq!(server.log.head().position, 1);
    assert_eq!(post(&server, original).await.json()["duplicates"], 1);
}

#[tokio::test]
async fn one_of_the_writers_that_race_for_a_version_wins() {
    let server = Server::start().await;
    for round in 0..20_u64 {
        let posts = (0..16).map(|writer| {
            let id = format!("{round}-{writer}");
            let server = &server;
            async move { post(server, event(&id, "s", Some(round))).await }
        });
        let answers = futures::future::join_all(posts).await;
        let won = answers.iter().filter(|answer| answer.status == 200).count();
        assert_eq!(won, 1, "round {round}");
        for lost in answers.iter().filter(|answer| answer.status != 200) {
            assert_eq!(lost.problem_code(409), "version_conflict");
            assert_eq!(lost.json()["current_version"], round + 1);
        }
    }
}

#[tokio::test]
async fn the_same_event_from_many_writers_at_once_is_stored_once() {
    let server = Server::start().await;
    for round in 0..20_u64 {
        let id = round.to_string();
        let posts = (0..16).map(|_| post(&server, event(&id, "s", Some(round))));
        let answers = futures::future::join_all(posts).await;
        let bodies: Vec<Value> = answers.iter().map(Answer::json).collect();
        assert!(bodies.iter().all(|b| b["first_position"] == round + 1), "{bodies:?}");
        let accepted: u64 = bodies.iter().map(|b| b["accepted"].as_u64().unwrap()).sum();
        assert_eq!(accepted, 1);
    }
    assert_eq!(server.log.head().position, 20);
}

#[tokio::test]
async fn a_request_with_a_key_is_stored_once() {
    let server = Server::start().await;
    let send = async |key: &str, body: &str| {
        let headers = [("content-type", JSON), ("idempotency-key", key)];
        server.post_to("/v1/events", &headers, body.to_string()).await
    };
    let body = r#"[{"type":"T","data":{"n":1}},{"type":"T","stream":"s","data":{"n":2}}]"#;
    let first = send("\"k-1\"", body).await;
    assert_eq!((first.status, first.header("idempotency-replayed")), (200, ""));
    server.still_serves().await;
    let again = send("k-1", body).await;
    assert_eq!((again.status, again.header("idempotency-replayed")), (200, "true"));
    let (first, again) = (first.json(), again.json());
    for member in ["ids", "first_position", "last_position", "tick", "streams"] {
        assert_eq!(again[member], first[member], "{member}");
    }
    assert_eq!((&again["accepted"], &again["duplicates"]), (&json!(0), &json!(2)));
    assert_eq!(again["positions"], json!([1, 2]));
    assert_eq!(
        send("k-1", r#"{"type":"T","data":{}}"#).await.problem_code(422),
        "idempotency_key_reused"
    );
    let posts = (0..8).map(|_| send("k-2", body));
    for answer in futures::future::join_all(posts).await {
        assert_eq!((answer.status, &answer.json()["first_position"]), (200, &json!(4)));
    }
    assert_eq!(server.log.head().position, 5);
    // A key is remembered with what was stored, and not with what was refused.
    let conflict = r#"{"type":"T","stream":"s","expected_version":9,"data":{}}"#;
    assert_eq!(send("k-3", conflict).await.status, 409);
    assert_eq!(send("k-3", body).await.status, 200);
    for wrong in ["", "\"\"", &"x".repeat(256)] {
        assert_eq!(send(wrong, body).await.problem_code(400), "bad_idempotency_key");
    }
}
