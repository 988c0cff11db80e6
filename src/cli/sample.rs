//! `heliostat sample`: sends sample orders to a running server.

pub mod orders;

use std::future::Future;
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use reqwest::header::{CONTENT_TYPE, RETRY_AFTER};
use reqwest::{Client, Response, StatusCode};
use tokio::time::{MissedTickBehavior, interval, sleep};

use super::client::{ClientArgs, ClientError};
use super::{DONE, ENVIRONMENT, WRONG_INPUT, report};
use crate::model::clock;
use orders::Orders;

/// Fewer requests than this per second are sent whatever the rate; what is more goes in batches.
const REQUESTS_PER_SECOND_MAX: f64 = 20.0;

/// The most events in one request.
const BATCH_EVENTS_MAX: f64 = 10_000.0;

const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// Arguments of `heliostat sample`.
#[derive(clap::Args, Clone, Debug)]
pub struct SampleArgs {
    /// How many events to send per second.
    #[arg(long, env = "HELIOSTAT_SAMPLE_RATE", default_value_t = 20.0)]
    pub rate: f64,
    /// Stop after this many events; without it, only when told to.
    #[arg(long, env = "HELIOSTAT_SAMPLE_COUNT")]
    pub count: Option<u64>,
    /// The server.
    #[arg(long, env = "HELIOSTAT_URL", default_value = "http://127.0.0.1:8080")]
    pub url: String,
    /// Decides who orders what; a number of its own for each run when it is not given.
    #[arg(long)]
    pub seed: Option<u64>,
    /// Who sends.
    #[command(flatten)]
    pub client: ClientArgs,
}

/// Why sending ended before it was done.
#[derive(Debug, thiserror::Error)]
pub enum SampleError {
    #[error("--rate: expected more than 0 and at most {max} events per second, got {rate}")]
    /// The rate is out of range.
    Rate {
        /// Events a second, as asked for.
        rate: f64,
        /// The most that it may be.
        max: f64,
    },
    #[error("{url} refused the events with {status}: {answer}")]
    /// The server refused the events.
    Refused {
        /// The address.
        url: String,
        /// The status of the answer.
        status: StatusCode,
        /// The body of the answer.
        answer: String,
    },
    #[error("{url}: {source}")]
    /// The address cannot be asked.
    Url {
        /// The address.
        url: String,
        /// The underlying error.
        source: reqwest::Error,
    },
    /// The token or the certificates cannot be used.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// An event cannot be written as JSON.
    #[error("an event cannot be written as JSON: {0}")]
    Json(#[from] serde_json::Error),
}

/// Sends until the count is reached or Ctrl-C; returns the exit code.
pub async fn run(args: &SampleArgs) -> u8 {
    let stop = async {
        if tokio::signal::ctrl_c().await.is_err() {
            // Without the signal's handler, Ctrl-C ends the process by itself.
            std::future::pending::<()>().await;
        }
    };
    match send(args, stop).await {
        Ok(sent) => {
            println!("{sent} events sent");
            DONE
        }
        Err(error) => {
            report(&error);
            match error {
                SampleError::Rate { .. } | SampleError::Url { .. } | SampleError::Client(_) => {
                    WRONG_INPUT
                }
                SampleError::Refused { .. } | SampleError::Json(_) => ENVIRONMENT,
            }
        }
    }
}

/// Sends until the count is reached or `stop` resolves; returns how many events were accepted.
///
/// A server that is away or busy is tried again, without end. A batch that is sent again has the
/// same ids.
pub async fn send(args: &SampleArgs, stop: impl Future<Output = ()>) -> Result<u64, SampleError> {
    let mut sender = SampleSender::new(args)?;
    tokio::select! {
        result = sender.run() => result?,
        () = stop => {}
    }
    Ok(sender.progress.sent)
}

struct SampleSender {
    client: Client,
    url: String,
    orders: Orders,
    batch_events: u64,
    period: Duration,
    remaining: u64,
    progress: Progress,
}

impl SampleSender {
    fn new(args: &SampleArgs) -> Result<Self, SampleError> {
        let (rate, max) = (args.rate, BATCH_EVENTS_MAX * REQUESTS_PER_SECOND_MAX);
        if !(rate > 0.0 && rate <= max) {
            return Err(SampleError::Rate { rate, max });
        }
        let batch_events = (rate / REQUESTS_PER_SECOND_MAX).ceil().max(1.0);
        let started_ms = now_ms();
        let seed = args.seed.unwrap_or(started_ms.unsigned_abs());
        let url = format!("{}/v1/events", args.url.trim_end_matches('/'));
        Ok(SampleSender {
            client: args.client.client(Some(Duration::from_secs(60)))?,
            url,
            orders: Orders::new(seed, format!("{started_ms:x}")),
            batch_events: batch_events as u64,
            period: Duration::from_secs_f64(batch_events / rate),
            remaining: args.count.unwrap_or(u64::MAX),
            progress: Progress::new(),
        })
    }

    async fn run(&mut self) -> Result<(), SampleError> {
        let mut ticks = interval(self.period);
        // After an outage it goes on at its rate, and does not make up for what was not ordered.
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        while self.remaining > 0 {
            ticks.tick().await;
            let count = self.batch_events.min(self.remaining);
            let body = self.batch(count)?;
            self.post(body).await?;
            self.remaining -= count;
            self.progress.add(count);
        }
        Ok(())
    }

    fn batch(&mut self, count: u64) -> Result<Vec<u8>, SampleError> {
        let now_ms = now_ms();
        let mut body = Vec::new();
        for _ in 0..count {
            serde_json::to_writer(&mut body, &self.orders.next_event(now_ms))?;
            body.push(b'\n');
        }
        Ok(body)
    }

    /// Sends a batch until it is accepted.
    async fn post(&mut self, body: Vec<u8>) -> Result<(), SampleError> {
        let body = bytes::Bytes::from(body);
        let mut pause = PAUSE_MIN;
        loop {
            let request = self.client.post(&self.url).body(body.clone());
            let sent = request.header(CONTENT_TYPE, "application/x-ndjson").send().await;
            let why = match sent {
                Ok(response) if response.status().is_success() => return Ok(()),
                Ok(response) if is_temporary(response.status()) => {
                    pause = pause.max(retry_after(&response));
                    format!("the server answers {}", response.status())
                }
                Ok(response) => {
                    let (url, status) = (self.url.clone(), response.status());
                    let answer = response.text().await.unwrap_or_default();
                    return Err(SampleError::Refused { url, status, answer });
                }
                Err(source) if source.is_builder() => {
                    return Err(SampleError::Url { url: self.url.clone(), source });
                }
                Err(error) => format!("{} does not answer ({})", self.url, root_cause(&error)),
            };
            self.progress.wait(&why, pause);
            sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }
}

fn is_temporary(status: StatusCode) -> bool {
    matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE)
}

/// How long the server asks to wait, within reason.
fn retry_after(response: &Response) -> Duration {
    let seconds = response.headers().get(RETRY_AFTER).and_then(|v| v.to_str().ok()?.parse().ok());
    Duration::from_secs(seconds.unwrap_or(0)).min(PAUSE_MAX)
}

fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

fn now_ms() -> i64 {
    clock::now_us() / 1000
}

/// Tells how it goes: on a terminal one line that changes, else a line now and then.
struct Progress {
    sent: u64,
    shown_sent: u64,
    shown_at: Instant,
    terminal: bool,
}

impl Progress {
    fn new() -> Self {
        let terminal = std::io::stderr().is_terminal();
        Progress { sent: 0, shown_sent: 0, shown_at: Instant::now(), terminal }
    }

    fn add(&mut self, count: u64) {
        self.sent += count;
        let elapsed = self.shown_at.elapsed();
        let period = Duration::from_secs(if self.terminal { 1 } else { 10 });
        if elapsed >= period {
            let rate = (self.sent - self.shown_sent) as f64 / elapsed.as_secs_f64();
            self.show(&format!("{} events sent, {rate:.0}/s", self.sent));
            self.shown_sent = self.sent;
            self.shown_at = Instant::now();
        }
    }

    fn wait(&mut self, why: &str, pause: Duration) {
        self.show(&format!("{why}: trying again in {} ms", pause.as_millis()));
    }

    /// Progress is for people: when nobody can see it, sending goes on.
    fn show(&self, text: &str) {
        let mut stderr = std::io::stderr();
        let _ = if self.terminal {
            write!(stderr, "\r\x1b[K{text}").and_then(|()| stderr.flush())
        } else {
            writeln!(stderr, "{text}")
        };
    }
}
