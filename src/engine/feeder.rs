//! The cursors that feed the log to the views: chunk by chunk until the tail is reached, then as
//! it comes.
//!
//! Views that start together are a feed group with a cursor of its own. A feed group that has caught up with
//! another one becomes part of it, so that in the long run events are read and decoded once.

use std::collections::BTreeSet;
use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use super::memory::MemoryPressure;
use super::snapshots::{self, GroupPace, GroupSnapshot, SnapshotQueue};
use super::tracker::ViewTracker;
use crate::dataflow::{FeedGroupId, Runtime};
use crate::log::{Frame, LogError, LogFollower, LogReader};
use crate::model::view::ViewMessage;
use crate::model::{Head, Tick};

/// Bytes of events in one chunk, give or take a frame.
const CHUNK_BYTES: usize = 8 << 20;
/// The same for views that catch up, while live ones wait for their turn.
const CHUNK_BYTES_BESIDE: usize = 1 << 20;
/// Once fast views have waited this long for slow ones of their feed group, they go on without them.
const LAG_TIME: Duration = Duration::from_millis(200);
/// The least id of a feed group of views that were left behind. The supervisor gives lower ones.
const FIRST_LAGGING: FeedGroupId = 1 << 48;
/// How often a wait for room in a sink or in memory looks again.
const ROOM_POLL: Duration = Duration::from_millis(50);
/// How long views may take to get through what they were fed before a snapshot goes without them: live
/// ones, and those that catch up.
const PAUSE_MAX: Duration = Duration::from_millis(200);
const PAUSE_MAX_BESIDE: Duration = Duration::from_secs(5);
/// The same for all groups together while the server ends.
const LAST_PAUSE_MAX: Duration = Duration::from_secs(1);
const LAST_PAUSE_POLL: Duration = Duration::from_millis(2);
/// A live feed group may take up to one part in this many of the time with small chunks: each of them costs
/// every view something, however little is in it.
const BUSY_SHARE: u32 = 4;
/// A chunk of more bytes is not small: what it costs is the work on its events.
const SMALL_CHUNK_BYTES: usize = 256 << 10;
/// The longest that events wait for more of them.
const REST_MAX: Duration = Duration::from_millis(100);
/// How often a long replay shows how far it is.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);

/// A command to the feeder.
enum FeederCommand {
    Add {
        feed_group: FeedGroupId,
        from: Head,
        exact: bool,
        views: Vec<Arc<ViewTracker>>,
        boundaries: BTreeSet<Tick>,
    },
    Remove {
        view: usize,
    },
}

/// Tells a feeder which views to feed.
#[derive(Clone)]
pub struct FeederHandle {
    orders: Sender<FeederCommand>,
    /// Wakes the feeder; trackers do, too.
    pub wake: Arc<Notify>,
}

impl FeederHandle {
    /// Feeds these views what comes after `from`. They must have been installed as `feed_group`, from
    /// there on.
    /// Chunks end at `boundaries`, for the sinks to find their way back. `exact`: the
    /// views see each tick that the log has, and not only the last one of each chunk.
    pub fn add(
        &self,
        feed_group: FeedGroupId,
        from: Head,
        exact: bool,
        views: Vec<Arc<ViewTracker>>,
        boundaries: BTreeSet<Tick>,
    ) {
        self.send(FeederCommand::Add { feed_group, from, exact, views, boundaries });
    }

    /// Feeds a view no more and forgets its state.
    pub fn remove(&self, view: usize) {
        self.send(FeederCommand::Remove { view });
    }

    fn send(&self, order: FeederCommand) {
        // A feeder that is gone has ended the server, or ends with it.
        let _ = self.orders.send(order);
        self.wake.notify_one();
    }
}

/// Feeds a log to views.
pub struct Feeder {
    log: LogFollower,
    runtime: Arc<Runtime>,
    orders: Receiver<FeederCommand>,
    wake: Arc<Notify>,
    pressure: MemoryPressure,
    feed_groups: Vec<GroupCursor>,
    next_lagging: FeedGroupId,
    snapshots: Option<SnapshotQueue>,
    stop: CancellationToken,
    tokio: Handle,
}

/// Views that are fed together.
struct GroupCursor {
    id: FeedGroupId,
    /// True if every tick is fed by itself.
    exact: bool,
    views: Vec<Arc<ViewTracker>>,
    boundaries: BTreeSet<Tick>,
    reader: LogReader,
    /// The log's end when the feed group began.
    target: Head,
    live: bool,
    /// True if others have left the group behind. It is fed in small chunks, as a group that catches up
    /// beside live ones.
    lagging: bool,
    /// The moment from which on views wait for slower ones of the group.
    waits_since: Option<Instant>,
    rest: FeedRest,
    /// The ends of the last two chunks.
    before: Head,
    last: Head,
    snapshots: GroupPace,
    progress: ReplayProgress,
}

/// Pauses between small chunks, as long as the views took for the one before, times some.
#[derive(Clone, Copy, Debug)]
enum FeedRest {
    Over,
    /// A small chunk was fed then, and the views are not through with it.
    Fed(Instant),
    Until(Instant),
}

impl FeedRest {
    /// After a chunk of so many bytes.
    fn behind(bytes: usize) -> Self {
        if bytes < SMALL_CHUNK_BYTES { FeedRest::Fed(Instant::now()) } else { FeedRest::Over }
    }

    /// Whether nothing is to be fed; `is_through`: the views are with everything.
    fn goes_on(&mut self, is_through: impl FnOnce() -> bool) -> bool {
        let now = Instant::now();
        if let FeedRest::Fed(at) = *self
            && is_through()
        {
            let rest = (now - at).saturating_mul(BUSY_SHARE - 1).min(REST_MAX);
            *self = FeedRest::Until(now + rest);
        }
        if self.end().is_some_and(|end| end <= now) {
            *self = FeedRest::Over;
        }
        !matches!(self, FeedRest::Over)
    }

    /// When it is over at the latest. Views that take long for a chunk get another one.
    fn end(&self) -> Option<Instant> {
        match self {
            FeedRest::Over => None,
            FeedRest::Fed(at) => Some(*at + REST_MAX),
            FeedRest::Until(end) => Some(*end),
        }
    }
}

/// A chunk of the log: frames whose events enter together.
struct LogChunk {
    frames: Vec<Frame>,
    bytes: usize,
    end: Head,
}

impl Feeder {
    /// A feeder without views, and the handle that gives it some. `wake` wakes it.
    pub fn new(
        log: LogFollower,
        runtime: Arc<Runtime>,
        pressure: MemoryPressure,
        snapshots: Option<SnapshotQueue>,
        wake: Arc<Notify>,
        stop: CancellationToken,
        tokio: Handle,
    ) -> (Self, FeederHandle) {
        let (sender, orders) = channel();
        let handle = FeederHandle { orders: sender, wake: Arc::clone(&wake) };
        let feeder = Feeder {
            log,
            runtime,
            orders,
            wake,
            pressure,
            feed_groups: Vec::new(),
            next_lagging: FIRST_LAGGING,
            snapshots,
            stop,
            tokio,
        };
        (feeder, handle)
    }

    /// Feeds until it is told to stop. Blocking: runs on a thread of its own.
    ///
    /// Views that need events that cannot be read are failed and fed no more; others go on.
    pub fn run(mut self) {
        let mut head = self.log.subscribe();
        while !self.stop.is_cancelled() {
            head.borrow_and_update();
            while let Ok(order) = self.orders.try_recv() {
                self.obey(order);
            }
            self.leave_failed();
            self.leave_lagging();
            self.take_snapshots();
            // Live views go first: new events do not wait for views that catch up.
            self.feed_groups.sort_by_key(|feed_group| (!feed_group.live, feed_group.id));
            let beside = self.feed_groups.first().is_some_and(|feed_group| feed_group.live);
            let mut fed = false;
            let is_short = self.pressure.is_high();
            for feed_group in &mut self.feed_groups {
                // Groups that catch up wait while memory is short: feeding them takes more of it.
                if is_short && !feed_group.live {
                    continue;
                }
                match feed_group.step(&self.log, &self.runtime, beside) {
                    Ok(more) => fed |= more,
                    Err(error) => {
                        fail(&self.runtime, std::mem::take(&mut feed_group.views), &error);
                    }
                }
            }
            self.feed_groups.retain(|feed_group| !feed_group.views.is_empty());
            self.merge();
            if !fed {
                self.wait(&mut head);
            }
        }
        self.take_last_snapshots();
    }

    /// Lets groups pause whose snapshot is due, and takes it once their views are through.
    fn take_snapshots(&mut self) {
        let Some(queue) = &self.snapshots else { return };
        for group in &mut self.feed_groups {
            if !queue.is_free() {
                return;
            }
            if let Some(since) = group.snapshots.pausing_since() {
                let is_through = group.views.iter().all(|view| group.is_through(view));
                let time_max = if group.live { PAUSE_MAX } else { PAUSE_MAX_BESIDE };
                if is_through || since.elapsed() >= time_max {
                    group.snapshot(&self.runtime, queue);
                }
            } else if group.snapshots.is_due(group.last.position, queue.pace)
                && group.can_be_in_snapshot()
            {
                group.snapshots.pause();
            }
        }
    }

    /// Takes a snapshot of each group before the end, so that the next start reads less of the log again.
    fn take_last_snapshots(&mut self) {
        let Some(queue) = &self.snapshots else { return };
        let end = Instant::now() + LAST_PAUSE_MAX;
        for group in &mut self.feed_groups {
            if group.exact
                || group.last.position == 0
                || group.views.iter().all(|view| group.is_saved(view))
            {
                continue;
            }
            let is_behind =
                |group: &GroupCursor| group.views.iter().any(|view| !group.is_through(view));
            while is_behind(group) && Instant::now() < end {
                std::thread::sleep(LAST_PAUSE_POLL);
            }
            group.snapshot(&self.runtime, queue);
        }
    }

    /// Lets go of views whose dataflow has failed: nobody waits for them, and nothing is kept.
    fn leave_failed(&mut self) {
        for feed_group in &mut self.feed_groups {
            for view in feed_group.views.extract_if(.., |view| view.is_over()) {
                self.runtime.remove(view.id);
            }
        }
        self.feed_groups.retain(|feed_group| !feed_group.views.is_empty());
    }

    /// Lets feed groups go on without views that hold them back. These views are fed by themselves until they
    /// have caught up.
    fn leave_lagging(&mut self) {
        let mut left = Vec::new();
        for feed_group in &mut self.feed_groups {
            if !feed_group.is_held_back(&self.log) {
                continue;
            }
            // Without a reader of their own the views wait for each other as before.
            let Ok(reader) = self.log.read(feed_group.last.position) else { continue };
            let views: Vec<_> = {
                let before = feed_group.before.position;
                let lags = |view: &mut Arc<ViewTracker>| view.complete().position < before;
                feed_group.views.extract_if(.., lags).collect()
            };
            let (from, id) = (feed_group.id, self.next_lagging);
            self.next_lagging += 1;
            for view in &views {
                tracing::debug!(view = view.name(), "the view lags, and is fed by itself");
            }
            let ids: Vec<usize> = views.iter().map(|view| view.id).collect();
            self.runtime.split(from, &ids, id);
            feed_group.waits_since = None;
            left.push(GroupCursor {
                id,
                exact: feed_group.exact,
                views,
                boundaries: feed_group.boundaries.clone(),
                reader,
                target: feed_group.target,
                live: feed_group.live,
                lagging: true,
                waits_since: None,
                rest: FeedRest::Over,
                before: feed_group.before,
                last: feed_group.last,
                snapshots: feed_group.snapshots.split(),
                progress: ReplayProgress::new(feed_group.last, feed_group.target),
            });
        }
        self.feed_groups.extend(left);
    }

    fn obey(&mut self, order: FeederCommand) {
        match order {
            FeederCommand::Add { feed_group, from, exact, views, boundaries } => {
                let target = self.log.head();
                let reader = match self.log.read(from.position) {
                    Ok(reader) => reader,
                    Err(error) => return fail(&self.runtime, views, &error),
                };
                let mut feed_group = GroupCursor {
                    id: feed_group,
                    exact,
                    views,
                    boundaries,
                    reader,
                    target,
                    live: false,
                    lagging: false,
                    waits_since: None,
                    rest: FeedRest::Over,
                    before: from,
                    last: from,
                    snapshots: GroupPace::new(from.position),
                    progress: ReplayProgress::new(from, target),
                };
                // Views without any event have their rows too (a count of nothing).
                let nothing = LogChunk { frames: Vec::new(), bytes: 0, end: from };
                feed_group.feed(&self.log, &self.runtime, nothing);
                self.feed_groups.push(feed_group);
            }
            FeederCommand::Remove { view } => {
                self.runtime.remove(view);
                for feed_group in &mut self.feed_groups {
                    feed_group.views.retain(|tracker| tracker.id != view);
                }
                self.feed_groups.retain(|feed_group| !feed_group.views.is_empty());
            }
        }
    }

    /// Lets live feed groups that have met go on as one.
    fn merge(&mut self) {
        for first in 0..self.feed_groups.len() {
            let meets = |a: &GroupCursor, b: &GroupCursor| {
                let keep_up = |group: &GroupCursor| !group.views.iter().any(|v| group.lags(v));
                a.live
                    && b.live
                    && !a.is_pausing()
                    && !b.is_pausing()
                    && a.exact == b.exact
                    && a.last == b.last
                    && keep_up(a)
                    && keep_up(b)
            };
            while let Some(other) = (first + 1..self.feed_groups.len())
                .find(|other| meets(&self.feed_groups[first], &self.feed_groups[*other]))
            {
                let other = self.feed_groups.remove(other);
                let first = &mut self.feed_groups[first];
                self.runtime.merge(other.id, first.id);
                first.snapshots.join(&other.snapshots);
                first.views.extend(other.views);
                first.boundaries.extend(other.boundaries);
            }
        }
    }

    /// Waits until something may have changed: the log, a view's progress, an order.
    fn wait(&mut self, head: &mut watch::Receiver<Head>) {
        let polls = |group: &GroupCursor| {
            !group.has_room() || group.waits_since.is_some() || group.is_pausing()
        };
        let full = self.pressure.is_high() || self.feed_groups.iter().any(polls);
        let live = self.feed_groups.iter().filter(|group| group.live);
        let rests = live.filter_map(|group| group.rest.end()).min();
        let rested = async {
            match rests {
                Some(until) => tokio::time::sleep_until(until.into()).await,
                None => std::future::pending().await,
            }
        };
        let (stop, wake) = (&self.stop, &self.wake);
        self.tokio.block_on(async {
            tokio::select! {
                // The log outlives us, so this is news and not its end.
                _ = head.changed() => {}
                () = wake.notified() => {}
                () = stop.cancelled() => {}
                () = tokio::time::sleep(ROOM_POLL), if full => {}
                () = rested => {}
            }
        });
    }
}

/// Ends views for which the log cannot be read any further. Their state is of no use to anybody.
fn fail(runtime: &Runtime, views: Vec<Arc<ViewTracker>>, error: &LogError) {
    for view in views {
        tracing::error!(view = view.name(), %error, "the view has failed: it needs events that cannot be read");
        view.fail(format!("it needs events that cannot be read: {error}"));
        runtime.remove(view.id);
    }
}

impl GroupCursor {
    /// Feeds the next chunk if there is one and the views are ready for it. `beside`: others are
    /// live, and do not wait long.
    fn step(
        &mut self,
        log: &LogFollower,
        runtime: &Runtime,
        beside: bool,
    ) -> Result<bool, LogError> {
        if self.is_pausing() {
            return Ok(false);
        }
        // At most two chunks are on their way: the workers are never idle, and what waits in
        // memory stays bounded.
        if self.views.iter().any(|view| self.lags(view)) {
            self.waits_since.get_or_insert_with(Instant::now);
            return Ok(false);
        }
        self.waits_since = None;
        if !self.has_room() || self.rests() {
            return Ok(false);
        }
        let is_beside = self.lagging || beside && !self.live;
        let bytes = if is_beside { CHUNK_BYTES_BESIDE } else { CHUNK_BYTES };
        let chunk = self.chunk(bytes)?;
        let fed = chunk.is_some();
        if let Some(chunk) = chunk {
            self.before = self.last;
            self.last = chunk.end;
            self.rest = FeedRest::behind(chunk.bytes);
            self.feed(log, runtime, chunk);
            self.progress.show(self.last);
        }
        // Frames without events may follow the last event.
        let is_through = self.last.tick >= self.target.tick || !fed;
        if !self.live && self.last.position >= self.target.position && is_through {
            self.live = true;
            self.tell(&ViewMessage::Live { tick: self.last.tick });
            self.progress.done();
        }
        Ok(fed)
    }

    /// Whether nothing is fed, so that more comes together.
    fn rests(&mut self) -> bool {
        let mut rest = self.rest;
        let goes_on = rest.goes_on(|| self.views.iter().all(|view| self.is_through(view)));
        self.rest = rest;
        self.live && goes_on
    }

    /// Whether nothing is fed, for a snapshot.
    fn is_pausing(&self) -> bool {
        self.snapshots.pausing_since().is_some()
    }

    /// Whether a view is through with all that it was fed.
    fn is_through(&self, view: &ViewTracker) -> bool {
        view.is_over() || view.complete().tick >= self.last.tick
    }

    /// Whether a snapshot has all events of a view that it was fed, or can never have them.
    fn is_saved(&self, view: &ViewTracker) -> bool {
        let saved = view.last_snapshot().map(|snapshot| snapshot.position);
        view.is_over() || !snapshots::can_hold(&view.plan) || saved >= Some(self.last.position)
    }

    /// Whether a snapshot can hold some of its views.
    fn can_be_in_snapshot(&self) -> bool {
        !self.exact && self.views.iter().any(|view| snapshots::can_hold(&view.plan))
    }

    /// Takes a snapshot of the views that are through.
    fn snapshot(&mut self, runtime: &Runtime, queue: &SnapshotQueue) {
        let is_there = |view: &&Arc<ViewTracker>| !view.is_over() && self.is_through(view);
        let views: Vec<_> = self.views.iter().filter(is_there).cloned().collect();
        self.snapshots.go_on(self.last.position);
        if !views.is_empty() {
            queue.push(GroupSnapshot::take(runtime, self.last, &views));
        }
    }

    /// Whether a view is not through with the chunk before the last one.
    fn lags(&self, view: &ViewTracker) -> bool {
        view.complete().position < self.before.position
    }

    /// Whether some views have waited for others for a while, and there is something to be fed. Views
    /// that catch up together wait for each other.
    fn is_held_back(&self, log: &LogFollower) -> bool {
        let is_late =
            self.live && self.waits_since.is_some_and(|since| since.elapsed() >= LAG_TIME);
        let waits = |view: &Arc<ViewTracker>| view.complete().position >= self.last.position;
        is_late && log.head().position > self.last.position && self.views.iter().any(waits)
    }

    /// False while what ClickHouse has yet to be told takes too much memory. Events are accepted
    /// all the while.
    fn has_room(&self) -> bool {
        self.views.iter().all(|view| view.sink.as_ref().is_none_or(|sink| sink.has_room()))
    }

    /// The next frames, up to a boundary; `None` at the tail.
    fn chunk(&mut self, bytes_max: usize) -> Result<Option<LogChunk>, LogError> {
        let mut frames = Vec::new();
        let mut bytes = 0;
        let mut end = Head::default();
        while bytes < bytes_max {
            let Some(frame) = self.reader.next_frame()? else { break };
            // A reader that begins behind an event hands out all frames without events behind it.
            if frame.tick() <= self.last.tick {
                continue;
            }
            bytes += frame.raw_bytes();
            end = Head { position: frame.last_position(), tick: frame.tick() };
            frames.push(frame);
            if self.boundaries.remove(&end.tick) {
                break;
            }
        }
        Ok((!frames.is_empty()).then_some(LogChunk { frames, bytes, end }))
    }

    fn feed(&mut self, log: &LogFollower, runtime: &Runtime, chunk: LogChunk) {
        let Head { position, tick } = chunk.end;
        let more = log.head().position > position;
        if !self.exact || chunk.frames.is_empty() {
            self.tell(&ViewMessage::Mark { tick, position });
            runtime.feed(self.id, chunk.frames, tick, more);
            return;
        }
        for frame in chunk.frames {
            let (tick, position) = (frame.tick(), frame.last_position());
            self.tell(&ViewMessage::Mark { tick, position });
            runtime.feed(self.id, vec![frame], tick, more);
        }
    }

    fn tell(&self, message: &ViewMessage) {
        for view in &self.views {
            view.take(message.clone());
        }
    }
}

/// Shows how far a replay is, where somebody is looking.
struct ReplayProgress {
    from: Head,
    target: Head,
    started: Instant,
    shown: Option<Instant>,
}

impl ReplayProgress {
    fn new(from: Head, target: Head) -> Self {
        ReplayProgress { from, target, started: Instant::now(), shown: None }
    }

    fn show(&mut self, at: Head) {
        let since = self.shown.unwrap_or(self.started).elapsed();
        if at.position >= self.target.position || since < PROGRESS_INTERVAL {
            return;
        }
        self.shown = Some(Instant::now());
        let (position, target) = (at.position, self.target.position);
        let rate = (position - self.from.position) as f64 / self.started.elapsed().as_secs_f64();
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
            let seconds = self.started.elapsed().as_secs_f64();
            let events = self.target.position - self.from.position;
            tracing::info!(events, seconds, "replayed the log");
        }
    }
}
