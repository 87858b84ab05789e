//! Reading, writing, seeking, truncating and allocating regular files.

use crate::kit::prelude::*;

fn rwfile(data: &[u8]) -> R<i32> {
    let fd = open(c"f", O_CREAT | O_RDWR | O_TRUNC, 0o644)?;
    eq!(write(fd, data)?, data.len());
    Ok(fd)
}

fn iov(base: *const u8, len: usize) -> iovec {
    iovec { iov_base: base as *mut c_void, iov_len: len }
}

fn creat_makes_an_empty_file() -> R {
    let fd = open(c"f", O_CREAT | O_RDWR, 0o640)?;
    let st = fstat(fd)?;
    eq!(st.st_size, 0);
    eq!(st.st_mode, S_IFREG | 0o640);
    eq!(st.st_nlink, 1);
    eq!(read_some(fd, 10)?, b"");
    Ok(())
}

fn creat_call_is_write_only_and_truncates() -> R {
    put(c"f", b"old")?;
    let fd = sc!(SYS_creat, c"f", 0o600)? as i32;
    eq!(fstat(fd)?.st_size, 0);
    errno_is!(read(fd, &mut [0; 4]), EBADF);
    eq!(fcntl(fd, F_GETFL, 0)? & O_ACCMODE, O_WRONLY);
    Ok(())
}

fn read_moves_the_offset_and_ends_at_eof() -> R {
    let fd = rwfile(b"hello world")?;
    lseek(fd, 0, SEEK_SET)?;
    eq!(read_some(fd, 5)?, b"hello");
    eq!(lseek(fd, 0, SEEK_CUR)?, 5);
    eq!(read_some(fd, 100)?, b" world");
    eq!(read_some(fd, 100)?, b"");
    Ok(())
}

fn write_past_the_end_leaves_zeroes() -> R {
    let fd = rwfile(b"a")?;
    lseek(fd, 5000, SEEK_SET)?;
    eq!(fstat(fd)?.st_size, 1);
    write(fd, b"z")?;
    eq!(fstat(fd)?.st_size, 5001);
    let all = get(c"f")?;
    eq!(all.len(), 5001);
    that!(all[1..5000].iter().all(|b| *b == 0));
    Ok(())
}

fn pread_and_pwrite_leave_the_offset() -> R {
    let fd = rwfile(b"0123456789")?;
    lseek(fd, 2, SEEK_SET)?;
    let mut buf = [0; 3];
    eq!(sc!(SYS_pread64, fd, &mut buf, 3, 7)?, 3);
    eq!(&buf, b"789");
    eq!(sc!(SYS_pwrite64, fd, c"XY", 2, 9)?, 2);
    eq!(lseek(fd, 0, SEEK_CUR)?, 2);
    eq!(get(c"f")?, b"012345678XY");
    eq!(sc!(SYS_pread64, fd, &mut buf, 3, 100)?, 0);
    errno_is!(sc!(SYS_pread64, fd, &mut buf, 3, -1), EINVAL);
    errno_is!(sc!(SYS_pwrite64, fd, &mut buf, 3, -1), EINVAL);
    Ok(())
}

fn pread_on_a_pipe_is_espipe() -> R {
    let (r, w) = pipe(0)?;
    errno_is!(sc!(SYS_pread64, r, &mut [0u8; 1], 1, 0), ESPIPE);
    errno_is!(sc!(SYS_pwrite64, w, c"x", 1, 0), ESPIPE);
    errno_is!(lseek(r, 0, SEEK_CUR), ESPIPE);
    Ok(())
}

fn readv_fills_buffers_in_order() -> R {
    let fd = rwfile(b"abcdefgh")?;
    let (mut a, mut b, mut c) = ([0u8; 3], [0u8; 1], [b'.'; 6]);
    let v = [iov(a.as_mut_ptr(), 3), iov(b.as_mut_ptr(), 1), iov(c.as_mut_ptr(), 6)];
    eq!(sc!(SYS_preadv, fd, &v, 3, 0, 0)?, 8);
    eq!((&a, &b, &c), (b"abc", b"d", b"efgh.."));
    lseek(fd, 6, SEEK_SET)?;
    eq!(sc!(SYS_readv, fd, &v, 3)?, 2);
    eq!(sc!(SYS_readv, fd, &v, 0)?, 0);
    errno_is!(sc!(SYS_readv, fd, &v, -1), EINVAL);
    errno_is!(sc!(SYS_readv, fd, &v, 1025), EINVAL);
    Ok(())
}

fn writev_gathers() -> R {
    let fd = rwfile(b"")?;
    let v = [iov(b"ab".as_ptr(), 2), iov(std::ptr::null(), 0), iov(b"cde".as_ptr(), 3)];
    eq!(sc!(SYS_writev, fd, &v, 3)?, 5);
    eq!(sc!(SYS_pwritev, fd, &v, 3, 10, 0)?, 5);
    eq!(get(c"f")?, b"abcde\0\0\0\0\0abcde");
    let too_long = [iov(b"".as_ptr(), isize::MAX as usize), iov(b"".as_ptr(), isize::MAX as usize)];
    errno_is!(sc!(SYS_writev, fd, &too_long, 2), EFAULT | EINVAL);
    let negative = [iov(b"".as_ptr(), usize::MAX)];
    errno_is!(sc!(SYS_writev, fd, &negative, 1), EINVAL);
    Ok(())
}

fn preadv2_with_offset_minus_one_uses_the_position() -> R {
    let fd = rwfile(b"abcdef")?;
    lseek(fd, 1, SEEK_SET)?;
    let mut a = [0u8; 2];
    let v = [iov(a.as_mut_ptr(), 2)];
    eq!(sc!(SYS_preadv2, fd, &v, 1, -1, -1, 0)?, 2);
    eq!(&a, b"bc");
    eq!(lseek(fd, 0, SEEK_CUR)?, 3);
    errno_is!(sc!(SYS_preadv2, fd, &v, 1, 0, 0, 0x4000_0000), EOPNOTSUPP);
    Ok(())
}

fn pwritev2_append_flag() -> R {
    let fd = rwfile(b"abc")?;
    let v = [iov(b"X".as_ptr(), 1)];
    match sc!(SYS_pwritev2, fd, &v, 1, 0, 0, RWF_APPEND) {
        Err(E(EOPNOTSUPP)) => skip!("no RWF_APPEND"),
        got => eq!(got?, 1),
    }
    eq!(get(c"f")?, b"abcX");
    Ok(())
}

fn zero_length_io_checks_the_descriptor_only() -> R {
    let fd = rwfile(b"abc")?;
    eq!(sc!(SYS_read, fd, BAD, 0)?, 0);
    eq!(sc!(SYS_write, fd, BAD, 0)?, 0);
    errno_is!(sc!(SYS_read, 9999, BAD, 0), EBADF);
    eq!(fstat(fd)?.st_size, 3);
    Ok(())
}

fn bad_buffers_are_efault_and_move_nothing() -> R {
    let fd = rwfile(b"abc")?;
    lseek(fd, 0, SEEK_SET)?;
    errno_is!(sc!(SYS_read, fd, BAD, 3), EFAULT);
    errno_is!(sc!(SYS_write, fd, BAD, 3), EFAULT);
    errno_is!(sc!(SYS_read, fd, -1, 3), EFAULT);
    eq!(lseek(fd, 0, SEEK_CUR)?, 0);
    eq!(get(c"f")?, b"abc");
    Ok(())
}

fn read_into_a_half_mapped_buffer_is_short() -> R {
    let fd = rwfile(&[7; 8192])?;
    lseek(fd, 0, SEEK_SET)?;
    let p = rw(8192)?;
    munmap(at(p, 4096), 4096)?;
    // The bytes that fit before the hole arrive; the count says how many.
    let n = sc!(SYS_read, fd, at(p, 4096 - 100), 200)?;
    eq!(n, 100);
    eq!(peek(at(p, 4095)), 7);
    eq!(lseek(fd, 0, SEEK_CUR)?, 100);
    Ok(())
}

fn read_into_read_only_memory_is_efault() -> R {
    let fd = rwfile(b"abc")?;
    lseek(fd, 0, SEEK_SET)?;
    let p = map(4096, PROT_READ, MAP_PRIVATE)?;
    errno_is!(sc!(SYS_read, fd, p, 3), EFAULT);
    Ok(())
}

fn lseek_from_each_origin() -> R {
    let fd = rwfile(&[0; 100])?;
    eq!(lseek(fd, 10, SEEK_SET)?, 10);
    eq!(lseek(fd, 5, SEEK_CUR)?, 15);
    eq!(lseek(fd, -1, SEEK_END)?, 99);
    eq!(lseek(fd, 1000, SEEK_END)?, 1100);
    errno_is!(lseek(fd, -1, SEEK_SET), EINVAL);
    errno_is!(lseek(fd, -2000, SEEK_CUR), EINVAL);
    errno_is!(lseek(fd, 0, 99), EINVAL);
    eq!(lseek(fd, 0, SEEK_CUR)?, 1100);
    Ok(())
}

fn lseek_overflow_is_refused() -> R {
    let fd = rwfile(&[0; 100])?;
    errno_is!(lseek(fd, i64::MAX, SEEK_END), EOVERFLOW | EINVAL);
    Ok(())
}

fn seek_data_and_hole() -> R {
    let fd = rwfile(b"")?;
    sc!(SYS_pwrite64, fd, c"x", 1, 1 << 20)?;
    let size = (1 << 20) + 1;
    let data = lseek(fd, 0, SEEK_DATA)?;
    that!(data == 0 || (data <= 1 << 20 && data % 512 == 0), "data at {data}");
    eq!(lseek(fd, 1 << 20, SEEK_DATA)?, 1 << 20);
    eq!(lseek(fd, 1 << 20, SEEK_HOLE)?, size);
    errno_is!(lseek(fd, size, SEEK_DATA), ENXIO);
    errno_is!(lseek(fd, size + 5, SEEK_HOLE), ENXIO);
    Ok(())
}

fn append_writes_at_the_end_wherever_the_offset_is() -> R {
    put(c"f", b"abc")?;
    let fd = open(c"f", O_RDWR | O_APPEND, 0)?;
    lseek(fd, 0, SEEK_SET)?;
    write(fd, b"de")?;
    eq!(lseek(fd, 0, SEEK_CUR)?, 5);
    // Linux appends even with pwrite (BUGS in pwrite(2)).
    sc!(SYS_pwrite64, fd, c"f", 1, 0)?;
    eq!(get(c"f")?, b"abcdef");
    Ok(())
}

fn two_appenders_do_not_overwrite_each_other() -> R {
    put(c"f", b"")?;
    let writer = |c: u8| {
        child(move || {
            let fd = open(c"f", O_WRONLY | O_APPEND, 0)?;
            for _ in 0..200 {
                eq!(write(fd, &[c; 7])?, 7);
            }
            Ok(())
        })
    };
    let (a, b) = (writer(b'a')?, writer(b'b')?);
    a.ok()?;
    b.ok()?;
    let all = get(c"f")?;
    eq!(all.len(), 2800);
    that!(all.chunks(7).all(|c| c.iter().all(|x| *x == c[0])));
    Ok(())
}

fn truncate_shrinks_and_grows_with_zeroes() -> R {
    let fd = rwfile(b"0123456789")?;
    sc!(SYS_ftruncate, fd, 4)?;
    sc!(SYS_ftruncate, fd, 8)?;
    eq!(get(c"f")?, b"0123\0\0\0\0");
    sc!(SYS_truncate, c"f", 2)?;
    eq!(get(c"f")?, b"01");
    eq!(lseek(fd, 0, SEEK_CUR)?, 10);
    Ok(())
}

fn truncate_errors() -> R {
    put(c"f", b"x")?;
    let fd = open(c"f", O_RDONLY, 0)?;
    errno_is!(sc!(SYS_ftruncate, fd, 0), EINVAL);
    errno_is!(sc!(SYS_truncate, c"f", -1), EINVAL);
    errno_is!(sc!(SYS_truncate, c"none", 0), ENOENT);
    errno_is!(sc!(SYS_truncate, c".", 0), EISDIR);
    let (_, w) = pipe(0)?;
    errno_is!(sc!(SYS_ftruncate, w, 0), EINVAL);
    Ok(())
}

fn large_offsets_beyond_four_gigabytes() -> R {
    let fd = rwfile(b"")?;
    let far = 5i64 << 30;
    eq!(sc!(SYS_pwrite64, fd, c"end", 3, far)?, 3);
    eq!(fstat(fd)?.st_size, far + 3);
    let mut buf = [1; 4];
    eq!(sc!(SYS_pread64, fd, &mut buf, 4, far - 1)?, 4);
    eq!(&buf, b"\0end");
    that!(fstat(fd)?.st_blocks < 1 << 20, "sparse");
    Ok(())
}

fn rlimit_fsize_sends_sigxfsz() -> R {
    let fd = rwfile(b"")?;
    sc!(SYS_prlimit64, 0, RLIMIT_FSIZE, &rlimit { rlim_cur: 10, rlim_max: RLIM_INFINITY }, 0)?;
    sig::record(SIGXFSZ, 0)?;
    eq!(write(fd, &[1; 20])?, 10);
    eq!(sig::count(), 0);
    errno_is!(write(fd, &[1; 20]), EFBIG);
    eq!(sig::numbers(), [SIGXFSZ]);
    errno_is!(sc!(SYS_ftruncate, fd, 11), EFBIG);
    Ok(())
}

fn fallocate_extends_or_keeps_the_size() -> R {
    let fd = rwfile(b"abc")?;
    match sc!(SYS_fallocate, fd, 0, 0, 10_000) {
        Err(E(EOPNOTSUPP)) => skip!("no fallocate on this file system"),
        got => eq!(got?, 0),
    }
    eq!(fstat(fd)?.st_size, 10_000);
    sc!(SYS_fallocate, fd, FALLOC_FL_KEEP_SIZE, 0, 100_000)?;
    eq!(fstat(fd)?.st_size, 10_000);
    eq!(&get(c"f")?[..4], b"abc\0");
    errno_is!(sc!(SYS_fallocate, fd, 0, 0, 0), EINVAL);
    errno_is!(sc!(SYS_fallocate, fd, 0, -1, 10), EINVAL);
    errno_is!(sc!(SYS_fallocate, 9999, 0, 0, 10), EBADF);
    Ok(())
}

fn fallocate_punches_holes() -> R {
    let fd = rwfile(&[9; 16384])?;
    match sc!(SYS_fallocate, fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 4096, 4096) {
        Err(E(EOPNOTSUPP)) => skip!("no hole punching on this file system"),
        got => eq!(got?, 0),
    }
    let all = get(c"f")?;
    eq!(all.len(), 16384);
    eq!((all[4095], all[4096], all[8191], all[8192]), (9, 0, 0, 9));
    errno_is!(sc!(SYS_fallocate, fd, FALLOC_FL_PUNCH_HOLE, 0, 10), EOPNOTSUPP);
    Ok(())
}

fn offsets_are_shared_by_dup_and_fork_but_not_by_open() -> R {
    let fd = rwfile(b"abcdef")?;
    lseek(fd, 0, SEEK_SET)?;
    let other = open(c"f", O_RDONLY, 0)?;
    let copy = sc!(SYS_dup, fd)? as i32;
    eq!(read_some(copy, 1)?, b"a");
    child(|| {
        eq!(read_some(fd, 1)?, b"b");
        Ok(())
    })?
    .ok()?;
    eq!(read_some(fd, 1)?, b"c");
    eq!(read_some(other, 1)?, b"a");
    Ok(())
}

fn written_data_outlives_unlink_while_open() -> R {
    let fd = rwfile(b"abc")?;
    unlink(c"f")?;
    eq!(fstat(fd)?.st_nlink, 0);
    write(fd, b"def")?;
    lseek(fd, 0, SEEK_SET)?;
    eq!(drain(fd)?, b"abcdef");
    errno_is!(open(c"f", O_RDONLY, 0), ENOENT);
    Ok(())
}

fn fsync_family() -> R {
    let fd = rwfile(b"abc")?;
    sc!(SYS_fsync, fd)?;
    sc!(SYS_fdatasync, fd)?;
    sc!(SYS_sync)?;
    sc!(SYS_syncfs, fd)?;
    sc!(SYS_sync_file_range, fd, 0, 0, 0)?;
    sc!(SYS_fadvise64, fd, 0, 0, POSIX_FADV_SEQUENTIAL)?;
    errno_is!(sc!(SYS_fadvise64, fd, 0, 0, 99), EINVAL);
    errno_is!(sc!(SYS_fsync, 9999), EBADF);
    let (r, _) = pipe(0)?;
    errno_is!(sc!(SYS_fsync, r), EINVAL);
    errno_is!(sc!(SYS_fadvise64, r, 0, 0, 0), ESPIPE);
    eq!(sc!(SYS_readahead, fd, 0, 100)?, 0);
    Ok(())
}

fn reading_a_directory_is_eisdir() -> R {
    let fd = open(c".", O_RDONLY, 0)?;
    errno_is!(read(fd, &mut [0; 10]), EISDIR);
    errno_is!(write(fd, b"x"), EBADF);
    Ok(())
}

fn dev_null_zero_and_full() -> R {
    let null = open(c"/dev/null", O_RDWR, 0)?;
    eq!(read_some(null, 10)?, b"");
    eq!(write(null, b"gone")?, 4);
    let zero = open(c"/dev/zero", O_RDWR, 0)?;
    eq!(read_some(zero, 3)?, [0; 3]);
    eq!(write(zero, b"gone")?, 4);
    let full = open(c"/dev/full", O_RDWR, 0)?;
    eq!(read_some(full, 3)?, [0; 3]);
    errno_is!(write(full, b"x"), ENOSPC);
    eq!(fstat(null)?.st_rdev, makedev(1, 3));
    eq!(fstat(null)?.st_mode & S_IFMT, S_IFCHR);
    Ok(())
}

fn random_devices_differ_from_read_to_read() -> R {
    for path in [c"/dev/urandom", c"/dev/random"] {
        let fd = open(path, O_RDONLY, 0)?;
        let (a, b) = (read_some(fd, 32)?, read_some(fd, 32)?);
        eq!(a.len(), 32);
        that!(a != b);
    }
    Ok(())
}

fn fionread_tells_what_is_left() -> R {
    let fd = rwfile(b"abcdef")?;
    lseek(fd, 2, SEEK_SET)?;
    let mut n = -1;
    ioctl(fd, FIONREAD, &mut n)?;
    eq!(n, 4);
    errno_is!(ioctl(fd, TCGETS, &mut zeroed::<termios>()), ENOTTY);
    Ok(())
}

fn a_big_file_round_trips() -> R {
    let data: Vec<u8> = (0..3_000_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let fd = open(c"f", O_CREAT | O_RDWR, 0o644)?;
    let mut done = 0;
    while done < data.len() {
        done += write(fd, &data[done..])?;
    }
    eq!(fstat(fd)?.st_size, 3_000_000);
    that!(get(c"f")? == data);
    Ok(())
}

cases!("file":
    creat_makes_an_empty_file, creat_call_is_write_only_and_truncates,
    read_moves_the_offset_and_ends_at_eof, write_past_the_end_leaves_zeroes,
    pread_and_pwrite_leave_the_offset, pread_on_a_pipe_is_espipe, readv_fills_buffers_in_order,
    writev_gathers, preadv2_with_offset_minus_one_uses_the_position, pwritev2_append_flag,
    zero_length_io_checks_the_descriptor_only, bad_buffers_are_efault_and_move_nothing,
    read_into_a_half_mapped_buffer_is_short, read_into_read_only_memory_is_efault, lseek_from_each_origin,
    lseek_overflow_is_refused, seek_data_and_hole, append_writes_at_the_end_wherever_the_offset_is,
    two_appenders_do_not_overwrite_each_other, truncate_shrinks_and_grows_with_zeroes, truncate_errors,
    large_offsets_beyond_four_gigabytes, rlimit_fsize_sends_sigxfsz, fallocate_extends_or_keeps_the_size,
    fallocate_punches_holes, offsets_are_shared_by_dup_and_fork_but_not_by_open,
    written_data_outlives_unlink_while_open, fsync_family, reading_a_directory_is_eisdir,
    dev_null_zero_and_full, random_devices_differ_from_read_to_read, fionread_tells_what_is_left,
    a_big_file_round_trips,
);
