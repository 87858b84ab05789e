//! The zygote: the process that address spaces are forked from. It never runs guest code.
//!
//! It is started without copying the owner's memory: until it executes its own program it runs in that, on a stack of its own, while the owner waits.

use crate::area::Area;
use crate::engine::SIGNALS;
use crate::layout::{self, fd};
use crate::stub::{self, data};
use crate::sys;
use std::ffi::{CString, c_void};
use std::fs;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::ptr;

/// How many descriptors the zygote starts with besides the standard ones.
const SOURCES: usize = 5;
/// Stack that it starts on.
const STACK_LEN: usize = 32 << 10;

/// A running zygote.
pub(crate) struct Zygote {
    pub pid: i32,
    page: Area,
    orders: OwnedFd,
}

/// What its first steps need.
struct Start {
    sources: [(i32, i32); SOURCES],
    parent: u32,
    path: CString,
    /// Why it could not start.
    errno: i32,
}

impl Zygote {
    /// Starts one, on the caller's host CPU: the two wait for each other, and to wake another CPU each time takes longer than all else. It is to be
    /// settled before anything else. `cpus` are the caller's.
    pub(crate) fn start(
        ram: &OwnedFd,
        control: &OwnedFd,
        hand_over: &OwnedFd,
        cpus: &[usize],
    ) -> io::Result<Zygote> {
        let program = sys::memory_file(c"vmspace-stub")?;
        fs::File::from(program.try_clone()?).write_all(&stub::program_file())?;
        let (orders, its_orders) = sys::socket_pair()?;
        let sources = [
            (ram.as_raw_fd(), fd::RAM),
            (control.as_raw_fd(), fd::CONTROL),
            (its_orders.as_raw_fd(), fd::ORDERS),
            (hand_over.as_raw_fd(), fd::HAND_OVER),
            (program.as_raw_fd(), fd::LISTENER),
        ];
        let path = CString::new(format!("/proc/self/fd/{}", fd::LISTENER))?;
        let mut start = Start { sources, parent: std::process::id(), path, errno: 0 };
        const SELF: i32 = 0;
        // Nothing to choose from, or nobody knows what.
        let several = cpus.len() > 1;
        if several {
            sys::bind(SELF, sys::current_cpu());
        }
        let pid = spawn(&mut start);
        if several {
            sys::use_cpus(SELF, cpus.iter().copied());
        }
        let pid = pid.map_err(|e| {
            io::Error::new(e.kind(), format!("can't start the address-space helper: {e} (is /proc mounted?)"))
        })?;
        Ok(Zygote { pid, page: Area::map(control.as_fd(), 0, 4096)?, orders })
    }

    /// Has the zygote make these calls and returns their results.
    fn call(&self, calls: &[[u64; 7]]) -> io::Result<Vec<i64>> {
        let mut results = Vec::new();
        for chunk in calls.chunks(32) {
            self.order(chunk)?;
            sys::carried_out(self.orders.as_fd())?;
            results.extend((0..chunk.len()).map(|i| self.result(i)));
        }
        Ok(results)
    }

    fn order(&self, calls: &[[u64; 7]]) -> io::Result<()> {
        self.page.store(16, calls.len() as u64);
        for (i, call) in calls.iter().enumerate() {
            for (j, word) in call.iter().enumerate() {
                self.page.store(64 + i * 64 + j * 8, *word);
            }
        }
        sys::order(self.orders.as_fd())
    }

    fn result(&self, i: usize) -> i64 {
        self.page.load(64 + i * 64 + 56) as i64
    }

    /// Has it begin to make an address space whose part of the control memory starts there. [`Zygote::mother`] comes next.
    pub(crate) fn begin_space(&self, offset: u64) -> io::Result<()> {
        const MAKE: u64 = -2i64 as u64;
        self.order(&[[MAKE, offset, u64::from(std::process::id()), 0, 0, 0, 0]])
    }

    /// Waits for the mother of the address space that was begun.
    pub(crate) fn mother(&self) -> io::Result<i32> {
        sys::carried_out(self.orders.as_fd())?;
        let pid = self.result(0);
        if pid < 0 { Err(io::Error::from_raw_os_error(-pid as i32)) } else { Ok(pid as i32) }
    }

    /// After its start: moves the vDSO, empties everything below the stub region, sets what all address spaces inherit. Returns the
    /// vDSO's address.
    pub(crate) fn settle(&self) -> io::Result<Option<u64>> {
        // The first order is empty: when it is answered, the zygote runs from the text.
        self.call(&[[libc::SYS_getpid as u64, 0, 0, 0, 0, 0, 0]])?;
        let maps = fs::read_to_string(format!("/proc/{}/maps", self.pid))?;
        let mut regions = Vec::new();
        for line in maps.lines().filter(|l| l.contains("[vvar") || l.ends_with("[vdso]")) {
            let range = line.split(' ').next().and_then(|r| r.split_once('-'));
            let parse = |s: &str| u64::from_str_radix(s, 16).map_err(io::Error::other);
            if let Some((start, end)) = range {
                regions.push((parse(start)?, parse(end)?, line.ends_with("[vdso]")));
            }
        }
        let low = regions.iter().map(|r| r.0).min().unwrap_or(0);
        let mut calls: Vec<[u64; 7]> = Vec::new();
        for &(start, end, _) in &regions {
            const MAYMOVE_FIXED: u64 = 3;
            let len = end - start;
            calls.push([
                libc::SYS_mremap as u64,
                start,
                len,
                len,
                MAYMOVE_FIXED,
                layout::VDSO + (start - low),
                0,
            ]);
        }
        let moves = calls.len();
        calls.push([libc::SYS_munmap as u64, 0, layout::REGION, 0, 0, 0, 0]);
        let dont_fork = libc::MADV_DONTFORK as u64;
        calls.push([libc::SYS_madvise as u64, layout::ZYGOTE_PAGE, 4096, dont_fork, 0, 0, 0]);
        calls.push([libc::SYS_prctl as u64, libc::PR_SET_NO_NEW_PRIVS as u64, 1, 0, 0, 0, 0]);
        calls.push([
            libc::SYS_setrlimit as u64,
            u64::from(libc::RLIMIT_CORE),
            layout::TEXT + data::RLIMIT,
            0,
            0,
            0,
            0,
        ]);
        for signo in SIGNALS {
            let action = layout::TEXT + data::SIGACTION;
            calls.push([libc::SYS_rt_sigaction as u64, signo as u64, action, 0, 8, 0, 0]);
        }
        // Standard input and output stay (as /dev/null): the number of the program file is the lowest free one from now on.
        calls.push([libc::SYS_close as u64, fd::LISTENER as u64, 0, 0, 0, 0, 0]);
        let results = self.call(&calls)?;
        let moved = results.iter().take(moves).all(|&r| r >= 0);
        if let Some(failed) = results.iter().skip(moves).position(|&r| r < 0) {
            let errno = io::Error::from_raw_os_error(-results[moves + failed] as i32);
            return Err(io::Error::other(format!(
                "can't set up the address-space helper (step {failed}): {errno}"
            )));
        }
        Ok(regions.iter().find(|r| r.2 && moved).map(|r| layout::VDSO + (r.0 - low)))
    }

    /// Has it end.
    pub(crate) fn begin_to_end(&self) {
        sys::kill(self.pid, libc::SIGKILL);
    }
}

impl Drop for Zygote {
    fn drop(&mut self) {
        self.begin_to_end();
        sys::reap(self.pid);
    }
}

/// Starts a process that shares memory with this one until it executes its program. Signals wait meanwhile: their handlers are not for it.
fn spawn(start: &mut Start) -> io::Result<i32> {
    let mut stack = vec![0u128; STACK_LEN / size_of::<u128>()];
    // SAFETY: the sets are plain data, written before they are read. The new process has a stack of its own, whose end is given, and this thread does not
    // go on before it has executed a program or ended, so stack and `start` are there as long as it needs them; it makes system calls only.
    unsafe {
        let (mut all, mut before): (libc::sigset_t, libc::sigset_t) =
            (std::mem::zeroed(), std::mem::zeroed());
        libc::sigfillset(&raw mut all);
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, &raw mut before);
        let top = stack.as_mut_ptr_range().end.cast::<c_void>();
        let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
        let pid = libc::clone(first_steps, top, flags, ptr::from_mut(start).cast());
        let error = io::Error::last_os_error();
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const before, ptr::null_mut());
        if pid < 0 {
            return Err(error);
        }
        // The other process wrote there.
        let errno = ptr::from_ref(&start.errno).read_volatile();
        if errno != 0 {
            sys::reap(pid);
            return Err(io::Error::from_raw_os_error(errno));
        }
        Ok(pid)
    }
}

extern "C" fn first_steps(start: *mut c_void) -> libc::c_int {
    // SAFETY: what `spawn` has passed, which nobody else uses meanwhile.
    let start = unsafe { &mut *start.cast::<Start>() };
    let error = match prepare(&start.sources, start.parent) {
        Ok(()) => {
            let arguments = [c"vmspace".as_ptr(), ptr::null()];
            // SAFETY: C strings and lists that end with a null pointer.
            unsafe { libc::execve(start.path.as_ptr(), arguments.as_ptr(), arguments[1..].as_ptr()) };
            io::Error::last_os_error()
        }
        Err(error) => error,
    };
    start.errno = error.raw_os_error().unwrap_or(libc::EINVAL);
    1
}

/// Descriptors into their places, everything else closed, in a process group that the terminal's signals do not reach. Not in a session: where those are
/// scheduled as groups (`autogroup`, `sched(7)`), owner and runners could not leave the CPU to each other.
fn prepare(sources: &[(i32, i32); SOURCES], parent: u32) -> io::Result<()> {
    const OUT_OF_THE_WAY: i32 = 100;
    let check = |result: i32| if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) };
    // SAFETY: system calls on descriptors that exist; the pointers are to C strings and to structures of this function.
    unsafe {
        libc::setpgid(0, 0);
        sys::use_short_slices();
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
        if libc::getppid() as u32 != parent {
            libc::_exit(1);
        }
        check(libc::chdir(c"/".as_ptr()))?;
        // To numbers that nobody has: the process may have opened any.
        let mut aside = [0; SOURCES];
        for (aside, &(from, _)) in aside.iter_mut().zip(sources) {
            *aside = check(libc::fcntl(from, libc::F_DUPFD, OUT_OF_THE_WAY))?;
        }
        let null = check(libc::open(c"/dev/null".as_ptr(), libc::O_RDWR))?;
        for to in 0..=2 {
            check(libc::dup2(null, to))?;
        }
        for (&aside, &(_, to)) in aside.iter().zip(sources) {
            check(libc::dup2(aside, to))?;
        }
        libc::syscall(libc::SYS_close_range, fd::LISTENER + 1, libc::c_int::MAX, 0);
        for signo in 1..=64 {
            libc::signal(signo, libc::SIG_DFL);
        }
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const none, ptr::null_mut());
    }
    Ok(())
}
