//! The traits of protocol families and sockets.

use super::{Options, ReceiveRequest, Received, SendRequest, Shutdown};
use crate::error::{Result, err};
use crate::task::Cx;
use crate::user::UserPtr;
use crate::wait::{PollEvents, PollTable};
use abi::Errno;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::any::Any;

/// `SOCK_*` (`socket(2)`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum SocketType {
    Stream = 1,
    Datagram = 2,
    Raw = 3,
    SeqPacket = 5,
}

impl SocketType {
    /// From the low bits of the argument: `EINVAL` for numbers that no type has, `ESOCKTNOSUPPORT` for types that no family here knows.
    pub fn from_raw(raw: u32) -> Result<SocketType> {
        match raw {
            1 => Ok(SocketType::Stream),
            2 => Ok(SocketType::Datagram),
            3 => Ok(SocketType::Raw),
            5 => Ok(SocketType::SeqPacket),
            0 | 4 | 6..=10 => err(Errno::ESOCKTNOSUPPORT),
            _ => err(Errno::EINVAL),
        }
    }
}

/// A protocol family.
pub trait Family: Send + Sync {
    /// `AF_*`.
    fn number(&self) -> i32;
    /// `socket(2)`. Does not block.
    fn create(&self, cx: &Cx, kind: SocketType, protocol: i32) -> Result<Arc<dyn Socket>>;
    /// `socketpair(2)`. Does not block.
    fn pair(
        &self,
        _cx: &Cx,
        _kind: SocketType,
        _protocol: i32,
    ) -> Result<(Arc<dyn Socket>, Arc<dyn Socket>)> {
        err(Errno::EOPNOTSUPP)
    }
}

/// A socket. Blocking methods honour the `nonblocking` that they are given and the time-outs in [`Socket::options`]. Addresses are
/// the bytes of a `struct sockaddr`, family first, whose length has been checked against the largest only.
pub trait Socket: Send + Sync {
    /// What all sockets have.
    fn options(&self) -> &Options;
    /// `bind(2)`.
    fn bind(&self, cx: &Cx, address: &[u8]) -> Result<()>;
    /// `connect(2)`.
    fn connect(&self, cx: &Cx, address: &[u8], nonblocking: bool) -> Result<()>;
    /// `listen(2)`.
    fn listen(&self, cx: &Cx, backlog: i32) -> Result<()>;
    /// `accept(2)`.
    fn accept(&self, cx: &Cx, nonblocking: bool) -> Result<Arc<dyn Socket>>;
    /// `getsockname(2)`.
    fn name(&self) -> Result<Vec<u8>>;
    /// `getpeername(2)`; `ENOTCONN`.
    fn peer_name(&self) -> Result<Vec<u8>>;
    /// `shutdown(2)`.
    fn shutdown(&self, cx: &Cx, how: Shutdown) -> Result<()>;
    /// Sends; returns the bytes taken. A stream raises `SIGPIPE` itself.
    fn send(&self, cx: &Cx, request: SendRequest<'_>) -> Result<usize>;
    /// Receives.
    fn receive(&self, cx: &Cx, request: ReceiveRequest<'_>) -> Result<Received>;
    /// What it is ready for; adds its queues. Does not block.
    fn poll(&self, table: Option<&mut PollTable<'_>>) -> PollEvents;
    /// `ioctl(2)`.
    fn ioctl(&self, _cx: &Cx, _cmd: u32, _arg: UserPtr<u8>) -> Result<u64> {
        err(Errno::ENOTTY)
    }
    /// `getsockopt(2)` of what [`Options`] does not know: the value's bytes. `max` is the room that the caller has.
    fn get_option(&self, _cx: &Cx, level: i32, _name: i32, _max: usize) -> Result<Vec<u8>> {
        err(if level == abi::net::SOL_SOCKET { Errno::ENOPROTOOPT } else { Errno::EOPNOTSUPP })
    }
    /// `setsockopt(2)` of what [`Options`] does not know.
    fn set_option(&self, _cx: &Cx, level: i32, _name: i32, _value: &[u8]) -> Result<()> {
        err(if level == abi::net::SOL_SOCKET { Errno::ENOPROTOOPT } else { Errno::EOPNOTSUPP })
    }
    /// The last descriptor is gone. Must not block.
    fn close(&self);
    /// For the implementation, to find its own type again.
    fn as_any(&self) -> &dyn Any;
}
