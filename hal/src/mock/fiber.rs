//! Fibers on threads with strict hand-over: either the resumer runs or the fiber, never both.

use super::cpu::set_current;
use super::lock;
use crate::{CpuId, Fiber, FiberEntry, FiberState, Fibers, Suspend};
use std::boxed::Box;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::string::String;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;

/// Makes fibers; can be told to fail.
#[derive(Default)]
pub struct MockFibers {
    failures: AtomicUsize,
    live: Arc<AtomicUsize>,
}

impl MockFibers {
    /// Makes the next `count` calls of [`Fibers::spawn`] fail.
    pub fn fail_next(&self, count: usize) {
        self.failures.store(count, Ordering::SeqCst);
    }
    /// Number of fiber threads that exist now.
    pub fn live_threads(&self) -> usize {
        self.live.load(Ordering::SeqCst)
    }
}

impl Fibers for MockFibers {
    fn spawn(&self, entry: FiberEntry) -> Option<Box<dyn Fiber>> {
        let fail = self.failures.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1));
        if fail.is_ok() {
            return None;
        }
        Some(Box::new(MockFiber { entry: Some(entry), thread: None, live: self.live.clone() }))
    }
}

/// The payload of the unwinding that ends a dropped fiber.
struct Cancelled;

enum Turn {
    Fiber(CpuId),
    Cancel,
    Resumer(FiberState),
}

struct Baton {
    turn: Mutex<Turn>,
    passed: Condvar,
    cpu: AtomicUsize,
}

impl Baton {
    fn pass(&self, turn: Turn) {
        *lock(&self.turn) = turn;
        self.passed.notify_all();
    }

    /// Waits for the fiber's turn; false when it must unwind.
    fn wait_to_run(&self) -> bool {
        let mut turn = lock(&self.turn);
        loop {
            match *turn {
                Turn::Fiber(cpu) => {
                    self.cpu.store(cpu.0, Ordering::SeqCst);
                    set_current(cpu);
                    return true;
                }
                Turn::Cancel => return false,
                Turn::Resumer(_) => {
                    turn = self.passed.wait(turn).unwrap_or_else(PoisonError::into_inner);
                }
            }
        }
    }

    fn wait_for_fiber(&self) -> FiberState {
        let mut turn = lock(&self.turn);
        loop {
            if let Turn::Resumer(state) = &mut *turn {
                return core::mem::replace(state, FiberState::Suspended);
            }
            turn = self.passed.wait(turn).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Suspend for Baton {
    fn suspend(&self) {
        if matches!(*lock(&self.turn), Turn::Cancel) {
            // A destructor suspends while the stack unwinds: a second panic would abort, so it goes on.
            return;
        }
        self.pass(Turn::Resumer(FiberState::Suspended));
        if !self.wait_to_run() {
            // Not a panic: the panic hook stays silent.
            resume_unwind(Box::new(Cancelled));
        }
    }
    fn cpu(&self) -> CpuId {
        CpuId(self.cpu.load(Ordering::SeqCst))
    }
}

struct MockFiber {
    entry: Option<FiberEntry>,
    thread: Option<(Arc<Baton>, thread::JoinHandle<()>)>,
    live: Arc<AtomicUsize>,
}

impl Fiber for MockFiber {
    fn resume(&mut self, cpu: CpuId) -> FiberState {
        if let Some(entry) = self.entry.take() {
            let baton = Arc::new(Baton {
                turn: Mutex::new(Turn::Fiber(cpu)),
                passed: Condvar::new(),
                cpu: AtomicUsize::new(cpu.0),
            });
            self.live.fetch_add(1, Ordering::SeqCst);
            let (inner, live) = (baton.clone(), self.live.clone());
            let handle = thread::spawn(move || {
                set_current(cpu);
                let result = catch_unwind(AssertUnwindSafe(|| entry(&*inner)));
                live.fetch_sub(1, Ordering::SeqCst);
                inner.pass(Turn::Resumer(match result {
                    Ok(()) => FiberState::Finished,
                    Err(payload) => FiberState::Panicked(message(&*payload)),
                }));
            });
            self.thread = Some((baton, handle));
        } else {
            let (baton, _) = self.thread.as_ref().expect("a finished fiber was resumed");
            baton.pass(Turn::Fiber(cpu));
        }
        let Some((baton, _)) = &self.thread else { unreachable!("the thread was just started") };
        let state = baton.wait_for_fiber();
        if state != FiberState::Suspended
            && let Some((_, handle)) = self.thread.take()
        {
            let _ = handle.join();
        }
        state
    }
}

impl Drop for MockFiber {
    fn drop(&mut self) {
        if let Some((baton, handle)) = self.thread.take() {
            baton.pass(Turn::Cancel);
            let _ = handle.join();
        }
    }
}

fn message(payload: &(dyn core::any::Any + Send)) -> String {
    if let Some(text) = payload.downcast_ref::<&str>() {
        (*text).into()
    } else if let Some(text) = payload.downcast_ref::<String>() {
        text.clone()
    } else {
        "a panic without a message".into()
    }
}
