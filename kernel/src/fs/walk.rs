//! The path walk (`path_resolution(7)`).
//!
//! [`resolve`] gives the place that a path names, [`resolve_parent`] the directory and the last component, for calls that make or
//! remove names. A walk keeps a stack of texts still to be walked: a symbolic link puts its target on top. At most
//! [`MAX_LINKS`] links are followed in one walk.

use super::mount::{MountFlags, Path};
use super::perm::{self, Access};
use super::{Dentry, Fd, Inode, OpenFile, anon};
use crate::error::{Result, err};
use crate::task::{Creds, Cx};
use abi::Errno;
use abi::fs::{Attr, FileType};
use alloc::borrow::Cow;
use alloc::sync::Arc;
use alloc::vec::Vec;
use bitflags::bitflags;

/// Most symbolic links in one walk (`MAXSYMLINKS`).
pub const MAX_LINKS: u32 = 40;
/// Longest name (`NAME_MAX`).
pub const NAME_MAX: usize = 255;

bitflags! {
    /// How to walk.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
    pub struct Lookup: u32 {
        /// A symbolic link in the last place is the result (`AT_SYMLINK_NOFOLLOW`, `O_NOFOLLOW`).
        const NOFOLLOW = 1;
        /// The empty path names the descriptor itself (`AT_EMPTY_PATH`).
        const EMPTY_PATH = 2;
        /// The result must be a directory.
        const DIRECTORY = 4;
        /// No mount point may be crossed (`RESOLVE_NO_XDEV`).
        const NO_XDEV = 8;
        /// No magic link may be followed (`RESOLVE_NO_MAGICLINKS`).
        const NO_MAGICLINKS = 16;
        /// No symbolic link may be followed (`RESOLVE_NO_SYMLINKS`).
        const NO_SYMLINKS = 32;
        /// The walk must stay below where it starts (`RESOLVE_BENEATH`).
        const BENEATH = 64;
        /// Where it starts is its root (`RESOLVE_IN_ROOT`).
        const IN_ROOT = 128;
    }
}

/// The last component of a path and the directory that it is in.
pub struct Parent {
    /// The directory.
    pub dir: Path,
    /// The name: never empty, `.` or `..`.
    pub name: Vec<u8>,
    /// Whether a slash follows: the name must be a directory.
    pub slash: bool,
}

/// What a path ends in.
pub(super) enum Last {
    /// Nothing, `/` or `.`: the directory itself.
    Itself,
    /// `..`
    DotDot,
    /// A name.
    Name(Vec<u8>, bool),
}

struct Segment<'a> {
    text: Cow<'a, [u8]>,
    at: usize,
}

/// A walk in progress.
pub(super) struct Walk<'a> {
    cx: &'a Cx<'a>,
    pub(super) creds: Arc<Creds>,
    flags: Lookup,
    root: Path,
    pub(super) at: Path,
    segments: Vec<Segment<'a>>,
    links: u32,
}

/// Root and working directory of the current task.
fn dirs(cx: &Cx) -> Result<(Path, Path)> {
    let dirs = cx.task.fs.lock().dirs.lock().clone();
    dirs.ok_or(Errno::ENOENT.into())
}

/// The working directory.
pub fn cwd(cx: &Cx) -> Result<Path> {
    Ok(dirs(cx)?.0)
}

/// The root directory.
pub fn root(cx: &Cx) -> Result<Path> {
    Ok(dirs(cx)?.1)
}

/// Walks and does something with what is found; once more if that turns out to be lost (`ESTALE`): the host has put another file in its place,
/// and the cache has forgotten it by now.
pub fn unless_lost<T>(mut walk: impl FnMut() -> Result<T>) -> Result<T> {
    match walk() {
        Err(e) if e.errno() == Errno::ESTALE => walk(),
        result => result,
    }
}

/// The place that a path names. `dirfd` is [`Fd::CWD`] or a descriptor and counts only for relative paths.
pub fn resolve(cx: &Cx, dirfd: Fd, path: &[u8], flags: Lookup) -> Result<Path> {
    resolve_as(cx, cx.task.creds(), dirfd, path, flags)
}

/// Like [`resolve`] with another identity (`access(2)`).
pub fn resolve_as(cx: &Cx, creds: Arc<Creds>, dirfd: Fd, path: &[u8], flags: Lookup) -> Result<Path> {
    if path.is_empty() {
        return resolve_empty(cx, dirfd, flags);
    }
    unless_lost(|| {
        let mut walk = Walk::start(cx, creds.clone(), dirfd, path, flags)?;
        walk.finish()?;
        Ok(walk.at)
    })
}

fn resolve_empty(cx: &Cx, dirfd: Fd, flags: Lookup) -> Result<Path> {
    if !flags.contains(Lookup::EMPTY_PATH) {
        return err(Errno::ENOENT);
    }
    let path = match dirfd {
        Fd::CWD => cwd(cx)?,
        fd => path_of(cx, &cx.file(fd)?),
    };
    if flags.contains(Lookup::DIRECTORY) && path.dentry.inode.attr()?.file_type() != FileType::Directory {
        return err(Errno::ENOTDIR);
    }
    Ok(path)
}

/// The directory and the last component of a path that is to be made or removed. Symbolic links in the last place are not followed.
/// A path that ends in `.`, `..` or `/` has no name to work on and fails with `on_itself`.
pub fn resolve_parent(cx: &Cx, dirfd: Fd, path: &[u8], on_itself: Errno) -> Result<Parent> {
    match resolve_last(cx, dirfd, path)? {
        (dir, Last::Name(name, slash)) => Ok(Parent { dir, name, slash }),
        _ => err(on_itself),
    }
}

/// The directory that the last component of a path is looked for in, and that component.
pub(super) fn resolve_last(cx: &Cx, dirfd: Fd, path: &[u8]) -> Result<(Path, Last)> {
    if path.is_empty() {
        return err(Errno::ENOENT);
    }
    unless_lost(|| {
        let mut walk = Walk::start(cx, cx.task.creds(), dirfd, path, Lookup::empty())?;
        let last = walk.walk_to_last()?;
        Ok((walk.at, last))
    })
}

/// A path for an open file; one that has no name gets a place of its own.
pub fn path_of(cx: &Cx, file: &Arc<OpenFile>) -> Path {
    match &file.path {
        Some(path) => path.clone(),
        None => anon::path(cx, file),
    }
}

impl<'a> Walk<'a> {
    pub(super) fn start(
        cx: &'a Cx<'a>,
        creds: Arc<Creds>,
        dirfd: Fd,
        path: &'a [u8],
        flags: Lookup,
    ) -> Result<Walk<'a>> {
        let absolute = path.first() == Some(&b'/');
        let (cwd, mut root) = dirs(cx)?;
        let scoped = flags.intersects(Lookup::BENEATH | Lookup::IN_ROOT);
        let mut at = match dirfd {
            _ if absolute && !scoped => root.clone(),
            Fd::CWD => cwd,
            fd => {
                let path = path_of(cx, &cx.file(fd)?);
                if path.dentry.inode.attr()?.file_type() != FileType::Directory {
                    return err(Errno::ENOTDIR);
                }
                path
            }
        };
        if absolute && flags.contains(Lookup::BENEATH) {
            return err(Errno::EXDEV);
        }
        if scoped {
            root = at.clone();
        }
        if absolute {
            at = root.clone();
        }
        let segments = alloc::vec![Segment { text: Cow::Borrowed(path), at: 0 }];
        Ok(Walk { cx, creds, flags, root, at, segments, links: 0 })
    }

    /// The next component and whether it is the last one; `None` at the end.
    fn next_component(&mut self) -> Option<(Vec<u8>, bool)> {
        loop {
            let segment = self.segments.last_mut()?;
            let rest = segment.text.get(segment.at..).unwrap_or_default();
            let start = rest.iter().position(|&b| b != b'/');
            let Some(start) = start else {
                self.segments.pop();
                continue;
            };
            let word = rest.get(start..).unwrap_or_default();
            let end = word.iter().position(|&b| b == b'/').unwrap_or(word.len());
            let name = word.get(..end).unwrap_or_default().to_vec();
            segment.at += start + end;
            let only_slashes =
                |s: &Segment<'_>| s.text.get(s.at..).unwrap_or_default().iter().all(|&b| b == b'/');
            let last = self.segments.iter().all(only_slashes);
            return Some((name, last));
        }
    }

    fn slash_follows(&self) -> bool {
        self.segments.iter().any(|s| s.at < s.text.len())
    }

    /// Walks up to the last component.
    pub(super) fn walk_to_last(&mut self) -> Result<Last> {
        loop {
            let Some((name, last)) = self.next_component() else { return Ok(Last::Itself) };
            self.may_search()?;
            match (&*name, last) {
                (b".", true) => return Ok(Last::Itself),
                (b".", false) => {}
                (b"..", true) => return Ok(Last::DotDot),
                (b"..", false) => self.step_up()?,
                (_, true) => {
                    let slash = self.slash_follows();
                    return Ok(Last::Name(name, slash));
                }
                (_, false) => {
                    let child = self.child(&name)?;
                    self.enter(child, true)?;
                }
            }
        }
    }

    /// Walks to the end.
    pub(super) fn finish(&mut self) -> Result<()> {
        let mut directory = self.flags.contains(Lookup::DIRECTORY);
        loop {
            match self.walk_to_last()? {
                Last::Itself => break,
                Last::DotDot => {
                    self.step_up()?;
                    break;
                }
                Last::Name(name, slash) => {
                    directory |= slash;
                    let child = self.child(&name)?;
                    let follow = slash || !self.flags.contains(Lookup::NOFOLLOW);
                    if !self.enter(child, follow)? {
                        break;
                    }
                }
            }
        }
        if directory && self.attr()?.file_type() != FileType::Directory {
            return err(Errno::ENOTDIR);
        }
        Ok(())
    }

    pub(super) fn attr(&self) -> Result<Attr> {
        self.at.dentry.inode.attr()
    }

    fn may_search(&self) -> Result<()> {
        let attr = self.attr()?;
        if attr.file_type() != FileType::Directory {
            return err(Errno::ENOTDIR);
        }
        perm::check(&self.creds, &attr, Access::EXEC)
    }

    /// The entry of the present directory, with what is mounted on it.
    pub(super) fn child(&self, name: &[u8]) -> Result<Path> {
        if name.len() > NAME_MAX {
            return err(Errno::ENAMETOOLONG);
        }
        let dentry = self.at.dentry.child(self.cx, name)?;
        let path = Path { mount: self.at.mount.clone(), dentry };
        self.down(path)
    }

    fn down(&self, path: Path) -> Result<Path> {
        if path.dentry.mounts.load(core::sync::atomic::Ordering::Acquire) == 0 {
            return Ok(path);
        }
        let top = self.cx.kernel.vfs.ns.top(path.clone());
        if self.flags.contains(Lookup::NO_XDEV) && !top.is(&path) {
            return err(Errno::EXDEV);
        }
        Ok(top)
    }

    /// Goes to `child`, or, when it is a symbolic link and is to be followed, to where that starts; then true: there is more to walk.
    pub(super) fn enter(&mut self, child: Path, follow: bool) -> Result<bool> {
        if !follow || child.dentry.inode.attr()?.file_type() != FileType::Symlink {
            self.at = child;
            return Ok(false);
        }
        self.follow(&child.dentry)?;
        Ok(true)
    }

    fn follow(&mut self, link: &Arc<Dentry>) -> Result<()> {
        self.links += 1;
        if self.links > MAX_LINKS || self.flags.contains(Lookup::NO_SYMLINKS) {
            return err(Errno::ELOOP);
        }
        if let Some(target) = magic_target(self.cx, &link.inode) {
            if self.flags.contains(Lookup::NO_MAGICLINKS) {
                return err(Errno::ELOOP);
            }
            if self.flags.intersects(Lookup::BENEATH | Lookup::IN_ROOT) {
                return err(Errno::EXDEV);
            }
            let target = target?;
            if self.flags.contains(Lookup::NO_XDEV) && !Arc::ptr_eq(&target.mount, &self.at.mount) {
                return err(Errno::EXDEV);
            }
            self.at = target;
            return Ok(());
        }
        let text = link.unless_lost(link.inode.read_link(self.cx))?;
        match text.first() {
            None => return err(Errno::ENOENT),
            Some(b'/') if self.flags.contains(Lookup::BENEATH) => return err(Errno::EXDEV),
            Some(b'/') => {
                let crosses = !Arc::ptr_eq(&self.root.mount, &self.at.mount);
                if self.flags.contains(Lookup::NO_XDEV) && crosses {
                    return err(Errno::EXDEV);
                }
                self.at = self.root.clone();
            }
            Some(_) => {}
        }
        self.segments.push(Segment { text: Cow::Owned(text), at: 0 });
        Ok(())
    }

    /// `..`: never above the root, and over mount points to where they are mounted.
    pub(super) fn step_up(&mut self) -> Result<()> {
        loop {
            if self.at.is(&self.root) {
                if self.flags.contains(Lookup::BENEATH) {
                    return err(Errno::EXDEV);
                }
                return Ok(());
            }
            if Arc::ptr_eq(&self.at.dentry, &self.at.mount.root) {
                let Some(at) = self.at.mount.at() else { return Ok(()) };
                if self.flags.contains(Lookup::NO_XDEV) {
                    return err(Errno::EXDEV);
                }
                self.at = at;
                continue;
            }
            if let Some(parent) = self.at.dentry.parent() {
                self.at.dentry = parent;
            }
            self.at = self.down(self.at.clone())?;
            return Ok(());
        }
    }
}

/// Where a magic link leads; `None` for ordinary links.
pub(super) fn magic_target(cx: &Cx, inode: &Arc<dyn Inode>) -> Option<Result<Path>> {
    if let Some(path) = inode.follow(cx) {
        return Some(path);
    }
    inode.follow_file(cx).map(|file| file.map(|file| path_of(cx, &file)))
}

/// The absolute path of a place as seen from `root`. What does not lie below it starts with `(unreachable)`; a removed name ends with
/// ` (deleted)`, as in `/proc`.
pub fn path_string(root: &Path, path: &Path) -> Vec<u8> {
    let (mut text, reachable) = walk_up(root, path);
    if path.mount.id == 0 {
        return path.dentry.name().to_vec();
    }
    if !reachable {
        text.splice(0..0, b"(unreachable)".iter().copied());
    }
    if path.dentry.is_deleted() {
        text.extend_from_slice(b" (deleted)");
    }
    text
}

/// The absolute path without decoration, and whether it lies below `root`.
pub fn walk_up(root: &Path, path: &Path) -> (Vec<u8>, bool) {
    let mut names: Vec<Arc<[u8]>> = Vec::new();
    let mut at = path.clone();
    let reachable = loop {
        if at.is(root) {
            break true;
        }
        if Arc::ptr_eq(&at.dentry, &at.mount.root) {
            match at.mount.at() {
                Some(up) => at = up,
                None => break false,
            }
            continue;
        }
        let Some(parent) = at.dentry.parent() else { break false };
        names.push(at.dentry.name());
        at.dentry = parent;
    };
    let mut text = Vec::new();
    for name in names.iter().rev() {
        text.push(b'/');
        text.extend_from_slice(name);
    }
    if text.is_empty() {
        text.push(b'/');
    }
    (text, reachable)
}

/// Makes a place the working directory: a directory that may be searched.
pub fn set_cwd(cx: &Cx, at: Path) -> Result<()> {
    let attr = at.dentry.inode.attr()?;
    if attr.file_type() != FileType::Directory {
        return err(Errno::ENOTDIR);
    }
    perm::check(&cx.task.creds(), &attr, Access::EXEC)?;
    let fs = cx.fs();
    let before = fs.dirs.lock().as_mut().map(|dirs| core::mem::replace(&mut dirs.0, at));
    drop(before);
    Ok(())
}

/// `chdir(2)`.
pub fn change_directory(cx: &Cx, path: &[u8]) -> Result<()> {
    set_cwd(cx, resolve(cx, Fd::CWD, path, Lookup::DIRECTORY)?)
}

/// Whether programs on this mount may be executed.
pub fn may_execute(path: &Path) -> bool {
    !path.mount.flags().contains(MountFlags::NOEXEC)
}
