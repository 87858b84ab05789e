//! inotify calls.

use crate::error::{Result, err};
use crate::fs::perm::{self, Access};
use crate::fs::{Fd, Lookup, OpenFile, OpenFlags, walk};
use crate::ipc::{Inotify, InotifyFile, inotify_flag as flag};
use crate::task::Cx;
use crate::user::UserCStr;
use abi::Errno;
use alloc::sync::Arc;

pub(super) fn inotify_init(cx: &Cx) -> Result<Fd> {
    inotify_init1(cx, OpenFlags::empty())
}

pub(super) fn inotify_init1(cx: &Cx, flags: OpenFlags) -> Result<Fd> {
    if !(flags - OpenFlags::NONBLOCK - OpenFlags::CLOEXEC).is_empty() {
        return err(Errno::EINVAL);
    }
    let file = Arc::new(InotifyFile(Inotify::new(cx)?));
    let of = OpenFile::new(cx.kernel, file, None, None, flags & OpenFlags::NONBLOCK);
    cx.install(of, flags.contains(OpenFlags::CLOEXEC))
}

/// The instance of a descriptor; `EINVAL` when it is something else.
fn instance(of: &OpenFile) -> Result<&Arc<Inotify>> {
    of.downcast::<InotifyFile>().map(|file| &file.0).ok_or(Errno::EINVAL.into())
}

pub(super) fn inotify_add_watch(cx: &Cx, fd: Fd, path: UserCStr, mask: u32) -> Result<i32> {
    if mask & flag::KNOWN == 0 || mask & flag::MASK_ADD != 0 && mask & flag::MASK_CREATE != 0 {
        return err(Errno::EINVAL);
    }
    let of = cx.file(fd)?;
    let instance = instance(&of)?;
    let mut lookup = Lookup::empty();
    if mask & flag::DONT_FOLLOW != 0 {
        lookup |= Lookup::NOFOLLOW;
    }
    if mask & flag::ONLYDIR != 0 {
        lookup |= Lookup::DIRECTORY;
    }
    let at = walk::resolve(cx, Fd::CWD, &path.read_path(cx)?, lookup)?;
    perm::check(&cx.task.creds(), &at.dentry.inode.attr()?, Access::READ)?;
    instance.add(cx, at.dentry.inode.clone(), mask)
}

pub(super) fn inotify_rm_watch(cx: &Cx, fd: Fd, wd: i32) -> Result<()> {
    let of = cx.file(fd)?;
    instance(&of)?.remove(wd)
}
