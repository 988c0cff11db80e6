//! The hashes that stand for names in the indexes.
//!
//! They are XXH3 with a seed that comes from the log's random id, so that nobody outside can make
//! two names that share one. 128 bits keep chance away: among 10¹² identities the odds that any two
//! share a hash are about one in 10¹⁴.

use uuid::Uuid;
use xxhash_rust::xxh3::{xxh3_64_with_seed, xxh3_128_with_seed};

use crate::model::event::{EventRef, NewEvent};

/// Hashes names and events of one log.
#[derive(Clone, Copy, Debug)]
pub struct Digester {
    seed: u64,
}

/// The facts about an event that the indexes keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Digest {
    /// The hash of source and id.
    pub identity: u128,
    /// The hash of type, version, stream and the bytes of `data`. Equal hashes mean equal content; two
    /// spellings of one JSON value have different hashes.
    pub content: u64,
    /// The hash of the stream's name; `None` for an event without a stream.
    pub stream: Option<u128>,
}

impl Digester {
    /// The hashes of the log with this id.
    pub fn new(id: Uuid) -> Self {
        // The second half of a UUIDv7 is random but for two bits.
        Digester { seed: id.as_u64_pair().1 }
    }

    /// The hash of a stream's name or of a request's key.
    pub fn name(&self, name: &str) -> u128 {
        xxh3_128_with_seed(name.as_bytes(), self.seed)
    }

    /// The hashes of an event that is to be appended.
    pub fn event(&self, event: &NewEvent, scratch: &mut Vec<u8>) -> Digest {
        let stream = event.stream.as_deref();
        let content = (event.event_type.as_str(), event.version, stream, event.data.as_slice());
        self.digest(&event.source, &event.id, content, scratch)
    }

    /// The hashes of an event in the log.
    pub fn stored(&self, event: &EventRef<'_>, scratch: &mut Vec<u8>) -> Digest {
        let content = (event.event_type, event.version, event.stream, event.data);
        self.digest(event.source, event.id, content, scratch)
    }

    fn digest(
        &self,
        source: &str,
        id: &str,
        (event_type, version, stream, data): (&str, u32, Option<&str>, &[u8]),
        scratch: &mut Vec<u8>,
    ) -> Digest {
        scratch.clear();
        scratch.extend_from_slice(&(source.len() as u32).to_le_bytes());
        scratch.extend_from_slice(source.as_bytes());
        scratch.extend_from_slice(id.as_bytes());
        let identity = xxh3_128_with_seed(scratch, self.seed);
        let stream_hash = stream.map(|name| self.name(name));
        scratch.clear();
        scratch.extend_from_slice(&xxh3_64_with_seed(data, self.seed).to_le_bytes());
        scratch.extend_from_slice(&version.to_le_bytes());
        scratch.extend_from_slice(&stream_hash.unwrap_or_default().to_le_bytes());
        scratch.push(u8::from(stream.is_some()));
        scratch.extend_from_slice(event_type.as_bytes());
        let content = xxh3_64_with_seed(scratch, self.seed);
        Digest { identity, content, stream: stream_hash }
    }
}
