//! Findings about control groups: what holds limits and ends sandboxes.

use super::super::needs::Requirement;
use super::{Finding, Judge, Status};
use crate::spec::{Attempt, ControllerState};

const UNIT: &str = "systemctl edit sandkeep-engine.service, add under [Service]: Delegate=cpu memory pids";

impl Judge<'_> {
    pub(super) fn groups(&self) -> Vec<Finding> {
        let g = &self.checks.cgroup;
        let controller = |requirement, name: &str, state: &ControllerState, needed_by: &str, option: &str| {
            let enabled = *state == ControllerState::Enabled;
            let found = if enabled && !g.works() { "enabled, but see cgroup2".to_owned() } else { state.to_string() };
            let (id, title) = (format!("controller_{name}"), format!("cgroup v2 controller {name}"));
            self.required(requirement, enabled && g.works(), &id, &title, found, needed_by)
                .mended_by(self.mend_controller(name, state, option))
        };
        vec![
            self.cgroup2(),
            self.delegation(),
            controller(
                Requirement::MemoryController,
                "memory",
                &g.memory,
                "every level: memory limit and out_of_memory, of tmpfs and memfds too",
                "CONFIG_MEMCG=y",
            ),
            controller(
                Requirement::PidsController,
                "pids",
                &g.pids,
                "every level: limit of processes, refused forks counted",
                "CONFIG_CGROUP_PIDS=y",
            ),
            controller(
                Requirement::CpuController,
                "cpu",
                &g.cpu,
                "every level: share of cpu",
                "CONFIG_CFS_BANDWIDTH=y",
            ),
        ]
    }

    fn cgroup2(&self) -> Finding {
        let g = &self.checks.cgroup;
        let mount = g.mount.as_deref().unwrap_or_default();
        let found = match (&g.mount, g.subtree, g.born, g.killed, g.frozen) {
            (None, ..) => "no cgroup2 mount was found".to_owned(),
            (_, Attempt::Works, Attempt::Works, Attempt::Works, Attempt::Works) => {
                format!("at {mount}: a process was born into a leaf, stopped by cgroup.freeze, ended by cgroup.kill")
            }
            (_, Attempt::Works, Attempt::Works, Attempt::Works, frozen) => {
                format!("at {mount}: a process was born into a leaf and ended by cgroup.kill; cgroup.freeze: {frozen}")
            }
            (_, Attempt::Works, Attempt::Works, killed, _) => format!("at {mount}: cgroup.kill: {killed}"),
            (_, Attempt::Works, born, ..) => format!("at {mount}: no process can be born into a leaf: {born}"),
            (_, subtree, ..) => format!("at {mount}: no subtree can be made: {subtree}"),
        };
        let needed_by = "every level: a sandbox is ended by it, with everything that it forked";
        let finding = self.required(Requirement::Cgroup2, g.works(), "cgroup2", "cgroup v2", found, needed_by);
        let finding = if matches!(g.subtree, Attempt::Works | Attempt::NotTried) {
            finding
        } else {
            // The engine takes no tree that it can not clean up for granted.
            finding.prevents_start()
        };
        let subtree = g.subtree.errno();
        finding.mended_by(match (&g.mount, subtree.or(g.born.errno()).or(g.killed.errno())) {
            (None, _) if self.checks.systemd => unified(true, self.allow_degraded),
            (None, _) => "mount -t cgroup2 none /sys/fs/cgroup".to_owned(),
            (_, Some(libc::EROFS)) => format!(
                "mount -o remount,rw {mount}; in a container: docker run --privileged --cgroupns=private; for the unit: \
                 ProtectControlGroups=no"
            ),
            (_, Some(libc::ENOENT)) if subtree.is_none() => "kernel 5.14 or newer (cgroup.kill)".to_owned(),
            (_, Some(libc::EBUSY)) => format!("end what still runs below {mount} in the subtree named sandkeep"),
            _ => "the engine must be root with CAP_DAC_OVERRIDE; in a container it needs a writable cgroup".to_owned(),
        })
    }

    fn delegation(&self) -> Finding {
        let g = &self.checks.cgroup;
        let own = g.own.as_deref().unwrap_or("/");
        let finding = |status, found| {
            let needed_by = "living with systemd: it alone writes where it has delegated nothing";
            Finding::new("delegation", "Delegation of a cgroup", status, found, needed_by)
        };
        match &g.mount {
            None => finding(Status::Info, "there is no cgroup2 to delegate".to_owned()).mended_by("see cgroup2"),
            Some(_) if g.delegated => finding(Status::Ok, format!("systemd delegated {own}")),
            Some(mount) if !self.checks.systemd => {
                finding(Status::Ok, format!("no systemd on this host: the subtree lies at the top of {mount}"))
            }
            Some(mount) if own.ends_with(".service") => {
                finding(Status::Warning, format!("{own} is not delegated: the subtree lies at the top of {mount}"))
                    .mended_by(UNIT)
            }
            Some(mount) => finding(
                Status::Info,
                format!("tried from {own}, which is not the service: the subtree then lies at the top of {mount}"),
            )
            .mended_by("systemctl start sandkeep-engine.service, whose unit has Delegate="),
        }
    }

    fn mend_controller(&self, name: &str, state: &ControllerState, option: &str) -> String {
        match state {
            ControllerState::Enabled | ControllerState::NoSubtree => "see cgroup2".to_owned(),
            ControllerState::V1 { .. } => unified(self.checks.systemd, self.allow_degraded),
            ControllerState::SwitchedOff => format!(
                "take cgroup_disable={name} off the kernel's command line (where the firmware adds it: add \
                 cgroup_enable={name}) and reboot"
            ),
            ControllerState::NotBuilt => format!("a kernel with {option}"),
            ControllerState::NotOffered { .. } if self.checks.systemd => UNIT.to_owned(),
            ControllerState::NotOffered { directory } => format!(
                "in the cgroup above {directory}: echo +{name} > cgroup.subtree_control; in a container the host must do \
                 that"
            ),
            ControllerState::Refused { directory, errno: libc::EBUSY } => {
                format!("move the processes in {directory}/cgroup.procs into a cgroup below it; under systemd: {UNIT}")
            }
            ControllerState::Refused { errno: libc::EROFS, directory } => {
                format!("mount cgroup2 writable (mount -o remount,rw): {directory}")
            }
            ControllerState::Refused { errno: libc::EINVAL, .. } if name == "cpu" => {
                "end real-time processes outside of the root cgroup, or a kernel without CONFIG_RT_GROUP_SCHED"
                    .to_owned()
            }
            ControllerState::Refused { directory, .. } => {
                format!("the engine must be allowed to write {directory}/cgroup.subtree_control")
            }
        }
    }
}

/// How cgroup v1 gives its controllers back.
fn unified(systemd: bool, degrading_allowed: bool) -> String {
    let option = if systemd { "systemd.unified_cgroup_hierarchy=1" } else { "cgroup_no_v1=all" };
    let or = if degrading_allowed { "" } else { "; or allow what stands in: sandkeepd --allow-degraded" };
    format!(
        "add {option} to the kernel's command line (GRUB_CMDLINE_LINUX in /etc/default/grub, then update-grub) and \
         reboot{or}"
    )
}
