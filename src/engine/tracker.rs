//! How far a view is: put together from what its workers, the feeder and its sink tell.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{mpsc, watch};

use crate::dataflow::Failures;
use crate::model::view::ViewMessage;
use crate::model::{Head, Tick};
use crate::plan::ViewPlan;
use crate::sink::ViewSinkStatus;

/// The state of a running view, shared by all who feed, follow or show it.
pub struct ViewTracker {
    pub plan: ViewPlan,
    pub failures: Failures,
    /// `None` for a view that is not written to ClickHouse.
    pub sink: Option<Arc<ViewSinkStatus>>,
    to_sink: Option<mpsc::UnboundedSender<ViewMessage>>,
    frontiers: Vec<AtomicU64>,
    rows: AtomicI64,
    live: AtomicBool,
    /// Chunks that were fed and that not all workers are through with.
    marks: Mutex<VecDeque<Head>>,
    complete: watch::Sender<Head>,
}

impl ViewTracker {
    /// The tracker of a view that has seen nothing yet.
    pub fn new(
        plan: ViewPlan,
        workers: usize,
        sink: Option<(Arc<ViewSinkStatus>, mpsc::UnboundedSender<ViewMessage>)>,
    ) -> Self {
        let (sink, to_sink) = sink.unzip();
        ViewTracker {
            plan,
            failures: Failures::default(),
            sink,
            to_sink,
            frontiers: (0..workers).map(|_| AtomicU64::new(0)).collect(),
            rows: AtomicI64::new(0),
            live: AtomicBool::new(false),
            marks: Mutex::default(),
            complete: watch::Sender::new(Head::default()),
        }
    }

    /// Takes a message of the dataflow or the feeder, and passes it to the sink.
    pub fn take(&self, message: ViewMessage) {
        match &message {
            ViewMessage::Changes { updates, .. } => {
                let change: i64 = updates.iter().map(|update| update.diff).sum();
                self.rows.fetch_add(change, Ordering::Relaxed);
            }
            ViewMessage::Mark { tick, position } => {
                let mark = Head { position: *position, tick: *tick };
                self.marks.lock().unwrap_or_else(PoisonError::into_inner).push_back(mark);
            }
            ViewMessage::Live { .. } => self.live.store(true, Ordering::Release),
            ViewMessage::Frontier { .. } | ViewMessage::Errors { .. } => {}
        }
        let frontier = match &message {
            ViewMessage::Frontier { worker, frontier } => Some((*worker, *frontier)),
            _ => None,
        };
        // The sink is told first: what it shows is never behind what we say is complete by more
        // than its own work.
        if let Some(sender) = &self.to_sink {
            // A sink that is gone has said why.
            let _ = sender.send(message);
        }
        if let Some((worker, frontier)) = frontier {
            self.frontiers[worker].store(frontier, Ordering::Release);
            self.advance();
        }
    }

    fn advance(&self) {
        let frontiers = self.frontiers.iter().map(|f| f.load(Ordering::Acquire));
        let frontier: Tick = frontiers.min().unwrap_or(0);
        let mut marks = self.marks.lock().unwrap_or_else(PoisonError::into_inner);
        let mut reached = None;
        while marks.front().is_some_and(|mark| mark.tick < frontier) {
            reached = marks.pop_front();
        }
        if let Some(reached) = reached {
            self.complete.send_replace(reached);
        }
    }

    /// The view's state is complete up to here.
    pub fn complete(&self) -> Head {
        *self.complete.borrow()
    }

    /// Follows [`ViewTracker::complete`].
    pub fn watch_complete(&self) -> watch::Receiver<Head> {
        self.complete.subscribe()
    }

    /// Whether it has seen everything that was in the log when it started.
    pub fn is_live(&self) -> bool {
        self.live.load(Ordering::Acquire)
    }

    /// How many rows the view has, about now.
    pub fn rows(&self) -> u64 {
        u64::try_from(self.rows.load(Ordering::Relaxed)).unwrap_or(0)
    }

    /// The view's name.
    pub fn name(&self) -> &str {
        &self.plan.schema.name
    }
}
