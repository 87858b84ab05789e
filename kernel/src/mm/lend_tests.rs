//! Tests of memory that guest code takes by itself.

use super::stash::RIGHTS;
use super::tests::{SEGV_MAPERR, anon, load, new_mm, store};
use super::*;
use crate::fs::Mappable;
use crate::task::{Cx, Resource, Rlimit};
use crate::testing;
use hal::mock::{MockMachine, MockOp, MockSpace};
use hal::{HostFile, PAGE_SIZE, Prot, SpaceError, Stock, VirtAddr};
use std::sync::Arc;
use std::vec::Vec;

const PAGE: u64 = PAGE_SIZE;
const START: u64 = 0x60_0000;
/// What a C library asks for at a time.
const STEP: u64 = 33 * PAGE;

fn with_gate(test: impl FnOnce(&Cx, &MockMachine) + Send + 'static) {
    let machine = MockMachine::builder().gate(0x7000_0000_0000).build();
    testing::run_on(machine.clone(), testing::config(), move |cx| test(cx, &machine));
}

fn space(mm: &Mm) -> &MockSpace {
    MockSpace::of(&**mm.space())
}

/// How many pages lie ready behind its heap.
fn ready(mm: &Mm) -> u64 {
    mm.inner().stash.lent(Stock::Heap).map_or(0, |pages| pages.end - pages.start)
}

/// Whether any do.
fn lends(mm: &Mm) -> bool {
    ready(mm) > 0
}

/// An address space with a heap that has grown until something was lent behind it, and where it ends.
fn lent(cx: &Cx) -> (Arc<Mm>, u64) {
    let mm = new_mm(cx);
    mm.set_brk_start(START);
    let mut end = START + 100;
    assert_eq!(mm.brk(cx, end), end);
    while !lends(&mm) {
        end += STEP;
        assert_eq!(mm.brk(cx, end), end);
        assert!(end < START + 10 * STEP, "nothing is lent");
    }
    (mm, end)
}

/// Writes to each page of the heap, and finds zeros where nobody has written.
fn use_heap(cx: &Cx, mm: &Mm, from: u64, to: u64) {
    for at in (from.next_multiple_of(PAGE)..to).step_by(PAGE as usize) {
        assert_eq!(load(cx, mm, at, 4).unwrap(), [0; 4], "at {at:#x}");
        assert_eq!(store(cx, mm, at, &(at as u32).to_le_bytes()), FaultOutcome::Handled);
    }
}

fn check_heap(cx: &Cx, mm: &Mm, from: u64, to: u64) {
    for at in (from.next_multiple_of(PAGE)..to).step_by(PAGE as usize) {
        let mut word = [0; 4];
        mm.read_bytes(cx, VirtAddr(at), &mut word).unwrap();
        assert_eq!(u32::from_le_bytes(word), at as u32);
        assert_eq!(load(cx, mm, at, 4).unwrap(), word);
    }
}

#[test]
fn guest_code_takes_what_is_lent_and_the_kernel_goes_on_behind_it() {
    with_gate(|cx, _| {
        let free = cx.kernel.frames.available();
        let (mm, mut end) = lent(cx);
        use_heap(cx, &mm, START, end);
        let faults = mm.stats().faults;
        let mut calls = 0;
        for step in 0..60 {
            let to = end + STEP + step;
            assert_eq!(
                store(cx, &mm, (end + PAGE).next_multiple_of(PAGE), b"x"),
                SEGV_MAPERR,
                "beyond the end"
            );
            if !space(&mm).grow_heap(to) {
                assert_eq!(mm.brk(cx, to), to);
                calls += 1;
            }
            assert_eq!(mm.heap(), (START, to));
            use_heap(cx, &mm, end, to);
            end = to;
        }
        assert!((5..20).contains(&calls), "{calls} calls");
        assert_eq!(mm.stats().faults - faults, 60, "those beyond the end");
        check_heap(cx, &mm, START, end);
        let [heap] = &mm.vmas()[..] else { panic!("one area") };
        assert_eq!(
            (heap.start, heap.end, heap.prot),
            (START, end.next_multiple_of(PAGE), Prot::READ | Prot::WRITE)
        );
        assert_eq!((heap.name.as_str(), heap.resident_pages), ("[heap]", (heap.end - START) / PAGE));
        assert_eq!(mm.stats().size, (heap.end - START) / PAGE);
        drop(mm);
        assert_eq!(cx.kernel.frames.available(), free);
    });
}

#[test]
fn a_heap_that_gives_up_what_it_never_used_or_has_something_in_the_way_is_lent_nothing() {
    with_gate(|cx, _| {
        let free = cx.kernel.frames.available();
        let (mm, end) = lent(cx);
        assert!(space(&mm).grow_heap(end + STEP));
        use_heap(cx, &mm, end, end + STEP);
        assert_eq!(mm.brk(cx, end - STEP), end - STEP);
        assert!(!lends(&mm) && !space(&mm).grow_heap(end));
        for page in 0..300 {
            assert_eq!(store(cx, &mm, (end - STEP).next_multiple_of(PAGE) + page * PAGE, b"x"), SEGV_MAPERR);
        }
        assert_eq!(mm.brk(cx, end), end);
        use_heap(cx, &mm, end - STEP, end);
        assert_eq!(mm.brk(cx, end + STEP), end + STEP);
        assert!(lends(&mm), "it grows again");

        // Where something else is mapped the heap ends.
        let (flags, addr) = (MapFlags::FIXED, (end + 2 * STEP).next_multiple_of(PAGE));
        assert!(space(&mm).grow_heap(end + STEP + 8));
        mm.map(cx, MapRequest { addr, flags, ..anon(PAGE) }).unwrap();
        assert!(!lends(&mm) && !space(&mm).grow_heap(end + STEP + 16));
        assert_eq!(store(cx, &mm, addr - PAGE, b"x"), SEGV_MAPERR);
        assert_eq!(store(cx, &mm, addr, b"x"), FaultOutcome::Handled);
        assert_eq!(mm.brk(cx, end + 4 * STEP), end + STEP + 8);
        drop(mm);
        assert_eq!(cx.kernel.frames.available(), free);
    });
}

#[test]
fn what_a_heap_gives_up_lies_ready_again_if_it_is_its_own() {
    with_gate(|cx, machine| {
        let free = cx.kernel.frames.available();
        let (mm, end) = lent(cx);
        let (before, there) = (ready(&mm), mm.stats().resident);
        for round in 0..5 {
            assert!(space(&mm).grow_heap(end + STEP + round));
            use_heap(cx, &mm, end, end + STEP);
            assert_eq!(mm.brk(cx, end + round), end + round);
            assert_eq!((ready(&mm), mm.heap()), (before, (START, end + round)));
            assert_eq!(mm.stats().resident, there);
            let first = (end + round).next_multiple_of(PAGE);
            (0..80).for_each(|page| assert_eq!(store(cx, &mm, first + page * PAGE, b"x"), SEGV_MAPERR));
        }
        // More of it than the machine lends at first, in one piece of memory.
        while space(&mm).grow_heap(mm.heap().1 + STEP) {}
        let full = mm.heap().1;
        use_heap(cx, &mm, end, full);
        let low = end + STEP;
        assert_eq!(mm.brk(cx, low), low);
        assert!(ready(&mm) > before - 40 && space(&mm).grow_heap(full - STEP));
        check_heap(cx, &mm, end, low);
        use_heap(cx, &mm, low, full - STEP);

        // What a copy has, too, it keeps.
        let mut end = full - STEP;
        while ready(&mm) < 400 {
            let to = end + STEP;
            assert!(space(&mm).grow_heap(to) || mm.brk(cx, to) == to);
            use_heap(cx, &mm, end, to);
            end = to;
        }
        assert!(space(&mm).grow_heap(end + 300 * PAGE));
        use_heap(cx, &mm, end, end + 300 * PAGE);
        let child = mm.fork(cx).unwrap();
        assert_eq!(mm.brk(cx, end), end);
        assert_eq!(ready(&mm), 0);
        assert_eq!(mm.brk(cx, end + 300 * PAGE), end + 300 * PAGE);
        use_heap(cx, &mm, end, end + 300 * PAGE);
        check_heap(cx, &child, low, end + 300 * PAGE);
        drop((child, mm));
        assert_eq!(cx.kernel.frames.available(), free);

        type Change<'a> = (&'a str, &'a dyn Fn(&Mm, u64));
        let changes: [Change<'_>; 3] = [
            ("some rights are others", &|mm, at| mm.protect(cx, at, PAGE, Prot::READ).unwrap()),
            ("all rights are others", &|mm, at| {
                let all = Prot::READ | Prot::WRITE | Prot::EXEC;
                mm.protect(cx, START & !(PAGE - 1), at + 8 * PAGE - START, all).unwrap();
            }),
            ("the host is full", &|_, _| machine.fail_next_update(SpaceError::NoMemory)),
        ];
        for (what, change) in changes {
            let (mm, end) = lent(cx);
            assert!(space(&mm).grow_heap(end + STEP));
            use_heap(cx, &mm, end, end + STEP);
            change(&mm, (end + STEP) / PAGE * PAGE - 7 * PAGE);
            assert_eq!(mm.brk(cx, end + PAGE), end + PAGE, "{what}");
            assert_eq!(ready(&mm), 0, "{what}");
            check_heap(cx, &mm, end, end + PAGE);
            assert_eq!(mm.brk(cx, end + STEP), end + STEP, "{what}");
            use_heap(cx, &mm, end + PAGE, end + STEP);
            drop(mm);
            assert_eq!(cx.kernel.frames.available(), free, "{what}");
        }
    });
}

#[test]
fn what_a_heap_gives_up_need_not_be_in_one_piece_of_ram() {
    with_gate(|cx, _| {
        let free = cx.kernel.frames.available();
        let (mm, end) = lent(cx);
        let grow = |end: u64, to: u64| {
            (end..to).step_by(STEP as usize).map(|at| (at + STEP).min(to)).for_each(|to| {
                assert!(space(&mm).grow_heap(to) || mm.brk(cx, to) == to);
            });
            use_heap(cx, &mm, end, to);
        };
        // Some of its frames are others.
        let other = |from: u64, count: usize| {
            let pages = || (from.next_multiple_of(PAGE)..).step_by(7 * PAGE as usize).take(count);
            pages().for_each(|at| {
                mm.advise(cx, at, at + PAGE, Advice::DontNeed { locked: false }).unwrap();
            });
            // Somebody else gets those.
            for _ in 0..200 {
                let other = mm.map(cx, anon(PAGE)).unwrap();
                assert_eq!(store(cx, &mm, other.0, b"x"), FaultOutcome::Handled);
            }
            pages().for_each(|at| use_heap(cx, &mm, at, at + PAGE));
        };
        for round in 0..4 {
            let to = end + 9 * STEP;
            grow(end, to);
            other(end, 5);
            assert_eq!(mm.brk(cx, end), end);
            let lent = ready(&mm);
            assert!(lent >= 9 * 33, "round {round}: {lent}");
            assert!(space(&mm).grow_heap(to), "round {round}");
            use_heap(cx, &mm, end, to);
            assert_eq!(mm.brk(cx, end + STEP / 2), end + STEP / 2);
            check_heap(cx, &mm, end, end + STEP / 2);
            assert_eq!(mm.brk(cx, end), end);
        }
        // But not in ever so many.
        grow(end, end + 9 * STEP);
        other(end, 30);
        assert_eq!((mm.brk(cx, end), ready(&mm)), (end, 0));

        // And so much that it is not missed elsewhere.
        grow(end, end + 100 * STEP);
        let resident = mm.stats().resident;
        grow(end + 100 * STEP, end + 101 * STEP);
        assert_eq!((mm.brk(cx, end), ready(&mm)), (end, 2048));
        assert!(mm.stats().resident < resident - 99 * 33);
        assert!(space(&mm).grow_heap(end + 1000 * PAGE) && !space(&mm).grow_heap(end + 2050 * PAGE));
        grow(end + 1000 * PAGE, end + 100 * STEP);
        check_heap(cx, &mm, end + 1000 * PAGE, end + 100 * STEP);
        drop(mm);
        assert_eq!(cx.kernel.frames.available(), free);
    });
}

#[test]
fn lies_about_the_end_are_not_believed() {
    with_gate(|cx, _| {
        let free = cx.kernel.frames.available();
        let (mm, end) = lent(cx);
        let areas = mm.vmas()[0].end;
        for lie in [0, 1, START, end - 1, end + (1 << 30), u64::MAX] {
            space(&mm).claim(Stock::Heap, lie);
            assert_eq!((mm.heap(), mm.vmas().len(), mm.vmas()[0].end), ((START, end), 1, areas), "{lie:#x}");
        }
        // As far as it is lent it has what it says, open or not.
        space(&mm).claim(Stock::Heap, end + STEP);
        assert_eq!(mm.heap().1, end + STEP);
        mm.write_bytes(cx, VirtAddr(end + STEP - 1), b"x").unwrap();
        // And what says so once is not asked to be sensible later.
        space(&mm).claim(Stock::Heap, 3);
        assert_eq!(mm.brk(cx, end + 2 * STEP), end + 2 * STEP);
        mm.write_bytes(cx, VirtAddr(end), &std::vec![1; 2 * STEP as usize]).unwrap();
        drop(mm);
        assert_eq!(cx.kernel.frames.available(), free);
    });
}

#[test]
fn a_copy_has_the_heap_as_it_is_and_is_lent_nothing() {
    with_gate(|cx, _| {
        let (mm, end) = lent(cx);
        assert!(space(&mm).grow_heap(end + STEP));
        use_heap(cx, &mm, end, end + STEP);
        let child = mm.fork(cx).unwrap();
        assert_eq!((child.heap(), lends(&child), lends(&mm)), (mm.heap(), false, true));
        assert!(!space(&child).grow_heap(end + 2 * STEP));
        check_heap(cx, &child, end, end + STEP);
        // Each has its own from then on.
        assert!(space(&mm).grow_heap(end + 2 * STEP));
        assert_eq!(store(cx, &mm, end.next_multiple_of(PAGE), b"mine"), FaultOutcome::Handled);
        use_heap(cx, &mm, end + STEP, end + 2 * STEP);
        assert_eq!(child.heap().1, end + STEP);
        check_heap(cx, &child, end, end + STEP);
        assert_eq!(child.brk(cx, end + 2 * STEP), end + 2 * STEP);
        use_heap(cx, &child, end + STEP, end + 2 * STEP);
        assert!(lends(&child), "it is one that grows");
    });
}

#[test]
fn limits_locks_threads_and_a_full_machine_end_it() {
    let set_limit = |cx: &Cx, resource: Resource, value: u64| {
        cx.process().limits.lock().0[resource as usize] = Rlimit { cur: value, max: value };
    };
    with_gate(move |cx, machine| {
        let free = cx.kernel.frames.available();
        // What is taken before counts, and what was not is nobody's afterwards.
        type Ends<'a> = (&'a str, &'a dyn Fn(&Mm));
        let ends: [Ends<'_>; 4] = [
            ("recalled", &|mm| mm.recall_lent()),
            ("locked", &|mm| {
                let what = LockAll { current: false, future: true, on_fault: false };
                mm.lock_all(cx, what).unwrap();
                mm.unlock_all();
            }),
            ("RAM is full", &|mm| assert!(mm.empty_stash(cx) >= 30)),
            ("the host is full", &|mm| {
                machine.fail_next_update(SpaceError::NoMemory);
                mm.map(cx, MapRequest { flags: MapFlags::POPULATE, ..anon(PAGE) }).unwrap();
            }),
        ];
        for (what, ended) in ends {
            let (mm, end) = lent(cx);
            assert!(space(&mm).grow_heap(end + STEP));
            use_heap(cx, &mm, end, end + STEP);
            ended(&mm);
            assert!(!lends(&mm) && !space(&mm).grow_heap(end + 2 * STEP), "{what}");
            assert_eq!(mm.heap(), (START, end + STEP), "{what}");
            check_heap(cx, &mm, end, end + STEP);
            assert_eq!(mm.brk(cx, end + 2 * STEP), end + 2 * STEP);
            use_heap(cx, &mm, end + STEP, end + 2 * STEP);
            drop(mm);
            assert_eq!(cx.kernel.frames.available(), free, "{what}");
        }
        for (resource, value) in [(Resource::As, 1 << 30), (Resource::Data, 1 << 30)] {
            set_limit(cx, resource, value);
            let mm = new_mm(cx);
            mm.set_brk_start(START);
            (1..20).for_each(|i| assert_eq!(mm.brk(cx, START + i * STEP), START + i * STEP));
            assert!(!lends(&mm), "{resource:?}");
            set_limit(cx, resource, u64::MAX);
        }
    });
}

/// An address space that has mapped memory until something was lent to it, and what it has mapped.
fn lent_maps(cx: &Cx) -> (Arc<Mm>, Vec<(u64, u64)>) {
    let mm = new_mm(cx);
    let mut maps = Vec::new();
    while mm.inner().stash.lent(Stock::Maps).is_none() {
        maps.push((mm.map(cx, anon(4 * PAGE)).unwrap().0, 4 * PAGE));
        assert!(maps.len() < 20, "nothing is lent");
    }
    (mm, maps)
}

/// Takes memory as guest code does, or maps it.
fn take(cx: &Cx, mm: &Mm, len: u64, calls: &mut u32) -> (u64, u64) {
    let at = space(mm).take_memory(len).unwrap_or_else(|| {
        *calls += 1;
        mm.map(cx, anon(len)).unwrap().0
    });
    (at, len.next_multiple_of(PAGE))
}

#[test]
fn guest_code_takes_memory_and_the_kernel_maps_what_there_is_not_enough_for() {
    with_gate(|cx, machine| {
        machine.mock_fs().add_file("/lib", 0o755, &[7; 3 * PAGE as usize]);
        let free = cx.kernel.frames.available();
        let (mm, mut maps) = lent_maps(cx);
        let mut calls = 0;
        for i in 0..60 {
            let (at, len) = take(cx, &mm, [8 * PAGE, 1, 5 * PAGE + 9, 40 * PAGE][i % 4], &mut calls);
            use_heap(cx, &mm, at, at + len);
            if i % 10 == 9 {
                // A library in between lies elsewhere.
                let file: Arc<dyn HostFile> = Arc::new(machine.mock_fs().file("/lib"));
                let object = Some(Mappable::Host(file));
                let request = MapRequest { prot: Prot::READ, object, ..anon(3 * PAGE) };
                let before = mm.inner().stash.lent(Stock::Maps);
                let at = mm.map(cx, request).unwrap().0;
                assert_eq!(load(cx, &mm, at, 1).unwrap(), [7]);
                assert_eq!(mm.inner().stash.lent(Stock::Maps), before, "it takes nothing away");
            }
            maps.push((at, len));
        }
        assert!((1..25).contains(&calls), "{calls} calls");
        maps.sort_unstable();
        assert!(maps.windows(2).all(|pair| pair[0].0 + pair[0].1 <= pair[1].0), "{maps:x?}");
        let anonymous = |vma: &VmaInfo| vma.prot == RIGHTS;
        let size: u64 = mm.vmas().iter().filter(|vma| anonymous(vma)).map(|vma| vma.end - vma.start).sum();
        assert_eq!(size, maps.iter().map(|(_, len)| len).sum::<u64>());
        for &(at, len) in maps.iter().skip(8) {
            let taken = mm.vmas().iter().any(|vma| vma.start <= at && at + len <= vma.end && anonymous(vma));
            assert!(taken, "{at:#x}");
        }
        // What is given back is gone, and others stay.
        let (gone, stay) = (maps[20], maps[21]);
        mm.unmap(cx, gone.0, gone.1).unwrap();
        assert_eq!(load(cx, &mm, gone.0, 1), Err(SEGV_MAPERR));
        check_heap(cx, &mm, stay.0, stay.0 + stay.1);
        let child = mm.fork(cx).unwrap();
        assert_eq!(space(&child).take_memory(PAGE), None);
        check_heap(cx, &child, stay.0, stay.0 + stay.1);
        drop((child, mm));
        assert_eq!(cx.kernel.frames.available(), free);
    });
}

#[test]
fn memory_is_used_where_it_lies_ready_before_it_is_taken_away() {
    with_gate(|cx, _| {
        let (mm, _) = lent_maps(cx);
        let lent = mm.inner().stash.lent(Stock::Maps).unwrap();
        let (low, high) = (lent.start * PAGE, lent.end * PAGE);
        assert_eq!(space(&mm).take_memory(PAGE), Some(high - PAGE));
        space(&mm).take_ops();
        // By a call where it could be taken, and more than there is.
        assert_eq!(mm.map(cx, anon(3 * PAGE)).unwrap().0, high - 4 * PAGE);
        let large = 70 * PAGE;
        let rest = high - 4 * PAGE - low;
        assert!(rest < large);
        let at = mm.map(cx, anon(large)).unwrap().0;
        assert_eq!(at, high - 4 * PAGE - large);
        let ops = space(&mm).take_ops();
        assert!(!ops.iter().any(|op| matches!(op, MockOp::Unmap(..))), "{ops:?}");
        let faults = mm.stats().faults;
        use_heap(cx, &mm, at, high - PAGE);
        assert_eq!(mm.stats().faults, faults);
        assert_eq!(
            mm.vmas().len(),
            1,
            "{:x?}",
            mm.vmas().iter().map(|vma| (vma.start, vma.end)).collect::<Vec<_>>()
        );
        // The next lies below.
        assert_eq!(space(&mm).take_memory(PAGE), Some(at - PAGE));
        assert_eq!(mm.vmas()[0].start, at - PAGE);
        for lie in [0, 1, at - PAGE - 1, at - 3 * PAGE + 8, at, high, u64::MAX, !(PAGE - 1)] {
            space(&mm).claim(Stock::Maps, lie);
            assert_eq!(mm.vmas()[0].start, at - PAGE, "{lie:#x}");
        }
        // Whatever is mapped over it ends it.
        let flags = MapFlags::FIXED;
        mm.map(cx, MapRequest { addr: at - 10 * PAGE, flags, ..anon(PAGE) }).unwrap();
        assert_eq!(space(&mm).take_memory(PAGE), None);
    });
}

#[test]
fn what_was_kept_for_later_is_not_where_memory_lies_ready() {
    with_gate(|cx, _| {
        let free = cx.kernel.frames.available();
        // A heap that has shrunk in steps, and grows again past the first of what was kept.
        let (mm, mut end) = lent(cx);
        end = end.next_multiple_of(PAGE);
        assert_eq!(mm.brk(cx, end), end);
        use_heap(cx, &mm, START, end);
        for _ in 0..3 {
            end -= 20 * PAGE;
            assert_eq!(mm.brk(cx, end), end);
        }
        while !lends(&mm) {
            end += PAGE;
            assert_eq!(mm.brk(cx, end), end);
        }
        assert!(space(&mm).grow_heap(end + 30 * PAGE));
        use_heap(cx, &mm, end, end + 30 * PAGE);
        assert_eq!(mm.brk(cx, end + 200 * PAGE), end + 200 * PAGE);
        check_heap(cx, &mm, end, end + 30 * PAGE);
        use_heap(cx, &mm, end + 30 * PAGE, end + 200 * PAGE);
        drop(mm);
        assert_eq!(cx.kernel.frames.available(), free);

        // The same of memory that was mapped.
        let (mm, mut maps) = lent_maps(cx);
        (0..30).for_each(|_| maps.push(take(cx, &mm, 4 * PAGE, &mut 0)));
        let lowest = loop {
            let (at, len) = take(cx, &mm, 4 * PAGE, &mut 0);
            use_heap(cx, &mm, at, at + len);
            if mm.inner().stash.lent(Stock::Maps).is_none() {
                break (at, len);
            }
        };
        mm.unmap(cx, lowest.0, lowest.1).unwrap();
        let mut calls = 0;
        let flags = MapFlags::FIXED;
        let above = MapRequest { addr: lowest.0 + 3 * PAGE, flags, ..anon(PAGE) };
        mm.map(cx, above).unwrap();
        let taken: Vec<_> = (0..40).map(|_| take(cx, &mm, 2 * PAGE, &mut calls)).collect();
        taken.iter().for_each(|&(at, len)| use_heap(cx, &mm, at, at + len));
        mm.map(cx, anon(PAGE)).unwrap();
        taken.iter().for_each(|&(at, len)| check_heap(cx, &mm, at, at + len));
        drop(mm);
        assert_eq!(cx.kernel.frames.available(), free);
    });
}
