//! `heliostat clickhouse-child LIBRARY CONFIG`, not for people: the process in which ClickHouse as
//! a shared library runs. It brings its own allocator and signal handlers, so it must not share a
//! process with anything else.

use std::ffi::{CStr, CString, NulError, OsStr, c_char, c_int};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr;

/// Opens the listeners and keeps the call from returning; SIGTERM ends it.
const SERVE: &str = "--query=SYSTEM START LISTEN HTTP; SYSTEM START LISTEN TCP; \
    SELECT sleepEachRow(1) FROM system.numbers SETTINGS max_block_size = 1, \
    function_sleep_max_microseconds_per_block = 10000000 FORMAT Null";
/// Only a library that talks to a person outlives an exception of a connection: a wrong password over the
/// native protocol, or what is no message of it, ends one that runs a script.
const INTERACTIVE: [&str; 2] = ["--interactive", "--progress=off"];

/// The library's answer, as its header declares it.
#[repr(C)]
struct LocalResult {
    buffer: *mut c_char,
    len: usize,
    vector: *mut std::ffi::c_void,
    elapsed: f64,
    rows_read: u64,
    bytes_read: u64,
    error_message: *mut c_char,
}

type QueryStable = unsafe extern "C" fn(c_int, *mut *mut c_char) -> *mut LocalResult;

/// Why ClickHouse does not run, or has ended other than by a signal.
#[derive(Debug, thiserror::Error)]
pub enum ChildError {
    #[error("a path with a NUL byte")]
    Path(#[from] NulError),
    #[error("{library}: {source}")]
    Library { library: String, source: libloading::Error },
    #[error("ClickHouse needs a pseudo-terminal, and there is none: {0}")]
    Terminal(io::Error),
    /// ClickHouse's own words.
    #[error("{0}")]
    Ended(String),
}

/// Runs ClickHouse until it is told to end.
pub fn run(library: &Path, config: &Path) -> Result<(), ChildError> {
    let mut config_file = b"--config-file=".to_vec();
    config_file.extend_from_slice(OsStr::as_bytes(config.as_os_str()));
    let mut arguments = vec![b"clickhouse".to_vec(), config_file, SERVE.as_bytes().to_vec()];
    arguments.extend(INTERACTIVE.map(|argument| argument.as_bytes().to_vec()));
    let mut pointers = Vec::with_capacity(arguments.len());
    for argument in arguments {
        // ClickHouse may keep and change them, so they live as long as the process.
        pointers.push(CString::new(argument)?.into_raw());
    }
    read_from_terminal().map_err(ChildError::Terminal)?;
    let failed = |source: libloading::Error| ChildError::Library {
        library: library.display().to_string(),
        source,
    };
    // SAFETY: loading runs the library's own initialisers; its place says that it is ClickHouse.
    let loaded = unsafe { libloading::Library::new(library) }.map_err(failed)?;
    // SAFETY: the signature is the one that the library's header declares.
    let query = unsafe { loaded.get::<QueryStable>(b"query_stable_v2\0") }.map_err(failed)?;
    // SAFETY: the arguments are as many NUL-terminated strings as is said.
    let result = unsafe { query(pointers.len() as c_int, pointers.as_mut_ptr()) };
    // SAFETY: the result is null or one that the library has allocated and nobody frees.
    let message = unsafe { result.as_ref() }.map(|result| result.error_message);
    match message {
        Some(text) if !text.is_null() => {
            // SAFETY: not null, so a NUL-terminated string.
            let text = unsafe { CStr::from_ptr(text) };
            Err(ChildError::Ended(text.to_string_lossy().into_owned()))
        }
        _ => Ok(()),
    }
}

/// Makes a terminal standard input, at which nobody types: ClickHouse is interactive with one alone.
fn read_from_terminal() -> io::Result<()> {
    let (mut master, mut terminal) = (-1, -1);
    // SAFETY: both descriptors are written by the call; name, modes and size may be null.
    let opened = unsafe {
        libc::openpty(&mut master, &mut terminal, ptr::null_mut(), ptr::null_mut(), ptr::null_mut())
    };
    // The other end is never closed: it lasts as long as the process.
    // SAFETY: `terminal` is a descriptor of ours, and nothing in this process has read standard input.
    if opened != 0 || unsafe { libc::dup2(terminal, libc::STDIN_FILENO) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
