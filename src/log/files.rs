//! The log's only way to files, behind a trait so that tests can make them fail.

use std::collections::{BTreeMap, HashMap};
use std::ffi::CString;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::LogError;
use super::archive::{self, ArchivedSegment};
use super::remote::{self, ArchivePlace, RemoteSegments};

/// How long to wait for the lock of a log, which a server whose parent was killed just now may still hold.
const LOCK_TIME_MAX: Duration = Duration::from_secs(1);
/// The most archived segments that are open at once, each with a few blocks in memory.
const ARCHIVED_OPEN_MAX: usize = 16;
/// The pause between two attempts to lock it.
const LOCK_INTERVAL: Duration = Duration::from_millis(20);

/// A directory of append-only files.
pub trait Files: Send + Sync {
    /// The names of all files, sorted.
    fn list(&self) -> io::Result<Vec<String>>;
    /// Opens a file for appending, creating it if it is missing; durable once `sync` returns.
    fn append(&self, name: &str) -> io::Result<Box<dyn FileHandle>>;
    /// Reads up to `buffer.len()` bytes at an offset; 0 at the end.
    fn read_at(&self, name: &str, offset: u64, buffer: &mut [u8]) -> io::Result<usize>;
    /// All of a file as it was at one moment, also while it is replaced.
    fn read_all(&self, name: &str) -> io::Result<Vec<u8>>;
    /// All of a file that is never written to again. Where possible it is mapped, and read when it is looked
    /// at.
    fn map(&self, name: &str) -> io::Result<Bytes> {
        self.read_all(name).map(Bytes::from)
    }
    /// The length of a file.
    fn len(&self, name: &str) -> io::Result<u64>;
    /// Writes bytes again that are at an offset already, durably: they may be in memory only.
    fn rewrite(&self, name: &str, offset: u64, bytes: &[u8]) -> io::Result<()>;
    /// Cuts a file to a length, durably.
    fn truncate(&self, name: &str, len: u64) -> io::Result<()>;
    /// Removes a file, durably.
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Replaces all of a file, or makes it: after a crash there is the old content or the new one.
    fn replace(&self, name: &str, bytes: &[u8]) -> io::Result<()>;
    /// Whether the file of this name is the one that [`replace`](Self::replace) made here last, and not
    /// another one in its place. True if none was made, or none is there.
    fn is_own(&self, _name: &str) -> io::Result<bool> {
        Ok(true)
    }
    /// Gives a file another name, durably.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Tells readers of these files where archived segments are from now on. Fails if some are elsewhere,
    /// which `in_use` says.
    fn tell_archive(&self, _place: &ArchivePlace, _in_use: bool) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
    /// Moves an archived segment to where they are: it is read from there afterwards. Its length there.
    fn move_to_archive(&self, _name: &str) -> io::Result<u64> {
        Err(io::ErrorKind::Unsupported.into())
    }
    /// Removes an archived segment from here and from where they are.
    fn remove_archived(&self, name: &str) -> io::Result<()> {
        self.remove(name)
    }
    /// About how many bytes can still be written; as many as one likes where nobody knows.
    fn room(&self) -> u64 {
        u64::MAX
    }
}

/// The number of files that the process may have open.
fn descriptors_max() -> usize {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the call writes to the given structure alone.
    let result = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) };
    if result == 0 { usize::try_from(limit.rlim_cur).unwrap_or(usize::MAX) } else { 1024 }
}

/// The number of files that a part of the log keeps open at most: most descriptors are for connections.
pub fn open_files_max() -> usize {
    (descriptors_max() / 8).clamp(16, 128)
}

/// Whether a write failed for want of room, which may come back. A failed sync is never that, since
/// nobody knows what it has left on disk: see [`failed_sync`].
pub fn is_full(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOSPC | libc::EDQUOT | libc::EFBIG))
}

/// A sync's error without its number, so that it is not taken for a full disk.
fn failed_sync(error: io::Error) -> io::Error {
    io::Error::other(format!("syncing failed: {error}"))
}

/// A file open for appending.
pub trait FileHandle: Send {
    /// Appends all of `bytes`; after an error any prefix of them may have been written.
    fn write(&mut self, bytes: &[u8]) -> io::Result<()>;
    /// Returns when everything written is on disk.
    fn sync(&mut self) -> io::Result<()>;
}

/// Files in a directory of the file system, locked against other processes.
#[derive(Debug)]
pub struct DiskFiles {
    directory: PathBuf,
    /// Holds the lock while it is open; `None` for readers of a directory that others may write.
    _lock: Option<File>,
    open: Mutex<OpenFiles>,
    /// The files that were replaced last. They stay open, so that no other file becomes their inode.
    replaced: Mutex<HashMap<String, File>>,
    /// Archived segments that are open.
    archived: Mutex<HashMap<String, Arc<ArchivedSegment>>>,
    remote: RemoteSegments,
}

/// Files that are open for reading, those that were read last.
#[derive(Debug)]
struct OpenFiles {
    files: HashMap<String, ReadFile>,
    /// Raised with each read.
    clock: u64,
    max: usize,
}

#[derive(Debug)]
struct ReadFile {
    file: Arc<File>,
    /// Device and inode.
    inode: (u64, u64),
    /// When it was read last.
    read_at: u64,
}

impl Default for OpenFiles {
    fn default() -> Self {
        OpenFiles { files: HashMap::new(), clock: 0, max: open_files_max() }
    }
}

impl OpenFiles {
    /// The open file of a name, if it is this inode.
    fn get(&mut self, name: &str, inode: (u64, u64)) -> Option<Arc<File>> {
        self.clock += 1;
        let found = self.files.get_mut(name).filter(|found| found.inode == inode)?;
        found.read_at = self.clock;
        Some(Arc::clone(&found.file))
    }

    /// Keeps an open file, and lets go of the one that was not read for longest, which is closed when its
    /// last reader has finished.
    fn insert(&mut self, name: &str, inode: (u64, u64), file: Arc<File>) {
        self.files.remove(name);
        while self.files.len() >= self.max {
            let oldest = self.files.iter().min_by_key(|(_, file)| file.read_at);
            let Some(oldest) = oldest.map(|(name, _)| name.clone()) else { break };
            self.files.remove(&oldest);
        }
        let read_at = self.clock;
        self.files.insert(name.to_string(), ReadFile { file, inode, read_at });
    }
}

impl DiskFiles {
    /// Opens and locks a directory, which is created if it is missing.
    pub fn open(directory: &Path) -> Result<Self, LogError> {
        let named = |source| LogError::Io { path: directory.display().to_string(), source };
        std::fs::create_dir_all(directory).map_err(named)?;
        let path = directory.join("lock");
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(path)
            .map_err(named)?;
        let end = Instant::now() + LOCK_TIME_MAX;
        loop {
            match lock.try_lock() {
                Ok(()) => break,
                Err(TryLockError::WouldBlock) if Instant::now() < end => {
                    std::thread::sleep(LOCK_INTERVAL);
                }
                Err(TryLockError::WouldBlock) => {
                    return Err(LogError::Locked { path: directory.display().to_string() });
                }
                Err(TryLockError::Error(error)) => return Err(named(error)),
            }
        }
        let files = DiskFiles { _lock: Some(lock), ..DiskFiles::without_lock(directory) };
        // A file that a process made before it died may have its name in memory only.
        files.sync_directory().map_err(named)?;
        Ok(files)
    }

    /// Reads a directory that a server may be writing to.
    pub fn read_only(directory: &Path) -> Result<Self, LogError> {
        if !directory.is_dir() {
            return Err(LogError::NotALog {
                path: directory.display().to_string(),
                what: "there is no such directory".to_string(),
            });
        }
        Ok(DiskFiles::without_lock(directory))
    }

    fn without_lock(directory: &Path) -> Self {
        let (open, replaced) = (Mutex::default(), Mutex::default());
        let (archived, remote) = (Mutex::default(), RemoteSegments::new(directory));
        DiskFiles { directory: directory.into(), _lock: None, open, replaced, archived, remote }
    }

    /// A file to read from. One that was opened before counts only while it is the one of that name:
    /// what is gone from the directory is gone after a restart, too.
    fn handle(&self, name: &str) -> io::Result<Arc<File>> {
        let path = self.directory.join(name);
        let there = std::fs::metadata(&path)?;
        let inode = (there.dev(), there.ino());
        if let Some(file) = lock(&self.open).get(name, inode) {
            return Ok(file);
        }
        let file = Arc::new(File::open(path)?);
        let opened = file.metadata()?;
        lock(&self.open).insert(name, (opened.dev(), opened.ino()), Arc::clone(&file));
        Ok(file)
    }

    /// An archived segment, here or fetched. Its name is given to no other content.
    fn archived(&self, name: &str) -> io::Result<Arc<ArchivedSegment>> {
        if let Some(open) = lock(&self.archived).get(name) {
            return Ok(Arc::clone(open));
        }
        let file = self.open_file(name)?;
        let bytes = file.metadata()?.len();
        let opened = Arc::new(ArchivedSegment::open(Box::new(file), bytes)?);
        let mut archived = lock(&self.archived);
        if archived.len() >= ARCHIVED_OPEN_MAX {
            archived.clear();
        }
        archived.insert(name.to_string(), Arc::clone(&opened));
        Ok(opened)
    }

    /// A file as it is in the directory; an archived segment, fetched if need be.
    pub fn open_file(&self, name: &str) -> io::Result<File> {
        match archive::is_archived(name) {
            true => remote::open(&self.directory, &self.remote, name),
            false => File::open(self.directory.join(name)),
        }
    }

    fn sync_directory(&self) -> io::Result<()> {
        File::open(&self.directory)?.sync_all()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Files for DiskFiles {
    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&self.directory)? {
            if let Ok(name) = entry?.file_name().into_string() {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    fn append(&self, name: &str) -> io::Result<Box<dyn FileHandle>> {
        let path = self.directory.join(name);
        let new = !path.exists();
        let mut file = OpenOptions::new().create(true).append(true).open(path)?;
        file.seek(SeekFrom::End(0))?;
        if new {
            self.sync_directory().map_err(failed_sync)?;
        }
        Ok(Box::new(DiskFile(file)))
    }

    fn read_at(&self, name: &str, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        if archive::is_archived(name) {
            return self.archived(name)?.read_at(offset, buffer);
        }
        self.handle(name)?.read_at(buffer, offset)
    }

    fn read_all(&self, name: &str) -> io::Result<Vec<u8>> {
        std::fs::read(self.directory.join(name))
    }

    fn map(&self, name: &str) -> io::Result<Bytes> {
        let file = File::open(self.directory.join(name))?;
        // SAFETY: nobody writes to the file while it is mapped, as the trait asks for. If another program
        // does, checksums reveal it, or the process ends.
        let mapped = unsafe { memmap2::Mmap::map(&file)? };
        Ok(Bytes::from_owner(mapped))
    }

    fn len(&self, name: &str) -> io::Result<u64> {
        if archive::is_archived(name) {
            return Ok(self.archived(name)?.len());
        }
        Ok(std::fs::metadata(self.directory.join(name))?.len())
    }

    fn rewrite(&self, name: &str, offset: u64, bytes: &[u8]) -> io::Result<()> {
        lock(&self.archived).remove(name);
        let file = OpenOptions::new().write(true).open(self.directory.join(name))?;
        file.write_all_at(bytes, offset)?;
        file.sync_all()
    }

    fn truncate(&self, name: &str, len: u64) -> io::Result<()> {
        let file = OpenOptions::new().write(true).open(self.directory.join(name))?;
        file.set_len(len)?;
        file.sync_all()
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        lock(&self.archived).remove(name);
        std::fs::remove_file(self.directory.join(name))?;
        lock(&self.open).files.remove(name);
        self.sync_directory()
    }

    fn tell_archive(&self, place: &ArchivePlace, in_use: bool) -> io::Result<()> {
        place.tell(self, in_use)
    }

    fn move_to_archive(&self, name: &str) -> io::Result<u64> {
        let bytes = self.read_all(name)?;
        self.remote.send(name, &bytes)?;
        Ok(bytes.len() as u64)
    }

    fn remove_archived(&self, name: &str) -> io::Result<()> {
        match self.remove(name) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        self.remote.remove(name)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut archived = lock(&self.archived);
        archived.remove(from);
        archived.remove(to);
        drop(archived);
        std::fs::rename(self.directory.join(from), self.directory.join(to))?;
        self.sync_directory()
    }

    fn room(&self) -> u64 {
        let Ok(path) = CString::new(self.directory.as_os_str().as_bytes()) else { return u64::MAX };
        // SAFETY: all zeros are a value of the structure, which holds numbers only.
        let mut found: libc::statvfs = unsafe { std::mem::zeroed() };
        // SAFETY: the path ends with a zero, and the call writes to the given structure alone.
        match unsafe { libc::statvfs(path.as_ptr(), &raw mut found) } {
            0 => found.f_bavail.saturating_mul(found.f_frsize),
            _ => u64::MAX,
        }
    }

    fn is_own(&self, name: &str) -> io::Result<bool> {
        let replaced = lock(&self.replaced);
        let Some(own) = replaced.get(name) else { return Ok(true) };
        let there = match std::fs::metadata(self.directory.join(name)) {
            Ok(there) => there,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
            Err(error) => return Err(error),
        };
        let own = own.metadata()?;
        Ok((own.dev(), own.ino()) == (there.dev(), there.ino()))
    }

    fn replace(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let next = self.directory.join(format!("{name}.next"));
        let written = File::create(&next).and_then(|mut file| {
            file.write_all(bytes)?;
            file.sync_all().map_err(failed_sync)?;
            // Held over both: another thread may ask in between whether the file is our own.
            let mut replaced = lock(&self.replaced);
            std::fs::rename(&next, self.directory.join(name))?;
            replaced.insert(name.to_string(), file);
            Ok(())
        });
        if let Err(error) = written {
            // The half-written file does no harm, but takes room.
            let _ = std::fs::remove_file(&next);
            return Err(error);
        }
        self.sync_directory().map_err(failed_sync)
    }
}

struct DiskFile(File);

impl FileHandle for DiskFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all(bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.0.sync_data().map_err(failed_sync)
    }
}

/// A fault that [`FaultyFiles`] injects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The write that reaches this many bytes in all stops there; nothing works afterwards.
    TornWrite {
        /// The offset in the file, in bytes.
        at: u64,
    },
    /// The device is full at this many bytes in all.
    NoSpace {
        /// The offset in the file, in bytes.
        at: u64,
    },
    /// The same, and a file cannot be cut either.
    NoSpaceNoCut {
        /// The offset in the file, in bytes.
        at: u64,
    },
    /// `sync` number `n` (from 0) fails, and so do all later ones.
    SyncFails {
        /// Which call fails, from 1.
        n: u64,
    },
    /// Operation number `n` (from 0) on files that changes something is not done, and nothing works
    /// afterwards.
    StopsAt {
        /// Which operation, from 0.
        n: u64,
    },
}

/// Files in memory that fail as told, and forget on [`FaultyFiles::crash`] what was not synced.
#[derive(Clone, Default)]
pub struct FaultyFiles(Arc<Mutex<Disk>>);

#[derive(Default)]
struct Disk {
    files: BTreeMap<String, MemoryContents>,
    fault: Option<Fault>,
    written: u64,
    syncs: u64,
    operations: u64,
    dead: bool,
}

#[derive(Clone, Default)]
struct MemoryContents {
    bytes: Vec<u8>,
    synced: usize,
}

impl FaultyFiles {
    /// Empty files that work.
    pub fn new() -> Self {
        FaultyFiles::default()
    }

    /// From now on this goes wrong.
    pub fn inject(&self, fault: Fault) {
        let mut disk = lock(&self.0);
        disk.fault = Some(fault);
        disk.written = 0;
        disk.syncs = 0;
        disk.operations = 0;
    }

    /// Whether the machine has stopped.
    pub fn is_dead(&self) -> bool {
        lock(&self.0).dead
    }

    /// The machine stops and starts again: what was not synced keeps only its first `kept` bytes.
    pub fn crash(&self, kept: usize) {
        let mut disk = lock(&self.0);
        disk.dead = false;
        disk.fault = None;
        for contents in disk.files.values_mut() {
            let len = contents.bytes.len().min(contents.synced.saturating_add(kept));
            contents.bytes.truncate(len);
            contents.synced = len;
        }
    }

    /// Bytes of a file, for tests that damage them.
    pub fn edit(&self, name: &str, edit: impl FnOnce(&mut Vec<u8>)) {
        if let Some(contents) = lock(&self.0).files.get_mut(name) {
            edit(&mut contents.bytes);
            contents.synced = contents.bytes.len();
        }
    }
}

fn input_output_error() -> io::Error {
    io::Error::from_raw_os_error(libc::EIO)
}

impl Files for FaultyFiles {
    fn list(&self) -> io::Result<Vec<String>> {
        Ok(lock(&self.0).files.keys().cloned().collect())
    }

    fn append(&self, name: &str) -> io::Result<Box<dyn FileHandle>> {
        let mut disk = lock(&self.0);
        disk.operation()?;
        disk.files.entry(name.to_string()).or_default();
        Ok(Box::new(FaultyFile { disk: Arc::clone(&self.0), name: name.to_string() }))
    }

    fn read_at(&self, name: &str, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let disk = lock(&self.0);
        let contents = disk.files.get(name).ok_or(io::ErrorKind::NotFound)?;
        let mut rest = contents.bytes.get(offset as usize..).unwrap_or_default();
        rest.read(buffer)
    }

    fn read_all(&self, name: &str) -> io::Result<Vec<u8>> {
        let disk = lock(&self.0);
        Ok(disk.files.get(name).ok_or(io::ErrorKind::NotFound)?.bytes.clone())
    }

    fn len(&self, name: &str) -> io::Result<u64> {
        let disk = lock(&self.0);
        Ok(disk.files.get(name).ok_or(io::ErrorKind::NotFound)?.bytes.len() as u64)
    }

    fn rewrite(&self, name: &str, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut disk = lock(&self.0);
        disk.operation()?;
        let contents = disk.files.get_mut(name).ok_or(io::ErrorKind::NotFound)?;
        let end = offset as usize + bytes.len();
        let place = contents.bytes.get_mut(offset as usize..end);
        place.ok_or(io::ErrorKind::UnexpectedEof)?.copy_from_slice(bytes);
        contents.synced = contents.bytes.len();
        Ok(())
    }

    fn truncate(&self, name: &str, len: u64) -> io::Result<()> {
        let mut disk = lock(&self.0);
        if matches!(disk.fault, Some(Fault::NoSpaceNoCut { .. })) {
            return Err(input_output_error());
        }
        disk.operation()?;
        let contents = disk.files.get_mut(name).ok_or(io::ErrorKind::NotFound)?;
        contents.bytes.truncate(len as usize);
        contents.synced = contents.bytes.len();
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut disk = lock(&self.0);
        disk.operation()?;
        disk.files.remove(name);
        Ok(())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut disk = lock(&self.0);
        disk.operation()?;
        let contents = disk.files.remove(from).ok_or(io::ErrorKind::NotFound)?;
        disk.files.insert(to.to_string(), contents);
        Ok(())
    }

    fn replace(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let mut disk = lock(&self.0);
        disk.write(bytes.len()).1?;
        disk.sync()?;
        let contents = MemoryContents { bytes: bytes.to_vec(), synced: bytes.len() };
        disk.files.insert(name.to_string(), contents);
        Ok(())
    }
}

struct FaultyFile {
    disk: Arc<Mutex<Disk>>,
    name: String,
}

impl Disk {
    /// Counts an operation; an error if it is not to be done.
    fn operation(&mut self) -> io::Result<()> {
        let n = self.operations;
        self.operations += 1;
        self.dead |= matches!(self.fault, Some(Fault::StopsAt { n: at }) if n >= at);
        if self.dead { Err(input_output_error()) } else { Ok(()) }
    }

    /// The number of bytes, of `len`, that can be written, and the result of the write.
    fn write(&mut self, len: usize) -> (usize, io::Result<()>) {
        if let Err(error) = self.operation() {
            return (0, Err(error));
        }
        let room = match self.fault {
            Some(Fault::TornWrite { at } | Fault::NoSpace { at } | Fault::NoSpaceNoCut { at }) => {
                at.saturating_sub(self.written)
            }
            _ => u64::MAX,
        };
        let written = len.min(usize::try_from(room).unwrap_or(usize::MAX));
        self.written += written as u64;
        if written == len {
            return (written, Ok(()));
        }
        let result = match self.fault {
            Some(Fault::NoSpace { .. } | Fault::NoSpaceNoCut { .. }) => {
                io::Error::from_raw_os_error(libc::ENOSPC)
            }
            _ => {
                self.dead = true;
                input_output_error()
            }
        };
        (written, Err(result))
    }

    fn sync(&mut self) -> io::Result<()> {
        self.operation()?;
        let n = self.syncs;
        self.syncs += 1;
        let fails = matches!(self.fault, Some(Fault::SyncFails { n: at }) if n >= at);
        if self.dead || fails { Err(input_output_error()) } else { Ok(()) }
    }
}

impl FileHandle for FaultyFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut guard = lock(&self.disk);
        let disk = &mut *guard;
        let (written, result) = disk.write(bytes.len());
        let contents = disk.files.entry(self.name.clone()).or_default();
        contents.bytes.extend_from_slice(&bytes[..written]);
        result
    }

    fn sync(&mut self) -> io::Result<()> {
        let mut disk = lock(&self.disk);
        disk.sync()?;
        if let Some(contents) = disk.files.get_mut(&self.name) {
            contents.synced = contents.bytes.len();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(files: &DiskFiles, name: &str) -> Vec<u8> {
        let mut buffer = [0; 64];
        let len = files.read_at(name, 0, &mut buffer).unwrap();
        buffer[..len].to_vec()
    }

    #[test]
    fn the_file_that_was_not_read_for_longest_is_closed() {
        let directory = tempfile::tempdir().unwrap();
        let files = DiskFiles::open(directory.path()).unwrap();
        lock(&files.open).max = 3;
        for name in ["a", "b", "c", "d", "e"] {
            files.append(name).unwrap().write(name.as_bytes()).unwrap();
            assert_eq!(read(&files, name), name.as_bytes());
            read(&files, "a");
        }
        let mut open: Vec<String> = lock(&files.open).files.keys().cloned().collect();
        open.sort();
        assert_eq!(open, ["a", "d", "e"]);
    }

    #[test]
    fn concurrent_readers_of_more_files_than_may_be_open_read_their_own() {
        let directory = tempfile::tempdir().unwrap();
        let files = DiskFiles::open(directory.path()).unwrap();
        lock(&files.open).max = 4;
        for n in 0..40 {
            files.append(&n.to_string()).unwrap().write(n.to_string().as_bytes()).unwrap();
        }
        std::thread::scope(|scope| {
            for thread in 0..8 {
                let files = &files;
                scope.spawn(move || {
                    for step in 0..500 {
                        let name = ((step * 7 + thread * 11) % 40).to_string();
                        assert_eq!(read(files, &name), name.as_bytes());
                        assert!(lock(&files.open).files.len() <= 4);
                    }
                });
            }
        });
    }

    #[test]
    fn a_file_of_the_same_name_is_read_anew_and_a_removed_one_is_missing() {
        let directory = tempfile::tempdir().unwrap();
        let files = DiskFiles::open(directory.path()).unwrap();
        files.replace("a", b"one").unwrap();
        assert_eq!(read(&files, "a"), b"one");
        files.replace("a", b"two").unwrap();
        assert_eq!(read(&files, "a"), b"two");
        files.rename("a", "b").unwrap();
        assert_eq!(read(&files, "b"), b"two");
        files.remove("b").unwrap();
        for name in ["a", "b"] {
            let error = files.read_at(name, 0, &mut [0; 8]).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::NotFound);
        }
    }
}
