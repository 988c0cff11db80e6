//! Work that takes long, on a thread beside the workers, which go on with other views meanwhile.
//!
//! Threads are used again: one that ends gives all that it allocated back to the system, page by page.

use std::any::Any;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::sync::{Mutex, PoisonError};

use timely::scheduling::SyncActivator;

/// So many threads wait for further work; others end.
const IDLE_THREADS_MAX: usize = 4;

type BoxedWork = Box<dyn FnOnce() + Send>;

/// The threads that wait for work.
static IDLE: Mutex<Vec<Sender<BoxedWork>>> = Mutex::new(Vec::new());

/// Result of the work: its value, or the panic that it ended with.
type Outcome<T> = Result<T, Box<dyn Any + Send>>;

/// Work on another thread, and its result once it is done.
pub struct Elsewhere<T>(Receiver<Outcome<T>>);

impl<T: Send + 'static> Elsewhere<T> {
    /// Begins the work. The operator is called again when it is done.
    pub fn begin(
        operator: SyncActivator,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> io::Result<Self> {
        let (sender, result) = channel();
        let run = move || {
            let outcome = catch_unwind(AssertUnwindSafe(work));
            // Where the view is gone, nobody takes it, and there is no operator to call.
            let _ = sender.send(outcome);
            let _ = operator.activate();
        };
        begin(Box::new(run))?;
        Ok(Elsewhere(result))
    }

    /// The result of the work, given once. A panic of the work goes on here.
    pub fn poll(&mut self) -> Option<T> {
        match self.0.try_recv() {
            Ok(Ok(value)) => Some(value),
            Ok(Err(panic)) => resume_unwind(panic),
            Err(TryRecvError::Empty | TryRecvError::Disconnected) => None,
        }
    }
}

fn idle<T>(change: impl FnOnce(&mut Vec<Sender<BoxedWork>>) -> T) -> T {
    change(&mut IDLE.lock().unwrap_or_else(PoisonError::into_inner))
}

/// Hands work to a thread that waits for some, or to a new one.
fn begin(mut work: BoxedWork) -> io::Result<()> {
    while let Some(thread) = idle(Vec::pop) {
        match thread.send(work) {
            Ok(()) => return Ok(()),
            Err(unsent) => work = unsent.0,
        }
    }
    let run = move || {
        work();
        let (sender, receiver) = channel::<BoxedWork>();
        let mut waits = true;
        while waits {
            waits = idle(|threads| {
                let has_room = threads.len() < IDLE_THREADS_MAX;
                if has_room {
                    threads.push(sender.clone());
                }
                has_room
            });
            if waits && let Ok(work) = receiver.recv() {
                work();
            }
        }
    };
    std::thread::Builder::new().name("partition".to_string()).spawn(run)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use timely::container::CapacityContainerBuilder;
    use timely::dataflow::channels::pact::Pipeline;
    use timely::dataflow::operators::generic::Operator;
    use timely::dataflow::operators::vec::ToStream;
    use timely::dataflow::operators::{Inspect, Probe};

    use super::*;

    #[test]
    fn an_operator_that_waits_for_work_elsewhere_is_called_when_it_is_done() {
        let (told, results) = channel();
        timely::execute_directly(move |worker| {
            let handle = worker.clone();
            let probe = worker.dataflow::<u64, _, _>(|scope| {
                [1_u64]
                    .to_stream(scope)
                    .unary::<CapacityContainerBuilder<Vec<u64>>, _, _, _>(
                        Pipeline,
                        "Wait",
                        move |_, info| {
                            let mut running = None;
                            move |input, output| {
                                input.for_each(|time, _: &mut Vec<u64>| {
                                    let operator = handle.sync_activator_for(info.address.to_vec());
                                    let work = || {
                                        std::thread::sleep(Duration::from_millis(50));
                                        7_u64
                                    };
                                    let elsewhere = Elsewhere::begin(operator, work).unwrap();
                                    running = Some((time.retain_stamp(0), elsewhere));
                                });
                                if let Some((at, elsewhere)) = &mut running
                                    && let Some(value) = elsewhere.poll()
                                {
                                    output.session(&*at).give(value);
                                    running = None;
                                }
                            }
                        },
                    )
                    .inspect(move |value: &u64| told.send(*value).unwrap())
                    .probe()
                    .0
            });
            while !probe.done() {
                worker.step_or_park(Some(Duration::from_secs(5)));
            }
        });
        assert_eq!(results.iter().collect::<Vec<_>>(), [7]);
    }
}
