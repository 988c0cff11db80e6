//! Where frames are: first position → segment, offset, tick.

use crate::model::{Position, Tick};

/// The place of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameEntry {
    pub first_position: Position,
    /// The first position of the segment, which is its name.
    pub segment: Position,
    /// Where the frame begins in it.
    pub offset: u64,
    pub tick: Tick,
}

impl FrameEntry {
    /// Segment, offset and tick.
    pub fn to_bytes(self) -> [u8; 24] {
        let mut bytes = [0; 24];
        bytes[..8].copy_from_slice(&self.segment.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.offset.to_le_bytes());
        bytes[16..].copy_from_slice(&self.tick.to_le_bytes());
        bytes
    }

    /// Reads the bytes of [`FrameEntry::to_bytes`], which are under the key of the first position.
    pub fn from_bytes(key: &[u8], bytes: &[u8]) -> Option<FrameEntry> {
        let word = |at: usize| Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
        Some(FrameEntry {
            first_position: u64::from_be_bytes(key.try_into().ok()?),
            segment: word(0)?,
            offset: word(8)?,
            tick: word(16)?,
        })
    }
}
