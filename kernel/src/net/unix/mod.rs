//! `AF_UNIX` sockets (`unix(7)`): stream, datagram and sequenced-packet; path names, abstract names, unnamed.
//!
//! * [`UnixFamily`]: names, and the list of all sockets;
//! * [`UnixSocket`]: one socket; connecting is in `connect`, streams in `stream`, packets in `packet`;
//! * [`Rights`]: files in flight.
//!
//! A message is charged to its sender until it is read, with the sizes that Linux's buffers have, so that as many messages fit as there.
//! Lock order: a socket's state is a leaf; two sockets' states are never held together.
//!
//! Differs from Linux: a cycle of sockets that hold each other in flight and that nobody has open is not collected; a user's descriptors
//! in flight are limited by `RLIMIT_NOFILE` as on Linux, which bounds it. No out-of-band byte (`MSG_OOB`).

mod account;
mod address;
mod connect;
mod packet;
mod path;
mod rights;
mod socket;
mod stream;
#[cfg(test)]
mod tests;

pub use rights::Rights;
pub(crate) use socket::check_credentials;
pub use socket::{SocketInfo, UnixSocket};

use super::{Family, Socket, SocketType};
use crate::error::{Result, err};
use crate::mm::Frames;
use crate::sync::Mutex;
use crate::task::Cx;
use abi::Errno;
use account::Memory;
use address::Address;
use alloc::collections::BTreeMap;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use rights::Graveyard;

/// What identifies the inode of a bound socket: device and inode number.
type InodeKey = (u64, u64);

#[derive(Default)]
struct Names {
    /// Each type has abstract names of its own.
    abstracts: BTreeMap<(SocketType, Vec<u8>), Weak<UnixSocket>>,
    paths: BTreeMap<InodeKey, Weak<UnixSocket>>,
}

/// The family: what all its sockets share.
pub struct UnixFamily {
    me: Weak<UnixFamily>,
    names: Mutex<Names>,
    sockets: Mutex<BTreeMap<u64, Weak<UnixSocket>>>,
    /// Descriptors in flight by user.
    in_flight: Mutex<BTreeMap<u32, usize>>,
    graveyard: Graveyard,
    memory: Arc<Memory>,
}

impl UnixFamily {
    /// A family without sockets.
    pub fn new(frames: &Arc<Frames>) -> Arc<UnixFamily> {
        Arc::new_cyclic(|me| UnixFamily {
            me: me.clone(),
            names: Mutex::default(),
            sockets: Mutex::default(),
            in_flight: Mutex::default(),
            graveyard: Graveyard::default(),
            memory: Arc::new(Memory::new(frames)),
        })
    }

    /// All sockets that are open or wait to be accepted, in the order in which they were made, for `/proc/net/unix`.
    pub fn list(&self) -> Vec<SocketInfo> {
        let sockets: Vec<_> = self.sockets.lock().values().filter_map(Weak::upgrade).collect();
        sockets.iter().filter_map(|s| s.info()).collect()
    }

    /// Gives a socket an abstract name; `EADDRINUSE`.
    fn bind_abstract(&self, kind: SocketType, name: &[u8], socket: &Arc<UnixSocket>) -> Result<()> {
        let mut names = self.names.lock();
        let entry = names.abstracts.entry((kind, name.to_vec())).or_default();
        if entry.strong_count() > 0 {
            return err(Errno::EADDRINUSE);
        }
        *entry = Arc::downgrade(socket);
        Ok(())
    }

    fn bind_inode(&self, key: InodeKey, socket: &Arc<UnixSocket>) {
        self.names.lock().paths.insert(key, Arc::downgrade(socket));
    }

    fn unbind(&self, kind: SocketType, address: &Address, socket: &UnixSocket) {
        let mut names = self.names.lock();
        // Sockets made by `accept` have their listener's address but not its name.
        let mine =
            |entry: Option<&Weak<UnixSocket>>| entry.is_some_and(|w| core::ptr::eq(w.as_ptr(), socket));
        match address {
            Address::Abstract(name) => {
                let key = (kind, name.clone());
                if mine(names.abstracts.get(&key)) {
                    names.abstracts.remove(&key);
                }
            }
            Address::Path { key, .. } => {
                if mine(names.paths.get(key)) {
                    names.paths.remove(key);
                }
            }
        }
    }

    fn find_abstract(&self, kind: SocketType, name: &[u8]) -> Result<Arc<UnixSocket>> {
        let found = self.names.lock().abstracts.get(&(kind, name.to_vec())).and_then(Weak::upgrade);
        found.ok_or(Errno::ECONNREFUSED.into())
    }

    fn find_inode(&self, key: InodeKey) -> Result<Arc<UnixSocket>> {
        let found = self.names.lock().paths.get(&key).and_then(Weak::upgrade);
        found.ok_or(Errno::ECONNREFUSED.into())
    }
}

impl Family for UnixFamily {
    fn number(&self) -> i32 {
        i32::from(abi::net::AF_UNIX)
    }

    fn create(&self, cx: &Cx, kind: SocketType, protocol: i32) -> Result<Arc<dyn Socket>> {
        Ok(self.new_socket(cx, kind, protocol)?)
    }

    fn pair(&self, cx: &Cx, kind: SocketType, protocol: i32) -> Result<(Arc<dyn Socket>, Arc<dyn Socket>)> {
        let (a, b) = (self.new_socket(cx, kind, protocol)?, self.new_socket(cx, kind, protocol)?);
        a.join(cx, &b);
        b.join(cx, &a);
        Ok((a, b))
    }
}

impl UnixFamily {
    fn new_socket(&self, cx: &Cx, kind: SocketType, protocol: i32) -> Result<Arc<UnixSocket>> {
        if protocol != 0 && protocol != i32::from(abi::net::AF_UNIX) {
            return err(Errno::EPROTONOSUPPORT);
        }
        // As on Linux, raw sockets are datagram sockets here.
        let kind = if kind == SocketType::Raw { SocketType::Datagram } else { kind };
        let Some(family) = self.me.upgrade() else { return err(Errno::EAFNOSUPPORT) };
        Ok(UnixSocket::new(cx, family, kind))
    }
}
