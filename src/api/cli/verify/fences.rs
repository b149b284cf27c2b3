//! The fences as data: what each is, where it is promised, which probes show it, and what each must say.

use crate::spec::Level;

/// One thing that a level promises.
pub(super) struct Fence {
    /// For `--fence` and reports. The names of launch steps that can be left out in test builds are among them.
    pub id: &'static str,
    pub area: &'static str,
    pub title: &'static str,
    /// Why a level does not promise it.
    pub not_promised: &'static [(Level, &'static str)],
    /// How the daemon's own sentence begins where a degraded host does not give it; empty where none can.
    pub degraded: &'static str,
}

const fn fence(area: &'static str, id: &'static str, title: &'static str) -> Fence {
    Fence { id, area, title, not_promised: &[], degraded: "" }
}

const fn except(fence: Fence, not_promised: &'static [(Level, &'static str)]) -> Fence {
    Fence { not_promised, ..fence }
}

const fn unless(fence: Fence, degraded: &'static str) -> Fence {
    Fence { degraded, ..fence }
}

const OWN_TREE: &[(Level, &str)] = &[(Level::Minimal, "minimal shows the host's own tree")];
const OWN_USER: &[(Level, &str)] = &[(Level::Minimal, "minimal has no user namespace")];
const OWN_NETWORK: &[(Level, &str)] = &[(Level::Minimal, "minimal shares the host's network")];
const OWN_NAME: &[(Level, &str)] = &[(Level::Minimal, "minimal shows the host's name")];
const OWN_CGROUPS: &[(Level, &str)] = &[(Level::Minimal, "minimal has no cgroup namespace")];
const OWN_CLOCK: &[(Level, &str)] = &[(Level::Minimal, "minimal shows the host's uptime")];
const MEMORY_FILES: &[(Level, &str)] = &[
    (Level::Minimal, "programs may run from memory files at minimal"),
    (Level::Standard, "programs may run from memory files at standard"),
];

/// What the daemon says of a controller that is not there begins so.
pub(super) const NO_MEMORY: &str = "cgroup v2 controller memory";
pub(super) const NO_PIDS: &str = "cgroup v2 controller pids";
pub(super) const NO_CPU: &str = "cgroup v2 controller cpu";
pub(super) const NO_CGROUP: &str = "cgroup2:";

/// In the order in which they are shown.
pub(super) const FENCES: &[Fence] = &[
    fence("launch", "launch", "a sandbox can be built"),
    fence("files", "private-root", "files and sockets of the host are out of reach"),
    fence("files", "host-read-only", "files of the host can not be written"),
    fence("files", "read-only-root", "what is no scratch is mounted read-only"),
    except(fence("files", "overlay", "programs are not the host's inodes"), OWN_TREE),
    fence("files", "mount-options", "no mount honours set-id bits or travels"),
    fence("files", "noexec", "nothing runs from where it should not"),
    except(fence("files", "memfd-noexec", "nothing runs from a memory file"), MEMORY_FILES),
    fence("files", "read-only-proc", "/proc is read-only"),
    fence("files", "masks", "/proc tells nothing of the host"),
    unless(fence("files", "landlock", "Landlock's rules are in force"), "Landlock ABI"),
    fence("processes", "pid-namespace", "processes of the host are out of reach"),
    fence("processes", "first-process", "pid 1 can not be read or traced"),
    fence("processes", "dumpable", "pid 1 is not dumpable"),
    fence("processes", "descriptors", "no descriptor of the engine's is held"),
    fence("processes", "core-limit", "no core is written or piped"),
    fence("processes", "lease", "a host uid of its own"),
    except(fence("namespaces", "user-namespace", "a user namespace of its own"), OWN_USER),
    fence("namespaces", "mount-namespace", "a mount namespace of its own"),
    fence("namespaces", "ipc-namespace", "an IPC namespace of its own"),
    except(fence("namespaces", "uts-namespace", "a host name of its own"), OWN_NAME),
    unless(except(fence("namespaces", "cgroup-namespace", "a cgroup namespace of its own"), OWN_CGROUPS), NO_CGROUP),
    unless(except(fence("namespaces", "time-namespace", "a time namespace of its own"), OWN_CLOCK), "time namespaces:"),
    unless(except(fence("namespaces", "time-offsets", "the host's uptime is not told"), OWN_CLOCK), "time namespaces:"),
    fence("namespaces", "new-namespaces", "no namespace can be made or entered"),
    except(fence("namespaces", "namespace-sysctls", "the kernel grants no namespace"), OWN_USER),
    fence("capabilities", "capabilities", "no capability is held or can be regained"),
    fence("capabilities", "no-new-privs", "no program gains a privilege"),
    fence("capabilities", "identity", "no other identity or priority can be taken"),
    fence("system calls", "seccomp", "the level's filter is in force"),
    fence("system calls", "workload-filter", "the command's own filter is in force"),
    except(fence("network", "net-namespace", "no network but its own loopback"), OWN_NETWORK),
    fence("devices", "devices", "no device but the six harmless ones"),
    fence("limits", "rlimits", "limits of each process"),
    fence("limits", "scratch-size", "scratch is bounded in bytes and files"),
    fence("limits", "file-size", "one file is bounded"),
    fence("limits", "memory-limit", "memory is bounded; beyond it the whole group ends"),
    fence("limits", "pids-limit", "processes are bounded"),
    fence("limits", "cpu-share", "the share of cpu is bounded"),
    unless(fence("limits", "cpu-time", "cpu time is bounded"), NO_CGROUP),
    fence("limits", "wall-clock", "time is bounded"),
    fence("limits", "output-cap", "output kept is bounded and a flood ended"),
    fence("leftovers", "end-of-call", "nothing outlives its call or holds it up"),
    fence("leftovers", "leftovers", "nothing is left on the host"),
    fence("reply", "report", "replies say what the host's /proc shows"),
];

/// What shows that a probe works where no fence is.
#[derive(Clone, Copy, Debug)]
pub(super) enum Control {
    /// Outside, as root, it says this.
    Root(&'static str),
    /// Outside, as an unprivileged user, it says this.
    Nobody(&'static str),
    /// Outside, as root, it says something else than inside.
    Differs,
    /// Outside, as root, made so that it can not work: any error but "not allowed" shows that it was reached.
    Reached,
    /// There is none, and why.
    No(&'static str),
}
use Control::{Differs, No, Nobody, Reached, Root};

/// A probe of the prober and what it must say inside. Alternatives are parted by `|`; `-` means it is not asked there.
pub(super) struct Check {
    pub fence: &'static str,
    pub probe: &'static str,
    pub control: Control,
    minimal: &'static str,
    standard: &'static str,
    strict: &'static str,
}

/// What the daemon told of its host, as far as expectations hang on it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Host {
    pub landlock_abi: u64,
    pub memfd_noexec: bool,
    /// Seconds since boot.
    pub boottime: f64,
    /// Verify's directory lies where even minimal shows nothing of the host's.
    pub hidden_dir: bool,
}

impl Check {
    /// What it must say at `level` on `host`; none where it is not asked.
    pub fn expected(&self, level: Level, host: &Host) -> Option<&'static str> {
        let said = match level {
            Level::Minimal => self.minimal,
            Level::Standard => self.standard,
            Level::Strict | Level::Maximum => self.strict,
        };
        let asked = match self.probe {
            // What an older ABI can not refuse, the level does not promise.
            "tcp_own_listener" => host.landlock_abi >= 4,
            "signal_pid1" => host.landlock_abi >= 6,
            "memfd_sysctl" => host.memfd_noexec,
            "host_file" | "path_socket_host" => level != Level::Minimal || host.hidden_dir,
            // Sandboxes count from 1,000 s: on a host that is about as old the two can not be told apart.
            "uptime" => !(900.0..1200.0).contains(&host.boottime),
            _ => true,
        };
        match (self.probe, said) {
            (_, "-") => None,
            _ if !asked => None,
            // A kernel that can not forbid executing memory files is refused the making of them.
            ("exec_memfd", "EACCES") if !host.memfd_noexec => Some("create:EPERM|create:ENOSYS"),
            _ => Some(said),
        }
    }
}

/// Whether `got` is one of the alternatives.
pub(super) fn is(got: &str, expected: &str) -> bool {
    expected.split('|').any(|e| e == got)
}

const fn all(fence: &'static str, probe: &'static str, control: Control, said: &'static str) -> Check {
    Check { fence, probe, control, minimal: said, standard: said, strict: said }
}

const fn private(fence: &'static str, probe: &'static str, control: Control, said: &'static str) -> Check {
    Check { fence, probe, control, minimal: "-", standard: said, strict: said }
}

const fn each(
    fence: &'static str,
    probe: &'static str,
    control: Control,
    minimal: &'static str,
    standard: &'static str,
    strict: &'static str,
) -> Check {
    Check { fence, probe, control, minimal, standard, strict }
}

const INSIDE_ONLY: Control = No("it would write to the host");
const MACHINE: Control = No("it is asked of the whole machine");
const MODULE: Control = No("outside it could load a module into the host's kernel");

/// Where several fences refuse the same attempt, its row accepts each one's answer and stands under what is promised;
/// the row that tells one fence from the others stands under that fence.
#[rustfmt::skip]
pub(super) const CHECKS: &[Check] = &[
    all("private-root", "host_file", Root("ok"), "ENOENT|EACCES"),
    all("private-root", "scratch_mark", No("another sandbox made it"), "ENOENT"),
    all("private-root", "path_socket_host", Root("ok"), "ENOENT|EACCES"),
    each("private-root", "root_home", Root("ok"), "EACCES", "ENOENT", "ENOENT"),
    each("private-root", "read_shadow", Root("ok"), "EACCES", "ENOENT", "ENOENT"),
    each("private-root", "write_cgroup", Root("ok"), "EACCES|EROFS|ENOENT", "ENOENT", "ENOENT"),
    private("private-root", "list_elsewhere", Nobody("ok"), "ENOENT"),
    all("host-read-only", "write_usr", Root("ok"), "EACCES|EROFS"),
    all("host-read-only", "write_etc", Root("ok"), "EACCES|EROFS"),
    all("host-read-only", "write_sysctl", Root("ok"), "EACCES|EROFS"),
    all("read-only-root", "mounts_readonly", Differs, "none"),
    all("read-only-root", "make_in_root", INSIDE_ONLY, "EROFS"),
    each("read-only-root", "write_workspace", INSIDE_ONLY, "ok", "ok", "EROFS"),
    private("overlay", "usr_file", Root("the host's"), "its own"),
    all("mount-options", "mounts_nosuid", Differs, "none"),
    all("mount-options", "device_node", No("a host's may be mounted so"), "none"),
    all("mount-options", "mounts_shared", No("a host's may be private"), "none"),
    all("noexec", "mounts_noexec", Differs, "none"),
    private("noexec", "exec_shm", Root("ok"), "EACCES"),
    each("noexec", "exec_scratch", Root("ok"), "ok", "ok", "EACCES"),
    each("noexec", "exec_script", Root("ok"), "ok", "ok", "EACCES"),
    each("noexec", "exec_by_loader", Root("ok"), "ok", "ok", "status:127"),
    all("noexec", "exec_program", Root("ok"), "ok"),
    each("memfd-noexec", "exec_memfd", Root("ok"), "-", "-", "EACCES"),
    each("memfd-noexec", "memfd_sysctl", Root("0|1"), "-", "-", "2"),
    all("read-only-proc", "proc_readonly", Differs, "none"),
    all("read-only-proc", "write_oom", Root("ok"), "EROFS"),
    all("read-only-proc", "write_uid_map", Root("ok"), "EROFS"),
    all("masks", "masks", Differs, "nothing"),
    each("landlock", "list_elsewhere", Nobody("ok"), "EACCES", "-", "-"),
    each("landlock", "tcp_own_listener", Nobody("ok"), "-", "EACCES", "-"),
    private("landlock", "signal_pid1", Nobody("ok"), "EPERM"),
    all("pid-namespace", "ns_pid", Root("the host's"), "its own"),
    all("pid-namespace", "own_pid_one", Root("the host's"), "the sandbox's"),
    all("pid-namespace", "kill_host", Nobody("ok"), "ESRCH"),
    all("pid-namespace", "affinity_host", Nobody("ok"), "ESRCH"),
    all("pid-namespace", "nice_host", Nobody("ok"), "ESRCH"),
    all("pid-namespace", "pidfd_host", Nobody("ok"), "ESRCH"),
    all("pid-namespace", "proc_host", Nobody("ok"), "ENOENT"),
    all("first-process", "pid1_mem", Root("ok"), "EACCES"),
    all("first-process", "pid1_environ", Root("ok"), "EACCES"),
    all("first-process", "pid1_maps", Root("ok"), "EACCES"),
    all("first-process", "pid1_root", Root("ok"), "EACCES"),
    all("first-process", "pid1_ns", Root("ok"), "EACCES"),
    all("first-process", "ptrace", Root("ok"), "EPERM"),
    all("first-process", "process_vm_readv", Root("EFAULT"), "EPERM"),
    all("first-process", "pidfd_getfd", Root("ok"), "EPERM"),
    all("first-process", "kcmp", Root("ok"), "EPERM"),
    all("dumpable", "pid1_owner", Nobody("its own"), "another's"),
    all("dumpable", "pid1_fd", Nobody("ok"), "EACCES"),
    all("core-limit", "limit_core", No("a host may limit it as well"), "1|0:file"),
    private("user-namespace", "ns_user", Root("the host's"), "its own"),
    all("mount-namespace", "ns_mnt", Root("the host's"), "its own"),
    all("ipc-namespace", "ns_ipc", Root("the host's"), "its own"),
    private("uts-namespace", "ns_uts", Root("the host's"), "its own"),
    private("uts-namespace", "hostname", Differs, "sandkeep"),
    private("cgroup-namespace", "ns_cgroup", Root("the host's"), "its own"),
    private("time-namespace", "ns_time", Root("the host's"), "its own"),
    private("time-offsets", "clock_offsets", Root("none"), "moved"),
    private("time-offsets", "uptime", Root("the host's"), "its own"),
    all("new-namespaces", "unshare_user", Root("ok"), "EPERM|ENOSPC"),
    all("new-namespaces", "unshare_mnt", Root("ok"), "EPERM|ENOSPC"),
    all("new-namespaces", "unshare_pid", Root("ok"), "EPERM|ENOSPC"),
    all("new-namespaces", "unshare_net", Root("ok"), "EPERM|ENOSPC"),
    all("new-namespaces", "unshare_ipc", Root("ok"), "EPERM|ENOSPC"),
    all("new-namespaces", "unshare_uts", Root("ok"), "EPERM|ENOSPC"),
    all("new-namespaces", "unshare_cgroup", Root("ok"), "EPERM|ENOSPC"),
    all("new-namespaces", "clone_user", Root("ok"), "EPERM|ENOSPC"),
    all("new-namespaces", "clone_mnt", Root("ok"), "EPERM|ENOSPC"),
    all("new-namespaces", "clone_pid", Root("ok"), "EPERM|ENOSPC"),
    all("new-namespaces", "clone_net", Root("ok"), "EPERM|ENOSPC"),
    all("new-namespaces", "clone_ipc", Root("ok"), "EPERM|ENOSPC"),
    all("new-namespaces", "clone_uts", Root("ok"), "EPERM|ENOSPC"),
    all("new-namespaces", "clone_cgroup", Root("ok"), "EPERM|ENOSPC"),
    all("new-namespaces", "setns_own", Root("ok"), "EPERM"),
    private("namespace-sysctls", "namespace_counts", Differs, "none"),
    all("capabilities", "capabilities", Differs, "none"),
    all("capabilities", "capset_all", Root("ok"), "EPERM"),
    all("capabilities", "file_caps", Root("ok"), "EPERM"),
    all("no-new-privs", "no_new_privs", No("a host may start programs so"), "1"),
    all("identity", "setuid_root", Root("ok"), "EPERM|EINVAL"),
    all("identity", "setgid_root", Root("ok"), "EPERM|EINVAL"),
    all("identity", "setgroups_root", Root("ok"), "EPERM"),
    all("identity", "prctl_securebits", Root("ok"), "EPERM"),
    all("identity", "prctl_keepcaps", Root("ok"), "EPERM"),
    all("identity", "nice_up", Root("ok"), "EPERM"),
    all("identity", "realtime", Root("ok"), "EPERM"),
    all("seccomp", "seccomp_mode", No("verify itself may run behind a filter"), "2"),
    all("seccomp", "add_key", Root("ok"), "EPERM"),
    all("seccomp", "prctl_seccomp", Reached, "EPERM"),
    all("seccomp", "keyctl", Reached, "EPERM"),
    all("seccomp", "request_key", Reached, "EPERM"),
    all("seccomp", "bpf", Reached, "EPERM"),
    all("seccomp", "perf_event_open", Reached, "EPERM"),
    all("seccomp", "userfaultfd", Reached, "EPERM"),
    all("seccomp", "io_uring_setup", Reached, "EPERM"),
    all("seccomp", "open_by_handle_at", Reached, "EPERM"),
    all("seccomp", "quotactl", Reached, "EPERM"),
    all("seccomp", "syslog", Reached, "EPERM"),
    all("seccomp", "clock_settime", Reached, "EPERM"),
    all("seccomp", "sethostname", Reached, "EPERM"),
    all("seccomp", "iopl", Reached, "EPERM"),
    all("seccomp", "modify_ldt", Reached, "EPERM"),
    all("seccomp", "fanotify_init", Reached, "EPERM"),
    all("seccomp", "process_madvise", Reached, "EPERM"),
    all("seccomp", "migrate_pages", Reached, "EPERM"),
    all("seccomp", "prlimit_pid1", Nobody("ok"), "EPERM"),
    all("seccomp", "mount_tmpfs", Reached, "EPERM"),
    all("seccomp", "mount_bind", Reached, "EPERM"),
    all("seccomp", "mount_remount", Reached, "EPERM"),
    all("seccomp", "umount", Reached, "EPERM"),
    all("seccomp", "pivot_root", Reached, "EPERM"),
    all("seccomp", "chroot", Reached, "EPERM"),
    all("seccomp", "fsopen", Root("ok"), "EPERM"),
    all("seccomp", "open_tree", Reached, "EPERM"),
    all("seccomp", "move_mount", Reached, "EPERM"),
    all("seccomp", "mount_setattr", Reached, "EPERM"),
    all("seccomp", "kexec_load", MACHINE, "EPERM"),
    all("seccomp", "init_module", MACHINE, "EPERM"),
    all("seccomp", "finit_module", MACHINE, "EPERM"),
    all("seccomp", "delete_module", MACHINE, "EPERM"),
    all("seccomp", "swapon", MACHINE, "EPERM"),
    all("seccomp", "acct", MACHINE, "EPERM"),
    all("seccomp", "reboot", MACHINE, "EPERM"),
    all("seccomp", "tiocsti", Reached, "EPERM"),
    all("seccomp", "tiocsti_dirty", Reached, "EPERM"),
    all("seccomp", "clone3", Reached, "ENOSYS"),
    all("seccomp", "x32_getpid", No("few kernels have that table"), "ENOSYS"),
    all("seccomp", "int80", Root("ok"), "died:31"),
    private("seccomp", "personality", Reached, "EPERM"),
    all("seccomp", "socket_packet", Reached, "EAFNOSUPPORT"),
    each("seccomp", "socket_raw", Reached, "EPERM", "EPERM", "EAFNOSUPPORT"),
    all("seccomp", "socket_vsock", MODULE, "EAFNOSUPPORT"),
    all("seccomp", "socket_alg", MODULE, "EAFNOSUPPORT"),
    all("seccomp", "socket_xdp", Reached, "EAFNOSUPPORT"),
    each("seccomp", "socket_netfilter", MODULE, "-", "EPROTONOSUPPORT", "EAFNOSUPPORT"),
    each("seccomp", "socket_audit", Reached, "-", "EPROTONOSUPPORT", "EAFNOSUPPORT"),
    each("seccomp", "socket_sock_diag", Reached, "-", "EPROTONOSUPPORT", "EAFNOSUPPORT"),
    each("seccomp", "socket_mptcp", Reached, "EPROTONOSUPPORT", "EPROTONOSUPPORT", "EAFNOSUPPORT"),
    each("seccomp", "socket_sctp", MODULE, "EPROTONOSUPPORT", "EPROTONOSUPPORT", "EAFNOSUPPORT"),
    each("seccomp", "socket_inet", Root("ok"), "-", "-", "EAFNOSUPPORT"),
    each("seccomp", "socket_inet6", Root("ok"), "-", "-", "EAFNOSUPPORT"),
    all("workload-filter", "landlock_create", Root("ok"), "EPERM"),
    all("workload-filter", "seccomp_filter", Reached, "EPERM"),
    all("workload-filter", "seccomp_listener", Reached, "EPERM"),
    private("net-namespace", "ns_net", Root("the host's"), "its own"),
    private("net-namespace", "interfaces", Differs, "lo"),
    private("net-namespace", "tcp_host", Nobody("ok"), "EACCES|ECONNREFUSED|EAFNOSUPPORT"),
    private("net-namespace", "mptcp_host", Nobody("ok"), "EPROTONOSUPPORT|ECONNREFUSED|EAFNOSUPPORT"),
    private("net-namespace", "abstract_host", Nobody("ok"), "ECONNREFUSED|EPERM"),
    private("net-namespace", "route_out", Nobody("ok"), "ENETUNREACH|EAFNOSUPPORT"),
    private("net-namespace", "route_metadata", Nobody("ok"), "ENETUNREACH|EAFNOSUPPORT"),
    private("devices", "device_names", Differs, "none"),
    all("devices", "host_devices", Differs, "none"),
    all("devices", "mknod_char", Root("ok"), "EPERM|EACCES"),
    all("devices", "mknod_block", Root("ok"), "EPERM|EACCES"),
    all("rlimits", "limits_over", Differs, "none"),
    all("scratch-size", "scratch_sizes", No("a host's are as large as they are"), "none"),
    all("scratch-size", "scratch_inodes", No("it would fill a file system of the host"), "ENOSPC"),
];

/// Mount points that must be read-only, noexec and nodev, in view of a level.
pub(super) struct MountWants {
    pub read_only: &'static [&'static str],
    pub no_exec: &'static [&'static str],
    pub no_dev: &'static [&'static str],
}

pub(super) fn mount_wants(level: Level) -> MountWants {
    let no_dev = &["/usr", "/tmp", "/workspace", "/dev/shm", "/proc"];
    match level {
        Level::Minimal => MountWants { read_only: &["/", "/run"], no_exec: &["/", "/run", "/proc"], no_dev },
        Level::Standard => MountWants {
            read_only: &["/", "/usr", "/etc", "/dev"],
            no_exec: &["/", "/etc", "/dev", "/dev/shm", "/proc"],
            no_dev,
        },
        Level::Strict | Level::Maximum => MountWants {
            read_only: &["/", "/usr", "/etc", "/dev", "/workspace"],
            no_exec: &["/", "/etc", "/dev", "/dev/shm", "/proc", "/tmp", "/workspace"],
            no_dev,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::cli::explain::explain;

    fn levels() -> [(Level, String); 3] {
        Level::PROCESS.map(|level| (level, explain(level)))
    }

    fn fence(id: &str) -> &'static Fence {
        FENCES.iter().find(|f| f.id == id).unwrap_or_else(|| panic!("no fence {id}"))
    }

    #[test]
    fn a_namespace_is_promised_where_the_level_has_it() {
        for (level, text) in levels() {
            let line = text.lines().find_map(|l| l.trim().strip_prefix("namespaces ")).unwrap();
            let given: Vec<&str> = line.split_whitespace().collect();
            for space in ["user", "pid", "mount", "net", "ipc", "uts", "cgroup", "time"] {
                let fence = fence(&format!("{space}-namespace"));
                let promised = !fence.not_promised.iter().any(|(l, _)| *l == level);
                assert_eq!(promised, given.contains(&space), "{level} {space}");
            }
        }
    }

    /// Each mount that a level makes read-only or noexec is asked for, and no other, unless the host's /usr is split.
    #[test]
    fn mounts_are_asked_for_as_the_level_makes_them() {
        for (level, text) in levels() {
            let list = text.lines().skip_while(|l| !l.starts_with("mounts")).skip(1);
            let made: Vec<Vec<&str>> = list
                .take_while(|l| l.starts_with("  /") && !l.contains("->"))
                .map(|l| l.split_whitespace().take(3).collect())
                .collect();
            let with = |n: usize, word: &str| -> Vec<&str> {
                let mut paths: Vec<&str> = made.iter().filter(|m| m[n] == word).map(|m| m[0]).collect();
                paths.sort_unstable();
                paths
            };
            let wants = mount_wants(level);
            let sorted = |paths: &[&'static str]| {
                let mut paths = paths.to_vec();
                paths.sort_unstable();
                paths
            };
            // /proc is a fence of its own.
            let read_only: Vec<&str> = with(1, "ro").into_iter().filter(|p| *p != "/proc").collect();
            assert_eq!(sorted(wants.read_only), read_only, "{level}");
            assert_eq!(sorted(wants.no_exec), with(2, "noexec"), "{level}");
        }
    }

    #[test]
    fn what_is_not_promised_is_not_asked_and_all_else_is() {
        let host = Host { landlock_abi: 7, memfd_noexec: true, boottime: 1e6, hidden_dir: true };
        let old = Host { landlock_abi: 2, memfd_noexec: false, boottime: 1000.0, hidden_dir: false };
        for check in CHECKS {
            assert!(FENCES.iter().any(|f| f.id == check.fence), "{}", check.fence);
            for level in Level::PROCESS {
                let promised = !fence(check.fence).not_promised.iter().any(|(l, _)| *l == level);
                assert!(promised || check.expected(level, &host).is_none(), "{} at {level}", check.probe);
            }
        }
        // An older kernel is asked less, but of each fence that a level promises something is left.
        for fence in FENCES {
            for level in Level::PROCESS {
                let asked = |host| CHECKS.iter().any(|c| c.fence == fence.id && c.expected(level, host).is_some());
                assert!(asked(&old) || !asked(&host) || fence.id == "landlock", "{} at {level}", fence.id);
            }
        }
    }

    #[test]
    fn every_probe_of_the_table_is_written() {
        let script = super::super::world::SCRIPT;
        for check in CHECKS {
            let probe = check.probe;
            let listed = ["unshare_", "clone_", "ns_", "socket_"].iter().any(|p| probe.starts_with(p));
            assert!(
                listed || script.contains(&format!("def {probe}()")) || script.contains(&format!("\"{probe}\"")),
                "{probe}"
            );
        }
        let mut pairs: Vec<_> = CHECKS.iter().map(|c| (c.fence, c.probe)).collect();
        let before = pairs.len();
        pairs.sort_unstable();
        pairs.dedup();
        assert_eq!(pairs.len(), before);
    }
}
