//! Writes a run, in its order.

use std::marker::PhantomData;

use bytes::Bytes;

use crate::model::Tick;
use crate::model::packed::{put, put_bytes, put_signed};

use super::block::{HEADER_BYTES, INDEX_ENTRY_BYTES, TABLE_ENTRY_BYTES, UNIT};
use super::cursor::KeyRef;
use super::spill::{self, SpillFile};
use super::{PackedDifference, Run, next_id};

/// Number of bytes that are written to a file at once.
const SPILL_BYTES: usize = 4 << 20;
/// The most bytes that a number takes.
const NUMBER_BYTES: usize = 10;

/// A run that is being written.
pub struct RunWriter<D> {
    bytes: Vec<u8>,
    /// Where the last block begins.
    start: usize,
    /// Where its groups begin, from its own start on.
    table: Vec<u16>,
    /// For each block the hash of its first key, and the unit at which it begins.
    index: Vec<(u64, u32)>,
    /// The key of the values to come.
    hash: u64,
    key: Vec<u8>,
    /// Whether that key is in the last block already.
    key_written: bool,
    base: Tick,
    updates: usize,
    /// The part that is in a file already; `bytes` goes on behind it, from a block's beginning on.
    spilled: Option<SpillFile>,
    difference: PhantomData<fn() -> D>,
}

impl<D: PackedDifference> RunWriter<D> {
    /// A run of so many bytes at most, most of whose updates are at `base`.
    pub fn new(base: Tick, bytes: usize) -> Self {
        let spilled = spill::begin(bytes);
        RunWriter {
            bytes: Vec::with_capacity(if spilled.is_some() { SPILL_BYTES } else { bytes }),
            spilled,
            start: 0,
            table: Vec::new(),
            index: Vec::new(),
            hash: 0,
            key: Vec::new(),
            key_written: false,
            base,
            updates: 0,
            difference: PhantomData,
        }
    }

    /// The tick that other ticks are written as the difference to.
    pub fn base(&self) -> Tick {
        self.base
    }

    /// The values to come are those of this key, which is behind all that were written.
    #[inline]
    pub fn key(&mut self, key: KeyRef<'_>) {
        self.hash = key.hash;
        self.key.clear();
        self.key.extend_from_slice(key.bytes);
        self.key_written = false;
    }

    /// A value of the key, behind all of it that were written, and its updates as [`put_update`] writes
    /// them.
    pub fn value(&mut self, value: &[u8], count: usize, updates: &[u8]) {
        self.make_room(2 * NUMBER_BYTES + value.len() + updates.len());
        put_bytes(&mut self.bytes, value);
        put(&mut self.bytes, count as u64);
        self.bytes.extend_from_slice(updates);
        self.updates += count;
    }

    /// A value of the key as it stands in another run, with its updates.
    pub fn written_value(&mut self, value: &[u8], count: usize) {
        self.make_room(value.len());
        self.bytes.extend_from_slice(value);
        self.updates += count;
    }

    /// Begins the key, or goes on with it in another block, where an entry of so many bytes needs that.
    #[inline]
    fn make_room(&mut self, entry: usize) {
        let key = if self.key_written { 0 } else { 8 + NUMBER_BYTES + self.key.len() };
        if !self.table.is_empty() && !self.has_room(key + entry) {
            self.end_block();
        }
        if self.table.is_empty() {
            self.begin_block(self.hash);
        }
        if !self.key_written {
            // Only the first group of a block that is alone in it is larger than a unit.
            self.table.push((self.bytes.len() - self.start) as u16);
            self.bytes.extend_from_slice(&self.hash.to_le_bytes());
            put_bytes(&mut self.bytes, &self.key);
            self.key_written = true;
        }
    }

    /// Whether the last block has room for so many bytes of one group more.
    #[inline]
    fn has_room(&self, bytes: usize) -> bool {
        let table = (self.table.len() + 1) * TABLE_ENTRY_BYTES;
        self.bytes.len() - self.start + bytes + table <= UNIT
    }

    /// Whether a group of so many bytes is best copied as a whole: it leaves no large gap.
    #[inline]
    pub fn takes_group(&self, bytes: usize) -> bool {
        bytes <= UNIT / 8 || !self.table.is_empty() && self.has_room(bytes)
    }

    /// All of a key that is behind all that were written, as it stands in another run.
    pub fn group(&mut self, hash: u64, group: &[u8], count: usize) {
        if !self.table.is_empty() && !self.has_room(group.len()) {
            self.end_block();
        }
        if self.table.is_empty() {
            self.begin_block(hash);
        }
        self.table.push((self.bytes.len() - self.start) as u16);
        self.bytes.extend_from_slice(group);
        self.updates += count;
    }

    fn begin_block(&mut self, hash: u64) {
        self.spill();
        self.start = self.bytes.len().next_multiple_of(UNIT);
        self.bytes.resize(self.start + HEADER_BYTES, 0);
        self.index.push((hash, ((self.spilled_bytes() + self.start) / UNIT) as u32));
        self.key_written = false;
    }

    /// Writes the blocks so far to the file, if there is one and they are enough.
    fn spill(&mut self) {
        if let Some(file) = &mut self.spilled
            && self.bytes.len() >= SPILL_BYTES
        {
            self.bytes.resize(self.bytes.len().next_multiple_of(UNIT), 0);
            file.write(&self.bytes);
            self.bytes.clear();
        }
    }

    /// Where `bytes` begins in the run.
    fn spilled_bytes(&self) -> usize {
        self.spilled.as_ref().map_or(0, SpillFile::written)
    }

    fn end_block(&mut self) {
        let table = (self.bytes.len() - self.start) as u32;
        let groups = self.table.len() as u32;
        self.bytes[self.start..self.start + 4].copy_from_slice(&table.to_le_bytes());
        self.bytes[self.start + 4..self.start + 8].copy_from_slice(&groups.to_le_bytes());
        for at in self.table.drain(..) {
            self.bytes.extend_from_slice(&at.to_le_bytes());
        }
    }

    /// The run, unless nothing was written.
    pub fn done(mut self) -> Option<Run<D>> {
        if self.table.is_empty() && self.index.is_empty() {
            return None;
        }
        if !self.table.is_empty() {
            self.end_block();
        }
        // To grow by a half, as a vector does by itself, is to copy all of it.
        self.bytes.reserve_exact(self.index.len() * INDEX_ENTRY_BYTES);
        for (hash, unit) in &self.index {
            self.bytes.extend_from_slice(&hash.to_le_bytes());
            self.bytes.extend_from_slice(&unit.to_le_bytes());
        }
        let in_file = self.spilled.is_some();
        let bytes = match self.spilled {
            Some(mut file) => {
                file.write(&self.bytes);
                file.finish()
            }
            None => {
                self.bytes.shrink_to_fit();
                Bytes::from(self.bytes)
            }
        };
        Some(Run {
            bytes,
            in_file,
            blocks: self.index.len(),
            updates: self.updates,
            base: self.base,
            id: next_id(),
            difference: PhantomData,
        })
    }
}

/// Appends an update of a run with this base.
#[inline]
pub fn put_update<D: PackedDifference>(out: &mut Vec<u8>, base: Tick, tick: Tick, difference: &D) {
    put_tick(out, base, tick);
    difference.pack(out);
}

/// Appends the tick of an update, whose difference is to follow.
#[inline]
pub fn put_tick(out: &mut Vec<u8>, base: Tick, tick: Tick) {
    put_signed(out, tick.wrapping_sub(base) as i64);
}
