//! How a system-call site is patched: which bytes are replaced by what.
//!
//! The `syscall` instruction itself stays, so that whoever jumps to it, restarts it or stands on it goes on as before. The instruction in front of it
//! becomes a jump: five bytes to the site's slot, or, when it is shorter, two bytes to padding nearby that has room for the five. The
//! slot does what that instruction did and goes to the gate.
//!
//! x86 code can't be read backwards, so the instruction in front is found by decoding the function from its start. Padding counts as such
//! only behind a return or a jump, on the straight way from the site, where nothing but no-operations lies.

use alloc::vec::Vec;
use core::ops::Range;
use iced_x86::{Code, Decoder, DecoderOptions, FlowControl, Instruction, Mnemonic};

/// `syscall`.
pub(super) const SYSCALL: [u8; 2] = [0x0f, 0x05];
/// Longest instruction.
const LONGEST: usize = 15;
/// A jump with a 32-bit displacement.
const JUMP_LEN: usize = 5;
/// A jump with an 8-bit displacement.
const SHORT_JUMP_LEN: usize = 2;
/// How much code of a slot is not the moved instruction.
const SLOT_CODE: usize = 20;
/// Room for one site.
pub(super) const SLOT_LEN: usize = 48;
const _: () = assert!(SLOT_CODE + LONGEST <= SLOT_LEN);

/// What to replace in a page of code.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Plan {
    /// The instruction in front of the site, which moves to the slot.
    pub(super) moved: Range<usize>,
    /// Padding for the jump, when the instruction is too short for it.
    pub(super) pad: Option<usize>,
}

/// How to patch the `syscall` instruction at `site` in a page, which has an instruction of `front` bytes before it.
pub(super) fn plan(page: &[u8], site: usize, front: usize) -> Option<Plan> {
    if page.get(site..site + SYSCALL.len())? != SYSCALL {
        return None;
    }
    let start = site.checked_sub(front)?;
    let moved = start..site;
    if moved.len() >= JUMP_LEN {
        return Some(Plan { moved, pad: None });
    }
    if moved.len() < SHORT_JUMP_LEN {
        return None;
    }
    let pad = padding(page, site + SYSCALL.len())?;
    let reach = start + SHORT_JUMP_LEN + i8::MAX as usize;
    (pad <= reach).then_some(Plan { moved, pad: Some(pad) })
}

/// Length of the instruction in front of the `syscall` instruction that ends a piece of code, which begins with a function; `None` when that
/// instruction can't be moved.
pub(super) fn in_front(code: &[u8]) -> Option<usize> {
    let site = code.len().checked_sub(SYSCALL.len())?;
    let mut decoder = Decoder::with_ip(64, code, 0, DecoderOptions::NONE);
    let mut last = Instruction::default();
    while decoder.position() < site {
        decoder.decode_out(&mut last);
        if last.is_invalid() {
            return None;
        }
    }
    (decoder.position() == site && site > 0 && movable(&last)).then(|| last.len())
}

fn movable(instruction: &Instruction) -> bool {
    instruction.flow_control() == FlowControl::Next
        && !instruction.is_ip_rel_memory_operand()
        && instruction.code() != Code::Syscall
}

/// Padding with room for a jump on the straight way from `from` to the end of the page.
fn padding(page: &[u8], from: usize) -> Option<usize> {
    let code = page.get(from..)?;
    let mut decoder = Decoder::with_ip(64, code, from as u64, DecoderOptions::NONE);
    let mut instruction = Instruction::default();
    let mut behind_end = false;
    let mut start = from;
    while decoder.can_decode() {
        decoder.decode_out(&mut instruction);
        let end = from + decoder.position();
        if instruction.is_invalid() {
            return None;
        }
        if behind_end && matches!(instruction.mnemonic(), Mnemonic::Nop | Mnemonic::Int3) {
            if end - start >= JUMP_LEN {
                return Some(start);
            }
            continue;
        }
        behind_end = matches!(
            instruction.flow_control(),
            FlowControl::Return | FlowControl::UnconditionalBranch | FlowControl::IndirectBranch
        );
        start = end;
    }
    None
}

/// A jump from `from` to `to`; `None` when that is too far.
fn jump(from: u64, to: u64) -> Option<[u8; JUMP_LEN]> {
    let distance = i32::try_from(to.wrapping_sub(from + JUMP_LEN as u64) as i64).ok()?;
    let [a, b, c, d] = distance.to_le_bytes();
    Some([0xe9, a, b, c, d])
}

impl Plan {
    /// Changes the page, which lies at `at`, so that the site uses the slot at `slot`. `None`, and nothing changed, when that is too far away.
    pub(super) fn apply(&self, page: &mut [u8], at: u64, slot: u64) -> Option<()> {
        let start = self.moved.start;
        let far = jump(at + self.pad.unwrap_or(start) as u64, slot)?;
        page.get_mut(self.moved.clone())?.fill(0x90);
        match self.pad {
            None => page.get_mut(start..start + JUMP_LEN)?.copy_from_slice(&far),
            Some(pad) => {
                page.get_mut(pad..pad + JUMP_LEN)?.copy_from_slice(&far);
                let near = [0xeb, (pad - start - SHORT_JUMP_LEN) as u8];
                page.get_mut(start..start + SHORT_JUMP_LEN)?.copy_from_slice(&near);
            }
        }
        Some(())
    }

    /// The slot's code: the moved instruction; `lea rcx, site`; `movabs r11, gate`; `jmp r11`.
    pub(super) fn slot(&self, page: &[u8], at: u64, slot: u64, gate: u64) -> Option<Vec<u8>> {
        let mut code = page.get(self.moved.clone())?.to_vec();
        let site = at + self.moved.end as u64;
        let behind_lea = slot + code.len() as u64 + 7;
        let distance = i32::try_from(site.wrapping_sub(behind_lea) as i64).ok()?;
        code.extend_from_slice(&[0x48, 0x8d, 0x0d]);
        code.extend_from_slice(&distance.to_le_bytes());
        code.extend_from_slice(&[0x49, 0xbb]);
        code.extend_from_slice(&gate.to_le_bytes());
        code.extend_from_slice(&[0x41, 0xff, 0xe3]);
        Some(code)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Some code, the instruction in front, the call, a return, and what is behind.
    fn page(front: &[u8], behind: &[u8]) -> (Vec<u8>, usize) {
        let mut page = Vec::new();
        // push rbp ; mov rbp, rsp ; sub rsp, 16 ; xor ebx, ebx ; test rdi, rdi, many times.
        for _ in 0..10 {
            page.extend_from_slice(&[
                0x55, 0x48, 0x89, 0xe5, 0x48, 0x83, 0xec, 0x10, 0x31, 0xdb, 0x48, 0x85, 0xff,
            ]);
        }
        page.extend_from_slice(front);
        let site = page.len();
        // syscall ; cmp rax, -4096 ; ja +5 ; ret
        page.extend_from_slice(&[0x0f, 0x05, 0x48, 0x3d, 0, 0xf0, 0xff, 0xff, 0x77, 5, 0xc3]);
        page.extend_from_slice(behind);
        page.resize(4096, 0xcc);
        (page, site)
    }

    fn planned(page: &[u8], site: usize) -> Option<Plan> {
        plan(page, site, in_front(&page[..site + 2])?)
    }

    #[test]
    fn a_long_instruction_in_front_becomes_a_jump() {
        let front = [0xb8, 1, 0, 0, 0];
        let (mut code, site) = page(&front, &[]);
        let plan = planned(&code, site).unwrap();
        assert_eq!(plan, Plan { moved: site - 5..site, pad: None });
        let (at, slot) = (0x7000_0000, 0x7010_0000);
        let moved = plan.slot(&code, at, slot, 0x1122_3344_5566).unwrap();
        assert_eq!(moved[..5], front);
        let back = i32::from_le_bytes(moved[8..12].try_into().unwrap());
        assert_eq!((slot + 12).wrapping_add_signed(back.into()), at + site as u64);
        assert!(moved.len() <= SLOT_LEN);
        let before = code.clone();
        plan.apply(&mut code, at, slot).unwrap();
        assert_eq!(code[site - 5], 0xe9);
        let far = i32::from_le_bytes(code[site - 4..site].try_into().unwrap());
        assert_eq!((at + site as u64).wrapping_add_signed(far.into()), slot);
        assert_eq!((&code[..site - 5], &code[site..]), (&before[..site - 5], &before[site..]));
        assert!(plan.apply(&mut code, at, at + (1 << 33)).is_none(), "too far for a jump");
    }

    #[test]
    fn a_short_one_needs_padding_behind_an_end() {
        // xor eax, eax ; … ; nop word [rax + rax]
        let pad = [0x0f, 0x1f, 0x84, 0, 0, 0, 0, 0];
        let (mut code, site) = page(&[0x31, 0xc0], &pad);
        let plan = planned(&code, site).unwrap();
        assert_eq!(plan, Plan { moved: site - 2..site, pad: Some(site + 11) });
        plan.apply(&mut code, 0x1000, 0x2000).unwrap();
        assert_eq!(code[site - 2..site + 2], [0xeb, 11, 0x0f, 0x05]);
        assert_eq!(code[site + 11], 0xe9);
        // Not enough of it, something that may be called, or none in reach.
        assert_eq!(
            planned(&page(&[0x31, 0xc0], &[0x0f, 0x1f, 0x00, 0x55, 0xc3]).0, site),
            Some(Plan {
                moved: site - 2..site,
                // The filling of the test's page behind the second return.
                pad: Some(site + 16),
            })
        );
        let mut endbr = alloc::vec![0xf3, 0x0f, 0x1e, 0xfa];
        endbr.extend_from_slice(&[0x48, 0x89, 0xe5].repeat(60));
        assert_eq!(planned(&page(&[0x31, 0xc0], &endbr).0, site), None);
    }

    #[test]
    fn doubtful_instructions_are_left_alone() {
        // A store of a constant whose end looks like `mov eax, 1`.
        let (code, site) = page(&[0xc7, 0x44, 0x24, 0xb8, 1, 0, 0, 0], &[]);
        assert_eq!(planned(&code, site).unwrap().moved, site - 8..site);
        // Relative to where it stands; a jump; a call; another system call.
        for front in [&[0x8b, 0x05, 1, 0, 0, 0][..], &[0x75, 0], &[0xe8, 0, 0, 0, 0], &[0x0f, 0x05]] {
            let (code, site) = page(front, &[]);
            assert_eq!(planned(&code, site), None, "{front:x?}");
        }
        // Not in one page, no such instruction, beyond the end.
        let (code, site) = page(&[0xb8, 1, 0, 0, 0], &[]);
        assert_eq!(plan(&code[site - 3..], 3, 5), None);
        assert_eq!(plan(&code, site - 1, 5), None);
        assert_eq!(plan(&code[..site + 1], site, 5), None);
        assert_eq!(in_front(&[0x0f, 0x05]), None);
        assert_eq!(in_front(&code[2..site + 2]), Some(5), "decoding finds its way back");
    }
}
