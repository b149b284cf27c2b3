//! Sandboxes built by this process from namespaces, cgroups, seccomp and Landlock.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::cgroup::{Leaf, Tree};
use super::network::{NetworkNamespace, NetworkNamespaces};
use crate::launch::channel::CommandEnd;
use crate::launch::fault::{Fence, dropped};
use crate::launch::{self, Assets, EngineView, LaunchError, Report, Step};
use crate::policy::plan::{MountKind, Namespace, Plan};
use crate::policy::seccomp;
use crate::policy::volume::VolumePlan;
use crate::spec::{
    CgroupReport, Enforced, LimitHit, LimitKind, Limits, NetworkReport, Outcome, SandboxId, SeccompReport, VolumeReport,
};
use crate::sys::process::{Child, kill_pidfd};

/// What every sandbox of this backend is built from.
#[derive(Debug)]
pub struct ProcessBackend {
    assets: Assets,
    view: EngineView,
    tree: Option<Tree>,
    networks: Rc<NetworkNamespaces>,
    /// The engine's own mount namespace.
    mounts: OwnedFd,
}

/// One sandbox's processes and cgroup. Dropping it does not end it: `kill`, then `finish`.
#[derive(Debug)]
pub struct Live {
    child: Child,
    channel: OwnedFd,
    leaf: Option<Leaf>,
    lease: u32,
    cgroup: CgroupReport,
    /// Its own, and where that goes when nothing is left of it.
    network: Option<NetworkNamespace>,
    networks: Rc<NetworkNamespaces>,
}

/// The cgroup's counters at one moment.
#[derive(Debug, Clone, Copy, Default)]
pub struct Counters {
    pub cpu_us: Option<u64>,
    pub refused_forks: Option<u64>,
}

impl ProcessBackend {
    pub fn new(assets: Assets, tree: Option<Tree>) -> Result<Self, LaunchError> {
        let networks = Rc::new(NetworkNamespaces::open(tree.as_ref())?);
        let mounts = std::fs::File::open("/proc/self/ns/mnt").step("mount namespace", "own")?.into();
        Ok(Self { assets, view: EngineView::read()?, tree, networks, mounts })
    }

    /// Begins to build; `Ready` or `Failed` arrives on [`Live::channel`]. On an error nothing is left.
    pub fn build(&self, id: &SandboxId, plan: &Plan, lease: u32) -> Result<Live, LaunchError> {
        let (leaf, cgroup) = match &self.tree {
            Some(tree) => {
                let (leaf, report) = tree.leaf(id.as_str(), &plan.limits)?;
                (Some(leaf), report)
            }
            None => (None, CgroupReport::default()),
        };
        let wanted = plan.namespaces.contains(&Namespace::Net) && !dropped(Fence::NetNamespace);
        let taken = if wanted { self.networks.take() } else { Ok(None) };
        let built = taken.and_then(|network| {
            let around = network.as_ref().map(|n| launch::Network { sandbox: n.fd(), own: self.networks.own() });
            let cgroup = leaf.as_ref().map(Leaf::fd);
            launch::build(plan, lease, &self.assets, &self.view, cgroup, around).map(|building| (building, network))
        });
        let (building, network) = match built {
            Ok(built) => built,
            Err(e) => {
                self.networks.refill();
                // The launch's own error is what the caller must hear; a leaf left over is swept at the next start.
                if let Some(leaf) = &leaf {
                    let _ = leaf.remove_within(REMOVE_WAIT);
                }
                return Err(e);
            }
        };
        let networks = Rc::clone(&self.networks);
        Ok(Live { child: building.child, channel: building.channel, leaf, lease, cgroup, network, networks })
    }

    /// What is in force for `live`: what pid 1 read back, checked against the plan once more, and what the cgroup said.
    pub fn enforced(&self, live: &Live, plan: &Plan, report: &Report) -> Result<Enforced, LaunchError> {
        let id = if plan.namespaces.contains(&Namespace::User) { plan.box_id } else { live.lease };
        launch::verify(report, plan, id, &self.view)?;
        let profile = seccomp::for_level(plan.seccomp.level, plan.seccomp.memfd);
        let profile = profile.ok_or_else(|| std::io::Error::other("no profile")).step("verify", "seccomp")?;
        let has = |n| plan.namespaces.contains(&n);
        Ok(Enforced {
            uid: live.lease,
            gid: live.lease,
            namespaces: plan.namespaces.iter().map(|n| n.name().to_owned()).collect(),
            private_root: has(Namespace::User),
            network: if has(Namespace::Net) { NetworkReport::None } else { NetworkReport::Host },
            effective_capabilities: report.effective.clone(),
            bounding_capabilities: report.bounding.iter().map(|n| launch::capability(*n)).collect(),
            no_new_privs: report.no_new_privs,
            seccomp: SeccompReport {
                profile: profile.name.to_owned(),
                sha256: profile.sha256.to_owned(),
                denials_recorded: report.denials_recorded,
            },
            landlock: None,
            cgroup: live.cgroup.clone(),
            volumes: Vec::new(),
        })
    }

    /// Mounts a copy of what is at `source` into `live`, in which no command has run yet, and reads back what is there now.
    pub fn give(
        &self,
        live: &Live,
        plan: &Plan,
        source: &Path,
        volume: &VolumePlan,
    ) -> Result<VolumeReport, LaunchError> {
        launch::give(self.mounts.as_fd(), live.child.pid, live.lease, plan, source, volume)
    }

    /// Gives one that was built for `before` the limits `now`; fails where something else is in force after it.
    pub fn relimit(&self, live: &mut Live, before: &Limits, now: &Limits) -> Result<(), LaunchError> {
        if let (Some(tree), Some(leaf)) = (&self.tree, &live.leaf) {
            live.cgroup = tree.relimit(leaf, before, now)?;
        }
        Ok(())
    }

    /// Whether what sandboxes are built from has been taken away: no launch can succeed any more.
    pub fn is_lost(&self) -> bool {
        self.tree.as_ref().is_some_and(Tree::is_lost)
    }

    /// Removes the cgroup subtree; every sandbox must be gone.
    pub fn close(self) -> Result<(), LaunchError> {
        self.tree.map_or(Ok(()), Tree::remove)
    }
}

/// How long a leaf whose processes are all dead may stay busy in the kernel.
const REMOVE_WAIT: Duration = Duration::from_millis(200);

impl Live {
    pub fn channel(&self) -> BorrowedFd<'_> {
        self.channel.as_fd()
    }

    /// Readable once pid 1 is dead, and with it every process of its namespace.
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.child.pidfd.as_fd()
    }

    pub fn pid(&self) -> i32 {
        self.child.pid
    }

    /// The number on the host of the process that is `inner` inside; none where it has ended.
    pub fn host_pid(&self, inner: i32) -> Option<i32> {
        self.leaf.as_ref()?.host_pid(inner)
    }

    /// Whether it is as it was left: pid 1 alive, not stopped, with nothing to say.
    pub fn is_idle(&self) -> bool {
        is_silent(&[self.pidfd(), self.channel()]) && runs(self.child.pid)
    }

    /// A way to ask about its command, which must be its only process but pid 1.
    pub fn watched(&self) -> std::io::Result<Watched> {
        let pid1 = self.child.pid;
        let find = || {
            let children = std::fs::read_to_string(format!("/proc/{pid1}/task/{pid1}/children"))?;
            children.trim().parse::<i32>().map_err(|_| std::io::Error::from_raw_os_error(libc::ESRCH))
        };
        let pid = find()?;
        let pidfd = crate::sys::process::pidfd_open(pid)?;
        // Nobody else has got its number in between.
        if find()? == pid { Ok(Watched { pid, pidfd }) } else { Err(std::io::Error::from_raw_os_error(libc::ESRCH)) }
    }

    /// What the cgroup said when the limits were last set.
    pub fn cgroup(&self) -> &CgroupReport {
        &self.cgroup
    }

    /// Whether no process but pid 1 is left in its cgroup (pid 1 may have gone, too); `None` where it has no cgroup.
    pub fn is_alone(&self) -> Option<bool> {
        let leaf = self.leaf.as_ref()?;
        Some(leaf.processes().is_ok_and(|all| all.iter().all(|pid| *pid == self.child.pid)))
    }

    pub fn lease(&self) -> u32 {
        self.lease
    }

    pub fn cgroup_path(&self) -> Option<&Path> {
        self.leaf.as_ref().map(Leaf::path)
    }

    /// Kills everything: through the cgroup where there is one, and in any case pid 1, with which its namespace dies.
    pub fn kill(&self) -> Result<(), LaunchError> {
        let by_cgroup = self.leaf.as_ref().map_or(Ok(()), Leaf::kill);
        kill_pidfd(self.pidfd()).step("kill", "pid 1")?;
        by_cgroup
    }

    pub fn counters(&self) -> Counters {
        let leaf = self.leaf.as_ref();
        let refused = if self.cgroup.pids_max.is_some() { leaf.and_then(Leaf::refused_forks) } else { None };
        Counters { cpu_us: leaf.and_then(Leaf::cpu_us), refused_forks: refused }
    }

    /// High-water mark of memory where a memory controller counts.
    pub fn memory_peak(&self) -> Option<u64> {
        self.cgroup.memory_max_bytes?;
        self.leaf.as_ref()?.memory_peak()
    }

    /// What it takes now: as the memory controller counts, or its processes' own pages and an estimate of the kernel's.
    pub fn memory_now(&self) -> Option<u64> {
        self.leaf.as_ref()?.memory_now()
    }

    /// The nearest substitute where no memory controller counts: while the processes live.
    pub fn largest_resident_set(&self) -> Option<u64> {
        if self.cgroup.memory_max_bytes.is_some() { None } else { self.leaf.as_ref()?.largest_resident_set() }
    }

    /// Scratch mounts of `plan` without a free block or inode, looked at from outside, while pid 1 lives.
    pub fn full_mounts(&self, plan: &Plan) -> u32 {
        let full = |target: &str| {
            // The sandbox's root is read-only and its mount points are ours: no link can lead elsewhere.
            let path = format!("/proc/{}/root{target}", self.child.pid);
            nix::sys::statfs::statfs(path.as_str()).is_ok_and(|s| s.blocks_free() == 0 || s.files_free() == 0)
        };
        let scratch =
            plan.mounts.iter().filter(|m| matches!(m.kind, MountKind::Tmpfs { owned: true, .. }) && !m.read_only);
        scratch.filter(|m| full(&m.target)).count() as u32
    }

    /// What the kernel's counters say about the end: whether the OOM killer took it, and limits that were touched.
    pub fn verdict(&self, full_mounts: u32) -> (bool, Vec<LimitHit>) {
        let mut hits = Vec::new();
        let mut add = |kind, count: u64| {
            if count > 0 {
                hits.push(LimitHit { kind, count });
            }
        };
        let leaf = self.leaf.as_ref();
        let mut killed = false;
        if let Some((oom_kills, at_max)) = leaf.and_then(Leaf::memory_events) {
            killed = oom_kills > 0;
            add(LimitKind::Memory, at_max);
        }
        add(LimitKind::Pids, self.counters().refused_forks.unwrap_or(0));
        if self.cgroup.cpu_max.is_some() {
            add(LimitKind::Cpu, leaf.and_then(Leaf::throttled).unwrap_or(0));
        }
        add(LimitKind::Disk, full_mounts.into());
        (killed, hits)
    }

    /// Reaps pid 1, which must be dead, removes the cgroup and gives back the network namespace.
    pub fn finish(self) -> Result<(), LaunchError> {
        let id = nix::sys::wait::Id::PIDFd(self.child.pidfd.as_fd());
        nix::sys::wait::waitid(id, nix::sys::wait::WaitPidFlag::WEXITED | nix::sys::wait::WaitPidFlag::WNOHANG)
            .step("reap", "pid 1")?;
        let Some(leaf) = &self.leaf else { return Ok(()) };
        // Empty in all but a rare race with a fork.
        if leaf.remove_within(Duration::ZERO).is_err() {
            leaf.kill()?;
            leaf.remove_within(REMOVE_WAIT)?;
        }
        // A cgroup that could be removed had no process left that might hold a socket.
        if let Some(network) = self.network {
            self.networks.give_back(network);
        }
        Ok(())
    }
}

/// A process of a sandbox, by more than its number.
#[derive(Debug)]
pub struct Watched {
    pid: i32,
    pidfd: OwnedFd,
}

impl Watched {
    /// Whether it lives and was not stopped.
    pub fn is_there(&self) -> bool {
        is_silent(&[self.pidfd.as_fd()]) && runs(self.pid)
    }
}

fn is_silent(fds: &[BorrowedFd<'_>]) -> bool {
    let mut fds: Vec<PollFd<'_>> = fds.iter().map(|fd| PollFd::new(*fd, PollFlags::POLLIN)).collect();
    poll(&mut fds, PollTimeout::ZERO) == Ok(0)
}

/// Whether the main thread of `pid` is neither stopped nor dead, by its state in proc_pid_stat(5).
fn runs(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // A name may hold anything, a closing parenthesis too.
    stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with(['S', 'R', 'D']))
}

/// The command's own end in the words of the contract.
pub fn own_end(end: &CommandEnd, profile: &str) -> Outcome {
    match (end.exit_code, end.signal) {
        (Some(code), _) => Outcome::Exited { code },
        (None, Some(libc::SIGXFSZ)) => Outcome::DiskLimit,
        // The one thing that a profile kills for; everything else it answers with an error.
        (None, Some(libc::SIGSYS)) => {
            Outcome::Denied { rule: format!("seccomp/{profile}.json: system calls of another architecture") }
        }
        (None, Some(signal)) => Outcome::Signaled { signal },
        (None, None) => Outcome::EngineFault,
    }
}
