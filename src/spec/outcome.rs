//! How a command ended, and what it used.

/// Which clock ran out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Clock {
    Wall,
    Cpu,
}

impl Clock {
    pub const ALL: [Clock; 2] = [Clock::Wall, Clock::Cpu];

    pub fn name(self) -> &'static str {
        match self {
            Clock::Wall => "wall",
            Clock::Cpu => "cpu",
        }
    }
}

/// Who asked for a kill.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KilledBy {
    /// The caller or an admin, through the API.
    Caller,
    /// The caller's connection went away.
    Disconnect,
    /// The daemon is stopping.
    Shutdown,
    /// The front that owned the call ended or broke the protocol.
    FrontGone,
}

impl KilledBy {
    pub const ALL: [KilledBy; 4] = [KilledBy::Caller, KilledBy::Disconnect, KilledBy::Shutdown, KilledBy::FrontGone];

    pub fn name(self) -> &'static str {
        match self {
            KilledBy::Caller => "caller",
            KilledBy::Disconnect => "disconnect",
            KilledBy::Shutdown => "shutdown",
            KilledBy::FrontGone => "front_gone",
        }
    }
}

/// What ended the command: recorded by whoever did it, never guessed from an exit code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    Exited {
        code: i32,
    },
    Signaled {
        signal: i32,
    },
    TimedOut {
        clock: Clock,
    },
    /// The cgroup's own counter says so.
    OutOfMemory,
    /// The engine killed after 1,000 refused forks.
    PidsLimit,
    /// SIGXFSZ ended the command.
    DiskLimit,
    /// The front asked for the kill after 64 times the kept cap.
    OutputLimit,
    Killed {
        by: KilledBy,
    },
    /// seccomp killed it.
    Denied {
        rule: String,
    },
    EngineFault,
}

impl Outcome {
    /// What [`Outcome::kind`] can say.
    pub const KINDS: [&str; 10] = [
        "exited",
        "signaled",
        "timed_out",
        "out_of_memory",
        "pids_limit",
        "disk_limit",
        "output_limit",
        "killed",
        "denied",
        "engine_fault",
    ];

    /// The word of the public contract.
    pub fn kind(&self) -> &'static str {
        match self {
            Outcome::Exited { .. } => "exited",
            Outcome::Signaled { .. } => "signaled",
            Outcome::TimedOut { .. } => "timed_out",
            Outcome::OutOfMemory => "out_of_memory",
            Outcome::PidsLimit => "pids_limit",
            Outcome::DiskLimit => "disk_limit",
            Outcome::OutputLimit => "output_limit",
            Outcome::Killed { .. } => "killed",
            Outcome::Denied { .. } => "denied",
            Outcome::EngineFault => "engine_fault",
        }
    }
}

/// A limit that was touched without ending the command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LimitHit {
    pub kind: LimitKind,
    /// How often, in the counter's own unit (refused forks, throttled periods, failed charges, full scratch mounts).
    pub count: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LimitKind {
    /// Forks refused at pids.max.
    Pids,
    /// Allocations that hit memory.max.
    Memory,
    /// Periods in which cpu.max throttled.
    Cpu,
    /// Scratch mounts found full of bytes or inodes at the end.
    Disk,
    /// Output beyond the kept cap, in streams.
    Output,
}

impl LimitKind {
    pub const ALL: [LimitKind; 5] =
        [LimitKind::Pids, LimitKind::Memory, LimitKind::Cpu, LimitKind::Disk, LimitKind::Output];

    pub fn name(self) -> &'static str {
        match self {
            LimitKind::Pids => "pids",
            LimitKind::Memory => "memory",
            LimitKind::Cpu => "cpu",
            LimitKind::Disk => "disk",
            LimitKind::Output => "output",
        }
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    pub wall_us: u64,
    pub cpu_us: u64,
    /// The cgroup's high-water mark, or the largest process's where no memory controller counts.
    pub memory_peak_bytes: u64,
    pub network_requests: u64,
}

/// Which fence refused something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layer {
    Seccomp,
}

impl Layer {
    pub const ALL: [Layer; 1] = [Layer::Seccomp];

    pub fn name(self) -> &'static str {
        match self {
            Layer::Seccomp => "seccomp",
        }
    }
}

/// Something that a fence refused without ending the command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denial {
    pub layer: Layer,
    /// Where the refusal is written: `seccomp/standard.json: ptrace`.
    pub rule: String,
    /// What was refused: the system call, and what about it the rule refuses where that is not all of it.
    pub detail: String,
    pub count: u64,
}

/// Entries in the record of one command; the last one stands for all that found no room.
pub const DENIALS_MAX: usize = 64;

/// The end of one command, as the engine reports it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct End {
    pub outcome: Outcome,
    pub limits_hit: Vec<LimitHit>,
    pub usage: Usage,
    /// `None` where nobody recorded them.
    pub denials: Option<Vec<Denial>>,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The one that is declared behind `outcome`: whoever adds one is told here that it has no place yet.
    fn next(outcome: &Outcome) -> Option<Outcome> {
        Some(match outcome {
            Outcome::Exited { .. } => Outcome::Signaled { signal: 9 },
            Outcome::Signaled { .. } => Outcome::TimedOut { clock: Clock::Wall },
            Outcome::TimedOut { .. } => Outcome::OutOfMemory,
            Outcome::OutOfMemory => Outcome::PidsLimit,
            Outcome::PidsLimit => Outcome::DiskLimit,
            Outcome::DiskLimit => Outcome::OutputLimit,
            Outcome::OutputLimit => Outcome::Killed { by: KilledBy::Caller },
            Outcome::Killed { .. } => Outcome::Denied { rule: String::new() },
            Outcome::Denied { .. } => Outcome::EngineFault,
            Outcome::EngineFault => return None,
        })
    }

    #[test]
    fn every_kind_is_among_those_that_are_told_of() {
        let all = std::iter::successors(Some(Outcome::Exited { code: 0 }), next);
        assert_eq!(all.map(|outcome| outcome.kind()).collect::<Vec<_>>(), Outcome::KINDS);
    }
}
