//! Code whose system calls are patched while it runs: executed by several threads at that very moment, changed, protected, unmapped, jumped into.

use super::calls::{repeat, some_call};
use crate::rng::Rng;
use crate::stub::PAGE;
use crate::sys;
use crate::warden::{End, Warden};
use std::sync::Barrier;
use std::time::Duration;

const LIMIT: Duration = Duration::from_millis(3000);
/// Threads that run a site while it is being patched, and calls of each.
const THREADS: usize = 4;
const CALLS: usize = 400;

// Sites that nothing else in this program uses: one for each form that a compiler makes.
super::calls::site!(attack_cold_0, "mov eax, 110");
super::calls::site!(attack_cold_1, "mov rdi, rsi", "mov eax, 39");
super::calls::site!(attack_cold_2, "mov eax, 102", "xor edi, edi");
super::calls::site!(attack_cold_3, "mov rax, 110");

const SITES: [(unsafe extern "C" fn(u64, u64, u64, u64) -> i64, i64); 4] = [
    (attack_cold_0, libc::SYS_getppid),
    (attack_cold_1, libc::SYS_getpid),
    (attack_cold_2, libc::SYS_getuid),
    (attack_cold_3, libc::SYS_getppid),
];

/// In a program that has just been started: threads run a site that nobody has run before, and every call gives what it has to.
pub fn cold(which: &str) -> Result<(), String> {
    let which: usize = which.parse().map_err(|_| format!("{which}: not a number"))?;
    let (site, nr) = SITES[which % SITES.len()];
    let expected = sys::call(nr, [0; 6]);
    let start = Barrier::new(THREADS);
    std::thread::scope(|scope| {
        let run = || {
            start.wait();
            (0..CALLS).all(|_| unsafe { site(0, 0, 0, 0) } == expected)
        };
        let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(run)).collect();
        match threads.into_iter().all(|t| t.join().unwrap_or(false)) {
            true => Ok(()),
            false => Err("a call at a site that was being patched gave something else".into()),
        }
    })
}

/// The whole program again.
fn execute(which: u64) -> i32 {
    let name = std::ffi::CString::new(format!("{which}")).unwrap_or_default();
    let args = [c"vk-attack".as_ptr(), c"cold".as_ptr(), name.as_ptr(), std::ptr::null()];
    unsafe { libc::execv(c"/proc/self/exe".as_ptr(), args.as_ptr()) };
    9
}

/// Changes the code of sites that are in use, in every way that a process may change its own code; the calls go on.
fn change(seed: u64) -> i32 {
    let mut rng = Rng::new(seed, 0);
    for (site, _) in SITES {
        repeat(60, || unsafe { site(0, 0, 0, 0) });
    }
    let page = attack_cold_0 as *const () as u64 & !(PAGE - 1);
    let gates: Vec<sys::Area> = sys::maps().into_iter().filter(|a| a.name.contains("gates")).collect();
    let uid = sys::call(libc::SYS_getuid, [0; 6]);
    for _ in 0..60 {
        let rights = |prot: i32| sys::call(libc::SYS_mprotect, [page, 2 * PAGE, prot as u64, 0, 0, 0]);
        let all = libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC;
        match rng.below(8) {
            0 => {
                // Write what is there: a program that was read from the file and patches itself.
                rights(all);
                let at = page + rng.below(PAGE);
                let byte = unsafe { (at as *const u8).read_volatile() };
                unsafe { (at as *mut u8).write_volatile(byte) };
                if !rng.once_in(3) {
                    rights(libc::PROT_READ | libc::PROT_EXEC);
                }
            }
            1 => {
                rights(libc::PROT_READ | libc::PROT_EXEC);
            }
            2 => {
                // The page gone and back from a copy.
                let copy = sys::pages(2 * PAGE as usize, false);
                unsafe { std::ptr::copy_nonoverlapping(page as *const u8, copy, 2 * PAGE as usize) };
                sys::call(libc::SYS_mremap, [copy as u64, 2 * PAGE, 2 * PAGE, 3, page, 0]);
                rights(libc::PROT_READ | libc::PROT_EXEC);
            }
            3 => {
                // What jumps go through: it may go, or refuse to; calls must not do anything else afterwards.
                if let Some(gate) = gates.get(rng.below(gates.len().max(1) as u64) as usize) {
                    let len = gate.end - gate.start;
                    sys::call(libc::SYS_mprotect, [gate.start, len, all as u64, 0, 0, 0]);
                    sys::call(libc::SYS_munmap, [gate.start, len, 0, 0, 0, 0]);
                    let flags = libc::MAP_FIXED | libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
                    sys::call(libc::SYS_mmap, [gate.start, len, all as u64, flags as u64, u64::MAX, 0]);
                    sys::call(libc::SYS_mremap, [gate.start, len, len, 1, 0, 0]);
                    sys::call(libc::SYS_madvise, [gate.start, len, libc::MADV_DONTNEED as u64, 0, 0, 0]);
                }
            }
            4 => some_call(&mut rng),
            5 => {
                let pid = sys::fork(|| if unsafe { attack_cold_2(0, 0, 0, 0) } == uid { 0 } else { 1 });
                if pid.is_ok_and(|pid| sys::wait(pid) != 0) {
                    return 3;
                }
            }
            _ => {
                for (site, nr) in SITES {
                    if unsafe { site(0, 0, 0, 0) } != sys::call(nr, [0; 6]) {
                        return 3;
                    }
                }
            }
        }
    }
    0
}

/// Jumps to every byte around a patched site.
fn into_the_middle(offset: u64) -> i32 {
    repeat(60, || unsafe { attack_cold_0(0, 0, 0, 0) });
    crate::jump::catch();
    let at = attack_cold_0 as *const () as u64 + offset;
    let regs = crate::jump::Regs {
        rip: at,
        rsp: crate::jump::landing_stack(),
        rflags: 0x202,
        rax: 110,
        rcx: at,
        ..Default::default()
    };
    (0..30).for_each(|_| regs.launch());
    0
}

pub fn run(warden: &mut Warden) -> Result<(), String> {
    for n in 0..24 {
        let well = |end: End, what: &str| match end {
            End::Exited(0) => Ok(()),
            end => Err(format!("{what}: {end:?} (try {n})")),
        };
        well(warden.attack(LIMIT, || execute(n))?, "running a site while it is patched")?;
        let seed = Rng::new(warden.options.seed, n).next();
        let end = warden.attack(LIMIT, || change(seed))?;
        if end == End::Exited(3) || end == End::TimeUp {
            return Err(format!("changed code made other calls: {end:?} (try {n})"));
        }
        warden.attack(LIMIT, || into_the_middle(n))?;
    }
    Ok(())
}
