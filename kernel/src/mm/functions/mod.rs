//! Where the functions of an ELF file are, by whatever the file says about it: code can only be decoded from the start of a function.
//!
//! Everything in a file is an allegation. A source answers, or not, after a bounded number of steps and with a bounded amount of
//! memory; whoever asks reads the code itself and believes nothing else.

mod elf;
mod frames;
mod go;
mod search_table;
mod symbols;
#[cfg(test)]
mod tests;

use core::ops::Range;

pub(super) use self::elf::Elf;

/// A way to find the function with the instruction at an address: from its first instruction to behind its last one, or behind
/// what follows it. Addresses are those of the file's headers.
type Source = fn(&Elf<'_>, u64) -> Option<Range<u64>>;

/// The cheapest first.
const SOURCES: [Source; 4] = [search_table::find, frames::find, symbols::find, go::find];

/// The function with the instruction at an address, as offsets in the file; `None` when the file does not say.
pub(super) fn function_at(elf: &Elf<'_>, address: u64) -> Option<Range<u64>> {
    SOURCES.iter().find_map(|find| {
        let found = find(elf, address).filter(|found| found.contains(&address))?;
        let start = elf.code_offset(found.start)?;
        let end = start.checked_add(found.end.checked_sub(found.start)?)?;
        (elf.code_offset(address)? < end).then_some(start..end)
    })
}

/// The last of a number of sorted entries that does not start behind an address.
fn last_not_behind(count: u64, address: u64, start: &dyn Fn(u64) -> Option<u64>) -> Option<u64> {
    let (mut low, mut high) = (0, count);
    while low < high {
        let middle = low + (high - low) / 2;
        if start(middle)? <= address {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    low.checked_sub(1)
}
