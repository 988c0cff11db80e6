//! How often a view is flushed.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// The shortest time from one flush to the next, while there is little to write.
pub const FLUSH_INTERVAL: Duration = Duration::from_millis(200);
/// The longest.
const FLUSH_INTERVAL_MAX: Duration = Duration::from_secs(5);
/// From this many rows on a flush, the interval is a second: ClickHouse likes few large parts.
const ROWS_PER_SECOND_FLUSH: u64 = 20_000;
/// A flush may take up to one part in this many of the time, so that merges keep up.
const BUSY_SHARE: u32 = 4;
/// From this many active parts in one partition on, the interval grows with them.
const PARTS_COMFORTABLE: u64 = 60;

/// The time from one flush to the next, whichever views they are of, while there are many.
const FLUSH_SPACING: Duration = Duration::from_millis(8);
/// Flushes that may start at once.
const FLUSHES_AT_ONCE: u32 = 16;

/// Spaces the flushes of all views: each costs ClickHouse something, however little is in it. Slots are given
/// in the order of the requests.
pub(super) struct FlushSlots {
    /// When the next flush would start, if none ever started ahead of its time.
    next: Mutex<Option<Instant>>,
}

impl FlushSlots {
    pub(super) fn new() -> Self {
        FlushSlots { next: Mutex::new(None) }
    }

    /// When a flush may start that is due now.
    fn take(&self, now: Instant) -> Instant {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let at = next.map_or(now, |next| next.max(now));
        *next = Some(at + FLUSH_SPACING);
        now.max(at - FLUSH_SPACING * FLUSHES_AT_ONCE)
    }
}

/// Decides when the next flush may start: at once after a pause, and under load at intervals that
/// grow with the size of the flushes, the time they take and the number of parts in the table.
pub(super) struct Pace {
    begun: Instant,
    last_start: Option<Instant>,
    interval: Duration,
    /// When the flush may start that is due.
    slot: Option<Instant>,
    /// Active parts in the table's fullest partition, as last counted.
    parts: u64,
}

impl Pace {
    /// From `begun` on.
    pub(super) fn new(begun: Instant) -> Self {
        Pace { begun, last_start: None, interval: FLUSH_INTERVAL, slot: None, parts: 0 }
    }

    /// The earliest start of the next flush; in the past when it may start at once.
    pub(super) fn next_start(&self) -> Instant {
        self.slot
            .unwrap_or_else(|| self.last_start.map_or(self.begun, |start| start + self.interval))
    }

    /// Whether the next flush may start.
    pub(super) fn is_due(&mut self, now: Instant, slots: &FlushSlots) -> bool {
        self.next_start() <= now && *self.slot.get_or_insert_with(|| slots.take(now)) <= now
    }

    /// A flush starts.
    pub(super) fn started(&mut self, now: Instant) {
        (self.last_start, self.slot) = (Some(now), None);
    }

    /// A flush has ended that wrote so many rows in this time; `parts` where they were counted.
    pub(super) fn ended(&mut self, rows: u64, took: Duration, parts: Option<u64>) {
        self.parts = parts.unwrap_or(self.parts);
        let share = rows.min(ROWS_PER_SECOND_FLUSH) as f64 / ROWS_PER_SECOND_FLUSH as f64;
        let by_rows = FLUSH_INTERVAL + Duration::from_secs(1).mul_f64(share * 0.8);
        let by_parts =
            FLUSH_INTERVAL.mul_f64((self.parts as f64 / PARTS_COMFORTABLE as f64).max(1.0));
        let interval = by_rows.max(by_parts).max(took * BUSY_SHARE);
        self.interval = interval.min(FLUSH_INTERVAL_MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_flushes_are_spaced_and_few_are_not() {
        let (slots, begin) = (FlushSlots::new(), Instant::now());
        let waits: Vec<Duration> = (0..100).map(|_| slots.take(begin) - begin).collect();
        assert!(waits[..=FLUSHES_AT_ONCE as usize].iter().all(Duration::is_zero), "{waits:?}");
        assert_eq!(waits[99], FLUSH_SPACING * (99 - FLUSHES_AT_ONCE));
        // Once the slots that were given ahead have passed, a flush starts at once again.
        let later = begin + FLUSH_SPACING * 200;
        assert_eq!(slots.take(later), later);
    }

    #[test]
    fn flush_waits_for_its_slot() {
        let begin = Instant::now();
        let (slots, mut pace) = (FlushSlots::new(), Pace::new(begin));
        assert!(pace.is_due(begin, &slots));
        pace.started(begin);
        assert!(!pace.is_due(begin, &slots));
        let others = 10 * FLUSHES_AT_ONCE;
        for _ in 0..others {
            slots.take(begin);
        }
        let due = begin + FLUSH_INTERVAL;
        assert!(!pace.is_due(due, &slots), "those of others come before");
        let at = pace.next_start();
        assert!(at - begin < FLUSH_SPACING * others, "{at:?}");
        assert!(pace.is_due(at, &slots));
    }
}
