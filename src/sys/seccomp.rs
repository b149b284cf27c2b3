//! Installing a compiled filter on the calling thread, and answering what one of its listeners is asked.
#![allow(unsafe_code)]

use super::check;
use crate::policy::seccomp::Instruction;
use std::io;
use std::mem::{align_of, offset_of, size_of};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

const _: () = {
    assert!(size_of::<Instruction>() == size_of::<libc::sock_filter>());
    assert!(align_of::<Instruction>() == align_of::<libc::sock_filter>());
    assert!(offset_of!(Instruction, code) == offset_of!(libc::sock_filter, code));
    assert!(offset_of!(Instruction, jt) == offset_of!(libc::sock_filter, jt));
    assert!(offset_of!(Instruction, jf) == offset_of!(libc::sock_filter, jf));
    assert!(offset_of!(Instruction, k) == offset_of!(libc::sock_filter, k));
};

/// Adds a filter to the calling thread, for itself and everything it forks from then on. There is no way back.
///
/// The caller has set no_new_privs before, or holds CAP_SYS_ADMIN: else the kernel answers EACCES. Allocates nothing,
/// so that it may run between fork and exec.
pub fn install(program: &[Instruction]) -> io::Result<()> {
    set_filter(program, 0).map(drop)
}

/// As [`install`], and opens the filter's listener, close-on-exec. Calls for which the program returns
/// SECCOMP_RET_USER_NOTIF wait until [`answer`] has been given, also the caller's own: it must make none.
///
/// Once the listener is closed they get ENOSYS. A chain of filters has one at most (EBUSY).
pub fn install_with_listener(program: &[Instruction]) -> io::Result<OwnedFd> {
    // From linux/seccomp.h. With the second, which is younger (Linux 5.19), a call that was asked about waits on for its
    // answer where a signal comes, and so is not made and counted a second time.
    const NEW_LISTENER: libc::c_ulong = 1 << 3;
    const WAIT_KILLABLE_RECV: libc::c_ulong = 1 << 5;
    let fd = match set_filter(program, NEW_LISTENER | WAIT_KILLABLE_RECV) {
        Err(e) if e.raw_os_error() == Some(libc::EINVAL) => set_filter(program, NEW_LISTENER),
        result => result,
    }?;
    // SAFETY: with this flag the call returns a descriptor that it has just installed for this process.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

fn set_filter(program: &[Instruction], flags: libc::c_ulong) -> io::Result<libc::c_long> {
    // The kernel would refuse a longer program too, but a length past 16 bits would reach it cut off.
    let len = u16::try_from(program.len()).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
    let filter = program.as_ptr().cast::<libc::sock_filter>().cast_mut();
    let prog = libc::sock_fprog { len, filter };
    // SAFETY: seccomp(SECCOMP_SET_MODE_FILTER) reads one sock_fprog and the `len` sock_filters it points at, keeps no
    // pointer to them and writes nothing. `prog` lives across the call; `filter` points at `len` initialised
    // Instructions borrowed for it, whose layout is asserted above to be sock_filter's, so the cast from a shared
    // slice is never written through. The call changes no memory of this process.
    check(unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const prog) })
}

/// A call that waits for an answer, as the kernel copied it from the caller's registers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asked {
    id: u64,
    pub number: u32,
    pub args: [u64; 6],
}

/// `struct seccomp_notif`, with room behind it for what later kernels may add.
#[repr(C)]
struct Notification {
    id: u64,
    pid: u32,
    flags: u32,
    number: i32,
    architecture: u32,
    instruction_pointer: u64,
    args: [u64; 6],
    later: [u64; 22],
}

/// `struct seccomp_notif_resp`.
#[repr(C)]
struct Response {
    id: u64,
    value: i64,
    error: i32,
    flags: u32,
}

// Numbers of linux/seccomp.h: _IOWR('!', 0, 80 bytes) and _IOWR('!', 1, 24 bytes).
const NOTIF_RECV: libc::c_ulong = 0xc050_2100;
const NOTIF_SEND: libc::c_ulong = 0xc018_2101;

/// The next call that waits. `None`: whoever made it is gone.
///
/// Waits where none is there, so the listener must have been seen to be readable.
pub fn asked(listener: BorrowedFd<'_>) -> io::Result<Option<Asked>> {
    // The kernel wants it zeroed.
    let mut n = Notification {
        id: 0,
        pid: 0,
        flags: 0,
        number: 0,
        architecture: 0,
        instruction_pointer: 0,
        args: [0; 6],
        later: [0; 22],
    };
    // SAFETY: the kernel writes one seccomp_notif, which begins as `n` and is no longer; `n` outlives the call.
    match check(unsafe { libc::ioctl(listener.as_raw_fd(), NOTIF_RECV, &raw mut n) }.into()) {
        Ok(_) => Ok(Some(Asked { id: n.id, number: n.number as u32, args: n.args })),
        Err(e) if matches!(e.raw_os_error(), Some(libc::ENOENT | libc::EINTR)) => Ok(None),
        Err(e) => Err(e),
    }
}

/// The call is not made and fails with `errno`. False: whoever made it is gone.
pub fn answer(listener: BorrowedFd<'_>, asked: &Asked, errno: u16) -> io::Result<bool> {
    let response = Response { id: asked.id, value: 0, error: -i32::from(errno), flags: 0 };
    loop {
        // SAFETY: the kernel reads one seccomp_notif_resp, which outlives the call.
        match check(unsafe { libc::ioctl(listener.as_raw_fd(), NOTIF_SEND, &raw const response) }.into()) {
            Ok(_) => return Ok(true),
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => return Ok(false),
            Err(e) if e.raw_os_error() == Some(libc::EINTR) => {}
            Err(e) => return Err(e),
        }
    }
}

/// Whether filters may answer `action` (SECCOMP_RET_*). EOPNOTSUPP: this kernel does not know it.
pub fn action_available(action: u32) -> io::Result<()> {
    // SAFETY: SECCOMP_GET_ACTION_AVAIL reads the one 32-bit number that is pointed at, which outlives the call.
    let result = unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_GET_ACTION_AVAIL, 0, &raw const action) };
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const _: () = {
        assert!(offset_of!(Notification, later) == size_of::<libc::seccomp_notif>());
        assert!(offset_of!(Notification, number) == offset_of!(libc::seccomp_notif, data));
        assert!(size_of::<Response>() == size_of::<libc::seccomp_notif_resp>());
        assert!(offset_of!(Response, error) == offset_of!(libc::seccomp_notif_resp, error));
    };

    #[test]
    fn a_program_too_long_for_the_kernel_is_refused_not_cut_off() {
        // 65,537 instructions cut to 16 bits would be a valid program of one.
        let program = vec![Instruction { code: 0x06, jt: 0, jf: 0, k: 0x7fff_0000 }; 65_537];
        assert_eq!(install(&program).unwrap_err().raw_os_error(), Some(libc::EINVAL));
        assert_eq!(install(&[]).unwrap_err().raw_os_error(), Some(libc::EINVAL));
    }
}
