//! Fibers: stackful coroutines on pooled stacks with a guard page.
//!
//! The kernel is free of thread-locals, so a fiber may be resumed on any thread. A panic ends the fiber only:
//! a hook keeps its text and backtrace instead of printing them, and the backtrace is resolved on the
//! resumer's stack, which is larger.

use crate::cpu::lock;
use corosensei::stack::DefaultStack;
use corosensei::{Coroutine, CoroutineResult, Yielder};
use hal::{CpuId, Fiber, FiberEntry, FiberState, Fibers, Suspend};
use std::backtrace::Backtrace;
use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Once};

/// Bytes of address space per stack; only touched pages take memory.
const STACK_SIZE: usize = 256 << 10;
/// How many free stacks are kept.
const POOL: usize = 256;

thread_local! {
    static IN_FIBER: Cell<bool> = const { Cell::new(false) };
    static PANIC: RefCell<Option<(String, Backtrace)>> = const { RefCell::new(None) };
}

/// Whether the calling code runs in a fiber.
pub(crate) fn in_fiber() -> bool {
    IN_FIBER.get()
}

/// What is assumed where the host does not say how many mappings a process may have (`vm.max_map_count`).
const MAPPINGS: usize = 65530;

/// Stacks: those that are free, and how many there are. Each is two mappings of the host, of which this process may have only so many: a
/// quarter is left to everything else, because the kernel can't go on without memory for itself.
struct Stacks {
    free: Mutex<Vec<DefaultStack>>,
    count: AtomicUsize,
    most: usize,
}

impl Stacks {
    fn of_host() -> Stacks {
        let text = std::fs::read_to_string("/proc/sys/vm/max_map_count").unwrap_or_default();
        let mappings = text.trim().parse().unwrap_or(MAPPINGS);
        Stacks { free: Mutex::default(), count: AtomicUsize::new(0), most: mappings / 2 / 4 * 3 }
    }

    /// One; `None` when there are as many as there may be.
    fn take(&self) -> Option<DefaultStack> {
        if let Some(stack) = lock(&self.free).pop() {
            return Some(stack);
        }
        let more = |count| (count < self.most).then_some(count + 1);
        self.count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok()?;
        let stack = DefaultStack::new(STACK_SIZE);
        if stack.is_err() {
            self.count.fetch_sub(1, Ordering::Relaxed);
        }
        stack.ok()
    }

    fn give(&self, stack: DefaultStack) {
        let mut free = lock(&self.free);
        if free.len() < POOL {
            free.push(stack);
        } else {
            drop((free, stack));
            self.count.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

type Routine = Coroutine<CpuId, (), Result<(), ()>, DefaultStack>;

/// Makes fibers.
pub struct LinuxFibers {
    stacks: Arc<Stacks>,
}

impl LinuxFibers {
    /// Installs the panic hook, once per process.
    pub fn new() -> LinuxFibers {
        static HOOK: Once = Once::new();
        HOOK.call_once(|| {
            let before = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |info| {
                if IN_FIBER.get() {
                    // Only addresses are taken here: symbols need more stack than a fiber has.
                    PANIC.set(Some((info.to_string(), Backtrace::force_capture())));
                } else {
                    before(info);
                }
            }));
        });
        LinuxFibers { stacks: Arc::new(Stacks::of_host()) }
    }
}

impl Default for LinuxFibers {
    fn default() -> Self {
        LinuxFibers::new()
    }
}

impl Fibers for LinuxFibers {
    fn spawn(&self, entry: FiberEntry) -> Option<Box<dyn Fiber>> {
        let stack = self.stacks.take()?;
        let routine = Coroutine::with_stack(stack, move |yielder: &Yielder<CpuId, ()>, cpu| {
            let inside = Inside { yielder, cpu: Cell::new(cpu) };
            // The forced unwinding of a dropped fiber ends here too; its result is not looked at.
            catch_unwind(AssertUnwindSafe(|| entry(&inside))).map_err(drop)
        });
        Some(Box::new(LinuxFiber { routine: Some(routine), stacks: self.stacks.clone() }))
    }
}

struct Inside<'a> {
    yielder: &'a Yielder<CpuId, ()>,
    cpu: Cell<CpuId>,
}

impl Suspend for Inside<'_> {
    fn suspend(&self) {
        // The count of panics is the thread's: a fiber that unwinds must not leave its thread.
        if !std::thread::panicking() {
            self.cpu.set(self.yielder.suspend(()));
        }
    }
    fn cpu(&self) -> CpuId {
        self.cpu.get()
    }
}

struct LinuxFiber {
    /// `None` once it has finished.
    routine: Option<Routine>,
    stacks: Arc<Stacks>,
}

// SAFETY: the entry is `Send`, and what it keeps on its stack belongs to kernel code, which has no
// thread-locals and holds nothing that is tied to a thread across `suspend` (the contract of `Suspend`).
unsafe impl Send for LinuxFiber {}

impl LinuxFiber {
    fn recycle(&mut self) {
        let Some(mut routine) = self.routine.take() else { return };
        let outside = IN_FIBER.replace(true);
        routine.force_unwind();
        IN_FIBER.set(outside);
        self.stacks.give(routine.into_stack());
    }
}

impl Fiber for LinuxFiber {
    fn resume(&mut self, cpu: CpuId) -> FiberState {
        let Some(routine) = &mut self.routine else { panic!("a finished fiber was resumed") };
        let outside = IN_FIBER.replace(true);
        let result = routine.resume(cpu);
        IN_FIBER.set(outside);
        match result {
            CoroutineResult::Yield(()) => FiberState::Suspended,
            CoroutineResult::Return(result) => {
                self.recycle();
                match result {
                    Ok(()) => FiberState::Finished,
                    Err(()) => FiberState::Panicked(match PANIC.take() {
                        Some((text, trace)) => format!("{text}\n{trace}"),
                        None => "a panic without a message".to_string(),
                    }),
                }
            }
        }
    }
}

impl Drop for LinuxFiber {
    fn drop(&mut self) {
        self.recycle();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    struct Count(Arc<AtomicUsize>);
    impl Drop for Count {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn stacks_end_before_the_hosts_mappings_do() {
        let stacks = Stacks { most: 3, ..Stacks::of_host() };
        let taken: Vec<_> = std::iter::from_fn(|| stacks.take()).collect();
        assert_eq!(taken.len(), 3);
        taken.into_iter().for_each(|stack| stacks.give(stack));
        assert_eq!(std::iter::from_fn(|| stacks.take()).count(), 3);
        assert!(Stacks::of_host().most >= 1000);
    }

    #[test]
    fn moves_between_threads() {
        let fibers = LinuxFibers::new();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let log = seen.clone();
        let entry = move |s: &dyn Suspend| {
            for _ in 0..4 {
                lock(&log).push(s.cpu().0);
                s.suspend();
            }
        };
        let mut fiber = fibers.spawn(Box::new(entry)).unwrap();
        for cpu in 0..4 {
            let resume = move || {
                assert_eq!(fiber.resume(CpuId(cpu)), FiberState::Suspended);
                fiber
            };
            fiber = std::thread::spawn(resume).join().unwrap();
        }
        assert_eq!(fiber.resume(CpuId(9)), FiberState::Finished);
        assert_eq!(*lock(&seen), [0, 1, 2, 3]);
    }

    #[test]
    fn a_panic_is_told_with_its_place() {
        let mut fiber = LinuxFibers::new().spawn(Box::new(|_| panic!("number {}", 7))).unwrap();
        let FiberState::Panicked(text) = fiber.resume(CpuId(0)) else { panic!("it did not panic") };
        assert!(text.contains("number 7") && text.contains("fiber.rs"), "{text}");
    }

    #[test]
    fn a_dropped_fiber_unwinds_and_its_stack_is_used_again() {
        let fibers = LinuxFibers::new();
        let dropped = Arc::new(AtomicUsize::new(0));
        let started = Count(dropped.clone());
        let mut fiber = fibers
            .spawn(Box::new(move |s| {
                let _started = started;
                s.suspend();
                unreachable!("it is dropped while suspended");
            }))
            .unwrap();
        fiber.resume(CpuId(0));
        assert_eq!(dropped.load(Ordering::SeqCst), 0);
        drop(fiber);
        assert_eq!(dropped.load(Ordering::SeqCst), 1);
        let unstarted = Count(dropped.clone());
        drop(fibers.spawn(Box::new(move |_| drop(unstarted))).unwrap());
        assert_eq!(dropped.load(Ordering::SeqCst), 2);
        assert_eq!(lock(&fibers.stacks.free).len(), 1);
    }

    #[test]
    fn suspending_while_unwinding_does_not_switch() {
        struct Suspender<'a>(&'a dyn Suspend);
        impl Drop for Suspender<'_> {
            fn drop(&mut self) {
                self.0.suspend();
            }
        }
        let mut fiber = LinuxFibers::new()
            .spawn(Box::new(|s| {
                let _late = Suspender(s);
                s.suspend();
                panic!("after the first suspension");
            }))
            .unwrap();
        assert_eq!(fiber.resume(CpuId(0)), FiberState::Suspended);
        assert!(matches!(fiber.resume(CpuId(1)), FiberState::Panicked(_)));
    }

    #[test]
    fn many_fibers_live_side_by_side() {
        let fibers = LinuxFibers::new();
        let mut all: Vec<_> = (0..2000).map(|_| fibers.spawn(Box::new(|s| s.suspend())).unwrap()).collect();
        for fiber in &mut all {
            assert_eq!(fiber.resume(CpuId(0)), FiberState::Suspended);
        }
        for fiber in &mut all {
            assert_eq!(fiber.resume(CpuId(1)), FiberState::Finished);
        }
    }
}
