//! Children of a case, how they end, and gates between them.

use super::sys;
use super::{E, R, Stop};
use std::ffi::{CStr, CString};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI32, Ordering};

/// Exit status of a child whose own checks failed; the reason went to the runner.
const FAILED: i32 = 99;

/// Where a case and its children tell the runner what went wrong.
pub static REPORT: AtomicI32 = AtomicI32::new(-1);

/// Writes one verdict (`F` or `S` and the reason) to the runner.
pub fn report(stop: &Stop) {
    let (kind, why) = match stop {
        Stop::Fail(why) => ('F', why),
        Stop::Skip(why) => ('S', why),
    };
    let line: String = format!("{kind}{}\n", why.replace('\n', " / ")).chars().take(1000).collect();
    let _ = sys::write(REPORT.load(Ordering::Relaxed), line.as_bytes());
}

/// Ends the process at once, without running anything of libc.
pub fn exit(code: i32) -> ! {
    loop {
        let _ = sc!(SYS_exit_group, code);
    }
}

/// A process that the case started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Child {
    pub pid: i32,
}

/// Forks; the child runs `body` and exits 0, or reports its failure.
pub fn child(body: impl FnOnce() -> R) -> Result<Child, E> {
    fork(|| match body() {
        Ok(()) => 0,
        Err(stop) => {
            report(&stop);
            FAILED
        }
    })
}

/// Forks; the child exits with what `body` returns.
pub fn fork(body: impl FnOnce() -> i32) -> Result<Child, E> {
    // SAFETY: cases fork from the process's only thread, or the child keeps to system calls.
    match unsafe { libc::fork() } {
        -1 => Err(sys::last()),
        0 => exit(body()),
        pid => Ok(Child { pid }),
    }
}

impl Child {
    /// Waits for the end of the child.
    pub fn wait(self) -> Result<Status, E> {
        wait4(self.pid, 0).map(|(_, status)| status)
    }

    /// Waits, and fails the case unless the child found all well.
    pub fn ok(self) -> R {
        match self.wait()? {
            Status::Exited(0) => Ok(()),
            other => Err(Stop::Fail(format!("child: {other:?}"))),
        }
    }

    pub fn kill(self, sig: i32) -> Result<(), E> {
        sys::kill(self.pid, sig)
    }

    /// Waits for the child to sleep in the kernel. For a child that has one place left to block in.
    pub fn asleep(self) -> R {
        asleep(self.pid, self.pid)
    }
}

/// Waits until a thread sleeps in the kernel.
pub fn asleep(pid: i32, tid: i32) -> R {
    loop {
        match state(pid, tid)? {
            'S' => return Ok(()),
            'Z' | 'X' => fail!("task {tid} ended before it slept"),
            _ => drop(sc!(SYS_nanosleep, &sys::ts(sys::MS / 4), 0)),
        }
    }
}

/// The state letter of a thread, from /proc.
pub fn state(pid: i32, tid: i32) -> R<char> {
    let path = cstring(format!("/proc/{pid}/task/{tid}/stat"));
    let stat = sys::text(&path)?;
    let Some(state) = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next()) else {
        fail!("/proc stat line {stat:?}")
    };
    Ok(state)
}

/// A path or argument made at run time.
pub fn cstring(s: impl Into<Vec<u8>>) -> CString {
    CString::new(s).unwrap_or_default()
}

/// A wait status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    Exited(i32),
    Killed(i32),
    Stopped(i32),
    Continued,
}

impl From<i32> for Status {
    fn from(s: i32) -> Self {
        if s == 0xffff {
            Status::Continued
        } else if s & 0xff == 0x7f {
            Status::Stopped(s >> 8 & 0xff)
        } else if s & 0x7f == 0 {
            Status::Exited(s >> 8 & 0xff)
        } else {
            Status::Killed(s & 0x7f)
        }
    }
}

/// (pid, status); pid 0 with WNOHANG and nothing to tell.
pub fn wait4(pid: i32, options: i32) -> Result<(i32, Status), E> {
    let mut status = 0i32;
    let got = sc!(SYS_wait4, pid, &mut status, options, 0)?;
    Ok((got as i32, Status::from(status)))
}

/// A gate that one process opens for another, made of a pipe.
#[derive(Clone, Copy)]
pub struct Gate(i32, i32);

impl Gate {
    pub fn new() -> Result<Gate, E> {
        sys::pipe(0).map(|(r, w)| Gate(r, w))
    }

    /// Lets one pass.
    pub fn open(self) -> Result<(), E> {
        sys::write(self.1, b"x").map(drop)
    }

    /// The descriptor that `pass` reads.
    pub fn reader(self) -> i32 {
        self.0
    }

    /// Blocks until it is opened.
    pub fn pass(self) -> R {
        eq!(sys::read(self.0, &mut [0])?, 1);
        Ok(())
    }
}

/// The path of this program, for cases that execute it (see `helper`).
pub static EXE: OnceLock<CString> = OnceLock::new();

pub fn exe() -> &'static CStr {
    EXE.get_or_init(|| {
        let path = std::env::current_exe().unwrap_or_else(|_| "/proc/self/exe".into());
        cstring(path.into_os_string().into_encoded_bytes())
    })
}

/// A vector of C strings with its closing null, as execve takes it.
pub struct Argv {
    _strings: Vec<CString>,
    pointers: Vec<usize>,
}

impl Argv {
    pub fn new<S: AsRef<[u8]>>(args: impl IntoIterator<Item = S>) -> Argv {
        let strings: Vec<CString> = args.into_iter().map(|s| cstring(s.as_ref())).collect();
        let pointers = strings.iter().map(|s| s.as_ptr() as usize).chain([0]).collect();
        Argv { _strings: strings, pointers }
    }

    pub fn ptr(&self) -> *const usize {
        self.pointers.as_ptr()
    }
}

/// Executes `path`; returns only with the errno.
pub fn execve(path: &CStr, args: &[&str], env: &[&str]) -> E {
    let (argv, envp) = (Argv::new(args), Argv::new(env));
    match sc!(SYS_execve, path, argv.ptr(), envp.ptr()) {
        Err(e) => e,
        Ok(_) => E(0),
    }
}

/// Executes this program as the named helper; returns only with the errno.
pub fn exec_helper(args: &[&str], env: &[&str]) -> E {
    let all: Vec<&str> = ["abi-tests", "--helper"].into_iter().chain(args.iter().copied()).collect();
    execve(exe(), &all, env)
}

/// Runs `body` in a child with its standard output in a pipe; what it wrote and how it ended.
pub fn captured(body: impl FnOnce() -> R) -> R<(Vec<u8>, Status)> {
    let (r, w) = sys::pipe(libc::O_CLOEXEC)?;
    let child = child(|| {
        sc!(SYS_dup2, w, 1)?;
        sys::close(w)?;
        sys::close(r)?;
        body()
    })?;
    sys::close(w)?;
    let out = sys::drain(r)?;
    sys::close(r)?;
    Ok((out, child.wait()?))
}
