//! The work of each worker and the memory of each view, noted in a file that outlives the process however it
//! ends.
//!
//! The file is mapped into memory, so a mark is a few stores, and what was stored is in the file also
//! after `kill -9`, a fault or a stack overflow. It begins with a header of [`SLOT_BYTES`]: the magic
//! bytes, the number of workers, whether the process has ended in order, and the number of slots of
//! views. A slot follows for each worker, and [`BESIDE`] for threads that work beside them:
//!
//! ```text
//! offset  bytes
//!      0      8  odd while the thread is in a view; each mark raises it
//!      8      8  1: a watchdog has found the worker stuck here; 2: the thread has faulted here
//!     16      8  the view is complete below this tick
//!     24      8  it was fed up to this tick
//!     32      4  length of the view's name
//!     36      4  length of the generation
//!     40    216  name, generation
//! ```
//!
//! Behind them are slots of views, one for each generation that runs:
//!
//! ```text
//! offset  bytes
//!      0      8  1 while the slot is in use
//!      8      8  bytes of memory that the view's state takes, without what is in files
//!     16     16  0
//!     32    224  names as above
//! ```

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::fault::{self, FAULTED};
use crate::model::Tick;

const MAGIC: u64 = u64::from_le_bytes(*b"helimrk3");
/// Bytes of the header, and of a slot.
const SLOT_BYTES: usize = 256;
/// Stands for a worker that is stuck.
const STUCK: u64 = 1;
const TEXT_AT: usize = 40;
const TEXT_BYTES: usize = SLOT_BYTES - TEXT_AT;
/// The most workers that a file can have.
const WORKERS_MAX: usize = 1024;
/// The number of slots for threads beside the workers. Work of further ones is not marked.
const BESIDE: usize = 32;
/// Number of views that a file has slots for. Nothing is noted of further views.
const VIEWS: usize = 1024;

/// A view that a worker was in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MarkedView {
    /// The view's name.
    pub view: String,
    /// The generation that was computed.
    pub generation: String,
    /// First tick of the worker's work, which went up to `to`.
    pub from: Tick,
    /// The last tick that the view was fed.
    pub to: Tick,
    /// The process was ended since the worker did not get out of the view.
    pub is_stuck: bool,
    /// The process has ended by a fault in this thread.
    pub has_faulted: bool,
}

/// The memory that a generation of a view held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldView {
    /// The view's name.
    pub view: String,
    /// The generation.
    pub generation: String,
    /// Bytes of memory that its state took, about.
    pub bytes: u64,
}

/// How the process before this one ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LastEnd {
    /// It ended in order, or there was none.
    pub in_order: bool,
    /// The views that its workers were in.
    pub views: Vec<MarkedView>,
    /// The memory that each view held.
    pub held: Vec<HeldView>,
}

impl LastEnd {
    /// Nothing is known of an end that was not in order.
    fn orderly() -> LastEnd {
        LastEnd { in_order: true, views: Vec::new(), held: Vec::new() }
    }
}

/// The mapped file.
pub struct Marker {
    map: NonNull<u8>,
    workers: usize,
    /// For each slot of a thread beside the workers whether it is in use.
    beside: Mutex<Vec<bool>>,
    /// For each view's slot whether it is in use.
    views: Mutex<Vec<bool>>,
}

// SAFETY: the map stays where it is until the marker is dropped; what is shared of it is atomic, and
// the texts are read only by the watchdog, which compares the counter around them.
unsafe impl Send for Marker {}
// SAFETY: as above.
unsafe impl Sync for Marker {}

impl Drop for Marker {
    fn drop(&mut self) {
        // SAFETY: the map was made with this length, and nothing points into it any more.
        unsafe { libc::munmap(self.map.as_ptr().cast(), bytes(self.workers)) };
    }
}

/// The length of a file for so many workers.
fn bytes(workers: usize) -> usize {
    SLOT_BYTES * (1 + workers + BESIDE + VIEWS)
}

/// Takes a slot that is not in use.
fn take_slot(slots: &Mutex<Vec<bool>>) -> Option<usize> {
    let mut slots = slots.lock().unwrap_or_else(PoisonError::into_inner);
    let slot = slots.iter().position(|in_use| !in_use)?;
    slots[slot] = true;
    Some(slot)
}

/// Gives a slot back.
fn free_slot(slots: &Mutex<Vec<bool>>, slot: usize) {
    slots.lock().unwrap_or_else(PoisonError::into_inner)[slot] = false;
}

/// Reads how the process before this one ended; a file that is none of ours says nothing.
fn last_end(file: &[u8]) -> LastEnd {
    let word = |at: usize| {
        let bytes = file.get(at..at + 8).and_then(|bytes| bytes.try_into().ok());
        u64::from_le_bytes(bytes.unwrap_or_default())
    };
    let (workers, views) = (word(8) as usize, word(24) as usize);
    if word(0) != MAGIC || workers > WORKERS_MAX || views != VIEWS || file.len() < bytes(workers) {
        return LastEnd::orderly();
    }
    // The name and the generation in a slot; none if they are not whole.
    let names = |at: usize| {
        let lengths = word(at + 32);
        let (name, generation) = (lengths as u32 as usize, (lengths >> 32) as usize);
        let text = &file[at + TEXT_AT..at + SLOT_BYTES];
        let name_text = text.get(..name)?;
        let generation_text = text.get(name..name.checked_add(generation)?)?;
        let told = |text| String::from_utf8_lossy(text).into_owned();
        Some((told(name_text), told(generation_text)))
    };
    let marked = |worker: usize| {
        let at = SLOT_BYTES * (1 + worker);
        let (view, generation) = names(at).filter(|_| word(at) % 2 == 1)?;
        let (from, to) = (word(at + 16), word(at + 24));
        let (is_stuck, has_faulted) = (word(at + 8) == STUCK, word(at + 8) == FAULTED);
        Some(MarkedView { view, generation, from, to, is_stuck, has_faulted })
    };
    let held = |view: usize| {
        let at = SLOT_BYTES * (1 + workers + BESIDE + view);
        let (view, generation) = names(at).filter(|_| word(at) == 1)?;
        Some(HeldView { view, generation, bytes: word(at + 8) })
    };
    let mut marked: Vec<MarkedView> = (0..workers + BESIDE).filter_map(marked).collect();
    marked.dedup();
    let held = (0..views).filter_map(held).collect();
    LastEnd { in_order: word(16) == 1, views: marked, held }
}

impl Marker {
    /// Reads from the file how the process before this one ended.
    pub fn read(path: &Path) -> io::Result<LastEnd> {
        match std::fs::read(path) {
            Ok(file) => Ok(last_end(&file)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(LastEnd::orderly()),
            Err(error) => Err(error),
        }
    }

    /// Begins the file anew, for `workers`.
    pub fn create(path: &Path, workers: usize) -> io::Result<Arc<Marker>> {
        let workers = workers.min(WORKERS_MAX);
        let mut file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        // Written, and not only made longer: on a full disk this is an error, and a mark in a page
        // without a place on disk would be the end of the process.
        file.write_all(&vec![0; bytes(workers)])?;
        file.set_len(bytes(workers) as u64)?;
        Marker::over(map(Some(&file), bytes(workers))?, workers)
    }

    /// Marks in memory only, which nobody reads after the end of the process.
    pub fn in_memory(workers: usize) -> io::Result<Arc<Marker>> {
        let workers = workers.min(WORKERS_MAX);
        Marker::over(map(None, bytes(workers))?, workers)
    }

    fn over(map: NonNull<u8>, workers: usize) -> io::Result<Arc<Marker>> {
        let marker = Marker {
            map,
            workers,
            beside: Mutex::new(vec![false; BESIDE]),
            views: Mutex::new(vec![false; VIEWS]),
        };
        marker.word(8).store(workers as u64, Ordering::Relaxed);
        marker.word(24).store(VIEWS as u64, Ordering::Relaxed);
        marker.word(0).store(MAGIC, Ordering::Release);
        Ok(Arc::new(marker))
    }

    /// The word at an offset, which is a multiple of 8 within the map.
    fn word(&self, at: usize) -> &AtomicU64 {
        debug_assert!(at.is_multiple_of(8) && at + 8 <= bytes(self.workers));
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
    pub fn worker(self: &Arc<Self>, worker: usize) -> Option<WorkMarker> {
        (worker < self.workers).then(|| WorkMarker { marker: Arc::clone(self), slot: worker })
    }

    /// A slot for what a generation of a view holds, if there is one left.
    pub fn account(self: &Arc<Self>, view: &str, generation: &str) -> Option<ViewAccount> {
        let slot = take_slot(&self.views)?;
        let at = SLOT_BYTES * (1 + self.workers + BESIDE + slot);
        self.write_names(at, view, generation);
        self.word(at + 8).store(0, Ordering::Relaxed);
        self.word(at).store(1, Ordering::Release);
        Some(ViewAccount { marker: Arc::clone(self), slot, at })
    }

    /// Writes the names of a slot, which nobody else writes.
    fn write_names(&self, at: usize, view: &str, generation: &str) {
        let name = &view.as_bytes()[..view.len().min(TEXT_BYTES)];
        let rest = TEXT_BYTES - name.len();
        let generation = &generation.as_bytes()[..generation.len().min(rest)];
        // SAFETY: both texts together are as long as what a slot has for them at most, and the caller
        // alone writes this slot.
        unsafe {
            let text = self.map.as_ptr().add(at + TEXT_AT);
            text.copy_from_nonoverlapping(name.as_ptr(), name.len());
            text.add(name.len()).copy_from_nonoverlapping(generation.as_ptr(), generation.len());
        }
        let lengths = name.len() as u64 | (generation.len() as u64) << 32;
        self.word(at + 32).store(lengths, Ordering::Relaxed);
    }

    /// For each worker a number that changes with every mark, odd while it is in a view.
    pub fn marks(&self) -> Vec<u64> {
        (0..self.workers)
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
        self.word(SLOT_BYTES * (worker + 1) + 8).store(STUCK, Ordering::Release);
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

/// The slot of a thread: a worker's, or one beside the workers, which is given back when this is dropped.
pub struct WorkMarker {
    marker: Arc<Marker>,
    /// Those of the workers come first.
    slot: usize,
}

impl WorkMarker {
    fn word(&self, at: usize) -> &AtomicU64 {
        self.marker.word(SLOT_BYTES * (self.slot + 1) + at)
    }

    /// A slot for a thread that works beside this worker, if there is one left.
    pub fn beside(&self) -> Option<WorkMarker> {
        let slot = self.marker.workers + take_slot(&self.marker.beside)?;
        Some(WorkMarker { marker: Arc::clone(&self.marker), slot })
    }

    /// A fault of this thread is noted here, until this is dropped, which has to happen in this thread.
    pub fn note_faults(&self) {
        // SAFETY: the word lives as long as `self`, which ends this when it is dropped.
        unsafe { fault::note_in(self.word(8)) };
    }

    /// The thread is in this view, which it computes for the ticks `from` to `to`.
    pub fn begin(&self, view: &str, generation: &str, (from, to): (Tick, Tick)) {
        self.marker.write_names(SLOT_BYTES * (self.slot + 1), view, generation);
        self.word(16).store(from, Ordering::Relaxed);
        self.word(24).store(to, Ordering::Relaxed);
        let mark = self.word(0).load(Ordering::Relaxed);
        self.word(0).store((mark + 1) | 1, Ordering::Release);
    }

    /// The thread is in no view.
    pub fn end(&self) {
        let mark = self.word(0).load(Ordering::Relaxed);
        self.word(0).store((mark + 1) & !1, Ordering::Release);
    }
}

impl Drop for WorkMarker {
    fn drop(&mut self) {
        fault::forget(self.word(8));
        // A worker that panics stays where it is, for the next process to see.
        if let Some(beside) = self.slot.checked_sub(self.marker.workers) {
            self.end();
            free_slot(&self.marker.beside, beside);
        }
    }
}

/// The slot of a view's generation, in use until this is dropped.
pub struct ViewAccount {
    marker: Arc<Marker>,
    slot: usize,
    at: usize,
}

impl ViewAccount {
    /// The view's state takes so many bytes of memory now.
    pub fn set(&self, bytes: u64) {
        self.marker.word(self.at + 8).store(bytes, Ordering::Relaxed);
    }
}

impl Drop for ViewAccount {
    fn drop(&mut self) {
        self.marker.word(self.at).store(0, Ordering::Release);
        free_slot(&self.marker.views, self.slot);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn views_that_workers_are_in_are_told_to_the_next_process() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("workers.marker");
        assert_eq!(Marker::read(&path).unwrap(), LastEnd::orderly());
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
            has_faulted: false,
        };
        assert_eq!(before, LastEnd { in_order: false, views: vec![view], held: Vec::new() });
    }

    #[test]
    fn what_views_hold_is_told_to_the_next_process_until_they_are_gone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("workers.marker");
        let marker = Marker::create(&path, 2).unwrap();
        let large = marker.account("large", "1").unwrap();
        let gone = marker.account("gone", "2").unwrap();
        gone.set(7);
        large.set(5_000_000_000);
        drop(gone);
        let small = marker.account("small", "3").unwrap();
        small.set(3);
        let held = |view: &str, generation: &str, bytes| {
            let (view, generation) = (view.to_string(), generation.to_string());
            HeldView { view, generation, bytes }
        };
        let expected = vec![held("large", "1", 5_000_000_000), held("small", "3", 3)];
        assert_eq!(Marker::read(&path).unwrap().held, expected);
    }

    #[test]
    fn threads_beside_the_workers_have_slots_of_their_own() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("workers.marker");
        let marker = Marker::create(&path, 1).unwrap();
        let worker = marker.worker(0).unwrap();
        let threads: Vec<WorkMarker> = (0..BESIDE).map(|_| worker.beside().unwrap()).collect();
        assert!(worker.beside().is_none());
        worker.begin("small", "1", (1, 1));
        threads[3].begin("large", "2", (5, 6));
        threads[3].word(8).store(FAULTED, Ordering::Relaxed);
        let told: Vec<(String, bool)> = Marker::read(&path)
            .unwrap()
            .views
            .into_iter()
            .map(|view| (view.view, view.has_faulted))
            .collect();
        assert_eq!(told, [("small".to_string(), false), ("large".to_string(), true)]);
        drop(threads);
        assert_eq!(Marker::read(&path).unwrap().views.len(), 1);
        assert!(worker.beside().is_some());
    }

    #[test]
    fn views_without_a_slot_are_not_accounted() {
        let marker = Marker::in_memory(1).unwrap();
        let mut accounts: Vec<_> = (0..VIEWS).map(|_| marker.account("v", "1").unwrap()).collect();
        assert!(marker.account("v", "1").is_none());
        accounts.pop();
        assert!(marker.account("v", "1").is_some());
    }

    #[test]
    fn orderly_ends_and_foreign_files_say_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("workers.marker");
        let marker = Marker::create(&path, 1).unwrap();
        marker.worker(0).unwrap().begin("v", "1", (0, 1));
        marker.end_in_order();
        assert!(Marker::read(&path).unwrap().in_order);
        for foreign in [&b""[..], b"helimrk3", &[0xff; 600], b"helimrk3\xff\xff\0\0\0\0\0\0"] {
            assert_eq!(last_end(foreign), LastEnd::orderly());
        }
    }
}
