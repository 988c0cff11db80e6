//! When each row of a view was there: what `<view>_history` shows.
//!
//! A row is told as an interval of ticks, from the one at which it came to the one at which it went.
//! The open interval is written when the row comes; the closed one takes its place when it goes.
//! Both follow from the changes alone, so that after a crash the same intervals are written again.

use hashbrown::HashMap;

use crate::model::Tick;
use crate::model::view::Update;

use super::encode::{OutRow, row_hash};

/// A row, with how often it occurred, and from when to when (not included).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Interval {
    pub(super) row: OutRow,
    pub(super) from: Tick,
    /// `None` while it is there.
    pub(super) to: Option<Tick>,
}

impl Interval {
    /// The version of the row in ClickHouse. The ended interval has the higher one, so that it replaces the
    /// open one with the same beginning.
    pub(super) fn version(&self) -> Tick {
        self.to.unwrap_or(self.from)
    }

    /// About how much memory it takes.
    pub(super) fn bytes(&self) -> usize {
        size_of::<Interval>() + self.row.key.heap_bytes() + self.row.value.heap_bytes()
    }
}

/// The rows that are there now.
#[derive(Default)]
pub(super) struct History {
    /// By the row's hash: since when, and how often.
    rows: HashMap<[u64; 2], (Tick, i64)>,
}

impl History {
    /// Takes a change in; calls `tell` with the interval that it ends and the one that it begins.
    /// Changes of one row must come in the order of their ticks, once per tick.
    pub(super) fn change(&mut self, tick: Tick, update: &Update, mut tell: impl FnMut(Interval)) {
        let Update { key, value, diff } = update;
        let hash = row_hash(key) ^ row_hash(value).rotate_left(1);
        let place = [hash as u64, (hash >> 64) as u64];
        let (since, before) = self.rows.get(&place).copied().unwrap_or((tick, 0));
        let after = before + diff;
        let mut interval = |count: i64, from, to| {
            if let Ok(multiplicity @ 1..) = u64::try_from(count) {
                let row = OutRow { key: key.clone(), value: value.clone(), multiplicity };
                tell(Interval { row, from, to });
            }
        };
        interval(before, since, Some(tick));
        interval(after, tick, None);
        if after == 0 {
            self.rows.remove(&place);
        } else {
            self.rows.insert(place, (tick, after));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::row::Row;

    #[test]
    fn an_interval_ends_where_the_next_one_begins() {
        let mut history = History::default();
        let mut told = Vec::new();
        let update = |value: &str, diff| Update {
            key: Row::from_slice(b"k"),
            value: Row::from_slice(value.as_bytes()),
            diff,
        };
        for (tick, value, diff) in
            [(1, "a", 1), (4, "a", -1), (4, "b", 1), (6, "b", 2), (9, "b", -3), (9, "a", 1)]
        {
            history.change(tick, &update(value, diff), |interval| {
                let Interval { row, from, to } = interval;
                let value = String::from_utf8_lossy(&row.value).into_owned();
                told.push((value, row.multiplicity, from, to));
            });
        }
        let told: Vec<(&str, u64, u64, Option<u64>)> =
            told.iter().map(|(v, n, from, to)| (v.as_str(), *n, *from, *to)).collect();
        let expected = [
            ("a", 1, 1, None),
            ("a", 1, 1, Some(4)),
            ("b", 1, 4, None),
            ("b", 1, 4, Some(6)),
            ("b", 3, 6, None),
            ("b", 3, 6, Some(9)),
            ("a", 1, 9, None),
        ];
        assert_eq!(told, expected);
    }
}
