//! Memory: frames, page caches, areas (VMAs) and address spaces.

mod cache;
mod frames;
mod space;

pub use cache::PageCache;
pub use frames::{Frame, Frames};
pub use space::{FaultOutcome, FutexKey, MapFlags, MapRequest, Mm, VmaInfo, oom_victim};
