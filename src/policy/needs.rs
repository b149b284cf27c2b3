//! What each level needs of a host: the one place that says so, for plans and for `doctor`.

use crate::spec::{HostFacts, Level};

/// The oldest Landlock that holds the file rules (renames and links across directories came with it).
pub(super) const LANDLOCK_FLOOR: u32 = 2;

/// Something that a level is built from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Requirement {
    Docker,
    Seccomp,
    Cgroup2,
    MemoryController,
    PidsController,
    CpuController,
    UserNamespaces,
    ProcMount,
    Overlay,
    Landlock,
    TimeNamespaces,
}

/// A requirement of a level that a host does not meet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lack {
    pub requirement: Requirement,
    /// Something weaker stands in where the operator allows it.
    pub substituted: bool,
    /// What is missing and, after a semicolon where substituted, what that means.
    pub sentence: String,
}

impl Lack {
    /// What is missing alone: whoever is refused does not get what would stand in.
    fn missing(self) -> String {
        match self.sentence.split_once("; ") {
            Some((missing, _)) if self.substituted => missing.to_owned(),
            _ => self.sentence,
        }
    }
}

/// What `level` lacks on a host with `facts`.
pub fn lacks(level: Level, facts: &HostFacts) -> Vec<Lack> {
    let mut lacks = Vec::new();
    let mut lack = |requirement, substituted, sentence: &str| {
        lacks.push(Lack { requirement, substituted, sentence: sentence.to_owned() });
    };
    if level == Level::Maximum {
        let sentence = "a Docker broker (sandkeep-docker): this build has none, level maximum can not be given";
        lack(Requirement::Docker, false, sentence);
        return lacks;
    }
    if !facts.seccomp {
        lack(Requirement::Seccomp, false, "seccomp filters (CONFIG_SECCOMP_FILTER)");
    }
    if !facts.cgroup2 {
        let sentence = "cgroup2: none that works was found; a sandbox is ended by killing its pid 1";
        lack(Requirement::Cgroup2, true, sentence);
    }
    if !facts.controllers.memory {
        lack(
            Requirement::MemoryController,
            true,
            "cgroup v2 controller memory: not available; each process is held by RLIMIT_DATA, their sum and pages of \
             shared memory and memfds are not limited, out_of_memory is not \
             reported and memory_peak_bytes is one process's",
        );
    }
    if !facts.controllers.pids {
        lack(
            Requirement::PidsController,
            true,
            "cgroup v2 controller pids: not available; RLIMIT_NPROC on the sandbox's own uid limits processes, refused \
             forks are not counted",
        );
    }
    if !facts.controllers.cpu {
        lack(
            Requirement::CpuController,
            true,
            "cgroup v2 controller cpu: not available; the share of cpu is not limited, only the total of cpu time is",
        );
    }
    if level == Level::Minimal {
        return lacks;
    }
    if !facts.user_namespaces {
        let sentence = "user namespaces (user.max_user_namespaces, an AppArmor restriction or the kernel forbids them)";
        lack(Requirement::UserNamespaces, false, sentence);
    } else if !facts.proc_mountable {
        lack(
            Requirement::ProcMount,
            false,
            "a mountable /proc in a user namespace (the host's own /proc is masked, as inside a container)",
        );
    }
    if !facts.overlay {
        lack(Requirement::Overlay, false, "overlayfs");
    }
    if facts.landlock_abi < LANDLOCK_FLOOR {
        let sentence = format!(
            "Landlock ABI {LANDLOCK_FLOOR}: the kernel has {}; file access is held by the private root alone",
            facts.landlock_abi
        );
        lack(Requirement::Landlock, true, &sentence);
    }
    if !facts.time_namespaces {
        let sentence = "time namespaces: not available; the host's uptime can be read";
        lack(Requirement::TimeNamespaces, true, sentence);
    }
    lacks
}

/// What is missing for `level`, or, where it can be given, what is substituted: one sentence each, what has no
/// substitute first.
pub fn availability(level: Level, facts: &HostFacts, allow_degraded: bool) -> Result<Vec<String>, Vec<String>> {
    let (substituted, fatal): (Vec<_>, Vec<_>) = lacks(level, facts).into_iter().partition(|lack| lack.substituted);
    let refused = !fatal.is_empty() || (!allow_degraded && !substituted.is_empty());
    let all = fatal.into_iter().chain(substituted);
    if refused { Err(all.map(Lack::missing).collect()) } else { Ok(all.map(|lack| lack.sentence).collect()) }
}
