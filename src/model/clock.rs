//! The system's clock, read in one place.
//!
//! `HELIOSTAT_CLOCK_OFFSET_MS=N` shifts it by N milliseconds, for tests of clocks that jump.

use std::sync::OnceLock;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::Tick;

/// Milliseconds since the Unix epoch.
pub fn now_ms() -> u64 {
    u64::try_from(now_us() / 1000).unwrap_or(0)
}

/// The clock's distance behind a tick; zero where it is not behind.
pub fn behind(tick: Tick) -> Duration {
    Duration::from_millis(tick.saturating_sub(now_ms()))
}

/// Microseconds since the Unix epoch.
pub fn now_us() -> i64 {
    static OFFSET_US: OnceLock<i64> = OnceLock::new();
    let offset_us = *OFFSET_US.get_or_init(|| {
        let text = std::env::var("HELIOSTAT_CLOCK_OFFSET_MS").ok();
        let offset_ms = text.and_then(|text| text.parse::<i64>().ok()).unwrap_or(0);
        offset_ms.saturating_mul(1000)
    });
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX).saturating_add(offset_us)
}
