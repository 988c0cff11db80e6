//! The frame of operators that look at what has changed in an arrangement, and at what was there.

use differential_dataflow::operators::arrange::{Arranged, TraceAgent};
use differential_dataflow::trace::Trace;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::CapabilitySet;
use timely::dataflow::operators::generic::Operator;
use timely::progress::Antichain;

use super::Deltas;
use crate::dataflow::delta::Delta;
use crate::model::Tick;

/// Hands on what `logic` makes of each set of new batches; it is also given the batches before them.
///
/// History before what was handed over is compacted, so `logic` sees its sums, not its ticks.
pub fn on_changes<'scope, T>(
    arranged: Arranged<'scope, TraceAgent<T>>,
    name: &str,
    mut logic: impl FnMut(Vec<T::Batch>, Vec<T::Batch>) -> Vec<Delta> + 'static,
) -> Deltas<'scope>
where
    T: Trace<Time = Tick> + 'static,
{
    let mut trace = arranged.trace.clone();
    arranged.stream.unary_frontier(Pipeline, name, move |_, _| {
        let mut lower = Antichain::from_elem(Tick::MIN);
        let mut upper = Antichain::from_elem(Tick::MIN);
        move |(input, _), output| {
            use differential_dataflow::trace::TraceReader;
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
            if !capabilities.is_empty() {
                let Some(history) = trace.batches_through(lower.borrow()) else {
                    unreachable!("nothing is compacted past what was read")
                };
                let mut session = output.session(&capabilities);
                session.give_iterator(logic(batches, history).into_iter());
            }
            trace.advance_upper(&mut upper);
            trace.set_logical_compaction(upper.borrow());
            trace.set_physical_compaction(upper.borrow());
        }
    })
}
