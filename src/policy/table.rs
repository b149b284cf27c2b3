//! What each level means, as data. Sizes and times come from the project's table of levels; ARCHITECTURE.md repeats it.

use crate::spec::{Level, LimitRequest};

pub(crate) const KIB: u64 = 1024;
pub(crate) const MIB: u64 = 1024 * KIB;

/// A limit's default and the most that a caller may raise it to, before the operator's ceiling.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bound<T> {
    pub default: T,
    pub most: T,
}

/// The row of one level. `most` of `u64::MAX` (or `u32::MAX`) leaves the operator's ceiling alone in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LevelTable {
    pub level: Level,
    pub memory_bytes: Bound<u64>,
    pub cpu_centipercent: Bound<u32>,
    pub wall_ms: Bound<u64>,
    pub file_size_bytes: Bound<u64>,
    pub output_bytes: Bound<u64>,
    pub pids: Bound<u32>,
    pub open_files: u32,
    /// `None`: not counted.
    pub network_requests: Option<Bound<u32>>,
    pub tmp: Scratch,
    pub shm: Scratch,
    /// The private /workspace of a call that names none.
    pub workspace: Scratch,
}

/// Size of a tmpfs at the level's default memory; it shrinks with the memory limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scratch {
    pub bytes: u64,
    pub inodes: u32,
    pub writable: bool,
}

/// The most that is kept of a stream, whatever the operator allows.
pub(crate) const OUTPUT_BYTES_MAX: u64 = 16 * MIB;
/// A caller may not lower a limit below what a shell needs to start.
pub const MEMORY_BYTES_LEAST: u64 = 16 * MIB;
pub const PIDS_LEAST: u32 = 4;
pub const CPU_CENTIPERCENT_LEAST: u32 = 100;
pub const WALL_MS_LEAST: u64 = 1;
pub const FILE_SIZE_BYTES_LEAST: u64 = 1;

const WALL: Bound<u64> = Bound { default: 30_000, most: 300_000 };

pub fn table(level: Level) -> &'static LevelTable {
    match level {
        Level::Minimal => &MINIMAL,
        Level::Standard => &STANDARD,
        Level::Strict => &STRICT,
        Level::Maximum => &MAXIMUM,
    }
}

static MINIMAL: LevelTable = LevelTable {
    level: Level::Minimal,
    memory_bytes: Bound { default: 1024 * MIB, most: u64::MAX },
    cpu_centipercent: Bound { default: 20_000, most: u32::MAX },
    wall_ms: WALL,
    file_size_bytes: Bound { default: 100 * MIB, most: 1024 * MIB },
    output_bytes: Bound { default: MIB, most: OUTPUT_BYTES_MAX },
    pids: Bound { default: 256, most: u32::MAX },
    open_files: 1024,
    network_requests: None,
    tmp: Scratch { bytes: 256 * MIB, inodes: 16_384, writable: true },
    shm: Scratch { bytes: 16 * MIB, inodes: 1024, writable: true },
    workspace: Scratch { bytes: 128 * MIB, inodes: 16_384, writable: true },
};

static STANDARD: LevelTable = LevelTable {
    level: Level::Standard,
    memory_bytes: Bound { default: 512 * MIB, most: u64::MAX },
    cpu_centipercent: Bound { default: 10_000, most: u32::MAX },
    wall_ms: WALL,
    file_size_bytes: Bound { default: 100 * MIB, most: 1024 * MIB },
    output_bytes: Bound { default: MIB, most: OUTPUT_BYTES_MAX },
    pids: Bound { default: 128, most: u32::MAX },
    open_files: 1024,
    network_requests: Some(Bound { default: 0, most: u32::MAX }),
    tmp: Scratch { bytes: 128 * MIB, inodes: 16_384, writable: true },
    shm: Scratch { bytes: 16 * MIB, inodes: 1024, writable: true },
    workspace: Scratch { bytes: 96 * MIB, inodes: 16_384, writable: true },
};

static STRICT: LevelTable = LevelTable {
    level: Level::Strict,
    memory_bytes: Bound { default: 256 * MIB, most: u64::MAX },
    cpu_centipercent: Bound { default: 5_000, most: u32::MAX },
    wall_ms: WALL,
    file_size_bytes: Bound { default: 16 * MIB, most: 16 * MIB },
    output_bytes: Bound { default: MIB, most: OUTPUT_BYTES_MAX },
    pids: Bound { default: 64, most: u32::MAX },
    open_files: 256,
    network_requests: Some(Bound { default: 0, most: 0 }),
    tmp: Scratch { bytes: 16 * MIB, inodes: 4096, writable: true },
    shm: Scratch { bytes: MIB, inodes: 256, writable: true },
    workspace: Scratch { bytes: 64 * KIB, inodes: 16, writable: false },
};

static MAXIMUM: LevelTable = LevelTable {
    level: Level::Maximum,
    memory_bytes: Bound { default: 128 * MIB, most: u64::MAX },
    cpu_centipercent: Bound { default: 5_000, most: u32::MAX },
    wall_ms: WALL,
    file_size_bytes: Bound { default: 16 * MIB, most: 16 * MIB },
    output_bytes: Bound { default: 256 * KIB, most: MIB },
    pids: Bound { default: 32, most: u32::MAX },
    open_files: 256,
    network_requests: Some(Bound { default: 0, most: 0 }),
    tmp: Scratch { bytes: 16 * MIB, inodes: 4096, writable: true },
    shm: Scratch { bytes: MIB, inodes: 256, writable: true },
    workspace: Scratch { bytes: 64 * KIB, inodes: 16, writable: false },
};

/// The least and the most that any level takes of `field`, in the unit of `spec::LimitRequest`; `None` where only the
/// operator's ceiling bounds it.
pub fn extremes(field: crate::spec::LimitField) -> (u64, Option<u64>) {
    use crate::spec::LimitField as F;
    let most = |of: fn(&LevelTable) -> u64| Level::ALL.into_iter().map(|level| of(table(level))).max();
    match field {
        F::Memory => (MEMORY_BYTES_LEAST, None),
        F::Cpu => (CPU_CENTIPERCENT_LEAST.into(), None),
        F::CpuTime => (1, None),
        F::Wall => (WALL_MS_LEAST, most(|t| t.wall_ms.most)),
        F::FileSize => (FILE_SIZE_BYTES_LEAST, most(|t| t.file_size_bytes.most)),
        F::NetworkRequests => (0, Some(u32::MAX.into())),
        F::Pids => (PIDS_LEAST.into(), Some(u32::MAX.into())),
        F::Output => (0, most(|t| t.output_bytes.most)),
    }
}

/// The limits of `level` for `request` under `ceilings`, or every field that is out of range.
///
/// The front asks first, to tell the caller; the engine asks again, because it trusts no front.
pub fn resolve_limits(
    level: Level,
    request: &LimitRequest,
    ceilings: &crate::config::Ceilings,
) -> Result<crate::spec::Limits, Vec<LimitRefusal>> {
    use crate::spec::LimitField as F;
    let t = table(level);
    let mut refused = Vec::new();
    let mut pick = |field, asked: Option<u64>, default: u64, least: u64, most: u64| {
        let value = asked.unwrap_or(default.min(most));
        if (least..=most).contains(&value) {
            return value;
        }
        refused.push(LimitRefusal { field, asked: value, least, most });
        least
    };
    let u64_of = |v: Option<u32>| v.map(u64::from);
    let wall_ms =
        pick(F::Wall, request.wall_ms, t.wall_ms.default, WALL_MS_LEAST, t.wall_ms.most.min(ceilings.wall_ms));
    let cpu_centipercent = pick(
        F::Cpu,
        u64_of(request.cpu_centipercent),
        t.cpu_centipercent.default.into(),
        CPU_CENTIPERCENT_LEAST.into(),
        t.cpu_centipercent.most.min(ceilings.cpu_centipercent).into(),
    ) as u32;
    // Cpu time follows wall time and share unless the caller says otherwise.
    let cpu_most = (t.wall_ms.most.min(ceilings.wall_ms) * u64::from(cpu_centipercent) / 10_000).max(1);
    let cpu_default = (wall_ms * u64::from(cpu_centipercent) / 10_000).max(1);
    let cpu_time_ms = pick(F::CpuTime, request.cpu_time_ms, cpu_default, 1, cpu_most.min(ceilings.cpu_time_ms));
    let limits = crate::spec::Limits {
        memory_bytes: pick(
            F::Memory,
            request.memory_bytes,
            t.memory_bytes.default,
            MEMORY_BYTES_LEAST,
            t.memory_bytes.most.min(ceilings.memory_bytes),
        ),
        cpu_centipercent,
        cpu_time_ms,
        wall_ms,
        file_size_bytes: pick(
            F::FileSize,
            request.file_size_bytes,
            t.file_size_bytes.default,
            FILE_SIZE_BYTES_LEAST,
            t.file_size_bytes.most.min(ceilings.file_size_bytes),
        ),
        network_requests: t.network_requests.map(|b| {
            pick(F::NetworkRequests, u64_of(request.network_requests), b.default.into(), 0, b.most.into()) as u32
        }),
        pids: pick(
            F::Pids,
            u64_of(request.pids),
            t.pids.default.into(),
            PIDS_LEAST.into(),
            t.pids.most.min(ceilings.pids).into(),
        ) as u32,
        open_files: t.open_files,
        output_bytes: pick(
            F::Output,
            request.output_bytes,
            t.output_bytes.default,
            0,
            t.output_bytes.most.min(ceilings.output_bytes),
        ),
    };
    if refused.is_empty() { Ok(limits) } else { Err(refused) }
}

/// A limit outside of what may be asked for, in the unit of `spec::LimitRequest`'s field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LimitRefusal {
    pub field: crate::spec::LimitField,
    pub asked: u64,
    pub least: u64,
    pub most: u64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::spec::LimitField;

    #[test]
    fn scratch_stays_below_half_of_memory_so_that_enospc_comes_before_oom() {
        for level in Level::ALL {
            let t = table(level);
            let sum = t.tmp.bytes + t.shm.bytes + t.workspace.bytes;
            assert!(sum * 2 <= t.memory_bytes.default, "{level}: {sum}");
        }
    }

    #[test]
    fn every_field_out_of_range_is_named_at_once() {
        let request = LimitRequest {
            memory_bytes: Some(1),
            wall_ms: Some(300_001),
            pids: Some(1_000_000),
            output_bytes: Some(17 * MIB),
            ..LimitRequest::default()
        };
        let refused = resolve_limits(Level::Standard, &request, &Config::default().ceilings).unwrap_err();
        let fields: Vec<_> = refused.iter().map(|r| r.field).collect();
        assert_eq!(fields, [LimitField::Wall, LimitField::Memory, LimitField::Pids, LimitField::Output]);
    }

    #[test]
    fn cpu_time_defaults_to_wall_times_share() {
        let request = LimitRequest { wall_ms: Some(10_000), cpu_centipercent: Some(5_000), ..LimitRequest::default() };
        let limits = resolve_limits(Level::Standard, &request, &Config::default().ceilings).unwrap();
        assert_eq!(limits.cpu_time_ms, 5_000);
        assert_eq!(limits.network_requests, Some(0));
        assert_eq!(
            resolve_limits(Level::Minimal, &request, &Config::default().ceilings).unwrap().network_requests,
            None
        );
    }
}
