//! Where a server listens, told to tests and scripts in a file of its data directory. With port 0 nobody
//! else knows it.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::engine::files;

/// The file in the data directory.
const FILE: &str = "serving.json";

/// The file, while the server serves. After a crash it stays, and has another process's id.
pub struct ServingFile {
    path: PathBuf,
}

/// The content of the file.
#[derive(Serialize, Deserialize)]
pub struct ServingContents {
    pid: u32,
    /// The address of the server, as `http://…` or `https://…`.
    http: String,
    /// The HTTP address of ClickHouse; null without one.
    pub clickhouse: Option<String>,
    /// Where the own ClickHouse speaks its native protocol, as `127.0.0.1:…`.
    #[serde(default)]
    pub clickhouse_native: Option<String>,
    /// The database of the views there.
    pub database: String,
}

impl ServingFile {
    /// The content of a data directory's file; `None` where nobody serves.
    pub fn read(data_dir: &Path) -> Option<ServingContents> {
        let text = std::fs::read_to_string(data_dir.join(FILE)).ok()?;
        serde_json::from_str(&text).ok()
    }

    /// Writes the file, whole or not at all.
    pub fn tell(
        data_dir: &Path,
        address: SocketAddr,
        is_tls: bool,
        (clickhouse, clickhouse_native): (Option<String>, Option<String>),
        database: String,
    ) -> io::Result<ServingFile> {
        let path = data_dir.join(FILE);
        let told = ServingContents {
            pid: std::process::id(),
            http: format!("{}://{address}", if is_tls { "https" } else { "http" }),
            clickhouse,
            clickhouse_native,
            database,
        };
        files::replace(&path, &told)?;
        Ok(ServingFile { path })
    }
}

impl Drop for ServingFile {
    fn drop(&mut self) {
        // If the file stays, its process id tells that nobody serves.
        let _ = std::fs::remove_file(&self.path);
    }
}
