//! How many host tasks address spaces may be: a share of what the host lets this user have, so that no guest can use up the host's.

use std::fs;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

/// The share: one machine's guests leave room for the host and for other machines.
const SHARE: u64 = 3;
/// What is assumed where the host says nothing.
const DEFAULT: u64 = 32768;

/// Counts tasks up to a limit.
pub(crate) struct Tasks {
    used: AtomicU64,
    most: u64,
}

impl Tasks {
    /// With a share of the host's limit.
    pub(crate) fn of_host() -> Tasks {
        Tasks { used: AtomicU64::new(0), most: host_limit() / SHARE }
    }

    /// Takes room for some tasks. `EAGAIN` when there is none, as clone(2) says it.
    pub(crate) fn take(&self, count: u64) -> io::Result<()> {
        let more = |used: u64| Some(used + count).filter(|&sum| sum <= self.most);
        match self.used.fetch_update(Ordering::SeqCst, Ordering::SeqCst, more) {
            Ok(_) => Ok(()),
            Err(_) => Err(io::Error::from_raw_os_error(libc::EAGAIN)),
        }
    }

    /// Gives it back.
    pub(crate) fn give(&self, count: u64) {
        self.used.fetch_sub(count, Ordering::SeqCst);
    }
}

/// The least of the limits that hold for this process (`RLIMIT_NPROC`, `kernel.pid_max`, `kernel.threads-max`, the control groups' `pids.max`).
fn host_limit() -> u64 {
    let number = |path: &str| fs::read_to_string(path).ok()?.trim().parse().ok();
    let mut limits: Vec<u64> =
        ["/proc/sys/kernel/pid_max", "/proc/sys/kernel/threads-max"].into_iter().filter_map(number).collect();
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: fills in one structure.
    if unsafe { libc::getrlimit(libc::RLIMIT_NPROC, &raw mut limit) } == 0 {
        limits.push(limit.rlim_cur);
    }
    // cgroups(7): the second version has one line, "0::/path"; every group above counts as well.
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let own = groups.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or("/");
    let above = std::path::Path::new(own).ancestors();
    limits.extend(above.filter_map(|group| number(&format!("/sys/fs/cgroup{}/pids.max", group.display()))));
    limits.into_iter().min().unwrap_or(DEFAULT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_taken_and_given_back() {
        let tasks = Tasks { used: AtomicU64::new(0), most: 5 };
        tasks.take(3).unwrap();
        assert_eq!(tasks.take(3).unwrap_err().raw_os_error(), Some(libc::EAGAIN));
        tasks.take(2).unwrap();
        tasks.give(1);
        tasks.take(1).unwrap();
        assert!(tasks.take(1).is_err());
    }

    #[test]
    fn the_hosts_limit_is_sensible() {
        let limit = host_limit();
        assert!(limit > 100, "{limit}");
        let max: u64 = fs::read_to_string("/proc/sys/kernel/pid_max").unwrap().trim().parse().unwrap();
        assert!(limit <= max);
    }
}
