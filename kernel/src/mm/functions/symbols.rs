//! Symbols of functions (`.symtab`, `.dynsym`; System V ABI, chapter 4): what programs have that were linked without tables for
//! unwinding and not stripped.

use super::Function;
use super::elf::Elf;
use ::elf::abi::{SHN_UNDEF, SHT_DYNSYM, SHT_SYMTAB, STT_FUNC, STT_GNU_IFUNC};
use ::elf::endian::LittleEndian;
use ::elf::file::Class;
use ::elf::symbol::{Symbol, SymbolTable};
use core::ops::Range;

/// Size of a symbol in bytes.
const SYMBOL_LEN: u64 = 24;
/// How many are read at once, and at most.
const CHUNK: u64 = 2048;
const MOST: u64 = 512 * CHUNK;

pub(super) fn find(elf: &Elf<'_>, address: u64) -> Option<Function> {
    [SHT_SYMTAB, SHT_DYNSYM].into_iter().find_map(|kind| find_in(elf, kind, address)).map(Function::from)
}

/// Labels of assembly code end no function, and functions without a size end where the next one starts.
fn find_in(elf: &Elf<'_>, kind: u32, address: u64) -> Option<Range<u64>> {
    let table = elf.section(kind)?;
    let count = (table.len / SYMBOL_LEN).min(MOST);
    let mut best: Option<Symbol> = None;
    let mut next = elf.code_end(address)?;
    for first in (0..count).step_by(CHUNK as usize) {
        let len = CHUNK.min(count - first) * SYMBOL_LEN;
        let bytes = elf.read(table.offset.checked_add(first * SYMBOL_LEN)?, len)?;
        for symbol in SymbolTable::new(LittleEndian, Class::ELF64, &bytes).iter() {
            if !is_function(&symbol) {
                continue;
            }
            if symbol.st_value > address {
                next = next.min(symbol.st_value);
            } else if best.as_ref().is_none_or(|best| rank(best) < rank(&symbol)) {
                best = Some(symbol);
            }
        }
    }
    let best = best?;
    let end = if best.st_size > 0 { best.st_value.checked_add(best.st_size)? } else { next };
    (address < end).then_some(best.st_value..end)
}

fn is_function(symbol: &Symbol) -> bool {
    matches!(symbol.st_symtype(), STT_FUNC | STT_GNU_IFUNC) && symbol.st_shndx != SHN_UNDEF
}

/// The nearest is the best, and the longest of those.
fn rank(symbol: &Symbol) -> (u64, u64) {
    (symbol.st_value, symbol.st_size)
}
