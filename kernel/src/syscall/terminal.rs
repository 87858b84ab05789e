//! Calls about terminals that are not `ioctl(2)`.

use crate::error::Result;
use crate::task::Cx;

pub(super) fn vhangup(cx: &Cx) -> Result<()> {
    crate::tty::vhangup(cx)
}
