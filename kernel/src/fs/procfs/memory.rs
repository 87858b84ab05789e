//! What `/proc` shows of an address space.

use super::Target;
use super::process::path_text;
use crate::error::{Result, err};
use crate::fs::pseudo::{Meta, Out, put};
use crate::fs::{File, Inode, OpenFile, OpenFlags, Path};
use crate::mm::{Mm, VmaFlags, VmaInfo};
use crate::task::Cx;
use crate::user::{Sink, Source};
use abi::Errno;
use abi::fs::{Attr, DeviceId};
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use core::any::Any;
use hal::{PAGE_SIZE, Prot, VirtAddr};

/// Longest argument list that is shown, as a bound on the work (`MAX_ARG_STRLEN` times what one list may hold is far less).
const ARGS_MAX: u64 = 4 << 20;

/// Sizes of an address space in pages.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Usage {
    pub size: u64,
    pub peak_size: u64,
    pub resident: u64,
    pub peak_resident: u64,
    pub anon: u64,
    pub file: u64,
    pub shmem: u64,
    pub locked: u64,
    pub data: u64,
    pub stack: u64,
    pub code: u64,
    pub library: u64,
    pub tables: u64,
    /// Where the heap starts, an address.
    pub brk_start: u64,
}

pub(super) fn usage(mm: &Mm) -> Usage {
    let stats = mm.stats();
    Usage {
        size: stats.size,
        peak_size: stats.peak_size,
        resident: stats.resident,
        peak_resident: stats.peak_resident,
        anon: stats.resident.saturating_sub(stats.resident_shared),
        file: 0,
        shmem: stats.resident_shared,
        locked: stats.locked,
        data: stats.data,
        stack: stats.stack,
        // Which of them are the program's own, and which libraries', is not known.
        code: 0,
        library: stats.exec,
        tables: stats.table_bytes.div_ceil(PAGE_SIZE),
        brk_start: mm.heap().0,
    }
}

pub(super) fn statm(_cx: &Cx, target: &Target, out: &mut Out) -> Result<()> {
    target.process()?;
    let u = target.mm().map(|mm| usage(&mm)).unwrap_or_default();
    put!(out, "{} {} {} {} 0 {} 0\n", u.size, u.resident, u.file + u.shmem, u.code, u.data + u.stack);
    Ok(())
}

/// Bytes of a process's memory, as far as they can be read.
fn read_range(cx: &Cx, mm: &Mm, (start, end): (u64, u64)) -> Vec<u8> {
    let len = end.saturating_sub(start).min(ARGS_MAX);
    let mut bytes = vec![0; len as usize];
    if mm.read_bytes(cx, VirtAddr(start), &mut bytes).is_ok() {
        return bytes;
    }
    // Some of it is gone: as far as whole pages go.
    let mut good = 0;
    while good < len {
        let at = start + good;
        let step = (PAGE_SIZE - at % PAGE_SIZE).min(len - good);
        let Some(chunk) = bytes.get_mut(good as usize..(good + step) as usize) else { break };
        if mm.read_bytes(cx, VirtAddr(at), chunk).is_err() {
            break;
        }
        good += step;
    }
    bytes.truncate(good as usize);
    bytes
}

pub(super) fn cmdline(cx: &Cx, target: &Target, out: &mut Out) -> Result<()> {
    let process = target.process()?;
    let Some(mm) = target.mm() else { return Ok(()) };
    let (args, env) = {
        let image = process.image.lock();
        (image.args, image.env)
    };
    let mut bytes = read_range(cx, &mm, args);
    // A program that overwrote the end of its arguments (`setproctitle`) has a title that runs on into the environment.
    if bytes.last().is_some_and(|&last| last != 0) {
        if let Some(end) = bytes.iter().position(|&b| b == 0) {
            bytes.truncate(end);
        } else {
            let more = read_range(cx, &mm, env);
            let end = more.iter().position(|&b| b == 0).unwrap_or(more.len());
            bytes.extend_from_slice(more.get(..end).unwrap_or_default());
        }
    }
    out.bytes(&bytes);
    Ok(())
}

pub(super) fn environ(cx: &Cx, target: &Target, out: &mut Out) -> Result<()> {
    let process = target.process()?;
    let env = process.image.lock().env;
    if let Some(mm) = target.mm() {
        out.bytes(&read_range(cx, &mm, env));
    }
    Ok(())
}

pub(super) fn auxv(_cx: &Cx, target: &Target, out: &mut Out) -> Result<()> {
    let process = target.process()?;
    if target.mm().is_some() {
        let auxv = process.image.lock().auxv.clone();
        out.bytes(&auxv);
    }
    Ok(())
}

/// The first line of an area in `maps` and `smaps`.
fn area_line(cx: &Cx, vma: &VmaInfo, out: &mut Out) {
    let start = out.0.len();
    let right = |bit, letter| if vma.prot.contains(bit) { letter } else { '-' };
    let (dev, ino, path) = file_of(cx, vma);
    put!(
        out,
        "{:08x}-{:08x} {}{}{}{} {:08x} {:02x}:{:02x} {} ",
        vma.start,
        vma.end,
        right(Prot::READ, 'r'),
        right(Prot::WRITE, 'w'),
        right(Prot::EXEC, 'x'),
        if vma.shared { 's' } else { 'p' },
        vma.offset,
        dev.major,
        dev.minor,
        ino
    );
    if !vma.name.is_empty() || !path.is_empty() {
        out.pad_to(start, 73);
        if vma.name.is_empty() {
            out.escaped(&path, b"\n");
        } else {
            out.text(&vma.name);
        }
    }
    out.text("\n");
}

/// Device, inode number and path of the file that an area shows.
fn file_of(cx: &Cx, vma: &VmaInfo) -> (DeviceId, u64, Vec<u8>) {
    let Some(file) = &vma.file else { return (DeviceId::default(), 0, Vec::new()) };
    let (dev, ino) = file.attr().map_or((DeviceId::default(), 0), |attr| (attr.dev, attr.ino));
    let path = match &file.path {
        Some(path) => path_text(cx, path),
        None => file.file.describe().into_bytes(),
    };
    (dev, ino, path)
}

pub(super) fn maps(cx: &Cx, target: &Target, out: &mut Out) -> Result<()> {
    if let Some(mm) = target.readable_mm(cx)? {
        for vma in mm.vmas() {
            area_line(cx, &vma, out);
        }
    }
    Ok(())
}

pub(super) fn numa_maps(cx: &Cx, target: &Target, out: &mut Out) -> Result<()> {
    if let Some(mm) = target.readable_mm(cx)? {
        for vma in mm.vmas() {
            put!(out, "{:08x} default", vma.start);
            let (_, _, path) = file_of(cx, &vma);
            if vma.name.is_empty() && !path.is_empty() {
                out.text(" file=");
                out.escaped(&path, b"\n\t= ");
            } else if vma.name == "[heap]" {
                out.text(" heap");
            } else if vma.name == "[stack]" {
                out.text(" stack");
            }
            if vma.resident_pages > 0 {
                let kind = if vma.file.is_some() { "mapped" } else { "anon" };
                put!(out, " {kind}={0} active=0 N0={0} kernelpagesize_kB=4", vma.resident_pages);
            }
            out.text("\n");
        }
    }
    Ok(())
}

/// Sums of an area or of all, in kB.
#[derive(Default)]
struct Sums {
    rss: u64,
    shared_dirty: u64,
    private_dirty: u64,
    anonymous: u64,
    locked: u64,
}

impl Sums {
    fn add(&mut self, vma: &VmaInfo) {
        let kb = |pages: u64| pages * (PAGE_SIZE / 1024);
        let resident = kb(vma.resident_pages);
        let private = kb(vma.private_pages.min(vma.resident_pages));
        self.rss += resident;
        // Every page in RAM was written by someone: clean pages of host files are shown as they are and do not count.
        self.private_dirty += private;
        self.shared_dirty += resident - private;
        if !vma.shared {
            self.anonymous += resident;
        }
        if vma.flags.contains(VmaFlags::LOCKED) {
            self.locked += resident;
        }
    }

    /// The lines from `Rss` on. How often a page is shared is not counted by area, so `Pss` is `Rss`.
    fn show(&self, out: &mut Out, rollup: bool) {
        let mut line = |name: &str, kb: u64| put!(out, "{:<16}{kb:>8} kB\n", alloc::format!("{name}:"));
        line("Rss", self.rss);
        line("Pss", self.rss);
        line("Pss_Dirty", self.private_dirty + self.shared_dirty);
        if rollup {
            line("Pss_Anon", self.anonymous);
            line("Pss_File", 0);
            line("Pss_Shmem", self.rss - self.anonymous);
        }
        line("Shared_Clean", 0);
        line("Shared_Dirty", self.shared_dirty);
        line("Private_Clean", 0);
        line("Private_Dirty", self.private_dirty);
        line("Referenced", self.rss);
        line("Anonymous", self.anonymous);
        let zeros = [
            "KSM",
            "LazyFree",
            "AnonHugePages",
            "ShmemPmdMapped",
            "FilePmdMapped",
            "Shared_Hugetlb",
            "Private_Hugetlb",
            "Swap",
            "SwapPss",
        ];
        for name in zeros {
            line(name, 0);
        }
        line("Locked", self.locked);
    }
}

pub(super) fn smaps(cx: &Cx, target: &Target, out: &mut Out) -> Result<()> {
    let Some(mm) = target.readable_mm(cx)? else { return Ok(()) };
    for vma in mm.vmas() {
        area_line(cx, &vma, out);
        put!(out, "{:<16}{:>8} kB\n", "Size:", (vma.end - vma.start) / 1024);
        put!(out, "{:<16}{:>8} kB\n{:<16}{:>8} kB\n", "KernelPageSize:", 4, "MMUPageSize:", 4);
        let mut sums = Sums::default();
        sums.add(&vma);
        sums.show(out, false);
        put!(out, "{:<16}{:>8}\nVmFlags: ", "THPeligible:", 0);
        let flags = [(Prot::READ, "rd "), (Prot::WRITE, "wr "), (Prot::EXEC, "ex ")];
        for (bit, letters) in flags {
            if vma.prot.contains(bit) {
                out.text(letters);
            }
        }
        if vma.shared {
            out.text("sh ");
        }
        out.text("mr mw me ");
        if vma.shared {
            out.text("ms ");
        }
        let flags = [
            (VmaFlags::GROWSDOWN, "gd "),
            (VmaFlags::LOCKED, "lo "),
            (VmaFlags::SEQUENTIAL, "sr "),
            (VmaFlags::DONTFORK, "dc "),
            (VmaFlags::NORESERVE, "nr "),
            (VmaFlags::WIPEONFORK, "wf "),
            (VmaFlags::DONTDUMP, "dd "),
            (VmaFlags::HUGEPAGE, "hg "),
            (VmaFlags::NOHUGEPAGE, "nh "),
        ];
        for (flag, letters) in flags {
            if vma.flags.contains(flag) {
                out.text(letters);
            }
        }
        out.text("\n");
    }
    Ok(())
}

pub(super) fn smaps_rollup(cx: &Cx, target: &Target, out: &mut Out) -> Result<()> {
    let Some(mm) = target.readable_mm(cx)? else { return err(Errno::ESRCH) };
    let vmas = mm.vmas();
    let mut sums = Sums::default();
    for vma in &vmas {
        sums.add(vma);
    }
    let start = out.0.len();
    let (first, last) = (vmas.first().map_or(0, |v| v.start), vmas.last().map_or(0, |v| v.end));
    put!(out, "{first:08x}-{last:08x} ---p 00000000 00:00 0 ");
    out.pad_to(start, 73);
    out.text("[rollup]\n");
    sums.show(out, true);
    Ok(())
}

/// `/proc/PID/mem` and `/proc/PID/pagemap`: content by address.
struct Window {
    target: Arc<Target>,
    meta: Meta,
    pagemap: bool,
}

pub(super) fn mem(target: Arc<Target>, meta: Meta) -> Arc<dyn Inode> {
    Arc::new(Window { target, meta, pagemap: false })
}

pub(super) fn pagemap(target: Arc<Target>, meta: Meta) -> Arc<dyn Inode> {
    Arc::new(Window { target, meta, pagemap: true })
}

impl Inode for Window {
    fn attr(&self) -> Result<Attr> {
        Ok(self.meta.attr())
    }
    fn open(&self, cx: &Cx, _path: &Path, _flags: OpenFlags) -> Result<Arc<dyn File>> {
        let mm = self.target.readable_mm(cx)?;
        Ok(if self.pagemap { Arc::new(PageMap { mm }) } else { Arc::new(Memory { mm }) })
    }
    fn cacheable(&self) -> bool {
        false
    }
    fn is_same(&self, other: &dyn Inode) -> bool {
        other.as_any().downcast_ref::<Window>().is_some_and(|other| self.meta.is_same(&other.meta))
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// An address space as a file. Keeps the space that was there at `open(2)`, even after an `execve(2)`, as Linux does.
struct Memory {
    mm: Option<Arc<Mm>>,
}

/// Where `lseek(2)` goes in a file of addresses, which has no end.
fn seek_address(of: &OpenFile, offset: i64, whence: u32) -> Result<u64> {
    match whence {
        0 => Ok(offset as u64),
        1 => Ok(of.pos().wrapping_add_signed(offset)),
        _ => err(Errno::EINVAL),
    }
}

impl File for Memory {
    fn read(&self, cx: &Cx, _of: &OpenFile, pos: &mut u64, sink: &mut dyn Sink) -> Result<usize> {
        let Some(mm) = &self.mm else { return Ok(0) };
        let mut page = vec![0; PAGE_SIZE as usize];
        let mut done = 0;
        while sink.room() > 0 {
            let step = (PAGE_SIZE - *pos % PAGE_SIZE).min(sink.room() as u64) as usize;
            let Some(chunk) = page.get_mut(..step) else { break };
            if mm.read_bytes(cx, VirtAddr(*pos), chunk).is_err() {
                return if done > 0 { Ok(done) } else { err(Errno::EIO) };
            }
            match sink.put(chunk) {
                Ok(()) => {}
                Err(_) if done > 0 => break,
                Err(e) => return Err(e),
            }
            done += step;
            *pos = pos.wrapping_add(step as u64);
        }
        Ok(done)
    }

    fn write(&self, cx: &Cx, _of: &OpenFile, pos: &mut u64, source: &mut dyn Source) -> Result<usize> {
        let Some(mm) = &self.mm else { return Ok(0) };
        let mut page = vec![0; PAGE_SIZE as usize];
        let mut done = 0;
        while source.left() > 0 {
            let step = (PAGE_SIZE - *pos % PAGE_SIZE).min(source.left() as u64) as usize;
            let Some(chunk) = page.get_mut(..step) else { break };
            let taken = match source.take(chunk) {
                Ok(0) => break,
                Ok(n) => n,
                Err(_) if done > 0 => break,
                Err(e) => return Err(e),
            };
            if mm.write_bytes(cx, VirtAddr(*pos), chunk.get(..taken).unwrap_or_default()).is_err() {
                return if done > 0 { Ok(done) } else { err(Errno::EIO) };
            }
            done += taken;
            *pos = pos.wrapping_add(taken as u64);
        }
        Ok(done)
    }

    fn seekable(&self) -> bool {
        true
    }
    fn seek(&self, _cx: &Cx, of: &OpenFile, offset: i64, whence: u32) -> Result<u64> {
        seek_address(of, offset, whence)
    }
    fn pollable(&self) -> bool {
        false
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// `pagemap`: eight bytes for each page. Frame numbers are never shown, as to every unprivileged reader on Linux.
struct PageMap {
    mm: Option<Arc<Mm>>,
}

impl File for PageMap {
    fn read(&self, cx: &Cx, _of: &OpenFile, pos: &mut u64, sink: &mut dyn Sink) -> Result<usize> {
        let Some(mm) = &self.mm else { return Ok(0) };
        if !(*pos).is_multiple_of(8) || !sink.room().is_multiple_of(8) {
            return err(Errno::EINVAL);
        }
        let end = cx.kernel.machine.user_limit() / PAGE_SIZE * 8;
        let vmas = mm.vmas();
        let mut done = 0;
        while sink.room() >= 8 && *pos < end && done < 1 << 20 {
            let address = *pos / 8 * PAGE_SIZE;
            let at = vmas.partition_point(|vma| vma.end <= address);
            let inside = vmas.get(at).filter(|vma| vma.start <= address);
            // Bit 63 says present: known for an area only as a whole. Bit 61 is a file or shared page.
            let entry: u64 = match inside {
                Some(vma) if vma.resident_pages * PAGE_SIZE == vma.end - vma.start => {
                    1 << 63 | u64::from(vma.file.is_some() || vma.shared) << 61
                }
                _ => 0,
            };
            sink.put(&entry.to_ne_bytes())?;
            *pos += 8;
            done += 8;
        }
        Ok(done)
    }
    fn seekable(&self) -> bool {
        true
    }
    fn seek(&self, _cx: &Cx, of: &OpenFile, offset: i64, whence: u32) -> Result<u64> {
        seek_address(of, offset, whence)
    }
    fn pollable(&self) -> bool {
        false
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
}
