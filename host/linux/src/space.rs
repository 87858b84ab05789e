//! Address spaces: the kernel's view of the `vmspace` crate.

use crate::ahead::Made;
use crate::cpu::{Kick, LinuxCpus};
use crate::hostfile::LinuxFile;
use crate::ram::LinuxRam;
use hal::{
    Backing, Cpu, CpuId, Exit, Fault, FileView, MapOp, Offers, Populate, Prot, Regs, SpaceError, StatOffer,
    Stock, UserContext, Views, VirtAddr, VmSpace,
};
use std::any::Any;
use std::sync::Arc;
use vmspace::{Context, Engine, Op, UpdateError, Vmspace, Withdrawal};

/// Makes address spaces.
pub(crate) struct Spaces {
    engine: Arc<Engine>,
    made: Made,
}

/// What becomes of it while the caller does something else.
pub(crate) struct Beginning {
    engine: vmspace::Beginning,
    made: Made,
}

impl Beginning {
    /// Waits for the first address space.
    pub(crate) fn finish(self) -> Result<Spaces, String> {
        Ok(Spaces { engine: self.engine.finish().map_err(explain)?, made: self.made })
    }
}

fn explain(error: std::io::Error) -> String {
    format!("can't run guest programs on this host: {error}")
}

impl Spaces {
    /// Starts the helper process that address spaces come from. The calling thread must live as long as the process. The error is
    /// a line for the user.
    pub(crate) fn begin(ram: &LinuxRam) -> Result<Beginning, String> {
        let fd = ram.fd().try_clone_to_owned().map_err(|e| format!("can't duplicate a descriptor: {e}"))?;
        Ok(Beginning { engine: Engine::begin(&fd).map_err(explain)?, made: ram.made() })
    }

    /// Most virtual CPUs that a space can run on.
    pub(crate) fn max_cpus() -> usize {
        Vmspace::MAX_CPUS
    }

    /// A new one, empty or to become a copy.
    pub(crate) fn create(
        &self,
        cpus: &Arc<LinuxCpus>,
        copy_of: Option<&dyn VmSpace>,
    ) -> Result<Arc<dyn VmSpace>, SpaceError> {
        let current = cpus.current().map(|cpu| cpu.0);
        let copy_of = copy_of.and_then(|space| space.as_any().downcast_ref::<LinuxSpace>());
        let created = match copy_of {
            Some(original) => self.engine.create_copy(&original.space.0, current),
            None => self.engine.create(current),
        };
        let space = created.map_err(|e| match e.raw_os_error() {
            Some(libc::EAGAIN | libc::ENOMEM | libc::EMFILE | libc::ENFILE) => SpaceError::NoMemory,
            _ => SpaceError::Dead(e.to_string()),
        })?;
        let (made, guards) = (self.made.clone(), self.engine.has_guards());
        Ok(Arc::new(LinuxSpace { space: Arc::new(Target(space)), cpus: cpus.clone(), made, guards }))
    }

    pub(crate) fn tidy(&self) {
        self.engine.tidy();
    }

    pub(crate) fn context(&self) -> Box<dyn UserContext> {
        Box::new(LinuxContext::new(Context::new()))
    }

    pub(crate) fn user_limit(&self) -> u64 {
        self.engine.user_limit()
    }

    pub(crate) fn gate(&self) -> Option<u64> {
        self.engine.gate()
    }

    pub(crate) fn offers_version(&self) -> u64 {
        self.engine.offers_version()
    }

    pub(crate) fn recall_offers(&self) {
        self.engine.recall_offers();
    }

    pub(crate) fn vdso(&self) -> Option<u64> {
        self.engine.vdso()
    }

    pub(crate) fn fpu_size(&self) -> usize {
        self.engine.fpu_len()
    }

    pub(crate) fn shutdown(&self) {
        self.engine.shutdown();
    }
}

struct Target(Vmspace);

impl Kick for Target {
    fn kick(&self, cpu: usize) {
        self.0.kick(cpu);
    }
}

/// The gate and the kernel have the same header.
const _: () = {
    use hal::FileView as View;
    assert!(matches!(
        vmspace::FileView::HEADER,
        [View::SIZE, View::CAPACITY, View::READ, View::WRITTEN, View::READS, View::WRITES]
    ));
};

struct LinuxSpace {
    space: Arc<Target>,
    cpus: Arc<LinuxCpus>,
    /// What RAM was made ahead of need.
    made: Made,
    /// Whether memory can be mapped so that nobody reaches it until guest code opens it.
    guards: bool,
}

fn op<'a>(op: &MapOp<'a>, made: u64) -> Op<'a> {
    match *op {
        MapOp::Map { at, len, prot, ref backing, populate } => {
            let prot = prot.bits() as i32;
            match *backing {
                Backing::Ram(phys) => {
                    let populate = populate != Populate::OnTouch && follows(op, made).is_none();
                    Op::MapRam { at: at.0, len, prot, offset: phys.0, populate }
                }
                Backing::File { file, offset, shared } => match file.as_any().downcast_ref::<LinuxFile>() {
                    Some(file) => {
                        Op::MapFile { at: at.0, len, prot, file: file.fd(), key: file.key(), offset, shared }
                    }
                    // A file of another machine can't be shown; the range is left empty and faults.
                    None => Op::Unmap { at: at.0, len },
                },
            }
        }
        MapOp::Unmap { at, len } => Op::Unmap { at: at.0, len },
        MapOp::Protect { at, len, prot } => Op::Protect { at: at.0, len, prot: prot.bits() as i32 },
    }
}

/// What comes when all is mapped: guards for a mapping that guest code opens by itself, and for one of RAM that the host has to make, to do that. The host makes pages for stores in three quarters of the time that it takes for
/// loads, as which it takes those of a mapping that is populated.
fn follows<'a>(op: &MapOp<'a>, made: u64) -> Option<Op<'a>> {
    match *op {
        MapOp::Map { at, len, populate: Populate::Lent, .. } => Some(Op::Guard { at: at.0, len }),
        MapOp::Map { at, len, prot, backing: Backing::Ram(phys), populate: Populate::Fresh }
            if prot.contains(Prot::WRITE) && phys.0 + len > made =>
        {
            Some(Op::Fill { at: at.0, len })
        }
        _ => None,
    }
}

/// These changes as the `vmspace` crate has them.
fn with_ops<R>(ops: &[MapOp<'_>], made: u64, then: impl FnOnce(&[Op<'_>]) -> R) -> R {
    match ops {
        [one] if follows(one, made).is_none() => then(&[op(one, made)]),
        all => {
            let maps = all.iter().map(|change| op(change, made));
            let all: Vec<_> = maps.chain(all.iter().filter_map(|change| follows(change, made))).collect();
            then(&all)
        }
    }
}

/// The same stock as the `vmspace` crate has it.
fn of(stock: Stock) -> vmspace::Stock {
    match stock {
        Stock::Heap => vmspace::Stock::Heap,
        Stock::Maps => vmspace::Stock::Maps,
    }
}

/// What the kernel is told of these changes.
fn told(updated: Result<(), UpdateError>, ops: &[MapOp<'_>]) -> Result<(), SpaceError> {
    updated.or_else(|e| match e {
        // What is not made now is made when it is touched; what was to be guarded must not be there without.
        UpdateError::Failed { index, .. } if index >= ops.len() => {
            let lent = |op: &MapOp<'_>| matches!(op, MapOp::Map { populate: Populate::Lent, .. });
            if ops.iter().any(lent) { Err(SpaceError::NoMemory) } else { Ok(()) }
        }
        UpdateError::Failed { errno: libc::ENOMEM | libc::EAGAIN | libc::ENFILE | libc::EMFILE, .. } => {
            Err(SpaceError::NoMemory)
        }
        UpdateError::Failed { index, .. }
            if matches!(ops.get(index), Some(MapOp::Map { backing: Backing::File { .. }, .. })) =>
        {
            Err(SpaceError::Refused(index))
        }
        UpdateError::Failed { index, errno } => Err(SpaceError::Dead(format!(
            "the host refused change {index}: {}",
            std::io::Error::from_raw_os_error(errno)
        ))),
        UpdateError::Dead(why) => Err(SpaceError::Dead(why)),
    })
}

impl VmSpace for LinuxSpace {
    fn update(&self, cpu: CpuId, ops: &[MapOp<'_>]) -> Result<(), SpaceError> {
        let made = self.made.end();
        told(with_ops(ops, made, |ops| self.space.0.update(cpu.0, ops)), ops)
    }

    fn begin_update(&self, cpu: CpuId, ops: &[MapOp<'_>]) -> Result<(), SpaceError> {
        let made = self.made.end();
        told(with_ops(ops, made, |ops| self.space.0.begin_update(cpu.0, ops)), ops)
    }

    fn finish_update(&self, _cpu: CpuId, ops: &[MapOp<'_>]) -> Result<(), SpaceError> {
        told(self.space.0.finish_update(), ops)
    }

    fn lends(&self) -> bool {
        self.guards
    }

    fn lend(&self, stock: Stock, at: u64, limit: u64) {
        self.space.0.lend(of(stock), at, limit);
    }

    fn lent(&self, stock: Stock) -> Option<u64> {
        Some(self.space.0.lent(of(stock))).filter(|&at| at != 0)
    }

    fn recall(&self, stock: Stock) -> Option<u64> {
        Some(self.space.0.recall(of(stock))).filter(|&at| at != 0)
    }

    fn expect_program(&self, cpu: CpuId) {
        self.space.0.expect_program(cpu.0);
    }

    fn runs_beside(&self, cpu: CpuId) -> bool {
        self.space.0.in_session(cpu.0)
    }

    fn run_beside(&self, cpu: CpuId, ctx: &mut dyn UserContext, meanwhile: &mut dyn FnMut()) -> Exit {
        let Some(context) = ctx.as_any_mut().downcast_mut::<LinuxContext>() else {
            return Exit::Dead("registers of another machine".into());
        };
        context.flush();
        if !self.cpus.enter_guest(cpu, &self.space) {
            return Exit::Interrupted;
        }
        // First what may be worth most, then RAM for as long as there is some to make and nothing is heard.
        let mut first = true;
        let mut beside = || match std::mem::take(&mut first) {
            true => {
                meanwhile();
                true
            }
            false => self.made.make_page(),
        };
        let exit = self.space.0.run_beside(cpu.0, &mut context.inner, &|| self.cpus.spare(cpu), &mut beside);
        self.cpus.borrows(cpu, self.space.0.borrowed(cpu.0));
        self.cpus.leave_guest(cpu, exit == vmspace::Exit::Interrupted);
        match exit {
            vmspace::Exit::Syscall { nr, args, ip } => Exit::Syscall { nr, args, ip },
            vmspace::Exit::Fault { signo, code, trapno, error, addr } => {
                Exit::Fault(Fault { vector: trapno, error, addr, signo, code })
            }
            vmspace::Exit::Interrupted => Exit::Interrupted,
            vmspace::Exit::Dead(why) => Exit::Dead(why),
        }
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// A guest thread's registers. `shadow` is what the kernel was handed; it is written back before anything else happens.
struct LinuxContext {
    inner: Context,
    shadow: Regs,
    dirty: bool,
}

impl LinuxContext {
    fn new(inner: Context) -> LinuxContext {
        LinuxContext { inner, shadow: Regs::default(), dirty: false }
    }

    fn flush(&mut self) {
        if self.dirty {
            *self.inner.regs() = to_vmspace(&self.shadow);
            self.dirty = false;
        }
    }
}

macro_rules! convert {
    ($name:ident, $from:ty, $to:path) => {
        fn $name(r: &$from) -> $to {
            use $to as To;
            To {
                r8: r.r8,
                r9: r.r9,
                r10: r.r10,
                r11: r.r11,
                r12: r.r12,
                r13: r.r13,
                r14: r.r14,
                r15: r.r15,
                rdi: r.rdi,
                rsi: r.rsi,
                rbp: r.rbp,
                rbx: r.rbx,
                rdx: r.rdx,
                rax: r.rax,
                rcx: r.rcx,
                rsp: r.rsp,
                rip: r.rip,
                eflags: r.eflags,
                fs_base: r.fs_base,
                gs_base: r.gs_base,
            }
        }
    };
}
convert!(to_vmspace, Regs, vmspace::Regs);
convert!(from_vmspace, vmspace::Regs, Regs);

impl UserContext for LinuxContext {
    fn set_syscall_result(&mut self, value: u64) {
        if self.dirty {
            self.shadow.rax = value;
        } else {
            self.inner.set_syscall_result(value);
        }
    }

    fn regs(&mut self) -> &mut Regs {
        if !self.dirty {
            self.shadow = from_vmspace(self.inner.regs());
            self.dirty = true;
        }
        &mut self.shadow
    }

    fn stack_pointer(&mut self) -> u64 {
        if self.dirty { self.shadow.rsp } else { self.inner.stack_pointer() }
    }

    fn swap_fpu(&mut self, image: &mut Vec<u8>) {
        self.flush();
        self.inner.swap_fpu(image);
    }

    fn set_answers(&mut self, answers: &[(u8, u64)]) {
        self.inner.set_answers(answers);
    }

    fn set_offers(&mut self, offers: Offers) {
        let actions = offers.actions.map(|hal::DefaultActions { defaults, plain, restorer }| {
            vmspace::DefaultActions { defaults, plain, restorer }
        });
        let Offers { yields, sigmask, closable, .. } = offers;
        self.inner.offers = vmspace::Offers { yields, sigmask, actions, closable };
    }

    fn offer_stat(&mut self, offer: Option<StatOffer>) {
        self.inner.offer_stat(offer.map(|StatOffer { fd, version, stat }| vmspace::StatOffer {
            fd,
            version,
            stat,
        }));
    }

    fn offer_views(&mut self, Views { version, files }: Views) {
        let view =
            |FileView { fd, header, content }| vmspace::FileView { fd, header: header.0, content: content.0 };
        self.inner.views = vmspace::Views { version, files: files.map(|file| file.map(view)) };
    }

    fn take_closed(&mut self) -> u64 {
        self.inner.take_closed()
    }

    fn withdraw(&mut self, at: VirtAddr, len: u64, rights: Prot) -> bool {
        self.inner.withdraw(Withdrawal { at: at.0, len, rights: rights.bits() as i32 })
    }

    fn sigmask(&self) -> Option<u64> {
        self.inner.offers.sigmask
    }

    fn plain_actions(&self) -> Option<u64> {
        self.inner.offers.actions.map(|actions| actions.plain)
    }

    fn duplicate(&mut self) -> Box<dyn UserContext> {
        self.flush();
        Box::new(LinuxContext::new(self.inner.fork()))
    }

    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }
}
