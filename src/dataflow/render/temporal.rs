//! Conditions on `now()`: rows enter and leave as time passes.
//!
//! For each row that arrives it is worked out at which ticks the condition will come to hold or cease
//! to; those changes wait in a queue of their own, by tick, and are sent on when the tick is there. No
//! operator downstream sees a time that has not come.
//!
//! The rows of which something is yet to come are arranged beside, so that they are kept: the queue is
//! made of them again.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch, TimestampNanosecondArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::error::ArrowError;
use timely::dataflow::Stream;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::core::OkErr;
use timely::dataflow::operators::generic::Operator;
use timely::scheduling::Activator;

use super::kept::{PositionedRows, RestoredRows, hold, position_bytes};
use super::{Deltas, Renderer, expect_planned};
use crate::dataflow::arrange::{HeldAs, Key, KeyedUpdate, arrange_rows};
use crate::dataflow::delta::{Delta, batch};
use crate::dataflow::eval::{FailedExpression, evaluate, halves};
use crate::dataflow::failure::FailureStream;
use crate::dataflow::guard::Account;
use crate::dataflow::reclaim::free_elsewhere;
use crate::model::multiplicity::Multiplicity;
use crate::model::row::Row;
use crate::model::{Position, Tick};
use crate::plan::ir::{NodeId, Scalar};

/// The end of time for conditions, in milliseconds since the epoch: the year 2200. Rows that would change
/// later stay as they are.
const TICK_MAX: Tick = 7_258_118_400_000;
const NANOSECONDS_PER_TICK: i64 = 1_000_000;
/// A bucket of the queue is consolidated when it has grown to twice its size, from this on.
const BUCKET_CONSOLIDATE_MIN: usize = 64;

impl<'scope> Renderer<'scope, '_> {
    pub(super) fn temporal(
        &self,
        input: NodeId,
        condition: &Scalar,
        moments: &[Scalar],
    ) -> Result<Deltas<'scope>, ArrowError> {
        let schema = self.schema(input);
        let kept: Rc<RefCell<Option<RestoredRows>>> = Rc::default();
        let mut filter = TemporalFilter {
            condition: condition.clone(),
            moments: moments.to_vec(),
            with_now: with_now(&schema),
            rows: PositionedRows::new(&schema)?,
            queue: TickQueue::default(),
            failures: self.failures.clone(),
            account: self.guard.account(false),
        };
        let guard = self.guard.clone();
        let stream = self.input(input);
        let activations = self.scope.activations();
        let of_queue = Rc::clone(&kept);
        let changes: Stream<'scope, Tick, Vec<TemporalChange>> =
            stream.unary_frontier(Pipeline, "Temporal", move |capability, info| {
                let activator = Activator::new(info.address, activations);
                let mut held = Some(capability);
                let mut waiting: Vec<Delta> = Vec::new();
                move |(input, frontier), output| {
                    if guard.enter() {
                        input.for_each(|_, deltas| deltas.clear());
                        free_elsewhere(std::mem::take(&mut filter.queue));
                        filter.account.set(0);
                        (held, *of_queue.borrow_mut()) = (None, None);
                        return waiting.clear();
                    }
                    let slice = guard.slice();
                    let mut kept = of_queue.borrow_mut();
                    while let Some(rows) = &mut *kept {
                        match rows.next(&filter.failures) {
                            Some(delta) => drop(filter.take(delta)),
                            None => *kept = None,
                        }
                        if slice.is_over() && kept.is_some() {
                            return activator.activate();
                        }
                    }
                    input.for_each(|time, deltas| {
                        let mut session = output.session(&time);
                        for delta in deltas.drain(..) {
                            session.give_iterator(filter.take(delta).into_iter());
                        }
                    });
                    match (frontier.frontier().first(), &mut held) {
                        (Some(frontier), Some(capability)) => {
                            if *frontier > *capability.time() {
                                let due = filter.queue.release(*frontier - 1);
                                if !due.is_empty() {
                                    let changes = filter.due(due, *frontier - 1);
                                    let at = capability.delayed(&(*frontier - 1));
                                    output.session(&at).give_iterator(changes.into_iter());
                                }
                                capability.downgrade(frontier);
                            }
                        }
                        // Without further ticks nothing becomes due any more.
                        (None, _) => held = None,
                        (Some(_), None) => {}
                    }
                    filter.account.set(filter.queue.bytes);
                }
            });
        let (present, waiting) = changes.ok_err(|change: TemporalChange| change);
        let arranged = arrange_rows(waiting, "Waiting", &self.guard, HeldAs::State);
        if let Some(tick) = self.guard.from() {
            let rows = PositionedRows::new(&schema)?;
            *kept.borrow_mut() = Some(RestoredRows::of(&arranged.trace, rows, tick));
        }
        hold(arranged, &self.guard);
        Ok(present)
    }
}

/// Rows that come or go; or a row of which something is yet to come, or no more.
type TemporalChange = Result<Delta, KeyedUpdate>;

fn with_now(schema: &SchemaRef) -> SchemaRef {
    let now = Field::new(
        "now()",
        DataType::Timestamp(arrow::datatypes::TimeUnit::Nanosecond, Some("+00:00".into())),
        true,
    );
    let fields = schema.fields().iter().map(|f| f.as_ref().clone()).chain([now]);
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

/// Changes of rows that are yet to come, by tick.
#[derive(Default)]
struct TickQueue {
    buckets: BTreeMap<Tick, Bucket>,
    /// Number of bytes that the changes take; changes that cancel out are included.
    bytes: usize,
}

/// A change that is to come, and how often.
type DueChange = (DueRow, i64);

/// A row that comes or goes at some tick.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct DueRow {
    row: Row,
    position: Position,
    /// The row comes, and does not go.
    appears: bool,
    /// The row has no later change.
    is_last: bool,
}

fn bytes(changes: &[DueChange]) -> usize {
    let heap = changes.iter().map(|(due, _)| due.row.heap_bytes());
    size_of_val(changes) + heap.sum::<usize>()
}

#[derive(Default)]
struct Bucket {
    changes: Vec<DueChange>,
    consolidated_len: usize,
}

impl TickQueue {
    fn push(&mut self, tick: Tick, due: DueRow, diff: i64) {
        let bucket = self.buckets.entry(tick).or_default();
        bucket.changes.push((due, diff));
        self.bytes += bytes(&bucket.changes[bucket.changes.len() - 1..]);
        if bucket.changes.len() >= (2 * bucket.consolidated_len).max(BUCKET_CONSOLIDATE_MIN) {
            let before = bytes(&bucket.changes);
            differential_dataflow::consolidation::consolidate(&mut bucket.changes);
            self.bytes -= before - bytes(&bucket.changes);
            bucket.consolidated_len = bucket.changes.len();
        }
    }

    /// Everything up to `tick`.
    fn release(&mut self, tick: Tick) -> Vec<DueChange> {
        let mut due = Vec::new();
        while let Some(first) = self.buckets.first_entry()
            && *first.key() <= tick
        {
            let mut changes = first.remove().changes;
            self.bytes -= bytes(&changes);
            due.append(&mut changes);
        }
        differential_dataflow::consolidation::consolidate(&mut due);
        due
    }
}

struct TemporalFilter {
    /// Over the input's columns and, behind them, the time that it is.
    condition: Scalar,
    /// The parts of the condition that change their value once, at some time.
    moments: Vec<Scalar>,
    with_now: SchemaRef,
    rows: PositionedRows,
    queue: TickQueue,
    failures: FailureStream,
    account: Account,
}

impl TemporalFilter {
    /// Queues what is to come of some rows, and gives those of them that are there now and those of which
    /// something is to come.
    fn take(&mut self, delta: Delta) -> Vec<TemporalChange> {
        if delta.is_empty() {
            return Vec::new();
        }
        match self.outlook(&delta) {
            Ok(outlook) => {
                let mut encoded = Vec::new();
                expect_planned(self.rows.encode(&delta, &mut encoded));
                let mut last = vec![None; delta.len()];
                outlook.changes.iter().for_each(|change| last[change.row] = Some(change.tick));
                for PresenceChange { row, tick, appears } in outlook.changes {
                    let position = delta.position(row).unwrap_or(0);
                    let is_last = last[row] == Some(tick);
                    let due =
                        DueRow { row: encoded[row].0.0.row.clone(), position, appears, is_last };
                    self.queue.push(tick, due, delta.diffs[row]);
                }
                let waiting = encoded.into_iter().zip(last).filter(|(_, last)| last.is_some());
                let present = expect_planned(delta.filter(&outlook.present));
                let waiting = waiting.map(|(update, _)| Err(update));
                [Ok(present)].into_iter().chain(waiting).collect()
            }
            Err((text, reason)) if delta.len() == 1 => {
                self.failures.record(
                    &text,
                    reason,
                    delta.position(0),
                    (delta.tick, delta.diffs[0]),
                );
                Vec::new()
            }
            Err(_) => halves(&delta).into_iter().flat_map(|half| self.take(half)).collect(),
        }
    }

    /// Changes at one tick, as rows of the events that they began as: what fails of them then is
    /// counted down where it was counted.
    fn due(&self, changes: Vec<DueChange>, tick: Tick) -> Vec<TemporalChange> {
        let ended = |(due, diff): &DueChange| {
            let key = Key::new(&due.row);
            let gone = Multiplicity::new(-diff);
            due.is_last.then(|| Err(((key, position_bytes(due.position)), tick, gone)))
        };
        let mut out: Vec<TemporalChange> = changes.iter().filter_map(ended).collect();
        let rows = changes.into_iter().map(|(DueRow { row, position, appears, .. }, diff)| {
            (row, position, if appears { diff } else { -diff })
        });
        out.push(Ok(expect_planned(self.rows.decode(rows.collect(), tick))));
        out
    }

    fn outlook(&self, delta: &Delta) -> Result<Outlook, FailedExpression> {
        let len = delta.len();
        let present = self.holds(&self.condition, delta, &vec![delta.tick; len])?;
        let mut moments: Vec<Vec<Tick>> = vec![Vec::new(); len];
        for moment in &self.moments {
            for (row, tick) in self.changes_at(moment, delta)? {
                moments[row].push(tick);
            }
        }
        for ticks in &mut moments {
            ticks.sort_unstable();
            ticks.dedup();
        }
        let mut changes = Vec::new();
        let mut before = present.clone();
        let steps = moments.iter().map(Vec::len).max().unwrap_or(0);
        for step in 0..steps {
            let at: Vec<Tick> = moments
                .iter()
                .map(|ticks| ticks.get(step).or(ticks.last()).copied().unwrap_or(delta.tick))
                .collect();
            let after = self.holds(&self.condition, delta, &at)?;
            for row in (0..len).filter(|row| step < moments[*row].len()) {
                let (was, is) = (before.value(row), after.value(row));
                if was != is {
                    changes.push(PresenceChange { row, tick: at[row], appears: is });
                }
            }
            before = after;
        }
        Ok(Outlook { present, changes })
    }

    /// When a part of the condition changes its value, for the rows for which it does.
    ///
    /// The value changes once at most, so the tick is found by halving.
    fn changes_at(
        &self,
        moment: &Scalar,
        delta: &Delta,
    ) -> Result<Vec<(usize, Tick)>, FailedExpression> {
        let len = delta.len();
        let (mut low, mut high) = (vec![delta.tick; len], vec![TICK_MAX.max(delta.tick); len]);
        let first = self.holds(moment, delta, &low)?;
        let last = self.holds(moment, delta, &high)?;
        let rows: Vec<usize> = (0..len).filter(|r| first.value(*r) != last.value(*r)).collect();
        if rows.is_empty() {
            return Ok(Vec::new());
        }
        while rows.iter().any(|row| low[*row] + 1 < high[*row]) {
            let middle: Vec<Tick> =
                low.iter().zip(&high).map(|(low, high)| low + (high - low) / 2).collect();
            let value = self.holds(moment, delta, &middle)?;
            for row in &rows {
                let changed = value.value(*row) != first.value(*row);
                let bound = if changed { &mut high } else { &mut low };
                bound[*row] = middle[*row];
            }
        }
        Ok(rows.into_iter().map(|row| (row, high[row])).collect())
    }

    /// Whether a condition holds for each row at its tick; NULL does not.
    fn holds(
        &self,
        condition: &Scalar,
        delta: &Delta,
        ticks: &[Tick],
    ) -> Result<BooleanArray, FailedExpression> {
        let now = ticks.iter().map(|tick| *tick as i64 * NANOSECONDS_PER_TICK);
        let now = TimestampNanosecondArray::from_iter_values(now).with_timezone("+00:00");
        let mut columns: Vec<ArrayRef> = delta.rows.columns().to_vec();
        columns.push(Arc::new(now));
        let rows: RecordBatch =
            expect_planned(batch(Arc::clone(&self.with_now), columns, delta.len()));
        let values =
            evaluate(condition, &rows).map_err(|reason| (Arc::clone(&condition.text), reason))?;
        let values = values.as_boolean();
        Ok(match values.nulls() {
            Some(nulls) => BooleanArray::new(values.values() & nulls.inner(), None),
            None => values.clone(),
        })
    }
}

/// The future of some rows: whether each is present now, and when that changes.
struct Outlook {
    /// True for the rows that are there now.
    present: BooleanArray,
    changes: Vec<PresenceChange>,
}

struct PresenceChange {
    row: usize,
    tick: Tick,
    appears: bool,
}
