//! Reads a block of a run.

use crate::model::packed::take_bytes;

use super::cursor::KeyRef;

/// Blocks begin at multiples of this many bytes.
pub const UNIT: usize = 4096;
/// Bytes before the first group: where the table is, and the number of groups.
pub const HEADER_BYTES: usize = 8;
/// Bytes of a block's entry in the index.
pub const INDEX_ENTRY_BYTES: usize = 12;
/// Bytes of a group's entry in the table.
pub const TABLE_ENTRY_BYTES: usize = 2;

#[inline]
pub fn read_u64(bytes: &[u8], at: usize) -> u64 {
    let mut value = [0; 8];
    value.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(value)
}

#[inline]
pub fn read_u32(bytes: &[u8], at: usize) -> u32 {
    let mut value = [0; 4];
    value.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(value)
}

/// A block; places are those in the run.
#[derive(Clone, Copy)]
pub struct Block<'a> {
    bytes: &'a [u8],
    start: usize,
    table: usize,
    pub groups: usize,
}

impl<'a> Block<'a> {
    /// The block that begins here.
    #[inline]
    pub fn at(bytes: &'a [u8], start: usize) -> Self {
        let table = start + read_u32(bytes, start) as usize;
        Block { bytes, start, table, groups: read_u32(bytes, start + 4) as usize }
    }

    /// Where a group begins.
    #[inline]
    pub fn group_at(&self, group: usize) -> usize {
        let at = self.table + group * TABLE_ENTRY_BYTES;
        self.start + usize::from(u16::from_le_bytes([self.bytes[at], self.bytes[at + 1]]))
    }

    /// Where a group ends.
    #[inline]
    pub fn group_end(&self, group: usize) -> usize {
        if group + 1 < self.groups { self.group_at(group + 1) } else { self.table }
    }

    /// A group's key, and where its values begin.
    #[inline]
    pub fn key(&self, group: usize) -> (KeyRef<'a>, usize) {
        let at = self.group_at(group);
        let mut rest = &self.bytes[at + 8..];
        let bytes = take_bytes(&mut rest);
        (KeyRef { hash: read_u64(self.bytes, at), bytes }, self.bytes.len() - rest.len())
    }

    /// The first group from this one on whose key is not less.
    #[inline]
    pub fn seek(&self, from: usize, key: KeyRef<'_>) -> usize {
        let (mut low, mut high) = (from, self.groups);
        while low < high {
            let middle = low.midpoint(high);
            let hash = read_u64(self.bytes, self.group_at(middle));
            let is_less =
                hash < key.hash || hash == key.hash && self.key(middle).0.bytes < key.bytes;
            if is_less {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low
    }
}
