//! What this engine found of its host, told over the seam; and the same found by an engine that serves nobody.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use caps::{CapSet, Capability};
use nix::sched::{CloneFlags, unshare};

use super::leases;
use super::monitor::signal_mask;
use super::start::{CAPABILITIES, Named, Options, StartError, core_limit, tree_limits};
use crate::backend::cgroup;
use crate::config::Config;
use crate::host::{self, Surroundings};
use crate::policy::plan;
use crate::spec::{CgroupChecks, HostChecks, HostFacts, LeaseChecks, Level};
use crate::sys::mount;
use crate::wire::{FactsWire, LevelFactsWire, Probed, RuntimeWire};

/// Everything about the host, for an engine of `config`. `empty` is an empty directory.
pub(super) fn checks(
    config: &Config,
    cgroup: CgroupChecks,
    leases: LeaseChecks,
    empty: &Path,
) -> Result<HostChecks, StartError> {
    Ok(host::checks(Surroundings {
        cgroup,
        leases,
        capabilities_missing: capabilities_missing(),
        empty,
        sandboxes: config.capacity.sandboxes,
        processes: config.capacity.pids,
        memory_bytes: tree_limits(config)?.memory_bytes,
    }))
}

/// Must be asked before the engine gives up what it does not need.
fn capabilities_missing() -> Vec<String> {
    let held = caps::read(None, CapSet::Permitted).unwrap_or_default();
    CAPABILITIES.iter().filter(|c| !held.contains(c)).map(Capability::to_string).collect()
}

/// The reply to Probe.
pub(super) fn told(checks: HostChecks, facts: &HostFacts, allow_degraded: bool, minimal_enabled: bool) -> FactsWire {
    let controllers =
        [("memory", facts.controllers.memory), ("pids", facts.controllers.pids), ("cpu", facts.controllers.cpu)];
    let level = |level: Level| {
        let (available, missing, degraded) = match plan::availability(level, facts, allow_degraded) {
            Ok(degraded) => (true, Vec::new(), degraded),
            Err(missing) => (false, missing, Vec::new()),
        };
        LevelFactsWire { level: level.into(), available, missing, degraded }
    };
    let runtimes = checks
        .runtimes
        .iter()
        .map(|r| RuntimeWire { name: r.name.clone(), program: r.found.works().then(|| r.program.clone()) });
    FactsWire {
        kernel_major: facts.kernel.major,
        kernel_minor: facts.kernel.minor,
        user_namespaces: facts.user_namespaces,
        proc_mountable: facts.proc_mountable,
        time_namespaces: facts.time_namespaces,
        cgroup2: facts.cgroup2,
        controllers: controllers.iter().filter(|(_, on)| *on).map(|(name, _)| name.to_string()).collect(),
        seccomp: facts.seccomp,
        landlock_abi: facts.landlock_abi,
        overlay: facts.overlay,
        idmapped_mounts: facts.idmapped_mounts,
        memfd_noexec: facts.memfd_noexec,
        levels: Level::ALL.map(level).into(),
        runtimes: runtimes.collect(),
        allow_degraded,
        minimal_enabled,
        checks: checks.into(),
    }
}

/// Tries out what an engine would find, beside one that may run: no lease is taken, nobody's cgroup is touched, and
/// nothing is left.
pub fn probe(options: &Options) -> Result<Probed, StartError> {
    let config = &options.config;
    if !nix::unistd::geteuid().is_root() {
        return Err(StartError::NotRoot);
    }
    // It takes less than a second, and what it made must be removed first.
    signal_mask().thread_block().named("signals")?;
    // The limit of descriptors is asked for as it is; this one is only lowered, as an engine lowers its own.
    if let Err(e) = core_limit() {
        tracing::debug!(error = %e, "core limit");
    }
    let name = format!("sandkeep-probe-{}", std::process::id());
    let cgroup = cgroup::try_out(&name);
    // Where it can have no mount namespace, mounting fails too, and that is what will be told.
    if let Err(e) = unshare(CloneFlags::CLONE_NEWNS).map_err(Into::into).and_then(|()| mount::make_private(c"/")) {
        tracing::debug!(error = %e, "mount namespace");
    }
    let leases = leases::survey(config.host.lease_first_uid, config.host.lease_count);
    let empty = Empty::make(&config.run_dir, &name)?;
    let checks = checks(config, cgroup, leases, &empty.0)?;
    let facts = checks.facts();
    let facts = told(checks, &facts, config.allow_degraded, config.levels.minimal);
    Ok(Probed { version: env!("CARGO_PKG_VERSION").to_owned(), facts })
}

/// An empty directory that goes with this value.
struct Empty(PathBuf);

impl Empty {
    /// Where an engine would make its own, or as near to it as is there already.
    fn make(run_dir: &Path, name: &str) -> Result<Self, StartError> {
        let near = run_dir.ancestors().find(|dir| dir.is_dir()).unwrap_or(Path::new("/"));
        let make = |parent: &Path| {
            let path = parent.join(name);
            let made = DirBuilder::new().mode(0o700).create(&path).named(path.display().to_string());
            made.map(|()| Self(path))
        };
        // A host that lets nobody write there is told as one whose engine can not start by that engine, not here.
        make(near).or_else(|_| make(Path::new("/tmp")))
    }
}

impl Drop for Empty {
    fn drop(&mut self) {
        if let Err(e) = std::fs::remove_dir(&self.0)
            && e.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(path = %self.0.display(), error = %e, "left behind");
        }
    }
}
