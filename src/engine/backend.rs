//! The engine behind HTTP: implements [`Backend`].

use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::time::Duration;

use arrow::array::{ArrayRef, BooleanArray, StringArray};
use arrow::compute::kernels::cmp;
use arrow::compute::{CastOptions, cast_with_options};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::{mpsc, oneshot, watch};

use super::changes::{Gone, Subscriber};
use super::dead_letters::Letters;
use super::registry::{Registry, View};
use super::supervisor::SupervisorRequest;
use super::tasks::blocking;
use super::tracker::ViewTracker;
use crate::dataflow::{EncodedRow, Runtime, ViewRead, read_order};
use crate::log::LogFollower;
use crate::model::clock::now_ms;
use crate::model::schema::SqlType;
use crate::model::view::{ViewCodec, ViewRef, ViewSchema};
use crate::model::{Head, Position};
use crate::plan::ViewPlan;
use crate::sink::clickhouse::NAME as CLICKHOUSE;
use crate::sink::{Sink, Tampering};
use crate::status::{
    Away, Backend, ChangeFeed, ChangesError, ChangesRequest, ClickHouseStatus, DeadLetterFilter,
    DeadLetters, DismissError, NextGeneration, ReadStatus, RebuildError, Retried, RowsAnswer,
    RowsError, RowsRequest, Selection, SinkStatus, ViewPlace, ViewState, ViewStatus, WaitRequest,
    WaitTarget, Waiting,
};

/// How long the workers may take to answer a read, even where the client does not wait.
const READ_TIME: Duration = Duration::from_secs(5);

/// How often it is looked whether another generation of a view answers, or its public name is there again,
/// while somebody waits for it.
const NAME_INTERVAL: Duration = Duration::from_millis(50);

/// Rows that are decoded at a time to see which ones match.
const MATCHED_ROWS: usize = 4096;

/// The engine, as HTTP sees it.
pub struct EngineBackend {
    pub log: LogFollower,
    pub runtime: Arc<Runtime>,
    pub registry: Arc<Registry>,
    pub clickhouse: Arc<RwLock<ClickHouseStatus>>,
    pub requests: mpsc::UnboundedSender<SupervisorRequest>,
    pub letters: Letters,
    /// Where views are written, once it is connected.
    pub sink: ConnectedSink,
    /// Held while public names are made anew.
    pub mending: tokio::sync::Mutex<()>,
}

/// The sink, which the supervisor connects to.
pub type ConnectedSink = Arc<OnceLock<Arc<dyn Sink>>>;

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
            state_bytes: self.runtime.state_bytes(view.id) as u64,
            state_file_bytes: self.runtime.file_bytes(view.id) as u64,
            start: Some(view.start()),
            live_after_ms: view.live_after_ms(),
            snapshot: view.last_snapshot(),
            errors,
            dead_letters: errors,
            position: complete.position,
            tick: complete.tick,
            lag_dataflow_s: lag_s(complete, head),
            lag_clickhouse_s: written.map(|written| lag_s(written, complete)),
            lag_events: head.position.saturating_sub(complete.position),
            sink: view.sink.as_ref().map(|sink| SinkStatus {
                name: CLICKHOUSE.into(),
                state: sink.state(),
                position: sink.written().position,
                retries: sink.retries.load(Ordering::Relaxed),
            }),
        }
    }

    /// Returns once the sink shows these views as of this position to those who ask it now: their tables and
    /// the progress say so, and the public names read from those tables. Names that are gone are made anew.
    /// Takes what is shown out of the list, which is whole whenever this is given up.
    async fn until_in_sink(&self, names: &mut Vec<String>, position: Position) {
        loop {
            let views = self.registry.views();
            let mut recorded = Vec::new();
            let mut late = Vec::new();
            for name in names.iter() {
                let shown = views.views.get(name).and_then(View::shown);
                // A view that is gone, or is not written any more, keeps nobody waiting.
                let Some((tracker, status)) = shown.and_then(|t| Some((t, t.sink.as_ref()?)))
                else {
                    continue;
                };
                let mut head = status.watch_recorded(position);
                let shows = head.wait_for(|head| head.position >= position);
                // Another generation may answer before this one shows it.
                let is_recorded = tokio::time::timeout(NAME_INTERVAL, shows).await.is_ok();
                match is_recorded && status.is_published() {
                    true => recorded.push(Arc::clone(&tracker.plan.schema)),
                    false => late.push(name.clone()),
                }
            }
            let missing = self.missing_names(recorded).await;
            late.extend(missing.iter().map(|view| view.name.clone()));
            *names = late;
            if names.is_empty() {
                return;
            }
            tokio::time::sleep(NAME_INTERVAL).await;
        }
    }

    /// Has public names made anew that somebody has dropped. Returns the views whose names still do not read
    /// from these generations. Names that another generation has taken over are left as they are.
    async fn missing_names(&self, views: Vec<ViewRef>) -> Vec<ViewRef> {
        let Some(sink) = self.sink.get() else { return views };
        let look = async || sink.missing_names(&views).await.unwrap_or_else(|_| views.clone());
        if views.is_empty() || look().await.is_empty() {
            return Vec::new();
        }
        // The first call has the names made anew; later ones wait here, and then find them.
        let _one_at_a_time = self.mending.lock().await;
        let missing = look().await;
        if missing.is_empty() {
            return missing;
        }
        let found = missing.into_iter().map(Tampering::missing).collect();
        let (answer, answered) = oneshot::channel();
        if self.requests.send(SupervisorRequest::Repair { found, answer }).is_ok() {
            let _ = answered.await;
        }
        look().await
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
            state_bytes: 0,
            state_file_bytes: 0,
            start: None,
            live_after_ms: None,
            snapshot: None,
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

    fn clickhouse(&self) -> ClickHouseStatus {
        let views = self.registry.views();
        let sinks = views.views.values().flat_map(View::running);
        let mut states = sinks.filter_map(|view| Some(view.sink.as_ref()?.state()));
        if let Some(reason) = states.find_map(|state| state.error().map(str::to_string)) {
            return ClickHouseStatus::Away { reason };
        }
        self.clickhouse.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn feed(&self, request: ChangesRequest) -> Result<Box<dyn ChangeFeed>, ChangesError> {
        let ChangesRequest { view, last_id, bytes_max } = request;
        let views = self.registry.views();
        let Some(found) = views.views.get(&view) else {
            return Err(ChangesError::NotFound { view });
        };
        let state = Self::state(found);
        let Some(tracker) = found.shown().filter(|_| state == ViewState::Live) else {
            return Err(ChangesError::NotLive { view, state });
        };
        let (runtime, tracker) = (Arc::clone(&self.runtime), Arc::clone(tracker));
        match Subscriber::new(runtime, tracker, last_id.as_deref(), bytes_max) {
            Ok(subscriber) => Ok(Box::new(subscriber)),
            Err(Gone(reason)) => Err(ChangesError::Gone { reason }),
        }
    }

    async fn read_rows(&self, request: RowsRequest) -> Result<RowsAnswer, RowsError> {
        let deadline = tokio::time::Instant::now() + request.timeout;
        loop {
            let views = self.registry.views();
            let Some(view) = views.views.get(&request.view) else {
                return Err(RowsError::NotFound { view: request.view });
            };
            let state = Self::state(view);
            let Some(view) = view.shown().filter(|_| state == ViewState::Live) else {
                return Err(RowsError::NotLive { view: request.view, state });
            };
            let query = RowsQuery::new(&view.plan.schema, &request)?;
            let late = || {
                let (position, reached) = (request.min_position, view.complete().position);
                RowsError::Timeout { position, reached }
            };
            match reach(view, view.watch_complete(), request.min_position, deadline).await {
                WaitOutcome::Reached => {}
                WaitOutcome::Late => return Err(late()),
                WaitOutcome::Ended => continue,
            }
            // The client's time is for the position; reading what is there takes a moment of its own.
            let deadline = deadline.max(tokio::time::Instant::now() + READ_TIME);
            return match self.collect(view.id, &query, deadline).await {
                Some((position, tick, rows)) => query.answer(position, tick, rows, request.limit),
                None if view.has_ended() => continue,
                None => Err(late()),
            };
        }
    }

    /// Waits until the generation that answers requests about a view shows a position; false if it
    /// does not until the deadline, or the view is gone.
    async fn reaches(
        &self,
        view: &str,
        position: Position,
        deadline: tokio::time::Instant,
    ) -> bool {
        loop {
            let views = self.registry.views();
            let Some(tracker) = views.views.get(view).and_then(View::shown) else { return false };
            match reach(tracker, tracker.watch_complete(), position, deadline).await {
                WaitOutcome::Reached => return true,
                WaitOutcome::Late => return false,
                WaitOutcome::Ended => {}
            }
        }
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
            after: query.after.as_ref().map(|place| place.key.clone()),
            with_after: query.after.as_ref().is_some_and(|place| place.copies > 0),
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

/// How waiting for a position of one generation ended.
enum WaitOutcome {
    Reached,
    /// The deadline has come.
    Late,
    /// The generation is fed no more: another one answers.
    Ended,
}

/// Waits until `head`, which is one of the generation's, is at a position.
async fn reach(
    generation: &ViewTracker,
    mut head: watch::Receiver<Head>,
    position: Position,
    deadline: tokio::time::Instant,
) -> WaitOutcome {
    let reached = head.wait_for(|head| head.position >= position);
    tokio::select! {
        biased;
        reached = tokio::time::timeout_at(deadline, reached) => match reached {
            Ok(Ok(_)) => WaitOutcome::Reached,
            _ => WaitOutcome::Late,
        },
        () = generation.ended() => WaitOutcome::Ended,
    }
}

/// Where an answer ended, which is its cursor: behind all rows with a key, or behind some of them. A
/// view without a key may have a row any number of times, on as many pages as it takes.
struct RowsCursor {
    key: Vec<u8>,
    /// Copies of the row that answers have contained so far; 0: all of them.
    copies: u64,
}

impl RowsCursor {
    fn read(cursor: &str) -> Result<RowsCursor, RowsError> {
        let bad = |reason: String| RowsError::BadCursor { reason };
        let (key, copies) = match cursor.split_once('.') {
            Some((key, copies)) => {
                (key, copies.parse().map_err(|_| bad(format!("{copies:?} is no number")))?)
            }
            None => (cursor, 0),
        };
        let key = URL_SAFE_NO_PAD.decode(key).map_err(|error| bad(error.to_string()))?;
        Ok(RowsCursor { key, copies })
    }

    fn cursor(&self) -> String {
        let key = URL_SAFE_NO_PAD.encode(&self.key);
        if self.copies == 0 { key } else { format!("{key}.{}", self.copies) }
    }
}

/// A request for rows, understood.
struct RowsQuery {
    schema: Arc<ViewSchema>,
    codec: ViewCodec,
    /// The key, where the request gives all of it.
    key: Option<Vec<u8>>,
    after: Option<RowsCursor>,
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
        let after = request.cursor.as_deref().map(RowsCursor::read);
        // Further conditions are tested on what was read, so all of it is. One row more tells whether
        // there is a page behind this one; the first may have been told.
        let read_limit =
            if filters.is_empty() { request.limit.saturating_add(2) } else { usize::MAX };
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
        let matching = self.matching(&rows).map_err(unsound)?;
        // Rows of one key follow each other, and each row is there `copies` times.
        let mut told: Vec<(&[u8], &[u8])> = Vec::new();
        let mut place = self.after.as_ref().filter(|place| place.copies > 0);
        let mut cursor: Option<RowsCursor> = None;
        let mut more = false;
        for same_key in
            rows.iter().zip(matching).collect::<Vec<_>>().chunk_by(|a, b| a.0.0 == b.0.0)
        {
            let key = &same_key[0].0.0;
            // Copies of this key's rows that earlier pages have shown.
            let mut skipped =
                place.take().filter(|place| *place.key == **key).map_or(0, |p| p.copies);
            let mut of_key = skipped;
            for ((_, value, copies), matches) in same_key {
                if !matches {
                    continue;
                }
                let copies = u64::try_from(*copies).unwrap_or(0);
                let left = copies.saturating_sub(skipped);
                skipped = skipped.saturating_sub(copies);
                let room = (limit - told.len()) as u64;
                let taken = left.min(room);
                told.extend((0..taken).map(|_| (&key[..], &value[..])));
                of_key += taken;
                if left > room {
                    more = true;
                    break;
                }
            }
            if more {
                if of_key > 0 {
                    cursor = Some(RowsCursor { key: key.to_vec(), copies: of_key });
                }
                break;
            }
            cursor = Some(RowsCursor { key: key.to_vec(), copies: 0 });
        }
        let cursor = cursor.filter(|_| more).map(|place| place.cursor());
        let batches = match told.is_empty() {
            true => Vec::new(),
            false => vec![self.codec.decode(told.iter().copied()).map_err(unsound)?],
        };
        Ok(RowsAnswer { tick, position, schema: Arc::clone(&self.schema), batches, cursor })
    }

    /// Which rows have the values that were asked for.
    fn matching(&self, rows: &[EncodedRow]) -> Result<Vec<bool>, arrow::error::ArrowError> {
        let mut matching = vec![true; rows.len()];
        if self.filters.is_empty() {
            return Ok(matching);
        }
        for (at, rows) in rows.chunks(MATCHED_ROWS).enumerate() {
            let batch =
                self.codec.decode(rows.iter().map(|(key, value, _)| (&key[..], &value[..])))?;
            for (column, wanted) in &self.filters {
                let wanted = arrow::array::Scalar::new(Arc::clone(wanted));
                let same: BooleanArray = cmp::eq(batch.column(*column), &wanted)?;
                for (matches, same) in matching[at * MATCHED_ROWS..].iter_mut().zip(&same) {
                    *matches &= same == Some(true);
                }
            }
        }
        Ok(matching)
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
    fn away(&self) -> Option<Away> {
        None
    }

    fn status(&self) -> BoxFuture<'_, Result<ReadStatus, Away>> {
        let views = self.registry.views();
        std::future::ready(Ok(ReadStatus {
            views: views.views.values().map(|view| self.view_status(view)).collect(),
            failed_files: views.failed_files.clone(),
            clickhouse: self.clickhouse(),
            alarms: Vec::new(),
            resident_bytes: None,
        }))
        .boxed()
    }

    fn places(&self, views: Vec<String>) -> BoxFuture<'_, Result<Vec<Option<ViewPlace>>, Away>> {
        let known = self.registry.views();
        let place = |name: &String| {
            let view = known.views.get(name)?;
            let place = view.shown().map(|tracker| ViewPlace {
                complete: tracker.complete(),
                written: tracker.sink.as_ref().map(|sink| sink.written()),
            });
            Some(place.unwrap_or_default())
        };
        std::future::ready(Ok(views.iter().map(place).collect())).boxed()
    }

    fn rows(&self, request: RowsRequest) -> BoxFuture<'_, Result<RowsAnswer, RowsError>> {
        self.read_rows(request).boxed()
    }

    fn wait(&self, request: WaitRequest) -> BoxFuture<'_, Result<Vec<Waiting>, Away>> {
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
                return Ok(late);
            }
            let deadline = tokio::time::Instant::now() + request.timeout;
            let mut late = Vec::new();
            let mut in_sink = Vec::new();
            for view in &wanted {
                let name = &view.wanted.schema.name;
                let is_written = view.shown().is_some_and(|tracker| tracker.sink.is_some());
                if is_written && request.target == WaitTarget::ClickHouse {
                    in_sink.push(name.clone());
                } else if !self.reaches(name, request.position, deadline).await {
                    late.push(waiting(view));
                }
            }
            let shown = self.until_in_sink(&mut in_sink, request.position);
            if tokio::time::timeout_at(deadline, shown).await.is_err() {
                let is_late = |view: &&&View| in_sink.contains(&view.wanted.schema.name);
                late.extend(wanted.iter().filter(is_late).map(|view| waiting(view)));
            }
            Ok(late)
        }
        .boxed()
    }

    fn changes(
        &self,
        request: ChangesRequest,
    ) -> BoxFuture<'_, Result<Box<dyn ChangeFeed>, ChangesError>> {
        std::future::ready(self.feed(request)).boxed()
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

    fn dead_letters(
        &self,
        filter: DeadLetterFilter,
    ) -> BoxFuture<'_, Result<Option<DeadLetters>, Away>> {
        let letters = self.letters.clone();
        blocking(move || letters.list(&filter)).map(Ok).boxed()
    }

    fn dismiss(&self, selection: Selection) -> BoxFuture<'_, Result<u64, DismissError>> {
        let letters = self.letters.clone();
        blocking(move || letters.dismiss(&selection)).boxed()
    }

    fn retry(&self, selection: Selection) -> BoxFuture<'_, Result<Retried, Away>> {
        self.letters.clone().retry(selection, self.requests.clone()).map(Ok).boxed()
    }
}
