//! Identities of events: hash of source and id → position and hash of the content.

use super::store::{position_bytes, position_of};
use crate::model::Position;

/// An event that is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdEntry {
    pub position: Position,
    /// See [`super::digest::Digest::content`].
    pub content: u64,
}

impl IdEntry {
    /// Content, then the position without its leading zeros.
    pub fn to_bytes(self) -> Vec<u8> {
        let mut bytes = self.content.to_le_bytes().to_vec();
        bytes.extend_from_slice(position_bytes(&self.position.to_le_bytes()));
        bytes
    }

    /// Reads the bytes of [`IdEntry::to_bytes`].
    pub fn from_bytes(bytes: &[u8]) -> Option<IdEntry> {
        let (content, position) = bytes.split_first_chunk::<8>()?;
        Some(IdEntry { content: u64::from_le_bytes(*content), position: position_of(position) })
    }
}
