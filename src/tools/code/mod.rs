//! Tools that run code of a caller's in the languages of the table, with files in and out.

mod executor;
mod python;
pub mod versions;

pub(super) use executor::CodeExecutor;
pub(super) use python::PythonCodeExecutor;

use data_encoding::BASE64;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::finish::{Finished, ToolError};
use super::phases::Files;
use super::plan::{CODE_BYTES_MAX, STDIN_BYTES_MAX, bytes_at_most, no_nul};
use super::schema::Violation;
use crate::spec::{Outcome, capped};
use crate::wire::files::Placed;

const FILES_MAX: usize = 200;
const PATTERNS_MAX: usize = 64;
const PATH_BYTES_MAX: usize = 1024;
const ARGS_MAX: usize = 256;
const ARGS_BYTES_MAX: usize = 32 * 1024;

/// A file that is there when the code begins.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "FileIn")]
pub(super) struct FileIn {
    /// Relative to /workspace, or below it. Directories that it names are made.
    #[schemars(length(min = 1, max = PATH_BYTES_MAX))]
    path: String,
    /// As text; this or `content_base64`.
    #[serde(default)]
    content: Option<String>,
    /// As base64.
    #[serde(default)]
    content_base64: Option<String>,
    #[serde(default)]
    executable: bool,
}

impl FileIn {
    fn bytes(self) -> Result<Vec<u8>, &'static str> {
        match (self.content, self.content_base64) {
            (Some(text), None) => Ok(text.into_bytes()),
            (None, Some(text)) => BASE64.decode(text.as_bytes()).map_err(|_| "is not base64"),
            _ => Err("needs one of content and content_base64"),
        }
    }

    fn placed(self) -> (Placed, Vec<u8>) {
        let (path, executable) = (self.path.clone(), self.executable);
        // Looked at before: they are there.
        let content = self.bytes().unwrap_or_default();
        (Placed { path, bytes: content.len() as u64, executable }, content)
    }
}

/// A file that the code left.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "FileOut")]
pub(super) struct FileOut {
    path: String,
    /// Where it is UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<String>,
    /// Where it is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    content_base64: Option<String>,
    size_bytes: u64,
    executable: bool,
}

fn out(files: Files) -> Vec<FileOut> {
    let mut rest = files.bytes.as_slice();
    let mut found = Vec::new();
    for file in files.files {
        let Some((bytes, further)) = rest.split_at_checked(file.bytes as usize) else { break };
        rest = further;
        let (content, content_base64) = match std::str::from_utf8(bytes) {
            Ok(text) => (Some(text.to_owned()), None),
            Err(_) => (None, Some(BASE64.encode(bytes))),
        };
        let path = capped(&file.path, PATH_BYTES_MAX);
        found.push(FileOut { path, content, content_base64, size_bytes: file.bytes, executable: file.executable });
    }
    found
}

/// What both tools look at.
struct Given<'a> {
    code: &'a str,
    /// What the file with the code is called.
    code_file: &'a str,
    stdin: &'a str,
    files: &'a [FileIn],
    collect: &'a [String],
    args: &'a [String],
}

impl Given<'_> {
    fn check(&self) -> Vec<Violation> {
        let mut found = Vec::new();
        no_nul("code", self.code, &mut found);
        bytes_at_most("code", self.code, CODE_BYTES_MAX, &mut found);
        bytes_at_most("stdin", self.stdin, STDIN_BYTES_MAX, &mut found);
        let mut bytes = 0;
        for (at, file) in self.files.iter().enumerate() {
            no_nul(&format!("files/{at}/path"), &file.path, &mut found);
            bytes_at_most(&format!("files/{at}/path"), &file.path, PATH_BYTES_MAX, &mut found);
            let below = file.path.trim_start_matches("/workspace/").trim_start_matches("./");
            if below == self.code_file {
                let message = format!("{} is where the code itself is", self.code_file);
                found.push(Violation::new(format!("/parameters/files/{at}/path"), message));
            }
            bytes += file.content.as_ref().or(file.content_base64.as_ref()).map_or(0, String::len);
            let fits = match (&file.content, &file.content_base64) {
                (Some(_), None) => Ok(()),
                (None, Some(text)) => BASE64.decode(text.as_bytes()).map(drop).map_err(|_| "is not base64"),
                _ => Err("needs one of content and content_base64"),
            };
            if let Err(why) = fits {
                found.push(Violation::new(format!("/parameters/files/{at}"), why));
            }
        }
        if bytes > STDIN_BYTES_MAX {
            let message = format!("are longer than {STDIN_BYTES_MAX} bytes together");
            found.push(Violation::new("/parameters/files", message));
        }
        for (at, pattern) in self.collect.iter().enumerate() {
            no_nul(&format!("collect/{at}"), pattern, &mut found);
        }
        for (at, arg) in self.args.iter().enumerate() {
            no_nul(&format!("args/{at}"), arg, &mut found);
        }
        if self.args.iter().map(|arg| arg.len() + 1).sum::<usize>() > ARGS_BYTES_MAX {
            let message = format!("are longer than {ARGS_BYTES_MAX} bytes together");
            found.push(Violation::new("/parameters/args", message));
        }
        found
    }
}

/// The end of the code as both tools tell it.
struct Ended {
    exit_code: Option<i32>,
    files: Vec<FileOut>,
    files_truncated: bool,
    error: Option<ToolError>,
}

fn ended(finished: &mut Finished) -> Ended {
    let mut error = finished.error();
    let compiler = finished.around.compiled.as_ref().is_some_and(|compiled| compiled.is_the_end);
    if compiler {
        error = error.map(|e| match finished.outcome {
            Some(Outcome::Exited { .. }) => ToolError::new("compile_error", "the code could not be compiled"),
            _ => ToolError { message: e.message.replace("the command", "the compiler"), ..e },
        });
    }
    let exit_code = match finished.outcome {
        Some(Outcome::Exited { code }) if !compiler => Some(code),
        _ => None,
    };
    let (files, files_truncated) = match finished.around.collected.take() {
        None => (Vec::new(), false),
        Some(Ok(files)) => {
            let truncated = files.truncated;
            (out(files), truncated)
        }
        Some(Err(failed)) => {
            error.get_or_insert(failed);
            (Vec::new(), true)
        }
    };
    Ended { exit_code, files, files_truncated, error }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn found(files: serde_json::Value, args: &[&str]) -> Vec<String> {
        let files: Vec<FileIn> = serde_json::from_value(files).unwrap();
        let args: Vec<String> = args.iter().map(|a| (*a).to_owned()).collect();
        let given =
            Given { code: "", code_file: "main.py", stdin: "", files: &files, collect: &["*".into()], args: &args };
        given.check().into_iter().map(|v| v.pointer).collect()
    }

    #[test]
    fn files_have_one_content_and_never_the_codes_own_name() {
        assert_eq!(found(json!([{ "path": "a/b", "content": "x" }]), &["a"]), Vec::<String>::new());
        for path in ["main.py", "./main.py", "/workspace/main.py"] {
            assert_eq!(found(json!([{ "path": path, "content": "" }]), &[]), ["/parameters/files/0/path"]);
        }
        for file in [
            json!({ "path": "a" }),
            json!({ "path": "a", "content": "", "content_base64": "" }),
            json!({ "path": "a", "content_base64": "?" }),
        ] {
            assert_eq!(found(json!([file]), &[]), ["/parameters/files/0"]);
        }
        assert_eq!(found(json!([]), &["a\0"]), ["/parameters/args/0"]);
        assert_eq!(found(json!([]), &[&"a".repeat(40_000)]), ["/parameters/args"]);
    }
}
