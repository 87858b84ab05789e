//! Address spaces as page tables that tests can read, and guests as scripts of exits.
//!
//! A script is looked for in the context, then in its space, then in the machine; when all are used up, code (see
//! [`super::Guest`]) at the context's `rip` runs. Where there is none, the space is dead, with a text that says so.

use super::guest::{CodeMap, GuestThread, Request, buffer};
use super::{MockCpu, MockFile, MockRam, lock};
use crate::{
    Backing, CpuId, Exit, Fault, MapOp, PAGE_SIZE, PhysAddr, Populate, Prot, Ram, Regs, SpaceError,
    StatOffer, Stock, UserContext, Views, VirtAddr, VmSpace,
};
use core::any::Any;
use core::sync::atomic::{AtomicUsize, Ordering};
use std::boxed::Box;
use std::collections::{BTreeMap, VecDeque};
use std::string::ToString;
use std::sync::{Arc, Mutex};
use std::vec::Vec;

/// Size of the floating-point image: the legacy area, a header and the end magic.
pub(super) const FPU_SIZE: usize = 512 + 64 + 4;

/// What spaces and contexts of one machine have in common.
pub(super) struct Shared {
    ram: Arc<MockRam>,
    cpu: Arc<MockCpu>,
    script: Mutex<VecDeque<Exit>>,
    failing_update: Mutex<Option<(usize, SpaceError)>>,
    failing_space: Mutex<Option<SpaceError>>,
    results: Mutex<Vec<(usize, u64)>>,
    withdrawn: Mutex<Option<Vec<Withdrawn>>>,
    contexts: AtomicUsize,
    spaces: AtomicUsize,
    code: CodeMap,
    lends: bool,
}

impl Shared {
    pub(super) fn new(ram: Arc<MockRam>, cpu: Arc<MockCpu>, lends: bool) -> Shared {
        Shared {
            ram,
            cpu,
            script: Mutex::default(),
            failing_update: Mutex::default(),
            failing_space: Mutex::default(),
            results: Mutex::default(),
            withdrawn: Mutex::default(),
            contexts: AtomicUsize::new(0),
            spaces: AtomicUsize::new(0),
            code: CodeMap::new(),
            lends,
        }
    }
    pub(super) fn code(&self) -> &CodeMap {
        &self.code
    }
    pub(super) fn push_exit(&self, exit: Exit) {
        lock(&self.script).push_back(exit);
    }
    pub(super) fn fail_update(&self, done: usize, error: SpaceError) {
        *lock(&self.failing_update) = Some((done, error));
    }
    pub(super) fn fail_space(&self, error: SpaceError) {
        *lock(&self.failing_space) = Some(error);
    }
    pub(super) fn take_results(&self) -> Vec<(usize, u64)> {
        core::mem::take(&mut lock(&self.results))
    }
    pub(super) fn take_withdrawn(&self) -> Vec<Withdrawn> {
        lock(&self.withdrawn).replace(Vec::new()).unwrap_or_default()
    }
    pub(super) fn live_spaces(&self) -> usize {
        self.spaces.load(Ordering::SeqCst)
    }
}

/// What contexts were told by [`UserContext::withdraw`]: address, length in bytes, the rights that are left.
pub type Withdrawn = (VirtAddr, u64, Prot);

/// What a page or a range shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MockBacking {
    /// RAM, from here.
    Ram(PhysAddr),
    /// A host file.
    File {
        /// The file.
        file: MockFile,
        /// Byte offset.
        offset: u64,
        /// `MAP_SHARED`.
        shared: bool,
    },
}

impl MockBacking {
    fn plus(&self, bytes: u64) -> MockBacking {
        match self {
            MockBacking::Ram(at) => MockBacking::Ram(PhysAddr(at.0 + bytes)),
            MockBacking::File { file, offset, shared } => {
                MockBacking::File { file: file.clone(), offset: offset + bytes, shared: *shared }
            }
        }
    }
}

/// A run of pages with the same rights and consecutive content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MockMapping {
    /// Guest address.
    pub at: VirtAddr,
    /// Length in bytes.
    pub len: u64,
    /// Access rights.
    pub prot: Prot,
    /// Content.
    pub backing: MockBacking,
}

/// A recorded change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MockOp {
    /// [`MapOp::Map`] and when it populates.
    Map(MockMapping, Populate),
    /// [`MapOp::Unmap`]: address and length.
    Unmap(VirtAddr, u64),
    /// [`MapOp::Protect`]: address, length and rights.
    Protect(VirtAddr, u64, Prot),
}

#[derive(Default)]
struct Inner {
    pages: BTreeMap<u64, (Prot, MockBacking)>,
    ops: Vec<MockOp>,
    /// From where and how far guest code may take what lies ready.
    stocks: [Option<(u64, u64)>; 2],
    script: VecDeque<Exit>,
}

/// An address space of a [`super::MockMachine`].
pub struct MockSpace {
    shared: Arc<Shared>,
    inner: Mutex<Inner>,
}

impl MockSpace {
    pub(super) fn create(shared: &Arc<Shared>) -> Result<Arc<MockSpace>, SpaceError> {
        if let Some(error) = lock(&shared.failing_space).take() {
            return Err(error);
        }
        shared.spaces.fetch_add(1, Ordering::SeqCst);
        Ok(Arc::new(MockSpace { shared: shared.clone(), inner: Mutex::default() }))
    }
    /// The mock inside of a [`VmSpace`]; panics for a space of another machine.
    pub fn of(space: &dyn VmSpace) -> &MockSpace {
        space.as_any().downcast_ref().expect("a space of another machine")
    }
    /// Adds an exit for contexts that run in this space.
    pub fn push_exit(&self, exit: Exit) {
        lock(&self.inner).script.push_back(exit);
    }
    /// All mappings by address, neighbours joined.
    pub fn mappings(&self) -> Vec<MockMapping> {
        let mut out: Vec<MockMapping> = Vec::new();
        for (&at, (prot, backing)) in &lock(&self.inner).pages {
            if let Some(last) = out.last_mut()
                && last.at.0 + last.len == at
                && last.prot == *prot
                && last.backing.plus(last.len) == *backing
            {
                last.len += PAGE_SIZE;
                continue;
            }
            out.push(MockMapping { at: VirtAddr(at), len: PAGE_SIZE, prot: *prot, backing: backing.clone() });
        }
        out
    }
    /// Rights and content of the page that holds `at`.
    pub fn page(&self, at: VirtAddr) -> Option<(Prot, MockBacking)> {
        lock(&self.inner).pages.get(&at.page().0).cloned()
    }
    /// The RAM page that `at` shows, if it shows one.
    pub fn frame(&self, at: VirtAddr) -> Option<PhysAddr> {
        match self.page(at)? {
            (_, MockBacking::Ram(frame)) => Some(frame),
            _ => None,
        }
    }
    /// The changes so far. Emptied.
    pub fn take_ops(&self) -> Vec<MockOp> {
        core::mem::take(&mut lock(&self.inner).ops)
    }
    /// Has the heap grow as `brk` through the gate would; false where the kernel has to do it.
    pub fn grow_heap(&self, to: u64) -> bool {
        let mut inner = lock(&self.inner);
        let Some((end, limit)) = inner.stocks[Stock::Heap as usize] else { return false };
        if to < end || to > limit {
            return false;
        }
        inner.open(end.next_multiple_of(PAGE_SIZE), to.next_multiple_of(PAGE_SIZE));
        inner.stocks[Stock::Heap as usize] = Some((to, limit));
        true
    }
    /// Maps new memory as `mmap` through the gate would; `None` where the kernel has to do it.
    pub fn take_memory(&self, len: u64) -> Option<u64> {
        let mut inner = lock(&self.inner);
        let (end, limit) = inner.stocks[Stock::Maps as usize]?;
        let at = end.checked_sub(len.next_multiple_of(PAGE_SIZE)).filter(|&at| at >= limit)?;
        inner.open(at, end);
        inner.stocks[Stock::Maps as usize] = Some((at, limit));
        Some(at)
    }
    /// Has guest code say that what lies ready begins somewhere.
    pub fn claim(&self, stock: Stock, at: u64) {
        if let Some((said, _)) = &mut lock(&self.inner).stocks[stock as usize] {
            *said = at;
        }
    }
    /// Reads as guest code would; `Err` is the first address without the right.
    pub fn guest_read(&self, at: VirtAddr, buf: &mut [u8]) -> Result<(), VirtAddr> {
        self.access(at, buf.len(), Prot::READ, |backing, offset, done, len| {
            let to = &mut buf[done..done + len];
            match backing {
                MockBacking::Ram(frame) => self.shared.ram.read(PhysAddr(frame.0 + offset), to),
                MockBacking::File { file, offset: start, .. } => file.mapped_read(start + offset, to),
            }
        })
    }
    /// Writes as guest code would; `Err` is the first address without the right.
    pub fn guest_write(&self, at: VirtAddr, buf: &[u8]) -> Result<(), VirtAddr> {
        self.access(at, buf.len(), Prot::WRITE, |backing, offset, done, len| {
            let from = &buf[done..done + len];
            match backing {
                MockBacking::Ram(frame) => self.shared.ram.write(PhysAddr(frame.0 + offset), from),
                MockBacking::File { file, offset: start, .. } => file.mapped_write(start + offset, from),
            }
        })
    }

    /// Runs the code of a context until it traps.
    fn run_code(&self, cpu: CpuId, ctx: &mut MockContext) -> Exit {
        match &mut ctx.guest {
            Some(thread) => {
                if let Some(ask) = thread.waiting.take() {
                    // A system call, a trap or a detour; loads and stores are still to be done.
                    match ask.request {
                        Request::Load(..) | Request::Store(..) | Request::Compute(_)
                            if ctx.regs.rip == ask.regs.rip =>
                        {
                            thread.waiting = Some(ask);
                        }
                        _ => thread.answer(ctx.regs, Vec::new()),
                    }
                }
            }
            None => ctx.guest = GuestThread::start(&self.shared, ctx.regs),
        }
        let Some(thread) = &mut ctx.guest else {
            return Exit::Dead(std::format!("no script, and no code at {:#x}", ctx.regs.rip));
        };
        loop {
            let Some(ask) = &mut thread.waiting else { return Exit::Dead("the code ended".to_string()) };
            let mut regs = ask.regs;
            ctx.regs = regs;
            if let Request::Compute(ns) = &mut ask.request {
                self.shared.cpu.advance(core::mem::take(ns));
            }
            if self.shared.cpu.take_interrupt(cpu) {
                return Exit::Interrupted;
            }
            let mut data = Vec::new();
            let result = match &ask.request {
                Request::Syscall(nr, args) => {
                    return Exit::Syscall { nr: *nr, args: *args, ip: regs.rip.wrapping_add(2) };
                }
                Request::Trap(fault) => return Exit::Fault(fault.clone()),
                Request::Load(at, len) => {
                    data = buffer(*len);
                    self.guest_read(VirtAddr(*at), &mut data).map_err(|at| (at, 4))
                }
                Request::Store(at, bytes) => self.guest_write(VirtAddr(*at), bytes).map_err(|at| (at, 6)),
                Request::Compute(_) => Ok(()),
            };
            if let Err((at, access)) = result {
                let present = u32::from(self.page(at).is_some());
                let code = if present != 0 { 2 } else { 1 };
                let fault = Fault { vector: 14, error: access | present, addr: at.0, signo: 11, code };
                return Exit::Fault(fault);
            }
            regs.rip = regs.rip.wrapping_add(2);
            thread.answer(regs, data);
        }
    }

    fn access(
        &self,
        at: VirtAddr,
        len: usize,
        need: Prot,
        mut f: impl FnMut(&MockBacking, u64, usize, usize),
    ) -> Result<(), VirtAddr> {
        let inner = lock(&self.inner);
        let mut done = 0;
        while done < len {
            let here = VirtAddr(at.0 + done as u64);
            let piece = ((PAGE_SIZE - here.offset()) as usize).min(len - done);
            match inner.pages.get(&here.page().0) {
                Some((prot, backing)) if prot.contains(need) => f(backing, here.offset(), done, piece),
                _ => return Err(here),
            }
            done += piece;
        }
        Ok(())
    }
}

impl Drop for MockSpace {
    fn drop(&mut self) {
        self.shared.spaces.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Inner {
    /// Guest code opens what lies ready.
    fn open(&mut self, from: u64, to: u64) {
        for (at, (prot, _)) in self.pages.range_mut(from..to) {
            assert!(prot.is_empty(), "what lies ready is there already, at {at:#x}");
            *prot = Prot::READ | Prot::WRITE;
        }
    }

    fn apply(&mut self, op: &MapOp<'_>) {
        let (at, len) = match *op {
            MapOp::Map { at, len, .. } | MapOp::Unmap { at, len } | MapOp::Protect { at, len, .. } => {
                (at, len)
            }
        };
        let end = at.0.checked_add(len).expect("a change beyond the end of the address space");
        assert!(
            at.is_aligned() && len.is_multiple_of(PAGE_SIZE) && len > 0,
            "unaligned change {at:?}+{len:#x}"
        );
        self.ops.push(match *op {
            MapOp::Map { at, len, prot, ref backing, populate } => {
                let backing = match *backing {
                    Backing::Ram(frame) => {
                        assert!(frame.0.is_multiple_of(PAGE_SIZE), "unaligned frame {frame:?}");
                        MockBacking::Ram(frame)
                    }
                    Backing::File { file, offset, shared } => {
                        assert!(offset.is_multiple_of(PAGE_SIZE), "unaligned file offset {offset:#x}");
                        assert!(shared || !prot.contains(Prot::WRITE), "writable private file mapping");
                        let file: &MockFile =
                            file.as_any().downcast_ref().expect("a file of another machine");
                        MockBacking::File { file: file.clone(), offset, shared }
                    }
                };
                let reached = if populate == Populate::Lent { Prot::empty() } else { prot };
                for page in (at.0..end).step_by(PAGE_SIZE as usize) {
                    self.pages.insert(page, (reached, backing.plus(page - at.0)));
                }
                MockOp::Map(MockMapping { at, len, prot, backing }, populate)
            }
            MapOp::Unmap { at, len } => {
                let mut tail = self.pages.split_off(&at.0);
                self.pages.append(&mut tail.split_off(&end));
                MockOp::Unmap(at, len)
            }
            MapOp::Protect { at, len, prot } => {
                let shown = self.pages.range(at.0..end).count() as u64;
                assert_eq!(shown, len / PAGE_SIZE, "a change of rights over a hole at {at:?}+{len:#x}");
                for (_, (old, _)) in self.pages.range_mut(at.0..end) {
                    *old = prot;
                }
                MockOp::Protect(at, len, prot)
            }
        });
    }
}

impl VmSpace for MockSpace {
    fn update(&self, _cpu: CpuId, ops: &[MapOp<'_>]) -> Result<(), SpaceError> {
        let failure = lock(&self.shared.failing_update).take();
        let mut inner = lock(&self.inner);
        for (i, op) in ops.iter().enumerate() {
            if let Some((done, error)) = &failure
                && i >= *done
            {
                return Err(error.clone());
            }
            inner.apply(op);
        }
        match failure {
            Some((_, error)) => Err(error),
            None => Ok(()),
        }
    }

    fn lends(&self) -> bool {
        self.shared.lends
    }

    fn lend(&self, stock: Stock, at: u64, limit: u64) {
        lock(&self.inner).stocks[stock as usize] = Some((at, limit));
    }

    fn lent(&self, stock: Stock) -> Option<u64> {
        lock(&self.inner).stocks[stock as usize].map(|(at, _)| at)
    }

    fn recall(&self, stock: Stock) -> Option<u64> {
        lock(&self.inner).stocks[stock as usize].take().map(|(at, _)| at)
    }

    fn run_beside(&self, cpu: CpuId, ctx: &mut dyn UserContext, meanwhile: &mut dyn FnMut()) -> Exit {
        if self.shared.cpu.take_interrupt(cpu) {
            return Exit::Interrupted;
        }
        meanwhile();
        let ctx: &mut MockContext = ctx.as_any_mut().downcast_mut().expect("a context of another machine");
        let exit = ctx
            .script
            .pop_front()
            .or_else(|| lock(&self.inner).script.pop_front())
            .or_else(|| lock(&self.shared.script).pop_front())
            .unwrap_or_else(|| self.run_code(cpu, ctx));
        if let Exit::Syscall { nr, args, ip } = exit {
            let r = &mut ctx.regs;
            (r.rax, r.rip, r.rcx, r.r11) = (nr, ip, ip, r.eflags);
            [r.rdi, r.rsi, r.rdx, r.r10, r.r8, r.r9] = args;
        }
        exit
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// The registers of a scripted guest thread.
pub struct MockContext {
    shared: Arc<Shared>,
    id: usize,
    regs: Regs,
    fpu: Vec<u8>,
    script: VecDeque<Exit>,
    guest: Option<GuestThread>,
    /// What was offered last.
    stat: Option<StatOffer>,
    views: Views,
    closed: u64,
}

impl MockContext {
    pub(super) fn new(shared: &Arc<Shared>) -> MockContext {
        let id = shared.contexts.fetch_add(1, Ordering::SeqCst);
        MockContext {
            shared: shared.clone(),
            id,
            regs: Regs { eflags: 0x202, ..Regs::default() },
            fpu: Vec::new(),
            script: VecDeque::new(),
            guest: None,
            stat: None,
            views: Views::default(),
            closed: 0,
        }
    }
    /// The mock inside of a [`UserContext`]; panics for a context of another machine.
    pub fn of(ctx: &mut dyn UserContext) -> &mut MockContext {
        ctx.as_any_mut().downcast_mut().expect("a context of another machine")
    }
    /// Its number, from zero in the order of creation; stands in [`super::MockMachine::take_results`].
    pub fn id(&self) -> usize {
        self.id
    }
    /// What [`UserContext::offer_stat`] has offered last.
    pub fn stat(&self) -> Option<&StatOffer> {
        self.stat.as_ref()
    }
    /// What [`UserContext::offer_views`] has offered last.
    pub fn views(&self) -> &Views {
        &self.views
    }
    /// Has [`UserContext::take_closed`] say this.
    pub fn set_closed(&mut self, closed: u64) {
        self.closed = closed;
    }
    /// Adds an exit of this context.
    pub fn push_exit(&mut self, exit: Exit) {
        self.script.push_back(exit);
    }
}

impl UserContext for MockContext {
    fn set_syscall_result(&mut self, value: u64) {
        self.regs.rax = value;
        lock(&self.shared.results).push((self.id, value));
    }
    fn regs(&mut self) -> &mut Regs {
        &mut self.regs
    }
    fn swap_fpu(&mut self, image: &mut Vec<u8>) {
        std::mem::swap(&mut self.fpu, image);
        if self.fpu.len() > FPU_SIZE {
            self.fpu.clear();
        }
    }
    fn offer_stat(&mut self, offer: Option<StatOffer>) {
        self.stat = offer;
    }
    fn offer_views(&mut self, views: Views) {
        self.views = views;
    }
    fn take_closed(&mut self) -> u64 {
        std::mem::take(&mut self.closed)
    }
    fn withdraw(&mut self, at: VirtAddr, len: u64, rights: Prot) -> bool {
        match &mut *lock(&self.shared.withdrawn) {
            Some(list) => {
                list.push((at, len, rights));
                true
            }
            None => false,
        }
    }
    fn duplicate(&mut self) -> Box<dyn UserContext> {
        let mut copy = MockContext::new(&self.shared);
        (copy.regs, copy.fpu) = (self.regs, self.fpu.clone());
        Box::new(copy)
    }
    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }
}
