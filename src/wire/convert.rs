//! Between the wire's shapes and `spec`.

use super::message::*;
use crate::spec::{
    CgroupReport, Clock, Command, CommandError, Controllers, DENIALS_MAX, Denial, End, Enforced, HostFacts,
    KernelVersion, KilledBy, LandlockReport, LandlockStatus, Layer, Level, LimitHit, LimitKind, LimitRequest, Limits,
    NetworkReport, Outcome, SeccompReport, Usage, capped,
};

/// A message that decoded but holds what no correct sender sends.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConvertError {
    #[error("command: {0}")]
    Command(#[from] CommandError),
    #[error("{got} descriptors beside Exec, expected between {least} and {most}")]
    Descriptors { got: usize, least: usize, most: usize },
}

impl From<Level> for LevelWire {
    fn from(level: Level) -> Self {
        match level {
            Level::Minimal => LevelWire::Minimal,
            Level::Standard => LevelWire::Standard,
            Level::Strict => LevelWire::Strict,
            Level::Maximum => LevelWire::Maximum,
        }
    }
}

impl From<LevelWire> for Level {
    fn from(level: LevelWire) -> Self {
        match level {
            LevelWire::Minimal => Level::Minimal,
            LevelWire::Standard => Level::Standard,
            LevelWire::Strict => Level::Strict,
            LevelWire::Maximum => Level::Maximum,
        }
    }
}

impl From<LimitRequest> for LimitsWire {
    fn from(l: LimitRequest) -> Self {
        let LimitRequest {
            memory_bytes,
            cpu_centipercent,
            cpu_time_ms,
            wall_ms,
            file_size_bytes,
            network_requests,
            pids,
            output_bytes,
        } = l;
        Self {
            memory_bytes,
            cpu_centipercent,
            cpu_time_ms,
            wall_ms,
            file_size_bytes,
            network_requests,
            pids,
            output_bytes,
        }
    }
}

impl From<LimitsWire> for LimitRequest {
    fn from(l: LimitsWire) -> Self {
        let LimitsWire {
            memory_bytes,
            cpu_centipercent,
            cpu_time_ms,
            wall_ms,
            file_size_bytes,
            network_requests,
            pids,
            output_bytes,
        } = l;
        Self {
            memory_bytes,
            cpu_centipercent,
            cpu_time_ms,
            wall_ms,
            file_size_bytes,
            network_requests,
            pids,
            output_bytes,
        }
    }
}

impl From<Limits> for GrantedWire {
    fn from(l: Limits) -> Self {
        Self {
            memory_bytes: l.memory_bytes,
            cpu_centipercent: l.cpu_centipercent,
            cpu_time_ms: l.cpu_time_ms,
            wall_ms: l.wall_ms,
            file_size_bytes: l.file_size_bytes,
            network_requests: l.network_requests,
            pids: l.pids,
            open_files: l.open_files,
            output_bytes: l.output_bytes,
        }
    }
}

impl From<GrantedWire> for Limits {
    fn from(l: GrantedWire) -> Self {
        Self {
            memory_bytes: l.memory_bytes,
            cpu_centipercent: l.cpu_centipercent,
            cpu_time_ms: l.cpu_time_ms,
            wall_ms: l.wall_ms,
            file_size_bytes: l.file_size_bytes,
            network_requests: l.network_requests,
            pids: l.pids,
            open_files: l.open_files,
            output_bytes: l.output_bytes,
        }
    }
}

impl Exec {
    /// The command, checked against the number of descriptors that came beside it.
    pub fn command(&self, fds: usize, lifetime: LifetimeWire) -> Result<Command, ConvertError> {
        let own = match lifetime {
            LifetimeWire::Call => 3,
            LifetimeWire::Detached => 3 + OUTPUTS,
        };
        let most = own + crate::spec::EXTRA_FDS_MAX;
        if fds < own || fds > most {
            return Err(ConvertError::Descriptors { got: fds, least: own, most });
        }
        Ok(Command::new(self.argv.clone(), self.env.clone(), self.cwd.clone(), fds - own)?)
    }
}

impl From<LandlockReport> for LandlockWire {
    fn from(l: LandlockReport) -> Self {
        let status = match l.status {
            LandlockStatus::Full => LandlockStatusWire::Full,
            LandlockStatus::Partial => LandlockStatusWire::Partial,
            LandlockStatus::None => LandlockStatusWire::None,
        };
        Self { abi: l.abi, status, added: l.added }
    }
}

impl From<LandlockWire> for LandlockReport {
    fn from(l: LandlockWire) -> Self {
        let status = match l.status {
            LandlockStatusWire::Full => LandlockStatus::Full,
            LandlockStatusWire::Partial => LandlockStatus::Partial,
            LandlockStatusWire::None => LandlockStatus::None,
        };
        Self { abi: l.abi, status, added: l.added }
    }
}

/// Without `landlock`, which `Reply::Started` carries.
impl From<Enforced> for EnforcedWire {
    fn from(e: Enforced) -> Self {
        Self {
            uid: e.uid,
            gid: e.gid,
            namespaces: e.namespaces,
            private_root: e.private_root,
            host_network: e.network == NetworkReport::Host,
            effective_capabilities: e.effective_capabilities,
            bounding_capabilities: e.bounding_capabilities,
            no_new_privs: e.no_new_privs,
            seccomp_profile: e.seccomp.profile,
            seccomp_sha256: e.seccomp.sha256,
            denials_recorded: e.seccomp.denials_recorded,
            cgroup_version: e.cgroup.version,
            cgroup_controllers: e.cgroup.controllers,
            memory_max_bytes: e.cgroup.memory_max_bytes,
            swap_max_bytes: e.cgroup.swap_max_bytes,
            oom_group: e.cgroup.oom_group,
            pids_max: e.cgroup.pids_max,
            cpu_max: e.cgroup.cpu_max,
            volumes: e.volumes.into_iter().map(Into::into).collect(),
        }
    }
}

impl From<EnforcedWire> for Enforced {
    fn from(e: EnforcedWire) -> Self {
        Self {
            uid: e.uid,
            gid: e.gid,
            namespaces: e.namespaces,
            private_root: e.private_root,
            network: if e.host_network { NetworkReport::Host } else { NetworkReport::None },
            effective_capabilities: e.effective_capabilities,
            bounding_capabilities: e.bounding_capabilities,
            no_new_privs: e.no_new_privs,
            seccomp: SeccompReport {
                profile: e.seccomp_profile,
                sha256: e.seccomp_sha256,
                denials_recorded: e.denials_recorded,
            },
            landlock: None,
            cgroup: CgroupReport {
                version: e.cgroup_version,
                controllers: e.cgroup_controllers,
                memory_max_bytes: e.memory_max_bytes,
                swap_max_bytes: e.swap_max_bytes,
                oom_group: e.oom_group,
                pids_max: e.pids_max,
                cpu_max: e.cpu_max,
            },
            volumes: e.volumes.into_iter().map(Into::into).collect(),
        }
    }
}

impl From<Usage> for UsageWire {
    fn from(u: Usage) -> Self {
        Self {
            wall_us: u.wall_us,
            cpu_us: u.cpu_us,
            memory_peak_bytes: u.memory_peak_bytes,
            network_requests: u.network_requests,
        }
    }
}

impl From<UsageWire> for Usage {
    fn from(u: UsageWire) -> Self {
        Self {
            wall_us: u.wall_us,
            cpu_us: u.cpu_us,
            memory_peak_bytes: u.memory_peak_bytes,
            network_requests: u.network_requests,
        }
    }
}

impl From<Outcome> for OutcomeWire {
    fn from(o: Outcome) -> Self {
        match o {
            Outcome::Exited { code } => OutcomeWire::Exited { code },
            Outcome::Signaled { signal } => OutcomeWire::Signaled { signal },
            Outcome::TimedOut { clock: Clock::Wall } => OutcomeWire::TimedOutWall,
            Outcome::TimedOut { clock: Clock::Cpu } => OutcomeWire::TimedOutCpu,
            Outcome::OutOfMemory => OutcomeWire::OutOfMemory,
            Outcome::PidsLimit => OutcomeWire::PidsLimit,
            Outcome::DiskLimit => OutcomeWire::DiskLimit,
            Outcome::OutputLimit => OutcomeWire::OutputLimit,
            Outcome::Killed { by: KilledBy::Caller } => OutcomeWire::KilledByCaller,
            Outcome::Killed { by: KilledBy::Disconnect } => OutcomeWire::KilledByDisconnect,
            Outcome::Killed { by: KilledBy::Shutdown } => OutcomeWire::KilledByShutdown,
            Outcome::Killed { by: KilledBy::FrontGone } => OutcomeWire::KilledByFrontGone,
            Outcome::Denied { rule } => OutcomeWire::Denied { rule },
            Outcome::EngineFault => OutcomeWire::EngineFault,
        }
    }
}

impl From<OutcomeWire> for Outcome {
    fn from(o: OutcomeWire) -> Self {
        match o {
            OutcomeWire::Exited { code } => Outcome::Exited { code },
            OutcomeWire::Signaled { signal } => Outcome::Signaled { signal },
            OutcomeWire::TimedOutWall => Outcome::TimedOut { clock: Clock::Wall },
            OutcomeWire::TimedOutCpu => Outcome::TimedOut { clock: Clock::Cpu },
            OutcomeWire::OutOfMemory => Outcome::OutOfMemory,
            OutcomeWire::PidsLimit => Outcome::PidsLimit,
            OutcomeWire::DiskLimit => Outcome::DiskLimit,
            OutcomeWire::OutputLimit => Outcome::OutputLimit,
            OutcomeWire::KilledByCaller => Outcome::Killed { by: KilledBy::Caller },
            OutcomeWire::KilledByDisconnect => Outcome::Killed { by: KilledBy::Disconnect },
            OutcomeWire::KilledByShutdown => Outcome::Killed { by: KilledBy::Shutdown },
            OutcomeWire::KilledByFrontGone => Outcome::Killed { by: KilledBy::FrontGone },
            OutcomeWire::Denied { rule } => Outcome::Denied { rule },
            OutcomeWire::EngineFault => Outcome::EngineFault,
        }
    }
}

impl From<LimitKind> for LimitKindWire {
    fn from(k: LimitKind) -> Self {
        match k {
            LimitKind::Pids => LimitKindWire::Pids,
            LimitKind::Memory => LimitKindWire::Memory,
            LimitKind::Cpu => LimitKindWire::Cpu,
            LimitKind::Disk => LimitKindWire::Disk,
            LimitKind::Output => LimitKindWire::Output,
        }
    }
}

impl From<LimitKindWire> for LimitKind {
    fn from(k: LimitKindWire) -> Self {
        match k {
            LimitKindWire::Pids => LimitKind::Pids,
            LimitKindWire::Memory => LimitKind::Memory,
            LimitKindWire::Cpu => LimitKind::Cpu,
            LimitKindWire::Disk => LimitKind::Disk,
            LimitKindWire::Output => LimitKind::Output,
        }
    }
}

/// Of a rule or of what it refused, as shown.
const DENIAL_CHARS_MAX: usize = 300;

impl From<Denial> for DenialWire {
    fn from(d: Denial) -> Self {
        let layer = match d.layer {
            Layer::Seccomp => LayerWire::Seccomp,
        };
        Self { layer, rule: d.rule, detail: d.detail, count: d.count }
    }
}

/// Texts of a monitor's, which end with callers and in logs.
impl From<DenialWire> for Denial {
    fn from(d: DenialWire) -> Self {
        let layer = match d.layer {
            LayerWire::Seccomp => Layer::Seccomp,
        };
        let [rule, detail] = [d.rule, d.detail].map(|text| capped(&text, DENIAL_CHARS_MAX));
        Self { layer, rule, detail, count: d.count }
    }
}

impl From<End> for EndWire {
    fn from(e: End) -> Self {
        Self {
            outcome: e.outcome.into(),
            limits_hit: e.limits_hit.into_iter().map(|h| (h.kind.into(), h.count)).collect(),
            usage: e.usage.into(),
            denials: e.denials.map(|all| all.into_iter().map(Into::into).collect()),
        }
    }
}

impl From<EndWire> for End {
    fn from(e: EndWire) -> Self {
        Self {
            outcome: e.outcome.into(),
            limits_hit: e.limits_hit.into_iter().map(|(k, count)| LimitHit { kind: k.into(), count }).collect(),
            usage: e.usage.into(),
            denials: e.denials.map(|all| all.into_iter().take(DENIALS_MAX).map(Into::into).collect()),
        }
    }
}

impl FactsWire {
    pub fn facts(&self) -> HostFacts {
        let has = |name: &str| self.controllers.iter().any(|c| c == name);
        HostFacts {
            kernel: KernelVersion { major: self.kernel_major, minor: self.kernel_minor },
            user_namespaces: self.user_namespaces,
            proc_mountable: self.proc_mountable,
            time_namespaces: self.time_namespaces,
            cgroup2: self.cgroup2,
            controllers: Controllers { memory: has("memory"), pids: has("pids"), cpu: has("cpu") },
            seccomp: self.seccomp,
            landlock_abi: self.landlock_abi,
            overlay: self.overlay,
            idmapped_mounts: self.idmapped_mounts,
            memfd_noexec: self.memfd_noexec,
        }
    }
}
