//! Mounts and the tree that they form.
//!
//! A [`Mount`] shows a dentry of a file system, and everything below it, at a mount point, which is a [`Path`] in another mount. One
//! [`Namespace`] per kernel holds them all.
//!
//! Lock order: the namespace's lock, then a mount's `at`. Neither is held while inodes are called.
//! Differs from Linux: there are no mount name spaces and no propagation; all mounts are private.

use super::{Dentry, FileSystem};
use crate::error::{Result, err};
use crate::sync::{Mutex, RwLock};
use abi::Errno;
use alloc::string::String;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use bitflags::bitflags;
use core::sync::atomic::{AtomicU32, Ordering};
use hashbrown::HashMap;

bitflags! {
    /// Flags of a mount, with the values of `MS_*` (`uapi/linux/mount.h`).
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
    pub struct MountFlags: u32 {
        /// No writes.
        const RDONLY = 1;
        /// Set-user-ID and set-group-ID mean nothing.
        const NOSUID = 2;
        /// Device nodes can't be opened.
        const NODEV = 4;
        /// Nothing can be executed.
        const NOEXEC = 8;
        /// Writes are synchronous.
        const SYNCHRONOUS = 16;
        /// Access times stay.
        const NOATIME = 1024;
        /// Access times of directories stay.
        const NODIRATIME = 2048;
        /// Access times follow changes, and once a day.
        const RELATIME = 1 << 21;
        /// Access times follow every access.
        const STRICTATIME = 1 << 24;
    }
}

impl MountFlags {
    /// Those that `statfs(2)` reports with the same values (`ST_*`).
    pub const STATFS: MountFlags = MountFlags::RDONLY
        .union(MountFlags::NOSUID)
        .union(MountFlags::NODEV)
        .union(MountFlags::NOEXEC)
        .union(MountFlags::SYNCHRONOUS)
        .union(MountFlags::NOATIME)
        .union(MountFlags::NODIRATIME);
}

/// A file system, or a part of one, in the name space.
pub struct Mount {
    /// Its number in `/proc/PID/mountinfo` and `statx(2)`.
    pub id: u32,
    /// The file system.
    pub fs: Arc<dyn FileSystem>,
    /// What it shows at its mount point.
    pub root: Arc<Dentry>,
    /// What was mounted, as the mounter said it.
    pub source: String,
    flags: AtomicU32,
    at: Mutex<Option<Path>>,
}

impl Mount {
    /// A mount outside of any name space, for objects without a name.
    pub fn detached(fs: Arc<dyn FileSystem>, root: Arc<Dentry>) -> Arc<Mount> {
        Arc::new(Mount {
            id: 0,
            fs,
            root,
            source: String::from("none"),
            flags: AtomicU32::new(0),
            at: Mutex::new(None),
        })
    }

    /// Where it is mounted; `None` for the root and for what was unmounted.
    pub fn at(&self) -> Option<Path> {
        self.at.lock().clone()
    }

    /// Its flags.
    pub fn flags(&self) -> MountFlags {
        MountFlags::from_bits_truncate(self.flags.load(Ordering::Relaxed))
    }

    /// Replaces its flags (`MS_REMOUNT`).
    pub fn set_flags(&self, flags: MountFlags) {
        self.flags.store(flags.bits(), Ordering::Relaxed);
    }

    /// Whether writes are refused.
    pub fn read_only(&self) -> bool {
        self.flags().contains(MountFlags::RDONLY)
    }

    /// Its root as a path.
    pub fn root_path(self: &Arc<Mount>) -> Path {
        Path { mount: self.clone(), dentry: self.root.clone() }
    }
}

/// A place in the name space.
#[derive(Clone)]
pub struct Path {
    /// The mount.
    pub mount: Arc<Mount>,
    /// The dentry in it.
    pub dentry: Arc<Dentry>,
}

impl Path {
    /// Whether both name the same place.
    pub fn is(&self, other: &Path) -> bool {
        Arc::ptr_eq(&self.mount, &other.mount) && Arc::ptr_eq(&self.dentry, &other.dentry)
    }

    /// Fails with `EROFS` when the mount refuses writes.
    pub fn want_write(&self) -> Result<()> {
        if self.mount.read_only() { err(Errno::EROFS) } else { Ok(()) }
    }
}

/// The number of a mount and the address of a dentry.
type Place = (u32, usize);

fn place(path: &Path) -> Place {
    (path.mount.id, Arc::as_ptr(&path.dentry).addr())
}

/// A mount and the names that lead to it from some place.
pub type MountBelow = (Arc<Mount>, Vec<Arc<[u8]>>);

#[derive(Default)]
struct Inner {
    /// In the order in which they were mounted; the root comes first.
    mounts: Vec<Arc<Mount>>,
    /// The same by where they are. What is mounted on top of another is on that one's root, so there is one for each place.
    places: HashMap<Place, Weak<Mount>>,
    next_id: u32,
}

impl Inner {
    fn top(&self, mut path: Path) -> Path {
        while path.dentry.is_mount_point()
            && let Some(mount) = self.places.get(&place(&path)).and_then(Weak::upgrade)
        {
            path = mount.root_path();
        }
        path
    }
}

/// All mounts of a kernel.
#[derive(Default)]
pub struct Namespace {
    inner: RwLock<Inner>,
}

impl Namespace {
    /// The root of everything: what is mounted on top of the first mount counts. `None` before the root is mounted.
    pub fn root(&self) -> Option<Path> {
        let first = self.inner.read().mounts.first().cloned()?;
        Some(self.top(first.root_path()))
    }

    /// All mounts in the order in which they were made.
    pub fn list(&self) -> Vec<Arc<Mount>> {
        self.inner.read().mounts.clone()
    }

    /// The same place as seen from above: the root of what is mounted there, if anything is.
    pub fn top(&self, path: Path) -> Path {
        if !path.dentry.is_mount_point() {
            return path;
        }
        self.inner.read().top(path)
    }

    /// Mounts a whole file system; the first mount is the root and needs no place.
    pub fn mount(
        &self,
        fs: Arc<dyn FileSystem>,
        source: &str,
        at: Option<&Path>,
        flags: MountFlags,
    ) -> Result<Arc<Mount>> {
        let root = Dentry::root(fs.root(), b"");
        self.mount_dentry(fs, root, source, at, flags)
    }

    /// Mounts a part of a file system again (`MS_BIND`).
    pub fn bind(&self, what: &Path, at: &Path, flags: MountFlags) -> Result<Arc<Mount>> {
        let source = what.mount.source.clone();
        self.mount_dentry(what.mount.fs.clone(), what.dentry.clone(), &source, Some(at), flags)
    }

    fn mount_dentry(
        &self,
        fs: Arc<dyn FileSystem>,
        root: Arc<Dentry>,
        source: &str,
        at: Option<&Path>,
        flags: MountFlags,
    ) -> Result<Arc<Mount>> {
        let mut inner = self.inner.write();
        let at = at.map(|at| inner.top(at.clone()));
        if at.as_ref().is_some_and(|at| at.dentry.is_deleted()) {
            return err(Errno::ENOENT);
        }
        inner.next_id += 1;
        let mount = Arc::new(Mount {
            id: 20 + inner.next_id,
            fs,
            root,
            source: source.into(),
            flags: AtomicU32::new(flags.bits()),
            at: Mutex::new(at.clone()),
        });
        if let Some(at) = at {
            at.dentry.mounts.fetch_add(1, Ordering::AcqRel);
            inner.places.insert(place(&at), Arc::downgrade(&mount));
        }
        inner.mounts.push(mount.clone());
        Ok(mount)
    }

    /// The mounts below a place, each with the names that lead to it from there, outer ones first.
    pub fn below(&self, top: &Path) -> Vec<MountBelow> {
        let mut found = Vec::new();
        for mount in self.list() {
            let mut names = Vec::new();
            let mut at = mount.at();
            while let Some(mut path) = at {
                if path.is(top) {
                    names.reverse();
                    found.push((mount.clone(), names));
                    break;
                }
                at = if Arc::ptr_eq(&path.dentry, &path.mount.root) {
                    path.mount.at()
                } else if let Some(parent) = path.dentry.parent() {
                    names.push(path.dentry.name());
                    path.dentry = parent;
                    Some(path)
                } else {
                    None
                };
            }
        }
        found
    }

    /// Takes a mount out whose root is `path`: `EINVAL` when nothing is mounted there, `EBUSY` for the root, or when other mounts are on
    /// it. What is open in it stays usable (as with `MNT_DETACH`). With `everything_below`, the mounts on it go too.
    pub fn unmount(&self, path: &Path, everything_below: bool) -> Result<()> {
        if !Arc::ptr_eq(&path.dentry, &path.mount.root) {
            return err(Errno::EINVAL);
        }
        let mut gone = Vec::new();
        {
            let mut inner = self.inner.write();
            let Some(index) = inner.mounts.iter().position(|m| Arc::ptr_eq(m, &path.mount)) else {
                return err(Errno::EINVAL);
            };
            if index == 0 {
                return err(Errno::EBUSY);
            }
            let mut victims = alloc::vec![path.mount.clone()];
            let mut next = 0;
            while let Some(victim) = victims.get(next).cloned() {
                next += 1;
                let below =
                    |m: &&Arc<Mount>| m.at.lock().as_ref().is_some_and(|at| Arc::ptr_eq(&at.mount, &victim));
                let children: Vec<_> = inner.mounts.iter().filter(below).cloned().collect();
                if !children.is_empty() && !everything_below {
                    return err(Errno::EBUSY);
                }
                victims.extend(children);
            }
            for victim in victims {
                inner.mounts.retain(|m| !Arc::ptr_eq(m, &victim));
                let at = victim.at.lock().take();
                if let Some(at) = &at {
                    inner.places.remove(&place(at));
                    at.dentry.mounts.fetch_sub(1, Ordering::AcqRel);
                }
                gone.push((victim, at));
            }
        }
        for (mount, _) in &gone {
            mount.root.forget_children();
        }
        Ok(())
    }
}

impl Drop for Namespace {
    /// Dentries and their parents hold each other; this is where it ends.
    fn drop(&mut self) {
        for mount in &self.inner.get_mut().mounts {
            mount.root.forget_children();
            mount.at.lock().take();
        }
    }
}
