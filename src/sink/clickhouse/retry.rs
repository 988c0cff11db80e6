//! Waiting between attempts.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};

const PAUSE_FIRST: Duration = Duration::from_millis(100);
/// Short enough that views are right soon after ClickHouse is back.
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// Pauses that double from a tenth of a second to two seconds, without end.
pub(super) struct Pauses(ExponentialBackoff);

impl Pauses {
    pub(super) fn new() -> Self {
        let pauses =
            ExponentialBuilder::new().with_min_delay(PAUSE_FIRST).with_max_delay(PAUSE_MAX);
        Pauses(pauses.without_max_times().build())
    }

    pub(super) async fn wait(&mut self) {
        tokio::time::sleep(self.0.next().unwrap_or(PAUSE_MAX)).await;
    }
}
