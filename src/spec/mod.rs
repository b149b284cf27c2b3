//! The vocabulary: ids, levels, limits, commands, outcomes, host facts. Constructors parse; nothing here does I/O.

mod checks;
mod command;
mod egress;
mod enforced;
mod facts;
mod id;
mod level;
mod limits;
mod outcome;
mod text;
mod volume;

pub use checks::{
    Attempt, CgroupChecks, ControllerState, CoreChecks, DockerChecks, HostChecks, IdmapCheck, IdmapPlace, LandlockAbi,
    LandlockChecks, LeaseChecks, LeaseState, MemfdChecks, MemoryChecks, NamespaceChecks, RoomChecks, RuntimeCheck,
    SeccompAction, SeccompChecks, errno_text,
};
pub use command::{Command, CommandError, ENV_BYTES_MAX, EXTRA_FDS_MAX};
pub use egress::{EgressDenial, EgressRuleError, EgressRules};
pub use enforced::{
    CgroupReport, Enforced, LandlockReport, LandlockStatus, NetworkReport, SeccompReport, VolumeReport,
};
pub use facts::{Controllers, HostFacts, KernelVersion};
pub use id::{ExecutionId, IdError, RequestId, SandboxId, ScratchId, WorkspaceName};
pub use level::{Backend, Level, UnknownLevel};
pub use limits::{LimitField, LimitRequest, Limits};
pub use outcome::{Clock, DENIALS_MAX, Denial, End, KilledBy, Layer, LimitHit, LimitKind, Outcome, Usage};
pub use text::{NO_CONTROLS, capped, escape_controls};
pub use volume::{OwnerName, Place, VolumeId, VolumeSize, VolumeUse};
