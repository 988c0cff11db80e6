//! Reads of a running server whose views have rows any number of times.

mod common;

use std::time::{Duration, Instant};

use common::Server;
use serde_json::{Value, json};

const TABLES: &str = "CREATE TABLE e (x BIGINT) WITH (event_type = 'e');\n";

async fn post(server: &Server, count: usize) -> u64 {
    let events: Vec<Value> = (0..count).map(|_| json!({"type": "e", "data": {"x": 1}})).collect();
    server.append(&json!(events)).await["position"].as_u64().unwrap_or(count as u64)
}

async fn status(server: &Server, view: &str) -> Value {
    server.get(&format!("/v1/views/{view}")).await["status"].clone()
}

/// A view of 10^9 equal rows answers a page in the time of a page, and its cursors lead through them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_of_a_thousand_million_equal_rows_take_milliseconds() {
    let view = "CREATE MATERIALIZED VIEW many WITH (clickhouse = false) AS \
        SELECT a.x, b.x AS y FROM e a CROSS JOIN e b CROSS JOIN e c;\n";
    let server = Server::start(&[("many.sql", &format!("{TABLES}{view}"))]);
    post(&server, 1000).await;
    server.until(json!("live"), || status(&server, "many")).await;
    let path = "/v1/views/many/rows?min_position=1000&timeout=30s&limit=";
    server.get(&format!("{path}1")).await;
    let view = server.get("/v1/views/many").await;
    assert_eq!(view["rows"], json!(1_000_000_000));

    let started = Instant::now();
    let page = server.get(&format!("{path}10")).await;
    assert!(started.elapsed() < Duration::from_millis(500), "{:?}", started.elapsed());
    assert_eq!(page["rows"], json!(vec![json!({"x": 1, "y": 1}); 10]));
    let cursor = page["cursor"].as_str().unwrap();
    let next = server.get(&format!("{path}7&cursor={cursor}&y=1")).await;
    assert_eq!(next["rows"].as_array().unwrap().len(), 7);
    assert!(next["cursor"].is_string() && next["cursor"] != page["cursor"]);
    let none = server.get(&format!("{path}7&y=2")).await;
    assert_eq!((&none["rows"], &none["cursor"]), (&json!([]), &Value::Null));
}

/// Pages through rows that are there several times give each of them once, and end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_give_each_copy_once() {
    let view = "CREATE MATERIALIZED VIEW copies WITH (clickhouse = false) AS \
        SELECT n FROM e CROSS JOIN generate_series(1, 4) AS s(n) WHERE n <> 3;\n";
    let server = Server::start(&[("copies.sql", &format!("{TABLES}{view}"))]);
    post(&server, 5).await;
    server.until(json!("live"), || status(&server, "copies")).await;
    for limit in [1, 2, 4, 5, 7, 14, 15, 16] {
        let (mut rows, mut cursor) = (Vec::new(), String::new());
        loop {
            let path = format!("/v1/views/copies/rows?min_position=5&limit={limit}{cursor}");
            let page = server.get(&path).await;
            let told = page["rows"].as_array().unwrap();
            assert!(told.len() <= limit, "{page}");
            rows.extend(told.iter().map(|row| row["n"].as_i64().unwrap()));
            let Some(next) = page["cursor"].as_str() else { break };
            assert_eq!(told.len(), limit, "a page before the last one is full");
            cursor = format!("&cursor={next}");
        }
        rows.sort_unstable();
        assert_eq!(rows, [1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 4, 4, 4, 4, 4], "limit {limit}");
    }
}

/// More copies of a row than 64 bits count end their view, and nothing else.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_view_fails_whose_rows_pass_64_bits() {
    let product = |name: &str, factors: usize| {
        let from: Vec<String> = (0..factors).map(|n| format!("e AS t{n}")).collect();
        format!(
            "CREATE MATERIALIZED VIEW {name} WITH (clickhouse = false) AS \
             SELECT 1 AS one FROM {};\n",
            from.join(" CROSS JOIN ")
        )
    };
    let doubled = |name: &str, times: usize| {
        format!(
            "CREATE MATERIALIZED VIEW {name} WITH (clickhouse = false) AS \
             WITH RECURSIVE r AS (SELECT x AS n FROM e UNION ALL \
             SELECT r.n + 1 FROM r CROSS JOIN (VALUES (1), (2)) AS two(i) WHERE r.n <= {times}) \
             SELECT n FROM r;\n"
        )
    };
    let sums = "CREATE VIEW two AS SELECT one FROM p18 UNION ALL SELECT one FROM p18;\n\
        CREATE VIEW four AS SELECT one FROM two UNION ALL SELECT one FROM two;\n\
        CREATE VIEW eight AS SELECT one FROM four UNION ALL SELECT one FROM four;\n\
        CREATE MATERIALIZED VIEW sixteen WITH (clickhouse = false) AS \
        SELECT one FROM eight UNION ALL SELECT one FROM eight;\n\
        CREATE MATERIALIZED VIEW counted WITH (clickhouse = false) AS \
        SELECT count(*) AS n FROM (SELECT one FROM eight UNION ALL SELECT one FROM eight) AS s;\n\
        CREATE MATERIALIZED VIEW total WITH (clickhouse = false) AS \
        SELECT count(*) AS n FROM p18;\n";
    let views = [
        TABLES.to_string(),
        product("p18", 18),
        product("p20", 20),
        doubled("d10", 10),
        doubled("d70", 70),
        sums.to_string(),
        "CREATE MATERIALIZED VIEW plain WITH (clickhouse = false) AS SELECT x FROM e;\n"
            .to_string(),
    ];
    let server = Server::start(&[("views.sql", &views.concat())]);
    post(&server, 10).await;
    for view in ["p20", "d70", "sixteen", "counted"] {
        server.until(json!("failed"), || status(&server, view)).await;
        let answer = server.get(&format!("/v1/views/{view}/rows?limit=1")).await;
        let told = answer.to_string();
        assert!(told.contains("9223372036854775807 times"), "{view}: {told}");
    }
    post(&server, 1).await;
    for view in ["p18", "d10", "plain", "total"] {
        let path = format!("/v1/views/{view}/rows?min_position=10&timeout=30s&limit=1");
        let answer = server.get(&path).await;
        assert_eq!(answer["rows"].as_array().map(Vec::len), Some(1), "{view}: {answer}");
    }
    let view = server.get("/v1/views/plain").await;
    assert_eq!(view["status"], "live");
}

/// INTERVAL and TIME go in and out as texts; an event whose text is none is refused, and so is an array with a
/// text that is longer than its VARCHAR.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn intervals_and_times_are_texts_and_long_texts_in_arrays_do_not_fit() {
    let file = "CREATE TABLE shift (id INT, opens TIME, pause INTERVAL, tags VARCHAR(3)[]) WITH (event_type = 'shift');\n\
        CREATE MATERIALIZED VIEW shifts WITH (clickhouse = false) AS \
        SELECT id, opens, pause * 2 AS twice, ARRAY[pause] AS pauses, tags FROM shift;\n";
    let server = Server::start(&[("shift.sql", file)]);
    server.live(&["shifts"]).await;
    let shift = |data: Value| json!([{"type": "shift", "data": data}]);
    let fits = json!({"id": 1, "opens": "08:30", "pause": "1 day 00:45:00", "tags": ["abc ", "d"]});
    server.append(&shift(fits)).await;
    for (data, told) in [
        (json!({"opens": "25:00"}), "a time is written 10:30:00.5"),
        (json!({"pause": "soon"}), "an interval is written P1DT2H30M"),
        (json!({"tags": ["abc", "abcd"]}), "expected VARCHAR(3), found a text of 4 characters"),
    ] {
        let (status, answer) = server.post("/v1/events", &shift(data)).await;
        assert_eq!(status, 422, "{answer}");
        assert!(answer.to_string().contains(told), "{answer}");
    }
    let page = server.get("/v1/views/shifts/rows?min_position=1&timeout=30s").await;
    let row = json!({"id": 1, "opens": "08:30:00", "twice": "P2DT1H30M", "pauses": ["P1DT45M"], "tags": ["abc", "d"]});
    assert_eq!(page["rows"], json!([row]));
}
