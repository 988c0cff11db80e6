//! The choice of traces: how arranged rows and accumulators are laid out and exchanged.
//!
//! Keys compare by hash first and then by bytes, which is quick and needs no decoding. Batches are
//! packed runs, but for those inside a recursion, whose times are no ticks. Nothing outside this module
//! and the recursion names a spine.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::{Rc, Weak};

use differential_dataflow::difference::Semigroup;
use differential_dataflow::lattice::Lattice;
use differential_dataflow::operators::arrange::agent::trace_box::TraceBox;
use differential_dataflow::operators::arrange::{Arranged, TraceAgent};
use differential_dataflow::trace::implementations::Vector;
use differential_dataflow::trace::implementations::ord_neu::{OrdKeyBatch, OrdValBatch};
use differential_dataflow::trace::implementations::spine_fueled::{Spine, SpineBatch};
use differential_dataflow::trace::{Builder, Description, ExertionLogic, Span, Trace, TraceReader};
use serde::{Deserialize, Serialize};
use timely::dataflow::Stream;
use timely::dataflow::channels::pact::{Exchange, ParallelizationContract, Pipeline};
use timely::dataflow::operators::generic::Operator;
use timely::dataflow::operators::vec::Broadcast;
use timely::dataflow::operators::{Capability, CapabilitySet};
use timely::order::PartialOrder;
use timely::progress::frontier::AntichainRef;
use timely::progress::{Antichain, Timestamp};
use xxhash_rust::xxh3::xxh3_64;

use super::batcher::{HeapAverages, HeapBytes, PendingUpdates, Sealing};
use super::guard::{Guard, HeldBytes, HeldTrace};
use super::kept::TakenUp;
use super::reclaim::Reclaimed;
use super::run::{KeyRef, PackedDifference, PackedRun, Run, RunBuilder, consolidated};
use crate::aggregate::Accumulator;
use crate::model::Tick;
use crate::model::multiplicity::Multiplicity;
use crate::model::row::Row;

/// A row to group or match by.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Key {
    hash: u64,
    /// The encoded key columns.
    pub row: Row,
}

impl Key {
    /// The key of these bytes.
    #[inline]
    pub fn new(bytes: &[u8]) -> Self {
        Key { hash: xxh3_64(bytes), row: Row::from_slice(bytes) }
    }

    /// The hash of the bytes, the same on every worker and in every run.
    #[inline]
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// The key of these bytes, whose hash is known.
    #[inline]
    pub fn with_hash(hash: u64, bytes: &[u8]) -> Self {
        Key { hash, row: Row::from_slice(bytes) }
    }
}

/// A change of a row under its key.
pub type KeyedUpdate = ((Key, Row), Tick, Multiplicity);
/// A change of a group.
pub type GroupUpdate = ((Key, ()), Tick, Accumulator);

/// Rows by key.
pub type RowTrace = TraceAgent<Spine<Rc<Run<Multiplicity>>>>;
/// Groups by key.
pub type GroupTrace = TraceAgent<Spine<Rc<Run<Accumulator>>>>;

/// The runs that a trace has now.
pub fn runs_of<D: PackedDifference>(trace: &TraceAgent<Spine<Rc<Run<D>>>>) -> Vec<Rc<Run<D>>>
where
    Rc<Run<D>>: SpineBatch,
{
    let mut runs = Vec::new();
    trace.map_spans(|span| runs.extend(span.inner.clone()));
    runs
}

/// Everything below this tick is arranged.
pub fn upper_of<T: TraceReader<Time = Tick>>(trace: &mut T) -> Tick {
    let mut upper = Antichain::new();
    trace.read_upper(&mut upper);
    upper.elements().first().copied().unwrap_or(Tick::MAX)
}

/// Lets a trace's history before `tick` be forgotten: only what is read of it at `tick` and later is exact.
pub fn forget_before<T: TraceReader<Time = Tick>>(trace: &mut T, tick: Tick) {
    trace.set_logical_compaction(AntichainRef::new(&[tick]));
    let upper = [upper_of(trace)];
    trace.set_physical_compaction(AntichainRef::new(&upper));
}

/// The worker to which a hash belongs: each of them owns a range of the hashes.
#[inline]
pub fn owner(hash: u64, workers: usize) -> u64 {
    ((u128::from(hash) * workers as u128) >> 64) as u64
}

/// On which worker a row is arranged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Placement {
    /// On that of its key.
    ByKey,
    /// On any one: rows that share one key are spread over all workers.
    Spread,
    /// On each of them.
    Everywhere,
}

/// The limit that the bytes of an arrangement count towards.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum HeldAs {
    /// The state from which a view is computed.
    State,
    /// The view's rows.
    Output,
}

/// The spans of an arrangement that takes up what was kept up to a tick.
fn taken_up<D: PackedDifference>(
    guard: &Guard,
    workers: usize,
    is_own: impl Fn(KeyRef<'_>, &[u8]) -> bool,
    placement: Placement,
) -> Vec<Span<Tick, Rc<Run<D>>>> {
    let (Some(tick), Some(taken)) = (guard.from(), guard.take_up(workers)) else {
        return Vec::new();
    };
    let mut runs: Vec<Run<D>> = match taken {
        TakenUp::Own(runs) => runs.into_iter().map(Run::from).collect(),
        // All of them had the same.
        TakenUp::Others(others) if placement == Placement::Everywhere => {
            others.into_iter().take(1).flatten().map(Run::from).collect()
        }
        TakenUp::Others(others) => {
            let runs = others.into_iter().flatten().map(Run::<D>::from);
            runs.filter_map(|run| run.part(&is_own)).collect()
        }
    };
    // Each needs a part of the time for itself; which one, nobody can tell any more.
    if runs.len() as u64 > tick {
        runs = consolidated(runs, tick).into_iter().collect();
    }
    let since = || Antichain::from_elem(Tick::MIN);
    let ends = (1..runs.len() as Tick).chain([tick + 1]);
    let mut lower = Tick::MIN;
    let mut spans: Vec<_> = runs
        .into_iter()
        .zip(ends)
        .map(|(run, end)| {
            let bounds = (Antichain::from_elem(lower), Antichain::from_elem(end));
            lower = end;
            Span::new(Description::new(bounds.0, bounds.1, since()), Some(Rc::new(run)))
        })
        .collect();
    if spans.is_empty() {
        spans.push(Span::empty(since(), Antichain::from_elem(tick + 1)));
    }
    spans
}

/// Sends rows to the worker of their key and arranges them there.
pub fn arrange_rows<'scope>(
    stream: Stream<'scope, Tick, Vec<KeyedUpdate>>,
    name: &str,
    guard: &Guard,
    held_as: HeldAs,
) -> Arranged<'scope, RowTrace> {
    let workers = stream.scope().peers();
    let exchange = Exchange::new(move |update: &KeyedUpdate| owner(update.0.0.hash, workers));
    let own = owned_by_key(&stream);
    let before = taken_up(guard, workers, own, Placement::ByKey);
    arrange_guarded::<_, RunBuilder<_, _>, _, _, _, _, _>(
        stream, exchange, name, guard, held_as, before,
    )
}

/// Sends rows to their workers and arranges them there, as state.
pub fn arrange_placed<'scope>(
    stream: Stream<'scope, Tick, Vec<KeyedUpdate>>,
    name: &str,
    placement: Placement,
    guard: &Guard,
) -> Arranged<'scope, RowTrace> {
    let workers = stream.scope().peers();
    let worker = stream.scope().index() as u64;
    match placement {
        Placement::ByKey => arrange_rows(stream, name, guard, HeldAs::State),
        Placement::Spread => {
            let exchange =
                Exchange::new(move |update: &KeyedUpdate| owner(xxh3_64(&update.0.1), workers));
            let own = |_: KeyRef<'_>, row: &[u8]| owner(xxh3_64(row), workers) == worker;
            let before = taken_up(guard, workers, own, placement);
            arrange_guarded::<_, RunBuilder<_, _>, _, _, _, _, _>(
                stream,
                exchange,
                name,
                guard,
                HeldAs::State,
                before,
            )
        }
        Placement::Everywhere => arrange_guarded::<_, RunBuilder<_, _>, _, _, _, _, _>(
            stream.broadcast(),
            Pipeline,
            name,
            guard,
            HeldAs::State,
            taken_up(guard, workers, |_, _| true, placement),
        ),
    }
}

/// Sends groups to the worker of their key and arranges them there.
pub fn arrange_groups<'scope>(
    stream: Stream<'scope, Tick, Vec<GroupUpdate>>,
    name: &str,
    guard: &Guard,
) -> Arranged<'scope, GroupTrace> {
    let workers = stream.scope().peers();
    let exchange = Exchange::new(move |update: &GroupUpdate| owner(update.0.0.hash, workers));
    let before = taken_up(guard, workers, owned_by_key(&stream), Placement::ByKey);
    arrange_guarded::<_, RunBuilder<_, _>, _, _, _, _, _>(
        stream,
        exchange,
        name,
        guard,
        HeldAs::State,
        before,
    )
}

/// Whether a key belongs to the worker that builds this stream.
fn owned_by_key<C>(stream: &Stream<'_, Tick, C>) -> impl Fn(KeyRef<'_>, &[u8]) -> bool + use<C> {
    let (workers, worker) = (stream.scope().peers(), stream.scope().index() as u64);
    move |key, _| owner(key.hash, workers) == worker
}

/// Arranges updates, and counts what that takes.
///
/// As differential dataflow's own operator it makes one batch of the updates that each step of its
/// input's frontier completes; but it does so for a slice at a time, and stops with its view. It begins
/// with the batches of `before`, which nobody is told.
pub fn arrange_guarded<'scope, P, Bu, K, V, T, R, B>(
    stream: Stream<'scope, T, Vec<((K, V), T, R)>>,
    pact: P,
    name: &str,
    guard: &Guard,
    held_as: HeldAs,
    before: Vec<Span<T, Rc<B>>>,
) -> Arranged<'scope, TraceAgent<Spine<Rc<B>>>>
where
    P: ParallelizationContract<T, Vec<((K, V), T, R)>>,
    Bu: Builder<Input = Vec<((K, V), T, R)>, Time = T, Output = B> + 'static,
    K: Ord + Clone + HeapBytes + Send + 'static,
    V: Ord + Clone + HeapBytes + Send + 'static,
    T: Timestamp + Lattice + Ord + Send,
    R: Semigroup + HeapBytes + Send + 'static,
    B: SpineBatch<Time = T> + Counted + Send + 'static,
{
    let averages: Rc<HeapAverages> = Rc::default();
    let account = guard.account(held_as == HeldAs::Output);
    let mut waiting = PendingUpdates::new(account, Rc::clone(&averages));
    let scope = stream.scope();
    let mut reader = None;
    let told = &mut reader;
    let guarded = guard.clone();
    let stream = stream.unary_frontier(pact, name, move |_, info| {
        let activator = scope.activator_for(Rc::clone(&info.address));
        let merges = scope.activator_for(Rc::clone(&info.address));
        let mut trace: Spine<Rc<B>> = Trace::new(info.clone(), None, Some(merges));
        let worker = scope.worker();
        if let Some(logic) =
            worker.config().get::<ExertionLogic>("differential/default_exert_logic")
        {
            trace.set_exert_logic(ExertionLogic::clone(logic));
        }
        let (agent, mut writer) = TraceAgent::new(trace, info, None);
        *told = Some(agent);
        // The rights to tell of what waits, and of what has come since a batch was begun.
        let (mut held, mut since) = (Antichain::new(), Antichain::new());
        let mut sealing: Option<Sealing<_, _, _, Bu>> = None;
        // Up to here the trace is written.
        let mut written = Antichain::from_elem(T::minimum());
        for span in before {
            written.clone_from(span.upper());
            writer.insert(span, std::iter::empty().collect());
        }
        move |(input, frontier), output| {
            let stops = guarded.enter();
            input.for_each(|time, updates| {
                if stops {
                    return updates.clear();
                }
                let now = if sealing.is_some() { &mut since } else { &mut held };
                for capability in time.retain_stamp(0).iter() {
                    now.insert(capability.clone());
                }
                waiting.insert(updates);
            });
            let frontier = frontier.frontier();
            if stops {
                waiting.stop(sealing.take());
                (held, since) = (Antichain::new(), Antichain::new());
                writer.seal(frontier.to_owned());
                return;
            }
            let slice = guarded.slice();
            loop {
                if let Some(mut batch) = sealing.take() {
                    if !batch.run(&slice) {
                        sealing = Some(batch);
                        activator.activate();
                        break;
                    }
                    let upper = batch.upper.clone();
                    let is_told = |c: &&Capability<T>| !upper.less_equal(c.time());
                    let told: CapabilitySet<T> =
                        held.elements().iter().filter(is_told).cloned().collect();
                    let (batch, left) = waiting.sealed(batch);
                    let since_all = Antichain::from_elem(T::minimum());
                    let bounds = Description::new(written.clone(), upper.clone(), since_all);
                    let span = Span::new(bounds, batch.map(Rc::new));
                    let stamp = told.iter().map(|c| c.time().clone()).collect();
                    writer.insert(span.clone(), stamp);
                    output.session(&told).give(span);
                    // Updates that are left will be sent at their own times: keep a capability for each.
                    let before = std::mem::replace(&mut held, std::mem::take(&mut since));
                    for time in left.iter() {
                        let right = before.elements().iter().find(|c| c.time().less_equal(time));
                        held.extend(right.map(|right| right.delayed(time)));
                    }
                    written = upper;
                }
                // An arrangement that takes up kept state is written further than its inputs have begun.
                if PartialOrder::less_equal(&frontier, &written.borrow()) {
                    break;
                }
                if held.elements().iter().any(|c: &Capability<T>| !frontier.less_equal(c.time())) {
                    sealing = Some(waiting.seal(frontier.to_owned()));
                } else {
                    written = frontier.to_owned();
                    writer.seal(written.clone());
                }
            }
            writer.exert();
        }
    });
    let Some(trace) = reader else { unreachable!("an operator is made when it is built") };
    watch(&trace, averages, guard, held_as);
    Arranged { stream, trace }
}

/// Counts a trace's bytes, of which the heap's are reckoned by `averages`.
pub fn watch<B>(
    trace: &TraceAgent<Spine<Rc<B>>>,
    averages: Rc<HeapAverages>,
    guard: &Guard,
    held_as: HeldAs,
) where
    B: Counted + Send + 'static,
    Rc<B>: SpineBatch,
    <Rc<B> as SpineBatch>::Time: Timestamp + Lattice,
{
    // Held weakly: a reader that needs its trace no longer lets go of it.
    let trace = Rc::downgrade(&trace.trace_box_unstable());
    guard.watch(WatchedTrace { trace, averages }, held_as == HeldAs::Output);
}

/// A batch that knows how much it holds.
pub trait Counted {
    /// Its bytes; `averages` tells those that its updates have on the heap.
    fn bytes(&self, averages: &HeapAverages) -> usize;

    /// Number of these bytes that are in a file.
    fn file_bytes(&self) -> usize {
        0
    }

    /// Whether batches of the type are runs.
    const ARE_RUNS: bool = false;

    /// The batch as a run; `None` if it is none.
    fn packed(&self) -> Option<PackedRun> {
        None
    }
}

impl<D> Counted for Run<D> {
    const ARE_RUNS: bool = true;

    fn bytes(&self, _: &HeapAverages) -> usize {
        Run::bytes(self)
    }

    fn file_bytes(&self) -> usize {
        Run::file_bytes(self)
    }

    fn packed(&self) -> Option<PackedRun> {
        Some(Run::packed(self))
    }
}

impl<K, V, T, R> Counted for OrdValBatch<Vector<((K, V), T, R)>>
where
    K: Ord + Clone + 'static,
    V: Ord + Clone + 'static,
    T: Timestamp + Lattice,
    R: Ord + Semigroup + 'static,
{
    fn bytes(&self, averages: &HeapAverages) -> usize {
        let storage = &self.storage;
        let (keys, values) = (storage.keys.len(), storage.vals.vals.len());
        let updates = storage.upds.times.len();
        keys * (size_of::<K>() + OFFSET_BYTES)
            + values * (size_of::<V>() + OFFSET_BYTES)
            + updates * (size_of::<T>() + size_of::<R>())
            + averages.of(keys, values, updates)
    }
}

impl<K, T, R> Counted for OrdKeyBatch<Vector<((K, ()), T, R)>>
where
    K: Ord + Clone + 'static,
    T: Timestamp + Lattice,
    R: Ord + Semigroup + 'static,
{
    fn bytes(&self, averages: &HeapAverages) -> usize {
        let (keys, updates) = (self.storage.keys.len(), self.storage.upds.times.len());
        keys * (size_of::<K>() + OFFSET_BYTES)
            + updates * (size_of::<T>() + size_of::<R>())
            + averages.of(keys, 0, updates)
    }
}

/// Bytes of an offset in a batch.
const OFFSET_BYTES: usize = 4;

struct WatchedTrace<B: 'static>
where
    Rc<B>: SpineBatch,
    <Rc<B> as SpineBatch>::Time: Timestamp + Lattice,
{
    trace: Weak<RefCell<TraceBox<Spine<Rc<B>>>>>,
    averages: Rc<HeapAverages>,
}

impl<B> HeldTrace for WatchedTrace<B>
where
    B: Counted + Send + 'static,
    Rc<B>: SpineBatch,
    <Rc<B> as SpineBatch>::Time: Timestamp + Lattice,
{
    fn bytes(&self) -> HeldBytes {
        let mut sum = HeldBytes::default();
        if let Some(trace) = self.trace.upgrade() {
            trace.borrow().trace().map_spans(|span| {
                if let Some(batch) = &span.inner {
                    sum.all += batch.bytes(&self.averages);
                    sum.in_files += batch.file_bytes();
                }
            });
        }
        sum
    }

    fn runs(&self) -> Option<Vec<PackedRun>> {
        let mut runs = Vec::new();
        if let Some(trace) = self.trace.upgrade() {
            let mut add = |batch: &Rc<B>| runs.extend(batch.packed());
            trace.borrow().trace().map_spans(|span| span.inner.iter().for_each(&mut add));
        }
        B::ARE_RUNS.then_some(runs)
    }

    fn reclaim(&self, to: &mut VecDeque<Box<dyn Reclaimed>>) {
        if let Some(trace) = self.trace.upgrade() {
            trace.borrow().trace().map_spans(|span| {
                if let Some(batch) = &span.inner {
                    to.push_back(Box::new(Some(Rc::clone(batch))));
                }
            });
        }
    }
}
