//! The first rows of a group of an input that only grows. They are no aggregate, but kept like one.

use serde::{Deserialize, Serialize};

use super::slot::State;
use crate::model::packed::{put, put_bytes, take, take_bytes};
use crate::model::row::Row;

/// A state that keeps the first rows of a group.
pub trait KeptRows: State {
    /// The first `limit` of rows that come in order.
    fn of_rows<'a>(rows: impl Iterator<Item = &'a Row>, limit: u32) -> Self;

    /// Takes out the rows, in order.
    fn take(&mut self) -> impl Iterator<Item = Row>;
}

/// The first row.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct FirstRow(Option<Box<[u8]>>);

/// The first `limit` rows, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct FirstRows {
    limit: u32,
    rows: Vec<Row>,
}

impl State for FirstRow {
    const TAKES_BACK: bool = false;

    #[inline]
    fn merge(&mut self, other: &Self) {
        if let Some(row) = &other.0
            && self.0.as_ref().is_none_or(|kept| row < kept)
        {
            self.0 = Some(row.clone());
        }
    }

    #[inline]
    fn is_zero(&self) -> bool {
        self.0.is_none()
    }

    fn heap_bytes(&self) -> usize {
        self.0.as_ref().map_or(0, |row| row.len())
    }

    fn pack(&self, out: &mut Vec<u8>) {
        put(out, u64::from(self.0.is_some()));
        if let Some(row) = &self.0 {
            put_bytes(out, row);
        }
    }

    fn unpack(from: &mut &[u8]) -> Self {
        FirstRow((take(from) == 1).then(|| take_bytes(from).into()))
    }
}

impl KeptRows for FirstRow {
    fn of_rows<'a>(mut rows: impl Iterator<Item = &'a Row>, _: u32) -> Self {
        FirstRow(rows.next().map(|row| row[..].into()))
    }

    fn take(&mut self) -> impl Iterator<Item = Row> {
        self.0.take().into_iter().map(|row| Row::from_slice(&row))
    }
}

impl State for FirstRows {
    const TAKES_BACK: bool = false;

    fn merge(&mut self, other: &Self) {
        let limit = self.limit as usize;
        let full = self.rows.len() == limit;
        let last = self.rows.last();
        if full && other.rows.first().is_none_or(|first| last.is_some_and(|l| l <= first)) {
            return;
        }
        self.rows.extend(other.rows.iter().cloned());
        self.rows.sort_unstable();
        self.rows.truncate(limit);
    }

    fn is_zero(&self) -> bool {
        self.rows.is_empty()
    }

    fn heap_bytes(&self) -> usize {
        let rows = self.rows.iter().map(|row| size_of::<Row>() + row.heap_bytes());
        rows.sum()
    }

    fn pack(&self, out: &mut Vec<u8>) {
        put(out, self.limit.into());
        put(out, self.rows.len() as u64);
        for row in &self.rows {
            put_bytes(out, row);
        }
    }

    fn unpack(from: &mut &[u8]) -> Self {
        let (limit, count) = (take(from) as u32, take(from));
        let rows = (0..count).map(|_| Row::from_slice(take_bytes(from))).collect();
        FirstRows { limit, rows }
    }
}

impl KeptRows for FirstRows {
    fn of_rows<'a>(rows: impl Iterator<Item = &'a Row>, limit: u32) -> Self {
        FirstRows { limit, rows: rows.take(limit as usize).cloned().collect() }
    }

    fn take(&mut self) -> impl Iterator<Item = Row> {
        std::mem::take(&mut self.rows).into_iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn merged_first_rows_are_the_first_of_both_with_their_copies() {
        let kept = |rows: &[u8]| {
            let rows: Vec<Row> = rows.iter().map(|byte| Row::from_slice(&[*byte])).collect();
            FirstRows::of_rows(rows.iter(), 3)
        };
        let mut first = kept(&[2, 5]);
        first.merge(&kept(&[2, 3, 9]));
        assert_eq!(first, kept(&[2, 2, 3]));
        first.merge(&kept(&[3, 4]));
        assert_eq!(first, kept(&[2, 2, 3]));
        first.merge(&kept(&[1]));
        assert_eq!(first, kept(&[1, 2, 2]));
    }
}
