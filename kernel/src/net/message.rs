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
    pub struct MsgFlags: u32 {
        /// `MSG_OOB`
        const OOB = 0x1;
        /// `MSG_PEEK`
        const PEEK = 0x2;
        /// `MSG_DONTROUTE`
        const DONTROUTE = 0x4;
        /// `MSG_CTRUNC`
        const CTRUNC = 0x8;
        /// `MSG_TRUNC`
        const TRUNC = 0x20;
        /// `MSG_DONTWAIT`
        const DONTWAIT = 0x40;
        /// `MSG_EOR`
        const EOR = 0x80;
        /// `MSG_WAITALL`
        const WAITALL = 0x100;
        /// `MSG_ERRQUEUE`
        const ERRQUEUE = 0x2000;
        /// `MSG_NOSIGNAL`
        const NOSIGNAL = 0x4000;
        /// `MSG_MORE`
        const MORE = 0x8000;
        /// `MSG_WAITFORONE`
        const WAITFORONE = 0x1_0000;
        /// `MSG_CMSG_CLOEXEC`
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
