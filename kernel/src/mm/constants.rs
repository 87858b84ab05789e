//! Strings among a program's constants, which it passes to system calls again and again: paths, and the empty one of `fstat`.
//!
//! What a private mapping of a host file shows is read from the file, by a host call. The last few strings are kept instead, if they lie in a
//! program or a library that is executed: nobody changes those in place.
//!
//! Differs from Linux: if somebody does, calls with such a string may go on to see the old one.

use super::copy::{Span, read_mapped};
use super::fault::Access;
use super::inner::Inner;
use super::space::Mm;
use super::vma::{Areas, Object, Vma};
use crate::error::Result;
use crate::task::Cx;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use hal::{HostFile, PhysAddr, Prot, Ram, VirtAddr};

/// How many pieces of strings are kept.
const KEPT: usize = 8;
/// Length of a cache line.
const LINE: u64 = 64;

struct Piece {
    file: Weak<dyn HostFile>,
    offset: u64,
    bytes: Vec<u8>,
}

/// The pieces of strings that were read last, for one address space.
#[derive(Default)]
pub(super) struct Constants {
    pieces: Vec<Piece>,
    /// Which one makes room for the next.
    oldest: usize,
    /// Where the last one was that is not kept: it is when it is read once more.
    missed: u64,
}

impl Constants {
    fn find(&self, file: &Arc<dyn HostFile>, offset: u64, len: usize) -> Option<&[u8]> {
        let same = |piece: &&Piece| {
            piece.offset == offset && core::ptr::addr_eq(piece.file.as_ptr(), Arc::as_ptr(file))
        };
        self.pieces.iter().find(same)?.bytes.get(..len)
    }

    fn keep(&mut self, piece: Piece) {
        match self.pieces.get_mut(self.oldest) {
            Some(oldest) => *oldest = piece,
            None => self.pieces.push(piece),
        }
        self.oldest = (self.oldest + 1) % KEPT;
    }
}

impl Mm {
    /// Copies in a piece of a string that is within one page, at least up to its end; `EFAULT`.
    pub fn read_string(&self, cx: &Cx, at: VirtAddr, buf: &mut [u8]) -> Result<()> {
        let end = at.0.saturating_add(buf.len() as u64);
        if end > self.user_limit {
            return self.read_bytes(cx, at, buf);
        }
        let mut guard = self.inner();
        let inner: &mut Inner = &mut guard;
        let (file, offset) = match self.span(cx, inner, at.0, end, Access::Read)? {
            (Span::Ram(phys), to) if to == end => {
                read_to_end(self.machine.ram(), phys, buf);
                return Ok(());
            }
            (Span::File(file, offset), to) if to == end && is_constant(&inner.areas, at.0) => (file, offset),
            _ => {
                drop(guard);
                return self.read_bytes(cx, at, buf);
            }
        };
        if let Some(known) = inner.constants.find(&file, offset, buf.len()) {
            buf.copy_from_slice(known);
            return Ok(());
        }
        let again = core::mem::replace(&mut inner.constants.missed, at.0) == at.0;
        read_mapped(&*file, offset, buf)?;
        if again {
            inner.constants.keep(Piece { file: Arc::downgrade(&file), offset, bytes: buf.to_vec() });
        }
        Ok(())
    }
}

/// Reads as many cache lines as the string has: the guest's CPU may have them, and want those behind it.
fn read_to_end(ram: &dyn Ram, at: PhysAddr, buf: &mut [u8]) {
    let mut done = 0;
    while let Some(rest) = buf.get_mut(done..).filter(|rest| !rest.is_empty()) {
        let here = PhysAddr(at.0 + done as u64);
        let len = rest.len().min((LINE - here.0 % LINE) as usize);
        let line = rest.split_at_mut(len).0;
        ram.read(here, line);
        if line.contains(&0) {
            return;
        }
        done += len;
    }
}

/// Whether an address is in an unwritable part of a file of which this part or one beside it may be executed.
fn is_constant(areas: &Areas, at: u64) -> bool {
    let Some(vma) = areas.find(at) else { return false };
    let executed = |other: &Vma| match (&vma.object, &other.object) {
        (Object::Host(a), Object::Host(b)) => other.prot.contains(Prot::EXEC) && Arc::ptr_eq(a, b),
        _ => false,
    };
    !vma.can_write()
        && !vma.is_shared()
        && (executed(vma)
            || areas.find_before(vma.start).is_some_and(executed)
            || areas.find(vma.end).is_some_and(executed))
}
