//! Where functions start in an ELF file, by the table that unwinders search (`.eh_frame_hdr`; Linux Standard Base, core, 10.6).

use super::fault::read_file;
use hal::HostFile;

const PT_LOAD: u32 = 1;
const PT_GNU_EH_FRAME: u32 = 0x6474_e550;
const PHENT_LEN: u64 = 56;
const MOST_PHDRS: u16 = 64;
/// Encodings of the usual table: a count in four bytes, entries of two signed four-byte words relative to the table's section
/// (`DW_EH_PE_udata4`; `DW_EH_PE_datarel | DW_EH_PE_sdata4`).
const USUAL: [u8; 2] = [0x03, 0x3b];
/// Where entries start in the section, and the length of one.
const ENTRIES: u64 = 12;
const ENTRY_LEN: u64 = 8;

struct Elf<'a>(&'a dyn HostFile);

impl Elf<'_> {
    fn bytes<const N: usize>(&self, offset: u64) -> Option<[u8; N]> {
        let mut bytes = [0; N];
        (read_file(self.0, offset, &mut bytes).ok()? == N).then_some(bytes)
    }

    fn u16(&self, offset: u64) -> Option<u16> {
        self.bytes(offset).map(u16::from_le_bytes)
    }

    fn u32(&self, offset: u64) -> Option<u32> {
        self.bytes(offset).map(u32::from_le_bytes)
    }

    fn i32(&self, offset: u64) -> Option<i64> {
        self.bytes(offset).map(i32::from_le_bytes).map(i64::from)
    }

    fn u64(&self, offset: u64) -> Option<u64> {
        self.bytes(offset).map(u64::from_le_bytes)
    }
}

/// A program header: where a piece of the file is in memory.
#[derive(Clone, Copy)]
struct Piece {
    offset: u64,
    at: u64,
    len: u64,
}

/// The offset in the file at which the function starts that has the instruction at `offset`; `None` when the file does not say so in
/// the usual way. Reads the file some twenty times.
pub(super) fn start_of_function(file: &dyn HostFile, offset: u64) -> Option<u64> {
    let elf = Elf(file);
    // 64 bits, little endian.
    if elf.bytes(0)? != *b"\x7fELF\x02\x01" {
        return None;
    }
    let (phoff, count) = (elf.u64(32)?, elf.u16(56)?);
    let (mut code, mut table) = (None, None);
    for i in 0..count.min(MOST_PHDRS) {
        let header = phoff.checked_add(u64::from(i) * PHENT_LEN)?;
        let piece =
            Piece { offset: elf.u64(header + 8)?, at: elf.u64(header + 16)?, len: elf.u64(header + 32)? };
        match elf.u32(header)? {
            PT_LOAD if (piece.offset..piece.offset.checked_add(piece.len)?).contains(&offset) => {
                code = Some(piece)
            }
            PT_GNU_EH_FRAME => table = Some(piece),
            _ => {}
        }
    }
    let (code, table) = (code?, table?);
    let address = (offset - code.offset).checked_add(code.at)?;
    let (start, frame) = search(&elf, table, address)?;
    // The frame's own range: length, parent, start relative to its place, length of the function.
    let place = frame.checked_add(8)?;
    let frame_in_file = place.wrapping_sub(table.at).checked_add(table.offset)?;
    let begin = place.checked_add_signed(elf.i32(frame_in_file)?)?;
    let end = begin.checked_add(u64::from(elf.u32(frame_in_file + 4)?))?;
    if begin != start || address >= end {
        return None;
    }
    (start - code.at.min(start)).checked_add(code.offset).filter(|&found| start >= code.at && found <= offset)
}

/// The last entry that does not start behind an address: start of the function, and of its frame description.
fn search(elf: &Elf<'_>, table: Piece, address: u64) -> Option<(u64, u64)> {
    if elf.bytes::<1>(table.offset)? != [1] || elf.bytes(table.offset + 2)? != USUAL {
        return None;
    }
    let most = table.len.saturating_sub(ENTRIES) / ENTRY_LEN;
    let count = u64::from(elf.u32(table.offset + 8)?);
    if count > most {
        return None;
    }
    let entry = |i: u64| table.offset + ENTRIES + i * ENTRY_LEN;
    let start = |i: u64| table.at.checked_add_signed(elf.i32(entry(i))?);
    let (mut low, mut high) = (0, count);
    while low < high {
        let middle = low + (high - low) / 2;
        if start(middle)? <= address {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    let found = low.checked_sub(1)?;
    Some((start(found)?, table.at.checked_add_signed(elf.i32(entry(found) + 4)?)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use hal::mock::MockMachine;

    /// A function of the test's own program.
    #[inline(never)]
    fn sample(a: u64) -> u64 {
        core::hint::black_box(a).wrapping_mul(3) ^ core::hint::black_box(a) >> 5
    }

    #[test]
    fn functions_of_a_real_program_are_found() {
        let exe = std::fs::read("/proc/self/exe").unwrap();
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let at = sample as *const () as u64;
        // In the file: by the mapping that shows it.
        let offset = maps.lines().find_map(|line| {
            let mut fields = line.split_whitespace();
            let (start, end) = fields.next()?.split_once('-')?;
            let hex = |text: &str| u64::from_str_radix(text, 16).ok();
            let offset = hex(fields.nth(1)?)?;
            (hex(start)?..hex(end)?).contains(&at).then_some(at - hex(start)? + offset)
        });
        let offset = offset.unwrap();
        let machine = MockMachine::new();
        machine.mock_fs().add_file("/exe", 0o755, &exe);
        let file = machine.mock_fs().file("/exe");
        assert_eq!(start_of_function(&file, offset), Some(offset));
        assert_eq!(start_of_function(&file, offset + 7), Some(offset));
        assert_ne!(start_of_function(&file, offset - 1), Some(offset));
        assert_eq!(start_of_function(&file, exe.len() as u64 + 5), None);
        // Whatever a file says, it is an answer or none.
        for cut in [0, 5, 64, 100, 4096, exe.len() / 2] {
            machine.mock_fs().add_file("/cut", 0o755, &exe[..cut]);
            let _ = start_of_function(&machine.mock_fs().file("/cut"), offset);
        }
        let mut wild = exe[..64 * 1024].to_vec();
        for (i, byte) in wild.iter_mut().enumerate().skip(32) {
            *byte ^= (i * 37) as u8;
        }
        machine.mock_fs().add_file("/wild", 0o755, &wild);
        assert_eq!(start_of_function(&machine.mock_fs().file("/wild"), offset), None);
    }
}
