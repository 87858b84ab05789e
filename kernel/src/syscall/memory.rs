//! Memory calls: `mmap(2)`, `munmap(2)`, `mprotect(2)`, `brk(2)`.

use super::{Arg, ArgKind};
use crate::error::{Result, err};
use crate::fs::Fd;
use crate::mm::{MapFlags, MapRequest};
use crate::task::Cx;
use abi::Errno;
use alloc::format;
use alloc::string::String;
use bitflags::bitflags;
use hal::{PAGE_SIZE, Prot, VirtAddr};

/// `mmap(2)`.
pub(super) fn mmap(
    cx: &Cx,
    addr: u64,
    len: u64,
    prot: ProtArg,
    flags: MmapFlags,
    fd: Fd,
    offset: u64,
) -> Result<VirtAddr> {
    if !offset.is_multiple_of(PAGE_SIZE) {
        return err(Errno::EINVAL);
    }
    // The open file is looked at before anything else, but not for anonymous memory.
    let anonymous = flags.contains(MmapFlags::ANONYMOUS);
    let file = if anonymous { None } else { Some(cx.file(fd)?) };
    if file.as_ref().is_some_and(|f| f.flags().contains(crate::fs::OpenFlags::PATH)) {
        return err(Errno::EBADF);
    }
    if len == 0 {
        return err(Errno::EINVAL);
    }
    if flags.contains(MmapFlags::HUGETLB) {
        // As on a Linux without reserved huge pages; not one of their files either.
        return err(if anonymous { Errno::ENOMEM } else { Errno::EINVAL });
    }
    let shared = match flags.bits() & 0xf {
        1 => true,
        2 => false,
        // Only files can be asked to check the flags.
        3 if !anonymous => {
            let unknown = flags.difference(MmapFlags::KNOWN);
            if !unknown.is_empty() {
                return err(Errno::EOPNOTSUPP);
            }
            true
        }
        _ => return err(Errno::EINVAL),
    };
    let object = match &file {
        None => None,
        Some(file) => {
            if !file.flags().readable() {
                return err(Errno::EACCES);
            }
            if shared && prot.prot().contains(Prot::WRITE) && !file.flags().writable() {
                return err(Errno::EACCES);
            }
            if shared && prot.prot().contains(Prot::WRITE) && file.file.write_sealed() {
                return err(Errno::EPERM);
            }
            Some(file.file.mmap(cx, file)?)
        }
    };
    let mut map = MapFlags::empty();
    map.set(MapFlags::SHARED, shared);
    map.set(MapFlags::FIXED, flags.intersects(MmapFlags::FIXED | MmapFlags::FIXED_NOREPLACE));
    map.set(MapFlags::NOREPLACE, flags.contains(MmapFlags::FIXED_NOREPLACE));
    map.set(MapFlags::GROWSDOWN, flags.contains(MmapFlags::GROWSDOWN) && !shared);
    map.set(MapFlags::POPULATE, flags.contains(MmapFlags::POPULATE) && !flags.contains(MmapFlags::NONBLOCK));
    map.set(MapFlags::LOCKED, flags.contains(MmapFlags::LOCKED));
    map.set(MapFlags::NORESERVE, flags.contains(MmapFlags::NORESERVE));
    map.set(MapFlags::LOW, flags.contains(MmapFlags::LOW));
    map.set(MapFlags::LATER, flags.contains(MmapFlags::STACK));
    let request = MapRequest { addr, len, prot: prot.prot(), flags: map, object, file, offset, name: "" };
    cx.mm().map(cx, request)
}

/// `munmap(2)`.
pub(super) fn munmap(cx: &Cx, addr: u64, len: u64) -> Result<()> {
    cx.mm().unmap(cx, addr, len)
}

/// `mprotect(2)`.
pub(super) fn mprotect(cx: &Cx, addr: u64, len: u64, prot: ProtArg) -> Result<()> {
    if !addr.is_multiple_of(PAGE_SIZE) {
        return err(Errno::EINVAL);
    }
    if len == 0 {
        return Ok(());
    }
    let (down, up) = (prot.0 & ProtArg::GROWSDOWN != 0, prot.0 & ProtArg::GROWSUP != 0);
    if prot.0 & !ProtArg::KNOWN != 0 || up {
        return err(Errno::EINVAL);
    }
    let mm = cx.mm();
    if !down {
        return mm.protect(cx, addr, len, prot.prot());
    }
    // From the start of the stack that holds the address.
    let start = mm.stack_start(addr).ok_or(Errno::EINVAL)?;
    let len = len.checked_add(addr - start).ok_or(Errno::ENOMEM)?;
    mm.protect(cx, start, len, prot.prot())
}

/// `brk(2)`: never fails, but answers where the heap ends.
pub(super) fn brk(cx: &Cx, addr: u64) -> Result<u64> {
    Ok(cx.mm().brk(cx, addr))
}

/// `PROT_*` (`uapi/asm-generic/mman-common.h`).
#[derive(Clone, Copy, Debug)]
pub struct ProtArg(u32);

impl ProtArg {
    /// `PROT_GROWSDOWN`.
    const GROWSDOWN: u32 = 0x0100_0000;
    /// `PROT_GROWSUP`: there are no such areas on x86.
    const GROWSUP: u32 = 0x0200_0000;
    /// What `mprotect` accepts: the rights, `PROT_SEM` and the two above.
    const KNOWN: u32 = 0xf | Self::GROWSDOWN | Self::GROWSUP;

    /// The rights; `PROT_SEM` and unknown bits are ignored, as `mmap` does.
    fn prot(self) -> Prot {
        Prot::from_bits_truncate(self.0)
    }
}

impl Arg for ProtArg {
    const KIND: ArgKind = ArgKind::Hex;
    fn decode(raw: u64) -> Self {
        ProtArg(raw as u32)
    }
    fn show(raw: u64, _cx: &Cx) -> String {
        let names = [(1, "PROT_READ"), (2, "PROT_WRITE"), (4, "PROT_EXEC")];
        flag_names(raw as u32, &names, "PROT_NONE")
    }
}

bitflags! {
    /// `MAP_*` (`uapi/asm-generic/mman-common.h`, `uapi/asm-generic/mman.h`).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct MmapFlags: u32 {
        /// `MAP_SHARED`; together with `PRIVATE` it is `MAP_SHARED_VALIDATE`.
        const SHARED = 1;
        /// `MAP_PRIVATE`.
        const PRIVATE = 2;
        /// `MAP_FIXED`.
        const FIXED = 0x10;
        /// `MAP_ANONYMOUS`.
        const ANONYMOUS = 0x20;
        /// `MAP_32BIT`.
        const LOW = 0x40;
        /// `MAP_GROWSDOWN`.
        const GROWSDOWN = 0x100;
        /// `MAP_DENYWRITE`: ignored.
        const DENYWRITE = 0x800;
        /// `MAP_EXECUTABLE`: ignored.
        const EXECUTABLE = 0x1000;
        /// `MAP_LOCKED`.
        const LOCKED = 0x2000;
        /// `MAP_NORESERVE`.
        const NORESERVE = 0x4000;
        /// `MAP_POPULATE`.
        const POPULATE = 0x8000;
        /// `MAP_NONBLOCK`.
        const NONBLOCK = 0x10000;
        /// `MAP_STACK`: made when it is touched, however small; many a signal stack never is.
        const STACK = 0x20000;
        /// `MAP_HUGETLB`.
        const HUGETLB = 0x40000;
        /// `MAP_FIXED_NOREPLACE`.
        const FIXED_NOREPLACE = 0x10_0000;
        /// Anything.
        const _ = !0;
    }
}

impl MmapFlags {
    /// What `MAP_SHARED_VALIDATE` lets pass; `MAP_SYNC` is only for files of persistent memory.
    const KNOWN: MmapFlags = MmapFlags::from_bits_retain(0xfc07_f97f | 0xf);
}

impl Arg for MmapFlags {
    const KIND: ArgKind = ArgKind::Hex;
    fn decode(raw: u64) -> Self {
        MmapFlags::from_bits_retain(raw as u32)
    }
    fn show(raw: u64, _cx: &Cx) -> String {
        let names = [
            (0x10, "MAP_FIXED"),
            (0x20, "MAP_ANONYMOUS"),
            (0x40, "MAP_32BIT"),
            (0x100, "MAP_GROWSDOWN"),
            (0x800, "MAP_DENYWRITE"),
            (0x1000, "MAP_EXECUTABLE"),
            (0x2000, "MAP_LOCKED"),
            (0x4000, "MAP_NORESERVE"),
            (0x8000, "MAP_POPULATE"),
            (0x10000, "MAP_NONBLOCK"),
            (0x20000, "MAP_STACK"),
            (0x40000, "MAP_HUGETLB"),
            (0x10_0000, "MAP_FIXED_NOREPLACE"),
        ];
        let kind = match raw & 0xf {
            1 => "MAP_SHARED",
            2 => "MAP_PRIVATE",
            3 => "MAP_SHARED_VALIDATE",
            _ => "0",
        };
        match raw as u32 & !0xf {
            0 => String::from(kind),
            rest => format!("{kind}|{}", flag_names(rest, &names, "")),
        }
    }
}

/// Names of set bits, and the rest in hexadecimal.
pub(super) fn flag_names(bits: u32, names: &[(u32, &str)], none: &str) -> String {
    let mut out = String::new();
    let mut left = bits;
    for (bit, name) in names {
        if bits & bit != 0 {
            left &= !bit;
            if !out.is_empty() {
                out.push('|');
            }
            out.push_str(name);
        }
    }
    if left != 0 {
        let bar = if out.is_empty() { "" } else { "|" };
        out.push_str(&format!("{bar}{left:#x}"));
    }
    if out.is_empty() { String::from(none) } else { out }
}
