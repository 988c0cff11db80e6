//! Which thread a fault has ended the process in.
//!
//! The signal of a fault (a stack overflow, an `abort`) comes on the thread that caused it. The handler stores a
//! number in the word that the thread has named for it, in the marker's file, and goes on to the handler
//! before it, which for overflows of the stack is the standard library's.

use std::cell::Cell;
use std::io;
use std::ptr::null;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use libc::{SIGABRT, SIGBUS, SIGFPE, SIGILL, SIGSEGV, c_int, c_void, siginfo_t};

/// The number that stands for a fault.
pub const FAULTED: u64 = 2;

const SIGNALS: [c_int; 5] = [SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT];

/// The handlers before, in the order of `SIGNALS`.
static BEFORE: [OnceLock<libc::sigaction>; SIGNALS.len()] =
    [const { OnceLock::new() }; SIGNALS.len()];

thread_local! {
    static WORD: Cell<*const AtomicU64> = const { Cell::new(null()) };
}

/// From now on a fault in this thread is noted in `word`.
///
/// # Safety
///
/// The word must live until the thread calls [`forget`] for it.
pub unsafe fn note_in(word: &AtomicU64) {
    WORD.set(word);
}

/// Ends that, if it is this word that faults of this thread are noted in.
pub fn forget(word: &AtomicU64) {
    if std::ptr::eq(WORD.get(), word) {
        WORD.set(null());
    }
}

/// Takes over the signals of faults, once in a process.
pub fn watch() -> io::Result<()> {
    for (signal, before) in SIGNALS.iter().zip(&BEFORE) {
        if before.get().is_some() {
            continue;
        }
        // SAFETY: both structures are valid, and the handler does what a handler may: it stores a number, and
        // calls what was there before or the system.
        unsafe {
            let mut earlier: libc::sigaction = std::mem::zeroed();
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = handle as extern "C" fn(_, _, _) as usize;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
            libc::sigemptyset(&raw mut action.sa_mask);
            if libc::sigaction(*signal, null(), &raw mut earlier) != 0 {
                return Err(io::Error::last_os_error());
            }
            let _ = before.set(earlier);
            if libc::sigaction(*signal, &raw const action, std::ptr::null_mut()) != 0 {
                return Err(io::Error::last_os_error());
            }
        }
    }
    Ok(())
}

extern "C" fn handle(signal: c_int, info: *mut siginfo_t, context: *mut c_void) {
    // SAFETY: the system's arguments are valid. A word lives as long as it is named, and the handler before
    // has the form that its flags say.
    unsafe {
        // A signal that another process sends is nobody's fault.
        let is_own = (*info).si_code > 0 || (*info).si_pid() == libc::getpid();
        let word = WORD.get();
        if is_own && !word.is_null() {
            (*word).store(FAULTED, Ordering::Release);
        }
        let at = SIGNALS.iter().position(|known| *known == signal);
        let before = at.and_then(|at| BEFORE[at].get());
        match before.map(|before| (before.sa_sigaction, before.sa_flags & libc::SA_SIGINFO)) {
            None | Some((libc::SIG_DFL | libc::SIG_IGN, _)) => {
                // It comes again when this returns, and ends the process.
                libc::signal(signal, libc::SIG_DFL);
                libc::raise(signal);
            }
            Some((handler, 0)) => {
                let handler: extern "C" fn(c_int) = std::mem::transmute(handler);
                handler(signal);
            }
            Some((handler, _)) => {
                let handler: extern "C" fn(c_int, *mut siginfo_t, *mut c_void) =
                    std::mem::transmute(handler);
                handler(signal, info, context);
            }
        }
    }
}
