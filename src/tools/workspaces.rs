//! Directories that principals keep between calls, as callers see them; the engine has them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use super::call::CallError;
use super::execute::Service;
use super::plan::WorkspaceNeed;
use super::principal::Principal;
use super::run::errno_text;
use crate::spec::{Level, OwnerName, Place, VolumeId, VolumeSize, VolumeUse, WorkspaceName, capped};
use crate::wire::client::{Client, ClientError};
use crate::wire::{Open, Refusal, Reply, Verb};

/// Of a principal's own workspace, which is made when it is first used.
const DEFAULT: &str = "default";
/// When who found no room may ask again.
const SOON: Duration = Duration::from_secs(1);

/// A workspace as it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Workspace {
    pub name: WorkspaceName,
    pub size: VolumeSize,
    /// Sandboxes that have it now.
    pub users: u32,
    /// Milliseconds since 1970.
    pub created_ms: u64,
}

/// The workspace `name` of `principal`, or the principal's own.
pub(super) fn id(principal: &str, name: Option<&WorkspaceName>) -> Result<VolumeId, CallError> {
    let unfit = |e: &dyn std::fmt::Display| CallError::Internal(format!("a workspace has no name: {e}"));
    let owner: OwnerName = principal.parse().map_err(|e| unfit(&e))?;
    let name = match name {
        Some(name) => name.clone(),
        None => DEFAULT.parse().map_err(|e| unfit(&e))?,
    };
    Ok(VolumeId::Workspace { owner, name })
}

/// What a command that needs `need` is given at `level`.
pub(super) fn wanted(
    need: WorkspaceNeed,
    level: Level,
    principal: &str,
    named: Option<&WorkspaceName>,
) -> Result<Option<VolumeUse>, CallError> {
    let read_only = match need {
        WorkspaceNeed::IfNamed if named.is_none() => return Ok(None),
        // A command of a caller's keeps nothing at strict.
        WorkspaceNeed::IfNamed => level == Level::Strict,
        WorkspaceNeed::Always { read_only } => read_only,
    };
    Ok(Some(VolumeUse { volume: id(principal, named)?, place: Place::Workspace, read_only }))
}

/// Makes `volume` ready for a sandbox; a principal's own is made where it is not there.
pub(super) async fn open(client: &Client, volume: &VolumeId) -> Result<(), CallError> {
    let create = match volume {
        VolumeId::Workspace { name, .. } => name.as_str() == DEFAULT,
        VolumeId::Scratch(_) => true,
    };
    opened(client, volume, create, None).await.map(drop)
}

async fn opened(
    client: &Client,
    volume: &VolumeId,
    create: bool,
    bytes: Option<u64>,
) -> Result<(VolumeSize, bool), CallError> {
    let verb = Verb::Open(Open { volume: volume.clone().into(), create, bytes });
    match client.call(verb).await.map_err(CallError::EngineUnavailable)? {
        Reply::Opened { size, made } => Ok((size.into(), made)),
        Reply::Refused(refusal) => Err(refused(refusal)),
        _ => Err(CallError::EngineUnavailable(ClientError::Unexpected { verb: "Open" })),
    }
}

/// A refusal of a verb about volumes.
pub(super) fn refused(refusal: Refusal) -> CallError {
    match refusal {
        Refusal::UnknownVolume => CallError::UnknownWorkspace,
        Refusal::VolumeBusy { .. } => CallError::WorkspaceBusy,
        Refusal::TooManyVolumes { most } => CallError::TooManyWorkspaces { most },
        Refusal::LimitRefused { most, .. } => CallError::WorkspaceTooLarge { most },
        Refusal::AtCapacity { what } => CallError::AtCapacity { what: capped(&what, 200), retry_after: Some(SOON) },
        Refusal::Draining => CallError::Draining,
        Refusal::VolumeFailed { step, errno } => {
            CallError::SetupFailed { step: "workspace".into(), target: capped(&step, 200), reason: errno_text(errno) }
        }
        other => CallError::Internal(format!("the engine refused: {other:?}")),
    }
}

/// How often each workspace may have been written since the daemon's start, and by how many now. What a call returned can be
/// told again only while its workspace is as it was.
#[derive(Default)]
pub(super) struct Changes {
    table: Mutex<HashMap<VolumeId, (u64, u32)>>,
}

impl Changes {
    fn lock(&self) -> MutexGuard<'_, HashMap<VolumeId, (u64, u32)>> {
        self.table.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// A number of its state; none while somebody may be writing it.
    pub fn state(&self, volume: &VolumeId) -> Option<u64> {
        match self.lock().get(volume) {
            None => Some(0),
            Some((number, 0)) => Some(*number),
            Some(_) => None,
        }
    }

    /// Held by whoever may write it.
    pub fn writing(self: &Arc<Self>, volume: &VolumeId) -> Writing {
        self.lock().entry(volume.clone()).or_default().1 += 1;
        Writing { changes: Arc::clone(self), volume: volume.clone() }
    }
}

/// A workspace that may be written.
pub(super) struct Writing {
    changes: Arc<Changes>,
    volume: VolumeId,
}

impl Drop for Writing {
    fn drop(&mut self) {
        if let Some((number, writers)) = self.changes.lock().get_mut(&self.volume) {
            *number += 1;
            *writers -= 1;
        }
    }
}

impl Service {
    async fn client(&self) -> Result<Client, CallError> {
        self.monitor.client().await.map_err(CallError::EngineUnavailable)
    }

    /// Makes a workspace of `bytes` (the operator's number, and the most, unless given); tells whether it was not there
    /// before.
    pub async fn make_workspace(
        &self,
        principal: &Principal,
        name: &WorkspaceName,
        bytes: Option<u64>,
    ) -> Result<(Workspace, bool), CallError> {
        let (_, made) = opened(&self.client().await?, &id(&principal.name, Some(name))?, true, bytes).await?;
        Ok((self.workspace(principal, name).await?, made))
    }

    /// All of `principal`'s, by name.
    pub async fn workspaces(&self, principal: &Principal) -> Result<Vec<Workspace>, CallError> {
        let client = self.client().await?;
        let mut found = Vec::new();
        let mut after = None;
        loop {
            let verb = Verb::Workspaces { owner: principal.name.clone(), after };
            let (entries, more) = match client.call(verb).await.map_err(CallError::EngineUnavailable)? {
                Reply::Workspaces { entries, more } => (entries, more),
                Reply::Refused(refusal) => return Err(refused(refusal)),
                _ => return Err(CallError::EngineUnavailable(ClientError::Unexpected { verb: "Workspaces" })),
            };
            after = entries.last().map(|e| e.name.clone());
            for entry in entries {
                let name = entry.name.parse().map_err(|e| CallError::Internal(format!("a workspace's name: {e}")))?;
                let (size, users, created_ms) = (entry.size.into(), entry.users, entry.created_ms);
                found.push(Workspace { name, size, users, created_ms });
            }
            if !more {
                return Ok(found);
            }
        }
    }

    pub async fn workspace(&self, principal: &Principal, name: &WorkspaceName) -> Result<Workspace, CallError> {
        let all = self.workspaces(principal).await?;
        all.into_iter().find(|w| w.name == *name).ok_or(CallError::UnknownWorkspace)
    }

    /// Removes a workspace with all that is in it.
    pub async fn remove_workspace(&self, principal: &Principal, name: &WorkspaceName) -> Result<(), CallError> {
        let volume = id(&principal.name, Some(name))?;
        let _changed = self.changes.writing(&volume);
        match self.client().await?.call(Verb::Remove { volume: volume.into() }).await {
            Ok(Reply::Done) => Ok(()),
            Ok(Reply::Refused(refusal)) => Err(refused(refusal)),
            Ok(_) => Err(CallError::EngineUnavailable(ClientError::Unexpected { verb: "Remove" })),
            Err(error) => Err(CallError::EngineUnavailable(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_workspace_that_somebody_may_write_has_no_state() {
        let changes = Arc::<Changes>::default();
        let volume = id("uid:1", None).unwrap();
        assert_eq!(changes.state(&volume), Some(0));
        let (a, b) = (changes.writing(&volume), changes.writing(&volume));
        drop(a);
        assert_eq!(changes.state(&volume), None);
        drop(b);
        assert_eq!(changes.state(&volume), Some(2));
        assert_eq!(changes.state(&id("uid:2", None).unwrap()), Some(0));
    }

    #[test]
    fn strict_gives_commands_what_they_can_only_read() {
        let name: WorkspaceName = "a".parse().unwrap();
        let of = |need, level, named| wanted(need, level, "p", named).unwrap().map(|used| used.read_only);
        assert_eq!(of(WorkspaceNeed::IfNamed, Level::Standard, None), None);
        assert_eq!(of(WorkspaceNeed::IfNamed, Level::Standard, Some(&name)), Some(false));
        assert_eq!(of(WorkspaceNeed::IfNamed, Level::Strict, Some(&name)), Some(true));
        assert_eq!(of(WorkspaceNeed::Always { read_only: true }, Level::Standard, None), Some(true));
    }
}
