//! Host calls that the crate needs and `libc` does not wrap safely.

use std::io;
use std::ops::Range;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::OnceLock;
use std::time::Duration;

/// `struct seccomp_notif` (`uapi/linux/seccomp.h`).
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Notification {
    /// For the answer.
    pub id: u64,
    /// The task.
    pub pid: u32,
    /// Unused.
    pub flags: u32,
    /// System call number.
    pub nr: i32,
    /// `AUDIT_ARCH_*`.
    pub arch: u32,
    /// The address behind the instruction.
    pub ip: u64,
    /// Arguments.
    pub args: [u64; 6],
}

#[repr(C)]
struct Answer {
    id: u64,
    val: i64,
    error: i32,
    flags: u32,
}

#[repr(C)]
struct AddFd {
    id: u64,
    flags: u32,
    srcfd: u32,
    newfd: u32,
    newfd_flags: u32,
}

const NOTIF_RECV: libc::c_ulong = 0xc050_2100;
const NOTIF_SEND: libc::c_ulong = 0xc018_2101;
const NOTIF_ADDFD: libc::c_ulong = 0x4018_2103;
const NOTIF_SET_FLAGS: libc::c_ulong = 0x4008_2104;
const ADDFD_FLAG_SETFD: u32 = 1;
const FD_SYNC_WAKE_UP: libc::c_ulong = 1;

fn check(result: libc::c_long) -> io::Result<i64> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Waits for a notification. Blocks; `EINTR` when a signal comes, `ENOENT` when the caller went away meanwhile.
pub fn receive(listener: BorrowedFd<'_>) -> io::Result<Notification> {
    let mut notification = Notification::default();
    // SAFETY: the pointer is to a zeroed structure of the size that the request number says.
    let result = unsafe { libc::ioctl(listener.as_raw_fd(), NOTIF_RECV, &raw mut notification) };
    check(result.into()).map(|_| notification)
}

fn send(listener: BorrowedFd<'_>, answer: &Answer) -> io::Result<()> {
    // SAFETY: as above; the host only reads the structure.
    let result = unsafe { libc::ioctl(listener.as_raw_fd(), NOTIF_SEND, answer) };
    check(result.into()).map(drop)
}

/// `false` instead of the error by which the host says that nobody waits in a notification any more: a signal, or who stops tasks, was faster.
fn if_there(result: io::Result<()>) -> io::Result<bool> {
    match result {
        Err(e) if e.raw_os_error() == Some(libc::ENOENT) => Ok(false),
        other => other.map(|()| true),
    }
}

/// Answers a notification: the call returns `value`, which may be a negative errno. Whether anybody waited in it.
pub fn answer(listener: BorrowedFd<'_>, id: u64, value: u64) -> io::Result<bool> {
    // The host takes errors in a field of their own, but a "value" that looks like one is passed through as it is.
    if_there(send(listener, &Answer { id, val: value as i64, error: 0, flags: 0 }))
}

/// Puts a descriptor into the table of who waits in a notification, under this number. Whether anybody did.
pub fn add_fd(listener: BorrowedFd<'_>, id: u64, file: BorrowedFd<'_>, number: i32) -> io::Result<bool> {
    let add = AddFd {
        id,
        flags: ADDFD_FLAG_SETFD,
        srcfd: file.as_raw_fd() as u32,
        newfd: number as u32,
        newfd_flags: libc::O_CLOEXEC as u32,
    };
    // SAFETY: as above; the host only reads the structure.
    let result = unsafe { libc::ioctl(listener.as_raw_fd(), NOTIF_ADDFD, &raw const add) };
    if_there(check(result.into()).map(drop))
}

/// Tells the host that caller and owner share a CPU. A hint: hosts before 6.6 do not know it.
pub fn set_sync_wake_up(listener: BorrowedFd<'_>) {
    // SAFETY: the request takes a number, no pointer.
    unsafe { libc::ioctl(listener.as_raw_fd(), NOTIF_SET_FLAGS, FD_SYNC_WAKE_UP) };
}

/// Sends a signal to a process that this crate made and has not reaped.
pub fn kill(pid: i32, signo: i32) {
    // SAFETY: no pointers; the caller has not reaped the process, so the id can't be someone else's.
    unsafe { libc::kill(pid, signo) };
}

/// CPU time that a process has used, to the host's last tick; 0 when there is no such process.
pub fn cpu_time_ns(pid: i32) -> u64 {
    // `CPUCLOCK_SCHED` of a process, as `clock_getcpuclockid(3)` makes it.
    let clock = (!pid << 3) | 2;
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is writable for the call.
    if unsafe { libc::clock_gettime(clock, &mut time) } != 0 {
        return 0;
    }
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// How long a task has waited for a CPU while it could run, in nanoseconds, without the wait that has not ended yet (`/proc/PID/schedstat`); 0 where the host does not count that.
pub fn waited_for_cpu_ns(pid: i32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/schedstat")).unwrap_or_default();
    text.split_ascii_whitespace().nth(1).and_then(|word| word.parse().ok()).unwrap_or(0)
}

/// Waits for the end of a child that was killed.
pub fn reap(pid: i32) {
    loop {
        // SAFETY: a null status pointer is allowed.
        let result = unsafe { libc::waitpid(pid, std::ptr::null_mut(), libc::__WALL) };
        if result >= 0 || io::Error::last_os_error().raw_os_error() != Some(libc::EINTR) {
            return;
        }
    }
}

/// How a child has ended, if it has, without reaping it; `Err` when it is no child any more.
fn end_of_child(pid: i32) -> io::Result<libc::siginfo_t> {
    let mut info: libc::siginfo_t = zeroed_siginfo();
    let flags = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT | libc::__WALL;
    // SAFETY: the pointer is to a whole siginfo_t.
    let result = unsafe { libc::waitid(libc::P_PID, pid as libc::id_t, &raw mut info, flags) };
    check(result.into()).map(|_| info)
}

/// Whether a child has ended, without reaping it.
pub fn has_ended(pid: i32) -> bool {
    // SAFETY: waitid filled the structure in as for SIGCHLD, or left the zeros.
    end_of_child(pid).map_or(true, |info| unsafe { info.si_pid() } != 0)
}

/// The signal that has ended a child, without reaping it.
pub fn killed_by(pid: i32) -> Option<i32> {
    let info = end_of_child(pid).ok()?;
    let killed = [libc::CLD_KILLED, libc::CLD_DUMPED].contains(&info.si_code);
    // SAFETY: waitid filled the structure in as for SIGCHLD, or left the zeros, which is no such code.
    killed.then(|| unsafe { info.si_status() })
}

/// Blocks until a child has stopped itself (`SIGSTOP`), or ended (then false).
pub fn wait_stopped(pid: i32) -> bool {
    loop {
        let mut info: libc::siginfo_t = zeroed_siginfo();
        let flags = libc::WSTOPPED | libc::WEXITED | libc::WNOWAIT | libc::__WALL;
        // SAFETY: the pointer is to a whole siginfo_t.
        let result = unsafe { libc::waitid(libc::P_PID, pid as libc::id_t, &raw mut info, flags) };
        if result == 0 {
            return info.si_code == libc::CLD_STOPPED;
        }
        if io::Error::last_os_error().raw_os_error() != Some(libc::EINTR) {
            return false;
        }
    }
}

fn zeroed_siginfo() -> libc::siginfo_t {
    // SAFETY: siginfo_t is plain data for which zeros are valid.
    unsafe { std::mem::zeroed() }
}

/// Gives a task the CPUs that the calling thread has.
pub fn share_cpus(pid: i32) {
    // SAFETY: the set is plain data, the calls read and write it whole.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        if libc::sched_getaffinity(0, size_of_val(&set), &raw mut set) == 0 {
            libc::sched_setaffinity(pid, size_of_val(&set), &raw const set);
        }
    }
}

/// The host CPUs that the calling thread may use; none when the host does not say.
pub fn own_cpus() -> Vec<usize> {
    // SAFETY: the set is plain data, written whole; CPU_ISSET checks the index.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::sched_getaffinity(0, size_of_val(&set), &raw mut set);
        (0..libc::CPU_SETSIZE as usize).filter(|&cpu| libc::CPU_ISSET(cpu, &set)).collect()
    }
}

/// Has a task, or the calling thread if `pid` is 0, run on these host CPUs only. Where the host refuses, it stays as it is.
pub fn use_cpus(pid: i32, cpus: impl Iterator<Item = usize>) {
    // SAFETY: as above.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        cpus.for_each(|cpu| libc::CPU_SET(cpu, &mut set));
        libc::sched_setaffinity(pid, size_of_val(&set), &raw const set);
    }
}

/// Binds a task to one CPU.
pub fn bind(pid: i32, cpu: usize) {
    use_cpus(pid, std::iter::once(cpu));
}

/// The CPU that the calling thread is on.
pub fn current_cpu() -> usize {
    // SAFETY: no arguments.
    usize::try_from(unsafe { libc::sched_getcpu() }).unwrap_or(0)
}

/// Has the host's scheduler take short slices for the calling thread and what it starts, which costs nothing while nobody else wants its CPU. Who yields loses a slice, and
/// should not lose much: owners and runners yield to each other. A thread under a real-time policy, or on a host that does not know how (before Linux 6.12), stays as it is.
pub fn use_short_slices() {
    const SLICE_NS: u64 = 100_000;
    // SAFETY: the structure is plain data, written and read with its size.
    unsafe {
        let mut attr: libc::sched_attr = std::mem::zeroed();
        let len = size_of_val(&attr);
        if libc::syscall(libc::SYS_sched_getattr, 0, &raw mut attr, len, 0) == 0
            && attr.sched_policy == libc::SCHED_OTHER as u32
        {
            attr.sched_runtime = SLICE_NS;
            libc::syscall(libc::SYS_sched_setattr, 0, &raw const attr, 0);
        }
    }
}

/// The lower half of the time-stamp counter.
pub fn cycles() -> u32 {
    // SAFETY: there is one on every x86-64; the host lets everybody read it, as its vDSO does.
    unsafe { std::arch::x86_64::_rdtsc() as u32 }
}

/// Leaves the CPU to another task.
pub fn yield_cpu() {
    // SAFETY: no arguments.
    unsafe { libc::sched_yield() };
}

/// Whether a notification can be received without blocking, or never will be.
pub fn is_ready(listener: BorrowedFd<'_>) -> bool {
    let mut poll = libc::pollfd { fd: listener.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: one pollfd.
    unsafe { libc::poll(&raw mut poll, 1, 0) > 0 }
}

/// The same, or it became so within this time.
pub fn is_ready_within(listener: BorrowedFd<'_>, time: Duration) -> bool {
    let mut poll = libc::pollfd { fd: listener.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: one pollfd.
    unsafe { libc::poll(&raw mut poll, 1, time.as_millis() as libc::c_int) > 0 }
}

/// Whether a task sleeps although this signal is pending, which is to say that it blocks it; false when there is no such task.
pub fn sleeps_through(pid: i32, signo: i32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let field =
        |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().trim();
    let pending = |name| u64::from_str_radix(field(name), 16).is_ok_and(|set| set >> (signo - 1) & 1 == 1);
    field("State:").starts_with('S') && (pending("SigPnd:") || pending("ShdPnd:"))
}

/// Whether something was ever written to a piece of a memory file.
pub fn has_data(file: &impl AsRawFd, range: Range<u64>) -> bool {
    // SAFETY: no pointers. The file's position is of no use to anybody.
    let data = unsafe { libc::lseek(file.as_raw_fd(), range.start as libc::off_t, libc::SEEK_DATA) };
    u64::try_from(data).is_ok_and(|data| data < range.end)
}

/// Gives a piece of a memory file back to the host; it reads as zeros.
pub fn punch_hole(file: &impl AsRawFd, range: Range<u64>) {
    let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    let (start, len) = (range.start as libc::off_t, (range.end - range.start) as libc::off_t);
    // SAFETY: no pointers. It does not fail for memory files.
    unsafe { libc::fallocate(file.as_raw_fd(), mode, start, len) };
}

/// Where `clock_gettime` is in the vDSO, from its start.
pub fn vdso_clock() -> Option<u64> {
    // SAFETY: the names are C strings; nothing is loaded, and the vDSO stays for good.
    unsafe {
        let base = libc::getauxval(libc::AT_SYSINFO_EHDR);
        let vdso = libc::dlopen(c"linux-vdso.so.1".as_ptr(), libc::RTLD_LAZY | libc::RTLD_NOLOAD);
        if base == 0 || vdso.is_null() {
            return None;
        }
        (libc::dlsym(vdso, c"__vdso_clock_gettime".as_ptr()) as u64).checked_sub(base)
    }
}

/// Guards in page tables (`madvise(2)`, Linux 6.13, for shared memory 6.15): whoever reaches for such a page gets a signal.
pub const MADV_GUARD_INSTALL: libc::c_int = 102;
/// See [`MADV_GUARD_INSTALL`].
pub const MADV_GUARD_REMOVE: libc::c_int = 103;

/// Whether shared mappings of a memory file can have them.
pub fn has_guards(file: &impl AsRawFd) -> bool {
    const LEN: usize = 4096;
    // SAFETY: a fresh mapping at an address that the host chooses, which nobody else knows, and which goes at once.
    unsafe {
        let rights = libc::PROT_READ | libc::PROT_WRITE;
        let at = libc::mmap(std::ptr::null_mut(), LEN, rights, libc::MAP_SHARED, file.as_raw_fd(), 0);
        if at == libc::MAP_FAILED {
            return false;
        }
        let guarded = libc::madvise(at, LEN, MADV_GUARD_INSTALL) == 0;
        libc::munmap(at, LEN);
        guarded
    }
}

/// A memory file. Executable mappings of it are allowed, where the host makes a difference.
pub fn memory_file(name: &std::ffi::CStr) -> io::Result<OwnedFd> {
    const MFD_EXEC: u32 = 0x10;
    for flags in [libc::MFD_CLOEXEC | MFD_EXEC, libc::MFD_CLOEXEC] {
        // SAFETY: the name is a C string.
        let fd = unsafe { libc::memfd_create(name.as_ptr(), flags) };
        if fd >= 0 {
            // SAFETY: the descriptor is new and ours.
            return Ok(unsafe { OwnedFd::from_raw_fd(fd) });
        }
    }
    Err(io::Error::last_os_error())
}

/// A pair of connected sockets that keep message boundaries.
pub fn socket_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut fds = [0 as RawFd; 2];
    // SAFETY: the array has room for two descriptors.
    let result = unsafe {
        libc::socketpair(libc::AF_UNIX, libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC, 0, fds.as_mut_ptr())
    };
    check(result.into())?;
    // SAFETY: both descriptors are new and ours.
    Ok(unsafe { (OwnedFd::from_raw_fd(fds[0]), OwnedFd::from_raw_fd(fds[1])) })
}

/// Sends an order: eight bytes.
pub fn order(socket: BorrowedFd<'_>) -> io::Result<()> {
    let word = [0u8; 8];
    // SAFETY: the buffer has eight bytes; a gone peer is an error, not a signal.
    let sent = unsafe { libc::send(socket.as_raw_fd(), word.as_ptr().cast(), 8, libc::MSG_NOSIGNAL) };
    check(sent as libc::c_long).map(drop)
}

/// Waits until an order has been carried out, which as many bytes say.
pub fn carried_out(socket: BorrowedFd<'_>) -> io::Result<()> {
    let mut word = [0u8; 8];
    loop {
        // SAFETY: the buffer has eight bytes.
        let got = unsafe { libc::recv(socket.as_raw_fd(), word.as_mut_ptr().cast(), 8, 0) };
        match check(got as libc::c_long) {
            Ok(8) => return Ok(()),
            Ok(_) => return Err(io::Error::other("the zygote is gone")),
            Err(e) if e.raw_os_error() == Some(libc::EINTR) => {}
            Err(e) => return Err(e),
        }
    }
}

/// Takes a descriptor that process `from`, or one that it makes, sends, and the byte with it. Fails with `EAGAIN` when it ends instead: the host had no room.
pub fn receive_fd(socket: BorrowedFd<'_>, from: i32) -> io::Result<(u8, OwnedFd)> {
    const LOOK_MS: libc::c_int = 50;
    let mut poll = libc::pollfd { fd: socket.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    loop {
        // SAFETY: one pollfd.
        match check(unsafe { libc::poll(&raw mut poll, 1, LOOK_MS) }.into()) {
            Ok(0) if has_ended(from) => return Err(io::Error::from_raw_os_error(libc::EAGAIN)),
            Ok(0) => {}
            Ok(_) => break,
            Err(e) if e.raw_os_error() == Some(libc::EINTR) => {}
            Err(e) => return Err(e),
        }
    }
    let mut byte = [0u8; 1];
    let mut control = [0u64; 4];
    let mut iov = libc::iovec { iov_base: byte.as_mut_ptr().cast(), iov_len: 1 };
    // SAFETY: all zeros is a valid msghdr.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut iov;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = size_of_val(&control);
    // SAFETY: the message points to live buffers of the lengths that it says.
    let got = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, libc::MSG_CMSG_CLOEXEC) };
    check(got as libc::c_long)?;
    // SAFETY: the message was filled in by recvmsg.
    let header = unsafe { libc::CMSG_FIRSTHDR(&raw const message) };
    if header.is_null() {
        return Err(io::Error::other("a message without a descriptor"));
    }
    // SAFETY: the header lies in `control`; SCM_RIGHTS data is a descriptor number that is ours now.
    unsafe {
        if (*header).cmsg_level != libc::SOL_SOCKET || (*header).cmsg_type != libc::SCM_RIGHTS {
            return Err(io::Error::other("a message without a descriptor"));
        }
        let fd = libc::CMSG_DATA(header).cast::<RawFd>().read_unaligned();
        Ok((byte[0], OwnedFd::from_raw_fd(fd)))
    }
}

/// Whether the CPU has `XSAVEOPT`; that it has `XSAVE`, and the host uses it, must be known. Under a hypervisor each `cpuid` takes as long as twenty system
/// calls, and the standard library's look at all features takes ten of them; so it is asked once.
pub(crate) fn has_xsaveopt() -> bool {
    use std::arch::x86_64::{__cpuid, __cpuid_count};
    const XSAVE_LEAF: u32 = 0xd;
    static HAS: OnceLock<bool> = OnceLock::new();
    *HAS.get_or_init(|| __cpuid(0).eax >= XSAVE_LEAF && __cpuid_count(XSAVE_LEAF, 1).eax & 1 != 0)
}
