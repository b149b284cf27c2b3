//! `list_directory`: what is in a directory, with what is known about it.

use std::time::{Duration, UNIX_EPOCH};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{answered, job, path, unexpected};
use crate::spec::capped;
use crate::tools::day::rfc3339;
use crate::tools::definition::{About, Hints, Shaped, Tool};
use crate::tools::finish::{Finished, ToolError};
use crate::tools::plan::{Job, no_nul};
use crate::tools::schema::Violation;
use crate::tools::version::Version;
use crate::wire::files::{Answer, Entry, EntryKind, FileRequest, ListRequest};

pub(in crate::tools) struct ListDirectory;

const LIMIT_DEFAULT: u32 = 1000;
const LIMIT_MAX: u32 = 10_000;
const PATTERN_CHARS_MAX: usize = 256;

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::tools) struct Input {
    /// In the workspace: relative to /workspace, or below it. `.` is the workspace itself.
    path: String,
    /// What is in the directories below, too, 64 deep. Symbolic links are told, not followed.
    #[serde(default)]
    recursive: bool,
    /// Only what matches: `*`, `?` and `[a-z]` within a name, `**` over directories. Matched against the name, or where the
    /// pattern holds a slash against the path below the one that is listed.
    #[serde(default)]
    #[schemars(length(min = 1, max = PATTERN_CHARS_MAX))]
    pattern: Option<String>,
    /// Names that begin with a dot, too.
    #[serde(default)]
    hidden: bool,
    /// Entries; 1,000 unless given.
    #[serde(default)]
    #[schemars(range(min = 1, max = LIMIT_MAX))]
    limit: Option<u32>,
}

#[derive(Serialize, JsonSchema)]
pub(in crate::tools) struct Output {
    /// In the order of their paths; null where the directory could not be read.
    entries: Option<Vec<Listed>>,
    /// There are more, or some lie too deep.
    truncated: bool,
    success: bool,
}

#[derive(Serialize, JsonSchema)]
pub(crate) struct Listed {
    name: String,
    /// Below the directory that was listed.
    path: String,
    kind: Kind,
    size_bytes: u64,
    /// Permission bits in octal.
    mode: String,
    /// When its content was last changed.
    #[schemars(extend("format" = "date-time"))]
    modified: String,
}

#[derive(Clone, Copy, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Kind {
    File,
    Directory,
    Symlink,
    Fifo,
    Socket,
    Device,
}

impl From<Entry> for Listed {
    fn from(entry: Entry) -> Self {
        let kind = match entry.kind {
            EntryKind::File => Kind::File,
            EntryKind::Directory => Kind::Directory,
            EntryKind::Link => Kind::Symlink,
            EntryKind::Fifo => Kind::Fifo,
            EntryKind::Socket => Kind::Socket,
            EntryKind::Device => Kind::Device,
        };
        let since = Duration::from_millis(u64::try_from(entry.modified_ms).unwrap_or(0));
        // A guest may set any time; what no calendar here has is its last day.
        let modified = rfc3339(UNIX_EPOCH.checked_add(since).unwrap_or(UNIX_EPOCH));
        let path = capped(&entry.path, 4096);
        let name = path.rsplit('/').next().unwrap_or_default().to_owned();
        Self { name, path, kind, size_bytes: entry.size, mode: format!("{:04o}", entry.mode), modified }
    }
}

impl Tool for ListDirectory {
    type Input = Input;
    type Output = Output;

    fn about(&self) -> About {
        About {
            examples: vec![json!({ "path": ".", "recursive": true, "pattern": "*.txt" })],
            hints: Hints { read_only: true, idempotent: true, open_world: false },
            ..About::new(
                "list_directory",
                "Lists what is in a directory of the workspace, with sizes, modes and times.",
                Version(1, 0, 0),
            )
        }
    }

    fn check(&self, input: &Input) -> Vec<Violation> {
        let mut found = Vec::new();
        path(&input.path, &mut found);
        if let Some(pattern) = &input.pattern {
            no_nul("pattern", pattern, &mut found);
            if let Err(e) = glob::Pattern::new(pattern) {
                found.push(Violation::new("/parameters/pattern", format!("is no pattern: {}", e.msg)));
            }
        }
        found
    }

    fn job(&self, input: Input) -> Job {
        let Input { path, recursive, pattern, hidden, limit } = input;
        let limit = limit.unwrap_or(LIMIT_DEFAULT);
        job(&FileRequest::List(ListRequest { path, recursive, pattern, hidden, limit }), Vec::new())
    }

    fn shape(&self, finished: Finished) -> Shaped<Output> {
        let failed = |error: ToolError| {
            let result = Output { entries: None, truncated: false, success: false };
            Shaped { result, error: Some(error) }
        };
        match answered(&finished) {
            Ok(Answer::Listed { entries, truncated }) => {
                let entries = Some(entries.into_iter().map(Listed::from).collect());
                Shaped { result: Output { entries, truncated, success: true }, error: None }
            }
            Ok(_) => failed(unexpected()),
            Err(error) => failed(error),
        }
    }
}
