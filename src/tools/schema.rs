//! A tool's parameters against its JSON schema: every violation, with a pointer into the request body.

use jsonschema::Validator;
use jsonschema::error::{ValidationError, ValidationErrorKind};
use serde_json::Value;

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
}

impl Schema {
    /// `value` is one of our own schemas: that it compiles is held by the registry's tests.
    pub fn new(value: Value) -> Self {
        let validator = jsonschema::draft202012::new(&value).expect("the tool's own schema is valid");
        Self { value, validator }
    }

    pub fn value(&self) -> &Value {
        &self.value
    }

    /// All that is wrong with `parameters`, which lie at `/parameters` of the body.
    pub fn violations(&self, parameters: &Value) -> Vec<Violation> {
        let mut found = Vec::new();
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
