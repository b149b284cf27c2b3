//! Memory of request bodies that are being read: bounded in all, and nobody's uploads leave nothing for others.
//!
//! A principal may hold as much as is still free (dynamic thresholds: Choudhury and Hahne, "Dynamic Queue Length Thresholds
//! for Shared-Memory Packet Switches", IEEE/ACM ToN 1998, with their alpha at 1): one alone half of all, two a third each, and
//! whoever comes anew finds as much as each of them has.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};

/// All together.
const BYTES_MAX: usize = 256 * 1024 * 1024;

/// Bodies under way.
#[derive(Default)]
pub(super) struct Bodies {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    held: usize,
    by_principal: HashMap<String, usize>,
}

/// What one body holds; given back when dropped.
pub(super) struct Held {
    bodies: Arc<Bodies>,
    principal: String,
    bytes: usize,
}

impl Bodies {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    pub(super) fn hold(self: &Arc<Self>, principal: &str) -> Held {
        Held { bodies: Arc::clone(self), principal: principal.to_owned(), bytes: 0 }
    }
}

impl Held {
    /// Room for `bytes` more; `false` where this principal holds too much already.
    pub(super) fn more(&mut self, bytes: usize) -> bool {
        let mut state = self.bodies.lock();
        let own = state.by_principal.get(&self.principal).copied().unwrap_or(0) + bytes;
        let held = state.held + bytes;
        if own > BYTES_MAX.saturating_sub(held) {
            return false;
        }
        state.held = held;
        state.by_principal.insert(self.principal.clone(), own);
        self.bytes += bytes;
        true
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut state = self.bodies.lock();
        state.held -= self.bytes;
        let left = state.by_principal.get(&self.principal).map_or(0, |own| own - self.bytes);
        if left == 0 {
            state.by_principal.remove(&self.principal);
        } else {
            state.by_principal.insert(self.principal.clone(), left);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_leaves_others_nothing() {
        let bodies = Arc::new(Bodies::default());
        let fill = |name: &str| {
            let mut held = bodies.hold(name);
            while held.more(1 << 20) {}
            held
        };
        let (a, b) = (fill("a"), fill("b"));
        assert_eq!((a.bytes >> 20, b.bytes >> 20), (128, 64));
        let mut again = bodies.hold("a");
        assert!(!again.more(1), "a second body of the same principal is the same principal's");
        assert!(bodies.hold("c").more(1 << 20));
        drop((a, b, again));
        let state = bodies.lock();
        assert_eq!((state.held, state.by_principal.len()), (0, 0));
    }
}
