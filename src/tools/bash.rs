//! `bash`: one script in a fresh sandbox.

use serde_json::{Map, Value, json};

use super::finish::{Finished, Shaped};
use super::plan::{CODE_BYTES_MAX, Job, STDIN_BYTES_MAX, bytes_at_most, no_nul, timeout_ms};
use super::registry::{Tool, ToolSpec};
use super::schema::{Schema, Violation, step};
use crate::runtimes::{Runtime, WORKSPACE};
use crate::spec::{ENV_BYTES_MAX, Outcome};

const ENV_ENTRIES_MAX: usize = 256;
const PATH_BYTES_MAX: usize = 4000;

pub(super) struct Bash {
    spec: ToolSpec,
}

impl Bash {
    pub(super) fn new() -> Self {
        let schema = json!({
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "type": "object",
            "properties": {
                "command": {
                    "type": "string", "maxLength": CODE_BYTES_MAX,
                    "description": "The script, run as with `bash -c`. At most 1 MiB, without NUL."
                },
                "timeout": {
                    "type": "number", "exclusiveMinimum": 0, "maximum": 300,
                    "description": "Seconds that the command may take; 30 unless given."
                },
                "working_dir": {
                    "type": "string", "minLength": 1, "maxLength": PATH_BYTES_MAX,
                    "description": "Where the command starts, inside the sandbox; relative to /workspace."
                },
                "env": {
                    "type": "object", "maxProperties": ENV_ENTRIES_MAX,
                    "propertyNames": { "pattern": "^[A-Za-z_][A-Za-z0-9_]{0,255}$" },
                    "additionalProperties": { "type": "string" },
                    "description": "Environment variables beside the sandbox's own; 48 KiB in all."
                },
                "stdin": {
                    "type": "string", "maxLength": STDIN_BYTES_MAX,
                    "description": "Standard input, at most 4 MiB; empty unless given."
                }
            },
            "required": ["command"],
            "additionalProperties": false
        });
        Self {
            spec: ToolSpec {
                name: "bash",
                description: "Runs a bash script in a fresh sandbox and returns its output and exit code.",
                version: "1.0.0",
                idempotent: false,
                level: None,
                schema: Schema::new(schema),
            },
        }
    }
}

fn text(parameters: &mut Map<String, Value>, name: &str) -> Option<String> {
    match parameters.remove(name) {
        Some(Value::String(text)) => Some(text),
        _ => None,
    }
}

impl Tool for Bash {
    fn spec(&self) -> &ToolSpec {
        &self.spec
    }

    fn check(&self, parameters: &Map<String, Value>) -> Vec<Violation> {
        let mut found = Vec::new();
        no_nul(parameters, "command", &mut found);
        bytes_at_most(parameters, "command", CODE_BYTES_MAX, &mut found);
        no_nul(parameters, "working_dir", &mut found);
        bytes_at_most(parameters, "working_dir", PATH_BYTES_MAX, &mut found);
        bytes_at_most(parameters, "stdin", STDIN_BYTES_MAX, &mut found);
        if let Some(Value::Object(env)) = parameters.get("env") {
            let mut bytes = 0;
            for (name, value) in env {
                let value = value.as_str().unwrap_or_default();
                bytes += name.len() + value.len() + 2;
                if value.contains('\0') {
                    found.push(Violation::new(format!("/parameters/env{}", step(name)), "holds a NUL byte"));
                }
            }
            // The sandbox's own variables have to fit as well.
            if bytes > ENV_BYTES_MAX - OWN_ENV_BYTES {
                found.push(Violation::new(
                    "/parameters/env",
                    format!("is larger than {} bytes", ENV_BYTES_MAX - OWN_ENV_BYTES),
                ));
            }
        }
        found
    }

    fn job(&self, mut parameters: Map<String, Value>) -> Job {
        let cwd = match text(&mut parameters, "working_dir") {
            Some(dir) if dir.starts_with('/') => dir,
            Some(dir) => format!("{WORKSPACE}/{dir}"),
            None => WORKSPACE.to_owned(),
        };
        let env = match parameters.remove("env") {
            Some(Value::Object(env)) => env
                .into_iter()
                .filter_map(|(name, value)| match value {
                    Value::String(value) => Some((name, value)),
                    _ => None,
                })
                .collect(),
            _ => Vec::new(),
        };
        Job {
            timeout_ms: timeout_ms(&parameters),
            runtime: Runtime::Bash,
            code: text(&mut parameters, "command").unwrap_or_default(),
            env,
            cwd,
            stdin: text(&mut parameters, "stdin").unwrap_or_default(),
        }
    }

    fn shape(&self, finished: Finished) -> Shaped {
        let error = finished.error();
        let exit_code = match finished.outcome {
            Some(Outcome::Exited { code }) => Some(code),
            _ => None,
        };
        let success = error.is_none();
        // Moved, not copied: `json!` would take megabytes by reference.
        let mut result = Map::new();
        result.insert("stdout".into(), finished.stdout.into());
        result.insert("stderr".into(), finished.stderr.into());
        result.insert("exit_code".into(), exit_code.into());
        result.insert("success".into(), success.into());
        Shaped { result: result.into(), success, error }
    }
}

/// PATH with the operator's directories, and the few others.
const OWN_ENV_BYTES: usize = 4 * 1024;
