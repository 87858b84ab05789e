//! Moving data inside the kernel: sendfile, copy_file_range, splice, tee, vmsplice; memfd and seals.

use crate::kit::prelude::*;

fn memfd(flags: u32) -> Result<i32, E> {
    sc!(SYS_memfd_create, c"test", flags).map(|fd| fd as i32)
}

fn sendfile_to_a_file_and_a_pipe() -> R {
    put(c"a", b"hello world")?;
    let src = open(c"a", O_RDONLY, 0)?;
    let dst = open(c"b", O_CREAT | O_RDWR, 0o644)?;
    eq!(sc!(SYS_sendfile, dst, src, 0, 5)?, 5);
    eq!(get(c"b")?, b"hello");
    let mut off = 6i64;
    let (r, w) = pipe(0)?;
    eq!(sc!(SYS_sendfile, w, src, &mut off, 100)?, 5);
    eq!(off, 11);
    eq!(read_some(r, 100)?, b"world");
    // With an offset given, the position stays.
    eq!(lseek(src, 0, SEEK_CUR)?, 5);
    eq!(sc!(SYS_sendfile, w, src, &mut off, 100)?, 0);
    Ok(())
}

fn sendfile_errors() -> R {
    put(c"a", b"x")?;
    let src = open(c"a", O_RDONLY, 0)?;
    errno_is!(sc!(SYS_sendfile, src, src, 0, 5), EBADF);
    errno_is!(sc!(SYS_sendfile, 1, 9999, 0, 5), EBADF);
    let dst = open(c"b", O_CREAT | O_WRONLY | O_APPEND, 0o644)?;
    errno_is!(sc!(SYS_sendfile, dst, src, 0, 5), EINVAL);
    let mut off = -1i64;
    let d2 = open(c"c", O_CREAT | O_WRONLY, 0o644)?;
    errno_is!(sc!(SYS_sendfile, d2, src, &mut off, 5), EINVAL);
    Ok(())
}

fn copy_file_range_copies_with_offsets() -> R {
    put(c"a", b"0123456789")?;
    put(c"b", b"..........")?;
    let (a, b) = (open(c"a", O_RDONLY, 0)?, open(c"b", O_RDWR, 0)?);
    let (mut i, mut o) = (2i64, 4i64);
    eq!(sc!(SYS_copy_file_range, a, &mut i, b, &mut o, 3, 0)?, 3);
    eq!((i, o), (5, 7));
    eq!(get(c"b")?, b"....234...");
    eq!(sc!(SYS_copy_file_range, a, 0, b, 0, 100, 0)?, 10);
    eq!(lseek(a, 0, SEEK_CUR)?, 10);
    eq!(sc!(SYS_copy_file_range, a, 0, b, 0, 100, 0)?, 0);
    Ok(())
}

fn copy_file_range_errors() -> R {
    put(c"a", b"0123456789")?;
    let a = open(c"a", O_RDWR, 0)?;
    let (mut i, mut o) = (0i64, 5i64);
    errno_is!(sc!(SYS_copy_file_range, a, &mut i, a, &mut o, 6, 0), EINVAL);
    eq!(sc!(SYS_copy_file_range, a, &mut i, a, &mut o, 5, 0)?, 5);
    errno_is!(sc!(SYS_copy_file_range, a, 0, a, 0, 1, 1), EINVAL);
    let d = open(c".", O_RDONLY, 0)?;
    errno_is!(sc!(SYS_copy_file_range, d, 0, a, 0, 1, 0), EISDIR);
    let app = open(c"a", O_WRONLY | O_APPEND, 0)?;
    let r = open(c"a", O_RDONLY, 0)?;
    errno_is!(sc!(SYS_copy_file_range, r, 0, app, 0, 1, 0), EBADF);
    let (p, _w) = pipe(0)?;
    errno_is!(sc!(SYS_copy_file_range, p, 0, a, 0, 1, 0), EINVAL);
    Ok(())
}

fn splice_moves_between_pipe_and_file() -> R {
    put(c"a", b"hello world")?;
    let a = open(c"a", O_RDONLY, 0)?;
    let (r, w) = pipe(0)?;
    let mut off = 6i64;
    eq!(sc!(SYS_splice, a, &mut off, w, 0, 100, 0)?, 5);
    eq!(off, 11);
    let b = open(c"b", O_CREAT | O_RDWR, 0o644)?;
    eq!(sc!(SYS_splice, r, 0, b, 0, 3, 0)?, 3);
    eq!(get(c"b")?, b"wor");
    eq!(read_some(r, 10)?, b"ld");
    Ok(())
}

fn splice_between_pipes_and_nonblock() -> R {
    let (r1, w1) = pipe(0)?;
    let (r2, w2) = pipe(0)?;
    write(w1, b"abc")?;
    eq!(sc!(SYS_splice, r1, 0, w2, 0, 100, 0)?, 3);
    eq!(read_some(r2, 10)?, b"abc");
    errno_is!(sc!(SYS_splice, r1, 0, w2, 0, 100, SPLICE_F_NONBLOCK), EAGAIN);
    close(w1)?;
    eq!(sc!(SYS_splice, r1, 0, w2, 0, 100, 0)?, 0);
    Ok(())
}

fn splice_errors() -> R {
    put(c"a", b"x")?;
    let a = open(c"a", O_RDWR, 0)?;
    let (r, w) = pipe(0)?;
    errno_is!(sc!(SYS_splice, a, 0, a, 0, 1, 0), EINVAL);
    errno_is!(sc!(SYS_splice, r, &mut 0i64, a, 0, 1, 0), ESPIPE);
    errno_is!(sc!(SYS_splice, 9999, 0, w, 0, 1, 0), EBADF);
    errno_is!(sc!(SYS_splice, w, 0, r, 0, 1, 0), EBADF);
    errno_is!(sc!(SYS_splice, a, 0, w, 0, 1, 0x100), EINVAL);
    Ok(())
}

fn tee_copies_without_consuming() -> R {
    let (r1, w1) = pipe(0)?;
    let (r2, w2) = pipe(0)?;
    write(w1, b"abcd")?;
    eq!(sc!(SYS_tee, r1, w2, 3, 0)?, 3);
    eq!(read_some(r2, 10)?, b"abc");
    eq!(read_some(r1, 10)?, b"abcd");
    errno_is!(sc!(SYS_tee, r1, w1, 3, 0), EINVAL);
    errno_is!(sc!(SYS_tee, r1, w2, 3, SPLICE_F_NONBLOCK), EAGAIN);
    Ok(())
}

fn vmsplice_puts_memory_into_a_pipe() -> R {
    let (r, w) = pipe(0)?;
    let v = iovec { iov_base: b"memory".as_ptr() as *mut c_void, iov_len: 6 };
    eq!(sc!(SYS_vmsplice, w, &v, 1, 0)?, 6);
    eq!(read_some(r, 10)?, b"memory");
    Ok(())
}

fn memfd_is_a_nameless_file() -> R {
    let fd = memfd(MFD_CLOEXEC)?;
    eq!(fcntl(fd, F_GETFD, 0)?, FD_CLOEXEC);
    eq!(fcntl(fd, F_GETFL, 0)? & O_ACCMODE, O_RDWR);
    write(fd, b"abc")?;
    eq!((fstat(fd)?.st_size, fstat(fd)?.st_nlink), (3, 0));
    eq!(fstat(fd)?.st_mode, S_IFREG | 0o777);
    let link = std::fs::read_link(format!("/proc/self/fd/{fd}"))?;
    eq!(link.to_string_lossy(), "/memfd:test (deleted)");
    Ok(())
}

fn memfd_errors() -> R {
    errno_is!(memfd(0x8000), EINVAL);
    errno_is!(sc!(SYS_memfd_create, cstring("n".repeat(250)).as_c_str(), 0), EINVAL);
    errno_is!(sc!(SYS_memfd_create, BAD, 0), EFAULT);
    sc!(SYS_memfd_create, cstring("n".repeat(249)).as_c_str(), 0)?;
    Ok(())
}

fn memfd_without_sealing_refuses_seals() -> R {
    let fd = memfd(0)?;
    eq!(fcntl(fd, F_GET_SEALS, 0)?, F_SEAL_SEAL);
    errno_is!(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE), EPERM);
    put(c"f", b"")?;
    let f = open(c"f", O_RDWR, 0)?;
    errno_is!(fcntl(f, F_GET_SEALS, 0), EINVAL);
    Ok(())
}

fn size_seals() -> R {
    let fd = memfd(MFD_ALLOW_SEALING)?;
    eq!(fcntl(fd, F_GET_SEALS, 0)?, 0);
    sc!(SYS_ftruncate, fd, 4096)?;
    fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK)?;
    errno_is!(sc!(SYS_ftruncate, fd, 100), EPERM);
    sc!(SYS_ftruncate, fd, 8192)?;
    fcntl(fd, F_ADD_SEALS, F_SEAL_GROW)?;
    errno_is!(sc!(SYS_ftruncate, fd, 10_000), EPERM);
    errno_is!(sc!(SYS_pwrite64, fd, c"x", 1, 8192), EPERM);
    eq!(sc!(SYS_pwrite64, fd, c"x", 1, 0)?, 1);
    eq!(fcntl(fd, F_GET_SEALS, 0)?, F_SEAL_SHRINK | F_SEAL_GROW);
    Ok(())
}

fn write_seal_wants_no_writable_mapping() -> R {
    let fd = memfd(MFD_ALLOW_SEALING)?;
    sc!(SYS_ftruncate, fd, 4096)?;
    let p = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0)?;
    errno_is!(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE), EBUSY);
    munmap(p, 4096)?;
    fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE)?;
    errno_is!(write(fd, b"x"), EPERM);
    errno_is!(mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0), EPERM);
    mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0)?;
    Ok(())
}

fn future_write_seal_keeps_present_mappings() -> R {
    let fd = memfd(MFD_ALLOW_SEALING)?;
    sc!(SYS_ftruncate, fd, 4096)?;
    let p = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0)?;
    fcntl(fd, F_ADD_SEALS, F_SEAL_FUTURE_WRITE)?;
    poke(p, 7);
    errno_is!(write(fd, b"x"), EPERM);
    errno_is!(mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0), EPERM);
    eq!(sc!(SYS_pread64, fd, &mut [0u8; 1], 1, 0)?, 1);
    Ok(())
}

fn seal_seal_ends_sealing() -> R {
    let fd = memfd(MFD_ALLOW_SEALING)?;
    fcntl(fd, F_ADD_SEALS, F_SEAL_SEAL)?;
    errno_is!(fcntl(fd, F_ADD_SEALS, F_SEAL_GROW), EPERM);
    errno_is!(fcntl(fd, F_ADD_SEALS, 0x100), EPERM | EINVAL);
    Ok(())
}

fn pipe_to_file_and_back_large() -> R {
    let data: Vec<u8> = (0..300_000u32).map(|i| ((i * 7) >> 3) as u8).collect();
    put(c"a", &data)?;
    let a = open(c"a", O_RDONLY, 0)?;
    let (r, w) = pipe(0)?;
    let reader = child(|| {
        close(w)?;
        that!(drain(r)? == data);
        Ok(())
    })?;
    close(r)?;
    let mut left = data.len() as i64;
    while left > 0 {
        left -= sc!(SYS_splice, a, 0, w, 0, left, 0)?;
    }
    close(w)?;
    reader.ok()
}

cases!("transfer":
    sendfile_to_a_file_and_a_pipe, sendfile_errors, copy_file_range_copies_with_offsets,
    copy_file_range_errors, splice_moves_between_pipe_and_file, splice_between_pipes_and_nonblock,
    splice_errors, tee_copies_without_consuming, vmsplice_puts_memory_into_a_pipe, memfd_is_a_nameless_file,
    memfd_errors, memfd_without_sealing_refuses_seals, size_seals, write_seal_wants_no_writable_mapping,
    future_write_seal_keeps_present_mappings, seal_seal_ends_sealing, pipe_to_file_and_back_large,
);
