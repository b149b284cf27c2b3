//! What a host has only so much of, read where nothing can be tried, and the runtimes on it.

use std::fs;
use std::path::Path;

use procfs::Current;

use super::{fences, text};
use crate::policy::{RUNTIMES, TOOLCHAINS};
use crate::spec::{HostChecks, MemoryChecks, RoomChecks, RuntimeCheck};
use crate::sys::process::{Resource, hard_limit};

/// Looks again at what may have changed while an engine ran and costs little to look at.
pub fn refresh(checks: &mut HostChecks) {
    checks.memory = memory(checks.memory.wanted_bytes);
    checks.runtimes = runtimes();
    checks.core.pattern = fences::core_pattern();
}

/// `uname -r`.
pub(super) fn release() -> String {
    let release = nix::sys::utsname::uname().ok().and_then(|u| u.release().to_str().map(text));
    release.unwrap_or_default()
}

pub(super) fn number(file: &str) -> Option<u64> {
    fs::read_to_string(file).ok()?.trim().parse().ok()
}

pub(super) fn memory(wanted_bytes: u64) -> MemoryChecks {
    let info = procfs::Meminfo::current().ok();
    let of = |value: fn(&procfs::Meminfo) -> u64| info.as_ref().map_or(0, value);
    MemoryChecks {
        total_bytes: of(|m| m.mem_total),
        available_bytes: of(|m| m.mem_available.unwrap_or(m.mem_free)),
        swap_bytes: of(|m| m.swap_total),
        wanted_bytes,
    }
}

pub(super) fn room(sandboxes: u32, processes: u32) -> RoomChecks {
    RoomChecks {
        descriptors: hard_limit(Resource::OpenFiles).unwrap_or(0),
        pid_max: number("/proc/sys/kernel/pid_max").unwrap_or(0),
        threads_max: number("/proc/sys/kernel/threads-max").unwrap_or(0),
        sandboxes,
        processes,
    }
}

pub(super) fn runtimes() -> Vec<RuntimeCheck> {
    let check = |(name, program): (&str, &str)| RuntimeCheck {
        name: name.to_owned(),
        program: program.to_owned(),
        found: fences::executable(Path::new(program)),
    };
    let further = TOOLCHAINS.iter().filter(|t| RUNTIMES.iter().all(|(name, _)| *name != t.name));
    RUNTIMES.iter().copied().chain(further.map(|t| (t.name, t.program))).map(check).collect()
}
