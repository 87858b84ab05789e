//! A process that knows what it has and looks after it all the time: memory, registers, files, pipes, signals, identity.
//!
//! It shares nothing with the attackers but the kernel, except one page with the [`Board`], which only the warden and the victim have.

use crate::rng::Rng;
use crate::sys;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::FromRawFd;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// What warden and victim tell each other.
#[repr(C)]
pub struct Board {
    /// How often the victim has found everything as it should be.
    pub rounds: AtomicU64,
    /// Asks it to end.
    pub stop: AtomicU64,
}

/// Words of private memory that it guards.
const WORDS: usize = 1 << 17;
/// Length of the file.
const FILE: usize = 1 << 16;

static SIGNALS: AtomicU64 = AtomicU64::new(0);

extern "C" fn on_signal(_: i32, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
    SIGNALS.fetch_add(1, Ordering::SeqCst);
}

/// What is guarded, and how it has to be.
struct Goods {
    memory: Vec<u64>,
    shared: *mut u64,
    file: File,
    bytes: Vec<u8>,
    echo: (File, File),
    ids: [i64; 3],
    seed: u64,
    clock: Instant,
}

fn word(seed: u64, at: usize) -> u64 {
    Rng::new(seed, at as u64).next()
}

impl Goods {
    fn new(seed: u64, path: &str) -> std::io::Result<Goods> {
        let memory = (0..WORDS).map(|i| word(seed, i)).collect();
        let bytes: Vec<u8> = (0..FILE).map(|i| word(seed, i) as u8).collect();
        let mut file = File::options().read(true).write(true).create(true).truncate(true).open(path)?;
        file.write_all(&bytes)?;
        let shared = sys::pages(4096, true).cast::<u64>();
        (0..512).for_each(|i| unsafe { shared.add(i).write(word(seed, i)) });
        Ok(Goods { memory, shared, file, bytes, echo: echo(), ids: ids(), seed, clock: Instant::now() })
    }

    /// Looks at everything; what is wrong.
    fn check(&mut self, round: u64) -> Result<(), String> {
        let wrong = |what: &str| Err(format!("the victim's {what} changed in round {round}"));
        if self.memory.iter().enumerate().any(|(i, w)| *w != word(self.seed, i)) {
            return wrong("private memory");
        }
        if (0..512).any(|i| unsafe { self.shared.add(i).read_volatile() } != word(self.seed, i)) {
            return wrong("shared memory");
        }
        let mut read = vec![0; FILE];
        self.file.read_exact_at(&mut read, 0).map_err(|e| format!("the victim's file can't be read: {e}"))?;
        if read != self.bytes {
            return wrong("file");
        }
        if ids() != self.ids {
            return wrong("identity");
        }
        let sent = round.to_le_bytes();
        let mut back = [0; 8];
        self.echo.1.write_all(&sent).map_err(|e| format!("the victim's pipe: {e}"))?;
        self.echo.0.read_exact(&mut back).map_err(|e| format!("the victim's pipe: {e}"))?;
        if back != sent {
            return wrong("pipe");
        }
        let before = SIGNALS.load(Ordering::SeqCst);
        unsafe { libc::raise(libc::SIGUSR1) };
        if SIGNALS.load(Ordering::SeqCst) != before + 1 {
            return wrong("count of signals");
        }
        // New memory is zero, whoever had it before.
        let fresh = sys::pages(1 << 16, false).cast::<u64>();
        if (0..1 << 13).any(|i| unsafe { fresh.add(i).read_volatile() } != 0) {
            return wrong("new memory (it was not empty, or it");
        }
        unsafe { libc::munmap(fresh.cast(), 1 << 16) };
        if registers(round) != round {
            return wrong("vector registers");
        }
        let now = Instant::now();
        if now < self.clock {
            return wrong("clock (it went back, or it");
        }
        self.clock = now;
        Ok(())
    }
}

fn ids() -> [i64; 3] {
    [libc::SYS_getpid, libc::SYS_getppid, libc::SYS_geteuid].map(|nr| sys::call(nr, [0; 6]))
}

/// Keeps a value in vector registers during system calls that take the CPU away.
fn registers(value: u64) -> u64 {
    let (a, b): (u64, u64);
    unsafe {
        std::arch::asm!(
            "movq xmm3, {v}", "movq xmm13, {v}",
            "mov eax, 24", "syscall", "mov eax, 110", "syscall",
            "movq {a}, xmm3", "movq {b}, xmm13",
            v = in(reg) value, a = lateout(reg) a, b = lateout(reg) b,
            out("rax") _, out("rcx") _, out("r11") _, out("xmm3") _, out("xmm13") _,
        );
    }
    if a == b { a } else { !value }
}

/// A child that sends back what it gets, and the ends to read from and to write to.
fn echo() -> (File, File) {
    let pipe = || {
        let mut fds = [0; 2];
        unsafe { libc::pipe2(fds.as_mut_ptr(), libc::O_CLOEXEC) };
        fds.map(|fd| unsafe { File::from_raw_fd(fd) })
    };
    let ([mut from, to], [back, mut answer]) = (pipe(), pipe());
    let to = match unsafe { libc::fork() } {
        0 => {
            drop(to);
            let mut word = [0; 8];
            while from.read_exact(&mut word).is_ok() && answer.write_all(&word).is_ok() {}
            sys::exit(0);
        }
        _ => to,
    };
    (back, to)
}

fn watch(seed: u64, path: &str, mut over: impl FnMut(u64) -> bool) -> Result<(), String> {
    sys::handle(&[libc::SIGUSR1], on_signal);
    let mut goods = Goods::new(seed, path).map_err(|e| format!("{path}: {e}"))?;
    let mut round = 0;
    loop {
        goods.check(round)?;
        round += 1;
        if over(round) {
            return Ok(());
        }
        // It is a witness, not a load.
        std::thread::sleep(Duration::from_micros(300));
    }
}

/// The victim: until it is asked to stop. Its exit status.
pub fn run(board: &Board, seed: u64, path: &str) -> i32 {
    let result = watch(seed, path, |round| {
        board.rounds.store(round, Ordering::SeqCst);
        board.stop.load(Ordering::SeqCst) != 0
    });
    match result {
        Ok(()) => 0,
        Err(why) => {
            println!("{why}");
            1
        }
    }
}

/// The same on the host, until standard input ends.
pub fn canary() -> Result<(), String> {
    let ended = std::sync::Arc::new(AtomicU64::new(0));
    let told = ended.clone();
    println!("ready");
    std::thread::spawn(move || {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        told.store(1, Ordering::SeqCst);
    });
    let path = std::env::temp_dir().join(format!("vk-canary-{}", std::process::id()));
    let result = watch(11, &path.to_string_lossy(), |_| ended.load(Ordering::SeqCst) != 0);
    let _ = std::fs::remove_file(path);
    result.map(|()| println!("fine"))
}
