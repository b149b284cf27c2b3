//! An execution as the contract's envelope. The shapes are this file's own; nothing else may rely on them.

use serde::Serialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use crate::spec::{Enforced, LandlockReport, LimitHit, Outcome};
use crate::tools::listing::deprecation;
use crate::tools::{Execution, SandboxFacts, StreamFacts};

/// The body of a 200.
pub fn body(execution: &Execution) -> Vec<u8> {
    // Strings, numbers and JSON values only: this can not fail.
    serde_json::to_vec(&Envelope::of(execution)).unwrap_or_default()
}

#[derive(Serialize)]
struct Envelope<'a> {
    execution_id: &'a str,
    tool_name: &'a str,
    tool_version: String,
    agent_id: Option<&'a str>,
    metadata: Option<&'a Map<String, Value>>,
    success: bool,
    result: &'a RawValue,
    error: Option<ErrorBody<'a>>,
    outcome: Option<OutcomeBody<'a>>,
    execution_time: f64,
    attempts: u32,
    cached: bool,
    usage: UsageBody,
    output: OutputBody,
    sandbox: SandboxBody<'a>,
    /// Not recorded yet, which is not the same as none.
    denials: Option<()>,
    /// Of the tool in this version.
    #[serde(skip_serializing_if = "Option::is_none")]
    deprecation: Option<Value>,
}

#[derive(Serialize)]
struct ErrorBody<'a> {
    code: &'a str,
    message: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    rule: Option<&'a str>,
}

#[derive(Serialize)]
struct OutcomeBody<'a> {
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    exit_code: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    signal: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    clock: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    by: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rule: Option<&'a str>,
    limits_hit: Vec<HitBody>,
}

#[derive(Serialize)]
struct HitBody {
    limit: &'static str,
    count: u64,
}

#[derive(Serialize)]
struct UsageBody {
    wall_ms: f64,
    cpu_ms: f64,
    memory_peak_bytes: u64,
    network_requests: u64,
}

#[derive(Serialize)]
struct OutputBody {
    stdout_bytes: u64,
    stdout_truncated: bool,
    stdout_lossy: bool,
    stderr_bytes: u64,
    stderr_truncated: bool,
    stderr_lossy: bool,
}

#[derive(Serialize)]
struct SandboxBody<'a> {
    id: &'a str,
    level: &'static str,
    backend: &'static str,
    degraded: &'a [String],
    enforced: EnforcedBody<'a>,
}

#[derive(Serialize)]
struct EnforcedBody<'a> {
    uid: u32,
    gid: u32,
    namespaces: &'a [String],
    root: &'static str,
    network: &'static str,
    capabilities: CapabilitiesBody<'a>,
    no_new_privs: bool,
    seccomp: SeccompBody<'a>,
    landlock: Option<LandlockBody<'a>>,
    cgroup: CgroupBody<'a>,
}

#[derive(Serialize)]
struct CapabilitiesBody<'a> {
    effective: &'a [String],
    bounding: &'a [String],
}

#[derive(Serialize)]
struct SeccompBody<'a> {
    profile: &'a str,
    sha256: &'a str,
}

#[derive(Serialize)]
struct LandlockBody<'a> {
    abi: u32,
    status: &'static str,
    added: &'a [String],
}

#[derive(Serialize)]
struct CgroupBody<'a> {
    version: u8,
    controllers: &'a [String],
    memory_max_bytes: Option<u64>,
    swap_max_bytes: Option<u64>,
    oom_group: Option<bool>,
    pids_max: Option<u64>,
    cpu_max: Option<(u64, u64)>,
}

impl<'a> Envelope<'a> {
    fn of(e: &'a Execution) -> Self {
        let rule = match &e.outcome {
            Some(Outcome::Denied { rule }) => Some(rule.as_str()),
            _ => None,
        };
        let (StreamFacts { bytes, truncated, lossy }, stderr) = (e.stdout, e.stderr);
        Self {
            execution_id: e.id.as_str(),
            tool_name: &e.tool.about().name,
            tool_version: e.tool.about().version.to_string(),
            agent_id: e.agent_id.as_deref(),
            metadata: e.metadata.as_ref(),
            success: e.success(),
            result: &e.result,
            error: e.error.as_ref().map(|error| ErrorBody { code: error.code, message: &error.message, rule }),
            outcome: e.outcome.as_ref().map(|outcome| OutcomeBody::of(outcome, &e.limits_hit)),
            execution_time: e.time.as_micros() as f64 / 1e6,
            attempts: e.attempts,
            cached: e.cached,
            usage: UsageBody {
                wall_ms: e.usage.wall_us as f64 / 1000.0,
                cpu_ms: e.usage.cpu_us as f64 / 1000.0,
                memory_peak_bytes: e.usage.memory_peak_bytes,
                network_requests: e.usage.network_requests,
            },
            output: OutputBody {
                stdout_bytes: bytes,
                stdout_truncated: truncated,
                stdout_lossy: lossy,
                stderr_bytes: stderr.bytes,
                stderr_truncated: stderr.truncated,
                stderr_lossy: stderr.lossy,
            },
            sandbox: SandboxBody::of(&e.sandbox),
            denials: None,
            deprecation: e.tool.about().deprecated.as_ref().map(deprecation),
        }
    }
}

impl<'a> OutcomeBody<'a> {
    fn of(outcome: &'a Outcome, hits: &[LimitHit]) -> Self {
        let mut body = Self {
            kind: outcome.kind(),
            exit_code: None,
            signal: None,
            clock: None,
            by: None,
            rule: None,
            limits_hit: hits.iter().map(|hit| HitBody { limit: hit.kind.name(), count: hit.count }).collect(),
        };
        match outcome {
            Outcome::Exited { code } => body.exit_code = Some(*code),
            Outcome::Signaled { signal } => body.signal = Some(*signal),
            Outcome::TimedOut { clock } => body.clock = Some(clock.name()),
            Outcome::Killed { by } => body.by = Some(by.name()),
            Outcome::Denied { rule } => body.rule = Some(rule),
            Outcome::OutOfMemory
            | Outcome::PidsLimit
            | Outcome::DiskLimit
            | Outcome::OutputLimit
            | Outcome::EngineFault => {}
        }
        body
    }
}

impl<'a> SandboxBody<'a> {
    fn of(s: &'a SandboxFacts) -> Self {
        Self {
            id: s.id.as_str(),
            level: s.level.name(),
            backend: s.level.backend().name(),
            degraded: &s.degraded,
            enforced: EnforcedBody::of(&s.enforced),
        }
    }
}

impl<'a> EnforcedBody<'a> {
    fn of(e: &'a Enforced) -> Self {
        let landlock = |l: &'a LandlockReport| LandlockBody { abi: l.abi, status: l.status.name(), added: &l.added };
        Self {
            uid: e.uid,
            gid: e.gid,
            namespaces: &e.namespaces,
            root: if e.private_root { "private" } else { "host" },
            network: e.network.name(),
            capabilities: CapabilitiesBody { effective: &e.effective_capabilities, bounding: &e.bounding_capabilities },
            no_new_privs: e.no_new_privs,
            seccomp: SeccompBody { profile: &e.seccomp.profile, sha256: &e.seccomp.sha256 },
            landlock: e.landlock.as_ref().map(landlock),
            cgroup: CgroupBody {
                version: e.cgroup.version,
                controllers: &e.cgroup.controllers,
                memory_max_bytes: e.cgroup.memory_max_bytes,
                swap_max_bytes: e.cgroup.swap_max_bytes,
                oom_group: e.cgroup.oom_group,
                pids_max: e.cgroup.pids_max,
                cpu_max: e.cgroup.cpu_max,
            },
        }
    }
}
