//! The OpenAPI document has every route of the router, and the router every path of the document.
//! (Whether answers are what it says is tried by schemathesis, in `tests/clients.rs`.)

use std::collections::BTreeSet;
use std::path::Path;

#[test]
fn the_document_and_the_router_have_the_same_routes() {
    let http = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/http");
    let router = std::fs::read_to_string(http.join("mod.rs")).unwrap();
    let mut routed = BTreeSet::new();
    for route in router.split(".route(\"").skip(1) {
        let (path, rest) = route.split_once('"').unwrap();
        let handlers = rest.split("\n        .").next().unwrap();
        for method in ["get", "post", "put", "patch", "delete"] {
            if handlers.contains(&format!("{method}(")) {
                routed.insert(format!("{method} {path}"));
            }
        }
    }
    assert!(routed.contains("post /v1/events"), "the router is read: {routed:?}");
    let text = std::fs::read_to_string(http.join("openapi.json")).unwrap();
    let document: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(document["openapi"], "3.1.0");
    let mut documented = BTreeSet::new();
    for (path, methods) in document["paths"].as_object().unwrap() {
        documented.extend(methods.as_object().unwrap().keys().map(|m| format!("{m} {path}")));
    }
    assert_eq!(documented, routed);
}
