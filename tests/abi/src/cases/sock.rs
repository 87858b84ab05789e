//! Unix-domain sockets: the three types, addresses, connecting, shutting down.

use crate::kit::prelude::*;

fn socket(kind: i32) -> Result<i32, E> {
    sc!(SYS_socket, AF_UNIX, kind, 0).map(|fd| fd as i32)
}

fn pair(kind: i32) -> Result<(i32, i32), E> {
    let mut sv = [0i32; 2];
    sc!(SYS_socketpair, AF_UNIX, kind, 0, &mut sv)?;
    Ok((sv[0], sv[1]))
}

/// An address and its length; a name that starts with `@` is abstract.
fn addr(name: &str) -> (sockaddr_un, usize) {
    let mut a = zeroed::<sockaddr_un>();
    a.sun_family = AF_UNIX as u16;
    for (to, from) in a.sun_path.iter_mut().zip(name.bytes()) {
        *to = from as i8;
    }
    if name.starts_with('@') {
        a.sun_path[0] = 0;
        return (a, 2 + name.len());
    }
    (a, 2 + name.len() + 1)
}

fn bind(fd: i32, name: &str) -> Result<i64, E> {
    let (a, len) = addr(name);
    sc!(SYS_bind, fd, &a, len)
}

fn connect(fd: i32, name: &str) -> Result<i64, E> {
    let (a, len) = addr(name);
    sc!(SYS_connect, fd, &a, len)
}

fn listener(kind: i32, name: &str, backlog: i32) -> Result<i32, E> {
    let fd = socket(kind)?;
    bind(fd, name)?;
    sc!(SYS_listen, fd, backlog)?;
    Ok(fd)
}

fn accept(fd: i32) -> Result<i32, E> {
    sc!(SYS_accept4, fd, 0, 0, 0).map(|fd| fd as i32)
}

/// The name of our own (0) or the other (1) end, as bytes after the family.
fn name(fd: i32, peer: bool) -> Result<Vec<u8>, E> {
    let mut a = zeroed::<sockaddr_un>();
    let mut len = size_of::<sockaddr_un>() as u32;
    if peer {
        sc!(SYS_getpeername, fd, &mut a, &mut len)?;
    } else {
        sc!(SYS_getsockname, fd, &mut a, &mut len)?;
    }
    Ok(a.sun_path.iter().take(len as usize - 2).map(|c| *c as u8).collect())
}

fn send(fd: i32, data: &[u8], flags: i32) -> Result<i64, E> {
    sc!(SYS_sendto, fd, data, data.len(), flags, 0, 0)
}

fn recv(fd: i32, max: usize, flags: i32) -> Result<Vec<u8>, E> {
    let mut buf = vec![0; max];
    let n = sc!(SYS_recvfrom, fd, &mut buf[..], max, flags, 0, 0)? as usize;
    buf.truncate(n.min(max));
    Ok(buf)
}

fn opt(fd: i32, name: i32) -> Result<i32, E> {
    let (mut v, mut len) = (-1i32, 4u32);
    sc!(SYS_getsockopt, fd, SOL_SOCKET, name, &mut v, &mut len).map(|_| v)
}

fn sigpipe_off() -> Result<(), E> {
    sig::dispose(SIGPIPE, SIG_IGN, 0)
}

/// A connected stream through a listener: (client, server).
fn connected(kind: i32) -> Result<(i32, i32), E> {
    let l = listener(kind, "sock", 5)?;
    let c = socket(kind)?;
    connect(c, "sock")?;
    Ok((c, accept(l)?))
}

fn stream_pair_carries_bytes_both_ways() -> R {
    let (a, b) = pair(SOCK_STREAM)?;
    write(a, b"to b")?;
    write(b, b"to a")?;
    eq!(read_some(b, 2)?, b"to");
    eq!(read_some(b, 99)?, b" b");
    eq!(read_some(a, 99)?, b"to a");
    Ok(())
}

fn stream_merges_datagrams_and_seqpackets_do_not() -> R {
    let (a, b) = pair(SOCK_STREAM)?;
    write(a, b"12")?;
    write(a, b"34")?;
    eq!(read_some(b, 99)?, b"1234");
    for kind in [SOCK_DGRAM, SOCK_SEQPACKET] {
        let (a, b) = pair(kind)?;
        write(a, b"12")?;
        write(a, b"345")?;
        eq!(read_some(b, 99)?, b"12");
        // What does not fit of a packet is lost.
        eq!(read_some(b, 1)?, b"3");
        fcntl(b, F_SETFL, O_NONBLOCK)?;
        errno_is!(read(b, &mut [0; 9]), EAGAIN);
    }
    Ok(())
}

fn socket_type_flags() -> R {
    let fd = socket(SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK)?;
    eq!(fcntl(fd, F_GETFD, 0)?, FD_CLOEXEC);
    eq!(fcntl(fd, F_GETFL, 0)?, O_RDWR | O_NONBLOCK);
    eq!((opt(fd, SO_TYPE)?, opt(fd, SO_DOMAIN)?, opt(fd, SO_PROTOCOL)?), (SOCK_STREAM, AF_UNIX, 0));
    eq!((opt(fd, SO_ERROR)?, opt(fd, SO_ACCEPTCONN)?), (0, 0));
    errno_is!(socket(77), EINVAL | ESOCKTNOSUPPORT);
    errno_is!(sc!(SYS_socket, AF_UNIX, SOCK_STREAM, 77), EPROTONOSUPPORT);
    errno_is!(sc!(SYS_socket, 9999, SOCK_STREAM, 0), EAFNOSUPPORT);
    Ok(())
}

fn inet_sockets_work_or_are_refused_honestly() -> R {
    match sc!(SYS_socket, AF_INET, SOCK_STREAM, 0) {
        Ok(_) | Err(E(EAFNOSUPPORT)) => Ok(()),
        Err(e) => fail!("{e}"),
    }
}

fn bind_makes_a_socket_file() -> R {
    let fd = socket(SOCK_STREAM)?;
    bind(fd, "sock")?;
    eq!(lstat(c"sock")?.st_mode, S_IFSOCK | 0o755);
    errno_is!(bind(fd, "other"), EINVAL);
    errno_is!(bind(socket(SOCK_STREAM)?, "sock"), EADDRINUSE);
    errno_is!(bind(socket(SOCK_STREAM)?, "none/sock"), ENOENT);
    close(fd)?;
    // The file stays until somebody removes it.
    errno_is!(bind(socket(SOCK_STREAM)?, "sock"), EADDRINUSE);
    unlink(c"sock")?;
    bind(socket(SOCK_STREAM)?, "sock")?;
    Ok(())
}

fn connect_accept_and_names() -> R {
    let l = listener(SOCK_STREAM, "sock", 5)?;
    let c = socket(SOCK_STREAM)?;
    connect(c, "sock")?;
    let mut a = zeroed::<sockaddr_un>();
    let mut len = size_of::<sockaddr_un>() as u32;
    let s = sc!(SYS_accept, l, &mut a, &mut len)? as i32;
    eq!((len, a.sun_family), (2, AF_UNIX as u16));
    eq!(name(c, true)?, b"sock\0");
    eq!(name(s, false)?, b"sock\0");
    eq!(name(c, false)?, b"");
    eq!(name(s, true)?, b"");
    eq!(opt(l, SO_ACCEPTCONN)?, 1);
    write(c, b"hi")?;
    eq!(read_some(s, 9)?, b"hi");
    Ok(())
}

fn abstract_names() -> R {
    let unique = format!("@vkabi-{}", getpid());
    let l = listener(SOCK_STREAM, &unique, 5)?;
    let c = socket(SOCK_STREAM)?;
    connect(c, &unique)?;
    accept(l)?;
    eq!(name(l, false)?, format!("\0{}", &unique[1..]).into_bytes());
    errno_is!(bind(socket(SOCK_STREAM)?, &unique), EADDRINUSE);
    errno_is!(connect(socket(SOCK_STREAM)?, &unique[..unique.len() - 1]), ECONNREFUSED);
    close(l)?;
    errno_is!(connect(socket(SOCK_STREAM)?, &unique), ECONNREFUSED);
    bind(socket(SOCK_STREAM)?, &unique)?;
    Ok(())
}

fn autobind_gives_an_abstract_name() -> R {
    let fd = socket(SOCK_DGRAM)?;
    eq!(name(fd, false)?, b"");
    sc!(SYS_bind, fd, &(AF_UNIX as u16), 2)?;
    let n = name(fd, false)?;
    eq!((n.len(), n[0]), (6, 0));
    that!(n[1..].iter().all(|c| c.is_ascii_hexdigit()), "{n:?}");
    Ok(())
}

fn connect_errors() -> R {
    put(c"plain", b"")?;
    errno_is!(connect(socket(SOCK_STREAM)?, "none"), ENOENT);
    errno_is!(connect(socket(SOCK_STREAM)?, "plain"), ECONNREFUSED);
    let unheard = socket(SOCK_STREAM)?;
    bind(unheard, "unheard")?;
    errno_is!(connect(socket(SOCK_STREAM)?, "unheard"), ECONNREFUSED);
    listener(SOCK_STREAM, "stream", 5)?;
    errno_is!(connect(socket(SOCK_DGRAM)?, "stream"), EPROTOTYPE);
    let c = socket(SOCK_STREAM)?;
    connect(c, "stream")?;
    errno_is!(connect(c, "stream"), EISCONN);
    errno_is!(sc!(SYS_connect, socket(SOCK_STREAM)?, &addr("x").0, 1), EINVAL);
    errno_is!(sc!(SYS_connect, socket(SOCK_STREAM)?, BAD, 10), EFAULT);
    Ok(())
}

fn listen_and_accept_errors() -> R {
    let fd = socket(SOCK_STREAM)?;
    errno_is!(sc!(SYS_listen, fd, 5), EINVAL);
    errno_is!(accept(fd), EINVAL);
    let d = socket(SOCK_DGRAM)?;
    bind(d, "d")?;
    errno_is!(sc!(SYS_listen, d, 5), EOPNOTSUPP);
    errno_is!(accept(d), EOPNOTSUPP);
    errno_is!(accept(0), ENOTSOCK);
    let l = listener(SOCK_STREAM | SOCK_NONBLOCK, "l", 5)?;
    errno_is!(accept(l), EAGAIN);
    errno_is!(sc!(SYS_accept4, l, 0, 0, 1), EINVAL);
    errno_is!(read(l, &mut [0]), EINVAL);
    errno_is!(send(l, b"x", MSG_NOSIGNAL), ENOTCONN);
    Ok(())
}

fn accept4_flags() -> R {
    let l = listener(SOCK_STREAM, "l", 5)?;
    let c = socket(SOCK_STREAM)?;
    connect(c, "l")?;
    let s = sc!(SYS_accept4, l, 0, 0, SOCK_CLOEXEC | SOCK_NONBLOCK)? as i32;
    eq!(fcntl(s, F_GETFD, 0)?, FD_CLOEXEC);
    eq!(fcntl(s, F_GETFL, 0)? & O_NONBLOCK, O_NONBLOCK);
    Ok(())
}

fn a_full_backlog_is_eagain_when_nonblocking() -> R {
    let l = listener(SOCK_STREAM, "l", 1)?;
    let mut queued = 0;
    loop {
        match connect(socket(SOCK_STREAM | SOCK_NONBLOCK)?, "l") {
            Ok(_) => queued += 1,
            Err(E(EAGAIN)) => break,
            Err(e) => fail!("{e}"),
        }
    }
    // Linux queues one more than it is told.
    eq!(queued, 2);
    accept(l)?;
    connect(socket(SOCK_STREAM | SOCK_NONBLOCK)?, "l")?;
    Ok(())
}

fn connect_waits_for_room_in_the_backlog() -> R {
    let l = listener(SOCK_STREAM, "l", 0)?;
    let first = socket(SOCK_STREAM)?;
    connect(first, "l")?;
    let waiter = child(|| {
        let c = socket(SOCK_STREAM)?;
        connect(c, "l")?;
        write(c, b"second")?;
        Ok(())
    })?;
    waiter.asleep()?;
    accept(l)?;
    let s = accept(l)?;
    eq!(read_some(s, 99)?, b"second");
    waiter.ok()
}

fn accept_waits_for_a_connection() -> R {
    let l = listener(SOCK_STREAM, "l", 5)?;
    let server = child(|| {
        let s = accept(l)?;
        eq!(drain(s)?, b"hello");
        Ok(())
    })?;
    server.asleep()?;
    eq!(poll1(l, POLLIN, 0)?, 0);
    let c = socket(SOCK_STREAM)?;
    connect(c, "l")?;
    write(c, b"hello")?;
    close(c)?;
    server.ok()
}

fn closing_a_listener_refuses_the_queued() -> R {
    let l = listener(SOCK_STREAM, "l", 5)?;
    let c = socket(SOCK_STREAM)?;
    connect(c, "l")?;
    close(l)?;
    sigpipe_off()?;
    errno_is!(read(c, &mut [0; 9]), ECONNRESET);
    eq!(read_some(c, 9)?, b"");
    errno_is!(write(c, b"x"), EPIPE);
    Ok(())
}

fn end_of_file_and_epipe_after_close() -> R {
    let (a, b) = pair(SOCK_STREAM)?;
    write(a, b"last")?;
    close(a)?;
    eq!(read_some(b, 9)?, b"last");
    eq!(read_some(b, 9)?, b"");
    sig::record(SIGPIPE, 0)?;
    errno_is!(write(b, b"x"), EPIPE);
    eq!(sig::numbers(), [SIGPIPE]);
    errno_is!(send(b, b"x", MSG_NOSIGNAL), EPIPE);
    eq!(sig::count(), 1);
    Ok(())
}

fn closing_with_unread_data_resets_the_peer() -> R {
    let (a, b) = pair(SOCK_STREAM)?;
    write(a, b"never read")?;
    close(b)?;
    errno_is!(read(a, &mut [0; 9]), ECONNRESET);
    eq!(read_some(a, 9)?, b"");
    Ok(())
}

fn shutdown_halves() -> R {
    let (a, b) = pair(SOCK_STREAM)?;
    sigpipe_off()?;
    write(a, b"x")?;
    sc!(SYS_shutdown, a, SHUT_WR)?;
    errno_is!(write(a, b"y"), EPIPE);
    eq!(read_some(b, 9)?, b"x");
    eq!(read_some(b, 9)?, b"");
    write(b, b"back")?;
    eq!(read_some(a, 9)?, b"back");
    sc!(SYS_shutdown, a, SHUT_RD)?;
    eq!(read_some(a, 9)?, b"");
    errno_is!(write(b, b"z"), EPIPE);
    errno_is!(sc!(SYS_shutdown, a, 3), EINVAL);
    // Unlike Internet sockets, an unconnected one is shut down without complaint.
    eq!(sc!(SYS_shutdown, socket(SOCK_STREAM)?, SHUT_WR)?, 0);
    Ok(())
}

fn shutdown_wakes_a_reader() -> R {
    let (a, b) = pair(SOCK_STREAM)?;
    let reader = child(|| {
        eq!(read_some(b, 9)?, b"");
        Ok(())
    })?;
    reader.asleep()?;
    sc!(SYS_shutdown, a, SHUT_WR)?;
    reader.ok()
}

fn peek_leaves_the_data() -> R {
    for kind in [SOCK_STREAM, SOCK_DGRAM] {
        let (a, b) = pair(kind)?;
        write(a, b"hello")?;
        eq!(recv(b, 3, MSG_PEEK)?, b"hel");
        eq!(recv(b, 9, 0)?, b"hello");
    }
    Ok(())
}

fn trunc_tells_the_full_length_of_a_datagram() -> R {
    let (a, b) = pair(SOCK_DGRAM)?;
    write(a, b"hello")?;
    let mut buf = [0u8; 2];
    eq!(sc!(SYS_recvfrom, b, &mut buf, 2, MSG_TRUNC | MSG_PEEK, 0, 0)?, 5);
    eq!(sc!(SYS_recvfrom, b, &mut buf, 2, MSG_TRUNC, 0, 0)?, 5);
    eq!(&buf, b"he");
    Ok(())
}

fn dontwait_and_waitall() -> R {
    let (a, b) = pair(SOCK_STREAM)?;
    errno_is!(recv(b, 9, MSG_DONTWAIT), EAGAIN);
    let writer = child(|| {
        close(b)?;
        for part in [b"ab", b"cd", b"ef"] {
            write(a, part)?;
        }
        Ok(())
    })?;
    eq!(recv(b, 6, MSG_WAITALL)?, b"abcdef");
    writer.ok()
}

fn a_full_stream_is_eagain_then_writable_again() -> R {
    let (a, b) = pair(SOCK_STREAM | SOCK_NONBLOCK)?;
    let mut total = 0;
    loop {
        match write(a, &[1; 4096]) {
            Ok(n) => total += n,
            Err(E(EAGAIN)) => break,
            Err(e) => fail!("{e}"),
        }
    }
    that!(total >= 65536, "{total}");
    eq!(poll1(a, POLLOUT, 0)?, 0);
    let mut got = 0;
    while let Ok(n) = read(b, &mut [0; 65536]) {
        got += n;
    }
    eq!(got, total);
    eq!(poll1(a, POLLOUT, 0)?, POLLOUT);
    Ok(())
}

fn datagrams_to_a_name_and_back() -> R {
    let (a, b) = (socket(SOCK_DGRAM)?, socket(SOCK_DGRAM)?);
    bind(a, "a")?;
    bind(b, "b")?;
    let (to, len) = addr("b");
    eq!(sc!(SYS_sendto, a, c"hello", 5, 0, &to, len)?, 5);
    let mut from = zeroed::<sockaddr_un>();
    let mut from_len = size_of::<sockaddr_un>() as u32;
    let mut buf = [0u8; 20];
    eq!(sc!(SYS_recvfrom, b, &mut buf, 20, 0, &mut from, &mut from_len)?, 5);
    eq!((from_len, from.sun_path[0] as u8), (4, b'a'));
    errno_is!(send(a, b"x", 0), ENOTCONN);
    connect(a, "b")?;
    send(a, b"again", 0)?;
    eq!(recv(b, 9, 0)?, b"again");
    // A connected datagram socket hears only its peer.
    let stranger = socket(SOCK_DGRAM)?;
    let (to, len) = addr("a");
    errno_is!(sc!(SYS_sendto, stranger, c"x", 1, 0, &to, len), EPERM);
    Ok(())
}

fn datagram_errors() -> R {
    let a = socket(SOCK_DGRAM)?;
    let (to, len) = addr("none");
    errno_is!(sc!(SYS_sendto, a, c"x", 1, 0, &to, len), ENOENT);
    let b = socket(SOCK_DGRAM)?;
    bind(b, "b")?;
    close(b)?;
    let (to, len) = addr("b");
    errno_is!(sc!(SYS_sendto, a, c"x", 1, 0, &to, len), ECONNREFUSED);
    let (x, _y) = pair(SOCK_DGRAM)?;
    errno_is!(send(x, &vec![0; 4_000_000], 0), EMSGSIZE);
    Ok(())
}

fn empty_datagrams_are_real() -> R {
    let (a, b) = pair(SOCK_DGRAM)?;
    eq!(send(a, b"", 0)?, 0);
    eq!(poll1(b, POLLIN, 0)?, POLLIN);
    eq!(recv(b, 9, 0)?, b"");
    errno_is!(recv(b, 9, MSG_DONTWAIT), EAGAIN);
    Ok(())
}

fn seqpacket_connects_and_ends() -> R {
    let (c, s) = connected(SOCK_SEQPACKET)?;
    write(c, b"one")?;
    write(c, b"two")?;
    close(c)?;
    eq!(read_some(s, 99)?, b"one");
    eq!(read_some(s, 99)?, b"two");
    eq!(read_some(s, 99)?, b"");
    Ok(())
}

fn connected_stream_is_independent_of_its_file() -> R {
    let (c, s) = connected(SOCK_STREAM)?;
    unlink(c"sock")?;
    write(c, b"x")?;
    eq!(read_some(s, 9)?, b"x");
    Ok(())
}

fn poll_states_of_a_stream() -> R {
    let (a, b) = pair(SOCK_STREAM)?;
    let all = POLLIN | POLLOUT | POLLRDHUP;
    eq!(poll1(a, all, 0)?, POLLOUT);
    write(b, b"x")?;
    eq!(poll1(a, all, 0)?, POLLIN | POLLOUT);
    sc!(SYS_shutdown, b, SHUT_WR)?;
    eq!(poll1(a, all, 0)?, POLLIN | POLLOUT | POLLRDHUP);
    close(b)?;
    eq!(poll1(a, all, 0)?, POLLIN | POLLOUT | POLLRDHUP | POLLHUP);
    Ok(())
}

fn receive_timeout() -> R {
    let (a, _b) = pair(SOCK_STREAM)?;
    let t = timeval { tv_sec: 0, tv_usec: 20_000 };
    sc!(SYS_setsockopt, a, SOL_SOCKET, SO_RCVTIMEO, &t, 16)?;
    let start = now(CLOCK_MONOTONIC)?;
    errno_is!(read(a, &mut [0]), EAGAIN);
    that!(now(CLOCK_MONOTONIC)? - start >= 20 * MS);
    Ok(())
}

fn buffer_sizes_are_doubled_and_bounded() -> R {
    let (a, _b) = pair(SOCK_STREAM)?;
    sc!(SYS_setsockopt, a, SOL_SOCKET, SO_SNDBUF, &10_000i32, 4)?;
    eq!(opt(a, SO_SNDBUF)?, 20_000);
    sc!(SYS_setsockopt, a, SOL_SOCKET, SO_SNDBUF, &1i32, 4)?;
    that!(opt(a, SO_SNDBUF)? >= 4096);
    errno_is!(sc!(SYS_setsockopt, a, SOL_SOCKET, SO_SNDBUF, &1i32, 3), EINVAL);
    errno_is!(sc!(SYS_getsockopt, a, SOL_SOCKET, 9999, &mut 0i32, &mut 4u32), ENOPROTOOPT);
    errno_is!(opt(0, SO_TYPE), ENOTSOCK);
    errno_is!(opt(9999, SO_TYPE), EBADF);
    Ok(())
}

fn socketpair_errors() -> R {
    errno_is!(sc!(SYS_socketpair, AF_UNIX, SOCK_STREAM, 0, BAD), EFAULT);
    errno_is!(sc!(SYS_socketpair, AF_UNIX, 99, 0, &mut [0i32; 2]), EINVAL | ESOCKTNOSUPPORT);
    let (a, _b) = pair(SOCK_STREAM)?;
    errno_is!(lseek(a, 0, SEEK_SET), ESPIPE);
    Ok(())
}

fn connecting_wants_write_permission_on_the_file() -> R {
    listener(SOCK_STREAM, "sock", 5)?;
    sc!(SYS_chmod, c"sock", 0o000)?;
    if root() {
        connect(socket(SOCK_STREAM)?, "sock")?;
    } else {
        errno_is!(connect(socket(SOCK_STREAM)?, "sock"), EACCES);
    }
    Ok(())
}

cases!("unix":
    stream_pair_carries_bytes_both_ways, stream_merges_datagrams_and_seqpackets_do_not, socket_type_flags,
    inet_sockets_work_or_are_refused_honestly, bind_makes_a_socket_file, connect_accept_and_names,
    abstract_names, autobind_gives_an_abstract_name, connect_errors, listen_and_accept_errors,
    accept4_flags, a_full_backlog_is_eagain_when_nonblocking, connect_waits_for_room_in_the_backlog,
    accept_waits_for_a_connection, closing_a_listener_refuses_the_queued, end_of_file_and_epipe_after_close,
    closing_with_unread_data_resets_the_peer, shutdown_halves, shutdown_wakes_a_reader,
    peek_leaves_the_data, trunc_tells_the_full_length_of_a_datagram, dontwait_and_waitall,
    a_full_stream_is_eagain_then_writable_again, datagrams_to_a_name_and_back, datagram_errors,
    empty_datagrams_are_real, seqpacket_connects_and_ends, connected_stream_is_independent_of_its_file,
    poll_states_of_a_stream, receive_timeout, buffer_sizes_are_doubled_and_bounded, socketpair_errors,
    connecting_wants_write_permission_on_the_file,
);
