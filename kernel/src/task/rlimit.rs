//! Resource limits (`getrlimit(2)`).

/// A limit; `u64::MAX` is `RLIM_INFINITY`.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    zerocopy::FromBytes,
    zerocopy::IntoBytes,
    zerocopy::Immutable,
    zerocopy::KnownLayout,
)]
#[repr(C)]
pub struct Rlimit {
    /// Soft limit.
    pub cur: u64,
    /// Hard limit.
    pub max: u64,
}

/// `RLIMIT_*` by number (`uapi/asm-generic/resource.h`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
#[allow(missing_docs)]
pub enum Resource {
    Cpu = 0,
    Fsize = 1,
    Data = 2,
    Stack = 3,
    Core = 4,
    Rss = 5,
    Nproc = 6,
    Nofile = 7,
    Memlock = 8,
    As = 9,
    Locks = 10,
    Sigpending = 11,
    Msgqueue = 12,
    Nice = 13,
    Rtprio = 14,
    Rttime = 15,
}

/// Number of resources.
pub const RLIM_NLIMITS: usize = 16;

/// All limits of a process.
#[derive(Clone, Copy, Debug)]
pub struct Limits(pub [Rlimit; RLIM_NLIMITS]);

impl Limits {
    /// What Linux gives its first process, with `max_tasks` for `RLIMIT_NPROC` and `RLIMIT_SIGPENDING`.
    pub fn initial(max_tasks: u64) -> Limits {
        const INF: u64 = u64::MAX;
        let both = |v| Rlimit { cur: v, max: v };
        let mut limits = [both(INF); RLIM_NLIMITS];
        limits[Resource::Stack as usize] = Rlimit { cur: 8 << 20, max: INF };
        limits[Resource::Core as usize] = Rlimit { cur: 0, max: INF };
        limits[Resource::Nproc as usize] = both(max_tasks);
        limits[Resource::Nofile as usize] = Rlimit { cur: 1024, max: 1 << 20 };
        limits[Resource::Memlock as usize] = both(8 << 20);
        limits[Resource::Sigpending as usize] = both(max_tasks);
        limits[Resource::Msgqueue as usize] = both(819_200);
        limits[Resource::Nice as usize] = both(0);
        limits[Resource::Rtprio as usize] = both(0);
        Limits(limits)
    }

    /// A hard limit.
    pub fn hard(&self, resource: Resource) -> u64 {
        self.0.get(resource as usize).map_or(u64::MAX, |r| r.max)
    }

    /// A soft limit.
    pub fn cur(&self, resource: Resource) -> u64 {
        self.0.get(resource as usize).map_or(u64::MAX, |r| r.cur)
    }
}
