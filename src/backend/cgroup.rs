//! The cgroup v2 subtree: found, delegated or made, its controllers enabled with every error honoured, one leaf a
//! sandbox.
//!
//! The cgroups-rs crate sets typed limits and reads counters on leaves made here. It never creates or deletes: it
//! hard-wires its mount point and ignores errors of subtree_control.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use cgroups_rs::MaxValue;
use cgroups_rs::cpu::CpuController;
use cgroups_rs::memory::{MemController, SetMemory};
use cgroups_rs::pid::PidController;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::{Mode, mkdirat};

use super::controllers::why_absent;
use crate::launch::{LaunchError, Step};
use crate::spec::{Attempt, CgroupChecks, CgroupReport, ControllerState, Controllers, Limits};
use crate::sys::process;

/// cpu.max is given in this period, the kernel's default (Documentation/admin-guide/cgroup-v2.rst).
const CPU_PERIOD_US: u64 = 100_000;
/// What the engine keeps of its memory however short the host is; several times what it holds.
const OWN_MEMORY_MIN_BYTES: u64 = 64 << 20;
/// How long a killed leaf may take to empty before it is left for the next start.
const EMPTY_WAIT: Duration = Duration::from_secs(2);

/// How long a leaf may take to be stopped.
const FREEZE_WAIT: Duration = Duration::from_millis(500);
const PATH_CHARS_MAX: usize = 512;
const CONTROLLERS: [&str; 3] = ["memory", "pids", "cpu"];

/// The directory below which every leaf lies.
#[derive(Debug)]
pub struct Tree {
    path: PathBuf,
    fd: OwnedFd,
    pub controllers: Controllers,
    /// What is not as it should be, one sentence each.
    pub notes: Vec<String>,
    /// In the order of [`CONTROLLERS`].
    states: [ControllerState; 3],
    site: Site,
}

/// What all sandboxes together may hold.
#[derive(Debug, Clone, Copy)]
pub struct TreeLimits {
    pub memory_bytes: u64,
    pub pids: u64,
    pub cpu_centipercent: u32,
}

/// Where cgroup2 is mounted, from mountinfo: on hybrid hosts it is not /sys/fs/cgroup.
pub fn find_mount() -> Option<PathBuf> {
    let mounts = procfs::process::Process::myself().ok()?.mountinfo().ok()?;
    mounts.into_iter().find(|m| m.fs_type == "cgroup2" && m.root == "/").map(|m| m.mount_point)
}

/// Where a subtree can lie.
#[derive(Debug, Clone)]
struct Site {
    mount: PathBuf,
    /// The calling process's cgroup, relative to the mount, before it moved.
    own: Option<String>,
    /// That cgroup is marked as delegated by systemd; it is then the base.
    delegated: bool,
    base: PathBuf,
}

impl Site {
    fn find() -> Option<Self> {
        let mount = find_mount()?;
        let all = procfs::process::Process::myself().and_then(|me| me.cgroups()).ok();
        let own = all.and_then(|all| all.into_iter().find(|c| c.hierarchy == 0)).map(|c| c.pathname);
        let path = own.as_deref().filter(|own| *own != "/").map(|own| mount.join(own.trim_start_matches('/')));
        let marked = |path: &PathBuf| {
            let is_marked = |name| crate::sys::fd::attribute(path, name).is_ok_and(|value| value == b"1");
            ["trusted.delegate", "user.delegate"].into_iter().any(is_marked)
        };
        let path = path.filter(marked);
        Some(Self { delegated: path.is_some(), base: path.unwrap_or_else(|| mount.clone()), mount, own })
    }

    /// Moves the calling process into the leaf `name` of a delegated base: a cgroup with processes of its own can not
    /// have controllers enabled for its children.
    fn step_aside(&self, name: &str) -> Result<(), LaunchError> {
        if !self.delegated {
            return Ok(());
        }
        let leaf = self.base.join(name);
        create(&leaf)?;
        fs::write(leaf.join("cgroup.procs"), "0").step("cgroup", leaf.display().to_string())
    }

    /// The subtree `name` with what controllers can be had. Errors are only about the directory.
    fn plant(&self, name: &str) -> Result<Tree, LaunchError> {
        let path = self.base.join(name);
        let mut states = CONTROLLERS.map(|controller| self.enable(&self.base, controller));
        create(&path)?;
        for (state, controller) in states.iter_mut().zip(CONTROLLERS) {
            if *state == ControllerState::Enabled {
                *state = self.enable(&path, controller);
            }
        }
        let on = |state: &ControllerState| *state == ControllerState::Enabled;
        let [memory, pids, cpu] = &states;
        let controllers = Controllers { memory: on(memory), pids: on(pids), cpu: on(cpu) };
        let wanting = CONTROLLERS.into_iter().zip(&states).filter(|(_, state)| !on(state));
        let notes = wanting.map(|(name, state)| format!("controller {name}: {state}")).collect();
        let fd = File::open(&path).step("cgroup", path.display().to_string())?.into();
        Ok(Tree { path, fd, controllers, notes, states, site: self.clone() })
    }

    fn enable(&self, directory: &Path, controller: &str) -> ControllerState {
        let available = read(&self.base.join("cgroup.controllers")).unwrap_or_default();
        if !available.split_whitespace().any(|c| c == controller) {
            return why_absent(controller, &self.base);
        }
        match fs::write(directory.join("cgroup.subtree_control"), format!("+{controller}")) {
            Ok(()) => ControllerState::Enabled,
            Err(e) => ControllerState::Refused {
                directory: told(&directory.display().to_string()),
                errno: e.raw_os_error().unwrap_or(libc::EIO),
            },
        }
    }

    fn enabled(&self) -> Vec<String> {
        let list = read(&self.base.join("cgroup.subtree_control")).unwrap_or_default();
        list.split_whitespace().map(str::to_owned).collect()
    }

    /// What is to be told of a subtree `states` whose leaf did what `trial` says.
    fn checks(&self, states: [ControllerState; 3], subtree: Attempt, trial: Trial) -> CgroupChecks {
        let [memory, pids, cpu] = states;
        CgroupChecks {
            mount: Some(told(&self.mount.display().to_string())),
            own: self.own.as_deref().map(told),
            delegated: self.delegated,
            subtree,
            born: trial.born,
            killed: trial.killed,
            frozen: trial.frozen,
            swap_limit: trial.swap_limit,
            memory,
            pids,
            cpu,
        }
    }
}

/// Paths are cut here: all checks together must fit into a packet.
pub(super) fn told(path: &str) -> String {
    path.chars().take(PATH_CHARS_MAX).collect()
}

/// What a subtree `name` would be like, found by making it, and removed again with everything that this took. No other
/// subtree is touched. A failure to clean up is logged: it is no property of the host.
pub fn try_out(name: &str) -> CgroupChecks {
    let Some(site) = Site::find() else { return CgroupChecks::none() };
    let (base, before) = (&site.base, site.enabled());
    let aside = format!("{name}-engine");
    let checks = match site.step_aside(&aside).and_then(|()| site.plant(name)) {
        Ok(tree) => tree.checks(),
        Err(e) => {
            let states = CONTROLLERS.map(|_| ControllerState::NoSubtree);
            site.checks(states, Attempt::Failed { errno: e.errno() }, Trial::default())
        }
    };
    let clean = |what: &str, result: io::Result<()>| match result {
        Err(e) if e.kind() != io::ErrorKind::NotFound => tracing::warn!(what, error = %e, "cgroup left behind"),
        _ => {}
    };
    clean(name, fs::remove_dir(base.join(name)));
    for controller in CONTROLLERS.iter().filter(|c| !before.iter().any(|b| b == *c)) {
        // Refused where somebody enabled it further below meanwhile, who then needs it; or where it never was on.
        let _ = fs::write(base.join("cgroup.subtree_control"), format!("-{controller}"));
    }
    if site.delegated {
        clean(&aside, fs::write(base.join("cgroup.procs"), "0"));
        clean(&aside, fs::remove_dir(base.join(&aside)));
    }
    checks
}

/// What a process in a leaf went through.
#[derive(Debug, Clone, Copy)]
struct Trial {
    born: Attempt,
    frozen: Attempt,
    killed: Attempt,
    swap_limit: Option<bool>,
}

impl Default for Trial {
    fn default() -> Self {
        Self { born: Attempt::NotTried, frozen: Attempt::NotTried, killed: Attempt::NotTried, swap_limit: None }
    }
}

impl Tree {
    /// Opens the subtree `name`: inside the engine's own cgroup where that is delegated, else at the top of the mount.
    ///
    /// Leaves of an earlier engine are killed and removed. `None`: the host has no cgroup2 mount.
    pub fn open(name: &str, limits: &TreeLimits) -> Result<Option<Self>, LaunchError> {
        let Some(site) = Site::find() else { return Ok(None) };
        site.step_aside("engine")?;
        let own = site.base.join("engine/memory.min");
        let mut tree = site.plant(name)?;
        // Counts as far as the cgroups above grant it (MemoryMin= of the units); without it the engine is reclaimed like
        // any of its sandboxes.
        if tree.controllers.memory
            && own.exists()
            && let Err(e) = fs::write(&own, OWN_MEMORY_MIN_BYTES.to_string())
        {
            tree.notes.push(format!("{}: {e}", own.display()));
        }
        tree.sweep()?;
        tree.limit(limits)?;
        Ok(Some(tree))
    }

    /// The directory.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// What this subtree gives. Found by doing.
    pub fn checks(&self) -> CgroupChecks {
        self.site.checks(self.states.clone(), Attempt::Works, self.trial())
    }

    /// Kills and removes every leaf.
    pub fn sweep(&self) -> Result<u32, LaunchError> {
        let mut removed = 0;
        for entry in fs::read_dir(&self.path).step("sweep", self.path.display().to_string())? {
            let entry = entry.step("sweep", self.path.display().to_string())?;
            if entry.file_type().is_ok_and(|t| t.is_dir()) {
                let leaf = Leaf::of(entry.path())?;
                leaf.kill()?;
                leaf.remove_within(EMPTY_WAIT)?;
                removed += 1;
            }
        }
        Ok(removed)
    }

    fn limit(&self, limits: &TreeLimits) -> Result<(), LaunchError> {
        let name = self.path.display().to_string();
        if self.controllers.memory {
            set_memory(&self.path, limits.memory_bytes).step("cgroup", format!("{name}/memory.max"))?;
        }
        if self.controllers.pids {
            set_pids(&self.path, limits.pids).step("cgroup", format!("{name}/pids.max"))?;
        }
        if self.controllers.cpu {
            set_cpu(&self.path, limits.cpu_centipercent).step("cgroup", format!("{name}/cpu.max"))?;
        }
        Ok(())
    }

    /// A new leaf without limits.
    pub fn bare_leaf(&self, name: &str) -> Result<Leaf, LaunchError> {
        let path = self.path.join(name);
        let made = mkdirat(&self.fd, name, Mode::from_bits_truncate(0o755)).and_then(|()| {
            openat(&self.fd, name, OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())
        });
        let fd = made.step("cgroup", path.display().to_string())?;
        Ok(Leaf { path, fd })
    }

    /// A new leaf with `limits`, read back.
    pub fn leaf(&self, name: &str, limits: &Limits) -> Result<(Leaf, CgroupReport), LaunchError> {
        let leaf = self.bare_leaf(name)?;
        match self.limit_leaf(&leaf, limits) {
            Ok(report) => Ok((leaf, report)),
            Err(e) => {
                // The limit's own error is what the caller must hear; a leaf left over is swept at the next start.
                let _ = leaf.remove_within(Duration::ZERO);
                Err(e)
            }
        }
    }

    fn limit_leaf(&self, leaf: &Leaf, limits: &Limits) -> Result<CgroupReport, LaunchError> {
        let path = &leaf.path;
        if self.controllers.cpu {
            set_cpu(path, limits.cpu_centipercent).step("cgroup", "cpu.max")?;
        }
        if self.controllers.memory {
            set_memory(path, limits.memory_bytes).step("cgroup", "memory.max")?;
            // swap.max is absent where the kernel accounts no swap; then there is none to limit.
            match fs::write(path.join("memory.swap.max"), "0") {
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                result => result.step("cgroup", "memory.swap.max")?,
            }
            fs::write(path.join("memory.oom.group"), "1").step("cgroup", "memory.oom.group")?;
        }
        if self.controllers.pids {
            set_pids(path, limits.pids.into()).step("cgroup", "pids.max")?;
        }
        self.read_back(leaf, limits)
    }

    /// What is in force for `leaf`, which must be `limits`.
    fn read_back(&self, leaf: &Leaf, limits: &Limits) -> Result<CgroupReport, LaunchError> {
        let mut report = CgroupReport { version: 2, ..CgroupReport::default() };
        if self.controllers.cpu {
            let max = leaf.read("cpu.max").step("cgroup", "cpu.max")?;
            let (quota, period) = max.split_once(' ').unwrap_or((max.as_str(), ""));
            report.cpu_max = Some((number(quota, "cpu.max")?, number(period, "cpu.max")?));
            report.controllers.push("cpu".into());
        }
        if self.controllers.memory {
            report.swap_max_bytes = match leaf.read("memory.swap.max") {
                Err(e) if e.kind() == io::ErrorKind::NotFound => None,
                result => Some(number(&result.step("cgroup", "memory.swap.max")?, "memory.swap.max")?),
            };
            report.oom_group = Some(leaf.read("memory.oom.group").step("cgroup", "memory.oom.group")? == "1");
            report.memory_max_bytes = Some(leaf.number("memory.max")?);
            report.controllers.push("memory".into());
        }
        if self.controllers.pids {
            report.pids_max = Some(leaf.number("pids.max")?);
            report.controllers.push("pids".into());
        }
        let page = 4096;
        let enforced =
            report.memory_max_bytes.is_none_or(|max| max <= limits.memory_bytes && limits.memory_bytes - max < page)
                && report.pids_max.is_none_or(|max| max == u64::from(limits.pids))
                && report.oom_group != Some(false)
                && report.swap_max_bytes.is_none_or(|max| max == 0)
                && report.cpu_max.is_none_or(|max| max == (quota_us(limits.cpu_centipercent), CPU_PERIOD_US));
        if enforced {
            Ok(report)
        } else {
            Err(io::Error::other("a limit reads back differently")).step("verify", "cgroup")
        }
    }

    /// Gives `leaf`, which had `before`, the limits `now`; reads back what is in force in any case.
    pub fn relimit(&self, leaf: &Leaf, before: &Limits, now: &Limits) -> Result<CgroupReport, LaunchError> {
        let counted = |l: &Limits| (l.cpu_centipercent, l.memory_bytes, l.pids);
        if counted(before) == counted(now) { self.read_back(leaf, now) } else { self.limit_leaf(leaf, now) }
    }

    /// Whether a process can be born into a leaf, stopped and killed through it.
    fn trial(&self) -> Trial {
        let failed = |e: &LaunchError| Attempt::Failed { errno: e.errno() };
        let mut trial = Trial::default();
        let leaf = match self.bare_leaf("probe") {
            Ok(leaf) => leaf,
            Err(e) => return Trial { born: failed(&e), ..trial },
        };
        trial.swap_limit = self.controllers.memory.then(|| leaf.path.join("memory.swap.max").exists());
        let child = process::clone(0, Some(leaf.fd()), || {
            loop {
                std::thread::sleep(Duration::from_secs(60));
            }
        });
        if child.is_ok() {
            trial.frozen = leaf.freeze(FREEZE_WAIT).map_or_else(|e| failed(&e), |()| Attempt::Works);
        }
        let mut killed = leaf.kill();
        if let Ok(child) = &child {
            if killed.is_err() {
                // One that is stopped takes a SIGKILL, too; the leaf's own failure is what is told.
                let _ = process::kill_pidfd(child.pidfd.as_fd());
            }
            let id = nix::sys::wait::Id::PIDFd(child.pidfd.as_fd());
            let reaped = nix::sys::wait::waitid(id, nix::sys::wait::WaitPidFlag::WEXITED).step("probe", "reap");
            killed = killed.and(reaped.map(drop));
        }
        trial.born = child.step("probe", "clone into cgroup").map_or_else(|e| failed(&e), |_| Attempt::Works);
        trial.killed = killed.map_or_else(|e| failed(&e), |()| Attempt::Works);
        if let Err(e) = leaf.remove_within(EMPTY_WAIT) {
            trial.killed = failed(&e);
        }
        trial
    }

    /// Whether it is still there: an operator or another program may have removed it.
    pub fn is_lost(&self) -> bool {
        !self.path.join("cgroup.procs").exists()
    }

    /// Removes the subtree at the very end.
    pub fn remove(self) -> Result<(), LaunchError> {
        match self.sweep().and_then(|_| fs::remove_dir(&self.path).step("cgroup", self.path.display().to_string())) {
            // Somebody else removed it: it is gone, as it should be.
            Err(e) if e.errno() == libc::ENOENT => Ok(()),
            result => result,
        }
    }
}

/// What the kernel holds for one sandbox, measured with a network namespace of its own.
const KERNEL_BYTES: u64 = 320 * 1024;

/// One sandbox's cgroup.
#[derive(Debug)]
pub struct Leaf {
    path: PathBuf,
    fd: OwnedFd,
}

impl Leaf {
    fn of(path: PathBuf) -> Result<Self, LaunchError> {
        let fd = File::open(&path).step("cgroup", path.display().to_string())?.into();
        Ok(Self { path, fd })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// For CLONE_INTO_CGROUP.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Kills every process in it, including ones that are being forked meanwhile.
    pub fn kill(&self) -> Result<(), LaunchError> {
        let file = openat(&self.fd, "cgroup.kill", OFlag::O_WRONLY | OFlag::O_CLOEXEC, Mode::empty());
        file.and_then(|file| nix::unistd::write(file, b"1")).map(drop).step("cgroup", "cgroup.kill")
    }

    /// Stops every process in it, within `wait`.
    fn freeze(&self, wait: Duration) -> Result<(), LaunchError> {
        fs::write(self.path.join("cgroup.freeze"), "1").step("cgroup", "cgroup.freeze")?;
        let deadline = Instant::now() + wait;
        while counter(&self.read("cgroup.events").step("cgroup", "cgroup.events")?, "frozen") != Some(1) {
            if Instant::now() >= deadline {
                return Err(io::Error::from_raw_os_error(libc::ETIMEDOUT)).step("cgroup", "cgroup.freeze");
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// User and system time of all its processes, dead ones included, in microseconds.
    pub fn cpu_us(&self) -> Option<u64> {
        counter(&self.read("cpu.stat").ok()?, "usage_usec")
    }

    /// Periods in which cpu.max throttled.
    pub fn throttled(&self) -> Option<u64> {
        counter(&self.read("cpu.stat").ok()?, "nr_throttled")
    }

    /// Forks refused at pids.max.
    pub fn refused_forks(&self) -> Option<u64> {
        PidController::new(self.path.clone(), true).get_pid_events().ok()
    }

    /// memory.events: processes that the OOM killer took, and allocations that hit the limit.
    pub fn memory_events(&self) -> Option<(u64, u64)> {
        let text = self.read("memory.events").ok()?;
        Some((counter(&text, "oom_kill")?, counter(&text, "max")?))
    }

    /// High-water mark of memory, where the kernel keeps one (5.19 and later).
    pub fn memory_peak(&self) -> Option<u64> {
        self.read("memory.peak").ok()?.trim_end().parse().ok()
    }

    /// The process of it that is `inner` in its innermost pid namespace.
    pub fn host_pid(&self, inner: i32) -> Option<i32> {
        let pids = self.read("cgroup.procs").ok()?;
        // A sandbox's own process is among its first; a fork bomb's others are not read through.
        pids.lines().take(256).filter_map(|pid| pid.parse::<i32>().ok()).find(|&pid| {
            let status = procfs::process::Process::new(pid).and_then(|p| p.status());
            status.is_ok_and(|s| s.nspid.is_some_and(|all| all.last() == Some(&inner)))
        })
    }

    /// The processes in it, by their numbers on the host.
    pub fn processes(&self) -> io::Result<Vec<i32>> {
        let number = |line: &str| line.parse().map_err(|_| io::Error::other("cgroup.procs holds no number"));
        self.read("cgroup.procs")?.lines().map(number).collect()
    }

    /// Largest resident set that a process in it has had, where no controller counts memory. Only while they live.
    pub fn largest_resident_set(&self) -> Option<u64> {
        let pids = self.read("cgroup.procs").ok()?;
        // Enough to be true of what a sandbox may run; the rest of a fork bomb's processes are copies.
        pids.lines()
            .take(64)
            .filter_map(|pid| procfs::process::Process::new(pid.parse().ok()?).ok()?.status().ok()?.vmhwm)
            .max()
            .map(|kib| kib * 1024)
    }

    /// Memory of its processes at this moment.
    pub fn memory_now(&self) -> Option<u64> {
        if let Ok(bytes) = self.number("memory.current") {
            return Some(bytes);
        }
        let pids = self.read("cgroup.procs").ok()?;
        let own = |pid: &str| {
            let status = procfs::process::Process::new(pid.parse().ok()?).ok()?.status().ok()?;
            Some((status.rssanon? + status.rssshmem?) * 1024)
        };
        Some(KERNEL_BYTES + pids.lines().take(64).filter_map(own).sum::<u64>())
    }

    /// Removes it; a leaf that still holds a dying process is tried again until `wait` is over.
    pub fn remove_within(&self, wait: Duration) -> Result<(), LaunchError> {
        let deadline = Instant::now() + wait;
        loop {
            match fs::remove_dir(&self.path) {
                Err(e) if e.raw_os_error() == Some(libc::EBUSY) && Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(1));
                }
                Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
                result => return result.step("cgroup", self.path.display().to_string()),
            }
        }
    }

    /// The engine reads several for each sandbox: from its directory, not from the root, and without asking for sizes that
    /// these files do not have.
    fn read(&self, file: &str) -> io::Result<String> {
        let file = openat(&self.fd, file, OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())?;
        let (mut text, mut chunk) = (Vec::new(), [0; 4096]);
        loop {
            match nix::unistd::read(&file, &mut chunk) {
                Ok(0) => break,
                Ok(n) => text.extend_from_slice(&chunk[..n]),
                Err(nix::errno::Errno::EINTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
        let text = String::from_utf8(text).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
        Ok(text.trim_end().to_owned())
    }

    fn number(&self, file: &str) -> Result<u64, LaunchError> {
        number(&self.read(file).step("cgroup", file)?, file)
    }
}

fn create(path: &Path) -> Result<(), LaunchError> {
    match fs::create_dir(path) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        result => result.step("cgroup", path.display().to_string()),
    }
}

fn read(path: &Path) -> io::Result<String> {
    Ok(fs::read_to_string(path)?.trim_end().to_owned())
}

fn number(text: &str, file: &str) -> Result<u64, LaunchError> {
    text.parse().map_err(|_| io::Error::other(format!("{text:?} is not a number"))).step("verify", file)
}

/// The value of `key` in a flat keyed file.
fn counter(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.parse().ok())
}

fn set_memory(path: &Path, bytes: u64) -> io::Result<()> {
    let max = Some(MaxValue::Value(bytes.min(i64::MAX as u64) as i64));
    let set = SetMemory { max, low: None, high: None, min: None };
    MemController::new(path.into(), true).set_mem(set).map_err(io::Error::other)
}

fn set_pids(path: &Path, most: u64) -> io::Result<()> {
    let max = MaxValue::Value(most.min(i64::MAX as u64) as i64);
    PidController::new(path.into(), true).set_pid_max(max).map_err(io::Error::other)
}

fn quota_us(centipercent: u32) -> u64 {
    CPU_PERIOD_US * u64::from(centipercent) / 10_000
}

fn set_cpu(path: &Path, centipercent: u32) -> io::Result<()> {
    CpuController::new(path.into(), true)
        .set_cfs_quota_and_period(Some(quota_us(centipercent) as i64), Some(CPU_PERIOD_US))
        .map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counter_is_found_by_its_whole_key() {
        let text = "low 0\nhigh 0\nmax 3\noom 1\noom_kill 2\noom_group_kill 1\n";
        assert_eq!(counter(text, "oom_kill"), Some(2));
        assert_eq!(counter(text, "oom"), Some(1));
        assert_eq!(counter(text, "oo"), None);
    }
}
