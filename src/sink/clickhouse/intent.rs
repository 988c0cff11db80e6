//! Where the next flush of a generation will end: kept in a file before the flush's data is sent.
//!
//! Data that was sent may reach a table long after the process that sent it is gone. The next process ends a
//! flush at the same tick, so that it writes the same rows, and it does not matter whether and when the
//! earlier ones arrive. The file is not synced: it is there after the process is killed. After a power cut
//! the table itself tells where flushes ended.
//!
//! ```text
//! <data directory>/flushes/<hash of the table's path>: the tick in 20 digits, a blank, the path
//! ```

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::xxh3_128;

use crate::model::Tick;

/// The directory in the data directory.
pub(super) const DIRECTORY: &str = "flushes";
const TICK_DIGITS: usize = 20;

/// The file of one table.
pub(super) struct FlushIntent {
    file: File,
    path: PathBuf,
    table: String,
}

impl FlushIntent {
    /// Opens a table's file, which is made if it is missing; and the tick in it, if there is one.
    pub(super) fn open(directory: &Path, table: &str) -> io::Result<(FlushIntent, Option<Tick>)> {
        std::fs::create_dir_all(directory)?;
        let path = path(directory, table);
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(false).open(&path)?;
        let mut digits = [0; TICK_DIGITS];
        let tick = match file.read_exact_at(&mut digits, 0) {
            Ok(()) => std::str::from_utf8(&digits).ok().and_then(|digits| digits.parse().ok()),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => None,
            Err(error) => return Err(error),
        };
        let intent = FlushIntent { file, path, table: table.to_string() };
        if tick.is_none() {
            // Takes the room on disk that later writes need.
            intent.note(0)?;
        }
        Ok((intent, tick.filter(|tick| *tick > 0)))
    }

    /// Notes where the next flush will end.
    pub(super) fn note(&self, end: Tick) -> io::Result<()> {
        let line = format!("{end:0TICK_DIGITS$} {}\n", self.table);
        self.file.write_all_at(line.as_bytes(), 0)
    }

    /// The file.
    pub(super) fn path(&self) -> String {
        self.path.display().to_string()
    }

    /// Removes the file of a table that is dropped.
    pub(super) fn remove(directory: &Path, table: &str) -> io::Result<()> {
        match std::fs::remove_file(path(directory, table)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

fn path(directory: &Path, table: &str) -> PathBuf {
    directory.join(format!("{:032x}", xxh3_128(table.as_bytes())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn last_end_that_was_noted_is_read() {
        let directory = tempfile::tempdir().unwrap();
        let read = |table: &str| FlushIntent::open(directory.path(), table).unwrap().1;
        let (intent, tick) = FlushIntent::open(directory.path(), "a/b").unwrap();
        assert_eq!(tick, None);
        for end in [7, 1_795_401_808_874, Tick::MAX] {
            intent.note(end).unwrap();
            assert_eq!((read("a/b"), read("b")), (Some(end), None));
        }
        FlushIntent::remove(directory.path(), "a/b").unwrap();
        FlushIntent::remove(directory.path(), "a/b").unwrap();
        assert_eq!(read("a/b"), None);
    }
}
