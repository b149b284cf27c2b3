//! Who may have a sandbox now. Weighed by the memory promised to it and counted; the rest waits in order of arrival.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::oneshot;
use tokio::time::{Duration, Instant};

use super::call::CallError;
use crate::wire::CapacityWire;

/// A call without a `context.timeout` of its own waits no longer than this.
const WAIT_MAX: Duration = Duration::from_secs(60);
/// Told to who finds the queue full: about as long as a call takes that uses its default time up.
const RETRY_AFTER: Duration = Duration::from_secs(5);

pub(super) struct Admission {
    queue_max: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    sandboxes: u32,
    memory_bytes: u64,
    capacity: Option<CapacityWire>,
    waiting: VecDeque<Waiting>,
    closed: bool,
}

struct Waiting {
    memory_bytes: u64,
    turn: oneshot::Sender<Permit>,
}

/// A share of the capacity; dropping it gives it back.
pub(super) struct Permit {
    admission: Arc<Admission>,
    memory_bytes: u64,
}

impl Drop for Permit {
    fn drop(&mut self) {
        let turns = {
            let mut state = self.admission.lock();
            state.sandboxes -= 1;
            state.memory_bytes -= self.memory_bytes;
            state.turns(&self.admission)
        };
        // Outside of the lock: a waiter that is gone gives its permit back, by way of this same drop.
        turns.into_iter().for_each(grant);
    }
}

fn grant((turn, permit): (oneshot::Sender<Permit>, Permit)) {
    let _given_back = turn.send(permit);
}

impl State {
    fn has_room(&self, memory_bytes: u64) -> bool {
        self.capacity.is_some_and(|most| {
            self.sandboxes < most.sandboxes_max
                && self.memory_bytes.saturating_add(memory_bytes) <= most.memory_bytes_max
        })
    }

    fn reserve(&mut self, admission: &Arc<Admission>, memory_bytes: u64) -> Permit {
        self.sandboxes += 1;
        self.memory_bytes += memory_bytes;
        Permit { admission: Arc::clone(admission), memory_bytes }
    }

    /// Those at the head of the queue that fit now. A large one is not overtaken, so it does not starve.
    fn turns(&mut self, admission: &Arc<Admission>) -> Vec<(oneshot::Sender<Permit>, Permit)> {
        let mut turns = Vec::new();
        while let Some(head) = self.waiting.front() {
            if head.turn.is_closed() {
                self.waiting.pop_front();
            } else if self.has_room(head.memory_bytes) {
                let Some(head) = self.waiting.pop_front() else { break };
                turns.push((head.turn, self.reserve(admission, head.memory_bytes)));
            } else {
                break;
            }
        }
        turns
    }
}

impl Admission {
    pub(super) fn new(queue_max: usize) -> Self {
        Self { queue_max, state: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it is held.
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Room for one sandbox of `memory_bytes` within `capacity`, waiting until `deadline` at most.
    pub(super) async fn admit(
        self: &Arc<Self>,
        memory_bytes: u64,
        capacity: CapacityWire,
        deadline: Option<Instant>,
    ) -> Result<Permit, CallError> {
        if memory_bytes > capacity.memory_bytes_max {
            let what = format!(
                "the call asks for {memory_bytes} bytes of memory, all sandboxes together may have {}",
                capacity.memory_bytes_max
            );
            return Err(CallError::AtCapacity { what, retry_after: None });
        }
        let full = |what: &str| CallError::AtCapacity { what: what.into(), retry_after: Some(RETRY_AFTER) };
        let (turn, mut granted) = {
            let mut state = self.lock();
            if state.closed {
                return Err(CallError::Draining);
            }
            // A new engine may have another.
            state.capacity = Some(capacity);
            state.waiting.retain(|w| !w.turn.is_closed());
            if state.waiting.is_empty() && state.has_room(memory_bytes) {
                return Ok(state.reserve(self, memory_bytes));
            }
            if state.waiting.len() >= self.queue_max {
                return Err(full("as many calls wait for room as may wait"));
            }
            let (sender, granted) = oneshot::channel();
            state.waiting.push_back(Waiting { memory_bytes, turn: sender });
            (state.turns(self), granted)
        };
        turn.into_iter().for_each(grant);
        let last = Instant::now() + WAIT_MAX;
        let until = deadline.map_or(last, |deadline| deadline.min(last));
        match tokio::time::timeout_at(until, &mut granted).await {
            Ok(Ok(permit)) => Ok(permit),
            Ok(Err(_closed)) => Err(CallError::Draining),
            Err(_) => Err(full("no room came free in the time that the call may take")),
        }
    }

    pub(super) fn waiting(&self) -> usize {
        self.lock().waiting.iter().filter(|w| !w.turn.is_closed()).count()
    }

    /// Refuses every waiting and every later call.
    pub(super) fn close(&self) {
        let waiting = {
            let mut state = self.lock();
            state.closed = true;
            std::mem::take(&mut state.waiting)
        };
        drop(waiting);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWO: CapacityWire = CapacityWire { sandboxes_max: 2, memory_bytes_max: 100 };

    fn soon() -> Option<Instant> {
        Some(Instant::now() + Duration::from_millis(20))
    }

    fn refusal(result: Result<Permit, CallError>) -> bool {
        match result {
            Ok(_) => panic!("admitted"),
            Err(CallError::AtCapacity { retry_after, .. }) => retry_after.is_some(),
            Err(other) => panic!("{other}"),
        }
    }

    #[tokio::test]
    async fn memory_and_count_are_both_weighed() {
        let admission = Arc::new(Admission::new(4));
        assert!(!refusal(admission.admit(101, TWO, soon()).await), "can never fit, so no Retry-After");
        let a = admission.admit(60, TWO, None).await.unwrap();
        assert!(refusal(admission.admit(60, TWO, soon()).await));
        let b = admission.admit(40, TWO, None).await.unwrap();
        assert!(refusal(admission.admit(0, TWO, soon()).await));
        drop(a);
        let _c = admission.admit(60, TWO, None).await.unwrap();
        drop(b);
        assert_eq!(admission.lock().sandboxes, 1);
    }

    #[tokio::test]
    async fn the_queue_is_bounded_in_order_and_forgets_who_left() {
        let admission = Arc::new(Admission::new(2));
        let all = admission.admit(100, TWO, None).await.unwrap();
        let wait = |bytes| {
            let admission = Arc::clone(&admission);
            tokio::spawn(async move { admission.admit(bytes, TWO, None).await })
        };
        let (large, small) = (wait(90), wait(5));
        tokio::task::yield_now().await;
        assert!(refusal(admission.admit(1, TWO, None).await), "the queue is full");
        large.abort();
        assert!(large.await.is_err());
        let third = wait(95);
        tokio::task::yield_now().await;
        drop(all);
        let small = small.await.unwrap().unwrap();
        let third = third.await.unwrap().unwrap();
        assert_eq!(admission.lock().memory_bytes, 100);
        drop((small, third));
        let state = admission.lock();
        assert_eq!((state.memory_bytes, state.sandboxes, state.waiting.len()), (0, 0, 0));
    }

    #[tokio::test]
    async fn closing_refuses_who_waits() {
        let admission = Arc::new(Admission::new(2));
        let _all = admission.admit(100, TWO, None).await.unwrap();
        let waiting = tokio::spawn({
            let admission = Arc::clone(&admission);
            async move { admission.admit(1, TWO, None).await.err() }
        });
        tokio::task::yield_now().await;
        admission.close();
        assert!(matches!(waiting.await.unwrap(), Some(CallError::Draining)));
        assert!(matches!(admission.admit(1, TWO, None).await.err(), Some(CallError::Draining)));
    }
}
