//! FS and GS base: pointing into other runners' memory, into nothing, where no pointer can point; and the gate entered with them.

use super::calls::some_call;
use crate::rng::Rng;
use crate::sys;
use crate::warden::Warden;
use std::sync::atomic::Ordering;
use std::time::Duration;

const TIME: Duration = Duration::from_millis(40);
const ARCH_SET_GS: u64 = 0x1001;
const ARCH_SET_FS: u64 = 0x1002;

fn gs_base() -> u64 {
    let base: u64;
    unsafe { std::arch::asm!("rdgsbase {}", out(reg) base) };
    base
}

fn set_gs_base(base: u64) {
    unsafe { std::arch::asm!("wrgsbase {}", in(reg) base) };
}

/// Calls that the kernel has to refuse, or that change this thread alone.
fn by_call(rng: &mut Rng) {
    let wrong = [1 << 63, 0xffff_8000_0000_0000, 1 << 47, u64::MAX, 0x8000_0000_0000_0000];
    for base in wrong {
        for what in [ARCH_SET_GS, ARCH_SET_FS] {
            if sys::call(libc::SYS_arch_prctl, [what, base, 0, 0, 0, 0]) >= 0 {
                sys::exit(3);
            }
        }
        // As a thread's base.
        let flags = (libc::CLONE_SETTLS | libc::SIGCHLD) as u64;
        if sys::call(libc::SYS_clone, [flags, 0, 0, 0, base, 0]) == 0 {
            sys::exit(0);
        }
    }
    sys::call(libc::SYS_arch_prctl, [ARCH_SET_GS, rng.next() >> 17, 0, 0, 0, 0]);
}

fn attacker(areas: &[u64], seed: u64, how: u64) -> i32 {
    let mut rng = Rng::new(seed, 0);
    let mut candidates: Vec<u64> = areas.to_vec();
    candidates.extend([
        0,
        8,
        4096,
        1 << 20,
        (1 << 47) - 4096,
        1 << 46,
        areas.first().map_or(0, |a| a - (1 << 21)),
    ]);
    let choose = |rng: &mut Rng| match rng.below(6) {
        0 => gs_base() ^ 0x1_0000,
        1 => gs_base() + rng.below(64),
        _ => *rng.pick(&candidates),
    };
    let beside = |over: &std::sync::atomic::AtomicBool| {
        let mut rng = Rng::new(seed, 1);
        while !over.load(Ordering::Relaxed) {
            set_gs_base(choose(&mut rng));
            some_call(&mut rng);
        }
    };
    match how % 3 {
        0 => by_call(&mut rng),
        1 => sys::beside(&[], TIME, || {
            set_gs_base(choose(&mut rng));
            some_call(&mut rng);
        }),
        _ => sys::beside(&[&beside], TIME, || {
            set_gs_base(choose(&mut rng));
            some_call(&mut rng);
        }),
    }
    0
}

pub fn run(warden: &mut Warden) -> Result<(), String> {
    let areas = warden.hidden.writable();
    let (first, last) = warden.options.only.map_or((0, u64::MAX), |n| (n, n + 1));
    for n in first..last {
        if n >= 6 && warden.elapsed() > warden.time() {
            break;
        }
        let seed = Rng::new(warden.options.seed, n).next();
        let end = warden
            .attack(TIME * 6, || attacker(&areas, seed, n))
            .map_err(|why| format!("{why} (try {n})"))?;
        if end == crate::warden::End::Exited(3) {
            return Err("a base outside of the address space was accepted".into());
        }
    }
    Ok(())
}
