//! Transfers that may have to wait for a device: a few threads make the host calls and tell of their ends. Like the I/O thread they never
//! enter the kernel.
//!
//! Threads are started when there is more to do than there are idle ones, up to [`MOST`], and stay. One that hangs in the
//! host is left behind at the end.

use crate::cpu::{host_cpus, lock, use_cpus};
use crate::hostfile;
use crate::io::Events;
use hal::{Event, Transfer, Transferred};
use std::collections::{HashMap, VecDeque};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};

/// Most threads. More transfers than this wait for one another, which matters only when the host hangs.
const MOST: usize = 16;

struct Job {
    id: u64,
    fd: Arc<OwnedFd>,
    transfer: Transfer,
}

#[derive(Default)]
struct Work {
    jobs: VecDeque<Job>,
    idle: usize,
    threads: usize,
    stop: bool,
}

struct Shared {
    work: Mutex<Work>,
    wanted: Condvar,
    ended: Mutex<HashMap<u64, Transferred>>,
    events: OnceLock<Arc<Events>>,
    /// The host CPUs of the process: who starts a thread is bound to one of them.
    cpus: Vec<usize>,
}

/// The threads, and results that nobody has taken.
pub(crate) struct Transfers(Arc<Shared>);

impl Transfers {
    /// No thread is started.
    pub(crate) fn new() -> Transfers {
        Transfers(Arc::new(Shared {
            work: Mutex::default(),
            wanted: Condvar::new(),
            ended: Mutex::default(),
            events: OnceLock::new(),
            cpus: host_cpus(),
        }))
    }

    /// Where ends are told; before this, none is.
    pub(crate) fn tell(&self, events: Arc<Events>) {
        let _ = self.0.events.set(events);
    }

    /// See [`hal::HostFile::start`].
    pub(crate) fn start(&self, id: u64, fd: Arc<OwnedFd>, transfer: Transfer) -> Result<(), Transfer> {
        let mut work = lock(&self.0.work);
        if work.idle <= work.jobs.len() && work.threads < MOST {
            let shared = self.0.clone();
            let thread = std::thread::Builder::new().name("transfer".to_string()).stack_size(64 << 10);
            match thread.spawn(move || run(&shared)) {
                Ok(_) => work.threads += 1,
                Err(_) if work.threads == 0 => return Err(transfer),
                Err(_) => {}
            }
        }
        work.jobs.push_back(Job { id, fd, transfer });
        drop(work);
        self.0.wanted.notify_one();
        Ok(())
    }

    /// See [`hal::HostFs::transferred`].
    pub(crate) fn take(&self, id: u64) -> Option<Transferred> {
        lock(&self.0.ended).remove(&id)
    }
}

impl Drop for Transfers {
    fn drop(&mut self) {
        lock(&self.0.work).stop = true;
        self.0.wanted.notify_all();
    }
}

fn run(shared: &Shared) {
    use_cpus(&shared.cpus);
    let mut work = lock(&shared.work);
    loop {
        if work.stop {
            return;
        }
        let Some(job) = work.jobs.pop_front() else {
            work.idle += 1;
            work = shared.wanted.wait(work).unwrap_or_else(PoisonError::into_inner);
            work.idle -= 1;
            continue;
        };
        drop(work);
        let done = perform(&job.fd, job.transfer);
        lock(&shared.ended).insert(job.id, done);
        if let Some(events) = shared.events.get() {
            events.push(Event::Transferred(job.id));
        }
        work = lock(&shared.work);
    }
}

fn perform(fd: &OwnedFd, transfer: Transfer) -> Transferred {
    match transfer {
        Transfer::Read(offset, mut buf) => {
            Transferred { result: hostfile::read_at(fd, offset, &mut buf), buf }
        }
        Transfer::Write(offset, buf) => Transferred { result: hostfile::write_at(fd, offset, &buf), buf },
        Transfer::Sync(data_only) => {
            Transferred { result: hostfile::sync(fd, data_only).map(|()| 0), buf: Vec::new() }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::LinuxCpus;
    use hal::{Cpu, CpuId};

    #[test]
    fn transfers_end_with_an_event_and_a_result() {
        let cpus = Arc::new(LinuxCpus::new(1).unwrap());
        let events = Arc::new(Events::new(cpus.clone()));
        let transfers = Transfers::new();
        transfers.tell(events.clone());
        let path = std::env::temp_dir().join(format!("transfer-test-{}", std::process::id()));
        let file = std::fs::File::options().read(true).write(true).create_new(true).open(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        let fd = Arc::new(OwnedFd::from(file));
        let finish = |id, transfer| {
            transfers.start(id, fd.clone(), transfer).unwrap();
            loop {
                match events.pop() {
                    Some(event) => {
                        assert_eq!(event, Event::Transferred(id));
                        return transfers.take(id).unwrap();
                    }
                    None => cpus.idle(CpuId(0), None),
                }
            }
        };
        assert_eq!(finish(1, Transfer::Write(3, b"abc".to_vec())).result, Ok(3));
        assert_eq!(finish(2, Transfer::Sync(true)).result, Ok(0));
        let read = finish(3, Transfer::Read(2, vec![9; 8]));
        assert_eq!((read.result, &read.buf[..4]), (Ok(4), &b"\0abc"[..]));
        assert!(transfers.take(3).is_none());
    }
}
