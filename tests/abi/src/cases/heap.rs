//! A heap that goes on growing in steps, as a C library has it grow: a kernel that finds a shorter way for that must not be seen to, whatever happens to the heap meanwhile.

use crate::kit::prelude::*;
use std::sync::atomic::Ordering::SeqCst;

const PAGE: usize = 4096;
/// What a C library asks for.
const STEP: usize = 33 * PAGE;
/// More often than anybody waits before he takes a shorter way.
const MANY: usize = 60;

fn brk(to: usize) -> R<usize> {
    Ok(sc!(SYS_brk, to)? as usize)
}

/// The heap of a process that allocates nothing else there: it ends where this says.
fn end() -> R<usize> {
    brk(0)
}

/// Has the heap grow by so many steps, of which none is a number of whole pages; writes to each page. Where it ended before.
fn grow(steps: usize) -> R<usize> {
    let start = end()?;
    let mut before = start;
    for i in 0..steps {
        let to = before + STEP + i;
        eq!(brk(to)?, to);
        eq!(end()?, to);
        fill(before, to)?;
        before = to;
    }
    holds(start, before)?;
    Ok(start)
}

/// Finds zeros, and writes to each page and to the last byte.
fn fill(from: usize, to: usize) -> R {
    for byte in (from..to - 1).step_by(PAGE).chain([to - 1]) {
        let byte = byte as *mut u8;
        that!(peek(byte) == 0, "{byte:?} is not zero");
        poke(byte, mark(byte as usize));
    }
    Ok(())
}

fn mark(byte: usize) -> u8 {
    (byte / PAGE) as u8 | 1
}

/// Every whole page of the heap has what was written there.
fn holds(from: usize, to: usize) -> R {
    for page in (from.next_multiple_of(PAGE)..to - PAGE).step_by(PAGE) {
        let found = (page..page + PAGE).filter(|byte| peek(*byte as *mut u8) == mark(page)).count();
        that!(found > 0, "nothing of {page:#x} in {from:#x}..{to:#x}");
    }
    Ok(())
}

/// Whether something can be written there.
fn writable(at: usize) -> R<bool> {
    let fd = open(c"/dev/zero", O_RDONLY, 0)?;
    let answer = sc!(SYS_read, fd, at, 1).is_ok();
    close(fd)?;
    Ok(answer)
}

/// What a child that writes there dies of; 0 for nothing.
fn store_in_child(at: usize) -> R<i32> {
    let status = fork(|| {
        poke(at as *mut u8, 1);
        0
    })?
    .wait()?;
    Ok(match status {
        Status::Killed(sig) => sig,
        _ => 0,
    })
}

/// Bounds of the heap in `/proc/PID/maps`.
fn mapped(pid: i32) -> R<(usize, usize)> {
    let maps = text(&cstring(format!("/proc/{pid}/maps")))?;
    let mut bounds = (usize::MAX, 0);
    for line in maps.lines().filter(|line| line.ends_with("[heap]")) {
        let bound = |text: &str| usize::from_str_radix(text, 16).unwrap_or(0);
        let (from, to) = line.split(' ').next().and_then(|range| range.split_once('-')).unwrap_or_default();
        bounds = (bounds.0.min(bound(from)), bounds.1.max(bound(to)));
    }
    Ok(bounds)
}

fn it_ends_where_it_says() -> R {
    let start = grow(MANY)?;
    for _ in 0..20 {
        let end = end()?;
        let edge = end.next_multiple_of(PAGE);
        that!(writable(edge - 1)? && !writable(edge)?);
        eq!(brk(end + 1)?, end + 1);
        eq!(brk(edge)?, edge);
        that!(!writable(edge)?, "{edge:#x} is behind the end");
        eq!(brk(edge + 1)?, edge + 1);
        that!(writable(edge + PAGE - 1)? && !writable(edge + PAGE)?);
        poke(edge as *mut u8, mark(edge));
        grow(1)?;
    }
    let end = end()?;
    holds(start, end)?;
    eq!(store_in_child(end.next_multiple_of(PAGE))?, SIGSEGV);
    eq!(store_in_child(end - 1)?, 0);
    eq!(mapped(getpid())?.1, end.next_multiple_of(PAGE));
    eq!(self::end()?, end);
    Ok(())
}

fn it_shrinks_and_grows_again() -> R {
    let first = end()?;
    for round in 0..12 {
        let start = grow(MANY / 4)?;
        let low = start + round * STEP / 3;
        eq!(brk(low)?, low);
        eq!(end()?, low);
        that!(!writable(low.next_multiple_of(PAGE))? && !writable(start + MANY / 5 * STEP)?);
        if low > first + PAGE {
            holds(first, low)?;
        }
        // The rest of the page is as it was, as it is with any kernel.
        for byte in low..low.next_multiple_of(PAGE) {
            poke(byte as *mut u8, 0);
        }
    }
    Ok(())
}

fn a_copy_goes_on_by_itself() -> R {
    let start = grow(MANY)?;
    for round in 0..6 {
        let here = end()?;
        child(|| {
            eq!(end()?, here);
            holds(start, here)?;
            grow(MANY / 2)?;
            holds(start, end()?)?;
            eq!(brk(start + PAGE)?, start + PAGE);
            grow(MANY / 2).map(drop)
        })?
        .ok()?;
        eq!(end()?, here);
        grow(round + 3)?;
        holds(start, end()?)?;
    }
    Ok(())
}

fn others_see_what_was_just_taken() -> R {
    let shared = shared(PAGE)?;
    let (said, seen) = (cell(shared), cell(at(shared, 64)));
    let start = end()?;
    // How far it is, in steps.
    let other = child(|| {
        for _ in 0..MANY {
            let end = grow(1)?;
            said.store(((end - start) / STEP) as u32 + 1, SeqCst);
            // Without a call, so that nothing is heard of it meanwhile.
            while seen.load(SeqCst) != said.load(SeqCst) {
                std::hint::spin_loop();
            }
        }
        Ok(())
    })?;
    for step in 1..=MANY {
        while (said.load(SeqCst) as usize) < step {
            sc!(SYS_sched_yield)?;
        }
        let last = start + step * STEP - PAGE;
        let mut byte = 0u8;
        let local = iovec { iov_base: (&raw mut byte).cast(), iov_len: 1 };
        let remote = iovec { iov_base: (last / PAGE * PAGE) as *mut c_void, iov_len: 1 };
        let (_, mapped) = mapped(other.pid)?;
        that!(mapped >= last, "step {step}: the heap ends at {mapped:#x}, before {last:#x}");
        eq!(sc!(SYS_process_vm_readv, other.pid, &local, 1, &remote, 1, 0)?, 1);
        let beyond = iovec { iov_base: mapped as *mut c_void, iov_len: 1 };
        errno_is!(sc!(SYS_process_vm_readv, other.pid, &local, 1, &beyond, 1, 0), EFAULT);
        seen.store(step as u32, SeqCst);
    }
    other.ok()
}

fn limits_hold_from_when_they_are_set() -> R {
    for resource in [RLIMIT_DATA, RLIMIT_AS] {
        child(|| {
            grow(MANY)?;
            let here = end()?;
            let low = rlimit { rlim_cur: 1 << 20, rlim_max: RLIM_INFINITY };
            sc!(SYS_setrlimit, resource, &low)?;
            eq!(brk(here + STEP)?, here);
            let none = rlimit { rlim_cur: RLIM_INFINITY, rlim_max: RLIM_INFINITY };
            sc!(SYS_setrlimit, resource, &none)?;
            grow(3)?;
            // By somebody else, while it only grows.
            let pid = getpid();
            let here = end()?;
            child(|| {
                sc!(SYS_prlimit64, pid, resource, &low, 0)?;
                Ok(())
            })?
            .ok()?;
            eq!(brk(here + STEP)?, here);
            Ok(())
        })?
        .ok()?;
    }
    Ok(())
}

fn what_is_mapped_behind_it_is_in_the_way() -> R {
    let start = grow(MANY)?;
    let here = end()?;
    let wall = (here + 5 * STEP).next_multiple_of(PAGE);
    let rights = PROT_READ | PROT_WRITE;
    let flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE;
    eq!(mmap(wall, PAGE, rights, flags, -1, 0)? as usize, wall);
    poke(wall as *mut u8, 77);
    let grown =
        (1..20).map(|i| brk(here + i * STEP)).take_while(|to| matches!(to, Ok(to) if *to > here)).count();
    that!(grown >= 4, "{grown}");
    that!(end()? < wall && end()? >= here + 4 * STEP);
    eq!(peek(wall as *mut u8), 77);
    for page in (here.next_multiple_of(PAGE)..end()?).step_by(PAGE) {
        eq!(peek(page as *mut u8), 0);
        poke(page as *mut u8, mark(page));
    }
    munmap(wall as *mut u8, PAGE)?;
    grow(MANY / 2)?;
    holds(start, end()?)
}

fn parts_of_it_change() -> R {
    let start = grow(MANY)?;
    let first = start.next_multiple_of(PAGE);
    // Its last page is read only, and what comes behind is not.
    let last = end()?.next_multiple_of(PAGE) - PAGE;
    sc!(SYS_mprotect, last, PAGE, PROT_READ)?;
    let edge = brk(last + PAGE)?;
    eq!(edge, last + PAGE);
    grow(MANY / 2)?;
    that!(!writable(last)? && writable(last - 1)? && writable(last + PAGE)?);
    eq!(store_in_child(last)?, SIGSEGV);
    // Holes stay holes.
    munmap(first as *mut u8, 10 * PAGE)?;
    munmap((last + 2 * PAGE) as *mut u8, PAGE)?;
    grow(MANY / 2)?;
    that!(!writable(first)? && !writable(last + 2 * PAGE)? && writable(last + 3 * PAGE)?);
    sc!(SYS_madvise, last + 4 * PAGE, 8 * PAGE, MADV_DONTNEED)?;
    eq!(peek((last + 5 * PAGE) as *mut u8), 0);
    eq!(peek((last + 12 * PAGE) as *mut u8), mark(last + 12 * PAGE));
    Ok(())
}

fn locked_memory_is_counted() -> R {
    let locked = || -> R<usize> {
        let status = text(c"/proc/self/status")?;
        let line = status.lines().find(|line| line.starts_with("VmLck:")).unwrap_or_default();
        Ok(line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).unwrap_or(0))
    };
    grow(MANY)?;
    sc!(SYS_mlockall, MCL_FUTURE)?;
    let here = end()?;
    eq!(brk(here + STEP)?, here + STEP);
    that!(locked()? >= STEP / 1024, "{} KiB", locked()?);
    sc!(SYS_munlockall)?;
    eq!(locked()?, 0);
    grow(3).map(drop)
}

/// Does something in two threads.
fn twice(work: impl Fn(usize) -> R + Sync) -> R {
    std::thread::scope(|scope| {
        let other = scope.spawn(|| work(1));
        work(0)?;
        other.join().map_err(|_| E(EIO))?
    })
}

fn threads_change_it_at_once_and_by_turns() -> R {
    grow(MANY)?;
    let base = end()?;
    // Each call does what it says, whatever the other thread's did.
    twice(|odd| {
        (0..MANY).try_for_each(|i| {
            let to = base + (i * 7 + odd) % 9 * STEP + odd;
            eq!(brk(to)?, to);
            Ok(())
        })
    })?;
    let here = end()?;
    let turn = std::sync::Mutex::new(());
    twice(|_| {
        (0..MANY).try_for_each(|_| {
            let _turn = turn.lock().map_err(|_| E(EIO))?;
            let before = end()?;
            eq!(brk(before + STEP)?, before + STEP);
            fill(before, before + STEP)
        })
    })?;
    eq!(end()?, here + 2 * MANY * STEP);
    holds(here, here + 2 * MANY * STEP)?;
    let here = end()?;
    grow(MANY)?;
    eq!(end()?, here + (0..MANY).map(|i| STEP + i).sum::<usize>());
    Ok(())
}

fn signals_do_not_disturb_it() -> R {
    sig::record(SIGALRM, 0)?;
    sig::interval(200)?;
    let start = end()?;
    for _ in 0..10 {
        grow(MANY)?;
        holds(start, end()?)?;
        eq!(brk(start)?, start);
        for byte in start..start.next_multiple_of(PAGE) {
            poke(byte as *mut u8, 0);
        }
    }
    sig::interval(0)?;
    that!(sig::count() > 0);
    Ok(())
}

fn anything_comes_in_any_order() -> R {
    for seed in 1..=6 {
        child(|| random(seed))?.ok()?;
    }
    Ok(())
}

/// Grows, shrinks, writes and looks, and remembers what each page has.
fn random(seed: u64) -> R {
    const PAGES: usize = 3000;
    let mut numbers = Numbers(seed);
    let start = end()?.next_multiple_of(PAGE);
    eq!(brk(start)?, start);
    // No memory is allocated from here on.
    let mut model = [0u8; PAGES + 1];
    let mut size = 0;
    for round in 0..3000 {
        let page = numbers.below(size / PAGE + 1);
        match numbers.below(64) {
            0 => {
                size = numbers.below(size + 1);
                eq!(brk(start + size)?, start + size);
                model[size.div_ceil(PAGE)..].fill(0);
            }
            1 if size > 0 => {
                sc!(SYS_madvise, start + page * PAGE, PAGE, MADV_DONTNEED)
                    .or_else(|e| if e == E(ENOMEM) { Ok(0) } else { Err(e) })?;
                model[page] = 0;
            }
            2 => {
                let (model, size) = (&model, size);
                child(|| {
                    eq!(end()?, start + size);
                    for (page, expected) in model.iter().enumerate().take(size.div_ceil(PAGE)) {
                        eq!(peek((start + page * PAGE) as *mut u8), *expected);
                    }
                    eq!(brk(start + size + 100 * PAGE)?, start + size + 100 * PAGE);
                    fill(start + (size + PAGE).next_multiple_of(PAGE), start + size + 100 * PAGE)
                })?
                .ok()?;
            }
            3 => that!(!writable(start + size.next_multiple_of(PAGE))?, "round {round} of {seed}"),
            4..24 => {
                let more = numbers.below(60 * PAGE);
                if size + more <= PAGES * PAGE {
                    size += more;
                    eq!(brk(start + size)?, start + size);
                }
            }
            _ if page * PAGE < size => {
                let at = (start + page * PAGE) as *mut u8;
                that!(peek(at) == model[page], "page {page} in round {round} of {seed}");
                model[page] = numbers.below(256) as u8;
                poke(at, model[page]);
            }
            _ => {}
        }
    }
    for (page, expected) in model.iter().enumerate().take(size.div_ceil(PAGE)) {
        that!(peek((start + page * PAGE) as *mut u8) == *expected, "page {page} at the end of {seed}");
    }
    Ok(())
}

cases!("heap":
    it_ends_where_it_says, it_shrinks_and_grows_again, a_copy_goes_on_by_itself, others_see_what_was_just_taken,
    limits_hold_from_when_they_are_set, what_is_mapped_behind_it_is_in_the_way, parts_of_it_change,
    locked_memory_is_counted, threads_change_it_at_once_and_by_turns, signals_do_not_disturb_it, anything_comes_in_any_order,
);
