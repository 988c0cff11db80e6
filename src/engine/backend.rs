//! The engine behind HTTP: implements [`Backend`].

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use arrow::array::{ArrayRef, BooleanArray, RecordBatch, StringArray};
use arrow::compute::kernels::cmp;
use arrow::compute::{CastOptions, cast_with_options, concat_batches, filter_record_batch};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::{mpsc, oneshot};

use super::changes::{Gone, Subscriber};
use super::dead_letters::Letters;
use super::registry::{Registry, View};
use super::supervisor::SupervisorRequest;
use super::tracker::ViewTracker;
use crate::dataflow::{EncodedRow, Runtime, ViewRead, read_order};
use crate::log::Log;
use crate::model::Head;
use crate::model::clock::now_ms;
use crate::model::event::NewEvent;
use crate::model::schema::SqlType;
use crate::model::view::{ViewCodec, ViewSchema};
use crate::plan::ViewPlan;
use crate::sink::clickhouse::NAME as CLICKHOUSE;
use crate::status::{
    Backend, ChangeFeed, ChangesError, ClickHouseStatus, DeadLetterFilter, DeadLetters,
    DismissError, FileError, Misfit, NextGeneration, RebuildError, Retried, RowsAnswer, RowsError,
    RowsRequest, Selection, SinkStatus, ViewState, ViewStatus, WaitRequest, WaitTarget, Waiting,
};

/// How long the workers may take to answer a read, even where the client does not wait.
const READ_TIME: Duration = Duration::from_secs(5);

/// The engine, as HTTP sees it.
pub struct EngineBackend {
    pub log: Log,
    pub runtime: Arc<Runtime>,
    pub registry: Arc<Registry>,
    pub clickhouse: Arc<RwLock<ClickHouseStatus>>,
    pub requests: mpsc::UnboundedSender<SupervisorRequest>,
    pub letters: Letters,
}

/// How long something that is complete up to `at` has been behind `head`, in seconds.
fn lag_s(at: Head, head: Head) -> f64 {
    if at.position >= head.position {
        return 0.0;
    }
    // The oldest event that is missing is younger than the last one that is there.
    let since = if at.tick == 0 { head.tick } else { at.tick };
    Duration::from_millis(now_ms().saturating_sub(since)).as_secs_f64()
}

impl EngineBackend {
    fn state(view: &View) -> ViewState {
        let tracker = view.shown();
        let reason = tracker.and_then(|tracker| tracker.failed()).or(match view.serving {
            // An older generation that answers is not failed by a newer one that cannot be built.
            Some(_) => None,
            None => view.failed.as_deref(),
        });
        match (reason, tracker) {
            (Some(reason), _) => ViewState::Failed { reason: reason.to_string() },
            (None, Some(tracker)) if tracker.is_live() => ViewState::Live,
            (None, _) => ViewState::CatchingUp,
        }
    }

    fn view_status(&self, view: &View) -> ViewStatus {
        let shown = view.shown();
        let mut status = match shown {
            Some(tracker) => self.status(tracker),
            None => self.waiting(&view.wanted),
        };
        status.state = Self::state(view);
        let next = &view.wanted.schema.generation;
        if status.schema.generation != *next {
            let failed = view.building.as_ref().and_then(|building| building.failed());
            let failed = failed.map(str::to_string);
            status.next = Some(NextGeneration {
                generation: next.clone(),
                position: view.building.as_ref().map_or(0, |building| building.complete().position),
                failed: view.failed.clone().or(failed),
            });
        }
        status
    }

    fn status(&self, view: &ViewTracker) -> ViewStatus {
        let (head, complete) = (self.log.head(), view.complete());
        let written = view.sink.as_ref().map(|sink| sink.written());
        let errors = u64::try_from(view.failures.count()).unwrap_or(0);
        ViewStatus {
            schema: Arc::clone(&view.plan.schema),
            state: ViewState::CatchingUp,
            next: None,
            event_types: view.plan.event_types.clone(),
            rows: view.rows(),
            errors,
            dead_letters: errors,
            position: complete.position,
            tick: complete.tick,
            lag_dataflow_s: lag_s(complete, head),
            lag_clickhouse_s: written.map(|written| lag_s(written, complete)),
            lag_events: head.position.saturating_sub(complete.position),
            sink: view.sink.as_ref().map(|sink| SinkStatus {
                name: "clickhouse",
                state: sink.state(),
                position: sink.written().position,
                retries: sink.retries.load(Ordering::Relaxed),
            }),
        }
    }

    /// The status of a view that has not begun: ClickHouse has not been asked yet how far it is.
    fn waiting(&self, plan: &ViewPlan) -> ViewStatus {
        let lag = lag_s(Head::default(), self.log.head());
        ViewStatus {
            schema: Arc::clone(&plan.schema),
            state: ViewState::CatchingUp,
            next: None,
            event_types: plan.event_types.clone(),
            rows: 0,
            errors: 0,
            dead_letters: 0,
            position: 0,
            tick: 0,
            lag_dataflow_s: lag,
            lag_clickhouse_s: plan.is_written_to(CLICKHOUSE).then_some(0.0),
            lag_events: self.log.head().position,
            sink: None,
        }
    }

    async fn read_rows(&self, request: RowsRequest) -> Result<RowsAnswer, RowsError> {
        let views = self.registry.views();
        let Some(view) = views.views.get(&request.view) else {
            return Err(RowsError::NotFound { view: request.view });
        };
        let state = Self::state(view);
        let Some(view) = view.shown().filter(|_| state == ViewState::Live) else {
            return Err(RowsError::NotLive { view: request.view, state });
        };
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
            self.collect(view.id, &query, deadline).await.ok_or_else(|| {
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
        let read = ViewRead {
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
        self.registry.views().validators.with(|validators| {
            let mut misfits = Vec::new();
            for (index, event) in events.iter().enumerate() {
                for (table, validator) in &mut validators.0 {
                    if table.event_type != event.event_type || table.version != event.version {
                        continue;
                    }
                    for violation in validator.check(&event.data) {
                        misfits.push(Misfit { index, violation });
                    }
                }
                if misfits.len() >= misfits_max {
                    break;
                }
            }
            misfits
        })
    }

    fn views(&self) -> Vec<ViewStatus> {
        self.registry.views().views.values().map(|view| self.view_status(view)).collect()
    }

    fn failed_files(&self) -> Vec<FileError> {
        self.registry.views().failed_files.clone()
    }

    fn clickhouse(&self) -> ClickHouseStatus {
        let views = self.registry.views();
        let sinks = views.views.values().flat_map(View::running);
        let mut states = sinks.filter_map(|view| Some(view.sink.as_ref()?.state()));
        if let Some(reason) = states.find_map(|state| state.error().map(str::to_string)) {
            return ClickHouseStatus::Away { reason };
        }
        self.clickhouse.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn rows(&self, request: RowsRequest) -> BoxFuture<'_, Result<RowsAnswer, RowsError>> {
        self.read_rows(request).boxed()
    }

    fn wait(&self, request: WaitRequest) -> BoxFuture<'_, Vec<Waiting>> {
        async move {
            let views = self.registry.views();
            let reads = |view: &View| {
                let types = &view.wanted.event_types;
                types.is_empty() || request.event_types.iter().any(|t| types.contains(t))
            };
            let is_live = |view: &View| Self::state(view) == ViewState::Live;
            let wanted = |view: &&View| {
                reads(view)
                    && match &request.views {
                        Some(names) => names.contains(&view.wanted.schema.name),
                        None => is_live(view),
                    }
            };
            let wanted: Vec<&View> = views.views.values().filter(wanted).collect();
            let waiting = |view: &View| Waiting {
                view: view.wanted.schema.name.clone(),
                state: Self::state(view),
            };
            let late: Vec<Waiting> =
                wanted.iter().filter(|view| !is_live(view)).map(|view| waiting(view)).collect();
            if !late.is_empty() {
                return late;
            }
            let deadline = tokio::time::Instant::now() + request.timeout;
            let mut late = Vec::new();
            for view in wanted {
                let Some(tracker) = view.shown() else { continue };
                let mut head = match (&tracker.sink, request.target) {
                    (Some(sink), WaitTarget::ClickHouse) => sink.watch_written(),
                    _ => tracker.watch_complete(),
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

    fn changes(
        &self,
        view: &str,
        last_id: Option<&str>,
        bytes_max: usize,
    ) -> Result<Box<dyn ChangeFeed>, ChangesError> {
        let views = self.registry.views();
        let not_found = || ChangesError::NotFound { view: view.to_string() };
        let found = views.views.get(view).ok_or_else(not_found)?;
        let state = Self::state(found);
        let Some(tracker) = found.shown().filter(|_| state == ViewState::Live) else {
            return Err(ChangesError::NotLive { view: view.to_string(), state });
        };
        let (runtime, tracker) = (Arc::clone(&self.runtime), Arc::clone(tracker));
        match Subscriber::new(runtime, tracker, last_id, bytes_max) {
            Ok(subscriber) => Ok(Box::new(subscriber)),
            Err(Gone(reason)) => Err(ChangesError::Gone { reason }),
        }
    }

    fn rebuild(&self, view: String) -> BoxFuture<'_, Result<String, RebuildError>> {
        async move {
            let (answer, answered) = oneshot::channel();
            if !self.registry.views().views.contains_key(&view) {
                return Err(RebuildError::NotFound { view });
            }
            let _ = self.requests.send(SupervisorRequest::Rebuild { view, answer });
            match answered.await {
                Ok(result) => result,
                Err(_) => Err(RebuildError::Stopping),
            }
        }
        .boxed()
    }

    fn dead_letters(&self, filter: &DeadLetterFilter) -> Option<DeadLetters> {
        self.letters.list(filter)
    }

    fn dismiss(&self, selection: &Selection) -> Result<u64, DismissError> {
        self.letters.dismiss(selection)
    }

    fn retry(&self, selection: Selection) -> BoxFuture<'_, Retried> {
        self.letters.clone().retry(selection, self.requests.clone()).boxed()
    }
}
