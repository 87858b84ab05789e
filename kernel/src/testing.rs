//! Helpers for the kernel's own unit tests: run a closure as a task of a kernel on the mock machine.

use crate::task::{Cx, spawn_first};
use crate::{Config, Kernel};
use hal::CpuId;
use hal::mock::MockMachine;
use std::string::String;
use std::sync::{Arc, Mutex};

/// A configuration with an empty root.
pub(crate) fn config() -> Config {
    Config {
        root: None,
        read_only: false,
        volumes: Default::default(),
        user: (0, 0, Default::default()),
        limits: Default::default(),
        hostname: String::from("mock"),
        strace: false,
        patch: true,
        command: Default::default(),
    }
}

/// Runs `body` as the first task of a kernel on a fresh mock machine with one CPU, and returns what it returns.
pub(crate) fn run<T: Send + 'static>(body: impl FnOnce(&Cx) -> T + Send + 'static) -> T {
    run_on(MockMachine::builder().build(), config(), body)
}

/// Like [`run`], on this machine and with this configuration.
pub(crate) fn run_on<T: Send + 'static>(
    machine: Arc<MockMachine>,
    config: Config,
    body: impl FnOnce(&Cx) -> T + Send + 'static,
) -> T {
    let kernel = Kernel::new(machine, config);
    let slot = Arc::new(Mutex::new(None));
    let out = slot.clone();
    spawn_first(&kernel, move |cx| {
        *out.lock().unwrap() = Some(body(cx));
        cx.kernel.finish(Ok(crate::task::ExitStatus::Exited(0)));
    })
    .unwrap();
    kernel.run_cpu(CpuId(0));
    kernel.shutdown();
    let result = slot.lock().unwrap().take();
    result.expect("the task ended without a result: it panicked (see the log) or was killed")
}

#[test]
fn a_task_runs_and_returns() {
    assert_eq!(run(|cx| cx.task.tid()), 2);
}

#[test]
fn a_sleep_takes_virtual_time() {
    let (before, after) = run(|cx| {
        let before = cx.now_ns();
        cx.sleep(Some(before + 5_000_000_000));
        (before, cx.now_ns())
    });
    assert!(after - before >= 5_000_000_000, "slept {} ns", after - before);
}

/// Runs `body` as another thread of the caller's process; it shares descriptors and address space. It runs when the caller waits.
pub(crate) fn thread(cx: &Cx, body: impl FnOnce(&Cx) + Send + 'static) -> Arc<crate::task::Task> {
    let caller = cx.task;
    let tid = cx.kernel.pids.allocate(0, u64::MAX, &cx.kernel.settings).unwrap();
    let task = crate::task::NewTask {
        tid,
        process: caller.process.clone(),
        name: b"thread".to_vec(),
        creds: caller.creds(),
        mm: caller.mm.lock().clone(),
        files: caller.files.lock().clone(),
        fs: caller.fs.lock().clone(),
        mask: caller.sigmask(),
        policy: *caller.policy.lock(),
        cpu: cx.cpu(),
        allowed: u64::MAX,
        vruntime: 0,
    }
    .build(cx.kernel);
    caller.process.family.lock().threads.push(task.clone());
    cx.kernel.pids.add_task(&task);
    crate::task::launch(cx.kernel, &task, cx.kernel.machine.new_context(), body).unwrap();
    task
}

/// Where a guest's memory starts: [`GUEST_LEN`] bytes that it may read and write; its stack is at the end.
pub(crate) const GUEST: u64 = 0x10_0000;
pub(crate) const GUEST_LEN: u64 = 0x10_0000;
/// Where a guest's code is.
const GUEST_CODE: u64 = 0x4000;

/// Gives the task `len` bytes of memory at [`GUEST`].
pub(crate) fn map_guest(cx: &Cx, len: u64) {
    let request = crate::mm::MapRequest {
        addr: GUEST,
        len,
        prot: hal::Prot::READ | hal::Prot::WRITE,
        flags: crate::mm::MapFlags::FIXED,
        object: None,
        file: None,
        offset: 0,
        name: "",
    };
    cx.mm().map(cx, request).unwrap();
}

/// Runs a guest as the first program of a kernel on this machine until it ends; its status, and the kernel with everything in it gone
/// but what it leaked.
pub(crate) fn guest_on(
    machine: Arc<MockMachine>,
    user: u32,
    code: impl Fn(&mut hal::mock::Guest) + Send + Sync + 'static,
) -> crate::task::ExitStatus {
    machine.code(GUEST_CODE, code);
    let config = Config { user: (user, user, Default::default()), ..config() };
    let kernel = Kernel::new(machine.clone(), config);
    spawn_first(&kernel, |cx| {
        map_guest(cx, GUEST_LEN);
        {
            let mut user = cx.user.borrow_mut();
            user.regs().rip = GUEST_CODE;
            user.regs().rsp = GUEST + GUEST_LEN - 0x100;
        }
        crate::task::user_loop::user_loop(cx);
    })
    .unwrap();
    machine.run_cpus(|cpu| kernel.run_cpu(cpu));
    kernel.shutdown();
    let status = kernel.exit_status();
    let alive = Arc::downgrade(&kernel);
    drop(kernel);
    assert!(alive.upgrade().is_none(), "something keeps the kernel alive");
    status.expect("the kernel stopped without a status").expect("the kernel did not start")
}

/// Like [`guest_on`], as root on a fresh machine with one CPU; a panic of the code is a failure of the test.
pub(crate) fn guest(code: impl Fn(&mut hal::mock::Guest) + Send + Sync + 'static) {
    let status = guest_on(MockMachine::new(), 0, move |g| {
        code(g);
        exit(g, 0);
    });
    assert_eq!(status, crate::task::ExitStatus::Exited(0));
}

/// `exit_group(2)`.
pub(crate) fn exit(g: &mut hal::mock::Guest, status: u64) {
    g.syscall(abi::raw::__NR_exit_group as u64, &[status]);
}
