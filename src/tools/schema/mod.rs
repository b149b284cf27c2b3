//! A tool's parameters against its JSON schema: every violation, with a pointer into the request body.

pub(super) mod derive;
mod foreign;

pub(super) use foreign::fits;
use jsonschema::error::{ValidationError, ValidationErrorKind};
use jsonschema::{Draft, PatternOptions, Retrieve, Uri, ValidationOptions, Validator};
use schemars::JsonSchema;
use serde_json::{Map, Value};

use crate::spec::capped;

/// More than these say nothing new to a caller.
const VIOLATIONS_MAX: usize = 64;
/// Of a value or a name repeated in a message.
const SHOWN_CHARS_MAX: usize = 64;

/// One thing that is wrong with a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// A JSON pointer (RFC 6901) into the request body.
    pub pointer: String,
    pub message: String,
}

impl Violation {
    pub fn new(pointer: impl Into<String>, message: impl Into<String>) -> Self {
        Self { pointer: pointer.into(), message: message.into() }
    }
}

/// `name` as one step of a JSON pointer.
pub fn step(name: &str) -> String {
    format!("/{}", capped(name, SHOWN_CHARS_MAX).replace('~', "~0").replace('/', "~1"))
}

/// A compiled schema.
pub struct Schema {
    value: Value,
    validator: Validator,
    /// What each value may have to be held against; 0 for our own, which are small and flat.
    parts: u64,
}

/// Of a compiled pattern, in bytes. A class of Unicode's letters takes some tens of KiB.
const PATTERN_BYTES_MAX: usize = 256 * 1024;
/// Of the automaton that a pattern's matching builds as it goes.
const PATTERN_CACHE_BYTES_MAX: usize = 2 * 1024 * 1024;

/// The one way in which schemas are compiled: formats are asserted, patterns take time in proportion to the text, and
/// nothing is ever fetched or read (the crate is built without what could, and is told so again).
fn options() -> ValidationOptions<'static> {
    jsonschema::options()
        .with_draft(Draft::Draft202012)
        .should_validate_formats(true)
        .should_ignore_unknown_formats(false)
        .with_pattern_options(
            PatternOptions::regex().size_limit(PATTERN_BYTES_MAX).dfa_size_limit(PATTERN_CACHE_BYTES_MAX),
        )
        .with_format("file-path", is_file_path)
        .with_retriever(Nothing)
}

/// Answers every reference that leads out of a document.
struct Nothing;

impl Retrieve for Nothing {
    fn retrieve(&self, uri: &Uri<String>) -> Result<Value, Box<dyn std::error::Error + Send + Sync>> {
        Err(format!("{uri} is not part of the schema, and nothing else is read").into())
    }
}

/// Longer ones no call of the kernel takes (PATH_MAX with its end).
const PATH_BYTES_MAX: usize = 4095;
const NAME_BYTES_MAX: usize = 255;

/// A path that the kernel could take: not empty, without NUL, no longer than PATH_MAX and no part longer than NAME_MAX.
fn is_file_path(path: &str) -> bool {
    !path.is_empty()
        && path.len() <= PATH_BYTES_MAX
        && !path.contains('\0')
        && path.split('/').all(|name| name.len() <= NAME_BYTES_MAX)
}

/// Why `pattern` can not be used, if it can not.
fn pattern(pattern: &str) -> Result<(), String> {
    let schema = serde_json::json!({ "pattern": pattern });
    options().build(&schema).map(drop).map_err(|_| {
        "is not a pattern of the linear-time engine: it may be wrong, too large, or use look-around or backreferences"
            .to_owned()
    })
}

impl Schema {
    /// `value` is one of our own schemas: that it compiles is held by the registry's tests.
    pub fn own(value: Value) -> Self {
        let validator = options().build(&value).expect("the tool's own schema is valid");
        Self { value, validator, parts: 0 }
    }

    /// What serde reads as `T`.
    pub fn of<T: JsonSchema>() -> Self {
        Self::own(derive::parameters::<T>())
    }

    /// `value` is somebody else's: all that is wrong with it, below `at` of what it came in.
    pub fn foreign(value: Value, at: &str) -> Result<Self, Vec<Violation>> {
        let parts = foreign::parts(&value, at)?;
        match options().build(&value) {
            Ok(validator) => Ok(Self { value, validator, parts }),
            Err(error) => {
                let place = format!("{at}{}", error.instance_path());
                Err(vec![Violation::new(capped(&place, 512), message(&error))])
            }
        }
    }

    pub fn value(&self) -> &Value {
        &self.value
    }

    /// Parameters whose default is not what they must be.
    pub fn bad_defaults(&self) -> Vec<String> {
        let properties = self.value.get("properties").and_then(Value::as_object);
        let defaults: Map<String, Value> = properties
            .into_iter()
            .flatten()
            .filter_map(|(name, schema)| Some((name.clone(), schema.get("default")?.clone())))
            .collect();
        let names: Vec<String> = defaults.keys().cloned().collect();
        let found = self.violations(&Value::Object(defaults));
        let below = |name: &String| {
            let place = format!("/parameters{}", step(name));
            found.iter().any(|v| {
                v.message != "is required" && (v.pointer == place || v.pointer.starts_with(&format!("{place}/")))
            })
        };
        names.into_iter().filter(below).collect()
    }

    /// `parameters` with what the schema's defaults add, or all that is wrong with them. A null where nothing has to be given
    /// says that nothing is: models whose provider wants every name present send it.
    pub fn accept(&self, mut parameters: Map<String, Value>) -> Result<Map<String, Value>, Vec<Violation>> {
        without_nulls(&mut parameters, &self.value);
        if let Some(Value::Object(properties)) = self.value.get("properties") {
            for (name, schema) in properties {
                if let Some(default) = schema.get("default")
                    && !parameters.contains_key(name)
                {
                    parameters.insert(name.clone(), default.clone());
                }
            }
        }
        let whole = Value::Object(parameters);
        let found = self.violations(&whole);
        match whole {
            Value::Object(parameters) if found.is_empty() => Ok(parameters),
            _ => Err(found),
        }
    }

    /// How much work a check of so many values is at most: each may meet every part of the schema.
    pub fn work(&self, values: usize) -> u64 {
        self.parts.saturating_mul(values as u64)
    }

    /// All that is wrong with `parameters`, which lie at `/parameters` of the body.
    pub fn violations(&self, parameters: &Value) -> Vec<Violation> {
        let mut found = Vec::new();
        // Every branch of every choice is another error, all of which are made at once: where they could be many, one is told.
        let work = self.work(values(parameters));
        if work > WORK_MAX {
            return vec![Violation::new("/parameters", "hold more values than this tool's schema can be checked for")];
        }
        if work > ALL_ERRORS_WORK_MAX {
            let first =
                if self.validator.is_valid(parameters) { None } else { self.validator.validate(parameters).err() };
            return first
                .map(|e| Violation::new(format!("/parameters{}", e.instance_path()), message(&e)))
                .into_iter()
                .collect();
        }
        if self.parts > 0 && self.validator.is_valid(parameters) {
            return found;
        }
        for error in self.validator.iter_errors(parameters) {
            let at = format!("/parameters{}", error.instance_path());
            match error.kind() {
                ValidationErrorKind::AdditionalProperties { unexpected } => {
                    let unknown = |name: &String| Violation::new(format!("{at}{}", step(name)), "is not a parameter");
                    found.extend(unexpected.iter().take(VIOLATIONS_MAX).map(unknown));
                }
                ValidationErrorKind::Required { property } => {
                    let name = property.as_str().unwrap_or_default();
                    found.push(Violation::new(format!("{at}{}", step(name)), "is required"));
                }
                ValidationErrorKind::PropertyNames { error } => {
                    let name = error.instance().as_str().unwrap_or_default();
                    found.push(Violation::new(format!("{at}{}", step(name)), "is not a name that may be used here"));
                }
                _ => found.push(Violation::new(at, message(&error))),
            }
            if found.len() >= VIOLATIONS_MAX {
                found.truncate(VIOLATIONS_MAX);
                break;
            }
        }
        found
    }
}

/// Takes out what is null and need not be given, here and in what `schema` describes below.
fn without_nulls(fields: &mut Map<String, Value>, schema: &Value) {
    let required = |name: &str| {
        let list = schema.get("required").and_then(Value::as_array);
        list.is_some_and(|list| list.iter().any(|required| required == name))
    };
    fields.retain(|name, value| !value.is_null() || required(name) || may_be_null(schema, name));
    for (name, value) in fields {
        let Some(schema) = schema.get("properties").and_then(|properties| properties.get(name)) else { continue };
        match value {
            Value::Object(fields) => without_nulls(fields, schema),
            Value::Array(items) => {
                let Some(schema) = schema.get("items") else { continue };
                items.iter_mut().filter_map(Value::as_object_mut).for_each(|fields| without_nulls(fields, schema));
            }
            _ => {}
        }
    }
}

/// Whether null is a value that this parameter may have: then it says something.
fn may_be_null(schema: &Value, name: &str) -> bool {
    match schema.get("properties").and_then(|properties| properties.get(name)).and_then(|schema| schema.get("type")) {
        Some(Value::String(kind)) => kind == "null",
        Some(Value::Array(kinds)) => kinds.iter().any(|kind| kind == "null"),
        _ => false,
    }
}

/// Parts of a schema times values that it is held against: some seconds of a processor at most.
const WORK_MAX: u64 = 20_000_000;
/// Up to here all errors are told, of which there may be as many.
const ALL_ERRORS_WORK_MAX: u64 = 200_000;

/// How many values `value` is made of.
fn values(value: &Value) -> usize {
    1 + match value {
        Value::Array(items) => items.iter().map(values).sum(),
        Value::Object(fields) => fields.values().map(values).sum(),
        _ => 0,
    }
}

/// Short values are repeated in the message, long ones are not: a caller may have sent a mebibyte.
fn message(error: &ValidationError<'_>) -> String {
    let value = error.instance();
    let shown = match &**value {
        Value::String(s) if s.chars().nth(SHOWN_CHARS_MAX).is_some() => "the text".to_owned(),
        Value::Array(_) => "the array".to_owned(),
        Value::Object(_) => "the object".to_owned(),
        short => short.to_string(),
    };
    match error.kind() {
        ValidationErrorKind::Maximum { limit } => format!("{shown} is greater than the maximum of {limit}"),
        ValidationErrorKind::Minimum { limit } => format!("{shown} is less than the minimum of {limit}"),
        ValidationErrorKind::ExclusiveMinimum { limit } => format!("{shown} is not greater than {limit}"),
        ValidationErrorKind::MaxLength { limit } => format!("is longer than {limit} characters"),
        ValidationErrorKind::MinLength { limit } => format!("is shorter than {limit} characters"),
        ValidationErrorKind::MaxProperties { limit } => format!("has more than {limit} entries"),
        _ => capped(&error.masked_with(shown).to_string(), 256),
    }
}

#[cfg(test)]
mod tests;
