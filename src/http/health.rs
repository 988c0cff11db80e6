//! Whether the server lives and is ready, and its landing page.

use axum::Json;
use axum::extract::State;
use axum::http::Uri;
use axum::response::Html;
use futures::FutureExt;
use serde::Serialize;

use super::AppState;
use super::backend::{ClickHouseStatus, ViewState};
use super::params::Params;
use super::problem::Problem;

/// The answer of a healthy server.
#[derive(Serialize)]
pub struct Health {
    status: &'static str,
}

/// The process runs and answers.
pub async fn alive() -> Json<Health> {
    Json(Health { status: "alive" })
}

/// Events are accepted; with `?views=all` also: every view is live and ClickHouse is reachable.
pub async fn ready(State(state): State<AppState>, uri: Uri) -> Result<Json<Health>, Problem> {
    let mut params = Params::of(&uri)?;
    let views = params.choice("views", &[("all", ())])?.is_some();
    params.finish()?;
    let reasons = [accepts_events(&state), if views { views_ready(&state) } else { Vec::new() }];
    let reasons = reasons.concat();
    if reasons.is_empty() {
        Ok(Json(Health { status: "ready" }))
    } else {
        Err(Problem::unavailable("not_ready", reasons.join("; ")))
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
    reasons
}

fn views_ready(state: &AppState) -> Vec<String> {
    let mut reasons = Vec::new();
    for view in state.backend.views().into_iter().filter(|view| view.state != ViewState::Live) {
        reasons.push(format!("view {} is {}", view.schema.name, view.state.as_str()));
    }
    if let ClickHouseStatus::Away { reason } = state.backend.clickhouse() {
        reasons.push(format!("ClickHouse is away: {reason}"));
    }
    reasons
}

/// A page for people who open the address in a browser.
pub async fn landing() -> Html<&'static str> {
    Html(include_str!("landing.html"))
}
