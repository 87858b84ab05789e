//! A row's own directory.

use crate::Context;
use std::io::Result;
use std::ops::Deref;
use std::path::{Path, PathBuf};

/// A new directory on the memory-backed file system; goes away with everything in it.
pub struct WorkDir(PathBuf);

impl WorkDir {
    pub fn new(context: &Context) -> Result<WorkDir> {
        let path = context.work.join(format!("vk-bench-{}", std::process::id()));
        std::fs::create_dir(&path)?;
        Ok(WorkDir(path))
    }
}

impl Deref for WorkDir {
    type Target = Path;
    fn deref(&self) -> &Path {
        &self.0
    }
}

impl Drop for WorkDir {
    fn drop(&mut self) {
        // Nothing depends on it: the next run has another name.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
