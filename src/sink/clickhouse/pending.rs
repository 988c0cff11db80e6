//! Changes that wait for their flush, consolidated per key (per row where there is no key), so that
//! their size follows what changed and not how often.

use std::sync::{Mutex, OnceLock, PoisonError};

use hashbrown::HashMap;
use smallvec::SmallVec;

use crate::model::row::Row;
use crate::model::view::Update;

use super::encode::row_hash;

/// Values of one key with how often each was added, less how often it was retracted; never 0.
pub(super) type Net = SmallVec<[(Row, i64); 2]>;

/// Bytes of a map entry and its bookkeeping, beyond what its rows hold on the heap.
const ENTRY_BYTES: usize = size_of::<Row>() + size_of::<Net>() + 16;

/// Net changes since the last flush.
#[derive(Clone, Default)]
pub(super) struct NetChanges {
    changes: HashMap<Row, Net>,
    heap_bytes: usize,
}

/// The net changes of one flush, which a snapshot may ask for, too.
pub(super) struct FlushChanges {
    is_empty: bool,
    /// As they were gathered; nothing once they are sorted.
    gathered: Mutex<NetChanges>,
    sorted: OnceLock<Vec<(Row, Net)>>,
}

/// The net change of one key.
pub(super) struct KeyChange<'a> {
    pub(super) key: &'a Row,
    /// The row's value before, if there was one.
    pub(super) old: Option<&'a Row>,
    /// Its value now, if there is one.
    pub(super) new: Option<&'a Row>,
    /// More than one row was left for the key; `new` is the greatest.
    pub(super) repeated: bool,
}

impl NetChanges {
    /// Adds one change.
    pub(super) fn add(&mut self, update: Update) {
        let Update { key, value, diff } = update;
        match self.changes.get_mut(&key) {
            None => {
                self.heap_bytes += key.heap_bytes() + value.heap_bytes();
                self.changes.insert(key, Net::from_iter([(value, diff)]));
            }
            Some(net) => {
                match net.iter().position(|(known, _)| *known == value) {
                    None => {
                        self.heap_bytes += value.heap_bytes();
                        net.push((value, diff));
                    }
                    Some(index) => {
                        net[index].1 += diff;
                        if net[index].1 == 0 {
                            self.heap_bytes -= net.swap_remove(index).0.heap_bytes();
                        }
                    }
                }
                if net.is_empty()
                    && let Some((key, _)) = self.changes.remove_entry(&key)
                {
                    self.heap_bytes -= key.heap_bytes();
                }
            }
        }
    }

    /// True when the net change is none.
    pub(super) fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// About how much memory the changes take.
    pub(super) fn bytes(&self) -> usize {
        self.changes.len() * ENTRY_BYTES + self.heap_bytes
    }

    /// The changes in no order.
    pub(super) fn updates(&self) -> Vec<Update> {
        updates(self.changes.iter())
    }
}

impl From<NetChanges> for FlushChanges {
    fn from(changes: NetChanges) -> Self {
        let is_empty = changes.is_empty();
        FlushChanges { is_empty, gathered: Mutex::new(changes), sorted: OnceLock::new() }
    }
}

impl FlushChanges {
    /// True when the flush has no rows to write.
    pub(super) fn is_empty(&self) -> bool {
        self.is_empty
    }

    /// In the order of the keys' bytes, so that the same changes make the same blocks however they came.
    /// Takes its time when it is first called.
    pub(super) fn sorted(&self) -> &[(Row, Net)] {
        self.sorted.get_or_init(|| {
            let mut gathered = self.gathered.lock().unwrap_or_else(PoisonError::into_inner);
            let changes = std::mem::take(&mut *gathered).changes;
            let mut changes: Vec<(Row, Net)> = changes.into_iter().collect();
            changes.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
            changes
        })
    }

    /// The changes.
    pub(super) fn updates(&self) -> Vec<Update> {
        updates(self.sorted().iter().map(|(key, net)| (key, net)))
    }
}

fn updates<'a>(changes: impl Iterator<Item = (&'a Row, &'a Net)>) -> Vec<Update> {
    let update = |key: &Row, (value, diff): &(Row, i64)| Update {
        key: key.clone(),
        value: value.clone(),
        diff: *diff,
    };
    changes.flat_map(|(key, net)| net.iter().map(move |change| update(key, change))).collect()
}

/// The changes of a view with a key.
pub(super) fn key_changes(changes: &[(Row, Net)]) -> impl Iterator<Item = KeyChange<'_>> {
    changes.iter().map(|(key, net)| {
        let added = || net.iter().filter(|(_, diff)| *diff > 0);
        let retracted = net.iter().filter(|(_, diff)| *diff < 0);
        let repeated = added().count() > 1 || added().any(|(_, diff)| *diff > 1);
        let new = added().map(|(value, _)| value).max();
        let old = retracted.map(|(value, _)| value).max();
        KeyChange { key, old, new, repeated }
    })
}

/// The changes of a view without a key: rows, and by how much their number changed.
pub(super) fn row_changes(changes: &[(Row, Net)]) -> impl Iterator<Item = (&Row, i64)> {
    changes.iter().map(|(row, net)| (row, net.iter().map(|(_, diff)| diff).sum()))
}

/// How often each row of a view without a key occurs. ClickHouse is told the number, while the
/// dataflow tells by how much it changed.
#[derive(Default)]
pub(super) struct Multiplicities {
    /// By the row's hash, which is also its identity in ClickHouse.
    counts: HashMap<[u64; 2], i64>,
}

impl Multiplicities {
    /// Changes a row's number and returns the new one. It may be negative for a moment, while not
    /// all changes of a tick have been seen.
    pub(super) fn change(&mut self, row: &[u8], diff: i64) -> i64 {
        let hash = row_hash(row);
        let entry = self.counts.entry([hash as u64, (hash >> 64) as u64]);
        let entry = entry.and_modify(|count| *count += diff).or_insert(diff);
        let count = *entry;
        if count == 0 {
            self.counts.remove(&[hash as u64, (hash >> 64) as u64]);
        }
        count
    }
}
