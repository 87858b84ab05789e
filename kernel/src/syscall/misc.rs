//! Calls about the system as a whole: `uname`, `sysinfo`, `getrandom`, `syslog`, and small per-process settings.

use crate::error::{Result, err};
use crate::task::{Cap, Cx};
use crate::user::UserPtr;
use crate::version;
use abi::Errno;
use abi::system::{Sysinfo, Utsname, uts_field};
use alloc::string::String;
use core::sync::atomic::Ordering;
use hal::{LogLevel, PAGE_SIZE};

pub(super) fn uname(cx: &Cx, buf: UserPtr<Utsname>) -> Result<()> {
    let (node, domain) = cx.kernel.names.lock().clone();
    let uts = Utsname {
        sysname: uts_field(version::SYSNAME.as_bytes()),
        nodename: uts_field(node.as_bytes()),
        release: uts_field(version::RELEASE.as_bytes()),
        version: uts_field(version::VERSION.as_bytes()),
        machine: uts_field(version::MACHINE.as_bytes()),
        domainname: uts_field(domain.as_bytes()),
    };
    buf.write(cx, &uts)
}

pub(super) fn sethostname(cx: &Cx, name: UserPtr<u8>, len: i32) -> Result<()> {
    let name = read_uts_name(cx, name, len)?;
    cx.kernel.names.lock().0 = name;
    Ok(())
}

pub(super) fn setdomainname(cx: &Cx, name: UserPtr<u8>, len: i32) -> Result<()> {
    let name = read_uts_name(cx, name, len)?;
    cx.kernel.names.lock().1 = name;
    Ok(())
}

fn read_uts_name(cx: &Cx, name: UserPtr<u8>, len: i32) -> Result<String> {
    if !cx.task.creds().has(Cap::SysAdmin) {
        return err(Errno::EPERM);
    }
    let len = usize::try_from(len).ok().filter(|&l| l <= 64).ok_or(Errno::EINVAL)?;
    let mut bytes = name.read_vec(cx, len)?;
    if let Some(end) = bytes.iter().position(|&b| b == 0) {
        bytes.truncate(end);
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

pub(super) fn sysinfo(cx: &Cx, buf: UserPtr<Sysinfo>) -> Result<()> {
    let frames = &cx.kernel.frames;
    // The averages have 11 bits of fraction there and 16 here.
    let loads = cx.kernel.sched.load_averages(cx.now_ns()).map(|load| load << 5);
    let info = Sysinfo {
        loads,
        uptime: (cx.now_ns() / 1_000_000_000) as i64,
        totalram: frames.total() * PAGE_SIZE,
        freeram: frames.available() * PAGE_SIZE,
        procs: u16::try_from(cx.kernel.pids.task_count()).unwrap_or(u16::MAX),
        mem_unit: 1,
        ..Sysinfo::default()
    };
    buf.write(cx, &info)
}

pub(super) fn getrandom(cx: &Cx, buf: UserPtr<u8>, len: usize, flags: u32) -> Result<usize> {
    const RANDOM: u32 = 2;
    const INSECURE: u32 = 4;
    if flags & !7 != 0 || flags & (RANDOM | INSECURE) == RANDOM | INSECURE {
        return err(Errno::EINVAL);
    }
    let len = len.min(crate::user::MAX_RW_COUNT);
    let mut done = 0;
    let mut chunk = [0u8; 256];
    while done < len {
        let n = chunk.len().min(len - done);
        let Some(part) = chunk.get_mut(..n) else { break };
        cx.kernel.machine.entropy(part);
        match buf.add(done).write_bytes(cx, part) {
            Ok(()) => done += n,
            Err(_) if done > 0 => break,
            Err(e) => return Err(e),
        }
        // A large request can be ended by a signal, as random(4) says.
        if done % 4096 == 0 && cx.task.has_signal() && crate::signal::interrupts_wait(cx.task) {
            break;
        }
    }
    Ok(done)
}

/// The kernel's log ring: the log goes to whoever runs the kernel, so for guests the ring is always empty.
pub(super) fn syslog(cx: &Cx, kind: i32, buf: UserPtr<u8>, len: i32) -> Result<usize> {
    const READ: i32 = 2;
    const READ_ALL: i32 = 3;
    const READ_CLEAR: i32 = 4;
    const CONSOLE_LEVEL: i32 = 8;
    const SIZE_BUFFER: i32 = 10;
    if kind != READ_ALL && kind != SIZE_BUFFER && !cx.task.creds().has(Cap::SysAdmin) {
        return err(Errno::EPERM);
    }
    match kind {
        READ | READ_ALL | READ_CLEAR if buf.is_null() || len < 0 => err(Errno::EINVAL),
        READ if len > 0 => Err(cx.sleep(None).into()),
        CONSOLE_LEVEL if !(1..=8).contains(&len) => err(Errno::EINVAL),
        SIZE_BUFFER => Ok(1 << 16),
        0..=9 => Ok(0),
        _ => err(Errno::EINVAL),
    }
}

pub(super) fn personality(cx: &Cx, persona: u32) -> Result<u32> {
    let current = &cx.process().personality;
    if persona == u32::MAX {
        return Ok(current.load(Ordering::Relaxed));
    }
    Ok(current.swap(persona, Ordering::Relaxed))
}

pub(super) fn getcpu(cx: &Cx, cpu: UserPtr<u32>, node: UserPtr<u32>, _cache: UserPtr<u8>) -> Result<()> {
    cpu.write_if_some(cx, &(cx.cpu().0 as u32))?;
    node.write_if_some(cx, &0)
}

/// x86-64's segment bases and CPU features (`arch_prctl(2)`).
pub(super) fn arch_prctl(cx: &Cx, code: u32, addr: u64) -> Result<u32> {
    const SET_GS: u32 = 0x1001;
    const SET_FS: u32 = 0x1002;
    const GET_FS: u32 = 0x1003;
    const GET_GS: u32 = 0x1004;
    const GET_CPUID: u32 = 0x1011;
    const SET_CPUID: u32 = 0x1012;
    match code {
        SET_FS | SET_GS => {
            if addr >= cx.kernel.machine.user_limit() {
                return err(Errno::EPERM);
            }
            let mut user = cx.user.borrow_mut();
            let regs = user.regs();
            *(if code == SET_FS { &mut regs.fs_base } else { &mut regs.gs_base }) = addr;
            Ok(0)
        }
        GET_FS | GET_GS => {
            let regs = *cx.user.borrow_mut().regs();
            let base = if code == GET_FS { regs.fs_base } else { regs.gs_base };
            UserPtr::<u64>::new(addr).write(cx, &base)?;
            Ok(0)
        }
        // The instruction is never trapped.
        GET_CPUID => Ok(1),
        SET_CPUID => err(Errno::ENODEV),
        _ => err(Errno::EINVAL),
    }
}

/// Files are compared by description, the rest by object; the order is that of addresses, as on Linux.
pub(super) fn kcmp(cx: &Cx, pid1: i32, pid2: i32, kind: i32, idx1: u64, idx2: u64) -> Result<i32> {
    use alloc::sync::Arc;
    let task = |pid: i32| cx.kernel.pids.task(pid).ok_or(Errno::ESRCH);
    let (a, b) = (task(pid1)?, task(pid2)?);
    let mine = cx.task.creds();
    for other in [&a, &b] {
        let theirs = other.creds();
        let same = [theirs.uid, theirs.euid, theirs.suid].iter().all(|&u| u == mine.uid);
        if !same && !mine.has(Cap::SysPtrace) {
            return err(Errno::EPERM);
        }
    }
    fn addr<T: ?Sized>(arc: &Arc<T>) -> usize {
        Arc::as_ptr(arc).cast::<()>() as usize
    }
    let (x, y) = match kind {
        0 => {
            let file = |task: &crate::task::Task, idx: u64| -> Result<usize> {
                let fd = i32::try_from(idx).map_err(|_| Errno::EBADF)?;
                let files = task.files.lock().clone();
                files.get(crate::fs::Fd(fd)).map(|f| addr(&f))
            };
            (file(&a, idx1)?, file(&b, idx2)?)
        }
        1 => {
            let mm = |task: &crate::task::Task| task.mm.lock().as_ref().map_or(0, addr);
            (mm(&a), mm(&b))
        }
        // Each lock is let go of before the next is taken: both ids may be one task's.
        2 => {
            let files = |task: &crate::task::Task| addr(&task.files.lock());
            (files(&a), files(&b))
        }
        3 => {
            let fs = |task: &crate::task::Task| addr(&task.fs.lock());
            (fs(&a), fs(&b))
        }
        // Signal handlers belong to the process.
        4 => (addr(&a.process), addr(&b.process)),
        // There are no I/O contexts, so all have the same.
        5 => (0, 0),
        // Who has nothing to undo has no list, and several without one have the same.
        6 => {
            let list = |task: &crate::task::Task| {
                if cx.kernel.sysv.undo.of(task.process.pid) { addr(&task.process) } else { 0 }
            };
            (list(&a), list(&b))
        }
        7 => return err(Errno::EOPNOTSUPP),
        _ => return err(Errno::EINVAL),
    };
    Ok(match x.cmp(&y) {
        core::cmp::Ordering::Equal => 0,
        core::cmp::Ordering::Less => 1,
        core::cmp::Ordering::Greater => 2,
    })
}

/// No filters: `EINVAL` is what a kernel without them says, and sandboxes then go on without.
pub(super) fn seccomp(_cx: &Cx, _operation: u32, _flags: u32, _args: UserPtr<u8>) -> Result<()> {
    err(Errno::EINVAL)
}

pub(super) fn bpf(_cx: &Cx, _cmd: i32, _attr: UserPtr<u8>, _size: u32) -> Result<()> {
    err(Errno::EPERM)
}

pub(super) fn perf_event_open(
    _cx: &Cx,
    _attr: UserPtr<u8>,
    _pid: i32,
    _cpu: i32,
    _group: i32,
    _flags: u64,
) -> Result<()> {
    err(Errno::EACCES)
}

pub(super) fn reboot(cx: &Cx, magic: u32, magic2: u32, cmd: u32, _arg: UserPtr<u8>) -> Result<()> {
    // `LINUX_REBOOT_MAGIC1` and the four `LINUX_REBOOT_MAGIC2`; without privilege nobody learns whether they were right.
    let right =
        magic == 0xfee1_dead && [0x2812_1969, 0x0512_1996, 0x1604_1998, 0x2011_2000].contains(&magic2);
    if !right && cx.task.creds().has(Cap::SysBoot) {
        return err(Errno::EINVAL);
    }
    cx.kernel.log(LogLevel::Debug, &alloc::format!("reboot({cmd:#x}) refused"));
    err(Errno::EPERM)
}

/// Calls that change the machine itself: refused to everybody, as in a container.
pub(super) fn refuse(_cx: &Cx, _arg: u64, _arg2: u64) -> Result<()> {
    err(Errno::EPERM)
}
