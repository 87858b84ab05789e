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

/// A function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Function {
    /// From its first instruction to behind its last one, or behind what follows it.
    pub range: Range<u64>,
    /// The file says that handlers of signals return to it: unwinders know without looking at its code.
    pub signal_frame: bool,
}

impl From<Range<u64>> for Function {
    fn from(range: Range<u64>) -> Function {
        Function { range, signal_frame: false }
    }
}

/// A way to find the function with the instruction at an address. Addresses are those of the file's headers.
type Source = fn(&Elf<'_>, u64) -> Option<Function>;

/// The cheapest first.
const SOURCES: [Source; 4] = [search_table::find, frames::find, symbols::find, go::find];

/// The function with the instruction at an address, as offsets in the file; `None` when the file does not say.
pub(super) fn function_at(elf: &Elf<'_>, address: u64) -> Option<Function> {
    SOURCES.iter().find_map(|find| {
        let found = find(elf, address).filter(|found| found.range.contains(&address))?;
        let start = elf.code_offset(found.range.start)?;
        let end = start.checked_add(found.range.end.checked_sub(found.range.start)?)?;
        (elf.code_offset(address)? < end).then_some(Function { range: start..end, ..found })
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
