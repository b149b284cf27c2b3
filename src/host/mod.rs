//! Asks the kernel what it has, by doing it. Each probe runs in a child of its own, which leaves nothing behind.

use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use crate::launch::channel::numbers;
use crate::policy::plan::TopLevel;
use crate::spec::{Controllers, HostFacts, KernelVersion};
use crate::sys::mount::{Attrs, clone_tree, cstring, idmap, new_filesystem};
use crate::sys::process::{self, WaitEnd, clone, exit_now, landlock_abi};
use crate::sys::{fd, packet};

/// Facts for `policy`. `cgroup2` and `controllers` are what the backend's subtree was found to give; `empty` is an
/// empty directory, `state` one whose filesystem will hold workspaces.
pub fn facts(cgroup2: bool, controllers: Controllers, empty: &Path, state: &Path) -> HostFacts {
    let (user_namespaces, proc_mountable, idmapped_mounts) = user_namespace(state);
    HostFacts {
        kernel: kernel(),
        user_namespaces,
        proc_mountable,
        time_namespaces: probe(0, process::unshare_time),
        cgroup2,
        controllers,
        seccomp: probe(0, || {
            nix::sys::prctl::set_no_new_privs()?;
            crate::sys::seccomp::install(crate::policy::seccomp::workload().program)
        }),
        landlock_abi: landlock_abi(),
        overlay: overlay(empty).is_ok(),
        idmapped_mounts,
        memfd_noexec: Path::new("/proc/sys/vm/memfd_noexec").exists(),
    }
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

fn kernel() -> KernelVersion {
    let release = nix::sys::utsname::uname().ok().and_then(|u| u.release().to_str().map(str::to_owned));
    let release = release.unwrap_or_default();
    let mut numbers = release.split(['.', '-']).map(|part| part.parse().unwrap_or(0));
    KernelVersion { major: numbers.next().unwrap_or(0), minor: numbers.next().unwrap_or(0) }
}

/// Whether `body` succeeds in a child in new namespaces `flags`.
fn probe(flags: libc::c_int, body: impl FnOnce() -> io::Result<()>) -> bool {
    let child = clone(flags, None, || exit_now(if body().is_ok() { 0 } else { 1 }));
    child.is_ok_and(|child| succeeded(child.pidfd.as_fd()))
}

fn succeeded(pidfd: std::os::fd::BorrowedFd<'_>) -> bool {
    let id = nix::sys::wait::Id::PIDFd(pidfd);
    let status = nix::sys::wait::waitid(id, nix::sys::wait::WaitPidFlag::WEXITED);
    let end = match status {
        Ok(nix::sys::wait::WaitStatus::Exited(_, code)) => WaitEnd::Exited(code),
        _ => WaitEnd::Signaled(0),
    };
    end == WaitEnd::Exited(0)
}

/// A user namespace with a map, a /proc of its own in there, and a mount idmapped through it.
fn user_namespace(state: &Path) -> (bool, bool, bool) {
    let Ok((ours, theirs)) = packet::pair() else { return (false, false, false) };
    let flags = libc::CLONE_NEWUSER | libc::CLONE_NEWPID | libc::CLONE_NEWNS;
    let child = clone(flags, None, || {
        // The parent's end must not keep the pair open.
        if fd::close_all_but(&numbers(std::slice::from_ref(&theirs))).is_err() {
            exit_now(1);
        }
        let mut byte = [0u8; 1];
        match packet::receive(theirs.as_fd(), &mut byte, 0) {
            Ok(Some(_)) => {}
            _ => exit_now(1),
        }
        let attrs = Attrs { no_exec: true, no_dev: true, read_only: false };
        exit_now(if new_filesystem(c"proc", &[], attrs).is_ok() { 0 } else { 2 })
    });
    let Ok(child) = child else { return (false, false, false) };
    let map = "1000 1879048192 1\n";
    let mapped = ["uid_map", "gid_map"].iter().all(|f| std::fs::write(format!("/proc/{}/{f}", child.pid), map).is_ok());
    let idmapped = mapped && idmap_through(child.pid, state).is_ok();
    let told = packet::send(ours.as_fd(), &[1], &[]).is_ok();
    drop(ours);
    let mounted = succeeded(child.pidfd.as_fd());
    (mapped, mapped && told && mounted, idmapped)
}

fn idmap_through(pid: i32, state: &Path) -> io::Result<()> {
    let userns = std::fs::File::open(format!("/proc/{pid}/ns/user"))?;
    let path = cstring(state.to_str().ok_or(io::ErrorKind::InvalidInput)?)?;
    let tree = clone_tree(nix::fcntl::AT_FDCWD, &path, false)?;
    idmap(tree.as_fd(), userns.as_fd())
}

fn overlay(empty: &Path) -> io::Result<()> {
    let lower = cstring(&format!("/usr:{}", empty.display()))?;
    let attrs = Attrs { read_only: true, no_exec: true, no_dev: true };
    new_filesystem(c"overlay", &[(c"lowerdir", Some(&lower))], attrs).map(drop)
}
