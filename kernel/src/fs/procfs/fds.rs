//! `/proc/PID/fd` and `/proc/PID/fdinfo`.

use super::Target;
use super::process::path_text;
use crate::error::{Result, err};
use crate::fs::pseudo::{
    Content, DirSource, Entry, LinkTarget, Meta, Out, PROC_DEV, PseudoFile, PseudoLink, put,
};
use crate::fs::{Fd, Inode, OpenFile, OpenFlags, Path};
use crate::task::Cx;
use abi::Errno;
use abi::fs::FileType;
use abi::time::Timespec;
use alloc::format;
use alloc::sync::Arc;
use alloc::vec::Vec;

/// The open descriptors of a process, as links or as texts about them.
pub(super) struct Fds {
    target: Arc<Target>,
    links: bool,
}

impl Fds {
    pub(super) fn links(target: Arc<Target>) -> Fds {
        Fds { target, links: true }
    }
    pub(super) fn infos(target: Arc<Target>) -> Fds {
        Fds { target, links: false }
    }

    fn ino(&self, fd: Fd) -> u64 {
        let kind = if self.links { 0x40 } else { 0x80 };
        (1 << 62) | ((self.target.tid as u64) << 28) | ((fd.0 as u64) << 8) | kind
    }
}

fn file_of(target: &Target, fd: Fd) -> Result<Arc<OpenFile>> {
    target.process().map_err(|_| Errno::ENOENT)?;
    let task = target.task().ok_or(Errno::ENOENT)?;
    let files = task.files.lock().clone();
    Ok(files.get(fd).map_err(|_| Errno::ENOENT)?)
}

impl DirSource for Fds {
    fn lookup(&self, cx: &Cx, name: &[u8]) -> Result<Arc<dyn Inode>> {
        self.target.check_read(cx)?;
        let text = core::str::from_utf8(name).map_err(|_| Errno::ENOENT)?;
        let fd =
            Fd(text.parse::<u16>().map(i32::from).or_else(|_| text.parse()).map_err(|_| Errno::ENOENT)?);
        if fd.0 < 0 || format!("{}", fd.0) != text {
            return err(Errno::ENOENT);
        }
        let file = file_of(&self.target, fd)?;
        let target = self.target.clone();
        let now = Timespec::from_ns(cx.realtime_ns());
        if self.links {
            // The link's own rights show how the descriptor is open (`proc(5)`).
            let read = if file.flags().readable() { 0o500 } else { 0 };
            let write = if file.flags().writable() { 0o300 } else { 0 };
            let meta = Meta::new(PROC_DEV, self.ino(fd), FileType::Symlink, read | write, now);
            let meta = Meta { size: 64, ..meta.owned(target.clone()).about(target.instance()) };
            Ok(PseudoLink::new(meta, Arc::new(FdLink { target, fd })))
        } else {
            let meta = Meta::new(PROC_DEV, self.ino(fd), FileType::Regular, 0o444, now)
                .owned(target.clone())
                .about(target.instance());
            Ok(PseudoFile::new(meta, Arc::new(FdInfo { target, fd })))
        }
    }

    fn list(&self, cx: &Cx, from: u64, emit: &mut dyn FnMut(Entry<'_>) -> bool) -> Result<()> {
        self.target.check_read(cx)?;
        let Some(task) = self.target.task() else { return Ok(()) };
        let files = task.files.lock().clone();
        let fds: Vec<Fd> = files.list().into_iter().map(|(fd, _)| fd).collect();
        let file_type = if self.links { FileType::Symlink } else { FileType::Regular };
        for fd in fds {
            let key = fd.0 as u64;
            if key < from {
                continue;
            }
            let name = format!("{}", fd.0);
            if !emit(Entry { key, name: name.as_bytes(), ino: self.ino(fd), file_type }) {
                break;
            }
        }
        Ok(())
    }
}

struct FdLink {
    target: Arc<Target>,
    fd: Fd,
}

impl FdLink {
    fn file(&self, cx: &Cx) -> Result<Arc<OpenFile>> {
        self.target.check_read(cx)?;
        file_of(&self.target, self.fd)
    }
}

impl LinkTarget for FdLink {
    fn text(&self, cx: &Cx) -> Result<Vec<u8>> {
        let file = self.file(cx)?;
        Ok(match &file.path {
            Some(path) => path_text(cx, path),
            None => file.file.describe().into_bytes(),
        })
    }

    fn follow(&self, cx: &Cx) -> Option<Result<Path>> {
        match self.file(cx) {
            Ok(file) => file.path.clone().map(Ok),
            Err(e) => Some(Err(e)),
        }
    }

    fn follow_file(&self, cx: &Cx) -> super::process::OpenLink {
        Some(self.file(cx))
    }
}

struct FdInfo {
    target: Arc<Target>,
    fd: Fd,
}

impl Content for FdInfo {
    fn check_open(&self, cx: &Cx, _flags: OpenFlags) -> Result<()> {
        self.target.check_read(cx)
    }

    fn show(&self, _cx: &Cx, out: &mut Out) -> Result<()> {
        let file = file_of(&self.target, self.fd)?;
        let cloexec = self
            .target
            .task()
            .and_then(|task| task.files.lock().cloexec(self.fd).ok())
            .filter(|&cloexec| cloexec)
            .map_or(0, |_| OpenFlags::CLOEXEC.bits());
        // Linux sets O_LARGEFILE on every file that a 64-bit process opens by name.
        let large = if file.path.is_some() { OpenFlags::LARGEFILE.bits() } else { 0 };
        put!(out, "pos:\t{}\nflags:\t0{:o}\n", file.pos(), file.flags().bits() | cloexec | large);
        let mount = file.path.as_ref().map_or(0, super::mounts::mount_id);
        put!(out, "mnt_id:\t{mount}\nino:\t{}\n", file.attr().map_or(0, |attr| attr.ino));
        out.text(&file.file.fdinfo());
        Ok(())
    }
}
