//! seccomp, Landlock, overlay, memory files and core limits.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use landlock::{AccessFs, CompatLevel, Compatible, Ruleset, RulesetAttr, RulesetStatus};
use nix::sys::memfd::{MFdFlags, memfd_create};

use super::attempt::{attempt, of};
use super::{room, text};
use crate::spec::{Attempt, CoreChecks, LandlockAbi, LandlockChecks, MemfdChecks, SeccompAction, SeccompChecks};
use crate::sys::mount::{Attrs, cstring, new_filesystem};
use crate::sys::process::{self, Resource};
use crate::sys::seccomp::{action_available, install};

pub(super) fn seccomp() -> SeccompChecks {
    let load = attempt(0, || {
        nix::sys::prctl::set_no_new_privs()?;
        install(crate::policy::seccomp::workload().program)
    });
    let number = |action: SeccompAction| match action {
        SeccompAction::KillProcess => libc::SECCOMP_RET_KILL_PROCESS,
        SeccompAction::Errno => libc::SECCOMP_RET_ERRNO,
        SeccompAction::UserNotify => libc::SECCOMP_RET_USER_NOTIF,
        SeccompAction::Log => libc::SECCOMP_RET_LOG,
    };
    let missing = SeccompAction::ALL.into_iter().filter(|action| action_available(number(*action)).is_err()).collect();
    SeccompChecks { load, missing }
}

pub(super) fn landlock() -> LandlockChecks {
    let abi = match process::landlock_version() {
        Ok(abi) => LandlockAbi::Has(abi),
        Err(e) => match e.raw_os_error() {
            Some(libc::ENOSYS) => LandlockAbi::NotBuilt,
            Some(libc::EOPNOTSUPP) => LandlockAbi::SwitchedOff,
            errno => LandlockAbi::Refused { errno: errno.unwrap_or(libc::EIO) },
        },
    };
    let restrict = match abi {
        LandlockAbi::Has(_) => attempt(0, || refuses_a_directory(Path::new("/usr"))),
        _ => Attempt::NotTried,
    };
    let modules = fs::read_to_string("/sys/kernel/security/lsm").ok().map(|list| text(&list));
    LandlockChecks { abi, restrict, modules }
}

/// Restricts the calling process for good; what could be opened before must then be refused.
fn refuses_a_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?;
    let ruleset = Ruleset::default().set_compatibility(CompatLevel::HardRequirement);
    let created = ruleset.handle_access(AccessFs::ReadDir).and_then(|r| r.create()).map_err(io::Error::other)?;
    let status = created.restrict_self().map_err(io::Error::other)?;
    if status.ruleset != RulesetStatus::FullyEnforced {
        return Err(io::Error::from_raw_os_error(libc::EOPNOTSUPP));
    }
    match File::open(directory) {
        Err(e) if e.raw_os_error() == Some(libc::EACCES) => Ok(()),
        Err(e) => Err(e),
        // It said that it was in force, and was not.
        Ok(_) => Err(io::Error::from_raw_os_error(libc::EPROTO)),
    }
}

pub(super) fn overlay(empty: &Path) -> Attempt {
    attempt(0, || {
        let lower = cstring(&format!("/usr:{}", empty.display()))?;
        let attrs = Attrs { read_only: true, no_exec: true, no_dev: true };
        new_filesystem(c"overlay", &[(c"lowerdir", Some(&lower))], attrs).map(drop)
    })
}

const MEMFD_NOEXEC: &str = "/proc/sys/vm/memfd_noexec";

pub(super) fn memfd() -> MemfdChecks {
    let host = room::number(MEMFD_NOEXEC).map(|value| value as u32);
    let refused = match host {
        None => Attempt::NotTried,
        // The setting is the pid namespace's own: what is written there is not seen outside.
        Some(_) => attempt(libc::CLONE_NEWPID, || {
            let executable = || memfd_create(c"probe", MFdFlags::from_bits_retain(libc::MFD_EXEC));
            memfd_create(c"probe", MFdFlags::MFD_CLOEXEC)?;
            fs::write(MEMFD_NOEXEC, "2")?;
            match executable() {
                Err(nix::errno::Errno::EACCES) => Ok(()),
                Err(e) => Err(e.into()),
                Ok(_) => Err(io::Error::from_raw_os_error(libc::EPROTO)),
            }
        }),
    };
    MemfdChecks { host, refused }
}

pub(super) fn core() -> CoreChecks {
    CoreChecks { pattern: core_pattern(), limit: attempt(0, || process::limit(Resource::Core, 1)) }
}

pub(super) fn core_pattern() -> String {
    text(&fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap_or_default())
}

/// Whether `program` is a file that may be executed.
pub(super) fn executable(program: &Path) -> Attempt {
    of(nix::unistd::access(program, nix::unistd::AccessFlags::X_OK).map_err(Into::into))
}
