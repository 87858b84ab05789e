//! Signal frames on the guest's stack (x86_64: `struct rt_sigframe`, `uapi/asm/sigcontext.h`, `uapi/asm/ucontext.h`).

use super::deliver::flags;
use super::{SigInfo, SigSet, interrupts_wait};
use crate::error::{Result, err};
use crate::task::{Cx, Task};
use crate::user::UserPtr;
use abi::Errno;
use abi::signal::{RawSiginfo, SigAltStack, Sigaction};
use alloc::vec::Vec;
use hal::{Regs, VirtAddr};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// `struct sigcontext` for 64-bit programs.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Sigcontext {
    r8: u64,
    r9: u64,
    r10: u64,
    r11: u64,
    r12: u64,
    r13: u64,
    r14: u64,
    r15: u64,
    rdi: u64,
    rsi: u64,
    rbp: u64,
    rbx: u64,
    rdx: u64,
    rax: u64,
    rcx: u64,
    rsp: u64,
    rip: u64,
    eflags: u64,
    cs: u16,
    gs: u16,
    fs: u16,
    ss: u16,
    err: u64,
    trapno: u64,
    oldmask: u64,
    cr2: u64,
    fpstate: u64,
    reserved: [u64; 8],
}

/// `struct rt_sigframe`.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Frame {
    pretcode: u64,
    uc_flags: u64,
    uc_link: u64,
    uc_stack: SigAltStack,
    mcontext: Sigcontext,
    sigmask: SigSet,
    info: RawSiginfo,
}

const UC_FP_XSTATE: u64 = 1;
const UC_SIGCONTEXT_SS: u64 = 2;
const UC_STRICT_RESTORE_SS: u64 = 4;
/// Bytes below the stack pointer that belong to the interrupted function (System V ABI).
const RED_ZONE: u64 = 128;
const USER_CS: u16 = 0x33;
const USER_SS: u16 = 0x2b;
/// Direction, resume and trap flag are off when a handler starts.
const EFLAGS_CLEAR: u64 = 0x400 | 0x1_0000 | 0x100;
/// The flags that a frame may set (`FIX_EFLAGS`): AC, OF, DF, TF, SF, ZF, AF, PF, CF, RF.
const EFLAGS_RESTORED: u64 = 0x4_0000 | 0x800 | 0x400 | 0x100 | 0x80 | 0x40 | 0x10 | 0x4 | 0x1 | 0x1_0000;
const SS_ONSTACK: i32 = 1;
const SS_DISABLE: i32 = 2;
const SS_AUTODISARM: i32 = 1 << 31;

/// Whether `sp` lies on the alternate stack.
pub(crate) fn on_alt_stack(stack: &SigAltStack, sp: u64) -> bool {
    // With SS_AUTODISARM the kernel does not track it.
    stack.flags & SS_AUTODISARM == 0 && stack.size > 0 && sp > stack.sp && sp - stack.sp <= stack.size
}

/// `ss_flags` as `sigaltstack(2)` reports them.
pub(crate) fn alt_stack_flags(task: &Task, sp: u64) -> i32 {
    let stack = task.signals.lock().altstack;
    let state = if stack.size == 0 {
        SS_DISABLE
    } else if on_alt_stack(&stack, sp) {
        SS_ONSTACK
    } else {
        0
    };
    state | (stack.flags & SS_AUTODISARM)
}

/// Builds the frame of a handler and points the registers at it. Fails when the stack can't take it.
pub(super) fn push(cx: &Cx, info: &SigInfo, action: &Sigaction, mask: SigSet) -> Result<()> {
    if action.flags & flags::RESTORER == 0 {
        return err(Errno::EFAULT);
    }
    // The handler begins with the initial state.
    let mut fpu = cx.fpu_image.take();
    fpu.clear();
    cx.user.borrow_mut().swap_fpu(&mut fpu);
    let pushed = push_with(cx, info, action, mask, &fpu);
    if pushed.is_err() {
        cx.user.borrow_mut().swap_fpu(&mut fpu);
    }
    cx.fpu_image.set(fpu);
    pushed
}

fn push_with(cx: &Cx, info: &SigInfo, action: &Sigaction, mask: SigSet, fpu: &[u8]) -> Result<()> {
    let regs = *cx.user.borrow_mut().regs();
    let altstack = cx.task.signals.lock().altstack;
    let switch =
        action.flags & flags::ONSTACK != 0 && altstack.size > 0 && !on_alt_stack(&altstack, regs.rsp);
    let mut sp =
        if switch { altstack.sp.wrapping_add(altstack.size) } else { regs.rsp.wrapping_sub(RED_ZONE) };
    let fpstate = if fpu.is_empty() {
        0
    } else {
        sp = sp.wrapping_sub(fpu.len() as u64) & !63;
        UserPtr::<u8>::new(sp).write_bytes(cx, fpu)?;
        sp
    };
    // The ABI wants the stack as after a call: 8 below a multiple of 16.
    sp = (sp.wrapping_sub(size_of::<Frame>() as u64) & !15).wrapping_sub(8);
    // Neither a fresh nor a nested frame may leave the alternate stack at its lower end.
    let within = sp > altstack.sp && sp - altstack.sp <= altstack.size;
    if (switch || on_alt_stack(&altstack, regs.rsp)) && !within {
        return err(Errno::EFAULT);
    }
    let (trapno, error, cr2) = cx.last_fault.get();
    let frame = Frame {
        pretcode: action.restorer,
        uc_flags: UC_SIGCONTEXT_SS | UC_STRICT_RESTORE_SS | if fpstate != 0 { UC_FP_XSTATE } else { 0 },
        uc_link: 0,
        uc_stack: SigAltStack { flags: alt_stack_flags(cx.task, regs.rsp), ..altstack },
        mcontext: Sigcontext {
            err: u64::from(error),
            trapno: u64::from(trapno),
            oldmask: mask.0,
            cr2,
            fpstate,
            ..from_regs(&regs)
        },
        sigmask: mask,
        info: info.to_raw(),
    };
    let at = UserPtr::<Frame>::new(sp);
    at.write(cx, &frame)?;
    if altstack.flags & SS_AUTODISARM != 0 && switch {
        cx.task.signals.lock().altstack = SigAltStack { sp: 0, flags: SS_DISABLE, pad: 0, size: 0 };
    }
    let mut user = cx.user.borrow_mut();
    let regs = user.regs();
    regs.rdi = info.signo as u64;
    regs.rsi = sp + core::mem::offset_of!(Frame, info) as u64;
    regs.rdx = sp + core::mem::offset_of!(Frame, uc_flags) as u64;
    regs.rax = 0;
    regs.rip = action.handler;
    regs.rsp = sp;
    regs.eflags &= !EFLAGS_CLEAR;
    Ok(())
}

/// `rt_sigreturn(2)`: puts back what the frame says. A frame that can't be read is a `SIGSEGV`.
pub(crate) fn sigreturn(cx: &Cx) -> Result<()> {
    let sp = cx.user.borrow_mut().regs().rsp;
    let frame = UserPtr::<Frame>::new(sp.wrapping_sub(8)).read(cx)?;
    let context = &frame.mcontext;
    let mut fpu = cx.fpu_image.take();
    fpu.clear();
    if context.fpstate != 0 {
        read_fpu(cx, context.fpstate, &mut fpu)?;
    }
    {
        let mut signals = cx.task.signals.lock();
        signals.mask = frame.sigmask.as_mask();
        let stack = &frame.uc_stack;
        let disabled = stack.flags & SS_DISABLE != 0;
        signals.altstack = if disabled {
            SigAltStack::default()
        } else {
            SigAltStack { flags: stack.flags & SS_AUTODISARM, ..*stack }
        };
    }
    // What the new mask lets through is delivered before guest code runs.
    if interrupts_wait(cx.task) {
        cx.task.signal_pending.store(true, core::sync::atomic::Ordering::SeqCst);
    }
    let mut user = cx.user.borrow_mut();
    let regs = user.regs();
    let (fs_base, gs_base) = (regs.fs_base, regs.gs_base);
    let eflags = (regs.eflags & !EFLAGS_RESTORED) | (context.eflags & EFLAGS_RESTORED);
    *regs = Regs { fs_base, gs_base, eflags, ..to_regs(context) };
    user.swap_fpu(&mut fpu);
    cx.fpu_image.set(fpu);
    Ok(())
}

/// The floating-point image of a frame: legacy area, then whatever its software bytes announce.
fn read_fpu(cx: &Cx, at: u64, image: &mut Vec<u8>) -> Result<()> {
    const LEGACY: usize = 512;
    const SW_BYTES: usize = 464;
    const MAGIC1: u32 = 0x4650_5853;
    image.resize(LEGACY, 0);
    cx.mm().read_bytes(cx, VirtAddr(at), image)?;
    let word = |offset: usize| {
        image.get(offset..offset + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_le_bytes)
    };
    let extended = word(SW_BYTES + 4) as usize;
    if word(SW_BYTES) == MAGIC1 && extended > LEGACY && extended <= cx.kernel.machine.fpu_size() {
        image.resize(extended, 0);
        let rest = image.get_mut(LEGACY..).unwrap_or_default();
        cx.mm().read_bytes(cx, VirtAddr(at.saturating_add(LEGACY as u64)), rest)?;
    }
    Ok(())
}

fn from_regs(r: &Regs) -> Sigcontext {
    Sigcontext {
        r8: r.r8,
        r9: r.r9,
        r10: r.r10,
        r11: r.r11,
        r12: r.r12,
        r13: r.r13,
        r14: r.r14,
        r15: r.r15,
        rdi: r.rdi,
        rsi: r.rsi,
        rbp: r.rbp,
        rbx: r.rbx,
        rdx: r.rdx,
        rax: r.rax,
        rcx: r.rcx,
        rsp: r.rsp,
        rip: r.rip,
        eflags: r.eflags,
        cs: USER_CS,
        ss: USER_SS,
        ..Sigcontext::default()
    }
}

fn to_regs(c: &Sigcontext) -> Regs {
    Regs {
        r8: c.r8,
        r9: c.r9,
        r10: c.r10,
        r11: c.r11,
        r12: c.r12,
        r13: c.r13,
        r14: c.r14,
        r15: c.r15,
        rdi: c.rdi,
        rsi: c.rsi,
        rbp: c.rbp,
        rbx: c.rbx,
        rdx: c.rdx,
        rax: c.rax,
        rcx: c.rcx,
        rsp: c.rsp,
        rip: c.rip,
        eflags: c.eflags,
        fs_base: 0,
        gs_base: 0,
    }
}
