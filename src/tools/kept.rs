//! Executions that have ended and can still be asked about: those that ran without a caller, and those that were followed.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::live::Entry;
use super::principal::Principal;
use crate::spec::ExecutionId;

pub(super) const KEPT_FOR: Duration = Duration::from_secs(3600);
const KEPT_MAX: usize = 10_000;
/// What all of them hold together.
const KEPT_BYTES_MAX: usize = 128 * 1024 * 1024;
/// Of one beside its events.
const OVERHEAD_BYTES: usize = 1024;

type Key = (String, ExecutionId);

#[derive(Default)]
pub(super) struct Kept {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    entries: HashMap<Key, One>,
    /// Oldest first; a key may be of one that was removed, or came again later.
    order: VecDeque<(Instant, u64, Key)>,
    bytes: usize,
}

struct One {
    entry: Arc<Entry>,
    bytes: usize,
}

impl State {
    fn remove(&mut self, key: &Key) -> bool {
        let found = self.entries.remove(key);
        self.bytes -= found.as_ref().map_or(0, |one| one.bytes);
        if let Some(spool) = found.as_ref().and_then(|one| one.entry.spool.as_ref()) {
            spool.remove();
        }
        found.is_some()
    }

    /// Forgets what is too old or too many.
    fn expire(&mut self, now: Instant) {
        while let Some((at, number, key)) = self.order.front() {
            let is_it = self.entries.get(key).is_some_and(|one| one.entry.number == *number);
            if is_it && now.duration_since(*at) <= KEPT_FOR && self.entries.len() <= KEPT_MAX {
                return;
            }
            let key = key.clone();
            self.order.pop_front();
            if is_it {
                self.remove(&key);
            }
        }
    }

    /// Where all hold too much, forgets the oldest of whoever holds more than a share. `newest` stays in any case: its caller
    /// was just told where it is. So all hold the bound and one more at most.
    fn make_room(&mut self, newest: &Key) {
        while self.bytes > KEPT_BYTES_MAX {
            let mut held: HashMap<&str, usize> = HashMap::new();
            for (key, one) in &self.entries {
                *held.entry(&key.0).or_default() += one.bytes;
            }
            let share = KEPT_BYTES_MAX / held.len().max(1);
            let goes = |(_, number, key): &&(Instant, u64, Key)| {
                key != newest
                    && held.get(key.0.as_str()).is_some_and(|bytes| *bytes > share)
                    && self.entries.get(key).is_some_and(|one| one.entry.number == *number)
            };
            let Some(oldest) = self.order.iter().find(goes).map(|(_, _, key)| key.clone()) else { break };
            self.remove(&oldest);
        }
        // Places of those that were removed from the middle.
        if self.order.len() > 2 * self.entries.len() + 64 {
            let entries = &self.entries;
            self.order.retain(|(_, number, key)| entries.get(key).is_some_and(|one| one.entry.number == *number));
        }
    }
}

fn key(entry: &Entry) -> Key {
    (entry.owner.clone(), entry.id.clone())
}

impl Kept {
    fn lock(&self) -> MutexGuard<'_, State> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.expire(Instant::now());
        state
    }

    pub(super) fn tidy(&self) {
        drop(self.lock());
    }

    /// `entry` has ended.
    pub(super) fn insert(&self, entry: Arc<Entry>) {
        self.insert_of(entry, Instant::now());
    }

    /// `entry` ended at `then`; not before one that was inserted.
    pub(super) fn insert_of(&self, entry: Arc<Entry>, then: Instant) {
        let bytes = OVERHEAD_BYTES + entry.log.as_ref().map_or(0, |log| log.held_bytes());
        let (now, key) = (Instant::now(), key(&entry));
        let mut state = self.lock();
        state.remove(&key);
        state.order.push_back((then, entry.number, key.clone()));
        state.bytes += bytes;
        state.entries.insert(key.clone(), One { entry, bytes });
        state.expire(now);
        state.make_room(&key);
    }

    /// Own ones first, as with those under way.
    pub(super) fn get(&self, principal: &Principal, id: &ExecutionId) -> Option<Arc<Entry>> {
        let state = self.lock();
        if let Some(own) = state.entries.get(&(principal.name.clone(), id.clone())) {
            return Some(Arc::clone(&own.entry));
        }
        let mut all = state.entries.values();
        all.find(|one| principal.is_admin() && one.entry.id == *id).map(|one| Arc::clone(&one.entry))
    }

    /// Those that `principal` may see, in no order.
    pub(super) fn list(&self, principal: &Principal) -> Vec<Arc<Entry>> {
        let sees = |entry: &Entry| principal.is_admin() || entry.owner == principal.name;
        self.lock().entries.values().filter(|one| sees(&one.entry)).map(|one| Arc::clone(&one.entry)).collect()
    }

    pub(super) fn own(&self, owner: &str, id: &ExecutionId) -> Option<Arc<Entry>> {
        self.lock().entries.get(&(owner.to_owned(), id.clone())).map(|one| Arc::clone(&one.entry))
    }

    pub(super) fn remove(&self, owner: &str, id: &ExecutionId) {
        self.lock().remove(&(owner.to_owned(), id.clone()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Role;
    use crate::spec::Level;
    use crate::tools::live::Following;

    fn entry(n: u64) -> Arc<Entry> {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&n.to_le_bytes());
        let owner = Principal::new("a", Role::User);
        Arc::new(Entry::new(ExecutionId::from_random(bytes), &owner, "t", Level::Standard, None, Following::Detached))
    }

    #[test]
    fn the_oldest_go_first_and_whoever_removes_one_frees_its_room() {
        let kept = Kept::default();
        let all: Vec<_> = (0..KEPT_MAX as u64 + 10).map(entry).collect();
        all.iter().for_each(|entry| kept.insert(Arc::clone(entry)));
        let (own, other) = (Principal::new("a", Role::User), Principal::new("b", Role::User));
        assert!(kept.get(&own, &all[9].id).is_none());
        assert!(kept.get(&own, &all[10].id).is_some());
        assert!(kept.get(&other, &all[10].id).is_none());
        assert!(kept.get(&Principal::new("c", Role::Admin), &all[10].id).is_some());
        assert_eq!((kept.list(&own).len(), kept.list(&other).len()), (KEPT_MAX, 0));
        all.iter().for_each(|entry| kept.remove(&entry.owner, &entry.id));
        let state = kept.lock();
        assert_eq!((state.entries.len(), state.bytes), (0, 0));
    }
}
