//! Pages in Chromium that try to use the server and its ClickHouse: none gets through. The same page
//! gets through where its origin is allowed, and to ClickHouse where it knows a login.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::process::Command;

use heliostat::internals::sink::{Logins, read_login};
use serde_json::json;

use crate::QUERIES;
use crate::common::{Server, clients};

type Outcomes = BTreeMap<String, BTreeMap<String, String>>;

/// Runs all pages.
async fn visit(server: &Server, page_port: u16, login: String) -> Outcomes {
    let arguments = [server.url(""), server.clickhouse_url(), page_port.to_string(), login];
    let output = tokio::task::spawn_blocking(move || {
        Command::new("node")
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients/pages.mjs"))
            .args(arguments)
            .env("HELIOSTAT_NODE_MODULES", clients().join("node"))
            .output()
    });
    let output = output.await.unwrap().expect("node: `make clients` installs it");
    let told = String::from_utf8_lossy(&output.stderr);
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{told}"))
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A server with a view, a dead letter and ClickHouse, that lets pages of these origins in and has
/// these names.
async fn server(origins: &[String], hosts: &[&str]) -> Server {
    let toml = format!("allow_origins = {origins:?}\nhosts = {hosts:?}");
    let arguments = ["--clickhouse-http-port", "0"];
    let server = Server::with(&[("views.sql", QUERIES)], &toml, &arguments, &[]);
    server.until(200, || async { server.try_get("/readyz?views=all").await.0 }).await;
    let events = json!([
        {"type": "OrderPaid", "data": {"id": "a", "amount": 7}},
        {"type": "OrderPaid", "data": {"id": "b", "amount": 0}},
    ]);
    let (status, answer) = server.post("/v1/events?wait=clickhouse&timeout=60s", &events).await;
    assert_eq!(status, 200, "{answer}");
    server
}

/// The state that pages could have changed.
async fn state(server: &Server) -> (String, u64, u64, String) {
    let events = server.get_text("/v1/events").await;
    let letters = server.get("/v1/dead-letters").await["dead_letters"].as_array().unwrap().len();
    let acts = std::fs::read_to_string(server.data().join("admin.ndjson")).unwrap_or_default();
    let sql = "SELECT database || '.' || name FROM system.tables WHERE database LIKE 'heliostat%' \
               ORDER BY 1";
    let tables = server.clickhouse(sql).await;
    (events, letters as u64, acts.lines().count() as u64, tables)
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_of_other_origins_and_names_get_nothing_and_change_nothing() {
    let server = server(&[], &[]).await;
    let before = state(&server).await;
    let told = visit(&server, free_port(), String::new()).await;
    assert_eq!(told.len(), 4);
    for (page, outcomes) in &told {
        assert!(outcomes.len() > 35, "{page}: {outcomes:?}");
        for (attempt, outcome) in outcomes {
            // A page that is rebound has the answers' origin, and reads why it is refused.
            let refused = ["403 ", "401 ", "415 "].iter().any(|status| outcome.starts_with(status));
            let nothing = outcome.starts_with("TypeError: Failed to fetch")
                || ["opaque", "error", "nothing came", "true"].contains(&outcome.as_str());
            // A foreign frame shows its content, but the page's scripts cannot read it.
            let shown = outcome
                .strip_prefix("loaded ")
                .is_some_and(|text| text.contains("\"status\":403") || text.contains("Code: "));
            // ClickHouse's own login may do nothing, and anybody may read that.
            let refused = refused || outcome.contains("Code: ");
            // Its only right is a query without a table.
            let refused = refused || (attempt == "query without cors" && outcome == "200 1\n");
            assert!(refused || nothing || shown, "{page}: {attempt}: {outcome}");
        }
    }
    assert_eq!(state(&server).await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn page_of_an_allowed_origin_gets_through_and_so_does_one_with_a_login() {
    let port = free_port();
    let origins = ["127.0.0.1", "evil.example"].map(|host| format!("http://{host}:{port}"));
    let server = server(&origins, &["rebound.example"]).await;
    let before = state(&server).await;
    let own = read_login(&Logins::own_file(&server.data())).unwrap();
    let login = format!("&user={}&password={}", own.user, own.password);
    let told = visit(&server, port, login).await;
    for page in ["of the same site", "of another site", "rebound to the server"] {
        let outcomes = &told[page];
        for attempt in [
            "post json",
            "post json by xhr",
            "dismiss by json",
            "retry by json",
            "read /v1/views",
            "read /v1/views/orders/rows",
            "read /v1/events",
            "follow by event source",
        ] {
            assert!(outcomes[attempt].starts_with("200 "), "{page}: {attempt}: {outcomes:?}");
        }
        assert!(outcomes["rebuild by json"].starts_with("202 "), "{page}: {outcomes:?}");
    }
    let (events, letters, acts, tables) = state(&server).await;
    assert_eq!(events.matches("Planted").count(), 6, "{events}");
    assert!(letters < before.1 && acts >= 6, "{letters} letters, {acts} acts");
    assert!(tables.contains("planted\n") && tables.contains("planted_2\n"), "{tables}");
}
