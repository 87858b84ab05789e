//! Anonymous memory: mmap, munmap, mprotect, mremap, brk, fork and copy-on-write.

use crate::kit::prelude::*;

const PAGE: usize = 4096;
const RW: i32 = PROT_READ | PROT_WRITE;

/// Whether a read of the page would fault, asked through a system call.
fn readable(p: *mut u8) -> bool {
    let Ok((r, w)) = pipe(0) else { return false };
    let ok = sc!(SYS_write, w, p, 1).is_ok();
    let _ = (close(r), close(w));
    ok
}

fn writable(p: *mut u8) -> bool {
    let Ok(fd) = open(c"/dev/zero", O_RDONLY, 0) else { return false };
    let ok = sc!(SYS_read, fd, p, 1).is_ok();
    let _ = close(fd);
    ok
}

fn mremap(p: *mut u8, old: usize, new: usize, flags: i32, to: usize) -> Result<*mut u8, E> {
    sc!(SYS_mremap, p, old, new, flags, to).map(|p| p as usize as *mut u8)
}

fn fixed(p: *mut u8, len: usize, prot: i32) -> Result<*mut u8, E> {
    mmap(p as usize, len, prot, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0)
}

fn brk(to: usize) -> R<usize> {
    Ok(sc!(SYS_brk, to)? as usize)
}

/// The line of /proc/self/maps that holds the address.
fn maps_line(p: *mut u8) -> R<Option<String>> {
    let maps = text(c"/proc/self/maps")?;
    Ok(maps.lines().map(String::from).find(|l| {
        let range = l.split(' ').next().and_then(|r| r.split_once('-'));
        let bound = |s: &str| usize::from_str_radix(s, 16).unwrap_or(0);
        range.is_some_and(|(a, b)| (bound(a)..bound(b)).contains(&(p as usize)))
    }))
}

fn new_memory_is_zero_and_page_aligned() -> R {
    let p = rw(3 * PAGE + 1)?;
    eq!(p as usize % PAGE, 0);
    that!((0..4 * PAGE).all(|i| peek(at(p, i)) == 0));
    poke(at(p, 4 * PAGE - 1), 1);
    Ok(())
}

fn mmap_errors() -> R {
    errno_is!(rw(0), EINVAL);
    errno_is!(rw(usize::MAX - 100), ENOMEM);
    errno_is!(mmap(0, PAGE, RW, MAP_ANONYMOUS, -1, 0), EINVAL);
    errno_is!(mmap(0, PAGE, RW, MAP_PRIVATE, -1, 0), EBADF);
    errno_is!(mmap(0, PAGE, RW, MAP_PRIVATE, 0, 123), EINVAL);
    errno_is!(mmap(123, PAGE, RW, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0), EINVAL);
    errno_is!(mmap(1 << 47, PAGE, RW, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0), ENOMEM);
    Ok(())
}

fn moving_the_pages_of_others_needs_privilege() -> R {
    const MOVE_ALL: i32 = 4;
    let p = rw(2 * PAGE)?;
    let mbind = |p: *mut u8, mode: i32, flags: i32| sc!(SYS_mbind, p, 2 * PAGE, mode, 0, 0, flags);
    if mbind(p, 0, 0) == Err(E(ENOSYS)) {
        skip!("a kernel without NUMA");
    }
    errno_is!(mbind(p, 99, MOVE_ALL), EINVAL);
    errno_is!(mbind(p, 0, 0x10), EINVAL);
    errno_is!(mbind(at(p, 1), 0, 0), EINVAL);
    if root() {
        mbind(p, 0, MOVE_ALL)?;
        sc!(SYS_setresuid, 4321, 4321, 4321)?;
    }
    errno_is!(mbind(p, 0, MOVE_ALL), EPERM);
    Ok(())
}

fn hints_are_taken_when_free() -> R {
    let p = rw(4 * PAGE)?;
    munmap(p, 4 * PAGE)?;
    let q = mmap(p as usize, PAGE, RW, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)?;
    eq!(q, p);
    // Taken: another place, and the old contents stay.
    poke(q, 5);
    let r = mmap(p as usize, PAGE, RW, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)?;
    that!(r != p);
    eq!(peek(q), 5);
    Ok(())
}

fn fixed_replaces_and_noreplace_refuses() -> R {
    let p = rw(3 * PAGE)?;
    poke(at(p, PAGE), 7);
    poke(at(p, 2 * PAGE), 8);
    eq!(fixed(at(p, PAGE), PAGE, RW)?, at(p, PAGE));
    eq!((peek(at(p, PAGE)), peek(at(p, 2 * PAGE))), (0, 8));
    let flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE;
    errno_is!(mmap(p as usize, PAGE, RW, flags, -1, 0), EEXIST);
    munmap(p, PAGE)?;
    eq!(mmap(p as usize, PAGE, RW, flags, -1, 0)?, p);
    Ok(())
}

fn munmap_of_the_middle_splits() -> R {
    let p = rw(5 * PAGE)?;
    for i in 0..5 {
        poke(at(p, i * PAGE), i as u8 + 1);
    }
    munmap(at(p, 2 * PAGE), PAGE)?;
    eq!((0..5).map(|i| readable(at(p, i * PAGE))).collect::<Vec<_>>(), [true, true, false, true, true]);
    eq!((peek(at(p, PAGE)), peek(at(p, 3 * PAGE))), (2, 4));
    // A hole is no error; an odd address is.
    munmap(p, 5 * PAGE)?;
    munmap(p, 5 * PAGE)?;
    errno_is!(munmap(at(p, 1), PAGE), EINVAL);
    errno_is!(munmap(p, 0), EINVAL);
    Ok(())
}

fn mprotect_changes_parts() -> R {
    let p = rw(3 * PAGE)?;
    poke(at(p, PAGE), 9);
    sc!(SYS_mprotect, at(p, PAGE), PAGE, PROT_READ)?;
    eq!((0..3).map(|i| writable(at(p, i * PAGE))).collect::<Vec<_>>(), [true, false, true]);
    eq!(peek(at(p, PAGE)), 9);
    sc!(SYS_mprotect, at(p, PAGE), PAGE, PROT_NONE)?;
    that!(!readable(at(p, PAGE)));
    sc!(SYS_mprotect, p, 3 * PAGE, RW)?;
    eq!(peek(at(p, PAGE)), 9);
    that!(writable(at(p, PAGE)));
    Ok(())
}

fn mprotect_errors() -> R {
    let p = rw(3 * PAGE)?;
    errno_is!(sc!(SYS_mprotect, at(p, 1), PAGE, PROT_READ), EINVAL);
    errno_is!(sc!(SYS_mprotect, p, PAGE, 0x100), EINVAL);
    munmap(at(p, PAGE), PAGE)?;
    errno_is!(sc!(SYS_mprotect, p, 3 * PAGE, PROT_READ), ENOMEM);
    // What lies before the hole was changed.
    that!(!writable(p));
    that!(writable(at(p, 2 * PAGE)));
    eq!(sc!(SYS_mprotect, p, 0, PROT_READ)?, 0);
    // Also when the range goes beyond the end of the address space.
    errno_is!(sc!(SYS_mprotect, p, 1usize << 61, PROT_NONE), ENOMEM);
    that!(!readable(p));
    Ok(())
}

fn mremap_shrinks_and_grows_in_place() -> R {
    let p = rw(8 * PAGE)?;
    munmap(at(p, 4 * PAGE), 4 * PAGE)?;
    poke(p, 3);
    eq!(mremap(p, 4 * PAGE, 2 * PAGE, 0, 0)?, p);
    that!(!readable(at(p, 2 * PAGE)));
    eq!(mremap(p, 2 * PAGE, 8 * PAGE, 0, 0)?, p);
    eq!((peek(p), peek(at(p, 7 * PAGE))), (3, 0));
    Ok(())
}

fn mremap_moves_when_there_is_no_room() -> R {
    let p = rw(3 * PAGE)?;
    poke(p, 4);
    poke(at(p, 2 * PAGE), 6);
    // The page behind is in use.
    errno_is!(mremap(p, 2 * PAGE, 4 * PAGE, 0, 0), ENOMEM);
    let q = mremap(p, 2 * PAGE, 400 * PAGE, MREMAP_MAYMOVE, 0)?;
    that!(q != p);
    eq!((peek(q), peek(at(q, 399 * PAGE))), (4, 0));
    that!(!readable(p));
    eq!(peek(at(p, 2 * PAGE)), 6);
    Ok(())
}

fn mremap_fixed_replaces_the_target() -> R {
    let (p, q) = (rw(PAGE)?, rw(2 * PAGE)?);
    poke(p, 4);
    poke(q, 5);
    eq!(mremap(p, PAGE, 2 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, q as usize)?, q);
    eq!((peek(q), peek(at(q, PAGE))), (4, 0));
    that!(!readable(p));
    errno_is!(mremap(q, PAGE, PAGE, MREMAP_FIXED, p as usize), EINVAL);
    errno_is!(mremap(q, 2 * PAGE, 2 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, q as usize + PAGE), EINVAL);
    Ok(())
}

fn mremap_dontunmap_leaves_an_empty_area() -> R {
    let p = rw(PAGE)?;
    poke(p, 4);
    let q = mremap(p, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_DONTUNMAP, 0)?;
    that!(q != p);
    eq!((peek(q), peek(p)), (4, 0));
    errno_is!(mremap(q, PAGE, 2 * PAGE, MREMAP_MAYMOVE | MREMAP_DONTUNMAP, 0), EINVAL);
    Ok(())
}

fn mremap_of_size_zero_doubles_shared_memory() -> R {
    let p = shared(PAGE)?;
    let q = mremap(p, 0, PAGE, MREMAP_MAYMOVE, 0)?;
    poke(p, 8);
    eq!(peek(q), 8);
    errno_is!(mremap(rw(PAGE)?, 0, PAGE, MREMAP_MAYMOVE, 0), EINVAL);
    Ok(())
}

fn mremap_errors() -> R {
    let p = rw(2 * PAGE)?;
    errno_is!(mremap(at(p, 1), PAGE, PAGE, 0, 0), EINVAL);
    errno_is!(mremap(p, PAGE, 0, 0, 0), EINVAL);
    errno_is!(mremap(p, PAGE, PAGE, 0x40, 0), EINVAL);
    munmap(at(p, PAGE), PAGE)?;
    errno_is!(mremap(at(p, PAGE), PAGE, 2 * PAGE, MREMAP_MAYMOVE, 0), EFAULT);
    Ok(())
}

fn brk_grows_and_shrinks_the_heap() -> R {
    let start = brk(0)?;
    eq!(brk(start + 10 * PAGE)?, start + 10 * PAGE);
    let p = start as *mut u8;
    let first = at(p, (PAGE - start % PAGE) % PAGE);
    eq!(peek(first), 0);
    poke(first, 7);
    poke(at(p, 10 * PAGE - 1), 8);
    that!(maps_line(first)?.is_some_and(|l| l.ends_with("[heap]")));
    eq!(brk(start)?, start);
    that!(!readable(at(first, PAGE)));
    eq!(brk(start + 10 * PAGE)?, start + 10 * PAGE);
    eq!(peek(at(p, 10 * PAGE - 1)), 0);
    // What cannot be is answered with the present break.
    eq!(brk(1)?, start + 10 * PAGE);
    eq!(brk(1 << 62)?, start + 10 * PAGE);
    eq!(brk(start)?, start);
    Ok(())
}

fn what_was_given_back_is_gone_at_once() -> R {
    // After few calls and after many, by which time a kernel may have found quicker ways.
    for rounds in [0, 5, 60] {
        for by_brk in [false, true] {
            let dead = child(|| {
                let start = brk(0)?;
                for round in 0..=rounds {
                    let p = if by_brk {
                        brk(start + 10 * PAGE)?;
                        at(start as *mut u8, PAGE)
                    } else {
                        rw(9 * PAGE)?
                    };
                    for page in 0..9 {
                        eq!(peek(at(p, page * PAGE)), 0);
                        poke(at(p, page * PAGE), 1);
                    }
                    match by_brk {
                        true => eq!(brk(start)?, start),
                        false => munmap(p, 9 * PAGE)?,
                    }
                    if round == rounds {
                        poke(at(p, round % 9 * PAGE), 2);
                    }
                }
                Ok(())
            })?;
            eq!(dead.wait()?, Status::Killed(SIGSEGV));
        }
    }
    Ok(())
}

fn brk_of_a_child_is_its_own() -> R {
    let start = brk(0)?;
    child(|| {
        eq!(brk(0)?, start);
        brk(start + PAGE)?;
        Ok(())
    })?
    .ok()?;
    eq!(brk(0)?, start);
    Ok(())
}

fn data_limit_stops_brk() -> R {
    let start = brk(0)?;
    sc!(SYS_prlimit64, 0, RLIMIT_DATA, &rlimit { rlim_cur: 1 << 24, rlim_max: RLIM_INFINITY }, 0)?;
    eq!(brk(start + (1 << 26))?, start);
    Ok(())
}

fn shared_memory_is_shared_with_children() -> R {
    let p = shared(2 * PAGE)?;
    poke(p, 1);
    child(|| {
        eq!(peek(p), 1);
        poke(at(p, PAGE), 2);
        Ok(())
    })?
    .ok()?;
    eq!(peek(at(p, PAGE)), 2);
    Ok(())
}

fn private_memory_is_isolated_both_ways() -> R {
    let p = rw(4 * PAGE)?;
    poke(p, 1);
    poke(at(p, 3 * PAGE), 1);
    let (go, done) = (Gate::new()?, Gate::new()?);
    let c = child(|| {
        poke(p, 2);
        done.open()?;
        go.pass()?;
        // The parent's later write is not seen.
        eq!(peek(at(p, 3 * PAGE)), 1);
        eq!(peek(p), 2);
        Ok(())
    })?;
    done.pass()?;
    eq!(peek(p), 1);
    poke(at(p, 3 * PAGE), 9);
    go.open()?;
    c.ok()
}

fn a_system_call_writes_into_a_copy_on_write_page() -> R {
    let p = rw(PAGE)?;
    poke(p, b'o');
    child(|| {
        let (r, w) = pipe(0)?;
        write(w, b"n")?;
        sc!(SYS_read, r, p, 1)?;
        eq!(peek(p), b'n');
        Ok(())
    })?
    .ok()?;
    eq!(peek(p), b'o');
    Ok(())
}

fn generations_of_copies() -> R {
    fn go(p: *mut u8, depth: u8) -> R {
        if depth == 0 {
            return Ok(());
        }
        poke(p, depth);
        child(|| {
            eq!(peek(p), depth);
            go(p, depth - 1)
        })?
        .ok()?;
        eq!(peek(p), depth);
        Ok(())
    }
    go(rw(PAGE)?, 12)
}

fn large_sparse_reservations() -> R {
    let len = 64usize << 30;
    let p = map(len, PROT_NONE, MAP_PRIVATE | MAP_NORESERVE)?;
    let q = at(p, (len / 2) & !(PAGE - 1));
    sc!(SYS_mprotect, q, 4 * PAGE, RW)?;
    poke(at(q, 4 * PAGE - 1), 5);
    eq!(peek(at(q, 4 * PAGE - 1)), 5);
    that!(!readable(p));
    munmap(p, len)?;
    that!(!readable(q));
    Ok(())
}

fn many_small_areas() -> R {
    let p = rw(2000 * PAGE)?;
    for i in (0..2000).step_by(2) {
        sc!(SYS_mprotect, at(p, i * PAGE), PAGE, PROT_READ)?;
    }
    for i in (1..2000).step_by(2) {
        poke(at(p, i * PAGE), i as u8);
    }
    that!((1..2000).step_by(2).all(|i| peek(at(p, i * PAGE)) == i as u8));
    // Made alike again, they are one area for maps.
    sc!(SYS_mprotect, p, 2000 * PAGE, RW)?;
    let Some(line) = maps_line(at(p, 1000 * PAGE))? else { fail!("not in maps") };
    that!(line.contains(" rw-p 00000000 00:00 0"), "{line}");
    Ok(())
}

fn populate_and_lock_flags() -> R {
    let p = map(8 * PAGE, RW, MAP_PRIVATE | MAP_POPULATE)?;
    let mut vec = [0u8; 8];
    sc!(SYS_mincore, p, 8 * PAGE, &mut vec)?;
    eq!(vec.map(|v| v & 1), [1; 8]);
    let q = map(PAGE, RW, MAP_PRIVATE | MAP_STACK | MAP_NORESERVE)?;
    poke(q, 1);
    Ok(())
}

fn growsdown_memory_grows() -> R {
    let p = rw(600 * PAGE)?;
    munmap(p, 600 * PAGE)?;
    let flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_GROWSDOWN;
    let q = mmap(at(p, 590 * PAGE) as usize, PAGE, RW, flags, -1, 0)?;
    poke(q, 1);
    let below = at(p, 589 * PAGE);
    poke(at(below, 8), 2);
    eq!(peek(at(below, 8)), 2);
    Ok(())
}

fn the_stack_grows_by_use() -> R {
    fn deep(n: usize) -> usize {
        let big = std::hint::black_box([n as u8; 4096]);
        if n == 0 { big[5] as usize } else { deep(n - 1) + big[9] as usize }
    }
    // 4 MB of the 8 that the limit allows; touched a page at a time.
    that!(deep(900) > 0);
    let here = 0u8;
    let Some(line) = maps_line(&raw const here as *mut u8)? else { fail!("no stack in maps") };
    that!(line.ends_with("[stack]"), "{line}");
    Ok(())
}

fn a_far_jump_below_the_stack_pointer_within_the_limit() -> R {
    // Since 5.0 any access below the stack within the limit grows it.
    let here = 0u8;
    let far = (&raw const here as *mut u8).wrapping_sub(2 << 20);
    poke(far, 5);
    eq!(peek(far), 5);
    Ok(())
}

fn zero_page_reads_then_writes() -> R {
    let p = rw(16 * PAGE)?;
    let sum: u32 = (0..16).map(|i| peek(at(p, i * PAGE)) as u32).sum();
    eq!(sum, 0);
    poke(at(p, 5 * PAGE), 1);
    let sum: u32 = (0..16).map(|i| peek(at(p, i * PAGE)) as u32).sum();
    eq!(sum, 1);
    Ok(())
}

fn thirty_two_megabytes_of_pattern() -> R {
    let len = 32 << 20;
    let p = rw(len)?;
    for i in (0..len).step_by(PAGE) {
        poke(at(p, i), (i >> 12) as u8);
    }
    let c = child(|| {
        for i in (0..len).step_by(PAGE) {
            eq!(peek(at(p, i)), (i >> 12) as u8);
        }
        for i in (0..len).step_by(16 * PAGE) {
            poke(at(p, i), 0xff);
        }
        Ok(())
    })?;
    c.ok()?;
    for i in (0..len).step_by(PAGE) {
        eq!(peek(at(p, i)), (i >> 12) as u8);
    }
    Ok(())
}

fn write_only_memory_can_be_read_on_x86() -> R {
    let p = map(PAGE, PROT_WRITE, MAP_PRIVATE)?;
    poke(p, 3);
    eq!(peek(p), 3);
    Ok(())
}

fn threads_see_each_others_mappings() -> R {
    let t = std::thread::spawn(|| -> Result<usize, E> {
        let p = rw(PAGE)?;
        poke(p, 42);
        Ok(p as usize)
    });
    let Ok(p) = t.join() else { fail!("panic") };
    let p = p? as *mut u8;
    eq!(peek(p), 42);
    // Unmapped here, gone in every thread.
    munmap(p, PAGE)?;
    let addr = p as usize;
    let t = std::thread::spawn(move || readable(addr as *mut u8));
    eq!(t.join().ok(), Some(false));
    Ok(())
}

fn guards_refuse_access_and_go_without_the_rest() -> R {
    const INSTALL: i32 = 102;
    const REMOVE: i32 = 103;
    let p = rw(4 * PAGE)?;
    for page in 0..4 {
        poke(at(p, page * PAGE), 5);
    }
    match sc!(SYS_madvise, at(p, PAGE), 2 * PAGE, INSTALL) {
        // Older than Linux 6.13.
        Err(e) if e == E(EINVAL) => return Ok(()),
        result => result?,
    };
    that!(readable(p) && !readable(at(p, PAGE)) && !readable(at(p, 2 * PAGE)) && readable(at(p, 3 * PAGE)));
    that!(!writable(at(p, PAGE)));
    let c = child(|| {
        poke(at(p, PAGE), 1);
        Ok(())
    })?;
    eq!(c.wait()?, Status::Killed(SIGSEGV));
    // Rights and contents may change, the guard stays.
    sc!(SYS_mprotect, p, 4 * PAGE, RW)?;
    sc!(SYS_madvise, p, 4 * PAGE, MADV_DONTNEED)?;
    that!(!readable(at(p, PAGE)));
    sc!(SYS_madvise, p, 4 * PAGE, REMOVE)?;
    eq!((peek(p), peek(at(p, PAGE))), (0, 0));
    poke(at(p, PAGE), 7);
    eq!(peek(at(p, PAGE)), 7);
    Ok(())
}

fn mremap_moves_several_areas_to_a_fixed_address() -> R {
    let p = rw(6 * PAGE)?;
    for page in 0..6 {
        poke(at(p, page * PAGE), page as u8 + 1);
    }
    sc!(SYS_mprotect, at(p, PAGE), PAGE, PROT_READ)?;
    sc!(SYS_munmap, at(p, 3 * PAGE), PAGE)?;
    let to = mmap(0, 6 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)?;
    let flags = MREMAP_MAYMOVE | MREMAP_FIXED;
    match mremap(p, 6 * PAGE, 6 * PAGE, flags, to as usize) {
        // Older than Linux 6.17.
        Err(e) if e == E(EFAULT) => return Ok(()),
        moved => eq!(moved?, to),
    }
    that!([0, 1, 2, 4, 5].iter().all(|page| peek(at(to, page * PAGE)) == *page as u8 + 1));
    that!(!writable(at(to, PAGE)) && writable(at(to, 2 * PAGE)) && !readable(p));
    // It can't grow, and the range begins with an area.
    errno_is!(mremap(to, 3 * PAGE, 7 * PAGE, MREMAP_MAYMOVE, 0), EFAULT);
    sc!(SYS_munmap, at(to, 3 * PAGE), PAGE)?;
    errno_is!(mremap(at(to, 3 * PAGE), 3 * PAGE, 3 * PAGE, flags, p as usize), EFAULT);
    Ok(())
}

cases!("memory":
    mremap_moves_several_areas_to_a_fixed_address,
    guards_refuse_access_and_go_without_the_rest,
    new_memory_is_zero_and_page_aligned, mmap_errors, hints_are_taken_when_free, moving_the_pages_of_others_needs_privilege,
    fixed_replaces_and_noreplace_refuses, munmap_of_the_middle_splits, mprotect_changes_parts,
    mprotect_errors, mremap_shrinks_and_grows_in_place, mremap_moves_when_there_is_no_room,
    mremap_fixed_replaces_the_target, mremap_dontunmap_leaves_an_empty_area,
    mremap_of_size_zero_doubles_shared_memory, mremap_errors, brk_grows_and_shrinks_the_heap, what_was_given_back_is_gone_at_once,
    brk_of_a_child_is_its_own, data_limit_stops_brk, shared_memory_is_shared_with_children,
    private_memory_is_isolated_both_ways, a_system_call_writes_into_a_copy_on_write_page,
    generations_of_copies, large_sparse_reservations, many_small_areas, populate_and_lock_flags,
    growsdown_memory_grows, the_stack_grows_by_use, a_far_jump_below_the_stack_pointer_within_the_limit,
    zero_page_reads_then_writes, thirty_two_megabytes_of_pattern, write_only_memory_can_be_read_on_x86,
    threads_see_each_others_mappings,
);
