//! Test-only: one fence left out, or one step made to fail, to show that a test notices.
//!
//! Without the feature `fault-injection` every function here is a constant and nothing can be switched.

/// A fence that can be left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fence {
    NoNewPrivs,
    Seccomp,
    WorkloadFilter,
    Landlock,
    Capabilities,
    NamespaceSysctls,
    Dumpable,
    Overlay,
    Masks,
    ReadOnlyProc,
    NoExec,
    MemfdNoexec,
    NetNamespace,
    IpcNamespace,
    UtsNamespace,
    Lease,
    Rlimits,
    ScratchSize,
    TimeOffsets,
    ReadOnlyRoot,
    Descriptors,
    CoreLimit,
}

impl Fence {
    pub const ALL: [(&'static str, Fence); 22] = [
        ("no-new-privs", Fence::NoNewPrivs),
        ("seccomp", Fence::Seccomp),
        ("workload-filter", Fence::WorkloadFilter),
        ("landlock", Fence::Landlock),
        ("capabilities", Fence::Capabilities),
        ("namespace-sysctls", Fence::NamespaceSysctls),
        ("dumpable", Fence::Dumpable),
        ("overlay", Fence::Overlay),
        ("masks", Fence::Masks),
        ("read-only-proc", Fence::ReadOnlyProc),
        ("noexec", Fence::NoExec),
        ("memfd-noexec", Fence::MemfdNoexec),
        ("net-namespace", Fence::NetNamespace),
        ("ipc-namespace", Fence::IpcNamespace),
        ("uts-namespace", Fence::UtsNamespace),
        ("lease", Fence::Lease),
        ("rlimits", Fence::Rlimits),
        ("scratch-size", Fence::ScratchSize),
        ("time-offsets", Fence::TimeOffsets),
        ("read-only-root", Fence::ReadOnlyRoot),
        ("descriptors", Fence::Descriptors),
        ("core-limit", Fence::CoreLimit),
    ];
}

#[cfg(feature = "fault-injection")]
mod switched {
    use std::io;
    use std::sync::OnceLock;

    use super::Fence;

    static DROPPED: OnceLock<Vec<Fence>> = OnceLock::new();
    static FAILING: OnceLock<String> = OnceLock::new();

    /// Leaves out the fences named, for the life of the process. An unknown name is an error.
    pub fn drop_fences(names: &[String]) -> Result<(), String> {
        let fences = names
            .iter()
            .map(|name| {
                let known = Fence::ALL.iter().find(|(n, _)| n == name).map(|(_, fence)| *fence);
                known.ok_or_else(|| format!("unknown fence {name}"))
            })
            .collect::<Result<Vec<_>, _>>()?;
        DROPPED.set(fences).map_err(|_| "fences were dropped before".to_owned())
    }

    /// Makes the launch step `step` fail with EIO.
    pub fn fail_at(step: &str) -> Result<(), String> {
        FAILING.set(step.to_owned()).map_err(|_| "a failing step was named before".to_owned())
    }

    pub fn dropped(fence: Fence) -> bool {
        DROPPED.get().is_some_and(|fences| fences.contains(&fence))
    }

    pub fn at(step: &str) -> io::Result<()> {
        match FAILING.get() {
            Some(failing) if failing == step => Err(io::Error::from_raw_os_error(libc::EIO)),
            _ => Ok(()),
        }
    }
}

#[cfg(feature = "fault-injection")]
pub use switched::{at, drop_fences, dropped, fail_at};

#[cfg(not(feature = "fault-injection"))]
pub const fn dropped(_: Fence) -> bool {
    false
}

#[cfg(not(feature = "fault-injection"))]
pub const fn at(_: &str) -> std::io::Result<()> {
    Ok(())
}
