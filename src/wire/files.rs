//! Operations on the files of a sandbox's /workspace, as the front asks for them and as code inside the sandbox answers.
//!
//! A request is what a runtime's code is elsewhere; contents come through standard input and go to standard output as they
//! are, and an [`Answer`] goes to the result's pipe. Paths are relative to /workspace, or lie in it.

use serde::{Deserialize, Serialize};

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum FileRequest {
    /// Bytes of a file from `offset` on, at most `limit`, to standard output.
    Read { path: String, offset: u64, limit: u64 },
    /// Standard input into a file: exactly `bytes`, so that an input that was cut is never taken for a whole one; or, where
    /// nobody knows how many will come, in pieces, each behind its length in four bytes, the least first, and a length of 0
    /// at the end.
    Write { path: String, bytes: Option<u64>, append: bool, backup: bool, parents: bool, mode: Option<u32> },
    /// What is in a directory.
    List(ListRequest),
    /// A file, a link, or with `recursive` a directory and all that is in it.
    Remove { path: String, recursive: bool },
    /// The directory `path` as a tar archive to standard output.
    Pack { path: String },
    /// Standard input, a tar archive, into the directory `path`.
    Unpack { path: String, entries_max: u64 },
    /// Files one after the other on standard input, each of the length that is named here.
    Place { files: Vec<Placed> },
    /// Files that match one of `patterns`, one after the other to standard output.
    Collect { patterns: Vec<String>, files_max: u32, bytes_max: u64 },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListRequest {
    pub path: String,
    pub recursive: bool,
    /// Of names, or where it holds a slash of paths below `path`.
    pub pattern: Option<String>,
    /// Names that begin with a dot, too.
    pub hidden: bool,
    pub limit: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placed {
    pub path: String,
    pub bytes: u64,
    pub executable: bool,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// `bytes` went to standard output, of a file of `size` bytes.
    Read {
        size: u64,
        bytes: u64,
    },
    Written {
        bytes: u64,
        /// Of the whole file now.
        size: u64,
        backup: Option<String>,
        made: bool,
    },
    Listed {
        entries: Vec<Entry>,
        truncated: bool,
    },
    Removed,
    Packed {
        entries: u64,
        /// What an archive of this kind can not hold, or what could not be read.
        skipped: Vec<Skipped>,
        /// More were skipped than are named.
        more_skipped: u64,
    },
    Unpacked {
        entries: u64,
        bytes: u64,
        skipped: Vec<Skipped>,
        more_skipped: u64,
    },
    Placed,
    Collected {
        files: Vec<Collected>,
        truncated: bool,
    },
    Failed(FileFault),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum EntryKind {
    File,
    Directory,
    Link,
    Fifo,
    Socket,
    Device,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Below the directory that was asked for; bytes that are not UTF-8 are replaced.
    pub path: String,
    pub kind: EntryKind,
    pub size: u64,
    /// Permission bits.
    pub mode: u32,
    /// Of the last change of its content, in milliseconds since 1970.
    pub modified_ms: i64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Skipped {
    pub path: String,
    pub why: SkipReason,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum SkipReason {
    /// Its path leads out of the directory.
    Outside,
    /// A link that leads out of the directory, or to something that is not there.
    Link,
    /// A device, a FIFO, a socket, or what this version does not know.
    Kind,
    /// It can not be read or made.
    Failed,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Collected {
    pub path: String,
    pub bytes: u64,
    pub executable: bool,
}

/// Why an operation was not done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileFault {
    pub kind: FaultKind,
    /// The path that it was about.
    pub path: String,
    pub errno: i32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum FaultKind {
    NotFound,
    NotAFile,
    NotADirectory,
    IsADirectory,
    NotEmpty,
    Outside,
    Denied,
    NoSpace,
    TooLarge,
    TooManyLinks,
    TooManyEntries,
    NotAnArchive,
    /// Standard input ended early.
    Cut,
    BadName,
    Other,
}

/// Skipped entries that are named.
pub const SKIPPED_MAX: usize = 64;
/// Bytes of an [`Answer`].
pub const ANSWER_BYTES_MAX: usize = 960 * 1024;
