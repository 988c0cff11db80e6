//! Programs of others against the real server: the official CloudEvents SDKs, and schemathesis, which
//! tries the OpenAPI document. `make clients` installs them; where they are missing, the tests fail.
//!
//! `HELIOSTAT_SCHEMATHESIS_EXAMPLES` sets how many requests schemathesis makes up per operation.

mod common;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use common::clients as installed;

struct Server {
    child: Child,
    url: String,
    directory: tempfile::TempDir,
}

impl Server {
    fn start() -> Server {
        Server::over(tempfile::tempdir().unwrap())
    }

    /// A server that asks for tokens, and an administrator's.
    fn with_token() -> (Server, String) {
        let directory = tempfile::tempdir().unwrap();
        let token = create_token(directory.path(), &["--role", "admin"]);
        (Server::over(directory), token)
    }

    /// Another token.
    fn token(&self, arguments: &[&str]) -> String {
        let token = create_token(self.directory.path(), arguments);
        // A server sees a new one within a tenth of a second.
        std::thread::sleep(std::time::Duration::from_millis(200));
        token
    }

    fn over(directory: tempfile::TempDir) -> Server {
        let mut child = Command::new(env!("CARGO_BIN_EXE_heliostat"))
            .args(["serve", "--no-clickhouse", "--listen", "127.0.0.1:0"])
            .arg("--data-dir")
            .arg(directory.path().join("data"))
            .args(["--queries", concat!(env!("CARGO_MANIFEST_DIR"), "/queries")])
            .env("HELIOSTAT_LOG", "error")
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let url = common::addresses(&mut child, &directory.path().join("data")).http;
        Server { child, url, directory }
    }
}

fn create_token(directory: &Path, arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_heliostat"))
        .args(["token", "create"])
        .args(arguments)
        .arg("--data-dir")
        .arg(directory.join("data"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_string()
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn script(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/clients").join(name)
}

#[track_caller]
fn run(command: &mut Command) {
    let output = command.output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    println!("{}", text(&output.stdout));
    assert!(output.status.success(), "{}{}", text(&output.stdout), text(&output.stderr));
}

#[test]
fn the_python_sdk_for_cloudevents_posts_events() {
    let server = Server::start();
    let python = installed().join("python/bin/python");
    run(Command::new(python).arg(script("sdk.py")).arg(&server.url));
}

#[test]
fn the_javascript_sdk_for_cloudevents_posts_events() {
    let server = Server::start();
    let modules = installed().join("node");
    run(Command::new("node")
        .arg(script("sdk.mjs"))
        .arg(&server.url)
        .env("HELIOSTAT_NODE_MODULES", modules));
}

/// Tries every operation with made-up requests; `header` goes with each of them.
fn try_all(server: &Server, header: Option<&str>) {
    let examples = std::env::var("HELIOSTAT_SCHEMATHESIS_EXAMPLES").unwrap_or("25".to_string());
    let directory = tempfile::tempdir().unwrap();
    let mut command = Command::new(installed().join("python/bin/schemathesis"));
    command
        .current_dir(directory.path())
        .env("SCHEMATHESIS_HOOKS", script("schemathesis_hooks.py"))
        .arg("--config-file")
        .arg(script("schemathesis.toml"))
        .args(["run", &format!("{}/openapi.json", server.url), "--no-color"])
        .args(["--max-examples", &examples, "--generation-database", "none"])
        .arg("--checks=not_a_server_error,status_code_conformance,content_type_conformance,response_headers_conformance,response_schema_conformance,unsupported_method");
    if let Some(header) = header {
        command.args(["--header", header]);
    }
    run(&mut command);
}

#[test]
fn every_answer_is_one_that_the_openapi_document_describes() {
    try_all(&Server::start(), None);
}

#[test]
fn answers_with_a_token_are_as_described() {
    let (server, token) = Server::with_token();
    try_all(&server, Some(&format!("Authorization: Bearer {token}")));
}

#[test]
fn refusals_of_a_token_that_does_not_reach_are_as_described() {
    let (server, _) = Server::with_token();
    let narrowed = server.token(&["--role", "read", "--views", "order_summaries"]);
    try_all(&server, Some(&format!("Authorization: Bearer {narrowed}")));
}
