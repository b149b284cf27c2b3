//! `write_file`: a file as a whole or not at all.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::text::{self, Wanted};
use super::{answered, job, path, unexpected};
use crate::tools::definition::{About, Shaped, Tool};
use crate::tools::finish::{Finished, ToolError};
use crate::tools::plan::{Job, STDIN_BYTES_MAX, bytes_at_most};
use crate::tools::schema::Violation;
use crate::tools::version::Version;
use crate::wire::files::{Answer, FileRequest};

pub(in crate::tools) struct WriteFile;

fn utf8() -> String {
    "utf-8".to_owned()
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::tools) struct Input {
    /// In the workspace: relative to /workspace, or below it. A symbolic link there is replaced, not followed.
    path: String,
    /// Text, or base64 where `encoding` says so. At most 4 MiB.
    #[schemars(length(max = STDIN_BYTES_MAX))]
    content: String,
    /// What the file is to be written in: utf-8 unless given, another label of the Encoding Standard, or `base64`: then
    /// `content` is the bytes in that form.
    #[serde(default = "utf8")]
    encoding: String,
    /// Permission bits in octal, as `0644`. What the file has already, or 0644, unless given.
    #[serde(default)]
    #[schemars(regex(pattern = r"^0?[0-7]{3}$"))]
    mode: Option<String>,
    /// Behind what the file holds, in place of replacing it.
    #[serde(default)]
    append: bool,
    /// Keeps what was there under the same name with `.bak` behind it.
    #[serde(default)]
    backup: bool,
    /// Makes the directories that the path names and that are not there.
    #[serde(default)]
    create_parents: bool,
}

#[derive(Serialize, JsonSchema)]
pub(in crate::tools) struct Output {
    path: String,
    /// Null where nothing was written: the file is as it was.
    bytes_written: Option<u64>,
    /// Where the earlier content is now, if it was to be kept and there was any.
    backup_path: Option<String>,
    success: bool,
}

impl Tool for WriteFile {
    type Input = Input;
    type Output = Output;

    fn about(&self) -> About {
        About {
            examples: vec![json!({ "path": "example.txt", "content": "Hello, world!\n" })],
            ..About::new("write_file", "Writes a file of the workspace, as a whole or not at all.", Version(1, 0, 0))
        }
    }

    fn check(&self, input: &Input) -> Vec<Violation> {
        let mut found = Vec::new();
        path(&input.path, &mut found);
        bytes_at_most("content", &input.content, STDIN_BYTES_MAX, &mut found);
        match wanted(&input.encoding) {
            None => found.push(Violation::new("/parameters/encoding", "is neither base64 nor a known encoding")),
            Some(wanted) => {
                if let Err(why) = text::encode(&input.content, wanted) {
                    found.push(Violation::new("/parameters/content", why));
                }
            }
        }
        found
    }

    fn job(&self, input: Input) -> Job {
        // Looked at before: it can be written so.
        let bytes = wanted(&input.encoding).and_then(|wanted| text::encode(&input.content, wanted).ok());
        let bytes = bytes.unwrap_or_default();
        let note = json!({ "path": input.path });
        let request = FileRequest::Write {
            path: input.path,
            bytes: Some(bytes.len() as u64),
            append: input.append,
            backup: input.backup,
            parents: input.create_parents,
            mode: input.mode.and_then(|mode| u32::from_str_radix(&mode, 8).ok()),
        };
        Job { note, ..job(&request, bytes) }
    }

    fn shape(&self, finished: Finished) -> Shaped<Output> {
        let path = finished.note["path"].as_str().unwrap_or_default().to_owned();
        let failed = |path, error: ToolError| {
            let result = Output { path, bytes_written: None, backup_path: None, success: false };
            Shaped { result, error: Some(error) }
        };
        match answered(&finished) {
            Ok(Answer::Written { bytes, backup, .. }) => {
                let result = Output { path, bytes_written: Some(bytes), backup_path: backup, success: true };
                Shaped { result, error: None }
            }
            Ok(_) => failed(path, unexpected()),
            Err(error) => failed(path, error),
        }
    }
}

fn wanted(encoding: &str) -> Option<Wanted> {
    let wanted = Wanted::parse(encoding)?;
    (wanted != Wanted::Auto).then_some(wanted)
}
