//! Small files of the data directory that are replaced as a whole.

use std::io::{self, Write};
use std::path::Path;

use serde::Serialize;
use tempfile::NamedTempFile;

/// Replaces the file by `value` as JSON. After a crash the file has either the old content or the
/// new one; when this returns, the new one is on disk.
pub fn replace(path: &Path, value: &impl Serialize) -> io::Result<()> {
    let directory = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    let mut next = io::BufWriter::new(NamedTempFile::new_in(directory)?);
    serde_json::to_writer(&mut next, value)?;
    next.flush()?;
    let next = next.into_inner().map_err(io::IntoInnerError::into_error)?;
    next.as_file().sync_all()?;
    next.persist(path)?;
    std::fs::File::open(directory)?.sync_all()
}
