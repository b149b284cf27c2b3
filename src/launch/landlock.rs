//! Landlock rules of a plan, put on the calling process by the landlock crate.

use std::io;

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetStatus, Scope,
};

use super::error::{LaunchError, Step};
use crate::policy::plan::{LandlockPlan, PathAccess, PathRule};
use crate::sys::process::landlock_abi;
use crate::wire::{LandlockStatusWire, LandlockWire};

/// The crate's errors carry no errno of their own kind; the text is kept.
fn other(e: impl std::error::Error + Send + Sync + 'static) -> io::Error {
    io::Error::other(e)
}

fn rights(access: PathAccess, truncate: bool) -> BitFlags<AccessFs> {
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    let write_file = if truncate { AccessFs::WriteFile | AccessFs::Truncate } else { AccessFs::WriteFile.into() };
    let make = AccessFs::RemoveDir
        | AccessFs::RemoveFile
        | AccessFs::MakeDir
        | AccessFs::MakeReg
        | AccessFs::MakeSock
        | AccessFs::MakeFifo
        | AccessFs::MakeSym
        | AccessFs::Refer;
    match access {
        PathAccess::Read => read,
        PathAccess::ReadExecute => read | AccessFs::Execute,
        PathAccess::ReadWrite => read | write_file | make,
        PathAccess::ReadWriteExecute => read | write_file | make | AccessFs::Execute,
        PathAccess::WriteFile => write_file,
    }
}

/// Restricts the calling process for good. Every right of the plan is a hard requirement: what the kernel lacks was
/// left out of the plan before, so nothing is dropped silently here.
///
/// `further` are rules for volumes. A path that is not there needs no rule and is skipped.
pub(super) fn restrict(plan: &LandlockPlan, further: &[PathRule]) -> Result<LandlockWire, LaunchError> {
    let fs = AccessFs::from_all(ABI::V2);
    let mut ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(if plan.truncate { fs | AccessFs::Truncate } else { fs })
        .map_err(other)
        .step("landlock", "file rights")?;
    let mut added = Vec::new();
    if plan.truncate {
        added.push("truncate".to_owned());
    }
    if plan.tcp {
        ruleset = ruleset.handle_access(AccessNet::from_all(ABI::V4)).map_err(other).step("landlock", "tcp")?;
        added.push("tcp".to_owned());
    }
    if plan.scopes {
        ruleset = ruleset.scope(Scope::Signal | Scope::AbstractUnixSocket).map_err(other).step("landlock", "scopes")?;
        added.extend(["scope_signal".to_owned(), "scope_abstract_unix".to_owned()]);
    }
    let mut created = ruleset.create().map_err(other).step("landlock", "ruleset")?;
    for rule in plan.rules.iter().chain(further) {
        let Ok(metadata) = std::fs::metadata(&rule.path) else { continue };
        let fd = PathFd::new(&rule.path).map_err(other).step("landlock", rule.path.as_str())?;
        let mut access = rights(rule.access, plan.truncate);
        if !metadata.is_dir() {
            access &= AccessFs::from_file(ABI::V3);
        }
        created = created.add_rule(PathBeneath::new(fd, access)).map_err(other).step("landlock", rule.path.as_str())?;
    }
    let status = created.restrict_self().map_err(other).step("landlock", "restrict")?;
    let status = match status.ruleset {
        RulesetStatus::FullyEnforced => LandlockStatusWire::Full,
        RulesetStatus::PartiallyEnforced | RulesetStatus::NotEnforced => {
            return Err(io::Error::other("the kernel did not enforce every rule")).step("landlock", "restrict");
        }
    };
    Ok(LandlockWire { abi: landlock_abi(), status, added })
}
