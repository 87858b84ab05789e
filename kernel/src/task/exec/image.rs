//! Loading ELF files (`elf(5)`; System V ABI, chapter 5).
//!
//! Everything in the file is an allegation: sizes and addresses are checked before they are used, and a segment is refused rather than
//! adjusted when it makes no sense. Which lies are an errno for the caller and which end the process is Linux's choice
//! ([`Failure`]).

use super::read_at;
use crate::error::{Error, Result};
use crate::fs::OpenFile;
use crate::mm::{MapFlags, MapRequest, Mm};
use crate::task::Cx;
use abi::Errno;
use alloc::sync::Arc;
use alloc::vec::Vec;
use elf::endian::LittleEndian;
use elf::file::{Class, FileHeader};
use elf::segment::{ProgramHeader, SegmentTable};
use hal::{PAGE_SIZE, Prot, VirtAddr};

/// A loaded program.
pub(super) struct Image {
    /// Where execution starts: the interpreter's entry, or the program's.
    pub start: u64,
    /// `AT_ENTRY`.
    pub entry: u64,
    /// `AT_PHDR`.
    pub phdr: u64,
    /// `AT_PHNUM`.
    pub phnum: u64,
    /// `AT_BASE`: where the interpreter is, or 0.
    pub interp_base: u64,
    /// Whether the program wants an executable stack.
    pub exec_stack: bool,
    /// Code range.
    pub code: (u64, u64),
    /// Data range.
    pub data: (u64, u64),
}

const HEADER_LEN: usize = 64;
const PHENT_LEN: usize = 56;
/// Linux takes program headers up to 64 KiB.
const MAX_PHDRS: u16 = (65536 / PHENT_LEN) as u16;
const ET_EXEC: u16 = 2;
const ET_DYN: u16 = 3;
const EM_X86_64: u16 = 62;
const EM_AARCH64: u16 = 183;
const PT_LOAD: u32 = 1;
const PT_INTERP: u32 = 3;
const PT_GNU_STACK: u32 = 0x6474_e551;
pub(super) const ADDR_NO_RANDOMIZE: u32 = 0x004_0000;

const NOT_ELF: Error = Error::new(Errno::ENOEXEC, "not an ELF file for this machine");
const BAD_ELF: Error = Error::new(Errno::ENOEXEC, "malformed ELF file");

/// Why a program cannot be executed.
#[derive(Debug)]
pub(super) enum Failure {
    /// The caller goes on and is told.
    Refused(Error),
    /// Linux finds it only when the old program is gone already, and ends the process with `SIGSEGV`.
    Fatal(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure::Refused(error)
    }
}

impl From<Errno> for Failure {
    fn from(errno: Errno) -> Failure {
        Failure::Refused(errno.into())
    }
}

/// A file's headers.
struct Headers {
    kind: u16,
    entry: u64,
    phoff: u64,
    phnum: u16,
    segments: Vec<ProgramHeader>,
}

fn machine() -> u16 {
    if cfg!(target_arch = "aarch64") { EM_AARCH64 } else { EM_X86_64 }
}

/// Reads the headers. Class, byte order and versions are not looked at, as on Linux.
fn headers(cx: &Cx, file: &OpenFile, head: &[u8]) -> Result<Headers> {
    if !head.starts_with(b"\x7fELF") {
        return Err(NOT_ELF);
    }
    let tail = head.get(elf::abi::EI_NIDENT..HEADER_LEN).ok_or(NOT_ELF)?;
    let header = FileHeader::parse_tail((LittleEndian, Class::ELF64, 0, 0), tail).map_err(|_| NOT_ELF)?;
    if header.e_machine != machine() {
        return Err(NOT_ELF);
    }
    if usize::from(header.e_phentsize) != PHENT_LEN || header.e_phnum == 0 || header.e_phnum > MAX_PHDRS {
        return Err(BAD_ELF);
    }
    let len = usize::from(header.e_phnum) * PHENT_LEN;
    if header.e_phoff.checked_add(len as u64).is_none_or(|end| end > i64::MAX as u64) {
        return Err(BAD_ELF);
    }
    let bytes = read_at(cx, file, header.e_phoff, len)?;
    if bytes.len() < len {
        return Err(BAD_ELF);
    }
    Ok(Headers {
        kind: header.e_type,
        entry: header.e_entry,
        phoff: header.e_phoff,
        phnum: header.e_phnum,
        segments: SegmentTable::new(LittleEndian, Class::ELF64, &bytes).iter().collect(),
    })
}

/// The segments to load, each one sound in itself.
fn loads(headers: &Headers, limit: u64) -> Result<Vec<&ProgramHeader>> {
    let loads = headers.segments.iter().filter(|s| s.p_type == PT_LOAD && s.p_memsz | s.p_filesz != 0);
    let fits = |start: u64, len: u64, limit: u64| start.checked_add(len).is_some_and(|end| end <= limit);
    let sound = |s: &&ProgramHeader| {
        s.p_filesz <= s.p_memsz
            && fits(s.p_offset, s.p_filesz, i64::MAX as u64 - PAGE_SIZE)
            && fits(s.p_vaddr, s.p_memsz, limit)
            && (s.p_filesz == 0 || s.p_offset % PAGE_SIZE == s.p_vaddr % PAGE_SIZE)
    };
    loads.map(|s| Some(s).filter(sound).ok_or(BAD_ELF)).collect()
}

/// Maps a program and its interpreter into `mm`, and sets the program break.
pub(super) fn load(cx: &Cx, mm: &Arc<Mm>, file: &Arc<OpenFile>, head: &[u8]) -> Result<Image, Failure> {
    let program = headers(cx, file, head)?;
    if !matches!(program.kind, ET_EXEC | ET_DYN) {
        return Err(NOT_ELF.into());
    }
    let interpreter = match find_interpreter(cx, file, &program)? {
        Some(file) => {
            let head = read_at(cx, &file, 0, HEADER_LEN)?;
            if head.len() < HEADER_LEN {
                return Err(Errno::EIO.into());
            }
            let headers =
                headers(cx, &file, &head).map_err(|_| Error::new(Errno::ELIBBAD, "malformed interpreter"))?;
            Some((file, headers))
        }
        None => None,
    };
    let interpreter = interpreter.as_ref().map(|(file, headers)| (file, headers));
    map_all(cx, mm, (file, &program), interpreter).map_err(Failure::Fatal)
}

/// A file and its headers.
type Loadable<'a> = (&'a Arc<OpenFile>, &'a Headers);

fn map_all(cx: &Cx, mm: &Arc<Mm>, program: Loadable<'_>, interpreter: Option<Loadable<'_>>) -> Result<Image> {
    let (file, program) = program;
    // A PIE is placed in the upper part of the space; an interpreter run by hand goes where mmap puts it.
    let low = if program.kind == ET_DYN && interpreter.is_some() { 0x5555_5555_4000 } else { 0 };
    let main = map(cx, mm, file, program, low)?;
    let brk = main.end.checked_add(random_pages(cx, 13)?).ok_or(BAD_ELF)?;
    mm.set_brk_start(brk);
    let phdr = phdr_in_segments(program).unwrap_or(0).wrapping_add(main.bias);
    let entry = program.entry.wrapping_add(main.bias);
    let (mut start, mut interp_base) = (entry, 0);
    if let Some((file, headers)) = interpreter {
        if !matches!(headers.kind, ET_EXEC | ET_DYN) {
            return Err(NOT_ELF);
        }
        let mapped = map(cx, mm, file, headers, 0)?;
        start = headers.entry.wrapping_add(mapped.bias);
        interp_base = mapped.bias;
    }
    if start >= cx.kernel.machine.user_limit() {
        return Err(BAD_ELF);
    }
    let exec_stack = program.segments.iter().any(|s| s.p_type == PT_GNU_STACK && s.p_flags & 1 != 0);
    Ok(Image {
        start,
        entry,
        phdr,
        phnum: u64::from(program.phnum),
        interp_base,
        exec_stack,
        code: main.code,
        data: main.data,
    })
}

/// Where the program headers lie in memory: in the last segment that covers their file offset.
fn phdr_in_segments(program: &Headers) -> Option<u64> {
    let segment = program.segments.iter().rfind(|s| {
        s.p_type == PT_LOAD && s.p_offset <= program.phoff && program.phoff - s.p_offset < s.p_filesz
    })?;
    Some(segment.p_vaddr.wrapping_add(program.phoff - segment.p_offset))
}

fn find_interpreter(cx: &Cx, file: &OpenFile, program: &Headers) -> Result<Option<Arc<OpenFile>>> {
    let Some(segment) = program.segments.iter().find(|s| s.p_type == PT_INTERP) else { return Ok(None) };
    if segment.p_filesz < 2 || segment.p_filesz > crate::user::PATH_MAX as u64 {
        return Err(BAD_ELF);
    }
    if segment.p_offset > i64::MAX as u64 - PAGE_SIZE {
        return Err(Errno::EINVAL.into());
    }
    let bytes = read_at(cx, file, segment.p_offset, segment.p_filesz as usize)?;
    if bytes.len() as u64 != segment.p_filesz {
        return Err(Errno::EIO.into());
    }
    let Some((0, path)) = bytes.split_last() else { return Err(BAD_ELF) };
    let path = path.split(|&b| b == 0).next().unwrap_or_default();
    if path.is_empty() {
        // It names the working directory, and that is no program.
        return Err(Errno::EACCES.into());
    }
    super::open_executable(cx, path).map(Some)
}

/// Where a file was mapped.
struct Mapped {
    /// What is added to the addresses in the file.
    bias: u64,
    /// End of the last segment, page aligned.
    end: u64,
    code: (u64, u64),
    data: (u64, u64),
}

fn random_pages(cx: &Cx, bits: u32) -> Result<u64> {
    let personality = cx.process().personality.load(core::sync::atomic::Ordering::Relaxed);
    if personality & ADDR_NO_RANDOMIZE != 0 || cx.kernel.settings.randomize_va_space.get() == 0 {
        return Ok(0);
    }
    let mut bytes = [0u8; 8];
    cx.kernel.machine.entropy(&mut bytes);
    Ok((u64::from_le_bytes(bytes) & ((1 << bits) - 1)) * PAGE_SIZE)
}

fn map(cx: &Cx, mm: &Arc<Mm>, file: &Arc<OpenFile>, headers: &Headers, low: u64) -> Result<Mapped> {
    let limit = cx.kernel.machine.user_limit();
    let loads = loads(headers, limit)?;
    let first = loads.iter().map(|s| s.p_vaddr & !(PAGE_SIZE - 1)).min().ok_or(BAD_ELF)?;
    let last = loads.iter().map(|s| s.p_vaddr + s.p_memsz).max().ok_or(BAD_ELF)?;
    let last = last.next_multiple_of(PAGE_SIZE);
    if last <= first {
        return Err(BAD_ELF);
    }
    let bias = if headers.kind == ET_DYN {
        let wanted = loads.iter().map(|s| s.p_align).filter(|a| a.is_power_of_two()).max();
        let align = wanted.unwrap_or(1).max(PAGE_SIZE);
        let hint = if low == 0 { 0 } else { (low + random_pages(cx, 28)?) & !(align - 1) };
        reserve(cx, mm, hint, last - first, align)?.wrapping_sub(first)
    } else {
        if last > limit || first < PAGE_SIZE * 16 {
            return Err(Errno::ENOMEM.into());
        }
        0
    };
    let (mut code, mut data) = ((u64::MAX, 0), (u64::MAX, 0));
    for segment in &loads {
        let start = segment.p_vaddr.wrapping_add(bias);
        let range = if segment.p_flags & 1 != 0 { &mut code } else { &mut data };
        *range = (range.0.min(start), range.1.max(start + segment.p_filesz));
        map_segment(cx, mm, file, segment, start)?;
    }
    mm.make_data(first.wrapping_add(bias)..last.wrapping_add(bias));
    for segment in &loads {
        clear_tail(cx, mm, segment, segment.p_vaddr.wrapping_add(bias))?;
    }
    Ok(Mapped { bias, end: last.wrapping_add(bias), code, data })
}

/// Reserves room for all segments, so that they land in one piece; they are then mapped over it.
fn reserve(cx: &Cx, mm: &Arc<Mm>, hint: u64, len: u64, align: u64) -> Result<u64> {
    let spare = align - PAGE_SIZE;
    let all = len.checked_add(spare).ok_or(BAD_ELF)?;
    let at = mm.map(cx, request(hint, all, Prot::empty(), MapFlags::NORESERVE))?.0;
    let start = at.next_multiple_of(align);
    if start > at {
        mm.unmap(cx, at, start - at)?;
    }
    if start + len < at + all {
        mm.unmap(cx, start + len, at + all - start - len)?;
    }
    Ok(start)
}

fn request(addr: u64, len: u64, prot: Prot, flags: MapFlags) -> MapRequest {
    let flags = flags | MapFlags::LATER;
    MapRequest { addr, len, prot, flags, object: None, file: None, offset: 0, name: "" }
}

fn map_segment(
    cx: &Cx,
    mm: &Arc<Mm>,
    file: &Arc<OpenFile>,
    segment: &ProgramHeader,
    start: u64,
) -> Result<()> {
    let mut prot = Prot::empty();
    prot.set(Prot::EXEC, segment.p_flags & 1 != 0);
    prot.set(Prot::WRITE, segment.p_flags & 2 != 0);
    prot.set(Prot::READ, segment.p_flags & 4 != 0);
    let page_start = start & !(PAGE_SIZE - 1);
    let file_end = start + segment.p_filesz;
    let mapped_end = if segment.p_filesz > 0 { file_end.next_multiple_of(PAGE_SIZE) } else { page_start };
    if segment.p_filesz > 0 {
        mm.map(
            cx,
            MapRequest {
                object: Some(file.file.mmap(cx, file)?),
                file: Some(file.clone()),
                offset: segment.p_offset & !(PAGE_SIZE - 1),
                ..request(page_start, mapped_end - page_start, prot, MapFlags::FIXED)
            },
        )?;
    }
    let end = (start + segment.p_memsz).next_multiple_of(PAGE_SIZE);
    if end > mapped_end {
        mm.map(cx, request(mapped_end, end - mapped_end, prot, MapFlags::FIXED))?;
    }
    Ok(())
}

/// The rest of the last file page is zero, beyond the bss too: ld.so hands it out as memory.
fn clear_tail(cx: &Cx, mm: &Arc<Mm>, segment: &ProgramHeader, start: u64) -> Result<()> {
    let file_end = start + segment.p_filesz;
    if segment.p_memsz > segment.p_filesz && file_end % PAGE_SIZE != 0 && segment.p_flags & 2 != 0 {
        let zeros = [0u8; PAGE_SIZE as usize];
        // To the end of the page, not only of the segment: ld.so allocates from what is left of it and takes it to be zero.
        let len = (PAGE_SIZE - file_end % PAGE_SIZE) as usize;
        mm.write_bytes(cx, VirtAddr(file_end), zeros.get(..len).unwrap_or_default())?;
    }
    Ok(())
}
