//! The memory of a process, as the system counts it.

/// What of a process's memory is in RAM, in bytes; of this process where none is named. `None` where
/// the system does not tell.
pub fn resident_bytes(pid: Option<u32>) -> Option<u64> {
    let process = pid.map_or("self".to_string(), |pid| pid.to_string());
    // The kernel counts in kB there.
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix("kB")?.trim_end().parse::<u64>().ok().map(|kb| kb * 1024)
}
