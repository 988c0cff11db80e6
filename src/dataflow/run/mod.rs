//! Runs: the batches of an arrangement as packed bytes.
//!
//! A run holds updates in the order of key hash, key, value and tick, and is never changed. It is a
//! sequence of blocks, each of which begins at a multiple of 4 KiB, and an index of the blocks:
//!
//! ```text
//! block    where the table is (u32) · number of groups (u32) · groups · table: where each group is (u16 …)
//! group    hash of the key (u64) · key · values, up to the next group or the table
//! value    bytes · number of updates · updates
//! update   tick, as the difference to the run's base · difference
//! index    of each block: hash of its first key (u64) · where it begins, in units of 4 KiB (u32)
//! ```
//!
//! Keys, values, numbers, ticks and most differences are written as [`crate::model::packed`] says, the
//! rest in little-endian order. A key whose values do not fit in one block goes on in the next one,
//! where it is written again. A value that does not fit has a block of its own, of as many units as it
//! takes. The last block is not filled up.
//!
//! (Packed sorted blocks with a sparse index are what log-structured stores such as LevelDB keep in
//! their files; differential dataflow asks of a batch only its length and how two of them are merged.)

mod block;
mod builder;
mod cursor;
mod merge;
mod spill;
mod writer;

use std::marker::PhantomData;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use differential_dataflow::difference::Semigroup;
use serde::{Deserialize, Serialize};

use crate::aggregate::Accumulator;
use crate::model::Tick;
use crate::model::multiplicity::Multiplicity;
use crate::model::packed::{put_signed, take, take_signed};

use cursor::RunCursor;
use writer::{RunWriter, put_update};

use block::{Block, INDEX_ENTRY_BYTES, UNIT};
pub use builder::RunBuilder;
pub use cursor::{KeyRef, RunsCursor};
pub use merge::consolidated;
pub use spill::{Spill, spill_to};

/// A difference that is kept as bytes.
pub trait PackedDifference: Semigroup + Sized + 'static {
    /// Appends it.
    fn pack(&self, out: &mut Vec<u8>);
    /// Takes one off the front.
    fn unpack(from: &mut &[u8]) -> Self;
    /// Passes one at the front.
    fn pass(from: &mut &[u8]);
    /// Takes one off the front of each and appends the sum, unless it is zero; false if it is.
    fn pack_sum(one: &mut &[u8], two: &mut &[u8], out: &mut Vec<u8>) -> bool;
}

impl PackedDifference for Multiplicity {
    #[inline]
    fn pack(&self, out: &mut Vec<u8>) {
        put_signed(out, self.bits());
    }

    #[inline]
    fn unpack(from: &mut &[u8]) -> Self {
        Multiplicity::new(take_signed(from))
    }

    #[inline]
    fn pass(from: &mut &[u8]) {
        take(from);
    }

    #[inline]
    fn pack_sum(one: &mut &[u8], two: &mut &[u8], out: &mut Vec<u8>) -> bool {
        let sum = Multiplicity::unpack(one).plus(Multiplicity::unpack(two));
        if !sum.is_zero() {
            sum.pack(out);
        }
        !sum.is_zero()
    }
}

impl PackedDifference for Accumulator {
    fn pack(&self, out: &mut Vec<u8>) {
        Accumulator::pack(self, out);
    }

    fn unpack(from: &mut &[u8]) -> Self {
        Accumulator::unpack(from)
    }

    fn pass(from: &mut &[u8]) {
        crate::model::packed::take_bytes(from);
    }

    fn pack_sum(one: &mut &[u8], two: &mut &[u8], out: &mut Vec<u8>) -> bool {
        Accumulator::pack_sum(one, two, out)
    }
}

/// An immutable, sorted sequence of updates.
pub struct Run<D> {
    bytes: Bytes,
    blocks: usize,
    updates: usize,
    /// The tick that other ticks are written as the difference to.
    base: Tick,
    id: u64,
    /// The bytes are those of a file, and in memory only while they are looked at.
    in_file: bool,
    difference: PhantomData<fn() -> D>,
}

/// The properties that a run has beside its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunShape {
    pub blocks: usize,
    pub updates: usize,
    /// The tick that other ticks are written as the difference to.
    pub base: Tick,
}

/// Numbers the runs of the process.
static NEXT_ID: AtomicU64 = AtomicU64::new(0);

fn next_id() -> u64 {
    NEXT_ID.fetch_add(1, Ordering::Relaxed)
}

impl<D: PackedDifference> Run<D> {
    /// The values of which `keep` says so; `None` if there is none.
    pub fn part(&self, keep: impl Fn(KeyRef<'_>, &[u8]) -> bool) -> Option<Run<D>> {
        let mut cursor = RunCursor::new(self);
        let mut out = RunWriter::new(self.base, 0);
        let mut packed = Vec::new();
        while let Some(key) = cursor.key(self) {
            out.key(key);
            while let Some(value) = cursor.value(self) {
                if keep(key, value) {
                    let updates = cursor.updates(self);
                    let count = updates.len();
                    packed.clear();
                    for (tick, difference) in updates {
                        put_update(&mut packed, self.base, tick, &difference);
                    }
                    out.value(value, count, &packed);
                }
                cursor.next_value(self);
            }
            cursor.next_key(self);
        }
        out.done()
    }
}

impl<D> Run<D> {
    /// Number of bytes that the run takes.
    pub fn bytes(&self) -> usize {
        self.bytes.len() + size_of::<Self>()
    }

    /// Number of these bytes that are in a file.
    pub fn file_bytes(&self) -> usize {
        if self.in_file { self.bytes.len() } else { 0 }
    }

    /// The run, whatever its differences are.
    pub fn packed(&self) -> PackedRun {
        let Run { blocks, updates, base, id, in_file, .. } = *self;
        let shape = RunShape { blocks, updates, base };
        PackedRun { bytes: self.bytes.clone(), shape, id, in_file }
    }

    /// The hash of a block's first key.
    #[inline]
    fn first_hash(&self, block: usize) -> u64 {
        block::read_u64(&self.bytes, self.index_at(block))
    }

    /// Where a block begins.
    #[inline]
    fn block_at(&self, block: usize) -> usize {
        block::read_u32(&self.bytes, self.index_at(block) + 8) as usize * UNIT
    }

    #[inline]
    fn block(&self, block: usize) -> Block<'_> {
        Block::at(&self.bytes, self.block_at(block))
    }

    #[inline]
    fn index_at(&self, block: usize) -> usize {
        self.bytes.len() - (self.blocks - block) * INDEX_ENTRY_BYTES
    }
}

impl<D> From<PackedRun> for Run<D> {
    /// The run, whose differences are of this type.
    fn from(run: PackedRun) -> Self {
        let PackedRun { bytes, shape: RunShape { blocks, updates, base }, id, in_file } = run;
        Run { bytes, blocks, updates, base, id, in_file, difference: PhantomData }
    }
}

/// A run of differences of any type; its clones share the bytes.
#[derive(Clone)]
pub struct PackedRun {
    bytes: Bytes,
    shape: RunShape,
    id: u64,
    in_file: bool,
}

impl PackedRun {
    /// A run of these bytes of a file, which are all of one that was made before.
    pub fn in_file(bytes: Bytes, shape: RunShape) -> Self {
        PackedRun { bytes, shape, id: next_id(), in_file: true }
    }

    /// Its number; no other run of the process has it.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// All of its bytes.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The properties that it has beside its bytes.
    pub fn shape(&self) -> RunShape {
        self.shape
    }
}

#[cfg(test)]
mod tests;
