//! `GET /v1/views` and `/v1/views/{view}`: which views there are, and how they are.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, Uri};
use serde::Serialize;

use super::AppState;
use super::backend::{RebuildError, SinkStatus, ViewState, ViewStatus};
use super::params::{Name, Params};
use super::problem::Problem;
use crate::model::schema::SqlField;
use crate::model::{Position, Tick};

/// The answer of `/v1/views`.
#[derive(Serialize)]
pub struct Views {
    views: Vec<View>,
    failed_files: Vec<FailedFile>,
}

#[derive(Serialize)]
struct FailedFile {
    file: String,
    message: String,
}

/// One view on the wire.
#[derive(Serialize)]
pub struct View {
    name: String,
    generation: String,
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    /// What is being built to take its place.
    #[serde(skip_serializing_if = "Option::is_none")]
    next_generation: Option<Next>,
    schema: Vec<Column>,
    /// Null for a view whose rows may repeat.
    key: Option<Vec<String>>,
    event_types: Vec<String>,
    rows: u64,
    errors: u64,
    dead_letters: u64,
    position: Position,
    tick: Tick,
    lag_seconds: Lag,
    lag_events: u64,
    sink_retries: u64,
    /// How the view is written, by the sink's name; empty where it is not.
    sinks: BTreeMap<&'static str, Sink>,
}

/// How a view is written by a sink.
#[derive(Serialize)]
struct Sink {
    /// `writing`, `retrying` or `failed`.
    status: &'static str,
    /// Why the last write failed; null once one has succeeded.
    error: Option<String>,
    position: Position,
    retries: u64,
}

#[derive(Serialize)]
struct Next {
    generation: String,
    position: Position,
    #[serde(skip_serializing_if = "Option::is_none")]
    failed: Option<String>,
}

/// The answer of a rebuild.
#[derive(Serialize)]
pub struct Rebuilding {
    view: String,
    /// The generation that will take the view's place.
    generation: String,
}

#[derive(Serialize)]
struct Column {
    name: String,
    r#type: String,
    nullable: bool,
}

#[derive(Serialize)]
struct Lag {
    dataflow: f64,
    clickhouse: Option<f64>,
}

pub async fn list(State(state): State<AppState>, uri: Uri) -> Result<Json<Views>, Problem> {
    Params::of(&uri)?.finish()?;
    let views = state.backend.views().iter().map(View::from).collect();
    let failed_files = state
        .backend
        .failed_files()
        .into_iter()
        .map(|failed| FailedFile { file: failed.file, message: failed.message })
        .collect();
    Ok(Json(Views { views, failed_files }))
}

pub async fn one(
    State(state): State<AppState>,
    Name(name): Name,
    uri: Uri,
) -> Result<Json<View>, Problem> {
    Params::of(&uri)?.finish()?;
    match state.backend.view(&name) {
        Some(status) => Ok(Json(View::from(&status))),
        None => Err(Problem::not_found("view_not_found", format!("there is no view {name}"))),
    }
}

pub async fn rebuild(
    State(state): State<AppState>,
    Name(view): Name,
    uri: Uri,
) -> Result<(StatusCode, Json<Rebuilding>), Problem> {
    Params::of(&uri)?.finish()?;
    match state.backend.rebuild(view.clone()).await {
        Ok(generation) => Ok((StatusCode::ACCEPTED, Json(Rebuilding { view, generation }))),
        Err(error @ RebuildError::NotFound { .. }) => {
            Err(Problem::not_found("view_not_found", error.to_string()))
        }
        Err(error) => Err(Problem::unavailable("not_rebuilt", error.to_string())),
    }
}

impl From<&ViewStatus> for View {
    fn from(status: &ViewStatus) -> Self {
        let schema = &status.schema;
        let name = |index: &usize| schema.columns.get(*index).map(|c| c.name.clone());
        let reason = match &status.state {
            ViewState::Failed { reason } => Some(reason.clone()),
            ViewState::CatchingUp | ViewState::Live => None,
        };
        View {
            name: schema.name.clone(),
            generation: schema.generation.clone(),
            status: status.state.as_str(),
            reason,
            next_generation: status.next.as_ref().map(|next| Next {
                generation: next.generation.clone(),
                position: next.position,
                failed: next.failed.clone(),
            }),
            schema: schema.columns.iter().map(Column::from).collect(),
            key: schema.key.as_ref().map(|key| key.iter().filter_map(name).collect()),
            event_types: status.event_types.clone(),
            rows: status.rows,
            errors: status.errors,
            dead_letters: status.dead_letters,
            position: status.position,
            tick: status.tick,
            lag_seconds: Lag {
                dataflow: status.lag_dataflow_s,
                clickhouse: status.lag_clickhouse_s,
            },
            lag_events: status.lag_events,
            sink_retries: status.sink.as_ref().map_or(0, |sink| sink.retries),
            sinks: status.sink.iter().map(|sink| (sink.name, Sink::from(sink))).collect(),
        }
    }
}

impl From<&SinkStatus> for Sink {
    fn from(sink: &SinkStatus) -> Self {
        Sink {
            status: sink.state.as_str(),
            error: sink.state.error().map(str::to_string),
            position: sink.position,
            retries: sink.retries,
        }
    }
}

impl From<&SqlField> for Column {
    fn from(field: &SqlField) -> Self {
        Column {
            name: field.name.clone(),
            r#type: field.sql_type.to_string(),
            nullable: field.nullable,
        }
    }
}
