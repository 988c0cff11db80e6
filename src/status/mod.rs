//! Status of views, sinks and dead letters, and the requests about them: the vocabulary
//! between those who show it and the engine, which knows it.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::access::Grant;
use crate::model::alarm::Alarm;
use crate::model::view::{SinkState, ViewRef};
use crate::model::{Head, Position, Tick};

/// The read side, as HTTP asks it: in this process, or in another one.
pub trait Backend: Send + Sync + 'static {
    /// Why it does not answer now, if so. Costs nothing.
    fn away(&self) -> Option<Away>;

    /// Everything about views, query files and ClickHouse, as of now.
    fn status(&self) -> BoxFuture<'_, Result<ReadStatus, Away>>;

    /// Where each of these views stands; `None` for one that does not exist. Takes no more than that: it
    /// is asked for with appends.
    fn places(&self, views: Vec<String>) -> BoxFuture<'_, Result<Vec<Option<ViewPlace>>, Away>>;

    /// Rows of a view as of a tick at or past the position that is asked for.
    fn rows(&self, request: RowsRequest) -> BoxFuture<'_, Result<RowsAnswer, RowsError>>;

    /// Resolves once views show a position, or when the time is over, with the views that do not
    /// show it yet. Returns at once when a view that the request names is not live.
    fn wait(&self, request: WaitRequest) -> BoxFuture<'_, Result<Vec<Waiting>, Away>>;

    /// A view's changes: from a snapshot on, or after the tick whose id a feed has told.
    fn changes(
        &self,
        request: ChangesRequest,
    ) -> BoxFuture<'_, Result<Box<dyn ChangeFeed>, ChangesError>>;

    /// Begins to build a view anew from the log; the generation that will take its place.
    fn rebuild(&self, view: String) -> BoxFuture<'_, Result<String, RebuildError>>;

    /// Dead letters in the order of views and expressions, within an expression in a stable order,
    /// without samples; `None` when the cursor is none. Waits for a moment where the log is read for them.
    fn dead_letters(
        &self,
        filter: DeadLetterFilter,
    ) -> BoxFuture<'_, Result<Option<DeadLetters>, Away>>;

    /// Accepts failures as lost; how many. May read the log, and writes to the disk.
    fn dismiss(&self, selection: Selection) -> BoxFuture<'_, Result<u64, DismissError>>;

    /// Tries again what failed, with the query files as they are now.
    fn retry(&self, selection: Selection) -> BoxFuture<'_, Result<Retried, Away>>;
}

/// The read side does not answer now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{reason}")]
pub struct Away {
    /// Why, and what happens next.
    pub reason: String,
}

/// The read side as it is now.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ReadStatus {
    /// All materialized views, by name.
    pub views: Vec<ViewStatus>,
    /// The query files that failed their check and are not in use.
    pub failed_files: Vec<FileError>,
    /// Whether ClickHouse can be written to.
    pub clickhouse: ClickHouseStatus,
    /// The alarms of the read side, where it keeps its own.
    pub alarms: Vec<Alarm>,
    /// The memory of its process that is in RAM, in bytes; `None` where it is that of the write side.
    pub resident_bytes: Option<u64>,
}

impl ReadStatus {
    /// The alarms of the read side that the write side does not have, too: both read the same log.
    pub fn alarms_beside<'a>(&'a self, own: &'a [Alarm]) -> impl Iterator<Item = &'a Alarm> {
        let known = |alarm: &Alarm| {
            own.iter().any(|own| (own.part, &own.subject) == (alarm.part, &alarm.subject))
        };
        self.alarms.iter().filter(move |alarm| !known(alarm))
    }
}

/// Whether a view can be relied on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ViewState {
    /// It has not read all events yet that were in the log when it started.
    CatchingUp,
    /// It follows the log.
    Live,
    /// It has stopped.
    Failed {
        /// Why, for people.
        reason: String,
    },
}

impl ViewState {
    /// The word of the wire: `catching_up`, `live` or `failed`.
    pub fn as_str(&self) -> &'static str {
        match self {
            ViewState::CatchingUp => "catching_up",
            ViewState::Live => "live",
            ViewState::Failed { .. } => "failed",
        }
    }
}

/// A snapshot that a view is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotStatus {
    /// It has the events up to here.
    pub position: Position,
    /// The tick of the last of them.
    pub tick: Tick,
    /// When it was published, in milliseconds since the Unix epoch.
    pub taken_at_ms: u64,
}

/// How a view came to what it showed first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ViewStart {
    /// From a snapshot that was taken at this position of the log, and the events behind it.
    Resumed {
        /// The position.
        position: Position,
    },
    /// From what other views have kept of its tables up to this position of the log, in a snapshot, and
    /// the events behind it.
    Filled {
        /// The position.
        position: Position,
    },
    /// From all events of the log.
    Replayed,
}

impl ViewStart {
    /// The word of the wire: `resumed`, `filled` or `replayed`.
    pub fn as_str(&self) -> &'static str {
        match self {
            ViewStart::Resumed { .. } => "resumed",
            ViewStart::Filled { .. } => "filled",
            ViewStart::Replayed => "replayed",
        }
    }

    /// The position in the log that the view began behind.
    pub fn position(&self) -> Position {
        match self {
            ViewStart::Resumed { position } | ViewStart::Filled { position } => *position,
            ViewStart::Replayed => 0,
        }
    }
}

/// A materialized view as it is now.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ViewStatus {
    /// Name, generation, columns and key.
    pub schema: ViewRef,
    /// Where it stands.
    pub state: ViewState,
    /// The generation that is being built to take its place.
    pub next: Option<NextGeneration>,
    /// The types of the events that it reads; empty when it reads all.
    pub event_types: Vec<String>,
    /// The number of its rows.
    pub rows: u64,
    /// About how many bytes its state takes, its rows included.
    pub state_bytes: u64,
    /// Bytes of these that are in files, and in memory only while they are looked at.
    pub state_file_bytes: u64,
    /// How it began; `None` before it has.
    pub start: Option<ViewStart>,
    /// How long it took from then on until it was live, once it has been.
    pub live_after_ms: Option<u64>,
    /// The last snapshot that it is in.
    pub snapshot: Option<SnapshotStatus>,
    /// The number of rows that fail now.
    pub errors: u64,
    /// The number of its events and rows in the dead letters.
    pub dead_letters: u64,
    /// The last event that it shows.
    pub position: Position,
    /// The tick as of which it is complete.
    pub tick: Tick,
    /// The age of the oldest event that the dataflow has not taken in, in seconds; 0 without one.
    pub lag_dataflow_s: f64,
    /// The age of the oldest change that ClickHouse does not show, in seconds; 0 without one,
    /// `None` for a view that is not written there.
    pub lag_clickhouse_s: Option<f64>,
    /// The number of events that the dataflow has not taken in.
    pub lag_events: u64,
    /// How the view is written to ClickHouse; `None` for a view that is not.
    pub sink: Option<SinkStatus>,
}

/// Where a view and its sink stand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ViewPlace {
    /// The view is complete up to here.
    pub complete: Head,
    /// ClickHouse shows it up to here; `None` for a view that is not written there.
    pub written: Option<Head>,
}

/// How a view is written by a sink.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SinkStatus {
    /// The sink's name on the wire.
    pub name: Cow<'static, str>,
    /// Where it stands.
    pub state: SinkState,
    /// The last event that is shown there.
    pub position: Position,
    /// How often a write was repeated.
    pub retries: u64,
}

/// A generation of a view that will take the place of the one that answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NextGeneration {
    /// The hash that names it.
    pub generation: String,
    /// The last event that it has taken in.
    pub position: Position,
    /// Why it cannot be built, if so.
    pub failed: Option<String>,
}

/// Why a view is not built anew.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum RebuildError {
    /// The read side does not answer.
    #[error(transparent)]
    Away(#[from] Away),
    /// There is no such view.
    #[error("there is no view {view}")]
    NotFound {
        /// The name of the view.
        view: String,
    },
    /// No view can begin until ClickHouse has been reached for the first time.
    #[error("views begin once ClickHouse is there: see /readyz")]
    NotConnected,
    /// The disk's words: a generation that is not kept would be forgotten over a restart.
    #[error("{reason}")]
    NotWritten {
        /// The operating system's error.
        reason: String,
    },
    /// The server is stopping.
    #[error("the server is stopping")]
    Stopping,
}

/// Why failures could not be dismissed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum DismissError {
    /// The read side does not answer.
    #[error(transparent)]
    Away(#[from] Away),
    /// The disk's words.
    #[error("what is dismissed cannot be written down: {reason}")]
    NotWritten {
        /// The operating system's error.
        reason: String,
    },
}

/// A query file that is not in use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileError {
    /// The path of the file.
    pub file: String,
    /// Where in the file, and what is wrong.
    pub message: String,
}

/// Whether ClickHouse can be written to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ClickHouseStatus {
    /// The server runs without one.
    NotUsed,
    /// It answers.
    Reachable,
    /// The last attempt failed.
    Away {
        /// Why.
        reason: String,
    },
}

/// Which rows of a view are asked for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RowsRequest {
    /// The name of the view.
    pub view: String,
    /// Columns and the values, as text, that they must equal; all must hold.
    pub filters: Vec<(String, String)>,
    /// The answer shows this event at least; 0 asks for nothing.
    pub min_position: Position,
    /// How long to wait for that.
    pub timeout: Duration,
    /// The most rows to answer with, at least 1.
    pub limit: usize,
    /// Where the previous answer ended.
    pub cursor: Option<String>,
}

/// Rows of a view, complete as of a tick.
#[derive(Clone, Debug)]
pub struct RowsAnswer {
    /// The tick.
    pub tick: Tick,
    /// The position in the log.
    pub position: Position,
    /// The view that the batches' columns follow.
    pub schema: ViewRef,
    /// The rows.
    pub batches: Vec<RecordBatch>,
    /// Where the next request goes on; `None` when there are no more rows.
    pub cursor: Option<String>,
}

/// Why there are no rows to answer with.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum RowsError {
    /// The read side does not answer.
    #[error(transparent)]
    Away(#[from] Away),
    /// There is no such view.
    #[error("there is no view {view}")]
    NotFound {
        /// The name of the view.
        view: String,
    },
    /// A filter names a column that is not there.
    #[error("{view} has no column {column}: it has {columns}")]
    UnknownColumn {
        /// The name of the view.
        view: String,
        /// The column.
        column: String,
        /// The columns that there are.
        columns: String,
    },
    /// The value of a filter is not one of its column.
    #[error("{value:?} is not a value of {column}, which is {sql_type}")]
    BadValue {
        /// The column.
        column: String,
        /// The value, as text.
        value: String,
        /// Its type.
        sql_type: String,
    },
    /// The cursor is not one that the view gave.
    #[error("the cursor is not one of this view: {reason}")]
    BadCursor {
        /// Why.
        reason: String,
    },
    /// The view does not answer yet.
    #[error("{view} is {}, not live", state.as_str())]
    NotLive {
        /// The name of the view.
        view: String,
        /// Where it stands.
        state: ViewState,
    },
    /// The position was not reached in time.
    #[error("position {position} was not reached in time: the view is at {reached}")]
    Timeout {
        /// The position in the log.
        position: Position,
        /// The position that was reached in time.
        reached: Position,
    },
}

/// Where events must be visible before a request is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum WaitTarget {
    /// In the views' state, as read over HTTP.
    Views,
    /// In the tables in ClickHouse.
    ClickHouse,
}

/// The condition that a request waits for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WaitRequest {
    /// The event that must be visible.
    pub position: Position,
    /// The types of the request's events; only views that read one of them are waited for.
    pub event_types: Vec<String>,
    /// Where the events have to be shown.
    pub target: WaitTarget,
    /// Only these views; `None` means all that are live.
    pub views: Option<Vec<String>>,
    /// For how long at most.
    pub timeout: Duration,
}

/// A view that does not show the events of a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waiting {
    /// The name of the view.
    pub view: String,
    /// Where it stands.
    pub state: ViewState,
}

/// Which changes are asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangesRequest {
    /// The name of the view.
    pub view: String,
    /// The id that the feed before ended with; `None` begins with a snapshot.
    pub last_id: Option<String>,
    /// Bytes of the last changes that are kept for feeds that are behind.
    pub bytes_max: usize,
}

/// A view's changes, part by part.
pub trait ChangeFeed: Send {
    /// The next part, once there is one. May be dropped and called again.
    fn next(&mut self) -> BoxFuture<'_, Result<ChangePart, FeedEnd>>;
}

/// Some changes of a view at one tick.
#[derive(Clone, Debug)]
pub struct ChangePart {
    /// The tick.
    pub tick: Tick,
    /// Rows that were removed. In a view with a key, a row that was replaced is not here.
    pub deleted: RecordBatch,
    /// Rows that were added, or that replaced the one with the same key.
    pub upserted: RecordBatch,
    /// Set where these were the tick's last changes.
    pub end: Option<TickEnd>,
}

/// The end of a tick's changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TickEnd {
    /// From where a feed can go on.
    pub id: String,
    /// The tick.
    pub tick: Tick,
    /// The view shows all events up to here.
    pub position: Position,
}

/// Why a feed ends.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum FeedEnd {
    /// The subscriber took too long.
    #[error("too slow: what comes next is not kept any more; start again with a new snapshot")]
    TooSlow,
    /// The view has stopped, or was replaced.
    #[error("{reason}")]
    Ended {
        /// Why.
        reason: String,
    },
}

/// Why there is no feed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum ChangesError {
    /// The read side does not answer.
    #[error(transparent)]
    Away(#[from] Away),
    /// There is no such view.
    #[error("there is no view {view}")]
    NotFound {
        /// The name of the view.
        view: String,
    },
    /// The view does not answer yet.
    #[error("{view} is {}, not live", state.as_str())]
    NotLive {
        /// The name of the view.
        view: String,
        /// Where it stands.
        state: ViewState,
    },
    /// The changes after this id are not kept any more.
    #[error("{reason}: connect without Last-Event-ID for a new snapshot")]
    Gone {
        /// Why.
        reason: String,
    },
}

/// Which dead letters are meant; nothing given means all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = DeadLetterSelection)]
pub struct Selection {
    /// The name of the view.
    pub view: Option<String>,
    /// The type of the events; `None`: all.
    #[serde(rename = "type")]
    pub event_type: Option<String>,
    /// Events from this position on.
    #[schema(value_type = Option<u64>, maximum = 18446744073709551615_u64)]
    pub from: Option<Position>,
    /// Events up to this position.
    #[schema(value_type = Option<u64>, maximum = 18446744073709551615_u64)]
    pub to: Option<Position>,
}

impl fmt::Display for Selection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Selection { view, event_type, from, to } = self;
        write!(f, "view {}", view.as_deref().unwrap_or("any"))?;
        write!(f, ", type {}", event_type.as_deref().unwrap_or("any"))?;
        let to = to.map_or("the end".to_string(), |to| to.to_string());
        write!(f, ", positions {} to {to}", from.unwrap_or(1))
    }
}

/// Which dead letters are to be listed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadLetterFilter {
    /// Which letters.
    pub selection: Selection,
    /// A part of the expression or of the reason.
    pub reason: Option<String>,
    /// The most to list.
    pub limit: usize,
    /// Where the previous answer ended.
    pub cursor: Option<String>,
    /// The rights of the client that asks: letters of views that it may not see are left out.
    pub reader: Arc<Grant>,
}

/// Some dead letters.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadLetters {
    /// The letters, in order.
    pub letters: Vec<DeadLetter>,
    /// Where the next request goes on; `None` when there are no more.
    pub cursor: Option<String>,
    /// Up to where the log was read for events that no view reads; `None` where none are asked for.
    pub unread_through: Option<Position>,
}

/// Events or rows of one view that failed alike.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadLetter {
    /// The view that lacks them; `None` for events of a type that no view reads.
    pub view: Option<String>,
    /// The type of the events; `None`: all.
    pub event_type: Option<String>,
    /// The first event, where the failure belongs to one.
    pub position: Option<Position>,
    /// The first events.
    pub positions: Vec<Position>,
    /// The expression that failed.
    pub expression: String,
    /// The reason of the failure.
    pub reason: String,
    /// The number of rows that failed in this way.
    pub count: u64,
    /// The first event's payload. The log has it; the read side leaves it out.
    pub sample: Option<String>,
}

/// The result of a retry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retried {
    /// The number of rows that were tried again.
    pub retried: u64,
    /// The number of them that still fail.
    pub failed: u64,
}
