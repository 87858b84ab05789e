//! Addresses (`struct sockaddr_un`).

use super::InodeKey;
use crate::error::{Result, err};
use crate::fs::Path;
use abi::Errno;
use abi::net::{AF_UNIX, SOCKADDR_UN_LEN};
use alloc::vec::Vec;

/// Where the path starts in the structure.
const PATH_AT: usize = 2;

/// The name of a bound socket.
pub(super) enum Address {
    /// A path as it was given, without its terminator, and the inode that was made.
    Path {
        /// The text.
        text: Vec<u8>,
        /// The inode.
        key: InodeKey,
        /// Keeps the inode, so that no other gets its number while the socket is bound.
        _place: Option<Path>,
    },
    /// An abstract name with its leading zero byte.
    Abstract(Vec<u8>),
}

/// An address that a guest passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Target<'a> {
    /// The family alone: for `bind`, "any free name".
    Unnamed,
    /// A path.
    Path(&'a [u8]),
    /// An abstract name with its leading zero byte.
    Abstract(&'a [u8]),
}

/// Takes an address apart; `EINVAL` when it is none of this family.
pub(super) fn parse(bytes: &[u8]) -> Result<Target<'_>> {
    let Some(family) = bytes.first_chunk::<2>().map(|b| u16::from_ne_bytes(*b)) else {
        return err(Errno::EINVAL);
    };
    if family != AF_UNIX || bytes.len() > SOCKADDR_UN_LEN {
        return err(Errno::EINVAL);
    }
    let name = bytes.get(PATH_AT..).unwrap_or_default();
    Ok(match name.first() {
        None => Target::Unnamed,
        Some(0) => Target::Abstract(name),
        Some(_) => Target::Path(name.split(|&b| b == 0).next().unwrap_or_default()),
    })
}

/// The structure for an address; the family alone for a socket without one.
pub(super) fn to_bytes(address: Option<&Address>) -> Vec<u8> {
    let mut out = AF_UNIX.to_ne_bytes().to_vec();
    match address {
        None => {}
        Some(Address::Abstract(name)) => out.extend_from_slice(name),
        Some(Address::Path { text, .. }) => {
            out.extend_from_slice(text);
            out.push(0);
        }
    }
    out
}

/// A sender's address as a receiver sees it: nothing at all for a socket without one.
pub(super) fn to_sender(address: Option<&Address>) -> Vec<u8> {
    address.map_or_else(Vec::new, |address| to_bytes(Some(address)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_taken_apart() {
        assert_eq!(parse(b"\x01").unwrap_err().errno(), Errno::EINVAL);
        assert_eq!(parse(b"\x02\0abc").unwrap_err().errno(), Errno::EINVAL);
        assert_eq!(parse(b"\x01\0").unwrap(), Target::Unnamed);
        assert_eq!(parse(b"\x01\0/a\0junk").unwrap(), Target::Path(b"/a"));
        assert_eq!(parse(b"\x01\0\0a\0b").unwrap(), Target::Abstract(b"\0a\0b"));
        let mut longest = [b'x'; SOCKADDR_UN_LEN];
        (longest[0], longest[1]) = (1, 0);
        assert_eq!(parse(&longest).unwrap(), Target::Path(&longest[2..]));
    }

    #[test]
    fn a_path_comes_back_with_its_terminator() {
        let path = Address::Path { text: b"/a".to_vec(), key: (0, 0), _place: None };
        assert_eq!(to_bytes(Some(&path)), b"\x01\0/a\0");
        assert_eq!(to_bytes(None), b"\x01\0");
    }
}
