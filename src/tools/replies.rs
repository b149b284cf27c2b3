//! Replies kept under the caller's own ids, so that the same call sent again runs once.
//!
//! Kept for 24 hours, at most so many and so many bytes of them; the oldest go first. Calls of which nothing ran are not
//! kept: sent again, they run.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::call::{CallError, Once};
use super::finish::Reply;

const KEPT_FOR: Duration = Duration::from_secs(24 * 3600);
const KEPT_MAX: usize = 10_000;
const KEPT_BYTES_MAX: usize = 64 * 1024 * 1024;

type Key = (String, String);

enum Slot {
    Running { fingerprint: [u8; 32], done: watch::Receiver<()> },
    Kept { fingerprint: [u8; 32], reply: Reply, bytes: usize },
}

#[derive(Default)]
struct State {
    slots: HashMap<Key, Slot>,
    /// Kept ones, oldest first.
    order: VecDeque<(Instant, Key)>,
    bytes: usize,
}

impl State {
    fn evict(&mut self, now: Instant) {
        while let Some((at, _)) = self.order.front()
            && (now.duration_since(*at) > KEPT_FOR || self.order.len() > KEPT_MAX || self.bytes > KEPT_BYTES_MAX)
        {
            if let Some((_, key)) = self.order.pop_front()
                && let Some(Slot::Kept { bytes, .. }) = self.slots.remove(&key)
            {
                self.bytes -= bytes;
            }
        }
    }
}

#[derive(Default)]
pub(super) struct Replies {
    state: Mutex<State>,
}

/// What is known under an id.
pub(super) enum Enter {
    Stored(Reply),
    /// The same call runs; the receiver ends when it does, and then it is time to ask again.
    Running(watch::Receiver<()>),
    New(Reserved),
}

/// The right to run under an id. Dropped without [`Reserved::keep`], the id is free again.
pub(super) struct Reserved {
    replies: Arc<Replies>,
    key: Option<Key>,
    fingerprint: [u8; 32],
    _done: watch::Sender<()>,
}

impl Reserved {
    /// Keeps `reply`, which holds about `bytes`.
    pub(super) fn keep(mut self, reply: Reply, bytes: usize) {
        let Some(key) = self.key.take() else { return };
        let now = Instant::now();
        let mut state = self.replies.lock();
        state.slots.insert(key.clone(), Slot::Kept { fingerprint: self.fingerprint, reply, bytes });
        state.order.push_back((now, key));
        state.bytes += bytes;
        state.evict(now);
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        if let Some(key) = self.key.take() {
            self.replies.lock().slots.remove(&key);
        }
    }
}

impl Replies {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// The running ones are bounded by the table of live executions.
    pub(super) fn enter(self: &Arc<Self>, principal: &str, once: &Once) -> Result<Enter, CallError> {
        let key = (principal.to_owned(), once.key.clone());
        let mut state = self.lock();
        state.evict(Instant::now());
        let known = match state.slots.get(&key) {
            None => None,
            Some(Slot::Running { fingerprint, done }) => Some((fingerprint, Enter::Running(done.clone()))),
            Some(Slot::Kept { fingerprint, reply, .. }) => Some((fingerprint, Enter::Stored(Arc::clone(reply)))),
        };
        match known {
            Some((fingerprint, _)) if *fingerprint != once.fingerprint => {
                Err(CallError::Conflict("this execution_id was used with another body"))
            }
            Some((_, entered)) => Ok(entered),
            None => {
                let (sender, done) = watch::channel(());
                state.slots.insert(key.clone(), Slot::Running { fingerprint: once.fingerprint, done });
                let reserved = Reserved {
                    replies: Arc::clone(self),
                    key: Some(key),
                    fingerprint: once.fingerprint,
                    _done: sender,
                };
                Ok(Enter::New(reserved))
            }
        }
    }
}
