//! Who may have a sandbox now, and who waits for how long. The order is [`super::fair`]'s; here are locks, clocks and wakers.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::{Notify, oneshot};
use tokio::time::{Duration, Instant};

use super::call::CallError;
use super::fair::{Ask, Bounds, Fair, Full, Ticket};
use crate::config::Config;
use crate::telemetry::admission::{AdmissionMetrics, Refused};
use crate::wire::CapacityWire;

pub(super) struct Admission {
    wait_max: Duration,
    began: Instant,
    metrics: AdmissionMetrics,
    state: Mutex<State>,
    /// Saving changes earlier than it was said to.
    earlier: Notify,
}

struct State {
    fair: Fair,
    /// One for each ticket that waits.
    wakers: HashMap<Ticket, oneshot::Sender<Turn>>,
    closed: bool,
    /// When somebody looks again because saving for a large call changes.
    watched: Option<Duration>,
}

/// What a waiting call is told. A sender that is dropped tells that the daemon stops.
enum Turn {
    Granted,
    PushedOut,
}

/// A share of the capacity; dropping it gives it back.
pub(super) struct Permit {
    admission: Arc<Admission>,
    owner: String,
    memory_bytes: u64,
}

impl Drop for Permit {
    fn drop(&mut self) {
        let now = self.admission.now();
        let mut state = self.admission.lock();
        state.fair.release(&self.owner, self.memory_bytes, now);
        self.admission.wake(&mut state);
    }
}

/// A place in a queue. Who goes away leaves it, or gives back the turn that had come already.
struct Place<'a> {
    admission: &'a Arc<Admission>,
    owner: &'a str,
    memory_bytes: u64,
    ticket: Ticket,
    told: oneshot::Receiver<Turn>,
    done: bool,
}

impl Place<'_> {
    fn permit(&mut self) -> Permit {
        self.done = true;
        Permit { admission: Arc::clone(self.admission), owner: self.owner.to_owned(), memory_bytes: self.memory_bytes }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if self.done {
            return;
        }
        {
            let mut state = self.admission.lock();
            if state.wakers.remove(&self.ticket).is_some() {
                state.fair.leave(self.owner, self.ticket);
                self.admission.wake(&mut state);
                return;
            }
        }
        // It was told something, and tickets are told under the lock.
        if let Ok(Turn::Granted) = self.told.try_recv() {
            drop(self.permit());
        }
    }
}

impl State {
    fn tell(&mut self, ticket: Ticket, turn: Turn) {
        if let Some(waker) = self.wakers.remove(&ticket) {
            // A place that is being dropped right now finds it in its own end of the channel.
            let _leaving = waker.send(turn);
        }
    }
}

impl Admission {
    pub(super) fn new(config: &Config, metrics: AdmissionMetrics) -> Self {
        let bounds = Bounds {
            queue_max: config.http.queue_max,
            queue_total_max: config.http.queue_total_max,
            principal_percent: config.capacity.principal_percent,
        };
        Self {
            wait_max: Duration::from_millis(config.http.queue_wait_max_ms),
            began: Instant::now(),
            metrics,
            state: Mutex::new(State { fair: Fair::new(bounds), wakers: HashMap::new(), closed: false, watched: None }),
            earlier: Notify::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it is held.
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Tells those whose turn has come, and those that had to leave.
    fn wake(self: &Arc<Self>, state: &mut State) {
        for ticket in state.fair.pushed_out() {
            state.tell(ticket, Turn::PushedOut);
        }
        for ticket in state.fair.turns(self.now()) {
            state.tell(ticket, Turn::Granted);
        }
        let Some(at) = state.fair.changes_at() else { return };
        match state.watched {
            Some(watched) if at < watched => self.earlier.notify_one(),
            Some(_) => {}
            // Without a runtime the daemon is at its end.
            None => {
                if let Ok(runtime) = tokio::runtime::Handle::try_current() {
                    state.watched = Some(at);
                    runtime.spawn(Arc::clone(self).watch());
                }
            }
        }
    }

    /// For as long as a large call is saved for: what is lent out, or no longer, is to be seen by those that wait.
    async fn watch(self: Arc<Self>) {
        loop {
            let at = {
                let mut state = self.lock();
                self.wake(&mut state);
                state.watched = state.fair.changes_at();
                state.watched
            };
            let Some(at) = at else { return };
            // That of a call which left may be long, and the next one's begins anew.
            let _earlier = tokio::time::timeout_at(self.began + at, self.earlier.notified()).await;
        }
    }

    fn now(&self) -> Duration {
        self.began.elapsed()
    }

    /// Room within `capacity` for a sandbox of what `owner` asks for, waiting until `deadline` at most.
    pub(super) async fn admit(
        self: &Arc<Self>,
        owner: &str,
        ask: Ask,
        capacity: CapacityWire,
        deadline: Option<Instant>,
    ) -> Result<Permit, CallError> {
        let memory_bytes = ask.memory_bytes;
        if memory_bytes > capacity.memory_bytes_max {
            self.metrics.refused(Refused::TooLarge);
            let what = format!(
                "the call asks for {memory_bytes} bytes of memory, all sandboxes together may have {}",
                capacity.memory_bytes_max
            );
            return Err(CallError::AtCapacity { what, retry_after: None });
        }
        let arrived = Instant::now();
        let mut place = {
            let mut state = self.lock();
            if state.closed {
                return Err(CallError::Draining);
            }
            state.fair.set_capacity(capacity);
            if state.fair.at_once(owner, memory_bytes) {
                self.metrics.admitted(None);
                return Ok(Permit { admission: Arc::clone(self), owner: owner.to_owned(), memory_bytes });
            }
            let arrived = state.fair.arrive(owner, ask, self.now());
            let place = match arrived {
                Ok(ticket) => {
                    let (waker, told) = oneshot::channel();
                    state.wakers.insert(ticket, waker);
                    Ok(Place { admission: self, owner, memory_bytes, ticket, told, done: false })
                }
                Err(full) => Err((full, state.fair.retry_after(owner, self.now()))),
            };
            self.wake(&mut state);
            // Nothing of a place may be dropped under the lock: it takes it.
            drop(state);
            place.map_err(|(full, retry_after)| self.full(full, retry_after))?
        };
        let last = arrived + self.wait_max;
        let until = deadline.map_or(last, |deadline| deadline.min(last));
        match tokio::time::timeout_at(until, &mut place.told).await {
            Ok(Ok(Turn::Granted)) => {
                self.metrics.admitted(Some(arrived.elapsed()));
                Ok(place.permit())
            }
            Ok(Ok(Turn::PushedOut)) => Err(self.refuse(owner, memory_bytes, Refused::PushedOut)),
            Ok(Err(_closed)) => Err(CallError::Draining),
            Err(_) => Err(self.refuse(owner, memory_bytes, Refused::Waited)),
        }
    }

    /// The share of a sandbox that is there already.
    pub(super) fn take_over(self: &Arc<Self>, owner: &str, memory_bytes: u64) -> Permit {
        self.lock().fair.take(owner, memory_bytes);
        Permit { admission: Arc::clone(self), owner: owner.to_owned(), memory_bytes }
    }

    fn full(&self, full: Full, retry_after: Duration) -> CallError {
        match full {
            Full::Own => {
                self.metrics.refused(Refused::OwnQueue);
                let what = "as many calls of this principal wait for room as may wait".into();
                CallError::RateLimited { what, retry_after }
            }
            Full::All => {
                self.metrics.refused(Refused::AllQueues);
                let what = "as many calls wait for room as may wait".into();
                CallError::AtCapacity { what, retry_after: Some(retry_after) }
            }
        }
    }

    fn refuse(&self, owner: &str, memory_bytes: u64, why: Refused) -> CallError {
        self.metrics.refused(why);
        let (retry_after, own) = {
            let state = self.lock();
            (state.fair.retry_after(owner, self.now()), !state.fair.may_hold(owner, memory_bytes))
        };
        if own && why == Refused::Waited {
            let what = "this principal holds as much as one may, and nothing of it came free in time".into();
            return CallError::RateLimited { what, retry_after };
        }
        let what = match why {
            Refused::PushedOut => "calls of principals with shorter queues took the place of this one",
            _ => "no room came free in the time that the call may take",
        };
        CallError::AtCapacity { what: what.into(), retry_after: Some(retry_after) }
    }

    /// Calls that wait, and principals that they belong to.
    pub(super) fn waiting(&self) -> (usize, usize) {
        let state = self.lock();
        (state.fair.waiting(), state.fair.waiting_principals())
    }

    pub(super) fn is_closed(&self) -> bool {
        self.lock().closed
    }

    /// Refuses every waiting and every later call.
    pub(super) fn close(&self) {
        let wakers = {
            let mut state = self.lock();
            state.closed = true;
            state.fair.clear();
            std::mem::take(&mut state.wakers)
        };
        drop(wakers);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWO: CapacityWire = CapacityWire { sandboxes_max: 2, memory_bytes_max: 100 };

    fn admission(queue_max: usize) -> Arc<Admission> {
        let text = format!("[http]\nqueue_max = {queue_max}\nqueue_total_max = 3\n");
        let config = Config::parse(&text, std::path::Path::new("t"), &Default::default()).unwrap();
        Arc::new(Admission::new(&config, AdmissionMetrics::default()))
    }

    fn ask(memory_bytes: u64) -> Ask {
        Ask { memory_bytes, text_bytes: 0 }
    }

    fn soon() -> Option<Instant> {
        Some(Instant::now() + Duration::from_millis(20))
    }

    fn refusal(result: Result<Permit, CallError>) -> (&'static str, bool) {
        match result {
            Ok(_) => panic!("admitted"),
            Err(CallError::AtCapacity { retry_after, .. }) => ("all", retry_after.is_some()),
            Err(CallError::RateLimited { .. }) => ("own", true),
            Err(other) => panic!("{other}"),
        }
    }

    fn wait(
        admission: &Arc<Admission>,
        owner: &'static str,
        bytes: u64,
    ) -> tokio::task::JoinHandle<Result<Permit, CallError>> {
        let admission = Arc::clone(admission);
        tokio::spawn(async move { admission.admit(owner, ask(bytes), TWO, None).await })
    }

    #[tokio::test]
    async fn memory_and_count_are_both_weighed() {
        let admission = admission(4);
        let never = admission.admit("a", ask(101), TWO, soon()).await;
        assert_eq!(refusal(never), ("all", false), "can never fit, so no Retry-After");
        let a = admission.admit("a", ask(60), TWO, None).await.unwrap();
        assert_eq!(refusal(admission.admit("a", ask(60), TWO, soon()).await), ("all", true));
        let b = admission.admit("a", ask(40), TWO, None).await.unwrap();
        assert_eq!(refusal(admission.admit("a", ask(0), TWO, soon()).await), ("all", true));
        drop(a);
        let _c = admission.admit("a", ask(60), TWO, None).await.unwrap();
        drop(b);
        assert_eq!(admission.lock().fair.held(), (1, 60));
    }

    #[tokio::test]
    async fn queues_are_bounded_and_forget_who_left() {
        let admission = admission(2);
        let all = admission.admit("a", ask(100), TWO, None).await.unwrap();
        let (first, second) = (wait(&admission, "a", 90), wait(&admission, "a", 5));
        tokio::task::yield_now().await;
        assert_eq!(refusal(admission.admit("a", ask(1), TWO, None).await), ("own", true));
        let other = wait(&admission, "b", 5);
        tokio::task::yield_now().await;
        // All queues are full now, and the longest gives up its newest.
        let third = wait(&admission, "c", 95);
        assert_eq!(refusal(second.await.unwrap()), ("all", true));
        assert_eq!(admission.waiting(), (3, 3));
        first.abort();
        assert!(first.await.is_err());
        assert_eq!(admission.waiting(), (2, 2));
        drop(all);
        let (other, third) = (other.await.unwrap().unwrap(), third.await.unwrap().unwrap());
        assert_eq!(admission.lock().fair.held(), (2, 100));
        drop((other, third));
        let state = admission.lock();
        assert_eq!((state.fair.held(), state.fair.waiting(), state.fair.known()), ((0, 0), 0, 0));
        assert!(state.wakers.is_empty());
    }

    #[tokio::test]
    async fn a_turn_that_nobody_takes_is_given_back() {
        let admission = admission(2);
        let all = admission.admit("a", ask(100), TWO, None).await.unwrap();
        let (gone, next) = (wait(&admission, "a", 100), wait(&admission, "a", 100));
        tokio::task::yield_now().await;
        drop(all);
        // Its turn has come, and it has not run since.
        gone.abort();
        assert!(gone.await.is_err());
        drop(next.await.unwrap().unwrap());
        assert_eq!(admission.lock().fair.held(), (0, 0));
    }

    #[tokio::test]
    async fn who_has_its_share_is_told_so() {
        let text = "[capacity]\nprincipal_percent = 50\n";
        let config = Config::parse(text, std::path::Path::new("t"), &Default::default()).unwrap();
        let admission = Arc::new(Admission::new(&config, AdmissionMetrics::default()));
        let _own = admission.admit("a", ask(50), TWO, None).await.unwrap();
        assert_eq!(refusal(admission.admit("a", ask(10), TWO, soon()).await), ("own", true));
        // Control: for another there is room, and where there is none it is everybody's.
        let _other = admission.admit("b", ask(10), TWO, soon()).await.unwrap();
        assert_eq!(refusal(admission.admit("c", ask(10), TWO, soon()).await), ("all", true));
    }

    #[tokio::test]
    async fn a_later_saving_does_not_wait_for_the_end_of_an_earlier_one() {
        let admission = admission(8);
        let _long = admission.admit("a", ask(30), TWO, None).await.unwrap();
        // A large call is saved for, spell by spell, because a small one would pass it.
        let large = wait(&admission, "b", 90);
        tokio::task::yield_now().await;
        drop(admission.admit("c", ask(1), TWO, None).await.unwrap());
        // The third spell is two seconds long.
        tokio::time::sleep(Duration::from_millis(2100)).await;
        let late = admission.lock().fair.changes_at().unwrap() - admission.now();
        assert!(late > Duration::from_millis(1500), "{late:?}");
        large.abort();
        assert!(large.await.is_err());
        let _next = wait(&admission, "d", 80);
        tokio::task::yield_now().await;
        drop(admission.admit("c", ask(1), TWO, None).await.unwrap());
        let began = admission.now();
        let first = admission.lock().fair.changes_at().unwrap();
        assert!(first - began <= Duration::from_secs(1));
        tokio::time::sleep(Duration::from_millis(1200)).await;
        // What was saved in the first spell is lent out by now.
        assert!(admission.lock().fair.changes_at().unwrap() > first);
    }

    #[tokio::test]
    async fn closing_refuses_who_waits() {
        let admission = admission(2);
        let _all = admission.admit("a", ask(100), TWO, None).await.unwrap();
        let waiting = wait(&admission, "a", 1);
        tokio::task::yield_now().await;
        admission.close();
        assert!(matches!(waiting.await.unwrap().err(), Some(CallError::Draining)));
        assert!(matches!(admission.admit("a", ask(1), TWO, None).await.err(), Some(CallError::Draining)));
    }
}
