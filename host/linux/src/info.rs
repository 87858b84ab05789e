//! What the host says about itself: CPU, memory, entropy.

use rustix::fs::{Mode, OFlags, ResolveFlags, open, openat2};
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::fs::FileExt;

/// The lines of `/proc/cpuinfo` of the first CPU, without the `processor` line.
pub(crate) fn cpu_info() -> String {
    let mut out = String::new();
    let Ok(file) = File::open("/proc/cpuinfo") else { return out };
    // Read no further than needed: every CPU costs the host an interprocessor interrupt.
    for line in BufReader::with_capacity(4096, file).lines().map_while(Result::ok) {
        if line.is_empty() {
            break;
        }
        if !line.starts_with("processor") {
            out.push_str(&line);
            out.push('\n');
        }
    }
    out
}

/// `AT_HWCAP` and `AT_HWCAP2`.
pub(crate) fn hwcap() -> (u64, u64) {
    // SAFETY: reads the auxiliary vector.
    unsafe { (libc::getauxval(libc::AT_HWCAP), libc::getauxval(libc::AT_HWCAP2)) }
}

/// Fills with random bytes.
pub(crate) fn entropy(buf: &mut [u8]) {
    let mut done = 0;
    while done < buf.len() {
        match rustix::rand::getrandom(&mut buf[done..], rustix::rand::GetRandomFlags::empty()) {
            Ok(len) => done += len,
            Err(rustix::io::Errno::INTR) => {}
            // Only a host without the call can fail here (before Linux 3.17).
            Err(e) => panic!("getrandom: {e}"),
        }
    }
}

/// Memory that this process may use: the host's RAM or its control group's limit, in bytes.
pub fn usable_memory() -> u64 {
    let mut limit = u64::MAX;
    if let Ok(text) = std::fs::read_to_string("/proc/meminfo")
        && let Some(kib) = text.lines().find_map(|l| l.strip_prefix("MemTotal:"))
        && let Some(kib) = kib.split_whitespace().next().and_then(|n| n.parse::<u64>().ok())
    {
        limit = kib.saturating_mul(1024);
    }
    limit.min(cgroup_limit().unwrap_or(u64::MAX))
}

/// The least `memory.max` on the way from our control group (version 2) to the root.
fn cgroup_limit() -> Option<u64> {
    let groups = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    let mut path = groups.lines().find_map(|l| l.strip_prefix("0::"))?.to_string();
    let mut least = None;
    loop {
        let file = format!("/sys/fs/cgroup{}/memory.max", path.trim_end_matches('/'));
        if let Some(max) = std::fs::read_to_string(file).ok().and_then(|t| t.trim().parse::<u64>().ok()) {
            least = Some(least.map_or(max, |l: u64| l.min(max)));
        }
        match path.rfind('/') {
            Some(at) if path.len() > 1 => path.truncate(at),
            _ => return least,
        }
    }
}

/// Ids and supplementary groups of this process.
pub fn caller_ids() -> (u32, u32, Vec<u32>) {
    let groups = rustix::process::getgroups().unwrap_or_default();
    let ids = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    (ids.0, ids.1, groups.into_iter().map(|g| g.as_raw()).collect())
}

/// The content of a file below a directory that stands for the root: symbolic links lead to places below it,
/// never out of it. For account files and the like: at most 4 MiB, regular files only.
pub fn read_in_root(root: &str, path: &str) -> io::Result<Vec<u8>> {
    let dir = open(root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let file = File::from(openat2(dir, path, flags, Mode::empty(), resolve)?);
    if !file.metadata()?.is_file() {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    let mut content = Vec::new();
    file.take(4 << 20).read_to_end(&mut content)?;
    Ok(content)
}

/// The process's resource limits that guests should have, too: resource, soft limit, hard limit. Those on what guests share with
/// nobody outside, as the number of processes, are not among them. To be called before the machine is started, which changes its own.
pub fn guest_limits() -> Vec<(u32, u64, u64)> {
    const INHERITED: [libc::__rlimit_resource_t; 12] = [
        libc::RLIMIT_CPU,
        libc::RLIMIT_FSIZE,
        libc::RLIMIT_DATA,
        libc::RLIMIT_STACK,
        libc::RLIMIT_CORE,
        libc::RLIMIT_NOFILE,
        libc::RLIMIT_MEMLOCK,
        libc::RLIMIT_AS,
        libc::RLIMIT_MSGQUEUE,
        libc::RLIMIT_NICE,
        libc::RLIMIT_RTPRIO,
        libc::RLIMIT_RTTIME,
    ];
    /// What Linux allows at most for descriptors (`/proc/sys/fs/nr_open`).
    const MOST_FILES: u64 = 1 << 20;
    let mut limits = Vec::new();
    for resource in INHERITED {
        let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: writes one structure.
        if unsafe { libc::getrlimit(resource, &mut limit) } == 0 {
            let most = if resource == libc::RLIMIT_NOFILE { MOST_FILES } else { u64::MAX };
            limits.push((resource, limit.rlim_cur.min(most), limit.rlim_max.min(most)));
        }
    }
    limits
}

/// The pages of this process's vDSO; empty when they can't be found.
pub(crate) fn vdso_image() -> Vec<u8> {
    // SAFETY: reads the auxiliary vector.
    let start = unsafe { libc::getauxval(libc::AT_SYSINFO_EHDR) };
    let read = || -> io::Result<Vec<u8>> {
        let maps = std::fs::read_to_string("/proc/self/maps")?;
        let end = maps.lines().filter(|line| line.ends_with("[vdso]")).find_map(|line| {
            let (from, rest) = line.split_once('-')?;
            let to = rest.split(' ').next()?;
            let hex = |text| u64::from_str_radix(text, 16).ok();
            (hex(from)? == start).then(|| hex(to))?
        });
        let len = end.and_then(|end| end.checked_sub(start)).unwrap_or(0);
        let mut image = vec![0; usize::try_from(len).unwrap_or(0)];
        File::open("/proc/self/mem")?.read_exact_at(&mut image, start)?;
        Ok(image)
    };
    read().unwrap_or_default()
}
