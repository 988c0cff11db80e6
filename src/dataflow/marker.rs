//! What each worker works on, in a file that outlives the process however it ends.
//!
//! The file is mapped into memory, so a mark is a few stores, and what was stored is in the file also
//! after `kill -9`, a fault or a stack overflow. It begins with a header of [`SLOT_BYTES`]: the magic
//! bytes, the number of slots, and whether the process has ended in order. A slot a worker follows:
//!
//! ```text
//! offset  bytes
//!      0      8  odd while the worker is in a view; each mark raises it
//!      8      8  1: a watchdog has found the worker stuck here
//!     16      8  the view is complete below this tick
//!     24      8  it was fed up to this tick
//!     32      4  length of the view's name
//!     36      4  length of the generation
//!     40    216  name, generation
//! ```

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::model::Tick;

const MAGIC: u64 = u64::from_le_bytes(*b"helimrk1");
/// Bytes of the header, and of a slot.
const SLOT_BYTES: usize = 256;
const TEXT_AT: usize = 40;
const TEXT_BYTES: usize = SLOT_BYTES - TEXT_AT;
/// The most workers that a file can have.
const SLOTS_MAX: usize = 1024;

/// A view that a worker was in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MarkedView {
    /// The view's name.
    pub view: String,
    /// The generation that was computed.
    pub generation: String,
    /// What the worker worked at: the ticks from here up to `to`.
    pub from: Tick,
    /// The last tick that the view was fed.
    pub to: Tick,
    /// The process was ended since the worker did not get out of the view.
    pub is_stuck: bool,
}

/// How the process before this one ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LastEnd {
    /// It ended in order, or there was none.
    pub in_order: bool,
    /// The views that its workers were in.
    pub views: Vec<MarkedView>,
}

/// The mapped file.
pub struct Marker {
    map: NonNull<u8>,
    slots: usize,
}

// SAFETY: the map stays where it is until the marker is dropped; what is shared of it is atomic, and
// the texts are read only by the watchdog, which compares the counter around them.
unsafe impl Send for Marker {}
// SAFETY: as above.
unsafe impl Sync for Marker {}

impl Drop for Marker {
    fn drop(&mut self) {
        // SAFETY: the map was made with this length, and nothing points into it any more.
        unsafe { libc::munmap(self.map.as_ptr().cast(), bytes(self.slots)) };
    }
}

fn bytes(slots: usize) -> usize {
    SLOT_BYTES * (slots + 1)
}

/// Reads how the process before this one ended; a file that is none of ours says nothing.
fn last_end(file: &[u8]) -> LastEnd {
    let word = |at: usize| {
        let bytes = file.get(at..at + 8).and_then(|bytes| bytes.try_into().ok());
        u64::from_le_bytes(bytes.unwrap_or_default())
    };
    let slots = word(8) as usize;
    if word(0) != MAGIC || slots > SLOTS_MAX || file.len() < bytes(slots) {
        return LastEnd { in_order: true, views: Vec::new() };
    }
    let slot = |slot: usize| {
        let at = SLOT_BYTES * (slot + 1);
        let lengths = word(at + 32);
        let (name, generation) = (lengths as u32 as usize, (lengths >> 32) as usize);
        let text = &file[at + TEXT_AT..at + SLOT_BYTES];
        let name_text = text.get(..name)?;
        let generation_text = text.get(name..name.checked_add(generation)?)?;
        (word(at) % 2 == 1).then(|| MarkedView {
            view: String::from_utf8_lossy(name_text).into_owned(),
            generation: String::from_utf8_lossy(generation_text).into_owned(),
            from: word(at + 16),
            to: word(at + 24),
            is_stuck: word(at + 8) == 1,
        })
    };
    let mut views: Vec<MarkedView> = (0..slots).filter_map(slot).collect();
    views.dedup();
    LastEnd { in_order: word(16) == 1, views }
}

impl Marker {
    /// What the file says of the process before this one.
    pub fn read(path: &Path) -> io::Result<LastEnd> {
        match std::fs::read(path) {
            Ok(file) => Ok(last_end(&file)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Ok(LastEnd { in_order: true, views: Vec::new() })
            }
            Err(error) => Err(error),
        }
    }

    /// Begins the file anew, for `workers`.
    pub fn create(path: &Path, workers: usize) -> io::Result<Arc<Marker>> {
        let slots = workers.min(SLOTS_MAX);
        let mut file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        // Written, and not only made longer: on a full disk this is an error, and a mark in a page
        // without a place on disk would be the end of the process.
        file.write_all(&vec![0; bytes(slots)])?;
        file.set_len(bytes(slots) as u64)?;
        Marker::over(map(Some(&file), bytes(slots))?, slots)
    }

    /// Marks in memory only, which nobody reads after the end of the process.
    pub fn in_memory(workers: usize) -> io::Result<Arc<Marker>> {
        let slots = workers.min(SLOTS_MAX);
        Marker::over(map(None, bytes(slots))?, slots)
    }

    fn over(map: NonNull<u8>, slots: usize) -> io::Result<Arc<Marker>> {
        let marker = Marker { map, slots };
        marker.word(8).store(slots as u64, Ordering::Relaxed);
        marker.word(0).store(MAGIC, Ordering::Release);
        Ok(Arc::new(marker))
    }

    /// The word at an offset, which is a multiple of 8 within the map.
    fn word(&self, at: usize) -> &AtomicU64 {
        debug_assert!(at.is_multiple_of(8) && at + 8 <= bytes(self.slots));
        // SAFETY: the map is page-aligned, longer than this, and lives as long as `self`; atomics
        // have no values that are not allowed.
        unsafe { &*self.map.as_ptr().add(at).cast::<AtomicU64>() }
    }

    /// The process ends in order from now on: what its workers are in is nobody's fault.
    pub fn end_in_order(&self) {
        self.word(16).store(1, Ordering::Release);
    }

    /// Whether the process ends in order.
    pub fn is_ending(&self) -> bool {
        self.word(16).load(Ordering::Acquire) == 1
    }

    /// The slot of a worker.
    pub fn worker(self: &Arc<Self>, worker: usize) -> Option<WorkerMarker> {
        (worker < self.slots).then(|| WorkerMarker { marker: Arc::clone(self), worker })
    }

    /// For each worker a number that changes with every mark, odd while it is in a view.
    pub fn marks(&self) -> Vec<u64> {
        (0..self.slots)
            .map(|slot| self.word(SLOT_BYTES * (slot + 1)).load(Ordering::Acquire))
            .collect()
    }

    /// The name of the view that a worker is in, which must be stuck there.
    pub fn view(&self, worker: usize) -> String {
        let at = SLOT_BYTES * (worker + 1);
        let length = (self.word(at + 32).load(Ordering::Acquire) as u32 as usize).min(TEXT_BYTES);
        // SAFETY: the text lies within the slot, and the worker, which is stuck, does not change it.
        let text =
            unsafe { std::slice::from_raw_parts(self.map.as_ptr().add(at + TEXT_AT), length) };
        String::from_utf8_lossy(text).into_owned()
    }

    /// Notes that the process ends since this worker is stuck.
    pub fn set_stuck(&self, worker: usize) {
        self.word(SLOT_BYTES * (worker + 1) + 8).store(1, Ordering::Release);
    }
}

/// A map of a file of this length, or of memory.
fn map(file: Option<&File>, bytes: usize) -> io::Result<NonNull<u8>> {
    let kind = if file.is_some() { 0 } else { libc::MAP_ANONYMOUS };
    // SAFETY: the arguments are those of a new shared map; the result is checked.
    let map = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            bytes,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED | kind,
            file.map_or(-1, AsRawFd::as_raw_fd),
            0,
        )
    };
    if map == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    NonNull::new(map.cast()).ok_or_else(io::Error::last_os_error)
}

/// A worker's slot.
pub struct WorkerMarker {
    marker: Arc<Marker>,
    worker: usize,
}

impl WorkerMarker {
    fn word(&self, at: usize) -> &AtomicU64 {
        self.marker.word(SLOT_BYTES * (self.worker + 1) + at)
    }

    /// The worker is in this view, which it computes for the ticks `from` to `to`.
    pub fn begin(&self, view: &str, generation: &str, (from, to): (Tick, Tick)) {
        let name = &view.as_bytes()[..view.len().min(TEXT_BYTES)];
        let rest = TEXT_BYTES - name.len();
        let generation = &generation.as_bytes()[..generation.len().min(rest)];
        let at = SLOT_BYTES * (self.worker + 1) + TEXT_AT;
        // SAFETY: both texts together are as long as what a slot has for them at most, and this
        // worker alone writes its slot.
        unsafe {
            let text = self.marker.map.as_ptr().add(at);
            text.copy_from_nonoverlapping(name.as_ptr(), name.len());
            text.add(name.len()).copy_from_nonoverlapping(generation.as_ptr(), generation.len());
        }
        let lengths = name.len() as u64 | (generation.len() as u64) << 32;
        self.word(32).store(lengths, Ordering::Relaxed);
        self.word(16).store(from, Ordering::Relaxed);
        self.word(24).store(to, Ordering::Relaxed);
        let mark = self.word(0).load(Ordering::Relaxed);
        self.word(0).store((mark + 1) | 1, Ordering::Release);
    }

    /// The worker is in no view.
    pub fn end(&self) {
        let mark = self.word(0).load(Ordering::Relaxed);
        self.word(0).store((mark + 1) & !1, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn views_that_workers_are_in_are_told_to_the_next_process() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("workers.marker");
        assert_eq!(Marker::read(&path).unwrap(), LastEnd { in_order: true, views: Vec::new() });
        let marker = Marker::create(&path, 2).unwrap();
        let (first, second) = (marker.worker(0).unwrap(), marker.worker(1).unwrap());
        first.begin("idle", "0", (1, 2));
        first.end();
        let marks = marker.marks();
        second.begin("totals", "00ff", (17, 20));
        assert_eq!((marker.marks()[0], marker.marks()[1] % 2), (marks[0], 1));
        assert_eq!(marker.view(1), "totals");
        marker.set_stuck(1);
        // As after a death: the map is still there when the file is read.
        let before = Marker::read(&path).unwrap();
        let view = MarkedView {
            view: "totals".to_string(),
            generation: "00ff".to_string(),
            from: 17,
            to: 20,
            is_stuck: true,
        };
        assert_eq!(before, LastEnd { in_order: false, views: vec![view] });
    }

    #[test]
    fn orderly_ends_and_foreign_files_say_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("workers.marker");
        let marker = Marker::create(&path, 1).unwrap();
        marker.worker(0).unwrap().begin("v", "1", (0, 1));
        marker.end_in_order();
        assert!(Marker::read(&path).unwrap().in_order);
        for foreign in [&b""[..], b"helimrk1", &[0xff; 600], b"helimrk1\xff\xff\0\0\0\0\0\0"] {
            assert_eq!(last_end(foreign), LastEnd { in_order: true, views: Vec::new() });
        }
    }
}
