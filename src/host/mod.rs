//! Asks the kernel what it has, by doing it. Each probe runs in a child of its own, which leaves nothing behind.

mod attempt;
mod docker;
mod fences;
mod namespaces;
mod room;

use std::io;
use std::path::Path;

pub use room::refresh;

use crate::policy::plan::TopLevel;
use crate::spec::{CgroupChecks, HostChecks, KernelVersion, LeaseChecks};

/// What others found or decided, and where probes may look.
#[derive(Debug)]
pub struct Surroundings<'a> {
    /// What the backend's subtree was found to give.
    pub cgroup: CgroupChecks,
    pub leases: LeaseChecks,
    /// See [`HostChecks::capabilities_missing`].
    pub capabilities_missing: Vec<String>,
    /// An empty directory: an overlay without an upper one needs two lower ones.
    pub empty: &'a Path,
    /// Sandboxes and processes of theirs at once, and the memory promised to them.
    pub sandboxes: u32,
    pub processes: u32,
    pub memory_bytes: u64,
}

/// Strings that the host gives are cut here: all checks together must fit into a packet.
const TEXT_CHARS_MAX: usize = 512;

fn text(string: &str) -> String {
    string.trim_end().chars().take(TEXT_CHARS_MAX).collect()
}

/// Tries everything out. The caller is root, single-threaded, and in a mount namespace that it may mount in.
pub fn checks(around: Surroundings<'_>) -> HostChecks {
    let release = room::release();
    let (namespaces, idmap) = namespaces::checks(around.leases.first);
    HostChecks {
        kernel: kernel(&release),
        release,
        // sd_booted(3).
        systemd: Path::new("/run/systemd/system").is_dir(),
        capabilities_missing: around.capabilities_missing,
        namespaces,
        cgroup: around.cgroup,
        seccomp: fences::seccomp(),
        landlock: fences::landlock(),
        overlay: fences::overlay(around.empty),
        idmap,
        memfd: fences::memfd(),
        core: fences::core(),
        leases: around.leases,
        memory: room::memory(around.memory_bytes),
        room: room::room(around.sandboxes, around.processes),
        docker: docker::checks(),
        runtimes: room::runtimes(),
    }
}

fn kernel(release: &str) -> KernelVersion {
    let mut numbers = release.split(['.', '-']).map(|part| part.parse().unwrap_or(0));
    KernelVersion { major: numbers.next().unwrap_or(0), minor: numbers.next().unwrap_or(0) }
}

/// The host's top-level directories and links, as a plan wants them.
pub fn top_level() -> io::Result<Vec<TopLevel>> {
    let mut entries = Vec::new();
    for entry in std::fs::read_dir("/")? {
        let entry = entry?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        let kind = entry.file_type()?;
        if kind.is_dir() {
            entries.push(TopLevel::Directory { name });
        } else if kind.is_symlink()
            && let Ok(target) = std::fs::read_link(entry.path())?.into_os_string().into_string()
        {
            entries.push(TopLevel::Link { name, target });
        }
    }
    entries.sort_by(|a, b| name(a).cmp(name(b)));
    Ok(entries)
}

fn name(entry: &TopLevel) -> &str {
    match entry {
        TopLevel::Directory { name } | TopLevel::Link { name, .. } => name,
    }
}
