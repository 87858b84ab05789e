//! The directories of processes and threads.

use super::table::{self, Kind, Scope};
use crate::error::{Result, err};
use crate::fs::pseudo::{
    Content, DirSource, Entry, LinkTarget, Meta, OpenDir, Out, Owner, PROC_DEV, PseudoDir, PseudoFile,
    PseudoLink,
};
use crate::fs::{Inode, OpenFile, OpenFlags, Path, walk};
use crate::mm::Mm;
use crate::task::{Creds, Cx, Process, ProcessState, Task};
use abi::Errno;
use abi::fs::FileType;
use abi::time::Timespec;
use alloc::format;
use alloc::string::ToString;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::any::Any;
use core::sync::atomic::Ordering;

/// The process or thread that a directory is about. It may end at any time: then everything says `ESRCH`.
pub struct Target {
    /// Process id.
    pub pid: i32,
    /// Thread id; the process id in the directory of the process.
    pub tid: i32,
    /// Whether it is the directory of the process as a whole rather than of one thread.
    pub whole: bool,
    process: Weak<Process>,
    task: Weak<Task>,
}

impl Target {
    fn of_process(process: &Arc<Process>) -> Arc<Target> {
        let leader = process.leader.lock().clone();
        Arc::new(Target {
            pid: process.pid,
            tid: process.pid,
            whole: true,
            process: Arc::downgrade(process),
            task: leader.as_ref().map(Arc::downgrade).unwrap_or_default(),
        })
    }

    fn of_task(task: &Arc<Task>) -> Arc<Target> {
        Arc::new(Target {
            pid: task.process.pid,
            tid: task.tid(),
            whole: false,
            process: Arc::downgrade(&task.process),
            task: Arc::downgrade(task),
        })
    }

    /// The process; `ESRCH` when it was reaped.
    pub fn process(&self) -> Result<Arc<Process>> {
        match self.process.upgrade() {
            Some(process) if process.state() != ProcessState::Reaped => Ok(process),
            _ => err(Errno::ESRCH),
        }
    }

    /// The thread, for a process its first one. A zombie may have none.
    pub fn task(&self) -> Option<Arc<Task>> {
        self.task.upgrade()
    }

    /// The thread; `ESRCH`.
    pub fn live_task(&self) -> Result<Arc<Task>> {
        self.task().ok_or(Errno::ESRCH.into())
    }

    /// Its credentials; root's when nothing is left of it.
    pub fn creds(&self) -> Arc<Creds> {
        self.task().map_or_else(|| Arc::new(Creds::new(0, 0, Vec::new())), |task| task.creds())
    }

    /// Its address space; `None` for a zombie.
    pub fn mm(&self) -> Option<Arc<Mm>> {
        let process = self.process().ok()?;
        if process.state() != ProcessState::Running {
            return None;
        }
        self.task()?.mm.lock().clone()
    }

    /// Its address space if the caller may look into it; `EACCES`.
    pub fn readable_mm(&self, cx: &Cx) -> Result<Option<Arc<Mm>>> {
        self.check_read(cx)?;
        Ok(self.mm())
    }

    /// Whether the caller may look into it; `EACCES`.
    pub fn check_read(&self, cx: &Cx) -> Result<()> {
        super::access::check_read(cx, &*self.process()?, &self.creds())
    }

    /// Its threads, or the one that it is about.
    pub fn tasks(&self) -> Vec<Arc<Task>> {
        if self.whole {
            self.process().map(|p| p.threads()).unwrap_or_default()
        } else {
            self.task().into_iter().collect()
        }
    }

    /// Tells this process or thread from others that had its id, as long as this lives.
    pub(super) fn instance(&self) -> usize {
        if self.whole { self.process.as_ptr().addr() } else { self.task.as_ptr().addr() }
    }

    fn ino(&self, slot: u64) -> u64 {
        let id = ((self.pid as u64) << 32) | ((self.tid as u64) << 8);
        let whole = u64::from(self.whole) << 63;
        whole | id.wrapping_mul(2) | slot
    }
}

/// Owner of the files in a process's directory: the process, or root when it is not dumpable (`proc(5)`).
impl Owner for Target {
    fn ids(&self) -> (u32, u32) {
        let dumpable = self.process.upgrade().is_some_and(|p| p.dumpable.load(Ordering::Relaxed) == 1);
        let creds = self.creds();
        if dumpable { (creds.euid, creds.egid) } else { (0, 0) }
    }
}

/// Owner of the directory itself.
struct DirOwner(Arc<Target>);

impl Owner for DirOwner {
    fn ids(&self) -> (u32, u32) {
        let creds = self.0.creds();
        (creds.euid, creds.egid)
    }
}

/// The number that a name is, in the form in which ids are written.
fn id_of(name: &[u8]) -> Option<i32> {
    let text = core::str::from_utf8(name).ok()?;
    let id: i32 = text.parse().ok()?;
    (id > 0 && text.as_bytes().first() != Some(&b'+') && text.as_bytes().first() != Some(&b'0')).then_some(id)
}

/// The entries of `/proc` that are processes.
pub(super) struct Processes {
    time: Timespec,
}

impl Processes {
    pub(super) fn new(time: Timespec) -> Processes {
        Processes { time }
    }
}

impl DirSource for Processes {
    fn lookup(&self, cx: &Cx, name: &[u8]) -> Result<Arc<dyn Inode>> {
        let Some(id) = id_of(name) else { return err(Errno::ENOENT) };
        if let Some(process) = cx.kernel.pids.process(id) {
            return Ok(dir_of(cx, Target::of_process(&process), self.time));
        }
        // Threads are reachable by their ids, too, though they are not listed.
        match cx.kernel.pids.task(id) {
            Some(task) => {
                let target = Target {
                    pid: task.process.pid,
                    tid: task.tid(),
                    whole: true,
                    process: Arc::downgrade(&task.process),
                    task: Arc::downgrade(&task),
                };
                Ok(dir_of(cx, Arc::new(target), self.time))
            }
            None => err(Errno::ENOENT),
        }
    }

    fn list(&self, cx: &Cx, from: u64, emit: &mut dyn FnMut(Entry<'_>) -> bool) -> Result<()> {
        for process in cx.kernel.pids.processes() {
            let key = process.pid as u64;
            if key < from {
                continue;
            }
            let name = process.pid.to_string();
            let ino = Target::of_process(&process).ino(0);
            if !emit(Entry { key, name: name.as_bytes(), ino, file_type: FileType::Directory }) {
                break;
            }
        }
        Ok(())
    }
}

fn now(cx: &Cx) -> Timespec {
    Timespec::from_ns(cx.realtime_ns())
}

fn dir_of(cx: &Cx, target: Arc<Target>, _made: Timespec) -> Arc<dyn Inode> {
    let meta = Meta::new(PROC_DEV, target.ino(0), FileType::Directory, 0o555, now(cx))
        .owned(Arc::new(DirOwner(target.clone())))
        .about(target.instance());
    PseudoDir::new(meta, Arc::new(TableDir { target, entries: table::ROOT, base: ROOT_SLOT }))
}

/// The process whose `/proc/PID` is open, `None` for any other file; `ESRCH` when it was reaped.
pub fn process_of_dir(of: &OpenFile) -> Option<Result<Arc<Process>>> {
    let subject = of.downcast::<OpenDir>()?.subject()?;
    Some(subject.downcast_ref::<Arc<Target>>()?.process())
}

/// Slot of the first entry of a process's directory; the tables below it start higher.
const ROOT_SLOT: u64 = 1;

/// A directory whose entries are a table.
struct TableDir {
    target: Arc<Target>,
    entries: &'static [table::Row],
    /// Slot of the first entry, for inode numbers.
    base: u64,
}

impl TableDir {
    fn has(&self, row: &table::Row) -> bool {
        match row.scope {
            Scope::Both => true,
            Scope::Process => self.target.whole,
            Scope::Thread => !self.target.whole,
        }
    }
}

impl DirSource for TableDir {
    fn lookup(&self, cx: &Cx, name: &[u8]) -> Result<Arc<dyn Inode>> {
        self.target.process()?;
        let found = self.entries.iter().enumerate().find(|(_, row)| row.name.as_bytes() == name);
        match found {
            Some((i, row)) if self.has(row) => {
                Ok(inode_of(cx, &self.target, row, self.target.ino(self.base + i as u64)))
            }
            _ => err(Errno::ENOENT),
        }
    }

    fn list(&self, _cx: &Cx, from: u64, emit: &mut dyn FnMut(Entry<'_>) -> bool) -> Result<()> {
        if self.target.process().is_err() {
            return err(Errno::ENOENT);
        }
        for (i, row) in self.entries.iter().enumerate().skip(usize::try_from(from).unwrap_or(usize::MAX)) {
            if !self.has(row) {
                continue;
            }
            let ino = self.target.ino(self.base + i as u64);
            let entry =
                Entry { key: i as u64, name: row.name.as_bytes(), ino, file_type: row.kind.file_type() };
            if !emit(entry) {
                break;
            }
        }
        Ok(())
    }

    fn subject(&self) -> Option<&dyn Any> {
        (self.base == ROOT_SLOT && self.target.whole).then_some(&self.target as &dyn Any)
    }

    fn nlink(&self) -> Option<u64> {
        let dirs = self
            .entries
            .iter()
            .filter(|row| self.has(row) && row.kind.file_type() == FileType::Directory)
            .count();
        Some(2 + dirs as u64)
    }
}

fn inode_of(cx: &Cx, target: &Arc<Target>, row: &'static table::Row, ino: u64) -> Arc<dyn Inode> {
    let meta = Meta::new(PROC_DEV, ino, row.kind.file_type(), row.mode, now(cx))
        .owned(target.clone())
        .about(target.instance());
    let target = target.clone();
    match row.kind {
        Kind::Text(_) | Kind::Value(..) | Kind::Guarded(_) => {
            PseudoFile::new(meta, Arc::new(Text { target, row }))
        }
        Kind::Link(_) => PseudoLink::new(meta, Arc::new(Link { target, row })),
        Kind::Dir(make) => PseudoDir::new(meta, make(target)),
        Kind::Table(entries, base) => PseudoDir::new(meta, Arc::new(TableDir { target, entries, base })),
        Kind::Special(make) => make(target, meta),
    }
}

struct Text {
    target: Arc<Target>,
    row: &'static table::Row,
}

impl Content for Text {
    fn check_open(&self, cx: &Cx, _flags: OpenFlags) -> Result<()> {
        match self.row.kind {
            Kind::Guarded(_) => self.target.check_read(cx),
            _ => Ok(()),
        }
    }
    fn show(&self, cx: &Cx, out: &mut Out) -> Result<()> {
        match self.row.kind {
            Kind::Text(show) | Kind::Value(show, _) | Kind::Guarded(show) => show(cx, &self.target, out),
            _ => err(Errno::EIO),
        }
    }
    fn store(&self, cx: &Cx, bytes: &[u8]) -> Result<()> {
        match self.row.kind {
            Kind::Value(_, store) => store(cx, &self.target, bytes),
            _ => err(Errno::EINVAL),
        }
    }
}

struct Link {
    target: Arc<Target>,
    row: &'static table::Row,
}

impl Link {
    fn place(&self, cx: &Cx) -> Result<Path> {
        let Kind::Link(find) = self.row.kind else { return err(Errno::EINVAL) };
        self.target.check_read(cx)?;
        find(cx, &self.target)
    }
}

impl LinkTarget for Link {
    fn text(&self, cx: &Cx) -> Result<Vec<u8>> {
        Ok(path_text(cx, &self.place(cx)?))
    }
    fn follow(&self, cx: &Cx) -> Option<Result<Path>> {
        Some(self.place(cx))
    }
}

/// The path of a place as the caller sees it.
pub(super) fn path_text(cx: &Cx, path: &Path) -> Vec<u8> {
    match walk::root(cx) {
        Ok(root) => walk::path_string(&root, path),
        Err(_) => b"/".to_vec(),
    }
}

/// `/proc/PID/task`.
pub(super) struct Threads(pub(super) Arc<Target>);

impl DirSource for Threads {
    fn lookup(&self, cx: &Cx, name: &[u8]) -> Result<Arc<dyn Inode>> {
        let Some(tid) = id_of(name) else { return err(Errno::ENOENT) };
        match cx.kernel.pids.task(tid) {
            Some(task) if task.process.pid == self.0.pid => {
                Ok(dir_of(cx, Target::of_task(&task), Timespec::default()))
            }
            _ => err(Errno::ENOENT),
        }
    }

    fn list(&self, _cx: &Cx, from: u64, emit: &mut dyn FnMut(Entry<'_>) -> bool) -> Result<()> {
        let mut threads = self.0.process().map_err(|_| Errno::ENOENT)?.threads();
        threads.sort_by_key(|task| task.tid());
        for task in threads {
            let key = task.tid() as u64;
            if key < from {
                continue;
            }
            let name = format!("{}", task.tid());
            let ino = Target::of_task(&task).ino(0);
            if !emit(Entry { key, name: name.as_bytes(), ino, file_type: FileType::Directory }) {
                break;
            }
        }
        Ok(())
    }

    fn nlink(&self) -> Option<u64> {
        Some(2 + self.0.process().map_or(0, |p| p.threads().len() as u64))
    }
}

/// The open file of a magic link.
pub(super) type OpenLink = Option<Result<Arc<OpenFile>>>;
