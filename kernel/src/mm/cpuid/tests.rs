//! Tests of replaced `cpuid` instructions. What the code that replaces them does is tested where it can run (`tests/abi`).

use super::super::gate_tests::{FUNCTION, map_program, program_of};
use super::super::tests::{load, new_mm};
use super::site::{Site, find};
use super::*;
use crate::testing;
use hal::mock::MockMachine;
use hal::{CpuidAnswer, HostFile, Prot};
use std::sync::Arc;
use std::vec;
use std::vec::Vec;

const PAGE: u64 = PAGE_SIZE;
const AT: u64 = 0x5000_0000;
const CPUID: [u8; 2] = [0x0f, 0xa2];
/// `mov edx, eax ; and edx, 31`: what compilers put behind it.
const BEHIND: [u8; 5] = [0x89, 0xc2, 0x83, 0xe2, 31];
const RET: [u8; 1] = [0xc3];

fn answers() -> Vec<CpuidAnswer> {
    vec![
        CpuidAnswer { leaf: 4, subleaf: Some(1), regs: [1, 2, 3, 4] },
        CpuidAnswer { leaf: 2, subleaf: None, regs: [5, 6, 7, 8] },
    ]
}

/// The sites of a program of one function, as places in that, what is replaced, and where the instruction is in it.
fn sites_in(program: &[u8]) -> Vec<Site> {
    let machine = MockMachine::new();
    machine.mock_fs().add_file("/program", 0o755, program);
    find(&machine.mock_fs().file("/program"), 0..3 * PAGE)
}

fn sites(function: &[&[u8]]) -> Vec<(usize, usize, usize)> {
    let found = sites_in(&program_of(&function.concat()));
    found.iter().map(|site| (site.offset as usize - FUNCTION, site.bytes.len(), site.cpuid)).collect()
}

#[test]
fn neighbours_move_as_few_as_can() {
    // push rbx ; cpuid ; …
    assert_eq!(sites(&[&[0x53], &CPUID, &BEHIND, &RET]), [(1, 7, 0)]);
    // A return can't move, and xor ecx, ecx is too short: both in front move.
    let (mov, xor) = ([0xb8, 4, 0, 0, 0], [0x31, 0xc9]);
    assert_eq!(sites(&[&mov, &xor, &CPUID, &RET]), [(0, 9, 7)]);
    assert_eq!(sites(&[&mov, &CPUID, &RET]), [(0, 7, 5)]);
    // Two, the second of which can't have what moves with the first.
    assert_eq!(sites(&[&mov, &CPUID, &mov, &CPUID, &mov, &RET]), [(5, 7, 0), (12, 7, 0)]);
    // No room.
    assert_eq!(sites(&[&xor, &CPUID, &RET]), []);
    // The same bytes in an operand: mov eax, 0xa20f.
    assert_eq!(sites(&[&[0xb8, 0x0f, 0xa2, 0, 0], &RET]), []);
}

#[test]
fn nothing_leads_into_what_is_replaced() {
    // A jump to the instruction itself, and one behind it.
    let jump = |to: u8| [0x74, to];
    assert_eq!(sites(&[&jump(0), &CPUID, &BEHIND, &RET]), [(2, 7, 0)]);
    assert_eq!(sites(&[&jump(2), &CPUID, &BEHIND, &RET]), []);
    // jmp rax: to anywhere.
    assert_eq!(sites(&[&CPUID, &BEHIND, &[0xff, 0xe0]]), []);
    // Another function jumps to what is behind it, or to the instruction itself.
    let function = [&CPUID[..], &BEHIND, &RET].concat();
    for (to, len) in [(2, 0), (0, 1)] {
        let mut program = program_of(&function);
        let from = FUNCTION + 0x100;
        program[from] = 0xe9;
        let distance = (FUNCTION + to) as i32 - (from as i32 + 5);
        program[from + 1..from + 5].copy_from_slice(&distance.to_le_bytes());
        assert_eq!(sites_in(&program).len(), len);
    }
}

/// A limit, then `lea rdi, [rip + table] ; movsxd rax, [rdi + 4 * rsi] ; add rax, rdi ; jmp rax`, and code for its cases.
fn switch(limit: &[u8], table: usize, cases: &[u8]) -> Vec<u8> {
    let mut code = limit.to_vec();
    let from = FUNCTION + code.len() + 7;
    code.extend_from_slice(&[0x48, 0x8d, 0x3d]);
    code.extend_from_slice(&(table as i32 - from as i32).to_le_bytes());
    code.extend_from_slice(&[0x48, 0x63, 0x04, 0xb7, 0x48, 0x01, 0xf8, 0xff, 0xe0]);
    code.extend_from_slice(cases);
    code
}

#[test]
fn a_switch_leads_where_its_table_says() {
    const TABLE: usize = 0x2100;
    // cmp esi, 3 ; ja to the end. and esi, 3.
    let (cmp, and): (&[u8], &[u8]) = (&[0x83, 0xfe, 3, 0x77, 23], &[0x83, 0xe6, 3]);
    let cases = [&CPUID[..], &BEHIND, &RET].concat();
    // Whether the instruction in the cases is found, when one entry leads that far behind the start of the cases, all others to the return.
    let found = |code: &[u8], entry: usize, to: isize| {
        let mut program = program_of(code);
        let start = FUNCTION + code.len() - cases.len();
        for other in 0..8 {
            let to = if other == entry { to } else { 7 };
            let distance = start as i32 + to as i32 - TABLE as i32;
            let at = TABLE + 4 * other;
            program[at..at + 4].copy_from_slice(&distance.to_le_bytes());
        }
        !sites_in(&program).is_empty()
    };
    for limit in [cmp, and] {
        let code = switch(limit, TABLE, &cases);
        // To the instruction, to what would move with it, behind that, and into another function.
        for (to, expected) in [(0, true), (2, false), (7, true), (0x800, true)] {
            assert_eq!(found(&code, 3, to), expected, "{to}");
        }
        // Behind the table's end, and past the look at its length.
        assert!(found(&code, 4, 2));
        assert!(!found(&code, 3, -16));
        // Jumps that are not like that: with the limit of another register, without one, after a change of the register, with another size of the entries, to another sum, through memory.
        let other = |at: usize, byte: u8| {
            let mut code = code.clone();
            code[limit.len() + at] = byte;
            code
        };
        for (at, byte) in [(10, 0xaf), (10, 0x77), (13, 0xd8), (15, 0xe1), (15, 0x20)] {
            assert!(!found(&other(at, byte), 3, 7), "{at}");
        }
        assert!(!found(&switch(&[limit, &[0xff, 0xc6]].concat(), TABLE, &cases), 3, 7));
    }
    assert!(!found(&switch(&[], TABLE, &cases), 3, 7));
}

#[test]
fn flags_that_are_used_are_kept() {
    // cmp ; cpuid ; mov ; setb bl ; and: from before. cpuid ; and ; setb: from behind it.
    let (cmp, setb) = ([0x83, 0xf8, 1], [0x0f, 0x92, 0xc3]);
    assert_eq!(sites(&[&cmp, &CPUID, &[0x89, 0xc2, 0x89, 0xc6], &setb, &RET]), []);
    assert_eq!(sites(&[&CPUID, &BEHIND, &setb, &RET]), [(0, 7, 0)]);
    // inc leaves the carry as it was.
    assert_eq!(sites(&[&CPUID, &[0xff, 0xc0, 0x89, 0xc2], &setb, &RET]), []);
}

#[test]
fn a_site_lies_in_one_page() {
    // A jump, which can't move, and then up to the end of the page the instruction and half of what is behind it.
    let len = PAGE as usize - FUNCTION % PAGE as usize - 4;
    let front = |len: usize| [&vec![0x90; len - 2][..], &[0x74, 0]].concat();
    assert_eq!(sites(&[&front(len), &CPUID, &BEHIND, &RET]), []);
    assert_eq!(sites(&[&front(len - 3), &CPUID, &BEHIND, &RET]), [(len - 3, 7, 0)]);
}

#[test]
fn a_new_program_is_shown_with_its_sites_replaced() {
    // cpuid ; mov [rip + 0x100], eax ; ret
    let program = program_of(&[&CPUID[..], &[0x89, 0x05, 0, 1, 0, 0], &RET].concat());
    for known in [answers(), Vec::new()] {
        let machine = MockMachine::builder().cpuid(&known).build();
        machine.mock_fs().add_file("/program", 0o755, &program);
        let program = program.clone();
        testing::run_on(machine.clone(), testing::config(), move |cx| {
            let file: Arc<dyn HostFile> = Arc::new(machine.mock_fs().file("/program"));
            // The last time the sites are known.
            for start in 0..FIRST_STARTS + 2 {
                let mm = new_mm(cx);
                map_program(cx, &mm, AT, &file);
                mm.prepare(cx, AT + FUNCTION as u64, 0x7000_0000);
                let at = AT + FUNCTION as u64;
                let code = load(cx, &mm, at, 9).unwrap();
                assert_eq!(machine.mock_fs().content("/program"), program);
                if known.is_empty() || start < FIRST_STARTS {
                    assert_eq!((&code[..], mm.vmas().len()), (&program[FUNCTION..FUNCTION + 9], 1));
                    continue;
                }
                assert_eq!((code[0], &code[5..]), (0xe9, &[0xcc, 0xcc, 0xcc, 0xc3][..]));
                let target = |from: u64, bytes: &[u8]| {
                    (from + 4).wrapping_add_signed(i32::from_le_bytes(bytes.try_into().unwrap()).into())
                };
                let there = target(at + 1, &code[1..5]);
                let areas = mm.vmas();
                let area = areas.iter().find(|vma| vma.name == "[gates]").unwrap();
                assert!((area.start..area.end).contains(&there));
                assert_eq!(area.prot, Prot::READ | Prot::EXEC);
                assert!(mm.unmap(cx, area.start, PAGE).is_err(), "it is sealed");
                // The table: leaf 4, subleaf 1; leaf 2, whatever subleaf; the end.
                let table = load(cx, &mm, area.start, 96).unwrap();
                let words: Vec<u32> =
                    table.chunks(4).map(|b| u32::from_le_bytes(b.try_into().unwrap())).collect();
                let expected = [[!0, !0, 4, 1, 1, 2, 3, 4], [!0, 0, 2, 0, 5, 6, 7, 8], [0; 8]];
                assert_eq!(words, expected.concat());
                assert_eq!(there, area.start + 96);
                // The code finds the table, the store goes to where it went, and then it goes back.
                let code = load(cx, &mm, there, 80).unwrap();
                assert_eq!(
                    (&code[9..12], target(there + 12, &code[12..16])),
                    (&[0x48, 0x8d, 0x15][..], area.start)
                );
                let store = code.windows(2).rposition(|bytes| bytes == [0x89, 0x05]).unwrap();
                let from = there + store as u64 + 2;
                assert_eq!(target(from, &code[store + 2..store + 6]), at + 8 + 0x100);
                assert_eq!(code[store + 6], 0xe9);
                assert_eq!(target(from + 5, &code[store + 7..store + 11]), at + 8);
            }
        });
    }
}
