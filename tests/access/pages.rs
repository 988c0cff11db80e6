//! Pages of other origins, other host names, and addresses beyond loopback.

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

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
    // Whatever the method is, and whether the path takes it.
    for method in [Method::PUT, Method::DELETE, Method::PATCH, Method::OPTIONS, Method::HEAD] {
        for path in ["/v1/events", "/v1/views", "/v1/views/orders/rebuild", "/healthz", "/"] {
            for headers in [
                [("origin", "http://evil.example")],
                [("origin", "null")],
                [("sec-fetch-site", "cross-site")],
                [("host", "evil.example")],
            ] {
                let response = send(method.clone(), path, &headers).await;
                assert_eq!(response.status(), 403, "{method} {path} {headers:?}");
                assert!(!response.headers().contains_key("access-control-allow-origin"));
            }
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

    // Media types that a page may send without asking are refused.
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

/// Starts a server without tokens; what it says if it refuses to listen there.
fn refusal(listen: &str) -> Option<String> {
    let directory = tempfile::tempdir().unwrap();
    let (data, queries) = (directory.path().join("data"), directory.path().join("queries"));
    std::fs::create_dir(&queries).unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_heliostat"))
        .args(["serve", "--no-clickhouse", "--listen", listen, "--queries"])
        .arg(&queries)
        .arg("--data-dir")
        .arg(&data)
        .env("HELIOSTAT_LOG", "error")
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let end = Instant::now() + Duration::from_secs(60);
    let refused = loop {
        if child.try_wait().unwrap().is_some() {
            break true;
        }
        if data.join("serving.json").exists() {
            break false;
        }
        assert!(Instant::now() < end, "{listen}: it neither serves nor ends");
        std::thread::sleep(Duration::from_millis(20));
    };
    child.kill().unwrap();
    let output = child.wait_with_output().unwrap();
    refused.then(|| String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn host_names_are_loopback_where_their_addresses_are() {
    assert_eq!(refusal("localhost:0"), None);
    assert!(refusal("0x0:0").is_some(), "a name of 0.0.0.0");
    let machine = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    for name in [machine.trim(), "127.1", "0x7f.1", "2130706433", "0x0.0", "1"] {
        let listen = format!("{name}:0");
        // Not every machine knows its own name.
        let Ok(addresses) = listen.to_socket_addrs() else { continue };
        let addresses: Vec<SocketAddr> = addresses.collect();
        let refused = refusal(&listen);
        match addresses.iter().all(|address| address.ip().is_loopback()) {
            true => assert_eq!(refused, None, "{name}: {addresses:?}"),
            false => {
                let told = refused.unwrap_or_else(|| panic!("{name}: {addresses:?} is served"));
                assert!(told.contains("is not loopback"), "{name}: {told}");
            }
        }
    }
}

#[test]
fn password_in_the_arguments_is_warned_of() {
    let warned = |arguments: &[&str], environment: &[(&str, &str)]| {
        let directory = tempfile::tempdir().unwrap();
        let (data, queries) = (directory.path().join("data"), directory.path().join("queries"));
        std::fs::create_dir(&queries).unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_heliostat"))
            .args(["serve", "--no-clickhouse", "--listen", "127.0.0.1:0", "--queries"])
            .arg(&queries)
            .arg("--data-dir")
            .arg(&data)
            .args(arguments)
            .envs(environment.iter().copied())
            .env("HELIOSTAT_LOG", "warn")
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        addresses(&mut child, &data);
        child.kill().unwrap();
        let output = child.wait_with_output().unwrap();
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!told.contains("geheim"), "{told}");
        told.contains("--clickhouse-password-file")
    };
    assert!(warned(&["--clickhouse-password", "geheim"], &[]));
    assert!(warned(&["--clickhouse-password=geheim"], &[]));
    assert!(!warned(&[], &[("HELIOSTAT_CLICKHOUSE_PASSWORD", "geheim")]));
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "geheim").unwrap();
    assert!(!warned(&["--clickhouse-password-file", file.path().to_str().unwrap()], &[]));
}
