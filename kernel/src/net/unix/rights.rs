//! Files in flight (`SCM_RIGHTS`).

use super::UnixFamily;
use crate::error::{Result, err};
use crate::fs::OpenFile;
use crate::sync::Mutex;
use crate::task::{Cap, Cx, Resource};
use abi::Errno;
use alloc::sync::Arc;
use alloc::vec::Vec;

/// Files that lie in a socket's queue.
pub struct Rights {
    files: Vec<Arc<OpenFile>>,
    family: Arc<UnixFamily>,
    uid: u32,
}

impl Rights {
    /// Puts files in flight for the current user: `ETOOMANYREFS` beyond `RLIMIT_NOFILE` (`unix(7)`).
    pub(super) fn new(
        cx: &Cx,
        family: &Arc<UnixFamily>,
        files: Vec<Arc<OpenFile>>,
    ) -> Result<Option<Rights>> {
        if files.is_empty() {
            return Ok(None);
        }
        let creds = cx.task.creds();
        let limit = cx.process().limit(Resource::Nofile);
        let mut in_flight = family.in_flight.lock();
        let count = in_flight.entry(creds.uid).or_default();
        if *count as u64 > limit && !creds.has(Cap::SysResource) && !creds.has(Cap::SysAdmin) {
            return err(Errno::ETOOMANYREFS);
        }
        *count += files.len();
        Ok(Some(Rights { files, family: family.clone(), uid: creds.uid }))
    }

    /// The files, still in flight (`MSG_PEEK`).
    pub(super) fn files(&self) -> &[Arc<OpenFile>] {
        &self.files
    }

    /// The files, arrived.
    pub(super) fn take(mut self) -> Vec<Arc<OpenFile>> {
        let files = core::mem::take(&mut self.files);
        self.landed(files.len());
        files
    }

    fn landed(&self, count: usize) {
        let mut in_flight = self.family.in_flight.lock();
        if let Some(left) = in_flight.get_mut(&self.uid) {
            *left = left.saturating_sub(count);
            if *left == 0 {
                in_flight.remove(&self.uid);
            }
        }
    }
}

impl Drop for Rights {
    fn drop(&mut self) {
        let files = core::mem::take(&mut self.files);
        if !files.is_empty() {
            self.landed(files.len());
            self.family.graveyard.bury(files);
        }
    }
}

/// Drops files that nobody received, one after the other. A file may be the last reference of a socket that has files in its queue,
/// and so on: dropping them where they are found would nest as deep as a guest likes.
#[derive(Default)]
pub(super) struct Graveyard {
    inner: Mutex<(Vec<Arc<OpenFile>>, bool)>,
}

impl Graveyard {
    fn bury(&self, files: Vec<Arc<OpenFile>>) {
        {
            let mut inner = self.inner.lock();
            inner.0.extend(files);
            if core::mem::replace(&mut inner.1, true) {
                // Someone further up this stack, or another CPU, is at it.
                return;
            }
        }
        loop {
            let next = {
                let mut inner = self.inner.lock();
                let next = inner.0.pop();
                if next.is_none() {
                    inner.1 = false;
                }
                next
            };
            match next {
                Some(file) => drop(file),
                None => return,
            }
        }
    }
}
