//! `poll(2)`, `ppoll(2)`, `select(2)`, `pselect(2)`.

use crate::error::{Error, Restart, Result, err};
use crate::fs::Fd;
use crate::ipc::poll::{PollItem, poll_items};
use crate::signal::{read_mask, with_temporary_mask};
use crate::task::{Cx, Resource, RestartState, WaitEnd};
use crate::time::{deadline_after, read_timespec};
use crate::user::UserPtr;
use crate::wait::PollEvents;
use abi::Errno;
use abi::time::{Timespec, Timeval};
use alloc::vec;
use alloc::vec::Vec;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// `struct pollfd`.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct PollFd {
    pub(super) fd: i32,
    pub(super) events: i16,
    pub(super) revents: i16,
}

/// `poll(2)`: the time-out is in milliseconds, negative for none.
pub(super) fn poll(cx: &Cx, fds: UserPtr<PollFd>, count: u32, timeout_ms: i32) -> Result<usize> {
    let timeout = u64::try_from(timeout_ms).ok().map(|ms| ms.saturating_mul(1_000_000));
    poll_until(cx, fds, count, deadline_after(cx, timeout))
}

/// The rest of an interrupted [`poll`].
pub(super) fn poll_until(
    cx: &Cx,
    fds: UserPtr<PollFd>,
    count: u32,
    deadline_ns: Option<u64>,
) -> Result<usize> {
    let result = poll_array(cx, fds, count, deadline_ns);
    if matches!(result, Err(Error::Interrupted(_))) {
        cx.restart.set(Some(RestartState::Poll { fds: fds.addr().0, count, deadline_ns }));
        return Err(Error::Interrupted(Restart::Resume));
    }
    result
}

/// `ppoll(2)`: writes the remaining time back.
pub(super) fn ppoll(
    cx: &Cx,
    fds: UserPtr<PollFd>,
    count: u32,
    timeout: UserPtr<Timespec>,
    mask: UserPtr<u64>,
    mask_size: usize,
) -> Result<usize> {
    let deadline = deadline_after(cx, read_timespec(cx, timeout)?);
    let mask = read_mask(cx, mask, mask_size)?;
    let result = with_temporary_mask(cx, mask, || {
        poll_array(cx, fds, count, deadline).map_err(|e| e.with_restart(Restart::UnlessHandled))
    });
    write_remaining(cx, deadline, result, |left| timeout.write(cx, &Timespec::from_ns(left)))
}

fn poll_array(cx: &Cx, fds: UserPtr<PollFd>, count: u32, deadline_ns: Option<u64>) -> Result<usize> {
    if u64::from(count) > cx.process().limit(Resource::Nofile) {
        return err(Errno::EINVAL);
    }
    let mut array = vec![PollFd { fd: 0, events: 0, revents: 0 }; count as usize];
    cx.mm().read_bytes(cx, fds.addr(), array.as_mut_bytes())?;
    let files = cx.files();
    let always = PollEvents::ERR | PollEvents::HUP | PollEvents::NVAL;
    let mut items: Vec<PollItem> = array
        .iter()
        .map(|p| {
            let wanted = PollEvents::from_bits_retain(u32::from(p.events as u16)) | always;
            let file = if p.fd < 0 { None } else { files.get(Fd(p.fd)).ok() };
            let mut item = PollItem::new(file, wanted);
            if p.fd >= 0 && item.file.is_none() {
                item.ready = PollEvents::NVAL;
            }
            item
        })
        .collect();
    drop(files);
    let ready = poll_items(cx, &mut items, deadline_ns).map_err(Error::from)?;
    for (entry, item) in array.iter_mut().zip(&items) {
        entry.revents = item.ready.bits() as u16 as i16;
    }
    cx.mm().write_bytes(cx, fds.addr(), array.as_bytes())?;
    Ok(ready)
}

/// `select(2)`: writes the remaining time back, as Linux does and POSIX allows.
pub(super) fn select(
    cx: &Cx,
    count: i32,
    read: UserPtr<u64>,
    write: UserPtr<u64>,
    except: UserPtr<u64>,
    timeout: UserPtr<Timeval>,
) -> Result<usize> {
    let wait = match timeout.non_null() {
        // Microseconds of a second and more are accepted and carried over.
        Some(timeout) => {
            let t = timeout.read(cx)?;
            let (sec, usec) = (u64::try_from(t.sec), u64::try_from(t.usec));
            let (Ok(sec), Ok(usec)) = (sec, usec) else { return err(Errno::EINVAL) };
            Some(sec.saturating_mul(1_000_000_000).saturating_add(usec.saturating_mul(1000)))
        }
        None => None,
    };
    let deadline = deadline_after(cx, wait);
    let result = select_sets(cx, count, [read, write, except], deadline);
    write_remaining(cx, deadline, result, |left| timeout.write(cx, &Timeval::from_ns(left)))
}

/// The mask of `pselect6(2)`: a pointer and a size behind one pointer.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct SizedMask {
    mask: u64,
    size: u64,
}

/// `pselect6(2)`, the call below `pselect(3)`.
pub(super) fn pselect6(
    cx: &Cx,
    count: i32,
    read: UserPtr<u64>,
    write: UserPtr<u64>,
    except: UserPtr<u64>,
    timeout: UserPtr<Timespec>,
    mask: UserPtr<SizedMask>,
) -> Result<usize> {
    let mask = match mask.non_null() {
        Some(mask) => {
            let sized = mask.read(cx)?;
            read_mask(cx, UserPtr::new(sized.mask), sized.size as usize)?
        }
        None => None,
    };
    let deadline = deadline_after(cx, read_timespec(cx, timeout)?);
    let result = with_temporary_mask(cx, mask, || select_sets(cx, count, [read, write, except], deadline));
    write_remaining(cx, deadline, result, |left| timeout.write(cx, &Timespec::from_ns(left)))
}

/// What makes a descriptor ready for each of the three sets (`select(2)`, "Correspondence between select() and poll()
/// notifications").
const SETS: [PollEvents; 3] = [
    PollEvents::READABLE.union(PollEvents::RDBAND).union(PollEvents::HUP).union(PollEvents::ERR),
    PollEvents::WRITABLE.union(PollEvents::WRBAND).union(PollEvents::ERR),
    PollEvents::PRI,
];

/// Size of a small descriptor table on Linux, in descriptors.
const MIN_TABLE: usize = 256;

fn select_sets(cx: &Cx, count: i32, sets: [UserPtr<u64>; 3], deadline_ns: Option<u64>) -> Result<usize> {
    let Ok(count) = usize::try_from(count) else { return err(Errno::EINVAL) };
    let files = cx.files();
    // Bits beyond the descriptor table's size are not looked at, nor memory beyond them.
    let open = files.list();
    let last = open.last().map_or(0, |(fd, _)| fd.0 as usize + 1);
    let count = count.min(last.next_power_of_two().max(MIN_TABLE));
    let words = count.div_ceil(64);
    let mut bits = [const { Vec::new() }; 3];
    for (bits, set) in bits.iter_mut().zip(sets) {
        *bits = match set.non_null() {
            Some(set) => set.read_array(cx, words)?,
            None => vec![0u64; words],
        };
    }
    let has = |set: &[u64], fd: usize| set.get(fd / 64).is_some_and(|w| w & 1 << (fd % 64) != 0);
    let mut fds: Vec<usize> = Vec::new();
    let mut items: Vec<PollItem> = Vec::new();
    for fd in 0..count {
        let mut wanted = PollEvents::empty();
        for (set, events) in bits.iter().zip(SETS) {
            if has(set, fd) {
                wanted |= events;
            }
        }
        if !wanted.is_empty() {
            items.push(PollItem::new(Some(files.get(Fd(fd as i32))?), wanted));
            fds.push(fd);
        }
    }
    drop((files, open));
    poll_items(cx, &mut items, deadline_ns)
        .map_err(|end: WaitEnd| Error::from(end).with_restart(Restart::UnlessHandled))?;
    let mut ready = 0;
    for (index, (set, events)) in sets.into_iter().zip(SETS).enumerate() {
        let Some(asked) = bits.get(index) else { continue };
        let mut out = vec![0u64; words];
        for (&fd, item) in fds.iter().zip(&items) {
            if has(asked, fd) && item.ready.intersects(events) {
                if let Some(word) = out.get_mut(fd / 64) {
                    *word |= 1 << (fd % 64);
                }
                ready += 1;
            }
        }
        if let Some(set) = set.non_null() {
            set.write_array(cx, &out)?;
        }
    }
    Ok(ready)
}

/// Reports what is left of a time-out. A failure to do so is not the caller's business, except that an interrupted call
/// can't be made again then (it would wait for the whole time once more).
fn write_remaining(
    cx: &Cx,
    deadline_ns: Option<u64>,
    result: Result<usize>,
    write: impl FnOnce(u64) -> Result<()>,
) -> Result<usize> {
    let Some(deadline) = deadline_ns else { return result };
    match write(deadline.saturating_sub(cx.now_ns())) {
        Err(_) => result.map_err(Error::no_restart),
        Ok(()) => result,
    }
}
