//! Memory that is mapped piece by piece, over and over: a kernel that finds a shorter way for that must not be seen to, whatever else is mapped, unmapped and looked at meanwhile.

use crate::kit::prelude::*;
use std::sync::atomic::Ordering::SeqCst;

const PAGE: usize = 4096;
/// More often than anybody waits before he takes a shorter way.
const MANY: usize = 60;
const RIGHTS: i32 = PROT_READ | PROT_WRITE;
const FLAGS: i32 = MAP_PRIVATE | MAP_ANONYMOUS;

/// A piece of new memory, full of zeros, of so many bytes. It is filled.
fn take(len: usize, value: u8) -> R<*mut u8> {
    let start = mmap(0, len, RIGHTS, FLAGS, -1, 0)?;
    eq!(start as usize % PAGE, 0);
    for i in (0..len).step_by(PAGE / 2).chain([len.next_multiple_of(PAGE) - 1]) {
        that!(peek(at(start, i)) == 0, "{i} of {start:?} is not zero");
    }
    fill(start, len, value);
    Ok(start)
}

fn fill(start: *mut u8, len: usize, value: u8) {
    (0..len).step_by(PAGE / 2).for_each(|i| poke(at(start, i), value));
}

fn holds(start: *mut u8, len: usize, value: u8) -> bool {
    (0..len).step_by(PAGE / 2).all(|i| peek(at(start, i)) == value)
}

/// Whether something can be read there.
fn readable(start: *mut u8) -> R<bool> {
    let (r, w) = pipe(0)?;
    let answer = sc!(SYS_write, w, start, 1).is_ok();
    close(r)?;
    close(w)?;
    Ok(answer)
}

/// Whether an area that can be read and written is said to be there, in `/proc/PID/maps`.
fn is_mapped(pid: i32, start: *mut u8, len: usize) -> R<bool> {
    let maps = text(&cstring(format!("/proc/{pid}/maps")))?;
    let bound = |text: &str| usize::from_str_radix(text, 16).unwrap_or(0);
    let covers = |line: &str| {
        let mut words = line.split(' ');
        let (from, to) = words.next().and_then(|range| range.split_once('-')).unwrap_or_default();
        bound(from) <= start as usize && start as usize + len <= bound(to) && words.next() == Some("rw-p")
    };
    Ok(maps.lines().any(covers))
}

fn pieces_are_apart_and_go_one_by_one() -> R {
    let mut pieces = Vec::with_capacity(4 * MANY);
    for i in 0..4 * MANY {
        let len = [1, PAGE, 3 * PAGE + 1, 20 * PAGE, 100 * PAGE][i % 5];
        pieces.push((take(len, i as u8 | 1)?, len, i as u8 | 1));
    }
    let mut sorted = pieces.clone();
    sorted.sort_unstable();
    let apart = |pair: &[(*mut u8, usize, u8)]| pair[0].0 as usize + pair[0].1 <= pair[1].0 as usize;
    that!(sorted.windows(2).all(apart));
    for (i, &(start, len, value)) in pieces.iter().enumerate() {
        that!(holds(start, len, value), "piece {i}");
        that!(is_mapped(getpid(), start, len)?, "piece {i}");
    }
    for (start, len, _) in pieces.iter().step_by(3) {
        munmap(*start, *len)?;
        that!(!readable(*start)?);
    }
    for (i, &(start, len, value)) in pieces.iter().enumerate().filter(|(i, _)| i % 3 != 0) {
        that!(holds(start, len, value), "piece {i}");
    }
    Ok(())
}

fn what_is_not_new_memory_of_ones_own_is_something_else() -> R {
    let file = open(c"f", O_CREAT | O_RDWR, 0o600)?;
    sc!(SYS_ftruncate, file, PAGE)?;
    eq!(write(file, b"content")?, 7);
    for i in 0..MANY {
        let private = take(2 * PAGE, 1)?;
        let none = mmap(0, PAGE, PROT_NONE, FLAGS, -1, 0)?;
        that!(!readable(none)?);
        let read_only = mmap(0, PAGE, PROT_READ, FLAGS, -1, 0)?;
        errno_is!(sc!(SYS_read, open(c"/dev/zero", O_RDONLY, 0)?, read_only, 1), EFAULT);
        let shown = mmap(0, PAGE, RIGHTS, MAP_PRIVATE, file, 0)?;
        eq!((peek(shown), peek(at(shown, 6))), (b'c', b't'));
        let shared = mmap(0, PAGE, RIGHTS, MAP_SHARED | MAP_ANONYMOUS, -1, 0)?;
        child(|| {
            poke(shared, 7);
            poke(private, 7);
            Ok(())
        })?
        .ok()?;
        eq!((peek(shared), peek(private)), (7, 1));
        let wanted = private as usize - 4096 * PAGE - i * PAGE;
        let hinted = mmap(wanted, PAGE, RIGHTS, FLAGS | MAP_FIXED_NOREPLACE, -1, 0);
        that!(hinted == Err(E(EEXIST)) || hinted == Ok(wanted as *mut u8));
        errno_is!(mmap(0, 0, RIGHTS, FLAGS, -1, 0), EINVAL);
        errno_is!(mmap(0, usize::MAX, RIGHTS, FLAGS, -1, 0), ENOMEM);
        errno_is!(mmap(0, PAGE, RIGHTS, MAP_ANONYMOUS, -1, 0), EINVAL);
        for map in [none, read_only, shown, shared] {
            munmap(map, PAGE)?;
        }
        that!(holds(private, 2 * PAGE, 1));
    }
    Ok(())
}

fn fixed_mappings_take_the_place_of_what_is_there() -> R {
    let first = take(PAGE, 1)?;
    let mut pieces = Vec::with_capacity(MANY);
    for _ in 0..MANY {
        pieces.push(take(2 * PAGE, 2)?);
    }
    // Somewhere below all of them, where the next ones would be.
    let low = pieces.iter().min().map_or(0, |low| *low as usize);
    for i in 1..20 {
        let wall = low - i * 7 * PAGE;
        if mmap(wall, PAGE, RIGHTS, FLAGS | MAP_FIXED_NOREPLACE, -1, 0).is_ok() {
            eq!(peek(wall as *mut u8), 0);
            poke(wall as *mut u8, 9);
            that!(!readable(at(wall as *mut u8, PAGE))? || i > 1);
        }
        let next = take(3 * PAGE, 3)?;
        that!(!(next as usize..next as usize + 3 * PAGE).contains(&wall));
        that!(holds(next, 3 * PAGE, 3));
    }
    that!(holds(first, PAGE, 1) && pieces.iter().all(|piece| holds(*piece, 2 * PAGE, 2)));
    Ok(())
}

fn others_see_what_was_just_taken() -> R {
    let shared = shared(PAGE)?;
    let words: Vec<_> = (0..4).map(|i| cell(at(shared, i * 64))).collect();
    let other = child(|| {
        for i in 1..=MANY as u32 {
            let piece = take(6 * PAGE, i as u8)? as u64;
            words[1].store(piece as u32, SeqCst);
            words[2].store((piece >> 32) as u32, SeqCst);
            words[0].store(i, SeqCst);
            // Without a call, so that nothing is heard of it meanwhile.
            while words[3].load(SeqCst) != i {
                std::hint::spin_loop();
            }
        }
        Ok(())
    })?;
    for i in 1..=MANY as u32 {
        while words[0].load(SeqCst) < i {
            sc!(SYS_sched_yield)?;
        }
        let piece = u64::from(words[1].load(SeqCst)) | u64::from(words[2].load(SeqCst)) << 32;
        that!(is_mapped(other.pid, piece as *mut u8, 6 * PAGE)?, "piece {i}");
        let mut bytes = vec![0u8; 6 * PAGE];
        let local = iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
        let remote = iovec { iov_base: piece as *mut c_void, iov_len: bytes.len() };
        eq!(sc!(SYS_process_vm_readv, other.pid, &local, 1, &remote, 1, 0)? as usize, bytes.len());
        that!(bytes.iter().step_by(PAGE / 2).all(|byte| *byte == i as u8), "piece {i}");
        words[3].store(i, SeqCst);
    }
    other.ok()
}

fn copies_have_them_and_take_their_own() -> R {
    let mut pieces = Vec::with_capacity(2 * MANY);
    for i in 0..MANY {
        pieces.push((take(5 * PAGE, i as u8)?, i as u8));
        if i % 10 == 9 {
            let all = &pieces;
            child(|| {
                that!(all.iter().all(|(piece, value)| holds(*piece, 5 * PAGE, *value)));
                let mut own = Vec::with_capacity(MANY);
                for j in 0..MANY {
                    own.push(take(5 * PAGE, j as u8 | 128)?);
                }
                that!(own.iter().all(|piece| all.iter().all(|(other, _)| other != piece)));
                all.iter().for_each(|(piece, _)| fill(*piece, 5 * PAGE, 255));
                Ok(())
            })?
            .ok()?;
            that!(pieces.iter().all(|(piece, value)| holds(*piece, 5 * PAGE, *value)));
        }
    }
    Ok(())
}

fn limits_hold_from_when_they_are_set() -> R {
    for resource in [RLIMIT_AS, RLIMIT_DATA] {
        child(|| {
            for _ in 0..MANY {
                take(4 * PAGE, 1)?;
            }
            let low = rlimit { rlim_cur: 1 << 20, rlim_max: RLIM_INFINITY };
            sc!(SYS_setrlimit, resource, &low)?;
            errno_is!(mmap(0, 4 * PAGE, RIGHTS, FLAGS, -1, 0), ENOMEM);
            let none = rlimit { rlim_cur: RLIM_INFINITY, rlim_max: RLIM_INFINITY };
            sc!(SYS_setrlimit, resource, &none)?;
            take(4 * PAGE, 1)?;
            Ok(())
        })?
        .ok()?;
    }
    Ok(())
}

fn threads_take_at_the_same_time() -> R {
    for _ in 0..MANY {
        take(2 * PAGE, 1)?;
    }
    let worker = |value: u8| {
        move || -> R {
            let mut pieces = Vec::with_capacity(4 * MANY);
            for i in 0..4 * MANY {
                pieces.push(take(3 * PAGE, value)? as usize);
                if i % 7 == 0 {
                    let piece = pieces.swap_remove(i % pieces.len());
                    that!(holds(piece as *mut u8, 3 * PAGE, value));
                    munmap(piece as *mut u8, 3 * PAGE)?;
                }
            }
            that!(pieces.iter().all(|piece| holds(*piece as *mut u8, 3 * PAGE, value)));
            Ok(())
        }
    };
    let others: Vec<_> = (1..4).map(|value| std::thread::spawn(worker(value))).collect();
    worker(9)()?;
    for other in others {
        other.join().map_err(|_| E(EIO))??;
    }
    for _ in 0..MANY {
        take(2 * PAGE, 1)?;
    }
    Ok(())
}

fn signals_take_nothing_twice() -> R {
    sig::record(SIGALRM, 0)?;
    sig::interval(150)?;
    let size = || -> R<usize> {
        let status = text(c"/proc/self/status")?;
        let line = status.lines().find(|line| line.starts_with("VmData:")).unwrap_or_default();
        Ok(line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).unwrap_or(0))
    };
    let mut pieces = Vec::with_capacity(MANY * 60);
    let before = size()?;
    for i in 0..MANY * 50 {
        pieces.push((take(2 * PAGE, i as u8)?, i as u8));
    }
    let after = size()?;
    sig::interval(0)?;
    that!(sig::count() > 0);
    that!(pieces.iter().all(|(piece, value)| holds(*piece, 2 * PAGE, *value)));
    eq!(after - before, MANY * 50 * 8);
    Ok(())
}

fn anything_comes_in_any_order() -> R {
    for seed in 1..=6 {
        child(|| random(seed))?.ok()?;
    }
    Ok(())
}

/// Takes, gives back, changes and looks, and remembers what each piece has. Every other time hardly anything is given back, so that a shorter way pays all the time.
fn random(seed: u64) -> R {
    let mut numbers = Numbers(seed);
    let mut pieces: Vec<(*mut u8, usize, u8)> = Vec::with_capacity(1000);
    for round in 0..1000 {
        let which = numbers.below(pieces.len().max(1));
        let value = numbers.below(255) as u8 + 1;
        match numbers.below(32) {
            0..=11 if pieces.len() < 900 => {
                let most = [3, 20, 150][numbers.below(3)];
                let len = (1 + numbers.below(most)) * PAGE;
                pieces.push((take(len, value)?, len, value));
            }
            12..=18 if !pieces.is_empty() && (seed % 2 == 0 || numbers.below(16) == 0) => {
                let (piece, len, value) = pieces.swap_remove(which);
                that!(holds(piece, len, value), "piece {piece:?} in round {round} of {seed}");
                munmap(piece, len)?;
            }
            19 if !pieces.is_empty() => {
                let (piece, len, _) = pieces[which];
                sc!(SYS_madvise, piece, len, MADV_DONTNEED)?;
                pieces[which].2 = 0;
            }
            20 if !pieces.is_empty() => {
                let (piece, len, value) = pieces[which];
                let to = (1 + numbers.below(30)) * PAGE;
                let moved = sc!(SYS_mremap, piece, len, to, MREMAP_MAYMOVE)? as usize as *mut u8;
                that!(holds(moved, len.min(to), value), "moved in round {round} of {seed}");
                fill(moved, to, value);
                pieces[which] = (moved, to, value);
            }
            21 if !pieces.is_empty() => {
                let (piece, len, _) = pieces[which];
                sc!(SYS_mprotect, piece, len, PROT_READ)?;
                sc!(SYS_mprotect, piece, len, RIGHTS)?;
            }
            22 => {
                // Some of them, or copying them takes longer than all else.
                let some = &pieces[which.saturating_sub(40)..(which + 40).min(pieces.len())];
                child(|| {
                    that!(some.iter().all(|&(piece, len, value)| holds(piece, len, value)));
                    take(9 * PAGE, 1)?;
                    some.iter().for_each(|&(piece, len, _)| fill(piece, len, 254));
                    Ok(())
                })?
                .ok()?;
            }
            23 if !pieces.is_empty() => {
                let (piece, len, _) = pieces[which];
                mmap(piece as usize, len, RIGHTS, FLAGS | MAP_FIXED, -1, 0)?;
                that!(holds(piece, len, 0), "replaced in round {round} of {seed}");
                fill(piece, len, value);
                pieces[which].2 = value;
            }
            _ if !pieces.is_empty() => {
                let (piece, len, before) = pieces[which];
                that!(holds(piece, len, before), "piece {piece:?} in round {round} of {seed}");
                fill(piece, len, value);
                pieces[which].2 = value;
            }
            _ => {}
        }
    }
    that!(pieces.iter().all(|&(piece, len, value)| holds(piece, len, value)), "the end of {seed}");
    Ok(())
}

cases!("taking":
    pieces_are_apart_and_go_one_by_one, what_is_not_new_memory_of_ones_own_is_something_else,
    fixed_mappings_take_the_place_of_what_is_there, others_see_what_was_just_taken, copies_have_them_and_take_their_own,
    limits_hold_from_when_they_are_set, threads_take_at_the_same_time, signals_take_nothing_twice, anything_comes_in_any_order,
);
