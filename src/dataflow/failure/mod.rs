//! Rows that failed: counted per expression and reason, with the events that they come from.
//!
//! Each reason is kept and can be found, even a million of them, until the memory that all views share is
//! used up. Rows that fail after that are counted per expression only.

mod dismissal;
mod entry;
mod page;
mod reason;
mod recent;
mod stream;

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::model::failure::FailureChange;
use dismissal::AcceptedLoss;
pub use dismissal::{Dismissal, Ranges, reason_hash};
use entry::{Entry, Origin, TypeId, UNKNOWN_TYPE};
pub use page::{Failure, FailureFilter};
use reason::{ReasonValue, Template, split};
pub use recent::ChunkTypes;
pub use stream::{FailureStream, is_unread, misfit, undeclared};

/// The reason of failures that are counted only, for lack of memory.
pub const FURTHER_REASONS: &str =
    "further reasons, not kept one by one: dead_letters_bytes_max is reached";

/// Bytes that a view may always keep, however much the other views keep.
const VIEW_BYTES_MIN: usize = 1 << 20;
/// Bytes of an entry in its map: nodes are at least half full.
const ENTRY_BYTES: usize = 80;
/// Bytes of a template beside its text.
const TEMPLATE_BYTES: usize = 160;

/// The memory that the failures of all views may take together.
#[derive(Debug)]
pub struct FailureMemory {
    bytes: AtomicUsize,
    bytes_max: usize,
}

impl FailureMemory {
    pub fn new(bytes_max: usize) -> Self {
        FailureMemory { bytes: AtomicUsize::new(0), bytes_max }
    }
}

/// The failing rows of one view as of its last complete tick. Its clones are one.
#[derive(Clone, Debug)]
pub struct Failures(Arc<FailuresShared>);

#[derive(Debug)]
struct FailuresShared {
    state: Mutex<FailuresState>,
    /// The number of failing rows that were not dismissed.
    visible: AtomicI64,
    /// The type of all events that the view reads, if there is only one.
    only_type: Option<Arc<str>>,
    memory: Arc<FailureMemory>,
}

#[derive(Debug, Default)]
struct FailuresState {
    /// The types of failing events by their numbers, less one.
    types: Vec<Arc<str>>,
    expressions: BTreeMap<Arc<str>, Expression>,
    accepted: HashMap<String, AcceptedLoss>,
    /// Bytes that the expressions have reserved.
    bytes: usize,
    /// True once the lack of memory was logged.
    is_full_told: bool,
}

#[derive(Debug, Default)]
struct Expression {
    reasons: BTreeMap<Template, BTreeMap<ReasonValue, Entry>>,
    /// Failures that are counted only, for lack of memory.
    further: Entry,
}

impl Default for Failures {
    fn default() -> Self {
        Failures::new(&[], &[], &Arc::new(FailureMemory::new(usize::MAX)))
    }
}

impl Drop for FailuresShared {
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        self.memory.bytes.fetch_sub(state.bytes, Ordering::Relaxed);
    }
}

impl Failures {
    /// No failures yet of a view that reads these event types (none: all), and those that were
    /// dismissed once.
    pub fn new(
        event_types: &[String],
        dismissals: &[Dismissal],
        memory: &Arc<FailureMemory>,
    ) -> Self {
        let mut state = FailuresState::default();
        dismissals.iter().for_each(|dismissal| state.accept(dismissal));
        let only_type = stream::only_type(event_types);
        let memory = Arc::clone(memory);
        let (state, visible) = (Mutex::new(state), AtomicI64::new(0));
        Failures(Arc::new(FailuresShared { state, visible, only_type, memory }))
    }

    fn lock(&self) -> MutexGuard<'_, FailuresState> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// True if the other handle shares these failures.
    pub fn is(&self, other: &Failures) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Counts a change of what fails.
    pub fn record(&self, change: &FailureChange) {
        let FailureChange { expression, reason, position, event_type, diff } = change;
        let mut state = self.lock();
        let event_type = event_type.as_ref().map_or(UNKNOWN_TYPE, |name| state.intern(name));
        let origin = position.map(|position| Origin { position, event_type });
        let before = state.bytes;
        let has_room = before < VIEW_BYTES_MIN
            || self.0.memory.bytes.load(Ordering::Relaxed) < self.0.memory.bytes_max;
        let change = state.record(expression, reason, origin, *diff, has_room);
        self.0.visible.fetch_add(change, Ordering::Relaxed);
        self.settle(before, state.bytes);
        if !has_room && !state.is_full_told {
            state.is_full_told = true;
            let bytes_max = self.0.memory.bytes_max;
            tracing::warn!(bytes_max, "further reasons of failing rows are only counted");
        }
    }

    /// Books the bytes that a change takes.
    fn settle(&self, before: usize, after: usize) {
        let bytes = &self.0.memory.bytes;
        if after >= before {
            bytes.fetch_add(after - before, Ordering::Relaxed);
        } else {
            bytes.fetch_sub(before - after, Ordering::Relaxed);
        }
    }

    /// The changes that lead from no failure to these, without those of one expression. `None` if there are
    /// more than `max` changes, or if some failing rows are counted only.
    pub fn changes(&self, except: &str, max: usize) -> Option<Vec<FailureChange>> {
        let state = self.lock();
        let mut changes = Vec::new();
        let expressions = state.expressions.iter().filter(|(name, _)| &***name != except);
        for (expression, Expression { reasons, further }) in expressions {
            if !further.is_empty() {
                return None;
            }
            let entries = reasons.iter().flat_map(|(template, values)| {
                values.iter().map(move |(value, entry)| (template.with(value), entry))
            });
            for (reason, entry) in entries {
                for (origin, diff) in entry.all()? {
                    if changes.len() == max {
                        return None;
                    }
                    changes.push(FailureChange {
                        expression: Arc::clone(expression),
                        reason: reason.clone(),
                        position: origin.map(|origin| origin.position),
                        event_type: origin
                            .and_then(|origin| state.type_name(origin.event_type))
                            .cloned(),
                        diff,
                    });
                }
            }
        }
        Some(changes)
    }

    /// The number of failing rows that were not dismissed.
    pub fn count(&self) -> i64 {
        self.0.visible.load(Ordering::Relaxed).max(0)
    }

    /// Dismisses these failures: they are listed and counted no more.
    pub fn dismiss(&self, dismissals: &[Dismissal]) {
        let mut state = self.lock();
        let before = state.bytes;
        for dismissal in dismissals {
            let change = state.dismiss(dismissal);
            self.0.visible.fetch_add(change, Ordering::Relaxed);
        }
        self.settle(before, state.bytes);
    }
}

impl FailuresState {
    fn intern(&mut self, event_type: &Arc<str>) -> TypeId {
        if let Some(known) = self.type_id(event_type) {
            return known;
        }
        self.types.push(Arc::clone(event_type));
        self.types.len() as TypeId
    }

    fn type_id(&self, event_type: &str) -> Option<TypeId> {
        let at = self.types.iter().position(|known| **known == *event_type)?;
        Some(at as TypeId + 1)
    }

    fn type_name(&self, id: TypeId) -> Option<&Arc<str>> {
        self.types.get((id as usize).checked_sub(1)?)
    }

    fn accept(&mut self, dismissal: &Dismissal) {
        let event_type = dismissal.event_type.as_deref().map(|name| self.intern(&name.into()));
        let accepted = self.accepted.entry(dismissal.expression.clone()).or_default();
        accepted.add(dismissal, event_type);
    }

    /// Returns the change of what is visible.
    fn record(
        &mut self,
        expression: &Arc<str>,
        reason: &str,
        origin: Option<Origin>,
        diff: i64,
        has_room: bool,
    ) -> i64 {
        let accepted = self.accepted.get(&**expression);
        if let (Some(accepted), Some(origin)) = (accepted, origin)
            && accepted.covers(origin.position, origin.event_type)
        {
            return 0;
        }
        let dismissed = |reason: &str| accepted.map_or(0, |accepted| accepted.rows(reason));
        if !self.expressions.contains_key(expression) {
            let further = Entry::with_dismissed(dismissed(FURTHER_REASONS));
            let new = Expression { reasons: BTreeMap::new(), further };
            self.expressions.insert(Arc::clone(expression), new);
        }
        let Some(Expression { reasons, further }) = self.expressions.get_mut(expression) else {
            unreachable!("it has just been added")
        };
        let (template, value) = split(reason);
        let values = reasons.get_mut(&template);
        let known = values.and_then(|values| values.get_mut(&value));
        // A row that fails no longer may be one that was counted only.
        let is_further = match &known {
            Some(entry) if diff < 0 => !entry.has(origin) && further.has(origin),
            Some(entry) => !has_room && matches!(entry, Entry::One(_)),
            None if diff < 0 => further.has(origin),
            None => !has_room,
        };
        if let Some(entry) = if is_further { Some(&mut *further) } else { known } {
            let before = (entry.visible(), entry.bytes());
            let was_one = matches!(entry, Entry::One(_));
            entry.add(origin, diff, has_room);
            if was_one {
                entry.dismiss_plain(dismissed(reason));
            }
            let (visible, is_empty) = (entry.visible(), entry.is_empty());
            self.bytes = self.bytes + entry.bytes() - before.1;
            if is_empty && !is_further {
                self.bytes -= remove(reasons, &template, &value);
            }
            return visible - before.0;
        }
        let mut entry = match (origin, diff) {
            (Some(origin), 1) => Entry::One(origin),
            _ => Entry::with_dismissed(dismissed(reason)),
        };
        if !matches!(entry, Entry::One(_)) {
            entry.add(origin, diff, has_room);
        }
        let visible = entry.visible();
        self.bytes += insert(reasons, template, value, entry);
        visible
    }

    /// Returns the change of what is visible.
    fn dismiss(&mut self, dismissal: &Dismissal) -> i64 {
        self.accept(dismissal);
        let event_type = dismissal.event_type.as_deref().and_then(|name| self.type_id(name));
        let Some(expression) = self.expressions.get_mut(dismissal.expression.as_str()) else {
            return 0;
        };
        let (mut change, mut bytes) = (0, self.bytes);
        let mut dismiss = |entry: &mut Entry, reason: &dyn Fn() -> String| {
            let before = (entry.visible(), entry.bytes());
            dismissal.take_from(entry, event_type, reason);
            change += entry.visible() - before.0;
            bytes = bytes + entry.bytes() - before.1;
            entry.is_empty()
        };
        dismiss(&mut expression.further, &|| FURTHER_REASONS.to_string());
        let mut gone = 0;
        expression.reasons.retain(|template, values| {
            values.retain(|value, entry| {
                let is_empty = dismiss(entry, &|| template.with(value));
                if is_empty {
                    gone += entry_bytes(value) + entry.bytes();
                }
                !is_empty
            });
            if values.is_empty() {
                gone += TEMPLATE_BYTES + template.bytes();
            }
            !values.is_empty()
        });
        self.bytes = bytes - gone;
        change
    }
}

/// Bytes of an entry beside its rows.
fn entry_bytes(value: &ReasonValue) -> usize {
    ENTRY_BYTES + if value.spilled() { value.len() } else { 0 }
}

/// Returns how many bytes are taken.
fn insert(
    reasons: &mut BTreeMap<Template, BTreeMap<ReasonValue, Entry>>,
    template: Template,
    value: ReasonValue,
    entry: Entry,
) -> usize {
    let mut bytes = entry_bytes(&value) + entry.bytes();
    if !reasons.contains_key(&template) {
        bytes += TEMPLATE_BYTES + template.bytes();
    }
    reasons.entry(template).or_default().insert(value, entry);
    bytes
}

/// Returns how many bytes become free.
fn remove(
    reasons: &mut BTreeMap<Template, BTreeMap<ReasonValue, Entry>>,
    template: &Template,
    value: &ReasonValue,
) -> usize {
    let Some(values) = reasons.get_mut(template) else { return 0 };
    let mut bytes = values.remove(value).map_or(0, |entry| entry_bytes(value) + entry.bytes());
    if values.is_empty() {
        reasons.remove(template);
        bytes += TEMPLATE_BYTES + template.bytes();
    }
    bytes
}

#[cfg(test)]
mod tests;
