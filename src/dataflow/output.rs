//! The end of a view's dataflow: its rows by key, for whoever reads them, and its changes, for whoever follows
//! them. The rows are arranged, unless they follow from groups that are kept anyway.

use std::cell::Cell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;

use arrow::error::ArrowError;
use differential_dataflow::operators::arrange::Arranged;
use timely::container::CapacityContainerBuilder;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::generic::Operator;
use timely::progress::frontier::AntichainRef;
use timely::scheduling::Activator;

use super::arrange::{HeldAs, Key, RowTrace, arrange_rows, forget_before, runs_of, upper_of};
use super::delta::Delta;
use super::failure::FailureStream;
use super::group_rows::{GroupRows, GroupsRead, Wanted};
use super::guard::{Guard, Slice};
use super::layout::RowLayout;
use super::render::{Deltas, Rendered, expect_planned, keyed};
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
    held: HeldRows,
    failures: FailureStream,
}

/// Where a view's rows are.
enum HeldRows {
    /// They are arranged.
    Arranged(RowTrace),
    /// They are made of groups.
    Groups {
        groups: GroupRows,
        layout: Rc<RowLayout>,
        /// Everything below this tick has been told.
        told: Rc<Cell<Tick>>,
    },
}

/// The place of an encoded key among all that are read: reads go in this order.
pub fn read_order(key: &Row) -> impl Ord + use<> {
    Key::new(key)
}

/// A row of a view, as its encoded key and value, with its multiplicity.
pub type EncodedRow = (Row, Row, i64);

/// Ends a view's dataflow.
pub fn finish(
    Rendered { rows, groups }: Rendered<'_>,
    layout: RowLayout,
    worker: usize,
    listener: ViewListener,
    failures: FailureStream,
    guard: &Guard,
) -> ViewRows {
    let told = Rc::new(Cell::new(guard.from().unwrap_or(0)));
    let teller =
        Teller { worker, listener, failures: failures.clone(), guard: guard.clone(), told };
    // Rows that were taken up are told first, as of their tick.
    let before = guard.from().filter(|_| guard.tells_rows());
    let held = match groups {
        None => {
            let rows = keyed(rows, layout, false, guard);
            let arranged = arrange_rows(rows, "View", guard, HeldAs::Output);
            let trace = arranged.trace.clone();
            follow_arranged(arranged, before, teller);
            HeldRows::Arranged(trace)
        }
        Some(groups) => {
            let (layout, told) = (Rc::new(layout), Rc::clone(&teller.told));
            let before = before.map(|tick| groups.read(tick, None));
            follow_rows(rows, before, Rc::clone(&layout), teller);
            HeldRows::Groups { groups, layout, told }
        }
    };
    ViewRows { held, failures }
}

/// The layout of a view's rows as key and value.
pub fn layout(
    schema: &ViewSchema,
    rows: &arrow::datatypes::SchemaRef,
) -> Result<RowLayout, ArrowError> {
    RowLayout::new(rows, &schema.key_columns())
}

/// Changes of rows, each of them at a tick.
type TickChanges = Vec<(Tick, Vec<Update>)>;

/// Tells the listener what becomes of a view on one worker: changes, then what fails, then the frontier that
/// closes both.
struct Teller {
    worker: usize,
    listener: ViewListener,
    failures: FailureStream,
    guard: Guard,
    /// The frontier that was told last.
    told: Rc<Cell<Tick>>,
}

impl Teller {
    fn changes(&self, changes: TickChanges) {
        for (tick, updates) in changes {
            (self.listener)(ViewMessage::Changes { worker: self.worker, tick, updates });
        }
    }

    /// All changes below the frontier are told.
    fn frontier(&self, frontier: AntichainRef<'_, Tick>) {
        let now = frontier.first().copied().unwrap_or(Tick::MAX);
        if now <= self.told.get() {
            return;
        }
        if let Some(reason) = self.failures.take_fatal() {
            return self.guard.control().fail(reason);
        }
        let (worker, failures) = (self.worker, self.failures.take());
        if !failures.is_empty() {
            (self.listener)(ViewMessage::Failures { worker, failures });
        }
        (self.listener)(ViewMessage::Frontier { worker, frontier: now });
        self.told.set(now);
    }
}

/// Follows rows that are arranged. `before`: those that are there are told first, as of this tick.
fn follow_arranged(arranged: Arranged<'_, RowTrace>, before: Option<Tick>, teller: Teller) {
    let activations = arranged.stream.scope().activations();
    let guard = teller.guard.clone();
    let before = before.map(|tick| FollowedBatch {
        rows: RunsCursor::new(runs_of(&arranged.trace)),
        as_of: Some(tick),
    });
    let sink = arranged.stream.unary_frontier::<CapacityContainerBuilder<Vec<()>>, _, _, _>(
        Pipeline,
        "Follow",
        move |_, info| {
            let activator = Activator::new(info.address, activations);
            let mut waiting: VecDeque<FollowedBatch> = before.into_iter().collect();
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
                    let (changes, done) = changes(batch, &teller.failures, &slice);
                    teller.changes(changes);
                    if !done {
                        return activator.activate();
                    }
                    waiting.pop_front();
                }
                teller.frontier(frontier.frontier());
            }
        },
    );
    drop(sink);
}

/// Follows rows that are made of groups, whose changes at a tick come one group after the other. `before`: the
/// rows that are told first.
fn follow_rows(
    rows: Deltas<'_>,
    mut before: Option<GroupsRead>,
    layout: Rc<RowLayout>,
    teller: Teller,
) {
    let activations = rows.scope().activations();
    let guard = teller.guard.clone();
    let sink = rows.unary_frontier::<CapacityContainerBuilder<Vec<()>>, _, _, _>(
        Pipeline,
        "Follow",
        move |_, info| {
            let activator = Activator::new(info.address, activations);
            let mut waiting: VecDeque<Delta> = VecDeque::new();
            let mut net = NetChanges { layout, last: None };
            move |(input, frontier), _output| {
                let stops = guard.enter();
                input.for_each(|_, deltas| waiting.extend(deltas.drain(..)));
                if stops {
                    before = None;
                    return waiting.clear();
                }
                let slice = guard.slice();
                while let Some(groups) = &mut before {
                    match groups.next(usize::MAX, |_| Wanted::Yes) {
                        None => before = None,
                        Some(deltas) => teller.changes(net.of(deltas)),
                    }
                    if slice.is_over() {
                        return activator.activate();
                    }
                }
                while let Some(delta) = waiting.pop_front() {
                    teller.changes(net.of(vec![delta]));
                    if slice.is_over() && !waiting.is_empty() {
                        return activator.activate();
                    }
                }
                teller.changes(net.below(frontier.frontier()));
                teller.frontier(frontier.frontier());
            }
        },
    );
    drop(sink);
}

/// Changes of rows by key. What a group was and what it is stand beside each other: where they are the same row,
/// nothing has changed.
struct NetChanges {
    layout: Rc<RowLayout>,
    /// The last change, which the next one may undo.
    last: Option<(Tick, Update)>,
}

impl NetChanges {
    /// The changes up to the last of these but one.
    fn of(&mut self, deltas: Vec<Delta>) -> TickChanges {
        let mut changes = TickChanges::new();
        let last = &mut self.last;
        for delta in deltas {
            let (tick, diffs) = (delta.tick, Arc::clone(&delta.diffs));
            expect_planned(self.layout.encode_each(&delta, false, |row, key, value| {
                let update = Update { key: key.row, value, diff: diffs[row] };
                match last.take() {
                    Some((at, before)) if at == tick && is_undone(&before, &update) => {}
                    before => {
                        before.into_iter().for_each(|before| give(&mut changes, before));
                        *last = Some((tick, update));
                    }
                }
            }));
        }
        changes
    }

    /// The change that is left, if nothing more comes at its tick.
    fn below(&mut self, frontier: AntichainRef<'_, Tick>) -> TickChanges {
        let last = self.last.take_if(|(tick, _)| !frontier.less_equal(tick));
        last.map(|(tick, update)| (tick, vec![update])).into_iter().collect()
    }
}

/// Whether one change takes the other one back.
fn is_undone(one: &Update, other: &Update) -> bool {
    one.diff + other.diff == 0 && one.key == other.key && one.value == other.value
}

/// Adds a change to those of its tick.
fn give(changes: &mut TickChanges, (tick, update): (Tick, Update)) {
    match changes.iter_mut().rev().find(|(at, _)| *at == tick) {
        Some((_, updates)) => updates.push(update),
        None => changes.push((tick, vec![update])),
    }
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
) -> (TickChanges, bool) {
    let mut changes = TickChanges::new();
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
                give(&mut changes, (tick, Update { key: key.clone(), value, diff }));
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
        match &mut self.held {
            HeldRows::Arranged(trace) => upper_of(trace),
            HeldRows::Groups { told, .. } => told.get(),
        }
    }

    /// Lets history before `tick` be forgotten: only reads at `tick` and later are exact.
    pub fn compact(&mut self, tick: Tick) {
        match &mut self.held {
            HeldRows::Arranged(trace) => forget_before(trace, tick),
            HeldRows::Groups { groups, .. } => groups.compact(tick),
        }
    }

    /// Begins to read the rows as of the request's tick: those with its key, or up to `limit` of all whose key comes
    /// after `after` in the order of reads.
    pub fn read(&self, request: ReadRequest) -> RowsRead {
        let from = request.key.as_deref().or(request.after.as_deref()).map(Key::new);
        let from = from.as_ref().map(KeyRef::from);
        let left = match &self.held {
            HeldRows::Arranged(trace) => {
                let mut rows = RunsCursor::new(runs_of(trace));
                if let Some(key) = from {
                    rows.seek_key(key);
                }
                LeftToRead::Arranged(rows)
            }
            HeldRows::Groups { groups, layout, .. } => {
                LeftToRead::Groups(groups.read(request.tick, from), Rc::clone(layout))
            }
        };
        RowsRead { request, rows: Vec::new(), left, failures: self.failures.clone() }
    }
}

/// A read that has begun. Changes that come meanwhile are not in it.
pub struct RowsRead {
    pub request: ReadRequest,
    rows: Vec<EncodedRow>,
    left: LeftToRead,
    failures: FailureStream,
}

enum LeftToRead {
    Arranged(RunsCursor<Multiplicity>),
    Groups(GroupsRead, Rc<RowLayout>),
}

/// Number of rows that are read at a time.
const ROWS_PER_STEP: usize = 1 << 12;

impl RowsRead {
    /// Reads some thousand rows more; true when there is nothing left to read.
    pub fn go_on(&mut self) -> bool {
        let ReadRequest { tick, key, after, with_after, limit, .. } = &self.request;
        let (key, after) = (key.as_deref(), after.as_deref());
        let wanted = |bytes: &[u8]| match (key, after) {
            (Some(key), _) if bytes != key => Wanted::NoneAnyMore,
            (_, Some(after)) if bytes == after && !with_after => Wanted::No,
            _ => Wanted::Yes,
        };
        let rows = &mut self.rows;
        match &mut self.left {
            LeftToRead::Arranged(left) => {
                let end = rows.len() + ROWS_PER_STEP;
                while rows.len() < end.min(*limit) {
                    let Some(at) = left.key() else { return true };
                    match wanted(at.bytes) {
                        Wanted::NoneAnyMore => return true,
                        Wanted::No => {}
                        Wanted::Yes => {
                            let at = Row::from_slice(at.bytes);
                            while let Some(value) = left.value() {
                                let past = left.updates().filter(|(t, _)| t <= tick);
                                let count = self.failures.known(past.map(|(_, diff)| diff).sum());
                                if count > 0 {
                                    rows.push((at.clone(), Row::from_slice(value), count));
                                }
                                left.next_value();
                            }
                        }
                    }
                    left.next_key();
                }
            }
            LeftToRead::Groups(left, layout) => {
                let Some(deltas) = left.next(limit - rows.len(), wanted) else { return true };
                for delta in deltas {
                    expect_planned(layout.encode_each(&delta, false, |row, key, value| {
                        rows.push((key.row, value, delta.diffs[row]));
                    }));
                }
                rows.truncate(*limit);
            }
        }
        rows.len() >= *limit
    }

    /// Answers with what was read; `is_there`: the view still is.
    pub fn end(self, is_there: bool) {
        (self.request.answer)(is_there.then_some(self.rows));
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{ArrayRef, Int64Array};
    use arrow::datatypes::{DataType, Field, Schema, SchemaRef};

    use super::*;
    use crate::dataflow::delta::batch;

    fn delta(schema: &SchemaRef, tick: Tick, rows: &[(i64, i64, i64)]) -> Delta {
        let column = |of: fn(&(i64, i64, i64)) -> i64| -> ArrayRef {
            Arc::new(Int64Array::from_iter_values(rows.iter().map(of)))
        };
        let columns = vec![column(|row| row.0), column(|row| row.1)];
        let rows_of_it = batch(Arc::clone(schema), columns, rows.len()).unwrap();
        let diffs = rows.iter().map(|row| row.2).collect();
        Delta { rows: rows_of_it, diffs, positions: None, tick }
    }

    #[test]
    fn rows_that_stay_are_not_told_wherever_deltas_are_cut() {
        let field = |name: &str| Field::new(name, DataType::Int64, true);
        let schema: SchemaRef = Arc::new(Schema::new(vec![field("k"), field("v")]));
        let changes = [(1, 5, -1), (1, 5, 1), (2, 6, -1), (2, 7, 1), (3, 8, 1), (4, 9, -1)];
        for cut in 0..changes.len() {
            let layout = Rc::new(RowLayout::new(&schema, &[0]).unwrap());
            let mut net = NetChanges { layout, last: None };
            let (first, rest) = changes.split_at(cut);
            let mut told = net.of(vec![delta(&schema, 7, first)]);
            told.extend(net.below(AntichainRef::new(&[7])));
            told.extend(net.of(vec![delta(&schema, 7, rest), delta(&schema, 8, &[(4, 9, 1)])]));
            told.extend(net.below(AntichainRef::new(&[])));
            let told = told.into_iter().flat_map(|(tick, updates)| {
                updates.into_iter().map(move |update| (tick, update.diff))
            });
            let expected = [(7, -1), (7, 1), (7, 1), (7, -1), (8, 1)];
            assert_eq!(told.collect::<Vec<_>>(), expected, "cut at {cut}");
        }
    }
}
