//! Limits as a caller asks for them and as a plan fixes them.

/// What a caller asks for; `None` leaves the level's default.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LimitRequest {
    pub memory_bytes: Option<u64>,
    /// Hundredths of a percent of one core: 100 % is 10,000.
    pub cpu_centipercent: Option<u32>,
    pub cpu_time_ms: Option<u64>,
    pub wall_ms: Option<u64>,
    pub file_size_bytes: Option<u64>,
    pub network_requests: Option<u32>,
    pub pids: Option<u32>,
    pub output_bytes: Option<u64>,
}

/// What holds for one sandbox. Times bound one command; sizes bound the sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    pub memory_bytes: u64,
    /// Hundredths of a percent of one core: 100 % is 10,000.
    pub cpu_centipercent: u32,
    pub cpu_time_ms: u64,
    pub wall_ms: u64,
    pub file_size_bytes: u64,
    /// `None`: not counted (level minimal).
    pub network_requests: Option<u32>,
    pub pids: u32,
    pub open_files: u32,
    /// Kept of each of stdout and stderr.
    pub output_bytes: u64,
}

/// Names a limit in the words of the public contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LimitField {
    Memory,
    Cpu,
    CpuTime,
    Wall,
    FileSize,
    NetworkRequests,
    Pids,
    Output,
}

impl LimitField {
    pub const ALL: [LimitField; 8] = [
        LimitField::Memory,
        LimitField::Cpu,
        LimitField::CpuTime,
        LimitField::Wall,
        LimitField::FileSize,
        LimitField::NetworkRequests,
        LimitField::Pids,
        LimitField::Output,
    ];

    /// The field of `context.limits` that carries it.
    pub fn name(self) -> &'static str {
        match self {
            LimitField::Memory => "max_memory_mb",
            LimitField::Cpu => "max_cpu_percent",
            LimitField::CpuTime => "max_cpu_seconds",
            LimitField::Wall => "max_execution_time_seconds",
            LimitField::FileSize => "max_file_size_mb",
            LimitField::NetworkRequests => "max_network_requests",
            LimitField::Pids => "max_processes",
            LimitField::Output => "max_output_bytes",
        }
    }
}
