//! The I/O thread: waits for streams, signals and the alarm timer, records events and interrupts a CPU. It
//! never enters the kernel.

use crate::cpu::{LinuxCpus, lock};
use crate::signals::{self, Signal};
use crate::terminal;
use hal::Event;
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

/// Epoll tokens; streams have 0 to 2.
const TOKEN_STOP: u64 = 10;
const TOKEN_TIMER: u64 = 11;
const TOKEN_SIGNALS: u64 = 12;

/// How often a process in the background looks whether it has come to the foreground: a shell's `fg` tells a job
/// only when it was stopped.
const BACKGROUND_POLL_MS: i32 = 500;

/// Who asks this often for the end does not want to wait for guests any more.
const IMPATIENCE: u32 = 3;

/// Events for the kernel.
pub(crate) struct Events {
    queue: Mutex<VecDeque<Event>>,
    /// Whether the queue has something, so that looking costs no lock.
    some: AtomicBool,
    cpus: Arc<LinuxCpus>,
}

impl Events {
    pub(crate) fn new(cpus: Arc<LinuxCpus>) -> Events {
        Events { queue: Mutex::default(), some: AtomicBool::new(false), cpus }
    }

    /// Records an event, unless the same one is waiting, and interrupts a CPU.
    pub(crate) fn push(&self, event: Event) {
        {
            let mut queue = lock(&self.queue);
            if !queue.contains(&event) {
                queue.push_back(event);
            }
            self.some.store(true, Ordering::SeqCst);
        }
        self.cpus.interrupt_any();
    }

    pub(crate) fn pop(&self) -> Option<Event> {
        if !self.some.load(Ordering::SeqCst) {
            return None;
        }
        let mut queue = lock(&self.queue);
        let event = queue.pop_front();
        self.some.store(!queue.is_empty(), Ordering::SeqCst);
        event
    }
}

/// An epoll descriptor.
pub(crate) struct Poller(OwnedFd);

impl Poller {
    pub(crate) fn new() -> io::Result<Poller> {
        // SAFETY: plain call; the result is checked.
        let fd = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a descriptor that was just made and belongs to nobody else.
        Ok(Poller(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    fn control(&self, op: i32, fd: RawFd, events: i32, token: u64) -> io::Result<()> {
        let mut event = libc::epoll_event { events: events as u32, u64: token };
        // SAFETY: a valid structure.
        match unsafe { libc::epoll_ctl(self.0.as_raw_fd(), op, fd, &mut event) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Watches for good.
    pub(crate) fn add(&self, fd: RawFd, token: u64) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_ADD, fd, libc::EPOLLIN, token)
    }

    /// Watches until the next event; again for the same descriptor changes what for. Fails with `EPERM` for
    /// what is always ready.
    pub(crate) fn once(&self, fd: RawFd, events: i32, token: u64) -> io::Result<()> {
        let events = events | libc::EPOLLONESHOT;
        match self.control(libc::EPOLL_CTL_MOD, fd, events, token) {
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => {
                self.control(libc::EPOLL_CTL_ADD, fd, events, token)
            }
            result => result,
        }
    }
}

/// What the thread needs.
pub(crate) struct IoParts {
    pub(crate) poller: Arc<Poller>,
    pub(crate) events: Arc<Events>,
    pub(crate) cpus: Arc<LinuxCpus>,
    pub(crate) signals: Option<OwnedFd>,
    /// The descriptor of the terminal that is ours when we are in the foreground.
    pub(crate) terminal: Option<RawFd>,
    /// Called when a stream became ready, with its index; says whether the kernel wants to know.
    pub(crate) ready: Box<dyn Fn(usize) -> bool + Send>,
    /// Called when the process came to the terminal's foreground.
    pub(crate) resumed: Box<dyn Fn() + Send>,
}

/// The running thread; stops when dropped.
pub(crate) struct IoThread {
    stop: Arc<OwnedFd>,
    handle: Option<JoinHandle<()>>,
}

impl IoThread {
    pub(crate) fn start(parts: IoParts) -> io::Result<IoThread> {
        // SAFETY: plain call; the result is checked.
        let stop = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if stop < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a descriptor that was just made and belongs to nobody else.
        let stop = Arc::new(unsafe { OwnedFd::from_raw_fd(stop) });
        parts.poller.add(stop.as_raw_fd(), TOKEN_STOP)?;
        parts.poller.add(parts.cpus.timer().as_raw_fd(), TOKEN_TIMER)?;
        if let Some(signals) = &parts.signals {
            parts.poller.add(signals.as_raw_fd(), TOKEN_SIGNALS)?;
        }
        let handle = std::thread::Builder::new()
            .name("io".to_string())
            .stack_size(128 << 10)
            .spawn(move || run(&parts))?;
        Ok(IoThread { stop, handle: Some(handle) })
    }
}

impl IoThread {
    /// Has it end; dropping it waits for that.
    pub(crate) fn stop(&self) {
        let one = 1u64;
        // SAFETY: eight bytes from a local variable.
        unsafe { libc::write(self.stop.as_raw_fd(), ptr::from_ref(&one).cast(), 8) };
    }
}

impl Drop for IoThread {
    fn drop(&mut self) {
        self.stop();
        if let Some(handle) = self.handle.take() {
            let _ = handle.join();
        }
    }
}

fn run(parts: &IoParts) {
    let mut terminations = 0;
    let mut found = [libc::epoll_event { events: 0, u64: 0 }; 8];
    loop {
        let timeout = match parts.terminal {
            Some(_) if !terminal::is_raw() => BACKGROUND_POLL_MS,
            _ => -1,
        };
        // SAFETY: the buffer has the length that is given.
        let count = unsafe {
            libc::epoll_wait(parts.poller.0.as_raw_fd(), found.as_mut_ptr(), found.len() as i32, timeout)
        };
        if count == 0 {
            handle(parts, Signal::Continue, &mut terminations);
        }
        // An error is EINTR, from a stop and continue of the process.
        for event in found.iter().take(usize::try_from(count).unwrap_or(0)) {
            match event.u64 {
                TOKEN_STOP => return,
                TOKEN_TIMER => parts.cpus.ring(),
                TOKEN_SIGNALS => {
                    while let Some(signal) = parts.signals.as_ref().and_then(signals::next) {
                        handle(parts, signal, &mut terminations);
                    }
                }
                index => {
                    if (parts.ready)(index as usize) {
                        parts.events.push(Event::Stream(index as usize));
                    }
                }
            }
        }
    }
}

fn handle(parts: &IoParts, signal: Signal, terminations: &mut u32) {
    match signal {
        Signal::Terminate(n) => {
            *terminations += 1;
            if *terminations >= IMPATIENCE {
                terminal::restore();
                // SAFETY: ends the process at once; the stubs die with it.
                unsafe { libc::_exit(128 + n) };
            }
            parts.events.push(Event::Terminate(n));
        }
        Signal::WindowSize => parts.events.push(Event::WindowSize),
        Signal::Stop => {
            terminal::restore();
            // SAFETY: plain call; the process stands still until it is continued.
            unsafe { libc::kill(libc::getpid(), libc::SIGSTOP) };
        }
        Signal::Continue => {
            if let Some(fd) = parts.terminal
                && terminal::enter_raw(fd)
            {
                (parts.resumed)();
                // It may have changed while somebody else had the terminal.
                parts.events.push(Event::WindowSize);
            }
        }
    }
}
