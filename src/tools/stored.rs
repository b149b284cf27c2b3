//! Calls and replies as they are kept on disk. Only the version that wrote them, or a later one, reads them: see `state`.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::call::{Call, CallError, Context, Needs, Once};
use super::definition::{About, AnyTool, Shaped};
use super::finish::{Execution, Finished, Reply, SandboxFacts, StreamFacts, ToolError};
use super::plan::Work;
use super::principal::Principal;
use super::registry::{Registered, Registry};
use super::schema::{Schema, Violation};
use super::version::Version;
use crate::checks::Blocked;
use crate::config::Role;
use crate::spec::{Enforced, ExecutionId, Level, LimitHit};
use crate::wire::client::ClientError;
use crate::wire::{
    DenialWire, EnforcedWire, LandlockWire, LevelWire, LimitKindWire, LimitsWire, OutcomeWire, UsageWire,
};

/// A call that runs without its caller, and for whom.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct StoredCall {
    id: String,
    owner: String,
    is_admin: bool,
    level_floor: Option<LevelWire>,
    level_ceiling: Option<LevelWire>,
    /// With its version.
    pub tool: String,
    /// The level at which it runs.
    pub effective: LevelWire,
    parameters: Map<String, Value>,
    agent_id: Option<String>,
    metadata: Option<Map<String, Value>>,
    timeout_ms: Option<u64>,
    retry_count: u32,
    sandbox_mode: Option<bool>,
    level: Option<LevelWire>,
    workspace: Option<String>,
    limits: LimitsWire,
    once: Option<(String, [u8; 32])>,
    /// Milliseconds of the Unix epoch.
    accepted_at_ms: u64,
}

impl StoredCall {
    /// `tool`: what `call` means by its tool's name now.
    pub(super) fn new(call: &Call, tool: &About, principal: &Principal, once: Option<&Once>) -> Self {
        let Context { agent_id, metadata, timeout_ms, retry_count, sandbox_mode, level, workspace, limits, .. } =
            call.context.clone();
        Self {
            id: String::new(),
            effective: LevelWire::Standard,
            owner: principal.name.clone(),
            is_admin: principal.is_admin(),
            level_floor: principal.level_floor.map(Into::into),
            level_ceiling: principal.level_ceiling.map(Into::into),
            tool: format!("{}@{}", tool.name, tool.version),
            parameters: call.parameters.clone(),
            agent_id,
            metadata,
            timeout_ms,
            retry_count,
            sandbox_mode,
            level: level.map(Into::into),
            workspace: workspace.map(|w| w.as_str().to_owned()),
            limits: limits.into(),
            once: once.map(|once| (once.key.clone(), once.fingerprint)),
            accepted_at_ms: milliseconds(SystemTime::now()),
        }
    }

    /// Under the id and at the level that it was given.
    pub(super) fn accepted(self, id: &ExecutionId, level: Level) -> Self {
        Self { id: id.to_string(), effective: level.into(), ..self }
    }

    pub(super) fn principal(&self) -> Principal {
        Principal {
            name: self.owner.clone(),
            role: if self.is_admin { Role::Admin } else { Role::User },
            level_floor: self.level_floor.map(Into::into),
            level_ceiling: self.level_ceiling.map(Into::into),
        }
    }

    pub(super) fn once(&self) -> Option<Once> {
        self.once.clone().map(|(key, fingerprint)| Once { key, fingerprint })
    }

    pub(super) fn accepted_at(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_millis(self.accepted_at_ms)
    }

    pub(super) fn agent_id(&self) -> Option<&str> {
        self.agent_id.as_deref()
    }

    /// `None` where it is not what [`StoredCall::new`] made.
    pub(super) fn execution_id(&self) -> Option<ExecutionId> {
        self.id.parse().ok()
    }

    pub(super) fn call(self) -> Option<Call> {
        let context = Context {
            execution_id: Some(self.execution_id()?),
            agent_id: self.agent_id,
            metadata: self.metadata,
            timeout_ms: self.timeout_ms,
            retry_count: self.retry_count,
            cache: false,
            sandbox_mode: self.sandbox_mode,
            level: self.level.map(Into::into),
            workspace: self.workspace.map(|w| w.parse()).transpose().ok()?,
            limits: self.limits.into(),
        };
        Some(Call { tool: self.tool, parameters: self.parameters, context })
    }
}

fn milliseconds(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64
}

/// How a call ended.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum StoredEnd {
    Reply(Box<StoredReply>),
    Error(StoredError),
}

#[derive(Serialize, Deserialize)]
pub(super) struct StoredReply {
    id: String,
    tool: String,
    version: String,
    agent_id: Option<String>,
    metadata: Option<Map<String, Value>>,
    result: Box<RawValue>,
    error: Option<(String, String)>,
    /// Of the error. Schemas before 4 know none.
    #[serde(default)]
    rule: Option<String>,
    outcome: Option<OutcomeWire>,
    limits_hit: Vec<(LimitKindWire, u64)>,
    usage: UsageWire,
    time_us: u64,
    attempts: u32,
    cached: bool,
    stdout: (u64, bool, bool),
    stderr: (u64, bool, bool),
    /// This and the rest: none where the tool needed none. Schemas before 4 know no such tools.
    sandbox: Option<String>,
    level: Option<LevelWire>,
    degraded: Option<Vec<String>>,
    enforced: Option<EnforcedWire>,
    landlock: Option<LandlockWire>,
    /// Earlier versions recorded none.
    #[serde(default)]
    denials: Option<Vec<DenialWire>>,
}

fn facts(of: StreamFacts) -> (u64, bool, bool) {
    (of.bytes, of.truncated, of.lossy)
}

fn of_facts((bytes, truncated, lossy): (u64, bool, bool)) -> StreamFacts {
    StreamFacts { bytes, truncated, lossy }
}

impl StoredReply {
    fn new(e: &Execution) -> Self {
        let (about, sandbox) = (e.tool.about(), e.sandbox.as_ref());
        Self {
            id: e.id.as_str().to_owned(),
            tool: about.name.clone(),
            version: about.version.to_string(),
            agent_id: e.agent_id.clone(),
            metadata: e.metadata.clone(),
            result: e.result.clone(),
            error: e.error.as_ref().map(|error| (error.code.to_string(), error.message.clone())),
            rule: e.error.as_ref().and_then(|error| error.rule.clone()),
            outcome: e.outcome.clone().map(Into::into),
            limits_hit: e.limits_hit.iter().map(|hit| (hit.kind.into(), hit.count)).collect(),
            usage: e.usage.into(),
            time_us: e.time.as_micros() as u64,
            attempts: e.attempts,
            cached: e.cached,
            stdout: facts(e.stdout),
            stderr: facts(e.stderr),
            sandbox: sandbox.map(|s| s.id.as_str().to_owned()),
            level: sandbox.map(|s| s.level.into()),
            degraded: sandbox.map(|s| s.degraded.clone()),
            enforced: sandbox.map(|s| s.enforced.clone().into()),
            landlock: sandbox.and_then(|s| s.enforced.landlock.clone()).map(Into::into),
            denials: e.denials.clone().map(|all| all.into_iter().map(Into::into).collect()),
        }
    }

    /// `None` where it is not what [`StoredReply::new`] made.
    fn reply(self, registry: &Registry) -> Option<Reply> {
        let sandbox = match self.sandbox {
            Some(id) => Some(SandboxFacts {
                id: id.parse().ok()?,
                level: self.level?.into(),
                degraded: self.degraded?,
                enforced: Enforced { landlock: self.landlock.map(Into::into), ..self.enforced?.into() },
            }),
            None => None,
        };
        let limits_hit =
            self.limits_hit.into_iter().map(|(kind, count)| LimitHit { kind: kind.into(), count }).collect();
        let name = format!("{}@{}", self.tool, self.version);
        let tool = match registry.get(&name) {
            Some(tool) => tool,
            None => Arc::new(Gone::new(&self.tool, self.version.parse().ok()?)) as Registered,
        };
        Some(Arc::new(Execution {
            id: self.id.parse().ok()?,
            tool,
            agent_id: self.agent_id,
            metadata: self.metadata,
            result: self.result,
            error: self.error.map(|(code, message)| ToolError { code: Cow::Owned(code), message, rule: self.rule }),
            outcome: self.outcome.map(Into::into),
            limits_hit,
            time: Duration::from_micros(self.time_us),
            attempts: self.attempts,
            cached: self.cached,
            usage: self.usage.into(),
            stdout: of_facts(self.stdout),
            stderr: of_facts(self.stderr),
            sandbox,
            denials: self.denials.map(|all| all.into_iter().map(Into::into).collect()),
        }))
    }
}

/// What a call ended with of which nothing ran: [`CallError`], as far as one can come after a call was accepted.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum StoredError {
    Request(Vec<(String, String)>),
    Parameters(Vec<(String, String)>),
    UnknownTool(String),
    Forbidden(String),
    Blocked {
        rule: String,
        about: String,
        hint: String,
        line: u32,
        column: u32,
    },
    LevelUnavailable {
        level: LevelWire,
        missing: Vec<String>,
    },
    LevelUnsuitable {
        tool: String,
        level: LevelWire,
        /// Earlier versions knew but one.
        #[serde(default)]
        needs: Needs,
    },
    NotConfigured {
        what: String,
        hint: String,
    },
    EngineUnavailable,
    SetupFailed {
        step: String,
        target: String,
        reason: String,
    },
    AtCapacity {
        what: String,
    },
    RateLimited {
        what: String,
        retry_after_ms: u64,
    },
    Draining,
    MissingToolchain {
        program: String,
        reason: String,
    },
    UnknownWorkspace,
    WorkspaceBusy,
    TooManyWorkspaces {
        most: u32,
    },
    WorkspaceTooLarge {
        most: u64,
    },
    Ended,
    Internal(String),
}

impl From<&CallError> for StoredError {
    fn from(error: &CallError) -> Self {
        let pairs = |all: &[Violation]| all.iter().map(|v| (v.pointer.clone(), v.message.clone())).collect();
        match error {
            CallError::Request(all) => Self::Request(pairs(all)),
            CallError::Parameters(all) => Self::Parameters(pairs(all)),
            CallError::UnknownTool(name) => Self::UnknownTool(name.clone()),
            CallError::Forbidden(why) => Self::Forbidden(why.clone()),
            CallError::Blocked(Blocked { rule, about, hint, line, column }) => Self::Blocked {
                rule: rule.clone(),
                about: about.clone(),
                hint: hint.clone(),
                line: *line,
                column: *column,
            },
            CallError::LevelUnavailable { level, missing } => {
                Self::LevelUnavailable { level: (*level).into(), missing: missing.clone() }
            }
            CallError::LevelUnsuitable { tool, level, needs } => {
                Self::LevelUnsuitable { tool: tool.clone(), level: (*level).into(), needs: *needs }
            }
            CallError::NotConfigured { what, hint } => Self::NotConfigured { what: what.clone(), hint: hint.clone() },
            CallError::EngineUnavailable(_) => Self::EngineUnavailable,
            CallError::SetupFailed { step, target, reason } => {
                Self::SetupFailed { step: step.clone(), target: target.clone(), reason: reason.clone() }
            }
            CallError::AtCapacity { what, .. } => Self::AtCapacity { what: what.clone() },
            CallError::RateLimited { what, retry_after } => {
                Self::RateLimited { what: what.clone(), retry_after_ms: retry_after.as_millis() as u64 }
            }
            CallError::Draining => Self::Draining,
            CallError::MissingToolchain { program, reason } => {
                Self::MissingToolchain { program: program.clone(), reason: reason.clone() }
            }
            CallError::UnknownWorkspace => Self::UnknownWorkspace,
            CallError::WorkspaceBusy => Self::WorkspaceBusy,
            CallError::TooManyWorkspaces { most } => Self::TooManyWorkspaces { most: *most },
            CallError::WorkspaceTooLarge { most } => Self::WorkspaceTooLarge { most: *most },
            CallError::Ended => Self::Ended,
            CallError::Conflict(why) => Self::Internal((*why).to_owned()),
            CallError::Internal(why) => Self::Internal(why.clone()),
        }
    }
}

impl From<StoredError> for CallError {
    fn from(error: StoredError) -> Self {
        let violations = |all: Vec<(String, String)>| all.into_iter().map(|(p, m)| Violation::new(p, m)).collect();
        match error {
            StoredError::Request(all) => Self::Request(violations(all)),
            StoredError::Parameters(all) => Self::Parameters(violations(all)),
            StoredError::UnknownTool(name) => Self::UnknownTool(name),
            StoredError::Forbidden(why) => Self::Forbidden(why),
            StoredError::Blocked { rule, about, hint, line, column } => {
                Self::Blocked(Blocked { rule, about, hint, line, column })
            }
            StoredError::LevelUnavailable { level, missing } => {
                Self::LevelUnavailable { level: Level::from(level), missing }
            }
            StoredError::LevelUnsuitable { tool, level, needs } => {
                Self::LevelUnsuitable { tool, level: Level::from(level), needs }
            }
            StoredError::NotConfigured { what, hint } => Self::NotConfigured { what, hint },
            StoredError::EngineUnavailable => Self::EngineUnavailable(ClientError::Lost),
            StoredError::SetupFailed { step, target, reason } => Self::SetupFailed { step, target, reason },
            StoredError::AtCapacity { what } => Self::AtCapacity { what, retry_after: None },
            StoredError::RateLimited { what, retry_after_ms } => {
                Self::RateLimited { what, retry_after: Duration::from_millis(retry_after_ms) }
            }
            StoredError::Draining => Self::Draining,
            StoredError::MissingToolchain { program, reason } => Self::MissingToolchain { program, reason },
            StoredError::UnknownWorkspace => Self::UnknownWorkspace,
            StoredError::WorkspaceBusy => Self::WorkspaceBusy,
            StoredError::TooManyWorkspaces { most } => Self::TooManyWorkspaces { most },
            StoredError::WorkspaceTooLarge { most } => Self::WorkspaceTooLarge { most },
            StoredError::Ended => Self::Ended,
            StoredError::Internal(why) => Self::Internal(why),
        }
    }
}

impl StoredEnd {
    pub(super) fn new(result: Result<Reply, StoredError>) -> Self {
        match result {
            Ok(reply) => Self::Reply(Box::new(StoredReply::new(&reply))),
            Err(error) => Self::Error(error),
        }
    }

    /// `None` where it is not what [`StoredEnd::new`] made.
    pub(super) fn result(self, registry: &Registry) -> Option<Result<Reply, CallError>> {
        match self {
            Self::Reply(reply) => reply.reply(registry).map(Ok),
            Self::Error(error) => Some(Err(error.into())),
        }
    }
}

/// Stands for a tool that was removed since it ran: a kept reply names it.
struct Gone {
    about: About,
    schema: Schema,
}

impl Gone {
    fn new(name: &str, version: Version) -> Self {
        /// Takes nothing.
        #[derive(schemars::JsonSchema)]
        struct Nothing {}
        Self { about: About::new(name, "", version), schema: Schema::of::<Nothing>() }
    }
}

impl AnyTool for Gone {
    fn about(&self) -> &About {
        &self.about
    }

    fn schema(&self) -> &Schema {
        &self.schema
    }

    fn result_schema(&self) -> Option<&Value> {
        None
    }

    fn work(&self, _: Map<String, Value>) -> Result<Work, Vec<Violation>> {
        Err(vec![Violation::new("", "the tool was removed")])
    }

    fn shape(&self, _: Finished) -> Shaped {
        Shaped { result: RawValue::NULL.to_owned(), error: Some(ToolError::new("internal", "the tool was removed")) }
    }
}
