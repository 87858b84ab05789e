//! A deterministic machine for tests: no host threads run at the same time unless the test starts them,
//! time moves only when told or when every CPU is idle, guests are scripts, the host's files are a tree in
//! memory, and every part can be told to fail.
//!
//! Key types: [`MockMachine`] (made by [`MockBuilder`]), [`MockSpace`], [`MockContext`], [`MockFs`],
//! [`MockStream`]. Lock order: no lock of this module is held while another is taken, except that a space's
//! lock may be held while RAM is.

mod cpu;
mod fiber;
mod file;
mod guest;
mod hostfs;
mod node;
mod ram;
mod space;
mod stream;

pub use cpu::MockCpu;
pub use fiber::MockFibers;
pub use file::MockFile;
pub use guest::Guest;
pub use hostfs::{HostOp, MockFs};
pub use node::MockNode;
pub use ram::MockRam;
pub use space::{MockBacking, MockContext, MockMapping, MockOp, MockSpace, Withdrawn};
pub use stream::MockStream;

use crate::{
    ClockId, Cpu, CpuId, CpuidAnswer, Event, Exit, Fibers, HostFs, LogLevel, Machine, Ram, SpaceError,
    Stream, UserContext, VmSpace,
};
use core::sync::atomic::{AtomicU64, Ordering};
use space::Shared;
use std::boxed::Box;
use std::collections::VecDeque;
use std::string::String;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::vec::Vec;

/// Locks even when a test panicked with the lock held: the data are plain values.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Makes a [`MockMachine`].
#[derive(Debug)]
pub struct MockBuilder {
    memory: u64,
    cpus: usize,
    realtime_ns: u64,
    seed: u64,
    wait_for_outside: bool,
    log_level: LogLevel,
    vdso: Option<u64>,
    vdso_image: Vec<u8>,
    gate: Option<u64>,
    cpuid: Vec<CpuidAnswer>,
    host_fs: bool,
}

impl Default for MockBuilder {
    fn default() -> Self {
        MockBuilder {
            memory: 64 << 20,
            cpus: 1,
            realtime_ns: 1_700_000_000_000_000_000,
            seed: 1,
            wait_for_outside: false,
            log_level: LogLevel::Trace,
            vdso: None,
            vdso_image: Vec::new(),
            gate: None,
            cpuid: Vec::new(),
            host_fs: true,
        }
    }
}

impl MockBuilder {
    /// Size of RAM in bytes, rounded up to pages; 64 MiB if not said. Only what is written takes host memory.
    pub fn memory(mut self, bytes: u64) -> Self {
        self.memory = bytes;
        self
    }
    /// Number of virtual CPUs; 1 if not said.
    pub fn cpus(mut self, count: usize) -> Self {
        self.cpus = count.max(1);
        self
    }
    /// The real-time clock at monotonic time zero, in nanoseconds.
    pub fn realtime_ns(mut self, ns: u64) -> Self {
        self.realtime_ns = ns;
        self
    }
    /// Seed of [`Machine::entropy`]; the same seed gives the same bytes.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }
    /// When every CPU is idle without a deadline: wait for another host thread to interrupt one. Without this
    /// such a CPU panics, so that a test fails instead of hanging.
    pub fn wait_for_outside(mut self) -> Self {
        self.wait_for_outside = true;
        self
    }
    /// Least important level that the captured log keeps; everything if not said.
    pub fn log_level(mut self, level: LogLevel) -> Self {
        self.log_level = level;
        self
    }
    /// What [`Machine::vdso`] says.
    pub fn vdso(mut self, at: Option<u64>) -> Self {
        self.vdso = at;
        self
    }
    /// What [`Machine::vdso_image`] says.
    pub fn vdso_image(mut self, image: &[u8]) -> Self {
        self.vdso_image = image.to_vec();
        self
    }
    /// What [`Machine::gate`] says. Then memory is lent, too.
    pub fn gate(mut self, at: u64) -> Self {
        self.gate = Some(at);
        self
    }
    /// What [`Machine::cpuid`] says.
    pub fn cpuid(mut self, answers: &[CpuidAnswer]) -> Self {
        self.cpuid = answers.to_vec();
        self
    }
    /// A machine without host files.
    pub fn without_host_fs(mut self) -> Self {
        self.host_fs = false;
        self
    }
    /// The machine.
    pub fn build(self) -> Arc<MockMachine> {
        let ram = Arc::new(MockRam::new(self.memory));
        let cpu = Arc::new(MockCpu::new(self.cpus, self.wait_for_outside));
        let events = Arc::new(Mutex::new(VecDeque::new()));
        let streams = core::array::from_fn(|i| Arc::new(MockStream::new(i, events.clone(), cpu.clone())));
        let outside = hostfs::Outside { events: events.clone(), cpu: cpu.clone() };
        Arc::new(MockMachine {
            recalls: AtomicU64::new(0),
            shared: Arc::new(Shared::new(ram.clone(), cpu.clone(), self.gate.is_some())),
            ram,
            cpu,
            fibers: MockFibers::default(),
            fs: MockFs::new(outside),
            streams,
            events,
            log: Mutex::new(Vec::new()),
            entropy: Mutex::new(self.seed),
            realtime_ns: Mutex::new(self.realtime_ns),
            config: self,
        })
    }
}

/// The machine. See the module's head.
pub struct MockMachine {
    ram: Arc<MockRam>,
    cpu: Arc<MockCpu>,
    fibers: MockFibers,
    fs: Arc<MockFs>,
    streams: [Arc<MockStream>; 3],
    events: Arc<Mutex<VecDeque<Event>>>,
    log: Mutex<Vec<(LogLevel, String)>>,
    entropy: Mutex<u64>,
    realtime_ns: Mutex<u64>,
    recalls: AtomicU64,
    shared: Arc<Shared>,
    config: MockBuilder,
}

impl MockMachine {
    /// One CPU, 64 MiB.
    #[allow(clippy::new_ret_no_self)]
    pub fn new() -> Arc<MockMachine> {
        MockBuilder::default().build()
    }
    /// To choose otherwise.
    pub fn builder() -> MockBuilder {
        MockBuilder::default()
    }
    /// Calls `body` once per CPU on a host thread each, as a host does, and returns when all have returned. A
    /// CPU that has returned counts as idle for the clock.
    pub fn run_cpus(&self, body: impl Fn(CpuId) + Sync) {
        self.cpu.start_all();
        thread::scope(|scope| {
            for cpu in 0..self.cpu.count() {
                let body = &body;
                scope.spawn(move || {
                    let _leave = cpu::Leave::new(&self.cpu, CpuId(cpu));
                    cpu::set_current(CpuId(cpu));
                    body(CpuId(cpu));
                });
            }
        });
    }
    /// The RAM with its own type.
    pub fn mock_ram(&self) -> &MockRam {
        &self.ram
    }
    /// The CPUs with their own type.
    pub fn mock_cpu(&self) -> &MockCpu {
        &self.cpu
    }
    /// The fibers with their own type.
    pub fn mock_fibers(&self) -> &MockFibers {
        &self.fibers
    }
    /// The host's files with their own type.
    pub fn mock_fs(&self) -> &Arc<MockFs> {
        &self.fs
    }
    /// A standard stream with its own type (index 0 to 2).
    pub fn mock_stream(&self, index: usize) -> &Arc<MockStream> {
        &self.streams[index]
    }
    /// Moves both clocks forward; alarms and deadlines on the way are served.
    pub fn advance(&self, ns: u64) {
        self.cpu.advance(ns);
    }
    /// Says whom the host CPU of a CPU works for while that is idle.
    pub fn lend(&self, cpu: CpuId, to: Option<CpuId>) {
        self.cpu.lend(cpu, to);
    }
    /// Sets the real-time clock.
    pub fn set_realtime(&self, ns: u64) {
        *lock(&self.realtime_ns) = ns.saturating_sub(self.cpu.now());
    }
    /// Records an event and interrupts CPU 0.
    pub fn raise(&self, event: Event) {
        lock(&self.events).push_back(event);
        self.cpu.interrupt(CpuId(0));
    }
    /// Adds an exit that any context returns once its own and its space's scripts are used up.
    pub fn push_exit(&self, exit: Exit) {
        self.shared.push_exit(exit);
    }
    /// Puts code at a guest address: a context that runs there and has no script executes it, a program's entry point
    /// as well as a signal handler.
    pub fn code(&self, at: u64, code: impl Fn(&mut Guest) + Send + Sync + 'static) {
        self.shared.code().insert(at, Arc::new(code));
    }
    /// Makes the next [`VmSpace::update`] in any space do nothing and fail.
    pub fn fail_next_update(&self, error: SpaceError) {
        self.shared.fail_update(0, error);
    }
    /// Makes the next [`VmSpace::update`] in any space fail after `done` of its changes.
    pub fn fail_next_update_after(&self, done: usize, error: SpaceError) {
        self.shared.fail_update(done, error);
    }
    /// Makes the next [`Machine::new_space`] fail.
    pub fn fail_next_space(&self, error: SpaceError) {
        self.shared.fail_space(error);
    }
    /// What [`UserContext::set_syscall_result`] was called with, in order: context id and value. Emptied.
    pub fn take_results(&self) -> Vec<(usize, u64)> {
        self.shared.take_results()
    }
    /// What contexts were told to take rights from since this was asked last, which they do from the first time on; the mock's address spaces stay as they are.
    pub fn take_withdrawn(&self) -> Vec<Withdrawn> {
        self.shared.take_withdrawn()
    }
    /// Number of address spaces that have not been dropped.
    pub fn live_spaces(&self) -> usize {
        self.shared.live_spaces()
    }
    /// The log so far. Emptied.
    pub fn take_log(&self) -> Vec<(LogLevel, String)> {
        core::mem::take(&mut lock(&self.log))
    }
}

/// How far its boot-time clock is ahead of the monotonic one.
const SUSPENDED_NS: u64 = 5_000_000_000;

impl Machine for MockMachine {
    fn ram(&self) -> &dyn Ram {
        &*self.ram
    }
    fn cpu(&self) -> &dyn Cpu {
        &*self.cpu
    }
    fn fibers(&self) -> &dyn Fibers {
        &self.fibers
    }
    fn clock_ns(&self, clock: ClockId) -> u64 {
        match clock {
            ClockId::Monotonic | ClockId::MonotonicRaw | ClockId::MonotonicCoarse => self.cpu.now(),
            // It has been suspended for a while.
            ClockId::Boottime => self.cpu.now() + SUSPENDED_NS,
            ClockId::Realtime | ClockId::RealtimeCoarse | ClockId::Tai => {
                lock(&self.realtime_ns).saturating_add(self.cpu.now())
            }
        }
    }
    fn new_space(&self) -> Result<Arc<dyn VmSpace>, SpaceError> {
        Ok(MockSpace::create(&self.shared)?)
    }
    fn new_context(&self) -> Box<dyn UserContext> {
        Box::new(MockContext::new(&self.shared))
    }
    fn user_limit(&self) -> u64 {
        0x7fff_ffe0_0000
    }
    fn vdso(&self) -> Option<u64> {
        self.config.vdso
    }
    fn vdso_image(&self) -> &[u8] {
        &self.config.vdso_image
    }
    fn gate(&self) -> Option<u64> {
        self.config.gate
    }
    fn offers_version(&self) -> u64 {
        self.recalls.load(Ordering::SeqCst)
    }
    fn recall_offers(&self) {
        self.recalls.fetch_add(1, Ordering::SeqCst);
    }
    fn cpuid(&self) -> &[CpuidAnswer] {
        &self.config.cpuid
    }
    fn hwcap(&self) -> (u64, u64) {
        (0x178b_fbff, 2)
    }
    fn fpu_size(&self) -> usize {
        space::FPU_SIZE
    }
    fn entropy(&self, buf: &mut [u8]) {
        let mut state = lock(&self.entropy);
        for byte in buf {
            // SplitMix64: every seed gives a full-period, well-mixed sequence.
            *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = *state;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            *byte = (z ^ (z >> 31)) as u8;
        }
    }
    fn stream(&self, index: usize) -> Option<Arc<dyn Stream>> {
        self.streams.get(index).map(|s| s.clone() as Arc<dyn Stream>)
    }
    fn host_fs(&self) -> Option<&dyn HostFs> {
        self.config.host_fs.then_some(&*self.fs as &dyn HostFs)
    }
    fn next_event(&self) -> Option<Event> {
        lock(&self.events).pop_front()
    }
    fn log(&self, level: LogLevel, line: &str) {
        if self.log_enabled(level) {
            lock(&self.log).push((level, line.into()));
        }
    }
    fn log_enabled(&self, level: LogLevel) -> bool {
        level <= self.config.log_level
    }
    fn cpu_info(&self) -> String {
        "vendor_id\t: Mock\nmodel name\t: Mock CPU\nflags\t\t: fpu sse sse2\n".into()
    }
}

#[cfg(test)]
mod tests;
