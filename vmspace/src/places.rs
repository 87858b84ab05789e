//! Where a runner keeps the registers of threads that it does not run: in places of its area, so that going from one to another and back moves none of them
//! between host CPUs.

use crate::context::{Cell, Place};
use crate::engine::lock;
use crate::frame::place_offset;
use crate::layout::{PLACES, call};
use crate::runner::{Inner, Runner};
use std::sync::Arc;

/// Which place is whose.
#[derive(Default)]
pub(crate) struct Places {
    /// The one of the thread that the runner runs.
    current: usize,
    /// Who has been told to keep registers there last; they may have gone elsewhere.
    kept: [Option<Arc<Cell>>; PLACES],
    /// Who has to go next when there is none free.
    next: usize,
}

impl Places {
    /// The place of the thread that the runner runs.
    pub(crate) fn current(&self) -> usize {
        self.current
    }
}

impl Runner {
    /// The registers of the thread that it runs are saved in its place, at call `nr`, and stay there: `owner` knows where from now on.
    pub(crate) fn keep(&self, inner: &mut Inner, owner: Arc<Cell>, nr: u64) {
        let place = inner.places.current;
        let keeps = lock(&owner.state).keep(self, place, nr);
        inner.places.kept[place] = keeps.then_some(owner);
    }

    /// Goes on with the registers in a place.
    pub(crate) fn use_place(&self, inner: &mut Inner, place: usize) {
        inner.places.kept[place] = None;
        // The runner looks at words beside this one.
        if inner.places.current != place {
            inner.places.current = place;
            self.put(call::PLACE, place_offset(place));
        }
    }

    /// Goes on in a place that keeps nobody's registers; those who have been kept longest are given theirs when all do.
    pub(crate) fn use_free_place(self: &Arc<Runner>, inner: &mut Inner) {
        let keeps = |place: usize, cell: &Cell| matches!(lock(&cell.state).place_in(self), Some(Place::Kept { place: at, .. }) if at == place);
        let places = &mut inner.places;
        let mut all = places.kept.iter().enumerate();
        let free = all.find(|(place, cell)| cell.as_ref().is_none_or(|cell| !keeps(*place, cell)));
        let place = free.map(|(place, _)| place).unwrap_or_else(|| {
            places.next = (places.next + 1) % PLACES;
            places.next
        });
        self.clear_place(inner, place);
        self.use_place(inner, place);
    }

    /// Gives back all registers that it keeps.
    pub(crate) fn clear_places(&self, inner: &mut Inner) {
        (0..PLACES).for_each(|place| self.clear_place(inner, place));
    }

    fn clear_place(&self, inner: &mut Inner, place: usize) {
        if let Some(cell) = inner.places.kept[place].take() {
            lock(&cell.state).take_from(self, place);
        }
    }
}
