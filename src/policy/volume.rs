//! How a level mounts a volume.

use super::plan::{PathAccess, PathRule};
use crate::spec::{Level, Place, VolumeUse};

/// A volume in one sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumePlan {
    pub place: Place,
    pub read_only: bool,
    pub no_exec: bool,
    /// Beside the level's own Landlock rules.
    pub rule: Option<PathRule>,
}

/// What `level` promises forbids it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("nothing that outlives the command can be written at this level")]
pub struct NotWritable;

/// `own`: the sandbox runs the project's own file operations, no command of a caller's.
pub fn volume(level: Level, wanted: &VolumeUse, own: bool) -> Result<VolumePlan, NotWritable> {
    let VolumeUse { place, read_only, .. } = *wanted;
    let strict = matches!(level, Level::Strict | Level::Maximum);
    if strict && place == Place::Workspace && !read_only && !own {
        return Err(NotWritable);
    }
    // At strict what can be written is never run, nor is a workspace, which others may have written.
    let no_exec = strict && (place == Place::Workspace || !read_only);
    let access = match (read_only, no_exec) {
        (true, true) => PathAccess::Read,
        (true, false) => PathAccess::ReadExecute,
        (false, true) => PathAccess::ReadWrite,
        (false, false) => PathAccess::ReadWriteExecute,
    };
    let rule = PathRule { path: place.path().to_owned(), access };
    // Rules add up: those of the level let /workspace be written where it may be, and a read-only mount is one all the same.
    let needed = strict || place == Place::Program;
    Ok(VolumePlan { place, read_only, no_exec, rule: needed.then_some(rule) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::{ScratchId, VolumeId};

    fn of(level: Level, place: Place, read_only: bool, own: bool) -> Result<VolumePlan, NotWritable> {
        let volume = VolumeId::Scratch(ScratchId::from_random([0; 16]));
        volume_of(level, VolumeUse { volume, place, read_only }, own)
    }

    fn volume_of(level: Level, wanted: VolumeUse, own: bool) -> Result<VolumePlan, NotWritable> {
        super::volume(level, &wanted, own)
    }

    #[test]
    fn strict_runs_nothing_from_where_it_can_write_and_keeps_nothing() {
        assert_eq!(of(Level::Strict, Place::Workspace, false, false), Err(NotWritable));
        for (place, own) in [(Place::Workspace, true), (Place::Program, false), (Place::Program, true)] {
            let plan = of(Level::Strict, place, false, own).unwrap();
            assert!(plan.no_exec && plan.rule.unwrap().access == PathAccess::ReadWrite, "{place:?}");
        }
        let program = of(Level::Strict, Place::Program, true, false).unwrap();
        assert!(program.read_only && !program.no_exec && program.rule.unwrap().access == PathAccess::ReadExecute);
        assert!(of(Level::Strict, Place::Workspace, true, false).unwrap().no_exec);
    }

    #[test]
    fn standard_may_do_in_its_workspace_what_it_may_in_its_own() {
        let plan = of(Level::Standard, Place::Workspace, false, false).unwrap();
        assert_eq!((plan.read_only, plan.no_exec, plan.rule), (false, false, None));
        assert!(of(Level::Standard, Place::Workspace, true, false).unwrap().read_only);
    }
}
