//! Tests of address spaces on the mock machine.

use super::batch::Batch;
use super::*;
use crate::error::Result;
use crate::fs::Mappable;
use crate::task::Cx;
use crate::testing;
use abi::Errno;
use hal::mock::{MockMachine, MockMapping, MockOp, MockSpace};
use hal::{Fault, PAGE_SIZE, Populate, Prot, VirtAddr};
use std::sync::Arc;

const RW: Prot = Prot::READ.union(Prot::WRITE);
const PAGE: u64 = PAGE_SIZE;

/// A request for anonymous private memory.
pub(super) fn anon(len: u64) -> MapRequest {
    MapRequest {
        addr: 0,
        len,
        prot: RW,
        flags: MapFlags::empty(),
        object: None,
        file: None,
        offset: 0,
        name: "",
    }
}

fn fault(addr: u64, error: u32) -> Fault {
    Fault { vector: 14, error, addr, signo: 11, code: 1 }
}

/// A store by guest code: faults are served until it goes through.
pub(super) fn store(cx: &Cx, mm: &Mm, at: u64, bytes: &[u8]) -> FaultOutcome {
    let space = MockSpace::of(&**mm.space());
    for _ in 0..100_000 {
        match space.guest_write(VirtAddr(at), bytes) {
            Ok(()) => return FaultOutcome::Handled,
            Err(addr) => match mm.fault(cx, &fault(addr.0, 6)) {
                FaultOutcome::Handled => {}
                other => return other,
            },
        }
    }
    panic!("a store at {at:#x} faults for ever");
}

/// A load by guest code.
pub(super) fn load(cx: &Cx, mm: &Mm, at: u64, len: usize) -> Result<std::vec::Vec<u8>, FaultOutcome> {
    let space = MockSpace::of(&**mm.space());
    let mut bytes = std::vec![0; len];
    for _ in 0..100_000 {
        match space.guest_read(VirtAddr(at), &mut bytes) {
            Ok(()) => return Ok(bytes),
            Err(addr) => match mm.fault(cx, &fault(addr.0, 4)) {
                FaultOutcome::Handled => {}
                other => return Err(other),
            },
        }
    }
    panic!("a load at {at:#x} faults for ever");
}

pub(super) const SEGV_MAPERR: FaultOutcome = FaultOutcome::Signal { signo: 11, code: 1 };
pub(super) const SEGV_ACCERR: FaultOutcome = FaultOutcome::Signal { signo: 11, code: 2 };

pub(super) fn new_mm(cx: &Cx) -> Arc<Mm> {
    Mm::new(cx.kernel).unwrap()
}

#[test]
fn touched_memory_comes_in_windows_that_grow() {
    testing::run(|cx| {
        let mm = new_mm(cx);
        let at = mm.map(cx, anon(1 << 20)).unwrap().0;
        let space = MockSpace::of(&**mm.space());
        assert!(space.take_ops().is_empty(), "mapping costs nothing before it is touched");
        assert_eq!(store(cx, &mm, at, b"x"), FaultOutcome::Handled);
        assert!((1..=8).contains(&mm.resident_pages()));
        assert_eq!(space.take_ops().len(), 1);
        for page in 0..256 {
            store(cx, &mm, at + page * PAGE, b"y");
        }
        assert_eq!(mm.resident_pages(), 256);
        let ops = space.take_ops();
        assert!(ops.len() <= 8, "{} changes for 1 MiB", ops.len());
        assert_eq!(space.mappings().len(), 1, "contiguous frames join");
        assert_eq!(mm.fault(cx, &fault(at - 1, 4)), SEGV_MAPERR);
    });
}

#[test]
fn memory_that_is_touched_from_its_end_on_is_a_stack() {
    testing::run(|cx| {
        let reserve = |mm: &Mm, pages: u64| {
            // As C libraries make stacks: first without rights.
            let at = mm.map(cx, MapRequest { prot: Prot::empty(), ..anon(pages * PAGE) }).unwrap().0;
            mm.protect(cx, at, pages * PAGE, Prot::READ | Prot::WRITE).unwrap();
            at
        };
        // A small one, like a large one, comes in parts.
        for pages in [7, 2048] {
            let mm = new_mm(cx);
            let at = reserve(&mm, pages);
            let space = MockSpace::of(&**mm.space());
            store(cx, &mm, at + pages * PAGE - PAGE - 8, b"x");
            assert_eq!(mm.resident_pages(), 3);
            for page in (pages.saturating_sub(100)..pages).rev() {
                store(cx, &mm, at + page * PAGE, b"y");
            }
            assert!(mm.resident_pages() <= 112, "{}", mm.resident_pages());
            let ops = space.take_ops();
            assert!(ops.len() <= 10, "{} changes", ops.len());
        }
        // Others come whole.
        let mm = new_mm(cx);
        let at = reserve(&mm, 7);
        store(cx, &mm, at + 2 * PAGE, b"x");
        assert_eq!(mm.resident_pages(), 7);
    });
}

#[test]
fn windows_grow_downwards_too_and_not_for_single_pages() {
    testing::run(|cx| {
        let mm = new_mm(cx);
        let at = mm.map(cx, anon(1 << 20)).unwrap().0;
        for page in (0..250).rev() {
            store(cx, &mm, at + page * PAGE, b"x");
        }
        let faults = mm.stats().faults;
        assert!(faults <= 10, "{faults} faults for 1 MiB");
        let far = mm.map(cx, anon(16 << 20)).unwrap().0;
        for place in 0..16 {
            store(cx, &mm, far + place * (1 << 20), b"x");
        }
        assert!(mm.resident_pages() <= 256 + 16 * 8);
    });
}

#[test]
fn who_has_much_gets_more_at_once() {
    testing::run(|cx| {
        let mm = new_mm(cx);
        let far = mm.map(cx, anon(64 << 20)).unwrap().0.next_multiple_of(1 << 20);
        let touch = |place: u64| {
            let before = mm.resident_pages();
            store(cx, &mm, far + place * (1 << 20), b"x");
            mm.resident_pages() - before
        };
        assert_eq!(touch(0), 8);
        let have = |pages: u64| {
            let at = mm.map(cx, anon(pages * PAGE)).unwrap().0;
            for page in 0..pages {
                store(cx, &mm, at + page * PAGE, b"x");
            }
        };
        have(600);
        assert_eq!(touch(1), 16);
        have(1500);
        assert_eq!(touch(2), 64);
        have(8000);
        assert_eq!(touch(3), 64, "and not more without end");
    });
}

#[test]
fn windows_grow_while_the_area_does() {
    testing::run(|cx| {
        let mm = new_mm(cx);
        let at = mm.map(cx, anon(4 << 20)).unwrap().0;
        let start = mm.stats().faults;
        for page in 0..512 {
            store(cx, &mm, at + page * PAGE, b"x");
            // Each becomes a part of the same area.
            if page % 8 == 0 {
                mm.map(cx, MapRequest { flags: MapFlags::LATER, ..anon(PAGE) }).unwrap();
            }
        }
        assert_eq!(mm.vmas().len(), 1);
        let faults = mm.stats().faults - start;
        assert!(faults <= 10, "{faults} faults for 2 MiB");
        assert!(mm.resident_pages() <= 640, "{}", mm.resident_pages());
    });
}

#[test]
fn the_machine_is_told_what_it_has_to_make() {
    testing::run(|cx| {
        let mm = new_mm(cx);
        let space = MockSpace::of(&**mm.space());
        let touched = || {
            let at = mm.map(cx, anon(64 * PAGE)).unwrap().0;
            space.take_ops();
            store(cx, &mm, at, b"x");
            let ops = space.take_ops();
            let [MockOp::Map(_, populate)] = ops[..] else { panic!("{ops:?}") };
            (at, populate)
        };
        let (first, how) = touched();
        assert_eq!(how, Populate::Fresh);
        mm.unmap(cx, first, 64 * PAGE).unwrap();
        assert!(mm.empty_stash(cx) > 0);
        assert_eq!(touched().1, Populate::Now, "these frames were in use before");
    });
}

#[test]
fn copies_of_a_files_pages_grow_with_those_that_are_there() {
    const PAGES: u64 = 320;
    let machine = MockMachine::new();
    machine.mock_fs().add_file("/data", 0o644, &std::vec![7; (PAGES * PAGE) as usize]);
    testing::run_on(machine.clone(), testing::config(), move |cx| {
        let mm = new_mm(cx);
        let object = Some(Mappable::Host(Arc::new(machine.mock_fs().file("/data"))));
        let at = mm.map(cx, MapRequest { object, ..anon(PAGES * PAGE) }).unwrap().0;
        // One write is eight pages, however large the area is.
        store(cx, &mm, at + 100 * PAGE, &[1]);
        assert_eq!((mm.resident_pages(), mm.stats().faults), (8, 1));
        // All pages, in no order: 40 windows of eight otherwise.
        for i in 0..PAGES {
            store(cx, &mm, at + (i * 97 % PAGES) * PAGE, &[1]);
        }
        assert_eq!(mm.resident_pages(), PAGES);
        assert!(mm.stats().faults <= 20, "{} faults", mm.stats().faults);
    });
}

#[test]
fn a_dropped_space_gives_its_frames_back() {
    testing::run(|cx| {
        let before = cx.kernel.frames.available();
        let mm = new_mm(cx);
        let at = mm.map(cx, anon(1 << 20)).unwrap();
        mm.populate(cx, at.0, at.0 + (1 << 20), true).unwrap();
        assert_eq!(before - cx.kernel.frames.available(), 256);
        let child = mm.fork(cx).unwrap();
        drop(mm);
        assert_eq!(before - cx.kernel.frames.available(), 256);
        drop(child);
        assert_eq!(cx.kernel.frames.available(), before);
    });
}

#[test]
fn fork_copies_on_write_and_gives_write_access_back() {
    testing::run(|cx| {
        let (mm, at) = written(cx, 192);
        let space = MockSpace::of(&**mm.space());
        space.take_ops();
        let child = mm.fork(cx).unwrap();
        assert_eq!(space.take_ops(), [MockOp::Protect(VirtAddr(at), 192 * PAGE, Prot::READ)]);
        let shown = MockSpace::of(&**child.space()).mappings();
        assert!(
            matches!(shown[..], [MockMapping { len, prot: Prot::READ, .. }] if len == 192 * PAGE),
            "{shown:?}"
        );

        assert_eq!(load(cx, &child, at + 5 * PAGE, 1), Ok(std::vec![5]));
        store(cx, &child, at + 5 * PAGE, b"c");
        store(cx, &mm, at + 6 * PAGE, b"p");
        assert_eq!(load(cx, &mm, at + 5 * PAGE, 1), Ok(std::vec![5]));
        assert_eq!(load(cx, &child, at + 6 * PAGE, 1), Ok(std::vec![6]));
        assert_eq!(load(cx, &mm, at + 6 * PAGE, 1).unwrap(), b"p");

        drop(child);
        space.take_ops();
        store(cx, &mm, at + 20 * PAGE, b"q");
        let ops = space.take_ops();
        assert!(matches!(ops[..], [MockOp::Protect(_, len, RW)] if len == 8 * PAGE), "{ops:?}");
        assert_eq!(mm.resident_pages(), 192);
    });
}

/// An address space with so many pages of anonymous memory, each of which has been written to, and where they are.
fn written(cx: &Cx, pages: u64) -> (Arc<Mm>, u64) {
    let mm = new_mm(cx);
    let at = mm.map(cx, anon(pages * PAGE)).unwrap().0;
    for page in 0..pages {
        store(cx, &mm, at + page * PAGE, &[page as u8]);
    }
    (mm, at)
}

/// A shell has a big heap and writes a little of it between two forks.
#[test]
fn what_was_not_written_since_the_last_fork_is_not_copied() {
    testing::run(|cx| {
        let (mm, at) = written(cx, 256);
        drop(mm.fork(cx).unwrap());
        for page in [3, 100, 200] {
            store(cx, &mm, at + page * PAGE, b"written");
        }
        let space = MockSpace::of(&**mm.space());
        space.take_ops();
        let child = mm.fork(cx).unwrap();
        assert!(space.take_ops().is_empty(), "nothing is taken from the parent");
        let faults = mm.stats().faults;
        for page in [3, 100, 200] {
            store(cx, &mm, at + page * PAGE, b"again");
            assert_eq!(load(cx, &child, at + page * PAGE, 7).unwrap(), b"written");
        }
        assert_eq!(mm.stats().faults, faults, "the parent writes without a fault");
    });
}

#[test]
fn fork_copies_a_few_written_pages_at_once() {
    testing::run(|cx| {
        let mm = new_mm(cx);
        let at = mm.map(cx, anon(4 * PAGE)).unwrap().0;
        store(cx, &mm, at, b"all four come");
        store(cx, &mm, at + PAGE, b"one");
        let space = MockSpace::of(&**mm.space());
        space.take_ops();
        let child = mm.fork(cx).unwrap();
        assert!(space.take_ops().is_empty(), "nothing is taken from the parent");
        let shown = MockSpace::of(&**child.space()).mappings();
        assert!(matches!(shown[..], [MockMapping { len, prot: RW, .. }] if len == 4 * PAGE), "{shown:?}");
        let faults = |mm: &Mm| mm.stats().faults;
        let before = (faults(&mm), faults(&child));
        store(cx, &mm, at + PAGE, b"two");
        assert_eq!(load(cx, &child, at + PAGE, 3).unwrap(), b"one");
        store(cx, &child, at + PAGE, b"six");
        assert_eq!(load(cx, &mm, at + PAGE, 3).unwrap(), b"two");
        assert_eq!((faults(&mm), faults(&child)), before);
    });
}

#[test]
fn fork_takes_write_access_on_both_sides_of_a_hole() {
    testing::run(|cx| {
        let mm = new_mm(cx);
        let at = mm.map(cx, anon(512 * PAGE)).unwrap().0;
        // Too many pages to copy at once.
        for page in 0..192 {
            store(cx, &mm, at + page * PAGE, b"low");
        }
        store(cx, &mm, at + 400 * PAGE, b"high");
        let space = MockSpace::of(&**mm.space());
        space.take_ops();
        let _child = mm.fork(cx).unwrap();
        let ops = space.take_ops();
        // A change that spans pages that the machine does not show may stop there (mprotect(2), ENOMEM).
        let [MockOp::Protect(low, len, Prot::READ), MockOp::Protect(high, _, Prot::READ)] = ops[..] else {
            panic!("{ops:?}")
        };
        assert!(low.0 == at && low.0 + len < high.0 && high.0 <= at + 400 * PAGE, "{ops:?}");
    });
}

#[test]
fn kernel_copies_break_sharing_and_respect_rights() {
    testing::run(|cx| {
        let mm = new_mm(cx);
        let at = mm.map(cx, anon(64 * PAGE)).unwrap();
        let mut buf = [1; 8];
        mm.read_bytes(cx, at, &mut buf).unwrap();
        assert_eq!(buf, [0; 8]);
        assert_eq!(mm.resident_pages(), 0, "a read of untouched memory makes no page");
        mm.write_bytes(cx, VirtAddr(at.0 + PAGE - 2), b"abcd").unwrap();
        assert_eq!(mm.resident_pages(), 2);
        assert_eq!(load(cx, &mm, at.0 + PAGE - 2, 4).unwrap(), b"abcd");
        let child = mm.fork(cx).unwrap();
        mm.write_bytes(cx, VirtAddr(at.0 + PAGE), b"CD").unwrap();
        assert_eq!(load(cx, &mm, at.0 + PAGE - 2, 4).unwrap(), b"abCD", "the guest sees the new frame");
        assert_eq!(load(cx, &child, at.0 + PAGE - 2, 4).unwrap(), b"abcd");

        mm.protect(cx, at.0, PAGE, Prot::READ).unwrap();
        assert_eq!(mm.write_bytes(cx, at, b"x").unwrap_err().errno(), Errno::EFAULT);
        assert_eq!(store(cx, &mm, at.0, b"x"), SEGV_ACCERR);
        mm.protect(cx, at.0, PAGE, Prot::empty()).unwrap();
        assert_eq!(mm.read_bytes(cx, at, &mut buf).unwrap_err().errno(), Errno::EFAULT);
        assert_eq!(load(cx, &mm, at.0, 1), Err(SEGV_ACCERR));
        mm.protect(cx, at.0, PAGE, RW).unwrap();
        assert_eq!(load(cx, &mm, at.0 + PAGE - 2, 4).unwrap(), b"abCD");
        assert_eq!(mm.read_bytes(cx, VirtAddr(u64::MAX - 3), &mut buf).unwrap_err().errno(), Errno::EFAULT);
    });
}

#[test]
fn words_are_swapped_and_futex_keys_differ() {
    testing::run(|cx| {
        let mm = new_mm(cx);
        let at = mm.map(cx, anon(PAGE)).unwrap();
        assert_eq!(mm.load_u32(cx, at).unwrap(), 0);
        assert_eq!(mm.compare_exchange_u32(cx, at, 0, 7).unwrap(), Ok(0));
        assert_eq!(mm.compare_exchange_u32(cx, at, 0, 8).unwrap(), Err(7));
        assert_eq!(mm.load_u32(cx, at).unwrap(), 7);
        let shared = MapRequest { flags: MapFlags::SHARED, ..anon(PAGE) };
        let word = mm.map(cx, shared).unwrap();
        let child = mm.fork(cx).unwrap();
        assert_ne!(mm.futex_key(cx, at, true).unwrap(), child.futex_key(cx, at, true).unwrap());
        assert_eq!(mm.futex_key(cx, word, true).unwrap(), child.futex_key(cx, word, true).unwrap());
        mm.compare_exchange_u32(cx, word, 0, 3).unwrap().unwrap();
        assert_eq!(child.load_u32(cx, word).unwrap(), 3);
        store(cx, &child, word.0, &4u32.to_ne_bytes());
        assert_eq!(mm.load_u32(cx, word).unwrap(), 4);
    });
}

#[test]
fn a_frame_whose_other_owner_has_just_gone_is_no_lack_of_memory() {
    testing::run(|cx| {
        let mm = new_mm(cx);
        let at = mm.map(cx, anon(PAGE_SIZE)).unwrap().0;
        assert_eq!(store(cx, &mm, at, b"x"), FaultOutcome::Handled);
        // As if it had been shared when it was looked at first, and another CPU had let go of it.
        let page = at / PAGE_SIZE;
        let mut batch = Batch::default();
        let mut inner = mm.inner();
        let made = mm.copy_frames(&mut inner, page, page..page + 1, &mut batch);
        assert_eq!(made.map(|made| made.pages), Ok(page..page + 1));
        mm.commit(cx.cpu(), &mut inner, &mut batch).unwrap();
        drop(inner);
        assert_eq!(load(cx, &mm, at, 1).unwrap(), b"x");
    });
}
