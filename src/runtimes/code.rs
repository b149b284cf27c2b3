//! Code on its way into a sandbox.

use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::os::fd::OwnedFd;

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::stat::{Mode, fchmod};

/// `text` as an anonymous file that nobody can change any more, read from its beginning.
pub(super) fn sealed(text: &str) -> io::Result<OwnedFd> {
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    // A host with vm.memfd_noexec = 2 refuses a memfd that may be executed; a kernel before 6.3 does not know the flag.
    let fd = match memfd_create(c"code", flags | MFdFlags::from_bits_retain(MFD_NOEXEC_SEAL)) {
        Err(nix::errno::Errno::EINVAL) => memfd_create(c"code", flags)?,
        made => made?,
    };
    // Without that flag it is born executable, and the engine passes nothing on that could be run.
    fchmod(&fd, Mode::from_bits_truncate(0o444))?;
    let mut file = File::from(fd);
    file.write_all(text.as_bytes())?;
    file.seek(SeekFrom::Start(0))?;
    let seals = SealFlag::F_SEAL_SEAL | SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_WRITE;
    fcntl(&file, FcntlArg::F_ADD_SEALS(seals))?;
    Ok(file.into())
}

/// linux/memfd.h, since 6.3.
const MFD_NOEXEC_SEAL: u32 = 0x0008;

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn code_can_be_read_and_not_changed() {
        let mut file = File::from(sealed("echo a").unwrap());
        let mut text = String::new();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(text, "echo a");
        assert_eq!(file.write(b"x").unwrap_err().raw_os_error(), Some(nix::libc::EPERM));
        assert_eq!(file.set_len(0).unwrap_err().raw_os_error(), Some(nix::libc::EPERM));
    }
}
