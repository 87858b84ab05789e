//! Tests of memory that was unmapped and comes back.

use super::tests::{SEGV_MAPERR, anon, load, new_mm, store};
use super::*;
use crate::fs::Mappable;
use crate::task::Cx;
use crate::testing;
use hal::mock::{MockMachine, MockOp, MockSpace};
use hal::{HostFile, MapOp, PAGE_SIZE, Prot, SpaceError, VirtAddr};
use std::sync::Arc;
use std::vec::Vec;

const RW: Prot = Prot::READ.union(Prot::WRITE);
const PAGE: u64 = PAGE_SIZE;
const PAGES: u64 = 4;

/// An address space with a few pages that were written to and unmapped, and where they were.
fn unmapped(cx: &Cx) -> (Arc<Mm>, u64) {
    let mm = new_mm(cx);
    let at = mm.map(cx, anon(PAGES * PAGE)).unwrap().0;
    for page in 0..PAGES {
        store(cx, &mm, at + page * PAGE, b"secret");
    }
    MockSpace::of(&**mm.space()).take_ops();
    mm.unmap(cx, at, PAGES * PAGE).unwrap();
    (mm, at)
}

fn ops(mm: &Mm) -> Vec<MockOp> {
    MockSpace::of(&**mm.space()).take_ops()
}

#[test]
fn memory_that_comes_back_is_zero_and_costs_one_change_each_way() {
    testing::run(|cx| {
        let (mm, at) = unmapped(cx);
        assert_eq!(ops(&mm), [MockOp::Protect(VirtAddr(at), PAGES * PAGE, Prot::empty())]);
        assert_eq!(mm.resident_pages(), 0);
        assert_eq!(load(cx, &mm, at, 1), Err(SEGV_MAPERR));
        assert_eq!(mm.map(cx, anon(PAGES * PAGE)).unwrap().0, at);
        assert_eq!(ops(&mm), [MockOp::Protect(VirtAddr(at), PAGES * PAGE, RW)]);
        let faults = mm.stats().faults;
        for page in 0..PAGES {
            assert_eq!(load(cx, &mm, at + page * PAGE, 6).unwrap(), [0; 6]);
        }
        assert_eq!((mm.resident_pages(), mm.stats().faults), (PAGES, faults));
    });
}

#[test]
fn a_file_that_a_thread_hides_is_taken_out_with_the_next_change() {
    let machine = MockMachine::new();
    machine.mock_fs().add_file("/file", 0o644, &[7; 3 * PAGE as usize]);
    testing::run_on(machine.clone(), testing::config(), move |cx| {
        let file: Arc<dyn HostFile> = Arc::new(machine.mock_fs().file("/file"));
        let mm = new_mm(cx);
        let map = |prot| {
            let object = Some(Mappable::Host(file.clone()));
            mm.map(cx, MapRequest { prot, object, ..anon(3 * PAGE) }).unwrap().0
        };
        machine.take_withdrawn();
        let at = map(Prot::READ);
        assert_eq!(load(cx, &mm, at, 1).unwrap(), [7]);
        ops(&mm);
        mm.unmap(cx, at, 3 * PAGE).unwrap();
        assert_eq!(machine.take_withdrawn(), [(VirtAddr(at), 3 * PAGE, Prot::empty())]);
        assert_eq!(ops(&mm), []);
        assert_eq!(mm.vmas().len(), 0);
        // Before anything else is shown, there or elsewhere.
        let next = mm.map(cx, anon(PAGE)).unwrap().0;
        assert_eq!(store(cx, &mm, next, b"x"), FaultOutcome::Handled);
        assert_eq!(ops(&mm)[0], MockOp::Unmap(VirtAddr(at), 3 * PAGE));
        // With pages of its own, whose frames others get, nothing may stay.
        let at = map(RW);
        assert_eq!(store(cx, &mm, at, b"x"), FaultOutcome::Handled);
        ops(&mm);
        mm.unmap(cx, at, 3 * PAGE).unwrap();
        assert_eq!(machine.take_withdrawn(), []);
        assert_eq!(ops(&mm), [MockOp::Unmap(VirtAddr(at), 3 * PAGE)]);
    });
}

#[test]
fn rights_that_a_call_gives_up_a_thread_takes_away_itself_but_gives_none() {
    let machine = MockMachine::new();
    testing::run_on(machine.clone(), testing::config(), move |cx| {
        let mm = new_mm(cx);
        let at = mm.map(cx, anon(PAGES * PAGE)).unwrap().0;
        store(cx, &mm, at, b"x");
        ops(&mm);
        machine.take_withdrawn();
        mm.protect(cx, at, PAGES * PAGE, Prot::READ).unwrap();
        assert_eq!(machine.take_withdrawn(), [(VirtAddr(at), PAGES * PAGE, Prot::READ)]);
        assert_eq!(ops(&mm), []);
        mm.protect(cx, at, PAGES * PAGE, Prot::READ | Prot::EXEC).unwrap();
        assert_eq!(machine.take_withdrawn(), []);
        assert_eq!(ops(&mm), [MockOp::Protect(VirtAddr(at), PAGES * PAGE, Prot::READ | Prot::EXEC)]);
    });
}

#[test]
fn a_copy_shares_nothing_that_a_thread_may_go_on_writing_to() {
    let machine = MockMachine::new();
    testing::run_on(machine.clone(), testing::config(), move |cx| {
        let mm = new_mm(cx);
        let at = mm.map(cx, anon(PAGES * PAGE)).unwrap().0;
        store(cx, &mm, at, b"mine");
        machine.take_withdrawn();
        mm.protect(cx, at, PAGES * PAGE, Prot::READ).unwrap();
        // The thread has been told so, but does as it likes.
        let space = MockSpace::of(&**mm.space());
        assert_eq!(space.guest_write(VirtAddr(at), b"then"), Ok(()));
        let child = mm.fork(cx).unwrap();
        assert_eq!(space.guest_write(VirtAddr(at), b"late"), Err(VirtAddr(at)));
        assert_eq!(load(cx, &child, at, 4).unwrap(), b"then");
        // Once is enough, and what is gone meanwhile is left alone.
        ops(&mm);
        drop(mm.fork(cx).unwrap());
        assert_eq!(ops(&mm), []);
        let at = mm.map(cx, anon(PAGES * PAGE)).unwrap().0;
        store(cx, &mm, at, b"x");
        mm.protect(cx, at, PAGES * PAGE, Prot::READ).unwrap();
        mm.unmap(cx, at, PAGES * PAGE).unwrap();
        ops(&mm);
        drop(mm.fork(cx).unwrap());
        assert_eq!(ops(&mm), []);
    });
}

#[test]
fn a_file_that_the_machine_does_not_show_any_more_is_shown_again() {
    let machine = MockMachine::new();
    machine.mock_fs().add_file("/file", 0o644, &[7; PAGE as usize]);
    testing::run_on(machine.clone(), testing::config(), move |cx| {
        let object = Some(Mappable::Host(Arc::new(machine.mock_fs().file("/file"))));
        let mm = new_mm(cx);
        let at = mm.map(cx, MapRequest { prot: Prot::READ, object, ..anon(PAGE) }).unwrap().0;
        assert_eq!(load(cx, &mm, at, 1).unwrap(), [7]);
        // A thread was late to hide what was there before.
        mm.space().update(cx.cpu(), &[MapOp::Unmap { at: VirtAddr(at), len: PAGE }]).unwrap();
        assert_eq!(load(cx, &mm, at, 1).unwrap(), [7]);
    });
}

#[test]
fn nobody_else_gets_a_frame_that_a_machine_still_shows() {
    testing::run(|cx| {
        let (mm, at) = unmapped(cx);
        let space = MockSpace::of(&**mm.space());
        let kept: Vec<_> = (0..PAGES).map(|i| space.frame(VirtAddr(at + i * PAGE)).unwrap()).collect();
        let mut taken = Vec::new();
        while let Ok(frame) = cx.kernel.frames.alloc() {
            assert!(!kept.contains(&frame.phys()));
            taken.push(frame);
        }
        assert_eq!(mm.empty_stash(cx), PAGES);
        assert_eq!(space.page(VirtAddr(at)), None);
        assert!(kept.contains(&cx.kernel.frames.alloc().unwrap().phys()));
        assert_eq!(mm.empty_stash(cx), 0);
    });
}

#[test]
fn what_else_comes_there_takes_its_place() {
    testing::run(|cx| {
        for read_only in [false, true] {
            let (mm, at) = unmapped(cx);
            let free = cx.kernel.frames.available();
            // Reaches into the kept pages; then an area that must not be writable.
            let prot = if read_only { Prot::READ } else { RW };
            let len = if read_only { PAGES } else { 2 };
            let request = MapRequest { addr: at, flags: MapFlags::FIXED, prot, ..anon(len * PAGE) };
            mm.map(cx, request).unwrap();
            assert_eq!(ops(&mm)[1], MockOp::Unmap(VirtAddr(at), PAGES * PAGE));
            assert_eq!(load(cx, &mm, at + PAGE, 6).unwrap(), [0; 6]);
            assert_eq!(store(cx, &mm, at, b"x") == FaultOutcome::Handled, !read_only);
            assert!(cx.kernel.frames.available() >= free + PAGES - len);
        }
    });
}

#[test]
fn only_so_much_is_kept_and_the_oldest_goes_first() {
    testing::run(|cx| {
        let mm = new_mm(cx);
        let all: Vec<u64> = (0..20).map(|_| mm.map(cx, anon(PAGES * PAGE)).unwrap().0).collect();
        all.iter().for_each(|&at| assert_eq!(store(cx, &mm, at, b"x"), FaultOutcome::Handled));
        // Every other one, so that no two of them meet.
        for at in all.iter().step_by(2) {
            mm.unmap(cx, *at, PAGES * PAGE).unwrap();
        }
        let space = MockSpace::of(&**mm.space());
        let shown = |at: &&u64| space.page(VirtAddr(**at)).is_some();
        let kept: Vec<_> = all.iter().step_by(2).filter(shown).collect();
        assert_eq!(kept, all.iter().step_by(2).skip(2).collect::<Vec<_>>());
    });
}

#[test]
fn little_free_ram_is_not_kept_from_others() {
    let machine = MockMachine::builder().memory(1 << 20).build();
    testing::run_on(machine, testing::config(), |cx| {
        let free = cx.kernel.frames.available();
        let rest: Vec<_> = (8..free).map(|_| cx.kernel.frames.alloc().unwrap()).collect();
        let (mm, at) = unmapped(cx);
        assert_eq!(ops(&mm), [MockOp::Unmap(VirtAddr(at), PAGES * PAGE)]);
        drop(rest);
    });
}

#[test]
fn a_host_without_room_loses_what_is_kept() {
    let machine = MockMachine::new();
    testing::run_on(machine.clone(), testing::config(), move |cx| {
        let free = cx.kernel.frames.available();
        let (mm, at) = unmapped(cx);
        machine.fail_next_update_after(0, SpaceError::NoMemory);
        mm.map(cx, anon(PAGES * PAGE)).unwrap();
        assert_eq!(load(cx, &mm, at, 6).unwrap(), [0; 6]);
        drop(mm);
        assert_eq!(cx.kernel.frames.available(), free);
    });
}

#[test]
fn a_heap_that_grows_again_has_its_pages() {
    testing::run(|cx| {
        let mm = new_mm(cx);
        let start = 0x5000_0000;
        mm.set_brk_start(start);
        assert_eq!(mm.brk(cx, start + 40 * PAGE), start + 40 * PAGE);
        for page in 0..40 {
            store(cx, &mm, start + page * PAGE, b"secret");
        }
        ops(&mm);
        for pages in [30, 20, 10] {
            mm.brk(cx, start + pages * PAGE);
        }
        assert!(ops(&mm).iter().all(|op| matches!(op, MockOp::Protect(_, _, prot) if prot.is_empty())));
        mm.brk(cx, start + 40 * PAGE);
        assert_eq!(ops(&mm), [MockOp::Protect(VirtAddr(start + 10 * PAGE), 30 * PAGE, RW)]);
        assert_eq!(mm.resident_pages(), 40);
        assert_eq!(load(cx, &mm, start + 35 * PAGE, 6).unwrap(), [0; 6]);
        assert_eq!(load(cx, &mm, start + 9 * PAGE, 6).unwrap(), *b"secret");
    });
}
