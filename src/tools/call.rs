//! One call of a tool, and the ways in which it can be refused.

use std::time::Duration;

use serde_json::{Map, Value};

use super::Violation;
use crate::checks::Blocked;
use crate::spec::{ExecutionId, Level, LimitRequest, WorkspaceName};
use crate::wire::client::ClientError;

/// What a caller asks for, decoded; parameters are not checked yet.
#[derive(Debug, Clone)]
pub struct Call {
    pub tool: String,
    pub parameters: Map<String, Value>,
    pub context: Context,
}

impl Call {
    /// About how much text there is to be checked: many small values are as much work as one large one.
    pub fn text_bytes(&self) -> usize {
        self.parameters.iter().map(|(name, value)| name.len() + weight(value)).sum()
    }
}

/// What a schema spends on a value beside its text, in bytes of text.
pub(super) const VALUE_BYTES: usize = 32;

/// About how many bytes of memory a value takes.
pub(super) fn weight(value: &Value) -> usize {
    VALUE_BYTES
        + match value {
            Value::String(text) => text.len(),
            Value::Array(items) => items.iter().map(weight).sum(),
            Value::Object(items) => items.iter().map(|(name, value)| name.len() + weight(value)).sum(),
            _ => 0,
        }
}

/// Everything beside tool and parameters; the default is an empty `context`.
#[derive(Debug, Clone, Default)]
pub struct Context {
    pub execution_id: Option<ExecutionId>,
    pub agent_id: Option<String>,
    pub metadata: Option<Map<String, Value>>,
    /// For the whole call, waits and retries included.
    pub timeout_ms: Option<u64>,
    pub retry_count: u32,
    /// A result that was returned before will do.
    pub cache: bool,
    pub sandbox_mode: Option<bool>,
    pub level: Option<Level>,
    pub workspace: Option<WorkspaceName>,
    pub limits: LimitRequest,
}

/// The caller's wish that the same call gives the same reply: an id, and what tells whether the body is the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Once {
    pub key: String,
    pub fingerprint: [u8; 32],
}

/// What a tool needs and a level has not.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Needs {
    #[default]
    Network,
    WritableWorkspace,
}

impl Needs {
    fn text(self) -> &'static str {
        match self {
            Needs::Network => "a network",
            Needs::WritableWorkspace => "a workspace that can be written",
        }
    }
}

/// Nothing ran, and why.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    #[error("there is no tool {0:?}")]
    UnknownTool(String),
    /// Fields of the call or its context.
    #[error("{} of the request can not be accepted", fields(.0.len()))]
    Request(Vec<Violation>),
    /// The tool's schema refused.
    #[error("{}", invalid(.0.len()))]
    Parameters(Vec<Violation>),
    #[error("{0}")]
    Forbidden(String),
    /// A check of the code itself.
    #[error("{0}")]
    Blocked(Blocked),
    #[error("level {level} is not available on this host: {}", .missing.join("; "))]
    LevelUnavailable { level: Level, missing: Vec<String> },
    #[error("{tool} needs {}, and level {level} has none", .needs.text())]
    LevelUnsuitable { tool: String, level: Level, needs: Needs },
    /// The operator has not set up what the call needs; `hint` names the setting.
    #[error("{what}")]
    NotConfigured { what: String, hint: String },
    #[error("the engine can not be reached")]
    EngineUnavailable(#[source] ClientError),
    /// `target` is what the step worked on.
    #[error("the sandbox could not be built: {step} {target}: {reason}")]
    SetupFailed { step: String, target: String, reason: String },
    #[error("at capacity: {what}")]
    AtCapacity { what: String, retry_after: Option<Duration> },
    /// This principal's own bound, not the daemon's.
    #[error("too many calls: {what}")]
    RateLimited { what: String, retry_after: Duration },
    #[error("the daemon is stopping")]
    Draining,
    #[error("the program {program} can not be run in the sandbox: {reason}")]
    MissingToolchain { program: String, reason: String },
    #[error("there is no workspace of this name")]
    UnknownWorkspace,
    #[error("the workspace is in use, or is being removed")]
    WorkspaceBusy,
    #[error("{most} workspaces are the most that a principal may have: remove one first")]
    TooManyWorkspaces { most: u32 },
    #[error("a workspace may hold between {} and {most} bytes here", 1 << 20)]
    WorkspaceTooLarge { most: u64 },
    #[error("{0}")]
    Conflict(&'static str),
    /// The caller left, or the execution was ended through the API, before anything ran.
    #[error("the execution was ended before it started")]
    Ended,
    #[error("{0}")]
    Internal(String),
}

fn fields(n: usize) -> String {
    if n == 1 { "1 field".into() } else { format!("{n} fields") }
}

fn invalid(n: usize) -> String {
    if n == 1 { "1 parameter is invalid".into() } else { format!("{n} parameters are invalid") }
}

impl CallError {
    /// Whether the same call may well succeed a moment later. Who finds no room is not tried again here but told when to
    /// come back: what waits is bounded, and between two tries it would wait beside those bounds.
    pub fn is_worth_retrying(&self) -> bool {
        matches!(self, CallError::EngineUnavailable(_) | CallError::SetupFailed { .. })
    }
}
