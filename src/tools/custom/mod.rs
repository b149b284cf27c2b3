//! Tools that need no Rust: manifests of the operator's (`tools.d`) and of admins (`POST /api/v1/tools`).

mod catalogue;
mod file;
mod manifest;
mod watch;

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use governor::clock::{Clock, DefaultClock};
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

pub use catalogue::{Catalogue, ChangeError, Directories};
pub use file::{Misfit, from_json, read};
pub use manifest::{Manifest, example, schema};
pub use watch::Watch;

use super::definition::{About, AnyTool, Shaped};
use super::finish::{Finished, ToolError};
use super::plan::{Job, STDIN_BYTES_MAX, Work};
use super::schema::{Schema, Violation};
use crate::spec::{LimitRequest, Outcome, capped};

/// Of a tool's own message.
const MESSAGE_CHARS_MAX: usize = 1000;
/// Levels of a tool's JSON, in a reply in an array of replies: readers stop at 128.
const DEPTH_MAX: usize = 64;

/// A manifest as one of the registry's.
pub struct Custom {
    manifest: Manifest,
    /// By principal.
    rate: Option<DefaultKeyedRateLimiter<String>>,
}

impl Custom {
    pub fn new(manifest: Manifest) -> Self {
        let rate = manifest.rate.and_then(|rate| {
            let calls = NonZeroU32::new(rate.calls)?;
            // All at once, or spread: as many in any stretch of that length, one more each time its share has passed.
            Some(RateLimiter::keyed(Quota::with_period(rate.per / rate.calls)?.allow_burst(calls)))
        });
        Self { manifest, rate }
    }
}

impl AnyTool for Custom {
    fn about(&self) -> &About {
        &self.manifest.about
    }

    fn schema(&self) -> &Schema {
        &self.manifest.schema
    }

    fn result_schema(&self) -> Option<&Value> {
        None
    }

    fn ttl(&self) -> Duration {
        self.manifest.ttl
    }

    fn admit(&self, principal: &str) -> Result<(), Duration> {
        let Some(rate) = &self.rate else { return Ok(()) };
        // Those who have not called for long are forgotten, once there are many.
        if rate.len() > KEYS_KEPT {
            rate.retain_recent();
        }
        rate.check_key(&principal.to_owned()).map_err(|until| until.wait_time_from(DefaultClock::default().now()))
    }

    /// Parameters reach the program as one JSON document on its standard input.
    fn work(&self, parameters: Map<String, Value>) -> Result<Work, Vec<Violation>> {
        let stdin = Value::Object(parameters).to_string();
        if stdin.len() > STDIN_BYTES_MAX {
            return Err(vec![Violation::new(
                "/parameters",
                format!("are larger than {STDIN_BYTES_MAX} bytes of JSON"),
            )]);
        }
        let Manifest { runtime, code, timeout_ms, limits, .. } = &self.manifest;
        Ok(Work::Command(Box::new(Job {
            stdin: stdin.into_bytes(),
            // The tool's own time is a limit as the others are.
            limits: LimitRequest { wall_ms: limits.wall_ms.into_iter().chain(*timeout_ms).min(), ..*limits },
            ..Job::new(*runtime, code.clone().into_bytes())
        })))
    }

    /// What it printed is the result, as JSON where it is that and as text where it is not; what it said last on standard
    /// error is why it failed.
    fn shape(&self, finished: Finished) -> Shaped {
        let error = match &finished.outcome {
            Some(Outcome::Exited { code }) if *code != 0 => {
                let last = finished.stderr.lines().rev().map(str::trim).find(|line| !line.is_empty());
                let message = match last {
                    Some(line) => capped(line, MESSAGE_CHARS_MAX),
                    None => format!("the tool exited with code {code}"),
                };
                Some(ToolError::new("tool_error", message))
            }
            _ => finished.error(),
        };
        let printed = finished.stdout.trim();
        let result = if printed.is_empty() { Some(RawValue::NULL.to_owned()) } else { document(printed) };
        let text = || serde_json::value::to_raw_value(&finished.stdout).unwrap_or_else(|_| RawValue::NULL.to_owned());
        Shaped { result: result.unwrap_or_else(text), error }
    }
}

/// Callers of one tool that are remembered before those who are not due any more are forgotten.
const KEYS_KEPT: usize = 1024;

/// `text` as the one JSON document that it may be, written anew: what some readers refuse (names given twice, numbers beyond
/// all bounds, halves of characters) does not go out.
fn document(text: &str) -> Option<Box<RawValue>> {
    fn depth(value: &Value) -> usize {
        match value {
            Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
            Value::Object(fields) => 1 + fields.values().map(depth).max().unwrap_or(0),
            _ => 1,
        }
    }
    let value: Value = serde_json::from_str(text).ok()?;
    (depth(&value) <= DEPTH_MAX).then(|| serde_json::value::to_raw_value(&value).ok()).flatten()
}

/// `manifest` ready to be registered.
pub fn tool(manifest: Manifest) -> super::Registered {
    Arc::new(Custom::new(manifest))
}

#[cfg(test)]
mod tests;
