//! The memory devices: `null(4)`, `zero(4)`, `full(4)`, `random(4)`, and the log (`/dev/kmsg`).

use crate::error::{Result, err};
use crate::fs::{Device, Devices, File, Mappable, OpenFile, OpenFlags, Path};
use crate::task::{Cap, Cx};
use crate::user::{Sink, Source, UserPtr};
use crate::wait::{PollEvents, PollTable};
use abi::Errno;
use abi::fs::DeviceId;
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use core::any::Any;
use hal::LogLevel;

/// Bytes produced at a time.
const CHUNK: usize = 4096;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Null,
    Zero,
    Full,
    Random,
    Log,
}

struct Driver(Kind);

struct MemoryDevice(Kind);

pub(super) fn register(devices: &Devices) {
    let kinds = [(3, Kind::Null), (5, Kind::Zero), (7, Kind::Full), (8, Kind::Random), (9, Kind::Random)];
    for (minor, kind) in kinds {
        devices.register_char(DeviceId::new(1, minor), Arc::new(Driver(kind)));
    }
    devices.register_char(DeviceId::new(1, 11), Arc::new(Driver(Kind::Log)));
}

impl Device for Driver {
    fn open(&self, cx: &Cx, _path: &Path, flags: OpenFlags) -> Result<Arc<dyn File>> {
        // Reading the log is for the privileged (`dmesg_restrict`).
        if self.0 == Kind::Log && flags.readable() && !cx.task.creds().has(Cap::SysAdmin) {
            return err(Errno::EPERM);
        }
        Ok(Arc::new(MemoryDevice(self.0)))
    }
}

impl MemoryDevice {
    fn produce(&self, cx: &Cx, sink: &mut dyn Sink) -> Result<usize> {
        let mut bytes = [0u8; CHUNK];
        let mut done = 0;
        while sink.room() > 0 {
            let len = sink.room().min(CHUNK);
            let Some(chunk) = bytes.get_mut(..len) else { break };
            if self.0 == Kind::Random {
                cx.kernel.machine.entropy(chunk);
            }
            match sink.put(chunk) {
                Ok(()) => done += len,
                Err(_) if done > 0 => break,
                Err(e) => return Err(e),
            }
            // A long read may be interrupted once it has something (`random(4)`).
            if cx.task.has_signal() {
                break;
            }
        }
        Ok(done)
    }
}

/// Takes everything and looks at nothing. The memory is not touched, so that bad addresses go unnoticed, as on Linux.
fn swallow(source: &mut dyn Source) -> usize {
    source.left()
}

impl File for MemoryDevice {
    fn read(&self, cx: &Cx, of: &OpenFile, _pos: &mut u64, sink: &mut dyn Sink) -> Result<usize> {
        match self.0 {
            Kind::Null => Ok(0),
            Kind::Log if of.nonblocking() => err(Errno::EAGAIN),
            // The log goes to the machine and is not kept: there is nothing to read, ever.
            Kind::Log => match cx.sleep(None) {
                crate::task::WaitEnd::Interrupted => {
                    Err(crate::error::Error::Interrupted(crate::error::Restart::IfAsked))
                }
                crate::task::WaitEnd::TimedOut => Ok(0),
            },
            Kind::Zero | Kind::Full | Kind::Random => self.produce(cx, sink),
        }
    }

    fn write(&self, cx: &Cx, _of: &OpenFile, _pos: &mut u64, source: &mut dyn Source) -> Result<usize> {
        match self.0 {
            Kind::Null | Kind::Zero => Ok(swallow(source)),
            Kind::Full => err(Errno::ENOSPC),
            Kind::Random => {
                // Whatever is mixed in can't make the host's generator better; the memory must be readable all the same.
                let mut bytes = [0u8; CHUNK];
                let mut done = 0;
                while source.left() > 0 {
                    match source.take(&mut bytes)? {
                        0 => break,
                        n => done += n,
                    }
                }
                Ok(done)
            }
            Kind::Log => {
                let mut bytes = [0u8; 1024];
                if source.left() > bytes.len() - 32 {
                    return err(Errno::EINVAL);
                }
                let len = source.take(&mut bytes)?;
                let text = String::from_utf8_lossy(bytes.get(..len).unwrap_or_default()).into_owned();
                let line = text.trim_end_matches('\n');
                // `<N>` in front is the priority.
                let line =
                    line.strip_prefix('<').and_then(|l| l.split_once('>')).map_or(line, |(_, rest)| rest);
                cx.kernel.log(LogLevel::Info, &format!("kmsg: {line}"));
                Ok(len)
            }
        }
    }

    fn seekable(&self) -> bool {
        true
    }

    fn seek(&self, _cx: &Cx, of: &OpenFile, offset: i64, whence: u32) -> Result<u64> {
        match self.0 {
            // No position: every seek goes to the start.
            Kind::Null | Kind::Zero | Kind::Full => Ok(0),
            Kind::Random | Kind::Log => match whence {
                0 => u64::try_from(offset).map_err(|_| Errno::EINVAL.into()),
                1 => of.pos().checked_add_signed(offset).ok_or(Errno::EINVAL.into()),
                _ => err(Errno::EINVAL),
            },
        }
    }

    fn poll(&self, _cx: &Cx, _of: &OpenFile, _table: Option<&mut PollTable<'_>>) -> PollEvents {
        match self.0 {
            Kind::Log => PollEvents::WRITABLE,
            _ => PollEvents::READABLE | PollEvents::WRITABLE,
        }
    }

    fn pollable(&self) -> bool {
        // The others have no `poll` on Linux, so epoll refuses them.
        matches!(self.0, Kind::Random | Kind::Log)
    }

    fn ioctl(&self, cx: &Cx, _of: &OpenFile, cmd: u32, arg: u64) -> Result<u64> {
        const RNDGETENTCNT: u32 = 0x8004_5200;
        match (self.0, cmd) {
            (Kind::Random, RNDGETENTCNT) => {
                UserPtr::<u32>::new(arg).write(cx, &256)?;
                Ok(0)
            }
            (Kind::Random, _) => err(Errno::EINVAL),
            _ => err(Errno::ENOTTY),
        }
    }

    fn mmap(&self, _cx: &Cx, _of: &OpenFile) -> Result<Mappable> {
        match self.0 {
            Kind::Zero => Ok(Mappable::Zero),
            _ => err(Errno::ENODEV),
        }
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
