//! What HTTP asks of the engine.

use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arrow::array::{ArrayRef, BooleanArray, RecordBatch, StringArray};
use arrow::compute::kernels::cmp;
use arrow::compute::{CastOptions, cast_with_options, concat_batches, filter_record_batch};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::mpsc;

use super::tracker::ViewTracker;
use crate::dataflow::{EncodedRow, Read, Runtime, read_order};
use crate::decode::Validator;
use crate::http::{
    Backend, ClickHouseStatus, DeadLetter, DeadLetterFilter, FileError, Misfit, RowsAnswer,
    RowsError, RowsRequest, ViewState, ViewStatus, WaitRequest, WaitTarget, Waiting,
};
use crate::log::Log;
use crate::model::Head;
use crate::model::event::NewEvent;
use crate::model::schema::{EventTable, OnInvalid, SqlType};
use crate::model::view::{ViewCodec, ViewSchema};
use crate::plan::ViewPlan;

/// How long the workers may take to answer a read, even where the client does not wait.
const READ_TIME: Duration = Duration::from_secs(5);

/// The engine, as HTTP sees it.
pub struct EngineBackend {
    pub log: Log,
    pub runtime: Arc<Runtime>,
    pub tables: Vec<Arc<EventTable>>,
    pub failed_files: Vec<FileError>,
    /// The views that are to run.
    pub plans: Vec<ViewPlan>,
    /// The views, once they run.
    pub views: OnceLock<Vec<Arc<ViewTracker>>>,
    pub clickhouse: RwLock<ClickHouseStatus>,
    /// Validators that are not in use just now.
    pub validators: Mutex<Vec<Validators>>,
}

/// A validator per table that refuses what does not fit.
pub struct Validators(Vec<(Arc<EventTable>, Validator)>);

impl Validators {
    fn new(tables: &[Arc<EventTable>]) -> Self {
        let strict = tables.iter().filter(|table| table.on_invalid == OnInvalid::Reject);
        Validators(strict.map(|table| (Arc::clone(table), Validator::new(table))).collect())
    }
}

fn now_s() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

/// How long something that is complete up to `at` has been behind `head`, in seconds.
fn lag_s(at: Head, head: Head) -> f64 {
    if at.position >= head.position {
        return 0.0;
    }
    // The oldest event that is missing is younger than the last one that is there.
    let since = if at.tick == 0 { head.tick } else { at.tick };
    (now_s() - since as f64 / 1000.0).max(0.0)
}

impl EngineBackend {
    fn trackers(&self) -> &[Arc<ViewTracker>] {
        self.views.get().map_or(&[], Vec::as_slice)
    }

    fn tracker(&self, name: &str) -> Option<(usize, &Arc<ViewTracker>)> {
        self.trackers().iter().enumerate().find(|(_, view)| view.name() == name)
    }

    fn state(view: &ViewTracker) -> ViewState {
        if view.is_live() { ViewState::Live } else { ViewState::CatchingUp }
    }

    fn status(&self, view: &ViewTracker) -> ViewStatus {
        let (head, complete) = (self.log.head(), view.complete());
        let written = view.sink.as_ref().map(|sink| sink.written());
        let errors = u64::try_from(view.failures.count()).unwrap_or(0);
        ViewStatus {
            schema: Arc::clone(&view.plan.schema),
            state: Self::state(view),
            event_types: view.plan.event_types.clone(),
            rows: view.rows(),
            errors,
            dead_letters: errors,
            position: complete.position,
            tick: complete.tick,
            lag_dataflow_s: lag_s(complete, head),
            lag_clickhouse_s: written.map(|written| lag_s(written, complete)),
            lag_events: head.position.saturating_sub(complete.position),
            sink_retries: view
                .sink
                .as_ref()
                .map_or(0, |sink| sink.retries.load(std::sync::atomic::Ordering::Relaxed)),
        }
    }

    /// The status of a view that has not begun: ClickHouse has not been asked yet how far it is.
    fn waiting(&self, plan: &ViewPlan) -> ViewStatus {
        let lag = lag_s(Head::default(), self.log.head());
        ViewStatus {
            schema: Arc::clone(&plan.schema),
            state: ViewState::CatchingUp,
            event_types: plan.event_types.clone(),
            rows: 0,
            errors: 0,
            dead_letters: 0,
            position: 0,
            tick: 0,
            lag_dataflow_s: lag,
            lag_clickhouse_s: plan.schema.clickhouse.then_some(0.0),
            lag_events: self.log.head().position,
            sink_retries: 0,
        }
    }

    async fn read_rows(&self, request: RowsRequest) -> Result<RowsAnswer, RowsError> {
        let Some((index, view)) = self.tracker(&request.view) else {
            let planned = self.plans.iter().any(|plan| plan.schema.name == request.view);
            return Err(match planned {
                true => RowsError::NotLive { view: request.view, state: ViewState::CatchingUp },
                false => RowsError::NotFound { view: request.view },
            });
        };
        if !view.is_live() {
            return Err(RowsError::NotLive { view: request.view, state: Self::state(view) });
        }
        let query = RowsQuery::new(&view.plan.schema, &request)?;
        let deadline = tokio::time::Instant::now() + request.timeout;
        let mut complete = view.watch_complete();
        let reached = complete.wait_for(|head| head.position >= request.min_position);
        if !matches!(tokio::time::timeout_at(deadline, reached).await, Ok(Ok(_))) {
            let (position, reached) = (request.min_position, view.complete().position);
            return Err(RowsError::Timeout { position, reached });
        }
        // The client's time is for the position; reading what is there takes a moment of its own.
        let deadline = deadline.max(tokio::time::Instant::now() + READ_TIME);
        let (position, tick, rows) =
            self.collect(index, &query, deadline).await.ok_or_else(|| {
                let (position, reached) = (request.min_position, view.complete().position);
                RowsError::Timeout { position, reached }
            })?;
        query.answer(position, tick, rows, request.limit)
    }

    /// All workers' rows for a query, in reading order, as of one tick.
    async fn collect(
        &self,
        view: usize,
        query: &RowsQuery,
        deadline: tokio::time::Instant,
    ) -> Option<(u64, u64, Vec<EncodedRow>)> {
        let (sender, mut receiver) = mpsc::unbounded_channel();
        let read = Read {
            view,
            key: query.key.clone(),
            after: query.after.clone(),
            limit: query.read_limit,
        };
        let end = self.runtime.read(&read, move |rows| {
            let _ = sender.send(rows);
        });
        let mut all = Vec::new();
        for _ in 0..self.runtime.workers() {
            let rows = tokio::time::timeout_at(deadline, receiver.recv()).await.ok()??;
            all.extend(rows?);
        }
        all.sort_by_cached_key(|(key, _, _)| read_order(key));
        Some((end.position, end.tick, all))
    }
}

/// A request for rows, understood.
struct RowsQuery {
    schema: Arc<ViewSchema>,
    codec: ViewCodec,
    /// The key, where the request gives all of it.
    key: Option<Vec<u8>>,
    after: Option<Vec<u8>>,
    filters: Vec<(usize, ArrayRef)>,
    read_limit: usize,
}

impl RowsQuery {
    fn new(schema: &Arc<ViewSchema>, request: &RowsRequest) -> Result<Self, RowsError> {
        let mut filters = Vec::new();
        for (name, value) in &request.filters {
            let Some(index) = schema.columns.iter().position(|c| c.name == *name) else {
                let columns: Vec<&str> = schema.columns.iter().map(|c| c.name.as_str()).collect();
                return Err(RowsError::UnknownColumn {
                    view: schema.name.clone(),
                    column: name.clone(),
                    columns: columns.join(", "),
                });
            };
            filters.push((index, value_of(schema, index, value)?));
        }
        let unsound =
            |error: arrow::error::ArrowError| RowsError::BadCursor { reason: error.to_string() };
        let codec = ViewCodec::new(schema).map_err(unsound)?;
        let key = match &schema.key {
            Some(columns) => {
                let values = columns.iter().map(|c| {
                    filters.iter().find(|(index, _)| index == c).map(|(_, value)| Arc::clone(value))
                });
                match values.collect::<Option<Vec<ArrayRef>>>() {
                    Some(values) => Some(codec.encode_key(&values).map_err(unsound)?.to_vec()),
                    None => None,
                }
            }
            None => None,
        };
        let after = request.cursor.as_ref().map(|cursor| {
            URL_SAFE_NO_PAD
                .decode(cursor)
                .map_err(|error| RowsError::BadCursor { reason: error.to_string() })
        });
        // Further conditions are tested on what was read, so all of it is.
        let read_limit =
            if filters.is_empty() { request.limit.saturating_add(1) } else { usize::MAX };
        Ok(RowsQuery {
            schema: Arc::clone(schema),
            codec,
            key,
            after: after.transpose()?,
            filters,
            read_limit,
        })
    }

    fn answer(
        &self,
        position: u64,
        tick: u64,
        rows: Vec<EncodedRow>,
        limit: usize,
    ) -> Result<RowsAnswer, RowsError> {
        let unsound =
            |error: arrow::error::ArrowError| RowsError::BadCursor { reason: error.to_string() };
        let mut batches = Vec::new();
        let mut count = 0;
        let mut cursor = None;
        let mut last: Option<&EncodedRow> = None;
        for chunk in rows.chunk_by(|a, b| a.0 == b.0) {
            // A key's rows stay together: a cursor points behind a key.
            if count >= limit {
                cursor = last.map(|(key, _, _)| URL_SAFE_NO_PAD.encode(&key[..]));
                break;
            }
            let pairs: Vec<(&[u8], &[u8])> =
                chunk.iter().flat_map(|(k, v, n)| (0..*n).map(move |_| (&k[..], &v[..]))).collect();
            let batch = self.codec.decode(pairs.iter().copied()).map_err(unsound)?;
            let batch = self.matching(batch).map_err(unsound)?;
            count += batch.num_rows();
            if batch.num_rows() > 0 {
                batches.push(batch);
            }
            last = chunk.last();
        }
        let batches = match batches.first() {
            Some(first) => vec![concat_batches(&first.schema(), &batches).map_err(unsound)?],
            None => Vec::new(),
        };
        Ok(RowsAnswer { tick, position, schema: Arc::clone(&self.schema), batches, cursor })
    }

    fn matching(&self, batch: RecordBatch) -> Result<RecordBatch, arrow::error::ArrowError> {
        let mut batch = batch;
        for (column, value) in &self.filters {
            let keep: BooleanArray =
                cmp::eq(batch.column(*column), &arrow::array::Scalar::new(Arc::clone(value)))?;
            batch = filter_record_batch(&batch, &keep)?;
        }
        Ok(batch)
    }
}

/// A query parameter as a value of the column's type.
fn value_of(schema: &ViewSchema, column: usize, value: &str) -> Result<ArrayRef, RowsError> {
    let field = &schema.columns[column];
    let bad = || RowsError::BadValue {
        column: field.name.clone(),
        value: value.to_string(),
        sql_type: field.sql_type.to_string(),
    };
    if matches!(field.sql_type, SqlType::Array(_) | SqlType::Struct(_)) {
        return Err(bad());
    }
    let text: ArrayRef = Arc::new(StringArray::from(vec![value]));
    let options = CastOptions { safe: false, ..CastOptions::default() };
    cast_with_options(&text, &field.sql_type.to_arrow(), &options).map_err(|_| bad())
}

impl Backend for EngineBackend {
    fn validate(&self, events: &[NewEvent], misfits_max: usize) -> Vec<Misfit> {
        let taken = self.validators.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut validators = taken.unwrap_or_else(|| Validators::new(&self.tables));
        let mut misfits = Vec::new();
        'events: for (index, event) in events.iter().enumerate() {
            for (table, validator) in &mut validators.0 {
                if table.event_type != event.event_type || table.version != event.version {
                    continue;
                }
                for violation in validator.check(&event.data) {
                    misfits.push(Misfit { index, violation });
                }
            }
            if misfits.len() >= misfits_max {
                break 'events;
            }
        }
        self.validators.lock().unwrap_or_else(PoisonError::into_inner).push(validators);
        misfits
    }

    fn views(&self) -> Vec<ViewStatus> {
        if self.views.get().is_none() {
            return self.plans.iter().map(|plan| self.waiting(plan)).collect();
        }
        self.trackers().iter().map(|view| self.status(view)).collect()
    }

    fn failed_files(&self) -> Vec<FileError> {
        self.failed_files.clone()
    }

    fn clickhouse(&self) -> ClickHouseStatus {
        let failing = self
            .trackers()
            .iter()
            .filter_map(|view| view.sink.as_ref())
            .find(|sink| sink.is_failing.load(std::sync::atomic::Ordering::Relaxed));
        if let Some(sink) = failing {
            return ClickHouseStatus::Away { reason: sink.last_error().unwrap_or_default() };
        }
        self.clickhouse.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn rows(&self, request: RowsRequest) -> BoxFuture<'_, Result<RowsAnswer, RowsError>> {
        self.read_rows(request).boxed()
    }

    fn wait(&self, request: WaitRequest) -> BoxFuture<'_, Vec<Waiting>> {
        async move {
            if self.views.get().is_none()
                && let Some(names) = &request.views
            {
                let waiting =
                    |view: &String| Waiting { view: view.clone(), state: ViewState::CatchingUp };
                return names.iter().map(waiting).collect();
            }
            let reads = |view: &ViewTracker| {
                let types = &view.plan.event_types;
                types.is_empty() || request.event_types.iter().any(|t| types.contains(t))
            };
            let wanted = |view: &ViewTracker| match &request.views {
                Some(names) => names.iter().any(|name| name == view.name()),
                None => view.is_live(),
            };
            let views: Vec<&Arc<ViewTracker>> =
                self.trackers().iter().filter(|view| wanted(view) && reads(view)).collect();
            let waiting = |view: &&Arc<ViewTracker>| Waiting {
                view: view.name().to_string(),
                state: Self::state(view),
            };
            let late: Vec<Waiting> =
                views.iter().filter(|view| !view.is_live()).map(waiting).collect();
            if !late.is_empty() {
                return late;
            }
            let deadline = tokio::time::Instant::now() + request.timeout;
            let mut late = Vec::new();
            for view in &views {
                let mut head = match (&view.sink, request.target) {
                    (Some(sink), WaitTarget::ClickHouse) => sink.watch_written(),
                    _ => view.watch_complete(),
                };
                let shown = head.wait_for(|head| head.position >= request.position);
                if !matches!(tokio::time::timeout_at(deadline, shown).await, Ok(Ok(_))) {
                    late.push(waiting(view));
                }
            }
            late
        }
        .boxed()
    }

    fn dead_letters(&self, filter: &DeadLetterFilter) -> Vec<DeadLetter> {
        let mut letters = Vec::new();
        for view in self.trackers() {
            if filter.view.as_ref().is_some_and(|name| name != view.name()) {
                continue;
            }
            for failure in view.failures.list() {
                if failure.count <= 0 {
                    continue;
                }
                let inside = |p: &u64| {
                    filter.from.is_none_or(|from| *p >= from) && filter.to.is_none_or(|to| *p <= to)
                };
                let position = failure.positions.iter().copied().find(|p| inside(p));
                let by_position = filter.from.is_some() || filter.to.is_some();
                if by_position && position.is_none() {
                    continue;
                }
                let event = position.and_then(|p| self.event(p));
                let event_type = event.as_ref().map(|(event_type, _)| event_type.clone());
                if filter.event_type.is_some() && filter.event_type != event_type {
                    continue;
                }
                letters.push(DeadLetter {
                    view: Some(view.name().to_string()),
                    event_type,
                    position,
                    expression: failure.expression,
                    reason: failure.reason,
                    count: u64::try_from(failure.count).unwrap_or(0),
                    sample: event.map(|(_, data)| data),
                });
            }
        }
        letters.sort_by_key(|letter| std::cmp::Reverse(letter.count));
        letters.truncate(filter.limit);
        letters
    }
}

impl EngineBackend {
    /// The type and payload of an event.
    fn event(&self, position: u64) -> Option<(String, String)> {
        let mut reader = self.log.read(position - 1).ok()?;
        let frame = loop {
            let frame = reader.next_frame().ok()??;
            if frame.last_position() >= position {
                break frame;
            }
        };
        let events = frame.decompress().ok()?;
        let event = events.iter().find(|event| event.position == position)?;
        let data = String::from_utf8_lossy(event.data).into_owned();
        Some((event.event_type.to_string(), data))
    }
}
