//! Watches the system's clock: ticks never go back, so a clock that jumped ahead and came back
//! leaves the log's time standing until the clock has caught up.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::log::Log;
use crate::model::alarm::{Alarms, Part};
use crate::model::clock;

/// How often the clock is compared with the log.
const INTERVAL: Duration = Duration::from_secs(1);
/// A clock that is less behind is not worth an alarm: groups of events that come faster than one a
/// millisecond run ahead of it, too.
const BEHIND_MAX: Duration = Duration::from_secs(2);

/// Raises an alarm while the clock is behind the log.
pub async fn watch(log: Log, alarms: Alarms, stopping: CancellationToken) {
    let mut interval = tokio::time::interval(INTERVAL);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stopping.cancelled() => return,
            _ = interval.tick() => {}
        }
        let behind = clock::behind(log.head().tick);
        if behind > BEHIND_MAX {
            let message = format!(
                "the system's clock is {} s behind the last commit: it jumped ahead and came back, \
                 or another machine wrote the log; events are accepted, but their ticks, and with \
                 them now(), stand still until the clock has caught up",
                behind.as_secs()
            );
            alarms.raise(Part::Clock, "", message);
        } else {
            alarms.clear(Part::Clock, "");
        }
    }
}
