//! Listings of lower directories, kept while the host says that they have not changed.
//!
//! Who walks a tree again lists each directory again, and most of what that takes is the host's. A directory's times change with its names. One that has changed just now
//! may change once more without its times showing it, so its listing is not kept.

use super::Key;
use super::node::Node;
use crate::error::Result;
use crate::fs::Stamp;
use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec::Vec;
use hal::{HostDirEntry, HostNode};
use hashbrown::HashMap;

/// How many listings are kept, and how many names in all of them.
const MOST: usize = 256;
const MOST_NAMES: usize = 1 << 14;

/// The names in a lower directory.
pub(super) type Listing = Arc<Vec<HostDirEntry>>;

/// The listings that are kept.
#[derive(Default)]
pub(super) struct Listings {
    kept: HashMap<Key, (Stamp, Listing)>,
    /// The oldest first.
    order: VecDeque<Key>,
    names: usize,
}

impl Listings {
    fn find(&self, key: &Key, stamp: &Stamp) -> Option<Listing> {
        self.kept.get(key).filter(|(then, _)| then == stamp).map(|(_, listing)| listing.clone())
    }

    /// Returns what is no longer kept: dropping thousands of names takes long.
    #[must_use]
    fn keep(&mut self, key: Key, stamp: Stamp, listing: &Listing) -> Vec<Listing> {
        let mut gone = Vec::new();
        gone.extend(self.forget(&key));
        if listing.len() > MOST_NAMES / 4 {
            return gone;
        }
        while self.order.len() >= MOST || self.names + listing.len() > MOST_NAMES {
            let Some(oldest) = self.order.front().copied() else { break };
            gone.extend(self.forget(&oldest));
        }
        self.names += listing.len();
        self.order.push_back(key);
        self.kept.insert(key, (stamp, listing.clone()));
        gone
    }

    fn forget(&mut self, key: &Key) -> Option<Listing> {
        let (_, listing) = self.kept.remove(key)?;
        self.names -= listing.len();
        self.order.retain(|other| other != key);
        Some(listing)
    }
}

impl Node {
    /// The names in the lower directory, which is `lower`. Blocks for the host's calls.
    pub(super) fn lower_names(&self, lower: &dyn HostNode) -> Result<Listing> {
        let attr = lower.attr()?;
        let stamp = Stamp::of(&attr);
        let known = self.shared.listings.lock().find(&self.key, &stamp);
        if let Some(known) = known {
            return Ok(known);
        }
        let listing = Arc::new(lower.read_dir()?);
        if stamp.is_settled(self.shared.now().sec) {
            let gone = self.shared.listings.lock().keep(self.key, stamp, &listing);
            drop(gone);
        }
        Ok(listing)
    }
}
