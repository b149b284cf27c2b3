//! What a host can give, found by `host` and judged by `policy`.

/// `major.minor` of the running kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct KernelVersion {
    pub major: u32,
    pub minor: u32,
}

impl std::fmt::Display for KernelVersion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// cgroup v2 controllers that the engine could enable for its leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Controllers {
    pub memory: bool,
    pub pids: bool,
    pub cpu: bool,
}

/// Each field was found by doing, not by reading a version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostFacts {
    pub kernel: KernelVersion,
    /// A process in a new user namespace could be given an id map.
    pub user_namespaces: bool,
    /// A fresh /proc could be mounted in there.
    pub proc_mountable: bool,
    pub time_namespaces: bool,
    /// A cgroup2 mount was found and a leaf could be made, entered at birth and killed.
    pub cgroup2: bool,
    pub controllers: Controllers,
    /// A seccomp filter could be loaded.
    pub seccomp: bool,
    /// 0: the kernel has none, or it is switched off.
    pub landlock_abi: u32,
    /// A read-only overlay could be mounted.
    pub overlay: bool,
    /// A directory's mount could be idmapped.
    pub idmapped_mounts: bool,
    /// vm.memfd_noexec exists.
    pub memfd_noexec: bool,
}

impl HostFacts {
    /// A host that has everything that this version knows of: what `explain` shows and tests plan against.
    pub fn complete() -> Self {
        Self {
            kernel: KernelVersion { major: 6, minor: 18 },
            user_namespaces: true,
            proc_mountable: true,
            time_namespaces: true,
            cgroup2: true,
            controllers: Controllers { memory: true, pids: true, cpu: true },
            seccomp: true,
            landlock_abi: 7,
            overlay: true,
            idmapped_mounts: true,
            memfd_noexec: true,
        }
    }
}
