//! Rows that failed: counted per expression and reason, with some of their events as samples.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::model::Position;

/// How many events are remembered per expression and reason.
const SAMPLES_MAX: usize = 100;
/// How many pairs of expression and reason are told apart; further ones share an entry.
const ENTRIES_MAX: usize = 1_000;

/// The failing rows of one view. Its workers share it, and whoever reports them.
#[derive(Clone, Debug, Default)]
pub struct Failures(Arc<Mutex<HashMap<(Arc<str>, String), Entry>>>);

#[derive(Clone, Debug, Default)]
struct Entry {
    count: i64,
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
    /// Some of the rows' events, where rows were still events.
    pub positions: Vec<Position>,
}

impl Failures {
    fn lock(&self) -> MutexGuard<'_, HashMap<(Arc<str>, String), Entry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a failing row `diff` times; a negative `diff` says that it is gone.
    pub fn record(&self, expression: &Arc<str>, reason: &str, at: Option<Position>, diff: i64) {
        let mut entries = self.lock();
        let mut key = (Arc::clone(expression), reason.to_string());
        if entries.len() >= ENTRIES_MAX && !entries.contains_key(&key) {
            key.1 = "further reasons".to_string();
        }
        let entry = entries.entry(key.clone()).or_default();
        entry.count += diff;
        if let Some(position) = at
            && (entry.positions.len() < SAMPLES_MAX || entry.positions.contains_key(&position))
        {
            let times = entry.positions.entry(position).or_default();
            *times += diff;
            if *times == 0 {
                entry.positions.remove(&position);
            }
        }
        if entry.count == 0 && entry.positions.is_empty() {
            entries.remove(&key);
        }
    }

    /// What fails now.
    pub fn list(&self) -> Vec<Failure> {
        let entries = self.lock();
        let list = entries.iter().map(|((expression, reason), entry)| Failure {
            expression: expression.to_string(),
            reason: reason.clone(),
            count: entry.count,
            positions: entry.positions.keys().copied().collect(),
        });
        list.collect()
    }

    /// How many rows fail now.
    pub fn count(&self) -> i64 {
        self.lock().values().map(|entry| entry.count).sum()
    }
}
