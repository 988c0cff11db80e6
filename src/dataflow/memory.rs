//! Gives freed memory back to the system when a worker rests.
//!
//! Giving it back at once, while there is work, costs up to half of the speed: the next batch asks
//! the system for the same pages again, and each of them is cleared first.

use std::time::{Duration, Instant};

/// After these times without work a worker gives memory back: soon, and once more when the sinks
/// and the feeder have let go of what they held of the last work.
const REST_TIMES: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(5)];
/// Under light load, which never rests for long, it does so this often.
const INTERVAL: Duration = Duration::from_secs(10);

/// When a worker gives memory back.
pub struct MemoryReturn {
    /// The last time that there was work.
    worked_at: Instant,
    returned_at: Instant,
    /// How often memory was given back since the last work.
    returns: usize,
}

impl MemoryReturn {
    /// For a worker that has not worked yet.
    pub fn new() -> Self {
        let now = Instant::now();
        MemoryReturn { worked_at: now, returned_at: now, returns: REST_TIMES.len() }
    }

    /// The worker has work.
    pub fn worked(&mut self) {
        self.worked_at = Instant::now();
        self.returns = 0;
    }

    /// Gives memory back if it is time; called by a worker that has nothing to do just now.
    pub fn rest(&mut self) {
        let Some(rest_time) = REST_TIMES.get(self.returns) else { return };
        let now = Instant::now();
        let is_due = now - self.worked_at >= *rest_time || now - self.returned_at >= INTERVAL;
        if is_due {
            // SAFETY: the call takes no pointer; with another allocator it finds nothing to do.
            unsafe { libmimalloc_sys::mi_collect(true) };
            self.returned_at = now;
            self.returns += 1;
        }
    }
}
