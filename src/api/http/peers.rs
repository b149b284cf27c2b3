//! Whose connections there are: bounded for each peer and in all, so that no peer can hold them all.
//!
//! Where there are as many as may be, a peer that has fewer than another takes an idle one of that other's place. A call that
//! runs is never ended for somebody else's connection. Root on the Unix socket has places beyond those of all, so that an
//! operator can look at a daemon whose connections others hold.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::api::identity::Peer;
use crate::telemetry::admission::{ConnectionMetrics, Crowded};

/// Root's own places.
const ROOT_MAX: usize = 8;
/// For so long after it was made a reply may still be on its way, and its connection is no idle one.
const SENDING_MAX: Duration = Duration::from_secs(1);
/// Whoever follows hears something every 15 s; one who takes nothing for so long is not reading.
pub(super) const STREAMING_MAX: Duration = Duration::from_secs(30);

/// Who counts as one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Key {
    Uid(u32),
    /// An IPv4 address, or the network part of an IPv6 address: a single host commonly has 64 bits to choose from (RFC
    /// 4291, 2.5.1).
    Ip(IpAddr),
}

impl Key {
    fn of(peer: Peer) -> Self {
        match peer {
            Peer::Unix { uid, .. } => Key::Uid(uid),
            Peer::Tcp(address) => Key::Ip(match address.ip().to_canonical() {
                IpAddr::V6(ip) => IpAddr::V6((u128::from(ip) >> 64 << 64).into()),
                v4 => v4,
            }),
        }
    }
}

/// The connections of one kind of listener.
pub(super) struct Peers {
    max: usize,
    per_peer_max: usize,
    metrics: ConnectionMetrics,
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    open: usize,
    by_peer: HashMap<Key, Vec<Arc<Activity>>>,
}

impl Peers {
    pub(super) fn new(max: usize, per_peer_max: usize, metrics: ConnectionMetrics) -> Arc<Self> {
        Arc::new(Self { max, per_peer_max, metrics, table: Mutex::default() })
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// A place for a connection of `peer`, or why there is none.
    pub(super) fn enter(self: &Arc<Self>, peer: Peer) -> Result<Seat, Crowded> {
        let key = Key::of(peer);
        let most = if key == Key::Uid(0) { self.max + ROOT_MAX } else { self.max };
        let mut table = self.lock();
        let own = table.by_peer.get(&key).map_or(0, Vec::len);
        let full = table.open >= most;
        let refused = if own >= self.per_peer_max {
            Some(Crowded::Peer)
        } else if full && !table.evict(own + 1) {
            Some(Crowded::All)
        } else {
            None
        };
        if let Some(why) = refused {
            self.metrics.refused(why);
            return Err(why);
        }
        if full {
            self.metrics.evicted();
            table.open -= 1;
        }
        let activity = Arc::new(Activity::new());
        table.open += 1;
        table.by_peer.entry(key).or_default().push(Arc::clone(&activity));
        self.metrics.opened();
        Ok(Seat { peers: Arc::clone(self), key, activity })
    }
}

impl Table {
    /// Sends away the connection that is idle for longest among those of the peer that has most, where that are more than
    /// `own`. Whether there was one.
    fn evict(&mut self, own: usize) -> bool {
        let mut crowds: Vec<_> = self.by_peer.iter_mut().filter(|(_, c)| c.len() > own).collect();
        crowds.sort_by_key(|(_, connections)| std::cmp::Reverse(connections.len()));
        for (_, connections) in crowds {
            let idle = connections.iter().enumerate().filter_map(|(at, c)| Some((c.idle_since()?, at))).min();
            if let Some((_, at)) = idle {
                connections.swap_remove(at).evicted.notify_one();
                return true;
            }
        }
        false
    }

    fn remove(&mut self, key: Key, activity: &Arc<Activity>) {
        let Some(connections) = self.by_peer.get_mut(&key) else { return };
        // One that was sent away is out of the table and counted no more.
        if let Some(at) = connections.iter().position(|c| Arc::ptr_eq(c, activity)) {
            connections.swap_remove(at);
            self.open -= 1;
        }
        if connections.is_empty() {
            self.by_peer.remove(&key);
        }
    }
}

/// One connection's place, given back when dropped.
pub(super) struct Seat {
    peers: Arc<Peers>,
    key: Key,
    pub activity: Arc<Activity>,
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.peers.metrics.closed();
        self.peers.lock().remove(self.key, &self.activity);
    }
}

/// hyper, which began to look at the clock a little later, is let to tell a slow head first.
const HYPERS_TURN: Duration = Duration::from_millis(500);

/// Whether a connection does anything.
pub(super) struct Activity {
    state: Mutex<State>,
    /// Another needs its place.
    pub evicted: Notify,
}

struct State {
    running: usize,
    /// Replies on it that are read while they are made.
    streams: usize,
    ever: bool,
    since: Instant,
}

/// A request that is being served.
pub(super) struct Busy(Arc<Activity>);

/// A reply that is read while it is made: its connection is not idle as long as somebody reads.
pub(super) struct Streaming(Arc<Activity>);

/// The activity of a request's connection, for handlers.
#[derive(Clone)]
pub(super) struct Connection(pub Arc<Activity>);

impl Streaming {
    /// Something was taken.
    pub(super) fn read(&self) {
        self.0.lock().since = Instant::now();
    }
}

impl Drop for Streaming {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.streams -= 1;
        state.since = Instant::now();
    }
}

impl Activity {
    fn new() -> Self {
        let state = Mutex::new(State { running: 0, streams: 0, ever: false, since: Instant::now() });
        Self { state, evicted: Notify::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    pub(super) fn begin(self: &Arc<Self>) -> Busy {
        let mut state = self.lock();
        state.running += 1;
        state.ever = true;
        Busy(Arc::clone(self))
    }

    pub(super) fn stream(self: &Arc<Self>) -> Streaming {
        self.lock().streams += 1;
        Streaming(Arc::clone(self))
    }

    /// `None` while a request is served or its reply sent.
    pub(super) fn idle_since(&self) -> Option<Instant> {
        let state = self.lock();
        let max = if state.streams > 0 { STREAMING_MAX } else { SENDING_MAX };
        let sending = state.ever && state.since.elapsed() < max;
        (state.running == 0 && !sending).then_some(state.since)
    }

    /// Whether a request came on it.
    pub(super) fn has_served(&self) -> bool {
        self.lock().ever
    }

    /// hyper's own header timeout begins once it knows the protocol; before that, and between requests of HTTP/2, nobody
    /// else looks at the clock. `first_max` holds until the first request, `idle_max` after it.
    pub(super) fn is_over(&self, first_max: Duration, idle_max: Duration) -> bool {
        let state = self.lock();
        let max = if state.ever { idle_max } else { first_max + HYPERS_TURN };
        state.running == 0 && state.since.elapsed() > max
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.running -= 1;
        state.since = Instant::now();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_on_which_somebody_reads_a_stream_is_not_idle() {
        let activity = Arc::new(Activity::new());
        let max = Duration::from_millis(100);
        drop(activity.begin());
        let streaming = activity.stream();
        for _ in 0..4 {
            std::thread::sleep(Duration::from_millis(50));
            streaming.read();
            assert!(!activity.is_over(max, max) && activity.idle_since().is_none());
        }
        // Who takes nothing is as good as gone.
        std::thread::sleep(Duration::from_millis(150));
        assert!(activity.is_over(max, max));
        assert!(activity.idle_since().is_none(), "but nobody else is given its place yet");
    }

    fn tcp(text: &str) -> Peer {
        Peer::Tcp(format!("{text}:1").parse().unwrap())
    }

    fn why(result: Result<Seat, Crowded>) -> Option<Crowded> {
        result.err()
    }

    #[test]
    fn addresses_of_one_host_count_as_one() {
        let same = [("10.0.0.1", "[::ffff:10.0.0.1]"), ("[2001:db8::1]", "[2001:db8::ffff:1]")];
        assert!(same.iter().all(|(a, b)| Key::of(tcp(a)) == Key::of(tcp(b))));
        let others = [("10.0.0.1", "10.0.0.2"), ("[2001:db8:0:1::1]", "[2001:db8:0:2::1]")];
        assert!(others.iter().all(|(a, b)| Key::of(tcp(a)) != Key::of(tcp(b))));
        assert_ne!(Key::of(Peer::Unix { uid: 1, gid: 1 }), Key::of(Peer::Unix { uid: 2, gid: 1 }));
        assert_eq!(Key::of(Peer::Unix { uid: 1, gid: 1 }), Key::of(Peer::Unix { uid: 1, gid: 2 }));
    }

    #[tokio::test]
    async fn a_peer_has_its_own_bound() {
        let peers = Peers::new(8, 3, ConnectionMetrics::default());
        let mut held: Vec<_> = (0..3).map(|_| peers.enter(tcp("10.0.0.1")).unwrap()).collect();
        assert_eq!(why(peers.enter(tcp("10.0.0.1"))), Some(Crowded::Peer));
        assert!(peers.enter(tcp("10.0.0.2")).is_ok());
        held.pop();
        assert!(peers.enter(tcp("10.0.0.1")).is_ok());
        drop(held);
        let table = peers.lock();
        assert_eq!((table.open, table.by_peer.len()), (0, 0));
    }

    #[tokio::test]
    async fn a_full_house_makes_room_for_who_has_less() {
        let peers = Peers::new(4, 4, ConnectionMetrics::default());
        let many: Vec<_> = (0..4).map(|_| peers.enter(tcp("10.0.0.1")).unwrap()).collect();
        let busy: Vec<_> = many[..2].iter().map(|seat| seat.activity.begin()).collect();
        let first = peers.enter(tcp("10.0.0.2")).unwrap();
        many[2].activity.evicted.notified().await;
        let second = peers.enter(tcp("10.0.0.3")).unwrap();
        many[3].activity.evicted.notified().await;
        // What is left of the crowd is busy.
        assert_eq!(why(peers.enter(tcp("10.0.0.4"))), Some(Crowded::All));
        drop(busy);
        assert_eq!(why(peers.enter(tcp("10.0.0.4"))), Some(Crowded::All), "the replies are on their way");
        tokio::time::sleep(SENDING_MAX).await;
        assert_eq!(why(peers.enter(tcp("10.0.0.2"))), Some(Crowded::All), "it would have as many as the crowd");
        assert!(peers.enter(tcp("10.0.0.4")).is_ok());
        assert_eq!(peers.lock().open, 3, "the one that came and left took one's place");
        drop((many, first, second));
        let table = peers.lock();
        assert_eq!((table.open, table.by_peer.len()), (0, 0));
    }

    #[tokio::test]
    async fn root_finds_a_place_where_others_hold_all() {
        let peers = Peers::new(4, 2, ConnectionMetrics::default());
        let unix = |uid| Peer::Unix { uid, gid: uid };
        let seats: Vec<_> = [1, 1, 2, 2].map(|uid| peers.enter(unix(uid)).unwrap()).into();
        let busy: Vec<_> = seats.iter().map(|seat| seat.activity.begin()).collect();
        assert_eq!(why(peers.enter(unix(3))), Some(Crowded::All));
        let own = [(); 2].map(|()| peers.enter(unix(0)).unwrap());
        assert_eq!(why(peers.enter(unix(0))), Some(Crowded::Peer), "its own bound is everybody's");
        drop((busy, seats, own));
        let table = peers.lock();
        assert_eq!((table.open, table.by_peer.len()), (0, 0));
    }
}
