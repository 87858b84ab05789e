//! Settings of `/proc/sys` that the kernel heeds; the files are in `fs/procfs/sysctl.rs`.

use core::sync::atomic::{AtomicI64, Ordering};

/// One number.
#[derive(Debug)]
pub struct Setting(AtomicI64);

impl Setting {
    const fn new(value: i64) -> Setting {
        Setting(AtomicI64::new(value))
    }

    /// Its value.
    pub fn get(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Its value as a size or count; 0 for a negative one.
    pub fn size(&self) -> usize {
        usize::try_from(self.get()).unwrap_or(0)
    }

    /// Changes it. The caller checks the bounds.
    pub fn set(&self, value: i64) {
        self.0.store(value, Ordering::Relaxed);
    }
}

/// The settings of one kernel. Names are those of the files.
#[derive(Debug)]
#[allow(missing_docs)]
pub struct Settings {
    pub pid_max: Setting,
    pub threads_max: Setting,
    pub randomize_va_space: Setting,
    pub max_map_count: Setting,
    /// 0 or 1; a strict account (2) is not kept.
    pub overcommit_memory: Setting,
    pub file_max: Setting,
    pub nr_open: Setting,
    pub pipe_max_size: Setting,
    pub inotify_instances: Setting,
    pub inotify_watches: Setting,
    pub mqueue_msg_max: Setting,
    pub mqueue_msgsize_max: Setting,
    pub mqueue_queues_max: Setting,
    pub somaxconn: Setting,
    pub rmem_max: Setting,
    pub wmem_max: Setting,
}

impl Settings {
    /// What Linux starts with. `max_tasks`: `threads-max`.
    pub fn new(max_tasks: u64) -> Settings {
        Settings {
            pid_max: Setting::new(i64::from(crate::task::PID_MAX)),
            threads_max: Setting::new(i64::try_from(max_tasks).unwrap_or(i64::MAX)),
            randomize_va_space: Setting::new(2),
            max_map_count: Setting::new(65_530),
            overcommit_memory: Setting::new(0),
            file_max: Setting::new(i64::MAX),
            nr_open: Setting::new(1 << 20),
            pipe_max_size: Setting::new(1 << 20),
            inotify_instances: Setting::new(128),
            inotify_watches: Setting::new(65_536),
            mqueue_msg_max: Setting::new(10),
            mqueue_msgsize_max: Setting::new(8192),
            mqueue_queues_max: Setting::new(256),
            somaxconn: Setting::new(4096),
            rmem_max: Setting::new(212_992),
            wmem_max: Setting::new(212_992),
        }
    }
}
