//! Manifests as TOML files: every complaint with its line.

use std::fmt;

use serde_json::Value;
use toml::de::{DeTable, DeValue};

use super::manifest::{BYTES_MAX, Manifest, Raw};
use crate::spec::capped;
use crate::tools::schema::{Violation, fits, step};

/// One thing that is wrong with a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Misfit {
    /// From 1; none where the file as a whole is meant.
    pub line: Option<usize>,
    pub message: String,
}

impl fmt::Display for Misfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "line {line}: {}", self.message),
            None => f.write_str(&self.message),
        }
    }
}

/// The manifest that `text` is, or all that is wrong with it.
pub fn read(text: &str) -> Result<Manifest, Vec<Misfit>> {
    let raw: Raw = toml::from_str(text).map_err(|error| {
        let line = error.span().map(|span| line(text, span.start));
        vec![Misfit { line, message: capped(error.message(), 500) }]
    })?;
    raw.check().map_err(|found| {
        let table = DeTable::parse(text).ok();
        let place = |violation: &Violation| {
            let at = table.as_ref().and_then(|table| locate(table.get_ref(), &violation.pointer));
            Misfit {
                line: at.map(|at| line(text, at)),
                message: format!(
                    "{}: {}",
                    violation.pointer.trim_start_matches('/').replace('/', "."),
                    violation.message
                ),
            }
        };
        found.iter().map(place).collect()
    })
}

fn line(text: &str, at: usize) -> usize {
    text.as_bytes()[..at.min(text.len())].iter().filter(|b| **b == b'\n').count() + 1
}

/// Where the deepest part of `pointer` begins that the file has.
fn locate(table: &DeTable<'_>, pointer: &str) -> Option<usize> {
    let mut found = None;
    let mut steps = pointer.split('/').skip(1).map(|step| step.replace("~1", "/").replace("~0", "~"));
    let (key, mut value) = table.get_key_value(steps.next()?.as_str())?;
    found = found.or(Some(key.span().start));
    for step in steps {
        match value.get_ref() {
            DeValue::Table(inner) => match inner.get_key_value(step.as_str()) {
                Some((key, next)) => (found, value) = (Some(key.span().start), next),
                None => break,
            },
            DeValue::Array(items) => match step.parse::<usize>().ok().and_then(|i| items.get(i)) {
                Some(next) => (found, value) = (Some(next.span().start), next),
                None => break,
            },
            _ => break,
        }
    }
    found
}

/// The manifest that `body` is, or all that is wrong with it, by pointers into it.
pub fn from_json(body: Value) -> Result<Manifest, Vec<Violation>> {
    // What could not be read again must not be kept.
    if !fits(&body, BYTES_MAX as usize) {
        return Err(vec![Violation::new("", format!("is larger than {BYTES_MAX} bytes"))]);
    }
    let raw: Raw = serde_path_to_error::deserialize(body).map_err(|error| {
        let pointer: String = error.path().iter().map(|part| step(&part.to_string())).collect();
        vec![Violation::new(pointer, capped(&error.inner().to_string(), 300))]
    })?;
    raw.check()
}
