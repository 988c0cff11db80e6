//! The end of a view's dataflow: its rows arranged by key, for whoever reads them, and its changes,
//! for whoever follows them.

use std::rc::Rc;

use arrow::error::ArrowError;
use differential_dataflow::operators::arrange::Arranged;
use differential_dataflow::trace::cursor::cursor_list;
use differential_dataflow::trace::{Cursor, Navigable, TraceReader};
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::generic::Operator;
use timely::progress::Antichain;
use timely::progress::frontier::AntichainRef;

use super::arrange::{Content, Key, RowTrace, arrange_rows};
use super::failure::FailureStream;
use super::guard::Guard;
use super::layout::RowLayout;
use super::render::{Deltas, keyed};
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
    let arranged = arrange_rows(rows, "View", guard, Content::Output);
    let trace = arranged.trace.clone();
    follow(arranged, worker, listener, failures.clone(), guard.clone());
    ViewRows { trace, failures }
}

/// How a view's rows are split into key and value.
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
    let sink = arranged
        .stream
        .unary_frontier::<timely::container::CapacityContainerBuilder<Vec<()>>, _, _, _>(
            Pipeline,
            "Follow",
            move |_, _| {
                let mut told = 0;
                move |(input, frontier), _output| {
                    if guard.enter() {
                        input.for_each(|_, spans| spans.clear());
                        return;
                    }
                    input.for_each(|_, spans| {
                        for batch in spans.drain(..).filter_map(|span| span.inner) {
                            for (tick, updates) in changes(&batch, &failures) {
                                listener(ViewMessage::Changes { worker, tick, updates });
                            }
                        }
                    });
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

/// A batch's changes, tick by tick.
fn changes<B: Navigable>(batch: &B, failures: &FailureStream) -> Vec<(Tick, Vec<Update>)>
where
    for<'a> B::Cursor: Cursor<
            Key<'a> = &'a Key,
            Val<'a> = &'a Row,
            TimeGat<'a> = &'a Tick,
            DiffGat<'a> = &'a Multiplicity,
        >,
{
    let mut changes: Vec<(Tick, Vec<Update>)> = Vec::new();
    let mut cursor = batch.cursor();
    while let Some(key) = cursor.get_key(batch) {
        while let Some(value) = cursor.get_val(batch) {
            cursor.map_times(batch, |tick, diff| {
                let diff = failures.known(*diff);
                let update = Update { key: key.row.clone(), value: value.clone(), diff };
                match changes.iter_mut().rev().find(|(t, _)| t == tick) {
                    Some((_, updates)) => updates.push(update),
                    None => changes.push((*tick, vec![update])),
                }
            });
            cursor.step_val(batch);
        }
        cursor.step_key(batch);
    }
    changes.sort_by_key(|(tick, _)| *tick);
    changes
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
        let mut batches = Vec::new();
        self.trace.map_spans(|span| batches.extend(span.inner.clone()));
        let (mut cursor, storage) = cursor_list(batches);
        if let Some(bytes) = key.or(after) {
            cursor.seek_key(&storage, &Key::new(bytes));
        }
        while let Some(at) = cursor.get_key(&storage) {
            if key.is_some_and(|bytes| *at.row != *bytes) || rows.len() >= *limit {
                break;
            }
            if *with_after || after.is_none_or(|after| *at.row != *after) {
                while let Some(value) = cursor.get_val(&storage) {
                    let mut count = Multiplicity::default();
                    cursor.map_times(&storage, |t, diff| {
                        if t <= tick {
                            count = count.plus(*diff);
                        }
                    });
                    let count = self.failures.known(count);
                    if count > 0 {
                        rows.push((at.row.clone(), value.clone(), count));
                    }
                    cursor.step_val(&storage);
                }
            }
            cursor.step_key(&storage);
        }
        rows
    }
}
