//! One copy of a process after the other, of which each has what its parent has at that moment, and nothing of those before.

use crate::kit::prelude::*;
use std::arch::asm;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

const PAGE: usize = 4096;
const SLOTS: usize = 10;
const RW: i32 = PROT_READ | PROT_WRITE;

static FAULTED: AtomicBool = AtomicBool::new(false);

/// Goes on behind the load.
extern "C" fn skip_load(_: i32, _: *mut siginfo_t, context: *mut c_void) {
    FAULTED.store(true, SeqCst);
    // SAFETY: the kernel gives it; it is ours to change.
    unsafe { (*context.cast::<ucontext_t>()).uc_mcontext.gregs[REG_RIP as usize] += 3 };
}

/// What a load finds; `None` for a fault.
fn look(addr: usize) -> Option<u64> {
    let mut word = 0;
    FAULTED.store(false, SeqCst);
    // SAFETY: an instruction of three bytes; a fault is the answer.
    unsafe { asm!("mov rcx, [rax]", in("rax") addr, inout("rcx") word) };
    (!FAULTED.load(SeqCst)).then_some(word)
}

/// What is mapped in a place of one page: what a load finds, and whether stores are allowed.
type Slot = Option<(u64, bool)>;

/// Does something to one of the places.
fn change(base: usize, slots: &mut [Slot; SLOTS], numbers: &mut Numbers, exe: i32) -> R {
    let i = numbers.below(SLOTS);
    let at = base + i * PAGE;
    let store = |value: u64| {
        // SAFETY: the page is writable, and nobody has a reference to it.
        unsafe { (at as *mut u64).write_volatile(value) };
    };
    let value = numbers.below(1 << 30) as u64;
    match (numbers.below(7), slots[i]) {
        (0 | 1, _) => {
            mmap(at, PAGE, RW, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0)?;
            store(value);
            slots[i] = Some((value, true));
        }
        (2, _) => {
            let offset = (numbers.below(8) * PAGE) as i64;
            let mut word = [0u8; 8];
            eq!(sc!(SYS_pread64, exe, word.as_mut_ptr(), 8, offset)?, 8);
            mmap(at, PAGE, PROT_READ, MAP_PRIVATE | MAP_FIXED, exe, offset)?;
            slots[i] = Some((u64::from_le_bytes(word), false));
        }
        (3, _) => {
            munmap(at as *mut u8, PAGE)?;
            slots[i] = None;
        }
        (4, Some((value, _))) => {
            sc!(SYS_mprotect, at, PAGE, PROT_READ)?;
            slots[i] = Some((value, false));
        }
        (5, Some((value, _))) => {
            sc!(SYS_mprotect, at, PAGE, RW)?;
            slots[i] = Some((value, true));
        }
        (_, Some((_, true))) => {
            store(value);
            slots[i] = Some((value, true));
        }
        _ => {}
    }
    Ok(())
}

fn check(base: usize, slots: &[Slot; SLOTS]) -> R {
    for (i, slot) in slots.iter().enumerate() {
        eq!((i, look(base + i * PAGE)), (i, slot.map(|(value, _)| value)));
    }
    Ok(())
}

fn each_has_what_its_parent_has() -> R {
    sig::handle(SIGSEGV, skip_load, 0, &[])?;
    let exe = sc!(SYS_open, c"/proc/self/exe".as_ptr(), O_RDONLY)? as i32;
    let base = map(SLOTS * PAGE, PROT_NONE, MAP_PRIVATE)? as usize;
    munmap(base as *mut u8, SLOTS * PAGE)?;
    let (mut slots, mut numbers) = ([None; SLOTS], Numbers(1));
    for round in 0..200 {
        for _ in 0..numbers.below(4) {
            change(base, &mut slots, &mut numbers, exe)?;
        }
        // Calls that come fast, as those of a shell do.
        for _ in 0..20 {
            sc!(SYS_getppid)?;
        }
        let mut own = (slots, Numbers(round));
        child(|| {
            check(base, &own.0)?;
            for _ in 0..own.1.below(6) {
                change(base, &mut own.0, &mut own.1, exe)?;
            }
            check(base, &own.0)
        })?
        .ok()?;
        check(base, &slots)?;
    }
    Ok(())
}

cases!("memory": each_has_what_its_parent_has);
