//! `/dev/tty`, `/dev/console`, `/dev/ptmx`, and nodes with the number of a pseudo-terminal.

use crate::error::{Result, err};
use crate::fs::{Device, Devices, File, OpenFlags, Path};
use crate::task::Cx;
use crate::tty;
use abi::Errno;
use abi::fs::DeviceId;
use alloc::sync::Arc;

enum Driver {
    Controlling,
    Console,
    Multiplexer,
    Slave,
}

pub(super) fn register(devices: &Devices) {
    devices.register_char(DeviceId::new(5, 0), Arc::new(Driver::Controlling));
    devices.register_char(DeviceId::new(5, 1), Arc::new(Driver::Console));
    devices.register_char(DeviceId::new(5, 2), Arc::new(Driver::Multiplexer));
    devices.register_char_major(136, Arc::new(Driver::Slave));
}

impl Device for Driver {
    fn open(&self, cx: &Cx, path: &Path, flags: OpenFlags) -> Result<Arc<dyn File>> {
        match self {
            Driver::Controlling => tty::open_controlling(cx, flags),
            Driver::Console => tty::open_console_device(cx, flags),
            Driver::Multiplexer => tty::open_master(cx),
            Driver::Slave => match cx.kernel.terminals.get(path.dentry.inode.attr()?.rdev.minor) {
                Some(terminal) => tty::open_terminal(cx, &terminal, flags),
                None => err(Errno::EIO),
            },
        }
    }
}
