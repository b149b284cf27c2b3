//! The body of an execute call, checked by hand: every field that is unknown, mistyped or out of range is named at once.

use axum::http::StatusCode;
use serde_json::{Map, Value};

use super::problem::Problem;
use crate::spec::{ExecutionId, IdError, Level, LimitField, LimitRequest, WorkspaceName, capped};
use crate::tools::Violation;
use crate::tools::call::{Call, Context};

/// For the whole call; one attempt may take 300 s at most.
const CONTEXT_TIMEOUT_S_MAX: f64 = 3600.0;
const RETRY_COUNT_MAX: u64 = 5;
const NAME_BYTES_MAX: usize = 128;
const METADATA_BYTES_MAX: usize = 16 * 1024;
/// More say nothing new.
const FAULTS_MAX: usize = 64;
const SHOWN_CHARS_MAX: usize = 64;

/// The call that `body` is.
pub fn call(body: Value) -> Result<Call, Problem> {
    let Value::Object(body) = body else {
        return Err(Problem::malformed_request(vec![Violation::new("", "must be an object")]));
    };
    let mut faults = Vec::new();
    let mut top = Fields { at: "", fields: body, faults: &mut faults };
    let tool = top.text("tool_name", NAME_BYTES_MAX);
    if tool.is_none() && !top.faults.iter().any(|f| f.pointer == "/tool_name") {
        top.fault("tool_name", "is required");
    }
    let parameters = top.object("parameters").unwrap_or_default();
    let given = top.object("context").unwrap_or_default();
    top.end();
    let (context, sandbox) = context(given, &mut faults);
    if !faults.is_empty() {
        faults.truncate(FAULTS_MAX);
        return Err(Problem::malformed_request(faults));
    }
    if sandbox {
        return Err(Problem::new(StatusCode::NOT_FOUND, "unknown_sandbox", "there is no kept sandbox of this id"));
    }
    Ok(Call { tool: tool.unwrap_or_default(), parameters, context })
}

/// The context, and whether it names a kept sandbox.
fn context(given: Map<String, Value>, faults: &mut Vec<Violation>) -> (Context, bool) {
    let mut c = Fields { at: "/context", fields: given, faults };
    let execution_id = c.parsed::<ExecutionId, IdError>("execution_id");
    let workspace = c.parsed::<WorkspaceName, IdError>("workspace");
    let level = c.parsed::<Level, _>("security_level");
    let agent_id = c.text("agent_id", NAME_BYTES_MAX);
    let sandbox = c.text("sandbox_id", NAME_BYTES_MAX).is_some();
    let timeout_ms = c.number("timeout", CONTEXT_TIMEOUT_S_MAX).map(|s| to_u64(s * 1000.0).max(1));
    let retry_count = c.integer("retry_count", RETRY_COUNT_MAX).unwrap_or(0) as u32;
    let cache = c.boolean("cache_enabled").unwrap_or(false);
    let sandbox_mode = c.boolean("sandbox_mode");
    let metadata = c.object("metadata");
    if metadata.as_ref().is_some_and(|m| Value::Object(m.clone()).to_string().len() > METADATA_BYTES_MAX) {
        c.fault("metadata", format!("is larger than {METADATA_BYTES_MAX} bytes"));
    }
    let given = c.object("limits").unwrap_or_default();
    c.end();
    let limits = limits(given, faults);
    let context = Context {
        execution_id,
        agent_id,
        metadata,
        timeout_ms,
        retry_count,
        cache,
        sandbox_mode,
        level,
        workspace,
        limits,
    };
    (context, sandbox)
}

/// Whether a level and the operator allow them is asked later; here they only have to be numbers.
fn limits(given: Map<String, Value>, faults: &mut Vec<Violation>) -> LimitRequest {
    let mut l = Fields { at: "/context/limits", fields: given, faults };
    let mut limits = LimitRequest::default();
    for field in LimitField::ALL {
        let value = match field {
            LimitField::NetworkRequests | LimitField::Pids => {
                l.integer(field.name(), u32::MAX.into()).map(|n| n as f64)
            }
            LimitField::Output => l.integer(field.name(), u64::MAX).map(|n| n as f64),
            _ => l.number(field.name(), f64::INFINITY),
        };
        if let Some(value) = value {
            limits.set(field, value);
        }
    }
    l.end();
    limits
}

/// Rounded up, so that something above zero stays above zero; what is too large for the type is its most.
fn to_u64(v: f64) -> u64 {
    v.ceil() as u64
}

/// Fields of one object, taken out one by one; what is left over is unknown. `null` is a field that is not given.
struct Fields<'f> {
    at: &'static str,
    fields: Map<String, Value>,
    faults: &'f mut Vec<Violation>,
}

impl Fields<'_> {
    fn fault(&mut self, name: &str, message: impl Into<String>) {
        let name = capped(name, SHOWN_CHARS_MAX).replace('~', "~0").replace('/', "~1");
        self.faults.push(Violation::new(format!("{}/{name}", self.at), message));
    }

    fn take(&mut self, name: &str) -> Option<Value> {
        self.fields.remove(name).filter(|value| !value.is_null())
    }

    fn object(&mut self, name: &str) -> Option<Map<String, Value>> {
        match self.take(name)? {
            Value::Object(fields) => Some(fields),
            other => {
                self.mistyped(name, "an object", &other);
                None
            }
        }
    }

    fn text(&mut self, name: &str, bytes_max: usize) -> Option<String> {
        match self.take(name)? {
            Value::String(text) if text.is_empty() || text.len() > bytes_max => {
                self.fault(name, format!("must be 1 to {bytes_max} bytes long"));
                None
            }
            Value::String(text) if text.chars().any(char::is_control) => {
                self.fault(name, "holds a control character");
                None
            }
            Value::String(text) => Some(text),
            other => {
                self.mistyped(name, "a string", &other);
                None
            }
        }
    }

    fn parsed<T: std::str::FromStr<Err = E>, E: std::fmt::Display>(&mut self, name: &str) -> Option<T> {
        match self.take(name)? {
            Value::String(text) => text.parse().map_err(|e: E| self.fault(name, e.to_string())).ok(),
            other => {
                self.mistyped(name, "a string", &other);
                None
            }
        }
    }

    fn boolean(&mut self, name: &str) -> Option<bool> {
        match self.take(name)? {
            Value::Bool(value) => Some(value),
            other => {
                self.mistyped(name, "true or false", &other);
                None
            }
        }
    }

    /// Above zero and at most `most`.
    fn number(&mut self, name: &str, most: f64) -> Option<f64> {
        match self.take(name)? {
            Value::Number(number) => {
                let value = number.as_f64().unwrap_or(f64::NAN);
                if value > 0.0 && value <= most {
                    return Some(value);
                }
                let message = if value > most {
                    format!("{number} is greater than the maximum of {most}")
                } else {
                    format!("{number} is not greater than 0")
                };
                self.fault(name, message);
                None
            }
            other => {
                self.mistyped(name, "a number", &other);
                None
            }
        }
    }

    /// A whole number from 0 to `most`.
    fn integer(&mut self, name: &str, most: u64) -> Option<u64> {
        match self.take(name)? {
            Value::Number(number) => {
                let message = match number.as_u64() {
                    Some(value) if value <= most => return Some(value),
                    Some(value) => format!("{value} is greater than the maximum of {most}"),
                    None => format!("{number} is not a whole number from 0 to {most}"),
                };
                self.fault(name, message);
                None
            }
            other => {
                self.mistyped(name, "a whole number", &other);
                None
            }
        }
    }

    fn mistyped(&mut self, name: &str, expected: &str, got: &Value) {
        let got = match got {
            Value::Null => "null",
            Value::Bool(_) => "a boolean",
            Value::Number(_) => "a number",
            Value::String(_) => "a string",
            Value::Array(_) => "an array",
            Value::Object(_) => "an object",
        };
        self.fault(name, format!("must be {expected}, not {got}"));
    }

    fn end(mut self) {
        let unknown: Vec<String> = self.fields.keys().take(FAULTS_MAX).cloned().collect();
        for name in unknown {
            self.fault(&name, "is not a field of the contract");
        }
    }
}
