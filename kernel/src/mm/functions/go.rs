//! Go's table of functions (`.gopclntab`, since Go 1.18), which every Go program has: its runtime unwinds with it.

use super::Function;
use super::elf::Elf;

/// First word of the table, before and since Go 1.20.
const MAGICS: [u32; 2] = [0xffff_fff0, 0xffff_fff1];
/// Where the header says how many functions there are, what their addresses are relative to, and where their table is.
const COUNT: u64 = 8;
const TEXT: u64 = 24;
const TABLE: u64 = 64;
/// Length of an entry: where the function starts, and where more is said about it, four bytes each.
const ENTRY_LEN: u64 = 8;

pub(super) fn find(elf: &Elf<'_>, address: u64) -> Option<Function> {
    let section =
        elf.section_named(b".gopclntab").or_else(|| elf.section_named(b".data.rel.ro.gopclntab"))?;
    if !MAGICS.contains(&elf.u32(section.offset)?) {
        return None;
    }
    let word = |at: u64| elf.u64(section.offset + at);
    let (count, table) = (word(COUNT)?, word(TABLE)?);
    // The entry behind the last one says where that one ends.
    let end = count.checked_add(1)?.checked_mul(ENTRY_LEN)?.checked_add(table)?;
    if end > section.len {
        return None;
    }
    let text = match word(TEXT)? {
        0 => elf.section_named(b".text")?.at,
        text => text,
    };
    let start = |i: u64| {
        let offset = section.offset.checked_add(table + i * ENTRY_LEN)?;
        text.checked_add(elf.u32(offset)?.into())
    };
    let found = super::last_not_behind(count, address, &start)?;
    Some(Function::from(start(found)?..start(found + 1)?))
}
