//! What passes through the send and receive calls.
#![allow(missing_docs, reason = "flags carry the names of the uapi headers")]

use crate::fs::OpenFile;
use crate::user::{Sink, Source};
use abi::net::Ucred;
use alloc::sync::Arc;
use alloc::vec::Vec;
use bitflags::bitflags;

bitflags! {
    /// `MSG_*` (`send(2)`, `recv(2)`).
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
    #[allow(missing_docs)]
    pub struct MsgFlags: u32 {
        const OOB = 0x1;
        const PEEK = 0x2;
        const DONTROUTE = 0x4;
        const CTRUNC = 0x8;
        const TRUNC = 0x20;
        const DONTWAIT = 0x40;
        const EOR = 0x80;
        const WAITALL = 0x100;
        const ERRQUEUE = 0x2000;
        const NOSIGNAL = 0x4000;
        const MORE = 0x8000;
        const WAITFORONE = 0x1_0000;
        const CMSG_CLOEXEC = 0x4000_0000;
        const _ = !0;
    }
}

/// Ancillary data that a sender attaches (`cmsg(3)`, `unix(7)`).
#[derive(Default)]
pub struct Control {
    /// Files to pass.
    pub files: Vec<Arc<OpenFile>>,
    /// Credentials that the sender names; they have been checked.
    pub creds: Option<Ucred>,
}

/// A message to send.
pub struct SendRequest<'a> {
    /// The data.
    pub data: &'a mut dyn Source,
    /// The destination as the guest gave it, if it did.
    pub to: Option<&'a [u8]>,
    /// Ancillary data.
    pub control: Control,
    /// How.
    pub flags: MsgFlags,
    /// Fail with `EAGAIN` rather than wait.
    pub nonblocking: bool,
}

/// A message to receive.
pub struct ReceiveRequest<'a> {
    /// Where the data goes.
    pub data: &'a mut dyn Sink,
    /// How.
    pub flags: MsgFlags,
    /// Fail with `EAGAIN` rather than wait.
    pub nonblocking: bool,
}

/// What was received besides the data.
#[derive(Default)]
pub struct Received {
    /// What the call returns: the bytes put into the buffer, or the full length with `MSG_TRUNC`.
    pub len: usize,
    /// The sender's address, empty when it has none.
    pub from: Vec<u8>,
    /// Files that came with it.
    pub files: Vec<Arc<OpenFile>>,
    /// The sender's credentials, if the receiver asked for them.
    pub creds: Option<Ucred>,
    /// `MSG_TRUNC` and the like.
    pub flags: MsgFlags,
}
