//! `pidfd_open(2)`: a descriptor that stands for a process or a thread.

use super::anon::pidfd_attr;
use crate::error::Result;
use crate::fs::{File, OpenFile, OpenFlags};
use crate::task::{Cx, Process, ProcessState, Task};
use crate::wait::{PollEvents, PollTable};
use abi::fs::Attr;
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use core::any::Any;

/// Whom a pidfd stands for.
#[derive(Clone)]
pub enum PidTarget {
    /// A process.
    Process(Arc<Process>),
    /// One thread (`PIDFD_THREAD`).
    Thread(Arc<Task>),
}

impl PidTarget {
    /// The process, or that of the thread.
    pub fn process(&self) -> &Arc<Process> {
        match self {
            PidTarget::Process(process) => process,
            PidTarget::Thread(task) => &task.process,
        }
    }
}

/// A pidfd. Readable when its target has ended; hung up when it was reaped, too.
pub struct PidFd {
    target: PidTarget,
}

impl PidFd {
    /// Its target.
    pub fn target(&self) -> &PidTarget {
        &self.target
    }

    /// The process, or that of the thread.
    pub fn process(&self) -> &Arc<Process> {
        self.target.process()
    }

    /// Whether the target has ended, and whether nothing is left of it.
    fn life(&self) -> (bool, bool) {
        match &self.target {
            PidTarget::Process(process) => match process.state() {
                ProcessState::Running => (false, false),
                ProcessState::Zombie(_) => (true, false),
                ProcessState::Reaped => (true, true),
            },
            PidTarget::Thread(task) => {
                let gone = !task.process.threads().iter().any(|t| Arc::ptr_eq(t, task));
                // The first thread's id stays in use as long as the process.
                let leads = task.tid() == task.process.pid;
                (gone, gone && (!leads || task.process.state() == ProcessState::Reaped))
            }
        }
    }

    /// Its id as the process sees it; -1 when it was reaped.
    pub fn id(&self) -> i32 {
        match &self.target {
            _ if self.life().1 => -1,
            PidTarget::Process(process) => process.pid,
            PidTarget::Thread(task) => task.tid(),
        }
    }
}

impl File for PidFd {
    fn poll(&self, _cx: &Cx, _of: &OpenFile, table: Option<&mut PollTable<'_>>) -> PollEvents {
        if let Some(table) = table {
            table.add(&self.process().changed);
        }
        let (ended, gone) = self.life();
        let mut events = PollEvents::empty();
        events.set(PollEvents::READABLE, ended);
        events.set(PollEvents::HUP, gone);
        events
    }

    fn attr(&self) -> Result<Attr> {
        Ok(pidfd_attr(self.process().pid as u64))
    }

    fn describe(&self) -> String {
        String::from("anon_inode:[pidfd]")
    }

    fn fdinfo(&self) -> String {
        let id = self.id();
        format!("Pid:\t{id}\nNSpid:\t{id}\n")
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// An open file for a process; `flags` may hold `NONBLOCK`.
pub fn pidfd_new(cx: &Cx, process: &Arc<Process>, flags: OpenFlags) -> Arc<OpenFile> {
    pidfd_for(cx, PidTarget::Process(process.clone()), flags)
}

/// An open file for a process or thread; `flags` may hold `NONBLOCK`.
pub fn pidfd_for(cx: &Cx, target: PidTarget, flags: OpenFlags) -> Arc<OpenFile> {
    OpenFile::new(cx.kernel, Arc::new(PidFd { target }), None, None, flags | OpenFlags::RDWR)
}
