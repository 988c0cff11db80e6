//! Programs of others against the real server: the official CloudEvents SDKs, and schemathesis, which
//! tries the OpenAPI document. `make clients` installs them; where they are missing, the tests fail.
//!
//! `HELIOSTAT_SCHEMATHESIS_EXAMPLES` sets how many requests schemathesis makes up per operation.

mod common;

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use common::clients as installed;

struct Server {
    child: Child,
    url: String,
    _directory: tempfile::TempDir,
}

impl Server {
    fn start() -> Server {
        let directory = tempfile::tempdir().unwrap();
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
        Server { child, url, _directory: directory }
    }
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

#[test]
fn every_answer_is_one_that_the_openapi_document_describes() {
    let examples = std::env::var("HELIOSTAT_SCHEMATHESIS_EXAMPLES").unwrap_or("25".to_string());
    let server = Server::start();
    let directory = tempfile::tempdir().unwrap();
    run(Command::new(installed().join("python/bin/schemathesis"))
        .current_dir(directory.path())
        .env("SCHEMATHESIS_HOOKS", script("schemathesis_hooks.py"))
        .arg("--config-file")
        .arg(script("schemathesis.toml"))
        .args(["run", &format!("{}/openapi.json", server.url), "--no-color"])
        .args(["--max-examples", &examples, "--generation-database", "none"])
        .arg("--checks=not_a_server_error,status_code_conformance,content_type_conformance,response_headers_conformance,response_schema_conformance,unsupported_method"));
}
