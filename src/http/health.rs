//! Whether the server lives and is ready, and its landing page.

use axum::Json;
use axum::extract::State;
use axum::http::Uri;
use axum::response::Html;
use futures::FutureExt;
use serde::Serialize;
use utoipa::ToSchema;

use super::AppState;
use super::openapi::{AliveStatus, AllViews, BadRequest, ReadyStatus, Unavailable, WrongPart};
use super::params::Params;
use super::problem::Problem;
use crate::model::alarm::{Alarm, Part};
use crate::status::{ClickHouseStatus, FileError, ViewState, ViewStatus};

/// The answer of a server that lives.
#[derive(Serialize, ToSchema)]
#[schema(as = Health)]
pub struct Alive {
    #[schema(value_type = AliveStatus, inline)]
    status: &'static str,
}

/// The answer of a server that accepts events, and what is wrong with it all the same.
#[derive(Serialize, ToSchema)]
pub struct Ready {
    #[schema(value_type = ReadyStatus, inline)]
    status: &'static str,
    /// The alarms; events are accepted all the same.
    wrong: Vec<Wrong>,
}

/// Something that is wrong.
#[derive(Serialize, ToSchema)]
struct Wrong {
    /// `log`, `queries`, `clickhouse`, `clock`, `server` or `view`.
    #[schema(value_type = WrongPart, inline)]
    part: &'static str,
    /// Which segment, file, task or view; empty where the part has only one.
    subject: String,
    message: String,
    /// Milliseconds since the Unix epoch; null where the beginning is not known.
    #[schema(required)]
    since_ms: Option<u64>,
}

/// The process runs and answers
#[utoipa::path(
    get,
    path = "/healthz",
    operation_id = "alive",
    responses((status = 200, description = "It does.", body = Alive))
)]
pub async fn alive() -> Json<Alive> {
    Json(Alive { status: "alive" })
}

/// Whether events are accepted
///
/// With `views=all` also: every view is live, ClickHouse is reachable, and nothing else is wrong but
/// query files that are not in use.
#[utoipa::path(
    get,
    path = "/readyz",
    operation_id = "ready",
    params((
        "views" = inline(Option<AllViews>),
        Query,
        description = "Asks also whether all views are live and ClickHouse is reachable."
    )),
    responses(
        (status = 200, description = "Ready.", body = Ready),
        (status = 400, response = BadRequest),
        (status = 503, response = Unavailable),
    )
)]
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
        // Query files that are not in use are no view's.
        let of_views = wrong.iter().filter(|wrong| wrong.part != Part::Queries.as_str());
        reasons.extend(of_views.map(Wrong::line));
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
        add(Part::Queries.as_str(), file, message);
    }
    for view in state.backend.views() {
        if let ViewState::Failed { reason } = view.state {
            add("view", view.schema.name.clone(), reason);
        }
    }
    if let ClickHouseStatus::Away { reason } = state.backend.clickhouse() {
        add(Part::ClickHouse.as_str(), String::new(), reason);
    }
    wrong
}

/// A page for people
#[utoipa::path(
    get,
    path = "/",
    operation_id = "landing",
    responses((status = 200, description = "The page.", body = str, content_type = "text/html"))
)]
pub async fn landing() -> Html<&'static str> {
    Html(include_str!("landing.html"))
}
