//! Tokens of an issuer, which is a program of its own (`tests/clients/issuer.mjs`) with Node's
//! cryptography.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

use heliostat::internals::http::client;
use reqwest::Method;
use serde_json::{Value, json};

use crate::common::Server;
use crate::{EXPECTED, QUERIES, ask, create, get, operations, post, status};

const NAME: &str = "https://login.example";

struct Issuer {
    child: Child,
    url: String,
}

impl Drop for Issuer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Issuer {
    fn start() -> Issuer {
        let mut child = Command::new("node")
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients/issuer.mjs"))
            .stdout(Stdio::piped())
            .spawn()
            .expect("node: `make clients` installs it");
        let mut url = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut url).unwrap();
        Issuer { child, url: url.trim().to_string() }
    }

    async fn ask(&self, path: &str, body: &Value) -> String {
        let request = client().post(format!("{}{path}", self.url)).json(body);
        request.send().await.unwrap().text().await.unwrap()
    }

    async fn reads(&self) -> u64 {
        let answer = client().get(format!("{}/reads", self.url)).send().await.unwrap();
        answer.text().await.unwrap().parse().unwrap()
    }

    /// A token for the server, with these claims too.
    async fn token(&self, alg: &str, claims: Value) -> String {
        self.ask("/sign", &json!({"alg": alg, "claims": with(claims)})).await
    }

    /// The configuration that accepts its tokens.
    fn accepted(&self) -> String {
        format!(
            "[[issuers]]
            issuer = '{NAME}'
            audience = ['heliostat', 'other']
            keys = '{}/keys'
            refresh_s = 10
            leeway_s = 5
            [[issuers.grants]]
            claim = 'realm_access.roles'
            value = 'tenant'
            role = 'read'
            views = ['{{tenant}}*']
            types = ['OrderPaid']
            [[issuers.grants]]
            claim = 'realm_access.roles'
            value = 'shop'
            role = 'write'
            types = ['Order*']
            streams = ['{{tenant}}-']
            [[issuers.grants]]
            claim = 'realm_access.roles'
            value = 'write'
            role = 'write'
            [[issuers.grants]]
            claim = 'realm_access.roles'
            value = 'read'
            role = 'read'
            [[issuers.grants]]
            claim = 'realm_access.roles'
            value = 'follow'
            role = 'follow'
            [[issuers.grants]]
            claim = 'realm_access.roles'
            value = 'admin'
            role = 'admin'\n",
            self.url
        )
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// Claims that the server accepts, with these in place of its own.
fn with(changes: Value) -> Value {
    let mut claims = json!({
        "iss": NAME, "aud": "heliostat", "sub": "ada", "exp": now() + 600,
        "realm_access": {"roles": ["admin"]},
    });
    claims.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
    claims
}

fn roles(role: &str) -> Value {
    json!({"realm_access": {"roles": ["offline_access", role]}})
}

#[tokio::test]
async fn every_endpoint_asks_issuers_tokens_for_the_right_role() {
    let issuer = Issuer::start();
    let server = Server::configured(&[("views.sql", QUERIES)], &issuer.accepted());
    let order = json!({"type": "OrderPaid", "stream": "order-1", "data": {"id": "a", "amount": 7}});
    let admin = issuer.token("RS256", json!({})).await;
    server.until(200, || async { post(&server, &admin, &order).await.status.as_u16() }).await;
    let live = || async { get(&server, &admin, "/v1/views/orders/rows").await.status.as_u16() };
    server.until(200, live).await;

    let mut by_role = Vec::new();
    for (alg, role) in
        [("RS256", "write"), ("ES256", "read"), ("EdDSA", "follow"), ("ES256", "admin")]
    {
        by_role.push(issuer.token(alg, roles(role)).await);
    }
    let sign = async |request: Value| issuer.ask("/sign", &request).await;
    let (_, unsigned) = admin.split_once('.').unwrap();
    let refused = [
        issuer.token("RS256", json!({"exp": now() - 10})).await,
        issuer.token("ES256", json!({"nbf": now() + 100})).await,
        issuer.token("EdDSA", json!({"aud": ["elsewhere"]})).await,
        issuer.token("EdDSA", json!({"iss": "https://evil.example"})).await,
        sign(json!({"alg": "none", "by": "RS256", "claims": with(json!({}))})).await,
        sign(json!({"alg": "HS256", "by": "RS256", "secret": "RS256", "claims": with(json!({}))})).await,
        sign(json!({"alg": "HS256", "kid": "secret", "secret": "ES256", "claims": with(json!({}))})).await,
        sign(json!({"alg": "ES256", "by": "RS256", "claims": with(json!({}))})).await,
        sign(json!({"alg": "RS256", "by": "EdDSA", "claims": with(json!({}))})).await,
        sign(json!({"alg": "RS256", "kid": "for-encryption", "claims": with(json!({}))})).await,
        sign(json!({"alg": "RS256", "kid": "ES256-1", "claims": with(json!({}))})).await,
        sign(json!({"alg": "RS256", "header": {"crit": ["b64"], "b64": false}, "claims": with(json!({}))})).await,
        format!("{}.{unsigned}", admin.split('.').nth(1).unwrap()),
        format!("{admin}A"),
        "a.b.c".to_string(),
    ];
    for (operation, expected) in operations().iter().zip(EXPECTED) {
        assert_eq!(status(&server, None, operation).await, 401, "{operation:?}");
        for token in &refused {
            assert_eq!(status(&server, Some(token), operation).await, 401, "{operation:?} {token}");
        }
        for (token, expected) in by_role.iter().zip(expected) {
            assert_eq!(status(&server, Some(token), operation).await, expected, "{operation:?}");
        }
        let no_role = issuer.token("RS256", roles("visitor")).await;
        assert_eq!(status(&server, Some(&no_role), operation).await, 403, "{operation:?}");
    }

    // Tokens of the data directory are accepted beside them.
    let own = create(&server.data(), &["--role", "read", "--name", "own"]);
    server.until(200, || async { get(&server, &own, "/v1/views").await.status.as_u16() }).await;
    let acts = std::fs::read_to_string(server.data().join("admin.ndjson")).unwrap();
    assert!(acts.contains(&format!("\"by\":\"{NAME}#ada\"")), "{acts}");
}

#[tokio::test]
async fn claims_narrow_what_issuers_tokens_reach() {
    let issuer = Issuer::start();
    let server = Server::configured(&[("views.sql", QUERIES)], &issuer.accepted());
    let token = async |role: &str, tenant: Value| {
        let mut claims = roles(role);
        claims["tenant"] = tenant;
        issuer.token("ES256", claims).await
    };
    let writer = token("shop", json!("t7")).await;
    let order = |stream: &str| json!({"type": "OrderPaid", "stream": stream, "data": {"id": "a", "amount": 7}});
    server
        .until(200, || async { post(&server, &writer, &order("t7-1")).await.status.as_u16() })
        .await;
    assert_eq!(post(&server, &writer, &order("t8-1")).await.status, 403);
    let salary = json!({"type": "SalaryPaid", "data": {"id": "a", "amount": 7}});
    assert_eq!(post(&server, &writer, &salary).await.status, 403);

    let reader = token("tenant", json!("orders")).await;
    let names = async || {
        let list = get(&server, &reader, "/v1/views").await.json();
        let name = |view: &Value| view["name"].as_str().unwrap().to_string();
        list["views"].as_array().unwrap().iter().map(name).collect::<Vec<_>>()
    };
    server.until(vec!["orders".to_string()], names).await;
    assert_eq!(get(&server, &reader, "/v1/views/salaries/rows").await.status, 403);
    // The bearer's name, with the issuer's, is the source of its events.
    let events = get(&server, &reader, "/v1/events").await.text;
    assert!(events.contains(&format!("\"source\":\"{NAME}#ada\"")), "{events}");
    // No value of a claim can widen its bearer's rights.
    for tenant in [json!("*"), json!(""), json!([]), Value::Null] {
        let wide = token("tenant", tenant.clone()).await;
        assert_eq!(get(&server, &wide, "/v1/views").await.status, 403, "{tenant}");
    }
}

#[tokio::test]
async fn keys_are_read_anew_and_stay_while_their_issuer_is_away() {
    let issuer = Issuer::start();
    issuer.ask("/away", &json!({})).await;
    let server = Server::configured(&[("views.sql", QUERIES)], &issuer.accepted());
    let ready = async || ask(&server, None, &Method::GET, "/readyz", None).await.json();
    let views = async |token: &str| get(&server, token, "/v1/views").await.status.as_u16();
    // Before the keys are known nobody can tell whether a token is right.
    let first = issuer.token("RS256", json!({})).await;
    assert_eq!(views(&first).await, 503);
    let told = || async { ready().await["wrong"].to_string().contains("access") };
    server.until(true, told).await;
    issuer.ask("/back", &json!({})).await;
    server.until(200, || views(&first)).await;
    server.until(false, told).await;

    // Other keys: the first token that names one is accepted at once, and the old ones are not.
    issuer.ask("/rotate", &json!({})).await;
    let second = issuer.token("ES256", json!({})).await;
    server.until(200, || views(&second)).await;
    assert_eq!(views(&first).await, 401);

    // Away: the keys stay, and its administrators are told why.
    issuer.ask("/away", &json!({})).await;
    server.until(true, told).await;
    assert_eq!(views(&second).await, 200);
    let wrong = ask(&server, Some(&second), &Method::GET, "/readyz", None).await.text;
    assert!(wrong.contains("keys from before stay") && wrong.contains("503"), "{wrong}");

    // Wrong names of keys do not keep it busy.
    let before = issuer.reads().await;
    let begun = std::time::Instant::now();
    for number in 0..200 {
        let request =
            json!({"alg": "RS256", "kid": format!("k{number}"), "claims": with(json!({}))});
        let token = issuer.ask("/sign", &request).await;
        assert_eq!(views(&token).await, 401);
    }
    let reads = issuer.reads().await - before;
    assert!(reads < 10, "{reads} reads in {:?}", begun.elapsed());
}

#[tokio::test]
async fn keys_come_from_a_file_too_and_follow_it() {
    let issuer = Issuer::start();
    let server = Server::laid_out(&[("views.sql", QUERIES)], "");
    let file = server.directory.path().join("keys.json");
    let fetch = async || {
        let keys = client().get(format!("{}/keys", issuer.url)).send().await.unwrap();
        std::fs::write(&file, keys.text().await.unwrap()).unwrap();
    };
    fetch().await;
    let keys = format!("keys = '{}'", file.display());
    let toml = issuer.accepted().replace(&format!("keys = '{}/keys'", issuer.url), &keys);
    std::fs::write(server.directory.path().join("heliostat.toml"), toml).unwrap();
    server.run();
    let views = async |token: &str| get(&server, token, "/v1/views").await.status.as_u16();
    let first = issuer.token("EdDSA", json!({})).await;
    server.until(200, || views(&first)).await;
    issuer.ask("/rotate", &json!({})).await;
    fetch().await;
    let second = issuer.token("EdDSA", json!({})).await;
    server.until(200, || views(&second)).await;
    server.until(401, || views(&first)).await;
}

#[test]
fn wrong_configuration_of_an_issuer_is_refused_with_its_place() {
    let directory = tempfile::tempdir().unwrap();
    let (toml, queries) =
        (directory.path().join("heliostat.toml"), directory.path().join("queries"));
    std::fs::create_dir(&queries).unwrap();
    let refused = |text: &str| {
        std::fs::write(&toml, text).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_heliostat"));
        command.args(["serve", "--no-clickhouse", "--listen", "127.0.0.1:0", "--config"]);
        command.args([&toml, Path::new("--queries"), &queries, Path::new("--data-dir")]);
        let output = command.arg(directory.path().join("data")).output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let issuer = "[[issuers]]\nissuer = 'https://login.example'\naudience = 'a'\n";
    let keys = "keys = 'http://login.example/keys'\n";
    let grants = "[[issuers.grants]]\nrole = 'read'\n";
    let error = refused(&format!("{issuer}{keys}{grants}"));
    assert!(error.contains("https://login.example") && error.contains("expected https"), "{error}");
    let error = refused(&format!("{issuer}keys = 'keys.json'\n"));
    assert!(error.contains("no grants"), "{error}");
    let error = refused(&format!("{issuer}keys = 'keys.json'\nalgorithms = ['HS256']\n{grants}"));
    assert!(error.contains("algorithms"), "{error}");
}
