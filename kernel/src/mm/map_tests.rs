//! Tests of mappings: areas, files, caches, stacks, limits, and hosts without room.

use super::tests::{SEGV_ACCERR, SEGV_MAPERR, anon, load, new_mm, store};
use super::*;
use crate::fs::Mappable;
use crate::task::{Cx, Resource, Rlimit};
use crate::testing;
use abi::Errno;
use hal::mock::{MockBacking, MockMachine, MockOp, MockSpace};
use hal::{HostFile, PAGE_SIZE, Prot, SpaceError, VirtAddr};
use std::sync::Arc;
use std::vec::Vec;

const RW: Prot = Prot::READ.union(Prot::WRITE);
const PAGE: u64 = PAGE_SIZE;
const BUS: FaultOutcome = FaultOutcome::Signal { signo: 7, code: 2 };

fn fixed(addr: u64, len: u64) -> MapRequest {
    MapRequest { addr, flags: MapFlags::FIXED, ..anon(len) }
}

fn shared(cache: &Arc<PageCache>, len: u64) -> MapRequest {
    MapRequest { flags: MapFlags::SHARED, object: Some(Mappable::Cache(cache.clone())), ..anon(len) }
}

fn ranges(mm: &Mm) -> Vec<(u64, u64, Prot)> {
    mm.vmas().iter().map(|v| (v.start, v.end, v.prot)).collect()
}

fn set_limit(cx: &Cx, resource: Resource, value: u64) {
    cx.process().limits.lock().0[resource as usize] = Rlimit { cur: value, max: value };
}

#[test]
fn areas_split_and_merge() {
    testing::run(|cx| {
        let mm = new_mm(cx);
        let at = 0x10_0000;
        mm.map(cx, fixed(at, 4 * PAGE)).unwrap();
        mm.map(cx, fixed(at + 4 * PAGE, 4 * PAGE)).unwrap();
        assert_eq!(ranges(&mm), [(at, at + 8 * PAGE, RW)], "neighbours join");
        mm.protect(cx, at + 2 * PAGE, 2 * PAGE, Prot::READ).unwrap();
        assert_eq!(mm.vmas().len(), 3);
        mm.protect(cx, at + 2 * PAGE, 2 * PAGE, RW).unwrap();
        assert_eq!(mm.vmas().len(), 1);
        mm.unmap(cx, at + PAGE, PAGE).unwrap();
        assert_eq!(ranges(&mm), [(at, at + PAGE, RW), (at + 2 * PAGE, at + 8 * PAGE, RW)]);
        assert_eq!(mm.protect(cx, at, 4 * PAGE, Prot::READ).unwrap_err().errno(), Errno::ENOMEM);
        assert_eq!(mm.stats().size, 7);
        let taken = MapRequest { flags: MapFlags::FIXED | MapFlags::NOREPLACE, ..fixed(at, PAGE) };
        assert_eq!(mm.map(cx, taken).unwrap_err().errno(), Errno::EEXIST);
        assert_eq!(mm.map(cx, fixed(0, PAGE)).unwrap_err().errno(), Errno::EPERM);
    });
}

#[test]
fn a_library_is_shown_by_one_batch_and_costs_no_ram() {
    let machine = MockMachine::new();
    machine.mock_fs().add_file("/lib", 0o755, &std::vec![7u8; 60 * PAGE as usize - 100]);
    testing::run_on(machine.clone(), testing::config(), move |cx| {
        let file: Arc<dyn HostFile> = Arc::new(machine.mock_fs().file("/lib"));
        let segment = |at: u64, pages: u64, from: u64, prot| MapRequest {
            prot,
            object: Some(Mappable::Host(file.clone())),
            offset: from * PAGE,
            ..fixed(at, pages * PAGE)
        };
        let mm = new_mm(cx);
        let at = 0x10_0000;
        mm.map(cx, segment(at, 10, 0, Prot::READ)).unwrap();
        mm.map(cx, segment(at + 10 * PAGE, 20, 10, Prot::READ | Prot::EXEC)).unwrap();
        mm.map(cx, segment(at + 30 * PAGE, 30, 30, RW)).unwrap();
        let space = MockSpace::of(&**mm.space());
        assert_eq!(load(cx, &mm, at + 12 * PAGE, 1), Ok(std::vec![7]));
        assert_eq!(space.take_ops().len(), 3, "one mapping per segment");
        assert_eq!(load(cx, &mm, at + 35 * PAGE, 1), Ok(std::vec![7]));
        assert!(space.take_ops().is_empty() && mm.resident_pages() == 0);

        // A store copies its block of pages and leaves the others alone; behind the end of the file there are zeros.
        store(cx, &mm, at + 58 * PAGE, b"x");
        assert_eq!(mm.resident_pages(), 4);
        assert_eq!(load(cx, &mm, at + 60 * PAGE - 100, 2), Ok(std::vec![0, 0]));
        assert!(matches!(space.page(VirtAddr(at + 55 * PAGE)), Some((Prot::READ, MockBacking::File { .. }))));
        assert_eq!(file.read_at(58 * PAGE, &mut [0]).unwrap(), 1);
        assert_eq!(machine.mock_fs().content("/lib")[58 * PAGE as usize], 7);

        // Dropping the copies shows the file again.
        mm.advise(cx, at + 30 * PAGE, at + 60 * PAGE, Advice::DontNeed { locked: false }).unwrap();
        assert_eq!((load(cx, &mm, at + 58 * PAGE, 1), mm.resident_pages()), (Ok(std::vec![7]), 0));
        // A small area comes whole, up to the end of the file.
        mm.map(cx, segment(at + 70 * PAGE, 6, 55, RW)).unwrap();
        assert_eq!(store(cx, &mm, at + 72 * PAGE, b"x"), FaultOutcome::Handled);
        assert_eq!(mm.resident_pages(), 5);
        // A whole page behind the end.
        assert_eq!(store(cx, &mm, at + 75 * PAGE, b"x"), BUS);
        let beyond = mm.read_bytes(cx, VirtAddr(at + 75 * PAGE), &mut [0]);
        assert_eq!(beyond.unwrap_err().errno(), Errno::EFAULT);
    });
}

#[test]
fn truncation_leaves_every_mapping() {
    testing::run(|cx| {
        let cache = PageCache::new(cx.kernel.machine.clone(), cx.kernel.frames.clone(), 8 * PAGE);
        let (a, b) = (new_mm(cx), new_mm(cx));
        let in_a = a.map(cx, shared(&cache, 8 * PAGE)).unwrap().0;
        let in_b = b.map(cx, shared(&cache, 8 * PAGE)).unwrap().0;
        let private = MapRequest { flags: MapFlags::empty(), ..shared(&cache, 8 * PAGE) };
        let copy = b.map(cx, private).unwrap().0;
        for page in 0..8 {
            store(cx, &a, in_a + page * PAGE + 9, b"a");
        }
        assert_eq!(load(cx, &b, in_b + 5 * PAGE + 9, 1).unwrap(), b"a");
        store(cx, &b, copy + 6 * PAGE, b"c");
        store(cx, &b, copy + PAGE, b"c");
        let before = cx.kernel.frames.available();
        cache.truncate(cx, 2 * PAGE + 5);
        assert_eq!(cx.kernel.frames.available(), before + 6, "five of the object and one copy");
        assert_eq!(store(cx, &a, in_a + 3 * PAGE, b"x"), BUS);
        assert_eq!(load(cx, &b, in_b + 5 * PAGE, 1), Err(BUS));
        assert_eq!(load(cx, &b, copy + 6 * PAGE, 1), Err(BUS), "copies go, too");
        assert_eq!(load(cx, &b, copy + PAGE, 1).unwrap(), b"c");
        assert_eq!(load(cx, &a, in_a + 2 * PAGE + 9, 1), Ok(std::vec![0]), "the tail is zeroed");
        cache.truncate(cx, 8 * PAGE);
        assert_eq!(load(cx, &b, in_b + 5 * PAGE + 9, 1), Ok(std::vec![0]));

        // A hole takes the object's pages, not the copies.
        store(cx, &a, in_a + PAGE, b"z");
        cache.punch(cx, 0, 2 * PAGE);
        assert_eq!(load(cx, &b, in_b + PAGE, 1), Ok(std::vec![0]));
        assert_eq!(load(cx, &b, copy + PAGE, 1).unwrap(), b"c");
        assert_eq!(cache.size(), 8 * PAGE);
    });
}

#[test]
fn mremap_moves_pages_without_copies() {
    testing::run(|cx| {
        let mm = new_mm(cx);
        let at = mm.map(cx, anon(4 * PAGE)).unwrap().0;
        store(cx, &mm, at + 3 * PAGE, b"m");
        let frame = MockSpace::of(&**mm.space()).frame(VirtAddr(at + 3 * PAGE));
        let to = mm.remap(cx, at, 4 * PAGE, 64 * PAGE, RemapFlags::MAYMOVE, 0).unwrap().0;
        assert_eq!(load(cx, &mm, to + 3 * PAGE, 1).unwrap(), b"m");
        assert_eq!(MockSpace::of(&**mm.space()).frame(VirtAddr(to + 3 * PAGE)), frame);
        assert!(to == at || load(cx, &mm, at, 1) == Err(SEGV_MAPERR));
        assert_eq!(mm.stats().size, 64);
        mm.remap(cx, to, 64 * PAGE, PAGE, RemapFlags::empty(), 0).unwrap();
        assert_eq!((mm.stats().size, load(cx, &mm, to + PAGE, 1)), (1, Err(SEGV_MAPERR)));
        let stay = RemapFlags::MAYMOVE | RemapFlags::DONTUNMAP;
        store(cx, &mm, to, b"d");
        let twin = mm.remap(cx, to, PAGE, PAGE, stay, 0).unwrap().0;
        assert_eq!(load(cx, &mm, twin, 1).unwrap(), b"d");
        assert_eq!(load(cx, &mm, to, 1), Ok(std::vec![0]));
        let overlap = mm.remap(cx, to, PAGE, PAGE, RemapFlags::MAYMOVE | RemapFlags::FIXED, to);
        assert_eq!(overlap.unwrap_err().errno(), Errno::EINVAL);
    });
}

#[test]
fn pages_that_are_moved_are_there_at_once() {
    testing::run(|cx| {
        let mm = new_mm(cx);
        let space = MockSpace::of(&**mm.space());
        let fill = |at: u64, pages: u64| {
            for page in 0..pages {
                store(cx, &mm, at + page * PAGE, b"x");
            }
        };
        let at = mm.map(cx, anon(200 * PAGE)).unwrap().0;
        mm.map(cx, MapRequest { addr: at + 200 * PAGE, flags: MapFlags::FIXED, ..anon(PAGE) }).unwrap();
        fill(at, 150);
        let faults = mm.stats().faults;
        let to = mm.remap(cx, at, 200 * PAGE, 400 * PAGE, RemapFlags::MAYMOVE, 0).unwrap().0;
        assert_ne!(to, at);
        fill(to, 150);
        assert_eq!(mm.stats().faults, faults, "they may be written, too");
        assert!(space.frame(VirtAddr(at)).is_none(), "and are not at the old place any more");
        // Of very many only the first.
        let at = mm.map(cx, anon(4000 * PAGE)).unwrap().0;
        fill(at, 4000);
        let stay = RemapFlags::MAYMOVE | RemapFlags::DONTUNMAP;
        let to = mm.remap(cx, at, 4000 * PAGE, 4000 * PAGE, stay, 0).unwrap().0;
        assert!(space.frame(VirtAddr(to + 1000 * PAGE)).is_some());
        assert!(space.frame(VirtAddr(to + 3000 * PAGE)).is_none());
        assert_eq!(load(cx, &mm, to + 3000 * PAGE, 1).unwrap(), b"x");
    });
}

#[test]
fn the_heap_grows_to_its_limit_and_shrinks() {
    testing::run(|cx| {
        let mm = new_mm(cx);
        let start = 0x60_0123;
        mm.set_brk_start(start);
        assert_eq!(mm.brk(cx, 0), start);
        assert_eq!(mm.brk(cx, start + 10 * PAGE), start + 10 * PAGE);
        store(cx, &mm, start + 9 * PAGE, b"h");
        assert_eq!(mm.vmas()[0].name, "[heap]");
        assert_eq!(mm.brk(cx, start + PAGE), start + PAGE);
        assert_eq!(load(cx, &mm, start + 9 * PAGE, 1), Err(SEGV_MAPERR));
        mm.map(cx, fixed(0x62_0000, PAGE)).unwrap();
        assert_eq!(mm.brk(cx, 0x62_0000), start + PAGE, "something is in the way");
        set_limit(cx, Resource::Data, 8 * PAGE);
        assert_eq!(mm.brk(cx, start + 16 * PAGE), start + PAGE, "RLIMIT_DATA");
    });
}

#[test]
fn constants_of_programs_are_read_from_the_host_twice() {
    let machine = MockMachine::new();
    for name in ["/lib", "/data", "/other"] {
        machine.mock_fs().add_file(name, 0o755, &std::vec![7u8; 60 * PAGE as usize]);
    }
    testing::run_on(machine.clone(), testing::config(), move |cx| {
        let fs = machine.mock_fs();
        let mm = new_mm(cx);
        let map = |at: u64, name: &str, from: u64, prot| {
            let object = Some(Mappable::Host(Arc::new(fs.file(name))));
            mm.map(cx, MapRequest { prot, object, offset: from * PAGE, ..fixed(at, 10 * PAGE) }).unwrap();
        };
        let text: Arc<dyn HostFile> = Arc::new(fs.file("/lib"));
        for (index, prot) in [Prot::READ | Prot::EXEC, Prot::READ].into_iter().enumerate() {
            let (at, offset) = (0x10_0000 + index as u64 * 10 * PAGE, index as u64 * 10 * PAGE);
            let object = Some(Mappable::Host(text.clone()));
            mm.map(cx, MapRequest { prot, object, offset, ..fixed(at, 10 * PAGE) }).unwrap();
        }
        let (code, constants, data) = (0x10_0000, 0x10_0000 + 10 * PAGE, 0x20_0000);
        map(data, "/data", 0, Prot::READ);
        let read = |at: u64| {
            let mut buf = [0; 16];
            mm.read_string(cx, VirtAddr(at), &mut buf).unwrap();
            buf[15]
        };
        let calls = |at: u64, n: usize| {
            let before = fs.calls();
            assert!((0..n).all(|_| read(at) == 7));
            fs.calls() - before
        };
        assert_eq!((calls(code, 5), calls(constants, 5), calls(constants + 16, 5)), (2, 2, 2));
        assert_eq!((calls(code, 5), calls(constants, 5)), (0, 0), "all are kept");
        assert_eq!(calls(data, 5), 5, "nobody executes it");
        // What is there now counts, not what was.
        map(constants, "/other", 0, Prot::READ);
        assert_eq!(calls(constants, 5), 5);
        mm.map(cx, fixed(code, PAGE)).unwrap();
        assert_eq!(read(code), 0);
        store(cx, &mm, code, &[9; 16]);
        assert_eq!(read(code), 9);
    });
}

#[test]
fn a_heap_in_use_that_grows_in_steps_has_them_at_once() {
    testing::run(|cx| {
        let mm = new_mm(cx);
        let start = 0x60_0000;
        mm.set_brk_start(start);
        let mut end = 0;
        let mut grow = |mm: &Mm, pages: u64| {
            end += pages;
            assert_eq!(mm.brk(cx, start + end * PAGE), start + end * PAGE);
            end
        };
        grow(&mm, 40);
        assert_eq!(mm.resident_pages(), 8, "its first pages");
        store(cx, &mm, start, b"x");
        assert_eq!(mm.stats().faults, 0);
        for _ in 0..20 {
            let end = grow(&mm, 33);
            for page in 0..end {
                store(cx, &mm, start + page * PAGE, b"x");
            }
        }
        let faults = mm.stats().faults;
        assert!(faults <= 8, "{faults} faults for 20 steps");
        // Not more at once than a window.
        let before = mm.resident_pages();
        grow(&mm, 4096);
        assert!(mm.resident_pages() <= before + 256);
        let before = mm.resident_pages();
        grow(&mm, 64);
        assert_eq!(mm.resident_pages(), before, "its end is not in use");
    });
}

#[test]
fn a_heap_that_grows_again_has_the_pages_that_it_had() {
    testing::run(|cx| {
        let mm = new_mm(cx);
        let start = 0x60_0000;
        mm.set_brk_start(start);
        let grow = |pages: u64| assert_eq!(mm.brk(cx, start + pages * PAGE), start + pages * PAGE);
        grow(256);
        assert_eq!(mm.resident_pages(), 8, "nothing is known of it yet but that it begins");
        store(cx, &mm, start + 16 * PAGE, b"a");
        store(cx, &mm, start + 32 * PAGE, b"b");
        assert_eq!(mm.resident_pages(), 24);
        for pages in [60, 36, 20, 12] {
            grow(pages);
        }
        assert_eq!(mm.resident_pages(), 8);
        grow(14);
        assert_eq!(mm.resident_pages(), 8, "not so far");
        let faults = mm.stats().faults;
        grow(256);
        assert_eq!(mm.resident_pages(), 8 + 24, "from the first to the last");
        assert_eq!(load(cx, &mm, start + 16 * PAGE, 1), Ok(std::vec![0]), "the content is gone");
        store(cx, &mm, start + 32 * PAGE, b"c");
        assert_eq!(mm.stats().faults, faults);
        mm.write_bytes(cx, VirtAddr(start), &std::vec![1; 256 * PAGE as usize]).unwrap();
        grow(0);
        grow(256);
        assert_eq!(mm.resident_pages(), 64, "but not too many");
    });
}

#[test]
fn a_stack_grows_to_its_limit_and_keeps_its_distance() {
    testing::run(|cx| {
        let mm = new_mm(cx);
        let top = 0x7000_0000_0000;
        let flags = MapFlags::FIXED | MapFlags::GROWSDOWN;
        mm.map(cx, MapRequest { flags, name: "[stack]", ..fixed(top - 4 * PAGE, 4 * PAGE) }).unwrap();
        assert_eq!(store(cx, &mm, top - 40 * PAGE, b"s"), FaultOutcome::Handled);
        mm.write_bytes(cx, VirtAddr(top - (1 << 20)), b"kernel").unwrap();
        set_limit(cx, Resource::Stack, 2 << 20);
        assert_eq!(store(cx, &mm, top - (2 << 20), b"s"), FaultOutcome::Handled);
        assert_eq!(store(cx, &mm, top - (2 << 20) - 1, b"s"), SEGV_MAPERR);
        set_limit(cx, Resource::Stack, 64 << 20);
        mm.map(cx, fixed(top - (4 << 20), PAGE)).unwrap();
        let gap = 256 * PAGE;
        assert_eq!(store(cx, &mm, top - (4 << 20) + gap, b"s"), SEGV_MAPERR, "the guard gap");
        assert_eq!(store(cx, &mm, top - (4 << 20) + gap + PAGE, b"s"), FaultOutcome::Handled);
        assert!(mm.stats().stack >= 700);
    });
}

#[test]
fn a_stack_that_grows_by_large_frames_has_few_faults() {
    testing::run(|cx| {
        let mm = new_mm(cx);
        let top = 0x7000_0000_0000;
        let flags = MapFlags::FIXED | MapFlags::GROWSDOWN;
        mm.map(cx, MapRequest { flags, name: "[stack]", ..fixed(top - 4 * PAGE, 4 * PAGE) }).unwrap();
        for below in (1..=4).chain([7, 9, 8, 16, 30, 29, 17, 46, 31]) {
            assert_eq!(store(cx, &mm, top - below * PAGE, b"s"), FaultOutcome::Handled);
        }
        let faults = mm.stats().faults;
        assert!(faults <= 5, "{faults}");
        assert!((46..=64).contains(&mm.resident_pages()), "{}", mm.resident_pages());
        // What is far away is something else.
        assert_eq!(store(cx, &mm, top - 500 * PAGE, b"s"), FaultOutcome::Handled);
        assert!(mm.resident_pages() <= 64 + 8, "{}", mm.resident_pages());
    });
}

#[test]
fn full_ram_is_told_and_too_large_mappings_are_refused() {
    let machine = MockMachine::builder().memory(1 << 20).build();
    testing::run_on(machine, testing::config(), |cx| {
        let mm = new_mm(cx);
        assert_eq!(mm.map(cx, anon(2 << 20)).unwrap_err().errno(), Errno::ENOMEM);
        let flags = MapFlags::NORESERVE;
        let at = mm.map(cx, MapRequest { flags, ..anon(2 << 20) }).unwrap().0;
        let full = (0..512).find(|p| store(cx, &mm, at + p * PAGE, b"x") != FaultOutcome::Handled);
        let full = full.expect("RAM never gets full");
        assert_eq!(store(cx, &mm, at + full * PAGE, b"x"), FaultOutcome::OutOfMemory);
        assert_eq!(cx.kernel.frames.available(), 0, "the last frame was used");
        let copy = mm.write_bytes(cx, VirtAddr(at + full * PAGE), b"x");
        assert_eq!(copy.unwrap_err().errno(), Errno::ENOMEM);
        let cache = PageCache::new(cx.kernel.machine.clone(), cx.kernel.frames.clone(), 0);
        assert_eq!(cache.write(0, &mut &b"x"[..]).unwrap_err().errno(), Errno::ENOSPC);
        mm.advise(cx, at, at + (2 << 20), Advice::DontNeed { locked: false }).unwrap();
        assert_eq!(store(cx, &mm, at + full * PAGE, b"x"), FaultOutcome::Handled);
    });
}

#[test]
fn a_host_without_room_has_everything_unmapped_once() {
    let machine = MockMachine::new();
    testing::run_on(machine.clone(), testing::config(), move |cx| {
        let mm = new_mm(cx);
        let at = mm.map(cx, anon(64 * PAGE)).unwrap().0;
        store(cx, &mm, at, b"1");
        let space = MockSpace::of(&**mm.space());
        space.take_ops();
        machine.fail_next_update(SpaceError::NoMemory);
        assert_eq!(store(cx, &mm, at + 32 * PAGE, b"2"), FaultOutcome::Handled);
        let ops = space.take_ops();
        assert!(matches!(ops[..], [MockOp::Unmap(VirtAddr(0), _), MockOp::Map(..)]), "{ops:?}");
        assert_eq!(load(cx, &mm, at, 1).unwrap(), b"1");
        machine.fail_next_update(SpaceError::Dead("gone".into()));
        assert_eq!(store(cx, &mm, at + 48 * PAGE, b"3"), FaultOutcome::Signal { signo: 9, code: 0 });
    });
}

#[test]
fn small_memory_is_shown_at_once_in_the_place_of_what_was_there() {
    testing::run(|cx| {
        let mm = new_mm(cx);
        let at = mm.map(cx, anon(4 * PAGE)).unwrap().0;
        store(cx, &mm, at, b"old");
        let space = MockSpace::of(&**mm.space());
        space.take_ops();
        let over = MapRequest { addr: at, flags: MapFlags::FIXED, ..anon(4 * PAGE) };
        assert_eq!(mm.map(cx, over).unwrap().0, at);
        let ops = space.take_ops();
        assert!(
            matches!(ops[..], [MockOp::Map(ref map, _)] if map.at.0 == at && map.len == 4 * PAGE),
            "{ops:?}"
        );
        assert_eq!(load(cx, &mm, at, 3).unwrap(), [0; 3]);
        assert_eq!(mm.stats().faults, 0);
        // What may never be touched costs nothing: a stack with its guard page comes and goes.
        let later = MapRequest { flags: MapFlags::LATER, ..anon(3 * PAGE) };
        let stack = mm.map(cx, later).unwrap().0;
        mm.protect(cx, stack, PAGE, Prot::empty()).unwrap();
        mm.unmap(cx, stack, 3 * PAGE).unwrap();
        assert_eq!(space.take_ops(), []);
    });
}

#[test]
fn locked_memory_counts_and_is_kept() {
    testing::run(|cx| {
        let mm = new_mm(cx);
        let at = mm.map(cx, anon(32 * PAGE)).unwrap().0;
        mm.lock(cx, at, at + 2 * PAGE, false).unwrap();
        assert_eq!((mm.resident_pages(), mm.stats().locked), (2, 2));
        let drop = Advice::DontNeed { locked: false };
        assert_eq!(mm.advise(cx, at, at + PAGE, drop).unwrap_err().errno(), Errno::EINVAL);
        mm.unlock(at, at + 2 * PAGE).unwrap();
        mm.advise(cx, at, at + 4 * PAGE, drop).unwrap();
        assert_eq!((mm.resident_pages(), mm.stats().locked), (0, 0));
        assert_eq!(mm.lock(cx, at, at + 64 * PAGE, false).unwrap_err().errno(), Errno::ENOMEM);
    });
}

#[test]
fn sealed_areas_stay_as_they_are() {
    testing::run(|cx| {
        let mm = new_mm(cx);
        let at = mm.map(cx, anon(2 * PAGE)).unwrap().0;
        mm.seal(at, at + PAGE).unwrap();
        let eperm = |r: crate::error::Result<()>| r.is_err_and(|e| e.errno() == Errno::EPERM);
        assert!(eperm(mm.unmap(cx, at, 2 * PAGE)));
        assert!(eperm(mm.protect(cx, at, PAGE, Prot::READ)));
        assert!(eperm(mm.map(cx, fixed(at, PAGE)).map(drop)));
        assert_eq!(store(cx, &mm, at, b"x"), FaultOutcome::Handled);
    });
}

#[test]
fn fork_flags_are_honoured() {
    testing::run(|cx| {
        let mm = new_mm(cx);
        let gone = mm.map(cx, fixed(0x10_0000, PAGE)).unwrap().0;
        let wiped = mm.map(cx, fixed(0x20_0000, PAGE)).unwrap().0;
        store(cx, &mm, gone, b"g");
        store(cx, &mm, wiped, b"w");
        let flags = Advice::Flags { set: VmaFlags::DONTFORK, clear: VmaFlags::empty() };
        mm.advise(cx, gone, gone + PAGE, flags).unwrap();
        mm.advise(cx, wiped, wiped + PAGE, Advice::WipeOnFork).unwrap();
        let child = mm.fork(cx).unwrap();
        assert_eq!(load(cx, &child, gone, 1), Err(SEGV_MAPERR));
        assert_eq!(load(cx, &child, wiped, 1), Ok(std::vec![0]));
        assert_eq!(load(cx, &mm, wiped, 1).unwrap(), b"w");
        mm.protect(cx, wiped, PAGE, Prot::READ).unwrap();
        assert_eq!(store(cx, &mm, wiped, b"x"), SEGV_ACCERR);
    });
}

#[test]
fn a_file_systems_limit_counts_pages_whoever_makes_them() {
    testing::run(|cx| {
        let quota = Quota::new(3);
        let new = || PageCache::limited(cx.kernel.machine.clone(), cx.kernel.frames.clone(), quota.clone());
        let (cache, other) = (new(), new());
        cache.truncate(cx, 8 * PAGE);
        let mm = new_mm(cx);
        let at = mm.map(cx, shared(&cache, 8 * PAGE)).unwrap().0;
        for page in 0..3 {
            assert_eq!(store(cx, &mm, at + page * PAGE, b"x"), FaultOutcome::Handled);
        }
        assert_eq!(quota.used(), 3);
        assert_eq!(store(cx, &mm, at + 3 * PAGE, b"x"), BUS);
        let mut bytes: &[u8] = b"y";
        assert_eq!(other.write(0, &mut bytes).unwrap_err().errno(), Errno::ENOSPC);
        cache.punch(cx, 0, PAGE);
        assert_eq!(quota.used(), 2);
        assert_eq!(other.allocate(0, 2 * PAGE).unwrap_err().errno(), Errno::ENOSPC);
        assert_eq!(quota.used(), 2, "all or nothing");
        let mut bytes: &[u8] = &[b'y'; 5000];
        assert_eq!(other.write(0, &mut bytes).unwrap(), PAGE as usize);
        drop(other);
        assert_eq!(store(cx, &mm, at + 3 * PAGE, b"x"), FaultOutcome::Handled);
        // A mapping holds the content as long as it stands.
        drop(cache);
        assert_eq!(quota.used(), 3);
        mm.unmap(cx, at, 8 * PAGE).unwrap();
        assert_eq!(quota.used(), 0);
    });
}

#[test]
fn a_file_that_the_host_does_not_map_is_a_bus_error_and_no_more() {
    let machine = MockMachine::new();
    machine.mock_fs().add_file("/odd", 0o644, &[1; 4096]);
    testing::run_on(machine.clone(), testing::config(), move |cx| {
        let file: Arc<dyn HostFile> = Arc::new(machine.mock_fs().file("/odd"));
        let mm = new_mm(cx);
        let (at, other) = (0x10_0000, mm.map(cx, anon(PAGE)).unwrap().0);
        store(cx, &mm, other, b"kept");
        let object = Some(Mappable::Host(file));
        mm.map(cx, MapRequest { prot: Prot::READ, object, ..fixed(at, PAGE) }).unwrap();
        machine.fail_next_update(SpaceError::Refused(0));
        assert_eq!(load(cx, &mm, at, 1), Err(BUS));
        assert_eq!(load(cx, &mm, at, 1), Err(BUS));
        assert_eq!(load(cx, &mm, other, 4).unwrap(), b"kept");
        let child = mm.fork(cx).unwrap();
        assert_eq!((load(cx, &child, at, 1), load(cx, &child, other, 4)), (Err(BUS), Ok(b"kept".to_vec())));
    });
}
