//! `/proc/PID/mounts`, `mountinfo` and `mountstats` (`proc_pid_mountinfo(5)`).
//!
//! Shows the mounts that lie below the process's root, as seen from there.

use super::Target;
use crate::error::{Result, err};
use crate::fs::pseudo::{Out, put};
use crate::fs::{Mount, MountFlags, Path, walk};
use crate::task::Cx;
use abi::Errno;
use alloc::sync::Arc;
use alloc::vec::Vec;

/// What is escaped in names.
const SPECIAL: &[u8] = b" \t\n#";

/// The number of the mount that a place is on.
pub(super) fn mount_id(path: &Path) -> u64 {
    u64::from(path.mount.id)
}

/// The mounts that the process sees, and where.
fn visible(cx: &Cx, target: &Target) -> Result<Vec<(Arc<Mount>, Vec<u8>)>> {
    target.process()?;
    let Some(task) = target.task() else { return err(Errno::EINVAL) };
    let dirs = task.fs.lock().dirs.lock().clone();
    let Some((_, root)) = dirs else { return Ok(Vec::new()) };
    let mut list = Vec::new();
    for mount in cx.kernel.vfs.ns.list() {
        let (at, reachable) = walk::walk_up(&root, &mount.root_path());
        let is_root = Arc::ptr_eq(&mount, &root.mount);
        if reachable || is_root {
            list.push((mount, at));
        }
    }
    Ok(list)
}

/// Options of a mount and of its file system.
fn options(flags: MountFlags) -> alloc::string::String {
    let mut text = alloc::string::String::from(if flags.contains(MountFlags::RDONLY) { "ro" } else { "rw" });
    let names = [
        (MountFlags::NOSUID, ",nosuid"),
        (MountFlags::NODEV, ",nodev"),
        (MountFlags::NOEXEC, ",noexec"),
        (MountFlags::NOATIME, ",noatime"),
        (MountFlags::NODIRATIME, ",nodiratime"),
        (MountFlags::RELATIME, ",relatime"),
    ];
    for (flag, name) in names {
        if flags.contains(flag) {
            text.push_str(name);
        }
    }
    text
}

fn source(mount: &Mount, out: &mut Out) {
    let name = if mount.source.is_empty() { "none" } else { &mount.source };
    out.escaped(name.as_bytes(), SPECIAL);
}

pub(super) fn mounts(cx: &Cx, target: &Target, out: &mut Out) -> Result<()> {
    for (mount, at) in visible(cx, target)? {
        source(&mount, out);
        out.text(" ");
        out.escaped(&at, SPECIAL);
        put!(out, " {} {}", mount.fs.fs_type(), options(mount.flags()));
        let more = mount.fs.options();
        if !more.is_empty() {
            put!(out, ",{more}");
        }
        out.text(" 0 0\n");
    }
    Ok(())
}

pub(super) fn mountinfo(cx: &Cx, target: &Target, out: &mut Out) -> Result<()> {
    for (mount, at) in visible(cx, target)? {
        let parent = mount.at().map_or(mount.id, |at| at.mount.id);
        let dev = mount.root.inode.attr().map(|attr| attr.dev).unwrap_or_default();
        put!(out, "{} {parent} {}:{} ", mount.id, dev.major, dev.minor);
        let (inside, _) =
            walk::walk_up(&Path { mount: mount.clone(), dentry: top_of(&mount) }, &mount.root_path());
        out.escaped(&inside, SPECIAL);
        out.text(" ");
        out.escaped(&at, SPECIAL);
        put!(out, " {} - {} ", options(mount.flags()), mount.fs.fs_type());
        source(&mount, out);
        let read_only = mount.flags().contains(MountFlags::RDONLY);
        out.text(if read_only { " ro" } else { " rw" });
        let more = mount.fs.options();
        if !more.is_empty() {
            put!(out, ",{more}");
        }
        out.text("\n");
    }
    Ok(())
}

/// The root of a mount's file system; another than the mount's own root when only a part is mounted.
fn top_of(mount: &Arc<Mount>) -> Arc<crate::fs::Dentry> {
    let mut at = mount.root.clone();
    while let Some(parent) = at.parent() {
        at = parent;
    }
    at
}

pub(super) fn mountstats(cx: &Cx, target: &Target, out: &mut Out) -> Result<()> {
    for (mount, at) in visible(cx, target)? {
        out.text("device ");
        source(&mount, out);
        out.text(" mounted on ");
        out.escaped(&at, SPECIAL);
        put!(out, " with fstype {}\n", mount.fs.fs_type());
    }
    Ok(())
}
