//! Who starts the attackers and sees that nobody else is hurt.

use crate::Options;
use crate::attacks::warm_up;
use crate::stub::Hidden;
use crate::sys;
use crate::victim::{self, Board};
use std::cell::RefCell;
use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// How a child ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// By itself, with this status.
    Exited(i32),
    /// By this signal.
    Killed(i32),
    /// By the warden, because its time was up.
    TimeUp,
}

impl End {
    fn of(status: i32) -> End {
        if libc::WIFEXITED(status) {
            End::Exited(libc::WEXITSTATUS(status))
        } else {
            End::Killed(libc::WTERMSIG(status))
        }
    }
}

/// The users that attackers are.
const FIRST_UID: u32 = 20000;
/// How long a process may live after SIGKILL.
const DEATH: Duration = Duration::from_secs(10);
/// How long the victim may take for one more round.
const PULSE: Duration = Duration::from_secs(10);
/// What may be missing in a count of memory afterwards, in KiB: caches.
const SLACK: u64 = 24 << 10;
/// The user's limits of processes, of descriptors.
const PROCESSES: u64 = 40;
const FILES: u64 = 256;

/// The first process.
pub struct Warden {
    /// What was asked for.
    pub options: Options,
    /// What this address space hides; children have it in the same places.
    pub hidden: Hidden,
    board: &'static Board,
    victim: i32,
    uid: u32,
    free_kib: u64,
    begun: Instant,
    ends: Vec<(End, u64)>,
    /// Children that have been waited for, and nobody has asked for yet.
    ended: RefCell<HashMap<i32, End>>,
}

impl Warden {
    /// Starts the victim.
    pub fn new(options: Options) -> Result<Warden, String> {
        if unsafe { libc::geteuid() } != 0 {
            return Err("attackers are other users: start it as root".into());
        }
        unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1) };
        // When memory is full, others go: the victim is no less guarded than a service would be.
        let _ = fs::write("/proc/self/oom_score_adj", "-1000");
        // Children inherit what has been patched.
        warm_up();
        let dir = "/tmp/vk-attack";
        fs::create_dir_all(dir).map_err(|e| format!("{dir}: {e}"))?;
        // The end of a child is a signal that is taken, not handled.
        unsafe {
            let mut set: libc::sigset_t = std::mem::zeroed();
            libc::sigaddset(&raw mut set, libc::SIGCHLD);
            libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut());
        }
        let board: &'static Board = unsafe { &*sys::pages(4096, true).cast() };
        let (seed, path) = (options.seed, format!("{dir}/victim"));
        let victim = sys::fork(|| {
            unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
            victim::run(board, seed, &path)
        })?;
        println!("protected {} {}", std::process::id(), victim);
        let hidden = find_hidden()?;
        let pages = hidden.pages.len();
        println!("hidden: {pages} pages, {} writable", hidden.writable().len());
        let gates =
            sys::maps().into_iter().filter(|a| a.name.contains("gates")).map(|a| (a.end - a.start) / 4096);
        println!("gates: {} pages", gates.sum::<u64>());
        let mut warden = Warden {
            options,
            hidden,
            board,
            victim,
            uid: FIRST_UID,
            free_kib: 0,
            begun: Instant::now(),
            ends: Vec::new(),
            ended: RefCell::default(),
        };
        warden.pulse()?;
        warden.free_kib = free_kib();
        Ok(warden)
    }

    /// A new kind of attack.
    pub fn begin(&mut self, name: &str) {
        self.uid += 1;
        self.begun = Instant::now();
        self.ends.clear();
        println!("attack {name} seed {}", self.options.seed);
    }

    /// How long the present attack may go on.
    pub fn time(&self) -> Duration {
        Duration::from_millis(self.options.ms)
    }

    /// More time: what has passed counts no longer.
    pub fn restart(&mut self) {
        self.begun = Instant::now();
    }

    /// How long it has been going on.
    pub fn elapsed(&self) -> Duration {
        self.begun.elapsed()
    }

    /// Starts an attacker: a user without rights, with nothing open but what an attack can use.
    pub fn start(&self, body: impl FnOnce() -> i32) -> Result<i32, String> {
        self.start_as(self.uid, body)
    }

    /// The first of some users that nobody else is.
    pub fn users(&mut self, count: u32) -> u32 {
        let first = self.uid + 1;
        self.uid += count;
        first
    }

    /// The same as another user.
    pub fn start_as(&self, uid: u32, body: impl FnOnce() -> i32) -> Result<i32, String> {
        self.fork(|| {
            disarm(uid);
            body()
        })
    }

    /// A child that does not have what warden and victim share.
    fn fork(&self, body: impl FnOnce() -> i32) -> Result<i32, String> {
        let board = self.board as *const Board as u64;
        let pid = sys::fork(|| {
            sys::call(libc::SYS_munmap, [board, 4096, 0, 0, 0, 0]);
            body()
        })?;
        self.ended.borrow_mut().remove(&pid);
        Ok(pid)
    }

    /// Starts one with the limits that the kernel begins with.
    pub fn start_greedy(&self, body: impl FnOnce() -> i32) -> Result<i32, String> {
        let uid = self.uid;
        self.fork(|| {
            disarm_with(uid, &[]);
            body()
        })
    }

    /// Waits until a child stops itself; its end, if it ends instead.
    pub fn await_stop(&self, pid: i32, limit: Duration) -> Result<Option<End>, String> {
        let start = Instant::now();
        while start.elapsed() < limit {
            let mut status = 0;
            let got = unsafe { libc::waitpid(pid, &raw mut status, libc::WNOHANG | libc::WUNTRACED) };
            if got < 0 {
                return Ok(self.poll(pid));
            }
            if got == pid {
                return Ok(if libc::WIFSTOPPED(status) { None } else { Some(End::of(status)) });
            }
            next_child(Duration::from_millis(20));
        }
        Ok(None)
    }

    /// Runs an attacker to its end.
    pub fn attack(&mut self, limit: Duration, body: impl FnOnce() -> i32) -> Result<End, String> {
        let pid = self.start(body)?;
        let end = self.await_end(pid, limit)?;
        self.note(end);
        self.sweep(self.uid)?;
        Ok(end)
    }

    /// Runs an attacker that nobody but the kernel can stop, who has to say so.
    pub fn attack_reported(&mut self, limit: Duration, body: impl FnOnce() -> i32) -> Result<End, String> {
        let pid = self.start(body)?;
        let end = self.await_end(pid, limit)?;
        self.note(end);
        if end == End::Killed(libc::SIGKILL) {
            println!("reported {pid}");
        }
        self.sweep(self.uid)?;
        Ok(end)
    }

    /// Counts an end.
    pub fn note(&mut self, end: End) {
        match self.ends.iter_mut().find(|(e, _)| *e == end) {
            Some((_, count)) => *count += 1,
            None => self.ends.push((end, 1)),
        }
    }

    /// Waits for the end of a child, kills it when its time is up.
    pub fn await_end(&self, pid: i32, limit: Duration) -> Result<End, String> {
        let start = Instant::now();
        loop {
            if let Some(end) = self.poll(pid) {
                return Ok(end);
            }
            if start.elapsed() > limit {
                break;
            }
            next_child(limit.saturating_sub(start.elapsed()));
        }
        self.kill(pid)?;
        Ok(End::TimeUp)
    }

    /// The end of a child, if it has come.
    pub fn poll(&self, pid: i32) -> Option<End> {
        let mut ended = self.ended.borrow_mut();
        let mut status = 0;
        loop {
            match unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG) } {
                child if child > 0 => ended.insert(child, End::of(status)),
                _ => return ended.remove(&pid),
            };
        }
    }

    /// Kills a child and waits for its end.
    pub fn kill(&self, pid: i32) -> Result<(), String> {
        unsafe { libc::kill(pid, libc::SIGKILL) };
        let start = Instant::now();
        while self.poll(pid).is_none() {
            if start.elapsed() > DEATH {
                return Err(format!("process {pid} does not die of SIGKILL"));
            }
            next_child(DEATH);
        }
        Ok(())
    }

    /// Processes that have nothing to do with the attack, started where it has just ended: they work.
    pub fn innocents(&self, count: usize) -> Result<(), String> {
        for _ in 0..count {
            let pid = self.fork(innocent)?;
            match self.await_end(pid, PULSE)? {
                End::Exited(7) => {}
                end => return Err(format!("a process that attacked nobody ended by {end:?}")),
            }
        }
        Ok(())
    }

    /// The victim makes progress.
    pub fn pulse(&self) -> Result<(), String> {
        let (before, start) = (self.board.rounds.load(Ordering::SeqCst), Instant::now());
        while self.board.rounds.load(Ordering::SeqCst) < before + 2 {
            if let Some(end) = self.poll(self.victim) {
                return Err(format!("the victim has ended by {end:?}"));
            }
            if start.elapsed() > PULSE {
                return Err("the victim makes no progress".into());
            }
            next_child(Duration::from_millis(1));
        }
        Ok(())
    }

    /// After an attack: its processes go, the victim is well, new processes are, and memory has been given back.
    pub fn look_around(&mut self) -> Result<(), String> {
        let time = self.elapsed();
        self.sweep(self.uid)?;
        self.pulse()?;
        self.innocents(3)?;
        let start = Instant::now();
        while free_kib() + SLACK < self.free_kib {
            if start.elapsed() > DEATH {
                return Err(format!(
                    "memory is missing: {} KiB were free, {} are",
                    self.free_kib,
                    free_kib()
                ));
            }
            next_child(Duration::from_millis(5));
        }
        let count: u64 = self.ends.iter().map(|(_, count)| count).sum();
        println!("  {count} attackers in {} ms: {:?}", time.as_millis(), self.ends);
        Ok(())
    }

    /// Ends every process of a user, and waits until they are gone.
    pub fn sweep(&self, uid: u32) -> Result<(), String> {
        let start = Instant::now();
        loop {
            let left = of_user(uid);
            // Those that were not ours to wait for are, now that their parents are gone.
            self.poll(0);
            if left.is_empty() {
                return Ok(());
            }
            for pid in &left {
                unsafe { libc::kill(*pid, libc::SIGKILL) };
            }
            if start.elapsed() > DEATH {
                return Err(format!("processes of user {uid} do not end: {left:?}"));
            }
            next_child(Duration::from_millis(2));
        }
    }

    /// The end: the victim finds everything as it was.
    pub fn end(self) -> Result<(), String> {
        self.board.stop.store(1, Ordering::SeqCst);
        match self.await_end(self.victim, PULSE)? {
            End::Exited(0) => {}
            end => return Err(format!("the victim ended by {end:?}")),
        }
        println!("fine, {} rounds", self.board.rounds.load(Ordering::SeqCst));
        Ok(())
    }
}

/// Looks for it in a child, which may break.
fn find_hidden() -> Result<Hidden, String> {
    const MOST: usize = 8192;
    let shared = sys::pages(MOST * 8 + 8, true).cast::<u64>();
    let child = sys::fork(|| {
        crate::jump::catch();
        let hidden = Hidden::find();
        for (i, page) in hidden.pages.iter().take(MOST).enumerate() {
            unsafe { shared.add(i + 1).write(page.at | u64::from(page.writable)) };
        }
        unsafe { shared.write_volatile(hidden.pages.len() as u64) };
        0
    })?;
    if sys::wait(child) != 0 {
        return Err("looking at the address space failed".into());
    }
    let count = unsafe { shared.read_volatile() } as usize;
    let page = |i| {
        let word = unsafe { shared.add(i + 1).read() };
        crate::stub::Page { at: word & !1, writable: word & 1 != 0 }
    };
    Ok(Hidden { pages: (0..count.min(MOST)).map(page).collect() })
}

/// A process that uses memory, faults, descriptors, signals and threads a little.
fn innocent() -> i32 {
    let memory = sys::pages(1 << 20, false);
    (0..1 << 20).step_by(4096).for_each(|i| unsafe { memory.add(i).write_volatile(1) });
    let thread = std::thread::spawn(|| (0..50).map(|_| sys::call(libc::SYS_getppid, [0; 6])).sum::<i64>());
    let sum = (0..50).map(|_| sys::call(libc::SYS_getppid, [0; 6])).sum::<i64>();
    let same = thread.join().is_ok_and(|other| other == sum);
    let child = sys::fork(|| 3);
    let well = child.is_ok_and(|pid| End::of(sys::wait(pid)) == End::Exited(3));
    if same && well { 7 } else { 8 }
}

/// Takes a process everything that it could do harm with by right: identity, limits, descriptors, standing in the process tree.
fn disarm(uid: u32) {
    disarm_with(
        uid,
        &[
            (libc::RLIMIT_AS, 256 << 20),
            (libc::RLIMIT_FSIZE, 4 << 20),
            (libc::RLIMIT_NPROC, PROCESSES),
            (libc::RLIMIT_NOFILE, FILES),
            (libc::RLIMIT_MEMLOCK, 1 << 20),
            (libc::RLIMIT_CORE, 0),
        ],
    );
}

fn disarm_with(uid: u32, limits: &[(u32, u64)]) {
    unsafe {
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
        libc::setpgid(0, 0);
        libc::chdir(c"/tmp".as_ptr());
        let _ = fs::write("/proc/self/oom_score_adj", "0");
        limits.iter().for_each(|(resource, value)| sys::limit(*resource, *value));
        libc::syscall(libc::SYS_close_range, 0, u32::MAX, 0);
        open_some();
        libc::setgroups(0, std::ptr::null());
        libc::setresgid(uid, uid, uid);
        libc::setresuid(uid, uid, uid);
    }
}

/// Descriptors 0 to 20, of all kinds.
unsafe fn open_some() {
    unsafe {
        let mut pair = [0; 2];
        libc::open(c"/dev/null".as_ptr(), libc::O_RDWR);
        libc::open(c"/dev/zero".as_ptr(), libc::O_RDWR);
        libc::open(c"/".as_ptr(), libc::O_RDONLY | libc::O_DIRECTORY);
        libc::pipe(pair.as_mut_ptr());
        libc::socketpair(libc::AF_UNIX, libc::SOCK_STREAM, 0, pair.as_mut_ptr());
        libc::socketpair(libc::AF_UNIX, libc::SOCK_DGRAM, 0, pair.as_mut_ptr());
        libc::socket(libc::AF_UNIX, libc::SOCK_STREAM, 0);
        libc::eventfd(3, libc::EFD_NONBLOCK);
        libc::epoll_create1(0);
        libc::timerfd_create(libc::CLOCK_MONOTONIC, libc::TFD_NONBLOCK);
        libc::inotify_init1(libc::IN_NONBLOCK);
        libc::memfd_create(c"attack".as_ptr(), 0);
        libc::open(c"/proc/self/maps".as_ptr(), libc::O_RDONLY);
        libc::open(c"/proc/self/mem".as_ptr(), libc::O_RDWR);
        libc::open(c"/tmp".as_ptr(), libc::O_TMPFILE | libc::O_RDWR, 0o600);
        libc::open(c"/etc/passwd".as_ptr(), libc::O_RDONLY);
        libc::open(c"/proc/self/exe".as_ptr(), libc::O_RDONLY);
        while (0..21).contains(&libc::dup(0)) {}
    }
}

/// Waits until a child ends, but not longer than this.
pub fn next_child(time: Duration) {
    let time = libc::timespec { tv_sec: time.as_secs() as i64, tv_nsec: i64::from(time.subsec_nanos()) };
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigaddset(&raw mut set, libc::SIGCHLD);
        libc::sigtimedwait(&raw const set, std::ptr::null_mut(), &raw const time);
    }
}

/// The processes of a user.
fn of_user(uid: u32) -> Vec<i32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids =
        entries.filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.metadata().ok()?)));
    pids.filter(|(_, meta)| meta.uid() == uid).map(|(pid, _)| pid).collect()
}

fn free_kib() -> u64 {
    sys::proc_number("/proc/meminfo", "MemFree:") + sys::proc_number("/proc/meminfo", "Cached:")
}
