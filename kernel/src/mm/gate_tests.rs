//! Tests of patched system-call sites.

use super::tests::{anon, load, new_mm, store};
use super::*;
use crate::fs::Mappable;
use crate::task::Cx;
use crate::testing;
use abi::Errno;
use abi::time::Timespec;
use hal::mock::{MockMachine, MockSpace};
use hal::{HostFile, PAGE_SIZE, Prot, VirtAddr};
use std::sync::Arc;
use std::vec::Vec;

const PAGE: u64 = PAGE_SIZE;
const GATE: u64 = 0x7fff_ff00_0100;
const RX: Prot = Prot::READ.union(Prot::EXEC);
const RWX: Prot = RX.union(Prot::WRITE);
/// Where the program's only function is in the file, and its system call.
pub(super) const FUNCTION: usize = 0x1010;
const SITE: usize = FUNCTION + 9;

/// A program with one system call.
fn program() -> Vec<u8> {
    // push rbp ; mov rbp, rsp ; mov eax, 39 ; syscall ; ret
    program_of(&[0x55, 0x48, 0x89, 0xe5, 0xb8, 39, 0, 0, 0, 0x0f, 0x05, 0xc3])
}

/// An ELF file with one function and the table that says where it starts; addresses in memory are offsets in the file.
pub(super) fn program_of(function: &[u8]) -> Vec<u8> {
    let mut file = std::vec![0u8; 3 * PAGE as usize];
    let mut put = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"\x7fELF\x02\x01\x01");
    put(32, &64u64.to_le_bytes());
    put(54, &[56, 0, 2, 0]);
    let mut header = |i: usize, kind: u32, offset: u64, len: u64| {
        let at = 64 + i * 56;
        put(at, &kind.to_le_bytes());
        // Readable and executable.
        put(at + 4, &[5]);
        for (field, value) in [(8, offset), (16, offset), (32, len), (40, len)] {
            put(at + field, &value.to_le_bytes());
        }
    };
    header(0, 1, 0, 3 * PAGE);
    header(1, 0x6474_e550, 0x200, 20);
    // The table: version, encodings, one entry; the frame: length, parent, start, length of the function; and the parent: length, none,
    // version, augmentation, alignments, register, length of the data, encoding.
    put(0x200, &[1, 0x1b, 0x03, 0x3b]);
    put(0x208, &1u32.to_le_bytes());
    put(0x20c, &(FUNCTION as i32 - 0x200).to_le_bytes());
    put(0x210, &0x100i32.to_le_bytes());
    put(0x300, &[16, 0, 0, 0, 0x84, 0, 0, 0]);
    put(0x280, &[16, 0, 0, 0, 0, 0, 0, 0, 1, b'z', b'R', 0, 1, 0x78, 16, 1, 0x1b]);
    put(0x308, &(FUNCTION as i32 - 0x308).to_le_bytes());
    put(0x30c, &(function.len() as u32).to_le_bytes());
    put(FUNCTION, function);
    file
}

/// Maps such a program at an address.
pub(super) fn map_program(cx: &Cx, mm: &Mm, addr: u64, file: &Arc<dyn HostFile>) {
    let request = MapRequest {
        addr,
        len: 3 * PAGE,
        prot: RX,
        flags: MapFlags::FIXED,
        object: Some(Mappable::Host(file.clone())),
        file: None,
        offset: 0,
        name: "",
    };
    mm.map(cx, request).unwrap();
}

#[test]
fn a_busy_site_is_patched_in_a_copy_of_its_page() {
    let machine = MockMachine::builder().gate(GATE).build();
    machine.mock_fs().add_file("/program", 0o755, &program());
    testing::run_on(machine.clone(), testing::config(), move |cx| {
        let file: Arc<dyn HostFile> = Arc::new(machine.mock_fs().file("/program"));
        let at = 0x5000_0000;
        let mm = new_mm(cx);
        map_program(cx, &mm, at, &file);
        let code = |mm: &Mm| load(cx, mm, at + FUNCTION as u64, 12).unwrap();
        let original = program()[FUNCTION..FUNCTION + 12].to_vec();
        assert_eq!(code(&mm), original);
        let trap = |mm: &Mm| mm.note_call(cx, at + SITE as u64 + 2);
        (0..23).for_each(|_| trap(&mm));
        assert_eq!((code(&mm), mm.vmas().len()), (original.clone(), 1));
        trap(&mm);
        let patched = code(&mm);
        assert_eq!((patched[4], &patched[9..]), (0xe9, &original[9..]), "the call itself stays");
        assert_eq!(machine.mock_fs().content("/program"), program(), "and so does the file");

        // The jump leads to a slot, which does what was replaced, names the site and goes to the gate.
        let distance = i32::from_le_bytes(patched[5..9].try_into().unwrap());
        let slot = (at + SITE as u64).wrapping_add_signed(distance.into());
        let areas = mm.vmas();
        let gates = areas.iter().find(|vma| vma.name == "[gates]").unwrap();
        assert!((gates.start..gates.end).contains(&slot) && gates.prot == RX);
        let bytes = load(cx, &mm, slot, 25).unwrap();
        assert_eq!(bytes[..5], original[4..9]);
        let site = i32::from_le_bytes(bytes[8..12].try_into().unwrap());
        assert_eq!((slot + 12).wrapping_add_signed(site.into()), at + SITE as u64);
        assert_eq!(bytes[14..22], GATE.to_le_bytes());
        assert_eq!(mm.unmap(cx, gates.start, PAGE).unwrap_err().errno(), Errno::EPERM);

        // A signal that comes there shows where the program believes to be.
        let believed = |ip: u64| mm.outside_slots(ip).wrapping_sub(at);
        assert_eq!(
            (believed(slot), believed(slot + 5), believed(slot + 22)),
            (SITE as u64 - 5, SITE as u64, SITE as u64)
        );
        assert_eq!((believed(slot + 48), believed(at)), ((slot + 48).wrapping_sub(at), 0), "nothing there");

        // More traps change nothing. A copy of the address space shows the same code when it is as busy, and has its own slots.
        (0..100).for_each(|_| trap(&mm));
        assert_eq!(code(&mm), patched);
        let child = mm.fork(cx).unwrap();
        (0..23).for_each(|_| trap(&child));
        assert_eq!((code(&child), child.vmas().len()), (original.clone(), 2));
        trap(&child);
        assert_eq!((code(&child), load(cx, &child, slot, 25).unwrap()), (patched.clone(), bytes));
        assert_eq!((code(&mm), child.vmas().len()), (patched.clone(), 2));

        // Code that becomes writable is the file's again, and is left alone from then on.
        mm.protect(cx, at, 3 * PAGE, RWX).unwrap();
        assert_eq!(code(&mm), original);
        store(cx, &mm, at + PAGE, b"changed");
        mm.protect(cx, at, 3 * PAGE, RX).unwrap();
        let other = at + PAGE + 0x800 + 2;
        (0..100).for_each(|_| mm.note_call(cx, other));
        assert_eq!(code(&mm), original);
        assert_eq!(code(&child), patched);
    });
}

#[test]
fn low_programs_have_their_slots_close_below_or_above() {
    for (at, below) in [(0x20_0000, true), (0x1_2000, false)] {
        let machine = MockMachine::builder().gate(GATE).build();
        machine.mock_fs().add_file("/program", 0o755, &program());
        testing::run_on(machine.clone(), testing::config(), move |cx| {
            let file: Arc<dyn HostFile> = Arc::new(machine.mock_fs().file("/program"));
            let mm = new_mm(cx);
            let object = Some(Mappable::Host(file));
            let request = MapRequest { addr: at, prot: RX, flags: MapFlags::FIXED, object, ..anon(3 * PAGE) };
            mm.map(cx, request).unwrap();
            assert_eq!(load(cx, &mm, at + SITE as u64, 1).unwrap(), [0x0f]);
            (0..24).for_each(|_| mm.note_call(cx, at + SITE as u64 + 2));
            let bytes = load(cx, &mm, at + SITE as u64 - 5, 5).unwrap();
            let distance = i32::from_le_bytes(bytes[1..].try_into().unwrap());
            let slot = (at + SITE as u64).wrapping_add_signed(distance.into());
            let gates = mm.vmas().into_iter().find(|vma| vma.name == "[gates]").unwrap();
            assert!(bytes[0] == 0xe9 && slot == gates.start, "{slot:#x}");
            let in_place = if below { gates.end <= at } else { slot > at + (512 << 20) };
            assert!(in_place, "{slot:#x}");
        });
    }
}

#[test]
fn sites_that_are_none_are_left_alone() {
    let machine = MockMachine::builder().gate(GATE).build();
    testing::run_on(machine, testing::config(), |cx| {
        let mm = new_mm(cx);
        let at = mm.map(cx, MapRequest { prot: RWX, ..anon(PAGE) }).unwrap().0;
        // mov eax, 39 ; syscall: made by the program itself.
        store(cx, &mm, at, &[0xb8, 39, 0, 0, 0, 0x0f, 0x05]);
        for ip in [at + 7, at, 0, 1, 2, u64::MAX, 0xffff_8000_0000_0000, 0x1234_5678] {
            (0..30).for_each(|_| mm.note_call(cx, ip));
        }
        assert_eq!(load(cx, &mm, at, 7).unwrap(), [0xb8, 39, 0, 0, 0, 0x0f, 0x05]);
        assert_eq!(mm.vmas().len(), 1);
    });
}

/// Prints for each file in `VK_SURVEY` (a list like `PATH`) which of its system-call sites can be patched, and why others can't:
/// `VK_SURVEY=/lib/x86_64-linux-gnu/libc.so.6 cargo test -p vk-kernel survey -- --ignored --nocapture`.
#[test]
#[ignore = "a tool: prints what it finds in files of the host"]
fn survey_of_sites() {
    let machine = MockMachine::new();
    for name in std::env::var("VK_SURVEY").unwrap_or_default().split(':').filter(|name| !name.is_empty()) {
        let bytes = std::fs::read(name).unwrap();
        machine.mock_fs().add_file("/file", 0o755, &bytes);
        let file = machine.mock_fs().file("/file");
        let (mut sites, mut patched) = (0, 0);
        for (at, _) in bytes.windows(2).enumerate().filter(|(_, pair)| *pair == site::SYSCALL) {
            let page = at / PAGE as usize * PAGE as usize;
            let Some(page_bytes) = bytes.get(page..page + PAGE as usize) else { continue };
            let plan = site::plan(&file, page as u64, page_bytes, (at - page) as u64);
            match plan {
                // Not code, or not an instruction.
                Err(site::Obstacle::NoCode) => continue,
                Ok(_) => patched += 1,
                Err(obstacle) => std::println!("{name}: {at:#x}: {obstacle:?}"),
            }
            sites += 1;
        }
        std::println!("{name}: {patched} of {sites}");
    }
}

#[test]
fn calls_of_a_starting_program_are_patched_once_they_are_known() {
    // Five calls, of which a start makes some.
    let call = [0xb8, 39, 0, 0, 0, 0x0f, 0x05];
    let function = [&call.repeat(5)[..], &[0xc3]].concat();
    let site = |i: usize| (FUNCTION + 7 * i + 5) as u64;
    for (traps, patched) in [(3, false), (5, true)] {
        let machine = MockMachine::builder().gate(GATE).build();
        let program = program_of(&function);
        machine.mock_fs().add_file("/program", 0o755, &program);
        let function = function.clone();
        testing::run_on(machine.clone(), testing::config(), move |cx| {
            let file: Arc<dyn HostFile> = Arc::new(machine.mock_fs().file("/program"));
            let at = 0x5000_0000;
            let mut last = Vec::new();
            for _ in 0..6 {
                let mm = new_mm(cx);
                map_program(cx, &mm, at, &file);
                mm.prepare(cx, at + FUNCTION as u64, 0x7000_0000);
                last = load(cx, &mm, at + FUNCTION as u64, function.len()).unwrap();
                (0..traps).for_each(|i| mm.note_call(cx, at + site(i) + 2));
            }
            assert_eq!(machine.mock_fs().content("/program"), program);
            if !patched {
                assert_eq!(last, function);
                return;
            }
            for i in 0..5 {
                let (moved, call) = last[7 * i..].split_at(5);
                assert_eq!((moved[0], &call[..2]), (0xe9, &[0x0f, 0x05][..]), "call {i}");
            }
        });
    }
}

#[test]
fn later_starts_share_the_pages_of_the_first_code_while_the_file_stays() {
    let call = [0xb8, 39, 0, 0, 0, 0x0f, 0x05];
    let function = [&call.repeat(5)[..], &[0xc3]].concat();
    let site = |i: usize| (FUNCTION + 7 * i + 5) as u64;
    let machine = MockMachine::builder().gate(GATE).build();
    machine.mock_fs().add_file("/program", 0o755, &program_of(&function));
    machine.advance(10_000_000_000);
    testing::run_on(machine.clone(), testing::config(), move |cx| {
        let file: Arc<dyn HostFile> = Arc::new(machine.mock_fs().file("/program"));
        let run = |at: u64| {
            let mm = new_mm(cx);
            map_program(cx, &mm, at, &file);
            mm.prepare(cx, at + FUNCTION as u64, 0x7000_0000);
            (0..5).for_each(|i| mm.note_call(cx, at + site(i) + 2));
            mm
        };
        let code = |mm: &Mm, at: u64| load(cx, mm, at + FUNCTION as u64, function.len()).unwrap();
        let frame = |mm: &Mm, at: u64| {
            MockSpace::of(&**mm.space()).frame(VirtAddr(at + (FUNCTION as u64 & !(PAGE - 1))))
        };
        let at = 0x5000_0000;
        (0..4).for_each(|_| drop(run(at)));
        let first = run(at);
        let patched = code(&first, at);
        assert_ne!(patched, function);
        // Elsewhere: the same code in the same frame, and its slots lead there.
        let other = at + 0x1234_5000;
        let second = run(other);
        assert_eq!((code(&second, other), frame(&second, other)), (patched.clone(), frame(&first, at)));
        let areas = |mm: &Mm, at: u64| {
            let own = mm.vmas().into_iter().filter(|vma| vma.name == "[gates]");
            own.map(|vma| (vma.start.wrapping_sub(at), vma.end.wrapping_sub(at))).collect::<Vec<_>>()
        };
        assert_eq!(areas(&second, other), areas(&first, at));
        let (distance, _) = areas(&second, other)[0];
        assert_eq!(second.outside_slots(other.wrapping_add(distance)), other + site(0) - 5);
        // No room at that distance: pages of its own.
        let third = new_mm(cx);
        let in_the_way = MapRequest { addr: at.wrapping_add(distance), flags: MapFlags::FIXED, ..anon(PAGE) };
        third.map(cx, in_the_way).unwrap();
        map_program(cx, &third, at, &file);
        third.prepare(cx, at + FUNCTION as u64, 0x7000_0000);
        assert_ne!(code(&third, at), function);
        assert_ne!(frame(&third, at), frame(&first, at));
        // Whoever writes to it changes nobody else's.
        second.protect(cx, other, 3 * PAGE, RWX).unwrap();
        store(cx, &second, other + FUNCTION as u64, b"x");
        assert_eq!(code(&first, at), patched);
        // Another content.
        machine.mock_fs().set_time(Timespec { sec: 5, nsec: 0 });
        let new: Vec<u8> = function.iter().rev().copied().collect();
        machine.mock_fs().file("/program").write_at(FUNCTION as u64, &new).unwrap();
        assert_eq!(code(&run(at), at), new);
    });
}

#[test]
fn sites_that_lie_alike_are_all_counted() {
    for stride in [16, 64, 512, 4096] {
        let traps = gate::Traps::new();
        let due = (0..24).flat_map(|_| (0..40).map(|i| 0x7fff_f7d0_1009 + i * stride));
        let due = due.filter(|site| traps.count(*site, || 1) == Some(24)).count();
        // A few may meet; most must not.
        assert!(due >= 30, "stride {stride}: {due} of 40");
    }
}
