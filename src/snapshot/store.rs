//! The files of snapshots: writes them, publishes them, and finds a view's state in them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use xxhash_rust::xxh3::{Xxh3Default, xxh3_64};

use super::manifest::{FilePart, Manifest, StoredRun, StoredUnwritten, StoredView, ViewIdentity};
use super::unwritten;
use crate::dataflow::{
    FilledTable, FilledTables, KeptTableRows, KeptView, PackedRun, WorkerArrangements,
};
use crate::log::{FileHandle, Files};
use crate::model::Head;
use crate::model::failure::FailureChange;
use crate::model::view::{Unwritten, UnwrittenSpan};
use crate::plan::scan::Scan;

/// Parts of files begin at multiples of this many bytes.
const ALIGNMENT: usize = 4096;
/// Bytes handed to the file at once.
const WRITE_BYTES: usize = 1 << 20;
/// Bytes written between two syncs. One sync of everything would make others that sync, such as the log, wait
/// for it.
const SYNC_BYTES: usize = 32 << 20;
/// Bytes of the disk that a snapshot leaves free.
const ROOM_LEFT: u64 = 512 << 20;
/// A file of which less than one part in so many is in use is written anew.
const LIVE_SHARE_MIN: u64 = 2;
/// Bytes that are compared with their checksum at once in the background.
const CHECK_BYTES: usize = 4 << 20;
/// The number of manifests that are kept.
const MANIFESTS: usize = 2;

/// The state of one view, to be written.
pub struct ViewSnapshot {
    pub identity: ViewIdentity,
    pub head: Head,
    pub rows: u64,
    pub failures: Vec<FailureChange>,
    /// The changes that its table does not surely show.
    pub unwritten: Vec<Unwritten>,
    /// The arrangements of each worker.
    pub workers: Vec<WorkerArrangements>,
    /// The arrangements that other views can be filled from.
    pub tables: Vec<KeptTableRows>,
}

/// The state of one view, as it was found.
pub struct FoundView {
    pub head: Head,
    pub rows: u64,
    pub failures: Vec<FailureChange>,
    /// The changes that its table did not surely show.
    pub unwritten: Vec<Unwritten>,
    pub kept: Arc<KeptView>,
}

/// Rows of the tables that a view reads, as other views have kept them.
pub struct FoundTables {
    pub head: Head,
    pub tables: Arc<FilledTables>,
}

/// Runs, and other parts of files.
struct ReadRuns {
    workers: Vec<WorkerArrangements>,
    others: Vec<Bytes>,
}

/// A part of a file that is not what was written.
#[derive(Debug, thiserror::Error)]
#[error("{file} is damaged ({what}): the view is computed from the log")]
pub struct DamagedSnapshot {
    file: String,
    what: String,
}

/// A part of a file that a view goes on from before it is compared with its checksum.
pub struct UncheckedPart {
    /// The view that goes on from it.
    pub view: ViewIdentity,
    part: FilePart,
    bytes: Bytes,
}

impl UncheckedPart {
    /// Compares the part with its checksum, a few megabytes at a time; `goes_on` is asked in between.
    pub fn check(&self, mut goes_on: impl FnMut() -> bool) -> Result<(), DamagedSnapshot> {
        let mut hash = Xxh3Default::new();
        for bytes in self.bytes.chunks(CHECK_BYTES) {
            if !goes_on() {
                return Ok(());
            }
            hash.update(bytes);
        }
        compared(&self.part, hash.digest())
    }
}

/// Views that are in files and not in a manifest yet.
pub struct WrittenSnapshot {
    views: Vec<StoredView>,
    /// The file that was written, and its length.
    file: Option<(u64, u64)>,
    /// Where runs are that were in no file before.
    places: HashMap<u64, FilePart>,
    /// The number of bytes written.
    pub bytes: u64,
}

/// The snapshots of a data directory.
pub struct SnapshotStore {
    files: Arc<dyn Files>,
    log: String,
    state: Mutex<SnapshotStoreState>,
}

struct SnapshotStoreState {
    /// The manifests, the newest first, with their numbers.
    manifests: Vec<(u64, Manifest)>,
    /// Where runs are, by their numbers in this process.
    places: HashMap<u64, FilePart>,
    /// The number of the next file of any kind.
    next: u64,
    /// How many more bytes are compared with their checksums before views go on from them.
    checked_bytes_left: u64,
    /// What views go on from and is still to be compared.
    unchecked: Vec<UncheckedPart>,
}

/// The name of a file of runs.
pub fn file_name(number: u64) -> String {
    format!("runs-{number}")
}

fn file_number(name: &str) -> Option<u64> {
    name.strip_prefix("runs-")?.parse().ok()
}

impl SnapshotStore {
    /// Reads the manifests of views over this log. Also returns the reasons why some cannot be used.
    /// `checked_bytes_max`: how many bytes are compared with their checksums before views go on from them; the
    /// rest is for [`SnapshotStore::take_unchecked`].
    pub fn open(
        files: Arc<dyn Files>,
        log: &str,
        checked_bytes_max: u64,
    ) -> io::Result<(Self, Vec<String>)> {
        let names = files.list()?;
        let mut numbers: Vec<u64> =
            names.iter().filter_map(|name| Manifest::number(name)).collect();
        numbers.sort_unstable_by(|a, b| b.cmp(a));
        let (mut manifests, mut unusable) = (Vec::new(), Vec::new());
        for number in &numbers {
            let name = Manifest::name(*number);
            match Manifest::parse(&files.read_all(&name)?, log) {
                Ok(manifest) if manifests.len() < MANIFESTS => manifests.push((*number, manifest)),
                Ok(_) => {}
                Err(error) => unusable.push(format!("{name} is not used: {error}")),
            }
        }
        let all = names.iter().filter_map(|name| file_number(name)).chain(numbers);
        let next = all.max().map_or(1, |last| last + 1);
        let state = Mutex::new(SnapshotStoreState {
            manifests,
            places: HashMap::new(),
            next,
            checked_bytes_left: checked_bytes_max,
            unchecked: Vec::new(),
        });
        let store = SnapshotStore { files, log: log.to_string(), state };
        // Files that only an unusable manifest names are kept: the version that wrote it can still read them,
        // as long as this one publishes nothing.
        if unusable.is_empty() {
            store.remove_unnamed()?;
        }
        Ok((store, unusable))
    }

    fn lock(&self) -> MutexGuard<'_, SnapshotStoreState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next part that a view goes on from and that was not compared with its checksum yet.
    pub fn take_unchecked(&self) -> Option<UncheckedPart> {
        self.lock().unchecked.pop()
    }

    /// The newest state of a view that is `usable` at its place in the log, with changes of these spans that its
    /// table did not surely show.
    pub fn find(
        &self,
        identity: &ViewIdentity,
        usable: impl Fn(Head, &[UnwrittenSpan]) -> bool,
    ) -> Result<Option<FoundView>, DamagedSnapshot> {
        let mut damaged = None;
        let usable = |view: &StoredView| usable(view.head(), &view.unwritten_spans());
        for view in self.views(identity).into_iter().filter(usable) {
            match self.read(&view) {
                Ok(found) => return Ok(Some(found)),
                // The snapshot before it may be whole.
                Err(error) => damaged = damaged.or(Some(error)),
            }
        }
        damaged.map_or(Ok(None), Err)
    }

    /// The newest rows of all these tables as of one place in the log that is `usable`, for a view.
    pub fn find_tables(
        &self,
        identity: &ViewIdentity,
        scans: &[Scan],
        usable: impl Fn(Head) -> bool,
    ) -> Result<Option<FoundTables>, DamagedSnapshot> {
        let views: Vec<StoredView> = {
            let state = self.lock();
            state.manifests.iter().flat_map(|(_, manifest)| manifest.views.clone()).collect()
        };
        let mut heads: Vec<Head> = views.iter().map(StoredView::head).collect();
        heads.sort_unstable_by_key(|head| std::cmp::Reverse(head.tick));
        heads.dedup();
        for head in heads.into_iter().filter(|head| usable(*head)) {
            let found = |scan: &Scan| {
                let of = |view: &'_ StoredView| {
                    let rows = view.tables.iter().find(|table| table.have(scan))?;
                    Some((scan.source, view.clone(), rows.clone()))
                };
                views.iter().filter(|view| view.head() == head).find_map(of)
            };
            if let Some(found) = scans.iter().map(found).collect::<Option<Vec<_>>>() {
                let tables = found.iter().map(|(source, view, rows)| {
                    let KeptTableRows { columns, arrangement, .. } = rows.clone();
                    let runs = |worker: &Vec<Vec<StoredRun>>| worker.get(arrangement).cloned();
                    let workers = view.workers.iter().filter_map(runs).map(|runs| vec![runs]);
                    let read = self.read_runs(identity, &workers.collect::<Vec<_>>(), &[])?;
                    let workers = read.workers.into_iter().flatten().collect();
                    Ok(FilledTable { source: *source, columns, workers })
                });
                let tables = tables.collect::<Result<_, DamagedSnapshot>>()?;
                let tables = Arc::new(FilledTables { tick: head.tick, tables });
                return Ok(Some(FoundTables { head, tables }));
            }
        }
        Ok(None)
    }

    /// The states of a view that the manifests name, the newest first.
    fn views(&self, identity: &ViewIdentity) -> Vec<StoredView> {
        let state = self.lock();
        let mut views: Vec<StoredView> =
            state.manifests.iter().filter_map(|(_, m)| m.view(identity)).cloned().collect();
        views.dedup();
        views
    }

    fn read(&self, view: &StoredView) -> Result<FoundView, DamagedSnapshot> {
        let unwritten = view.unwritten.iter().map(|changes| changes.part);
        let parts: Vec<FilePart> = view.failures.into_iter().chain(unwritten.flatten()).collect();
        let ReadRuns { workers, others } = self.read_runs(&view.identity, &view.workers, &parts)?;
        let mut others = parts.iter().zip(others);
        let damaged =
            |part: &FilePart, what: String| DamagedSnapshot { file: file_name(part.file), what };
        let failures = match view.failures.and_then(|_| others.next()) {
            Some((part, bytes)) => {
                serde_json::from_slice(&bytes).map_err(|error| damaged(part, error.to_string()))?
            }
            None => Vec::new(),
        };
        let mut unwritten = Vec::new();
        for StoredUnwritten { span, part } in &view.unwritten {
            let changes = match part.and_then(|_| others.next()) {
                Some((part, bytes)) => unwritten::decode(&bytes)
                    .ok_or_else(|| damaged(part, "changes end too early".to_string()))?,
                None => Vec::new(),
            };
            unwritten.push(Unwritten { span: *span, changes });
        }
        let kept = Arc::new(KeptView { tick: view.tick, workers });
        Ok(FoundView { head: view.head(), rows: view.rows, failures, unwritten, kept })
    }

    /// Maps runs, and `others`, for a view, and compares them with their checksums: as many of the runs as are to
    /// be compared at once.
    fn read_runs(
        &self,
        view: &ViewIdentity,
        stored: &[Vec<Vec<StoredRun>>],
        others: &[FilePart],
    ) -> Result<ReadRuns, DamagedSnapshot> {
        let runs: Vec<FilePart> = stored.iter().flatten().flatten().map(|run| run.part).collect();
        let parts: Vec<FilePart> = runs.iter().chain(others).copied().collect();
        let numbers: BTreeSet<u64> = parts.iter().map(|part| part.file).collect();
        let mut files = BTreeMap::new();
        for number in numbers {
            let file = file_name(number);
            let mapped = self.files.map(&file);
            let bytes =
                mapped.map_err(|error| DamagedSnapshot { file, what: error.to_string() })?;
            files.insert(number, bytes);
        }
        let bytes = |part: &FilePart| part_of(&files, part);
        let (at_once, later) = self.lock().divide(runs);
        verify(&files, &[&at_once, others].concat())?;
        let later = later
            .into_iter()
            .map(|part| Ok(UncheckedPart { view: view.clone(), part, bytes: bytes(&part)? }));
        let later = later.collect::<Result<Vec<_>, _>>()?;
        let mut places = HashMap::new();
        let mut workers: Vec<WorkerArrangements> = Vec::new();
        for arrangements in stored {
            let mut worker = Vec::new();
            for runs in arrangements {
                let mut kept = Vec::new();
                for StoredRun { part, shape } in runs {
                    let run = PackedRun::in_file(bytes(part)?, *shape);
                    places.insert(run.id(), *part);
                    kept.push(run);
                }
                worker.push(kept);
            }
            workers.push(worker);
        }
        let others = others.iter().map(bytes).collect::<Result<_, _>>()?;
        let mut state = self.lock();
        state.places.extend(places);
        state.unchecked.extend(later);
        Ok(ReadRuns { workers, others })
    }

    /// Writes what is in no file yet. Nothing refers to it before it is published.
    pub fn write(&self, snapshots: Vec<ViewSnapshot>) -> io::Result<WrittenSnapshot> {
        let (number, known) = {
            let mut state = self.lock();
            state.next += 1;
            let known = state.known(&snapshots);
            (state.next - 1, known)
        };
        let new = |run: &&PackedRun| !known.contains_key(&run.id());
        let runs = || snapshots.iter().flat_map(|view| view.workers.iter().flatten().flatten());
        let bytes: u64 = runs().filter(new).map(|run| run.bytes().len() as u64).sum();
        if self.files.room() < bytes.saturating_add(ROOM_LEFT) {
            return Err(io::Error::new(
                io::ErrorKind::StorageFull,
                format!("{bytes} bytes are to be written, and {ROOM_LEFT} are to stay free"),
            ));
        }
        let mut writer = PartWriter::new(&*self.files, number);
        let written = write_views(snapshots, &known, &mut writer);
        match written.and_then(|written| Ok((written, writer.end()?))) {
            Ok(((views, places), file)) => {
                Ok(WrittenSnapshot { views, file, places, bytes: file.map_or(0, |(_, len)| len) })
            }
            Err(error) => {
                // It takes room, and is in the way of nobody.
                let _ = self.files.remove(&file_name(number));
                Err(error)
            }
        }
    }

    /// Publishes what was written: the manifest names the new states of these views. Other views keep the
    /// states that it named before, as long as they are `wanted`.
    pub fn publish(
        &self,
        written: WrittenSnapshot,
        wanted: impl Fn(&ViewIdentity) -> bool,
    ) -> io::Result<()> {
        let mut state = self.lock();
        let mut manifest = Manifest::new(&self.log);
        let before = state.manifests.first().map(|(_, newest)| newest.views.clone());
        // A view that continues from the older manifest uses files that only that one names.
        let mut files: BTreeMap<u64, u64> =
            state.manifests.iter().flat_map(|(_, m)| m.files.clone()).chain(written.file).collect();
        manifest.views = written.views;
        for view in before.into_iter().flatten() {
            if wanted(&view.identity) && manifest.view(&view.identity).is_none() {
                manifest.views.push(view);
            }
        }
        let named: BTreeSet<u64> =
            manifest.views.iter().flat_map(StoredView::parts).map(|part| part.file).collect();
        files.retain(|file, _| named.contains(file));
        manifest.files = files;
        let number = state.next;
        state.next += 1;
        self.files.replace(&Manifest::name(number), &manifest.to_bytes()?)?;
        state.manifests.insert(0, (number, manifest));
        state.manifests.truncate(MANIFESTS);
        state.places.extend(written.places);
        let manifests = state.manifests.iter();
        let kept: BTreeSet<u64> =
            manifests.flat_map(|(_, manifest)| manifest.files.keys().copied()).collect();
        state.places.retain(|_, part| kept.contains(&part.file));
        drop(state);
        self.remove_unnamed()
    }

    /// Removes the files that no manifest names, and older manifests.
    fn remove_unnamed(&self) -> io::Result<()> {
        let state = self.lock();
        let numbers: BTreeSet<u64> = state.manifests.iter().map(|(number, _)| *number).collect();
        let files = state.manifests.iter().flat_map(|(_, manifest)| manifest.files.keys());
        let files: BTreeSet<u64> = files.copied().collect();
        drop(state);
        for name in self.files.list()? {
            let is_other = |number: Option<u64>, of: &BTreeSet<u64>| {
                number.is_some_and(|number| !of.contains(&number))
            };
            let is_old = is_other(Manifest::number(&name), &numbers);
            if is_old || is_other(file_number(&name), &files) {
                self.files.remove(&name)?;
            }
        }
        Ok(())
    }
}

impl SnapshotStoreState {
    /// The runs that are compared with their checksums at once, and those that are compared later.
    fn divide(&mut self, runs: Vec<FilePart>) -> (Vec<FilePart>, Vec<FilePart>) {
        runs.into_iter().partition(|part| {
            let left = self.checked_bytes_left.checked_sub(part.bytes);
            self.checked_bytes_left = left.unwrap_or(self.checked_bytes_left);
            left.is_some()
        })
    }

    /// Where the runs of these views are, but for those in files that are to be written anew, since too
    /// little of them is in use.
    fn known(&self, snapshots: &[ViewSnapshot]) -> HashMap<u64, FilePart> {
        let Some((_, newest)) = self.manifests.first() else { return HashMap::new() };
        let runs = snapshots.iter().flat_map(|view| view.workers.iter().flatten().flatten());
        let known: HashMap<u64, FilePart> =
            runs.filter_map(|run| Some((run.id(), *self.places.get(&run.id())?))).collect();
        let is_asked = |view: &&StoredView| snapshots.iter().any(|s| s.identity == view.identity);
        let others = newest.views.iter().filter(|view| !is_asked(view));
        let mut live: BTreeMap<u64, u64> = BTreeMap::new();
        for part in others.flat_map(StoredView::parts).chain(known.values().copied()) {
            *live.entry(part.file).or_default() += part.bytes;
        }
        let is_sparse = |file: &u64| {
            let len = newest.files.get(file).copied().unwrap_or(0);
            live.get(file).copied().unwrap_or(0) * LIVE_SHARE_MIN < len
        };
        known.into_iter().filter(|(_, part)| !is_sparse(&part.file)).collect()
    }
}

/// Writes views. Returns their entries for the manifest, and the places of runs that were in no file before.
fn write_views(
    snapshots: Vec<ViewSnapshot>,
    known: &HashMap<u64, FilePart>,
    writer: &mut PartWriter<'_>,
) -> io::Result<(Vec<StoredView>, HashMap<u64, FilePart>)> {
    let mut places: HashMap<u64, FilePart> = HashMap::new();
    let mut views = Vec::new();
    for snapshot in snapshots {
        let ViewSnapshot { identity, head: Head { position, tick }, rows, tables, .. } = snapshot;
        let mut workers = Vec::new();
        for arrangements in &snapshot.workers {
            let mut worker = Vec::new();
            for runs in arrangements {
                let mut stored = Vec::new();
                for run in runs {
                    let id = run.id();
                    let part = match known.get(&id).or_else(|| places.get(&id)) {
                        Some(part) => *part,
                        None => writer.write(run.bytes())?,
                    };
                    places.insert(id, part);
                    stored.push(StoredRun { part, shape: run.shape() });
                }
                worker.push(stored);
            }
            workers.push(worker);
        }
        let failures = match snapshot.failures.is_empty() {
            true => None,
            false => Some(writer.write(&serde_json::to_vec(&snapshot.failures)?)?),
        };
        let mut unwritten = Vec::new();
        for Unwritten { span, changes } in &snapshot.unwritten {
            let part = match changes.is_empty() {
                true => None,
                false => Some(writer.write(&unwritten::encode(changes))?),
            };
            unwritten.push(StoredUnwritten { span: *span, part });
        }
        views.push(StoredView {
            identity,
            tick,
            position,
            rows,
            workers,
            tables,
            failures,
            unwritten,
        });
    }
    Ok((views, places))
}

/// Writes parts one behind the other.
struct PartWriter<'a> {
    files: &'a dyn Files,
    number: u64,
    handle: Option<Box<dyn FileHandle>>,
    buffer: Vec<u8>,
    /// Bytes up to the end of the last part, those in the buffer included.
    len: u64,
    unsynced: usize,
}

impl<'a> PartWriter<'a> {
    fn new(files: &'a dyn Files, number: u64) -> Self {
        PartWriter { files, number, handle: None, buffer: Vec::new(), len: 0, unsynced: 0 }
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<FilePart> {
        let at = self.len.next_multiple_of(ALIGNMENT as u64);
        self.buffer.resize(self.buffer.len() + (at - self.len) as usize, 0);
        for chunk in bytes.chunks(WRITE_BYTES) {
            self.buffer.extend_from_slice(chunk);
            if self.buffer.len() >= WRITE_BYTES {
                self.flush()?;
            }
        }
        self.len = at + bytes.len() as u64;
        let checksum = xxh3_64(bytes);
        Ok(FilePart { file: self.number, at, bytes: bytes.len() as u64, checksum })
    }

    fn flush(&mut self) -> io::Result<()> {
        let handle = match &mut self.handle {
            Some(handle) => handle,
            none => none.insert(self.files.append(&file_name(self.number))?),
        };
        handle.write(&self.buffer)?;
        self.unsynced += self.buffer.len();
        self.buffer.clear();
        if self.unsynced >= SYNC_BYTES {
            handle.sync()?;
            self.unsynced = 0;
        }
        Ok(())
    }

    /// The file and its length, on disk; `None` if nothing was written.
    fn end(mut self) -> io::Result<Option<(u64, u64)>> {
        if self.len == 0 {
            return Ok(None);
        }
        self.flush()?;
        if let Some(handle) = &mut self.handle {
            handle.sync()?;
        }
        Ok(Some((self.number, self.len)))
    }
}

fn part_of(files: &BTreeMap<u64, Bytes>, part: &FilePart) -> Result<Bytes, DamagedSnapshot> {
    let found = files.get(&part.file).and_then(|bytes| {
        let (at, len) = (usize::try_from(part.at).ok()?, usize::try_from(part.bytes).ok()?);
        let end = at.checked_add(len).filter(|end| *end <= bytes.len())?;
        Some(bytes.slice(at..end))
    });
    found.ok_or_else(|| DamagedSnapshot {
        file: file_name(part.file),
        what: "it is cut short".to_string(),
    })
}

/// An error if this is not the checksum of a part.
fn compared(part: &FilePart, checksum: u64) -> Result<(), DamagedSnapshot> {
    let is_whole = checksum == part.checksum;
    is_whole.then_some(()).ok_or_else(|| DamagedSnapshot {
        file: file_name(part.file),
        what: format!("the checksum of {} bytes at {} is wrong", part.bytes, part.at),
    })
}

/// Compares parts with their checksums, on all processors.
fn verify(files: &BTreeMap<u64, Bytes>, parts: &[FilePart]) -> Result<(), DamagedSnapshot> {
    let check = |part: &FilePart| compared(part, xxh3_64(&part_of(files, part)?));
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let next = std::sync::atomic::AtomicUsize::new(0);
    let work = || {
        let next = || next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        std::iter::from_fn(|| parts.get(next())).try_for_each(check)
    };
    std::thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
        let mut result = work();
        for other in others {
            let checked = other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            result = result.and(checked);
        }
        result
    })
}
