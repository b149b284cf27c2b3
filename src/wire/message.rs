//! The closed set of verbs, replies and events.

use serde::{Deserialize, Serialize};

use super::checks::ChecksWire;
use super::volumes::{Open, VolumeReportWire, VolumeSizeWire, VolumeUseWire, VolumeWire, WorkspaceWire};

/// From the front. `seq` is chosen by the sender and comes back in the one [`Reply`] to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    pub seq: u32,
    pub verb: Verb,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verb {
    /// First on every connection.
    Hello {
        protocol: u32,
    },
    /// What this host has and which levels it can give.
    Probe,
    Create(Create),
    /// May follow its Create without waiting for the reply. Descriptors: stdin, stdout, stderr, then the extra ones;
    /// of a detached sandbox also the read ends of stdout, of stderr and of a third pipe (its result, where it has one), last.
    /// Each is a pipe or a sealed memfd without an execute bit.
    Exec(Exec),
    /// Kills everything in the sandbox; its end is reported by `Event::Exited`.
    Signal {
        id: String,
        why: WhyWire,
    },
    Stat {
        id: String,
    },
    /// At most [`LIST_PAGE`] sandboxes with ids above `after`.
    List {
        after: Option<String>,
    },
    /// Ends and forgets the sandbox, whatever its state.
    Destroy {
        id: String,
    },
    /// Which commands may be started before there is a call for them. Replaces what any connection said before.
    Prepare(Prepare),
    /// Create and Exec in one, where a sandbox waits in which the command is up already.
    Take(Take),
    /// A volume must be open before a sandbox is created with it.
    Open(Open),
    /// Ends a scratch volume of this connection once no sandbox has it any more.
    Close {
        volume: VolumeWire,
    },
    /// Removes a workspace and everything in it.
    Remove {
        volume: VolumeWire,
    },
    /// At most [`super::WORKSPACES_PAGE`] workspaces of `owner` with names above `after`.
    Workspaces {
        owner: String,
        after: Option<String>,
    },
}

impl Verb {
    pub fn name(&self) -> &'static str {
        match self {
            Verb::Hello { .. } => "Hello",
            Verb::Probe => "Probe",
            Verb::Create(_) => "Create",
            Verb::Exec(_) => "Exec",
            Verb::Prepare(_) => "Prepare",
            Verb::Take(_) => "Take",
            Verb::Signal { .. } => "Signal",
            Verb::Stat { .. } => "Stat",
            Verb::List { .. } => "List",
            Verb::Destroy { .. } => "Destroy",
            Verb::Open(_) => "Open",
            Verb::Close { .. } => "Close",
            Verb::Remove { .. } => "Remove",
            Verb::Workspaces { .. } => "Workspaces",
        }
    }
}

/// Sandboxes in one reply to `List`; their read ends fit into one packet.
pub const LIST_PAGE: usize = 64;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Create {
    /// Chosen by the front (128 random bits), so that Exec can follow at once.
    pub id: String,
    pub level: LevelWire,
    /// A name of the engine's own table of runtimes, such as `bash` or `python`.
    pub runtime: String,
    /// At most [`super::VOLUMES_MAX`], which are open.
    pub volumes: Vec<VolumeUseWire>,
    pub limits: LimitsWire,
    pub lifetime: LifetimeWire,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exec {
    pub id: String,
    pub argv: Vec<String>,
    pub env: Vec<(String, String)>,
    pub cwd: String,
    /// For this command alone; the sandbox's own limit is the most.
    pub wall_ms: u64,
}

/// With an empty list sandboxes are still built ahead, without a command in them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prepare {
    /// At most [`PREPARED_MAX`], of different runtimes.
    pub commands: Vec<PreparedWire>,
}

/// Commands in one Prepare.
pub const PREPARED_MAX: usize = 8;

/// A command that reads what it is to do from its descriptors once it runs. It finds its streams at 0 to 2, at 3 a pipe that
/// it must read a line from before anything else, at 4 the code, and at 5, with `result`, a pipe for what it found out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PreparedWire {
    /// A name of the engine's table of runtimes.
    pub runtime: String,
    pub argv: Vec<String>,
    pub env: Vec<(String, String)>,
    pub cwd: String,
    pub result: bool,
}

/// A call of one command; it ends with its connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Take {
    /// Chosen by the front, as in Create.
    pub id: String,
    pub level: LevelWire,
    /// Of a prepared command.
    pub runtime: String,
    pub limits: LimitsWire,
    /// For this command alone; the sandbox's own limit is the most.
    pub wall_ms: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum LevelWire {
    Minimal,
    Standard,
    Strict,
    Maximum,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum LifetimeWire {
    /// One command; ends with it, or with the connection that created it.
    Call,
    /// One command; outlives the connection. The engine keeps duplicates of the read ends of its output.
    Detached,
}

/// `spec::LimitRequest`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LimitsWire {
    pub memory_bytes: Option<u64>,
    pub cpu_centipercent: Option<u32>,
    pub cpu_time_ms: Option<u64>,
    pub wall_ms: Option<u64>,
    pub file_size_bytes: Option<u64>,
    pub network_requests: Option<u32>,
    pub pids: Option<u32>,
    pub output_bytes: Option<u64>,
}

/// Why the front wants a sandbox killed; becomes the outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum WhyWire {
    Caller,
    Disconnect,
    Shutdown,
    OutputLimit,
}

/// From the monitor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromMonitor {
    Reply { seq: u32, reply: Reply },
    Event(Event),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    Hello {
        protocol: u32,
        version: String,
        capacity: CapacityWire,
        /// Another one with every start of the monitor: sandboxes end with theirs.
        instance: u64,
    },
    Facts(Box<FactsWire>),
    /// The sandbox is complete; `enforced.landlock` is not known yet.
    Created(Box<CreatedWire>),
    /// To Prepare: whether anything is built ahead at all.
    Prepared {
        ahead: bool,
    },
    /// The sandbox is the caller's, and its command waits at its gate. Beside it: the write end of stdin, the read ends of
    /// stdout and stderr, the write end of the gate, the empty memfd that is to hold the code, and with `result` its read end.
    Taken {
        created: Box<CreatedWire>,
        landlock: Option<LandlockWire>,
    },
    /// The command's program is running.
    Started {
        landlock: Option<LandlockWire>,
    },
    Done,
    Stat(StatWire),
    /// Descriptors beside it: for each entry with `outputs`, its three read ends, in the order in which Exec brought them.
    List {
        entries: Vec<StatWire>,
        more: bool,
    },
    /// `made`: it was not there before.
    Opened {
        size: VolumeSizeWire,
        made: bool,
    },
    Workspaces {
        entries: Vec<WorkspaceWire>,
        more: bool,
    },
    Refused(Refusal),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CapacityWire {
    pub sandboxes_max: u32,
    /// Sum of the memory limits of all sandboxes.
    pub memory_bytes_max: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Refusal {
    /// The level can not be had on this host; `missing` names what it lacks.
    LevelUnavailable {
        missing: Vec<String>,
    },
    /// A limit above what the operator allows, in the unit of the wire field.
    LimitRefused {
        field: String,
        most: u64,
    },
    AtCapacity {
        what: String,
    },
    /// Nothing ran. `step` and `target` say where the launch stopped.
    SetupFailed {
        step: String,
        target: String,
        errno: i32,
    },
    /// The working directory (`chdir`) or the program (`exec`) is not there or may not be used. Nothing ran.
    CommandFailed {
        step: String,
        target: String,
        errno: i32,
    },
    UnknownSandbox,
    /// To Take: no sandbox waits that fits; Create and Exec make one.
    NoneWaiting,
    /// Known, but this verb has no handler in its state.
    WrongState {
        state: String,
    },
    UnknownRuntime,
    /// There is none of this name, or it is not open.
    UnknownVolume,
    /// Sandboxes have it, or it is being removed.
    VolumeBusy {
        users: u32,
    },
    /// The operator allows no more of them to one owner.
    TooManyVolumes {
        most: u32,
    },
    /// It could not be made, opened or removed. `step` says where that stopped.
    VolumeFailed {
        step: String,
        errno: i32,
    },
    Draining,
    /// Ended before its command was known to run, for this reason.
    Ended {
        outcome: OutcomeWire,
    },
    /// The message can not be accepted from a correct front; the connection is closed after it.
    Protocol {
        what: String,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreatedWire {
    pub enforced: EnforcedWire,
    /// What was substituted for what this host lacks, one sentence each.
    pub degraded: Vec<String>,
    pub limits: GrantedWire,
}

/// The limits in force: `spec::Limits`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct GrantedWire {
    pub memory_bytes: u64,
    pub cpu_centipercent: u32,
    pub cpu_time_ms: u64,
    pub wall_ms: u64,
    pub file_size_bytes: u64,
    pub network_requests: Option<u32>,
    pub pids: u32,
    pub open_files: u32,
    pub output_bytes: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnforcedWire {
    pub uid: u32,
    pub gid: u32,
    pub namespaces: Vec<String>,
    pub private_root: bool,
    pub host_network: bool,
    pub effective_capabilities: Vec<String>,
    pub bounding_capabilities: Vec<String>,
    pub no_new_privs: bool,
    pub seccomp_profile: String,
    pub seccomp_sha256: String,
    /// Kept on disk, too, where earlier versions wrote none.
    #[serde(default)]
    pub denials_recorded: bool,
    pub cgroup_version: u8,
    pub cgroup_controllers: Vec<String>,
    pub memory_max_bytes: Option<u64>,
    pub swap_max_bytes: Option<u64>,
    pub oom_group: Option<bool>,
    pub pids_max: Option<u64>,
    pub cpu_max: Option<(u64, u64)>,
    /// Kept on disk, too, where earlier versions wrote none.
    #[serde(default)]
    pub volumes: Vec<VolumeReportWire>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LandlockWire {
    pub abi: u32,
    pub status: LandlockStatusWire,
    pub added: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum LandlockStatusWire {
    Full,
    Partial,
    None,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FactsWire {
    pub kernel_major: u32,
    pub kernel_minor: u32,
    pub user_namespaces: bool,
    pub proc_mountable: bool,
    pub time_namespaces: bool,
    pub cgroup2: bool,
    pub controllers: Vec<String>,
    pub seccomp: bool,
    pub landlock_abi: u32,
    pub overlay: bool,
    pub idmapped_mounts: bool,
    pub memfd_noexec: bool,
    pub levels: Vec<LevelFactsWire>,
    /// Runtimes this engine knows and their programs as seen inside.
    pub runtimes: Vec<RuntimeWire>,
    /// What the engine was told when it judged `levels`.
    pub allow_degraded: bool,
    pub minimal_enabled: bool,
    /// All that was tried, with reasons; the facts above follow from it.
    pub checks: ChecksWire,
}

/// What `sandkeep-engine --probe` writes: as a reply to Probe, from an engine that serves nobody.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probed {
    pub version: String,
    pub facts: FactsWire,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LevelFactsWire {
    pub level: LevelWire,
    pub available: bool,
    pub missing: Vec<String>,
    pub degraded: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuntimeWire {
    pub name: String,
    /// As seen inside; `None` where the host has no such program.
    pub program: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatWire {
    pub id: String,
    pub level: LevelWire,
    /// `building`, `ready`, `running` or `ending`.
    pub state: String,
    pub lifetime: LifetimeWire,
    /// Of the sandbox's pid 1.
    pub host_pid: i32,
    /// Of the running command's own process, on the host; only in the reply to Stat.
    pub command_pid: Option<i32>,
    pub cgroup_path: Option<String>,
    pub age_ms: u64,
    pub usage: UsageWire,
    /// Whether read ends of its output travel beside the reply.
    pub outputs: bool,
    /// Of a detached sandbox whose command has ended and whose end nobody has taken yet.
    pub end: Option<EndWire>,
    /// Of a detached sandbox, once it is complete; only in the reply to Stat.
    pub built: Option<Box<BuiltWire>>,
}

/// What a front that did not see a sandbox being built has to know to tell of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuiltWire {
    pub created: CreatedWire,
    /// Whether its command's program was started.
    pub started: bool,
    pub landlock: Option<LandlockWire>,
}

/// Read ends of a detached sandbox's command.
pub const OUTPUTS: usize = 3;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UsageWire {
    pub wall_us: u64,
    pub cpu_us: u64,
    pub memory_peak_bytes: u64,
    pub network_requests: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    /// The command ended, every process of the sandbox is dead, its output pipes have no writer any more.
    Exited { id: String, end: EndWire },
    /// A rule refused something of a running command for the first time. All counts are in its end.
    Denied { id: String, denial: DenialWire },
    /// Nothing of the sandbox is left: processes, cgroup, mounts, lease.
    Reaped { id: String },
    /// Whether anything is built ahead from now on, as in `Reply::Prepared`.
    Ahead { ahead: bool },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndWire {
    pub outcome: OutcomeWire,
    pub limits_hit: Vec<(LimitKindWire, u64)>,
    pub usage: UsageWire,
    /// At most `spec::DENIALS_MAX`; none where nobody recorded them, and in the reply to List, where they would not all fit.
    pub denials: Option<Vec<DenialWire>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum LayerWire {
    Seccomp,
}

/// `spec::Denial`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DenialWire {
    pub layer: LayerWire,
    pub rule: String,
    pub detail: String,
    pub count: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum OutcomeWire {
    Exited { code: i32 },
    Signaled { signal: i32 },
    TimedOutWall,
    TimedOutCpu,
    OutOfMemory,
    PidsLimit,
    DiskLimit,
    OutputLimit,
    KilledByCaller,
    KilledByDisconnect,
    KilledByShutdown,
    KilledByFrontGone,
    Denied { rule: String },
    EngineFault,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum LimitKindWire {
    Pids,
    Memory,
    Cpu,
    Disk,
    Output,
}
