//! Generated trees: directories, texts and links that have no storage behind them.
//!
//! `/proc`, `/sys` and `/dev/pts` are made of these. A [`Tree`] is a directory tree with fixed entries into which anyone may
//! [`Entries::register`] a [`Node`]; computed directories implement [`DirSource`], texts [`Content`], links [`LinkTarget`].
//!
//! Times of all inodes are the time when they were made, sizes are 0, as on Linux's procfs.
//!
//! Lock order: a directory's children are a leaf lock, not held while entries are emitted.

mod dir;
mod link;
mod meta;
mod out;
mod super_block;
mod text;
mod tree;

pub use dir::{DirSource, Entry, OpenDir, PseudoDir};
pub use link::{LinkTarget, PseudoLink};
pub use meta::{Meta, Owner};
pub use out::Out;
pub(crate) use out::put;
pub use super_block::PseudoFs;
pub use text::{Content, PseudoFile};
pub use tree::{Entries, Node, Tree};

use abi::fs::DeviceId;

/// Device number of `/proc`. Generated file systems are on anonymous devices, like on Linux; each has one for the life of a kernel.
pub const PROC_DEV: DeviceId = DeviceId::new(0, 4);
/// Device number of `/sys`.
pub const SYS_DEV: DeviceId = DeviceId::new(0, 5);
/// Device number of `/dev/pts`.
pub const PTS_DEV: DeviceId = DeviceId::new(0, 6);
