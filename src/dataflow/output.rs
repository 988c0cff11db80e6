//! The end of a view's dataflow: its rows arranged by key, for whoever reads them, and its changes,
//! for whoever follows them.

use std::collections::VecDeque;
use std::rc::Rc;

use arrow::error::ArrowError;
use differential_dataflow::operators::arrange::Arranged;
use differential_dataflow::trace::TraceReader;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::generic::Operator;
use timely::progress::Antichain;
use timely::progress::frontier::AntichainRef;
use timely::scheduling::Activator;

use super::arrange::{HeldAs, Key, RowTrace, arrange_rows, runs_of};
use super::failure::FailureStream;
use super::guard::{Guard, Slice};
use super::layout::RowLayout;
use super::render::{Deltas, keyed};
use super::run::{KeyRef, RunsCursor};
use super::worker::ReadRequest;
use crate::model::Tick;
use crate::model::multiplicity::Multiplicity;
use crate::model::row::Row;
use crate::model::view::{Update, ViewMessage, ViewSchema};

/// Takes a view's messages. Called on a worker's thread, so it must not wait.
pub type ViewListener = Rc<dyn Fn(ViewMessage)>;

/// A view's rows on one worker.
pub struct ViewRows {
    trace: RowTrace,
    failures: FailureStream,
}

/// The place of an encoded key among all that are read: reads go in this order.
pub fn read_order(key: &Row) -> impl Ord + use<> {
    Key::new(key)
}

/// A row of a view, as its encoded key and value, with its multiplicity.
pub type EncodedRow = (Row, Row, i64);

/// Ends a view's dataflow.
pub fn finish<'scope>(
    rows: Deltas<'scope>,
    layout: RowLayout,
    worker: usize,
    listener: ViewListener,
    failures: FailureStream,
    guard: &Guard,
) -> ViewRows {
    let rows = keyed(rows, layout, false, guard);
    let arranged = arrange_rows(rows, "View", guard, HeldAs::Output);
    let trace = arranged.trace.clone();
    follow(arranged, worker, listener, failures.clone(), guard.clone());
    ViewRows { trace, failures }
}

/// The layout of a view's rows as key and value.
pub fn layout(
    schema: &ViewSchema,
    rows: &arrow::datatypes::SchemaRef,
) -> Result<RowLayout, ArrowError> {
    RowLayout::new(rows, &schema.key_columns())
}

/// Tells every batch of changes, then what fails, then the frontier that closes both.
fn follow(
    arranged: Arranged<'_, RowTrace>,
    worker: usize,
    listener: ViewListener,
    failures: FailureStream,
    guard: Guard,
) {
    let activations = arranged.stream.scope().activations();
    let mut before = if guard.tells_rows() { runs_of(&arranged.trace) } else { Vec::new() };
    let sink = arranged
        .stream
        .unary_frontier::<timely::container::CapacityContainerBuilder<Vec<()>>, _, _, _>(
            Pipeline,
            "Follow",
            move |_, info| {
                let activator = Activator::new(info.address, activations);
                let mut told = guard.from().unwrap_or(0);
                // Rows that were taken up are told first, as of their tick.
                let mut waiting: VecDeque<FollowedBatch> = VecDeque::new();
                waiting.extend(guard.from().map(|tick| FollowedBatch {
                    rows: RunsCursor::new(std::mem::take(&mut before)),
                    as_of: Some(tick),
                }));
                move |(input, frontier), _output| {
                    let stops = guard.enter();
                    input.for_each(|_, spans| {
                        let batches = spans.drain(..).filter_map(|span| span.inner);
                        waiting.extend(batches.map(|batch| FollowedBatch {
                            rows: RunsCursor::new(vec![batch]),
                            as_of: None,
                        }));
                    });
                    if stops {
                        return waiting.clear();
                    }
                    let slice = guard.slice();
                    while let Some(batch) = waiting.front_mut() {
                        let (changes, done) = changes(batch, &failures, &slice);
                        for (tick, updates) in changes {
                            listener(ViewMessage::Changes { worker, tick, updates });
                        }
                        if !done {
                            return activator.activate();
                        }
                        waiting.pop_front();
                    }
                    let now = frontier.frontier().first().copied().unwrap_or(Tick::MAX);
                    if now > told {
                        if let Some(reason) = failures.take_fatal() {
                            return guard.control().fail(reason);
                        }
                        let failures = failures.take();
                        if !failures.is_empty() {
                            listener(ViewMessage::Failures { worker, failures });
                        }
                        listener(ViewMessage::Frontier { worker, frontier: now });
                        told = now;
                    }
                }
            },
        );
    drop(sink);
}

/// Number of keys after which the time is looked at.
const KEYS_PER_LOOK: usize = 1 << 10;

/// Rows, from where on their changes are to be told.
struct FollowedBatch {
    rows: RunsCursor<Multiplicity>,
    /// The tick as of which they are told; `None`: each change at its own.
    as_of: Option<Tick>,
}

/// A batch's next changes, tick by tick; and whether these are the last ones.
fn changes(
    FollowedBatch { rows: batch, as_of }: &mut FollowedBatch,
    failures: &FailureStream,
    slice: &Slice,
) -> (Vec<(Tick, Vec<Update>)>, bool) {
    let mut changes: Vec<(Tick, Vec<Update>)> = Vec::new();
    let mut keys = 0;
    while let Some(key) = batch.key() {
        keys += 1;
        if keys % KEYS_PER_LOOK == 0 && slice.is_over() {
            break;
        }
        let key = Row::from_slice(key.bytes);
        while let Some(value) = batch.value() {
            let updates = batch.updates();
            let (sum, own) = match as_of {
                Some(tick) => {
                    let sum: Multiplicity = updates.map(|(_, diff)| diff).sum();
                    (Some((*tick, sum)).filter(|_| !sum.is_zero()), None)
                }
                None => (None, Some(updates)),
            };
            for (tick, diff) in sum.into_iter().chain(own.into_iter().flatten()) {
                let (value, diff) = (Row::from_slice(value), failures.known(diff));
                let update = Update { key: key.clone(), value, diff };
                match changes.iter_mut().rev().find(|(t, _)| *t == tick) {
                    Some((_, updates)) => updates.push(update),
                    None => changes.push((tick, vec![update])),
                }
            }
            batch.next_value();
        }
        batch.next_key();
    }
    changes.sort_by_key(|(tick, _)| *tick);
    (changes, batch.key().is_none())
}

impl ViewRows {
    /// Everything below this tick has arrived.
    pub fn upper(&mut self) -> Tick {
        let mut upper = Antichain::new();
        self.trace.read_upper(&mut upper);
        upper.elements().first().copied().unwrap_or(Tick::MAX)
    }

    /// Lets history before `tick` be forgotten: only reads at `tick` and later are exact.
    pub fn compact(&mut self, tick: Tick) {
        let frontier = [tick];
        self.trace.set_logical_compaction(AntichainRef::new(&frontier));
        let upper = [self.upper()];
        self.trace.set_physical_compaction(AntichainRef::new(&upper));
    }

    /// The rows as of the request's tick: those with its key, or up to `limit` of all whose key comes
    /// after `after` in the trace's own order.
    pub fn read(&mut self, request: &ReadRequest) -> Vec<EncodedRow> {
        let ReadRequest { tick, key, after, with_after, limit, .. } = request;
        let (key, after) = (key.as_deref(), after.as_deref());
        let mut rows = Vec::new();
        let mut cursor = RunsCursor::new(runs_of(&self.trace));
        if let Some(bytes) = key.or(after) {
            cursor.seek_key(KeyRef::from(&Key::new(bytes)));
        }
        while let Some(at) = cursor.key() {
            if key.is_some_and(|bytes| at.bytes != bytes) || rows.len() >= *limit {
                break;
            }
            if *with_after || after.is_none_or(|after| at.bytes != after) {
                let at = Row::from_slice(at.bytes);
                while let Some(value) = cursor.value() {
                    let past = cursor.updates().filter(|(t, _)| t <= tick).map(|(_, diff)| diff);
                    let count = self.failures.known(past.sum());
                    if count > 0 {
                        rows.push((at.clone(), Row::from_slice(value), count));
                    }
                    cursor.next_value();
                }
            }
            cursor.next_key();
        }
        rows
    }
}
