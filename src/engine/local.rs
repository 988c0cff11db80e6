//! Views in process, without a log or ClickHouse: events in, rows out. For golden tests and for
//! everything that wants to know what a view would be.

use std::collections::BTreeMap;
use std::sync::mpsc::channel;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::error::ArrowError;
use hashbrown::HashMap;

use crate::dataflow::{
    Beginning, EncodedRow, Failure, FailureMemory, Failures, FeedGroupId, FilledTable,
    FilledTables, InstallRequest, KeptTableRows, KeptView, Runtime, RuntimeError, RuntimeOptions,
    ViewRead, read_order,
};
use crate::log::{Frame, FrameError, NumberedEvent};
use crate::model::event::NewEvent;
use crate::model::failure::FailureChange;
use crate::model::limits::Limits;
use crate::model::reorder::ReorderBuffer;
use crate::model::row::Row;
use crate::model::view::{CompleteTicks, ViewCodec, ViewMessage};
use crate::model::{Head, Position, Tick};
use crate::plan::ViewPlan;

/// All views here are fed together.
const FEED_GROUP: FeedGroupId = 0;
/// How often a wait looks whether the workers are all there.
const WATCH_INTERVAL: Duration = Duration::from_millis(200);

/// How long workers may take to hand over what they hold.
const KEEP_TIME_MAX: Duration = Duration::from_secs(60);

/// Why views cannot be run in process.
#[derive(Debug, thiserror::Error)]
pub enum LocalRunError {
    /// The workers cannot be started.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    /// The events of one tick are too large to be fed.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// A view has failed as a whole.
    #[error("{0}")]
    Failed(String),
    /// A view's rows cannot be shown.
    #[error(transparent)]
    Rows(#[from] ArrowError),
}

/// Some views over events that are handed in.
pub struct LocalRun {
    runtime: Runtime,
    views: Vec<LocalView>,
    position: Position,
    tick: Tick,
    /// The version of each stream.
    streams: HashMap<String, u64>,
    /// The number of views that began with rows of their tables.
    filled: usize,
}

struct LocalView {
    plan: ViewPlan,
    state: Arc<LocalState>,
}

/// Everything that a view's dataflow has sent so far.
struct LocalState {
    contents: Mutex<LocalContents>,
    failures: Failures,
    advanced: Condvar,
}

/// How often each row is there, by its key and value.
type Contents = BTreeMap<(Row, Row), i64>;

struct LocalContents {
    rows: Contents,
    reorder: ReorderBuffer,
    /// The last complete tick.
    complete: Option<Tick>,
    /// Why the view cannot go on.
    failed: Option<String>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The state of a run that another run can continue from.
pub struct LocalKept {
    head: Head,
    streams: HashMap<String, u64>,
    views: Vec<KeptLocalView>,
}

struct KeptLocalView {
    view: Arc<KeptView>,
    tables: Vec<KeptTableRows>,
    failures: Vec<FailureChange>,
}

impl LocalKept {
    /// The rows of tables that view number `view` can be filled from, as any view has kept them. Other views
    /// are asked first.
    fn filled(&self, view: usize, plan: &ViewPlan) -> Option<FilledTables> {
        let others = self.views.iter().cycle().skip(view + 1).take(self.views.len());
        let tables = plan.plan.scans_only()?.into_iter().map(|scan| {
            others.clone().find_map(|other| {
                let rows = other.tables.iter().find(|rows| rows.have(&scan))?;
                let KeptTableRows { columns, arrangement, .. } = rows.clone();
                let runs = other.view.workers.iter().map(|worker| worker[arrangement].clone());
                Some(FilledTable { source: scan.source, columns, workers: runs.collect() })
            })
        });
        Some(FilledTables { tick: self.head.tick, tables: tables.collect::<Option<_>>()? })
    }
}

impl LocalRun {
    /// Begins these views on `workers` workers.
    pub fn start(views: &[ViewPlan], workers: usize) -> Result<Self, LocalRunError> {
        LocalRun::begin(views, workers, None, false)
    }

    /// Continues from the state that a run of the same views has kept, on any number of workers.
    pub fn resume(
        views: &[ViewPlan],
        workers: usize,
        kept: LocalKept,
    ) -> Result<Self, LocalRunError> {
        LocalRun::begin(views, workers, Some(kept), false)
    }

    /// As [`resume`](Self::resume), but views that read nothing but tables of which some view has kept the
    /// latest rows begin with those rows, and keep nothing else.
    pub fn fill(
        views: &[ViewPlan],
        workers: usize,
        kept: LocalKept,
    ) -> Result<Self, LocalRunError> {
        LocalRun::begin(views, workers, Some(kept), true)
    }

    /// The state of the views as of the last feed; `None` if the list of failures is incomplete, or a worker
    /// is gone.
    pub fn keep(&self) -> Option<LocalKept> {
        let ids: Vec<usize> = (0..self.views.len()).collect();
        ids.iter().for_each(|view| drop(self.wait(*view)));
        let views = self.runtime.keep(&ids).wait(KEEP_TIME_MAX)?;
        let views = views.into_iter().zip(&self.views).map(|(shares, local)| {
            let (shares, failures) = (shares?, local.state.failures.changes("", usize::MAX)?);
            let tables = shares.tables(&local.plan.plan, &failures);
            let view = Arc::new(KeptView { tick: self.tick, workers: shares.workers });
            Some(KeptLocalView { view, tables, failures })
        });
        Some(LocalKept {
            head: Head { position: self.position, tick: self.tick },
            streams: self.streams.clone(),
            views: views.collect::<Option<_>>()?,
        })
    }

    fn begin(
        views: &[ViewPlan],
        workers: usize,
        kept: Option<LocalKept>,
        fills: bool,
    ) -> Result<Self, LocalRunError> {
        // Where state is taken up, nothing is held beside it, so that all of it is read from there.
        let usual = RuntimeOptions::new(workers);
        let runtime = Runtime::with(match kept {
            Some(_) => RuntimeOptions { partition_bytes_max: 0, ..usual },
            None => usual,
        })?;
        let memory = Arc::new(FailureMemory::new(Limits::default().dead_letters_bytes_max));
        let kept_views = kept.as_ref().map_or(&[][..], |kept| &kept.views);
        let filled = |(view, plan): (usize, &ViewPlan)| match &kept {
            Some(kept) if fills => kept.filled(view, plan).map(Arc::new),
            _ => None,
        };
        let filled: Vec<Option<Arc<FilledTables>>> = views.iter().enumerate().map(filled).collect();
        let views: Vec<LocalView> = views
            .iter()
            .enumerate()
            .map(|(index, plan)| {
                let reorder = ReorderBuffer::new(workers);
                let contents =
                    LocalContents { rows: BTreeMap::new(), reorder, complete: None, failed: None };
                let (contents, advanced) = (Mutex::new(contents), Condvar::new());
                let failures = Failures::new(&plan.event_types, &[], &memory);
                let kept = kept_views.get(index).filter(|_| filled[index].is_none());
                let kept = kept.into_iter().flat_map(|kept| &kept.failures);
                kept.for_each(|change| failures.record(change));
                let state = Arc::new(LocalState { contents, failures, advanced });
                LocalView { plan: plan.clone(), state }
            })
            .collect();
        let installations: Vec<InstallRequest> = views
            .iter()
            .enumerate()
            .map(|(view, local)| {
                let state = Arc::clone(&local.state);
                InstallRequest {
                    view,
                    beginning: match (&filled[view], kept_views.get(view)) {
                        (Some(tables), _) => Beginning::Filled(Arc::clone(tables)),
                        (None, Some(kept)) => {
                            Beginning::Kept { view: Arc::clone(&kept.view), tells_rows: true }
                        }
                        (None, None) => Beginning::Empty,
                    },
                    plan: local.plan.clone(),
                    listener: Arc::new(move |message| state.take(message)),
                }
            })
            .collect();
        let (head, streams) = kept.map_or_else(Default::default, |kept| (kept.head, kept.streams));
        runtime.install(FEED_GROUP, &installations, head);
        let Head { position, tick } = head;
        let filled = filled.iter().flatten().count();
        let run = LocalRun { runtime, views, position, tick, streams, filled };
        run.mark();
        if tick > 0 {
            run.runtime.feed(FEED_GROUP, Vec::new(), tick, false);
        }
        Ok(run)
    }

    /// The number of views that began with rows of their tables; see [`fill`](Self::fill).
    pub fn filled(&self) -> usize {
        self.filled
    }

    /// Feeds groups of events, all of them at `tick`, which must be later than the one before.
    pub fn feed(&mut self, tick: Tick, groups: &[Vec<NewEvent>]) -> Result<(), LocalRunError> {
        assert!(tick > self.tick, "ticks only go forward: {tick} after {}", self.tick);
        let mut frames = Vec::new();
        let streams = &mut self.streams;
        let mut number = |event: &NewEvent| match &event.stream {
            None => 0,
            Some(stream) => {
                let version = streams.entry(stream.clone()).or_insert(0);
                *version += 1;
                *version
            }
        };
        for group in groups.iter().filter(|group| !group.is_empty()) {
            let numbered: Vec<NumberedEvent<'_>> = group
                .iter()
                .map(|event| NumberedEvent { event, stream_version: number(event) })
                .collect();
            let frame = Frame::new(tick, self.position + 1, numbered.into_iter())?;
            self.position = frame.last_position();
            frames.push(frame);
        }
        self.tick = tick;
        self.mark();
        self.runtime.feed(FEED_GROUP, frames, tick, false);
        Ok(())
    }

    /// Tells the views' buffers that the last tick ends at the last position.
    fn mark(&self) {
        for view in &self.views {
            view.state.take(ViewMessage::Mark { tick: self.tick, position: self.position });
        }
    }

    /// Feeds frames of a log, whose events all enter at the tick of the last of them, and waits until
    /// the views are through with them.
    pub fn feed_frames(&mut self, frames: Vec<Frame>) {
        let Some(last) = frames.last() else { return };
        (self.position, self.tick) = (last.last_position(), last.tick());
        self.mark();
        self.runtime.feed(FEED_GROUP, frames, self.tick, true);
        for view in 0..self.views.len() {
            drop(self.wait(view));
        }
    }

    /// A view's contents, once all workers are past the last tick. Panics when a worker has: the
    /// others wait for it, and would for ever.
    fn wait(&self, view: usize) -> MutexGuard<'_, LocalContents> {
        let state = &self.views[view].state;
        let mut contents = lock(&state.contents);
        while contents.failed.is_none()
            && contents.complete.is_none_or(|complete| complete < self.tick)
        {
            assert!(self.runtime.lost_workers() == 0, "a worker ended with a panic");
            let waited = state.advanced.wait_timeout(contents, WATCH_INTERVAL);
            contents = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        contents
    }

    /// A view's rows as of the last feed, in the order of their keys.
    pub fn rows(&self, view: usize) -> Result<RecordBatch, LocalRunError> {
        let local = &self.views[view];
        let contents = self.wait(view);
        if let Some(reason) = &contents.failed {
            return Err(LocalRunError::Failed(reason.clone()));
        }
        let rows: Vec<(&[u8], &[u8])> = contents
            .rows
            .iter()
            .flat_map(|((key, value), count)| (0..*count).map(move |_| (&key[..], &value[..])))
            .collect();
        let codec = ViewCodec::new(&local.plan.schema)?;
        Ok(codec.decode(rows.iter().copied())?)
    }

    /// Compares what reads of a view give, so many rows at a time, with what its changes have come to; the error
    /// says how they differ.
    pub fn check_reads(&self, view: usize, page: usize) -> Result<(), String> {
        let told = self.wait(view).rows.clone();
        let (mut read, mut after) = (BTreeMap::new(), None);
        loop {
            let mut rows = self.page(view, after.take(), page);
            rows.sort_by_cached_key(|(key, _, _)| read_order(key));
            rows.truncate(page);
            let Some((last, _, _)) = rows.last() else { break };
            after = Some(last.to_vec());
            for (key, value, count) in rows {
                if read.insert((key.clone(), value), count).is_some() {
                    return Err(format!("the row with key {key:?} is read twice"));
                }
            }
        }
        let differ = |a: &Contents, b: &Contents| -> Contents {
            a.iter()
                .filter(|row| b.get(row.0) != Some(row.1))
                .map(|(r, n)| (r.clone(), *n))
                .collect()
        };
        let (missing, more) = (differ(&told, &read), differ(&read, &told));
        match missing.is_empty() && more.is_empty() {
            true => Ok(()),
            false => Err(format!("reads by {page} lack {missing:?} and have {more:?}")),
        }
    }

    /// The first rows behind a key on each worker.
    fn page(&self, view: usize, after: Option<Vec<u8>>, limit: usize) -> Vec<EncodedRow> {
        let (sender, answers) = channel();
        let read = ViewRead { view, key: None, after, with_after: false, limit };
        self.runtime.read(&read, move |rows| drop(sender.send(rows)));
        answers.iter().take(self.runtime.workers()).flatten().flatten().collect()
    }

    /// The rows of a view that fail as of the last feed.
    pub fn failures(&self, view: usize) -> Vec<Failure> {
        drop(self.wait(view));
        self.views[view].state.failures.list()
    }

    /// Reads a view through its dataflow's own state: see [`Runtime::read`].
    pub fn runtime(&self) -> &Runtime {
        &self.runtime
    }
}

impl LocalState {
    fn take(&self, message: ViewMessage) {
        let mut contents = lock(&self.contents);
        let contents = &mut *contents;
        if let ViewMessage::Failed { reason } = message {
            contents.failed.get_or_insert(reason);
            return self.advanced.notify_all();
        }
        contents.reorder.take(message);
        while let Some((CompleteTicks { head, ticks }, failures)) = contents.reorder.complete() {
            failures.iter().for_each(|change| self.failures.record(change));
            for update in ticks.into_iter().flat_map(|(_, updates)| updates) {
                let count = contents.rows.entry((update.key, update.value)).or_insert(0);
                *count = count.saturating_add(update.diff);
            }
            contents.rows.retain(|_, count| *count != 0);
            contents.complete = Some(head.tick);
            self.advanced.notify_all();
        }
    }
}
