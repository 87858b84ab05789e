//! The engine: the zygote that address spaces come from, and those kept in reserve.

use crate::area::Area;
use crate::layout::{self, fd};
use crate::limit::Tasks;
use crate::seat::Seats;
use crate::space::{Body, Vmspace};
use crate::stub::{self, Addresses, data};
use crate::sys;
use crate::trust::Fresh;
use std::fs;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

/// Most destroyed address spaces that are kept for the next `create`.
const RESERVE: usize = 8;

/// Makes address spaces. Its calls may come from any thread.
///
/// [`Engine::new`] must be called from a thread that lives as long as the process: the host kills the zygote and all address spaces when
/// that thread ends, which is how nothing stays behind when the process is killed.
pub struct Engine {
    zygote: Mutex<Zygote>,
    reserve: Mutex<Vec<Body>>,
    control: OwnedFd,
    /// What mappers say there.
    status: Arc<Area>,
    hand_over: OwnedFd,
    free_slots: Mutex<Slots>,
    tasks: Tasks,
    vdso: Option<u64>,
    /// Where its `clock_gettime` is.
    clock: Option<u64>,
    fresh: OnceLock<Fresh>,
    gate: OnceLock<u64>,
    /// Where sessions take place.
    pub(crate) seats: Seats,
    closed: AtomicBool,
}

struct Zygote {
    child: Child,
    page: Area,
    orders: OwnedFd,
}

#[derive(Default)]
struct Slots {
    free: Vec<u64>,
    next: u64,
}

/// Host tasks of an address space: mother, mapper, first runner. Further runners are not held against the limit, because a guest that has
/// been started must be able to go on.
const BODY_TASKS: u64 = 3;
/// The zygote's page comes first.
const FIRST_SLOT: u64 = layout::SLOT_LEN;

fn slot_offset(slot: u64) -> u64 {
    FIRST_SLOT + slot * layout::SLOT_LEN
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn check_host() -> io::Result<()> {
    const HWCAP2_FSGSBASE: u64 = 2;
    // SAFETY: getauxval has no preconditions.
    if unsafe { libc::getauxval(libc::AT_HWCAP2) } & HWCAP2_FSGSBASE == 0 {
        return Err(io::Error::other(
            "this machine has no FSGSBASE instructions for programs: an x86_64 CPU from 2012 on and Linux 5.9 are needed",
        ));
    }
    let mut action = libc::SECCOMP_RET_USER_NOTIF;
    // SAFETY: the call reads one word.
    let known = unsafe {
        libc::syscall(libc::SYS_seccomp, 2 /* GET_ACTION_AVAIL */, 0, &raw mut action)
    };
    if known != 0 {
        return Err(io::Error::other(format!(
            "seccomp user notification is not available ({}): Linux 5.9 is needed, and a container must allow seccomp(2)",
            io::Error::last_os_error()
        )));
    }
    Ok(())
}

impl Engine {
    /// Starts a zygote. `ram` is the memory file that [`crate::Op::MapRam`] shows. The error is fit to be shown to a user.
    pub fn new(ram: &OwnedFd) -> io::Result<Arc<Engine>> {
        check_host()?;
        let control = sys::memory_file(c"vmspace-control")?;
        fs::File::from(control.try_clone()?).set_len(1 << 40)?;
        let program = sys::memory_file(c"vmspace-stub")?;
        fs::File::from(program.try_clone()?).write_all(&stub::program_file())?;
        let (orders, zygote_orders) = sys::socket_pair()?;
        let (hand_over, zygote_hand_over) = sys::socket_pair()?;

        let sources = [
            (ram.as_raw_fd(), fd::RAM),
            (control.as_raw_fd(), fd::CONTROL),
            (zygote_orders.as_raw_fd(), fd::ORDERS),
            (zygote_hand_over.as_raw_fd(), fd::HAND_OVER),
            (program.as_raw_fd(), fd::LISTENER),
        ];
        let mut command = Command::new(format!("/proc/self/fd/{}", fd::LISTENER));
        command.arg0("vmspace").env_clear().current_dir("/");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let parent = std::process::id();
        // SAFETY: between fork and exec only system calls are made.
        unsafe {
            command.pre_exec(move || prepare_zygote(&sources, parent));
        }
        let child = command.spawn().map_err(|e| {
            io::Error::new(e.kind(), format!("can't start the address-space helper: {e} (is /proc mounted?)"))
        })?;
        drop((zygote_orders, zygote_hand_over));
        let page = Area::map(control.as_fd(), 0, 4096)?;
        let status = Arc::new(Area::map(control.as_fd(), layout::STATUS, layout::STATUS_LEN as usize)?);
        let mut zygote = Zygote { child, page, orders };
        let vdso = zygote.settle()?;
        let engine = Engine {
            zygote: Mutex::new(zygote),
            reserve: Mutex::new(Vec::new()),
            control,
            status,
            hand_over,
            free_slots: Mutex::new(Slots::default()),
            tasks: Tasks::of_host(),
            vdso,
            clock: vdso.and_then(|vdso| Some(vdso + sys::vdso_clock()?)),
            fresh: OnceLock::new(),
            gate: OnceLock::new(),
            seats: Seats::new(),
            closed: AtomicBool::new(false),
        };
        // The first address space shows that it works, and waits in reserve.
        let body = engine.make_body()?;
        if body.has_gate() {
            engine.gate.get_or_init(|| Addresses::get().gate.start);
        }
        body.empty();
        lock(&engine.reserve).push(body);
        Ok(Arc::new(engine))
    }

    /// Size in bytes of the floating-point images of contexts.
    pub fn fpu_len(&self) -> usize {
        self.fresh.get().map_or(0, |fresh| fresh.fpu.1)
    }

    /// An empty address space. Blocks for the time of the host calls. `EAGAIN` when there are as many as the host may be asked for.
    pub fn create(self: &Arc<Engine>) -> io::Result<Vmspace> {
        while let Some(body) = self.spare() {
            if body.cleanse(&self.control, slot_offset(body.slot)) {
                return Ok(Vmspace::new(self.clone(), body));
            }
            self.discard(body);
        }
        Ok(Vmspace::new(self.clone(), self.make_body()?))
    }

    /// One of the reserve: the last that is empty, or else the first.
    fn spare(&self) -> Option<Body> {
        let mut reserve = lock(&self.reserve);
        let at = reserve.iter().rposition(Body::is_empty).unwrap_or(0);
        (at < reserve.len()).then(|| reserve.remove(at))
    }

    fn make_body(&self) -> io::Result<Body> {
        self.tasks.take(BODY_TASKS)?;
        let body = self.start_body();
        if body.is_err() {
            self.tasks.give(BODY_TASKS);
        }
        body
    }

    fn start_body(&self) -> io::Result<Body> {
        let slot = {
            let mut slots = lock(&self.free_slots);
            slots.free.pop().unwrap_or_else(|| {
                slots.next += 1;
                slots.next - 1
            })
        };
        let offset = slot_offset(slot);
        let mut zygote = lock(&self.zygote);
        let pid = zygote.call(&[[(-2i64) as u64, offset, u64::from(std::process::id()), 0, 0, 0, 0]])?[0];
        if pid < 0 {
            lock(&self.free_slots).free.push(slot);
            return Err(io::Error::from_raw_os_error(-pid as i32));
        }
        let mother = pid as i32;
        // She makes the mapper without being asked for.
        let made = sys::receive_fd(self.hand_over.as_fd(), mother).and_then(|listener| {
            let area = Area::map(self.control.as_fd(), offset, layout::SLOT_LEN as usize)?;
            Body::new(mother, slot, area, listener, self.status.clone(), self.clock)
        });
        let body = match made {
            Ok(body) => body,
            Err(e) => {
                sys::kill(mother, libc::SIGKILL);
                sys::reap(mother);
                self.free_slot(slot);
                return Err(e);
            }
        };
        drop(zygote);
        match self.make_runner(&body) {
            Ok(()) => Ok(body),
            Err(e) => {
                self.end(body);
                Err(e)
            }
        }
    }

    /// Has the mother of an address space make another runner.
    pub(crate) fn make_runner(&self, body: &Body) -> io::Result<()> {
        // One at a time: the socket does not say whose listener it carries.
        let _zygote = lock(&self.zygote);
        if !sys::wait_stopped(body.mother) {
            return Err(io::Error::other("the address space is gone"));
        }
        sys::kill(body.mother, libc::SIGCONT);
        let listener = sys::receive_fd(self.hand_over.as_fd(), body.mother)?;
        body.add_runner(listener, &self.fresh)
    }

    /// Takes an address space back: emptied for the next user if it is sound, else ended.
    pub(crate) fn give_back(&self, body: Body) {
        let full = self.closed.load(Ordering::SeqCst) || lock(&self.reserve).len() >= RESERVE;
        if full || !body.empty() {
            return self.discard(body);
        }
        let mut reserve = lock(&self.reserve);
        reserve.push(body);
    }

    /// Ends an address space that nobody can use any more.
    pub(crate) fn discard(&self, body: Body) {
        self.end(body);
        self.tasks.give(BODY_TASKS);
    }

    fn end(&self, body: Body) {
        let slot = body.slot;
        body.kill();
        self.free_slot(slot);
    }

    /// What its processes wrote is gone before another address space gets it.
    fn free_slot(&self, slot: u64) {
        let offset = slot_offset(slot);
        sys::punch_hole(&self.control, offset..offset + layout::SLOT_LEN);
        lock(&self.free_slots).free.push(slot);
    }

    /// Where every address space shows the host's vDSO, if the host has one.
    pub fn vdso(&self) -> Option<u64> {
        self.vdso
    }

    /// The gate, in every address space: code that a `syscall` instruction can be replaced by. It wants the number in `rax`, the address of
    /// the instruction in `rcx` and the arguments where the instruction has them; it comes back behind the instruction with the result, or
    /// to the instruction with all registers but `rcx`, `r11` and the arithmetic flags as they were. `None` where the CPU can't save a thread's state
    /// without the host's help (`XSAVEOPT`).
    pub fn gate(&self) -> Option<u64> {
        self.gate.get().copied()
    }

    /// The first address that guests can't use.
    pub fn user_limit(&self) -> u64 {
        layout::REGION
    }

    /// Ends the zygote and the reserve. Address spaces that are still in use end when they are dropped.
    pub fn shutdown(&self) {
        if self.closed.swap(true, Ordering::SeqCst) {
            return;
        }
        let bodies = std::mem::take(&mut *lock(&self.reserve));
        let mut zygote = lock(&self.zygote);
        // They end side by side. Killing and waiting fails only for who has ended already.
        bodies.iter().for_each(Body::begin_to_end);
        let _ = zygote.child.kill();
        bodies.into_iter().for_each(Body::kill);
        let _ = zygote.child.wait();
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.shutdown();
    }
}

/// How many descriptors the zygote starts with besides the standard ones.
const SOURCES: usize = 5;

/// Runs in the forked child: descriptors into their places, everything else closed, in a process group that the terminal's signals do
/// not reach. Not in a session: where those are scheduled as groups (`autogroup`, `sched(7)`), owner and runners could not leave the CPU to each other.
fn prepare_zygote(sources: &[(i32, i32); SOURCES], parent: u32) -> io::Result<()> {
    const OUT_OF_THE_WAY: i32 = 100;
    // SAFETY: system calls without pointers, on descriptors that exist.
    unsafe {
        libc::setpgid(0, 0);
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
        if libc::getppid() as u32 != parent {
            libc::_exit(1);
        }
        // To numbers that nobody has: the process may have opened any.
        let mut aside = [0; SOURCES];
        for (aside, &(from, _)) in aside.iter_mut().zip(sources) {
            *aside = libc::fcntl(from, libc::F_DUPFD, OUT_OF_THE_WAY);
            if *aside < 0 {
                return Err(io::Error::last_os_error());
            }
        }
        // The error pipe of the standard library is above these and closes on exec by itself, as all above them do.
        for (&aside, &(_, to)) in aside.iter().zip(sources) {
            if libc::dup2(aside, to) < 0 {
                return Err(io::Error::last_os_error());
            }
        }
        libc::syscall(
            libc::SYS_close_range,
            fd::LISTENER + 1,
            libc::c_int::MAX,
            4, /* CLOSE_RANGE_CLOEXEC */
        );
        for signo in 1..=64 {
            libc::signal(signo, libc::SIG_DFL);
        }
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
    }
    Ok(())
}

impl Zygote {
    /// Has the zygote make these calls and returns their results.
    fn call(&mut self, calls: &[[u64; 7]]) -> io::Result<Vec<i64>> {
        let mut results = Vec::new();
        for chunk in calls.chunks(32) {
            self.page.store(16, chunk.len() as u64);
            for (i, call) in chunk.iter().enumerate() {
                for (j, word) in call.iter().enumerate() {
                    self.page.store(64 + i * 64 + j * 8, *word);
                }
            }
            sys::order(self.orders.as_fd())?;
            results.extend((0..chunk.len()).map(|i| self.page.load(64 + i * 64 + 56) as i64));
        }
        Ok(results)
    }

    /// After its start: moves the vDSO, empties everything below the stub region, sets what all address spaces inherit. Returns the
    /// vDSO's address.
    fn settle(&mut self) -> io::Result<Option<u64>> {
        // The first order is empty: when it is answered, the zygote runs from its text page.
        self.call(&[[libc::SYS_getpid as u64, 0, 0, 0, 0, 0, 0]])?;
        let maps = fs::read_to_string(format!("/proc/{}/maps", self.child.id()))?;
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
}

/// Signals that the stub handles; the last one is the owner's kick.
pub(crate) const SIGNALS: [i32; 7] =
    [libc::SIGSEGV, libc::SIGBUS, libc::SIGFPE, libc::SIGILL, libc::SIGTRAP, libc::SIGSYS, KICK];
/// The signal that interrupts a runner.
pub(crate) const KICK: i32 = libc::SIGUSR1;
