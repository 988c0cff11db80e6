//! The facts about events that are in the log and not yet in the store, in memory.

use std::hash::{BuildHasherDefault, Hasher};

use hashbrown::HashMap;
use smallvec::SmallVec;

use super::digest::Digest;
use super::frames::FrameEntry;
use super::ids::IdEntry;
use crate::log::frame::KeyedRequest;
use crate::model::{Head, Position, Tick};

/// Passes on what is a hash already.
#[derive(Default)]
pub struct Prehashed(u64);

impl Hasher for Prehashed {
    fn write(&mut self, _: &[u8]) {
        unreachable!("keys are u128")
    }

    fn write_u128(&mut self, hash: u128) {
        self.0 = hash as u64;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// A map whose keys are hashes.
pub type HashKeyed<V> = HashMap<u128, V, BuildHasherDefault<Prehashed>>;

/// The last events of a stream.
#[derive(Debug, Default)]
pub struct StreamTail {
    /// The version of the last one.
    pub version: u64,
    /// Their positions; the last one is that of `version`, and no version is missing between.
    pub positions: SmallVec<[Position; 2]>,
}

/// A run of commits.
#[derive(Debug, Default)]
pub struct RecentCommits {
    pub ids: HashKeyed<IdEntry>,
    pub streams: HashKeyed<StreamTail>,
    /// Stream, version and position of events before a version that is lost.
    pub apart: Vec<(u128, u64, Position)>,
    /// In the order of positions.
    pub frames: Vec<FrameEntry>,
    /// With the tick of the commit.
    pub requests: HashKeyed<(Tick, KeyedRequest)>,
    /// The end of the last commit.
    pub through: Head,
}

impl RecentCommits {
    /// Takes in an event of a commit.
    pub fn event(&mut self, digest: &Digest, position: Position, stream_version: u64) {
        self.ids.insert(digest.identity, IdEntry { position, content: digest.content });
        // Logs of before streams had versions have events whose version is 0.
        if let Some(stream) = digest.stream.filter(|_| stream_version > 0) {
            let tail = self.streams.entry(stream).or_default();
            if stream_version != tail.version + 1 {
                let first = tail.version + 1 - tail.positions.len() as u64;
                let numbered = (first..).zip(tail.positions.drain(..));
                self.apart.extend(numbered.map(|(version, at)| (stream, version, at)));
            }
            tail.version = stream_version;
            tail.positions.push(position);
        }
    }

    /// Takes in a commit's frame and requests, once its events are in.
    pub fn commit(&mut self, frame: FrameEntry, through: Head, requests: Vec<KeyedRequest>) {
        self.frames.push(frame);
        self.requests.extend(requests.into_iter().map(|r| (r.key, (through.tick, r))));
        self.through = through;
    }

    /// The frame that holds a position, if it is one of these.
    pub fn frame_of(&self, position: Position) -> Option<FrameEntry> {
        if position > self.through.position {
            return None;
        }
        let behind = self.frames.partition_point(|frame| frame.first_position <= position);
        behind.checked_sub(1).map(|at| self.frames[at])
    }
}
