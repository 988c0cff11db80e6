//! Support for operators that take changes tick by tick, in order.

use std::collections::BTreeMap;

use timely::dataflow::operators::Capability;

use crate::model::Tick;

/// Changes that wait for their tick to be complete, and the right to answer them.
pub struct PendingTicks<T> {
    held: Option<Capability<Tick>>,
    waiting: BTreeMap<Tick, T>,
}

impl<T: Default> PendingTicks<T> {
    /// Nothing waits yet; `capability` is the operator's first one.
    pub fn new(capability: Capability<Tick>) -> Self {
        PendingTicks { held: Some(capability), waiting: BTreeMap::new() }
    }

    /// The changes that wait for this tick.
    pub fn at(&mut self, tick: Tick) -> &mut T {
        self.waiting.entry(tick).or_default()
    }

    /// The changes of the first tick, if it is complete, with a capability at that tick.
    pub fn take(&mut self, is_complete: impl Fn(Tick) -> bool) -> Option<(Capability<Tick>, T)> {
        let first = self.waiting.first_entry().filter(|first| is_complete(*first.key()))?;
        let at = self.held.as_ref()?.delayed(first.key());
        Some((at, first.remove()))
    }

    /// Forgets everything.
    pub fn stop(&mut self) {
        self.held = None;
        self.waiting.clear();
    }

    /// Gives up all ticks before the first one that is still to be answered, and tells which that is;
    /// `frontier` is the first one that changes may still come of.
    pub fn downgrade(&mut self, frontier: Option<Tick>) -> Option<Tick> {
        let next = self.waiting.keys().next().copied().into_iter().chain(frontier).min();
        match (next, &mut self.held) {
            (Some(next), Some(held)) => held.downgrade(&next),
            _ => self.held = None,
        }
        next
    }
}
