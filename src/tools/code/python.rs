//! `python_code_executor`: a Python program with input, and files in and out.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{Ended, FILES_MAX, FileIn, FileOut, Given, PATTERNS_MAX, ended};
use crate::runtimes::Runtime;
use crate::runtimes::languages::Language;
use crate::tools::definition::{About, Shaped, Tool};
use crate::tools::finish::Finished;
use crate::tools::phases::Source;
use crate::tools::plan::{CODE_BYTES_MAX, Job, STDIN_BYTES_MAX, milliseconds};
use crate::tools::schema::Violation;
use crate::tools::version::Version;

pub(in crate::tools) struct PythonCodeExecutor;

const LANGUAGE: &str = "python";

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::tools) struct Input {
    /// Python source. At most 1 MiB, without NUL. Every module of the host's Python may be imported.
    #[schemars(length(max = CODE_BYTES_MAX))]
    code: String,
    /// Seconds that the code may take; 30 unless given.
    #[serde(default)]
    #[schemars(extend("exclusiveMinimum" = 0, "maximum" = 300))]
    timeout: Option<f64>,
    /// Standard input, at most 4 MiB; empty unless given.
    #[serde(default)]
    #[schemars(length(max = STDIN_BYTES_MAX))]
    stdin: String,
    /// Files that are in /workspace before the code begins; 4 MiB together.
    #[serde(default)]
    #[schemars(length(max = FILES_MAX))]
    files: Vec<FileIn>,
    /// Patterns of the files in /workspace that come back: of names, or where they hold a slash of paths.
    #[serde(default)]
    #[schemars(length(max = PATTERNS_MAX), inner(length(min = 1, max = 1024)))]
    collect: Vec<String>,
}

#[derive(Serialize, JsonSchema)]
pub(in crate::tools) struct Output {
    stdout: String,
    stderr: String,
    /// Null where the code was killed.
    exit_code: Option<i32>,
    /// Those that match `collect`.
    files: Vec<FileOut>,
    /// There were more, or larger ones, than come back.
    files_truncated: bool,
    success: bool,
}

impl Tool for PythonCodeExecutor {
    type Input = Input;
    type Output = Output;

    fn about(&self) -> About {
        About {
            examples: vec![json!({ "code": "print(sum(int(line) for line in open('numbers')))",
                "files": [{ "path": "numbers", "content": "1\n2\n" }] })],
            ..About::new(
                "python_code_executor",
                "Runs a Python program in a fresh sandbox, with standard input and files in and out.",
                Version(1, 0, 0),
            )
        }
    }

    fn check(&self, input: &Input) -> Vec<Violation> {
        let Input { code, stdin, files, collect, .. } = input;
        let code_file = Language::named(LANGUAGE).map_or("", |language| language.file);
        Given { code, code_file, stdin, files, collect, args: &[] }.check()
    }

    fn job(&self, input: Input) -> Job {
        let source = Language::named(LANGUAGE).map(|language| Source {
            language,
            args: Vec::new(),
            files: input.files.into_iter().map(FileIn::placed).collect(),
            collect: input.collect,
            compile_timeout_ms: None,
        });
        Job {
            timeout_ms: input.timeout.map(milliseconds),
            stdin: input.stdin.into_bytes(),
            source: source.map(Box::new),
            ..Job::new(Runtime::Toolchain(LANGUAGE), input.code.into_bytes())
        }
    }

    fn shape(&self, mut finished: Finished) -> Shaped<Output> {
        let Ended { exit_code, files, files_truncated, error } = ended(&mut finished);
        let (stdout, stderr, success) = (finished.stdout, finished.stderr, error.is_none());
        Shaped { result: Output { stdout, stderr, exit_code, files, files_truncated, success }, error }
    }
}
