//! A volume for a sandbox that is complete and in which no command has run yet.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::fcntl::{AT_FDCWD, OFlag, open};
use nix::sched::{CloneFlags, setns};
use nix::sys::stat::{Mode, fstat};
use nix::sys::statvfs::{FsFlags, fstatvfs};

use super::error::{LaunchError, Step};
use super::fault::{Fence, dropped};
use crate::policy::plan::{Namespace, Plan};
use crate::policy::volume::VolumePlan;
use crate::spec::VolumeReport;
use crate::sys::mount::{self, Attrs, attach, clone_tree, cstring};
use crate::sys::{packet, process};

/// Mounts a copy of what is at `source` where `volume` says into the sandbox whose first process is `pid`, a child of the
/// caller that has not been reaped. `own` is the caller's own mount namespace.
///
/// On the disk everything belongs to the inner id; the copy's id map makes that the lease, whichever it is. An error may leave
/// it mounted: the sandbox must not be used.
pub fn give(
    own: BorrowedFd<'_>,
    pid: i32,
    lease: u32,
    plan: &Plan,
    source: &Path,
    volume: &VolumePlan,
) -> Result<VolumeReport, LaunchError> {
    let target = volume.place.path();
    let text = source.to_str().ok_or(io::ErrorKind::InvalidInput).step("volume", target)?;
    let copy = clone_tree(AT_FDCWD, &cstring(text).step("volume", target)?, false).step("volume", target)?;
    let read_only = volume.read_only && !dropped(Fence::ReadOnlyRoot);
    let no_exec = volume.no_exec && !dropped(Fence::NoExec);
    mount::restrict(copy.as_fd(), Attrs { read_only, no_exec, no_dev: true }, false).step("volume", target)?;
    let users = if plan.namespaces.contains(&Namespace::User) {
        File::open(format!("/proc/{pid}/ns/user")).step("volume", "user namespace")?.into()
    } else {
        mapping(plan.box_id, lease).step("volume", "id map")?
    };
    mount::idmap(copy.as_fd(), users.as_fd()).step("volume", "id map")?;

    // Its root is read-only and its mount points are ours: no link can lead elsewhere.
    let inside = format!("/proc/{pid}/root{target}");
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let place = || open(inside.as_str(), flags, Mode::empty());
    let point = place().step("volume", target)?;
    let theirs = File::open(format!("/proc/{pid}/ns/mnt")).step("volume", "mount namespace")?;
    // Only who is in a mount namespace can mount in it. Nothing is looked up by a path in there.
    setns(&theirs, CloneFlags::CLONE_NEWNS).step("volume", "enter")?;
    let attached = attach(copy.as_fd(), point.as_fd(), c"");
    return_to(own);
    attached.step("volume", target)?;

    let now = place().step("read back", target)?;
    let (stat, filesystem) = (fstat(&now).step("read back", target)?, fstatvfs(&now).step("read back", target)?);
    let wanted = fstat(&copy).step("read back", target)?;
    let flags = filesystem.flags();
    let as_wanted = (stat.st_dev, stat.st_ino) == (wanted.st_dev, wanted.st_ino)
        && (stat.st_uid, stat.st_gid) == (lease, lease)
        && flags.contains(FsFlags::ST_NOSUID | FsFlags::ST_NODEV)
        && flags.contains(FsFlags::ST_RDONLY) == read_only
        && flags.contains(FsFlags::ST_NOEXEC) == no_exec;
    if !as_wanted {
        return Err(io::Error::other("it is not mounted as it was asked for")).step("read back", target);
    }
    Ok(VolumeReport {
        path: target.to_owned(),
        read_only: flags.contains(FsFlags::ST_RDONLY),
        no_exec: flags.contains(FsFlags::ST_NOEXEC),
        bytes_max: filesystem.blocks() * filesystem.fragment_size(),
        files_max: filesystem.files(),
    })
}

/// An engine that stayed in a sandbox's mount namespace would look its own files up there.
fn return_to(own: BorrowedFd<'_>) {
    if let Err(e) = setns(own, CloneFlags::CLONE_NEWNS) {
        tracing::error!(error = %e, "the way back into the own mount namespace is closed");
        std::process::abort();
    }
}

/// A user namespace in which `inner` is `outer`, for the map alone: nobody is in it.
fn mapping(inner: u32, outer: u32) -> io::Result<OwnedFd> {
    let (ours, theirs) = packet::pair()?;
    let child = process::clone(libc::CLONE_NEWUSER, None, || {
        // Until it is told, or the other end has gone.
        let told = crate::sys::fd::close_all_but(&packet::raw(std::slice::from_ref(&theirs)))
            .and_then(|()| packet::receive(theirs.as_fd(), &mut [0], 0));
        process::exit_now(i32::from(told.is_err()))
    })?;
    let map = format!("{inner} {outer} 1\n");
    // The pid is ours and not reaped, so it can not have become another process.
    let write = |file| std::fs::write(format!("/proc/{}/{file}", child.pid), &map);
    let made = write("uid_map").and_then(|()| write("gid_map"));
    let made = made.and_then(|()| File::open(format!("/proc/{}/ns/user", child.pid)));
    drop(ours);
    process::kill_pidfd(child.pidfd.as_fd())?;
    nix::sys::wait::waitid(nix::sys::wait::Id::PIDFd(child.pidfd.as_fd()), nix::sys::wait::WaitPidFlag::WEXITED)?;
    made.map(Into::into)
}
