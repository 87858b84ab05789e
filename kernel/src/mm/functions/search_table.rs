//! The table in which unwinders search (`.eh_frame_hdr`; Linux Standard Base, core, 10.6).

use super::Function;
use super::elf::Elf;
use super::frames::described;
use ::elf::abi::PT_GNU_EH_FRAME;

/// Encodings of the usual table: a count in four bytes, entries of two signed four-byte words relative to the table
/// (`DW_EH_PE_udata4`; `DW_EH_PE_datarel | DW_EH_PE_sdata4`).
const USUAL: [u8; 2] = [0x03, 0x3b];
/// Where entries start, and the length of one: where the function starts, and where its frame is described.
const ENTRIES: u64 = 12;
const ENTRY_LEN: u64 = 8;

pub(super) fn find(elf: &Elf<'_>, address: u64) -> Option<Function> {
    let table = elf.segment(PT_GNU_EH_FRAME)?;
    if elf.bytes::<1>(table.offset)? != [1] || elf.bytes(table.offset.checked_add(2)?)? != USUAL {
        return None;
    }
    let most = table.len.saturating_sub(ENTRIES) / ENTRY_LEN;
    let count = u64::from(elf.u32(table.offset.checked_add(8)?)?);
    if count > most {
        return None;
    }
    let entry = |i: u64| table.offset.checked_add(ENTRIES + i * ENTRY_LEN);
    let start = |i: u64| table.at.checked_add_signed(elf.i32(entry(i)?)?);
    let found = super::last_not_behind(count, address, &start)?;
    // Descriptions follow the table in the same segment.
    let frame = table.offset.checked_add_signed(elf.i32(entry(found)?.checked_add(4)?)?)?;
    described(elf, table, frame).filter(|found_there| {
        found_there.range.start.checked_sub(found_there.signal_frame.into()) == start(found)
    })
}
