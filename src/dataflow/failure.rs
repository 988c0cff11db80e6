//! Rows that failed: counted per expression and reason, with the events that they come from.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use crate::decode::Violation;
use crate::model::Position;
use crate::model::event::EventRef;

/// How many failing events of one view are known by their positions; further ones are counted.
const POSITIONS_MAX: usize = 100_000;
/// How many pairs of expression and reason are told apart; further ones share an entry.
const ENTRIES_MAX: usize = 1_000;

/// The failing rows of one view. Its workers share it, and whoever reports them.
#[derive(Clone, Debug, Default)]
pub struct Failures(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    entries: HashMap<Key, Entry>,
    dismissals: Vec<Dismissal>,
    /// How many positions there are in all entries.
    positions: usize,
}

type Key = (Arc<str>, String);

#[derive(Clone, Debug, Default)]
struct Entry {
    /// All that fail now.
    count: i64,
    /// How many of them were dismissed with their position.
    dismissed: i64,
    /// How many are at `positions`.
    listed: i64,
    /// Those that were not dismissed.
    positions: BTreeMap<Position, i64>,
}

/// Rows that fail for one reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The expression, as SQL or near to it.
    pub expression: String,
    pub reason: String,
    /// How many rows fail now. Between two ticks it may pass through other numbers.
    pub count: i64,
    /// The rows' events in order, where rows were still events and as far as they are known.
    pub positions: Vec<Position>,
}

/// Failures that were accepted as lost, and are not told of any more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dismissal {
    pub expression: String,
    pub reason: String,
    /// The failing events in question.
    pub from: Position,
    pub to: Position,
    /// Of rows that belong to no event, how many.
    pub rows: i64,
}

impl Dismissal {
    fn is_of(&self, (expression, reason): &Key) -> bool {
        *self.expression == **expression && self.reason == *reason
    }

    fn covers(&self, position: Position) -> bool {
        (self.from..=self.to).contains(&position)
    }
}

impl Failures {
    /// No failures yet, and those that were dismissed once.
    pub fn new(dismissals: Vec<Dismissal>) -> Self {
        Failures(Arc::new(Mutex::new(State { dismissals, ..State::default() })))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a failing row `diff` times; a negative `diff` says that it is gone.
    pub fn record(&self, expression: &Arc<str>, reason: &str, at: Option<Position>, diff: i64) {
        let mut state = self.lock();
        let state = &mut *state;
        let mut key = (Arc::clone(expression), reason.to_string());
        if state.entries.len() >= ENTRIES_MAX && !state.entries.contains_key(&key) {
            key.1 = "further reasons".to_string();
        }
        let dismissed = at.is_some_and(|position| {
            state.dismissals.iter().any(|d| d.is_of(&key) && d.covers(position))
        });
        let entry = state.entries.entry(key.clone()).or_default();
        entry.count += diff;
        match at {
            Some(_) if dismissed => entry.dismissed += diff,
            Some(position)
                if state.positions < POSITIONS_MAX || entry.positions.contains_key(&position) =>
            {
                let before = entry.positions.len();
                let times = entry.positions.entry(position).or_default();
                *times += diff;
                entry.listed += diff;
                if *times == 0 {
                    entry.positions.remove(&position);
                }
                state.positions = state.positions + entry.positions.len() - before;
            }
            _ => {}
        }
        if entry.count == 0 && entry.positions.is_empty() {
            state.entries.remove(&key);
        }
    }

    /// Counts an event in a version that nothing declares.
    pub fn record_undeclared(&self, event: &EventRef<'_>) {
        let expression: Arc<str> = format!("event type {}", event.event_type).into();
        let reason = format!("version {} is not declared", event.version);
        self.record(&expression, &reason, Some(event.position), 1);
    }

    /// Counts an event that does not fit its table.
    pub fn record_misfit(&self, table: &str, violation: &Violation, at: Position) {
        let expression: Arc<str> = format!("table {table}").into();
        let reason = format!("{}: {}", violation.pointer, violation.message);
        self.record(&expression, &reason, Some(at), 1);
    }

    /// What fails now and was not dismissed, in the order of expressions and reasons.
    pub fn list(&self) -> Vec<Failure> {
        let state = self.lock();
        let list = state.entries.iter().map(|(key, entry)| Failure {
            expression: key.0.to_string(),
            reason: key.1.clone(),
            count: state.visible(key, entry),
            positions: entry.positions.keys().copied().collect(),
        });
        let mut list: Vec<Failure> = list.filter(|failure| failure.count > 0).collect();
        list.sort_by(|a, b| (&a.expression, &a.reason).cmp(&(&b.expression, &b.reason)));
        list
    }

    /// How many rows fail now and were not dismissed.
    pub fn count(&self) -> i64 {
        let state = self.lock();
        state.entries.iter().map(|(key, entry)| state.visible(key, entry).max(0)).sum()
    }

    /// Tells no more of these failures.
    pub fn dismiss(&self, dismissal: Dismissal) {
        let mut state = self.lock();
        let state = &mut *state;
        for (_, entry) in state.entries.iter_mut().filter(|(key, _)| dismissal.is_of(key)) {
            let before = entry.positions.len();
            entry.positions.retain(|position, times| {
                let covered = dismissal.covers(*position);
                if covered {
                    entry.dismissed += *times;
                    entry.listed -= *times;
                }
                !covered
            });
            state.positions = state.positions + entry.positions.len() - before;
        }
        state.dismissals.push(dismissal);
    }
}

impl State {
    fn visible(&self, key: &Key, entry: &Entry) -> i64 {
        let rows: i64 = self.dismissals.iter().filter(|d| d.is_of(key)).map(|d| d.rows).sum();
        // Rows without a known event may have been dismissed as a number.
        let others = entry.count - entry.dismissed - entry.listed;
        entry.listed + (others - rows).max(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(failures: &Failures) -> Vec<(i64, Vec<Position>)> {
        failures.list().into_iter().map(|f| (f.count, f.positions)).collect()
    }

    #[test]
    fn what_is_dismissed_is_not_told_of_again_and_what_comes_later_is() {
        let failures = Failures::default();
        let expression: Arc<str> = "a / b".into();
        let record = |failures: &Failures, at, diff| {
            failures.record(&expression, "division by zero", at, diff);
        };
        for position in [3, 5, 9] {
            record(&failures, Some(position), 1);
        }
        record(&failures, None, 2);
        assert_eq!(shown(&failures), [(5, vec![3, 5, 9])]);
        let dismissal = |from, to, rows| Dismissal {
            expression: "a / b".to_string(),
            reason: "division by zero".to_string(),
            from,
            to,
            rows,
        };
        failures.dismiss(dismissal(1, 5, 0));
        assert_eq!(shown(&failures), [(3, vec![9])]);
        failures.dismiss(dismissal(6, 9, 2));
        assert_eq!(shown(&failures), []);
        record(&failures, Some(11), 1);
        record(&failures, None, 1);
        record(&failures, Some(3), -1);
        assert_eq!(shown(&failures), [(2, vec![11])]);
        // The same history, seen after the dismissal, as after a restart.
        let again = Failures::new(vec![dismissal(1, 5, 0), dismissal(6, 9, 2)]);
        for position in [3, 5, 9, 11] {
            record(&again, Some(position), 1);
        }
        record(&again, None, 3);
        assert_eq!(shown(&again), [(2, vec![11])]);
        assert_eq!(again.count(), 2);
    }
}
