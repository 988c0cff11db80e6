//! The memory of a process and of the machine, as the system counts it.

use serde::{Deserialize, Serialize};

/// The end of a process for the memory that it took.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryEnd {
    /// Bytes in use when the process was last measured.
    pub taken: u64,
    /// Bytes that it was allowed.
    pub bytes_max: u64,
}

/// Bytes of a process's memory that are in RAM; without a process id, of this process. `None` where the
/// system does not tell.
pub fn resident_bytes(pid: Option<u32>) -> Option<u64> {
    bytes_of(pid, &["VmRSS:"])
}

/// The same without pages of files, which the system takes back when it needs the memory.
pub fn anonymous_bytes(pid: Option<u32>) -> Option<u64> {
    bytes_of(pid, &["RssAnon:", "RssShmem:"])
}

/// The sum of these lines of `/proc/<pid>/status`, in bytes.
fn bytes_of(pid: Option<u32>, names: &[&str]) -> Option<u64> {
    let process = pid.map_or("self".to_string(), |pid| pid.to_string());
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let of = |name: &&str| {
        // The kernel counts in kB there.
        let line = status.lines().find_map(|line| line.strip_prefix(*name))?;
        line.trim().strip_suffix("kB")?.trim_end().parse::<u64>().ok().map(|kb| kb * 1024)
    };
    names.iter().map(of).sum()
}

/// The memory of the machine, or of the control group that the process is in, if that is less.
pub fn total_bytes() -> Option<u64> {
    let read = |path: &str| std::fs::read_to_string(path).ok();
    let machine = read("/proc/meminfo").and_then(|text| {
        let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
        Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
    });
    // In a container its own group is at the root; otherwise the path is told.
    let own = read("/proc/self/cgroup").and_then(|text| {
        let path = text.lines().find_map(|line| line.strip_prefix("0::"))?;
        read(&format!("/sys/fs/cgroup{path}/memory.max"))
    });
    let roots = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"];
    let groups = own.into_iter().chain(roots.into_iter().filter_map(read));
    // A group without a limit says `max`, or an enormous number.
    let groups = groups.filter_map(|text| text.trim().parse::<u64>().ok());
    groups.chain(machine).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_of_the_process_is_part_of_that_of_the_machine() {
        let (resident, total) = (resident_bytes(None).unwrap(), total_bytes().unwrap());
        assert!(resident > 1 << 20 && resident < total, "{resident} of {total}");
        let anonymous = anonymous_bytes(None).unwrap();
        assert!(anonymous > 1 << 18 && anonymous < resident, "{anonymous} of {resident}");
    }
}
