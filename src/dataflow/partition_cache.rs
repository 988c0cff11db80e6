//! Partitions of arranged rows that operators hold in order, beside the arrangement: those that changed
//! last. The others are read again when they change.

use std::cell::Cell;
use std::collections::HashMap;

use super::guard::Account;
use super::reclaim::free_elsewhere;
use crate::model::row::Row;

thread_local! {
    static HELD: HeldPartitions = const {
        HeldPartitions { bytes_max: Cell::new(0), caches: Cell::new(0) }
    };
}

/// The bytes that the operators of a worker may hold of partitions, and the number of their caches.
struct HeldPartitions {
    bytes_max: Cell<usize>,
    caches: Cell<usize>,
}

/// All operators of this thread hold partitions of so many bytes from now on, each an equal part.
pub fn hold_up_to(bytes_max: usize) {
    HELD.with(|held| held.bytes_max.set(bytes_max));
}

/// The partitions that changed last.
///
/// When `recent` has grown to half of what may be held, it becomes `older`, and what was in `older` and
/// did not change meanwhile is forgotten. A partition that is larger stays until another one changes.
pub struct PartitionCache<C: Send + 'static> {
    recent: HashMap<Row, (C, usize)>,
    older: HashMap<Row, (C, usize)>,
    recent_bytes: usize,
    older_bytes: usize,
    account: Account,
}

impl<C: Send + 'static> PartitionCache<C> {
    /// Nothing is held yet; `account` counts what will be.
    pub fn new(account: Account) -> Self {
        HELD.with(|held| held.caches.set(held.caches.get() + 1));
        let (recent, older) = (HashMap::new(), HashMap::new());
        PartitionCache { recent, older, recent_bytes: 0, older_bytes: 0, account }
    }

    /// Takes out a partition, if it is held.
    pub fn take(&mut self, key: &Row) -> Option<C> {
        let (content, bytes) = match self.recent.remove(key) {
            Some((content, bytes)) => {
                self.recent_bytes -= bytes;
                (content, bytes)
            }
            None => {
                let (content, bytes) = self.older.remove(key)?;
                self.older_bytes -= bytes;
                (content, bytes)
            }
        };
        self.account.add(-(bytes as isize));
        Some(content)
    }

    /// Holds a partition that takes so many bytes.
    pub fn put(&mut self, key: Row, content: C, bytes: usize) {
        let bytes = bytes + size_of::<(Row, C, usize)>() + key.heap_bytes();
        self.recent_bytes += bytes;
        self.recent.insert(key, (content, bytes));
        let share = HELD.with(|held| held.bytes_max.get() / held.caches.get().max(1));
        if self.recent_bytes > share / 2 {
            let older = std::mem::replace(&mut self.older, std::mem::take(&mut self.recent));
            self.older_bytes = std::mem::take(&mut self.recent_bytes);
            // A large partition leaves none: it is taken out for each change.
            if !older.is_empty() {
                free_elsewhere(older);
            }
        }
        if share == 0 {
            self.clear();
        }
        self.account.set(self.recent_bytes + self.older_bytes);
    }

    /// Forgets all partitions.
    pub fn clear(&mut self) {
        free_elsewhere((std::mem::take(&mut self.recent), std::mem::take(&mut self.older)));
        (self.recent_bytes, self.older_bytes) = (0, 0);
        self.account.set(0);
    }
}

impl<C: Send + 'static> Drop for PartitionCache<C> {
    fn drop(&mut self) {
        HELD.with(|held| held.caches.set(held.caches.get() - 1));
        self.clear();
    }
}
