//! Frame descriptions for unwinding (`.eh_frame`; Linux Standard Base, core, 10.6): each says which addresses it is for. Static programs
//! often have them without the table for searching.

use super::Function;
use super::elf::{Elf, Piece};

/// How large a section is searched at most, in bytes.
const MOST: u64 = 4 << 20;
/// `DW_EH_PE_pcrel | DW_EH_PE_sdata4`, as usual: four bytes relative to their own address.
const USUAL: u8 = 0x1b;
/// How much of a common description is looked at, in bytes.
const HEAD: usize = 40;

/// Looks at one description after the other.
pub(super) fn find(elf: &Elf<'_>, address: u64) -> Option<Function> {
    let section = elf.section_named(b".eh_frame").filter(|section| section.len <= MOST)?;
    let bytes = elf.read(section.offset, section.len)?;
    let word = |at: usize| Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?));
    let mut at = 0;
    loop {
        let len = word(at)? as usize;
        let place = at + 8;
        // Common descriptions have no parent. Lengths of 0 end the list, longer ones than four bytes are not used.
        if !(4..0xffff_fff0).contains(&len) {
            return None;
        }
        if word(at + 4)? != 0 {
            let start = (section.at.wrapping_add(place as u64))
                .wrapping_add_signed(word(place)?.cast_signed().into());
            if address.checked_sub(start).is_some_and(|d| d < word(place + 4).unwrap_or(0).into()) {
                return described(elf, section, section.offset + at as u64);
            }
        }
        at += 4 + len;
    }
}

/// What the description at an offset in the file says.
pub(super) fn described(elf: &Elf<'_>, section: Piece, frame: u64) -> Option<Function> {
    let place = frame.checked_add(8)?;
    let parent = (place - 4).checked_sub(elf.u32(place - 4)?.into())?;
    let (encoding, signal_frame) = encoding(&elf.bytes::<HEAD>(parent)?)?;
    if encoding != USUAL {
        return None;
    }
    let address = place.wrapping_sub(section.offset).wrapping_add(section.at);
    let start = address.checked_add_signed(elf.i32(place)?)?;
    let end = start.checked_add(elf.u32(place + 4)?.into())?;
    // Those of signal frames begin a byte too early, so that the return address of the handler is in them.
    let start = start.checked_add(signal_frame.into())?;
    Some(Function { range: start..end, signal_frame })
}

/// How a common description, of which this is the beginning, says that addresses are written, and whether it is for frames of signal handlers.
fn encoding(bytes: &[u8]) -> Option<(u8, bool)> {
    let mut rest = bytes.get(8..)?.iter().copied();
    let mut byte = || rest.next();
    // The version; the augmentation, a string that starts with a 'z'; two alignments and the return address's register, of variable
    // length; the length of the augmentation's data; a piece of data for each letter.
    if !matches!(byte()?, 1 | 3) || byte()? != b'z' {
        return None;
    }
    let mut letters = [0; 8];
    for letter in &mut letters {
        *letter = byte()?;
        if *letter == 0 {
            break;
        }
    }
    for _ in 0..4 {
        while byte()? & 0x80 != 0 {}
    }
    let signal_frame = letters.contains(&b'S');
    for letter in letters {
        let skipped = match letter {
            b'R' => return byte().map(|encoding| (encoding, signal_frame)),
            b'S' => 0,
            b'L' => 1,
            // A pointer whose first byte says how it is written.
            b'P' => match byte()? & 0xf {
                0x3 | 0xb => 4,
                0x0 | 0x4 | 0xc => 8,
                _ => return None,
            },
            _ => return None,
        };
        for _ in 0..skipped {
            byte()?;
        }
    }
    None
}
