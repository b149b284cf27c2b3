//! `read_file`: what a file holds, as text where it is that.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::text::{self, AUTO, Wanted};
use super::{answered, job, path, unexpected};
use crate::tools::definition::{About, Hints, Shaped, Tool};
use crate::tools::finish::{Finished, ToolError};
use crate::tools::plan::Job;
use crate::tools::schema::Violation;
use crate::tools::version::Version;
use crate::wire::files::{Answer, FileRequest};

pub(in crate::tools) struct ReadFile;

/// The most that a reply keeps of an output, whatever a caller asks for.
const BYTES_MAX: u64 = 16 * 1024 * 1024;
const BYTES_DEFAULT: u64 = 1024 * 1024;

fn auto() -> String {
    AUTO.to_owned()
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::tools) struct Input {
    /// In the workspace: relative to /workspace, or below it.
    path: String,
    /// `auto` finds out; `base64` takes the bytes as they are; any other is a label of the Encoding Standard, such as utf-8,
    /// utf-16le, windows-1252 or shift_jis.
    #[serde(default = "auto")]
    encoding: String,
    /// Bytes of the file to leave out at its beginning.
    #[serde(default)]
    #[schemars(range(max = 9_007_199_254_740_991u64))]
    offset: u64,
    /// Bytes of the file to read; 1 MiB unless given. A reply keeps no more than `context.limits.max_output_bytes`.
    #[serde(default)]
    #[schemars(range(min = 1, max = BYTES_MAX))]
    limit: Option<u64>,
}

#[derive(Serialize, JsonSchema)]
pub(in crate::tools) struct Output {
    /// Text, or base64 where `encoding` says so; null where the file could not be read.
    content: Option<String>,
    /// What the text was written in.
    encoding: Option<String>,
    /// Of the whole file.
    size_bytes: Option<u64>,
    /// There is more behind what was read.
    truncated: bool,
    /// The offset of the first byte that is not in `content`, where there is more.
    next_offset: Option<u64>,
    success: bool,
}

impl Tool for ReadFile {
    type Input = Input;
    type Output = Output;

    fn about(&self) -> About {
        About {
            examples: vec![json!({ "path": "example.txt" })],
            hints: Hints { read_only: true, idempotent: true, open_world: false },
            ..About::new(
                "read_file",
                "Reads a file of the workspace: text in whichever encoding it is, other bytes as base64.",
                Version(1, 0, 0),
            )
        }
    }

    fn check(&self, input: &Input) -> Vec<Violation> {
        let mut found = Vec::new();
        path(&input.path, &mut found);
        if Wanted::parse(&input.encoding).is_none() {
            found.push(Violation::new("/parameters/encoding", "is neither auto, base64 nor a known encoding"));
        }
        found
    }

    fn job(&self, input: Input) -> Job {
        let Input { path, encoding, offset, limit } = input;
        let limit = limit.unwrap_or(BYTES_DEFAULT);
        let note = json!({ "encoding": encoding, "offset": offset });
        Job { note, ..job(&FileRequest::Read { path, offset, limit }, Vec::new()) }
    }

    fn shape(&self, finished: Finished) -> Shaped<Output> {
        let size = match answered(&finished) {
            Ok(Answer::Read { size, .. }) => size,
            Ok(_) => return failed(unexpected()),
            Err(error) => return failed(error),
        };
        let offset = finished.note["offset"].as_u64().unwrap_or(0);
        let wanted = finished.note["encoding"].as_str().and_then(Wanted::parse).unwrap_or(Wanted::Auto);
        let bytes = finished.raw.unwrap_or_default();
        let whole = offset.saturating_add(bytes.len() as u64) >= size;
        let decoded = text::decode(&bytes, wanted, offset == 0, whole);
        // A file that is one unfinished character would be asked for again and again.
        let read = if decoded.bytes == 0 { bytes.len() } else { decoded.bytes };
        let next = offset.saturating_add(read as u64);
        let truncated = next < size;
        let result = Output {
            content: Some(decoded.content),
            encoding: Some(decoded.encoding),
            size_bytes: Some(size),
            truncated,
            next_offset: truncated.then_some(next),
            success: true,
        };
        Shaped { result, error: None }
    }
}

fn failed(error: ToolError) -> Shaped<Output> {
    let (content, encoding, size_bytes, next_offset) = (None, None, None, None);
    let result = Output { content, encoding, size_bytes, truncated: false, next_offset, success: false };
    Shaped { result, error: Some(error) }
}
