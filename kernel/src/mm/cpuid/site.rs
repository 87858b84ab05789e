//! Which `cpuid` instructions of a file can be replaced.
//!
//! The instruction is too short for a jump to elsewhere, so one or more of its neighbours move, too: as few as have room for the jump, none that
//! depend on where they are beyond an operand's displacement, and none, but for the first, that anything in the file may jump to. For that all of
//! the function has to be understood, and no other code may have what looks like a jump into the middle.

use super::super::fault::read_file;
use super::super::functions::{self, Elf};
use super::super::site::{JUMP_LEN, relative_displacement};
use super::switch::Switches;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::ops::Range;
use hal::{HostFile, PAGE_SIZE};
use iced_x86::{Code, Decoder, DecoderOptions, FlowControl, Instruction, Mnemonic, OpKind, RflagsBits};

/// `cpuid`.
pub(super) const CPUID: [u8; 2] = [0x0f, 0xa2];
/// How much code of a file is looked at, in bytes.
const MOST_CODE: u64 = 4 << 20;
/// How much of a function is decoded at most, in bytes.
const LONGEST_FUNCTION: usize = 1 << 16;
/// How many instructions move at most, the `cpuid` among them.
const MOST_MOVED: usize = 4;
/// How far is looked whether flags are used.
const MOST_BEHIND: usize = 16;
/// Most sites of a file.
const MOST_SITES: usize = 128;
const STATUS_FLAGS: u32 =
    RflagsBits::CF | RflagsBits::PF | RflagsBits::AF | RflagsBits::ZF | RflagsBits::SF | RflagsBits::OF;

/// Code with a `cpuid` that can be replaced by a jump.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Site {
    /// Where it is in the file. All of it is in one page.
    pub offset: u64,
    pub bytes: Vec<u8>,
    /// The instruction's place in it.
    pub cpuid: usize,
    /// Places of displacements that are relative to the end of their instruction.
    pub relative: Vec<usize>,
}

impl Site {
    /// Where its page starts in the file.
    pub(super) fn page(&self) -> u64 {
        self.offset & !(PAGE_SIZE - 1)
    }
}

/// The sites in a piece of a file that is code, in order.
pub(super) fn find(file: &dyn HostFile, piece: Range<u64>) -> Vec<Site> {
    try_find(file, piece).unwrap_or_default()
}

fn try_find(file: &dyn HostFile, piece: Range<u64>) -> Option<Vec<Site>> {
    let len = piece.end.checked_sub(piece.start).filter(|&len| len <= MOST_CODE)?;
    let mut code = alloc::vec![0; len as usize];
    let read = read_file(file, piece.start, &mut code).ok()?;
    code.truncate(read);
    let elf = Elf::open(file)?;
    // Functions by where they start, as places in `code`.
    let mut functions: BTreeMap<usize, Function> = BTreeMap::new();
    let mut found: Vec<Site> = Vec::new();
    for place in places(&code, CPUID).take(4 * MOST_SITES) {
        let known = functions.range(..=place).next_back().filter(|(_, f)| f.range.contains(&place));
        let start = match known {
            Some((start, _)) => *start,
            None => {
                let Some(function) = Function::around(&elf, piece.start, &code, place) else { continue };
                let start = function.range.start;
                functions.insert(start, function);
                start
            }
        };
        let Some(window) = functions.get(&start).and_then(|function| function.window(piece.start, place))
        else {
            continue;
        };
        let taken = found.last().map_or(0, |last| last.offset + last.bytes.len() as u64 - piece.start);
        if window.start as u64 >= taken
            && found.len() < MOST_SITES
            && let Some(site) = functions.get(&start).and_then(|f| f.site(&code, piece.start, window, place))
        {
            found.push(site);
        }
    }
    drop_jumped_into(&code, piece.start, &mut found);
    Some(found)
}

/// Where these bytes are.
fn places(code: &[u8], bytes: [u8; 2]) -> impl Iterator<Item = usize> {
    const BLOCK: usize = 64;
    let [_, last] = bytes;
    // Most blocks have not even the second byte, which is soon seen.
    let blocks = (0..code.len()).step_by(BLOCK);
    let blocks =
        blocks.filter(move |&at| code.get(at..code.len().min(at + BLOCK)).is_some_and(|b| b.contains(&last)));
    blocks
        .flat_map(|at| at..at + BLOCK)
        .filter_map(|at| at.checked_sub(1))
        .filter(move |&at| code.get(at..at + 2) == Some(&bytes))
}

/// Leaves out those that other functions may jump into: any four bytes count that could be a jump's displacement.
fn drop_jumped_into(code: &[u8], start: u64, sites: &mut Vec<Site>) {
    const BLOCK: usize = 256;
    let inside = |site: &Site| {
        let at = (site.offset - start) as usize;
        at + 1..at + site.bytes.len()
    };
    let (Some(first), Some(last)) = (sites.first().map(inside), sites.last().map(inside)) else { return };
    let all = first.start..last.end;
    let mut hit: Vec<usize> = Vec::new();
    for at in (0..code.len()).step_by(BLOCK) {
        let block = code.get(at..code.len().min(at + BLOCK + 3)).unwrap_or_default();
        if !may_jump_into(block, at, &all) {
            continue;
        }
        for (i, bytes) in block.windows(4).enumerate() {
            let at = at + i;
            let distance = i32::from_le_bytes(bytes.try_into().unwrap_or_default());
            let target = (at + 4).wrapping_add_signed(distance as isize);
            let is_jump = || match at.checked_sub(1).and_then(|at| code.get(at)) {
                Some(0xe8 | 0xe9) => true,
                Some(0x80..=0x8f) => at.checked_sub(2).and_then(|at| code.get(at)) == Some(&0x0f),
                _ => false,
            };
            if all.contains(&target) && is_jump() {
                hit.push(target);
            }
        }
    }
    sites.retain(|site| !hit.iter().any(|target| inside(site).contains(target)));
}

/// Whether four bytes of a block at a place in the code, taken as a displacement, lead into a range. Written so that compilers look at several at once.
fn may_jump_into(block: &[u8], at: usize, range: &Range<usize>) -> bool {
    let len = range.len() as u32;
    (0..4).any(|shift| {
        let words = block.get(shift..).unwrap_or_default().as_chunks::<4>().0;
        let base = ((at + shift + 4) as u32).wrapping_sub(range.start as u32);
        let targets = (0u32..)
            .zip(words)
            .map(|(i, word)| u32::from_le_bytes(*word).wrapping_add(base.wrapping_add(4 * i)));
        targets.fold(false, |any, target| any | (target < len))
    })
}

/// An instruction; places are those in the code that is looked at.
struct Step {
    range: Range<usize>,
    /// Where its displacement is, when that is relative to its end.
    relative: Option<usize>,
    movable: bool,
    is_cpuid: bool,
    /// Status flags that it reads, and those that it leaves without what they were before.
    reads: u32,
    writes: u32,
    goes_on: bool,
}

/// A function and all its instructions; none when it is not clear where its jumps lead.
struct Function {
    range: Range<usize>,
    steps: Vec<Step>,
    targets: Vec<usize>,
}

impl Function {
    fn around(elf: &Elf<'_>, start: u64, code: &[u8], place: usize) -> Option<Function> {
        let address = elf.code_address(start + place as u64)?;
        let range = functions::function_at(elf, address)?.range;
        let base = address.wrapping_sub(place as u64);
        let place = |offset: u64| usize::try_from(offset.checked_sub(start)?).ok();
        let range = place(range.start)?..place(range.end)?;
        let (steps, targets) = Function::decode(elf, base, code, range.clone()).unwrap_or_default();
        Some(Function { range, steps, targets })
    }

    /// The code's first byte has the address `base`.
    fn decode(elf: &Elf<'_>, base: u64, code: &[u8], range: Range<usize>) -> Option<(Vec<Step>, Vec<usize>)> {
        let bytes = code.get(range.clone()).filter(|bytes| bytes.len() <= LONGEST_FUNCTION)?;
        let mut decoder = Decoder::with_ip(64, bytes, range.start as u64, DecoderOptions::NONE);
        let mut instruction = Instruction::default();
        let (mut steps, mut targets) = (Vec::new(), Vec::new());
        let mut switches = Switches::new();
        while decoder.can_decode() {
            decoder.decode_out(&mut instruction);
            if instruction.is_invalid() {
                return None;
            }
            switches.follow(&instruction)?;
            if instruction.op0_kind() == OpKind::NearBranch64 {
                targets.push(instruction.near_branch_target() as usize);
            }
            steps.push(Step::of(&instruction, &decoder));
        }
        switches.add_targets(elf, base, &mut targets)?;
        Some((steps, targets))
    }

    /// What to replace for the `cpuid` at a place.
    fn window(&self, start: u64, place: usize) -> Option<Range<usize>> {
        let this = self.steps.binary_search_by_key(&place, |step| step.range.start).ok()?;
        let behind = self.steps.get(this + 1..)?;
        if !self.steps.get(this)?.is_cpuid || !flags_unused(behind) {
            return None;
        }
        let choices = (1..=MOST_MOVED).flat_map(|n| (0..n).map(move |front| (front, n)));
        choices
            // Rather what is behind: what is in front often is where loops begin.
            .filter_map(|(front, n)| {
                let first = this.checked_sub(front)?;
                self.steps.get(first..first + n)
            })
            .find_map(|steps| {
                let range = steps.first()?.range.start..steps.last()?.range.end;
                let page = |place: usize| (start + place as u64) / PAGE_SIZE;
                let inside = range.start + 1..range.end;
                let fit = range.len() >= JUMP_LEN
                    && page(range.start) == page(range.end - 1)
                    && steps.iter().all(|step| step.range.start == place || step.movable)
                    && !self.targets.iter().any(|target| inside.contains(target));
                fit.then_some(range)
            })
    }

    fn site(&self, code: &[u8], start: u64, range: Range<usize>, cpuid: usize) -> Option<Site> {
        let moved = self.steps.iter().filter(|step| range.contains(&step.range.start));
        let relative = moved.filter_map(|step| Some(step.relative? - range.start));
        Some(Site {
            offset: start + range.start as u64,
            bytes: code.get(range.clone())?.to_vec(),
            cpuid: cpuid - range.start,
            relative: relative.collect(),
        })
    }
}

impl Step {
    fn of(instruction: &Instruction, decoder: &Decoder<'_>) -> Step {
        let start = instruction.ip() as usize;
        let (relative, adaptable) = relative_displacement(instruction, decoder);
        let flow = instruction.flow_control();
        Step {
            range: start..start + instruction.len(),
            relative,
            movable: adaptable
                && flow == FlowControl::Next
                && !matches!(instruction.code(), Code::Syscall | Code::Cpuid)
                && instruction.mnemonic() != Mnemonic::Endbr64,
            is_cpuid: instruction.code() == Code::Cpuid,
            reads: instruction.rflags_read() & STATUS_FLAGS,
            writes: instruction.rflags_modified() & STATUS_FLAGS,
            goes_on: flow == FlowControl::Next,
        }
    }
}

/// Whether these instructions use no status flags from before them. Across jumps and calls no compiler keeps any.
fn flags_unused(behind: &[Step]) -> bool {
    let mut known = STATUS_FLAGS;
    for step in behind.iter().take(MOST_BEHIND) {
        if step.reads & known != 0 {
            return false;
        }
        known &= !step.writes;
        if known == 0 || !step.goes_on {
            break;
        }
    }
    true
}
