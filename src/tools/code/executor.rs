//! `code_executor`: code in one of many languages, compiled where that is needed.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{ARGS_MAX, Ended, FILES_MAX, FileIn, FileOut, Given, PATTERNS_MAX, ended};
use crate::runtimes::Runtime;
use crate::runtimes::languages::{LANGUAGES, Language};
use crate::spec::Outcome;
use crate::tools::definition::{About, Shaped, Tool};
use crate::tools::finish::Finished;
use crate::tools::phases::Source;
use crate::tools::plan::{CODE_BYTES_MAX, Job, STDIN_BYTES_MAX, milliseconds};
use crate::tools::schema::Violation;
use crate::tools::version::Version;

pub(in crate::tools) struct CodeExecutor;

/// All names, and the other ones for them.
fn names() -> Vec<&'static str> {
    LANGUAGES.iter().flat_map(|l| [l.name].into_iter().chain(l.aliases.iter().copied())).collect()
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::tools) struct Input {
    #[schemars(extend("enum" = names()))]
    language: String,
    /// The source. At most 1 MiB, without NUL. Of java it holds a class Main.
    #[schemars(length(max = CODE_BYTES_MAX))]
    code: String,
    /// Standard input, at most 4 MiB; empty unless given.
    #[serde(default)]
    #[schemars(length(max = STDIN_BYTES_MAX))]
    stdin: String,
    /// Arguments of the program; of sql the database's path, in memory unless given.
    #[serde(default)]
    #[schemars(length(max = ARGS_MAX))]
    args: Vec<String>,
    /// Files that are in /workspace before the code is compiled and run; 4 MiB together.
    #[serde(default)]
    #[schemars(length(max = FILES_MAX))]
    files: Vec<FileIn>,
    /// Patterns of the files in /workspace that come back: of names, or where they hold a slash of paths.
    #[serde(default)]
    #[schemars(length(max = PATTERNS_MAX), inner(length(min = 1, max = 1024)))]
    collect: Vec<String>,
    /// Seconds that the compiler may take; 60 unless given.
    #[serde(default)]
    #[schemars(extend("exclusiveMinimum" = 0, "maximum" = 300))]
    compile_timeout: Option<f64>,
    /// Seconds that the program may take; 30 unless given.
    #[serde(default)]
    #[schemars(extend("exclusiveMinimum" = 0, "maximum" = 300))]
    timeout: Option<f64>,
}

#[derive(Serialize, JsonSchema)]
pub(in crate::tools) struct Output {
    stdout: String,
    stderr: String,
    /// The program's; null where it was killed, or where there was none to run.
    exit_code: Option<i32>,
    /// What the compiler said; null of a language that has none.
    compile: Option<Compile>,
    /// Those that match `collect`.
    files: Vec<FileOut>,
    /// There were more, or larger ones, than come back.
    files_truncated: bool,
    success: bool,
}

#[derive(Serialize, JsonSchema)]
pub(in crate::tools) struct Compile {
    stdout: String,
    stderr: String,
    /// Null where it was killed.
    exit_code: Option<i32>,
    success: bool,
    /// Seconds.
    time: f64,
}

impl Tool for CodeExecutor {
    type Input = Input;
    type Output = Output;

    fn about(&self) -> About {
        About {
            examples: vec![
                json!({ "language": "c", "code": "#include <stdio.h>\nint main(void) { puts(\"hello\"); }" }),
            ],
            ..About::new(
                "code_executor",
                "Compiles where needed and runs code in one of many languages, each step in a fresh sandbox, with files in and out.",
                Version(1, 0, 0),
            )
        }
    }

    fn check(&self, input: &Input) -> Vec<Violation> {
        let Some(language) = Language::named(&input.language) else {
            return vec![Violation::new("/parameters/language", "is no language that is known here")];
        };
        let Input { code, stdin, files, collect, args, .. } = input;
        Given { code, code_file: language.file, stdin, files, collect, args }.check()
    }

    fn job(&self, input: Input) -> Job {
        let Some(language) = Language::named(&input.language) else {
            // The schema has looked at the name.
            return Job::new(Runtime::Bash, b"exit 1".into());
        };
        let source = Source {
            language,
            args: input.args,
            files: input.files.into_iter().map(FileIn::placed).collect(),
            collect: input.collect,
            compile_timeout_ms: input.compile_timeout.map(milliseconds),
        };
        Job {
            timeout_ms: input.timeout.map(milliseconds),
            stdin: input.stdin.into_bytes(),
            source: Some(Box::new(source)),
            ..Job::new(Runtime::Toolchain(language.name), input.code.into_bytes())
        }
    }

    fn shape(&self, mut finished: Finished) -> Shaped<Output> {
        let Ended { exit_code, files, files_truncated, error } = ended(&mut finished);
        let compile = finished.around.compiled.take().map(|compiled| Compile {
            exit_code: match compiled.outcome {
                Some(Outcome::Exited { code }) => Some(code),
                _ => None,
            },
            success: !compiled.is_the_end,
            stdout: compiled.stdout,
            stderr: compiled.stderr,
            time: compiled.wall_us as f64 / 1e6,
        });
        let (stdout, stderr, success) = (finished.stdout, finished.stderr, error.is_none());
        Shaped { result: Output { stdout, stderr, exit_code, compile, files, files_truncated, success }, error }
    }
}
