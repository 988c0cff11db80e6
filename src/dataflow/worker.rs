//! A timely worker: takes commands, feeds its share of the log to its views, answers reads.

use std::cell::Cell;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use arrow::error::ArrowError;
use timely::communication::Allocator;
use timely::communication::allocator::thread::Thread;
use timely::dataflow::InputHandle;
use timely::worker::Worker;

use super::failure::FailureStream;
use super::feed_group::{FeedGroup, FeedGroupId, SourceInput};
use super::guard::{Guard, ViewControl, ViewLimits, end_step};
use super::kept::{Beginning, KeptShare, Takeover};
use super::memory::MemoryReturn;
use super::output::{self, EncodedRow, RowsRead, ViewRows};
use super::reclaim::ReclaimQueue;
use super::render::Renderer;
use crate::log::Frame;
use crate::model::Tick;
use crate::model::limits::Limits;
use crate::model::view::ViewMessage;
use crate::plan::ViewPlan;
use crate::plan::ir::NodeId;

/// Longest time that an idle worker sleeps when nobody wakes it.
const PARK_MAX: Duration = Duration::from_millis(100);
/// The same while batches wait to be freed.
const PARK_RECLAIMING: Duration = Duration::from_millis(1);
/// Time that a worker reads rows before it does something else.
const READ_SLICE: Duration = Duration::from_millis(2);
/// Interval at which it is looked whether views keep within their limits.
const CHECK_INTERVAL: Duration = Duration::from_millis(50);

/// A worker's remaining work.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Load {
    /// Nothing that anybody waits for.
    Idle,
    /// Its views are not through with what they were fed.
    Busy,
    /// Nor is that all: the log has more.
    Backlog,
}

thread_local! {
    static LOAD: Cell<Load> = const { Cell::new(Load::Idle) };
}

/// This worker's remaining work.
pub fn load() -> Load {
    LOAD.get()
}

/// A command to the workers. All workers get the same commands in the same order.
pub enum WorkerCommand {
    /// Begin these views, which are fed together as members of a feed group.
    Install { feed_group: FeedGroupId, views: Vec<(InstallRequest, Arc<ViewControl>)> },
    /// The frames of this worker's share for a feed group, and the tick at which their events enter.
    /// With everything up to `tick` fed, the views' inputs advance past it. `more`: the log has
    /// more.
    Feed { feed_group: FeedGroupId, frames: Vec<Frame>, tick: Tick, more: bool },
    /// Feed the views of one feed group with those of another, which is at the same tick.
    Merge { from: FeedGroupId, into: FeedGroupId },
    /// Feed these views as a feed group of their own, which is at the same tick as theirs.
    Split { views: Vec<usize>, into: FeedGroupId },
    /// Hand over the arrangements of these views, which are through with all that they were fed.
    Keep { views: Vec<usize>, answer: KeepAnswer },
    /// Read a view's rows as of a tick that was fed.
    ViewRead(ReadRequest),
    /// Stop a view and forget its state.
    Remove { view: usize },
    /// End the worker.
    Shutdown,
}

/// For each view the state that this worker hands over; `None` for a view that is gone.
pub type KeptViews = Vec<(usize, Option<KeptShare>)>;

/// Is told what is kept of this worker.
pub type KeepAnswer = Box<dyn FnOnce(KeptViews) + Send>;

/// A view to begin.
#[derive(Clone)]
pub struct InstallRequest {
    /// The name of the view.
    pub view: usize,
    /// The state that it begins with.
    pub beginning: Beginning,
    /// The plan of the dataflow.
    pub plan: ViewPlan,
    /// Is told what the view does, on the workers' threads.
    pub listener: Arc<dyn Fn(ViewMessage) + Send + Sync>,
}

/// A read of one worker's share of a view.
pub struct ReadRequest {
    pub view: usize,
    pub tick: Tick,
    /// Only rows with this encoded key.
    pub key: Option<Vec<u8>>,
    /// Only rows behind this encoded key.
    pub after: Option<Vec<u8>>,
    /// The rows with the key of `after`, too.
    pub with_after: bool,
    pub limit: usize,
    /// Called with the rows, or `None` if the view is gone.
    pub answer: Box<dyn FnOnce(Option<Vec<EncodedRow>>) + Send>,
}

/// A view that runs on this worker.
struct Installation {
    feed_group: FeedGroupId,
    rows: ViewRows,
    inputs: Vec<SourceInput>,
    plan: ViewPlan,
    failures: FailureStream,
    guard: Guard,
}

/// The state of one worker.
pub struct WorkerState<'a> {
    worker: &'a mut Worker,
    commands: Receiver<WorkerCommand>,
    views: BTreeMap<usize, Installation>,
    feed_groups: BTreeMap<FeedGroupId, FeedGroup>,
    /// Reads of ticks that are not complete, and those that have begun.
    reads: Vec<ReadRequest>,
    reading: VecDeque<RowsRead>,
    reclaimed: ReclaimQueue,
    memory: MemoryReturn,
    checked_at: Instant,
}

impl<'a> WorkerState<'a> {
    /// A worker without views.
    pub fn new(worker: &'a mut Worker, commands: Receiver<WorkerCommand>) -> Self {
        WorkerState {
            worker,
            commands,
            views: BTreeMap::new(),
            feed_groups: BTreeMap::new(),
            reads: Vec::new(),
            reading: VecDeque::new(),
            reclaimed: ReclaimQueue::default(),
            memory: MemoryReturn::new(),
            checked_at: Instant::now(),
        }
    }

    /// Works until it is told to stop.
    pub fn run(mut self) {
        loop {
            let mut idle = true;
            // One command at a time, then a step: no command holds the others up for long.
            match self.commands.try_recv() {
                Ok(WorkerCommand::Shutdown) | Err(std::sync::mpsc::TryRecvError::Disconnected) => {
                    break;
                }
                Ok(command) => {
                    idle = false;
                    self.memory.worked();
                    self.handle(command);
                }
                Err(std::sync::mpsc::TryRecvError::Empty) => {}
            }
            self.answer_reads();
            if idle && self.reading.is_empty() {
                let reclaims = !self.reclaimed.batches().is_empty();
                let park_max = if reclaims { PARK_RECLAIMING } else { PARK_MAX };
                self.worker.step_or_park(Some(park_max));
            } else {
                self.worker.step();
            }
            end_step();
            self.check();
            if load() == Load::Busy && !self.is_behind() {
                LOAD.set(Load::Idle);
            }
            if idle && load() == Load::Idle {
                self.memory.rest();
            }
        }
        self.end();
    }

    /// Looks whether views keep within their limits, and frees what is left of others.
    fn check(&mut self) {
        if self.reclaimed.step() {
            self.memory.freed();
        }
        if self.checked_at.elapsed() < CHECK_INTERVAL {
            return;
        }
        self.checked_at = Instant::now();
        self.memory.give_back();
        for view in self.views.values_mut() {
            let rows = &mut view.rows;
            view.guard.check(|| rows.upper());
        }
    }

    /// Whether a view is not through yet with what it was fed.
    fn is_behind(&mut self) -> bool {
        let feed_groups = &self.feed_groups;
        let fed = |view: &Installation| {
            feed_groups.get(&view.feed_group).map_or(0, |feed_group| feed_group.fed)
        };
        let mut going = self.views.values_mut().filter(|view| !view.guard.control().is_stopped());
        going.any(|view| view.rows.upper() <= fed(view))
    }

    fn end(mut self) {
        LOAD.set(Load::Idle);
        // Closed inputs let the dataflows come to their end.
        self.views.clear();
        while self.worker.has_dataflows() {
            self.worker.step_or_park(Some(PARK_MAX));
        }
    }

    fn handle(&mut self, command: WorkerCommand) {
        match command {
            WorkerCommand::Install { feed_group, views } => {
                for (view, control) in views {
                    let id = view.view;
                    match build(self.worker, feed_group, view, Arc::clone(&control)) {
                        Ok(running) => {
                            self.views.insert(id, running);
                        }
                        // The trial has built the same dataflow, so that this is not to be expected.
                        Err(error) => {
                            control.fail(format!("its dataflow cannot be built: {error}"));
                        }
                    }
                }
                self.share_decoders(feed_group);
            }
            WorkerCommand::Feed { feed_group, frames, tick, more } => {
                LOAD.set(if more { Load::Backlog } else { Load::Busy });
                self.feed(feed_group, &frames, tick);
            }
            WorkerCommand::Keep { views, answer } => {
                let kept = |view: usize| {
                    let running = self.views.get(&view)?;
                    let goes_on = !running.guard.control().is_stopped();
                    goes_on.then(|| running.guard.share())
                };
                answer(views.into_iter().map(|view| (view, kept(view))).collect());
            }
            WorkerCommand::Merge { from, into } => self.merge(from, into),
            WorkerCommand::Split { views, into } => self.split(&views, into),
            WorkerCommand::ViewRead(request) => self.reads.push(request),
            WorkerCommand::Remove { view } => {
                if let Some(view) = self.views.remove(&view) {
                    view.guard.control().stop();
                    view.guard.reclaim(self.reclaimed.batches());
                    self.share_decoders(view.feed_group);
                }
            }
            WorkerCommand::Shutdown => {}
        }
    }

    /// From now on the views of `from` are fed with those of `into`.
    fn merge(&mut self, from: FeedGroupId, into: FeedGroupId) {
        let fed = |id: &FeedGroupId| self.feed_groups.get(id).map(|feed_group| feed_group.fed);
        assert!(fed(&from) == fed(&into), "feed_groups merge where they meet: {from} and {into}");
        for view in self.views.values_mut().filter(|view| view.feed_group == from) {
            view.feed_group = into;
        }
        self.share_decoders(from);
        self.share_decoders(into);
    }

    /// From now on these views are fed by themselves.
    fn split(&mut self, views: &[usize], into: FeedGroupId) {
        let mut from = None;
        for id in views {
            if let Some(view) = self.views.get_mut(id) {
                from = Some(std::mem::replace(&mut view.feed_group, into));
            }
        }
        let Some(from) = from else { return };
        let fed = self.feed_groups.get(&from).map_or(0, |feed_group| feed_group.fed);
        self.feed_groups.insert(into, FeedGroup::of(std::iter::empty(), Vec::new(), fed));
        self.share_decoders(from);
        self.share_decoders(into);
    }

    /// One decoder per table, with the columns that any view of the feed group reads.
    fn share_decoders(&mut self, id: FeedGroupId) {
        let members = || self.views.values().filter(|view| view.feed_group == id);
        if members().next().is_none() {
            self.feed_groups.remove(&id);
            return;
        }
        let inputs = members().flat_map(|view| &view.inputs);
        let versions = members().map(|view| (view.failures.clone(), view.plan.versions.clone()));
        let fed = self.feed_groups.get(&id).map_or(0, |feed_group| feed_group.fed);
        self.feed_groups.insert(id, FeedGroup::of(inputs, versions.collect(), fed));
    }

    fn feed(&mut self, id: FeedGroupId, frames: &[Frame], tick: Tick) {
        // A feed group whose last view has just been removed may still be on its way here.
        let Some(feed_group) = self.feed_groups.get_mut(&id) else { return };
        assert!(tick >= feed_group.fed, "ticks only go forward: {tick} after {}", feed_group.fed);
        let views = &mut self.views;
        feed_group.decode(frames, tick, || {
            let going = views.values_mut().filter(|view| !view.guard.control().is_stopped());
            going.map(|view| view.rows.upper()).min().unwrap_or(Tick::MAX)
        });
        feed_group.fed = tick;
        for view in self.views.values_mut().filter(|view| view.feed_group == id) {
            view.guard.control().feed(tick);
            for input in &mut view.inputs {
                input.feed(feed_group, tick, &view.failures);
            }
        }
        feed_group.forget();
        self.compact(id);
    }

    /// Reads to come are at the last fed tick or later; those that wait hold their view back.
    fn compact(&mut self, feed_group: FeedGroupId) {
        let Some(fed) = self.feed_groups.get(&feed_group).map(|feed_group| feed_group.fed) else {
            return;
        };
        for (id, view) in self.views.iter_mut().filter(|(_, view)| view.feed_group == feed_group) {
            let waiting = self.reads.iter().filter(|read| read.view == *id).map(|read| read.tick);
            view.rows.compact(waiting.min().unwrap_or(fed).min(fed));
        }
    }

    /// Begins the reads whose ticks are complete, and goes on with those that have begun, for a moment: a read of
    /// many rows holds nobody up.
    fn answer_reads(&mut self) {
        let mut waiting = Vec::new();
        for read in self.reads.drain(..) {
            let view = self.views.get_mut(&read.view);
            let Some(view) = view.filter(|view| !view.guard.control().is_stopped()) else {
                (read.answer)(None);
                continue;
            };
            if view.rows.upper() > read.tick {
                self.reading.push_back(view.rows.read(read));
            } else {
                waiting.push(read);
            }
        }
        self.reads = waiting;
        let begun = Instant::now();
        while let Some(mut read) = self.reading.pop_front() {
            let view = self.views.get(&read.request.view);
            let is_there = view.is_some_and(|view| !view.guard.control().is_stopped());
            if is_there && !read.go_on() {
                self.reading.push_back(read);
            } else {
                read.end(is_there);
            }
            if begun.elapsed() >= READ_SLICE {
                break;
            }
        }
    }
}

/// Builds the dataflow of a view on this worker.
fn build(
    worker: &mut Worker,
    feed_group: FeedGroupId,
    request: InstallRequest,
    control: Arc<ViewControl>,
) -> Result<Installation, ArrowError> {
    let index = worker.index();
    let InstallRequest { plan, listener, beginning, .. } = request;
    let takeover = Takeover::new(beginning, index);
    let failures = FailureStream::new(&plan.event_types, takeover.from());
    let guard = Guard::new(control, index, takeover);
    let schema = crate::plan::relaxed(&plan.plan.root().schema);
    let layout = output::layout(&plan.schema, &schema)?;
    let listener: output::ViewListener = Rc::new(move |message| listener(message));
    let name = plan.schema.name.clone();
    worker.dataflow_named::<Tick, _, _>(&name, |scope| {
        let mut inputs = Vec::new();
        let mut sources: Vec<(NodeId, _)> = Vec::new();
        for (node, table, columns) in plan.plan.sources() {
            let mut handle = InputHandle::new();
            sources.push((node, handle.to_stream(scope)));
            inputs.push(SourceInput {
                table: table.clone(),
                columns: columns.to_vec(),
                schema: crate::plan::relaxed(&plan.plan.nodes[node].schema),
                handle,
            });
        }
        let key = plan.schema.key_columns();
        let renderer = Renderer::new(scope, &plan.plan, &key, failures.clone(), guard.clone());
        let rendered = renderer.render(sources)?;
        // Where tests let a view panic that has been built in part.
        #[cfg(feature = "failpoints")]
        fail::fail_point!(&format!("rendering view {name}"));
        let rows = output::finish(rendered, layout, index, listener, failures.clone(), &guard);
        guard.has_taken_up();
        Ok(Installation { feed_group, rows, inputs, plan: plan.clone(), failures, guard })
    })
}

/// Builds the dataflow of a view on a worker of its own, which is dropped before it takes a step:
/// nothing is fed or computed.
pub fn build_on_trial(plan: &ViewPlan) -> Result<(), ArrowError> {
    let allocator = Allocator::Thread(Thread::default());
    let mut worker = Worker::new(timely::WorkerConfig::default(), allocator, Some(Instant::now()));
    let listener: Arc<dyn Fn(ViewMessage) + Send + Sync> = Arc::new(|_| {});
    let name = (plan.schema.name.as_str(), plan.schema.generation.as_str());
    let limits = ViewLimits::from(&Limits::default());
    let control = Arc::new(ViewControl::new(0, name, limits, 1, Arc::clone(&listener)));
    let plan = plan.clone();
    let request = InstallRequest { view: 0, beginning: Beginning::Empty, plan, listener };
    build(&mut worker, 0, request, control).map(drop)
}
