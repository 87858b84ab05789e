//! Registers on their way between contexts and runners: in the frame of the signal handler, and in the area's words for the gate.
//!
//! Both are memory that guest code can write: what is read is good for nothing but the guest's own registers.

use crate::context::{Full, Regs};
use crate::filter::AUDIT_ARCH_X86_64;
use crate::gate::SYSCALL_LEN;
use crate::layout::{
    self, AREA_CLOCK_STACK, AREA_CLOCK_STACK_END, AREA_PLACES, PLACE_LEN, PLACE_REGS, call, order, uc,
};
use crate::runner::{Inner, Runner};
use std::ops::Range;

/// Words of a frame's general registers.
const WORDS: usize = 18;
/// Positions among them.
const RDI: usize = 8;
const RSI: usize = 9;
const RDX: usize = 12;
const RAX: usize = 13;
const RCX: usize = 14;
const RSP: usize = 15;
const RIP: usize = 16;
const EFLAGS: usize = 17;
/// Positions of a call's arguments, in order.
const ARGUMENTS: [usize; 6] = [RDI, RSI, RDX, 2, 0, 1];
/// Positions of [`call::KEPT`].
const KEPT: [usize; 6] = [10, 11, 4, 5, 6, 7];
/// Offset of `XSTATE_BV` in an image.
const XSTATE_BV: usize = 512;
/// The zero flag.
const ZF: u64 = 1 << 6;
/// The trap flag.
const TF: u64 = 1 << 8;

/// The parts of an image that mean something when these state components are in use (SDM vol. 1, 13.4 and 13.5): `MXCSR` and the header always; those
/// of x87, SSE and AVX; all others together.
fn parts(in_use: u64, len: usize) -> impl Iterator<Item = Range<usize>> {
    let parts = [
        (!0, 24..32),
        (!0, XSTATE_BV..XSTATE_BV + 64),
        (1, 0..24),
        (1, 32..160),
        (2, 160..416),
        (4, 576..832),
        (!7, 832..len.max(832)),
    ];
    let clip = move |part: Range<usize>| part.start.min(len)..part.end.min(len);
    parts
        .into_iter()
        .filter(move |(bits, _)| *bits == !0 || in_use & bits != 0)
        .map(move |(_, part)| clip(part))
}

impl Runner {
    /// Copies the state out of the frame.
    pub(crate) fn read_frame(&self, inner: &Inner, full: &mut Full) {
        let at = self.uc_offset();
        let words: [u64; WORDS] = std::array::from_fn(|i| self.area.load(at + uc::GREGS + i * 8));
        full.regs = Regs::from_words(&words, inner.bases);
        full.fpu.resize(self.fpu.1, 0);
        self.area.read(self.fpu.0, &mut full.fpu);
    }

    /// Puts a state into the frame; everything else in it becomes what it was at first.
    pub(crate) fn write_frame(&self, inner: &mut Inner, full: &Full) {
        let mut frame = self.fresh_uc;
        for (i, word) in full.regs.to_words().iter().enumerate() {
            frame[uc::GREGS + i * 8..uc::GREGS + i * 8 + 8].copy_from_slice(&word.to_le_bytes());
        }
        frame[uc::SIGMASK..uc::SIGMASK + 8].fill(0);
        self.area.write(self.uc_offset(), &frame);
        let usable = full.fpu.len() == self.fpu.1;
        self.area.write(self.fpu.0, if usable { &full.fpu } else { &self.fresh_fpu });
        inner.bases = (full.regs.fs_base, full.regs.gs_base);
        self.write_bases(inner);
    }

    /// The call that a `SIGSYS` is about, if it is one of this instruction set: number, arguments, address behind the instruction.
    pub(crate) fn call_in_frame(&self, report: &[u64; 6]) -> Option<(u64, [u64; 6], u64)> {
        let get = |i: usize| self.area.load(self.uc_offset() + uc::GREGS + i * 8);
        let args = ARGUMENTS.map(get);
        (self.arch_of_call(report) == AUDIT_ARCH_X86_64).then(|| (u64::from(get(RAX) as u32), args, get(RIP)))
    }

    /// Sets the register with a call's result.
    pub(crate) fn set_result(&self, result: u64) {
        self.area.store(self.uc_offset() + uc::GREGS + RAX * 8, result);
    }

    /// Tells the stub FS and GS base for the way back. A guest without a GS base of its own gets that of the area, by which the gate finds it.
    pub(crate) fn write_bases(&self, inner: &Inner) {
        let gs = if inner.bases.1 == 0 { self.at } else { inner.bases.1 };
        self.area.store(self.uc_offset() + uc::SPARE, inner.bases.0);
        self.area.store(self.uc_offset() + uc::SPARE + 8, gs);
    }

    /// FS and GS base of guest code as a report of the handler says.
    pub(crate) fn bases(args: &[u64; 6]) -> (u64, u64) {
        let areas = layout::STATE..layout::STATE + layout::STATE_LEN;
        (args[3], if areas.contains(&args[4]) { 0 } else { args[4] })
    }

    /// The software bytes and the end magic of an image are the host's own.
    fn sign_fpu(&self, fpu: &mut [u8]) {
        let len = fpu.len();
        for part in [464..512, len.max(516) - 4..len] {
            fpu[part.clone()].copy_from_slice(&self.fresh_fpu[part]);
        }
    }

    /// Merges a floating-point image of a guest's signal frame into one that this machine accepts; `None` when it can't.
    pub(crate) fn acceptable_fpu(&self, image: &[u8]) -> Option<Vec<u8>> {
        let len = self.fpu.1;
        if image.len() != len && image.len() != 512 {
            return None;
        }
        let mut fpu = self.fresh_fpu.clone();
        fpu[..image.len()].copy_from_slice(image);
        self.sign_fpu(&mut fpu);
        if len > 512 {
            // So is the header where the image has none.
            if image.len() == 512 {
                fpu[512..520].copy_from_slice(&3u64.to_le_bytes());
            } else {
                // Features that the host does not know, and the reserved rest of the header, make rt_sigreturn fail.
                let known = u64::from_le_bytes(self.fresh_fpu[472..480].try_into().ok()?);
                let asked = u64::from_le_bytes(fpu[512..520].try_into().ok()?);
                fpu[512..520].copy_from_slice(&(asked & known).to_le_bytes());
                fpu[520..576].fill(0);
            }
        }
        // Reserved bits of MXCSR make it fail too.
        let mask = match u32::from_le_bytes(fpu[28..32].try_into().ok()?) {
            0 => 0xffbf,
            mask => mask,
        };
        let mxcsr = u32::from_le_bytes(fpu[24..28].try_into().ok()?) & mask;
        fpu[24..28].copy_from_slice(&mxcsr.to_le_bytes());
        Some(fpu)
    }

    /// The registers that the gate saved in a place, at call `nr`.
    pub(crate) fn read_place(&self, place: usize, nr: u64, full: &mut Full) {
        self.read_loaded(place, full);
        full.regs.rax = nr;
    }

    /// The registers that the gate loads from a place.
    fn read_loaded(&self, place: usize, full: &mut Full) {
        let words: [u64; WORDS] = std::array::from_fn(|i| self.area.load(self.reg(place, i)));
        full.regs = Regs::from_words(&words, (self.area.load(self.reg(place, WORDS)), 0));
        let fpu = &mut full.fpu;
        let at = self.base + place_offset(place) as usize;
        let in_use = self.area.load(at + XSTATE_BV);
        let before =
            fpu.get(XSTATE_BV..XSTATE_BV + 8).and_then(|b| b.try_into().ok()).map(u64::from_le_bytes);
        match before.filter(|_| fpu.len() == self.fresh_fpu.len()) {
            // What was in use and is not any more.
            Some(before) => {
                for part in parts(before & !in_use, fpu.len()) {
                    fpu[part.clone()].copy_from_slice(&self.fresh_fpu[part]);
                }
            }
            None => self.fresh_fpu.clone_into(fpu),
        }
        for part in parts(in_use, fpu.len()) {
            self.area.read(at + part.start, &mut fpu[part]);
        }
        self.sign_fpu(fpu);
    }

    /// Whether the gate can load these registers.
    pub(crate) fn can_load(&self, full: &Full) -> bool {
        full.regs.gs_base == 0 && full.regs.eflags & TF == 0 && self.components() != 0
    }

    /// Puts registers into the runner's place, where the gate loads them from.
    pub(crate) fn write_place(&self, inner: &mut Inner, full: &Full) {
        let place = inner.places.current();
        for (i, word) in full.regs.to_words().into_iter().enumerate() {
            self.area.store(self.reg(place, i), word);
        }
        self.area.store(self.reg(place, WORDS), full.regs.fs_base);
        let at = self.base + place_offset(place) as usize;
        let fpu = if full.fpu.len() == self.fpu.1 { &full.fpu } else { &self.fresh_fpu };
        let in_use = fpu.get(XSTATE_BV..XSTATE_BV + 8).and_then(|b| b.try_into().ok());
        for part in parts(in_use.map_or(!0, u64::from_le_bytes), fpu.len()) {
            // A signal handler's end brings back what its beginning took.
            self.area.write_changes(at + part.start, &fpu[part]);
        }
        inner.bases = (full.regs.fs_base, 0);
    }

    /// Sets the register with a call's result in a place.
    pub(crate) fn set_place_result(&self, place: usize, result: u64) {
        self.area.store(self.reg(place, RAX), result);
    }

    fn reg(&self, place: usize, i: usize) -> usize {
        self.base + (place_offset(place) + PLACE_REGS) as usize + i * 8
    }

    /// The handler's frame may show the runner inside the gate. Afterwards it shows it at the `syscall` instruction that the call came from;
    /// behind it when the call has been answered; or where the registers are that it was to load. Whether it did.
    pub(crate) fn leave_gate(&self, inner: &mut Inner) -> bool {
        let frame = self.uc_offset() + uc::GREGS;
        let get = |i: usize| self.area.load(frame + i * 8);
        let set = |i: usize, value| self.area.store(frame + i * 8, value);
        let gate = &self.addresses.gate;
        let (ip, sp) = (get(RIP), get(RSP));
        let clock_stack = self.at + AREA_CLOCK_STACK..self.at + AREA_CLOCK_STACK_END + 1;
        let asks_clock = ip >= layout::REGION && clock_stack.contains(&sp);
        if (gate.clock..gate.clocked).contains(&ip) || (gate.viewing..gate.others).contains(&ip) || asks_clock
        {
            self.restore_arguments();
            let taken = ip == gate.taken && get(EFLAGS) & ZF != 0;
            let (back, result) = match ip {
                _ if (gate.viewed..gate.given).contains(&ip) => (SYSCALL_LEN, self.get(call::ARGS + 16)),
                _ if taken || (gate.given..gate.refused).contains(&ip) => (SYSCALL_LEN, self.get(call::TIME)),
                _ => (0, self.get(call::NUMBER)),
            };
            let site = self.get(call::SITE);
            for (kept, i) in (call::KEPT..).step_by(8).zip(KEPT) {
                set(i, self.get(kept));
            }
            set(RSP, self.get(call::CLOCK_SP));
            set(RAX, result);
            set(RCX, site);
            set(RIP, site.wrapping_add(back));
            return true;
        }
        if !(gate.start..gate.end).contains(&ip) {
            return false;
        }
        let (back, result) = match ip {
            _ if ip >= gate.load => return self.show_loaded(inner),
            _ if ip == gate.known || ip == gate.answered => (SYSCALL_LEN, get(RAX)),
            _ if ip > gate.answered => (0, get(RAX)),
            _ if ip >= gate.posted => return self.leave_call(inner),
            _ if ip >= gate.posting => {
                set(RCX, self.get(call::SITE));
                (0, get(RAX))
            }
            _ if ip == gate.closed || ip == gate.told => (SYSCALL_LEN, 0),
            _ if (gate.telling..gate.told).contains(&ip) => {
                self.restore_arguments();
                set(RCX, self.get(call::SITE));
                (0, get(RAX))
            }
            _ if ip >= gate.action && ip < gate.acted => (0, libc::SYS_rt_sigaction as u64),
            _ if ip >= gate.clock => (0, get(RAX)),
            _ if ip == gate.masked || ip == gate.masked + 2 => (SYSCALL_LEN, 0),
            _ if ip >= gate.mask && ip < gate.masked => (0, libc::SYS_rt_sigprocmask as u64),
            _ => (0, get(RAX)),
        };
        set(RIP, get(RCX).wrapping_add(back));
        set(RAX, result);
        true
    }

    /// Has the frame show the arguments that the gate has left in the area.
    fn restore_arguments(&self) {
        let frame = self.uc_offset() + uc::GREGS;
        for (arg, i) in (0..).zip(ARGUMENTS) {
            self.area.store(frame + i * 8, self.get(call::ARGS + 8 * arg));
        }
    }

    /// The frame shows the runner where a call waits.
    fn leave_call(&self, inner: &mut Inner) -> bool {
        let frame = self.uc_offset() + uc::GREGS;
        let (site, call) = (self.get(call::SITE), self.get(call::CALL));
        let (ip, result) = match self.order_for((call >> 32) as u32) {
            Some(order::LOAD) => return self.show_loaded(inner),
            Some(answered @ (order::ANSWERED | order::WITHDRAW)) => {
                // It may have been done, and may be done again.
                inner.undone = inner.withdrawn.filter(|_| answered == order::WITHDRAW);
                (site.wrapping_add(SYSCALL_LEN), self.get(call::RESULT))
            }
            _ => (site, u64::from(call as u32)),
        };
        self.restore_arguments();
        for (i, value) in [(RIP, ip), (RCX, ip), (RAX, result)] {
            self.area.store(frame + i * 8, value);
        }
        self.drop_call(inner);
        true
    }

    /// Has the frame show the registers that the gate was to load.
    fn show_loaded(&self, inner: &mut Inner) -> bool {
        let mut full = Full::default();
        self.read_loaded(inner.places.current(), &mut full);
        full.fpu = self.acceptable_fpu(&full.fpu).unwrap_or_default();
        self.write_frame(inner, &full);
        self.drop_call(inner);
        true
    }
}

/// The flags behind a call through the gate.
pub(crate) const FLAGS: u64 = 0x202;

/// Where a place for registers is in an area.
pub(crate) const fn place_offset(place: usize) -> u64 {
    AREA_PLACES + place as u64 * PLACE_LEN
}
