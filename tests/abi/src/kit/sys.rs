//! System calls: the raw one and thin wrappers of those that nearly every case needs.
//!
//! The wrappers are safe to call in the sense that matters to a test: what they are given are
//! live locals of the caller, or addresses that are wrong on purpose.

use super::{E, R};
use std::ffi::CStr;
use std::io;

/// What can be an argument of a system call. (References only to plain data, so that a
/// `CString` is not passed where its characters were meant.)
pub trait Arg {
    fn arg(self) -> usize;
}

macro_rules! int_args { ($($t:ty)*) => { $(impl Arg for $t { fn arg(self) -> usize { self as isize as usize } })* } }
int_args! { i8 u8 i16 u16 i32 u32 i64 u64 isize usize }
impl<T> Arg for *const T {
    fn arg(self) -> usize {
        self as usize
    }
}
impl<T> Arg for *mut T {
    fn arg(self) -> usize {
        self as usize
    }
}
impl<T: Copy> Arg for &T {
    fn arg(self) -> usize {
        &raw const *self as usize
    }
}
impl<T: Copy> Arg for &mut T {
    fn arg(self) -> usize {
        &raw mut *self as usize
    }
}
impl<T> Arg for &[T] {
    fn arg(self) -> usize {
        self.as_ptr() as usize
    }
}
impl<T> Arg for &mut [T] {
    fn arg(self) -> usize {
        self.as_mut_ptr() as usize
    }
}
impl Arg for &CStr {
    fn arg(self) -> usize {
        self.as_ptr() as usize
    }
}
/// Issues system call `nr` with up to six arguments.
pub fn raw(nr: i64, args: &[usize]) -> Result<i64, E> {
    let a = |i: usize| args.get(i).copied().unwrap_or(0);
    // SAFETY: the arguments are the caller's live locals, or wrong on purpose for the kernel to refuse.
    let ret = unsafe { libc::syscall(nr, a(0), a(1), a(2), a(3), a(4), a(5)) };
    if ret == -1 { Err(last()) } else { Ok(ret) }
}

/// The errno of the last libc call.
pub fn last() -> E {
    E(io::Error::last_os_error().raw_os_error().unwrap_or(0))
}

/// A pointer that no process has mapped: the top of the canonical lower half.
pub const BAD: usize = 0x7fff_ffff_f000;

pub fn open(path: &CStr, flags: i32, mode: u32) -> Result<i32, E> {
    sc!(SYS_openat, libc::AT_FDCWD, path, flags, mode).map(|fd| fd as i32)
}

/// Creates or truncates `path` with these contents.
pub fn put(path: &CStr, data: &[u8]) -> R {
    let fd = open(path, libc::O_CREAT | libc::O_TRUNC | libc::O_WRONLY, 0o644)?;
    eq!(write(fd, data)?, data.len());
    close(fd)?;
    Ok(())
}

/// The whole of a file; also of a /proc file that has no size.
pub fn get(path: &CStr) -> R<Vec<u8>> {
    let fd = open(path, libc::O_RDONLY, 0)?;
    let data = drain(fd)?;
    close(fd)?;
    Ok(data)
}

/// As [`get`], for text.
pub fn text(path: &CStr) -> R<String> {
    Ok(String::from_utf8_lossy(&get(path)?).into_owned())
}

/// Reads to end of file.
pub fn drain(fd: i32) -> Result<Vec<u8>, E> {
    let mut all = Vec::new();
    let mut buf = [0u8; 4096];
    loop {
        match read(fd, &mut buf)? {
            0 => return Ok(all),
            n => all.extend_from_slice(&buf[..n]),
        }
    }
}

pub fn read(fd: i32, buf: &mut [u8]) -> Result<usize, E> {
    let len = buf.len();
    sc!(SYS_read, fd, buf, len).map(|n| n as usize)
}

/// What one read of at most `max` bytes gives.
pub fn read_some(fd: i32, max: usize) -> Result<Vec<u8>, E> {
    let mut buf = vec![0; max];
    let n = read(fd, &mut buf)?;
    buf.truncate(n);
    Ok(buf)
}

pub fn write(fd: i32, buf: &[u8]) -> Result<usize, E> {
    sc!(SYS_write, fd, buf, buf.len()).map(|n| n as usize)
}

pub fn close(fd: i32) -> Result<(), E> {
    sc!(SYS_close, fd).map(drop)
}

pub fn lseek(fd: i32, off: i64, whence: i32) -> Result<i64, E> {
    sc!(SYS_lseek, fd, off, whence)
}

/// (read end, write end)
pub fn pipe(flags: i32) -> Result<(i32, i32), E> {
    let mut fds = [0i32; 2];
    sc!(SYS_pipe2, &mut fds, flags)?;
    Ok((fds[0], fds[1]))
}

pub fn fcntl(fd: i32, cmd: i32, arg: impl Arg) -> Result<i32, E> {
    sc!(SYS_fcntl, fd, cmd, arg.arg()).map(|v| v as i32)
}

pub fn ioctl(fd: i32, cmd: u64, arg: impl Arg) -> Result<i32, E> {
    sc!(SYS_ioctl, fd, cmd, arg.arg()).map(|v| v as i32)
}

/// An all-zero value of a C structure.
pub fn zeroed<T: Copy>() -> T {
    // SAFETY: used for plain C structures only, for which all zeroes is a value.
    unsafe { std::mem::zeroed() }
}

pub fn stat(path: &CStr) -> Result<libc::stat, E> {
    let mut st = zeroed::<libc::stat>();
    sc!(SYS_newfstatat, libc::AT_FDCWD, path, &mut st, 0).map(|_| st)
}

pub fn lstat(path: &CStr) -> Result<libc::stat, E> {
    let mut st = zeroed::<libc::stat>();
    sc!(SYS_newfstatat, libc::AT_FDCWD, path, &mut st, libc::AT_SYMLINK_NOFOLLOW).map(|_| st)
}

pub fn fstat(fd: i32) -> Result<libc::stat, E> {
    let mut st = zeroed::<libc::stat>();
    sc!(SYS_fstat, fd, &mut st).map(|_| st)
}

pub fn mkdir(path: &CStr, mode: u32) -> Result<(), E> {
    sc!(SYS_mkdirat, libc::AT_FDCWD, path, mode).map(drop)
}

pub fn unlink(path: &CStr) -> Result<(), E> {
    sc!(SYS_unlinkat, libc::AT_FDCWD, path, 0).map(drop)
}

pub fn symlink(target: &CStr, path: &CStr) -> Result<(), E> {
    sc!(SYS_symlinkat, target, libc::AT_FDCWD, path).map(drop)
}

pub fn mkfifo(path: &CStr) -> Result<(), E> {
    sc!(SYS_mknodat, libc::AT_FDCWD, path, libc::S_IFIFO | 0o600, 0).map(drop)
}

/// Waits up to `ms` for `events` on one descriptor; what came, 0 at the time-out.
pub fn poll1(fd: i32, events: i16, ms: i32) -> Result<i16, E> {
    let mut p = libc::pollfd { fd, events, revents: 0 };
    sc!(SYS_poll, &mut p, 1, ms)?;
    Ok(p.revents)
}

/// Anonymous memory; `flags` are added to MAP_ANONYMOUS.
pub fn map(len: usize, prot: i32, flags: i32) -> Result<*mut u8, E> {
    mmap(0, len, prot, flags | libc::MAP_ANONYMOUS, -1, 0)
}

pub fn mmap(addr: usize, len: usize, prot: i32, flags: i32, fd: i32, off: i64) -> Result<*mut u8, E> {
    sc!(SYS_mmap, addr, len, prot, flags, fd, off).map(|p| p as usize as *mut u8)
}

/// Private writable memory, the usual kind.
pub fn rw(len: usize) -> Result<*mut u8, E> {
    map(len, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE)
}

/// Writable memory that a fork shares.
pub fn shared(len: usize) -> Result<*mut u8, E> {
    map(len, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED)
}

pub fn munmap<T>(addr: *mut T, len: usize) -> Result<(), E> {
    sc!(SYS_munmap, addr, len).map(drop)
}

/// One byte, read as the CPU sees it.
pub fn peek(p: *const u8) -> u8 {
    // SAFETY: the caller mapped it, or is a case in which the fault is the point.
    unsafe { p.read_volatile() }
}

/// One byte, written as the CPU sees it.
pub fn poke(p: *mut u8, v: u8) {
    // SAFETY: as for `peek`.
    unsafe { p.write_volatile(v) }
}

/// Address `n` bytes on.
pub fn at(p: *mut u8, n: usize) -> *mut u8 {
    p.wrapping_add(n)
}

/// A 32-bit cell in memory that threads or processes share.
pub fn cell(p: *mut u8) -> &'static std::sync::atomic::AtomicU32 {
    // SAFETY: the caller mapped it, it is aligned, and it stays mapped until the case ends.
    unsafe { &*p.cast() }
}

pub fn getpid() -> i32 {
    sc!(SYS_getpid).unwrap_or(-1) as i32
}

pub fn gettid() -> i32 {
    sc!(SYS_gettid).unwrap_or(-1) as i32
}

pub fn kill(pid: i32, sig: i32) -> Result<(), E> {
    sc!(SYS_kill, pid, sig).map(drop)
}

/// Whether this process is the superuser; where that decides an answer, cases branch on it.
pub fn root() -> bool {
    sc!(SYS_geteuid) == Ok(0)
}

/// Time on a clock in nanoseconds.
pub fn now(clock: i32) -> Result<u64, E> {
    let mut ts = zeroed::<libc::timespec>();
    sc!(SYS_clock_gettime, clock, &mut ts)?;
    Ok(ts.tv_sec as u64 * 1_000_000_000 + ts.tv_nsec as u64)
}

/// Nanoseconds as the kernel takes them.
pub fn ts(ns: u64) -> libc::timespec {
    libc::timespec { tv_sec: (ns / 1_000_000_000) as i64, tv_nsec: (ns % 1_000_000_000) as i64 }
}

/// A millisecond in nanoseconds.
pub const MS: u64 = 1_000_000;
