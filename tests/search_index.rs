//! `examples/search_index.rs` against the real server: killed at any moment, on either side, the index
//! has what the log has.

mod common;

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use common::Server;
use serde_json::{Value, json};

struct Follower(Child);

impl Drop for Follower {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn example(server: &Server) -> Command {
    // Examples are built beside the tests.
    let mut program = PathBuf::from(env!("CARGO_BIN_EXE_heliostat"));
    program.set_file_name("examples");
    let mut command = Command::new(program.join("search_index"));
    command
        .args(["--url", &server.url(""), "--id", "sku", "--file"])
        .arg(server.directory.path().join("index.json"));
    command
}

fn follow(server: &Server) -> Follower {
    Follower(example(server).arg("follow").stderr(Stdio::null()).spawn().unwrap())
}

fn search(server: &Server, words: &[&str]) -> Vec<String> {
    let output = example(server).arg("search").args(words).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_string).collect()
}

fn product(sku: u32, text: &str) -> Value {
    json!({"type": "ProductChanged", "data": {"sku": format!("p{sku}"), "text": [text], "price": 1}})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_index_has_what_the_log_has_whatever_is_killed() {
    let server = Server::start(&[]);
    let colours = ["Red", "green", "blue"];
    for round in 0..6 {
        let follower = follow(&server);
        for sku in 0..40 {
            let colour = colours[((sku + round) % 3) as usize];
            server.append(&product(sku, &format!("a {colour} bike, no. {round}"))).await;
        }
        if round % 2 == 1 {
            server.restart();
        }
        drop(follower);
    }
    let _follower = follow(&server);
    server.append(&json!({"type": "ProductChanged", "data": {"sku": "p1", "deleted": true}})).await;
    server.append(&json!({"type": "Other", "data": {"sku": "p2", "text": "red herring"}})).await;
    server.append(&product(99, "last one")).await;
    let last = || async { search(&server, &["last"]) };
    server.until(vec!["p99".to_string()], last).await;
    let mut red: Vec<String> = (0..40)
        .filter(|sku| (sku + 5) % 3 == 0 && *sku != 1)
        .map(|sku| format!("p{sku}"))
        .collect();
    red.sort();
    assert_eq!(search(&server, &["RED", "bike"]), red);
    assert_eq!(search(&server, &["no", "4"]), [""; 0], "what was replaced is not found");
    assert_eq!(search(&server, &["herring"]), [""; 0]);
}
