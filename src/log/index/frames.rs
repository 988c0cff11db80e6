//! Where frames are: first position → segment, its format, offset, tick.

use crate::log::format::LogFormat;
use crate::model::{Position, Tick};

/// The place of a frame. Once its segment was rewritten in another format it is elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameEntry {
    pub first_position: Position,
    /// The first position of the segment.
    pub segment: Position,
    /// The format of the segment's file that `offset` is of.
    pub format: LogFormat,
    /// Where the frame begins in it.
    pub offset: u64,
    pub tick: Tick,
}

/// Bits of the second word that hold the offset; above them stands the format's number less 1.
const OFFSET_BITS: u32 = 56;

impl FrameEntry {
    /// Segment, format and offset, and tick.
    pub fn to_bytes(self) -> [u8; 24] {
        let mut bytes = [0; 24];
        let format = u64::from(self.format.number() - 1) << OFFSET_BITS;
        bytes[..8].copy_from_slice(&self.segment.to_le_bytes());
        bytes[8..16].copy_from_slice(&(format | self.offset).to_le_bytes());
        bytes[16..].copy_from_slice(&self.tick.to_le_bytes());
        bytes
    }

    /// Reads the bytes of [`FrameEntry::to_bytes`], which are under the key of the first position.
    pub fn from_bytes(key: &[u8], bytes: &[u8]) -> Option<FrameEntry> {
        let word = |at: usize| Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
        let place = word(8)?;
        Some(FrameEntry {
            first_position: u64::from_be_bytes(key.try_into().ok()?),
            segment: word(0)?,
            format: LogFormat::try_from((place >> OFFSET_BITS) as u32 + 1).ok()?,
            offset: place & ((1 << OFFSET_BITS) - 1),
            tick: word(16)?,
        })
    }
}
