//! Arguments in memory that another thread changes while the kernel reads them. Whatever it makes of them must be one of the values that were there.

use crate::rng::Rng;
use crate::sys;
use crate::values::Values;
use crate::warden::{End, Warden};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const TIME: Duration = Duration::from_millis(60);
/// Words that the other thread changes.
const WORDS: u64 = 64;

/// A call with a structure at this address.
fn call(which: u64, at: u64, rng: &mut Rng) {
    let c = |nr: i64, args: [u64; 6]| sys::call(nr, args);
    let cwd = libc::AT_FDCWD as u64;
    match which {
        0 => c(libc::SYS_readv, [1, at, 4, 0, 0, 0]),
        1 => c(libc::SYS_writev, [0, at, 4, 0, 0, 0]),
        2 => c(libc::SYS_sendmsg, [5, at, 0x40, 0, 0, 0]),
        3 => c(libc::SYS_recvmsg, [6, at, 0x40, 0, 0, 0]),
        4 => c(libc::SYS_openat, [cwd, at, 0x800, 0, 0, 0]),
        5 => c(libc::SYS_connect, [9, at, 8 + rng.below(110), 0, 0, 0]),
        6 => c(libc::SYS_bind, [9, at, 8 + rng.below(110), 0, 0, 0]),
        7 => c(libc::SYS_rt_sigaction, [10 + rng.below(3), at, at + 64, 8, 0, 0]),
        8 => c(libc::SYS_futex, [at, libc::FUTEX_REQUEUE as u64, 1, 1, at + 4, 0]),
        9 => c(libc::SYS_futex, [at, libc::FUTEX_CMP_REQUEUE as u64, 1, 1, at + 4, 0]),
        10 => c(libc::SYS_futex, [at, libc::FUTEX_WAKE_OP as u64, 1, 1, at + 4, rng.next()]),
        11 => {
            let time = [0u64, 30_000];
            c(libc::SYS_futex, [at, 0, rng.below(4), time.as_ptr() as u64, 0, 0])
        }
        12 => c(libc::SYS_epoll_ctl, [11, 1 + rng.below(3), 10, at, 0, 0]),
        13 => c(libc::SYS_epoll_wait, [11, at, 4, 0, 0, 0]),
        14 => c(libc::SYS_poll, [at, 8, 0, 0, 0, 0]),
        15 => {
            let result = c(libc::SYS_clone3, [at, 64 + 8 * rng.below(4), 0, 0, 0, 0]);
            if result == 0 {
                c(libc::SYS_exit, [0; 6]);
            }
            result
        }
        16 => c(libc::SYS_setsockopt, [5, 1, rng.below(60), at, rng.below(40), 0]),
        17 => c(libc::SYS_getsockopt, [5, 1, rng.below(60), at, at + 8, 0]),
        18 => c(libc::SYS_utimensat, [cwd, at, at + 256, 0, 0, 0]),
        19 => c(libc::SYS_symlinkat, [at, cwd, at + 128, 0, 0, 0]),
        20 => c(libc::SYS_fcntl, [16, *rng.pick(&[5, 6, 36, 37]), at, 0, 0, 0]),
        21 => c(libc::SYS_ioctl, [rng.below(21), *rng.pick(&[0x541b, 0x5421, 0x5401, 0x5413]), at, 0, 0, 0]),
        22 => c(libc::SYS_rt_sigprocmask, [2, at, at + 8, 8, 0, 0]),
        23 => c(libc::SYS_prlimit64, [0, 7, at, at + 16, 0, 0]),
        24 => c(libc::SYS_process_vm_readv, [std::process::id() as u64, at, 4, at + 64, 4, 0]),
        25 => c(libc::SYS_select, [20, at, at + 128, 0, at + 256, 0]),
        26 => c(libc::SYS_execve, [at, at + 128, at + 256, 0, 0, 0]),
        27 => c(libc::SYS_timer_create, [1, at, at + 64, 0, 0, 0]),
        28 => c(libc::SYS_clock_nanosleep, [1, 0, at, at, 0, 0]),
        29 => c(libc::SYS_rt_sigtimedwait, [at, at + 16, at + 256, 8, 0, 0]),
        30 => c(libc::SYS_mount, [at, at + 128, at + 256, 0, at, 0]),
        31 => c(libc::SYS_getdents64, [2, at, 300, 0, 0, 0]),
        32 => c(libc::SYS_copy_file_range, [17, at, 16, at + 8, 64, 0]),
        33 => c(libc::SYS_sendfile, [16, 17, at, 64, 0, 0]),
        34 => c(libc::SYS_recvmmsg, [6, at, 3, 0x40, 0, 0]),
        35 => c(libc::SYS_statx, [cwd, at, 0, 0xfff, at + 128, 0]),
        36 => c(libc::SYS_preadv, [17, at, 4, rng.below(99), 0, 0]),
        37 => c(libc::SYS_sigaltstack, [at, at + 32, 0, 0, 0, 0]),
        38 => c(libc::SYS_set_robust_list, [at, 24, 0, 0, 0, 0]),
        _ => c(libc::SYS_futex_waitv, [at, 3, 0, at + 128, 1, 0]),
    };
}

/// How many there are.
const KINDS: u64 = 40;

fn attacker(values: &Values, seed: u64, which: u64) -> i32 {
    let at = sys::pages(8192, false) as u64;
    let inside = at + 2048;
    let page_end = at + 8192;
    // The other thread: words of a pool, so that pointers, lengths and texts take turns.
    let change = |over: &AtomicBool| {
        let mut rng = Rng::new(seed, 1);
        let pool: Vec<u64> = (0..24)
            .map(|i| match i % 6 {
                0 => inside + 8 * (i % 13),
                1 => i % 70,
                2 => page_end - i,
                3 => u64::from_le_bytes(*b"/tmp/../"),
                4 => u64::from_le_bytes(*b"\x01\x00/tmp/a"),
                _ => values.value(&mut rng),
            })
            .collect();
        while !over.load(Ordering::Relaxed) {
            for _ in 0..64 {
                let word = inside + rng.below(WORDS) * 8;
                unsafe { (word as *mut u64).write_volatile(*rng.pick(&pool)) };
            }
        }
    };
    let mut rng = Rng::new(seed, 2);
    sys::beside(&[&change], TIME, || {
        for _ in 0..20 {
            // A signal that is handled by nothing would be the end.
            call(which, if rng.once_in(9) { page_end - rng.below(64) } else { inside }, &mut rng);
        }
    });
    0
}

pub fn run(warden: &mut Warden) -> Result<(), String> {
    let hidden = warden.hidden.clone();
    let (first, last) = warden.options.only.map_or((0, u64::MAX), |n| (n, n + 1));
    for n in first..last {
        // Every kind once, however long it takes.
        if n >= KINDS && warden.elapsed() > warden.time() {
            break;
        }
        let seed = Rng::new(warden.options.seed, n).next();
        let work = || attacker(&Values::new(&hidden), seed, n % KINDS);
        let end = warden.attack(TIME * 6, work).map_err(|why| format!("{why} (try {n})"))?;
        let own_end = matches!(end, End::Exited(_) | End::TimeUp)
            || matches!(end, End::Killed(s) if [libc::SIGSEGV, libc::SIGBUS, libc::SIGABRT].contains(&s));
        if !own_end {
            return Err(format!("changing arguments during call {} ended in {end:?} (try {n})", n % KINDS));
        }
    }
    Ok(())
}
