//! A caller's code on its way into a sandbox: an anonymous file, filled once and then sealed.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::stat::{Mode, fchmod};

/// linux/memfd.h, since 6.3.
const MFD_NOEXEC_SEAL: u32 = 0x0008;

/// An empty one. It can not be executed: a memfd lies on no mount, so neither noexec nor Landlock would hold a program in it.
pub fn empty() -> io::Result<OwnedFd> {
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    // A host with vm.memfd_noexec = 2 refuses a memfd that may be executed; a kernel before 6.3 does not know the flag.
    let fd = match memfd_create(c"code", flags | MFdFlags::from_bits_retain(MFD_NOEXEC_SEAL)) {
        Err(nix::errno::Errno::EINVAL) => memfd_create(c"code", flags)?,
        made => made?,
    };
    // Without that flag it is born executable, and the engine passes nothing on that could be run.
    fchmod(&fd, Mode::from_bits_truncate(0o444))?;
    Ok(fd)
}

/// Puts `text` into `fd` for good. Whoever reads finds it from the beginning: the position, which all copies of the
/// descriptor share, does not move.
pub fn fill(fd: OwnedFd, text: &[u8]) -> io::Result<OwnedFd> {
    let file = File::from(fd);
    file.write_all_at(text, 0)?;
    let seals = SealFlag::F_SEAL_SEAL | SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_WRITE;
    fcntl(&file, FcntlArg::F_ADD_SEALS(seals))?;
    Ok(file.into())
}

/// One that holds `text` and that nobody can change any more.
pub fn sealed(text: &[u8]) -> io::Result<OwnedFd> {
    fill(empty()?, text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    #[test]
    fn code_can_be_read_and_not_changed() {
        let mut file = File::from(sealed(b"echo a").unwrap());
        let mut text = String::new();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(text, "echo a");
        assert_eq!(file.write(b"x").unwrap_err().raw_os_error(), Some(nix::libc::EPERM));
        assert_eq!(file.set_len(0).unwrap_err().raw_os_error(), Some(nix::libc::EPERM));
    }

    #[test]
    fn a_copy_that_was_passed_on_before_reads_from_the_beginning() {
        let fd = empty().unwrap();
        let mut copy = File::from(fd.try_clone().unwrap());
        fill(fd, b"echo a").unwrap();
        let mut text = String::new();
        copy.read_to_string(&mut text).unwrap();
        assert_eq!(text, "echo a");
    }
}
