//! From what is asked, what the operator allows and what the host has, to what will be built: or a refusal that names
//! what is missing. Pure.

use std::fmt;

use super::needs::LANDLOCK_FLOOR;
pub use super::needs::availability;
use super::table::{LevelTable, LimitRefusal, MIB, Scratch, resolve_limits, table};
use crate::config::Ceilings;
use crate::spec::{HostFacts, Level, LimitRequest, Limits};

/// What is asked for.
#[derive(Debug, Clone, PartialEq)]
pub struct Ask {
    pub level: Level,
    pub limits: LimitRequest,
}

/// What the operator decided, once for all calls.
#[derive(Debug, Clone, PartialEq)]
pub struct Rules {
    pub ceilings: Ceilings,
    pub allow_degraded: bool,
    /// Seen inside at the same path, read-only, programs may run from there.
    pub runtime_directories: Vec<String>,
    /// Uid and gid inside (the number of `sandkeep-box`).
    pub box_id: u32,
    /// Top-level entries of the host's root.
    pub top_level: Vec<TopLevel>,
}

/// An entry of the host's `/`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TopLevel {
    Directory {
        name: String,
    },
    /// Such as `bin -> usr/bin`.
    Link {
        name: String,
        target: String,
    },
}

/// Everything that `launch` needs to know; it decides nothing.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    pub level: Level,
    pub limits: Limits,
    pub namespaces: Vec<Namespace>,
    /// In the order in which they are attached: a mount comes after the one that it lies in.
    pub mounts: Vec<Mount>,
    /// Symbolic links in the root.
    pub links: Vec<(String, String)>,
    /// Files of /proc over which an empty device is laid, and directories over which an empty directory is.
    pub masked: &'static [&'static str],
    /// Files below /proc/sys written before the door closes, value and file.
    pub sysctls: Vec<(&'static str, String)>,
    pub landlock: Option<LandlockPlan>,
    pub seccomp: SeccompPlan,
    pub memfd_noexec: bool,
    /// Limits that each process carries itself, for what no cgroup counts.
    pub rlimits: Rlimits,
    /// Inner uid and gid.
    pub box_id: u32,
    pub hostname: &'static str,
    /// What is weaker than the level promises, one sentence each.
    pub degraded: Vec<String>,
}

impl Plan {
    /// Whether a sandbox that was built for this plan can be `call`'s: all but the limits must be the same, since only these
    /// can be set later; what each process carries itself, only before a command `is_up`.
    pub fn can_become(&self, call: &Plan, is_up: bool) -> bool {
        let Plan { level, limits: _, namespaces, mounts, links, masked, sysctls, landlock, seccomp, .. } = self;
        let Plan { memfd_noexec, rlimits, box_id, hostname, degraded, .. } = self;
        *level == call.level
            && *namespaces == call.namespaces
            && *mounts == call.mounts
            && *links == call.links
            && *masked == call.masked
            && *sysctls == call.sysctls
            && *landlock == call.landlock
            && *seccomp == call.seccomp
            && *memfd_noexec == call.memfd_noexec
            && *box_id == call.box_id
            && *hostname == call.hostname
            && *degraded == call.degraded
            && (!is_up || *rlimits == call.rlimits)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Namespace {
    User,
    Pid,
    Mount,
    Net,
    Ipc,
    Uts,
    Cgroup,
    Time,
}

impl Namespace {
    /// The word of the public contract.
    pub fn name(self) -> &'static str {
        match self {
            Namespace::User => "user",
            Namespace::Pid => "pid",
            Namespace::Mount => "mount",
            Namespace::Net => "net",
            Namespace::Ipc => "ipc",
            Namespace::Uts => "uts",
            Namespace::Cgroup => "cgroup",
            Namespace::Time => "time",
        }
    }

    /// Its link below /proc/self/ns. Of time, the one that children enter: pid 1 itself stays outside.
    pub fn proc_name(self) -> &'static str {
        match self {
            Namespace::Mount => "mnt",
            Namespace::Time => "time_for_children",
            other => other.name(),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Absolute, inside.
    pub target: String,
    pub kind: MountKind,
    pub read_only: bool,
    pub no_exec: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MountKind {
    /// The root itself: a small tmpfs that is filled with mount points and links, then made read-only.
    Root,
    /// A read-only overlay of its own over a host directory, so that inodes are not shared between tenants.
    Overlay {
        source: String,
    },
    /// As `Overlay`, over the engine's own selection of /etc.
    Etc,
    /// A host directory with everything mounted below it (level minimal).
    Bind {
        source: String,
    },
    /// Null, zero, full, random, urandom, tty and the usual links.
    Dev,
    /// Of the sandbox's own pid namespace.
    Proc,
    Tmpfs {
        bytes: u64,
        inodes: u32,
        owned: bool,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LandlockPlan {
    /// The launch fails below it.
    pub floor_abi: u32,
    pub rules: Vec<PathRule>,
    pub truncate: bool,
    pub tcp: bool,
    pub scopes: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathRule {
    pub path: String,
    pub access: PathAccess,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PathAccess {
    Read,
    ReadExecute,
    /// Everything but execute.
    ReadWrite,
    ReadWriteExecute,
    /// Existing files may be written, none made.
    WriteFile,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SeccompPlan {
    pub level: Level,
    /// False where the kernel cannot make anonymous files non-executable: the call itself is refused then.
    pub memfd: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rlimits {
    pub file_size_bytes: u64,
    pub open_files: u64,
    /// Only where no memory controller counts. Never RLIMIT_AS: it kills Node and Java at their start.
    pub data_bytes: Option<u64>,
    /// Only where no pids controller counts. The leased uid is this sandbox's alone, so the count is exact.
    pub processes: Option<u64>,
    pub locked_bytes: u64,
    pub message_queue_bytes: u64,
    pub pending_signals: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// The host lacks it, and the operator does not allow less.
    Unavailable {
        missing: Vec<String>,
    },
    Limits(Vec<LimitRefusal>),
}

/// Parts of /proc that a fresh mount still shows of the host and that its permissions do not keep from everybody but
/// the host's root (kpage*, iomem and the like need no mask), or that have been ways out of containers before. Locks of
/// open file descriptions carry no pid, so /proc/locks shows them across pid namespaces: two sandboxes could talk there.
const MASKED: &[&str] = &[
    "/proc/acpi",
    "/proc/asound",
    "/proc/cmdline",
    "/proc/config.gz",
    "/proc/interrupts",
    "/proc/kallsyms",
    "/proc/kcore",
    "/proc/key-users",
    "/proc/keys",
    "/proc/kmsg",
    "/proc/latency_stats",
    "/proc/locks",
    "/proc/modules",
    "/proc/pressure",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/sysrq-trigger",
    "/proc/timer_list",
    "/proc/timer_stats",
];

/// No namespace can be made inside, whatever a hole in the filters lets through: the kernel answers ENOSPC.
const NAMESPACE_SYSCTLS: [&str; 8] = [
    "user/max_user_namespaces",
    "user/max_mnt_namespaces",
    "user/max_pid_namespaces",
    "user/max_net_namespaces",
    "user/max_ipc_namespaces",
    "user/max_uts_namespaces",
    "user/max_cgroup_namespaces",
    "user/max_time_namespaces",
];

/// What will be built for `ask`.
pub fn plan(ask: &Ask, rules: &Rules, facts: &HostFacts) -> Result<Plan, Refusal> {
    let degraded =
        availability(ask.level, facts, rules.allow_degraded).map_err(|missing| Refusal::Unavailable { missing })?;
    let limits = resolve_limits(ask.level, &ask.limits, &rules.ceilings).map_err(Refusal::Limits)?;
    let t = table(ask.level);
    let scratch = scale(t, limits.memory_bytes);
    let private = ask.level != Level::Minimal;
    let strict = ask.level == Level::Strict;
    let landlock_usable = facts.landlock_abi >= LANDLOCK_FLOOR;
    let mut sysctls = Vec::new();
    if private {
        sysctls.extend(NAMESPACE_SYSCTLS.map(|file| (file, "0".to_owned())));
        sysctls.push(("user/max_inotify_instances", "128".to_owned()));
        sysctls.push(("user/max_inotify_watches", "16384".to_owned()));
    }
    Ok(Plan {
        level: ask.level,
        limits,
        namespaces: namespaces(ask.level, facts),
        mounts: if private { private_mounts(t, rules, &scratch) } else { host_mounts(rules, &scratch) },
        links: rules
            .top_level
            .iter()
            .filter_map(|entry| match entry {
                TopLevel::Link { name, target } if !private || is_program_dir(name) => {
                    Some((format!("/{name}"), target.clone()))
                }
                _ => None,
            })
            .collect(),
        masked: MASKED,
        sysctls,
        landlock: landlock_usable.then(|| landlock(ask.level, rules, facts)),
        seccomp: SeccompPlan { level: ask.level, memfd: !strict || facts.memfd_noexec },
        memfd_noexec: strict && facts.memfd_noexec,
        rlimits: Rlimits {
            file_size_bytes: limits.file_size_bytes,
            open_files: limits.open_files.into(),
            data_bytes: (!facts.controllers.memory).then_some(limits.memory_bytes),
            processes: (!facts.controllers.pids).then_some(limits.pids.into()),
            locked_bytes: 8 * MIB,
            message_queue_bytes: 819_200,
            pending_signals: 1024,
        },
        box_id: rules.box_id,
        hostname: "sandkeep",
        degraded,
    })
}

fn namespaces(level: Level, facts: &HostFacts) -> Vec<Namespace> {
    use Namespace::{Cgroup, Ipc, Mount, Net, Pid, Time, User, Uts};
    if level == Level::Minimal {
        return vec![Pid, Mount, Ipc];
    }
    let mut all = vec![User, Pid, Mount, Net, Ipc, Uts];
    if facts.cgroup2 {
        all.push(Cgroup);
    }
    if facts.time_namespaces {
        all.push(Time);
    }
    all
}

struct ScratchSizes {
    tmp: Scratch,
    shm: Scratch,
    workspace: Scratch,
}

/// Sizes shrink with the memory limit, so that together they stay below half of it and ENOSPC comes before OOM. They
/// never grow: a caller who raises memory does not ask for disk.
fn scale(t: &LevelTable, memory_bytes: u64) -> ScratchSizes {
    let scale = |s: Scratch| {
        let bytes = (u128::from(s.bytes) * u128::from(memory_bytes) / u128::from(t.memory_bytes.default)) as u64;
        // Whole pages, and at least one.
        Scratch { bytes: (bytes.min(s.bytes) & !4095).max(4096), ..s }
    };
    ScratchSizes { tmp: scale(t.tmp), shm: scale(t.shm), workspace: scale(t.workspace) }
}

/// The directories that a merged /usr links to, and those that a host without one still has.
fn is_program_dir(name: &str) -> bool {
    matches!(name, "bin" | "sbin") || name.starts_with("lib")
}

fn private_mounts(t: &LevelTable, rules: &Rules, scratch: &ScratchSizes) -> Vec<Mount> {
    let strict = t.level == Level::Strict;
    let mount = |target: &str, kind, read_only, no_exec| Mount { target: target.into(), kind, read_only, no_exec };
    let overlay = |path: &str| mount(path, MountKind::Overlay { source: path.into() }, true, false);
    let mut mounts = vec![mount("/", MountKind::Root, true, true), overlay("/usr")];
    for entry in &rules.top_level {
        if let TopLevel::Directory { name } = entry
            && is_program_dir(name)
        {
            mounts.push(overlay(&format!("/{name}")));
        }
    }
    mounts.push(mount("/etc", MountKind::Etc, true, true));
    mounts.extend(rules.runtime_directories.iter().filter(|d| !d.starts_with("/usr/")).map(|d| overlay(d)));
    mounts.push(mount("/dev", MountKind::Dev, true, true));
    mounts.push(tmpfs("/dev/shm", scratch.shm, true));
    mounts.push(mount("/proc", MountKind::Proc, true, true));
    mounts.push(tmpfs("/tmp", scratch.tmp, strict));
    mounts.push(tmpfs("/workspace", scratch.workspace, strict));
    mounts
}

fn host_mounts(rules: &Rules, scratch: &ScratchSizes) -> Vec<Mount> {
    let mount = |target: &str, kind, read_only, no_exec| Mount { target: target.into(), kind, read_only, no_exec };
    let mut mounts = vec![mount("/", MountKind::Root, true, true)];
    for entry in &rules.top_level {
        if let TopLevel::Directory { name } = entry
            && !matches!(name.as_str(), "proc" | "tmp" | "run" | "workspace")
        {
            let path = format!("/{name}");
            mounts.push(mount(&path, MountKind::Bind { source: path.clone() }, false, false));
        }
    }
    mounts.push(mount("/proc", MountKind::Proc, true, true));
    mounts.push(tmpfs("/tmp", scratch.tmp, false));
    // The level's 256 MiB are /tmp's; the other two need only exist and vanish with the call.
    mounts.push(tmpfs("/var/tmp", Scratch { bytes: 16 * MIB, ..scratch.tmp }, false));
    mounts.push(tmpfs("/dev/shm", scratch.shm, false));
    mounts.push(mount("/run", MountKind::Tmpfs { bytes: 4096, inodes: 16, owned: false }, true, true));
    mounts.push(tmpfs("/workspace", scratch.workspace, false));
    mounts
}

fn tmpfs(target: &str, s: Scratch, no_exec: bool) -> Mount {
    let kind = MountKind::Tmpfs { bytes: s.bytes, inodes: s.inodes, owned: true };
    Mount { target: target.into(), kind, read_only: !s.writable, no_exec }
}

fn landlock(level: Level, rules: &Rules, facts: &HostFacts) -> LandlockPlan {
    use PathAccess::{Read, ReadExecute, ReadWrite, ReadWriteExecute, WriteFile};
    let rule = |path: &str, access| PathRule { path: path.into(), access };
    let mut list = match level {
        Level::Minimal => {
            let mut list: Vec<_> = ["/usr", "/opt", "/srv"].map(|p| rule(p, ReadExecute)).into();
            for entry in &rules.top_level {
                if let TopLevel::Directory { name } = entry
                    && is_program_dir(name)
                {
                    list.push(rule(&format!("/{name}"), ReadExecute));
                }
            }
            list.extend(["/etc", "/proc", "/sys", "/var/lib", "/var/cache"].map(|p| rule(p, Read)));
            // Not /dev as a whole: a device that everybody may open for reading (/dev/kvm on some hosts) takes ioctls.
            list.extend(
                ["/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty"]
                    .map(|p| rule(p, ReadWrite)),
            );
            list.extend(["/tmp", "/var/tmp", "/workspace"].map(|p| rule(p, ReadWriteExecute)));
            list.push(rule("/dev/shm", ReadWrite));
            list
        }
        Level::Strict | Level::Maximum => {
            let mut list = vec![rule("/", Read), rule("/usr", ReadExecute)];
            for entry in &rules.top_level {
                if let TopLevel::Directory { name } = entry
                    && is_program_dir(name)
                {
                    list.push(rule(&format!("/{name}"), ReadExecute));
                }
            }
            list.push(rule("/dev", WriteFile));
            list.extend(["/tmp", "/dev/shm"].map(|p| rule(p, ReadWrite)));
            list
        }
        Level::Standard => {
            let mut list = vec![rule("/", ReadExecute), rule("/dev", WriteFile)];
            list.extend(["/tmp", "/workspace"].map(|p| rule(p, ReadWriteExecute)));
            list.push(rule("/dev/shm", ReadWrite));
            list
        }
    };
    list.extend(rules.runtime_directories.iter().map(|d| rule(d, ReadExecute)));
    let private = level != Level::Minimal;
    LandlockPlan {
        floor_abi: LANDLOCK_FLOOR,
        rules: list,
        truncate: facts.landlock_abi >= 3,
        tcp: private && facts.landlock_abi >= 4,
        scopes: private && facts.landlock_abi >= 6,
    }
}

impl fmt::Display for MountKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MountKind::Root => f.write_str("own tmpfs"),
            MountKind::Overlay { source } => write!(f, "own overlay over the host's {source}"),
            MountKind::Etc => f.write_str("own overlay over chosen files of /etc"),
            MountKind::Bind { source } => write!(f, "the host's {source}"),
            MountKind::Dev => f.write_str("own devices: null zero full random urandom tty"),
            MountKind::Proc => f.write_str("proc of the sandbox's own pid namespace"),
            MountKind::Tmpfs { bytes, inodes, owned } => {
                let owner = if *owned { "the sandbox's" } else { "root's" };
                write!(f, "tmpfs {} KiB, {inodes} inodes, {owner}", bytes / 1024)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::spec::Controllers;

    fn rules(allow_degraded: bool) -> Rules {
        Rules { allow_degraded, ..super::super::explain::rules() }
    }

    fn ask(level: Level) -> Ask {
        Ask { level, limits: LimitRequest::default() }
    }

    #[test]
    fn a_missing_controller_refuses_by_default_and_is_named() {
        let facts = HostFacts { controllers: Controllers::default(), ..HostFacts::complete() };
        let Err(Refusal::Unavailable { missing }) = plan(&ask(Level::Standard), &rules(false), &facts) else {
            panic!("not refused")
        };
        for name in ["memory", "pids", "cpu"] {
            assert!(missing.iter().any(|m| m.contains(&format!("controller {name}"))), "{missing:?}");
        }
        let plan = plan(&ask(Level::Standard), &rules(true), &facts).unwrap();
        assert_eq!(plan.degraded.len(), 3);
        assert_eq!(plan.rlimits.data_bytes, Some(plan.limits.memory_bytes));
        assert_eq!(plan.rlimits.processes, Some(128));
    }

    #[test]
    fn what_has_no_substitute_is_refused_even_when_degrading_is_allowed() {
        for facts in [
            HostFacts { user_namespaces: false, ..HostFacts::complete() },
            HostFacts { proc_mountable: false, ..HostFacts::complete() },
            HostFacts { seccomp: false, ..HostFacts::complete() },
            HostFacts { overlay: false, ..HostFacts::complete() },
        ] {
            assert!(matches!(plan(&ask(Level::Strict), &rules(true), &facts), Err(Refusal::Unavailable { .. })));
        }
        let all = HostFacts::complete();
        assert!(matches!(plan(&ask(Level::Maximum), &rules(true), &all), Err(Refusal::Unavailable { .. })));
    }

    #[test]
    fn a_complete_host_degrades_nothing() {
        for level in Level::PROCESS {
            let plan = plan(&ask(level), &rules(false), &HostFacts::complete()).unwrap();
            assert!(plan.degraded.is_empty() && plan.rlimits.data_bytes.is_none(), "{level}");
        }
    }

    #[test]
    fn strict_runs_nothing_from_where_it_can_write() {
        let plan = plan(&ask(Level::Strict), &rules(false), &HostFacts::complete()).unwrap();
        for mount in &plan.mounts {
            assert!(mount.read_only || mount.no_exec, "{}", mount.target);
        }
        let landlock = plan.landlock.unwrap();
        for rule in landlock.rules {
            assert_ne!(rule.access, PathAccess::ReadWriteExecute, "{}", rule.path);
        }
        assert!(plan.memfd_noexec);
    }

    #[test]
    fn a_kernel_without_memfd_noexec_refuses_the_call_instead() {
        let facts = HostFacts { memfd_noexec: false, ..HostFacts::complete() };
        let plan = plan(&ask(Level::Strict), &rules(false), &facts).unwrap();
        assert!(!plan.memfd_noexec && !plan.seccomp.memfd);
    }

    #[test]
    fn scratch_shrinks_with_memory_and_never_grows() {
        let sum = |mb: u64| {
            let limits = LimitRequest { memory_bytes: Some(mb * MIB), ..LimitRequest::default() };
            let plan = plan(&Ask { level: Level::Standard, limits }, &rules(false), &HostFacts::complete()).unwrap();
            plan.mounts.iter().map(|m| if let MountKind::Tmpfs { bytes, .. } = m.kind { bytes } else { 0 }).sum::<u64>()
        };
        assert!(sum(64) <= 32 * MIB);
        assert_eq!(sum(512), sum(2048));
        assert!(Config::default().ceilings.memory_bytes >= 2048 * MIB);
    }

    #[test]
    fn a_mount_comes_after_the_one_it_lies_in() {
        for level in Level::PROCESS {
            let plan = plan(&ask(level), &rules(false), &HostFacts::complete()).unwrap();
            for (i, outer) in plan.mounts.iter().enumerate() {
                let inside = |m: &Mount| m.target.starts_with(&format!("{}/", outer.target.trim_end_matches('/')));
                assert!(!plan.mounts[..i].iter().any(inside), "{level}: {}", outer.target);
            }
        }
    }
}
