//! Host calls in the forms that are needed here.

use std::fs;
use std::io::Error;
use std::time::{Duration, Instant};

/// Any system call; the result as the kernel gives it.
pub fn call(nr: i64, args: [u64; 6]) -> i64 {
    let result: i64;
    unsafe {
        std::arch::asm!("syscall", inlateout("rax") nr => result, in("rdi") args[0], in("rsi") args[1], in("rdx") args[2],
            in("r10") args[3], in("r8") args[4], in("r9") args[5], lateout("rcx") _, lateout("r11") _)
    };
    result
}

/// Ends the process with this status, at once.
pub fn exit(status: i32) -> ! {
    unsafe { libc::_exit(status) }
}

/// A child that runs this and exits with what it returns; its process id.
pub fn fork(body: impl FnOnce() -> i32) -> Result<i32, String> {
    match unsafe { libc::fork() } {
        0 => exit(body()),
        pid if pid > 0 => Ok(pid),
        _ => Err(format!("fork: {}", Error::last_os_error())),
    }
}

/// Waits for a child of one's own; its wait status.
pub fn wait(pid: i32) -> i32 {
    let mut status = 0;
    while unsafe { libc::waitpid(pid, &raw mut status, 0) } < 0 {
        if Error::last_os_error().raw_os_error() != Some(libc::EINTR) {
            return -1;
        }
    }
    status
}

/// Anonymous memory, shared with children or not, at an address of the kernel's choice.
pub fn pages(len: usize, shared: bool) -> *mut u8 {
    let kind = if shared { libc::MAP_SHARED } else { libc::MAP_PRIVATE };
    let prot = libc::PROT_READ | libc::PROT_WRITE;
    let at = unsafe { libc::mmap(std::ptr::null_mut(), len, prot, kind | libc::MAP_ANONYMOUS, -1, 0) };
    assert!(at != libc::MAP_FAILED, "no memory: {}", Error::last_os_error());
    at.cast()
}

/// A line of `/proc/self/maps`.
#[derive(Clone, Debug)]
pub struct Area {
    /// First address.
    pub start: u64,
    /// Address behind it.
    pub end: u64,
    /// `rwxp`.
    pub rights: String,
    /// What is mapped.
    pub name: String,
}

/// What the address space is said to show.
pub fn maps() -> Vec<Area> {
    let text = fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let parse = |line: &str| {
        let mut words = line.split_whitespace();
        let (start, end) = words.next()?.split_once('-')?;
        let rights = words.next()?.to_string();
        let number = |hex| u64::from_str_radix(hex, 16).ok();
        Some(Area {
            start: number(start)?,
            end: number(end)?,
            rights,
            name: words.nth(3).unwrap_or("").to_string(),
        })
    };
    text.lines().filter_map(parse).collect()
}

/// What the address space shows that may be executed.
pub fn code() -> Vec<Area> {
    maps().into_iter().filter(|a| a.rights.starts_with("r-x")).collect()
}

/// Sets a resource limit, both values.
pub fn limit(resource: u32, value: u64) {
    let limit = libc::rlimit { rlim_cur: value, rlim_max: value };
    unsafe { libc::setrlimit(resource, &raw const limit) };
}

/// Has every signal that a fault or a timer makes call this, on a stack of its own.
pub fn handle(signals: &[i32], handler: extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::c_void)) {
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handler as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_NODEFER;
        for signo in signals {
            libc::sigaction(*signo, &raw const action, std::ptr::null_mut());
        }
    }
}

/// A number of processes or bytes that a `/proc` file says behind this word.
pub fn proc_number(path: &str, word: &str) -> u64 {
    let text = fs::read_to_string(path).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(word));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

/// Runs threads that do this until `time` is over, and `body` beside them; they are told by the flag.
pub fn beside(
    threads: &[&(dyn Fn(&std::sync::atomic::AtomicBool) + Sync)],
    time: Duration,
    mut body: impl FnMut(),
) {
    let over = std::sync::atomic::AtomicBool::new(false);
    let start = Instant::now();
    std::thread::scope(|scope| {
        for thread in threads {
            let over = &over;
            scope.spawn(move || thread(over));
        }
        while start.elapsed() < time {
            body();
        }
        over.store(true, std::sync::atomic::Ordering::SeqCst);
    });
}
