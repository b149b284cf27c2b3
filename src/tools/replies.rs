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
/// Calls of one principal that wait for the reply of another, each of which holds its own text meanwhile.
const WAITING_MAX: usize = 64;

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
    /// By principal; nobody with none.
    waiting: HashMap<String, usize>,
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
    /// The same call runs.
    Running(Waiting),
    New(Reserved),
}

/// A place among those that wait for somebody else's run.
pub(super) struct Waiting {
    replies: Arc<Replies>,
    principal: String,
    done: watch::Receiver<()>,
}

impl Waiting {
    /// Completes when the run has ended; then it is time to ask again.
    pub(super) async fn wait(mut self) {
        // Ends when its sender is dropped, which is with its run.
        while self.done.changed().await.is_ok() {}
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let mut state = self.replies.lock();
        if let Some(count) = state.waiting.get_mut(&self.principal) {
            *count -= 1;
            if *count == 0 {
                state.waiting.remove(&self.principal);
            }
        }
    }
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
        match state.slots.get(&key) {
            Some(Slot::Running { fingerprint, .. } | Slot::Kept { fingerprint, .. })
                if *fingerprint != once.fingerprint =>
            {
                Err(CallError::Conflict("this execution_id was used with another body"))
            }
            Some(Slot::Kept { reply, .. }) => Ok(Enter::Stored(Arc::clone(reply))),
            Some(Slot::Running { done, .. }) => {
                let done = done.clone();
                let count = state.waiting.entry(principal.to_owned()).or_default();
                if *count >= WAITING_MAX {
                    return Err(CallError::RateLimited {
                        what: "as many calls of this principal wait for another's reply as may wait".into(),
                        retry_after: Duration::from_secs(1),
                    });
                }
                *count += 1;
                Ok(Enter::Running(Waiting { replies: Arc::clone(self), principal: principal.to_owned(), done }))
            }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn once(key: &str) -> Once {
        Once { key: key.into(), fingerprint: [0; 32] }
    }

    #[tokio::test]
    async fn those_that_wait_for_a_run_are_bounded_and_forgotten() {
        let replies = Arc::<Replies>::default();
        let Ok(Enter::New(first)) = replies.enter("a", &once("x")) else { panic!() };
        let waiting: Vec<_> = (0..WAITING_MAX)
            .map(|_| match replies.enter("a", &once("x")) {
                Ok(Enter::Running(waiting)) => waiting,
                _ => panic!(),
            })
            .collect();
        assert!(matches!(replies.enter("a", &once("x")), Err(CallError::RateLimited { .. })));
        // Nobody else's bound, and another call of the same principal is none that waits.
        let Ok(Enter::New(_other)) = replies.enter("b", &once("x")) else { panic!() };
        assert!(matches!(replies.enter("b", &once("x")), Ok(Enter::Running(_))));
        assert!(matches!(replies.enter("a", &once("y")), Ok(Enter::New(_))));
        drop(first);
        for one in waiting {
            one.wait().await;
        }
        assert!(matches!(replies.enter("a", &once("x")), Ok(Enter::New(_))));
        assert!(replies.lock().waiting.is_empty());
    }
}
