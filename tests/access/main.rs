//! Access: tokens, tokens of issuers, roles, what they are narrowed to, pages of other origins, TLS, the own
//! ClickHouse.

mod browser;
mod clickhouse;
#[path = "../common/mod.rs"]
mod common;
mod compose;
mod issuers;
mod pages;
mod tls;
mod tokens;

use std::path::Path;
use std::process::Command;

use common::Server;
use heliostat::internals::http::client;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

const QUERIES: &str = "
CREATE TABLE order_paid (id TEXT NOT NULL, amount INT NOT NULL) WITH (event_type = 'OrderPaid');
CREATE TABLE salary_paid (id TEXT NOT NULL, amount INT NOT NULL) WITH (event_type = 'SalaryPaid');
CREATE MATERIALIZED VIEW orders WITH (key = 'id') AS
  SELECT id, sum(100 / amount) AS total FROM order_paid GROUP BY id;
CREATE MATERIALIZED VIEW salaries WITH (key = 'id') AS
  SELECT id, sum(100 / amount) AS total FROM salary_paid GROUP BY id;
";

/// Creates a token by the command line.
#[track_caller]
fn create(data: &Path, arguments: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_heliostat"));
    command.args(["token", "create"]).args(arguments).arg("--data-dir").arg(data);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_string()
}

struct Answer {
    status: StatusCode,
    text: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|_| panic!("{}", self.text))
    }
}

async fn ask(
    server: &Server,
    token: Option<&str>,
    method: &Method,
    path: &str,
    body: Option<&Value>,
) -> Answer {
    let mut request = client().request(method.clone(), server.url(path));
    if let Some(token) = token {
        request = request.bearer_auth(token);
    }
    if let Some(body) = body {
        request = request.json(body);
    }
    let response = request.send().await.unwrap();
    Answer { status: response.status(), text: response.text().await.unwrap() }
}

async fn get(server: &Server, token: &str, path: &str) -> Answer {
    ask(server, Some(token), &Method::GET, path, None).await
}

async fn post(server: &Server, token: &str, event: &Value) -> Answer {
    ask(server, Some(token), &Method::POST, "/v1/events", Some(event)).await
}

/// A server with events of both types, in streams, one of each failing; and its admin's token.
async fn server() -> (Server, String) {
    let server = Server::start(&[("views.sql", QUERIES)]);
    let admin = create(&server.data(), &["--role", "admin", "--name", "ops"]);
    server.restart();
    let events = json!([
        {"type": "OrderPaid", "id": "o1", "stream": "order-1", "data": {"id": "a", "amount": 7}},
        {"type": "OrderPaid", "id": "o2", "stream": "order-2", "data": {"id": "b", "amount": 0}},
        {"type": "SalaryPaid", "id": "s1", "stream": "salary-1", "data": {"id": "x", "amount": 9}},
        {"type": "SalaryPaid", "id": "s2", "stream": "salary-2", "data": {"id": "y", "amount": 0}},
        {"type": "Unknown", "id": "u1", "data": {}}
    ]);
    let answer =
        ask(&server, Some(&admin), &Method::POST, "/v1/events?wait=views", Some(&events)).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    (server, admin)
}

/// Every operation, with the body that it takes.
fn operations() -> Vec<(Method, &'static str, Option<Value>)> {
    let event = json!({"type": "OrderPaid", "data": {"id": "c", "amount": 1}});
    vec![
        (Method::POST, "/v1/events", Some(event)),
        (Method::GET, "/v1/events?limit=1", None),
        (Method::GET, "/v1/streams/order-1", None),
        (Method::GET, "/v1/views", None),
        (Method::GET, "/v1/views/orders", None),
        (Method::GET, "/v1/views/orders/rows", None),
        (Method::GET, "/v1/views/orders/changes", None),
        (Method::GET, "/v1/dead-letters", None),
        (Method::GET, "/metrics", None),
        (Method::GET, "/openapi.json", None),
        (Method::POST, "/v1/dead-letters/retry", Some(json!({}))),
        (Method::POST, "/v1/dead-letters/dismiss", Some(json!({"view": "none"}))),
        (Method::POST, "/v1/views/orders/rebuild", None),
    ]
}

/// The status of an answer, whose body may have no end.
async fn status(
    server: &Server,
    token: Option<&str>,
    operation: &(Method, &str, Option<Value>),
) -> u16 {
    let (method, path, body) = operation;
    let mut request = client().request(method.clone(), server.url(path));
    if let Some(token) = token {
        request = request.bearer_auth(token);
    }
    if let Some(body) = body {
        request = request.json(body);
    }
    request.send().await.unwrap().status().as_u16()
}

/// Narrowed tokens, and what each operation answers them, in the order of [`operations`].
const NARROWED: [(&[&str], [u16; 13]); 8] = [
    (
        &["--role", "read", "--types", "OrderPaid"],
        [403, 200, 200, 200, 403, 403, 403, 200, 200, 200, 403, 403, 403],
    ),
    (
        &["--role", "read", "--streams", "order-"],
        [403, 200, 200, 200, 403, 403, 403, 200, 200, 200, 403, 403, 403],
    ),
    (
        &["--role", "read", "--streams", "salary-"],
        [403, 200, 403, 200, 403, 403, 403, 200, 200, 200, 403, 403, 403],
    ),
    (
        &["--role", "read", "--views", "orders"],
        [403, 200, 403, 200, 200, 200, 200, 200, 200, 200, 403, 403, 403],
    ),
    (
        &["--role", "read", "--views", "salaries"],
        [403, 200, 403, 200, 403, 403, 403, 200, 200, 200, 403, 403, 403],
    ),
    (
        &["--role", "write", "--types", "OrderPaid"],
        [200, 403, 403, 403, 403, 403, 403, 403, 403, 200, 403, 403, 403],
    ),
    (
        &["--role", "write", "--types", "SalaryPaid"],
        [403, 403, 403, 403, 403, 403, 403, 403, 403, 200, 403, 403, 403],
    ),
    (
        &["--role", "write", "--streams", "order-"],
        [200, 403, 200, 403, 403, 403, 403, 403, 403, 200, 403, 403, 403],
    ),
];

/// The status that each operation answers a writer, a reader, a follower of the log, and an administrator.
const EXPECTED: [[u16; 4]; 13] = [
    [200, 403, 403, 200],
    [403, 200, 200, 200],
    [200, 200, 403, 200],
    [403, 200, 403, 200],
    [403, 200, 403, 200],
    [403, 200, 403, 200],
    [403, 200, 403, 200],
    [403, 200, 403, 200],
    [403, 200, 403, 200],
    [200, 200, 200, 200],
    [403, 403, 403, 200],
    [403, 403, 403, 200],
    [403, 403, 403, 202],
];
