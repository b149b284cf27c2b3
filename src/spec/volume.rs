//! Directories that sandboxes are given: named workspaces, which are kept, and scratch volumes, which go with their call.

use std::fmt;
use std::str::FromStr;

use super::id::{IdError, ScratchId, WorkspaceName};

/// Whose workspaces: the principal's name, which may hold a colon (`uid:1000`). Safe as a file name and in a log.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OwnerName(String);

/// Bytes of an [`OwnerName`].
const OWNER_BYTES_MAX: usize = 80;

impl OwnerName {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for OwnerName {
    type Err = IdError;

    fn from_str(s: &str) -> Result<Self, IdError> {
        if s.is_empty() || s.len() > OWNER_BYTES_MAX {
            return Err(IdError::Length { max: OWNER_BYTES_MAX });
        }
        if !s.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-' | b':')) {
            return Err(IdError::Character);
        }
        if s == "." || s == ".." { Err(IdError::Dots) } else { Ok(Self(s.to_owned())) }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum VolumeId {
    Workspace { owner: OwnerName, name: WorkspaceName },
    Scratch(ScratchId),
}

impl fmt::Display for VolumeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            VolumeId::Workspace { owner, name } => write!(f, "{}/{name}", owner.as_str()),
            VolumeId::Scratch(id) => id.fmt(f),
        }
    }
}

/// Where a sandbox sees a volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Place {
    /// In place of the private directory that the call would have.
    Workspace,
    /// What an earlier command of the same call made, to be run.
    Program,
}

impl Place {
    pub fn path(self) -> &'static str {
        match self {
            Place::Workspace => "/workspace",
            Place::Program => "/program",
        }
    }
}

/// A volume for a sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeUse {
    pub volume: VolumeId,
    pub place: Place,
    pub read_only: bool,
}

/// How large a volume is and what of it is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct VolumeSize {
    pub bytes: u64,
    pub bytes_used: u64,
    /// Files, directories and links together.
    pub files: u64,
    pub files_used: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_are_file_names() {
        for good in ["uid:1000", "ci", "a.b_c-d", "...", &"a".repeat(80)] {
            assert!(good.parse::<OwnerName>().is_ok(), "{good}");
        }
        for bad in ["", ".", "..", "a/b", "a\nb", "a b", "é", &"a".repeat(81)] {
            assert!(bad.parse::<OwnerName>().is_err(), "{bad:?}");
        }
    }
}
