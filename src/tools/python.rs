//! `python`: code in a fresh interpreter in a fresh sandbox; what it printed and the variables that it left.

use serde_json::{Map, Value, json};

use super::finish::{Finished, Shaped, ToolError};
use super::plan::{CODE_BYTES_MAX, Job, bytes_at_most, no_nul, timeout_ms};
use super::registry::{Tool, ToolSpec};
use super::schema::{Schema, Violation};
use crate::runtimes::{Runtime, WORKSPACE, python};
use crate::spec::{Outcome, capped};

pub(super) struct Python {
    spec: ToolSpec,
}

impl Python {
    pub(super) fn new() -> Self {
        let schema = json!({
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "type": "object",
            "properties": {
                "code": {
                    "type": "string", "maxLength": CODE_BYTES_MAX,
                    "description": "Python source, run as __main__. At most 1 MiB, without NUL."
                },
                "timeout": {
                    "type": "number", "exclusiveMinimum": 0, "maximum": 300,
                    "description": "Seconds that the code may take; 30 unless given."
                }
            },
            "required": ["code"],
            "additionalProperties": false
        });
        Self {
            spec: ToolSpec {
                name: "python",
                description: "Runs Python code in a fresh sandbox and returns what it printed and the variables it left.",
                version: "1.0.0",
                idempotent: false,
                level: None,
                schema: Schema::new(schema),
            },
        }
    }
}

impl Tool for Python {
    fn spec(&self) -> &ToolSpec {
        &self.spec
    }

    fn check(&self, parameters: &Map<String, Value>) -> Vec<Violation> {
        let mut found = Vec::new();
        no_nul(parameters, "code", &mut found);
        bytes_at_most(parameters, "code", CODE_BYTES_MAX, &mut found);
        found
    }

    fn job(&self, mut parameters: Map<String, Value>) -> Job {
        let code = match parameters.remove("code") {
            Some(Value::String(code)) => code,
            _ => String::new(),
        };
        Job {
            timeout_ms: timeout_ms(&parameters),
            runtime: Runtime::Python,
            code,
            env: Vec::new(),
            cwd: WORKSPACE.to_owned(),
            stdin: String::new(),
        }
    }

    /// The code's own end leaves variables and, after an exception or `sys.exit`, an error; a kill leaves neither.
    fn shape(&self, finished: Finished) -> Shaped {
        let exited = matches!(finished.outcome, Some(Outcome::Exited { .. }));
        // Code that ended by itself and left no readable document (it closed the descriptor, or os._exit) had variables
        // that nobody can tell: that is not the same as none.
        let unreadable = python::Left { truncated: exited, ..python::Left::default() };
        let left = finished.result.as_deref().filter(|_| exited).and_then(python::left).unwrap_or(unreadable);
        let mut error = finished.error();
        if let Some(raised) = &left.error
            && raised.name != "SystemExit"
        {
            // Code may still leave with 0, from an exit handler say: the exception is what matters.
            error = Some(ToolError {
                code: "exception",
                message: capped(&format!("{}: {}", raised.name, raised.value), 1000),
            });
        }
        let success = error.is_none();
        let mut result = Map::new();
        result.insert("output".into(), finished.stdout.into());
        result.insert("variables".into(), left.variables.into());
        if left.truncated {
            result.insert("variables_truncated".into(), true.into());
        }
        if let Some(raised) = left.error {
            let told = json!({ "name": raised.name, "value": raised.value, "traceback": raised.traceback });
            result.insert("error".into(), told);
        }
        result.insert("success".into(), success.into());
        Shaped { result: result.into(), success, error }
    }
}
