//! The indexes on disk, in fjall.
//!
//! Only sorted runs are written, as tables: there is no journal and no memtable on the way, since the log
//! itself is both. The mark up to which the log is in the store is written last, and entries behind it are
//! written again after a crash, with the same content.

use std::path::Path;

use fjall::config::PinningPolicy;
use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};
use uuid::Uuid;

use super::frames::FrameEntry;
use super::ids::IdEntry;
use super::recent::RecentCommits;
use super::{IndexError, streams};
use crate::log::files::open_files_max;
use crate::log::frame::KeyedRequest;
use crate::model::{Head, Position, Tick};

/// Version of the store's format; a store of another version is built anew.
const FORMAT_VERSION: u64 = 1;
/// Blocks of tables that are kept in memory, beside the filters.
const CACHE_BYTES: u64 = 64 << 20;
const MARK_KEY: &str = "applied";

/// A position without its leading zeros.
pub fn position_bytes(little_endian: &[u8; 8]) -> &[u8] {
    let len = little_endian.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    &little_endian[..len]
}

/// Reads the bytes of [`position_bytes`].
pub fn position_of(bytes: &[u8]) -> Position {
    let mut word = [0; 8];
    let len = bytes.len().min(8);
    word[..len].copy_from_slice(&bytes[..len]);
    Position::from_le_bytes(word)
}

/// The indexes of one log.
pub struct Store {
    database: Database,
    log_id: Uuid,
    ids: Keyspace,
    /// Stream → version.
    heads: Keyspace,
    /// Stream and version → position.
    streams: Keyspace,
    frames: Keyspace,
    requests: Keyspace,
    mark: Keyspace,
}

impl Store {
    /// Opens the store in a directory. One that is missing, damaged or of another log is made anew.
    pub fn open(directory: &Path, log_id: Uuid) -> Result<(Store, Head), IndexError> {
        match Store::open_as_is(directory, log_id) {
            Ok((store, Some(through))) => return Ok((store, through)),
            Ok((store, None)) => drop(store),
            // A full disk is no reason to throw away what is sound.
            Err(error) if error.full => return Err(error),
            Err(error) => {
                tracing::warn!(%error, "the indexes of the log cannot be opened");
            }
        }
        Store::create(directory, log_id)
    }

    /// Makes an empty store in place of whatever is there.
    pub fn create(directory: &Path, log_id: Uuid) -> Result<(Store, Head), IndexError> {
        let failed = |error: &fjall::Error| IndexError::new(directory, error);
        if directory.exists() {
            std::fs::remove_dir_all(directory).map_err(|error| failed(&error.into()))?;
        }
        let (store, _) = Store::open_as_is(directory, log_id)?;
        store.set_mark(Head::default()).map_err(|error| failed(&error))?;
        Ok((store, Head::default()))
    }

    /// Opens what is there. `None` in place of the mark: the store is new, or not one of this log.
    pub fn open_as_is(directory: &Path, log_id: Uuid) -> Result<(Store, Option<Head>), IndexError> {
        let open = || {
            let database = Database::builder(directory)
                .worker_threads(1)
                .cache_size(CACHE_BYTES)
                .max_cached_files(Some(open_files_max()))
                .open()?;
            let keyspace = |name: &str| {
                // A look-up of an id that is new must not read a filter from disk.
                let options = || {
                    KeyspaceCreateOptions::default()
                        .filter_block_pinning_policy(PinningPolicy::all(true))
                        .max_memtable_size(4 << 20)
                };
                database.keyspace(name, options)
            };
            let store = Store {
                ids: keyspace("ids")?,
                heads: keyspace("heads")?,
                streams: keyspace("streams")?,
                frames: keyspace("frames")?,
                requests: keyspace("requests")?,
                mark: keyspace("mark")?,
                database,
                log_id,
            };
            let mark = store.mark()?;
            Ok((store, mark))
        };
        open().map_err(|error| IndexError::new(directory, &error))
    }

    fn mark(&self) -> fjall::Result<Option<Head>> {
        let Some(bytes) = self.mark.get(MARK_KEY)? else { return Ok(None) };
        let word = |at: usize| {
            bytes.get(at..at + 8).and_then(|w| Some(u64::from_le_bytes(w.try_into().ok()?)))
        };
        let own =
            bytes.get(..16) == Some(self.log_id.as_bytes()) && word(16) == Some(FORMAT_VERSION);
        let head = || Some(Head { position: word(24)?, tick: word(32)? });
        Ok(if own { head() } else { None })
    }

    /// Everything up to here is in the store, durably.
    fn set_mark(&self, through: Head) -> fjall::Result<()> {
        let mut bytes = self.log_id.as_bytes().to_vec();
        for word in [FORMAT_VERSION, through.position, through.tick] {
            bytes.extend_from_slice(&word.to_le_bytes());
        }
        self.mark.insert(MARK_KEY, bytes)?;
        self.database.persist(PersistMode::SyncAll)
    }

    /// Takes in a run of commits.
    pub fn write(&self, recent: &RecentCommits) -> fjall::Result<()> {
        let mut ids: Vec<_> = recent.ids.iter().collect();
        ids.sort_unstable_by_key(|(hash, _)| **hash);
        let ids = ids.into_iter().map(|(hash, entry)| (hash.to_be_bytes(), entry.to_bytes()));
        ingest(&self.ids, ids)?;
        let mut tails: Vec<_> = recent.streams.iter().collect();
        tails.sort_unstable_by_key(|(hash, _)| **hash);
        let events = tails.iter().flat_map(|(hash, tail)| {
            let first = tail.version + 1 - tail.positions.len() as u64;
            tail.positions.iter().zip(first..).map(|(position, version)| {
                let position = position_bytes(&position.to_le_bytes()).to_vec();
                (streams::key(**hash, version), position)
            })
        });
        ingest(&self.streams, events)?;
        let mut apart: Vec<_> = recent.apart.iter().collect();
        apart.sort_unstable();
        let apart = apart.into_iter().map(|(hash, version, position)| {
            let position = position_bytes(&position.to_le_bytes()).to_vec();
            (streams::key(*hash, *version), position)
        });
        ingest(&self.streams, apart)?;
        let heads = tails.iter().map(|(hash, tail)| {
            let version = position_bytes(&tail.version.to_le_bytes()).to_vec();
            (hash.to_be_bytes(), version)
        });
        ingest(&self.heads, heads)?;
        self.write_frames(&recent.frames)?;
        let mut requests: Vec<_> = recent.requests.values().collect();
        requests.sort_unstable_by_key(|(_, request)| request.key);
        let requests = requests.into_iter().map(|(tick, request)| {
            let mut bytes = tick.to_le_bytes().to_vec();
            bytes.extend(request.to_bytes());
            (request.key.to_be_bytes(), bytes)
        });
        ingest(&self.requests, requests)?;
        self.set_mark(recent.through)
    }

    /// Takes in where frames are, which ascend.
    pub fn write_frames(&self, frames: &[FrameEntry]) -> fjall::Result<()> {
        let frames = frames.iter();
        let frames = frames.map(|f| (f.first_position.to_be_bytes(), f.to_bytes().to_vec()));
        ingest(&self.frames, frames)
    }

    /// Forgets the keyed requests of commits before a tick.
    pub fn forget_requests(&self, before: Tick) -> fjall::Result<()> {
        for guard in self.requests.iter() {
            let (key, value) = guard.into_inner()?;
            if request(&value).is_none_or(|(tick, _)| tick < before) {
                self.requests.remove(key)?;
            }
        }
        Ok(())
    }

    pub fn find_id(&self, identity: u128) -> fjall::Result<Option<IdEntry>> {
        let bytes = self.ids.get(identity.to_be_bytes())?;
        Ok(bytes.and_then(|bytes| IdEntry::from_bytes(&bytes)))
    }

    /// 0 for a stream that is not known.
    pub fn stream_version(&self, stream: u128) -> fjall::Result<u64> {
        let bytes = self.heads.get(stream.to_be_bytes())?;
        Ok(bytes.map_or(0, |bytes| position_of(&bytes)))
    }

    /// The positions of a stream's first events of these versions, at most `limit`, with the
    /// versions.
    pub fn stream_positions(
        &self,
        stream: u128,
        versions: std::ops::Range<u64>,
        limit: usize,
    ) -> fjall::Result<Vec<(u64, Position)>> {
        let range = streams::key(stream, versions.start)..streams::key(stream, versions.end);
        let mut positions = Vec::new();
        for guard in self.streams.range(range).take(limit) {
            let (key, value) = guard.into_inner()?;
            if let Some(version) = streams::version_of(&key) {
                positions.push((version, position_of(&value)));
            }
        }
        Ok(positions)
    }

    /// The last frame that begins at or before a position.
    pub fn frame_of(&self, position: Position) -> fjall::Result<Option<FrameEntry>> {
        match self.frames.range(..=position.to_be_bytes()).next_back() {
            None => Ok(None),
            Some(guard) => {
                let (key, value) = guard.into_inner()?;
                Ok(FrameEntry::from_bytes(&key, &value))
            }
        }
    }

    pub fn find_request(&self, key: u128) -> fjall::Result<Option<(Tick, KeyedRequest)>> {
        let bytes = self.requests.get(key.to_be_bytes())?;
        Ok(bytes.and_then(|bytes| request(&bytes)))
    }

    pub fn disk_bytes(&self) -> u64 {
        let all = [&self.ids, &self.heads, &self.streams, &self.frames, &self.requests];
        all.into_iter().map(Keyspace::disk_space).sum()
    }
}

fn request(bytes: &[u8]) -> Option<(Tick, KeyedRequest)> {
    let (tick, request) = bytes.split_first_chunk::<8>()?;
    Some((Tick::from_le_bytes(*tick), KeyedRequest::from_bytes(request)?))
}

fn ingest<const N: usize>(
    keyspace: &Keyspace,
    sorted: impl Iterator<Item = ([u8; N], Vec<u8>)>,
) -> fjall::Result<()> {
    let mut sorted = sorted.peekable();
    if sorted.peek().is_none() {
        return Ok(());
    }
    let mut ingestion = keyspace.start_ingestion()?;
    for (key, value) in sorted {
        ingestion.write(key, value)?;
    }
    ingestion.finish()
}
