//! `prctl(2)`: settings of a thread or process that have no call of their own.

use crate::error::{Result, err};
use crate::task::ids::{commit, secbit};
use crate::task::{CAP_LAST, Cap, Creds, Cx};
use crate::user::UserPtr;
use abi::Errno;
use abi::raw_prctl as pr;
use alloc::sync::Arc;
use core::sync::atomic::Ordering;

/// Bytes of a task's name with its terminator (`TASK_COMM_LEN`).
const COMM_LEN: usize = 16;

pub(super) fn prctl(cx: &Cx, option: u32, arg2: u64, arg3: u64, arg4: u64, arg5: u64) -> Result<u64> {
    let unused = |args: &[u64]| if args.iter().all(|&a| a == 0) { Ok(()) } else { err(Errno::EINVAL) };
    let (task, process) = (cx.task, cx.process());
    match option {
        pr::PR_SET_PDEATHSIG => {
            let signo = u32::try_from(arg2).ok().filter(|&s| s <= 64).ok_or(Errno::EINVAL)?;
            task.parent_death_signal.store(signo, Ordering::Relaxed);
        }
        pr::PR_GET_PDEATHSIG => {
            UserPtr::<u32>::new(arg2).write(cx, &task.parent_death_signal.load(Ordering::Relaxed))?;
        }
        pr::PR_GET_DUMPABLE => return Ok(u64::from(process.dumpable.load(Ordering::Relaxed))),
        pr::PR_SET_DUMPABLE => {
            let value = u32::try_from(arg2).ok().filter(|&v| v <= 1).ok_or(Errno::EINVAL)?;
            process.dumpable.store(value, Ordering::Relaxed);
        }
        pr::PR_GET_KEEPCAPS => {
            return Ok(u64::from(task.creds().securebits & secbit::KEEP_CAPS != 0));
        }
        pr::PR_SET_KEEPCAPS => set_keep_caps(cx, arg2)?,
        pr::PR_GET_TIMING | pr::PR_GET_SECCOMP => {}
        pr::PR_SET_TIMING if arg2 == 0 => {}
        pr::PR_SET_NAME => {
            let mut name = read_name(cx, UserPtr::new(arg2))?;
            name.truncate(COMM_LEN - 1);
            *task.name.lock() = name;
        }
        pr::PR_GET_NAME => {
            let mut out = [0u8; COMM_LEN];
            let name = task.name.lock().clone();
            out.iter_mut().take(COMM_LEN - 1).zip(&name).for_each(|(to, from)| *to = *from);
            UserPtr::<u8>::new(arg2).write_bytes(cx, &out)?;
        }
        pr::PR_CAPBSET_READ => return Ok(u64::from(task.creds().bounding & cap_bit(arg2)? != 0)),
        pr::PR_CAPBSET_DROP => {
            let old = task.creds();
            if !old.has(Cap::Setpcap) {
                return err(Errno::EPERM);
            }
            let bit = cap_bit(arg2)?;
            commit(cx, Creds { bounding: old.bounding & !bit, ..(*old).clone() });
        }
        pr::PR_GET_TSC => UserPtr::<u32>::new(arg2).write(cx, &pr::PR_TSC_ENABLE)?,
        pr::PR_SET_TSC if arg2 == u64::from(pr::PR_TSC_ENABLE) => {}
        pr::PR_GET_SECUREBITS => return Ok(u64::from(task.creds().securebits)),
        pr::PR_SET_SECUREBITS => set_securebits(cx, arg2)?,
        pr::PR_SET_TIMERSLACK => {
            // Zero and below bring back the default.
            let slack = if arg2 as i64 <= 0 { 50_000 } else { arg2 };
            task.timer_slack_ns.store(slack, Ordering::Relaxed);
        }
        pr::PR_GET_TIMERSLACK => return Ok(task.timer_slack_ns.load(Ordering::Relaxed)),
        pr::PR_TASK_PERF_EVENTS_DISABLE | pr::PR_TASK_PERF_EVENTS_ENABLE => {}
        pr::PR_MCE_KILL_GET => {
            unused(&[arg2, arg3, arg4, arg5])?;
            return Ok(u64::from(pr::PR_MCE_KILL_DEFAULT));
        }
        pr::PR_SET_CHILD_SUBREAPER => process.subreaper.store(arg2 != 0, Ordering::Relaxed),
        pr::PR_GET_CHILD_SUBREAPER => {
            let value = u32::from(process.subreaper.load(Ordering::Relaxed));
            UserPtr::<u32>::new(arg2).write(cx, &value)?;
        }
        pr::PR_SET_NO_NEW_PRIVS => {
            unused(&[arg3, arg4, arg5])?;
            if arg2 != 1 {
                return err(Errno::EINVAL);
            }
            task.no_new_privs.store(true, Ordering::Relaxed);
        }
        pr::PR_GET_NO_NEW_PRIVS => {
            unused(&[arg2, arg3, arg4, arg5])?;
            return Ok(u64::from(task.no_new_privs.load(Ordering::Relaxed)));
        }
        pr::PR_GET_TID_ADDRESS => {
            UserPtr::<u64>::new(arg2).write(cx, &task.clear_child_tid.load(Ordering::Relaxed))?;
        }
        // There are no huge pages, so they are neither on nor off.
        pr::PR_SET_THP_DISABLE => unused(&[arg3, arg4, arg5])?,
        pr::PR_GET_THP_DISABLE => unused(&[arg2, arg3, arg4, arg5])?,
        pr::PR_CAP_AMBIENT => return ambient(cx, arg2, arg3, arg4, arg5),
        pr::PR_GET_IO_FLUSHER | pr::PR_SET_IO_FLUSHER if !task.creds().has(Cap::SysResource) => {
            return err(Errno::EPERM);
        }
        pr::PR_GET_IO_FLUSHER => unused(&[arg2, arg3, arg4, arg5])?,
        pr::PR_SET_MM if !task.creds().has(Cap::SysResource) => return err(Errno::EPERM),
        pr::PR_GET_AUXV => {
            unused(&[arg4, arg5])?;
            let auxv = process.image.lock().auxv.clone();
            let len = auxv.len().min(usize::try_from(arg3).unwrap_or(usize::MAX));
            UserPtr::<u8>::new(arg2).write_bytes(cx, auxv.get(..len).unwrap_or_default())?;
            return Ok(auxv.len() as u64);
        }
        // Other processors' features, filters, and naming of anonymous areas: what a kernel without them says.
        _ => return err(Errno::EINVAL),
    }
    Ok(0)
}

/// Reads a name up to its terminator without touching memory behind it.
fn read_name(cx: &Cx, ptr: UserPtr<u8>) -> Result<alloc::vec::Vec<u8>> {
    match crate::user::UserCStr(ptr.addr().0).read(cx, COMM_LEN - 1)? {
        Some(name) => Ok(name),
        None => ptr.read_vec(cx, COMM_LEN - 1),
    }
}

fn cap_bit(cap: u64) -> Result<u64> {
    if cap > u64::from(CAP_LAST) { err(Errno::EINVAL) } else { Ok(1 << cap) }
}

fn set_keep_caps(cx: &Cx, value: u64) -> Result<()> {
    let old = cx.task.creds();
    if value > 1 {
        return err(Errno::EINVAL);
    }
    if old.securebits & secbit::KEEP_CAPS_LOCKED != 0 {
        return err(Errno::EPERM);
    }
    let bit = if value == 1 { secbit::KEEP_CAPS } else { 0 };
    let securebits = old.securebits & !secbit::KEEP_CAPS | bit;
    *cx.task.creds.lock() = Arc::new(Creds { securebits, ..(*old).clone() });
    Ok(())
}

fn set_securebits(cx: &Cx, value: u64) -> Result<()> {
    let old = cx.task.creds();
    let new = u32::try_from(value).map_err(|_| Errno::EPERM)?;
    // A lock bit holds the bit below it, and itself can't be taken back.
    let locked = (old.securebits & secbit::LOCKS) >> 1;
    let changed = old.securebits ^ new;
    if locked & changed != 0
        || old.securebits & secbit::LOCKS & !new != 0
        || new & !secbit::ALL != 0
        || !old.has(Cap::Setpcap)
    {
        return err(Errno::EPERM);
    }
    *cx.task.creds.lock() = Arc::new(Creds { securebits: new, ..(*old).clone() });
    Ok(())
}

fn ambient(cx: &Cx, op: u64, cap: u64, arg4: u64, arg5: u64) -> Result<u64> {
    let old = cx.task.creds();
    let set = |ambient: u64| *cx.task.creds.lock() = Arc::new(Creds { ambient, ..(*old).clone() });
    if op == u64::from(pr::PR_CAP_AMBIENT_CLEAR_ALL) {
        if cap != 0 || arg4 != 0 || arg5 != 0 {
            return err(Errno::EINVAL);
        }
        set(0);
        return Ok(0);
    }
    if arg4 != 0 || arg5 != 0 {
        return err(Errno::EINVAL);
    }
    let bit = cap_bit(cap)?;
    match op as u32 {
        pr::PR_CAP_AMBIENT_IS_SET => Ok(u64::from(old.ambient & bit != 0)),
        pr::PR_CAP_AMBIENT_RAISE => {
            let allowed = old.permitted & old.inheritable & bit != 0;
            if !allowed || old.securebits & secbit::NO_CAP_AMBIENT_RAISE != 0 {
                return err(Errno::EPERM);
            }
            set(old.ambient | bit);
            Ok(0)
        }
        pr::PR_CAP_AMBIENT_LOWER => {
            set(old.ambient & !bit);
            Ok(0)
        }
        _ => err(Errno::EINVAL),
    }
}
