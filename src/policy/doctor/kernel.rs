//! Findings about the kernel: what sandboxes are made of.

use super::super::needs::{LANDLOCK_FLOOR, Requirement};
use super::{Finding, Judge, Status};
use crate::spec::{Attempt, IdmapPlace, KernelVersion, LandlockAbi};

/// Debian 12's, the oldest that this project is tried on.
const KERNEL_OLDEST: KernelVersion = KernelVersion { major: 6, minor: 1 };
const PRIVATE: &str = "standard and strict";
const CONTAINER: &str = "inside a container: give it more (docker run --privileged), or run the engine outside of it";

impl Judge<'_> {
    pub(super) fn kernel(&self) -> Vec<Finding> {
        let c = self.checks;
        let old = c.kernel < KERNEL_OLDEST;
        let kernel = Finding::new(
            "kernel",
            "Kernel version",
            if old { Status::Warning } else { Status::Ok },
            c.release.clone(),
            "everything; the oldest kernel that is tried is 6.1",
        );
        let mut all = vec![kernel.mended_by("apt-get install linux-image-amd64 (Debian 12 or newer), then reboot")];
        all.push(self.capabilities());
        all.extend(self.namespaces());
        all
    }

    fn capabilities(&self) -> Finding {
        let missing = &self.checks.capabilities_missing;
        let (status, found) = match missing.as_slice() {
            [] => (Status::Ok, "all twelve".to_owned()),
            _ => (Status::Warning, format!("missing: {}", missing.join(" "))),
        };
        let needed_by = "the engine: launching, id maps, mounts, oom_score_adj";
        Finding::new("capabilities", "Capabilities of the engine", status, found, needed_by).mended_by(format!(
            "start the engine with them: CapabilityBoundingSet= of sandkeep-engine.service must hold {0}; in a container \
             docker run --cap-add each",
            missing.join(" ")
        ))
    }

    fn namespaces(&self) -> Vec<Finding> {
        let n = &self.checks.namespaces;
        let user = match (n.user, n.id_map) {
            (Attempt::Works, Attempt::Works) => "made as root, with a map of one id of the lease range".to_owned(),
            (Attempt::Works, map) => format!("made, but its id map can not be written: {map}"),
            (user, _) => format!("can not be made: {user}"),
        };
        let user = self.required(
            Requirement::UserNamespaces,
            self.facts.user_namespaces,
            "user_namespaces",
            "User namespaces",
            user,
            PRIVATE,
        );
        let proc_found = match n.proc_mount {
            Attempt::Works => "mounted in a user and pid namespace".to_owned(),
            Attempt::NotTried => "not tried: there is no user namespace to mount it in".to_owned(),
            refused => format!("can not be mounted in a user namespace: {refused}"),
        };
        let proc_mount = self.required(
            Requirement::ProcMount,
            n.proc_mount.works(),
            "proc_mount",
            "A fresh /proc in a user namespace",
            proc_found,
            PRIVATE,
        );
        let time = self.required(
            Requirement::TimeNamespaces,
            n.time.works(),
            "time_namespaces",
            "Time namespaces",
            n.time.to_string(),
            "standard and strict: the host's uptime is hidden",
        );
        vec![
            user.mended_by(self.mend_user_namespaces()),
            proc_mount.mended_by(self.mend_proc()),
            time.mended_by("a kernel with CONFIG_TIME_NS=y (5.6 or newer)"),
            self.user_namespace_policy(),
        ]
    }

    fn mend_user_namespaces(&self) -> String {
        let n = &self.checks.namespaces;
        let sysctl = "sysctl -w user.max_user_namespaces=63000 (to keep it, write it to a file in /etc/sysctl.d)";
        match (n.user, n.id_map.errno()) {
            (Attempt::Works, _) => format!(
                "the engine must hold CAP_SETUID and CAP_SETGID, and must not itself run in a user namespace that lacks \
                 the lease range from {}",
                self.checks.leases.first
            ),
            _ if n.user_max == Some(0) => sysctl.to_owned(),
            (Attempt::Failed { errno }, _) if errno == libc::ENOSPC || errno == libc::EUSERS => sysctl.to_owned(),
            (Attempt::Failed { errno: libc::EINVAL | libc::ENOSYS }, _) => "a kernel with CONFIG_USER_NS=y".to_owned(),
            _ if n.apparmor_restricts == Some(true) => {
                "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0, or an AppArmor profile for the engine with \
                 `userns,`"
                    .to_owned()
            }
            _ => format!("the engine must hold CAP_SYS_ADMIN; {CONTAINER}"),
        }
    }

    fn mend_proc(&self) -> String {
        let n = &self.checks.namespaces;
        match n.proc_mount {
            // AppArmor lets the namespace be made and then takes every right in it away.
            Attempt::Failed { errno: libc::EACCES } if n.apparmor_restricts == Some(true) => {
                "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0, or an AppArmor profile for the engine with \
                 `userns,`"
                    .to_owned()
            }
            Attempt::NotTried => "see user_namespaces".to_owned(),
            _ => format!(
                "the kernel allows it only where nothing is mounted over parts of the engine's own /proc: take such \
                 mounts away (ProtectKernelTunables=, ProtectProc= and the like of its unit); {CONTAINER}"
            ),
        }
    }

    /// Settings that are about processes without rights. The engine has CAP_SYS_ADMIN; whether they matter for it was
    /// found by doing.
    fn user_namespace_policy(&self) -> Finding {
        let n = &self.checks.namespaces;
        let mut settings = Vec::new();
        if let Some(max) = n.user_max {
            settings.push(format!("user.max_user_namespaces = {max}"));
        }
        if let Some(on) = n.apparmor_restricts {
            settings.push(format!("kernel.apparmor_restrict_unprivileged_userns = {}", u8::from(on)));
        }
        if let Some(on) = n.unprivileged_clone {
            settings.push(format!("kernel.unprivileged_userns_clone = {}", u8::from(on)));
        }
        let works = self.facts.user_namespaces && self.facts.proc_mountable;
        settings.push(if works {
            "the engine makes them as root, which worked".into()
        } else {
            "see user_namespaces and proc_mount".into()
        });
        let sandboxes = self.checks.room.sandboxes;
        let few = n.user_max.is_some_and(|max| max != 0 && max < u64::from(sandboxes));
        let status = match (works, few) {
            (_, true) => Status::Warning,
            (true, false) => Status::Ok,
            (false, false) => Status::Info,
        };
        let needed_by = "as many sandboxes at once as capacity.sandboxes allows";
        let finding =
            Finding::new("userns_policy", "Limits on user namespaces", status, settings.join("; "), needed_by);
        if few { finding.mended_by(format!("sysctl -w user.max_user_namespaces={}", sandboxes * 2)) } else { finding }
    }

    pub(super) fn fences(&self) -> Vec<Finding> {
        let c = self.checks;
        let seccomp = self.required(
            Requirement::Seccomp,
            c.seccomp.load.works(),
            "seccomp",
            "seccomp filters",
            match c.seccomp.load {
                Attempt::Works => "a filter was loaded".to_owned(),
                refused => format!("no filter can be loaded: {refused}"),
            },
            "every level",
        );
        let overlay = self.required(
            Requirement::Overlay,
            c.overlay.works(),
            "overlay",
            "A read-only overlay over /usr",
            c.overlay.to_string(),
            PRIVATE,
        );
        let mut all = vec![
            seccomp.mended_by(format!("a kernel with CONFIG_SECCOMP_FILTER=y; {CONTAINER}")),
            self.seccomp_actions(),
            self.landlock(),
            overlay.mended_by(match c.overlay.errno() {
                Some(libc::ENODEV) => {
                    "modprobe overlay (to keep it: echo overlay > /etc/modules-load.d/overlay.conf)".into()
                }
                Some(libc::EINVAL) => {
                    "/usr must not itself lie on two overlays: the kernel stacks no more than two".to_owned()
                }
                _ => format!("the engine must hold CAP_SYS_ADMIN; {CONTAINER}"),
            }),
        ];
        all.extend(self.idmapped_mounts());
        all.push(self.memfd());
        all.push(self.core());
        all
    }

    fn seccomp_actions(&self) -> Finding {
        let missing: Vec<&str> = self.checks.seccomp.missing.iter().map(|action| action.name()).collect();
        let (status, found) = if missing.is_empty() {
            (Status::Ok, "kill_process, errno, user_notif and log".to_owned())
        } else {
            (Status::Warning, format!("missing: {}", missing.join(", ")))
        };
        let needed_by = "every level: calls are refused with an errno, those of a foreign architecture kill";
        Finding::new("seccomp_actions", "Actions of seccomp filters", status, found, needed_by)
            .mended_by("kernel 5.0 or newer")
    }

    fn landlock(&self) -> Finding {
        let l = &self.checks.landlock;
        let found = match (l.abi, l.restrict) {
            (LandlockAbi::Has(abi), Attempt::Works) => {
                let later = [(3, "truncation"), (4, "TCP"), (6, "signals and abstract sockets")];
                let without: Vec<String> = later
                    .iter()
                    .filter(|(from, _)| abi < *from)
                    .map(|(from, what)| format!("{what} from ABI {from}"))
                    .collect();
                match without.as_slice() {
                    [] => format!("ABI {abi}, a directory was refused"),
                    _ => format!("ABI {abi}, a directory was refused; not held by it: {}", without.join(", ")),
                }
            }
            (LandlockAbi::Has(abi), refused) => format!("ABI {abi}, but a process can not restrict itself: {refused}"),
            (LandlockAbi::NotBuilt, _) => "not built into this kernel".to_owned(),
            (LandlockAbi::SwitchedOff, _) => match &l.modules {
                Some(modules) => format!("built, but not among the security modules in force ({modules})"),
                None => "built, but not among the security modules in force".to_owned(),
            },
            (LandlockAbi::Refused { errno }, _) => {
                format!("can not be asked for: {}", crate::spec::errno_text(errno))
            }
        };
        let works = self.facts.landlock_abi >= LANDLOCK_FLOOR;
        let needed_by = "standard and strict, at least ABI 2; minimal uses it where it is there";
        self.required(Requirement::Landlock, works, "landlock", "Landlock", found, needed_by).mended_by(match l.abi {
            LandlockAbi::SwitchedOff => {
                let modules = l.modules.as_deref().unwrap_or_default().split(',');
                let others: Vec<&str> = modules.filter(|m| !m.is_empty() && *m != "capability").collect();
                let list = std::iter::once("landlock").chain(others).collect::<Vec<_>>().join(",");
                format!(
                    "add lsm={list} to the kernel's command line (GRUB_CMDLINE_LINUX in /etc/default/grub, then \
                     update-grub) and reboot"
                )
            }
            LandlockAbi::NotBuilt => {
                "a kernel with CONFIG_SECURITY_LANDLOCK=y: Debian's have it from 6.1 on".to_owned()
            }
            LandlockAbi::Has(abi) if abi < LANDLOCK_FLOOR => "kernel 5.19 or newer".to_owned(),
            LandlockAbi::Has(_) | LandlockAbi::Refused { .. } => {
                format!("a seccomp filter around the engine must let landlock_* through; {CONTAINER}")
            }
        })
    }

    fn idmapped_mounts(&self) -> Vec<Finding> {
        let of = |place: IdmapPlace, id: &str, title: &str, failed: Status, needed_by: &str, fix: &str| {
            let check = self.checks.idmap.iter().find(|check| check.place == place)?;
            let name = if check.filesystem.is_empty() { "unknown filesystem" } else { check.filesystem.as_str() };
            let (status, found) = match check.idmap {
                Attempt::Works => (Status::Ok, format!("{name}: works")),
                refused => (failed, format!("{name}: {refused}")),
            };
            Some(Finding::new(id, title, status, found, needed_by).mended_by(fix))
        };
        [
            of(
                IdmapPlace::Image,
                "workspaces",
                "A filesystem in a file, mounted with an id map",
                Status::Warning,
                "workspaces, the tools for files, and languages that are compiled; no level",
                "apt-get install e2fsprogs; modprobe loop; the engine must reach /dev/loop-control and /dev/loop*",
            ),
            of(
                IdmapPlace::Usr,
                "idmap_usr",
                "Idmapped mounts of /usr",
                Status::Info,
                "nothing in this version",
                "a newer kernel",
            ),
            of(
                IdmapPlace::Tmpfs,
                "idmap_tmpfs",
                "Idmapped mounts of tmpfs",
                Status::Info,
                "volumes of one call in memory; without it they are files on the disk, which takes longer",
                "kernel 6.3",
            ),
        ]
        .into_iter()
        .flatten()
        .collect()
    }

    fn memfd(&self) -> Finding {
        let m = &self.checks.memfd;
        let host = m.host.map_or("not there".to_owned(), |value| value.to_string());
        let (status, found) = match m.refused {
            Attempt::Works => (
                Status::Ok,
                format!("vm.memfd_noexec is {host}; set to 2 in a pid namespace it refuses executable memfds"),
            ),
            _ if m.host.is_none() => {
                (Status::Info, "vm.memfd_noexec is not there: level strict refuses memfd_create instead".to_owned())
            }
            refused => (
                Status::Info,
                format!(
                    "vm.memfd_noexec is {host}, but can not be used ({refused}): strict refuses memfd_create instead"
                ),
            ),
        };
        let needed_by = "strict, for programs that use memfds without running them";
        Finding::new("memfd_noexec", "Memory files that can not be run", status, found, needed_by).mended_by(
            "kernel 6.3 or newer; on Debian 12 from backports: apt-get install -t bookworm-backports linux-image-amd64",
        )
    }

    /// From fs/coredump.c: a limit of exactly 1 byte ends a dump to a pipe before the helper is run; a dump to a socket
    /// (6.16 and later, a pattern that begins with `@`) looks at no limit.
    fn core(&self) -> Finding {
        let core = &self.checks.core;
        let pattern = &core.pattern;
        let needed_by =
            "every level: no program of the host may run, nor read a dump, because something crashes inside";
        let finding = |status, found| Finding::new("core_pattern", "Core dumps", status, found, needed_by);
        let sysctl = "sysctl -w kernel.core_pattern=core (to keep it, write it to a file in /etc/sysctl.d)";
        if !core.limit.works() {
            let found = format!("the core limit can not be set to 1 byte ({}); pattern {pattern:?}", core.limit);
            return finding(Status::Warning, found)
                .mended_by("LimitCORE=1 in sandkeep-engine.service, or CAP_SYS_RESOURCE for the engine");
        }
        if pattern.starts_with('@') {
            let found = format!("sent to a socket ({pattern:?}), for which the kernel looks at no limit");
            return finding(Status::Warning, found).mended_by(sysctl);
        }
        let found = if pattern.starts_with('|') {
            format!("piped ({pattern:?}), but never run for a sandbox: each has a core limit of 1 byte")
        } else {
            format!("{pattern:?}; each sandbox has a core limit of 1 byte")
        };
        finding(Status::Ok, found)
    }
}
