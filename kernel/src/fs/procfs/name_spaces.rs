//! `/proc/PID/ns`: one name space of each kind, the same for everyone, with the numbers of Linux's initial ones.

use super::Target;
use crate::error::{Result, err};
use crate::fs::pseudo::{DirSource, Entry, LinkTarget, Meta, PROC_DEV, PseudoLink};
use crate::fs::{File, Inode, OpenFile, OpenFlags};
use crate::task::Cx;
use abi::Errno;
use abi::fs::{Attr, DeviceId, FileType};
use abi::time::Timespec;
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::any::Any;

/// Device of the name-space files.
const NS_DEV: DeviceId = DeviceId::new(0, 3);

/// Link name, kind, number (`include/linux/proc_ns.h` has some of the numbers; the others are of the same range).
const KINDS: [(&str, &str, u64); 10] = [
    ("cgroup", "cgroup", 4_026_531_835),
    ("ipc", "ipc", 4_026_531_839),
    ("mnt", "mnt", 4_026_531_832),
    ("net", "net", 4_026_531_833),
    ("pid", "pid", 4_026_531_836),
    ("pid_for_children", "pid", 4_026_531_836),
    ("time", "time", 4_026_531_834),
    ("time_for_children", "time", 4_026_531_834),
    ("user", "user", 4_026_531_837),
    ("uts", "uts", 4_026_531_838),
];

/// The directory.
pub(super) struct Links(pub(super) Arc<Target>);

impl Links {
    fn ino(&self, slot: usize) -> u64 {
        (1 << 62) | ((self.0.tid as u64) << 28) | (slot as u64) << 8 | 0xc0
    }
}

impl DirSource for Links {
    fn lookup(&self, cx: &Cx, name: &[u8]) -> Result<Arc<dyn Inode>> {
        self.0.check_read(cx)?;
        let found = KINDS.iter().enumerate().find(|(_, kind)| kind.0.as_bytes() == name);
        let Some((slot, &(_, kind, number))) = found else { return err(Errno::ENOENT) };
        let now = Timespec::from_ns(cx.realtime_ns());
        let meta = Meta::new(PROC_DEV, self.ino(slot), FileType::Symlink, 0o777, now)
            .owned(self.0.clone())
            .about(self.0.instance());
        Ok(PseudoLink::new(meta, Arc::new(Link { kind, number })))
    }

    fn list(&self, cx: &Cx, from: u64, emit: &mut dyn FnMut(Entry<'_>) -> bool) -> Result<()> {
        self.0.check_read(cx)?;
        for (slot, (name, _, _)) in KINDS.iter().enumerate().skip(usize::try_from(from).unwrap_or(usize::MAX))
        {
            let entry = Entry {
                key: slot as u64,
                name: name.as_bytes(),
                ino: self.ino(slot),
                file_type: FileType::Symlink,
            };
            if !emit(entry) {
                break;
            }
        }
        Ok(())
    }
}

struct Link {
    kind: &'static str,
    number: u64,
}

impl LinkTarget for Link {
    fn text(&self, _cx: &Cx) -> Result<Vec<u8>> {
        Ok(format!("{}:[{}]", self.kind, self.number).into_bytes())
    }

    fn follow_file(&self, cx: &Cx) -> Option<Result<Arc<OpenFile>>> {
        let file = Arc::new(NameSpace { kind: self.kind, number: self.number });
        Some(Ok(OpenFile::new(cx.kernel, file, None, None, OpenFlags::empty())))
    }
}

/// An open name space: something to compare by inode number.
struct NameSpace {
    kind: &'static str,
    number: u64,
}

impl File for NameSpace {
    fn attr(&self) -> Result<Attr> {
        let meta = Meta::new(NS_DEV, self.number, FileType::Regular, 0o444, Timespec::default());
        Ok(meta.attr())
    }
    fn describe(&self) -> String {
        format!("{}:[{}]", self.kind, self.number)
    }
    fn pollable(&self) -> bool {
        false
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
}
