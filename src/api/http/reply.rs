//! An execution as the contract's envelope. The shapes are this file's own; nothing else may rely on them.

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use crate::spec::{
    Clock, Denial, Enforced, KilledBy, LandlockReport, Layer, Level, LimitHit, LimitKind, Outcome, VolumeReport,
};
use crate::tools::listing::Deprecation;
use crate::tools::version::VERSION;
use crate::tools::{Execution, SandboxFacts, StreamFacts};

/// The body of a 200.
pub fn body(execution: &Execution) -> Vec<u8> {
    // Strings, numbers and JSON values only: this can not fail.
    serde_json::to_vec(&Envelope::of(execution)).unwrap_or_default()
}

/// What came of a call that ran.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Execution")]
pub(super) struct Envelope<'a> {
    execution_id: &'a str,
    tool_name: &'a str,
    #[schemars(extend("pattern" = VERSION))]
    tool_version: String,
    agent_id: Option<&'a str>,
    /// As it was given.
    metadata: Option<&'a Map<String, Value>>,
    success: bool,
    /// Its shape is the tool's own; null where there is none.
    #[schemars(with = "Value")]
    result: &'a RawValue,
    /// Null where it succeeded.
    error: Option<ErrorBody<'a>>,
    /// What ended the command; null where no command was started.
    outcome: Option<OutcomeBody<'a>>,
    /// Seconds of the whole call, waits and retries included.
    execution_time: f64,
    /// None where the result was had from the cache.
    attempts: u32,
    cached: bool,
    usage: UsageBody,
    output: OutputBody,
    sandbox: SandboxBody<'a>,
    /// What seccomp refused, where the profile means it to be counted. Files and connections that Landlock refused and limits
    /// that were touched are not among them. Null where nobody recorded, which is not the same as none.
    denials: Option<Vec<DenialBody<'a>>>,
    /// Of the tool in this version.
    #[serde(skip_serializing_if = "Option::is_none")]
    deprecation: Option<Deprecation>,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Denial")]
pub(super) struct DenialBody<'a> {
    #[schemars(extend("enum" = Layer::ALL.map(Layer::name)))]
    layer: &'static str,
    /// Where the refusal is written.
    rule: &'a str,
    /// The system call, and what about it is refused where that is not all of it.
    detail: &'a str,
    count: u64,
}

impl<'a> DenialBody<'a> {
    pub fn of(d: &'a Denial) -> Self {
        Self { layer: d.layer.name(), rule: &d.rule, detail: &d.detail, count: d.count }
    }
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "ExecutionError")]
struct ErrorBody<'a> {
    /// The outcome's kind, `nonzero_exit`, `exception`, or the tool's own.
    code: &'a str,
    message: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    rule: Option<&'a str>,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Outcome")]
struct OutcomeBody<'a> {
    #[schemars(extend("enum" = Outcome::KINDS))]
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    exit_code: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    signal: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("enum" = Clock::ALL.map(Clock::name)))]
    clock: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("enum" = KilledBy::ALL.map(KilledBy::name)))]
    by: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rule: Option<&'a str>,
    /// Limits that were touched, whether that ended the command or not.
    limits_hit: Vec<HitBody>,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "LimitHit")]
struct HitBody {
    #[schemars(extend("enum" = LimitKind::ALL.map(LimitKind::name)))]
    limit: &'static str,
    count: u64,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Usage")]
struct UsageBody {
    wall_ms: f64,
    cpu_ms: f64,
    memory_peak_bytes: u64,
    network_requests: u64,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Output")]
struct OutputBody {
    stdout_bytes: u64,
    stdout_truncated: bool,
    stdout_lossy: bool,
    stderr_bytes: u64,
    stderr_truncated: bool,
    stderr_lossy: bool,
}

/// In what the tool ran.
#[derive(Serialize, JsonSchema)]
#[serde(untagged)]
#[schemars(rename = "Sandbox")]
enum SandboxBody<'a> {
    Built(Box<BuiltBody<'a>>),
    /// The tool needs none.
    None {
        #[schemars(extend("enum" = ["none"]))]
        backend: &'static str,
    },
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "BuiltSandbox")]
struct BuiltBody<'a> {
    id: &'a str,
    #[schemars(extend("enum" = Level::ALL.map(Level::name)))]
    level: &'static str,
    #[schemars(extend("enum" = ["process", "docker"]))]
    backend: &'static str,
    /// What the host lacks and what was put in its place.
    degraded: &'a [String],
    /// Read back from the kernel, or the descriptor that was applied.
    enforced: EnforcedBody<'a>,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Enforced")]
struct EnforcedBody<'a> {
    uid: u32,
    gid: u32,
    namespaces: &'a [String],
    #[schemars(extend("enum" = ["private", "host"]))]
    root: &'static str,
    #[schemars(extend("enum" = ["none", "host"]))]
    network: &'static str,
    capabilities: CapabilitiesBody<'a>,
    no_new_privs: bool,
    seccomp: SeccompBody<'a>,
    landlock: Option<LandlockBody<'a>>,
    cgroup: CgroupBody<'a>,
    /// What the sandbox was given that is not its own alone: the workspace that the call names, say.
    volumes: Vec<VolumeBody<'a>>,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Volume")]
struct VolumeBody<'a> {
    path: &'a str,
    read_only: bool,
    no_exec: bool,
    bytes_max: u64,
    files_max: u64,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "LinuxCapabilities")]
struct CapabilitiesBody<'a> {
    effective: &'a [String],
    bounding: &'a [String],
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Seccomp")]
struct SeccompBody<'a> {
    profile: &'a str,
    sha256: &'a str,
    /// Whether `denials` tells what this profile refused.
    denials_recorded: bool,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Landlock")]
struct LandlockBody<'a> {
    abi: u32,
    #[schemars(extend("enum" = ["full", "partial", "none"]))]
    status: &'static str,
    added: &'a [String],
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Cgroup")]
struct CgroupBody<'a> {
    version: u8,
    controllers: &'a [String],
    memory_max_bytes: Option<u64>,
    swap_max_bytes: Option<u64>,
    oom_group: Option<bool>,
    pids_max: Option<u64>,
    /// Microseconds of processor time in each period of so many microseconds.
    cpu_max: Option<(u64, u64)>,
}

impl<'a> Envelope<'a> {
    fn of(e: &'a Execution) -> Self {
        let rule = match &e.outcome {
            Some(Outcome::Denied { rule }) => Some(rule.as_str()),
            _ => e.error.as_ref().and_then(|error| error.rule.as_deref()),
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
            error: e.error.as_ref().map(|error| ErrorBody { code: &error.code, message: &error.message, rule }),
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
            sandbox: SandboxBody::of(e.sandbox.as_ref()),
            denials: e.denials.as_ref().map(|all| all.iter().map(DenialBody::of).collect()),
            deprecation: e.tool.about().deprecated.as_ref().map(Deprecation::of),
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
    fn of(sandbox: Option<&'a SandboxFacts>) -> Self {
        let Some(s) = sandbox else { return Self::None { backend: "none" } };
        Self::Built(Box::new(BuiltBody {
            id: s.id.as_str(),
            level: s.level.name(),
            backend: s.level.backend().name(),
            degraded: &s.degraded,
            enforced: EnforcedBody::of(&s.enforced),
        }))
    }
}

impl<'a> VolumeBody<'a> {
    fn of(v: &'a VolumeReport) -> Self {
        let VolumeReport { path, read_only, no_exec, bytes_max, files_max } = v;
        Self { path, read_only: *read_only, no_exec: *no_exec, bytes_max: *bytes_max, files_max: *files_max }
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
            seccomp: SeccompBody {
                profile: &e.seccomp.profile,
                sha256: &e.seccomp.sha256,
                denials_recorded: e.seccomp.denials_recorded,
            },
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
            volumes: e.volumes.iter().map(VolumeBody::of).collect(),
        }
    }
}
