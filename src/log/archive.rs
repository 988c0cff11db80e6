//! A segment that is archived: the same frames, in large blocks of zstd.
//!
//! ```text
//! name: the position in 20 decimal digits and ".log3"
//! header, 64 bytes: that of a segment, of format 3
//! blocks: up to 1 MiB of the frames each, as one frame of zstd; frames stand as in format 2, their
//!   sections not compressed, and may reach over blocks
//! table, for each block, little endian
//!   0  u64       length of the frames up to the end of the block, the header included
//!   8  u64       where the block ends in the file
//!  16  u32       CRC-32 of the block
//!  20  u32       zero
//! end, 32 bytes
//!   0  [u8; 8]   "HELIOARC"
//!   8  u32       number of blocks
//!  12  u32       CRC-32 of the table
//!  16  u64       length before compression, the header included
//!  24  u64       zero
//! ```
//!
//! Readers see such a file as what it was before compression: offsets count that.

use std::collections::VecDeque;
use std::io;
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;

use super::files::FileHandle;
use super::frame::{u32_at, u64_at};
use super::rewrite::UNFINISHED;
use super::segment::SEGMENT_HEADER_BYTES;

/// The end of an archived segment's file name.
const ARCHIVED: &str = ".log3";
const MAGIC: &[u8; 8] = b"HELIOARC";
/// The frames in a block.
const BLOCK_BYTES: usize = 1 << 20;
const ENTRY_BYTES: usize = 24;
const END_BYTES: usize = 32;
const LEVEL: i32 = 6;
/// Blocks of a file that stay in memory, those read last: enough for what is read at once, and a few for
/// single frames.
const CACHED_BLOCKS: usize = 8;

/// Whether this is the name of an archived segment, also while it is being written.
pub fn is_archived(name: &str) -> bool {
    name.strip_suffix(UNFINISHED).unwrap_or(name).ends_with(ARCHIVED)
}

/// Writes an archived segment.
pub struct ArchiveWriter {
    out: Box<dyn FileHandle>,
    block: Vec<u8>,
    table: Vec<u8>,
    /// The length before compression and in the file, without the block that grows.
    raw_bytes: u64,
    file_bytes: u64,
}

impl ArchiveWriter {
    /// Begins a file by the header of the segment.
    pub fn new(mut out: Box<dyn FileHandle>, header: &[u8]) -> io::Result<ArchiveWriter> {
        out.write(header)?;
        let bytes = header.len() as u64;
        Ok(ArchiveWriter {
            out,
            block: Vec::new(),
            table: Vec::new(),
            raw_bytes: bytes,
            file_bytes: bytes,
        })
    }

    /// Appends bytes of frames.
    pub fn write(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(BLOCK_BYTES - self.block.len()));
            self.block.extend_from_slice(now);
            bytes = later;
            if self.block.len() == BLOCK_BYTES {
                self.end_block()?;
            }
        }
        Ok(())
    }

    fn end_block(&mut self) -> io::Result<()> {
        if self.block.is_empty() {
            return Ok(());
        }
        let packed = zstd::bulk::compress(&self.block, LEVEL)?;
        self.out.write(&packed)?;
        self.raw_bytes += self.block.len() as u64;
        self.file_bytes += packed.len() as u64;
        self.table.extend_from_slice(&self.raw_bytes.to_le_bytes());
        self.table.extend_from_slice(&self.file_bytes.to_le_bytes());
        self.table.extend_from_slice(&crc32fast::hash(&packed).to_le_bytes());
        self.table.extend_from_slice(&[0; 4]);
        self.block.clear();
        Ok(())
    }

    /// The length before compression, once the file is on disk.
    pub fn end(mut self) -> io::Result<u64> {
        self.end_block()?;
        let blocks = (self.table.len() / ENTRY_BYTES) as u32;
        let mut end = MAGIC.to_vec();
        end.extend_from_slice(&blocks.to_le_bytes());
        end.extend_from_slice(&crc32fast::hash(&self.table).to_le_bytes());
        end.extend_from_slice(&self.raw_bytes.to_le_bytes());
        end.extend_from_slice(&[0; 8]);
        self.out.write(&self.table)?;
        self.out.write(&end)?;
        self.out.sync()?;
        Ok(self.raw_bytes)
    }
}

/// A file's bytes, of a range.
pub trait ReadAt: Send + Sync + std::fmt::Debug {
    /// Fills the buffer from an offset.
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;
}

impl ReadAt for std::fs::File {
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        std::os::unix::fs::FileExt::read_exact_at(self, buffer, offset)
    }
}

/// Where a block is.
#[derive(Clone, Copy, Debug)]
struct BlockPlace {
    /// The first byte before compression, and the one behind the last.
    raw: (u64, u64),
    /// The same bounds after compression, in the file.
    file: (u64, u64),
    crc: u32,
}

/// An archived segment, to read from.
#[derive(Debug)]
pub struct ArchivedSegment {
    file: Box<dyn ReadAt>,
    header: Vec<u8>,
    blocks: Vec<BlockPlace>,
    raw_bytes: u64,
    /// The blocks that were read last, and their numbers.
    recent: Mutex<VecDeque<(usize, Bytes)>>,
}

fn damaged(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_string())
}

impl ArchivedSegment {
    /// Reads the table of a file of this length.
    pub fn open(file: Box<dyn ReadAt>, file_bytes: u64) -> io::Result<ArchivedSegment> {
        let least = (SEGMENT_HEADER_BYTES + END_BYTES) as u64;
        if file_bytes < least {
            return Err(damaged("an archived segment is cut short"));
        }
        let mut end = [0; END_BYTES];
        let end_at = file_bytes - END_BYTES as u64;
        file.read_exact_at(&mut end, end_at)?;
        if end[..8] != *MAGIC {
            return Err(damaged("an archived segment is cut short, or its end is damaged"));
        }
        let table_bytes = u64::from(u32_at(&end, 8)) * ENTRY_BYTES as u64;
        let Some(table_at) = end_at.checked_sub(table_bytes) else {
            return Err(damaged("the end of an archived segment is damaged"));
        };
        let mut table = vec![0; table_bytes as usize];
        file.read_exact_at(&mut table, table_at)?;
        let mut header = vec![0; SEGMENT_HEADER_BYTES];
        file.read_exact_at(&mut header, 0)?;
        if crc32fast::hash(&table) != u32_at(&end, 12) {
            return Err(damaged("the table of an archived segment is damaged"));
        }
        let mut blocks = Vec::new();
        let (mut raw, mut at) = (header.len() as u64, header.len() as u64);
        for entry in table.chunks_exact(ENTRY_BYTES) {
            let (raw_end, file_end) = (u64_at(entry, 0), u64_at(entry, 8));
            let fits = raw_end > raw
                && raw_end - raw <= BLOCK_BYTES as u64
                && file_end > at
                && file_end <= table_at;
            if !fits {
                return Err(damaged("the table of an archived segment is damaged"));
            }
            let crc = u32_at(entry, 16);
            blocks.push(BlockPlace { raw: (raw, raw_end), file: (at, file_end), crc });
            (raw, at) = (raw_end, file_end);
        }
        if raw != u64_at(&end, 16) {
            return Err(damaged("the end of an archived segment is damaged"));
        }
        Ok(ArchivedSegment { file, header, blocks, raw_bytes: raw, recent: Mutex::default() })
    }

    /// The length before compression.
    pub fn len(&self) -> u64 {
        self.raw_bytes
    }

    /// Reads up to `buffer.len()` bytes at an offset before compression; 0 at the end.
    pub fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        if offset < self.header.len() as u64 {
            let from = &self.header[offset as usize..];
            let len = from.len().min(buffer.len());
            buffer[..len].copy_from_slice(&from[..len]);
            return Ok(len);
        }
        let number = self.blocks.partition_point(|block| block.raw.1 <= offset);
        let Some(place) = self.blocks.get(number) else { return Ok(0) };
        let block = self.block(number, place)?;
        let from = &block[(offset - place.raw.0) as usize..];
        let len = from.len().min(buffer.len());
        buffer[..len].copy_from_slice(&from[..len]);
        Ok(len)
    }

    /// A block's bytes before compression.
    fn block(&self, number: usize, place: &BlockPlace) -> io::Result<Bytes> {
        let lock = || self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        let known = lock().iter().find(|(known, _)| *known == number).cloned();
        if let Some((_, block)) = known {
            return Ok(block);
        }
        let mut packed = vec![0; (place.file.1 - place.file.0) as usize];
        self.file.read_exact_at(&mut packed, place.file.0)?;
        if crc32fast::hash(&packed) != place.crc {
            return Err(damaged("the checksum of a block is wrong"));
        }
        let len = (place.raw.1 - place.raw.0) as usize;
        let block = zstd::bulk::decompress(&packed, len)?;
        if block.len() != len {
            return Err(damaged("a block is not as long as it was"));
        }
        let block = Bytes::from(block);
        let mut recent = lock();
        recent.push_back((number, block.clone()));
        if recent.len() > CACHED_BLOCKS {
            recent.pop_front();
        }
        Ok(block)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::{DiskFiles, Files};

    /// Bytes that do not repeat too soon.
    fn bytes(len: usize) -> Vec<u8> {
        (0..len as u64).map(|n| (n.wrapping_mul(n + 7) >> 5) as u8).collect()
    }

    #[test]
    fn archived_bytes_are_read_at_any_offset_and_damage_is_found() {
        let directory = tempfile::tempdir().unwrap();
        let files = DiskFiles::open(directory.path()).unwrap();
        for len in [0, 1, BLOCK_BYTES - 1, BLOCK_BYTES, 2 * BLOCK_BYTES + 3] {
            let name = format!("{len:020}{ARCHIVED}");
            let (header, frames) = (vec![7; SEGMENT_HEADER_BYTES], bytes(len));
            let mut writer = ArchiveWriter::new(files.append(&name).unwrap(), &header).unwrap();
            for part in frames.chunks(300_000) {
                writer.write(part).unwrap();
            }
            let all = [&header[..], &frames].concat();
            assert_eq!(writer.end().unwrap(), all.len() as u64);
            assert_eq!(files.len(&name).unwrap(), all.len() as u64);
            for at in [0, 3, 63, 64, 65, BLOCK_BYTES + 60, BLOCK_BYTES + 64, all.len() - 1] {
                let at = at.min(all.len());
                let mut buffer = [0; 100];
                let mut read = 0;
                while read < buffer.len() {
                    let more = files.read_at(&name, (at + read) as u64, &mut buffer[read..]);
                    match more.unwrap() {
                        0 => break,
                        more => read += more,
                    }
                }
                assert_eq!(buffer[..read], all[at..(at + 100).min(all.len())], "{len}, at {at}");
            }
            let path = directory.path().join(&name);
            let file = std::fs::read(&path).unwrap();
            for cut in [0, 63, file.len() / 2, file.len() - 1] {
                let damaged = directory.path().join("damaged");
                std::fs::write(&damaged, &file[..cut]).unwrap();
                let opened = std::fs::File::open(damaged).unwrap();
                let opened = ArchivedSegment::open(Box::new(opened), cut as u64);
                assert!(opened.is_err(), "{len} cut to {cut}");
            }
        }
    }
}
