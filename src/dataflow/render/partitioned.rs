//! The frame of operators that hold the rows of a key in order. The rows are arranged in order by key.
//! The operator goes through changes tick by tick. Partitions that changed last are held, others are read
//! when they change; what takes long is computed elsewhere.

use std::io;
use std::rc::Rc;
use std::sync::Arc;

use differential_dataflow::operators::arrange::Arranged;
use differential_dataflow::trace::Span;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::Capability;
use timely::dataflow::operators::core::Concatenate;
use timely::dataflow::operators::core::Map;
use timely::dataflow::operators::generic::Operator;
use timely::scheduling::{Activator, SyncActivator};

use super::ordered_input::{OrderedInput, RowsBefore};
use super::pending::PendingTicks;
use super::{Deltas, Renderer};
use crate::dataflow::arrange::{Key, RowTrace};
use crate::dataflow::delta::Delta;
use crate::dataflow::elsewhere::Elsewhere;
use crate::dataflow::failure::FailureStream;
use crate::dataflow::guard::{Guard, Slice};
use crate::dataflow::marker::WorkMarker;
use crate::dataflow::partition::HeldRow;
use crate::dataflow::partition_cache::PartitionCache;
use crate::dataflow::partitioned::{ChangedPartition, PartitionChanges, PartitionLogic};
use crate::dataflow::run::Run;
use crate::model::Tick;
use crate::model::multiplicity::Multiplicity;

/// Number of rows of partitions that are computed together; one partition may have more.
const ROWS_TOGETHER: usize = 1 << 14;
/// Where so many rows have to be looked at, that is done elsewhere.
const ROWS_ELSEWHERE: usize = 1 << 16;

impl<'scope> Renderer<'scope, '_> {
    /// The changes that `logic` makes of the changes of these inputs, which are arranged as it orders them.
    pub(super) fn partitioned<L, const INPUTS: usize>(
        &self,
        name: &str,
        inputs: [Arranged<'scope, RowTrace>; INPUTS],
        logic: L,
    ) -> Deltas<'scope>
    where
        L: PartitionLogic<INPUTS>,
    {
        let traces = inputs.each_ref().map(|input| input.trace.clone());
        let mut search = PartitionSearch {
            logic: Arc::new(logic),
            inputs: traces.map(|trace| OrderedInput::new(trace, &self.guard, &self.failures)),
            held: PartitionCache::new(self.guard.account(false)),
            failures: self.failures.clone(),
        };
        let tagged = inputs.into_iter().enumerate().map(|(input, arranged)| {
            // Each batch with its input.
            arranged.stream.map(move |span| (input, span))
        });
        let batches = self.scope.concatenate(tagged.collect::<Vec<_>>());
        let guard = self.guard.clone();
        let activations = self.scope.activations();
        batches.unary_frontier(Pipeline, name, move |capability, info| {
            let operator = SyncActivator::new(info.address.to_vec(), activations.borrow().sync());
            let activator = Activator::new(info.address, activations);
            let mut pending: PendingTicks<Vec<RowChange>> = PendingTicks::new(capability);
            let mut current: Option<(Capability<Tick>, TickWork<L::Partition, INPUTS>)> = None;
            move |(batches, frontier), output| {
                let stops = guard.enter();
                batches.for_each(|_, spans: &mut Vec<InputBatch>| {
                    spans.drain(..).for_each(|(input, span)| search.inputs[input].take(span));
                });
                if stops {
                    current = None;
                    search.stop();
                    return pending.stop();
                }
                let slice = guard.slice();
                let all_read = search.read(&slice, &mut pending);
                let upper = frontier.frontier();
                let frontier = upper.first().copied();
                let mut waits = false;
                while !slice.is_over() && !waits {
                    if current.is_none() {
                        let next = pending.take(|t| all_read && frontier.is_none_or(|f| t < f));
                        current = next.map(|(at, changes)| {
                            let work = TickWork::new(*at.time(), changes);
                            (at, work)
                        });
                    }
                    let Some((at, work)) = &mut current else { break };
                    match search.step(work, &slice, &guard, &operator) {
                        Ok(TickStep::Made(deltas)) => {
                            slice.made(deltas.iter().map(Delta::len).sum());
                            output.session(&*at).give_iterator(deltas.into_iter());
                        }
                        Ok(TickStep::Waits) => waits = true,
                        Ok(TickStep::Done) => {
                            current = None;
                            search.inputs.iter_mut().for_each(OrderedInput::passed);
                        }
                        Err(error) => {
                            guard.control().fail(format!("a thread cannot be started: {error}"));
                        }
                    }
                }
                if !waits && (current.is_some() || slice.is_over()) {
                    activator.activate();
                }
                if all_read {
                    let next = pending.downgrade(frontier);
                    let now = current.as_ref().map(|(at, _)| *at.time());
                    let next = now.into_iter().chain(next).min();
                    search.inputs.iter_mut().for_each(|input| input.pass(next, upper));
                }
            }
        })
    }
}

/// The number of an input, and a batch of it.
type InputBatch = (usize, Span<Tick, Rc<Run<Multiplicity>>>);

/// A change of a row: its key, its input, the row.
type RowChange = (Key, usize, HeldRow);

/// A tick that is gone through.
struct TickWork<P, const INPUTS: usize> {
    tick: Tick,
    /// The partitions that change and are left, in the order of their keys.
    keys: std::vec::IntoIter<(Key, [Vec<HeldRow>; INPUTS])>,
    /// The rows of each input as they were before the tick, once a partition is read from them.
    before: Option<[RowsBefore; INPUTS]>,
    reading: Option<ReadPartition<INPUTS>>,
    /// The partitions that are computed next, and about how many rows have to be looked at for that.
    part: Vec<ChangedPartition<P, INPUTS>>,
    rows: usize,
    elsewhere: Option<Elsewhere<PartitionChanges<P>>>,
}

/// A partition whose rows are read.
struct ReadPartition<const INPUTS: usize> {
    key: Key,
    changes: [Vec<HeldRow>; INPUTS],
    /// The rows that are read so far: all rows of the inputs before `input`.
    rows: [Vec<HeldRow>; INPUTS],
    input: usize,
    /// The partition is not held: all of its rows are read.
    missing: bool,
}

impl<P, const INPUTS: usize> TickWork<P, INPUTS> {
    fn new(tick: Tick, changes: Vec<RowChange>) -> Self {
        TickWork {
            tick,
            keys: by_key(changes).into_iter(),
            before: None,
            reading: None,
            part: Vec::new(),
            rows: 0,
            elsewhere: None,
        }
    }

    fn next_partition(&mut self) -> Option<ReadPartition<INPUTS>> {
        self.reading.take().or_else(|| {
            let (key, changes) = self.keys.next()?;
            let rows = std::array::from_fn(|_| Vec::new());
            Some(ReadPartition { key, changes, rows, input: 0, missing: false })
        })
    }
}

/// Changes by key, those of one row as one, in order.
fn by_key<const INPUTS: usize>(mut changes: Vec<RowChange>) -> Vec<(Key, [Vec<HeldRow>; INPUTS])> {
    changes.sort_unstable_by(|a, b| (&a.0, a.1, &a.2.row).cmp(&(&b.0, b.1, &b.2.row)));
    let mut keys: Vec<(Key, [Vec<HeldRow>; INPUTS])> = Vec::new();
    for (key, input, held) in changes {
        if keys.last().is_none_or(|(last, _)| *last != key) {
            keys.push((key, std::array::from_fn(|_| Vec::new())));
        }
        let Some((_, inputs)) = keys.last_mut() else { unreachable!("a key was added") };
        match inputs[input].last_mut() {
            Some(row) if row.row == held.row => row.copies += held.copies,
            _ => inputs[input].push(held),
        }
    }
    for rows in keys.iter_mut().flat_map(|(_, inputs)| inputs) {
        rows.retain(|row| row.copies != 0);
    }
    keys.retain(|(_, inputs)| inputs.iter().any(|rows| !rows.is_empty()));
    keys
}

/// Result of one step of a tick's work.
enum TickStep {
    /// This came of it, and there may be more.
    Made(Vec<Delta>),
    /// The operator is called again when work elsewhere is done.
    Waits,
    Done,
}

struct PartitionSearch<L: PartitionLogic<INPUTS>, const INPUTS: usize> {
    logic: Arc<L>,
    inputs: [OrderedInput; INPUTS],
    held: PartitionCache<L::Partition>,
    failures: FailureStream,
}

impl<L: PartitionLogic<INPUTS>, const INPUTS: usize> PartitionSearch<L, INPUTS> {
    /// Reads on in what has come, for a slice; true when all of it is read.
    fn read(&mut self, slice: &Slice, pending: &mut PendingTicks<Vec<RowChange>>) -> bool {
        let orders = self.logic.orders();
        self.inputs.iter_mut().zip(orders).enumerate().all(|(index, (input, ordered))| {
            input.read(ordered, slice, |tick, key, row| pending.at(tick).push((key, index, row)))
        })
    }

    fn stop(&mut self) {
        self.inputs.iter_mut().for_each(OrderedInput::stop);
        self.held.clear();
    }

    fn step(
        &mut self,
        work: &mut TickWork<L::Partition, INPUTS>,
        slice: &Slice,
        guard: &Guard,
        operator: &SyncActivator,
    ) -> io::Result<TickStep> {
        if let Some(elsewhere) = &mut work.elsewhere {
            let Some(changes) = elsewhere.poll() else { return Ok(TickStep::Waits) };
            work.elsewhere = None;
            return Ok(TickStep::Made(self.settle(work.tick, changes)));
        }
        if !self.gather(work, slice) {
            return Ok(TickStep::Made(Vec::new()));
        }
        if work.part.is_empty() {
            return Ok(TickStep::Done);
        }
        let (tick, part) = (work.tick, std::mem::take(&mut work.part));
        if std::mem::take(&mut work.rows) < ROWS_ELSEWHERE {
            let changes = self.logic.change(tick, part, &|| false);
            return Ok(TickStep::Made(self.settle(tick, changes)));
        }
        let (logic, stop) = (Arc::clone(&self.logic), guard.stop_elsewhere());
        let mark = guard.mark_elsewhere();
        let run = move || {
            mark.iter().for_each(WorkMarker::note_faults);
            logic.change(tick, part, &stop)
        };
        work.elsewhere = Some(Elsewhere::begin(operator.clone(), run)?);
        Ok(TickStep::Waits)
    }

    /// Finds the partitions that are computed together next, for a slice; true when it has them.
    fn gather(&mut self, work: &mut TickWork<L::Partition, INPUTS>, slice: &Slice) -> bool {
        while work.rows < ROWS_TOGETHER
            && let Some(mut read) = work.next_partition()
        {
            let held = if read.missing { None } else { self.held.take(&read.key.row) };
            let partition = match held {
                Some(held) => held,
                None => {
                    read.missing = true;
                    if !self.read_partition(&mut read, work, slice) {
                        work.reading = Some(read);
                        return false;
                    }
                    self.logic.read(read.rows)
                }
            };
            work.rows += self.logic.work(&partition, &read.changes);
            let (key, changes) = (read.key.row, read.changes);
            work.part.push(ChangedPartition { key, partition, changes });
        }
        true
    }

    /// Reads on in the rows that a partition had before the tick; true when all are read.
    fn read_partition(
        &self,
        read: &mut ReadPartition<INPUTS>,
        work: &mut TickWork<L::Partition, INPUTS>,
        slice: &Slice,
    ) -> bool {
        if self.inputs.iter().all(|input| !input.has_past()) {
            return true;
        }
        let before = work
            .before
            .get_or_insert_with(|| self.inputs.each_ref().map(|input| input.before(work.tick)));
        for (input, ordered) in self.logic.orders().into_iter().enumerate().skip(read.input) {
            read.input = input;
            if !before[input].read(&read.key, ordered, slice, &mut read.rows[input]) {
                return false;
            }
        }
        true
    }

    /// Tells what fails, and holds the partitions. Returns the changes of the output.
    fn settle(&mut self, tick: Tick, changes: PartitionChanges<L::Partition>) -> Vec<Delta> {
        for ((text, reason), rows) in changes.failures {
            self.failures.record(&text, reason, None, (tick, rows));
        }
        for (key, partition) in changes.partitions {
            match self.logic.bytes(&partition) {
                0 => {}
                bytes => self.held.put(key, partition, bytes),
            }
        }
        changes.deltas
    }
}
