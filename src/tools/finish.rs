//! What came of a call: the streams and the outcome that a tool shapes its result from, and the whole of it.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::phases::Around;
use super::registry::Registered;

use crate::spec::{Clock, Denial, Enforced, ExecutionId, Level, LimitHit, Outcome, SandboxId, Usage};

/// Why a call that got as far as a sandbox did not succeed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToolError {
    /// The outcome's kind, `nonzero_exit`, `exception`, or the tool's own.
    pub code: Cow<'static, str>,
    pub message: String,
    /// What refused, where a rule with a name did.
    pub rule: Option<String>,
}

impl ToolError {
    pub fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self { code: Cow::Borrowed(code), message: message.into(), rule: None }
    }
}

/// The end of a command as a tool sees it.
pub struct Finished {
    /// `None`: a sandbox was built and the command could not be placed into it.
    pub outcome: Option<Outcome>,
    /// Present where `outcome` is not.
    pub refused: Option<ToolError>,
    pub stdout: String,
    /// The same as it was kept, of what is no language's command.
    pub raw: Option<Vec<u8>>,
    pub stderr: String,
    /// The job's own.
    pub note: Value,
    /// What came through the runtime's result pipe.
    pub result: Option<Vec<u8>>,
    /// Of the commands before and after it.
    pub around: Around,
}

impl Finished {
    /// `None` where the command ended by itself with 0.
    pub fn error(&self) -> Option<ToolError> {
        let Some(outcome) = &self.outcome else { return self.refused.clone() };
        let message = match outcome {
            Outcome::Exited { code: 0 } => return None,
            Outcome::Exited { code } => {
                return Some(ToolError::new("nonzero_exit", format!("the command exited with code {code}")));
            }
            Outcome::Signaled { signal } => format!("the command was ended by {}", signal_name(*signal)),
            Outcome::TimedOut { clock: Clock::Wall } => "the command was killed when its time was over".into(),
            Outcome::TimedOut { clock: Clock::Cpu } => "the command was killed when its cpu time was used up".into(),
            Outcome::OutOfMemory => "the command was killed at its memory limit".into(),
            Outcome::PidsLimit => "the command was killed for starting processes beyond its limit".into(),
            Outcome::DiskLimit => "the command was killed for writing a file beyond its size limit".into(),
            Outcome::OutputLimit => "the command was killed for far more output than is kept".into(),
            Outcome::Killed { by } => format!("the command was killed ({})", by.name()),
            Outcome::Denied { rule } => format!("the command was killed for a call that {rule} denies"),
            Outcome::EngineFault => "the engine failed while the command ran".into(),
        };
        Some(ToolError::new(outcome.kind(), message))
    }
}

fn signal_name(signal: i32) -> String {
    match nix::sys::signal::Signal::try_from(signal) {
        Ok(known) => known.as_str().to_owned(),
        Err(_) => format!("signal {signal}"),
    }
}

/// What is told about one output stream beside its text.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StreamFacts {
    /// Written by the command, kept or not.
    pub bytes: u64,
    /// Only the first bytes were kept.
    pub truncated: bool,
    /// Bytes that are not UTF-8 were replaced.
    pub lossy: bool,
}

#[derive(Debug, Clone)]
pub struct SandboxFacts {
    pub id: SandboxId,
    pub level: Level,
    /// What was substituted for what this host lacks.
    pub degraded: Vec<String>,
    pub enforced: Enforced,
}

/// A call after which there is something to tell: a sandbox was built for it, or it needed none.
#[derive(Clone)]
pub struct Execution {
    pub id: ExecutionId,
    pub tool: Registered,
    pub agent_id: Option<String>,
    pub metadata: Option<Map<String, Value>>,
    pub result: Box<RawValue>,
    pub error: Option<ToolError>,
    pub outcome: Option<Outcome>,
    pub limits_hit: Vec<LimitHit>,
    /// From the call's arrival to its end, waits and retries included.
    pub time: Duration,
    pub attempts: u32,
    /// Nothing ran for this call: the result and all that follows are an earlier one's.
    pub cached: bool,
    pub usage: Usage,
    pub stdout: StreamFacts,
    pub stderr: StreamFacts,
    /// `None`: the tool needs none.
    pub sandbox: Option<SandboxFacts>,
    /// What was refused; `None` where nobody recorded that.
    pub denials: Option<Vec<Denial>>,
}

impl Execution {
    pub fn success(&self) -> bool {
        self.error.is_none()
    }

    /// Memory that the values of the reply take, which for small numbers is many times their text.
    pub fn held_bytes(&self) -> usize {
        fn map(fields: &Map<String, Value>) -> usize {
            // Name, hash and index beside the value.
            fields.iter().map(|(name, v)| 48 + name.len() + value(v)).sum()
        }
        fn value(v: &Value) -> usize {
            size_of::<Value>()
                + match v {
                    Value::String(text) => text.len(),
                    Value::Array(items) => items.iter().map(value).sum(),
                    Value::Object(fields) => map(fields),
                    Value::Null | Value::Bool(_) | Value::Number(_) => 0,
                }
        }
        let denial = |d: &Denial| size_of::<Denial>() + d.rule.len() + d.detail.len();
        let denials: usize = self.denials.iter().flatten().map(denial).sum();
        self.result.get().len() + self.metadata.as_ref().map_or(0, map) + denials
    }
}

pub type Reply = Arc<Execution>;
