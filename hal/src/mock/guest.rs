//! Guests as Rust closures: "code" that sits at a guest address, makes system calls, loads and stores through
//! the space's mappings (faulting as hardware does), and can be redirected by the kernel to signal handlers
//! or a new program.
//!
//! A guest's code runs on a thread of its own with strict hand-over: it runs only while [`crate::VmSpace::run`] of
//! its context waits for it. Every operation has an instruction address of its own. When the kernel resumes a
//! context somewhere else, the closure at that address is called on top, as a signal handler is; when it returns, the
//! return address is popped from the guest's stack and control goes there.

use super::lock;
use super::space::Shared;
use crate::{Fault, Regs};
use core::sync::atomic::{AtomicU64, Ordering};
use std::boxed::Box;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::vec;
use std::vec::Vec;

/// Code that can be called again and again.
pub(super) type Code = Arc<dyn Fn(&mut Guest) + Send + Sync>;
/// What the child of a fork runs, once.
type Once = Box<dyn FnOnce(&mut Guest) + Send>;

/// Where operations get their addresses: out of the way of what tests choose.
const FIRST_IP: u64 = 0x5000_0000_0000;
/// Bytes per operation; the instruction itself has two, as `syscall` has.
const STEP: u64 = 16;

/// All code of a machine.
pub(super) struct CodeMap {
    code: Mutex<BTreeMap<u64, Code>>,
    once: Mutex<BTreeMap<u64, Once>>,
    next_ip: AtomicU64,
}

impl CodeMap {
    pub(super) fn new() -> CodeMap {
        CodeMap { code: Mutex::default(), once: Mutex::default(), next_ip: AtomicU64::new(FIRST_IP) }
    }
    pub(super) fn insert(&self, at: u64, code: Code) {
        lock(&self.code).insert(at, code);
    }
    fn get(&self, at: u64) -> Option<Code> {
        lock(&self.code).get(&at).cloned()
    }
}

/// What guest code asks of the CPU.
#[derive(Clone, Debug)]
pub(super) enum Request {
    Syscall(u64, [u64; 6]),
    Load(u64, usize),
    Store(u64, Vec<u8>),
    Trap(Fault),
    /// Time passes.
    Compute(u64),
}

/// Guest to CPU.
pub(super) struct Ask {
    pub(super) regs: Regs,
    pub(super) request: Request,
    /// The panic that ended the guest's code, which is a failure of the test.
    pub(super) panic: Option<Box<dyn core::any::Any + Send>>,
}

/// CPU to guest.
pub(super) struct Answer {
    pub(super) regs: Regs,
    pub(super) data: Vec<u8>,
}

/// The thread of a context's guest code; dropping it ends the code.
pub(super) struct GuestThread {
    asks: Receiver<Ask>,
    answers: Option<Sender<Answer>>,
    handle: Option<thread::JoinHandle<()>>,
    /// What it waits for.
    pub(super) waiting: Option<Ask>,
}

impl GuestThread {
    /// Starts the code at `regs.rip`; `None` when there is none.
    pub(super) fn start(shared: &Arc<Shared>, regs: Regs) -> Option<GuestThread> {
        let map = shared.code();
        let once = lock(&map.once).remove(&regs.rip);
        let body: Once = match once {
            Some(once) => once,
            None => {
                let code = map.get(regs.rip)?;
                Box::new(move |g| code(g))
            }
        };
        let (ask_sender, asks) = channel();
        let (answers, answer_receiver) = channel();
        let mut guest = Guest { regs, shared: shared.clone(), asks: ask_sender, answers: answer_receiver };
        let handle = thread::spawn(move || guest.main(body));
        let mut thread = GuestThread { asks, answers: Some(answers), handle: Some(handle), waiting: None };
        thread.receive();
        Some(thread)
    }

    /// Lets the code run until it asks for something.
    pub(super) fn answer(&mut self, regs: Regs, data: Vec<u8>) {
        if let Some(answers) = &self.answers {
            let _ = answers.send(Answer { regs, data });
        }
        self.receive();
    }

    fn receive(&mut self) {
        let mut ask = self.asks.recv().ok();
        if let Some(panic) = ask.as_mut().and_then(|a| a.panic.take()) {
            resume_unwind(panic);
        }
        self.waiting = ask;
    }
}

impl Drop for GuestThread {
    fn drop(&mut self) {
        self.answers = None;
        if let Some(handle) = self.handle.take() {
            let _ = handle.join();
        }
    }
}

/// Unwinds the guest's stack down to the frame that control went back to, or entirely.
struct Elsewhere;

/// A CPU in user mode, as guest code sees it.
pub struct Guest {
    /// General registers. `rip` is of no use to guest code.
    pub regs: Regs,
    shared: Arc<Shared>,
    asks: Sender<Ask>,
    answers: Receiver<Answer>,
}

impl Guest {
    /// Makes a system call; the result is what the kernel puts into `rax`.
    pub fn syscall(&mut self, nr: u64, args: &[u64]) -> i64 {
        let mut all = [0; 6];
        all[..args.len()].copy_from_slice(args);
        let ip = self.new_ip();
        self.syscall_at(ip, nr, all)
    }

    /// A system call that duplicates this thread (`fork`, `clone`): the duplicate runs `child`, whose result register is
    /// what the kernel set; this thread goes on.
    pub fn fork(&mut self, nr: u64, args: &[u64], child: impl FnOnce(&mut Guest) + Send + 'static) -> i64 {
        let mut all = [0; 6];
        all[..args.len()].copy_from_slice(args);
        let ip = self.new_ip();
        lock(&self.shared.code().once).insert(ip + 2, Box::new(child));
        let result = self.syscall_at(ip, nr, all);
        if result < 0 {
            // There is no duplicate; one that there is may start much later.
            lock(&self.shared.code().once).remove(&(ip + 2));
        }
        result
    }

    /// Loads; a missing right is a page fault, and the load is done again afterwards.
    pub fn load(&mut self, at: u64, buf: &mut [u8]) {
        let data = self.operate(Request::Load(at, buf.len()));
        buf.copy_from_slice(&data);
    }
    /// Stores; a missing right is a page fault, and the store is done again afterwards.
    pub fn store(&mut self, at: u64, bytes: &[u8]) {
        self.operate(Request::Store(at, bytes.to_vec()));
    }
    /// Loads a word.
    pub fn load_u64(&mut self, at: u64) -> u64 {
        let mut buf = [0; 8];
        self.load(at, &mut buf);
        u64::from_ne_bytes(buf)
    }
    /// Stores a word.
    pub fn store_u64(&mut self, at: u64, value: u64) {
        self.store(at, &value.to_ne_bytes());
    }
    /// Uses the CPU for some time; may be interrupted.
    pub fn compute(&mut self, ns: u64) {
        self.operate(Request::Compute(ns));
    }
    /// An instruction that faults, for ever: comes back only if the kernel moves `rip` on by two.
    pub fn trap(&mut self, fault: Fault) {
        let ip = self.new_ip();
        self.wait_at(ip, ip + 2, Request::Trap(fault));
    }

    fn new_ip(&self) -> u64 {
        self.shared.code().next_ip.fetch_add(STEP, Ordering::SeqCst)
    }

    fn syscall_at(&mut self, ip: u64, nr: u64, args: [u64; 6]) -> i64 {
        let r = &mut self.regs;
        r.rax = nr;
        [r.rdi, r.rsi, r.rdx, r.r10, r.r8, r.r9] = args;
        self.wait_at(ip, ip + 2, Request::Syscall(nr, args));
        self.regs.rax as i64
    }

    /// Operations that repeat until done: the CPU sets `rip` behind them.
    fn operate(&mut self, request: Request) -> Vec<u8> {
        let ip = self.new_ip();
        self.wait_at(ip, ip + 2, request)
    }

    /// Asks at `ip` until control is at `done`, taking whatever detours the kernel orders.
    fn wait_at(&mut self, ip: u64, done: u64, mut request: Request) -> Vec<u8> {
        self.regs.rip = ip;
        loop {
            let data = self.ask(request.clone());
            while self.regs.rip != done && self.regs.rip != ip {
                self.detour(done, ip);
            }
            if self.regs.rip == done {
                return data;
            }
            // Control is at the instruction again: a restarted system call, or a fault that was handled. Registers count.
            if let Request::Syscall(nr, args) = &mut request {
                let r = &self.regs;
                (*nr, *args) = (r.rax, [r.rdi, r.rsi, r.rdx, r.r10, r.r8, r.r9]);
            }
        }
    }

    fn ask(&mut self, request: Request) -> Vec<u8> {
        let _ = self.asks.send(Ask { regs: self.regs, request, panic: None });
        match self.answers.recv() {
            Ok(answer) => {
                self.regs = answer.regs;
                answer.data
            }
            // The context was dropped.
            Err(_) => resume_unwind(Box::new(Elsewhere)),
        }
    }

    /// Runs the code where control is now, and what it returns to, until control is where somebody waits.
    fn detour(&mut self, done: u64, ip: u64) {
        let Some(code) = self.shared.code().get(self.regs.rip) else {
            // Perhaps a caller of this frame waits for that address.
            resume_unwind(Box::new(Elsewhere));
        };
        let result = catch_unwind(AssertUnwindSafe(|| {
            code(self);
            let sp = self.regs.rsp;
            let to = self.load_u64(sp);
            self.regs.rsp = sp.wrapping_add(8);
            self.regs.rip = to;
        }));
        if let Err(payload) = result
            && (!payload.is::<Elsewhere>() || (self.regs.rip != done && self.regs.rip != ip))
        {
            resume_unwind(payload);
        }
    }

    fn main(&mut self, body: Once) {
        let result = catch_unwind(AssertUnwindSafe(|| body(self)));
        if let Err(payload) = result
            && !payload.is::<Elsewhere>()
        {
            let request = Request::Compute(0);
            let _ = self.asks.send(Ask { regs: self.regs, request, panic: Some(payload) });
            return;
        }
        // Control left all code, or the code returned with nowhere to go: fetching there faults, for ever.
        let addr = self.regs.rip;
        let fault = Fault { vector: 14, error: 0x14, addr, signo: 11, code: 1 };
        let _ = catch_unwind(AssertUnwindSafe(|| {
            loop {
                self.ask(Request::Trap(fault.clone()));
                while self.shared.code().get(self.regs.rip).is_some() {
                    self.detour(u64::MAX, u64::MAX);
                }
            }
        }));
    }
}

/// A buffer for a load.
pub(super) fn buffer(len: usize) -> Vec<u8> {
    vec![0; len]
}
