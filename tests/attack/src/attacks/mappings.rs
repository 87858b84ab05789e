//! Mapping calls over and near what is hidden, and at the end of the address space. They are the process's own: none may succeed there, and none may hurt it.

use super::calls::some_call;
use crate::rng::Rng;
use crate::stub::{END, PAGE};
use crate::sys;
use crate::warden::{End, Warden};
use std::time::Duration;

const LIMIT: Duration = Duration::from_millis(1500);
const CALLS: u64 = 400;
const NR_MSEAL: i64 = 462;

/// What must not change: the constant pages, read by the process itself.
fn picture(pages: &[u64]) -> u64 {
    // Orders to the stub come and go in such pages: those that hold code do not change.
    let words = pages.iter().flat_map(|at| (0..PAGE / 8).map(move |i| at + i * 8));
    words.fold(7, |sum, at| sum.rotate_left(5) ^ unsafe { (at as *const u64).read_volatile() })
}

fn attacker(text: &[u64], all: &[u64], seed: u64) -> i32 {
    let mut rng = Rng::new(seed, 0);
    let before = picture(text);
    let first = all.first().copied().unwrap_or(END - (16 << 20));
    let parent = sys::call(libc::SYS_getppid, [0; 6]);
    let spare = sys::pages(1 << 16, false) as u64;
    for _ in 0..CALLS {
        let at = match rng.below(8) {
            0 => first - PAGE * rng.below(4),
            1 => END - PAGE * rng.below(4),
            2 => 0xffff_8000_0000_0000 + PAGE * rng.below(9),
            3 => first + rng.below(16 << 20),
            4 => u64::MAX - PAGE * rng.below(3) + 1,
            _ => *rng.pick(all),
        };
        let len = *rng.pick(&[1, PAGE, 2 * PAGE, 1 << 16, 1 << 21, 1 << 24, 1 << 46, u64::MAX - PAGE, 0]);
        let prot = rng.below(8);
        let fixed = *rng.pick(&[libc::MAP_FIXED, libc::MAP_FIXED_NOREPLACE, 0]) as u64;
        let kind = *rng.pick(&[libc::MAP_PRIVATE, libc::MAP_SHARED, libc::MAP_SHARED_VALIDATE]) as u64;
        let more =
            *rng.pick(&[0, libc::MAP_GROWSDOWN, libc::MAP_POPULATE, libc::MAP_NORESERVE, libc::MAP_STACK])
                as u64;
        let anonymous = libc::MAP_ANONYMOUS as u64;
        let (nr, args) = match rng.below(12) {
            0..=2 => (libc::SYS_mmap, [at, len, prot, fixed | kind | more | anonymous, u64::MAX, 0]),
            3 => (libc::SYS_mmap, [at, len, prot, fixed | kind | more, rng.below(21), PAGE * rng.below(3)]),
            4 => (libc::SYS_munmap, [at, len, 0, 0, 0, 0]),
            5 => (libc::SYS_mprotect, [at, len, prot, 0, 0, 0]),
            6 => (libc::SYS_mremap, [at, len, *rng.pick(&[PAGE, 1 << 16]), rng.below(8), spare, 0]),
            7 => (libc::SYS_mremap, [spare, 1 << 16, 1 << 16, 3, at, 0]),
            8 => (libc::SYS_madvise, [at, len, rng.below(26), 0, 0, 0]),
            9 => (libc::SYS_brk, [at, 0, 0, 0, 0, 0]),
            10 => (
                *rng.pick(&[libc::SYS_mlock, libc::SYS_msync, libc::SYS_mincore, NR_MSEAL]),
                [at, len, spare, 0, 0, 0],
            ),
            _ => {
                let id = sys::call(libc::SYS_shmget, [0, 1 << 16, 0o1600, 0, 0, 0]);
                (libc::SYS_shmat, [id as u64, at, rng.below(2) * 0x4000, 0, 0, 0])
            }
        };
        // A huge length at an address below would be one's own memory.
        if at < first && at.checked_add(len).is_some_and(|end| len > 1 << 24 || end <= first) {
            continue;
        }
        let result = sys::call(nr, args);
        let changes = matches!(nr, libc::SYS_mmap) && fixed & libc::MAP_FIXED as u64 != 0;
        if changes && result > 0 && at >= first {
            return 3;
        }
        if nr == libc::SYS_mremap && args[0] == spare && result > 0 {
            return 4;
        }
    }
    if picture(text) != before || sys::call(libc::SYS_getppid, [0; 6]) != parent {
        return 5;
    }
    (0..50).for_each(|_| some_call(&mut rng));
    0
}

pub fn run(warden: &mut Warden) -> Result<(), String> {
    let text = warden.hidden.text();
    let text: Vec<u64> = text.into_iter().take(1).collect();
    let all: Vec<u64> = warden.hidden.pages.iter().map(|p| p.at).collect();
    let (first, last) = warden.options.only.map_or((0, u64::MAX), |n| (n, n + 1));
    for n in first..last {
        if n >= 5 && warden.elapsed() > warden.time() {
            break;
        }
        let seed = Rng::new(warden.options.seed, n).next();
        let end =
            warden.attack(LIMIT, || attacker(&text, &all, seed)).map_err(|why| format!("{why} (try {n})"))?;
        match end {
            End::Exited(0) => {}
            End::Exited(3 | 4) => return Err(format!("something was mapped over the stub (try {n})")),
            End::Exited(5) => return Err(format!("mapping calls changed the stub (try {n})")),
            end => return Err(format!("mapping calls beyond the end hurt their caller: {end:?} (try {n})")),
        }
    }
    Ok(())
}
