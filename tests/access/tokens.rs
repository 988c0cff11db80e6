//! Tokens of the data directory: roles, and what they are narrowed to.

use heliostat::internals::http::client;
use reqwest::Method;
use serde_json::{Value, json};

use crate::{EXPECTED, NARROWED, ask, create, get, operations, post, server, status};

#[tokio::test]
async fn every_endpoint_asks_for_a_token_of_the_right_role() {
    let (server, admin) = server().await;
    let data = server.data();
    let write = create(&data, &["--role", "write"]);
    let read = create(&data, &["--role", "read"]);
    let follow = create(&data, &["--role", "follow"]);
    let expired = create(&data, &["--role", "admin", "--name", "old", "--expires", "0s"]);
    let revoked = create(&data, &["--role", "admin", "--name", "gone"]);
    let narrowed = NARROWED.map(|(arguments, expected)| (create(&data, arguments), expected));
    let heliostat = |arguments: &[&str]| {
        let output = server.command(arguments);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let directory = data.to_str().unwrap();
    heliostat(&["token", "revoke", "gone", "--data-dir", directory]);
    let list = heliostat(&["token", "list", "--data-dir", directory]);
    assert!(list.contains("ops: role admin") && list.contains("old: ") && list.contains("expired"));
    assert!(!list.contains("gone") && !list.contains(&admin), "{list}");
    tokio::time::sleep(std::time::Duration::from_millis(200)).await;

    for (at, (operation, expected)) in operations().iter().zip(EXPECTED).enumerate() {
        for nobody in [None, Some("hst_wrong"), Some(&*expired), Some(&*revoked)] {
            assert_eq!(status(&server, nobody, operation).await, 401, "{operation:?} {nobody:?}");
        }
        for (token, expected) in [&write, &read, &follow, &admin].into_iter().zip(expected) {
            assert_eq!(status(&server, Some(token), operation).await, expected, "{operation:?}");
        }
        for ((arguments, _), (token, expected)) in NARROWED.iter().zip(&narrowed) {
            let answered = status(&server, Some(token), operation).await;
            assert_eq!(answered, expected[at], "{operation:?} {arguments:?}");
        }
    }
    // Open to everybody, whatever token comes with it.
    let tokens = [&write, &read, &follow, &admin, &expired, &revoked].map(String::as_str);
    let narrowed = narrowed.iter().map(|(token, _)| token.as_str());
    let tokens = tokens.into_iter().chain(narrowed).chain(["hst_wrong"]).map(Some);
    for token in tokens.chain([None]) {
        for open in ["/", "/healthz", "/readyz"] {
            assert_eq!(ask(&server, token, &Method::GET, open, None).await.status, 200, "{open}");
        }
    }
    assert_eq!(ask(&server, None, &Method::GET, "/v1/none", None).await.status, 401);
    assert_eq!(get(&server, &read, "/v1/none").await.status, 404);

    // Tokens are not taken from addresses, nor in other schemes.
    let in_url = format!("/v1/views?token={admin}&access_token={admin}");
    assert_eq!(ask(&server, None, &Method::GET, &in_url, None).await.status, 401);
    let basic = client().get(server.url("/v1/views")).basic_auth("ops", Some(&admin));
    let response = basic.send().await.unwrap();
    assert_eq!(response.status(), 401);
    assert!(response.headers()["www-authenticate"].to_str().unwrap().starts_with("Bearer"));

    let acts = std::fs::read_to_string(data.join("admin.ndjson")).unwrap();
    for act in ["token create", "token revoke", "rebuild", "retry", "dismiss"] {
        assert!(acts.contains(&format!("\"act\":\"{act}\"")), "{act}: {acts}");
    }
    assert!(acts.lines().any(|line| line.contains("\"by\":\"ops\"") && line.contains("rebuild")));
}

#[tokio::test]
async fn a_narrowed_reader_sees_its_views_and_types_alone() {
    let (server, _) = server().await;
    let data = server.data();
    let views = create(&data, &["--role", "read", "--views", "ord*"]);
    let types = create(&data, &["--role", "read", "--types", "OrderPaid"]);
    let streams = create(&data, &["--role", "read", "--streams", "order-"]);
    tokio::time::sleep(std::time::Duration::from_millis(200)).await;

    let list = get(&server, &views, "/v1/views").await.json();
    let names: Vec<&str> =
        list["views"].as_array().unwrap().iter().map(|v| v["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["orders"]);
    assert_eq!(get(&server, &views, "/v1/views/orders/rows").await.status, 200);
    for path in [
        "/v1/views/salaries",
        "/v1/views/salaries/rows",
        "/v1/views/salaries/changes",
        "/v1/streams/order-1",
    ] {
        assert_eq!(get(&server, &views, path).await.status, 403, "{path}");
    }
    assert_eq!(get(&server, &views, "/v1/events").await.text, "");
    let letters = get(&server, &views, "/v1/dead-letters").await.text;
    assert!(letters.contains("orders") && !letters.contains("salaries"), "{letters}");
    assert!(
        !letters.contains("amount\\\":0"),
        "no payload of a type that it does not see: {letters}"
    );
    let metrics = get(&server, &views, "/metrics").await.text;
    assert!(metrics.contains("view=\"orders\"") && !metrics.contains("salaries"), "{metrics}");
    assert!(!metrics.contains("heliostat_log_position 5"), "{metrics}");

    for token in [&types, &streams] {
        let events = get(&server, token, "/v1/events").await.text;
        assert_eq!(events.matches("OrderPaid").count(), 2, "{events}");
        assert_eq!(events.lines().count(), 2, "{events}");
        assert_eq!(get(&server, token, "/v1/events?type=SalaryPaid").await.text, "");
        assert_eq!(get(&server, token, "/v1/views/orders").await.status, 403);
        assert_eq!(get(&server, token, "/v1/dead-letters").await.json()["dead_letters"], json!([]));
    }
    let stream = get(&server, &types, "/v1/streams/salary-1").await;
    assert!(stream.status == 403 || stream.json()["events"] == json!([]), "{}", stream.text);
    assert_eq!(get(&server, &streams, "/v1/streams/salary-1").await.status, 403);
    assert_eq!(get(&server, &streams, "/v1/streams/order-1").await.json()["events"][0]["id"], "o1");
}

#[tokio::test]
async fn a_narrowed_writer_takes_no_ids_and_bumps_no_streams_of_others() {
    let (server, admin) = server().await;
    let data = server.data();
    let types = create(&data, &["--role", "write", "--name", "shop", "--types", "Order*"]);
    let streams = create(
        &data,
        &["--role", "write", "--name", "pay", "--sources", "pay-*", "--streams", "pay-,bill-"],
    );
    tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    let order = |more: Value| {
        let mut event = json!({"type": "OrderPaid", "data": {"id": "n", "amount": 1}});
        event.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        event
    };
    let refused = async |token: &str, event: Value, pointer: &str| {
        let answer = post(&server, token, &event).await;
        assert_eq!(answer.status, 403, "{event}: {}", answer.text);
        let error = &answer.json()["errors"][0];
        assert_eq!((&error["code"], &error["pointer"]), (&json!("forbidden"), &json!(pointer)));
    };
    refused(&types, json!({"type": "SalaryPaid", "data": {"id": "n", "amount": 1}}), "/type").await;
    refused(&types, order(json!({"source": "other"})), "/source").await;
    refused(&types, order(json!({"stream": "order-1"})), "/stream").await;
    refused(&streams, order(json!({})), "/source").await;
    refused(&streams, order(json!({"source": "pay-1", "stream": "order-1"})), "/stream").await;
    // A request is refused as a whole, with the place of the event.
    let both = json!([order(json!({})), order(json!({"source": "other"}))]);
    let answer = post(&server, &types, &both).await;
    assert_eq!((answer.status.as_u16(), &answer.json()["errors"][0]["index"]), (403, &json!(1)));

    // The id of another's event, and one that another uses later: they are different events.
    assert_eq!(post(&server, &types, &order(json!({"id": "o1"}))).await.json()["accepted"], 1);
    assert_eq!(post(&server, &types, &order(json!({"id": "next"}))).await.json()["accepted"], 1);
    let other = order(json!({"id": "next", "metadata": {"by": "ops"}}));
    assert_eq!(post(&server, &admin, &other).await.json()["accepted"], 1);
    let sent = order(json!({"source": "pay-1", "stream": "bill-7", "expected_version": 0}));
    assert_eq!(post(&server, &streams, &sent).await.json()["streams"], json!({"bill-7": 1}));

    // Keys of requests are its own, too.
    let keyed = |token: &str, event: Value| {
        let request = client().post(server.url("/v1/events")).bearer_auth(token);
        request.header("idempotency-key", "k-1").json(&event).send()
    };
    assert_eq!(keyed(&types, order(json!({}))).await.unwrap().status(), 200);
    assert_eq!(keyed(&admin, json!({"type": "Unknown", "data": {}})).await.unwrap().status(), 200);

    for (stream, expected) in [("bill-7", 200), ("order-1", 403)] {
        assert_eq!(get(&server, &streams, &format!("/v1/streams/{stream}")).await.status, expected);
    }
}

#[tokio::test]
async fn readiness_tells_strangers_no_names() {
    let (server, admin) = server().await;
    server.write("broken.sql", "CREATE VIEW secret_view AS SELECT nothing FROM nowhere;");
    let told = async |token: Option<&str>| {
        ask(&server, token, &Method::GET, "/readyz", None).await.json()["wrong"].to_string()
    };
    server.until(true, || async { told(Some(&admin)).await.contains("nowhere") }).await;
    let stranger = told(None).await;
    assert!(stranger.contains("queries") && !stranger.contains("broken.sql"), "{stranger}");
    assert!(!stranger.contains("nowhere"), "{stranger}");
}

const SECRETS: &str = "
CREATE TABLE note (id TEXT NOT NULL, text TEXT NOT NULL) WITH (event_type = 'Note');
CREATE TABLE lone (id TEXT) WITH (event_type = 'Lone');
CREATE MATERIALIZED VIEW notes WITH (key = 'id') AS SELECT id, CAST(text AS INT) AS n FROM note;
";

#[tokio::test]
async fn narrowed_tokens_read_no_payload_and_no_reason_of_events_that_they_do_not_reach() {
    let (server, admin) = server().await;
    server.write("notes.sql", SECRETS);
    let note = |n: u32, source: &str, stream: &str| {
        let data = json!({"id": n.to_string(), "text": format!("{source}-{stream}-secret-{n}")});
        json!({"type": "Note", "source": source, "stream": stream, "data": data})
    };
    let events = json!([note(1, "a", "x-1"), note(2, "a", "y-1"), note(3, "b", "x-2")]);
    let live = || async { get(&server, &admin, "/v1/views/notes").await.json()["status"].clone() };
    server.until(json!("live"), live).await;
    let path = "/v1/events?wait=views&view=notes";
    let answer = ask(&server, Some(&admin), &Method::POST, path, Some(&events)).await;
    assert_eq!(answer.status, 200, "{}", answer.text);

    let data = server.data();
    let read = |arguments: &[&str]| {
        create(&data, &[&["--role", "read", "--views", "notes"], arguments].concat())
    };
    let cases = [
        (read(&[]), vec![]),
        (read(&["--types", "OrderPaid"]), vec![]),
        (read(&["--types", "Note"]), vec![1, 2, 3]),
        (read(&["--sources", "a"]), vec![1, 2]),
        (read(&["--streams", "x-"]), vec![1, 3]),
        (read(&["--sources", "a", "--streams", "x-"]), vec![1]),
        (admin.clone(), vec![1, 2, 3]),
    ];
    tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    for (token, seen) in cases {
        let path = "/v1/dead-letters?view=notes";
        let answer = get(&server, &token, path).await.json();
        let letters = answer["dead_letters"].as_array().unwrap();
        assert_eq!(letters.len(), 3, "{answer}");
        for letter in letters {
            assert!(letter["expression"].as_str().unwrap().contains("CAST"), "{letter}");
        }
        for n in [1, 2, 3] {
            let secret = format!("secret-{n}");
            let told = letters.iter().filter(|letter| letter.to_string().contains(&secret));
            let parts = told.map(|letter| {
                ["reason", "sample"].map(|part| letter[part].to_string().contains(&secret))
            });
            let expected = if seen.contains(&n) { vec![[true; 2]] } else { vec![] };
            assert_eq!(parts.collect::<Vec<_>>(), expected, "{secret}: {answer}");

            // A search does not tell what is in them, either.
            let path = format!("/v1/dead-letters?view=notes&reason={secret}");
            let found = get(&server, &token, &path).await.json();
            let found = found["dead_letters"].as_array().unwrap().len();
            assert_eq!(found, usize::from(seen.contains(&n)), "{secret}");
        }
        // Read page by page: the cursors tell nothing, either.
        let (mut told, mut cursor) = (Vec::new(), String::new());
        for _ in 0..3 {
            let path = format!("/v1/dead-letters?view=notes&limit=1{cursor}");
            let page = get(&server, &token, &path).await.json();
            told.extend(page["dead_letters"].as_array().unwrap().clone());
            let next = page["cursor"].as_str().unwrap_or_default().to_string();
            use base64::Engine as _;
            let plain = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(&next);
            let plain = String::from_utf8_lossy(&plain.unwrap_or_default()).into_owned();
            assert!(seen.len() == 3 || !plain.contains("secret"), "{plain}");
            cursor = format!("&cursor={next}");
        }
        assert_eq!(told, *letters);
    }
    let unknown = "/v1/dead-letters?cursor=00000000000000000000000000000000";
    let views = read(&["--name", "pages"]);
    server.until(400, || async { get(&server, &views, unknown).await.status.as_u16() }).await;

    // Dead letters of events that no view reads are listed only for a token that reads all of their type.
    let unread = json!({"type": "Lone", "version": 7, "source": "a", "stream": "x-1", "data": {}});
    assert_eq!(post(&server, &admin, &unread).await.status, 200);
    for (arguments, expected) in
        [(["--types", "Lone"], 1), (["--streams", "x-"], 0), (["--sources", "a"], 0)]
    {
        let token = create(&data, &[&["--role", "read"][..], &arguments].concat());
        let count = async || {
            let answer = get(&server, &token, "/v1/dead-letters?type=Lone").await;
            (answer.status == 200).then(|| answer.json()["dead_letters"].as_array().unwrap().len())
        };
        server.until(Some(expected), count).await;
    }
}

#[tokio::test]
async fn a_narrowed_writer_that_waits_learns_of_no_view() {
    let (server, admin) = server().await;
    let data = server.data();
    let writer = create(&data, &["--role", "write"]);
    let narrowed = create(&data, &["--role", "write", "--types", "OrderPaid"]);
    tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    let order = json!({"type": "OrderPaid", "data": {"id": "n", "amount": 1}});
    let salary = json!({"type": "SalaryPaid", "data": {"id": "n", "amount": 1}});
    let send = async |token: &str, query: &str, event: &Value| {
        let path = format!("/v1/events?{query}");
        ask(&server, Some(token), &Method::POST, &path, Some(event)).await
    };

    // A view over its type, another one, and one that is not there: the same answer.
    for view in ["orders", "salaries", "none"] {
        let answer = send(&narrowed, &format!("wait=views&view={view}"), &order).await;
        assert_eq!(answer.status, 403, "{view}: {}", answer.text);
        let told = answer.json()["errors"][0]["message"].as_str().unwrap().replace(view, "V");
        assert!(told.ends_with("does not reach view V"), "{told}");
    }
    // The append waits all the same, and names no view where the time is too short.
    assert_eq!(send(&narrowed, "wait=views", &order).await.status, 200);
    let waiting = async |token: &str, event: &Value| {
        for _ in 0..200 {
            let answer = send(token, "wait=views&timeout=0ms", event).await;
            assert!(answer.status.is_success(), "{}", answer.text);
            if answer.status == 202 {
                return answer.json()["waiting_for"].clone();
            }
        }
        panic!("each event was shown at once");
    };
    assert_eq!(waiting(&narrowed, &order).await, Value::Null);

    // Without a narrowing all is as it was.
    let shown = |view: &str| json!([{"view": view, "status": "live"}]);
    for token in [&writer, &admin] {
        assert_eq!(send(token, "wait=views&view=salaries", &salary).await.status, 200);
        let answer = send(token, "wait=views&view=none", &order).await;
        assert_eq!(answer.status, 400);
        assert!(answer.text.contains("unknown_view"), "{}", answer.text);
        assert_eq!(waiting(token, &salary).await, shown("salaries"));
    }
}
