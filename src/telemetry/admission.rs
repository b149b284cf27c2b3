//! Counters of who was let in: calls to sandboxes, connections to the front. Every label is a word of this program.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

/// Why a call got no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// Its principal has as many waiting calls as may be.
    OwnQueue,
    /// All principals together have.
    AllQueues,
    /// A call of a principal with a shorter queue took its place.
    PushedOut,
    /// Its time, or the longest wait, was over.
    Waited,
    /// It asks for more than there is.
    TooLarge,
}

impl Refused {
    fn name(self) -> &'static str {
        match self {
            Refused::OwnQueue => "own_queue",
            Refused::AllQueues => "all_queues",
            Refused::PushedOut => "pushed_out",
            Refused::Waited => "waited",
            Refused::TooLarge => "too_large",
        }
    }
}

/// Why a connection was not served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Crowded {
    /// Its peer has as many as one may have.
    Peer,
    /// There are as many as there may be, and its peer has its share of them.
    All,
}

impl Crowded {
    fn name(self) -> &'static str {
        match self {
            Crowded::Peer => "peer",
            Crowded::All => "all",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct How {
    how: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reason {
    reason: &'static str,
}

/// Of calls. Clones count together.
#[derive(Debug, Clone)]
pub struct AdmissionMetrics {
    admitted: Family<How, Counter>,
    refused: Family<Reason, Counter>,
    waited: Histogram,
}

impl Default for AdmissionMetrics {
    fn default() -> Self {
        // From 1 ms to about half a minute.
        let waited = Histogram::new(exponential_buckets(0.001, 2.0, 16));
        Self { admitted: Family::default(), refused: Family::default(), waited }
    }
}

impl AdmissionMetrics {
    /// Puts the series into `registry`.
    pub fn register(&self, registry: &mut Registry) {
        registry.register("admitted", "Attempts that got room, at once or after a wait", self.admitted.clone());
        registry.register("admission_refused", "Attempts that got no room, by reason", self.refused.clone());
        let help = "Time that attempts waited for room, where they had to and got it";
        registry.register_with_unit("admission_wait", help, Unit::Seconds, self.waited.clone());
    }

    /// `waited`: `None` where there was room at once.
    pub fn admitted(&self, waited: Option<Duration>) {
        let how = if waited.is_some() { "waited" } else { "at_once" };
        self.admitted.get_or_create(&How { how }).inc();
        if let Some(waited) = waited {
            self.waited.observe(waited.as_secs_f64());
        }
    }

    pub fn refused(&self, why: Refused) {
        self.refused.get_or_create(&Reason { reason: why.name() }).inc();
    }
}

/// Of connections. Clones count together.
#[derive(Debug, Clone, Default)]
pub struct ConnectionMetrics {
    open: Gauge,
    refused: Family<Reason, Counter>,
    evicted: Counter,
}

impl ConnectionMetrics {
    /// Puts the series into `registry`.
    pub fn register(&self, registry: &mut Registry) {
        registry.register("connections_open", "Connections that are being served", self.open.clone());
        registry.register("connections_refused", "Connections that were not served, by reason", self.refused.clone());
        let help = "Idle connections closed for one of a peer that had fewer";
        registry.register("connections_evicted", help, self.evicted.clone());
    }

    pub fn opened(&self) {
        self.open.inc();
    }

    pub fn closed(&self) {
        self.open.dec();
    }

    pub fn refused(&self, why: Crowded) {
        self.refused.get_or_create(&Reason { reason: why.name() }).inc();
    }

    pub fn evicted(&self) {
        self.evicted.inc();
    }
}
