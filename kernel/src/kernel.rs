//! The kernel object.

use crate::config::{Config, StartError};
use crate::fs::pseudo::Tree;
use crate::mm::Frames;
use crate::sched::Scheduler;
use crate::sync::Mutex;
use crate::task::{ExitStatus, Pids, Task};
use crate::tty::Terminals;
use abi::time::Timespec;
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use core::sync::atomic::{AtomicU64, Ordering};
use hal::{ClockId, CpuId, LogLevel, Machine};

/// Ends the kernel when its processes took too long to end by themselves.
struct EndKernel {
    kernel: alloc::sync::Weak<Kernel>,
    signo: i32,
}

impl crate::time::TimerHook for EndKernel {
    fn fire(&self, _now_ns: u64) {
        if let Some(kernel) = self.kernel.upgrade() {
            kernel.finish(Ok(ExitStatus::Signaled { signo: self.signo, core: false }));
        }
    }
}

/// One kernel. Everything that runs in it holds an `Arc` of it or borrows it through [`crate::task::Cx`].
pub struct Kernel {
    /// The machine below.
    pub machine: Arc<dyn Machine>,
    /// Run queues and timers.
    pub sched: Arc<Scheduler>,
    /// RAM.
    pub frames: Arc<Frames>,
    /// Tasks and processes by id.
    pub pids: Pids,
    /// Names, mounts and devices.
    pub vfs: crate::fs::Vfs,
    /// How it was configured.
    pub config: Config,
    /// Host name and domain name (`uname(2)`), which `sethostname(2)` may change.
    pub names: Mutex<(String, String)>,
    /// FIFOs, epoll, standard streams.
    pub ipc: crate::ipc::IpcState,
    /// Who waits on futexes.
    pub(crate) futexes: crate::ipc::futex::Futexes,
    /// Entries of `/proc`; register more here.
    pub proc: Tree,
    /// Entries of `/sys`; register more here.
    pub sys: Tree,
    /// Terminals.
    pub terminals: Terminals,
    /// System V IPC.
    pub sysv: crate::ipc::sysv::SysV,
    /// POSIX message queues.
    pub mqueues: crate::ipc::mqueue::MessageQueues,
    /// inotify's watches.
    pub watches: Arc<crate::ipc::Watches>,
    /// File locks.
    pub locks: Arc<crate::fs::lock::LockTable>,
    /// Sockets: the protocol families.
    pub net: crate::net::Families,
    /// What is known of the code that programs begin with.
    pub(crate) programs: crate::mm::Programs,
    ids: AtomicU64,
    status: Mutex<Option<Result<ExitStatus, StartError>>>,
    terminating: core::sync::atomic::AtomicBool,
    /// Settings of `/proc/sys`.
    pub settings: crate::settings::Settings,
    /// Number of open file descriptions.
    pub(crate) open_files: Arc<AtomicU64>,
    /// Numbers of unimplemented calls that were logged already.
    pub(crate) missing_logged: Mutex<alloc::collections::BTreeSet<u64>>,
}

impl Kernel {
    /// Whether system-call sites are patched and calls may be answered without the kernel.
    pub(crate) fn patches(&self) -> bool {
        self.config.patch && !self.config.strace
    }

    /// A kernel on a machine. Nothing runs until [`Kernel::start`] and [`Kernel::run_cpu`].
    pub fn new(machine: Arc<dyn Machine>, config: Config) -> Arc<Kernel> {
        let names = Mutex::new((config.hostname.clone(), String::from("(none)")));
        let now = Timespec::from_ns(machine.clock_ns(ClockId::Realtime));
        let frames = Frames::new(machine.clone());
        // The records and stacks of all tasks must fit beside the guests.
        let max_tasks = (frames.total() / 4).clamp(512, 1 << 20);
        Arc::new(Kernel {
            sched: Scheduler::new(machine.clone()),
            settings: crate::settings::Settings::new(max_tasks),
            open_files: Default::default(),
            pids: Pids::default(),
            vfs: crate::fs::Vfs::default(),
            config,
            names,
            ipc: Default::default(),
            futexes: Default::default(),
            proc: crate::fs::procfs::tree(now),
            sys: crate::fs::sysfs::tree(now, machine.cpu().count()),
            terminals: Terminals::default(),
            sysv: Default::default(),
            mqueues: Default::default(),
            watches: Default::default(),
            locks: crate::fs::lock::LockTable::new(),
            net: crate::net::Families::new(&frames),
            frames,
            programs: Default::default(),
            ids: AtomicU64::new(1),
            status: Mutex::new(None),
            terminating: Default::default(),
            missing_logged: Mutex::new(Default::default()),
            machine,
        })
    }

    /// A number that no other caller gets: inode numbers of pipes, ids of open files.
    pub fn next_id(&self) -> u64 {
        self.ids.fetch_add(1, Ordering::Relaxed)
    }

    /// The scheduler loop of a virtual CPU. Returns when the kernel has ended. Call it once for each CPU, each time on a thread of its own.
    pub fn run_cpu(self: &Arc<Kernel>, cpu: CpuId) {
        crate::sched::run_cpu(self, cpu);
    }

    /// Whether this is the process whose end is the kernel's.
    pub(crate) fn is_main(&self, process: &crate::task::Process) -> bool {
        process.pid == 2
    }

    /// Drops every task, suspended ones by unwinding their stacks. For the owner, after the CPUs' loops have returned.
    pub fn shutdown(&self) {
        let mut tasks: alloc::vec::Vec<_> = self.pids.drain();
        // Those that have left the tables but not the CPU are in queues only.
        tasks.extend(self.sched.drain());
        for task in &tasks {
            let fiber = task.fiber.lock().take();
            drop(fiber);
        }
    }

    /// How the first process ended; `None` while it runs.
    pub fn exit_status(&self) -> Option<Result<ExitStatus, StartError>> {
        self.status.lock().clone()
    }

    /// Ends the kernel with this outcome; the first call counts.
    pub(crate) fn finish(&self, outcome: Result<ExitStatus, StartError>) {
        self.status.lock().get_or_insert(outcome);
        self.sched.stop();
    }

    /// Looks at timers and at what happened outside. Called by each CPU's loop and before guest code runs.
    pub(crate) fn poll_machine(self: &Arc<Kernel>, now_ns: u64) {
        self.sched.in_events(true);
        self.sched.timers.run(now_ns);
        while let Some(event) = self.machine.next_event() {
            self.handle_event(event);
        }
        self.sched.in_events(false);
    }

    fn handle_event(self: &Arc<Kernel>, event: hal::Event) {
        match event {
            hal::Event::Stream(index) => {
                self.ipc.stream_ready(index);
                crate::tty::console_ready(self);
            }
            hal::Event::Transferred(id) => self.transferred(id),
            hal::Event::WindowSize => crate::tty::window_changed(self),
            hal::Event::Terminate(signo) => self.terminate(signo),
        }
    }

    /// The outside asks for an end: every process gets the signal now, and the kernel ends after a grace period or with the first
    /// process. A second request ends it at once.
    fn terminate(self: &Arc<Kernel>, signo: i32) {
        const GRACE_NS: u64 = 2_000_000_000;
        let killed = ExitStatus::Signaled { signo, core: false };
        if self.terminating.swap(true, Ordering::SeqCst) {
            return self.finish(Ok(killed));
        }
        for process in self.pids.processes() {
            process.send_signal(crate::signal::SigInfo::kernel(signo));
            process.send_signal(crate::signal::SigInfo::kernel(crate::signal::sig::CONT));
        }
        let end = EndKernel { kernel: Arc::downgrade(self), signo };
        self.sched.timers.add(self.sched.now_ns() + GRACE_NS, Arc::new(end));
    }

    /// A panic in kernel code on behalf of `task`: reported, and the process dies.
    pub(crate) fn oops(self: &Arc<Kernel>, task: &Arc<Task>, message: &str) {
        let name = String::from_utf8_lossy(&task.name.lock()).into_owned();
        let nr = task.in_syscall.load(Ordering::Relaxed);
        let call = crate::syscall::name_of(nr).unwrap_or("none");
        self.log(
            LogLevel::Error,
            &format!("oops: task {} ({name}), system call {call}: {message}", task.tid()),
        );
        crate::task::exit::after_oops(self, task);
    }

    /// A log line.
    pub fn log(&self, level: LogLevel, line: &str) {
        if self.machine.log_enabled(level) {
            self.machine.log(level, line);
        }
    }
}
