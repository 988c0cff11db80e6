//! A fault-injection point for crash tests.
//!
//! `HELIOSTAT_CRASH_POINT=after_data:N` aborts the process at the N-th flush (of any view) between
//! its data and its progress; `after_data%P` does so at each flush with a probability of P percent.
//! This is the moment at which ClickHouse holds rows that no progress accounts for.

use std::hash::{BuildHasher, RandomState};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum CrashPoint {
    Never,
    At(u64),
    Percent(u64),
}

/// Aborts the process if the environment asks for it here and now.
pub(super) fn after_data() {
    static POINT: OnceLock<CrashPoint> = OnceLock::new();
    static FLUSHES: AtomicU64 = AtomicU64::new(0);
    let point = POINT.get_or_init(|| {
        std::env::var("HELIOSTAT_CRASH_POINT").map_or(CrashPoint::Never, |text| parse(&text))
    });
    let crash = match *point {
        CrashPoint::Never => false,
        CrashPoint::At(flush) => FLUSHES.fetch_add(1, Ordering::Relaxed) + 1 == flush,
        CrashPoint::Percent(percent) => RandomState::new().hash_one(0) % 100 < percent,
    };
    if crash {
        tracing::error!("HELIOSTAT_CRASH_POINT: aborting between a flush's data and its progress");
        std::process::abort();
    }
}

fn parse(text: &str) -> CrashPoint {
    let number = |text: &str| text.parse::<u64>().ok();
    if let Some(flush) = text.strip_prefix("after_data:").and_then(number) {
        return CrashPoint::At(flush);
    }
    if let Some(percent) = text.strip_prefix("after_data%").and_then(number) {
        return CrashPoint::Percent(percent);
    }
    tracing::warn!(value = text, "HELIOSTAT_CRASH_POINT is after_data:N or after_data%P; ignored");
    CrashPoint::Never
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_are_read_and_others_ignored() {
        assert_eq!(parse("after_data:3"), CrashPoint::At(3));
        assert_eq!(parse("after_data%5"), CrashPoint::Percent(5));
        assert_eq!(parse("after_data"), CrashPoint::Never);
    }
}
