//! Shares of something that there is only so much of. Whoever finds none is told at once and waits for nobody.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Who has how much, by principal.
pub(super) struct Rooms {
    held: Mutex<BTreeMap<String, Held>>,
    bounds: Bounds,
}

/// The most. What alone is larger than a bound of units is let in where nobody else is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// Rooms of one principal.
    pub each: usize,
    /// Units of one principal.
    pub units_each: usize,
    /// Units of all.
    pub units: usize,
}

#[derive(Debug, Clone, Copy, Default)]
struct Held {
    rooms: usize,
    units: usize,
}

/// One share; given back when dropped.
pub(super) struct Room {
    of: Arc<Rooms>,
    principal: String,
    units: usize,
}

/// Whose bound left no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Full {
    Principal,
    All,
}

impl Rooms {
    pub(super) fn new(bounds: Bounds) -> Arc<Self> {
        Arc::new(Self { held: Mutex::default(), bounds })
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Held>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn enter(self: &Arc<Self>, principal: &str, units: usize) -> Result<Room, Full> {
        let mut held = self.lock();
        let all: usize = held.values().map(|h| h.units).sum();
        let own = held.get(principal).copied().unwrap_or_default();
        let beyond = |held: usize, most: usize| held > 0 && held.saturating_add(units) > most;
        if own.rooms >= self.bounds.each || beyond(own.units, self.bounds.units_each) {
            return Err(Full::Principal);
        }
        if beyond(all, self.bounds.units) {
            return Err(Full::All);
        }
        let own = held.entry(principal.to_owned()).or_default();
        own.rooms += 1;
        own.units = own.units.saturating_add(units);
        Ok(Room { of: Arc::clone(self), principal: principal.to_owned(), units })
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        let mut held = self.of.lock();
        match held.get_mut(&self.principal) {
            Some(own) if own.rooms > 1 => {
                own.rooms -= 1;
                own.units = own.units.saturating_sub(self.units);
            }
            _ => drop(held.remove(&self.principal)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_takes_the_share_of_others_and_all_comes_back() {
        let rooms = Rooms::new(Bounds { each: 3, units_each: 10, units: 15 });
        let first = rooms.enter("a", 6).unwrap();
        assert_eq!(rooms.enter("a", 5).err(), Some(Full::Principal));
        let second = rooms.enter("a", 4).unwrap();
        assert_eq!(rooms.enter("b", 6).err(), Some(Full::All));
        let other = rooms.enter("b", 5).unwrap();
        drop(first);
        let small = [rooms.enter("a", 0).unwrap(), rooms.enter("a", 1).unwrap()];
        assert_eq!(rooms.enter("a", 0).err(), Some(Full::Principal));
        drop((second, other, small));
        assert!(rooms.lock().is_empty());
        // Alone, what is larger than any bound.
        let large = rooms.enter("a", 100).unwrap();
        assert_eq!((rooms.enter("a", 1).err(), rooms.enter("b", 1).err()), (Some(Full::Principal), Some(Full::All)));
        drop(large);
        assert!(rooms.enter("b", 1).is_ok());
    }
}
