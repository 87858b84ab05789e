//! The code that `cpuid` instructions are replaced by: a table of answers, and for each site what looks an answer up.
//!
//! Nothing but the four registers that the instruction writes is used, no stack either. An entry of the table is 32 bytes: which bits of subleaf and leaf count, what
//! they have to be, and the four registers; zeros are its end.

use super::super::site::jump;
use super::site::Site;
use alloc::vec::Vec;
use hal::CpuidAnswer;

const ENTRY_LEN: usize = 32;
/// Code of a site that does not move, with both jumps.
const LOOK_UP_LEN: usize = 80;
/// `int3`: what nothing leads to.
const TRAP: u8 = 0xcc;
/// Leaf 7, subleaf 0, says in this bit of `edx` whether there is an instruction that does nothing but what `cpuid` does besides: to serialize.
const HAS_SERIALIZE: u32 = 1 << 14;

/// How many bytes table and code for all of these take at most.
pub(super) fn len(answers: &[CpuidAnswer], sites: &[Site]) -> u64 {
    let code: usize = sites.iter().map(|site| LOOK_UP_LEN + site.bytes.len()).sum();
    ((answers.len() + 1) * ENTRY_LEN + code) as u64
}

/// The area with table and code.
pub(super) struct Area {
    at: u64,
    bytes: Vec<u8>,
    serialize: bool,
}

impl Area {
    /// The table, in an area that lies at an address.
    pub(super) fn new(answers: &[CpuidAnswer], at: u64) -> Area {
        let mut bytes = Vec::new();
        for answer in answers {
            let (mask, subleaf) = match answer.subleaf {
                Some(subleaf) => (u64::MAX, subleaf),
                None => (u64::from(u32::MAX), 0),
            };
            bytes.extend_from_slice(&mask.to_le_bytes());
            bytes.extend_from_slice(&answer.leaf.to_le_bytes());
            bytes.extend_from_slice(&subleaf.to_le_bytes());
            answer.regs.iter().for_each(|reg| bytes.extend_from_slice(&reg.to_le_bytes()));
        }
        bytes.resize(bytes.len() + ENTRY_LEN, 0);
        let features = answers.iter().find(|a| (a.leaf, a.subleaf) == (7, Some(0)));
        let serialize = features.is_some_and(|a| a.regs[3] & HAS_SERIALIZE != 0);
        Area { at, bytes, serialize }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Replaces a site in its page, which lies at an address; `None`, and nothing changed, when it is not what it was, or too far away.
    pub(super) fn replace(&mut self, site: &Site, page_at: u64, page: &mut [u8]) -> Option<()> {
        let place = (site.offset - site.page()) as usize;
        let range = place..place + site.bytes.len();
        if page.get(range.clone())? != site.bytes {
            return None;
        }
        let from = page_at + place as u64;
        let there = jump(from, self.at + self.bytes.len() as u64)?;
        let code = self.code(site, from)?;
        self.bytes.extend_from_slice(&code);
        let target = page.get_mut(range)?;
        target.fill(TRAP);
        target.get_mut(..there.len())?.copy_from_slice(&there);
        Some(())
    }

    /// The code for a site that lies at an address: what was in front of the instruction, the instruction, what was behind, and the way back.
    fn code(&self, site: &Site, from: u64) -> Option<Vec<u8>> {
        let start = self.at + self.bytes.len() as u64;
        let (front, rest) = site.bytes.split_at_checked(site.cpuid)?;
        let behind = rest.get(super::site::CPUID.len()..)?;
        let mut code = front.to_vec();
        look_up(&mut code, start, self.at, self.serialize)?;
        let moved_behind = code.len();
        code.extend_from_slice(behind);
        for &place in &site.relative {
            let shift = if place < site.cpuid { 0 } else { moved_behind - (site.bytes.len() - behind.len()) };
            let distance = (start + shift as u64).wrapping_sub(from).cast_signed();
            let bytes: &mut [u8; 4] = code.get_mut(place + shift..)?.first_chunk_mut()?;
            let moved = i64::from(i32::from_le_bytes(*bytes)).checked_sub(distance)?;
            *bytes = i32::try_from(moved).ok()?.to_le_bytes();
        }
        let back = jump(start + code.len() as u64, from + site.bytes.len() as u64)?;
        code.extend_from_slice(&back);
        Some(code)
    }
}

/// Does what `cpuid` does, in code that starts at `start`, with the table at `table`.
fn look_up(code: &mut Vec<u8>, start: u64, table: u64, serialize: bool) -> Option<()> {
    // mov eax, eax ; shl rcx, 32 ; or rcx, rax: subleaf and leaf.
    code.extend_from_slice(&[0x89, 0xc0, 0x48, 0xc1, 0xe1, 32, 0x48, 0x09, 0xc1]);
    // lea rdx, [rip + table]
    code.extend_from_slice(&[0x48, 0x8d, 0x15]);
    let distance = table.wrapping_sub(start + code.len() as u64 + 4).cast_signed();
    code.extend_from_slice(&i32::try_from(distance).ok()?.to_le_bytes());
    // mov rax, [rdx] ; and rax, rcx ; cmp rax, [rdx + 8] ; je found
    code.extend_from_slice(&[0x48, 0x8b, 0x02, 0x48, 0x21, 0xc8, 0x48, 0x3b, 0x42, 0x08, 0x74, 19]);
    // add rdx, 32 ; cmp dword ptr [rdx], 0 ; jne the look before
    code.extend_from_slice(&[0x48, 0x83, 0xc2, ENTRY_LEN as u8, 0x83, 0x3a, 0, 0x75, 0xeb]);
    // mov eax, ecx ; shr rcx, 32 ; cpuid ; jmp behind
    code.extend_from_slice(&[0x89, 0xc8, 0x48, 0xc1, 0xe9, 32, 0x0f, 0xa2, 0xeb, 15]);
    // found: serialize, or lfence, which suffices for those who measure time ; mov eax, ebx, ecx, edx from the entry
    code.extend_from_slice(if serialize { &[0x0f, 0x01, 0xe8] } else { &[0x0f, 0xae, 0xe8] });
    code.extend_from_slice(&[0x8b, 0x42, 16, 0x8b, 0x5a, 20, 0x8b, 0x4a, 24, 0x8b, 0x52, 28]);
    Some(())
}
