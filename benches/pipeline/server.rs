//! A server under measurement, and what is asked of it.

use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use heliostat::internals::sink::{Login, Logins, read_login};

use super::bids::QUERIES;
use super::common::{Addresses, addresses};

pub struct Workplace {
    directory: tempfile::TempDir,
}

impl Workplace {
    pub fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("queries")).unwrap();
        std::fs::write(directory.path().join("queries/bids.sql"), QUERIES).unwrap();
        Workplace { directory }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }
}

pub struct Server {
    pub child: Child,
    pub http: String,
    /// Empty without ClickHouse.
    pub clickhouse: String,
    pub data: PathBuf,
}

/// The protection between clients and the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protection {
    Nothing,
    Tokens,
    TokensAndTls,
}

impl Protection {
    /// Sets a server up with it, before it starts: its arguments, and a client that it lets in.
    pub fn set_up(self, place: &Workplace) -> (Vec<String>, reqwest::Client) {
        let plain = heliostat::internals::http::client();
        if self == Protection::Nothing {
            return (Vec::new(), plain);
        }
        let output = Command::new(env!("CARGO_BIN_EXE_heliostat"))
            .args(["token", "create", "--role", "admin", "--data-dir"])
            .arg(place.path("data"))
            .output()
            .unwrap();
        let token = String::from_utf8(output.stdout).unwrap();
        let value = format!("Bearer {}", token.trim()).parse().unwrap();
        let headers = [(reqwest::header::AUTHORIZATION, value)].into_iter().collect();
        let mut builder = reqwest::Client::builder().default_headers(headers);
        let mut arguments = Vec::new();
        if self == Protection::TokensAndTls {
            let signed = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_string()]).unwrap();
            let (certificate, key) = (place.path("cert.pem"), place.path("key.pem"));
            std::fs::write(&certificate, signed.cert.pem()).unwrap();
            std::fs::write(&key, signed.signing_key.serialize_pem()).unwrap();
            let path = |path: PathBuf| path.to_str().unwrap().to_string();
            let [certificate, key] = [path(certificate), path(key)];
            arguments =
                ["--tls-cert".to_string(), certificate, "--tls-key".to_string(), key].into();
            let known = reqwest::Certificate::from_pem(signed.cert.pem().as_bytes()).unwrap();
            builder = builder.tls_certs_only([known]);
        }
        (arguments, builder.build().unwrap())
    }
}

impl Server {
    /// Starts it, and waits until it listens.
    pub fn start(place: &Workplace, clickhouse: bool) -> Server {
        Server::start_with(place, clickhouse, &[])
    }

    pub fn start_with(place: &Workplace, clickhouse: bool, arguments: &[String]) -> Server {
        Server::start_in(place, clickhouse, arguments, None)
    }

    /// Starts it in the control group of this directory.
    pub fn start_in(
        place: &Workplace,
        clickhouse: bool,
        arguments: &[String],
        group: Option<&Path>,
    ) -> Server {
        let mut command = Command::new(env!("CARGO_BIN_EXE_heliostat"));
        command
            .args(["serve", "--listen", "127.0.0.1:0", "--clickhouse-http-port", "0"])
            .arg("--data-dir")
            .arg(place.path("data"))
            .arg("--queries")
            .arg(place.path("queries"))
            .args(arguments)
            .env("HELIOSTAT_LOG", "warn")
            .stdin(Stdio::null());
        if !clickhouse {
            command.arg("--no-clickhouse");
        }
        if let Some(processes) = group.map(|group| group.join("cgroup.procs")) {
            // SAFETY: the child, a copy of this process, only writes a file.
            unsafe { command.pre_exec(move || std::fs::write(&processes, "0")) };
        }
        let (mut child, data) = (command.spawn().unwrap(), place.path("data"));
        let Addresses { http, clickhouse } = addresses(&mut child, &data);
        Server { child, http, clickhouse: clickhouse.unwrap_or_default(), data }
    }

    /// The processes that the server has started: its ClickHouse.
    pub fn children(&self) -> Vec<i32> {
        let mut pids = Vec::new();
        for task in std::fs::read_dir(format!("/proc/{}/task", self.child.id())).unwrap() {
            let children = task.unwrap().path().join("children");
            let list = std::fs::read_to_string(children).unwrap_or_default();
            pids.extend(list.split_whitespace().filter_map(|pid| pid.parse::<i32>().ok()));
        }
        pids
    }

    /// The processes of the server itself, and that of its ClickHouse.
    pub fn processes(&self) -> (Vec<i32>, Vec<i32>) {
        let is_clickhouse = |pid: &i32| {
            let line = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            line.contains("clickhouse")
        };
        let (clickhouse, mut own): (Vec<_>, Vec<_>) =
            self.children().into_iter().partition(is_clickhouse);
        own.push(self.child.id() as i32);
        (own, clickhouse)
    }

    pub fn resident_bytes(&self) -> u64 {
        let bytes = |pid: &i32| {
            let statm = std::fs::read_to_string(format!("/proc/{pid}/statm")).unwrap_or_default();
            statm.split(' ').nth(1).map_or(0, |pages| pages.parse::<u64>().unwrap() * 4096)
        };
        self.processes().0.iter().map(bytes).sum()
    }

    /// Seconds of processors that the server has taken, and its ClickHouse.
    pub fn cpu(&self) -> (f64, f64) {
        let seconds = |pid: &i32| {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            let fields: Vec<&str> =
                stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
            // User and system time, in hundredths.
            let ticks = |at: usize| fields.get(at).map_or(0.0, |n| n.parse::<f64>().unwrap());
            (ticks(11) + ticks(12)) / 100.0
        };
        let (own, clickhouse) = self.processes();
        (own.iter().map(seconds).sum(), clickhouse.iter().map(seconds).sum())
    }

    pub fn stop(mut self) {
        // SAFETY: the process is our child and has not been waited for.
        unsafe { libc::kill(self.child.id() as i32, libc::SIGTERM) };
        self.child.wait().unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
    }
}

pub async fn get(client: &reqwest::Client, url: String) -> serde_json::Value {
    match client.get(url).send().await {
        Ok(response) => response.json().await.unwrap_or_default(),
        Err(_) => serde_json::Value::Null,
    }
}

/// Waits until the view is live and complete up to a position.
pub async fn live(client: &reqwest::Client, server: &Server, position: u64) {
    loop {
        let view = get(client, format!("{}/v1/views/by_auction", server.http)).await;
        if view["status"] == "live" && view["position"].as_u64() >= Some(position) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

pub async fn post(
    client: &reqwest::Client,
    url: &str,
    body: bytes::Bytes,
) -> reqwest::Result<bool> {
    let request = client.post(url).header("content-type", "application/x-ndjson").body(body);
    let response = request.send().await?;
    let ok = response.status().is_success();
    response.bytes().await?;
    Ok(ok)
}

pub async fn count_in_clickhouse(client: &reqwest::Client, server: &Server) -> u64 {
    count_at(client, &server.clickhouse, &server.data).await
}

/// The bids that the view shows in the ClickHouse at `url`; 0 while there is none.
pub async fn count_at(client: &reqwest::Client, url: &str, data: &Path) -> u64 {
    ask(client, url, data, "SELECT sum(bids) FROM heliostat.by_auction").await
}

/// A number that the ClickHouse at `url` answers; 0 while it does not.
pub async fn ask(client: &reqwest::Client, url: &str, data: &Path, sql: &str) -> u64 {
    let Ok(Login { user, password }) = read_login(&Logins::own_file(data)) else { return 0 };
    let sql = sql.to_string();
    let text = match client.post(url).basic_auth(user, Some(password)).body(sql).send().await {
        Ok(response) => response.text().await.unwrap_or_default(),
        Err(_) => String::new(),
    };
    text.trim().parse().unwrap_or(0)
}
