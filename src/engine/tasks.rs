//! The server's parts as one tree of tasks, which end together.
//!
//! A part is a future or a thread of its own. The first one that fails is told at once, in the log and in
//! `/readyz`, and ends the server with its error: nothing runs on half alive. If a problem passes by itself
//! (ClickHouse is away, say), the part tries again and does not fail.

use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::EngineError;
use crate::model::alarm::{Alarms, Part};

/// The running parts of one server. Clones share them.
#[derive(Clone)]
pub struct Tasks {
    tracker: TaskTracker,
    stop: CancellationToken,
    alarms: Alarms,
    failure: Arc<Mutex<Option<EngineError>>>,
}

impl Tasks {
    /// A tree without parts, whose failures become alarms.
    pub fn new(alarms: Alarms) -> Self {
        let (tracker, stop) = (TaskTracker::new(), CancellationToken::new());
        Tasks { tracker, stop, alarms, failure: Arc::default() }
    }

    /// Cancelled once the parts are to end: on request, or since one of them has failed.
    pub fn stopping(&self) -> &CancellationToken {
        &self.stop
    }

    /// The alarms that all parts share.
    pub fn alarms(&self) -> &Alarms {
        &self.alarms
    }

    /// Runs a part.
    pub fn spawn(
        &self,
        name: &'static str,
        part: impl Future<Output = Result<(), EngineError>> + Send + 'static,
    ) {
        let tasks = self.clone();
        self.tracker.spawn(async move { tasks.ended(name, part.await) });
    }

    /// Runs a part on a thread of its own, for what blocks or computes as long as it lives.
    pub fn spawn_thread(
        &self,
        name: &'static str,
        part: impl FnOnce() -> Result<(), EngineError> + Send + 'static,
    ) -> Result<(), EngineError> {
        let tasks = self.clone();
        // Counted as running until the thread drops it, however it ends.
        let token = self.tracker.token();
        let body = move || {
            tasks.ended(name, part());
            drop(token);
        };
        let spawned = std::thread::Builder::new().name(name.to_string()).spawn(body);
        spawned.map(drop).map_err(|source| EngineError::Thread { name, source })
    }

    fn ended(&self, name: &'static str, result: Result<(), EngineError>) {
        if let Err(error) = result {
            self.fail(name, error);
        }
    }

    /// Ends the server with this error, unless another one was first.
    pub fn fail(&self, name: &'static str, error: EngineError) {
        self.alarms.raise(Part::Server, name, format!("{error}: the server ends"));
        let mut failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        failure.get_or_insert(error);
        drop(failure);
        self.stop.cancel();
    }

    /// Tells the parts to end and waits for them, at most so long; false if some are left.
    pub async fn end(&self, time_max: Duration) -> bool {
        self.stop.cancel();
        self.tracker.close();
        tokio::time::timeout(time_max, self.tracker.wait()).await.is_ok()
    }

    /// The error of the part that failed first.
    pub fn failure(&self) -> Option<EngineError> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// Runs what computes or waits for the disk for a while where others need not wait for it.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(value) => value,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failing() -> Result<(), EngineError> {
        Err(EngineError::LogFailed("no disk".to_string()))
    }

    #[tokio::test]
    async fn first_failure_ends_all_parts_and_is_kept() {
        let alarms = Alarms::default();
        let tasks = Tasks::new(alarms.clone());
        let stopping = tasks.stopping().clone();
        tasks.spawn("subscriber", async move {
            stopping.cancelled().await;
            Ok(())
        });
        tasks.spawn_thread("log", failing).unwrap();
        tasks.stopping().cancelled().await;
        assert_eq!(alarms.list()[0].subject, "log");
        assert!(tasks.end(Duration::from_secs(10)).await);
        assert!(matches!(tasks.failure(), Some(EngineError::LogFailed(_))));
    }

    #[tokio::test]
    async fn part_that_does_not_end_is_waited_for_no_longer_than_allowed() {
        let tasks = Tasks::new(Alarms::default());
        tasks.spawn("stuck", std::future::pending());
        assert!(!tasks.end(Duration::from_millis(20)).await);
        assert!(tasks.failure().is_none());
    }
}
