//! The machine as one object, and starting it.
//!
//! Start: descriptors limit and umask, signals blocked (before any thread), RAM, CPUs, streams, terminal, address-space
//! engine, I/O thread. Every reason not to start is collected, so that the user sees all of them at once.

use crate::cpu::{LinuxCpus, host_cpus, now_ns};
use crate::fiber::LinuxFibers;
use crate::hostfs::LinuxFs;
use crate::io::{Events, IoParts, IoThread, Poller};
use crate::ram::{self, LinuxRam};
use crate::space::Spaces;
use crate::stream::LinuxStream;
use crate::{cpu::lock, cpuid, info, signals, terminal};
use hal::{
    ClockId, Cpu, CpuId, CpuidAnswer, Event, Fibers, HostFs, LogLevel, Machine, PAGE_SIZE, Ram, SpaceError,
    Stream, StreamKind, UserContext, VmSpace,
};
use std::error::Error;
use std::fmt;
use std::io::{self, Write};
use std::os::fd::RawFd;
use std::sync::{Arc, Mutex, OnceLock};

/// What the machine is to be.
#[derive(Clone, Debug)]
pub struct Config {
    /// Size of RAM in bytes, a multiple of the page size.
    pub memory_bytes: u64,
    /// Number of virtual CPUs; 0 for as many as the process may use.
    pub cpus: usize,
    /// Least important level that is logged to standard error.
    pub log_level: LogLevel,
    /// Take over the process's signals and the terminal, as a program does and a test must not.
    pub own_process: bool,
}

/// Why the machine could not be started: one line per independent reason, each says what to do.
#[derive(Clone, Debug, Default)]
pub struct StartError {
    /// The reasons.
    pub lines: Vec<String>,
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.lines.join("\n"))
    }
}

impl Error for StartError {}

impl StartError {
    /// The value, or `None` and one more line.
    fn note<T, E>(&mut self, result: Result<T, E>, line: impl FnOnce(E) -> String) -> Option<T> {
        result.map_err(|e| self.lines.push(line(e))).ok()
    }
}

/// A machine that is this process.
pub struct LinuxMachine {
    ram: LinuxRam,
    cpus: Arc<LinuxCpus>,
    fibers: LinuxFibers,
    fs: LinuxFs,
    streams: Arc<[Arc<LinuxStream>; 3]>,
    events: Arc<Events>,
    spaces: Spaces,
    log_level: LogLevel,
    vdso_image: OnceLock<Vec<u8>>,
    cpuid: OnceLock<Vec<CpuidAnswer>>,
    io: Mutex<Option<IoThread>>,
}

impl LinuxMachine {
    /// Starts it. Call it on a thread that lives as long as the machine is used, before other threads are
    /// started: stubs die with that thread, and signals are blocked in threads that are started later.
    pub fn new(config: &Config) -> Result<Arc<LinuxMachine>, StartError> {
        let mut failed = StartError::default();
        prepare_process();
        let signals = match config.own_process {
            true => failed.note(signals::take_over(), |e| format!("cannot receive signals: {e}")),
            false => None,
        };
        let size = config.memory_bytes.next_multiple_of(PAGE_SIZE);
        let ram = failed.note(LinuxRam::new(size), |e| ram::explain(&e, size));
        let count = if config.cpus == 0 { host_cpus().len().min(Spaces::max_cpus()) } else { config.cpus };
        if count > Spaces::max_cpus() {
            let most = Spaces::max_cpus();
            failed.lines.push(format!("{count} virtual CPUs are too many: use at most --cpus {most}"));
        }
        let cpus = failed.note(LinuxCpus::new(count), |e| format!("cannot make a timer: {e}")).map(Arc::new);
        let fs = failed.note(LinuxFs::new(), |e| {
            format!("cannot open /proc/self/fd ({e}): vkernel needs /proc mounted")
        });
        let poller = failed.note(Poller::new(), |e| format!("cannot wait for input: {e}")).map(Arc::new);
        let spaces = match &ram {
            Some(ram) => failed.note(Spaces::begin(ram), |e| e),
            None => None,
        };
        let (Some(ram), Some(cpus), Some(fs), Some(poller), Some(spaces)) = (ram, cpus, fs, poller, spaces)
        else {
            return Err(failed);
        };
        let events = Arc::new(Events::new(cpus.clone()));
        fs.tell(events.clone());
        let (streams, terminal) = open_streams(config.own_process, &poller, &events);
        let (ready, resumed) = (streams.clone(), streams.clone());
        let io = IoThread::start(IoParts {
            poller,
            events: events.clone(),
            cpus: cpus.clone(),
            signals,
            terminal,
            ready: Box::new(move |index| ready.get(index).is_some_and(|s| s.fired())),
            resumed: Box::new(move || resumed.iter().for_each(|s| s.resumed())),
        });
        let io = failed.note(io, |e| format!("cannot start the I/O thread: {e}"));
        let spaces = failed.note(spaces.finish(), |e| e);
        let (Some(io), Some(spaces), true) = (io, spaces, failed.lines.is_empty()) else {
            terminal::restore();
            return Err(failed);
        };
        Ok(Arc::new(LinuxMachine {
            ram,
            cpus,
            fibers: LinuxFibers::new(),
            fs,
            streams,
            events,
            spaces,
            log_level: config.log_level,
            vdso_image: OnceLock::new(),
            cpuid: OnceLock::new(),
            io: Mutex::new(Some(io)),
        }))
    }

    /// Gives each virtual CPU's thread to `body`; returns when all have returned.
    pub fn run_cpus(&self, body: impl Fn(CpuId) + Sync) -> io::Result<()> {
        self.cpus.run(body)
    }

    /// Ends what the process has besides memory: the I/O thread, the terminal's raw mode, the stubs.
    /// Repeatable. No CPU may run any more.
    pub fn shutdown(&self) {
        let io = lock(&self.io).take();
        io.iter().for_each(IoThread::stop);
        self.spaces.shutdown();
        drop(io);
        terminal::restore();
    }
}

impl Drop for LinuxMachine {
    fn drop(&mut self) {
        self.shutdown();
    }
}

/// Process attributes that the host's side of the kernel relies on.
fn prepare_process() {
    // Modes of created files are the kernel's business.
    // SAFETY: plain calls.
    unsafe {
        libc::umask(0);
        let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // Every host inode that the kernel knows is a descriptor.
        if libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) == 0 && limit.rlim_cur < limit.rlim_max {
            limit.rlim_cur = limit.rlim_max;
            libc::setrlimit(libc::RLIMIT_NOFILE, &limit);
        }
        // RAM is a file. Guests have limits of their own.
        let none = libc::rlimit { rlim_cur: libc::RLIM_INFINITY, rlim_max: libc::RLIM_INFINITY };
        if libc::setrlimit(libc::RLIMIT_FSIZE, &none) != 0
            && libc::getrlimit(libc::RLIMIT_FSIZE, &mut limit) == 0
        {
            limit.rlim_cur = limit.rlim_max;
            libc::setrlimit(libc::RLIMIT_FSIZE, &limit);
        }
    }
}

type Streams = Arc<[Arc<LinuxStream>; 3]>;

fn open_streams(own_process: bool, poller: &Arc<Poller>, events: &Arc<Events>) -> (Streams, Option<RawFd>) {
    let open = |i: usize| LinuxStream::new(i, i as RawFd, poller.clone(), events.clone());
    let mut streams = [open(0), open(1), open(2)];
    let is_tty = |s: &LinuxStream| s.kind() == StreamKind::Terminal;
    // Whoever reads our output from a pipe may be using the terminal.
    let left_to_others = !own_process || streams[1].kind() == StreamKind::Pipe;
    let terminal = match left_to_others {
        true => None,
        false => (0..2).find(|i| is_tty(&streams[*i])).map(|i| i as RawFd),
    };
    match terminal {
        Some(fd) => {
            terminal::enter_raw(fd);
        }
        None if is_tty(&streams[0]) => streams[0].treat_as_pipe(),
        None => {}
    }
    (Arc::new(streams.map(Arc::new)), terminal)
}

fn level_name(level: LogLevel) -> &'static str {
    match level {
        LogLevel::Error => "error",
        LogLevel::Warn => "warning",
        LogLevel::Info => "info",
        LogLevel::Debug => "debug",
        LogLevel::Trace => "trace",
    }
}

impl Machine for LinuxMachine {
    fn ram(&self) -> &dyn Ram {
        &self.ram
    }
    fn cpu(&self) -> &dyn Cpu {
        &*self.cpus
    }
    fn fibers(&self) -> &dyn Fibers {
        &self.fibers
    }
    fn clock_ns(&self, clock: ClockId) -> u64 {
        now_ns(match clock {
            ClockId::Monotonic => libc::CLOCK_MONOTONIC,
            ClockId::Realtime => libc::CLOCK_REALTIME,
            ClockId::MonotonicRaw => libc::CLOCK_MONOTONIC_RAW,
            ClockId::RealtimeCoarse => libc::CLOCK_REALTIME_COARSE,
            ClockId::MonotonicCoarse => libc::CLOCK_MONOTONIC_COARSE,
            ClockId::Boottime => libc::CLOCK_BOOTTIME,
            ClockId::Tai => libc::CLOCK_TAI,
        })
    }
    fn new_space(&self) -> Result<Arc<dyn VmSpace>, SpaceError> {
        self.spaces.create(&self.cpus, None)
    }
    fn new_copy(&self, original: &dyn VmSpace) -> Result<Arc<dyn VmSpace>, SpaceError> {
        self.spaces.create(&self.cpus, Some(original))
    }
    fn tidy(&self) {
        self.spaces.tidy();
    }
    fn new_context(&self) -> Box<dyn UserContext> {
        self.spaces.context()
    }
    fn user_limit(&self) -> u64 {
        self.spaces.user_limit()
    }
    fn gate(&self) -> Option<u64> {
        self.spaces.gate()
    }

    fn offers_version(&self) -> u64 {
        self.spaces.offers_version()
    }
    fn recall_offers(&self) {
        self.spaces.recall_offers();
    }
    fn vdso(&self) -> Option<u64> {
        self.spaces.vdso()
    }
    fn vdso_image(&self) -> &[u8] {
        // Every process of the host has the same.
        self.vdso_image.get_or_init(info::vdso_image)
    }
    fn cpuid(&self) -> &[CpuidAnswer] {
        self.cpuid.get_or_init(cpuid::answers)
    }
    fn hwcap(&self) -> (u64, u64) {
        info::hwcap()
    }
    fn fpu_size(&self) -> usize {
        self.spaces.fpu_size()
    }
    fn entropy(&self, buf: &mut [u8]) {
        info::entropy(buf);
    }
    fn stream(&self, index: usize) -> Option<Arc<dyn Stream>> {
        self.streams.get(index).map(|s| s.clone() as Arc<dyn Stream>)
    }
    fn host_fs(&self) -> Option<&dyn HostFs> {
        Some(&self.fs)
    }
    fn next_event(&self) -> Option<Event> {
        self.events.pop()
    }
    fn log(&self, level: LogLevel, line: &str) {
        if !self.log_enabled(level) {
            return;
        }
        // A raw terminal needs the carriage return.
        let end = if terminal::is_raw() { "\r\n" } else { "\n" };
        let text = format!("vkernel: {}: {}{end}", level_name(level), line.trim_end().replace('\n', end));
        // One write per line, so that lines stay whole. Nobody can be told when it fails.
        let _ = io::stderr().write_all(text.as_bytes());
    }
    fn log_enabled(&self, level: LogLevel) -> bool {
        level <= self.log_level
    }
    fn cpu_info(&self) -> String {
        info::cpu_info()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(memory_bytes: u64) -> Config {
        Config { memory_bytes, cpus: 2, log_level: LogLevel::Error, own_process: false }
    }

    #[test]
    fn a_machine_starts_and_several_live_side_by_side() {
        let machines: Vec<_> = (0..3).map(|_| LinuxMachine::new(&config(16 << 20)).unwrap()).collect();
        for m in &machines {
            assert_eq!((m.ram().size(), m.cpu().count()), (16 << 20, 2));
            let ns = m.clock_ns(ClockId::Monotonic);
            assert!(m.clock_ns(ClockId::Monotonic) >= ns);
            assert!(m.clock_ns(ClockId::Realtime) > 1_600_000_000_000_000_000);
            let (mut a, mut b) = ([0; 32], [0; 32]);
            m.entropy(&mut a);
            m.entropy(&mut b);
            assert_ne!(a, b);
            assert!(m.cpu_info().contains("flags"));
            assert!(m.host_fs().unwrap().open_path("/").is_ok());
            assert!(m.next_event().is_none());
            m.run_cpus(|cpu| m.cpu().idle(cpu, Some(0))).unwrap();
            m.shutdown();
        }
    }

    #[test]
    fn an_impossible_machine_is_one_clear_line() {
        let error = LinuxMachine::new(&config(1 << 55)).err().unwrap();
        assert_eq!(error.lines.len(), 1, "{error}");
        assert!(error.to_string().contains("--memory"), "{error}");
    }
}
