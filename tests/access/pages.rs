//! Pages of other origins, other host names, and addresses beyond loopback.

use std::path::Path;
use std::process::Command;

use heliostat::internals::http::client;
use reqwest::Method;
use serde_json::json;

use crate::common::{Server, addresses};
use crate::{QUERIES, create};

#[tokio::test]
async fn without_tokens_pages_of_others_and_other_names_get_nothing() {
    let server = Server::configured(
        &[("views.sql", QUERIES)],
        "hosts = ['heliostat.internal']\nallow_origins = ['https://shop.example']",
    );
    let event = json!({"type": "OrderPaid", "data": {"id": "a", "amount": 7}});
    let send = async |method: Method, path: &str, headers: &[(&str, &str)]| {
        let mut request = client().request(method.clone(), server.url(path));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if method == Method::POST {
            request = request.json(&event);
        }
        request.send().await.unwrap()
    };
    for headers in [
        [("origin", "http://evil.example")],
        [("origin", "null")],
        [("origin", "http://127.0.0.1:1")],
        [("sec-fetch-site", "cross-site")],
        [("sec-fetch-site", "same-site")],
        [("host", "evil.example")],
        [("host", "localhost.evil.example:8080")],
    ] {
        for (method, path) in
            [(Method::POST, "/v1/events"), (Method::GET, "/v1/views"), (Method::GET, "/healthz")]
        {
            let response = send(method, path, &headers).await;
            assert_eq!(response.status(), 403, "{path} {headers:?}");
            assert!(!response.headers().contains_key("access-control-allow-origin"));
        }
    }
    for headers in [
        [("host", "localhost:8080")],
        [("host", "[::1]:8080")],
        [("host", "heliostat.internal")],
        [("sec-fetch-site", "same-origin")],
        [("sec-fetch-site", "none")],
    ] {
        assert_eq!(send(Method::POST, "/v1/events", &headers).await.status(), 200, "{headers:?}");
    }
    let own = server.url("");
    assert_eq!(send(Method::POST, "/v1/events", &[("origin", &*own)]).await.status(), 200);

    // A page that may use the server.
    let page = ("origin", "https://shop.example");
    let asks = [
        page,
        ("access-control-request-method", "POST"),
        ("access-control-request-headers", "authorization"),
    ];
    let response = send(Method::OPTIONS, "/v1/events", &asks).await;
    assert_eq!(response.status(), 204);
    assert_eq!(response.headers()["access-control-allow-origin"], "https://shop.example");
    assert!(
        response.headers()["access-control-allow-headers"]
            .to_str()
            .unwrap()
            .contains("authorization")
    );
    let response =
        send(Method::POST, "/v1/events", &[page, ("sec-fetch-site", "cross-site")]).await;
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["access-control-allow-origin"], "https://shop.example");

    // What a page may send without asking is taken as nothing.
    for media_type in ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data"] {
        for path in ["/v1/events", "/v1/dead-letters/dismiss", "/v1/views/orders/rebuild"] {
            let request = client().post(server.url(path)).header("content-type", media_type);
            let response = request.body(event.to_string()).send().await.unwrap();
            assert_eq!(response.status(), 415, "{path} {media_type}");
        }
    }
}

#[test]
fn beyond_loopback_tokens_are_needed() {
    let directory = tempfile::tempdir().unwrap();
    let (data, queries) = (directory.path().join("data"), directory.path().join("queries"));
    std::fs::create_dir(&queries).unwrap();
    for listen in ["0.0.0.0:0", "0:0", "[::]:0"] {
        let output = Command::new(env!("CARGO_BIN_EXE_heliostat"))
            .args(["serve", "--no-clickhouse", "--listen", listen, "--queries"])
            .arg(&queries)
            .arg("--data-dir")
            .arg(&data)
            .output()
            .unwrap();
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{listen}: {error}");
        assert!(error.contains("token create") && error.contains("--insecure"), "{error}");
    }
    create(&data, &["--role", "admin"]);
    use std::os::unix::fs::PermissionsExt;
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&data), mode(&data.join("tokens.json"))), (0o700, 0o600));
    let mut child = Command::new(env!("CARGO_BIN_EXE_heliostat"))
        .args(["serve", "--no-clickhouse", "--listen", "0.0.0.0:0", "--queries"])
        .arg(&queries)
        .arg("--data-dir")
        .arg(&data)
        .spawn()
        .unwrap();
    addresses(&mut child, &data);
    child.kill().unwrap();
    child.wait().unwrap();
}
