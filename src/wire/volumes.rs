//! Verbs about volumes, by name: no path of the host travels here.

use serde::{Deserialize, Serialize};

use crate::spec::{IdError, OwnerName, Place, VolumeId, VolumeReport, VolumeSize, VolumeUse};

/// `spec::VolumeId`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum VolumeWire {
    Workspace {
        owner: String,
        name: String,
    },
    /// Chosen by the front, as ids of sandboxes are.
    Scratch {
        id: String,
    },
}

/// Makes a volume ready for sandboxes. A workspace that nobody uses is put away again after a while; a scratch volume goes
/// with `Close`, or with its connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Open {
    pub volume: VolumeWire,
    /// A workspace that is not there is made; scratch volumes always are.
    pub create: bool,
    /// Of one that is made; the operator's own number is the default, and the most.
    pub bytes: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum PlaceWire {
    Workspace,
    Program,
}

/// `spec::VolumeUse`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeUseWire {
    pub volume: VolumeWire,
    pub place: PlaceWire,
    pub read_only: bool,
}

/// Volumes of one sandbox: one for each place.
pub const VOLUMES_MAX: usize = 2;

/// `spec::VolumeSize`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeSizeWire {
    pub bytes: u64,
    pub bytes_used: u64,
    pub files: u64,
    pub files_used: u64,
}

/// A workspace as listed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkspaceWire {
    pub name: String,
    pub size: VolumeSizeWire,
    /// Sandboxes that have it now.
    pub users: u32,
    /// Milliseconds since 1970.
    pub created_ms: u64,
}

/// Workspaces in one reply.
pub const WORKSPACES_PAGE: usize = 256;

/// `spec::VolumeReport`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeReportWire {
    pub path: String,
    pub read_only: bool,
    pub no_exec: bool,
    pub bytes_max: u64,
    pub files_max: u64,
}

impl From<VolumeId> for VolumeWire {
    fn from(volume: VolumeId) -> Self {
        match volume {
            VolumeId::Workspace { owner, name } => {
                Self::Workspace { owner: owner.as_str().to_owned(), name: name.as_str().to_owned() }
            }
            VolumeId::Scratch(id) => Self::Scratch { id: id.as_str().to_owned() },
        }
    }
}

impl TryFrom<VolumeWire> for VolumeId {
    type Error = IdError;

    fn try_from(volume: VolumeWire) -> Result<Self, IdError> {
        Ok(match volume {
            VolumeWire::Workspace { owner, name } => {
                Self::Workspace { owner: owner.parse::<OwnerName>()?, name: name.parse()? }
            }
            VolumeWire::Scratch { id } => Self::Scratch(id.parse()?),
        })
    }
}

impl From<VolumeUse> for VolumeUseWire {
    fn from(u: VolumeUse) -> Self {
        let place = match u.place {
            Place::Workspace => PlaceWire::Workspace,
            Place::Program => PlaceWire::Program,
        };
        Self { volume: u.volume.into(), place, read_only: u.read_only }
    }
}

impl TryFrom<VolumeUseWire> for VolumeUse {
    type Error = IdError;

    fn try_from(u: VolumeUseWire) -> Result<Self, IdError> {
        let place = match u.place {
            PlaceWire::Workspace => Place::Workspace,
            PlaceWire::Program => Place::Program,
        };
        Ok(Self { volume: u.volume.try_into()?, place, read_only: u.read_only })
    }
}

impl From<VolumeSize> for VolumeSizeWire {
    fn from(s: VolumeSize) -> Self {
        Self { bytes: s.bytes, bytes_used: s.bytes_used, files: s.files, files_used: s.files_used }
    }
}

impl From<VolumeSizeWire> for VolumeSize {
    fn from(s: VolumeSizeWire) -> Self {
        Self { bytes: s.bytes, bytes_used: s.bytes_used, files: s.files, files_used: s.files_used }
    }
}

impl From<VolumeReport> for VolumeReportWire {
    fn from(r: VolumeReport) -> Self {
        let VolumeReport { path, read_only, no_exec, bytes_max, files_max } = r;
        Self { path, read_only, no_exec, bytes_max, files_max }
    }
}

impl From<VolumeReportWire> for VolumeReport {
    fn from(r: VolumeReportWire) -> Self {
        let VolumeReportWire { path, read_only, no_exec, bytes_max, files_max } = r;
        Self { path, read_only, no_exec, bytes_max, files_max }
    }
}
