//! A socket as an open file.

use super::{MsgFlags, ReceiveRequest, SendRequest, Socket};
use crate::Kernel;
use crate::error::{Result, err};
use crate::fs::{File, OpenFile, OpenFlags};
use crate::task::Cx;
use crate::user::{Sink, Source, UserPtr};
use crate::wait::{PollEvents, PollTable};
use abi::Errno;
use abi::fs::{Attr, DeviceId};
use abi::time::Timespec;
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use core::any::Any;

/// The device number that sockets report in `stat(2)`: an anonymous one, as Linux's `sockfs` has.
const SOCKFS: DeviceId = DeviceId::new(0, 9);

/// A socket as a file. Dropping it closes the socket.
pub struct SocketFile {
    socket: Arc<dyn Socket>,
}

impl SocketFile {
    /// An open file for a socket; `flags` may hold `NONBLOCK`.
    pub fn open(kernel: &Kernel, socket: Arc<dyn Socket>, flags: OpenFlags) -> Arc<OpenFile> {
        let file = Arc::new(SocketFile { socket });
        OpenFile::new(kernel, file, None, None, OpenFlags::RDWR | (flags & OpenFlags::NONBLOCK))
    }

    /// The socket.
    pub fn socket(&self) -> &Arc<dyn Socket> {
        &self.socket
    }

    /// The socket of an open file; `ENOTSOCK`.
    pub fn of(file: &OpenFile) -> Result<&Arc<dyn Socket>> {
        match file.downcast::<SocketFile>() {
            Some(socket) => Ok(&socket.socket),
            None => err(Errno::ENOTSOCK),
        }
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        self.socket.close();
    }
}

impl File for SocketFile {
    fn read(&self, cx: &Cx, of: &OpenFile, _pos: &mut u64, sink: &mut dyn Sink) -> Result<usize> {
        if sink.room() == 0 {
            return Ok(0);
        }
        let request = ReceiveRequest { data: sink, flags: MsgFlags::empty(), nonblocking: of.nonblocking() };
        // Descriptors that came along and have nowhere to go are closed here.
        self.socket.receive(cx, request).map(|received| received.len)
    }

    fn write(&self, cx: &Cx, of: &OpenFile, _pos: &mut u64, source: &mut dyn Source) -> Result<usize> {
        let request = SendRequest {
            data: source,
            to: None,
            control: Default::default(),
            flags: MsgFlags::empty(),
            nonblocking: of.nonblocking(),
        };
        self.socket.send(cx, request)
    }

    fn poll(&self, _cx: &Cx, _of: &OpenFile, table: Option<&mut PollTable<'_>>) -> PollEvents {
        self.socket.poll(table)
    }

    fn ioctl(&self, cx: &Cx, _of: &OpenFile, cmd: u32, arg: u64) -> Result<u64> {
        self.socket.ioctl(cx, cmd, UserPtr::new(arg))
    }

    fn attr(&self) -> Result<Attr> {
        let options = self.socket.options();
        let epoch = Timespec::default();
        Ok(Attr {
            dev: SOCKFS,
            ino: options.ino,
            mode: abi::fs::FileType::Socket.mode_bits() | 0o777,
            nlink: 1,
            uid: options.owner.0,
            gid: options.owner.1,
            rdev: DeviceId::default(),
            size: 0,
            blksize: 4096,
            blocks: 0,
            atime: epoch,
            mtime: epoch,
            ctime: epoch,
            btime: None,
        })
    }

    fn describe(&self) -> String {
        format!("socket:[{}]", self.socket.options().ino)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
