//! The frame of operators without state that evaluate expressions: for a slice at a time, since a row
//! may become many or large ones.

use std::collections::VecDeque;
use std::rc::Rc;

use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::CapabilitySet;
use timely::dataflow::operators::generic::Operator;
use timely::scheduling::Activator;

use super::Deltas;
use crate::dataflow::delta::Delta;
use crate::dataflow::guard::Guard;
use crate::model::Tick;

/// The work that is left of a piece of work after a step of it.
pub enum Rest<W> {
    /// Nothing.
    Done,
    /// More of the same.
    More(W),
    /// Two pieces, in this order.
    Both(W, W),
}

/// An operator that works at each delta step by step. `step` does one step, which is short, and gives
/// the rows that came of it.
pub fn sliced<'scope, W: 'static>(
    stream: Deltas<'scope>,
    name: &str,
    guard: &Guard,
    begin: impl Fn(Delta) -> W + 'static,
    mut step: impl FnMut(W) -> (Option<Delta>, Rest<W>) + 'static,
) -> Deltas<'scope> {
    let guard = guard.clone();
    let activations = stream.scope().activations();
    stream.unary(Pipeline, name, move |_, info| {
        let activator = Activator::new(info.address, activations);
        let mut waiting: VecDeque<(Rc<CapabilitySet<Tick>>, W)> = VecDeque::new();
        move |input, output| {
            let stops = guard.enter();
            input.for_each(|time, deltas| {
                if stops {
                    return deltas.clear();
                }
                let capabilities = Rc::new(time.retain_stamp(0));
                let begun = deltas.drain(..).map(|delta| (Rc::clone(&capabilities), begin(delta)));
                waiting.extend(begun);
            });
            if stops {
                return waiting.clear();
            }
            let slice = guard.slice();
            while let Some((capabilities, work)) = waiting.pop_front() {
                let (delta, rest) = step(work);
                slice.made(delta.as_ref().map_or(0, Delta::len));
                output.session(&*capabilities).give_iterator(delta.into_iter());
                match rest {
                    Rest::Done => {}
                    Rest::More(work) => waiting.push_front((capabilities, work)),
                    Rest::Both(first, second) => {
                        waiting.push_front((Rc::clone(&capabilities), second));
                        waiting.push_front((capabilities, first));
                    }
                }
                if slice.is_over() {
                    break;
                }
            }
            if !waiting.is_empty() {
                activator.activate();
            }
        }
    })
}
