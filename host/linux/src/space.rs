//! Address spaces over ptrace(2), with one virtual CPU: stands in until the `vmspace` crate carries guests.
//!
//! A space is a forked process whose memory is replaced; system calls are stopped with `PTRACE_SYSEMU`, changes of
//! the space are injected. The fault's error code is not visible to a tracer, so it is guessed from `si_code`.

use crate::cpu::{Kick, LinuxCpus, lock};
use crate::hostfile::LinuxFile;
use crate::ram::LinuxRam;
use hal::{Backing, CpuId, Exit, Fault, MapOp, Regs, SpaceError, UserContext, VmSpace};
use std::any::Any;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::{Arc, Mutex};

const TEXT: u64 = 0x7fff_ffff_e000;
/// The RAM's descriptor in a stub.
const RAM_FD: u64 = 3;
const FPU_SIZE: usize = 4096;

/// Makes address spaces.
pub(crate) struct Spaces {
    ram: RawFd,
}

impl Spaces {
    /// The error is a line for the user.
    pub(crate) fn new(ram: &LinuxRam) -> Result<Spaces, String> {
        Ok(Spaces { ram: ram.fd().as_raw_fd() })
    }
    pub(crate) fn max_cpus(&self) -> usize {
        1
    }
    pub(crate) fn create(&self, cpus: &Arc<LinuxCpus>) -> Result<Arc<dyn VmSpace>, SpaceError> {
        let stub = Stub::spawn(self.ram).map_err(SpaceError::Dead)?;
        Ok(Arc::new(Space { stub: Arc::new(stub), cpus: cpus.clone() }))
    }
    pub(crate) fn context(&self) -> Box<dyn UserContext> {
        Box::new(Context { state: State::default(), id: Arc::default() })
    }
    pub(crate) fn user_limit(&self) -> u64 {
        TEXT - 4096
    }
    pub(crate) fn vdso(&self) -> Option<u64> {
        None
    }
    pub(crate) fn fpu_size(&self) -> usize {
        FPU_SIZE
    }
    pub(crate) fn shutdown(&self) {}
}

type User = libc::user_regs_struct;

fn ptrace(request: u32, pid: i32, addr: usize, data: usize) -> Result<i64, String> {
    // SAFETY: the callers pass what the request wants.
    let result = unsafe { libc::ptrace(request, pid, addr, data) };
    match result {
        -1 => Err(format!("ptrace {request}: {}", std::io::Error::last_os_error())),
        r => Ok(r),
    }
}

struct Stub {
    pid: i32,
    /// Whose registers the stub holds.
    current: Mutex<Option<Shared>>,
}

impl Stub {
    fn spawn(ram: RawFd) -> Result<Stub, String> {
        // SAFETY: the child makes only system calls.
        let pid = unsafe { libc::fork() };
        if pid < 0 {
            return Err("fork failed".to_string());
        }
        if pid == 0 {
            // SAFETY: plain system calls in the child.
            unsafe {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                rseq_off();
                libc::dup2(ram, RAM_FD as i32);
                libc::syscall(libc::SYS_close_range, 4, u32::MAX, 0);
                libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0);
                let mut none: libc::sigset_t = std::mem::zeroed();
                libc::sigemptyset(&mut none);
                libc::sigprocmask(libc::SIG_SETMASK, &none, std::ptr::null_mut());
                libc::syscall(libc::SYS_kill, libc::getpid(), libc::SIGSTOP);
                libc::_exit(1);
            }
        }
        let stub = Stub { pid, current: Mutex::new(None) };
        stub.wait()?;
        let options = libc::PTRACE_O_TRACESYSGOOD | libc::PTRACE_O_EXITKILL;
        ptrace(libc::PTRACE_SETOPTIONS, pid, 0, options as usize)?;
        // The first call goes through the libc instruction that stopped us.
        let mut regs = stub.get()?;
        let syscall_at = regs.rip - 2;
        regs.rip = syscall_at;
        regs.rax = libc::SYS_mmap as u64;
        regs.orig_rax = u64::MAX;
        (regs.rdi, regs.rsi, regs.rdx) = (TEXT, 4096, 7);
        (regs.r10, regs.r8, regs.r9) = (0x32, u64::MAX, 0);
        stub.set(&regs)?;
        ptrace(libc::PTRACE_SINGLESTEP, pid, 0, 0)?;
        stub.wait()?;
        ptrace(libc::PTRACE_POKEDATA, pid, TEXT as usize, 0xcc_050f)?;
        stub.inject(libc::SYS_munmap, [0, TEXT, 0, 0, 0, 0])?;
        stub.inject(libc::SYS_mprotect, [TEXT, 4096, 5, 0, 0, 0])?;
        Ok(stub)
    }

    fn wait(&self) -> Result<i32, String> {
        let mut status = 0;
        loop {
            // SAFETY: fills the status.
            let pid = unsafe { libc::waitpid(self.pid, &mut status, libc::__WALL) };
            if pid == self.pid {
                break;
            }
            if std::io::Error::last_os_error().raw_os_error() != Some(libc::EINTR) {
                return Err("the stub is gone".to_string());
            }
        }
        if libc::WIFSTOPPED(status) {
            return Ok(libc::WSTOPSIG(status));
        }
        Err(format!("the stub ended with status {status:#x}"))
    }

    fn get(&self) -> Result<User, String> {
        // SAFETY: plain data.
        let mut regs: User = unsafe { std::mem::zeroed() };
        ptrace(libc::PTRACE_GETREGS, self.pid, 0, (&raw mut regs) as usize)?;
        Ok(regs)
    }

    fn set(&self, regs: &User) -> Result<(), String> {
        ptrace(libc::PTRACE_SETREGS, self.pid, 0, std::ptr::from_ref(regs) as usize)?;
        Ok(())
    }

    fn fpu(&self) -> Result<Vec<u8>, String> {
        let mut buf = vec![0u8; FPU_SIZE];
        let mut iov = libc::iovec { iov_base: buf.as_mut_ptr().cast(), iov_len: buf.len() };
        ptrace(libc::PTRACE_GETREGSET, self.pid, 0x202, (&raw mut iov) as usize)?;
        buf.truncate(iov.iov_len);
        Ok(buf)
    }

    fn set_fpu(&self, image: &[u8]) -> Result<(), String> {
        let mut iov = libc::iovec { iov_base: image.as_ptr().cast_mut().cast(), iov_len: image.len() };
        ptrace(libc::PTRACE_SETREGSET, self.pid, 0x202, (&raw mut iov) as usize)?;
        Ok(())
    }

    /// Saves the registers of the context that the stub holds.
    fn evict(&self) -> Result<(), String> {
        if let Some(old) = lock(&self.current).take() {
            let mut old = lock(&old);
            old.fpu = Some(self.fpu()?);
            old.live = None;
        }
        Ok(())
    }

    fn inject(&self, nr: i64, args: [u64; 6]) -> Result<i64, String> {
        let mut regs = self.get()?;
        regs.rip = TEXT;
        regs.rax = nr as u64;
        regs.orig_rax = u64::MAX;
        [regs.rdi, regs.rsi, regs.rdx, regs.r10, regs.r8, regs.r9] = args;
        self.set(&regs)?;
        loop {
            ptrace(libc::PTRACE_CONT, self.pid, 0, 0)?;
            if self.wait()? == libc::SIGTRAP {
                return Ok(self.get()?.rax as i64);
            }
        }
    }
}

unsafe extern "C" {
    static __rseq_offset: isize;
    static __rseq_size: u32;
}

/// Unregisters glibc's restartable sequence area, which goes with the memory.
unsafe fn rseq_off() {
    let base: usize;
    // SAFETY: reads the thread pointer; the offsets are glibc's constants.
    unsafe {
        std::arch::asm!("mov {}, fs:0", out(reg) base);
        let area = base.wrapping_add_signed(__rseq_offset);
        for size in [32u32, __rseq_size.next_multiple_of(32)] {
            libc::syscall(libc::SYS_rseq, area, size, 1, 0x5305_3053);
        }
    }
}

impl Drop for Stub {
    fn drop(&mut self) {
        let mut status = 0;
        // SAFETY: our own child.
        unsafe {
            libc::kill(self.pid, libc::SIGKILL);
            libc::waitpid(self.pid, &mut status, libc::__WALL);
        }
    }
}

impl Kick for Stub {
    fn kick(&self, _cpu: usize) {
        // SAFETY: our own child; the signal only stops it.
        unsafe { libc::kill(self.pid, libc::SIGUSR1) };
    }
}

struct Space {
    stub: Arc<Stub>,
    cpus: Arc<LinuxCpus>,
}

impl VmSpace for Space {
    fn update(&self, _cpu: CpuId, ops: &[MapOp<'_>]) -> Result<(), SpaceError> {
        let dead = SpaceError::Dead;
        for op in ops {
            let call = |nr, args| self.stub.inject(nr, args).map_err(dead);
            let result = match op {
                MapOp::Map { at, len, prot, backing, populate } => {
                    let populate = if *populate { libc::MAP_POPULATE } else { 0 };
                    let flags = |shared: bool| {
                        let share = if shared { libc::MAP_SHARED } else { libc::MAP_PRIVATE };
                        (share | libc::MAP_FIXED | populate) as u64
                    };
                    let prot = u64::from(prot.bits());
                    match backing {
                        Backing::Ram(frame) => {
                            call(libc::SYS_mmap, [at.0, *len, prot, flags(true), RAM_FD, frame.0])?
                        }
                        Backing::File { file, offset, shared } => {
                            let Some(file) = file.as_any().downcast_ref::<LinuxFile>() else {
                                return Err(SpaceError::Dead("a file of another machine".to_string()));
                            };
                            let fd = self.install(file.fd().as_raw_fd()).map_err(SpaceError::Dead)?;
                            let result =
                                call(libc::SYS_mmap, [at.0, *len, prot, flags(*shared), fd, *offset])?;
                            self.stub
                                .inject(libc::SYS_close, [fd, 0, 0, 0, 0, 0])
                                .map_err(SpaceError::Dead)?;
                            result
                        }
                    }
                }
                MapOp::Unmap { at, len } => call(libc::SYS_munmap, [at.0, *len, 0, 0, 0, 0])?,
                MapOp::Protect { at, len, prot } => {
                    match call(libc::SYS_mprotect, [at.0, *len, u64::from(prot.bits()), 0, 0, 0])? {
                        // Holes are fine.
                        -12 => 0,
                        r => r,
                    }
                }
            };
            if (-4095..0).contains(&result) {
                return Err(SpaceError::NoMemory);
            }
        }
        Ok(())
    }

    fn run(&self, cpu: CpuId, ctx: &mut dyn UserContext) -> Exit {
        let Some(ctx) = ctx.as_any_mut().downcast_mut::<Context>() else {
            return Exit::Dead("a context of another machine".to_string());
        };
        if !self.cpus.enter_guest(cpu, &self.stub) {
            return Exit::Interrupted;
        }
        let exit = self.enter(ctx).unwrap_or_else(Exit::Dead);
        self.cpus.leave_guest(cpu, exit == Exit::Interrupted);
        exit
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl Space {
    /// Opens one of our files in the stub, through a path in a page that is mapped for the purpose.
    fn install(&self, fd: RawFd) -> Result<u64, String> {
        // SAFETY: no arguments.
        let path = format!("/proc/{}/fd/{fd}\0", unsafe { libc::getpid() });
        let page = TEXT - 4096;
        self.stub.inject(libc::SYS_mmap, [page, 4096, 3, 0x32, u64::MAX, 0])?;
        let mut bytes = path.into_bytes();
        bytes.resize(bytes.len().next_multiple_of(8), 0);
        for (i, word) in bytes.chunks_exact(8).enumerate() {
            let word = u64::from_ne_bytes(word.try_into().unwrap_or_default());
            ptrace(libc::PTRACE_POKEDATA, self.stub.pid, page as usize + 8 * i, word as usize)?;
        }
        // With the file's own mode and no more: a writer that nobody asked for makes the host refuse to execute the file.
        // SAFETY: the call takes no pointer.
        let mode = unsafe { libc::fcntl(fd, libc::F_GETFL) } & libc::O_ACCMODE;
        let flags = (mode.max(0) | libc::O_CLOEXEC) as u64;
        let result = self.stub.inject(libc::SYS_open, [page, flags, 0, 0, 0, 0])?;
        self.stub.inject(libc::SYS_munmap, [page, 4096, 0, 0, 0, 0])?;
        u64::try_from(result).map_err(|_| format!("open in the stub: {result}"))
    }

    fn enter(&self, ctx: &mut Context) -> Result<Exit, String> {
        let stub = &self.stub;
        {
            let here = matches!(&*lock(&stub.current), Some(c) if Arc::ptr_eq(c, &ctx.id));
            if !here {
                stub.evict()?;
                let mut inner = lock(&ctx.id);
                if let Some(image) = inner.fpu.take() {
                    stub.set_fpu(&image)?;
                } else {
                    stub.set_fpu(&initial_fpu(&stub.fpu()?))?;
                }
                inner.live = Some(stub.clone());
                *lock(&stub.current) = Some(ctx.id.clone());
            } else if let Some(image) = lock(&ctx.id).fpu.take() {
                stub.set_fpu(&image)?;
            }
        }
        let mut user = stub.get()?;
        ctx.state.store(&mut user);
        stub.set(&user)?;
        ptrace(libc::PTRACE_SYSEMU, stub.pid, 0, 0)?;
        let signal = stub.wait()?;
        let user = stub.get()?;
        ctx.state.load(&user);
        let r = &mut ctx.state.regs;
        match signal {
            s if s == libc::SIGTRAP | 0x80 => {
                (r.rcx, r.r11) = (r.rip, r.eflags);
                let args = [r.rdi, r.rsi, r.rdx, r.r10, r.r8, r.r9];
                Ok(Exit::Syscall { nr: user.orig_rax, args, ip: r.rip })
            }
            libc::SIGSEGV | libc::SIGBUS | libc::SIGFPE | libc::SIGILL | libc::SIGTRAP => {
                // SAFETY: plain data.
                let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
                ptrace(libc::PTRACE_GETSIGINFO, stub.pid, 0, (&raw mut info) as usize)?;
                // SAFETY: the kernel filled it for a fault.
                let addr = unsafe { info.si_addr() } as u64;
                let exec = if addr == r.rip { 0x10 } else { 0 };
                let (vector, error) = match (signal, info.si_code) {
                    (libc::SIGSEGV, 1) => (14, 4 | exec),
                    (libc::SIGSEGV, 2) if exec != 0 => (14, 0x15),
                    (libc::SIGSEGV, 2) => (14, 7),
                    (libc::SIGSEGV, _) => (13, 0),
                    (libc::SIGBUS, 2) => (14, 4),
                    (libc::SIGBUS, _) => (17, 0),
                    (libc::SIGFPE, 1) => (0, 0),
                    (libc::SIGFPE, _) => (19, 0),
                    (libc::SIGILL, _) => (6, 0),
                    (_, 0x80) => (3, 0),
                    _ => (1, 0),
                };
                Ok(Exit::Fault(Fault { vector, error, addr, signo: signal, code: info.si_code }))
            }
            _ => Ok(Exit::Interrupted),
        }
    }
}

/// What lives in a stub between runs.
#[derive(Default)]
struct Inner {
    /// The saved image; `None` while it is live or initial.
    fpu: Option<Vec<u8>>,
    live: Option<Arc<Stub>>,
}

type Shared = Arc<Mutex<Inner>>;

#[derive(Default)]
struct State {
    regs: Regs,
}

impl State {
    fn store(&self, u: &mut User) {
        let r = &self.regs;
        (u.r8, u.r9, u.r10, u.r11, u.r12, u.r13) = (r.r8, r.r9, r.r10, r.r11, r.r12, r.r13);
        (u.r14, u.r15, u.rdi, u.rsi, u.rbp, u.rbx) = (r.r14, r.r15, r.rdi, r.rsi, r.rbp, r.rbx);
        (u.rdx, u.rax, u.rcx, u.rsp, u.rip) = (r.rdx, r.rax, r.rcx, r.rsp, r.rip);
        u.eflags = r.eflags & 0x24_4dd5 | 0x202;
        (u.fs_base, u.gs_base, u.orig_rax) = (r.fs_base, r.gs_base, u64::MAX);
    }
    fn load(&mut self, u: &User) {
        let r = &mut self.regs;
        (r.r8, r.r9, r.r10, r.r11, r.r12, r.r13) = (u.r8, u.r9, u.r10, u.r11, u.r12, u.r13);
        (r.r14, r.r15, r.rdi, r.rsi, r.rbp, r.rbx) = (u.r14, u.r15, u.rdi, u.rsi, u.rbp, u.rbx);
        (r.rdx, r.rax, r.rcx, r.rsp, r.rip) = (u.rdx, u.rax, u.rcx, u.rsp, u.rip);
        (r.eflags, r.fs_base, r.gs_base) = (u.eflags, u.fs_base, u.gs_base);
    }
}

/// An image with everything in its initial state, in the layout of this one.
fn initial_fpu(like: &[u8]) -> Vec<u8> {
    let mut image = vec![0; like.len()];
    image[0..2].copy_from_slice(&0x37fu16.to_ne_bytes());
    image[24..28].copy_from_slice(&0x1f80u32.to_ne_bytes());
    image[28..32].copy_from_slice(&like[28..32]);
    image[464..512].copy_from_slice(&like[464..512]);
    image[512..520].copy_from_slice(&3u64.to_ne_bytes());
    image
}

struct Context {
    state: State,
    id: Shared,
}

impl Context {
    fn image(&self) -> Option<Vec<u8>> {
        let inner = lock(&self.id);
        inner.fpu.clone().or_else(|| inner.live.as_ref().and_then(|s| s.fpu().ok()))
    }
}

const MAGIC1: u32 = 0x4650_5853;
const MAGIC2: u32 = 0x4650_5845;

impl UserContext for Context {
    fn set_syscall_result(&mut self, value: u64) {
        self.state.regs.rax = value;
    }
    fn regs(&mut self) -> &mut Regs {
        &mut self.state.regs
    }
    fn fpu(&mut self) -> Vec<u8> {
        let Some(mut image) = self.image() else { return Vec::new() };
        let size = image.len() as u32;
        let features = image[464..472].to_vec();
        image[464..468].copy_from_slice(&MAGIC1.to_ne_bytes());
        image[468..472].copy_from_slice(&(size + 4).to_ne_bytes());
        image[472..480].copy_from_slice(&features);
        image[480..484].copy_from_slice(&size.to_ne_bytes());
        image[484..512].fill(0);
        image.extend_from_slice(&MAGIC2.to_ne_bytes());
        image
    }
    fn set_fpu(&mut self, image: &[u8]) {
        let mut inner = lock(&self.id);
        let good = image.len() > 580 && image[464..468] == MAGIC1.to_ne_bytes();
        let image = if good {
            let mut image = image[..image.len() - 4].to_vec();
            image.copy_within(472..480, 464);
            image[472..512].fill(0);
            image
        } else {
            let Some(like) = inner.live.as_ref().and_then(|s| s.fpu().ok()) else {
                inner.fpu = None;
                return;
            };
            initial_fpu(&like)
        };
        inner.fpu = Some(image);
    }
    fn duplicate(&mut self) -> Box<dyn UserContext> {
        let id = Arc::new(Mutex::new(Inner { fpu: self.image(), live: None }));
        Box::new(Context { state: State { regs: self.state.regs }, id })
    }
    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }
}
