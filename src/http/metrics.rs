//! `GET /metrics`: figures for Prometheus, taken when they are asked for.

use std::fmt;
use std::future::Future;
use std::time::Instant;

use axum::extract::{Request, State};
use axum::http::HeaderValue;
use axum::http::header::CONTENT_TYPE;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::{encode_eof, encode_registry};
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeCounterValue, EncodeGaugeValue, EncodeMetric, NoLabelSet,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use super::AppState;
use super::connections::ConnectionFigures;
use super::gate::Client;
use super::openapi::Unavailable;
use super::problem::Problem;
use crate::log::Log;
use crate::model::alarm::Alarm;
use crate::model::clock;
use crate::model::memory::resident_bytes;
use crate::model::view::SinkState;
use crate::status::{ReadStatus, ViewStart, ViewState, ViewStatus};

/// The upper bounds of the histogram of acknowledgements, in seconds.
const APPEND_BOUNDS_S: [f64; 12] =
    [0.000_5, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0];

/// All metrics of the server.
pub struct Metrics {
    registry: Registry,
    append_seconds: Histogram,
    requests: Family<[(&'static str, String); 1], Counter>,
    feed_ends: Family<[(&'static str, &'static str); 1], Counter>,
}

impl Metrics {
    /// Metrics of HTTP. Metrics of the log and the views are read when they are asked for.
    pub fn new() -> Self {
        let mut registry = Registry::default();
        let append_seconds = Histogram::new(APPEND_BOUNDS_S);
        registry.register(
            "heliostat_append_seconds",
            "Time from handing a request's events to the log to having them on disk",
            append_seconds.clone(),
        );
        let requests = Family::default();
        let help = "Requests answered, by status";
        registry.register("heliostat_http_requests", help, requests.clone());
        let feed_ends = Family::default();
        let help = "Change feeds that the server ended, by reason";
        registry.register("heliostat_change_feed_ends", help, feed_ends.clone());
        Metrics { registry, append_seconds, requests, feed_ends }
    }

    /// Counts a change feed that the server ended.
    pub fn count_feed_end(&self, reason: &'static str) {
        self.feed_ends.get_or_create(&[("reason", reason)]).inc();
    }

    /// Measures how long an append takes.
    pub async fn time_append<T>(&self, append: impl Future<Output = T>) -> T {
        let started = Instant::now();
        let result = append.await;
        self.append_seconds.observe(started.elapsed().as_secs_f64());
        result
    }
}

/// Figures for Prometheus
#[utoipa::path(
    get,
    path = "/metrics",
    operation_id = "metrics",
    responses(
        (
            status = 200,
            description = "The figures.",
            body = String,
            content_type = "application/openmetrics-text"
        ),
        (status = 503, response = Unavailable),
    )
)]
pub async fn metrics(
    State(state): State<AppState>,
    Client(grant): Client,
) -> Result<Response, Problem> {
    let mut text = String::new();
    let figures = Figures {
        log: state.log.clone(),
        connections: state.connections.figures(),
        status: state.backend.status().await.ok(),
        alarms: state.alarms.list(),
    };
    let mut of_now = Registry::default();
    of_now.register_collector(Box::new(figures));
    encode_registry(&mut text, &state.metrics.registry)
        .and_then(|()| encode_registry(&mut text, &of_now))
        .and_then(|()| encode_eof(&mut text))
        .map_err(|error| {
            Problem::unavailable("metrics_failed", format!("metrics cannot be written: {error}"))
        })?;
    if grant.is_narrowed() {
        text = of_views(&text, |view| grant.sees_view(view));
    }
    let content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    Ok(([(CONTENT_TYPE, HeaderValue::from_static(content_type))], text).into_response())
}

/// The lines about these views, with their descriptions.
fn of_views(text: &str, is_visible: impl Fn(&str) -> bool) -> String {
    let view_of = |line: &str| {
        let (_, rest) = line.split_once("{view=\"")?;
        rest.split_once('"').map(|(view, _)| view.to_string())
    };
    let keeps =
        |line: &&str| line.starts_with('#') || view_of(line).is_some_and(|v| is_visible(&v));
    text.lines().filter(keeps).flat_map(|line| [line, "\n"]).collect()
}

/// Counts every request by the status of its answer.
pub async fn count_requests(
    State(state): State<AppState>,
    request: Request,
    next: Next,
) -> Response {
    let response = next.run(request).await;
    let status = response.status().as_u16().to_string();
    state.metrics.requests.get_or_create(&[("status", status)]).inc();
    response
}

/// The gauges of the log and the views.
struct Figures {
    log: Log,
    connections: ConnectionFigures,
    /// `None` while the read side is away: nobody knows its figures.
    status: Option<ReadStatus>,
    alarms: Vec<Alarm>,
}

impl fmt::Debug for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Figures")
    }
}

impl Collector for Figures {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        self.encode_log(&mut encoder)?;
        self.encode_connections(&mut encoder)?;
        let mut alarms = self.alarms.len() as u64;
        let help = "1 while the process that keeps the views answers, else 0";
        let answers = u64::from(self.status.is_some());
        gauge(&mut encoder, "heliostat_read_side_up", help, &answers)?;
        if let Some(status) = &self.status {
            encode_views(&mut encoder, &status.views)?;
            alarms += status.alarms_beside(&self.alarms).count() as u64;
            if let Some(bytes) = status.resident_bytes {
                let help = "Memory of the process that keeps the views that is in RAM, in bytes";
                gauge(&mut encoder, "heliostat_read_side_resident_memory_bytes", help, &bytes)?;
            }
        }
        let help = "What is wrong now, as /readyz lists it: alarms of the server's parts";
        gauge(&mut encoder, "heliostat_alarms", help, &alarms)?;
        match resident_bytes(None) {
            Some(bytes) => {
                let help = "Memory of the process that is in RAM, in bytes";
                gauge(&mut encoder, "process_resident_memory_bytes", help, &bytes)
            }
            None => Ok(()),
        }
    }
}

impl Figures {
    fn encode_connections(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let ConnectionFigures { open, following, closed, refused } = self.connections;
        let help = "Connections that are open";
        gauge(encoder, "heliostat_connections", help, &(open as u64))?;
        let help = "Connections of these that follow the log or a view";
        gauge(encoder, "heliostat_connections_following", help, &(following as u64))?;
        let help = "Idle connections closed to make way for new ones, since the start";
        counter(encoder, "heliostat_connections_closed", help, &closed)?;
        let help = "Connections refused since their address had too many, since the start";
        counter(encoder, "heliostat_connections_refused", help, &refused)
    }

    fn encode_log(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let (stats, head) = (self.log.stats(), self.log.head());
        let help = "Events stored since the start";
        counter(encoder, "heliostat_events", help, &stats.events)?;
        let help = "Events that had been stored before, since the start";
        counter(encoder, "heliostat_events_duplicate", help, &stats.duplicates)?;
        let help = "Requests refused because of a version or an id, since the start";
        counter(encoder, "heliostat_append_conflicts", help, &stats.conflicts)?;
        let help = "Bytes of events stored since the start, as they were sent";
        counter(encoder, "heliostat_event_bytes", help, &stats.event_bytes)?;
        let help = "Bytes written to the log since the start";
        counter(encoder, "heliostat_log_disk_bytes", help, &stats.disk_bytes)?;
        let help = "Commits of the log since the start";
        counter(encoder, "heliostat_log_commits", help, &stats.commits)?;
        let help = "Seconds spent writing and syncing commits since the start";
        counter(encoder, "heliostat_log_commit_seconds", help, &stats.commit_s)?;
        let help = "Bytes of events that wait for the disk";
        gauge(encoder, "heliostat_log_queued_bytes", help, &stats.queued_bytes)?;
        let help = "Bytes of the log's indexes on disk";
        gauge(encoder, "heliostat_log_index_bytes", help, &self.log.index_bytes())?;
        let help = "The last position of the log";
        gauge(encoder, "heliostat_log_position", help, &head.position)?;
        let help =
            "How far the system's clock is behind the last commit, in seconds; 0 if it is not";
        gauge(
            encoder,
            "heliostat_clock_behind_seconds",
            help,
            &clock::behind(head.tick).as_secs_f64(),
        )
    }
}

fn encode_views(encoder: &mut DescriptorEncoder<'_>, views: &[ViewStatus]) -> fmt::Result {
    encode_lag(encoder, views)?;
    let help = "Events that the dataflow has not taken in";
    view_gauges(encoder, "heliostat_view_lag_events", help, views, |v| v.lag_events)?;
    let help = "Rows of the view";
    view_gauges(encoder, "heliostat_view_rows", help, views, |v| v.rows)?;
    let help = "Bytes of the view's state, its rows included; about";
    view_gauges(encoder, "heliostat_view_state_bytes", help, views, |v| v.state_bytes)?;
    let help = "Bytes of the view's state that are in files";
    view_gauges(encoder, "heliostat_view_state_file_bytes", help, views, |v| v.state_file_bytes)?;
    let help = "Position of the log up to which the view's state is in a snapshot";
    let saved = |view: &ViewStatus| view.snapshot.map_or(0, |snapshot| snapshot.position);
    view_gauges(encoder, "heliostat_view_snapshot_position", help, views, saved)?;
    let help =
        "When the view's state was written into a snapshot, in seconds of Unix time; 0: never";
    let taken = |view: &ViewStatus| view.snapshot.map_or(0, |snapshot| snapshot.taken_at_ms / 1000);
    view_gauges(encoder, "heliostat_view_snapshot_timestamp_seconds", help, views, taken)?;
    let help = "1 when the view went on from a snapshot at the start, else 0";
    let resumed =
        |view: &ViewStatus| u64::from(matches!(view.start, Some(ViewStart::Resumed { .. })));
    view_gauges(encoder, "heliostat_view_resumed", help, views, resumed)?;
    let help = "Rows that fail now";
    view_gauges(encoder, "heliostat_view_errors", help, views, |v| v.errors)?;
    let help = "1 when the view follows the log, else 0";
    let live = |view: &ViewStatus| u64::from(view.state == ViewState::Live);
    view_gauges(encoder, "heliostat_view_live", help, views, live)?;
    let help = "Events and rows that wait in the dead letters";
    view_gauges(encoder, "heliostat_dead_letters", help, views, |v| v.dead_letters)?;
    let help = "Inserts into ClickHouse that were tried again";
    let name = "heliostat_sink_retries";
    let mut retries = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    for view in views {
        let labels = [("view", view.schema.name.as_str())];
        ConstCounter::new(view.sink.as_ref().map_or(0, |sink| sink.retries))
            .encode(retries.encode_family(&labels)?)?;
    }
    let help = "1 while writes to the sink fail for a reason that somebody has to mend, else 0";
    let failed = |view: &ViewStatus| {
        let state = view.sink.as_ref().map(|sink| &sink.state);
        u64::from(matches!(state, Some(SinkState::Failed { .. })))
    };
    view_gauges(encoder, "heliostat_sink_failed", help, views, failed)
}

fn encode_lag(encoder: &mut DescriptorEncoder<'_>, views: &[ViewStatus]) -> fmt::Result {
    let name = "heliostat_view_lag_seconds";
    let help = "Age of the oldest event that a stage has not taken in; 0 when nothing waits";
    let mut lag = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    for view in views {
        let stages =
            [("dataflow", Some(view.lag_dataflow_s)), ("clickhouse", view.lag_clickhouse_s)];
        for (stage, seconds) in stages {
            let Some(seconds) = seconds else { continue };
            let labels = [("view", view.schema.name.as_str()), ("stage", stage)];
            ConstGauge::new(seconds).encode(lag.encode_family(&labels)?)?;
        }
    }
    Ok(())
}

fn view_gauges(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    views: &[ViewStatus],
    value: impl Fn(&ViewStatus) -> u64,
) -> fmt::Result {
    let mut gauges = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    for view in views {
        let labels = [("view", view.schema.name.as_str())];
        ConstGauge::new(value(view)).encode(gauges.encode_family(&labels)?)?;
    }
    Ok(())
}

fn gauge(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    value: &impl EncodeGaugeValue,
) -> fmt::Result {
    encoder.encode_descriptor(name, help, None, MetricType::Gauge)?.encode_gauge(value)
}

/// The name on the wire ends in `_total`.
fn counter(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    value: &impl EncodeCounterValue,
) -> fmt::Result {
    let mut encoder = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    encoder.encode_counter::<NoLabelSet, _, u64>(value, None)
}
