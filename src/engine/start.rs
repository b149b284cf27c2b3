//! From the command line to the loop: rights given up, namespace of its own, leases, cgroups, templates, facts.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use caps::{CapSet, Capability, CapsHashSet};
use nix::sched::{CloneFlags, unshare};

use super::journal::Journal;
use super::leases::{LeaseError, Leases};
use super::monitor::{Monitor, Settings, signal_mask};
use super::survey;
use super::volumes::Table;
use crate::backend::cgroup::{Tree, TreeLimits};
use crate::backend::process::ProcessBackend;
use crate::backend::volume::{VolumeLimits, Volumes};
use crate::config::{Config, ConfigError, Source};
use crate::host;
use crate::launch::fault::{Fence, dropped};
use crate::launch::{Assets, LaunchError};
use crate::policy::plan::Rules;
use crate::policy::{BOX_ID_DEFAULT, FRONT_ID_DEFAULT};
use crate::spec::{CgroupChecks, IdmapPlace, LeaseChecks, LeaseState};
use crate::sys::process::{self, Resource};
use crate::sys::{mount, packet};
use crate::wire::{CapacityWire, OUTPUTS};

/// The configuration, checked to be root's, and where it came from.
#[derive(Debug)]
pub struct Options {
    pub config: Config,
    pub source: Source,
}

/// The engine can not serve.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("the engine must be started as root")]
    NotRoot,
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Lease(#[from] LeaseError),
    #[error(transparent)]
    Launch(#[from] LaunchError),
    #[error("{what}: {source}")]
    Io { what: String, source: io::Error },
}

pub(super) trait Named<T> {
    fn named(self, what: impl Into<String>) -> Result<T, StartError>;
}

impl<T, E: Into<io::Error>> Named<T> for Result<T, E> {
    fn named(self, what: impl Into<String>) -> Result<T, StartError> {
        self.map_err(|e| StartError::Io { what: what.into(), source: e.into() })
    }
}

/// What launching needs (see ARCHITECTURE.md); SYS_ADMIN is root in practice, the gain is in the code that holds it.
pub(super) const CAPABILITIES: [Capability; 12] = [
    Capability::CAP_SYS_ADMIN,
    Capability::CAP_SYS_CHROOT,
    Capability::CAP_SETUID,
    Capability::CAP_SETGID,
    Capability::CAP_SETPCAP,
    Capability::CAP_CHOWN,
    Capability::CAP_DAC_OVERRIDE,
    Capability::CAP_KILL,
    Capability::CAP_NET_ADMIN,
    Capability::CAP_MKNOD,
    Capability::CAP_SYS_PTRACE,
    Capability::CAP_SYS_RESOURCE,
];

/// The uid of `name`, or `default` where the host has no such user.
pub fn uid_of(name: &str, default: u32) -> u32 {
    nix::unistd::User::from_name(name).ok().flatten().map_or(default, |user| user.uid.as_raw())
}

/// Serves until SIGTERM.
pub fn run(options: Options) -> Result<(), StartError> {
    let Options { config, source } = options;
    if !nix::unistd::geteuid().is_root() {
        return Err(StartError::NotRoot);
    }
    // From here on a signal waits for the loop, which ends in order.
    signal_mask().thread_block().named("signals")?;
    // What is made for sandboxes must be readable in them, whatever the caller's mask is.
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o022));
    // Needs CAP_SYS_RESOURCE, which a container may withhold; the parent cgroup's cap holds all the same.
    if let Err(e) = fs::write("/proc/self/oom_score_adj", "-900") {
        tracing::warn!(error = %e, "oom_score_adj can not be lowered, ignoring");
    }
    // Sandboxes need a core limit of 1 byte, which one who was started with a hard limit of 0 (LimitCORE=0) could not
    // set from inside a user namespace. Nor does what this process knows belong into a core file.
    if let Err(e) = core_limit() {
        tracing::warn!(error = %e, "the core limit can not be set to 1 byte");
    }
    // Each sandbox holds a few, each end of a detached one that nobody has taken holds three.
    let mut instance = [0; 8];
    getrandom::fill(&mut instance).map_err(io::Error::other).named("random bytes")?;
    let descriptors = process::raise(Resource::OpenFiles).named("open files")?;
    let run = Directories::make(&config.run_dir)?;
    let (journal, left) = Journal::open(&run.own.join("journal")).named("journal")?;
    let mut leases = Leases::claim(config.host.lease_first_uid, config.host.lease_count, left.next_uid)?;
    if let Some(next) = left.next_uid {
        leases.resume(next);
    }
    // A mount namespace of its own: templates are not seen by the host and go with the engine, however it ends.
    unshare(CloneFlags::CLONE_NEWNS).named("mount namespace")?;
    mount::make_private(c"/").named("mount namespace")?;
    let limits = tree_limits(&config)?;
    let name = match config.host.lease_first_uid {
        Some(first) => format!("sandkeep-{first}"),
        None if leases.slice() == 0 => "sandkeep".to_owned(),
        None => format!("sandkeep-{}", leases.slice()),
    };
    let tree = Tree::open(&name, &limits)?;
    for note in tree.iter().flat_map(|t| &t.notes) {
        tracing::warn!(note, "cgroup");
    }
    let cgroup = tree.as_ref().map_or_else(CgroupChecks::none, Tree::checks);
    let cgroup2 = cgroup.works();
    if tree.is_some() && !cgroup2 {
        tracing::warn!(born = %cgroup.born, killed = %cgroup.killed, "cgroup2 does not work as needed");
    }
    if !left.sandboxes.is_empty() {
        tracing::warn!(count = left.sandboxes.len(), "sandboxes of an engine that died were removed");
    }
    let box_id = uid_of(&config.host.box_user, BOX_ID_DEFAULT);
    let assets = Assets::make(&run.templates, box_id)?;
    let held = LeaseChecks { first: leases.first(), count: leases.count(), state: LeaseState::Held };
    let checks = survey::checks(&config, cgroup, held, &run.templates.join("empty"))?;
    let facts = checks.facts();
    // Probes needed no more than these, and neither does anything later.
    keep_capabilities().named("capabilities")?;
    let front_uid = uid_of(&config.host.front_user, FRONT_ID_DEFAULT);
    let socket = config.engine_socket();
    let listener = listen(&socket, front_uid).named(socket.display().to_string())?;
    let settings = Settings {
        complaint: None,
        rules: Rules {
            ceilings: config.ceilings,
            allow_degraded: config.allow_degraded,
            runtime_directories: config.runtime_directories(),
            box_id,
            top_level: host::top_level().named("/")?,
        },
        facts,
        checks,
        capacity: CapacityWire { sandboxes_max: config.capacity.sandboxes, memory_bytes_max: limits.memory_bytes },
        minimal_enabled: config.levels.minimal,
        front_uid,
        instance: u64::from_ne_bytes(instance),
        // A quarter of the descriptors.
        outputs_kept_max: (descriptors / (4 * OUTPUTS as u64)) as usize,
        source,
        config,
    };
    tracing::info!(
        socket = %socket.display(), leases_from = leases.first(), cgroup = name, facts = ?settings.facts, "engine ready"
    );
    let volumes = Volumes::open(settings.config.workspaces_dir(), run.volumes.clone(), box_id)?;
    let limits = VolumeLimits::from(settings.config.workspaces);
    let in_memory = settings.checks.idmap.iter().any(|c| c.place == IdmapPlace::Tmpfs && c.idmap.works());
    let volumes = Table::new(Some(volumes), limits, in_memory);
    let backend = ProcessBackend::new(assets, tree.filter(|_| cgroup2))?;
    let served = Monitor::new(settings, backend, leases, journal, volumes, listener).and_then(Monitor::run);
    fs::remove_file(&socket).named(socket.display().to_string())?;
    run.remove();
    served.named("engine")
}

pub(super) fn core_limit() -> io::Result<()> {
    if dropped(Fence::CoreLimit) { Ok(()) } else { process::limit(Resource::Core, 1) }
}

/// Directories below /run that are the engine's.
struct Directories {
    /// Root's alone.
    own: PathBuf,
    /// Where the templates are mounted, in the engine's own namespace.
    templates: PathBuf,
    /// Where volumes are, in the same way.
    volumes: PathBuf,
}

impl Directories {
    fn make(run_dir: &Path) -> Result<Self, StartError> {
        let own = run_dir.join("engine");
        DirBuilder::new().recursive(true).mode(0o755).create(run_dir).named(run_dir.display().to_string())?;
        let metadata = fs::symlink_metadata(run_dir).named(run_dir.display().to_string())?;
        if !metadata.is_dir() || metadata.uid() != 0 || metadata.mode() & 0o022 != 0 {
            let reason = io::Error::other("must be a directory of root's that nobody else can write to");
            return Err(reason).named(run_dir.display().to_string());
        }
        let templates = own.join("templates");
        let volumes = own.join("volumes");
        for dir in [&own, &templates, &volumes] {
            match DirBuilder::new().mode(0o700).create(dir) {
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                result => result.named(dir.display().to_string())?,
            }
        }
        Ok(Self { own, templates, volumes })
    }

    /// Best effort: an empty directory below /run harms nobody.
    fn remove(&self) {
        let _ = nix::mount::umount2(&self.templates, nix::mount::MntFlags::MNT_DETACH);
        let _ = fs::remove_dir(&self.templates);
        let _ = fs::remove_dir(&self.volumes);
        let _ = fs::remove_dir(&self.own);
    }
}

/// Capacity, with the host's size where none is configured.
pub(super) fn tree_limits(config: &Config) -> Result<TreeLimits, StartError> {
    use procfs::Current;
    let memory = procfs::Meminfo::current().map_err(io::Error::other).named("/proc/meminfo")?.mem_total;
    let cores = std::thread::available_parallelism().map_or(1, usize::from) as u32;
    Ok(TreeLimits {
        memory_bytes: config.capacity.memory_bytes.unwrap_or(memory / 4 * 3),
        pids: config.capacity.pids.into(),
        cpu_centipercent: config.capacity.cpu_centipercent.unwrap_or(cores * 10_000),
    })
}

/// Narrows this process to [`CAPABILITIES`], and what it executes to nothing more.
fn keep_capabilities() -> io::Result<()> {
    let wanted: CapsHashSet = CAPABILITIES.into_iter().collect();
    let held = caps::read(None, CapSet::Permitted).map_err(io::Error::other)?;
    let kept: CapsHashSet = held.intersection(&wanted).copied().collect();
    for capability in caps::read(None, CapSet::Bounding).map_err(io::Error::other)?.difference(&wanted) {
        caps::drop(None, CapSet::Bounding, *capability).map_err(io::Error::other)?;
    }
    caps::clear(None, CapSet::Inheritable).map_err(io::Error::other)?;
    caps::set(None, CapSet::Effective, &kept).map_err(io::Error::other)?;
    caps::set(None, CapSet::Permitted, &kept).map_err(io::Error::other)
}

/// The seam's socket, which only the front (and root) can open.
fn listen(path: &Path, front_uid: u32) -> io::Result<std::os::fd::OwnedFd> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let listener = packet::listener(path)?;
    fs::set_permissions(path, Permissions::from_mode(0o600))?;
    chown(path, Some(front_uid), None)?;
    Ok(listener)
}
