//! Who may look into a process (`ptrace(2)`, "Ptrace access mode checking").

use crate::error::{Result, err};
use crate::task::{Cap, Creds, Cx, Process};
use abi::Errno;

/// Whether the caller may read the memory, descriptors and the like of a process with these credentials.
pub(super) fn may_read(cx: &Cx, process: &Process, target: &Creds) -> bool {
    if core::ptr::eq(cx.process().as_ref(), process) {
        return true;
    }
    let own = cx.task.creds();
    if own.has(Cap::SysPtrace) {
        return true;
    }
    let uid = own.fsuid;
    let gid = own.fsgid;
    let same_user = uid == target.uid && uid == target.euid && uid == target.suid;
    let same_group = gid == target.gid && gid == target.egid && gid == target.sgid;
    let dumpable = process.dumpable.load(core::sync::atomic::Ordering::Relaxed) == 1;
    same_user && same_group && dumpable
}

/// [`may_read`], or `EACCES`.
pub(super) fn check_read(cx: &Cx, process: &Process, target: &Creds) -> Result<()> {
    if may_read(cx, process, target) { Ok(()) } else { err(Errno::EACCES) }
}
