//! Where a server listens, told to tests and scripts in a file of its data directory. With port 0 nobody
//! else knows it.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::engine::files;

/// The file in the data directory.
const FILE: &str = "serving.json";

/// The file, while the server serves. After a crash it stays, and has another process's id.
pub struct ServingFile {
    path: PathBuf,
}

#[derive(Serialize)]
struct ServingContents {
    pid: u32,
    /// The address of the server, as `http://…`.
    http: String,
    /// The HTTP address of ClickHouse; null without one.
    clickhouse: Option<String>,
}

impl ServingFile {
    /// Writes the file, whole or not at all.
    pub fn tell(
        data_dir: &Path,
        address: SocketAddr,
        clickhouse: Option<String>,
    ) -> io::Result<ServingFile> {
        let path = data_dir.join(FILE);
        let told = ServingContents {
            pid: std::process::id(),
            http: format!("http://{address}"),
            clickhouse,
        };
        files::replace(&path, &told)?;
        Ok(ServingFile { path })
    }
}

impl Drop for ServingFile {
    fn drop(&mut self) {
        // What is left behind is known by its process id.
        let _ = std::fs::remove_file(&self.path);
    }
}
