//! `bash`: one script in a fresh sandbox.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::definition::{About, Shaped, Tool};
use super::finish::Finished;
use super::plan::{CODE_BYTES_MAX, Job, STDIN_BYTES_MAX, bytes_at_most, milliseconds, no_nul};
use super::schema::{Violation, step};
use super::version::Version;
use crate::checks::Language;
use crate::runtimes::{Runtime, WORKSPACE};
use crate::spec::{ENV_BYTES_MAX, Outcome};

const ENV_ENTRIES_MAX: usize = 256;
const PATH_BYTES_MAX: usize = 4000;

pub(super) struct Bash;

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Input {
    /// The script, run as with `bash -c`. At most 1 MiB, without NUL.
    #[schemars(length(max = CODE_BYTES_MAX))]
    command: String,
    /// Seconds that the command may take; 30 unless given.
    #[serde(default)]
    #[schemars(extend("exclusiveMinimum" = 0, "maximum" = 300))]
    timeout: Option<f64>,
    /// Where the command starts, inside the sandbox; relative to /workspace.
    #[serde(default)]
    #[schemars(length(min = 1, max = PATH_BYTES_MAX))]
    working_dir: Option<String>,
    /// Environment variables beside the sandbox's own; 48 KiB in all.
    #[serde(default)]
    #[schemars(extend(
        "maxProperties" = ENV_ENTRIES_MAX,
        "propertyNames" = json!({ "pattern": "^[A-Za-z_][A-Za-z0-9_]{0,255}$" }),
    ))]
    env: BTreeMap<String, String>,
    /// Standard input, at most 4 MiB; empty unless given.
    #[serde(default)]
    #[schemars(length(max = STDIN_BYTES_MAX))]
    stdin: String,
}

#[derive(Serialize, JsonSchema)]
pub(super) struct Output {
    stdout: String,
    stderr: String,
    /// None where the command was killed.
    exit_code: Option<i32>,
    success: bool,
}

impl Tool for Bash {
    type Input = Input;
    type Output = Output;

    fn about(&self) -> About {
        About {
            examples: vec![json!({ "command": "df -h", "timeout": 30 })],
            ..About::new(
                "bash",
                "Runs a bash script in a fresh sandbox and returns its output and exit code.",
                Version(1, 0, 0),
            )
        }
    }

    fn check(&self, input: &Input) -> Vec<Violation> {
        let mut found = Vec::new();
        no_nul("command", &input.command, &mut found);
        bytes_at_most("command", &input.command, CODE_BYTES_MAX, &mut found);
        let working_dir = input.working_dir.as_deref().unwrap_or_default();
        no_nul("working_dir", working_dir, &mut found);
        bytes_at_most("working_dir", working_dir, PATH_BYTES_MAX, &mut found);
        bytes_at_most("stdin", &input.stdin, STDIN_BYTES_MAX, &mut found);
        let mut bytes = 0;
        for (name, value) in &input.env {
            bytes += name.len() + value.len() + 2;
            no_nul(&format!("env{}", step(name)), value, &mut found);
        }
        // The sandbox's own variables have to fit as well.
        if bytes > ENV_BYTES_MAX - OWN_ENV_BYTES {
            let message = format!("is larger than {} bytes", ENV_BYTES_MAX - OWN_ENV_BYTES);
            found.push(Violation::new("/parameters/env", message));
        }
        found
    }

    fn job(&self, input: Input) -> Job {
        let cwd = match input.working_dir {
            Some(dir) if dir.starts_with('/') => dir,
            Some(dir) => format!("{WORKSPACE}/{dir}"),
            None => WORKSPACE.to_owned(),
        };
        Job {
            timeout_ms: input.timeout.map(milliseconds),
            env: input.env.into_iter().collect(),
            cwd,
            stdin: input.stdin.into_bytes(),
            ..Job::new(Runtime::Bash, input.command.into_bytes())
        }
    }

    fn screened(&self) -> Option<Language> {
        Some(Language::Bash)
    }

    fn shape(&self, finished: Finished) -> Shaped<Output> {
        let error = finished.error();
        let exit_code = match finished.outcome {
            Some(Outcome::Exited { code }) => Some(code),
            _ => None,
        };
        let (stdout, stderr, success) = (finished.stdout, finished.stderr, error.is_none());
        Shaped { result: Output { stdout, stderr, exit_code, success }, error }
    }
}

/// PATH with the operator's directories, and the few others.
const OWN_ENV_BYTES: usize = 4 * 1024;
