//! Semaphore sets (`semop(2)`): all operations of a call happen, or none.
//!
//! A call that has to wait leaves its operations in the set. Whoever changes a value does those that have become possible, in the order
//! in which they came, so that they have happened even if the set is removed before the waiting task runs.
//!
//! Lock order: a set's state, then the table of adjustments.

use super::{GetFlags, Perm, now};
use crate::error::{Result, err};
use crate::sync::{Mutex, MutexGuard};
use crate::task::{Cx, WaitEnd};
use crate::wait::{PollEvents, WaitQueue};
use abi::Errno;
use abi::ipc::{Sembuf, SemidDs, Seminfo};
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;

/// Most sets, semaphores in a set, operations in a call; the highest value.
pub const SEMMNI: usize = 32000;
const SEMMSL: usize = 32000;
/// Most operations in a call.
pub const SEMOPM: usize = 500;
const SEMVMX: i32 = 32767;

const IPC_NOWAIT: i16 = 0o4000;
const SEM_UNDO: i16 = 0x1000;

#[derive(Clone, Copy, Default)]
struct Sem {
    value: i32,
    pid: i32,
}

/// Operations that wait.
struct Pending {
    ticket: u64,
    pid: i32,
    ops: Vec<Sembuf>,
    /// The semaphore that keeps them waiting, and what for.
    at: (usize, Kind),
    /// What became of them.
    result: Option<Result<(), Errno>>,
}

/// What operations wait for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    More,
    Zero,
}

struct State {
    perm: Perm,
    sems: Vec<Sem>,
    otime: i64,
    ctime: i64,
    removed: bool,
    /// In the order in which they came.
    pending: Vec<Pending>,
    last_ticket: u64,
}

/// A set.
pub struct SemSet {
    state: Mutex<State>,
    changed: WaitQueue,
}

/// Adjustments by process and set.
#[derive(Default)]
pub(crate) struct UndoTable(Mutex<BTreeMap<(i32, i32), Vec<i32>>>);

/// Why a list of operations can't be done now.
enum Blocked {
    /// Something keeps it waiting.
    At(usize, Kind),
    Error(Errno),
}

impl State {
    /// Does the operations, or none of them.
    fn apply(&mut self, ops: &[Sembuf], pid: i32) -> Result<(), Blocked> {
        let before = self.sems.clone();
        for op in ops {
            let result = self.apply_one(op, pid);
            if result.is_err() {
                self.sems = before;
                return result;
            }
        }
        Ok(())
    }

    fn apply_one(&mut self, op: &Sembuf, pid: i32) -> Result<(), Blocked> {
        let index = usize::from(op.num);
        let Some(sem) = self.sems.get_mut(index) else { return Err(Blocked::Error(Errno::EFBIG)) };
        let value = sem.value + i32::from(op.op);
        let kind = if op.op == 0 && sem.value != 0 {
            Kind::Zero
        } else if value < 0 {
            Kind::More
        } else if value > SEMVMX {
            return Err(Blocked::Error(Errno::ERANGE));
        } else {
            (sem.value, sem.pid) = (value, pid);
            return Ok(());
        };
        Err(if op.flags & IPC_NOWAIT != 0 { Blocked::Error(Errno::EAGAIN) } else { Blocked::At(index, kind) })
    }

    /// Does what has become possible; whether there was anything. `done` is called with the operations that happened.
    fn settle(&mut self, now: i64, mut done: impl FnMut(i32, &[Sembuf])) -> bool {
        let mut any = false;
        let mut pending = core::mem::take(&mut self.pending);
        let mut again = true;
        while again {
            again = false;
            for call in pending.iter_mut().filter(|call| call.result.is_none()) {
                match self.apply(&call.ops, call.pid) {
                    Ok(()) => {
                        call.result = Some(Ok(()));
                        self.otime = now;
                        done(call.pid, &call.ops);
                        // What it changed may be what an earlier one waits for.
                        again |= call.ops.iter().any(|op| op.op != 0);
                        any = true;
                    }
                    Err(Blocked::Error(errno)) => {
                        call.result = Some(Err(errno));
                        any = true;
                    }
                    Err(Blocked::At(sem, kind)) => call.at = (sem, kind),
                }
            }
        }
        self.pending = pending;
        any
    }

    /// Takes out a call that is done, with its result; with `anyway` also one that is not.
    fn take_pending(&mut self, ticket: u64, anyway: bool) -> Option<Result<(), Errno>> {
        let at = self.pending.iter().position(|call| call.ticket == ticket)?;
        let result = self.pending.get(at)?.result;
        if result.is_some() || anyway {
            self.pending.remove(at);
        }
        result
    }
}

impl SemSet {
    /// Values have changed: does what that made possible, and lets go of the state.
    fn settle(&self, cx: &Cx, id: i32, mut state: MutexGuard<'_, State>) {
        let any = state.settle(now(cx), |pid, ops| record_undo(cx, id, pid, ops));
        drop(state);
        if any {
            self.changed.wake_all(PollEvents::empty());
        }
    }
}

/// `semget(2)`.
pub fn get(cx: &Cx, key: i32, count: i32, flags: GetFlags) -> Result<i32> {
    let count = usize::try_from(count).ok().filter(|&n| n <= SEMMSL).ok_or(Errno::EINVAL)?;
    cx.kernel.sysv.sem.get(
        cx,
        key,
        flags,
        SEMMNI,
        |set| {
            let state = set.state.lock();
            if count > state.sems.len() {
                return err(Errno::EINVAL);
            }
            state.perm.check(cx, flags.0 >> 6 | flags.0 >> 3 | flags.0)
        },
        |perm| {
            if count == 0 {
                return err(Errno::EINVAL);
            }
            let sems = vec![Sem::default(); count];
            let state = State {
                perm,
                sems,
                otime: 0,
                ctime: now(cx),
                removed: false,
                pending: Vec::new(),
                last_ticket: 0,
            };
            Ok(Arc::new(SemSet { state: Mutex::new(state), changed: WaitQueue::new() }))
        },
    )
}

/// `semtimedop(2)`; the deadline is monotonic.
pub fn operate(cx: &Cx, id: i32, ops: &[Sembuf], deadline_ns: Option<u64>) -> Result<()> {
    let set = cx.kernel.sysv.sem.find(id)?;
    let pid = cx.process().pid;
    {
        let state = set.state.lock();
        if ops.iter().any(|op| usize::from(op.num) >= state.sems.len()) {
            return err(Errno::EFBIG);
        }
        let alters = ops.iter().any(|op| op.op != 0);
        state.perm.check(cx, if alters { 2 } else { 4 })?;
    }
    let ticket = {
        let mut state = set.state.lock();
        if state.removed {
            return err(Errno::EIDRM);
        }
        match state.apply(ops, pid) {
            Ok(()) => {
                state.otime = now(cx);
                record_undo(cx, id, pid, ops);
                set.settle(cx, id, state);
                return Ok(());
            }
            Err(Blocked::Error(errno)) => return err(errno),
            Err(Blocked::At(sem, kind)) => {
                state.last_ticket += 1;
                let ticket = state.last_ticket;
                let call = Pending { ticket, pid, ops: ops.to_vec(), at: (sem, kind), result: None };
                state.pending.push(call);
                ticket
            }
        }
    };
    let waited =
        cx.wait_deadline(&[&set.changed], deadline_ns, || set.state.lock().take_pending(ticket, false));
    let result = match waited {
        Ok(result) => Some(result),
        // It may have happened at the last moment.
        Err(_) => set.state.lock().take_pending(ticket, true),
    };
    match (result, waited) {
        (Some(result), _) => Ok(result?),
        (None, Err(WaitEnd::TimedOut)) => err(Errno::EAGAIN),
        // Never restarted (`signal(7)`).
        (None, _) => err(Errno::EINTR),
    }
}

/// Remembers what is to be undone of operations that have happened.
fn record_undo(cx: &Cx, id: i32, pid: i32, ops: &[Sembuf]) {
    for op in ops.iter().filter(|op| op.flags & SEM_UNDO != 0 && op.op != 0) {
        let mut table = cx.kernel.sysv.undo.0.lock();
        let list = table.entry((pid, id)).or_default();
        if list.len() <= usize::from(op.num) {
            list.resize(usize::from(op.num) + 1, 0);
        }
        if let Some(adjust) = list.get_mut(usize::from(op.num)) {
            *adjust -= i32::from(op.op);
        }
    }
}

impl UndoTable {
    /// Whether a process has adjustments.
    pub(crate) fn of(&self, pid: i32) -> bool {
        self.0.lock().range((pid, i32::MIN)..=(pid, i32::MAX)).next().is_some()
    }
}

/// Applies a process's adjustments when it ends.
pub(super) fn undo(cx: &Cx) {
    let pid = cx.process().pid;
    let mine = {
        let mut table = cx.kernel.sysv.undo.0.lock();
        let keys: Vec<_> = table.range((pid, i32::MIN)..=(pid, i32::MAX)).map(|(key, _)| *key).collect();
        keys.into_iter().filter_map(|key| table.remove(&key).map(|list| (key.1, list))).collect::<Vec<_>>()
    };
    for (id, list) in mine {
        let Ok(set) = cx.kernel.sysv.sem.find(id) else { continue };
        let mut state = set.state.lock();
        for (sem, adjust) in state.sems.iter_mut().zip(list) {
            if adjust != 0 {
                sem.value = (sem.value + adjust).clamp(0, SEMVMX);
                sem.pid = pid;
            }
        }
        set.settle(cx, id, state);
    }
}

/// Forgets adjustments of a set or of one of its semaphores: `SETVAL`, `SETALL` and `IPC_RMID` do.
fn clear_undo(cx: &Cx, id: i32, num: Option<usize>) {
    let mut table = cx.kernel.sysv.undo.0.lock();
    for ((_, set), list) in table.iter_mut() {
        if *set == id {
            match num {
                Some(num) => list.iter_mut().skip(num).take(1).for_each(|a| *a = 0),
                None => list.clear(),
            }
        }
    }
}

/// What `semctl(2)` tells of one semaphore.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Query {
    Value,
    Pid,
    WaitingForMore,
    WaitingForZero,
}

/// `GETVAL` and its kin.
pub fn query(cx: &Cx, id: i32, num: i32, what: Query) -> Result<i32> {
    let set = cx.kernel.sysv.sem.find(id)?;
    let state = set.state.lock();
    state.perm.check(cx, 4)?;
    let index = usize::try_from(num).map_err(|_| Errno::EINVAL)?;
    let sem = state.sems.get(index).ok_or(Errno::EINVAL)?;
    let waiting = |kind| {
        state.pending.iter().filter(|call| call.result.is_none() && call.at == (index, kind)).count() as i32
    };
    Ok(match what {
        Query::Value => sem.value,
        Query::Pid => sem.pid,
        Query::WaitingForMore => waiting(Kind::More),
        Query::WaitingForZero => waiting(Kind::Zero),
    })
}

/// `GETALL`.
pub fn values(cx: &Cx, id: i32) -> Result<Vec<u16>> {
    let set = cx.kernel.sysv.sem.find(id)?;
    let state = set.state.lock();
    state.perm.check(cx, 4)?;
    Ok(state.sems.iter().map(|s| s.value as u16).collect())
}

/// `SETVAL`; `ERANGE`.
pub fn set_value(cx: &Cx, id: i32, num: i32, value: i32) -> Result<()> {
    let set = cx.kernel.sysv.sem.find(id)?;
    let index = usize::try_from(num).map_err(|_| Errno::EINVAL)?;
    if !(0..=SEMVMX).contains(&value) {
        return err(Errno::ERANGE);
    }
    let mut state = set.state.lock();
    state.perm.check(cx, 2)?;
    let sem = state.sems.get_mut(index).ok_or(Errno::EINVAL)?;
    (sem.value, sem.pid) = (value, cx.process().pid);
    state.ctime = now(cx);
    clear_undo(cx, id, Some(index));
    set.settle(cx, id, state);
    Ok(())
}

/// Number of semaphores of a set.
pub fn count(cx: &Cx, id: i32) -> Result<usize> {
    Ok(cx.kernel.sysv.sem.find(id)?.state.lock().sems.len())
}

/// `SETALL`.
pub fn set_values(cx: &Cx, id: i32, values: &[u16]) -> Result<()> {
    let set = cx.kernel.sysv.sem.find(id)?;
    if values.iter().any(|&v| i32::from(v) > SEMVMX) {
        return err(Errno::ERANGE);
    }
    let mut state = set.state.lock();
    state.perm.check(cx, 2)?;
    for (sem, &value) in state.sems.iter_mut().zip(values) {
        (sem.value, sem.pid) = (i32::from(value), cx.process().pid);
    }
    state.ctime = now(cx);
    clear_undo(cx, id, None);
    set.settle(cx, id, state);
    Ok(())
}

impl SemSet {
    /// The status structure.
    pub fn status(&self, id: i32) -> SemidDs {
        let state = self.state.lock();
        SemidDs {
            perm: state.perm.to_raw(id),
            otime: state.otime,
            ctime: state.ctime,
            nsems: state.sems.len() as u64,
            ..SemidDs::default()
        }
    }

    pub(crate) fn check(&self, cx: &Cx, wanted: u32) -> Result<()> {
        self.state.lock().perm.check(cx, wanted)
    }
}

/// `IPC_RMID`: those who wait get `EIDRM`.
pub fn remove(cx: &Cx, id: i32) -> Result<()> {
    let set = cx.kernel.sysv.sem.find(id)?;
    {
        let mut state = set.state.lock();
        state.perm.check_owner(cx)?;
        state.removed = true;
        for call in state.pending.iter_mut().filter(|call| call.result.is_none()) {
            call.result = Some(Err(Errno::EIDRM));
        }
    }
    cx.kernel.sysv.sem.remove(id);
    cx.kernel.sysv.undo.0.lock().retain(|(_, set), _| *set != id);
    set.changed.wake_all(PollEvents::empty());
    Ok(())
}

/// `IPC_SET`.
pub fn set(cx: &Cx, id: i32, new: &SemidDs) -> Result<()> {
    let set = cx.kernel.sysv.sem.find(id)?;
    let mut state = set.state.lock();
    state.perm.check_owner(cx)?;
    state.perm.set(&new.perm);
    state.ctime = now(cx);
    Ok(())
}

/// `IPC_INFO`, and `SEM_INFO` with what is in use.
pub fn info(cx: &Cx, in_use: bool) -> Seminfo {
    let all = cx.kernel.sysv.sem.list();
    let sems: usize = all.iter().map(|(_, s)| s.state.lock().sems.len()).sum();
    Seminfo {
        semmap: 1_024_000_000,
        semmni: SEMMNI as i32,
        semmns: 1_024_000_000,
        semmnu: 1_024_000_000,
        semmsl: SEMMSL as i32,
        semopm: SEMOPM as i32,
        semume: SEMOPM as i32,
        semusz: if in_use { all.len() as i32 } else { 20 },
        semvmx: SEMVMX,
        semaem: if in_use { sems as i32 } else { SEMVMX },
    }
}
