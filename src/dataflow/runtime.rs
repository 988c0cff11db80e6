//! The workers of this process, and the one way to tell them something: all of them, in one order.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::Thread;

use timely::communication::WorkerGuards;

use super::output::EncodedRow;
use super::worker::{Command, Installation, ReadRequest, WorkerState};
use crate::log::Frame;
use crate::model::{Head, Tick};

/// How many updates an idle trace merges each time that its operator runs: about a millisecond's
/// worth.
const IDLE_MERGE_EFFORT: isize = 10_000;

/// Why the workers do not run.
#[derive(Debug, thiserror::Error)]
#[error("the dataflow workers cannot be started: {0}")]
pub struct RuntimeError(String);

/// A read of a view; see [`Runtime::read`].
#[derive(Clone, Debug, Default)]
pub struct Read {
    pub view: usize,
    /// Only rows with this encoded key.
    pub key: Option<Vec<u8>>,
    /// Only rows behind this encoded key, in the order of reads.
    pub after: Option<Vec<u8>>,
    /// At most so many rows from each worker.
    pub limit: usize,
}

struct WorkerHandle {
    commands: Sender<Command>,
    thread: Thread,
}

/// The running workers.
pub struct Runtime {
    state: Mutex<State>,
    guards: Mutex<Option<WorkerGuards<()>>>,
    workers: usize,
}

struct State {
    handles: Vec<WorkerHandle>,
    /// The end of what was fed.
    fed: Head,
    /// Which worker gets the next frame.
    next: usize,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Runtime {
    /// Starts `workers` worker threads.
    pub fn start(workers: usize) -> Result<Self, RuntimeError> {
        let (senders, receivers): (Vec<_>, Vec<_>) = (0..workers).map(|_| channel()).unzip();
        let receivers: Vec<Mutex<Option<Receiver<Command>>>> =
            receivers.into_iter().map(|r| Mutex::new(Some(r))).collect();
        let (started, threads) = channel();
        let started = Mutex::new(started);
        let mut config = timely::Config::process(workers);
        // Idle traces merge down to one layer, which is where old updates cancel out: memory at rest
        // is the views' size, not their past.
        let options = differential_dataflow::Config::default();
        let options = options.idle_merge_effort(Some(IDLE_MERGE_EFFORT));
        differential_dataflow::configure(&mut config.worker, &options);
        let guards = timely::execute(config, move |worker| {
            let index = worker.index();
            let _ = lock(&started).send((index, std::thread::current()));
            if let Some(commands) = lock(&receivers[index]).take() {
                WorkerState::new(worker, commands).run();
            }
        })
        .map_err(RuntimeError)?;
        let mut threads: Vec<(usize, Thread)> = threads.iter().take(workers).collect();
        threads.sort_by_key(|(index, _)| *index);
        let handles = senders
            .into_iter()
            .zip(threads)
            .map(|(commands, (_, thread))| WorkerHandle { commands, thread })
            .collect();
        let state = Mutex::new(State { handles, fed: Head::default(), next: 0 });
        Ok(Runtime { state, guards: Mutex::new(Some(guards)), workers })
    }

    /// How many workers there are.
    pub fn workers(&self) -> usize {
        self.workers
    }

    /// Begins views, which see what is fed from now on.
    pub fn install(&self, views: &[Installation]) {
        lock(&self.state).broadcast(|_| Command::Install { views: views.to_vec() });
    }

    /// Feeds frames, whose events all enter at `tick`, the tick of the last of them or later, and
    /// advances the views past `tick`.
    pub fn feed(&self, frames: Vec<Frame>, tick: Tick) {
        let mut state = lock(&self.state);
        let mut shares: Vec<Vec<Frame>> = vec![Vec::new(); self.workers];
        for frame in frames {
            state.fed.position = frame.last_position();
            let next = state.next;
            shares[next].push(frame);
            state.next = (next + 1) % self.workers;
        }
        state.fed.tick = tick;
        state.broadcast(|index| Command::Feed { frames: std::mem::take(&mut shares[index]), tick });
    }

    /// Asks for a view's rows as of everything fed so far.
    ///
    /// Each worker's rows go to `answer` once it has caught up with that tick, `None` where the
    /// view is gone. Returns up to where the rows will be.
    pub fn read(
        &self,
        read: &Read,
        answer: impl Fn(Option<Vec<EncodedRow>>) + Send + Sync + 'static,
    ) -> Head {
        let answer = Arc::new(answer);
        let state = lock(&self.state);
        let fed = state.fed;
        let tick = fed.tick;
        state.broadcast(|_| {
            let answer = Arc::clone(&answer);
            Command::Read(ReadRequest {
                view: read.view,
                tick,
                key: read.key.clone(),
                after: read.after.clone(),
                limit: read.limit,
                answer: Box::new(move |rows| answer(rows)),
            })
        });
        fed
    }

    /// Stops a view and forgets its state.
    pub fn remove(&self, view: usize) {
        lock(&self.state).broadcast(|_| Command::Remove { view });
    }

    /// Stops the workers and waits for them.
    pub fn shutdown(&self) {
        lock(&self.state).broadcast(|_| Command::Shutdown);
        if let Some(guards) = lock(&self.guards).take() {
            for result in guards.join() {
                if let Err(error) = result {
                    tracing::error!(error, "a worker ended with a panic");
                }
            }
        }
    }
}

impl State {
    fn broadcast(&self, mut command: impl FnMut(usize) -> Command) {
        for (index, handle) in self.handles.iter().enumerate() {
            // A worker that is gone has ended the process, or is about to.
            let _ = handle.commands.send(command(index));
            handle.thread.unpark();
        }
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        self.shutdown();
    }
}
