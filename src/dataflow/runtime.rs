//! The workers of this process, and the one way to tell them something: all of them, in one order.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::Thread;
use std::time::{Duration, Instant};

use differential_dataflow::trace::ExertionLogic;
use timely::communication::WorkerGuards;

use super::feed_group::FeedGroupId;
use super::guard::{ViewControl, ViewLimits, mark_in};
use super::kept::{KeptShare, KeptShares};
use super::marker::Marker;
use super::output::EncodedRow;
use super::partition_cache::hold_up_to;
use super::run::{Spill, spill_to};
use super::worker::{
    InstallRequest, KeptViews, Load, ReadRequest, WorkerCommand, WorkerState, load,
};
use crate::log::Frame;
use crate::model::limits::Limits;
use crate::model::{Head, Tick};

/// Number of updates that an idle trace merges each time that its operator runs: about 100 µs' worth, since a
/// view may have dozens of traces, and new work waits for all of them.
const IDLE_MERGE_EFFORT: usize = 1_000;

/// An idle trace is merged when its smaller layers together have more than this part of the largest layer's
/// updates. Were they always merged, each single change would cost the merge of all that there is.
const IDLE_MERGE_SHARE: usize = 8;

/// Idle traces merge down to little more than one layer, which is where old updates cancel out:
/// memory at rest is the views' size, not their past. While there is work to do, merging is left to
/// the work itself.
fn exert_logic() -> ExertionLogic {
    Arc::new(|levels: &[(usize, usize, usize)]| {
        let filled = levels.iter().filter(|(_, _, len)| *len > 0);
        let (layers, total) = filled.fold((0, 0), |(n, sum), (_, more, len)| (n + more, sum + len));
        let largest = levels.iter().max_by_key(|(_, _, len)| *len);
        let is_due = largest.is_some_and(|(_, batches, len)| {
            // Two batches at one level are being merged.
            *batches > 1 || (total - len) * IDLE_MERGE_SHARE > *len
        });
        let effort = match load() {
            Load::Idle => IDLE_MERGE_EFFORT,
            // Next to nothing, but to be asked again.
            Load::Busy => 1,
            // The work that waits asks again.
            Load::Backlog => return None,
        };
        (layers > 1 && is_due).then_some(effort)
    })
}

/// Why the workers do not run.
#[derive(Debug, thiserror::Error)]
#[error("the dataflow workers cannot be started: {0}")]
pub struct RuntimeError(String);

/// A read of a view; see [`Runtime::read`].
#[derive(Clone, Debug, Default)]
pub struct ViewRead {
    pub view: usize,
    /// Only rows with this encoded key.
    pub key: Option<Vec<u8>>,
    /// Only rows behind this encoded key, in the order of reads.
    pub after: Option<Vec<u8>>,
    /// The rows with the key of `after`, too.
    pub with_after: bool,
    /// At most so many different rows from each worker, however often they are there.
    pub limit: usize,
}

/// Options of the workers.
#[derive(Clone)]
pub struct RuntimeOptions {
    /// Number of workers.
    pub workers: usize,
    /// The limits of each view.
    pub limits: ViewLimits,
    /// Where the workers note what they work on, and what views hold.
    pub marker: Option<Arc<Marker>>,
    /// Where large parts of the state go when memory is short.
    pub spill: Option<Arc<Spill>>,
    /// Most bytes of partitions that all operators hold together, beside the arrangements that they read
    /// other partitions from.
    pub partition_bytes_max: usize,
}

/// Default of [`RuntimeOptions::partition_bytes_max`].
const PARTITION_BYTES: usize = 256 << 20;

impl RuntimeOptions {
    /// So many workers, the usual limits but for that of time, no notes.
    pub fn new(workers: usize) -> Self {
        let limits = ViewLimits { time_max: Duration::MAX, ..ViewLimits::from(&Limits::default()) };
        let partition_bytes_max = PARTITION_BYTES;
        RuntimeOptions { workers, limits, marker: None, spill: None, partition_bytes_max }
    }
}

/// The workers' answers when some views are kept; see [`Runtime::keep`].
pub struct KeptAnswers {
    answers: Receiver<(usize, KeptViews)>,
    workers: usize,
    views: usize,
}

impl KeptAnswers {
    /// For each view that was asked for, in that order, the state that each worker hands over; `None` for a
    /// view that is gone. `None` in all if a worker does not answer for so long, or is gone.
    pub fn wait(self, time_max: Duration) -> Option<Vec<Option<KeptShares>>> {
        let end = Instant::now() + time_max;
        let mut workers: Vec<(usize, KeptViews)> = Vec::new();
        while workers.len() < self.workers {
            let left = end.saturating_duration_since(Instant::now());
            workers.push(self.answers.recv_timeout(left).ok()?);
        }
        workers.sort_by_key(|(worker, _)| *worker);
        let mut views: Vec<_> = (0..self.views).map(|_| Some(KeptShares::default())).collect();
        for (_, kept) in workers {
            for (view, (_, share)) in views.iter_mut().zip(kept) {
                *view = view.take().zip(share).map(|(mut view, share)| {
                    let KeptShare { arrangements, first_of } = share;
                    view.workers.push(arrangements);
                    view.first_of = first_of;
                    view
                });
            }
        }
        Some(views)
    }
}

struct WorkerHandle {
    commands: Sender<WorkerCommand>,
    thread: Thread,
}

/// The running workers.
pub struct Runtime {
    state: Mutex<RuntimeState>,
    guards: Mutex<Option<WorkerGuards<()>>>,
    workers: usize,
    limits: ViewLimits,
    marker: Option<Arc<Marker>>,
    lost: Arc<AtomicUsize>,
}

/// Counts a worker as lost when it ends with a panic.
struct Watch(Arc<AtomicUsize>);

impl Drop for Watch {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }
}

struct RuntimeState {
    handles: Vec<WorkerHandle>,
    /// The end of what each feed group was fed.
    fed: BTreeMap<FeedGroupId, Head>,
    /// The feed group of each view.
    feed_groups: BTreeMap<usize, FeedGroupId>,
    controls: BTreeMap<usize, Arc<ViewControl>>,
    /// Which worker gets the next frame.
    next: usize,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Runtime {
    /// Starts `workers` worker threads, for views that have the process to themselves.
    pub fn start(workers: usize) -> Result<Self, RuntimeError> {
        Runtime::with(RuntimeOptions::new(workers))
    }

    /// Starts the worker threads.
    pub fn with(options: RuntimeOptions) -> Result<Self, RuntimeError> {
        let RuntimeOptions { workers, limits, marker, spill, partition_bytes_max } = options;
        let (senders, receivers): (Vec<_>, Vec<_>) = (0..workers).map(|_| channel()).unzip();
        let receivers: Vec<Mutex<Option<Receiver<WorkerCommand>>>> =
            receivers.into_iter().map(|r| Mutex::new(Some(r))).collect();
        let (started, threads) = channel();
        let started = Mutex::new(started);
        let mut config = timely::Config::process(workers);
        config.worker.set("differential/default_exert_logic".to_string(), exert_logic());
        let lost = Arc::new(AtomicUsize::new(0));
        let watched = Arc::clone(&lost);
        let marked = marker.clone();
        let guards = timely::execute(config, move |worker| {
            let _watch = Watch(Arc::clone(&watched));
            let index = worker.index();
            let _ = lock(&started).send((index, std::thread::current()));
            spill_to(spill.clone());
            hold_up_to(partition_bytes_max / workers);
            mark_in(marked.as_ref().and_then(|marker| marker.worker(index)));
            if let Some(commands) = lock(&receivers[index]).take() {
                WorkerState::new(worker, commands).run();
            }
        })
        .map_err(RuntimeError)?;
        let mut threads: Vec<(usize, Thread)> = threads.iter().take(workers).collect();
        threads.sort_by_key(|(index, _)| *index);
        let handles = senders
            .into_iter()
            .zip(threads)
            .map(|(commands, (_, thread))| WorkerHandle { commands, thread })
            .collect();
        let state = Mutex::new(RuntimeState {
            handles,
            fed: BTreeMap::new(),
            feed_groups: BTreeMap::new(),
            controls: BTreeMap::new(),
            next: 0,
        });
        Ok(Runtime { state, guards: Mutex::new(Some(guards)), workers, limits, marker, lost })
    }

    /// Number of workers that ended with a panic: nothing more comes from any of them.
    pub fn lost_workers(&self) -> usize {
        self.lost.load(Ordering::SeqCst)
    }

    /// Number of workers.
    pub fn workers(&self) -> usize {
        self.workers
    }

    /// Begins views as a new feed group, which sees what it is fed from now on. Views that take up kept state
    /// take it up at `from`; all views have to be fed up to there, with nothing.
    pub fn install(&self, feed_group: FeedGroupId, views: &[InstallRequest], from: Head) {
        let mut state = lock(&self.state);
        state.fed.insert(feed_group, from);
        state.feed_groups.extend(views.iter().map(|view| (view.view, feed_group)));
        let views: Vec<(InstallRequest, Arc<ViewControl>)> = views
            .iter()
            .map(|request| {
                let InstallRequest { view, plan, listener, .. } = request.clone();
                let name = (plan.schema.name.as_str(), plan.schema.generation.as_str());
                let control = ViewControl::new(view, name, self.limits, self.workers, listener);
                let account = self.marker.as_ref().and_then(|m| m.account(name.0, name.1));
                (request.clone(), Arc::new(control.with_account(account)))
            })
            .collect();
        let controls = views.iter().map(|(request, control)| (request.view, Arc::clone(control)));
        state.controls.extend(controls);
        state.broadcast(|_| WorkerCommand::Install { feed_group, views: views.clone() });
    }

    /// Bytes of a view's state, its rows included; about.
    pub fn state_bytes(&self, view: usize) -> usize {
        lock(&self.state).controls.get(&view).map_or(0, |control| control.state_bytes())
    }

    /// Number of these bytes that are in files, and in memory only while they are looked at.
    pub fn file_bytes(&self, view: usize) -> usize {
        lock(&self.state).controls.get(&view).map_or(0, |control| control.file_bytes())
    }

    /// Lets the workers give freed memory back, also while they have work.
    pub fn return_memory(&self) {
        super::memory::ask();
    }

    /// Stops a view's work, since it must not go on; its listener is told why.
    pub fn fail(&self, view: usize, reason: impl Into<String>) {
        let control = lock(&self.state).controls.get(&view).cloned();
        if let Some(control) = control {
            control.fail(reason);
        }
    }

    /// Feeds frames to a feed group. Their events all enter at `tick`, the tick of the last of them or
    /// later, and the feed group's views advance past it. `more` says that the log has more already.
    pub fn feed(&self, feed_group: FeedGroupId, frames: Vec<Frame>, tick: Tick, more: bool) {
        let mut state = lock(&self.state);
        let mut shares: Vec<Vec<Frame>> = vec![Vec::new(); self.workers];
        let mut fed = state.fed.get(&feed_group).copied().unwrap_or_default();
        for frame in frames {
            fed.position = frame.last_position();
            let next = state.next;
            shares[next].push(frame);
            state.next = (next + 1) % self.workers;
        }
        fed.tick = tick;
        state.fed.insert(feed_group, fed);
        state.broadcast(|index| {
            let frames = std::mem::take(&mut shares[index]);
            WorkerCommand::Feed { feed_group, frames, tick, more }
        });
    }

    /// Feeds the views of `from` with those of `into` from now on. Both must have been fed up to
    /// the same tick.
    pub fn merge(&self, from: FeedGroupId, into: FeedGroupId) {
        let mut state = lock(&self.state);
        state.fed.remove(&from);
        for feed_group in state.feed_groups.values_mut().filter(|feed_group| **feed_group == from) {
            *feed_group = into;
        }
        state.broadcast(|_| WorkerCommand::Merge { from, into });
    }

    /// Feeds some views of `from` as a feed group of their own from now on.
    pub fn split(&self, from: FeedGroupId, views: &[usize], into: FeedGroupId) {
        let mut state = lock(&self.state);
        let fed = state.fed.get(&from).copied().unwrap_or_default();
        state.fed.insert(into, fed);
        state.feed_groups.extend(views.iter().map(|view| (*view, into)));
        state.broadcast(|_| WorkerCommand::Split { views: views.to_vec(), into });
    }

    /// The end of the log's part that a view was fed.
    pub fn fed(&self, view: usize) -> Head {
        let state = lock(&self.state);
        let feed_group = state.feed_groups.get(&view);
        feed_group.and_then(|feed_group| state.fed.get(feed_group)).copied().unwrap_or_default()
    }

    /// Asks for the arrangements of views, which must be through with all that they were fed. Events that are
    /// fed after this call are not in them.
    pub fn keep(&self, views: &[usize]) -> KeptAnswers {
        let (sender, answers) = channel();
        lock(&self.state).broadcast(|worker| {
            let sender = sender.clone();
            // Whoever asked may have given up.
            let answer = move |views| drop(sender.send((worker, views)));
            WorkerCommand::Keep { views: views.to_vec(), answer: Box::new(answer) }
        });
        KeptAnswers { answers, workers: self.workers, views: views.len() }
    }

    /// Asks for a view's rows as of everything that it was fed so far.
    ///
    /// Each worker's rows go to `answer` once it has caught up with that tick, `None` where the
    /// view is gone. Returns up to where the rows will be.
    pub fn read(
        &self,
        read: &ViewRead,
        answer: impl Fn(Option<Vec<EncodedRow>>) + Send + Sync + 'static,
    ) -> Head {
        let answer = Arc::new(answer);
        let state = lock(&self.state);
        let feed_group = state.feed_groups.get(&read.view);
        let fed = feed_group
            .and_then(|feed_group| state.fed.get(feed_group))
            .copied()
            .unwrap_or_default();
        let tick = fed.tick;
        state.broadcast(|_| {
            let answer = Arc::clone(&answer);
            WorkerCommand::ViewRead(ReadRequest {
                view: read.view,
                tick,
                key: read.key.clone(),
                after: read.after.clone(),
                with_after: read.with_after,
                limit: read.limit,
                answer: Box::new(move |rows| answer(rows)),
            })
        });
        fed
    }

    /// Stops a view and forgets its state.
    pub fn remove(&self, view: usize) {
        let mut state = lock(&self.state);
        state.feed_groups.remove(&view);
        if let Some(control) = state.controls.remove(&view) {
            // At once, and not when the workers come to the command.
            control.stop();
        }
        state.broadcast(|_| WorkerCommand::Remove { view });
    }

    /// Stops the workers and waits for them.
    pub fn shutdown(&self) {
        let state = lock(&self.state);
        state.controls.values().for_each(|control| control.stop());
        state.broadcast(|_| WorkerCommand::Shutdown);
        drop(state);
        if let Some(guards) = lock(&self.guards).take() {
            for result in guards.join() {
                if let Err(error) = result {
                    tracing::error!(error, "a worker ended with a panic");
                }
            }
        }
    }
}

impl RuntimeState {
    fn broadcast(&self, mut command: impl FnMut(usize) -> WorkerCommand) {
        for (index, handle) in self.handles.iter().enumerate() {
            // A worker that is gone has ended the process, or is about to.
            let _ = handle.commands.send(command(index));
            handle.thread.unpark();
        }
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        self.shutdown();
    }
}
