//! Trying something in a child, whose end says what came of it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};

use crate::spec::Attempt;
use crate::sys::process::{clone, exit_now};

/// Runs `body` in a child in new namespaces `flags` (CLONE_NEW*).
pub(super) fn attempt(flags: libc::c_int, body: impl FnOnce() -> io::Result<()>) -> Attempt {
    match clone(flags, None, || exit_now(code(body()))) {
        Ok(child) => ended(child.pidfd.as_fd()),
        Err(e) => failed(&e),
    }
}

/// The exit status that tells `result`: 0, or the errno.
pub(super) fn code(result: io::Result<()>) -> i32 {
    result.map_or_else(|e| errno(&e), |()| 0)
}

/// Waits for a child whose status is a [`code`].
pub(super) fn ended(pidfd: BorrowedFd<'_>) -> Attempt {
    match waitid(Id::PIDFd(pidfd), WaitPidFlag::WEXITED) {
        Ok(WaitStatus::Exited(_, 0)) => Attempt::Works,
        Ok(WaitStatus::Exited(_, errno)) => Attempt::Failed { errno },
        Ok(WaitStatus::Signaled(_, signal, _)) => Attempt::Killed { signal: signal as i32 },
        Ok(_) => Attempt::Failed { errno: libc::EIO },
        Err(e) => Attempt::Failed { errno: e as i32 },
    }
}

pub(super) fn failed(e: &io::Error) -> Attempt {
    Attempt::Failed { errno: errno(e) }
}

pub(super) fn of(result: io::Result<()>) -> Attempt {
    result.map_or_else(|e| failed(&e), |()| Attempt::Works)
}

/// EIO where the failure was not the kernel's. Linux's numbers end at 133 and so fit into an exit status.
fn errno(e: &io::Error) -> i32 {
    e.raw_os_error().filter(|errno| (1..=133).contains(errno)).unwrap_or(libc::EIO)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_errno_and_its_absence_survive_the_childs_end() {
        assert_eq!(attempt(0, || Ok(())), Attempt::Works);
        assert_eq!(
            attempt(0, || Err(io::Error::from_raw_os_error(libc::EPERM))),
            Attempt::Failed { errno: libc::EPERM }
        );
        assert_eq!(attempt(0, || Err(io::ErrorKind::Other.into())), Attempt::Failed { errno: libc::EIO });
        let killed = attempt(0, || Ok(nix::sys::signal::raise(nix::sys::signal::Signal::SIGKILL)?));
        assert_eq!(killed, Attempt::Killed { signal: 9 });
    }
}
