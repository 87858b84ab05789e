//! `memfd_create(2)`.

use crate::error::{Error, Result, err};
use crate::fs::Fd;
use crate::ipc::memfd::{memfd_new, seal};
use crate::task::Cx;
use crate::user::UserCStr;
use abi::Errno;

const MFD_CLOEXEC: u32 = 1;
const MFD_ALLOW_SEALING: u32 = 2;
const MFD_HUGETLB: u32 = 4;
const MFD_NOEXEC_SEAL: u32 = 8;
const MFD_EXEC: u32 = 16;
/// Longest name with its terminator: a file name's length without `memfd:`.
const NAME_MAX: usize = 250;

/// `memfd_create(2)`.
pub(super) fn memfd_create(cx: &Cx, name: UserCStr, flags: u32) -> Result<Fd> {
    if flags & MFD_HUGETLB != 0 {
        return Err(Error::new(Errno::EINVAL, "there are no huge pages"));
    }
    if flags & !(MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_NOEXEC_SEAL | MFD_EXEC) != 0 {
        return err(Errno::EINVAL);
    }
    if flags & MFD_NOEXEC_SEAL != 0 && flags & MFD_EXEC != 0 {
        return err(Errno::EINVAL);
    }
    let name = name.read(cx, NAME_MAX)?.ok_or(Errno::EINVAL)?;
    let noexec = flags & MFD_NOEXEC_SEAL != 0;
    let mut seals = 0;
    if flags & MFD_ALLOW_SEALING == 0 && !noexec {
        seals |= seal::SEAL;
    }
    if noexec {
        seals |= seal::EXEC;
    }
    let of = memfd_new(cx, name, if noexec { 0o666 } else { 0o777 }, seals);
    cx.install(of, flags & MFD_CLOEXEC != 0)
}
