//! The first rows of a group of an input that only grows. They are no aggregate, but kept like one.

use serde::{Deserialize, Serialize};

use super::slot::State;
use crate::model::packed::{put, put_bytes, put_counted, take, take_bytes};
use crate::model::row::Row;

/// A state that keeps the first rows of a group.
pub trait KeptRows: State {
    /// The first `limit` of rows that come in order.
    fn of_rows<'a>(rows: impl Iterator<Item = &'a Row>, limit: u32) -> Self;

    /// The rows, in order.
    fn rows(&self) -> impl Iterator<Item = &[u8]>;
}

/// The first row.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct FirstRow(Option<Box<[u8]>>);

/// The first `limit` rows, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct FirstRows {
    limit: u32,
    count: u32,
    /// One behind the other, each behind the number of its bytes.
    rows: Box<[u8]>,
}

impl FirstRow {
    /// Takes apart what was packed: the row, if there is one.
    fn part<'a>(from: &mut &'a [u8]) -> Option<&'a [u8]> {
        (take(from) == 1).then(|| take_bytes(from))
    }
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
        FirstRow(FirstRow::part(from).map(Box::from))
    }

    fn pack_sum(one: &mut &[u8], two: &mut &[u8], out: &mut Vec<u8>) -> bool {
        let least = match (FirstRow::part(one), FirstRow::part(two)) {
            (Some(one), Some(two)) => Some(one.min(two)),
            (one, two) => one.or(two),
        };
        put(out, u64::from(least.is_some()));
        if let Some(row) = least {
            put_bytes(out, row);
        }
        least.is_none()
    }
}

impl KeptRows for FirstRow {
    fn of_rows<'a>(mut rows: impl Iterator<Item = &'a Row>, _: u32) -> Self {
        FirstRow(rows.next().map(|row| row[..].into()))
    }

    fn rows(&self) -> impl Iterator<Item = &[u8]> {
        self.0.iter().map(|row| &row[..])
    }
}

/// Rows that stand one behind the other.
struct PackedRows<'a>(&'a [u8]);

impl<'a> Iterator for PackedRows<'a> {
    type Item = &'a [u8];

    #[inline]
    fn next(&mut self) -> Option<&'a [u8]> {
        (!self.0.is_empty()).then(|| take_bytes(&mut self.0))
    }
}

/// The first `count` of two lists of rows, in order.
fn put_first(one: &[u8], two: &[u8], count: u32, out: &mut Vec<u8>) {
    let (mut ones, mut twos) = (PackedRows(one), PackedRows(two));
    let (mut one, mut two) = (ones.next(), twos.next());
    for _ in 0..count {
        let is_one = match (one, two) {
            (Some(one), Some(two)) => one <= two,
            (one, _) => one.is_some(),
        };
        let row = match is_one {
            true => std::mem::replace(&mut one, ones.next()),
            false => std::mem::replace(&mut two, twos.next()),
        };
        put_bytes(out, row.unwrap_or_default());
    }
}

impl FirstRows {
    /// Takes apart what was packed: limit, number of rows, rows.
    fn parts<'a>(from: &mut &'a [u8]) -> (u32, u32, &'a [u8]) {
        let (limit, count) = (take(from) as u32, take(from) as u32);
        (limit, count, take_bytes(from))
    }
}

impl State for FirstRows {
    const TAKES_BACK: bool = false;

    fn merge(&mut self, other: &Self) {
        if self.count == self.limit {
            let first = PackedRows(&other.rows).next();
            let last = PackedRows(&self.rows).last();
            if first.is_none_or(|first| last.is_some_and(|last| last <= first)) {
                return;
            }
        }
        self.count = self.count.saturating_add(other.count).min(self.limit);
        let mut rows = Vec::with_capacity(self.rows.len() + other.rows.len());
        put_first(&self.rows, &other.rows, self.count, &mut rows);
        self.rows = rows.into();
    }

    fn is_zero(&self) -> bool {
        self.count == 0
    }

    fn heap_bytes(&self) -> usize {
        self.rows.len()
    }

    fn pack(&self, out: &mut Vec<u8>) {
        put(out, self.limit.into());
        put(out, self.count.into());
        put_bytes(out, &self.rows);
    }

    fn unpack(from: &mut &[u8]) -> Self {
        let (limit, count, rows) = FirstRows::parts(from);
        FirstRows { limit, count, rows: rows.into() }
    }

    fn pack_sum(one: &mut &[u8], two: &mut &[u8], out: &mut Vec<u8>) -> bool {
        let (limit, one_count, one) = FirstRows::parts(one);
        let (_, two_count, two) = FirstRows::parts(two);
        let count = one_count.saturating_add(two_count).min(limit);
        put(out, limit.into());
        put(out, count.into());
        put_counted(out, |out| put_first(one, two, count, out));
        count == 0
    }
}

impl KeptRows for FirstRows {
    fn of_rows<'a>(rows: impl Iterator<Item = &'a Row>, limit: u32) -> Self {
        let (mut count, mut packed) = (0, Vec::new());
        for row in rows.take(limit as usize) {
            put_bytes(&mut packed, row);
            count += 1;
        }
        FirstRows { limit, count, rows: packed.into() }
    }

    fn rows(&self) -> impl Iterator<Item = &[u8]> {
        PackedRows(&self.rows)
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
        let pack = |rows: &FirstRows| {
            let mut out = Vec::new();
            rows.pack(&mut out);
            out
        };
        let (one, two, mut sum) = (pack(&kept(&[4, 6])), pack(&kept(&[5, 7])), Vec::new());
        assert!(!FirstRows::pack_sum(&mut &one[..], &mut &two[..], &mut sum));
        assert_eq!(FirstRows::unpack(&mut &sum[..]), kept(&[4, 5, 6]));
    }
}
