//! Who is let in: tokens, roles, what they are narrowed to, pages of other origins, TLS.

mod common;

use std::path::Path;
use std::process::Command;

use common::Server;
use heliostat::internals::http::client;
use heliostat::internals::sink::{Login, Logins, read_login};
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

    // Of each operation: write, read, follow, admin.
    let expected = [
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
    for (operation, expected) in operations().iter().zip(expected) {
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
    common::addresses(&mut child, &data);
    child.kill().unwrap();
    child.wait().unwrap();
}

/// Certificates for 127.0.0.1 that one authority has signed.
struct Authority {
    certificate: rcgen::Certificate,
    issuer: rcgen::Issuer<'static, rcgen::KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(rcgen::DnType::CommonName, "the authority of a test");
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).unwrap();
        Authority { certificate, issuer: rcgen::Issuer::new(params, key) }
    }

    /// Writes a new certificate and its key; the certificate.
    fn write(&self, certificate: &Path, key: &Path) -> Vec<u8> {
        let own = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(vec!["127.0.0.1".to_string()]).unwrap();
        let signed = params.signed_by(&own, &self.issuer).unwrap();
        std::fs::write(key, own.serialize_pem()).unwrap();
        std::fs::write(certificate, signed.pem()).unwrap();
        signed.der().to_vec()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_are_replaced_while_requests_go_on() {
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str| directory.path().join(name);
    let authority = Authority::new();
    std::fs::write(file("ca.pem"), authority.certificate.pem()).unwrap();
    authority.write(&file("cert.pem"), &file("key.pem"));
    let (cert, key) = (file("cert.pem"), file("key.pem"));
    let server = Server::with_arguments(
        &[("views.sql", QUERIES)],
        &[
            "--no-clickhouse",
            "--tls-cert",
            cert.to_str().unwrap(),
            "--tls-key",
            key.to_str().unwrap(),
        ],
        &[],
    );
    let url = server.url("").replace("http://", "https://");
    assert!(
        server.url("").starts_with("https://"),
        "serving.json tells the scheme: {}",
        server.url("")
    );
    heliostat::internals::http::client();
    let ca = reqwest::Certificate::from_pem(authority.certificate.pem().as_bytes()).unwrap();
    let connect = move || {
        let builder = reqwest::Client::builder().tls_certs_only([ca.clone()]);
        builder.pool_max_idle_per_host(0).tls_info(true).build().unwrap()
    };
    let event = json!({"type": "OrderPaid", "data": {"id": "a", "amount": 7}});
    // Each request is a connection of its own.
    let load = |until: std::time::Instant| {
        let (connect, url, event) = (connect.clone(), url.clone(), event.clone());
        tokio::spawn(async move {
            let client = connect();
            let mut shown = Vec::new();
            while std::time::Instant::now() < until {
                let response =
                    client.post(format!("{url}/v1/events")).json(&event).send().await.unwrap();
                assert_eq!(response.status(), 200);
                let info = response.extensions().get::<reqwest::tls::TlsInfo>().unwrap();
                shown.push(info.peer_certificate().unwrap().to_vec());
            }
            shown
        })
    };
    let running: Vec<_> = (0..4)
        .map(|_| load(std::time::Instant::now() + std::time::Duration::from_secs(6)))
        .collect();
    let mut last = Vec::new();
    for _ in 0..3 {
        tokio::time::sleep(std::time::Duration::from_millis(1500)).await;
        last = authority.write(&cert, &key);
    }
    for task in running {
        let shown = task.await.unwrap();
        assert!(shown.len() > 20, "{} requests", shown.len());
        assert_ne!(shown[0], last);
    }
    // A session that is resumed shows the certificate that it began with.
    let response = connect().get(format!("{url}/healthz")).send().await.unwrap();
    let info = response.extensions().get::<reqwest::tls::TlsInfo>().unwrap();
    assert_eq!(info.peer_certificate(), Some(&*last), "the last certificate is in use");

    // HTTP/2 for those who ask for it, and commands that know the authority.
    let output = Command::new("curl")
        .args([
            "--silent",
            "--http2",
            "--output",
            "/dev/null",
            "--write-out",
            "%{http_version}",
            "--cacert",
        ])
        .arg(file("ca.pem"))
        .arg(format!("{url}/healthz"))
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "2");
    let output =
        server.command(&["rebuild", "orders", "--tls-ca", file("ca.pem").to_str().unwrap()]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_certificate_that_cannot_be_used_is_refused_with_its_file() {
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str| directory.path().join(name);
    let authority = Authority::new();
    authority.write(&file("cert.pem"), &file("key.pem"));
    authority.write(&file("other.pem"), &file("other-key.pem"));
    std::fs::write(file("empty.pem"), "").unwrap();
    std::fs::create_dir(file("queries")).unwrap();
    for (certificate, key, named) in [
        ("cert.pem", Some("other-key.pem"), "other-key.pem"),
        ("empty.pem", Some("key.pem"), "empty.pem"),
        ("cert.pem", Some("absent.pem"), "absent.pem"),
        ("cert.pem", None, "--tls-key"),
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_heliostat"));
        command.args(["serve", "--no-clickhouse", "--listen", "127.0.0.1:0", "--queries"]);
        command.arg(file("queries")).arg("--data-dir").arg(file("data"));
        command.arg("--tls-cert").arg(file(certificate));
        if let Some(key) = key {
            command.arg("--tls-key").arg(file(key));
        }
        let output = command.output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{error}");
        assert!(error.contains(named), "{error}");
    }
}

/// What nobody but Heliostat may do in its ClickHouse. `$P` is the address of its HTTP interface.
const ATTEMPTS: [&str; 40] = [
    "SELECT * FROM file('/etc/passwd', 'LineAsString')",
    "SELECT * FROM file('*', 'LineAsString')",
    "INSERT INTO FUNCTION file('planted.csv', 'CSV', 'a String') VALUES ('x')",
    "SELECT * FROM url('$P/ping', 'LineAsString')",
    "INSERT INTO FUNCTION url('$P/', 'CSV', 'a String') VALUES ('x')",
    "SELECT * FROM remote('127.0.0.1', 'system', 'one')",
    "SELECT * FROM cluster('default', 'system', 'one')",
    "SELECT * FROM s3('http://127.0.0.1:1/b/k', 'CSV', 'a String')",
    "SELECT * FROM hdfs('hdfs://127.0.0.1:1/k', 'CSV', 'a String')",
    "SELECT * FROM azureBlobStorage('http://127.0.0.1:1', 'c', 'b', 'CSV', 'auto', 'a String')",
    "SELECT * FROM executable('x.sh', 'CSV', 'a String')",
    "SELECT * FROM mysql('127.0.0.1:1', 'd', 't', 'u', 'p')",
    "SELECT * FROM postgresql('127.0.0.1:1', 'd', 't', 'u', 'p')",
    "SELECT * FROM sqlite('/tmp/x.db', 't')",
    "SELECT * FROM mongodb('127.0.0.1:1', 'd', 'c', 'u', 'p', 'a String')",
    "SELECT * FROM merge('heliostat_internal', '.*')",
    "SELECT * FROM heliostat_internal._heliostat_generations",
    "SELECT * FROM heliostat_internal._heliostat_progress_log",
    "SELECT 1 INTO OUTFILE '/tmp/heliostat-outfile'",
    "CREATE TABLE heliostat.mine (a Int8) ENGINE = Memory",
    "CREATE TABLE mine (a Int8) ENGINE = File(CSV)",
    "CREATE TEMPORARY TABLE mine (a Int8)",
    "CREATE DATABASE mine",
    "CREATE DICTIONARY heliostat.d (k UInt64, v String) PRIMARY KEY k SOURCE(FILE(path '/etc/passwd' format 'TSV')) LAYOUT(FLAT()) LIFETIME(0)",
    "CREATE FUNCTION mine AS (x) -> x",
    "CREATE USER mine",
    "CREATE VIEW heliostat.mine AS SELECT 1",
    "CREATE NAMED COLLECTION mine AS a = 1",
    "DROP VIEW heliostat.orders",
    "DROP DATABASE heliostat",
    "TRUNCATE TABLE heliostat.orders",
    "INSERT INTO heliostat.orders VALUES ('x', 1)",
    "ALTER TABLE heliostat.orders DELETE WHERE 1",
    "KILL QUERY WHERE 1",
    "SYSTEM STOP LISTEN HTTP",
    "SYSTEM STOP MERGES heliostat_internal._heliostat_generations",
    "SYSTEM SHUTDOWN",
    "SYSTEM RELOAD CONFIG",
    "BACKUP DATABASE heliostat TO File('/tmp/heliostat-backup')",
    "GRANT ALL ON *.* TO reader",
];

/// Settings that a reader must not change.
const FIXED: [&str; 7] = [
    "max_memory_usage=0",
    "max_memory_usage_for_user=0",
    "max_execution_time=0",
    "max_threads=64",
    "max_concurrent_queries_for_user=0",
    "os_thread_priority=0",
    "add_http_cors_header=1",
];

#[tokio::test(flavor = "multi_thread")]
async fn the_own_clickhouse_lets_readers_read_views_and_strangers_nothing() {
    let server = Server::with_clickhouse(&[("views.sql", QUERIES)]);
    server.append(&json!([{"type": "OrderPaid", "data": {"id": "a", "amount": 7}}])).await;
    let reader = read_login(&Logins::reader_file(&server.data())).unwrap();
    let rows = "SELECT id, total FROM orders";
    let csv = format!("{rows} FORMAT CSV");
    server.until("\"a\",14\n".to_string(), || server.clickhouse_as(&reader, &csv)).await;
    let names = server.clickhouse_as(&reader, "SHOW TABLES").await;
    assert_eq!(names, "_heliostat_progress\norders\nsalaries\n");
    assert_eq!(server.clickhouse_as(&reader, "SHOW DATABASES").await, "heliostat\n");

    let boot = Login { user: "default".to_string(), password: String::new() };
    let wrong = Login { password: "wrong".to_string(), ..reader.clone() };
    let address = server.clickhouse_url();
    for login in [&reader, &boot, &wrong] {
        for attempt in ATTEMPTS {
            let answer = server.clickhouse_as(login, &attempt.replace("$P", &address)).await;
            assert!(answer.starts_with("Code: "), "{}: {attempt}: {answer}", login.user);
        }
    }
    for login in [&boot, &wrong] {
        let answer = server.clickhouse_as(login, "SELECT count() FROM system.numbers").await;
        assert!(answer.starts_with("Code: "), "{}: {answer}", login.user);
    }
    for setting in FIXED {
        let sql = format!("SELECT 1 SETTINGS {setting}");
        assert!(server.clickhouse_as(&reader, &sql).await.starts_with("Code: "), "{setting}");
        let request = client().post(format!("{address}/?{setting}")).body("SELECT 1");
        let request = request.basic_auth(&reader.user, Some(&reader.password));
        assert!(!request.send().await.unwrap().status().is_success(), "{setting}");
    }
    // Hogs of memory and of time end by themselves; the views go on meanwhile.
    let hog = "SELECT groupArray(number) FROM numbers(1000000000)";
    assert!(server.clickhouse_as(&reader, hog).await.contains("MEMORY_LIMIT_EXCEEDED"));
    let busy = client().post(&address).basic_auth(&reader.user, Some(&reader.password));
    let busy = busy.body("SELECT count() FROM numbers(1e12) WHERE sipHash64(number) = 1");
    let busy = tokio::spawn(async move { busy.send().await.map(|answer| answer.status()) });
    server.append(&json!([{"type": "OrderPaid", "data": {"id": "b", "amount": 5}}])).await;
    server
        .until("\"b\",20\n".to_string(), || {
            server.clickhouse_as(&reader, "SELECT id, total FROM orders WHERE id = 'b' FORMAT CSV")
        })
        .await;
    busy.abort();

    // The command needs no password.
    let data = server.data();
    let directory = data.to_str().unwrap();
    let output = server.command(&["sql", rows, "--data-dir", directory]);
    let shown = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success() && shown.contains("id\ttotal\n") && shown.contains("a\t14\n"),
        "{shown}"
    );
    let output = server.command(&["sql", "--print", "--data-dir", directory]);
    let printed: Value = serde_json::from_slice(&output.stdout).unwrap();
    let expected = json!({"url": address, "user": "reader", "password": reader.password, "database": "heliostat"});
    assert_eq!(printed, expected);
    let output = server.command(&["sql", "DROP DATABASE heliostat", "--data-dir", directory]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("ACCESS_DENIED"));
}
