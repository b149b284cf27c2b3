//! Descriptors: closing all but some, placing them at given numbers.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use super::check;

/// Closes every descriptor of the process but `keep` (any order, duplicates allowed).
pub fn close_all_but(keep: &[RawFd]) -> io::Result<()> {
    let mut keep: Vec<u32> = keep.iter().filter_map(|&fd| u32::try_from(fd).ok()).collect();
    keep.sort_unstable();
    keep.dedup();
    let mut first = 0u32;
    for fd in keep {
        if fd > first {
            close_range(first, fd - 1)?;
        }
        first = fd + 1;
    }
    close_range(first, u32::MAX)
}

/// Closes descriptors `first..`.
pub fn close_from(first: RawFd) -> io::Result<()> {
    close_range(first as u32, u32::MAX)
}

fn close_range(first: u32, last: u32) -> io::Result<()> {
    // SAFETY: takes three integers. The caller owns the process's descriptors: these functions run in a fresh fork
    // that never returns to code holding an `OwnedFd` of a closed number.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, last, 0u32) }).map(drop)
}

/// A duplicate of `fd` at the lowest free number that is at least `least`, close-on-exec.
pub fn duplicate_above(fd: BorrowedFd<'_>, least: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: F_DUPFD_CLOEXEC takes an integer argument; the result is a new descriptor that nothing else owns.
    unsafe {
        let raw = check(libc::fcntl(fd.as_raw_fd(), libc::F_DUPFD_CLOEXEC, least).into())?;
        Ok(OwnedFd::from_raw_fd(raw as RawFd))
    }
}

/// Makes `target` a duplicate of `fd` that survives exec. `fd` must not be `target`.
pub fn place(fd: BorrowedFd<'_>, target: RawFd) -> io::Result<()> {
    // SAFETY: dup2 takes two integers. As with `close_range`, this runs in a fork that owns all its numbers.
    check(unsafe { libc::dup2(fd.as_raw_fd(), target) }.into()).map(drop)
}

/// Takes ownership of a descriptor that the process was born with.
///
/// Fails where `raw` is not open.
pub fn inherited(raw: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: F_GETFD only asks. The number came from whoever started the process, for this one taker.
    unsafe {
        check(libc::fcntl(raw, libc::F_GETFD).into())?;
        let fd = OwnedFd::from_raw_fd(raw);
        check(libc::fcntl(raw, libc::F_SETFD, libc::FD_CLOEXEC).into())?;
        Ok(fd)
    }
}

/// The extended attribute `name` of `path`, up to 64 bytes.
pub fn attribute(path: &std::path::Path, name: &str) -> io::Result<Vec<u8>> {
    use std::os::unix::ffi::OsStrExt;
    let path = std::ffi::CString::new(path.as_os_str().as_bytes())?;
    let name = std::ffi::CString::new(name)?;
    let mut value = vec![0u8; 64];
    // SAFETY: both strings are NUL-terminated; the buffer is passed with its own length.
    let read = unsafe { libc::getxattr(path.as_ptr(), name.as_ptr(), value.as_mut_ptr().cast(), value.len()) };
    value.truncate(check(read as libc::c_long)? as usize);
    Ok(value)
}
