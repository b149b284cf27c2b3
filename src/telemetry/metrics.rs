//! Counters of the front, in the text form that Prometheus and OpenTelemetry collectors read (OpenMetrics 1.0).

use std::fmt;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

use super::admission::{AdmissionMetrics, ConnectionMetrics};

/// Content-Type of [`Metrics::encode`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Every label is one of a closed set of this program's own words: no caller can make series.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Ran {
    tool: String,
    level: &'static str,
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Tool {
    tool: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Kind {
    kind: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Rule {
    rule: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Code {
    code: &'static str,
}

/// What is looked up when somebody asks.
#[derive(Debug, Clone, Copy)]
pub struct Now {
    pub live: usize,
    pub waiting: usize,
    /// Principals with a call that waits.
    pub waiting_principals: usize,
    pub engine_connected: bool,
}

/// One per front.
pub struct Metrics {
    registry: Registry,
    executions: Family<Ran, Counter>,
    seconds: Family<Tool, Histogram>,
    cached: Family<Tool, Counter>,
    limits: Family<Kind, Counter>,
    refused: Family<Code, Counter>,
    blocked: Family<Rule, Counter>,
    cpu_seconds: Counter<f64, std::sync::atomic::AtomicU64>,
    live: Gauge,
    waiting: Gauge,
    waiting_principals: Gauge,
    engine: Gauge,
    admission: AdmissionMetrics,
    connections: ConnectionMetrics,
}

impl Metrics {
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("sandkeep");
        // From 2 ms to about a minute.
        let seconds: fn() -> Histogram = || Histogram::new(exponential_buckets(0.002, 2.0, 16));
        let metrics = Self {
            executions: Family::default(),
            seconds: Family::new_with_constructor(seconds),
            cached: Family::default(),
            limits: Family::default(),
            refused: Family::default(),
            blocked: Family::default(),
            cpu_seconds: Counter::default(),
            live: Gauge::default(),
            waiting: Gauge::default(),
            waiting_principals: Gauge::default(),
            engine: Gauge::default(),
            admission: AdmissionMetrics::default(),
            connections: ConnectionMetrics::default(),
            registry: Registry::default(),
        };
        registry.register("build", "Version of the front", Info::new([("version", env!("CARGO_PKG_VERSION"))]));
        registry.register("executions", "Calls that got a sandbox, by what ended them", metrics.executions.clone());
        registry.register_with_unit(
            "execution",
            "Time from a call's arrival to its end",
            Unit::Seconds,
            metrics.seconds.clone(),
        );
        registry.register("cached", "Calls answered with an earlier result", metrics.cached.clone());
        registry.register("limits_hit", "Limits that were touched", metrics.limits.clone());
        registry.register(
            "refused",
            "Requests, and calls of a batch, answered with a problem, by its code",
            metrics.refused.clone(),
        );
        registry.register("blocked", "Calls refused for their code, by the rule", metrics.blocked.clone());
        registry.register_with_unit(
            "sandbox_cpu",
            "User and system time of all sandboxes",
            Unit::Seconds,
            metrics.cpu_seconds.clone(),
        );
        registry.register("executions_live", "Calls under way, waiting ones included", metrics.live.clone());
        registry.register("executions_waiting", "Calls that wait for room", metrics.waiting.clone());
        let help = "Principals with a call that waits for room";
        registry.register("principals_waiting", help, metrics.waiting_principals.clone());
        metrics.admission.register(&mut registry);
        metrics.connections.register(&mut registry);
        registry.register("engine_connected", "1 while the engine can be asked", metrics.engine.clone());
        Self { registry, ..metrics }
    }

    /// `outcome`: the kind, or `setup_failed` where the command could not be placed into its sandbox.
    pub fn ran(&self, tool: &str, level: &'static str, outcome: &'static str, seconds: f64, cpu_seconds: f64) {
        self.executions.get_or_create(&Ran { tool: tool.to_owned(), level, outcome }).inc();
        self.seconds.get_or_create(&Tool { tool: tool.to_owned() }).observe(seconds);
        self.cpu_seconds.inc_by(cpu_seconds);
    }

    /// A result was told again.
    pub fn cached(&self, tool: &str) {
        self.cached.get_or_create(&Tool { tool: tool.to_owned() }).inc();
    }

    pub fn limit_hit(&self, kind: &'static str) {
        self.limits.get_or_create(&Kind { kind }).inc();
    }

    pub fn refused(&self, code: &'static str) {
        self.refused.get_or_create(&Code { code }).inc();
    }

    /// `rule`: one of `crate::config::RULES`.
    pub fn blocked(&self, rule: &str) {
        self.blocked.get_or_create(&Rule { rule: rule.to_owned() }).inc();
    }

    /// For whoever admits calls.
    pub fn admission(&self) -> AdmissionMetrics {
        self.admission.clone()
    }

    /// For whoever accepts connections.
    pub fn connections(&self) -> ConnectionMetrics {
        self.connections.clone()
    }

    pub fn encode(&self, now: Now) -> Result<String, fmt::Error> {
        self.live.set(now.live as i64);
        self.waiting.set(now.waiting as i64);
        self.waiting_principals.set(now.waiting_principals as i64);
        self.engine.set(now.engine_connected.into());
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::admission::{Crowded, Refused};

    #[test]
    fn what_happened_is_counted() {
        let metrics = Metrics::new();
        metrics.ran("bash", "strict", "exited", 0.01, 0.5);
        metrics.ran("bash", "strict", "exited", 0.01, 0.25);
        metrics.limit_hit("memory");
        metrics.refused("forbidden");
        metrics.blocked("bash/sudo");
        metrics.admission().admitted(None);
        metrics.admission().admitted(Some(std::time::Duration::from_millis(3)));
        metrics.admission().refused(Refused::OwnQueue);
        metrics.connections().opened();
        metrics.connections().refused(Crowded::Peer);
        let now = Now { live: 3, waiting: 1, waiting_principals: 1, engine_connected: true };
        let text = metrics.encode(now).unwrap();
        for line in [
            "sandkeep_executions_total{tool=\"bash\",level=\"strict\",outcome=\"exited\"} 2",
            "sandkeep_execution_seconds_count{tool=\"bash\"} 2",
            "sandkeep_limits_hit_total{kind=\"memory\"} 1",
            "sandkeep_refused_total{code=\"forbidden\"} 1",
            "sandkeep_blocked_total{rule=\"bash/sudo\"} 1",
            "sandkeep_sandbox_cpu_seconds_total 0.75",
            "sandkeep_executions_live 3",
            "sandkeep_executions_waiting 1",
            "sandkeep_principals_waiting 1",
            "sandkeep_admitted_total{how=\"at_once\"} 1",
            "sandkeep_admitted_total{how=\"waited\"} 1",
            "sandkeep_admission_wait_seconds_count 1",
            "sandkeep_admission_refused_total{reason=\"own_queue\"} 1",
            "sandkeep_connections_open 1",
            "sandkeep_connections_refused_total{reason=\"peer\"} 1",
            "sandkeep_connections_evicted_total 0",
            "sandkeep_engine_connected 1",
            "# EOF",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} in\n{text}");
        }
    }
}
