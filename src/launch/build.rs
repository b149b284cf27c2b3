//! The engine's part of a launch: birth, id maps, the word to go on.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sched::{CloneFlags, setns};

use super::assets::Assets;
use super::channel::{ToInit, send};
use super::error::{LaunchError, Step};
use super::fault::{Fence, dropped};
use super::init::{self, Setup};
use super::readback::EngineView;
use crate::policy::plan::{Namespace, Plan};
use crate::sys::process::{self, Child};
use crate::sys::{packet, process::kill_pidfd};

/// A sandbox whose pid 1 is on its way; `Ready` or `Failed` arrives on the channel.
#[derive(Debug)]
pub struct Building {
    pub child: Child,
    pub channel: OwnedFd,
}

/// Network namespaces around the birth of pid 1, by descriptors.
#[derive(Debug, Clone, Copy)]
pub struct Network<'a> {
    /// The sandbox's, with `lo` up. A child that is in its user namespace could no longer join it.
    pub sandbox: BorrowedFd<'a>,
    /// The caller's own.
    pub own: BorrowedFd<'a>,
}

/// Brings the caller back into its own network namespace.
///
/// An engine that stayed in another would give it to level minimal as the host's. No kernel refuses this; if one did,
/// the engine's end ends all sandboxes, and the next engine begins where it should.
pub fn return_to(own: BorrowedFd<'_>) {
    if let Err(e) = setns(own, CloneFlags::CLONE_NEWNET) {
        tracing::error!(error = %e, "the way back into the own network namespace is closed");
        std::process::abort();
    }
}

/// Builds a sandbox for `plan` in the cgroup directory `cgroup`, under the host uid and gid `lease`. A network namespace of
/// the plan's is `network`, made before, or where there is none the sandbox makes its own.
///
/// Returns as soon as pid 1 may go on by itself. On an error no process is left.
pub fn build(
    plan: &Plan,
    lease: u32,
    assets: &Assets,
    engine: &EngineView,
    cgroup: Option<BorrowedFd<'_>>,
    network: Option<Network<'_>>,
) -> Result<Building, LaunchError> {
    let mounts = assets.prepare(plan, lease)?;
    let (ours, theirs) = packet::pair().step("channel", "")?;
    // The monitor never waits for one sandbox. Before the child exists: nothing must fail between its birth and its
    // place in the table.
    fcntl(&ours, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).step("channel", "")?;
    let user_namespace = plan.namespaces.contains(&Namespace::User);
    let id = if user_namespace { plan.box_id } else { lease };
    // Our end is close-on-exec but not close-on-fork: pid 1 closes it with all else that it was not given.
    if let Some(network) = network {
        setns(network.sandbox, CloneFlags::CLONE_NEWNET).step("network namespace", "enter")?;
    }
    let child = process::clone(clone_flags(plan, network.is_some()), cgroup, || {
        init::run(Setup { plan, id, engine, mounts: &mounts, loopback_raised: network.is_some(), channel: theirs })
    });
    if let Some(network) = network {
        return_to(network.own);
    }
    let child = child.step("clone3", "")?;
    let building = Building { child, channel: ours };
    let result = write_maps(&building, plan, lease, user_namespace).and_then(|()| {
        match send(building.channel.as_fd(), &ToInit::Go, &[]) {
            // Pid 1 has ended already. Why, it said on the channel before: that is the failure to tell, not this one.
            Err(e) if e.raw_os_error() == Some(libc::EPIPE) => Ok(()),
            result => result.step("go", ""),
        }
    });
    match result {
        Ok(()) => Ok(building),
        Err(e) => {
            kill_pidfd(building.child.pidfd.as_fd()).step("kill", "")?;
            let id = nix::sys::wait::Id::PIDFd(building.child.pidfd.as_fd());
            nix::sys::wait::waitid(id, nix::sys::wait::WaitPidFlag::WEXITED).step("reap", "")?;
            Err(e)
        }
    }
}

fn write_maps(building: &Building, plan: &Plan, lease: u32, user_namespace: bool) -> Result<(), LaunchError> {
    if !user_namespace {
        return Ok(());
    }
    let map = format!("{} {lease} 1\n", plan.box_id);
    for file in ["uid_map", "gid_map"] {
        // The pid is ours and not reaped, so it can not have become another process.
        std::fs::write(format!("/proc/{}/{file}", building.child.pid), &map).step("write map", file)?;
    }
    Ok(())
}

fn clone_flags(plan: &Plan, inherits_network: bool) -> libc::c_int {
    plan.namespaces.iter().fold(0, |flags, namespace| {
        flags
            | match namespace {
                Namespace::User => libc::CLONE_NEWUSER,
                Namespace::Pid => libc::CLONE_NEWPID,
                Namespace::Mount => libc::CLONE_NEWNS,
                Namespace::Net if dropped(Fence::NetNamespace) || inherits_network => 0,
                Namespace::Net => libc::CLONE_NEWNET,
                Namespace::Ipc if dropped(Fence::IpcNamespace) => 0,
                Namespace::Ipc => libc::CLONE_NEWIPC,
                Namespace::Uts if dropped(Fence::UtsNamespace) => 0,
                Namespace::Uts => libc::CLONE_NEWUTS,
                Namespace::Cgroup => libc::CLONE_NEWCGROUP,
                // Its offsets could not be written after clone3: pid 1 unshares it, and its children enter it.
                Namespace::Time => 0,
            }
    })
}
