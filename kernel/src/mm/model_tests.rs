//! Random operations on address spaces, compared with a model that is a map from pages to values.

use super::tests::{SEGV_ACCERR, SEGV_MAPERR, anon, load, new_mm, store};
use super::*;
use crate::fs::Mappable;
use crate::task::Cx;
use crate::testing;
use hal::mock::MockMachine;
use hal::{HostFile, PAGE_SIZE, Prot, SpaceError, VirtAddr};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::vec::Vec;

const BASE: u64 = 0x1000_0000;
const PAGES: u64 = 96;
const FILE_PAGES: u64 = 40;
const OBJECT_PAGES: u64 = 32;

struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % n
    }
}

/// Where a page's value is: its own, or in a shared object.
#[derive(Clone)]
enum Value {
    Own(u64),
    Shared(Rc<RefCell<Vec<u64>>>, u64),
}

#[derive(Clone)]
struct Page {
    prot: Prot,
    value: Value,
    /// What it is again after `MADV_DONTNEED`.
    clean: Value,
}

impl Page {
    fn get(&self) -> u64 {
        match &self.value {
            Value::Own(value) => *value,
            Value::Shared(object, index) => object.borrow()[*index as usize],
        }
    }
    fn set(&mut self, new: u64) {
        match &mut self.value {
            Value::Own(value) => *value = new,
            Value::Shared(object, index) => object.borrow_mut()[*index as usize] = new,
        }
    }
}

type Model = BTreeMap<u64, Page>;

fn value_at(cx: &Cx, mm: &Mm, page: u64, guest: bool) -> Result<u64, FaultOutcome> {
    let mut bytes = [0; 8];
    if guest {
        bytes.copy_from_slice(&load(cx, mm, page * PAGE_SIZE + 40, 8)?);
    } else if mm.read_bytes(cx, VirtAddr(page * PAGE_SIZE + 40), &mut bytes).is_err() {
        return Err(SEGV_MAPERR);
    }
    Ok(u64::from_ne_bytes(bytes))
}

fn check(cx: &Cx, mm: &Mm, model: &Model, page: u64, guest: bool, what: &str) {
    let found = value_at(cx, mm, page, guest);
    match model.get(&page) {
        None => assert_eq!(found, Err(SEGV_MAPERR), "{what}: page {page:#x} should be free"),
        Some(p) if p.prot.is_empty() => {
            assert!(found.is_err(), "{what}: page {page:#x} should not be readable");
        }
        Some(p) => assert_eq!(found, Ok(p.get()), "{what}: page {page:#x}, guest {guest}"),
    }
}

fn file_value(page: u64) -> u64 {
    0xf11e_0000 + page
}

fn prot(random: &mut Random) -> Prot {
    match random.below(6) {
        0 => Prot::empty(),
        1 => Prot::READ,
        2 => Prot::READ | Prot::EXEC,
        _ => Prot::READ | Prot::WRITE,
    }
}

fn run(seed: u64, steps: usize) {
    let machine = MockMachine::builder().memory(16 << 20).build();
    let mut content = std::vec![0u8; (FILE_PAGES * PAGE_SIZE) as usize];
    for page in 0..FILE_PAGES {
        let at = (page * PAGE_SIZE + 40) as usize;
        content[at..at + 8].copy_from_slice(&file_value(page).to_ne_bytes());
    }
    machine.mock_fs().add_file("/lib", 0o755, &content);
    testing::run_on(machine.clone(), testing::config(), move |cx| {
        let free = cx.kernel.frames.available();
        drive(cx, &machine, seed, steps);
        assert_eq!(cx.kernel.frames.available(), free, "seed {seed}: frames are lost");
        assert_eq!(machine.live_spaces(), 1, "seed {seed}: the task's own only");
    });
}

fn drive(cx: &Cx, machine: &Arc<MockMachine>, seed: u64, steps: usize) {
    let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let file: Arc<dyn HostFile> = Arc::new(machine.mock_fs().file("/lib"));
    let frames = &cx.kernel.frames;
    let cache = PageCache::new(cx.kernel.machine.clone(), frames.clone(), OBJECT_PAGES * PAGE_SIZE);
    let object = Rc::new(RefCell::new(std::vec![0u64; OBJECT_PAGES as usize]));
    let mut spaces: Vec<(Arc<Mm>, Model)> = std::vec![(new_mm(cx), Model::new())];
    let mut counter = 1u64;
    for step in 0..steps {
        let which = random.below(spaces.len() as u64) as usize;
        let first = BASE / PAGE_SIZE + random.below(PAGES);
        let len = 1 + random.below(12);
        let op = random.below(20);
        let what = std::format!("seed {seed} step {step} op {op} space {which}");
        if random.below(50) == 0 {
            machine.fail_next_update_after(random.below(3) as usize, SpaceError::NoMemory);
        }
        if op == 19 && spaces.len() < 4 {
            let (mm, model) = &spaces[which];
            let twin = (mm.fork(cx).expect(&what), model.clone());
            spaces.push(twin);
            continue;
        }
        if op == 18 && spaces.len() > 1 {
            spaces.swap_remove(which);
            continue;
        }
        let (mm, model) = &mut spaces[which];
        let range = first..first + len;
        let (start, bytes) = (first * PAGE_SIZE, len * PAGE_SIZE);
        match op {
            0 | 1 => {
                let prot = prot(&mut random);
                let request = MapRequest { addr: start, prot, flags: MapFlags::FIXED, ..anon(bytes) };
                mm.map(cx, request).expect(&what);
                let page = Page { prot, value: Value::Own(0), clean: Value::Own(0) };
                model.extend(range.map(|p| (p, page.clone())));
            }
            2 | 3 => {
                let prot = prot(&mut random);
                let from = random.below(FILE_PAGES - len);
                let request = MapRequest {
                    addr: start,
                    prot,
                    flags: MapFlags::FIXED,
                    object: Some(Mappable::Host(file.clone())),
                    offset: from * PAGE_SIZE,
                    ..anon(bytes)
                };
                // A file's offset counts only with the open file; without one the object stands for it.
                mm.map(cx, request).expect(&what);
                for p in range {
                    let value = Value::Own(file_value(from + (p - first)));
                    model.insert(p, Page { prot, value: value.clone(), clean: value });
                }
            }
            4 => {
                let prot = prot(&mut random);
                let from = random.below(OBJECT_PAGES - len);
                let request = MapRequest {
                    addr: start,
                    prot,
                    flags: MapFlags::FIXED | MapFlags::SHARED,
                    object: Some(Mappable::Cache(cache.clone())),
                    offset: from * PAGE_SIZE,
                    ..anon(bytes)
                };
                mm.map(cx, request).expect(&what);
                for p in range {
                    let value = Value::Shared(object.clone(), from + (p - first));
                    model.insert(p, Page { prot, value: value.clone(), clean: value });
                }
            }
            5 => {
                mm.unmap(cx, start, bytes).expect(&what);
                range.for_each(|p| drop(model.remove(&p)));
            }
            6 | 7 => {
                let prot = prot(&mut random);
                let result = mm.protect(cx, start, bytes, prot);
                let mut whole = true;
                for p in range {
                    let Some(page) = model.get_mut(&p).filter(|_| whole) else {
                        whole = false;
                        continue;
                    };
                    page.prot = prot;
                }
                assert_eq!(result.is_ok(), whole, "{what}");
            }
            8 => {
                let whole = range.clone().all(|p| model.contains_key(&p));
                assert_eq!(
                    mm.advise(cx, start, start + bytes, Advice::DontNeed { locked: false }).is_ok(),
                    whole,
                    "{what}"
                );
                for p in range {
                    if let Some(page) = model.get_mut(&p) {
                        page.value = page.clean.clone();
                    }
                }
            }
            9 => {
                // A hole in the shared object.
                let from = random.below(OBJECT_PAGES - len);
                cache.punch(cx, from * PAGE_SIZE, bytes);
                object.borrow_mut()[from as usize..(from + len) as usize].fill(0);
            }
            10 => {
                let to = BASE / PAGE_SIZE + random.below(PAGES);
                let apart = to + len <= first || first + len <= to;
                let flags = RemapFlags::MAYMOVE | RemapFlags::FIXED;
                let moved = mm.remap(cx, start, bytes, bytes, flags, to * PAGE_SIZE);
                assert!(apart || moved.is_err(), "{what}");
                if moved.is_ok() {
                    for i in 0..len {
                        // Holes between areas leave what is at the target.
                        if let Some(page) = model.remove(&(first + i)) {
                            model.insert(to + i, page);
                        }
                    }
                } else if apart {
                    // It begins with a hole; the target may have been emptied already, as Linux does it.
                    let whole = range.clone().all(|p| model.contains_key(&p));
                    assert!(!whole || len > 1, "{what}: {moved:?}");
                }
            }
            11..=14 => {
                let value = counter;
                counter += 1;
                let at = first * PAGE_SIZE + 40;
                let stored = match op {
                    11 => match mm.write_bytes(cx, VirtAddr(at), &value.to_ne_bytes()) {
                        Ok(()) => FaultOutcome::Handled,
                        Err(_) => SEGV_MAPERR,
                    },
                    _ => store(cx, mm, at, &value.to_ne_bytes()),
                };
                match model.get_mut(&first) {
                    Some(page) if page.prot.contains(Prot::WRITE) => {
                        assert_eq!(stored, FaultOutcome::Handled, "{what}");
                        page.set(value);
                    }
                    Some(_) if op != 11 => assert_eq!(stored, SEGV_ACCERR, "{what}"),
                    _ => assert_eq!(stored, SEGV_MAPERR, "{what}"),
                }
            }
            _ => check(cx, mm, model, first, op % 2 == 0, &what),
        }
        let probe = BASE / PAGE_SIZE + random.below(PAGES);
        let (mm, model) = &spaces[random.below(spaces.len() as u64) as usize];
        check(cx, mm, model, probe, random.below(2) == 0, &what);
    }
    for (i, (mm, model)) in spaces.iter().enumerate() {
        for page in BASE / PAGE_SIZE..BASE / PAGE_SIZE + PAGES + 12 {
            let what = std::format!("seed {seed} at the end, space {i}");
            check(cx, mm, model, page, true, &what);
            check(cx, mm, model, page, false, &what);
        }
    }
}

#[test]
fn random_operations_agree_with_the_model() {
    for seed in 1..=60 {
        run(seed, 400);
    }
}
