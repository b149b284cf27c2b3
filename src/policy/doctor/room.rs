//! Findings about what a host has only so much of, and about other programs on it.

use super::super::needs::Requirement;
use super::super::table::{MIB, table};
use super::{Finding, Judge, Status};
use crate::policy::RUNTIMES;
use crate::spec::{Attempt, LeaseState, Level};

/// Pidfd, channel, cgroup, a connection's share and the five of a command that waits: a detached one keeps three.
const DESCRIPTORS_A_SANDBOX: u64 = 8;

impl Judge<'_> {
    pub(super) fn room(&self) -> Vec<Finding> {
        let mut all = vec![self.leases(), self.memory(), self.swap(), self.descriptors(), self.processes()];
        all.extend(self.runtimes());
        all.push(self.docker());
        all
    }

    fn leases(&self) -> Finding {
        let l = &self.checks.leases;
        let last = l.first.saturating_add(l.count.saturating_sub(1));
        let range = format!("uids {} to {last}", l.first);
        let (status, found) = match &l.state {
            LeaseState::Held => (Status::Ok, format!("{range}, held by this engine")),
            LeaseState::Free => (Status::Ok, format!("{range}, free")),
            LeaseState::Taken => (Status::Info, format!("{range}, held by an engine that runs")),
            LeaseState::AllTaken => (Status::Failure, "every slice of the default range is held by engines".into()),
            LeaseState::Overlaps { with } => (Status::Failure, format!("{range} overlap {with}")),
            LeaseState::Failed { errno } => {
                (Status::Failure, format!("/run/sandkeep.leases: {}", crate::spec::errno_text(*errno)))
            }
        };
        let needed_by = "every level: each sandbox has a host uid that nothing else has";
        let finding = Finding::new("lease_range", "Host uids for sandboxes", status, found, needed_by);
        let finding = if l.usable() { finding } else { finding.prevents_start() };
        match l.state {
            LeaseState::Failed { .. } => finding.mended_by("make /run writable for root"),
            LeaseState::Taken => finding,
            _ => finding.mended_by(
                "set first_uid and count under [leases] in /etc/sandkeep/sandkeep.toml to a range that is free",
            ),
        }
    }

    fn memory(&self) -> Finding {
        let m = &self.checks.memory;
        let mib = |bytes: u64| bytes / MIB;
        let one = table(Level::Standard).memory_bytes.default;
        let found = format!(
            "{} of {} MiB available; sandboxes may be promised {} MiB together",
            mib(m.available_bytes),
            mib(m.total_bytes),
            mib(m.wanted_bytes)
        );
        let (status, fix) = if m.wanted_bytes > m.total_bytes {
            (Status::Warning, "set capacity.memory_mb to less than the host has")
        } else if m.available_bytes < one {
            (
                Status::Warning,
                "end other programs, or give the host more memory: one sandbox at standard may use 512 MiB",
            )
        } else {
            (Status::Ok, "")
        };
        let needed_by = "what sandboxes are promised, beside what the engine and the front keep (MemoryMin=)";
        Finding::new("memory", "Memory", status, found, needed_by).mended_by(fix)
    }

    fn swap(&self) -> Finding {
        let bytes = self.checks.memory.swap_bytes;
        let needed_by = "every level: a sandbox has no swap, so that its memory limit is one";
        let finding = |status, found: &str| Finding::new("swap", "Swap", status, found, needed_by);
        match (bytes, self.checks.cgroup.swap_limit) {
            (0, _) => finding(Status::Ok, "the host has none"),
            (_, Some(true)) => finding(Status::Ok, "the host has some, sandboxes are held to none"),
            (_, Some(false)) => finding(Status::Warning, "memory.swap.max is not there: sandboxes can be swapped out")
                .mended_by("add swapaccount=1 to the kernel's command line and reboot, or swapoff -a"),
            (_, None) => finding(Status::Info, "the host has some, and no memory controller holds sandboxes to none")
                .mended_by("see controller_memory, or swapoff -a"),
        }
    }

    fn descriptors(&self) -> Finding {
        let r = &self.checks.room;
        let needed = u64::from(r.sandboxes) * DESCRIPTORS_A_SANDBOX;
        let status = if r.descriptors < needed { Status::Warning } else { Status::Ok };
        let limit = if r.descriptors == u64::MAX { "no limit".to_owned() } else { r.descriptors.to_string() };
        let found = format!("{limit} for the engine; {} sandboxes may need {needed}", r.sandboxes);
        Finding::new("descriptors", "Open files", status, found, "as many sandboxes as capacity.sandboxes allows").mended_by(
            format!("LimitNOFILE={needed} in sandkeep-engine.service, ulimit -Hn {needed} by hand, or a smaller capacity.sandboxes"),
        )
    }

    fn processes(&self) -> Finding {
        let r = &self.checks.room;
        let most = r.pid_max.min(r.threads_max);
        // Memory ends most sandboxes long before: a small host is not ill.
        let status = if most < u64::from(r.processes) { Status::Info } else { Status::Ok };
        let found = format!(
            "kernel.pid_max {}, kernel.threads-max {}; sandboxes may have {} processes together",
            r.pid_max, r.threads_max, r.processes
        );
        Finding::new("processes", "Process ids", status, found, "as many processes as capacity.processes allows")
            .mended_by("sysctl -w kernel.pid_max=4194304 kernel.threads-max=63000, or a smaller capacity.processes")
    }

    fn runtimes(&self) -> Vec<Finding> {
        let finding = |name: &str, program: &str, found: Attempt| {
            let (status, found) = match found {
                Attempt::Works => (Status::Ok, program.to_owned()),
                refused => (Status::Warning, format!("{program}: {refused}")),
            };
            let package = program.rsplit('/').next().unwrap_or(program);
            Finding::new(&format!("runtime_{name}"), &format!("Runtime {name}"), status, found, &format!("tool {name}"))
                .mended_by(format!("apt-get install {package}"))
        };
        // A language that is not there is no fault of the host.
        let needed = |name: &str| RUNTIMES.iter().any(|(known, _)| *known == name);
        self.checks.runtimes.iter().filter(|r| needed(&r.name)).map(|r| finding(&r.name, &r.program, r.found)).collect()
    }

    fn docker(&self) -> Finding {
        let d = &self.checks.docker;
        let docker = match (&d.socket, d.ping) {
            (None, _) => "no Docker socket was found".to_owned(),
            (Some(socket), Attempt::Works) => format!("Docker answers at {socket}"),
            (Some(socket), silent) => format!("nothing answers at {socket}: {silent}"),
        };
        let found = format!("this version has no Docker backend; {docker}");
        self.required(Requirement::Docker, false, "docker", "Docker", found, "maximum")
    }
}
