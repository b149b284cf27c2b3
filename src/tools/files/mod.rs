//! Tools for the files of a workspace. The work is done inside a sandbox, by the project's own code there; here is what
//! callers see of it.

mod list;
mod read;
mod text;
mod write;

pub(super) use list::ListDirectory;
pub(crate) use list::Listed;
pub(super) use read::ReadFile;
pub(super) use write::WriteFile;

use super::finish::{Finished, ToolError};
use super::plan::{Job, WorkspaceNeed, bytes_at_most, no_nul};
use super::schema::Violation;
use crate::runtimes::Runtime;
use crate::spec::{Outcome, capped};
use crate::wire::files::{Answer, FaultKind, FileFault, FileRequest};
use crate::wire::{from_bytes, to_bytes};

/// PATH_MAX without the NUL.
const PATH_BYTES_MAX: usize = 4095;

/// A command that does `request` with `input`.
pub(super) fn job(request: &FileRequest, input: Vec<u8>) -> Job {
    let read_only = matches!(
        request,
        FileRequest::Read { .. } | FileRequest::List(_) | FileRequest::Pack { .. } | FileRequest::Collect { .. }
    );
    Job {
        stdin: input,
        workspace: WorkspaceNeed::Always { read_only },
        // A request of strings and numbers always has bytes; one without is refused by its reader.
        ..Job::new(Runtime::Files, to_bytes(request).unwrap_or_default())
    }
}

/// What the code inside answered, or why there is no answer.
pub(super) fn answered(finished: &Finished) -> Result<Answer, ToolError> {
    if let Some(error) = finished.error()
        && !matches!(finished.outcome, Some(Outcome::Exited { .. }))
    {
        return Err(error);
    }
    match finished.result.as_deref().map(from_bytes::<Answer>) {
        Some(Ok(Answer::Failed(fault))) => Err(error(&fault)),
        Some(Ok(answer)) => Ok(answer),
        _ => Err(ToolError::new("internal", "the files could not be worked on")),
    }
}

/// An answer to another question.
pub(super) fn unexpected() -> ToolError {
    ToolError::new("internal", "the answer is to another question")
}

/// In the contract's codes.
pub(super) fn error(fault: &FileFault) -> ToolError {
    let path = capped(&fault.path, 200);
    let (code, message) = match fault.kind {
        FaultKind::NotFound => ("not_found", format!("{path} is not there")),
        FaultKind::NotAFile => ("not_a_file", format!("{path} is no regular file")),
        FaultKind::NotADirectory => ("not_a_directory", format!("{path}, or a part of it, is no directory")),
        FaultKind::IsADirectory => ("is_a_directory", format!("{path} is a directory")),
        FaultKind::NotEmpty => ("not_empty", format!("{path} is a directory that is not empty")),
        FaultKind::Outside => ("outside_workspace", format!("{path} leads out of /workspace")),
        FaultKind::Denied => ("permission_denied", format!("{path} may not be used in this way")),
        FaultKind::NoSpace => ("no_space", format!("{path}: the workspace is full")),
        FaultKind::TooLarge => ("too_large", format!("{path} would be larger than one file may be")),
        FaultKind::TooManyLinks => ("too_many_links", format!("{path}: too many symbolic links")),
        FaultKind::TooManyEntries => ("too_many_entries", "the archive has more entries than are taken".into()),
        FaultKind::NotAnArchive => ("not_an_archive", "this is no tar archive".into()),
        FaultKind::Cut => ("cut_short", format!("{path}: what came was shorter than it was said to be")),
        FaultKind::BadName => ("bad_name", format!("{path} can be no name here")),
        FaultKind::Other => {
            ("failed", format!("{path}: {}", nix::errno::Errno::from_raw(fault.errno).desc().to_lowercase()))
        }
    };
    ToolError::new(code, message)
}

/// Of the parameter `path`.
fn path(path: &str, found: &mut Vec<Violation>) {
    if path.is_empty() {
        found.push(Violation::new("/parameters/path", "is empty"));
    }
    no_nul("path", path, found);
    bytes_at_most("path", path, PATH_BYTES_MAX, found);
}
