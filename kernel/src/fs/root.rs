//! The name space that the first program finds: the root, what every system has in it, and volumes.

use super::{FileSystem, HostDirFs, Inode, MemFs, MemOptions, MountFlags, NewInode, NewKind, Path};
use crate::config::StartError;
use crate::error::Result;
use crate::task::Cx;
use crate::{Kernel, VolumeConfig};
use abi::Errno;
use abi::fs::FileType;
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use hal::HostNode;

/// Mounts everything that the configuration asks for and makes the root the current task's root and working directory.
pub fn mount_root(cx: &Cx) -> Result<(), StartError> {
    let kernel = cx.kernel;
    let fs: Arc<dyn FileSystem> = match &kernel.config.root {
        Some(dir) => {
            let node = host_node(kernel, "root", dir)?;
            let attr = node.attr().map_err(|e| setup("root", dir, e))?;
            if attr.file_type() != FileType::Directory {
                return Err(setup("root", dir, Errno::ENOTDIR));
            }
            MemFs::overlay(kernel, node).map_err(|e| setup("root", dir, e.errno()))?
        }
        None => MemFs::tmpfs(kernel, &MemOptions { mode: 0o755, ..MemOptions::default() }),
    };
    let source = fs.fs_type();
    let failed = |e: crate::Error| StartError::Setup(format!("cannot mount the root: {}", e.errno()));
    kernel.vfs.ns.mount(fs, source, None, MountFlags::RELATIME).map_err(failed)?;
    let Some(root) = kernel.vfs.ns.root() else { return Err(failed(Errno::ENOENT.into())) };
    *cx.task.fs.lock().dirs.lock() = Some((root.clone(), root.clone()));

    let tmpfs = |mode| MemFs::tmpfs(kernel, &MemOptions { mode, ..MemOptions::default() });
    let secure = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::RELATIME;
    let dev = tmpfs(0o755);
    super::devfs::register(kernel);
    super::devfs::populate(cx, &dev.root()).map_err(|e| setup("device nodes", "/dev", e.errno()))?;
    mount_at(cx, &root, "/dev", dev, MountFlags::NOSUID | MountFlags::RELATIME)?;
    let exec = MountFlags::NOSUID | MountFlags::NOEXEC | MountFlags::RELATIME;
    mount_at(cx, &root, "/dev/pts", super::devpts::new(kernel), exec)?;
    let size = kernel.frames.total() * hal::PAGE_SIZE / 2;
    let shm = MemFs::tmpfs(kernel, &MemOptions { size, ..MemOptions::default() });
    mount_at(cx, &root, "/dev/shm", shm, secure)?;
    mount_at(cx, &root, "/proc", super::procfs::new(kernel), secure | MountFlags::NOEXEC)?;
    mount_at(cx, &root, "/sys", super::sysfs::new(kernel), secure | MountFlags::NOEXEC)?;
    for volume in &kernel.config.volumes {
        mount_volume(cx, &root, volume)?;
    }
    if kernel.config.read_only {
        let flags = root.mount.flags() | MountFlags::RDONLY;
        root.mount.set_flags(flags);
    }
    // A volume may be mounted on the root itself.
    if let Some(top) = kernel.vfs.ns.root() {
        let before = cx.task.fs.lock().dirs.lock().replace((top.clone(), top));
        drop(before);
    }
    Ok(())
}

/// Mounts a file system at an absolute path of the tree below `root`, whose directories are made as needed.
pub fn mount_at(
    cx: &Cx,
    root: &Path,
    at: &str,
    fs: Arc<dyn FileSystem>,
    flags: MountFlags,
) -> Result<(), StartError> {
    let point = mount_point(cx, root, at, true).map_err(|e| setup("mount point", at, e.errno()))?;
    let source = fs.fs_type();
    cx.kernel
        .vfs
        .ns
        .mount(fs, source, Some(&point), flags)
        .map_err(|e| setup("mount point", at, e.errno()))?;
    Ok(())
}

fn mount_volume(cx: &Cx, root: &Path, volume: &VolumeConfig) -> Result<(), StartError> {
    let node = host_node(cx.kernel, "volume", &volume.host)?;
    let file_type = node.attr().map_err(|e| setup("volume", &volume.host, e))?.file_type();
    if !matches!(file_type, FileType::Directory | FileType::Regular) {
        let text = format!("volume {}: neither a directory nor a regular file", volume.host);
        return Err(StartError::Setup(text));
    }
    if !volume.guest.starts_with('/') {
        return Err(StartError::Setup(format!(
            "volume {}: the path in the guest must begin with /",
            volume.guest
        )));
    }
    let directory = file_type == FileType::Directory;
    let point = mount_point(cx, root, &volume.guest, directory)
        .map_err(|e| setup("volume", &volume.guest, e.errno()))?;
    let mut flags = MountFlags::NODEV | MountFlags::RELATIME;
    flags.set(MountFlags::RDONLY, volume.read_only);
    let fs = HostDirFs::new(node).map_err(|e| setup("volume", &volume.host, e.errno()))?;
    let mounted = cx.kernel.vfs.ns.mount(fs, &volume.host, Some(&point), flags);
    mounted.map_err(|e| setup("volume", &volume.guest, e.errno()))?;
    Ok(())
}

fn host_node(kernel: &Kernel, what: &str, path: &str) -> Result<Arc<dyn HostNode>, StartError> {
    let Some(host) = kernel.machine.host_fs() else {
        return Err(StartError::Setup(format!("{what} {path}: this machine has no host files")));
    };
    host.open_path(path).map_err(|e| setup(what, path, e))
}

fn setup(what: &str, path: &str, errno: Errno) -> StartError {
    StartError::Setup(format!("{what} {path}: {errno}"))
}

/// The place at an absolute path; what is missing is made: directories, and in the last place a file unless `directory`. Symbolic links
/// on the way are followed within the root. Permissions do not matter: this is the kernel's own doing.
fn mount_point(cx: &Cx, root: &Path, path: &str, directory: bool) -> Result<Path> {
    let mut at = root.clone();
    let mut todo: alloc::vec::Vec<String> = split(path);
    let mut links = 0;
    while let Some(name) = todo.pop() {
        if name == ".." {
            let parent = at.dentry.parent().unwrap_or(at.dentry.clone());
            at.dentry = parent;
            continue;
        }
        let dentry = match at.dentry.child(cx, name.as_bytes()) {
            Ok(dentry) => dentry,
            Err(e) if e.errno() == Errno::ENOENT => {
                let kind = if todo.is_empty() && !directory { NewKind::File } else { NewKind::Directory };
                let mode = if kind == NewKind::File { 0o644 } else { 0o755 };
                let inode =
                    at.dentry.inode.create(cx, name.as_bytes(), &NewInode { kind, mode, uid: 0, gid: 0 })?;
                at.dentry.attach(cx, name.as_bytes(), inode, None)
            }
            Err(e) => return Err(e),
        };
        let inode: &Arc<dyn Inode> = &dentry.inode;
        if inode.attr()?.file_type() == FileType::Symlink {
            links += 1;
            if links > super::walk::MAX_LINKS {
                return Err(Errno::ELOOP.into());
            }
            let target = String::from_utf8(inode.read_link(cx)?).map_err(|_| Errno::EINVAL)?;
            if target.starts_with('/') {
                at = root.clone();
            }
            todo.extend(split(&target));
            continue;
        }
        at = cx.kernel.vfs.ns.top(Path { mount: at.mount.clone(), dentry });
    }
    let found = at.dentry.inode.attr()?.file_type() == FileType::Directory;
    match (directory, found) {
        (true, false) => Err(Errno::ENOTDIR.into()),
        (false, true) => Err(Errno::EISDIR.into()),
        _ => Ok(at),
    }
}

/// The components of a path, the first one last.
fn split(path: &str) -> alloc::vec::Vec<String> {
    path.split('/').filter(|n| !n.is_empty() && *n != ".").rev().map(String::from).collect()
}
