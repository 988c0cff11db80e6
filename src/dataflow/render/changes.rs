//! The frame of operators that look at what has changed in an arrangement, and at what was there.

use std::collections::VecDeque;

use differential_dataflow::operators::arrange::{Arranged, TraceAgent};
use differential_dataflow::trace::{Trace, TraceReader};
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::CapabilitySet;
use timely::dataflow::operators::generic::Operator;
use timely::progress::Antichain;
use timely::scheduling::Activator;

use super::Deltas;
use crate::dataflow::delta::Delta;
use crate::dataflow::guard::{Guard, Slice};
use crate::model::Tick;

/// A piece of work on some new batches.
pub trait ChangeWork {
    /// Goes on until the slice is over or it is done, and gives what came of it. The flag says that it
    /// is done.
    fn run(&mut self, slice: &Slice) -> (Vec<Delta>, bool);
}

/// Hands on what comes of the work that `begin` makes of each set of new batches; it is also given the
/// batches before them.
///
/// History before what was handed over is compacted, so the work sees its sums, not its ticks.
pub fn on_changes<'scope, T, W>(
    arranged: Arranged<'scope, TraceAgent<T>>,
    name: &str,
    guard: &Guard,
    mut begin: impl FnMut(Vec<T::Batch>, Vec<T::Batch>) -> W + 'static,
) -> Deltas<'scope>
where
    T: Trace<Time = Tick> + 'static,
    W: ChangeWork + 'static,
{
    let mut trace = arranged.trace.clone();
    let guard = guard.clone();
    let activations = arranged.stream.scope().activations();
    arranged.stream.unary_frontier(Pipeline, name, move |_, info| {
        let activator = Activator::new(info.address, activations);
        let mut lower = Antichain::from_elem(guard.first_tick());
        let mut upper = lower.clone();
        let mut waiting: VecDeque<(CapabilitySet<Tick>, W)> = VecDeque::new();
        move |(input, _), output| {
            let stops = guard.enter();
            lower.clone_from(&upper);
            let mut capabilities = CapabilitySet::new();
            let mut batches = Vec::new();
            input.for_each(|time, spans| {
                for capability in time.retain_stamp(0).iter() {
                    capabilities.insert(capability.clone());
                }
                for span in spans.drain(..) {
                    upper.clone_from(span.upper());
                    batches.extend(span.inner);
                }
            });
            if stops {
                return waiting.clear();
            }
            if !capabilities.is_empty() {
                let Some(history) = trace.batches_through(lower.borrow()) else {
                    unreachable!("nothing is compacted past what was read")
                };
                waiting.push_back((capabilities, begin(batches, history)));
            }
            trace.advance_upper(&mut upper);
            trace.set_logical_compaction(upper.borrow());
            trace.set_physical_compaction(upper.borrow());
            guard.work_off(&mut waiting, &activator, |(capabilities, work), slice| {
                let (deltas, done) = work.run(slice);
                slice.made(deltas.iter().map(Delta::len).sum());
                output.session(&*capabilities).give_iterator(deltas.into_iter());
                done
            });
        }
    })
}
