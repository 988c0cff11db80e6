//! Recent changes of a view, kept for change-feed subscribers.
//!
//! The changes of the last ticks are kept once for all subscribers, up to a number of bytes. A subscriber
//! only knows how far it is: a slow one holds nothing, and ends when what it needs next is gone.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arrow::array::RecordBatch;
use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::{mpsc, watch};

use super::tracker::ViewTracker;
use crate::dataflow::{EncodedRow, Runtime, ViewRead, read_order};
use crate::model::row::Row;
use crate::model::view::{CompleteTicks, Update, ViewCodec};
use crate::model::{Head, Tick};
use crate::status::{ChangeFeed, ChangePart, FeedEnd, TickEnd};

/// Approximate number of rows in a part of a feed.
const PART_ROWS: usize = 1_000;

/// The changes of one view's last ticks.
pub struct RecentChanges {
    /// False until somebody subscribes: no changes are kept before.
    kept: AtomicBool,
    state: Mutex<KeptChanges>,
    news: watch::Sender<Tick>,
}

#[derive(Default)]
struct KeptChanges {
    /// All changes after this tick are in `ticks`, as far as they are complete.
    from: Option<Tick>,
    ticks: VecDeque<Arc<TickChanges>>,
    bytes: usize,
    bytes_max: usize,
    /// Why there will be no more.
    ended: Option<String>,
}

/// The net changes of one tick.
struct TickChanges {
    head: Head,
    /// Removed rows first, then added ones, each in the order of keys. If a key's row was replaced, only the
    /// new one is here.
    changes: Vec<Update>,
    bytes: usize,
}

impl Default for RecentChanges {
    fn default() -> Self {
        RecentChanges {
            kept: AtomicBool::new(false),
            state: Mutex::default(),
            news: watch::Sender::new(0),
        }
    }
}

impl RecentChanges {
    fn lock(&self) -> MutexGuard<'_, KeptChanges> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps complete ticks, if somebody follows.
    pub fn complete(&self, complete: &CompleteTicks, keyed: bool) {
        if !self.kept.load(Ordering::Acquire) {
            return;
        }
        let head = complete.head;
        let updates = complete.ticks.iter().flat_map(|(_, updates)| updates.iter().cloned());
        let changes = net(updates.collect(), keyed);
        let mut state = self.lock();
        if !changes.is_empty() {
            let size = |u: &Update| size_of::<Update>() + u.key.heap_bytes() + u.value.heap_bytes();
            let bytes = changes.iter().map(size).sum();
            state.bytes += bytes;
            state.ticks.push_back(Arc::new(TickChanges { head, changes, bytes }));
            while state.bytes > state.bytes_max && state.ticks.len() > 1 {
                if let Some(gone) = state.ticks.pop_front() {
                    state.bytes -= gone.bytes;
                    state.from = state.from.max(Some(gone.head.tick));
                }
            }
        }
        drop(state);
        self.news.send_replace(head.tick);
    }

    /// Tells subscribers that there will be no more.
    pub fn end(&self, reason: &str) {
        self.lock().ended.get_or_insert_with(|| reason.to_string());
        self.news.send_modify(|_| {});
    }

    /// Begins to keep changes, if that has not begun. `fed` must say how far the view was fed at a
    /// moment after the call.
    fn keep(&self, bytes_max: usize, fed: impl FnOnce() -> Tick) {
        self.lock().bytes_max = bytes_max;
        self.kept.store(true, Ordering::Release);
        let fed = fed();
        self.lock().from.get_or_insert(fed);
    }

    /// The changes after `at`, the next tick's alone; an error when they are not kept any more.
    fn next(&self, at: Tick) -> Result<Option<Arc<TickChanges>>, FeedEnd> {
        let state = self.lock();
        if let Some(reason) = &state.ended {
            return Err(FeedEnd::Ended { reason: reason.clone() });
        }
        if state.from.is_none_or(|from| at < from) {
            return Err(FeedEnd::TooSlow);
        }
        let index = state.ticks.partition_point(|tick| tick.head.tick <= at);
        Ok(state.ticks.get(index).cloned())
    }
}

/// Changes as subscribers are told them; see [`TickChanges::changes`].
fn net(mut updates: Vec<Update>, keyed: bool) -> Vec<Update> {
    updates.sort_unstable_by(|a, b| (&a.key, &a.value).cmp(&(&b.key, &b.value)));
    let mut netted: Vec<Update> = Vec::new();
    for update in updates {
        match netted.last_mut() {
            Some(last) if last.key == update.key && last.value == update.value => {
                last.diff += update.diff;
            }
            _ => netted.push(update),
        }
    }
    netted.retain(|update| update.diff != 0);
    let comes = |key: &Row, all: &[Update]| {
        let from = all.partition_point(|update| update.key < *key);
        all[from..].iter().take_while(|update| update.key == *key).any(|update| update.diff > 0)
    };
    let went = netted.iter().filter(|u| u.diff < 0 && !(keyed && comes(&u.key, &netted)));
    let came = netted.iter().filter(|u| u.diff > 0);
    went.chain(came).cloned().collect()
}

/// One subscriber of a view.
pub struct Subscriber {
    runtime: Arc<Runtime>,
    view: Arc<ViewTracker>,
    codec: ViewCodec,
    stage: SubscriberStage,
    /// Everything up to here has been told.
    at: Tick,
    news: watch::Receiver<Tick>,
}

enum SubscriberStage {
    /// The view's rows, page by page. Each page is read as of a later tick; what has changed since in
    /// the pages before is told in between, so that all of it is as of the last page's tick.
    Snapshot { after: Option<Row> },
    /// Tick by tick.
    Changes,
    /// The changes of a tick from an index on.
    Within(Arc<TickChanges>, usize),
}

/// Why a feed cannot go on where it has ended.
pub struct Gone(pub String);

impl Subscriber {
    /// Follows a view, after the tick that `last_id` names, or from a snapshot on.
    pub fn new(
        runtime: Arc<Runtime>,
        view: Arc<ViewTracker>,
        last_id: Option<&str>,
        bytes_max: usize,
    ) -> Result<Self, Gone> {
        let codec = ViewCodec::new(&view.plan.schema).unwrap_or_else(|error| {
            unreachable!("the planner lets only sound types pass: {error}")
        });
        let news = view.changes.news.subscribe();
        view.changes.keep(bytes_max, || runtime.fed(view.id).tick);
        let (stage, at) = match last_id {
            None => (SubscriberStage::Snapshot { after: None }, 0),
            Some(id) => (SubscriberStage::Changes, view.resume(id)?),
        };
        Ok(Subscriber { runtime, view, codec, stage, at, news })
    }

    async fn part(&mut self) -> Result<ChangePart, FeedEnd> {
        match &self.stage {
            SubscriberStage::Snapshot { after } => {
                let after = after.clone();
                self.page(after).await
            }
            SubscriberStage::Within(tick, index) => {
                let (tick, index) = (Arc::clone(tick), *index);
                self.within(&tick, index)
            }
            SubscriberStage::Changes => loop {
                // Seen before looking: what comes while looking is looked at in the next round.
                self.news.mark_unchanged();
                if let Some(tick) = self.view.changes.next(self.at)? {
                    return self.within(&tick, 0);
                }
                if self.news.changed().await.is_err() {
                    return Err(FeedEnd::Ended { reason: "the view has ended".to_string() });
                }
            },
        }
    }

    fn within(&mut self, tick: &Arc<TickChanges>, index: usize) -> Result<ChangePart, FeedEnd> {
        let TickChanges { head, changes, .. } = tick.as_ref();
        let end = changes.len().min(index + PART_ROWS);
        let mut part = self.told(head.tick, &changes[index..end], &[])?;
        if end == changes.len() {
            part.end = Some(self.end(*head));
            (self.stage, self.at) = (SubscriberStage::Changes, head.tick);
        } else {
            self.stage = SubscriberStage::Within(Arc::clone(tick), end);
        }
        Ok(part)
    }

    /// The next page of the snapshot.
    async fn page(&mut self, after: Option<Row>) -> Result<ChangePart, FeedEnd> {
        let gone = || FeedEnd::Ended { reason: "the view has ended".to_string() };
        let (head, mut rows, more) = self.read(after.as_ref()).await.ok_or_else(gone)?;
        let mut complete = self.view.watch_complete();
        complete.wait_for(|complete| complete.tick >= head.tick).await.map_err(|_| gone())?;
        let mut changes = Vec::new();
        if let Some(after) = &after {
            let place = read_order(after);
            let mut at = self.at;
            while let Some(tick) = self.view.changes.next(at)?.filter(|t| t.head.tick <= head.tick)
            {
                at = tick.head.tick;
                let told = tick.changes.iter().filter(|update| read_order(&update.key) <= place);
                changes.extend(told.cloned());
            }
        } else {
            // Says whether the view has ended.
            self.view.changes.next(head.tick).or_else(|end| match end {
                FeedEnd::TooSlow => Ok(None),
                end => Err(end),
            })?;
        }
        let last = rows.last().map(|(key, _, _)| key.clone());
        let rows: Vec<Update> =
            rows.drain(..).map(|(key, value, diff)| Update { key, value, diff }).collect();
        let mut part = self.told(head.tick, &changes, &rows)?;
        self.at = head.tick;
        match last.filter(|_| more) {
            Some(last) => self.stage = SubscriberStage::Snapshot { after: Some(last) },
            None => {
                part.end = Some(self.end(head));
                self.stage = SubscriberStage::Changes;
            }
        }
        Ok(part)
    }

    /// About a page of rows behind a key, in reading order, all of each key; as of when; and whether
    /// there may be more. `None` when the view is gone.
    async fn read(&self, after: Option<&Row>) -> Option<(Head, Vec<EncodedRow>, bool)> {
        let (sender, mut receiver) = mpsc::unbounded_channel();
        let after = after.map(|key| key.to_vec());
        let read = ViewRead { view: self.view.id, after, limit: PART_ROWS, ..ViewRead::default() };
        let head = self.runtime.read(&read, move |rows| {
            let _ = sender.send(rows);
        });
        let mut rows: Vec<EncodedRow> = Vec::new();
        for _ in 0..self.runtime.workers() {
            rows.extend(receiver.recv().await??);
        }
        rows.sort_by_cached_key(|(key, _, _)| read_order(key));
        let more = rows.len() >= PART_ROWS;
        let mut end = rows.len().min(PART_ROWS);
        while end > 0 && end < rows.len() && rows[end].0 == rows[end - 1].0 {
            end += 1;
        }
        rows.truncate(end);
        Some((head, rows, more))
    }

    /// Changes as rows: those of `changes`, then those of `more`.
    fn told(&self, tick: Tick, changes: &[Update], more: &[Update]) -> Result<ChangePart, FeedEnd> {
        let decode = |comes: bool| {
            let wanted = changes.iter().chain(more).filter(|u| (u.diff > 0) == comes);
            let copies = |u: &Update| u.diff.unsigned_abs() as usize;
            let rows: Vec<(&[u8], &[u8])> = wanted
                .flat_map(|u| std::iter::repeat_n((&u.key[..], &u.value[..]), copies(u)))
                .collect();
            let decoded: Result<RecordBatch, _> = self.codec.decode(rows.iter().copied());
            decoded.map_err(|error| FeedEnd::Ended { reason: error.to_string() })
        };
        Ok(ChangePart { tick, deleted: decode(false)?, upserted: decode(true)?, end: None })
    }

    fn end(&self, head: Head) -> TickEnd {
        let id = format!("{}-{}", self.view.plan.schema.generation, head.tick);
        TickEnd { id, tick: head.tick, position: head.position }
    }
}

impl ChangeFeed for Subscriber {
    fn next(&mut self) -> BoxFuture<'_, Result<ChangePart, FeedEnd>> {
        self.part().boxed()
    }
}

impl ViewTracker {
    /// The tick of an id from which a feed can go on.
    fn resume(&self, id: &str) -> Result<Tick, Gone> {
        let (generation, tick) = id
            .rsplit_once('-')
            .and_then(|(generation, tick)| Some((generation, tick.parse::<Tick>().ok()?)))
            .ok_or_else(|| Gone(format!("{id:?} is no id of a change feed")))?;
        if generation != self.plan.schema.generation {
            return Err(Gone(format!("{} has been built anew since {id}", self.name())));
        }
        let from = self.changes.lock().from;
        // A subscriber may have seen a tick before the view itself says that it is complete.
        let last = self.complete().tick.max(*self.changes.news.borrow());
        if from.is_none_or(|from| tick < from) || tick > last {
            return Err(Gone(format!("what has changed since {id} is not kept any more")));
        }
        Ok(tick)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn update(key: &str, value: &str, diff: i64) -> Update {
        let row = |text: &str| Row::from_slice(text.as_bytes());
        Update { key: row(key), value: row(value), diff }
    }

    #[test]
    fn replaced_row_of_a_view_with_a_key_is_told_as_the_new_row_alone() {
        let updates = || {
            vec![
                update("b", "1", -1),
                update("a", "2", 1),
                update("c", "3", 1),
                update("a", "1", -1),
                update("c", "3", -1),
            ]
        };
        assert_eq!(net(updates(), true), [update("b", "1", -1), update("a", "2", 1)]);
        let all = [update("a", "1", -1), update("b", "1", -1), update("a", "2", 1)];
        assert_eq!(net(updates(), false), all);
    }

    #[test]
    fn changes_beyond_the_budget_are_dropped_and_end_slow_feeds() {
        let recent = RecentChanges::default();
        let complete = |tick| CompleteTicks {
            head: Head { tick, position: tick },
            ticks: vec![(tick, vec![update("a", "1", 1)])],
        };
        recent.complete(&complete(1), true);
        recent.keep(3 * size_of::<Update>(), || 1);
        for tick in 2..8 {
            recent.complete(&complete(tick), true);
        }
        let next = |at| recent.next(at).map(|tick| tick.map(|tick| tick.head.tick));
        assert_eq!(next(3), Err(FeedEnd::TooSlow));
        assert_eq!((next(4), next(6), next(7)), (Ok(Some(5)), Ok(Some(7)), Ok(None)));
        recent.end("it is gone");
        assert_eq!(next(7), Err(FeedEnd::Ended { reason: "it is gone".to_string() }));
    }
}
