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

    /// How many of a request's units are one of the contract's.
    pub fn unit(self) -> f64 {
        match self {
            LimitField::Memory | LimitField::FileSize => 1024.0 * 1024.0,
            LimitField::Cpu => 100.0,
            LimitField::CpuTime | LimitField::Wall => 1000.0,
            LimitField::NetworkRequests | LimitField::Pids | LimitField::Output => 1.0,
        }
    }
}

impl LimitRequest {
    pub fn get(&self, field: LimitField) -> Option<u64> {
        match field {
            LimitField::Memory => self.memory_bytes,
            LimitField::Cpu => self.cpu_centipercent.map(u64::from),
            LimitField::CpuTime => self.cpu_time_ms,
            LimitField::Wall => self.wall_ms,
            LimitField::FileSize => self.file_size_bytes,
            LimitField::NetworkRequests => self.network_requests.map(u64::from),
            LimitField::Pids => self.pids.map(u64::from),
            LimitField::Output => self.output_bytes,
        }
    }

    /// `value` in the contract's unit, rounded up so that something above zero stays above zero; what is too large for the
    /// type is its most.
    pub fn set(&mut self, field: LimitField, value: f64) {
        self.put(field, (value * field.unit()).ceil() as u64);
    }

    /// `value` in the request's own unit.
    pub fn put(&mut self, field: LimitField, value: u64) {
        let (wide, narrow) = (Some(value), Some(u32::try_from(value).unwrap_or(u32::MAX)));
        match field {
            LimitField::Memory => self.memory_bytes = wide,
            LimitField::Cpu => self.cpu_centipercent = narrow,
            LimitField::CpuTime => self.cpu_time_ms = wide,
            LimitField::Wall => self.wall_ms = wide,
            LimitField::FileSize => self.file_size_bytes = wide,
            LimitField::NetworkRequests => self.network_requests = narrow,
            LimitField::Pids => self.pids = narrow,
            LimitField::Output => self.output_bytes = wide,
        }
    }

    /// This request with `most` for what it does not say; `Err` names what it asks for beyond `most`.
    pub fn within(mut self, most: &LimitRequest) -> Result<Self, Vec<LimitField>> {
        let mut beyond = Vec::new();
        for field in LimitField::ALL {
            match (self.get(field), most.get(field)) {
                (Some(asked), Some(most)) if asked > most => beyond.push(field),
                (None, Some(most)) => self.put(field, most),
                _ => {}
            }
        }
        if beyond.is_empty() { Ok(self) } else { Err(beyond) }
    }
}
