//! Mutated input for what reads bytes from outside: frames of the log, and bodies of `POST /v1/events`.
//!
//! Every case has a seed that repeats it. `make test` runs the corpus and some thousand seeds,
//! `make fuzz-input` goes on for `FUZZ_SECONDS` from a seed of today (`HELIOSTAT_SEED`). Input that
//! fails is written to a file; put it into `corpus/`, where it is tried first from then on.

mod allocations;
#[path = "../http/backend.rs"]
#[allow(dead_code, reason = "the HTTP tests use the rest")]
mod backend;
mod envelope;
mod frame;
mod mutate;
#[path = "../common/rng.rs"]
#[allow(dead_code, reason = "the SQL programs use the rest")]
mod rng;
#[path = "../http/support.rs"]
#[allow(dead_code, reason = "the HTTP tests use the rest")]
mod support;

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// The files of a corpus with their names, in order.
fn corpus(name: &str) -> Vec<(String, Vec<u8>)> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus").join(name);
    let mut paths: Vec<PathBuf> =
        std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let name = |path: &Path| path.file_name().unwrap().to_str().unwrap().to_string();
    paths.iter().map(|path| (name(path), std::fs::read(path).unwrap())).collect()
}

/// The seeds of a long run, and when it ends.
fn long_run() -> (Range<u64>, Instant) {
    let setting = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let seconds = setting("HELIOSTAT_FUZZ_SECONDS").unwrap_or(3600);
    let today = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() / 86_400;
    let first = setting("HELIOSTAT_SEED").unwrap_or(today << 32);
    let count = setting("HELIOSTAT_CASES").unwrap_or(u64::from(u32::MAX));
    (first..first + count, Instant::now() + Duration::from_secs(seconds))
}

/// Keeps the input of a case in a file until the case has passed, so that it can be put into the
/// corpus if it does not.
struct Kept(PathBuf);

impl Kept {
    fn new(name: &str, input: &[u8]) -> Kept {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name.replace('/', "-"));
        std::fs::write(&path, input).unwrap();
        Kept(path)
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the input is in {}", self.0.display());
        } else {
            let _ = std::fs::remove_file(&self.0);
        }
    }
}
