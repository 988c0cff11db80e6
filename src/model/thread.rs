//! The priority of a thread.

/// Lets every other thread of the machine go before this one.
pub fn be_nice() {
    const LOWEST: libc::c_int = 19;
    // SAFETY: the call takes numbers only. On Linux it is about the calling thread.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, LOWEST) };
}
