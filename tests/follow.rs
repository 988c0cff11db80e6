//! A running server follows its query files: views come, change, are rebuilt and go, and dead letters
//! go with their cause.

mod common;

use common::Server;
use serde_json::{Value, json};

const PAID: &str =
    "CREATE TABLE paid (k TEXT NOT NULL, amount BIGINT NOT NULL) WITH (event_type = 'Paid');";

fn paid(k: &str, amount: i64) -> Value {
    json!({"type": "Paid", "data": {"k": k, "amount": amount}})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn views_come_change_and_go_while_the_old_ones_answer() {
    let server = Server::with_clickhouse(&[("paid.sql", PAID)]);
    server.append(&json!([paid("a", 1), paid("b", 2), paid("a", 3)])).await;
    let sums = "SELECT k, n FROM sums ORDER BY k FORMAT CSV";
    let view = |sql: &str| format!("CREATE MATERIALIZED VIEW sums AS {sql};");

    server.write("sums.sql", &view("SELECT k, sum(amount) AS n FROM paid GROUP BY k"));
    server.until("\"a\",4\n\"b\",2\n".to_string(), || server.clickhouse(sums)).await;
    let first = server.get("/v1/views/sums").await["generation"].clone();

    // A set with an error is reported, and the last good one goes on.
    server.write("broken.sql", "CREATE MATERIALIZED VIEW broken AS SELECT nothing FROM paid;");
    let failed =
        || async { server.get("/v1/views").await["failed_files"].as_array().map(Vec::len) };
    server.until(Some(1), failed).await;
    server.append(&paid("b", 5)).await;
    server.until("\"a\",4\n\"b\",7\n".to_string(), || server.clickhouse(sums)).await;
    server.restart();
    server.until("\"a\",4\n\"b\",7\n".to_string(), || server.clickhouse(sums)).await;
    server.until(Some(1), failed).await;
    server.remove("broken.sql");
    server.until(Some(0), failed).await;

    // A changed view takes the old one's place once it has caught up.
    server.write("sums.sql", &view("SELECT k, count(*) AS n FROM paid GROUP BY k"));
    server.until("\"a\",2\n\"b\",2\n".to_string(), || server.clickhouse(sums)).await;
    server.append(&paid("c", 1)).await;
    server.until("\"a\",2\n\"b\",2\n\"c\",1\n".to_string(), || server.clickhouse(sums)).await;
    let second = server.get("/v1/views/sums").await["generation"].clone();
    assert_ne!(first, second);

    // And once more under the same SQL.
    let output = server.command(&["rebuild", "sums"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let third = server.get("/v1/views/sums").await["generation"].clone();
    assert_ne!(second, third);
    server.append(&paid("c", 1)).await;
    let rows = "\"a\",2\n\"b\",2\n\"c\",2\n".to_string();
    server.until(rows.clone(), || server.clickhouse(sums)).await;
    server.restart();
    server
        .until(third, || async { server.get("/v1/views/sums").await["generation"].clone() })
        .await;
    server.until(rows, || server.clickhouse(sums)).await;
    let unknown = server.command(&["rebuild", "nothing"]);
    assert_eq!(unknown.status.code(), Some(1));

    server.remove("sums.sql");
    let views = || async { server.get("/v1/views").await["views"].as_array().map(Vec::len) };
    server.until(Some(0), views).await;
    server.until(true, || async { server.clickhouse(sums).await.contains("UNKNOWN_TABLE") }).await;
    let tables = "SELECT count() FROM system.tables WHERE database = 'heliostat_internal' AND name LIKE 'sums\\_\\_%'";
    assert_eq!(server.clickhouse(tables).await, "3\n", "tables stay for a while");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[cfg_attr(not(feature = "failpoints"), ignore = "needs the feature failpoints")]
async fn changed_files_are_noticed_where_the_system_does_not_tell_of_them() {
    let no_notify = [("FAILPOINTS", "no_notify=return")];
    let server = Server::with_arguments(&[("paid.sql", PAID)], &["--no-clickhouse"], &no_notify);
    server.append(&json!([paid("a", 1), paid("a", 3)])).await;
    // The process that follows the files is told nothing by inotify.
    let descriptors = format!("/proc/{}/fd", server.pid_of("read-side").unwrap());
    let descriptors: Vec<_> = std::fs::read_dir(descriptors).unwrap().flatten().collect();
    assert!(descriptors.len() > 3, "{descriptors:?}");
    let target = |at: &std::fs::DirEntry| std::fs::read_link(at.path()).unwrap_or_default();
    assert!(descriptors.iter().all(|at| !target(at).ends_with("anon_inode:inotify")));

    let view = |sql: &str| format!("CREATE MATERIALIZED VIEW v AS {sql};");
    let rows = || async { server.try_get("/v1/views/v/rows").await.1["rows"].clone() };
    server.write("v.sql", &view("SELECT count(*) AS n FROM paid"));
    server.until(json!([{"n": 2}]), rows).await;
    server.write("v.sql", &view("SELECT count(*) + 10 AS n FROM paid"));
    server.until(json!([{"n": 12}]), rows).await;
    server.remove("v.sql");
    server.until(404, || async { server.try_get("/v1/views/v").await.0 }).await;
}

/// Every answer while a view changes again and again is that of one of its generations.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_and_waits_go_on_while_views_change() {
    let view = |factor: u64| {
        format!(
            "CREATE MATERIALIZED VIEW v AS SELECT k, sum(amount) * {factor} AS n FROM paid GROUP BY k;"
        )
    };
    let server = Server::start(&[("paid.sql", PAID), ("v.sql", &view(1))]);
    server.append(&paid("a", 1)).await;
    server
        .until(json!("live"), || async { server.get("/v1/views/v").await["status"].clone() })
        .await;
    for factor in 2..8 {
        server.write("v.sql", &view(factor));
        for amount in 1..30 {
            let answer = server.post("/v1/events?wait=views&view=v", &paid("a", amount)).await;
            assert_eq!(answer.0, 200, "{}", answer.1);
            let rows = server.get("/v1/views/v/rows?k=a").await;
            assert!(rows["rows"][0]["n"].is_number() || rows["rows"][0]["n"].is_string(), "{rows}");
        }
        if factor == 5 {
            server.restart();
        }
        let shown = || async {
            let rows = server.get("/v1/views/v/rows?k=a").await;
            let n = &rows["rows"][0]["n"];
            n.as_u64().or_else(|| n.as_str()?.parse().ok())
        };
        let sum = 1 + (factor - 1) * (1..30).sum::<u64>();
        server.until(Some(sum * factor), shown).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dead_letters_go_with_their_cause_or_are_dismissed() {
    let table = "CREATE TABLE paid (k TEXT NOT NULL, amount BIGINT NOT NULL) WITH (event_type = 'Paid', on_invalid = 'quarantine');";
    let view = "CREATE MATERIALIZED VIEW v AS SELECT k, 100 / amount AS n FROM paid;";
    let server = Server::start(&[("paid.sql", table), ("v.sql", view)]);
    server
        .append(&json!([
            paid("a", 4),
            paid("b", 0),
            {"type": "Paid", "data": {"k": "c", "amount": "many"}},
            {"type": "Paid", "version": 2, "data": {"key": "d", "cents": 500}},
            {"type": "Other", "version": 2, "data": {}},
        ]))
        .await;
    let letters = |query: &'static str| {
        let server = &server;
        move || async move {
            let found = server.get(&format!("/v1/dead-letters{query}")).await;
            let told = |l: &Value| format!("{} {} {}", l["position"], l["expression"], l["reason"]);
            found["dead_letters"].as_array().unwrap().iter().map(told).collect::<Vec<_>>()
        }
    };
    let zero = "2 \"100 / paid.amount\" \"division by zero\"";
    let version = "4 \"event type Paid\" \"version 2 is not declared\"";
    let misfit = "3 \"table paid\" \"/amount: expected BIGINT, found \\\"many\\\"\"";
    let all = [zero, version, misfit].map(str::to_string).to_vec();
    server.until(all.clone(), letters("")).await;
    assert_eq!(letters("?type=Paid&view=v")().await, all);
    assert_eq!(letters("?from=3&to=3")().await, [misfit]);
    assert_eq!(letters("?reason=declared")().await, [version]);
    assert_eq!(letters("?view=w")().await, [""; 0]);
    let page = server.get("/v1/dead-letters?limit=2").await;
    let cursor = page["cursor"].as_str().unwrap();
    let next = server.get(&format!("/v1/dead-letters?limit=2&cursor={cursor}")).await;
    assert_eq!(
        (next["dead_letters"][0]["position"].clone(), next["cursor"].clone()),
        (json!(3), json!(null))
    );
    assert_eq!(server.get("/v1/views/v").await["dead_letters"], 3);
    assert_eq!(server.get("/v1/views/v/rows").await["rows"], json!([{"k": "a", "n": 25}]));

    // Trying again without a fix fails again.
    let retry = server.post("/v1/dead-letters/retry", &json!({})).await;
    assert_eq!(retry, (200, json!({"retried": 3, "failed": 3})));

    // A dead letter that is dismissed stays away; later ones are listed.
    let dismissed = server.post("/v1/dead-letters/dismiss", &json!({"from": 3, "to": 3})).await;
    assert_eq!(dismissed, (200, json!({"dismissed": 1})));
    let left = [zero, version].map(str::to_string).to_vec();
    server.until(left.clone(), letters("")).await;
    server.restart();
    server.until(left, letters("")).await;

    // A fix of the SQL, and a version declared with its upcast, by themselves and with retry.
    server.write(
        "v.sql",
        "CREATE MATERIALIZED VIEW v AS SELECT k, 100 / nullif(amount, 0) AS n FROM paid;",
    );
    let retry = server.post("/v1/dead-letters/retry", &json!({"from": 2, "to": 2})).await;
    assert_eq!(retry, (200, json!({"retried": 1, "failed": 0})));
    server.until([version.to_string()].to_vec(), letters("")).await;
    server.write(
        "paid.sql",
        "CREATE TABLE paid_v1 (k TEXT NOT NULL, amount BIGINT NOT NULL) WITH (event_type = 'Paid', on_invalid = 'quarantine');
         CREATE TABLE paid (k TEXT NOT NULL, amount BIGINT NOT NULL) WITH (event_type = 'Paid', version = 2, fields = 'camelCase', on_invalid = 'quarantine');
         INSERT INTO paid (k, amount) SELECT k, amount FROM paid_v1;",
    );
    let misfits = [
        "4 \"table paid\" \"/amount: BIGINT is missing (column amount)\"",
        "4 \"table paid\" \"/k: TEXT is missing (column k)\"",
    ];
    server.until(misfits.map(str::to_string).to_vec(), letters("?from=4&to=4")).await;
    server.append(&json!({"type": "Paid", "version": 2, "data": {"k": "e", "amount": 50}})).await;
    let rows = json!([{"k": "a", "n": 25}, {"k": "b", "n": null}, {"k": "e", "n": 2}]);
    let shown = || async {
        let mut rows = server.get("/v1/views/v/rows").await["rows"].clone();
        if let Some(rows) = rows.as_array_mut() {
            rows.sort_by_key(|row| row["k"].as_str().map(str::to_string));
        }
        rows
    };
    server.until(rows, shown).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn repeated_events_and_requests_are_known_after_their_table_changes() {
    let server = Server::start(&[]);
    let client = heliostat::internals::http::client();
    let send = |key: Option<&'static str>, body: Value| {
        let mut request = client.post(server.url("/v1/events")).json(&body);
        if let Some(key) = key {
            request = request.header("idempotency-key", key);
        }
        async move {
            let response = request.send().await.unwrap();
            (response.status().as_u16(), response.json::<Value>().await.unwrap())
        }
    };
    let event = |id: &str| json!({"id": id, "type": "Paid", "data": {"k": 1}});
    let first = send(None, json!([event("a"), event("b")])).await;
    let keyed = send(Some("key"), json!({"type": "Paid", "data": {"k": 2}})).await;
    assert_eq!((first.0, keyed.0), (200, 200));
    server.write("paid.sql", PAID);
    // From now on such an event does not fit.
    let probe = json!({"type": "Paid", "data": {"k": 0}});
    server.until(422, || async { send(None, probe.clone()).await.0 }).await;
    let again = send(None, json!([event("b"), event("a")])).await;
    assert_eq!((again.0, &again.1["positions"]), (200, &json!([2, 1])), "{}", again.1);
    let again = send(Some("key"), json!({"type": "Paid", "data": {"k": 2}})).await;
    assert_eq!((again.0, &again.1["positions"]), (200, &json!([3])), "{}", again.1);
    let mixed = send(None, json!([event("a"), event("c")])).await;
    assert_eq!((mixed.0, &mixed.1["errors"][0]["index"]), (422, &json!(1)), "{}", mixed.1);
    let other = send(None, json!({"id": "a", "type": "Paid", "data": {"k": 7}})).await;
    assert_eq!(
        (other.0, &other.1["errors"][0]["code"]),
        (409, &json!("id_conflict")),
        "{}",
        other.1
    );
    server.append(&paid("k", 1)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_that_no_view_reads_have_dead_letters_too() {
    let table = "CREATE TABLE paid (k TEXT NOT NULL) WITH (event_type = 'Paid', on_invalid = 'quarantine');";
    let server = Server::start(&[("paid.sql", table)]);
    server.append(&json!({"type": "Paid", "version": 2, "data": {"k": 1}})).await;
    server
        .append(&json!([{"type": "Paid", "data": {"k": 1}}, {"type": "Other", "data": {}}]))
        .await;
    let letters = || async {
        let found = server.get("/v1/dead-letters").await;
        let told = |l: &Value| format!("{} {} {}", l["view"], l["position"], l["reason"]);
        found["dead_letters"].as_array().unwrap().iter().map(told).collect::<Vec<_>>()
    };
    let version = "null 1 \"version 2 is not declared\"".to_string();
    let misfit = "null 2 \"/k: expected TEXT, found the number 1\"".to_string();
    server.until(vec![version.clone(), misfit.clone()], letters).await;
    let dismissed = server.post("/v1/dead-letters/dismiss", &json!({"from": 1, "to": 1})).await;
    assert_eq!(dismissed, (200, json!({"dismissed": 1})));
    assert_eq!(letters().await, std::slice::from_ref(&misfit));
    server.restart();
    server.until(vec![misfit], letters).await;
    server.write("paid.sql", "CREATE TABLE paid (k BIGINT NOT NULL) WITH (event_type = 'Paid');");
    server.until(Vec::new(), letters).await;
}
