//! What the sink says about one view, readable from any thread.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use tokio::sync::watch;

use crate::model::Head;

/// With this much waiting, a view should be fed no more: the log keeps what memory cannot.
const PENDING_BYTES_MAX: u64 = 768 << 20;

/// The state of one view's way into ClickHouse. Counters only grow; times are milliseconds since
/// the Unix epoch.
pub struct ViewSinkStatus {
    written: watch::Sender<Head>,
    published: watch::Sender<bool>,
    /// When `written` last moved.
    pub written_at_ms: AtomicU64,
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
    /// True while a request is being repeated.
    pub is_failing: AtomicBool,
    last_error: Mutex<Option<String>>,
}

impl Default for ViewSinkStatus {
    fn default() -> Self {
        ViewSinkStatus {
            written: watch::Sender::new(Head::default()),
            published: watch::Sender::new(false),
            written_at_ms: AtomicU64::new(0),
            retries: AtomicU64::new(0),
            rows_written: AtomicU64::new(0),
            flushes: AtomicU64::new(0),
            errors: AtomicU64::new(0),
            pending_bytes: AtomicU64::new(0),
            is_failing: AtomicBool::new(false),
            last_error: Mutex::new(None),
        }
    }
}

impl ViewSinkStatus {
    /// Up to where ClickHouse shows the view. Before the view is published that is its table.
    pub fn written(&self) -> Head {
        *self.written.borrow()
    }

    /// Follows [`written`](Self::written).
    pub fn watch_written(&self) -> watch::Receiver<Head> {
        self.written.subscribe()
    }

    /// True once the VIEW in ClickHouse reads from this generation.
    pub fn is_published(&self) -> bool {
        *self.published.borrow()
    }

    /// Follows [`is_published`](Self::is_published): the moment at which an older generation need
    /// not be fed any more.
    pub fn watch_published(&self) -> watch::Receiver<bool> {
        self.published.subscribe()
    }

    /// False when so much waits for ClickHouse that the feeder should wait, too.
    pub fn has_room(&self) -> bool {
        self.pending_bytes.load(Ordering::Relaxed) < PENDING_BYTES_MAX
    }

    /// The last failure's text, also after it has passed.
    pub fn last_error(&self) -> Option<String> {
        self.last_error.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn set_written(&self, head: Head) {
        self.written_at_ms.store(now_ms(), Ordering::Relaxed);
        self.written.send_replace(head);
    }

    pub(super) fn set_published(&self) {
        self.published.send_replace(true);
    }

    pub(super) fn failed(&self, error: String) {
        self.retries.fetch_add(1, Ordering::Relaxed);
        self.is_failing.store(true, Ordering::Relaxed);
        *self.last_error.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
    }

    pub(super) fn succeeded(&self) {
        self.is_failing.store(false, Ordering::Relaxed);
    }
}

/// Milliseconds since the Unix epoch.
pub(super) fn now_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX))
}
