//! Opening FIFOs (`fifo(7)`): the pipe behind a named inode, and the waits for the other end.

use super::pipe::Pipe;
use crate::error::{Result, err};
use crate::fs::{File, Inode, OpenFlags};
use crate::sync::Mutex;
use crate::task::Cx;
use crate::wait::PollEvents;
use abi::Errno;
use alloc::collections::BTreeMap;
use alloc::sync::{Arc, Weak};

/// The pipes of FIFOs that are open, by device and inode number.
#[derive(Default)]
pub struct Fifos {
    pipes: Mutex<BTreeMap<(u64, u64), Weak<Pipe>>>,
}

impl Fifos {
    fn get(&self, cx: &Cx, key: (u64, u64)) -> Arc<Pipe> {
        let mut pipes = self.pipes.lock();
        if let Some(pipe) = pipes.get(&key).and_then(Weak::upgrade) {
            return pipe;
        }
        // Whoever makes a new one sweeps: the map stays as small as the number of FIFOs in use.
        pipes.retain(|_, pipe| pipe.strong_count() > 0);
        let pipe = Pipe::new(cx.kernel, (0, 0));
        pipes.insert(key, Arc::downgrade(&pipe));
        pipe
    }
}

/// Opens the FIFO behind an inode. Waits for the other end unless `O_NONBLOCK` (`ENXIO` for a lone writer) or `O_RDWR` is
/// given; a signal interrupts.
pub fn fifo_open(cx: &Cx, inode: &Arc<dyn Inode>, flags: OpenFlags) -> Result<Arc<dyn File>> {
    let attr = inode.attr()?;
    let pipe = cx.kernel.ipc.fifos.get(cx, (attr.dev.encode(), attr.ino));
    let (read, write) = (flags.readable(), flags.writable());
    let nonblocking = flags.contains(OpenFlags::NONBLOCK);
    if write && !read && nonblocking && !pipe.has_reader() {
        return err(Errno::ENXIO);
    }
    let (end, peers) = pipe.open(read, write);
    pipe.opened.wake_all(PollEvents::empty());
    if !nonblocking && (peers.readers == 0 || peers.writers == 0) {
        // The counts tell an end that came and went from one that never came.
        cx.wait(&pipe.opened, || {
            let now = pipe.opened_counts();
            let came = if read { now.1 != peers.opened.1 } else { now.0 != peers.opened.0 };
            came.then_some(Ok(()))
        })?;
    }
    Ok(Arc::new(end))
}
