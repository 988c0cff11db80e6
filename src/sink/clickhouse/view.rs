//! One view's way into ClickHouse: takes the dataflow's messages and keeps flushing.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::model::view::SinkMessage;
use crate::model::{Head, Position, Tick};
use crate::sink::Recovered;

use super::collect::ChangeCollector;
use super::error::ClickHouseError;
use super::pace::Pace;
use super::writer::{Flush, Flushed, ViewWriter};

/// While a view is built for the first time its changes gather up to this size before they are
/// written; nobody reads the table yet.
const SNAPSHOT_BYTES: usize = 256 << 20;
/// How often progress is written while nothing changes.
const IDLE_PROGRESS_INTERVAL: Duration = Duration::from_secs(1);
/// How long a view may take to write what it has when it is told to end.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);
/// Most messages that are taken at once.
const MESSAGES_PER_TURN: usize = 256;

/// Follows one view; the body of [`ViewSink::run`](crate::sink::ViewSink::run).
pub(super) struct Runner {
    writer: Arc<ViewWriter>,
    collector: ChangeCollector,
    pace: Pace,
    in_flight: Option<JoinHandle<Result<Flushed, ClickHouseError>>>,
    /// The end of the last flush that has succeeded.
    written: Head,
    /// The progress that was last recorded in ClickHouse: position, number of errors, time.
    recorded: (Head, u64, Instant),
    errors: u64,
    live_at: Option<Tick>,
    published: bool,
    /// The last position that somebody waits for to be recorded.
    wanted: watch::Receiver<Position>,
}

impl Runner {
    pub(super) fn new(
        writer: Arc<ViewWriter>,
        collector: ChangeCollector,
        recovered: &Recovered,
    ) -> Self {
        let written = recovered.progress.unwrap_or_default();
        writer.status.set_written(written);
        writer.status.set_recorded(written);
        let wanted = writer.status.watch_wanted();
        if recovered.published {
            writer.status.set_published();
        }
        Runner {
            writer,
            collector,
            pace: Pace::new(Instant::now()),
            in_flight: None,
            written,
            recorded: (written, 0, Instant::now()),
            errors: 0,
            live_at: None,
            published: recovered.published,
            wanted,
        }
    }

    /// Runs until told to end or until the dataflow has hung up.
    pub(super) async fn run(
        mut self,
        mut messages: mpsc::UnboundedReceiver<SinkMessage>,
        shutdown: CancellationToken,
    ) -> Result<(), ClickHouseError> {
        loop {
            self.start_flush()?;
            let wake = self.wake_at();
            tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                done = join(&mut self.in_flight) => self.flush_ended(done?),
                message = messages.recv() => {
                    let Some(message) = message else { break };
                    self.take(message)?;
                    for _ in 1..MESSAGES_PER_TURN {
                        let Ok(message) = messages.try_recv() else { break };
                        self.take(message)?;
                    }
                }
                // The status outlives this task.
                Ok(()) = self.wanted.changed() => {}
                () = sleep_until(wake) => {}
            }
        }
        self.drain(messages).await
    }

    fn take(&mut self, message: SinkMessage) -> Result<(), ClickHouseError> {
        match message {
            SinkMessage::Complete(complete) => {
                self.collector.complete(complete)?;
            }
            SinkMessage::Errors { count } => {
                self.errors = count;
                self.writer.status.errors.store(count, Ordering::Relaxed);
            }
            SinkMessage::Live { tick } => {
                self.live_at = Some(tick);
                self.collector.live(tick)?;
            }
            SinkMessage::Snapshot { at, answer } => {
                if let Some(unwritten) = self.collector.unwritten(at) {
                    // Whoever has asked may have gone.
                    tokio::task::spawn_blocking(move || answer.send(unwritten.collect()).ok());
                }
            }
        }
        self.tell_bytes();
        Ok(())
    }

    fn tell_bytes(&self) {
        let bytes = self.collector.pending_bytes() as u64;
        self.writer.status.pending_bytes.store(bytes, Ordering::Relaxed);
    }

    /// All that was in the log when the view started has come through.
    fn is_live(&self) -> bool {
        self.live_at.is_some_and(|tick| self.collector.has_passed(tick))
    }

    fn start_flush(&mut self) -> Result<(), ClickHouseError> {
        if self.in_flight.is_some() || !self.is_due() {
            return Ok(());
        }
        let taken = self.collector.take()?;
        // With the boundary of an unfinished flush behind it the collector may have closed more;
        // the name waits until that is written too.
        let publish = !self.published && self.is_live() && self.collector.is_clean();
        let flush = Flush { taken, errors: self.errors, publish };
        self.tell_bytes();
        self.pace.started(Instant::now());
        self.in_flight = Some(tokio::spawn(Arc::clone(&self.writer).flush(flush)));
        Ok(())
    }

    fn is_due(&mut self) -> bool {
        if self.collector.is_held() || (!self.published && self.is_live()) {
            return true;
        }
        if self.collector.must_wait() {
            return false;
        }
        if !self.collector.is_clean() {
            return match self.published {
                true => self.pace.is_due(Instant::now(), &self.writer.slots),
                false => self.collector.pending_bytes() >= SNAPSHOT_BYTES,
            };
        }
        // Nothing to write: the table says already what the view is at this tick.
        if let Some(rows) = self.collector.rows() {
            self.writer.status.rows.store(rows, Ordering::SeqCst);
        }
        let closed = self.collector.closed();
        if closed.tick > self.written.tick {
            self.written = closed;
            self.writer.status.set_written(closed);
        }
        self.published && self.record_at().is_some_and(|at| at <= Instant::now())
    }

    /// When progress should be recorded although no row has changed.
    fn record_at(&self) -> Option<Instant> {
        let (head, errors, at) = self.recorded;
        let is_news = head.tick != self.collector.closed().tick || errors != self.errors;
        let wanted = *self.wanted.borrow();
        let is_wanted = head.position < wanted && wanted <= self.collector.closed().position;
        is_news.then(|| if is_wanted { at } else { at + IDLE_PROGRESS_INTERVAL })
    }

    fn wake_at(&self) -> Option<Instant> {
        if self.in_flight.is_some() || !self.published || self.collector.must_wait() {
            return None;
        }
        match self.collector.is_clean() {
            true => self.record_at(),
            false => Some(self.pace.next_start()),
        }
    }

    fn flush_ended(&mut self, flushed: Flushed) {
        self.in_flight = None;
        self.collector.flush_ended();
        self.written = flushed.to;
        self.recorded = (flushed.to, flushed.errors, Instant::now());
        self.published |= flushed.published;
        self.pace.ended(flushed.rows, flushed.took, flushed.parts);
    }

    /// Ends the flush in flight, and writes what is left, if ClickHouse lets it: less to do again after the
    /// next start. Changes that cannot be written in time come from the log then.
    async fn drain(
        mut self,
        mut messages: mpsc::UnboundedReceiver<SinkMessage>,
    ) -> Result<(), ClickHouseError> {
        let deadline = Instant::now() + DRAIN_TIMEOUT;
        while let Ok(message) = messages.try_recv() {
            self.take(message)?;
        }
        for last in [false, true] {
            let may_flush = self.published && !self.collector.must_wait();
            let is_news = self.recorded.0.tick < self.collector.closed().tick;
            if last && may_flush && (is_news || !self.collector.is_clean()) {
                let taken = self.collector.take()?;
                let flush = Flush { taken, errors: self.errors, publish: false };
                self.in_flight = Some(tokio::spawn(Arc::clone(&self.writer).flush(flush)));
            }
            let Some(mut task) = self.in_flight.take() else { continue };
            match tokio::time::timeout_at(deadline, &mut task).await {
                Ok(done) => self.flush_ended(joined(done)?),
                Err(_) => {
                    task.abort();
                    return Ok(());
                }
            }
        }
        Ok(())
    }
}

/// Waits for the flush in flight; for ever, if there is none.
async fn join(
    in_flight: &mut Option<JoinHandle<Result<Flushed, ClickHouseError>>>,
) -> Result<Flushed, ClickHouseError> {
    match in_flight {
        Some(task) => joined(task.await),
        None => std::future::pending().await,
    }
}

/// A panic in a flush is one of this task.
fn joined(
    done: Result<Result<Flushed, ClickHouseError>, tokio::task::JoinError>,
) -> Result<Flushed, ClickHouseError> {
    match done {
        Ok(done) => done,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // Only this module could cancel it, and then it does not wait for it.
            Err(error) => unreachable!("a flush was cancelled: {error}"),
        },
    }
}

async fn sleep_until(wake: Option<Instant>) {
    match wake {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
