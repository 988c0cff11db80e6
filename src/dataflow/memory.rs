//! Gives freed memory back to the system when a worker rests.
//!
//! Giving it back at once, while there is work, costs up to half of the speed: the next batch asks
//! the system for the same pages again, and each of them is cleared first.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// After these times without work a worker gives memory back: soon, and once more when the sinks
/// and the feeder have let go of what they held of the last work.
const REST_TIMES: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(5)];
/// Under light load, which never rests for long, it does so this often.
const INTERVAL: Duration = Duration::from_secs(10);

/// After a view's state was let go of, memory is given back at these times, also while there is work.
const FREED_TIMES: [Duration; 3] =
    [Duration::from_secs(1), Duration::from_secs(5), Duration::from_secs(15)];

/// Where memory is short, each worker gives it back this often.
const ASKED_INTERVAL: Duration = Duration::from_secs(1);

/// Number of times that workers were asked to give memory back.
static ASKED: AtomicU64 = AtomicU64::new(0);

/// Asks the workers of this process to give memory back, also while they have work.
pub fn ask() {
    ASKED.fetch_add(1, Ordering::Relaxed);
}

/// When a worker gives memory back.
pub struct MemoryReturn {
    /// The last time that there was work.
    worked_at: Instant,
    returned_at: Instant,
    /// Number of times that memory was given back since the last work.
    returns: usize,
    /// When a view's state was let go of, and how often memory was given back since.
    freed: Option<(Instant, usize)>,
    /// The value of [`ASKED`] when it last gave memory back.
    asked: u64,
}

impl MemoryReturn {
    /// For a worker that has not worked yet.
    pub fn new() -> Self {
        let now = Instant::now();
        MemoryReturn {
            worked_at: now,
            returned_at: now,
            returns: REST_TIMES.len(),
            freed: None,
            asked: 0,
        }
    }

    /// The worker has work.
    pub fn worked(&mut self) {
        self.worked_at = Instant::now();
        self.returns = 0;
    }

    /// A view's state was let go of.
    pub fn freed(&mut self) {
        self.freed = Some((Instant::now(), 0));
    }

    /// Gives the memory of states that were let go of back if it is time.
    pub fn give_back(&mut self) {
        let asked = ASKED.load(Ordering::Relaxed);
        if asked != self.asked && self.returned_at.elapsed() >= ASKED_INTERVAL {
            self.asked = asked;
            self.collect();
        }
        let Some((freed_at, returns)) = self.freed else { return };
        let Some(time) = FREED_TIMES.get(returns) else {
            self.freed = None;
            return;
        };
        if freed_at.elapsed() >= *time {
            self.collect();
            self.freed = Some((freed_at, returns + 1));
        }
    }

    fn collect(&mut self) {
        // SAFETY: the call takes no pointer; with another allocator it finds nothing to do.
        unsafe { libmimalloc_sys::mi_collect(true) };
        self.returned_at = Instant::now();
    }

    /// Gives memory back if it is time; called by a worker that has nothing to do just now.
    pub fn rest(&mut self) {
        let Some(rest_time) = REST_TIMES.get(self.returns) else { return };
        let now = Instant::now();
        let is_due = now - self.worked_at >= *rest_time || now - self.returned_at >= INTERVAL;
        if is_due {
            self.collect();
            self.returns += 1;
        }
    }
}
