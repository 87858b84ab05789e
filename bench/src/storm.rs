//! How many system calls a second N processes make that have nothing to do with each other.

use crate::sys::{check, fork, reap};
use std::ffi::CString;
use std::io::{Error, ErrorKind, Result};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// The most processes.
const MOST: usize = 1024;

/// A counter that shares its cache line with no other.
#[repr(align(128))]
struct Count(AtomicU64);

/// What the processes share. All zeroes is a good start.
struct Shared {
    ready: AtomicU32,
    /// 0 wait, 1 run, 2 stop.
    phase: AtomicU32,
    counts: [Count; MOST],
}

/// Calls a second of `processes` processes, each calling `getppid` or `stat` (of a file of its own in `work`).
pub fn run(call: &str, processes: usize, time: Duration, work: &Path) -> Result<f64> {
    if processes == 0 || processes > MOST || !["getppid", "stat"].contains(&call) {
        return Err(Error::new(ErrorKind::InvalidInput, format!("{processes} processes of {call}")));
    }
    let shared = share()?;
    let mut children = Vec::new();
    for n in 0..processes {
        children.push(fork(|| one(call, n, shared, work))?);
    }
    // Until all are there; a short sleep, since the processes that are not need the CPUs.
    while (shared.ready.load(Ordering::Acquire) as usize) < processes {
        std::thread::sleep(Duration::from_millis(1));
    }
    let start = Instant::now();
    shared.phase.store(1, Ordering::Release);
    std::thread::sleep(time);
    let took = start.elapsed();
    shared.phase.store(2, Ordering::Release);
    for child in children {
        reap(child)?;
    }
    let calls: u64 = shared.counts[..processes].iter().map(|count| count.0.load(Ordering::Relaxed)).sum();
    Ok(calls as f64 / took.as_secs_f64())
}

/// One process, until it is told to stop.
fn one(call: &str, n: usize, shared: &Shared, work: &Path) -> Result<()> {
    let file = work.join(format!("vk-bench-storm-{}", std::process::id()));
    if call == "stat" {
        std::fs::write(&file, "x")?;
    }
    let path = CString::new(file.as_os_str().as_bytes())?;
    shared.ready.fetch_add(1, Ordering::AcqRel);
    while shared.phase.load(Ordering::Acquire) == 0 {
        std::thread::sleep(Duration::from_millis(1));
    }
    let (mut calls, stat) = (0u64, call == "stat");
    while shared.phase.load(Ordering::Acquire) == 1 {
        for _ in 0..16 {
            // SAFETY: no arguments, or a C string and a structure of the right type to write to.
            unsafe {
                if stat {
                    let mut found: libc::stat = std::mem::zeroed();
                    check(libc::stat(path.as_ptr(), &raw mut found))?;
                } else {
                    libc::syscall(libc::SYS_getppid);
                }
            }
        }
        calls += 16;
    }
    shared.counts[n].0.store(calls, Ordering::Relaxed);
    if stat { std::fs::remove_file(&file) } else { Ok(()) }
}

/// Memory that children share, zeroed; it stays until the process ends.
fn share() -> Result<&'static Shared> {
    let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_ANONYMOUS);
    // SAFETY: a new mapping that is long enough, aligned to a page, zeroed (which is a value of the type), and never unmapped.
    unsafe {
        let at = libc::mmap(std::ptr::null_mut(), size_of::<Shared>(), protection, flags, -1, 0);
        if at == libc::MAP_FAILED { Err(Error::last_os_error()) } else { Ok(&*at.cast::<Shared>()) }
    }
}
