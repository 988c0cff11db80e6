//! The cursors that feed the log to the views: chunk by chunk until the tail is reached, then as
//! it comes.
//!
//! Views that start together are a cohort with a cursor of its own. A cohort that has caught up with
//! another one becomes part of it, so that in the long run events are read and decoded once.

use std::collections::BTreeSet;
use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use super::tracker::ViewTracker;
use crate::dataflow::{CohortId, Runtime};
use crate::log::{Frame, Log, LogError, LogReader};
use crate::model::view::ViewMessage;
use crate::model::{Head, Tick};

/// How many bytes of events one chunk holds, give or take a frame.
const CHUNK_BYTES: usize = 8 << 20;
/// The same for views that catch up while others are live and wait for their turn.
const CHUNK_BYTES_BESIDE: usize = 1 << 20;
/// How often it is looked whether a sink has room again.
const ROOM_POLL: Duration = Duration::from_millis(50);
/// How often a long replay shows how far it is.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);

/// What the feeder is told.
enum Order {
    Add { cohort: CohortId, exact: bool, views: Vec<Arc<ViewTracker>>, boundaries: BTreeSet<Tick> },
    Remove { view: usize },
}

/// Tells a feeder which views to feed.
#[derive(Clone)]
pub struct FeederHandle {
    orders: Sender<Order>,
    /// Wakes the feeder; trackers do, too.
    pub wake: Arc<Notify>,
}

impl FeederHandle {
    /// Feeds these views from the log's beginning. They must have been installed as `cohort`.
    /// Chunks end at `boundaries`, for the sinks to find their way back. `exact`: the
    /// views see each tick that the log has, and not only the last one of each chunk.
    pub fn add(
        &self,
        cohort: CohortId,
        exact: bool,
        views: Vec<Arc<ViewTracker>>,
        boundaries: BTreeSet<Tick>,
    ) {
        self.send(Order::Add { cohort, exact, views, boundaries });
    }

    /// Feeds a view no more and forgets its state.
    pub fn remove(&self, view: usize) {
        self.send(Order::Remove { view });
    }

    fn send(&self, order: Order) {
        // A feeder that is gone has ended the server, or ends with it.
        let _ = self.orders.send(order);
        self.wake.notify_one();
    }
}

/// Feeds a log to views.
pub struct Feeder {
    log: Log,
    runtime: Arc<Runtime>,
    orders: Receiver<Order>,
    wake: Arc<Notify>,
    cohorts: Vec<Cohort>,
    stop: CancellationToken,
    tokio: Handle,
}

/// Views that are fed together.
struct Cohort {
    id: CohortId,
    /// Every tick is fed by itself.
    exact: bool,
    views: Vec<Arc<ViewTracker>>,
    boundaries: BTreeSet<Tick>,
    reader: LogReader,
    /// What was in the log when the cohort began.
    target: Head,
    live: bool,
    /// The ends of the last two chunks.
    before: Head,
    last: Head,
    progress: Progress,
}

/// A chunk of the log: frames whose events enter together.
struct Chunk {
    frames: Vec<Frame>,
    end: Head,
}

impl Feeder {
    /// A feeder without views, and the handle that gives it some.
    pub fn new(
        log: Log,
        runtime: Arc<Runtime>,
        stop: CancellationToken,
        tokio: Handle,
    ) -> (Self, FeederHandle) {
        let (sender, orders) = channel();
        let wake = Arc::new(Notify::new());
        let handle = FeederHandle { orders: sender, wake: Arc::clone(&wake) };
        (Feeder { log, runtime, orders, wake, cohorts: Vec::new(), stop, tokio }, handle)
    }

    /// Feeds until it is told to stop. Blocking: runs on a thread of its own.
    ///
    /// Views that need events that cannot be read are failed and fed no more; others go on.
    pub fn run(mut self) {
        let mut head = self.log.subscribe();
        while !self.stop.is_cancelled() {
            head.borrow_and_update();
            while let Ok(order) = self.orders.try_recv() {
                self.obey(order);
            }
            self.leave_failed();
            // Live views go first: what is new does not wait for what is being made up for.
            self.cohorts.sort_by_key(|cohort| (!cohort.live, cohort.id));
            let beside = self.cohorts.first().is_some_and(|cohort| cohort.live);
            let mut fed = false;
            for cohort in &mut self.cohorts {
                match cohort.step(&self.log, &self.runtime, beside) {
                    Ok(more) => fed |= more,
                    Err(error) => fail(&self.runtime, std::mem::take(&mut cohort.views), &error),
                }
            }
            self.cohorts.retain(|cohort| !cohort.views.is_empty());
            self.merge();
            if !fed {
                self.wait(&mut head);
            }
        }
    }

    /// Lets go of views whose dataflow has failed: nobody waits for them, and nothing is kept.
    fn leave_failed(&mut self) {
        for cohort in &mut self.cohorts {
            for view in cohort.views.extract_if(.., |view| view.is_over()) {
                self.runtime.remove(view.id);
            }
        }
        self.cohorts.retain(|cohort| !cohort.views.is_empty());
    }

    fn obey(&mut self, order: Order) {
        match order {
            Order::Add { cohort, exact, views, boundaries } => {
                let target = self.log.head();
                let reader = match self.log.read(0) {
                    Ok(reader) => reader,
                    Err(error) => return fail(&self.runtime, views, &error),
                };
                let mut cohort = Cohort {
                    id: cohort,
                    exact,
                    views,
                    boundaries,
                    reader,
                    target,
                    live: false,
                    before: Head::default(),
                    last: Head::default(),
                    progress: Progress::new(target),
                };
                // Views without any event have their rows too (a count of nothing).
                let nothing = Chunk { frames: Vec::new(), end: Head::default() };
                cohort.feed(&self.log, &self.runtime, nothing);
                self.cohorts.push(cohort);
            }
            Order::Remove { view } => {
                self.runtime.remove(view);
                for cohort in &mut self.cohorts {
                    cohort.views.retain(|tracker| tracker.id != view);
                }
                self.cohorts.retain(|cohort| !cohort.views.is_empty());
            }
        }
    }

    /// Lets live cohorts that have met go on as one.
    fn merge(&mut self) {
        for first in 0..self.cohorts.len() {
            let meets =
                |a: &Cohort, b: &Cohort| a.live && b.live && a.exact == b.exact && a.last == b.last;
            while let Some(other) = (first + 1..self.cohorts.len())
                .find(|other| meets(&self.cohorts[first], &self.cohorts[*other]))
            {
                let other = self.cohorts.remove(other);
                let first = &mut self.cohorts[first];
                self.runtime.merge(other.id, first.id);
                first.views.extend(other.views);
                first.boundaries.extend(other.boundaries);
            }
        }
    }

    /// Waits until something may have changed: the log, a view's progress, an order.
    fn wait(&mut self, head: &mut watch::Receiver<Head>) {
        let full = self.cohorts.iter().any(|cohort| !cohort.has_room());
        let (stop, wake) = (&self.stop, &self.wake);
        self.tokio.block_on(async {
            tokio::select! {
                // The log outlives us, so this is news and not its end.
                _ = head.changed() => {}
                () = wake.notified() => {}
                () = stop.cancelled() => {}
                () = tokio::time::sleep(ROOM_POLL), if full => {}
            }
        });
    }
}

/// Ends views for which the log cannot be read any further. Their state is of no use to anybody.
fn fail(runtime: &Runtime, views: Vec<Arc<ViewTracker>>, error: &LogError) {
    for view in views {
        tracing::error!(view = view.name(), %error, "the view has failed: it needs events that cannot be read");
        view.fail(format!("it needs events that cannot be read: {error}"));
        runtime.remove(view.id);
    }
}

impl Cohort {
    /// Feeds the next chunk if there is one and the views are ready for it. `beside`: others are
    /// live, and do not wait long.
    fn step(&mut self, log: &Log, runtime: &Runtime, beside: bool) -> Result<bool, LogError> {
        // At most two chunks are on their way: the workers are never idle, and what waits in
        // memory stays bounded.
        let behind = |view: &Arc<ViewTracker>| view.complete().position < self.before.position;
        if self.views.iter().any(behind) || !self.has_room() {
            return Ok(false);
        }
        let bytes = if beside && !self.live { CHUNK_BYTES_BESIDE } else { CHUNK_BYTES };
        let chunk = self.chunk(bytes)?;
        let fed = chunk.is_some();
        if let Some(chunk) = chunk {
            self.before = self.last;
            self.last = chunk.end;
            self.feed(log, runtime, chunk);
            self.progress.show(self.last);
        }
        if !self.live && self.last.position >= self.target.position {
            self.live = true;
            self.tell(&ViewMessage::Live { tick: self.last.tick });
            self.progress.done();
        }
        Ok(fed)
    }

    /// False while what ClickHouse has yet to be told takes too much memory. Events are accepted
    /// all the while.
    fn has_room(&self) -> bool {
        self.views.iter().all(|view| view.sink.as_ref().is_none_or(|sink| sink.has_room()))
    }

    /// The next frames, up to a boundary; `None` at the tail.
    fn chunk(&mut self, bytes_max: usize) -> Result<Option<Chunk>, LogError> {
        let mut frames = Vec::new();
        let mut bytes = 0;
        let mut end = Head::default();
        while bytes < bytes_max {
            let Some(frame) = self.reader.next_frame()? else { break };
            bytes += frame.raw_bytes();
            end = Head { position: frame.last_position(), tick: frame.tick() };
            frames.push(frame);
            if self.boundaries.remove(&end.tick) {
                break;
            }
        }
        Ok((!frames.is_empty()).then_some(Chunk { frames, end }))
    }

    fn feed(&mut self, log: &Log, runtime: &Runtime, chunk: Chunk) {
        let Head { position, tick } = chunk.end;
        let more = log.head().position > position;
        if !self.exact || chunk.frames.is_empty() {
            self.tell(&ViewMessage::Mark { tick, position });
            runtime.feed(self.id, chunk.frames, tick, more);
            return;
        }
        for frame in chunk.frames {
            let (tick, position) = (frame.tick(), frame.last_position());
            self.tell(&ViewMessage::Mark { tick, position });
            runtime.feed(self.id, vec![frame], tick, more);
        }
    }

    fn tell(&self, message: &ViewMessage) {
        for view in &self.views {
            view.take(message.clone());
        }
    }
}

/// Shows how far a replay is, where somebody is looking.
struct Progress {
    target: Head,
    started: Instant,
    shown: Option<Instant>,
}

impl Progress {
    fn new(target: Head) -> Self {
        Progress { target, started: Instant::now(), shown: None }
    }

    fn show(&mut self, at: Head) {
        let since = self.shown.unwrap_or(self.started).elapsed();
        if at.position >= self.target.position || since < PROGRESS_INTERVAL {
            return;
        }
        self.shown = Some(Instant::now());
        let (position, target) = (at.position, self.target.position);
        let rate = position as f64 / self.started.elapsed().as_secs_f64();
        if std::io::stderr().is_terminal() {
            let percent = position * 100 / target.max(1);
            eprint!(
                "\rreplaying: {position} of {target} events ({percent} %), {rate:.0} events/s "
            );
        } else {
            tracing::info!(position, target, events_per_s = rate as u64, "replaying");
        }
    }

    fn done(&mut self) {
        if self.shown.is_some() {
            if std::io::stderr().is_terminal() {
                eprintln!();
            }
            let (events, seconds) = (self.target.position, self.started.elapsed().as_secs_f64());
            tracing::info!(events, seconds, "replayed the log");
        }
    }
}
