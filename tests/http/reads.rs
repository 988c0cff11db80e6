//! Views, rows, dead letters, and what an operator asks.

use std::time::Duration;

use heliostat::internals::http::{ClickHouseStatus, ViewState};
use serde_json::json;

use crate::support::{JSON, Server};

#[tokio::test]
async fn views_say_what_they_are_and_how() {
    let server = Server::start().await;
    let all = server.get("/v1/views").await.json();
    let broken =
        json!([{"file": "queries/broken.sql", "message": "2:8: there is no table nothing"}]);
    assert_eq!(all["failed_files"], broken);
    let view = server.get("/v1/views/orders").await.json();
    assert_eq!(all["views"], json!([view]));
    assert_eq!(view["name"], "orders");
    assert_eq!(view["status"], "live");
    assert_eq!(view["key"], json!(["id"]));
    assert_eq!(
        view["schema"][3],
        json!({"name": "total", "type": "DECIMAL(12,2)", "nullable": true})
    );
    assert_eq!(view["schema"][9]["type"], "TIMESTAMP(4)");
    assert_eq!(view["lag_seconds"], json!({"dataflow": 0.25, "clickhouse": 1.5}));
    assert_eq!(
        (&view["lag_events"], &view["rows"], &view["errors"]),
        (&json!(6), &json!(2), &json!(3))
    );
    assert_eq!(view["generation"], "0123456789abcdef");

    *server.backend.state.lock().unwrap() = ViewState::Failed { reason: "it broke".to_string() };
    let failed = server.get("/v1/views/orders").await.json();
    assert_eq!((&failed["status"], &failed["reason"]), (&json!("failed"), &json!("it broke")));
    assert_eq!(server.get("/v1/views/nothing").await.problem_code(404), "view_not_found");
    assert_eq!(server.get("/v1/views?x=1").await.problem_code(400), "unknown_parameter");
}

#[tokio::test]
async fn rows_are_json_in_which_nothing_is_lost() {
    let server = Server::start().await;
    server.backend.shown.send_replace(8);
    let answer = server.get("/v1/views/orders/rows").await;
    assert_eq!(answer.header("content-type"), JSON);
    let body = answer.json();
    assert_eq!((&body["tick"], &body["position"]), (&json!(1_700_000_000_000_u64), &json!(8)));
    assert_eq!(body["cursor"], json!(null));
    let first = json!({
        "id": 1, "limit": 10, "big": i64::MAX, "total": "-0.05", "ratio": 0.1, "text": "ä\"\n",
        "json": {"x": [1]}, "bytes": "AP8=", "day": "1970-01-01",
        "at": "1970-01-02T00:00:00.1234Z", "list": [1, null], "nested": {"a": 5},
    });
    let second = json!({
        "id": 2, "limit": 20, "big": -1, "total": null, "ratio": "NaN", "text": "",
        "json": "oops", "bytes": "", "day": "1969-12-31",
        "at": "1969-12-31T23:59:59.9999Z", "list": [], "nested": {"a": null},
    });
    assert_eq!(body["rows"], json!([first, second]));
    let quoted = server.get("/v1/views/orders/rows?int64=string").await.json();
    assert_eq!(quoted["rows"][0]["big"], i64::MAX.to_string());
    assert_eq!(quoted["rows"][0]["id"], 1);
}

#[tokio::test]
async fn rows_are_found_by_column_and_page_by_page() {
    let server = Server::start().await;
    let ids = |body: serde_json::Value| -> Vec<u64> {
        body["rows"].as_array().unwrap().iter().map(|row| row["id"].as_u64().unwrap()).collect()
    };
    let get = |query: &'static str| server.get(query);
    assert_eq!(ids(get("/v1/views/orders/rows?id=2").await.json()), [2]);
    assert_eq!(ids(get("/v1/views/orders/rows?column.limit=10").await.json()), [1]);
    assert_eq!(ids(get("/v1/views/orders/rows?id=2&column.limit=10").await.json()), [0_u64; 0]);
    let page = get("/v1/views/orders/rows?limit=1").await.json();
    assert_eq!(page["cursor"], "1");
    assert_eq!(ids(page), [1]);
    let page = get("/v1/views/orders/rows?limit=1&cursor=1").await.json();
    assert_eq!(page["cursor"], json!(null));
    assert_eq!(ids(page), [2]);
}

#[tokio::test]
async fn rows_that_cannot_be_had_are_problems() {
    let server = Server::start().await;
    for (path, status, code) in [
        ("/v1/views/nothing/rows", 404, "view_not_found"),
        ("/v1/views/orders/rows?color=red", 400, "unknown_column"),
        ("/v1/views/orders/rows?id=red", 400, "bad_value"),
        ("/v1/views/orders/rows?cursor=red", 400, "bad_cursor"),
        ("/v1/views/orders/rows?limit=0", 400, "bad_parameter"),
        ("/v1/views/orders/rows?limit=10001", 400, "bad_parameter"),
        ("/v1/views/orders/rows?min_position=-1", 400, "bad_parameter"),
        ("/v1/views/orders/rows?timeout=2h", 400, "bad_parameter"),
        ("/v1/views/orders/rows?int64=float", 400, "bad_parameter"),
        ("/v1/views/orders/rows?min_position=9&timeout=20ms", 503, "timeout"),
    ] {
        assert_eq!(server.get(path).await.problem_code(status), code, "{path}");
    }
    let show = async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        server.backend.shown.send_replace(9);
    };
    let rows = server.get("/v1/views/orders/rows?min_position=9&timeout=30s");
    let (rows, ()) = tokio::join!(rows, show);
    assert_eq!(rows.json()["position"], 9);
    *server.backend.state.lock().unwrap() = ViewState::CatchingUp;
    let answer = server.get("/v1/views/orders/rows").await;
    assert_eq!(answer.problem_code(503), "not_live");
    assert_eq!(answer.header("retry-after"), "1");
    server.still_serves().await;
}

#[tokio::test]
async fn dead_letters_are_listed_tried_again_and_dismissed() {
    let server = Server::start().await;
    let letter = json!({
        "view": "orders", "type": "OrderPlaced", "position": 17, "positions": [17],
        "expression": "total / quantity", "reason": "division by zero", "count": 5, "sample": null,
    });
    for query in ["", "?view=orders&type=OrderPlaced&from=17&to=17&reason=zero&limit=1&cursor=next"]
    {
        let answer = server.get(&format!("/v1/dead-letters{query}")).await;
        assert_eq!(
            answer.json(),
            json!({"dead_letters": [letter], "cursor": null, "unread_through": 17})
        );
    }
    for query in ["?view=other", "?from=18", "?to=16", "?reason=overflow"] {
        let answer = server.get(&format!("/v1/dead-letters{query}")).await;
        let nothing = json!({"dead_letters": [], "cursor": null, "unread_through": 17});
        assert_eq!(answer.json(), nothing, "{query}");
    }
    for query in ["?from=x", "?cursor=x"] {
        let answer = server.get(&format!("/v1/dead-letters{query}")).await;
        assert_eq!(answer.problem_code(400), "bad_parameter", "{query}");
    }
    for (body, retried, dismissed) in [
        ("{}", json!({"retried": 5, "failed": 2}), json!({"dismissed": 5})),
        (
            r#"{"view": "other", "from": null}"#,
            json!({"retried": 0, "failed": 0}),
            json!({"dismissed": 0}),
        ),
    ] {
        let json = [("content-type", "application/json")];
        let answer = server.post_to("/v1/dead-letters/retry", &json, body).await;
        assert_eq!(answer.json(), retried);
        assert_eq!(server.post_to("/v1/dead-letters/dismiss", &json, body).await.json(), dismissed);
    }
    for media_type in ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data"] {
        let page = [("content-type", media_type)];
        for path in ["/v1/dead-letters/dismiss", "/v1/dead-letters/retry"] {
            let answer = server.post_to(path, &page, "{}").await;
            assert_eq!(answer.problem_code(415), "bad_media_type", "{path} {media_type}");
        }
        let answer = server.post_to("/v1/views/orders/rebuild", &page, "").await;
        assert_eq!(answer.problem_code(415), "bad_media_type", "rebuild {media_type}");
    }
    assert_eq!(
        server.post_to("/v1/dead-letters/dismiss", &[], "{}").await.problem_code(415),
        "bad_media_type"
    );
    for body in ["", "[]", r#"{"position": 3}"#, r#"{"from": -1}"#] {
        let json = [("content-type", "application/json")];
        let answer = server.post_to("/v1/dead-letters/dismiss", &json, body).await;
        assert_eq!(answer.problem_code(400), "bad_selection", "{body}");
    }
}

#[tokio::test]
async fn a_view_is_rebuilt_when_asked_to() {
    let server = Server::start().await;
    let answer = server.post_to("/v1/views/orders/rebuild", &[], "").await;
    assert_eq!(answer.status, 202);
    assert_eq!(answer.json(), json!({"view": "orders", "generation": "0123456789abcdef"}));
    let answer = server.post_to("/v1/views/other/rebuild", &[], "").await;
    assert_eq!(answer.problem_code(404), "view_not_found");
}

#[tokio::test]
async fn readiness_follows_views_and_clickhouse_where_it_is_asked_to() {
    let server = Server::start().await;
    assert_eq!(server.get("/healthz").await.status, 200);
    assert_eq!(server.get("/readyz?views=all").await.status, 200);
    *server.backend.state.lock().unwrap() = ViewState::CatchingUp;
    let reason = "connection refused".to_string();
    *server.backend.clickhouse.lock().unwrap() = ClickHouseStatus::Away { reason };
    assert_eq!(server.get("/readyz").await.status, 200);
    let answer = server.get("/readyz?views=all").await;
    assert_eq!(answer.problem_code(503), "not_ready");
    for part in ["orders is catching_up", "connection refused"] {
        assert!(answer.text.contains(part), "{}", answer.text);
    }
    assert_eq!(server.get("/readyz?views=some").await.problem_code(400), "bad_parameter");
}

#[tokio::test]
async fn metrics_count_what_happened() {
    let server = Server::start().await;
    server.still_serves().await;
    server.get("/nothing").await;
    let answer = server.get("/metrics").await;
    assert!(answer.header("content-type").starts_with("application/openmetrics-text"));
    for line in [
        "heliostat_events_total 1",
        "heliostat_log_commits_total 1",
        "heliostat_log_position 1",
        "heliostat_append_seconds_count 1",
        "heliostat_http_requests_total{status=\"404\"} 1",
        "heliostat_view_lag_seconds{view=\"orders\",stage=\"dataflow\"} 0.25",
        "heliostat_view_lag_seconds{view=\"orders\",stage=\"clickhouse\"} 1.5",
        "heliostat_view_lag_events{view=\"orders\"} 6",
        "heliostat_view_rows{view=\"orders\"} 2",
        "heliostat_view_errors{view=\"orders\"} 3",
        "heliostat_dead_letters{view=\"orders\"} 4",
        "heliostat_sink_retries_total{view=\"orders\"} 7",
    ] {
        assert!(answer.text.lines().any(|l| l == line), "{line} in\n{}", answer.text);
    }
    let memory = answer.text.lines().find_map(|l| l.strip_prefix("process_resident_memory_bytes "));
    assert!(memory.unwrap().parse::<u64>().unwrap() > 1 << 20);
}

#[tokio::test]
async fn the_landing_page_leads_to_pages_that_exist() {
    let server = Server::start().await;
    let page = server.get("/").await;
    assert!(page.header("content-type").starts_with("text/html"));
    let links: Vec<_> =
        page.text.split("href=\"").skip(1).filter_map(|rest| rest.split('"').next()).collect();
    assert!(links.len() > 4);
    for link in links {
        assert_eq!(server.get(link).await.status, 200, "{link}");
    }
}
