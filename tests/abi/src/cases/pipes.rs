//! Pipes and FIFOs.

use crate::kit::prelude::*;

fn bytes_arrive_in_order() -> R {
    let (r, w) = pipe(0)?;
    write(w, b"one")?;
    write(w, b"two")?;
    eq!(read_some(r, 4)?, b"onet");
    eq!(read_some(r, 100)?, b"wo");
    Ok(())
}

fn end_of_file_when_the_last_writer_is_gone() -> R {
    let (r, w) = pipe(0)?;
    let copy = sc!(SYS_dup, w)? as i32;
    write(w, b"x")?;
    close(w)?;
    fcntl(r, F_SETFL, O_NONBLOCK)?;
    eq!(read_some(r, 10)?, b"x");
    errno_is!(read(r, &mut [0]), EAGAIN);
    close(copy)?;
    eq!(read_some(r, 10)?, b"");
    Ok(())
}

fn writing_without_a_reader_is_epipe_and_sigpipe() -> R {
    let (r, w) = pipe(0)?;
    close(r)?;
    sig::record(SIGPIPE, 0)?;
    errno_is!(write(w, b"x"), EPIPE);
    let seen = sig::seen();
    eq!(seen.len(), 1);
    eq!((seen[0].sig, seen[0].tid), (SIGPIPE, gettid()));
    sig::dispose(SIGPIPE, SIG_IGN, 0)?;
    errno_is!(write(w, b"x"), EPIPE);
    Ok(())
}

fn sigpipe_kills_by_default() -> R {
    let (r, w) = pipe(0)?;
    close(r)?;
    let c = child(|| {
        sig::dispose(SIGPIPE, SIG_DFL, 0)?;
        write(w, b"x")?;
        Ok(())
    })?;
    eq!(c.wait()?, Status::Killed(SIGPIPE));
    Ok(())
}

fn pipe2_flags() -> R {
    let (r, w) = pipe(O_CLOEXEC | O_NONBLOCK)?;
    for fd in [r, w] {
        eq!(fcntl(fd, F_GETFD, 0)?, FD_CLOEXEC);
        eq!(fcntl(fd, F_GETFL, 0)? & O_NONBLOCK, O_NONBLOCK);
    }
    eq!(fcntl(r, F_GETFL, 0)? & O_ACCMODE, O_RDONLY);
    eq!(fcntl(w, F_GETFL, 0)? & O_ACCMODE, O_WRONLY);
    errno_is!(pipe(O_APPEND), EINVAL);
    errno_is!(sc!(SYS_pipe2, BAD, 0), EFAULT);
    errno_is!(read(w, &mut [0]), EBADF);
    errno_is!(write(r, b"x"), EBADF);
    Ok(())
}

fn a_failed_pipe_call_leaves_no_descriptors() -> R {
    let before = open(c"/dev/null", O_RDONLY, 0)?;
    close(before)?;
    errno_is!(sc!(SYS_pipe, BAD), EFAULT);
    eq!(open(c"/dev/null", O_RDONLY, 0)?, before);
    Ok(())
}

fn capacity_is_sixteen_pages_and_can_be_changed() -> R {
    let (r, w) = pipe(O_NONBLOCK)?;
    eq!(fcntl(r, F_GETPIPE_SZ, 0)?, 65536);
    eq!(write(w, &[1; 100_000])?, 65536);
    errno_is!(write(w, b"x"), EAGAIN);
    errno_is!(fcntl(w, F_SETPIPE_SZ, 4096), EBUSY);
    eq!(drain_now(r)?, 65536);
    eq!(fcntl(w, F_SETPIPE_SZ, 5000)?, 8192);
    eq!(write(w, &[1; 100_000])?, 8192);
    Ok(())
}

fn drain_now(r: i32) -> R<usize> {
    let mut n = 0;
    let mut buf = [0; 4096];
    loop {
        match read(r, &mut buf) {
            Ok(got) => n += got,
            Err(E(EAGAIN)) => return Ok(n),
            Err(e) => fail!("{e}"),
        }
    }
}

fn small_writes_are_atomic_when_nearly_full() -> R {
    let (r, w) = pipe(O_NONBLOCK)?;
    eq!(write(w, &[1; 65536 - 4096])?, 65536 - 4096);
    eq!(write(w, &[2; 4096])?, 4096);
    errno_is!(write(w, &[3; 4096]), EAGAIN);
    read_some(r, 100)?;
    // No room for all of it: nothing of PIPE_BUF or less is split.
    errno_is!(write(w, &[3; 4096]), EAGAIN);
    Ok(())
}

fn a_blocked_writer_goes_on_when_read() -> R {
    let (r, w) = pipe(0)?;
    let writer = child(|| {
        close(r)?;
        eq!(write(w, &[5; 200_000])?, 200_000);
        Ok(())
    })?;
    close(w)?;
    writer.asleep()?;
    let all = drain(r)?;
    eq!(all.len(), 200_000);
    that!(all.iter().all(|b| *b == 5));
    writer.ok()
}

fn a_blocked_reader_wakes_for_data_and_for_eof() -> R {
    let (r, w) = pipe(0)?;
    let reader = child(|| {
        close(w)?;
        eq!(read_some(r, 100)?, b"x");
        eq!(read_some(r, 100)?, b"");
        Ok(())
    })?;
    reader.asleep()?;
    write(w, b"x")?;
    reader.asleep()?;
    close(w)?;
    reader.ok()
}

fn a_blocked_writer_gets_epipe_when_the_reader_leaves() -> R {
    let (r, w) = pipe(0)?;
    let writer = child(|| {
        close(r)?;
        sig::dispose(SIGPIPE, SIG_IGN, 0)?;
        // What fitted is told; the next write fails.
        eq!(write(w, &[5; 100_000])?, 65536);
        errno_is!(write(w, b"x"), EPIPE);
        Ok(())
    })?;
    writer.asleep()?;
    close(r)?;
    writer.ok()
}

fn fionread_counts_bytes() -> R {
    let (r, w) = pipe(0)?;
    write(w, b"abc")?;
    write(w, b"de")?;
    let mut n = 0;
    ioctl(r, FIONREAD, &mut n)?;
    eq!(n, 5);
    Ok(())
}

fn poll_states_of_a_pipe() -> R {
    let (r, w) = pipe(0)?;
    let both = POLLIN | POLLOUT;
    eq!(poll1(r, both, 0)?, 0);
    eq!(poll1(w, both, 0)?, POLLOUT);
    write(w, b"x")?;
    eq!(poll1(r, both, 0)?, POLLIN);
    close(w)?;
    eq!(poll1(r, both, 0)?, POLLIN | POLLHUP);
    read_some(r, 1)?;
    eq!(poll1(r, both, 0)?, POLLHUP);
    let (r, w) = pipe(0)?;
    close(r)?;
    eq!(poll1(w, both, 0)?, POLLOUT | POLLERR);
    Ok(())
}

fn packet_mode_keeps_boundaries() -> R {
    let (r, w) = pipe(O_DIRECT)?;
    write(w, b"one")?;
    write(w, b"second")?;
    eq!(read_some(r, 100)?, b"one");
    // The rest of a packet that is read in part is lost.
    eq!(read_some(r, 3)?, b"sec");
    fcntl(r, F_SETFL, O_NONBLOCK)?;
    errno_is!(read(r, &mut [0; 9]), EAGAIN);
    Ok(())
}

fn fifo_open_waits_for_the_other_side() -> R {
    mkfifo(c"p")?;
    let reader = child(|| {
        let r = open(c"p", O_RDONLY, 0)?;
        eq!(drain(r)?, b"through");
        Ok(())
    })?;
    reader.asleep()?;
    let w = open(c"p", O_WRONLY, 0)?;
    write(w, b"through")?;
    close(w)?;
    reader.ok()
}

fn fifo_nonblocking_open() -> R {
    mkfifo(c"p")?;
    errno_is!(open(c"p", O_WRONLY | O_NONBLOCK, 0), ENXIO);
    let r = open(c"p", O_RDONLY | O_NONBLOCK, 0)?;
    // No writer yet: end of file, and nothing to poll.
    eq!(read_some(r, 1)?, b"");
    eq!(poll1(r, POLLIN, 0)?, 0);
    let w = open(c"p", O_WRONLY | O_NONBLOCK, 0)?;
    errno_is!(read(r, &mut [0]), EAGAIN);
    write(w, b"x")?;
    close(w)?;
    eq!(read_some(r, 9)?, b"x");
    eq!(read_some(r, 9)?, b"");
    eq!(poll1(r, POLLIN, 0)?, POLLHUP);
    Ok(())
}

fn fifo_opened_for_both_never_blocks_nor_ends() -> R {
    mkfifo(c"p")?;
    let b = open(c"p", O_RDWR, 0)?;
    write(b, b"x")?;
    eq!(read_some(b, 9)?, b"x");
    fcntl(b, F_SETFL, O_NONBLOCK)?;
    errno_is!(read(b, &mut [0]), EAGAIN);
    Ok(())
}

fn fifo_is_one_pipe_for_all_names() -> R {
    mkfifo(c"p")?;
    sc!(SYS_link, c"p", c"q")?;
    let r = open(c"p", O_RDONLY | O_NONBLOCK, 0)?;
    let w = open(c"q", O_WRONLY, 0)?;
    write(w, b"x")?;
    eq!(read_some(r, 9)?, b"x");
    eq!(fstat(r)?.st_mode & S_IFMT, S_IFIFO);
    eq!(stat(c"p")?.st_size, 0);
    Ok(())
}

fn many_writers_and_one_reader() -> R {
    let (r, w) = pipe(0)?;
    let mut writers = Vec::new();
    for n in 0..8u8 {
        writers.push(child(|| {
            close(r)?;
            for _ in 0..100 {
                eq!(write(w, &[n; 512])?, 512);
            }
            Ok(())
        })?);
    }
    close(w)?;
    let all = drain(r)?;
    eq!(all.len(), 8 * 100 * 512);
    that!(all.chunks(512).all(|c| c.iter().all(|b| *b == c[0])), "writes up to PIPE_BUF are not mixed");
    for w in writers {
        w.ok()?;
    }
    Ok(())
}

fn reopening_a_pipe_through_proc() -> R {
    let (r, w) = pipe(0)?;
    let w2 = open(&cstring(format!("/proc/self/fd/{r}")), O_WRONLY, 0)?;
    write(w2, b"x")?;
    eq!(read_some(r, 9)?, b"x");
    let link = std::fs::read_link(format!("/proc/self/fd/{w}"))?;
    eq!(link.to_string_lossy(), format!("pipe:[{}]", fstat(w)?.st_ino));
    Ok(())
}

cases!("pipe":
    bytes_arrive_in_order, end_of_file_when_the_last_writer_is_gone,
    writing_without_a_reader_is_epipe_and_sigpipe, sigpipe_kills_by_default, pipe2_flags,
    a_failed_pipe_call_leaves_no_descriptors, capacity_is_sixteen_pages_and_can_be_changed,
    small_writes_are_atomic_when_nearly_full, a_blocked_writer_goes_on_when_read,
    a_blocked_reader_wakes_for_data_and_for_eof, a_blocked_writer_gets_epipe_when_the_reader_leaves,
    fionread_counts_bytes, poll_states_of_a_pipe, packet_mode_keeps_boundaries,
    fifo_open_waits_for_the_other_side, fifo_nonblocking_open, fifo_opened_for_both_never_blocks_nor_ends,
    fifo_is_one_pipe_for_all_names, many_writers_and_one_reader, reopening_a_pipe_through_proc,
);
