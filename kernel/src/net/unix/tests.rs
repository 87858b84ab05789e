//! Tests of the subtle parts, on the mock machine.

use crate::error::Result;
use crate::fs::{OpenFile, OpenFlags};
use crate::net::{
    Control, MsgFlags, ReceiveRequest, Received, SendRequest, Shutdown, Socket, SocketFile, SocketType,
};
use crate::task::Cx;
use crate::testing::{config, run, run_on, thread};
use crate::wait::PollEvents;
use abi::Errno;
use hal::mock::MockMachine;
use std::sync::Arc;
use std::vec;
use std::vec::Vec;

type Sock = Arc<dyn Socket>;

fn socket(cx: &Cx, kind: SocketType) -> Sock {
    cx.kernel.net.get(cx, 1).unwrap().create(cx, kind, 0).unwrap()
}

fn pair(cx: &Cx, kind: SocketType) -> (Sock, Sock) {
    cx.kernel.net.get(cx, 1).unwrap().pair(cx, kind, 0).unwrap()
}

fn send_with(cx: &Cx, s: &Sock, data: &[u8], to: Option<&[u8]>, files: Vec<Arc<OpenFile>>) -> Result<usize> {
    let mut data = data;
    let control = Control { files, creds: None };
    let flags = MsgFlags::NOSIGNAL;
    s.send(cx, SendRequest { data: &mut data, to, control, flags, nonblocking: true })
}

fn send(cx: &Cx, s: &Sock, data: &[u8]) -> Result<usize> {
    send_with(cx, s, data, None, Vec::new())
}

fn receive(cx: &Cx, s: &Sock, max: usize, flags: MsgFlags) -> Result<(Vec<u8>, Received)> {
    let mut buf = vec![0; max];
    let mut sink = buf.as_mut_slice();
    let got = s.receive(cx, ReceiveRequest { data: &mut sink, flags, nonblocking: true })?;
    buf.truncate(got.len.min(max));
    Ok((buf, got))
}

fn text(cx: &Cx, s: &Sock, max: usize) -> Vec<u8> {
    receive(cx, s, max, MsgFlags::empty()).unwrap().0
}

fn errno<T>(result: Result<T>) -> Errno {
    result.map(drop).unwrap_err().errno()
}

fn abstract_name(name: &str) -> Vec<u8> {
    [b"\x01\0\0", name.as_bytes()].concat()
}

#[test]
fn a_stream_joins_writes_and_packets_stay_apart() {
    run(|cx| {
        let (a, b) = pair(cx, SocketType::Stream);
        send(cx, &a, b"abc").unwrap();
        send(cx, &a, b"def").unwrap();
        assert_eq!(receive(cx, &b, 100, MsgFlags::PEEK).unwrap().0, b"abcdef");
        assert_eq!(text(cx, &b, 4), b"abcd");
        assert_eq!(text(cx, &b, 4), b"ef");
        assert_eq!(errno(receive(cx, &b, 4, MsgFlags::empty())), Errno::EAGAIN);
        let (a, b) = pair(cx, SocketType::SeqPacket);
        send(cx, &a, b"abc").unwrap();
        send(cx, &a, b"").unwrap();
        let (data, got) = receive(cx, &b, 2, MsgFlags::TRUNC).unwrap();
        assert_eq!((data.as_slice(), got.len, got.flags), (&b"ab"[..], 3, MsgFlags::TRUNC));
        assert_eq!(text(cx, &b, 4), b"");
    });
}

#[test]
fn the_send_buffer_fills_as_on_linux() {
    run(|cx| {
        for (kind, size, count) in
            [(SocketType::Stream, 1, 278), (SocketType::Stream, 4096, 44), (SocketType::Datagram, 4096, 26)]
        {
            let (a, b) = pair(cx, kind);
            let data = vec![0; size];
            let mut sent = 0;
            while send(cx, &a, &data).is_ok() {
                sent += 1;
            }
            assert_eq!(sent, count, "{kind:?} {size}");
            assert!(!a.poll(None).contains(PollEvents::OUT));
            while receive(cx, &b, 1 << 16, MsgFlags::empty()).is_ok() {}
            assert!(a.poll(None).contains(PollEvents::OUT));
        }
    });
}

#[test]
fn closing_with_unread_data_resets() {
    run(|cx| {
        let (a, b) = pair(cx, SocketType::Stream);
        send(cx, &a, b"lost").unwrap();
        send(cx, &b, b"kept").unwrap();
        b.close();
        assert_eq!(text(cx, &a, 9), b"kept");
        assert_eq!(errno(receive(cx, &a, 9, MsgFlags::empty())), Errno::ECONNRESET);
        assert_eq!(text(cx, &a, 9), b"");
        assert_eq!(errno(send(cx, &a, b"x")), Errno::EPIPE);
    });
}

#[test]
fn poll_states() {
    use PollEvents as P;
    run(|cx| {
        let out = P::WRITABLE | P::WRBAND;
        assert_eq!(socket(cx, SocketType::Stream).poll(None), out | P::HUP);
        assert_eq!(socket(cx, SocketType::Datagram).poll(None), out);
        let (a, b) = pair(cx, SocketType::Stream);
        assert_eq!(a.poll(None), out);
        b.shutdown(cx, Shutdown::Write).unwrap();
        assert_eq!(a.poll(None), out | P::READABLE | P::RDHUP);
        b.close();
        assert_eq!(a.poll(None), out | P::READABLE | P::RDHUP | P::HUP);
    });
}

#[test]
fn connect_accept_and_a_full_backlog() {
    run(|cx| {
        let listener = socket(cx, SocketType::Stream);
        let name = abstract_name("l");
        assert_eq!(errno(listener.listen(cx, 1)), Errno::EINVAL);
        listener.bind(cx, &name).unwrap();
        assert_eq!(errno(socket(cx, SocketType::Stream).bind(cx, &name)), Errno::EADDRINUSE);
        // Another type has names of its own.
        socket(cx, SocketType::Datagram).bind(cx, &name).unwrap();
        let client = socket(cx, SocketType::Stream);
        assert_eq!(errno(client.connect(cx, &name, true)), Errno::ECONNREFUSED);
        listener.listen(cx, 1).unwrap();
        client.connect(cx, &name, true).unwrap();
        assert_eq!(errno(client.connect(cx, &name, true)), Errno::EISCONN);
        let queued = socket(cx, SocketType::Stream);
        queued.connect(cx, &name, true).unwrap();
        let refused = socket(cx, SocketType::Stream);
        assert_eq!(errno(refused.connect(cx, &name, true)), Errno::EAGAIN);
        let server = listener.accept(cx, true).unwrap();
        assert_eq!(server.name().unwrap(), name);
        assert_eq!(client.peer_name().unwrap(), name);
        refused.connect(cx, &name, true).unwrap();
        send(cx, &client, b"hi").unwrap();
        assert_eq!(text(cx, &server, 9), b"hi");
        listener.close();
        assert_eq!(errno(receive(cx, &queued, 1, MsgFlags::empty())), Errno::ECONNRESET);
        assert_eq!(errno(socket(cx, SocketType::Stream).connect(cx, &name, true)), Errno::ECONNREFUSED);
    });
}

#[test]
fn a_connecting_task_waits_for_room_and_an_accepting_one_for_a_connection() {
    run(|cx| {
        let listener = socket(cx, SocketType::Stream);
        let name = abstract_name("l");
        listener.bind(cx, &name).unwrap();
        listener.listen(cx, 0).unwrap();
        let done = Arc::new(crate::wait::WaitQueue::new());
        let count = Arc::new(std::sync::atomic::AtomicUsize::new(0));
        for _ in 0..3 {
            let (name, done, count) = (name.clone(), done.clone(), count.clone());
            thread(cx, move |cx| {
                let client = socket(cx, SocketType::Stream);
                client.connect(cx, &name, false).unwrap();
                count.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                done.wake_all(PollEvents::empty());
            });
        }
        let connections: Vec<_> = (0..3).map(|_| listener.accept(cx, false).unwrap()).collect();
        cx.wait(&done, || (count.load(std::sync::atomic::Ordering::SeqCst) == 3).then_some(Ok(()))).unwrap();
        assert_eq!(connections.len(), 3);
    });
}

#[test]
fn datagrams_have_a_sender_and_a_bounded_queue() {
    run(|cx| {
        let (a, b) = (socket(cx, SocketType::Datagram), socket(cx, SocketType::Datagram));
        let (name_a, name_b) = (abstract_name("a"), abstract_name("b"));
        a.bind(cx, &name_a).unwrap();
        b.bind(cx, &name_b).unwrap();
        for _ in 0..11 {
            send_with(cx, &a, b"x", Some(&name_b), Vec::new()).unwrap();
        }
        assert_eq!(errno(send_with(cx, &a, b"x", Some(&name_b), Vec::new())), Errno::EAGAIN);
        assert_eq!(receive(cx, &b, 9, MsgFlags::empty()).unwrap().1.from, name_a);
        // One that is connected elsewhere takes nothing from others.
        let c = socket(cx, SocketType::Datagram);
        b.connect(cx, &name_a, true).unwrap();
        assert_eq!(errno(c.connect(cx, &name_b, true)), Errno::EPERM);
        b.close();
        a.connect(cx, &name_a, true).unwrap();
        assert_eq!(errno(send_with(cx, &a, b"x", Some(&name_b), Vec::new())), Errno::ECONNREFUSED);
    });
}

#[test]
fn files_travel_with_the_first_byte() {
    run(|cx| {
        let (a, b) = pair(cx, SocketType::Stream);
        let (x, y) = pair(cx, SocketType::Stream);
        let file = SocketFile::open(cx.kernel, x, OpenFlags::empty());
        send(cx, &a, b"before").unwrap();
        send_with(cx, &a, b"with", None, vec![file.clone()]).unwrap();
        send(cx, &a, b"after").unwrap();
        drop(file);
        let (data, got) = receive(cx, &b, 100, MsgFlags::PEEK).unwrap();
        assert_eq!((data.as_slice(), got.files.len()), (&b"beforewith"[..], 1));
        drop(got);
        let (data, got) = receive(cx, &b, 100, MsgFlags::empty()).unwrap();
        assert_eq!((data.as_slice(), got.files.len()), (&b"beforewith"[..], 1));
        send(cx, SocketFile::of(&got.files[0]).unwrap(), b"through").unwrap();
        assert_eq!(text(cx, &y, 9), b"through");
        assert_eq!(text(cx, &b, 100), b"after");
        // The last reference arrived and goes: the other end sees it.
        drop(got);
        assert!(y.poll(None).contains(PollEvents::HUP));
    });
}

#[test]
fn a_long_chain_of_sockets_in_sockets_is_dropped_without_nesting() {
    run(|cx| {
        let (mut inner, watch) = pair(cx, SocketType::Stream);
        for _ in 0..2000 {
            let (a, b) = pair(cx, SocketType::Stream);
            let file = SocketFile::open(cx.kernel, inner, OpenFlags::empty());
            send_with(cx, &a, b"x", None, vec![file]).unwrap();
            a.close();
            inner = b;
        }
        drop(SocketFile::open(cx.kernel, inner, OpenFlags::empty()));
        assert!(watch.poll(None).contains(PollEvents::HUP));
        assert_eq!(cx.kernel.net.unix.list().len(), 1);
    });
}

#[test]
fn credentials_come_when_asked_for() {
    run(|cx| {
        let (a, b) = pair(cx, SocketType::Datagram);
        send(cx, &a, b"early").unwrap();
        b.set_option(cx, 1, 16, &1i32.to_ne_bytes()).unwrap();
        send(cx, &a, b"late").unwrap();
        let first = receive(cx, &b, 9, MsgFlags::empty()).unwrap().1.creds.unwrap();
        assert_eq!((first.pid, first.uid), (0, 65534));
        let second = receive(cx, &b, 9, MsgFlags::empty()).unwrap().1.creds.unwrap();
        assert_eq!((second.pid, second.uid), (cx.process().pid, 0));
    });
}

#[test]
fn a_receive_timeout_is_eagain_and_takes_its_time() {
    run(|cx| {
        let (a, _b) = pair(cx, SocketType::Stream);
        let time = abi::time::Timeval { sec: 2, usec: 0 };
        a.set_option(cx, 1, 20, zerocopy::IntoBytes::as_bytes(&time)).unwrap();
        let before = cx.now_ns();
        let mut buf = [0u8; 4];
        let mut sink = &mut buf[..];
        let request = ReceiveRequest { data: &mut sink, flags: MsgFlags::empty(), nonblocking: false };
        assert_eq!(errno(a.receive(cx, request)), Errno::EAGAIN);
        assert!(cx.now_ns() - before >= 2_000_000_000);
    });
}

#[test]
fn messages_are_held_against_ram() {
    let machine = MockMachine::builder().memory(4 << 20).build();
    run_on(machine, config(), |cx| {
        let free = cx.kernel.frames.available();
        let data = [7; 4096];
        let mut pairs = Vec::new();
        let full = loop {
            let pair = pair(cx, SocketType::Stream);
            let result = (0..30).map(|_| send(cx, &pair.0, &data)).find(Result::is_err);
            pairs.push(pair);
            match result {
                None => assert!(pairs.len() < 100, "no end"),
                Some(result) => break errno(result),
            }
        };
        assert_eq!(full, Errno::ENOBUFS);
        assert!(cx.kernel.frames.available() < 2);
        // What was read makes room.
        while receive(cx, &pairs[0].1, 1 << 16, MsgFlags::empty()).is_ok() {}
        assert_eq!(send(cx, &pairs[0].0, &data).unwrap(), data.len());
        for (_, peer) in &pairs {
            while receive(cx, peer, 1 << 16, MsgFlags::empty()).is_ok() {}
        }
        assert!(cx.kernel.frames.available() + 128 >= free);
    });
}
