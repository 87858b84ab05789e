//! The path walk (`path_resolution(7)`).
//!
//! [`resolve`] gives the place that a path names, [`resolve_parent`] the directory and the last component, for calls that make or
//! remove names. A walk keeps a stack of texts still to be walked: a symbolic link puts its target on top. At most
//! [`MAX_LINKS`] links are followed in one walk. A step over a cached name allocates nothing.

use super::mount::{MountFlags, Path};
use super::perm::{self, Access};
use super::{Dentry, Fd, Inode, OpenFile, anon};
use crate::error::{Result, err};
use crate::task::{Creds, Cx};
use abi::Errno;
use abi::fs::FileType;
use alloc::sync::Arc;
use alloc::vec::Vec;
use bitflags::bitflags;
use core::ops::{Deref, Range};

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
pub struct Parent<'a> {
    /// The directory.
    pub dir: Path,
    /// The name: never empty, `.` or `..`.
    pub name: Name<'a>,
    /// Whether a slash follows: the name must be a directory.
    pub slash: bool,
}

/// What a path ends in.
pub(super) enum Last<'a> {
    /// Nothing, `/` or `.`: the directory itself.
    Itself,
    /// `..`
    DotDot,
    /// A name.
    Name(Name<'a>, bool),
}

/// A text that is walked.
#[derive(Clone)]
enum Text<'a> {
    Path(&'a [u8]),
    Link(Arc<[u8]>),
}

impl Text<'_> {
    fn bytes(&self) -> &[u8] {
        match self {
            Text::Path(bytes) => bytes,
            Text::Link(bytes) => bytes,
        }
    }
}

/// A component, in the text that it stands in.
pub struct Name<'a> {
    text: Text<'a>,
    at: Range<usize>,
}

impl Deref for Name<'_> {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        self.text.bytes().get(self.at.clone()).unwrap_or_default()
    }
}

/// A text and how far it was walked.
struct Segment<'a> {
    text: Text<'a>,
    at: usize,
}

impl Segment<'_> {
    fn rest(&self) -> &[u8] {
        self.text.bytes().get(self.at..).unwrap_or_default()
    }
}

/// A walk in progress.
pub(super) struct Walk<'c, 'a> {
    cx: &'c Cx<'c>,
    creds: &'c Creds,
    flags: Lookup,
    /// Asked for when first needed.
    root: Option<Path>,
    pub(super) at: Path,
    segment: Segment<'a>,
    /// What is walked after `segment`, from the end.
    later: Vec<Segment<'a>>,
    links: u32,
}

/// The working directory.
pub fn cwd(cx: &Cx) -> Result<Path> {
    let cwd = cx.task.fs.lock().dirs.lock().as_ref().map(|dirs| dirs.0.clone());
    cwd.ok_or(Errno::ENOENT.into())
}

/// The root directory.
pub fn root(cx: &Cx) -> Result<Path> {
    let root = cx.task.fs.lock().dirs.lock().as_ref().map(|dirs| dirs.1.clone());
    root.ok_or(Errno::ENOENT.into())
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
    resolve_as(cx, &cx.task.creds(), dirfd, path, flags)
}

/// Like [`resolve`] with another identity (`access(2)`).
pub fn resolve_as(cx: &Cx, creds: &Creds, dirfd: Fd, path: &[u8], flags: Lookup) -> Result<Path> {
    if path.is_empty() {
        return resolve_empty(cx, dirfd, flags);
    }
    unless_lost(|| {
        let mut walk = Walk::start(cx, creds, dirfd, path, flags)?;
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
    if flags.contains(Lookup::DIRECTORY) && path.dentry.file_type()? != FileType::Directory {
        return err(Errno::ENOTDIR);
    }
    Ok(path)
}

/// The directory and the last component of a path that is to be made or removed. Symbolic links in the last place are not followed.
/// A path that ends in `.`, `..` or `/` has no name to work on and fails with `on_itself`.
pub fn resolve_parent<'a>(cx: &Cx, dirfd: Fd, path: &'a [u8], on_itself: Errno) -> Result<Parent<'a>> {
    match resolve_last(cx, dirfd, path)? {
        (dir, Last::Name(name, slash)) => Ok(Parent { dir, name, slash }),
        _ => err(on_itself),
    }
}

/// The directory that the last component of a path is looked for in, and that component.
pub(super) fn resolve_last<'a>(cx: &Cx, dirfd: Fd, path: &'a [u8]) -> Result<(Path, Last<'a>)> {
    if path.is_empty() {
        return err(Errno::ENOENT);
    }
    let creds = cx.task.creds();
    unless_lost(|| {
        let mut walk = Walk::start(cx, &creds, dirfd, path, Lookup::empty())?;
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

impl<'c, 'a> Walk<'c, 'a> {
    pub(super) fn start(
        cx: &'c Cx<'c>,
        creds: &'c Creds,
        dirfd: Fd,
        path: &'a [u8],
        flags: Lookup,
    ) -> Result<Walk<'c, 'a>> {
        let absolute = path.first() == Some(&b'/');
        let scoped = flags.intersects(Lookup::BENEATH | Lookup::IN_ROOT);
        if absolute && flags.contains(Lookup::BENEATH) {
            return err(Errno::EXDEV);
        }
        let at = match dirfd {
            _ if absolute && !scoped => root(cx)?,
            Fd::CWD => cwd(cx)?,
            fd => {
                let path = path_of(cx, &cx.file(fd)?);
                if path.dentry.file_type()? != FileType::Directory {
                    return err(Errno::ENOTDIR);
                }
                path
            }
        };
        let root = scoped.then(|| at.clone());
        let segment = Segment { text: Text::Path(path), at: 0 };
        Ok(Walk { cx, creds, flags, root, at, segment, later: Vec::new(), links: 0 })
    }

    /// What the walk can't leave upwards, and where absolute links start.
    fn root(&mut self) -> Result<&Path> {
        match &mut self.root {
            Some(root) => Ok(root),
            none => Ok(none.insert(root(self.cx)?)),
        }
    }

    /// The next component and whether it is the last one; `None` at the end.
    fn next_component(&mut self) -> Option<(Name<'a>, bool)> {
        loop {
            let rest = self.segment.rest();
            let Some(start) = rest.iter().position(|&b| b != b'/') else {
                self.segment = self.later.pop()?;
                continue;
            };
            let word = rest.get(start..).unwrap_or_default();
            let end = word.iter().position(|&b| b == b'/').unwrap_or(word.len());
            let only_slashes = |bytes: &[u8]| bytes.iter().all(|&b| b == b'/');
            let last = only_slashes(word.get(end..).unwrap_or_default())
                && self.later.iter().all(|s| only_slashes(s.rest()));
            let from = self.segment.at + start;
            self.segment.at = from + end;
            return Some((Name { text: self.segment.text.clone(), at: from..from + end }, last));
        }
    }

    fn slash_follows(&self) -> bool {
        !self.segment.rest().is_empty() || self.later.iter().any(|s| !s.rest().is_empty())
    }

    /// Walks up to the last component.
    pub(super) fn walk_to_last(&mut self) -> Result<Last<'a>> {
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
                    self.step(&name, true)?;
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
                    let follow = slash || !self.flags.contains(Lookup::NOFOLLOW);
                    if !self.step(&name, follow)? {
                        break;
                    }
                }
            }
        }
        if directory && self.at.dentry.file_type()? != FileType::Directory {
            return err(Errno::ENOTDIR);
        }
        Ok(())
    }

    fn may_search(&self) -> Result<()> {
        if self.at.dentry.file_type()? != FileType::Directory {
            return err(Errno::ENOTDIR);
        }
        let inode = &self.at.dentry.inode;
        if inode.all_may_search() {
            return Ok(());
        }
        perm::check(self.creds, inode.rights()?, Access::EXEC)
    }

    fn lookup(&self, name: &[u8]) -> Result<Arc<Dentry>> {
        if name.len() > NAME_MAX {
            return err(Errno::ENAMETOOLONG);
        }
        self.at.dentry.child(self.cx, name)
    }

    /// [`Walk::child`] and [`Walk::enter`] in one.
    fn step(&mut self, name: &[u8], follow: bool) -> Result<bool> {
        let dentry = self.lookup(name)?;
        if dentry.is_mount_point() {
            let child = self.down(Path { mount: self.at.mount.clone(), dentry })?;
            return self.enter(child, follow);
        }
        if follow && dentry.file_type()? == FileType::Symlink {
            self.follow(&dentry)?;
            return Ok(true);
        }
        self.at.dentry = dentry;
        Ok(false)
    }

    /// The entry of the present directory, with what is mounted on it.
    pub(super) fn child(&self, name: &[u8]) -> Result<Path> {
        let dentry = self.lookup(name)?;
        self.down(Path { mount: self.at.mount.clone(), dentry })
    }

    fn down(&self, path: Path) -> Result<Path> {
        if !path.dentry.is_mount_point() {
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
        if !follow || child.dentry.file_type()? != FileType::Symlink {
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
                let root = self.root()?.clone();
                let crosses = !Arc::ptr_eq(&root.mount, &self.at.mount);
                if self.flags.contains(Lookup::NO_XDEV) && crosses {
                    return err(Errno::EXDEV);
                }
                self.at = root;
            }
            Some(_) => {}
        }
        let link = Segment { text: Text::Link(text.into()), at: 0 };
        self.later.push(core::mem::replace(&mut self.segment, link));
        Ok(())
    }

    /// `..`: never above the root, and over mount points to where they are mounted.
    pub(super) fn step_up(&mut self) -> Result<()> {
        let root = self.root()?.clone();
        loop {
            if self.at.is(&root) {
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
