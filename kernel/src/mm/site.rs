//! How a system-call site is patched: which bytes are replaced by what.
//!
//! The `syscall` instruction itself stays, so that whoever jumps to it, restarts it or stands on it goes on as before. The instruction in front of it
//! becomes a jump: five bytes to the site's slot, or, when it is shorter, two bytes to padding nearby that has room for the five. The
//! slot does what that instruction did and goes to the gate. Where there is no padding, the nearest instruction further in front that is long enough
//! becomes the jump, and the slot does what all from there on do; those between stay as they are, for whoever jumps to one of them.
//!
//! x86 code can't be read backwards, so the instruction in front is found by decoding the function from its start. Padding counts as such
//! only behind a return or a jump, on the straight way through the function, where nothing but no-operations lies and no jump leads.

use super::fault::read_file;
use super::functions;
use alloc::vec::Vec;
use core::ops::Range;
use hal::HostFile;
use iced_x86::{Code, Decoder, DecoderOptions, FlowControl, Instruction, Mnemonic, OpKind, Register};

/// Has the decoder of instructions make its tables, which takes a third of a millisecond by which the first site would take longer otherwise.
pub(crate) fn prepare_decoder() {
    const NOP: [u8; 1] = [0x90];
    let _tables_are_made = Decoder::new(64, &NOP, DecoderOptions::NONE).decode();
}

/// `syscall`.
pub(super) const SYSCALL: [u8; 2] = [0x0f, 0x05];
/// Longest instruction.
const LONGEST: usize = 15;
/// A jump with a 32-bit displacement.
pub(super) const JUMP_LEN: usize = 5;
/// A jump with an 8-bit displacement.
const SHORT_JUMP_LEN: usize = 2;
/// How far around a site padding is looked for, in bytes: as far as such a jump reaches.
const REACH: usize = 128 + LONGEST;
/// How far in front of a site instructions are looked at.
const MOST_IN_FRONT: usize = 2 * LONGEST;
/// How much code of a slot is not moved instructions.
const SLOT_CODE: usize = 20;
/// How much of a function is decoded at most, in bytes.
const LONGEST_FUNCTION: u64 = 1 << 16;
/// Room for one site.
pub(super) const SLOT_LEN: usize = 48;
/// How many bytes of instructions a slot has room for: any one, and several short ones.
const MOST_MOVED: usize = SLOT_LEN - SLOT_CODE;
const _: () = assert!(MOST_MOVED >= LONGEST);

/// Why a site is not patched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Obstacle {
    /// The place is not in a file's code.
    NoCode,
    /// The file does not say where the function starts, or it is too long.
    NoFunction,
    /// There is no `syscall` instruction where one should be, or not the file's.
    NoSite,
    /// The function starts with it, or can't be decoded up to there.
    NoFront,
    /// The instruction in front is a branch, a call, another site, or part of a signal trampoline.
    NotMovable,
    /// It is in the page before.
    OtherPage,
    /// It is too short, there is no padding in reach, and what is before it can't move, or something may lead into it.
    NoRoom,
}

/// How to patch the site at `offset` in a page that comes from a file, from `page_offset` on.
pub(super) fn plan(
    file: &dyn HostFile,
    page_offset: u64,
    page: &[u8],
    offset: u64,
) -> Result<Plan, Obstacle> {
    let site = page_offset.checked_add(offset).ok_or(Obstacle::NoSite)?;
    let elf = functions::Elf::open(file).ok_or(Obstacle::NoCode)?;
    let address = elf.code_address(site).ok_or(Obstacle::NoCode)?;
    let function = functions::function_at(&elf, address).ok_or(Obstacle::NoFunction)?;
    let range = function.range;
    let len = Some(range.end - range.start).filter(|&len| len <= LONGEST_FUNCTION);
    let len = len.ok_or(Obstacle::NoFunction)? as usize;
    let mut code = alloc::vec![0; len + REACH];
    let read = read_file(file, range.start, &mut code).unwrap_or(0);
    code.truncate(read);
    let mut surroundings = Surroundings::decode(&code, len, (site - range.start) as usize)?;
    if function.signal_frame {
        surroundings.bytes_do_not_matter();
    }
    surroundings.plan(page, (range.start as i64).wrapping_sub(page_offset as i64) as isize, &code)
}

/// An instruction in front of a site.
#[derive(Clone, Copy, Debug)]
struct Front {
    start: usize,
    end: usize,
    /// Where its displacement is, when that is relative to its end.
    relative: Option<usize>,
    movable: bool,
    /// It may be known by its bytes.
    trampoline: bool,
}

impl Front {
    fn of(instruction: &Instruction, decoder: &Decoder<'_>) -> Front {
        let start = instruction.ip() as usize;
        let (relative, adaptable) = relative_displacement(instruction, decoder);
        let movable = instruction.flow_control() == FlowControl::Next
            && adaptable
            && instruction.code() != Code::Syscall;
        let trampoline = is_trampoline(instruction);
        Front { start, end: start + instruction.len(), relative, movable, trampoline }
    }
}

/// Where the displacement of an operand is that is relative to the instruction's place, if there is one; and whether the instruction can be adapted to another place.
pub(super) fn relative_displacement(
    instruction: &Instruction,
    decoder: &Decoder<'_>,
) -> (Option<usize>, bool) {
    if !instruction.is_ip_rel_memory_operand() {
        return (None, true);
    }
    let offsets = decoder.get_constant_offsets(instruction);
    let place = instruction.ip() as usize + offsets.displacement_offset();
    let place = (offsets.displacement_size() == 4).then_some(place);
    (place, place.is_some())
}

/// Whether it is the first half of a signal trampoline, `mov eax, 15` (`rt_sigreturn`): what unwinders and debuggers look for when nothing
/// describes the frame.
fn is_trampoline(instruction: &Instruction) -> bool {
    instruction.mnemonic() == Mnemonic::Mov
        && matches!(instruction.op0_register(), Register::EAX | Register::RAX)
        && matches!(
            instruction.op1_kind(),
            OpKind::Immediate32 | OpKind::Immediate32to64 | OpKind::Immediate64
        )
        && instruction.immediate(1) == 15
}

/// What matters about the code around a site. Places are offsets from the start of its function.
pub(super) struct Surroundings {
    site: usize,
    /// Instructions in front of the site, the nearest first.
    fronts: Vec<Front>,
    /// Padding with room for a jump.
    gaps: Vec<Range<usize>>,
    /// Where jumps lead.
    targets: Vec<usize>,
}

impl Surroundings {
    /// Decodes the first `len` bytes of some code, a function, and up to [`REACH`] behind its site.
    pub(super) fn decode(code: &[u8], len: usize, site: usize) -> Result<Surroundings, Obstacle> {
        if code.get(site..site + SYSCALL.len()) != Some(&SYSCALL) {
            return Err(Obstacle::NoSite);
        }
        let mut found = Surroundings { site, fronts: Vec::new(), gaps: Vec::new(), targets: Vec::new() };
        let mut decoder = Decoder::with_ip(64, code, 0, DecoderOptions::NONE);
        let mut instruction = Instruction::default();
        let (mut gap, mut behind_end) = (0..0, false);
        let until = len.max(site + REACH);
        while decoder.can_decode() && decoder.position() < until {
            decoder.decode_out(&mut instruction);
            let end = decoder.position();
            if instruction.is_invalid() {
                // Data, or something new.
                break;
            }
            let padding = behind_end && matches!(instruction.mnemonic(), Mnemonic::Nop | Mnemonic::Int3);
            if end <= site && site - end < MOST_IN_FRONT {
                let mut front = Front::of(&instruction, &decoder);
                // Nobody comes by there.
                front.movable &= !padding;
                found.fronts.push(front);
            }
            found.note_target(&instruction);
            if padding {
                gap.end = end;
                continue;
            }
            found.note_gap(gap);
            gap = end..end;
            behind_end = matches!(
                instruction.flow_control(),
                FlowControl::Return | FlowControl::UnconditionalBranch | FlowControl::IndirectBranch
            );
        }
        found.note_gap(gap);
        found.fronts.reverse();
        match found.fronts.first() {
            Some(front) if front.end == site => Ok(found),
            _ => Err(Obstacle::NoFront),
        }
    }

    /// Nobody recognises the function by its code.
    fn bytes_do_not_matter(&mut self) {
        self.fronts.iter_mut().for_each(|front| front.trampoline = false);
    }

    fn note_gap(&mut self, gap: Range<usize>) {
        if gap.len() >= JUMP_LEN && gap.start.abs_diff(self.site) < REACH {
            self.gaps.push(gap);
        }
    }

    fn note_target(&mut self, instruction: &Instruction) {
        if instruction.op0_kind() == OpKind::NearBranch64 {
            let target = instruction.near_branch_target() as usize;
            if target.abs_diff(self.site) <= 2 * REACH {
                self.targets.push(target);
            }
        }
    }

    fn is_target(&self, places: Range<usize>) -> bool {
        self.targets.iter().any(|target| places.contains(target))
    }

    /// How to patch the site in a page, where the function starts at `start`, which may be outside. `code` is what was decoded.
    pub(super) fn plan(&self, page: &[u8], start: isize, code: &[u8]) -> Result<Plan, Obstacle> {
        // What is replaced has to lie in the page, and to be as it was.
        let in_page = |range: &Range<usize>| {
            let from = usize::try_from(start.checked_add_unsigned(range.start)?).ok()?;
            let place = from..from + range.len();
            (page.get(place.clone())? == code.get(range.clone())?).then_some(place)
        };
        let front = self.fronts.first().ok_or(Obstacle::NoFront)?;
        if !front.movable || front.trampoline {
            return Err(Obstacle::NotMovable);
        }
        let place = in_page(&(front.start..self.site + SYSCALL.len())).ok_or(Obstacle::OtherPage)?;
        let moved = place.start..place.end - SYSCALL.len();
        let relative = front.relative.map(|at| at - front.start).into_iter().collect();
        if moved.len() >= JUMP_LEN {
            return Ok(Plan { replaced: moved.clone(), moved, relative, pad: None });
        }
        if moved.len() >= SHORT_JUMP_LEN {
            let behind = front.start + SHORT_JUMP_LEN;
            let free = self.gaps.iter().filter(|gap| !self.is_target((*gap).clone()));
            let near = |gap: &&Range<usize>| i8::try_from(gap.start.wrapping_sub(behind) as isize).is_ok();
            if let Some(pad) = free.filter(near).find_map(in_page) {
                return Ok(Plan { replaced: moved.clone(), moved, relative, pad: Some(pad.start) });
            }
        }
        let movable =
            |front: &&Front| front.movable && !front.trampoline && self.site - front.start <= MOST_MOVED;
        let nearest: Vec<&Front> = self.fronts.iter().take_while(movable).collect();
        let long = nearest.iter().position(|front| front.end - front.start >= JUMP_LEN);
        let moving = long.and_then(|last| nearest.get(..=last)).ok_or(Obstacle::NoRoom)?;
        let first = moving.last().ok_or(Obstacle::NoRoom)?;
        let place = in_page(&(first.start..self.site + SYSCALL.len())).ok_or(Obstacle::OtherPage)?;
        Ok(Plan {
            moved: place.start..place.end - SYSCALL.len(),
            replaced: place.start..place.start + (first.end - first.start),
            relative: moving.iter().filter_map(|front| Some(front.relative? - first.start)).collect(),
            pad: None,
        })
    }
}

/// What to replace in a page of code.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Plan {
    /// The instructions in front of the site that the slot does.
    moved: Range<usize>,
    /// The first of them, which the jump replaces.
    replaced: Range<usize>,
    /// Where displacements are in them that are relative to their place.
    relative: Vec<usize>,
    /// Padding for the jump, when the instruction is too short for it.
    pad: Option<usize>,
}

/// A jump from `from` to `to`; `None` when that is too far.
pub(super) fn jump(from: u64, to: u64) -> Option<[u8; JUMP_LEN]> {
    let distance = i32::try_from(to.wrapping_sub(from + JUMP_LEN as u64) as i64).ok()?;
    let [a, b, c, d] = distance.to_le_bytes();
    Some([0xe9, a, b, c, d])
}

impl Plan {
    /// Where the moved instructions are, in a page that lies at `at`.
    pub(super) fn moved(&self, at: u64) -> Range<u64> {
        at + self.moved.start as u64..at + self.moved.end as u64
    }

    /// Whether two pages are the same where it changes them, and in what it moves.
    pub(super) fn has_same(&self, a: &[u8], b: &[u8]) -> bool {
        let pad = self.pad.map_or(0..0, |pad| pad..pad + JUMP_LEN);
        [self.moved.clone(), pad].into_iter().all(|range| a.get(range.clone()) == b.get(range))
    }

    /// Changes the page, which lies at `at`, so that the site uses the slot at `slot`. `None`, and nothing changed, when that is too far away.
    pub(super) fn apply(&self, page: &mut [u8], at: u64, slot: u64) -> Option<()> {
        let start = self.moved.start;
        let far = jump(at + self.pad.unwrap_or(start) as u64, slot)?;
        page.get_mut(self.replaced.clone())?.fill(0x90);
        match self.pad {
            None => page.get_mut(start..start + JUMP_LEN)?.copy_from_slice(&far),
            Some(pad) => {
                page.get_mut(pad..pad + JUMP_LEN)?.copy_from_slice(&far);
                let near = [0xeb, pad.wrapping_sub(start + SHORT_JUMP_LEN) as u8];
                page.get_mut(start..start + SHORT_JUMP_LEN)?.copy_from_slice(&near);
            }
        }
        Some(())
    }

    /// The slot's code: the moved instructions; `lea rcx, site`; `movabs r11, gate`; `jmp r11`.
    pub(super) fn slot(&self, page: &[u8], at: u64, slot: u64, gate: u64) -> Option<Vec<u8>> {
        let mut code = page.get(self.moved.clone())?.to_vec();
        let from = at + self.moved.start as u64;
        for &displacement in &self.relative {
            let bytes = code.get_mut(displacement..)?.first_chunk_mut()?;
            let moved =
                i64::from(i32::from_le_bytes(*bytes)).checked_add(from.wrapping_sub(slot).cast_signed())?;
            *bytes = i32::try_from(moved).ok()?.to_le_bytes();
        }
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
    use alloc::vec;

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
        // syscall ; cmp rax, -4096 ; ja -32 ; ret
        page.extend_from_slice(&[0x0f, 0x05, 0x48, 0x3d, 0, 0xf0, 0xff, 0xff, 0x77, 0xe0, 0xc3]);
        page.extend_from_slice(behind);
        page.resize(4096, 0xcc);
        (page, site)
    }

    /// The plan for an instruction of two bytes and padding.
    fn short(site: usize, pad: usize) -> Plan {
        Plan { moved: site - 2..site, replaced: site - 2..site, relative: vec![], pad: Some(pad) }
    }

    /// The plan for a function that fills a page up to the return behind the call.
    fn planned(page: &[u8], site: usize) -> Result<Plan, Obstacle> {
        Surroundings::decode(page, site + 11, site)?.plan(page, 0, page)
    }

    #[test]
    fn a_long_instruction_in_front_becomes_a_jump() {
        let front = [0xb8, 1, 0, 0, 0];
        let (mut code, site) = page(&front, &[]);
        let plan = planned(&code, site).unwrap();
        assert_eq!(
            plan,
            Plan { moved: site - 5..site, replaced: site - 5..site, relative: vec![], pad: None }
        );
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
        assert_eq!(plan, short(site, site + 11));
        plan.apply(&mut code, 0x1000, 0x2000).unwrap();
        assert_eq!(code[site - 2..site + 2], [0xeb, 11, 0x0f, 0x05]);
        assert_eq!(code[site + 11], 0xe9);
        // Not enough of it, something that may be called, or none in reach.
        assert_eq!(
            planned(&page(&[0x31, 0xc0], &[0x0f, 0x1f, 0x00, 0x55, 0xc3]).0, site),
            // The filling of the test's page behind the second return.
            Ok(short(site, site + 16))
        );
        let mut endbr = alloc::vec![0xf3, 0x0f, 0x1e, 0xfa];
        endbr.extend_from_slice(&[0x48, 0x89, 0xe5].repeat(60));
        assert_eq!(planned(&page(&[0x31, 0xc0], &endbr).0, site), Err(Obstacle::NoRoom));
    }

    #[test]
    fn doubtful_instructions_are_left_alone() {
        // A store of a constant whose end looks like `mov eax, 1`.
        let (code, site) = page(&[0xc7, 0x44, 0x24, 0xb8, 1, 0, 0, 0], &[]);
        assert_eq!(planned(&code, site).unwrap().moved, site - 8..site);
        // A jump; a call; another system call; a signal trampoline in two forms.
        let trampolines = [&[0x48, 0xc7, 0xc0, 15, 0, 0, 0][..], &[0xb8, 15, 0, 0, 0]];
        for front in [&[0x75, 0][..], &[0xe8, 0, 0, 0, 0], &[0x0f, 0x05]].into_iter().chain(trampolines) {
            let (code, site) = page(front, &[]);
            assert_eq!(planned(&code, site), Err(Obstacle::NotMovable), "{front:x?}");
        }
        // A trampoline that the file describes.
        let (code, site) = page(trampolines[0], &[]);
        let mut described = Surroundings::decode(&code, site + 11, site).unwrap();
        described.bytes_do_not_matter();
        assert_eq!(described.plan(&code, 0, &code).unwrap().moved, site - 7..site);
        // Not in one page, no such instruction, beyond the end, in the middle of an instruction, at the start.
        let (code, site) = page(&[0xb8, 1, 0, 0, 0], &[]);
        let surroundings = Surroundings::decode(&code, site + 11, site).unwrap();
        let part = &code[site - 3..];
        assert_eq!(surroundings.plan(part, 3 - site as isize, &code), Err(Obstacle::OtherPage));
        assert_eq!(surroundings.plan(&code[..site + 1], 0, &code), Err(Obstacle::OtherPage));
        assert_eq!(planned(&code, site - 1), Err(Obstacle::NoSite));
        assert_eq!(planned(&code[..site + 1], site), Err(Obstacle::NoSite));
        let (inside, at) = page(&[0xb8, 0x0f, 0x05, 0, 0], &[]);
        assert_eq!(planned(&inside, at - 4), Err(Obstacle::NoFront));
        assert_eq!(planned(&[0x0f, 0x05, 0xc3], 0), Err(Obstacle::NoFront));
        // Not what the file has: it has been patched, or is the program's own.
        let mut changed = code.clone();
        changed[site - 2] = 7;
        assert_eq!(surroundings.plan(&changed, 0, &code), Err(Obstacle::OtherPage));
    }

    #[test]
    fn padding_in_front_serves_too_unless_something_leads_there() {
        // jmp +8 ; eight bytes of padding ; xor eax, eax ; syscall ; … ; no more padding in reach.
        let pad = [0xeb, 8, 0x0f, 0x1f, 0x84, 0, 0, 0, 0, 0];
        let full = [0x48, 0x89, 0xe5].repeat(60);
        let (mut code, site) = page(&[&pad[..], &[0x31, 0xc0]].concat(), &full);
        let plan = planned(&code, site).unwrap();
        assert_eq!(plan, short(site, site - 10));
        plan.apply(&mut code, 0x1000, 0x2000).unwrap();
        assert_eq!((code[site - 2], code[site - 1].cast_signed(), code[site - 10]), (0xeb, -10, 0xe9));
        // Taken by then.
        let (original, _) = page(&[&pad[..], &[0x31, 0xc0]].concat(), &full);
        code[site - 2..site].copy_from_slice(&original[site - 2..site]);
        let again = Surroundings::decode(&original, site + 11, site).unwrap().plan(&code, 0, &original);
        assert_eq!(again, Err(Obstacle::NoRoom));
        // The jump behind the call leads into it, or behind it.
        for (to, room) in [(-12, true), (-13, false), (-20, false)] {
            let mut code = original.clone();
            assert_eq!(code[site + 8], 0x77);
            code[site + 9] = (to as i8).cast_unsigned();
            assert_eq!(planned(&code, site).is_ok(), room, "{to}");
        }
    }

    #[test]
    fn a_long_instruction_further_in_front_becomes_a_jump_where_there_is_no_padding() {
        // A loop as that which ends a thread: mov edx, 60 ; nop ; (cmp edi, [rip + 64]) ; xor edi, edi ; mov eax, edx.
        let full = [0x48, 0x89, 0xe5].repeat(60);
        let start = [0xba, 60, 0, 0, 0, 0x0f, 0x1f, 0];
        let end = [0x31, 0xff, 0x89, 0xd0];
        let (mut code, site) = page(&[&start[..], &end].concat(), &full);
        let plan = planned(&code, site).unwrap();
        let moved = site - 12..site;
        assert_eq!(plan, Plan { moved, replaced: site - 12..site - 7, relative: vec![], pad: None });
        let before = code.clone();
        let slot = plan.slot(&code, 0x1000, 0x2000, 0x1122).unwrap();
        assert!(slot.starts_with(&before[site - 12..site]) && slot.len() <= SLOT_LEN);
        assert_eq!(plan.moved(0x1000), 0x1000 + site as u64 - 12..0x1000 + site as u64);
        plan.apply(&mut code, 0x1000, 0x2000).unwrap();
        assert_eq!(code[site - 12], 0xe9);
        // What lies between stays.
        assert_eq!(code[site - 7..], before[site - 7..]);
        // The long one is the nearest, and relative.
        let compare = [0x3b, 0x3d, 64, 0, 0, 0];
        let (code, site) = page(&[&start[..], &compare, &end].concat(), &full);
        let plan = planned(&code, site).unwrap();
        assert_eq!((plan.moved.clone(), plan.replaced.clone()), (site - 10..site, site - 10..site - 4));
        let slot = plan.slot(&code, 0x1000, 0x2000, 0x1122).unwrap();
        let displacement = i32::from_le_bytes(slot[2..6].try_into().unwrap());
        assert_eq!(0x2006 + i64::from(displacement), 0x1000 + site as i64 - 4 + 64);
        // A branch between, or too far.
        for between in [&[0x74, 0][..], &[0x90; 24]] {
            let (code, site) = page(&[&start[..], between, &end].concat(), &full);
            assert_eq!(planned(&code, site), Err(Obstacle::NoRoom), "{between:x?}");
        }
    }

    #[test]
    fn what_is_relative_to_its_place_still_means_the_same() {
        // mov eax, [rip + 0x100], and the same with a constant behind the displacement: cmp dword ptr [rip + 0x100], 7.
        for front in [&[0x8b, 0x05, 0, 1, 0, 0][..], &[0x83, 0x3d, 0, 1, 0, 0, 7]] {
            let (code, site) = page(front, &[]);
            let plan = planned(&code, site).unwrap();
            let (at, slot) = (0x7000_0000, 0x6010_0000);
            let moved = plan.slot(&code, at, slot, 0x1122_3344_5566).unwrap();
            let displacement = i32::from_le_bytes(moved[2..6].try_into().unwrap());
            let means = (slot + front.len() as u64).wrapping_add_signed(displacement.into());
            assert_eq!(means, at + site as u64 + 0x100);
            assert_eq!((&moved[..2], &moved[6..front.len()]), (&front[..2], &front[6..]));
            // Further away than a displacement says.
            assert_eq!(plan.slot(&code, at, at + (1 << 32), 0), None);
        }
    }
}
