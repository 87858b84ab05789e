//! What /proc says about the processes of a launcher.

use std::cmp::Ordering;
use std::collections::BTreeMap;

/// Our own process.
pub fn own() -> u32 {
    std::process::id()
}

/// Makes processes whose parent ends ours, so that none of a launcher's gets away.
pub fn adopt_orphans() -> rustix::io::Result<()> {
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
}

/// Parent and CPU time, in clock ticks, from a `/proc/PID/stat` line. The name may hold spaces and brackets.
fn parse_stat(line: &str) -> Option<(u32, u64)> {
    let fields: Vec<&str> = line.rsplit_once(')')?.1.split_whitespace().collect();
    let number = |n: usize| fields.get(n)?.parse::<u64>().ok();
    // Fields 4 (ppid), 14 (utime) and 15 (stime) of proc_pid_stat(5); the first here is field 3. Dead ones count for nothing.
    if fields.first() == Some(&"Z") {
        return None;
    }
    Some((number(1)? as u32, number(11)? + number(12)?))
}

/// Every process: its parent and its CPU time.
fn all() -> BTreeMap<u32, (u32, u64)> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let stat = |pid| parse_stat(&std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?);
    pids.filter_map(|pid| Some((pid, stat(pid)?))).collect()
}

/// All processes below one, without itself.
pub fn descendants(of: u32) -> Vec<u32> {
    below(&all(), of)
}

fn below(all: &BTreeMap<u32, (u32, u64)>, of: u32) -> Vec<u32> {
    let mut found = vec![of];
    let mut next = 0;
    while let Some(&parent) = found.get(next) {
        found.extend(all.iter().filter(|(_, (of, _))| *of == parent).map(|(pid, _)| *pid));
        next += 1;
    }
    found.split_off(1)
}

/// CPU time of all processes below one, in clock ticks.
pub fn cpu_ticks(of: u32) -> u64 {
    let all = all();
    below(&all, of).iter().filter_map(|pid| all.get(pid)).map(|(_, ticks)| ticks).sum()
}

/// Proportional set size of some processes, in bytes: a page that n address spaces map counts 1/n for each. Memory of the host's kernel is
/// not in it.
pub fn pss_bytes(pids: &[u32]) -> u64 {
    let rollup = |pid: &u32| std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok();
    one_for_each_memory(pids).iter().filter_map(rollup).filter_map(|text| parse_pss(&text)).sum()
}

/// Leaves out processes that share their address space with one that stays: `/proc` says of each that all of it is its own.
fn one_for_each_memory(pids: &[u32]) -> Vec<u32> {
    let mut kept: Vec<u32> = Vec::new();
    for &pid in pids {
        // The host gives address spaces an order.
        if let Err(place) = kept.binary_search_by(|other| compare_memory(*other, pid)) {
            kept.insert(place, pid);
        }
    }
    kept
}

/// `kcmp(2)`. Processes that can't be compared count as different.
fn compare_memory(a: u32, b: u32) -> Ordering {
    const KCMP_VM: libc::c_long = 1;
    let [first, second] = [a, b].map(libc::c_long::from);
    // SAFETY: numbers only; the call changes nothing.
    match unsafe { libc::syscall(libc::SYS_kcmp, first, second, KCMP_VM, 0, 0) } {
        0 => Ordering::Equal,
        1 => Ordering::Less,
        2 => Ordering::Greater,
        _ => a.cmp(&b),
    }
}

fn parse_pss(rollup: &str) -> Option<u64> {
    let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:"))?;
    Some(line.split_whitespace().next()?.parse::<u64>().ok()? * 1024)
}

/// Collects children that have ended.
pub fn reap_all() {
    use rustix::process::{WaitOptions, wait};
    while let Ok(Some(_)) = wait(WaitOptions::NOHANG) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stat_line_with_a_name_like_fields() {
        let line = "42 (a) R 1 (b) S 7 42 42 0 -1 4194560 1 2 3 4 50 6 0 0 20 0 1 0 100";
        assert_eq!(parse_stat(line), Some((7, 56)));
        assert_eq!(parse_stat("42 (a) Z 7 42 42 0 -1 4194560 1 2 3 4 50 6 0"), None);
        assert_eq!(parse_stat(""), None);
    }

    #[test]
    fn descendants_are_all_generations_and_no_others() {
        let all = BTreeMap::from([(10, (1, 5)), (11, (10, 5)), (12, (11, 5)), (20, (1, 5)), (21, (20, 5))]);
        assert_eq!(below(&all, 10), [11, 12]);
        assert!(below(&all, 12).is_empty());
    }

    #[test]
    fn pss_is_the_line_of_that_name() {
        let text = "55d0-7ffc ---p 00000000 00:00 0 [rollup]\nRss: 900 kB\nPss: 12 kB\nPss_Anon: 4 kB\n";
        assert_eq!(parse_pss(text), Some(12 * 1024));
        assert_eq!(parse_pss("Rss: 900 kB\n"), None);
    }

    #[test]
    fn our_own_memory_is_something() {
        let own = own();
        assert!(pss_bytes(&[own]) > 0);
        assert_eq!(one_for_each_memory(&[own, own]), [own]);
        let mut other = std::process::Command::new("sleep").arg("100").spawn().unwrap();
        assert_eq!(one_for_each_memory(&[own, other.id(), own]).len(), 2);
        other.kill().unwrap();
        other.wait().unwrap();
    }
}
