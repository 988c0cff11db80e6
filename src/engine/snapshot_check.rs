//! Compares the parts of snapshots with their checksums that views have gone on from without that. Blocking:
//! runs on a thread of its own, a few megabytes at a time.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc::UnboundedSender;
use tokio_util::sync::CancellationToken;

use super::supervisor::SupervisorRequest;
use crate::snapshot::SnapshotStore;

/// How often it is looked whether there is something to compare.
const POLL: Duration = Duration::from_millis(200);
/// For each moment of work the thread rests so many.
const REST: u32 = 3;

/// Compares until told to stop. A view of which a part is damaged is requested to be built from the log.
pub fn run(
    store: &Arc<SnapshotStore>,
    requests: &UnboundedSender<SupervisorRequest>,
    stopping: &CancellationToken,
) {
    while !stopping.is_cancelled() {
        let Some(part) = store.take_unchecked() else {
            std::thread::sleep(POLL);
            continue;
        };
        let mut worked_since = Instant::now();
        let checked = part.check(|| {
            std::thread::sleep(worked_since.elapsed() * REST);
            worked_since = Instant::now();
            !stopping.is_cancelled()
        });
        if let Err(damaged) = checked {
            let (view, what) = (part.view, damaged.to_string());
            // A supervisor that is gone has ended the server, or ends with it.
            let _ = requests.send(SupervisorRequest::Damaged { view, what });
        }
    }
}
