//! Dead letters of event types that are declared and that no view reads: versions that nothing
//! declares, and events that were stored although they do not fit.
//!
//! No dataflow looks at such events, so the log is read for them when somebody asks, and only what is
//! new since the last time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use super::registry::Views;
use crate::dataflow::{Dismissal, FailureMemory, Failures, misfit, undeclared};
use crate::decode::Validator;
use crate::log::{LogError, LogFollower};
use crate::model::Position;
use crate::model::schema::EventTable;

/// The failures found so far.
pub struct Unread {
    memory: Arc<FailureMemory>,
    state: Mutex<UnreadState>,
}

#[derive(Default)]
struct UnreadState {
    tables: Vec<Arc<EventTable>>,
    /// The last event that was looked at.
    after: Position,
    failures: Failures,
}

impl Unread {
    /// Nothing so far; what is found takes of this memory.
    pub fn new(memory: Arc<FailureMemory>) -> Self {
        Unread { memory, state: Mutex::default() }
    }

    /// What fails among the events of unread types, or of one of them. `dismissed` are those that were
    /// accepted as lost. Reads what is new in the log, if there are such types.
    pub fn failures(
        &self,
        log: &LogFollower,
        views: &Views,
        event_type: Option<&str>,
        dismissed: impl FnOnce() -> Vec<Dismissal>,
    ) -> Result<Failures, LogError> {
        let tables = unread_tables(views);
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.tables != tables {
            let failures = Failures::new(&[], &dismissed(), &self.memory);
            *state = UnreadState { tables, after: 0, failures };
        }
        let concerns = |table: &Arc<EventTable>| event_type.is_none_or(|t| table.event_type == t);
        if state.tables.iter().any(concerns) {
            state.read(log)?;
        }
        Ok(state.failures.clone())
    }
}

impl UnreadState {
    fn read(&mut self, log: &LogFollower) -> Result<(), LogError> {
        let mut versions: BTreeMap<&str, BTreeSet<u32>> = BTreeMap::new();
        for table in &self.tables {
            versions.entry(&table.event_type).or_default().insert(table.version);
        }
        let mut validators: Vec<(&Arc<EventTable>, Validator)> =
            self.tables.iter().map(|table| (table, Validator::new(table))).collect();
        self.after = self.after.max(log.trimmed_through());
        let mut reader = log.read(self.after)?;
        while let Some(frame) = reader.next_frame()? {
            let events = frame
                .decompress()
                .map_err(|error| LogError::of_position(frame.first_position(), error))?;
            for event in events.iter().filter(|event| event.position > self.after) {
                let Some(declared) = versions.get(event.event_type) else { continue };
                if !declared.contains(&event.version) {
                    self.failures.record(&undeclared(&event));
                    continue;
                }
                let own = |table: &EventTable| {
                    table.event_type == event.event_type && table.version == event.version
                };
                for (table, validator) in validators.iter_mut().filter(|(table, _)| own(table)) {
                    for violation in validator.check(event.data) {
                        let event_type = Some(event.event_type);
                        let at = event.position;
                        self.failures.record(&misfit(&table.name, event_type, &violation, at));
                    }
                }
            }
            self.after = frame.last_position().max(self.after);
        }
        Ok(())
    }
}

/// The tables of event types that no view reads as tables.
fn unread_tables(views: &Views) -> Vec<Arc<EventTable>> {
    let read = |table: &EventTable| {
        views.views.values().any(|view| view.wanted.versions.contains_key(&table.event_type))
    };
    views.tables.iter().filter(|table| !read(table)).cloned().collect()
}
