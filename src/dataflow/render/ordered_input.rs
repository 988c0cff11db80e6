//! Inputs that are arranged by key and in order, for operators that go through their changes tick by
//! tick, and read what was there before a tick.

use std::collections::VecDeque;
use std::rc::Rc;

use differential_dataflow::operators::arrange::Arranged;
use differential_dataflow::trace::{Span, TraceReader};
use timely::progress::frontier::AntichainRef;

use super::{Deltas, Renderer, encoded};
use crate::dataflow::arrange::{HeldAs, Key, RowTrace, arrange_rows, runs_of};
use crate::dataflow::failure::FailureStream;
use crate::dataflow::guard::{Guard, Slice};
use crate::dataflow::ordered::Ordered;
use crate::dataflow::partition::HeldRow;
use crate::dataflow::run::{KeyRef, Run, RunsCursor};
use crate::model::Tick;
use crate::model::multiplicity::Multiplicity;

/// Number of rows after which the time is looked at.
const ROWS_PER_LOOK: usize = 256;

/// Rows that are arranged in order.
pub struct OrderedInput {
    trace: RowTrace,
    /// Batches that have come and are not read yet.
    unread: VecDeque<RunsCursor<Multiplicity>>,
    failures: FailureStream,
    /// There may be rows of ticks that were gone through.
    has_past: bool,
}

impl<'scope> Renderer<'scope, '_> {
    /// Arranges rows in order.
    pub(super) fn in_order(
        &self,
        rows: Deltas<'scope>,
        ordered: Ordered,
        name: &str,
    ) -> Arranged<'scope, RowTrace> {
        let encode = move |delta: &_, updates: &mut Vec<_>| ordered.encode(delta, updates);
        let updates = encoded(rows, &self.guard, encode);
        arrange_rows(updates, name, &self.guard, HeldAs::State)
    }
}

impl OrderedInput {
    /// The rows of a trace.
    pub fn new(trace: RowTrace, guard: &Guard, failures: &FailureStream) -> Self {
        let (has_past, failures) = (guard.from().is_some(), failures.clone());
        OrderedInput { trace, unread: VecDeque::new(), failures, has_past }
    }

    /// Takes a batch that has come.
    pub fn take(&mut self, span: Span<Tick, Rc<Run<Multiplicity>>>) {
        self.unread.extend(span.inner.map(|batch| RunsCursor::new(vec![batch])));
    }

    /// Hands on the changes that have come, for a slice; true when all of them are handed on.
    pub fn read(
        &mut self,
        ordered: &Ordered,
        slice: &Slice,
        mut give: impl FnMut(Tick, Key, HeldRow),
    ) -> bool {
        let mut read = 0;
        while let Some(batch) = self.unread.front_mut() {
            let Some(key) = batch.key() else {
                self.unread.pop_front();
                continue;
            };
            let key = Key::with_hash(key.hash, key.bytes);
            while let Some(value) = batch.value() {
                for (tick, diff) in batch.updates() {
                    let row = ordered.held(value, self.failures.known(diff));
                    give(tick, key.clone(), row);
                }
                batch.next_value();
                read += 1;
                if read % ROWS_PER_LOOK == 0 && slice.is_over() {
                    return false;
                }
            }
            batch.next_key();
        }
        true
    }

    /// Forgets what was not read.
    pub fn stop(&mut self) {
        self.unread.clear();
    }

    /// Whether there may be rows of ticks that were gone through.
    pub fn has_past(&self) -> bool {
        self.has_past
    }

    /// The rows that were there before a tick.
    pub fn before(&self, tick: Tick) -> RowsBefore {
        let rows = RunsCursor::new(runs_of(&self.trace));
        RowsBefore { rows, tick, failures: self.failures.clone() }
    }

    /// Ticks before this one are gone through, and what was there before it is asked for at most; `None`:
    /// nothing is asked for any more. Batches are merged up to `upper`.
    pub fn pass(&mut self, next: Option<Tick>, upper: AntichainRef<'_, Tick>) {
        self.trace.set_physical_compaction(upper);
        match next {
            // Rows from before a tick stay before it.
            Some(next) => {
                let since = [next.saturating_sub(1)];
                self.trace.set_logical_compaction(AntichainRef::new(&since));
            }
            None => self.trace.set_logical_compaction(AntichainRef::new(&[])),
        }
    }

    /// A tick is gone through.
    pub fn passed(&mut self) {
        self.has_past = true;
    }
}

/// Rows as they were before a tick. Keys are asked for in their order.
pub struct RowsBefore {
    rows: RunsCursor<Multiplicity>,
    tick: Tick,
    failures: FailureStream,
}

impl RowsBefore {
    /// Reads on in the rows of a key, for a slice; true when all of them are read.
    pub fn read(
        &mut self,
        key: &Key,
        ordered: &Ordered,
        slice: &Slice,
        into: &mut Vec<HeldRow>,
    ) -> bool {
        let key = KeyRef::from(key);
        self.rows.seek_key(key);
        if self.rows.key() != Some(key) {
            return true;
        }
        let mut read = 0;
        while let Some(value) = self.rows.value() {
            let before = self.rows.updates().filter(|(tick, _)| *tick < self.tick);
            let count = self.failures.known(before.map(|(_, diff)| diff).sum());
            if count != 0 {
                into.push(ordered.held(value, count));
            }
            self.rows.next_value();
            read += 1;
            if read % ROWS_PER_LOOK == 0 && slice.is_over() {
                return false;
            }
        }
        true
    }
}
