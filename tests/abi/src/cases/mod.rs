//! The cases, a file per family or part of one.

mod file_flags;
mod file_io;

use crate::kit::Case;

/// Every case, in the order in which they run.
pub fn all() -> impl Iterator<Item = &'static Case> {
    [file_io::CASES, file_flags::CASES].into_iter().flatten()
}
