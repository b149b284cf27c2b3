//! Which tools there are.

use serde_json::{Map, Value};

use super::finish::{Finished, Shaped};
use super::plan::Job;
use super::schema::{Schema, Violation};
use crate::spec::Level;

/// What is told about a tool.
pub struct ToolSpec {
    pub name: &'static str,
    pub description: &'static str,
    pub version: &'static str,
    /// Whether running it twice leaves the same as running it once.
    pub idempotent: bool,
    /// The weakest level at which it may run; `None` leaves it to caller and principal.
    pub level: Option<Level>,
    pub schema: Schema,
}

/// One tool: from checked parameters to a command, and from its end to the caller's result.
pub trait Tool: Send + Sync {
    fn spec(&self) -> &ToolSpec;

    /// What the schema can not say about parameters that it accepted.
    fn check(&self, parameters: &Map<String, Value>) -> Vec<Violation>;

    /// `parameters` have passed the schema and `check`.
    fn job(&self, parameters: Map<String, Value>) -> Job;

    fn shape(&self, finished: Finished) -> Shaped;
}

/// The tools of this daemon, in the order in which they are listed.
pub struct Registry {
    tools: Vec<Box<dyn Tool>>,
}

impl Registry {
    /// Everything that this version offers.
    pub fn built_in() -> Self {
        Self { tools: vec![Box::new(super::bash::Bash::new()), Box::new(super::python::Python::new())] }
    }

    pub fn get(&self, name: &str) -> Option<&dyn Tool> {
        self.iter().find(|tool| tool.spec().name == name)
    }

    pub fn iter(&self) -> impl Iterator<Item = &dyn Tool> {
        self.tools.iter().map(|tool| &**tool)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn violations(tool: &str, parameters: Value) -> Vec<(String, String)> {
        let registry = Registry::built_in();
        let tool = registry.get(tool).unwrap();
        let mut found = tool.spec().schema.violations(&parameters);
        if let (true, Value::Object(parameters)) = (found.is_empty(), &parameters) {
            found = tool.check(parameters);
        }
        found.into_iter().map(|v| (v.pointer, v.message)).collect()
    }

    #[test]
    fn every_violation_is_named_in_the_contracts_words() {
        let found = violations("bash", json!({ "command": "df", "timeout": 301, "tiemout": 1, "env": {"A": 1} }));
        assert!(found.contains(&("/parameters/timeout".into(), "301 is greater than the maximum of 300".into())));
        assert!(found.contains(&("/parameters/tiemout".into(), "is not a parameter".into())));
        assert!(found.iter().any(|(p, _)| p == "/parameters/env/A"), "{found:?}");
        assert_eq!(found.len(), 3);
        assert_eq!(violations("bash", json!({})), [("/parameters/command".into(), "is required".into())]);
        for timeout in [json!(0), json!(-1), json!(1e308), json!("5"), json!(null), json!(true)] {
            let found = violations("python", json!({ "code": "1", "timeout": timeout }));
            assert_eq!(found.len(), 1, "{timeout}");
            assert_eq!(found[0].0, "/parameters/timeout");
        }
    }

    #[test]
    fn what_exec_could_not_carry_is_refused_by_name() {
        let long = "x".repeat(5000);
        for (parameters, pointer) in [
            (json!({ "command": "a\0b" }), "/parameters/command"),
            (json!({ "command": "x".repeat(1024 * 1024 + 1) }), "/parameters/command"),
            (json!({ "command": "é".repeat(1024 * 1024 - 1) }), "/parameters/command"),
            (json!({ "command": "a", "working_dir": "a\0" }), "/parameters/working_dir"),
            (json!({ "command": "a", "working_dir": "" }), "/parameters/working_dir"),
            (json!({ "command": "a", "working_dir": long }), "/parameters/working_dir"),
            (json!({ "command": "a", "env": { "A": "\0" } }), "/parameters/env/A"),
            (json!({ "command": "a", "env": { "A": "x".repeat(49_152) } }), "/parameters/env"),
            (json!({ "command": "a", "env": { "A=B": "" } }), "/parameters/env/A=B"),
            (json!({ "command": "a", "env": { "a/~": "" } }), "/parameters/env/a~1~0"),
        ] {
            let found = violations("bash", parameters);
            assert_eq!(found.len(), 1, "{pointer}: {found:?}");
            assert_eq!(found[0].0, pointer, "{found:?}");
            assert!(found[0].1.len() < 300);
        }
        let found = violations("bash", json!({ "command": "a", "env": { long: "" } }));
        assert!(found[0].0.len() < 300, "{found:?}");
        assert_eq!(violations("python", json!({ "code": "a\0" }))[0].0, "/parameters/code");
    }

    #[test]
    fn a_message_never_repeats_a_long_value() {
        let found = violations("bash", json!({ "command": "a", "timeout": "x".repeat(100_000) }));
        assert!(found[0].1.len() < 300, "{}", found[0].1.len());
    }
}
