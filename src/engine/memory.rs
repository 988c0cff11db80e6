//! The budget of memory: from a part of it on large runs are written to files; over it views that catch up wait, and then the largest views are set aside.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use super::registry::{Registry, View};
use super::tracker::ViewTracker;
use crate::dataflow::{Runtime, Spill};
use crate::model::memory::anonymous_bytes;

/// How often the memory is looked at.
const INTERVAL: Duration = Duration::from_millis(100);
/// How long it may be over the budget, views that catch up waiting, before one is set aside.
const OVER_TIME_MAX: Duration = Duration::from_secs(2);
/// How long the memory of a view that was set aside may take to come back before another one is.
const FREE_TIME_MAX: Duration = Duration::from_secs(30);
/// From one part in so many of the budget on, large parts of the state go to files.
const SPILL_SHARE: u64 = 4;
/// A view with less than this part of the budget is not set aside: it would not help.
const SHARE_MIN: u64 = 100;

/// Views that hold less than one part in this many of the process's memory are not the reason for its size.
const HELD_SHARE_MIN: u64 = 4;

/// Whether a process that takes so much memory takes it for the state of its views, which hold `held`.
/// If not, it went to what is being computed or freed, and setting views aside does not help.
pub fn is_held_by_views(held: u64, taken: u64) -> bool {
    held >= taken / HELD_SHARE_MIN
}

/// Whether more memory is used than the budget allows.
#[derive(Clone, Debug, Default)]
pub struct MemoryPressure(Arc<AtomicBool>);

impl MemoryPressure {
    /// True while work that can wait has to.
    pub fn is_high(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Watches the memory of the process.
pub struct MemoryWatch {
    /// The budget, in bytes.
    pub bytes_max: u64,
    pub pressure: MemoryPressure,
    pub runtime: Arc<Runtime>,
    pub spill: Arc<Spill>,
    pub registry: Arc<Registry>,
}

impl MemoryWatch {
    /// Watches until it is told to stop.
    pub async fn run(self, stopping: CancellationToken) {
        let mut over_since: Option<Instant> = None;
        // The bytes that views held when they were set aside, and when that was.
        let mut expected: Vec<(Instant, u64)> = Vec::new();
        loop {
            tokio::select! {
                () = tokio::time::sleep(INTERVAL) => {}
                () = stopping.cancelled() => return,
            }
            let Some(taken) = anonymous_bytes(None) else { continue };
            self.spill.set_wanted(taken > self.bytes_max / SPILL_SHARE);
            let is_over = taken > self.bytes_max;
            // The pressure ends at 95 % of the budget, so that it does not go to and fro at the limit.
            let is_high = is_over || self.pressure.is_high() && taken > self.bytes_max / 20 * 19;
            if self.pressure.0.swap(is_high, Ordering::Relaxed) != is_high {
                let (max, now) = (self.bytes_max, taken);
                match is_high {
                    true => tracing::warn!(
                        max,
                        now,
                        "over the budget of memory: views that catch up wait"
                    ),
                    false => tracing::info!(max, now, "within the budget of memory again"),
                }
            }
            if !is_over {
                over_since = None;
                expected.clear();
                continue;
            }
            let since = *over_since.get_or_insert_with(Instant::now);
            self.runtime.return_memory();
            expected.retain(|(at, _)| at.elapsed() < FREE_TIME_MAX);
            let to_come: u64 = expected.iter().map(|(_, bytes)| bytes).sum();
            if since.elapsed() >= OVER_TIME_MAX
                && taken.saturating_sub(to_come) > self.bytes_max
                && let Some(bytes) = self.set_largest_aside(taken)
            {
                expected.push((Instant::now(), bytes));
            }
        }
    }

    /// Fails the view with the most state; how much it had.
    fn set_largest_aside(&self, taken: u64) -> Option<u64> {
        let views = self.registry.views();
        let running = views.views.values().flat_map(View::running);
        let going = Vec::from_iter(running.filter(|tracker| tracker.failed().is_none()));
        let bytes = |tracker: &Arc<ViewTracker>| {
            let all = self.runtime.state_bytes(tracker.id);
            all.saturating_sub(self.runtime.file_bytes(tracker.id)) as u64
        };
        let held = going.iter().map(|tracker| bytes(tracker)).sum();
        let largest = going.iter().max_by_key(|tracker| bytes(tracker))?;
        let bytes = bytes(largest);
        if bytes < self.bytes_max / SHARE_MIN || !is_held_by_views(held, taken) {
            return None;
        }
        let max = self.bytes_max;
        self.runtime.fail(
            largest.id,
            format!(
                "set aside: the process takes {taken} bytes, more than --memory = {max} allows, \
                 and of all views this one has the largest state, {bytes} bytes: let it keep less, \
                 or raise --memory; then rebuild it"
            ),
        );
        Some(bytes)
    }
}
