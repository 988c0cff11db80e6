//! Dead letters of event types that are declared and that no view reads: versions that nothing
//! declares, and events that were stored although they do not fit.
//!
//! No dataflow looks at such events, so the log is read for them when somebody asks, and only what is
//! new since the last time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use super::registry::Views;
use crate::dataflow::{Dismissal, Failure, Failures};
use crate::decode::Validator;
use crate::log::{Log, LogError};
use crate::model::Position;
use crate::model::schema::EventTable;

/// What has been found so far.
#[derive(Default)]
pub struct Unread(Mutex<State>);

#[derive(Default)]
struct State {
    tables: Vec<Arc<EventTable>>,
    /// The last event that was looked at.
    after: Position,
    failures: Failures,
}

impl Unread {
    /// What fails among the events of unread types. `dismissed` are those that were accepted as lost.
    pub fn list(
        &self,
        log: &Log,
        views: &Views,
        dismissed: impl FnOnce() -> Vec<Dismissal>,
    ) -> Result<Vec<Failure>, LogError> {
        let tables = unread_tables(views);
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if state.tables != tables {
            *state = State { tables, after: 0, failures: Failures::new(dismissed()) };
        }
        if !state.tables.is_empty() {
            state.read(log)?;
        }
        Ok(state.failures.list())
    }

    /// Tells no more of these.
    pub fn dismiss(&self, dismissal: Dismissal) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).failures.dismiss(dismissal);
    }
}

impl State {
    fn read(&mut self, log: &Log) -> Result<(), LogError> {
        let mut versions: BTreeMap<&str, BTreeSet<u32>> = BTreeMap::new();
        for table in &self.tables {
            versions.entry(&table.event_type).or_default().insert(table.version);
        }
        let mut validators: Vec<(&Arc<EventTable>, Validator)> =
            self.tables.iter().map(|table| (table, Validator::new(table))).collect();
        let mut reader = log.read(self.after)?;
        while let Some(frame) = reader.next_frame()? {
            let events = frame.decompress().map_err(|what| LogError::Damaged {
                segment: format!("that holds position {}", frame.first_position()),
                offset: 0,
                what,
            })?;
            for event in events.iter().filter(|event| event.position > self.after) {
                let Some(declared) = versions.get(event.event_type) else { continue };
                if !declared.contains(&event.version) {
                    self.failures.record_undeclared(&event);
                    continue;
                }
                let own = |table: &EventTable| {
                    table.event_type == event.event_type && table.version == event.version
                };
                for (table, validator) in validators.iter_mut().filter(|(table, _)| own(table)) {
                    for violation in validator.check(event.data) {
                        self.failures.record_misfit(&table.name, &violation, event.position);
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
    views.validators.tables().iter().filter(|table| !read(table)).cloned().collect()
}
