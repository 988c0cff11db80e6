//! Walks through runs in their order.

use std::cmp::Ordering;
use std::marker::PhantomData;
use std::rc::Rc;

use crate::dataflow::arrange::Key;
use crate::model::Tick;
use crate::model::packed::{take, take_bytes, take_signed};

use super::{PackedDifference, Run};

/// A key where it is kept. Ordered as [`Key`]s are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct KeyRef<'a> {
    /// The hash of the bytes.
    pub hash: u64,
    /// The encoded key columns.
    pub bytes: &'a [u8],
}

impl<'a> From<&'a Key> for KeyRef<'a> {
    #[inline]
    fn from(key: &'a Key) -> Self {
        KeyRef { hash: key.hash(), bytes: &key.row }
    }
}

/// A place in a run: at a value of a key. Places of bytes are those in the run.
pub struct RunCursor<D> {
    /// Where the key is written first. Behind the last block: there is no more.
    block: usize,
    group: usize,
    group_start: usize,
    hash: u64,
    key: (usize, usize),
    /// The block of the value, and the end of its group there.
    value_block: usize,
    group_end: usize,
    /// The value's bytes, where it is written with their number, and where its updates begin. None when
    /// all of the key's are passed.
    value: Option<(usize, usize)>,
    value_start: usize,
    updates: usize,
    difference: PhantomData<fn() -> D>,
}

impl<D: PackedDifference> RunCursor<D> {
    /// At the first value of the first key.
    pub fn new(run: &Run<D>) -> Self {
        let mut cursor = RunCursor {
            block: 0,
            group: 0,
            group_start: 0,
            hash: 0,
            key: (0, 0),
            value_block: 0,
            group_end: 0,
            value: None,
            value_start: 0,
            updates: 0,
            difference: PhantomData,
        };
        cursor.load_key(run);
        cursor
    }

    /// The key that it is at.
    #[inline]
    pub fn key<'a>(&self, run: &'a Run<D>) -> Option<KeyRef<'a>> {
        let bytes = || &run.bytes[self.key.0..self.key.1];
        (self.block < run.blocks).then(|| KeyRef { hash: self.hash, bytes: bytes() })
    }

    /// The value of the key that it is at.
    #[inline]
    pub fn value<'a>(&self, run: &'a Run<D>) -> Option<&'a [u8]> {
        self.value.map(|(from, to)| &run.bytes[from..to])
    }

    /// The value's updates. There is one.
    #[inline]
    pub fn updates<'a>(&self, run: &'a Run<D>) -> Updates<'a, D> {
        let mut bytes = &run.bytes[self.updates..self.group_end];
        let count = take(&mut bytes);
        Updates { bytes, count, base: run.base, difference: PhantomData }
    }

    /// The group of the key as it is written, if that is all that there is of the key, and the values in
    /// it. The cursor is at the key's first value.
    #[inline]
    pub fn whole_group<'a>(&self, run: &'a Run<D>) -> Option<(&'a [u8], ValuesAtBase<'a, D>)> {
        let goes_on =
            self.group + 1 == run.block(self.block).groups && self.continues(run, self.block + 1);
        let values = &run.bytes[self.key.1..self.group_end];
        (!goes_on)
            .then(|| (&run.bytes[self.group_start..self.group_end], ValuesAtBase::new(values)))
    }

    /// The value as it is written, if all of its updates are at the run's base, and how many these are.
    #[inline]
    pub fn value_at_base<'a>(&self, run: &'a Run<D>) -> Option<(&'a [u8], usize)> {
        let bytes = &run.bytes[self.value_start..self.group_end];
        let mut values = ValuesAtBase::<D>::new(bytes);
        let updates = values.next()??;
        Some((&bytes[..bytes.len() - values.bytes.len()], updates))
    }

    /// To the next value of the key; this one takes so many bytes.
    #[inline]
    pub fn pass_bytes(&mut self, run: &Run<D>, len: usize) {
        self.move_to_value(run, self.value_start + len);
    }

    #[inline]
    fn load_key(&mut self, run: &Run<D>) {
        self.value = None;
        if self.block >= run.blocks {
            return;
        }
        let block = run.block(self.block);
        let (key, values) = block.key(self.group);
        self.group_start = block.group_at(self.group);
        self.hash = key.hash;
        self.key = (values - key.bytes.len(), values);
        self.value_block = self.block;
        self.group_end = block.group_end(self.group);
        self.load_value(run, values);
    }

    #[inline]
    fn load_value(&mut self, run: &Run<D>, at: usize) {
        let mut rest = &run.bytes[at..self.group_end];
        let value = take_bytes(&mut rest);
        self.value_start = at;
        self.updates = self.group_end - rest.len();
        self.value = Some((self.updates - value.len(), self.updates));
    }

    /// To the next value of the key.
    #[inline]
    pub fn next_value(&mut self, run: &Run<D>) {
        let mut updates = self.updates(run);
        while updates.count > 0 {
            updates.pass();
        }
        self.pass_value(run, &updates);
    }

    /// To the next value of the key, of whose updates none is left in `read`.
    #[inline]
    pub fn pass_value(&mut self, run: &Run<D>, read: &Updates<'_, D>) {
        self.move_to_value(run, self.group_end - read.bytes.len());
    }

    /// To the value that is written here, or, at the end of a group, where the key goes on.
    #[inline]
    fn move_to_value(&mut self, run: &Run<D>, at: usize) {
        if at < self.group_end {
            return self.load_value(run, at);
        }
        self.value = None;
        // Only the last group of a block can go on in the next one.
        let group = if self.value_block == self.block { self.group } else { 0 };
        let next = self.value_block + 1;
        if group + 1 < run.block(self.value_block).groups || !self.continues(run, next) {
            return;
        }
        let block = run.block(next);
        self.value_block = next;
        self.group_end = block.group_end(0);
        self.load_value(run, block.key(0).1);
    }

    /// Whether a block begins with the key that the cursor is at.
    #[inline]
    fn continues(&self, run: &Run<D>, block: usize) -> bool {
        block < run.blocks
            && run.first_hash(block) == self.hash
            && run.block(block).key(0).0.bytes == &run.bytes[self.key.0..self.key.1]
    }

    /// To the next key.
    #[inline]
    pub fn next_key(&mut self, run: &Run<D>) {
        self.group += 1;
        if self.group == run.block(self.block).groups {
            let mut next = (self.block + 1).max(self.value_block);
            self.group = 0;
            while self.continues(run, next) {
                if run.block(next).groups > 1 {
                    self.group = 1;
                    break;
                }
                next += 1;
            }
            self.block = next;
        }
        self.load_key(run);
    }

    /// To the first key that is not less, if this one is less.
    pub fn seek_key(&mut self, run: &Run<D>, key: KeyRef<'_>) {
        if self.key(run).is_none_or(|at| at >= key) {
            return;
        }
        // The last block that begins with a lesser hash, or this one: in steps that grow, and then
        // shrink.
        let is_less = |block: usize| block < run.blocks && run.first_hash(block) < key.hash;
        let (mut block, mut step) = (self.block, 1);
        while is_less(block + step) {
            block += step;
            step *= 2;
        }
        while step > 0 {
            if is_less(block + step) {
                block += step;
            }
            step /= 2;
        }
        let mut from = if block == self.block { self.group } else { 0 };
        self.block = block;
        while self.block < run.blocks {
            let block = run.block(self.block);
            self.group = block.seek(from, key);
            if self.group < block.groups {
                break;
            }
            self.block += 1;
            from = 0;
        }
        self.load_key(run);
    }
}

/// The updates of a value.
pub struct Updates<'a, D> {
    bytes: &'a [u8],
    count: u64,
    base: Tick,
    difference: PhantomData<fn() -> D>,
}

impl<'a, D: PackedDifference> Updates<'a, D> {
    /// Number of updates that are left.
    #[inline]
    pub fn len(&self) -> usize {
        self.count as usize
    }

    #[inline]
    fn tick(&mut self) -> Tick {
        self.count -= 1;
        self.base.wrapping_add(take_signed(&mut self.bytes) as u64)
    }

    #[inline]
    fn pass(&mut self) {
        self.tick();
        D::pass(&mut self.bytes);
    }

    /// The tick of the next one, whose difference [`Updates::difference`] has to take.
    #[inline]
    pub fn next_tick(&mut self) -> Option<Tick> {
        (self.count > 0).then(|| self.tick())
    }

    /// The difference whose tick was taken, as it is written.
    #[inline]
    pub fn difference(&mut self) -> &'a [u8] {
        let before = self.bytes;
        D::pass(&mut self.bytes);
        &before[..before.len() - self.bytes.len()]
    }
}

impl<D: PackedDifference> Iterator for Updates<'_, D> {
    type Item = (Tick, D);

    #[inline]
    fn next(&mut self) -> Option<(Tick, D)> {
        if self.count == 0 {
            return None;
        }
        let tick = self.tick();
        Some((tick, D::unpack(&mut self.bytes)))
    }
}

/// The values of a group: of each one how many updates it has, or `None` if not all of them are at the
/// run's base.
pub struct ValuesAtBase<'a, D> {
    bytes: &'a [u8],
    difference: PhantomData<fn() -> D>,
}

impl<'a, D> ValuesAtBase<'a, D> {
    #[inline]
    fn new(bytes: &'a [u8]) -> Self {
        ValuesAtBase { bytes, difference: PhantomData }
    }
}

impl<D: PackedDifference> Iterator for ValuesAtBase<'_, D> {
    type Item = Option<usize>;

    #[inline]
    fn next(&mut self) -> Option<Option<usize>> {
        if self.bytes.is_empty() {
            return None;
        }
        take_bytes(&mut self.bytes);
        let count = take(&mut self.bytes);
        for _ in 0..count {
            if take(&mut self.bytes) != 0 {
                return Some(None);
            }
            D::pass(&mut self.bytes);
        }
        Some(Some(count as usize))
    }
}

/// A place in several runs at once, as if they were one.
pub struct RunsCursor<D> {
    runs: Vec<Rc<Run<D>>>,
    cursors: Vec<RunCursor<D>>,
    /// The cursors that are at the least key, and those of them that are at its least value.
    at_key: Vec<usize>,
    at_value: Vec<usize>,
}

impl<D: PackedDifference> RunsCursor<D> {
    /// At the first value of the first key.
    pub fn new(runs: Vec<Rc<Run<D>>>) -> Self {
        let cursors = runs.iter().map(|run| RunCursor::new(run)).collect();
        let mut cursor = RunsCursor { runs, cursors, at_key: Vec::new(), at_value: Vec::new() };
        cursor.find_key();
        cursor
    }

    fn find_key(&mut self) {
        self.at_key.clear();
        let mut least: Option<KeyRef<'_>> = None;
        for (index, (cursor, run)) in self.cursors.iter().zip(&self.runs).enumerate() {
            let Some(key) = cursor.key(run) else { continue };
            let order = least.map_or(Ordering::Less, |least| key.cmp(&least));
            if order == Ordering::Less {
                least = Some(key);
                self.at_key.clear();
            }
            if order != Ordering::Greater {
                self.at_key.push(index);
            }
        }
        self.find_value();
    }

    fn find_value(&mut self) {
        self.at_value.clear();
        let mut least: Option<&[u8]> = None;
        for index in &self.at_key {
            let Some(value) = self.cursors[*index].value(&self.runs[*index]) else { continue };
            let order = least.map_or(Ordering::Less, |least| value.cmp(least));
            if order == Ordering::Less {
                least = Some(value);
                self.at_value.clear();
            }
            if order != Ordering::Greater {
                self.at_value.push(*index);
            }
        }
    }

    /// The key that it is at.
    #[inline]
    pub fn key(&self) -> Option<KeyRef<'_>> {
        let index = *self.at_key.first()?;
        self.cursors[index].key(&self.runs[index])
    }

    /// The value of the key that it is at.
    #[inline]
    pub fn value(&self) -> Option<&[u8]> {
        let index = *self.at_value.first()?;
        self.cursors[index].value(&self.runs[index])
    }

    /// The value's updates; ticks may be there more than once.
    #[inline]
    pub fn updates(&self) -> impl Iterator<Item = (Tick, D)> {
        self.at_value.iter().flat_map(|index| self.cursors[*index].updates(&self.runs[*index]))
    }

    /// To the next value of the key.
    #[inline]
    pub fn next_value(&mut self) {
        for index in &self.at_value {
            self.cursors[*index].next_value(&self.runs[*index]);
        }
        self.find_value();
    }

    /// To the next key.
    #[inline]
    pub fn next_key(&mut self) {
        for index in &self.at_key {
            self.cursors[*index].next_key(&self.runs[*index]);
        }
        self.find_key();
    }

    /// To the first key that is not less, if this one is less.
    #[inline]
    pub fn seek_key(&mut self, key: KeyRef<'_>) {
        if self.key().is_none_or(|at| at >= key) {
            return;
        }
        for (cursor, run) in self.cursors.iter_mut().zip(&self.runs) {
            cursor.seek_key(run, key);
        }
        self.find_key();
    }
}
