//! Tokens of the data directory: roles, and what they are narrowed to.

use heliostat::internals::http::client;
use reqwest::Method;
use serde_json::{Value, json};

use crate::{EXPECTED, ask, create, get, operations, post, server, status};

#[tokio::test]
async fn every_endpoint_asks_for_a_token_of_the_right_role() {
    let (server, admin) = server().await;
    let data = server.data();
    let write = create(&data, &["--role", "write"]);
    let read = create(&data, &["--role", "read"]);
    let follow = create(&data, &["--role", "follow"]);
    let expired = create(&data, &["--role", "admin", "--name", "old", "--expires", "0s"]);
    let revoked = create(&data, &["--role", "admin", "--name", "gone"]);
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

    for (operation, expected) in operations().iter().zip(EXPECTED) {
        for nobody in [None, Some("hst_wrong"), Some(&*expired), Some(&*revoked)] {
            assert_eq!(status(&server, nobody, operation).await, 401, "{operation:?} {nobody:?}");
        }
        for (token, expected) in [&write, &read, &follow, &admin].into_iter().zip(expected) {
            assert_eq!(status(&server, Some(token), operation).await, expected, "{operation:?}");
        }
    }
    for open in ["/", "/healthz", "/readyz"] {
        assert_eq!(ask(&server, None, &Method::GET, open, None).await.status, 200, "{open}");
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
