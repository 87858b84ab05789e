//! Jumps: to system-call instructions with every number, to every byte of hidden code, to the calls that the stub itself makes.

use crate::barrage::Barrage;
use crate::jump::{self, Regs};
use crate::rng::Rng;
use crate::stub::{self, PAGE};
use crate::sys;
use crate::values::Values;
use crate::warden::Warden;

/// Numbers that are tried: all that the kernel knows and some beyond, the stub's own, those of x32, negative and huge ones.
fn numbers() -> Vec<u64> {
    let mut numbers: Vec<u64> = (0..=600).chain(990..1024).collect();
    numbers.extend((0..8).chain(512..548).map(|n| 0x4000_0000 + n));
    numbers.extend([u64::MAX, u64::MAX - 1, 1 << 31, 1 << 32, (1 << 32) + 39, i32::MAX as u64, 0xffff_ffff]);
    numbers
}

/// Numbers that end or stop the process, or wait, by right; they are tried less often.
const QUIET: [i64; 6] =
    [libc::SYS_exit, libc::SYS_exit_group, libc::SYS_pause, libc::SYS_vfork, libc::SYS_kill, libc::SYS_tkill];

/// A process that is about to jump.
struct Stage {
    values: Values,
    stack: u64,
}

impl Stage {
    /// Registers to arrive with: arguments that look like such, a stack that leads back.
    fn regs(&self, rng: &mut Rng) -> Regs {
        let mut v = || self.values.value(rng);
        let mut regs = Regs {
            rax: v(),
            rbx: v(),
            rcx: v(),
            rdx: v(),
            rsi: v(),
            rdi: v(),
            rbp: v(),
            rsp: self.stack,
            r8: v(),
            r9: v(),
            r10: v(),
            r11: v(),
            r12: v(),
            r13: v(),
            r14: v(),
            r15: v(),
            rflags: 0x202,
            rip: 0,
        };
        if rng.once_in(12) {
            regs.rsp = self.values.value(rng);
        }
        if rng.once_in(30) {
            // Direction, alignment check, single step, nested task, arithmetic.
            regs.rflags |= rng.pick(&[1 << 10, 1 << 18, 1 << 8, 1 << 14, 0xd5]);
        }
        regs
    }

    fn go(&self, regs: &Regs, n: u64) {
        if n % 16 == 0 {
            jump::tick();
        }
        let before = sys::call(libc::SYS_getpid, [0; 6]);
        regs.launch();
        // A child that has come out of it does not go on here.
        if sys::call(libc::SYS_getpid, [0; 6]) != before {
            sys::exit(0);
        }
    }
}

/// Places of system calls: those that nobody says are there, and all others.
fn all_sites(warden: &Warden) -> [Vec<u64>; 2] {
    let shown = sys::code().into_iter().filter(|a| a.name != "[vsyscall]");
    let mut sites: Vec<u64> = shown.flat_map(|a| stub::sites_in(a.start, a.end - a.start)).collect();
    // The legacy page, which only the host can show.
    sites.extend((0..3).map(|i| 0xffff_ffff_ff60_0000 + i * 0x400));
    [warden.hidden.constant().iter().flat_map(|at| stub::sites_in(*at, PAGE)).collect(), sites]
}

pub fn sites(warden: &mut Warden) -> Result<(), String> {
    let kinds = all_sites(warden);
    let numbers = numbers();
    println!("  {} hidden sites, {} others, {} numbers", kinds[0].len(), kinds[1].len(), numbers.len());
    // In turns, so that every number and every site comes early.
    let rounds = kinds.iter().map(Vec::len).max().unwrap_or(1);
    let barrage = Barrage { tries: (numbers.len() * 2 * rounds) as u64, in_order: true };
    let prepare = prepared(warden);
    let seed = warden.options.seed as usize;
    barrage.run(warden, prepare, |stage, n, rng| {
        let (turn, which) = (n as usize / 2, n as usize % 2);
        let number = numbers[turn % numbers.len()];
        let Some(site) = kinds[which].get((turn + turn / numbers.len() + seed) % kinds[which].len().max(1))
        else {
            return;
        };
        if QUIET.contains(&(number as i64)) && which == 1 && !rng.once_in(8) {
            return;
        }
        let mut regs = stage.regs(rng);
        (regs.rax, regs.rip) = (number, *site);
        // What the stub leaves in registers that its calls don't use matters to nobody; what they use does.
        if rng.once_in(4) {
            (regs.rdi, regs.rsi, regs.rdx) = (rng.below(21), stage.values.pointer(rng), rng.below(300));
        }
        stage.go(&regs, n);
    })
}

pub fn offsets(warden: &mut Warden) -> Result<(), String> {
    const TIMES: u64 = 2;
    let mut pages = warden.hidden.text();
    let named = |a: &sys::Area| a.name.contains("gates");
    pages.extend(
        sys::code().iter().filter(|a| named(a)).flat_map(|a| (a.start..a.end).step_by(PAGE as usize)),
    );
    println!("  {} pages", pages.len());
    let barrage = Barrage { tries: pages.len() as u64 * PAGE * TIMES, in_order: false };
    let prepare = prepared(warden);
    barrage.run(warden, prepare, |stage, n, rng| {
        let mut regs = stage.regs(rng);
        regs.rip = pages[(n / TIMES / PAGE) as usize % pages.len()] + n / TIMES % PAGE;
        if rng.once_in(2) {
            // As if it were a call: a number, and a way back.
            (regs.rax, regs.rcx) = (rng.below(460), jump::landing());
        }
        stage.go(&regs, n);
    })
}

fn prepared(warden: &Warden) -> impl Fn() -> Stage + use<> {
    let hidden = warden.hidden.clone();
    move || {
        jump::catch();
        Stage { values: Values::new(&hidden), stack: jump::landing_stack() }
    }
}

/// The stub's private calls: `mov eax, N` in front of `syscall`, N being a number that no kernel has, with words that a report could consist of.
pub fn reports(warden: &mut Warden) -> Result<(), String> {
    let private: Vec<u64> = (1000..1020u32)
        .flat_map(|nr| {
            let mut bytes = vec![0xb8];
            bytes.extend(nr.to_le_bytes());
            stub::places(&warden.hidden, &bytes)
        })
        .collect();
    println!("  {} places", private.len());
    if private.is_empty() {
        return Ok(());
    }
    let areas = warden.hidden.writable();
    let barrage = Barrage { tries: 6000, in_order: false };
    let prepare = prepared(warden);
    barrage.run(warden, prepare, |stage, n, rng| {
        let mut regs = stage.regs(rng);
        regs.rip = *rng.pick(&private);
        regs.rdi = *rng.pick(&[11, 4, 5, 7, 8, 10, 31, 0, 9, 19, 18, 64, 65, u64::MAX, 1 << 31, 17]);
        // A frame is where a frame was: a fault of our own has left one somewhere in the first areas.
        let area = *rng.pick(&areas[..areas.len().min(8)]);
        let frames = find_frames(area);
        regs.rdx = match frames.is_empty() || rng.once_in(4) {
            true => area + rng.below(PAGE) / 8 * 8,
            false => *rng.pick(&frames),
        };
        regs.rsi = match rng.below(4) {
            0 => u64::MAX - rng.below(64),
            1 => area + rng.below(PAGE),
            2 => regs.rdx + 304 + rng.below(16) * 8,
            _ => stage.values.value(rng),
        };
        if rng.once_in(2) {
            // What the frame says: anything, or a fault that would be served.
            for _ in 0..rng.below(24) {
                let at = regs.rdx + rng.below(38) * 8;
                let value = if rng.once_in(2) { rng.below(32) } else { stage.values.value(rng) };
                if at / PAGE == area / PAGE {
                    unsafe { (at as *mut u64).write_volatile(value) };
                }
            }
        }
        stage.go(&regs, n);
    })
}

/// The stub's own way to take rights from memory, with ranges that nobody has ordered: the process's own memory, and the stub's.
pub fn rights(warden: &mut Warden) -> Result<(), String> {
    // mov eax, SYS_mprotect ; syscall
    let places = stub::places(&warden.hidden, &[0xb8, libc::SYS_mprotect as u8, 0, 0, 0, 0x0f, 0x05]);
    println!("  {} places", places.len());
    if places.is_empty() {
        return Ok(());
    }
    let hidden: Vec<u64> = warden.hidden.pages.iter().map(|page| page.at).collect();
    let barrage = Barrage { tries: 6000, in_order: false };
    let prepare = prepared(warden);
    barrage.run(warden, prepare, |stage, n, rng| {
        let mut regs = stage.regs(rng);
        regs.rip = *rng.pick(&places);
        regs.rdi = match rng.below(4) {
            0 => *rng.pick(&hidden),
            1 => stage.values.value(rng),
            2 => regs.rip / PAGE * PAGE - PAGE * rng.below(1 << 13),
            _ => stage.values.pointer(rng) / PAGE * PAGE,
        };
        regs.rsi =
            *rng.pick(&[PAGE, 1, 0, 16 * PAGE, 0xff_f000, 0x100_0000, 1 << 32, 1 << 46, u64::MAX - PAGE]);
        regs.rdx = if rng.once_in(3) { rng.below(8) } else { 0 };
        stage.go(&regs, n);
    })
}

/// Places in a page where a word is that could be the start of `uc_stack` with the page's own address range: frames that were.
fn find_frames(page: u64) -> Vec<u64> {
    let word = |at: u64| unsafe { (at as *const u64).read_volatile() };
    let inside = |at: u64| (page & !0xf_ffff..=page | 0xf_ffff).contains(&word(at));
    (page..page + PAGE - 32)
        .step_by(8)
        .filter(|at| inside(*at) && word(*at + 16).is_multiple_of(4096) && word(*at + 16) != 0)
        .map(|at| at - 16)
        .collect()
}
