//! Keeps one view from harming the others: what its dataflow holds and how long it works, the limits
//! of both, and the flag that stops it.
//!
//! A [`ViewControl`] is shared by all workers of a view; each worker has a [`Guard`] of its own, which
//! the view's operators call when they run. An operator works for a [`Slice`] at a time and is then
//! scheduled again, so that other views, reads and commands have their turn.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use timely::scheduling::Activator;

use super::kept::{FilledShare, KeptShare, TakenUp, Takeover};
use super::marker::{ViewAccount, WorkMarker};
use super::reclaim::Reclaimed;
use super::run::PackedRun;
use crate::model::Tick;
use crate::model::limits::Limits;
use crate::model::view::ViewMessage;
use crate::plan::ir::NodeId;

/// Time that a view's operators work in one step of the worker, before other views have their turn.
const SLICE: Duration = Duration::from_millis(10);
/// Least time that each operator works in a step, so that the operators behind others get on, too.
const SLICE_MIN: Duration = Duration::from_millis(1);
/// Number of rows an operator hands on before others have their turn: the operators behind it have to take
/// the rows, and that takes longer than making them.
const SLICE_ROWS: usize = 1 << 13;
/// Growth in bytes at which the limits are looked at, beside the regular intervals.
const CHECK_BYTES: usize = 1 << 20;

/// The limits of one view; see [`Limits`].
#[derive(Clone, Copy, Debug)]
pub struct ViewLimits {
    /// `view_state_bytes_max`
    pub state_bytes_max: usize,
    /// `view_output_bytes_max`
    pub output_bytes_max: usize,
    /// `event_rows_max`
    pub event_rows_max: usize,
    /// `view_time_ms_max`
    pub time_max: Duration,
}

impl From<&Limits> for ViewLimits {
    fn from(limits: &Limits) -> Self {
        ViewLimits {
            state_bytes_max: limits.view_state_bytes_max,
            output_bytes_max: limits.view_output_bytes_max,
            event_rows_max: limits.event_rows_max,
            time_max: Duration::from_millis(limits.view_time_ms_max),
        }
    }
}

/// The state of an installation that all workers share.
pub struct ViewControl {
    /// The number of the installation.
    pub view: usize,
    /// The view's name.
    pub name: String,
    /// The generation that the installation computes.
    pub generation: String,
    limits: ViewLimits,
    listener: Arc<dyn Fn(ViewMessage) + Send + Sync>,
    stopped: AtomicBool,
    failed: AtomicBool,
    state: Vec<AtomicUsize>,
    output: Vec<AtomicUsize>,
    files: Vec<AtomicUsize>,
    /// The last tick that the installation was fed, for the marker.
    fed: AtomicU64,
    /// Where the next process finds how much memory the state takes.
    account: Option<ViewAccount>,
}

impl ViewControl {
    /// The control of an installation on so many workers; `listener` is told when it fails.
    pub fn new(
        view: usize,
        (name, generation): (&str, &str),
        limits: ViewLimits,
        workers: usize,
        listener: Arc<dyn Fn(ViewMessage) + Send + Sync>,
    ) -> Self {
        let counters = || (0..workers).map(|_| AtomicUsize::new(0)).collect();
        ViewControl {
            view,
            name: name.to_string(),
            generation: generation.to_string(),
            limits,
            listener,
            stopped: AtomicBool::new(false),
            failed: AtomicBool::new(false),
            state: counters(),
            output: counters(),
            files: counters(),
            fed: AtomicU64::new(0),
            account: None,
        }
    }

    /// Notes what the state takes there, too, from now on.
    pub fn with_account(self, account: Option<ViewAccount>) -> Self {
        ViewControl { account, ..self }
    }

    /// Ends the work: operators take nothing more and let go of what they hold.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::Release);
    }

    /// Whether the work has ended.
    pub fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
    }

    /// Stops the view and tells why. Only the first reason counts.
    pub fn fail(&self, reason: impl Into<String>) {
        self.stop();
        if !self.failed.swap(true, Ordering::AcqRel) {
            (self.listener)(ViewMessage::Failed { reason: reason.into() });
        }
    }

    /// Fails the view if it has worked for too long on one set of events.
    fn check_time(&self, worked: Duration) {
        let max = self.limits.time_max;
        if worked > max && !self.is_stopped() {
            self.fail(format!(
                "it has worked for more than view_time_ms_max = {} ms on one set of events: let it \
                 compute less for each event (join on keys, not without), or raise the limit; then \
                 rebuild it",
                max.as_millis()
            ));
        }
    }

    /// Bytes of its arrangements and accumulators, its rows included, on all workers; about.
    pub fn state_bytes(&self) -> usize {
        self.state.iter().map(|bytes| bytes.load(Ordering::Relaxed)).sum()
    }

    /// Number of these bytes that are in files.
    pub fn file_bytes(&self) -> usize {
        self.files.iter().map(|bytes| bytes.load(Ordering::Relaxed)).sum()
    }

    fn output_bytes(&self) -> usize {
        self.output.iter().map(|bytes| bytes.load(Ordering::Relaxed)).sum()
    }

    /// Notes that events up to `tick` are on their way.
    pub fn feed(&self, tick: Tick) {
        self.fed.store(tick, Ordering::Relaxed);
    }

    /// Notes the bytes for the next process.
    fn note_bytes(&self) {
        if let Some(account) = &self.account {
            account.set(self.state_bytes().saturating_sub(self.file_bytes()) as u64);
        }
    }

    fn check_bytes(&self) {
        if self.is_stopped() {
            return;
        }
        let ViewLimits { state_bytes_max, output_bytes_max, .. } = self.limits;
        if self.output_bytes() > output_bytes_max {
            self.fail(format!(
                "its rows take more than view_output_bytes_max = {output_bytes_max} bytes: let it \
                 have fewer rows, or raise the limit; then rebuild it"
            ));
        } else if self.state_bytes() > state_bytes_max {
            self.fail(format!(
                "its state takes more than view_state_bytes_max = {state_bytes_max} bytes: join on \
                 keys, aggregate early, or bound what it keeps with now(); or raise the limit; then \
                 rebuild it"
            ));
        }
    }
}

/// The bytes of an arrangement's batches.
#[derive(Clone, Copy, Debug, Default)]
pub struct HeldBytes {
    pub all: usize,
    /// Number of these bytes that are in files.
    pub in_files: usize,
}

/// An arrangement whose bytes are counted; see [`Guard::watch`].
pub trait HeldTrace {
    /// The bytes of its batches; none when it is gone.
    fn bytes(&self) -> HeldBytes;
    /// Its batches; `None` if it is made anew of others.
    fn runs(&self) -> Option<Vec<PackedRun>>;
    /// Hands over its batches, to be freed elsewhere.
    fn reclaim(&self, to: &mut VecDeque<Box<dyn Reclaimed>>);
}

/// One worker's part in keeping a view within its limits.
#[derive(Clone)]
pub struct Guard(Rc<WorkerGuard>);

struct WorkerGuard {
    control: Arc<ViewControl>,
    worker: usize,
    takeover: Takeover,
    /// Bytes that operators hold beside arrangements.
    held: Cell<usize>,
    held_output: Cell<usize>,
    /// The bytes of arrangements when they were asked last.
    arranged: Cell<usize>,
    arranged_output: Cell<usize>,
    /// The value of `held` when the limits were last looked at.
    checked: Cell<usize>,
    traces: RefCell<Vec<(Box<dyn HeldTrace>, bool)>>,
    kept: RefCell<Vec<Rc<dyn Any>>>,
    /// For each node the number of its first arrangement, if it has one.
    first_of: RefCell<Vec<(NodeId, usize)>>,
    /// Time that it has spent on work that is not finished.
    worked: Cell<Duration>,
    has_worked: Cell<bool>,
    /// Up to where it was complete when it was asked last.
    complete: Cell<Tick>,
}

impl Guard {
    /// The guard of an installation on this worker.
    pub fn new(control: Arc<ViewControl>, worker: usize, takeover: Takeover) -> Self {
        Guard(Rc::new(WorkerGuard {
            control,
            worker,
            takeover,
            held: Cell::new(0),
            held_output: Cell::new(0),
            arranged: Cell::new(0),
            arranged_output: Cell::new(0),
            checked: Cell::new(0),
            traces: RefCell::default(),
            kept: RefCell::default(),
            first_of: RefCell::default(),
            worked: Cell::new(Duration::ZERO),
            has_worked: Cell::new(false),
            complete: Cell::new(0),
        }))
    }

    /// The state that the workers share.
    pub fn control(&self) -> &ViewControl {
        &self.0.control
    }

    /// The tick that the installation goes on behind, if it takes up what was kept.
    pub fn from(&self) -> Option<Tick> {
        self.0.takeover.from()
    }

    /// Whether the rows that the installation takes up are told as changes.
    pub fn tells_rows(&self) -> bool {
        self.0.takeover.tells_rows()
    }

    /// The first tick that anything can change at.
    pub fn first_tick(&self) -> Tick {
        self.from().map_or(Tick::MIN, |tick| tick + 1)
    }

    /// The kept runs for the arrangement that is built next.
    pub fn take_up(&self, workers: usize) -> Option<TakenUp> {
        self.0.takeover.next(workers)
    }

    /// All arrangements are built. Where they are not those that were kept, the view fails.
    pub fn has_taken_up(&self) {
        if !self.0.takeover.end() {
            self.control().fail(
                "its state in the snapshot does not fit it, which should be reported: rebuild it",
            );
        }
    }

    /// The arrangements that are built next are those of this node.
    pub fn begin_node(&self, node: NodeId) {
        self.0.first_of.borrow_mut().push((node, self.0.takeover.built()));
    }

    /// The state that this worker hands over: the batches of all arrangements that are kept, in the order in
    /// which they were built. Ask only when everything that was fed has gone through.
    pub fn share(&self) -> KeptShare {
        let traces = self.0.traces.borrow();
        let arrangements = traces.iter().filter_map(|(trace, _)| trace.runs()).collect();
        KeptShare { arrangements, first_of: self.0.first_of.borrow().clone() }
    }

    /// The kept rows, of the table that a node reads, that this worker begins with.
    pub fn filled(&self, source: NodeId, workers: usize) -> Option<FilledShare> {
        self.0.takeover.filled(source, workers)
    }

    /// Called by an operator of the view when it runs; true if it has to stop.
    pub fn enter(&self) -> bool {
        WORK.with(|work| work.enter(self));
        self.control().is_stopped()
    }

    /// The time that an operator may work from now on.
    pub fn slice(&self) -> Slice {
        Slice { guard: self.clone(), until: WORK.with(CurrentWork::slice_end), rows: Rc::default() }
    }

    /// Works for a slice at what waits, the first first; `work` says whether that is done with. The
    /// operator is called again where something is left.
    pub fn work_off<W>(
        &self,
        waiting: &mut VecDeque<W>,
        activator: &Activator,
        mut work: impl FnMut(&mut W, &Slice) -> bool,
    ) {
        let slice = self.slice();
        while let Some(first) = waiting.front_mut() {
            if work(first, &slice) {
                waiting.pop_front();
            }
            if slice.is_over() {
                break;
            }
        }
        if !waiting.is_empty() {
            activator.activate();
        }
    }

    /// A mark that a thread beside this worker is in the view, for that thread; none where nothing is marked.
    pub fn mark_elsewhere(&self) -> Option<WorkMarker> {
        WORK.with(|work| {
            let mark = work.marker.borrow().as_ref()?.beside()?;
            let (control, ticks) = (self.control(), self.ticks());
            mark.begin(&control.name, &control.generation, ticks);
            Some(mark)
        })
    }

    /// The ticks that the view is computed for: from where it is complete up to where it was fed.
    fn ticks(&self) -> (Tick, Tick) {
        (self.0.complete.get(), self.control().fed.load(Ordering::Relaxed))
    }

    /// A check that work on another thread makes again and again: true when the work has to end, since the
    /// view is stopped, or since the work takes longer than the view may, which stops the view.
    pub fn stop_elsewhere(&self) -> impl Fn() -> bool + Send + use<> {
        let (control, begun) = (Arc::clone(&self.0.control), Instant::now());
        move || {
            control.check_time(begun.elapsed());
            control.is_stopped()
        }
    }

    /// Counts an arrangement's bytes from now on; `output`: it holds the view's rows.
    pub fn watch(&self, trace: impl HeldTrace + 'static, output: bool) {
        self.0.traces.borrow_mut().push((Box::new(trace), output));
    }

    /// Holds on to something until the view is gone.
    pub fn hold(&self, held: Rc<dyn Any>) {
        self.0.kept.borrow_mut().push(held);
    }

    /// An account for what an operator holds; `output`: it is on its way to the view's rows.
    pub fn account(&self, output: bool) -> Account {
        Account { guard: self.clone(), bytes: 0, output }
    }

    /// Most rows that one event may make.
    pub fn event_rows_max(&self) -> usize {
        self.0.control.limits.event_rows_max
    }

    /// Fails the view if one event makes more rows than it may; `what` makes them.
    pub fn check_rows(&self, rows: usize, what: &str) {
        let max = self.0.control.limits.event_rows_max;
        if rows > max {
            self.0.control.fail(format!(
                "one event makes more than event_rows_max = {max} rows ({what}): join on keys, or \
                 take fewer elements; or raise the limit; then rebuild it"
            ));
        }
    }

    /// Looks at the limits. `complete`: up to where the view is complete now.
    pub fn check(&self, complete: impl FnOnce() -> Tick) {
        let guard = &*self.0;
        if !guard.has_worked.replace(false) {
            return;
        }
        self.count();
        let complete = complete();
        if guard.complete.replace(complete) != complete {
            guard.worked.set(Duration::ZERO);
        }
        guard.control.check_time(guard.worked.get());
    }

    /// Asks the arrangements for their bytes.
    fn count(&self) {
        let guard = &*self.0;
        let (mut all, mut output, mut in_files) = (0, 0, 0);
        for (trace, is_output) in guard.traces.borrow().iter() {
            let bytes = trace.bytes();
            all += bytes.all;
            in_files += bytes.in_files;
            output += if *is_output { bytes.all } else { 0 };
        }
        guard.control.files[guard.worker].store(in_files, Ordering::Relaxed);
        guard.arranged.set(all);
        guard.arranged_output.set(output);
        self.publish();
    }

    fn publish(&self) {
        let guard = &*self.0;
        guard.checked.set(guard.held.get());
        let state = guard.arranged.get() + guard.held.get();
        guard.control.state[guard.worker].store(state, Ordering::Relaxed);
        let output = guard.arranged_output.get() + guard.held_output.get();
        guard.control.output[guard.worker].store(output, Ordering::Relaxed);
        guard.control.note_bytes();
        guard.control.check_bytes();
    }

    /// Hands over the batches of all arrangements, to be freed bit by bit.
    pub fn reclaim(&self, to: &mut VecDeque<Box<dyn Reclaimed>>) {
        for (trace, _) in self.0.traces.borrow_mut().drain(..) {
            trace.reclaim(to);
        }
        self.0.kept.borrow_mut().clear();
        let guard = &*self.0;
        guard.control.state[guard.worker].store(0, Ordering::Relaxed);
        guard.control.output[guard.worker].store(0, Ordering::Relaxed);
        guard.control.files[guard.worker].store(0, Ordering::Relaxed);
        guard.control.note_bytes();
    }
}

/// The time that an operator may work before others have their turn.
pub struct Slice {
    guard: Guard,
    until: Instant,
    rows: Rc<Cell<usize>>,
}

impl Slice {
    /// Whether the operator has to end for now, or for good.
    pub fn is_over(&self) -> bool {
        self.rows.get() >= SLICE_ROWS
            || self.guard.control().is_stopped()
            || Instant::now() >= self.until
    }

    /// The operator has handed on so many rows.
    pub fn made(&self, rows: usize) {
        self.rows.set(self.rows.get() + rows);
    }
}

/// The slices of an operator that does not know when it is scheduled: one in each step of the worker.
pub struct StepSlices {
    guard: Guard,
    step: Cell<u64>,
    until: Cell<Instant>,
    rows: Rc<Cell<usize>>,
}

impl StepSlices {
    /// The slices of an operator of this view.
    pub fn new(guard: Guard) -> Self {
        let until = Cell::new(Instant::now());
        StepSlices { guard, step: Cell::new(u64::MAX), until, rows: Rc::default() }
    }

    /// The slice of this step.
    pub fn now(&self) -> Slice {
        let step = WORK.with(|work| work.step.get());
        if self.step.replace(step) != step {
            self.until.set(WORK.with(CurrentWork::slice_end));
            self.rows.set(0);
        }
        let rows = Rc::clone(&self.rows);
        Slice { guard: self.guard.clone(), until: self.until.get(), rows }
    }
}

/// Bytes that an operator holds beside arrangements. They count as given back when it is dropped.
pub struct Account {
    guard: Guard,
    bytes: usize,
    output: bool,
}

impl Account {
    /// The operator holds so many bytes now.
    pub fn set(&mut self, bytes: usize) {
        let guard = &*self.guard.0;
        let change = |cell: &Cell<usize>| cell.set((cell.get() + bytes).saturating_sub(self.bytes));
        change(&guard.held);
        if self.output {
            change(&guard.held_output);
        }
        self.bytes = bytes;
        if guard.held.get() > guard.checked.get() + CHECK_BYTES {
            self.guard.publish();
        }
    }

    /// The operator holds more bytes, or fewer.
    pub fn add(&mut self, bytes: isize) {
        self.set(self.bytes.saturating_add_signed(bytes));
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        self.set(0);
    }
}

/// The view that this worker works on.
struct CurrentWork {
    view: Cell<usize>,
    /// Counts the worker's steps.
    step: Cell<u64>,
    current: RefCell<Option<Guard>>,
    since: Cell<Option<Instant>>,
    marker: RefCell<Option<WorkMarker>>,
}

const NO_VIEW: usize = usize::MAX;

thread_local! {
    static WORK: CurrentWork = const {
        CurrentWork {
            view: Cell::new(NO_VIEW),
            step: Cell::new(0),
            current: RefCell::new(None),
            since: Cell::new(None),
            marker: RefCell::new(None),
        }
    };
}

impl CurrentWork {
    fn enter(&self, guard: &Guard) {
        let view = guard.0.control.view;
        if self.view.get() == view {
            return;
        }
        self.end();
        self.view.set(view);
        self.since.set(Some(Instant::now()));
        if let Some(marker) = &*self.marker.borrow() {
            let control = &guard.0.control;
            marker.begin(&control.name, &control.generation, guard.ticks());
            // Where tests let a view hang or kill the process.
            #[cfg(feature = "failpoints")]
            fail::fail_point!(&format!("in view {}", control.name), |_| std::process::abort());
        }
        *self.current.borrow_mut() = Some(guard.clone());
    }

    /// Until when an operator of the current view may work.
    fn slice_end(&self) -> Instant {
        let now = Instant::now();
        let since = self.since.get().unwrap_or(now);
        (since + SLICE).max(now + SLICE_MIN)
    }

    fn end(&self) {
        if let Some(guard) = self.current.borrow_mut().take() {
            let time = self.since.take().map_or(Duration::ZERO, |since| since.elapsed());
            guard.0.worked.set(guard.0.worked.get() + time);
            guard.0.has_worked.set(true);
            if let Some(marker) = &*self.marker.borrow() {
                marker.end();
            }
        }
        self.view.set(NO_VIEW);
    }
}

/// Notes what this thread works on in `marker` from now on.
pub fn mark_in(marker: Option<WorkMarker>) {
    marker.iter().for_each(WorkMarker::note_faults);
    WORK.with(|work| *work.marker.borrow_mut() = marker);
}

/// The worker has ended a step, and works on no view any more.
pub fn end_step() {
    WORK.with(|work| {
        work.step.set(work.step.get() + 1);
        work.end();
    });
}
