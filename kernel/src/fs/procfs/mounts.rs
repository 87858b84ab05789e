//! `/proc/PID/mounts`, `mountinfo` and `mountstats`.

use super::Target;
use crate::error::Result;
use crate::fs::Path;
use crate::fs::pseudo::Out;
use crate::task::Cx;

/// The number of the mount that a place is on.
pub(super) fn mount_id(path: &Path) -> u64 {
    u64::from(path.mount.id)
}

pub(super) fn mounts(_cx: &Cx, target: &Target, _out: &mut Out) -> Result<()> {
    target.process()?;
    Ok(())
}

pub(super) fn mountinfo(_cx: &Cx, target: &Target, _out: &mut Out) -> Result<()> {
    target.process()?;
    Ok(())
}

pub(super) fn mountstats(_cx: &Cx, target: &Target, _out: &mut Out) -> Result<()> {
    target.process()?;
    Ok(())
}
