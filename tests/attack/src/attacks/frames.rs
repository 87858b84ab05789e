//! Forged signal frames: `rt_sigreturn` made in the stub, where nobody looks at it, with a frame of the attacker's.
//!
//! What belongs to the host task and not to the guest is in there, too: the signal mask, by which a kick can be blocked, and the alternate stack. None of it may
//! stop the kernel, stay behind for the next process, or keep the attacker alive.

use super::calls::{repeat, some_call};
use crate::barrage::Barrage;
use crate::jump::{self, Regs};
use crate::rng::Rng;
use crate::stub;
use crate::sys;
use crate::values::Values;
use crate::warden::{End, Warden};
use std::arch::global_asm;
use std::time::Duration;

/// Offsets in `ucontext_t` (`uapi/asm/ucontext.h`, `uapi/asm/sigcontext.h`), in words.
mod uc {
    pub const STACK: usize = 2;
    pub const STACK_FLAGS: usize = 3;
    pub const STACK_SIZE: usize = 4;
    pub const RSP: usize = 5 + 15;
    pub const RIP: usize = 5 + 16;
    pub const FLAGS: usize = 5 + 17;
    pub const SEGMENTS: usize = 5 + 18;
    pub const FPSTATE: usize = 5 + 23;
    pub const MASK: usize = 37;
}

/// Words of a frame, and behind it room for floating-point state.
const FRAME: usize = 512;
/// Selectors of 64-bit user mode.
const USER: u64 = 0x2b << 48 | 0x33;
/// How long a scenario may take.
const LIMIT: Duration = Duration::from_millis(400);

global_asm!(
    r#"
    .pushsection .text.attack, "ax"
    .globl attack_spin
attack_spin:
    jmp attack_spin
    .globl attack_calls
attack_calls:
    mov eax, 110
    syscall
    jmp attack_calls
    .globl attack_exit
attack_exit:
    xor edi, edi
    mov eax, 231
    syscall
    ud2
    .globl attack_fault
attack_fault:
    mov rax, [8]
    ud2
    .globl attack_step
attack_step:
    pushfq
    or qword ptr [rsp], 0x100
    popfq
    nop
    mov eax, 110
    syscall
    nop
    jmp attack_exit
    .popsection
    "#
);

unsafe extern "C" {
    fn attack_spin();
    fn attack_calls();
    fn attack_exit();
    fn attack_fault();
    fn attack_step();
}

extern "C" fn busy() -> ! {
    let mut rng = Rng::new(5, 5);
    (0..200).for_each(|_| some_call(&mut rng));
    sys::exit(0)
}

extern "C" fn family() -> ! {
    let thread = std::thread::spawn(|| repeat(1000, || sys::call(libc::SYS_getppid, [0; 6])));
    repeat(1000, || sys::call(libc::SYS_sched_yield, [0; 6]));
    drop(thread.join());
    if let Ok(pid) = sys::fork(|| 0) {
        sys::wait(pid);
    }
    sys::exit(0)
}

/// Where the forged frame goes on.
fn then() -> [u64; 7] {
    [
        attack_spin as *const () as u64,
        attack_calls as *const () as u64,
        attack_exit as *const () as u64,
        attack_fault as *const () as u64,
        attack_step as *const () as u64,
        busy as *const () as u64,
        family as *const () as u64,
    ]
}

/// Instructions of the stub that return from a signal.
fn returns(warden: &Warden) -> Vec<u64> {
    // mov eax, 15 ; syscall
    stub::places(&warden.hidden, &[0xb8, 15, 0, 0, 0, 0x0f, 0x05])
}

fn frame() -> &'static mut [u64] {
    unsafe { std::slice::from_raw_parts_mut(sys::pages(FRAME * 8, false).cast(), FRAME) }
}

fn go(at: u64, frame: &[u64]) {
    Regs { rip: at, rsp: frame.as_ptr() as u64, rflags: 0x202, ..Regs::default() }.launch();
}

pub fn run(warden: &mut Warden) -> Result<(), String> {
    let returns = returns(warden);
    println!("  {} returns", returns.len());
    let areas: Vec<u64> = warden.hidden.writable();
    let Some((at, first)) = returns.first().copied().zip(areas.first().copied()) else { return Ok(()) };
    let end = areas.last().map_or(first, |last| last + stub::PAGE);
    let stacks =
        [(0, 0), (0x1000, end - 0x1000), (0, u64::MAX), (first, end - first), (1 << 63, 4096), (first, 2048)];
    // Below the end of an area's stack by what makes a frame lie where frames lie, whatever the alternate stack is.
    let sps = [0, first + 0x3000 + 128, first + 0x1_3000 + 128, first + 0x800, 1 << 63];
    let mut scenarios = Vec::new();
    for mask in [!0, 0, 1 << 9, !(1u64 << 9)] {
        for stack in stacks {
            for sp in sps {
                for to in then() {
                    let own_stack = [
                        busy as *const () as u64,
                        family as *const () as u64,
                        attack_step as *const () as u64,
                    ];
                    if sp == 0 || !own_stack.contains(&to) {
                        scenarios.push((mask, stack, sp, to));
                    }
                }
            }
        }
    }
    // First what is known to matter: signals blocked, and a stack that would be left to the next process.
    let known = |(mask, stack, sp, to): &(u64, (u64, u64), u64, u64)| {
        let blocked = *mask == !0 && *stack == stacks[0] && *sp == 0;
        blocked
            || (*mask == 0 && *stack == stacks[1] && *sp == sps[1] && *to == attack_exit as *const () as u64)
    };
    let (must, mut others): (Vec<_>, Vec<_>) = scenarios.into_iter().partition(known);
    let mut rng = Rng::new(warden.options.seed, 0);
    for i in (1..others.len()).rev() {
        others.swap(i, rng.below(i as u64 + 1) as usize);
    }
    let wanted = warden.options.only;
    for (number, (mask, stack, sp, to)) in must.iter().chain(&others).copied().enumerate() {
        if wanted.is_some_and(|only| only != number as u64) {
            continue;
        }
        if number >= must.len() && warden.elapsed() > warden.time() && wanted.is_none() {
            break;
        }
        let scenario = || {
            let own = unsafe { sys::pages(1 << 20, false).add((1 << 19) - 8) } as u64;
            let frame = frame();
            (frame[uc::STACK], frame[uc::STACK_SIZE], frame[uc::STACK_FLAGS]) = (stack.0, stack.1, 0);
            frame[uc::RSP] = if sp == 0 { own } else { sp };
            (frame[uc::RIP], frame[uc::FLAGS], frame[uc::SEGMENTS], frame[uc::MASK]) =
                (to, 0x202, USER, mask);
            go(at, frame);
            0
        };
        // Calls and spinning have no end of their own.
        let endless = [attack_spin as *const () as u64, attack_calls as *const () as u64].contains(&to);
        let limit = if endless { LIMIT / 8 } else { LIMIT };
        let ended = warden.attack_reported(limit, scenario).map_err(|why| format!("{why} (try {number})"))?;
        if ended == End::TimeUp && !endless {
            return Err(format!("try {number} neither went on nor ended"));
        }
        warden.innocents(1).map_err(|why| format!("{why} (try {number})"))?;
    }
    if wanted.is_some() {
        return Ok(());
    }
    random(warden, &returns, &areas)
}

/// Frames with anything in them.
fn random(warden: &mut Warden, returns: &[u64], areas: &[u64]) -> Result<(), String> {
    let hidden = warden.hidden.clone();
    let prepare = move || {
        jump::catch();
        (Values::new(&hidden), frame().as_mut_ptr())
    };
    warden.restart();
    Barrage { tries: 4000, in_order: false }.run(warden, prepare, |(values, memory), n, rng| {
        let frame = unsafe { std::slice::from_raw_parts_mut(*memory, FRAME) };
        frame.fill(0);
        frame[uc::RSP] = jump::landing_stack_kept();
        (frame[uc::RIP], frame[uc::FLAGS], frame[uc::SEGMENTS]) = (jump::landing(), 0x202, USER);
        let selectors = [0u64, 3, 0x10, 0x18, 0x23, 0x2b, 0x33, 0x63, 0x7b, 0xffff];
        for _ in 0..=rng.below(4) {
            match rng.below(8) {
                0 => frame[uc::FLAGS] ^= 1 << rng.below(22),
                1 => {
                    frame[uc::SEGMENTS] =
                        rng.pick(&selectors) | rng.pick(&selectors) << 48 | rng.pick(&selectors) << 16
                }
                2 => {
                    // Floating-point state: somewhere, with odd control words and sizes.
                    frame[uc::FPSTATE] = frame.as_ptr() as u64 + 1024 + rng.below(3) * 8 * rng.below(3);
                    for _ in 0..rng.below(200) {
                        frame[128 + rng.below(FRAME as u64 - 128) as usize] = values.value(rng);
                    }
                    if rng.once_in(2) {
                        frame[128 + 3] = rng.next();
                        frame[128 + 58] = 0x4650_5853 | rng.below(4096) << 32;
                    }
                }
                3 => frame[uc::FPSTATE] = values.value(rng),
                4 => {
                    frame[uc::RIP] = *rng.pick(&[
                        1 << 63,
                        1 << 47,
                        returns[0],
                        returns[0] + 1,
                        areas[0],
                        0xffff_ffff_ff60_0000,
                    ])
                }
                5 => frame[uc::RSP] = values.value(rng),
                6 => frame[uc::MASK] = rng.next() | rng.next(),
                _ => frame[rng.below(40) as usize] = values.value(rng),
            }
        }
        if n % 8 == 0 {
            jump::tick();
        }
        go(*rng.pick(returns), frame);
    })
}
