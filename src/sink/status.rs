//! Status of a sink for one view, readable from any thread.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use super::error::{ErrorKind, SinkError};
use crate::model::view::SinkState;
use crate::model::{Head, Position};

/// With so many bytes waiting, a view is fed no more: the log keeps what memory cannot.
const PENDING_BYTES_MAX: u64 = 768 << 20;

/// The state of one view's way into a sink. Counters only grow; times are milliseconds since
/// the Unix epoch.
pub struct ViewSinkStatus {
    written: watch::Sender<Head>,
    recorded: watch::Sender<Head>,
    /// The last position that somebody waits for to be recorded.
    wanted: watch::Sender<Position>,
    published: watch::Sender<bool>,
    /// Requests that had to be repeated.
    pub retries: AtomicU64,
    /// Rows written, tombstones included.
    pub rows_written: AtomicU64,
    /// Flushes that wrote rows.
    pub flushes: AtomicU64,
    /// Rows that are failing in the dataflow now.
    pub errors: AtomicU64,
    /// About how much memory the changes take that wait for a flush.
    pub pending_bytes: AtomicU64,
    /// Rows that the table has as of `written`, in the sense of the view: repeated ones count.
    pub rows: AtomicI64,
    /// Inserts that were begun, repetitions included.
    pub inserts: AtomicU64,
    /// True while an insert is on its way.
    pub is_inserting: AtomicBool,
    /// True when a write failed since a table is not what the sink has made.
    pub is_tampered: AtomicBool,
    state: Mutex<SinkState>,
}

impl Default for ViewSinkStatus {
    fn default() -> Self {
        ViewSinkStatus {
            written: watch::Sender::new(Head::default()),
            recorded: watch::Sender::new(Head::default()),
            wanted: watch::Sender::new(0),
            published: watch::Sender::new(false),
            retries: AtomicU64::new(0),
            rows_written: AtomicU64::new(0),
            flushes: AtomicU64::new(0),
            errors: AtomicU64::new(0),
            pending_bytes: AtomicU64::new(0),
            rows: AtomicI64::new(0),
            inserts: AtomicU64::new(0),
            is_inserting: AtomicBool::new(false),
            is_tampered: AtomicBool::new(false),
            state: Mutex::default(),
        }
    }
}

impl ViewSinkStatus {
    /// Up to where the sink shows the view. Before the view is published that is its table.
    pub fn written(&self) -> Head {
        *self.written.borrow()
    }

    /// Follows [`written`](Self::written).
    pub fn watch_written(&self) -> watch::Receiver<Head> {
        self.written.subscribe()
    }

    /// Follows up to where the sink's own record of progress says that it shows the view. Progress without a
    /// change of rows is recorded late, unless somebody waits for this position.
    pub fn watch_recorded(&self, position: Position) -> watch::Receiver<Head> {
        self.wanted.send_if_modified(|wanted| {
            let is_more = position > *wanted;
            *wanted = position.max(*wanted);
            is_more
        });
        self.recorded.subscribe()
    }

    /// The last position that somebody waits for to be recorded.
    pub(super) fn watch_wanted(&self) -> watch::Receiver<Position> {
        self.wanted.subscribe()
    }

    /// True once the view's public name reads from this generation.
    pub fn is_published(&self) -> bool {
        *self.published.borrow()
    }

    /// Follows [`is_published`](Self::is_published): the moment at which an older generation need
    /// not be fed any more.
    pub fn watch_published(&self) -> watch::Receiver<bool> {
        self.published.subscribe()
    }

    /// False when so much waits for the sink that the feeder should wait, too.
    pub fn has_room(&self) -> bool {
        self.pending_bytes.load(Ordering::Relaxed) < PENDING_BYTES_MAX
    }

    /// Whether writes succeed.
    pub fn state(&self) -> SinkState {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, SinkState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set_written(&self, head: Head) {
        self.written.send_replace(head);
    }

    pub(super) fn set_recorded(&self, head: Head) {
        self.recorded.send_replace(head);
    }

    pub(super) fn set_published(&self) {
        self.published.send_replace(true);
    }

    /// A write has failed and will be repeated. Tells it in the log where it is news.
    pub(super) fn failed(&self, sink: &str, view: &str, error: &SinkError) {
        self.retries.fetch_add(1, Ordering::Relaxed);
        if error.kind == ErrorKind::Tampered {
            self.is_tampered.store(true, Ordering::Relaxed);
        }
        let text = error.to_string();
        let next = match error.kind {
            ErrorKind::Transient => SinkState::Retrying { error: text },
            _ => SinkState::Failed { error: text },
        };
        let mut state = self.lock();
        if std::mem::discriminant(&*state) != std::mem::discriminant(&next) {
            match &next {
                SinkState::Failed { error } => {
                    tracing::error!(sink, view, "the sink does not take the view: {error}");
                }
                _ => tracing::warn!(sink, view, %error, "a write failed; it is repeated"),
            }
        }
        *state = next;
    }

    /// A write has succeeded.
    pub(super) fn succeeded(&self, sink: &str, view: &str) {
        let mut state = self.lock();
        if std::mem::take(&mut *state) != SinkState::Writing {
            tracing::info!(sink, view, "the sink takes the view again");
        }
    }
}
