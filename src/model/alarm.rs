//! Alarms: conditions that need a person or pass by themselves. Each is logged once when it begins,
//! and listed until it ends.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use super::clock::now_ms;

/// The part of the server that an alarm is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Part {
    /// The event log and its disk.
    Log,
    /// The query files and their planning.
    Queries,
    /// The connection to ClickHouse.
    ClickHouse,
    /// The table of one view in ClickHouse; the subject is the view.
    View,
    /// The system's clock.
    Clock,
    /// The tokens that give access.
    Access,
    /// The process that keeps the views.
    ReadSide,
    /// A task of the server itself.
    Server,
}

impl Part {
    /// The word of the wire and of the log.
    pub fn as_str(self) -> &'static str {
        match self {
            Part::Log => "log",
            Part::Queries => "queries",
            Part::ClickHouse => "clickhouse",
            Part::View => "view",
            Part::Clock => "clock",
            Part::Access => "access",
            Part::ReadSide => "read_side",
            Part::Server => "server",
        }
    }
}

/// Something that is wrong and needs a person, or passes by itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Alarm {
    pub part: Part,
    /// Which segment, file or task; empty where the part has only one.
    pub subject: String,
    /// The problem and what to do, in one line.
    pub message: String,
    /// When it began, in milliseconds since the Unix epoch.
    pub since_ms: u64,
}

/// The alarms of one server. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Alarms {
    own: Arc<Mutex<BTreeMap<(Part, String), Alarm>>>,
    told: Arc<Mutex<Vec<Alarm>>>,
}

impl Alarms {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<(Part, String), Alarm>> {
        self.own.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lists these as well, which another process has begun and logged.
    pub fn tell(&self, alarms: Vec<Alarm>) {
        *self.told.lock().unwrap_or_else(PoisonError::into_inner) = alarms;
    }

    /// Begins an alarm, or replaces its message. Logs it when it begins, not when only the words
    /// change.
    pub fn raise(&self, part: Part, subject: &str, message: impl Into<String>) {
        let message = message.into();
        let mut alarms = self.lock();
        let alarm = alarms.entry((part, subject.to_string())).or_insert_with(|| {
            tracing::error!(part = part.as_str(), subject, "{message}");
            Alarm { part, subject: subject.to_string(), message: String::new(), since_ms: now_ms() }
        });
        alarm.message = message;
    }

    /// Ends an alarm, if there is one.
    pub fn clear(&self, part: Part, subject: &str) {
        if self.lock().remove(&(part, subject.to_string())).is_some() {
            tracing::info!(part = part.as_str(), subject, "the alarm is over");
        }
    }

    /// Ends the alarms of a part whose subject is gone.
    pub fn retain(&self, part: Part, is_there: impl Fn(&str) -> bool) {
        self.lock().retain(|(of, subject), _| *of != part || is_there(subject));
    }

    /// All alarms, by part and subject, followed by those of another process.
    pub fn list(&self) -> Vec<Alarm> {
        let mut alarms: Vec<Alarm> = self.lock().values().cloned().collect();
        alarms.extend_from_slice(&self.told.lock().unwrap_or_else(PoisonError::into_inner));
        alarms
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alarm_keeps_its_beginning_and_its_last_message() {
        let alarms = Alarms::default();
        alarms.raise(Part::Log, "a", "first");
        let since = alarms.list()[0].since_ms;
        alarms.raise(Part::Log, "a", "second");
        alarms.raise(Part::ClickHouse, "", "away");
        let list = alarms.list();
        assert_eq!(list.len(), 2);
        assert_eq!((list[0].message.as_str(), list[0].since_ms), ("second", since));
        alarms.clear(Part::Log, "a");
        alarms.clear(Part::Log, "a");
        assert_eq!(alarms.list().len(), 1);
    }

    #[test]
    fn alarms_of_subjects_that_are_gone_end_and_others_stay() {
        let alarms = Alarms::default();
        alarms.raise(Part::View, "kept", "tampered with");
        alarms.raise(Part::View, "gone", "tampered with");
        alarms.raise(Part::ClickHouse, "gone", "away");
        alarms.retain(Part::View, |view| view == "kept");
        let left: Vec<_> = alarms.list().into_iter().map(|a| (a.part, a.subject)).collect();
        let expected = [(Part::ClickHouse, "gone"), (Part::View, "kept")];
        assert_eq!(left, expected.map(|(part, subject)| (part, subject.to_string())));
    }
}
