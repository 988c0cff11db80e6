//! A disk that is full: a small tmpfs where mounting is allowed (as root), a limit of file sizes
//! everywhere. What was acknowledged stays, reads go on, and appends resume when there is room.

mod common;

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::addresses;
use serde_json::{Value, json};

const DISK_BYTES: usize = 24 << 20;
const PATIENCE: Duration = Duration::from_secs(60);
const QUERIES: &str = "
CREATE TABLE n (x BIGINT NOT NULL) WITH (event_type = 'N');
CREATE MATERIALIZED VIEW total AS SELECT count(*) AS n FROM n;
CREATE MATERIALIZED VIEW recent AS SELECT count(*) AS n FROM n WHERE _recorded_at > now() - INTERVAL '1 hour';
";

/// A file system of its own on a directory, until it is dropped.
struct Mount<'a>(&'a Path);

impl Mount<'_> {
    /// `None` where this is not allowed.
    fn new(path: &Path) -> Option<Mount<'_>> {
        std::fs::create_dir_all(path).unwrap();
        let size = format!("size={DISK_BYTES}");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &size, "tmpfs"])
            .arg(path)
            .stderr(Stdio::null())
            .status();
        mounted.is_ok_and(|status| status.success()).then_some(Mount(path))
    }
}

impl Drop for Mount<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(self.0).status();
    }
}

struct Server {
    child: Child,
    url: String,
    client: reqwest::Client,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    async fn start(directory: &Path, file_bytes_max: Option<u64>) -> Server {
        std::fs::create_dir_all(directory.join("queries")).unwrap();
        std::fs::write(directory.join("queries/q.sql"), QUERIES).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_heliostat"));
        command
            .args(["serve", "--no-clickhouse", "--listen", "127.0.0.1:0"])
            .args([Path::new("--data-dir"), &directory.join("data")])
            .args([Path::new("--queries"), &directory.join("queries")])
            .env("HELIOSTAT_LOG", "off")
            .stdin(Stdio::null());
        if let Some(bytes) = file_bytes_max {
            // SAFETY: the call is allowed between fork and exec, and takes numbers only.
            unsafe {
                command.pre_exec(move || {
                    let limit = libc::rlimit { rlim_cur: bytes, rlim_max: libc::RLIM_INFINITY };
                    match libc::setrlimit(libc::RLIMIT_FSIZE, &limit) {
                        0 => Ok(()),
                        _ => Err(std::io::Error::last_os_error()),
                    }
                });
            }
        }
        let mut child = command.spawn().unwrap();
        let url = addresses(&mut child, &directory.join("data")).http;
        let server = Server { child, url, client: heliostat::internals::http::client() };
        server.until("/readyz", 200).await;
        server
    }

    async fn until(&self, path: &str, status: u16) {
        let end = Instant::now() + PATIENCE;
        loop {
            let answer = self.client.get(format!("{}{path}", self.url)).send().await;
            if answer.as_ref().is_ok_and(|answer| answer.status().as_u16() == status) {
                return;
            }
            assert!(Instant::now() < end, "{path} does not answer {status}: {answer:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn get(&self, path: &str) -> Value {
        let answer = self.client.get(format!("{}{path}", self.url)).send().await.unwrap();
        answer.json().await.unwrap()
    }

    async fn post(&self, events: &Value) -> (u16, Option<String>, Value) {
        let url = format!("{}/v1/events", self.url);
        let answer = self.client.post(url).json(events).send().await.unwrap();
        let retry = answer.headers().get("retry-after");
        let retry = retry.map(|value| value.to_str().unwrap().to_string());
        (answer.status().as_u16(), retry, answer.json().await.unwrap())
    }

    /// The ids of all events, whose positions must be dense.
    async fn ids(&self) -> Vec<String> {
        let text = self.client.get(format!("{}/v1/events", self.url)).send().await.unwrap();
        let text = text.text().await.unwrap();
        let mut ids = Vec::new();
        for line in text.lines() {
            let event: Value = serde_json::from_str(line).unwrap();
            ids.push(event["id"].as_str().unwrap().to_string());
            assert_eq!(event["position"], ids.len());
        }
        ids
    }

    /// The rows that a view counts, once it has counted so many.
    async fn counts(&self, view: &str, n: usize) {
        let end = Instant::now() + PATIENCE;
        loop {
            let rows = self.get(&format!("/v1/views/{view}/rows")).await;
            let counted = &rows["rows"][0]["n"];
            if *counted == n {
                return;
            }
            assert!(Instant::now() < end, "{view}: {rows}, expected {n}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// Text that does not compress.
struct Noise(u64);

impl Noise {
    fn text(&mut self, len: usize) -> String {
        let next = || {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            char::from(b'A' + (self.0 >> 32) as u8 % 58).to_string().replace('\\', "_")
        };
        std::iter::repeat_with(next).take(len).collect()
    }

    fn event(&mut self, id: &str, bytes: usize) -> Value {
        json!({"id": id, "type": "N", "data": {"x": 1, "text": self.text(bytes)}})
    }
}

fn ids(range: std::ops::Range<usize>) -> Vec<String> {
    range.map(|n| n.to_string()).collect()
}

/// Posts events until the disk is full, and checks what the server says then; how many there are.
async fn fill(server: &Server, noise: &mut Noise) -> usize {
    let mut stored = 0;
    loop {
        let event = noise.event(&stored.to_string(), 700_000);
        let (status, retry, body) = server.post(&event).await;
        if status == 507 {
            assert_eq!(body["errors"][0]["code"], "insufficient_storage", "{body}");
            assert!(retry.is_some(), "it says when to try again");
            return stored;
        }
        assert_eq!((status, &body["first_position"]), (200, &json!(stored + 1)), "{body}");
        stored += 1;
        assert!(stored < 500, "the disk does not get full");
    }
}

/// The checks that pass while the disk is full.
async fn check_full(server: &Server, stored: usize) {
    server.until("/readyz", 503).await;
    let (status, _, again) = server.post(&json!({"id": "0", "type": "N", "data": {"x": 2}})).await;
    assert_eq!(status, 409, "reads and look-ups go on: {again}");
    assert_eq!(server.ids().await, ids(0..stored));
    server.counts("total", stored).await;
    let alive = server.client.get(format!("{}/healthz", server.url)).send().await.unwrap();
    assert_eq!(alive.status(), 200);
}

#[tokio::test]
async fn appends_on_a_full_disk_get_507_and_resume_when_there_is_room() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    let Some(mount) = Mount::new(&data) else {
        println!("mounting is not allowed here: the fault-injected tests of the log have to do");
        return;
    };
    let ballast = data.join("ballast");
    std::fs::write(&ballast, vec![1; 8 << 20]).unwrap();
    let mut server = Server::start(directory.path(), None).await;
    let mut noise = Noise(0x9E37_79B9_7F4A_7C15);
    let stored = fill(&server, &mut noise).await;
    assert!(stored > 3, "{stored}");
    check_full(&server, stored).await;
    // Requests that come together are refused together.
    let events: Vec<Value> = (0..8).map(|n| noise.event(&format!("x{n}"), 700_000)).collect();
    let answers = futures::future::join_all(events.iter().map(|event| server.post(event))).await;
    assert!(answers.iter().all(|(status, ..)| *status == 507), "{answers:?}");
    assert_eq!(server.child.try_wait().unwrap(), None, "it lives");

    std::fs::remove_file(&ballast).unwrap();
    // Without an append, too: it is tried by the server itself.
    server.until("/readyz", 200).await;
    assert_eq!(server.get("/readyz").await["wrong"], json!([]));
    let (status, _, body) = server.post(&noise.event(&stored.to_string(), 700_000)).await;
    assert_eq!((status, &body["first_position"]), (200, &json!(stored + 1)), "{body}");
    server.counts("total", stored + 1).await;
    server.counts("recent", stored + 1).await;

    // A kill on a disk that is full again loses nothing.
    std::fs::write(&ballast, vec![1; 4 << 20]).unwrap();
    let mut more = stored + 1;
    loop {
        let (status, ..) = server.post(&noise.event(&more.to_string(), 400_000)).await;
        if status == 507 {
            break;
        }
        more += 1;
    }
    drop(server);
    std::fs::remove_file(&ballast).unwrap();
    let server = Server::start(directory.path(), None).await;
    assert_eq!(server.ids().await, ids(0..more));
    server.counts("total", more).await;
    let (status, _, body) = server.post(&noise.event("last", 100)).await;
    assert_eq!((status, &body["first_position"]), (200, &json!(more + 1)), "{body}");
    drop(server);
    drop(mount);
}

#[tokio::test]
async fn a_limit_of_file_sizes_is_a_full_disk() {
    let directory = tempfile::tempdir().unwrap();
    // The limit is the length of the indexes' journal, which is as long as a segment.
    let server = Server::start(directory.path(), Some(64 << 20)).await;
    let mut noise = Noise(0x2545_F491_4F6C_DD1D);
    let stored = fill(&server, &mut noise).await;
    check_full(&server, stored).await;
    drop(server);
    let server = Server::start(directory.path(), None).await;
    assert_eq!(server.ids().await, ids(0..stored));
    let (status, _, body) = server.post(&noise.event("more", 700_000)).await;
    assert_eq!((status, &body["first_position"]), (200, &json!(stored + 1)), "{body}");
}
