//! `eventfd(2)`: a counter with a descriptor.

use super::anon::anon_attr;
use crate::error::{Result, err};
use crate::fs::{File, OpenFile};
use crate::sync::Mutex;
use crate::task::Cx;
use crate::user::{Sink, Source};
use crate::wait::{PollEvents, PollTable, WaitQueue};
use abi::Errno;
use abi::fs::Attr;
use alloc::format;
use alloc::string::String;
use core::any::Any;

/// The largest value that a counter holds.
const MAX: u64 = u64::MAX - 1;

/// An eventfd.
pub struct EventFd {
    count: Mutex<u64>,
    semaphore: bool,
    id: u64,
    changed: WaitQueue,
}

impl EventFd {
    /// With this initial value; as a semaphore, reads take one.
    pub fn new(initial: u32, semaphore: bool, id: u64) -> EventFd {
        EventFd { count: Mutex::new(u64::from(initial)), semaphore, id, changed: WaitQueue::new() }
    }

    fn try_read(&self, nonblocking: bool) -> Option<Result<u64>> {
        let taken = {
            let mut count = self.count.lock();
            let taken = if self.semaphore { (*count).min(1) } else { *count };
            *count -= taken;
            taken
        };
        match taken {
            0 if nonblocking => Some(err(Errno::EAGAIN)),
            0 => None,
            _ => {
                self.changed.wake_all(PollEvents::WRITABLE);
                Some(Ok(taken))
            }
        }
    }

    fn try_write(&self, value: u64, nonblocking: bool) -> Option<Result<()>> {
        let fits = {
            let mut count = self.count.lock();
            let sum = count.checked_add(value).filter(|&sum| sum <= MAX);
            *count = sum.unwrap_or(*count);
            sum.is_some()
        };
        match fits {
            true => {
                self.changed.wake_all(PollEvents::READABLE);
                Some(Ok(()))
            }
            false if nonblocking => Some(err(Errno::EAGAIN)),
            false => None,
        }
    }
}

impl File for EventFd {
    fn read(&self, cx: &Cx, of: &OpenFile, _pos: &mut u64, sink: &mut dyn Sink) -> Result<usize> {
        if sink.room() < 8 {
            return err(Errno::EINVAL);
        }
        let value = cx.wait(&self.changed, || self.try_read(of.nonblocking()))?;
        sink.put(&value.to_ne_bytes())?;
        Ok(8)
    }

    fn write(&self, cx: &Cx, of: &OpenFile, _pos: &mut u64, source: &mut dyn Source) -> Result<usize> {
        let mut bytes = [0; 8];
        if source.left() < bytes.len() {
            return err(Errno::EINVAL);
        }
        if source.take(&mut bytes)? < bytes.len() {
            return err(Errno::EFAULT);
        }
        let value = u64::from_ne_bytes(bytes);
        if value == u64::MAX {
            return err(Errno::EINVAL);
        }
        cx.wait(&self.changed, || self.try_write(value, of.nonblocking()))?;
        Ok(8)
    }

    fn poll(&self, _cx: &Cx, _of: &OpenFile, table: Option<&mut PollTable<'_>>) -> PollEvents {
        if let Some(table) = table {
            table.add(&self.changed);
        }
        let count = *self.count.lock();
        // Only the plain pairs: an eventfd says neither RDNORM nor WRNORM.
        let mut events = PollEvents::empty();
        events.set(PollEvents::IN, count > 0);
        events.set(PollEvents::OUT, count < MAX);
        events
    }

    fn attr(&self) -> Result<Attr> {
        Ok(anon_attr())
    }

    fn describe(&self) -> String {
        String::from("anon_inode:[eventfd]")
    }

    fn fdinfo(&self) -> String {
        format!(
            "eventfd-count: {:16x}\neventfd-id: {}\neventfd-semaphore: {}\n",
            *self.count.lock(),
            self.id,
            u8::from(self.semaphore)
        )
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
