//! Signals: installing handlers, and a recorder of what arrived.

use super::E;
use super::sys;
use std::sync::atomic::{AtomicI32, AtomicUsize, Ordering::SeqCst};

/// A signal mask in the kernel's form.
pub type Set = u64;

/// The mask with these signals.
pub fn set(sigs: &[i32]) -> Set {
    sigs.iter().fold(0, |m, s| m | 1 << (s - 1))
}

/// Size of the kernel's mask, an argument of the rt_ calls.
pub const SIZE: usize = 8;

/// Changes the mask of this thread; the old one.
pub fn mask(how: i32, new: Set) -> Result<Set, E> {
    let mut old: Set = 0;
    sc!(SYS_rt_sigprocmask, how, &new, &mut old, SIZE)?;
    Ok(old)
}

pub fn block(sigs: &[i32]) -> Result<Set, E> {
    mask(libc::SIG_BLOCK, set(sigs))
}

pub fn unblock(sigs: &[i32]) -> Result<Set, E> {
    mask(libc::SIG_UNBLOCK, set(sigs))
}

/// The mask of this thread.
pub fn current() -> Result<Set, E> {
    let mut old: Set = 0;
    sc!(SYS_rt_sigprocmask, libc::SIG_BLOCK, 0, &mut old, SIZE)?;
    Ok(old)
}

pub fn pending() -> Result<Set, E> {
    let mut p: Set = 0;
    sc!(SYS_rt_sigpending, &mut p, SIZE)?;
    Ok(p)
}

/// Handlers as the kernel calls them with SA_SIGINFO.
pub type Handler = extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::c_void);

/// Installs a handler with SA_SIGINFO and `flags`, with `during` blocked while it runs.
pub fn handle(sig: i32, handler: Handler, flags: i32, during: &[i32]) -> Result<(), E> {
    action(sig, handler as *const () as usize, flags | libc::SA_SIGINFO, during)
}

/// SIG_DFL or SIG_IGN, with flags.
pub fn dispose(sig: i32, disposition: usize, flags: i32) -> Result<(), E> {
    action(sig, disposition, flags, &[])
}

fn action(sig: i32, handler: usize, flags: i32, during: &[i32]) -> Result<(), E> {
    let mut sa = sys::zeroed::<libc::sigaction>();
    sa.sa_sigaction = handler;
    sa.sa_flags = flags;
    for s in during {
        // SAFETY: a live set.
        unsafe { libc::sigaddset(&mut sa.sa_mask, *s) };
    }
    // SAFETY: the handler is a function of this program that is async-signal-safe.
    if unsafe { libc::sigaction(sig, &sa, std::ptr::null_mut()) } == 0 { Ok(()) } else { Err(sys::last()) }
}

/// What the recorder saw of one signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    pub sig: i32,
    pub code: i32,
    /// si_pid, where the code has one.
    pub pid: i32,
    /// si_value as a number, where the code has one.
    pub value: i32,
    /// si_addr, where the code has one.
    pub addr: usize,
    /// The thread that ran the handler.
    pub tid: i32,
}

const MAX: usize = 256;
static COUNT: AtomicUsize = AtomicUsize::new(0);
static INTS: [[AtomicI32; 5]; MAX] = [const { [const { AtomicI32::new(0) }; 5] }; MAX];
static ADDRS: [AtomicUsize; MAX] = [const { AtomicUsize::new(0) }; MAX];

/// The recording handler.
pub extern "C" fn recorder(sig: i32, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    let i = COUNT.load(SeqCst);
    if i < MAX {
        // SAFETY: the kernel gives a live siginfo; the accessors read its union as plain memory.
        let (code, pid, value, addr) = unsafe {
            (
                (*info).si_code,
                (*info).si_pid(),
                (*info).si_value().sival_ptr as usize as i32,
                (*info).si_addr() as usize,
            )
        };
        for (cell, v) in INTS[i].iter().zip([sig, code, pid, value, sys::gettid()]) {
            cell.store(v, SeqCst);
        }
        ADDRS[i].store(addr, SeqCst);
    }
    COUNT.store(i + 1, SeqCst);
}

/// Installs the recorder.
pub fn record(sig: i32, flags: i32) -> Result<(), E> {
    handle(sig, recorder, flags, &[])
}

/// Forgets what the recorder saw.
pub fn reset() {
    COUNT.store(0, SeqCst);
}

/// How many signals the recorder saw.
pub fn count() -> usize {
    COUNT.load(SeqCst)
}

/// What the recorder saw, oldest first.
pub fn seen() -> Vec<Seen> {
    (0..count().min(MAX))
        .map(|i| {
            let [sig, code, pid, value, tid] = [0, 1, 2, 3, 4].map(|n: usize| INTS[i][n].load(SeqCst));
            Seen { sig, code, pid, value, tid, addr: ADDRS[i].load(SeqCst) }
        })
        .collect()
}

/// The signal numbers that the recorder saw.
pub fn numbers() -> Vec<i32> {
    seen().iter().map(|s| s.sig).collect()
}

/// Has SIGALRM recorded every few milliseconds from now on, without SA_RESTART unless `flags` say so.
/// One that comes too early is followed by another, so a call that blocks is surely interrupted.
pub fn tick(flags: i32) -> Result<(), E> {
    record(libc::SIGALRM, flags)?;
    interval(5_000)
}

/// Starts (or with 0 stops) the periodic SIGALRM.
pub fn interval(usec: i64) -> Result<(), E> {
    let t = libc::timeval { tv_sec: 0, tv_usec: usec };
    sc!(SYS_setitimer, libc::ITIMER_REAL, &libc::itimerval { it_interval: t, it_value: t }, 0).map(drop)
}
