//! Device nodes: what opens when a guest opens one.
//!
//! A node is only a number; [`Devices`] says what answers to it. Nodes of the host's layer are no different: their numbers lead here,
//! never to the host's device.

use super::{File, OpenFlags, Path};
use crate::error::{Result, err};
use crate::sync::Mutex;
use crate::task::Cx;
use abi::Errno;
use abi::fs::{DeviceId, FileType};
use alloc::collections::BTreeMap;
use alloc::sync::Arc;

/// A device driver's open.
pub trait Device: Send + Sync {
    /// Opens the device. `path` is the node that was opened; its inode's `rdev` is the number. May suspend.
    fn open(&self, cx: &Cx, path: &Path, flags: OpenFlags) -> Result<Arc<dyn File>>;
}

/// A driver and the numbers that it serves: one, or all of a major number.
type Key = (bool, u32, Option<u32>);

/// All device drivers of a kernel.
#[derive(Default)]
pub struct Devices {
    drivers: Mutex<BTreeMap<Key, Arc<dyn Device>>>,
}

impl Devices {
    /// Registers a character device.
    pub fn register_char(&self, id: DeviceId, device: Arc<dyn Device>) {
        self.drivers.lock().insert((false, id.major, Some(id.minor)), device);
    }

    /// Registers every minor number of a character major that is not registered by itself.
    pub fn register_char_major(&self, major: u32, device: Arc<dyn Device>) {
        self.drivers.lock().insert((false, major, None), device);
    }

    /// Registers a block device.
    pub fn register_block(&self, id: DeviceId, device: Arc<dyn Device>) {
        self.drivers.lock().insert((true, id.major, Some(id.minor)), device);
    }

    /// The driver of a node.
    pub fn find(&self, file_type: FileType, id: DeviceId) -> Option<Arc<dyn Device>> {
        let block = file_type == FileType::BlockDevice;
        let drivers = self.drivers.lock();
        drivers
            .get(&(block, id.major, Some(id.minor)))
            .or_else(|| drivers.get(&(block, id.major, None)))
            .cloned()
    }
}

/// Opens a FIFO, device or socket node, whatever file system it is on. For [`super::Inode::open`].
pub fn open_special(cx: &Cx, path: &Path, flags: OpenFlags) -> Result<Arc<dyn File>> {
    let attr = path.dentry.inode.attr()?;
    match attr.file_type() {
        FileType::CharDevice | FileType::BlockDevice => {
            if path.mount.flags().contains(super::MountFlags::NODEV) {
                return err(Errno::EACCES);
            }
            match cx.kernel.vfs.devices.find(attr.file_type(), attr.rdev) {
                Some(device) => device.open(cx, path, flags),
                None => err(Errno::ENXIO),
            }
        }
        FileType::Fifo => crate::ipc::fifo_open(cx, &path.dentry.inode, flags),
        _ => err(Errno::ENXIO),
    }
}
