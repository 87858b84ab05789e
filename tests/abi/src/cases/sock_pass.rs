//! Messages with ancillary data over Unix-domain sockets: descriptors and credentials.

use crate::kit::prelude::*;

fn pair(kind: i32) -> Result<(i32, i32), E> {
    let mut sv = [0i32; 2];
    sc!(SYS_socketpair, AF_UNIX, kind, 0, &mut sv)?;
    Ok((sv[0], sv[1]))
}

/// A buffer to send from.
fn part(s: &[u8]) -> iovec {
    iovec { iov_base: s.as_ptr() as *mut c_void, iov_len: s.len() }
}

/// A buffer to receive into.
fn room(s: &mut [u8]) -> iovec {
    iovec { iov_base: s.as_mut_ptr().cast(), iov_len: s.len() }
}

/// One control message as the kernel lays it out.
fn control(kind: i32, words: &[i32]) -> Vec<u64> {
    let len = 16 + 4 * words.len();
    let mut all = vec![len as u64, SOL_SOCKET as u64 | (kind as u64) << 32];
    for two in words.chunks(2) {
        all.push(two[0] as u32 as u64 | (two.get(1).copied().unwrap_or(0) as u32 as u64) << 32);
    }
    all
}

fn sendmsg(fd: i32, data: &[u8], control: &[u64], control_len: usize) -> Result<i64, E> {
    let mut iov = iovec { iov_base: data.as_ptr() as *mut c_void, iov_len: data.len() };
    let mut m = zeroed::<msghdr>();
    m.msg_iov = &mut iov;
    m.msg_iovlen = 1;
    m.msg_control = control.as_ptr() as *mut c_void;
    m.msg_controllen = control_len;
    sc!(SYS_sendmsg, fd, &m, MSG_NOSIGNAL)
}

fn send_fds(fd: i32, data: &[u8], fds: &[i32]) -> Result<i64, E> {
    sendmsg(fd, data, &control(SCM_RIGHTS, fds), 16 + 4 * fds.len())
}

#[derive(Debug, Default)]
struct Message {
    data: Vec<u8>,
    fds: Vec<i32>,
    /// pid, uid, gid
    creds: Option<(i32, i32, i32)>,
    flags: i32,
}

fn recvmsg(fd: i32, max: usize, room: usize, flags: i32) -> Result<Message, E> {
    let mut data = vec![0u8; max];
    let mut space = [0u64; 200];
    let mut iov = iovec { iov_base: data.as_mut_ptr().cast(), iov_len: max };
    let mut m = zeroed::<msghdr>();
    m.msg_iov = &mut iov;
    m.msg_iovlen = 1;
    m.msg_control = space.as_mut_ptr().cast();
    m.msg_controllen = room;
    let n = sc!(SYS_recvmsg, fd, &mut m, flags)? as usize;
    data.truncate(n);
    let mut got = Message { data, flags: m.msg_flags, ..Message::default() };
    let mut i = 0;
    while 8 * i + 16 <= m.msg_controllen {
        let (len, kind) = (space[i] as usize, (space[i + 1] >> 32) as i32);
        let word = |n: usize| (space[i + 2 + n / 2] >> (32 * (n % 2))) as i32;
        match kind {
            SCM_RIGHTS => got.fds.extend((0..(len - 16) / 4).map(word)),
            SCM_CREDENTIALS => got.creds = Some((word(0), word(1), word(2))),
            _ => {}
        }
        i += len.div_ceil(8);
    }
    Ok(got)
}

fn pass_on(fd: i32) -> Result<(), E> {
    sc!(SYS_setsockopt, fd, SOL_SOCKET, SO_PASSCRED, &1i32, 4).map(drop)
}

fn iovecs_gather_and_scatter() -> R {
    let (a, b) = pair(SOCK_STREAM)?;
    let mut out = [part(b"one "), part(b""), part(b"two")];
    let mut m = zeroed::<msghdr>();
    m.msg_iov = out.as_mut_ptr();
    m.msg_iovlen = 3;
    eq!(sc!(SYS_sendmsg, a, &m, 0)?, 7);
    let (mut x, mut y) = ([0u8; 2], [b'.'; 9]);
    let mut into = [room(&mut x), room(&mut y)];
    m.msg_iov = into.as_mut_ptr();
    m.msg_iovlen = 2;
    eq!(sc!(SYS_recvmsg, b, &mut m, 0)?, 7);
    eq!((&x, &y[..5]), (b"on", &b"e two"[..]));
    Ok(())
}

fn a_descriptor_arrives_as_a_new_number_for_the_same_file() -> R {
    put(c"f", b"abcdef")?;
    let f = open(c"f", O_RDONLY, 0)?;
    let (a, b) = pair(SOCK_STREAM)?;
    send_fds(a, b"x", &[f])?;
    close(f)?;
    let m = recvmsg(b, 9, 64, 0)?;
    eq!((m.data.as_slice(), m.fds.len()), (&b"x"[..], 1));
    eq!(m.fds[0], f);
    eq!(drain(m.fds[0])?, b"abcdef");
    eq!(fcntl(m.fds[0], F_GETFD, 0)?, 0);
    Ok(())
}

fn cmsg_cloexec_marks_what_arrives() -> R {
    let (a, b) = pair(SOCK_STREAM)?;
    send_fds(a, b"x", &[0])?;
    let m = recvmsg(b, 9, 64, MSG_CMSG_CLOEXEC)?;
    eq!(fcntl(m.fds[0], F_GETFD, 0)?, FD_CLOEXEC);
    eq!(m.flags & MSG_CTRUNC, 0);
    Ok(())
}

fn several_descriptors_in_order() -> R {
    let (a, b) = pair(SOCK_DGRAM)?;
    let mut fds = Vec::new();
    for n in 0..10 {
        let path = cstring(format!("f{n}"));
        put(&path, &[n])?;
        fds.push(open(&path, O_RDONLY, 0)?);
    }
    send_fds(a, b"x", &fds)?;
    let m = recvmsg(b, 9, 200, 0)?;
    eq!(m.fds.len(), 10);
    for (n, fd) in m.fds.iter().enumerate() {
        eq!(read_some(*fd, 9)?, [n as u8]);
    }
    Ok(())
}

fn rights_do_not_cross_a_message_border() -> R {
    let (a, b) = pair(SOCK_STREAM)?;
    write(a, b"before")?;
    send_fds(a, b"with", &[0])?;
    write(a, b"after")?;
    // A read of a stream stops at a message that carries rights, before and after it.
    let m = recvmsg(b, 99, 64, 0)?;
    let first = m.data.len();
    that!(first == 6 || first == 10, "{m:?}");
    let m2 = if first == 6 { recvmsg(b, 99, 64, 0)? } else { m };
    eq!(m2.fds.len(), 1);
    Ok(())
}

fn plain_read_drops_the_rights() -> R {
    let (r, w) = pipe(0)?;
    let (a, b) = pair(SOCK_STREAM)?;
    send_fds(a, b"x", &[w])?;
    close(w)?;
    eq!(read_some(b, 9)?, b"x");
    // The passed write end was closed, so the pipe has ended.
    eq!(read_some(r, 9)?, b"");
    Ok(())
}

fn rights_in_flight_keep_the_file_open() -> R {
    let (r, w) = pipe(O_NONBLOCK)?;
    let (a, b) = pair(SOCK_STREAM)?;
    send_fds(a, b"x", &[w])?;
    close(w)?;
    errno_is!(read(r, &mut [0]), EAGAIN);
    close(a)?;
    errno_is!(read(r, &mut [0]), EAGAIN);
    // Closing the receiver drops what was queued.
    close(b)?;
    eq!(read_some(r, 9)?, b"");
    Ok(())
}

fn too_small_a_control_buffer_truncates() -> R {
    let (a, b) = pair(SOCK_STREAM)?;
    send_fds(a, b"x", &[0, 0, 0])?;
    let m = recvmsg(b, 9, 24, 0)?;
    eq!(m.flags & MSG_CTRUNC, MSG_CTRUNC);
    that!(m.fds.len() == 1 || m.fds.len() == 2, "{m:?}");
    send_fds(a, b"x", &[0])?;
    let m = recvmsg(b, 9, 0, 0)?;
    eq!((m.flags & MSG_CTRUNC, m.fds.len()), (MSG_CTRUNC, 0));
    Ok(())
}

fn peeking_shows_the_rights_twice() -> R {
    let (a, b) = pair(SOCK_STREAM)?;
    send_fds(a, b"x", &[0])?;
    let first = recvmsg(b, 9, 64, MSG_PEEK)?;
    let second = recvmsg(b, 9, 64, 0)?;
    eq!((first.fds.len(), second.fds.len()), (1, 1));
    that!(first.fds != second.fds);
    Ok(())
}

fn bad_rights_are_refused() -> R {
    let (a, _b) = pair(SOCK_STREAM)?;
    errno_is!(send_fds(a, b"x", &[9999]), EBADF);
    errno_is!(send_fds(a, b"x", &[0; 254]), EINVAL);
    send_fds(a, b"x", &[0; 253])?;
    errno_is!(sendmsg(a, b"x", &control(SCM_RIGHTS, &[0]), 17), EINVAL);
    errno_is!(sendmsg(a, b"x", &[8, SOL_SOCKET as u64 | (SCM_RIGHTS as u64) << 32], 16), EINVAL);
    errno_is!(sendmsg(a, b"x", &control(99, &[0]), 20), EINVAL);
    Ok(())
}

fn a_socket_can_be_sent_through_itself() -> R {
    let (a, b) = pair(SOCK_STREAM)?;
    send_fds(a, b"x", &[a, b])?;
    close(a)?;
    let m = recvmsg(b, 9, 64, 0)?;
    eq!(m.fds.len(), 2);
    write(m.fds[0], b"alive")?;
    eq!(read_some(m.fds[1], 9)?, b"alive");
    Ok(())
}

fn nested_passing_of_a_socket_that_holds_rights() -> R {
    put(c"f", b"deep")?;
    let f = open(c"f", O_RDONLY, 0)?;
    let (a, b) = pair(SOCK_STREAM)?;
    let (c, d) = pair(SOCK_STREAM)?;
    send_fds(c, b"inner", &[f])?;
    send_fds(a, b"outer", &[d])?;
    for fd in [f, c, d] {
        close(fd)?;
    }
    let outer = recvmsg(b, 9, 64, 0)?;
    let inner = recvmsg(outer.fds[0], 9, 64, 0)?;
    eq!(drain(inner.fds[0])?, b"deep");
    Ok(())
}

fn rights_between_processes() -> R {
    put(c"f", b"abc")?;
    let (a, b) = pair(SOCK_STREAM)?;
    let sender = child(|| {
        let f = open(c"f", O_RDONLY, 0)?;
        read_some(f, 1)?;
        send_fds(a, b"x", &[f])?;
        Ok(())
    })?;
    let m = recvmsg(b, 9, 64, 0)?;
    sender.ok()?;
    eq!(drain(m.fds[0])?, b"bc");
    Ok(())
}

fn credentials_are_told_when_asked_for() -> R {
    let (a, b) = pair(SOCK_STREAM)?;
    pass_on(b)?;
    let sender = child(|| {
        write(a, b"x")?;
        Ok(())
    })?;
    let m = recvmsg(b, 9, 64, 0)?;
    let (uid, gid) = (sc!(SYS_getuid)? as i32, sc!(SYS_getgid)? as i32);
    eq!(m.creds, Some((sender.pid, uid, gid)));
    sender.ok()
}

fn credentials_sent_must_be_ones_own() -> R {
    let (a, b) = pair(SOCK_STREAM)?;
    pass_on(b)?;
    let (uid, gid) = (sc!(SYS_getuid)? as i32, sc!(SYS_getgid)? as i32);
    sendmsg(a, b"x", &control(SCM_CREDENTIALS, &[getpid(), uid, gid]), 28)?;
    eq!(recvmsg(b, 9, 64, 0)?.creds, Some((getpid(), uid, gid)));
    let forged = sendmsg(a, b"x", &control(SCM_CREDENTIALS, &[1, uid, gid]), 28);
    if root() {
        eq!(forged?, 1);
        eq!(recvmsg(b, 9, 64, 0)?.creds, Some((1, uid, gid)));
    } else {
        errno_is!(forged, EPERM);
    }
    Ok(())
}

fn peercred_is_of_whoever_made_the_connection() -> R {
    let (a, _b) = pair(SOCK_STREAM)?;
    let mut cred = zeroed::<ucred>();
    let mut len = 12u32;
    sc!(SYS_getsockopt, a, SOL_SOCKET, SO_PEERCRED, &mut cred, &mut len)?;
    eq!((cred.pid, cred.uid as i64, cred.gid as i64), (getpid(), sc!(SYS_geteuid)?, sc!(SYS_getegid)?));
    let me = getpid();
    child(|| {
        let mut cred = zeroed::<ucred>();
        let mut len = 12u32;
        sc!(SYS_getsockopt, a, SOL_SOCKET, SO_PEERCRED, &mut cred, &mut len)?;
        eq!(cred.pid, me);
        Ok(())
    })?
    .ok()
}

fn sendmmsg_and_recvmmsg() -> R {
    let (a, b) = pair(SOCK_DGRAM)?;
    let mut iovs = [part(b"one"), part(b"three")];
    let mut msgs = [zeroed::<mmsghdr>(); 2];
    for (m, v) in msgs.iter_mut().zip(iovs.iter_mut()) {
        m.msg_hdr.msg_iov = v;
        m.msg_hdr.msg_iovlen = 1;
    }
    eq!(sc!(SYS_sendmmsg, a, &mut msgs, 2, 0)?, 2);
    eq!(msgs.map(|m| m.msg_len), [3, 5]);
    let mut space = [[0u8; 9]; 3];
    let mut iovs = space.each_mut().map(|s| room(s));
    let mut msgs = [zeroed::<mmsghdr>(); 3];
    for (m, v) in msgs.iter_mut().zip(iovs.iter_mut()) {
        m.msg_hdr.msg_iov = v;
        m.msg_hdr.msg_iovlen = 1;
    }
    eq!(sc!(SYS_recvmmsg, b, &mut msgs, 3, MSG_DONTWAIT, 0)?, 2);
    eq!((msgs[0].msg_len, msgs[1].msg_len), (3, 5));
    eq!((&space[0][..3], &space[1][..5]), (&b"one"[..], &b"three"[..]));
    Ok(())
}

cases!("message":
    iovecs_gather_and_scatter, a_descriptor_arrives_as_a_new_number_for_the_same_file,
    cmsg_cloexec_marks_what_arrives, several_descriptors_in_order, rights_do_not_cross_a_message_border,
    plain_read_drops_the_rights, rights_in_flight_keep_the_file_open, too_small_a_control_buffer_truncates,
    peeking_shows_the_rights_twice, bad_rights_are_refused, a_socket_can_be_sent_through_itself,
    nested_passing_of_a_socket_that_holds_rights, rights_between_processes,
    credentials_are_told_when_asked_for, credentials_sent_must_be_ones_own,
    peercred_is_of_whoever_made_the_connection, sendmmsg_and_recvmmsg,
);
