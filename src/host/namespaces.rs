//! User namespaces with what is built on them (a map, a /proc, idmapped mounts), and time namespaces.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::process::{Command, Stdio};

use nix::fcntl::{AT_FDCWD, OFlag, open};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::stat::Mode;
use nix::unistd::ftruncate;

use super::attempt::{attempt, code, ended, failed, of};
use super::{room, text};
use crate::launch::channel::numbers;
use crate::spec::{Attempt, IdmapCheck, IdmapPlace, NamespaceChecks};
use crate::sys::loop_device::LoopDevice;
use crate::sys::mount::{Attrs, clone_tree, filesystem_on, idmap, new_filesystem};
use crate::sys::process::{self, clone, exit_now};
use crate::sys::{fd, packet};

/// Sandboxes' own inner id is of no matter here.
const INNER_ID: u32 = 1000;

/// `lease` is a host uid that a map may name.
pub(super) fn checks(lease: u32) -> (NamespaceChecks, Vec<IdmapCheck>) {
    let mut found = NamespaceChecks {
        user: Attempt::NotTried,
        id_map: Attempt::NotTried,
        proc_mount: Attempt::NotTried,
        time: attempt(0, process::unshare_time),
        user_max: room::number("/proc/sys/user/max_user_namespaces"),
        apparmor_restricts: room::number("/proc/sys/kernel/apparmor_restrict_unprivileged_userns").map(|n| n != 0),
        unprivileged_clone: room::number("/proc/sys/kernel/unprivileged_userns_clone").map(|n| n != 0),
    };
    let mut mounts: Vec<IdmapCheck> = [
        (IdmapPlace::Image, "ext4 in a file".to_owned()),
        (IdmapPlace::Usr, filesystem(Path::new("/usr"))),
        (IdmapPlace::Tmpfs, "tmpfs".to_owned()),
    ]
    .map(|(place, filesystem)| IdmapCheck { place, filesystem, idmap: Attempt::NotTried })
    .into();
    if let Err(e) = in_user_namespace(lease, &mut found, &mut mounts) {
        found.user = failed(&e);
    }
    (found, mounts)
}

/// `Err`: there is no user namespace. Everything else is told in `found` and `mounts`.
fn in_user_namespace(lease: u32, found: &mut NamespaceChecks, mounts: &mut [IdmapCheck]) -> io::Result<()> {
    let (ours, theirs) = packet::pair()?;
    let flags = libc::CLONE_NEWUSER | libc::CLONE_NEWPID | libc::CLONE_NEWNS;
    let child = clone(flags, None, || exit_now(code(mount_proc_when_told(&theirs))))?;
    found.user = Attempt::Works;
    let map = format!("{INNER_ID} {lease} 1\n");
    // The pid is ours and not reaped, so it can not have become another process.
    let write = |file| fs::write(format!("/proc/{}/{file}", child.pid), &map);
    found.id_map = of(["uid_map", "gid_map"].into_iter().try_for_each(write));
    if found.id_map.works() {
        for check in mounts {
            check.idmap = of(idmap_through(child.pid, check.place));
        }
    }
    let told = found.id_map.works() && packet::send(ours.as_fd(), &[1], &[]).is_ok();
    // One that was not told sees the end of the socket, and ends.
    drop(ours);
    let proc_mount = ended(child.pidfd.as_fd());
    if told {
        found.proc_mount = proc_mount;
    }
    Ok(())
}

fn mount_proc_when_told(socket: &OwnedFd) -> io::Result<()> {
    // The parent's end must not keep the pair open.
    fd::close_all_but(&numbers(std::slice::from_ref(socket)))?;
    packet::receive(socket.as_fd(), &mut [0], 0)?.ok_or(io::ErrorKind::UnexpectedEof)?;
    let attrs = Attrs { no_exec: true, no_dev: true, read_only: false };
    new_filesystem(c"proc", &[], attrs).map(drop)
}

fn idmap_through(pid: i32, place: IdmapPlace) -> io::Result<()> {
    let userns = File::open(format!("/proc/{pid}/ns/user"))?;
    let tree = match place {
        IdmapPlace::Tmpfs => new_filesystem(c"tmpfs", &[], Attrs { no_exec: true, no_dev: true, read_only: false })?,
        IdmapPlace::Usr => clone_tree(AT_FDCWD, c"/usr", false)?,
        IdmapPlace::Image => image()?,
    };
    idmap(tree.as_fd(), userns.as_fd())
}

/// A filesystem in a file, made and mounted as a workspace's is; nothing of it is left when the mount is closed.
fn image() -> io::Result<OwnedFd> {
    const BYTES: i64 = 8 << 20;
    let file = memfd_create(c"probe", MFdFlags::MFD_CLOEXEC)?;
    ftruncate(&file, BYTES)?;
    let path = format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd());
    let mut command = Command::new("mke2fs");
    command.args(["-q", "-F", "-t", "ext4", "-O", "^has_journal", &path]).env_clear();
    let command = command.env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin").stdin(Stdio::null());
    if !command.stdout(Stdio::null()).stderr(Stdio::null()).status()?.success() {
        return Err(io::Error::from_raw_os_error(libc::EIO));
    }
    let device = LoopDevice::attach(file.as_fd())?;
    let attrs = Attrs { no_exec: true, no_dev: true, read_only: false };
    filesystem_on(c"ext4", device.path(), &[], attrs)
}

/// What the mount table calls the filesystem that `path` lies on; empty where that can not be found.
fn filesystem(path: &Path) -> String {
    let found = || -> Option<String> {
        let file = open(path, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty()).ok()?;
        let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", file.as_raw_fd())).ok()?;
        let id: i32 = info.lines().find_map(|line| line.strip_prefix("mnt_id:"))?.trim().parse().ok()?;
        let mounts = procfs::process::Process::myself().ok()?.mountinfo().ok()?;
        mounts.into_iter().find(|m| m.mnt_id == id).map(|m| text(&m.fs_type))
    };
    found().unwrap_or_default()
}
