//! Results of idempotent tools, for callers who ask for them again.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use moka::Expiry;
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::definition::AnyTool;
use super::finish::Execution;
use super::principal::Principal;
use crate::spec::{Level, Limits, WorkspaceName};

/// All results together.
const BYTES_MAX: u64 = 64 * 1024 * 1024;
/// Of one beside what it holds.
const OVERHEAD_BYTES: usize = 4096;

/// Everything that a result depends on, hashed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Key([u8; 32]);

/// Tools and settings as they were at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Epoch(u64);

#[derive(Clone)]
struct Kept {
    execution: Arc<Execution>,
    ttl: Duration,
}

pub(super) struct Cache {
    results: moka::sync::Cache<Key, Kept>,
    /// What was kept before a change is never found after it.
    epoch: AtomicU64,
}

struct OwnTtl;

impl Expiry<Key, Kept> for OwnTtl {
    fn expire_after_create(&self, _: &Key, kept: &Kept, _: Instant) -> Option<Duration> {
        Some(kept.ttl)
    }
}

impl Default for Cache {
    fn default() -> Self {
        let weigh =
            |_: &Key, kept: &Kept| u32::try_from(kept.execution.held_bytes() + OVERHEAD_BYTES).unwrap_or(u32::MAX);
        let results = moka::sync::Cache::builder().max_capacity(BYTES_MAX).weigher(weigh).expire_after(OwnTtl).build();
        Self { results, epoch: AtomicU64::new(0) }
    }
}

impl Key {
    /// Of a call by `principal` in `epoch`; `parameters` are those that passed the schema, with its defaults.
    pub(super) fn of(
        epoch: Epoch,
        tool: &dyn AnyTool,
        principal: &Principal,
        parameters: &Value,
        level: Level,
        limits: &Limits,
        workspace: Option<&WorkspaceName>,
    ) -> Self {
        let mut hash = Sha256::new();
        let mut part = |text: &str| {
            hash.update((text.len() as u64).to_le_bytes());
            hash.update(text);
        };
        part(&epoch.0.to_string());
        part(&tool.about().name);
        part(&tool.about().version.to_string());
        part(&principal.name);
        part(level.name());
        part(workspace.map_or("", WorkspaceName::as_str));
        // Every field by name, so that a new one can not be forgotten.
        part(&format!("{limits:?}"));
        let mut text = String::new();
        canonical(parameters, &mut text);
        part(&text);
        Self(hash.finalize().into())
    }
}

impl Key {
    /// The same call's while its workspace is as `state` says.
    pub(super) fn in_state(self, state: u64) -> Self {
        let mut hash = Sha256::new();
        hash.update(self.0);
        hash.update(state.to_le_bytes());
        Self(hash.finalize().into())
    }
}

impl Cache {
    /// To be taken before the tool is looked up and the settings are.
    pub(super) fn epoch(&self) -> Epoch {
        Epoch(self.epoch.load(Ordering::SeqCst))
    }

    pub(super) fn get(&self, key: &Key) -> Option<Arc<Execution>> {
        self.results.get(key).map(|kept| kept.execution)
    }

    /// Keeps what a call returned, for as long as its tool says.
    pub(super) fn keep(&self, key: Key, execution: &Arc<Execution>) {
        let ttl = execution.tool.ttl();
        self.results.insert(key, Kept { execution: Arc::clone(execution), ttl });
    }

    /// Tools or settings have changed.
    pub(super) fn forget(&self) {
        self.epoch.fetch_add(1, Ordering::SeqCst);
        self.results.invalidate_all();
    }
}

/// The same text for the same value, in whatever order its names came.
fn canonical(value: &Value, out: &mut String) {
    match value {
        Value::Object(fields) => {
            let mut fields: Vec<_> = fields.iter().collect();
            fields.sort_unstable_by_key(|(name, _)| *name);
            out.push('{');
            for (name, value) in fields {
                out.push_str(&Value::from(name.as_str()).to_string());
                out.push(':');
                canonical(value, out);
                out.push(',');
            }
            out.push('}');
        }
        Value::Array(items) => {
            out.push('[');
            for item in items {
                canonical(item, out);
                out.push(',');
            }
            out.push(']');
        }
        other => out.push_str(&other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_order_of_names_is_no_difference_and_everything_else_is() {
        let text = |value: Value| {
            let mut text = String::new();
            canonical(&value, &mut text);
            text
        };
        assert_eq!(
            text(json!({ "a": 1, "b": { "c": [1, 2], "d": null } })),
            text(json!({ "b": { "d": null, "c": [1, 2] }, "a": 1 }))
        );
        for other in
            [json!({ "a": "1" }), json!({ "a": [1] }), json!({ "a": 1.5 }), json!({ "a": 1, "b": 1 }), json!({})]
        {
            assert_ne!(text(json!({ "a": 1 })), text(other.clone()), "{other}");
        }
    }
}
