//! Sockets: numbers and structures (`uapi/linux/socket.h`, `uapi/asm-generic/socket.h`, `uapi/linux/un.h`).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// `AF_UNSPEC`
pub const AF_UNSPEC: u16 = 0;
/// `AF_UNIX`
pub const AF_UNIX: u16 = 1;
/// One more than the highest address family.
pub const AF_MAX: i32 = 46;
/// `SOL_SOCKET`
pub const SOL_SOCKET: i32 = 1;
/// `SCM_RIGHTS`
pub const SCM_RIGHTS: i32 = 1;
/// `SCM_CREDENTIALS`
pub const SCM_CREDENTIALS: i32 = 2;
/// `SCM_PIDFD`
pub const SCM_PIDFD: i32 = 4;
/// Most descriptors in one message.
pub const SCM_MAX_FD: usize = 253;
/// Bytes of a `struct sockaddr_un`, and where its path starts.
pub const SOCKADDR_UN_LEN: usize = 110;
/// Bytes of the largest address (`struct sockaddr_storage`).
pub const SOCKADDR_MAX: usize = 128;

/// `struct msghdr` on 64-bit machines.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
#[allow(missing_docs)]
pub struct Msghdr {
    pub name: u64,
    pub namelen: i32,
    pub pad: u32,
    pub iov: u64,
    pub iovlen: u64,
    pub control: u64,
    pub controllen: u64,
    pub flags: u32,
    pub pad2: u32,
}

/// `struct mmsghdr`.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
#[allow(missing_docs)]
pub struct Mmsghdr {
    pub hdr: Msghdr,
    pub len: u32,
    pub pad: u32,
}

/// `struct cmsghdr` on 64-bit machines.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
#[allow(missing_docs)]
pub struct Cmsghdr {
    pub len: u64,
    pub level: i32,
    pub kind: i32,
}

/// `struct ucred`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
#[allow(missing_docs)]
pub struct Ucred {
    pub pid: i32,
    pub uid: u32,
    pub gid: u32,
}
