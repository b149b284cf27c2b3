//! What the engine found of its host, on the wire: the shapes of `spec::HostChecks`.

use serde::{Deserialize, Serialize};

use crate::spec::{
    Attempt, CgroupChecks, ControllerState, CoreChecks, DockerChecks, HostChecks, IdmapCheck, IdmapPlace,
    KernelVersion, LandlockAbi, LandlockChecks, LeaseChecks, LeaseState, MemfdChecks, MemoryChecks, NamespaceChecks,
    RoomChecks, RuntimeCheck, SeccompAction, SeccompChecks,
};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum AttemptWire {
    Works,
    Failed { errno: i32 },
    Killed { signal: i32 },
    NotTried,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ControllerWire {
    Enabled,
    NoSubtree,
    V1 { mount: Option<String> },
    SwitchedOff,
    NotBuilt,
    NotOffered { directory: String },
    Refused { directory: String, errno: i32 },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CgroupWire {
    pub mount: Option<String>,
    pub own: Option<String>,
    pub delegated: bool,
    pub subtree: AttemptWire,
    pub born: AttemptWire,
    pub killed: AttemptWire,
    pub frozen: AttemptWire,
    pub swap_limit: Option<bool>,
    pub memory: ControllerWire,
    pub pids: ControllerWire,
    pub cpu: ControllerWire,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamespacesWire {
    pub user: AttemptWire,
    pub id_map: AttemptWire,
    pub proc_mount: AttemptWire,
    pub time: AttemptWire,
    pub user_max: Option<u64>,
    pub apparmor_restricts: Option<bool>,
    pub unprivileged_clone: Option<bool>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum SeccompActionWire {
    KillProcess,
    Errno,
    UserNotify,
    Log,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum LandlockAbiWire {
    Has(u32),
    NotBuilt,
    SwitchedOff,
    Refused { errno: i32 },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum IdmapPlaceWire {
    Image,
    Usr,
    Tmpfs,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdmapWire {
    pub place: IdmapPlaceWire,
    pub filesystem: String,
    pub idmap: AttemptWire,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum LeaseStateWire {
    Held,
    Free,
    Taken,
    AllTaken,
    Overlaps { with: String },
    Failed { errno: i32 },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoomWire {
    pub descriptors: u64,
    pub pid_max: u64,
    pub threads_max: u64,
    pub sandboxes: u32,
    pub processes: u32,
    pub memory_total_bytes: u64,
    pub memory_available_bytes: u64,
    pub memory_wanted_bytes: u64,
    pub swap_bytes: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuntimeCheckWire {
    pub name: String,
    pub program: String,
    pub found: AttemptWire,
}

/// Every text in it is capped by the engine, so that all of it fits into a packet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChecksWire {
    pub kernel_major: u32,
    pub kernel_minor: u32,
    pub release: String,
    pub systemd: bool,
    pub capabilities_missing: Vec<String>,
    pub namespaces: NamespacesWire,
    pub cgroup: CgroupWire,
    pub seccomp: AttemptWire,
    pub seccomp_missing: Vec<SeccompActionWire>,
    pub landlock: LandlockAbiWire,
    pub landlock_restrict: AttemptWire,
    pub security_modules: Option<String>,
    pub overlay: AttemptWire,
    pub idmap: Vec<IdmapWire>,
    pub memfd_noexec: Option<u32>,
    pub memfd_refused: AttemptWire,
    pub core_pattern: String,
    pub core_limit: AttemptWire,
    pub lease_first: u32,
    pub lease_count: u32,
    pub lease_state: LeaseStateWire,
    pub room: RoomWire,
    pub docker_socket: Option<String>,
    pub docker_ping: AttemptWire,
    pub runtimes: Vec<RuntimeCheckWire>,
}

/// Both directions between an enum here and the one of `spec` with the same variants.
macro_rules! same {
    ($wire:ident, $spec:ident: $($variant:ident $(($inner:ident))? $({ $($field:ident),+ })?),+ $(,)?) => {
        impl From<$spec> for $wire {
            fn from(value: $spec) -> Self {
                match value { $($spec::$variant $(($inner))? $({ $($field),+ })? => Self::$variant $(($inner))? $({ $($field),+ })?),+ }
            }
        }
        impl From<$wire> for $spec {
            fn from(value: $wire) -> Self {
                match value { $($wire::$variant $(($inner))? $({ $($field),+ })? => Self::$variant $(($inner))? $({ $($field),+ })?),+ }
            }
        }
    };
}

same!(AttemptWire, Attempt: Works, Failed { errno }, Killed { signal }, NotTried);
same!(
    ControllerWire,
    ControllerState: Enabled,
    NoSubtree,
    V1 { mount },
    SwitchedOff,
    NotBuilt,
    NotOffered { directory },
    Refused { directory, errno },
);
same!(SeccompActionWire, SeccompAction: KillProcess, Errno, UserNotify, Log);
same!(LandlockAbiWire, LandlockAbi: Has(abi), NotBuilt, SwitchedOff, Refused { errno });
same!(IdmapPlaceWire, IdmapPlace: Image, Usr, Tmpfs);
same!(LeaseStateWire, LeaseState: Held, Free, Taken, AllTaken, Overlaps { with }, Failed { errno });

impl From<HostChecks> for ChecksWire {
    fn from(c: HostChecks) -> Self {
        let (n, g) = (c.namespaces, c.cgroup);
        let idmap =
            |i: IdmapCheck| IdmapWire { place: i.place.into(), filesystem: i.filesystem, idmap: i.idmap.into() };
        let runtime = |r: RuntimeCheck| RuntimeCheckWire { name: r.name, program: r.program, found: r.found.into() };
        Self {
            kernel_major: c.kernel.major,
            kernel_minor: c.kernel.minor,
            release: c.release,
            systemd: c.systemd,
            capabilities_missing: c.capabilities_missing,
            namespaces: NamespacesWire {
                user: n.user.into(),
                id_map: n.id_map.into(),
                proc_mount: n.proc_mount.into(),
                time: n.time.into(),
                user_max: n.user_max,
                apparmor_restricts: n.apparmor_restricts,
                unprivileged_clone: n.unprivileged_clone,
            },
            cgroup: CgroupWire {
                mount: g.mount,
                own: g.own,
                delegated: g.delegated,
                subtree: g.subtree.into(),
                born: g.born.into(),
                killed: g.killed.into(),
                frozen: g.frozen.into(),
                swap_limit: g.swap_limit,
                memory: g.memory.into(),
                pids: g.pids.into(),
                cpu: g.cpu.into(),
            },
            seccomp: c.seccomp.load.into(),
            seccomp_missing: c.seccomp.missing.into_iter().map(Into::into).collect(),
            landlock: c.landlock.abi.into(),
            landlock_restrict: c.landlock.restrict.into(),
            security_modules: c.landlock.modules,
            overlay: c.overlay.into(),
            idmap: c.idmap.into_iter().map(idmap).collect(),
            memfd_noexec: c.memfd.host,
            memfd_refused: c.memfd.refused.into(),
            core_pattern: c.core.pattern,
            core_limit: c.core.limit.into(),
            lease_first: c.leases.first,
            lease_count: c.leases.count,
            lease_state: c.leases.state.into(),
            room: RoomWire {
                descriptors: c.room.descriptors,
                pid_max: c.room.pid_max,
                threads_max: c.room.threads_max,
                sandboxes: c.room.sandboxes,
                processes: c.room.processes,
                memory_total_bytes: c.memory.total_bytes,
                memory_available_bytes: c.memory.available_bytes,
                memory_wanted_bytes: c.memory.wanted_bytes,
                swap_bytes: c.memory.swap_bytes,
            },
            docker_socket: c.docker.socket,
            docker_ping: c.docker.ping.into(),
            runtimes: c.runtimes.into_iter().map(runtime).collect(),
        }
    }
}

impl From<ChecksWire> for HostChecks {
    fn from(c: ChecksWire) -> Self {
        let (n, g, r) = (c.namespaces, c.cgroup, c.room);
        let idmap =
            |i: IdmapWire| IdmapCheck { place: i.place.into(), filesystem: i.filesystem, idmap: i.idmap.into() };
        let runtime = |r: RuntimeCheckWire| RuntimeCheck { name: r.name, program: r.program, found: r.found.into() };
        Self {
            kernel: KernelVersion { major: c.kernel_major, minor: c.kernel_minor },
            release: c.release,
            systemd: c.systemd,
            capabilities_missing: c.capabilities_missing,
            namespaces: NamespaceChecks {
                user: n.user.into(),
                id_map: n.id_map.into(),
                proc_mount: n.proc_mount.into(),
                time: n.time.into(),
                user_max: n.user_max,
                apparmor_restricts: n.apparmor_restricts,
                unprivileged_clone: n.unprivileged_clone,
            },
            cgroup: CgroupChecks {
                mount: g.mount,
                own: g.own,
                delegated: g.delegated,
                subtree: g.subtree.into(),
                born: g.born.into(),
                killed: g.killed.into(),
                frozen: g.frozen.into(),
                swap_limit: g.swap_limit,
                memory: g.memory.into(),
                pids: g.pids.into(),
                cpu: g.cpu.into(),
            },
            seccomp: SeccompChecks {
                load: c.seccomp.into(),
                missing: c.seccomp_missing.into_iter().map(Into::into).collect(),
            },
            landlock: LandlockChecks {
                abi: c.landlock.into(),
                restrict: c.landlock_restrict.into(),
                modules: c.security_modules,
            },
            overlay: c.overlay.into(),
            idmap: c.idmap.into_iter().map(idmap).collect(),
            memfd: MemfdChecks { host: c.memfd_noexec, refused: c.memfd_refused.into() },
            core: CoreChecks { pattern: c.core_pattern, limit: c.core_limit.into() },
            leases: LeaseChecks { first: c.lease_first, count: c.lease_count, state: c.lease_state.into() },
            memory: MemoryChecks {
                total_bytes: r.memory_total_bytes,
                available_bytes: r.memory_available_bytes,
                swap_bytes: r.swap_bytes,
                wanted_bytes: r.memory_wanted_bytes,
            },
            room: RoomChecks {
                descriptors: r.descriptors,
                pid_max: r.pid_max,
                threads_max: r.threads_max,
                sandboxes: r.sandboxes,
                processes: r.processes,
            },
            docker: DockerChecks { socket: c.docker_socket, ping: c.docker_ping.into() },
            runtimes: c.runtimes.into_iter().map(runtime).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{decode, encode};
    use super::*;

    /// Every variant once, and no field as it is on a complete host.
    fn odd() -> HostChecks {
        let mut c = HostChecks::complete();
        c.release = "5.4-odd".into();
        c.kernel = KernelVersion { major: 5, minor: 4 };
        c.systemd = false;
        c.capabilities_missing = vec!["CAP_MKNOD".into()];
        c.namespaces = NamespaceChecks {
            user: Attempt::Failed { errno: 1 },
            id_map: Attempt::NotTried,
            proc_mount: Attempt::Killed { signal: 9 },
            time: Attempt::NotTried,
            user_max: None,
            apparmor_restricts: Some(true),
            unprivileged_clone: Some(false),
        };
        c.cgroup = CgroupChecks {
            memory: ControllerState::V1 { mount: Some("/m".into()) },
            pids: ControllerState::NotOffered { directory: "/d".into() },
            cpu: ControllerState::Refused { directory: "/d".into(), errno: 16 },
            ..CgroupChecks::none()
        };
        c.seccomp = SeccompChecks { load: Attempt::NotTried, missing: SeccompAction::ALL.into() };
        c.landlock =
            LandlockChecks { abi: LandlockAbi::Refused { errno: 1 }, restrict: Attempt::NotTried, modules: None };
        c.overlay = Attempt::NotTried;
        c.idmap.reverse();
        c.memfd = MemfdChecks { host: None, refused: Attempt::NotTried };
        c.core = CoreChecks { pattern: "|x".into(), limit: Attempt::NotTried };
        c.leases = LeaseChecks { first: 7, count: 9, state: LeaseState::Overlaps { with: "x".into() } };
        c.memory = MemoryChecks { total_bytes: 1, available_bytes: 2, swap_bytes: 3, wanted_bytes: 4 };
        c.room = RoomChecks { descriptors: 1, pid_max: 2, threads_max: 3, sandboxes: 4, processes: 5 };
        c.docker = DockerChecks { socket: Some("/s".into()), ping: Attempt::Works };
        c.runtimes.truncate(1);
        c
    }

    #[test]
    fn checks_survive_the_wire() {
        for checks in [HostChecks::complete(), odd()] {
            let bytes = encode(&ChecksWire::from(checks.clone())).unwrap();
            assert_eq!(HostChecks::from(decode::<ChecksWire>(&bytes).unwrap()), checks);
            assert!(bytes.len() < 4096, "{}", bytes.len());
        }
        for state in [LeaseState::Held, LeaseState::Free, LeaseState::Taken, LeaseState::Failed { errno: 2 }] {
            assert_eq!(LeaseState::from(LeaseStateWire::from(state.clone())), state);
        }
    }
}
