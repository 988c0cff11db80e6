//! `GET /v1/views` and `/v1/views/{view}`: which views there are, and how they are.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, StatusCode, Uri};
use serde::Serialize;
use utoipa::ToSchema;

use super::AppState;
use super::gate::{Client, check_json};
use super::openapi::{BadRequest, NoView, Unavailable};
use super::params::{Name, Params};
use super::problem::{Document, Problem};
use super::render::time_text;
use crate::model::schema::SqlField;
use crate::model::{Position, Tick};
use crate::status::{ReadStatus, RebuildError, SinkStatus, ViewState, ViewStatus};

/// The answer of `/v1/views`.
#[derive(Serialize, ToSchema)]
#[schema(as = Views)]
pub struct ViewsAnswer {
    views: Vec<ViewAnswer>,
    failed_files: Vec<FailedFile>,
}

#[derive(Serialize, ToSchema)]
struct FailedFile {
    file: String,
    message: String,
}

/// Whether a view can be relied on.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    CatchingUp,
    Live,
    Failed,
}

impl From<&ViewState> for Status {
    fn from(state: &ViewState) -> Self {
        match state {
            ViewState::CatchingUp => Status::CatchingUp,
            ViewState::Live => Status::Live,
            ViewState::Failed { .. } => Status::Failed,
        }
    }
}

/// One view on the wire.
#[derive(Serialize, ToSchema)]
#[schema(as = View)]
pub struct ViewAnswer {
    name: String,
    generation: String,
    status: Status,
    /// Why it has failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, value_type = String)]
    reason: Option<String>,
    /// The generation that is being built to take its place.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, value_type = NextGenerationAnswer)]
    next_generation: Option<NextGenerationAnswer>,
    schema: Vec<ColumnAnswer>,
    /// Null for a view whose rows may repeat.
    #[schema(required)]
    key: Option<Vec<String>>,
    event_types: Vec<String>,
    rows: u64,
    /// About how many bytes its state takes, its rows included.
    state_bytes: u64,
    /// Bytes of these that are in files, and in memory only while they are looked at.
    state_file_bytes: u64,
    /// How it began; null before it has.
    #[schema(required)]
    start: Option<StartAnswer>,
    /// The last snapshot that its state is in, from which it goes on after a restart; null without one.
    #[schema(required)]
    snapshot: Option<SnapshotAnswer>,
    errors: u64,
    dead_letters: u64,
    #[schema(value_type = u64)]
    position: Position,
    #[schema(value_type = u64)]
    tick: Tick,
    lag_seconds: Lag,
    lag_events: u64,
    sink_retries: u64,
    /// How the view is written, by the sink's name; empty where it is not.
    #[schema(value_type = BTreeMap<String, SinkAnswer>)]
    sinks: BTreeMap<String, SinkAnswer>,
}

/// How a view began.
#[derive(Serialize, ToSchema)]
#[schema(as = ViewStart)]
struct StartAnswer {
    /// `resumed`: from its snapshot; `filled`: from what the snapshots of other views have of its tables;
    /// `replayed`: from all events of the log.
    #[schema(pattern = "^(resumed|filled|replayed)$")]
    how: &'static str,
    /// The position in the log that it began behind.
    #[schema(value_type = u64)]
    position: Position,
    /// How long it took until it was live, in milliseconds; null while it is not.
    live_after_ms: Option<u64>,
}

/// A snapshot that a view's state is in.
#[derive(Serialize, ToSchema)]
#[schema(as = ViewSnapshot)]
struct SnapshotAnswer {
    #[schema(value_type = u64)]
    position: Position,
    #[schema(value_type = u64)]
    tick: Tick,
    #[schema(value_type = String, format = DateTime)]
    taken_at: String,
}

/// How a view is written by a sink.
#[derive(Serialize, ToSchema)]
#[schema(as = Sink)]
struct SinkAnswer {
    /// `writing`, `retrying` or `failed`.
    #[schema(pattern = "^(writing|retrying|failed)$")]
    status: &'static str,
    /// Why the last write failed; null once one has succeeded.
    error: Option<String>,
    #[schema(value_type = u64)]
    position: Position,
    retries: u64,
}

/// A generation that is being built.
#[derive(Serialize, ToSchema)]
#[schema(as = NextGeneration)]
struct NextGenerationAnswer {
    generation: String,
    #[schema(value_type = u64)]
    position: Position,
    /// Why it cannot be built.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, value_type = String)]
    failed: Option<String>,
}

/// The answer of a rebuild.
#[derive(Serialize, ToSchema)]
pub struct Rebuilding {
    view: String,
    /// The generation that will take the view's place.
    generation: String,
}

#[derive(Serialize, ToSchema)]
#[schema(as = Column)]
struct ColumnAnswer {
    name: String,
    r#type: String,
    nullable: bool,
}

#[derive(Serialize, ToSchema)]
struct Lag {
    dataflow: f64,
    #[schema(required)]
    clickhouse: Option<f64>,
}

/// The views, and how they are
#[utoipa::path(
    get,
    path = "/v1/views",
    operation_id = "listViews",
    responses(
        (status = 200, description = "All materialized views.", body = ViewsAnswer),
        (status = 400, response = BadRequest),
    )
)]
pub async fn list(
    State(state): State<AppState>,
    Client(grant): Client,
    uri: Uri,
) -> Result<Json<ViewsAnswer>, Problem> {
    Params::of(&uri)?.finish()?;
    let ReadStatus { views, failed_files, .. } = state.backend.status().await?;
    let views = views.iter().filter(|view| grant.sees_view(&view.schema.name));
    let views = views.map(ViewAnswer::from).collect();
    // Messages quote SQL of any view.
    let failed_files = if grant.is_narrowed() { Vec::new() } else { failed_files };
    let failed_files = failed_files
        .into_iter()
        .map(|failed| FailedFile { file: failed.file, message: failed.message })
        .collect();
    Ok(Json(ViewsAnswer { views, failed_files }))
}

/// One view
#[utoipa::path(
    get,
    path = "/v1/views/{view}",
    operation_id = "getView",
    params(("view" = String, Path, min_length = 1, description = "The name of a materialized view.")),
    responses(
        (status = 200, description = "The view.", body = ViewAnswer),
        (status = 400, response = BadRequest),
        (status = 404, response = NoView),
    )
)]
pub async fn one(
    State(state): State<AppState>,
    client: Client,
    Name(name): Name,
    uri: Uri,
) -> Result<Json<ViewAnswer>, Problem> {
    client.check_view(&name)?;
    Params::of(&uri)?.finish()?;
    let views = state.backend.status().await?.views;
    match views.into_iter().find(|view| view.schema.name == name) {
        Some(status) => Ok(Json(ViewAnswer::from(&status))),
        None => Err(Problem::not_found("view_not_found", format!("there is no view {name}"))),
    }
}

/// Build a view anew from the log
///
/// Beside the generation that answers, which is fed until the new one has caught up and ClickHouse
/// reads from it.
#[utoipa::path(
    post,
    path = "/v1/views/{view}/rebuild",
    operation_id = "rebuildView",
    params(("view" = String, Path, min_length = 1, description = "The name of a materialized view.")),
    responses(
        (status = 202, description = "It is being built.", body = inline(Rebuilding)),
        (status = 400, response = BadRequest),
        (status = 404, response = NoView),
        (
            status = 415,
            description = "A body of another type than JSON; none is needed.",
            body = Document,
            content_type = "application/problem+json"
        ),
        (status = 503, response = Unavailable),
    )
)]
pub async fn rebuild(
    State(state): State<AppState>,
    Client(grant): Client,
    Name(view): Name,
    headers: HeaderMap,
    uri: Uri,
) -> Result<(StatusCode, Json<Rebuilding>), Problem> {
    Params::of(&uri)?.finish()?;
    // It needs no body; one that a page may send is none of ours.
    if headers.contains_key(CONTENT_TYPE) {
        check_json(&headers)?;
    }
    let rebuilt = state.backend.rebuild(view.clone()).await;
    let result = match &rebuilt {
        Ok(generation) => format!("generation {generation} is being built"),
        Err(error) => error.to_string(),
    };
    state.record(&grant, "rebuild", view.clone(), result).await;
    match rebuilt {
        Ok(generation) => Ok((StatusCode::ACCEPTED, Json(Rebuilding { view, generation }))),
        Err(error @ RebuildError::NotFound { .. }) => {
            Err(Problem::not_found("view_not_found", error.to_string()))
        }
        Err(RebuildError::Away(away)) => Err(away.into()),
        Err(
            error @ (RebuildError::NotConnected
            | RebuildError::NotWritten { .. }
            | RebuildError::Stopping),
        ) => Err(Problem::unavailable("not_rebuilt", error.to_string())),
    }
}

impl From<&ViewStatus> for ViewAnswer {
    fn from(status: &ViewStatus) -> Self {
        let schema = &status.schema;
        let name = |index: &usize| schema.columns.get(*index).map(|c| c.name.clone());
        let reason = match &status.state {
            ViewState::Failed { reason } => Some(reason.clone()),
            ViewState::CatchingUp | ViewState::Live => None,
        };
        ViewAnswer {
            name: schema.name.clone(),
            generation: schema.generation.clone(),
            status: Status::from(&status.state),
            reason,
            next_generation: status.next.as_ref().map(|next| NextGenerationAnswer {
                generation: next.generation.clone(),
                position: next.position,
                failed: next.failed.clone(),
            }),
            schema: schema.columns.iter().map(ColumnAnswer::from).collect(),
            key: schema.key.as_ref().map(|key| key.iter().filter_map(name).collect()),
            event_types: status.event_types.clone(),
            rows: status.rows,
            state_bytes: status.state_bytes,
            state_file_bytes: status.state_file_bytes,
            start: status.start.map(|start| StartAnswer {
                how: start.as_str(),
                position: start.position(),
                live_after_ms: status.live_after_ms,
            }),
            snapshot: status.snapshot.map(|snapshot| SnapshotAnswer {
                position: snapshot.position,
                tick: snapshot.tick,
                taken_at: time_text(snapshot.taken_at_ms as i64 * 1000),
            }),
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
            sinks: status
                .sink
                .iter()
                .map(|sink| (sink.name.to_string(), SinkAnswer::from(sink)))
                .collect(),
        }
    }
}

impl From<&SinkStatus> for SinkAnswer {
    fn from(sink: &SinkStatus) -> Self {
        SinkAnswer {
            status: sink.state.as_str(),
            error: sink.state.error().map(str::to_string),
            position: sink.position,
            retries: sink.retries,
        }
    }
}

impl From<&SqlField> for ColumnAnswer {
    fn from(field: &SqlField) -> Self {
        ColumnAnswer {
            name: field.name.clone(),
            r#type: field.sql_type.to_string(),
            nullable: field.nullable,
        }
    }
}
