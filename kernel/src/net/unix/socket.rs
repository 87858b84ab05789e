//! One socket: its state, its queue, what happens when it is closed or shut down, readiness.

use super::account::{Charge, SendAccount};
use super::address::{self, Address};
use super::rights::Rights;
use super::{UnixFamily, path};
use crate::error::{Result, err};
use crate::fs::{Latch, OpenFlags};
use crate::net::options::{is_socket_level, own_ucred};
use crate::net::{Options, ReceiveRequest, Received, SendRequest, Shutdown, Socket, SocketType};
use crate::sync::Mutex;
use crate::task::{Cap, Creds, Cx, Process};
use crate::user::UserPtr;
use crate::wait::{PollEvents, PollTable, WaitQueue};
use abi::Errno;
use abi::net::{AF_UNIX, Ucred};
use alloc::collections::VecDeque;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::any::Any;
use core::sync::atomic::Ordering;

/// Most messages in the queue of a datagram socket (`net.unix.max_dgram_qlen`); one more is let in, as on Linux.
const MAX_DATAGRAMS: usize = 10;

/// Receiving has been shut down.
pub(super) const RCV: u8 = 1;
/// Sending has been shut down.
pub(super) const SEND: u8 = 2;

/// Where a socket is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Neither connected nor listening.
    Idle,
    /// In `connect`.
    Connecting,
    /// Accepts connections.
    Listening,
    /// Connected, now or once.
    Established,
}

/// A message, as it was sent.
pub(super) struct Packet {
    pub(super) data: Vec<u8>,
    pub(super) from: Option<Arc<Address>>,
    pub(super) creds: Option<Ucred>,
    pub(super) _charge: Charge,
}

/// A message in a queue.
pub(super) struct Entry {
    pub(super) packet: Arc<Packet>,
    /// How much of it has been read.
    pub(super) offset: usize,
    pub(super) rights: Option<Rights>,
}

impl Entry {
    pub(super) fn left(&self) -> usize {
        self.packet.data.len() - self.offset
    }
}

/// Who is at the other end, as of `connect`, `listen` or `socketpair`.
#[derive(Clone)]
pub(super) struct PeerIdentity {
    pub(super) ucred: Ucred,
    pub(super) creds: Arc<Creds>,
    pub(super) process: Weak<Process>,
}

impl PeerIdentity {
    /// The current task's.
    pub(super) fn own(cx: &Cx) -> PeerIdentity {
        PeerIdentity { ucred: own_ucred(cx), creds: cx.task.creds(), process: Arc::downgrade(cx.process()) }
    }
}

pub(super) struct State {
    pub(super) phase: Phase,
    pub(super) address: Option<Arc<Address>>,
    /// The other end; stays when the other end is closed.
    pub(super) peer: Option<Arc<UnixSocket>>,
    pub(super) identity: Option<PeerIdentity>,
    pub(super) shutdown: u8,
    /// Closed: nobody has it open any more.
    pub(super) dead: bool,
    pub(super) queue: VecDeque<Entry>,
    /// Connections that wait to be accepted.
    pub(super) pending: VecDeque<Arc<UnixSocket>>,
    pub(super) backlog: usize,
}

/// A socket of this family.
pub struct UnixSocket {
    pub(super) options: Options,
    pub(super) family: Arc<UnixFamily>,
    pub(super) me: Weak<UnixSocket>,
    pub(super) state: Mutex<State>,
    pub(super) account: Arc<SendAccount>,
    /// Woken when there is something to read or accept, and when the state changes.
    pub(super) readable: WaitQueue,
    /// Woken when the queue of messages or connections gets shorter: others wait on it to send or connect.
    pub(super) space: WaitQueue,
    /// Held by whoever reads, from the look at the queue to the removal.
    pub(super) reading: Latch,
}

/// A row of `/proc/net/unix`.
#[derive(Clone, Debug)]
pub struct SocketInfo {
    /// Inode number.
    pub ino: u64,
    /// `SOCK_*`.
    pub kind: SocketType,
    /// Whether it listens.
    pub listening: bool,
    /// Whether it is connected.
    pub connected: bool,
    /// Its name as `/proc/net/unix` shows it: zero bytes as `@`.
    pub name: Option<Vec<u8>>,
}

impl UnixSocket {
    pub(super) fn new(cx: &Cx, family: Arc<UnixFamily>, kind: SocketType) -> Arc<UnixSocket> {
        let socket = Arc::new_cyclic(|me| UnixSocket {
            options: Options::new(cx, i32::from(AF_UNIX), kind, 0),
            account: SendAccount::new(&family.memory),
            family,
            me: me.clone(),
            state: Mutex::new(State {
                phase: Phase::Idle,
                address: None,
                peer: None,
                identity: None,
                shutdown: 0,
                dead: false,
                queue: VecDeque::new(),
                pending: VecDeque::new(),
                backlog: MAX_DATAGRAMS,
            }),
            readable: WaitQueue::new(),
            space: WaitQueue::new(),
            reading: Latch::new(),
        });
        socket.family.sockets.lock().insert(socket.options.ino, Arc::downgrade(&socket));
        socket
    }

    /// Makes `other` the peer, for `socketpair(2)`.
    pub(super) fn join(&self, cx: &Cx, other: &Arc<UnixSocket>) {
        let mut state = self.state.lock();
        state.phase = Phase::Established;
        state.identity = Some(PeerIdentity::own(cx));
        state.peer = Some(other.clone());
    }

    /// Whether both directions belong to one connection.
    pub(super) fn connection_based(&self) -> bool {
        matches!(self.options.kind, SocketType::Stream | SocketType::SeqPacket)
    }

    pub(super) fn sndbuf(&self) -> usize {
        self.options.sndbuf.load(Ordering::Relaxed)
    }

    /// Wakes everybody who waits on this socket.
    pub(super) fn state_changed(&self, events: PollEvents) {
        self.readable.wake_all(events);
        self.account.room.wake_all(events);
        self.space.wake_all(events);
    }

    /// What `/proc/net/unix` shows; `None` for a socket that is closed and only known to its peer.
    pub(super) fn info(&self) -> Option<SocketInfo> {
        let state = self.state.lock();
        if state.dead {
            return None;
        }
        let name = state.address.as_ref().map(|address| match &**address {
            Address::Path { text, .. } => text.clone(),
            Address::Abstract(name) => name.iter().map(|&b| if b == 0 { b'@' } else { b }).collect(),
        });
        Some(SocketInfo {
            ino: self.options.ino,
            kind: self.options.kind,
            listening: state.phase == Phase::Listening,
            connected: state.phase == Phase::Established,
            name,
        })
    }

    /// Closes; `embryo` for a connection that was never accepted.
    pub(super) fn release(&self, embryo: bool) {
        let (peer, queue, pending, address) = {
            let mut state = self.state.lock();
            if state.dead {
                return;
            }
            state.dead = true;
            state.shutdown = RCV | SEND;
            (
                state.peer.take(),
                core::mem::take(&mut state.queue),
                core::mem::take(&mut state.pending),
                state.address.clone(),
            )
        };
        if let Some(address) = address {
            self.family.unbind(self.options.kind, &address, self);
        }
        if let Some(peer) = peer.filter(|_| self.connection_based()) {
            peer.state.lock().shutdown = RCV | SEND;
            if embryo || !queue.is_empty() {
                peer.options.set_error(Errno::ECONNRESET);
            }
            peer.state_changed(PollEvents::empty());
        }
        self.state_changed(PollEvents::empty());
        for connection in pending {
            connection.release(true);
        }
        drop(queue);
    }
}

impl Drop for UnixSocket {
    fn drop(&mut self) {
        let gone = self.family.sockets.lock().remove(&self.options.ino);
        drop(gone);
    }
}

impl Socket for UnixSocket {
    fn options(&self) -> &Options {
        &self.options
    }

    fn bind(&self, cx: &Cx, bytes: &[u8]) -> Result<()> {
        let address = match address::parse(bytes)? {
            address::Target::Unnamed => return self.autobind(cx),
            address::Target::Abstract(name) => {
                let Some(me) = self.me.upgrade() else { return err(Errno::EINVAL) };
                if self.state.lock().address.is_some() {
                    return err(Errno::EINVAL);
                }
                self.family.bind_abstract(self.options.kind, name, &me)?;
                Address::Abstract(name.to_vec())
            }
            address::Target::Path(text) => {
                let Some(me) = self.me.upgrade() else { return err(Errno::EINVAL) };
                if self.state.lock().address.is_some() {
                    return err(Errno::EINVAL);
                }
                let (place, key) = path::make(cx, text)?;
                self.family.bind_inode(key, &me);
                Address::Path { text: text.to_vec(), key, _place: Some(place) }
            }
        };
        self.set_address(address)
    }

    fn connect(&self, cx: &Cx, address: &[u8], nonblocking: bool) -> Result<()> {
        match self.options.kind {
            SocketType::Stream | SocketType::SeqPacket => self.connect_stream(cx, address, nonblocking),
            _ => self.connect_datagram(cx, address),
        }
    }

    fn listen(&self, cx: &Cx, backlog: i32) -> Result<()> {
        self.start_listening(cx, backlog)
    }

    fn accept(&self, cx: &Cx, nonblocking: bool) -> Result<Arc<dyn Socket>> {
        Ok(self.accept_one(cx, nonblocking)?)
    }

    fn name(&self) -> Result<Vec<u8>> {
        Ok(address::to_bytes(self.state.lock().address.as_deref()))
    }

    fn peer_name(&self) -> Result<Vec<u8>> {
        let peer = self.state.lock().peer.clone();
        match peer {
            Some(peer) => peer.name(),
            None => err(Errno::ENOTCONN),
        }
    }

    fn shutdown(&self, _cx: &Cx, how: Shutdown) -> Result<()> {
        let (own, theirs) = match how {
            Shutdown::Read => (RCV, SEND),
            Shutdown::Write => (SEND, RCV),
            Shutdown::Both => (RCV | SEND, RCV | SEND),
        };
        let peer = {
            let mut state = self.state.lock();
            state.shutdown |= own;
            state.peer.clone()
        };
        self.state_changed(PollEvents::empty());
        if let Some(peer) = peer.filter(|_| self.connection_based()) {
            peer.state.lock().shutdown |= theirs;
            peer.state_changed(PollEvents::empty());
        }
        Ok(())
    }

    fn send(&self, cx: &Cx, request: SendRequest<'_>) -> Result<usize> {
        match self.options.kind {
            SocketType::Stream => self.send_stream(cx, request),
            _ => self.send_packet(cx, request),
        }
    }

    fn receive(&self, cx: &Cx, request: ReceiveRequest<'_>) -> Result<Received> {
        match self.options.kind {
            SocketType::Stream => self.receive_stream(cx, request),
            _ => self.receive_packet(cx, request),
        }
    }

    fn poll(&self, table: Option<&mut PollTable<'_>>) -> PollEvents {
        let peer = if self.connection_based() { None } else { self.state.lock().peer.clone() };
        if let Some(table) = table {
            table.add(&self.readable);
            table.add(&self.account.room);
            if let Some(peer) = &peer {
                table.add(&peer.space);
            }
        }
        let mut events = PollEvents::empty();
        let (phase, readable, shutdown) = {
            let state = self.state.lock();
            (state.phase, !state.queue.is_empty() || !state.pending.is_empty(), state.shutdown)
        };
        if self.options.has_error() {
            events |= PollEvents::ERR;
        }
        if shutdown == RCV | SEND {
            events |= PollEvents::HUP;
        }
        if shutdown & RCV != 0 {
            events |= PollEvents::RDHUP | PollEvents::READABLE;
        }
        if readable {
            events |= PollEvents::READABLE;
        }
        if self.connection_based() && matches!(phase, Phase::Idle | Phase::Connecting) {
            events |= PollEvents::HUP;
        }
        let full = peer.is_some_and(|peer| self.queue_is_full(&peer));
        if phase != Phase::Listening && self.account.writable(self.sndbuf()) && !full {
            events |= PollEvents::WRITABLE | PollEvents::WRBAND;
        }
        events
    }

    fn ioctl(&self, cx: &Cx, cmd: u32, arg: UserPtr<u8>) -> Result<u64> {
        const FIONREAD: u32 = 0x541b;
        const SIOCOUTQ: u32 = 0x5411;
        let listening = self.state.lock().phase == Phase::Listening;
        let value = match cmd {
            FIONREAD | SIOCOUTQ if listening => return err(Errno::EINVAL),
            FIONREAD => {
                let state = self.state.lock();
                match self.options.kind {
                    SocketType::Datagram => state.queue.front().map_or(0, Entry::left),
                    _ => state.queue.iter().map(Entry::left).sum(),
                }
            }
            SIOCOUTQ => self.account.used(),
            _ => return err(Errno::ENOTTY),
        };
        arg.cast::<i32>().write(cx, &i32::try_from(value).unwrap_or(i32::MAX))?;
        Ok(0)
    }

    fn get_option(&self, cx: &Cx, level: i32, name: i32, max: usize) -> Result<Vec<u8>> {
        const SO_PEERCRED: i32 = 17;
        const SO_PEERNAME: i32 = 28;
        const SO_PEERGROUPS: i32 = 59;
        const SO_PEERPIDFD: i32 = 77;
        if !is_socket_level(level) {
            return err(Errno::EOPNOTSUPP);
        }
        let (listening, identity) = {
            let state = self.state.lock();
            (state.phase == Phase::Listening, state.identity.clone())
        };
        if let Some(value) = self.options.get(listening, name) {
            return Ok(value);
        }
        match name {
            SO_PEERCRED => {
                let nobody = Ucred { pid: 0, uid: u32::MAX, gid: u32::MAX };
                let ucred = identity.map_or(nobody, |i| i.ucred);
                Ok(zerocopy::IntoBytes::as_bytes(&ucred).to_vec())
            }
            SO_PEERNAME => {
                let name = self.peer_name()?;
                if name.len() < max { err(Errno::EINVAL) } else { Ok(name) }
            }
            SO_PEERPIDFD => {
                let process = identity.and_then(|i| i.process.upgrade()).ok_or(Errno::ENODATA)?;
                let fd = cx.install(crate::ipc::pidfd_new(cx, &process, OpenFlags::empty()), true)?;
                Ok(fd.0.to_ne_bytes().to_vec())
            }
            SO_PEERGROUPS => {
                let Some(identity) = identity else { return err(Errno::ENODATA) };
                let bytes: Vec<u8> = identity.creds.groups.iter().flat_map(|g| g.to_ne_bytes()).collect();
                if bytes.len() > max { err(Errno::ERANGE) } else { Ok(bytes) }
            }
            _ => err(Errno::ENOPROTOOPT),
        }
    }

    fn set_option(&self, cx: &Cx, level: i32, name: i32, value: &[u8]) -> Result<()> {
        if !is_socket_level(level) {
            return err(Errno::EOPNOTSUPP);
        }
        self.options.set(cx, name, value).unwrap_or(err(Errno::ENOPROTOOPT))
    }

    fn close(&self) {
        self.release(false);
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// Checks credentials that a sender names: they must be its own, or it must be allowed to pose as others (`unix(7)`).
pub(crate) fn check_credentials(cx: &Cx, ucred: &Ucred) -> Result<()> {
    let creds = cx.task.creds();
    let pid_ok = ucred.pid == cx.process().pid || creds.has(Cap::SysAdmin);
    let uid_ok = [creds.uid, creds.euid, creds.suid].contains(&ucred.uid) || creds.has(Cap::Setuid);
    let gid_ok = [creds.gid, creds.egid, creds.sgid].contains(&ucred.gid) || creds.has(Cap::Setgid);
    if !(pid_ok && uid_ok && gid_ok) {
        return err(Errno::EPERM);
    }
    if cx.kernel.pids.process(ucred.pid).is_none() {
        return err(Errno::ESRCH);
    }
    Ok(())
}
