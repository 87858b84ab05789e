//! System V IPC calls.

use crate::error::{Result, err};
use crate::ipc::sysv::{GetFlags, msg, sem, shm};
use crate::task::Cx;
use crate::user::UserPtr;
use abi::Errno;
use abi::ipc::{MsqidDs, Sembuf, SemidDs, ShmidDs};
use abi::time::Timespec;
use hal::{PAGE_SIZE, Prot};

/// `IPC_*` commands.
const RMID: i32 = 0;
const SET: i32 = 1;
const STAT: i32 = 2;
const INFO: i32 = 3;

pub(super) fn shmget(cx: &Cx, key: i32, size: u64, flags: u32) -> Result<i32> {
    shm::get(cx, key, size, GetFlags(flags))
}

pub(super) fn shmat(cx: &Cx, id: i32, addr: u64, flags: u32) -> Result<u64> {
    const RDONLY: u32 = 0o10000;
    const RND: u32 = 0o20000;
    const REMAP: u32 = 0o40000;
    const EXEC: u32 = 0o100000;
    let offset = addr % PAGE_SIZE;
    let (rounds, replaces) = (flags & RND != 0, flags & REMAP != 0);
    if (offset != 0 && !rounds) || (replaces && addr - offset == 0) || id < 0 {
        return err(Errno::EINVAL);
    }
    let mut prot = Prot::READ;
    prot.set(Prot::WRITE, flags & RDONLY == 0);
    prot.set(Prot::EXEC, flags & EXEC != 0);
    shm::attach(cx, id, shm::Attach { addr: addr - offset, replace: replaces, prot })
}

pub(super) fn shmdt(cx: &Cx, addr: u64) -> Result<()> {
    if !addr.is_multiple_of(PAGE_SIZE) {
        return err(Errno::EINVAL);
    }
    shm::detach(cx, addr)
}

pub(super) fn shmctl(cx: &Cx, id: i32, cmd: i32, buf: UserPtr<ShmidDs>) -> Result<i32> {
    const LOCK: i32 = 11;
    const UNLOCK: i32 = 12;
    const SHM_STAT: i32 = 13;
    const SHM_INFO: i32 = 14;
    const STAT_ANY: i32 = 15;
    if cmd < 0 || id < 0 {
        return err(Errno::EINVAL);
    }
    let table = &cx.kernel.sysv.shm;
    shm::sweep(cx);
    match cmd {
        RMID => shm::remove(cx, id)?,
        SET => shm::set(cx, id, &buf.read(cx)?)?,
        STAT => {
            let segment = table.find(id)?;
            segment.check(cx, 4)?;
            buf.write(cx, &segment.status(id))?;
        }
        SHM_STAT | STAT_ANY => {
            let (id, segment) = table.by_index(id)?;
            if cmd == SHM_STAT {
                segment.check(cx, 4)?;
            }
            buf.write(cx, &segment.status(id))?;
            return Ok(id);
        }
        INFO => {
            buf.cast().write(cx, &shm::limits())?;
            return Ok(table.highest_index());
        }
        SHM_INFO => {
            buf.cast().write(cx, &shm::usage(cx))?;
            return Ok(table.highest_index());
        }
        LOCK | UNLOCK => shm::lock(cx, id, cmd == LOCK)?,
        _ => return err(Errno::EINVAL),
    }
    Ok(0)
}

pub(super) fn semget(cx: &Cx, key: i32, count: i32, flags: u32) -> Result<i32> {
    sem::get(cx, key, count, GetFlags(flags))
}

pub(super) fn semop(cx: &Cx, id: i32, ops: UserPtr<Sembuf>, count: usize) -> Result<()> {
    semtimedop(cx, id, ops, count, UserPtr::new(0))
}

pub(super) fn semtimedop(
    cx: &Cx,
    id: i32,
    ops: UserPtr<Sembuf>,
    count: usize,
    timeout: UserPtr<Timespec>,
) -> Result<()> {
    if count == 0 || id < 0 {
        return err(Errno::EINVAL);
    }
    if count > sem::SEMOPM {
        return err(Errno::E2BIG);
    }
    let ops = ops.read_array(cx, count)?;
    let deadline = match timeout.non_null() {
        Some(ptr) => Some(cx.now_ns().saturating_add(ptr.read(cx)?.to_ns().ok_or(Errno::EINVAL)?)),
        None => None,
    };
    sem::operate(cx, id, &ops, deadline)
}

pub(super) fn semctl(cx: &Cx, id: i32, num: i32, cmd: i32, arg: u64) -> Result<i32> {
    const GETPID: i32 = 11;
    const GETVAL: i32 = 12;
    const GETALL: i32 = 13;
    const GETNCNT: i32 = 14;
    const GETZCNT: i32 = 15;
    const SETVAL: i32 = 16;
    const SETALL: i32 = 17;
    const SEM_STAT: i32 = 18;
    const SEM_INFO: i32 = 19;
    const STAT_ANY: i32 = 20;
    if id < 0 {
        return err(Errno::EINVAL);
    }
    let table = &cx.kernel.sysv.sem;
    match cmd {
        RMID => sem::remove(cx, id)?,
        SET => sem::set(cx, id, &UserPtr::<SemidDs>::new(arg).read(cx)?)?,
        STAT => {
            let set = table.find(id)?;
            set.check(cx, 4)?;
            UserPtr::new(arg).write(cx, &set.status(id))?;
        }
        SEM_STAT | STAT_ANY => {
            let (id, set) = table.by_index(id)?;
            if cmd == SEM_STAT {
                set.check(cx, 4)?;
            }
            UserPtr::new(arg).write(cx, &set.status(id))?;
            return Ok(id);
        }
        INFO | SEM_INFO => {
            UserPtr::new(arg).write(cx, &sem::info(cx, cmd == SEM_INFO))?;
            return Ok(table.highest_index());
        }
        GETVAL => return sem::query(cx, id, num, sem::Query::Value),
        GETPID => return sem::query(cx, id, num, sem::Query::Pid),
        GETNCNT => return sem::query(cx, id, num, sem::Query::WaitingForMore),
        GETZCNT => return sem::query(cx, id, num, sem::Query::WaitingForZero),
        GETALL => UserPtr::new(arg).write_array(cx, &sem::values(cx, id)?)?,
        SETVAL => sem::set_value(cx, id, num, arg as u32 as i32)?,
        SETALL => {
            let values = UserPtr::<u16>::new(arg).read_array(cx, sem::count(cx, id)?)?;
            sem::set_values(cx, id, &values)?;
        }
        _ => return err(Errno::EINVAL),
    }
    Ok(0)
}

pub(super) fn msgget(cx: &Cx, key: i32, flags: u32) -> Result<i32> {
    msg::get(cx, key, GetFlags(flags))
}

pub(super) fn msgsnd(cx: &Cx, id: i32, buf: UserPtr<i64>, len: usize, flags: u32) -> Result<()> {
    if len > msg::MSGMAX || id < 0 {
        return err(Errno::EINVAL);
    }
    let kind = buf.read(cx)?;
    let text = buf.add(1).cast::<u8>().read_vec(cx, len)?;
    msg::send(cx, id, msg::Message { kind, text }, flags)
}

pub(super) fn msgrcv(
    cx: &Cx,
    id: i32,
    buf: UserPtr<i64>,
    len: usize,
    kind: i64,
    flags: u32,
) -> Result<usize> {
    if len > i64::MAX as usize || id < 0 {
        return err(Errno::EINVAL);
    }
    let message = msg::receive(cx, id, len, kind, flags)?;
    buf.write(cx, &message.kind)?;
    buf.add(1).cast::<u8>().write_bytes(cx, &message.text)?;
    Ok(message.text.len())
}

pub(super) fn msgctl(cx: &Cx, id: i32, cmd: i32, buf: UserPtr<MsqidDs>) -> Result<i32> {
    const MSG_STAT: i32 = 11;
    const MSG_INFO: i32 = 12;
    const STAT_ANY: i32 = 13;
    if id < 0 || cmd < 0 {
        return err(Errno::EINVAL);
    }
    let table = &cx.kernel.sysv.msg;
    match cmd {
        RMID => msg::remove(cx, id)?,
        SET => msg::set(cx, id, &buf.read(cx)?)?,
        STAT => {
            let queue = table.find(id)?;
            queue.check(cx, 4)?;
            buf.write(cx, &queue.status(id))?;
        }
        MSG_STAT | STAT_ANY => {
            let (id, queue) = table.by_index(id)?;
            if cmd == MSG_STAT {
                queue.check(cx, 4)?;
            }
            buf.write(cx, &queue.status(id))?;
            return Ok(id);
        }
        INFO | MSG_INFO => {
            buf.cast().write(cx, &msg::info(cx, cmd == MSG_INFO))?;
            return Ok(table.highest_index());
        }
        _ => return err(Errno::EINVAL),
    }
    Ok(0)
}
