//! Whether the server lives and is ready, and its landing page.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::Uri;
use axum::response::Html;
use futures::FutureExt;
use serde::Serialize;
use utoipa::ToSchema;

use super::AppState;
use super::gate::Caller;
use super::openapi::{AliveStatus, AllViews, BadRequest, ReadyStatus, Unavailable, WrongPart};
use super::params::Params;
use super::problem::Problem;
use crate::model::alarm::{Alarm, Part};
use crate::status::{
    Away, ClickHouseStatus, FileError, ReadStatus, ViewState, ViewStatus, WaitRequest, WaitTarget,
};

/// How long ClickHouse may take to say whether the views are there.
const CLICKHOUSE_TIME: Duration = Duration::from_millis(500);

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
    /// `log`, `queries`, `clickhouse`, `view`, `clock`, `access`, `read_side` or `server`.
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
/// With `views=all` also: every view is live, ClickHouse is reachable and has them, and nothing else is
/// wrong but query files that are not in use.
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
pub async fn ready(
    State(state): State<AppState>,
    caller: Caller,
    uri: Uri,
) -> Result<Json<Ready>, Problem> {
    let mut params = Params::of(&uri)?;
    let views = params.choice("views", &[("all", ())])?.is_some();
    params.finish()?;
    let status = state.backend.status().await;
    let wrong = wrong(&state, status.as_ref());
    let wrong: Vec<Wrong> = wrong.into_iter().map(|wrong| wrong.told_to(&caller)).collect();
    let mut reasons = accepts_events(&state);
    if !caller.sees_all() {
        let withheld = |_| "events are not accepted now".to_string();
        reasons = reasons.into_iter().map(withheld).take(1).collect();
    }
    if views {
        let catching_up = |view: &ViewStatus| view.state == ViewState::CatchingUp;
        let views = status.iter().flat_map(|status| &status.views);
        for view in views.filter(|view| catching_up(view)) {
            let name = &view.schema.name;
            reasons.push(match caller.sees_view(name) {
                true => format!("view {name} is catching_up"),
                false => "a view is catching_up".to_string(),
            });
        }
        // Query files that are not in use are no view's.
        let of_views = wrong.iter().filter(|wrong| wrong.part != Part::Queries.as_str());
        reasons.extend(of_views.map(Wrong::line));
        // Asked last: it takes ClickHouse's time, and there may be reasons enough.
        if reasons.is_empty()
            && let Ok(status) = &status
        {
            let missing = not_in_clickhouse(&state, status).await;
            reasons.extend(missing.iter().map(|name| match caller.sees_view(name) {
                true => format!("view {name} cannot be read in ClickHouse"),
                false => "a view cannot be read in ClickHouse".to_string(),
            }));
        }
    }
    if reasons.is_empty() {
        Ok(Json(Ready { status: "ready", wrong }))
    } else {
        Err(Problem::unavailable("not_ready", reasons.join("; ")))
    }
}

impl Wrong {
    fn new(part: Part, subject: String, message: String) -> Wrong {
        Wrong { part: part.as_str(), subject, message, since_ms: None }
    }

    /// The problem as a client may see it: without a token that reads everything, its subject and message are
    /// left out.
    fn told_to(self, caller: &Caller) -> Wrong {
        if caller.sees_all() || self.part == Part::View.as_str() && caller.sees_view(&self.subject)
        {
            return self;
        }
        let message = "what it is, is told to those with a token that reads it".to_string();
        Wrong { subject: String::new(), message, ..self }
    }

    fn line(&self) -> String {
        let Wrong { part, subject, message, .. } = self;
        format!("{part}{}{subject}: {message}", if subject.is_empty() { "" } else { " " })
    }
}

/// The views that nobody could read in ClickHouse now. A name that somebody has dropped there is made anew
/// meanwhile.
async fn not_in_clickhouse(state: &AppState, status: &ReadStatus) -> Vec<String> {
    if status.clickhouse != ClickHouseStatus::Reachable {
        return Vec::new();
    }
    let types = status.views.iter().flat_map(|view| view.event_types.iter().cloned());
    let request = WaitRequest {
        position: 0,
        event_types: types.collect(),
        target: WaitTarget::ClickHouse,
        views: None,
        timeout: CLICKHOUSE_TIME,
    };
    // A read side that is away says so itself.
    let waiting = state.backend.wait(request).await.unwrap_or_default();
    waiting.into_iter().map(|waiting| waiting.view).collect()
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
    if !state.catalog.exists() {
        reasons.push("the query files are being planned for the first time".to_string());
    }
    reasons
}

/// Alarms, query files that are not in use, views that have failed, ClickHouse when it is away, and
/// the read side when that is.
fn wrong(state: &AppState, status: Result<&ReadStatus, &Away>) -> Vec<Wrong> {
    let mut alarms = state.alarms.list();
    if let Ok(status) = status {
        let others: Vec<Alarm> = status.alarms_beside(&alarms).cloned().collect();
        alarms.extend(others);
    }
    let mut wrong: Vec<Wrong> = alarms
        .into_iter()
        .map(|Alarm { part, subject, message, since_ms }| Wrong {
            part: part.as_str(),
            subject,
            message,
            since_ms: Some(since_ms),
        })
        .collect();
    let status = match status {
        Ok(status) => status,
        Err(away) => {
            if !wrong.iter().any(|wrong| wrong.part == Part::ReadSide.as_str()) {
                wrong.push(Wrong::new(Part::ReadSide, String::new(), away.reason.clone()));
            }
            return wrong;
        }
    };
    let mut add = |part, subject, message| wrong.push(Wrong::new(part, subject, message));
    for FileError { file, message } in status.failed_files.clone() {
        add(Part::Queries, file, message);
    }
    for view in &status.views {
        if let ViewState::Failed { reason } = &view.state {
            add(Part::View, view.schema.name.clone(), reason.clone());
        }
    }
    if let ClickHouseStatus::Away { reason } = &status.clickhouse {
        add(Part::ClickHouse, String::new(), reason.clone());
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
