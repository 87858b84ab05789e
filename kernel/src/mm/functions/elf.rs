//! Reading pieces of an ELF file (`elf(5)`): 64 bits, little endian.

use super::super::fault::read_file;
use ::elf::abi::{EI_NIDENT, PF_X, PT_LOAD, SHT_NOBITS};
use ::elf::endian::LittleEndian;
use ::elf::file::{Class, FileHeader};
use ::elf::section::{SectionHeader, SectionHeaderTable};
use ::elf::segment::{ProgramHeader, SegmentTable};
use alloc::vec::Vec;
use core::cell::{OnceCell, RefCell};
use hal::HostFile;

const HEADER_LEN: usize = 64;
const SEGMENT_LEN: u16 = 56;
const SECTION_LEN: u16 = 64;
const MOST_SEGMENTS: u16 = 64;
const MOST_SECTIONS: u16 = 1024;
/// How much of the sections' names is read at most, in bytes.
const MOST_NAMES: u64 = 1 << 16;
/// Small pieces are read in blocks of this size in bytes, of which so many are kept: searches read many words of few tables.
const BLOCK: u64 = 4096;
const BLOCKS: usize = 8;

/// A file and its headers.
pub(in crate::mm) struct Elf<'a> {
    file: &'a dyn HostFile,
    header: FileHeader<LittleEndian>,
    segments: Vec<ProgramHeader>,
    sections: OnceCell<Sections>,
    /// Where they start in the file, and what is there.
    blocks: RefCell<Vec<(u64, Vec<u8>)>>,
}

#[derive(Default)]
struct Sections {
    headers: Vec<SectionHeader>,
    names: Vec<u8>,
}

/// A piece of the file that is in memory, too.
#[derive(Clone, Copy)]
pub(super) struct Piece {
    pub(super) offset: u64,
    pub(super) at: u64,
    pub(super) len: u64,
}

impl<'a> Elf<'a> {
    /// Reads the file's first headers.
    pub(in crate::mm) fn open(file: &'a dyn HostFile) -> Option<Elf<'a>> {
        let head: [u8; HEADER_LEN] = bytes(file, 0)?;
        if !head.starts_with(b"\x7fELF\x02\x01") {
            return None;
        }
        let tail = head.get(EI_NIDENT..)?;
        let header = FileHeader::parse_tail((LittleEndian, Class::ELF64, 0, 0), tail).ok()?;
        if header.e_phentsize != SEGMENT_LEN || header.e_phnum > MOST_SEGMENTS {
            return None;
        }
        let table = read(file, header.e_phoff, u64::from(header.e_phnum * SEGMENT_LEN))?;
        let segments = SegmentTable::new(LittleEndian, Class::ELF64, &table).iter().collect();
        Some(Elf { file, header, segments, sections: OnceCell::new(), blocks: RefCell::default() })
    }

    pub(super) fn bytes<const N: usize>(&self, offset: u64) -> Option<[u8; N]> {
        let start = offset & !(BLOCK - 1);
        let place = (offset - start) as usize;
        if place + N > BLOCK as usize {
            return bytes(self.file, offset);
        }
        let mut blocks = self.blocks.borrow_mut();
        let index = match blocks.iter().position(|(at, _)| *at == start) {
            Some(index) => index,
            None => {
                let mut block = alloc::vec![0; BLOCK as usize];
                let len = read_file(self.file, start, &mut block).ok()?;
                block.truncate(len);
                if blocks.len() >= BLOCKS {
                    blocks.remove(0);
                }
                blocks.push((start, block));
                blocks.len() - 1
            }
        };
        blocks.get(index)?.1.get(place..place + N)?.try_into().ok()
    }

    pub(super) fn u32(&self, offset: u64) -> Option<u32> {
        self.bytes(offset).map(u32::from_le_bytes)
    }

    pub(super) fn i32(&self, offset: u64) -> Option<i64> {
        self.bytes(offset).map(i32::from_le_bytes).map(i64::from)
    }

    pub(super) fn u64(&self, offset: u64) -> Option<u64> {
        self.bytes(offset).map(u64::from_le_bytes)
    }

    /// A whole piece, whose length the caller has limited.
    pub(super) fn read(&self, offset: u64, len: u64) -> Option<Vec<u8>> {
        read(self.file, offset, len)
    }

    /// The address of the code at an offset.
    pub(in crate::mm) fn code_address(&self, offset: u64) -> Option<u64> {
        let (segment, distance) = self
            .code()
            .find_map(|s| Some((s, offset.checked_sub(s.p_offset).filter(|&d| d < s.p_filesz)?)))?;
        segment.p_vaddr.checked_add(distance)
    }

    /// The offset of the code at an address.
    pub(super) fn code_offset(&self, address: u64) -> Option<u64> {
        let (segment, distance) = self
            .code()
            .find_map(|s| Some((s, address.checked_sub(s.p_vaddr).filter(|&d| d < s.p_filesz)?)))?;
        segment.p_offset.checked_add(distance)
    }

    /// Where the code around an address ends.
    pub(super) fn code_end(&self, address: u64) -> Option<u64> {
        let holds = |s: &&ProgramHeader| address.checked_sub(s.p_vaddr).is_some_and(|d| d < s.p_filesz);
        self.code().find(holds).and_then(|s| s.p_vaddr.checked_add(s.p_filesz))
    }

    /// What the file has for a piece of memory, whose length the caller has limited.
    pub(in crate::mm) fn content(&self, address: u64, len: usize) -> Option<Vec<u8>> {
        let loaded = self.segments.iter().filter(|s| s.p_type == PT_LOAD);
        let (segment, distance) = loaded
            .filter_map(|s| Some((s, address.checked_sub(s.p_vaddr)?)))
            .find(|(s, distance)| distance.checked_add(len as u64).is_some_and(|end| end <= s.p_filesz))?;
        self.read(segment.p_offset.checked_add(distance)?, len as u64)
    }

    fn code(&self) -> impl Iterator<Item = &ProgramHeader> {
        self.segments.iter().filter(|s| s.p_type == PT_LOAD && s.p_flags & PF_X != 0)
    }

    /// The first segment of a type.
    pub(super) fn segment(&self, kind: u32) -> Option<Piece> {
        let found = self.segments.iter().find(|s| s.p_type == kind)?;
        Some(Piece { offset: found.p_offset, at: found.p_vaddr, len: found.p_filesz })
    }

    /// The first section of a type.
    pub(super) fn section(&self, kind: u32) -> Option<Piece> {
        self.sections().headers.iter().find(|s| s.sh_type == kind).map(piece)
    }

    /// The first section with a name.
    pub(super) fn section_named(&self, name: &[u8]) -> Option<Piece> {
        let Sections { headers, names } = self.sections();
        let named = |s: &&SectionHeader| {
            let from = names.get(s.sh_name as usize..).unwrap_or_default();
            s.sh_type != SHT_NOBITS && from.strip_prefix(name).is_some_and(|rest| rest.first() == Some(&0))
        };
        headers.iter().find(named).map(piece)
    }

    fn sections(&self) -> &Sections {
        self.sections.get_or_init(|| self.read_sections().unwrap_or_default())
    }

    fn read_sections(&self) -> Option<Sections> {
        let FileHeader { e_shoff, e_shentsize, e_shnum, e_shstrndx, .. } = self.header;
        if e_shentsize != SECTION_LEN || e_shnum > MOST_SECTIONS {
            return None;
        }
        let table = self.read(e_shoff, u64::from(e_shnum) * u64::from(SECTION_LEN))?;
        let headers: Vec<_> = SectionHeaderTable::new(LittleEndian, Class::ELF64, &table).iter().collect();
        let names = headers.get(usize::from(e_shstrndx)).filter(|s| s.sh_size <= MOST_NAMES);
        let names = names.and_then(|s| self.read(s.sh_offset, s.sh_size)).unwrap_or_default();
        Some(Sections { headers, names })
    }
}

fn piece(section: &SectionHeader) -> Piece {
    Piece { offset: section.sh_offset, at: section.sh_addr, len: section.sh_size }
}

fn bytes<const N: usize>(file: &dyn HostFile, offset: u64) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    (read_file(file, offset, &mut bytes).ok()? == N).then_some(bytes)
}

fn read(file: &dyn HostFile, offset: u64, len: u64) -> Option<Vec<u8>> {
    // Nothing is allocated for what is not there.
    if offset.checked_add(len)? > file.size().ok()? {
        return None;
    }
    let mut bytes = alloc::vec![0; usize::try_from(len).ok()?];
    (read_file(file, offset, &mut bytes).ok()? == bytes.len()).then_some(bytes)
}
