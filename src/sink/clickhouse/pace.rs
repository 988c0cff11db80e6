//! How often a view is flushed.

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

/// Decides when the next flush may start: at once after a pause, and under load at intervals that
/// grow with the size of the flushes, the time they take and the number of parts in the table.
pub(super) struct Pace {
    last_start: Option<Instant>,
    interval: Duration,
    /// Active parts in the table's fullest partition, as last counted.
    parts: u64,
}

impl Pace {
    pub(super) fn new() -> Self {
        Pace { last_start: None, interval: FLUSH_INTERVAL, parts: 0 }
    }

    /// The earliest start of the next flush; in the past when it may start at once.
    pub(super) fn next_start(&self) -> Instant {
        self.last_start.map_or_else(Instant::now, |start| start + self.interval)
    }

    /// A flush starts.
    pub(super) fn started(&mut self) {
        self.last_start = Some(Instant::now());
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
