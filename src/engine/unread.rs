//! Dead letters of event types that are declared and that no view reads: versions that nothing
//! declares, and events that were stored although they do not fit.
//!
//! No dataflow looks at such events, so the log is read for them when somebody asks, and only what is
//! new since the last time. A thread of the lowest priority reads; whoever asks waits for a while, and
//! is told how far it has come.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::registry::Views;
use crate::dataflow::{Dismissal, FailureMemory, Failures, misfit, undeclared};
use crate::decode::Validator;
use crate::log::{LogError, LogFollower};
use crate::model::Position;
use crate::model::schema::EventTable;
use crate::model::thread::be_nice;

/// The failures found so far among events that no view reads. Clones share them.
#[derive(Clone)]
pub struct Unread(Arc<UnreadShared>);

struct UnreadShared {
    memory: Arc<FailureMemory>,
    state: Mutex<UnreadState>,
    /// Notified as the reading gets on.
    gets_on: Condvar,
}

#[derive(Default)]
struct UnreadState {
    tables: Vec<Arc<EventTable>>,
    /// The last event that was looked at.
    through: Position,
    failures: Failures,
    is_reading: bool,
}

/// Failures among the events of unread types.
pub struct UnreadFailures {
    /// The failures found so far.
    pub failures: Failures,
    /// Events up to here were looked at.
    pub through: Position,
}

impl Unread {
    /// Nothing read so far. Failures take room of this memory.
    pub fn new(memory: Arc<FailureMemory>) -> Self {
        Unread(Arc::new(UnreadShared { memory, state: Mutex::default(), gets_on: Condvar::new() }))
    }

    /// The failures among the events of unread types, or of one of them; `None` if there are no such types.
    /// `dismissed` are failures that were accepted as lost. Waits until the log is read up to its head, for
    /// at most `time_max`; the reading goes on after that.
    pub fn failures(
        &self,
        log: &LogFollower,
        views: &Views,
        event_type: Option<&str>,
        dismissed: impl FnOnce() -> Vec<Dismissal>,
        time_max: Duration,
    ) -> Option<UnreadFailures> {
        let tables = unread_tables(views);
        let concerns = |table: &Arc<EventTable>| event_type.is_none_or(|t| table.event_type == t);
        if !tables.iter().any(concerns) {
            return None;
        }
        let mut state = self.0.lock();
        if state.tables != tables {
            let failures = Failures::new(&[], &dismissed(), &self.0.memory);
            *state = UnreadState { tables, through: 0, failures, is_reading: false };
        }
        let (failures, head) = (state.failures.clone(), log.head().position);
        if state.through < head && !state.is_reading {
            state.is_reading = self.read_on(&state, log);
        }
        let is_waited_for = |state: &mut UnreadState| {
            state.failures.is(&failures) && state.is_reading && state.through < head
        };
        let waited = self.0.gets_on.wait_timeout_while(state, time_max, is_waited_for);
        let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        // Other query files may have come meanwhile: then nothing is known of theirs.
        let through = if state.failures.is(&failures) { state.through } else { 0 };
        Some(UnreadFailures { failures, through })
    }

    /// Begins to read from where the reading has come to; false if it cannot begin.
    fn read_on(&self, state: &UnreadState, log: &LogFollower) -> bool {
        let reading = UnreadReading {
            shared: Arc::clone(&self.0),
            log: log.clone(),
            tables: state.tables.clone(),
            failures: state.failures.clone(),
            after: state.through,
        };
        let thread = std::thread::Builder::new().name("unread events".to_string());
        match thread.spawn(move || reading.run()) {
            Ok(_) => true,
            Err(error) => {
                tracing::error!(%error, "the log is not read for dead letters now");
                false
            }
        }
    }
}

impl UnreadShared {
    fn lock(&self) -> MutexGuard<'_, UnreadState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One reading of the log, from where the one before has ended.
struct UnreadReading {
    shared: Arc<UnreadShared>,
    log: LogFollower,
    tables: Vec<Arc<EventTable>>,
    failures: Failures,
    after: Position,
}

impl UnreadReading {
    fn run(self) {
        be_nice();
        let read = self.read();
        if let Err(error) = &read {
            tracing::error!(%error, "the log cannot be read for dead letters");
        }
        let mut state = self.shared.lock();
        if state.failures.is(&self.failures) {
            state.is_reading = false;
        }
        self.shared.gets_on.notify_all();
    }

    /// Notes that events up to here were looked at; false if nobody wants to know it any more.
    fn get_on(&self, through: Position) -> bool {
        let mut state = self.shared.lock();
        let is_wanted = state.failures.is(&self.failures);
        if is_wanted {
            state.through = state.through.max(through);
            self.shared.gets_on.notify_all();
        }
        is_wanted
    }

    /// Reads up to the log's head.
    fn read(&self) -> Result<(), LogError> {
        let mut versions: BTreeMap<&str, BTreeSet<u32>> = BTreeMap::new();
        for table in &self.tables {
            versions.entry(&table.event_type).or_default().insert(table.version);
        }
        let mut validators: Vec<(&Arc<EventTable>, Validator)> =
            self.tables.iter().map(|table| (table, Validator::new(table))).collect();
        let head = self.log.head().position;
        let after = self.after.max(self.log.trimmed_through());
        let mut reader = self.log.read(after)?;
        while let Some(frame) = reader.next_frame()? {
            let events = frame
                .decompress()
                .map_err(|error| LogError::of_position(frame.first_position(), error))?;
            for event in events.iter().filter(|event| event.position > after) {
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
            if !self.get_on(frame.last_position()) {
                return Ok(());
            }
        }
        // Positions between the last frame and the head were lost.
        self.get_on(head);
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
