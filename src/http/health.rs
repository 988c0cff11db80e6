//! Whether the server lives and is ready, and its landing page.

use axum::Json;
use axum::extract::State;
use axum::http::Uri;
use axum::response::Html;
use futures::FutureExt;
use serde::Serialize;

use super::AppState;
use super::backend::{ClickHouseStatus, FileError, ViewState, ViewStatus};
use super::params::Params;
use super::problem::Problem;
use crate::model::alarm::Alarm;

/// The answer of a server that lives.
#[derive(Serialize)]
pub struct Alive {
    status: &'static str,
}

/// The answer of a server that accepts events, and what is wrong with it all the same.
#[derive(Serialize)]
pub struct Ready {
    status: &'static str,
    wrong: Vec<Wrong>,
}

/// Something that is wrong.
#[derive(Serialize)]
struct Wrong {
    /// `log`, `queries`, `clickhouse`, `clock`, `server` or `view`.
    part: &'static str,
    /// Which segment, file, task or view; empty where the part has only one.
    subject: String,
    message: String,
    /// Milliseconds since the Unix epoch; null where the beginning is not known.
    since_ms: Option<u64>,
}

/// The process runs and answers.
pub async fn alive() -> Json<Alive> {
    Json(Alive { status: "alive" })
}

/// Events are accepted; with `?views=all` also: every view is live, ClickHouse is reachable and
/// nothing is wrong.
pub async fn ready(State(state): State<AppState>, uri: Uri) -> Result<Json<Ready>, Problem> {
    let mut params = Params::of(&uri)?;
    let views = params.choice("views", &[("all", ())])?.is_some();
    params.finish()?;
    let wrong = wrong(&state);
    let mut reasons = accepts_events(&state);
    if views {
        let catching_up = |view: &ViewStatus| view.state == ViewState::CatchingUp;
        for view in state.backend.views().into_iter().filter(catching_up) {
            reasons.push(format!("view {} is catching_up", view.schema.name));
        }
        reasons.extend(wrong.iter().map(Wrong::line));
    }
    if reasons.is_empty() {
        Ok(Json(Ready { status: "ready", wrong }))
    } else {
        Err(Problem::unavailable("not_ready", reasons.join("; ")))
    }
}

impl Wrong {
    fn line(&self) -> String {
        let Wrong { part, subject, message, .. } = self;
        format!("{part}{}{subject}: {message}", if subject.is_empty() { "" } else { " " })
    }
}

fn accepts_events(state: &AppState) -> Vec<String> {
    let mut reasons = Vec::new();
    if state.is_stopping() {
        reasons.push("the server is stopping".to_string());
    }
    if let Some(reason) = state.log.failed().now_or_never() {
        reasons.push(format!("the log has failed: {reason}"));
    }
    if let Some(reason) = state.log.refuses() {
        reasons.push(format!("the disk of the log is full: {reason}"));
    }
    reasons
}

/// Alarms, query files that are not in use, views that have failed, and ClickHouse when it is away.
fn wrong(state: &AppState) -> Vec<Wrong> {
    let mut wrong: Vec<Wrong> = state
        .alarms
        .list()
        .into_iter()
        .map(|Alarm { part, subject, message, since_ms }| Wrong {
            part: part.as_str(),
            subject,
            message,
            since_ms: Some(since_ms),
        })
        .collect();
    let mut add = |part, subject, message| {
        wrong.push(Wrong { part, subject, message, since_ms: None });
    };
    for FileError { file, message } in state.backend.failed_files() {
        add("queries", file, message);
    }
    for view in state.backend.views() {
        if let ViewState::Failed { reason } = view.state {
            add("view", view.schema.name.clone(), reason);
        }
    }
    if let ClickHouseStatus::Away { reason } = state.backend.clickhouse() {
        add("clickhouse", String::new(), reason);
    }
    wrong
}

/// A page for people who open the address in a browser.
pub async fn landing() -> Html<&'static str> {
    Html(include_str!("landing.html"))
}
