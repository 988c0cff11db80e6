//! Frees what a view held without holding up its worker: on a thread of its own.

use std::any::Any;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::OnceLock;
use std::sync::mpsc::{Sender, channel};

/// Number of batches that a worker hands over at a time.
const BATCHES_PER_STEP: usize = 64;

/// A value to free.
type Garbage = Box<dyn Any + Send>;

static FREEING: OnceLock<Option<Sender<Garbage>>> = OnceLock::new();

/// Frees a value on another thread, or here if there is none.
pub fn free_elsewhere<T: Send + 'static>(value: T) {
    let sender = FREEING.get_or_init(|| {
        let (sender, receiver) = channel::<Garbage>();
        let run = move || receiver.iter().for_each(drop);
        let spawned = std::thread::Builder::new().name("reclaim".to_string()).spawn(run);
        spawned.ok().map(|_| sender)
    });
    if let Some(sender) = sender {
        // A value that cannot be sent is freed here, with the error.
        let _ = sender.send(Box::new(value));
    }
}

/// A batch of an arrangement that is to go.
pub trait Reclaimed {
    /// Frees it elsewhere if nobody else holds it; false if somebody does.
    fn free(&mut self) -> bool;
}

impl<B: Send + 'static> Reclaimed for Option<Rc<B>> {
    fn free(&mut self) -> bool {
        let Some(batch) = self.take() else { return true };
        match Rc::try_unwrap(batch) {
            Ok(batch) => {
                free_elsewhere(batch);
                true
            }
            Err(batch) => {
                *self = Some(batch);
                false
            }
        }
    }
}

/// Batches whose dataflows end, until nobody else holds them.
#[derive(Default)]
pub struct ReclaimQueue {
    batches: VecDeque<Box<dyn Reclaimed>>,
}

impl ReclaimQueue {
    /// The batches that wait.
    pub fn batches(&mut self) -> &mut VecDeque<Box<dyn Reclaimed>> {
        &mut self.batches
    }

    /// Frees some of the batches; true if there was something to free and all of it is gone now.
    pub fn step(&mut self) -> bool {
        if self.batches.is_empty() {
            return false;
        }
        for _ in 0..BATCHES_PER_STEP.min(self.batches.len()) {
            if let Some(mut batch) = self.batches.pop_front()
                && !batch.free()
            {
                self.batches.push_back(batch);
            }
        }
        self.batches.is_empty()
    }
}
