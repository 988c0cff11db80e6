//! The rows of a window function's partition, in order.
//!
//! They are held in chunks, each of which may know what the functions had come to before it, so that
//! a change at the end need not look at what lies before.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::model::row::Row;

/// A chunk with this many different rows is split.
const CHUNK_ROWS_MAX: usize = 256;
/// Two neighbours that have no more than this together become one.
const CHUNK_ROWS_JOIN: usize = 64;

/// A row of a partition and how often it is there.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct HeldRow {
    pub row: Row,
    pub copies: i64,
    /// Number of the row's first bytes, which are its ordering columns.
    order_bytes: u32,
}

impl HeldRow {
    /// A row that is there `copies` times; its first `order_bytes` bytes are what it is ordered by.
    pub fn new(row: Row, order_bytes: usize, copies: i64) -> Self {
        // Rows are far below 4 GiB: an event has a few megabytes at most.
        HeldRow { row, copies, order_bytes: order_bytes as u32 }
    }

    /// The bytes that it takes in a partition.
    pub fn bytes(&self) -> usize {
        size_of::<HeldRow>() + self.row.heap_bytes()
    }

    /// Number of rows of the partition that it stands for: 0 if `copies` is negative.
    pub fn present(&self) -> u64 {
        self.copies.max(0) as u64
    }

    /// The change that undoes this one.
    pub fn negated(&self) -> Self {
        HeldRow { copies: -self.copies, ..self.clone() }
    }

    /// The bytes of the ordering columns: equal for peers.
    pub fn order(&self) -> &[u8] {
        &self.row[..self.order_bytes as usize]
    }
}

/// Where a row is, or would be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RowPlace {
    chunk: usize,
    index: usize,
}

/// Ordered rows, and what `P` tells of the rows before some of them.
#[derive(Debug)]
pub struct Partition<P> {
    chunks: Vec<PartitionChunk<P>>,
    /// Number of the first chunks, whose `prior` still holds.
    known: usize,
    bytes: usize,
}

#[derive(Debug)]
struct PartitionChunk<P> {
    rows: Vec<HeldRow>,
    /// Number of rows, each counted as often as it is there.
    present: u64,
    prior: Option<Arc<P>>,
}

impl<P> PartitionChunk<P> {
    fn new(rows: Vec<HeldRow>) -> Self {
        let present = rows.iter().map(HeldRow::present).sum();
        PartitionChunk { rows, present, prior: None }
    }

    fn insert(&mut self, index: usize, held: HeldRow) {
        self.present += held.present();
        self.rows.insert(index, held);
    }
}

impl<P> Default for Partition<P> {
    fn default() -> Self {
        Partition { chunks: Vec::new(), known: 0, bytes: 0 }
    }
}

impl<P> Partition<P> {
    /// A partition of these rows, which are in order, each once.
    pub fn in_order(rows: Vec<HeldRow>) -> Self {
        let bytes = rows.iter().map(HeldRow::bytes).sum();
        let mut rows = rows.into_iter().peekable();
        let mut chunks = Vec::new();
        while rows.peek().is_some() {
            let rows = rows.by_ref().take(CHUNK_ROWS_MAX).collect();
            chunks.push(PartitionChunk::new(rows));
        }
        Partition { chunks, known: 0, bytes }
    }

    /// The bytes that its rows take.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// True when there are so few rows that nothing is gained by looking at some of them alone.
    pub fn is_small(&self) -> bool {
        self.chunks.len() <= 1 && self.chunks.iter().all(|c| c.rows.len() <= CHUNK_ROWS_JOIN)
    }

    /// Before all rows.
    pub fn start(&self) -> RowPlace {
        RowPlace { chunk: 0, index: 0 }
    }

    /// Behind all rows.
    pub fn end(&self) -> RowPlace {
        RowPlace { chunk: self.chunks.len(), index: 0 }
    }

    /// The first row for which `before` is not true; it is true for rows up to some place.
    fn point(&self, before: impl Fn(&HeldRow) -> bool) -> RowPlace {
        let chunk = self.chunks.partition_point(|chunk| chunk.rows.last().is_some_and(&before));
        let index =
            self.chunks.get(chunk).map_or(0, |chunk| chunk.rows.partition_point(|r| before(r)));
        RowPlace { chunk, index }
    }

    /// The first row that is not less than these bytes.
    pub fn seek(&self, row: &[u8]) -> RowPlace {
        self.point(|held| &held.row[..] < row)
    }

    /// The first row whose ordering columns are not less than these.
    pub fn first_peer(&self, order: &[u8]) -> RowPlace {
        self.point(|held| held.order() < order)
    }

    /// The first row whose ordering columns are greater than these.
    pub fn behind_peers(&self, order: &[u8]) -> RowPlace {
        self.point(|held| held.order() <= order)
    }

    /// The row at a place, unless that is the end.
    pub fn get(&self, place: RowPlace) -> Option<&HeldRow> {
        self.chunks.get(place.chunk)?.rows.get(place.index)
    }

    /// The place behind this one.
    pub fn next(&self, place: RowPlace) -> RowPlace {
        match self.chunks.get(place.chunk) {
            Some(chunk) if place.index + 1 < chunk.rows.len() => {
                RowPlace { index: place.index + 1, ..place }
            }
            Some(_) => RowPlace { chunk: place.chunk + 1, index: 0 },
            None => place,
        }
    }

    /// The place before this one, unless that is the start.
    pub fn previous(&self, place: RowPlace) -> Option<RowPlace> {
        if place.index > 0 {
            return Some(RowPlace { index: place.index - 1, ..place });
        }
        let chunk = place.chunk.checked_sub(1)?;
        Some(RowPlace { chunk, index: self.chunks[chunk].rows.len() - 1 })
    }

    /// The place so many rows further back, or the start.
    pub fn back(&self, from: RowPlace, count: u64) -> RowPlace {
        let (mut at, mut passed) = (from, 0);
        while passed < count
            && let Some(previous) = self.previous(at)
        {
            let chunk = &self.chunks[previous.chunk];
            let is_last = previous.index + 1 == chunk.rows.len();
            // All of a chunk at once, if more than it is to be passed.
            if is_last && passed + chunk.present < count {
                at = RowPlace { index: 0, ..previous };
                passed += chunk.present;
            } else {
                at = previous;
                passed += chunk.rows[previous.index].present();
            }
        }
        at
    }

    /// The place behind so many rows, or the end.
    pub fn on(&self, from: RowPlace, count: u64) -> RowPlace {
        let (mut at, mut passed) = (from, 0);
        while passed < count
            && let Some(chunk) = self.chunks.get(at.chunk)
        {
            if at.index == 0 && passed + chunk.present < count {
                at = RowPlace { chunk: at.chunk + 1, index: 0 };
                passed += chunk.present;
            } else {
                passed += chunk.rows[at.index].present();
                at = self.next(at);
            }
        }
        at
    }

    /// The rows between two places.
    pub fn rows(&self, from: RowPlace, to: RowPlace) -> impl Iterator<Item = (RowPlace, &HeldRow)> {
        let mut at = from;
        std::iter::from_fn(move || {
            let held = self.get(at).filter(|_| at < to)?;
            let place = at;
            at = self.next(at);
            Some((place, held))
        })
    }

    /// About how many different rows there are.
    pub fn size(&self) -> usize {
        self.size_between(self.start(), self.end())
    }

    /// About how many different rows there are between two places.
    pub fn size_between(&self, from: RowPlace, to: RowPlace) -> usize {
        to.chunk.saturating_sub(from.chunk) * (CHUNK_ROWS_MAX / 2)
    }

    /// Adds to, or takes from, how often a row is there.
    pub fn add(&mut self, change: &HeldRow) {
        let place = self.seek(&change.row);
        if self.get(place).is_some_and(|held| held.row == change.row) {
            self.count(place, change.copies);
        } else {
            self.bytes += change.bytes();
            self.insert(place, change.clone());
        }
    }

    /// Changes how often a row is there.
    fn count(&mut self, place: RowPlace, copies: i64) {
        self.known = self.known.min(place.chunk + 1);
        let chunk = &mut self.chunks[place.chunk];
        let held = &mut chunk.rows[place.index];
        chunk.present -= held.present();
        held.copies += copies;
        chunk.present += held.present();
        if held.copies == 0 {
            let gone = chunk.rows.remove(place.index);
            self.bytes -= gone.bytes();
            self.shrink(place.chunk);
        }
    }

    fn shrink(&mut self, chunk: usize) {
        let rows = self.chunks[chunk].rows.len();
        if rows == 0 {
            self.chunks.remove(chunk);
            self.known = self.known.min(chunk);
        } else if self.chunks.get(chunk + 1).is_some_and(|n| rows + n.rows.len() <= CHUNK_ROWS_JOIN)
        {
            let next = self.chunks.remove(chunk + 1);
            self.chunks[chunk].present += next.present;
            self.chunks[chunk].rows.extend(next.rows);
        }
    }

    fn insert(&mut self, mut place: RowPlace, held: HeldRow) {
        if place.index == 0 && place.chunk > 0 {
            // Between two chunks: at the end of the first one, so that the other need not move.
            place.chunk -= 1;
            place.index = self.chunks[place.chunk].rows.len();
        }
        self.known = self.known.min(place.chunk + 1);
        let Some(chunk) = self.chunks.get_mut(place.chunk) else {
            self.chunks.push(PartitionChunk::new(vec![held]));
            return;
        };
        if chunk.rows.len() < CHUNK_ROWS_MAX {
            chunk.insert(place.index, held);
            return;
        }
        // Rows that come in order leave full chunks behind.
        let at = if place.index == chunk.rows.len() { place.index } else { chunk.rows.len() / 2 };
        let mut rest = PartitionChunk::new(chunk.rows.split_off(at));
        chunk.present -= rest.present;
        if place.index < at {
            chunk.insert(place.index, held);
        } else {
            rest.insert(place.index - at, held);
        }
        self.chunks.insert(place.chunk + 1, rest);
    }

    /// The last beginning of a chunk, at or before a place, of which it is known what was before it
    /// and `usable` says that this will do. The start has nothing before it.
    pub fn known_before(
        &self,
        place: RowPlace,
        usable: impl Fn(&P) -> bool,
    ) -> (RowPlace, Option<Arc<P>>) {
        let first = place.chunk.min(self.known.saturating_sub(1));
        let known = (1..=first).rev().find_map(|chunk| {
            let prior = self.chunks.get(chunk)?.prior.as_ref().filter(|prior| usable(prior))?;
            Some((RowPlace { chunk, index: 0 }, Some(Arc::clone(prior))))
        });
        known.unwrap_or((self.start(), None))
    }

    /// Whether a chunk begins here whose `prior` may be set, peers not being torn apart if `aligned`.
    pub fn is_boundary(&self, place: RowPlace, aligned: bool) -> bool {
        if place.index != 0 || place.chunk == 0 {
            return false;
        }
        let before = self.previous(place).and_then(|previous| self.get(previous));
        match (before, self.get(place)) {
            (Some(a), Some(b)) => !aligned || a.order() != b.order(),
            _ => false,
        }
    }

    /// Forgets what was known before chunks that lie behind a change.
    pub fn forget(&mut self) {
        self.chunks.iter_mut().skip(self.known).for_each(|chunk| chunk.prior = None);
        self.known = self.chunks.len();
    }

    /// Remembers what is before a boundary; to be called after [`Partition::forget`].
    pub fn remember(&mut self, place: RowPlace, prior: P) {
        self.chunks[place.chunk].prior = Some(Arc::new(prior));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(value: u32, copies: i64) -> HeldRow {
        HeldRow::new(Row::from_slice(&value.to_be_bytes()), 3, copies)
    }

    fn values(partition: &Partition<u32>) -> Vec<(u32, i64)> {
        let rows = partition.rows(partition.start(), partition.end());
        rows.map(|(_, held)| (u32::from_be_bytes(held.row[..].try_into().unwrap()), held.copies))
            .collect()
    }

    #[test]
    fn rows_stay_in_order_however_they_come_and_go() {
        let mut partition: Partition<u32> = Partition::default();
        let mut expected: std::collections::BTreeMap<u32, i64> = Default::default();
        let mut state = 1_u64;
        for step in 0..20_000_u32 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let value = if step % 3 == 0 { step } else { (state >> 40) as u32 % 5_000 };
            let take = step > 10_000 && expected.contains_key(&value);
            let diff = if take { -expected[&value] } else { 1 };
            partition.add(&held(value, diff));
            *expected.entry(value).or_insert(0) += diff;
            expected.retain(|key, count| *key != value || *count != 0);
        }
        assert_eq!(values(&partition), expected.into_iter().collect::<Vec<_>>());
        assert_eq!(partition.bytes(), values(&partition).len() * held(0, 1).bytes());
        let rows = partition.rows(partition.start(), partition.end());
        let again: Partition<u32> =
            Partition::in_order(rows.map(|(_, held)| held.clone()).collect());
        assert_eq!(values(&again), values(&partition));
        assert_eq!(again.bytes(), partition.bytes());
    }

    #[test]
    fn places_some_rows_back_or_on_are_those_that_counting_finds() {
        let mut partition: Partition<u32> = Partition::default();
        for value in 0..2_000 {
            partition.add(&held(value, [1, 3, -1, 2][value as usize % 4]));
        }
        let (mut places, mut at) = (vec![partition.start()], partition.start());
        while at != partition.end() {
            at = partition.next(at);
            places.push(at);
        }
        let present = |index: usize| partition.get(places[index]).map_or(0, HeldRow::present);
        for index in (0..places.len()).step_by(97) {
            for count in [0, 1, 2, 255, 256, 300, 1_000, 5_000] {
                let (mut back, mut passed) = (index, 0);
                while passed < count && back > 0 {
                    back -= 1;
                    passed += present(back);
                }
                assert_eq!(partition.back(places[index], count), places[back], "{index} {count}");
                let (mut on, mut passed) = (index, 0);
                while passed < count && on + 1 < places.len() {
                    passed += present(on);
                    on += 1;
                }
                assert_eq!(partition.on(places[index], count), places[on], "{index} {count}");
            }
        }
    }

    #[test]
    fn what_was_before_a_chunk_is_forgotten_when_it_changes() {
        let mut partition: Partition<u32> = Partition::default();
        (0..1_000).for_each(|value| partition.add(&held(value, 1)));
        partition.forget();
        let boundaries: Vec<RowPlace> = partition
            .rows(partition.start(), partition.end())
            .map(|(place, _)| place)
            .filter(|place| partition.is_boundary(*place, false))
            .collect();
        assert!(boundaries.len() >= 3, "{boundaries:?}");
        for place in &boundaries {
            let value =
                u32::from_be_bytes(partition.get(*place).unwrap().row[..].try_into().unwrap());
            partition.remember(*place, value);
        }
        let last = *boundaries.last().unwrap();
        let known = |partition: &Partition<u32>| partition.known_before(partition.end(), |_| true);
        assert_eq!(known(&partition).0, last);
        assert_eq!(partition.known_before(partition.end(), |p| *p < 300).1.as_deref(), Some(&256));
        // At the end nothing is forgotten, in the middle what lies behind.
        partition.add(&held(5_000, 1));
        assert_eq!(known(&partition).0, last);
        partition.add(&held(300, 1));
        assert_eq!(known(&partition).0, boundaries[0]);
    }
}
