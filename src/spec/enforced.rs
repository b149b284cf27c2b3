//! What is in force for one sandbox: read back from the kernel, or the descriptor that was applied.

/// How much of the wanted Landlock rule set the kernel took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LandlockStatus {
    Full,
    Partial,
    None,
}

impl LandlockStatus {
    pub fn name(self) -> &'static str {
        match self {
            LandlockStatus::Full => "full",
            LandlockStatus::Partial => "partial",
            LandlockStatus::None => "none",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LandlockReport {
    /// The ABI whose rights were used; 0 where the kernel has none.
    pub abi: u32,
    pub status: LandlockStatus,
    /// What a higher ABI added above the level's floor: `truncate`, `tcp`, `scope_signal`, `scope_abstract_unix`.
    pub added: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeccompReport {
    pub profile: String,
    /// Of the BPF program, in lower-case hexadecimal.
    pub sha256: String,
    /// What the profile refuses on purpose is counted.
    pub denials_recorded: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NetworkReport {
    None,
    Host,
}

impl NetworkReport {
    pub fn name(self) -> &'static str {
        match self {
            NetworkReport::None => "none",
            NetworkReport::Host => "host",
        }
    }
}

/// The leaf's limits as the kernel tells them; `None` where no controller holds that limit.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CgroupReport {
    /// 2, or 0 where the host has no cgroup2 mount.
    pub version: u8,
    pub controllers: Vec<String>,
    pub memory_max_bytes: Option<u64>,
    pub swap_max_bytes: Option<u64>,
    pub oom_group: Option<bool>,
    pub pids_max: Option<u64>,
    /// Microseconds of cpu time in a period of microseconds.
    pub cpu_max: Option<(u64, u64)>,
}

/// A volume as a sandbox has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeReport {
    /// Inside.
    pub path: String,
    pub read_only: bool,
    pub no_exec: bool,
    /// The most that it may hold: the size of its filesystem, which is its alone.
    pub bytes_max: u64,
    /// Files, directories and links, in the same way.
    pub files_max: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Enforced {
    /// On the host.
    pub uid: u32,
    /// On the host.
    pub gid: u32,
    /// Of `user pid mount net ipc uts cgroup time`: those that differ from the engine's own.
    pub namespaces: Vec<String>,
    pub private_root: bool,
    pub network: NetworkReport,
    pub effective_capabilities: Vec<String>,
    pub bounding_capabilities: Vec<String>,
    pub no_new_privs: bool,
    pub seccomp: SeccompReport,
    /// Known once a command has started: the rules go on last, in the command's own process.
    pub landlock: Option<LandlockReport>,
    pub cgroup: CgroupReport,
    /// Given at hand-over.
    pub volumes: Vec<VolumeReport>,
}
