//! Tests of finding functions in files.

use super::*;
use hal::HostFile;
use hal::mock::MockMachine;
use std::vec::Vec;

/// The offset at which the function starts that has the instruction at an offset.
fn start_of_function(file: &dyn HostFile, offset: u64) -> Option<u64> {
    let elf = Elf::open(file)?;
    function_at(&elf, elf.code_address(offset)?).map(|function| function.range.start)
}

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

/// Where the code of the files below is in them and in memory, and its two functions.
const TEXT: usize = 0x1000;
const BASE: u64 = 0x40_0000;
const FUNCTIONS: [(usize, usize); 2] = [(0x1010, 0x40), (0x1050, 0x30)];

fn put(file: &mut [u8], at: usize, bytes: &[u8]) {
    file[at..at + bytes.len()].copy_from_slice(bytes);
}

/// A program with one executable segment and one section: its name, type and content.
fn program(name: &str, kind: u32, content: &[u8]) -> Vec<u8> {
    let mut file = std::vec![0u8; 0x3000];
    put(&mut file, 0, b"\x7fELF\x02\x01\x01");
    put(&mut file, 32, &64u64.to_le_bytes());
    put(&mut file, 40, &0x200u64.to_le_bytes());
    // Lengths and numbers of headers; the names are in the first section.
    put(&mut file, 54, &[56, 0, 1, 0, 64, 0, 2, 0, 0, 0]);
    put(&mut file, 64, &[1, 0, 0, 0, 5]);
    for (field, value) in [(8, TEXT as u64), (16, BASE + TEXT as u64), (32, 0x1000), (40, 0x1000)] {
        put(&mut file, 64 + field, &value.to_le_bytes());
    }
    put(&mut file, 0x300, name.as_bytes());
    put(&mut file, 0x2000, content);
    for (i, kind, offset, len) in [(0, 3, 0x300, name.len() + 1), (1, kind, 0x2000, content.len())] {
        let at = 0x200 + i * 64;
        // The first one has no name.
        let named = if i == 0 { name.len() } else { 0 };
        put(&mut file, at, &[named as u8]);
        put(&mut file, at + 4, &u32::to_le_bytes(kind));
        for (field, value) in [(16, BASE + offset), (24, offset), (32, len as u64)] {
            put(&mut file, at + field, &value.to_le_bytes());
        }
    }
    file
}

/// The functions that are found in a program have to be the ones above; changed bytes do no harm.
fn check(file: &[u8], start_of_second: u64) {
    let machine = MockMachine::new();
    let find = |bytes: &[u8], offset: usize| {
        machine.mock_fs().add_file("/program", 0o755, bytes);
        let file = machine.mock_fs().file("/program");
        let elf = Elf::open(&file)?;
        function_at(&elf, elf.code_address(offset as u64)?).map(|function| function.range)
    };
    let [(first, len), (second, _)] = FUNCTIONS;
    assert_eq!(find(file, first), Some(first as u64..(first + len) as u64));
    assert_eq!(find(file, first + len - 1), Some(first as u64..(first + len) as u64));
    assert_eq!(find(file, second + 5).unwrap().start, start_of_second);
    assert_eq!(find(file, first - 1), None);
    assert_eq!(find(file, 0x200), None, "not code");
    for at in (0..0x400).chain(0x2000..0x2100) {
        for value in [0, 1, 0x7f, 0x80, 0xff] {
            let mut wild = file.to_vec();
            wild[at] = value;
            let _ = find(&wild, first);
        }
    }
}

#[test]
fn frames_without_a_table_are_searched() {
    // The parent: length, none, version, augmentation, alignments, register, length of the data, encoding.
    let parent = [16, 0, 0, 0, 0, 0, 0, 0, 1, b'z', b'R', 0, 1, 0x78, 16, 1, 0x1b, 0, 0, 0];
    let section = |parent: &[u8]| {
        let mut content = parent.to_vec();
        for (start, len) in FUNCTIONS {
            let at = content.len();
            content.extend_from_slice(&16u32.to_le_bytes());
            content.extend_from_slice(&(at as u32 + 4).to_le_bytes());
            content.extend_from_slice(&(start as i32 - (0x2000 + at as i32 + 8)).to_le_bytes());
            content.extend_from_slice(&(len as u32).to_le_bytes());
            content.extend_from_slice(&[0; 4]);
        }
        content.extend_from_slice(&[0; 4]);
        program(".eh_frame", 1, &content)
    };
    check(&section(&parent), 0x1050);
    // One with a personality, and the frame of a signal handler's trampoline, which starts elsewhere.
    let personal = [
        24, 0, 0, 0, 0, 0, 0, 0, 1, b'z', b'P', b'L', b'R', 0, 1, 0x78, 16, 7, 0x9b, 1, 2, 3, 4, 0x1b, 0x1b,
        0, 0, 0,
    ];
    check(&section(&personal), 0x1050);
    let signal = [16, 0, 0, 0, 0, 0, 0, 0, 1, b'z', b'S', b'R', 0, 1, 0x78, 16, 1, 0x1b, 0, 0];
    let machine = MockMachine::new();
    machine.mock_fs().add_file("/signal", 0o755, &section(&signal));
    let file = machine.mock_fs().file("/signal");
    let elf = Elf::open(&file).unwrap();
    let found = |offset| function_at(&elf, elf.code_address(offset)?);
    assert_eq!(found(0x1011), Some(Function { range: 0x1011..0x1050, signal_frame: true }));
    assert_eq!(found(0x1010), None);
}

#[test]
fn symbols_are_searched() {
    let symbol = |kind: u8, section: u16, at: u64, len: u64| {
        let mut bytes = std::vec![0, 0, 0, 0, kind, 0];
        bytes.extend_from_slice(&section.to_le_bytes());
        bytes.extend_from_slice(&at.to_le_bytes());
        bytes.extend_from_slice(&len.to_le_bytes());
        bytes
    };
    let [(first, len), (second, _)] = FUNCTIONS.map(|(at, len)| (BASE + at as u64, len as u64));
    let table = [
        symbol(0, 0, 0, 0),
        // Data, a label, and a function of another program.
        symbol(0x11, 1, first + 1, 8),
        symbol(0x10, 1, first + 2, 0),
        symbol(0x12, 0, first + 3, 8),
        // The last one ends with the code.
        symbol(0x12, 1, second, 0),
        symbol(0x02, 1, first, len),
        symbol(0x12, 1, first, 0),
    ];
    check(&program(".symtab", 2, &table.concat()), 0x1050);
    check(&program(".dynsym", 11, &table.concat()), 0x1050);
    check(&program(".symtab", 2, &table[..6].concat()), 0x1050);
}

#[test]
fn the_table_of_go_programs_is_searched() {
    for magic in [0xffff_fff0u32, 0xffff_fff1] {
        let mut table = std::vec![0u8; 0x80];
        put(&mut table, 0, &magic.to_le_bytes());
        put(&mut table, 8, &2u64.to_le_bytes());
        put(&mut table, 24, &(BASE + TEXT as u64).to_le_bytes());
        put(&mut table, 64, &0x48u64.to_le_bytes());
        for (i, start) in [0x10u32, 0x50, 0x80].into_iter().enumerate() {
            put(&mut table, 0x48 + i * 8, &start.to_le_bytes());
        }
        check(&program(".gopclntab", 1, &table), 0x1050);
    }
}
