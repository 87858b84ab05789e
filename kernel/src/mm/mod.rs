//! Memory: frames, page caches, areas (VMAs) and address spaces.

mod advise;
mod batch;
mod cache;
mod constants;
mod copy;
mod cpuid;
mod fault;
mod first_calls;
mod first_pages;
mod fork;
mod frames;
mod free_map;
mod functions;
mod gaps;
mod gate;
#[cfg(test)]
mod gate_tests;
mod heap;
mod inner;
mod lend;
#[cfg(test)]
mod lend_tests;
mod lock;
mod map;
#[cfg(test)]
mod map_tests;
#[cfg(test)]
mod model_tests;
mod oom;
mod prepare;
mod programs;
mod remap;
mod site;
mod space;
mod stash;
#[cfg(test)]
mod stash_tests;
mod table;
#[cfg(test)]
mod tests;
pub(crate) mod view;
mod vma;

pub use advise::Advice;
pub use cache::{PageCache, Quota};
pub use frames::{Frame, Frames, Hold};
pub use lock::LockAll;
pub(crate) use oom::memory;
pub use oom::{oom_score, oom_victim, reclaim};
pub(crate) use programs::Programs;
pub use remap::RemapFlags;
pub(crate) use site::prepare_decoder;
pub use space::{FaultOutcome, FutexKey, MIN_ADDR, MapFlags, MapRequest, Mm, MmStats, VmaInfo};
pub use vma::VmaFlags;
