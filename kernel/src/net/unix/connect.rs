//! Names and connections: bind, connect, listen, accept.

use super::UnixSocket;
use super::address::{self, Address, Target};
use super::path;
use super::socket::{PeerIdentity, Phase, RCV};
use crate::error::{Result, err};
use crate::task::Cx;
use crate::wait::PollEvents;
use abi::Errno;
use alloc::format;
use alloc::sync::Arc;

/// The longest queue of connections (`net.core.somaxconn`).
/// Number of names that `autobind` chooses from: five hexadecimal digits.
const AUTO_NAMES: u32 = 1 << 20;

impl UnixSocket {
    /// Sets the address of a socket whose name has been registered; takes the name back if it got one meanwhile.
    pub(super) fn set_address(&self, address: Address) -> Result<()> {
        {
            let mut state = self.state.lock();
            if state.address.is_none() && !state.dead {
                state.address = Some(Arc::new(address));
                return Ok(());
            }
        }
        self.family.unbind(self.options.kind, &address, self);
        err(Errno::EINVAL)
    }

    /// Binds to a free abstract name (`unix(7)`, "Autobind feature"); nothing if it is bound.
    pub(super) fn autobind(&self, cx: &Cx) -> Result<()> {
        if self.state.lock().address.is_some() {
            return Ok(());
        }
        let Some(me) = self.me.upgrade() else { return err(Errno::EINVAL) };
        let mut seed = [0; 4];
        cx.kernel.machine.entropy(&mut seed);
        let first = u32::from_ne_bytes(seed);
        for step in 0..AUTO_NAMES {
            let number = first.wrapping_add(step) % AUTO_NAMES;
            let name = format!("\0{number:05x}").into_bytes();
            match self.family.bind_abstract(self.options.kind, &name, &me) {
                Ok(()) => return self.set_address(Address::Abstract(name)),
                Err(e) if e.errno() == Errno::EADDRINUSE => {}
                Err(e) => return Err(e),
            }
        }
        err(Errno::ENOSPC)
    }

    /// A socket that wants credentials must be answerable by name.
    pub(super) fn autobind_if_passcred(&self, cx: &Cx) -> Result<()> {
        if self.options.passcred() { self.autobind(cx) } else { Ok(()) }
    }

    /// The socket of an address; `ECONNREFUSED`, `EPROTOTYPE`, or what the path walk says.
    pub(super) fn find(&self, cx: &Cx, target: Target<'_>) -> Result<Arc<UnixSocket>> {
        let found = match target {
            Target::Unnamed => return err(Errno::EINVAL),
            Target::Abstract(name) => self.family.find_abstract(self.options.kind, name)?,
            Target::Path(text) => self.family.find_inode(path::find(cx, text)?)?,
        };
        if found.options.kind == self.options.kind { Ok(found) } else { err(Errno::EPROTOTYPE) }
    }

    pub(super) fn start_listening(&self, cx: &Cx, backlog: i32) -> Result<()> {
        if !self.connection_based() {
            return err(Errno::EOPNOTSUPP);
        }
        // A negative backlog is a huge unsigned one.
        let most = cx.kernel.settings.somaxconn.size();
        let backlog = usize::try_from(backlog).unwrap_or(most).min(most);
        let mut state = self.state.lock();
        if state.address.is_none() || !matches!(state.phase, Phase::Idle | Phase::Listening) {
            return err(Errno::EINVAL);
        }
        let more = backlog > state.backlog;
        state.phase = Phase::Listening;
        state.backlog = backlog;
        state.identity = Some(PeerIdentity::own(cx));
        drop(state);
        if more {
            self.space.wake_all(PollEvents::WRITABLE);
        }
        Ok(())
    }

    pub(super) fn connect_stream(&self, cx: &Cx, bytes: &[u8], nonblocking: bool) -> Result<()> {
        let target = address::parse(bytes)?;
        if target == Target::Unnamed {
            return err(Errno::EINVAL);
        }
        self.autobind_if_passcred(cx)?;
        let blocking = self.options.send_blocking(cx, nonblocking);
        let Some(me) = self.me.upgrade() else { return err(Errno::EINVAL) };
        // The other end of the connection: made first, because nothing can be undone once the listener has it.
        let server = UnixSocket::new(cx, self.family.clone(), self.options.kind);
        loop {
            let listener = self.find(cx, target)?;
            self.begin_connecting()?;
            match self.offer(cx, &listener, &server, &me) {
                Ok(true) => {
                    let identity = listener.state.lock().identity.clone();
                    let mut state = self.state.lock();
                    state.phase = Phase::Established;
                    state.identity = identity;
                    state.peer = Some(server);
                    drop(state);
                    listener.readable.wake_all_sync(PollEvents::READABLE);
                    return Ok(());
                }
                Ok(false) => self.state.lock().phase = Phase::Idle,
                Err(e) => {
                    self.state.lock().phase = Phase::Idle;
                    return Err(e);
                }
            }
            // The queue is full: wait for room and look again who listens.
            blocking.wait(cx, &[&listener.space], || {
                let state = listener.state.lock();
                let changed = state.dead
                    || state.phase != Phase::Listening
                    || state.shutdown & RCV != 0
                    || state.pending.len() <= state.backlog;
                changed.then_some(Ok(()))
            })?;
        }
    }

    fn begin_connecting(&self) -> Result<()> {
        let mut state = self.state.lock();
        match state.phase {
            Phase::Idle => {
                state.phase = Phase::Connecting;
                Ok(())
            }
            Phase::Established => err(Errno::EISCONN),
            Phase::Connecting | Phase::Listening => err(Errno::EINVAL),
        }
    }

    /// Puts the server's end into the listener's queue; false when the queue is full.
    fn offer(
        &self,
        cx: &Cx,
        listener: &UnixSocket,
        server: &Arc<UnixSocket>,
        me: &Arc<UnixSocket>,
    ) -> Result<bool> {
        let address = {
            let state = listener.state.lock();
            if state.dead || state.phase != Phase::Listening || state.shutdown & RCV != 0 {
                return err(Errno::ECONNREFUSED);
            }
            if state.pending.len() > state.backlog {
                return Ok(false);
            }
            state.address.clone()
        };
        {
            let mut state = server.state.lock();
            state.phase = Phase::Established;
            state.address = address;
            state.identity = Some(PeerIdentity::own(cx));
            state.peer = Some(me.clone());
        }
        server.options.inherit(&listener.options);
        let mut state = listener.state.lock();
        if state.dead || state.shutdown & RCV != 0 {
            drop(state);
            server.state.lock().peer = None;
            return err(Errno::ECONNREFUSED);
        }
        state.pending.push_back(server.clone());
        Ok(true)
    }

    pub(super) fn connect_datagram(&self, cx: &Cx, bytes: &[u8]) -> Result<()> {
        let family = bytes.first_chunk::<2>().map(|b| u16::from_ne_bytes(*b));
        let other = if family == Some(abi::net::AF_UNSPEC) {
            None
        } else {
            let target = address::parse(bytes)?;
            if target == Target::Unnamed {
                return err(Errno::EINVAL);
            }
            self.autobind_if_passcred(cx)?;
            let other = self.find(cx, target)?;
            if !other.hears(self) {
                return err(Errno::EPERM);
            }
            Some(other)
        };
        let (old, dropped) = {
            let mut state = self.state.lock();
            state.phase = if other.is_some() { Phase::Established } else { Phase::Idle };
            let same = matches!((&state.peer, &other), (Some(a), Some(b)) if Arc::ptr_eq(a, b));
            if same {
                return Ok(());
            }
            let old = core::mem::replace(&mut state.peer, other);
            // Messages of a former peer are not for the new connection.
            let dropped = if old.is_some() { core::mem::take(&mut state.queue) } else { Default::default() };
            (old, dropped)
        };
        if let Some(old) = old.filter(|_| !dropped.is_empty()) {
            self.space.wake_all(PollEvents::WRITABLE);
            let mutual = {
                let state = old.state.lock();
                !state.dead && state.peer.as_ref().is_some_and(|p| core::ptr::eq(&**p, self))
            };
            if mutual {
                old.options.set_error(Errno::ECONNRESET);
                old.state_changed(PollEvents::ERR);
            }
        }
        Ok(())
    }

    /// Whether a datagram socket takes messages from `sender`: it is not connected, or to it.
    pub(super) fn hears(&self, sender: &UnixSocket) -> bool {
        self.state.lock().peer.as_ref().is_none_or(|peer| core::ptr::eq(&**peer, sender))
    }

    pub(super) fn accept_one(&self, cx: &Cx, nonblocking: bool) -> Result<Arc<UnixSocket>> {
        if !self.connection_based() {
            return err(Errno::EOPNOTSUPP);
        }
        if self.state.lock().phase != Phase::Listening {
            return err(Errno::EINVAL);
        }
        let blocking = self.options.receive_blocking(cx, nonblocking);
        let connection = blocking.wait(cx, &[&self.readable], || {
            let mut state = self.state.lock();
            if let Some(connection) = state.pending.pop_front() {
                return Some(Ok(connection));
            }
            if state.shutdown & RCV != 0 {
                return Some(err(Errno::EINVAL));
            }
            None
        })?;
        self.space.wake_all(PollEvents::WRITABLE);
        Ok(connection)
    }
}
