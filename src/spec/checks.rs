//! What a host was found to be, with reasons: what `doctor` tells. [`HostChecks::facts`] is the part that plans need.

use super::{Controllers, HostFacts, KernelVersion};

/// What trying something gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attempt {
    Works,
    Failed {
        errno: i32,
    },
    /// The process that tried was ended by this signal.
    Killed {
        signal: i32,
    },
    /// What it builds on had failed before.
    NotTried,
}

impl Attempt {
    pub fn works(self) -> bool {
        self == Attempt::Works
    }

    /// `EPERM`'s number and the like, where that was the answer.
    pub fn errno(self) -> Option<i32> {
        match self {
            Attempt::Failed { errno } => Some(errno),
            _ => None,
        }
    }
}

impl std::fmt::Display for Attempt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Attempt::Works => f.write_str("works"),
            Attempt::Failed { errno } => f.write_str(&errno_text(*errno)),
            Attempt::Killed { signal } => write!(f, "ended by signal {signal}"),
            Attempt::NotTried => f.write_str("not tried"),
        }
    }
}

/// Name and meaning of an errno, such as `EPERM: Operation not permitted`.
pub fn errno_text(errno: i32) -> String {
    let known = nix::errno::Errno::from_raw(errno);
    format!("{known:?}: {}", known.desc())
}

/// A cgroup v2 controller, and where it is not to be had, why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ControllerState {
    /// It limits leaves.
    Enabled,
    /// No cgroup2 is mounted, or no subtree of it can be had.
    NoSubtree,
    /// A cgroup v1 hierarchy owns it; where that is mounted.
    V1 {
        mount: Option<String>,
    },
    /// Turned off on the kernel's command line (cgroup_disable=).
    SwitchedOff,
    NotBuilt,
    /// The kernel has it for v2, but it is not in the `cgroup.controllers` of this directory.
    NotOffered {
        directory: String,
    },
    /// Writing it to the `cgroup.subtree_control` of this directory failed.
    Refused {
        directory: String,
        errno: i32,
    },
}

impl std::fmt::Display for ControllerState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            ControllerState::Enabled => f.write_str("enabled"),
            ControllerState::NoSubtree => f.write_str("there is no cgroup2 subtree to enable it in"),
            ControllerState::V1 { mount: Some(mount) } => write!(f, "belongs to cgroup v1, mounted at {mount}"),
            ControllerState::V1 { mount: None } => f.write_str("belongs to cgroup v1"),
            ControllerState::SwitchedOff => f.write_str("switched off on the kernel's command line"),
            ControllerState::NotBuilt => f.write_str("not built into this kernel"),
            ControllerState::NotOffered { directory } => write!(f, "not in {directory}/cgroup.controllers"),
            ControllerState::Refused { directory, errno } => {
                write!(f, "{directory}/cgroup.subtree_control refuses it with {}", errno_text(*errno))
            }
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CgroupChecks {
    /// Where cgroup2 is mounted.
    pub mount: Option<String>,
    /// Of the process that looked, relative to the mount.
    pub own: Option<String>,
    /// systemd marked that cgroup as delegated: the subtree lies in it, else at the top of the mount.
    pub delegated: bool,
    /// Making the subtree. Where that fails the engine does not start.
    pub subtree: Attempt,
    /// A process was born into a leaf (CLONE_INTO_CGROUP).
    pub born: Attempt,
    /// It was ended by cgroup.kill and the leaf removed.
    pub killed: Attempt,
    /// It was stopped by cgroup.freeze before.
    pub frozen: Attempt,
    /// memory.swap.max is there; `None` without the memory controller.
    pub swap_limit: Option<bool>,
    pub memory: ControllerState,
    pub pids: ControllerState,
    pub cpu: ControllerState,
}

impl CgroupChecks {
    /// Of a host without cgroup2.
    pub fn none() -> Self {
        Self {
            mount: None,
            own: None,
            delegated: false,
            subtree: Attempt::NotTried,
            born: Attempt::NotTried,
            killed: Attempt::NotTried,
            frozen: Attempt::NotTried,
            swap_limit: None,
            memory: ControllerState::NoSubtree,
            pids: ControllerState::NoSubtree,
            cpu: ControllerState::NoSubtree,
        }
    }

    /// Sandboxes can be born into leaves and ended through them.
    pub fn works(&self) -> bool {
        self.born.works() && self.killed.works()
    }

    pub fn controllers(&self) -> Controllers {
        let on = |state: &ControllerState| self.works() && *state == ControllerState::Enabled;
        Controllers { memory: on(&self.memory), pids: on(&self.pids), cpu: on(&self.cpu) }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamespaceChecks {
    pub user: Attempt,
    /// Writing uid_map and gid_map of a process in there.
    pub id_map: Attempt,
    /// A fresh /proc in there.
    pub proc_mount: Attempt,
    pub time: Attempt,
    /// user.max_user_namespaces.
    pub user_max: Option<u64>,
    /// kernel.apparmor_restrict_unprivileged_userns, where the kernel has it.
    pub apparmor_restricts: Option<bool>,
    /// kernel.unprivileged_userns_clone (Debian's), where the kernel has it.
    pub unprivileged_clone: Option<bool>,
}

/// What a seccomp filter can answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SeccompAction {
    KillProcess,
    Errno,
    UserNotify,
    Log,
}

impl SeccompAction {
    pub const ALL: [SeccompAction; 4] =
        [SeccompAction::KillProcess, SeccompAction::Errno, SeccompAction::UserNotify, SeccompAction::Log];

    /// The kernel's word (/proc/sys/kernel/seccomp/actions_avail).
    pub fn name(self) -> &'static str {
        match self {
            SeccompAction::KillProcess => "kill_process",
            SeccompAction::Errno => "errno",
            SeccompAction::UserNotify => "user_notif",
            SeccompAction::Log => "log",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeccompChecks {
    /// A filter was loaded.
    pub load: Attempt,
    /// Actions that the kernel does not have.
    pub missing: Vec<SeccompAction>,
}

/// The kernel's answer to a question for Landlock's ABI.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LandlockAbi {
    Has(u32),
    /// ENOSYS.
    NotBuilt,
    /// EOPNOTSUPP: built, but not in the list of security modules.
    SwitchedOff,
    Refused {
        errno: i32,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LandlockChecks {
    pub abi: LandlockAbi,
    /// A process restricted itself and was then refused a directory.
    pub restrict: Attempt,
    /// The security modules in force (/sys/kernel/security/lsm).
    pub modules: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IdmapPlace {
    /// A filesystem in a file, as workspaces are.
    Image,
    Usr,
    Tmpfs,
}

/// Whether a mount of a filesystem can be idmapped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdmapCheck {
    pub place: IdmapPlace,
    /// As the mount table names it; empty where it could not be found.
    pub filesystem: String,
    pub idmap: Attempt,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemfdChecks {
    /// vm.memfd_noexec of the host.
    pub host: Option<u32>,
    /// In a pid namespace that sets it to 2 an executable memfd is refused.
    pub refused: Attempt,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CoreChecks {
    /// kernel.core_pattern.
    pub pattern: String,
    /// RLIMIT_CORE of 1 byte, which stops a piped pattern.
    pub limit: Attempt,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LeaseState {
    /// By the engine that tells.
    Held,
    Free,
    /// By another engine.
    Taken,
    /// Every slice of the default range.
    AllTaken,
    Overlaps {
        with: String,
    },
    /// The file of claims can not be read or made.
    Failed {
        errno: i32,
    },
}

/// The range of host uids that sandboxes are leased.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseChecks {
    pub first: u32,
    pub count: u32,
    pub state: LeaseState,
}

impl LeaseChecks {
    /// An engine could start with it.
    pub fn usable(&self) -> bool {
        matches!(self.state, LeaseState::Held | LeaseState::Free | LeaseState::Taken)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryChecks {
    pub total_bytes: u64,
    pub available_bytes: u64,
    pub swap_bytes: u64,
    /// What all sandboxes together may be promised.
    pub wanted_bytes: u64,
}

/// Numbers of things that a host has only so many of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RoomChecks {
    /// The engine's hard limit of descriptors.
    pub descriptors: u64,
    /// kernel.pid_max.
    pub pid_max: u64,
    /// kernel.threads-max.
    pub threads_max: u64,
    /// Sandboxes at once, as configured.
    pub sandboxes: u32,
    /// Processes of all sandboxes together, as configured.
    pub processes: u32,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DockerChecks {
    /// The socket's path, where there is one.
    pub socket: Option<String>,
    /// `GET /_ping` on it.
    pub ping: Attempt,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuntimeCheck {
    pub name: String,
    /// On the host and as seen inside.
    pub program: String,
    /// The file is there and may be executed.
    pub found: Attempt,
}

/// Everything that was tried, one field a theme.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostChecks {
    pub kernel: KernelVersion,
    /// `uname -r`.
    pub release: String,
    /// systemd is the service manager.
    pub systemd: bool,
    /// Of the capabilities that the engine needs, those that it was not given; `CAP_…`.
    pub capabilities_missing: Vec<String>,
    pub namespaces: NamespaceChecks,
    pub cgroup: CgroupChecks,
    pub seccomp: SeccompChecks,
    pub landlock: LandlockChecks,
    /// A read-only overlay over /usr.
    pub overlay: Attempt,
    pub idmap: Vec<IdmapCheck>,
    pub memfd: MemfdChecks,
    pub core: CoreChecks,
    pub leases: LeaseChecks,
    pub memory: MemoryChecks,
    pub room: RoomChecks,
    pub docker: DockerChecks,
    pub runtimes: Vec<RuntimeCheck>,
}

impl HostChecks {
    /// What plans are made from.
    pub fn facts(&self) -> HostFacts {
        let landlock_abi = match self.landlock.abi {
            LandlockAbi::Has(abi) if self.landlock.restrict.works() => abi,
            _ => 0,
        };
        HostFacts {
            kernel: self.kernel,
            user_namespaces: self.namespaces.user.works() && self.namespaces.id_map.works(),
            proc_mountable: self.namespaces.proc_mount.works(),
            time_namespaces: self.namespaces.time.works(),
            cgroup2: self.cgroup.works(),
            controllers: self.cgroup.controllers(),
            seccomp: self.seccomp.load.works(),
            landlock_abi,
            overlay: self.overlay.works(),
            idmapped_mounts: self.idmap.iter().any(|c| c.place == IdmapPlace::Image && c.idmap.works()),
            memfd_noexec: self.memfd.refused.works(),
        }
    }

    /// A host that has everything that this version knows of, under systemd.
    pub fn complete() -> Self {
        let facts = HostFacts::complete();
        let enabled = || ControllerState::Enabled;
        let idmap =
            |place, filesystem: &str| IdmapCheck { place, filesystem: filesystem.into(), idmap: Attempt::Works };
        let runtime = |name: &str, program: &str| RuntimeCheck {
            name: name.into(),
            program: program.into(),
            found: Attempt::Works,
        };
        Self {
            kernel: facts.kernel,
            release: format!("{}.0", facts.kernel),
            systemd: true,
            capabilities_missing: Vec::new(),
            namespaces: NamespaceChecks {
                user: Attempt::Works,
                id_map: Attempt::Works,
                proc_mount: Attempt::Works,
                time: Attempt::Works,
                user_max: Some(63_000),
                apparmor_restricts: None,
                unprivileged_clone: None,
            },
            cgroup: CgroupChecks {
                mount: Some("/sys/fs/cgroup".into()),
                own: Some("/sandkeep.slice/sandkeep-engine.service".into()),
                delegated: true,
                subtree: Attempt::Works,
                born: Attempt::Works,
                killed: Attempt::Works,
                frozen: Attempt::Works,
                swap_limit: Some(true),
                memory: enabled(),
                pids: enabled(),
                cpu: enabled(),
            },
            seccomp: SeccompChecks { load: Attempt::Works, missing: Vec::new() },
            landlock: LandlockChecks {
                abi: LandlockAbi::Has(facts.landlock_abi),
                restrict: Attempt::Works,
                modules: Some("capability,landlock,yama,apparmor".into()),
            },
            overlay: Attempt::Works,
            idmap: vec![
                idmap(IdmapPlace::Image, "ext4 in a file"),
                idmap(IdmapPlace::Usr, "ext4"),
                idmap(IdmapPlace::Tmpfs, "tmpfs"),
            ],
            memfd: MemfdChecks { host: Some(0), refused: Attempt::Works },
            core: CoreChecks { pattern: "core".into(), limit: Attempt::Works },
            leases: LeaseChecks { first: 0x7000_0000, count: 65_536, state: LeaseState::Held },
            memory: MemoryChecks {
                total_bytes: 8 << 30,
                available_bytes: 6 << 30,
                swap_bytes: 0,
                wanted_bytes: 6 << 30,
            },
            room: RoomChecks {
                descriptors: 524_288,
                pid_max: 4_194_304,
                threads_max: 63_000,
                sandboxes: 1024,
                processes: 16_384,
            },
            docker: DockerChecks { socket: None, ping: Attempt::NotTried },
            runtimes: vec![runtime("bash", "/usr/bin/bash"), runtime("python", "/usr/bin/python3")],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_complete_host_has_all_facts() {
        assert_eq!(HostChecks::complete().facts(), HostFacts::complete());
    }

    #[test]
    fn controllers_of_a_subtree_that_does_not_work_are_none() {
        let mut checks = HostChecks::complete();
        checks.cgroup.born = Attempt::Failed { errno: 1 };
        assert_eq!(checks.facts().controllers, Controllers::default());
        assert!(!checks.facts().cgroup2);
    }

    #[test]
    fn an_errno_is_told_by_name_and_meaning() {
        assert_eq!(Attempt::Failed { errno: 1 }.to_string(), "EPERM: Operation not permitted");
    }
}
