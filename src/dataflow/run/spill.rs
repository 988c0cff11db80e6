//! Large runs that are written to files while they are merged, where memory is short.
//!
//! The files have no name: they are gone with the process, and with the run. Their pages are read when
//! they are looked at, and the system takes them back when it needs the memory.

use std::cell::RefCell;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use memmap2::Mmap;

/// Runs that will be smaller than this stay in memory.
const BYTES_MIN: usize = 16 << 20;

/// Where runs are written to, and whether they are.
#[derive(Debug)]
pub struct Spill {
    directory: PathBuf,
    bytes_min: usize,
    wanted: AtomicBool,
    /// The disk has no room, which was told.
    full: AtomicBool,
}

impl Spill {
    /// Into files of this directory, once that is wanted.
    pub fn new(directory: &Path) -> Self {
        let (wanted, full) = (AtomicBool::new(false), AtomicBool::new(false));
        Spill { directory: directory.to_path_buf(), bytes_min: BYTES_MIN, wanted, full }
    }

    /// The same for runs of any size.
    #[cfg(test)]
    pub fn of_all(directory: &Path) -> Self {
        let spill = Spill { bytes_min: 0, ..Spill::new(directory) };
        spill.set_wanted(true);
        spill
    }

    /// Whether large runs are written to files from now on.
    pub fn set_wanted(&self, wanted: bool) {
        self.wanted.store(wanted, Ordering::Relaxed);
    }

    fn begin(&self, bytes: usize) -> Option<SpillFile> {
        let begun = tempfile::tempfile_in(&self.directory).and_then(|file| {
            reserve(&file, bytes.max(1))?;
            Ok(SpillFile { file, written: 0 })
        });
        match begun {
            Ok(file) => {
                self.full.store(false, Ordering::Relaxed);
                Some(file)
            }
            Err(error) => {
                if !self.full.swap(true, Ordering::Relaxed) {
                    let directory = self.directory.display();
                    tracing::warn!(%directory, %error, bytes, "state cannot be written to a file: it stays in memory");
                }
                None
            }
        }
    }
}

thread_local! {
    static SPILL: RefCell<Option<Arc<Spill>>> = const { RefCell::new(None) };
}

/// This thread writes large runs as `spill` says from now on.
pub fn spill_to(spill: Option<Arc<Spill>>) {
    SPILL.set(spill);
}

/// A file for a run of at most so many bytes; `None` if it is to be in memory.
pub fn begin(bytes: usize) -> Option<SpillFile> {
    SPILL.with_borrow(|spill| {
        let is_asked =
            |spill: &&Arc<Spill>| bytes >= spill.bytes_min && spill.wanted.load(Ordering::Relaxed);
        spill.as_ref().filter(is_asked)?.begin(bytes)
    })
}

/// Makes sure that there is room on the disk.
fn reserve(file: &File, bytes: usize) -> io::Result<()> {
    let len = libc::off_t::try_from(bytes).unwrap_or(libc::off_t::MAX);
    // SAFETY: the call takes an open file and two numbers.
    match unsafe { libc::posix_fallocate(file.as_raw_fd(), 0, len) } {
        0 => Ok(()),
        error => Err(io::Error::from_raw_os_error(error)),
    }
}

/// A run's file while it is written.
#[derive(Debug)]
pub struct SpillFile {
    file: File,
    written: usize,
}

impl SpillFile {
    /// Number of bytes that are in it.
    pub fn written(&self) -> usize {
        self.written
    }

    /// Appends bytes. Ends the worker where that fails: there was room, so the disk is broken, and a part
    /// of the state is gone.
    pub fn write(&mut self, bytes: &[u8]) {
        expect_written(self.file.write_all(bytes));
        self.written += bytes.len();
    }

    /// All bytes, which are read when they are looked at.
    pub fn finish(self) -> Bytes {
        let SpillFile { file, written } = self;
        expect_written(file.set_len(written as u64));
        // SAFETY: the file has no name, and nobody writes to it any more.
        let mapped = expect_written(unsafe { Mmap::map(&file) });
        Bytes::from_owner(mapped)
    }
}

#[expect(clippy::panic, reason = "operators have no way to go on without their state")]
fn expect_written<T>(result: io::Result<T>) -> T {
    result.unwrap_or_else(|error| panic!("state could not be written to a file: {error}"))
}
