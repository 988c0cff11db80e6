//! The OpenAPI document, which is generated from the handlers: it has what the contract names, its
//! references lead somewhere, and what it describes is served. (Whether answers are what it says is tried
//! by schemathesis, in `tests/clients.rs`.)

mod common;

use std::collections::BTreeSet;
use std::path::Path;

use common::Server;
use serde_json::Value;

/// Every operation of the server.
const OPERATIONS: [&str; 16] = [
    "get / landing",
    "get /healthz alive",
    "get /metrics metrics",
    "get /openapi.json openapi",
    "get /readyz ready",
    "get /v1/dead-letters listDeadLetters",
    "get /v1/events getEvents",
    "get /v1/streams/{stream} getStream",
    "get /v1/views listViews",
    "get /v1/views/{view} getView",
    "get /v1/views/{view}/changes getChanges",
    "get /v1/views/{view}/rows getRows",
    "post /v1/dead-letters/dismiss dismissDeadLetters",
    "post /v1/dead-letters/retry retryDeadLetters",
    "post /v1/events postEvents",
    "post /v1/views/{view}/rebuild rebuildView",
];

/// Calls `visit` with every value in a document.
fn visit(value: &Value, see: &mut impl FnMut(&Value)) {
    see(value);
    match value {
        Value::Object(members) => members.values().for_each(|member| visit(member, see)),
        Value::Array(items) => items.iter().for_each(|item| visit(item, see)),
        _ => {}
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_document_describes_every_operation() {
    let server = Server::start(&[]);
    let document = server.get("/openapi.json").await;
    assert_eq!(document["openapi"], "3.1.0");
    let mut operations = BTreeSet::new();
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            let id = operation["operationId"].as_str().unwrap();
            assert!(operation["summary"].is_string(), "{id} has a summary");
            assert!(operations.insert(format!("{method} {path} {id}")));
            for (status, response) in operation["responses"].as_object().unwrap() {
                let described = response["description"].is_string() || response["$ref"].is_string();
                assert!(described, "{id} describes {status}: {response}");
            }
            for parameter in operation["parameters"].as_array().into_iter().flatten() {
                assert!(parameter["description"].is_string(), "{id}: {parameter}");
            }
        }
    }
    assert_eq!(operations, OPERATIONS.map(str::to_string).into());

    let mut references = BTreeSet::new();
    visit(&document, &mut |value| {
        references.extend(value["$ref"].as_str().map(str::to_string));
    });
    assert!(references.contains("#/components/schemas/NewEvent"), "{references:?}");
    for reference in references {
        let pointer = reference.strip_prefix('#').unwrap();
        assert!(document.pointer(pointer).is_some(), "{reference} leads nowhere");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn described_operations_are_served() {
    let server = Server::start(&[]);
    let client = heliostat::internals::http::client();
    for operation in OPERATIONS {
        let [method, path, _] = operation.split(' ').collect::<Vec<_>>()[..] else { panic!() };
        let url = server.url(&path.replace(['{', '}'], ""));
        let request = match method {
            "get" => client.get(url),
            _ => client.post(url),
        };
        let answer = request.send().await.unwrap();
        let (status, text) = (answer.status().as_u16(), answer.text().await.unwrap());
        assert!(status != 405 && !text.contains("unknown_path"), "{operation}: {status} {text}");
    }
}

#[test]
fn no_route_goes_without_a_description() {
    let router = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/http/mod.rs");
    let text = std::fs::read_to_string(router).unwrap();
    assert_eq!(text.matches(".routes(routes!(").count() + 1, OPERATIONS.len());
    assert!(!text.contains(".route("), "a handler is added with `routes!`, which describes it");
}
