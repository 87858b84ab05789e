//! What an address space shows, as far as that is certain.
//!
//! A process that forks again and again makes copies that look much alike: the same files at the same addresses, and other pages of RAM. So an address space that was a copy is not emptied
//! at once: the next copy of the same process gets it, and only what differs is changed. That is a security boundary: whatever is not known to be what the new copy shall be shown
//! is taken out before guest code runs.

use crate::layout;
use crate::space::Op;

/// Most mappings that are kept track of.
const MOST: usize = 96;
/// Below here nothing is mapped where a runner is checked, which it is by a fault at address zero.
const LOWEST: u64 = 4096;

/// What a mapping shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    Ram {
        offset: u64,
    },
    File {
        key: u64,
        offset: u64,
        shared: bool,
    },
    /// Nobody knows.
    Something,
}

impl What {
    /// What it shows so many bytes behind its start.
    fn behind(self, distance: u64) -> What {
        match self {
            What::Ram { offset } => What::Ram { offset: offset + distance },
            What::File { key, offset, shared } => What::File { key, offset: offset + distance, shared },
            What::Something => What::Something,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Piece {
    at: u64,
    len: u64,
    prot: i32,
    what: What,
    /// Whether it belongs to the present user, not to the one before.
    wanted: bool,
}

impl Piece {
    /// What a change maps.
    fn of(op: &Op<'_>) -> Option<Piece> {
        let (at, len, prot, what) = match *op {
            Op::MapRam { at, len, prot, offset, .. } => (at, len, prot, What::Ram { offset }),
            Op::MapFile { at, len, prot, key, offset, shared, .. } => {
                // What is written to a private mapping is nobody else's.
                let certain = key != 0 && (shared || prot & libc::PROT_WRITE == 0);
                let what = if certain { What::File { key, offset, shared } } else { What::Something };
                (at, len, prot, what)
            }
            Op::Fill { .. } | Op::Guard { .. } | Op::Unmap { .. } | Op::Protect { .. } => return None,
        };
        Some(Piece { at, len, prot, what, wanted: true })
    }

    fn end(&self) -> u64 {
        self.at + self.len
    }

    /// The part of it between two addresses that it reaches across or to.
    fn part(&self, start: u64, end: u64) -> Option<Piece> {
        let (start, end) = (self.at.max(start), self.end().min(end));
        (start < end).then(|| Piece {
            at: start,
            len: end - start,
            what: self.what.behind(start - self.at),
            ..*self
        })
    }

    fn is_same(&self, other: &Piece) -> bool {
        self.what != What::Something
            && (self.at, self.len, self.prot, self.what) == (other.at, other.len, other.prot, other.what)
    }
}

/// The mappings of an address space, in order and without overlaps.
#[derive(Debug, Default)]
pub(crate) struct Shown {
    pieces: Vec<Piece>,
    /// There may be others, or these may not be there.
    uncertain: bool,
}

impl Shown {
    /// Whether it is certain.
    pub(crate) fn is_certain(&self) -> bool {
        !self.uncertain
    }

    /// From now on it is not, until everything is taken out.
    pub(crate) fn is_lost(&mut self) {
        self.pieces.clear();
        self.uncertain = true;
    }

    /// A change was made.
    pub(crate) fn change(&mut self, op: &Op<'_>) {
        match *op {
            Op::Unmap { at: 0, len } if len >= layout::REGION => *self = Shown::default(),
            _ if self.uncertain => {}
            Op::Fill { .. } => {}
            Op::Unmap { at, len } => self.cut(at, at.saturating_add(len)),
            Op::Protect { at, len, .. } | Op::Guard { at, len } => {
                self.blur(at, at.saturating_add(len));
            }
            Op::MapRam { .. } | Op::MapFile { .. } => self.put(Piece::of(op)),
        }
        if self.pieces.len() > MOST || self.pieces.first().is_some_and(|piece| piece.at < LOWEST) {
            self.is_lost();
        }
    }

    fn put(&mut self, piece: Option<Piece>) {
        let Some(piece) = piece else { return };
        self.cut(piece.at, piece.at.saturating_add(piece.len));
        let index = self.pieces.partition_point(|other| other.at < piece.at);
        self.pieces.insert(index, piece);
    }

    /// Takes a range out.
    fn cut(&mut self, start: u64, end: u64) {
        if self.pieces.iter().all(|piece| piece.end() <= start || end <= piece.at) {
            return;
        }
        let around = |piece: &Piece| [piece.part(0, start), piece.part(end, u64::MAX)];
        self.pieces = self.pieces.iter().flat_map(around).flatten().collect();
    }

    /// Nobody knows what is in a range, but that it was mapped.
    fn blur(&mut self, start: u64, end: u64) {
        let inside: Vec<_> = self.pieces.iter().filter_map(|piece| piece.part(start, end)).collect();
        for piece in inside {
            self.put(Some(Piece { what: What::Something, ..piece }));
        }
    }

    /// All of it belongs to somebody who is gone.
    pub(crate) fn is_left(&mut self) {
        self.pieces.iter_mut().for_each(|piece| piece.wanted = false);
    }

    /// How much RAM it shows, in bytes.
    pub(crate) fn ram(&self) -> u64 {
        let ram = self.pieces.iter().filter(|piece| !matches!(piece.what, What::File { .. }));
        ram.map(|piece| piece.len).sum()
    }

    /// What has to be changed so that what a new user shall be shown by `ops` is shown, and nothing else: what is left of the one before is taken out first, how many changes say how; then those of
    /// `ops` that are not there already, with their positions there. As if they had been made.
    pub(crate) fn reuse<'a>(&mut self, ops: &[Op<'a>]) -> (usize, Vec<(usize, Op<'a>)>) {
        let changes = self.differences(ops);
        if self.is_certain() {
            return changes;
        }
        let all = Op::Unmap { at: 0, len: layout::REGION };
        self.change(&all);
        ops.iter().for_each(|op| self.change(op));
        (1, [(0, all)].into_iter().chain(ops.iter().copied().enumerate()).collect())
    }

    fn differences<'a>(&mut self, ops: &[Op<'a>]) -> (usize, Vec<(usize, Op<'a>)>) {
        let mut changes = Vec::with_capacity(ops.len());
        for (index, op) in ops.iter().enumerate() {
            let there = Piece::of(op).and_then(|new| self.pieces.iter_mut().find(|old| old.is_same(&new)));
            match there {
                Some(there) => there.wanted = true,
                None => {
                    self.change(op);
                    changes.push((index, *op));
                }
            }
        }
        let runs = self.pieces.chunk_by(|a, b| !a.wanted && !b.wanted).filter(|run| !run[0].wanted);
        let left = runs.map(|run| {
            let (at, end) = (run[0].at, run[run.len() - 1].end());
            (0, Op::Unmap { at, len: end - at })
        });
        // Their places are apart from all others.
        let mut all: Vec<_> = left.collect();
        self.pieces.retain(|piece| piece.wanted);
        let count = all.len();
        all.append(&mut changes);
        (count, all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use std::fs::File;
    use std::os::fd::AsFd;

    const PAGE: u64 = 4096;
    const BASE: u64 = 0x40_0000;
    const PAGES: u64 = 24;

    /// Pages and what they show, as a host has them: rights, file or RAM, offset.
    type Host = BTreeMap<u64, (i32, Option<u64>, u64)>;

    fn apply(host: &mut Host, op: &Op<'_>) {
        let pages = |at: u64, len: u64| (at..at + len).step_by(PAGE as usize);
        match *op {
            Op::MapRam { at, len, prot, offset, .. } => {
                host.extend(pages(at, len).map(|page| (page, (prot, None, offset + page - at))));
            }
            Op::MapFile { at, len, prot, key, offset, .. } => {
                host.extend(pages(at, len).map(|page| (page, (prot, Some(key), offset + page - at))));
            }
            Op::Unmap { at, len } => host.retain(|page, _| *page < at || at + len <= *page),
            Op::Protect { at, len, prot } => {
                let inside = host.range_mut(at..at + len);
                inside.for_each(|(_, shown)| shown.0 = prot);
            }
            Op::Guard { at, len } => {
                let inside = host.range_mut(at..at + len);
                inside.for_each(|(_, shown)| shown.0 = -1);
            }
            Op::Fill { .. } => {}
        }
    }

    /// Changes that a machine could be asked for, few enough of them alike that some come again.
    fn some<'a>(random: &mut impl FnMut(u64) -> u64, file: &'a File) -> Vec<Op<'a>> {
        let count = random(12);
        let op = |_| {
            let (first, len) = (random(PAGES), 1 + random(4));
            let (at, len) = (BASE + first * PAGE, len.min(PAGES - first) * PAGE);
            let prot = [1, 3, 5][random(3) as usize];
            match random(9) {
                0 => Op::Unmap { at, len },
                1 => Op::Protect { at, len, prot },
                2 => Op::Fill { at, len },
                3 => Op::Guard { at, len },
                4..7 => {
                    let (key, offset, shared) = (1 + random(2), at - BASE, random(2) == 0);
                    let prot = if shared { prot } else { 1 };
                    Op::MapFile { at, len, prot, file: file.as_fd(), key, offset, shared }
                }
                _ => Op::MapRam { at, len, prot, offset: random(2) * PAGE, populate: false },
            }
        };
        (0..count).map(op).collect()
    }

    #[test]
    fn a_copy_that_gets_what_another_has_left_is_shown_what_a_new_one_would_be() {
        let file = File::open("/dev/null").unwrap();
        let mut state = 1u64;
        let mut random = |below: u64| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) % below
        };
        let (mut shown, mut host) = (Shown::default(), Host::new());
        let mut saved = 0;
        let mut before = Vec::new();
        for _ in 0..20_000 {
            // Often nearly the same as before.
            let ops = if random(2) == 0 { some(&mut random, &file) } else { before.clone() };
            let (left, changes) = shown.reuse(&ops);
            assert!(changes[..left].iter().all(|(_, op)| matches!(op, Op::Unmap { .. })));
            changes.iter().for_each(|(_, op)| apply(&mut host, op));
            let mut expected = Host::new();
            ops.iter().for_each(|op| apply(&mut expected, op));
            assert_eq!(host, expected);
            saved += (ops.len() + left).saturating_sub(changes.len());
            // What it does itself.
            for op in some(&mut random, &file) {
                shown.change(&op);
                apply(&mut host, &op);
            }
            assert!(shown.is_certain());
            shown.is_left();
            before = ops;
        }
        assert!(saved > 5_000, "{saved}");
    }

    #[test]
    fn what_nobody_knows_is_taken_out_whole() {
        let map = |at| Op::MapRam { at, len: PAGE, prot: 1, offset: 0, populate: false };
        let many = || (0..=MOST as u64).map(|i| map(BASE + 2 * i * PAGE));
        for (ops, lost) in
            [(many().collect::<Vec<_>>(), true), (vec![map(0)], true), (vec![map(BASE)], false)]
        {
            let mut shown = Shown::default();
            ops.iter().for_each(|op| shown.change(op));
            assert_eq!(shown.is_certain(), !lost);
            let (left, changes) = shown.reuse(&[map(BASE)]);
            let all = |op: &Op<'_>| matches!(op, Op::Unmap { at: 0, len: layout::REGION });
            assert_eq!((left == 1 && all(&changes[0].1), changes.len()), (lost, if lost { 2 } else { 0 }));
            assert!(shown.is_certain());
        }
        // So much that becomes too much on the way.
        let mut shown = Shown::default();
        (0..MOST as u64).for_each(|i| shown.change(&map(BASE + 2 * i * PAGE)));
        shown.is_left();
        let odd: Vec<_> = (0..4).map(|i| map(BASE + (2 * i + 1) * PAGE)).collect();
        let (left, changes) = shown.reuse(&odd);
        assert_eq!((left, changes.len()), (1, 5));
        assert!(matches!(changes[0].1, Op::Unmap { at: 0, len: layout::REGION }));
    }

    #[test]
    fn what_is_written_to_a_private_mapping_is_not_shown_again() {
        let file = File::open("/dev/null").unwrap();
        let map = |prot, key| {
            let file = file.as_fd();
            [Op::MapFile { at: BASE, len: PAGE, prot, file, key, offset: 0, shared: false }]
        };
        for (op, again) in [(map(1, 7), 0), (map(3, 7), 1), (map(1, 0), 1)] {
            let mut shown = Shown::default();
            shown.change(&op[0]);
            shown.is_left();
            assert_eq!(shown.reuse(&op).1.len(), again);
        }
    }
}
