//! Sockets. Protocol families plug in through [`Family`] and [`Socket`]; what all sockets have in common ([`SocketFile`], [`Options`]) is here.
//!
//! Present: `AF_UNIX` ([`unix`]). Another family registers with [`Families::register`].
//!
//! Lock order: everything here is a leaf. A socket's locks are never held across a wait, a copy from or to user memory, or the dropping
//! of a message, whose descriptors may be the last reference of anything.

mod file;
mod message;
mod options;
mod socket;
pub mod unix;

pub use file::SocketFile;
pub use message::{Control, MsgFlags, ReceiveRequest, Received, SendRequest};
pub use options::{Blocking, Options, Shutdown};
pub use socket::{Family, Socket, SocketType};

use crate::error::{Result, err};
use crate::mm::Frames;
use crate::sync::Mutex;
use crate::task::Cx;
use abi::Errno;
use abi::net::AF_MAX;
use alloc::collections::BTreeMap;
use alloc::sync::Arc;

/// The protocol families of a kernel, by number.
pub struct Families {
    table: Mutex<BTreeMap<i32, Arc<dyn Family>>>,
    /// `AF_UNIX`, which other parts of the kernel list in `/proc/net/unix`.
    pub unix: Arc<unix::UnixFamily>,
}

impl Families {
    /// Those that every kernel has. What is on its way between sockets is held against these frames.
    pub fn new(frames: &Arc<Frames>) -> Families {
        let unix = unix::UnixFamily::new(frames);
        let families = Families { table: Mutex::new(BTreeMap::new()), unix: unix.clone() };
        families.register(unix);
        families
    }

    /// Adds a family, or replaces the one with its number.
    pub fn register(&self, family: Arc<dyn Family>) {
        let old = self.table.lock().insert(family.number(), family);
        drop(old);
    }

    /// The family with this number; `EAFNOSUPPORT`, with one line in the log for each number.
    pub fn get(&self, cx: &Cx, number: i32) -> Result<Arc<dyn Family>> {
        if let Some(family) = self.table.lock().get(&number) {
            return Ok(family.clone());
        }
        if (0..AF_MAX).contains(&number) {
            // Keys beyond any system-call number, so that one set serves both.
            let first = cx.kernel.missing_logged.lock().insert(u64::MAX - number as u64);
            if first {
                let line = alloc::format!("address family {number} is not supported: EAFNOSUPPORT");
                cx.kernel.log(hal::LogLevel::Warn, &line);
            }
        }
        err(Errno::EAFNOSUPPORT)
    }
}
