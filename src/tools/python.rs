//! `python`: code in a fresh interpreter in a fresh sandbox; what it printed and the variables that it left.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::definition::{About, Shaped, Tool};
use super::finish::{Finished, ToolError};
use super::plan::{CODE_BYTES_MAX, Job, bytes_at_most, milliseconds, no_nul};
use super::schema::Violation;
use super::version::Version;
use crate::checks::Language;
use crate::runtimes::{Runtime, python};
use crate::spec::{Outcome, capped};

pub(super) struct Python;

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Input {
    /// Python source, run as __main__. At most 1 MiB, without NUL.
    #[schemars(length(max = CODE_BYTES_MAX))]
    code: String,
    /// Seconds that the code may take; 30 unless given.
    #[serde(default)]
    #[schemars(extend("exclusiveMinimum" = 0, "maximum" = 300))]
    timeout: Option<f64>,
}

#[derive(Serialize, JsonSchema)]
pub(super) struct Output {
    /// What was printed.
    output: String,
    /// The top-level names that the code left, as JSON where JSON can hold them.
    variables: Map<String, Value>,
    /// Present where some were too many, too large or too deep.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    variables_truncated: bool,
    /// What ended the code, where that was an exception or `sys.exit`.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<Raised>,
    success: bool,
}

#[derive(Serialize, JsonSchema)]
pub(super) struct Raised {
    name: String,
    value: String,
    traceback: String,
}

impl Tool for Python {
    type Input = Input;
    type Output = Output;

    fn about(&self) -> About {
        About {
            examples: vec![json!({ "code": "import math\nresult = math.sqrt(16)\nprint(result)" })],
            ..About::new(
                "python",
                "Runs Python code in a fresh sandbox and returns what it printed and the variables it left.",
                Version(1, 0, 0),
            )
        }
    }

    fn check(&self, input: &Input) -> Vec<Violation> {
        let mut found = Vec::new();
        no_nul("code", &input.code, &mut found);
        bytes_at_most("code", &input.code, CODE_BYTES_MAX, &mut found);
        found
    }

    fn job(&self, input: Input) -> Job {
        Job { timeout_ms: input.timeout.map(milliseconds), ..Job::new(Runtime::Python, input.code.into_bytes()) }
    }

    fn screened(&self) -> Option<Language> {
        Some(Language::Python)
    }

    /// The code's own end leaves variables and, after an exception or `sys.exit`, an error; a kill leaves neither.
    fn shape(&self, finished: Finished) -> Shaped<Output> {
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
            error = Some(ToolError::new("exception", capped(&format!("{}: {}", raised.name, raised.value), 1000)));
        }
        let success = error.is_none();
        let python::Left { variables, truncated, error: raised } = left;
        let raised = raised.map(|python::Raised { name, value, traceback }| Raised { name, value, traceback });
        let output = finished.stdout;
        let result = Output { output, variables, variables_truncated: truncated, error: raised, success };
        Shaped { result, error }
    }
}
