//! State of several times the memory that there is. The server runs in a control group of its own; one view
//! keeps two sums for each of `HELIOSTAT_BENCH_BUDGET_KEYS` keys (30 M), and keys are updated, first all alike,
//! then 90 % of the time one in a hundred, for `HELIOSTAT_BENCH_SECONDS` each (900). Some keys are compared
//! with what was sent.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::common::rng::Rng;
use super::numbers::setting;
use super::server::{Server, Workplace, get, post};

const QUERIES: &str = "
CREATE TABLE s (k TEXT NOT NULL, v BIGINT NOT NULL) WITH (event_type = 'S');
CREATE MATERIALIZED VIEW sums WITH (clickhouse = false) AS SELECT k, count(*) AS n, sum(v) AS total FROM s GROUP BY k;
";
/// Memory of the control group, of which the read side's budget is 60 %.
const GROUP_BYTES: u64 = 1 << 30;
const BUDGET_BYTES: u64 = GROUP_BYTES / 10 * 6;
const BATCH: u64 = 2_000;
/// Requests wait while so many events are on their way to the view.
const EVENTS_AHEAD: u64 = 200_000;
const COMPARED: u64 = 5_000;

/// A control group with a limit of memory, gone when this is dropped.
struct ControlGroup {
    directory: PathBuf,
    /// Of the first version of control groups, whose files have other names.
    first: bool,
}

impl ControlGroup {
    fn new() -> std::io::Result<ControlGroup> {
        let first = Path::new("/sys/fs/cgroup/memory/memory.limit_in_bytes").exists();
        let root = if first { "/sys/fs/cgroup/memory" } else { "/sys/fs/cgroup" };
        let directory = Path::new(root).join(format!("heliostat-bench-{}", std::process::id()));
        std::fs::create_dir(&directory)?;
        let group = ControlGroup { directory, first };
        let limit = if first { "memory.limit_in_bytes" } else { "memory.max" };
        std::fs::write(group.directory.join(limit), GROUP_BYTES.to_string())?;
        Ok(group)
    }

    /// The bytes of memory that are no pages of files.
    fn taken(&self) -> u64 {
        let name = if self.first { "total_rss" } else { "anon" };
        self.number("memory.stat", name)
    }

    /// How often the kernel has ended a process for its memory.
    fn ended(&self) -> u64 {
        let file = if self.first { "memory.oom_control" } else { "memory.events" };
        self.number(file, "oom_kill")
    }

    fn number(&self, file: &str, name: &str) -> u64 {
        let text = std::fs::read_to_string(self.directory.join(file)).unwrap_or_default();
        let mut lines = text.lines().filter_map(|line| line.split_once(' '));
        lines
            .find(|(found, _)| *found == name)
            .and_then(|(_, n)| n.trim().parse().ok())
            .unwrap_or(0)
    }
}

impl Drop for ControlGroup {
    fn drop(&mut self) {
        // Processes leave it a moment after they have ended.
        for _ in 0..50 {
            if std::fs::remove_dir(&self.directory).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

fn key(n: u64) -> String {
    format!("{:024x}", u128::from(n) * 0x9e37_79b9_7f4a_7c15)
}

/// What was sent for each key: the number of events, and the sum of their values.
struct Sent {
    counts: Vec<u32>,
    sums: Vec<u64>,
    events: u64,
}

impl Sent {
    fn body(&mut self, rng: &mut Rng, mut draw: impl FnMut(&mut Rng) -> u64) -> Vec<u8> {
        let mut lines = String::new();
        for _ in 0..BATCH {
            let (n, value) = (draw(rng), rng.below(1_000));
            self.counts[n as usize] += 1;
            self.sums[n as usize] += value;
            lines +=
                &format!("{{\"type\":\"S\",\"data\":{{\"k\":\"{}\",\"v\":{value}}}}}\n", key(n));
        }
        self.events += BATCH;
        lines.into_bytes()
    }
}

async fn view(client: &reqwest::Client, server: &Server) -> serde_json::Value {
    get(client, format!("{}/v1/views/sums", server.http)).await
}

/// Sends until `ends`, never far ahead of the view, and waits for it; the events that it took a second, and
/// the most memory that the group took.
async fn send(
    server: &Server,
    group: &ControlGroup,
    sent: &mut Sent,
    rng: &mut Rng,
    mut draw: impl FnMut(&mut Rng) -> u64,
    ends: impl Fn(&Sent) -> bool,
) -> (f64, u64) {
    let client = heliostat::internals::http::client();
    let url = format!("{}/v1/events", server.http);
    let (before, started, mut most) = (sent.events, Instant::now(), 0);
    let (mut shown, mut reported) = (before, Instant::now());
    loop {
        let is_over = ends(sent);
        if is_over && shown >= sent.events {
            break;
        }
        if is_over || sent.events - shown > EVENTS_AHEAD {
            tokio::time::sleep(Duration::from_millis(5)).await;
            let told = view(&client, server).await;
            assert!(told["status"] != "failed", "{told}");
            shown = told["position"].as_u64().unwrap_or(shown);
            most = most.max(group.taken());
            if reported.elapsed() > Duration::from_secs(60) {
                reported = Instant::now();
                println!("  {shown} events, {} MB taken", group.taken() >> 20);
            }
            continue;
        }
        let body = sent.body(rng, &mut draw);
        assert!(post(&client, &url, body.into()).await.unwrap());
    }
    ((sent.events - before) as f64 / started.elapsed().as_secs_f64(), most)
}

pub async fn budget(seconds: u64) {
    let keys = setting("HELIOSTAT_BENCH_BUDGET_KEYS").unwrap_or(30_000_000);
    let group = match ControlGroup::new() {
        Ok(group) => group,
        Err(error) => return println!("budget: there can be no control group: {error}"),
    };
    let place = Workplace::new();
    std::fs::write(place.path("queries/bids.sql"), QUERIES).unwrap();
    let arguments = ["--memory".to_string(), BUDGET_BYTES.to_string()];
    let server = Server::start_in(&place, false, &arguments, Some(&group.directory));
    let mut rng = Rng::new(15);
    let mut sent = Sent { counts: vec![0; keys as usize], sums: vec![0; keys as usize], events: 0 };
    let processes = server.processes().0;

    let mut next = 0;
    let each = |_: &mut Rng| {
        next += 1;
        (next * 7_919) % keys
    };
    let (rate, most) =
        send(&server, &group, &mut sent, &mut rng, each, |sent| sent.events >= keys).await;
    let client = heliostat::internals::http::client();
    let told = view(&client, &server).await;
    let bytes = |member: &str| told[member].as_u64().unwrap_or(0);
    let state = bytes("state_bytes") + bytes("state_file_bytes");
    println!(
        "{keys} keys, {rate:.0} new ones a second: {} MB of state, {:.1} times the budget of {} MB, {} MB of it in files; at most {} MB taken of {} MB",
        state >> 20,
        state as f64 / BUDGET_BYTES as f64,
        BUDGET_BYTES >> 20,
        bytes("state_file_bytes") >> 20,
        most >> 20,
        GROUP_BYTES >> 20,
    );
    for (what, hot) in [("all keys alike", false), ("90 % of them on 1 % of the keys", true)] {
        let end = Instant::now() + Duration::from_secs(seconds);
        let draw = |rng: &mut Rng| match hot && !rng.one_in(10) {
            true => rng.below(keys / 100),
            false => rng.below(keys),
        };
        let over = |_: &Sent| Instant::now() > end;
        let (rate, most) = send(&server, &group, &mut sent, &mut rng, draw, over).await;
        println!("updates, {what}: {rate:.0}/s for {seconds} s, at most {} MB taken", most >> 20);
    }
    let mut wrong = 0;
    for _ in 0..COMPARED {
        let n = rng.below(keys);
        let url = format!("{}/v1/views/sums/rows?k={}", server.http, key(n));
        let rows = get(&client, url).await["rows"].clone();
        let expected = (u64::from(sent.counts[n as usize]), sent.sums[n as usize].to_string());
        let text = |member: &str| rows[0][member].to_string().trim_matches('"').to_string();
        let is_right = text("n") == expected.0.to_string() && text("total") == expected.1;
        wrong += u64::from(!is_right);
    }
    let same = server.processes().0 == processes;
    println!(
        "{COMPARED} keys compared: {wrong} are wrong; {} processes were ended by the kernel, {}",
        group.ended(),
        if same { "none was started anew" } else { "SOME WERE STARTED ANEW" }
    );
    server.stop();
}
