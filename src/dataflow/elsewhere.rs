//! Work that takes long, on a thread of its own: the worker goes on with other views meanwhile.

use std::io;
use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::thread::JoinHandle;

use timely::scheduling::SyncActivator;

/// Work on another thread, and what comes of it.
pub struct Elsewhere<T> {
    result: Receiver<T>,
    thread: Option<JoinHandle<()>>,
}

/// Has the operator called again, also when the work ends with a panic.
struct CallAgain(SyncActivator);

impl Drop for CallAgain {
    fn drop(&mut self) {
        // An operator that is gone needs no call.
        let _ = self.0.activate();
    }
}

impl<T: Send + 'static> Elsewhere<T> {
    /// Begins the work. The operator is called again when it is done.
    pub fn begin(
        operator: SyncActivator,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> io::Result<Self> {
        let (sender, result) = channel();
        let call = CallAgain(operator);
        let run = move || {
            let _call = call;
            let value = work();
            // Where the view is gone, nobody takes it.
            let _ = sender.send(value);
        };
        let thread = std::thread::Builder::new().name("partition".to_string()).spawn(run)?;
        Ok(Elsewhere { result, thread: Some(thread) })
    }

    /// What came of the work, once. A panic in it goes on here.
    pub fn poll(&mut self) -> Option<T> {
        match self.result.try_recv() {
            Ok(value) => Some(value),
            Err(TryRecvError::Empty) => None,
            Err(TryRecvError::Disconnected) => {
                let ended = self.thread.take().map(JoinHandle::join);
                if let Some(Err(panic)) = ended {
                    std::panic::resume_unwind(panic);
                }
                None
            }
        }
    }
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
