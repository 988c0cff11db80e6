//! Which ClickHouse there is on this machine.

use std::env;
use std::path::{Path, PathBuf};

use super::ServerError;

/// The version of the library that `make` fetches.
pub const LIBCHDB_VERSION: &str = "26.7.3-stable.1";

/// A ClickHouse that can be started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClickHouseProgram {
    /// The `clickhouse` program.
    Binary(PathBuf),
    /// ClickHouse as a shared library, run by `heliostat clickhouse-child`.
    Library {
        /// The library.
        library: PathBuf,
        /// The `heliostat` program.
        heliostat: PathBuf,
    },
}

/// Looks for `clickhouse` on PATH, then for the library in `$HELIOSTAT_LIBCHDB`, then for the one
/// that `make` has fetched. `heliostat` is the program that can run the library.
pub fn locate(heliostat: &Path) -> Result<ClickHouseProgram, ServerError> {
    let path = env::var_os("PATH").unwrap_or_default();
    let binary = env::split_paths(&path).map(|dir| dir.join("clickhouse")).find(|p| is_program(p));
    if let Some(binary) = binary {
        return Ok(ClickHouseProgram::Binary(binary));
    }
    let library = env::var_os("HELIOSTAT_LIBCHDB").map_or_else(fetched_library, PathBuf::from);
    match library.is_file() {
        true => Ok(ClickHouseProgram::Library { library, heliostat: heliostat.into() }),
        false => Err(ServerError::NotFound { library }),
    }
}

fn fetched_library() -> PathBuf {
    let home = env::var_os("HOME").map(PathBuf::from).unwrap_or_default();
    let dir = home.join(".cache/heliostat/chdb").join(LIBCHDB_VERSION);
    dir.join(if cfg!(target_os = "macos") { "libchdb.dylib" } else { "libchdb.so" })
}

fn is_program(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    path.metadata().is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
}
