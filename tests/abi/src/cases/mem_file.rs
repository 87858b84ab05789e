//! Mapped files and advice: shared and private file mappings, msync, mincore, madvise, mlock.

use crate::kit::prelude::*;

const PAGE: usize = 4096;
const RW: i32 = PROT_READ | PROT_WRITE;

fn file(data: &[u8]) -> R<i32> {
    put(c"f", data)?;
    Ok(open(c"f", O_RDWR, 0)?)
}

fn madvise(p: *mut u8, len: usize, advice: i32) -> Result<i64, E> {
    sc!(SYS_madvise, p, len, advice)
}

fn shared_writes_reach_the_file_and_other_mappings() -> R {
    let fd = file(&[1; 8192])?;
    let p = mmap(0, 8192, RW, MAP_SHARED, fd, 0)?;
    let q = mmap(0, 4096, RW, MAP_SHARED, fd, 4096)?;
    poke(at(p, 4096), 7);
    eq!(peek(q), 7);
    eq!(get(c"f")?[4096], 7);
    write(fd, b"A")?;
    eq!(peek(p), b'A');
    sc!(SYS_msync, p, 8192, MS_SYNC)?;
    Ok(())
}

fn private_writes_stay_private() -> R {
    let fd = file(&[1; 8192])?;
    let p = mmap(0, 8192, RW, MAP_PRIVATE, fd, 0)?;
    poke(p, 9);
    eq!((peek(p), get(c"f")?[0]), (9, 1));
    // An untouched page shows what the file has now.
    sc!(SYS_pwrite64, fd, &5u8, 1, 4096)?;
    eq!(peek(at(p, 4096)), 5);
    Ok(())
}

fn shared_between_processes_through_the_file() -> R {
    let fd = file(&[0; 4096])?;
    let p = mmap(0, 4096, RW, MAP_SHARED, fd, 0)?;
    child(|| {
        let fd = open(c"f", O_RDWR, 0)?;
        let q = mmap(0, 4096, RW, MAP_SHARED, fd, 0)?;
        poke(at(q, 100), 3);
        Ok(())
    })?
    .ok()?;
    eq!(peek(at(p, 100)), 3);
    Ok(())
}

fn the_mapping_outlives_descriptor_and_name() -> R {
    let fd = file(b"hello")?;
    let p = mmap(0, 4096, RW, MAP_SHARED, fd, 0)?;
    close(fd)?;
    unlink(c"f")?;
    eq!(peek(at(p, 4)), b'o');
    poke(p, b'H');
    eq!(peek(p), b'H');
    Ok(())
}

fn the_rest_of_the_last_page_is_zero() -> R {
    let fd = file(b"abc")?;
    let p = mmap(0, 4096, RW, MAP_SHARED, fd, 0)?;
    eq!((peek(at(p, 2)), peek(at(p, 3)), peek(at(p, 4095))), (b'c', 0, 0));
    // Writes behind the end do not grow the file.
    poke(at(p, 10), 1);
    eq!(get(c"f")?, b"abc");
    Ok(())
}

fn growing_the_file_makes_pages_valid() -> R {
    let fd = file(b"abc")?;
    let p = mmap(0, 8192, RW, MAP_SHARED, fd, 0)?;
    sc!(SYS_ftruncate, fd, 8192)?;
    poke(at(p, 5000), 4);
    eq!(get(c"f")?[5000], 4);
    Ok(())
}

fn access_modes_limit_mappings() -> R {
    put(c"f", b"abc")?;
    let r = open(c"f", O_RDONLY, 0)?;
    errno_is!(mmap(0, 4096, RW, MAP_SHARED, r, 0), EACCES);
    mmap(0, 4096, RW, MAP_PRIVATE, r, 0)?;
    let p = mmap(0, 4096, PROT_READ, MAP_SHARED, r, 0)?;
    errno_is!(sc!(SYS_mprotect, p, 4096, RW), EACCES);
    let w = open(c"f", O_WRONLY, 0)?;
    errno_is!(mmap(0, 4096, PROT_READ, MAP_SHARED, w, 0), EACCES);
    let d = open(c".", O_RDONLY, 0)?;
    errno_is!(mmap(0, 4096, PROT_READ, MAP_PRIVATE, d, 0), ENODEV);
    let (pr, _) = pipe(0)?;
    errno_is!(mmap(0, 4096, PROT_READ, MAP_PRIVATE, pr, 0), ENODEV | EACCES);
    errno_is!(mmap(0, 4096, PROT_READ, MAP_PRIVATE, open(c"f", O_PATH, 0)?, 0), EBADF);
    Ok(())
}

fn offsets_are_pages() -> R {
    let data: Vec<u8> = (0..5u8).flat_map(|n| [n; PAGE]).collect();
    let fd = file(&data)?;
    let p = mmap(0, 2 * PAGE, PROT_READ, MAP_PRIVATE, fd, 3 * PAGE as i64)?;
    eq!((peek(p), peek(at(p, PAGE))), (3, 4));
    errno_is!(mmap(0, PAGE, PROT_READ, MAP_PRIVATE, fd, 100), EINVAL);
    Ok(())
}

fn maps_shows_the_file() -> R {
    let fd = file(&[0; 3 * PAGE])?;
    let p = mmap(0, 2 * PAGE, PROT_READ, MAP_SHARED, fd, PAGE as i64)?;
    let st = fstat(fd)?;
    let here = std::env::current_dir()?;
    let maps = text(c"/proc/self/maps")?;
    let start = format!("{:x}-{:x} r--s 00001000 ", p as usize, p as usize + 2 * PAGE);
    let Some(line) = maps.lines().find(|l| l.starts_with(&start)) else { fail!("{start} not in {maps}") };
    that!(line.contains(&format!(" {} ", st.st_ino)), "{line}");
    that!(line.ends_with(&format!("{}/f", here.display())), "{line}");
    unlink(c"f")?;
    that!(text(c"/proc/self/maps")?.contains("/f (deleted)"));
    Ok(())
}

fn private_file_pages_are_copied_at_fork() -> R {
    let fd = file(&[1; 4096])?;
    let p = mmap(0, 4096, RW, MAP_PRIVATE, fd, 0)?;
    poke(p, 2);
    child(|| {
        eq!(peek(p), 2);
        poke(p, 3);
        Ok(())
    })?
    .ok()?;
    eq!(peek(p), 2);
    Ok(())
}

fn truncation_takes_pages_away() -> R {
    let fd = file(&[1; 8192])?;
    let p = mmap(0, 8192, RW, MAP_SHARED, fd, 0)?;
    eq!(peek(at(p, 4096)), 1);
    sc!(SYS_ftruncate, fd, 100)?;
    eq!((peek(p), peek(at(p, 100))), (1, 0));
    let c = child(|| {
        peek(at(p, 4096));
        Ok(())
    })?;
    eq!(c.wait()?, Status::Killed(SIGBUS));
    Ok(())
}

fn reading_into_a_mapping_of_the_same_file() -> R {
    let fd = file(&[7; 8192])?;
    let p = mmap(0, 8192, RW, MAP_SHARED, fd, 0)?;
    poke(p, 1);
    eq!(sc!(SYS_pread64, fd, at(p, 4096), 4096, 0)?, 4096);
    eq!(peek(at(p, 4096)), 1);
    Ok(())
}

fn msync_and_errors() -> R {
    let fd = file(&[1; 4096])?;
    let p = mmap(0, 4096, RW, MAP_SHARED, fd, 0)?;
    sc!(SYS_msync, p, 4096, MS_ASYNC)?;
    errno_is!(sc!(SYS_msync, at(p, 1), 4096, MS_SYNC), EINVAL);
    errno_is!(sc!(SYS_msync, p, 4096, MS_SYNC | MS_ASYNC), EINVAL);
    errno_is!(sc!(SYS_msync, p, 4096, 0x100), EINVAL);
    munmap(p, 4096)?;
    errno_is!(sc!(SYS_msync, p, 4096, MS_SYNC), ENOMEM);
    Ok(())
}

fn dontneed_zeroes_anonymous_memory() -> R {
    let p = rw(3 * PAGE)?;
    for i in 0..3 {
        poke(at(p, i * PAGE), 5);
    }
    madvise(at(p, PAGE), PAGE, MADV_DONTNEED)?;
    eq!((peek(p), peek(at(p, PAGE)), peek(at(p, 2 * PAGE))), (5, 0, 5));
    poke(at(p, PAGE), 6);
    eq!(peek(at(p, PAGE)), 6);
    Ok(())
}

fn dontneed_of_a_private_file_shows_the_file_again() -> R {
    let fd = file(&[1; 4096])?;
    let p = mmap(0, 4096, RW, MAP_PRIVATE, fd, 0)?;
    poke(p, 9);
    madvise(p, 4096, MADV_DONTNEED)?;
    eq!(peek(p), 1);
    // Of shared memory it drops the mapping only.
    let q = shared(4096)?;
    poke(q, 3);
    madvise(q, 4096, MADV_DONTNEED)?;
    eq!(peek(q), 3);
    Ok(())
}

fn free_keeps_or_zeroes_and_a_write_keeps() -> R {
    let p = rw(2 * PAGE)?;
    poke(p, 5);
    poke(at(p, PAGE), 5);
    madvise(p, 2 * PAGE, MADV_FREE)?;
    that!([0, 5].contains(&peek(p)));
    poke(at(p, PAGE), 6);
    eq!(peek(at(p, PAGE)), 6);
    Ok(())
}

fn dontfork_and_dofork() -> R {
    let p = rw(2 * PAGE)?;
    poke(p, 1);
    poke(at(p, PAGE), 2);
    madvise(p, PAGE, MADV_DONTFORK)?;
    child(|| {
        eq!(peek(at(p, PAGE)), 2);
        let (_r, w) = pipe(0)?;
        errno_is!(sc!(SYS_write, w, p, 1), EFAULT);
        Ok(())
    })?
    .ok()?;
    madvise(p, PAGE, MADV_DOFORK)?;
    child(|| {
        eq!(peek(p), 1);
        Ok(())
    })?
    .ok()
}

fn wipeonfork() -> R {
    let p = rw(PAGE)?;
    poke(p, 1);
    madvise(p, PAGE, MADV_WIPEONFORK)?;
    child(|| {
        eq!(peek(p), 0);
        Ok(())
    })?
    .ok()?;
    eq!(peek(p), 1);
    madvise(p, PAGE, MADV_KEEPONFORK)?;
    child(|| {
        eq!(peek(p), 1);
        Ok(())
    })?
    .ok()?;
    errno_is!(madvise(shared(PAGE)?, PAGE, MADV_WIPEONFORK), EINVAL);
    Ok(())
}

fn harmless_advice_and_errors() -> R {
    let p = rw(2 * PAGE)?;
    for advice in [MADV_NORMAL, MADV_RANDOM, MADV_SEQUENTIAL, MADV_WILLNEED, MADV_DONTDUMP, MADV_DODUMP] {
        madvise(p, PAGE, advice)?;
    }
    errno_is!(madvise(p, PAGE, 9999), EINVAL);
    errno_is!(madvise(at(p, 1), PAGE, MADV_NORMAL), EINVAL);
    munmap(at(p, PAGE), PAGE)?;
    errno_is!(madvise(p, 2 * PAGE, MADV_DONTNEED), ENOMEM);
    Ok(())
}

fn populate_advice() -> R {
    let p = rw(4 * PAGE)?;
    match madvise(p, 4 * PAGE, MADV_POPULATE_WRITE) {
        Err(E(EINVAL)) => skip!("no MADV_POPULATE_WRITE"),
        got => eq!(got?, 0),
    }
    let mut vec = [0u8; 4];
    sc!(SYS_mincore, p, 4 * PAGE, &mut vec)?;
    eq!(vec.map(|v| v & 1), [1; 4]);
    Ok(())
}

fn mincore_tells_what_is_there() -> R {
    let p = rw(4 * PAGE)?;
    poke(at(p, PAGE), 1);
    let mut vec = [9u8; 4];
    sc!(SYS_mincore, p, 4 * PAGE, &mut vec)?;
    eq!(vec[1] & 1, 1);
    errno_is!(sc!(SYS_mincore, at(p, 1), PAGE, &mut vec), EINVAL);
    errno_is!(sc!(SYS_mincore, p, PAGE, BAD), EFAULT);
    munmap(at(p, 2 * PAGE), PAGE)?;
    errno_is!(sc!(SYS_mincore, p, 4 * PAGE, &mut vec), ENOMEM);
    Ok(())
}

fn mlock_and_its_limit() -> R {
    let p = rw(4 * PAGE)?;
    sc!(SYS_mlock, p, PAGE)?;
    sc!(SYS_munlock, p, PAGE)?;
    sc!(SYS_mlock2, p, PAGE, MLOCK_ONFAULT)?;
    errno_is!(sc!(SYS_mlock2, p, PAGE, 0x10), EINVAL);
    // Parts of what is locked already.
    sc!(SYS_mlock, p, 4 * PAGE)?;
    sc!(SYS_mlock, at(p, PAGE), PAGE)?;
    sc!(SYS_mlock2, p, PAGE, MLOCK_ONFAULT)?;
    sc!(SYS_munlockall)?;
    errno_is!(sc!(SYS_mlockall, 0), EINVAL);
    munmap(at(p, 2 * PAGE), PAGE)?;
    errno_is!(sc!(SYS_mlock, p, 4 * PAGE), ENOMEM);
    if root() {
        sc!(SYS_setresuid, 4321, 4321, 4321)?;
    }
    sc!(SYS_prlimit64, 0, RLIMIT_MEMLOCK, &rlimit { rlim_cur: PAGE as u64, rlim_max: PAGE as u64 }, 0)?;
    errno_is!(sc!(SYS_mlock, rw(8 * PAGE)?, 8 * PAGE), ENOMEM | EAGAIN);
    Ok(())
}

fn pages_that_faults_make_count_as_the_file_systems() -> R {
    sc!(SYS_mkdir, c"small", 0o755)?;
    if sc!(SYS_mount, c"none", c"small", c"tmpfs", 0, c"size=64k") == Err(E(EPERM)) {
        skip!("needs the right to mount");
    }
    let free = || -> R<u64> {
        let mut s = zeroed::<statfs>();
        sc!(SYS_statfs, c"small", &mut s)?;
        Ok(s.f_bfree)
    };
    let all = free()?;
    eq!(all, 16);
    let fd = open(c"small/f", O_RDWR | O_CREAT, 0o644)?;
    sc!(SYS_ftruncate, fd, 1 << 20)?;
    let p = mmap(0, 1 << 20, RW, MAP_SHARED, fd, 0)?;
    eq!(free()?, all);
    for page in 0..10 {
        poke(at(p, page * PAGE), 1);
    }
    eq!(free()?, all - 10);
    // Nothing is left for the seventeenth.
    let c = child(|| {
        (10..17).for_each(|page| poke(at(p, page * PAGE), 1));
        Ok(())
    })?;
    eq!(c.wait()?, Status::Killed(SIGBUS));
    eq!(free()?, 0);
    errno_is!(sc!(SYS_pwrite64, fd, c"x", 1, 900 << 10), ENOSPC);
    errno_is!(sc!(SYS_fallocate, fd, 0, 0, 80 << 10), ENOSPC);
    sc!(SYS_ftruncate, fd, 3 * PAGE)?;
    eq!(free()?, all - 3);
    sc!(SYS_fallocate, fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, PAGE)?;
    eq!(free()?, all - 2);
    sc!(SYS_fallocate, fd, 0, 0, 16 * PAGE)?;
    eq!(free()?, 0);
    // A file without a name lives as long as it is mapped.
    sc!(SYS_unlink, c"small/f")?;
    close(fd)?;
    eq!(free()?, 0);
    munmap(p, 1 << 20)?;
    eq!(free()?, all);
    sc!(SYS_umount2, c"small", 0)?;
    Ok(())
}

fn a_memfd_in_two_processes() -> R {
    let fd = sc!(SYS_memfd_create, c"m", 0)? as i32;
    sc!(SYS_ftruncate, fd, 1 << 20)?;
    let p = mmap(0, 1 << 20, RW, MAP_SHARED, fd, 0)?;
    poke(at(p, 999_999), 8);
    child(|| {
        let q = mmap(0, 1 << 20, PROT_READ, MAP_SHARED, fd, 0)?;
        eq!(peek(at(q, 999_999)), 8);
        let mut one = [0u8];
        eq!(sc!(SYS_pread64, fd, &mut one, 1, 999_999)?, 1);
        eq!(one, [8]);
        Ok(())
    })?
    .ok()
}

fn shm_files_are_shared_memory() -> R {
    let name = cstring(format!("/dev/shm/vkabi-{}", getpid()));
    let fd = open(&name, O_CREAT | O_EXCL | O_RDWR, 0o600)?;
    unlink(&name)?;
    sc!(SYS_ftruncate, fd, 4096)?;
    let p = mmap(0, 4096, RW, MAP_SHARED, fd, 0)?;
    child(|| {
        poke(p, 6);
        Ok(())
    })?
    .ok()?;
    eq!(peek(p), 6);
    Ok(())
}

fn process_vm_readv_and_writev() -> R {
    let p = rw(PAGE)?;
    poke(p, 1);
    let c = child(|| {
        poke(p, 77);
        sig::block(&[SIGUSR1])?;
        kill(getpid(), SIGSTOP)?;
        eq!(peek(at(p, 1)), 55);
        Ok(())
    })?;
    wait4(c.pid, WUNTRACED)?;
    let mut got = [0u8; 1];
    let local = iovec { iov_base: got.as_mut_ptr().cast(), iov_len: 1 };
    let remote = iovec { iov_base: p.cast(), iov_len: 1 };
    eq!(sc!(SYS_process_vm_readv, c.pid, &local, 1, &remote, 1, 0)?, 1);
    eq!(got, [77]);
    let value = [55u8];
    let local = iovec { iov_base: value.as_ptr() as *mut c_void, iov_len: 1 };
    let remote = iovec { iov_base: at(p, 1).cast(), iov_len: 1 };
    eq!(sc!(SYS_process_vm_writev, c.pid, &local, 1, &remote, 1, 0)?, 1);
    let bad = iovec { iov_base: BAD as *mut c_void, iov_len: 1 };
    errno_is!(sc!(SYS_process_vm_readv, c.pid, &local, 1, &bad, 1, 0), EFAULT);
    errno_is!(sc!(SYS_process_vm_readv, 999_999, &local, 1, &bad, 1, 0), ESRCH);
    c.kill(SIGCONT)?;
    c.ok()
}

cases!("mapping":
    shared_writes_reach_the_file_and_other_mappings, private_writes_stay_private,
    shared_between_processes_through_the_file, the_mapping_outlives_descriptor_and_name,
    the_rest_of_the_last_page_is_zero, growing_the_file_makes_pages_valid, access_modes_limit_mappings,
    offsets_are_pages, maps_shows_the_file, private_file_pages_are_copied_at_fork,
    truncation_takes_pages_away, reading_into_a_mapping_of_the_same_file, msync_and_errors,
    dontneed_zeroes_anonymous_memory, dontneed_of_a_private_file_shows_the_file_again,
    free_keeps_or_zeroes_and_a_write_keeps, dontfork_and_dofork, wipeonfork, harmless_advice_and_errors,
    populate_advice, mincore_tells_what_is_there, mlock_and_its_limit, pages_that_faults_make_count_as_the_file_systems,
    a_memfd_in_two_processes,
    shm_files_are_shared_memory, process_vm_readv_and_writev,
);
