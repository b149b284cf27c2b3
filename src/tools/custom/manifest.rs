//! A tool as its author writes it: a TOML file, or the same names as JSON.

use std::collections::BTreeMap;
use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::runtimes::Runtime;
use crate::spec::{Level, LimitField, LimitRequest, NO_CONTROLS};
use crate::tools::day::Day;
use crate::tools::definition::{About, Deprecated, Hints, TTL_DEFAULT};
use crate::tools::plan::{CODE_BYTES_MAX, milliseconds};
use crate::tools::schema::derive::request;
use crate::tools::schema::{Schema, Violation};
use crate::tools::version::{NAME, VERSION, Version, is_name};

/// Of one manifest, as text.
pub const BYTES_MAX: u64 = 2 * 1024 * 1024;
const DESCRIPTION_BYTES_MAX: usize = 4096;
const ARGUMENTS_MAX: usize = 64;
const ARGUMENT_BYTES_MAX: usize = 4096;
const EXAMPLES_MAX: usize = 16;
const TIMEOUT_S_MAX: f64 = 300.0;
const TTL_S_MAX: f64 = 7.0 * 86_400.0;
const RATE_CALLS_MAX: u32 = 100_000;
const RATE_PER_S_MAX: f64 = 86_400.0;

/// Everything about a custom tool, checked.
pub struct Manifest {
    pub about: About,
    pub schema: Schema,
    pub runtime: Runtime,
    pub code: String,
    /// Of one attempt, where the caller says nothing.
    pub timeout_ms: Option<u64>,
    /// The most that a call may have, and what it has where it does not say.
    pub limits: LimitRequest,
    pub ttl: Duration,
    pub rate: Option<Rate>,
}

/// Calls that one principal may make.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rate {
    pub calls: u32,
    pub per: Duration,
}

/// As it is written; what is missing or of the wrong kind is told by serde with its place.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Raw {
    #[schemars(extend("pattern" = NAME))]
    name: String,
    #[schemars(extend("pattern" = VERSION))]
    version: String,
    /// What models and people are told; at most 4096 bytes.
    #[schemars(length(min = 1, max = DESCRIPTION_BYTES_MAX))]
    description: String,
    /// It changes nothing that outlives the call.
    #[serde(default)]
    read_only: bool,
    /// Run twice with the same parameters it leaves, and returns, the same as run once.
    #[serde(default)]
    idempotent: bool,
    /// It reaches beyond this host.
    #[serde(default)]
    open_world: bool,
    /// The weakest level at which it may run.
    #[schemars(extend("enum" = ["minimal", "standard", "strict", "maximum", null]))]
    level: Option<String>,
    deprecated: Option<RawDeprecated>,
    /// Parameters of calls that work.
    #[serde(default)]
    #[schemars(length(max = EXAMPLES_MAX), extend("items" = json!({ "type": "object" })))]
    examples: Vec<Value>,
    /// JSON Schema, draft 2020-12, of an object: bounded in size, without references that lead out of it, and with patterns
    /// of a linear-time engine.
    #[schemars(extend(
        "type" = ["object", "null"],
        "properties" = json!({ "type": { "const": "object" } }),
        "required" = ["type"],
    ))]
    parameters: Option<Value>,
    run: RawRun,
    /// The most that a call may have, by the names of context.limits.
    #[serde(default)]
    #[schemars(extend(
        "propertyNames" = json!({ "enum": LimitField::ALL.map(LimitField::name) }),
        "additionalProperties" = json!({ "type": "number", "exclusiveMinimum": 0 }),
    ))]
    limits: BTreeMap<String, f64>,
    /// Nothing can be reached in this version.
    #[serde(default)]
    #[schemars(length(max = 0))]
    egress: Vec<String>,
    /// For tools that are idempotent.
    cache: Option<RawCache>,
    rate: Option<RawRate>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct RawDeprecated {
    #[schemars(extend("format" = "date"))]
    since: String,
    /// From when on it may be gone.
    #[schemars(extend("format" = "date"))]
    sunset: Option<String>,
    /// One line: what to use instead, say.
    #[schemars(length(max = DESCRIPTION_BYTES_MAX), regex(pattern = NO_CONTROLS))]
    message: Option<String>,
}

/// Either language and code, or command.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("oneOf" = json!([
    { "required": ["language", "code"], "properties": {
        "language": { "type": "string" }, "code": { "type": "string" }, "command": { "type": "null" } } },
    { "required": ["command"], "properties": {
        "language": { "type": "null" }, "code": { "type": "null" }, "command": { "type": "array" } } },
])))]
struct RawRun {
    #[schemars(extend("enum" = Runtime::ALL.into_iter().map(|r| Some(r.name())).chain([None]).collect::<Vec<_>>()))]
    language: Option<String>,
    /// Reads the parameters as one JSON document from its standard input.
    #[schemars(length(min = 1, max = CODE_BYTES_MAX), extend("pattern" = NO_NUL))]
    code: Option<String>,
    /// A program and its arguments.
    #[schemars(
        length(min = 1, max = ARGUMENTS_MAX),
        inner(length(max = ARGUMENT_BYTES_MAX), regex(pattern = NO_NUL)),
        extend("prefixItems" = json!([{
            "type": "string", "minLength": 1, "maxLength": ARGUMENT_BYTES_MAX, "pattern": NO_NUL,
        }])),
    )]
    command: Option<Vec<String>>,
    /// Seconds of one attempt.
    #[schemars(extend("exclusiveMinimum" = 0, "maximum" = TIMEOUT_S_MAX))]
    timeout: Option<f64>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct RawCache {
    /// Seconds for which a result may be told again.
    #[schemars(extend("exclusiveMinimum" = 0, "maximum" = TTL_S_MAX))]
    ttl: f64,
}

/// Calls that one principal may make.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct RawRate {
    #[schemars(range(min = 1, max = RATE_CALLS_MAX))]
    calls: u32,
    /// Seconds.
    #[schemars(extend("exclusiveMinimum" = 0, "maximum" = RATE_PER_S_MAX))]
    per: f64,
}

const NO_NUL: &str = r"^[^\u0000]*$";

/// What a manifest may be in JSON, but for what depends on several of its fields.
pub fn schema() -> Value {
    request::<Raw>()
}

/// One that works.
pub fn example() -> Value {
    json!({
        "name": "greet",
        "version": "1.0.0",
        "description": "Greets somebody.",
        "idempotent": true,
        "level": "strict",
        "parameters": {
            "type": "object",
            "properties": { "who": { "type": "string", "minLength": 1, "maxLength": 100 } },
            "required": ["who"],
        },
        "examples": [{ "who": "world" }],
        "run": {
            "language": "python",
            "code": "import json, sys\njson.dump('hello, ' + json.load(sys.stdin)['who'], sys.stdout)",
            "timeout": 10,
        },
        "cache": { "ttl": 60 },
    })
}

/// Collects everything that is wrong, each with its place.
#[derive(Default)]
struct Faults(Vec<Violation>);

impl Faults {
    fn add(&mut self, pointer: impl Into<String>, message: impl Into<String>) {
        self.0.push(Violation::new(pointer, message));
    }

    /// `result`, or its error at `pointer`.
    fn keep<T, E: std::fmt::Display>(&mut self, pointer: &str, result: Result<T, E>) -> Option<T> {
        result.map_err(|e| self.add(pointer, e.to_string())).ok()
    }

    fn hold(&mut self, holds: bool, pointer: &str, message: impl Into<String>) {
        if !holds {
            self.add(pointer, message);
        }
    }
}

impl Raw {
    /// All of it checked; else everything that is wrong, by JSON pointers into the manifest.
    pub fn check(self) -> Result<Manifest, Vec<Violation>> {
        let mut faults = Faults::default();
        faults.hold(is_name(&self.name), "/name", "must be 1 to 64 letters, digits, _ or -");
        let version = faults.keep("/version", self.version.parse::<Version>());
        let described = (1..=DESCRIPTION_BYTES_MAX).contains(&self.description.len());
        faults.hold(described, "/description", format!("must be 1 to {DESCRIPTION_BYTES_MAX} bytes long"));
        let level = self.level.as_deref().and_then(|level| faults.keep("/level", level.parse::<Level>()));
        let deprecated = self.deprecated.and_then(|raw| deprecated(raw, &mut faults));
        let (runtime, code) = program(&self.run, &mut faults).unzip();
        let timeout_ms = self.run.timeout.and_then(|timeout| {
            let fits = timeout > 0.0 && timeout <= TIMEOUT_S_MAX;
            faults.hold(fits, "/run/timeout", format!("must be above 0 and at most {TIMEOUT_S_MAX} seconds"));
            fits.then(|| milliseconds(timeout))
        });
        let limits = limits(&self.limits, &mut faults);
        let alone = "sandboxes reach nothing in this version: leave it out";
        faults.hold(self.egress.is_empty(), "/egress", alone);
        let ttl = self.cache.map_or(TTL_DEFAULT, |cache| {
            let fits = cache.ttl > 0.0 && cache.ttl <= TTL_S_MAX;
            faults.hold(fits, "/cache/ttl", format!("must be above 0 and at most {TTL_S_MAX} seconds"));
            faults.hold(self.idempotent, "/cache", "is for tools that are idempotent");
            if fits { Duration::from_secs_f64(cache.ttl) } else { TTL_DEFAULT }
        });
        let rate = self.rate.and_then(|RawRate { calls, per }| {
            let fits = (1..=RATE_CALLS_MAX).contains(&calls);
            faults.hold(fits, "/rate/calls", format!("must be from 1 to {RATE_CALLS_MAX}"));
            let long = per > 0.0 && per <= RATE_PER_S_MAX;
            faults.hold(long, "/rate/per", format!("must be above 0 and at most {RATE_PER_S_MAX} seconds"));
            (fits && long).then(|| Rate { calls, per: Duration::from_secs_f64(per) })
        });
        let schema = parameters(self.parameters, &self.examples, &mut faults);
        match (faults.0.is_empty(), version, runtime, code, schema) {
            (true, Some(version), Some(runtime), Some(code), Some(schema)) => Ok(Manifest {
                about: About {
                    needs_network: false,
                    name: self.name,
                    description: self.description,
                    version,
                    deprecated,
                    examples: self.examples,
                    hints: Hints {
                        read_only: self.read_only,
                        idempotent: self.idempotent,
                        open_world: self.open_world,
                    },
                    level,
                },
                schema,
                runtime,
                code,
                timeout_ms,
                limits,
                ttl,
                rate,
            }),
            _ => Err(faults.0),
        }
    }
}

fn deprecated(raw: RawDeprecated, faults: &mut Faults) -> Option<Deprecated> {
    let since = faults.keep("/deprecated/since", raw.since.parse::<Day>());
    let sunset = raw.sunset.and_then(|day| faults.keep("/deprecated/sunset", day.parse::<Day>()));
    let message = raw.message.filter(|m| {
        let fits = m.len() <= DESCRIPTION_BYTES_MAX && !m.chars().any(char::is_control);
        faults.hold(fits, "/deprecated/message", "must be one line of at most 4096 bytes");
        fits
    });
    Some(Deprecated { since: since?, sunset, message })
}

/// Code of a language, or a command: which becomes code of bash that is replaced by it.
fn program(run: &RawRun, faults: &mut Faults) -> Option<(Runtime, String)> {
    match (&run.language, &run.code, &run.command) {
        (Some(language), Some(code), None) => {
            let runtime = Runtime::by_name(language);
            let known = Runtime::ALL.map(Runtime::name).join(", ");
            faults.hold(runtime.is_some(), "/run/language", format!("must be one of {known}"));
            let fits = !code.is_empty() && code.len() <= CODE_BYTES_MAX && !code.contains('\0');
            faults.hold(fits, "/run/code", format!("must be 1 to {CODE_BYTES_MAX} bytes without NUL"));
            runtime.filter(|_| fits).map(|runtime| (runtime, code.clone()))
        }
        (None, None, Some(command)) => {
            let fits = |argument: &String| argument.len() <= ARGUMENT_BYTES_MAX && !argument.contains('\0');
            let ok = (1..=ARGUMENTS_MAX).contains(&command.len()) && !command[0].is_empty() && command.iter().all(fits);
            let message =
                format!("must be a program and its arguments, at most {ARGUMENTS_MAX} of {ARGUMENT_BYTES_MAX} bytes");
            faults.hold(ok, "/run/command", message);
            let quoted = |argument: &String| format!("'{}'", argument.replace('\'', r"'\''"));
            let words: Vec<String> = command.iter().map(quoted).collect();
            ok.then(|| (Runtime::Bash, format!("exec -- {}", words.join(" "))))
        }
        _ => {
            faults.add("/run", "must have either language and code, or command");
            None
        }
    }
}

/// In the names and units of `context.limits`.
fn limits(given: &BTreeMap<String, f64>, faults: &mut Faults) -> LimitRequest {
    let mut limits = LimitRequest::default();
    for (name, value) in given {
        let pointer = format!("/limits{}", crate::tools::schema::step(name));
        match LimitField::ALL.into_iter().find(|field| field.name() == name) {
            Some(field) if *value > 0.0 && value.is_finite() => limits.set(field, *value),
            Some(_) => faults.add(pointer, "must be a number above 0"),
            None => faults.add(pointer, "is no limit that is known"),
        }
    }
    limits
}

/// Parameters that are not described are none. A description that says nothing of further names means that there are none.
fn parameters(given: Option<Value>, examples: &[Value], faults: &mut Faults) -> Option<Schema> {
    let mut value = given.unwrap_or_else(|| json!({ "type": "object" }));
    if let Value::Object(top) = &mut value {
        let open = ["additionalProperties", "unevaluatedProperties", "patternProperties"];
        if !open.iter().any(|keyword| top.contains_key(*keyword)) {
            top.insert("additionalProperties".into(), false.into());
        }
    }
    let schema = match Schema::foreign(value, "/parameters") {
        Ok(schema) => schema,
        Err(found) => {
            faults.0.extend(found);
            return None;
        }
    };
    for name in schema.bad_defaults() {
        faults.add(
            format!("/parameters/properties{}/default", crate::tools::schema::step(&name)),
            "is not what the parameter itself must be",
        );
    }
    faults.hold(examples.len() <= EXAMPLES_MAX, "/examples", format!("must be at most {EXAMPLES_MAX}"));
    for (i, example) in examples.iter().take(EXAMPLES_MAX).enumerate() {
        match example {
            Value::Object(parameters) => {
                for violation in schema.accept(parameters.clone()).err().into_iter().flatten() {
                    let below = violation.pointer.strip_prefix("/parameters").unwrap_or_default();
                    faults.add(format!("/examples/{i}{below}"), violation.message);
                }
            }
            _ => faults.add(format!("/examples/{i}"), "must be an object: parameters by name"),
        }
    }
    Some(schema)
}
