//! `/dev/pts`: a node for every terminal (`pts(4)`).

use super::pseudo::{DirSource, Entry, Meta, PTS_DEV, PseudoDir, PseudoFs};
use crate::Kernel;
use crate::error::{Result, err};
use crate::fs::{File, FileSystem, Inode, OpenFlags, Path};
use crate::task::Cx;
use crate::tty::{self, Terminal};
use abi::Errno;
use abi::fs::{Attr, DeviceId, FileType};
use abi::time::Timespec;
use alloc::format;
use alloc::string::ToString;
use alloc::sync::Arc;
use core::any::Any;
use hal::{ClockId, SetAttr, TimeSet};

/// `DEVPTS_SUPER_MAGIC`.
const MAGIC: i64 = 0x1cd1;
/// The inode of `ptmx`; that of terminal N is N + 3.
const PTMX_INO: u64 = 2;
const FIRST_INO: u64 = 3;

/// `/dev/pts` as a file system to mount.
pub fn new(kernel: &Kernel) -> Arc<dyn FileSystem> {
    let now = Timespec::from_ns(kernel.machine.clock_ns(ClockId::Realtime));
    let meta = Meta::new(PTS_DEV, 1, FileType::Directory, 0o755, now);
    let root = PseudoDir::new(meta, Arc::new(Terminals { made: now }));
    Arc::new(PseudoFs { fs_type: "devpts", magic: MAGIC, root, options: "gid=5,mode=620,ptmxmode=666" })
}

struct Terminals {
    made: Timespec,
}

impl DirSource for Terminals {
    fn lookup(&self, cx: &Cx, name: &[u8]) -> Result<Arc<dyn Inode>> {
        if name == b"ptmx" {
            return Ok(Arc::new(Multiplexer { made: self.made }));
        }
        let index = core::str::from_utf8(name).ok().and_then(|text| text.parse::<u32>().ok());
        let Some(index) = index.filter(|index| index.to_string().as_bytes() == name) else {
            return err(Errno::ENOENT);
        };
        match cx.kernel.terminals.get(index) {
            Some(terminal) => Ok(Arc::new(Node { terminal })),
            None => err(Errno::ENOENT),
        }
    }

    fn list(&self, cx: &Cx, from: u64, emit: &mut dyn FnMut(Entry<'_>) -> bool) -> Result<()> {
        let file_type = FileType::CharDevice;
        if from == 0 && !emit(Entry { key: 0, name: b"ptmx", ino: PTMX_INO, file_type }) {
            return Ok(());
        }
        for terminal in cx.kernel.terminals.list() {
            let key = u64::from(terminal.index) + 1;
            if key < from {
                continue;
            }
            let name = format!("{}", terminal.index);
            let ino = u64::from(terminal.index) + FIRST_INO;
            if !emit(Entry { key, name: name.as_bytes(), ino, file_type }) {
                break;
            }
        }
        Ok(())
    }
}

/// The node of a terminal. Its attributes live with the terminal.
struct Node {
    terminal: Arc<Terminal>,
}

impl Inode for Node {
    fn attr(&self) -> Result<Attr> {
        let (uid, gid, mode) = self.terminal.owner();
        let [read, written, made] = self.terminal.times();
        let ino = u64::from(self.terminal.index) + FIRST_INO;
        let mut meta = Meta::new(PTS_DEV, ino, FileType::CharDevice, mode, made);
        meta.rdev = self.terminal.device();
        Ok(Attr { uid, gid, atime: read, mtime: written, ..meta.attr() })
    }

    fn set_attr(&self, cx: &Cx, set: &SetAttr) -> Result<()> {
        self.terminal.set_owner(set.uid, set.gid, set.mode.map(|mode| mode & 0o7777));
        let time = |set: Option<TimeSet>| {
            set.map(|set| match set {
                TimeSet::Now => Timespec::from_ns(cx.realtime_ns()),
                TimeSet::At(time) => time,
            })
        };
        self.terminal.set_times(time(set.atime), time(set.mtime));
        Ok(())
    }

    fn open(&self, cx: &Cx, _path: &Path, flags: OpenFlags) -> Result<Arc<dyn File>> {
        tty::open_terminal(cx, &self.terminal, flags)
    }

    fn cacheable(&self) -> bool {
        false
    }

    fn is_same(&self, other: &dyn Inode) -> bool {
        other
            .as_any()
            .downcast_ref::<Node>()
            .is_some_and(|other| Arc::ptr_eq(&self.terminal, &other.terminal))
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// `/dev/pts/ptmx`.
struct Multiplexer {
    made: Timespec,
}

impl Inode for Multiplexer {
    fn attr(&self) -> Result<Attr> {
        let mut meta = Meta::new(PTS_DEV, PTMX_INO, FileType::CharDevice, 0o666, self.made);
        meta.rdev = DeviceId::new(5, 2);
        Ok(meta.attr())
    }
    fn open(&self, cx: &Cx, _path: &Path, _flags: OpenFlags) -> Result<Arc<dyn File>> {
        tty::open_master(cx)
    }
    fn is_same(&self, other: &dyn Inode) -> bool {
        other.as_any().is::<Multiplexer>()
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
}
