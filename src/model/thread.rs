//! The priority of a thread, and the words of its panic.

use std::any::Any;

/// Lets every other thread of the machine go before this one.
pub fn be_nice() {
    const LOWEST: libc::c_int = 19;
    // SAFETY: the call takes numbers only. On Linux it is about the calling thread.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, LOWEST) };
}

/// The words of a panic that was caught.
pub fn words_of(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or(panic.downcast_ref::<&str>().copied()).unwrap_or("no reason given")
}
