//! Streams: hash of the name → version, and hash of the name and version → position.

/// The key of a stream's event. Keys sort as the versions do.
pub fn key(stream: u128, version: u64) -> [u8; 24] {
    let mut key = [0; 24];
    key[..16].copy_from_slice(&stream.to_be_bytes());
    key[16..].copy_from_slice(&version.to_be_bytes());
    key
}

/// The version in the key of a stream's event.
pub fn version_of(key: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(key.get(16..24)?.try_into().ok()?))
}
