//! The `heliostat` program.

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// mimalloc's option `purge_delay`, by its place in `mi_option_e`.
const PURGE_DELAY: libmimalloc_sys::mi_option_t = 15;

fn main() -> ExitCode {
    // Freed memory goes back to the system at once: a replay's buffers are not kept by threads that
    // then sleep.
    // SAFETY: the option is one of the library's and takes any number of milliseconds.
    unsafe { libmimalloc_sys::mi_option_set(PURGE_DELAY, 0) };
    heliostat::cli::run()
}
