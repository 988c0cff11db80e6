//! The whole path, measured: stored log → view, HTTP → disk → view → ClickHouse, freshness,
//! acknowledgements. `cargo bench --bench pipeline [-- SECTION…]` with the sections `machine`,
//! `replay`, `ingest`, `secured`, `identities`, `fresh`, `acks`, `outage`, `restart`, `views`, `budget`, `final`; all of
//! them but `budget` by default. `HELIOSTAT_BENCH_IDS` sets how many events `identities` stores, `HELIOSTAT_BENCH_KEYS` how many
//! keys `restart` has, `HELIOSTAT_BENCH_SECONDS` how long `ingest` (60), `fresh` (20) and each half of `budget` (900) run.
//!
//! The events are bids as in Nexmark: about 250 bytes, half of them on a few hot auctions, the rest
//! spread, about one auction in fifteen bids.

mod budget;
#[path = "../../tests/common/mod.rs"]
mod common;
mod final_reads;
mod restart;
mod views;

use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::rng::Rng;
use common::{Addresses, addresses};
use heliostat::internals::decode::TableDecoder;
use heliostat::internals::log::{Frame, Log, LogOptions};
use heliostat::internals::model::NewEvent;
use heliostat::internals::model::{SourceColumn, SourceTable};
use heliostat::internals::sink::{Login, Logins, read_login};

const QUERIES: &str = "
CREATE TABLE bids (auction BIGINT NOT NULL, bidder BIGINT NOT NULL, price BIGINT NOT NULL, channel TEXT, url TEXT,
  date_time TIMESTAMP(3), extra TEXT) WITH (event_type = 'Bid', fields = 'camelCase');
CREATE MATERIALIZED VIEW by_auction AS
  SELECT auction, count(*) AS bids, sum(price) AS total, max(price) AS top, avg(price) AS mean FROM bids GROUP BY auction;
";
const BATCH: usize = 500;

/// The payload of bid number `n`.
fn bid(n: u64, rng: &mut Rng) -> String {
    let newest = n / 15 + 1;
    let auction = match rng.below(2) {
        0 => newest / 100 * 100,
        _ => newest.saturating_sub(rng.below(100)),
    };
    let (bidder, price) = (rng.below(100_000), 100 + rng.below(1_000_000));
    let channel = ["Google", "Facebook", "Baidu", "Apple"][rng.below(4) as usize];
    let at = 1_700_000_000_000 + n;
    let (seconds, millis) = (at / 1000 % 86_400, at % 1000);
    let (h, m, s) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    format!(
        r#"{{"auction":{auction},"bidder":{bidder},"price":{price},"channel":"{channel}","url":"https://www.nexmark.com/{:x}/item.htm?query=1&channel_id={:x}","dateTime":"2023-11-14T{h:02}:{m:02}:{s:02}.{millis:03}Z","extra":"{:016x}{:016x}{:08x}"}}"#,
        rng.below(u64::MAX),
        rng.below(1 << 32),
        rng.below(u64::MAX),
        rng.below(u64::MAX),
        rng.below(1 << 32),
    )
}

fn event(n: u64, rng: &mut Rng) -> NewEvent {
    NewEvent {
        id: format!("{n:016x}"),
        source: String::new(),
        event_type: "Bid".to_string(),
        version: 1,
        stream: None,
        time_us: 1_700_000_000_000_000 + n as i64,
        data: bid(n, rng).into_bytes(),
        metadata: Vec::new(),
    }
}

fn percentile(sorted: &[f64], p: f64) -> f64 {
    let at = (sorted.len() as f64 * p).ceil() as usize;
    sorted.get(at.saturating_sub(1)).copied().unwrap_or(f64::NAN)
}

fn ms(seconds: f64) -> String {
    format!("{:.1} ms", seconds * 1e3)
}

struct Workplace {
    directory: tempfile::TempDir,
}

impl Workplace {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("queries")).unwrap();
        std::fs::write(directory.path().join("queries/bids.sql"), QUERIES).unwrap();
        Workplace { directory }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }
}

struct Server {
    child: Child,
    http: String,
    /// Empty without ClickHouse.
    clickhouse: String,
    data: PathBuf,
}

/// The protection between clients and the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Protection {
    Nothing,
    Tokens,
    TokensAndTls,
}

impl Protection {
    /// Sets a server up with it, before it starts: its arguments, and a client that it lets in.
    fn set_up(self, place: &Workplace) -> (Vec<String>, reqwest::Client) {
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
    fn start(place: &Workplace, clickhouse: bool) -> Server {
        Server::start_with(place, clickhouse, &[])
    }

    fn start_with(place: &Workplace, clickhouse: bool, arguments: &[String]) -> Server {
        Server::start_in(place, clickhouse, arguments, None)
    }

    /// Starts it in the control group of this directory.
    fn start_in(
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
    fn children(&self) -> Vec<i32> {
        let mut pids = Vec::new();
        for task in std::fs::read_dir(format!("/proc/{}/task", self.child.id())).unwrap() {
            let children = task.unwrap().path().join("children");
            let list = std::fs::read_to_string(children).unwrap_or_default();
            pids.extend(list.split_whitespace().filter_map(|pid| pid.parse::<i32>().ok()));
        }
        pids
    }

    /// The processes of the server itself, and that of its ClickHouse.
    fn processes(&self) -> (Vec<i32>, Vec<i32>) {
        let is_clickhouse = |pid: &i32| {
            let line = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            line.contains("clickhouse")
        };
        let (clickhouse, mut own): (Vec<_>, Vec<_>) =
            self.children().into_iter().partition(is_clickhouse);
        own.push(self.child.id() as i32);
        (own, clickhouse)
    }

    fn resident_bytes(&self) -> u64 {
        let bytes = |pid: &i32| {
            let statm = std::fs::read_to_string(format!("/proc/{pid}/statm")).unwrap_or_default();
            statm.split(' ').nth(1).map_or(0, |pages| pages.parse::<u64>().unwrap() * 4096)
        };
        self.processes().0.iter().map(bytes).sum()
    }

    /// Seconds of processors that the server has taken, and its ClickHouse.
    fn cpu(&self) -> (f64, f64) {
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

    fn stop(mut self) {
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

async fn get(client: &reqwest::Client, url: String) -> serde_json::Value {
    match client.get(url).send().await {
        Ok(response) => response.json().await.unwrap_or_default(),
        Err(_) => serde_json::Value::Null,
    }
}

/// Waits until the view is live and complete up to a position.
async fn live(client: &reqwest::Client, server: &Server, position: u64) {
    loop {
        let view = get(client, format!("{}/v1/views/by_auction", server.http)).await;
        if view["status"] == "live" && view["position"].as_u64() >= Some(position) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// The speed of the machine itself: all other results are read beside these.
fn machine() {
    let place = Workplace::new();
    let mut file = std::fs::File::create(place.path("sync")).unwrap();
    let mut times: Vec<f64> = (0..300)
        .map(|_| {
            file.write_all(&[7; 4096]).unwrap();
            let started = Instant::now();
            file.sync_data().unwrap();
            started.elapsed().as_secs_f64()
        })
        .collect();
    times.sort_by(f64::total_cmp);
    println!(
        "fdatasync of 4 KiB: p50 {}, p99 {}",
        ms(percentile(&times, 0.5)),
        ms(percentile(&times, 0.99))
    );
    let from = vec![1_u64; 32 << 20];
    let mut to = vec![0_u64; 32 << 20];
    let started = Instant::now();
    for _ in 0..4 {
        to.copy_from_slice(std::hint::black_box(&from));
        std::hint::black_box(&to);
    }
    let bytes = 4.0 * 2.0 * (from.len() * 8) as f64;
    println!("memory copy, one core: {:.1} GB/s", bytes / started.elapsed().as_secs_f64() / 1e9);
    let mut rng = Rng::new(1);
    let events: Vec<NewEvent> = (0..200_000).map(|n| event(n, &mut rng)).collect();
    let raw: usize = events.iter().map(|e| e.data.len()).sum();
    println!("a bid's payload: {} bytes", raw / events.len());
    let frame = Frame::new(1, 1, events.iter()).unwrap();
    let file =
        heliostat::internals::plan::SourceFile { path: "bids.sql".into(), text: QUERIES.into() };
    let set = heliostat::internals::plan::plan_files(
        &[file.into()],
        "bench",
        heliostat::internals::sink::KINDS,
    );
    let table = SourceTable::Declared(set.tables[0].clone());
    for (what, columns) in [("2 of 7 columns", 2), ("7 of 7 columns", 7)] {
        let columns = [0, 2, 1, 3, 4, 5, 6][..columns].iter().map(|c| SourceColumn::Declared(*c));
        let mut columns: Vec<SourceColumn> = columns.collect();
        columns.sort();
        let mut decoder = TableDecoder::new(table.clone(), columns);
        let started = Instant::now();
        let read = frame.decompress().unwrap();
        for event in read.iter() {
            decoder.push(&event);
        }
        let rows = decoder.finish().rows.num_rows();
        let rate = rows as f64 / started.elapsed().as_secs_f64() / 1e6;
        println!("decompress and decode JSON, {what}, one core: {rate:.2} M events/s");
    }
}

/// From a stored log to the view, in a server that has just started.
async fn replay(events: u64) {
    let place = Workplace::new();
    let log = Log::open(
        &heliostat::internals::log::directory(&place.path("data")),
        LogOptions::default(),
    )
    .unwrap();
    let mut rng = Rng::new(2);
    let mut n = 0;
    while n < events {
        let group: Vec<NewEvent> =
            (0..20_000.min(events - n)).map(|i| event(n + i, &mut rng)).collect();
        n += group.len() as u64;
        log.append(group).await.unwrap();
    }
    let disk = log.stats().disk_bytes;
    log.close();
    drop(log);
    let client = heliostat::internals::http::client();
    let empty = Workplace::new();
    let started = Instant::now();
    let server = Server::start(&empty, false);
    live(&client, &server, 0).await;
    let start_up = started.elapsed().as_secs_f64();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let base = server.resident_bytes();
    server.stop();
    let started = Instant::now();
    let server = Server::start(&place, false);
    live(&client, &server, events).await;
    let seconds = started.elapsed().as_secs_f64();
    let view = get(&client, format!("{}/v1/views/by_auction", server.http)).await;
    let groups = view["rows"].as_u64().unwrap();
    println!(
        "stored log → view: {events} events ({} MB on disk) into {groups} groups in {seconds:.2} s: {:.2} M events/s, {:.2} M without the start-up of {start_up:.2} s",
        disk >> 20,
        events as f64 / seconds / 1e6,
        events as f64 / (seconds - start_up) / 1e6
    );
    tokio::time::sleep(Duration::from_secs(2)).await;
    let full = server.resident_bytes();
    server.stop();
    println!(
        "resident memory at rest: {} MB, of an empty server {} MB: {} bytes per group",
        full >> 20,
        base >> 20,
        full.saturating_sub(base) / groups.max(1)
    );
}

fn body(first: u64, rng: &mut Rng, count: usize) -> Vec<u8> {
    let mut body = Vec::with_capacity(count * 320);
    for n in 0..count as u64 {
        body.extend_from_slice(br#"{"type":"Bid","data":"#);
        body.extend_from_slice(bid(first + n, rng).as_bytes());
        body.extend_from_slice(b"}\n");
    }
    body
}

/// A body whose events have ids and streams of their own. Ids must not repeat, so they are written
/// when it is sent.
struct NamedBody {
    text: Vec<u8>,
    /// Where the ids stand, which are 16 digits each.
    ids: Vec<usize>,
}

impl NamedBody {
    fn new(first: u64, rng: &mut Rng, count: usize) -> Self {
        let mut named = NamedBody { text: Vec::with_capacity(count * 380), ids: Vec::new() };
        for n in 0..count as u64 {
            let head = format!(
                r#"{{"type":"Bid","source":"bench","stream":"auction-{}","id":""#,
                (first + n) / 15 + rng.below(100)
            );
            named.text.extend_from_slice(head.as_bytes());
            named.ids.push(named.text.len());
            let rest = format!("0000000000000000\",\"data\":{}}}\n", bid(first + n, rng));
            named.text.extend_from_slice(rest.as_bytes());
        }
        named
    }

    fn with_ids_from(&self, first: u64) -> bytes::Bytes {
        let mut text = self.text.clone();
        for (n, at) in self.ids.iter().enumerate() {
            let id = format!("{:016x}", first + n as u64);
            text[*at..at + 16].copy_from_slice(id.as_bytes());
        }
        text.into()
    }
}

async fn post(client: &reqwest::Client, url: &str, body: bytes::Bytes) -> reqwest::Result<bool> {
    let request = client.post(url).header("content-type", "application/x-ndjson").body(body);
    let response = request.send().await?;
    let ok = response.status().is_success();
    response.bytes().await?;
    Ok(ok)
}

async fn count_in_clickhouse(client: &reqwest::Client, server: &Server) -> u64 {
    count_at(client, &server.clickhouse, &server.data).await
}

/// The bids that the view shows in the ClickHouse at `url`; 0 while there is none.
async fn count_at(client: &reqwest::Client, url: &str, data: &Path) -> u64 {
    ask(client, url, data, "SELECT sum(bids) FROM heliostat.by_auction").await
}

/// A number that the ClickHouse at `url` answers; 0 while it does not.
async fn ask(client: &reqwest::Client, url: &str, data: &Path, sql: &str) -> u64 {
    let Ok(Login { user, password }) = read_login(&Logins::own_file(data)) else { return 0 };
    let sql = sql.to_string();
    let text = match client.post(url).basic_auth(user, Some(password)).body(sql).send().await {
        Ok(response) => response.text().await.unwrap_or_default(),
        Err(_) => String::new(),
    };
    text.trim().parse().unwrap_or(0)
}

/// HTTP → disk → view → ClickHouse, for as long as it is told; with `named`, events come with ids
/// and streams. Returns the events per second.
async fn ingest(seconds: u64, named: bool, protection: Protection) -> f64 {
    let place = Workplace::new();
    let (arguments, client) = protection.set_up(&place);
    let server = Server::start_with(&place, true, &arguments);
    live(&client, &server, 0).await;
    // Bodies are made beforehand: their making is not what is measured.
    let mut rng = Rng::new(3);
    let bodies: Vec<NamedBody> = (0..2000)
        .map(|i| match named {
            true => NamedBody::new(i * BATCH as u64, &mut rng, BATCH),
            false => NamedBody { text: body(i * BATCH as u64, &mut rng, BATCH), ids: Vec::new() },
        })
        .collect();
    let bodies = std::sync::Arc::new(bodies);
    let next_id = std::sync::Arc::new(std::sync::atomic::AtomicU64::new(0));
    let url = format!("{}/v1/events", server.http);
    let started = Instant::now();
    let clients: Vec<_> = (0..4)
        .map(|c| {
            let (client, url, bodies) = (client.clone(), url.clone(), bodies.clone());
            let next_id = next_id.clone();
            tokio::spawn(async move {
                let mut sent = 0_u64;
                let mut at = c * 500;
                while started.elapsed() < Duration::from_secs(seconds) {
                    let first =
                        next_id.fetch_add(BATCH as u64, std::sync::atomic::Ordering::Relaxed);
                    let body = bodies[at % bodies.len()].with_ids_from(first);
                    if post(&client, &url, body).await.unwrap() {
                        sent += BATCH as u64;
                        at += 1;
                    } else {
                        tokio::time::sleep(Duration::from_millis(20)).await;
                    }
                }
                sent
            })
        })
        .collect();
    let mut sent = 0;
    for client in clients {
        sent += client.await.unwrap();
    }
    let posted = started.elapsed().as_secs_f64();
    let clickhouse = heliostat::internals::http::client();
    while count_in_clickhouse(&clickhouse, &server).await < sent {
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert!(started.elapsed() < Duration::from_secs(seconds + 120), "ClickHouse falls behind");
    }
    let shown = started.elapsed().as_secs_f64();
    let what = match (named, protection) {
        (true, _) => ", with ids and streams",
        (false, Protection::Nothing) => "",
        (false, Protection::Tokens) => ", with a token",
        (false, Protection::TokensAndTls) => ", with a token over TLS",
    };
    println!(
        "HTTP → disk → view → ClickHouse{what}: {sent} events in {posted:.1} s, all shown after {shown:.1} s: {:.0} k events/s; {} MB resident",
        sent as f64 / shown / 1e3,
        server.resident_bytes() >> 20
    );
    server.stop();
    sent as f64 / shown
}

/// Largest share of the rate of ingest that tokens and TLS may cost.
const SECURED_COST_MAX: f64 = 0.15;

/// The cost of tokens and TLS: ingest with and without them in turn, and whether that is within the limit.
async fn secured(rounds: usize, seconds: u64) {
    let all = [Protection::Nothing, Protection::Tokens, Protection::TokensAndTls];
    let mut rates = [const { Vec::new() }; 3];
    for _ in 0..rounds {
        for (rates, protection) in rates.iter_mut().zip(all) {
            rates.push(ingest(seconds, false, protection).await);
        }
    }
    let [plain, tokens, tls] = rates.map(|mut rates| {
        rates.sort_by(f64::total_cmp);
        rates[rates.len() / 2]
    });
    println!("medians of {rounds} rounds:");
    for (name, rate) in [("tokens", tokens), ("tokens and TLS", tls)] {
        let cost = 1.0 - rate / plain;
        let verdict = if cost <= SECURED_COST_MAX { "within" } else { "BEYOND" };
        println!(
            "{name}: {rate:.0} of {plain:.0} events/s, a cost of {:.1} %: {verdict} the limit of {:.0} %",
            100.0 * cost,
            100.0 * SECURED_COST_MAX
        );
    }
}

/// When batches were posted, with how many events there were by then.
type Posts = std::sync::Mutex<std::collections::VecDeque<(u64, Instant)>>;

/// Notes the delays of what is shown by now.
fn drain(posts: &Posts, shown: u64, delays: &mut Vec<f64>) {
    let mut posts = posts.lock().unwrap();
    while posts.front().is_some_and(|(total, _)| *total <= shown) {
        let (_, at) = posts.pop_front().unwrap();
        delays.push(at.elapsed().as_secs_f64());
    }
}

/// At 5,000 events a second: from POST to visible in ClickHouse.
async fn fresh(seconds: u64) {
    let place = Workplace::new();
    let server = Server::start(&place, true);
    let client = heliostat::internals::http::client();
    live(&client, &server, 0).await;
    let url = format!("{}/v1/events", server.http);
    let mut rng = Rng::new(4);
    let mut sent = 0_u64;
    let posts = std::sync::Arc::new(Posts::default());
    let watcher = {
        let (client, clickhouse, posts) =
            (client.clone(), server.clickhouse.clone(), posts.clone());
        let data = server.data.clone();
        tokio::spawn(async move {
            let mut delays = Vec::new();
            let end = Instant::now() + Duration::from_secs(seconds + 5);
            while Instant::now() < end {
                let shown = count_at(&client, &clickhouse, &data).await;
                drain(&posts, shown, &mut delays);
                tokio::time::sleep(Duration::from_millis(15)).await;
            }
            delays
        })
    };
    let mut pace = tokio::time::interval(Duration::from_millis(20));
    let started = Instant::now();
    while started.elapsed() < Duration::from_secs(seconds) {
        pace.tick().await;
        let body = body(sent, &mut rng, 100);
        sent += 100;
        posts.lock().unwrap().push_back((sent, Instant::now()));
        assert!(post(&client, &url, body.into()).await.unwrap());
    }
    let mut delays = watcher.await.unwrap();
    delays.sort_by(f64::total_cmp);
    println!(
        "POST → visible in ClickHouse at {:.0} events/s: p50 {}, p99 {} ({} of {} batches)",
        sent as f64 / seconds as f64,
        ms(percentile(&delays, 0.5)),
        ms(percentile(&delays, 0.99)),
        delays.len(),
        sent / 100
    );
    server.stop();
}

/// A client that costs next to nothing, so that the server is what is measured: one connection, one
/// request at a time.
struct LeanClient {
    stream: tokio::net::TcpStream,
    answer: Vec<u8>,
}

impl LeanClient {
    async fn connect(server: &Server) -> Self {
        let address = server.http.strip_prefix("http://").unwrap();
        let stream = tokio::net::TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        LeanClient { stream, answer: Vec::new() }
    }

    async fn post(&mut self, body: &[u8]) {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let mut request = format!(
            "POST /v1/events HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/x-ndjson\r\ncontent-length: {}\r\n\r\n",
            body.len()
        )
        .into_bytes();
        request.extend_from_slice(body);
        self.stream.write_all(&request).await.unwrap();
        self.answer.clear();
        // The answer is one JSON object, which ends the message.
        while self.answer.last() != Some(&b'}') {
            assert!(self.stream.read_buf(&mut self.answer).await.unwrap() > 0);
        }
        assert!(self.answer.starts_with(b"HTTP/1.1 200"));
    }
}

/// Acknowledgements of single events, by one client and by 64.
async fn acks(seconds: u64) {
    let place = Workplace::new();
    let server = Server::start(&place, false);
    let client = heliostat::internals::http::client();
    live(&client, &server, 0).await;
    let mut rates = Vec::new();
    for clients in [1_u64, 64] {
        let started = Instant::now();
        let mut tasks = Vec::new();
        for c in 0..clients {
            let mut client = LeanClient::connect(&server).await;
            tasks.push(tokio::spawn(async move {
                let bodies: Vec<Vec<u8>> =
                    (0..16).map(|n| body(n, &mut Rng::new(5 + c), 1)).collect();
                let mut times = Vec::new();
                while started.elapsed() < Duration::from_secs(seconds) {
                    let sent = Instant::now();
                    client.post(&bodies[times.len() % bodies.len()]).await;
                    times.push(sent.elapsed().as_secs_f64());
                }
                times
            }));
        }
        let mut times = Vec::new();
        for task in tasks {
            times.extend(task.await.unwrap());
        }
        times.sort_by(f64::total_cmp);
        let rate = times.len() as f64 / seconds as f64;
        println!(
            "acknowledgement of single events, {clients} clients: {rate:.0}/s, p50 {}, p99 {}",
            ms(percentile(&times, 0.5)),
            ms(percentile(&times, 0.99))
        );
        rates.push(rate);
    }
    println!("64 clients : 1 client = {:.1} : 1", rates[1] / rates[0]);
    server.stop();
}

/// ClickHouse stands still under load, and comes back.
async fn outage(seconds: u64) {
    let place = Workplace::new();
    let server = Server::start(&place, true);
    let client = heliostat::internals::http::client();
    live(&client, &server, 0).await;
    let url = format!("{}/v1/events", server.http);
    let mut rng = Rng::new(6);
    let bodies: Vec<bytes::Bytes> =
        (0..1000).map(|i| body(i * BATCH as u64, &mut rng, BATCH).into()).collect();
    let (mut sent, mut failed, mut resident) = (0_u64, 0, 0);
    let pids = server.children();
    let signal = |signal| {
        for pid in &pids {
            // SAFETY: processes that our child has started.
            unsafe { libc::kill(*pid, signal) };
        }
    };
    let mut pace = tokio::time::interval(Duration::from_millis(10));
    let started = Instant::now();
    let mut stopped = false;
    while started.elapsed() < Duration::from_secs(seconds + 5) {
        if !stopped && started.elapsed() > Duration::from_secs(5) {
            stopped = true;
            signal(libc::SIGSTOP);
        }
        pace.tick().await;
        let body = bodies[(sent / BATCH as u64) as usize % bodies.len()].clone();
        if post(&client, &url, body).await.unwrap_or(false) {
            sent += BATCH as u64;
        } else {
            failed += 1;
        }
        resident = resident.max(server.resident_bytes());
    }
    signal(libc::SIGCONT);
    let back = Instant::now();
    while count_in_clickhouse(&client, &server).await < sent {
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert!(back.elapsed() < Duration::from_secs(120), "ClickHouse does not catch up");
    }
    println!(
        "ClickHouse away for {seconds} s at {:.0} k events/s: {failed} requests failed, at most {} MB resident, right {:.1} s after its return",
        sent as f64 / (seconds + 5) as f64 / 1e3,
        resident >> 20,
        back.elapsed().as_secs_f64()
    );
    server.stop();
}

/// The cost of knowing every id and stream: the log alone, without HTTP and views, for small events with ids
/// of their own, ten to a stream.
async fn identities(events: u64) {
    const GROUP: u64 = 5000;
    let place = Workplace::new();
    let directory = heliostat::internals::log::directory(&place.path("data"));
    let log = Log::open(&directory, LogOptions::default()).unwrap();
    let event = |n: u64| NewEvent {
        // Spread, as ids are that clients make.
        id: format!("{:016x}", n.wrapping_mul(0x9E37_79B9_7F4A_7C15)),
        source: "bench".to_string(),
        event_type: "Small".to_string(),
        version: 1,
        stream: Some(format!("stream-{}", (n / 10) ^ (n % 7))),
        time_us: 0,
        data: b"{}".to_vec(),
        metadata: Vec::new(),
    };
    let (mut n, mut note) = (0, events / 16);
    let (mut since, mut from) = (Instant::now(), 0);
    while n < events {
        let group: Vec<NewEvent> = (n..n + GROUP).map(event).collect();
        n += GROUP;
        assert_eq!(log.append(group).await.unwrap().stored as u64, GROUP);
        if n >= note {
            let micros = since.elapsed().as_secs_f64() * 1e6 / (n - from) as f64;
            println!(
                "log with {} M ids: {micros:.2} µs an event, {:.1} bytes of index an event, {} MB resident",
                n / 1_000_000,
                log.index_bytes() as f64 / n as f64,
                own_resident_bytes() >> 20
            );
            (since, from, note) = (Instant::now(), n, note * 2);
        }
    }
    let mut rng = Rng::new(9);
    let started = Instant::now();
    let known: u64 = 200_000;
    for _ in 0..known / 1000 {
        // An id once in a request: multiples keep them apart.
        let first = rng.below(events / 1000);
        let group: Vec<NewEvent> = (0..1000).map(|i| event(first + i * (events / 1000))).collect();
        assert_eq!(log.append(group).await.unwrap().stored, 0);
    }
    let micros = started.elapsed().as_secs_f64() * 1e6 / known as f64;
    println!("an event that is known already, at random: {micros:.2} µs");
    log.close();
    drop(log);
    let started = Instant::now();
    let log = Log::open(&directory, LogOptions::default()).unwrap();
    println!("opening the log with its indexes: {:.2} s", started.elapsed().as_secs_f64());
    log.close();
    drop(log);
    std::fs::remove_dir_all(directory.join("index")).unwrap();
    let started = Instant::now();
    let log = Log::open(&directory, LogOptions::default()).unwrap();
    let seconds = started.elapsed().as_secs_f64();
    println!("without them: {seconds:.1} s, {:.2} M events/s", events as f64 / seconds / 1e6);
    log.close();
}

fn own_resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

/// The number of a variable.
fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|number| number.parse().ok())
}

fn main() {
    let seconds = setting("HELIOSTAT_BENCH_SECONDS");
    let wanted: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with("--")).collect();
    let wants = |section: &str| wanted.is_empty() || wanted.iter().any(|w| w == section);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    assert!(Path::new(env!("CARGO_BIN_EXE_heliostat")).exists());
    if wants("machine") {
        machine();
    }
    runtime.block_on(async {
        if wants("replay") {
            replay(2_700_000).await;
        }
        if wants("ingest") {
            let plain = ingest(seconds.unwrap_or(60), false, Protection::Nothing).await;
            let named = ingest(seconds.unwrap_or(60), true, Protection::Nothing).await;
            println!("ids and streams keep {:.0} % of the rate", 100.0 * named / plain);
        }
        if wants("secured") {
            secured(3, 20).await;
        }
        if wants("identities") {
            identities(setting("HELIOSTAT_BENCH_IDS").unwrap_or(20_000_000)).await;
        }
        if wants("fresh") {
            fresh(seconds.unwrap_or(20)).await;
        }
        if wants("acks") {
            acks(5).await;
        }
        if wants("outage") {
            outage(60).await;
        }
        if wants("restart") {
            restart::restart(setting("HELIOSTAT_BENCH_KEYS").unwrap_or(1_000_000)).await;
        }
        if wants("views") {
            views::views(60).await;
        }
        // Half an hour.
        if wanted.iter().any(|section| section == "budget") {
            budget::budget(seconds.unwrap_or(900)).await;
        }
        if wants("final") {
            final_reads::final_reads().await;
        }
    });
}
