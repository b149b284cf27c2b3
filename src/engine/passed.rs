//! What kinds of descriptors a front may pass into a sandbox.
//!
//! Anonymous pipes and sealed memfds without an execute bit only. Anything with a place on the host (a file, a device, a socket) would be a
//! way in or out that no level knows of, and the engine changes the owner of what it passes on: of the host's own
//! /dev/null, if it let one through.

use std::os::fd::BorrowedFd;

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::stat::fstat;
use nix::sys::statfs::{FsType, fstatfs};

/// linux/magic.h.
const PIPEFS: FsType = FsType(0x5049_5045);

pub(super) fn is_pipe(fd: BorrowedFd<'_>) -> bool {
    fstatfs(fd).is_ok_and(|s| s.filesystem_type() == PIPEFS)
}

/// Only memfds (and hugetlbfs files) can be sealed; one that nobody can write to any more cannot carry anything back.
///
/// It must not be executable either: a memfd lies on no mount of the sandbox, so neither noexec nor Landlock would keep
/// a program in it from running at level strict. Its owner is the front, so nothing inside can change its mode.
fn is_sealed_memfd(fd: BorrowedFd<'_>) -> bool {
    fcntl(fd, FcntlArg::F_GET_SEALS)
        .is_ok_and(|seals| SealFlag::from_bits_truncate(seals).contains(SealFlag::F_SEAL_WRITE))
        && fstat(fd).is_ok_and(|s| s.st_mode & 0o111 == 0)
}

pub(super) fn may_be_passed(fd: BorrowedFd<'_>) -> bool {
    is_pipe(fd) || is_sealed_memfd(fd)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use nix::sys::memfd::{MFdFlags, memfd_create};

    use super::*;

    #[test]
    fn pipes_and_sealed_memfds_pass_and_nothing_else() {
        let (read, write) = nix::unistd::pipe().unwrap();
        assert!(may_be_passed(read.as_fd()) && may_be_passed(write.as_fd()));
        let memfd = memfd_create("t", MFdFlags::MFD_ALLOW_SEALING).unwrap();
        assert!(!may_be_passed(memfd.as_fd()));
        fcntl(&memfd, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_WRITE)).unwrap();
        assert!(!may_be_passed(memfd.as_fd()), "a memfd is born executable");
        nix::sys::stat::fchmod(&memfd, nix::sys::stat::Mode::from_bits_truncate(0o444)).unwrap();
        assert!(may_be_passed(memfd.as_fd()));
        for path in ["/dev/null", "/etc/passwd", "/tmp"] {
            assert!(!may_be_passed(std::fs::File::open(path).unwrap().as_fd()), "{path}");
        }
        let (a, _b) = std::os::unix::net::UnixStream::pair().unwrap();
        assert!(!may_be_passed(a.as_fd()));
    }
}
