//! Waiting between attempts.

use std::time::Duration;

const WAIT_FIRST: Duration = Duration::from_millis(100);
/// Short enough that views are right soon after ClickHouse is back.
const WAIT_MAX: Duration = Duration::from_secs(2);

/// Waits that double from a tenth of a second to two seconds.
pub(super) struct Backoff {
    next: Duration,
}

impl Backoff {
    pub(super) fn new() -> Self {
        Backoff { next: WAIT_FIRST }
    }

    pub(super) async fn wait(&mut self) {
        tokio::time::sleep(self.next).await;
        self.next = (self.next * 2).min(WAIT_MAX);
    }
}
