//! The body of an execute call, checked by hand: every field that is unknown, mistyped or out of range is named at once.

use axum::http::StatusCode;
use serde_json::{Map, Value, json};

use super::problem::Problem;
use crate::policy::table::extremes;
use crate::spec::{ExecutionId, IdError, Level, LimitField, LimitRequest, NO_CONTROLS, WorkspaceName, capped};
use crate::tools::Violation;
use crate::tools::call::{Call, Context};

/// For the whole call; one attempt may take 300 s at most.
const CONTEXT_TIMEOUT_S_MAX: f64 = 3600.0;
const RETRY_COUNT_MAX: u64 = 5;
const NAME_CHARS_MAX: usize = 128;
const METADATA_BYTES_MAX: usize = 16 * 1024;
/// More say nothing new.
const FAULTS_MAX: usize = 64;
const SHOWN_CHARS_MAX: usize = 64;
/// Up to 2^53 every whole number is a float of its own.
const WHOLE_MAX: f64 = 9_007_199_254_740_992.0;

/// The call that `body` is.
pub fn call(body: Value) -> Result<Call, Problem> {
    let Value::Object(body) = body else {
        return Err(Problem::malformed_request(vec![Violation::new("", "must be an object")]));
    };
    let mut faults = Vec::new();
    let mut top = Fields { at: "", fields: body, faults: &mut faults };
    let tool = top.text("tool_name", NAME_CHARS_MAX);
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
    let agent_id = c.text("agent_id", NAME_CHARS_MAX);
    let sandbox = c.text("sandbox_id", NAME_CHARS_MAX).is_some();
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

/// What [`call`] takes, but for what depends on the tool, the level and the operator's ceilings.
pub(super) fn schema() -> Value {
    let bare = |max: usize| json!({ "minLength": 1, "maxLength": max, "pattern": NO_CONTROLS });
    let context = json!({
        "execution_id": nullable("string", json!({
            "pattern": ExecutionId::PATTERN,
            "description": "Per principal: the same body again gets the reply of the first, another body is a conflict.",
        })),
        "agent_id": nullable("string", with(bare(NAME_CHARS_MAX), "Given back in the reply.")),
        "timeout": nullable("number", json!({
            "exclusiveMinimum": 0,
            "maximum": CONTEXT_TIMEOUT_S_MAX,
            "description": "Seconds for the whole call, waits and retries included.",
        })),
        "retry_count": nullable("integer", json!({
            "minimum": 0,
            "maximum": RETRY_COUNT_MAX,
            "description": "Tried again where nothing ran, or where the tool is idempotent and failed by chance.",
        })),
        "cache_enabled": nullable("boolean", json!({ "description": "A result that was returned before will do." })),
        "sandbox_mode": nullable("boolean", json!({
            "description": "false means level minimal: a command is never run without a sandbox.",
        })),
        "security_level": json!({
            "enum": Level::ALL.into_iter().map(|level| Some(level.name())).chain([None]).collect::<Vec<_>>(),
            "description": "standard unless given; the strictest of this, the principal's floor and the tool's own holds.",
        }),
        "workspace": nullable("string", json!({ "pattern": WorkspaceName::PATTERN })),
        "sandbox_id": nullable("string", with(bare(NAME_CHARS_MAX), "A sandbox that was kept; this version keeps none.")),
        "limits": object(LimitField::ALL.into_iter().map(|field| (field.name().to_owned(), limit(field))).collect()),
        "metadata": nullable("object", json!({
            "description": format!("Given back in the reply. At most {METADATA_BYTES_MAX} bytes as JSON text."),
        })),
    });
    let Value::Object(context) = context else { return Value::Null };
    let mut tool_name = json!({ "type": "string", "description": "A tool, and as much of its version as is meant." });
    merge(&mut tool_name, bare(NAME_CHARS_MAX));
    json!({
        "type": "object",
        "properties": {
            "tool_name": tool_name,
            "parameters": nullable("object", json!({
                "description": "The tool's own: `GET /api/v1/tools/{name}` tells their schema.",
            })),
            "context": object(context),
        },
        "required": ["tool_name"],
        "additionalProperties": false,
    })
}

/// A field of `context.limits`, in the contract's unit; rounding takes what is a hair below the least.
fn limit(field: LimitField) -> Value {
    let (least, most) = extremes(field);
    let unit = field.unit();
    let whole = matches!(field, LimitField::NetworkRequests | LimitField::Pids | LimitField::Output);
    let mut schema = match (whole, least) {
        (true, least) => nullable("integer", json!({ "minimum": least })),
        // One of the smallest unit: all that is above zero is rounded up to it.
        (false, 1) => nullable("number", json!({ "exclusiveMinimum": 0 })),
        (false, least) => nullable("number", json!({ "minimum": least as f64 / unit })),
    };
    if let Some(most) = most {
        merge(&mut schema, json!({ "maximum": most as f64 / unit }));
    }
    schema
}

/// `rest` for a field that may be null, which is a field that is not given.
fn nullable(kind: &str, rest: Value) -> Value {
    let mut schema = json!({ "type": [kind, "null"] });
    merge(&mut schema, rest);
    schema
}

fn object(properties: Map<String, Value>) -> Value {
    nullable("object", json!({ "properties": properties, "additionalProperties": false }))
}

fn with(mut schema: Value, description: &str) -> Value {
    merge(&mut schema, json!({ "description": description }));
    schema
}

fn merge(schema: &mut Value, more: Value) {
    if let (Value::Object(schema), Value::Object(more)) = (schema, more) {
        schema.extend(more);
    }
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

    fn text(&mut self, name: &str, chars_max: usize) -> Option<String> {
        match self.take(name)? {
            Value::String(text) if text.is_empty() || text.chars().nth(chars_max).is_some() => {
                self.fault(name, format!("must be 1 to {chars_max} characters long"));
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

    /// A whole number from 0 to `most`; 2.0 is the same number as 2, as in JSON Schema.
    fn integer(&mut self, name: &str, most: u64) -> Option<u64> {
        match self.take(name)? {
            Value::Number(number) => {
                let whole = |value: &f64| (0.0..=WHOLE_MAX).contains(value) && value.fract() == 0.0;
                let of_float = || number.as_f64().filter(whole).map(|value| value as u64);
                let message = match number.as_u64().or_else(of_float) {
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
