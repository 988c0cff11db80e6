//! Events that are accepted.

use std::io::Write;

use serde_json::{Value, json};

use crate::support::{JSON, NDJSON, Server};

fn gzip(text: &str) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(text.as_bytes()).unwrap();
    encoder.finish().unwrap()
}

#[tokio::test]
async fn every_layout_and_encoding_is_stored_and_read_back() {
    let server = Server::start().await;
    let event = |n: u32| format!(r#"{{"id":"e{n}","type":"T","data":{{"n":{n}}}}}"#);
    let array = format!("[{}, {}]", event(2), event(3));
    let lines = format!("{}\r\n\n{}\n", event(4), event(5));
    let long = |n: u32| format!("{}\n{}", event(n), event(n + 1));
    let zstd = zstd::encode_all(long(8).as_bytes(), 3).unwrap();
    let answers = [
        server.post(JSON, event(1)).await,
        server.post("application/json; charset=utf-8", array).await,
        server.post(NDJSON, lines).await,
        server
            .post_to(
                "/v1/events",
                &[("content-type", NDJSON), ("content-encoding", "gzip")],
                gzip(&long(6)),
            )
            .await,
        server
            .post_to("/v1/events", &[("content-type", NDJSON), ("content-encoding", "zstd")], zstd)
            .await,
    ];
    let mut next = 1;
    for answer in &answers {
        assert_eq!(answer.status, 200, "{}", answer.text);
        let body = answer.json();
        let count = body["accepted"].as_u64().unwrap();
        assert_eq!(body["first_position"], next);
        assert_eq!(body["last_position"], next + count - 1);
        assert_eq!(body["duplicates"], 0);
        assert_eq!(body["tick"].as_u64().unwrap(), server_tick(&server, next).await);
        assert!(body.get("ids").is_none() && body.get("positions").is_none(), "{body}");
        next += count;
    }
    let read = server.get("/v1/events").await.lines();
    let numbers: Vec<_> = read.iter().map(|event| event["data"]["n"].as_u64().unwrap()).collect();
    assert_eq!(numbers, (1..=9).collect::<Vec<_>>());
}

async fn server_tick(server: &Server, position: u64) -> u64 {
    let path = format!("/v1/events?after={}&limit=1", position - 1);
    server.get(&path).await.lines()[0]["tick"].as_u64().unwrap()
}

#[tokio::test]
async fn an_event_comes_back_as_it_was_sent_and_can_be_sent_again() {
    let server = Server::start().await;
    let event = json!({
        "id": "01J", "source": "shop", "type": "OrderPaid", "version": 3, "stream": "order-42",
        "time": "2026-11-23T11:00:00.123456+01:00",
        "data": {"paymentMethod": "card", "ä": [1.50, {"b": null}]}, "metadata": {"trace": "x"},
    });
    // Line breaks between tokens are legal in JSON and must not break the lines of the answer.
    let pretty = serde_json::to_string_pretty(&event).unwrap();
    assert_eq!(server.post(JSON, pretty).await.status, 200);
    let read = server.get("/v1/events").await;
    assert_eq!(read.header("content-type"), NDJSON);
    assert_eq!(read.header("heliostat-position"), "1");
    let line = read.lines().remove(0);
    for member in ["id", "source", "type", "version", "stream", "data", "metadata"] {
        assert_eq!(line[member], event[member], "{member}");
    }
    assert_eq!(line["time"], "2026-11-23T10:00:00.123456Z");
    assert_eq!(line["position"], 1);
    let again = server.post(NDJSON, read.text.replace("01J", "01K")).await;
    assert_eq!(again.status, 200, "{}", again.text);
}

#[tokio::test]
async fn omitted_members_have_defaults() {
    let server = Server::start().await;
    let before = chrono::Utc::now();
    let body = r#"[{"type":"A","data":{}},{"type":"B","data":{},"id":"mine","stream":null},
                   {"type":"C","data":{}}]"#;
    let answer = server.post(JSON, body).await.json();
    let ids: Vec<&str> =
        answer["ids"].as_array().unwrap().iter().map(|id| id.as_str().unwrap()).collect();
    assert_eq!(ids[1], "mine");
    assert!(ids[0] < ids[2], "{ids:?}");
    assert_eq!(uuid::Uuid::parse_str(ids[0]).unwrap().get_version_num(), 7);
    let events = server.get("/v1/events").await.lines();
    for (event, id) in events.iter().zip(&ids) {
        assert_eq!(event["id"], *id);
        assert_eq!(event["version"], 1);
        assert!(event.get("stream").is_none() && event.get("source").is_none());
        let time = event["time"].as_str().unwrap().parse::<chrono::DateTime<chrono::Utc>>();
        let age = time.unwrap() - before;
        assert!(age.num_milliseconds().abs() < 60_000, "{event}");
    }
}

#[tokio::test]
async fn ids_that_the_server_made_are_told_of_few_events_or_on_request() {
    let server = Server::start().await;
    let post = async |path: &str, events: usize| {
        let body = r#"{"type":"A","data":{}}"#.to_string() + "\n";
        let answer = server.post_to(path, &[("content-type", NDJSON)], body.repeat(events)).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        answer.json()["ids"].as_array().map(Vec::len)
    };
    for (path, events, told) in [
        ("/v1/events", 100, Some(100)),
        ("/v1/events", 101, None),
        ("/v1/events?ids=true", 101, Some(101)),
        ("/v1/events?ids=false", 1, None),
    ] {
        assert_eq!(post(path, events).await, told, "{path}, {events}");
    }
    let mine = r#"{"type":"A","data":{},"id":"mine"}"#;
    let answer = server.post_to("/v1/events?ids=true", &[("content-type", JSON)], mine).await;
    assert!(answer.json().get("ids").is_none(), "{}", answer.text);
    let wrong = server.post_to("/v1/events?ids=1", &[("content-type", JSON)], mine).await;
    assert_eq!(wrong.problem_code(400), "bad_parameter");
}

#[tokio::test]
async fn an_event_twice_in_a_request_is_stored_once() {
    let server = Server::start().await;
    let body = r#"{"id":"a","type":"T","stream":"s","data":{"x":1,"y":[2.0]}}
{"id":"b","type":"T","data":{}}
{"id":"a","type":"T","stream":"s","data":{"y":[2],"x":1.0},"metadata":{"retry":true}}
{"id":"a","source":"other","type":"T","data":{}}
{"id":"b","type":"T","data":{ }}"#;
    let answer = server.post(NDJSON, body).await.json();
    assert_eq!((&answer["accepted"], &answer["duplicates"]), (&json!(3), &json!(2)));
    assert_eq!(answer["positions"], json!([1, 2, 1, 3, 2]));
    assert_eq!((&answer["first_position"], &answer["last_position"]), (&json!(1), &json!(3)));
    assert_eq!(server.log.head().position, 3);
}

#[tokio::test]
async fn wait_answers_when_the_view_shows_it() {
    let server = Server::start().await;
    let order = r#"{"type":"OrderPlaced","data":{"orderId":"1","total":"9.90"}}"#;
    let post = |path: &'static str| server.post_to(path, &[("content-type", JSON)], order);

    // Late: the event is stored all the same, and the answer says which view lacks it.
    let late = post("/v1/events?wait=views&timeout=50ms").await;
    assert_eq!(late.status, 202, "{}", late.text);
    assert_eq!(late.json()["waiting_for"], json!([{"view": "orders", "status": "live"}]));
    assert_eq!(late.json()["last_position"], 1);

    let show = async {
        while server.log.head().position < 2 {
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
        server.backend.shown.send_replace(2);
    };
    let (shown, ()) = tokio::join!(post("/v1/events?wait=views&view=orders&timeout=30s"), show);
    assert_eq!(shown.status, 200, "{}", shown.text);
    assert_eq!(shown.json().get("waiting_for"), None::<&Value>);

    let clickhouse = post("/v1/events?wait=clickhouse&timeout=0s").await;
    assert_eq!(clickhouse.status, 202);
    let statuses = server.backend.statuses.load(std::sync::atomic::Ordering::Relaxed);
    assert_eq!(statuses, 0, "an append asks for no more than where the views stand");
    // A view that does not read the type is not waited for.
    let headers = [("content-type", JSON)];
    let path = "/v1/events?wait=views&timeout=60s";
    let other = server.post_to(path, &headers, r#"{"type":"Other","data":{}}"#).await;
    assert_eq!(other.status, 200);
    server.still_serves().await;
}

#[tokio::test]
async fn wait_does_not_wait_for_a_view_that_is_not_live() {
    let server = Server::start().await;
    *server.backend.state.lock().unwrap() = heliostat::internals::http::ViewState::CatchingUp;
    let order = r#"{"type":"OrderPlaced","data":{"orderId":"1","total":1}}"#;
    let headers = [("content-type", JSON)];
    let path = "/v1/events?wait=views&view=orders&timeout=60s";
    let named = server.post_to(path, &headers, order).await;
    assert_eq!(named.status, 202);
    assert_eq!(named.json()["waiting_for"], json!([{"view": "orders", "status": "catching_up"}]));
    assert_eq!(server.post_to("/v1/events?wait=views", &headers, order).await.status, 200);
}

#[tokio::test]
async fn many_clients_get_dense_positions_of_their_own() {
    let server = Server::start().await;
    let posts = (0..32).map(|client| {
        let server = &server;
        async move {
            let body: String = (0..20)
                .map(|n| format!("{{\"type\":\"T\",\"data\":{{\"client\":{client},\"n\":{n}}}}}\n"))
                .collect();
            let answer = server.post(NDJSON, body).await;
            assert_eq!(answer.status, 200);
            let body = answer.json();
            (body["first_position"].as_u64().unwrap(), body["last_position"].as_u64().unwrap())
        }
    });
    let mut ranges = futures::future::join_all(posts).await;
    ranges.sort_unstable();
    for (index, (first, last)) in ranges.into_iter().enumerate() {
        assert_eq!((first, last), (index as u64 * 20 + 1, index as u64 * 20 + 20));
    }
    let events = server.get("/v1/events").await.lines();
    let clients: Vec<_> = events.iter().map(|event| event["data"]["client"].clone()).collect();
    assert!(clients.chunks(20).all(|chunk| chunk.iter().all(|client| *client == chunk[0])));
}
