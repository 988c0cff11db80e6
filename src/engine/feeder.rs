//! The cursor that feeds the log to the views: chunk by chunk until the tail is reached, then as
//! it comes.

use std::collections::BTreeSet;
use std::io::IsTerminal;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::watch;

use super::tracker::ViewTracker;
use crate::dataflow::Runtime;
use crate::log::{Frame, Log, LogError, LogReader};
use crate::model::view::ViewMessage;
use crate::model::{Head, Tick};

/// How many bytes of events one chunk holds, give or take a frame.
const CHUNK_BYTES: usize = 8 << 20;
/// How often it is looked whether a sink has room again.
const ROOM_POLL: Duration = Duration::from_millis(50);
/// How often a long replay shows how far it is.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);

/// Feeds a log to a set of views.
pub struct Feeder {
    log: Log,
    runtime: Arc<Runtime>,
    views: Vec<Arc<ViewTracker>>,
    /// Ticks at which a chunk has to end, for the sinks to find their way back.
    boundaries: BTreeSet<Tick>,
    stop: watch::Receiver<bool>,
    tokio: Handle,
}

/// A chunk of the log: frames whose events enter together.
struct Chunk {
    frames: Vec<Frame>,
    end: Head,
}

impl Feeder {
    /// A feeder of these views, which must have been installed.
    pub fn new(
        log: Log,
        runtime: Arc<Runtime>,
        views: Vec<Arc<ViewTracker>>,
        boundaries: BTreeSet<Tick>,
        stop: watch::Receiver<bool>,
        tokio: Handle,
    ) -> Self {
        Feeder { log, runtime, views, boundaries, stop, tokio }
    }

    /// Feeds until it is told to stop. Blocking: runs on a thread of its own.
    pub fn run(mut self) -> Result<(), LogError> {
        let mut head = self.log.subscribe();
        let target = *head.borrow_and_update();
        let mut reader = self.log.read(0)?;
        let mut progress = Progress::new(target);
        // Views without any event have their rows too (a count of nothing).
        self.feed(Chunk { frames: Vec::new(), end: Head::default() });
        let mut before = Head::default();
        let mut last = Head::default();
        let mut live = false;
        loop {
            if *self.stop.borrow() {
                return Ok(());
            }
            if !live && last.position >= target.position {
                live = true;
                self.tell(&ViewMessage::Live { tick: last.tick });
                progress.done();
            }
            match self.chunk(&mut reader)? {
                Some(chunk) => {
                    // At most two chunks are on their way: the workers are never idle, and what
                    // waits in memory stays bounded.
                    self.wait_for(before);
                    self.wait_for_room();
                    before = last;
                    last = chunk.end;
                    self.feed(chunk);
                    progress.show(last);
                }
                None => self.wait_for_events(&mut head),
            }
        }
    }

    /// The next frames, up to a boundary; `None` at the tail.
    fn chunk(&mut self, reader: &mut LogReader) -> Result<Option<Chunk>, LogError> {
        let mut frames = Vec::new();
        let mut bytes = 0;
        let mut end = Head::default();
        while bytes < CHUNK_BYTES {
            let Some(frame) = reader.next_frame()? else { break };
            bytes += frame.raw_bytes();
            end = Head { position: frame.last_position(), tick: frame.tick() };
            frames.push(frame);
            if self.boundaries.remove(&end.tick) {
                break;
            }
        }
        Ok((!frames.is_empty()).then_some(Chunk { frames, end }))
    }

    fn feed(&self, chunk: Chunk) {
        let Head { position, tick } = chunk.end;
        self.tell(&ViewMessage::Mark { tick, position });
        let more = self.log.head().position > position;
        self.runtime.feed(chunk.frames, tick, more);
    }

    fn tell(&self, message: &ViewMessage) {
        for view in &self.views {
            view.take(message.clone());
        }
    }

    /// Waits until all views are through with everything up to a chunk's end.
    fn wait_for(&mut self, end: Head) {
        for view in &self.views {
            let mut complete = view.watch_complete();
            let stop = &mut self.stop;
            self.tokio.block_on(async {
                tokio::select! {
                    _ = complete.wait_for(|head| head.position >= end.position) => {}
                    _ = stop.wait_for(|stop| *stop) => {}
                }
            });
        }
    }

    /// Waits while what ClickHouse has yet to be told takes too much memory. Events are accepted all
    /// the while.
    fn wait_for_room(&self) {
        let full = |view: &Arc<ViewTracker>| view.sink.as_ref().is_some_and(|s| !s.has_room());
        while self.views.iter().any(full) && !*self.stop.borrow() {
            std::thread::sleep(ROOM_POLL);
        }
    }

    fn wait_for_events(&mut self, head: &mut watch::Receiver<Head>) {
        let stop = &mut self.stop;
        self.tokio.block_on(async {
            tokio::select! {
                // The log outlives us, so this is news and not its end.
                _ = head.changed() => {}
                _ = stop.wait_for(|stop| *stop) => {}
            }
        });
    }
}

/// Shows how far a replay is, where somebody is looking.
struct Progress {
    target: Head,
    started: Instant,
    shown: Option<Instant>,
}

impl Progress {
    fn new(target: Head) -> Self {
        Progress { target, started: Instant::now(), shown: None }
    }

    fn show(&mut self, at: Head) {
        let since = self.shown.unwrap_or(self.started).elapsed();
        if at.position >= self.target.position || since < PROGRESS_INTERVAL {
            return;
        }
        self.shown = Some(Instant::now());
        let (position, target) = (at.position, self.target.position);
        let rate = position as f64 / self.started.elapsed().as_secs_f64();
        if std::io::stderr().is_terminal() {
            let percent = position * 100 / target.max(1);
            eprint!(
                "\rreplaying: {position} of {target} events ({percent} %), {rate:.0} events/s "
            );
        } else {
            tracing::info!(position, target, events_per_s = rate as u64, "replaying");
        }
    }

    fn done(&mut self) {
        if self.shown.is_some() {
            if std::io::stderr().is_terminal() {
                eprintln!();
            }
            let (events, seconds) = (self.target.position, self.started.elapsed().as_secs_f64());
            tracing::info!(events, seconds, "replayed the log");
        }
    }
}
