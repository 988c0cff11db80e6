//! Inputs that are kept, for operators that hold what they were given in a form of their own, which
//! nobody keeps. Where such an operator takes up what was kept, it is given all of it once more, at the
//! tick as of which it was kept; what it makes of that is known behind it.

use std::cell::RefCell;
use std::rc::Rc;

use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use differential_dataflow::operators::arrange::Arranged;
use differential_dataflow::trace::TraceReader;
use timely::container::CapacityContainerBuilder;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::core::Concatenate;
use timely::dataflow::operators::generic::Operator;
use timely::dataflow::operators::generic::operator::source;
use timely::progress::frontier::AntichainRef;
use timely::scheduling::Activator;

use super::{Deltas, Renderer, encoded, expect_planned};
use crate::dataflow::arrange::{HeldAs, KeyedUpdate, RowTrace, arrange_rows, runs_of};
use crate::dataflow::delta::Delta;
use crate::dataflow::failure::FailureStream;
use crate::dataflow::guard::Guard;
use crate::dataflow::layout::RowLayout;
use crate::dataflow::run::RunsCursor;
use crate::model::multiplicity::Multiplicity;
use crate::model::row::Row;
use crate::model::{Position, Tick};
use crate::plan::ir::NodeId;

/// Number of rows that are handed on at once.
const ROWS: usize = 1 << 13;

/// Whole rows with the events that they began as.
pub struct PositionedRows {
    layout: RowLayout,
}

impl PositionedRows {
    pub fn new(schema: &SchemaRef) -> Result<Self, ArrowError> {
        let all: Vec<usize> = (0..schema.fields().len()).collect();
        Ok(PositionedRows { layout: RowLayout::new(schema, &all)? })
    }

    /// Appends a delta's rows.
    pub fn encode(&self, delta: &Delta, out: &mut Vec<KeyedUpdate>) -> Result<(), ArrowError> {
        self.layout.encode_each(delta, false, |index, key, _| {
            let position = position_bytes(delta.position(index).unwrap_or(0));
            out.push(((key, position), delta.tick, Multiplicity::new(delta.diffs[index])));
        })
    }

    /// The rows of a delta, each with its event and how often it comes. There are some.
    pub fn decode(&self, rows: Vec<(Row, Position, i64)>, tick: Tick) -> Result<Delta, ArrowError> {
        let positions = rows.iter().map(|(_, position, _)| *position).collect();
        let changes = rows.into_iter().map(|(row, _, diff)| (row, Row::default(), tick, diff));
        let mut deltas = self.layout.decode(&mut changes.collect())?;
        let Some(mut delta) = deltas.pop() else { unreachable!("there are rows") };
        delta.positions = Some(positions);
        Ok(delta)
    }
}

/// A position as the value of a row.
pub fn position_bytes(position: Position) -> Row {
    if position == 0 { Row::default() } else { Row::from_slice(&position.to_be_bytes()) }
}

/// The rows of runs as of a tick, some at a time.
pub struct RestoredRows {
    rows: RunsCursor<Multiplicity>,
    layout: PositionedRows,
    tick: Tick,
}

impl RestoredRows {
    /// The rows that an arrangement has taken up.
    pub fn of(trace: &RowTrace, layout: PositionedRows, tick: Tick) -> Self {
        RestoredRows { rows: RunsCursor::new(runs_of(trace)), layout, tick }
    }

    /// The next rows; `None` when there is none left.
    pub fn next(&mut self, failures: &FailureStream) -> Option<Delta> {
        let mut rows = Vec::new();
        while rows.len() < ROWS
            && let Some(key) = self.rows.key()
        {
            let key = Row::from_slice(key.bytes);
            while let Some(value) = self.rows.value() {
                let position = value.try_into().map_or(0, Position::from_be_bytes);
                let count = self.rows.updates().map(|(_, diff)| diff).sum();
                let count = failures.known(count);
                if count != 0 {
                    rows.push((key.clone(), position, count));
                }
                self.rows.next_value();
            }
            self.rows.next_key();
        }
        (!rows.is_empty()).then(|| expect_planned(self.layout.decode(rows, self.tick)))
    }
}

/// Keeps an arrangement that nobody in the dataflow reads, as long as the view, and lets its past be
/// forgotten.
pub fn hold(arranged: Arranged<'_, RowTrace>, guard: &Guard) {
    let Arranged { stream, trace } = arranged;
    // An operator whose input has ended is gone; the rows are not.
    let trace = Rc::new(RefCell::new(trace));
    guard.hold(Rc::<RefCell<RowTrace>>::clone(&trace));
    let guard = guard.clone();
    let held = stream.unary_frontier::<CapacityContainerBuilder<Vec<()>>, _, _, _>(
        Pipeline,
        "Hold",
        move |_, _| {
            move |(input, frontier), _| {
                guard.enter();
                input.for_each(|_, spans| spans.clear());
                if let Some(next) = frontier.frontier().first() {
                    // Updates from before `next` stay before it.
                    let since = [next.saturating_sub(1)];
                    let mut trace = trace.borrow_mut();
                    trace.set_logical_compaction(AntichainRef::new(&since));
                    trace.set_physical_compaction(frontier.frontier());
                }
            }
        },
    );
    drop(held);
}

impl<'scope> Renderer<'scope, '_> {
    /// A node's rows, which are kept. Rows of the kept state come first, at its tick.
    pub(super) fn kept_input(&self, input: NodeId) -> Result<Deltas<'scope>, ArrowError> {
        let schema = self.schema(input);
        let (stream, layout) = (self.input(input), PositionedRows::new(&schema)?);
        let updates = encoded(stream.clone(), &self.guard, move |delta, updates| {
            layout.encode(delta, updates)
        });
        let arranged = arrange_rows(updates, "Input", &self.guard, HeldAs::State);
        let before = match self.guard.from() {
            None => None,
            Some(tick) => {
                let layout = PositionedRows::new(&schema)?;
                let mut rows = RestoredRows::of(&arranged.trace, layout, tick);
                let failures = self.failures.clone();
                Some(self.once_more(move || rows.next(&failures), tick))
            }
        };
        hold(arranged, &self.guard);
        Ok(match before {
            None => stream,
            Some(rows) => self.scope.concatenate([rows, stream]),
        })
    }

    /// Sends the deltas that `next` gives until there are no more, as of a tick.
    pub(super) fn once_more(
        &self,
        next: impl FnMut() -> Option<Delta> + 'static,
        tick: Tick,
    ) -> Deltas<'scope> {
        let guard = self.guard.clone();
        let activations = self.scope.activations();
        source(self.scope, "Kept", move |capability, info| {
            let activator = Activator::new(info.address, activations);
            let mut left = Some((next, capability.delayed(&tick)));
            drop(capability);
            move |output| {
                if guard.enter() {
                    left = None;
                }
                let slice = guard.slice();
                while let Some((next, capability)) = &mut left {
                    match next() {
                        None => left = None,
                        Some(delta) => {
                            slice.made(delta.len());
                            output.session(&*capability).give(delta);
                            if slice.is_over() {
                                return activator.activate();
                            }
                        }
                    }
                }
            }
        })
    }
}
