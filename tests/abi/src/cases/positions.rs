//! A file that is read and written by position over and over: a kernel that finds a shorter way for that must not be seen to, whatever others do with the file meanwhile.

use crate::kit::prelude::*;
use std::ffi::CStr;
use std::sync::atomic::Ordering::SeqCst;

/// More often than anybody waits before he takes a shorter way.
const MANY: usize = 200;
const RECORD: usize = 100;

fn pread(fd: i32, buf: &mut [u8], at: usize) -> Result<usize, E> {
    sc!(SYS_pread64, fd, buf.as_mut_ptr(), buf.len(), at).map(|n| n as usize)
}

fn pwrite(fd: i32, buf: &[u8], at: usize) -> Result<usize, E> {
    sc!(SYS_pwrite64, fd, buf.as_ptr(), buf.len(), at).map(|n| n as usize)
}

/// The content of the `i`-th record.
fn record(i: usize) -> [u8; RECORD] {
    std::array::from_fn(|k| (i * 7 + k) as u8)
}

/// A file with many records, each written and read by position.
fn worn(path: &CStr) -> R<i32> {
    let fd = open(path, O_CREAT | O_RDWR | O_TRUNC, 0o644)?;
    more(fd, 0..MANY)?;
    Ok(fd)
}

fn more(fd: i32, records: std::ops::Range<usize>) -> R {
    for i in records {
        eq!(pwrite(fd, &record(i), i * RECORD)?, RECORD);
        let mut buf = [0; RECORD];
        eq!(pread(fd, &mut buf, i * RECORD)?, RECORD);
        eq!(buf, record(i));
    }
    Ok(())
}

/// What the file has, by reading it from another descriptor.
fn content_is(path: &CStr, records: usize) -> R {
    let all = get(path)?;
    eq!(all.len(), records * RECORD);
    for (i, found) in all.chunks(RECORD).enumerate() {
        eq!(found, record(i));
    }
    Ok(())
}

fn others_see_what_is_written() -> R {
    let fd = worn(c"f")?;
    content_is(c"f", MANY)?;
    for round in 0..20 {
        let records = MANY + (round + 1) * 10;
        more(fd, records - 10..records)?;
        eq!(stat(c"f")?.st_size, (records * RECORD) as i64);
        child(|| content_is(c"f", records))?.ok()?;
    }
    more(fd, 0..MANY)?;
    content_is(c"f", MANY + 200)
}

fn another_process_sees_it_while_the_writer_goes_on() -> R {
    let shared = shared(4096)?;
    let (written, seen) = (cell(shared), cell(at(shared, 64)));
    let fd = worn(c"f")?;
    let reader = child(|| {
        let other = open(c"f", O_RDONLY, 0)?;
        for i in MANY..4 * MANY {
            while (written.load(SeqCst) as usize) <= i {
                sc!(SYS_sched_yield)?;
            }
            that!(fstat(other)?.st_size >= ((i + 1) * RECORD) as i64, "record {i} is not there");
            let mut buf = [0; RECORD];
            eq!(pread(other, &mut buf, i * RECORD)?, RECORD);
            eq!(buf, record(i));
            seen.store(i as u32, SeqCst);
        }
        Ok(())
    })?;
    for i in MANY..4 * MANY {
        eq!(pwrite(fd, &record(i), i * RECORD)?, RECORD);
        written.store(i as u32 + 1, SeqCst);
    }
    reader.ok()?;
    eq!(seen.load(SeqCst) as usize, 4 * MANY - 1);
    Ok(())
}

fn a_file_that_another_process_cuts_is_short() -> R {
    let fd = worn(c"f")?;
    child(|| {
        sc!(SYS_truncate, c"f", 150)?;
        Ok(())
    })?
    .ok()?;
    let mut buf = [0xff; RECORD];
    eq!(pread(fd, &mut buf, RECORD)?, 50);
    eq!(pread(fd, &mut buf, 2 * RECORD)?, 0);
    eq!(fstat(fd)?.st_size, 150);
    // What comes behind leaves zeros in between, not what was there.
    eq!(pwrite(fd, b"end", 300)?, 3);
    let all = get(c"f")?;
    eq!(all.len(), 303);
    that!(all[150..300].iter().all(|byte| *byte == 0));
    more(fd, 0..MANY)?;
    content_is(c"f", MANY)
}

fn a_file_that_the_writer_cuts_is_short() -> R {
    let fd = worn(c"f")?;
    for round in 1..5 {
        let size = round * 1000 + 50;
        sc!(SYS_ftruncate, fd, size)?;
        eq!(fstat(fd)?.st_size, size as i64);
        let mut buf = [0; RECORD];
        eq!(pread(fd, &mut buf, size - 20)?, 20);
        more(fd, 0..MANY)?;
    }
    content_is(c"f", MANY)
}

fn gaps_and_holes_are_zeros() -> R {
    let fd = worn(c"f")?;
    let end = MANY * RECORD;
    eq!(pwrite(fd, b"x", end + 5000)?, 1);
    let mut gap = vec![0xff; 5000];
    eq!(pread(fd, &mut gap, end)?, 5000);
    that!(gap.iter().all(|byte| *byte == 0));
    sc!(SYS_fallocate, fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 4096, 8192)?;
    let mut hole = vec![0xff; 8192];
    eq!(pread(fd, &mut hole, 4096)?, 8192);
    that!(hole.iter().all(|byte| *byte == 0));
    eq!(pwrite(fd, b"y", 5000)?, 1);
    eq!(get(c"f")?[4999..5002], *b"\0y\0");
    Ok(())
}

fn the_end_and_bad_addresses_are_what_they_are() -> R {
    let fd = worn(c"f")?;
    let end = MANY * RECORD;
    let mut buf = [0; 1000];
    for _ in 0..50 {
        eq!(pread(fd, &mut buf, end - 10)?, 10);
        eq!(pread(fd, &mut buf, end)?, 0);
        eq!(pread(fd, &mut buf, end + 100_000_000)?, 0);
        eq!(pread(fd, &mut [], 0)?, 0);
        eq!(pwrite(fd, &[], end + 500)?, 0);
        errno_is!(sc!(SYS_pread64, fd, buf.as_mut_ptr(), 10, -1), EINVAL);
        errno_is!(sc!(SYS_pwrite64, fd, buf.as_ptr(), 10, -10), EINVAL);
        errno_is!(sc!(SYS_pread64, fd, 8, 10, 0), EFAULT);
        errno_is!(sc!(SYS_pwrite64, fd, 8, 10, 0), EFAULT);
        errno_is!(sc!(SYS_pread64, fd + 50, buf.as_mut_ptr(), 10, 0), EBADF);
    }
    // A buffer that ends where nothing is.
    let page = rw(8192)?;
    munmap(at(page, 4096), 4096)?;
    eq!(sc!(SYS_pwrite64, fd, at(page, 4046), 100, 0)?, 50);
    eq!(sc!(SYS_pread64, fd, at(page, 4046), 100, 0)?, 50);
    eq!(fstat(fd)?.st_size, end as i64);
    Ok(())
}

fn a_descriptor_is_what_it_was_made_last() -> R {
    let fd = worn(c"f")?;
    put(c"g", b"another")?;
    let other = open(c"g", O_RDONLY, 0)?;
    sc!(SYS_dup2, other, fd)?;
    let mut buf = [0; 7];
    eq!(pread(fd, &mut buf, 0)?, 7);
    eq!(&buf, b"another");
    errno_is!(pwrite(fd, b"x", 0), EBADF);
    close(fd)?;
    errno_is!(pread(fd, &mut buf, 0), EBADF);
    content_is(c"f", MANY)?;
    // Read only, as often.
    let fd = open(c"f", O_RDONLY, 0)?;
    for i in 0..MANY {
        let mut buf = [0; RECORD];
        eq!(pread(fd, &mut buf, i * RECORD)?, RECORD);
        eq!(buf, record(i));
        errno_is!(pwrite(fd, b"x", 0), EBADF);
    }
    // And write only.
    let fd = open(c"f", O_WRONLY, 0)?;
    for i in 0..MANY {
        eq!(pwrite(fd, &record(i + 1), i * RECORD)?, RECORD);
        errno_is!(pread(fd, &mut buf, 0), EBADF);
    }
    Ok(())
}

fn appending_goes_to_the_end() -> R {
    let fd = worn(c"f")?;
    let end = (MANY * RECORD) as i64;
    fcntl(fd, F_SETFL, O_APPEND)?;
    // Linux appends whatever the position.
    eq!(pwrite(fd, b"abc", 0)?, 3);
    eq!(fstat(fd)?.st_size, end + 3);
    fcntl(fd, F_SETFL, 0)?;
    more(fd, 0..MANY)?;
    // A child that has the same description says so, while its parent makes no other calls.
    let said = cell(shared(4096)?);
    let child = child(|| {
        while said.load(SeqCst) == 0 {}
        fcntl(fd, F_SETFL, O_APPEND)?;
        said.store(2, SeqCst);
        Ok(())
    })?;
    more(fd, 0..MANY)?;
    said.store(1, SeqCst);
    while said.load(SeqCst) == 1 {}
    eq!(pwrite(fd, b"abc", 0)?, 3);
    child.ok()?;
    eq!(fstat(fd)?.st_size, end + 6);
    Ok(())
}

fn the_position_stays_and_plain_calls_agree() -> R {
    let fd = worn(c"f")?;
    lseek(fd, 30, SEEK_SET)?;
    eq!(pwrite(fd, b"0123456789", 30)?, 10);
    eq!(read_some(fd, 10)?, b"0123456789");
    eq!(lseek(fd, 0, SEEK_CUR)?, 40);
    eq!(write(fd, b"plain")?, 5);
    let mut buf = [0; 5];
    eq!(pread(fd, &mut buf, 40)?, 5);
    eq!(&buf, b"plain");
    // Behind the end, by each of the two.
    let end = lseek(fd, 0, SEEK_END)?;
    eq!(write(fd, b"tail")?, 4);
    eq!(pread(fd, &mut buf, end as usize)?, 4);
    eq!(pwrite(fd, b"more", end as usize + 4)?, 4);
    eq!(lseek(fd, 0, SEEK_END)?, end + 8);
    Ok(())
}

fn a_mapping_shows_the_same() -> R {
    let fd = worn(c"f")?;
    let map = mmap(0, 4 * 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0)?;
    for i in 0..MANY {
        let value = [i as u8];
        eq!(pwrite(fd, &value, 5000)?, 1);
        eq!(peek(at(map, 5000)), value[0]);
        poke(at(map, 5001), value[0] ^ 0x55);
        let mut buf = [0; 2];
        eq!(pread(fd, &mut buf, 5000)?, 2);
        eq!(buf, [value[0], value[0] ^ 0x55]);
    }
    Ok(())
}

fn copies_and_threads_go_on_with_it() -> R {
    let fd = worn(c"f")?;
    for round in 0..3 {
        let first = MANY + round * 20;
        child(|| more(fd, first..first + 10))?.ok()?;
        more(fd, first + 10..first + 20)?;
        content_is(c"f", first + 20)?;
    }
    let threads = (0..4).map(|t| {
        std::thread::spawn(move || -> R { (0..MANY).try_for_each(|i| more(fd, i * 4 + t..i * 4 + t + 1)) })
    });
    let threads: Vec<_> = threads.collect();
    more(fd, 0..MANY)?;
    for thread in threads {
        thread.join().map_err(|_| E(EFAULT))??;
    }
    content_is(c"f", 4 * MANY)?;
    more(fd, 0..MANY)
}

fn a_thread_changes_what_a_descriptor_is() -> R {
    let fd = worn(c"f")?;
    put(c"g", b"another")?;
    let said = cell(shared(4096)?);
    let thread = std::thread::spawn(move || -> R {
        while said.load(SeqCst) == 0 {}
        sc!(SYS_dup2, open(c"g", O_RDONLY, 0)?, fd)?;
        said.store(2, SeqCst);
        while said.load(SeqCst) == 2 {}
        Ok(())
    });
    more(fd, 0..MANY)?;
    said.store(1, SeqCst);
    while said.load(SeqCst) == 1 {}
    let mut buf = [0; 7];
    let read = pread(fd, &mut buf, 0);
    said.store(3, SeqCst);
    thread.join().map_err(|_| E(EFAULT))??;
    eq!(read?, 7);
    eq!(&buf, b"another");
    Ok(())
}

fn limits_and_watches_hold() -> R {
    const LIMIT: usize = MANY * RECORD + 150;
    let fd = worn(c"f")?;
    let watch = sc!(SYS_inotify_init1, IN_NONBLOCK)? as i32;
    sc!(SYS_inotify_add_watch, watch, c"f", IN_MODIFY | IN_ACCESS)?;
    eq!(pwrite(fd, b"x", 0)?, 1);
    let mut event = [0u8; 64];
    that!(read(watch, &mut event)? >= 16);
    eq!(event[4], IN_MODIFY as u8);
    eq!(pread(fd, &mut [0; 4], 0)?, 4);
    that!(read(watch, &mut event)? >= 16);
    eq!(event[4], IN_ACCESS as u8);
    close(watch)?;
    more(fd, 0..MANY)?;
    let limit = rlimit { rlim_cur: LIMIT as u64, rlim_max: RLIM_INFINITY };
    sc!(SYS_setrlimit, RLIMIT_FSIZE, &limit)?;
    sig::dispose(SIGXFSZ, SIG_IGN, 0)?;
    eq!(pwrite(fd, &record(0), LIMIT - 50)?, 50);
    errno_is!(pwrite(fd, b"x", LIMIT), EFBIG);
    eq!(fstat(fd)?.st_size, LIMIT as i64);
    Ok(())
}

fn times_follow_reads_and_writes() -> R {
    const MS: u64 = 1_000_000;
    let time = |sec: i64, ns: i64| sec as u64 * 1000 * MS + ns as u64;
    let fd = worn(c"f")?;
    let before = now(CLOCK_REALTIME)?;
    more(fd, 0..1)?;
    // Nothing but computing for a while: the time is that of the write, not that of the question.
    let start = now(CLOCK_MONOTONIC)?;
    while now(CLOCK_MONOTONIC)? < start + 80 * MS {}
    let st = fstat(fd)?;
    let (mtime, ctime) = (time(st.st_mtime, st.st_mtime_nsec), time(st.st_ctime, st.st_ctime_nsec));
    that!(mtime + 20 * MS > before && mtime < before + 60 * MS, "written {mtime}, about {before}");
    eq!(mtime, ctime);
    eq!(stat(c"f")?.st_mtime_nsec, st.st_mtime_nsec);
    // Set by somebody, then by the next write.
    let set = [ts(1000 * MS), ts(2000 * MS)];
    sc!(SYS_utimensat, AT_FDCWD, c"f", set.as_ptr(), 0)?;
    let st = fstat(fd)?;
    eq!((st.st_atime, st.st_mtime), (1, 2));
    eq!(pread(fd, &mut [0; 4], 0)?, 4);
    let st = fstat(fd)?;
    that!(st.st_atime > 1000 && st.st_mtime == 2);
    eq!(pwrite(fd, b"x", 0)?, 1);
    let st = fstat(fd)?;
    that!(st.st_mtime > 1000);
    // A time that has not come yet goes with the next write, too.
    more(fd, 0..MANY)?;
    let later = ts(now(CLOCK_REALTIME)? + 1_000_000 * MS);
    sc!(SYS_utimensat, AT_FDCWD, c"f", [later, later].as_ptr(), 0)?;
    that!(fstat(fd)?.st_mtime >= st.st_mtime + 1000);
    eq!(pwrite(fd, b"x", 0)?, 1);
    that!(fstat(fd)?.st_mtime < st.st_mtime + 500);
    Ok(())
}

fn space_that_is_used_is_counted() -> R {
    let fd = worn(c"f")?;
    let blocks = (MANY * RECORD).div_ceil(4096) as i64 * 8;
    eq!(fstat(fd)?.st_blocks, blocks);
    close(fd)?;
    eq!(stat(c"f")?.st_blocks, blocks);
    Ok(())
}

/// Puts bytes at a place of what the file should be.
fn put_at(model: &mut Vec<u8>, at: usize, bytes: &[u8]) {
    model.resize(model.len().max(at + bytes.len()), 0);
    model[at..at + bytes.len()].copy_from_slice(bytes);
}

fn anything_comes_in_any_order() -> R {
    for seed in 1..4 {
        let mut numbers = Numbers(seed);
        let mut model = Vec::new();
        let mut fd = open(c"f", O_CREAT | O_RDWR | O_TRUNC, 0o644)?;
        for round in 0..4000 {
            let bytes: Vec<u8> = (0..numbers.below(3000) + 1).map(|i| (i * 3 + round) as u8).collect();
            let at = numbers.below(model.len() + 200);
            match numbers.below(400) {
                0 => {
                    let size = numbers.below(30_000);
                    sc!(SYS_ftruncate, fd, size)?;
                    model.resize(size, 0);
                }
                1 => {
                    let (from, len) = (numbers.below(20_000), numbers.below(9000) + 1);
                    sc!(SYS_fallocate, fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, from, len)?;
                    let end = (from + len).min(model.len());
                    model[from.min(end)..end].fill(0);
                }
                2 => {
                    child(|| {
                        eq!(pwrite(fd, &bytes, at)?, bytes.len());
                        Ok(())
                    })?
                    .ok()?;
                    put_at(&mut model, at, &bytes);
                }
                3 => {
                    child(|| {
                        sc!(SYS_truncate, c"f", at / 2)?;
                        Ok(())
                    })?
                    .ok()?;
                    model.truncate(at / 2);
                }
                4 => {
                    close(fd)?;
                    fd = open(c"f", O_RDWR, 0)?;
                }
                5 => {
                    lseek(fd, at as i64, SEEK_SET)?;
                    eq!(write(fd, &bytes)?, bytes.len());
                    put_at(&mut model, at, &bytes);
                }
                6 => {
                    eq!(pwrite(fd, &bytes, at + 40_000)?, bytes.len());
                    put_at(&mut model, at + 40_000, &bytes);
                }
                7 => that!(get(c"f")? == model, "round {round} of {seed}"),
                8..200 => {
                    eq!(pwrite(fd, &bytes, at)?, bytes.len());
                    put_at(&mut model, at, &bytes);
                }
                _ => {
                    let mut buf = vec![0; bytes.len()];
                    let want = &model[at.min(model.len())..(at + buf.len()).min(model.len())];
                    eq!(pread(fd, &mut buf, at)?, want.len());
                    that!(buf[..want.len()] == *want, "round {round} of {seed}");
                    eq!(fstat(fd)?.st_size, model.len() as i64);
                }
            }
        }
        close(fd)?;
        that!(get(c"f")? == model, "the end of {seed}");
    }
    Ok(())
}

cases!("positions":
    others_see_what_is_written, another_process_sees_it_while_the_writer_goes_on,
    a_file_that_another_process_cuts_is_short, a_file_that_the_writer_cuts_is_short, gaps_and_holes_are_zeros,
    the_end_and_bad_addresses_are_what_they_are, a_descriptor_is_what_it_was_made_last,
    appending_goes_to_the_end, the_position_stays_and_plain_calls_agree, a_mapping_shows_the_same,
    copies_and_threads_go_on_with_it, a_thread_changes_what_a_descriptor_is, limits_and_watches_hold, times_follow_reads_and_writes,
    space_that_is_used_is_counted,
    anything_comes_in_any_order,
);
